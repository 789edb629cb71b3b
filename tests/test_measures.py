"""The optimizers that measure whole parameters before they step: their bits, their sparse steps, what groups remember."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, case_id, cases, native_builds
from test_arguments import each_backend, refused, snapshot
from test_state import assert_same, params_of

import fastopt
from fastopt import SparseGrad, UnsupportedError

NAMES = ["lamb", "lars", "prodigy", "yellowfin"]
each_name = pytest.mark.parametrize("name", NAMES)
each_case = pytest.mark.parametrize("case", [c for c in cases(blocks=False) if c[0] in NAMES], ids=case_id)
each_block_case = pytest.mark.parametrize("case", [c for c in cases() if c[0] in NAMES], ids=case_id)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])

SIZES = [0, 1, 15, 16, 17, 1023, 1024, 1025, 5000, 100003]
MATRICES = [(1, 1), (15, 1), (3, 341), (32, 32), (25, 41), (4, 5, 3), (0, 4)]


def numbers(rng: Any, shape: tuple[int, ...], dtype: type = np.float64) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape), dtype)


def problem(rng: Any, dtype: type) -> list[np.ndarray]:
    params = [numbers(rng, (n,), dtype) for n in SIZES] + [numbers(rng, s, dtype) for s in MATRICES]
    return params + [np.asfortranarray(numbers(rng, s, dtype)) for s in MATRICES]


def ways() -> list[tuple[str, int, int]]:
    return [(isa, *way) for isa in native_builds() for way in [(1, 0), (2, 0), (2, 1000)]]


# --------------------------------------------------------------------------------------------------------------- bits


@needs_native
@each_dtype
@each_case
def test_a_measure_has_the_same_bits_everywhere(case, dtype, forced, use_build, rng):
    """NumPy, every build, one thread and two, whole arrays and chunks, sizes around those of lanes and blocks."""
    name, options = case
    start = problem(rng, dtype)
    steps = [[numbers(rng, p.shape, dtype) for p in start] for _ in range(3)]
    steps[1][4] = steps[1][-3] = None
    want: list[np.ndarray] = []
    memory: Any = None
    for isa, threads, chunk in [("numpy", 1, 0), *ways()]:
        if isa != "numpy":
            use_build(isa)
            forced(threads, chunk)
        params = [p.copy(order="K") for p in start]
        groups = [{"params": params[:12]}, {"params": params[12:], **options, "lr": 0.5}]
        opt = fastopt.Optimizer.known[name](groups, **options, backend="numpy" if isa == "numpy" else "native")
        for grads in steps:
            opt.step(grads)
        d = opt.state_dict()
        got = [*params, *(s[k] for s in d["state"].values() for k in sorted(set(s) - {"step"}))]
        remembered = [g.get("memory") for g in d["param_groups"]]
        want, memory = want or got, memory or remembered
        assert remembered == memory, (isa, threads, chunk)
        for k, (a, b) in enumerate(zip(got, want, strict=True)):
            assert_bits(a, b, f"{isa} {threads} {chunk} array {k} of {a.shape}")
    assert not np.array_equal(want[1], start[1])


@needs_native
@each_dtype
@each_name
def test_a_small_array_alone(name, dtype, forced, use_build, rng):
    """Every size by itself, in chunks of 5."""
    for n in [*range(1, 36, 3), 8, 15, 17, 32, 33, 1024, 1025]:
        start, steps = numbers(rng, (n,), dtype), [numbers(rng, (n,), dtype) for _ in range(3)]
        want = None
        for isa, threads in [("numpy", 1), *itertools.product(native_builds(), (1, 2) if n % 8 == 1 else (1,))]:
            if isa != "numpy":
                use_build(isa)
                forced(threads, 5)
            p = start.copy()
            opt = fastopt.Optimizer.known[name](p, lr=0.1, backend="numpy" if isa == "numpy" else "native")
            for g in steps:
                opt.step(g)
            want = p if want is None else want
            assert_bits(p, want, f"{isa} {threads} {n}")


@needs_native
@each_case
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_odd_numbers_have_the_same_bits(case, rng):
    """Zeros, infinities, NaN, numbers whose squares overflow or vanish: in the parameters, in the gradients."""
    name, options = case
    for dtype in (np.float32, np.float64):
        info = np.finfo(dtype)
        for odd in (0.0, -0.0, np.inf, -np.inf, np.nan, info.max, info.tiny, info.smallest_subnormal):
            for where in ("p", "g", "both", "all"):
                pairs = []
                for backend in ("native", "numpy"):
                    r = np.random.default_rng(1)
                    p = [numbers(r, (20,), dtype), numbers(r, (4, 5), dtype)]
                    steps = [[numbers(r, (20,), dtype), numbers(r, (4, 5), dtype)] for _ in range(3)]
                    at = slice(None) if where == "all" else slice(1, 2)
                    if where != "g":
                        p[1][at] = odd
                    if where != "p":
                        steps[1][1][at] = odd
                    opt = fastopt.Optimizer.known[name](p, **options, backend=backend)
                    for g in steps:
                        opt.step(g)
                    d = opt.state_dict()
                    pairs.append((p, d))
                (p, d), (q, e) = pairs
                for k in range(2):
                    assert_bits(p[k], q[k], f"{odd} {where} {dtype.__name__}")
                    for s in set(d["state"][k]) - {"step"}:
                        assert_bits(d["state"][k][s], e["state"][k][s], f"{odd} {where} {s}")
                assert repr(d["param_groups"]) == repr(e["param_groups"])


@each_backend
@each_case
def test_fortran_order_is_only_another_order(case, backend, rng):
    name, options = case
    c = numbers(rng, (40, 33))
    f = np.asfortranarray(c)
    one, two = (fastopt.Optimizer.known[name](p, **options, backend=backend) for p in (c, f))
    for _ in range(5):
        g = numbers(rng, (40, 33))
        one.step(g)
        two.step(np.asfortranarray(g))
        np.testing.assert_allclose(c, f, rtol=1e-10, atol=1e-12)
    before = f.copy(order="K"), two.state_dict()
    twin = fastopt.Optimizer.known[name](before[0], **options, backend=backend)
    twin.load_state_dict(before[1])
    two.step(g)  # in C order, for a parameter in Fortran order
    twin.step(np.asfortranarray(g))
    assert_bits(f, before[0])


@each_backend
@each_case
def test_maximize_is_the_step_on_negative_gradients(case, backend, rng):
    name, options = case
    p = [numbers(rng, (21,)), numbers(rng, (4, 5))]
    q = [a.copy() for a in p]
    opt = fastopt.Optimizer.known[name](p, **{**options, "maximize": True}, backend=backend)
    other = fastopt.Optimizer.known[name](q, **{**options, "maximize": False}, backend=backend)
    for _ in range(4):
        g = [numbers(rng, a.shape) for a in p]
        opt.grads[0][...], opt.grads[1][...] = g
        opt.step()
        other.step([-a for a in g])
        for a, b in zip(p, q, strict=True):
            assert_bits(a, b)


# ------------------------------------------------------------------------------------------------------------- sparse


@each_backend
@each_dtype
@each_case
def test_all_rows_are_a_dense_step(case, dtype, backend, forced, rng):
    name, options = case
    for threads, chunk in [(1, 7), (2, 100)] if backend == "native" else [(1, 0)]:
        forced(threads, chunk)
        shapes = [(60, 17), (300,), (5, 3, 2), (40, 1), (3, 1030)]
        p = [numbers(rng, s, dtype) for s in shapes]
        q = [a.copy() for a in p]
        opt = fastopt.Optimizer.known[name](p, **options, backend=backend)
        dense = fastopt.Optimizer.known[name](q, **options, backend=backend)
        for t in range(4):
            grads = [numbers(rng, s, dtype) for s in shapes]
            order = [rng.permutation(s[0]) if t % 2 else np.arange(s[0]) for s in shapes]
            opt.step([SparseGrad(o, g[o]) for o, g in zip(order, grads, strict=True)])
            dense.step(grads)
            for k, (a, b) in enumerate(zip(p, q, strict=True)):
                assert_bits(a, b, f"{threads} {chunk} step {t} parameter {k}")
        assert_same(opt, dense)


def part_of(opt: Any, rows: np.ndarray, params: list[np.ndarray]) -> dict[str, Any]:
    """The state dict for parameter 0 cut down to some rows."""
    d = opt.state_dict()
    for s, a in d["state"][0].items():
        if s != "step":
            d["state"][0][s] = a[rows]
    return d


@each_backend
@each_dtype
@each_block_case
def test_a_lazy_step_is_a_dense_step_on_the_rows_that_are_listed(case, dtype, backend, forced, rng):
    """Those in ascending order, as one array; what is measured, remembered and averaged too. The others stay."""
    name, options = case
    for shape in [(40, 17), (200,), (30, 4, 3)]:
        forced(*[(1, 7), (2, 100)][shape[0] % 3 % 2])
        p = [numbers(rng, shape, dtype), numbers(rng, (9,), dtype)]
        opt = fastopt.Optimizer.known[name](p, **options, backend=backend)
        for t in range(6):
            ids = rng.integers(0, shape[0], (7, 1, shape[0])[t % 3])
            values, g = numbers(rng, (len(ids), *shape[1:]), dtype), numbers(rng, (9,), dtype)
            rows = np.unique(ids)
            dense = np.zeros((len(rows), *shape[1:]), dtype)
            first = [np.flatnonzero(ids == r) for r in rows]
            for k, places in enumerate(first):
                dense[k] = values[places[0]]
                for at in places[1:]:
                    dense[k] += values[at]
            part = [p[0][rows], p[1].copy()]
            small = fastopt.Optimizer.known[name](part, **options, backend=backend)
            if t:
                small.load_state_dict(part_of(opt, rows, p))
            before = p[0].copy(), opt.state_dict()["state"][0]
            opt.step([SparseGrad(ids, values), g])
            small.step([dense, g])
            assert_bits(p[0][rows], part[0], f"{shape} step {t}")
            assert_bits(p[1], part[1], f"{shape} step {t}, the other parameter")
            after, want = opt.state_dict(), small.state_dict()
            others = np.setdiff1d(np.arange(shape[0]), rows)
            assert_bits(p[0][others], before[0][others])
            for s in set(want["state"][0]) - {"step"}:
                assert_bits(after["state"][0][s][rows], want["state"][0][s], f"{s} {t}")
                if s in before[1]:
                    assert_bits(after["state"][0][s][others], before[1][s][others], s)
            assert after["param_groups"] == want["param_groups"]


@each_backend
@each_case
def test_no_rows(case, backend, rng):
    """A gradient that lists none advances the counter and moves nothing, if it is alone."""
    name, options = case
    p = numbers(rng, (6, 3))
    opt = fastopt.Optimizer.known[name](p, **options, backend=backend)
    for t in range(4):
        if t % 2:
            before = p.copy()
            opt.step(SparseGrad(np.zeros(0, np.int64), np.zeros((0, 3))))
            assert_bits(p, before)
            assert opt.state_dict()["state"][0]["step"] == t + 1
        else:
            opt.step(SparseGrad(np.array([1, 4, 1]), numbers(rng, (3, 3))))
    assert np.isfinite(p).all()


@each_name
def test_exact_steps_are_refused(name):
    cls = fastopt.Optimizer.known[name]
    for params in (np.ones((3, 2)), [np.ones(3)], {"w": np.ones(3)}):
        with refused(UnsupportedError, cls.__name__, "exact", "lazy"):
            cls(params, sparse="exact")
    with refused(UnsupportedError, "exact", "lazy"):
        fastopt.Table(5, 2, cls, sparse="exact")


@each_dtype
@each_case
@pytest.mark.parametrize("width", [1, 4, 17])
def test_a_table_has_the_bits_of_arrays(case, width, dtype, forced, rng):
    name, options = case
    forced(2, 0)
    for backend in ("native", "numpy"):
        table = fastopt.Table(40, width, name, dtype=dtype, **options, backend=backend)
        start = numbers(rng, (40, width), dtype)
        table.param[...] = start
        if name == "prodigy":  # what it starts from was taken when the table was made; it has been written since
            table.state["p0"][...] = start
        p = start.copy()
        opt = fastopt.Optimizer.known[name](p, **options, backend=backend)
        for t in range(5):
            ids = rng.integers(0, 40, 12)
            g = SparseGrad(ids, numbers(rng, (12, width), dtype)) if t != 3 else numbers(rng, (40, width), dtype)
            table.step(g)
            opt.step(g)
            assert_bits(np.array(table.param), p, f"{backend} step {t}")
        assert_same(table.optimizer, opt, parameters=False)


# ------------------------------------------------------------------------------------------------ what is remembered


@each_backend
@each_dtype
@each_case
def test_steps_go_on_from_a_state_dict(case, dtype, backend, rng):
    """Saved, loaded, pickled, copied; also into the other backend, after every step."""
    name, options = case
    cls = fastopt.Optimizer.known[name]
    p = {"a": numbers(rng, (30,), dtype), "b": np.asfortranarray(numbers(rng, (4, 5), dtype))}
    opt = cls([{"params": {"a": p["a"]}}, {"params": {"b": p["b"]}, "lr": 0.3}], **options, backend=backend)
    for t in range(8):
        fresh = [{"params": {k: v.copy(order="K")}} for k, v in p.items()]  # options come from the state dict
        loaded = cls(fresh, backend="numpy" if t % 2 else "auto")
        loaded.load_state_dict(pickle.loads(pickle.dumps(opt.state_dict())))
        g: dict[str, Any] = {k: numbers(rng, v.shape, dtype) for k, v in p.items()}
        if t == 4:
            g["b"] = None
        others = [loaded, pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)]
        for o in others:
            assert_same(o, opt)
        for o in (opt, *others):
            o.step(g)
        for o in others:
            assert_same(o, opt)
    memories = [g.get("memory") for g in opt.state_dict()["param_groups"]]
    assert all((m is not None) == (name in ("prodigy", "yellowfin")) for m in memories)
    if memories[0]:
        assert memories[0] != memories[1]
        d = opt.state_dict()
        d["param_groups"][0]["memory"].clear()  # a copy
        assert [g.get("memory") for g in opt.state_dict()["param_groups"]] == memories


@each_backend
@pytest.mark.parametrize("name", ["prodigy", "yellowfin"])
def test_a_bad_memory_is_refused(name, backend, rng):
    opt = fastopt.Optimizer.known[name]({"w": numbers(rng, (4,))}, backend=backend)
    opt.step({"w": numbers(rng, (4,))})
    good = opt.state_dict()
    for change in (
        lambda m: {k: v for k, v in m.items() if k != "steps"},
        lambda m: {**m, "nonsense": 1.0},
        lambda m: {**m, "steps": "x"},
        lambda m: 3,
        lambda m: {**m, "steps": -1},
        lambda m: {**m, "steps": 1.5},
        lambda m: {**m, next(k for k in m if k != "steps" and k != "window"): "x"},
    ):
        bad = copy.deepcopy(good)
        bad["param_groups"][0]["memory"] = change(bad["param_groups"][0]["memory"])
        before = snapshot(opt)
        with pytest.raises(fastopt.FastoptError):
            opt.load_state_dict(bad)
        assert snapshot(opt) == before


@each_backend
@each_case
def test_groups_are_measured_apart(case, backend, rng):
    """Two groups are two optimizers."""
    name, options = case
    cls = fastopt.Optimizer.known[name]
    start = [numbers(rng, (30,)), numbers(rng, (4, 5)), numbers(rng, (6, 2))]
    p, q = ([a.copy() for a in start] for _ in range(2))
    both = cls([{"params": p[:2]}, {"params": p[2]}], **options, backend=backend)
    apart = [cls(q[:2], **options, backend=backend), cls(q[2:], **options, backend=backend)]
    for t in range(6):
        g: list[Any] = [numbers(rng, a.shape) for a in p]
        if t == 2:
            g[1] = None
        if t == 4:
            g[2] = SparseGrad(np.array([1, 5]), numbers(rng, (2, 2)))
        both.step(g)
        apart[0].step(g[:2])
        apart[1].step(g[2:])
        for k, (a, b) in enumerate(zip(p, q, strict=True)):
            assert_bits(a, b, f"step {t} parameter {k}")


@each_backend
@each_name
def test_groups_added_later_begin_anew(name, backend, rng):
    cls = fastopt.Optimizer.known[name]
    p, q = numbers(rng, (9,)), numbers(rng, (4, 3))
    r = q.copy()
    opt = cls([p], backend=backend)
    for _ in range(3):
        opt.step([numbers(rng, (9,))])
    opt.add_param_group({"params": q})
    alone = cls([r], backend=backend)
    for _ in range(3):
        g = numbers(rng, (4, 3))
        opt.step([numbers(rng, (9,)), g])
        alone.step([g])
        assert_bits(q, r)


# --------------------------------------------------------------------------------------------------- by themselves


@each_backend
def test_lamb_and_lars_where_a_norm_is_zero(backend):
    """The ratio is 1: a parameter of zeros moves, a gradient of zeros does not make it NaN."""
    for shape in ((6,), (2, 3)):
        p = np.zeros(shape)
        fastopt.LAMB(p, lr=0.1, backend=backend).step(np.ones(shape))
        np.testing.assert_allclose(p, -0.1, rtol=1e-5)
        p = np.ones(shape)
        fastopt.LAMB(p, lr=0.1, backend=backend).step(np.zeros(shape))
        assert_bits(p, np.ones(shape))
        p = np.zeros(shape)
        fastopt.LARS(p, lr=0.1, backend=backend).step(np.ones(shape))
        np.testing.assert_allclose(p, -0.1, rtol=1e-12)
        p = np.ones(shape)
        fastopt.LARS(p, lr=0.1, backend=backend).step(np.zeros(shape))
        assert_bits(p, np.ones(shape))
    p = np.full((2, 2), 2.0)  # norm 4; of the gradient 8: ratio 0.5 * 4 / 8
    fastopt.LARS(p, lr=1.0, trust_coefficient=0.5, backend=backend).step(np.full((2, 2), 4.0))
    assert_bits(p, np.full((2, 2), 1.0))
    p = np.full(4, 2.0)  # arrays of one dimension have no ratio
    fastopt.LARS(p, lr=1.0, trust_coefficient=0.5, backend=backend).step(np.full(4, 4.0))
    assert_bits(p, np.full(4, -2.0))


@each_backend
def test_lamb_s_ratio_where_the_decay_turns_the_parameter_round(backend):
    """A norm has no sign: with lr * weight_decay above 1 the parameter changes its sign, and the ratio does not become 1."""
    p = np.full((2, 2), 2.0)
    fastopt.LAMB(p, lr=0.5, weight_decay=6.0, decoupled_weight_decay=True, eps=0.0, backend=backend).step(
        np.ones((2, 2))
    )
    np.testing.assert_allclose(p, -4.0 - 0.5 * 4.0, rtol=1e-12)  # norms: 8 of the decayed parameter, 2 of the update


@each_backend
@pytest.mark.parametrize("options", [{}, {"momentum": 0.0}, {"nesterov": True}], ids=str)
def test_lars_with_gradients_whose_quotient_float32_cannot_hold(options, backend):
    p = np.ones((16, 16), np.float32)
    opt = fastopt.LARS(p, lr=1.0, backend=backend, **options)
    for _ in range(3):
        opt.step(np.full((16, 16), 1e-42, np.float32))
    assert np.isfinite(p).all()
    assert (p < 1).all()


@each_backend
def test_prodigy_without_gradients_stands_still(backend, rng):
    p = numbers(rng, (5,))
    q = p.copy()
    opt = fastopt.Prodigy(p, d0=1e-2, weight_decay=0.1, backend=backend)
    fresh = fastopt.Prodigy(q, d0=1e-2, weight_decay=0.1, backend=backend)
    for _ in range(3):
        opt.step(np.zeros(5))
        assert_bits(p, q)
    for _ in range(5):
        g = numbers(rng, (5,))
        opt.step(g)
        fresh.step(g)
        np.testing.assert_allclose(p, q, rtol=1e-12)


@each_backend
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_prodigy_finds_its_rate(scale, backend):
    """Lengths that the estimate is built for: from d0 up to about the distance to the solution."""
    p = np.zeros(20)
    target = scale * np.linspace(-1, 1, 20)
    opt = fastopt.Prodigy(p, d0=1e-6 * scale, backend=backend)
    for _ in range(600):
        opt.step(np.sign(p - target) * 0.5 + (p - target) / scale)
    d = opt.state_dict()["param_groups"][0]["memory"]["d"]
    assert 1e-3 * scale < d < 10 * scale
    assert np.abs(p - target).max() < 0.2 * scale


@each_backend
def test_yellowfin_goes_down_a_quadratic(backend, rng):
    p = np.ones(30)
    curvature = np.geomspace(0.1, 10, 30)
    opt = fastopt.YellowFin(p, beta=0.99, backend=backend)
    start = float(np.sum(curvature * p * p))
    for _ in range(1500):
        opt.step(curvature * p + 0.01 * rng.standard_normal(30))
    assert float(np.sum(curvature * p * p)) < 0.05 * start


@each_backend
@each_name
def test_a_parameter_without_a_gradient_is_not_touched(name, backend, rng):
    p = [numbers(rng, (9,)), numbers(rng, (4, 3))]
    opt = fastopt.Optimizer.known[name](p, backend=backend)
    opt.step([numbers(rng, (9,)), numbers(rng, (4, 3))])
    before, q = opt.state_dict(), p[1].copy()
    opt.step([numbers(rng, (9,)), None])
    after = opt.state_dict()
    assert_bits(p[1], q)
    for s, a in before["state"][1].items():
        assert np.array_equal(a, after["state"][1][s]), s
    opt.step([None, None])
    assert opt.state_dict()["step"] == 3
    assert [s["step"] for s in opt.state_dict()["state"].values()] == [2, 1]
    assert opt.state_dict()["param_groups"] == after["param_groups"] or name == "yellowfin"
    assert all(np.isfinite(a).all() for a in params_of(opt))
