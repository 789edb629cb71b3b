"""The linear models: bits of the samples driver, equality with independent implementations, and manners."""

from __future__ import annotations

import decimal
import json
import pickle
import warnings

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, native_builds
from sklearn.base import is_regressor
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastopt
from fastopt import csr, kernels, scores
from fastopt.models import FMClassifier, FMRegressor, LinearClassifier, LinearRegressor
from fastopt.models.estimators import CLASSIFIER_LOSSES
from fastopt.models.files import load_model, save_model
from fastopt.models.samples import SampleTrainer
from fastopt.optimizers.base import ALIASES, by_name

scipy_sparse = pytest.importorskip("scipy.sparse")
LOSSES = sorted(scores.DERIVATIVES)
#: Losses that grow faster than linearly, beside a row of many entries, need small rates.
STEEP = {"squared_hinge", "modified_huber", "squared_epsilon_insensitive", "poisson"}
NAMES = [*(k for k, cls in fastopt.Optimizer.known.items() if cls.for_samples), *ALIASES]


def rows(rng: np.random.Generator, n: int, n_features: int, dtype: type, longest: int = 40):
    """Random CSR rows with unique, unsorted indices; some are empty, one is long."""
    lengths = rng.integers(0, longest, n)
    lengths[n // 2] = n_features
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    indices = np.concatenate([rng.permutation(n_features)[:k] for k in lengths]).astype(np.int32)
    data = rng.standard_normal(indptr[-1]).astype(dtype)
    y = np.where(rng.random(n) < 0.5, -1, 1).astype(dtype)
    return indptr, indices, data, y


def trainer(
    name: str,
    dtype: type,
    backend: str,
    *,
    n_features: int = 1100,
    loss: str = "log_loss",
    lr: float = 0.05,
    l2: float = 0.0,
    fit_intercept: bool = True,
) -> SampleTrainer:
    cls, options = by_name(name)
    options = cls.fill_options({**options, "lr": lr})
    return SampleTrainer(n_features, np.dtype(dtype), cls, options, loss, 0.3, l2, fit_intercept, backend)


# ---------------------------------------------------------------------------------------------------------------- bits


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_samples_equal_the_reference(name, dtype, use_build, rng):
    """Every loss, with and without penalty, weights and intercept, rows longer than a block of the dot product among them."""
    data = rows(rng, 60, 1100, dtype)
    order = rng.permutation(60).astype(np.int32)
    weights = rng.uniform(0, 3, 60).astype(dtype)
    for loss in LOSSES:
        # With the large penalty the common scale is folded into the weights several times in 60 samples.
        for l2, fit_intercept in [(0.0, True), (0.01, False), (30.0, True)]:
            setting = {"loss": loss, "l2": l2, "fit_intercept": fit_intercept, "lr": 1e-4 if loss in STEEP else 0.05}
            want = trainer(name, dtype, "numpy", **setting)
            for o in (order, None):
                want.train(*data, o, weights=weights if l2 else None)
            for isa in native_builds():
                use_build(isa)
                got = trainer(name, dtype, "native", **setting)
                for o in (order, None):
                    got.train(*data, o, weights=weights if l2 else None)
                assert got.steps == want.steps == 120
                assert got.scale == want.scale
                assert_bits(got.records, want.records, f"{isa} {setting} records")
                if fit_intercept:
                    assert_bits(got.bias, want.bias, f"{isa} {setting} bias")


@needs_native
def test_scalars_that_change_are_taken_sample_by_sample(rng):
    """Adam's bias corrections: one pass in one call equals passes over single samples."""
    indptr, indices, data, y = rows(rng, 40, 60, np.float64, 10)
    whole, single = (trainer("adam", np.float64, "native", n_features=60) for _ in range(2))
    whole.train(indptr, indices, data, y, None)
    for i in range(40):
        part = slice(indptr[i], indptr[i + 1])
        single.train(indptr[i : i + 2] - indptr[i], indices[part], data[part], y[i : i + 1], None)
    assert_bits(whole.records, single.records)


def test_exp_is_within_one_ulp():
    rng = np.random.default_rng(3)
    xs = [*rng.uniform(-745, 709.7, 3000), *rng.uniform(-1, 1, 2000), 0.0, -0.0, 1e-300, 709.78, -745.1, -708.5]
    worst = 0.0
    with decimal.localcontext() as context:
        context.prec = 60
        for x in map(float, xs):
            exact = decimal.Decimal(x).exp()
            ulp = decimal.Decimal(float(np.spacing(float(exact))))
            worst = max(worst, abs(float((decimal.Decimal(scores.exp(x)) - exact) / ulp)))
    assert worst < 1.0, worst
    assert scores.exp(float("inf")) == scores.exp(710.0) == float("inf")
    assert scores.exp(float("-inf")) == scores.exp(-746.0) == 0.0
    assert np.isnan(scores.exp(float("nan")))


def test_dot_is_accurate_and_padding_adds_nothing(rng):
    for n in (0, 1, 15, 16, 17, 1023, 1024, 1025, 5000):
        a, b = rng.standard_normal((2, n)).astype(np.float32)
        exact = float(np.dot(a.astype(np.longdouble), b.astype(np.longdouble)))
        assert abs(scores.dot(a, b) - exact) <= 1e-13 * max(1, np.abs(a * b).sum())
        longer = np.append(a, np.zeros(7, np.float32))
        assert scores.dot(longer, np.append(b, np.ones(7, np.float32))) == scores.dot(a, b)


# ------------------------------------------------------------------------------------------------- outside comparisons


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"quantile", "poisson"}))  # which its SGD lacks
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_plain_sgd_equals_scikit_learn(loss, fit_intercept, rng):
    """Without penalty and shuffling both are the same algorithm."""
    X = rng.standard_normal((200, 12)) * (rng.random((200, 12)) < 0.5)
    common = {"fit_intercept": fit_intercept, "shuffle": False}
    peer = {"penalty": None, "learning_rate": "constant", "eta0": 0.03, "max_iter": 3, "tol": None, **common}
    ours = {"loss": loss, "optimizer": "sgd", "lr": 0.03, "epochs": 3, **common}
    weights = rng.uniform(0, 3, 200)
    if loss in CLASSIFIER_LOSSES:
        y = (X[:, 0] + 0.3 * rng.standard_normal(200) > 0).astype(int)
        ours, peer = ({**options, "class_weight": {0: 0.3, 1: 2.0}} for options in (ours, peer))
        a, b = LinearClassifier(**ours), SGDClassifier(loss=loss, **peer)
    else:
        y = X @ rng.standard_normal(12) + 0.1 * rng.standard_normal(200)
        a, b = LinearRegressor(**ours), SGDRegressor(loss=loss, **peer)
    for model in (a, b):
        model.fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(a.coef_, b.coef_, rtol=0, atol=1e-13)
    np.testing.assert_allclose(a.intercept_, b.intercept_, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_penalty_is_the_proximal_step_of_every_feature(name, rng):
    """Beside a dense loop that shrinks all weights after each sample; SGD and Adagrad stand still on zero gradients."""
    X = rng.standard_normal((150, 20)) * (rng.random((150, 20)) < 0.2)
    y = np.where(X[:, 0] + rng.standard_normal(150) > 0, 1.0, -1.0)
    lr, l2 = 0.1, 0.7  # strong: the scale is folded in on the way
    w, b, opts = np.zeros(20), np.zeros(1), []
    for p in (w, b):
        cls, options = by_name(name)
        opts.append(cls(p, lr=lr, **options))
    for _ in range(4):
        for x, t in zip(X, y, strict=True):
            d = -t / (1 + np.exp(t * (w @ x + b[0])))
            opts[0].step(d * x)
            opts[1].step(np.array([d]))
            w /= 1 + lr * l2
    model = LinearClassifier(optimizer=name, lr=lr, l2=l2, epochs=4, shuffle=False).fit(scipy_sparse.csr_matrix(X), y)
    np.testing.assert_allclose(model.coef_[0], w, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.intercept_, b, rtol=0, atol=1e-12)


def expected_failures(estimator) -> dict[str, str]:
    """Steps that follow each other, sample by sample, depend on the order of the samples, and repeated ones are more steps."""
    if estimator.mode != "sequential":
        return {}
    why = "holds in the mean over orders only, see test_weights_are_repetitions_in_the_mean; so with scikit-learn's SGD"
    failures = {f"check_sample_weight_equivalence_on_{kind}_data": why for kind in ("dense", "sparse")}
    if np.ndim(estimator.l2):
        names = ("fit_score_takes_y", "n_features_in_after_fitting", "estimators_partial_fit_n_features")
        failures |= {f"check_{name}": "several l2 are not for partial_fit, which says so" for name in names}
    return failures


@parametrize_with_checks(
    [
        LinearClassifier(epochs=50),
        LinearRegressor(epochs=50, lr=1.0),
        LinearClassifier(loss="hinge"),
        LinearClassifier(mode="minibatch", epochs=50, lr=1.0, l1=1e-4, n_jobs=2),
        LinearRegressor(mode="minibatch", epochs=50, lr=1.0, l2=1e-4),
        LinearClassifier(lr="auto", epochs=20),
        LinearRegressor(lr="auto", epochs=20),
        LinearClassifier(multi_class="multinomial", epochs=20),
        LinearRegressor(l2=[1e-4, 1e-2], epochs=20),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_estimator(estimator, check):
    """The checks that scikit-learn asks of every estimator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


# ---------------------------------------------------------------------------------------------------------------- fits


def problem(rng: np.random.Generator, n: int = 3000, n_features: int = 500, dtype: type = np.float32):
    X = scipy_sparse.random_array((n, n_features), density=0.02, format="csr", dtype=dtype, rng=rng)
    w = rng.standard_normal(n_features) * 3
    y = rng.random(n) < 1 / (1 + np.exp(-(X @ w)))
    return X, np.where(y, "yes", "no")


#: rates for those that do not learn at 0.5
LEARNING_RATES = {"adadelta": 3.0, "adam": 0.01, "adamw": 0.01, "rmsprop": 0.01, "momentum": 0.05, "nag": 0.05}
LEARNING_RATES |= {"lion": 0.002, "signum": 0.002}


@pytest.mark.parametrize("name", sorted({*NAMES} - {"rprop", "signsgd"}))  # these need batches
def test_every_optimizer_learns(name, rng):
    X, y = problem(rng)
    lr = LEARNING_RATES.get(name, 0.5)
    model = LinearClassifier(optimizer=name, lr=lr, epochs=10, random_state=1).fit(X, y)
    assert model.coef_.dtype == np.float32
    assert model.t_ == 30000
    assert log_loss(y, model.predict_proba(X)) < 0.5 < 0.69


def test_same_seed_same_bits_and_other_seed_other_bits(rng):
    X, y = problem(rng)
    a, b, c = (LinearClassifier(random_state=s).fit(X, y).coef_ for s in (1, 1, 2))
    assert_bits(a, b)
    assert (a != c).any()


def test_hogwild_learns_as_well_and_only_hogwild_uses_threads(rng):
    X, y = problem(rng, 12000)
    X, y, X_held, y_held = X[:10000], y[:10000], X[10000:], y[10000:]
    sequential = LinearClassifier(epochs=4, lr=0.2, random_state=0, n_jobs=2, l2=1e-5).fit(X, y)
    assert_bits(sequential.coef_, LinearClassifier(epochs=4, lr=0.2, random_state=0, l2=1e-5).fit(X, y).coef_)
    wild = LinearClassifier(epochs=4, lr=0.2, random_state=0, mode="hogwild", n_jobs=2, l2=1e-5).fit(X, y)
    losses = [log_loss(y_held, m.predict_proba(X_held)) for m in (sequential, wild)]
    assert abs(losses[1] - losses[0]) < 0.05 * losses[0], losses
    one = LinearClassifier(epochs=2, random_state=0, mode="hogwild", n_jobs=1).fit(X, y)
    assert_bits(one.coef_, LinearClassifier(epochs=2, random_state=0).fit(X, y).coef_)


@pytest.mark.parametrize("n_jobs", [2, 64])
def test_hogwild_with_more_threads_than_rows_and_a_strong_penalty(n_jobs, rng):
    """Where rows share no feature and there is no intercept, threads cannot disturb each other."""
    X, y = np.eye(5), np.array([0, 1, 0, 1, 1])
    setting = {"optimizer": "sgd", "lr": 0.5, "fit_intercept": False, "shuffle": False}
    want = LinearClassifier(**setting, epochs=30, l2=0.5).fit(X, y)
    wild = LinearClassifier(**setting, epochs=30, l2=0.5, mode="hogwild", n_jobs=n_jobs).fit(X, y)
    np.testing.assert_allclose(wild.coef_, want.coef_, rtol=1e-12)
    X = (rng.random((300, 10)) < 0.5).astype(float)
    y = X[:, 0] > 0.5
    wild = LinearClassifier(optimizer="sgd", lr=0.3, l2=1e-3, mode="hogwild", n_jobs=200, random_state=0).fit(X, y)
    assert wild.score(X, y) > 0.9


def test_adam_and_adamw_are_one_where_the_penalty_is_decoupled(rng):
    X, y = problem(rng, 300)
    a, w = (LinearClassifier(optimizer=o, lr=0.01, l2=0.1, random_state=0).fit(X, y).coef_ for o in ("adam", "adamw"))
    assert_bits(a, w)
    assert (a != LinearClassifier(optimizer="adam", lr=0.01, random_state=0).fit(X, y).coef_).any()


def test_repeated_indices_of_a_row_are_summed(rng):
    """As CSR means it; scipy's flags are not believed."""
    indptr = np.array([0, 4, 4, 7], np.int32)
    indices = np.array([3, 1, 3, 3, 0, 2, 0], np.int32)
    data = np.array([1.0, 2.0, 0.5, 0.25, 1.0, 1.0, 2.0])
    X = scipy_sparse.csr_matrix((data, indices, indptr), shape=(3, 4))
    X.has_canonical_format = True
    dense = np.array([[0, 2.0, 0, 1.75], [0, 0, 0, 0], [3.0, 0, 1.0, 0]])
    before = data.copy(), indices.copy(), indptr.copy()
    y = [0, 1, 1]
    for backend in ("native", "numpy") if kernels.isa else ("numpy",):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FASTOPT_BACKEND", backend)
            a = LinearClassifier(shuffle=False, optimizer="adam", lr=0.1).fit(X, y)
            b = LinearClassifier(shuffle=False, optimizer="adam", lr=0.1).fit(dense, y)
        np.testing.assert_allclose(a.coef_, b.coef_, rtol=0, atol=1e-15)
    for now, then in zip((X.data, X.indices, X.indptr), before, strict=True):
        assert (now == then).all()


def test_repeated_indices_of_a_few_rows_among_many_features(rng):
    """Their entries are summed without an array of all features; to the same bits."""
    few, many = 40, 1 << 16
    indptr = np.array([0, 30, 30, 90], np.int32)
    columns = rng.integers(0, few, 90).astype(np.int32)
    place = np.sort(rng.choice(many, few, replace=False)).astype(np.int32)
    data = rng.standard_normal(90).astype(np.float32)
    want = csr.csr_rows(scipy_sparse.csr_matrix((data, columns, indptr), shape=(3, few)))
    got = csr.csr_rows(scipy_sparse.csr_matrix((data, place[columns], indptr), shape=(3, many)))
    end = want.indptr[-1]
    assert end < 90
    assert (got.indptr == want.indptr).all()
    assert (got.indices[:end] == place[want.indices[:end]]).all()
    assert_bits(got.data[:end], want.data[:end])


def test_matrices_as_scipy_makes_them_are_copied_and_checked_at_once(rng):
    if kernels.drivers is None:
        pytest.skip("installed with FASTOPT_PURE=1: there is no kernel that does it")
    X = scipy_sparse.random_array((50, 80), density=0.1, format="csr", rng=rng)
    X.sort_indices()

    def changed(**arrays):
        Z = X.copy()
        for name, (place, value) in arrays.items():
            getattr(Z, name)[place] = value
        return Z

    (rows, rising), slow = csr.copied(X), csr.checked_csr(changed().astype(np.float64))
    assert rising
    for a, b in zip(rows[:3], slow[:3], strict=True):
        assert a.dtype == b.dtype and (a == b).all()
    assert not np.shares_memory(rows.indices, X.indices)
    swapped = X.copy()
    r = int(np.argmax(np.diff(X.indptr) > 1))
    at = X.indptr[r]
    swapped.indices[[at, at + 1]] = X.indices[[at + 1, at]]
    assert csr.copied(swapped)[1] is False
    for bad, error in [
        (changed(indices=(3, -1)), fastopt.IndexRangeError),
        (changed(indices=(-1, 80)), fastopt.IndexRangeError),
        (changed(indptr=(0, 1)), fastopt.LayoutError),
        (changed(indptr=(7, 9999)), fastopt.LayoutError),
        (changed(indptr=(-1, 9999)), fastopt.LayoutError),
    ]:
        assert csr.copied(bad) is None
        with pytest.raises(error):
            csr.checked_csr(bad)


def test_rows_are_inspected_alike_by_kernel_and_reference(rng):
    if kernels.drivers is None:
        pytest.skip("installed with FASTOPT_PURE=1: there is no kernel to compare")
    for _ in range(30):
        n, n_features = 20, 30
        indptr = np.concatenate([[0], np.cumsum(rng.integers(0, 9, n))])
        indices = rng.integers(0, n_features, indptr[-1]).astype(np.int32)
        data = rng.standard_normal(indptr[-1]).astype(np.float32)
        results = []
        for inspect, add in [
            (kernels.drivers.repeated_indices, kernels.drivers.sum_repeated),
            (csr.repeated_indices, csr.sum_repeated),
        ]:
            found = inspect(indptr, indices, n, n_features, np.zeros(n_features, np.int32))
            p, i, d = indptr.copy(), indices.copy(), data.copy()
            add(p, i, d, n, np.full(n_features, -1, np.int64))
            results.append((found, p, i[: p[-1]], d[: p[-1]]))
        (f, p, i, d), (g, q, j, e) = results
        assert f == g == indptr[-1] - p[-1]
        assert (p == q).all() and (i == j).all()
        assert_bits(d, e)
        matrix = scipy_sparse.csr_matrix((data, indices, indptr), shape=(n, n_features))
        np.testing.assert_allclose(
            scipy_sparse.csr_matrix((d, i, p), shape=(n, n_features)).toarray(), matrix.toarray(), atol=1e-6
        )


@pytest.mark.parametrize("settings", [{}, {"l2": 0.01}, {"l1": 0.001, "optimizer": "sgd"}, {"mode": "minibatch"}])
@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_learning_row_by_row_is_learning(settings, kind, rng):
    """With what has been checked not checked again, predictions in between, and rates that change."""
    X, y = problem(rng, 60, 400)
    X = X if kind == "csr" else X.toarray()
    settings = {"optimizer": "adam", "lr": 0.01, "shuffle": False, **settings}
    a, b = (LinearClassifier(**settings) for _ in range(2))
    if a.mode == "minibatch":
        a.set_params(batch_size=1)
    for lr, part in ((0.01, slice(0, 30)), (0.02, slice(30, 60))):
        a.set_params(lr=lr).partial_fit(X[part], y[part], classes=["no", "yes"])
        b.set_params(lr=lr)
        for k in range(part.start, part.stop):
            few = b.partial_fit(X[k : k + 1], y[k : k + 1], classes=["no", "yes"]).decision_function(X[:2])
            if k % 10 == 9:
                _ = b.coef_  # now all weights are there
                assert_bits(b.decision_function(X[:2]), few)
                if kind == "csr":
                    assert_bits(b.decision_function(X)[:2], few)
    assert_bits(a.coef_, b.coef_)
    assert_bits(a.intercept_, b.intercept_)
    assert a.t_ == b.t_ == 60
    steady = LinearClassifier(**settings).partial_fit(X[:30], y[:30], classes=["no", "yes"]).partial_fit(X[30:], y[30:])
    assert (steady.coef_ != b.coef_).any(), "the rate has changed"


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_what_is_wrong_is_said_after_calls_that_were_right(kind, rng):
    X, labels = problem(rng, 40, 400, np.float64)
    X = X if kind == "csr" else X.toarray()
    for model, y in ((LinearClassifier(), labels), (LinearRegressor(), np.arange(40.0))):
        model.fit(X, y).partial_fit(X[:1], y[:1])
        before = model.coef_.copy()

        def wrong(match, X=X, y=y, model=model, error=ValueError, **params):
            was = model.get_params()
            with pytest.raises(error, match=match):
                model.set_params(**params).partial_fit(X, y)
            model.set_params(**{k: was[k] for k in params})

        wrong("lr must be", lr=-1.0)
        wrong("epochs must be", epochs=0)
        wrong("changed since", optimizer="sgd")
        wrong("inconsistent numbers of samples", y=y[:7])
        wrong("features", X=X[:, :300])
        wrong("minimum of 1 is required", X=X[:0], y=y[:0])
        wrong("y has 2 columns|y of shape", y=np.stack([y, y], 1))
        for value, name in ((np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")):
            Z = X.copy()
            (Z.data if kind == "csr" else Z)[-1:] = value
            wrong(name, X=Z)
            with pytest.raises(ValueError, match=name):
                model.predict(Z)
        if isinstance(model, LinearRegressor):
            wrong("NaN", y=np.where(y > 30, np.nan, y))
        else:
            wrong("labels", y=np.array(["maybe"] * 40))
        with pytest.raises(ValueError, match="features"):
            model.predict(X[:, :300])
        assert_bits(model.coef_, before)


@needs_native
@pytest.mark.parametrize(
    ("model", "driver", "classes"),
    [
        (LinearClassifier(), "samples", 2),
        (LinearClassifier(l1=1e-6), "batches", 2),
        (LinearClassifier(), "abreast", 9),
        (FMClassifier(), "factors", 2),
    ],
)
def test_weights_read_while_another_thread_trains_are_not_kept(model, driver, classes, monkeypatch, rng):
    X, _ = problem(rng, 300, 50)
    y = np.arange(300) % classes
    model.fit(X, y)
    whole, seen = getattr(kernels.drivers, driver), []

    class Drivers:
        def __getattr__(self, name):
            return getattr(drivers, name)

    def read(*args):
        seen.append(model.coef_.copy())
        return whole(*args)

    drivers, slow = kernels.drivers, Drivers()
    setattr(slow, driver, read)
    monkeypatch.setattr(kernels, "drivers", slow)
    model.partial_fit(X, y)
    monkeypatch.undo()
    assert seen
    assert (model.coef_ != seen[-1]).any()
    assert_bits(pickle.loads(pickle.dumps(model)).coef_, model.coef_)
    want = np.stack([np.asarray(m.trainer.weights_of(np.arange(50))) for m in model._models])
    if driver != "factors":
        assert_bits(model.coef_, want)


def test_a_model_in_a_memory_map_predicts_and_is_not_trained(rng, tmp_path):
    joblib = pytest.importorskip("joblib")
    X, y = problem(rng, 100, 50)
    for labels in (y, np.arange(100) % 5):
        model = LinearClassifier().fit(X, labels)
        joblib.dump(model, tmp_path / "m")
        mapped = joblib.load(tmp_path / "m", mmap_mode="r")
        assert_bits(mapped.decision_function(X), model.decision_function(X))
        with pytest.raises(fastopt.ReadOnlyError, match="memory map"):
            mapped.partial_fit(X, labels)


@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_numbers_too_large_for_the_weights_are_refused(kind, rng):
    X, labels = problem(rng, 40, 60)
    Z = X.astype(np.float64)
    Z.data[3] = 1e300
    Z = Z if kind == "csr" else Z.toarray()
    y = np.arange(40.0)
    for model, targets in ((LinearClassifier(), labels), (LinearRegressor(), y)):
        before = model.fit(X, targets).coef_.copy()
        with pytest.raises(fastopt.HyperParameterError, match=r"X has numbers up to 1e.300, too large for float32"):
            model.partial_fit(Z, targets)
        assert_bits(model.coef_, before)
    with pytest.raises(fastopt.HyperParameterError, match="y has numbers"):
        model.partial_fit(X, y * 1e300)
    assert_bits(model.coef_, before)


def test_partial_fit_goes_on(rng):
    X, y = problem(rng, 400)
    a = LinearClassifier(shuffle=False, epochs=2, optimizer="adam", lr=0.01).fit(X, y)
    b = LinearClassifier(shuffle=False, optimizer="adam", lr=0.01)
    for part in (slice(0, 150), slice(150, 400)) * 2:
        b.partial_fit(X[part], y[part], classes=["no", "yes"])
    assert_bits(a.coef_, b.coef_)
    assert a.t_ == b.t_ == 800
    with pytest.raises(fastopt.StateError, match="optimizer"):
        b.set_params(optimizer="sgd").partial_fit(X, y)
    b.set_params(optimizer="adam")
    before = b.coef_.copy()
    b.set_params(lr=0.0).partial_fit(X, y)
    assert_bits(b.coef_, before)


# ----------------------------------------------------------------------------------------------------------- bad input


def broken(X, what: str):
    X = X.copy()
    if what == "index too large":
        X.indices[5] = X.shape[1]
    elif what == "index negative":
        X.indices[-1] = -1
    elif what == "long index too large":
        X.indices = X.indices.astype(np.int64)
        X.indices[7] = 2**32 + 1
    elif what == "indptr falls":
        X.indptr[2] = X.indptr[4] + 3
    elif what == "indptr beyond":
        X.indptr[-1] += 10
    elif what == "indptr leaps":  # each difference wraps around to a number that is not negative
        X.indptr = X.indptr.astype(np.int64)
        X.indptr[1:5] = [2**62, -(2**63), -(2**62), 0]
    elif what == "indptr from one":
        X.indptr[0] = 1
    elif what == "data short":
        X.data = X.data[:-5]
    return X


@pytest.mark.parametrize(
    "what",
    [
        "index too large",
        "index negative",
        "long index too large",
        "indptr falls",
        "indptr beyond",
        "indptr leaps",
        "indptr from one",
        "data short",
    ],
)
def test_hostile_csr_is_refused_and_a_fitted_model_unchanged(what, rng):
    X, y = problem(rng, 100, 50)
    model = LinearClassifier().fit(X, y)
    before = model.coef_.copy()
    bad = broken(X, what)
    for call in (lambda: LinearClassifier().fit(bad, y), lambda: model.partial_fit(bad, y)):
        with pytest.raises((fastopt.FastoptError, ValueError), match=r"indptr|index|CSR|ind|data"):
            call()
    assert_bits(model.coef_, before)
    assert model.t_ == 500
    with pytest.raises((fastopt.FastoptError, ValueError)):
        model.predict(bad)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("model", [LinearClassifier, LinearRegressor, FMClassifier, FMRegressor])
def test_a_refused_fit_leaves_a_fitted_model_as_it_was(model, warm, rng):
    """Also to other numbers of features: those of the failed fit would be beyond the weights of the present ones."""
    X, labels = problem(rng, 60, 20)
    wide, _ = problem(rng, 60, 5000)
    y = np.arange(60.0) if is_regressor(model()) else labels
    nothing = np.full(60, np.nan) if is_regressor(model()) else np.full(60, "no")
    m = model(warm_start=warm).fit(X, y)
    before = m.coef_.copy()
    for data, targets, weights in ((wide, nothing, None), (wide, y, np.zeros(60)), (wide, y, -np.ones(60))):
        with pytest.raises(ValueError, match=r"NaN|one class|weight|features"):
            m.fit(data, targets, weights)
        assert m.n_features_in_ == 20
        if not is_regressor(m):
            assert m.classes_.tolist() == ["no", "yes"]
        with pytest.raises(ValueError, match="features"):
            m.partial_fit(wide, y)
        m.n_features_in_ = 5000
        with pytest.raises(fastopt.ShapeError, match="5000 features, and training goes on with 20"):
            m.partial_fit(wide, y)
        with pytest.raises(ValueError, match=r"features|dimension|shape|index"):
            m.predict(wide)
        m.n_features_in_ = 20
        assert_bits(m.coef_, before)
    m.partial_fit(X, y)
    assert (m.coef_ != before).any()


@pytest.mark.parametrize("change", [
    {"loss": "huber"}, {"optimizer": "adam_w"}, {"lr": -1.0}, {"lr": np.nan}, {"epochs": 0}, {"epochs": 2.5}, {"l2": -1.0},
    {"fit_intercept": 1}, {"shuffle": "yes"}, {"mode": "wild"}, {"batch_size": 0}, {"n_jobs": 0},
    {"n_jobs": -2},
])  # fmt: skip
def test_bad_parameters_are_named(change, rng):
    X, y = problem(rng, 50)
    with pytest.raises(fastopt.FastoptError, match=next(iter(change))):
        LinearClassifier(**change).fit(X, y)


def test_bad_labels_and_values(rng):
    X, y = problem(rng, 50)
    with pytest.raises(ValueError, match="one class"):
        LinearClassifier().fit(X, np.zeros(50))
    with pytest.raises(fastopt.StateError, match="classes="):
        LinearClassifier().partial_fit(X, y)
    with pytest.raises(fastopt.StateError, match="labels"):
        LinearClassifier().fit(X, y).partial_fit(X, np.full(50, "maybe"))
    with pytest.raises(fastopt.NonFiniteError, match="lr"):
        LinearRegressor(optimizer="sgd", lr=1e6, epochs=30).fit(X.toarray() * 100, rng.standard_normal(50))
    with pytest.raises(AttributeError, match="predict_proba"):
        LinearClassifier(loss="hinge").fit(X, y).predict_proba(X)
    with pytest.raises(AttributeError, match="fit"):
        _ = LinearClassifier().coef_


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("regression", [False, True])
def test_saved_models_predict_the_same(regression, rng, tmp_path):
    X, y = problem(rng, 200)
    hasher = fastopt.models.ColumnHasher(500, ["a", "b"], [("a", "b")])
    model = (
        LinearRegressor(loss="huber").fit(X, X[:, [3]].toarray()[:, 0]) if regression else LinearClassifier().fit(X, y)
    )
    save_model(tmp_path / "m.npz", model, hasher)
    again, h = load_model(tmp_path / "m.npz")
    assert repr(h) == repr(hasher)
    assert again.get_params() == model.get_params()
    assert (again.predict(X) == model.predict(X)).all()
    assert_bits(again.coef_, model.coef_)
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


def test_saved_labels_are_what_they_were(rng, tmp_path):
    X, y = problem(rng, 200)
    yes = y == y[0]
    texts = np.where(yes, "no", "perhaps").astype(object)  # as pandas has them
    for labels, weights in ((yes.astype(int), {0: 2.0, 1: 0.5}), (yes * 2.0, {2.0: 3.0}), (texts, {"no": 3.0})):
        model = LinearClassifier(class_weight=weights).fit(X, labels)
        save_model(tmp_path / "m.npz", model)
        again, _ = load_model(tmp_path / "m.npz")
        assert again.class_weight == weights and again.predict(X).tolist() == model.predict(X).tolist()
        again.partial_fit(X, labels).fit(X, labels)


def test_damaged_or_foreign_files_are_refused(rng, tmp_path):
    X, y = problem(rng, 100)
    model = LinearClassifier().fit(X, y)
    good = tmp_path / "m.npz"
    save_model(good, model)
    bytes_ = good.read_bytes()
    bad = tmp_path / "bad.npz"
    for content in (b"", b"PK", bytes_[: len(bytes_) // 2], b"\x80\x04N.", bytes_[:100] + b"x" + bytes_[101:]):
        bad.write_bytes(content)
        with pytest.raises(fastopt.CheckpointError):
            load_model(bad)
    np.savez(bad, about=np.array(json.dumps({"format": "else"})))
    with pytest.raises(fastopt.CheckpointError, match="format"):
        load_model(bad)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none.npz")
    with pytest.raises(fastopt.CheckpointError, match="JSON"):
        save_model(good, LinearClassifier(random_state=np.random.RandomState(0)).fit(X, y))
    assert good.read_bytes() == bytes_  # a failed save leaves the old file
