"""Factorization machines: bits of the kernels, the formulas, what they learn, and their manners."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, native_builds
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_models import expected_failures

import fastopt
from fastopt import scores
from fastopt.models import (
    FFMClassifier,
    FMClassifier,
    FMRegressor,
    LinearClassifier,
    LinearRegressor,
    feature_fields,
    lanes,
)
from fastopt.models.estimators import CLASSIFIER_LOSSES
from fastopt.models.factor_trainer import FactorTrainer
from fastopt.models.files import load_model, save_model
from fastopt.optimizers.base import ALIASES, by_name

sparse = pytest.importorskip("scipy.sparse")
NAMES = [*(k for k, cls in fastopt.Optimizer.known.items() if cls.for_samples), *ALIASES]
RANKS = (1, 4, 8, 13, 32)
FEATURES = 60


def rows(rng: np.random.Generator, n: int, dtype: type, longest: int = 15):
    """Random CSR rows with unique, unsorted indices; some are empty, one has all features."""
    lengths = rng.integers(0, longest, n)
    lengths[n // 2] = FEATURES
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    indices = np.concatenate([rng.permutation(FEATURES)[:k] for k in lengths]).astype(np.int32)
    data = rng.standard_normal(indptr[-1]).astype(dtype)
    return indptr, indices, data, np.where(rng.random(n) < 0.5, -1, 1).astype(dtype)


def trainer(
    name: str,
    dtype: type,
    backend: str,
    rank: int,
    *,
    size: int | None = None,
    n_fields: int = 1,
    loss: str = "log_loss",
    lr: float = 0.02,
    l2: float = 0.01,
    fit_intercept: bool = True,
) -> FactorTrainer:
    cls, options = by_name(name)
    options = cls.fill_options({**options, "lr": lr})
    vectors = 0.1 * np.random.default_rng(1).standard_normal((FEATURES, n_fields, rank)).astype(dtype)
    fields = None if n_fields == 1 else (np.arange(FEATURES) * 7 % n_fields).astype(np.int32)
    return FactorTrainer(size, vectors, fields, np.dtype(dtype), cls, options, loss, 0.3, l2, fit_intercept, backend)


def assert_same(got: FactorTrainer, want: FactorTrainer, what: str) -> None:
    assert got.steps == want.steps and got.scale == want.scale, what
    assert_bits(got.records, want.records, f"{what} records")
    if want.bias is not None:
        assert_bits(got.bias, want.bias, f"{what} intercept")
    assert not got.model.part(0)[:, :, got.rank :].any(), f"{what}: numbers beyond the rank moved"


# ---------------------------------------------------------------------------------------------------------------- bits


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("n_fields", [1, 4])
def test_kernels_equal_the_reference(dtype, rank, n_fields, use_build, forced, rng):
    """One after the other and in batches, the last one short; scores, too."""
    forced(3)
    data = rows(rng, 25, dtype)
    order = rng.permutation(25).astype(np.int32)
    weights = rng.uniform(0, 3, 25).astype(dtype)
    for size, name, setting in [
        (None, "sgd", {"loss": "squared_error", "lr": 1e-3}),
        (None, "adagrad", {"l2": 100.0}),  # the common scale is folded in on the way
        (None, "adam", {"fit_intercept": False}),
        (7, "adagrad", {}),
        (1, "adam", {"l2": 0.0}),
        (60, "sgd", {"fit_intercept": False}),
    ]:
        setting = {"size": size, "n_fields": n_fields, **setting}
        want = trainer(name, dtype, "numpy", rank, **setting)
        for o in (order, None):
            want.train(*data, o, weights=weights)
        for isa in native_builds():
            use_build(isa)
            for n_threads in (1,) if size is None else (1, 2, 3):
                got = trainer(name, dtype, "native", rank, **setting)
                for o in (order, None):
                    got.train(*data, o, n_threads, weights)
                assert_same(got, want, f"{isa} {n_threads} threads {name} {setting}")
            for n_threads in (1, 3):
                assert_bits(got.scores(data[:3], n_threads), want.scores(data[:3], 1), f"{isa} scores {setting}")


@needs_native
@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_equals_the_reference(name, rng):
    data = rows(rng, 15, np.float32)
    for size in (None, 4):
        setting = {"size": size, "n_fields": 3, "lr": 1e-3}
        want, got = (trainer(name, np.float32, backend, 5, **setting) for backend in ("numpy", "native"))
        for t in (want, got):
            t.train(*data, None)
        assert_same(got, want, f"{name} {size}")


@needs_native
@pytest.mark.parametrize("loss", sorted(scores.DERIVATIVES))
def test_every_loss_equals_the_reference(loss, rng):
    data = rows(rng, 15, np.float64)
    want, got = (trainer("sgd", np.float64, backend, 3, loss=loss, lr=1e-4) for backend in ("numpy", "native"))
    for t in (want, got):
        t.train(*data, None)
    assert_same(got, want, loss)


@needs_native
def test_many_batches_of_units_that_fill_several_blocks(forced, rng):
    """More vectors in a batch than a block holds, and fields that a sample lacks."""
    forced(2)
    data = rows(rng, 80, np.float32, 50)
    for rank, n_fields in ((32, 1), (3, 20)):
        setting = {"size": 40, "n_fields": n_fields, "lr": 0.01}
        want, *got = (trainer("adam", np.float32, b, rank, **setting) for b in ("numpy", "native", "native"))
        want.train(*data, None)
        for n_threads, t in enumerate(got, 1):
            t.train(*data, None, n_threads)
            assert_same(t, want, f"{rank} {n_threads}")


@needs_native
def test_scores_have_the_same_bits_for_any_number_of_threads(rng):
    X = rng.standard_normal((3000, FEATURES)).astype(np.float32)
    csr = FEATURES * np.arange(3001), np.tile(np.arange(FEATURES, dtype=np.int32), 3000), X.ravel()
    for n_fields in (1, 4):
        model = trainer("sgd", np.float32, "native", 6, n_fields=n_fields)
        model.train(*csr, np.ones(3000, np.float32), None)
        one, *more = (model.scores(csr, n_threads) for n_threads in (1, 2, 3))
        assert one[:20].tolist() != one[20:40].tolist()
        for scores_of in more:
            assert_bits(scores_of, one)


@needs_native
def test_lock_free_threads_that_share_no_feature_are_exact():
    """Rows of two features each that no other row has: threads cannot disturb each other, but for the order of the steps."""
    n = FEATURES // 2
    indptr = 2 * np.arange(n + 1, dtype=np.int64)
    indices = np.arange(FEATURES, dtype=np.int32)
    data = np.linspace(0.5, 1.5, FEATURES)
    y = np.where(np.arange(n) % 3 == 0, 1.0, -1.0)
    for n_fields in (1, 3):
        setting = {"n_fields": n_fields, "fit_intercept": False, "lr": 0.1, "l2": 0.0}
        want, wild = (trainer("adagrad", np.float64, "native", 5, **setting) for _ in range(2))
        for _ in range(3):
            want.train(indptr, indices, data, y, None)
            wild.train(indptr, indices, data, y, None, 3)
        assert_same(wild, want, "hogwild")


# ------------------------------------------------------------------------------------------------------------ formulas


def fm_score(model, X):
    w, b, v = model.coef_.ravel(), model.intercept_[0], model.factors_
    pairs = [X[:, i] * X[:, j] * (v[i] @ v[j]) for j in range(len(w)) for i in range(j)]
    return b + X @ w + np.sum(pairs, axis=0)


def ffm_score(model, X, fields):
    w, b, v = model.coef_.ravel(), model.intercept_[0], model.factors_
    pairs = [X[:, i] * X[:, j] * (v[i, fields[j]] @ v[j, fields[i]]) for j in range(len(w)) for i in range(j)]
    return b + X @ w + np.sum(pairs, axis=0)


def table(rng: np.random.Generator, n: int = 200, n_features: int = 7):
    X = rng.standard_normal((n, n_features)) * (rng.random((n, n_features)) < 0.6)
    return X, np.where(X[:, 0] * X[:, 1] + 0.1 * X[:, 2] > 0, "up", "down")


@pytest.mark.parametrize("mode", ["sequential", "minibatch"])
def test_scores_are_those_of_the_formula(mode, rng):
    X, y = table(rng)
    setting = {"mode": mode, "rank": 3, "init_scale": 0.3, "random_state": 0, "batch_size": 16}
    fm = FMClassifier(**setting).fit(X, y)
    np.testing.assert_allclose(fm.decision_function(X), fm_score(fm, X), rtol=0, atol=1e-12)
    fields = np.array([0, 2, 2, 1, 0, 3, 3])
    ffm = FFMClassifier(fields=fields, **setting).fit(X, y)
    assert ffm.factors_.shape == (7, 4, 3)
    np.testing.assert_allclose(ffm.decision_function(X), ffm_score(ffm, X, fields), rtol=0, atol=1e-12)
    each = FFMClassifier(**setting).fit(X, y)
    np.testing.assert_allclose(each.decision_function(X), ffm_score(each, X, np.arange(7)), rtol=0, atol=1e-12)
    one = FFMClassifier(fields=np.zeros(7, int), **setting).fit(sparse.csr_matrix(X), y)
    assert_bits(one.factors_[:, 0], fm.factors_)


@pytest.mark.parametrize("fields", [None, [0, 2, 2, 1, 0, 3, 3]])
def test_a_step_is_the_gradient(fields, rng):
    """By differences of the loss."""
    x, y, lr, at = rng.standard_normal((1, 7)), np.array([0.7]), 1e-3, 1e-6
    n_fields = 1 if fields is None else 4
    vectors, w, b = rng.standard_normal((7, n_fields, 3)), rng.standard_normal(7), rng.standard_normal(1)
    of = np.zeros(7, int) if fields is None else np.array(fields)

    def loss(w, b, v):
        pairs = (x[0, i] * x[0, j] * (v[i, of[j]] @ v[j, of[i]]) for j in range(7) for i in range(j))
        return (b[0] + x[0] @ w + sum(pairs) - y[0]) ** 2 / 2

    cls, options = by_name("sgd")
    given = None if fields is None else of.astype(np.int32)
    start = np.zeros((7, n_fields, 3)), given, np.dtype(float), cls, cls.fill_options({**options, "lr": lr})
    for size in (None, 5):
        t = FactorTrainer(size, *start, "squared_error", 0.0, 0.0, True, fastopt.optimizers.base.choose_backend("auto"))
        t.restore(w, b, vectors)
        t.train(np.array([0, 7]), np.arange(7, dtype=np.int32), x[0], y, None)
        after = t.parameters()
        for k, p in enumerate((w, b, vectors)):
            for i in np.ndindex(p.shape):
                up, down = ([q.copy() for q in (w, b, vectors)] for _ in range(2))
                up[k][i] += at
                down[k][i] -= at
                slope = (loss(*up) - loss(*down)) / (2 * at)
                assert abs((p[i] - after[k][i]) / lr - slope) < 1e-5 * max(1, abs(slope))


def test_penalty_shrinks_weights_and_vectors_of_every_feature(rng):
    """Beside a dense loop; the intercept is not shrunk. SGD stands still where the gradient is zero."""
    X, _ = table(rng, 100)
    y, lr, l2 = rng.standard_normal(100), 0.05, 8.0  # strong: the scale is folded in on the way
    model = FMRegressor(optimizer="sgd", lr=lr, l2=l2, rank=3, epochs=1, init_scale=0.5, shuffle=False, random_state=3)
    start = clone(model).set_params(lr=0.0).fit(X, y)
    w, v, b = np.zeros(7), start.factors_.copy(), 0.0
    for x, t in zip(X, y, strict=True):
        d = b + x @ w + ((x @ v) ** 2 - (x**2) @ (v**2)).sum() / 2 - t
        g = d * (np.outer(x, x @ v) - (x**2)[:, np.newaxis] * v)
        w, v, b = (w - lr * d * x) / (1 + lr * l2), (v - lr * g) / (1 + lr * l2), b - lr * d
    model.fit(X, y)
    for got, want in ((model.coef_, w), (model.factors_, v), (model.intercept_[0], b)):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_repeated_entries_of_a_row_are_summed_first(rng):
    twice = sparse.csr_matrix((np.ones(4), [2, 0, 2, 1], [0, 3, 4]), shape=(2, 3))
    summed = twice.copy()
    summed.sum_duplicates()
    a, b = (FMRegressor(random_state=0, init_scale=1.0).fit(X, [1.0, 2.0]) for X in (twice, summed))
    np.testing.assert_allclose(a.predict(twice), b.predict(summed), rtol=1e-12)
    np.testing.assert_allclose(a.predict(twice), fm_score(a, summed.toarray()), rtol=1e-12)


# ----------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("mode", ["sequential", "minibatch", "hogwild"])
def test_finds_a_planted_interaction(mode, rng):
    """Of rank 4, where a linear model finds nothing."""
    X = sparse.random_array((8000, 20), density=0.25, format="csr", rng=rng)
    X.data = rng.standard_normal(X.nnz)
    v, dense = rng.standard_normal((20, 4)), X.toarray()
    z = ((dense @ v) ** 2 - dense**2 @ v**2).sum(axis=1) / 2
    y = z + 0.1 * z.std() * rng.standard_normal(8000)
    setting = {
        "mode": mode,
        "n_jobs": 2,
        "lr": 1.0 if mode == "minibatch" else 0.1,
        "batch_size": 16,
        "random_state": 0,
    }
    fm = FMRegressor(rank=4, epochs=20, **setting).fit(X[:6000], y[:6000])
    assert fm.score(X[6000:], y[6000:]) > 0.95
    assert LinearRegressor(epochs=5, **setting).fit(X[:6000], y[:6000]).score(X[6000:], y[6000:]) < 0.2


def clicks(rng: np.random.Generator, n: int = 6000):
    """Three categories a row, of ten values each; what counts is which of the first two meet."""
    category = rng.integers(0, 10, (n, 3)) + 10 * np.arange(3)
    likes = rng.standard_normal((10, 10))
    z = 2 * likes[category[:, 0], category[:, 1] - 10]
    X = sparse.csr_matrix((np.ones(3 * n, np.float32), category.ravel(), 3 * np.arange(n + 1)), shape=(n, 30))
    return X, rng.random(n) < 1 / (1 + np.exp(-z)), np.repeat(np.arange(3), 10)


def test_interactions_beat_a_linear_model(rng):
    X, y, fields = clicks(rng)
    losses = {}
    setting = {"epochs": 20, "l2": 1e-4}
    for model in (LinearClassifier(**setting), FMClassifier(**setting), FFMClassifier(fields=fields, **setting)):
        model.set_params(random_state=0).fit(X[:5000], y[:5000])
        assert model.predict_proba(X).dtype == np.float32
        losses[type(model).__name__] = log_loss(y[5000:], model.predict_proba(X[5000:])[:, 1])
    assert losses["LinearClassifier"] > 0.65
    assert max(losses["FMClassifier"], losses["FFMClassifier"]) < 0.55, losses


@pytest.mark.parametrize("loss", CLASSIFIER_LOSSES)
def test_several_classes_are_models_of_their_own(loss, rng):
    X = rng.standard_normal((900, 5))
    y = np.digitize(X[:, 0] * X[:, 1], [-0.4, 0.4])
    model = FMClassifier(loss, lr=0.05, epochs=30, random_state=0, n_jobs=2).fit(X, y)
    assert model.score(X, y) > 0.8
    assert model.factors_.shape == (3, 5, 8)
    start = clone(model).set_params(lr=0.0, optimizer="sgd").fit(X, y).factors_
    assert (start[0] != start[1]).any()
    assert_bits(clone(model).set_params(n_jobs=1).fit(X, y).factors_, model.factors_)


# ------------------------------------------------------------------------------------------------------------- manners


@parametrize_with_checks(
    [
        FMClassifier(epochs=50),
        FMRegressor(epochs=50, lr=1.0),
        FFMClassifier(epochs=50),
        FMClassifier(mode="minibatch", epochs=50, lr=1.0, n_jobs=2, normalize=True),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_estimator(estimator, check):
    """The checks that scikit-learn asks of every estimator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_partial_fit_and_warm_start_go_on(rng):
    X, y = table(rng)
    setting = {"optimizer": "adam", "lr": 0.01, "shuffle": False, "random_state": 0, "rank": 5}
    want = FFMClassifier(epochs=2, **setting).fit(X, y)
    parts = FFMClassifier(**setting)
    warm = FFMClassifier(epochs=1, warm_start=True, **setting)
    for _ in range(2):
        for part in (slice(0, 70), slice(70, 200)):
            parts.partial_fit(X[part], y[part], classes=["down", "up"])
        warm.fit(X, y)
    for model in (parts, warm):
        assert_bits(model.factors_, want.factors_)
        assert model.t_ == 400
    with pytest.raises(fastopt.StateError, match="rank"):
        parts.set_params(rank=6).partial_fit(X, y)
    with pytest.raises(fastopt.StateError, match="normalize"):
        parts.set_params(rank=5, normalize=True).partial_fit(X, y)
    with pytest.raises(fastopt.StateError, match="fields"):
        parts.set_params(normalize=False, fields=[0] * 7).partial_fit(X, y)


