"""Outside oracle: NormalizedAdaptive beside the package of Vowpal Wabbit, sample by sample.

Run as a script, it prints the numbers recorded in tests/test_normalized.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_normalized import LOSSES, everything, few, learner, problem

vowpalwabbit = pytest.importorskip("vowpalwabbit")

CONSTANT = 11650396  # the index of Vowpal Wabbit's intercept, before it is cut to the bits of the table
BITS = 18
#: Its root is the CPU's approximate one (rsqrtss, up to 4e-4 off), unless the power is another, where it takes powf.
EXACT = "--power_t 0.5000001"


def vowpal(X, y, h, loss: str, passes: int, more: str = EXACT, lr: float = 0.5):
    """Predictions of the last pass; weights, adaptive and normalized of all features and of the intercept."""
    loss_function = {"squared_error": "squared", "log_loss": "logistic"}[loss]
    model = vowpalwabbit.Workspace(f"--quiet -b {BITS} -l {lr} --loss_function {loss_function} {more}")
    for _ in range(passes):
        predictions = []
        for row, label, weight in zip(X, y, h, strict=True):
            features = " ".join(f"{k}:{float(row[k])!r}" for k in np.flatnonzero(row))
            example = model.example(f"{float(label)!r} {float(weight)!r} | {features}")
            model.learn(example)
            predictions.append(example.get_simplelabel_prediction())
            model.finish_example(example)
    places = [*range(X.shape[1]), CONSTANT & (2**BITS - 1)]
    states = [[model.get_weight(i, k) for i in places] for k in range(3)]
    model.finish()
    return np.array(predictions), *map(np.array, states)


@pytest.mark.parametrize("more", [EXACT, ""])
@pytest.mark.parametrize("passes", [1, 5])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_and_states_are_those_of_vowpal_wabbit(dtype, loss, passes, more, rng):
    for lr in (0.5, 0.1, 3.0):
        X, y, h = problem(rng, loss, np.float32, 50, 10)
        y, h = y.astype(np.float32), h.astype(np.float32)
        predictions, w, adaptive, normalized = vowpal(X, y, h, loss, passes, more, lr)
        opt = learner(X.astype(dtype), loss, lr=lr)
        for _ in range(passes):
            mine = opt.learn(X, y, h)
        got = everything(opt)
        loose = 1e-2 if not more else 3e-4 if loss == "log_loss" else 2e-5  # its W has errors of 9e-5
        np.testing.assert_allclose(mine, predictions, rtol=0, atol=loose * max(1, abs(predictions).max()))
        np.testing.assert_allclose(got[0] * normalized, w * normalized, rtol=0, atol=loose * abs(w * normalized).max())
        np.testing.assert_allclose(got[1] * (4 if loss == "squared_error" else 1), adaptive, rtol=3 * loose)
        np.testing.assert_allclose(got[2], normalized, rtol=1e-6)


def test_it_has_few_features_in_common_with_plain_gradient_descent(rng):
    """The comparison can fail: without any of its three parts Vowpal Wabbit is far off."""
    X, y, h = problem(rng, "squared_error", np.float32, 50, 10)
    mine = learner(X, "squared_error").learn(X, y, h)
    for parts in ("--adaptive --normalized", "--adaptive --invariant", "--normalized --invariant"):
        other = vowpal(X, y, h, "squared_error", 1, f"{EXACT} {parts}")[0]
        assert np.nanmax(abs(mine - other)) > 0.1, parts


if __name__ == "__main__":
    np.set_printoptions(precision=7)
    for loss in LOSSES:
        for passes in (1, 10):
            print((loss, passes), [[float(f"{v:.7g}") for v in a] for a in vowpal(*few(loss), loss, passes)])
