"""The optimizers that PyTorch lacks beside their papers' formulas, written apart from the library, one number at a time."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from settings import assert_bits
from test_arguments import each_backend, refused
from test_exact import assert_near

import fastopt
from fastopt import DTypeError, ShapeError, SparseGrad, StateError

Step = Callable[[int, float], float]


def sign(x: float) -> float:
    return math.copysign(1.0, x) if x else 0.0


def lion(p: float, lr: float, betas: tuple[float, float], weight_decay: float) -> Step:
    m = 0.0

    def step(t: int, g: float) -> float:
        nonlocal p, m
        p = p * (1 - lr * weight_decay) - lr * sign(betas[0] * m + (1 - betas[0]) * g)
        m = betas[1] * m + (1 - betas[1]) * g
        return p

    return step


def signum(p: float, lr: float, momentum: float) -> Step:
    b = 0.0

    def step(t: int, g: float) -> float:
        nonlocal p, b
        b = momentum * b + (1 - momentum) * g
        p -= lr * sign(b)
        return p

    return step


def adan(
    p: float, lr: float, betas: tuple[float, float, float], eps: float, weight_decay: float, no_prox: bool
) -> Step:
    m = d = n = 0.0
    before: float | None = None

    def step(t: int, g: float) -> float:
        nonlocal p, m, d, n, before
        b1, b2, b3 = betas
        diff = 0.0 if before is None else g - before
        m, d, n = b1 * m + (1 - b1) * g, b2 * d + (1 - b2) * diff, b3 * n + (1 - b3) * (g + b2 * diff) ** 2
        root = math.sqrt(n / (1 - b3**t)) + eps
        update = (m / (1 - b1**t) + b2 * d / (1 - b2**t)) / root
        p = p * (1 - lr * weight_decay) - lr * update if no_prox else (p - lr * update) / (1 + lr * weight_decay)
        before = g
        return p

    return step


def ftrl(p: float, lr: float, l1: float, l2: float, l2_shrinkage: float, beta: float) -> Step:
    n, z = 0.1, 0.0

    def step(t: int, g: float) -> float:
        nonlocal p, n, z
        new = n + g * g
        z += g + 2 * l2_shrinkage * p - (math.sqrt(new) - math.sqrt(n)) / lr * p
        n = new
        p = 0.0 if abs(z) <= l1 else -(z - sign(z) * l1) / ((beta + math.sqrt(n)) / lr + 2 * l2)
        return p

    return step


def cocob(p: float, alpha: float, eps: float) -> Step:
    start, most, total, reward, theta = p, eps, 0.0, 0.0, 0.0

    def step(t: int, g: float) -> float:
        nonlocal p, most, total, reward, theta
        g = -g  # as the paper has it
        most, total = max(most, abs(g)), total + abs(g)
        reward, theta = max(reward + (p - start) * g, 0.0), theta + g
        p = start + theta / (most * max(total + most, alpha * most)) * (most + reward)
        return p

    return step


def adagrad_from_one(p: float, lr: float) -> Step:
    """AdaptiveRevision where nothing comes late."""
    a = 1.0

    def step(t: int, g: float) -> float:
        nonlocal p, a
        a += g * g
        p -= lr * g / math.sqrt(a)
        return p

    return step


CASES: list[tuple[type, Callable[..., Step], dict[str, Any]]] = [
    (fastopt.Lion, lion, {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.3}),
    (fastopt.Signum, signum, {"lr": 0.1, "momentum": 0.7}),
    (fastopt.Adan, adan, {"lr": 0.1, "betas": (0.9, 0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2, "no_prox": False}),
    (fastopt.Adan, adan, {"lr": 0.1, "betas": (0.98, 0.92, 0.99), "eps": 0.1, "weight_decay": 0.2, "no_prox": True}),
    (fastopt.FTRL, ftrl, {"lr": 0.3, "l1": 0.5, "l2": 0.2, "l2_shrinkage": 0.1, "beta": 0.7}),
    (fastopt.FTRL, ftrl, {"lr": 0.1, "l1": 0.0, "l2": 0.0, "l2_shrinkage": 0.0, "beta": 0.0}),
    (fastopt.COCOB, cocob, {"alpha": 100.0, "eps": 1e-8}),
    (fastopt.COCOB, cocob, {"alpha": 2.0, "eps": 0.5}),
    (fastopt.AdaptiveRevision, adagrad_from_one, {"lr": 0.3}),
]


@pytest.mark.parametrize(("cls", "formula", "options"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_equals_the_formula(cls, formula, options, rng):
    n = 7
    p = rng.standard_normal(n)
    steps = [formula(float(x), **options) for x in p]
    opt = cls(p, **options)
    for t in range(1, 61):
        g = rng.standard_normal(n) * (t % 9 != 4) + 0.3
        opt.step(g)
        want = np.array([step(t, float(x)) for step, x in zip(steps, g, strict=True)])
        assert_near(p, want, 1e-11 * np.maximum(1, np.abs(want)), f"{cls.__name__} step {t}")


def test_lr_of_cocob_scales_its_bets(rng):
    p, q = np.zeros(5), np.zeros(5)
    one, other = fastopt.COCOB(p), fastopt.COCOB(q, lr=0.25)
    for _ in range(20):
        g = rng.standard_normal(5)
        one.step(g)
        other.step(g)
    assert_near(q, p / 4, 1e-13, "a quarter of the bets")


def test_ftrl_makes_zeros(rng):
    p = rng.standard_normal(50)
    opt = fastopt.FTRL(p, lr=0.1, l1=2.0)
    for _ in range(5):
        opt.step(rng.standard_normal(50))
    assert 10 < (p == 0).sum() < 50


def test_what_ftrl_divides_by():
    with refused(fastopt.HyperParameterError, "lr", "0"):
        fastopt.FTRL(np.ones(3), lr=0.0)
    opt = fastopt.FTRL(np.ones(3), lr=lambda t: 0.1 * (t < 2))
    opt.step(np.ones(3))
    opt.step(np.ones(3))
    with refused(fastopt.HyperParameterError, "lr"):
        opt.step(np.ones(3))
    with refused(fastopt.HyperParameterError, "lr_power", "initial_accumulator_value"):
        fastopt.FTRL(np.ones(3), lr_power=0.0, initial_accumulator_value=0.0)


@pytest.mark.parametrize("case", [(fastopt.Lion, "betas", (0.9, 0.5)), (fastopt.Signum, "momentum", 0.5)], ids=str)
def test_momenta_that_underflow_are_refused_in_exact_mode(case):
    cls, name, value = case
    cls(np.ones(3), **{name: value})
    with refused(fastopt.UnsupportedError, name, "lazy", "0.5"):
        cls(np.ones(3), **{name: value}, sparse="exact")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cls", [fastopt.Lion, fastopt.Signum])
def test_an_abandoned_row_moves_for_ever(cls, dtype):
    """Its momentum comes down to the smallest number there is, but not to 0, neither in steps nor in a jump."""
    p = np.zeros((2, 3), dtype)
    opt = cls(p, lr=2.0**-10, **({"betas": (0.6, 0.6)} if cls is fastopt.Lion else {"momentum": 0.6}), sparse="exact")
    opt.step(SparseGrad(np.array([0, 1]), np.array([[1, -1, 0]] * 2, dtype)))
    nothing = SparseGrad(np.zeros(0, np.int64), np.zeros((0, 3), dtype))
    for _ in range(3):
        for _ in range(2000):
            opt.step(nothing)
        opt.catch_up(0)
    assert (p == np.array([-6001, 6001, 0]) * 2.0**-10).all()


# ------------------------------------------------------------------------------------------------------------- delays


def server(p: float, lr: float) -> Callable[[float, float], tuple[float, float]]:
    """AdaptiveRevision with the sum of gradients that the worker has seen: (g, seen) -> (p, sum)."""
    total, z, most = 0.0, 1.0, 1.0

    def step(g: float, seen: float) -> tuple[float, float]:
        nonlocal p, total, z, most
        late, before = total - seen, lr / math.sqrt(most)
        z += g * g + 2 * g * late
        most = max(most, z)
        rate = lr / math.sqrt(most)
        p += -rate * g + (before - rate) * late
        total += g
        return p, total

    return step


@each_backend
@pytest.mark.parametrize("structure", ["array", "list", "dict"])
def test_gradients_that_come_late(structure, backend, rng):
    w = rng.standard_normal(6)
    names = {"array": None, "list": 0, "dict": "w"}
    params = {"array": w, "list": [w, np.ones(2)], "dict": {"w": w, "b": np.ones(2)}}[structure]
    opt = fastopt.AdaptiveRevision(params, lr=0.3, backend=backend)
    steps = [server(float(x), 0.3) for x in w]

    def shaped(a: Any, b: Any) -> Any:
        return {"array": a, "list": [a, b], "dict": {"w": a, "b": b}}[structure]

    seen, known, sums = [opt.snapshot()], [np.zeros(6)], np.zeros(6)
    for t in range(40):
        ago = int(rng.integers(0, min(t, 4) + 1))
        g, theirs = rng.standard_normal(6), known[-1 - ago]
        opt.step(shaped(g, np.ones(2)), seen=None if ago == 0 else seen[-1 - ago])
        got = [step(float(x), float(s)) for step, x, s in zip(steps, g, theirs, strict=True)]
        assert_near(w, np.array([x for x, _ in got]), 1e-12, f"step {t}")
        sums = np.array([s for _, s in got])
        seen.append(opt.snapshot())
        known.append(sums)
        mine = seen[-1] if structure == "array" else seen[-1][names[structure]]
        assert mine is not w and (np.abs(mine - sums) < 1e-12).all()


@each_backend
@pytest.mark.parametrize("mode", ["lazy", "exact"])
def test_rows_that_come_late(mode, backend, rng):
    """Of a sparse gradient's snapshot the touched rows alone matter, and the others are not late afterwards."""
    p, q = (np.ones((10, 3)) for _ in range(2))
    sparse, dense = (fastopt.AdaptiveRevision(a, lr=0.3, backend=backend, sparse=mode) for a in (p, q))
    seen = [(sparse.snapshot(), dense.snapshot())]
    for t in range(30):
        rows = rng.permutation(10)[:4]
        g = np.zeros((10, 3))
        g[rows] = rng.standard_normal((4, 3))
        mine, theirs = seen[rng.integers(max(0, t - 3), t + 1)]
        junk = np.full((10, 3), np.nan)
        junk[rows] = mine[rows]
        sparse.step(SparseGrad(np.concatenate([rows, rows]), np.concatenate([g[rows] / 2] * 2)), seen=junk)
        whole = dense.snapshot()
        whole[rows] = theirs[rows]
        dense.step(g, seen=whole)
        seen.append((sparse.snapshot(), dense.snapshot()))
        assert_near(p, q, 1e-13, f"step {t}")
    states = sparse.state_dict()["state"][0]
    assert (states["seen"] == states["grad_sum"]).all()


