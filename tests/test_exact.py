"""Promise 4: with sparse="exact" a sparse step gives what the dense step would have given; and rates that are callables."""

from __future__ import annotations

import copy
import itertools
import math
import operator
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, case_id, cases, has_exact_form, native_builds
from test_arguments import each_backend, each_optimizer
from test_bits import odd_gradient

import fastopt
from fastopt import (
    DTypeError,
    FastoptError,
    HyperParameterError,
    IndexRangeError,
    ShapeError,
    SparseGrad,
    UnsupportedError,
)

Array = np.ndarray
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
#: states that gradients of opposite signs cancel in; the others are sums of squares
SIGNED = {"momentum_buffer", "exp_avg", "grad_avg", "exp_avg_diff", "previous_grad", "prev", "ax", "linear", "z"}
SIGNED |= {"sum_grad", "grad_sum", "seen"}
#: rates that move every optimizer by amounts worth comparing
RATES = {"sgd": 0.05, "adagrad": 0.1, "adadelta": 1.0, "rmsprop": 0.01, "adam": 0.02, "adamw": 0.02, "rprop": 0.01}
RATES |= {"asgd": 0.05, "lion": 0.01, "signsgd": 0.01, "signum": 0.01, "adan": 0.02, "ftrl": 0.1, "cocob": 1.0}
RATES |= {"lamb": 0.02, "lars": 1.0, "prodigy": 1.0, "yellowfin": 1.0}
RATES |= {"adaptiverevision": 0.1, "schedulefreesgd": 0.05, "schedulefreeadamw": 0.02}
RATES |= dict.fromkeys(["adopt", "adamax", "nadam", "radam", "adabelief", "yogi", "qhadam"], 0.02)
RATES |= dict.fromkeys(["rowwiseadagrad", "sm3", "adafactor"], 0.1)
#: those whose step depends on the rates of all steps before it: a rate told by hand is another course
LOOKING_BACK = {"schedulefreesgd", "schedulefreeadamw"}
#: pairs of decay factors, beta1 below the root of beta2
BETAS = [(0.9, 0.999), (0.9, 0.95), (0.95, 0.999), (0.8, 0.7), (0.9, 0.9)]


EXACT = [case for case in cases(whole=False) if has_exact_form(case)]
each_exact_case = pytest.mark.parametrize("case", EXACT, ids=case_id)


# ------------------------------------------------------------------------------------------------ gradients and rates


@dataclass(frozen=True)
class Touch:
    """The gradient of some rows, as float64 whose sums over repeated rows are exact in float32 too."""

    rows: Array
    values: Array

    def sparse(self, dtype: Any) -> SparseGrad:
        return SparseGrad(self.rows, self.values.astype(dtype))

    def dense(self, shape: tuple[int, ...], dtype: Any) -> Array:
        g = np.zeros(shape)
        np.add.at(g, self.rows, self.values)
        return g.astype(dtype)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], spread: int = 3) -> Array:
    """Numbers of few bits, some of them 0, the rows of magnitudes 2**-spread to 2**spread."""
    scale = 2.0 ** rng.integers(-spread, spread + 1, (*shape[:1], *[1] * (len(shape) - 1)))
    return rng.integers(-256, 257, shape) / 256 * scale


def touch(rng: np.random.Generator, shape: tuple[int, ...], most: int, spread: int = 3) -> Touch:
    """A gradient of 0 to `most` rows; every second one repeats some."""
    rows = rng.integers(0, shape[0], rng.integers(0, most + 1))
    if len(rows) > 1 and rng.random() < 0.5:
        rows[rng.integers(0, len(rows))] = rows[0]
    return Touch(rows, numbers(rng, (len(rows), *shape[1:]), spread))


def schedule(base: float, pause: float = 0.0) -> Callable[[int], float]:
    """Warm-up, cosine with restarts, and a step in between whose rate is exactly 0."""

    def rate(t: int) -> float:
        if t % 37 == 5:
            return pause
        return base * min(1.0, (t + 1) / 20) * (1 + math.cos(math.pi * (t % 60) / 60)) / 2

    return rate


def usual_schedule(name: str) -> Callable[[int], float]:
    """A schedule of the rates that suit an optimizer; FTRL divides by it."""
    return schedule(RATES[name], 1e-4 if name == "ftrl" else 0.0)


# ------------------------------------------------------------------------------------------------------ comparisons


