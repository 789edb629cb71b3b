"""Schedules: what a rate, a momentum, a weight decay or a batch size is at a step; pure functions in closed form."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, overload

import numpy as np

from . import checks
from .checks import Array, Check
from .errors import DTypeError, HyperParameterError, StateError, UnsupportedError, did_you_mean

__all__ = [
    "SGDR",
    "WSD",
    "BatchSizeSchedule",
    "Constant",
    "Cosine",
    "Cyclical",
    "Exponential",
    "InverseSqrt",
    "InverseTime",
    "LinearWarmup",
    "MultiStep",
    "Noam",
    "OneCycle",
    "Polynomial",
    "ReduceOnPlateau",
    "Schedule",
    "SlantedTriangular",
    "Step",
    "from_torch",
]

MOST_STEPS = 2**62  # beyond what anyone counts; float64 still tells their order of magnitude

_positive = checks.number(0.0, closed_low=False)
_length = checks.integer(1)
_unit = checks.number(0.0, 1.0)
_step = checks.integer(0, MOST_STEPS)


# ---------------------------------------------------------------------------------------------------- shared arithmetic


def _mix(low: float, high: float, x: float) -> float:
    """From `low` at x = 0 to `high` at x = 1, both of which are met exactly; never beyond them."""
    way = high - low
    return low + way * x if x < 0.5 else high - way * (1.0 - x)


def _half_wave(left: float, length: float) -> float:
    """(1 + cos(pi t / length)) / 2 for t = length - left: the same, but without cancellation where it is near 0."""
    s = math.sin(0.5 * math.pi * (left / length))
    return s * s


def _decayed(base: float, factor: float, n: float) -> float:
    """base * factor**n, infinity where the power is beyond float64."""
    try:
        return base * float(factor**n)
    except OverflowError:
        return math.inf if base else 0.0


# ------------------------------------------------------------------------------------------------------------- the base


@dataclass(frozen=True, repr=False)
class Schedule:
    """A function of the step: ``schedule(step)``, for steps that count from 0.

    Every schedule is immutable, compares by its arguments, can be pickled, and has a `repr` that builds it again. It is
    a pure function in closed form: any step costs the same, whatever was asked before, so that training resumed at step
    t has the rate of step t. `ReduceOnPlateau` alone has a memory.

    Examples
    --------
    >>> from fastopt.schedules import Cosine
    >>> rate = Cosine(0.1, steps=100, minimum=0.001).with_warmup(10)
    >>> rate(0), rate(9), rate(10), rate(10**12)
    (0.01, 0.1, 0.1, 0.001)
    >>> rate([0, 60, 110]).round(4)
    array([0.01  , 0.0505, 0.001 ])
    """

    _checks: ClassVar[Mapping[str, Check]] = {}
    _dtype: ClassVar[type] = float  # of an array of values

    def __post_init__(self) -> None:
        for name, check in self._checks.items():
            object.__setattr__(self, name, check(f"{name} of {type(self).__name__}", getattr(self, name)))
        self._check_together()

    def _check_together(self) -> None:
        """Raise if arguments that are right by themselves do not go together."""

    def _at(self, step: int) -> float:
        """The value at a step, which has been checked."""
        raise UnsupportedError("a schedule needs its value at a step")

    def _many(self, steps: Array) -> Array | None:
        """The values at a flat array of steps at once, where they need but + - * /; None: one by one."""
        return None

    def _parts(self) -> Sequence[Any]:
        """The schedules that this one is made of."""
        return ()

    @overload
    def __call__(self, step: int) -> float: ...

    @overload
    def __call__(self, step: Array | Sequence[int]) -> Array: ...

    def __call__(self, step: Any) -> Any:
        """The value at a step.

        Parameters
        ----------
        step : int, or array or sequence of ints
            Completed steps before the one that is being made: 0 at the first.

        Returns
        -------
        float, or float64 ndarray of the same shape
            The array has at each place the very bits that the number alone would have.

        Raises
        ------
        HyperParameterError
            If a step, or an argument of the constructor, is outside its range, or no number.
        DTypeError
            If an array of steps does not hold integers.
        """
        if type(step) is int and 0 <= step <= MOST_STEPS:
            return self._at(step)
        if isinstance(step, (np.ndarray, list, tuple, range)):
            # Mostly one by one: on some processors NumPy's vectorized functions have other bits than those of numbers.
            steps = _whole_array(step)
            if (found := self._many(steps.ravel())) is not None:
                return found.reshape(steps.shape)
            return np.array([self._at(s) for s in steps.ravel().tolist()], self._dtype).reshape(steps.shape)
        return self._at(_step("step", step))

    def __repr__(self) -> str:
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if f.repr and not (f.default is not dataclasses.MISSING and getattr(self, f.name) == f.default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def pure(self) -> bool:
        """Whether the value is a function of the step alone."""
        return all(is_pure(part) for part in self._parts())

    def state_dict(self) -> dict[str, Any]:
        """What the schedule remembers, to be saved: nothing, unless there is a `ReduceOnPlateau` in it."""
        return {} if self.pure else {"parts": [memory_of(part) for part in self._parts()]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        parts = [] if self.pure else self._parts()
        given = state_dict.get("parts", []) if isinstance(state_dict, Mapping) else None
        if not isinstance(given, (list, tuple)) or len(given) != len(parts):
            raise StateError(f"the state dict of this schedule must have {len(parts)} 'parts', got {state_dict!r:.80}")
        for part, memory in zip(parts, given, strict=True):
            if not is_pure(part):
                part.load_state_dict(memory)

    def is_restart(self, step: int) -> bool:
        """Whether an `SGDR`, this one or one that this schedule is made of, begins a period at this step.

        That of its very first period is left aside.
        """
        return self._restarts(_step("step", step))

    def _restarts(self, step: int) -> bool:
        return False

    # ------------------------------------------------------------------------------------------------------ composition

    @staticmethod
    def of(function: Callable[[int], float]) -> Schedule:
        """Any function of one step as a schedule. It must be pure, or have an attribute ``pure = False``."""
        return function if isinstance(function, Schedule) else Wrapped(function)

    def then(self, other: Callable[[int], float], at: int) -> Schedule:
        """This schedule before step `at`, from then on `other`, which counts its steps from there.

        Parameters
        ----------
        other : Schedule or callable
        at : int
            At least 0. In a chain ``a.then(b, 10).then(c, 30)`` all of them count from the beginning.

        Notes
        -----
        As PyTorch's SequentialLR and optax's join_schedules.
        """
        return Joined(self, other, at)

    def with_warmup(self, steps: int, start: float | None = None) -> Schedule:
        """A linear rise to the schedule's first value; the schedule itself begins after it, at its step 0.

        Parameters
        ----------
        steps : int
            Length of the rise, at least 1.
        start : float, optional
            Value at the first step, as in `LinearWarmup`. By default the rise is ``(t + 1) / steps`` of the first
            value, so that no step is lost to a rate of 0.
        """
        return Warmed(self, steps, start)

    def scaled(self, factor: float | Callable[[int], float]) -> Schedule:
        """The product with a number, or with another schedule."""
        return Scaled(self, factor)

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        """What PyTorch calls this schedule: the name of its scheduler and the options.

        Returns
        -------
        tuple of str and dict
            For ``getattr(torch.optim.lr_scheduler, name)(optimizer, **options)``, with an optimizer whose rate is the
            schedule's `base`. `from_torch` takes them back.

        Raises
        ------
        UnsupportedError
            If PyTorch has none. ``LambdaLR(optimizer, schedule)`` with a rate of 1 takes any schedule as it is.
        """
        raise _no_torch(f"{type(self).__name__}", "it has no scheduler of this kind")


def is_pure(schedule: Any) -> bool:
    """Whether a number or callable depends on the step alone, which it does unless it says ``pure = False``."""
    return bool(getattr(schedule, "pure", True))


def memory_of(schedule: Any) -> dict[str, Any]:
    """What a schedule with a memory remembers; of a pure one, nothing."""
    if is_pure(schedule):
        return {}
    if not all(callable(getattr(schedule, name, None)) for name in ("state_dict", "load_state_dict")):
        raise StateError(
            f"{schedule!r:.80} says that it has a memory (pure = False), but has no state_dict() and load_state_dict(d); "
            "add them, so that the memory can be saved"
        )
    found: dict[str, Any] = schedule.state_dict()
    return found


def _whole_array(step: Any) -> Array:
    """`step` as an array of integers of at least 0."""
    try:
        steps = np.asarray(step)
    except ValueError as error:
        raise DTypeError(f"step must be an integer, or an array of integers, got {step!r:.80}") from error
    if steps.size == 0 and not isinstance(step, np.ndarray):
        steps = steps.astype(np.int64)
    if steps.dtype.kind not in "iu":
        raise DTypeError(f"step has dtype {steps.dtype}, expected integers; pass it as .astype(numpy.int64)")
    for extreme in (steps.min(), steps.max()) if steps.size else ():
        _step("step", extreme)
    return steps


def _no_torch(what: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what} cannot be said in PyTorch's schedulers: {why}; give an optimizer with lr=1 and "
        "torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)"
    )


# ------------------------------------------------------------------------------------------------------ constant, steps


@dataclass(frozen=True, repr=False)
class Constant(Schedule):
    r"""The same value at all steps.

    .. math::
        \eta_t = \eta

    Parameters
    ----------
    value : float

    Notes
    -----
    PyTorch's ConstantLR is a factor that ends: ``Constant(factor * base).then(Constant(base), total_iters)``.
    """

    value: float

    _checks = {"value": checks.non_negative}

    @property
    def base(self) -> float:
        """The value, under the name that the other schedules have for it."""
        return self.value

    def _at(self, step: int) -> float:
        return self.value

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        return "ConstantLR", {"factor": 1.0, "total_iters": 0}


@dataclass(frozen=True, repr=False)
class Step(Schedule):
    r"""A drop by the same factor after every so many steps.

    .. math::
        \eta_t = \eta_0 \gamma^{\lfloor t / S \rfloor}

    Parameters
    ----------
    base : float
        :math:`\eta_0`.
    step_size : int
        :math:`S`.
    gamma : float, default 0.1

    Notes
    -----
    PyTorch's StepLR; Keras's ExponentialDecay and optax's exponential_decay with ``staircase=True``.
    """

    base: float
    step_size: int
    gamma: float = 0.1

    _checks = {"base": checks.non_negative, "step_size": _length, "gamma": checks.non_negative}

    def _at(self, step: int) -> float:
        return _decayed(self.base, self.gamma, step // self.step_size)

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        return "StepLR", {"step_size": self.step_size, "gamma": self.gamma}


def _milestones(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        raise HyperParameterError(f"{name} must be a list of steps, got {value!r:.80}")
    steps = tuple(_step(f"{name}[{k}]", step) for k, step in enumerate(value))
    if list(steps) != sorted(steps):
        raise HyperParameterError(f"{name} must be in ascending order, got {value!r:.80}; pass sorted(milestones)")
    return steps


@dataclass(frozen=True, repr=False)
class MultiStep(Schedule):
    r"""A drop by the same factor at each of some steps.

    .. math::
        \eta_t = \eta_0 \gamma^{\#\{m \in M: m \le t\}}

    Parameters
    ----------
    base : float
        :math:`\eta_0`.
    milestones : sequence of ints
        :math:`M`, in ascending order. The drop is in force at the milestone itself. One that is there twice counts
        twice.
    gamma : float, default 0.1

    Notes
    -----
    PyTorch's MultiStepLR and optax's piecewise_constant_schedule. Keras's PiecewiseConstantDecay drops one step later:
    its boundary b is the milestone b + 1.
    """

    base: float
    milestones: Sequence[int]
    gamma: float = 0.1

    _checks = {"base": checks.non_negative, "milestones": _milestones, "gamma": checks.non_negative}

    def _at(self, step: int) -> float:
        return _decayed(self.base, self.gamma, bisect.bisect_right(self.milestones, step))

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        return "MultiStepLR", {"milestones": list(self.milestones), "gamma": self.gamma}


# -------------------------------------------------------------------------------------------------------- smooth decays


@dataclass(frozen=True, repr=False)
class Exponential(Schedule):
    r"""A factor of :math:`\gamma` in every so many steps, evenly; or growth, with more than 1.

    .. math::
        \eta_t = \eta_0 \gamma^{t / T}

    Parameters
    ----------
    base : float
        :math:`\eta_0`.
    gamma : float
        Above 0.
    steps : int, default 1
        :math:`T`.
    staircase : bool, default False
        Round t / T down.
    end : float, optional
        Where it stops: no value goes below it, or with :math:`\gamma > 1` above it.

    Notes
    -----
    PyTorch's ExponentialLR with ``steps=1``; Keras's ExponentialDecay; optax's exponential_decay, which has
    `end_value`. With a gamma above 1 it is the rate of a learning-rate range test (Smith 2015).
    """

    base: float
    gamma: float
    steps: int = 1
    staircase: bool = False
    end: float | None = None

    _checks = {
        "base": checks.non_negative,
        "gamma": _positive,
        "steps": _length,
        "staircase": checks.flag,
        "end": checks.optional(checks.non_negative),
    }

    def _at(self, step: int) -> float:
        n = step // self.steps if self.staircase else step / self.steps
        value = _decayed(self.base, self.gamma, n)
        if self.end is None or self.gamma == 1:
            return value
        return min(value, self.end) if self.gamma > 1 else max(value, self.end)

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        if self.end is not None:
            raise _no_torch("Exponential with an end", "ExponentialLR has none")
        if self.staircase:
            return "StepLR", {"step_size": self.steps, "gamma": self.gamma}
        return "ExponentialLR", {"gamma": self.gamma if self.steps == 1 else self.gamma ** (1.0 / self.steps)}


@dataclass(frozen=True, repr=False)
class Polynomial(Schedule):
    r"""From the base to the end by a power of the part that is left; linear with power 1.

    .. math::
        \eta_t = \eta_e + (\eta_0 - \eta_e) (1 - \min(t, T) / T)^q

    Parameters
    ----------
    base : float
        :math:`\eta_0`.
    steps : int
        :math:`T`.
    end : float, default 0
        :math:`\eta_e`.
    power : float, default 1
        :math:`q`.
    cycle : bool, default False
        Past the end, T becomes the next multiple of itself, so that the value rises at once and falls again.

    Notes
    -----
    PyTorch's PolynomialLR (no end, 5 steps); Keras's PolynomialDecay, whose end is 1e-4; optax's polynomial_schedule,
    which can begin later.
    """

    base: float
    steps: int
    end: float = 0.0
    power: float = 1.0
    cycle: bool = False

    _checks = {
        "base": checks.non_negative,
        "steps": _length,
        "end": checks.non_negative,
        "power": checks.non_negative,
        "cycle": checks.flag,
    }

    def _at(self, step: int) -> float:
        steps = self.steps * max(1, -(-step // self.steps)) if self.cycle else self.steps
        left = steps - min(step, steps)
        return _mix(self.end, self.base, (left / steps) ** self.power if left else 0.0)

    def _many(self, steps: Array) -> Array | None:
        if self.power != 1 or self.cycle or self.steps > 2**53:  # as float64 has it
            return None
        x, way = (self.steps - np.minimum(steps.astype(np.int64), self.steps)) / self.steps, self.base - self.end
        return np.where(x < 0.5, self.end + way * x, self.base - way * (1.0 - x))

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        if self.end != 0 or self.cycle:
            raise _no_torch("Polynomial with an end or a cycle", "PolynomialLR goes to 0, once")
        return "PolynomialLR", {"total_iters": self.steps, "power": self.power}


@dataclass(frozen=True, repr=False)
class InverseTime(Schedule):
    r"""Decay by the inverse of the time (Robbins and Monro 1951), or a power of it.

    .. math::
        \eta_t = \eta_0 / (1 + d \, t / T)^q

    Parameters
    ----------
    base : float
        :math:`\eta_0`.
    decay : float
        :math:`d`.
    steps : int, default 1
        :math:`T`.
    power : float, default 1
        :math:`q`. 3/4 is for averaged SGD (Bottou 2012).
    staircase : bool, default False
        Round t / T down.

    Notes
    -----
    Keras's InverseTimeDecay; `lr_decay` of PyTorch's Adagrad. scikit-learn's "invscaling" is ``InverseTime(eta0, 1,
    power=power_t)``. PyTorch and optax have no such schedule.
    """

    base: float
    decay: float
    steps: int = 1
    power: float = 1.0
    staircase: bool = False

    _checks = {
        "base": checks.non_negative,
        "decay": checks.non_negative,
        "steps": _length,
        "power": checks.non_negative,
        "staircase": checks.flag,
    }

    def _at(self, step: int) -> float:
        n = step // self.steps if self.staircase else step / self.steps
        below = 1.0 + self.decay * n
        return self.base / below if self.power == 1 else _decayed(self.base, below, -self.power)


@dataclass(frozen=True, repr=False)
class InverseSqrt(Schedule):
    r"""Decay by the inverse square root of the time.

    .. math::
        \eta_t = \eta_0 \sqrt{T / (T + t)}

    Parameters
    ----------
    base : float
        :math:`\eta_0`.
    steps : int, default 1
        :math:`T`: after T steps more the value is :math:`\eta_0 / \sqrt 2`.

    Notes
    -----
    ``InverseSqrt(base, W).with_warmup(W)`` is what fairseq and Hugging Face call the inverse square root schedule;
    ``Constant(k**-0.5).then(InverseSqrt(k**-0.5, k), k)`` is that of T5 (Raffel et al. 2019). PyTorch, Keras and optax
    have none. For the transformer's see `Noam`.
    """

    base: float
    steps: int = 1

    _checks = {"base": checks.non_negative, "steps": _length}

    def _at(self, step: int) -> float:
        return self.base * math.sqrt(self.steps / (self.steps + step))


@dataclass(frozen=True, repr=False)
class LinearWarmup(Schedule):
    r"""A straight line to the base, which then stays.

    .. math::
        \eta_t = \eta_0 \min(1, (t+1) / W), \quad\text{or with a start } s\text{: }
        s + (\eta_0 - s) \min(1, t / W)

    Parameters
    ----------
    base : float
        :math:`\eta_0`.
    steps : int
        :math:`W`.
    start : float, optional
        :math:`s`, the value of the first step; step W has the base. By default the first step has a W-th of the base,
        and step W - 1 has the base. A start above the base makes the line fall.

    Notes
    -----
    PyTorch's LinearLR with its defaults is ``LinearWarmup(base, 5, start=base / 3)``. Hugging Face's warm-ups start from
    0, as those of Keras and optax mostly do, whose start is an argument; then the first step moves nothing: ``start=0``.
    """

    base: float
    steps: int
    start: float | None = None

    _checks = {"base": checks.non_negative, "steps": _length, "start": checks.optional(checks.non_negative)}

    def _at(self, step: int) -> float:
        return _rise(self.base, self.steps, self.start, step)

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        if self.base == 0:
            raise _no_torch("LinearWarmup to 0", "LinearLR multiplies the rate")
        if self.start is None:
            if self.steps == 1:
                return Constant(self.base).to_torch()
            return "LinearLR", {"start_factor": 1.0 / self.steps, "end_factor": 1.0, "total_iters": self.steps - 1}
        if not 0 < self.start <= self.base:
            raise _no_torch("LinearWarmup from 0 or from above", "LinearLR's start_factor is above 0 and at most 1")
        return "LinearLR", {"start_factor": self.start / self.base, "end_factor": 1.0, "total_iters": self.steps}


def _rise(base: float, steps: int, start: float | None, step: int) -> float:
    """`LinearWarmup` at a step."""
    if start is None:
        return base * (step + 1) / steps if step < steps - 1 else base
    return _mix(start, base, step / steps) if step < steps else base


@dataclass(frozen=True, repr=False)
class Cosine(Schedule):
    r"""Half a cosine wave from the base down to the minimum, where it stays.

    .. math::
        \eta_t = \eta_{\min} + \frac{\eta_0 - \eta_{\min}}{2} \left(1 + \cos\frac{\pi \min(t, T)}{T}\right)

    Parameters
    ----------
    base : float
        :math:`\eta_0`.
    steps : int
        :math:`T`.
    minimum : float, default 0
        :math:`\eta_{\min}`.

    Notes
    -----
    One period of SGDR (Loshchilov and Hutter 2016). PyTorch's CosineAnnealingLR is the same up to step T, after which
    it rises again; to have that, use ``SGDR`` for restarts. Keras's CosineDecay and optax's cosine_decay_schedule give
    the minimum as a fraction `alpha` of the base; optax's `exponent` does not exist here.
    """

    base: float
    steps: int
    minimum: float = 0.0

    _checks = {"base": checks.non_negative, "steps": _length, "minimum": checks.non_negative}

    def _at(self, step: int) -> float:
        return _mix(self.minimum, self.base, _half_wave(self.steps - min(step, self.steps), self.steps))

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        return "CosineAnnealingLR", {"T_max": self.steps, "eta_min": self.minimum}


# --------------------------------------------------------------------------------------------------------------- cycles


def _multiplier(name: str, value: Any) -> float:
    found: float = checks.number(1.0)(name, value)
    return int(found) if found.is_integer() else found


@dataclass(frozen=True, repr=False)
class SGDR(Schedule):
    r"""Cosine annealing with warm restarts (Loshchilov and Hutter 2016).

    .. math::
        \eta_t = \eta_{\min} + \frac{(\eta_0 - \eta_{\min}) d^i}{2} \left(1 + \cos\frac{\pi (t - t_i)}{T_i}\right),
        \quad T_i = T_0 m^i, \quad t_i = \textstyle\sum_{j < i} T_j \le t < t_{i+1}

    Parameters
    ----------
    base : float
        :math:`\eta_0`.
    period : int
        :math:`T_0`, the steps up to the first restart.
    multiplier : float, default 1
        :math:`m`, at least 1: how much longer each period is than the one before.
    peak_decay : float in [0, 1], default 1
        :math:`d`, by which the peak comes down with each restart.
    minimum : float, default 0
        :math:`\eta_{\min}`.

    Notes
    -----
    Restarts are found in whole numbers where the multiplier is one, so that the step of a restart has exactly the peak,
    however late. Formulas by logarithms, as in PyTorch's CosineAnnealingWarmRestarts for whole epochs, can be one step
    off there; its multipliers are whole. Keras's CosineDecayRestarts has the multiplier 2 by default, and `m_mul` for
    `peak_decay`; optax's sgdr_schedule lists the periods.
    """

    base: float
    period: int
    multiplier: float = 1
    peak_decay: float = 1.0
    minimum: float = 0.0

    _checks = {
        "base": checks.non_negative,
        "period": _length,
        "multiplier": _multiplier,
        "peak_decay": _unit,
        "minimum": checks.non_negative,
    }

    def _cycle(self, step: int) -> tuple[int, float, float]:
        """Restarts so far, what is left of the present period, and its length."""
        m, period = self.multiplier, self.period
        if m == 1:
            i, at = divmod(step, period)
            return i, period - at, period
        if isinstance(m, int):
            # Restart i is at period (m**i - 1) / (m - 1): the largest i with m**i <= reached. The logarithm is a guess.
            reached = step * (m - 1) // period + 1
            i = int(math.log(reached, m))
            while m**i > reached:
                i -= 1
            while m ** (i + 1) <= reached:
                i += 1
            length = period * m**i
            return i, length - (step - period * (m**i - 1) // (m - 1)), length
        log = math.log1p(m - 1.0)

        def restart(i: int) -> float:
            at = period * math.expm1(i * log) / (m - 1.0)
            return float(round(at)) if abs(at - round(at)) <= 1e-12 * at else at  # a whole step is met

        i = int(math.log1p(step * (m - 1.0) / period) / log)
        if restart(i) > step:
            i -= 1
        elif restart(i + 1) <= step:
            i += 1
        begin, end = restart(i), restart(i + 1)
        return i, end - step, end - begin

    def _restarts(self, step: int) -> bool:
        return step > 0 and self._cycle(step)[0] > self._cycle(step - 1)[0]

    def _at(self, step: int) -> float:
        i, left, length = self._cycle(step)
        peak = self.base if self.peak_decay == 1 else _mix(self.minimum, self.base, self.peak_decay**i)
        return _mix(self.minimum, peak, _half_wave(left, length))

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        if self.peak_decay != 1 or not isinstance(self.multiplier, int):
            raise _no_torch(
                "SGDR with a peak_decay or a multiplier that is not whole", "CosineAnnealingWarmRestarts has neither"
            )
        return "CosineAnnealingWarmRestarts", {
            "T_0": self.period,
            "T_mult": self.multiplier,
            "eta_min": self.minimum,
        }


@dataclass(frozen=True, repr=False)
class Cyclical(Schedule):
    r"""A triangle wave between two values (Smith 2015).

    .. math::
        \eta_t = \eta_0 + (\eta_{\max} - \eta_0) \, x_t \, a_t, \quad
        a_t = 1,\ 2^{-c}\ \text{("triangular2")}, \text{ or } \gamma^t\ \text{("exp_range")}

    with x rising from 0 to 1 and falling back in each cycle, of which c are complete.

    Parameters
    ----------
    base : float
        :math:`\eta_0`, where the cycles begin.
    max : float
        :math:`\eta_{\max}`. Below the base it gives the opposite wave, as for a momentum.
    up : int, default 2000
        Steps of the rise.
    down : int, optional
        Steps of the fall; as many by default.
    mode : {"triangular", "triangular2", "exp_range"}, default "triangular"
    gamma : float in [0, 1], default 1
        For "exp_range".

    Notes
    -----
    PyTorch's CyclicLR, which also turns the momentum by default: that is a schedule of its own here, ``Cyclical(0.9,
    0.8, up)`` as the optimizer's `momentum`. The place in the cycle is found in whole numbers. Keras and optax have
    none.
    """

    base: float
    max: float
    up: int = 2000
    down: int | None = None
    mode: str = "triangular"
    gamma: float = 1.0

    _checks = {
        "base": checks.non_negative,
        "max": checks.non_negative,
        "up": _length,
        "down": checks.optional(_length),
        "mode": checks.one_of("triangular", "triangular2", "exp_range"),
        "gamma": _unit,
    }

    def _at(self, step: int) -> float:
        up, down = self.up, self.up if self.down is None else self.down
        cycle, at = divmod(step, up + down)
        x = at / up if at <= up else (up + down - at) / down
        if self.mode == "triangular2":
            x = math.ldexp(x, -cycle)
        elif self.mode == "exp_range":
            x = _decayed(x, self.gamma, step)
        return _mix(self.base, self.max, x)

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        if self.max < self.base:
            raise _no_torch("Cyclical that begins at its largest value", "CyclicLR begins at base_lr")
        return "CyclicLR", {
            "base_lr": self.base,
            "max_lr": self.max,
            "step_size_up": self.up,
            "step_size_down": self.down,
            "mode": self.mode,
            "gamma": self.gamma,
            "cycle_momentum": False,
        }


@dataclass(frozen=True, repr=False)
class OneCycle(Schedule):
    r"""One cycle: up to the maximum, and down to nearly nothing (Smith and Topin 2017; Smith 2018).

    From ``max / div_factor`` at step 0 up to ``max`` at step :math:`pT - 1`, down to ``max / div_factor /
    final_div_factor`` at step :math:`T - 1`, where it stays; along cosines or straight lines.

    .. math::
        \eta_t = b + \frac{a - b}{2} \left(1 + \cos\frac{\pi (t - t_a)}{t_b - t_a}\right)
        \quad\text{from } a \text{ at } t_a \text{ to } b \text{ at } t_b

    Parameters
    ----------
    max : float
        The largest value.
    total : int
        :math:`T`, the steps in all.
    pct_start : float in [0, 1], default 0.3
        :math:`p`, the part of the steps that rises.
    div_factor : float, default 25
        `max` divided by this is the first value.
    final_div_factor : float, default 1e4
        The first value divided by this is the last.
    anneal_strategy : {"cos", "linear"}, default "cos"
    three_phase : bool, default False
        As in the paper: down to the first value as fast as up, until step 2pT - 2, then to the last. `pct_start` is 0.5
        at most.
    base_momentum : float in [0, 1), default 0.85
    max_momentum : float in [0, 1), default 0.95
        Range of `momentum`.

    Attributes
    ----------
    momentum : Schedule
        The momentum that belongs to it, for the optimizer's `momentum`: `max_momentum` where the rate begins and ends,
        `base_momentum` where it is largest.

    Notes
    -----
    PyTorch's OneCycleLR, with the same names (``max_lr``, ``total_steps``), and its ends of the phases, one step before
    the papers', so that the last of T steps has the last value: here also with a `pct_start` of 1, where PyTorch's has
    the largest. It raises an error past the end; here the last value stays. optax's cosine_onecycle_schedule has the ends ``int(p T)`` and T; its linear one has a phase more. Keras has
    none.
    """

    max: float
    total: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal_strategy: str = "cos"
    three_phase: bool = False
    base_momentum: float = 0.85
    max_momentum: float = 0.95

    _checks = {
        "max": checks.non_negative,
        "total": _length,
        "pct_start": _unit,
        "div_factor": _positive,
        "final_div_factor": _positive,
        "anneal_strategy": checks.one_of("cos", "linear"),
        "three_phase": checks.flag,
        "base_momentum": checks.fraction,
        "max_momentum": checks.fraction,
    }

    def _check_together(self) -> None:
        if self.three_phase and self.pct_start > 0.5:
            raise HyperParameterError(
                f"pct_start of OneCycle must be at most 0.5 with three_phase=True, got {self.pct_start}"
            )

    def _between(self, step: int, first: float, peak: float, middle: float, last: float) -> float:
        """`first`, `peak` and `last` at the ends of the phases, with three phases also `middle` after the second."""
        end, top = self.total - 1, self.pct_start * self.total - 1.0
        points = [(0.0, first), (top, peak), (float(end), last)]
        if self.three_phase:
            points.insert(2, (2.0 * self.pct_start * self.total - 2.0, middle))
        for (begin, a), (stop, b) in itertools.pairwise(points):
            if step < stop:
                left, length = stop - step, stop - begin
                return _mix(b, a, _half_wave(left, length) if self.anneal_strategy == "cos" else left / length)
        return last

    def _at(self, step: int) -> float:
        first = self.max / self.div_factor
        return self._between(step, first, self.max, first, first / self.final_div_factor)

    @property
    def momentum(self) -> Schedule:
        """The momentum that goes with the rate."""
        return OneCycleMomentum(self)

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        return "OneCycleLR", {
            "max_lr": self.max,
            "total_steps": self.total,
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)[2:]},
            "cycle_momentum": False,
        }


@dataclass(frozen=True, repr=False)
class OneCycleMomentum(Schedule):
    """The momentum that belongs to a `OneCycle`: see there."""

    cycle: OneCycle

    def _at(self, step: int) -> float:
        high = self.cycle.max_momentum
        return self.cycle._between(step, high, self.cycle.base_momentum, high, high)

    def __repr__(self) -> str:
        return f"{self.cycle!r}.momentum"


# -------------------------------------------------------------------------------------------- warm-up, plateau, descent


@dataclass(frozen=True, repr=False)
class Noam(Schedule):
    r"""The transformer's: a linear warm-up, then the inverse square root (Vaswani et al. 2017, equation 3).

    .. math::
        \eta_t = s \, d^{-1/2} \min\left((t+1)^{-1/2}, (t+1) W^{-3/2}\right)

    Parameters
    ----------
    d_model : int
        :math:`d`, the width of the model.
    warmup : int
        :math:`W`; step W - 1 has the largest value.
    scale : float, default 1
        :math:`s`.

    Notes
    -----
    The paper counts steps from 1. PyTorch, Keras and optax have none.
    """

    d_model: int
    warmup: int
    scale: float = 1.0

    _checks = {"d_model": _length, "warmup": _length, "scale": checks.non_negative}

    def _at(self, step: int) -> float:
        t = step + 1
        slope = 1.0 / math.sqrt(t) if t >= self.warmup else t / self.warmup / math.sqrt(self.warmup)
        return self.scale / math.sqrt(self.d_model) * slope


@dataclass(frozen=True, repr=False)
class WSD(Schedule):
    r"""Warm-up, a stable phase, and decay at the end (Hu et al. 2024; the forms of the decay: Hägele et al. 2024).

    .. math::
        \eta_t = \eta_0 \min(1, (t+1)/W) \text{ until } T - D, \quad
        \eta_{\min} + (\eta_0 - \eta_{\min}) f\left(\frac{t - (T - D)}{D}\right) \text{ until } T

    Parameters
    ----------
    base : float
        :math:`\eta_0`.
    total : int
        :math:`T`, the steps in all; from then on the value is the minimum.
    warmup : int
        :math:`W`; 0 for none.
    decay : int
        :math:`D`, the last steps. ``warmup + decay`` is at most `total`.
    form : {"linear", "sqrt", "square", "cosine"}, default "linear"
        :math:`f(x)` is 1 - x, 1 - sqrt(x), 1 - x**2, or half a cosine wave.
    minimum : float, default 0
        :math:`\eta_{\min}`.

    Notes
    -----
    Also called trapezoidal. To train on from the stable phase, raise `total`: the steps before the decay stay as they
    were. PyTorch, Keras and optax have none, but can join its parts.
    """

    base: float
    total: int
    warmup: int
    decay: int
    form: str = "linear"
    minimum: float = 0.0

    _checks = {
        "base": checks.non_negative,
        "total": _length,
        "warmup": _step,
        "decay": _length,
        "form": checks.one_of("linear", "sqrt", "square", "cosine"),
        "minimum": checks.non_negative,
    }

    def _check_together(self) -> None:
        if self.warmup + self.decay > self.total:
            raise HyperParameterError(
                f"warmup and decay of WSD must together be at most total={self.total}, got {self.warmup} and "
                f"{self.decay}"
            )

    def _at(self, step: int) -> float:
        left = self.total - step
        if left <= 0:
            return self.minimum
        if left >= self.decay:
            return _rise(self.base, self.warmup, None, step)
        if self.form == "cosine":
            return _mix(self.minimum, self.base, _half_wave(left, self.decay))
        x, rest = (self.decay - left) / self.decay, left / self.decay
        if self.form == "sqrt":
            rest /= 1.0 + math.sqrt(x)  # 1 - sqrt(x) without its cancellation
        elif self.form == "square":
            rest *= 1.0 + x
        return _mix(self.minimum, self.base, rest)


@dataclass(frozen=True, repr=False)
class SlantedTriangular(Schedule):
    r"""A short rise and a long descent (Howard and Ruder 2018).

    .. math::
        \eta_t = \eta_{\max} \frac{1 + p (r - 1)}{r}, \quad p = \frac{t}{c} \text{ for } t < c, \text{ then } 1 -
        \frac{t - c}{c \, (1/f - 1)}, \quad c = \lfloor T f \rfloor

    Parameters
    ----------
    max : float
        :math:`\eta_{\max}`, at step c.
    total : int
        :math:`T`.
    cut_frac : float in (0, 1), default 0.1
        :math:`f`, the part of the steps that rises: at least one step.
    ratio : float, default 32
        :math:`r`, by how much the smallest value is below the largest; at least 1.

    Notes
    -----
    Where p would fall below 0, past the end, it stays there. PyTorch, Keras and optax have none; straight lines joined
    are the same.
    """

    max: float
    total: int
    cut_frac: float = 0.1
    ratio: float = 32.0

    _checks = {
        "max": checks.non_negative,
        "total": _length,
        "cut_frac": checks.number(0.0, 1.0, closed_low=False, closed_high=False),
        "ratio": checks.number(1.0),
    }

    def _check_together(self) -> None:
        if self._cut() < 1:
            raise HyperParameterError(
                f"total * cut_frac of SlantedTriangular must be at least 1 step, got {self.total} * {self.cut_frac}"
            )

    def _cut(self) -> int:
        """The paper's floor(T * cut_frac), of the decimals that were meant: 100 * 0.29 is 29."""
        product = self.total * self.cut_frac
        nearest = round(product)
        return nearest if abs(product - nearest) <= 1e-12 * product else int(product)

    def _at(self, step: int) -> float:
        cut = self._cut()
        p = step / cut if step < cut else max(0.0, 1.0 - (step - cut) / (cut * (1.0 / self.cut_frac - 1.0)))
        return _mix(self.max / self.ratio, self.max, p)


