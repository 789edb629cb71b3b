"""Models side by side for several targets, several labels and several penalties: each has the bits of a fit by itself."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from conftest import needs_native
from scipy import sparse
from settings import assert_bits, native_builds
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, train_test_split
from test_lanes import arguments, same
from test_models import rows

import fastopt
from fastopt.checkpoint import read_arrays, write_arrays
from fastopt.cli import main
from fastopt.errors import CheckpointError, ShapeError
from fastopt.models import FFMClassifier, FMClassifier, FMRegressor, LinearClassifier, LinearRegressor, lanes
from fastopt.models.files import FORMAT, load_model, save_model
from fastopt.models.lanes import Lane, LaneTrainer
from fastopt.models.progressive import fit_stream, judge
from fastopt.models.samples import SampleTrainer

scipy_sparse = pytest.importorskip("scipy.sparse")
L2S = [1e-3, 0.0, 30.0, 0.1, 1e-5]


def problem(rng, n=400, n_features=60, k=11, dtype=np.float32):
    X = scipy_sparse.random_array((n, n_features), density=0.1, format="csr", dtype=dtype, rng=rng)
    return X, X @ rng.standard_normal((n_features, k)) + 0.3 * rng.standard_normal((n, k))


# -------------------------------------------------------------------------------------------------------------- kernel


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_models", [1, 3, 8, 19])
def test_targets_of_their_own_equal_the_reference(n_models, dtype, use_build, rng):
    indptr, indices, data, y = rows(rng, 40, 300, dtype, 12)
    targets = (y[:, np.newaxis] + rng.standard_normal((40, n_models))).astype(dtype)
    weights, order = rng.uniform(0, 3, 40).astype(dtype), rng.permutation(40).astype(np.int32)
    for loss, l2, weighted in [("squared_error", 0.0, True), ("quantile", 0.01, False), ("huber", 30.0, True)]:
        settings = arguments("adagrad", dtype, "numpy", loss=loss, l2=l2, n_features=300)
        w = weights if weighted else None
        want = LaneTrainer(n_models, *settings)
        want.train(indptr, indices, data, targets, order, weights=w, look=3)
        for isa in native_builds():
            use_build(isa)
            got = LaneTrainer(n_models, *settings[:-1], "native")
            got.train(indptr, indices, data, targets, order, weights=w, look=3)
            same(got, want, f"{isa} {loss}")
        for k in {0, n_models - 1}:
            alone = SampleTrainer(*settings[:-1], "native")
            alone.train(indptr, indices, data, np.ascontiguousarray(targets[:, k]), order, weights=w)
            assert_bits(got.alone(k).records, alone.records, f"{loss} {k}")
        assert not want.records[:, 0, n_models:].any()  # idle ones


@needs_native
@pytest.mark.parametrize("name", ["sgd", "adam", "ftrl", "adadelta"])
def test_penalties_of_their_own_equal_the_reference(name, use_build, rng):
    """Those of FTRL are options of the optimizer, of fewer models than lanes."""
    data = rows(rng, 30, 200, np.float32)
    settings = arguments(name, np.float32, "numpy", n_features=200)
    own = [{"l2": l2} for l2 in L2S] if name == "ftrl" else None
    penalties = [0.0] * len(L2S) if own else L2S
    want = LaneTrainer(5, *settings[:6], penalties, *settings[7:], own=own)
    for _ in range(2):
        want.train(*data, None, look=0)
    for isa in native_builds():
        use_build(isa)
        got = LaneTrainer(5, *settings[:6], penalties, True, "native", own=own)
        for _ in range(2):
            got.train(*data, None, look=0)
        same(got, want, isa)
    for k, l2 in enumerate(L2S):
        options = {**settings[3], **(own[k] if own else {})}
        alone = SampleTrainer(*settings[:3], options, *settings[4:6], penalties[k], True, "native")
        compact = got.alone(k)
        for _ in range(2):
            alone.train(*data, None)
        for model in (compact, alone):
            model.train(*data, None)
        assert_bits(compact.records, alone.records, f"l2 {l2}")


# ------------------------------------------------------------------------------------------------------ several targets

SETTINGS = [
    {},
    {"l2": 1e-3, "optimizer": "sgd"},
    {"optimizer": "adam", "lr": 0.01, "average": True, "n_jobs": 2},
    {"fit_intercept": False, "loss": "huber"},
    {"mode": "minibatch", "batch_size": 16},
    {"mode": "hogwild", "n_jobs": 1},
    {"l1": 1e-3},
    {"lr": "auto"},
    {"optimizer": "ftrl", "l1": 0.1},
    {"tol": 1e-3, "epochs": 40, "n_iter_no_change": 1},
    {"early_stopping": True, "epochs": 40, "n_iter_no_change": 1, "lr": 1.0},
]


@pytest.mark.parametrize("kind", ["csr", "dense"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_targets_are_fits_of_their_own(setting, kind, rng):
    X, Y = problem(rng)
    X = X if kind == "csr" else X.toarray()
    weights = rng.integers(0, 3, len(Y)) if kind == "csr" else None
    model = LinearRegressor(random_state=3, **setting).fit(X, Y, weights)
    fitted = model.coef_.copy()
    model.partial_fit(X, Y, weights)
    singles = []
    for k in range(11):
        single = LinearRegressor(random_state=3, **setting).fit(X, Y[:, k], weights)
        assert_bits(fitted[k], single.coef_)
        single.partial_fit(X, Y[:, k], weights)
        assert_bits(model.coef_[k], single.coef_)
        assert_bits(model.intercept_[k], single.intercept_[0])
        singles.append(single.predict(X))
    assert model.coef_.shape == (11, 60)
    assert model.intercept_.shape == (11,)
    assert_bits(model.predict(X), np.stack(singles, axis=1))
    assert model.score(X, Y) == r2_score(Y, model.predict(X))
    if setting.get("lr") == "auto":
        assert model.lr_.shape == (11,)
        assert model.rates_.shape == (11, 8)
    if setting in SETTINGS[:4]:
        assert isinstance(model._models[0].trainer, Lane)
        assert len({id(m.trainer.group) for m in model._models}) == setting.get("n_jobs", 1)


def test_shapes_are_those_of_scikit_learn(rng):
    X, Y = problem(rng, dtype=np.float64)
    for y in (
        Y[:, 0],
        Y[:, :1],
        Y[:, :2],
        scipy_sparse.csr_array(Y[:, :2]),
        Y[:, :2].tolist(),
        Y[:, :2].astype(object),
    ):
        ours = LinearRegressor(random_state=0).fit(X, y)
        dense = y.toarray() if hasattr(y, "toarray") else np.asarray(y, np.float64)
        theirs = LinearRegression().fit(X, dense)
        assert ours.coef_.shape == theirs.coef_.shape
        assert ours.predict(X).shape == theirs.predict(X).shape
        assert ours.predict(X[:1]).shape == theirs.predict(X[:1]).shape
        assert ours.intercept_.shape == np.shape(np.atleast_1d(theirs.intercept_))
        other = ours.to_sklearn()
        np.testing.assert_allclose(other.predict(X), ours.predict(X), rtol=0, atol=1e-12)
        assert_bits(clone(ours).fit(X, dense).coef_, ours.coef_)
    assert LinearRegressor().__sklearn_tags__().target_tags.multi_output
    counts = LinearRegressor("poisson").fit(X, np.abs(Y).round())
    assert (counts.predict(X) > 0).all()
    with pytest.raises(fastopt.UnsupportedError, match="train each by itself"):
        counts.to_sklearn()


@pytest.mark.parametrize("columns", [1, 2, 9])
def test_models_of_several_targets_are_saved(columns, rng, tmp_path):
    X, Y = problem(rng)
    model = LinearRegressor(random_state=0).fit(X, Y[:, :columns])
    save_model(tmp_path / "m.npz", model)
    for again in (load_model(tmp_path / "m.npz")[0], pickle.loads(pickle.dumps(model))):
        assert_bits(again.predict(X), model.predict(X))
        assert again.predict(X).shape == (400, columns)
        again.partial_fit(X, Y[:, :columns])
        with pytest.raises(fastopt.ShapeError, match=f"training began with {columns} columns"):
            again.partial_fit(X, Y[:, 0])


def test_wrong_targets_are_said_and_change_nothing(rng):
    X, Y = problem(rng, 40)
    model = LinearRegressor(random_state=0).fit(X, Y)
    before, predicted = model.coef_.copy(), model.predict(X)
    with_nan, text = Y.copy(), Y.astype(object)
    with_nan[3, 2], text[5, 1] = np.nan, "much"
    for wrong, match in [
        (Y[:, :3], "y has 3 columns, and training began with 11 columns"),
        (Y[:, 0], "y has one dimension, and training began with 11 columns"),
        (Y[:7], "inconsistent numbers of samples"),
        (Y[:, :0], r"0 feature|no target"),
        (Y[:, :, np.newaxis], "dim 3|array with dim"),
        (with_nan, "NaN"),
        (text, "could not convert|much"),
        (Y + 1j, "Complex"),
        (Y * 1e300, "too large for float32|infinity"),
        ([[1.0], [2.0, 3.0]] * 20, "inhomogeneous|array"),
        (None, "y"),
    ]:
        for call in (model.partial_fit, LinearRegressor().partial_fit, LinearRegressor().fit):
            if call is not model.partial_fit and match.startswith("y has"):
                continue
            with pytest.raises(ValueError, match=match):
                call(X, wrong)
        assert_bits(model.coef_, before)
        assert_bits(model.predict(X), predicted)
    with pytest.raises(fastopt.HyperParameterError, match="not negative"):
        LinearRegressor("poisson").fit(X, Y)
    model.set_params(warm_start=True)
    with pytest.raises(fastopt.ShapeError, match="training began with 11"):
        model.fit(X, Y[:, :2])
    assert model.predict(X).shape == (40, 11)
    model.fit(X, Y)
    assert model.set_params(warm_start=False).fit(X, Y[:, 0]).predict(X).shape == (40,)


def test_factorization_machines_take_one_target(rng):
    X, Y = problem(rng, 40)
    for model, y in ((FMRegressor(), Y), (FMClassifier(), Y > 0), (FFMClassifier(), Y > 0)):
        with pytest.raises(ValueError, match=r"1d array|y should be"):
            model.fit(X, y)
        with pytest.raises(ValueError, match=r"1d array|y should be"):
            model.partial_fit(X, y, *([[0, 1]] if y.dtype == bool else []))
        assert not model.__sklearn_tags__().target_tags.multi_output


def test_streams_of_several_targets(rng):
    X, Y = problem(rng)
    for model, y in ((LinearRegressor(shuffle=False), Y), (LinearClassifier(shuffle=False), (Y > 0).astype(int))):
        progress = fit_stream(model, ((X[i : i + 100], y[i : i + 100]) for i in range(0, 400, 100)))
        again = clone(model)
        for i in range(0, 400, 100):
            again.partial_fit(X[i : i + 100], y[i : i + 100])
        assert_bits(again.coef_, model.coef_)
        assert progress.rows == 400
        assert progress.last < progress.loss
        found = judge(model, X, y)
        if y is Y:
            np.testing.assert_allclose(found.losses, ((model.predict(X) - Y) ** 2 / 2).mean(axis=1), rtol=1e-6)
        else:
            p = np.where(y == 1, model.predict_proba(X), 1 - model.predict_proba(X))
            np.testing.assert_allclose(found.losses, -np.log(p).mean(axis=1), rtol=1e-5)
            assert found.right.mean() == model.score(X, y)
    bad = Y.copy()
    bad[150, 3] = np.nan
    with pytest.raises(fastopt.StateError, match="row 151"):
        fit_stream(LinearRegressor(), [(X, bad)])
    for y in (Y[:, 0], Y[:, :4]):
        with pytest.raises(fastopt.ShapeError, match="training began with 11 columns"):
            fit_stream(LinearRegressor().fit(X, Y), [(X, y)])
    with pytest.raises(fastopt.ShapeError, match="training began with one dimension"):
        fit_stream(LinearRegressor().fit(X, Y[:, 0]), [(X[:11], Y[:11])])


def test_the_command_line_has_one_label_a_row(rng, tmp_path, capsys):
    X, Y = problem(rng)
    (tmp_path / "rows.svm").write_text("1 1:0.5\n")
    reader = {"form": "svmlight", "label": None, "above": None, "texts": False, "zero_based": False}
    save_model(tmp_path / "m.npz", LinearRegressor().fit(X, Y), reader=reader)
    assert main(["predict", str(tmp_path / "m.npz"), str(tmp_path / "rows.svm")]) == 2
    assert "several targets" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- several labels


@pytest.mark.parametrize("setting", [{}, {"loss": "hinge", "n_jobs": 2}, {"l1": 1e-3}, {"lr": "auto"}], ids=str)
def test_labels_are_fits_of_their_own(setting, rng, tmp_path):
    X, Y = problem(rng)
    Y = (Y > 0.2).astype(int)
    Y[:, 3] = 0  # a label that no sample has
    model = LinearClassifier(random_state=0, **setting).fit(X, Y)
    for k in (0, 1, 10):
        single = LinearClassifier(random_state=0, **setting).fit(X, Y[:, k])
        assert_bits(model.coef_[k], single.coef_[0])
        assert_bits(model.intercept_[k], single.intercept_[0])
        assert_bits(model.decision_function(X)[:, k], single.decision_function(X))
        if setting.get("loss") != "hinge":
            assert_bits(model.predict_proba(X)[:, k], single.predict_proba(X)[:, 1])
        assert (model.predict(X)[:, k] == single.predict(X)).all()
    assert (model.predict(X)[:, 3] == 0).all()
    assert model.classes_.tolist() == list(range(11))
    assert model.score(X, Y) == accuracy_score(Y, model.predict(X))
    other = model.to_sklearn()
    assert (other.predict(X) == model.predict(X)).all()
    np.testing.assert_allclose(other.decision_function(X), model.decision_function(X), rtol=0, atol=1e-5)
    save_model(tmp_path / "m.npz", model)
    again, _ = load_model(tmp_path / "m.npz")
    assert_bits(again.decision_function(X), model.decision_function(X))
    assert (again.predict(X) == model.predict(X)).all()
    again.partial_fit(X, Y)
    parts = LinearClassifier(shuffle=False, **setting)
    for half in (slice(0, 200), slice(200, 400)):
        parts.partial_fit(X[half], scipy_sparse.csr_array(Y[half]), classes=range(11))
    if "lr" not in setting:
        assert_bits(parts.coef_, LinearClassifier(shuffle=False, epochs=1, **setting).fit(X, Y.tolist()).coef_)


def test_two_labels_are_not_two_classes(rng, tmp_path):
    X, Y = problem(rng, k=2)
    Y = Y > 0
    model = LinearClassifier(random_state=0).fit(X, Y)
    save_model(tmp_path / "m.npz", model)
    for m in (model, load_model(tmp_path / "m.npz")[0]):
        assert m.coef_.shape == (2, 60)
        assert m.predict(X).shape == m.predict_proba(X).shape == (400, 2)
    again = LinearClassifier(random_state=0).fit(X, Y)
    with pytest.raises(fastopt.ShapeError, match="one dimension, and training began with 2 columns"):
        again.partial_fit(X, Y[:, 0].astype(int))
    assert again.fit(X, Y[:, 0]).predict(X).shape == (400,)
    with pytest.raises(fastopt.ShapeError, match="2 columns, and training began with one dimension"):
        again.partial_fit(X, Y)


def test_wrong_labels_are_said(rng):
    X, Y = problem(rng, 40)
    Y = (Y > 0).astype(int)
    for wrong, match in [
        (Y * 2, "column of 0 and 1"),
        (np.where(Y, "yes", "no"), "column of 0 and 1"),
        (Y.astype(object), "column of 0 and 1"),
        (np.where(Y, 1.0, np.nan), "NaN"),
        (Y[:, :0], "no label|0 feature"),
        (Y[:7], "inconsistent"),
        (Y[:, :, np.newaxis], "dim 3|1d array|y should be"),
    ]:
        for call in (LinearClassifier().fit, LinearClassifier().partial_fit):
            with pytest.raises(ValueError, match=match):
                call(X, wrong)
    with pytest.raises(fastopt.StateError, match="numbers of the 11 columns"):
        LinearClassifier().partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(fastopt.UnsupportedError, match="class_weight"):
        LinearClassifier(class_weight="balanced").fit(X, Y)
    with pytest.raises(fastopt.UnsupportedError, match="multinomial"):
        LinearClassifier(multi_class="multinomial").fit(X, Y)
    assert not LinearClassifier(multi_class="multinomial").__sklearn_tags__().classifier_tags.multi_label
    assert LinearClassifier().__sklearn_tags__().classifier_tags.multi_label


# ---------------------------------------------------------------------------------------------------- several penalties


def parts(n, seed, stratify=None, shuffle=True):
    """The rows that fit learns from and holds out, and the random state that then draws the same order."""
    random = np.random.RandomState(seed)
    if shuffle:
        random.randint(0, 2**31 - 1, 4)
    train, held = train_test_split(np.arange(n), test_size=0.1, random_state=random, stratify=stratify)
    return np.sort(train), np.sort(held)


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"optimizer": "adam", "lr": 0.01, "average": True},
        {"optimizer": "ftrl", "l1": 0.01},
        {"fit_intercept": False, "optimizer": "sgd", "shuffle": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("classes", [0, 2, 3])
@pytest.mark.parametrize("kind", ["csr", "dense"])
def test_the_penalty_of_the_least_loss_is_kept(setting, classes, kind, rng):
    X, Y = problem(rng, dtype=np.float64)
    X = X if kind == "csr" else X.toarray()
    y = Y[:, :classes].argmax(axis=1) if classes else Y[:, 0]
    cls = LinearClassifier if classes else LinearRegressor
    weights = rng.integers(1, 4, 400) if kind == "csr" else None
    l2s = [10.0, 0.03, 1e-3, 1.0]
    model = cls(l2=l2s, random_state=5, n_jobs=2, **setting).fit(X, y, weights)
    train, held = parts(400, 5, y if classes else None, setting.get("shuffle", True))
    losses = []
    for l2 in l2s:
        w = None if weights is None else weights[train]
        single = cls(l2=l2, random_state=5, **setting).fit(X[train], y[train], w)
        if classes:
            z = single.decision_function(X[held]).reshape(len(held), -1)
            t = np.where(y[held][:, np.newaxis] == np.arange(classes)[-z.shape[1] :], 1, -1)
            found = np.logaddexp(0, -t * z).mean(axis=1)
        else:
            found = (single.predict(X[held]) - y[held]) ** 2 / 2
        losses.append(np.average(found, weights=None if weights is None else weights[held]))
        if l2 == model.l2_:
            assert_bits(model.coef_, single.coef_)
            assert_bits(model.intercept_, single.intercept_)
            chosen = single
    np.testing.assert_allclose(model.validation_loss_, losses, rtol=1e-10)
    assert model.l2_ == l2s[int(np.argmin(losses))]
    assert_bits(model.penalties_, np.array(l2s))
    assert model.t_ == 360 * 5
    for m in (model, chosen):  # and it goes on as a model of that penalty
        m.set_params(l2=model.l2_).partial_fit(X, y)
    assert_bits(model.coef_, chosen.coef_)


def test_several_penalties_of_several_targets_and_labels(rng):
    X, Y = problem(rng)
    for cls, y in ((LinearRegressor, Y), (LinearClassifier, Y > 0)):
        model = cls(l2=(1e-3, 1.0), random_state=0).fit(X, y)
        train, _ = parts(400, 0)
        single = cls(l2=model.l2_, random_state=0).fit(X[train], y[train])
        assert_bits(model.coef_, single.coef_)
        assert model.validation_loss_.shape == (2,)
        assert model.predict(X).shape == Y.shape


def test_a_penalty_matters_and_the_search_finds_it(rng):
    """Few rows, many features, noise: without a penalty it overfits."""
    X = rng.standard_normal((300, 400))
    y = X[:, 0] + 3 * rng.standard_normal(300)
    model = LinearRegressor(optimizer="sgd", lr=0.002, l2=[0.0, 0.1, 1.0, 10.0], epochs=30, random_state=0).fit(X, y)
    assert model.l2_ > 0
    assert model.validation_loss_.min() < 0.9 * model.validation_loss_[0]


def test_models_of_several_penalties_are_estimators(rng, tmp_path, capsys):
    X, Y = problem(rng)
    y = Y[:, 0] > 0
    model = LinearClassifier(l2=np.array([1e-4, 1e-2]), random_state=0, verbose=1, epochs=2)
    assert_bits(clone(model).fit(X, y).coef_, model.fit(X, y).coef_)
    assert capsys.readouterr().out.count("validation loss") == 4
    again = pickle.loads(pickle.dumps(model))
    assert again.l2_ == model.l2_
    save_model(tmp_path / "m.npz", model)
    loaded, _ = load_model(tmp_path / "m.npz")
    assert loaded.l2 == model.l2_
    assert_bits(loaded.decision_function(X), model.decision_function(X))
    loaded.partial_fit(X, y)
    assert model.to_sklearn().alpha == model.l2_
    search = GridSearchCV(LinearClassifier(random_state=0), {"l2": [0.1, [1e-4, 1e-2]]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.5
    model.set_params(l2=0.1).fit(X, y)
    assert not hasattr(model, "l2_")
    assert not hasattr(model, "validation_loss_")
    assert LinearClassifier(l2=[0.1]).fit(X, y).l2_ == 0.1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"l2": []}, fastopt.HyperParameterError, "1 to 8 of them"),
        ({"l2": [0.1] * 9}, fastopt.HyperParameterError, "got 9; compare more by several calls"),
        ({"l2": [0.1, -1]}, fastopt.HyperParameterError, r"l2\[1\]"),
        ({"l2": [0.1, "a"]}, fastopt.HyperParameterError, r"l2\[1\]"),
        ({"l2": np.ones((2, 2))}, fastopt.HyperParameterError, r"l2\[0\]"),
        ({"l2": "0.1"}, fastopt.HyperParameterError, "l2 must be"),
        ({"l2": {0.1: 1}}, fastopt.HyperParameterError, "l2 must be"),
        ({"l2": None}, fastopt.HyperParameterError, "l2 must be"),
        ({"l2": np.array(-0.1)}, fastopt.HyperParameterError, "l2 must be"),
        ({"lr": "auto"}, fastopt.UnsupportedError, "number for lr"),
        ({"lr": lambda t: 0.1}, fastopt.UnsupportedError, "number for lr"),
        ({"mode": "minibatch"}, fastopt.UnsupportedError, "mode='sequential'"),
        ({"mode": "hogwild"}, fastopt.UnsupportedError, "mode='sequential'"),
        ({"l1": 0.1}, fastopt.UnsupportedError, "no l1"),
        ({"early_stopping": True}, fastopt.UnsupportedError, "early_stopping"),
        ({"tol": 1e-3}, fastopt.UnsupportedError, "tol"),
        ({"warm_start": True}, fastopt.UnsupportedError, "warm_start"),
        ({"multi_class": "multinomial"}, fastopt.UnsupportedError, "one l2"),
        ({"l2": [1e300, 0.1], "lr": 1e30}, fastopt.HyperParameterError, "too large"),
    ],
)
def test_what_a_grid_cannot_do(options, error, message, rng):
    X, Y = problem(rng, 50)
    with pytest.raises(error, match=message):
        LinearClassifier(**{"l2": [0.1, 0.2], **options}).fit(X, Y[:, :3].argmax(axis=1))


def test_a_grid_that_fails_leaves_the_model(rng, monkeypatch):
    X, Y = problem(rng)
    y = Y[:, 0]
    model = LinearRegressor(random_state=0).fit(X, y)
    before, predicted, known = model.coef_.copy(), model.predict(X), set(vars(model))
    model.set_params(l2=[0.1, 1e-3])
    with pytest.raises(fastopt.UnsupportedError, match="partial_fit has no rows held out"):
        model.partial_fit(X, y)
    model.set_params(lr=1e30, optimizer="sgd")
    with pytest.raises(fastopt.NonFiniteError, match="none has finite weights"):
        model.fit(X[:, :30], np.stack([y, y], axis=1))
    train = LaneTrainer.train

    def interrupted(*arguments):
        train(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(LaneTrainer, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.set_params(lr=0.1).fit(X[:, :30], np.stack([y, y], axis=1))
    monkeypatch.undo()
    assert (model.t_, model.n_iter_, model.n_features_in_) == (2000, 5, 60)
    assert set(vars(model)) == known
    assert_bits(model.coef_, before)
    assert_bits(model.predict(X), predicted)
    monkeypatch.setattr(lanes, "memory", lambda: 20_000)
    with pytest.raises(MemoryError, match=r"22 models of 60 features.*60 x 2 x 88 x 4 bytes.*give l2 one number"):
        LinearRegressor(l2=[0.1, 1e-3]).fit(X, Y)
    monkeypatch.undo()
    fitted = LinearRegressor(l2=[0.1, 1e-3], random_state=0).fit(X, y)
    with pytest.raises(fastopt.UnsupportedError, match=f"such as l2={fitted.l2_:g} that it chose"):
        fitted.partial_fit(X, y)
    fitted.l2.append(-1.0)
    with pytest.raises(fastopt.HyperParameterError, match=r"l2\[2\]"):
        fitted.fit(X, y)


def test_a_penalty_that_diverges_is_not_kept(rng):
    """Of two models one keeps its weights small enough. Where no loss is finite there is no least one."""
    X, Y = problem(rng, dtype=np.float64)
    with pytest.raises(fastopt.NonFiniteError, match="a finite loss on the rows held out"):
        LinearRegressor(l2=[0.0, 1.0], random_state=0).fit(X, np.where(np.arange(400) % 2, 1e200, -1e200))
    options = {"optimizer": "sgd", "lr": 20.0, "epochs": 30, "random_state": 0, "fit_intercept": False}
    model = LinearRegressor(l2=[0.0, 1e3], **options).fit(X * 3, Y[:, 0])
    assert model.l2_ == 1e3
    assert not np.isfinite(model.validation_loss_[0])
    assert np.isfinite(model.coef_).all()


def test_weights_that_are_not_finite_are_not_kept(rng, monkeypatch):
    X, Y = problem(rng)
    options = {"l2": [1e-3, 0.1, 1.0], "random_state": 0}
    best = LinearRegressor(**options).fit(X, Y[:, 0])
    assert best.l2_ == 1e-3
    whole = Lane.is_finite
    monkeypatch.setattr(Lane, "is_finite", lambda lane, indices: lane.k != 0 and whole(lane, indices))
    assert LinearRegressor(**options).fit(X, Y[:, 0]).l2_ == 0.1


def test_a_stream_of_labels_that_are_sparse_or_one_column():
    X, y = sparse.csr_matrix(np.eye(6)), np.array([[0, 1], [1, 0], [1, 1], [0, 0], [0, 1], [1, 0]])
    dense = LinearClassifier(random_state=0)
    rest = LinearClassifier(random_state=0)
    want = fit_stream(dense, [(X, y), (X, y)])
    assert fit_stream(rest, [(X, sparse.csr_array(y)), (X, sparse.coo_matrix(y))]).loss == want.loss
    assert (dense.coef_ == rest.coef_).all()
    one, column = LinearClassifier(random_state=0), LinearClassifier(random_state=0)
    assert fit_stream(one, [(X, y[:, 0])]).loss == fit_stream(column, [(X, y[:, :1])]).loss
    assert (one.coef_ == column.coef_).all()


def test_labels_in_a_list_of_arrays_without_dimensions():
    y = [np.array(k % 2) for k in range(6)]
    assert LinearClassifier(random_state=0).fit(np.eye(6), y).predict(np.eye(6)).shape == (6,)


def test_a_change_of_columns_says_how_to_start_again():
    model = LinearClassifier(random_state=0, warm_start=True).fit(np.eye(6), np.eye(6, 2, dtype=int))
    with pytest.raises(ShapeError, match="warm_start=False"):
        model.fit(np.eye(6), np.arange(6) % 2)


@pytest.mark.parametrize(
    ("about", "arrays"),
    [
        ({"columns": None}, {}),
        ({"columns": 2.0}, {}),
        ({"columns": True}, {}),
        ({}, {"coef": np.zeros((2, 0))}),
        (
            {"n_features": 6},
            {"coef_data": np.ones(2), "coef_indices": np.array([0.0, 1.0]), "coef_indptr": np.array([0, 1, 2])},
        ),
    ],
)
def test_damaged_files_of_several_targets_are_refused(about, arrays, rng, tmp_path):
    path = str(tmp_path / "m.npz")
    save_model(path, LinearRegressor(random_state=0).fit(np.eye(6), rng.random((6, 2))))
    known, kept = read_arrays(path, FORMAT)
    write_arrays(path, {**known, **about}, {**kept, **arrays})
    with pytest.raises(CheckpointError):
        load_model(path)
