"""What the linear estimators offer beside plain training: batches, l1, weights, several classes, stopping, averages."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, native_builds
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, PoissonRegressor, QuantileRegressor
from sklearn.model_selection import train_test_split
from test_models import STEEP, problem, rows

import fastopt
from fastopt import kernels, scores
from fastopt.errors import NonFiniteError, StateError
from fastopt.models import FMRegressor, LinearClassifier, LinearRegressor, reference
from fastopt.models.batches import REACH, BatchTrainer, Decay
from fastopt.models.files import load_model, save_model
from fastopt.optimizers.base import by_name

scipy_sparse = pytest.importorskip("scipy.sparse")


def batch_trainer(name, dtype, backend, size, *, l1=0.0, l2=0.0, loss="log_loss", lr=0.05, n_features=1100, bias=True):
    cls, options = by_name(name)
    options = cls.fill_options({**options, "lr": lr})
    return BatchTrainer(size, l1, n_features, np.dtype(dtype), cls, options, loss, 0.3, l2, bias, backend)


# -------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("loss", sorted(scores.DERIVATIVES))
def test_derivatives_are_those_of_the_losses(loss):
    rng = np.random.default_rng(5)
    for _ in range(200):
        z, a = float(rng.normal() * 2), 0.3
        y = float(rng.choice([-1, 1]))
        value, d = scores.VALUES[loss], 1e-6
        up, down = (float(value(np.array([z + s]), np.array([y]), a)[0]) for s in (d, -d))
        assert abs((up - down) / (2 * d) - scores.DERIVATIVES[loss](z, y, a)) < 1e-4


def test_regression_losses_find_what_scikit_learn_finds(rng):
    X = rng.standard_normal((400, 5))
    common = {"epochs": 300, "lr": 0.3, "random_state": 0, "average": 100, "optimizer": "sgd"}
    z = X @ [0.5, -0.3, 0.2, 0, 0.1] + 0.4
    counts = rng.poisson(np.exp(z))
    ours = LinearRegressor("poisson", mode="minibatch", batch_size=400, l2=0.01, **common).fit(X, counts)
    theirs = PoissonRegressor(alpha=0.01, tol=1e-8).fit(X, counts)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-3)
    y = z + rng.exponential(1.0, 400)
    ours = LinearRegressor("quantile", quantile=0.8, mode="minibatch", batch_size=100, **common).fit(X, y)
    theirs = QuantileRegressor(quantile=0.8, alpha=0).fit(X, y)
    pinball = [scores.VALUES["quantile"](m.predict(X), y, 0.8).mean() for m in (ours, theirs)]
    assert pinball[0] < pinball[1] * 1.005
    with pytest.raises(fastopt.HyperParameterError, match="poisson"):
        LinearRegressor("poisson").fit(X, y - 10)


# ------------------------------------------------------------------------------------------------------------- batches


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_rows_equal_the_reference(dtype, forced, rng):
    indptr, indices, data, _ = rows(rng, 60, 1100, dtype)
    w = rng.standard_normal(1100).astype(dtype)
    want, got = np.empty(60, dtype), np.empty(60, dtype)
    reference.row_scores(indptr, indices, data, w, 0.25, want)
    assert kernels.drivers.row_scores(indptr, indices, data, w, 0.25, got) == -1
    assert_bits(got, want)
    exact = scipy_sparse.csr_matrix((data.astype(np.longdouble), indices, indptr), (60, 1100)) @ w.astype(np.longdouble)
    np.testing.assert_allclose(got, (exact + 0.25).astype(np.float64), rtol=0, atol=1000 * np.finfo(dtype).eps)
    forced(3)
    for threads in (2, 3, 100):
        got[:] = 0
        assert kernels.drivers.row_scores(indptr, indices, data, w, 0.25, got, threads) == -1
        assert_bits(got, want)
        assert kernels.drivers.row_scores(indptr, indices, data, w[:1000], 0.25, got, threads) >= 0
    bad = indices.copy()
    for k, index in ((0, -1), (len(bad) - 1, 1100), (len(bad) // 2, 2**31 - 1)):
        bad[:] = indices
        bad[k] = index
        r = np.searchsorted(indptr, k, "right") - 1
        assert kernels.drivers.row_scores(indptr, bad, data, w, 0.25, got) == r


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adam", "adan", "ftrl", "rmsprop"])
def test_batches_equal_the_reference(name, dtype, use_build, forced, rng):
    """For any threads and build, with penalties, weights, and a last batch that is short."""
    forced(5)
    data = rows(rng, 60, 1100, dtype)
    order = rng.permutation(60).astype(np.int32)
    weights = rng.uniform(0, 3, 60).astype(dtype)
    for k, loss in enumerate(sorted(scores.DERIVATIVES)):
        l1, l2, size, bias = [(0.0, 0.0, 7, True), (0.0, 30.0, 16, False), (0.01, 0.0, 1, True), (0.02, 0.5, 7, True)][
            k % 4
        ]
        setting = {"loss": loss, "l1": l1, "l2": l2, "bias": bias, "lr": 1e-4 if loss in STEEP else 0.05}
        want = batch_trainer(name, dtype, "numpy", size, **setting)
        for w in (weights, None):
            want.train(*data, order, weights=w)
        for isa in native_builds():
            use_build(isa)
            for threads in (1, 2, 5):
                got = batch_trainer(name, dtype, "native", size, **setting)
                for w in (weights, None):
                    got.train(*data, order, threads, weights=w)
                assert got.steps == want.steps == 2 * -(-60 // size)
                assert_bits(got.records, want.records, f"{isa} {threads} {size} {setting} records")
                assert_bits(got.weights(), want.weights(), f"{isa} {threads} {size} {setting} weights")
                if bias:
                    assert_bits(got.bias, want.bias, f"{isa} {threads} {size} {setting} bias")


@needs_native
def test_batches_of_many_entries_equal_the_reference(forced, rng):
    """Where features share places of the table of slots, and a batch has more entries than there are features."""
    forced(3)
    indptr = np.arange(0, 12001, 60)
    for n_features, spread in ((1 << 20, 5000), (1 << 20, 1 << 20), (90, 90)):
        features = rng.choice(n_features, spread, replace=False)
        indices = np.concatenate([rng.choice(features, 60, replace=False) for _ in range(200)]).astype(np.int32)
        data = indptr, indices, rng.standard_normal(12000).astype(np.float32), np.where(rng.random(200) < 0.5, -1, 1)
        data = *data[:3], data[3].astype(np.float32)
        want = batch_trainer("adagrad", np.float32, "numpy", 64, n_features=n_features)
        want.train(*data, None)
        for threads in (1, 2, 3):
            got = batch_trainer("adagrad", np.float32, "native", 64, n_features=n_features)
            got.train(*data, None, threads)
            assert_bits(got.records, want.records)


@needs_native
@pytest.mark.parametrize("limit", ["1", "2"])
def test_batches_have_fewer_threads_where_openmp_gives_fewer(limit):
    code = """