def assert_near(got: Array, want: Array, bound: Any, what: str) -> None:
    """Every element of `got` is within `bound` of `want`; NaN is near nothing."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape} instead of {want.shape}"
    bound = np.broadcast_to(bound, want.shape)
    error = np.abs(got - want)
    bad = ~(error <= bound)
    if bad.any():
        ratio = np.where(np.isnan(error), np.inf, error) / np.maximum(bound, 5e-324)
        at = np.unravel_index(int(np.argmax(ratio)), want.shape)
        place = tuple(int(k) for k in at)
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {want.size} beyond the bound, worst at {place}: got {got[at]!r}, "
            f"want {want[at]!r}, error {error[at]:.3g}, bound {bound[at]:.3g}"
        )


def row_scale(a: Array) -> Array:
    """The largest magnitude of each row, to be broadcast against `a`."""
    return np.abs(a).max(axis=tuple(range(1, a.ndim)), keepdims=True) if a.size else np.abs(a)


def bound64(p: Array, relative: float = 1e-12) -> Array:
    return relative * np.maximum(1.0, np.abs(p))


def assert_states64(got: Mapping[Any, Any], want: Mapping[Any, Any], what: str, relative: float = 1e-11) -> None:
    """The "state" of two state dicts: the same keys and steps, and every array near."""
    assert list(got) == list(want), what
    for key in want:
        assert got[key].keys() == want[key].keys(), f"{what}: states of {key!r}"
        assert got[key]["step"] == want[key]["step"], f"{what}: step of {key!r}"
        for name in want[key].keys() - {"step"}:
            b = want[key][name]
            scale = row_scale(b) if name in SIGNED else np.abs(b)
            assert_near(got[key][name], b, relative * scale + 1e-300, f"{what}: {name} of {key!r}")


def assert_float32(got: Array, dense: Array, want: Array, what: str) -> None:
    """Float32 `got` is as near to the float64 `want` as 4 ulp, or as twice the error of the dense float32 step."""
    twice = 2 * float(np.abs(dense.astype(np.float64) - want).max(initial=0.0))
    four_ulp = 4 * np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    assert_near(got, want, np.maximum(four_ulp, twice), f"{what} (twice the error of dense float32: {twice:.3g})")


def assert_states32(got: Mapping[str, Any], dense: Mapping[str, Any], want: Mapping[str, Any], what: str) -> None:
    """As `assert_float32`, for the states of one parameter, each row relative to its largest element."""
    assert got.keys() == want.keys(), what
    for name in want.keys() - {"step"}:
        scale = np.maximum(row_scale(want[name]), 1e-30)
        twice = 2 * float((np.abs(dense[name] - want[name]) / scale).max(initial=0.0))
        bound = np.maximum(4 * float(np.finfo(np.float32).eps), twice) * scale
        assert_near(
            got[name], want[name], bound, f"{what}: {name} (twice the dense error: {twice:.3g} of a row's scale)"
        )


# ----------------------------------------------------------------------- exact and dense optimizers on the same course


@dataclass
class Side:
    """An optimizer of named parameters and what they are called."""

    cls: type
    params: dict[str, Array]
    exact: bool
    backend: str
    options: dict[str, Any] = field(default_factory=dict)
    opt: Any = None

    def __post_init__(self) -> None:
        mode = {"sparse": "exact"} if self.exact else {}
        self.opt = self.cls(self.params, **self.options, **mode, backend=self.backend)

    def step(self, grads: Mapping[str, Any], own: bool = False) -> None:
        """A step of `Touch`, arrays and None; `own`: through opt.grads, where all are arrays."""
        given = {}
        for key, p in self.params.items():
            g = grads[key]
            if isinstance(g, Touch):
                g = g.sparse(p.dtype) if self.exact else g.dense(p.shape, p.dtype)
            elif g is not None:
                g = g.astype(p.dtype)
            given[key] = g
        if own:
            for key, g in given.items():
                self.opt.grads[key][...] = g
            self.opt.step()
        else:
            self.opt.step(given)

    def set(self, q: int = 0, **options: Any) -> None:
        self.opt.param_groups[q].update(options)

    def add(self, name: str, a: Array, **options: Any) -> None:
        self.params[name] = a.copy()
        self.opt.add_param_group({"params": {name: self.params[name]}, **options})


SHAPES = {"elements": (50,), "rows": (40, 3), "blocks": (12, 2, 3)}
Event = Callable[[Side], Any]


def course(
    sides: Sequence[Side],
    steps: int,
    seed: int = 0,
    events: Mapping[int, Event] | None = None,
    kinds: str = "ssssssssedn",
    most: int = 4,
) -> None:
    """Let every side make the same random steps: sparse, empty sparse, dense, None; and meet the same events."""
    rng = np.random.default_rng(seed)
    for t in range(steps):
        for side in sides:
            if t in (events or {}):
                events[t](side)
        grads: dict[str, Any] = {}
        for key, p in sides[0].params.items():
            kind = kinds[rng.integers(0, len(kinds))]
            if kind in "se":
                grads[key] = touch(rng, p.shape, most if kind == "s" else 0)
            else:
                grads[key] = numbers(rng, p.shape) if kind == "d" else None
        own = all(isinstance(g, np.ndarray) for g in grads.values())
        for side in sides:
            side.step(grads, own)


def two_sides(
    name: str,
    options: dict[str, Any],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dtype: Any = np.float64,
    backend: str = "native",
) -> tuple[Side, Side]:
    """An exact optimizer, and the dense reference that starts from the same values."""
    rng = np.random.default_rng(11)
    start = {k: numbers(rng, s).astype(dtype) for k, s in (shapes or SHAPES).items()}
    cls = fastopt.Optimizer.known[name]
    options = {"lr": RATES[name], **options}
    return tuple(
        Side(cls, {k: p.copy() for k, p in start.items()}, exact, b, options)
        for exact, b in ((True, backend), (False, "numpy"))
    )


def assert_equal_after_flush(exact: Side, dense: Side, what: str = "") -> None:
    exact.opt.flush()
    for key, p in dense.params.items():
        assert_near(exact.params[key], p, bound64(p), f"{what}: parameter {key!r}")
    got, want = exact.opt.state_dict(), dense.opt.state_dict()
    assert got["step"] == want["step"]
    assert_states64(got["state"], want["state"], what)


# ------------------------------------------------------------------------------------- 1. the course of a sparse table

TABLE, COURSE = (1000, 8), 200


@pytest.fixture(scope="module")
def table_course() -> tuple[Array, list[Touch], list[Array]]:
    """Start, gradients of 1 % of the rows a step, and the same as arrays."""
    rng = np.random.default_rng(1)
    touches = [touch(rng, TABLE, 20) for _ in range(COURSE)]
    return numbers(rng, TABLE), touches, [g.dense(TABLE, np.float64) for g in touches]


def run_table(
    case: tuple[str, dict[str, Any]], course: Any, dtype: Any, exact: bool, backend: str
) -> tuple[Array, dict[str, Any]]:
    """Parameter and states after the course. The dense step is told every rate by hand, the exact one the schedule."""
    start, touches, grads = course
    rate = usual_schedule(case[0])
    p = start.astype(dtype)
    by_hand = not exact and case[0] not in LOOKING_BACK
    mode = {"sparse": "exact" if exact else "lazy", "lr": rate(0) if by_hand else rate}
    opt = fastopt.Optimizer.known[case[0]](p, **{**case[1], **mode}, backend=backend)
    for t in range(COURSE):
        if by_hand:
            opt.param_groups[0]["lr"] = rate(t)
        opt.step(touches[t].sparse(dtype) if exact else grads[t].astype(dtype))
    if exact:
        opt.flush()
    state = opt.state_dict()
    assert state["step"] == state["state"][0]["step"] == COURSE
    return p, state["state"]


@needs_native
@each_exact_case
def test_equals_the_dense_course(case, table_course):
    p64, s64 = run_table(case, table_course, np.float64, False, "numpy")
    got, states = run_table(case, table_course, np.float64, True, "native")
    assert_near(got, p64, bound64(p64), f"{case_id(case)} float64")
    assert_states64(states, s64, f"{case_id(case)} float64")
    dense, dense_states = run_table(case, table_course, np.float32, False, "native")
    got, states = run_table(case, table_course, np.float32, True, "native")
    assert_float32(got, dense, p64, f"{case_id(case)} float32")
    assert_states32(states[0], dense_states[0], s64[0], f"{case_id(case)} float32")


@each_dtype
@pytest.mark.parametrize("case", [c for c in EXACT if not c[1].get("maximize")], ids=case_id)
def test_reference_is_the_dense_step(case, dtype):
    """With the NumPy backend: bit for bit, as SparseGrads, arrays and None come."""
    exact, dense = two_sides(*case, dtype=dtype, backend="numpy")
    course((exact, dense), 25)
    exact.opt.flush()
    for key, p in dense.params.items():
        assert_bits(exact.params[key], p, f"{case_id(case)} {key}")
    got, want = exact.opt.state_dict(), dense.opt.state_dict()
    for key, entry in want["state"].items():
        for name in entry.keys() - {"step"}:
            assert_bits(got["state"][key][name], entry[name], f"{case_id(case)} {key} {name}")


# --------------------------------------------------------------------------------------- 2. every row touched: the bits


@needs_native
@each_dtype
@each_exact_case
def test_every_row_touched_is_the_dense_step(case, dtype, forced, use_build, rng):
    cls = fastopt.Optimizer.known[case[0]]
    shapes = [(1,), (257,), (130, 1), (41, 17), (5, 7, 11), (3, 1030), (0, 4)]
    start = [rng.standard_normal(s).astype(dtype) for s in shapes]
    rate = usual_schedule(case[0])
    runs: dict[Any, Any] = {}

    def add(key: Any, backend: str, lr: Any, **mode: Any) -> None:
        params = [p.copy() for p in start]
        runs[key] = params, cls(params, **{**case[1], "lr": lr}, backend=backend, **mode)

    by_hand = case[0] not in LOOKING_BACK
    add(("dense", "numpy", 1), "numpy", rate(0) if by_hand else rate)
    add(("dense", "native", 2), "native", rate(0) if by_hand else rate)
    builds = native_builds()
    for isa, threads in [(builds[0], 1), *itertools.product(builds, [2])]:
        use_build(isa)
        add(("exact", isa, threads), "native", rate, sparse="exact")
    for t in range(4):
        grads = [odd_gradient(rng, p.ravel(), special=True).reshape(p.shape) for p in start]
        order = [rng.permutation(len(p)) for p in start]
        sparse = [SparseGrad(o, g[o]) for o, g in zip(order, grads, strict=True)]
        for (kind, _, threads), (_, opt) in runs.items():
            forced(threads, 5)
            if kind == "dense" and by_hand:
                opt.param_groups[0]["lr"] = rate(t)
            opt.step(grads if kind == "dense" else sparse)
    want, reference = runs["dense", "numpy", 1]
    states = reference.state_dict()["state"]
    for key, (params, opt) in runs.items():
        for flushed in (False, True):
            for i, p in enumerate(params):
                assert_bits(p, want[i], f"{key} {shapes[i]} flushed={flushed}")
            if key[0] == "exact":
                opt.flush()
        for i, entry in opt.state_dict()["state"].items():
            for name in entry.keys() - {"step"}:
                assert_bits(entry[name], states[i][name], f"{key} {shapes[i]} {name}")


# --------------------------------------------------------------------------------------------------- 3. abandoned rows

#: after how many steps a row that was touched in the first ones is read again: row i after GAPS[i]
GAPS = [0, 1, 2, 10, 100, 1000, 10_000, 100_000]
LEAD = 7  # steps in which every row is touched
WIDTH = 3

ADAMS: list[dict[str, Any]] = [
    {"betas": (0.9, 0.999), "eps": 1e-8},
    {"betas": (0.9, 0.95), "eps": 1e-8},
    {"betas": (0.95, 0.999), "eps": 1e-8},
    {"betas": (0.5, 0.9), "eps": 1e-8},
    {"betas": (0.0, 0.9), "eps": 1e-8},
    {"betas": (0.9, 0.9), "eps": 1e-3},
    {"betas": (0.9, 0.999), "eps": 0.0, "eps_form": "hat"},
    {"betas": (0.9, 0.95), "eps": 1e-2, "eps_form": "hat"},
    {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-3, "decoupled_weight_decay": True},
    {"betas": (0.95, 0.999), "eps": 1e-3, "weight_decay": 1e-2, "decoupled_weight_decay": True},
    {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": True},
    {"betas": (0.99, 0.95), "eps": 1e-3, "amsgrad": True, "weight_decay": 1e-3, "decoupled_weight_decay": True},
]
SGDS: list[dict[str, Any]] = [
    {"momentum": 0.9},
    {"momentum": 0.99, "nesterov": True},
    {"momentum": 0.0, "weight_decay": 1e-3},
    {"momentum": 0.0, "weight_decay": 1e-3, "decoupled_weight_decay": True},
    {"momentum": 0.9, "weight_decay": 1e-3},
    {"momentum": 0.9, "weight_decay": 1e-2, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 1e-2, "dampening": 0.5},
    {"momentum": 0.9, "weight_decay": 1e-3, "decoupled_weight_decay": True},
]


def column(configs: Sequence[Mapping[str, Any]], pick: Callable[[Mapping[str, Any]], Any], dtype: Any) -> Array:
    """One number of each setting, rounded once to `dtype`, to be broadcast against (setting, row, column)."""
    return np.array([float(pick(c)) for c in configs]).astype(dtype)[:, None, None]


def adam_law(configs: Sequence[Mapping[str, Any]], dtype: Any) -> Callable[..., None]:
    """A step of every setting at once, written apart from the library: (t, rate, p, g, states)."""
    tiny = float(np.finfo(dtype).tiny)
    beta1, beta2 = (np.array([c["betas"][k] for c in configs])[:, None, None] for k in (0, 1))
    keep1, take1 = beta1.astype(dtype), (1 - beta1).astype(dtype)
    keep2, take2 = beta2.astype(dtype), (1 - beta2).astype(dtype)
    eps = column(configs, lambda c: max(c["eps"], tiny), dtype)
    hat = column(configs, lambda c: c.get("eps_form") == "hat", bool)
    ams = column(configs, lambda c: c.get("amsgrad", False), bool)
    decay = column(configs, lambda c: c.get("weight_decay", 0.0), np.float64)

    def step(t: int, rate: float, p: Array, g: Any, states: list[Array]) -> None:
        m, v, w = states
        root, bc1 = np.sqrt(1 - beta2**t), 1 - beta1**t
        h = np.where(hat, rate * root / bc1, rate / bc1).astype(dtype)
        scale = np.where(hat, 1.0, 1 / root).astype(dtype)
        m *= keep1
        v *= keep2
        if g is not None:
            m += take1 * g
            v += take2 * (g * g)
        np.maximum(w, v, out=w)
        p *= (1 - rate * decay).astype(dtype)
        p -= h * (m / (np.sqrt(np.where(ams, w, v)) * scale + eps))

    return step


def sgd_law(configs: Sequence[Mapping[str, Any]], dtype: Any) -> Callable[..., None]:
    mu = column(configs, lambda c: c["momentum"], dtype)
    first = np.ones_like(mu)
    later = column(configs, lambda c: 1 - c.get("dampening", 0.0) if c["momentum"] else 1.0, dtype)
    nesterov = column(configs, lambda c: c.get("nesterov", False), bool)
    coupled = column(configs, lambda c: 0 if c.get("decoupled_weight_decay") else c.get("weight_decay", 0.0), dtype)
    decay = column(
        configs, lambda c: c.get("weight_decay", 0.0) if c.get("decoupled_weight_decay") else 0.0, np.float64
    )

    def step(t: int, rate: float, p: Array, g: Any, states: list[Array]) -> None:
        b = states[0]
        d = coupled * p if g is None else g + coupled * p
        b *= mu
        b += (first if t == 1 else later) * d
        p *= (1 - rate * decay).astype(dtype)
        p -= dtype(rate) * np.where(nesterov, d + mu * b, b)

    return step


def lead_gradients(configs: Sequence[Any]) -> Array:
    rng = np.random.default_rng(8)
    return numbers(rng, (LEAD * len(configs) * len(GAPS), WIDTH)).reshape(LEAD, len(configs), len(GAPS), WIDTH)


def abandoned_by_law(
    law: Any, configs: Any, start: Array, rates: Sequence[float], longest: int, dtype: Any
) -> dict[int, Array]:
    """The parameters after every gap up to `longest`, row by row as if none were touched again."""
    p, states = start.astype(dtype), [np.zeros(start.shape, dtype) for _ in range(3)]
    step, lead, seen = law(configs, dtype), lead_gradients(configs).astype(dtype), {}
    with np.errstate(all="ignore"):
        for t in range(LEAD + longest + 1):
            if t - LEAD in GAPS:
                seen[t - LEAD] = p.astype(np.float64)
            step(t + 1, rates[t], p, lead[t] if t < LEAD else None, states)
    return seen


def abandoned_by_exact(
    cls: type, configs: Any, start: Array, rates: Sequence[float], longest: int, dtype: Any
) -> dict[int, Array]:
    """What the exact optimizer reads of row i after GAPS[i], and of all rows in the end; a group for each setting."""
    params = [p.astype(dtype) for p in start]
    groups = [{"params": [p], **c} for p, c in zip(params, configs, strict=True)]
    opt = cls(groups, lr=rates.__getitem__, sparse="exact", backend="native")
    every, ones = np.arange(len(GAPS)), np.ones((1, WIDTH), dtype)
    other = [SparseGrad(np.array([0]), ones)] * len(params)
    seen = {}
    for g in lead_gradients(configs).astype(dtype):
        opt.step([SparseGrad(every, x) for x in g])
    for t in range(longest + 1):
        if t in GAPS:
            row = GAPS.index(t)
            seen[t] = np.stack([opt.read(i, np.array([row]))[0] for i in range(len(params))])
        if t == longest:
            opt.flush()
            seen[-1] = np.stack(params)
        opt.step(other)
    return seen


@needs_native
@pytest.mark.parametrize(
    ("changing", "longest", "dtype"),
    [
        (True, GAPS[-1], np.float64),
        (False, 10_000, np.float64),
        (True, 10_000, np.float32),
        (False, 1000, np.float32),
    ],
    ids=["schedule-float64", "constant-float64", "schedule-float32", "constant-float32"],
)
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_rows_abandoned_for_long(name, changing, longest, dtype):
    cls, law, configs = {"adam": (fastopt.Adam, adam_law, ADAMS), "sgd": (fastopt.SGD, sgd_law, SGDS)}[name]
    base = 0.01
    rates = [base * (1 + math.cos(t * 0.003)) * (t % 7 != 3) if changing else base for t in range(longest + 10_000)]
    start = np.random.default_rng(2).standard_normal((len(configs), len(GAPS), WIDTH)).astype(np.float32)
    want = abandoned_by_law(law, configs, start, rates, longest, np.float64)
    dense = want if dtype is np.float64 else abandoned_by_law(law, configs, start, rates, longest, dtype)
    got = abandoned_by_exact(cls, configs, start, rates, longest, dtype)
    for c, config in enumerate(configs):
        for row, gap in [*enumerate(gap for gap in GAPS if gap <= longest), (slice(1, None), -1)]:
            what = f"{name} {config}: " + ("all rows in the end" if gap < 0 else f"row {row} abandoned for {gap}")
            w, d = (a[longest if gap < 0 else gap][c] for a in (want, dense))
            bound = bound64(w)
            if dtype is np.float32:
                bound = np.maximum(4 * np.spacing(np.abs(w).astype(np.float32)), 2 * np.abs(d - w)[1:].max())
            assert_near(got[gap][c][row] if gap < 0 else got[gap][c], w[row], bound[row], what)


@needs_native
@pytest.mark.parametrize(
    "case",
    [
        *[c for c in EXACT if not c[1].get("maximize")],
        # Steps that fade as slowly as they may: beta1 just below the root of beta2.
        ("adam", {"betas": (0.9, 0.811), "eps": 0.0}),
        ("adam", {"betas": (0.9, 0.811), "eps": 1e-8}),
        ("adam", {"betas": (0.9, 0.811), "eps": 1e-8, "weight_decay": 0.1, "decoupled_weight_decay": True}),
        ("sgd", {"momentum": 0.999}),
        ("sgd", {"momentum": 0.999, "weight_decay": 0.01}),
    ],
    ids=case_id,
)
def test_a_row_abandoned_and_touched_again(case):
    """For 1500 steps of a constant rate, for which every optimizer's dense step is replayed."""
    exact, dense = two_sides(*case, shapes={"w": (6, 3)})
    rng = np.random.default_rng(4)
    first, every = np.array([0]), np.arange(6)
    for t in range(1520):
        rows = every if t < 10 or t >= 1510 else first
        g = {"w": Touch(rows, numbers(rng, (len(rows), 3)))}
        exact.step(g)
        dense.step(g)
        if t == 1509:
            assert_near(exact.opt.read("w", every), dense.params["w"], bound64(dense.params["w"]), "abandoned")
    assert_equal_after_flush(exact, dense, case_id(case))


