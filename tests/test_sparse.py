"""Sparse gradients: what is in them, what is wrong with them, and that repeated rows are summed in input order."""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import needs_native
from settings import assert_bits, decay, native_builds
from test_arguments import misaligned, read_only, refused, spread

import fastopt
from fastopt import (
    DTypeError,
    FastoptError,
    HyperParameterError,
    IndexRangeError,
    LayoutError,
    OverlapError,
    ShapeError,
    SparseGrad,
    UnsupportedError,
)
from fastopt.sparse import Entries, check_rows, is_scipy_sparse, scipy_entries, unique_rows

F32, F64, I32, I64 = np.float32, np.float64, np.int32, np.int64
each_dtype = pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
FORMATS = ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"]


@pytest.fixture(
    params=[
        pytest.param(("native", 1), marks=needs_native, id="native, 1 thread"),
        pytest.param(("native", 2), marks=needs_native, id="native, 2 threads"),
        pytest.param(("numpy", 0), id="numpy"),
    ]
)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend, with threads and chunks that small arrays would not get."""
    name, threads = request.param
    if threads:
        request.getfixturevalue("forced")(threads, 100)
    return name


# ------------------------------------------------------------------------------------------------ what has to come out


def sums(ids: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows, each once, and their values summed one after the other, in input order, from the first occurrence on."""
    order = np.argsort(ids, kind="stable")
    rows, first, count = np.unique(ids[order], return_index=True, return_counts=True)
    total = v[order[first]]
    with np.errstate(all="ignore"):
        if len(rows) < count.max(initial=0):
            for k in range(len(rows)):  # an accumulation has every partial sum: it cannot be reordered
                total[k] = np.add.accumulate(v[order[first[k] : first[k] + count[k]]], axis=0)[-1]
        else:
            for nth in range(1, count.max(initial=0)):  # the second occurrence of each row, then the third
                more = count > nth
                total[more] = total[more] + v[order[first[more] + nth]]
    return rows, total


def test_the_sums_are_those_of_a_plain_loop(rng):
    for n, n_rows in ((0, 3), (1, 1), (200, 3), (200, 60), (200, 1)):
        ids, v = rng.integers(0, n_rows, n), rng.standard_normal(n) * 10.0 ** rng.integers(-9, 9, n)
        v[rng.random(n) < 0.3] = -0.0
        loop: dict[int, float] = {}
        for i, x in zip(ids.tolist(), v.tolist(), strict=True):
            loop[i] = loop[i] + x if i in loop else x
        rows, total = sums(ids, v)
        assert rows.tolist() == sorted(loop)
        assert_bits(total, np.array([loop[i] for i in sorted(loop)], F64))


def wild(rng: np.random.Generator, shape: Any, dtype: type) -> np.ndarray:
    """Numbers of very different sizes, whose sum depends on its order; some are -0.0."""
    v = np.ldexp(rng.standard_normal(shape, F32), rng.integers(-12, 12, shape)).astype(dtype)
    v[rng.random(v.shape) < 0.1] = -0.0
    return v


def summed_by_a_step(g: Any, shape: tuple[int, ...], dtype: type, backend: str) -> np.ndarray:
    """The gradient of every row as a step of SGD saw it: the sign of a zero too; +0.0 in the rows it left alone."""
    p = np.full(shape, -0.0, dtype)
    fastopt.SGD(p, lr=1.0, backend=backend).step(g)
    return -p


# ------------------------------------------------------------------------------------------------------- repeated rows

