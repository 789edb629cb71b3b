"""Tables of what the kernels are handed for each step: its scalars, and in exact sparse mode the gap that it leaves in the
rows it does not touch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import checks
from ..checks import Array
from ..errors import HyperParameterError
from ..schedules import Schedule

if TYPE_CHECKING:
    from .base import Optimizer

#: scalars of the block operations, which come before those of the span: weight decay, and what it leaves of a parameter
COUPLE, SHRINK, SPAN = 0, 1, 2

Scalars = Sequence["float | Array"]


class Gap(NamedTuple):
    """What one step does to a row whose gradient is zero; columns over the steps, in float64.

    ``p <- keep p + sum(drift) m``, ``m <- rate m + back p``, and each other state is multiplied by its decay. With
    several series, m and one of the decayed states are those of `kernels/adam.pyx`, and `back` moves ``p <- p - back m``
    outside the series. Without series it is added to the last of the states.
    """

    keep: Any
    decays: Scalars = ()
    series: Sequence[tuple[Any, Any]] = ()  # (rate, drift)
    back: Any = 0.0
    loss: Any = None  # 1 - keep, where it is known better than by this difference
    fade: float = 0.0  # how fast the moves of an abandoned row fade: the ratio of one to the one before


def eps_places(o: Mapping[str, Any]) -> tuple[float, float]:
    """What to add inside the root and what beside it, for `eps_form`."""
    eps = max(o["eps"], o["tiny"])
    return (eps, 0.0) if o["eps_form"] == "inside" else (0.0, eps)


#: The options that may be schedules, with the check of what these return, and how an error puts it.
SCHEDULED = {
    "lr": (checks.non_negative, "finite numbers of at least 0"),
    "momentum": (checks.fraction, "numbers of at least 0 and below 1"),
    "weight_decay": (checks.non_negative, "finite numbers of at least 0"),
}


def value_at(name: str, schedule: Any, step: int) -> float:
    """What option `name` is at a step (counted from 0), by its schedule."""
    value, (check, expected) = schedule(step), SCHEDULED[name]
    try:
        return float(check(name, value))
    except HyperParameterError:
        raise HyperParameterError(
            f"the schedule given as {name} returned {value!r} for step {step}; it must return {expected}"
        ) from None


def values(name: str, schedule: Any, first: int, count: int) -> Array:
    """What option `name` is in `count` steps from `first` on, counted from 0; fewer where it fails beyond the first."""
    if isinstance(schedule, Schedule) and count > 1:  # at once: faster
        with contextlib.suppress(Exception):  # which one it is, the loop finds out
            found = schedule(np.arange(first, first + count)) + 0.0
            for extreme in (found.min(), found.max()):
                SCHEDULED[name][0](name, float(extreme))
            return found
    made = [value_at(name, schedule, first)]
    for step in range(first + 1, first + count):
        try:
            made.append(value_at(name, schedule, step))
        except Exception:  # it is asked ahead of time; if it matters it will fail again, at its step
            break
    return np.array(made)


def following(o: Mapping[str, Any]) -> list[str]:
    """The options that are schedules."""
    return [name for name in SCHEDULED if callable(o.get(name))]


def is_zero(value: Any) -> bool:
    """Whether an option is the number 0. One that follows a schedule is not, whatever its values."""
    return not isinstance(value, np.ndarray) and not callable(value) and bool(value == 0)


def settled(cls: type[Optimizer], o: Mapping[str, Any], born: int) -> int | None:
    """The first step from which the scalars stay the same for ever; None: never."""
    return None if following(o) else cls.settled(o, born)


def scalar_table(
    cls: type[Optimizer], o: Mapping[str, Any], t: Array, dtype: np.dtype[Any], born: int, first: int | None = None
) -> tuple[Array, Array]:
    """The scalars of the steps `t`, a row each: rounded once to `dtype`, and as they were derived, in float64.

    `first`: the optimizer's own number of the first of these steps, from 0, which a schedule is asked for; where None, the
    steps are the optimizer's. The scalars may ask for the rates before it: `history` is the rate or schedule, and this number.
    A schedule that fails later than at the first step makes the table shorter. Options that follow one are arrays over `t`.
    """
    first = int(t[0]) - 1 if first is None else first
    info = np.finfo(dtype)
    o = {**o, "tiny": float(info.tiny), "ulp": float(info.eps), "history": (o["lr"], first)}
    by_blocks = any(cls.decay_by_blocks(o))
    for name in (scheduled := following(o)):
        o[name] = values(name, o[name], first, len(t))
        t = t[: len(o[name])]
    for name in scheduled:
        o[name] = o[name][: len(t)]
    with np.errstate(all="ignore"):  # the caller looks at the result
        own = cls.scalars(t, o, born)
        decay = o["weight_decay"] if by_blocks else 0.0
        columns = (decay, 1.0 - o["lr"] * decay, *own)
        wide = np.empty((len(t), len(columns)))
        for k, column in enumerate(columns):
            wide[:, k] = column
        return wide.astype(dtype), wide


def gap_table(cls: type[Optimizer], o: Mapping[str, Any], narrow: Array, wide: Array, series: int) -> tuple[Array, int]:
    """The gaps of the steps of a scalar table, a row each, and after how many steps an abandoned row's moves are below the
    dtype's precision; `series`: terms, where there are several.

    Decays are those of the rounded scalars, for they are what the dense step would apply again and again.
    """
    rounded = narrow.astype(np.float64)
    with np.errstate(all="ignore"):
        gap = cls.gap(list(wide.T), list(rounded.T), o, series)
        less = gap.keep - 1.0 if gap.loss is None else -gap.loss
        columns = [gap.keep, gap.back, *gap.decays, *(r for r, _ in gap.series), *(f for _, f in gap.series), less]
        table = np.empty((len(wide), len(columns)))
        for k, column in enumerate(columns):
            table[:, k] = column
    bits = 30 if narrow.dtype == np.float32 else 54
    return table, 1 + math.ceil(bits / -math.log2(gap.fade)) if gap.fade else 1