@needs_native
@pytest.mark.parametrize(
    ("name", "options", "factors"),
    [
        ("adam", {"betas": (0.99, 0.999)}, {"exp_avg": 0.99, "exp_avg_sq": 0.999}),
        ("adam", {"betas": (0.9, 0.9995), "amsgrad": True}, {"exp_avg_sq": 0.9995, "max_exp_avg_sq": 1.0}),
        ("rmsprop", {"alpha": 0.999, "centered": True}, {"square_avg": 0.999, "grad_avg": 0.999}),
        ("rmsprop", {"alpha": 0.999, "momentum": 0.99}, {"square_avg": 0.999, "momentum_buffer": 0.99}),
        ("adadelta", {"rho": 0.999}, {"square_avg": 0.999, "acc_delta": 0.999}),
        ("sgd", {"momentum": 0.999}, {"momentum_buffer": 0.999}),
        ("sgd", {"weight_decay": 0.013, "decoupled_weight_decay": True}, {}),
        ("adagrad", {"weight_decay": 0.013, "decoupled_weight_decay": True}, {"sum": 1.0}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_float32_decays_by_the_rounded_factor(name, options, factors):
    """By what the dense step multiplies with, thousands of times; the factor of float64 would be another one."""
    k = 3000
    decay = options.get("weight_decay", 0.0)
    exact, _ = two_sides(name, {**options, "lr": 0.01 if decay else 0.0}, shapes={"w": (8, 3)}, dtype=np.float32)
    start = exact.params["w"]
    start += np.where(start == 0, np.float32(1), np.float32(0))
    exact.step({"w": Touch(np.arange(8), np.full((8, 3), 0.75))})
    before = {**exact.opt.state_dict()["state"]["w"], "p": start.copy()}
    for _ in range(k):
        exact.step({"w": Touch(np.arange(0), np.empty((0, 3)))})
    after = {**exact.opt.state_dict()["state"]["w"], "p": start}
    for key, factor in {**factors, "p": 1 - 0.01 * decay}.items():
        want = before[key].astype(np.float64) * float(np.float32(factor)) ** k
        assert (np.abs(want) > 1e-30).all(), f"{key}: nothing is left to compare"
        assert_near(after[key], want, 1e-6 * np.abs(want), f"{name} {options}: {key} after {k} steps")


# ------------------------------------------------------------------------------------ 4. epsilon beside small gradients


@needs_native
@pytest.mark.parametrize("betas", BETAS, ids=str)
@pytest.mark.parametrize("eps_form", ["outside", "hat"])
@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-3])
def test_epsilon_of_every_size(eps, eps_form, betas):
    """Gradients of 1e-12 to 1e6 times epsilon, mixed in a row and apart, from the first step on and after 400."""
    rng = np.random.default_rng(6)
    shape = (60, 8)
    unit = eps or 1e-3
    scale = np.empty(shape)
    scale[:20] = unit * 10.0 ** np.linspace(-4, 6, 8)  # every row of all sizes
    scale[20:] = unit * 10.0 ** np.linspace(-12, 6, 40)[:, None]  # rows of one size
    more = {"eps": eps, "eps_form": eps_form, "betas": betas, "lr": 0.1}
    for extra in ({}, {"amsgrad": True}, {"weight_decay": 0.02, "decoupled_weight_decay": True}):
        exact, dense = two_sides("adam", {**more, **extra}, shapes={"w": shape})
        for t in range(430):
            # Bursts, and gaps of 1 to 400: a third of the rows is touched for the last time in the first 20 steps.
            alive = np.arange(60) % 3 > 0 if t >= 20 else np.full(60, True)
            rows = np.flatnonzero(alive & (rng.random(60) < (0.3 if t < 20 or t > 400 else 0.02)))
            g = {"w": Touch(rows, rng.standard_normal((len(rows), 8)) * scale[rows])}
            exact.step(g)
            dense.step(g)
        assert_equal_after_flush(exact, dense, f"{more} {extra}")


@needs_native
@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-3])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adamax", {"betas": (0.5, 0.6)}),
        ("adamax", {"eps_form": "outside"}),
        ("radam", {"betas": (0.5, 0.7)}),  # rectified from step 10 on
        ("adabelief", {}),
        ("yogi", {"betas": (0.99, 0.5)}),
        ("qhadam", {"nus": (0.7, 0.01)}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_epsilon_of_the_others(name, options, eps):
    """Rows of sizes about epsilon, abandoned for up to 200 steps from the first ones on."""
    rng = np.random.default_rng(6)
    scale = (eps or 1e-3) * 10.0 ** np.linspace(-12, 6, 40)[:, None]
    exact, dense = two_sides(name, {**options, "eps": eps}, shapes={"w": (40, 4)})
    for t in range(200):
        rows = np.flatnonzero(rng.random(40) < (0.3 if t < 20 or t > 180 else 0.02))
        g = {"w": Touch(rows, rng.standard_normal((len(rows), 4)) * scale[rows])}
        exact.step(g)
        dense.step(g)
    assert_equal_after_flush(exact, dense, f"{name} {options} eps={eps}")


@needs_native
@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-3])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_squares_that_vanish_beside_moments_that_do_not(amsgrad, eps):
    """g is a number, g * g is 0: the second moment says nothing of the first."""
    for dtype, small in ((np.float64, 1e-170), (np.float32, 1e-25)):
        exact, dense = two_sides("adam", {"eps": eps, "amsgrad": amsgrad}, shapes={"w": (4, 3)}, dtype=dtype)
        g = np.array([[small, 0.0, 1.0], [0.0, 0.0, 0.0], [-small, small, small]])
        for t in range(60):
            step = {"w": Touch(np.arange(3), g) if t in (0, 30) else Touch(np.arange(0), g[:0])}
            exact.step(step)
            dense.step(step)
        exact.opt.flush()
        got, want = exact.params["w"].astype(np.float64), dense.params["w"].astype(np.float64)
        bound = 1e-12 if dtype is np.float64 else 1e-4
        assert_near(got, want, bound64(want, bound), f"{dtype.__name__} eps={eps} amsgrad={amsgrad}")


@needs_native
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {}),
        ("sgd", {"momentum": 0.9}),
        ("rmsprop", {"momentum": 0.9}),
        ("adadelta", {}),
        ("adamax", {}),
        ("radam", {}),
        ("adabelief", {}),
    ],
)
def test_what_is_not_finite_stays_in_its_element(name, options):
    exact, dense = two_sides(name, options, shapes={"w": (9, 3)})
    bad = np.array([[np.nan, 1.0, 1.0], [1.0, np.inf, 1.0], [1.0, 1.0, -np.inf]])
    for t in range(50):
        step = {"w": Touch(np.array([1, 4, 7]), bad) if t == 3 else Touch(np.array([t % 9]), np.ones((1, 3)))}
        if t == 12:  # a long gap: powers of the decay factors times infinity
            step = {"w": Touch(np.arange(0), bad[:0])}
        with np.errstate(all="ignore"):
            exact.step(step)
            dense.step(step)
    with np.errstate(all="ignore"):
        exact.opt.flush()
    got, want = exact.params["w"], dense.params["w"]
    assert (np.isfinite(got) == np.isfinite(want)).all()
    assert (~np.isfinite(want)).sum() == 3
    fine = np.isfinite(want)
    assert_near(got[fine], want[fine], bound64(want[fine]), name)


# ------------------------------------------------------------------------------------- 5. builds, threads and widths


