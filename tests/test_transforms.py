"""What happens to gradients before the rule and to parameters after it: clipping, averages, `nonfinite`, `reset_state`.

Expected values are plain NumPy: the sum of squares in the documented order, the formulas of the averages, and the optimizer
without the option, fed by hand.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import needs_native
from settings import SETTINGS, assert_bits, case_id, cases, native_builds
from test_arguments import each_backend, each_optimizer, refused, snapshot
from test_state import assert_same, params_of

import fastopt
from fastopt import (
    DTypeError,
    HyperParameterError,
    NonFiniteError,
    SparseGrad,
    StateError,
    UnsupportedError,
    clip_global_norm,
)
from fastopt.transforms import ema, lookahead, swa

plain_cases = pytest.mark.parametrize("case", cases(blocks=False), ids=case_id)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])

SHAPES = [(5000,), (3, 700), (), (17,), (0, 3), (1025,)]
AVERAGES = {"ema": ema(0.7), "swa": swa(2, 3), "slow": lookahead(3, 0.3)}


def numbers(rng: Any, shape: tuple[int, ...], dtype: type = np.float64, scale: float = 1.0) -> np.ndarray:
    return np.asarray(scale * rng.standard_normal(shape), dtype)


def square_sum(a: np.ndarray) -> float:
    """Blocks of 1024 from the start; in a block 16 lanes in double, folded 8, 4, 2, 1; blocks from left to right."""
    squares, total = np.asarray(a, np.float64).ravel(order="K") ** 2, 0.0
    for start in range(0, len(squares), 1024):
        block = squares[start : start + 1024]
        lanes = np.zeros(16)
        for k in range(0, len(block), 16):
            lanes[: len(block[k : k + 16])] += block[k : k + 16]
        for half in (8, 4, 2, 1):
            lanes = lanes[:half] + lanes[half : 2 * half]
        total += float(lanes[0])
    return total


def everywhere() -> list[tuple[str, int, int]]:
    """Builds with threads and chunks."""
    ways = [(1, 0), (1, 7), (2, 0), (2, 100), (3, 1000)]
    return [(isa, *way) for isa in native_builds() for way in ways]


def factor(grads: list[Any], max_norm: float) -> float:
    total = 0.0
    for g in grads:
        if g is not None:
            total += square_sum(g)
    return min(1.0, max_norm / (math.sqrt(total) + 1e-6))


def clipped(grads: list[Any], max_norm: float) -> list[Any]:
    f = factor(grads, max_norm)
    return [None if g is None else np.asarray(g * g.dtype.type(f)) for g in grads]


# ----------------------------------------------------------------------------------------------------------- clipping


@each_backend
@each_dtype
@each_optimizer
def test_a_clipped_step_is_a_step_on_clipped_gradients(cls, dtype, backend, rng):
    """With and without decay of either kind, which comes after; also where the norm is below the bound."""
    offers = inspect.signature(cls).parameters
    extra: list[dict[str, Any]] = [{}, {"maximize": True}]
    if "weight_decay" in offers:
        extra.append({"weight_decay": 0.1})
    if "decoupled_weight_decay" in offers:
        extra.append({"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True})
    start = [numbers(rng, s, dtype) for s in SHAPES]
    settings = SETTINGS[next(name for name in SETTINGS if fastopt.Optimizer.known[name] is cls)][0]
    for options in extra:
        one, two = ([p.copy() for p in start] for _ in range(2))
        opt = cls(one, **{**settings, **options}, transforms=[clip_global_norm(30.0)], backend=backend)
        by_hand = cls(two, **{**settings, **options}, backend=backend)
        for t in range(4):
            grads = [numbers(rng, s, dtype, (1, 0.1, 7, 1e-3)[t]) for s in SHAPES]
            if t == 2:
                grads[1] = None
            assert (factor(grads, 30.0) == 1) == (t in (1, 3))
            opt.step(grads)
            by_hand.step(clipped(grads, 30.0))
            for k, (p, q) in enumerate(zip(one, two, strict=True)):
                assert_bits(p, q, f"{options} step {t} parameter {k}")
        assert_same(opt, by_hand)


@each_backend
def test_the_norm_is_of_all_groups_and_dtypes(backend, rng):
    params = [numbers(rng, s, t) for s, t in [((40, 3), np.float32), ((9,), np.float64), ((7,), np.float32)]]
    start = [p.copy() for p in params]
    opt = fastopt.SGD(
        [{"params": params[:2], "lr": 1.0}, {"params": params[2], "lr": 0.5, "maximize": True}],
        transforms=[clip_global_norm(1.5)],
        backend=backend,
    )
    grads = [numbers(rng, p.shape, p.dtype.type) for p in params]
    opt.step(grads)
    for p, q, g, lr in zip(params, start, clipped(grads, 1.5), (1.0, 1.0, -0.5), strict=True):
        assert_bits(p, q - p.dtype.type(lr) * g)
    total = math.sqrt(
        sum(float(np.sum((q.astype(float) - p) ** 2)) for p, q in zip(params[:2], start[:2], strict=True))
        + 4 * float(np.sum((start[2].astype(float) - params[2]) ** 2))
    )
    assert total == pytest.approx(1.5, rel=1e-5)


def kinds_of_gradients(rng: np.random.Generator, dtype: type) -> tuple[list[np.ndarray], list[Any]]:
    """Parameters of two groups, and a gradient of each kind."""
    params = [numbers(rng, s, dtype) for s in [(1100,), (60, 17), (50, 33), (5, 7), (30, 9), (40,), (200,), (60, 17)]]
    params[3] = np.asfortranarray(params[3])
    rows = rng.integers(0, 60, 90)
    offsets = np.array([0, 5, 5, 20])
    grads = [
        numbers(rng, (1100,), dtype),
        SparseGrad(rows, numbers(rng, (90, 17), dtype)),
        sp.random_array((50, 33), density=0.2, rng=rng, dtype=dtype).tocoo(),
        np.asfortranarray(numbers(rng, (5, 7), dtype)),
        SparseGrad.bag(rng.integers(0, 30, 25), offsets, numbers(rng, (4, 9), dtype), mode="mean"),
        None,
        numbers(rng, (400,), dtype)[::2],
        SparseGrad(rng.permutation(60)[:50], numbers(rng, (50, 17), dtype)),
    ]
    return params, grads


@needs_native
@each_dtype
@pytest.mark.parametrize("max_norm", [3.0, 1e9])
def test_clipping_has_the_same_bits_everywhere(dtype, max_norm, forced, use_build, rng):
    """Sparse, SciPy's, strided, Fortran-ordered gradients, None; groups; builds, threads, chunks, NumPy."""
    start, _ = kinds_of_gradients(rng, dtype)
    steps = [kinds_of_gradients(rng, dtype)[1] for _ in range(3)]
    want: list[Any] = []
    for isa, threads, chunk in [("numpy", 1, 0), *everywhere()]:
        if isa != "numpy":
            use_build(isa)
            forced(threads, chunk)
        params = [p.copy(order="K") for p in start]
        opt = fastopt.Adam(
            [{"params": params[:4]}, {"params": params[4:], "lr": 0.1, "weight_decay": 0.1}],
            transforms=[clip_global_norm(max_norm)],
            backend="numpy" if isa == "numpy" else "native",
        )
        for grads in steps:
            opt.step(grads)
        state = opt.state_dict()["state"]
        got = [*params, *(state[k][name] for k in state for name in ("exp_avg", "exp_avg_sq"))]
        want = want or got
        for k, (a, b) in enumerate(zip(got, want, strict=True)):
            assert_bits(a, b, f"{isa} {threads} {chunk} array {k}")


