"""NormalizedAdaptive: kernel beside reference, numbers of Vowpal Wabbit, what the papers promise, arguments, state.

The numbers under VOWPAL_WABBIT were printed by the package vowpalwabbit 9.11.9: `python tests/oracles/test_vowpalwabbit.py`
trains it on `few()` and prints them; `make oracles` compares with the package itself.
"""

from __future__ import annotations

import copy
import math
import pickle
import threading

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits

import fastopt
from fastopt import NormalizedAdaptive, kernels
from fastopt.csr import checked_csr, csr_rows
from fastopt.optimizers.normalized import ahead_log_loss, ahead_squared_error

scipy_sparse = pytest.importorskip("scipy.sparse")
LOSSES = ["squared_error", "log_loss"]
BACKENDS = ["native", "numpy"] if kernels.isa else ["numpy"]

#: (loss, passes): predictions of the last pass; weights, sums of squared gradients, scales; the intercept's last
VOWPAL_WABBIT = {
    ("squared_error", 1): [
        [0.0, 0.2534656, 0.5236068, -0.1612076, 0.8473485, 1.529256, 0.552881, -0.0628109],
        [35.48981, -0.09242417, 0.0005863481, 0.07827321],
        [0.03982366, 74.43266, 53169760.0, 124.2219],
        [0.03, 2.0, 2000.0, 1.0],
    ],
    ("squared_error", 10): [
        [0.4539729, 1.66144, -0.6684554, -1.309489, 2.43966, 3.0, 1.267694, -1.679373],
        [75.72942, 0.3423197, 0.001533209, 0.1478139],
        [0.07558502, 166.2833, 131965600.0, 300.9145],
        [0.03, 2.0, 2000.0, 1.0],
    ],
    ("log_loss", 1): [
        [0.0, 0.2985966, 0.6021768, -0.2862242, 0.9475786, 1.296144, 0.392823, -0.243147],
        [35.78693, -0.03905221, 0.0005542239, -0.0405165],
        [0.0006473252, 3.989592, 702065.2, 2.540507],
        [0.03, 2.0, 2000.0, 1.0],
    ],
    ("log_loss", 10): [
        [-0.0464795, 1.943562, -2.102215, -1.576402, 3.734449, 3.307785, 1.082079, -2.272604],
        [111.3902, -0.03088521, 0.001687499, 0.02051238],
        [0.001309385, 10.29799, 1952761.0, 8.703399],
        [0.03, 2.0, 2000.0, 1.0],
    ],
}


def few(loss: str):
    """Eight samples of three features with scales 0.01, 1 and 1000; labels; importance weights."""
    X = np.array([[0, 1, 0], [0.01, 0, 500], [-0.02, 2, 0], [0, 0, -1000], [0.03, -1, 250], [0, 0.5, 2000], [0.01, 1, 0],
                  [-0.01, 0, -750]], np.float32)  # fmt: skip
    y = np.array([1, 2, -0.5, -1.5, 2.5, 3, 1.5, -2])
    return X, y if loss == "squared_error" else np.sign(y), np.array([1, 0.5, 2, 1, 3, 0.25, 1, 4])


def problem(rng: np.random.Generator, loss: str, dtype: type, n: int = 60, n_features: int = 40):
    """Sparse samples of features whose scales go from 1e-4 to 1e5."""
    dense = rng.standard_normal((n, n_features)) * (rng.random((n, n_features)) < 0.3)
    X = (dense * 10.0 ** rng.integers(-4, 6, n_features)).astype(dtype)
    z = dense @ rng.standard_normal(n_features) + 0.1 * rng.standard_normal(n)
    return X, z if loss == "squared_error" else np.sign(z), rng.exponential(size=n)


def learner(X, loss: str, **options) -> NormalizedAdaptive:
    return NormalizedAdaptive(np.zeros(X.shape[1] + options.get("fit_intercept", True), X.dtype), loss=loss, **options)


def weights(opt: NormalizedAdaptive) -> np.ndarray:
    return opt.__getstate__()["w"]