# -------------------------------------------------------------------------------------------------------- with a memory


@dataclass(frozen=True, repr=False)
class ReduceOnPlateau(Schedule):
    """A drop whenever a measured value no longer gets better. The one schedule with a memory: it is told by `update`.

    ``schedule(step)`` is the rate in force, whatever the step. Optimizers ask it anew before each step, so that an
    `update` holds from the next step on.

    Parameters
    ----------
    base : float
        The rate to begin with.
    mode : {"min", "max"}, default "min"
        Whether smaller or larger values are better.
    factor : float in [0, 1), default 0.1
    patience : int, default 10
        So many updates in a row without improvement are borne; the next one reduces the rate.
    threshold : float, default 1e-4
        By how much a value must be better than the best so far to count.
    threshold_mode : {"rel", "abs"}, default "rel"
        Whether the threshold is a fraction of the best, or an amount.
    cooldown : int, default 0
        Updates after a drop that do not count.
    min_lr : float, default 0
        The rate goes no lower.
    eps : float, default 1e-8
        A drop by this or less is left out.

    Notes
    -----
    PyTorch's ReduceLROnPlateau, but for this: of a negative best value (a log likelihood) its relative threshold has
    the wrong sign, so that every equal value counts as better; here it is a fraction of the magnitude. Keras's callback
    reduces when the count reaches the patience, one update earlier, and has an absolute threshold. optax's reduces
    then, too, averages the values of some updates, and scales the update. A NaN is never better.

    It has no place in `ScheduleFreeSGD` and `ScheduleFreeAdamW`, which ask for the rates of steps gone by.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> plateau = fastopt.schedules.ReduceOnPlateau(0.1, patience=0)
    >>> opt = fastopt.SGD(np.zeros(3), lr=plateau)
    >>> plateau.update(1.0), plateau.update(1.0)  # losses of two epochs
    (0.1, 0.010000000000000002)
    """

    base: float
    mode: str = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8
    _memory: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    __hash__ = None  # type: ignore[assignment]  # it changes

    _checks = {
        "base": checks.non_negative,
        "mode": checks.one_of("min", "max"),
        "factor": checks.fraction,
        "patience": _step,
        "threshold": checks.non_negative,
        "threshold_mode": checks.one_of("rel", "abs"),
        "cooldown": _step,
        "min_lr": checks.non_negative,
        "eps": checks.non_negative,
    }

    def _check_together(self) -> None:
        self._memory.update(rate=self.base, best=None, bad=0, cooling=0)

    @property
    def pure(self) -> bool:
        return False

    @property
    def rate(self) -> float:
        """The rate in force."""
        return float(self._memory["rate"])

    @property
    def best(self) -> float | None:
        """The best value so far; None before the first."""
        found: float | None = self._memory["best"]
        return found

    def _at(self, step: int) -> float:
        return self.rate

    def _better(self, value: float, best: float | None) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        if best is None:
            return sign * value > -math.inf
        if self.threshold_mode == "abs" or math.isinf(best):
            return sign * value > sign * best + self.threshold
        return sign * value > sign * (best * (1.0 + math.copysign(sign * self.threshold, sign * best)))

    def update(self, value: float) -> float:
        """Take note of a value, such as the loss of an epoch, and reduce the rate if it is time.

        Parameters
        ----------
        value : float
            May be infinite or NaN.

        Returns
        -------
        float
            The rate from now on.
        """
        found = None
        if not isinstance(value, (str, bytes)):
            with contextlib.suppress(TypeError, ValueError):
                found = float(value)
        if found is None:
            raise HyperParameterError(f"value must be a number, got {value!r:.80} ({type(value).__name__})")
        m = self._memory
        if self._better(found, m["best"]):
            m.update(best=found, bad=0)
        else:
            m["bad"] += 1
        if m["cooling"]:
            m.update(cooling=m["cooling"] - 1, bad=0)
        if m["bad"] > self.patience:
            lower = max(m["rate"] * self.factor, self.min_lr)
            m.update(cooling=self.cooldown, bad=0, rate=lower if m["rate"] - lower > self.eps else m["rate"])
        return self.rate

    def state_dict(self) -> dict[str, Any]:
        """What it remembers.

        ``{"rate": float, "best": float or None, "bad": int, "cooling": int}``: the rate in force, the best value,
        updates without improvement, updates of the cooldown that are left.
        """
        return dict(self._memory)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if not isinstance(state_dict, Mapping) or set(state_dict) != set(self._memory):
            raise StateError(
                f"the state dict of ReduceOnPlateau must have {sorted(self._memory)}, got {state_dict!r:.80}"
            )
        best = state_dict["best"]
        if best is not None and not (isinstance(best, float) and not math.isnan(best)):  # which may be infinite
            best = checks.number()("'best'", best)
        self._memory.update(
            rate=checks.non_negative("'rate'", state_dict["rate"]),
            best=best,
            bad=_step("'bad'", state_dict["bad"]),
            cooling=_step("'cooling'", state_dict["cooling"]),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> ReduceOnPlateau:
        new = dataclasses.replace(self)
        new._memory.update(self._memory)
        return new

    def __copy__(self) -> ReduceOnPlateau:
        return self.__deepcopy__({})

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        return "ReduceLROnPlateau", {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self)[1:] if f.name != "_memory"
        }


