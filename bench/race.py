"""Who is first at liblinear's held-out log loss, on the rows of bench/linear.py: seconds of `fit`, float32.

liblinear is scikit-learn's; its C, Snap ML's regularizer and our rates are chosen on a validation split. Passes grow until a
side is at liblinear's loss, to a thousandth, or no more are tried. Vowpal Wabbit reads its cache, at its defaults (adaptive),
which is how its users have it. Sides whose package is missing are left out (``pip install snapml vowpalwabbit``).
``python bench/race.py [--quick] [--rounds N]``
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, duration, machine, table
from linear import L2, features, labels
from sklearn.linear_model import LogisticRegression
from text import BITS, log_loss, vowpal, vowpalwabbit, write

from fastopt.models import LinearClassifier

try:
    import snapml
except ImportError:
    snapml = None

PASSES = (1, 2, 3, 5, 10)
SAME = 1.001  # a loss no more than this above liblinear's, relatively, counts as the same


def ours(optimizer: str, **options: Any) -> Callable[[Any, int], Any]:
    return lambda rate, passes: LinearClassifier(
        optimizer=optimizer, lr=rate, epochs=passes, l2=L2, random_state=0, **options
    )


class Falling:
    """SGD whose rate falls in a straight line from pass to pass, for schedules go without a penalty."""

    def __init__(self, rate: float, passes: int, **options: Any) -> None:
        self.rates, self.options = np.linspace(rate, rate / passes, passes), options

    def fit(self, X: Any, y: Any) -> Any:
        model = LinearClassifier(optimizer="sgd", l2=2e-5, **self.options)
        for k, rate in enumerate(self.rates.tolist()):
            model.set_params(lr=rate, random_state=k).partial_fit(X, y, classes=[-1, 1])
        return model


#: Name; model of a setting and passes; settings to choose from; passes that are tried.
SIDES: dict[str, tuple[Callable[[float, int], Any], tuple[float, ...], tuple[int, ...]]] = {
    "liblinear": (
        lambda c, _: LogisticRegression(solver="liblinear", C=c, tol=1e-2),
        (0.03, 0.1, 0.3, 1.0),
        (0,),
    ),
    "fastopt, Adagrad": (ours("adagrad"), (0.03, 0.05, 0.1, 0.2), PASSES),
    "fastopt, Adagrad, 2 threads": (ours("adagrad", mode="hogwild", n_jobs=2), (0.03, 0.05, 0.1, 0.2), PASSES),
    "fastopt, SGD": (ours("sgd"), (0.005, 0.01, 0.02, 0.04), PASSES),
    "fastopt, SGD, rate auto": (lambda _, passes: ours("sgd")("auto", passes), (0.0,), PASSES),
    "fastopt, SGD, falling rate": (Falling, (0.01, 0.02), (10, 15, 20, 30)),
    "fastopt, SGD, falling rate, 2 threads": (
        lambda rate, passes: Falling(rate, passes, mode="hogwild", n_jobs=2),
        (0.01, 0.02),
        (10, 15, 20, 30),
    ),
    "fastopt, FTRL, by its l2": (
        lambda l2, passes: LinearClassifier(optimizer="ftrl", lr=0.1, l2=l2, epochs=passes, random_state=0),
        (3.0, 10.0, 30.0),
        PASSES,
    ),
}
if snapml:
    for threads in (1, 2):
        SIDES[f"Snap ML, {threads} thread{'s' * (threads > 1)}"] = (
            lambda weight, passes, n=threads: snapml.LogisticRegression(
                regularizer=weight, max_iter=passes, n_jobs=n, tol=1e-9, fit_intercept=True
            ),
            (3.0, 10.0, 30.0, 100.0, 300.0),
            PASSES,
        )


def loss_on(X: Any, y: Any, model: Any) -> float:
    if hasattr(model, "decision_function"):
        return log_loss(model.decision_function(X), y)
    p = model.predict_proba(X)[np.arange(len(y)), (y + 1) // 2]
    return float(-np.log(np.maximum(p, 1e-12)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows and rounds: shows that it runs, no more")
    parser.add_argument("--rounds", type=int, help="default 5; 2 with --quick")
    args = parser.parse_args()
    rows = 5_000 if args.quick else 200_000
    rng = np.random.default_rng(0)
    X = features(rng, rows + rows // 4, 1 << BITS, mean=37)
    y = 2 * labels(rng, X) - 1
    A, b, X, y = X[:rows], y[:rows], X[rows:], y[rows:]
    part = rows * 9 // 10

    facts = machine("numpy", "scikit-learn", "snapml", "vowpalwabbit")
    facts["data"] = f"{rows:,} rows, {A.nnz:,} non-zeros, {1 << BITS:,} features"
    print(describe(facts), "\n")
    chosen = {}
    for side, (make, settings, passes) in SIDES.items():
        models = (make(s, (5 if passes[-1] <= 10 else 20)).fit(A[:part], b[:part]) for s in settings)
        tried = [loss_on(A[part:], b[part:], model) for model in models]
        chosen[side] = settings[int(np.argmin(tried))]
    target = SAME * loss_on(X, y, SIDES["liblinear"][0](chosen["liblinear"], 0).fit(A, b))
    made: dict[str, list[tuple[int, float]]] = {}  # of each side: passes and losses, up to the target
    runs: dict[str, Callable[[], Any]] = {}
    for side, (make, _, passes) in SIDES.items():
        made[side] = []
        for n in passes:
            made[side].append((n, loss_on(X, y, make(chosen[side], n).fit(A, b))))
            if made[side][-1][1] <= target:
                break
        best = min(made[side], key=lambda m: m[1])
        runs[side] = lambda make=make, s=chosen[side], n=best[0]: make(s, n).fit(A, b)
        made[side] = [best]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if vowpalwabbit:
            write(folder, "train", A, (b + 1) // 2)
            write(folder, "held", X, (y + 1) // 2)
            cached = f"--cache_file {folder / 'train.vwcache'}"
            vowpal(folder / "train.vw", cached)
            found = []
            for n in PASSES:
                more = f"{cached} --passes {n} --holdout_off" if n > 1 else cached
                vowpal(folder / "train.vw", f"{more} -f {folder / 'model'}")
                vowpal(folder / "held.vw", f"-t -i {folder / 'model'} -p {folder / 'scores'}")
                found.append((n, log_loss(np.loadtxt(folder / "scores"), y)))
                if found[-1][1] <= target:
                    break
            best = min(found, key=lambda m: m[1])
            for side, n in (("Vowpal Wabbit, its default pass", 1), ("Vowpal Wabbit, its best", best[0])):
                more = f"{cached} --passes {n} --holdout_off" if n > 1 else cached
                runs[side] = lambda more=more: vowpal(folder / "train.vw", more)
                made[side], chosen[side] = [m for m in found if m[0] == n], 0.5
        seconds: dict[str, list[float]] = {side: [] for side in runs}
        for _ in range(args.rounds or (2 if args.quick else 5)):
            for side, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[side].append(time.perf_counter() - start)
    lines = []
    for side, times in seconds.items():
        passes, loss = made[side][0]
        ratio = statistics.median(p / t for p, t in zip(seconds["liblinear"], times, strict=True))
        lines.append(
            [
                side,
                f"{chosen[side]:g}",
                str(passes or "all"),
                f"{loss:.4f}",
                "yes" if loss <= target else "no",
                duration(statistics.median(times)),
                f"{duration(min(times))} to {duration(max(times))}",
                f"{ratio:.2f}",
            ]
        )
    print(
        table(
            ["", "setting", "passes", "held-out loss", "at liblinear's", "median", "range", "liblinear's time by this"],
            lines,
        )
    )


if __name__ == "__main__":
    main()