def test_minibatch_may_follow_sequential_and_the_other_way_round(rng):
    """A pass of SGD at rate 0 changes nothing."""
    X, y = table(rng)
    setting = {"optimizer": "sgd", "shuffle": False, "random_state": 0, "batch_size": 16}
    for modes in (("sequential", "minibatch"), ("minibatch", "sequential")):
        model = FMClassifier(mode=modes[0], lr=0.0, **setting).partial_fit(X, y, classes=["down", "up"])
        model.set_params(mode=modes[1], lr=0.1).partial_fit(X, y)
        assert_bits(model.factors_, FMClassifier(mode=modes[1], lr=0.1, epochs=1, **setting).fit(X, y).factors_)


def test_weights_of_zero_leave_samples_out_and_classes_have_weights(rng):
    X, y = table(rng)
    weights = rng.uniform(0.5, 2, 200) * (rng.random(200) < 0.7)
    setting = {"shuffle": False, "random_state": 0}
    a = FMClassifier(**setting).fit(X, y, weights)
    b = FMClassifier(**setting).fit(X[weights > 0], y[weights > 0], weights[weights > 0])
    assert_bits(a.factors_, b.factors_)
    c = FMClassifier(class_weight={"up": 3.0}, **setting).fit(X, y)
    d = FMClassifier(**setting).fit(X, y, np.where(y == "up", 3.0, 1.0))
    assert_bits(c.factors_, d.factors_)


