"""A Table: parameter and state of a row side by side in memory, with the bits of an optimizer with separate arrays."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import mmap
import pickle
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import needs_native
from numpy.lib.stride_tricks import as_strided
from settings import SETTINGS, assert_bits, case_id, cases, has_exact_form, native_builds
from test_arguments import each_backend
from test_bits import odd_gradient
from test_exact import usual_schedule
from test_state import assert_same

import fastopt
from fastopt import (
    ConcurrentStepError,
    DTypeError,
    FastoptError,
    HyperParameterError,
    IndexRangeError,
    OverlapError,
    ShapeError,
    SparseGrad,
    StateError,
    Table,
    UnsupportedError,
)

Array = np.ndarray
WIDTHS = [1, 2, 3, 8, 16, 17, 40, 1030]
HUGE_PAGE = 2**21
#: every optimizer with every setting, and a few block operations
CASES = [
    *cases(blocks=False, whole=False),
    ("sgd", {"momentum": 0.9, "weight_decay": 0.05, "maximize": True}),
    ("adagrad", {"weight_decay": 0.05, "decoupled_weight_decay": True}),
]
each_case = pytest.mark.parametrize("case", CASES, ids=case_id)
#: one case for each number of states, with a state that is born late and one that starts from another number than 0
FEW = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9, "dampening": 0.3}),
    ("adagrad", {"initial_accumulator_value": 0.5}),
    ("adamw", {}),
    ("adam", {"amsgrad": True}),
    ("rmsprop", {"momentum": 0.5, "centered": True}),
]
each_of_few = pytest.mark.parametrize("case", FEW, ids=case_id)
each_mode = pytest.mark.parametrize("mode", ["lazy", "exact"])
#: lazy all, exact those that have the mode
MODES = [(case, mode) for mode in ("lazy", "exact") for case in CASES if mode == "lazy" or has_exact_form(case)]
each_case_and_mode = pytest.mark.parametrize(
    ("case", "mode"), MODES, ids=lambda x: x if isinstance(x, str) else case_id(x)
)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
each_clone = pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), lambda x: pickle.loads(pickle.dumps(x, 2))],
    ids=["deepcopy", "pickle", "pickle2"],
)


# --------------------------------------------------------------------------------- a table and an optimizer beside it


class Own:
    """A gradient that is filled into opt.grads."""

    def __init__(self, g: Array) -> None:
        self.g = g


class Bomb:
    """Whoever runs code of this object is found out."""

    def _boom(self, *args: Any) -> Any:
        raise AssertionError("code of the user's object was run")

    __int__ = __index__ = __float__ = __bool__ = __eq__ = __hash__ = _boom  # type: ignore[assignment]


def feed(x: Any, g: Any) -> None:
    """A step of a table or of an optimizer."""
    opt = x.optimizer if isinstance(x, Table) else x
    if isinstance(g, Own):
        opt.grads[...] = g.g
        opt.step()
    elif g is None:
        opt.step(None)
    else:
        x.step(g)


def table_of(case: tuple[str, dict[str, Any]], start: Array, **more: Any) -> Table:
    table = Table(*start.shape, case[0], dtype=start.dtype, **{**case[1], **more})
    table.param[...] = start
    return table


def separate(case: tuple[str, dict[str, Any]], start: Array, **more: Any) -> fastopt.Optimizer:
    return fastopt.Optimizer.known[case[0]](start.copy(), **{**case[1], **more})


def pair(
    case: tuple[str, dict[str, Any]], start: Array, backend: str = "auto", **more: Any
) -> tuple[Table, fastopt.Optimizer]:
    return table_of(case, start, backend=backend, **more), separate(case, start, backend=backend, **more)


def array_of(opt: fastopt.Optimizer) -> Array:
    return opt.param_groups[0]["params"][0]


def sparse(rng: np.random.Generator, rows: int, width: int, dtype: Any, k: int | None = None) -> SparseGrad:
    """A gradient of some rows, some of them repeated."""
    ids = rng.integers(0, rows, (rng.integers(1, 9) if k is None else k) if rows else 0)
    return SparseGrad(ids, rng.standard_normal((len(ids), width)).astype(dtype))


def gradients(rng: np.random.Generator, rows: int, width: int, dtype: Any) -> list[Any]:
    """A gradient of every kind, with numbers of all magnitudes, some of them special."""

    def odd(*shape: int) -> Array:
        return odd_gradient(rng, np.empty(int(np.prod(shape)), dtype), special=True).reshape(shape)

    repeated = np.concatenate([rng.integers(0, rows, 3 * rows), np.full(4, rows - 1)])
    some = rng.permutation(rows)[: rows // 2].astype(np.int32)
    offsets = np.array([0, 2, 2, 7])
    csr = sp.csr_array(np.where(rng.random((rows, width)) < 0.3, odd(rows, width), dtype(0)))
    at = rng.integers(0, rows, 40), rng.integers(0, width, 40)
    return [
        SparseGrad(repeated, odd(len(repeated), width)),
        SparseGrad(some, odd(len(some), width), duplicates="none"),
        SparseGrad.bag(rng.integers(0, rows, 20), offsets, odd(4, width), weights=odd(20)),
        odd(rows, width),
        None,
        csr,
        sp.coo_array((odd(40), at), shape=(rows, width)),
        SparseGrad(some[:0], odd(0, width)),
        np.asfortranarray(odd(rows, width)),
        Own(odd(rows, width)),
        SparseGrad.bag(rng.integers(0, rows, 20), np.append(offsets, 20), odd(4, width), mode="mean"),
        SparseGrad(repeated[::-3], odd(len(repeated[::-3]), 2 * width)[:, ::2]),
    ]


# ------------------------------------------------------------------------------------------------------- 1. the bits


@needs_native
@each_dtype
@each_case_and_mode
def test_bits_of_separate_arrays(case, mode, dtype, forced, use_build, rng):
    """Every build, one thread and two, and the NumPy backend; after every step, rows that are stale included."""
    builds = native_builds()
    for width in WIDTHS:
        rows = 7 if width > 100 else 23
        start, later = rng.standard_normal((rows, width)).astype(dtype), usual_schedule(case[0])
        tables: dict[Any, Table] = {}
        for isa, threads in [(builds[0], 1), *itertools.product(builds, [2])]:
            use_build(isa)
            tables[isa, threads] = table_of(case, start, backend="native", sparse=mode)
        # In exact mode the reference is never stale, and right to rounding alone.
        tables["numpy", 1] = table_of(case, start, backend="numpy", sparse=mode)
        reference = separate(case, start, backend="numpy", sparse=mode)
        want = {"numpy": reference, "native": reference}
        if mode == "exact":
            use_build(builds[-1])
            want["native"] = separate(case, start, backend="native", sparse=mode)
        for t, g in enumerate(gradients(rng, rows, width, dtype)):
            ids = rng.integers(0, rows, (3, 2))
            for opt in {id(o): o for o in want.values()}.values():
                if t == 6:
                    opt.param_groups[0]["lr"] = later
                feed(opt, g)
            read = {}
            for key, opt in want.items():
                read[key] = opt.read(0, ids[:2])
                opt.catch_up(0, ids[2])
            for (isa, threads), table in tables.items():
                forced(threads, 5)
                if t == 6:
                    table.optimizer.param_groups[0]["lr"] = later
                feed(table, g)
                what = f"{isa}, {threads} threads, width {width}, step {t}"
                key = table.optimizer.backend
                assert_bits(table.read(ids[:2]), read[key], f"{what}, read")
                table.catch_up(ids[2])
                assert_bits(table.param, array_of(want[key]), what)
        for (isa, threads), table in tables.items():
            forced(threads, 5)
            table.flush()
            want[table.optimizer.backend].flush()
            assert_bits(table.param, array_of(want[table.optimizer.backend]), f"{isa} flushed")
            assert_same(table.optimizer, want[table.optimizer.backend])
            for name, a in table.optimizer.state_dict()["state"][0].items():
                if name != "step":
                    assert_bits(table.state[name], a, name)


@needs_native
@each_mode
def test_many_rows_of_two_threads(mode, rng):
    """As large as real work: rows beyond a chunk, without any override."""
    start = rng.standard_normal((60_000, 5)).astype(np.float32)
    table, opt = pair(("adam", {"n_threads": 2}), start, sparse=mode)
    for _ in range(3):
        g = sparse(rng, 60_000, 5, np.float32, 40_000)
        table.step(g)
        opt.step(g)
    assert_bits(table.param, array_of(opt))
    g = rng.standard_normal(start.shape).astype(np.float32)
    table.step(g)
    opt.step(g)
    assert_same(table.optimizer, opt)


@each_backend
def test_duplicates_that_are_errors(backend, rng):
    table, opt = pair(("adam", {}), rng.standard_normal((9, 3)).astype(np.float32), backend)
    for x in (table, opt):
        feed(x, SparseGrad(np.array([4, 2]), np.ones((2, 3), np.float32)))
        for word in ("error", "none"):
            with pytest.raises(IndexRangeError, match="repeats row 4"):
                x.step(SparseGrad(np.array([4, 2, 4]), np.ones((3, 3), np.float32), duplicates=word))
        for bad in (9, -1, 2**40):
            with pytest.raises(IndexRangeError, match=str(bad)):
                x.step(SparseGrad(np.array([4, bad]), np.ones((2, 3), np.float32)))
        with pytest.raises(ShapeError):
            x.step(np.ones((9, 4), np.float32))
        with pytest.raises(DTypeError):
            x.step(np.ones((9, 3)))
        with pytest.raises(ShapeError):
            x.step(SparseGrad(np.array([4, 2]), np.ones((2, 4), np.float32)))
    assert_same(table.optimizer, opt)


@each_backend
@each_mode
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1, 5), (2, 1)], ids=str)
def test_tables_of_no_row_and_of_one(shape, mode, backend, rng):
    for case in FEW:
        table, opt = pair(case, rng.standard_normal(shape), backend, sparse=mode)
        assert table.shape == shape
        assert len(table) == shape[0]
        for g in (sparse(rng, *shape, np.float64), rng.standard_normal(shape), sparse(rng, *shape, np.float64)):
            feed(table, g)
            feed(opt, g)
        feed(table, Own(np.ones(shape)))
        feed(opt, Own(np.ones(shape)))
        assert_bits(table.read(np.arange(shape[0])), opt.read(0, np.arange(shape[0])))
        assert_same(table.optimizer, opt)


def test_optimizers_by_class_and_by_name():
    for name in SETTINGS:
        cls = fastopt.Optimizer.known[name]
        if cls.plan is not None:
            for given in (name, cls):
                with pytest.raises(UnsupportedError, match=f"{cls.__name__} .* array"):
                    Table(3, 2, given)
            continue
        for given in (name, cls):
            table = Table(3, 2, given)
            assert type(table.optimizer) is cls
            assert table.param.dtype == np.float32
            assert repr(table) == f"Table(3, 2, {cls.__name__}, dtype='float32')"
    assert Table(3, 2, "nag").optimizer.param_groups[0]["nesterov"] is True
    table = Table(3, 2, "momentum", dtype=float, momentum=0.5, lr=0.25, n_threads=2, backend="numpy")
    group = table.optimizer.param_groups[0]
    assert (group["momentum"], group["lr"], table.optimizer.n_threads) == (0.5, 0.25, 2)
    assert table.optimizer.backend == "numpy"
    assert table.param.dtype == np.float64
    assert Table(np.int32(3), np.uint8(2), "sgd").shape == (3, 2)


# ------------------------------------------------------------------------------------- 2. views, and where they stand


def where(a: Array) -> tuple[int, int]:
    """First byte, and byte after the last, of an array without negative strides."""
    return a.ctypes.data, a.ctypes.data + sum(s * (n - 1) for s, n in zip(a.strides, a.shape, strict=True)) + a.itemsize


@each_dtype
@each_case_and_mode
def test_records(case, mode, dtype):
    size = np.dtype(dtype).itemsize
    for rows, width in [(9, w) for w in (*range(1, 20), 40, 1030)] + [(1, 3)]:
        table = Table(rows, width, case[0], dtype=dtype, sparse=mode, **case[1])
        fields = [table.param, *table.state.values()]
        assert list(table.state) == list(type(table.optimizer).rule_of(table.optimizer.param_groups[0]).states)
        pitch = table.param.strides[0]
        for a in fields:
            assert a.shape == table.shape == (rows, width)
            assert a.dtype == dtype
            assert a.strides == (pitch, size)
            assert a.flags.writeable
            assert a.flags.aligned
        begins = sorted(a.ctypes.data for a in fields)
        assert begins[0] == table.param.ctypes.data
        assert begins[0] % HUGE_PAGE == 0
        assert all(b - a >= width * size for a, b in itertools.pairwise(begins))
        record = begins[-1] - begins[0] + width * size + 4 * (mode == "exact")
        assert record == width * size * len(fields) + 4 * (mode == "exact"), "the fields do not lie side by side"
        assert record <= pitch
        assert table.nbytes == rows * pitch
        if record <= 64:
            assert pitch < 2 * max(record, 8)
            for row in range(100):
                assert row * pitch // 64 == (row * pitch + record - 1) // 64, f"row {row} straddles a cache line"
        else:
            assert pitch - record < 32


@each_backend
@each_of_few
@each_mode
def test_views_are_the_memory_of_the_step(case, mode, backend, rng):
    table, opt = pair(case, rng.standard_normal((6, 3)), backend, sparse=mode)
    param, states = table.param, dict(table.state)
    assert table.param is param
    assert table.optimizer.param_groups[0]["params"][0] is param
    assert list(map(id, table.state.values())) == list(map(id, states.values()))
    assert table.optimizer._params[0] is param
    assert all(table.optimizer._state[0][k] is a for k, a in states.items())
    with pytest.raises(TypeError):
        table.state["sum"] = param  # a mapping to be read
    with pytest.raises(AttributeError):
        table.param = param
    ones = np.ones((6, 3))
    for x in (table, opt):
        feed(x, ones)
        feed(x, SparseGrad(np.array([1]), ones[:1]))
        x.flush()
    assert_bits(param, array_of(opt))  # the view follows the step
    for name, a in states.items():
        assert_bits(a, opt._state[0][name], name)
    for k, (a, b) in enumerate([(param, array_of(opt)), *zip(states.values(), opt._state[0].values(), strict=True)]):
        a[2:4] = 3.5 + k  # and the step the view
        a[:, 1] = 0.25 + k
        b[2:4] = 3.5 + k
        b[:, 1] = 0.25 + k
    for x in (table, opt):
        feed(x, SparseGrad(np.array([3, 1]), ones[:2]))
        feed(x, ones)
    assert_bits(table.read(np.arange(6)), opt.read(0, np.arange(6)))
    assert_same(table.optimizer, opt)


@needs_native
@each_mode
def test_reading_and_catching_up(mode, rng):
    """In exact mode rows are stale until they are read, caught up or flushed; in lazy mode they are never."""
    start = rng.standard_normal((12, 3))
    table, opt = pair(("sgd", {"momentum": 0.9, "lr": 0.1}), start, sparse=mode)
    ones = np.ones((12, 3))
    for g in (ones, *[SparseGrad(np.array([0]), ones[:1])] * 4):
        feed(table, g)
        feed(opt, g)
    before = table.param.copy()
    assert_bits(before, array_of(opt))
    got = table.read(np.array([[5, 7], [5, 5]]))
    assert got.shape == (2, 2, 3)
    assert not np.may_share_memory(got, table.param)
    assert_bits(got, opt.read(0, np.array([[5, 7], [5, 5]])))
    moved = [k for k in range(12) if (table.param[k] != before[k]).any()]
    assert moved == ([5, 7] if mode == "exact" else [])
    assert table.catch_up(np.array([9])) is None
    moved = [k for k in range(12) if (table.param[k] != before[k]).any()]
    assert moved == ([5, 7, 9] if mode == "exact" else [])
    assert_bits(table.optimizer.read(table.param, np.array([5])), got[:1, 0])
    table.catch_up()
    opt.catch_up(0)
    assert_bits(table.param, array_of(opt))
    assert table.flush() is None
    for bad, error in ((np.array([12]), IndexRangeError), (np.array([-1]), IndexRangeError), ([1], DTypeError)):
        with pytest.raises(error):
            table.read(bad)
        with pytest.raises(error):
            table.catch_up(bad)
    assert_same(table.optimizer, opt)


# --------------------------------------------------------------------------------------------------------- 3. resize


def resized(opt: fastopt.Optimizer, case: tuple[str, dict[str, Any]], rows: int) -> fastopt.Optimizer:
    """An optimizer with separate arrays of `rows` rows, into which those of `opt` are copied."""
    d, old = opt.state_dict(), array_of(opt)  # flushed, then
    kept = min(rows, len(old))

    def grown(a: Array, start: float) -> Array:
        new = np.full((rows, a.shape[1]), start, a.dtype)
        new[:kept] = a[:kept]
        return new

    group = opt.param_groups[0]
    p = grown(old, 0.0)
    new = type(opt)(p, **case[1], backend=opt.backend, n_threads=opt.n_threads, sparse=opt.sparse)
    entry = d["state"][0]
    for name in entry.keys() - {"step"}:
        entry[name] = grown(entry[name], 0.0 if name in opt.copies else opt.start(name, group))
    new.load_state_dict(d)
    return new


@each_backend
@each_case_and_mode
def test_resize_keeps_all_state(case, mode, backend, rng):
    for dtype, width in [(np.float32, 3), (np.float64, 17), (np.float32, 8), (np.float64, 1)]:
        start = rng.standard_normal((20, width)).astype(dtype)
        rate = usual_schedule(case[0])
        table, opt = pair(case, start, backend, sparse=mode, lr=rate)
        for rows in (23, 300, 300, 41, 5, 0, 9, 1, 6):  # the first time before any step
            old, old_states = table.param, dict(table.state)
            assert table.resize(rows) is None
            opt = resized(opt, case, rows)
            frozen = [a.copy() for a in (old, *old_states.values())]
            assert table.shape == (rows, width)
            assert len(table) == rows
            assert table.param.strides == table.param.strides[:1] + (np.dtype(dtype).itemsize,)
            assert table.param.ctypes.data % HUGE_PAGE == 0
            assert table.optimizer.param_groups[0]["params"][0] is table.param
            assert table.param.flags.writeable
            assert_bits(table.param, array_of(opt), f"{rows} rows")
            assert list(table.state) == list(old_states)
            assert_same(table.optimizer, opt)
            for a in (table.param, *table.state.values()):
                assert a.shape == (rows, width)
                assert not any(np.may_share_memory(a, b) for b in (old, *old_states.values()))
            ids = rng.permutation(rows)
            for g in (sparse(rng, rows, width, dtype), rng.standard_normal((rows, width)).astype(dtype)):
                feed(table, g)
                feed(opt, g)
                assert_bits(table.read(ids), opt.read(0, ids), f"{rows} rows")
            feed(table, Own(np.ones((rows, width), dtype)))
            feed(opt, Own(np.ones((rows, width), dtype)))
            assert_bits(table.param, array_of(opt), f"{rows} rows")
            for a, b in zip((old, *old_states.values()), frozen, strict=True):
                assert_bits(a, b, "a view that was taken before")
            for name, a in table.optimizer.state_dict()["state"][0].items():
                if name != "step":
                    assert_bits(table.state[name], a, name)
        assert_same(table.optimizer, opt)


@each_backend
def test_new_rows_are_zeros_with_the_states_start(backend, rng):
    table = Table(3, 2, "adagrad", initial_accumulator_value=0.5, backend=backend)
    assert (table.state["sum"] == 0.5).all()
    assert not table.param.any()
    table.step(np.ones((3, 2), np.float32))
    table.resize(5)
    assert table.state["sum"].tolist() == [[1.5, 1.5]] * 3 + [[0.5, 0.5]] * 2
    assert (table.param[:3] != 0).all()
    assert not table.param[3:].any()
    table.param[...] = 7
    table.resize(2)
    table.resize(4)
    assert table.param[:, 0].tolist() == [7, 7, 0, 0], "a row that was cut off came back"
    assert table.state["sum"][:, 0].tolist() == [1.5, 1.5, 0.5, 0.5]


@each_backend
@each_mode
@each_of_few
def test_resize_refused_leaves_the_table_as_it_was(case, mode, backend, rng):
    table, opt = pair(case, rng.standard_normal((8, 3)), backend, sparse=mode)
    every = np.arange(8)
    feed(table, Own(np.ones((8, 3))))
    feed(opt, Own(np.ones((8, 3))))
    own = table.optimizer.grads
    for bad, error in [
        (2**60, MemoryError),
        (2**80, MemoryError),
        (-1, HyperParameterError),
        (True, HyperParameterError),
        (np.bool_(True), HyperParameterError),
        (1.5, HyperParameterError),
        (8.0, HyperParameterError),
        (None, HyperParameterError),
        ("8", HyperParameterError),
        (np.array([8]), HyperParameterError),
        (Bomb(), HyperParameterError),
    ]:
        g = sparse(rng, 8, 3, np.float64)
        feed(table, g)
        feed(opt, g)
        param, states = table.param, dict(table.state)
        with pytest.raises(error, match="rows") as caught:
            table.resize(bad)
        assert error is MemoryError or isinstance(caught.value, FastoptError)
        if error is MemoryError:
            opt.flush()  # before the memory is asked for
        assert table.param is param
        assert len(table) == 8
        assert table.nbytes == 8 * param.strides[0]
        assert all(table.state[k] is a for k, a in states.items())
        assert table.optimizer.param_groups[0]["params"][0] is param
        assert table.optimizer.grads is own
        assert_bits(param, array_of(opt), repr(bad))
    for g in (Own(np.full((8, 3), 0.25)), sparse(rng, 8, 3, np.float64)):
        feed(table, g)
        feed(opt, g)
    assert_bits(table.read(every), opt.read(0, every))
    assert_same(table.optimizer, opt)
    table.resize(11)
    opt = resized(opt, case, 11)
    assert_same(table.optimizer, opt)


def test_resize_lets_go_of_the_old_memory():
    """At once, and not when cycles are collected."""
    gc.disable()
    try:
        table = Table(1000, 8, "adam", sparse="exact")
        table.step(SparseGrad(np.array([3]), np.ones((1, 8), np.float32)))
        old = weakref.ref(table.param)
        state = weakref.ref(table.state["exp_avg"])
        table.resize(2000)
        assert old() is None
        assert state() is None
        whole = weakref.ref(table.param)
        optimizer = weakref.ref(table.optimizer)
        del table
    finally:
        gc.enable()
    gc.collect()
    assert whole() is None
    assert optimizer() is None


def test_grads_after_resize_are_new():
    table = Table(4, 2, "sgd", lr=1.0)
    before = table.optimizer.grads
    before[...] = 1
    table.resize(6)
    with pytest.raises(StateError, match="grads"):
        table.optimizer.step()
    assert not table.param.any()
    after = table.optimizer.grads
    assert after.shape == (6, 2)
    assert not after.any()
    assert not np.may_share_memory(before, after)
    after[5] = 1
    table.optimizer.step()
    assert table.param[:, 0].tolist() == [0, 0, 0, 0, 0, -1]


@each_backend
def test_no_resize_in_the_middle_of_a_step(backend):
    caught = []

    def rate(t: int) -> float:
        for call in (lambda: table.resize(9), lambda: table.step(None), table.flush, lambda: copy.deepcopy(table)):
            try:
                call()
            except ConcurrentStepError as e:
                caught.append(e)
        return 1.0

    table = Table(3, 2, "sgd", lr=rate, backend=backend)
    table.step(np.ones((3, 2), np.float32))
    assert len(caught) >= 4
    assert (table.param == -1).all()
    assert table.shape == (3, 2)


# --------------------------------------------------------------------------------------- 4. copies and state dicts


@each_backend
@each_mode
@each_clone
def test_a_copy_is_a_table_that_goes_on(clone, mode, backend, rng):
    for case in [case for case, m in MODES if m == mode]:
        start = rng.standard_normal((13, 3)).astype(np.float32)
        more = dict(backend=backend, sparse=mode, n_threads=2)
        first = table_of(case, start, **more)
        opt = separate(case, start, **more)
        for x in (first, opt):
            (x.optimizer if x is first else x).param_groups[0]["lr"] = 0.125
        for steps in range(4):  # also before the first
            twin = clone(first)
            assert type(twin) is Table
            assert type(twin.optimizer) is type(first.optimizer)
            assert twin.optimizer.backend == first.optimizer.backend
            assert (twin.optimizer.n_threads, twin.optimizer.sparse) == (2, mode)
            assert twin.optimizer.defaults == first.optimizer.defaults
            assert repr(twin) == repr(first)
            assert twin.param.strides == first.param.strides
            assert twin.param.ctypes.data % HUGE_PAGE == 0
            assert twin.optimizer.param_groups[0]["params"][0] is twin.param
            assert list(twin.state) == list(first.state)
            assert_same(twin.optimizer, first.optimizer)
            for a, b in itertools.product((twin.param, *twin.state.values()), (first.param, *first.state.values())):
                assert not np.may_share_memory(a, b)
            opt.flush()  # what a copy does, too
            assert_same(first.optimizer, opt)
            later = copy.deepcopy(opt)
            before = first.param.copy()
            for _ in range(2):
                g = sparse(rng, 13, 3, np.float32)
                feed(twin, g)
                feed(later, g)
            assert_bits(twin.read(np.arange(13)), later.read(0, np.arange(13)), case_id(case))
            assert_same(twin.optimizer, later)
            twin.resize(15)
            twin.step(np.ones((15, 3), np.float32))
            twin.optimizer.param_groups[0]["lr"] = 0.5
            assert first.optimizer.param_groups[0]["lr"] == 0.125
            assert_bits(first.param, before, "the copy's steps are seen in the original")
            assert len(first) == 13
            g = sparse(rng, 13, 3, np.float32) if steps else np.ones((13, 3), np.float32)
            feed(first, g)
            feed(opt, g)


@each_clone
def test_copies_of_odd_tables(clone):
    for table in (Table(0, 3, "adam"), Table(1, 1, "sgd", dtype="float64", sparse="exact"), Table(5, 2, "adagrad")):
        assert_same(clone(table).optimizer, table.optimizer)
    table = Table(4, 2, "momentum", lr=1.0, sparse="exact", dtype="float64")
    table.step(np.ones((4, 2)))
    table.step(SparseGrad(np.array([0]), np.ones((1, 2))))
    twin = clone(table)
    assert twin.param[:, 0].tolist() == pytest.approx([-2.9, -1.9, -1.9, -1.9])
    one, other = clone([table, table])
    assert one is other


@each_clone
def test_a_copy_of_the_optimizer_alone_goes_on_with_separate_arrays(clone, rng):
    table, opt = pair(("adam", {}), rng.standard_normal((6, 3)))
    for x in (table, opt):
        feed(x, np.ones((6, 3)))
    alone = clone(table.optimizer)
    assert alone.param_groups[0]["params"][0].flags.c_contiguous
    for x in (alone, opt):
        feed(x, SparseGrad(np.array([2, 1, 2]), np.ones((3, 3))))
    assert_same(alone, opt)
    assert not np.may_share_memory(array_of(alone), table.param)


@each_backend
@each_case_and_mode
def test_state_dicts_go_to_and_fro(case, mode, backend, rng):
    start = rng.standard_normal((11, 3)).astype(np.float32)
    table, opt = pair(case, start, backend, sparse=mode)
    steps = [sparse(rng, 11, 3, np.float32) for _ in range(8)]
    feed(table, steps[0])
    feed(opt, steps[0])
    for k in range(4):
        table_dict, opt_dict = table.optimizer.state_dict(), opt.state_dict()
        param, states = table.param, dict(table.state)
        for entry in table_dict["state"][0].values():
            assert not isinstance(entry, Array) or not np.may_share_memory(entry, param)
        other, alone = pair(case, array_of(opt), backend, sparse=mode)
        other.step(np.ones((11, 3), np.float32))  # what it has is replaced
        other.param[...] = array_of(opt)
        other.optimizer.load_state_dict(opt_dict)
        alone.load_state_dict(table_dict)
        table.optimizer.load_state_dict(table_dict)
        assert table.param is param
        assert all(table.optimizer._state[0][name] is a for name, a in states.items())
        for g in steps[2 * k : 2 * k + 2]:
            for x in (table, opt, other, alone):
                feed(x, g)
        for x in (table.optimizer, other.optimizer, alone):
            assert_same(x, opt)
        for name, a in table.optimizer.state_dict()["state"][0].items():
            if name != "step":
                assert_bits(table.state[name], a, name)


@each_backend
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_state_dict_from_before_the_first_step_is_taken_back(name, backend, rng):
    """The momentum buffer is absent there: the one that the table has must not be taken for it."""
    case = {"momentum": ("sgd", {"momentum": 0.9, "dampening": 0.5}), "adam": ("adam", {})}[name]
    start = rng.standard_normal((6, 3))
    table, opt = pair(case, start, backend)
    for x, o in ((table, table.optimizer), (opt, opt)):
        before = o.state_dict()
        feed(x, np.ones((6, 3)))
        o.load_state_dict(before)
        feed(x, SparseGrad(np.array([2, 4]), np.ones((2, 3))))
        feed(x, np.full((6, 3), 0.5))
    assert_same(table.optimizer, opt)


@each_backend
def test_a_state_dict_of_the_tables_own_views_is_copied(backend, rng):
    """Here the first moment is given as the second, and the other way round."""
    table, opt = pair(("adam", {}), rng.standard_normal((6, 3)), backend)
    for x, o in ((table, table.optimizer), (opt, opt)):
        feed(x, np.full((6, 3), 2.0))
        d, views = o.state_dict(), o._state[0]
        d["state"][0].update(exp_avg=views["exp_avg_sq"], exp_avg_sq=views["exp_avg"])
        o.load_state_dict(d)
    assert_same(table.optimizer, opt)


@each_backend
def test_a_state_dict_of_other_states_is_refused(backend, rng):
    """With a buffer in it and without; everything goes on as if nothing had been asked for."""
    start = rng.standard_normal((6, 3))
    ones = np.ones((6, 3))
    table, opt = pair(("sgd", {"lr": 0.5}), start, backend)
    other = separate(("sgd", {"momentum": 0.9}), start, backend=backend)
    feed(table, ones)
    feed(opt, ones)
    for late in (False, True):
        if late:
            other.step(ones)
        group = dict(table.optimizer.param_groups[0].options())
        with pytest.raises(UnsupportedError, match="momentum_buffer"):
            table.optimizer.load_state_dict(other.state_dict())
        # Stop here if it is not so: what comes next would then work on memory that is none.
        assert table.optimizer.param_groups[0].options() == group, "a refused state dict has changed the options"
        table.optimizer.param_groups[0]["lr"] = opt.param_groups[0]["lr"] = 0.25
        feed(table, ones)
        feed(opt, ones)
    wrong = opt.state_dict()
    wrong["state"][0]["step"] = -1
    with pytest.raises(FastoptError):
        table.optimizer.load_state_dict(wrong)
    assert_same(table.optimizer, opt)


# ------------------------------------------------------------------------------------------- 5. options that change


@each_backend
@each_mode
@pytest.mark.parametrize(
    ("case", "change", "word"),
    [
        (("sgd", {}), {"momentum": 0.9}, "momentum_buffer"),
        (("rmsprop", {}), {"centered": True}, "grad_avg"),
        (("rmsprop", {"centered": True}), {"momentum": 0.9, "lr": 7.0}, "momentum_buffer"),
        (("adam", {}), {"lr": 7.0, "amsgrad": True}, "max_exp_avg_sq"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_options_that_need_other_states_are_refused(case, change, word, mode, backend, rng):
    table, opt = pair(case, rng.standard_normal((7, 3)), backend, sparse=mode)
    group = table.optimizer.param_groups[0]
    for _ in range(2):
        for g in (np.ones((7, 3)), sparse(rng, 7, 3, np.float64)):
            feed(table, g)
            feed(opt, g)
        before, param, states = group.options(), table.param, dict(table.state)
        with pytest.raises(UnsupportedError, match=f"{word}.*new Table"):
            group.update(change)
        opt.flush()
        assert group.options() == before
        assert table.param is param
        assert all(table.state[k] is a for k, a in states.items())
        for o in (table.optimizer, opt):
            o.param_groups[0]["lr"] = 0.03125
        for g in (sparse(rng, 7, 3, np.float64), np.ones((7, 3))):
            feed(table, g)
            feed(opt, g)
        assert_same(table.optimizer, opt)
    table.resize(9)
    opt = resized(opt, case, 9)
    g = sparse(rng, 9, 3, np.float64)
    feed(table, g)
    feed(opt, g)
    assert_same(table.optimizer, opt)


@each_backend
@each_mode
@pytest.mark.parametrize(
    ("case", "off", "on"),
    [
        (("sgd", {"momentum": 0.9, "lr": 0.5}), {"momentum": 0.0}, {"momentum": 0.9}),
        (("rmsprop", {"centered": True}), {"centered": False}, {"centered": True}),
        (("adam", {"amsgrad": True, "betas": (0.1, 0.2)}), {"amsgrad": False}, {"amsgrad": True}),
    ],
    ids=["momentum", "centered", "amsgrad"],
)
def test_states_switched_off_and_on_begin_anew(case, off, on, mode, backend, rng):
    """As with separate arrays, where the state is dropped."""
    table, opt = pair(case, rng.standard_normal((7, 3)), backend, sparse=mode)
    for x, o in ((table, table.optimizer), (opt, opt)):
        rng = np.random.default_rng(1)
        feed(x, np.full((7, 3), 4.0))
        o.param_groups[0].update(off)
        feed(x, sparse(rng, 7, 3, np.float64))
        feed(x, np.full((7, 3), 0.5))
        o.param_groups[0].update(on)
        feed(x, sparse(rng, 7, 3, np.float64))
        feed(x, np.full((7, 3), 0.125))
    assert_same(table.optimizer, opt)


@each_backend
def test_states_switched_off_while_resized(backend, rng):
    case = ("rmsprop", {"centered": True, "momentum": 0.5})
    table, opt = pair(case, rng.standard_normal((7, 3)), backend)
    feed(table, np.ones((7, 3)))
    feed(opt, np.ones((7, 3)))
    table.optimizer.param_groups[0]["centered"] = opt.param_groups[0]["centered"] = False
    table.resize(9)
    opt = resized(opt, case, 9)
    for g in (sparse(rng, 9, 3, np.float64), np.ones((9, 3))):
        feed(table, g)
        feed(opt, g)
    assert_same(table.optimizer, opt)
    twin = copy.deepcopy(table)
    feed(twin, np.ones((9, 3)))
    feed(opt, np.ones((9, 3)))
    assert_same(twin.optimizer, opt)


@each_backend
@pytest.mark.parametrize("params", [np.zeros((6, 3), np.float32), np.zeros(2), [3], "p", None], ids=repr)
def test_a_table_takes_no_other_parameters(params, backend):
    """Its records are those of one array."""
    table = Table(6, 3, "momentum", backend=backend)
    table.step(np.ones((6, 3), np.float32))
    before = table.param.copy()
    with pytest.raises(FastoptError):
        table.optimizer.add_param_group({"params": params})
    assert len(table.optimizer.param_groups) == 1
    assert_bits(table.param, before)


# --------------------------------------------------------------------------------------------------- 6. bad arguments


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((-1, 2, "sgd"), {}, HyperParameterError, "rows -1"),
        ((True, 2, "sgd"), {}, HyperParameterError, "rows True"),
        ((1.0, 2, "sgd"), {}, HyperParameterError, "rows 1.0"),
        (("3", 2, "sgd"), {}, HyperParameterError, "rows '3'"),
        ((None, 2, "sgd"), {}, HyperParameterError, "rows None"),
        ((Bomb(), 2, "sgd"), {}, HyperParameterError, "rows"),
        (((3, 2), 2, "sgd"), {}, HyperParameterError, "rows"),
        ((3, 0, "sgd"), {}, HyperParameterError, "width 0"),
        ((3, -4, "sgd"), {}, HyperParameterError, "width -4"),
        ((3, True, "sgd"), {}, HyperParameterError, "width True"),
        ((3, 2.5, "sgd"), {}, HyperParameterError, "width 2.5"),
        ((3, None, "sgd"), {}, HyperParameterError, "width None"),
        ((3, 2, "sgdd"), {}, HyperParameterError, "sgdd 'sgd'?"),
        ((3, 2, "Adam"), {}, HyperParameterError, "Adam 'adam'?"),
        ((3, 2, "quux"), {}, HyperParameterError, "quux adagrad"),
        ((3, 2, ""), {}, HyperParameterError, "optimizer"),
        ((3, 2, None), {}, DTypeError, "optimizer None"),
        ((3, 2, 7), {}, DTypeError, "optimizer 7"),
        ((3, 2, int), {}, DTypeError, "optimizer int"),
        ((3, 2, Table), {}, DTypeError, "optimizer Table"),
        ((3, 2, np.zeros), {}, DTypeError, "optimizer"),
        ((3, 2, fastopt.SGD(np.zeros(2))), {}, DTypeError, "optimizer SGD"),
        ((3, 2, fastopt.Optimizer), {}, FastoptError, "optimizer"),
        ((3, 2, "sgd"), {"dtype": np.float16}, DTypeError, "dtype float32 float64 float16"),
        ((3, 2, "sgd"), {"dtype": int}, DTypeError, "dtype int"),
        ((3, 2, "sgd"), {"dtype": ">f4"}, DTypeError, "dtype >f4"),
        ((3, 2, "sgd"), {"dtype": "complex64"}, DTypeError, "dtype complex64"),
        ((3, 2, "sgd"), {"dtype": "O"}, DTypeError, "dtype"),
        ((3, 2, "sgd"), {"dtype": "f4,f4"}, DTypeError, "dtype"),
        ((3, 2, "sgd"), {"dtype": "(2,)f4"}, DTypeError, "dtype"),
        ((3, 2, "sgd"), {"dtype": "garbage"}, DTypeError, "dtype garbage"),
        ((3, 2, "sgd"), {"dtype": "(2,"}, DTypeError, "dtype"),
        ((3, 2, "sgd"), {"dtype": 3.5}, DTypeError, "dtype 3.5"),
        ((3, 2, "sgd"), {"dtype": [("a",)]}, DTypeError, "dtype"),
        ((3, 2, "sgd"), {"learning_rate": 0.1}, UnsupportedError, "SGD learning_rate 'lr'?"),
        ((3, 2, "adam"), {"beta": 0.1}, UnsupportedError, "Adam beta 'betas'?"),
        ((3, 2, "sgd"), {"params": np.zeros((3, 2), np.float32)}, UnsupportedError, "params"),
        ((3, 2, "sgd"), {"lr": -1}, HyperParameterError, "lr -1"),
        ((3, 2, "sgd"), {"lr": "fast"}, HyperParameterError, "lr 'fast'"),
        ((3, 2, "sgd"), {"nesterov": True}, HyperParameterError, "nesterov momentum"),
        ((3, 2, "nag"), {"dampening": 0.5}, HyperParameterError, "nesterov dampening"),
        ((3, 2, "adam"), {"betas": 0.9}, HyperParameterError, "betas"),
        ((3, 2, "sgd"), {"sparse": "very"}, HyperParameterError, "sparse lazy exact"),
        ((3, 2, "sgd"), {"backend": "gpu"}, HyperParameterError, "backend numpy"),
        ((3, 2, "sgd"), {"n_threads": 0}, HyperParameterError, "n_threads 0"),
        ((3, 2, "adam"), {"sparse": "exact", "weight_decay": 0.1}, UnsupportedError, "exact decoupled"),
        ((3, 2, "adam"), {"sparse": "exact", "betas": (0.9, 0.5)}, FastoptError, "betas exact"),
    ],
    ids=lambda x: None if not isinstance(x, tuple) else repr(x[2])[:12],
)
def test_bad_arguments(arguments, options, error, words):
    with pytest.raises(FastoptError) as caught:
        Table(*arguments, **options)
    assert isinstance(caught.value, error)
    message = str(caught.value).lower()
    assert not [w for w in words.split() if w.lower() not in message], f"not in the message: {message}"


@pytest.mark.parametrize(
    ("rows", "width"), [(2**60, 8), (2**70, 8), (2**40, 2**20), (3, 2**50), (3, 2**61), (0, 2**62), (3, 2**70)], ids=str
)
def test_more_than_there_is(rows, width):
    with pytest.raises((MemoryError, FastoptError)):
        Table(rows, width, "adam")


# ------------------------------------------------------------------------------------------------------- 7. overlap


@contextlib.contextmanager
def overlap(table: Table) -> Iterator[None]:
    """The block is refused, and changes nothing."""
    raw = as_strided(table.param.view(np.uint8), (len(table), table.param.strides[0]), (table.param.strides[0], 1))
    before, state = raw.copy(), table.optimizer.state_dict()
    with pytest.raises(OverlapError, match=r"gradient of param 0.* shares memory with .*param 0.*copy"):
        yield
    assert (raw == before).all()
    assert table.optimizer.state_dict()["state"][0]["step"] == state["state"][0]["step"]
    assert table.optimizer.state_dict()["step"] == state["step"]


@each_backend
@each_mode
@each_of_few
def test_gradients_in_the_memory_of_the_table(case, mode, backend, rng):
    """Contiguous ones, which would be read where they are: of a row, of a state, across both, in the padding."""
    table = table_of(case, rng.standard_normal((6, 3)).astype(np.float32), backend=backend, sparse=mode)
    feed(table, np.ones((6, 3), np.float32))
    table.flush()
    one = np.array([1])
    pitch, last = table.param.strides[0], max([table.param, *table.state.values()], key=lambda a: a.ctypes.data)
    flat = as_strided(table.param, ((where(last)[1] - table.param.ctypes.data) // 4,), (4,))
    rows = [a[k : k + 1] for a in (table.param, *table.state.values()) for k in (0, 2, 5)]
    rows += [flat[k : k + 3].reshape(1, 3) for k in (1, pitch // 4 - 1, pitch // 4 - 3, len(flat) - 3)]
    for g in rows:
        with overlap(table):
            table.step(SparseGrad(one, g))
        with overlap(table):
            table.step(SparseGrad.bag(one, np.array([0]), g))
        csr = sp.csr_array((np.ones(3, np.float32), (np.array([1] * 3), np.arange(3))), shape=(6, 3))
        csr.data = g.reshape(3)
        with overlap(table):
            table.step(csr)
    with overlap(table):
        table.step(flat[:18].reshape(6, 3))
    if mode == "lazy":  # one element between two records of 12 bytes
        narrow = Table(9, 1, "adam", backend=backend)
        g = as_strided(narrow.param[3], (4, 1), (4, 4))[3:]
        assert where(g) == (narrow.param[3].ctypes.data + 12, narrow.param[4].ctypes.data)
        with overlap(narrow):
            narrow.step(SparseGrad(one, g))
    table.step(SparseGrad(one, rows[0].copy()))
    old = table.param
    table.resize(6)
    table.step(SparseGrad(one, old[:1]))  # old memory is free memory


@each_backend
@pytest.mark.parametrize(("name", "width"), [("sgd", 8), ("sgd", 3), ("adam", 3), ("adam", 1)])
def test_strided_views_of_the_table_are_no_gradients(name, width, backend):
    """Contiguous ones are refused; others are copied before anything is written, as everywhere."""
    table = Table(6, width, name, backend=backend)
    table.param[...] = 1
    for place in range(1 + len(table.state)):
        for rows, part in (
            (None, slice(None)),
            (None, slice(None, None, -1)),
            (4, slice(4)),
            (3, slice(None, None, 2)),
        ):
            twin = copy.deepcopy(table)
            a = [table.param, *table.state.values()][place][part]
            if a.flags.c_contiguous:
                with overlap(table):
                    table.step(a if rows is None else SparseGrad(np.arange(rows), a))
            else:
                twin.step(a.copy() if rows is None else SparseGrad(np.arange(rows), a.copy()))
                table.step(a if rows is None else SparseGrad(np.arange(rows), a))
            assert_bits(table.param, twin.param)


def test_a_table_that_was_made_read_only_is_refused():
    table = Table(6, 3, "adam")
    table.param.flags.writeable = False
    with pytest.raises(fastopt.ReadOnlyError, match="read-only"):
        table.step(np.ones((6, 3), np.float32))
    table.param.flags.writeable = True
    table.step(np.ones((6, 3), np.float32))
    assert table.param.all()


# ------------------------------------------------------------------------------------------------- 8. lazy memory


def resident() -> int:
    """Bytes of this process that are in memory."""
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) << 10
    except (OSError, StopIteration):
        pytest.skip("there is no /proc/self/status that says how much memory is resident")


def vast(rows: int, width: int, name: str, **options: Any) -> Table:
    try:
        return Table(rows, width, name, **options)
    except MemoryError:
        pytest.skip(f"this machine does not promise memory for {rows} rows")


@each_backend
@pytest.mark.parametrize(
    ("name", "rows", "width"), [("sgd", 2**28, 8), ("sgd", 2**30, 1), ("momentum", 2**27, 7), ("adam", 2**26, 9)]
)
def test_rows_that_nobody_touches_take_no_memory(name, rows, width, backend):
    at, start = resident(), time.monotonic()
    table = vast(rows, width, name, lr=1.0, backend=backend)
    assert time.monotonic() - start < 2
    assert table.nbytes >= 2**33
    ids = np.array([rows - 1, rows - 2, 0, rows - 1, rows // 2, 2**24 + 1])
    values = np.ones((6, width), np.float32)
    table.step(SparseGrad(ids, values))
    table.step(SparseGrad.bag(ids, np.arange(6), values))
    table.step(sp.coo_array((values[:, 0], (ids, np.zeros(6, np.int64))), shape=table.shape))
    with pytest.raises(IndexRangeError):
        table.step(SparseGrad(np.array([rows]), values[:1]))
    small, places = Table(5, width, name, lr=1.0, backend=backend), np.array([0, 1, 2, 0, 3, 4])
    small.step(SparseGrad(places, values))
    small.step(SparseGrad.bag(places, np.arange(6), values))
    small.step(sp.coo_array((values[:, 0], (places, np.zeros(6, np.int64))), shape=small.shape))
    assert_bits(table.read(ids), small.read(places))
    assert small.param.all(axis=1).all()
    assert not table.param[[1, rows - 3, rows // 2 - 1, rows // 2 + 1]].any()
    grown = resident() - at
    assert grown < 100 * 2**20, f"{grown / 2**20:.0f} MB for a few rows"


@needs_native
def test_memory_is_asked_for_in_huge_pages():
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("this system knows no huge pages")
    table = Table(2**20, 4, "sgd")
    try:
        with open("/proc/self/smaps") as f:
            lines = f.read().splitlines()
    except OSError:
        pytest.skip("there is no /proc/self/smaps")
    inside, flags = False, ""
    for line in lines:
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            low, high = (int(x, 16) for x in head.split("-"))
            inside = low <= table.param.ctypes.data < high
        elif inside and head == "VmFlags:":
            flags = line
    if not flags:
        pytest.skip("this kernel does not tell the flags of memory")
    assert " hg" in flags, flags


def test_a_copy_knows_how_many_steps_were_skipped():
    table = fastopt.Table(4, 3, "adam", nonfinite="skip")
    table.step(fastopt.SparseGrad(np.array([1]), np.full((1, 3), np.nan, np.float32)))
    for twin in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert twin.optimizer.skipped == table.optimizer.skipped == 1
