"""Columns of any type: numbers and categories, against scikit-learn's FeatureHasher; whole, in pieces, saved; fields."""

from __future__ import annotations

import datetime
import decimal
import io
import random
import tracemalloc
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher

from fastopt.errors import DTypeError, HyperParameterError, NonFiniteError, ParseError, ShapeError, UnsupportedError
from fastopt.models import (
    ColumnHasher,
    FFMClassifier,
    FMClassifier,
    LinearClassifier,
    chunks,
    feature_fields,
    fit_stream,
    load_model,
    read_libffm,
    save_model,
    streams,
)

D = decimal.Decimal
N = 2**16


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """A warning fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def same(a: Any, b: Any) -> None:
    """The same entries in the same order, to the bit."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.float32
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


def hashed(column: Any, **options: Any) -> Any:
    return ColumnHasher(N, ["a"], **options).transform({"a": column})


# ------------------------------------------------------------------------------------------------------------- numbers


def test_numbers_and_categories_are_those_of_feature_hasher() -> None:
    draw = random.Random(0)
    rows: list[dict[str, Any]] = [
        {
            "floß": draw.choice([draw.gauss(0, 1), 0.0, -0.0, 1e-30, 1.5e38, None, float("nan")]),
            "whole": draw.randrange(-5, 5),
            "flag": draw.random() < 0.5,
            "truth": draw.random() < 0.5,
            "text": draw.choice(["x", "y=", "", "ß"]),
            "money": D(draw.randrange(-500, 500)) / 100,
        }
        for _ in range(500)
    ]
    numbers = ("floß", "whole", "flag", "money")
    peer = FeatureHasher(N, dtype=np.float32, alternate_sign=False)
    known = [{k: r[k] for k in numbers if r[k] is not None and r[k] == r[k]} for r in rows]
    texts = [{k: str(r[k]) for k in ("truth", "text")} for r in rows]
    want = peer.transform(known) + peer.transform(texts) * np.float32(1 / np.sqrt(6))
    hasher = ColumnHasher(N, list(rows[0]), numeric=["whole", "flag"])
    columns = {name: [r[name] for r in rows] for name in rows[0]}
    for table in (columns, pa.table(columns)):
        found = hasher.transform(table)
        assert found.data.all() and found.nnz == want.nnz
        assert (found != want).nnz == 0


NUMBERS = [0.5, -2.25, 3.0, 0.0, None, 1024.0, None, -7.0]
TEXTS = ["0.5", " -2.25 ", "3", "0e0", "NA", "1_024".replace("_", ""), "", "-7.000"]
FILLED = np.array([np.nan if v is None else v for v in NUMBERS])
WHOLE = [1, -2, 3, 0, None, 1024, None, 7]