import numpy as np
from scipy import sparse
from fastopt.models import LinearClassifier
X = sparse.random_array((600, 5000), density=0.02, format="csr", rng=np.random.default_rng(0))
y = np.arange(600) % 2
a, b = (LinearClassifier(mode="minibatch", n_jobs=n, random_state=0).fit(X, y).coef_ for n in (1, 3))
assert (a == b).all()
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_THREAD_LIMIT": limit}, timeout=100, check=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batches_of_one_sample_are_the_sequential_mode(dtype, rng):
    X, y = problem(rng, 500, dtype=dtype)
    for optimizer in ("sgd", "adam"):
        options = {"optimizer": optimizer, "lr": 0.1, "l2": 0.3, "random_state": 3}
        a = LinearClassifier(**options).fit(X, y)
        b = LinearClassifier(mode="minibatch", batch_size=1, n_jobs=2, **options).fit(X, y)
        assert_bits(a.coef_, b.coef_)
        assert_bits(a.intercept_, b.intercept_)


def test_a_batch_of_all_samples_is_gradient_descent(rng):
    X, y = problem(rng, 200, 30, np.float64)
    t = np.where(y == "yes", 1.0, -1.0)
    w, b, D = np.zeros(30), 0.0, X.toarray()
    weights = rng.integers(0, 3, 200)
    for _ in range(20):
        d = -t / (1 + np.exp(t * (D @ w + b))) * weights / weights.sum()
        w, b = (w - 2.0 * (D.T @ d)) / (1 + 2.0 * 0.01), b - 2.0 * d.sum()
    model = LinearClassifier(mode="minibatch", optimizer="sgd", lr=2.0, l2=0.01, epochs=20).fit(X, y, weights)
    np.testing.assert_allclose(model.coef_[0], w, rtol=0, atol=1e-13)
    np.testing.assert_allclose(model.intercept_[0], b, rtol=0, atol=1e-13)
    again = LinearClassifier(mode="minibatch", optimizer="sgd", lr=2.0, l2=0.01, epochs=20).fit(X, y, weights * 7.0)
    np.testing.assert_allclose(again.coef_, model.coef_, rtol=0, atol=1e-13)


