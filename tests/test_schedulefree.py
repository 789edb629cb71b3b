"""Schedule-Free: the course beside the authors' recurrence, the switch between y and x, and weights made anew from the steps."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits
from test_arguments import each_backend, refused

import fastopt
from fastopt import HyperParameterError, ScheduleFreeAdamW, ScheduleFreeSGD, SparseGrad, StateError
from fastopt.optimizers.schedulefree import shares

Array = np.ndarray
each_class = pytest.mark.parametrize("cls", [ScheduleFreeSGD, ScheduleFreeAdamW])


@dataclass
class Wave:
    """A schedule that has no hash; its largest rate comes late."""

    base: float = 0.1

    def __call__(self, t: int) -> float:
        return self.base * (1.1 + math.sin(t / 300 - 1.5))


def recurrence(cls: type, y: Array, grads: Any, o: dict[str, Any]) -> tuple[Array, Array, Array]:
    """y, z and x by the definition, all three kept, with running sums."""
    x, z, v, total, top = y.copy(), y.copy(), np.zeros_like(y), 0.0, 0.0
    for t, g in enumerate(grads, 1):
        rate = o["lr"](t - 1) if callable(o["lr"]) else o["lr"]
        warm = rate * min(t / max(o["warmup_steps"], 1), 1.0)
        beta = o["momentum"] if cls is ScheduleFreeSGD else o["betas"][0]
        if o["decoupled_weight_decay"] and o["weight_decay"]:
            y = y * (1 - rate * o["weight_decay"])
            x = (y - (1 - beta) * z) / beta
        if cls is ScheduleFreeAdamW:
            beta2 = o["betas"][1]
            v = beta2 * v + (1 - beta2) * g * g
            g = g / (np.sqrt(v / (1 - beta2**t)) + o["eps"])
        if not o["decoupled_weight_decay"]:
            g = g + o["weight_decay"] * y
        z = z - warm * g
        top = max(top, warm)
        weight = t ** o["r"] * top ** o["weight_lr_power"]
        total += weight
        c = weight / total if total else 0.0
        x = (1 - c) * x + c * z
        y = beta * x + (1 - beta) * z
    return y, z, x


@each_backend
@each_class
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"warmup_steps": 9, "weight_decay": 0.03},
        {"r": 1.5, "weight_lr_power": 0.0, "warmup_steps": 1},
        {"lr": Wave(), "weight_lr_power": 1.3, "r": 0.25},
        {"lr": Wave(), "decoupled_weight_decay": True, "weight_decay": 0.1, "warmup_steps": 40},
        {"lr": lambda t: 0.0 if t < 3 else 0.05},
    ],
)
def test_the_course_is_the_definitions(cls, options, backend):
    rng = np.random.default_rng(1)
    p = rng.standard_normal(23)
    grads = [rng.standard_normal(23) for _ in range(1100)]
    start = p.copy()
    opt = cls(p, **{"lr": 0.05, **options}, backend=backend)
    for g in grads:
        opt.step(g)
    y, z, x = recurrence(cls, start, grads, opt.param_groups[0].options())
    np.testing.assert_allclose(p, y, rtol=0, atol=1e-12)
    np.testing.assert_allclose(opt.state_dict()["state"][0]["z"], z, rtol=0, atol=1e-12)
    opt.eval()
    np.testing.assert_allclose(p, x, rtol=0, atol=1e-12)


@each_backend
@each_class
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eval_and_train(cls, dtype, backend):
    rng = np.random.default_rng(2)
    params = {"a": rng.standard_normal((5, 4)).astype(dtype), "b": np.asfortranarray(np.ones((3, 2), dtype))}
    late = np.ones(3, dtype)
    opt = cls({**params, "late": late}, lr=0.1, backend=backend)
    for _ in range(10):
        opt.step({**{k: rng.standard_normal(p.shape).astype(dtype) for k, p in params.items()}, "late": None})
    y = {k: p.copy() for k, p in params.items()}
    opt.train()
    opt.eval()
    x = {k: p.copy() for k, p in params.items()}
    assert all(np.abs(x[k] - y[k]).max() > 1e-3 for k in params)
    opt.eval()
    z = {k: e.get("z") for k, e in opt.state_dict()["state"].items()}
    for k, p in params.items():
        assert_bits(p, x[k])
        np.testing.assert_allclose(0.9 * x[k] + 0.1 * z[k], y[k], rtol=0, atol=20 * np.finfo(dtype).eps)
    with refused(StateError, "train()", opt=opt, watch=list(params.values())):
        opt.step({k: np.ones(p.shape, dtype) for k, p in {**params, "late": late}.items()})
    opt.train()
    for k, p in params.items():
        np.testing.assert_allclose(p, y[k], rtol=0, atol=20 * np.finfo(dtype).eps)
    assert (late == 1).all()
    opt.step({k: np.ones(p.shape, dtype) for k, p in {**params, "late": late}.items()})


@each_backend
@each_class
def test_what_is_saved_in_either_mode_goes_on_alike(cls, backend):
    rng = np.random.default_rng(3)
    grads = [rng.standard_normal(6) for _ in range(12)]
    for averaged in (False, True):
        p = np.linspace(-1, 1, 6)
        opt = cls(p, lr=0.1, warmup_steps=3, backend=backend)
        for g in grads[:6]:
            opt.step(g)
        if averaged:
            opt.eval()
        saved = opt.state_dict()
        assert saved["train_mode"] is not averaged
        q = p.copy()
        loaded = cls(q, backend=backend)
        loaded.load_state_dict(saved)
        copies = [loaded, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), opt]
        for other in copies:
            if averaged:
                with pytest.raises(StateError):
                    other.step(grads[6])
            other.train()
            for g in grads[6:]:
                other.step(g)
            (r,) = other.param_groups[0]["params"]
            assert_bits(r, copies[0].param_groups[0]["params"][0], f"averaged={averaged}")


@each_backend
def test_a_mode_that_is_no_flag_is_refused(backend):
    opt = ScheduleFreeSGD(np.ones(3), backend=backend)
    opt.step(np.ones(3))
    bad = {**opt.state_dict(), "train_mode": "yes"}
    with refused(HyperParameterError, "train_mode", opt=opt):
        opt.load_state_dict(bad)


@each_backend
@each_class
def test_z_is_the_parameter_before_its_first_step(cls, backend):
    """Not what it was when the optimizer was made: weights may be loaded in between."""
    p, q = np.zeros(4), np.full(4, 5.0)
    one, other = cls(p, backend=backend), cls(q, backend=backend)
    one.eval()
    one.train()
    with pytest.raises(fastopt.ShapeError):
        one.step(np.ones(3))
    p[...] = 5.0
    for opt in (one, other):
        for _ in range(3):
            opt.step(np.ones(4))
    assert_bits(p, q)


@needs_native
@each_class
def test_rows_that_wait_for_their_first_gradient_in_lazy_mode(cls):
    p = np.full((6, 2), 5.0)
    opt = cls(p, lr=0.1)
    for k in range(6):
        opt.step(SparseGrad(np.array([k]), np.ones((1, 2))))
    assert (np.abs(p - 5) < 0.2).all()
    assert (p != 5).all()


@each_backend
@each_class
def test_weights_are_a_function_of_the_step(cls, backend):
    """A run that is taken up again has the bits of one that was not, beyond what is kept of the sums."""
    asked = []

    def rate(t: int) -> float:
        asked.append(t)
        return 0.01 * (2 + math.sin(t / 50))

    p, q = np.ones(3), np.ones(3)
    whole = cls(p, lr=rate, warmup_steps=20, r=0.5, backend=backend)
    for t in range(1200):
        whole.step(np.full(3, math.cos(t)))
        if t == 1100:
            taken, q[...] = whole.state_dict(), p
    fresh = cls(q, lr=lambda t: rate(t), warmup_steps=20, r=0.5, backend=backend)
    taken["param_groups"][0]["lr"] = fresh.param_groups[0]["lr"]
    fresh.load_state_dict(taken)
    for t in range(1101, 1200):
        fresh.step(np.full(3, math.cos(t)))
    assert_bits(p, q)
    assert min(asked) == 0


@each_backend
@each_class
def test_a_schedule_is_asked_for_the_past_once(cls, backend):
    """Also where steps pass the parameter by, each of which moves the schedule against the parameter's own steps."""
    asked: dict[int, int] = {}

    def rate(t: int) -> float:
        asked[t] = asked.get(t, 0) + 1
        return 0.01 * (2 + math.sin(t / 50))

    p = np.ones(3)
    opt = cls([p], lr=rate, backend=backend)
    for t in range(1300):
        opt.step([np.ones(3) if t % 2 else None])
    assert max(asked.values()) < 12  # as the present, ahead of time, and as the past

    apart = {"lr": 0.01 * (2 + math.sin(1299 / 50)), "warmup_steps": 9, "r": 0.5, "weight_lr_power": 1.5}
    s = np.arange(1, 651.0)
    rates = np.array([rate(650 + t) for t in range(650)]) * np.minimum(s / 9, 1)
    weights = s**0.5 * np.maximum.accumulate(rates) ** 1.5
    got, _ = shares({**apart, "history": (rate, 1299)}, np.array([650]))
    np.testing.assert_allclose(got, weights[-1] / weights.sum(), rtol=1e-12)


