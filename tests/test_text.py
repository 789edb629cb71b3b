"""Readers of text: against scikit-learn and Python's float, under mutations, in pieces; streams and the cache file."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, load_svmlight_file
from sklearn.feature_extraction import FeatureHasher
from sklearn.utils import murmurhash3_32

from fastopt.errors import (
    CheckpointError,
    DTypeError,
    FastoptError,
    HyperParameterError,
    ParseError,
    ShapeError,
)
from fastopt.models import (
    ColumnHasher,
    chunks,
    lines,
    read_cache,
    read_libffm,
    read_svmlight,
    read_vw,
    text,
    write_cache,
)

ROOT = Path(__file__).resolve().parent.parent
PARSERS = [
    pytest.param(lines.Parser, id="python"),
    pytest.param(text.Parser, id="compiled", marks=needs_native),
]


@pytest.fixture(params=PARSERS)
def parser(request, monkeypatch):
    """Read by this parser."""
    monkeypatch.setattr(text, "Parser", request.param)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few bytes: lines cross their borders."""

    def use(size: int) -> None:
        monkeypatch.setattr(text, "BLOCK", size)

    return use


def same(a: Any, b: Any) -> bool:
    """Equal to the bit: results of readers, whole or in parts; a NaN equals a NaN of the same bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if sparse.issparse(a):
        return a.shape == b.shape and all(same(getattr(a, n), getattr(b, n)) for n in ("indptr", "indices", "data"))
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def stacked(pieces: list[Any]) -> Any:
    """The pieces of a stream as the reader of the whole would have returned them."""
    parts = zip(*pieces, strict=True)
    return tuple(sparse.vstack(p, "csr") if sparse.issparse(p[0]) else np.concatenate(p) for p in parts)


# ------------------------------------------------------------------------------------------------------------- numbers


def tokens(n: int, r: random.Random) -> list[str]:
    """Numbers as text: of any bits, short, long, halfway between two floats, with far exponents."""

    def one() -> str:
        kind = r.randrange(10)
        if kind == 0:
            return repr(struct.unpack("d", r.randbytes(8))[0])
        if kind == 1:
            return f"{r.gauss(0, 1):.{r.randrange(1, 25)}g}"
        if kind == 2:
            return f"{r.randrange(10 ** r.randrange(1, 12))}.{r.randrange(10 ** r.randrange(1, 12))}"
        if kind == 3:
            return f"{r.randrange(10 ** r.randrange(1, 21))}e{r.randrange(-90, 90)}"
        if kind == 4:  # in the middle between two floats, and a little beside it
            return f"{2 * r.randrange(2**52, 2**53) + 1}" + r.choice(["", ".0", ".0000001", f"e{r.randrange(-5, 25)}"])
        if kind == 5:
            return "-0." + "0" * r.randrange(30) + f"{r.randrange(10 ** r.randrange(1, 20))}"
        if kind == 6:
            return f"{r.randrange(2**53, 10**19)}" + r.choice(["", "e22", "e23", "e-22"])
        if kind == 7:
            return r.choice(
                ["inf", "-Infinity", "nan", "+1", "1.", ".5", "1_0.5", "1e+3", "-0", "0e400", "00012", "1E5"]
            )
        if kind == 8:
            return f"{r.random():.17g}"
        return f"{r.randrange(10**6)}"

    return [one() for _ in range(n)]


def test_numbers_are_what_float_makes_of_them(parser):
    some = tokens(40_000, random.Random(1))
    X, y = read_svmlight(io.BytesIO("".join(f"{t} 1:{t}\n" for t in some).encode()), dtype="float64")
    want = np.array([float(t) for t in some])
    assert same(y, want)
    assert same(X.data, want)
    with np.errstate(over="ignore"):
        X, _ = read_svmlight(io.BytesIO("".join(f"{t} 1:{t}\n" for t in some).encode()))
        assert same(X.data, want.astype(np.float32))


def test_the_powers_of_five_are_right():
    header = (ROOT / "csrc" / "fo_number.h").read_text().split("fo_powers[", 1)[1].split("};")[0]
    words = [int(w, 16) for w in header.replace("{", " ").replace("}", " ").replace(",", " ").split() if w[:2] == "0x"]
    assert len(words) == 2 * 121
    for q in range(-60, 61):
        found = words[2 * (q + 60)] << 64 | words[2 * (q + 60) + 1]
        power = 5 ** abs(q)
        if q >= 0:  # the first 128 bits, cut off
            want = power << 128 >> power.bit_length()
        else:  # of the reciprocal, rounded up near 0
            want = (1 << 127 + (power - 1).bit_length()) // power + (q >= -27)
        assert found == want, q


@pytest.mark.parametrize("function", [lines.murmur, pytest.param("compiled", marks=needs_native)])
def test_murmur(function, rng):
    if function == "compiled":
        from fastopt.kernels.text import murmur as function
    # Published vectors of MurmurHash3_x86_32.
    for key, seed, want in (
        (b"", 0, 0),
        (b"", 1, 0x514E28B7),
        (b"", 0xFFFFFFFF, 0x81F16F39),
        (b"\xff\xff\xff\xff", 0, 0x76293B50),
        (b"\x21\x43\x65\x87", 0, 0xF55B516B),
        (b"\x21\x43\x65\x87", 0x5082EDEE, 0x2362F9DE),
        (b"\x21\x43\x65", 0, 0x7E4A8634),
        (b"\x21\x43", 0, 0xA0F7B07A),
        (b"\x21", 0, 0x72661CF4),
        (b"\0\0\0\0", 0, 0x2362F9DE),
        (b"aaaa", 0x9747B28C, 0x5A97808A),
        (b"Hello, world!", 0x9747B28C, 0x24884CBA),
    ):
        assert function(key, seed) == want
    for length in range(40):
        key, seed = rng.bytes(length), int(rng.integers(2**32))
        assert function(key, seed) == murmurhash3_32(key, seed, True)


# ------------------------------------------------------------------------------------------------------------ svmlight


@pytest.mark.parametrize("zero_based", [True, False])
def test_round_trip(parser, rng, zero_based):
    X = sparse.random(200, 50, 0.1, "csr", random_state=3, data_rvs=lambda n: rng.standard_normal(n))
    y = rng.standard_normal(200)
    file = io.BytesIO()
    dump_svmlight_file(X, y, file, zero_based=zero_based, comment="of the test", query_id=np.arange(200) // 7)
    for dtype in ("float32", "float64"):
        file.seek(0)
        want = load_svmlight_file(file, dtype=dtype, zero_based=zero_based, query_id=True)
        file.seek(0)
        A, b, queries = read_svmlight(file, dtype=dtype, zero_based=zero_based, query_id=True)
        assert A.dtype == dtype
        assert same(A.data, want[0].data)
        assert np.array_equal(A.indices, want[0].indices) and np.array_equal(A.indptr, want[0].indptr)
        assert A.shape == want[0].shape
        assert same(b, want[1])
        assert same(queries, want[2])


STRANGE = [
    b"1 1:2\n",
    b"1 1:2",
    b"",
    b"\n\n",
    b"1\n2 \n3",
    b"# only a comment",
    b"  1   3:4  \t 5:6  # comment # more\n\n   \n#\n-1 1:0\r\n+1 2:5\r\n",
    b"1 qid:7 1:2\n1 qid:-8\n1 qid:9 # c\n",
    b"1 0:1 1:2\n",
    b"1e3 1:inf 2:-nan 3:nan\n",
    b"1 1:2#comment\n1#\n",
    b"-0 7:-0 8:1e-400 9:1e400\n",
    b"1 1:1\r2:2\x0b3:3\n",
    b"0x10 1:2\n",
    b"1 2147483647:1\n",
    b"1 18446744073709551617:1\n",
    b"1 00000000000000000000001:1 0000000000000000000000000000002:1\n",
]


@pytest.mark.parametrize("content", STRANGE)
@pytest.mark.parametrize("zero_based", ["auto", True, False])
def test_as_scikit_learn_reads_it(parser, content, zero_based):
    try:
        want = load_svmlight_file(io.BytesIO(content), dtype=np.float64, zero_based=zero_based)
    except (ValueError, OverflowError):
        with pytest.raises(ParseError):
            read_svmlight(io.BytesIO(content), dtype="float64", zero_based=zero_based)
        return
    if want[0].shape[1] >= 2**31:
        return
    X, y = read_svmlight(io.BytesIO(content), dtype="float64", zero_based=zero_based)
    assert X.shape == want[0].shape
    assert np.array_equal(X.indices, want[0].indices) and np.array_equal(X.indptr, want[0].indptr)
    assert same(X.data, want[0].data)
    assert same(y, want[1])


def test_width_of_svmlight(parser):
    content = b"1 1:0.5 3:2\n-1 2:1e-3\n"
    X, y = read_svmlight(io.BytesIO(content))
    assert (X.dtype, X.indices.dtype, X.indptr.dtype, X.shape) == (np.float32, np.int32, np.int32, (2, 3))
    assert y.tolist() == [1, -1]
    for zero_based, least in ((True, 4), (False, 3), ("auto", 3)):
        for wide in (least, 10):
            X, _ = read_svmlight(io.BytesIO(content), n_features=wide, zero_based=zero_based)
            assert X.shape == (2, wide)
        with pytest.raises(
            ParseError, match=rf"'3:2', but expected an index from \d to {least - 1 - bool(least == 4)}"
        ):
            read_svmlight(io.BytesIO(content), n_features=least - 1, zero_based=zero_based)
    with pytest.raises(ParseError, match="indices 0 and 3: more than 3 features"):
        read_svmlight(io.BytesIO(b"1 0:1 3:1\n"), n_features=3)


# ------------------------------------------------------------------------------------------------------ Vowpal Wabbit

VW_TEXT = b"""1 1.0 zebra|MetricFeatures:3.28 height:1.5 length:2.0 |Says black with white stripes |Other NumberOfLegs:4.0 HasStripes
-1 'tag |a x y:2 z:-0.5|b x:1e-3|a again
0.5 2 0 't_1| plain a^b #5 :

