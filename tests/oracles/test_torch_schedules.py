"""Outside oracle: every schedule that PyTorch has, beside its scheduler, over 10 000 steps to 1e-12.

PyTorch's rates are recursions on the rate before, or its closed forms; the largest difference found is 8e-13. It is
relative to the value, but where that is below 1e-4 of the largest one relative to those 1e-4: there 1 + cos(x), as
PyTorch has it, cancels. The formulas of the papers, to 1e-14 everywhere, are in tests/test_schedules.py.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from fastopt import schedules
from fastopt.schedules import Schedule, from_torch

STEPS = 10_000
BASE = 0.1
Array = np.ndarray

#: Scheduler, options, and the steps for which it is defined as here.
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "constant": ("ConstantLR", {}, STEPS),
    "constant, long": ("ConstantLR", {"factor": 0.25, "total_iters": 4000}, STEPS),
    "linear": ("LinearLR", {}, STEPS),
    "linear, long": ("LinearLR", {"start_factor": 0.01, "end_factor": 0.7, "total_iters": 3000}, STEPS),
    "linear, falling": ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 7000}, STEPS),
    "step": ("StepLR", {"step_size": 30}, STEPS),
    "step, slow": ("StepLR", {"step_size": 77, "gamma": 0.97}, STEPS),
    "multistep": ("MultiStepLR", {"milestones": [10, 30, 30, 9000]}, STEPS),
    "multistep, unsorted": ("MultiStepLR", {"milestones": [500, 3], "gamma": 0.5}, STEPS),
    "multistep, at once": ("MultiStepLR", {"milestones": [1], "gamma": 2.0}, STEPS),
    "exponential": ("ExponentialLR", {"gamma": 0.999}, STEPS),
    "exponential, rising": ("ExponentialLR", {"gamma": 1.002}, STEPS),
    "polynomial": ("PolynomialLR", {}, STEPS),
    "polynomial, square": ("PolynomialLR", {"total_iters": 9000, "power": 2.0}, STEPS),
    "polynomial, root": ("PolynomialLR", {"total_iters": 12000, "power": 0.5}, STEPS),
    "cosine": ("CosineAnnealingLR", {"T_max": STEPS}, STEPS),
    "cosine, minimum": ("CosineAnnealingLR", {"T_max": 5000, "eta_min": 0.01}, 5001),
    "restarts": ("CosineAnnealingWarmRestarts", {"T_0": 100, "eta_min": 1e-3}, STEPS),
    "restarts, doubled": ("CosineAnnealingWarmRestarts", {"T_0": 7, "T_mult": 2}, STEPS),
    "restarts, tripled": ("CosineAnnealingWarmRestarts", {"T_0": 10, "T_mult": 3, "eta_min": 1e-2}, STEPS),
    "cyclic": ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.3}, STEPS),
    "cyclic, uneven": ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.3, "step_size_up": 70, "step_size_down": 130}, STEPS),
    "cyclic, halved": (
        "CyclicLR",
        {"base_lr": 1e-3, "max_lr": 1e-1, "step_size_up": 333, "mode": "triangular2"},
        STEPS,
    ),
    "cyclic, fading": (
        "CyclicLR",
        {"base_lr": 1e-3, "max_lr": 1e-1, "step_size_up": 250, "mode": "exp_range", "gamma": 0.9995},
        STEPS,
    ),
    "one cycle": ("OneCycleLR", {"max_lr": 0.3, "total_steps": STEPS}, STEPS),
    "one cycle, linear": (
        "OneCycleLR",
        {"max_lr": 0.3, "total_steps": 9999, "anneal_strategy": "linear", "pct_start": 0.37, "div_factor": 10.0},
        9999,
    ),
    "one cycle, three phases": (
        "OneCycleLR",
        {"max_lr": 0.3, "total_steps": 9001, "three_phase": True, "pct_start": 0.41, "final_div_factor": 100.0},
        9001,
    ),
    "one cycle, epochs": ("OneCycleLR", {"max_lr": 1.0, "epochs": 13, "steps_per_epoch": 31}, 403),
    "lambda": ("LambdaLR", {"lr_lambda": lambda t: 1 / (1 + 0.01 * t)}, STEPS),
    "sequence": (
        "SequentialLR",
        {
            "schedulers": [
                ("LinearLR", {"start_factor": 0.01, "total_iters": 500}),
                ("ExponentialLR", {"gamma": 0.999}),
                ("StepLR", {"step_size": 100, "gamma": 0.9}),
            ],
            "milestones": [500, 6000],
        },
        STEPS,
    ),
}


def scheduler(name: str, options: dict[str, Any], base: float = BASE) -> Any:
    """PyTorch's, with an optimizer of its own."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base, momentum=0.9)
    return made(optimizer, name, options)


def made(optimizer: Any, name: str, options: dict[str, Any]) -> Any:
    if name == "SequentialLR":
        parts = [made(optimizer, n, o) for n, o in options["schedulers"]]
        return lr_scheduler.SequentialLR(optimizer, parts, options["milestones"])
    return getattr(lr_scheduler, name)(optimizer, **options)