# ------------------------------------------------------------------------------------------------------------------ l1


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
@pytest.mark.parametrize("l2", [0.0, 0.05])
@pytest.mark.parametrize("size", [None, 8])
def test_l1_is_the_proximal_step_of_every_feature(name, l2, size, rng):
    """Beside a dense loop; rare features wait long for their turn."""
    X = rng.standard_normal((300, 40)) * (rng.random((300, 40)) < 0.05)
    y = np.where(X[:, 0] - X[:, 1] + 0.3 * rng.standard_normal(300) > 0, 1.0, -1.0)
    lr, l1 = 0.1, 0.004 if size is None else 0.02
    w, b, opts = np.zeros(40), np.zeros(1), []
    for p in (w, b):
        cls, options = by_name(name)
        opts.append(cls(p, lr=lr, **options))
    step = size or 1
    for _ in range(4):
        for k in range(0, 300, step):
            x, t = X[k : k + step], y[k : k + step]
            d = -t / (1 + np.exp(t * (x @ w + b[0]))) / len(t)
            opts[0].step(d @ x)
            opts[1].step(np.array([d.sum()]))
            w[:] = np.sign(w) * np.maximum(np.abs(w) - lr * l1, 0) / (1 + lr * l2)
    mode = {} if size is None else {"mode": "minibatch", "batch_size": size}
    model = LinearClassifier(optimizer=name, lr=lr, l1=l1, l2=l2, epochs=4, shuffle=False, **mode)
    model.fit(scipy_sparse.csr_matrix(X), y)
    np.testing.assert_allclose(model.coef_[0], w, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.intercept_, b, rtol=0, atol=1e-12)
    assert 0 < (model.coef_ == 0).sum() < 40


def test_the_decay_of_many_steps_is_that_of_single_steps():
    for keep, l1 in [(1.0, 1e-6), (1 / (1 + 1e-5), 1e-6), (0.9, 0.0), (0.5, 0.3)]:
        decay = Decay(keep, l1)
        w = np.array([1.0, -1.0, 0.5, 1e-3, 0.0, -0.0, np.nan])
        want, k = w.copy(), 0
        for stop in (0, 1, 5, REACH - 1, REACH, REACH + 1, 3 * REACH + 17):
            for _ in range(stop - k):
                want = np.sign(want) * np.maximum(np.abs(want) - l1, 0) * keep
            k = stop
            np.testing.assert_allclose(decay.caught(w, np.full(7, k)), want, rtol=1e-9, atol=1e-12)
    d = Decay(1 - 2.0**-30, 2.0**-40)
    for k in (REACH**2, REACH**2 + 1, REACH**3 - 1):
        power = np.exp(k * np.log1p(-(2.0**-30)))
        want = power - 2.0**-40 * (1 - power) * (1 - 2.0**-30) * 2.0**30
        np.testing.assert_allclose(d.caught(np.array([1.0]), np.array([k])), want, rtol=1e-9)


def test_reading_weights_in_between_changes_nothing_and_rates_may_change(rng):
    X, y = problem(rng, 300)
    models = [LinearClassifier(l1=1e-3, shuffle=False, optimizer="sgd") for _ in range(2)]
    for k in range(3):
        for m, model in enumerate(models):
            model.partial_fit(X[k * 100 : k * 100 + 100], y[k * 100 : k * 100 + 100], classes=["no", "yes"])
            if m:
                _ = model.coef_
    assert_bits(models[0].coef_, models[1].coef_)
    before = models[0].coef_.copy()
    models[0].set_params(lr=0.0).partial_fit(X, y)
    np.testing.assert_allclose(models[0].coef_, before, rtol=1e-6)
    models[0].set_params(lr=0.1, l1=0.0).partial_fit(X[:1], y[:1])
    assert (models[0].coef_ != 0).sum() >= (before != 0).sum()
    late = LinearClassifier().fit(X, y).set_params(l1=0.1)
    with pytest.raises(fastopt.StateError, match="l1"):
        late.partial_fit(X, y)