@each_backend
def test_repeated_rows_are_summed_before_the_norm(backend, rng):
    p, q, r = (np.zeros((6, 4)) for _ in range(3))
    rows, values = np.array([4, 1, 4, 4]), numbers(rng, (4, 4))
    dense = np.zeros((6, 4))
    np.add.at(dense, rows, values)
    for a, g in (
        (p, SparseGrad(rows, values)),
        (q, dense),
        (r, sp.coo_array((values.ravel(), (np.repeat(rows, 4), np.tile(np.arange(4), 4))), shape=(6, 4))),
    ):
        fastopt.SGD(a, lr=1.0, transforms=[clip_global_norm(0.5)], backend=backend).step(g)
    want = -dense * (0.5 / (np.linalg.norm(dense) + 1e-6))
    for a in (p, q, r):
        np.testing.assert_allclose(a, want, rtol=1e-14)
    # rows that cancel add nothing
    p = np.zeros((6, 4))
    opt = fastopt.SGD(p, lr=1.0, transforms=[clip_global_norm(0.5)], backend=backend)
    opt.step(SparseGrad(np.array([1, 2, 1]), np.array([[1e6] * 4, [0.1] * 4, [-1e6] * 4])))
    assert_bits(p[2], np.full(4, -0.1))


@each_backend
def test_the_norm_takes_rows_in_ascending_order(backend, rng):
    """In whatever order they are listed: the bits of a dense step on these rows."""
    for k in range(40):
        rows = rng.permutation(60)[: 60 - k]
        values, p, q = numbers(rng, (len(rows), 17)), np.zeros((60, 17)), np.zeros((len(rows), 17))
        fastopt.SGD(p, lr=1.0, transforms=[clip_global_norm(1.0)], backend=backend).step(SparseGrad(rows, values))
        order = np.argsort(rows)
        fastopt.SGD(q, lr=1.0, transforms=[clip_global_norm(1.0)], backend=backend).step(values[order])
        assert_bits(p[rows[order]], q, f"{len(rows)} rows")


@each_backend
@each_dtype
def test_the_gradient_is_only_read(dtype, backend, rng):
    params, grads = kinds_of_gradients(rng, dtype)
    arrays = [
        a
        for g in grads
        for a in (
            [g]
            if isinstance(g, np.ndarray)
            else [g.indices, g.values]
            if isinstance(g, SparseGrad)
            else []
            if g is None
            else [g.data, *g.coords]
        )
    ]
    for a in arrays:
        a.flags.writeable = False
    before = [a.tobytes() for a in arrays]
    opt = fastopt.Adagrad(
        params,
        transforms=[clip_global_norm(0.1), ema(), lookahead(2)],
        weight_decay=0.1,
        maximize=True,
        backend=backend,
    )
    for _ in range(3):
        opt.step(grads)
    assert [a.tobytes() for a in arrays] == before


@each_backend
def test_own_gradients_are_clipped_and_stay(backend, rng):
    p, q = np.zeros(20), np.zeros(20)
    opt = fastopt.SGD([p], lr=1.0, transforms=[clip_global_norm(0.5)], backend=backend)
    other = fastopt.SGD([q], lr=1.0, transforms=[clip_global_norm(0.5)], backend=backend)
    for _ in range(3):
        g = numbers(rng, (20,))
        opt.grads[0][...] = g
        opt.step()
        assert_bits(opt.grads[0], g)
        other.step([g])
        assert_bits(p, q)


@each_backend
def test_what_is_not_finite_under_clipping(backend):
    for bad, first, second in [(np.nan, [np.nan] * 3, [np.nan] * 2), (np.inf, [0, np.nan, 0], [0, 0])]:
        p, q, r = np.zeros(3), np.zeros(2), np.zeros((3, 2))
        opt = fastopt.SGD([p, q, r], lr=1.0, transforms=[clip_global_norm(1.0)], backend=backend)
        opt.step([np.array([1.0, bad, 1.0]), np.ones(2), SparseGrad(np.array([1]), np.ones((1, 2)))])
        assert_bits(p, np.array(first, float) * -1 + 0.0)  # as in PyTorch: an infinite norm makes the rest zeros
        assert_bits(q, np.array(second, float) + 0.0)
        assert_bits(r[1], np.array(second, float) + 0.0)
        assert not r[[0, 2]].any()


