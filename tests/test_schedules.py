"""Schedules beside the formulas of their papers, and what optimizers and linear models make of them.

PyTorch's schedulers are in oracles/test_torch_schedules.py.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import pickle
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from test_arguments import each_backend

import fastopt
from fastopt import (
    DTypeError,
    FastoptError,
    HyperParameterError,
    SparseGrad,
    StateError,
    UnsupportedError,
    schedules,
)
from fastopt.schedules import (
    SGDR,
    WSD,
    BatchSizeSchedule,
    Constant,
    Cosine,
    Cyclical,
    Exponential,
    InverseSqrt,
    InverseTime,
    LinearWarmup,
    MultiStep,
    Noam,
    OneCycle,
    Polynomial,
    ReduceOnPlateau,
    Schedule,
    SlantedTriangular,
    Step,
    from_torch,
)

Array = np.ndarray

# ---------------------------------------------------------------------------------- the papers' formulas, in 50 digits

PI = Decimal("3.14159265358979323846264338327950288419716939937510")


def cosine(x: Decimal) -> Decimal:
    """cos(x) for x in [0, pi], by its series."""
    total, term, k = Decimal(1), Decimal(1), 0
    while abs(term) > Decimal("1e-45"):
        k += 2
        term *= -x * x / (k * (k - 1))
        total += term
    return total


def half_wave(t: Any, length: Any) -> Decimal:
    return (1 + cosine(PI * Decimal(t) / Decimal(length))) / 2


def D(x: float) -> Decimal:
    """The very number that a float is."""
    return Decimal(x)


def annealed(low: float, high: float, x: Decimal) -> Decimal:
    return D(low) + (D(high) - D(low)) * x


def restarts(base: float, period: int, multiplier: int, decay: float, low: float) -> Callable[[int], Decimal]:
    """SGDR by going through its periods, one after the other."""

    def formula(t: int) -> Decimal:
        begin, length, i = 0, period, 0
        while t >= begin + length:
            begin, length, i = begin + length, length * multiplier, i + 1
        return D(low) + (D(base) - D(low)) * D(decay) ** i * half_wave(t - begin, length)

    return formula


def triangles(
    low: float, high: float, up: int, down: int, scale: Callable[[int, int], Decimal]
) -> Callable[[int], Decimal]:
    """Smith's cycles, with his x and cycle."""

    def formula(t: int) -> Decimal:
        cycle = 1 + t // (up + down)
        x = 1 + Decimal(t) / (up + down) - cycle
        ratio = Decimal(up) / (up + down)
        rise = x / ratio if x <= ratio else (x - 1) / (ratio - 1)
        return D(low) + (D(high) - D(low)) * rise * scale(cycle, t)

    return formula


def one_cycle(s: OneCycle, ends: list[tuple[Decimal, Decimal]]) -> Callable[[int], Decimal]:
    def formula(t: int) -> Decimal:
        for (begin, a), (end, b) in itertools.pairwise(ends):
            if t < end:
                x = (Decimal(t) - begin) / (end - begin)
                if s.anneal_strategy == "linear":
                    return a + (b - a) * x
                return b + (a - b) * (1 + cosine(PI * x)) / 2
        return ends[-1][1]

    return formula


def cycle_ends(s: OneCycle) -> list[tuple[Decimal, Decimal]]:
    first, top = D(s.max) / D(s.div_factor), D(s.pct_start) * s.total
    ends = [(Decimal(0), first), (top - 1, D(s.max)), (Decimal(s.total - 1), first / D(s.final_div_factor))]
    return [*ends[:2], (2 * top - 2, first), ends[2]] if s.three_phase else ends


def momentum_ends(s: OneCycle) -> list[tuple[Decimal, Decimal]]:
    high, low, top = D(s.max_momentum), D(s.base_momentum), D(s.pct_start) * s.total
    ends = [(Decimal(0), high), (top - 1, low), (Decimal(s.total - 1), high)]
    return [*ends[:2], (2 * top - 2, high), ends[2]] if s.three_phase else ends


def slanted(high: float, total: int, cut_frac: float, ratio: float) -> Callable[[int], Decimal]:
    cut = math.floor(total * cut_frac)

    def formula(t: int) -> Decimal:
        p = Decimal(t) / cut if t < cut else 1 - Decimal(t - cut) / (cut * (1 / D(cut_frac) - 1))
        return D(high) * (1 + max(p, Decimal(0)) * (D(ratio) - 1)) / D(ratio)

    return formula


def warm(base: float, steps: int, t: int) -> Decimal:
    return D(base) * min(Decimal(1), Decimal(t + 1) / steps)


def wsd(base: float, total: int, warmup: int, decay: int, form: str, low: float) -> Callable[[int], Decimal]:
    shapes: dict[str, Callable[[Decimal], Decimal]] = {
        "linear": lambda x: 1 - x,
        "sqrt": lambda x: 1 - x.sqrt(),
        "square": lambda x: 1 - x * x,
        "cosine": lambda x: (1 + cosine(PI * x)) / 2,
    }

    def formula(t: int) -> Decimal:
        if t < total - decay:
            return warm(base, warmup, t) if warmup else D(base)
        return annealed(low, base, shapes[form](min(Decimal(1), Decimal(t - (total - decay)) / decay)))

    return formula