def test_ftrl_has_its_own_penalties(rng):
    X, y = problem(rng, 600, 100, np.float64)
    w = np.zeros(100)
    opt = fastopt.FTRL(w, lr=0.5, l1=0.8, l2=0.05)
    t = np.where(y == "yes", 1.0, -1.0)
    for x, label in zip(X.toarray(), t, strict=True):
        opt.step(fastopt.SparseGrad(np.flatnonzero(x), (-label / (1 + np.exp(label * (w @ x))) * x)[x != 0]))
    options = {"optimizer": "ftrl", "lr": 0.5, "l1": 0.8, "l2": 0.1, "shuffle": False, "fit_intercept": False}
    model = LinearClassifier(epochs=1, **options).fit(X, y)
    np.testing.assert_allclose(model.coef_[0], w, rtol=0, atol=1e-12)
    assert 0 < (w == 0).sum() < 100


# ------------------------------------------------------------------------------------------------------------- weights


def test_weights_are_repetitions_in_the_mean(rng):
    """Where the steps are small: plain SGD with integer weights beside the samples repeated."""
    X, y = problem(rng, 500, 40, np.float64)
    weights = rng.integers(0, 4, 500)
    common = {"optimizer": "sgd", "lr": 0.002, "epochs": 40, "random_state": 0}
    a = LinearClassifier(**common).fit(X, y, weights)
    b = LinearClassifier(**common).fit(X[np.repeat(np.arange(500), weights)], np.repeat(y, weights))
    plain = LinearClassifier(**common).fit(X, y)
    size = np.linalg.norm(b.coef_)
    assert np.linalg.norm(a.coef_ - b.coef_) < 0.01 * size < 0.1 * size < np.linalg.norm(plain.coef_ - b.coef_)


def test_samples_of_weight_zero_are_left_out(rng):
    X, y = problem(rng, 300)
    weights = (rng.random(300) < 0.6).astype(float)
    used = weights > 0
    for mode in ("sequential", "minibatch"):
        a = LinearClassifier(mode=mode, optimizer="adam", shuffle=False).fit(X, y, weights)
        b = LinearClassifier(mode=mode, optimizer="adam", shuffle=False).fit(X[used], y[used])
        assert_bits(a.coef_, b.coef_)
        assert a.t_ == 5 * used.sum()


@pytest.mark.parametrize("mode", ["sequential", "minibatch", "hogwild"])
def test_weights_too_small_or_too_large_for_the_dtype(mode, rng):
    """Those that float32 has as 0 are 0; what it has as infinity is said. A call may have no sample to learn from."""
    X, y = problem(rng, 300)
    assert X.dtype == np.float32
    weights = np.where(np.arange(300) < 200, 1.0, 1e-60)
    a, b = (LinearClassifier(mode=mode, shuffle=False, verbose=True) for _ in "ab")
    a.fit(X, y, weights)
    b.fit(X[:200], y[:200], np.ones(200))
    assert_bits(a.coef_, b.coef_)
    with pytest.raises(fastopt.HyperParameterError, match="too large for float32"):
        a.fit(X, y, weights * 1e60)
    assert_bits(a.coef_, b.coef_)
    with pytest.raises(fastopt.StateError, match="nothing to learn"):
        LinearClassifier(mode=mode, class_weight={"no": 0, "yes": 0}).fit(X, y)
    for lr in (0.1, "auto") if mode != "minibatch" else (0.1,):
        model = LinearClassifier(mode=mode, class_weight={"no": 0}, lr=lr, verbose=True)
        nothing = y == "no"
        model.partial_fit(X[nothing], y[nothing], ["no", "yes"])
        assert model.t_ == 0
        model.partial_fit(X, y)
        assert model.t_ == (~nothing).sum()