# ---------------------------------------------------------------------------------------------------------- composition


def _schedule(name: str, value: Any) -> Any:
    if not callable(value) or isinstance(value, type):
        raise HyperParameterError(f"{name} must be a schedule or a callable of the step, got {value!r:.80}")
    return value


def _own(name: str, value: Any) -> Schedule:
    return Schedule.of(_schedule(name, value))


def _restarts(part: Any, step: int) -> bool:
    return isinstance(part, Schedule) and part._restarts(step)


def _factor(name: str, value: Any) -> Any:
    return value if callable(value) and not isinstance(value, type) else checks.non_negative(name, value)


@dataclass(frozen=True, repr=False)
class Wrapped(Schedule):
    """Any callable of the step: see `Schedule.of`."""

    function: Callable[[int], float]

    _checks = {"function": _schedule}

    def _parts(self) -> Sequence[Any]:
        return (self.function,)

    def _at(self, step: int) -> float:
        return float(self.function(step))

    def __repr__(self) -> str:
        return f"Schedule.of({self.function!r})"


@dataclass(frozen=True, repr=False)
class Joined(Schedule):
    """One schedule, and from some step on another: see `Schedule.then`."""

    first: Schedule
    second: Callable[[int], float]
    at: int

    _checks = {"first": _own, "second": _schedule, "at": _step}

    def _parts(self) -> Sequence[Any]:
        return self.first, self.second

    def _at(self, step: int) -> float:
        return self.first._at(step) if step < self.at else float(self.second(step - self.at))

    def _restarts(self, step: int) -> bool:
        return self.first._restarts(step) if step < self.at else _restarts(self.second, step - self.at)

    def __repr__(self) -> str:
        return f"{self.first!r}.then({self.second!r}, at={self.at})"

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        parts, milestones = [self.second], [self.at]
        first: Any = self.first
        while isinstance(first, Joined) and first.at < milestones[0]:
            # Ours count from the beginning in a chain, and so do the milestones.
            parts, milestones, first = [first.second, *parts], [first.at, *milestones], first.first
        if len(parts) == 1 and isinstance(first, Constant) and isinstance(parts[0], Constant) and first != parts[0]:
            if not first.value < parts[0].value:
                raise _no_torch("a Constant that falls to another", "ConstantLR's factor is at most 1")
            return "ConstantLR", {"factor": first.value / parts[0].value, "total_iters": self.at}
        return _sequence([first, *parts], milestones)