KINDS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "all equal": lambda rng, n, rows: np.full(n, rows - 1),
    "sorted": lambda rng, n, rows: np.sort(rng.integers(0, rows, n)),
    "reversed": lambda rng, n, rows: np.sort(rng.integers(0, rows, n))[::-1].copy(),
    "random": lambda rng, n, rows: rng.integers(0, rows, n),
    "a few hot ones": lambda rng, n, rows: np.where(rng.random(n) < 0.7, 1 % rows, rng.integers(0, rows, n)),
    "all equal but one": lambda rng, n, rows: np.where(np.arange(n) == n // 2, rows - 1, 0),
    # what each of two threads finds in order
    "two rising halves": lambda rng, n, rows: np.arange(n) % (n - n // 2) % rows,
    "halves that share a row": lambda rng, n, rows: (np.arange(n) - (np.arange(n) >= n // 2)).clip(0) % rows,
    "two sorted halves": lambda rng, n, rows: np.append(
        *(np.sort(rng.integers(0, rows, k)) for k in (n // 2, n - n // 2))
    ),
}


@each_dtype
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [(), (1,), (3,), (8,), (16,), (17,), (40,)], ids=str)
def test_duplicates_are_summed_in_input_order(width, kind, dtype, forced, rng):
    """The same bits for one thread and for two, for the compiled step and for its reference."""
    for n in (1, 2, 63, 64, 65, 1000, 100_000):
        if n > 1000 and width in ((3,), (16,)):
            continue  # the widths around them do
        n_rows = n // 3 + 2
        ids, v = KINDS[kind](rng, n, n_rows), wild(rng, (n, *width), dtype)
        want = np.zeros((n_rows, *width), dtype)
        rows, want[rows] = sums(ids, v)
        for t in (I32, I64):
            g = SparseGrad(ids.astype(t), v)
            for threads in (1, 2):
                forced(threads, 0 if n > 1000 else 50)
                assert_bits(summed_by_a_step(g, want.shape, dtype, "native"), want, f"{n} native {threads}")
            assert_bits(summed_by_a_step(g, want.shape, dtype, "numpy"), want, f"{n} numpy")


@pytest.mark.parametrize("width", [(), (5,), (40,)], ids=str)
@pytest.mark.parametrize("n_rows", [2**18 - 1, 2**18, 2**18 + 1, 1_234_567])
def test_duplicates_in_a_large_table(n_rows, width, forced, rng):
    """Few entries among many rows, where the method that brings the rows together is another one."""
    p = np.zeros((n_rows, *width), F32)
    opt = fastopt.SGD(p, lr=1.0, backend="native")
    for n, (kind, draw), t in itertools.product((2, 64, 65, 1000, 1025, 20_000), KINDS.items(), (I32, I64)):
        some = rng.integers(0, n_rows, n // 3 + 2)
        some[:2] = 0, n_rows - 1
        some = np.unique(some)
        ids, v = some[draw(rng, n, len(some))].astype(t), wild(rng, (n, *width), F32)
        rows, want = sums(ids, v)
        for threads in (1, 2):
            forced(threads, 0)
            p[rows] = -0.0
            opt.step(SparseGrad(ids, v))
            assert_bits(-p[rows], want, f"{n} {kind} {threads}")
            p[rows] = 0.0
    assert not p.any(), "another row was touched"


@pytest.mark.parametrize("kind", ["random", "all equal"])
def test_ten_million_duplicates(kind, forced, rng):
    """The one case of this size: ten million entries."""
    n, n_rows = 10_000_000, 1_000_000
    ids = KINDS[kind](rng, n, n_rows).astype(I32)
    v = rng.standard_normal(n, F32)
    want = np.zeros(n_rows, F32)
    rows, want[rows] = sums(ids, v)
    for threads in (1, 2):
        forced(threads, 0)
        assert_bits(summed_by_a_step(SparseGrad(ids, v), want.shape, F32, "native"), want, f"{threads} threads")


@pytest.mark.parametrize("isa", native_builds())
def test_every_instruction_set_sums_alike(isa, use_build, forced, rng):
    use_build(isa)
    ids, bags = rng.integers(0, 50, 2000), np.arange(0, 2000, 8)
    for width in ((), (5,), (33,)):
        v, pooled = wild(rng, (2000, *width), F32), wild(rng, (250, *width), F32)
        for g in (SparseGrad(ids, v), SparseGrad.bag(ids, bags, pooled, mode="mean")):
            want = summed_by_a_step(g, (50, *width), F32, "numpy")
            for threads in (1, 2):
                forced(threads, 100)
                assert_bits(summed_by_a_step(g, (50, *width), F32, "native"), want, f"{isa} {width} {threads}")


@pytest.mark.parametrize("name", sorted(fastopt.Optimizer.known))
def test_a_repeated_row_takes_one_step(name, backend, rng):
    """Of every optimizer: one step with the sum, not a step for each occurrence."""
    cls = fastopt.Optimizer.known[name]
    p = rng.standard_normal((60, 5))
    q = p.copy()
    mine, theirs = (cls(a, **decay(cls, 0.01), backend=backend) for a in (p, q))
    for n in (300, 1, 40, 0):
        ids, v = rng.integers(0, 60, n), wild(rng, (n, 5), F64)
        mine.step(SparseGrad(ids, v))
        theirs.step(SparseGrad(*sums(ids, v), duplicates="error"))
    assert_bits(p, q)
    for (k, a), (_, b) in zip(*(opt.state_dict()["state"][0].items() for opt in (mine, theirs)), strict=True):
        assert a == b == 4 if k == "step" else np.array_equal(a, b), k


@pytest.mark.parametrize("duplicates", ["error", "none"])
def test_repeated_rows_where_none_are_allowed(duplicates, backend, rng):
    n = 5000
    for t in (I32, I64):
        ids, v = rng.permutation(n).astype(t), floats(n, 2)
        opt = fastopt.Adam({"w": floats(n, 2)}, backend=backend)
        opt.step({"w": SparseGrad(ids, v, duplicates)})
        for one, other in ((0, 1), (0, n - 1), (n // 4, 3 * n // 4), (n - 2, n - 1)):
            twice = ids.copy()
            twice[other] = twice[one]
            words = f"[{other}]", f"row {twice[one]},", repr(duplicates)
            with refused(IndexRangeError, "'w'", *words, opt=opt, watch=[twice, v]):
                opt.step({"w": SparseGrad(twice, v, duplicates)})
        with refused(IndexRangeError, f"duplicates={duplicates!r}", opt=opt):
            opt.step({"w": SparseGrad(ids // 2, v, duplicates)})


def test_sums_beyond_all_numbers_warn_nobody(backend):
    big, inf = np.finfo(F32).max, np.inf
    ids, v = np.array([0, 0, 1, 1, 2]), np.array([big, big, inf, -inf, np.nan], F32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for g in (
            SparseGrad(ids, v),
            SparseGrad.bag(ids, np.arange(5), v, np.array([1, 1, 1, 1, 2], F32)),
            sp.coo_array((v, (ids,)), shape=(4,)),
        ):
            assert_bits(summed_by_a_step(g, (4,), F32, backend), np.array([inf, np.nan, np.nan, 0], F32))


# ------------------------------------------------------------------------------------------------------ what is copied


def where(e: Entries) -> Iterator[np.ndarray]:
    return (a for a in e if isinstance(a, np.ndarray))


def assert_usable(e: Entries, p: np.ndarray) -> None:
    """What the driver relies on."""
    assert e.rows.dtype in (I32, I64)
    assert e.values.dtype == p.dtype
    assert e.columns is None or e.columns.dtype == I64
    assert e.bags is None or e.bags.dtype == I64
    assert e.scales is None or (e.scales.dtype == p.dtype and e.bags is not None)
    for a in where(e):
        assert a.flags.c_contiguous and a.flags.aligned and a.dtype.isnative and type(a) is np.ndarray
    assert {len(a) for a in (e.rows, e.columns, e.bags, e.scales) if a is not None} == {len(e.rows)}


INDEX_TYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">i4", ">i8", ">u8"]


def test_indices_of_32_and_64_bits_stay_where_they_are():
    p, v = np.zeros((100, 2), F32), np.ones((3, 2), F32)
    for t in INDEX_TYPES:
        ids = np.array([99, 0, 99]).astype(t)
        e = SparseGrad(ids, v).entries("g", p)
        assert_usable(e, p)
        assert np.shares_memory(e.rows, ids) == (t in ("i4", "i8"))
        assert e.rows.tolist() == [99, 0, 99]
        assert np.shares_memory(e.values, v)
    for t, change in itertools.product(("i4", "i8"), (spread, lambda a: spread(a, -1), misaligned)):
        ids = change(np.array([1, 2, 3], t))
        e = SparseGrad(ids, change(v)).entries("g", p)
        assert_usable(e, p)
        assert e.rows.tolist() == [1, 2, 3]
        assert not np.shares_memory(e.rows, ids)
    for bad in (100, -1, 2**62):  # left to the driver
        assert SparseGrad(np.array([bad]), v[:1]).entries("g", p).rows[0] == bad


def test_what_the_driver_gets_is_contiguous(rng):
    p, ids, offsets, pooled = np.zeros((20, 4), F32), ints(1, 2, 3), ints(0, 1), wild(rng, (2, 4), F32)
    for change in (misaligned, spread, lambda a: spread(a, -1), np.asfortranarray, read_only):
        assert_usable(SparseGrad(change(ids), change(pooled[[0, 1, 0]])).entries("g", p), p)
        assert_usable(SparseGrad.bag(*map(change, (ids, offsets, pooled)), change(pooled[0, :3])).entries("g", p), p)
        for fmt in FORMATS:
            g, _ = draw_matrix(rng, fmt, "array", (20, 4), F32, 30)
            if fmt not in ("lil", "dok"):
                g.data = change(g.data)
            assert_usable(scipy_entries("g", g, p), p)


def test_what_is_checked_is_not_the_callers():
    """Offsets, weights and the columns of SciPy's matrices: another thread may change them after the check."""
    p = np.zeros((5, 4), F32)
    weights, offsets = np.ones(3, F32), np.array([0, 1])
    e = SparseGrad.bag(np.array([1, 2, 3]), offsets, np.ones((2, 4), F32), weights).entries("g", p)
    assert_usable(e, p)
    assert not any(np.shares_memory(a, b) for a in where(e) for b in (weights, offsets))
    for t in (I32, I64):
        for ids in (np.array([4, 1, 4], t), np.array([4, 1, 3], t)):
            rows, _ = unique_rows("g", SparseGrad(ids, np.ones((3, 4), F32)).entries("g", p), p)
            assert rows.dtype == I64
            assert not np.shares_memory(rows, ids)
    for fmt in ("csr", "csc", "coo"):
        g = sp.coo_array(([1, 2, 3], ([4, 4, 0], [3, 1, 0])), shape=(5, 4), dtype=F32).asformat(fmt)
        widen(g, I64)
        e = scipy_entries("g", g, p)
        assert_usable(e, p)
        assert np.shares_memory(e.values, g.data)
        arrays = g.coords if fmt == "coo" else (g.indptr, g.indices)
        assert not any(np.shares_memory(e.columns, a) for a in arrays)


def test_rows_may_lie_apart():
    """As in a table that has parameter and state of a row side by side."""
    room = np.zeros((10, 8), F32)
    for p in (room[:, :3], room[:, 2:], room[:, :1], room[:, 5], room[::2], np.zeros((4, 2, 6), F32)[:, :, :6]):
        g = SparseGrad(np.array([1, 1]), np.ones((2, *p.shape[1:]), F32))
        rows, total = unique_rows("g", g.entries("g", p), p)
        assert rows.tolist() == [1]
        assert total.tolist() == np.full((1, *p.shape[1:]), 2.0).tolist()
    for p in (room[:, ::2], np.zeros((4, 3), F32, order="F"), np.zeros((4, 2, 6), F32)[:, :, :5], room.T):
        for bad in (SparseGrad(np.array([1]), p[:1]).entries, lambda n, p: scipy_entries(n, sp.coo_array(p), p)):
            with pytest.raises(ShapeError, match="rows are not contiguous"):
                bad("g", p)


def test_scipy_is_not_imported():
    code = """if True:
        import sys, numpy as np, fastopt
        p = np.zeros((4, 2))
        opt = fastopt.SGD(p)
        opt.step(p + 1)
        opt.step(fastopt.SparseGrad.bag(np.array([1, 2]), np.array([0]), p[:1] + 1))
        try:
            opt.step([1.0])
        except fastopt.DTypeError:
            print(any(m.split(".")[0] == "scipy" for m in sys.modules))
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")
    for x in (None, 3, "csr", [], np.zeros(3), np.zeros((3, 3)), SparseGrad(np.zeros(0, I64), np.zeros(0)), sp):
        assert not is_scipy_sparse(x)
    assert all(is_scipy_sparse(sp.eye_array(3).asformat(f)) and is_scipy_sparse(sp.eye(3).asformat(f)) for f in FORMATS)


def test_copies_and_words():
    g = SparseGrad(np.array([1, 2]), np.ones(2), "none")
    assert repr(g) == "SparseGrad(indices=array([1, 2]), values=array([1., 1.]), duplicates='none')"
    bag = SparseGrad.bag(np.array([1, 2]), np.array([0]), np.ones(1), np.ones(2))
    assert repr(bag) == (
        "SparseGrad.bag(indices=array([1, 2]), offsets=array([0]), pooled=array([1.]), weights=array([1., 1.]), mode='sum')"
    )
    for one in (g, bag):
        for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert repr(other) == repr(one)


def test_the_callers_memory_is_checked_by_check_rows():
    p = np.zeros((5, 2), F32)
    for t in (I32, I64):
        check_rows("ids", np.array([0, 4], t), p)
        check_rows("ids", np.array([], t), p[:0])
        for bad in (-1, 5, np.iinfo(t).min, np.iinfo(t).max):
            with pytest.raises(IndexRangeError, match=rf"ids\[1\] is {bad}, out of range for 5 rows; .* 0 to 4"):
                check_rows("ids", np.array([0, bad, 7], t), p)


# ------------------------------------------------------------------------------------------------------- index types


@pytest.mark.parametrize("t", INDEX_TYPES)
def test_every_type_of_index(t, backend, rng):
    ids, v = rng.integers(0, 100, 300), wild(rng, (300, 3), F32)
    want = np.zeros((100, 3), F32)
    rows, want[rows] = sums(ids, v)
    for change in (np.copy, read_only, misaligned, spread, lambda a: spread(a, -2)):
        assert_bits(summed_by_a_step(SparseGrad(change(ids.astype(t)), v), want.shape, F32, backend), want)
    offsets = np.sort(rng.integers(0, 127, 20)).astype(t)
    offsets[0] = 0
    pooled, few = wild(rng, (20, 3), F32), ids[:127].astype(t)
    g, plain = SparseGrad.bag(few, offsets, pooled), SparseGrad.bag(ids[:127], offsets.astype(I64), pooled)
    assert_bits(*(summed_by_a_step(x, want.shape, F32, backend) for x in (g, plain)))


def places(n: int) -> list[int]:
    """First, middle and last, and those within the share of each of two threads."""
    return [0, 1, n // 4, n // 2 - 1, n // 2, 3 * n // 4, n - 2, n - 1]


@pytest.mark.parametrize("t", ["i4", "i8"])
@pytest.mark.parametrize("bad", [-1, 1000, 2**31 - 1, -(2**31), 2**31, 2**32, 2**63 - 1, -(2**63)])
def test_one_bad_index_among_good_ones(bad, t, backend, rng):
    if not np.iinfo(t).min <= bad <= np.iinfo(t).max:
        pytest.skip("is no number of this type")
    n = 5000
    ids, v = rng.integers(0, 1000, n).astype(t), np.ones((n, 2), F32)
    line = (v[:, 0].copy(), (np.zeros(n, t), ids.copy()))
    column = sp.csc_array((v[:, 0].copy(), ids.copy(), np.array([0, n // 2, n], t)), shape=(1000, 2))
    coo = sp.coo_array(([0.0], ([0], [0])), shape=(1000, 2), dtype=F32)
    coo.coords, coo.data = (ids.copy(), rng.integers(0, 2, n).astype(t)), v[:, 0].copy()
    flat = sp.coo_array(([0.0], ([0], [0])), shape=(1, 1000), dtype=F32)
    flat.data, flat.coords = line
    widen(column, t)
    given: list[tuple[Any, np.ndarray, tuple[int, ...]]] = [
        (SparseGrad(ids, v), ids, (1000, 2)),
        (SparseGrad.bag(ids, np.arange(0, n, 5), v[::5]), ids, (1000, 2)),
        (column, column.indices, (1000, 2)),
        (coo, coo.coords[0], (1000, 2)),
        (flat, flat.coords[1], (1000,)),
    ]
    for g, at_hand, shape in given:
        assert at_hand.dtype == t
        opt = fastopt.Adagrad({"w": np.ones(shape, F32), "v": np.ones(3, F32)}, backend=backend)
        opt.step({"w": g, "v": np.ones(3, F32)})
        for at in places(n):
            was, at_hand[at] = at_hand[at], bad
            with refused(
                IndexRangeError, "'w'", f"[{at}]", f" {bad},", "1000 rows", "999", opt=opt, watch=[ids, v, at_hand]
            ):
                opt.step({"w": g, "v": np.ones(3, F32)})
            at_hand[at] = was
        was = at_hand[[n // 3, n - 1]]
        at_hand[[n // 3, n - 1]] = bad  # one in the share of each thread: the first is named
        with refused(IndexRangeError, f"[{n // 3}]", opt=opt):
            opt.step({"w": g, "v": np.ones(3, F32)})
        at_hand[[n // 3, n - 1]] = was
        opt.step({"w": g, "v": np.ones(3, F32)})


def test_nothing_in_it_is_a_step_all_the_same(backend):
    for shape in ((6, 4), (6,), (6, 1), (0, 4), (6, 0), (0,)):
        none = np.zeros(0, I64)
        grads: list[Any] = [
            SparseGrad(none, np.zeros((0, *shape[1:]), F32)),
            SparseGrad.bag(none, none, np.zeros((0, *shape[1:]), F32)),
            SparseGrad.bag(none, np.zeros(1, I64), np.zeros((0, *shape[1:]), F32)),
            SparseGrad.bag(none, np.zeros(3, I64), np.zeros((3, *shape[1:]), F32)),
            *(getattr(sp, f + "_array")(shape, dtype=F32) for f in (["coo", "csr", "dok"] if len(shape) == 1 else [])),
            *(
                sp.coo_array(s, dtype=F32).asformat(f)
                for f in FORMATS
                for s in ([shape] if len(shape) == 2 else [(1, *shape), (*shape, 1)])
                if 0 not in s or f in ("csr", "csc", "coo", "lil", "dok")
            ),
        ]
        for g in grads:
            p = np.ones(shape, F32)
            opt = fastopt.Adam({"w": p}, weight_decay=0.1, backend=backend)
            opt.step({"w": g})
            assert (p == 1).all(), repr(g)
            state = opt.state_dict()["state"]["w"]
            assert state.pop("step") == 1
            assert not any(a.any() for a in state.values())


# ---------------------------------------------------------------------------------------------------------------- bags


def draw_bags(rng: np.random.Generator, n: int, n_bags: int) -> np.ndarray:
    """Where the bags begin; some are empty, the last one too."""
    offsets = np.sort(rng.integers(0, n + 1, n_bags))
    offsets[0] = 0
    offsets[n_bags // 2 : n_bags // 2 + 3] = offsets[n_bags // 2]
    offsets[-1:] = n if n_bags > 1 else 0
    return offsets


@each_dtype
@pytest.mark.parametrize("width", [(), (1,), (3,), (8,), (17,), (2, 3)], ids=str)
@pytest.mark.parametrize("how", ["sum", "mean", "weights"])
def test_bag_is_its_rows_written_out(how, width, dtype, backend, rng):
    for n, n_bags, n_rows in ((1, 1, 1), (20, 1, 3), (0, 4, 5), (500, 40, 20), (3000, 900, 1000), (2000, 5, 7)):
        ids, offsets = rng.integers(0, n_rows, n), draw_bags(rng, n, n_bags)
        pooled, weights = wild(rng, (n_bags, *width), dtype), wild(rng, n, dtype)
        sizes = np.diff(np.append(offsets, n))
        written = np.empty((n, *width), dtype)
        for b in range(n_bags):
            for e in range(offsets[b], offsets[b] + sizes[b]):
                if how == "sum":
                    written[e] = pooled[b]
                else:
                    written[e] = (weights[e] if how == "weights" else dtype(1.0 / float(sizes[b]))) * pooled[b]
        options = {"sum": {}, "mean": {"mode": "mean"}, "weights": {"weights": weights}}[how]
        want = np.zeros((n_rows, *width), dtype)
        rows, want[rows] = sums(ids, written)
        for some in (offsets, np.append(offsets, n), offsets.astype(I32)):
            g = SparseGrad.bag(ids.astype(some.dtype), some, pooled, **options)
            assert_bits(summed_by_a_step(g, want.shape, dtype, backend), want, f"{n} in {n_bags}")
            steps = []
            for x in (g, SparseGrad(ids, written)):
                p = np.ones((n_rows, *width), dtype)
                opt = fastopt.Adam(p, weight_decay=0.1, backend=backend)
                opt.step(x)
                opt.step(x)
                steps.append(p)
            assert_bits(*steps)


def test_pooled_gradients_and_weights_in_any_layout(backend, rng):
    ids, offsets = rng.integers(0, 20, 60), np.arange(0, 60, 6)
    pooled, weights = wild(rng, (10, 4), F32), wild(rng, 60, F32)
    want = summed_by_a_step(SparseGrad.bag(ids, offsets, pooled, weights), (20, 4), F32, backend)
    for change in (read_only, misaligned, spread, lambda a: spread(a, -1)):
        g = SparseGrad.bag(change(ids), change(offsets), change(pooled), change(weights))
        assert_bits(summed_by_a_step(g, (20, 4), F32, backend), want)
    g = SparseGrad.bag(ids, offsets, np.asfortranarray(pooled), weights)
    assert_bits(summed_by_a_step(g, (20, 4), F32, backend), want)
    g = SparseGrad.bag(ids, offsets, np.broadcast_to(pooled[0], (10, 4)))  # what the gradient of a sum looks like
    plain = SparseGrad.bag(ids, offsets, np.tile(pooled[0], (10, 1)))
    assert_bits(*(summed_by_a_step(x, (20, 4), F32, backend) for x in (g, plain)))


def bag(**changed: Any) -> SparseGrad:
    """A bag for a parameter of 10 x 3: five indices in three bags, one of them empty."""
    right = {"indices": np.array([1, 9, 1, 0, 3]), "offsets": np.array([0, 2, 2]), "pooled": np.ones((3, 3), F32)}
    return SparseGrad.bag(**{**right, **changed})


def ints(*x: int, t: str = "i8") -> np.ndarray:
    return np.array(x, t)


def floats(*shape: int, t: str = "f4") -> np.ndarray:
    return np.ones(shape, t)


BAD_BAGS: dict[str, tuple[dict[str, Any], Any, tuple[str, ...]]] = {
    "offset beyond the end": ({"offsets": ints(0, 2, 6)}, IndexRangeError, ("offsets[2]", " 6", "0 to 5")),
    "offset below 0": ({"offsets": ints(0, -1, 2)}, IndexRangeError, ("offsets[1]", " -1")),
    "offset -2**63": ({"offsets": ints(0, -(2**63), 2)}, IndexRangeError, ("offsets[1]", str(-(2**63)))),
    "offset 2**63": ({"offsets": ints(0, 2, 2**63, t="u8")}, IndexRangeError, ("offsets[2]", str(2**63))),
    "offset 2**64 - 1": ({"offsets": ints(0, 2**64 - 1, 2, t="u8")}, IndexRangeError, ("offsets[1]", str(2**64 - 1))),
    "offset 2**31 - 1": ({"offsets": ints(0, 2, 2**31 - 1, t="i4")}, IndexRangeError, ("offsets[2]", str(2**31 - 1))),
    "falls": ({"offsets": ints(0, 3, 2)}, IndexRangeError, ("offsets[2]", "2", "3", "before")),
    "does not begin at 0": ({"offsets": ints(1, 2, 3)}, IndexRangeError, ("offsets", "0", "1 to 5")),
    "does not end at n": ({"offsets": ints(0, 2, 2, 4)}, IndexRangeError, ("offsets", "5", "0 to 4")),
    "begins late, one more": ({"offsets": ints(2, 2, 2, 5)}, IndexRangeError, ("offsets", "2 to 5")),
    "too few": ({"offsets": ints(0, 2)}, ShapeError, ("offsets", "(2,)", "(3,)", "(4,)", "3 bags")),
    "too many": ({"offsets": ints(0, 2, 2, 2, 5)}, ShapeError, ("offsets", "(5,)", "3 bags")),
    "none": ({"offsets": ints()}, ShapeError, ("offsets", "(0,)")),
    "indices without a bag": ({"offsets": ints(), "pooled": floats(0, 3)}, IndexRangeError, ("offsets", "5", "0 bags")),
    "2-D offsets": ({"offsets": ints(0, 2, 2).reshape(1, 3)}, ShapeError, ("offsets", "(1, 3)")),
    "0-d offsets": ({"offsets": np.array(0)}, ShapeError, ("offsets", "()")),
    "float offsets": ({"offsets": np.array([0.0, 2.0, 2.0])}, DTypeError, ("offsets", "float64", "int64")),
    "bool offsets": ({"offsets": np.array([False, True, True])}, DTypeError, ("offsets", "bool")),
    "list of offsets": ({"offsets": [0, 2, 2]}, DTypeError, ("offsets", "list")),
    "masked offsets": ({"offsets": np.ma.array([0, 2, 2])}, DTypeError, ("offsets", "masked")),
    "index beyond": ({"indices": ints(1, 9, 10, 0, 3)}, IndexRangeError, ("indices[2]", "10", "10 rows")),
    "index -1": ({"indices": ints(1, 9, 0, 0, -1)}, IndexRangeError, ("indices[4]", "-1")),
    "index 2**63": ({"indices": ints(1, 9, 0, 0, 2**63, t="u8")}, IndexRangeError, ("indices[4]", str(2**63))),
    "float indices": ({"indices": np.ones(5)}, DTypeError, ("indices", "float64", "int64")),
    "2-D indices": ({"indices": ints(1, 2, 3, 4).reshape(2, 2)}, ShapeError, ("indices", "(2, 2)")),
    "wide pooled": ({"pooled": floats(3, 4)}, ShapeError, ("pooled", "(3, 4)", "(3, 3)", "(10, 3)")),
    "narrow pooled": ({"pooled": floats(3, 2)}, ShapeError, ("pooled", "(3, 2)", "(3, 3)")),
    "1-D pooled": ({"pooled": floats(3)}, ShapeError, ("pooled", "(3,)", "(3, 3)")),
    "0-d pooled": ({"pooled": np.array(1, F32)}, ShapeError, ("pooled", "()")),
    "3-D pooled": ({"pooled": floats(3, 3, 1)}, ShapeError, ("pooled", "(3, 3, 1)")),
    "a row for each index": ({"pooled": floats(5, 3)}, ShapeError, ("offsets", "(3,)", "5 bags")),
    "float64 pooled": ({"pooled": floats(3, 3, t="f8")}, DTypeError, ("pooled", "float64", "float32")),
    "int pooled": ({"pooled": floats(3, 3, t="i4")}, DTypeError, ("pooled", "int32", "float32")),
    "no pooled": ({"pooled": None}, DTypeError, ("pooled", "NoneType")),
    "short weights": ({"weights": floats(4)}, ShapeError, ("weights", "(4,)", "(5,)")),
    "long weights": ({"weights": floats(6)}, ShapeError, ("weights", "(6,)", "(5,)")),
    "weights of bags": ({"weights": floats(3)}, ShapeError, ("weights", "(3,)", "(5,)")),
    "2-D weights": ({"weights": floats(5, 1)}, ShapeError, ("weights", "(5, 1)", "(5,)")),
    "float64 weights": ({"weights": floats(5, t="f8")}, DTypeError, ("weights", "float64", "float32")),
    "int weights": ({"weights": floats(5, t="i8")}, DTypeError, ("weights", "int64", "float32")),
    "list of weights": ({"weights": [1.0] * 5}, DTypeError, ("weights", "list")),
}


def refused_among_good_ones(make: Callable[[], Any], error: Any, words: tuple[str, ...], backend: str) -> None:
    """A bad gradient of a parameter of 10 x 3 changes nothing, whatever stands before and after it."""
    opt = fastopt.Adam({name: np.ones((10, 3), F32) for name in "abc"}, backend=backend)
    good = [SparseGrad(ints(3, 3), floats(2, 3)), bag(), sp.csr_array(np.eye(10, 3, dtype=F32)), floats(10, 3)]
    opt.step(dict.fromkeys("abc", good[0]))
    for k, name in enumerate("abc"):
        bad = make()
        mine = dict(vars(bad)) if is_scipy_sparse(bad) else {}
        watch = [a for a in (*mine.values(), *mine.get("coords", ())) if isinstance(a, np.ndarray)]
        with refused(error, f"'{name}'", *words, opt=opt, watch=watch):
            opt.step({other: bad if other == name else good[(k + j) % 4] for j, other in enumerate("abc")})
        assert all(vars(bad)[key] is value for key, value in mine.items()), "the caller's matrix was changed"


@pytest.mark.parametrize("kind", BAD_BAGS)
def test_bad_bag(kind, backend):
    changed, error, words = BAD_BAGS[kind]
    refused_among_good_ones(lambda: bag(**changed), error, words, backend)


def test_bag_at_once():
    for bad in ("max", "", None, True, "SUM"):
        with refused(HyperParameterError, "mode", "'sum'", "'mean'"):
            bag(mode=bad)
    with refused(UnsupportedError, "weights", "'mean'", "mode='sum'"):
        bag(mode="mean", weights=floats(5))
    with pytest.raises(TypeError):
        bag(duplicates="sum")


def test_a_bag_is_read_at_the_step(backend):
    g = bag(weights=floats(5))
    opt = fastopt.SGD(np.zeros((10, 3), F32), lr=1.0, backend=backend)
    for array, at, wrong, right in ((g.offsets, 2, 7, 4), (g.indices, 0, -1, 5)):
        array[at] = wrong
        with refused(IndexRangeError, opt=opt):
            opt.step(g)
        array[at] = right
    g.weights[4], g.values[2] = 3, -2
    opt.step(g)
    assert opt.param_groups[0]["params"][0][:, 0].tolist() == [-1, -1, 0, 6, 0, -1, 0, 0, 0, -1]


# ------------------------------------------------------------------------------------------------------ SciPy's matrices


def widen(g: Any, t: Any) -> Any:
    """Indices of dtype `t`: SciPy narrows them where they fit."""
    if g.format == "coo":
        g.coords = tuple(c.astype(t) for c in g.coords)
    elif g.format == "dia":
        g.offsets = g.offsets.astype(t)
    elif hasattr(g, "indptr"):
        g.indptr, g.indices = g.indptr.astype(t), g.indices.astype(t)
    return g


def draw_matrix(
    rng: np.random.Generator, fmt: str, kind: str, shape: tuple[int, int], dtype: type, n: int
) -> tuple[Any, np.ndarray]:
    """A matrix with about `n` entries, of which some are explicit zeros, and the rows that have one.

    CSR, CSC and COO are unsorted and have duplicates, and their flags say the contrary.
    """
    v = wild(rng, n, dtype)
    v[rng.random(n) < 0.2] = 0.0
    rows, columns = rng.integers(0, shape[0], n), rng.integers(0, shape[1], n)
    make = getattr(sp, f"{fmt}_{kind}")
    if fmt == "coo":
        g = make((v, (rows, columns)), shape=shape)
        g.has_canonical_format = True
        return g, np.unique(rows)
    if fmt in ("csr", "csc"):
        major, minor = (rows, columns) if fmt == "csr" else (columns, rows)
        order = np.argsort(major, kind="stable")
        indptr = np.append(0, np.cumsum(np.bincount(major, minlength=shape[fmt == "csc"])))
        g = make((v, minor[order], indptr), shape=shape)
        g.has_sorted_indices = g.has_canonical_format = True
        return g, np.unique(rows)
    dense = np.zeros(shape, dtype)
    dense[rows, columns] = v
    if fmt == "bsr":
        block = max(b for b in (1, 2, 3, 4) if not shape[0] % b), max(b for b in (1, 2, 3) if not shape[1] % b)
        g = sp.csr_array(dense).tobsr(block)
        g = make((g.data[::-1].copy(), g.indices, g.indptr), shape=shape)
        blocks = np.repeat(np.arange(shape[0] // block[0]), np.diff(g.indptr))
        return g, np.unique(blocks[:, None] * block[0] + np.arange(block[0]))
    if fmt == "dia":
        offsets = np.unique(rng.integers(-shape[0] - 2, shape[1] + 2, 3))  # some beyond the matrix
        g = make((wild(rng, (len(offsets), shape[1] + 3), dtype), offsets), shape=shape)
        stored = sum(np.eye(*shape, k) for k in offsets)
        return g, np.flatnonzero(stored.any(axis=1))
    return make(dense), np.flatnonzero((dense != 0).any(axis=1))


@each_dtype
@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_scipy_gradient_is_its_array(fmt, kind, dtype, backend, rng):
    """On the rows in which something is stored, and there on the whole width; the others stand still."""
    for shape in ((12, 6), (40, 1), (1, 30), (300, 40), (7, 9)):
        for t, n in ((I32, 25), (I64, 500)) if shape[1] > 6 else ((I64, 25), (I32, 1)):
            p = rng.standard_normal(shape).astype(dtype)
            q = p.copy()
            mine, theirs = fastopt.Adagrad(p, backend=backend), fastopt.Adagrad(q, backend="numpy")
            for _ in range(3):  # this one is the same when a row stands still and when it gets zeros
                g, touched = draw_matrix(rng, fmt, kind, shape, dtype, n)
                dense = g.toarray()
                assert dense.any() or n == 1 or fmt == "dia"
                mine.step(widen(g, t))
                theirs.step(dense)
                assert_bits(p, q, f"{shape} {t}")
            assert_bits(mine.state_dict()["state"][0]["sum"], theirs.state_dict()["state"][0]["sum"])
            start = p.copy()
            for a, x in ((p, g), (q, dense)):
                a[...] = start
                fastopt.AdamW(a, lr=0.1, backend=backend).step(x)
            want = start.copy()
            want[touched] = q[touched]
            assert_bits(p, want, f"{shape} {t}")
            assert len(touched) == 0 or not np.array_equal(want, start)


@each_dtype
def test_scipy_gradient_of_a_1d_parameter(dtype, backend, rng):
    """As a row, as a column, or of one dimension; each entry is an element."""
    n = 50
    ids, v = rng.integers(0, n, 200), wild(rng, 200, dtype)
    nothing, order = np.zeros(200, I64), np.argsort(ids, kind="stable")
    ends = np.append(0, np.cumsum(np.bincount(ids, minlength=n)))
    want = np.zeros(n, dtype)
    rows, want[rows] = sums(ids, v)
    grads = {
        "coo 1-D": sp.coo_array((v, (ids,)), shape=(n,)),
        "coo row": sp.coo_array((v, (nothing, ids)), shape=(1, n)),
        "coo column": sp.coo_matrix((v, (ids, nothing)), shape=(n, 1)),
        "csr row": sp.csr_matrix((v, ids, [0, 200]), shape=(1, n)),
        "csc column": sp.csc_array((v, ids, [0, 200]), shape=(n, 1)),
        "csr column": sp.csr_array((v[order], nothing, ends), shape=(n, 1)),
        "csc row": sp.csc_matrix((v[order], nothing, ends), shape=(1, n)),
    }
    line = sp.csr_array((n,), dtype=dtype)
    line.data, line.indices, line.indptr = v, ids, np.array([0, 200])
    grads["csr 1-D"] = line
    for (name, g), t in itertools.product(grads.items(), (I32, I64)):
        assert_bits(summed_by_a_step(widen(g, t), (n,), dtype, backend), want, name)
    unique, total = sums(ids, np.abs(v) + 1)
    for name, g in {
        "dok 1-D": sp.coo_array((total, (unique,)), shape=(n,)).todok(),
        **{f: sp.coo_array((total, (unique, unique * 0)), shape=(n, 1)).asformat(f) for f in FORMATS},
        **{f + " row": sp.coo_array((total, (unique * 0, unique)), shape=(1, n)).asformat(f) for f in FORMATS},
    }.items():
        got = summed_by_a_step(g, (n,), dtype, backend)
        assert_bits(got[unique], total, name)
        assert np.count_nonzero(got) == len(unique)
    one = sp.coo_array(([2.0, 3.0], ([0, 0], [0, 0])), shape=(1, 1), dtype=dtype)
    assert summed_by_a_step(one, (1,), dtype, backend).tolist() == [5]
    assert summed_by_a_step(one.tocsr(), (1,), dtype, backend).tolist() == [5]


def test_scipy_gradient_of_a_3d_parameter(backend, rng):
    shape, n = (20, 3, 5), 200
    coords, v = tuple(rng.integers(0, k, n) for k in shape), wild(rng, n, F32)
    dense = np.zeros(shape, F32)
    for at, x in zip(zip(*coords, strict=True), v, strict=True):
        dense[at] += x
    for t in (I32, I64):
        g = widen(sp.coo_array((v, coords), shape=shape), t)
        assert_bits(summed_by_a_step(g, shape, F32, backend), dense + 0.0)
    for axis, k in enumerate(shape):
        g = sp.coo_array((v, tuple(map(np.copy, coords))), shape=shape)
        g.coords[axis][7] = k
        opt = fastopt.Adam({"w": np.ones(shape, F32)}, backend=backend)
        with refused(IndexRangeError, "'w'", "[7]", f" {k},", opt=opt):
            opt.step({"w": g})


def test_rows_start_from_zero_where_columns_do(backend):
    """As toarray() does: -0.0 stored in a matrix of two dimensions is 0.0; in one dimension it is itself."""
    for g in (
        sp.coo_array(([-0.0], ([1], [0])), shape=(3, 2)),
        sp.csr_array(([-0.0], [0], [0, 0, 1, 1]), shape=(3, 2)),
    ):
        assert_bits(summed_by_a_step(g, (3, 2), F64, backend), np.zeros((3, 2)))
    for g in (sp.coo_array(([-0.0], ([1],)), shape=(3,)), sp.csc_array(([-0.0], [1], [0, 1]), shape=(3, 1))):
        assert_bits(summed_by_a_step(g, (3,), F64, backend), np.array([0, -0.0, 0]))


def test_what_stands_behind_the_last_row_does_not_count(backend):
    """indptr[-1] < len(data): SciPy keeps room there."""
    for fmt in ("csr", "csc"):
        g = getattr(sp, fmt + "_array")((floats(4), ints(0, 1, 2, 3), ints(0, 1, 1, 2, 3)), shape=(4, 4))
        g.indices, g.data = ints(3, 2, 0, 99), np.array([1, 2, 3, np.nan], F32)
        rows, columns = (0, 2, 3), (3, 2, 0)
        dense = np.zeros((4, 4), F32)
        dense[(rows, columns) if fmt == "csr" else (columns, rows)] = 1, 2, 3
        assert_bits(summed_by_a_step(g, (4, 4), F32, backend), dense)


@pytest.mark.parametrize("fmt", ["csr", "csc", "coo", "bsr", "dia"])
def test_layouts_of_scipys_arrays(fmt, backend, rng):
    g, _ = draw_matrix(rng, fmt, "array", (24, 6), F32, 40)
    want = g.toarray() + 0.0
    names = {"coo": ("data",), "dia": ("data", "offsets")}.get(fmt, ("data", "indices", "indptr"))
    for change in (read_only, misaligned, spread, lambda a: spread(a, -1), lambda a: a.astype(a.dtype, order="F")):
        changed = copy.copy(g)
        for name in names:
            setattr(changed, name, change(getattr(g, name)))
        if fmt == "coo":
            changed.coords = tuple(change(c) for c in g.coords)
        assert_bits(summed_by_a_step(changed, (24, 6), F32, backend), want)
    for t in (">i4", ">i8", "u4", "u8", "i2"):
        if fmt == "dia" and t[0] == "u":
            continue  # offsets have signs
        changed = widen(copy.copy(g), t)
        assert_bits(summed_by_a_step(changed, (24, 6), F32, backend), want)


def scipys(fmt: str, **changed: Any) -> Any:
    """A matrix of 10 x 3 with some of its arrays replaced, as no constructor would do."""
    dense = np.zeros((10, 3), F32)
    dense[[0, 3, 3, 9], [1, 0, 2, 1]] = 1, 2, 3, 4
    g = sp.csr_array(dense).tobsr((2, 3)) if fmt == "bsr" else getattr(sp, fmt + "_array")(dense)
    for name, value in changed.items():
        setattr(g, name, value)
    return g


def lists(*rows: Any) -> np.ndarray:
    a = np.empty(len(rows), object)
    a[:] = rows
    return a


CSR = {"indptr": ints(0, 1, 1, 1, 3, 3, 3, 3, 3, 3, 4), "indices": ints(1, 0, 2, 1)}
UP = [0, 1, 1, 1, 3, 3, 3, 3, 3, 3]

BAD_SCIPY: dict[str, tuple[Callable[[], Any], Any, tuple[str, ...]]] = {
    # indptr
    "indptr from 1": (lambda: scipys("csr", indptr=ints(1, *UP[1:], 4)), LayoutError, ("indptr", "1", "0")),
    "indptr from -1": (lambda: scipys("csr", indptr=ints(-1, *UP[1:], 4)), LayoutError, ("indptr", "-1")),
    "indptr falls": (
        lambda: scipys("csr", indptr=ints(0, 1, 3, 1, 3, 3, 3, 3, 3, 3, 4)),
        LayoutError,
        ("indptr[3]", "1", "3"),
    ),
    "indptr wraps": (
        lambda: scipys("csr", indptr=ints(0, 2**63 - 1, -(2**63), 1, 3, 3, 3, 3, 3, 3, 4)),
        LayoutError,
        ("indptr[2]", str(-(2**63))),
    ),
    "indptr wraps in 32 bits": (
        lambda: scipys("csr", indptr=ints(0, 2**31 - 1, -(2**31), 1, 3, 3, 3, 3, 3, 3, 4, t="i4")),
        LayoutError,
        ("indptr[2]",),
    ),
    "indptr of uint64 that wraps": (
        lambda: scipys("csr", indptr=ints(*UP, 2**64 - 4, t="u8")),
        LayoutError,
        ("indptr[10]",),
    ),
    "indptr too far": (lambda: scipys("csr", indptr=ints(*UP, 5)), LayoutError, ("indptr", "5", "4", "data")),
    "indptr much too far": (lambda: scipys("csr", indptr=ints(*UP, 2**62)), LayoutError, ("indptr", str(2**62))),
    "indptr short": (lambda: scipys("csr", indptr=ints(*UP)), ShapeError, ("indptr", "10", "11")),
    "indptr long": (lambda: scipys("csr", indptr=ints(*UP, 4, 4)), ShapeError, ("indptr", "12", "11")),
    "indptr empty": (lambda: scipys("csr", indptr=ints()), ShapeError, ("indptr", "0", "11")),
    "indptr 2-D": (lambda: scipys("csr", indptr=ints(*UP, 4).reshape(1, 11)), ShapeError, ("indptr", "(1, 11)")),
    "indptr of floats": (lambda: scipys("csr", indptr=np.array([*UP, 4.0])), DTypeError, ("indptr", "float64")),
    "indptr of a list": (lambda: scipys("csr", indptr=[*UP, 4]), DTypeError, ("indptr", "list")),
    "csc: indptr falls": (lambda: scipys("csc", indptr=ints(0, 3, 1, 4)), LayoutError, ("indptr[2]",)),
    "csc: indptr short": (lambda: scipys("csc", indptr=ints(0, 1, 4)), ShapeError, ("indptr", "3", "4")),
    "csc: indptr of rows": (lambda: scipys("csc", indptr=ints(*UP, 4)), ShapeError, ("indptr", "11", "4")),
    "csc: indptr too far": (lambda: scipys("csc", indptr=ints(0, 1, 3, 9)), LayoutError, ("indptr", "9", "4")),
    # indices
    **{
        f"{fmt}: index {bad}": (
            lambda fmt=fmt, bad=bad, n=n, t=t: scipys(fmt, indices=ints(1, 0, bad, 1, t=t)),
            IndexRangeError,
            ("indices[2]", f" {bad},", f"0 to {n - 1}"),
        )
        for fmt, n in (("csr", 3), ("csc", 10))
        for bad, t in (
            (-1, "i4"),
            (n, "i4"),
            (-(2**31), "i4"),
            (2**31 - 1, "i4"),
            (2**31, "i8"),
            (2**63 - 1, "i8"),
            (-(2**63), "i8"),
            (2**63, "u8"),
            (2**64 - 1, "u8"),
        )
    },
    "indices short": (lambda: scipys("csr", indices=ints(1, 0, 2)), ShapeError, ("indices", "3", "4")),
    "indices long": (lambda: scipys("csr", indices=ints(1, 0, 2, 1, 0)), ShapeError, ("indices", "5", "4")),
    "indices 2-D": (lambda: scipys("csr", indices=ints(1, 0, 2, 1).reshape(2, 2)), ShapeError, ("indices", "(2, 2)")),
    "indices of floats": (lambda: scipys("csc", indices=np.ones(4)), DTypeError, ("indices", "float64")),
    "indices of bools": (lambda: scipys("csc", indices=np.ones(4, bool)), DTypeError, ("indices", "bool")),
    "indices of objects": (lambda: scipys("csr", indices=np.ones(4, object)), DTypeError, ("indices", "object")),
    # data
    **{
        f"{fmt} of {t}": (lambda fmt=fmt, t=t: scipys(fmt).astype(t), DTypeError, (str(np.dtype(t)), "float32"))
        for fmt in FORMATS
        for t in ("f8", "i4", "c8", "?")
    },
    "data short": (lambda: scipys("csr", data=floats(3)), ShapeError, ("indices", "4", "3")),
    "data long": (lambda: scipys("csr", data=floats(5)), ShapeError, ("indices", "4", "5")),
    "data 2-D": (lambda: scipys("csr", data=floats(4, 1)), ShapeError, ("data", "(4, 1)")),
    "data 0-d": (lambda: scipys("csc", data=np.array(1, F32)), ShapeError, ("data", "()")),
    "data of a list": (lambda: scipys("csr", data=[1.0, 2.0, 3.0, 4.0]), DTypeError, ("data", "list")),
    "masked data": (lambda: scipys("csr", data=np.ma.array(floats(4))), DTypeError, ("data", "masked")),
    "foreign data": (lambda: scipys("csr", data=floats(4, t=">f4")), DTypeError, ("data", "byte order")),
    "object data": (lambda: scipys("csr", data=floats(4).astype(object)), DTypeError, ("data", "object")),
    # COO
    **{
        f"coo: index {bad} along axis {axis}": (
            lambda axis=axis, bad=bad: scipys(
                "coo", coords=tuple(ints(0, 1, bad if k == axis else 2, 1) for k in range(2))
            ),
            IndexRangeError,
            ("[2]", f" {bad},", f"0 to {n - 1}"),
        )
        for axis, n in ((0, 10), (1, 3))
        for bad in (-1, n, 2**31, -(2**63), 2**63 - 1)
    },
    "coo: coords short": (lambda: scipys("coo", coords=(ints(0, 1), ints(0, 1, 2, 1))), ShapeError, ("axis 0", "2")),
    "coo: coords long": (lambda: scipys("coo", coords=(CSR["indices"], ints(*UP))), ShapeError, ("axis 1", "10")),
    "coo: one of coords": (lambda: scipys("coo", coords=(CSR["indices"],)), ShapeError, ("1", "2", "(10, 3)")),
    "coo: three of coords": (lambda: scipys("coo", coords=(CSR["indices"],) * 3), ShapeError, ("3", "2", "(10, 3)")),
    "coo: coords of floats": (lambda: scipys("coo", coords=(floats(4),) * 2), DTypeError, ("coords[0]", "float32")),
    "coo: data short": (lambda: scipys("coo", data=floats(3)), ShapeError, ("axis 0", "(3,)")),
    "coo: data 2-D": (lambda: scipys("coo", data=floats(2, 2)), ShapeError, ("data", "(2, 2)")),
    # BSR: blocks of 2 x 3, in rows 0, 1 and 4 of blocks
    "bsr: indptr falls": (lambda: scipys("bsr", indptr=ints(0, 3, 1, 1, 1, 3)), LayoutError, ("indptr[2]",)),
    "bsr: indptr from 1": (lambda: scipys("bsr", indptr=ints(1, 1, 2, 2, 2, 3)), LayoutError, ("indptr", "1")),
    "bsr: indptr too far": (lambda: scipys("bsr", indptr=ints(0, 1, 2, 2, 2, 4)), LayoutError, ("indptr", "4", "3")),
    "bsr: indptr of rows": (lambda: scipys("bsr", indptr=ints(*UP, 3)), ShapeError, ("indptr", "11", "6")),
    "bsr: index 1": (lambda: scipys("bsr", indices=ints(0, 1, 0)), IndexRangeError, ("indices[1]", " 1,", "0 to 0")),
    "bsr: index -1": (lambda: scipys("bsr", indices=ints(0, 0, -1)), IndexRangeError, ("indices[2]", " -1,")),
    "bsr: index that wraps": (lambda: scipys("bsr", indices=ints(0, 0, 2**62)), IndexRangeError, ("indices[2]",)),
    "bsr: indices short": (lambda: scipys("bsr", indices=ints(0, 0)), ShapeError, ("indices", "2", "3")),
    "bsr: blocks 2-D": (lambda: scipys("bsr", data=floats(3, 2)), ShapeError, ("data", "(3, 2)")),
    "bsr: blocks too high": (lambda: scipys("bsr", data=floats(3, 4, 3)), ShapeError, ("4 x 3", "(10, 3)")),
    "bsr: blocks too wide": (lambda: scipys("bsr", data=floats(3, 2, 2)), ShapeError, ("2 x 2", "(10, 3)")),
    "bsr: blocks of nothing": (lambda: scipys("bsr", data=floats(3, 0, 3)), ShapeError, ("0 x 3",)),
    "bsr: other blocks": (lambda: scipys("bsr", data=floats(3, 1, 1)), ShapeError, ("indptr", "6", "11")),
    # DIA
    "dia: offsets short": (lambda: scipys("dia", offsets=ints(0)), ShapeError, ("offsets", "1")),
    "dia: offsets 2-D": (lambda: scipys("dia", offsets=ints(0).reshape(1, 1)), ShapeError, ("offsets", "(1, 1)")),
    "dia: offsets of floats": (lambda: scipys("dia", offsets=np.ones(4)), DTypeError, ("offsets", "float64")),
    "dia: data 1-D": (lambda: scipys("dia", data=floats(4)), ShapeError, ("data", "(4,)")),
    # LIL, DOK
    "lil: no lists": (lambda: scipys("lil", rows=lists(*[3] * 10)), LayoutError, ("lil",)),
    "lil: more columns than values": (
        lambda: scipys("lil", rows=lists([0, 1], *[[]] * 9), data=lists([1.0], *[[]] * 9)),
        LayoutError,
        ("lil", "length"),
    ),
    "lil: values in the next row": (
        lambda: scipys("lil", rows=lists([0, 1], [], *[[]] * 8), data=lists([1.0], [2.0], *[[]] * 8)),
        LayoutError,
        ("lil", "length"),
    ),
    "lil: column 3": (
        lambda: scipys("lil", rows=lists([3], *[[]] * 9), data=lists([1.0], *[[]] * 9)),
        IndexRangeError,
        (" 3,", "0 to 2"),
    ),
    "lil: column 2**70": (
        lambda: scipys("lil", rows=lists([2**70], *[[]] * 9), data=lists([1.0], *[[]] * 9)),
        LayoutError,
        ("lil",),
    ),
    "lil: too many rows": (
        lambda: scipys("lil", rows=lists(*[[0]] * 11), data=lists(*[[1.0]] * 11)),
        IndexRangeError,
        (" 10,", "10 rows"),
    ),
    "lil: words": (
        lambda: scipys("lil", rows=lists(*[[0]] * 10), data=lists(*[["one"]] * 10)),
        LayoutError,
        ("lil", "one"),
    ),
    "dok: row 10": (lambda: scipys("dok", _dict={(10, 0): F32(1)}), IndexRangeError, (" 10,", "10 rows")),
    "dok: column -1": (lambda: scipys("dok", _dict={(1, -1): F32(1)}), IndexRangeError, (" -1,", "3 columns")),
    "dok: a key of three": (lambda: scipys("dok", _dict={(1, 1, 1): F32(1)}), FastoptError, ()),
    "dok: a key of words": (lambda: scipys("dok", _dict={"one": F32(1)}), LayoutError, ("dok",)),
    "dok: a word": (lambda: scipys("dok", _dict={(1, 1): "one"}), LayoutError, ("dok", "one")),
    # shapes
    "turned": (lambda: scipys("csr").T, ShapeError, ("(3, 10)", "(10, 3)")),
    "wider": (lambda: sp.csr_array((10, 4), dtype=F32), ShapeError, ("(10, 4)", "(10, 3)")),
    "shorter": (lambda: sp.coo_array((9, 3), dtype=F32), ShapeError, ("(9, 3)", "(10, 3)")),
    "flat": (lambda: sp.coo_array((30,), dtype=F32), ShapeError, ("(30,)", "(10, 3)")),
    "one row": (lambda: sp.csr_array((1, 30), dtype=F32), ShapeError, ("(1, 30)", "(10, 3)")),
    "3-D": (lambda: sp.coo_array((10, 3, 1), dtype=F32), ShapeError, ("(10, 3, 1)", "(10, 3)")),
}


@pytest.mark.parametrize("kind", BAD_SCIPY)
def test_bad_scipy_gradient(kind, backend):
    make, error, words = BAD_SCIPY[kind]
    if error is FastoptError:  # one of several is right

        def make_and_name() -> Any:
            return make()

        for cls in (ShapeError, LayoutError):
            with pytest.raises(FastoptError) as caught:
                scipy_entries("g", make_and_name(), np.ones((10, 3), F32))
            if type(caught.value) is cls:
                error = cls
    refused_among_good_ones(make, error, words, backend)


def test_the_matrix_that_is_made_bad_is_good(backend):
    """Else the tests above would prove nothing."""
    want = scipys("csr").toarray()
    for fmt in FORMATS:
        assert_bits(summed_by_a_step(scipys(fmt), (10, 3), F32, backend), want, fmt)
    assert_bits(summed_by_a_step(scipys("csr", **CSR), (10, 3), F32, backend), want)


def test_scipy_gradient_of_a_1d_parameter_of_another_shape(backend):
    opt = fastopt.Adam({"v": np.ones(6, F32)}, backend=backend)
    for shape in ((5,), (7,), (1, 7), (7, 1), (2, 3), (6, 6), (6, 2), (2, 6), (6, 0), (6, 1, 1)):
        with refused(ShapeError, "'v'", str(shape), "(6,)", "(1, 6)", "(6, 1)", opt=opt):
            opt.step({"v": sp.coo_array(shape, dtype=F32)})
    for fmt, shape in itertools.product(("csr", "csc", "coo"), ((1, 6), (6, 1))):
        g = sp.coo_array((floats(2), (ints(0, 0), ints(0, 0))), shape=shape).asformat(fmt)
        for a in g.coords if fmt == "coo" else (g.indices,):
            g_bad = copy.deepcopy(g)
            for b in g_bad.coords if fmt == "coo" else (g_bad.indices,):
                if a is g.indices if fmt != "coo" else b.tolist() == a.tolist():
                    b[-1] = 6
            with refused(IndexRangeError, "'v'", " 6,", opt=opt):
                opt.step({"v": g_bad})


def test_scipy_gradient_of_a_number_or_of_turned_rows(backend):
    opt = fastopt.SGD({"s": np.array(1, F32)}, backend=backend)
    with refused(ShapeError, "'s'", "()", "no rows", opt=opt):
        opt.step({"s": sp.csr_array((1, 1), dtype=F32)})
    opt = fastopt.SGD({"s": np.ones((4, 3), F32, order="F")}, backend=backend)
    with refused(ShapeError, "'s'", "Fortran", opt=opt):
        opt.step({"s": sp.csr_array((4, 3), dtype=F32)})


def test_unknown_format(backend):
    class Other(sp.csr_array):
        format = "new"  # type: ignore[assignment]

    opt = fastopt.SGD({"w": np.ones((4, 3), F32)}, backend=backend)
    with refused(UnsupportedError, "'w'", "'new'", "tocsr", opt=opt):
        opt.step({"w": Other((4, 3), dtype=F32)})


def test_nothing_is_made_dense():
    """The cost is that of the entries: the parameter of 3 GB is never touched here."""
    p = np.zeros((50_000_000, 16), F32)
    rows, columns, v = ints(49_999_999, 3), ints(1, 2), floats(2)
    grads = [
        sp.coo_array((v, (rows, columns)), shape=p.shape),
        sp.coo_array((v, (rows, columns)), shape=p.shape).tocsc(),
        sp.dok_array(p.shape, dtype=F32),
        SparseGrad.bag(rows, ints(0, 1), floats(2, 16)),
    ]
    for g in grads:
        tracemalloc.start()
        try:
            e = g.entries("g", p) if isinstance(g, SparseGrad) else scipy_entries("g", g, p)
            unique_rows("g", e, p)
            assert tracemalloc.get_traced_memory()[1] < 50_000
        finally:
            tracemalloc.stop()


def test_gradients_of_all_kinds_in_one_step(backend, rng):
    shape = (30, 4)
    names = ["dense", "rows", "bag", "csr", "coo", "none"]
    params = {name: np.ones(shape, F32) for name in names}
    opt = fastopt.SGD(params, lr=1.0, backend=backend)
    ids, v, dense = rng.integers(0, 30, 40), rng.integers(-9, 9, (40, 4)).astype(F32), np.zeros(shape, F32)
    np.add.at(dense, ids, v)
    opt.step(
        {
            "dense": dense,
            "rows": SparseGrad(ids, v),
            "bag": SparseGrad.bag(ids, np.arange(40), v),
            "csr": sp.csr_array(dense),
            "coo": sp.coo_matrix(dense),
            "none": None,
        }
    )
    for name in names[:-1]:
        assert_bits(params[name], 1 - dense, name)
    assert (params["none"] == 1).all()
    assert [opt.state_dict()["state"][name]["step"] for name in names] == [1, 1, 1, 1, 1, 0]
    single = fastopt.SGD(p := np.ones(shape, F32), lr=1.0, backend=backend)
    single.step(sp.lil_matrix(dense))
    assert_bits(p, 1 - dense)


# ------------------------------------------------------------------------------------------------------- shared memory


def test_indices_and_values_in_the_same_memory(backend, rng):
    for t, dtype in ((I32, F32), (I64, F64)):
        ids = rng.integers(0, 40, 500).astype(t)
        want = np.zeros(40, dtype)
        rows, want[rows] = sums(ids, ids.view(dtype))  # subnormal numbers
        assert want.any()
        assert_bits(summed_by_a_step(SparseGrad(ids, ids.view(dtype)), (40,), dtype, backend), want)
        g = SparseGrad.bag(ids, np.arange(500), ids.view(dtype), ids.view(dtype))
        assert_bits(summed_by_a_step(g, (40,), dtype, backend), want * 0)


def test_indices_in_the_memory_of_the_parameter(backend):
    """Right, or refused; never what came to stand there meanwhile."""
    for t, dtype in ((I32, F32), (I64, F64)):
        for width in ((), (2,)):
            room = np.zeros((4000, *width), dtype)
            ids = room.reshape(-1).view(t)[:4000]
            ids[:] = np.arange(4000)[::-1] % 1500
            p, want = room, room.copy()
            v = np.full((4000, *width), 1e6, dtype)
            fastopt.SGD(want, lr=1.0, backend="numpy").step(SparseGrad(ids.copy(), v))
            opt = fastopt.SGD({"p": p}, lr=1.0, backend=backend)
            before = p.copy()
            try:
                opt.step({"p": SparseGrad(ids, v)})
            except OverlapError as e:
                assert "'p'" in str(e)
                assert_bits(p, before)
            else:
                assert_bits(p, want)
            assert not np.array_equal(before, want)


def test_values_in_the_memory_of_parameter_or_state(backend):
    room = np.ones(200, F32)
    opt = fastopt.Adagrad({"v": room[20:50], "w": room[100:130].reshape(10, 3)}, backend=backend)
    state = opt._state[1]["sum"].reshape(-1)
    csr = sp.csr_array((floats(3), ints(0, 1, 2), ints(0, *[3] * 10)), shape=(10, 3))
    for at in (room[98:101], room[100:103], room[129:132], room[48:51], state[:3], state[-3:]):
        csr.data = at
        for g in (csr, SparseGrad.bag(ints(1), ints(0), at.reshape(1, 3)), SparseGrad(ints(1), at.reshape(1, 3))):
            with refused(OverlapError, "gradient of param 'w'", "copy", opt=opt, watch=room):
                opt.step({"v": None, "w": g})
    for at in (room[97:100], room[130:133], room[50:53]):
        csr.data = at
        opt.step({"v": None, "w": csr})
    assert (room[:100] == 1).all()
    assert (room[130:] == 1).all()


# ---------------------------------------------------------------------------------------------- changed during the call


@pytest.fixture
def hurry() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


N, ROWS = 30_000, 1000


def changing(kind: str, rng: np.random.Generator) -> tuple[Any, np.ndarray, int]:
    """A gradient of ones for 2 * ROWS rows of 4, of the first half alone; what is changed in it, and one past its end."""
    t = I32 if kind.endswith("32") else I64
    ids = rng.integers(0, ROWS, N).astype(t)
    if kind.startswith("rows"):
        return SparseGrad(ids, np.ones((N, 4), F32)), ids, 2 * ROWS
    offsets = np.arange(0, N, 10)
    if kind.startswith("bag"):
        return SparseGrad.bag(ids, offsets, np.ones((N // 10, 4), F32)), ids, 2 * ROWS
    if kind == "offsets":
        return SparseGrad.bag(ids, offsets, np.ones((N // 10, 4), F32)), offsets, N + 1
    columns = rng.integers(0, 4, N).astype(t)
    if kind == "coo":
        g = widen(sp.coo_array((np.ones(N, F32), (ids, columns)), shape=(2 * ROWS, 4)), t)
        return g, g.coords[1], 4
    if kind == "csc":
        g = widen(sp.csc_array((np.ones(N, F32), ids, [0, N // 2, N, N, N]), shape=(2 * ROWS, 4)), t)
        return g, g.indices, 2 * ROWS
    ends = np.minimum(np.arange(2 * ROWS + 1) * (N // ROWS), N)
    g = widen(sp.csr_array((np.ones(N, F32), columns, ends), shape=(2 * ROWS, 4)), t)
    return g, g.indptr if kind == "indptr" else g.indices, N + 1 if kind == "indptr" else 4


@pytest.mark.parametrize("bad", [True, False], ids=["out of range", "in range"])
@pytest.mark.parametrize("kind", ["rows32", "rows64", "bag64", "offsets", "coo", "csc", "csr32", "indptr"])
def test_arrays_that_another_thread_changes_meanwhile(kind, bad, backend, rng, hurry):
    """The step is refused, or each number arrives once in the rows that the gradient may have; and nothing elsewhere."""
    g, array, end = changing(kind, rng)
    guard = 5000
    room = np.zeros((guard + 2 * ROWS + guard, 4), F32)
    p = room[guard : guard + 2 * ROWS]
    opt = fastopt.SGD(p, lr=1.0, backend=backend)
    each = N * 4 if kind in ("rows32", "rows64", "bag64", "offsets") else N
    evil = itertools.cycle([-1, end, end + guard // 2, np.iinfo(array.dtype).max, np.iinfo(array.dtype).min])
    kept, stop = array.copy(), threading.Event()
    at = rng.permutation(len(array) - 2)[: len(array) // 3] + 1

    def change() -> None:
        while not stop.is_set():
            if bad:
                k = at[0] if kind in ("indptr", "offsets") else at
                array[k] = next(evil)
                array[k] = kept[k]
            else:
                array[at] = array[at - 1]  # what is in order stays so
                array[at] = kept[at]

    other = threading.Thread(target=change)
    other.start()
    taken, refusals, deadline = 0, 0, time.monotonic() + 0.3
    try:
        while time.monotonic() < deadline or (taken + refusals < 10 and time.monotonic() < deadline + 5):
            try:
                opt.step(g)
                taken += 1
            except (IndexRangeError, LayoutError):
                refusals += 1
    finally:
        stop.set()
        other.join()
    assert bad or kind in ("indptr", "offsets") or not refusals
    assert not room[:guard].any()
    assert not room[guard + ROWS :].any()
    assert -p.sum(dtype=F64) == taken * each
    assert opt.state_dict()["step"] == taken


# -------------------------------------------------------------------------------------------------------- large tables


@pytest.mark.parametrize("width", [(), (1,), (8,), (100,)], ids=str)
@pytest.mark.parametrize("elements", [9 * 2**28, 2**32 + 2**20], ids=["beyond 2**31", "beyond 2**32"])
def test_offsets_that_no_32_bits_hold(elements, width, backend, rng):
    """The table is never filled: memory comes with the few pages that the step writes."""
    n = elements // max(1, *width, 1)
    try:
        p = np.zeros((n, *width), F32)
    except MemoryError:
        pytest.skip(f"this machine does not promise {4 * elements / 1e9:.0f} GB")
    opt = fastopt.SGD({"w": p}, lr=1.0, backend=backend)
    last = 2**31 // max(1, *width, 1)
    rows = np.array([n - 1, 0, n - 2, n - 1, n // 2, last, last - 1])
    rows = np.append(rows, rows[rng.integers(0, len(rows), 200)])
    v = rng.integers(-9, 9, (len(rows), *width)).astype(F32)
    want = dict(zip(*(a.tolist() for a in sums(rows, v)), strict=True))
    opt.step({"w": SparseGrad(rows, v)})
    opt.step({"w": SparseGrad.bag(rows, np.arange(len(rows)), v)})
    if len(width) == 1:
        c = np.tile(np.arange(width[0]), len(rows))
        opt.step({"w": sp.coo_array((v.reshape(-1), (np.repeat(rows, width[0]), c)), shape=p.shape)})
    else:
        opt.step({"w": sp.csc_array((v, rows, [0, len(rows)]), shape=(n, 1))})
    for row, x in want.items():
        assert (-p[row] / 3).tolist() == x
    for row in {r + d for r in want for d in (-1, 1)} - set(want) - {-1, n}:
        assert not p[row].any()
    for bad in (n, -1, n + 2**32, n - 2**32, n - 1 + 2**32):
        if not 0 <= bad < n:
            with pytest.raises(IndexRangeError, match=str(bad)):
                opt.step({"w": SparseGrad(np.append(rows, bad), np.concatenate([v, v[:1]]))})
    for row, x in want.items():
        assert (-p[row] / 3).tolist() == x


# ------------------------------------------------------------------------------------------- found by reviewers


def test_arrays_that_lie_about_their_shape():
    class Liar(np.memmap):
        shape = property(lambda self: (2,))  # type: ignore[assignment]

    rows = np.arange(100).view(Liar)
    p = np.zeros((100, 8), F32)
    assert fastopt.SGD(p).read(0, rows).shape in ((100, 8), (2, 8))
    with contextlib.suppress(fastopt.FastoptError):
        fastopt.SGD(p).step(SparseGrad(rows, np.ones((2, 8), F32)))

    class Equal(int):
        __eq__ = lambda self, other: True  # noqa: E731
        __hash__ = int.__hash__

    class Matrix(sp.coo_array):
        shape = property(lambda self: (100, Equal(2**40)))

    g = sp.coo_array((np.ones(1, F32), (np.array([99]), np.array([5]))), shape=(100, 8))
    g.__class__ = Matrix
    with pytest.raises(fastopt.ShapeError):
        fastopt.SGD(p).step(g)


def test_indices_whose_dtype_is_changed_by_another_thread():
    """Twice as many indices as there are values: what lies behind them must not be read."""
    n = 64
    ids, room, p = np.zeros(n, np.int64), np.zeros((2 * n, 4), F32), np.zeros((1000, 4), F32)
    room[n:] = 1
    opt = fastopt.SGD(p, lr=1.0)
    stop = threading.Event()

    def toggle() -> None:
        while not stop.is_set():
            ids.dtype = np.int32
            stop.is_set()  # a call, at which threads can take turns
            ids.dtype = np.int64

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=toggle)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(30_000):
            with contextlib.suppress(fastopt.FastoptError):
                opt.step(SparseGrad(ids, room[:n]))
            if p[0].any():
                break
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not p.any()
