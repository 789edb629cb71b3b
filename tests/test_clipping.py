"""Clipping by value, by the norm of a parameter and of a unit; and gradient noise.

Expected values are the formulas in plain NumPy, and the optimizer without the option, fed by hand.
"""

from __future__ import annotations

import copy
import math
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from settings import SETTINGS, assert_bits, decay, native_builds
from test_arguments import each_backend, each_optimizer, refused
from test_transforms import kinds_of_gradients, numbers, square_sum

import fastopt
from fastopt import DTypeError, HyperParameterError, NonFiniteError, SparseGrad, UnsupportedError, clip_global_norm
from fastopt.elementary import normals_of
from fastopt.transforms import clip_adaptive, clip_norm, clip_value, ema, noise, polyak, swa

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
SHAPES = [(1500,), (3, 700), (), (40, 3), (0, 3), (5, 4, 3)]


def by_value(g: np.ndarray, limit: float) -> np.ndarray:
    return np.clip(g, -g.dtype.type(limit), g.dtype.type(limit))


def by_norm(g: np.ndarray, most: float) -> np.ndarray:
    return np.asarray(g * g.dtype.type(min(1.0, most / (math.sqrt(square_sum(g)) + 1e-6))))


def adapted(g: np.ndarray, p: np.ndarray, clipping: float, eps: float, axis: int) -> np.ndarray:
    """As in the paper, in float64."""
    g, p = g.astype(float), p.astype(float)
    over = None if g.ndim < 2 else tuple(range(1, g.ndim)) if axis == 0 else tuple(range(g.ndim - 1))
    norm, least = (np.sqrt(np.sum(x * x, axis=over, keepdims=over is not None)) for x in (g, p))
    most = clipping * np.maximum(least, eps)
    return np.where(norm > most, g * (most / np.maximum(norm, 1e-6)), g)


def drawn(t: Any, step: int, which: int, like: np.ndarray) -> np.ndarray:
    """The noise of a step counted from 0."""
    sigma = like.dtype.type(math.sqrt(t.eta * (step + 1.0) ** -t.gamma))
    z = normals_of(np.arange(like.size), which, step, t.seed).astype(like.dtype)
    return (sigma * z).reshape(like.shape, order="F" if like.flags.f_contiguous else "C")


def setting(cls: type) -> dict[str, Any]:
    return SETTINGS[next(name for name in SETTINGS if fastopt.Optimizer.known[name] is cls)][0]


@each_backend
@each_dtype
@each_optimizer
@pytest.mark.parametrize("maximize", [False, True])
def test_a_step_with_transforms_is_a_step_on_transformed_gradients(cls, maximize, dtype, backend, rng):
    """Value, norm, noise and coupled decay in this order, for each rule, whatever it measures."""
    start = [numbers(rng, s, dtype) for s in SHAPES]
    one, two = ([p.copy() for p in start] for _ in range(2))
    shake = noise(0.3, 0.7, seed=11)
    options, sign = (
        {**(decay(cls, 0.05) if maximize else {}), **setting(cls), "maximize": maximize},
        -1 if maximize else 1,
    )
    opt = cls(one, **options, transforms=[shake, clip_norm(12.0), clip_value(1.2)], backend=backend)
    by_hand = cls(two, **options, backend=backend)
    for t in range(3):
        grads: list[Any] = [numbers(rng, s, dtype, (1, 0.1, 7)[t]) for s in SHAPES]
        grads[3] = None if t == 1 else grads[3]
        opt.step(grads)
        by_hand.step(
            [
                None if g is None else np.asarray(by_norm(by_value(g, 1.2), 12.0) + sign * drawn(shake, t, k, g))
                for k, g in enumerate(grads)
            ]
        )
        for k, (p, q) in enumerate(zip(one, two, strict=True)):
            assert_bits(p, q, f"step {t} parameter {k}")