@each_backend
def test_nothing_to_clip(backend):
    p = [np.ones(3), np.ones((0, 2))]
    opt = fastopt.SGD(p, lr=1.0, transforms=[clip_global_norm(1.0)], backend=backend)
    opt.step([np.zeros(3), np.zeros((0, 2))])
    opt.step([None, None])
    opt.step([None, SparseGrad(np.zeros(0, np.int64), np.zeros((0, 2)))])
    assert_bits(p[0], np.ones(3))
    assert opt.state_dict()["step"] == 3


@each_backend
@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "adamw", "rmsprop", "adadelta", "lion"])
def test_clipping_in_exact_mode_is_clipping_of_dense_steps(name, backend, rng):
    """Rows that a gradient does not list add nothing to the norm, as the zeros of a dense gradient."""
    cls, options = fastopt.Optimizer.known[name], {"momentum": 0.9} if name == "sgd" else {}
    sparse, dense, other, twin = (numbers(rng, s) for s in [(30, 5)] * 2 + [(7,)] * 2)
    dense[...], twin[...] = sparse, other
    transforms = [clip_global_norm(0.5)]
    opt = cls([sparse, other], **options, sparse="exact", transforms=transforms, backend=backend)
    reference = cls([dense, twin], **options, transforms=transforms, backend=backend)
    for t in range(25):
        rows = rng.permutation(30)[: (3, 1, 0)[t % 3]]
        values, g = numbers(rng, (len(rows), 5)), numbers(rng, (7,)) * (t % 2)
        full = np.zeros((30, 5))
        full[rows] = values
        opt.step([SparseGrad(rows, values), g])
        reference.step([full, g])
    opt.flush()
    np.testing.assert_allclose(sparse, dense, rtol=1e-9, atol=1e-12)
    assert_bits(other, twin)


def test_clipping_in_a_table(rng):
    table = fastopt.Table(50, 5, fastopt.Adam, transforms=[clip_global_norm(0.5)], dtype="float64")
    p = np.zeros((50, 5))
    opt = fastopt.Adam(p, transforms=[clip_global_norm(0.5)])
    for _ in range(4):
        rows = rng.integers(0, 50, 20)
        g = SparseGrad(rows, numbers(rng, (20, 5)))
        table.step(g)
        opt.step(g)
        assert_bits(np.array(table.param), p)


# ----------------------------------------------------------------------------------------------------------- averages


