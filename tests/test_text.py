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
            return r.choice(["inf", "-Infinity", "nan", "+1", "1.", ".5", "1_0.5", "1e+3", "-0", "0e400", "00012", "1E5"])
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