CYCLES = [
    OneCycle(0.3, 1000),
    OneCycle(0.3, 997, 0.37, 10.0, 100.0, "linear"),
    OneCycle(0.3, 1001, 0.41, three_phase=True),
    OneCycle(0.3, 500, 0.5, anneal_strategy="linear", three_phase=True, base_momentum=0.5),
]
FORMULAS: list[tuple[Schedule, Callable[[int], Decimal]]] = [
    (Constant(0.1), lambda t: D(0.1)),
    (Step(0.1, 30), lambda t: D(0.1) * D(0.1) ** (t // 30)),
    (Step(0.1, 7, 0.9), lambda t: D(0.1) * D(0.9) ** (t // 7)),
    (MultiStep(0.1, [10, 30, 30, 999]), lambda t: D(0.1) * D(0.1) ** sum(m <= t for m in (10, 30, 30, 999))),
    (Exponential(0.1, 0.999), lambda t: D(0.1) * D(0.999) ** t),
    (Exponential(0.1, 0.5, steps=30), lambda t: D(0.1) * D(0.5) ** (Decimal(t) / 30)),
    (Exponential(0.1, 0.5, steps=30, staircase=True), lambda t: D(0.1) * D(0.5) ** (t // 30)),
    (Exponential(0.1, 0.9, end=0.01), lambda t: max(D(0.1) * D(0.9) ** t, D(0.01))),
    (Exponential(1e-6, 1.1, end=1.0), lambda t: min(D(1e-6) * D(1.1) ** t, Decimal(1))),
    (Exponential(0.1, 1.0, end=0.5), lambda t: D(0.1)),
    (Polynomial(0.1, 1000), lambda t: D(0.1) * (1 - Decimal(min(t, 1000)) / 1000)),
    (
        Polynomial(0.1, 1000, end=0.01, power=2.0),
        lambda t: annealed(0.01, 0.1, (1 - Decimal(min(t, 1000)) / 1000) ** 2),
    ),
    (
        Polynomial(0.1, 100, end=0.01, power=0.5, cycle=True),
        lambda t: annealed(0.01, 0.1, (1 - Decimal(t) / (100 * max(1, math.ceil(t / 100)))).sqrt()),
    ),
    (InverseTime(0.1, 0.3), lambda t: D(0.1) / (1 + D(0.3) * t)),
    (InverseTime(0.1, 0.3, steps=7, staircase=True), lambda t: D(0.1) / (1 + D(0.3) * (t // 7))),
    (InverseTime(0.1, 1.0, steps=3, power=0.75), lambda t: D(0.1) / (1 + Decimal(t) / 3) ** D(0.75)),
    (InverseSqrt(0.1, 40), lambda t: D(0.1) * (Decimal(40) / (40 + t)).sqrt()),
    (LinearWarmup(0.1, 40), lambda t: warm(0.1, 40, t)),
    (LinearWarmup(0.1, 40, start=0.01), lambda t: annealed(0.01, 0.1, min(Decimal(1), Decimal(t) / 40))),
    (LinearWarmup(0.1, 40, start=0.3), lambda t: annealed(0.3, 0.1, min(Decimal(1), Decimal(t) / 40))),
    (Cosine(0.1, 1000), lambda t: D(0.1) * half_wave(min(t, 1000), 1000)),
    (Cosine(0.1, 333, minimum=0.01), lambda t: annealed(0.01, 0.1, half_wave(min(t, 333), 333))),
    (SGDR(0.1, 50), restarts(0.1, 50, 1, 1.0, 0.0)),
    (SGDR(0.1, 10, 2, minimum=1e-3), restarts(0.1, 10, 2, 1.0, 1e-3)),
    (SGDR(0.1, 3, 3, peak_decay=0.7, minimum=1e-3), restarts(0.1, 3, 3, 0.7, 1e-3)),
    (Cyclical(0.01, 0.3, 20), triangles(0.01, 0.3, 20, 20, lambda c, t: Decimal(1))),
    (Cyclical(0.01, 0.3, 13, 29), triangles(0.01, 0.3, 13, 29, lambda c, t: Decimal(1))),
    (Cyclical(0.01, 0.3, 20, mode="triangular2"), triangles(0.01, 0.3, 20, 20, lambda c, t: Decimal(2) ** (1 - c))),
    (
        Cyclical(0.01, 0.3, 20, 5, mode="exp_range", gamma=0.999),
        triangles(0.01, 0.3, 20, 5, lambda c, t: D(0.999) ** t),
    ),
    (Cyclical(0.95, 0.8, 20), triangles(0.95, 0.8, 20, 20, lambda c, t: Decimal(1))),
    *[(s, one_cycle(s, cycle_ends(s))) for s in CYCLES],
    *[(s.momentum, one_cycle(s, momentum_ends(s))) for s in CYCLES],
    (
        Noam(512, 400, scale=2.0),
        lambda t: (
            2 / Decimal(512).sqrt() * min(1 / Decimal(t + 1).sqrt(), (t + 1) / Decimal(400) / Decimal(400).sqrt())
        ),
    ),
    *[
        (WSD(0.1, 1000, 100, 300, form, 1e-3), wsd(0.1, 1000, 100, 300, form, 1e-3))
        for form in ("linear", "sqrt", "square", "cosine")
    ],
    (WSD(0.1, 500, 0, 500), wsd(0.1, 500, 0, 500, "linear", 0.0)),
    (SlantedTriangular(0.01, 1000), slanted(0.01, 1000, 0.1, 32.0)),
    (SlantedTriangular(0.01, 1005, 0.25, 10.0), slanted(0.01, 1005, 0.25, 10.0)),
]
PURE = [schedule for schedule, _ in FORMULAS]
COMPOSED = [
    Cosine(0.1, 100).with_warmup(10),
    Step(0.1, 30).then(Constant(0.2), 40).then(SGDR(0.3, 5), at=90),
    Exponential(0.1, 0.99).with_warmup(5, start=0.01).scaled(0.5),
    Cosine(0.1, 100).scaled(Cyclical(0.5, 1.0, 10)),
    BatchSizeSchedule(Exponential(0.1, 0.99), 32, most=1000),
    BatchSizeSchedule(Exponential(0.1, 0.99), 32, most=1000).rate,
]
NEAR = [*range(0, 120), *range(320, 345), *range(496, 508), *range(695, 705), *range(990, 1012), 5000, 10**4]
FAR = 10**12


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=lambda x: repr(x) if isinstance(x, Schedule) else "")
def test_formula_of_the_paper(schedule, formula):
    """To 2e-14 relative, also near the ends of cosines, where their formula in floating point cancels."""
    with localcontext() as context:
        context.prec = 50
        for step in NEAR:
            want = formula(step)
            assert abs(Decimal(schedule(step)) - want) <= Decimal("2e-14") * want + Decimal("1e-40"), step


def test_every_schedule_is_tested():
    tested = {type(s).__name__ for s in [*PURE, *COMPOSED]} | {"ReduceOnPlateau", "Schedule"}
    assert {n for n in schedules.__all__ if isinstance(getattr(schedules, n), type)} <= tested
    assert fastopt.schedules is schedules


# --------------------------------------------------------------------------------------------- what all have in common

each = pytest.mark.parametrize("schedule", [*PURE, *COMPOSED], ids=repr)


@each
def test_an_array_has_the_bits_of_its_numbers(schedule):
    steps = np.array([*NEAR, FAR, 2**40 + 1])
    want = [schedule(int(s)) for s in steps]
    dtype = np.int64 if isinstance(schedule, BatchSizeSchedule) else np.float64
    for given in (steps, steps.astype(np.uint64), steps.tolist(), tuple(steps.tolist()), np.asfortranarray(steps)):
        got = schedule(given)
        assert got.dtype == dtype and got.shape == steps.shape and got.tolist() == want
    assert schedule(steps[::-1]).tolist() == want[::-1]
    assert schedule(steps[:8].reshape(2, 4)).tolist() == [want[:4], want[4:8]]
    assert schedule(range(9)).tolist() == [schedule(s) for s in range(9)]
    assert schedule(np.int32(3)) == schedule(3) == schedule(np.array(3))
    assert schedule([]).shape == (0,) and schedule(np.zeros((0, 3), np.int8)).shape == (0, 3)
    assert type(schedule(3)) is (int if dtype is np.int64 else float)


@each
def test_immutable_equal_pickled_and_built_again_from_its_repr(schedule):
    for other in (eval(repr(schedule)), pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert other == schedule and hash(other) == hash(schedule) and other(77) == schedule(77)
    name = dataclasses.fields(schedule)[0].name
    with pytest.raises(AttributeError):
        setattr(schedule, name, 5)
    assert schedule != Constant(7.0)
    assert schedule.pure and schedule.state_dict() == {}


@each
def test_finite_at_any_step_and_asked_in_any_order(schedule):
    fresh = eval(repr(schedule))
    late = schedule(FAR)
    assert math.isfinite(late) and late >= 0
    assert [schedule(s) for s in (5, 3, 5)] == [fresh(s) for s in (5, 3, 5)] and fresh(FAR) == late


def test_no_first_step_is_dead():
    rising = [
        LinearWarmup(0.1, 10),
        Noam(8, 100),
        WSD(0.1, 100, 10, 10),
        Constant(0.1).with_warmup(10),
        OneCycle(0.1, 50),
    ]
    assert all(s(0) > 0 for s in rising) and LinearWarmup(0.1, 10)(0) == 0.01
    assert LinearWarmup(0.1, 10, start=0.0)(0) == 0


@pytest.mark.parametrize(
    "step",
    [-1, 1.0, "3", None, True, 2**63, np.array([1.0]), np.array([-1]), [0, -3], [[1, 2], [3]], [2**63]],
    ids=repr,
)
def test_bad_steps(step):
    for schedule in (Cosine(0.1, 10), BatchSizeSchedule(Cosine(0.1, 10), 8, 16), ReduceOnPlateau(0.1)):
        with pytest.raises((HyperParameterError, DTypeError), match="step"):
            schedule(step)


BAD: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (Constant, {"value": -1}, "value of Constant"),
    (Constant, {"value": math.nan}, "value of Constant"),
    (Step, {"base": "a", "step_size": 3}, "base of Step"),
    (Step, {"base": 0.1, "step_size": 0}, "step_size of Step"),
    (Step, {"base": 0.1, "step_size": 3, "gamma": -0.1}, "gamma of Step"),
    (MultiStep, {"base": 0.1, "milestones": [3, 1]}, "ascending"),
    (MultiStep, {"base": 0.1, "milestones": [1.5]}, r"milestones of MultiStep\[0\]"),
    (MultiStep, {"base": 0.1, "milestones": 3}, "milestones of MultiStep"),
    (Exponential, {"base": 0.1, "gamma": 0}, "gamma of Exponential"),
    (Exponential, {"base": 0.1, "gamma": 0.9, "staircase": 1}, "staircase"),
    (Polynomial, {"base": 0.1, "steps": 2.0}, "steps of Polynomial"),
    (InverseTime, {"base": 0.1, "decay": -1}, "decay of InverseTime"),
    (InverseSqrt, {"base": math.inf, "steps": 1}, "base of InverseSqrt"),
    (LinearWarmup, {"base": 0.1, "steps": 0}, "steps of LinearWarmup"),
    (Cosine, {"base": 0.1, "steps": 10, "minimum": -1}, "minimum of Cosine"),
    (SGDR, {"base": 0.1, "period": 0}, "period of SGDR"),
    (SGDR, {"base": 0.1, "period": 5, "multiplier": 0.5}, "multiplier of SGDR"),
    (SGDR, {"base": 0.1, "period": 5, "peak_decay": 1.5}, "peak_decay of SGDR"),
    (Cyclical, {"base": 0.1, "max": 0.2, "mode": "square"}, "mode of Cyclical"),
    (Cyclical, {"base": 0.1, "max": 0.2, "up": -1}, "up of Cyclical"),
    (OneCycle, {"max": 0.1, "total": 10, "pct_start": 1.5}, "pct_start of OneCycle"),
    (OneCycle, {"max": 0.1, "total": 10, "pct_start": 0.6, "three_phase": True}, "at most 0.5"),
    (OneCycle, {"max": 0.1, "total": 10, "max_momentum": 1.0}, "max_momentum of OneCycle"),
    (Noam, {"d_model": 8, "warmup": 0}, "warmup of Noam"),
    (WSD, {"base": 0.1, "total": 10, "warmup": 6, "decay": 5}, "total=10"),
    (WSD, {"base": 0.1, "total": 10, "warmup": 1, "decay": 5, "form": "cubic"}, "form of WSD"),
    (SlantedTriangular, {"max": 0.1, "total": 5}, "at least 1 step"),
    (SlantedTriangular, {"max": 0.1, "total": 50, "ratio": 0.5}, "ratio of SlantedTriangular"),
    (ReduceOnPlateau, {"base": 0.1, "factor": 1.0}, "factor of ReduceOnPlateau"),
    (ReduceOnPlateau, {"base": 0.1, "patience": -1}, "patience of ReduceOnPlateau"),
    (BatchSizeSchedule, {"rate_schedule": 0.1, "size": 8}, "rate_schedule of BatchSizeSchedule"),
    (BatchSizeSchedule, {"rate_schedule": Constant(0.1), "size": 8, "most": 4}, "size=8"),
    (Constant(0.1).then, {"other": 0.2, "at": 3}, "schedule or a callable"),
    (Constant(0.1).then, {"other": Constant(0.2), "at": -3}, "at of Joined"),
    (Constant(0.1).with_warmup, {"steps": 0}, "steps of Warmed"),
    (Constant(0.1).scaled, {"factor": -1}, "factor of Scaled"),
    (Schedule.of, {"function": 3}, "schedule or a callable"),
]


@pytest.mark.parametrize(("make", "arguments", "message"), BAD, ids=[f"{m}-{i}" for i, (_, _, m) in enumerate(BAD)])
def test_bad_arguments_are_named(make, arguments, message):
    with pytest.raises(HyperParameterError, match=message):
        make(**arguments)


# ------------------------------------------------------------------------------------------------------------ restarts


@pytest.mark.parametrize("multiplier", [1, 2, 3, 10, 1000, 2.0])
@pytest.mark.parametrize("period", [1, 3, 10, 997])
def test_restarts_have_exactly_the_peak_however_late(period, multiplier):
    """Logarithms would be off by one at some of these."""
    schedule, begin, length, found = SGDR(0.1, period, multiplier, minimum=0.01), 0, period, 0
    while begin + length < 2**62 and found < 2000:
        assert schedule(begin) == 0.1, begin
        assert schedule(begin + length // 2) == pytest.approx(0.055, rel=1e-12) or length % 2, begin
        assert begin == 0 or schedule(begin - 1) < 0.1 or period == 1, begin
        begin, length, found = begin + length, length * int(multiplier), found + 1
    assert found > 5


def test_a_multiplier_that_is_not_whole():
    """Restarts at 0, 4, 10, 19, 32.5, ..., where 19 and 10 must be met although 1.5 has no exact logarithm."""
    schedule = SGDR(1.0, 4, 1.5)
    begin, length = 0.0, 4.0
    for _ in range(50):
        first, last = math.ceil(begin), math.ceil(begin + length) - 1
        for step in {first, (first + last) // 2, last}:
            want = (1 + math.cos(math.pi * (step - begin) / length)) / 2
            assert schedule(step) == pytest.approx(want, rel=1e-9, abs=1e-12), step
        begin, length = begin + length, length * 1.5
    assert schedule(10) == schedule(19) == schedule(4) == 1.0
    assert SGDR(1.0, 16, 1.25)(61) == 1.0  # 16 + 20 + 25, which rounding puts behind 61
    for period, step in ((16, 211), (64, 844), (1024, 76684)):  # restarts that rounding would move behind these steps
        late = SGDR(1.0, period, 1.5)
        assert late(step) == 1.0 and late.is_restart(step) and not late.is_restart(step + 1)
    assert SGDR(0.1, 10, 2.0) == SGDR(0.1, 10, 2)


@pytest.mark.parametrize("up", [1, 3, 7, 10, 2000])
def test_cycles_meet_their_ends_exactly(up):
    schedule = Cyclical(0.1, 0.7, up, 3 * up)
    for cycle in (0, 1, 10**6 + 1, 10**14 + 7):
        assert schedule(4 * up * cycle) == 0.1 and schedule(4 * up * cycle + up) == 0.7


def test_ends_are_met_exactly_and_kept():
    for s, end, last in [
        (Cosine(0.1, 7, 0.03), 7, 0.03),
        (Polynomial(0.1, 7, 0.03, 2.0), 7, 0.03),
        (LinearWarmup(0.1, 7, start=0.3), 7, 0.1),
        (OneCycle(0.1, 7), 6, 0.1 / 25 / 1e4),
        (WSD(0.1, 7, 2, 3, minimum=0.03), 7, 0.03),
        (SlantedTriangular(0.1, 70), 70, 0.1 / 32),
    ]:
        assert s(end) == s(end + 1) == s(FAR) == last and s(end - 1) != last
    assert LinearWarmup(0.29, 7, start=0.03)(7) == Cosine(0.29, 7, 0.03)(0) == 0.29  # not 0.03 + (0.29 - 0.03)
    assert Cosine(0.1, 7, 0.03)(0) == 0.1 and OneCycle(0.1, 10)(2) == 0.1 and OneCycle(0.1, 10).momentum(2) == 0.85


@pytest.mark.parametrize("total", range(1, 30))
@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.5, 1.0])
def test_one_cycle_of_any_size(total, pct_start):
    for three in (False, True) if pct_start <= 0.5 else (False,):
        cycle = OneCycle(0.5, total, pct_start, three_phase=three)
        rates, momenta = cycle(range(2 * total)), cycle.momentum(range(2 * total))
        assert (rates[total - 1 :] == 0.5 / 25 / 1e4).all() and (rates <= 0.5).all() and (rates > 0).all()
        assert (momenta >= 0.85).all() and (momenta <= 0.95).all()


# --------------------------------------------------------------------------------------------------------- composition


def test_then_counts_from_the_join():
    s = Step(1.0, 10, 0.5).then(LinearWarmup(3.0, 3), 15).then(Constant(9.0), 20)
    assert s([0, 10, 14, 15, 16, 17, 18, 19, 20, FAR]).tolist() == [1, 0.5, 0.5, 1, 2, 3, 3, 3, 9, 9]


def test_the_schedule_begins_after_its_warmup():
    inner = Cosine(0.8, 50)
    for start in (None, 0.2):
        s = inner.with_warmup(8, start)
        assert s(np.arange(8, 70)).tolist() == inner(np.arange(62)).tolist()
    assert inner.with_warmup(8)(range(8)).tolist() == pytest.approx([0.1 * k for k in range(1, 9)], rel=1e-15)
    assert inner.with_warmup(8, start=0.2)(range(3)).tolist() == pytest.approx([0.2, 0.275, 0.35], rel=1e-15)


def test_products_and_any_callable():
    assert Constant(0.5).scaled(Step(8.0, 10, 0.5))([0, 10]).tolist() == [4.0, 2.0]
    assert Schedule.of(lambda t: 2 * t).then(lambda t: 100 + t, 3).scaled(0.5)(range(5)).tolist() == [0, 1, 2, 50, 50.5]
    known = Constant(0.1)
    assert Schedule.of(known) is known


def test_inverse_square_root_after_its_warmup_is_fairseqs():
    s = InverseSqrt(0.1, 100).with_warmup(100)
    assert s(np.arange(100, 1000)) == pytest.approx(0.1 * np.sqrt(100) / np.sqrt(np.arange(100, 1000)), rel=1e-14)


def test_boundaries_of_keras_and_optax():
    """Keras drops one step after its boundary, optax and PyTorch at it; optax's sgdr gives the periods one by one."""
    boundary = 10
    keras = [0.1 if step <= boundary else 0.01 for step in range(20)]
    assert MultiStep(0.1, [boundary + 1])(range(20)).tolist() == pytest.approx(keras, rel=1e-15)
    optax = [0.1 * (0.1 if step >= boundary else 1.0) for step in range(20)]
    assert MultiStep(0.1, [boundary])(range(20)).tolist() == pytest.approx(optax, rel=1e-15)


# ------------------------------------------------------------------------------------------------------------- plateau


def told(schedule: ReduceOnPlateau, *values: float) -> list[float]:
    return [schedule.update(v) for v in values]


def test_plateau_is_patient_and_cools_down():
    s = ReduceOnPlateau(1.0, factor=0.5, patience=1, cooldown=2)
    #            first  bad  bad: drop  cooling  cooling  bad  bad: drop
    assert told(s, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0) == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
    assert s(0) == s(FAR) == s.rate == 0.25 and s([1, 2]).tolist() == [0.25, 0.25] and s.best == 1.0


@pytest.mark.parametrize(
    ("options", "values", "better"),
    [
        ({}, (1.0, 0.9999), False),
        ({}, (1.0, 0.99989), True),
        ({"mode": "max"}, (1.0, 1.00009), False),
        ({"mode": "max"}, (1.0, 1.00011), True),
        ({"threshold_mode": "abs", "threshold": 0.25}, (5.0, 4.75), False),
        ({"threshold_mode": "abs", "threshold": 0.25}, (5.0, 4.5), True),
        ({}, (-1.0, -1.0), False),
        ({}, (-1.0, -1.00009), False),
        ({}, (-1.0, -1.00011), True),
        ({"mode": "max"}, (-1.0, -1.0), False),
        ({"mode": "max"}, (-1.0, -0.99989), True),
        ({}, (math.inf, 1e300), True),
        ({}, (1.0, math.nan), False),
        ({}, (math.nan, 5.0), True),
        ({}, (math.inf, math.inf), False),
        ({}, (math.inf,), False),
        ({"mode": "max"}, (-math.inf,), False),
        ({"mode": "max"}, (math.inf,), True),
        ({"mode": "max"}, (-math.inf, -1e300), True),
    ],
)
def test_what_is_better(options, values, better):
    s = ReduceOnPlateau(1.0, patience=5, **options)
    told(s, *values)
    assert (s.state_dict()["bad"] == 0) is better and s.rate == 1.0


def test_plateau_stops_at_its_bounds():
    assert told(ReduceOnPlateau(1.0, patience=0, min_lr=0.05), *[1.0] * 4) == [1, 0.1, 0.05, 0.05]
    assert told(ReduceOnPlateau(1.0, patience=0, eps=0.05), *[1.0] * 4) == [
        1,
        0.1,
        0.010000000000000002,
        0.010000000000000002,
    ]


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy", "copy"])
def test_plateau_remembers(how):
    values = np.random.default_rng(0).uniform(0, 1, 60)
    whole = ReduceOnPlateau(1.0, patience=2, cooldown=1, factor=0.9)
    first = told(whole, *values[:30])
    if how == "state_dict":
        other = eval(repr(whole))
        other.load_state_dict(whole.state_dict())
    else:
        copied = {"pickle": lambda s: pickle.loads(pickle.dumps(s)), "deepcopy": copy.deepcopy, "copy": copy.copy}[how]
        other = copied(whole)
    assert other == whole and other(0) == first[-1]
    assert told(other, *values[30:45]) == told(whole, *values[30:45])
    told(whole, *[9.0] * 9)
    assert other != whole and other(0) != whole(0)


def test_plateau_says_that_it_has_a_memory_and_so_do_those_made_of_it():
    s = ReduceOnPlateau(1.0, patience=0)
    made = Constant(2.0).scaled(s.with_warmup(4)).then(Schedule.of(lambda t: 1.0), 90)
    assert not s.pure and not made.pure and made(3) == 2.0
    told(s, 1.0, 1.0)
    assert made(10) == 0.2
    memory = made.state_dict()
    told(s, 1.0)
    assert made(10) == pytest.approx(0.02)
    made.load_state_dict(memory)
    assert s(0) == 0.1 and made(10) == 0.2
    with pytest.raises(TypeError):
        hash(s)
    for bad in ({}, {"parts": []}, 3, {"parts": [{}, {"parts": []}]}):
        with pytest.raises(StateError):
            made.load_state_dict(bad)
    for bad in ({**s.state_dict(), "rate": -1.0}, {**s.state_dict(), "bad": 0.5}, {**s.state_dict(), "best": "x"}):
        with pytest.raises(HyperParameterError):
            s.load_state_dict(bad)
    with pytest.raises(HyperParameterError, match="value must be a number"):
        s.update("low")


# --------------------------------------------------------------------------------------------------------- batch sizes


def test_batches_grow_where_the_rate_falls():
    falling = MultiStep(0.4, [10, 20, 30], gamma=0.5)
    batches = BatchSizeSchedule(falling, 64, most=300)
    steps = [0, 9, 10, 20, 30, 99]
    assert batches(steps).tolist() == [64, 64, 128, 256, 300, 300]
    assert batches.rate(steps).tolist() == [0.4, 0.4, 0.4, 0.4, 0.05 * 300 / 64, 0.05 * 300 / 64]


def test_the_noise_scale_is_kept():
    rate = Cosine(0.1, 1000)
    batches = BatchSizeSchedule(rate, 100, most=10_000)
    t = np.arange(1000)
    assert batches.rate(t) / batches(t) == pytest.approx(rate(t) / 100, rel=0.005)
    assert batches(1000) == 10_000 and batches.rate(1000) == 0
    assert (np.diff(batches.rate(t)) <= 0).all() and (np.diff(batches(t)) >= 0).all()


def test_a_batch_never_shrinks_below_its_size_nor_has_no_bounds():
    batches = BatchSizeSchedule(LinearWarmup(0.1, 10), 32)
    assert batches(range(12)).tolist() == [32] * 12
    assert batches.rate(range(12)).tolist() == LinearWarmup(0.1, 10)(range(12)).tolist()
    with pytest.raises(HyperParameterError, match="most="):
        BatchSizeSchedule(Cosine(0.1, 10), 32)(10)
    with pytest.raises(HyperParameterError, match="begin above 0"):
        BatchSizeSchedule(LinearWarmup(0.1, 10, start=0.0), 32)(3)


# ----------------------------------------------------------------------------------------------------- PyTorch's names


def test_names_of_torch():
    assert from_torch("CosineAnnealingLR", 0.1, T_max=100) == Cosine(0.1, 100)
    assert from_torch("StepLR", 0.1, step_size=30) == Step(0.1, 30)
    assert Cosine(0.1, 100, 0.01).to_torch() == ("CosineAnnealingLR", {"T_max": 100, "eta_min": 0.01})
    name, options = Cosine(0.1, 90).with_warmup(10).to_torch()
    assert name == "SequentialLR" and options["milestones"] == [10]
    assert from_torch(name, 0.1, **options)(range(120)) == pytest.approx(Cosine(0.1, 90).with_warmup(10)(range(120)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CosineAnnealing", {}, "CosineAnnealingLR"),
        ("MultiplicativeLR", {"lr_lambda": math.sqrt}, "no closed form"),
        ("ChainedScheduler", {}, "scaled"),
        ("StepLR", {"step_sise": 3}, "step_size"),
        ("StepLR", {}, "needs the option 'step_size'"),
        ("StepLR", {"step_size": 0}, "step_size of Step"),
        ("OneCycleLR", {"max_lr": 1.0}, "total_steps"),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "scale_fn": math.sqrt}, "scale_fn"),
        ("SequentialLR", {"schedulers": [], "milestones": [3]}, "one more than"),
        ("SequentialLR", {"schedulers": ["StepLR", "StepLR"], "milestones": [3]}, "pairs"),
        ("SequentialLR", {"schedulers": [], "milestones": 3}, "milestones must be a list"),
        ("MultiStepLR", {"milestones": 5}, "milestones of MultiStep"),
        ("MultiStepLR", {"milestones": [3, "a"]}, "milestones of MultiStep"),
        ("LinearLR", {"start_factor": "a"}, "start_factor"),
        ("LinearLR", {"end_factor": None}, "end_factor"),
        ("ConstantLR", {"factor": "a"}, "factor"),
        ("ConstantLR", {"factor": 1, "total_iters": "a"}, "total_iters"),
        ("LambdaLR", {"lr_lambda": 3}, "lr_lambda"),
        (["StepLR"], {}, "no scheduler"),
    ],
)
def test_names_that_torch_lacks(name, options, message):
    with pytest.raises(FastoptError, match=message):
        from_torch(name, 0.1, **options)
    with pytest.raises(HyperParameterError, match="base"):
        from_torch("LinearLR", None)


@pytest.mark.parametrize(
    "schedule",
    [
        Noam(8, 3),
        InverseTime(0.1, 1.0),
        SGDR(0.1, 5, 1.5),
        SGDR(0.1, 5, peak_decay=0.5),
        Polynomial(0.1, 5, end=0.01),
        Cyclical(0.2, 0.1),
        Constant(0.2).then(Constant(0.1), 5),
        Step(0.2, 5).then(Step(0.1, 5), 9),
        ReduceOnPlateau(0.1).with_warmup(5),
        Constant(0.1).then(math.sqrt, 5),
    ],
    ids=repr,
)
def test_what_torch_cannot_say(schedule):
    with pytest.raises(UnsupportedError, match="LambdaLR"):
        schedule.to_torch()


# ---------------------------------------------------------------------------------------------------------- optimizers

RATE = SGDR(0.1, 7, 2, minimum=0.01).with_warmup(3)
DECAY = Cosine(0.05, 30).with_warmup(4)
MOMENTUM = OneCycle(0.1, 30).momentum
#: settings of every optimizer that has a momentum, with what changes the place of the momentum
MOMENTA: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"nesterov": True}),
    ("sgd", {"dampening": 0.3}),
    ("sgd", {"lr_inside": True}),
    ("rmsprop", {}),
    ("rmsprop", {"centered": True, "lr_inside": True}),
    ("lars", {}),
    ("lars", {"nesterov": True}),
    ("signum", {}),
    ("sm3", {}),
    ("muon", {}),
]


def decays() -> list[tuple[str, dict[str, Any]]]:
    """Every optimizer that has a weight decay, with each kind of it."""
    found = []
    for name, cls in sorted(fastopt.Optimizer.known.items()):
        if "weight_decay" in cls._known_options() and "weight_decay" not in cls.fixed and name.isidentifier():
            offered = "decoupled_weight_decay" in cls._offered and "decoupled_weight_decay" not in cls.fixed
            found += [(name, {"decoupled_weight_decay": d}) for d in (False, True)] if offered else [(name, {})]
    return [
        (name, options) for name, options in found if fastopt.Optimizer.known[name].__module__.startswith("fastopt")
    ]


def train(name: str, options: dict[str, Any], backend: str, dtype: Any, by_hand: dict[str, Any] | None = None) -> Array:
    """Parameters after 25 steps; options `by_hand` are schedules whose values are set before each step."""
    rng = np.random.default_rng(1)
    p = rng.standard_normal((7, 5)).astype(dtype)
    first = {k: s(0) for k, s in (by_hand or {}).items()}
    opt = fastopt.Optimizer.known[name](p, **options, **first, backend=backend)
    for step in range(25):
        if by_hand:
            opt.param_groups[0].update({k: s(step) for k, s in by_hand.items()})
        opt.step(rng.standard_normal((7, 5)).astype(dtype))
    return p


def same(name: str, a: Array, b: Array) -> bool:
    """The same bits; but for Muon, which rests on BLAS."""
    return np.array_equal(a, b) if name != "muon" else np.allclose(a, b, rtol=1e-4, atol=1e-5)


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), [*MOMENTA, *decays()], ids=str)
def test_options_follow_schedules(name, options, dtype):
    """The very bits of a run in which a hand sets the options before each step, and those of the NumPy backend."""
    following = {"weight_decay": DECAY, "momentum": MOMENTUM} if (name, options) in MOMENTA else {"weight_decay": DECAY}
    native = train(name, {**options, **following}, "native", dtype)
    assert same(name, native, train(name, options, "native", dtype, following))
    assert same(name, native, train(name, {**options, **following}, "numpy", dtype))
    if not options.get("nesterov"):  # which needs momentum; values that do nothing would prove nothing
        assert not np.array_equal(native, train(name, options, "native", dtype))


@needs_native
def test_schedules_and_threads_and_builds(forced, use_build):
    runs = []
    for isa in fastopt.kernels.runnable():
        for threads in (1, 2):
            use_build(isa)
            forced(threads, 8)
            runs.append(train("sgd", {"lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY}, "native", np.float32))
    assert all(np.array_equal(run, runs[0]) for run in runs)


EXACT: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {"momentum": MOMENTUM}),
    ("sgd", {"momentum": MOMENTUM, "nesterov": True}),
    ("sgd", {"momentum": MOMENTUM, "lr_inside": True, "dampening": 0.25}),
    ("sgd", {"momentum": MOMENTUM, "weight_decay": DECAY}),
    ("sgd", {"momentum": MOMENTUM, "weight_decay": DECAY, "nesterov": True}),
    ("sgd", {"momentum": MOMENTUM, "weight_decay": DECAY, "decoupled_weight_decay": True}),
    ("sgd", {"weight_decay": DECAY}),
    ("rmsprop", {"momentum": MOMENTUM}),
    ("rmsprop", {"momentum": MOMENTUM, "weight_decay": DECAY, "decoupled_weight_decay": True, "centered": True}),
    ("adamw", {"weight_decay": DECAY}),
    ("adam", {"weight_decay": DECAY, "decoupled_weight_decay": True, "amsgrad": True}),
    ("adagrad", {"weight_decay": DECAY, "decoupled_weight_decay": True}),
    ("asgd", {"weight_decay": DECAY}),
    ("lion", {"weight_decay": DECAY}),
    ("schedulefreesgd", {"weight_decay": DECAY}),
    ("schedulefreeadamw", {"weight_decay": DECAY}),
    ("schedulefreeadamw", {"weight_decay": DECAY, "decoupled_weight_decay": True}),
]


@needs_native
@pytest.mark.parametrize("lr", [0.05, RATE], ids=["number", "schedule"])
@pytest.mark.parametrize(("name", "options"), EXACT, ids=[f"{n}-{sorted(o)}" for n, o in EXACT])
def test_exact_mode_with_options_that_follow_schedules(name, options, lr):
    """As dense steps with zeros for the rows that are not touched, to 1e-12, over gaps of all lengths up to 60."""
    start = np.random.default_rng(2).standard_normal((30, 3))
    exact, dense = start.copy(), start.copy()
    cls = fastopt.Optimizer.known[name]
    a = cls(exact, lr=lr, **options, sparse="exact", backend="native")
    b = cls(dense, lr=lr, **options, backend="numpy")
    rng = np.random.default_rng(3)
    for step in range(80):
        rows = np.flatnonzero(rng.random(30) < 1 / (1 + np.arange(30)))  # row 0 at each step, the last ones seldom
        g = rng.standard_normal((len(rows), 3))
        whole = np.zeros((30, 3))
        whole[rows] = g
        a.step(SparseGrad(rows, g))
        b.step(whole)
        if step % 17 == 0:
            assert np.abs(a.read(0, rows) - dense[rows]).max(initial=0) <= 1e-12
    a.flush()
    assert np.abs(exact - dense).max() <= 1e-12 * max(1.0, np.abs(dense).max())
    state, want = a.state_dict()["state"][0], b.state_dict()["state"][0]
    for key in want.keys() - {"step"}:
        assert np.abs(state[key] - want[key]).max() <= 1e-12 * max(1.0, np.abs(want[key]).max()), key


def test_exact_mode_refuses_what_it_cannot_follow():
    with pytest.raises(UnsupportedError, match="sparse='lazy'"):
        fastopt.Signum(np.zeros((3, 2)), momentum=MOMENTUM, sparse="exact")
    with pytest.raises(UnsupportedError, match="coupled weight_decay"):
        fastopt.Adam(np.zeros((3, 2)), weight_decay=DECAY, sparse="exact")
    with pytest.raises(UnsupportedError, match="weight_decay=0"):
        fastopt.RowwiseAdagrad(np.zeros((3, 2)), weight_decay=DECAY, sparse="exact")


@each_backend
@pytest.mark.parametrize("name", ["momentum", "weight_decay"])
def test_a_schedule_that_fails_is_named_and_changes_nothing(backend, name):
    calls = []

    def bad(step: int) -> float:
        calls.append(step)
        return 1.5 if step < 3 and name == "weight_decay" else 0.5 if step < 3 else math.nan

    p = np.ones(4)
    opt = fastopt.SGD(p, lr=0.1, **{name: bad}, backend=backend)
    for _ in range(3):
        opt.step(np.ones(4))
    before, state = p.copy(), opt.state_dict()
    with pytest.raises(HyperParameterError, match=f"given as {name} returned nan for step 3"):
        opt.step(np.ones(4))
    assert np.array_equal(p, before) and opt.state_dict()["step"] == state["step"] == 3


@pytest.mark.parametrize("bad", [math.nan, -1.0, math.inf, "x", 1.0])
def test_tables_of_schedules_are_those_of_their_functions(bad):
    """Also where one fails ahead of time: the table ends there."""
    from fastopt.optimizers.tables import values

    def function(step: int) -> Any:
        return bad if step == 7 else 0.5 / (1 + step)

    whole = values("momentum", Cosine(0.9, 100), 3, 50)
    assert whole.dtype == np.float64 and whole.tolist() == [Cosine(0.9, 100)(step) for step in range(3, 53)]
    for schedule in (function, Schedule.of(function)):
        assert values("momentum", schedule, 2, 20).tolist() == [function(step) for step in range(2, 7)]
        with pytest.raises((HyperParameterError, ValueError), match=r"momentum|could not convert"):
            values("momentum", schedule, 7, 2)


@each_backend
def test_momentum_of_one_is_refused_when_it_comes(backend):
    opt = fastopt.SGD(np.ones(4), lr=0.1, momentum=lambda t: t / 2, backend=backend)
    opt.step(np.ones(4))
    opt.step(np.ones(4))
    with pytest.raises(HyperParameterError, match="below 1"):
        opt.step(np.ones(4))


@each_backend
def test_numbers_and_schedules_take_turns(backend):
    """A group's edit, from numbers to schedules and back, is as if the values had been set by hand."""
    edits: dict[int, dict[str, Any]] = {
        0: {"momentum": 0.9, "weight_decay": DECAY},
        5: {"momentum": MOMENTUM},
        9: {"weight_decay": 0.01},
        13: {"momentum": 0.5, "lr": RATE},
        17: {"momentum": MOMENTUM, "weight_decay": DECAY, "lr": 0.1},
    }
    rng = np.random.default_rng(4)
    p, q = np.ones(6), np.ones(6)
    a = fastopt.SGD(p, lr=0.1, **edits[0], backend=backend)
    b = fastopt.SGD(q, lr=0.1, momentum=0.9, backend=backend)
    for step in range(25):
        a.param_groups[0].update(edits.get(step, {}))
        now = {k: a.param_groups[0][k] for k in ("lr", "momentum", "weight_decay")}
        b.param_groups[0].update({k: v(step) if callable(v) else v for k, v in now.items()})
        g = rng.standard_normal(6)
        a.step(g)
        b.step(g)
        assert np.array_equal(p, q), step


@each_backend
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_resumed_at_step_t_the_rate_is_that_of_step_t(backend, how):
    def make(p: Array) -> Any:
        return fastopt.SGD(p, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, backend=backend)

    grads = np.random.default_rng(5).standard_normal((40, 6))
    whole, part = np.ones(6), np.ones(6)
    one, two = make(whole), make(part)
    for t, g in enumerate(grads):
        if t == 17:
            if how == "state_dict":
                saved, kept = two.state_dict(), part.copy()
                part = kept
                two = make(part)
                two.load_state_dict(saved)
            else:
                two = pickle.loads(pickle.dumps(two)) if how == "pickle" else copy.deepcopy(two)
                part = two.param_groups[0]["params"][0]
        one.step(g)
        two.step(g)
        assert np.array_equal(whole, part), t
    assert repr(RATE) in repr(two) and two.state_dict()["param_groups"][0]["lr"] == RATE


@each_backend
def test_schedules_see_the_steps_of_the_optimizer_not_of_the_parameter(backend):
    """None for a gradient leaves a parameter's own count of steps behind."""
    seen: list[float] = []
    p = [np.zeros(2), np.zeros(2)]
    opt = fastopt.SGD(p, lr=1.0, weight_decay=lambda t: float(t), decoupled_weight_decay=True, backend=backend)
    for step in range(5):
        p[1][...] = 1.0
        opt.step([np.zeros(2), np.zeros(2) if step in (0, 3) else None])
        seen.append(p[1][0])
    assert seen == [1.0, 1.0, 1.0, 1.0 - 3.0, 1.0]


def test_presets_take_schedules():
    opt = fastopt.SGD(np.ones(3), preset="keras", momentum=MOMENTUM, weight_decay=DECAY)
    assert opt.param_groups[0]["lr_inside"] and opt.param_groups[0]["momentum"] == MOMENTUM
    opt.step(np.ones(3))


# --------------------------------------------------------------------------------------- optimizers and the one memory


@each_backend
def test_an_update_holds_from_the_very_next_step(backend):
    """Also while tables of rates for many steps ahead would be in use, and with two groups."""
    plateau = ReduceOnPlateau(1.0, factor=0.5, patience=0)
    p, q = np.zeros(3), np.zeros(2)
    groups = [{"params": p}, {"params": q, "lr": plateau.scaled(0.5)}]
    opt = fastopt.SGD(groups, lr=plateau, backend=backend)
    want = 0.0
    for step in range(40):
        if step % 3 == 1:
            plateau.update(1.0)
        want -= plateau.rate
        opt.step([np.ones(3), np.ones(2)])
        assert p[0] == want and q[0] == 0.5 * want, step
    assert plateau.rate < 1e-3


@each_backend
def test_an_update_holds_for_the_optimizer_that_guards_its_steps(backend):
    plateau, p = ReduceOnPlateau(1.0, factor=0.5, patience=0), np.zeros(3)
    opt = fastopt.AdaptiveRevision(p, lr=plateau, backend=backend)
    q = np.zeros(3)
    other = fastopt.AdaptiveRevision(q, lr=lambda step: 0.5 ** max(0, step - 1), backend=backend)
    for step in range(4):
        plateau.update(1.0) if step else None
        opt.step(np.ones(3), seen=opt.snapshot())
        other.step(np.ones(3), seen=other.snapshot())
        assert np.array_equal(p, q), step


@each_backend
def test_an_update_after_a_step_that_was_refused_holds(backend):
    """The rate of the step that did not come to pass must not be kept for it."""
    plateau = ReduceOnPlateau(1.0, factor=0.5, patience=0)
    p = np.zeros(3)
    opt = fastopt.SGD(p, lr=plateau, nonfinite="skip", backend=backend)
    plateau.update(1.0)
    opt.step(np.full(3, np.nan))
    plateau.update(1.0)
    with pytest.raises(FastoptError):
        opt.step(np.ones(4))
    plateau.update(1.0)
    opt.step(np.ones(3))
    assert opt.skipped == 1 and (p == -0.25).all()


@needs_native
def test_exact_mode_knows_the_rates_that_a_plateau_had():
    plateau = ReduceOnPlateau(0.1, factor=0.5, patience=0)
    exact, dense = np.ones((20, 2)), np.ones((20, 2))
    a = fastopt.SGD(exact, lr=plateau, momentum=0.9, weight_decay=0.01, sparse="exact", backend="native")
    b = fastopt.SGD(dense, lr=plateau, momentum=0.9, weight_decay=0.01, backend="numpy")
    rng = np.random.default_rng(6)
    for step in range(60):
        rows = rng.choice(20, 3, replace=False)
        whole = np.zeros((20, 2))
        whole[rows] = g = rng.standard_normal((3, 2))
        a.step(SparseGrad(rows, g))
        b.step(whole)
        if step % 8 == 5:
            plateau.update(1.0)
    a.flush()
    assert np.abs(exact - dense).max() <= 1e-12


@each_backend
def test_a_state_dict_has_the_memory_of_its_time(backend):
    def make() -> tuple[Any, ReduceOnPlateau, Array]:
        plateau, p = ReduceOnPlateau(1.0, factor=0.5, patience=0), np.zeros(3)
        return fastopt.SGD(p, lr=plateau.with_warmup(2), backend=backend), plateau, p

    opt, plateau, p = make()
    plateau.update(1.0)
    plateau.update(1.0)
    opt.step(np.ones(3))
    saved = opt.state_dict()
    plateau.update(1.0)
    other, its, q = make()
    q[...] = p
    other.load_state_dict(saved)
    assert its.rate == 0.5 and plateau.rate == 0.25
    its.update(1.0)  # the owner goes on telling the schedule that the optimizer was made with
    opt.step(np.ones(3))
    other.step(np.ones(3))
    assert np.array_equal(p, q) and its.rate == 0.25
    saved["param_groups"][0]["lr"].schedule.update(1.0)
    assert its.rate == 0.25, "a state dict that was loaded is not shared"
    twin = copy.deepcopy(other)
    its.update(1.0)
    assert twin.param_groups[0]["lr"](5) == 0.25


def test_any_callable_may_say_that_it_is_not_pure():
    class Told:
        pure = False
        rate = 1.0

        def __call__(self, step: int) -> float:
            return self.rate

    told, p = Told(), np.zeros(2)
    opt = fastopt.SGD(p, lr=told)
    for _ in range(5):
        opt.step(np.ones(2))
    told.rate = 10.0
    opt.step(np.ones(2))
    assert (p == -15).all()


@pytest.mark.parametrize("cls", [fastopt.ScheduleFreeSGD, fastopt.ScheduleFreeAdamW])
def test_schedule_free_needs_to_know_what_the_rate_was(cls):
    with pytest.raises(UnsupportedError, match="memory"):
        cls(np.zeros(3), lr=ReduceOnPlateau(0.1))
    opt = cls(np.zeros(3), lr=RATE)
    with pytest.raises(UnsupportedError, match="memory"):
        opt.param_groups[0]["lr"] = ReduceOnPlateau(0.1)


# ------------------------------------------------------------------------------------------------------- linear models


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_linear_models_take_a_schedule_of_the_sample(backend, monkeypatch):
    models = pytest.importorskip("fastopt.models")
    monkeypatch.setenv("FASTOPT_BACKEND", backend)
    rng = np.random.default_rng(7)
    X = rng.standard_normal((60, 4))
    y = X @ rng.standard_normal(4)
    lr = InverseTime(0.2, 0.05)
    model = models.LinearRegressor(optimizer="sgd", lr=lr, epochs=3, shuffle=False).fit(X, y)
    w = np.zeros(5)
    for step in range(180):
        x = np.append(X[step % 60], 1.0)
        w -= lr(step) * (w @ x - y[step % 60]) * x
    assert np.abs(np.append(model.coef_, model.intercept_) - w).max() <= 1e-13
    parts = models.LinearRegressor(optimizer="sgd", lr=lr, shuffle=False)
    for _ in range(3):
        parts.partial_fit(X, y)
    assert np.array_equal(parts.coef_, model.coef_)


def test_linear_models_refuse_what_no_schedule_can_do():
    models = pytest.importorskip("fastopt.models")
    X, y = np.eye(4), np.arange(4.0)
    with pytest.raises(UnsupportedError, match="l2=0"):
        models.LinearRegressor(lr=Constant(0.1), l2=0.1).fit(X, y)
    short = models.LinearRegressor(optimizer="sgd", lr=lambda t: 0.1 if t < 6 else math.nan, epochs=9)
    with pytest.raises(HyperParameterError, match="for step 6"):
        short.fit(X, y)
    models.LinearRegressor(optimizer="sgd", lr=lambda t: 0.1 if t < 4 else math.nan, epochs=1).fit(X, y)


def test_slanted_triangular_peaks_at_the_step_that_the_decimals_mean():
    slanted_at = SlantedTriangular(1.0, 100, 0.29)  # 100 * 0.29 is 28.999999999999996
    assert slanted_at(29) == 1.0 and slanted_at(28) < 1.0 and slanted_at(30) < 1.0


def test_a_rate_that_an_optimizer_cannot_have_is_named_with_its_step():
    w = np.ones(3)
    opt = fastopt.FTRL(w, lr=Cosine(0.1, 3))  # which divides by the rate
    for _ in range(3):
        opt.step(np.ones(3))
    before = w.copy()
    with pytest.raises(HyperParameterError, match=r"step 3 has lr=0\.0"):
        opt.step(np.ones(3))
    assert (w == before).all() and opt.steps == 3


@pytest.mark.parametrize("end", [0.0, 1e-5, 0.7])
@pytest.mark.parametrize("length", [1, 3, 1000, 2**53, 2**53 + 1])
def test_a_straight_line_over_many_steps_at_once(end, length):
    line = Polynomial(0.3, length, end)
    steps = np.unique(np.r_[np.arange(40), np.linspace(0, length, 2003).astype(np.int64), length + 1, 2**62])
    assert (line(steps) == [line(int(step)) for step in steps]).all()
    assert (line(steps.astype(np.uint64)[:12].reshape(3, 4)) == line(steps[:12]).reshape(3, 4)).all()
    assert line([]).shape == (0,) and line([]).dtype == np.float64