| nothing known
 -1\t0 |
"""
VW_NAMES = [
    [("MetricFeatures^height", 1.5 * 3.28), ("MetricFeatures^length", 2.0 * 3.28)]
    + [(f"Says^{w}", 1.0) for w in ("black", "with", "white", "stripes")]
    + [("Other^NumberOfLegs", 4.0), ("Other^HasStripes", 1.0)],
    [("a^x", 1.0), ("a^y", 2.0), ("a^z", -0.5), ("b^x", 1e-3), ("a^again", 1.0)],
    [("plain", 1.0), ("a^b", 1.0), ("#5", 1.0)],
    [("nothing", 1.0), ("known", 1.0)],
    [],
]


@pytest.mark.parametrize("alternate_sign", [False, True])
@pytest.mark.parametrize("n_features", [2**20, 1000, 1, 2**31 - 1])
def test_vw_has_the_slots_and_signs_of_feature_hasher(parser, alternate_sign, n_features):
    content = VW_TEXT.replace(b" :\n", b" zero:0\n")
    X, y, weights = read_vw(io.BytesIO(content), n_features=n_features, alternate_sign=alternate_sign, dtype="float64")
    want = FeatureHasher(n_features, alternate_sign=alternate_sign, input_type="pair").transform(VW_NAMES)
    assert X.shape == want.shape
    X.sum_duplicates()
    want.sum_duplicates()
    assert np.array_equal(X.indptr, want.indptr) and np.array_equal(X.indices, want.indices)
    if n_features > 1000:
        assert same(X.data, want.data)
    else:
        assert np.allclose(X.data, want.data, rtol=1e-15)
    assert same(y, np.array([1, -1, 0.5, np.nan, -1]))
    assert weights.tolist() == [1, 1, 2, 1, 0]


def test_constant_of_vw(parser):
    X, *_ = read_vw(io.BytesIO(b"1 |a b\n1 |\n"), constant=True)
    slot = abs(murmurhash3_32("Constant")) % 2**20
    assert X.indptr.tolist() == [0, 2, 3]
    assert X.indices[[1, 2]].tolist() == [slot, slot] and X.data.tolist() == [1, 1, 1]


# -------------------------------------------------------------------------------------------------------------- libffm


def test_libffm(parser):
    content = b"1 0:3:1 1:7:0.5 1:2:-1\n\n0 5:0:1e2\n-1\n"
    X, y, fields = read_libffm(io.BytesIO(content))
    assert X.shape == (3, 8) and X.indptr.tolist() == [0, 3, 4, 4]
    assert X.indices.tolist() == [3, 7, 2, 0] and X.data.tolist() == [1, 0.5, -1, 100]
    assert fields.tolist() == [0, 1, 1, 5] and fields.dtype == np.int32
    assert y.tolist() == [1, 0, -1]
    assert read_libffm(io.BytesIO(content), n_features=20)[0].shape == (3, 20)
    with pytest.raises(ParseError, match=r"'7:0\.5', but expected an index from 0 to 6"):
        read_libffm(io.BytesIO(content), n_features=7)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("read", "content", "line", "column", "there", "expected"),
    [
        (read_svmlight, "1 1:2\nx 1:2\n", 2, 1, "x", "the label"),
        (read_svmlight, "1 1:2\n\n# c\n  1 1:2 a:3 4:5\n", 4, 9, "a:3", "an index from 0"),
        (read_svmlight, "1 -1:2\n", 1, 3, "-1:2", "an index from 0"),
        (read_svmlight, "1 2147483648:2\n", 1, 3, "2147483648:2", "an index from 0 to 2147483647"),
        (read_svmlight, "1 12 3:4\n", 1, 3, "12", "a colon"),
        (read_svmlight, "1 1:x\n", 1, 5, "x", "the value"),
        (read_svmlight, "1 1: 2:3\n", 1, 5, None, "the value"),
        (read_svmlight, "1 1:2:3\n", 1, 5, "2:3", "the value"),
        (read_svmlight, "1 2:1 2:1\n", 1, 7, "2:1", "above the one before"),
        (read_svmlight, "1 qid:x 2:1\n", 1, 3, "qid:x", "qid: and an integer"),
        (read_svmlight, "1 qid:9223372036854775808\n", 1, 3, "qid:9223372036854775808", "64 bits"),
        (read_svmlight, "1 1:1 qid:3\n", 1, 7, "qid:3", "an index"),
        (read_svmlight, "1 1:" + 60 * "y", 1, 5, 40 * "y", "the value"),
        (read_svmlight, "1 1:\xff\n", 1, 5, "\xc3\xbf", "the value"),
        (read_svmlight, "1 1:\0\n", 1, 5, "\0", "the value"),
        (read_libffm, "1 1:2\n", 1, 5, "2", "a colon"),
        (read_libffm, "1 x:2:3\n", 1, 3, "x:2:3", "field"),
        (read_libffm, "1 2147483648:2:3\n", 1, 3, "2147483648:2:3", "field"),
        (read_libffm, "1 1:x:3\n", 1, 5, "x:3", "an index"),
        (read_libffm, "1 1:1:\n", 1, 7, None, "the value"),
        (read_vw, "x |a b\n", 1, 1, "x", "the label"),
        (read_vw, "1:2 |a b\n", 1, 1, "1:2", "the label"),
        (read_vw, "1 -1 |a b\n", 1, 3, "-1", "the importance"),
        (read_vw, "1 nan |a b\n", 1, 3, "nan", "the importance"),
        (read_vw, "1 1 0.5 |a b\n", 1, 5, "0.5", "initial prediction"),
        (read_vw, "1 1 0 0 |a b\n", 1, 7, "0", "a bar"),
        (read_vw, "1 'a b |a b\n", 1, 6, "b", "a bar"),
        (read_vw, "1 1\n", 1, 4, None, "a bar"),
        (read_vw, "1 |a:x b\n", 1, 6, "x", "the scale"),
        (read_vw, "1 |a b:\n", 1, 8, None, "the value"),
        (read_vw, "1 |a b:c:1\n", 1, 8, "c:1", "the value"),
        (read_vw, "1 |a b :1\n", 1, 8, ":1", "the name"),
    ],
)
def test_a_bad_line_is_named(parser, read, content, line, column, there, expected, tmp_path):
    path = tmp_path / "some.txt"
    data = content.encode()
    path.write_bytes(b"1 |a\n" + data if read is read_vw else b"1\n" + data)
    with pytest.raises(ParseError) as caught:
        read(path)
    message, line = str(caught.value), line + 1
    assert message.startswith(f"{path}, line {line}, column {column}: {'nothing' if there is None else ''}")
    assert expected in message
    if there is not None and there.isascii():
        assert f": {there!r}, but" in message
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: read_svmlight(5), DTypeError, "path_or_file must be a path or a file, got int"),
        (lambda: read_svmlight(io.StringIO("1 1:1\n")), DTypeError, "binary mode"),
        (lambda: read_svmlight("no such file"), FileNotFoundError, "no such file"),
        (lambda: read_svmlight(io.BytesIO(), n_features=0), HyperParameterError, "n_features"),
        (lambda: read_svmlight(io.BytesIO(), zero_based="yes"), HyperParameterError, "zero_based"),
        (lambda: read_svmlight(io.BytesIO(), dtype="int32"), DTypeError, "dtype"),
        (lambda: read_svmlight(io.BytesIO(b"1 qid:2\n1\n"), query_id=True), ParseError, "1 rows without qid, of 2"),
        (lambda: read_vw(io.BytesIO(), n_features=2**31), HyperParameterError, "n_features"),
        (lambda: read_vw(io.BytesIO(), constant="no"), Exception, "constant"),
        (lambda: chunks(io.BytesIO(), rows=0), HyperParameterError, "rows"),
        (lambda: chunks(io.BytesIO(), reader="xml"), HyperParameterError, "reader"),
        (lambda: chunks(io.BytesIO(), zero_based=True), HyperParameterError, "n_features"),
        (lambda: chunks(io.BytesIO(), n_features=5), HyperParameterError, "zero_based='auto'"),
        (lambda: chunks(io.BytesIO(), reader="libffm"), HyperParameterError, "n_features"),
        (lambda: chunks(io.BytesIO(), reader="vw", n_feature=5), HyperParameterError, "Did you mean 'n_features'"),
        (lambda: chunks("none.vw"), FileNotFoundError, "none.vw"),
        (lambda: chunks("none.csv", hasher=3, label="y"), DTypeError, "hasher"),
        (lambda: chunks("x.csv", hasher=ColumnHasher(8, ["a"]), label="a"), HyperParameterError, "feature as well"),
    ],
)
def test_mistakes(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_packed_files(tmp_path):
    content = b"1 1:0.5 3:2\n-1 2:1e-3\n"
    want = read_svmlight(io.BytesIO(content))
    for name, pack in (("a.svm", bytes), ("a.svm.gz", gzip.compress), ("a.svm.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(pack(content))
        assert same(read_svmlight(tmp_path / name), want)
        assert same(read_svmlight(str(tmp_path / name)), want)
    for name, pack in (("b.gz", gzip.compress), ("b.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(pack(content * 9)[:-9])
        with pytest.raises(ParseError, match="cannot be unpacked"):
            read_svmlight(tmp_path / name)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ParseError, match="cannot be unpacked"):
            read_svmlight(tmp_path / name)


# ---------------------------------------------------------------------------------------------------------------- fuzz

SEEDS = {
    read_svmlight: b"1 1:0.5 3:2 # c\n-1 qid:3 2:1e-3 7:123456789.123456789 9:-inf\r\n\n+1.25 1:nan 4:12345678901234567890\n",
    read_libffm: b"1 0:3:1 1:7:0.5 12:2:-1e5\n0 5:0:1e2 #\n-1\n0 1:1:.5",
    read_vw: VW_TEXT,
}


def mutated(seed: bytes, r: random.Random) -> bytes:
    """`seed`, damaged in a few places."""
    data = bytearray(seed)
    for _ in range(r.randrange(1, 5)):
        kind, at = r.randrange(6), r.randrange(len(data) + 1)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at : at + r.randrange(1, 8)] = b""
        elif kind == 2:
            data[at:at] = r.choice(
                [b"\n", b" ", b":", b"|", b"#", b"\0", b"\xff", b"-", b"e", b".", b"9" * 25, b"qid:", b"'"]
            )
        elif kind == 3 and at < len(data):
            data[at] = r.randrange(256)
        elif kind == 4:
            other = r.randrange(len(data) + 1)
            data[at:at] = data[other : other + r.randrange(20)]
        else:
            data[at:at] = bytes(r.choices(b"0123456789.eE+-:| \n#", k=r.randrange(1, 12)))
        if not data:
            break
    return bytes(data)


def outcome(read: Any, content: bytes) -> Any:
    """What a reader returns, or the error that it raises."""
    try:
        with np.errstate(over="ignore"):
            return read(io.BytesIO(content))
    except FastoptError as error:
        return type(error), str(error)


@needs_native
@pytest.mark.parametrize("read", SEEDS, ids=lambda f: f.__name__)
def test_damaged_texts_give_an_error_or_a_result_and_both_parsers_the_same(read, monkeypatch):
    r = random.Random(7)
    errors = 0
    for _ in range(3000):
        content = mutated(SEEDS[read], r)
        found = outcome(read, content)
        with monkeypatch.context() as patched:
            patched.setattr(text, "Parser", lines.Parser)
            want = outcome(read, content)
        assert same(found, want) if isinstance(found[0], sparse.csr_matrix) else found == want, content
        errors += isinstance(found[0], type)
    assert 300 < errors < 2900


@pytest.mark.parametrize("read", SEEDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("good", [True, False])
def test_where_a_block_ends_changes_nothing(parser, read, good, small_blocks):
    content = SEEDS[read].replace(b" :\n", b"\n") + (b"" if good else b"\n1 1:x\n1 2:y |\n")
    want = outcome(read, content)
    assert isinstance(want[0], type) is not good
    for size in range(1, len(content) + 2):
        small_blocks(size)
        found = outcome(read, content)
        assert same(found, want) if good else found == want, size


def test_reads_that_give_little(parser):
    """A pipe gives what it has, not what was asked for."""

    class Slow(io.BytesIO):
        def read(self, n=-1):
            return super().read(min(n, 3))

    assert same(read_vw(Slow(VW_TEXT.replace(b" :\n", b"\n"))), read_vw(io.BytesIO(VW_TEXT.replace(b" :\n", b"\n"))))
    with pytest.raises(ParseError, match="line 3, column 28: ':'"):
        read_vw(Slow(VW_TEXT))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_the_parser_under_sanitizers(tmp_path):
    """fuzz_text.c, with every piece of text and every output in memory of its exact size."""
    driver = tmp_path / "fuzz_text"
    flags = ["-std=c11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = ROOT / "tests" / "fuzz_text.c"
    built = subprocess.run(
        ["gcc", *flags, "-Wall", "-Wextra", "-I", ROOT / "csrc", source, "-lm", "-o", driver],
        capture_output=True,
        text=True,
    )
    if (built.returncode and "sanitize" in built.stderr + built.stdout) or "cannot find -lasan" in built.stderr:
        pytest.skip("gcc without sanitizers")
    assert built.returncode == 0, built.stderr
    assert not built.stderr
    run = subprocess.run([driver, "20000"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "20000 texts" in run.stdout


# ------------------------------------------------------------------------------------------------------------- streams

OPTIONS = {
    "svmlight": (read_svmlight, {"n_features": 20, "zero_based": False}),
    "libffm": (read_libffm, {"n_features": 20}),
    "vw": (read_vw, {}),
}


def many(read: Any, rows: int, r: random.Random) -> bytes:
    """A text of so many rows."""
    form = {read_svmlight: "{0}:{1}", read_libffm: "1:{0}:{1}", read_vw: "f{0}:{1}"}[read]
    out = []
    for k in range(rows):
        some = " ".join(form.format(i, f"{r.gauss(0, 1):.4g}") for i in sorted(r.sample(range(1, 20), r.randrange(6))))
        out.append(f"{k} {'|a ' if read is read_vw else ''}{some}\n" + "\n" * (k % 17 == 3))
    return "".join(out).encode()


@pytest.mark.parametrize("reader", OPTIONS)
@pytest.mark.parametrize("rows", [1, 7, 100, 250, 10**15])
def test_pieces_are_what_the_whole_is(reader, rows, small_blocks, tmp_path):
    read, options = OPTIONS[reader]
    content = many(read, 250, random.Random(3))
    want = read(io.BytesIO(content), **options)
    small_blocks(512)
    path = tmp_path / f"x.{dict(svmlight='svm', libffm='ffm', vw='vw')[reader]}.gz"
    path.write_bytes(gzip.compress(content))
    for source in (io.BytesIO(content), path):
        more = {} if source is path else {"reader": reader}
        pieces = list(chunks(source, rows=rows, **more, **options))
        assert [p[0].shape[0] for p in pieces] == [min(rows, 250 - k) for k in range(0, 250, rows)]
        found = stacked(pieces)
        assert (found[0] != want[0]).nnz == 0 and same(found[0].data, want[0].data)
        assert all(map(same, found[1:], want[1:]))


def test_pieces_of_more_rows_than_there_was_room_for():
    content = b"".join(b"%d |a b:%d\n" % (k, k) for k in range(1, 40_001))
    pieces = list(chunks(io.BytesIO(content), reader="vw", rows=30_000, dtype="float64"))
    assert [p[0].shape[0] for p in pieces] == [30_000, 10_000]
    X, y, _ = stacked(pieces)
    assert (X.data == np.arange(1, 40_001)).all() and (y == X.data).all()


def test_an_error_in_a_stream_comes_at_its_turn():
    content = b"1 |a b\n" * 25 + b"bad |a\n"
    pieces = chunks(io.BytesIO(content), reader="vw", rows=10)
    assert [next(pieces)[0].shape[0] for _ in range(2)] == [10, 10]
    with pytest.raises(ParseError, match="line 26"):
        next(pieces)
    assert list(pieces) == []


def test_a_stream_that_is_left_ends_its_thread_and_closes_its_file(tmp_path):
    path = tmp_path / "x.vw"
    path.write_bytes(b"1 |a b\n" * 1000)

    def ours() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("fastopt")]

    pieces = chunks(path, rows=1)
    next(pieces)
    assert ours()
    pieces.close()
    assert not ours()
    with open(path, "rb") as file:  # the caller's own stays open
        list(chunks(file, reader="vw"))
        assert not file.closed


def test_standard_input(tmp_path):
    code = (
        "from fastopt.models import chunks, read_vw; import sys\n"
        "X, y, w = read_vw('-') if sys.argv[1] == 'whole' else next(chunks('-', reader='vw', rows=99))\n"
        "print(X.shape[0], X.nnz, y.sum())"
    )
    for how in ("whole", "pieces"):
        done = subprocess.run(
            [sys.executable, "-c", code, how], input=b"1 |a b c\n2 |a\n", capture_output=True, check=True
        )
        assert done.stdout.split() == [b"2", b"2", b"3.0"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_in_pieces(form, tmp_path, rng):
    pa = pytest.importorskip("pyarrow")
    csv, parquet = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow.parquet")
    n = 1000
    table = pa.table(
        {
            "unused": rng.random(n),
            "a": rng.choice(["x", "y", "z"], n),
            "b": pa.array(rng.integers(0, 50, n).astype(str)),
            "late": pa.array([None if k % 10 == 0 else float(k) for k in range(n)]),
        }
    )
    path = tmp_path / f"t.{form}"
    (csv.write_csv if form == "csv" else parquet.write_table)(table, path)
    hasher = ColumnHasher(2**12, ["a", "b"], [("a", "b")])
    kept = [k for k in range(n) if k % 10]
    want = hasher.transform(table.take(kept))
    for rows in (100, 333, 5000):
        pieces = list(chunks(path, rows=rows, hasher=hasher, label="late"))
        X, y = stacked(pieces)
        assert len(pieces) == -(-n // rows)
        assert (want != X).nnz == 0 and same(X.indices, want.indices)
        assert same(y, np.array(kept, float))
    with open(path, "rb") as file:
        y = stacked(list(chunks(file, reader=form, hasher=hasher, label="late", above=500)))[1]
    assert same(y, np.array(kept) > 500)
    with pytest.raises((ParseError, ShapeError), match="nowhere"):
        next(chunks(path, hasher=hasher, label="nowhere"))
    path.write_bytes(b"")
    with pytest.raises(ParseError, match=rf"t\.{form} cannot be read"):
        next(chunks(path, hasher=hasher, label="late"))


# --------------------------------------------------------------------------------------------------------------- cache


def samples(rng: np.random.Generator, dtype: str = "float32") -> tuple[Any, Any]:
    X = sparse.random(40, 30, 0.2, "csr", dtype, random_state=1)
    return X, rng.integers(0, 2, 40)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cache(tmp_path, rng, dtype):
    X, y = samples(rng, dtype)
    path = tmp_path / "a.cache"
    for labels in (y, y > 0, y.astype(np.float32), np.array(["no", "yes"])[y]):
        write_cache(path, X, labels)
        assert [p.name for p in tmp_path.iterdir()] == ["a.cache"]
        for verify in (True, False):
            A, b = read_cache(path, verify=verify)
            assert same(A, X.astype(dtype)) and same(b, labels)
            assert not A.data.flags.writeable and not A.data.flags.owndata
    pieces = list(chunks(path, rows=7))
    assert len(pieces) == 6 and (stacked(pieces)[0] != X).nnz == 0
    write_cache(path, sparse.csr_matrix((0, 5), dtype=dtype), [])
    A, b = read_cache(path)
    assert A.shape == (0, 5) and b.shape == (0,)


def test_every_damaged_byte_of_a_cache_is_seen(tmp_path, rng):
    X, y = samples(rng)
    path = tmp_path / "a.cache"
    write_cache(path, X, y)
    good = path.read_bytes()
    front = good.index(b"}}") + 2
    for at in [*range(front), *range(front, len(good), 7)]:
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x40]) + good[at + 1 :])
        try:
            A, b = read_cache(path)
        except CheckpointError:
            continue
        # It lies between the arrays, where nothing is.
        assert at >= front and good[at] == 0 and same(A, X) and same(b, y), at
    for size in [*range(0, len(good), 13), len(good) - 1]:
        path.write_bytes(good[:size])
        with pytest.raises(CheckpointError):
            read_cache(path, verify=False)
    path.write_bytes(good + b"\0")
    with pytest.raises(CheckpointError, match="bytes, but should have"):
        read_cache(path, verify=False)
    with pytest.raises(FileNotFoundError):
        read_cache(tmp_path / "none")


def test_a_cache_that_cannot_be_written_leaves_the_old_one(tmp_path, rng):
    X, y = samples(rng)
    path = tmp_path / "a.cache"
    write_cache(path, X, y)
    bad = X.copy()
    bad.indices[3] = 99
    for matrix, labels, error in (
        (X.toarray(), y, DTypeError),
        (X.astype(np.int64), y, DTypeError),
        (X, y[:-1], ShapeError),
        (X, np.array([object()] * 40), DTypeError),
        (bad, y, IndexError),
    ):
        with pytest.raises(error):
            write_cache(path, matrix, labels)
    A, b = read_cache(path)
    assert same(A, X) and same(b, y)
    assert len(list(tmp_path.iterdir())) == 1