@each_backend
@each_dtype
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("name", ["sgd", "adam", "lamb", "rowwiseadagrad"])
def test_adaptive_clipping_is_its_formula(name, axis, dtype, backend, rng):
    """For units that are above and below the bound, in both memory orders."""
    cls = fastopt.Optimizer.known[name]
    start = [numbers(rng, s, dtype) for s in SHAPES]
    start += [np.asfortranarray(numbers(rng, s, dtype)) for s in ((6, 50), (5, 4, 3))]
    start[1][0] = 0  # counts for eps
    one, two = ([p.copy(order="K") for p in start] for _ in range(2))
    opt = cls(one, lr=0.1, transforms=[clip_adaptive(0.05, 0.2, axis=axis)], backend=backend)
    by_hand = cls(two, lr=0.1, backend=backend)
    changed = 0
    for _ in range(3):
        grads = [numbers(rng, p.shape, dtype, 0.06) for p in start]
        grads[1][1] *= 100
        clipped = [adapted(g, p, 0.05, 0.2, axis) for g, p in zip(grads, two, strict=True)]
        changed += sum(np.count_nonzero(np.isclose(c, g)) for c, g in zip(clipped, grads, strict=True))
        opt.step(grads)
        by_hand.step([np.asarray(c.astype(dtype), order="C") for c in clipped])
        tolerance = 3e-5 if dtype is np.float32 else 1e-12
        for k, (p, q) in enumerate(zip(one, two, strict=True)):
            np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance, err_msg=f"parameter {k}")
    assert 0 < changed < 3 * sum(p.size for p in start)


@each_backend
@each_dtype
@pytest.mark.parametrize("shape, axis", [((2, 5), 0), ((5, 2), -1), ((5,), 0)])
def test_adaptive_clipping_at_its_edges(shape, axis, dtype, backend):
    """Norms below 1e-6 count for that, one at the bound is left alone, and one that is NaN clips nothing."""

    def step(g: np.ndarray, clipping: float, eps: float) -> np.ndarray:
        p = np.zeros(shape, dtype)
        fastopt.SGD(p, lr=1.0, transforms=[clip_adaptive(clipping, eps, axis=axis)], backend=backend).step(g)
        return 0.0 - p

    g, one = np.zeros(shape, dtype), (0,) * len(shape)
    g[one] = dtype(8e-7)
    np.testing.assert_allclose(step(g, 0.5, 1e-6)[one], 4e-7, rtol=1e-6)
    g[one] = 0.5
    assert_bits(step(g, 0.5, 1.0), g)
    g[...], g[one] = 100.0, np.nan
    got, expected = step(g, 0.5, 1.0), g.copy()
    if len(shape) == 2:  # the other unit is clipped
        expected[(1,) if axis == 0 else (slice(None), 1)] = 0.5 / math.sqrt(5)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@each_backend
def test_adaptive_clipping_of_listed_rows_is_that_of_a_parameter_of_these_rows(backend, rng):
    """Repeated rows are summed first; with either axis; of one dimension, too."""
    for shape in ((30, 7), (30, 20), (30, 2, 3), (30,)):
        for axis in (0, -1):
            table = numbers(rng, shape)
            rows, values = rng.integers(0, 30, 25), numbers(rng, (25, *shape[1:]))
            listed = np.unique(rows)
            part, total = table[listed].copy(), np.zeros(shape)
            np.add.at(total, rows, values)
            for p, g in ((table, SparseGrad(rows, values)), (part, total[listed])):
                fastopt.SGD(p, lr=1.0, transforms=[clip_adaptive(0.1, axis=axis)], backend=backend).step(g)
            np.testing.assert_allclose(table[listed], part, rtol=1e-12, atol=1e-13)