SAME: dict[str, tuple[list[Any], Any, list[str]]] = {
    "tuple": (NUMBERS, tuple(NUMBERS), []),
    "NaN": (NUMBERS, FILLED.tolist(), []),
    "numpy": (NUMBERS, FILLED, []),
    "numpy strided": (NUMBERS, np.repeat(FILLED, 2)[::2], []),
    "numpy foreign order": (NUMBERS, FILLED.astype(">f8"), []),
    "numpy float32": (NUMBERS, FILLED.astype(np.float32), []),
    "numpy float16": (NUMBERS, FILLED.astype(np.float16), []),
    "numpy long double": (NUMBERS, FILLED.astype(np.longdouble), []),
    "numpy objects": (NUMBERS, np.array(NUMBERS, object), []),
    "numpy scalars": (NUMBERS, list(FILLED.astype(np.float32)), []),
    "decimals": (NUMBERS, [None if v is None else D(str(v)) for v in NUMBERS], []),
    "arrow": (NUMBERS, pa.array(NUMBERS), []),
    "arrow float32": (NUMBERS, pa.array(NUMBERS, pa.float32()), []),
    "arrow float16": (NUMBERS, pa.array([None if v is None else np.float16(v) for v in NUMBERS], pa.float16()), []),
    "arrow NaN": (NUMBERS, pa.array(FILLED), []),
    "arrow sliced": (NUMBERS, pa.array([9.0, *NUMBERS, 8.0]).slice(1, 8), []),
    "arrow chunked": (NUMBERS, pa.chunked_array([NUMBERS[:3], NUMBERS[3:]], pa.float64()), []),
    "arrow dictionary": (NUMBERS, pa.array(NUMBERS).dictionary_encode(), []),
    "arrow decimal": (NUMBERS, pa.array([None if v is None else D(str(v)) for v in NUMBERS], pa.decimal128(9, 3)), []),
    "arrow decimal dictionary": (
        NUMBERS,
        pa.array([None if v is None else D(str(v)) for v in NUMBERS], pa.decimal128(9, 3)).dictionary_encode(),
        [],
    ),
    "arrow big decimal": (
        NUMBERS,
        pa.array([None if v is None else D(str(v)) for v in NUMBERS], pa.decimal256(50, 30)),
        [],
    ),
    "texts": (NUMBERS, TEXTS, ["a"]),
    "numpy texts": (NUMBERS, np.array(TEXTS), ["a"]),
    "arrow texts": (NUMBERS, pa.array(TEXTS), ["a"]),
    "arrow plain texts": (NUMBERS, pa.array([None if v is None else str(v) for v in NUMBERS]), ["a"]),
    "arrow texts, chunked": (NUMBERS, pa.chunked_array([TEXTS[:3], TEXTS[3:]]), ["a"]),
    "arrow texts, dictionary": (NUMBERS, pa.array(TEXTS).dictionary_encode(), ["a"]),
    "arrow texts that only Python reads": (NUMBERS, pa.array([t.replace("3", "\uff13") for t in TEXTS]), ["a"]),
    "whole": ([None if v is None else float(v) for v in WHOLE], WHOLE, ["a"]),
    "whole and others": (NUMBERS, [int(v) if v in (3, 0) else v for v in NUMBERS], ["a"]),
    "whole, arrow": ([None if v is None else float(v) for v in WHOLE], pa.array(WHOLE), ["a"]),
    "whole, arrow dictionary": (
        [None if v is None else float(v) for v in WHOLE],
        pa.array(WHOLE).dictionary_encode(),
        ["a"],
    ),
    "large whole": ([2.0**63] * 8, np.full(8, 2**63 + 1, np.uint64), ["a"]),
    "large whole, arrow": ([2.0**63] * 8, pa.array([2**63 + 1] * 8, pa.uint64()), ["a"]),
    "truth": ([1.0, 0.0] * 4, [True, False] * 4, ["a"]),
    "numpy truth": ([1.0, 0.0] * 4, np.array([True, False] * 4), ["a"]),
    "arrow truth": ([1.0, None] * 4, pa.array([True, None] * 4), ["a"]),
    "nothing": ([np.nan] * 8, [None] * 8, ["a"]),
    "nothing, arrow": ([np.nan] * 8, pa.nulls(8), ["a"]),
}


class Series:
    """A Series as far as it matters."""

    def __init__(self, values: list[object], dtype: str) -> None:
        self.values, self.dtype = values, dtype

    def to_list(self) -> list[object]:
        return self.values


@pytest.mark.parametrize(("expected", "column", "numeric"), SAME.values(), ids=SAME)
def test_same_numbers_same_matrix(expected: list[Any], column: Any, numeric: list[str]) -> None:
    want = hashed(np.array(expected, float))
    place = FeatureHasher(N, alternate_sign=False).transform([{"a": 1.0}]).indices
    known = [v for v in expected if v is not None and v == v and v != 0]
    assert want.data.tolist() == known and (want.indices == place).all()
    same(hashed(column, numeric=numeric), want)


@pytest.mark.parametrize("dtype", ["float64", "Float64", "Float32"])
def test_a_series_of_floats_without_a_number(dtype: str) -> None:
    assert hashed(Series([float("nan"), None], dtype)).nnz == 0
    assert hashed(Series([None, None], "object")).nnz == 2