def test_average_is_the_mean_of_the_passes(rng):
    X, y = table(rng)
    setting = {"random_state": 0, "shuffle": False, "init_scale": 0.2}
    passes = [FMClassifier(epochs=k, **setting).fit(X, y) for k in (2, 3)]
    mean = FMClassifier(epochs=3, average=2, **setting).fit(X, y)
    np.testing.assert_allclose(mean.factors_, sum(m.factors_ for m in passes) / 2, rtol=0, atol=1e-14)
    np.testing.assert_allclose(mean.decision_function(X), fm_score(mean, X), rtol=0, atol=1e-12)


def test_early_stopping_keeps_the_best_pass(rng, capsys):
    X, y = table(rng)
    y = np.where(rng.random(200) < 0.3, "up", y)
    stop = {"early_stopping": True, "n_iter_no_change": 3, "validation_fraction": 0.3}
    model = FMClassifier(epochs=200, lr=0.1, random_state=0, verbose=True, **stop).fit(X, y)
    shown = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert 1 < np.argmin(shown) + 1 < len(shown) == model.n_iter_ < 200  # of a single pass no rows are held out
    again = FMClassifier(epochs=1 + int(np.argmin(shown)), lr=0.1, random_state=0, **stop)
    assert_bits(again.fit(X, y).factors_, model.factors_)