@needs_native
@each_dtype
@pytest.mark.parametrize("width", [None, 1, 3, 8, 16, 17, 40, 1100])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adam", {"eps": 1e-3}),
        ("adamw", {"amsgrad": True}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.05, "nesterov": True}),
        ("rmsprop", {"momentum": 0.9, "centered": True}),
        ("adagrad", {"weight_decay": 0.05, "decoupled_weight_decay": True}),
        ("adadelta", {}),
        ("adamax", {}),
        ("adamax", {"eps_form": "outside"}),
        ("radam", {}),
        ("adabelief", {}),
        ("asgd", {"weight_decay": 0.05, "t0": 2}),
        ("lion", {"weight_decay": 0.05}),
        ("adan", {"weight_decay": 0.05}),
        ("ftrl", {"l1": 0.1}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_same_bits_of_builds_and_threads(name, options, width, dtype, forced, use_build):
    shape = (31,) if width is None else (31, width)
    want: Any = None
    many = np.random.default_rng(3).integers(0, 31, 200)
    builds = native_builds()
    for isa, threads in [(builds[0], 1), *itertools.product(builds, [2])]:
        use_build(isa)
        forced(threads, 3)
        exact, dense = two_sides(name, options, shapes={"w": shape}, dtype=dtype)
        exact.set(lr=usual_schedule(name))
        reads = []

        def look(side: Side, reads: list[Array] = reads) -> None:
            if side.exact:
                reads.append(side.opt.read("w", many[:90] % 7))  # every row again and again, for both threads
                side.opt.catch_up("w", many[:60] % 23)
                reads.append(side.opt.read("w", many))

        course([exact], 18, events={7: look, 13: look}, kinds="ssssed", most=60)
        exact.opt.flush()
        got = [exact.params["w"], *reads]
        got += [a for k, a in sorted(exact.opt.state_dict()["state"]["w"].items()) if k != "step"]
        want = want or got
        for k, (a, b) in enumerate(zip(got, want, strict=True)):
            assert_bits(a, b, f"{name} {shape} {isa} {threads} threads, array {k}")
    if dtype is np.float64:
        rate = usual_schedule(name)
        course([dense], 18, events={t: lambda s, t=t: s.set(lr=rate(t)) for t in range(18)}, kinds="ssssed", most=60)
        assert_equal_after_flush(exact, dense, f"{name} {shape}")


# -------------------------------------------------------------------------------- 6. reading, catching up and flushing

#: optimizers whose rows move without a gradient
MOVING: list[tuple[str, dict[str, Any]]] = [
    ("adam", {}),
    ("adamw", {"amsgrad": True}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"weight_decay": 0.1}),
    ("rmsprop", {"momentum": 0.9}),
    ("adagrad", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("adadelta", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("adamax", {}),
    ("adamax", {"eps_form": "outside"}),
    ("nadam", {}),
    ("radam", {}),
    ("adabelief", {}),
    ("yogi", {}),
    ("qhadam", {}),
    ("asgd", {"lambd": 0.1}),
    ("lion", {}),
    ("signum", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("adan", {}),
]
each_moving = pytest.mark.parametrize("case", MOVING, ids=case_id)
NOTHING = Touch(np.arange(0), np.empty((0, 3)))


def stale(case: tuple[str, dict[str, Any]], backend: str = "native", steps: int = 5) -> tuple[Side, Side, Array]:
    """An exact optimizer whose rows are all behind, the dense one, and the rows as they were when last touched."""
    exact, dense = two_sides(*case, shapes={"w": (20, 3), "v": (6, 3)}, backend=backend)
    rng = np.random.default_rng(9)
    grads = {"w": Touch(np.arange(20), numbers(rng, (20, 3), 1)), "v": Touch(np.arange(6), numbers(rng, (6, 3), 1))}
    for side in (exact, dense):
        side.step(grads)
    before = exact.params["w"].copy()
    for _ in range(steps):
        for side in (exact, dense):
            side.step({"w": NOTHING, "v": NOTHING})
    return exact, dense, before


@needs_native
@each_moving
def test_rows_are_stale_until_they_are_caught_up(case):
    exact, dense, before = stale(case)
    w, want = exact.params["w"], dense.params["w"]
    assert (np.abs(want - before).max(axis=1) > 1e-6).all(), "the case shows nothing: the dense rows do not move"
    assert_bits(w, before, "untouched rows")
    rows = np.array([4, 17, 4])
    got = exact.opt.read("w", rows)
    assert_near(got, want[rows], bound64(want[rows]), "read")
    assert_bits(w[rows], got, "rows that were read")
    others = np.setdiff1d(np.arange(20), rows)
    assert_bits(w[others], before[others], "rows that were not read")
    assert exact.opt.catch_up("w", np.array([0, 1, 0])) is None
    assert_near(w[[0, 1]], want[[0, 1]], bound64(want[[0, 1]]), "caught up")
    others = np.setdiff1d(others, [0, 1])
    assert_bits(w[others], before[others], "rows that were not caught up")
    v = exact.params["v"].copy()
    exact.opt.catch_up("w")
    assert_near(w, want, bound64(want), "all rows")
    assert_bits(exact.params["v"], v, "the other parameter")
    assert exact.opt.flush() is None
    assert_near(exact.params["v"], dense.params["v"], bound64(dense.params["v"]), "flushed")


@needs_native
@each_moving
def test_rows_that_are_up_to_date_can_be_written(case):
    """What a caller writes into rows that were just caught up is where they go on from."""
    exact, dense, _ = stale(case)
    rows, new = np.array([2, 11]), np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 7.0]])
    exact.opt.catch_up("w", rows)
    for side in (exact, dense):
        side.params["w"][rows] = new
    course((exact, dense), 30, kinds="sssse")
    exact.opt.flush()
    for side in (exact, dense):
        side.params["w"] *= 0.5
    course((exact, dense), 30, kinds="ssssd", seed=1)
    assert_equal_after_flush(exact, dense, case_id(case))


@needs_native
@each_moving
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy", "flush"])
def test_what_flushes(case, how):
    exact, dense, _ = stale(case)
    if how == "state_dict":
        exact.opt.state_dict()
    elif how == "pickle":
        pickle.dumps(exact.opt)
    elif how == "deepcopy":
        copy.deepcopy(exact.opt)
    else:
        exact.opt.flush()
    for key, p in exact.params.items():
        assert_near(p, dense.params[key], bound64(dense.params[key]), f"{how} {key}")


@needs_native
@each_dtype
@each_moving
def test_catching_up_twice_is_catching_up_once(case, dtype):
    exact, _ = two_sides(*case, dtype=dtype)
    course([exact], 20, kinds="sssse")
    once = {}
    for call in (
        lambda: exact.opt.flush(),
        lambda: exact.opt.flush(),
        lambda: exact.opt.catch_up("rows"),
        lambda: exact.opt.catch_up("rows", np.array([3, 3, 0])),
        lambda: exact.opt.read("rows", np.arange(40)),
        lambda: exact.opt.state_dict(),
        lambda: exact.opt.step(dict.fromkeys(exact.params)),  # None: no step of any parameter
        lambda: exact.opt.flush(),
    ):
        call()
        for key, p in exact.params.items():
            assert_bits(p, once.setdefault(key, p.copy()), key)


@needs_native
@each_moving
def test_reading_in_between_changes_nothing(case):
    reader, dense = two_sides(*case)
    silent, _ = two_sides(*case)
    rng = np.random.default_rng(12)
    want = {}

    def look(side: Side) -> None:
        key = ["elements", "rows", "blocks"][rng.integers(0, 3)]
        rows = rng.integers(0, len(side.params[key]), rng.integers(0, 9))
        got = side.opt.read(key, rows)
        want[len(want)] = key, rows, got
        side.opt.catch_up(["elements", "rows"][rng.integers(0, 2)], rng.integers(0, 40, 3))

    course([reader], 100, seed=5, events=dict.fromkeys(range(100), look))
    course([silent], 100, seed=5)
    reads = iter(want.values())

    def compare(side: Side) -> None:
        key, rows, got = next(reads)
        assert_near(got, side.params[key][rows], bound64(got), f"read of {key}")

    course([dense], 100, seed=5, events=dict.fromkeys(range(100), compare))
    assert_equal_after_flush(reader, dense, "with reads")
    assert_equal_after_flush(silent, dense, "without reads")
    assert_equal_after_flush(reader, silent, "with reads and without")


@each_backend
@pytest.mark.parametrize("mode", ["lazy", "exact"])
def test_read_returns_a_new_array(mode, backend):
    params = {"a": np.arange(7.0), "b": np.arange(24.0, dtype=np.float32).reshape(4, 3, 2)}
    opt = fastopt.SGD(params, lr=0.5, momentum=0.9, sparse=mode, backend=backend)
    opt.step({"a": SparseGrad(np.array([2]), np.ones(1)), "b": None})
    for key, p in params.items():
        for rows in (
            np.array([2, 0, 2]),
            np.array([3], np.int32),
            np.arange(4, dtype=np.uint8),
            np.arange(4, dtype=">i8"),
            np.arange(4)[::-2],
            np.array([[0, 1, 3], [3, 3, 2]]),
            np.arange(0),
        ):
            got = opt.read(key, rows)
            assert type(got) is np.ndarray
            assert got.dtype == p.dtype
            assert got.shape == rows.shape + p.shape[1:]
            assert not np.shares_memory(got, p)
            assert_bits(got, p[rows], key)
            kept = p.copy()
            got[...] = -1
            assert_bits(p, kept, "written through")
            assert got.flags.writeable


@each_backend
def test_lazy_rows_stand_still(backend):
    """catch_up and flush have nothing to do; read gathers what is there."""
    p, q = np.ones((5, 2)), np.ones((5, 2))
    one, other = (
        fastopt.SGD(a, lr=0.1, momentum=0.9, sparse=s, backend=backend) for a, s in ((p, "lazy"), (q, "lazy"))
    )
    default = np.ones((5, 2))
    third = fastopt.SGD(default, lr=0.1, momentum=0.9, backend=backend)
    for k in (1, 3, 3, 0):
        for opt in (one, other, third):
            opt.step(SparseGrad(np.array([k]), np.ones((1, 2))))
        before = p.copy()
        one.catch_up(0)
        one.catch_up(p, np.array([0, 1, 1]))
        one.flush()
        assert_bits(one.read(p, np.arange(5)), p)
        assert_bits(p, before)
    assert_bits(p, q)
    assert_bits(p, default)


@each_backend
def test_how_parameters_are_named(backend):
    a, b = np.ones((5, 2)), np.full((3, 2), 2.0)
    rows = np.array([1, 0])
    for mode in ("lazy", "exact"):
        named = fastopt.Adam({"a": a, "b": b}, sparse=mode, backend=backend)
        listed = fastopt.Adam([a.copy(), b], sparse=mode, backend=backend)
        single = fastopt.Adam(a, sparse=mode, backend=backend)
        for opt, ways in ((named, ("b", 1, b)), (listed, (1, np.int64(1), b))):
            for way in ways:
                assert_bits(opt.read(way, rows), b[rows])
                opt.catch_up(way)
                opt.catch_up(way, rows)
        for way in (0, a):
            assert_bits(single.read(way, rows), a[rows])
            single.catch_up(way)
        for opt, ways in (
            (named, ("c", "", 2, a.copy(), None, 1.0, ["a"])),
            (listed, ("a", 2, 10**30, a, [0], None)),
            (single, ("a", 1, a.copy(), a[:])),
        ):
            for way in ways:
                with pytest.raises(FastoptError):
                    opt.read(way, rows)
                with pytest.raises(FastoptError):
                    opt.catch_up(way, rows)
                with pytest.raises(FastoptError):
                    opt.catch_up(way)
    with pytest.raises(FastoptError, match="aa"):
        named.read("aa", rows)


BAD_ROWS: dict[str, tuple[Any, type]] = {
    "negative": (np.array([1, -1]), IndexRangeError),
    "too large": (np.array([0, 20]), IndexRangeError),
    "far too large": (np.array([2**62]), IndexRangeError),
    "wraps in 32 bits": (np.array([2**32 + 1]), IndexRangeError),
    "wraps in 64 bits": (np.array([2**63 + 1], np.uint64), IndexRangeError),
    "negative bytes": (np.array([-3], np.int8), IndexRangeError),
    "floats": (np.array([1.0]), DTypeError),
    "flags": (np.array([True, False]), DTypeError),
    "objects": (np.array([1], object), DTypeError),
    "list": ([1, 2], DTypeError),
    "number": (3, DTypeError),
    "subclass": (np.ma.masked_array([1, 2]), DTypeError),
}