class Averages:
    """The formulas, by parameter, in double."""

    def __init__(self, start: list[np.ndarray], transforms: list[Any]) -> None:
        self.of = {self.name(t): (t, [np.array(p, float) for p in start]) for t in transforms}
        self.t = 0

    @staticmethod
    def name(transform: Any) -> str:
        return {"Ema": "ema", "Swa": "swa", "Lookahead": "slow"}[type(transform).__name__]

    def after(self, params: list[np.ndarray], grads: list[Any]) -> None:
        """A step has been made; Lookahead writes to `params`."""
        self.t += 1
        for name in ("slow", "ema", "swa"):  # Lookahead is part of the step, so that what is averaged has had it
            if name not in self.of:
                continue
            transform, averages = self.of[name]
            for p, a, g in zip(params, averages, grads, strict=True):
                if g is None:
                    continue
                at = g.indices if isinstance(g, SparseGrad) else ...
                if name == "ema":
                    w = 0.0 if self.t == 1 else transform.decay
                    a[at] = w * a[at] + (1 - w) * p[at]
                elif name == "swa":
                    past = self.t - transform.start
                    if past < transform.every:
                        a[at] = p[at]
                    elif past % transform.every == 0:
                        a[at] += (p[at] - a[at]) / (past // transform.every)
                elif self.t % transform.k == 0:
                    a[at] += transform.alpha * (p[at] - a[at])
                    p[at] = a[at]


@each_backend
@each_dtype
@pytest.mark.parametrize(
    "names", [("ema",), ("swa",), ("slow",), ("slow", "ema"), ("swa", "ema"), ("slow", "swa")], ids="-".join
)
def test_averages_are_their_formulas(names, dtype, backend, rng):
    start = [numbers(rng, s, dtype) for s in [(1100,), (5, 3), (), (0, 2)]]
    start.append(np.asfortranarray(numbers(rng, (6, 4), dtype)))
    mine, plain = ([p.copy(order="K") for p in start] for _ in range(2))
    transforms = [AVERAGES[n] for n in names]
    opt = fastopt.Adam(mine, lr=0.1, transforms=transforms, backend=backend)
    by_hand = fastopt.Adam(plain, lr=0.1, backend=backend)
    want = Averages(start, transforms)
    tolerance = dict(rtol=1e-5, atol=1e-5) if dtype is np.float32 else dict(rtol=1e-12, atol=1e-13)
    for t in range(14):
        grads: list[Any] = [numbers(rng, p.shape, dtype) for p in start]
        opt.step(grads)
        by_hand.step(grads)
        want.after(plain, grads)
        for k, (p, q) in enumerate(zip(mine, plain, strict=True)):
            np.testing.assert_allclose(p, q, **tolerance, err_msg=f"step {t} parameter {k}")
            for name in names:
                got = opt.averaged(k, name)
                assert (got.dtype, got.shape) == (p.dtype, p.shape)
                np.testing.assert_allclose(got, want.of[name][1][k], **tolerance, err_msg=f"{name} {t} {k}")
                assert_bits(got, opt.state_dict()["state"][k][name])


@each_backend
@each_dtype
@plain_cases
def test_averages_leave_the_rule_alone(case, dtype, backend, rng):
    """Parameters and states are those without; with Lookahead, those whose parameters were set by hand, to the bit."""
    name, options = case
    cls = fastopt.Optimizer.known[name]
    start = [numbers(rng, s, dtype) for s in [(37,), (5, 3)]]
    mine, plain, looked = ([p.copy() for p in start] for _ in range(3))
    opt = cls(mine, **options, transforms=[ema(0.9), swa(1)], backend=backend)
    by_hand = cls(plain, **options, backend=backend)
    ahead = cls(looked, **options, transforms=[lookahead(2, 0.25)], backend=backend)
    synced = [p.copy() for p in start]
    hand_ahead = cls(synced, **options, backend=backend)
    slow, average, mean = ([p.astype(float) for p in start] for _ in range(3))
    for t in range(6):
        grads = [numbers(rng, p.shape, dtype) for p in start]
        for o in (opt, by_hand, ahead, hand_ahead):
            o.step(grads)
        for k, p in enumerate(synced):
            if t % 2:
                s = slow[k].astype(dtype)
                s = s + dtype(0.25) * (p - s)
                slow[k], p[...] = s, s
            average[k] = plain[k].astype(float) if t == 0 else 0.9 * average[k] + 0.1 * plain[k]
            mean[k] = mean[k] + (plain[k] - mean[k]) / t if t else plain[k].astype(float)
            assert_bits(mine[k], plain[k])
            assert_bits(looked[k], p)
            assert_bits(ahead.averaged(k), slow[k].astype(dtype))
            scale = np.abs(start[k]).max() + np.abs(plain[k]).max()
            limit = scale * 10 * np.finfo(dtype).eps
            assert np.abs(opt.averaged(k, "ema") - average[k]).max() <= limit
            assert np.abs(opt.averaged(k, "swa") - mean[k]).max() <= limit
    mine_state, want = opt.state_dict()["state"], by_hand.state_dict()["state"]
    for key in want:
        assert set(mine_state[key]) == set(want[key]) | {"ema", "swa"}
        for s in set(want[key]) - {"step"}:
            assert_bits(mine_state[key][s], want[key][s], s)


@each_backend
@pytest.mark.parametrize("kind", AVERAGES)
def test_without_a_gradient_the_average_stays(kind, backend, rng):
    p, q = numbers(rng, (4,)), numbers(rng, (4,))
    opt = fastopt.SGD([p, q], lr=0.1, momentum=0.9, transforms=[AVERAGES[kind]], backend=backend)
    want = Averages([p, q], [AVERAGES[kind]])
    for t in range(16):
        grads = [numbers(rng, (4,)), None if t % 5 in (2, 3) else numbers(rng, (4,))]
        kept = opt.averaged(1).copy(), q.copy()
        opt.step(grads)
        if grads[1] is None:
            assert_bits(opt.averaged(1), kept[0])
            assert_bits(q, kept[1])
        if kind == "slow":
            continue  # what Lookahead writes, test_averages_are_their_formulas has checked
        want.after([p, q], grads)
        for k in range(2):
            np.testing.assert_allclose(opt.averaged(k), want.of[kind][1][k], rtol=1e-12)


@each_backend
@pytest.mark.parametrize("kind", AVERAGES)
def test_lazy_averages_are_of_the_rows_that_were_listed(kind, backend, rng):
    """Each row has the average of a parameter of its own that gets None when the row is not listed."""
    start = numbers(rng, (12, 5))
    table, rows = start.copy(), [r.copy() for r in start]
    sparse = fastopt.Adam(table, transforms=[AVERAGES[kind]], lr=0.1, backend=backend)
    single = fastopt.Adam(rows, transforms=[AVERAGES[kind]], lr=0.1, backend=backend)
    for t in range(15):
        listed = np.arange(12) if t == 2 else rng.permutation(12)[: rng.integers(0, 13)]
        values = numbers(rng, (len(listed), 5))
        before = sparse.averaged(0)
        sparse.step(SparseGrad(listed, values))
        grads: list[Any] = [None] * 12
        for k, v in zip(listed, values, strict=True):
            grads[k] = v
        single.step(grads)
        after = sparse.averaged(0)
        others = np.setdiff1d(np.arange(12), listed)
        assert_bits(after[others], before[others])
        for k in listed[:0] if kind == "slow" else listed:
            # Adam's correction knows the table's steps, so that parameters differ: averages are compared by their formula
            t1 = t + 1
            if kind == "ema":
                w = 0.7 if t1 > 1 else 0.0
                np.testing.assert_allclose(after[k], w * before[k] + (1 - w) * table[k], rtol=1e-12)
            elif t1 > 2 and (t1 - 2) % 3 == 0 and (t1 - 2) // 3 > 1:
                n = (t1 - 2) // 3
                np.testing.assert_allclose(after[k], before[k] + (table[k] - before[k]) / n, rtol=1e-12)
        if kind == "slow" and (t + 1) % 3 == 0:
            assert_bits(after[listed], table[listed])


@each_backend
@pytest.mark.parametrize("sparse", [False, True], ids=["None", "not listed"])
def test_no_row_has_initial_values_in_a_mean_that_begins_later(sparse, backend):
    """Until `swa(start)` begins, it is a copy of each parameter and each row: where a row is not listed then, it enters so."""
    p = [np.full((2, 3), 1000.0), np.zeros(2)]
    opt = fastopt.SGD(p, lr=1.0, transforms=[swa(2)], backend=backend)
    opt.step([np.full((2, 3), 999.0), np.ones(2)])  # far from the start now
    for t in range(2, 7):
        if t == 3:  # the first step that counts, and p[0] (or its row 1) has no part in it
            opt.step([SparseGrad(np.array([0]), np.ones((1, 3))) if sparse else None, np.ones(2)])
        else:
            opt.step([SparseGrad(np.array([0, 1]), np.ones((2, 3))) if sparse else np.ones((2, 3)), np.ones(2)])
        if t > 3:
            assert -5.0 <= opt.averaged(0)[1, 0] <= 1.0, f"after step {t}: {opt.averaged(0)[1, 0]}"


@needs_native
@pytest.mark.parametrize("names", [("ema", "slow"), ("swa",)], ids="-".join)
def test_averages_have_the_same_bits_everywhere(names, forced, use_build, rng):
    start, _ = kinds_of_gradients(rng, np.float32)
    steps = [kinds_of_gradients(rng, np.float32)[1] for _ in range(7)]
    want: list[Any] = []
    for isa, threads, chunk in [("numpy", 1, 0), *everywhere()]:
        if isa != "numpy":
            use_build(isa)
            forced(threads, chunk)
        params = [p.copy(order="K") for p in start]
        opt = fastopt.RMSprop(
            params,
            transforms=[*(AVERAGES[n] for n in names), clip_global_norm(2.0)],
            backend="numpy" if isa == "numpy" else "native",
        )
        for grads in steps:
            opt.step(grads)
        got = [*params, *(opt.averaged(k, n) for k in range(len(params)) for n in names)]
        want = want or got
        for k, (a, b) in enumerate(zip(got, want, strict=True)):
            assert_bits(a, b, f"{isa} {threads} {chunk} array {k}")


@each_backend
@each_dtype
@pytest.mark.parametrize("name", ["sgd", "adam", "asgd", "prodigy", "yellowfin", "rprop"])
@pytest.mark.parametrize("averages", [("ema", "swa"), ("slow", "ema")], ids="-".join)
def test_averages_are_saved_and_loaded(name, dtype, averages, backend, rng):
    """state_dict, pickle and deepcopy; all go on with the same bits, loaded into another backend too."""
    cls = fastopt.Optimizer.known[name]
    options = {"transforms": [AVERAGES[n] for n in averages], "lr": 0.1}
    options |= {"momentum": 0.9} if name == "sgd" else {}

    def make(params: Any, backend: str = backend) -> Any:
        return cls({"a": params[0], "b": params[1]}, **options, backend=backend)

    opt = make([numbers(rng, (19,), dtype), np.asfortranarray(numbers(rng, (4, 3), dtype))])
    assert set(averages) <= set(opt.state_dict()["state"]["a"])
    for t in range(11):
        if t in (0, 1, 3, 4):
            params = [p.copy(order="K") for p in params_of(opt)]
            loaded = make(params, "numpy" if t == 3 and backend == "native" else "auto")
            d = pickle.loads(pickle.dumps(opt.state_dict()))
            assert set(averages) <= set(d["state"]["b"])
            loaded.load_state_dict(d)
            # what was loaded is a copy
            for entry in d["state"].values():
                for n in averages:
                    entry[n][...] = 99
            copies = [loaded, pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)]
        grads = {k: numbers(rng, s, dtype) for k, s in (("a", (19,)), ("b", (4, 3)))}
        for o in [opt, *copies]:
            o.step(grads)
        for o in copies:
            assert_same(o, opt)
            for key in "ab":
                for n in averages:
                    assert_bits(o.averaged(key, n), opt.averaged(key, n))


