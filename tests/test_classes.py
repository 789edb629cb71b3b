"""Lists of classes: the bits of records of all classes, memory that is had before it is needed, and manners."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, native_builds
from test_lanes import arguments, problem
from test_models import NAMES

import fastopt
from fastopt import kernels
from fastopt.models import LinearClassifier, classes, lanes
from fastopt.models.classes import LOSSES, ClassTrainer, stands_still
from fastopt.models.files import load_model, save_model
from fastopt.models.lanes import LaneTrainer
from fastopt.models.samples import SampleTrainer
from fastopt.optimizers.base import by_name

scipy_sparse = pytest.importorskip("scipy.sparse")
STILL = {"sgd": 0.05, "adagrad": 0.1, "signsgd": 0.03}  # and rates


def texts(rng, n, n_features, n_classes, dtype, longest=20):
    """CSR rows of which a few features are in most; some are empty, one is longer than a block of the dot product."""
    lengths = rng.integers(0, longest, n)
    lengths[-3] = n_features * 3 // 4
    often = 1 / np.arange(1, n_features + 1)
    indices = np.concatenate([rng.choice(n_features, k, replace=False, p=often / often.sum()) for k in lengths])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    y = (n_classes * rng.random(n) ** 3).astype(np.int32)
    return indptr, indices.astype(np.int32), rng.standard_normal(indptr[-1]).astype(dtype), y


def same(got: ClassTrainer, want: LaneTrainer, message: str) -> None:
    n = want.n_models
    assert got.steps == want.steps
    assert_bits(got.scale[:n], want.scale[:n], f"{message} scale")
    if want.bias is not None:
        assert_bits(got.bias[:, :n], want.bias[:, :n], f"{message} bias")
    for k in range(n):
        assert_bits(got.numbers_of(k), np.ascontiguousarray(want.numbers_of(k)), f"{message} class {k}")


def same_entries(got: ClassTrainer, want: ClassTrainer) -> None:
    *places, numbers = got.entries()
    *want_places, want_numbers = want.entries()
    assert np.array_equal(places, want_places)
    assert_bits(numbers, want_numbers)


def rooms(trainer: ClassTrainer) -> set[int]:
    return set(trainer.heads.view(np.uint16).reshape(-1, 4)[:, 3].tolist())


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(classes, "LEAST_CLASSES", 3)
    monkeypatch.setattr(classes, "LEAST_BYTES", 0)


# ---------------------------------------------------------------------------------------------------------------- bits


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", STILL)
def test_lists_have_the_bits_of_records(name, loss, dtype, use_build, rng):
    """With and without penalty, weights and intercept; the large penalty folds the scale in so often that weights become -0."""
    n_features, n = 1500, 150
    met: set[int] = set()
    for n_classes, l2, fit_intercept in [(40, 0.0, True), (21, 0.01, False), (40, 30.0, True), (70, 1e-3, True)]:
        data = texts(rng, n, n_features, n_classes, dtype)
        order = rng.permutation(n - 3).astype(np.int32)
        weights = rng.uniform(0.01, 2, n).astype(dtype) if l2 else None
        setting = {"loss": loss, "l2": l2, "fit_intercept": fit_intercept, "lr": STILL[name], "n_features": n_features}
        for isa in native_builds():
            use_build(isa)
            want = LaneTrainer(n_classes, *arguments(name, dtype, "native", **setting))
            got = ClassTrainer(n_classes, *arguments(name, dtype, "native", **setting))
            for rows in (order, order[:50], None):
                want.train(*data, rows, weights=weights)
                got.train(*data, rows, weights=weights)
                met |= rooms(got)
                same(got, want, f"{isa} {n_classes} {setting}")
    assert {0, 4, 8, 16, 32, 40, 72} <= met


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_lists_equal_the_reference(loss, dtype, use_build, rng):
    data = texts(rng, 40, 300, 19, dtype, 12)
    weights = rng.uniform(0.01, 2, 40).astype(dtype)
    for name, l2, fit_intercept in [("adagrad", 0.0, True), ("sgd", 30.0, False), ("signsgd", 1e-2, True)]:
        setting = {"loss": loss, "l2": l2, "fit_intercept": fit_intercept, "lr": STILL[name], "n_features": 300}
        want = ClassTrainer(19, *arguments(name, dtype, "numpy", **setting))
        for rows in (np.arange(20, 37, dtype=np.int32), None):
            want.train(*data, rows, weights=weights)
        for isa in native_builds():
            use_build(isa)
            got = ClassTrainer(19, *arguments(name, dtype, "native", **setting))
            for rows in (np.arange(20, 37, dtype=np.int32), None):
                got.train(*data, rows, weights=weights)
            same(got, want, f"{isa} {setting}")


@needs_native
def test_weights_of_minus_zero_move_as_in_records(rng):
    """Penalties make them, and a gradient of -0 makes them +0."""
    setting = {"loss": "hinge", "l2": 30.0, "n_features": 60}
    want = LaneTrainer(20, *arguments("sgd", np.float32, "native", **setting))
    got = ClassTrainer(20, *arguments("sgd", np.float32, "native", **setting))
    found = 0
    for _ in range(40):
        indptr, indices, data, y = texts(rng, 30, 60, 20, np.float32, 4)
        rows = np.arange(27, dtype=np.int32)
        for trainer in (want, got):
            trainer.train(indptr, indices, data, y, rows)
        weights = want.records[:, 0]
        found += int(((weights == 0) & np.signbit(weights)).sum())
        same(got, want, "")
    assert found


@needs_native
@pytest.mark.parametrize("sign", [-1, 1])
def test_slopes_of_minus_zero_are_slopes(sign):
    """They come of tiny sample weights. A restored weight of -0 becomes +0, or not, by the sign of its gradient."""
    indptr, indices = np.array([0, 2], np.int64), np.array([3, 1], np.int32)
    data, y = np.array([sign, 1], np.float32), np.array([2], np.int32)
    weights = np.array([1e-45], np.float32)
    found = []
    for kind in (LaneTrainer, ClassTrainer):
        trainer = kind(
            9, *arguments("sgd", np.float32, "native", loss="squared_hinge", n_features=5, fit_intercept=False)
        )
        for k in range(9):
            trainer.restore(k, np.array([0, 0.9 if k == 2 else -0.9, 0, -0.0, 0], np.float32), np.zeros(1))
        for _ in range(2):
            trainer.train(indptr, indices, data, y, None, weights=weights)
        found.append(trainer)
    same(found[1], found[0], "")
    negative = [bool(np.signbit(found[0].numbers_of(k)[3, 0])) for k in range(9)]
    assert negative == [sign > 0 if k != 2 else sign < 0 for k in range(9)]


def test_weights_of_minus_zero_are_shown_as_in_records(monkeypatch, rng):
    X, y = problem(rng, 300, classes=6)
    want, got = (m.fit(X, y).coef_ for m in both(monkeypatch, "hinge", optimizer="sgd", lr=50, l2=30, epochs=1))
    assert ((want == 0) & np.signbit(want)).any()
    assert_bits(got, want)


@needs_native
def test_a_zero_gradient_moves_nothing_with_these_optimizers_alone():
    still = set()
    for name in NAMES:
        cls, options = by_name(name)
        options = cls.fill_options({**options, "lr": 0.1})
        found = {stands_still(cls, options, np.dtype(dtype)) for dtype in (np.float32, np.float64)}
        assert len(found) == 1
        if found.pop():
            still.add(name)
    assert still == set(STILL)
    schedule = fastopt.schedules.InverseTime(0.1, 0.1)
    assert stands_still(fastopt.SGD, fastopt.SGD.fill_options({"lr": schedule}), np.dtype(np.float32))


# -------------------------------------------------------------------------------------------------------------- memory


@needs_native
def test_memory_grows_between_samples(rng):
    """In small pieces, whose ends lists do not straddle; without memory, the models stay those of the sample before."""
    data = texts(rng, 80, 2000, 40, np.float64)
    setting = {"loss": "squared_hinge", "l2": 1e-3, "n_features": 2000}
    want, got, poor = (ClassTrainer(40, *arguments("adagrad", np.float64, "native", **setting)) for _ in range(3))
    got._chunk = poor._chunk = 1 << 9
    for trainer in (want, got):
        trainer.train(*data, None)
    assert len(got.chunks) > 20
    assert len(got.chunks) > len(want.chunks)
    same_entries(got, want)

    def plan(more: int) -> None:
        if len(poor.chunks) > 6:
            raise MemoryError("no more")

    poor._plan = plan
    with pytest.raises(MemoryError, match="no more"):
        poor.train(*data, None)
    assert 0 < poor.steps < 80
    again = ClassTrainer(40, *arguments("adagrad", np.float64, "native", **setting))
    again.train(*data, np.arange(poor.steps, dtype=np.int32))
    same_entries(poor, again)
    assert poor.scale[0] == again.scale[0]


@needs_native
def test_lists_that_moved_leave_their_room_to_others(rng):
    trainer = ClassTrainer(64, *arguments("adagrad", np.float32, "native", loss="hinge", n_features=500))
    # A list grows through all rooms, then the next.
    features, of = (a.ravel().astype(np.int32) for a in np.mgrid[:500, :64])
    numbers = rng.random((len(features), 2), np.float32)
    trainer._store(features, of, numbers)
    found = trainer.entries()
    assert np.array_equal(found[:2], [features, of])
    assert_bits(found[2], numbers)
    assert int(trainer.book[0]) * 8 < 500 * 64 * 2 * 4 + 3000  # and what ends of pieces cost


@needs_native
def test_the_plan_is_checked(monkeypatch, always, rng):
    X, y = problem(rng, 300, classes=5)
    monkeypatch.setattr(lanes, "memory", lambda: 20_000)
    with pytest.raises(MemoryError, match=r"take a hinge loss"):
        LinearClassifier().fit(X, y)
    monkeypatch.setattr(classes, "memory", lambda: 20_000)
    with pytest.raises(MemoryError, match=r"the lists of 5 classes for 400 features.*hash to fewer"):
        LinearClassifier("hinge").fit(X, y)


# ---------------------------------------------------------------------------------------------------------- estimators


def both(monkeypatch, *args, **options):
    """Models of the dense and of the sparse layout."""
    models = []
    for n_bytes in (1 << 60, 0):
        monkeypatch.setattr(classes, "LEAST_CLASSES", 3)
        monkeypatch.setattr(classes, "LEAST_BYTES", n_bytes)
        models.append(LinearClassifier(*args, random_state=0, **options))
        yield models[-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_models_are_those_of_the_dense_layout(n_jobs, dtype, forced, monkeypatch, rng):
    """Also where rows repeat a feature, with weights of samples and classes, schedules, and when training goes on."""
    forced(2)
    X, y = problem(rng, 700, classes=19, dtype=dtype)
    columns = rng.integers(0, 30, X.nnz).astype(np.int32)  # many twice in their row
    X = scipy_sparse.csr_array((X.data, columns, X.indptr), shape=X.shape)
    weights = rng.uniform(0.1, 2, 700)
    for loss in LOSSES:
        for options in (
            {"l2": 1e-3, "class_weight": "balanced"},
            {"optimizer": "sgd", "lr": fastopt.schedules.InverseTime(0.1, 0.01)},
        ):
            found = []
            for model in both(monkeypatch, loss, epochs=2, n_jobs=n_jobs, warm_start=True, **options):
                model.fit(X, y, weights)
                parts = [model.coef_, model.intercept_, model.decision_function(X), model.predict(X)]
                model.set_params(class_weight=None).partial_fit(X[:200], y[:200])
                parts += [model.coef_, model.decision_function(X[:9])]
                model.set_params(epochs=1).fit(X[200:], y[200:])
                parts += [model.coef_, model.decision_function(X[:9].toarray())]
                found.append((model.layout_, parts))
            (dense, want), (sparse, got) = found
            assert (dense, sparse) == ("dense", "sparse")
            for a, b in zip(got, want, strict=True):
                assert_bits(a, b, f"{loss} {options}")


def test_other_ways_of_training_take_over(monkeypatch, rng):
    """Early stopping, hogwild and batches train each class by itself; averages go on."""
    X, y = problem(rng, 500, classes=6)
    for way in (
        {"mode": "hogwild"},
        {"early_stopping": True, "epochs": 3},
        {"average": True},
    ):
        want, got = both(monkeypatch, "hinge", l2=1e-4, epochs=1, warm_start=True)
        for model in (want, got):
            model.fit(X, y)
        assert got.layout_ == "sparse"
        for model in (want, got):
            model.set_params(**way).fit(X, y)
        assert_bits(got.coef_, want.coef_)
        assert_bits(got.decision_function(X), want.decision_function(X))
        if "average" not in way:
            assert got.layout_ == "dense"
            assert isinstance(got._models[0].trainer, SampleTrainer)


def test_models_stay_together_where_memory_does_not_suffice_for_each_alone(monkeypatch, rng):
    X, y = problem(rng, 300, classes=6)
    for model in both(monkeypatch, "hinge", epochs=1, warm_start=True):
        want = model.fit(X, y).coef_
        whole, made = LaneTrainer.alone, []

        def alone(self, k, into=None, whole=whole, made=made):
            made.append(k)
            if len(made) > 3:
                raise MemoryError("no more")
            return whole(self, k, into)

        with monkeypatch.context() as patch:
            patch.setattr(LaneTrainer, "alone", alone)
            with pytest.raises(MemoryError, match="no more"):
                model.set_params(mode="hogwild").fit(X, y)
        assert_bits(model.coef_, want)
        model.set_params(mode="sequential").fit(X, y)
        assert model.t_ == 600


def test_intercepts_are_read_without_making_weights(monkeypatch, rng):
    X, y = problem(rng, 300, classes=6)
    for options in ({}, {"mode": "minibatch"}, {"average": True}):
        for model in both(monkeypatch, "hinge", epochs=1, **options):
            model.fit(X, y)
            with monkeypatch.context() as patch:
                for kind in (SampleTrainer, LaneTrainer, ClassTrainer):
                    patch.setattr(kind, "weights", None)
                got = model.intercept_
            assert_bits(got, np.concatenate([one.parameters()[1] for one in model._models]))


def test_layouts_are_chosen(always, rng):
    X, y = problem(rng, 300, classes=6)
    for options in (
        {"loss": "log_loss"},
        {"optimizer": "adam"},
        {"optimizer": "ftrl"},
        {"average": True},
        {"early_stopping": True},
        {"mode": "hogwild"},
        {"multi_class": "multinomial", "loss": "log_loss"},
    ):
        assert LinearClassifier(**{"loss": "hinge", **options}).fit(X, y).layout_ == "dense"
    assert LinearClassifier("hinge").fit(X, y).layout_ == "sparse"
    assert LinearClassifier("hinge").fit(X, y > 2).layout_ == "dense"
    with pytest.raises(AttributeError, match="layout_ does not exist"):
        print(LinearClassifier().layout_)


def test_small_models_stay_dense(monkeypatch, rng):
    """Where there is memory for them."""
    X, _ = problem(rng, 300)
    y = np.arange(300) % 40
    assert LinearClassifier("hinge").fit(X, y).layout_ == "dense"
    monkeypatch.setattr(classes, "memory", lambda: 2 * 400 * 40 * 2 * 4 - 1)
    assert LinearClassifier("hinge").fit(X, y).layout_ == "sparse"


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_lists_are_saved_and_pickled(n_jobs, always, rng, tmp_path):
    X, y = problem(rng, 500, classes=11)
    model = LinearClassifier("hinge", l2=1e-3, n_jobs=n_jobs, random_state=0).fit(X, y)
    save_model(tmp_path / "m.npz", model)
    with np.load(tmp_path / "m.npz") as file:
        assert "coef" not in file.files
        assert len(file["coef_data"]) < 11 * 400
    loaded, _ = load_model(tmp_path / "m.npz")
    copied = pickle.loads(pickle.dumps(model))
    for other in (loaded, copied):
        assert other.layout_ == "sparse"
        assert_bits(other.coef_, model.coef_)
        assert_bits(other.intercept_, model.intercept_)
        assert_bits(other.decision_function(X), model.decision_function(X))
    for other in (copied, model):
        other.partial_fit(X, y)
    assert_bits(copied.coef_, model.coef_)
    loaded.partial_fit(X, y)
    assert loaded.score(X, y) > 0.3


def test_a_saved_model_may_have_another_layout(monkeypatch, rng, tmp_path):
    X, y = problem(rng, 300, classes=5)
    for k, model in enumerate(both(monkeypatch, "hinge")):
        save_model(tmp_path / f"{k}.npz", model.fit(X, y))
    sparse, _ = load_model(tmp_path / "0.npz")
    monkeypatch.setattr(classes, "LEAST_BYTES", 1 << 60)
    dense, _ = load_model(tmp_path / "1.npz")
    assert (sparse.layout_, dense.layout_) == ("sparse", "dense")
    assert_bits(sparse.coef_, dense.coef_)


def test_verbose_looks_at_all_classes(monkeypatch, capsys, rng):
    X, y = problem(rng, 300, classes=5)
    printed = []
    for model in both(monkeypatch, "squared_hinge", verbose=1, epochs=2):
        model.fit(X, y)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].count("training loss") == 2


def test_what_is_not_finite_is_found(always, rng):
    X, y = problem(rng, 300, classes=5)
    model = LinearClassifier("hinge").fit(X, y)
    bad = X[:5].copy()
    bad.data[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.decision_function(bad)
    with pytest.raises(fastopt.errors.NonFiniteError, match="diverged"):
        LinearClassifier("squared_hinge", optimizer="sgd", lr=1e30).fit(X, y)


@needs_native
def test_indices_out_of_bounds_are_refused(always, rng):
    X, y = problem(rng, 300, classes=5)
    model = LinearClassifier("hinge").fit(X, y)
    bad = X[:5].copy()
    bad.indices[2] = 400
    with pytest.raises(fastopt.errors.IndexRangeError):
        model.decision_function(bad)
    trainer = model._models[0].trainer.group
    out = np.empty((5, 5), np.float32)
    rows = (bad.indptr.astype(np.int64), bad.indices.astype(np.int32), bad.data)
    bias = np.zeros(5, np.float32)
    table = kernels.table["float32"]
    assert kernels.drivers.class_scores(table, trainer._lists(), *rows, 1.0, bias, out, 0) >= 0


def test_predictions_wait_while_another_thread_trains(always, rng):
    """Lists move when they grow."""
    X, y = problem(rng, 600, classes=9)
    model = LinearClassifier("hinge", random_state=0).fit(X, y)
    with ThreadPoolExecutor(1) as pool, model._models[0].trainer.group._lock:
        calls = [pool.submit(call) for call in (lambda: model.predict(X), lambda: model.coef_)]
        with pytest.raises(TimeoutError):
            calls[0].result(0.2)
        assert not any(call.done() for call in calls)
        model.partial_fit(X, y)  # this thread may
    assert (calls[0].result() == model.predict(X)).all()
    assert_bits(calls[1].result(), model.coef_)


def test_weights_of_single_features(always, rng):
    """A few rows of another index type need no array of all weights."""
    X, y = problem(rng, 300, classes=5)
    model = LinearClassifier("hinge").fit(X, y)
    few = X[:3].copy()
    few.indices = few.indices.astype(np.int64)
    assert_bits(model.decision_function(few), model.decision_function(X[:3]))
    features = np.array([3, 1, 399])
    for k, one in enumerate(model._models):
        assert_bits(one.trainer.weights_of(features), model.coef_[k, features])


@needs_native
def test_lists_without_permission_to_write_predict(always, rng):
    """As joblib maps them."""
    X, y = problem(rng, 300, classes=5)
    model = LinearClassifier("hinge", random_state=0).fit(X, y)
    group = model._models[0].trainer.group
    want = model.decision_function(X)
    for a in (group.heads, group.book, *group.chunks):
        a.flags.writeable = False
    assert_bits(model.decision_function(X), want)
    assert_bits(model.coef_, pickle.loads(pickle.dumps(model)).coef_)
    with pytest.raises(fastopt.errors.ReadOnlyError, match="cannot be written"):
        model.partial_fit(X, y)
    for a in (group.heads, group.book):  # too small to be mapped
        a.flags.writeable = True
    with pytest.raises(fastopt.errors.ReadOnlyError, match="cannot be written"):
        model.partial_fit(X, y)


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_have_the_bits_of_single_models_in_each_build(dtype, use_build, forced, monkeypatch, rng):
    forced(2)
    X, y = problem(rng, 2000, classes=7, dtype=dtype)
    for isa in native_builds():
        use_build(isa)
        want, got = (m.fit(X, y).decision_function(X) for m in both(monkeypatch, "hinge", l2=1e-3, epochs=1, n_jobs=2))
        assert_bits(got, want, isa)