@each_backend
@pytest.mark.parametrize("kind", BAD_ROWS)
@pytest.mark.parametrize("mode", ["lazy", "exact"])
def test_bad_rows(mode, kind, backend):
    rows, error = BAD_ROWS[kind]
    sides = []
    for bad in (True, False):
        p = np.ones((20, 3), np.float32)
        opt = fastopt.Adam(p, lr=0.1, sparse=mode, backend=backend)
        opt.step(SparseGrad(np.arange(20), np.ones((20, 3), np.float32)))
        opt.step(SparseGrad(np.array([3]), np.ones((1, 3), np.float32)))
        if bad:
            before = p.copy()
            with pytest.raises(error):
                opt.catch_up(0, rows)
            with pytest.raises(error):
                opt.read(0, rows)
            assert_bits(p, before, "after the error")
        opt.step(SparseGrad(np.array([7]), np.ones((1, 3), np.float32)))
        sides.append((p, opt.state_dict()["state"][0]))
    (p, s), (q, r) = sides
    assert_bits(p, q, "with an error and without")
    for name in s.keys() - {"step"}:
        assert_bits(s[name], r[name], name)


@each_backend
def test_parameters_without_rows_and_in_other_orders(backend):
    """What can only have dense gradients lives in an exact optimizer too."""
    shapes = {"scalar": (), "none": (0, 4), "narrow": (5, 0), "one": (1,), "table": (8, 2)}
    start = {k: np.random.default_rng(1).standard_normal(s) for k, s in shapes.items()}
    start["fortran"] = np.asfortranarray(np.random.default_rng(2).standard_normal((4, 3)))
    mine, theirs = ({k: p.copy(order="K") for k, p in start.items()} for _ in range(2))
    exact = fastopt.AdamW(mine, lr=0.1, sparse="exact", backend=backend)
    dense = fastopt.AdamW(theirs, lr=0.1, backend="numpy")
    for t in range(9):
        grads = {k: np.full_like(p, t - 3.5) for k, p in start.items()}
        dense.step({**grads, "table": grads["table"] * (np.arange(8) == t % 3)[:, None]})
        rows = np.array([t % 3])
        empty = np.arange(0)
        exact.step(
            {
                **grads,
                "table": SparseGrad(rows, grads["table"][rows]),
                "none": SparseGrad(empty, np.empty((0, 4))),
                "narrow": SparseGrad(rows, np.empty((1, 0))),
            }
        )
        exact.catch_up("fortran")
        exact.catch_up("none")
        exact.catch_up("narrow")
        exact.catch_up("scalar")
    exact.flush()
    for k, p in theirs.items():
        assert_near(mine[k], p, bound64(p), k)


# ----------------------------------------------------------------------------------------- 7. what happens on the way


def option_changes() -> dict[str, tuple[str, dict[str, Any], dict[int, Event]]]:
    """Options that change in the middle of a run."""

    def at(*changes: tuple[int, dict[str, Any]]) -> dict[int, Event]:
        return {t: lambda side, new=new: side.set(**new) for t, new in changes}

    decoupled = {"weight_decay": 0.1, "decoupled_weight_decay": True}
    return {
        "rates by hand": ("adam", {}, at(*[(t, {"lr": 0.01 * (t % 5)}) for t in range(90)])),
        "sgd rates by hand": ("sgd", {"momentum": 0.9}, at(*[(t, {"lr": 0.01 * (t % 5)}) for t in range(90)])),
        "decay by hand": ("adamw", {}, at(*[(t, {"weight_decay": 0.1 * (t % 3)}) for t in range(0, 90, 4)])),
        "betas": ("adam", {}, at((30, {"betas": (0.5, 0.9)}), (60, {"betas": (0.95, 0.9995)}))),
        "beta1 down to 0": ("adam", {}, at((30, {"betas": (0.0, 0.999)}), (60, {"betas": (0.9, 0.999)}))),
        "eps": ("adam", {}, at((30, {"eps": 1e-2}), (60, {"eps": 0.0}))),
        "eps_form": ("adam", {"eps": 1e-3}, at((30, {"eps_form": "hat"}), (60, {"eps_form": "outside"}))),
        "adam decay on and off": ("adam", {}, at((30, decoupled), (60, {"weight_decay": 0.0}))),
        "adam decay of both kinds": (
            "adam",
            {"weight_decay": 0.0},
            at((20, {"decoupled_weight_decay": True}), (30, {"weight_decay": 0.1}), (60, {"weight_decay": 0.3})),
        ),
        "amsgrad on": ("adam", {}, at((45, {"amsgrad": True}))),
        "amsgrad off and on": ("adam", {"amsgrad": True}, at((30, {"amsgrad": False}), (60, {"amsgrad": True}))),
        "amsgrad with betas of its own": (
            "adam",
            {},
            at((30, {"amsgrad": True, "betas": (0.99, 0.9)}), (60, {"amsgrad": False, "betas": (0.9, 0.999)})),
        ),
        "maximize": ("adam", {}, at((30, {"maximize": True}), (60, {"maximize": False}))),
        "momentum": ("sgd", {"momentum": 0.9}, at((30, {"momentum": 0.5}), (60, {"momentum": 0.99}))),
        "momentum on": ("sgd", {}, at((45, {"momentum": 0.9}))),
        "momentum on, coupled": ("sgd", {"weight_decay": 0.1}, at((45, {"momentum": 0.9}))),
        "momentum on, dampened": (
            "sgd",
            {"weight_decay": 0.1, "dampening": 0.5},
            at((45, {"momentum": 0.9}), (46, {"lr": 0.1}), (70, {"dampening": 0.2})),
        ),
        "momentum off and on": (
            "sgd",
            {"momentum": 0.9, "weight_decay": 0.05},
            at((20, {"momentum": 0.0}), (40, {"momentum": 0.9}), (50, {"momentum": 0.0}), (51, {"momentum": 0.8})),
        ),
        "nesterov on and off": (
            "sgd",
            {"momentum": 0.9, "weight_decay": 0.02},
            at((30, {"nesterov": True}), (60, {"nesterov": False})),
        ),
        "sgd decay of both kinds": (
            "sgd",
            {"momentum": 0.9},
            at((20, {"weight_decay": 0.1}), (40, {"decoupled_weight_decay": True}), (60, {"weight_decay": 0.0})),
        ),
        "rmsprop": (
            "rmsprop",
            {},
            at((20, {"momentum": 0.9}), (40, {"centered": True}), (60, {"alpha": 0.9}), (80, {"momentum": 0.0})),
        ),
        "adadelta": ("adadelta", {}, at((20, {"rho": 0.5}), (40, decoupled), (60, {"lr": 0.1, "rho": 0.99}))),
        "adagrad": ("adagrad", decoupled, at((20, {"lr": 0.5}), (40, {"lr_decay": 0.1}), (60, {"weight_decay": 0.01}))),
        "adamax": (
            "adamax",
            {},
            at((20, {"eps": 0.5}), (30, {"eps": 1e-3}), (50, {"eps_form": "outside"}), (60, {"betas": (0.5, 0.9)})),
        ),
        "adamax, back inside": (
            "adamax",
            {"eps_form": "outside", "eps": 0.1},
            at((40, {"eps_form": "inside"}), (70, {"betas": (0.5, 0.9)}), (75, decoupled)),
        ),
        "nadam": ("nadam", {}, at((30, {"momentum_decay": 1.0}), (60, {"betas": (0.5, 0.9), **decoupled}))),
        # At first plain steps alone, then rectified ones, then plain ones again.
        "radam": ("radam", {"betas": (0.5, 0.6)}, at((30, {"betas": (0.9, 0.999)}), (60, {"betas": (0.3, 0.5)}))),
        "radam, rates": ("radam", {}, at((3, {"lr": 0.0}), (5, {"lr": 0.02}), (30, decoupled), (60, {"lr": 0.0}))),
        "adabelief": (
            "adabelief",
            {},
            at((20, {"eps": 1e-2}), (40, {"rectify": False, "eps": 0.0}), (60, {"betas": (0.5, 0.9)})),
        ),
        "yogi": ("yogi", {}, at((30, {"betas": (0.5, 0.9)}), (60, {"eps": 0.0, **decoupled}))),
        "qhadam": ("qhadam", {}, at((30, {"nus": (0.7, 0.4)}), (60, {"betas": (0.5, 0.9), **decoupled}))),
        "schedule after number": ("adam", {}, at((30, {"lr": schedule(0.02)}), (60, {"lr": 0.01}))),
        "schedule after schedule": ("adam", {}, at((30, {"lr": schedule(0.02)}), (60, {"lr": schedule(0.05)}))),
    }


@needs_native
@pytest.mark.parametrize("kind", option_changes())
def test_options_changed_on_the_way(kind):
    """Every skipped step counts with the options that it was made with."""
    name, options, events = option_changes()[kind]
    for kinds in ("sssse", "ssssssssedn", "e" * 40 + "s"):
        exact, dense = two_sides(name, options)
        course((exact, dense), 90, events=events, kinds=kinds)
        assert_equal_after_flush(exact, dense, f"{kind} ({kinds})")


@needs_native
@pytest.mark.parametrize("case", [c for c in EXACT if not c[1].get("maximize")], ids=case_id)
def test_steps_of_every_kind(case):
    """Sparse, empty, dense, None, and opt.grads, of parameters of one to three dimensions."""
    exact, dense = two_sides(*case)
    course((exact, dense), 100)
    assert_equal_after_flush(exact, dense, case_id(case))
    course((exact, dense), 20, seed=1, kinds="dds")
    assert_equal_after_flush(exact, dense, case_id(case))


@needs_native
@pytest.mark.parametrize("dtype", [np.float32])
@each_moving
def test_steps_of_every_kind_float32(case, dtype):
    (exact, wide), (_, dense) = two_sides(*case), two_sides(*case, dtype=dtype)
    exact, _ = two_sides(*case, dtype=dtype)
    course((exact, wide, dense), 100)
    exact.opt.flush()
    for key, p in wide.params.items():
        assert_float32(exact.params[key], dense.params[key], p, f"{case_id(case)} {key}")


def test_none_is_no_step_and_no_rows_is_one():
    """A parameter that None passes by keeps rows and counter; an empty SparseGrad moves both."""
    for backend in ["numpy", *(["native"] if fastopt.kernels.isa else [])]:
        p = {"a": np.ones((4, 3)), "b": np.ones((4, 3))}
        opt = fastopt.SGD(p, lr=0.1, momentum=0.5, sparse="exact", backend=backend)
        first = SparseGrad(np.arange(4), np.ones((4, 3)))
        opt.step({"a": first, "b": first})
        for _ in range(2):
            opt.step({"a": None, "b": SparseGrad(np.arange(0), np.empty((0, 3)))})
        state = opt.state_dict()
        assert [state["state"][k]["step"] for k in "ab"] == [1, 3]
        assert state["step"] == 3
        assert_near(p["a"], np.full((4, 3), 1 - 0.1), 1e-15, "passed by")
        assert_near(p["b"], np.full((4, 3), 1 - 0.1 * (1 + 0.5 + 0.25)), 1e-15, "moved on")


@needs_native
@each_moving
def test_state_loaded_on_the_way(case):
    """A state dict taken from another run: rows that were behind are forgotten, and none is brought up to it twice."""
    saved, _ = two_sides(*case)
    course([saved], 17, seed=3)
    state = saved.opt.state_dict()

    def load(side: Side) -> None:
        side.opt.load_state_dict(state)

    exact, dense = two_sides(*case)
    course((exact, dense), 90, events={30: load, 31: load, 70: load})
    assert_equal_after_flush(exact, dense, case_id(case))


@needs_native
def test_a_maximum_that_was_loaded_below_the_average():
    """The first skipped step lifts it; the later ones leave it."""
    exact, dense = two_sides("adam", {"amsgrad": True}, shapes={"w": (6, 3)})
    course((exact, dense), 12, kinds="d")
    state = dense.opt.state_dict()
    state["state"]["w"]["max_exp_avg_sq"] *= np.array([[0.0], [1e-3], [0.5], [0.9995], [1.0], [2.0]])
    for side in (exact, dense):
        side.opt.load_state_dict(state)
    course((exact, dense), 30, kinds="e")
    assert_equal_after_flush(exact, dense)