@each_backend
def test_a_state_dict_with_other_averages(backend, rng):
    """It is refused, or what is missing begins anew: never half."""
    with_ema = fastopt.Adam({"w": np.ones(3)}, transforms=[ema()], backend=backend)
    without = fastopt.Adam({"w": np.ones(3)}, backend=backend)
    with_swa = fastopt.Adam({"w": np.ones(3)}, transforms=[swa()], backend=backend)
    opts = [with_ema, without, with_swa]
    for o in opts:
        o.step({"w": numbers(rng, (3,))})
    for source, target in itertools.permutations(opts, 2):
        before = snapshot(target)
        try:
            target.load_state_dict(source.state_dict())
        except StateError:
            assert snapshot(target) == before
        else:
            assert set(target.state_dict()["state"]["w"]) >= {"exp_avg", "exp_avg_sq", "step"}
        target.step({"w": np.ones(3)})
    wrong = with_ema.state_dict()
    for bad in (np.ones(4), np.ones(3, np.float32), "x"):
        wrong["state"]["w"]["ema"] = bad
        before = snapshot(with_ema)
        with pytest.raises(fastopt.FastoptError):
            with_ema.load_state_dict(wrong)
        assert snapshot(with_ema) == before


@each_backend
def test_averaged_is_asked_in_every_way(backend, rng):
    p = {"a": numbers(rng, (3,)), "b": np.asfortranarray(numbers(rng, (2, 3), np.float32))}
    opt = fastopt.SGD(p, transforms=[ema(), lookahead()], backend=backend)
    for k in "ab":
        for n in ("ema", "slow"):  # copies of the parameters before the first step
            assert_bits(opt.averaged(k, n), p[k])
    opt.step({k: numbers(rng, v.shape, v.dtype.type) for k, v in p.items()})
    for i, k in enumerate("ab"):
        got = opt.averaged(k, "ema")
        for other in (opt.averaged(p[k], "ema"), opt.averaged(i, "ema")):
            assert_bits(got, other)
        assert not any(np.may_share_memory(got, a) for a in [*p.values(), *opt._own])
        assert (got.dtype, got.shape) == (p[k].dtype, p[k].shape)
        got[...] = 7
        assert not np.array_equal(opt.averaged(k, "ema"), got)
    with refused(StateError, "ema", "slow", opt=opt):
        opt.averaged("a")
    with refused(StateError, "swa", opt=opt):
        opt.averaged("a", "swa")
    for bad in ("c", 5, np.ones(3)):
        with refused((StateError, HyperParameterError), opt=opt):
            opt.averaged(bad, "ema")
    none = fastopt.SGD(p, backend=backend)
    with refused(StateError, "transforms", opt=none):
        none.averaged("a")


@each_backend
def test_groups_added_later_are_averaged(backend, rng):
    p, q = numbers(rng, (3,)), numbers(rng, (2,))
    opt = fastopt.SGD([p], lr=0.5, transforms=[ema(0.5)], backend=backend)
    for _ in range(3):
        opt.step([numbers(rng, (3,))])
    opt.add_param_group({"params": [q], "lr": 0.1})
    assert_bits(opt.averaged(1), q)
    start = q.copy()
    opt.step([None, numbers(rng, (2,))])
    assert np.allclose(opt.averaged(1), 0.5 * start + 0.5 * q) or np.allclose(opt.averaged(1), q)


def test_averages_and_exact_steps_do_not_go_together():
    for t in AVERAGES.values():
        with refused(UnsupportedError, "exact", "lazy"):
            fastopt.SGD(np.ones((3, 2)), sparse="exact", transforms=[t])
    fastopt.SGD(np.ones((3, 2)), sparse="exact", transforms=[clip_global_norm(1.0)])