def test_normalize_scales_rows_to_length_one(rng):
    X, y = table(rng)
    X[3] = 0
    length = np.linalg.norm(X, axis=1, keepdims=True)
    unit = X / np.where(length > 0, length, 1)
    setting = {"random_state": 0, "epochs": 3, "early_stopping": True}
    a = FMClassifier(normalize=True, **setting).fit(sparse.csr_matrix(X), y)
    b = FMClassifier(**setting).fit(unit, y)
    np.testing.assert_allclose(a.factors_, b.factors_, rtol=0, atol=1e-12)
    np.testing.assert_allclose(a.decision_function(X), b.decision_function(unit), rtol=0, atol=1e-12)


@pytest.mark.parametrize("by", [1e200, 1e-200])
def test_normalize_bears_lengths_whose_squares_are_no_numbers(by, rng):
    X, y = table(rng)
    X[3] = 0
    setting = {"random_state": 0, "epochs": 2, "normalize": True}
    want = FMClassifier(**setting).fit(X, y).decision_function(X)
    X[5:] *= by
    np.testing.assert_allclose(FMClassifier(**setting).fit(X, y).decision_function(X), want, rtol=1e-9)


def test_models_larger_than_the_memory_are_refused(rng, monkeypatch):
    monkeypatch.setattr(lanes, "memory", lambda: 10000)
    X, y = rng.standard_normal((30, 7)).astype(np.float32), np.arange(30) % 3
    FMClassifier(rank=8).fit(X, y)
    with pytest.raises(MemoryError, match=r"3 models of 7 features, each 132 numbers of float32.*a smaller rank"):
        FMClassifier(rank=64, optimizer="adagrad").fit(X, y)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", [FMClassifier, FFMClassifier, FMRegressor])
