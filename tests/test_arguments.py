"""Promise 5: a bad argument gives an error that names it and says the way out, and changes no bit of anything."""

from __future__ import annotations

import gc
import inspect
import math
import sys
import tracemalloc
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from settings import MATRICES, SETTINGS, assert_bits, decay

import fastopt
from fastopt import (
    DTypeError,
    HyperParameterError,
    IndexRangeError,
    LayoutError,
    OverlapError,
    ReadOnlyError,
    ShapeError,
    SparseGrad,
    StateError,
    UnsupportedError,
)

BACKENDS = [pytest.param("native", marks=needs_native), "numpy"]
OPTIMIZERS = [fastopt.Optimizer.known[name] for name in SETTINGS if name not in MATRICES]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_optimizer = pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda c: c.__name__)


# ------------------------------------------------------------------------------------------- nothing may have changed


def frozen(x: Any) -> Any:
    """A value that equals another one only if every bit, shape, dtype and key is the same."""
    if isinstance(x, np.ndarray):
        return x.dtype.str, x.shape, x.strides, x.ctypes.data, np.asarray(x).tobytes()
    if isinstance(x, Mapping):
        return {k: frozen(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [frozen(v) for v in x]
    return type(x), repr(x)


def snapshot(opt: fastopt.Optimizer | None, watch: Any = ()) -> Any:
    """All that a call could change: parameters, groups, states, counters, and the arrays of `watch`."""
    seen = [frozen(watch)]
    if opt is not None:
        state = opt.state_dict()
        for entry in state["state"].values():
            for k in entry:
                if isinstance(entry[k], np.ndarray):  # a fresh copy: where it lies says nothing
                    entry[k] = entry[k].dtype.str, entry[k].shape, entry[k].tobytes()
        seen += [frozen(state), [frozen(dict(g)) for g in opt.param_groups]]
    return seen


@contextmanager
def refused(error: Any, *words: str, opt: Any = None, watch: Any = ()) -> Iterator[None]:
    """The block raises exactly `error`, with all `words` in its message, and leaves `opt` and `watch` as they were."""
    before = snapshot(opt, watch)
    with pytest.raises(error) as caught:
        yield
    assert isinstance(caught.value, fastopt.FastoptError)
    message = str(caught.value)
    assert not [w for w in words if w.lower() not in message.lower()], f"not in the message: {message}"
    assert snapshot(opt, watch) == before, "something changed"


def make(cls: type = fastopt.Adam, n: int = 5, size: int = 4, dtype: type = np.float32, **kw: Any) -> tuple[Any, dict]:
    """An optimizer of `n` named parameters that has made two steps, and their names with good gradients."""
    rng = np.random.default_rng(n)
    params = {name: rng.standard_normal(size).astype(dtype) for name in "abcdefgh"[:n]}
    opt = cls(params, **kw)
    grads = {name: rng.standard_normal(size).astype(dtype) for name in params}
    for _ in range(2):
        opt.step(grads)
    return opt, grads


def test_the_snapshot_sees_one_bit():
    opt, grads = make()
    p = opt.param_groups[0]["params"][3]
    before = snapshot(opt)
    assert snapshot(opt) == before
    p.view(np.uint32)[2] ^= 1
    assert snapshot(opt) != before
    p.view(np.uint32)[2] ^= 1
    assert snapshot(opt) == before
    opt.step(dict.fromkeys(grads))
    assert snapshot(opt) != before  # the global counter
    opt, grads = make(lr=0.0)
    before = snapshot(opt)
    opt.step(grads)
    assert snapshot(opt) != before


def test_every_error_is_a_builtin_too():
    for name in dir(fastopt):
        e = getattr(fastopt, name)
        if isinstance(e, type) and issubclass(e, fastopt.FastoptError) and e is not fastopt.FastoptError:
            assert issubclass(e, (ValueError, TypeError)) != issubclass(e, IndexError), name
    assert issubclass(IndexRangeError, IndexError)


# ----------------------------------------------------------------------------------------- what is no array of floats


class Bomb:
    """Whoever runs code of this object is found out."""

    def _boom(self, *args: Any, **kw: Any) -> Any:
        raise AssertionError("code of the user's object was run")

    __array__ = __float__ = __len__ = __iter__ = __getitem__ = __int__ = __index__ = __bool__ = __eq__ = _boom
    __dlpack__ = __dlpack_device__ = __array_interface__ = __array_struct__ = property(_boom)


class Sub(np.ndarray):
    pass


def plain(a: np.ndarray) -> np.ndarray:
    return np.arange(a.size, dtype=np.float32).reshape(a.shape)


def matrix(a: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.matrix(a.reshape(1, -1))


def bombs(a: np.ndarray) -> np.ndarray:
    b = np.empty(a.shape, object)
    for i in np.ndindex(a.shape):
        b[i] = Bomb()
    return b


#: name: (how to make it from an array, words of the message)
NOT_FLOATS: dict[str, tuple[Callable[[np.ndarray], Any], tuple[str, ...]]] = {
    **{
        name: (lambda a, name=name: a.astype(name), (name, "float32"))
        for name in ["int8", "int32", "int64", "uint64", "bool", "complex64", "complex128", "float16"]
    },
    "longdouble": (lambda a: a.astype(np.longdouble), (str(np.dtype(np.longdouble)), "float32")),
    "big endian": (lambda a: a.astype(a.dtype.newbyteorder("S")), ("byte order", "astype")),
    "object": (lambda a: a.astype(object), ("object",)),
    "object bombs": (bombs, ("object",)),
    "structured": (lambda a: np.zeros(a.shape, "f4,f4"), ("f4",)),
    "structured of one": (lambda a: np.zeros(a.shape, [("x", "f4")]), ("x",)),
    "string": (lambda a: a.astype(str), ("<U",)),
    "bytes array": (lambda a: a.astype("S4"), ("S4",)),
    "datetime": (lambda a: np.zeros(a.shape, "M8[s]"), ("datetime64",)),
    "masked": (lambda a: np.ma.masked_array(a, a > 1), ("masked", "filled")),
    "unmasked masked": (np.ma.masked_array, ("masked",)),
    "matrix": (matrix, ("matrix", "asarray")),
    "subclass": (lambda a: a.view(Sub), ("Sub", "asarray")),
    "recarray": (lambda a: a.view(np.recarray), ("recarray",)),
    "list": (lambda a: a.tolist(), ("list",)),
    "int": (lambda a: 3, ("int",)),
    "float": (lambda a: 3.0, ("float",)),
    "str": (lambda a: "1 2 3 4", ("str",)),
    "bytes": (lambda a: a.tobytes(), ("bytes",)),
    "bytearray": (lambda a: bytearray(a.tobytes()), ("bytearray",)),
    "memoryview": (memoryview, ("memoryview",)),
    "set": (lambda a: {1.0, 2.0}, ("set",)),
    "generator": (lambda a: (x for x in a), ("generator",)),
    "dict": (lambda a: {"x": a}, ("dict",)),
    "class": (lambda a: np.ndarray, ("type",)),
    "bomb": (lambda a: Bomb(), ("Bomb",)),
    "numpy scalar": (lambda a: np.float32(1), ("float32", "array")),
}
each_not_floats = pytest.mark.parametrize("kind", NOT_FLOATS)


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def misaligned(a: np.ndarray, by: int = 1) -> np.ndarray:
    room = np.zeros(a.nbytes + 8, np.uint8)
    b = room[by : by + a.nbytes].view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


def spread(a: np.ndarray, step: int = 2) -> np.ndarray:
    """A strided view with the values of `a`."""
    b = np.zeros((*a.shape[:-1], a.shape[-1] * abs(step)), a.dtype)[..., ::step]
    b[...] = a
    return b


#: layouts that a parameter cannot have: how to make it, the errors that are right, words of the message
BAD_LAYOUTS: dict[str, tuple[Callable[[np.ndarray], Any], Any, tuple[str, ...]]] = {
    "read-only": (read_only, ReadOnlyError, ("read-only", "writable")),
    "from bytes": (lambda a: np.frombuffer(a.tobytes(), a.dtype), ReadOnlyError, ("read-only",)),
    "broadcast": (lambda a: np.broadcast_to(a[:1], a.shape), (ReadOnlyError, OverlapError), ()),
    "zero stride": (lambda a: as_strided(a.copy(), a.shape, (0,)), OverlapError, ("copy",)),
    "zero stride in 2-D": (lambda a: as_strided(a.copy(), (3, len(a)), (0, a.itemsize)), OverlapError, ("copy",)),
    "sliding window": (lambda a: sliding_window_view(a.copy(), 2, writeable=True), (OverlapError, LayoutError), ()),
    "strided": (spread, LayoutError, ("contiguous", "strides")),
    "negative": (lambda a: a.copy()[::-1], LayoutError, ("contiguous",)),
    "every axis turned": (lambda a: np.zeros((2, 3, 4), a.dtype).transpose(1, 0, 2), LayoutError, ("contiguous",)),
    "column": (lambda a: np.zeros((4, 3), a.dtype)[:, 1], LayoutError, ("contiguous",)),
    "misaligned by 1": (misaligned, LayoutError, ("align",)),
    "misaligned by 2": (lambda a: misaligned(a, 2), LayoutError, ("align",)),
}


def bad_parameter(kind: str, dtype: type = np.float32) -> tuple[Any, Any, tuple[str, ...]]:
    make_it, error, words = (
        BAD_LAYOUTS[kind] if kind in BAD_LAYOUTS else (NOT_FLOATS[kind][0], DTypeError, NOT_FLOATS[kind][1])
    )
    return make_it(np.arange(4, dtype=dtype)), error, words


# -------------------------------------------------------------------------------------------------------- parameters


@each_backend
@pytest.mark.parametrize("kind", [*NOT_FLOATS, *BAD_LAYOUTS, "None"])
def test_bad_parameter(kind, backend):
    if kind == "None":
        bad, error, words = None, DTypeError, ("NoneType",)
    else:
        bad, error, words = bad_parameter(kind)
    good = [plain(np.zeros(4)) for _ in range(2)]
    for at in range(3):
        params = [*good[:at], bad, *good[at:]]
        with refused(error, "'w'", *words, watch=good):
            fastopt.Adam(
                dict(zip(["w" if i == at else f"x{i}" for i in range(3)], params, strict=True)), backend=backend
            )
        with refused(error, str(at), *words, watch=good):
            fastopt.Adam(params, backend=backend)
    with refused(error, "1", *words, watch=good):
        fastopt.Adam([{"params": good}, {"params": [bad]}], backend=backend)


@each_backend
@pytest.mark.parametrize("kind", [*NOT_FLOATS, *BAD_LAYOUTS])
def test_bad_parameter_in_add_param_group(kind, backend):
    bad, error, words = bad_parameter(kind)
    opt, _ = make(backend=backend)
    new = plain(np.zeros(3))
    with refused(error, "'w'", *words, opt=opt, watch=new):
        opt.add_param_group({"params": {"new": new, "w": bad}, "lr": 0.5})
    assert len(opt.param_groups) == 1


@pytest.mark.parametrize("bad", ["list", "int", "str", "None", "generator", "set", "frozenset", "zip", "Bomb", "class"])
def test_bad_params(bad):
    a = plain(np.zeros(4))
    given = {
        "list": [1.0, 2.0],
        "int": 3,
        "str": "w",
        "None": None,
        "generator": (a for _ in range(1)),
        "set": {1, 2},
        "frozenset": frozenset([1]),
        "zip": zip([a], [a], strict=True),
        "Bomb": Bomb(),
        "class": fastopt.Adam,
    }[bad]
    with refused(DTypeError, "param", *(["list"] if "set" in bad else [])):
        fastopt.Adam(given)


@pytest.mark.parametrize("empty", [[], (), {}, [{"params": []}], [{"params": {}}], [{"params": ()}]], ids=repr)
def test_no_parameters(empty):
    with refused(ShapeError, "param"):
        fastopt.SGD(empty)


def test_bad_structure_of_parameters():
    a, b = plain(np.zeros(4)), plain(np.zeros(3))
    for bad, error in [
        ([{"lr": 0.1}], DTypeError),
        ([{"params": [a]}, a], DTypeError),
        ([a, {"params": b}], DTypeError),
        ({"params": [a], "lr": 0.1}, DTypeError),
        ({1: a}, DTypeError),
        ({("w",): a}, DTypeError),
        ({"w": {"v": a}}, DTypeError),
        ([[a], [b]], DTypeError),
        ([{"params": 3}], DTypeError),
        ([{"params": "w"}], DTypeError),
        ([{"params": None}], DTypeError),
        ([{"params": {a.size}}], DTypeError),
        ([{"params": {"w": a}}, {"params": {"w": b}}], StateError),
        ([{"params": {"w": a}}, {"params": [b]}], UnsupportedError),
        ([{"params": [a]}, {"params": {"w": b}}], UnsupportedError),
    ]:
        with refused(error, watch=[a, b]):
            fastopt.Adam(bad)


def overlapping() -> dict[str, Callable[[], list[np.ndarray]]]:
    def base() -> np.ndarray:
        return np.zeros(24, np.float32)

    def two(cut: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Callable[[], list[np.ndarray]]:
        return lambda: list(cut(base()))

    return {
        "same array": two(lambda a: (a, a)),
        "view": two(lambda a: (a, a[:])),
        "reshaped": two(lambda a: (a, a.reshape(4, 6))),
        "transposed": two(lambda a: (a.reshape(4, 6), a.reshape(4, 6).T)),
        "one element": two(lambda a: (a[:12], a[11:])),
        "inside": two(lambda a: (a, a[5:6])),
        "inside, given first": two(lambda a: (a[5:6], a)),
        "first element": two(lambda a: (a[0:1], a)),
        "last element": two(lambda a: (a, a[23:])),
        "half an element": two(lambda a: (a[:12], a.view(np.uint8)[44:].view(np.float32))),
        "two dtypes": two(lambda a: (a, a.view(np.float64))),
        "far apart in the list": lambda: [(a := base())[:2], base(), base(), a[4:6], base(), a[1:3]],
    }


@each_backend
@pytest.mark.parametrize("how", overlapping())
def test_overlapping_parameters(how, backend):
    arrays = overlapping()[how]()
    names = [f"p{i}" for i in range(len(arrays))]
    with refused(OverlapError, "share", watch=arrays):
        fastopt.SGD(arrays, backend=backend)
    with refused(OverlapError, "'p0'", f"'{names[-1]}'", watch=arrays):
        fastopt.SGD(dict(zip(names, arrays, strict=True)), backend=backend)
    with refused(OverlapError, watch=arrays):
        fastopt.SGD([{"params": a} for a in arrays], backend=backend)
    opt = fastopt.SGD(arrays[:-1], momentum=0.9, backend=backend)
    with refused(OverlapError, opt=opt, watch=arrays):
        opt.add_param_group({"params": arrays[-1]})


@each_backend
def test_adjacent_parameters_are_accepted(backend):
    base = np.zeros(30, np.float32)
    params = [base[:7], base[7:8], base[8:8], base[8:20].reshape(3, 4), base[20:]]
    opt = fastopt.SGD(params, lr=1.0, backend=backend)
    opt.step([np.full(p.shape, k + 1, np.float32) for k, p in enumerate(params)])
    assert_bits(base, -np.repeat(np.array([1, 2, 4, 5], np.float32), [7, 1, 12, 10]))


@each_backend
def test_parameters_of_both_dtypes(backend):
    for one, other in [(np.float32, np.float64), (np.float64, np.float32)]:
        params = [np.ones(3, one), np.ones(3, other)]
        opt = fastopt.Adam(params, backend=backend)
        with refused(DTypeError, "1", str(np.dtype(one)), str(np.dtype(other)), opt=opt):
            opt.step([np.ones(3, one), np.ones(3, one)])
        opt.step([np.ones(3, one), np.ones(3, other)])
        assert params[0].dtype == one
        assert params[1].dtype == other


# --------------------------------------------------------------------------------------------------------- gradients


def bad_gradients() -> dict[str, tuple[Callable[[np.ndarray], Any], Any, tuple[str, ...]]]:
    shapes = {"short": (3,), "long": (5,), "0-d": (), "2-D": (1, 4), "column": (4, 1), "empty": (0,), "wrong": (2, 2)}
    return {
        **{k: (make_it, DTypeError, words) for k, (make_it, words) in NOT_FLOATS.items() if k != "matrix"},
        "matrix": (matrix, DTypeError, ("matrix",)),
        "float64": (lambda a: a.astype(np.float64), DTypeError, ("float64", "float32", "astype")),
        **{k: (lambda a, s=s: np.zeros(s, a.dtype), ShapeError, (str(s), "(4,)")) for k, s in shapes.items()},
    }


@each_backend
@pytest.mark.parametrize("kind", bad_gradients())
def test_one_bad_gradient_among_good_ones(kind, backend):
    make_it, error, words = bad_gradients()[kind]
    opt, grads = make(backend=backend)
    for name in "ace":
        bad = make_it(grads[name])
        with refused(error, f"'{name}'", *words, opt=opt, watch=list(grads.values())):
            opt.step({**grads, name: bad})
    # and what follows is what would have come without those calls
    twin, _ = make(backend=backend)
    opt.step(grads)
    twin.step(grads)
    for a, b in zip(opt.param_groups[0]["params"], twin.param_groups[0]["params"], strict=True):
        assert_bits(a, b)


@each_backend
@pytest.mark.parametrize("kind", bad_gradients())
def test_bad_gradient_of_a_single_array_and_of_a_list(kind, backend):
    make_it, error, words = bad_gradients()[kind]
    p, g = plain(np.zeros(4)), plain(np.zeros(4))
    opt = fastopt.SGD(p, momentum=0.9, backend=backend)
    with refused(error, "gradient", *words, opt=opt, watch=g):
        opt.step(make_it(g))
    opt = fastopt.SGD([p], momentum=0.9, backend=backend)
    with refused(error, "0", *words, opt=opt, watch=g):
        opt.step([make_it(g)])


@each_backend
def test_gradient_that_shares_memory(backend):
    base = np.arange(40, dtype=np.float32)
    p, free = base[10:20], np.ones(10, np.float32)
    opt = fastopt.SGD({"v": free.copy(), "w": p}, momentum=0.9, backend=backend)
    opt.step({"v": free, "w": free})
    state = opt._state[1]["momentum_buffer"]
    for bad in (p, base[5:15], base[15:25], base[11:21], base[1:11], base[19:29], state, state[:]):
        for name in "vw":
            with refused(OverlapError, f"gradient of param '{name}'", "'w'", "copy", opt=opt, watch=base):
                opt.step({"v": free, "w": free, name: bad})
    for bad in (base[10:30:2], p[::-1], as_strided(p, (10,), (0,)), base[19::-1][:10]):  # copied first, or refused
        twin = fastopt.SGD({"w": (q := p.copy())}, lr=0.5, backend=backend)
        twin.step({"w": bad.copy()})
        mine = fastopt.SGD({"w": p}, lr=0.5, backend=backend)
        before = p.copy()
        try:
            mine.step({"w": bad})
        except OverlapError:
            assert_bits(p, before)
        else:
            assert_bits(p, q)
            p[...] = before
    for good in (base[:10], base[20:30], free):  # neighbours
        opt.step({"v": good, "w": good})


@each_backend
def test_sparse_values_and_indices_that_share_memory(backend):
    base = np.arange(24, dtype=np.float32)
    table = base[:12].reshape(4, 3)
    opt = fastopt.Adagrad({"t": table}, backend=backend)
    ids = np.array([1, 3])
    for bad in (table[1:3], base[9:15].reshape(2, 3), opt._state[0]["sum"][:2]):
        with refused(OverlapError, "'t'", "copy", opt=opt, watch=base):
            opt.step({"t": SparseGrad(ids, bad)})
    opt.step({"t": SparseGrad(ids, base[12:18].reshape(2, 3))})  # a neighbour
    q = np.array([2, 0, 1, 0], np.int64).view(np.float64)  # the parameter's own bytes as indices
    r = q.copy()
    fastopt.SGD(r, lr=1.0, backend=backend).step(SparseGrad(np.array([2, 0, 1, 0]), np.ones(4)))
    before = q.copy()
    try:
        fastopt.SGD(q, lr=1.0, backend=backend).step(SparseGrad(q.view(np.int64), np.ones(4)))
    except OverlapError:
        assert_bits(q, before)
    else:
        assert_bits(q, r)


@each_backend
def test_one_gradient_for_two_parameters(backend):
    """Gradients are only read, so that they may overlap each other."""
    g = np.arange(6, dtype=np.float32)
    a, b = np.zeros(6, np.float32), np.zeros(6, np.float32)
    fastopt.SGD([a, b], lr=1.0, backend=backend).step([g, g])
    assert_bits(a, -g + 0)
    assert_bits(b, -g + 0)


def grad_layouts(g: np.ndarray, folder: Any) -> dict[str, np.ndarray]:
    """The same gradient in every layout."""
    found = {
        "C": np.ascontiguousarray(g).reshape(g.shape),
        "F": np.array(g, order="F"),
        "read-only": read_only(g),
        "misaligned": misaligned(g),
        "misaligned by 2": misaligned(g, 2),
    }
    if g.ndim:
        found |= {
            "strided": spread(g),
            "strided by 3": spread(g, 3),
            "negative": spread(g, -1),
            "all negative": spread(g, -2),
        }
        found["turned"] = np.ascontiguousarray(g.T).T
        found["part"] = np.pad(g, [(0, 0)] * (g.ndim - 1) + [(2, 3)])[..., 2:-3]
    if g.ndim >= 2:
        found["rolled axes"] = np.moveaxis(np.ascontiguousarray(np.moveaxis(g, 0, -1)), -1, 0)
    if g.size:
        mm = np.memmap(folder / "g.bin", g.dtype, "w+", shape=g.shape or (1,))
        mm[...] = g
        mm.flush()
        mm = np.memmap(folder / "g.bin", g.dtype, "r", shape=g.shape or (1,))
        found["memmap"] = mm if g.ndim else np.asarray(mm).reshape(())
    return found


SHAPES = [
    (),
    (0,),
    (0, 5),
    (5, 0),
    (1,),
    (7,),
    (300,),
    (1, 9),
    (9, 1),
    (3, 5),
    (40, 33),
    (2, 3, 4),
    (2, 0, 3),
    (1,) * 30 + (2, 3),
]


@each_backend
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layouts_of_parameters_and_gradients(shape, dtype, backend, rng, tmp_path):
    start, g = (rng.standard_normal(shape).astype(dtype).reshape(shape) for _ in range(2))
    want = np.array(start, order="C")
    reference = fastopt.Adam(want, lr=0.1, weight_decay=0.01, backend="numpy")
    for _ in range(2):
        reference.step(np.array(g, order="C"))
    if start.size:
        assert not np.array_equal(want, start)
    for order in "CF":
        for name, h in grad_layouts(g, tmp_path).items():
            assert h.shape == shape
            p = np.array(start, order=order)
            was = frozen(h)
            opt = fastopt.Adam(p, lr=0.1, weight_decay=0.01, backend=backend)
            for _ in range(2):
                opt.step(h)
            assert_bits(p, want, f"{order} with {name}")
            assert frozen(h) == was
            for k, v in opt.state_dict()["state"][0].items():
                if k != "step":
                    assert_bits(v, reference.state_dict()["state"][0][k], f"{order} with {name}, {k}")
                    assert v.shape == shape
            assert opt.state_dict()["state"][0]["step"] == 2


@each_backend
def test_64_dimensions(backend):
    n = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    p = np.zeros((1,) * (n - 1) + (3,), np.float32)
    opt = fastopt.SGD(p, lr=1.0, backend=backend)
    opt.step(np.ones(p.shape, np.float32))
    with refused(ShapeError, opt=opt):
        opt.step(np.ones(3, np.float32))
    assert_bits(p.ravel(), -np.ones(3, np.float32))


@each_backend
def test_broadcast_gradients(backend):
    for p, g in [
        (np.zeros((3, 4), np.float32), np.broadcast_to(np.arange(4, dtype=np.float32), (3, 4))),
        (np.zeros((3, 4), np.float32), np.broadcast_to(np.arange(3, dtype=np.float32)[:, None], (3, 4))),
        (np.zeros((3, 4), np.float32, order="F"), np.broadcast_to(np.arange(4, dtype=np.float32), (3, 4))),
        (np.zeros(9), np.broadcast_to(np.float64(2.5), 9)),
    ]:
        fastopt.SGD(p, lr=1.0, backend=backend).step(g)
        assert_bits(p, 0 - g)


@each_backend
def test_parameters_are_updated_in_place_wherever_they_lie(backend, tmp_path):
    room = bytearray(64)
    over_bytes = np.frombuffer(room, np.float32)
    on_file = np.memmap(tmp_path / "p.bin", np.float32, "w+", shape=(4, 4))
    private = np.memmap(tmp_path / "p.bin", np.float32, "c", shape=(4, 4))
    column = np.zeros((9, 1), np.float32)[:, 0]
    part = np.zeros((4, 16), np.float32)
    tall = np.zeros((8, 3), np.float32)[2:5]
    params = [
        over_bytes,
        on_file,
        part[1],
        tall,
        column,
        np.zeros((1, 6), np.float32)[::-1],
        np.zeros((5, 6), np.float32).T,
    ]
    fastopt.SGD(params, lr=1.0, backend=backend).step([np.full(p.shape, -2, np.float32) for p in params])
    for p in params:
        assert (p == 2).all()
    assert np.frombuffer(bytes(room), np.float32).tolist() == [2] * 16
    on_file.flush()
    assert np.fromfile(tmp_path / "p.bin", np.float32).tolist() == [2] * 16
    assert part.sum() == 32
    fastopt.SGD(private, lr=1.0, backend=backend).step(np.ones((4, 4), np.float32))
    assert (private == 1).all()
    for mode in ("r", "r+"):
        again = np.memmap(tmp_path / "p.bin", np.float32, mode, shape=(4, 4))
        if mode == "r":
            with refused(ReadOnlyError, "'w'", "r+", watch=again):
                fastopt.SGD({"w": again}, backend=backend)
        else:
            fastopt.SGD({"w": again}, lr=1.0, backend=backend).step({"w": np.ones((4, 4), np.float32)})
            again.flush()
            assert np.fromfile(tmp_path / "p.bin", np.float32).tolist() == [1] * 16


@each_backend
@each_optimizer
def test_none_and_empty_gradients(cls, backend):
    """None skips and counts nothing; a zero, a gradient without elements and one without rows count."""
    params = {
        "a": np.ones(3, np.float32),
        "b": np.ones(3),
        "e": np.ones((4, 0), np.float32),
        "t": np.ones((5, 2), np.float32),
        "z": np.array(1.0),
    }
    opt = cls(params, **decay(cls, 0.1), backend=backend)
    before = {k: v.copy() for k, v in params.items()}
    none = SparseGrad(np.zeros(0, np.int64), np.zeros((0, 2), np.float32))
    opt.step({"a": None, "b": np.zeros(3), "e": np.zeros((4, 0), np.float32), "t": none, "z": None})
    assert [opt.state_dict()["state"][k]["step"] for k in "abetz"] == [0, 1, 1, 1, 0]
    if decay(cls, 0.1):  # Prodigy waits for a gradient that is not zero, and ADOPT's first step moves nothing
        assert np.array_equal(params["b"], before["b"]) == (cls in (fastopt.Prodigy, fastopt.ADOPT))
    for k in "aetz":
        assert_bits(params[k], before[k], k)
    opt.step(dict.fromkeys(params))
    assert [opt.state_dict()["state"][k]["step"] for k in "abetz"] == [0, 1, 1, 1, 0]
    assert opt.state_dict()["step"] == 2


# --------------------------------------------------------------------------------------------------------- structure


@each_backend
def test_structure_of_gradients(backend):
    opt, grads = make(backend=backend, n=3)
    g = grads["a"]
    for bad, error, words in [
        ({"a": g, "b": g}, ShapeError, ("'c'", "None")),
        ({}, ShapeError, ("'a'",)),
        ({**grads, "d": g}, ShapeError, ("'d'",)),
        ({"a": g, "b": g, "C": g}, ShapeError, ("'C'",)),
        ({**grads, 0: g}, ShapeError, ("0",)),
        ({**grads, None: g}, ShapeError, ("None",)),
        ([g, g, g], DTypeError, ("dict", "list")),
        ((g, g, g), DTypeError, ("dict", "tuple")),
        (g, DTypeError, ("dict", "ndarray")),
        (None, DTypeError, ("dict", "None")),
        ("abc", DTypeError, ("dict", "str")),
        (grads.items(), DTypeError, ("dict",)),
        (set(grads), DTypeError, ("dict", "set")),
        (Bomb(), DTypeError, ("dict", "Bomb")),
    ]:
        with refused(error, *words, opt=opt):
            opt.step(bad)
    with refused(ShapeError, "'embedding'", opt=(e := fastopt.SGD({"embedding": g.copy()}, backend=backend))):
        e.step({"embeding": g})
    with pytest.raises(ShapeError, match="Did you mean 'embedding'"):
        e.step({"embeding": g})
    opt = fastopt.Adam([g.copy(), g.copy()], backend=backend)
    for bad, error, words in [
        ([g], ShapeError, ("1", "2", "None")),
        ([g, g, g], ShapeError, ("3", "2")),
        ([], ShapeError, ()),
        ((), ShapeError, ()),
        ({"a": g, "b": g}, DTypeError, ("list", "dict")),
        (g, DTypeError, ("list",)),
        (None, DTypeError, ("list", "None")),
        ((x for x in [g, g]), DTypeError, ("list", "generator")),
        ({0: g, 1: g}, DTypeError, ("list",)),
        (SparseGrad(g, g), DTypeError, ("list", "SparseGrad")),
        (3, DTypeError, ("list", "int")),
        ("ab", DTypeError, ("list", "str")),
        (Bomb(), DTypeError, ()),
    ]:
        with refused(error, *words, opt=opt):
            opt.step(bad)
    opt = fastopt.Adam(g.copy(), backend=backend)
    for bad in ([g], (g,), {"a": g}, {0: g}):
        with refused((DTypeError, ShapeError), "gradient", opt=opt):
            opt.step(bad)


@each_backend
def test_right_structures(backend):
    def check(params: Any, grads: Any, *arrays: np.ndarray) -> None:
        fastopt.SGD(params, lr=1.0, backend=backend).step(grads)
        for k, a in enumerate(arrays):
            assert (a == -1 - k).all()

    def two() -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(2, np.float32), np.zeros((2, 3))

    f, g = np.full(2, 1, np.float32), np.full((2, 3), 2.0)
    a, b = two()
    check([a, b], (f, g), a, b)
    a, b = two()
    check((a, b), [f, g], a, b)
    a, b = two()
    check({"a": a, "b": b}, {"b": g, "a": f}, a, b)  # the order of a dict does not matter
    a, b = two()
    check(OrderedDict(a=a, b=b), types.MappingProxyType({"b": g, "a": f}), a, b)
    a, b = two()
    check({"": a, "b.weight/é": b}, OrderedDict({"b.weight/é": g, "": f}), a, b)
    a, b = two()
    check([{"params": a}, {"params": [b], "lr": 1}], [f, g], a, b)
    a, b = two()
    check(({"params": (a, b)},), [f, g], a, b)
    a, b = two()
    check([{"params": {"a": a}}, {"params": {"b": b}}], {"b": g, "a": f}, a, b)
    a, _ = two()
    check(a, f, a)
    a, _ = two()
    check([a], [f], a)
    a, b = two()
    mine = [a]
    opt = fastopt.SGD(mine, lr=1.0, backend=backend)
    mine.append(b)  # the caller's list is the caller's
    opt.step([f])
    assert (a == -1).all()
    assert not b.any()


def test_step_returns_none():
    opt = fastopt.SGD(np.zeros(3))
    assert opt.step(np.ones(3)) is None
    opt.grads[:] = 1
    assert opt.step() is None


# ---------------------------------------------------------------------------------------- changes behind our back

CHANGES: dict[str, tuple[Callable[[np.ndarray], None], Any]] = {
    "resize to more": (lambda a: a.resize(400, refcheck=False), LayoutError),
    "resize to much more": (lambda a: a.resize(3_000_000, refcheck=False), LayoutError),
    "resize to less": (lambda a: a.resize(5, refcheck=False), LayoutError),
    "resize to nothing": (lambda a: a.resize(0, refcheck=False), LayoutError),
    "resize to 2-D": (lambda a: a.resize((6, 2), refcheck=False), LayoutError),
    "shape": (lambda a: setattr(a, "shape", (3, 4)), LayoutError),
    "shape with a one": (lambda a: setattr(a, "shape", (12, 1)), LayoutError),
    "dtype int32": (lambda a: setattr(a, "dtype", np.int32), (LayoutError, DTypeError)),
    "dtype float64": (lambda a: setattr(a, "dtype", np.float64), (LayoutError, DTypeError)),
    "dtype float16": (lambda a: setattr(a, "dtype", np.float16), (LayoutError, DTypeError)),
    "byte order": (lambda a: setattr(a, "dtype", a.dtype.newbyteorder()), (LayoutError, DTypeError)),
    "strides": (lambda a: setattr(a, "strides", (0,)), (LayoutError, OverlapError)),
    "read-only": (lambda a: a.setflags(write=False), ReadOnlyError),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@each_backend
@pytest.mark.parametrize("change", CHANGES)
def test_parameter_changed_in_place_between_steps(change, backend):
    act, error = CHANGES[change]
    error = error if isinstance(error, tuple) else (error,)
    for at in range(3):
        params = {name: np.arange(12, dtype=np.float32) for name in "abc"}
        grads = {name: np.ones(12, np.float32) for name in "abc"}
        opt = fastopt.Adam(params, backend=backend)
        opt.step(grads)
        name = "abc"[at]
        act(params[name])
        for g in (grads[name], SparseGrad(np.array([1]), np.ones(1, np.float32))):  # either of the two can be named
            with refused((*error, ShapeError, IndexRangeError), f"'{name}'", opt=opt, watch=params):
                opt.step({**grads, name: g})
        if params[name].dtype == np.float32 and params[name].dtype.isnative:
            with refused(error, f"'{name}'", opt=opt, watch=params):
                opt.step({**grads, name: np.ones(params[name].shape, np.float32)})
        opt.grads[name][...] = 1
        with refused(error, f"'{name}'", opt=opt, watch=params):
            opt.step()
        opt.step({**grads, name: None})  # the others can go on


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@each_backend
def test_parameter_that_was_moved_in_memory(backend):
    """The same shape again, but elsewhere: refused, or the new memory is updated; the old one is not ours any more."""
    p, g = np.zeros(100_000, np.float32), np.ones(100_000, np.float32)
    opt = fastopt.SGD(p, lr=1.0, backend=backend)
    old, others = p.ctypes.data, []
    for size in (3_000_000, 100_000) * 20:
        p.resize(size, refcheck=False)
        others.append(np.zeros(100_000, np.float32))  # in the way of who wants to go back
        if size == 100_000 and p.ctypes.data != old:
            break
    assert p.ctypes.data != old
    try:
        with refused(LayoutError, opt=opt, watch=[p, others]):
            opt.step(g)
    except pytest.fail.Exception:
        assert (p == -1).all()
        assert not any(a.any() for a in others)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@each_backend
def test_parameter_changed_and_changed_back(backend):
    p, g = np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32)
    opt = fastopt.SGD(p, lr=1.0, backend=backend)
    p.shape = (4, 3)
    for bad in (g, g.reshape(4, 3)):
        with refused((LayoutError, ShapeError), opt=opt, watch=p):
            opt.step(bad)
    p.shape = (3, 4)
    opt.step(g)
    p.setflags(write=False)
    with refused(ReadOnlyError, opt=opt, watch=p):
        opt.step(g)
    p.setflags(write=True)
    opt.step(g)
    assert (p == -2).all()


# -------------------------------------------------------------------------------------------------- hyper-parameters

NEVER: list[Any] = [
    math.nan,
    "0.1",
    None,
    True,
    False,
    np.bool_(True),
    1j,
    np.complex64(1),
    Decimal("0.1"),
    [0.1],
    (0.1,),
    np.array([0.1]),
    np.array("0.1"),
    np.array(0.1 + 0j),
    np.array(True),
    np.array(None),
    Bomb(),
    b"1",
    10**400,
    Fraction(10**400),
    np.datetime64(1, "s"),
    float,
]
BAD: dict[str, list[Any]] = {
    "number": [
        *NEVER,
        math.inf,
        -math.inf,
        -1,
        -1e-300,
        np.float32(-1),
        np.array(-0.5),
        np.longdouble("inf"),
        Fraction(-1, 9),
    ],
    "count": [*NEVER, math.inf, -1, np.int64(-1), 0.5, 1.0],
    "fraction": [*NEVER, math.inf, -math.inf, -1e-300, 1.0, 1, 1.5, np.float32(1)],
    "pair": [
        None,
        0.9,
        True,
        "ab",
        (),
        (0.9,),
        (0.9, 0.99, 0.999),
        (0.9, 1.0),
        (1, 0.9),
        (-0.1, 0.9),
        (0.9, math.nan),
        (math.inf, 0.9),
        ("0.9", 0.999),
        (True, 0.9),
        (None, None),
        {0.9, 0.99},
        {0.9: 0.99, 0.5: 1},
        (0.9, 1j),
        Bomb(),
        np.zeros((2, 2)),
    ],
    "flag": [None, 1, 0, 1.0, "True", "", [], (), np.float32(1), Bomb()],
    "shares": [None, 0.9, True, (0.9,), (0.9, 1.5), (-0.1, 0.9), (0.9, math.nan), ("0.9", 1.0), (True, 0.9), Bomb()],
    "word": [None, 1, True, "", "HAT", "within", "beside", "outside ", b"hat", ["hat"], Bomb()],
    "at most 0": [*NEVER, math.inf, -math.inf, 1, 1e-300, np.float32(1), Fraction(1, 9)],
    "two epsilons": [
        None,
        0.9,
        "ab",
        (),
        (0.9,),
        (None, None),
        (0.1, None),
        (-1, 0.9),
        (0.9, math.nan),
        (math.inf, 0.1),
        (True, 0.1),
        {0.9, 0.99},
        Bomb(),
    ],
}


BAD["triple"] = [(0.9, 0.99), *(bad for bad in BAD["pair"] if type(bad) is not tuple or len(bad) != 3)]
BAD["factors"] = [(0.5, 1.0), (1.0, 1.2), (0.0, 1.2), (1.2, 0.5), *BAD["pair"]]
BAD["sizes"] = [bad for bad in BAD["pair"] if type(bad) is not tuple or bad != (0.9, 1.0)]
BAD["above 0"] = [*BAD["number"], 0, 0.0]
BAD["of at least 1"] = [bad for bad in BAD["number"] if type(bad) is not float or bad != math.inf] + [0, 0.5]
BAD["fraction or None"] = [bad for bad in BAD["fraction"] if bad is not None]
BAD["integer"] = [*BAD["number"], 0, 1.5, 2.0]
BAD["power"] = [*NEVER, math.inf, -math.inf, 1e-300, 1, -1.5]
#: kinds that a default does not tell
KINDS: dict[Any, str] = {"nus": "shares", "etas": "factors", "step_sizes": "sizes", "lr_power": "power"}
KINDS |= {"d0": "above 0", "d_coef": "above 0", "growth_rate": "of at least 1", "beta3": "fraction or None"}
KINDS |= {"curv_window_width": "integer", "beta2_decay": "at most 0", "d": "above 0"}
KINDS |= {(fastopt.Adafactor, "eps"): "two epsilons"}


def options_of(cls: type) -> dict[str, str]:
    """The options of an optimizer, each with its kind."""
    found = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        d = parameter.default
        if name in ("params", "transforms", "nonfinite", "preset", "sparse", "backend", "n_threads"):
            continue
        kind = {bool: "flag", str: "word", tuple: "pair", int: "count"}.get(type(d), "number")
        kind = KINDS.get(name, "triple" if kind == "pair" and len(d) == 3 else kind)
        fraction = (
            name in ("momentum", "rho")
            or (name == "beta" and d > 0)
            or (name == "alpha" and d < 1 and cls is not fastopt.ASGD)
        )
        found[name] = KINDS.get((cls, name)) or ("fraction" if fraction else kind)
    return found


def test_torch_names_and_defaults():
    want = {
        "SGD": {"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False},
        "Adagrad": {"lr": 1e-2, "lr_decay": 0, "weight_decay": 0, "initial_accumulator_value": 0, "eps": 1e-10},
        "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "maximize": False},
        "RMSprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0, "momentum": 0, "centered": False},
        "Adam": {
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0,
            "amsgrad": False,
            "maximize": False,
        },
        "AdamW": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "amsgrad": False},
        "Adamax": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "maximize": False},
        "NAdam": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "momentum_decay": 4e-3},
        "RAdam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "decoupled_weight_decay": False},
        "Rprop": {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50), "maximize": False},
        "ASGD": {"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0},
    }
    for name, options in want.items():
        group = getattr(fastopt, name)(np.zeros(2)).param_groups[0]
        assert {k: group[k] for k in options} == options, name


@each_optimizer
def test_bad_hyper_parameters(cls):
    p = np.ones(4)
    opt = cls({"w": p})
    opt.step({"w": np.ones(4)})
    for name, kind in options_of(cls).items():
        for bad in BAD[kind]:
            with refused(HyperParameterError, name, watch=p):
                cls({"w": p}, **{name: bad})
            with refused(HyperParameterError, name, watch=p):
                cls([{"params": p, name: bad}])
            with refused(HyperParameterError, name, opt=opt):
                opt.add_param_group({"params": {"v": np.ones(3)}, name: bad})
            with refused(HyperParameterError, name, opt=opt):
                opt.param_groups[0][name] = bad
            with refused(HyperParameterError, name, opt=opt):
                opt.param_groups[0].update({"lr": 0.5, name: bad})
            state = opt.state_dict()
            state["param_groups"][0][name] = bad
            with refused((HyperParameterError, StateError), name, opt=opt):
                opt.load_state_dict(state)
    assert len(opt.param_groups) == 1


def test_messages_say_what_they_got_and_what_is_allowed():
    for kw, words in [
        ({"lr": -0.25}, ("lr", "-0.25", "0.0")),
        ({"lr": "fast"}, ("lr", "'fast'", "str")),
        ({"lr": math.nan}, ("lr", "nan", "finite")),
        ({"betas": (0.9, 1.5)}, ("betas", "1.5", "1.0")),
        ({"eps_form": "keras"}, ("eps_form", "'keras'", "'outside'", "'hat'")),
        ({"amsgrad": "yes"}, ("amsgrad", "'yes'", "True", "False")),
        ({"n_threads": 0}, ("n_threads", "0", "1")),
        ({"backend": "cuda"}, ("backend", "'cuda'", "'native'", "'numpy'", "'auto'")),
    ]:
        with refused(HyperParameterError, *words):
            fastopt.Adam(np.ones(3), **kw)


@pytest.mark.parametrize(
    "bad", [0, -1, 1.0, 1.5, True, "2", 1025, 10**6, 2**31, 2**63, 2**64, math.nan, [2], Bomb()], ids=repr
)
def test_bad_number_of_threads(bad):
    with refused(HyperParameterError, "n_threads"):
        fastopt.Adam(np.ones(3), n_threads=bad)
    before = fastopt.get_num_threads()
    with refused(HyperParameterError, "must be an integer"):
        fastopt.set_num_threads(bad)
    assert fastopt.get_num_threads() == before


@pytest.mark.parametrize("bad", ["cuda", "", "Native", None, 1, True, b"numpy", Bomb()], ids=str)
def test_bad_backend(bad):
    with refused(HyperParameterError, "backend"):
        fastopt.SGD(np.ones(3), backend=bad)


@each_backend
@each_optimizer
def test_numbers_of_every_kind_are_accepted(cls, backend):
    kinds = [
        float,
        np.float64,
        np.float32,
        np.array,
        lambda x: np.array(x, np.float32),
        Fraction,
        np.longdouble,
        np.float16,
    ]
    results = []
    for kind in kinds:
        p = np.linspace(-1, 1, 50)
        options = {k: kind(0.25) for k, v in options_of(cls).items() if v in ("number", "fraction")}
        opt = cls(p, **options, backend=backend)
        opt.param_groups[0]["lr"] = kind(0.5)
        for _ in range(3):
            opt.step(np.linspace(1, 2, 50))
        results.append(p)
        for k in options:
            assert type(opt.param_groups[0][k]) is float
    for p in results[1:]:
        assert_bits(p, results[0])
    for one in (1, np.int64(1), np.uint8(1), np.array(1)):
        assert cls(np.ones(3), lr=one).param_groups[0]["lr"] == 1.0
    if options_of(cls).get("betas") == "pair":
        for pair in ([0.5, 0.25], (np.float32(0.5), Fraction(1, 4)), (np.array(0.5), 0.25)):
            assert cls(np.ones(3), betas=pair).param_groups[0]["betas"] == (0.5, 0.25)


def test_minus_zero_is_zero():
    p = np.array([0.0, -0.0, 1.0])
    fastopt.SGD(p, lr=-0.0).step(np.array([1.0, 1.0, 1.0]))
    assert_bits(p, np.array([0.0, -0.0, 1.0]))


@pytest.mark.filterwarnings("error")
@each_backend
@each_optimizer
def test_rate_beyond_float32(cls, backend):
    """1e308 is a float, but no float32: an error that names it, and the next step works after it was put right."""
    if cls is fastopt.Rprop:
        return  # its rate is the first step size, held within step_sizes
    p, q = np.ones(4, np.float32), np.ones(4, np.float32)
    decay = {"weight_decay": 0.1} if cls is fastopt.Adafactor else {}  # whose step is bounded, but not its decay
    opt, twin = cls({"w": p}, **decay, backend=backend), cls({"w": q}, **decay, backend=backend)
    g = {"w": np.ones(4, np.float32)}
    opt.step(g)
    twin.step(g)
    old = opt.param_groups[0]["lr"]
    try:
        opt.param_groups[0]["lr"] = 1e308
    except HyperParameterError:
        pass
    else:
        for grads in (g, {"w": SparseGrad(np.array([0]), np.ones(1, np.float32))}):
            with refused(HyperParameterError, "lr", "1e+308", "float32", opt=opt, watch=g["w"]):
                opt.step(grads)
        opt.step({"w": None})
        twin.step({"w": None})
        opt.param_groups[0]["lr"] = old
    opt.step(g)
    twin.step(g)
    assert_bits(p, q)
    wide = np.ones(4)
    cls(wide, lr=1e300, backend=backend).step(np.zeros(4))
    assert np.isfinite(wide).all()


@each_backend
@each_optimizer
@pytest.mark.parametrize("eps", [0.0, 5e-324, 1e-300, 1e-46, 1e-40])
def test_no_zero_over_zero(cls, eps, backend):
    for dtype in (np.float32, np.float64):
        p = np.ones(40, dtype)
        given = {"number": eps, "two epsilons": (eps, eps)}.get(options_of(cls).get("eps", ""))
        opt = cls(p, **({} if given is None else {"eps": given}), backend=backend)
        for _ in range(3):
            opt.step(np.zeros(40, dtype))
        assert np.isfinite(p).all()
        opt.step(SparseGrad(np.array([3]), np.zeros(1, dtype)))
        assert np.isfinite(p).all()


def test_nesterov_needs_momentum():
    p = np.ones(3)
    for kw in ({}, {"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}):
        with refused(HyperParameterError, "nesterov", "momentum", watch=p):
            fastopt.SGD(p, nesterov=True, **kw)
    opt = fastopt.SGD(p, momentum=0.9, nesterov=True)
    opt.step(p.copy())
    for key, value in [("momentum", 0.0), ("dampening", 0.5)]:
        with refused(HyperParameterError, "nesterov", "momentum", opt=opt):
            opt.param_groups[0][key] = value
    opt.param_groups[0].update(momentum=0.0, nesterov=False)  # together they are right
    opt.param_groups[0].update({"momentum": 0.5}, nesterov=True)
    opt = fastopt.SGD(p)
    with refused(HyperParameterError, "nesterov", "momentum", opt=opt):
        opt.param_groups[0]["nesterov"] = True
    with refused(HyperParameterError, "nesterov", "momentum", opt=opt):
        opt.add_param_group({"params": np.ones(2), "nesterov": True})


MISSPELT = [
    ("learning_rate", "lr"),
    ("learningrate", None),
    ("beta", "betas"),
    ("weightdecay", "weight_decay"),
    ("LR", "lr"),
    ("epsilon", "eps"),
    ("maximise", "maximize"),
    ("xyz", None),
    ("amsgrads", "amsgrad"),
    ("", None),
]


@pytest.mark.parametrize(("wrong", "right"), MISSPELT)
def test_misspelt_options(wrong, right):
    p = np.ones(3)
    opt = fastopt.Adam({"w": p})
    opt.step({"w": p.copy()})
    state = opt.state_dict()
    state["param_groups"][0][wrong] = 0.1
    calls: list[Callable[[], Any]] = [
        lambda: fastopt.Adam(p, **{wrong: 0.1}),
        lambda: fastopt.Adam(params=p, lr=0.1, **{wrong: 0.1}),
        lambda: fastopt.Adam([{"params": p, wrong: 0.1}]),
        lambda: opt.add_param_group({"params": {"v": np.ones(3)}, wrong: 0.1}),
        lambda: opt.param_groups[0].__setitem__(wrong, 0.1),
        lambda: opt.param_groups[0].update({"lr": 0.5, wrong: 0.1}),
        lambda: opt.param_groups[0].update(**{"lr": 0.5, wrong: 0.1}),
        lambda: opt.param_groups[0].setdefault(wrong, 0.1),
        lambda: opt.param_groups[0].__ior__({wrong: 0.1}),
        lambda: opt.load_state_dict(state),
    ]
    for call in calls:
        with refused(UnsupportedError, repr(wrong), opt=opt, watch=p):
            call()


@pytest.mark.parametrize(("wrong", "right"), [(w, r) for w, r in MISSPELT if r])
def test_misspelt_options_get_a_suggestion(wrong, right):
    opt = fastopt.Adam(np.ones(3))
    for call in (
        lambda: fastopt.Adam(np.ones(3), **{wrong: 1}),
        lambda: fastopt.Adam([{"params": np.ones(3), wrong: 1}]),
        lambda: opt.param_groups[0].update({wrong: 1}),
    ):
        with pytest.raises(TypeError, match=f"Did you mean '{right}'"):
            call()


def test_option_of_another_optimizer():
    for cls, wrong in [
        (fastopt.SGD, "betas"),
        (fastopt.Adam, "momentum"),
        (fastopt.Adagrad, "rho"),
        (fastopt.Adadelta, "alpha"),
        (fastopt.RMSprop, "amsgrad"),
        (fastopt.AdamW, "nesterov"),
    ]:
        with refused(UnsupportedError, repr(wrong), cls.__name__):
            cls(np.ones(3), **{wrong: 0.5})


def test_group_options_cannot_be_lost():
    opt = fastopt.SGD([np.ones(3)], momentum=0.9)
    group = opt.param_groups[0]
    for act in (
        lambda: group.pop("lr"),
        group.popitem,
        group.clear,
        lambda: group.__delitem__("momentum"),
        lambda: group.__setitem__("params", [np.zeros(3)]),
        lambda: group.update(params=[]),
    ):
        with refused(StateError, opt=opt):
            act()
    assert group.setdefault("lr", 7.0) == 1e-3
    assert "lr" in group
    assert group["params"][0].sum() == 3


@each_backend
def test_group_edits_hold_from_the_next_step(backend):
    p = np.zeros(3)
    opt = fastopt.SGD([{"params": p}, {"params": (q := np.zeros(2)), "lr": 0.25}], lr=1.0, backend=backend)
    g = [np.ones(3), np.ones(2)]
    opt.step(g)
    opt.param_groups[0]["lr"] = 0.5
    opt.step(g)
    assert p.tolist() == [-1.5] * 3
    assert q.tolist() == [-0.5] * 2
    opt.param_groups[1]["maximize"] = True
    opt.step(g)
    assert p.tolist() == [-2.0] * 3
    assert q.tolist() == [-0.25] * 2
    group = opt.param_groups[0]
    group |= {"lr": 0.0, "weight_decay": 1.0}
    assert opt.param_groups[0] is group
    opt.step(g)
    assert p.tolist() == [-2.0] * 3
    group.update([("lr", 1.0)])
    opt.step([np.zeros(3), None])
    assert p.tolist() == [0.0] * 3
    group.update(lr=0.0, decoupled_weight_decay=True)
    p[:] = 1
    opt.step([np.ones(3), None])
    assert p.tolist() == [1.0] * 3
    group["lr"] = 0.5
    opt.step([np.zeros(3), None])
    assert p.tolist() == [0.5] * 3


# ------------------------------------------------------------------------------------------------------------ sparse

ROWS, WIDTH = 10, 3


def values(k: int, width: tuple[int, ...] = (WIDTH,), dtype: type = np.float32) -> np.ndarray:
    return np.arange(1, 1 + k * math.prod(width), dtype=dtype).reshape(k, *width)


I64 = np.int64
BAD_SPARSE: dict[str, tuple[Callable[[], SparseGrad], Any, tuple[str, ...]]] = {
    **{
        f"index {bad} as {t}": (
            lambda bad=bad, t=t: SparseGrad(np.array([1, bad], t), values(2)),
            IndexRangeError,
            ("[1]", str(bad), "10 rows"),
        )
        for bad, t in [
            (-1, "i8"),
            (-1, "i1"),
            (-(2**31), "i4"),
            (-(2**31), "i8"),
            (-(2**63), "i8"),
            (10, "i8"),
            (10, "u1"),
            (127, "i1"),
            (2**31 - 1, "i4"),
            (2**31, "i8"),
            (2**32, "i8"),
            (2**32 + 1, "u8"),
            (2**63 - 1, "i8"),
            (2**63, "u8"),
            (2**64 - 1, "u8"),
            (2**32 - 1, "u4"),
            (-10, "i2"),
            (-10, "i8"),
            (2**63 + 1, "u8"),
        ]
    },
    **{
        f"{t} indices": (
            lambda t=t: SparseGrad(np.array([1, 0]).astype(t), values(2)),
            DTypeError,
            ("indices", str(np.dtype(t))),
        )
        for t in ("f8", "f4", "f2", "?", "c16", "O", "U3", "M8[s]")
    },
    "list indices": (lambda: SparseGrad([1, 2], values(2)), DTypeError, ("indices", "list")),
    "int index": (lambda: SparseGrad(3, values(1)), DTypeError, ("indices", "int")),
    "None indices": (lambda: SparseGrad(None, values(1)), DTypeError, ("indices", "None")),
    "masked indices": (
        lambda: SparseGrad(np.ma.array([1, 2], mask=[0, 1]), values(2)),
        DTypeError,
        ("indices", "masked"),
    ),
    "bomb indices": (lambda: SparseGrad(Bomb(), values(1)), DTypeError, ("indices", "Bomb")),
    "2-D indices": (lambda: SparseGrad(np.array([[1], [2]]), values(2)), ShapeError, ("indices", "(2, 1)")),
    "0-d indices": (lambda: SparseGrad(np.array(1), values(1)), ShapeError, ("indices", "()")),
    "more values": (lambda: SparseGrad(np.array([1, 2]), values(3)), ShapeError, ("values", "(3, 3)", "(2, 3)")),
    "fewer values": (lambda: SparseGrad(np.array([1, 2]), values(1)), ShapeError, ("values", "(1, 3)", "(2, 3)")),
    "no values": (lambda: SparseGrad(np.array([1, 2]), values(0)), ShapeError, ("values", "(0, 3)")),
    "no indices": (lambda: SparseGrad(np.array([], I64), values(2)), ShapeError, ("values", "(2, 3)", "(0, 3)")),
    "narrow values": (
        lambda: SparseGrad(np.array([1, 2]), values(2, (2,))),
        ShapeError,
        ("values", "(2, 2)", "(2, 3)"),
    ),
    "wide values": (lambda: SparseGrad(np.array([1, 2]), values(2, (4,))), ShapeError, ("values", "(2, 4)")),
    "1-D values": (lambda: SparseGrad(np.array([1, 2]), values(2, ())), ShapeError, ("values", "(2,)", "(2, 3)")),
    "0-d values": (lambda: SparseGrad(np.array([1]), np.array(1, np.float32)), ShapeError, ("values", "()")),
    "3-D values": (lambda: SparseGrad(np.array([1, 2]), values(2, (3, 1))), ShapeError, ("values", "(2, 3, 1)")),
    "turned values": (lambda: SparseGrad(np.array([1, 2]), values(3, (2,))), ShapeError, ("values", "(3, 2)")),
    "flat values": (lambda: SparseGrad(np.array([1, 2]), values(6, ())), ShapeError, ("values", "(6,)")),
    "float64 values": (
        lambda: SparseGrad(np.array([1]), values(1, dtype=np.float64)),
        DTypeError,
        ("values", "float64", "float32"),
    ),
    "int values": (lambda: SparseGrad(np.array([1]), values(1, dtype=np.int64)), DTypeError, ("values", "int64")),
    "list values": (lambda: SparseGrad(np.array([1]), [[1.0, 2.0, 3.0]]), DTypeError, ("values", "list")),
    "None values": (lambda: SparseGrad(np.array([1]), None), DTypeError, ("values", "None")),
    "masked values": (lambda: SparseGrad(np.array([1]), np.ma.array(values(1))), DTypeError, ("values", "masked")),
    "big-endian values": (
        lambda: SparseGrad(np.array([1]), values(1).astype(">f4")),
        DTypeError,
        ("values", "byte order"),
    ),
    "bomb values": (lambda: SparseGrad(np.array([1]), Bomb()), DTypeError, ("values", "Bomb")),
    "error": (
        lambda: SparseGrad(np.array([4, 1, 4]), values(3), duplicates="error"),
        fastopt.FastoptError,
        ("4", "duplicates"),
    ),
    "none": (
        lambda: SparseGrad(np.array([4, 1, 4]), values(3), duplicates="none"),
        fastopt.FastoptError,
        ("4", "duplicates"),
    ),
    "adjacent": (lambda: SparseGrad(np.array([1, 4, 4]), values(3), duplicates="none"), fastopt.FastoptError, ("4",)),
    "all equal": (lambda: SparseGrad(np.zeros(5, I64), values(5), duplicates="error"), fastopt.FastoptError, ("0",)),
}


@each_backend
@pytest.mark.parametrize("kind", BAD_SPARSE)
def test_bad_sparse_gradient(kind, backend):
    make_it, error, words = BAD_SPARSE[kind]
    params = {name: np.ones((ROWS, WIDTH), np.float32) for name in "abcde"}
    opt = fastopt.Adam(params, backend=backend)
    opt.step({name: SparseGrad(np.array([3]), values(1)) for name in params})
    dense, sparse = np.ones((ROWS, WIDTH), np.float32), SparseGrad(np.array([3, 3]), values(2))
    for name in "ace":
        for good in (dense, sparse):
            with refused(error, f"'{name}'", *words, opt=opt, watch=[dense, sparse.indices, sparse.values]):
                opt.step({k: make_it() if k == name else good for k in params})
    single = fastopt.SGD(np.ones((ROWS, WIDTH), np.float32), momentum=0.5, backend=backend)
    with refused(error, "gradient", *words, opt=single):
        single.step(make_it())


@each_backend
@pytest.mark.parametrize("bad", [-1, 10**6, 2**62, -(2**63)])
def test_one_bad_index_in_a_long_list(bad, backend, forced):
    forced(2, 1000)
    n = 10**6
    opt = fastopt.SGD({"emb": np.zeros(n, np.float32)}, backend=backend)
    ids, v = np.arange(n - 1, -1, -1), np.ones(n, np.float32)
    for at in (0, 1, n // 2 - 1, n // 2, n - 2, n - 1):
        was, ids[at] = ids[at], bad
        with refused(IndexRangeError, "'emb'", f"[{at}]", str(bad), "1000000 rows", "999999", opt=opt):
            opt.step({"emb": SparseGrad(ids, v)})
        ids[at] = was
    opt.step({"emb": SparseGrad(ids, v)})


@each_backend
def test_first_and_last_row_are_in_range(backend):
    for t in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"):
        p = np.zeros((100, 2), np.float32)
        fastopt.SGD(p, lr=1.0, backend=backend).step(SparseGrad(np.array([99, 0], t), -np.ones((2, 2), np.float32)))
        assert p.sum() == 4
        assert p[[0, 99]].all()


@each_backend
def test_sparse_gradient_of_odd_parameters(backend):
    one = SparseGrad(np.array([0]), np.ones(1, np.float32))
    opt = fastopt.SGD({"s": np.array(1, np.float32)}, backend=backend)
    with refused(ShapeError, "'s'", "()", opt=opt):
        opt.step({"s": one})
    for shape in ((0,), (0, 4)):
        opt = fastopt.SGD({"s": np.zeros(shape, np.float32)}, backend=backend)
        with refused(IndexRangeError, "'s'", "0 rows", opt=opt):
            opt.step({"s": SparseGrad(np.array([0]), np.ones((1, *shape[1:]), np.float32))})
        opt.step({"s": SparseGrad(np.array([], I64), np.ones((0, *shape[1:]), np.float32))})
        assert opt.state_dict()["state"]["s"]["step"] == 1
    p = np.zeros((4, 0), np.float32)
    opt = fastopt.SGD(p, momentum=0.5, backend=backend)
    opt.step(SparseGrad(np.array([3, 3]), np.zeros((2, 0), np.float32)))
    with refused(IndexRangeError, "4 rows", opt=opt):
        opt.step(SparseGrad(np.array([4]), np.zeros((1, 0), np.float32)))
    fortran = np.zeros((4, 3), np.float32, order="F")  # updated, or refused in plain words
    opt = fastopt.SGD({"f": fortran}, lr=1.0, backend=backend)
    g = SparseGrad(np.array([2]), -values(1))
    try:
        opt.step({"f": g})
    except (LayoutError, ShapeError) as e:
        assert "'f'" in str(e)
        assert "Fortran" in str(e)
        assert not fortran.any()
    else:
        assert fortran[2].tolist() == [1, 2, 3]
    column = np.zeros((4, 1), np.float32, order="F")  # both orders at once
    fastopt.SGD(column, lr=1.0, backend=backend).step(SparseGrad(np.array([2]), -np.ones((1, 1), np.float32)))
    assert column.ravel().tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("bad", ["first", "", None, True, 0, "SUM", Bomb()], ids=str)
def test_bad_duplicates(bad):
    with refused(HyperParameterError, "duplicates", "'sum'", "'error'", "'none'"):
        SparseGrad(np.array([0]), values(1), duplicates=bad)


def expected_sum(ids: np.ndarray, v: np.ndarray) -> dict[int, np.ndarray]:
    """The sums of repeated rows, from the first occurrence on, in input order."""
    found: dict[int, np.ndarray] = {}
    for i, row in zip(ids.tolist(), v, strict=True):
        found[i] = found[i] + row if i in found else row
    return found


@each_backend
@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3), (50, 40), (50, 2, 3)], ids=str)
@pytest.mark.parametrize("how", ["sorted", "unsorted", "scattered", "adjacent", "all equal", "one row", "nothing"])
def test_sparse_sum(how, shape, backend, rng):
    ids = {
        "sorted": np.arange(0, 50, 3),
        "unsorted": rng.permutation(50)[:20],
        "scattered": rng.integers(0, 50, 400),
        "adjacent": np.repeat(rng.permutation(50)[:9], 5),
        "all equal": np.full(300, 7),
        "one row": np.array([49]),
        "nothing": np.array([], I64),
    }[how]
    for dtype in (np.float32, np.float64):
        for order in (ids, ids[::-1]):  # strided as well
            start = rng.standard_normal(shape).astype(dtype)
            v = rng.standard_normal((len(ids), *shape[1:])).astype(dtype)
            v *= 10 ** rng.uniform(-3, 3, v.shape).astype(dtype)
            v[rng.random(v.shape) < 0.4] = -0.0  # which only a sum that starts from the first one keeps
            start[rng.random(start.shape) < 0.4] = -0.0
            p = start.copy()
            opt = fastopt.SGD(p, lr=1.0, backend=backend)
            given = SparseGrad(order, v)
            was = frozen([order, v])
            opt.step(given)
            assert frozen([given.indices, given.values]) == was
            sums = expected_sum(order, v)
            want = start.copy()
            for i, row in sums.items():
                want[i] = start[i] - row
            assert_bits(p, want)
            assert opt.state_dict()["state"][0]["step"] == 1


@each_backend
@each_optimizer
def test_sparse_steps_touch_their_rows_alone(cls, backend, rng):
    """A touched row gets what a dense step would have given it at this step; the others stand still, state and all."""

    def by_row(k: str) -> bool:
        return k != "step" and cls.along_rows(k, (60, 5))

    p = rng.standard_normal((60, 5))
    opt = cls(p, **decay(cls, 0.1), backend=backend)
    opt.step(rng.standard_normal((60, 5)))
    for ids in (np.array([7, 3, 59, 0]), np.array([], I64), np.array([3, 8, 3])):
        before, state = p.copy(), opt.state_dict()
        rows = np.unique(ids)
        v = rng.standard_normal((len(ids), 5))
        sums = expected_sum(ids, v)
        if len(rows):
            q = p[rows].copy()
            part = cls(q, **decay(cls, 0.1), backend=backend)
            some = {k: a[rows] if by_row(k) else a for k, a in state["state"][0].items()}
            part.load_state_dict({**state, "state": {0: some}})
            part.step(np.stack([sums[i] for i in rows.tolist()]))
        opt.step(SparseGrad(ids, v))
        rest = np.setdiff1d(np.arange(60), ids)
        assert_bits(p[rest], before[rest])
        after = opt.state_dict()["state"][0]
        assert after["step"] == state["state"][0]["step"] + 1
        for k, a in after.items():
            if by_row(k):
                assert_bits(a[rest], state["state"][0][k][rest], k)
            if k != "step" and len(rows):
                assert_bits(a[rows] if by_row(k) else a, part.state_dict()["state"][0][k], k)
        if len(rows):
            assert_bits(p[rows], q)
            assert not np.array_equal(q, before[rows])


@each_backend
def test_sparse_layouts(backend, rng):
    start, v = rng.standard_normal((40, 6)).astype(np.float32), rng.standard_normal((9, 6)).astype(np.float32)
    ids = rng.permutation(40)[:9]
    want = start.copy()
    want[ids] = start[ids] - v
    forms = {
        "read-only": (read_only(ids), read_only(v)),
        "strided": (spread(ids), spread(v, 3)),
        "negative": (spread(ids, -1), spread(v, -1)),
        "F": (ids, np.asfortranarray(v)),
        "misaligned": (misaligned(ids), misaligned(v)),
        "int8": (ids.astype(np.int8), v[:]),
        "rows of a bigger one": (ids, np.vstack([v, v])[:9]),
        "padded": (ids, np.pad(v, 2)[2:-2, 2:-2]),
    }
    for name, (i, w) in forms.items():
        p = start.copy()
        for duplicates in ("sum", "none", "error"):
            p[...] = start
            fastopt.SGD(p, lr=1.0, backend=backend).step(SparseGrad(i, w, duplicates))
            assert_bits(p, want, f"{name} {duplicates}")
    p = start.copy()
    fastopt.SGD(p, lr=1.0, backend=backend).step(SparseGrad(ids, np.broadcast_to(v[0], (9, 6))))
    want[ids] = start[ids] - v[0]
    assert_bits(p, want)
    p = start.copy()
    try:  # indices of foreign byte order: right, or refused
        fastopt.SGD(p, lr=1.0, backend=backend).step(SparseGrad(ids.astype(">i8"), np.broadcast_to(v[0], (9, 6))))
    except DTypeError:
        assert_bits(p, start)
    else:
        assert_bits(p, want)


@each_backend
def test_sparse_gradient_is_read_at_the_step(backend):
    ids, v = np.array([0, 99]), np.ones((2, 2), np.float32)
    g = SparseGrad(ids, v)  # not checked yet
    p = np.zeros((4, 2), np.float32)
    opt = fastopt.SGD(p, lr=1.0, backend=backend)
    with refused(IndexRangeError, "99", opt=opt):
        opt.step(g)
    ids[1] = 3
    v[1] = -5
    opt.step(g)
    ids[:] = 1
    opt.step(g)
    assert p.tolist() == [[-1, -1], [4, 4], [0, 0], [5, 5]]


# ----------------------------------------------------------------------------------------------------- nothing is kept


@each_backend
def test_steps_and_refusals_keep_nothing(backend):
    """Neither references to the caller's arrays, nor exports of their memory, nor memory."""
    p, t = np.ones(50, np.float32), np.ones((50, 2), np.float32)
    opt = fastopt.Adam([p, t], backend=backend)
    g, strided, ids, v = np.ones(50, np.float32), spread(np.ones(50, np.float32)), np.array([3, 3, 1]), values(3, (2,))
    calls: list[tuple[Any, Any]] = [
        ([g, SparseGrad(ids, v)], None),
        ([strided, None], None),
        ([g, np.ones((50, 2), np.float32, order="F")], None),
        ([g, SparseGrad(ids + 48, v)], IndexRangeError),
        ([g, SparseGrad(ids, v[:2])], ShapeError),
        ([g, g], ShapeError),
        ([strided, p], ShapeError),
        ([p, t], OverlapError),
        ([g, 3], DTypeError),
        ([g], ShapeError),
        (g, DTypeError),
    ]

    def go() -> None:
        for grads, error in calls:
            if error is None:
                opt.step(grads)
            else:
                with pytest.raises(error):
                    opt.step(grads)
        opt.param_groups[0]["lr"] = 1e-3

    for _ in range(300):  # whatever is remembered has reached its size
        go()
    gc.collect()
    counts = [sys.getrefcount(x) for x in (p, t, g, strided, ids, v)]
    tracemalloc.start()
    try:
        grown = []
        for _ in range(3):  # Python itself grows a table now and then; what is kept at each call grows every time
            go()
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(200):
                go()
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
        assert min(grown) < 20_000, grown
    finally:
        tracemalloc.stop()
    assert [sys.getrefcount(x) for x in (p, t, g, strided, ids, v)] == counts


@each_backend
def test_a_power_beyond_all_numbers_is_told_when_its_step_comes(backend):
    p = np.ones(3)
    opt = fastopt.ASGD(p, lr=10.0, lambd=1.0, alpha=1000.0, backend=backend)
    opt.step(np.zeros(3))
    with refused(HyperParameterError, "alpha=1000", opt=opt, watch=[p]):
        opt.step(np.zeros(3))