def test_what_is_left_out() -> None:
    """Zeros, missing values, and what float32 makes 0 of; categories are there in every row."""
    X = ColumnHasher(N, ["a", "c"]).transform({"a": [0.0, None, 1e-60, 2.0], "c": ["x", None, "x", "x"]})
    np.testing.assert_array_equal(X.indptr, [0, 1, 2, 3, 5])
    assert X.data.tolist() == [np.float32(1 / np.sqrt(2))] * 3 + [2.0, np.float32(1 / np.sqrt(2))]
    X.check_format(full_check=True)


@pytest.mark.parametrize(
    "column",
    [
        [],
        np.empty(0),
        np.empty(0, np.int64),
        *(
            pa.chunked_array([], kind)
            for kind in (
                pa.float16(),
                pa.float32(),
                pa.decimal128(5, 2),
                pa.string(),
                pa.string_view(),
                pa.dictionary(pa.int8(), pa.float64()),
                pa.dictionary(pa.int8(), pa.string()),
                pa.null(),
                pa.bool_(),
            )
        ),
    ],
    ids=lambda c: str(getattr(c, "type", type(c))),
)
@pytest.mark.parametrize("option", ["numeric", "categories"])
def test_no_rows(column: Any, option: str) -> None:
    options: Any = {option: ["a"]}
    X = ColumnHasher(N, ["a"], [("a", "b")], **options).transform({"a": column, "b": []})
    assert X.shape == (0, N) and X.nnz == 0


def test_decimals_are_read_exactly() -> None:
    """As Python's float of their text: by way of powers of ten the last bit would be wrong for some."""
    draw = random.Random(3)
    values = [D(draw.randrange(10**8, 10**9)) / 100 for _ in range(500)]
    hasher = ColumnHasher(4, ["a"])
    column = hasher._read({"a": pa.array(values)}, str)["a"]
    assert column.numbers is not None and column.numbers.tolist() == [float(v) for v in values]


# ---------------------------------------------------------------------------------------------------------- categories

UTC = datetime.UTC
PARIS = datetime.timezone(datetime.timedelta(hours=1))
MOMENT = datetime.datetime(2013, 1, 31, 5, 0, 0)
CATEGORIES: list[tuple[Any, list[str]]] = [
    ([True, False, None], ["True", "False", ""]),
    (np.array([True, False]), ["True", "False"]),
    (list(np.array([True, False])), ["True", "False"]),
    (pa.array([True, None, False]), ["True", "", "False"]),
    (pa.array([True, False, True]).dictionary_encode(), ["True", "False", "True"]),
    ([datetime.date(2013, 1, 31), None], ["2013-01-31", ""]),
    (np.array(["2013-01-31", "NaT"], "M8[D]"), ["2013-01-31", ""]),
    (np.array(["2013-01", "NaT"], "M8[M]"), ["2013-01-01", ""]),
    (np.array(["2013-01-31T05"], "M8[h]"), ["2013-01-31T05:00:00"]),
    (np.array(["2013-01-31T05:00:00.25", "NaT"], "M8[ns]"), ["2013-01-31T05:00:00.25", ""]),
    (pa.array([datetime.date(2013, 1, 31), None], pa.date32()), ["2013-01-31", ""]),
    (pa.array([datetime.date(2013, 1, 31), None], pa.date64()), ["2013-01-31", ""]),
    ([MOMENT, None], ["2013-01-31T05:00:00", ""]),
    ([MOMENT.replace(microsecond=250_000)], ["2013-01-31T05:00:00.25"]),
    ([MOMENT.replace(tzinfo=PARIS), MOMENT.replace(tzinfo=UTC)], ["2013-01-31T04:00:00Z", "2013-01-31T05:00:00Z"]),
    ([datetime.time(5, 30), datetime.time(5, 30, 0, 500)], ["05:30:00", "05:30:00.0005"]),
    (pa.array([datetime.time(5, 30), None], pa.time32("ms")), ["05:30:00", ""]),
    (pa.array([19_800 * 10**9 + 5], pa.time64("ns")), ["05:30:00.000000005"]),
    (pa.array([7, None]).dictionary_encode(), ["7", ""]),
]
for unit in ("s", "ms", "us", "ns"):
    for zone, end in ((None, ""), ("UTC", "Z"), ("+01:00", "Z")):
        moments = pa.array([MOMENT, None], pa.timestamp(unit, None)).cast(pa.int64()).cast(pa.timestamp(unit, zone))
        CATEGORIES.append((moments, [f"2013-01-31T05:00:00{end}", ""]))
        CATEGORIES.append((moments.dictionary_encode("encode"), [f"2013-01-31T05:00:00{end}", ""]))