def everything(opt: NormalizedAdaptive) -> list[np.ndarray]:
    state = opt.state_dict()["state"][0]
    numbers = [state["step"], state["total_weight"], state["total_norm"], *state["label_range"]]
    return [weights(opt).copy(), state["adaptive"], state["normalized"], np.array(numbers, float)]


# ---------------------------------------------------------------------------------------------------------------- bits


@needs_native
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_kernel_has_the_bits_of_the_reference(loss, dtype, fit_intercept, use_build, rng):
    X, y, h = problem(rng, loss, dtype)
    X = np.hstack([X, np.zeros((len(X), 1200), dtype)])  # one row is of more than one block
    X[7] = rng.standard_normal(X.shape[1])
    X[11] = 0
    X[12, :4] = [1e-22, 1e-30, -1e16, 1e-19]
    h[20] = 0
    want = learner(X, loss, backend="numpy", fit_intercept=fit_intercept)
    wanted = [want.learn(X, y, h), want.learn(X, y), want.predict(X)]
    for isa in kernels.runnable():
        use_build(isa)
        got = learner(X, loss, backend="native", fit_intercept=fit_intercept)
        for a, b in zip([got.learn(X, y, h), got.learn(X, y), got.predict(X)], wanted, strict=True):
            assert_bits(a, b, f"{isa}, predictions")
        for a, b in zip(everything(got), everything(want), strict=True):
            assert_bits(a, b, isa)


