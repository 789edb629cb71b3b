"""Scores of many classes at once: their bits are those of each class by itself, over layouts, threads and builds."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, native_builds

import fastopt
from fastopt import kernels
from fastopt.csr import Rows
from fastopt.models import LinearClassifier, predictions, reference
from fastopt.models.files import load_model, save_model
from fastopt.models.lanes import Lane

scipy_sparse = pytest.importorskip("scipy.sparse")


def sparse_rows(rng, n, n_features, dtype, density=0.05):
    """CSR rows, some empty, one full, some with a repeated index."""
    X = scipy_sparse.random_array((n, n_features), density=density, format="csr", dtype=dtype, rng=rng)
    full = scipy_sparse.csr_array(rng.standard_normal((1, n_features)).astype(dtype))
    empty = scipy_sparse.csr_array((2, n_features), dtype=dtype)
    X = scipy_sparse.csr_array(scipy_sparse.vstack([X, empty, full, X[:3]], format="csr"))
    if len(X.indices) > 1:
        X.indices[1] = X.indices[0]
    return X


def fitted(rng, classes, n_features, dtype, **options):
    """A model of so many classes, each with samples."""
    n = 3 * classes + 30
    X = scipy_sparse.random_array((n, n_features), density=min(1.0, 5 / n_features), format="csr", dtype=dtype, rng=rng)
    y = np.arange(n) % classes
    return LinearClassifier(random_state=0, **{"epochs": 1, **options}).fit(X, y)


def class_by_class(model, X):
    return np.stack([model._score(m, X) for m in model._models], axis=1)


def check(model, X, message=""):
    want = class_by_class(model, X)
    assert_bits(model.decision_function(X), want, message)
    assert (model.predict(X) == model.classes_[want.argmax(axis=1)]).all(), message


# ---------------------------------------------------------------------------------------------------------------- bits


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_models", [1, 2, 15, 16, 17, 246])
def test_the_kernel_has_the_bits_of_single_models(n_models, dtype, use_build, forced, rng):
    for n_features, density in ((1, 0.5), (70, 0.2), (1100, 0.03)):
        X = sparse_rows(rng, 40, n_features, dtype, density)
        indptr, n, lanes = X.indptr.astype(np.int64), X.shape[0], -(-n_models // 8) * 8
        w = rng.standard_normal((n_features, lanes + 8)).astype(dtype)
        bias, up = rng.standard_normal(lanes).astype(dtype), rng.uniform(0.5, 1, lanes).astype(dtype)
        longest = int(np.diff(indptr).max())
        for scale in (None, up):
            want = np.empty((n, n_models + 3), dtype)
            want[:, :3] = 7
            for k in range(n_models):
                own = np.ascontiguousarray(w[:, k] if scale is None else w[:, k] * scale[k])
                z = np.empty(n, dtype)
                (reference.row_scores if k == 0 else kernels.drivers.row_scores)(
                    indptr, X.indices, X.data, own, float(bias[k]), z
                )
                want[:, 3 + k] = z
            for isa in native_builds():
                use_build(isa)
                for threads in (1, 2, 100):
                    forced(threads)
                    got = np.full_like(want, 7)
                    rows = indptr, X.indices, X.data
                    table = kernels.table[np.dtype(dtype).name]
                    failed = kernels.drivers.predictions(
                        table, *rows, w[:, :lanes], lanes, scale, bias, got, 3, n_models, longest, threads
                    )
                    assert failed == -1
                    assert_bits(got, want, f"{isa} {threads} {n_features}")


@needs_native
def test_indices_out_of_range_are_seen_in_every_row(forced, rng):
    X = sparse_rows(rng, 40, 50, np.float32)
    indptr, longest = X.indptr.astype(np.int64), int(np.diff(X.indptr).max())
    w, bias, out = np.ones((50, 8), np.float32), np.zeros(8, np.float32), np.empty((X.shape[0], 5), np.float32)
    for threads in (1, 3):
        forced(threads)
        for k, index in ((0, -1), (len(X.indices) - 1, 50), (len(X.indices) // 2, 2**31 - 1)):
            bad = X.indices.copy()
            bad[k] = index
            failed = kernels.drivers.predictions(
                kernels.table["float32"], indptr, bad, X.data, w, 8, None, bias, out, 0, 5, longest, threads
            )
            assert failed == np.searchsorted(indptr, k, "right") - 1


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [3, 15, 16, 17, 246])
@pytest.mark.parametrize("n_features", [1, 900])
def test_models_of_every_layout_predict_what_their_classes_do(classes, n_features, dtype, forced, rng):
    X = sparse_rows(rng, 60, n_features, dtype)
    for options in (
        {},
        {"l2": 0.01},
        {"n_jobs": 2, "optimizer": "sgd", "fit_intercept": False},
        {"multi_class": "multinomial"},
        {"average": True, "epochs": 2},
        {"mode": "minibatch"},
        {"l1": 1e-3},
        {"mode": "hogwild"},
    ):
        model = fitted(rng, classes, n_features, dtype, **options)
        assert isinstance(model._models[0].trainer, Lane) == (not {"l1", "mode"} & options.keys())
        found = predictions.trained_together(model._models)
        assert (found is None) == bool({"l1", "mode", "average"} & options.keys())
        for threads in (1, 2):
            forced(threads)
            model.set_params(n_jobs=threads)
            for Z in (X, X[:1], X[60:62], X[5:9]):
                check(model, Z, f"{options} {threads}")


@needs_native
def test_pieces_of_rows_and_blocks_of_classes_change_nothing(monkeypatch, rng):
    X = sparse_rows(rng, 60, 300, np.float32)
    for options in ({}, {"mode": "minibatch"}):
        model = fitted(rng, 40, 300, np.float32, **options)
        want = class_by_class(model, X)
        for name, value in (("MOST_SCORES", 1000), ("MOST_WEIGHTS", 300 * 4 * 16), ("PASS", 64)):
            monkeypatch.setattr(predictions, name, value)
            check(model, X, name)
        monkeypatch.setattr(predictions, "MOST_WEIGHTS", 1000)  # not even those of eight classes
        assert_bits(model.decision_function(X), want)
        monkeypatch.undo()


@needs_native
@pytest.mark.parametrize("layout", [{}, {"mode": "minibatch"}])
def test_the_first_of_equal_classes_wins_and_what_is_not_a_number_as_in_argmax(layout, monkeypatch, rng):
    model = fitted(rng, 20, 30, np.float32, **layout)
    X = sparse_rows(rng, 10, 30, np.float32)
    monkeypatch.setattr(predictions, "MOST_WEIGHTS", 30 * 4 * 8)
    rows = Rows(X.indptr.astype(np.int64), X.indices, X.data, X.shape)

    for weights in (
        np.zeros(20),
        np.full(20, -np.inf),
        np.where(np.arange(20) == 13, np.nan, np.arange(20)),
        np.where(np.arange(20) % 9 == 5, np.nan, np.inf),
        -np.arange(20.0) % 7,
    ):
        for m, w in zip(model._models, weights, strict=True):
            m.keep_best((np.full(30, w, np.float32), np.zeros(1, np.float32)))
        with np.errstate(all="ignore"):
            got, _ = predictions.likeliest(model._models, rows, 1)
            assert (got == class_by_class(model, X).argmax(axis=1)).all(), weights


# -------------------------------------------------------------------------------------------------------- what is right


@pytest.mark.parametrize("layout", [{}, {"mode": "minibatch"}, {"multi_class": "multinomial"}])
def test_bad_rows_are_refused_as_before(layout, rng):
    model = fitted(rng, 9, 200, np.float32, **layout)
    X = sparse_rows(rng, 30, 200, np.float32)
    for call in (model.predict, model.decision_function, model.predict_proba):
        for index in (-1, 200, 2**31 - 1):
            bad = X.copy()
            bad.indices[len(bad.indices) // 2] = index
            with pytest.raises((fastopt.FastoptError, ValueError), match=r"ind[ei]"):
                call(bad)
        for value in (np.nan, np.inf, -np.inf):
            bad = X.copy()
            bad.data[7] = value
            with pytest.raises(ValueError, match=r"NaN|infinity"):
                call(bad)
        bad = X.copy()
        bad.indptr[-1] += 10
        with pytest.raises((fastopt.FastoptError, ValueError)):
            call(bad)
        with pytest.raises(ValueError, match="features"):
            call(X[:, :100])
    huge = X.copy()
    huge.data[:] = np.finfo(np.float32).max  # finite, and scores are not
    with np.errstate(all="ignore"):
        assert len(model.predict(huge)) == X.shape[0]


def test_other_kinds_of_rows_predict_the_same(rng):
    model = fitted(rng, 9, 200, np.float32)
    X = sparse_rows(rng, 30, 200, np.float32)
    X.sum_duplicates()
    want = model.predict(X)
    long = X.copy()
    long.indices, long.indptr = long.indices.astype(np.int64), long.indptr.astype(np.int64)
    assert_bits(model.decision_function(long), model.decision_function(X))
    for Z in (long, X.tocsc(), X.toarray(), X.astype(np.float64)):
        assert (model.predict(Z) == want).all()
        np.testing.assert_allclose(model.decision_function(Z), model.decision_function(X), rtol=0, atol=1e-4)


def test_a_model_that_was_saved_or_copied_predicts_the_same(rng, tmp_path):
    model = fitted(rng, 17, 200, np.float32, l2=0.01)
    X = sparse_rows(rng, 30, 200, np.float32)
    save_model(tmp_path / "m.npz", model)
    want = model.decision_function(X)
    for again in (load_model(tmp_path / "m.npz")[0], pickle.loads(pickle.dumps(model))):
        assert_bits(again.decision_function(X), want)
        assert (again.predict(X) == model.predict(X)).all()


@needs_native
def test_predictions_hold_the_scores_of_some_rows_at_a_time(monkeypatch, rng):
    model = fitted(rng, 100, 50, np.float32)
    X = sparse_rows(rng, 3000, 50, np.float32)
    sizes = []
    whole = predictions.Block.scores

    def scores(self, rows, longest, out, *more):
        sizes.append(out.nbytes)
        return whole(self, rows, longest, out, *more)

    monkeypatch.setattr(predictions.Block, "scores", scores)
    monkeypatch.setattr(predictions, "MOST_SCORES", 100_000)
    model.predict(X)
    assert len(sizes) > 10
    assert max(sizes) <= 100_000