@dataclass(frozen=True, repr=False)
class Warmed(Schedule):
    """A schedule after a linear warm-up: see `Schedule.with_warmup`."""

    schedule: Schedule
    steps: int
    start: float | None = None

    _checks = {"schedule": _own, "steps": _length, "start": checks.optional(checks.non_negative)}

    def _parts(self) -> Sequence[Any]:
        return (self.schedule,)

    def _at(self, step: int) -> float:
        if step >= self.steps:
            return self.schedule._at(step - self.steps)
        return _rise(self.schedule._at(0), self.steps, self.start, step)

    def _restarts(self, step: int) -> bool:
        return step >= self.steps and self.schedule._restarts(step - self.steps)

    def __repr__(self) -> str:
        start = "" if self.start is None else f", start={self.start!r}"
        return f"{self.schedule!r}.with_warmup({self.steps}{start})"

    def to_torch(self) -> tuple[str, dict[str, Any]]:
        if not self.pure:
            raise _no_torch("a schedule with a memory after a warm-up", "SequentialLR takes none")
        return _sequence([LinearWarmup(self.schedule(0), self.steps, self.start), self.schedule], [self.steps])


@dataclass(frozen=True, repr=False)
class Scaled(Schedule):
    """A schedule times a number or another schedule: see `Schedule.scaled`."""

    schedule: Schedule
    factor: float | Callable[[int], float]

    _checks = {"schedule": _own, "factor": _factor}

    def _parts(self) -> Sequence[Any]:
        return self.schedule, self.factor

    def _at(self, step: int) -> float:
        factor = self.factor(step) if callable(self.factor) else self.factor
        return float(self.schedule._at(step) * factor)

    def _restarts(self, step: int) -> bool:
        return self.schedule._restarts(step) or _restarts(self.factor, step)

    def __repr__(self) -> str:
        return f"{self.schedule!r}.scaled({self.factor!r})"