def carried(how: str, side: Side) -> Side:
    """The optimizer of `side` carried over, with its parameters."""
    if how == "state_dict":
        state = side.opt.state_dict()  # brings the parameters up to date
        new = Side(side.cls, {k: p.copy() for k, p in side.params.items()}, side.exact, side.backend, side.options)
        new.opt.load_state_dict(state)
        return new
    new = copy.copy(side)
    new.opt = pickle.loads(pickle.dumps(side.opt)) if how == "pickle" else copy.deepcopy(side.opt)
    arrays = [p for group in new.opt.param_groups for p in group["params"]]
    new.params = dict(zip(side.params, arrays, strict=True))
    return new


def falling(t: int) -> float:
    """A rate that can be pickled."""
    return 0.05 / (1 + t) ** 0.5


@needs_native
@each_moving
@pytest.mark.parametrize("how", ["pickle", "deepcopy", "state_dict"])
@pytest.mark.parametrize("lr", [None, falling], ids=["number", "callable"])
def test_carried_over_and_continued(how, case, lr):
    name, options = case
    options = options if lr is None else {**options, "lr": lr}
    exact, dense = two_sides(name, options)
    course((exact, dense), 41, seed=1)
    other = carried(how, exact)
    for key, p in exact.params.items():
        assert not np.shares_memory(p, other.params[key])
        assert_bits(p, other.params[key], f"{how} {key}")
    course((exact, dense, other), 43, seed=2)
    before = {k: p.copy() for k, p in other.params.items()}
    other.opt.flush()
    assert any((p != before[k]).any() for k, p in other.params.items()), "what was carried over is not exact any more"
    assert_equal_after_flush(exact, dense, "the original")
    for key, p in exact.params.items():
        assert_bits(other.params[key], p, f"{how} {key}: both were flushed at the same step")
    one, two = exact.opt.state_dict(), other.opt.state_dict()
    assert one["step"] == two["step"]
    for key, entry in one["state"].items():
        for state in entry.keys() - {"step"}:
            assert_bits(two["state"][key][state], entry[state], f"{how} {key} {state}")


@needs_native
@each_moving
def test_state_dicts_of_both_modes_are_the_same(case):
    """An exact optimizer goes on where a lazy one stopped, and the other way round."""
    exact, dense = two_sides(*case)
    course((exact, dense), 20)
    state = exact.opt.state_dict()
    assert state.keys() == dense.opt.state_dict().keys()
    lazy = Side(exact.cls, {k: p.copy() for k, p in exact.params.items()}, False, "native", exact.options)
    lazy.opt.load_state_dict(state)
    course((lazy, dense), 20, seed=1, kinds="d")
    again = Side(exact.cls, lazy.params, True, "native", exact.options)
    again.opt.load_state_dict(lazy.opt.state_dict())
    course((again, dense), 20, seed=2)
    assert_equal_after_flush(again, dense, case_id(case))


@needs_native
@each_moving
def test_group_added_on_the_way(case):
    extra = numbers(np.random.default_rng(20), (30, 4))

    def add(side: Side) -> None:
        side.add("late", extra, lr=0.03)

    exact, dense = two_sides(*case)
    course((exact, dense), 90, events={40: add, 60: lambda side: side.set(1, lr=0.01)}, kinds="ssssedn")
    assert_equal_after_flush(exact, dense, case_id(case))


@needs_native
def test_groups_have_histories_of_their_own():
    rng = np.random.default_rng(3)
    start = [numbers(rng, (20, 3)) for _ in range(3)]
    options = [
        {"betas": (0.5, 0.9), "weight_decay": 0.1},
        {"lr": schedule(0.1), "eps": 1e-3},
        {"lr": falling, "amsgrad": True, "weight_decay": 0.0},
    ]
    mine, theirs = ([p.copy() for p in start] for _ in range(2))
    exact, dense = (
        fastopt.AdamW([{"params": p, **o} for p, o in zip(ps, options, strict=True)], lr=0.02, **kw)
        for ps, kw in ((mine, {"sparse": "exact"}), (theirs, {"backend": "numpy"}))
    )
    for t in range(120):
        grads = [touch(rng, p.shape, 3) if rng.random() < 0.8 else None for p in start]
        if t == 50:
            for opt in (exact, dense):
                opt.param_groups[0].update(betas=(0.9, 0.99), lr=schedule(0.05))
        exact.step([None if g is None else g.sparse(np.float64) for g in grads])
        dense.step([None if g is None else g.dense((20, 3), np.float64) for g in grads])
    exact.flush()
    for q, (p, w) in enumerate(zip(mine, theirs, strict=True)):
        assert_near(p, w, bound64(w), f"group {q}")


# ------------------------------------------------------------------------------------------- 8. what is refused

COUPLED = ["adagrad", "adadelta", "rmsprop", "adam", "adamax", "nadam", "radam", "yogi", "qhadam", "signsgd", "signum"]


def twins(name: str = "adam", backend: str = "native", **options: Any) -> tuple[Side, Side]:
    """Two exact optimizers on the same course, half of their rows behind: one to be harmed, one for comparison."""
    sides = tuple(two_sides(name, options, backend=backend)[0] for _ in range(2))
    course(sides, 12, kinds="sssse")
    return sides


def assert_unharmed(harmed: Side, other: Side, raw: Mapping[str, Array]) -> None:
    """The bits are those of before the error, and those to come are those of a run without it."""
    for key, p in raw.items():
        assert_bits(harmed.params[key], p, f"{key} after the error")
    assert [g.options() for g in harmed.opt.param_groups] == [g.options() for g in other.opt.param_groups]
    course((harmed, other), 9, seed=6, kinds="sssse")
    one, two = harmed.opt.state_dict(), other.opt.state_dict()
    assert one["step"] == two["step"]
    for key, p in harmed.params.items():
        assert_bits(p, other.params[key], key)
        assert one["state"][key]["step"] == two["state"][key]["step"]
        for state in one["state"][key].keys() - {"step"}:
            assert_bits(one["state"][key][state], two["state"][key][state], f"{key} {state}")


REFUSED = (UnsupportedError, HyperParameterError)


def assert_names_the_way_out(error: Any, *words: str) -> None:
    message = str(error.value)
    assert any(w in message for w in words), f"none of {words} in: {message}"


@each_backend
@pytest.mark.parametrize("name", COUPLED)
def test_coupled_decay_is_refused_where_it_is_not_linear(name, backend):
    cls = fastopt.Optimizer.known[name]
    ways = ("decoupled_weight_decay", "lazy")
    with pytest.raises(REFUSED, match="weight_decay") as error:
        cls(np.ones((3, 2)), weight_decay=0.1, sparse="exact", backend=backend)
    assert_names_the_way_out(error, *ways)
    with pytest.raises(REFUSED):
        cls([{"params": np.ones(3), "weight_decay": 0.1}], sparse="exact", backend=backend)
    cls(np.ones((3, 2)), weight_decay=0.1, backend=backend)
    cls(np.ones((3, 2)), weight_decay=0.0, sparse="exact", backend=backend)
    cls(np.ones((3, 2)), weight_decay=0.1, decoupled_weight_decay=True, sparse="exact", backend=backend)

    harmed, other = twins(name, backend)
    lazy = Side(cls, {k: p.copy() for k, p in harmed.params.items()}, False, backend, {"weight_decay": 0.1})
    wrong = lazy.opt.state_dict()
    bad: list[Callable[[], Any]] = [
        lambda: harmed.opt.param_groups[0].update(weight_decay=0.1),
        lambda: operator.setitem(harmed.opt.param_groups[0], "weight_decay", 0.1),
        lambda: harmed.opt.add_param_group({"params": {"new": np.ones(3)}, "weight_decay": 0.1}),
    ]
    raw = {k: p.copy() for k, p in harmed.params.items()}
    for call in bad:
        with pytest.raises(REFUSED, match="weight_decay") as error:
            call()
        assert_names_the_way_out(error, *ways)
    assert_unharmed(harmed, other, raw)
    other.opt.flush()
    harmed.opt.flush()
    raw = {k: p.copy() for k, p in harmed.params.items()}
    with pytest.raises(REFUSED, match="weight_decay"):
        harmed.opt.load_state_dict(wrong)
    assert_unharmed(harmed, other, raw)

    opt = cls(np.ones((3, 2)), weight_decay=0.1, decoupled_weight_decay=True, sparse="exact", backend=backend)
    with pytest.raises(REFUSED, match="weight_decay"):
        opt.param_groups[0]["decoupled_weight_decay"] = False
    opt.param_groups[0].update(weight_decay=0.0, decoupled_weight_decay=False)
    opt.param_groups[0].update(weight_decay=0.2, decoupled_weight_decay=True)


@each_backend
@pytest.mark.parametrize("betas", [(0.99, 0.95), (0.9, 0.81 - 1e-12), (0.5, 0.25), (0.5, 0.1), (0.3, 0.0)])
def test_moments_that_outlive_their_squares_are_refused(betas, backend):
    for cls in (fastopt.Adam, fastopt.AdamW):
        with pytest.raises(REFUSED, match="beta") as error:
            cls(np.ones((3, 2)), betas=betas, sparse="exact", backend=backend)
        assert_names_the_way_out(error, "amsgrad", "lazy")
        cls(np.ones((3, 2)), betas=betas, backend=backend)
        opt = cls(np.ones((3, 2)), betas=betas, amsgrad=True, sparse="exact", backend=backend)
        with pytest.raises(REFUSED, match=r"beta|amsgrad"):
            opt.param_groups[0]["amsgrad"] = False
        assert opt.param_groups[0]["amsgrad"] is True
    harmed, other = twins("adam", backend)
    raw = {k: p.copy() for k, p in harmed.params.items()}
    with pytest.raises(REFUSED, match="beta"):
        harmed.opt.param_groups[0]["betas"] = betas
    with pytest.raises(REFUSED, match="beta"):
        harmed.opt.add_param_group({"params": {"new": np.ones(3)}, "betas": betas})
    assert_unharmed(harmed, other, raw)
    for side in (harmed, other):
        side.opt.flush()
    raw = {k: p.copy() for k, p in harmed.params.items()}
    with pytest.raises(REFUSED, match="beta"):
        wrong = harmed.opt.state_dict()
        wrong["param_groups"][0]["betas"] = betas
        harmed.opt.load_state_dict(wrong)
    assert_unharmed(harmed, other, raw)


@each_optimizer
@pytest.mark.parametrize("word", ["", "Exact", "dense", None, True, 1, b"exact"])
def test_bad_words(cls, word):
    with pytest.raises(HyperParameterError, match=r"sparse.*'lazy'.*'exact'"):
        cls(np.ones(3), sparse=word)


def bad_steps() -> dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], type]]:
    ids, ones = np.array([1]), np.ones((1, 3))
    return {
        "row out of range": (lambda g: {**g, "rows": SparseGrad(np.array([1, 40]), np.ones((2, 3)))}, IndexRangeError),
        "negative row": (lambda g: {**g, "elements": SparseGrad(np.array([-1]), np.ones(1))}, IndexRangeError),
        "wrong width": (lambda g: {**g, "rows": SparseGrad(ids, np.ones((1, 4)))}, ShapeError),
        "wrong dtype": (lambda g: {**g, "rows": SparseGrad(ids, ones.astype(np.float32))}, DTypeError),
        "rows of floats": (lambda g: {**g, "rows": SparseGrad(ids * 1.0, ones)}, DTypeError),
        "repeated": (lambda g: {**g, "rows": SparseGrad(np.array([1, 1]), np.ones((2, 3)), "none")}, IndexRangeError),
        "missing": (lambda g: {k: v for k, v in g.items() if k != "blocks"}, ShapeError),
        "dense of wrong shape": (lambda g: {**g, "blocks": np.ones((12, 3, 2))}, ShapeError),
        "no gradient": (lambda g: {**g, "blocks": 3.0}, DTypeError),
    }