@each_backend
@each_class
def test_parameters_without_gradient_are_left_alone(cls, backend):
    """A frozen one is not copied at every step: its z is written when it first moves."""
    p, q = np.ones(3), np.ones(4)
    opt = cls([p, q], lr=0.1, backend=backend)
    for _ in range(3):
        opt.step([np.ones(3), None])
    assert not opt._state[1]["z"].any()
    q[...] = 5.0
    r = np.full(4, 5.0)
    opt.param_groups[0]["lr"] = 0.2
    opt.step([None, np.ones(4)])
    cls([r], lr=0.2, backend=backend).step([np.ones(4)])
    assert_bits(q, r)


@each_backend
@each_class
def test_a_rate_set_later_weighs_the_past_anew(cls, backend):
    """With a constant rate and no warm-up the weights are those of a plain average, whatever the rate was before."""
    p = np.ones(3)
    opt = cls(p, lr=0.1, backend=backend)
    zs = []
    for t in range(8):
        if t == 4:
            opt.param_groups[0]["lr"] = 0.01
        opt.step(np.full(3, 1.0 + t))
        zs.append(opt.state_dict()["state"][0]["z"])
    opt.eval()
    np.testing.assert_allclose(p, np.mean(zs, axis=0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("bad", [0, 1, -0.1, 1.5])
def test_momentum_must_be_between_0_and_1(bad):
    with pytest.raises(HyperParameterError, match="momentum"):
        ScheduleFreeSGD(np.ones(2), momentum=bad)
    with pytest.raises(HyperParameterError, match="betas"):
        ScheduleFreeAdamW(np.ones(2), betas=(bad, 0.9))


@needs_native
@each_class
def test_eval_brings_exact_rows_up_to_date(cls):
    rng = np.random.default_rng(5)
    start = rng.standard_normal((20, 3))
    p, q = start.copy(), start.copy()
    exact, dense = cls(p, lr=0.1, sparse="exact"), cls(q, lr=0.1, backend="numpy")
    for t in range(60):
        if t == 30:
            for opt in (exact, dense):
                opt.eval()
                opt.train()
        rows, g = rng.integers(0, 10, 3), np.zeros((20, 3))
        values = rng.standard_normal((3, 3))
        np.add.at(g, rows, values)
        exact.step(SparseGrad(rows, values))
        dense.step(g)
    exact.eval()
    dense.eval()
    np.testing.assert_allclose(p, q, rtol=0, atol=1e-12)


@each_class
def test_a_table_can_be_switched_and_copied(cls):
    table = fastopt.Table(10, 4, cls, lr=0.1)
    table.param[...] = 1.0
    grad = SparseGrad(np.array([3, 7]), np.ones((2, 4), np.float32))
    for _ in range(3):
        table.step(grad)
    table.optimizer.eval()
    other = copy.deepcopy(table)
    assert_bits(other.param, table.param)
    for t in (table, other):
        with pytest.raises(StateError):
            t.step(grad)
        t.optimizer.train()
        t.step(grad)
    assert_bits(other.param, table.param)
    assert (table.param[3] < 1).all()
    assert (table.param[0] == 1).all()


@pytest.mark.parametrize("lr", [0.1, 1e-200, 0.0])
@pytest.mark.parametrize("warmup", [0, 7, 700, 3000])
def test_shares_at_any_step_are_those_of_the_running_sum(lr, warmup):
    s = np.arange(1, 6001.0)
    for r, lr_power in itertools.product((0.0, 0.7, 3.0), (0.0, 1.5, 2.0)):
        weights = s**r * (np.minimum(s / max(warmup, 1), 1.0) * (lr > 0)) ** lr_power
        totals = np.cumsum(weights)
        want = weights / np.where(totals > 0, totals, 1.0)
        o = {"lr": lr, "warmup_steps": warmup, "r": r, "weight_lr_power": lr_power}
        for now in (0, 100, 511, 512, 513, 1500, 5000):
            got, _ = shares({**o, "history": (lr, now)}, np.arange(now + 1, now + 601))
            np.testing.assert_allclose(got, want[now : now + 600], rtol=1e-12, atol=0)
        got, _ = shares({**o, "history": (lr, 2**62)}, np.arange(2**62 + 1, 2**62 + 4))
        assert np.isfinite(got).all()