@each_backend
def test_a_snapshot_that_does_not_fit_changes_nothing(backend, rng):
    p = {"a": rng.standard_normal((4, 2)), "b": rng.standard_normal(3).astype(np.float32)}
    opt = fastopt.AdaptiveRevision(p, lr=0.1, backend=backend)
    g = {"a": np.ones((4, 2)), "b": np.ones(3, np.float32)}
    old = opt.snapshot()
    opt.step(g)
    opt.step(g, seen=old)
    rows = SparseGrad(np.array([1, 9]), np.ones((2, 2)))
    for grads, seen, error, words in [
        (g, [old["a"], old["b"]], DTypeError, ("snapshots", "dict")),
        (g, {"a": old["a"]}, ShapeError, ("snapshot", "'b'")),
        (g, {**old, "c": old["a"]}, ShapeError, ("'c'",)),
        (g, {**old, "a": old["a"].T}, ShapeError, ("seen", "'a'", "(2, 4)")),
        (g, {**old, "b": old["b"].astype(float)}, DTypeError, ("seen", "'b'", "float32")),
        (g, {**old, "b": [0, 0, 0]}, DTypeError, ("seen", "'b'", "list")),
        ({**g, "b": None}, {**old, "b": np.zeros(2, np.float32)}, ShapeError, ("seen", "'b'")),
        ({**g, "b": np.ones(4, np.float32)}, old, ShapeError, ("gradient", "'b'")),
        ({**g, "a": rows}, old, fastopt.IndexRangeError, ("9",)),
        ({"a": g["a"]}, old, ShapeError, ("'b'",)),
    ]:
        with refused(error, *words, opt=opt, watch=[*p.values(), *old.values()]):
            opt.step(grads, seen=seen)
    opt.param_groups[0]["lr"] = 1e308
    with refused(fastopt.HyperParameterError, "lr", opt=opt, watch=list(p.values())):  # after the snapshot was taken in
        opt.step(g, seen=old)
    opt.param_groups[0]["lr"] = 0.1
    with refused(StateError, "grads", opt=opt):
        opt.step(seen=old)
    opt.grads["a"][...] = 1
    opt.step(seen=old)
    opt.step({**g, "a": None}, seen={"a": old["a"], "b": None})