@each_backend
@pytest.mark.parametrize("kind", bad_steps())
def test_a_bad_step_changes_nothing(kind, backend):
    spoil, error = bad_steps()[kind]
    harmed, other = twins("adamw", backend)
    raw = {k: p.copy() for k, p in harmed.params.items()}
    good = {k: SparseGrad(np.array([0, 5]), np.ones((2, *p.shape[1:]))) for k, p in harmed.params.items()}
    with pytest.raises(error):
        harmed.opt.step(spoil(good))
    assert_unharmed(harmed, other, raw)


@each_backend
def test_other_errors_change_nothing(backend):
    harmed, other = twins("sgd", backend, momentum=0.9, weight_decay=0.1)
    raw = {k: p.copy() for k, p in harmed.params.items()}
    for call in (
        lambda: harmed.opt.param_groups[0].update(lr=-1.0),
        lambda: harmed.opt.param_groups[0].update(lr="fast"),
        lambda: harmed.opt.param_groups[0].update(lr=0.3, momentum=2.0),
        lambda: harmed.opt.add_param_group({"params": {"rows": np.ones(3)}}),
        lambda: harmed.opt.add_param_group({"params": {"new": harmed.params["rows"]}}),
        lambda: harmed.opt.catch_up("rows", np.array([0, 40])),
        lambda: harmed.opt.read("rows", np.array([0, -1])),
        lambda: harmed.opt.catch_up("row"),
    ):
        with pytest.raises(FastoptError):
            call()
    assert_unharmed(harmed, other, raw)


# ------------------------------------------------------------------------------------------ 9. rates that are callables


@each_backend
@pytest.mark.parametrize(
    "case",
    [c for c in cases(blocks=False) + [("sgd", {"weight_decay": 0.1}), ("adamw", {})] if c[0] not in LOOKING_BACK],
    ids=case_id,
)
@pytest.mark.parametrize("dtype", [np.float32])
def test_callable_rate_is_the_rate_by_hand(case, dtype, backend, rng):
    rate, cls = usual_schedule(case[0]), fastopt.Optimizer.known[case[0]]
    start = [rng.standard_normal(s).astype(dtype) for s in ((30,), (20, 3))]
    one, other = ([p.copy() for p in start] for _ in range(2))
    given = cls(one, **{**case[1], "lr": rate}, backend=backend)
    told = cls(other, **{**case[1], "lr": rate(0)}, backend=backend)
    for t in range(80):
        grads: list[Any] = [rng.standard_normal(p.shape).astype(dtype) for p in start]
        if t % 3 == 1:
            grads = [touch(rng, p.shape, 5).sparse(dtype) for p in start]
        if t % 10 == 4:
            grads[t % 20 == 4] = None
        told.param_groups[0]["lr"] = rate(t)
        told.step(grads)
        given.step(grads)
        for p, q in zip(one, other, strict=True):
            assert_bits(p, q, f"{case_id(case)} step {t}")
    assert given.param_groups[0]["lr"] is rate


def modes(backend: str) -> Iterable[dict[str, Any]]:
    return ({"backend": backend, "sparse": s} for s in ("lazy", "exact"))


@each_backend
def test_steps_that_a_rate_is_asked_for(backend):
    """Integers from 0 on; global steps, also of a parameter that None passed by and of a group that came late."""
    for mode in modes(backend):
        asked: set[int] = set()

        def rate(t: int, asked: set[int] = asked) -> float:
            assert not isinstance(t, (bool, float))
            asked.add(operator.index(t))
            return float(t)

        p = {"a": np.zeros((3, 1)), "b": np.zeros((3, 1))}
        opt = fastopt.SGD(p, lr=rate, **mode)
        g = SparseGrad(np.arange(3), -np.ones((3, 1)))
        opt.step({"a": g, "b": g})  # 0
        opt.step({"a": None, "b": g})  # 1
        opt.step({"a": None, "b": None})  # 2
        opt.step({"a": g, "b": None})  # 3
        opt.flush()
        assert (p["a"] == 3).all(), mode
        assert (p["b"] == 1).all(), mode
        p["c"] = np.zeros((3, 1))
        opt.add_param_group({"params": {"c": p["c"]}})
        opt.step({"a": None, "b": None, "c": g})  # 4
        opt.flush()
        assert (p["c"] == 4).all(), mode
        assert {0, 1, 3, 4} <= asked
        assert min(asked) == 0
        d = opt.state_dict()
        d["step"] = 1000
        opt.load_state_dict(d)
        opt.step({"a": g, "b": None, "c": None})
        assert (p["a"] == 1003).all(), mode


@each_backend
def test_rates_of_every_kind_of_number(backend):
    from fractions import Fraction

    for mode in modes(backend):
        for number in (1, 0, 0.5, np.float32(0.5), np.float64(0.25), np.int64(2), np.array(0.5), Fraction(1, 4)):
            p, q = np.zeros(3), np.zeros(3)
            fastopt.SGD(p, lr=lambda t, number=number: number, **mode).step(np.ones(3))
            fastopt.SGD(q, lr=number, **mode).step(np.ones(3))
            assert_bits(p, q, repr(number))


BAD_RATES: dict[str, Any] = {
    "nan": math.nan,
    "infinite": math.inf,
    "negative": -1e-3,
    "none": None,
    "text": "0.1",
    "complex": 1j,
    "flag": True,
    "array": np.ones(2),
    "list": [0.1],
}


def rate_course(opt: Any, p: Array, first: int, steps: int) -> None:
    for t in range(first, first + steps):
        opt.step(SparseGrad(np.array([t % 7, t % 4]), np.full((2, *p.shape[1:]), 1.0 + t % 3, p.dtype)))


@each_backend
@pytest.mark.parametrize("kind", BAD_RATES)
def test_a_bad_rate_is_refused_at_its_step(kind, backend):
    """Not before, and without a change; the run goes on when the rate is mended."""
    for mode in modes(backend):
        for at in (0, 1, 20):
            runs = []
            for bad in (True, False):
                p = np.ones((7, 2))

                def rate(t: int, bad: bool = bad, at: int = at) -> Any:
                    return BAD_RATES[kind] if bad and t == at else 0.1

                opt = fastopt.SGD(p, lr=rate, momentum=0.9, **mode)
                rate_course(opt, p, 0, at)
                raw = p.copy()
                if bad:
                    for _ in range(2):
                        with pytest.raises(HyperParameterError, match="lr"):
                            rate_course(opt, p, at, 1)
                        assert_bits(p, raw, f"{mode} {at}")
                    assert opt.param_groups[0]["lr"] is rate
                opt.param_groups[0]["lr"] = 0.1
                rate_course(opt, p, at, 5)
                state = opt.state_dict()
                assert state["step"] == at + 5
                runs.append((p, state["state"][0]["momentum_buffer"]))
            for a, b in zip(*runs, strict=True):
                assert_bits(a, b, f"{mode} refused at {at}")


@each_backend
@pytest.mark.parametrize("error", [IndexError, ZeroDivisionError, RuntimeError, StopIteration])
def test_a_rate_that_fails_far_ahead(error, backend):
    """Steps before the trouble are as without it; the step at the trouble fails and changes nothing."""
    for mode in modes(backend):
        runs = []
        for bad in (True, False):
            p = np.ones((7, 2), np.float32)

            def rate(t: int, bad: bool = bad) -> float:
                if bad and t >= 30:
                    raise error("no rate")
                return 0.01 * (1 + t % 5)

            opt = fastopt.Adam(p, lr=rate, **mode)
            rate_course(opt, p, 0, 30)
            raw = p.copy()
            if bad:
                for _ in range(2):
                    with pytest.raises((error, HyperParameterError, RuntimeError)):
                        rate_course(opt, p, 30, 1)
                    assert_bits(p, raw, str(mode))
            opt.param_groups[0]["lr"] = 0.02
            rate_course(opt, p, 30, 5)
            state = opt.state_dict()
            assert state["step"] == 35
            runs.append((p, state["state"][0]["exp_avg"], state["state"][0]["exp_avg_sq"]))
        for a, b in zip(*runs, strict=True):
            assert_bits(a, b, str(mode))


@each_backend
def test_a_list_of_rates(backend):
    """The last entry can be used."""
    rates = [0.1 * (k % 4) for k in range(77)]
    for mode in modes(backend):
        p, q = np.ones((7, 2)), np.ones((7, 2))
        one, other = fastopt.SGD(p, lr=rates.__getitem__, momentum=0.9, **mode), fastopt.SGD(q, momentum=0.9, **mode)
        for t, rate in enumerate(rates):
            other.param_groups[0]["lr"] = rate
            rate_course(one, p, t, 1)
            rate_course(other, q, t, 1)
        one.flush()
        other.flush()
        assert_near(p, q, bound64(q), str(mode))
        with pytest.raises((IndexError, HyperParameterError)):
            rate_course(one, p, 77, 1)
        assert one.state_dict()["step"] == 77


@needs_native
def test_rates_ahead_of_skipped_rows_are_not_used():
    """A row caught up at step t knows the rates of the steps made, not of those to come."""
    p, q = np.ones((7, 2)), np.ones((7, 2))
    exact = fastopt.SGD(p, lr=lambda t: 0.1 if t < 40 else 1e6, momentum=0.9, sparse="exact")
    dense = fastopt.SGD(q, lr=0.1, momentum=0.9, backend="numpy")
    for t in range(40):
        g = np.zeros((7, 2))
        if t < 5:
            g[t] = 1.0
            exact.step(SparseGrad(np.array([t]), np.ones((1, 2))))
        else:
            exact.step(SparseGrad(np.arange(0), np.empty((0, 2))))
        dense.step(g)
        got = exact.read(0, np.array([0, 6]))
        assert_near(got, q[[0, 6]], bound64(got), f"step {t}")
    exact.flush()
    assert_near(p, q, bound64(q), "flushed before the rate rises")


@each_backend
def test_rates_of_groups(backend):
    rates = [schedule(0.1), falling, 0.05]
    for mode in modes(backend):
        one, other = ([np.ones((7, 2)) for _ in rates] for _ in range(2))
        given = fastopt.Adagrad([{"params": p, "lr": r} for p, r in zip(one, rates, strict=True)], **mode)
        told = fastopt.Adagrad([{"params": p} for p in other], **mode)
        for t in range(50):
            for group, r in zip(told.param_groups, rates, strict=True):
                group["lr"] = r(t) if callable(r) else r
            g = SparseGrad(np.array([t % 7]), np.full((1, 2), 1.0 + t % 3))
            for opt in (given, told):
                opt.step([g, None if t % 5 == 2 else g, g])
        for p, q in zip(one, other, strict=True):
            assert_bits(p, q, str(mode))


