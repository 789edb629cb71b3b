"""Schedule-Free SGD and AdamW."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..elementary import power
from ..errors import StateError, UnsupportedError
from ..schedules import is_pure
from .base import MOST_STEPS, NOW, Catch, Common, Optimizer, Rule
from .powers import powers
from .tables import COUPLE, SHRINK, SPAN, Gap, Scalars, value_at


def schedulefree_sgd(p: Array, g: Array, z: Array, h: Array) -> None:
    share, step, rate = h
    p[...] = (p + share * (z - p)) - step * g
    z[...] = z - rate * g


def schedulefree_adamw(p: Array, g: Array, v: Array, z: Array, h: Array) -> None:
    share, step, rate, keep, take, scale, eps, couple = h
    v[...] = keep * v + take * (g * g)
    d = g / (np.sqrt(v) * scale + eps) + couple * p
    p[...] = (p + share * (z - p)) - step * d
    z[...] = z - rate * d


# --------------------------------------------------------------------------------------------- weights of the average

CHUNK = 512


class Same:
    """A schedule as a key: equal to itself alone, for one that says what it equals need not have a hash."""

    def __init__(self, lr: Any) -> None:
        self.lr = lr

    def __hash__(self) -> int:
        return id(self.lr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.lr is other.lr


@functools.lru_cache(64)
def known_sums(lr: Same, lag: int, warmup: int, r: float, lr_power: float) -> dict[int, tuple[float, float]]:
    """For multiples of CHUNK steps, as far as they are known: sum of the weights and largest rate of the steps before."""
    return {0: (0.0, 0.0)}


@functools.lru_cache(64)
def known_rates(lr: Same) -> dict[int, Array]:
    """Rates of a schedule, by chunks of CHUNK steps, of which the last ones may be shorter."""
    return {}


def past_rates(lr: Any, first: int, stop: int) -> Array:
    """Rates of the steps `first` to `stop` of a schedule, which is asked for each of them once."""
    chunks = known_rates(Same(lr))
    found = [np.zeros(0)]
    for k in range(first // CHUNK, -(-stop // CHUNK)):
        have, begin, end = chunks.get(k, found[0]), k * CHUNK, min(stop - k * CHUNK, CHUNK)
        if len(have) < end:
            have = np.concatenate([have, [value_at("lr", lr, begin + s) for s in range(len(have), end)]])
            chunks[k] = have  # another thread's may be longer, or shorter: all say the same
        found.append(have[max(first - begin, 0) : end])
    return np.concatenate(found)


def raised(x: Array, a: float) -> Array:
    return np.ones(x.shape) if a == 0 else power(x, a)


def warmed(lr: Any, steps: Array, warmup: int) -> Array:
    """Rates after warm-up, of steps that count from 0."""
    return np.asarray(lr * np.minimum((steps + 1) / max(warmup, 1), 1.0))


def power_sum(a: int, b: int, q: float) -> float:
    """Sum of ``s**q`` for s from a + 1 to b, by the formula of Euler and Maclaurin; for a of at least CHUNK."""
    n = np.array([a, b], np.float64)
    inner = n / (q + 1.0) + 0.5 + q / (12.0 * n) - q * (q - 1.0) * (q - 2.0) / (720.0 * n * n * n)
    whole = raised(n, q) * inner
    return float(whole[1] - whole[0])


def shares(o: Mapping[str, Any], t: Array) -> tuple[Array, Array]:
    """Share of each of the steps `t` in the average up to it, and its rate after warm-up.

    The shares are a function of the step and the options alone: the sums before are made anew where they are not known, from
    all rates of a schedule (which is asked for each once), or for a constant rate from those of the first chunk and a formula.
    """
    lr, first_asked = o["history"]
    now, n = int(t[0]) - 1, len(t)
    lag = (
        first_asked - now if callable(lr) else 0
    )  # steps of the optimizer that passed the parameter by, before it began
    warmup, r, lr_power = o["warmup_steps"], o["r"], o["weight_lr_power"]
    known = known_sums(Same(lr), lag, warmup, r, lr_power)
    unit = lr if not callable(lr) and lr > 0 else 1.0  # of the rates in the weights, where a square may be too large

    def extend(first: int, rates: Any, count: int) -> tuple[Array, Array, Array, Array]:
        steps = np.arange(first, first + count)
        total, top = known[first]
        rate = warmed(rates, steps, warmup)
        tops = np.maximum.accumulate(np.concatenate([[top], rate]))[1:]
        rises = np.flatnonzero(np.diff(tops, prepend=-1.0))  # powers are dear, and the largest rate seldom grows
        power_of_top = np.repeat(raised(tops[rises] / unit, lr_power), np.diff(rises, append=count))
        weights = raised(steps + 1.0, r) * power_of_top
        return np.cumsum(np.concatenate([[total], weights]))[1:], tops, weights, rate

    def past(first: int, count: int) -> Any:
        return past_rates(lr, lag + first, lag + first + count) if callable(lr) else np.full(count, lr)

    begin = now // CHUNK * CHUNK
    last = max(first for first in tuple(known) if first <= begin)
    until = begin if callable(lr) else min(begin, CHUNK)
    if last < until:
        totals, tops, *_ = extend(last, past(last, until - last), until - last)
        for first in range(last + CHUNK, until + 1, CHUNK):
            known[first] = float(totals[first - last - 1]), float(tops[first - last - 1])
    if begin not in known:  # a constant rate, in warm-up and after it
        middle = min(max(warmup, CHUNK), begin)
        rising = power_sum(CHUNK, middle, r + lr_power) / float(
            raised(np.array([max(warmup, 1)], np.float64), lr_power)[0]
        )
        total = known[CHUNK][0] + (rising + power_sum(middle, begin, r) if lr > 0 or lr_power == 0 else 0.0)
        known[begin] = total, lr * min(begin / max(warmup, 1), 1.0)
    rates = np.concatenate([past(begin, now - begin), np.broadcast_to(o["lr"], n)])
    totals, _, weights, rate = (a[now - begin :] for a in extend(begin, rates, len(rates)))
    return np.where(totals > 0, weights / np.where(totals > 0, totals, 1.0), 0.0), rate


class _ScheduleFree(Optimizer):
    """What the two have in common: the average, and the switch between it and the point where gradients are taken."""

    born_late = frozenset({"z"})
    for_samples = False  # the weights would be y
    _averaged = False  # the parameters hold x, not y
    _unborn: Sequence[int] = ()  # parameters whose z may not be there yet

    @staticmethod
    def beta(o: Mapping[str, Any]) -> float:
        """How far y is from z on the way to x."""
        raise UnsupportedError("a schedule-free optimizer needs its beta")

    @classmethod
    def common_scalars(cls, t: Array, o: Mapping[str, Any]) -> tuple[Array, Array, Array]:
        """Share of z in the average, what of the update y takes, and what z."""
        share, rate = shares(o, t)
        return share, rate * (1.0 - cls.beta(o) * (1.0 - share)), rate

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return None

    @classmethod
    def check_together(cls, o: Mapping[str, Any]) -> None:
        if not is_pure(o.get("lr")):
            raise UnsupportedError(
                f"lr={o['lr']!r} has a memory, and cannot say what it was at steps gone by, by which {cls.__name__} weighs "
                "its average; use a pure schedule, or another optimizer"
            )

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        return ""  # coupled decay, too, is linear

    def _build(self, counters: list[int], borns: list[int], steps: int) -> None:
        super()._build(counters, borns, steps)
        self._unborn = range(len(counters))

    def step(self, grads: Any = NOW) -> None:
        if self._averaged:
            raise StateError("the parameters hold the average; call train() before step()")
        if self._unborn:  # z is the parameter before its first step, which may have been written to until now
            with self._quiet() as plan:
                self._unborn = [i for i, (t, b) in enumerate(zip(plan.counters(), plan.borns(), strict=True)) if t == b]
                given = self._own if grads is NOW else (grads,) if self._single else self._explain_structure(grads)
                for i in self._unborn if given else ():
                    if given[i] is not None:
                        self._state[i]["z"][...] = self._params[i]
        super().step(grads)

    step.__doc__ = Optimizer.step.__doc__

    def eval(self) -> None:
        """Let the parameters hold the average x, for evaluation; nothing happens if they do."""
        self._switch(True)

    def train(self) -> None:
        """Let the parameters hold y, where gradients are taken; nothing happens if they do.

        After `eval` they have the values from before but for rounding.
        """
        self._switch(False)

    def _switch(self, averaged: bool) -> None:
        with self._quiet() as plan:
            if averaged == self._averaged:
                return
            for p, label in zip(self._params, self._labels, strict=True):
                checks.writable(label, p)
            self._flush()
            for i, (t, born) in enumerate(zip(plan.counters(), plan.borns(), strict=True)):
                p, beta = self._params[i], self.beta(self.param_groups[self._group_of[i]])
                if t != born:  # before the first step x, y and z are the same
                    p += p.dtype.type(1.0 - 1.0 / beta if averaged else 1.0 - beta) * (self._state[i]["z"] - p)
            self._averaged = averaged

    def _state_dict(self) -> dict[str, Any]:
        return {**super()._state_dict(), "train_mode": not self._averaged}

    def _load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        mode = state_dict.get("train_mode", True) if isinstance(state_dict, Mapping) else True
        averaged = not checks.flag("'train_mode' of the state dict", mode)
        super()._load_state_dict(state_dict)
        self._averaged = averaged


AVERAGING = {
    "warmup_steps": checks.integer(0, MOST_STEPS),
    "r": checks.non_negative,
    "weight_lr_power": checks.non_negative,
}
inside = checks.number(0.0, 1.0, closed_low=False, closed_high=False)


class ScheduleFreeSGD(_ScheduleFree):
    r"""Schedule-Free SGD (Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky 2024).

    .. math::
        z &\leftarrow z - \eta_t g, \quad x \leftarrow (1-c_t) x + c_t z, \quad y \leftarrow \beta x + (1-\beta) z \\
        c_t &= w_t / \textstyle\sum_{s \le t} w_s, \quad w_t = t^r \max_{s \le t} \eta_s^\rho

    The gradient is that at y, which the parameter is while training. The average x is what to use: `eval` and `train` switch the
    parameters between the two in place, by :math:`x = y + (1 - 1/\beta)(z - y)`.

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1.0
    momentum : float in (0, 1), default 0.9
        :math:`\beta`.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient at y), unless ``decoupled_weight_decay``, with which y decays, but not z.
    warmup_steps : int, default 0
        In these steps the rate rises linearly to `lr`.
    r : float, default 0.0
        Above 0, later steps weigh more.
    weight_lr_power : float, default 2.0
        :math:`\rho`.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    Here the weights are a function of the step and the options: a change of `lr` counts as if it had always been so,
    and a schedule is asked for all steps from 0; the authors keep a sum of what the rates were. Warm-up and weights go
    by the parameter's own steps, and a schedule is taken to have begun as many steps late as passed it by, where the
    authors count a group's. After a resumption at step t a schedule is asked for its t rates once, which are then kept; and
    a step after one that passed the parameter by adds up t weights anew, some nanoseconds each. A constant rate costs
    neither. z is the parameter before its first step. Keras weighs by the rate, not by the largest so
    far, and PyTorch has no Schedule-Free. Rows that `Table.resize` adds have z = 0: write it beside the parameter. The
    state dict says in ``"train_mode"`` which of the two the parameters hold. State: ``z``.
    """

    options = {"momentum": inside, **AVERAGING}
    rules = (Rule("schedulefree_sgd", ("z",), schedulefree_sgd, Catch("drift0", 0, 1)),)
    presets = {"keras": {"lr": 2.5e-3}, "paper": {}}

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def beta(o: Mapping[str, Any]) -> float:
        return float(o["momentum"])

    @classmethod
    def scalars(cls, t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return cls.common_scalars(t, o)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return drift(h, r, o, h[COUPLE])


class ScheduleFreeAdamW(_ScheduleFree):
    r"""Schedule-Free AdamW (Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky 2024).

    As `ScheduleFreeSGD`, with the update in place of the gradient:

    .. math::
        v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
        z \leftarrow z - \eta_t \left(\frac{g}{\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon} + \lambda y\right)

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 0.0025
    betas : pair of floats in (0, 1) and [0, 1), default (0.9, 0.999)
        The first takes the place of momentum: where y lies between z and x.
    eps : float, default 1e-8
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        :math:`\lambda`, unless ``decoupled_weight_decay``, with which y decays, but not z, and without warm-up (Keras).
    warmup_steps : int, default 0
    r : float, default 0.0
    weight_lr_power : float, default 2.0
        As in `ScheduleFreeSGD`.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    The form of the authors' library; their file for the paper's experiments multiplies the rate by
    :math:`\sqrt{1-\beta_2^t}` instead, which weighs early steps less. Keras weighs all steps alike, and decays y alone.
    PyTorch has no Schedule-Free. See `ScheduleFreeSGD` for the rest. State: ``z``, ``exp_avg_sq``.
    """

    own_decay = ("coupled",)
    options = {"betas": checks.pair(checks.fraction), "eps": checks.non_negative, **AVERAGING}
    rules = (Rule("schedulefree_adamw", ("exp_avg_sq", "z"), schedulefree_adamw, Catch("drift1", 1, 1)),)
    presets = {"keras": {"lr": 2.5e-3, "weight_lr_power": 0.0, "decoupled_weight_decay": True}}

    def __init__(
        self,
        params: Any,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
        )
        super().__init__(params, options, **common)

    @classmethod
    def check_together(cls, o: Mapping[str, Any]) -> None:
        super().check_together(o)
        if "betas" in o:
            inside("betas[0]", o["betas"][0])

    @staticmethod
    def beta(o: Mapping[str, Any]) -> float:
        return float(o["betas"][0])

    @classmethod
    def scalars(cls, t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta2, couple = o["betas"][1], 0.0 if o["decoupled_weight_decay"] else o["weight_decay"]
        scale = 1.0 / np.sqrt(1.0 - powers(beta2, t))
        eps = max(o["eps"], o["tiny"])
        return *cls.common_scalars(t, o), beta2, 1.0 - beta2, scale, eps, couple

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return drift(h, r, o, h[SPAN + 7], (r[SPAN + 3],))


def drift(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], decay: Array, decays: Scalars = ()) -> Gap:
    """The gap: y moves towards z, which is moved by coupled `decay` alone."""
    share, step, rate = h[SPAN : SPAN + 3]
    couple, shrink = (0.0, r[SHRINK]) if o["decoupled_weight_decay"] else (decay, 1.0)
    lost = share + step * couple
    return Gap((1.0 - lost) * shrink, decays, [(1.0, share)], -rate * couple * shrink, lost * shrink + (1.0 - shrink))