def _sequence(parts: Sequence[Any], milestones: list[int]) -> tuple[str, dict[str, Any]]:
    """PyTorch's SequentialLR, whose schedulers share the rate of one optimizer."""
    named = []
    for part in parts:
        if not isinstance(part, Schedule):
            raise _no_torch("a plain callable", "it has no name there")
        name, options = part.to_torch()
        base = getattr(part, "base", None)
        if base is None or base != getattr(parts[-1], "base", None) or name in ("CyclicLR", "ReduceLROnPlateau"):
            raise _no_torch("a join of schedules with different bases", "SequentialLR's share the optimizer's rate")
        named.append((name, options))
    return "SequentialLR", {"schedulers": named, "milestones": milestones}


# ---------------------------------------------------------------------------------------------------------- batch sizes


@dataclass(frozen=True, repr=False)
class BatchSizeSchedule(Schedule):
    r"""Larger batches where the rate would fall (Smith, Kindermans, Ying and Le 2017). Its values are integers.

    .. math::
        B_t = \min\left(B_{\max}, \operatorname{round}(B_0 \, \eta_0 / \eta_t)\right)

    Parameters
    ----------
    rate_schedule : Schedule or callable
        :math:`\eta`, which begins with its largest rate; where it is above its first the batch is `size`.
    size : int
        :math:`B_0`, the batch at step 0.
    most : int, optional
        :math:`B_{\max}`. Needed for a rate that falls to 0.

    Attributes
    ----------
    rate : Schedule
        The rate that goes with it: the first rate while the batch grows, and then, with the batch at `most`, what is
        left of the decay, :math:`\eta_t B_{\max} / B_0`. Give both the same step.

    Notes
    -----
    The scale of the gradient noise, which is about :math:`\eta N / B` for N samples, is then that of the rate schedule
    with the batch `size`, but for rounding. The paper grows batches by epochs: of larger batches an epoch has fewer steps,
    and the same schedule of steps sees more samples. PyTorch, Keras and optax have none. For a warm-up add it to the rate:
    ``batches.rate.with_warmup(...)``. A `ReduceOnPlateau` grows them at each drop.

    Examples
    --------
    >>> from fastopt.schedules import BatchSizeSchedule, Step
    >>> batches = BatchSizeSchedule(Step(0.1, step_size=10, gamma=0.5), 64, most=200)
    >>> batches([0, 10, 20]), batches.rate([0, 10, 20])
    (array([ 64, 128, 200]), array([0.1     , 0.1     , 0.078125]))
    """

    rate_schedule: Callable[[int], float]
    size: int
    most: int | None = None
    _first: float = field(init=False, repr=False, compare=False)  # of a ReduceOnPlateau, which forgets it

    _dtype = np.int64
    _checks = {"rate_schedule": _schedule, "size": _length, "most": checks.optional(_length)}

    def _check_together(self) -> None:
        if self.most is not None and self.most < self.size:
            raise HyperParameterError(f"most of BatchSizeSchedule must be at least size={self.size}, got {self.most}")
        object.__setattr__(self, "_first", float(self.rate_schedule(0)))
        if not (math.isfinite(self._first) and self._first > 0):
            raise HyperParameterError(f"rate_schedule of BatchSizeSchedule must begin above 0, got {self._first!r}")

    def _parts(self) -> Sequence[Any]:
        return (self.rate_schedule,)

    def _growth(self, step: int) -> float:
        now = float(self.rate_schedule(step))
        if not now >= 0:
            raise HyperParameterError(
                f"rate_schedule of BatchSizeSchedule must stay at least 0, got {now!r} for step {step}"
            )
        return max(1.0, self._first / now) if now > 0 else math.inf

    def _at(self, step: int) -> int:
        wanted = self.size * self._growth(step)
        if self.most is not None and wanted >= self.most:
            return self.most
        if not wanted < 2**62:
            raise HyperParameterError(
                f"the rate of step {step} is so small that the batch has no bounds; give BatchSizeSchedule a most="
            )
        return round(wanted)

    @property
    def rate(self) -> Schedule:
        """The rate that goes with the batches."""
        return BatchRate(self)


