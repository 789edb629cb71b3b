"""Training on pieces: the progressive loss, labels that come late, interruptions; the width of svmlight streams."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from scipy import sparse
from sklearn.datasets import dump_svmlight_file
from sklearn.linear_model import SGDClassifier

from fastopt.errors import HyperParameterError, ParseError, StateError
from fastopt.models import ColumnHasher, LinearClassifier, LinearRegressor, chunks, fit_stream, read_svmlight, streams
from fastopt.models.naming import names_of_columns
from fastopt.models.progressive import judge
from fastopt.scores import VALUES


def made(rng: np.random.Generator, rows: int = 600) -> tuple[Any, Any]:
    X = sparse.random(rows, 30, 0.2, "csr", np.float32, random_state=1)
    return X, X @ rng.standard_normal(30)


def cut(X: Any, *columns: Any, size: int = 100) -> Iterator[tuple[Any, ...]]:
    for k in range(0, X.shape[0], size):
        yield X[k : k + size], *(c[k : k + size] for c in columns)


# ------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_losses_of_a_classifier(loss, n_classes, rng):
    X, z = made(rng)
    y = np.digitize(z, np.quantile(z, np.arange(1, n_classes) / n_classes))
    model = LinearClassifier(loss, random_state=0).fit(X, y)
    found = judge(model, X, y)
    if loss == "log_loss":
        want = -np.log(model.predict_proba(X)[np.arange(len(y)), y])
    else:
        scores = model.decision_function(X).reshape(len(y), -1)
        signs = np.where(y[:, None] == ([1] if n_classes == 2 else np.arange(n_classes)), 1, -1)
        want = np.maximum(0, 1 - signs * scores).sum(axis=1)
    np.testing.assert_allclose(found.losses, want, rtol=1e-4, atol=1e-6)
    assert (found.right == (model.predict(X) == y)).all()
    if n_classes == 2:
        theirs = SGDClassifier(loss=loss, max_iter=3, tol=None).fit(X, y)
        assert (judge(theirs, X, y).right == (theirs.predict(X) == y)).all()


@pytest.mark.parametrize("loss", ["squared_error", "huber", "poisson"])
def test_the_losses_of_a_regressor(loss, rng):
    X, y = made(rng)
    y = np.exp(y / 3) if loss == "poisson" else y
    model = LinearRegressor(loss, lr=0.02).fit(X, y)
    z = np.log(model.predict(X)) if loss == "poisson" else model.predict(X)
    np.testing.assert_allclose(judge(model, X, y).losses, VALUES[loss](z.astype(float), y, 0.1), rtol=1e-6)


# -------------------------------------------------------------------------------------------------------------- stream


@pytest.mark.parametrize("weighted", [False, True])
def test_each_piece_is_predicted_and_then_learned(weighted, rng):
    X, z = made(rng)
    y, w = z > 0, rng.random(600) if weighted else np.ones(600)
    seen = []
    model = LinearClassifier(lr=0.3, random_state=0)
    progress = fit_stream(model, cut(X, y, *([w] if weighted else [])), callback=seen.append)
    other, losses = LinearClassifier(lr=0.3, random_state=0), []
    for A, b, v in cut(X, y, w):
        if losses:
            losses.append(judge(other, A, b).losses)
        else:
            losses.append(np.full(len(b), np.log(2)))
        other.partial_fit(A, b, classes=[False, True], sample_weight=v if weighted else None)
    assert (model.coef_ == other.coef_).all() and model.t_ == 600
    assert [p.rows for p in seen] == [100, 200, 300, 400, 500, 600]
    for k, p in enumerate(seen, 1):
        assert p.loss == pytest.approx(np.average(np.concatenate(losses[:k]), weights=w[: 100 * k]))
        assert p.last == pytest.approx(np.average(losses[k - 1], weights=w[100 * k - 100 : 100 * k]))
    assert (progress.rows, progress.nonzeros, progress.loss) == (600, X.nnz, seen[-1].loss)
    assert progress.weight == pytest.approx(w.sum()) and 0 <= progress.waited <= progress.seconds
    assert progress.loss < np.log(2)


@pytest.mark.parametrize(
    ("model", "labels", "want"),
    [
        (LinearClassifier(), np.array([0.0, 1.0]), np.log(2)),
        (LinearClassifier("squared_hinge"), np.array(["-1", "1"]), 1.0),
        (LinearClassifier(), np.arange(3), np.log(3)),
        (LinearClassifier("hinge"), np.arange(4), 4.0),
        (LinearRegressor("quantile", quantile=0.9), np.array([1.0, 3.0]), 1.8),
        (LinearRegressor("poisson"), np.array([1.0, 3.0]), 1.0),
    ],
)
def test_before_the_first_piece_all_scores_are_zero(model, labels, want):
    y = np.resize(labels, 12)
    X = sparse.csr_matrix(np.eye(12, dtype=np.float32))
    classes = labels if len(labels) > 2 else None
    assert fit_stream(model, [(X, y)], classes=classes).loss == pytest.approx(want)
    assert not hasattr(model, "classes_") or model.classes_.tolist() == labels.tolist()


def test_dense_pieces_and_lists(rng):
    X = rng.standard_normal((60, 4))
    X[rng.random(X.shape) < 0.5] = 0
    y, w = (X[:, 0] > 0).astype(int), rng.random(60)
    found, models = [], []
    for make in (sparse.csr_matrix, np.asarray):
        models.append(LinearClassifier(random_state=0))
        pieces = [(make(X[k : k + 20]), y[k : k + 20].tolist(), w[k : k + 20].tolist()) for k in (0, 20, 40)]
        found.append(fit_stream(models[-1], pieces))
    assert found[0].nonzeros == found[1].nonzeros == np.count_nonzero(X) and found[0].loss == found[1].loss
    assert (models[0].coef_ == models[1].coef_).all()


def test_pieces_without_rows_or_weight_are_passed_by(rng):
    X, z = made(rng)
    y = z > 0
    pieces = [(X[:0], y[:0]), (X[:50], y[:50], np.zeros(50)), (X, y, np.arange(X.shape[0])), (X, y)]
    model = LinearClassifier()
    assert fit_stream(model, pieces).rows == 1200  # the third has queries, not weights
    assert fit_stream(LinearClassifier(), []).rows == 0


@pytest.mark.parametrize(
    ("model", "pieces", "classes", "words"),
    [
        (LinearClassifier(), [[1.0, 1.0]], None, "rows 1 to 2 .*labels 1.0, of which it is not clear.*classes="),
        (LinearClassifier(), [[1.0, 2.0]], None, "labels 1.0, 2.0, of which it is not clear"),
        (
            LinearClassifier(),
            [[0.0, 1.0], [1.0, 2.0]],
            None,
            "rows 3 to 4 .*labels 2.0, which are not.*classes 0.0, 1.0",
        ),
        (LinearClassifier(), [["a", "b"], ["c", "a"]], ["a", "b"], "labels c, which are not among the classes a, b"),
        (LinearClassifier(), [[0.0, 1.0], [np.nan, 1.0]], None, "row 3 of the stream has the label nan"),
        (LinearRegressor(), [[0.0, 1.0], [2.0, np.nan]], None, "row 4 of the stream has the label nan"),
    ],
)
def test_labels_that_do_not_fit(model, pieces, classes, words):
    X = sparse.csr_matrix(np.eye(2, dtype=np.float32))
    with pytest.raises(StateError, match=words):
        fit_stream(model, [(X, np.array(y)) for y in pieces], classes=classes)
    assert getattr(model, "t_", 0) == 2 * (len(pieces) - 1)


def test_ctrl_c_ends_a_stream_after_the_piece_under_way(rng):
    X, z = made(rng)
    seen = []

    def callback(progress):
        seen.append(progress)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)

    model = LinearClassifier(random_state=0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            fit_stream(model, cut(X, z > 0), callback=callback)
    finally:
        signal.signal(signal.SIGINT, before)
    whole = LinearClassifier(random_state=0)
    fit_stream(whole, cut(X[:200], z[:200] > 0))
    assert seen[-1].rows == model.t_ == 200 and (model.coef_ == whole.coef_).all()


# --------------------------------------------------------------------------------------------------------------- width


@pytest.mark.parametrize("zero_based", [False, True])
@pytest.mark.parametrize("say", [False, True])
def test_the_file_is_scanned_for_its_width(zero_based, say, tmp_path, rng):
    X, _ = made(rng)
    X = sparse.csr_matrix(X.toarray()[:, [0, *range(29)]])  # the last column is empty
    path = tmp_path / "x.svm"
    dump_svmlight_file(X, np.zeros(600), str(path), zero_based=zero_based)
    options = {"zero_based": zero_based} if say else {}
    want = read_svmlight(path, **options)[0]
    pieces = [A for A, _ in chunks(path, rows=70, n_features="scan", **options)]
    found = sparse.vstack(pieces)
    assert found.shape == want.shape and (found != want).nnz == 0


def test_a_scan_needs_a_path(tmp_path):
    text = b"1 1:2\n"
    with pytest.raises(HyperParameterError, match="needs a path"):
        chunks(io.BytesIO(text), n_features="scan", zero_based=False)
    (tmp_path / "x").write_bytes(text + b"x\n")
    with pytest.raises(ParseError, match="line 2"):
        chunks(tmp_path / "x", n_features="scan")
    for options, word in (
        ({"n_features": "hash"}, "'scan'"),
        ({"n_features": "scan", "zero_based": "so"}, "zero_based"),
    ):
        with pytest.raises(HyperParameterError, match=word):
            chunks(tmp_path / "x", **options)
    (tmp_path / "x.ffm").write_bytes(b"1 0:7:1\n1\n")
    assert [X.shape for X, *_ in chunks(tmp_path / "x.ffm", n_features="scan")] == [(2, 8)]
    (tmp_path / "x").write_bytes(b"1\n")
    assert [X.shape for X, *_ in chunks(tmp_path / "x", n_features="scan")] == [(1, 1)]


# -------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_labels_as_texts_and_tables_without(form, tmp_path):
    """Rows without a label are left out, unless no label is asked for."""
    table = pa.table({"a": ["x", "y", "x", "z"], "label": ["no", None, "", "yes"]})
    path = tmp_path / f"t.{form}"
    (csv.write_csv if form == "csv" else parquet.write_table)(table, path)
    hasher = ColumnHasher(64, ["a"])
    ((X, y),) = chunks(path, hasher=hasher, label="label", texts=True)
    assert y.tolist() == ["no", "yes"] and (hasher.transform({"a": ["x", "z"]}) != X).nnz == 0
    ((X, y),) = chunks(path, hasher=hasher, label=None)
    assert y is None and (hasher.transform(table) != X).nnz == 0
    with pytest.raises(HyperParameterError, match="texts must be False"):
        chunks(path, hasher=hasher, label="label", texts=True, above=1.0)


def test_whole_numbers_as_texts(tmp_path):
    parquet.write_table(pa.table({"a": ["x", "y"], "label": [0, 1]}), tmp_path / "t.parquet")
    hasher = ColumnHasher(64, ["a"])
    model = LinearClassifier()
    fit_stream(model, chunks(tmp_path / "t.parquet", hasher=hasher, label="label", texts=True))
    assert model.classes_.tolist() == ["0", "1"]


def test_names_are_counted_over_all_pieces(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(streams, "ROWS", 100)
    a, b = rng.choice(["x", "y", "z"], 1000), rng.choice([None, "1"], 1000)
    parquet.write_table(pa.table({"a": a, "b": b}), tmp_path / "t.parquet")
    hasher = ColumnHasher(8, ["a"], [("a", "b")])
    found = names_of_columns(tmp_path / "t.parquet", "parquet", hasher, range(8))
    counts = {name: rows for names in found.values() for name, rows in names.items()}
    want = {f"a={x}": int((a == x).sum()) for x in "xyz"}
    want |= {f"a*b={x}*{y or ''}": int(((a == x) & (b == y)).sum()) for x in "xyz" for y in (None, "1")}
    assert counts == want
    for slot, names in found.items():
        for name in names:
            x, _, y = name.partition("=")[2].partition("*")
            place = hasher.transform({"a": [x], "b": [y]}).indices[int("*" in name)]
            assert place == slot


@pytest.mark.parametrize("source", ["path", "file"])
def test_a_process_ends_well_after_an_error_while_more_is_read(source, tmp_path):
    """pyarrow reads on in threads of its own, which must not be in Python when Python ends."""
    path = tmp_path / "t.csv"
    path.write_bytes(b"b,c\n" + b"x,y\n" * (1 << 21))
    program = f"""
import time
from fastopt.models import ColumnHasher, chunks
class Slow:
    def __init__(self):
        self.file = open({str(path)!r}, "rb")
    def read(self, size=-1):
        time.sleep(0.02)
        return self.file.read(min(size, 1 << 16))
source = {str(path)!r} if {source!r} == "path" else Slow()
try:
    next(chunks(source, reader="csv", hasher=ColumnHasher(16, ["a"]), label=None))
except ValueError as error:
    print(error)
"""
    for _ in range(3):
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (ran.returncode, "'a'" in ran.stdout) == (0, True), ran.stderr
