"""The state of an optimizer: state dicts, groups added later, opt.grads, pickle, counters, backends."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, case_id, cases
from test_arguments import BACKENDS, OPTIMIZERS, Bomb, each_backend, each_optimizer, refused, snapshot

import fastopt
from fastopt import (
    DTypeError,
    FastoptError,
    HyperParameterError,
    ShapeError,
    SparseGrad,
    StateError,
    UnsupportedError,
)

each_case = pytest.mark.parametrize("case", cases(), ids=case_id)
#: those whose parameters know nothing of each other: no common norm, no common memory
apart_cases = pytest.mark.parametrize(
    "case", [c for c in cases() if "transforms" not in c[1] and not fastopt.Optimizer.known[c[0]].memory], ids=case_id
)
plain_cases = pytest.mark.parametrize("case", cases(blocks=False), ids=case_id)

#: the states of torch's optimizers, by the options that make them exist
TORCH_STATES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("sgd", {}, set()),
    ("sgd", {"momentum": 0.9}, {"momentum_buffer"}),
    ("sgd", {"momentum": 0.9, "nesterov": True}, {"momentum_buffer"}),
    ("adagrad", {}, {"sum"}),
    ("adadelta", {}, {"square_avg", "acc_delta"}),
    ("rmsprop", {}, {"square_avg"}),
    ("rmsprop", {"momentum": 0.9}, {"square_avg", "momentum_buffer"}),
    ("rmsprop", {"centered": True}, {"square_avg", "grad_avg"}),
    ("rmsprop", {"centered": True, "momentum": 0.9}, {"square_avg", "grad_avg", "momentum_buffer"}),
    ("adam", {}, {"exp_avg", "exp_avg_sq"}),
    ("adam", {"amsgrad": True}, {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
    ("adamw", {}, {"exp_avg", "exp_avg_sq"}),
    ("rprop", {}, {"prev", "step_size"}),
]


def make(name: str = "adam", dtype: type = np.float32, backend: str = "auto", **options: Any) -> Any:
    """An optimizer of three named parameters of several shapes and orders."""
    rng = np.random.default_rng(3)
    params = {
        "a": rng.standard_normal(11).astype(dtype),
        "b": rng.standard_normal((3, 5)).astype(dtype),
        "c": np.asfortranarray(rng.standard_normal((4, 3)).astype(dtype)),
    }
    return fastopt.Optimizer.known[name](params, **options, backend=backend)


def gradients(opt: Any, k: int) -> dict[str, np.ndarray]:
    """The gradients of step k, in the layouts of the parameters."""
    rng = np.random.default_rng(100 + k)
    out = {}
    for name, p in zip(opt.state_dict()["state"], opt.param_groups[0]["params"], strict=True):
        out[name] = np.empty_like(p)
        out[name][...] = rng.standard_normal(p.shape)
    return out


def params_of(opt: Any) -> list[np.ndarray]:
    return [p for group in opt.param_groups for p in group["params"]]


def assert_same(one: Any, other: Any, parameters: bool = True) -> None:
    """The same options, counters and bits of states (and of parameters)."""
    a, b = one.state_dict(), other.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert a["step"] == b["step"]
    assert list(a["state"]) == list(b["state"])
    for key in a["state"]:
        x, y = a["state"][key], b["state"][key]
        assert x.keys() == y.keys(), key
        assert x["step"] == y["step"], key
        for k in x:
            if k != "step":
                assert_bits(x[k], y[k], f"{key} {k}")
    if parameters:
        for k, (p, q) in enumerate(zip(params_of(one), params_of(other), strict=True)):
            assert_bits(p, q, f"parameter {k}")


# ---------------------------------------------------------------------------------------------------- the state dict


@each_backend
@pytest.mark.parametrize(
    ("name", "options", "states"), TORCH_STATES, ids=lambda x: str(x) if isinstance(x, str) else ""
)
def test_names_shapes_and_steps(name, options, states, backend):
    opt = make(name, backend=backend, **options)
    late = {"momentum_buffer"} if name == "sgd" else set()
    for k in range(3):
        d = opt.state_dict()
        assert set(d) >= {"state", "param_groups"}
        assert list(d["state"]) == ["a", "b", "c"]
        for key, p in zip("abc", params_of(opt), strict=True):
            entry = d["state"][key]
            assert set(entry) == {"step"} | (states - late if k == 0 else states)
            assert type(entry["step"]) is int
            assert entry["step"] == k
            for s in entry:
                if s != "step":
                    assert type(entry[s]) is np.ndarray
                    assert entry[s].shape == p.shape
                    assert entry[s].dtype == p.dtype
        (group,) = d["param_groups"]
        assert group["params"] == ["a", "b", "c"]
        assert {**options, "lr": group["lr"]}.items() <= group.items()
        opt.step(gradients(opt, k))


def test_keys_of_arrays_lists_and_groups():
    a, b, c = (np.ones(n) for n in (2, 3, 4))
    for params, keys, groups in [
        (a, [0], [[0]]),
        ([a, b], [0, 1], [[0, 1]]),
        ([{"params": [a, b]}, {"params": c}], [0, 1, 2], [[0, 1], [2]]),
        ([{"params": {"x": a}}, {"params": {"y": b, "z": c}}], ["x", "y", "z"], [["x"], ["y", "z"]]),
    ]:
        d = fastopt.Adam(params).state_dict()
        assert list(d["state"]) == keys
        assert [g["params"] for g in d["param_groups"]] == groups


def test_order_of_parameters_is_matched_by_name():
    one = make()
    one.step(gradients(one, 0))
    p = dict(zip("abc", params_of(one), strict=True))
    other = fastopt.Adam({k: p[k].copy() for k in "cab"})
    state = one.state_dict()
    try:
        other.load_state_dict(state)
    except FastoptError:
        other.load_state_dict({**state, "param_groups": [{**state["param_groups"][0], "params": ["c", "a", "b"]}]})
    for k in "abc":
        assert_bits(other.state_dict()["state"][k]["exp_avg"], state["state"][k]["exp_avg"])


@each_backend
def test_a_state_dict_is_a_copy(backend):
    opt = make(backend=backend, amsgrad=True)
    opt.step(gradients(opt, 0))
    before, d = snapshot(opt), opt.state_dict()
    for entry in d["state"].values():
        for k in entry:
            if k != "step":
                assert not any(np.may_share_memory(entry[k], a) for a in opt._own + params_of(opt))
                entry[k][...] = 7
        entry["step"] = 99
        entry.pop("exp_avg")
    d["param_groups"][0]["lr"] = 7.0
    d["param_groups"][0]["params"].append("x")
    d["state"].pop("a")
    assert snapshot(opt) == before
    # and what was loaded is not the caller's either
    source, d = make(backend=backend, amsgrad=True), opt.state_dict()
    source.load_state_dict(d)
    before = snapshot(source)
    for entry in d["state"].values():
        entry["exp_avg"][...] = 7
    d["param_groups"][0]["betas"] = None
    assert snapshot(source) == before
    frozen = opt.state_dict()
    for entry in frozen["state"].values():
        entry["exp_avg"].flags.writeable = False
    source.load_state_dict(frozen)  # read-only arrays are fine: they are copied
    source.step(gradients(source, 1))
    again = opt.state_dict()
    opt.step(gradients(opt, 1))
    assert not np.array_equal(again["state"]["a"]["exp_avg"], opt.state_dict()["state"]["a"]["exp_avg"])


@each_backend
@each_case
def test_steps_saved_and_loaded_equal_steps(case, backend):
    """N steps, save, load into a new optimizer, M steps: the bits of N + M steps. Also across backends."""
    name, options = case
    for dtype in (np.float32, np.float64):
        through, opt = (make(name, dtype, backend, **options) for _ in range(2))
        for k in range(9):
            if k in (0, 1, 4):
                fresh = fastopt.Optimizer.known[name](
                    {n: p.copy(order="K") for n, p in zip("abc", params_of(opt), strict=True)},
                    lr=0.7,
                    transforms=options.get("transforms", ()),
                    backend=backend if k != 4 else "numpy" if backend == "native" else "auto",
                )
                d = opt.state_dict()
                fresh.load_state_dict(pickle.loads(pickle.dumps(d)) if k == 1 else d)
                assert_same(fresh, opt)
                opt = fresh
            g = gradients(through, k)
            if k in (0, 3):
                g["b"] = None
            if k == 5:
                g["b"] = SparseGrad(np.array([2, 0, 2]), g["b"][:3] * 1)
            through.step(g)
            opt.step(g)
        assert_same(through, opt)


@each_backend
def test_states_of_any_layout_are_loaded(backend):
    opt = make(backend=backend)
    opt.step(gradients(opt, 0))
    d = opt.state_dict()
    for key, entry in d["state"].items():
        a = entry["exp_avg"]
        wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)[..., ::-2]
        wide[...] = a
        entry["exp_avg"] = wide
        entry["exp_avg_sq"] = np.array(entry["exp_avg_sq"], order="F" if key == "b" else "C")
    other = make(backend=backend)
    for p, q in zip(params_of(other), params_of(opt), strict=True):
        p[...] = q
    other.load_state_dict(d)
    assert_same(other, opt)
    for k in (1, 2):
        opt.step(gradients(opt, k))
        other.step(gradients(opt, k))
    assert_same(other, opt)


@each_backend
def test_state_that_aliases_parameters_is_copied(backend):
    opt, twin = make(backend=backend), make(backend=backend)
    for o in (opt, twin):
        o.step(gradients(o, 0))
        d = o.state_dict()
        for key, p in zip("abc", params_of(o), strict=True):
            d["state"][key]["exp_avg"] = p if o is opt else p.copy()
            d["state"][key]["exp_avg_sq"] = d["state"][key]["exp_avg"] ** 2 if o is twin else p**2
        o.load_state_dict(d)
        o.step(gradients(o, 1))
    assert_same(opt, twin)


@each_backend
@plain_cases
def test_empty_and_0d_states(case, backend):
    name, options = case
    cls = fastopt.Optimizer.known[name]
    opt = cls([np.array(1.5), np.ones((0, 3)), np.ones((2, 0), np.float32)], **options, backend=backend)
    for _ in range(2):
        opt.step([np.array(2.0), np.ones((0, 3)), np.ones((2, 0), np.float32)])
    for clone in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert_same(clone, opt)
        assert [p.shape for p in params_of(clone)] == [(), (0, 3), (2, 0)]
    other = cls([p.copy() for p in params_of(opt)], backend=backend)
    other.load_state_dict(opt.state_dict())
    for o in (opt, other):
        o.step([np.array(-1.0), None, np.ones((2, 0), np.float32)])
    assert_same(opt, other)
    assert [e["step"] for e in opt.state_dict()["state"].values()] == [3, 2, 3]


def test_load_then_load_again_and_own_dict():
    opt = make()
    start = opt.state_dict()
    opt.step(gradients(opt, 0))
    one = opt.state_dict()
    opt.step(gradients(opt, 1))
    before = snapshot(opt)
    opt.load_state_dict(opt.state_dict())
    assert snapshot(opt) == before
    opt.load_state_dict(one)
    assert opt.state_dict()["state"]["a"]["step"] == 1
    opt.load_state_dict(start)
    assert opt.state_dict()["state"]["a"]["step"] == 0
    assert not opt.state_dict()["state"]["a"]["exp_avg"].any()


def change(*path: Any, to: Any) -> Callable[[dict], Any]:
    def act(d: dict) -> Any:
        at: Any = d
        for key in path[:-1]:
            at = at[key]
        if to is KeyError:
            del at[path[-1]]
        else:
            at[path[-1]] = to(at[path[-1]]) if callable(to) else to
        return d

    return act


def rename(old: str, new: str) -> Callable[[dict], Any]:
    def act(d: dict) -> Any:
        d["state"] = {new if k == old else k: v for k, v in d["state"].items()}
        d["param_groups"][0]["params"] = [new if k == old else k for k in d["param_groups"][0]["params"]]
        return d

    return act


B = ("state", "b")
MALFORMED: dict[str, tuple[Callable[[dict], Any], Any, tuple[str, ...]]] = {
    **{
        f"{bad!r}": (lambda d, bad=bad: bad, StateError, ("state",)) for bad in (None, 3, "state", [], {}, ("state", 1))
    },
    "bomb": (lambda d: Bomb(), StateError, ("state",)),
    "no state": (change("state", to=KeyError), StateError, ("'state'",)),
    "no groups": (change("param_groups", to=KeyError), StateError, ("'param_groups'",)),
    "state None": (change("state", to=None), StateError, ("state",)),
    "state list": (change("state", to=list), StateError, ("state",)),
    "state of one missing": (change(*B, to=KeyError), StateError, ("b",)),
    "state of one more": (change("state", to=lambda s: {**s, "d": s["a"]}), StateError, ("state",)),
    "state by index": (change("state", to=lambda s: dict(enumerate(s.values()))), StateError, ("state",)),
    "renamed": (rename("b", "bb"), StateError, ("b",)),
    "entry None": (change(*B, to=None), StateError, ("'b'", "dict")),
    "entry list": (change(*B, to=list), StateError, ("'b'", "dict")),
    "entry array": (change(*B, to=np.zeros(3)), StateError, ("'b'", "dict")),
    "step missing": (change(*B, "step", to=KeyError), StateError, ("'b'", "step")),
    "state array missing": (change(*B, "exp_avg", to=KeyError), StateError, ("'b'", "exp_avg")),
    "state array too much": (
        change(*B, to=lambda e: {**e, "max_exp_avg_sq": e["exp_avg"]}),
        StateError,
        ("'b'", "max_exp_avg_sq"),
    ),
    "state array None": (change(*B, "exp_avg", to=None), DTypeError, ("'b'", "exp_avg", "None")),
    "state array list": (change(*B, "exp_avg", to=np.ndarray.tolist), DTypeError, ("'b'", "exp_avg", "list")),
    "state array float": (change(*B, "exp_avg", to=0.0), DTypeError, ("'b'", "exp_avg", "float")),
    "state array bomb": (change(*B, "exp_avg", to=lambda _: Bomb()), DTypeError, ("'b'", "exp_avg")),
    "state array masked": (change(*B, "exp_avg", to=np.ma.array), DTypeError, ("'b'", "exp_avg", "masked")),
    "state array float64": (
        change(*B, "exp_avg", to=lambda a: a.astype(np.float64)),
        DTypeError,
        ("'b'", "exp_avg", "float64", "float32"),
    ),
    "state array int": (
        change(*B, "exp_avg_sq", to=lambda a: a.astype(np.int32)),
        DTypeError,
        ("'b'", "exp_avg_sq", "int32"),
    ),
    "state array foreign": (
        change(*B, "exp_avg", to=lambda a: a.astype(a.dtype.newbyteorder())),
        DTypeError,
        ("'b'", "exp_avg", "byte order"),
    ),
    "state array short": (
        change(*B, "exp_avg", to=lambda a: a[:-1]),
        ShapeError,
        ("'b'", "exp_avg", "(2, 5)", "(3, 5)"),
    ),
    "state array turned": (
        change(*B, "exp_avg_sq", to=np.transpose),
        ShapeError,
        ("'b'", "exp_avg_sq", "(5, 3)", "(3, 5)"),
    ),
    "state array flat": (change(*B, "exp_avg", to=np.ravel), ShapeError, ("'b'", "exp_avg", "(15,)", "(3, 5)")),
    "state array 0-d": (change(*B, "exp_avg", to=lambda a: np.array(0, a.dtype)), ShapeError, ("'b'", "exp_avg", "()")),
    "last state array": (change("state", "c", "exp_avg_sq", to=lambda a: a[:1]), ShapeError, ("'c'", "exp_avg_sq")),
    **{
        f"step {bad!r}": (change(*B, "step", to=lambda _, bad=bad: bad), FastoptError, ("'b'", "step"))
        for bad in (-1, 1.0, 1.5, np.float32(3), None, "1", True, np.array([1]), [1], 2**63, 2**64, 10**30, -(2**63))
    },
    **{
        f"top step {bad!r}": (change("step", to=lambda _, bad=bad: bad), FastoptError, ("step",))
        for bad in (-1, 1.5, None, "1", 2**63, 2**64, 10**30)
    },
    "groups None": (change("param_groups", to=None), StateError, ("param_groups",)),
    "groups dict": (change("param_groups", to=lambda g: g[0]), StateError, ("param_groups",)),
    "no group": (change("param_groups", to=lambda g: []), StateError, ("param_groups",)),
    "two groups": (change("param_groups", to=lambda g: g + g), StateError, ("param_groups",)),
    "group None": (change("param_groups", 0, to=None), StateError, ("group",)),
    "group without params": (change("param_groups", 0, "params", to=KeyError), StateError, ("group 0",)),
    "group params None": (change("param_groups", 0, "params", to=None), StateError, ("group 0", "'b'")),
    "group params int": (change("param_groups", 0, "params", to=3), StateError, ("group 0", "'b'")),
    "group params bomb": (change("param_groups", 0, "params", to=lambda _: Bomb()), StateError, ("group 0", "'b'")),
    "group params short": (change("param_groups", 0, "params", to=lambda p: p[:2]), StateError, ("group 0", "'b'")),
    "group params by index": (
        change("param_groups", 0, "params", to=lambda p: [0, 1, 2]),
        StateError,
        ("group 0", "'b'"),
    ),
    "unknown option": (
        change("param_groups", 0, to=lambda g: {**g, "momentum": 0.9}),
        UnsupportedError,
        ("'momentum'",),
    ),
    "bad lr": (change("param_groups", 0, "lr", to=-1.0), HyperParameterError, ("lr", "-1")),
    "bad betas": (change("param_groups", 0, "betas", to=(0.9, 1.0)), HyperParameterError, ("betas",)),
    "option without its state": (change("param_groups", 0, "amsgrad", to=True), StateError, ("max_exp_avg_sq",)),
}


@each_backend
@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_state_dict_is_refused(kind, backend):
    act, error, words = MALFORMED[kind]
    opt = make(backend=backend)
    opt.step(gradients(opt, 0))
    source = make(backend=backend, lr=0.25)
    for k in range(3):
        source.step(gradients(source, k))
    d = act(source.state_dict())
    with refused(error, *words, opt=opt):
        opt.load_state_dict(d)
    twin = make(backend=backend)
    for o in (opt, twin):
        o.step(gradients(o, 1 if o is opt else 0))
    twin.step(gradients(twin, 1))
    assert_same(opt, twin)


def test_state_of_another_optimizer_is_refused():
    for cls in OPTIMIZERS:
        opt = cls(np.ones(5))
        opt.step(np.ones(5))
        for other in OPTIMIZERS:
            if {cls, other} <= {fastopt.Adam, fastopt.AdamW} or cls is other:
                continue
            target = other(np.ones(5))
            with refused(FastoptError, opt=target):
                target.load_state_dict(opt.state_dict())


@each_backend
@each_optimizer
@pytest.mark.parametrize("step", [2**24 - 1, 2**24, 2**31 - 1, 2**31, 2**32, 2**53, 2**62])
def test_counters_are_integers_of_any_size(cls, step, backend):
    for dtype in (np.float32, np.float64):
        opt = cls(np.ones(3, dtype), backend=backend)
        d = opt.state_dict()
        d["state"][0]["step"] = d["step"] = step
        opt.load_state_dict(d)
        for _ in range(3):
            opt.step(np.ones(3, dtype))
        d = opt.state_dict()
        assert d["state"][0]["step"] == d["step"] == step + 3
        assert np.isfinite(params_of(opt)[0]).all()
        if cls in (fastopt.Adam, fastopt.AdamW):  # bias correction is over: the plain moving averages
            p, m, v = np.ones(3), 0.0, 0.0
            for _ in range(3):
                m, v = 0.9 * m + 0.1, 0.999 * v + 0.001
                p = p * (1 - 1e-3 * opt.param_groups[0]["weight_decay"]) - 1e-3 * m / (np.sqrt(v) + 1e-8)
            np.testing.assert_allclose(params_of(opt)[0], p, rtol=1e-6 if dtype == np.float32 else 1e-13)


@each_backend
@each_optimizer
@pytest.mark.parametrize("step", [2**63 - 1, 2**63 - 2, 2**63 - 300, 2**63 - 3])
def test_last_counters(cls, step, backend):
    """Steps right up to the last counter, then an error; or an error at once. Never a wrong number."""
    opt = cls(np.ones(3), lr_decay=0.5, backend=backend) if cls is fastopt.Adagrad else cls(np.ones(3), backend=backend)
    d = opt.state_dict()
    d["state"][0]["step"] = d["step"] = step
    try:
        opt.load_state_dict(d)
    except FastoptError:
        assert opt.state_dict()["step"] == 0
        return
    for k in range(5):
        before = snapshot(opt)
        try:
            opt.step(np.ones(3))
        except FastoptError:
            assert snapshot(opt) == before
        else:
            assert opt.state_dict()["step"] == opt.state_dict()["state"][0]["step"] == step + k + 1 < 2**63
    assert np.isfinite(params_of(opt)[0]).all()


@each_backend
def test_momentum_buffer_appears_with_its_first_step(backend):
    p, q = np.ones(3), np.ones(2)
    opt = fastopt.SGD([p, q], lr=0.5, momentum=0.9, dampening=0.5, backend=backend)
    assert [set(e) for e in opt.state_dict()["state"].values()] == [{"step"}, {"step"}]
    opt.step([np.ones(3), None])
    d = opt.state_dict()
    assert [set(e) for e in d["state"].values()] == [{"step", "momentum_buffer"}, {"step"}]
    assert d["state"][0]["momentum_buffer"].tolist() == [1.0] * 3  # no dampening yet
    assert d["state"][1]["step"] == 0
    again = fastopt.SGD([p.copy(), q.copy()], backend=backend)
    again.load_state_dict(d)
    for o in (opt, again):
        o.step([np.ones(3), np.ones(2)])
    assert_same(opt, again)
    d = opt.state_dict()
    assert d["state"][0]["momentum_buffer"].tolist() == [0.9 * 1 + 0.5] * 3
    assert d["state"][1]["momentum_buffer"].tolist() == [1.0] * 2
    # two parameters with equal counters, of which one has no buffer yet
    opt = fastopt.SGD([np.ones(3), np.ones(2)], momentum=0.5, dampening=0.75, backend=backend)
    for _ in range(3):
        opt.step([np.ones(3), np.ones(2)])
    d = opt.state_dict()
    assert d["state"][0]["momentum_buffer"][0] == (0.5 * 1 + 0.25) * 0.5 + 0.25
    del d["state"][1]["momentum_buffer"]
    opt.load_state_dict(d)
    opt.step([np.ones(3), np.ones(2)])
    d = opt.state_dict()
    assert d["state"][0]["momentum_buffer"].tolist() == [((0.5 * 1 + 0.25) * 0.5 + 0.25) * 0.5 + 0.25] * 3
    assert d["state"][1]["momentum_buffer"].tolist() == [1.0] * 2
    # momentum switched on later: its first step is the buffer's first, not the optimizer's
    opt = fastopt.SGD(p := np.zeros(2), lr=1.0, dampening=0.5, backend=backend)
    opt.step(np.ones(2))
    assert set(opt.state_dict()["state"][0]) == {"step"}
    opt.param_groups[0]["momentum"] = 0.5
    assert set(opt.state_dict()["state"][0]) == {"step"}
    opt.step(np.ones(2))
    assert opt.state_dict()["state"][0]["momentum_buffer"].tolist() == [1.0, 1.0]
    opt.step(np.ones(2))
    assert opt.state_dict()["state"][0]["momentum_buffer"].tolist() == [1.0, 1.0]
    assert p.tolist() == [-3.0, -3.0]


# ------------------------------------------------------------------------------------------------- groups added later


@each_backend
def test_add_param_group_of_every_form(backend):
    def fresh() -> list[np.ndarray]:
        return [np.ones(n, np.float32) for n in (2, 3, 4)]

    g = [np.full(n, n, np.float32) for n in (2, 3, 4)]
    for form in ("array", "list", "tuple", "dict"):
        a, b, c = fresh()
        named = form == "dict"
        opt = fastopt.SGD({"a": a} if named else [a], lr=1.0, momentum=0.5, backend=backend)
        opt.step({"a": g[0]} if named else [g[0]])
        if form == "array":
            opt.add_param_group({"params": b})
            opt.add_param_group({"params": c, "lr": 0.5})
        else:
            both = {"b": b, "c": c} if named else [b, c] if form == "list" else (b, c)
            opt.add_param_group({"params": both, "lr": 0.5})
        opt.step({"c": g[2], "a": g[0], "b": g[1]} if named else g)
        assert a.tolist() == [1 - 2 - 3] * 2
        assert b.tolist() == [1 - 3 if form == "array" else 1 - 1.5] * 3
        assert c.tolist() == [1 - 2] * 4
        d = opt.state_dict()
        assert [e["step"] for e in d["state"].values()] == [2, 1, 1]
        assert [x["lr"] for x in d["param_groups"]] == ([1.0, 1.0, 0.5] if form == "array" else [1.0, 0.5])
        assert all(x["momentum"] == 0.5 for x in d["param_groups"])
    single = fastopt.SGD(np.ones(2), lr=1.0, backend=backend)
    single.add_param_group({"params": np.ones(3)})
    single.step([np.ones(2), np.ones(3)])  # one flat list from now on
    with refused(FastoptError, opt=single):
        single.step(np.ones(2))


@each_backend
@plain_cases
def test_added_parameters_start_afresh(case, backend):
    """What is added after three steps goes the way of an optimizer of its own, and the old one is not disturbed."""
    name, options = case
    cls = fastopt.Optimizer.known[name]
    rng = np.random.default_rng(1)
    p, q = rng.standard_normal((2, 20))
    alone, late = cls([p.copy()], **options, backend=backend), cls([q.copy()], **options, backend=backend)
    opt = cls([p], **options, backend=backend)
    for k in range(8):
        g, h = rng.standard_normal((2, 20))
        if k == 3:
            opt.add_param_group({"params": q})
        opt.step([g, h] if k >= 3 else [g])
        alone.step([g])
        if k >= 3:
            late.step([h])
    assert_bits(p, params_of(alone)[0])
    assert_bits(q, params_of(late)[0])
    d = opt.state_dict()["state"]
    assert [d[0]["step"], d[1]["step"]] == [8, 5]
    for k, v in late.state_dict()["state"][0].items():
        if k != "step":
            assert_bits(d[1][k], v)


@each_backend
def test_refused_groups_change_nothing(backend):
    opt = make(backend=backend)
    opt.step(gradients(opt, 0))
    a, new = params_of(opt)[0], np.ones(3, np.float32)
    for bad, error in [
        (None, DTypeError),
        (3, DTypeError),
        (new, DTypeError),
        ([new], DTypeError),
        ({}, DTypeError),
        ({"lr": 0.1}, DTypeError),
        ({"d": new}, DTypeError),
        ({"params": {}}, ShapeError),
        ({"params": []}, FastoptError),
        ({"params": new}, UnsupportedError),
        ({"params": [new]}, UnsupportedError),
        ({"params": None}, FastoptError),
        ({"params": {"a": new}}, StateError),
        ({"params": {"d": new, "e": new}}, fastopt.OverlapError),
        ({"params": {"d": a}}, fastopt.OverlapError),
        ({"params": {"d": a[1:2]}}, fastopt.OverlapError),
        ({"params": {"d": [1.0]}}, DTypeError),
        ({"params": {"d": new, "e": None}}, DTypeError),
        ({"params": {3: new}}, DTypeError),
        ({"params": {"d": new}, "lr": -1}, HyperParameterError),
        ({"params": {"d": new}, "learning_rate": 1}, UnsupportedError),
        ({"params": {"d": new}, "betas": (0.9,)}, HyperParameterError),
        (Bomb(), DTypeError),
    ]:
        with refused(error, opt=opt, watch=new):
            opt.add_param_group(bad)
        opt.step(dict.fromkeys("abc"))
    opt.add_param_group({"params": {"d": new}})
    assert list(opt.state_dict()["state"]) == ["a", "b", "c", "d"]


# --------------------------------------------------------------------------------------------------------- opt.grads


@each_backend
def test_grads_have_the_structure_of_the_parameters(backend):
    a, b = np.ones(3, np.float32), np.asfortranarray(np.ones((2, 4)))
    assert isinstance(fastopt.SGD(a, backend=backend).grads, np.ndarray)
    for params in ([a, b], (a, b), [{"params": a}, {"params": [b]}]):
        grads = fastopt.SGD(params, backend=backend).grads
        assert len(grads) == 2
        for g, p in zip(grads, (a, b), strict=True):
            assert (type(g), g.shape, g.dtype, g.flags.writeable) == (np.ndarray, p.shape, p.dtype, True)
            assert not g.any()
            assert g.flags.aligned
        for act in (
            lambda s: s.__setitem__(0, a),
            lambda s: s.append(a),
            lambda s: s.__delitem__(0),
            lambda s: s.clear(),
            lambda s: s.__iadd__([a]),
        ):
            with pytest.raises((TypeError, AttributeError)):
                act(grads)
    named = fastopt.SGD({"a": a, "b": b}, backend=backend)
    grads = named.grads
    assert list(grads) == ["a", "b"]
    for act in (
        lambda s: s.__setitem__("a", a),
        lambda s: s.__setitem__("c", a),
        lambda s: s.__delitem__("a"),
        lambda s: s.clear(),
        lambda s: s.update(a=a),
        lambda s: s.pop("a"),
    ):
        with pytest.raises((TypeError, AttributeError)):
            act(grads)
    with pytest.raises(AttributeError):
        named.grads = {"a": a, "b": b}
    assert named.grads["a"] is grads["a"]


@each_backend
@each_case
def test_grads_equal_gradients_passed(case, backend):
    name, options = case
    filled, passed = (make(name, backend=backend, **options) for _ in range(2))
    own = filled.grads
    for k in range(5):
        g = gradients(passed, k)
        passed.step(g)
        for key in own:
            own[key][...] = g[key]
        filled.step()
        for key in own:
            assert_bits(own[key], g[key])  # neither zeroed nor consumed
    assert_same(filled, passed)
    passed.step(g)
    filled.step()  # the same once more
    passed.step(gradients(passed, 7))
    filled.step(gradients(passed, 7))  # passed ones do not touch them
    passed.step(g)
    filled.step(filled.grads)  # nor is it wrong to pass them
    assert_same(filled, passed)
    filled.zero_grad()
    assert not any(v.any() for v in own.values())
    assert filled.grads["a"] is own["a"]
    passed.step({k: np.zeros_like(v) for k, v in g.items()})
    filled.step()
    assert_same(filled, passed)


@each_backend
def test_step_without_gradients_needs_grads(backend):
    opt = make(backend=backend)
    opt.zero_grad()  # there are none: nothing to do
    with refused(StateError, "grads", opt=opt):
        opt.step()


@each_backend
def test_grads_outlive_groups_options_and_loads(backend):
    """Who holds an array of opt.grads must not fill it in vain after a group was added or a state loaded."""
    opt = make("sgd", backend=backend, lr=1.0)
    held = opt.grads["a"]
    held[:] = 1
    before = params_of(opt)[0].copy()
    opt.param_groups[0]["momentum"] = 0.5
    opt.load_state_dict(opt.state_dict())
    assert opt.grads["a"] is held
    opt.step()
    assert_bits(params_of(opt)[0], before - 1)
    new = np.zeros(4, np.float32)
    opt.add_param_group({"params": {"d": new}})
    assert list(opt.grads) == ["a", "b", "c", "d"]
    assert opt.grads["a"] is held
    assert (held == 1).all()
    opt.grads["d"][:] = 1
    opt.step()
    assert new.tolist() == [-1.0] * 4
    assert_bits(params_of(opt)[0], before - 1 - np.float32(1.5))


# -------------------------------------------------------------------------------------------------- pickle, deepcopy


@each_backend
@each_case
def test_pickle_and_deepcopy(case, backend):
    name, options = case
    opt = make(name, backend=backend, **options)
    opt.step({**gradients(opt, 0), "b": None})
    opt.step(gradients(opt, 1))
    for clone in (pickle.loads(pickle.dumps(opt)), pickle.loads(pickle.dumps(opt, 2)), copy.deepcopy(opt)):
        assert type(clone) is type(opt)
        assert clone.backend == opt.backend
        assert_same(clone, opt)
        for p, q in zip(params_of(clone), params_of(opt), strict=True):
            assert not np.may_share_memory(p, q)
            assert p.flags.f_contiguous == q.flags.f_contiguous
        twin = copy.deepcopy(opt)
        for k in (2, 3):
            g = gradients(opt, k)
            clone.step(g)
            twin.step(g)
        assert_same(clone, twin)
        clone.param_groups[0]["lr"] = 0.5  # still checked, still its own
        with pytest.raises(HyperParameterError):
            clone.param_groups[0]["lr"] = -1
        assert opt.param_groups[0]["lr"] != 0.5
        assert opt.state_dict()["state"]["a"]["step"] == 2


@each_backend
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_model_copied_with_its_optimizer_stays_with_it(clone, backend):
    for params in (np.zeros(5), [np.zeros(5), np.zeros((2, 3), np.float32)], {"w": np.zeros(5)}):
        opt = fastopt.SGD(params, lr=1.0, momentum=0.9, backend=backend)
        p2, opt2 = clone((params, opt))
        g = np.ones(5) if isinstance(params, np.ndarray) else {"w": np.ones(5)}
        g = [np.ones(5), np.ones((2, 3), np.float32)] if isinstance(params, list) else g
        opt2.step(g)
        first, first2 = (
            (p if isinstance(p, np.ndarray) else p[next(iter(p))] if isinstance(p, dict) else p[0])
            for p in (params, p2)
        )
        assert first2.tolist() == [-1] * 5
        assert not first.any()


def test_pickle_of_groups_settings_and_grads():
    opt = fastopt.Adam(
        [{"params": {"a": np.ones(3)}}, {"params": {"b": np.ones(2)}, "lr": 0.5}], n_threads=2, backend="numpy"
    )
    opt.grads["a"][:] = 3
    clone = pickle.loads(pickle.dumps(opt))
    assert (clone.backend, clone.n_threads) == ("numpy", 2)
    assert [g["lr"] for g in clone.param_groups] == [1e-3, 0.5]
    clone.add_param_group({"params": {"c": np.ones(1)}})
    assert clone.param_groups[2]["lr"] == 1e-3
    assert clone.grads["a"] is not opt.grads["a"]
    group = pickle.loads(pickle.dumps(opt.param_groups[1]))
    assert group["lr"] == 0.5
    g = SparseGrad(np.array([1, 2]), np.ones(2), "none")
    for twin in (copy.deepcopy(g), copy.copy(g), pickle.loads(pickle.dumps(g))):
        assert twin.duplicates == "none"
        assert twin.indices.tolist() == [1, 2]


@each_backend
def test_an_optimizer_does_not_outlive_its_last_reference(backend):
    class Held(np.ndarray):
        pass

    base = np.zeros(8).view(Held)  # plain arrays cannot be watched; the base of one can
    opt = fastopt.Adam(np.asarray(base), backend=backend)
    opt.step(np.ones(8))
    opt.param_groups[0]["lr"] = 0.1
    with pytest.raises(ShapeError):
        opt.step(np.ones(7))
    seen = [weakref.ref(opt), weakref.ref(base)]
    del opt, base
    gc.collect()
    assert [r() for r in seen] == [None, None]


# --------------------------------------------------------------------------------------------- backends and counters


def test_backend_and_environment(monkeypatch):
    from fastopt import kernels

    best = "native" if kernels.isa else "numpy"
    monkeypatch.delenv("FASTOPT_BACKEND", raising=False)
    assert fastopt.SGD(np.ones(2)).backend == best
    assert fastopt.SGD(np.ones(2), backend="numpy").backend == "numpy"
    monkeypatch.setenv("FASTOPT_BACKEND", "numpy")
    assert fastopt.SGD(np.ones(2)).backend == "numpy"
    assert fastopt.SGD(np.ones(2), backend=best).backend == best  # an argument outweighs the environment
    monkeypatch.setenv("FASTOPT_BACKEND", "auto")
    assert fastopt.SGD(np.ones(2)).backend == best
    monkeypatch.setenv("FASTOPT_BACKEND", "")  # as if it were not set
    assert fastopt.SGD(np.ones(2)).backend == best
    for bad in ("cuda", "Native", "1"):
        monkeypatch.setenv("FASTOPT_BACKEND", bad)
        with refused(HyperParameterError, "FASTOPT_BACKEND", bad, "native", "numpy"):
            fastopt.SGD(np.ones(2))
        assert fastopt.SGD(np.ones(2), backend="numpy").backend == "numpy"


def both(name: str, start: list[np.ndarray], **options: Any) -> list[Any]:
    """The same optimizer once for each backend that there is."""
    values = [b.values[0] if hasattr(b, "values") else b for b in BACKENDS]
    from fastopt import kernels

    return [
        fastopt.Optimizer.known[name]([p.copy() for p in start], **options, backend=b)
        for b in values
        if b == "numpy" or kernels.isa
    ]


@each_case
def test_counters_that_drift_apart(case):
    """Random None patterns over 300 steps, the rate changed in between: native equals NumPy, and the counters count."""
    name, options = case
    rng = np.random.default_rng(17)
    start = [rng.standard_normal(3).astype(t) for t in (np.float32, np.float64) for _ in range(6)]
    opts = both(name, start, **options)
    counts = [0] * len(start)
    g = [rng.standard_normal(3).astype(p.dtype) for p in start]
    for k in range(300):
        often = rng.random() ** 2
        now = [None if rng.random() < often else g[(k + i) % 6 + (0 if i < 6 else 6)] for i in range(len(start))]
        counts = [c + (x is not None) for c, x in zip(counts, now, strict=True)]
        for opt in opts:
            opt.step(now)
            if k in (40, 41, 150, 280):
                opt.param_groups[0]["lr"] = 1.0 / (k + 1)
    for opt in opts:
        d = opt.state_dict()
        assert [e["step"] for e in d["state"].values()] == counts
        assert d["step"] == 300
        assert_same(opt, opts[-1])


@pytest.mark.parametrize("name", ["adam", "sgd", "adagrad"])
def test_more_histories_than_the_plan_remembers(name):
    """More parameters with counters of their own than there are tables of scalars, in one step."""
    rng = np.random.default_rng(18)
    options = {"adam": {"lr": 0.1}, "sgd": {"momentum": 0.9, "dampening": 0.5}, "adagrad": {"lr_decay": 0.25}}[name]
    start = [rng.standard_normal(2).astype(t) for t in (np.float32, np.float64) for _ in range(80)]
    opts = both(name, start, **options)
    g = [rng.standard_normal(2).astype(p.dtype) for p in start]
    for k in range(80):  # parameter i takes part from step i % 80 on: then all counters differ
        for opt in opts:
            opt.step([x if i % 80 <= k else None for i, x in enumerate(g)])
    for k in range(12):
        for opt in opts:
            opt.step(g if k % 3 else g[:100] + [None] * 60)
    for opt in opts:
        assert_same(opt, opts[-1])


@apart_cases
def test_a_parameter_that_skips_is_not_disturbed_by_others(case):
    """Each parameter goes the way it would have gone alone, whatever the others skip."""
    name, options = case
    rng = np.random.default_rng(19)
    start = [rng.standard_normal(5) for _ in range(4)]
    for opt in both(name, start, **options):
        alone = [fastopt.Optimizer.known[name](p.copy(), **options, backend=opt.backend) for p in start]
        for _ in range(40):
            g = [rng.standard_normal(5) if rng.random() < 0.6 else None for _ in start]
            opt.step(g)
            for o, x in zip(alone, g, strict=True):
                if x is not None:
                    o.step(x)
        for k, o in enumerate(alone):
            assert_bits(params_of(opt)[k], params_of(o)[0])
            for s, v in o.state_dict()["state"][0].items():
                if s == "step":
                    assert opt.state_dict()["state"][k]["step"] == v
                else:
                    assert_bits(opt.state_dict()["state"][k][s], v)


EDITS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {"momentum": 0.9},
        {"dampening": 0.5, "nesterov": False},
        {"dampening": 0.0, "nesterov": True, "momentum": 0.75},
        {"nesterov": False, "momentum": 0.0},
        {"momentum": 0.5, "dampening": 0.25},
    ],
    "adagrad": [{"lr_decay": 0.5}, {"eps": 0.0}, {"lr_decay": 0.0}],
    "adadelta": [{"rho": 0.25}, {"eps": 1e-3}, {"rho": 0.0}],
    "rmsprop": [
        {"centered": True},
        {"momentum": 0.9},
        {"alpha": 0.5},
        {"centered": False, "momentum": 0.0},
        {"centered": True},
    ],
    "adam": [{"amsgrad": True}, {"betas": (0.5, 0.75)}, {"eps_form": "hat"}, {"amsgrad": False}, {"betas": (0.0, 0.0)}],
    "adamw": [{"amsgrad": True}, {"weight_decay": 0.0}, {"weight_decay": 0.5}],
    "asgd": [{"lambd": 0.1}, {"t0": 3}, {"alpha": 0.5}],
    "lion": [{"betas": (0.5, 0.75)}, {"betas": (0.0, 0.0)}],
    "signum": [{"momentum": 0.5}, {"momentum": 0.0}],
    "adan": [{"no_prox": True}, {"betas": (0.5, 0.25, 0.75)}, {"eps": 0.0}, {"no_prox": False}],
    "rowwiseadagrad": [{"eps": 0.0}, {"eps": 1e-3}],
    "sm3": [{"momentum": 0.9}, {"eps": 1e-3}, {"momentum": 0.0}, {"momentum": 0.5}],
    "adafactor": [{"eps_form": "inside", "eps": (1e-30, 1e-2)}, {"d": 2.0, "beta2_decay": -0.5}],
}


@pytest.mark.parametrize("name", EDITS)
def test_options_changed_in_mid_run_are_equal_between_backends(name):
    offered = inspect.signature(fastopt.Optimizer.known[name]).parameters
    rng = np.random.default_rng(23)
    start = [rng.standard_normal(7).astype(t) for t in (np.float32, np.float64, np.float32)]
    opts = both(name, start)
    shared: list[dict[str, Any]] = [
        {"lr": 0.25},
        {"weight_decay": 0.125},
        {"maximize": True},
        *([{"decoupled_weight_decay": True}] if "decoupled_weight_decay" in offered else []),
        {"lr": 0.0},
        {"lr": 0.5, "weight_decay": 0.0, "maximize": False},
    ]
    for edit in [*EDITS[name], *shared, *reversed(EDITS[name])]:
        for k in range(3):
            g = [None if rng.random() < 0.3 else rng.standard_normal(p.shape).astype(p.dtype) for p in start]
            for opt in opts:
                before = params_of(opt)[1].copy()
                opt.step(g)
                if g[1] is not None and opt.param_groups[0]["lr"] and k:
                    assert not np.array_equal(params_of(opt)[1], before)
        g = [rng.standard_normal(p.shape).astype(p.dtype) for p in start]
        for opt in opts:
            old = opt.state_dict()
            opt.param_groups[0].update(edit)
            assert edit.items() <= opt.param_groups[0].items()
            new = opt.state_dict()
            assert new["step"] == old["step"]
            for i in range(len(start)):
                x, y = old["state"][i], new["state"][i]
                assert x["step"] == y["step"]
                for k in x.keys() & y.keys() - {"step"}:  # what both options have stays
                    assert_bits(x[k], y[k])
            clone = copy.deepcopy(opt)  # and what was saved in between goes on the same way
            clone.step(g)
            opt.step(g)
            assert_same(clone, opt)
        for opt in opts:
            assert_same(opt, opts[-1])


SPACE: dict[str, dict[str, list[Any]]] = {
    "sgd": {"momentum": [0.0, 0.5, 0.9], "dampening": [0.0, 0.5, 1.0], "nesterov": [False, True]},
    "adagrad": {"lr_decay": [0.0, 0.1], "eps": [0.0, 1e-10]},
    "adadelta": {"rho": [0.0, 0.5, 0.9], "eps": [0.0, 1e-6]},
    "rmsprop": {"alpha": [0.0, 0.9], "centered": [False, True], "momentum": [0.0, 0.9], "eps": [0.0, 1e-8]},
    "adam": {"betas": [(0.9, 0.999), (0.0, 0.0), (0.5, 0.9)], "amsgrad": [False, True], "eps_form": ["outside", "hat"]},
    "adamw": {"betas": [(0.9, 0.999), (0.5, 0.5)], "amsgrad": [False, True]},
    "asgd": {"lambd": [0.0, 0.1], "t0": [0, 3, 1e6], "alpha": [0.0, 0.75]},
    "lion": {"betas": [(0.9, 0.99), (0.0, 0.0), (0.5, 0.9)]},
    "signum": {"momentum": [0.0, 0.9]},
    "adan": {"betas": [(0.98, 0.92, 0.99), (0.0, 0.5, 0.0)], "no_prox": [False, True], "eps": [0.0, 1e-8]},
    "rowwiseadagrad": {"eps": [0.0, 1e-8]},
    "sm3": {"momentum": [0.0, 0.9], "eps": [0.0, 1e-8]},
    "adafactor": {"eps": [(None, 1e-3), (0.0, 0.0)], "eps_form": ["outside", "inside"], "beta2_decay": [0.0, -0.8]},
}
ANY: dict[str, list[Any]] = {
    "lr": [0.0, 1e-3, 1.0],
    "weight_decay": [0.0, 0.1],
    "maximize": [False, True],
    "decoupled_weight_decay": [False, True],
}
ODD_SHAPES = [(), (0,), (1,), (7,), (3, 4), (4, 1), (2, 3, 2), (0, 3), (3, 0), (17, 20), (300,)]


@needs_native
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", SPACE)
def test_random_lives(name, seed, forced):
    """Anything in any order: steps of all kinds, edits, refusals, saves, clones, new groups. Native equals NumPy."""
    rng = np.random.default_rng([seed, len(name)])

    def pick(choices: list[Any]) -> Any:
        return choices[rng.integers(len(choices))]

    def array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.array(rng.standard_normal(shape), dtype, order=pick(["C", "F"]))

    def gradient(p: np.ndarray) -> Any:
        kind = rng.random()
        if kind < 0.25:
            return None
        if kind < 0.5 and p.ndim and p.flags.c_contiguous:
            n = rng.integers(6) if len(p) else 0
            ids = rng.integers(len(p), size=n) if n else np.zeros(0, np.int64)
            return SparseGrad(ids, array((n, *p.shape[1:]), p.dtype))
        g = array(p.shape, p.dtype)
        return g if kind < 0.9 else np.full_like(g, pick([0.0, -0.0, np.inf, np.nan, 1e-40]))

    start = [array(pick(ODD_SHAPES), pick([np.float32, np.float64])) for _ in range(rng.integers(1, 6))]
    opts = both(name, start)
    for _ in range(60):
        act = pick(["step"] * 8 + ["edit"] * 2 + ["save", "clone", "add", "own", "refuse"])
        if act == "step":
            g = [gradient(p) for p in params_of(opts[0])]
            for opt, chunk in zip(opts, (pick([0, 3]), 0), strict=True):
                forced(2 if chunk else 0, chunk)
                opt.step(g)
        elif act == "edit":
            space = {**SPACE[name], **ANY}
            key, q, fine = pick(list(space)), rng.integers(len(opts[0].param_groups)), []
            value = pick(space[key])
            for opt in opts:
                try:
                    opt.param_groups[q][key] = value
                except (HyperParameterError, UnsupportedError):  # some decays cannot be chosen
                    fine.append(False)
                else:
                    fine.append(True)
            assert fine[0] == fine[1]
        elif act == "save":
            for opt, d in zip(opts, [opt.state_dict() for opt in reversed(opts)], strict=True):
                opt.load_state_dict(d)
        elif act == "clone":
            opts = [pick([copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])(opt) for opt in opts]
        elif act == "add" and len(params_of(opts[0])) < 10:
            a = array(pick(ODD_SHAPES), np.float32)
            for opt in opts:
                opt.add_param_group({"params": [a.copy(order="K")], "lr": 0.25})
        elif act == "own":
            g = [array(p.shape, p.dtype) for p in params_of(opts[0])]
            for opt in opts:
                for mine, x in zip(opt.grads, g, strict=True):
                    mine[...] = x
                opt.step()
        elif act == "refuse":
            g = [np.ones_like(p) for p in params_of(opts[0])]
            g[rng.integers(len(g))] = pick([1, "x", np.ones((9, 9, 9)), np.ones(3, int)])
            for opt in opts:
                with refused(FastoptError, opt=opt):
                    opt.step(g)
        assert_same(*opts)


@each_backend
@plain_cases
def test_a_changed_rate_is_the_rate_of_a_new_optimizer(case, backend):
    """After load_state_dict with another rate an optimizer does what one made with that rate does."""
    name, options = case
    opt = make(name, backend=backend, **options)
    for k in range(3):
        opt.step(gradients(opt, k))
    d = opt.state_dict()
    d["param_groups"][0]["lr"] = 0.375
    other = make(name, backend=backend, **{**options, "lr": 0.375})
    for p, q in zip(params_of(other), params_of(opt), strict=True):
        p[...] = q
    other.load_state_dict(d)
    opt.param_groups[0]["lr"] = 0.375
    for k in range(3, 6):
        opt.step(gradients(opt, k))
        other.step(gradients(opt, k))
    assert_same(opt, other)


@each_backend
def test_repr_names_class_groups_and_options(backend):
    text = repr(fastopt.Adam([{"params": np.ones(2)}, {"params": np.ones(3), "lr": 0.125}], backend=backend))
    for word in ("Adam", "lr=0.001", "lr=0.125", "betas=(0.9, 0.999)", backend):
        assert word in text