@each_backend
def test_nothing_comes_between_a_snapshot_and_its_step(backend, monkeypatch):
    """Another thread that tries is refused, whatever it tries; a step that fails leaves nobody locked out."""
    p = np.ones(3)
    opt = fastopt.AdaptiveRevision(p, backend=backend)
    old, g = opt.snapshot(), np.ones(3)
    opt.step(g)
    told: list[Any] = []
    step = fastopt.Optimizer.step

    def attempt(call: Any) -> None:
        try:
            call()
            told.append(call)
        except fastopt.ConcurrentStepError as error:
            told.append(error)

    calls = [
        lambda: opt.step(g),
        lambda: opt.step(g, seen=old),
        opt.snapshot,
        opt.state_dict,
        opt.reset_state,
        lambda: opt.param_groups[0].update(lr=3.0),
    ]

    def slow(self: Any, grads: Any) -> None:
        for call in calls:
            other = threading.Thread(target=attempt, args=(call,))
            other.start()
            other.join()
        step(self, grads)

    monkeypatch.setattr(fastopt.Optimizer, "step", slow)
    opt.step(g, seen=old)
    assert [type(e) for e in told] == [fastopt.ConcurrentStepError] * len(calls)
    monkeypatch.undo()
    with pytest.raises(ShapeError):
        opt.step(np.ones(4), seen=old)
    with pytest.raises(ShapeError):
        opt.step(np.ones(4))
    opt.step(g)
    q = np.ones(3)
    other = fastopt.AdaptiveRevision(q, backend=backend)
    other.step(g)
    other.step(g, seen=old)
    other.step(g)
    assert_bits(p, q)
    assert_bits(copy.deepcopy(opt).snapshot(), opt.snapshot())


@each_backend
def test_a_late_step_that_is_skipped_changes_nothing(backend):
    p = np.ones(3)
    opt = fastopt.AdaptiveRevision(p, backend=backend, nonfinite="skip")
    old = opt.snapshot()
    opt.step(np.ones(3))
    before, states = p.copy(), opt.state_dict()["state"][0]
    opt.step(np.array([1.0, np.nan, 1.0]), seen=old)
    after = opt.state_dict()["state"][0]
    assert opt.skipped == 1 and (p == before).all()
    assert all((np.asarray(after[k]) == a).all() for k, a in states.items())