ASKED: list[tuple[Any, list[str]]] = [
    ([5.0, -0.0, 0.1, None, 1e22, 7], ["5", "0", "0.1", "", "1" + "0" * 22, "7"]),
    (np.array([5.0, -0.0, np.nan, 0.1]), ["5", "0", "", "0.1"]),
    (np.array([0.1, 1e-7], np.float32), ["0.1", "0.0000001"]),
    (pa.array([0.1, None], pa.float32()), ["0.1", ""]),
    (pa.array([5.0, None, float("nan"), 0.1]), ["5", "", "", "0.1"]),
    (pa.array([0.1]).dictionary_encode(), ["0.1"]),
    ([D("1.50"), D("7.00"), D("-0.0"), D("1E+3"), D("NaN")], ["1.5", "7", "0", "1000", ""]),
    (pa.array([D("1.50"), D("7.00"), None]), ["1.5", "7", ""]),
]


@pytest.mark.parametrize(("column", "texts"), CATEGORIES, ids=lambda c: str(getattr(c, "type", type(c).__name__)))
def test_texts_of_categories(column: Any, texts: list[str]) -> None:
    same(hashed(column), hashed(texts))
    same(hashed(column, categories=["a"]), hashed(texts))


@pytest.mark.parametrize(("column", "texts"), ASKED, ids=lambda c: str(getattr(c, "type", type(c).__name__)))
def test_numbers_that_are_to_be_categories(column: Any, texts: list[str]) -> None:
    same(hashed(column, categories=["a"]), hashed(texts))


# ------------------------------------------------------------------------------------------------------------- crosses


def test_a_cross_with_a_number_is_the_number_for_each_category() -> None:
    """Its slot is that of a cross whose column b has one value, with the hash of the name alone; its value the number."""
    from sklearn.utils import murmurhash3_32

    a, b, c = ["x", "y", "x", "y"], [0.5, 2.0, None, 0.0], [3.0, -1.0, 1.0, 1.0]
    hasher = ColumnHasher(N, ["a"], [("a", "b"), ("b", "a"), ("b", "c")])
    X = hasher.transform({"a": a, "b": b, "c": c})

    def slot(name: str, *parts: str) -> int:
        words = np.array([murmurhash3_32(part, 0) for part in parts], "<i4").tobytes()
        return abs(murmurhash3_32(words, murmurhash3_32(name, 0, positive=True))) % N

    for k, value in enumerate(a[:2]):
        row = X[k].indices.tolist()[1:]
        assert row == [slot("a*b", f"a={value}", "b"), slot("b*a", "b", f"a={value}"), slot("b*c", "b", "c")]
    half = np.float32(1 / np.sqrt(4))
    assert [X[k].data.tolist() for k in range(4)] == [[half, 0.5, 0.5, 1.5], [half, 2.0, 2.0, -2.0], [half], [half]]