def test_bad_transforms():
    a = np.ones(3)
    for bad, error in [
        ([ema(), ema(0.5)], UnsupportedError),
        ([ema(), swa(), lookahead()], UnsupportedError),
        ([clip_global_norm(1.0), clip_global_norm(2.0)], UnsupportedError),
        ([ema], DTypeError),
        (["ema"], DTypeError),
        ([None], DTypeError),
        (3, DTypeError),
    ]:
        with refused(error, "transforms", watch=a):
            fastopt.SGD(a, transforms=bad)
    for make, bads in [
        (clip_global_norm, (0, -1.0, math.nan, math.inf, "1", None, True)),
        (ema, (1.0, -0.1, math.nan, "1", None)),
        (swa, (-1, 0.5, "1", None)),
        (lambda x: swa(0, x), (0, -1, 0.5, "1", None)),
        (lookahead, (0, -1, 0.5, "1", None)),
        (lambda x: lookahead(5, x), (-0.1, 1.1, math.nan, "1", None)),
    ]:
        for bad in bads:
            with pytest.raises((HyperParameterError, DTypeError)):
                make(bad)


# ---------------------------------------------------------------------------------------------------------- nonfinite

BAD = [np.nan, np.inf, -np.inf]


def with_bad(kind: str, bad: float, rng: np.random.Generator, dtype: type) -> Any:
    """A gradient of a (40, 5) parameter with one bad number, in a place that differs from call to call."""
    g = numbers(rng, (40, 5), dtype)
    at = tuple(rng.integers(0, (40, 5)))
    if kind in ("dense", "Fortran", "strided"):
        g[at] = bad
        return {"dense": g, "Fortran": np.asfortranarray(g), "strided": np.repeat(g, 2, axis=1)[:, ::2]}[kind]
    if kind == "scipy":
        m = sp.random_array((40, 5), density=0.3, rng=rng, dtype=dtype).tocsr()
        m.data[rng.integers(0, m.nnz)] = bad
        return m
    v = numbers(rng, (9, 5), dtype)
    if kind == "bag":
        pooled = numbers(rng, (3, 5), dtype)
        pooled[1, at[1]] = bad
        return SparseGrad.bag(rng.integers(0, 40, 9), np.array([0, 4, 6]), pooled)
    v[rng.integers(0, 9), at[1]] = bad
    return SparseGrad(rng.permutation(40)[:9] if kind == "rows" else np.full(9, 3), v)


KINDS = ["dense", "Fortran", "strided", "scipy", "rows", "repeated rows", "bag"]