@needs_native
@each_dtype
@pytest.mark.parametrize(
    "transforms",
    [
        [clip_value(0.7), clip_norm(3.0), ema(0.5)],
        [clip_adaptive(0.02), noise(0.1, seed=3)],
        [clip_value(0.5), clip_adaptive(0.02, axis=-1)],
        [clip_value(0.9), clip_global_norm(4.0), noise(0.2), swa()],
    ],
    ids=lambda ts: "-".join(type(t).__name__ for t in ts),
)
def test_the_bits_are_the_same_everywhere(transforms, dtype, forced, use_build, rng):
    """Sparse, SciPy's, strided, Fortran-ordered gradients, None; groups; builds, threads, chunks, NumPy."""
    start, _ = kinds_of_gradients(rng, dtype)
    steps = [kinds_of_gradients(rng, dtype)[1] for _ in range(2)]
    for cls in (fastopt.Adam, fastopt.LAMB, fastopt.SM3):
        want: list[Any] = []
        for isa, threads, chunk in [
            ("numpy", 1, 0),
            *((b, t, c) for b in native_builds() for t, c in [(1, 7), (2, 100)]),
        ]:
            if isa != "numpy":
                use_build(isa)
                forced(threads, chunk)
            params = [p.copy(order="K") for p in start]
            opt = cls(
                [{"params": params[:4]}, {"params": params[4:], "lr": 0.1, "maximize": True}],
                transforms=transforms,
                backend="numpy" if isa == "numpy" else "native",
            )
            for grads in steps:
                opt.step(grads)
            state = opt.state_dict()["state"]
            got = [*params, *(a for k in state for name, a in state[k].items() if name != "step")]
            want = want or got
            for k, (a, b) in enumerate(zip(got, want, strict=True)):
                assert_bits(a, b, f"{cls.__name__} {isa} {threads} {chunk} array {k}")


@each_backend
@pytest.mark.parametrize("axis", [0, -1])
def test_a_step_on_all_rows_is_a_dense_step(axis, backend, rng):
    """Also of a Table, whose rows stand apart."""
    transforms = [clip_value(1.0), clip_adaptive(0.03, axis=axis), noise(0.2)]
    for width in (1, 3, 40):
        start, g = numbers(rng, (50, width), np.float32), numbers(rng, (50, width), np.float32)
        params = [start.copy(), start.copy()]
        options: dict[str, Any] = {"transforms": transforms, "backend": backend}
        tables = [fastopt.Table(50, width, fastopt.Adam, **options) for _ in params]
        for table in tables:
            table.param[...] = start
        opts = [*(fastopt.Adam(p, **options) for p in params), *tables]
        for _ in range(3):
            order = rng.permutation(50)
            for opt, given in zip(opts, [g, SparseGrad(order, g[order])] * 2, strict=True):
                opt.step(given)
        for p in (params[1], *(np.array(table.param) for table in tables)):
            assert_bits(p, params[0])


@each_backend
def test_what_is_not_finite(backend):
    """NaN passes a limit, and infinities are found before it."""
    g = np.array([1.0, np.nan, np.inf, -np.inf, -0.0, 0.3])
    p = np.zeros(6)
    fastopt.SGD(p, lr=1.0, transforms=[clip_value(0.5)], backend=backend).step(g)
    assert_bits(p + 0.0, np.array([-0.5, np.nan, -0.5, 0.5, 0.0, -0.3]))
    for transforms in (
        [clip_value(0.5)],
        [clip_value(0.5), clip_norm(1.0)],
        [clip_value(0.5), clip_adaptive()],
        [noise()],
    ):
        for bad in (np.nan, np.inf, -np.inf):
            q = [np.ones((2, 3)), np.ones(5)]
            opt = fastopt.SGD(q, lr=1.0, transforms=transforms, nonfinite="raise", backend=backend)
            odd = np.ones(5)
            odd[4] = bad
            with refused(NonFiniteError, "1", opt=opt, watch=q):
                opt.step([np.ones((2, 3)), odd])
    for t, want in ((clip_value(0.5), -0.5), (clip_norm(1.0), 0.0), (noise(1e-300), -1e200)):  # too large to be squared
        q = [np.zeros(5)]
        fastopt.SGD(q, lr=1.0, transforms=[t], nonfinite="raise", backend=backend).step([np.full(5, 1e200)])
        assert_bits(q[0] + 0.0, np.full(5, want))
    q = [np.zeros(3), np.zeros(2)]
    opt = fastopt.SGD(q, lr=1.0, transforms=[clip_norm(1.0)], backend=backend)
    opt.step([np.array([1.0, np.nan, 1.0]), np.ones(2)])
    assert np.isnan(q[0]).all()
    np.testing.assert_allclose(q[1], -math.sqrt(0.5), rtol=1e-6)  # of its own norm