def test_products_are_rounded_once() -> None:
    b, c = np.random.default_rng(1).standard_normal((2, 200))
    X = ColumnHasher(N, (), [("b", "c")]).transform({"b": b, "c": c})
    np.testing.assert_array_equal(X.data, (b * c).astype(np.float32))


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        ({"a": [1.0, float("inf")]}, NonFiniteError, "row 2 of the table: the number of 'a' is inf"),
        ({"a": pa.array([1.0, -np.inf, 1.0])}, NonFiniteError, "row 2 .*'a' is -inf"),
        ({"a": np.array([1e300])}, NonFiniteError, r"row 1 .*'a' is too large for float32: 1e\+300"),
        ({"a": [10**400]}, NonFiniteError, "row 1 .*'a' is inf"),
        ({"a": ["1", "x7"]}, ParseError, "row 2 of the table: column 'a' holds 'x7', expected a number"),
        ({"a": pa.array(["1", "2", "1_0"])}, ParseError, "row 3 .*'1_0'"),
        ({"a": pa.array(["1", "x", "1"]).dictionary_encode()}, ParseError, "row 2 .*'x'"),
        ({"a": [MOMENT]}, DTypeError, "'a' holds timestamps, which are no numbers"),
        ({"a": pa.array([1], pa.date32())}, DTypeError, "'a' holds dates, which are no numbers"),
        ({"a": pa.array([1], pa.time32("s"))}, DTypeError, "'a' holds times, which are no numbers"),
    ],
)
def test_bad_numbers(table: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ColumnHasher(N, ["a"], numeric=["a"]).transform(table)


NESTED = [
    pa.array([[1.0]]),
    pa.array([{"x": 1}]),
    pa.array([b"x"]),
    pa.array([b"xy"], pa.binary(2)),
    pa.array([b"x"]).dictionary_encode(),
    pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
    pa.array([5], pa.duration("s")),
    np.array([5], "m8[s]"),
    np.array([1j]),
    [1j],
    [{}],
    [datetime.timedelta(1)],
]


@pytest.mark.parametrize("column", NESTED, ids=lambda c: str(getattr(c, "type", c)))
@pytest.mark.parametrize("option", ["none", "numeric", "categories"])
def test_types_that_are_refused(column: Any, option: str) -> None:
    options: Any = {} if option == "none" else {option: ["a"]}
    with pytest.raises(DTypeError, match=r"column 'a' (has|holds) .*leave it out of columns, or turn it into"):
        hashed(column, **options)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([1, 2.5], "'a' holds float beside int; say in numeric or categories"),
        ([1, True], "'a' holds bool beside int"),
        (["x", 2.5], "'a' holds float beside str"),
        ([MOMENT, MOMENT.date()], "'a' holds date beside datetime"),
    ],
)
def test_values_that_do_not_go_together(column: Any, words: str) -> None:
    with pytest.raises(DTypeError, match=words):
        hashed(column)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"numeric": ["z"]}, "numeric has 'z', which is neither in columns nor in a cross. Known: a, b"),
        ({"categories": ["z"]}, "categories has 'z'"),
        ({"numeric": "a"}, "numeric must be a list of column names"),
        ({"numeric": ["a"], "categories": ["a"]}, "numeric and categories both have 'a'"),
        ({"own_slots": 1}, "own_slots"),
        ({"n_features": 1, "own_slots": True}, "n_features=1 are fewer than the 2 fields"),
    ],
)
def test_bad_options(options: Any, words: str) -> None:
    with pytest.raises(HyperParameterError, match=words):
        ColumnHasher(**{"n_features": 10, "columns": ["a"], "crosses": [("a", "b")], **options})


# ------------------------------------------------------------------------------------------------- whole and in pieces


def mixed(rows: int = 500) -> Any:
    """A table of every kind of column, with nulls, NaN, and a dictionary."""
    rng = np.random.default_rng(5)

    def holes(values: Any, kind: Any = None) -> Any:
        return pa.array([None if rng.random() < 0.1 else v for v in values], kind)

    seconds = pa.array(rng.integers(0, 10**6, rows), pa.timestamp("s"))
    z = rng.standard_normal(rows)
    carrier = rng.choice(["UA", "AA", "B6"], rows)
    label = z * np.where(carrier == "UA", 2.0, -1.0) + rng.standard_normal(rows)
    return pa.table(
        {
            "carrier": holes(carrier.tolist()),
            "z": holes([float("nan") if rng.random() < 0.1 else v for v in z.tolist()], pa.float64()),
            "half": holes(rng.standard_normal(rows).tolist(), pa.float32()),
            "hour": holes(rng.integers(0, 24, rows).tolist()),
            "flag": holes((z > 0).tolist()),
            "day": holes(seconds.cast(pa.date32()).to_pylist()),
            "when": seconds,
            "price": holes([D(int(v)) / 100 for v in rng.integers(-999, 999, rows)], pa.decimal128(9, 2)),
            "kind": pa.array(rng.choice(["p", "q"], rows)).dictionary_encode(),
            "label": pa.array(np.where(rng.random(rows) < 0.05, np.nan, label)),
        }
    )