@dataclass(frozen=True, repr=False)
class BatchRate(Schedule):
    """The rate that goes with a `BatchSizeSchedule`: see there."""

    batches: BatchSizeSchedule

    def _parts(self) -> Sequence[Any]:
        return (self.batches,)

    def _at(self, step: int) -> float:
        b = self.batches
        now, growth = float(b.rate_schedule(step)), b._growth(step)
        if growth == 1.0:
            return now
        if b.most is not None and b.size * growth >= b.most:
            return now * (b.most / b.size)
        return b._first

    def __repr__(self) -> str:
        return f"{self.batches!r}.rate"


# ------------------------------------------------------------------------------------------------------ PyTorch's names


def _from_constant(base: float, factor: float = 1.0 / 3, total_iters: int = 5) -> Schedule:
    first, steps = base * checks.non_negative("factor", factor), _step("total_iters", total_iters)
    return Constant(base) if first == base or steps == 0 else Constant(first).then(Constant(base), steps)


def _from_linear(base: float, start_factor: float = 1.0 / 3, end_factor: float = 1.0, total_iters: int = 5) -> Schedule:
    start, end = checks.non_negative("start_factor", start_factor), checks.non_negative("end_factor", end_factor)
    return LinearWarmup(base * end, _length("total_iters", total_iters), start=base * start)


