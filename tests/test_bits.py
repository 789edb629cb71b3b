"""Promise 1: a compiled kernel returns the bits of its NumPy reference."""

from __future__ import annotations

import decimal

import numpy as np
import pytest
from conftest import needs_native
from settings import MATRICES, SETTINGS, assert_bits, case_id, cases, native_builds

import fastopt
from fastopt import kernels
from fastopt.optimizers.powers import powers

pytestmark = needs_native

SIZES = [*range(71), 1023, 1024, 1025]
LARGE = 100003
STEPS = 20


def offset_array(rng: np.random.Generator, n: int, dtype: type, byte: int) -> np.ndarray:
    """An array of n elements that begins `byte` bytes after a 64-byte boundary."""
    room = np.zeros((n + 32) * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -room.__array_interface__["data"][0] % 64 + byte
    a = room[start : start + n * np.dtype(dtype).itemsize].view(dtype)
    a[...] = rng.standard_normal(n)
    return a


def odd_gradient(rng: np.random.Generator, like: np.ndarray, special: bool) -> np.ndarray:
    """Numbers of all magnitudes; where `special`, with zeros of both signs, subnormals, infinities and NaN among them."""
    n, dtype = like.size, like.dtype
    g = (rng.standard_normal(n) * 10.0 ** rng.uniform(-12, 8, n)).astype(dtype)
    if special and n:
        info = np.finfo(dtype)
        odd = np.array(
            [
                0.0,
                -0.0,
                info.smallest_subnormal,
                -7 * info.smallest_subnormal,
                info.tiny / 2,
                info.max,
                np.inf,
                -np.inf,
                np.nan,
            ],
            dtype,
        )
        where = rng.random(n) < 0.3
        # Zeros and subnormals everywhere, what poisons an element for good in a third of the places.
        pick = np.where(np.arange(n) % 3 == 0, rng.integers(0, len(odd), n), rng.integers(0, 5, n))
        g = np.where(where, odd[pick], g)
    return g


def make(rng: np.random.Generator, dtype: type) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Parameters of every size, at all byte offsets that keep the alignment, and their gradients of each step."""
    size = np.dtype(dtype).itemsize
    places = 64 // size  # every size meets four of them, neighbouring sizes others
    params = [
        offset_array(rng, n, dtype, byte)
        for n in SIZES
        for byte in ([(7 * n + k * places // 4) % places * size for k in range(4)] if n < 71 else [0, size, 64 - size])
    ]
    params.append(offset_array(rng, LARGE, dtype, size))
    room = [offset_array(rng, p.size, dtype, (3 * k * size) % 64) for k, p in enumerate(params)]
    steps = []
    for _ in range(STEPS):
        grads = []
        for k, (p, g) in enumerate(zip(params, room, strict=True)):
            g = offset_array(rng, p.size, dtype, (5 * k * size) % 64)
            g[...] = odd_gradient(rng, p, special=k % 2 == 0)
            grads.append(g)
        steps.append(grads)
    return params, steps


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def problem(request: pytest.FixtureRequest):
    return make(np.random.default_rng(5), request.param)


@pytest.mark.parametrize("case", cases(), ids=case_id)
def test_dense_equals_reference(case, problem, forced, use_build):
    name, options = case
    start, steps = problem
    if options not in SETTINGS[name]:  # block operations, which know nothing of the rules: fewer steps
        steps = steps[: STEPS // 3]
    cls = fastopt.Optimizer.known[name]
    if cls.plan is not None:
        # They have no spans, whose heads and tails depend on where an array lies, and run many slow passes for each array.
        some = slice(None, None, 7)
        start, steps = [*start[some], *start[-10:]], [[*grads[some], *grads[-10:]] for grads in steps[:4]]
    opts, owned = {}, {}

    def build(key: object, **kw: object) -> None:
        owned[key] = []
        for p in start:  # the same offset for the copy
            room = np.zeros(p.nbytes + 128, np.uint8)
            at = -room.__array_interface__["data"][0] % 64 + p.__array_interface__["data"][0] % 64
            q = room[at : at + p.nbytes].view(p.dtype)
            q[...] = p
            owned[key].append(q)
        opts[key] = cls(owned[key], **options, **kw)

    build("reference", backend="numpy")
    for isa in native_builds():
        use_build(isa)
        for threads in (1, 2):
            build((isa, threads), backend="native")
    for t, grads in enumerate(steps):
        for key, opt in opts.items():
            if key != "reference":
                # Chunks of 7 elements while the arrays are small enough for it to end; the last steps undivided.
                forced(key[1], 7 if t == 0 else 1000 if t < len(steps) // 2 else 0)
            opt.step(grads)
    want = opts.pop("reference").state_dict()
    for key, opt in opts.items():
        got = opt.state_dict()
        assert got["step"] == want["step"] == len(steps)
        for i, p in enumerate(owned[key]):
            assert_bits(p, owned["reference"][i], f"{key} parameter {i} of {p.size}")
            assert got["state"][i].keys() == want["state"][i].keys()
            for state, a in got["state"][i].items():
                if state == "step":
                    assert a == want["state"][i]["step"] == len(steps)
                else:
                    assert_bits(a, want["state"][i][state], f"{key} {state} {i} of {p.size}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", cases(), ids=case_id)
def test_all_rows_and_all_elements_equal_dense(case, dtype, forced, use_build, rng):
    name, options = case
    cls = fastopt.Optimizer.known[name]
    shapes = [(1,), (257,), (130, 1), (67, 3), (40, 16), (41, 17), (19, 33), (5, 7, 11), (3, 1030), (0, 4)]
    start = [rng.standard_normal(s).astype(dtype) for s in shapes]
    runs = {("dense", "numpy", 1): [p.copy() for p in start]}
    opts = {("dense", "numpy", 1): cls(runs["dense", "numpy", 1], **options, backend="numpy")}
    for isa in [*native_builds(), "numpy"]:
        for threads in (1, 2):
            if isa != "numpy":
                use_build(isa)
            key = ("rows", isa, threads)
            runs[key] = [p.copy() for p in start]
            opts[key] = cls(runs[key], **options, backend="numpy" if isa == "numpy" else "native")
    for _ in range(4):
        grads = [odd_gradient(rng, p.ravel(), special=True).reshape(p.shape) for p in start]
        order = [rng.permutation(len(p)) for p in start]
        sparse = [fastopt.SparseGrad(o, g[o]) for o, g in zip(order, grads, strict=True)]
        for (kind, isa, threads), opt in opts.items():
            if isa != "numpy":
                forced(threads, 5)
            opt.step(grads if kind == "dense" else sparse)
    for key, params in runs.items():
        for i, p in enumerate(params):
            assert_bits(p, runs["dense", "numpy", 1][i], f"{key} {shapes[i]}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SETTINGS)
def test_some_rows_equal_reference(name, dtype, forced, use_build, rng):
    cls = fastopt.Optimizer.known[name]
    options = {
        "sgd": {"momentum": 0.9, "dampening": 0.5},
        "adam": {"weight_decay": 0.1},
        "rmsprop": {"centered": True},
    }.get(name, SETTINGS[name][0])
    for shape in [(300, 3), (300, 40)] if name in MATRICES else [(300,), (300, 3), (300, 40)]:
        start = rng.standard_normal(shape).astype(dtype)
        gradients = []
        for k in range(6):
            ids = rng.integers(0, 300, [50, 0, 1, 299, 1000, 33][k])
            gradients.append(fastopt.SparseGrad(ids, rng.standard_normal((len(ids), *shape[1:])).astype(dtype)))
        gradients.insert(3, rng.standard_normal(shape).astype(dtype))
        want = start.copy()
        reference = cls(want, **options, backend="numpy")
        for g in gradients:
            reference.step(g)
        for isa in native_builds():
            use_build(isa)
            for threads in (1, 2):
                forced(threads, 3)
                p = start.copy()
                opt = cls(p, **options, backend="native")
                for g in gradients:
                    opt.step(g)
                assert_bits(p, want, f"{isa} {threads} {shape}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipping_by_rows_in_any_order_equals_reference(dtype, forced, rng):
    """The norm is that of the rows in ascending order, whatever the order of a gradient without repeats."""
    start = rng.standard_normal((70, 7)).astype(dtype)
    for threads in (1, 2):
        forced(threads, 5)
        made = [start.copy() for _ in range(3)]
        opts = [
            fastopt.SGD(p, transforms=[fastopt.clip_global_norm(0.5)], backend=b)
            for p, b in zip(made, ["native", "numpy", "native"], strict=True)
        ]
        for _ in range(20):
            g, order = rng.standard_normal((70, 7)).astype(dtype), rng.permutation(70)
            for k, opt in enumerate(opts):
                opt.step(g if k == 2 else fastopt.SparseGrad(order, g[order]))
            assert_bits(made[0], made[2])
            assert_bits(made[1], made[2])


def test_the_override_really_divides_the_work(forced):
    """Without it the threaded tests on small arrays would be vacuous: threads that see each other's stores prove it."""
    forced(2, 7)
    p = np.zeros(1001, np.float32)
    opt = fastopt.SGD(p, lr=1.0)
    opt.step(np.full(1001, -1, np.float32))
    assert (p == 1).all()
    assert kernels.drivers.last_team() == 2


@pytest.mark.parametrize("threads", [3, 5])
def test_shares_of_more_threads_meet_without_gap_or_overlap(threads, forced, rng):
    """SGD counts how often an element was updated."""
    for n in (1, 6, 7, 8, 50, 64, 1001):
        for chunk in (1, 7, 10):
            forced(threads, chunk)
            params = [np.zeros(n, np.float32), np.zeros((n, 3), np.float32)]
            fastopt.SGD(params, lr=1.0).step(
                [np.full(n, -1, np.float32), fastopt.SparseGrad(np.arange(n), np.full((n, 3), -1, np.float32))]
            )
            assert all((p == 1).all() for p in params), (n, chunk)


def test_powers_are_exact_to_an_ulp_and_depend_on_the_step_alone():
    steps = np.unique(np.concatenate([np.arange(300), np.random.default_rng(0).integers(0, 10**6, 300)]))
    with decimal.localcontext() as context:
        context.prec = 60
        for beta in (0.9, 0.999, 0.99999, 0.5, 0.0, 1 - 1e-9):
            got = powers(beta, steps)
            assert (got == [powers(beta, np.array([t]))[0] for t in steps]).all()
            for x, t in zip(got.tolist(), steps.tolist(), strict=True):
                exact = decimal.Decimal(beta) ** t if t else decimal.Decimal(1)
                if exact > decimal.Decimal("1e-290"):
                    assert abs(decimal.Decimal(x) - exact) < decimal.Decimal(float(np.spacing(x))) * decimal.Decimal(
                        "0.51"
                    )


def test_slices_give_the_bits_of_the_whole(rng):
    """An element's result does not depend on where in the array it stands."""
    for dtype in (np.float32, np.float64):
        p, g = rng.standard_normal((2, 1000)).astype(dtype)
        whole, part = p.copy(), p[37:].copy()
        a, b = fastopt.Adam(whole), fastopt.Adam(part)
        for _ in range(5):
            a.step(g)
            b.step(g[37:].copy())
        assert_bits(whole[37:], part)