COLUMNS = ["carrier", "z", "half", "hour", "flag", "day", "when", "price", "kind"]
CROSSES = [("carrier", "z"), ("carrier", "hour"), ("z", "price")]


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("rows", [1, 7, 499, 65536])
@pytest.mark.parametrize("own_slots", [False, True])
def test_streamed_equals_loaded(form: str, rows: int, own_slots: bool, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(streams, "ROWS", 64)  # rows that Parquet reads at a time
    table, path = mixed(), tmp_path / f"t.{form}"
    if form == "csv":
        csv.write_csv(
            table.cast(pa.schema([f.with_type(pa.string()) if f.name == "kind" else f for f in table.schema])), path
        )
        hasher = ColumnHasher(N, COLUMNS, CROSSES, numeric=["z", "half", "price"], own_slots=own_slots)
        loaded = csv.read_csv(
            path, convert_options=csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
        )
    else:
        parquet.write_table(table, path, row_group_size=90)
        hasher = ColumnHasher(N, COLUMNS, CROSSES, own_slots=own_slots)
        loaded = table
    known = np.isfinite(table["label"].to_numpy())
    want = hasher.transform(loaded.filter(pa.array(known)))
    pieces = list(chunks(path, rows=rows, hasher=hasher, label="label"))
    same(sparse.vstack([X for X, _ in pieces], "csr"), want)
    np.testing.assert_array_equal(np.concatenate([y for _, y in pieces]), table["label"].to_numpy()[known])
    assert len(pieces) == -(-500 // rows)


def test_row_groups_with_other_dictionaries(tmp_path) -> None:
    """The numbers of the values differ from group to group, and their number outgrows the type of the first."""
    values = [f"v{k}" for k in range(600)]
    kind = pa.dictionary(pa.int32(), pa.string())
    path, whole = tmp_path / "t.parquet", []
    with parquet.ParquetWriter(path, pa.schema([("a", kind), ("b", pa.float64())])) as writer:
        for k in range(0, 600, 200):
            part = list(reversed(values[k : k + 200])) + [None, "v0"]
            numbers = [float(len(v or "")) for v in part]
            writer.write_table(pa.table({"a": pa.array(part).dictionary_encode().cast(kind), "b": numbers}))
            whole += list(zip(part, numbers, strict=True))
    hasher = ColumnHasher(N, ["a", "b"], [("a", "b")])
    want = hasher.transform({"a": [a for a, _ in whole], "b": [b for _, b in whole]})
    for rows in (1, 100, 1000):
        same(sparse.vstack([X for X, _ in chunks(path, rows=rows, hasher=hasher, label=None)], "csr"), want)


def test_what_a_stream_has_read_is_not_kept(tmp_path) -> None:
    """Memory is that of some pieces, not that of the file, which is 40 times larger than its row groups."""
    rng, path = np.random.default_rng(1), tmp_path / "t.parquet"
    parquet.write_table(pa.table({"x": rng.standard_normal(800_000)}), path, row_group_size=20_000)
    hasher, most = ColumnHasher(N, ["x"]), 0
    next(chunks(path, hasher=hasher, label=None))  # what is imported
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        for _ in chunks(path, rows=20_000, hasher=hasher, label=None):
            most = max(most, tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before)
    finally:
        tracemalloc.stop()
    assert most < path.stat().st_size / 2


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [("inf", NonFiniteError, "'z' is inf"), ("1e39", NonFiniteError, r"'z' is too large for float32: 1e\+39")],
)
def test_the_row_of_a_bad_number_is_that_of_the_file(form, value, error, words, tmp_path) -> None:
    """Rows without a label come before it, and are counted."""
    z = ["1.5"] * 49 + [value]
    label = ["", "NA"] * 5 + ["1"] * 40
    path = tmp_path / f"t.{form}"
    if form == "csv":
        path.write_text("z,label\n" + "".join(f"{a},{b}\n" for a, b in zip(z, label, strict=True)))
    else:
        numbers = pa.array([float(v) if v not in ("", "NA") else None for v in label])
        parquet.write_table(pa.table({"z": [float(v) for v in z], "label": numbers}), path)
    hasher = ColumnHasher(N, ["z"], numeric=["z"])
    found = chunks(path, rows=20, hasher=hasher, label="label")
    assert [X.shape[0] for X, _ in (next(found), next(found))] == [10, 20]
    with pytest.raises(error, match=rf"^row 50 of .*t\.{form}: the number of {words}"):
        next(found)


def test_a_csv_column_does_not_change_from_piece_to_piece() -> None:
    """Of whole numbers first, and a text later: a text throughout. As a number: an error that names the row."""
    text = b"a,label\n" + b"007,1\n" * 30 + b"x,1\n"
    hasher = ColumnHasher(N, ["a"])
    found = sparse.vstack([X for X, _ in chunks(io.BytesIO(text), reader="csv", rows=4, hasher=hasher, label="label")])
    same(found.tocsr(), hasher.transform({"a": ["007"] * 30 + ["x"]}))
    hasher = ColumnHasher(N, ["a"], numeric=["a"])
    found = chunks(io.BytesIO(text), reader="csv", rows=4, hasher=hasher, label="label")
    assert all((next(found)[0].data == 7).all() for _ in range(7))
    with pytest.raises(ParseError, match="row 31 of the file: column 'a' holds 'x'"):
        list(found)


def test_nested_columns_of_parquet_are_refused(tmp_path) -> None:
    table = mixed(10).append_column("list", pa.array([[k] for k in range(10)]))
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DTypeError, match="column 'list' has type list"):
        next(chunks(tmp_path / "t.parquet", hasher=ColumnHasher(N, ["z", "list"]), label="label"))
    assert len(list(chunks(tmp_path / "t.parquet", hasher=ColumnHasher(N, ["z"]), label="label"))) == 1