def _from_multistep(base: float, milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    with contextlib.suppress(TypeError):  # PyTorch's may be in any order; what is no list of steps, MultiStep will say
        milestones = sorted(milestones)
    return MultiStep(base, milestones, gamma)


def _from_cosine(base: float, T_max: int, eta_min: float = 0.0) -> Schedule:
    return Cosine(base, T_max, eta_min)


def _from_restarts(base: float, T_0: int, T_mult: int = 1, eta_min: float = 0.0) -> Schedule:
    return SGDR(base, T_0, T_mult, minimum=eta_min)


def _from_cyclic(
    base: float,
    base_lr: float,
    max_lr: float,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    cycle_momentum: bool = True,
    base_momentum: float = 0.8,
    max_momentum: float = 0.9,
) -> Schedule:
    return Cyclical(base_lr, max_lr, step_size_up, step_size_down, mode, gamma)


def _from_one_cycle(
    base: float,
    max_lr: float,
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    cycle_momentum: bool = True,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Schedule:
    if total_steps is None:
        if epochs is None or steps_per_epoch is None:
            raise HyperParameterError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
        total_steps = _length("epochs", epochs) * _length("steps_per_epoch", steps_per_epoch)
    return OneCycle(
        max_lr,
        total_steps,
        pct_start,
        div_factor,
        final_div_factor,
        anneal_strategy,
        three_phase,
        base_momentum,
        max_momentum,
    )


def _from_lambda(base: float, lr_lambda: Callable[[int], float]) -> Schedule:
    return Schedule.of(_schedule("lr_lambda", lr_lambda)).scaled(base)


def _from_sequence(base: float, schedulers: Sequence[Any], milestones: Sequence[int]) -> Schedule:
    joins = _milestones("milestones", milestones)
    named = isinstance(schedulers, (list, tuple)) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[1], Mapping) for pair in schedulers
    )
    if not named or len(schedulers) != len(joins) + 1:
        raise HyperParameterError(
            "schedulers of SequentialLR must be a list of pairs (name, options), one more than there are milestones, got "
            f"{schedulers!r:.80}"
        )
    made = [from_torch(name, base, **options) for name, options in schedulers]
    joined = made[0]
    for part, at in zip(made[1:], joins, strict=True):
        joined = joined.then(part, at)
    return joined