@each_backend
@each_optimizer
def test_callable_rate_of_every_optimizer_is_checked(cls, backend):
    for mode in modes(backend):
        if mode["sparse"] == "exact" and not any(rule.catch for rule in cls.rules):
            continue
        p = np.ones(3)
        opt = None
        with pytest.raises(HyperParameterError, match="lr"):
            opt = cls(p, lr=lambda t: math.nan, **mode)  # Rprop, which starts from it, asks already here
            opt.step(np.ones(3))
        assert (p == 1).all()
        assert (opt is None) == (cls is fastopt.Rprop)
        assert opt is None or opt.state_dict()["step"] == 0


# ----------------------------------------------------------------------------------------------------- 10. long runs

LONG = 300_000


def long_run(cls: type, options: dict[str, Any], rows: Sequence[int], reads: Mapping[int, int]) -> tuple[Array, dict]:
    """Steps of one row of four; at the steps of `reads` a row is read. Returns the table and what was read."""
    p = np.array([1.0, -0.5, 0.25, 2.0])
    opt = cls(p, **options, sparse="exact", backend="native")
    grads = [SparseGrad(np.array([k]), np.array([0.5 - k])) for k in range(4)]
    seen = {}
    for t, k in enumerate(rows):
        opt.step(grads[k])
        if t in reads:
            seen[t] = float(opt.read(0, np.array([reads[t]]))[0])
    opt.flush()
    return p, seen


def long_recurrence(step: Callable[..., None], rows: Sequence[int], reads: Mapping[int, int]) -> tuple[list, dict]:
    """The same in Python floats, one element after the other."""
    p, seen = [1.0, -0.5, 0.25, 2.0], {}
    for k in range(4):
        element = [p[k], 0.0, 0.0]
        g = 0.5 - k
        for t, touched in enumerate(rows):
            step(t, element, g if touched == k else 0.0)
            if t in reads and reads[t] == k:
                seen[t] = element[0]
        p[k] = element[0]
    return p, seen


def sgd_step(rate: Callable[[int], float], mu: float, decay: float, decoupled: bool) -> Callable[..., None]:
    def step(t: int, e: list[float], g: float) -> None:
        lr = rate(t)
        if decoupled:
            e[0] *= 1.0 - lr * decay
        else:
            g += decay * e[0]
        e[1] = mu * e[1] + g
        e[0] -= lr * e[1]

    return step


def adam_step(
    rate: Callable[[int], float], beta1: float, beta2: float, eps: float, decay: float
) -> Callable[..., None]:
    bc1 = [1.0 - beta1 ** (t + 1) for t in range(LONG)]
    scale = [1.0 / math.sqrt(1.0 - beta2 ** (t + 1)) for t in range(LONG)]
    take1, take2 = 1.0 - beta1, 1.0 - beta2

    def step(t: int, e: list[float], g: float) -> None:
        lr = rate(t)
        e[1] = beta1 * e[1] + take1 * g
        e[2] = beta2 * e[2] + take2 * (g * g)
        e[0] *= 1.0 - lr * decay
        e[0] -= lr / bc1[t] * (e[1] / (math.sqrt(e[2]) * scale[t] + eps))

    return step


def wave(t: int) -> float:
    return 1e-4 * (1 + t % 1000)


def constant(t: int) -> float:
    return 0.01


LONG_SETTINGS: dict[str, tuple[type, dict[str, Any], Callable[[], Callable[..., None]]]] = {
    "sgd": (fastopt.SGD, {"lr": 0.01, "momentum": 0.9}, lambda: sgd_step(constant, 0.9, 0.0, False)),
    "sgd coupled": (fastopt.SGD, {"lr": 0.01, "weight_decay": 1e-3}, lambda: sgd_step(constant, 0.0, 1e-3, False)),
    "sgd coupled, wave": (
        fastopt.SGD,
        {"lr": wave, "momentum": 0.9, "weight_decay": 1e-3},
        lambda: sgd_step(wave, 0.9, 1e-3, False),
    ),
    "sgd decoupled, wave": (
        fastopt.SGD,
        {"lr": wave, "momentum": 0.9, "weight_decay": 1e-3, "decoupled_weight_decay": True},
        lambda: sgd_step(wave, 0.9, 1e-3, True),
    ),
    "adam": (fastopt.Adam, {"lr": 0.01}, lambda: adam_step(constant, 0.9, 0.999, 1e-8, 0.0)),
    "adamw, wave": (
        fastopt.AdamW,
        {"lr": wave, "weight_decay": 1e-3, "betas": (0.9, 0.95), "eps": 1e-4},
        lambda: adam_step(wave, 0.9, 0.95, 1e-4, 1e-3),
    ),
}


@needs_native
@pytest.mark.parametrize("kind", LONG_SETTINGS)
def test_longer_than_any_history(kind):
    """Row 0 is touched all the time, row 1 now and then, row 2 only at first and in the end, row 3 once."""
    cls, options, law = LONG_SETTINGS[kind]
    step = law()
    rows = [0] * LONG
    for t in (*range(1, 10, 2), *range(1000, LONG, 4099)):
        rows[t] = 1
    for t in (2, 4, 6, LONG - 3, LONG - 1):
        rows[t] = 2
    rows[8] = 3
    reads = {5000: 1, 65_536: 1, 70_000: 2, 100_000: 3, 131_073: 1, 200_000: 0, 262_144: 2}
    got, seen = long_run(cls, options, rows, reads)
    want, expected = long_recurrence(step, rows, reads)
    assert_near(got, np.array(want), bound64(np.array(want)), f"{kind} in the end")
    for t, row in reads.items():
        assert_near(
            np.array(seen[t]), np.array(expected[t]), bound64(np.array(expected[t])), f"{kind} row {row} at {t}"
        )


@needs_native
def test_many_changes_of_options():
    """Thousands of rates set by hand: none is forgotten while a row may still need it."""
    p, q = np.ones((5, 2)), np.ones((5, 2))
    exact = fastopt.AdamW(p, weight_decay=0.01, sparse="exact")
    dense = fastopt.AdamW(q, weight_decay=0.01, backend="numpy")
    every, one = SparseGrad(np.arange(5), np.ones((5, 2))), SparseGrad(np.array([0]), np.ones((1, 2)))
    ones, first = np.ones((5, 2)), np.zeros((5, 2))
    first[0] = 1.0
    for t in range(4000):
        for opt in (exact, dense):
            opt.param_groups[0]["lr"] = 1e-3 * (1 + t % 17)
        exact.step(every if t < 3 else one)
        dense.step(ones if t < 3 else first)
        if t % 1000 == 999:
            row = np.array([t // 1000])
            got = exact.read(0, row)
            assert_near(got, q[row], bound64(got), f"step {t}")
    exact.flush()
    assert_near(p, q, bound64(q), "in the end")


# ------------------------------------------------------------------------------------------- found by reviewers


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_without_momentum_stand_still_however_long(dtype):
    """The series of a very long gap is beyond the dtype; a row that never had a gradient must not notice."""
    for betas, idle in (((0.9, 0.82), 1500), ((0.9, 0.95), 4300)):
        rate = {"lr": 0.0}
        p = np.ones((3, 2), dtype)
        opt = fastopt.Adam(p, lr=0.0, betas=betas, sparse="exact")
        one = SparseGrad(np.array([0]), np.ones((1, 2), dtype))
        for t in range(idle + 5):
            if t == idle:
                opt.param_groups[0]["lr"] = 1e-3
            opt.step(one)
        opt.flush()
        assert (p[1:] == 1).all(), (betas, rate, p)
        assert np.isfinite(p).all()


@needs_native
def test_frequent_reading_does_not_add_up_float32_rounding():
    """Each catch-up rounds once, like a step; a rounded factor would be wrong in the same direction every time."""
    z, none = np.zeros((8, 4), np.float32), SparseGrad(np.array([], int), np.zeros((0, 4), np.float32))
    for more in ({}, {"momentum": 0.8}):
        start = (np.random.default_rng(0).standard_normal((8, 4)) + 3).astype(np.float32)
        opts = [
            fastopt.SGD(p, lr=0.003, weight_decay=0.02, sparse=s, **more)
            for p, s in ((start.copy(), "exact"), (start.copy(), "lazy"), (start.astype(np.float64), "lazy"))
        ]
        for t in range(6000):
            opts[0].step(none)
            opts[1].step(z)
            opts[2].step(z.astype(np.float64))
            if t % 2:
                opts[0].read(0, np.arange(8))
        exact, dense, want = (opt.read(0, np.arange(8)) for opt in opts)
        steps = np.abs(want) * np.sqrt(6000) * 2.0**-24  # as many roundings, each its own way
        assert (np.abs(exact - want) <= np.maximum(2 * np.abs(dense - want).max(), steps)).all(), more


@needs_native
@pytest.mark.parametrize("eps", [1e-22, 1e-25, 1e-28, 1e-30, 1e-35])
def test_a_tiny_epsilon_beside_squares_that_vanish(eps):
    p, q = np.zeros((6, 4), np.float32), np.zeros((6, 4), np.float32)
    exact = fastopt.Adam(p, eps=eps, sparse="exact")
    dense = fastopt.Adam(q, eps=eps, backend="numpy")
    g = (10.0 ** -np.arange(19, 25)[:, None] * np.array([1, -1, 0.3, 2])).astype(np.float32)
    for t in range(80):
        rows = np.arange(6) if t in (0, 40) else np.arange(0)
        exact.step(SparseGrad(rows, g[rows]))
        dense.step(g if t in (0, 40) else np.zeros_like(g))
    exact.flush()
    assert_near(p, q, np.maximum(1e-6, 1e-4 * np.abs(q)), f"eps={eps}")


@needs_native
def test_a_state_dict_that_cannot_be_taken_leaves_the_options():
    table = fastopt.Table(10, 4, fastopt.SGD, lr=0.1)
    other = fastopt.SGD(np.zeros((10, 4), np.float32), lr=0.5, momentum=0.9).state_dict()
    with pytest.raises(fastopt.UnsupportedError):
        table.optimizer.load_state_dict(other)
    group = table.optimizer.param_groups[0]
    assert group["momentum"] == 0
    assert group["lr"] == 0.1
    group["lr"] = 1.0
    table.step(SparseGrad(np.array([3]), np.ones((1, 4), np.float32)))
    assert (table.param[3] == -1).all()


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rprop_whose_bounds_are_changed_on_the_way(dtype, rng):
    """A dense step brings every step size within its bounds, where the gradient is zero, too."""
    start = rng.standard_normal((12, 3)).astype(dtype)
    p, q = start.copy(), start.copy()
    opts = [
        fastopt.Rprop([a, a[:0].copy()], lr=0.5, backend=backend, sparse=sparse)
        for a, backend, sparse in ((p, "native", "exact"), (q, "numpy", "lazy"))
    ]
    bounds = {4: (1e-6, 0.1), 9: (0.3, 2.0), 10: (1e-6, 50), 15: (1e-6, 0.01), 16: (0.4, 1.0)}
    for t in range(20):
        rows, whole = rng.permutation(12)[:3], np.zeros_like(p)
        whole[rows] = rng.standard_normal((3, 3))
        for opt, g in zip(opts, (SparseGrad(rows, whole[rows]), whole), strict=True):
            if t in bounds:
                opt.param_groups[0]["step_sizes"] = bounds[t]
            if t == 15:  # which no step has seen
                opt.step([None, None])
            else:
                opt.step([g, np.zeros((0, 3), dtype)])
        if t % 3 == 0 or t in bounds:
            assert_bits(opts[0].read(0, np.arange(12)), q)
            states = [opt.state_dict()["state"][0] for opt in opts]
            for name in ("prev", "step_size"):
                np.testing.assert_array_equal(states[0][name], states[1][name], f"{t} {name}")
    opts[0].flush()
    assert_bits(p, q)