# -------------------------------------------------------------------------------------------------- decisions, and files


def test_decisions_are_those_of_the_types_and_are_saved(tmp_path) -> None:
    table = mixed()
    hasher = ColumnHasher(N, COLUMNS, CROSSES, numeric=["hour"], categories=["half"])
    for source in (table, table.schema.empty_table()):
        decided = hasher.decide(source)
        assert decided.numeric == ("z", "hour", "price")
        assert decided.categories == ("carrier", "half", "flag", "day", "when", "kind")
    same(decided.transform(table), hasher.transform(table))
    texts = table.set_column(1, "z", table["z"].cast(pa.string()))
    same(decided.transform(texts), hasher.transform(table))  # as CSV has them
    X, y = hasher.transform(table), table["label"].to_numpy() > 0
    save_model(tmp_path / "m.npz", LinearClassifier(random_state=0).fit(X, y), decided)
    again = load_model(tmp_path / "m.npz")[1]
    assert again is not None and again.options() == decided.options() and repr(again) == repr(decided)
    same(again.transform(texts), X)
    plain = ColumnHasher(8, ["a"])
    assert repr(plain) == "ColumnHasher(n_features=8, columns=('a',), crosses=())"


# -------------------------------------------------------------------------------------------------------------- fields


def test_fields_have_slots_of_their_own() -> None:
    hasher = ColumnHasher(1003, COLUMNS, CROSSES, own_slots=True)
    X = hasher.transform(mixed())
    width = 1003 // 12
    fields = hasher.slot_fields
    assert fields.dtype == np.int32 and fields.tolist() == [min(k // width, 12) % 12 for k in range(1003)]
    table = {"a": ["x", "y"], "b": [1.5, 2.5], "c": ["u", "v"]}
    small = ColumnHasher(90, ["a", "b"], [("a", "c")], own_slots=True)
    alone = ColumnHasher(30, ["a", "b"], [("a", "c")])
    want = alone.transform(table)
    found = small.transform(table)
    assert (found.indices == want.indices + 30 * np.array([0, 1, 2] * 2)).all() and (found.data == want.data).all()
    assert (np.bincount(fields[X.indices], minlength=12) > 0).all()
    with pytest.raises(UnsupportedError, match="own_slots=True"):
        _ = alone.slot_fields


@pytest.mark.parametrize("make", [FFMClassifier, FMClassifier])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_machines_learn_from_a_stream_what_they_learn_from_memory(make, form, tmp_path) -> None:
    table, path = mixed(2000), tmp_path / f"t.{form}"
    names = ["carrier", "z", "hour", "flag"]
    (csv.write_csv if form == "csv" else parquet.write_table)(table.select([*names, "label"]), path)
    hasher = ColumnHasher(2**10, names, numeric=["z"], own_slots=True)
    setting: Any = {"shuffle": False, "epochs": 1, "random_state": 0, "rank": 4, "lr": 0.2, "init_scale": 0.1}
    if make is FFMClassifier:
        setting["fields"] = hasher.slot_fields
    ((X, y),) = chunks(path, hasher=hasher, label="label", above=0.0)
    whole, model = make(**setting).fit(X, y), make(**setting)
    found = fit_stream(model, chunks(path, rows=300, hasher=hasher, label="label", above=0.0))
    assert (model.coef_ == whole.coef_).all() and (model.factors_ == whole.factors_).all()
    assert found.rows == len(y) and found.loss < 0.62  # 0.69 with nothing learned
    save_model(tmp_path / "m.npz", model, hasher)
    again, maker = load_model(tmp_path / "m.npz")
    assert maker is not None
    same(maker.transform(table), hasher.transform(table)) if form == "parquet" else None
    assert (again.decision_function(X) == model.decision_function(X)).all()


@pytest.mark.parametrize("rows", [1, 7, 65536])
@pytest.mark.parametrize("n_features", [None, 40])
def test_the_fields_of_a_libffm_file(rows: int, n_features: int | None, tmp_path, monkeypatch) -> None:
    from fastopt.models import factorization

    monkeypatch.setattr(factorization, "ROWS", rows)
    rng = np.random.default_rng(2)
    of = rng.integers(0, 5, 33)
    lines = [f"{k % 2} " + " ".join(f"{of[i]}:{i}:1" for i in rng.choice(33, 4)) for k in range(50)]
    path = tmp_path / "t.ffm"
    path.write_text("\n".join(lines) + "\n")
    X, _, fields = read_libffm(path, n_features=n_features)
    found = feature_fields(path, n_features=n_features)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, feature_fields(X, fields))
    path.write_text("\n".join([*lines, f"1 {of[3] + 1}:3:1"]) + "\n")
    with pytest.raises(UnsupportedError, match="feature 3 is of the fields"):
        feature_fields(path)
    path.write_text("1 4:1:1\n1 3:0:1\n" + "".join(f"1 2:{2**k}:1\n" for k in range(1, 9)))
    want = [3, 4] + [2 * (k.bit_count() == 1) for k in range(2, 257)]
    assert feature_fields(path).tolist() == want, "fields of the first rows outlast those that make the array longer"
    path.write_text("1\n")
    assert feature_fields(path).tolist() == [0]
    with pytest.raises(HyperParameterError, match="of a path they are read"):
        feature_fields(path, fields)
    with pytest.raises(HyperParameterError, match="n_features is for a path"):
        feature_fields(X, fields, n_features=3)
    with pytest.raises(ShapeError, match="one field for each"):
        feature_fields(X, fields[1:])