def test_models_are_kept_in_files(kind, classes, rng, tmp_path):
    X, _ = table(rng)
    y = (
        np.array(["a", "b", "c"])[rng.integers(0, classes, 200)]
        if kind is not FMRegressor
        else rng.standard_normal(200)
    )
    own = {"fields": [0, 0, 1, 1, 2, 2, 2]} if kind is FFMClassifier else {}
    model = kind(rank=3, epochs=2, average=True, random_state=1, **own).fit(X.astype(np.float32), y)
    save_model(tmp_path / "model.npz", model)
    loaded, hasher = load_model(tmp_path / "model.npz")
    assert hasher is None
    assert type(loaded) is kind
    for name in ("coef_", "intercept_", "factors_"):
        assert_bits(getattr(loaded, name), getattr(model, name), name)
    assert (loaded.predict(X.astype(np.float32)) == model.predict(X.astype(np.float32))).all()
    loaded.partial_fit(X, y)


def test_class_weights_are_kept_in_files(rng, tmp_path):
    X, y = table(rng)
    for classes in (y, (y == "up").astype(int), y == "up"):
        weights = dict(zip(np.unique(classes), (1.0, 2.0), strict=True))
        save_model(tmp_path / "model.npz", FMClassifier(class_weight=weights).fit(X, classes))
        loaded, _ = load_model(tmp_path / "model.npz")
        assert loaded.class_weight == weights
        loaded.partial_fit(X, classes)