@each_backend
@pytest.mark.parametrize("name", ["sgd", "adam", "lion"])
def test_exact_mode(name, backend, rng):
    """A limit and a norm of each parameter are those of dense steps with zeros for the other rows."""
    cls = fastopt.Optimizer.known[name]
    transforms = [clip_value(0.8), clip_norm(0.5)]
    sparse, dense = numbers(rng, (30, 5)), np.zeros((30, 5))
    dense[...] = sparse
    opt = cls(sparse, sparse="exact", transforms=transforms, backend=backend)
    reference = cls(dense, transforms=transforms, backend=backend)
    for t in range(25):
        rows = rng.permutation(30)[: (3, 1, 0)[t % 3]]
        values, full = numbers(rng, (len(rows), 5)), np.zeros((30, 5))
        full[rows] = values
        opt.step(SparseGrad(rows, values))
        reference.step(full)
    opt.flush()
    np.testing.assert_allclose(sparse, dense, rtol=1e-9, atol=1e-12)
    for bad in (noise(), clip_adaptive()):
        with refused(UnsupportedError, "exact", "lazy"):
            cls(np.ones((3, 2)), sparse="exact", transforms=[bad])


# -------------------------------------------------------------------------------------------------------------- noise


def shaken(params: Any, steps: int = 1, backend: str = "native", **kw: Any) -> Any:
    """What SGD with rate -1 makes of parameters of zeros and no gradient: the sum of the noise."""
    opt = fastopt.SGD(
        params, lr=1.0, maximize=True, transforms=[noise(**{"eta": 1.0, "gamma": 0.0, **kw})], backend=backend
    )
    for _ in range(steps):
        opt.step([np.zeros_like(p) for p in params])
    return params


def test_noise_is_normal_and_independent():
    """Moments, the distribution, and neighbours in element, step, parameter and seed."""
    from scipy import stats

    n = 400_000
    a, b = shaken([np.zeros(n), np.zeros(n)])
    (later,), (other,) = shaken([np.zeros(n)], 2), shaken([np.zeros(n)], seed=1)
    later = later - a
    for z in (a, b, later, other):
        for k, want in enumerate((0.0, 1.0, 0.0, 3.0, 0.0, 15.0), 1):
            spread = math.sqrt(math.prod(range(1, 2 * k, 2)) / n)
            assert abs(np.mean(z**k) - want) < 5 * spread, f"moment {k}"
        assert stats.kstest(z, "norm").pvalue > 1e-4
    assert 4.3 < np.abs(a).max() < 6.8
    pairs = {"parameter": (a, b), "step": (a, later), "seed": (a, other)}
    pairs |= {f"{lag} apart": (a[:-lag], a[lag:]) for lag in (1, 15, 16, 32, 48, 64, 1024)}
    for what, (x, y) in pairs.items():
        for power in (1, 2):  # squares, too: the two variates of a pair of words share their distance
            found = np.corrcoef(x**power, y**power)[0, 1]
            assert abs(found) < 5 / math.sqrt(n), (what, power, found)


@each_backend
def test_the_variance_falls_with_the_steps(backend):
    p = np.zeros(40_000)
    opt = fastopt.SGD(p, lr=1.0, transforms=[noise(0.3, 0.55)], backend=backend)
    for t in range(4):
        before = p.copy()
        opt.step(np.zeros_like(p))
        assert np.var(p - before) == pytest.approx(0.3 / (1 + t) ** 0.55, rel=0.04)