_FROM_TORCH: dict[str, Callable[..., Schedule]] = {
    "ConstantLR": _from_constant,
    "LinearLR": _from_linear,
    "StepLR": Step,
    "MultiStepLR": _from_multistep,
    "ExponentialLR": lambda base, gamma: Exponential(base, gamma),
    "PolynomialLR": lambda base, total_iters=5, power=1.0: Polynomial(base, total_iters, power=power),
    "CosineAnnealingLR": _from_cosine,
    "CosineAnnealingWarmRestarts": _from_restarts,
    "CyclicLR": _from_cyclic,
    "OneCycleLR": _from_one_cycle,
    "ReduceLROnPlateau": ReduceOnPlateau,
    "LambdaLR": _from_lambda,
    "SequentialLR": _from_sequence,
}


def from_torch(name: str, base: float, **options: Any) -> Schedule:
    """The schedule that PyTorch calls `name`.

    Parameters
    ----------
    name : str
        The class in ``torch.optim.lr_scheduler``.
    base : float
        The rate of the optimizer that the scheduler would have been given. CyclicLR and OneCycleLR have rates of their
        own.
    **options
        The scheduler's, with its names and defaults. SequentialLR takes a list of pairs (name, options) as
        `schedulers`.

    Returns
    -------
    Schedule

    Raises
    ------
    UnsupportedError
        If there is no such scheduler, or it has no closed form (MultiplicativeLR), or an option is unknown.
    HyperParameterError
        If an option does not fit.

    Notes
    -----
    `Schedule.to_torch` goes the other way. The momentum that CyclicLR and OneCycleLR cycle is a schedule of its own:
    see `Cyclical` and `OneCycle`. Past its end the rate stays, where CosineAnnealingLR rises again and OneCycleLR
    raises an error.

    Examples
    --------
    >>> from fastopt.schedules import from_torch
    >>> from_torch("CosineAnnealingLR", 0.1, T_max=100)
    Cosine(base=0.1, steps=100)
    >>> from_torch("StepLR", 0.1, step_size=30).to_torch()
    ('StepLR', {'step_size': 30, 'gamma': 0.1})
    """
    if name == "MultiplicativeLR":
        raise UnsupportedError(
            "MultiplicativeLR multiplies the rate step by step and has no closed form; give Schedule.of a function of "
            "the step"
        )
    if name == "ChainedScheduler":
        raise UnsupportedError("ChainedScheduler is a product; make it by Schedule.scaled")
    if not isinstance(name, str) or name not in _FROM_TORCH:
        raise UnsupportedError(
            f"PyTorch has no scheduler {name!r:.80} that is known here.{did_you_mean(str(name), _FROM_TORCH)}"
        )
    make = _FROM_TORCH[name]
    known = {n: p for n, p in inspect.signature(make).parameters.items() if n != "base"}
    for word in options:
        if word not in known:
            raise UnsupportedError(f"{name} has no option {word!r} that is known here.{did_you_mean(word, known)}")
    for word, parameter in known.items():
        if parameter.default is parameter.empty and word not in options:
            raise HyperParameterError(f"{name} needs the option {word!r}")
    return make(checks.non_negative("base", base), **options)