def test_fields_of_entries_become_those_of_features():
    X = sparse.csr_matrix((np.ones(4), [3, 0, 0, 2], [0, 2, 4]), shape=(2, 5))
    assert feature_fields(X, [1, 0, 0, 4]).tolist() == [0, 0, 4, 1, 0]
    with pytest.raises(fastopt.UnsupportedError, match="feature 0 is of the fields"):
        feature_fields(X, [1, 0, 2, 4])
    with pytest.raises(fastopt.ShapeError, match="4 entries"):
        feature_fields(X, [1, 0])


@pytest.mark.parametrize(
    ("setting", "error", "match"),
    [
        ({"rank": 0}, fastopt.HyperParameterError, "rank"),
        ({"rank": 2.5}, fastopt.HyperParameterError, "rank"),
        ({"init_scale": -1.0}, fastopt.HyperParameterError, "init_scale"),
        ({"normalize": 2}, fastopt.HyperParameterError, "normalize"),
        ({"batch_size": 2**70, "mode": "minibatch"}, fastopt.HyperParameterError, "batch_size"),
        ({"l1": 0.1}, fastopt.UnsupportedError, "l1=0.1"),
        ({"fields": [0, 1]}, fastopt.ShapeError, "7 features"),
        ({"fields": [0, 1, 2, 3, 4, 5, -1]}, fastopt.HyperParameterError, "fields"),
        ({"fields": np.zeros(7)}, fastopt.HyperParameterError, "integers"),
    ],
)
def test_bad_parameters_are_refused(setting, error, match, rng):
    X, y = table(rng)
    with pytest.raises(error, match=match):
        FFMClassifier(**setting).fit(X, y)
    assert "factors_" not in dir(FFMClassifier(**setting)) or not hasattr(FFMClassifier(**setting), "factors_")


def test_wide_data_need_fields_and_bad_data_are_refused(rng):
    with pytest.raises(fastopt.HyperParameterError, match="257"):
        FFMClassifier().fit(sparse.eye_array(257, format="csr"), np.arange(257) % 2)
    X, y = table(rng)
    model = FMClassifier(random_state=0).fit(X, y)
    broken = sparse.csr_matrix(X)
    broken.indices[5] = 7
    for call in (model.predict, lambda X: FMClassifier().fit(X, y)):
        with pytest.raises(fastopt.IndexRangeError, match="0 to 6"):
            call(broken)
    with pytest.raises(fastopt.NonFiniteError, match="diverged"):
        FMRegressor(optimizer="sgd", lr=1e3, random_state=0).fit(X, np.arange(200.0))