def course(one: Any, steps: int, what: str = "lr") -> Array:
    """Rates, or another option, that the steps of an optimizer would have."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optimizer.step() is not called
        for step in range(steps):
            found.append(float(one.optimizer.param_groups[0][what]))
            if step < steps - 1:
                one.step()
    return np.array(found)


def closed(one: Any, steps: int) -> Array:
    """PyTorch's closed form."""
    found = []
    for step in range(steps):
        one.last_epoch = step
        found.append(one._get_closed_form_lr()[0])
    return np.array(found)


def distance(got: Array, want: Array) -> float:
    """The largest difference: relative, and where the value is small beside the largest, relative to that."""
    assert got.shape == want.shape and np.isfinite(got).all()
    return float(np.max(np.abs(got - want) / np.maximum(np.abs(want), 1e-4 * np.abs(want).max())))


@pytest.mark.parametrize("case", CASES)
def test_every_scheduler_of_torch(case):
    name, options, steps = CASES[case]
    mine = from_torch(name, BASE, **options)(np.arange(steps))
    one = scheduler(name, options)
    assert distance(mine, course(one, steps)) <= 1e-12
    if hasattr(one, "_get_closed_form_lr"):
        assert distance(mine, closed(one, steps)) <= 1e-12


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c][0] != "LambdaLR"])
def test_there_and_back(case):
    """What `to_torch` says, PyTorch takes and computes the same; and `from_torch` makes the same schedule of it."""
    name, options, steps = CASES[case]
    steps = min(steps, 2000)
    mine = from_torch(name, BASE, **options)
    try:
        again, said = mine.to_torch()
    except TypeError as error:  # LinearLR multiplies the rate, which is 0 at its end
        assert case == "linear, falling", error
        return
    base = getattr(mine, "base", BASE)
    assert from_torch(again, base, **said)(range(steps)) == pytest.approx(mine(range(steps)), rel=1e-14, abs=0)
    assert distance(mine(np.arange(steps)), course(scheduler(again, said, base), steps)) <= 1e-10


OWN: dict[str, Schedule] = {
    "warm-up": schedules.LinearWarmup(BASE, 500),
    "warm-up of one step": schedules.LinearWarmup(BASE, 1),
    "warm-up from a start": schedules.LinearWarmup(BASE, 500, start=0.01),
    "with_warmup": schedules.Step(BASE, 100, 0.9).with_warmup(50),
    "chain": schedules.Exponential(BASE, 0.999).then(schedules.Step(BASE, 10), 40).then(schedules.Constant(BASE), 90),
    "staircase": schedules.Exponential(BASE, 0.5, steps=100, staircase=True),
    "exponential over many": schedules.Exponential(BASE, 0.5, steps=100),
}


@pytest.mark.parametrize("case", OWN)
def test_what_to_torch_says(case):
    name, options = OWN[case].to_torch()
    theirs = course(scheduler(name, options), 1000)
    assert distance(OWN[case](np.arange(1000)), theirs) <= 1e-12


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_the_momentum_of_one_cycle(strategy, three_phase):
    options = {"max_lr": 0.3, "total_steps": 5000, "anneal_strategy": strategy, "three_phase": three_phase}
    theirs = course(scheduler("OneCycleLR", options), 5000, "momentum")
    mine = from_torch("OneCycleLR", BASE, **options).momentum(np.arange(5000))
    assert distance(mine, theirs) <= 1e-12


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_the_momentum_of_cyclic(mode):
    options = {"base_lr": 0.01, "max_lr": 0.3, "step_size_up": 30, "step_size_down": 50, "mode": mode, "gamma": 0.999}
    theirs = course(scheduler("CyclicLR", options), 5000, "momentum")
    mine = schedules.Cyclical(0.9, 0.8, 30, 50, mode, gamma=0.999 if mode == "exp_range" else 1.0)
    assert distance(mine(np.arange(5000)), theirs) <= 1e-12


PLATEAUS: list[dict[str, Any]] = [
    {},
    {"patience": 0},
    {"patience": 2, "cooldown": 3},
    {"mode": "max", "patience": 1, "factor": 0.7, "threshold": 0.01},
    {"mode": "max", "patience": 1, "threshold": 0.02, "threshold_mode": "abs"},
    {"patience": 3, "threshold": 0.05, "threshold_mode": "abs", "cooldown": 1},
    {"patience": 1, "factor": 0.5, "min_lr": 0.01},
    {"patience": 0, "factor": 0.1, "eps": 1e-4},
]