def test_class_weights_are_sample_weights(rng):
    X, y = problem(rng, 300)
    y = np.where(rng.random(300) < 0.2, "yes", "no")
    part = (y == "yes").mean()
    weights = np.where(y == "yes", 0.5 / part, 0.5 / (1 - part))
    a = LinearClassifier(class_weight="balanced", random_state=0).fit(X, y)
    b = LinearClassifier(random_state=0).fit(X, y, weights)
    c = LinearClassifier(class_weight={"yes": 0.5 / part, "no": 0.5 / (1 - part)}, random_state=0).fit(X, y)
    np.testing.assert_allclose(a.coef_, b.coef_, rtol=1e-5)
    np.testing.assert_allclose(c.coef_, b.coef_, rtol=1e-5)
    for wrong in ("even", {"maybe": 1.0}, {"yes": -1.0}, 3):
        with pytest.raises(fastopt.FastoptError, match="class_weight"):
            LinearClassifier(class_weight=wrong).fit(X, y)
    with pytest.raises(fastopt.UnsupportedError, match="balanced"):
        a.partial_fit(X, y)
    for wrong in (-np.ones(300), np.zeros(300), np.ones(3), np.full(300, np.nan)):
        with pytest.raises(ValueError, match=r"weight|NaN"):
            LinearClassifier().fit(X, y, wrong)


# ------------------------------------------------------------------------------------------------------------- classes


def many_classes(rng, dtype=np.float64):
    X, y = make_classification(600, 20, n_informative=10, n_classes=5, n_clusters_per_class=1, random_state=0)
    return X.astype(dtype), np.array(["a", "b", "c", "d", "e"])[y]


@pytest.mark.parametrize("mode", ["sequential", "minibatch"])
def test_many_classes_are_one_against_the_rest_each(mode, rng):
    X, y = many_classes(rng)
    model = LinearClassifier(mode=mode, random_state=1, lr=0.3, n_jobs=3).fit(X, y)
    alone = LinearClassifier(mode=mode, random_state=1, lr=0.3).fit(X, y)
    assert_bits(model.coef_, alone.coef_)
    assert model.coef_.shape == (5, 20)
    for k, name in enumerate(model.classes_):
        binary = LinearClassifier(mode=mode, random_state=1, lr=0.3).fit(X, y == name)
        assert_bits(model.coef_[k], binary.coef_[0])
        np.testing.assert_allclose(model.decision_function(X)[:, k], binary.decision_function(X), atol=1e-12)
    assert model.score(X, y) > 0.6
    p = model.predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert (model.classes_[p.argmax(axis=1)] == model.predict(X)).all()
    S = scipy_sparse.csr_matrix(X)
    np.testing.assert_allclose(model.decision_function(S), model.decision_function(X), atol=1e-12)
    parts = LinearClassifier(mode=mode, shuffle=False, epochs=1)
    for half in (slice(0, 256), slice(256, 600)):
        parts.partial_fit(X[half], y[half], classes=model.classes_)
    assert_bits(parts.coef_, LinearClassifier(mode=mode, shuffle=False, epochs=1).fit(X, y).coef_)


def test_saved_models_of_many_classes_predict_the_same(rng, tmp_path):
    X, y = many_classes(rng, np.float32)
    model = LinearClassifier(l1=1e-4, class_weight="balanced").fit(X, y)
    save_model(tmp_path / "m.npz", model)
    again, _ = load_model(tmp_path / "m.npz")
    assert_bits(again.coef_, model.coef_)
    assert (again.predict(X) == model.predict(X)).all()
    assert (pickle.loads(pickle.dumps(model)).predict(X) == model.predict(X)).all()


# ---------------------------------------------------------------------------------------------- stopping and averaging


def test_early_stopping_watches_rows_that_it_does_not_train_on(rng, capsys):
    X, y = problem(rng, 400, 2000)  # few rows: overfits soon
    options = {"epochs": 200, "lr": 1.0, "random_state": 0, "n_iter_no_change": 3}
    model = LinearClassifier(early_stopping=True, verbose=True, **options).fit(X, y)
    assert 3 < model.n_iter_ < 100
    assert model.t_ == 360 * model.n_iter_
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in lines]
    assert len(losses) == model.n_iter_
    assert "validation" in lines[0]
    assert losses.index(min(losses)) == model.n_iter_ - 4
    again = LinearClassifier(early_stopping=True, **options).fit(X, y)
    assert_bits(again.coef_, model.coef_)
    random = np.random.RandomState(0)
    random.randint(0, 2**31 - 1, 4)
    _, held = train_test_split(np.arange(400), test_size=0.1, random_state=random, stratify=y)
    z = model.decision_function(X[np.sort(held)])
    best = np.logaddexp(0, -np.where(y[np.sort(held)] == "yes", z, -z)).mean()
    assert abs(best - min(losses)) < 1e-4, "the weights are those of the best pass"