@each_backend
@each_dtype
@pytest.mark.parametrize("clip", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_found(kind, clip, dtype, backend, forced, rng):
    forced(2, 7)
    transforms: list[Any] = [clip_global_norm(1.0)] if clip else []
    watched = {}
    for nonfinite in ("skip", "raise"):
        params = {"a": numbers(rng, (3,), dtype), "w": numbers(rng, (40, 5), dtype), "z": numbers(rng, (2,), dtype)}
        watched[nonfinite] = fastopt.Adam(params, transforms=[*transforms, ema()], nonfinite=nonfinite, backend=backend)
    for opt in watched.values():
        opt.step({"a": numbers(rng, (3,), dtype), "w": numbers(rng, (40, 5), dtype), "z": None})
    for count, bad in enumerate(BAD, 1):
        grads = {"a": numbers(rng, (3,), dtype), "w": with_bad(kind, bad, rng, dtype), "z": numbers(rng, (2,), dtype)}
        opt = watched["skip"]
        before = snapshot(opt)
        opt.step(grads)
        assert snapshot(opt) == before
        assert opt.skipped == count
        with refused(NonFiniteError, "'w'", opt=watched["raise"]):
            watched["raise"].step(grads)


@each_backend
@plain_cases
def test_a_skipped_step_never_was(case, backend, rng):
    """No parameter, state, average, memory, counter or schedule knows of it."""
    name, options = case
    options = {**options, "lr": lambda t: 0.1 / (t + 1), "transforms": [ema(0.5), swa(1), clip_global_norm(2.0)]}
    start = [numbers(rng, s) for s in [(20,), (6, 5)]]
    params, twins = ([p.copy() for p in start] for _ in range(2))
    opt = fastopt.Optimizer.known[name](params, **options, nonfinite="skip", backend=backend)
    twin = fastopt.Optimizer.known[name](twins, **options, backend=backend)
    for t in range(8):
        grads: list[Any] = [numbers(rng, (20,)), numbers(rng, (6, 5))]
        if t in (5, 7):
            grads[1] = SparseGrad(np.array([4, 1]), numbers(rng, (2, 5)))
        if t in (0, 3, 5):
            bad = [grads[0].copy(), grads[1]]
            bad[0][(7 * t) % 20] = BAD[t % 3]
            before = snapshot(opt)
            opt.step(bad)
            assert snapshot(opt) == before
        opt.step(grads)
        twin.step(grads)
        for p, q in zip(params, twins, strict=True):
            assert_bits(p, q, f"step {t}")
    assert opt.skipped == 3
    one, two = opt.state_dict(), twin.state_dict()
    assert one["step"] == two["step"] == 8
    for key in one["state"]:
        assert one["state"][key]["step"] == two["state"][key]["step"]
        for s in set(two["state"][key]) - {"step"}:
            assert_bits(one["state"][key][s], two["state"][key][s], s)
    for a, b in zip(one["param_groups"], two["param_groups"], strict=True):
        assert a.get("memory") == b.get("memory")


@each_backend
@each_dtype
def test_every_place_is_looked_at(dtype, backend, forced, use_build, rng):
    """Each element of arrays of odd sizes, alone; and none is seen where there is none."""
    isas = native_builds() if backend == "native" else [""]
    for isa in isas:
        if isa:
            use_build(isa)
        for n in (1, 15, 16, 33, 1025):
            p = np.zeros(n, dtype)
            opt = fastopt.SGD(p, nonfinite="skip", backend=backend)
            for at in range(n) if n < 100 else (0, 1, 1007, 1008, 1023, 1024):
                forced(*[(1, 0), (1, 5), (2, 100)][at % 7 % 3])
                g = numbers(rng, (n,), dtype)
                g[at] = BAD[at % 3]
                skipped = opt.skipped
                opt.step(g)
                assert opt.skipped == skipped + 1, (isa, n, at)
                g[at] = 1
                opt.step(g)
                assert opt.skipped == skipped + 1, (isa, n, at)


@each_backend
@pytest.mark.parametrize("clip", [False, True], ids=["", "clipped"])
def test_what_is_large_is_finite(clip, backend):
    """Its square or a sum of it is not, which says nothing; and infinities that cancel stay infinities."""
    transforms = [clip_global_norm(1.0)] if clip else []
    for dtype, large in [
        (np.float64, 1e200),
        (np.float64, np.finfo(float).max),
        (np.float32, np.finfo(np.float32).max),
    ]:
        for n in (1, 2, 40, 3000):
            for signs in (1, -1, (-1) ** np.arange(n)):
                p = np.zeros((n, 1), dtype)
                opt = fastopt.SGD(p, lr=1e-30, transforms=transforms, nonfinite="raise", backend=backend)
                g = (large * signs * np.ones(n)).astype(dtype)[:, None]
                opt.step(g)
                opt.step(SparseGrad(np.arange(n), g))
                assert np.isfinite(p).all()
                if not clip:
                    assert p.all()
    p = np.zeros(2000)
    opt = fastopt.SGD(p, transforms=transforms, nonfinite="skip", backend=backend)
    g = np.zeros(2000)
    g[[3, 3 + 16, 1024 + 3, 70]] = np.inf, -np.inf, np.inf, -np.inf
    opt.step(g)
    assert opt.skipped == 1
    assert not p.any()


@each_backend
def test_the_default_propagates(backend):
    p = np.zeros(3)
    opt = fastopt.SGD(p, lr=1.0, backend=backend)
    opt.step(np.array([1, np.nan, -np.inf]))
    assert_bits(p, np.array([-1, np.nan, np.inf]))
    assert opt.skipped == 0
    assert opt.state_dict()["step"] == 1


@each_backend
def test_only_gradients_are_looked_at(backend):
    """Parameters and what a schedule says are no gradients; None has no numbers."""
    p = [np.array([np.nan, 1.0]), np.full(2, np.inf), np.zeros((0, 3)), np.zeros((3, 2))]
    opt = fastopt.SGD(p, lr=1.0, nonfinite="raise", backend=backend)
    opt.step([np.ones(2), None, np.zeros((0, 3)), SparseGrad(np.zeros(0, int), np.zeros((0, 2)))])
    assert_bits(p[0], np.array([np.nan, 0.0]))
    assert opt.state_dict()["step"] == 1


@each_backend
def test_nonfinite_in_groups_own_gradients_and_exact_mode(backend, rng):
    p = {"a": np.zeros(4), "b": np.zeros(3)}
    opt = fastopt.SGD(
        [{"params": {"a": p["a"]}}, {"params": {"b": p["b"]}, "lr": 0.5}], lr=1.0, nonfinite="raise", backend=backend
    )
    opt.grads["b"][...] = [1, np.inf, 2]
    with refused(NonFiniteError, "'b'", opt=opt, watch=[*p.values()]):
        opt.step()
    opt.zero_grad()
    opt.step()
    table = np.ones((8, 2))
    opt = fastopt.Adam(table, sparse="exact", nonfinite="skip", backend=backend)
    twin = fastopt.Adam(other := np.ones((8, 2)), sparse="exact", backend=backend)
    for t in range(12):
        rows = rng.permutation(8)[:2]
        g = SparseGrad(rows, numbers(rng, (2, 2)))
        if t % 3 == 1:
            bad = SparseGrad(rows, g.values.copy())
            bad.values[1, 0] = np.nan
            opt.step(bad)
        opt.step(g)
        twin.step(g)
    opt.flush()
    twin.flush()
    assert opt.skipped == 4
    assert_bits(table, other)
    assert_same(opt, twin)


@pytest.mark.parametrize("bad", ["ignore", "", None, True, 0, "Skip"])
def test_bad_nonfinite(bad):
    with refused((HyperParameterError, DTypeError), "nonfinite"):
        fastopt.SGD(np.ones(2), nonfinite=bad)


# -------------------------------------------------------------------------------------------------------- reset_state


@each_backend
@each_dtype
@plain_cases
def test_reset_begins_anew(case, dtype, backend, rng):
    """States are those of a new optimizer of the parameters as they are, and so are the steps that follow."""
    name, options = case
    cls = fastopt.Optimizer.known[name]
    params = [numbers(rng, s, dtype) for s in [(20,), (6, 5)]]
    params.append(np.asfortranarray(numbers(rng, (4, 3), dtype)))
    opt = cls([{"params": params[:2], **options}, {"params": params[2], **options, "lr": 0.05}], backend=backend)

    def grads(t: int) -> list[Any]:
        found: list[Any] = [numbers(rng, p.shape, dtype) for p in params]
        if t % 3 == 1:
            found[1] = SparseGrad(np.array([3, 0, 3]), numbers(rng, (3, 5), dtype))
        return found

    for t in range(5):
        opt.step([None, *grads(t)[1:]] if t == 2 else grads(t))
    before, groups = [p.copy() for p in params], opt.state_dict()["param_groups"]
    assert opt.reset_state() is None
    for p, q in zip(params, before, strict=True):
        assert_bits(p, q)
    anew = [p.copy(order="K") for p in params]
    fresh = cls([{"params": anew[:2], **options}, {"params": anew[2], **options, "lr": 0.05}], backend=backend)
    one, two = opt.state_dict(), fresh.state_dict()
    assert (one["step"], two["step"]) == (5, 0)
    without = [{k: v for k, v in g.items() if k != "memory"} for g in groups]
    assert without == [{k: v for k, v in g.items() if k != "memory"} for g in one["param_groups"]]
    for t in range(6):
        one, two = opt.state_dict(), fresh.state_dict()
        assert one["param_groups"] == two["param_groups"]
        for key in two["state"]:
            assert one["state"][key].keys() == two["state"][key].keys()
            assert one["state"][key]["step"] == two["state"][key]["step"] == t
            for s in set(two["state"][key]) - {"step"}:
                assert_bits(one["state"][key][s], two["state"][key][s], f"{key} {s} after {t}")
        both = grads(t)
        opt.step(both)
        fresh.step(both)
        for k, (p, q) in enumerate(zip(params, anew, strict=True)):
            assert_bits(p, q, f"parameter {k} after {t}")


@each_backend
@each_optimizer
def test_reset_before_the_first_step_changes_nothing(cls, backend):
    opt = cls({"w": np.ones((3, 2))}, backend=backend)
    before = snapshot(opt)
    opt.reset_state()
    assert snapshot(opt) == before


@each_backend
@each_optimizer
def test_schedules_and_averages_outlive_a_reset(cls, backend, rng):
    p, q = (np.ones(6) for _ in range(2))
    rate = 0.1 if cls is fastopt.Rprop else 0.0  # Rprop's rate is what the sizes of its steps start from, once for all
    opt = cls(p, lr=lambda t: rate or 0.1 / (1 + t), transforms=[ema(0.5), swa(1, 2)], backend=backend)
    steps = [numbers(rng, (6,)) for _ in range(9)]
    want = Averages([p], [ema(0.5), swa(1, 2)])
    for g in steps[:4]:
        opt.step(g)
        want.after([p], [g])
    kept = {n: opt.averaged(0, n) for n in ("ema", "swa")}
    opt.reset_state()
    for n, a in kept.items():
        assert_bits(opt.averaged(0, n), a, n)
    q[...] = p
    fresh = cls(q, lr=lambda t: rate or 0.1 / (5 + t), backend=backend)
    for t, g in enumerate(steps[4:]):
        opt.step(g)
        fresh.step(g)
        assert_bits(p, q, f"step {t} after the reset")
        want.after([p], [g])
        for n in kept:
            np.testing.assert_allclose(opt.averaged(0, n), want.of[n][1][0], rtol=1e-12)


@each_backend
@pytest.mark.parametrize("name", [n for n in SETTINGS if fastopt.Optimizer.known[n].rules[0].catch])
def test_reset_in_exact_mode(name, backend, rng):
    """Rows are brought up to date first, with the state that they had."""
    cls = fastopt.Optimizer.known[name]
    options = {"momentum": 0.9} if name == "sgd" else {}
    start = numbers(rng, (15, 3))
    p, q = start.copy(), start.copy()
    opt = cls(p, **options, sparse="exact", backend=backend)
    twin = cls(q, **options, sparse="exact", backend=backend)

    def grad() -> SparseGrad:
        return SparseGrad(rng.permutation(15)[:2], numbers(rng, (2, 3)))

    for _ in range(20):
        g = grad()
        opt.step(g)
        twin.step(g)
    opt.reset_state()
    twin.flush()
    assert_bits(p, q)
    for _ in range(3):
        opt.flush()
        assert_bits(p, q)
    r = p.copy()
    fresh = cls(r, **options, sparse="exact", backend=backend)
    for _ in range(20):
        g = grad()
        opt.step(g)
        fresh.step(g)
    opt.flush()
    fresh.flush()
    assert_bits(p, r)


@pytest.mark.parametrize("sparse", ["lazy", "exact"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adagrad", "ftrl", "cocob", "nadam"])
def test_reset_of_a_table(name, sparse, rng):
    options = {"momentum": 0.9} if name == "sgd" else {}
    table = fastopt.Table(30, 4, name, **options, sparse=sparse)
    table.param[...] = numbers(rng, (30, 4), np.float32)
    p = np.array(table.param)
    opt = fastopt.Optimizer.known[name](p, **options, sparse=sparse)
    for t in range(12):
        if t == 6:
            table.optimizer.reset_state()
            opt.reset_state()
        g = SparseGrad(rng.integers(0, 30, 5), numbers(rng, (5, 4), np.float32))
        table.step(g)
        opt.step(g)
        if t in (5, 6, 11):
            table.flush()
            opt.flush()
            assert_bits(np.array(table.param), p, f"step {t}")
    assert_same(table.optimizer, opt, parameters=False)


@each_backend
def test_the_late_momentum_buffer_is_absent_again(backend, rng):
    for options in ({"dampening": 0.5}, {"nesterov": True}):
        p = [np.ones(3), np.ones((4, 2))]
        opt = fastopt.SGD(p, lr=0.1, momentum=0.9, **options, backend=backend)
        opt.step([np.ones(3), np.ones((4, 2))])
        assert "momentum_buffer" in opt.state_dict()["state"][0]
        opt.reset_state()
        assert set(opt.state_dict()["state"][0]) == set(opt.state_dict()["state"][1]) == {"step"}
        before = p[0].copy()
        opt.step([np.ones(3), None])  # no dampening in the first step
        assert set(opt.state_dict()["state"][0]) == {"step", "momentum_buffer"}
        assert set(opt.state_dict()["state"][1]) == {"step"}
        assert_bits(opt.state_dict()["state"][0]["momentum_buffer"], np.ones(3))
        np.testing.assert_allclose(p[0], before - 0.1 * (1.9 if "nesterov" in options else 1.0))


@each_backend
def test_reset_of_what_groups_remember(backend, rng):
    for name in ("prodigy", "yellowfin"):
        p = [np.ones(5), np.ones((2, 3))]
        opt = fastopt.Optimizer.known[name]([{"params": p[0]}, {"params": p[1], "lr": 0.5}], backend=backend)
        empty = [g["memory"] for g in opt.state_dict()["param_groups"]]
        for _ in range(4):
            opt.step([numbers(rng, (5,)), numbers(rng, (2, 3))])
        assert all(g["memory"] != e for g, e in zip(opt.state_dict()["param_groups"], empty, strict=True))
        opt.reset_state()
        assert [g["memory"] for g in opt.state_dict()["param_groups"]] == empty
        loaded = fastopt.Optimizer.known[name](
            [{"params": p[0].copy()}, {"params": p[1].copy(), "lr": 0.5}], backend=backend
        )
        loaded.load_state_dict(opt.state_dict())
        for _ in range(3):
            g = [numbers(rng, (5,)), numbers(rng, (2, 3))]
            opt.step(g)
            loaded.step(g)
        assert_same(opt, loaded)