@pytest.mark.parametrize("options", PLATEAUS, ids=lambda o: ", ".join(f"{k}={v}" for k, v in o.items()) or "defaults")
def test_reduce_on_plateau(options):
    rng = np.random.default_rng(5)
    falling = 1 / (1 + np.arange(30))
    values = np.concatenate(
        [[np.inf, np.nan], falling, np.full(30, falling[-1]), rng.uniform(0, 2, 300), [np.nan, np.inf, 0.01]]
    )
    theirs, mine = scheduler("ReduceLROnPlateau", options), from_torch("ReduceLROnPlateau", BASE, **options)
    rates = []
    for k, value in enumerate(values):
        theirs.step(value)
        rates.append(mine.update(value))
        assert rates[-1] == mine(k) == theirs.optimizer.param_groups[0]["lr"], k
    assert len(set(rates)) > 1
    name, said = mine.to_torch()
    assert name == "ReduceLROnPlateau" and type(mine)(BASE, **said) == type(mine)(BASE, **options)


# ------------------------------------------------------------------------------------------------- where torch differs


def test_torch_does_not_clamp_its_cosine():
    theirs = course(scheduler("CosineAnnealingLR", {"T_max": 100}), 201)
    mine = from_torch("CosineAnnealingLR", BASE, T_max=100)
    assert theirs[200] == pytest.approx(BASE, rel=1e-6)
    assert mine(200) == 0 and (mine(np.arange(100, 5000)) == 0).all()


def test_torch_raises_past_the_end_of_one_cycle():
    one = scheduler("OneCycleLR", {"max_lr": 0.3, "total_steps": 10})
    theirs = course(one, 10)
    with pytest.raises(ValueError, match="Tried to step"):
        one.step()
        one.step()
    mine = from_torch("OneCycleLR", BASE, max_lr=0.3, total_steps=10)
    assert mine(10**9) == mine(9) == pytest.approx(theirs[9], rel=1e-14)


def test_torch_ends_a_cycle_without_descent_at_the_top():
    theirs = course(scheduler("OneCycleLR", {"max_lr": 0.3, "total_steps": 10, "pct_start": 1.0}), 10)
    mine = from_torch("OneCycleLR", BASE, max_lr=0.3, total_steps=10, pct_start=1.0)(np.arange(10))
    assert distance(mine[:9], theirs[:9]) <= 1e-12
    assert theirs[9] == 0.3 and mine[9] == pytest.approx(0.3 / 25 / 1e4)


def test_torchs_plateau_of_negative_values_takes_equal_ones_for_better():
    theirs, mine = scheduler("ReduceLROnPlateau", {"patience": 0}), schedules.ReduceOnPlateau(BASE, patience=0)
    for _ in range(3):
        theirs.step(-1.0)
        mine.update(-1.0)
    assert theirs.optimizer.param_groups[0]["lr"] == BASE
    assert mine(0) == pytest.approx(BASE / 100)


def test_the_default_warmup_of_torch_begins_at_a_third():
    theirs = course(scheduler("LinearLR", {}), 6)
    assert distance(schedules.LinearWarmup(BASE, 5, start=BASE / 3)(np.arange(6)), theirs) <= 1e-15
    assert schedules.LinearWarmup(BASE, 5)(0) == pytest.approx(BASE / 5)


def test_a_schedule_is_a_lambda_of_torch():
    noam = schedules.Noam(512, 4000)
    theirs = course(scheduler("LambdaLR", {"lr_lambda": noam}, base=1.0), 1000)
    assert (theirs == noam(np.arange(1000))).all()


def test_an_optimizer_with_a_schedule_steps_as_torch_with_its_scheduler():
    import fastopt

    rng = np.random.default_rng(3)
    start, grads = rng.standard_normal(20), rng.standard_normal((300, 20))
    mine, theirs = start.copy(), torch.tensor(start.copy(), requires_grad=True)
    cycle = schedules.OneCycle(0.1, 300)
    opt = fastopt.SGD(mine, lr=cycle, momentum=cycle.momentum)
    optimizer = torch.optim.SGD([theirs], lr=BASE, momentum=0.9)
    one = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=300)
    for step, g in enumerate(grads):
        opt.step(g)
        theirs.grad = torch.tensor(g)
        optimizer.step()
        if step < 299:
            one.step()
    assert np.abs(mine - theirs.detach().numpy()).max() <= 1e-12 * max(1.0, math.sqrt(np.abs(mine).max()))


def test_what_torch_has_none_of_says_so():
    for schedule in (
        schedules.Noam(8, 5),
        schedules.WSD(0.1, 9, 2, 2),
        schedules.SGDR(0.1, 5, 1.5),
        schedules.InverseTime(1, 1),
    ):
        with pytest.raises(TypeError, match="LambdaLR"):
            schedule.to_torch()


def test_every_scheduler_that_torch_has_is_known():
    theirs: set[str] = {
        name
        for name, cls in vars(lr_scheduler).items()
        if isinstance(cls, type) and issubclass(cls, lr_scheduler.LRScheduler) and not name.startswith("_")
    } - {"LRScheduler"}
    refused = {"MultiplicativeLR", "ChainedScheduler"}
    for name in refused:
        with pytest.raises(TypeError, match=name):
            from_torch(name, BASE)
    assert {name for name, _, _ in CASES.values()} | {"ReduceLROnPlateau"} | refused == theirs