@each_backend
def test_listed_rows_get_the_noise_of_a_dense_step(backend, rng):
    for shape in ((90,), (90, 3), (90, 20), (9, 700)):
        dense, some = np.zeros(shape), np.zeros(shape)
        rows = rng.permutation(len(dense))[:7]
        for p, g in ((dense, np.zeros(shape)), (some, SparseGrad(rows, np.zeros((7, *shape[1:]))))):
            fastopt.SGD(p, transforms=[noise()], backend=backend).step(g)
        assert dense.all()
        assert_bits(some[rows], dense[rows])
        assert not np.delete(some, rows, axis=0).any()


@each_backend
def test_noise_of_listed_rows_takes_memory_for_them_alone(backend):
    p = np.zeros((100_000, 10), np.float32)
    opt = fastopt.SGD(p, transforms=[noise()], backend=backend)
    tracemalloc.start()
    try:
        opt.step(SparseGrad(np.array([5, 99_999]), np.zeros((2, 10), np.float32)))
        assert tracemalloc.get_traced_memory()[1] < p.nbytes / 8
    finally:
        tracemalloc.stop()
    assert np.count_nonzero(p) == 20


@each_backend
def test_noise_goes_on_from_a_state_dict(backend):
    """After a step that was skipped, too: the step counts, not the calls. Copies go on with the same bits."""
    (want,) = shaken([np.zeros(300)], 4, backend)
    p = np.zeros(300)
    made = dict(lr=1.0, maximize=True, transforms=[noise(1.0, 0.0)], backend=backend, nonfinite="skip")
    opt = fastopt.SGD([p], **made)
    for bad in (0.0, np.nan, 0.0):
        opt.step([np.full(300, bad)])
    q = p.copy()
    loaded = fastopt.SGD([q], **made)
    loaded.load_state_dict(opt.state_dict())
    for one in (loaded, pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)):
        assert one.transforms == opt.transforms
        for _ in range(2):
            one.step([np.zeros(300)])
        assert_bits(one.param_groups[0]["params"][0], want)


@each_backend
def test_float32_noise_is_that_of_float64_rounded(backend):
    for order in "CF":
        a, b = np.zeros((30, 7), np.float32, order), np.zeros((30, 7), np.float64, order)
        shaken([a], 1, backend), shaken([b], 1, backend)
        assert_bits(a, b.astype(np.float32))
    assert not np.array_equal(a, shaken([np.zeros((30, 7), np.float32)], 1, backend)[0])


# ---------------------------------------------------------------------------------------------------------- arguments


def test_bad_transforms():
    a = np.ones(3)
    for bad in (
        [clip_value(1.0), clip_value(2.0)],
        [clip_norm(1.0), clip_global_norm(1.0)],
        [clip_norm(1.0), clip_adaptive()],
        [clip_global_norm(1.0), clip_adaptive()],
        [noise(), noise(seed=1)],
        [polyak(), swa(3)],
    ):
        with refused(UnsupportedError, "transforms", watch=a):
            fastopt.SGD(a, transforms=bad)
    with refused(DTypeError, "transforms", watch=a):
        fastopt.SGD(a, transforms=[noise])
    numbers_above_0 = (0, -1.0, math.nan, math.inf, "1", None, True)
    for make, bads in [
        (clip_value, numbers_above_0),
        (clip_norm, numbers_above_0),
        (clip_adaptive, numbers_above_0),
        (lambda x: clip_adaptive(0.1, x), numbers_above_0),
        (lambda x: clip_adaptive(axis=x), (1, True, "0", None, 0.5, (0,))),
        (noise, numbers_above_0),
        (lambda x: noise(0.1, x), (-0.1, math.nan, math.inf, "1", None)),
        (lambda x: noise(seed=x), (-1, 2**64, 0.5, "1", None, True)),
        (polyak, (-1, 0.5, "1", None)),
    ]:
        for bad in bads:
            with pytest.raises(HyperParameterError):
                make(bad)


def test_polyak_is_the_arithmetic_mean():
    assert polyak(3) == swa(3)
    assert polyak() == swa()