@needs_native
@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_steps_have_the_bits_of_the_reference(loss, use_build, rng):
    """Weights of samples from 1e-30 to 1e30, and rates from 0 to 1e30: every branch of the solutions."""
    X, y, _ = problem(rng, loss, np.float64, 200, 6)
    h = 10.0 ** rng.uniform(-30, 30, 200)
    for lr in (0.0, 1e-8, 1.0, 1e30):
        want = learner(X, loss, backend="numpy", lr=lr)
        wanted = want.learn(X, y, h)
        for isa in kernels.runnable():
            use_build(isa)
            got = learner(X, loss, backend="native", lr=lr)
            assert_bits(got.learn(X, y, h), wanted)
            for a, b in zip(everything(got), everything(want), strict=True):
                assert_bits(a, b, isa)
        assert np.isfinite(weights(want)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_forms_of_the_samples_do_not_matter(backend, rng):
    """Dense or CSR, in one call or many, unsorted and repeated entries, integers; and learning begins by predicting."""
    X, y, h = problem(rng, "squared_error", np.float64, n_features=7)
    want = learner(X, "squared_error", backend=backend)
    predictions = want.learn(X, y, h)
    csr = scipy_sparse.csr_array(X)
    double = scipy_sparse.csr_array(
        (np.repeat(csr.data / 2, 2), np.repeat(csr.indices.astype(np.int64), 2), csr.indptr * 2), shape=X.shape
    )
    for form in (csr, scipy_sparse.csr_matrix(X), double, np.asfortranarray(X)):
        got = learner(X, "squared_error", backend=backend)
        assert_bits(got.learn(form, list(y), h), predictions)
        for a, b in zip(everything(got), everything(want), strict=True):
            assert_bits(a, b)
    got = learner(X, "squared_error", backend=backend)
    for k in range(len(X)):
        low, high = got.state_dict()["state"][0]["label_range"]
        before = got.predict(X[k : k + 1])
        now = got.learn(X[k : k + 1], y[k : k + 1], h[k : k + 1])
        assert_bits(now, predictions[k : k + 1])
        if low < before < high:
            assert_bits(now, before)
    assert_bits(got.predict(csr), want.predict(X))
    assert len(got.learn(X[:0], [])) == 0
    whole = NormalizedAdaptive(np.zeros(8), backend=backend)
    whole.learn(np.arange(14).reshape(2, 7), [1, 2])
    assert (weights(whole)[1:] != 0).all()


# ------------------------------------------------------------------------------------------------- outside comparisons


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss, passes", VOWPAL_WABBIT)
def test_numbers_of_vowpal_wabbit(loss, passes, dtype, backend):
    predictions, w, adaptive, normalized = map(np.array, VOWPAL_WABBIT[loss, passes])
    X, y, h = few(loss)
    opt = learner(X.astype(dtype), loss, backend=backend)
    for _ in range(passes):
        mine = opt.learn(X, y, h)
    got = everything(opt)
    loose = 3e-4 if loss == "log_loss" else 5e-6  # Vowpal Wabbit's function W has errors of 9e-5
    np.testing.assert_allclose(mine, predictions, rtol=0, atol=loose)
    np.testing.assert_allclose(got[0] * normalized, w * normalized, rtol=0, atol=loose)
    np.testing.assert_allclose(got[1] * (4 if loss == "squared_error" else 1), adaptive, rtol=2 * loose)
    np.testing.assert_allclose(got[2], normalized, rtol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_is_the_limit_of_many_small_ones(loss, rng):
    """Karampatziakis and Langford: importance weight h is the flow of the gradient for the time h."""
    ahead = {"squared_error": ahead_squared_error, "log_loss": ahead_log_loss}[loss]
    for _ in range(300):
        y = float(rng.choice([-1, 1]) if loss == "log_loss" else rng.normal())
        z, c = float(rng.normal(0, 8)), float(10.0 ** rng.uniform(-12, 3))
        half = z + ahead(z, y, c / 2)
        np.testing.assert_allclose(half - z + ahead(half, y, c / 2), ahead(z, y, c), rtol=1e-8, atol=1e-14)
        slope = y - z if loss == "squared_error" else y / (1 + math.exp(y * z))
        np.testing.assert_allclose(ahead(z, y, 1e-9) / 1e-9, slope, rtol=1e-8)
    for c in (0.0, 1e-300, 1e300, math.inf):
        assert 0 <= ahead(0.5, 1.0, c) < 700
    if loss == "log_loss":  # the implicit equation
        for z in np.linspace(-50, 50, 41):
            for c in 10.0 ** np.arange(-4, 8):
                m = z + ahead(float(z), 1.0, float(c))
                np.testing.assert_allclose(m + math.exp(m), z + math.exp(z) + c, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_step_in_closed_form(backend):
    """One feature, no intercept, no past: a = h y^2 x^2, s = |x|, t = N, so p = 1 / (|y| sqrt h)."""
    for x, y, h, lr in [(3.0, 2.0, 1.0, 0.5), (1e-3, -5.0, 7.0, 2.0), (1e6, 0.1, 0.01, 0.1)]:
        w = np.zeros(1)
        opt = NormalizedAdaptive(w, lr, fit_intercept=False, backend=backend)
        assert opt.learn(np.array([[x]]), [y], [h])[0] == 0
        np.testing.assert_allclose(w[0] * x, y * (1 - math.exp(-lr * math.sqrt(h) / abs(y))), rtol=1e-12)
        assert abs(opt.predict(np.array([[x]]))[0]) < abs(y)


@pytest.mark.parametrize("weight", [1e-3, 1.0, 1e4, 1e9])
def test_no_sample_passes_its_label_however_heavy(weight, rng):
    """Where scales are known and nothing is clipped, the prediction ends between where it was and the label."""
    X, y, h = problem(rng, "squared_error", np.float64)
    opt, moved = learner(X, "squared_error"), []
    opt.learn(X, y)
    for k in range(len(X)):
        z = opt.learn(X[k : k + 1], y[k : k + 1], h[k : k + 1] * weight)[0]
        raw = float(X[k] @ weights(opt)[:-1] + weights(opt)[-1])
        if abs(z - y[k]) > 0 and z not in opt.state_dict()["state"][0]["label_range"]:
            moved.append((raw - z) / (y[k] - z))
    assert len(moved) > 30 and min(moved) > 0 and max(moved) <= 1 + 1e-9
    assert min(moved) > 0.9 if weight == 1e9 else max(moved) < 0.9 if weight == 1e-3 else True


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_scale_of_a_feature_does_not_matter(loss, dtype, rng):
    X, y, h = problem(rng, loss, dtype)
    plain, scaled, exactly = (learner(X, loss) for _ in range(3))
    p = [plain.learn(X, y, h) for _ in range(3)]
    big = X * np.where(np.arange(X.shape[1]) == 3, 1000, 1).astype(dtype)
    q = [scaled.learn(big, y, h) for _ in range(3)]
    assert abs(weights(plain)[3]) > 0
    np.testing.assert_allclose(q, p, rtol=0, atol=(2e-4 if dtype == np.float32 else 1e-11) * np.abs(p).max())
    np.testing.assert_allclose(
        weights(scaled)[3] * 1000, weights(plain)[3], rtol=1e-3 if dtype == np.float32 else 1e-10
    )
    twofold = X * (2.0 ** rng.integers(-9, 9, X.shape[1])).astype(dtype)  # powers of two change no rounding
    assert_bits(np.array([exactly.learn(twofold, y, h) for _ in range(3)]), np.array(p))


def test_samples_without_weight_or_gradient_change_nothing_but_the_range():
    X = np.eye(3)
    opt = learner(X, "squared_error")
    opt.learn(X, [1, 2, 0])
    before = everything(opt)
    opt.learn(X, [-7, 9, 1], np.zeros(3))
    opt.learn(X[:1], opt.predict(X[:1]))
    after = everything(opt)
    for a, b in zip(before[:3], after[:3], strict=True):
        assert_bits(a, b)
    assert before[3].tolist() == [3, *before[3][1:3], 0, 2] and after[3].tolist() == [7, *before[3][1:3], -7, 9]


def test_it_learns_without_tuning(rng):
    """Badly scaled features, one pass, default rate: below Adagrad at any of many rates."""
    X, y, _ = problem(rng, "squared_error", np.float64, 3000, 20)
    mine = np.mean((learner(X, "squared_error").learn(X, y)[2000:] - y[2000:]) ** 2)
    others = []
    for lr in 10.0 ** np.arange(-6, 3):
        w, errors = np.zeros(20), []
        opt = fastopt.Adagrad(w, lr=lr)
        for row, label in zip(X, y, strict=True):
            errors.append((row @ w - label) ** 2)
            opt.step(2 * (row @ w - label) * row)
        others.append(np.mean(errors[2000:]))
    assert mine < 0.1 * np.var(y) and mine < 0.5 * min(others), (mine, others)


# --------------------------------------------------------------------------------------------------------- bad input


def test_bad_options_are_named():
    w = np.zeros(3)
    for change, error in [
        ({"lr": -1.0}, fastopt.HyperParameterError),
        ({"lr": np.nan}, fastopt.HyperParameterError),
        ({"loss": "hinge"}, fastopt.HyperParameterError),
        ({"loss": []}, fastopt.HyperParameterError),
        ({"fit_intercept": 1}, fastopt.HyperParameterError),
        ({"backend": "gpu"}, fastopt.HyperParameterError),
        ({"learning_rate": 1.0}, fastopt.UnsupportedError),
    ]:
        with pytest.raises(error, match=next(iter(change))):
            NormalizedAdaptive(w, **change)
    for bad in (np.zeros((2, 2)), np.zeros(()), np.zeros(0), np.zeros(3, int), [0.0], np.zeros(6)[::2]):
        with pytest.raises(fastopt.FastoptError, match="w"):
            NormalizedAdaptive(bad)
    opt = NormalizedAdaptive(w)
    with pytest.raises(fastopt.HyperParameterError, match="lr"):
        opt.lr = -1
    opt.lr = 2
    assert opt.lr == 2.0 and "lr=2.0" in repr(opt)
    assert len(NormalizedAdaptive(np.zeros(0), fit_intercept=False).learn(np.zeros((2, 0)), [1, 2])) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_refused_has_changed_nothing(backend, rng):
    X, y, h = problem(rng, "squared_error", np.float32, 20, 6)
    X += X == 0
    w = np.zeros(7, np.float32)
    opt = NormalizedAdaptive(w, backend=backend)
    opt.learn(X, y, h)
    before = everything(opt)

    def changed(a, at, value):
        a = np.array(a)
        a.flat[at] = value
        return a

    def csr(**parts):
        m = scipy_sparse.csr_matrix(X)
        for name, a in parts.items():
            setattr(m, name, a)
        return m

    good = csr()
    refused = [
        (changed(X, 5, np.nan), y, h),
        (changed(X, 5, np.inf), y, h),
        (changed(X.astype(float), 5, 1e39), y, h),
        (changed(X, 5, 1e20), y, h),
        (X[:, :5], y, h),
        (X[0], y[:1], h[:1]),
        (X.tolist(), y, h),
        (X.astype(complex), y, h),
        (X.astype(object), y, h),
        (np.ma.masked_array(X), y, h),
        (good.tocsc(), y, h),
        (good.tocoo(), y, h),
        (csr(indptr=changed(good.indptr, 3, 10**6)), y, h),
        (csr(indptr=changed(good.indptr, 0, 1)), y, h),
        (csr(indptr=changed(good.indptr, 4, 0)), y, h),
        (csr(indptr=changed(good.indptr, -1, 121)), y, h),
        (csr(indptr=good.indptr[:-1]), y, h),
        (csr(indptr=good.indptr.astype(float)), y, h),
        (csr(indptr=changed(good.indptr.astype(np.int64), slice(1, 5), [2**62, -(2**63), -(2**62), 0])), y, h),
        (csr(indices=changed(good.indices, 7, 6)), y, h),
        (csr(indices=changed(good.indices, 7, -1)), y, h),
        (csr(indices=changed(good.indices.astype(np.int64), 7, 2**32)), y, h),
        (csr(indices=changed(good.indices.astype(float), 7, np.nan)), y, h),
        (csr(data=changed(good.data, 7, np.nan)), y, h),
        (csr(data=good.data[:-1]), y, h),
        (csr(data=good.data.reshape(-1, 1)), y, h),
        (X, changed(y, 3, np.nan), h),
        (X, changed(y, 3, 1e30), h),
        (X, y[:-1], h),
        (X, y.reshape(-1, 1), h),
        (X, y.astype(str), h),
        (X, y, changed(h, 3, -1.0)),
        (X, y, changed(h, 3, np.inf)),
        (X, y, h[:-1]),
        (X, y, 2.0),
    ]
    for k, (x, label, weight) in enumerate(refused):
        with pytest.raises(fastopt.FastoptError):
            opt.learn(x, label, weight)
        for a, b in zip(everything(opt), before, strict=True):
            assert_bits(a, b, str(k))
        if label is y and weight is h and k != 3:
            with pytest.raises(fastopt.FastoptError):
                opt.predict(x)
    with pytest.raises(fastopt.StateError, match="2 \\* y - 1"):
        NormalizedAdaptive(w, loss="log_loss").learn(X, np.sign(y) > 0)
    w.flags.writeable = False
    with pytest.raises(fastopt.ReadOnlyError):
        opt.learn(X, y)
    w.flags.writeable = True
    w.shape = (7, 1)
    with pytest.raises(fastopt.LayoutError):
        opt.learn(X, y)


def test_samples_may_be_the_weights_themselves():
    w = np.array([1.0, 2.0, 3.0])
    a, b = NormalizedAdaptive(w, fit_intercept=False), NormalizedAdaptive(w.copy(), fit_intercept=False)
    X = w.reshape(1, 3)
    twice = scipy_sparse.csr_matrix((w, [0, 1, 2], [0, 3]), shape=(1, 3), copy=False)
    b.learn(X.copy(), [1.0])
    a.learn(twice, [1.0])
    assert_bits(weights(a), weights(b))
    b.learn(w.reshape(3, 1) * np.eye(3), w.copy())
    a.learn(w.reshape(3, 1) * np.eye(3), w)
    assert_bits(weights(a), weights(b))


@pytest.mark.parametrize("of", ["indices", "indptr"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_places_may_share_memory_with_the_weights(backend, of):
    """They are what is checked, not what learning makes of them: else it would write anywhere."""
    w = np.zeros(3, np.float32)
    w.view(np.int32)[:] = [0, 1, 2] if of == "indptr" else [0, 1, 0]  # subnormal weights
    apart = w.copy()
    X = scipy_sparse.csr_matrix(np.array([[1.0, 0.0], [0.0, 2.0]], np.float32))
    other = X.copy()
    setattr(X, of, w.view(np.int32)[: len(getattr(X, of))])
    want = NormalizedAdaptive(apart, backend=backend).learn(other, [1.0, 2.0])
    assert_bits(NormalizedAdaptive(w, backend=backend).learn(X, [1.0, 2.0]), want)
    assert_bits(w, apart)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_places_are_copied_before_they_are_checked(kind, rng):
    """Another thread may write to the caller's arrays at any time after the check."""
    X = scipy_sparse.random(20, 7, 0.3, "csr", rng=rng)
    X.indptr, X.indices = X.indptr.astype(kind), X.indices.astype(kind)
    for made in (checked_csr(X), csr_rows(X)):
        assert not np.shares_memory(made.indptr, X.indptr)
        assert not np.shares_memory(made.indices, X.indices)
        assert np.array_equal(made.indptr, X.indptr)
        assert np.array_equal(made.indices, X.indices)


# -------------------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("again", [lambda o: pickle.loads(pickle.dumps(o)), copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_copy_goes_on_as_the_original(loss, again, rng):
    X, y, h = problem(rng, loss, np.float64)
    opt = learner(X, loss, lr=0.3)
    opt.learn(X, y, h)
    other = again(opt)
    loaded = learner(X, loss)
    weights(loaded)[:] = weights(opt)
    loaded.load_state_dict(opt.state_dict())
    assert repr(other) == repr(opt) == repr(loaded)
    assert opt.state_dict()["step"] == len(X) and set(opt.state_dict()) == {"state", "param_groups", "step"}
    want = opt.learn(X, y)
    for o in (other, loaded):
        assert_bits(o.learn(X, y), want)
        for a, b in zip(everything(o), everything(opt), strict=True):
            assert_bits(a, b)


def test_bad_state_dicts_change_nothing(rng):
    X, y, _ = problem(rng, "log_loss", np.float64)
    opt = learner(X, "log_loss")
    opt.learn(X, y)
    before, good = everything(opt), opt.state_dict()

    def entry(**change):
        return {**good, "state": {0: {**good["state"][0], **change}}}

    short = {k: v for k, v in good["state"][0].items() if k != "total_norm"}
    for bad in (
        {},
        [],
        {**good, "param_groups": []},
        {**good, "param_groups": [{"lr": -1}]},
        {**good, "param_groups": [{"rate": 1}]},
        {**good, "param_groups": [{"loss": "hinge"}]},
        {**good, "state": {}},
        {**good, "state": {0: short}},
        entry(step=-1),
        entry(adaptive=np.zeros(3)),
        entry(normalized=before[2].astype(np.float32)),
        entry(total_weight=math.nan),
        entry(total_norm=-1.0),
        entry(label_range=(0.0, 0.0)),
        entry(label_range=3.0),
        entry(more=1),
    ):
        with pytest.raises(fastopt.FastoptError):
            opt.load_state_dict(bad)
        for a, b in zip(everything(opt), before, strict=True):
            assert_bits(a, b)
    other = NormalizedAdaptive(weights(opt))  # of the squared error, whose range has 0 in it
    with pytest.raises(fastopt.StateError, match="label_range"):
        other.load_state_dict({**entry(label_range=(1, 2)), "param_groups": [{"loss": "squared_error"}]})


@needs_native
def test_threads_keep_apart(rng):
    """A second call meanwhile is refused, and none is lost otherwise."""
    X = scipy_sparse.csr_matrix(rng.standard_normal((20000, 50)))
    y = rng.standard_normal(20000)
    opt, refused, done = NormalizedAdaptive(np.zeros(51)), [], []

    def work():
        for _ in range(20):
            try:
                done.append(len(opt.learn(X, y)))
            except fastopt.ConcurrentStepError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opt.state_dict()["step"] == sum(done) and len(done) + len(refused) == 60 and done