def late_explosion(step):
    """A rate that is right for three passes of 360 rows, and then far too large."""
    return np.where(np.asarray(step) < 3 * 360, 0.1, 1e60)


@pytest.mark.parametrize(
    ("model", "classes"),
    [
        (LinearClassifier(optimizer="sgd"), 2),
        (LinearClassifier("squared_hinge", optimizer="sgd", fit_intercept=False), 2),
        (LinearClassifier("squared_hinge", optimizer="sgd", n_jobs=2), 3),
        (LinearClassifier(optimizer="sgd", multi_class="multinomial"), 3),
        (LinearRegressor(optimizer="sgd"), 0),
        (LinearRegressor(optimizer="sgd", mode="minibatch", batch_size=1), 0),
        (FMRegressor(optimizer="sgd"), 0),
    ],
)
def test_early_stopping_keeps_the_best_pass_where_a_later_one_diverges(model, classes, rng, tmp_path):
    X, _ = problem(rng, 400, 60, dtype=np.float32)
    z = X @ rng.standard_normal((60, max(classes, 2)))
    y = z.argmax(axis=1) if classes else z[:, 0]
    model = clone(model).set_params(random_state=0, epochs=20, early_stopping=True, lr=late_explosion)
    with pytest.warns(ConvergenceWarning, match="diverged after the pass with the least validation loss"):
        model.fit(X, y)
    assert 3 < model.n_iter_ < 20
    calm = clone(model).set_params(epochs=3, lr=0.1).fit(X, y)
    parts = [
        np.isfinite(model.coef_).all(),
        (model.coef_ == calm.coef_).all(),
        (model.predict(X) == calm.predict(X)).all(),
    ]
    assert parts == [True, True, True]
    before = model.coef_.copy()
    for call in (model.partial_fit, model.set_params(warm_start=True).fit):  # where the state is, nothing goes on
        with pytest.raises(StateError, match="warm_start=False"):
            call(X, y)
        assert_bits(model.coef_, before)
    save_model(tmp_path / "m.npz", model.set_params(lr=0.1, warm_start=False))
    again, _ = load_model(tmp_path / "m.npz")
    assert np.isfinite(again.partial_fit(X, y).coef_).all()
    assert (again.coef_ != before).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_bits(model.fit(X, y).predict(X), calm.set_params(epochs=20).fit(X, y).predict(X))
    with pytest.raises(NonFiniteError):  # without a best pass, and without early stopping, it is an error
        clone(model).set_params(lr=1e60).fit(X, y)
    with pytest.raises(NonFiniteError):
        clone(model).set_params(lr=late_explosion, early_stopping=False).fit(X, y)


def test_an_intercept_alone_that_diverges_is_seen(rng):
    X, y = scipy_sparse.csr_array((400, 5)), rng.standard_normal(400)
    model = LinearRegressor(optimizer="sgd", lr=late_explosion, epochs=9, early_stopping=True, random_state=0)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    assert np.isfinite(model.intercept_).all()
    with pytest.raises(StateError, match="warm_start=False"):
        model.partial_fit(X, y)


def test_tol_ends_training_when_the_loss_stands_still(rng, capsys):
    X, y = make_regression(200, 10, random_state=0)
    y = y / y.std()
    common = {"lr": 0.5, "random_state": 0}
    model = LinearRegressor(epochs=500, tol=1e-6, verbose=1, **common).fit(X, y)
    assert model.n_iter_ < 500
    printed = float(capsys.readouterr().out.splitlines()[-1].split()[-1])
    assert abs(printed - np.mean((model.predict(X) - y) ** 2) / 2) < 1e-5
    full = LinearRegressor(epochs=model.n_iter_, **common).fit(X, y)
    assert_bits(full.coef_, model.coef_)


def test_warm_start_goes_on(rng):
    X, y = problem(rng, 300)
    a = LinearClassifier(optimizer="adam", shuffle=False, epochs=4).fit(X, y)
    b = LinearClassifier(optimizer="adam", shuffle=False, epochs=2, warm_start=True).fit(X, y).fit(X, y)
    assert_bits(a.coef_, b.coef_)
    assert b.t_ == 1200
    with pytest.raises(fastopt.ShapeError, match="features"):
        b.fit(X[:, :20], y)
    with pytest.raises(fastopt.StateError, match="classes"):
        b.fit(X, np.arange(300) % 3)
    with pytest.raises(fastopt.StateError, match="optimizer"):
        b.set_params(optimizer="sgd").fit(X, y)


@pytest.mark.parametrize("start", [True, 3])
def test_averages_are_means_over_passes(start, rng):
    X, y = problem(rng, 300, dtype=np.float64)
    plain, averaged = LinearClassifier(shuffle=False), LinearClassifier(shuffle=False, average=start)
    seen = []
    for _ in range(6):
        for model in (plain, averaged):
            model.partial_fit(X, y, classes=["no", "yes"])
        seen.append((plain.coef_.copy(), plain.intercept_.copy()))
    first = int(start) - 1
    np.testing.assert_allclose(averaged.coef_, np.mean([w for w, _ in seen[first:]], axis=0), atol=1e-14)
    np.testing.assert_allclose(averaged.intercept_, np.mean([b for _, b in seen[first:]], axis=0), atol=1e-14)
    fitted = LinearClassifier(shuffle=False, average=start, epochs=6).fit(X, y)
    assert_bits(fitted.coef_, averaged.coef_)


@pytest.mark.parametrize("later", [False, 9])
def test_a_mean_ends_with_its_passes(later, rng):
    X, y = problem(rng, 300)
    plain, averaged = LinearClassifier(shuffle=False), LinearClassifier(shuffle=False, average=True)
    for _ in range(3):
        for model in (plain, averaged):
            model.partial_fit(X, y, classes=["no", "yes"])
    averaged.set_params(average=later)
    for model in (plain, averaged):
        model.partial_fit(X, y)
    assert_bits(averaged.coef_, plain.coef_)
    assert_bits(averaged.decision_function(X), plain.decision_function(X))


# ------------------------------------------------------------------------------------------------ predictions elsewhere


@pytest.mark.parametrize("loss", ["log_loss", "hinge", "squared_hinge", "modified_huber"])
@pytest.mark.parametrize("classes", [2, 5])
def test_classifiers_become_those_of_scikit_learn(loss, classes, rng):
    X, y = many_classes(rng)
    y = y if classes > 2 else y < "c"
    model = LinearClassifier(loss, lr=0.1, l1=1e-3, l2=1e-3).fit(X, y)
    other = pickle.loads(pickle.dumps(model.to_sklearn()))
    assert (other.predict(X) == model.predict(X)).all()
    np.testing.assert_allclose(other.decision_function(X), model.decision_function(X), atol=1e-12)
    if loss in ("log_loss", "modified_huber"):
        np.testing.assert_allclose(other.predict_proba(X), model.predict_proba(X), atol=1e-12)
        np.testing.assert_allclose(
            model.predict_log_proba(X), np.log(np.maximum(model.predict_proba(X), 0)), atol=1e-12
        )
    assert other.get_params()["l1_ratio"] == 0.5


@pytest.mark.parametrize("loss", ["squared_error", "huber", "epsilon_insensitive", "quantile", "poisson"])
def test_regressors_become_those_of_scikit_learn(loss, rng):
    X = rng.standard_normal((200, 6))
    y = rng.poisson(np.exp(0.3 * X[:, 0]))
    model = LinearRegressor(loss).fit(X, y)
    np.testing.assert_allclose(model.to_sklearn().predict(X), model.predict(X), rtol=1e-12)


def test_the_table_of_penalties_holds(rng):
    """C of logistic regression, as the docstring says."""
    X, y = problem(rng, 300, 20, np.float64)
    theirs = LogisticRegression(C=0.7, tol=1e-10, max_iter=1000).fit(X, y)
    plain = LinearClassifier(mode="minibatch", batch_size=300, optimizer="sgd", lr=4.0, epochs=6000, l2=1 / (0.7 * 300))
    plain.fit(X, y)
    np.testing.assert_allclose(plain.coef_, theirs.coef_, rtol=0, atol=2e-3)
