"""Prodigy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..reductions import left_to_right
from .base import CommonButDecay, Measure, Optimizer, Rule
from .powers import powers
from .tables import Scalars


def measure(p: Array, g: Array, m: Array, v: Array, s: Array, start: Array, h: Array) -> Sequence[Array]:
    keep1, take1, keep2, take2, keep3, take3 = h[:6]
    m[...] = keep1 * m + take1 * g
    v[...] = keep2 * v + take2 * (g * g)
    s[...] = keep3 * s + take3 * g
    wide = s.astype(float)
    return g.astype(float) * (start.astype(float) - p.astype(float)), np.where(wide >= 0, wide, -wide)


def prodigy(p: Array, g: Array, m: Array, v: Array, s: Array, start: Array, h: Array) -> None:
    keep, step, eps = h
    p[...] = keep * p - step * (m / (np.sqrt(v) + eps))


class Prodigy(Optimizer):
    r"""Prodigy (Mishchenko and Defazio 2023): Adam whose rate is an estimate d of the distance to the solution.

    .. math::
        r &\leftarrow \beta_3 r + \frac{d}{d_0}\,d\eta\,\langle g, p_0 - p\rangle, \quad
        s \leftarrow \beta_3 s + \frac{d}{d_0}\,d\eta\,g, \quad \hat d = c\,r / \|s\|_1 \\
        m &\leftarrow \beta_1 m + d(1-\beta_1) g, \quad v \leftarrow \beta_2 v + d^2(1-\beta_2) g^2 \\
        p &\leftarrow (1-\lambda d\eta) p - d\eta \frac{m}{\sqrt v + \max(d, \hat d)\epsilon}, \quad
        d \leftarrow \max(d, \hat d)

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1.0
        :math:`\eta`: leave it at 1, or give a schedule around 1.
    betas : pair of floats in [0, 1), default (0.9, 0.999)
    beta3 : float in [0, 1), optional
        Default: the root of ``betas[1]``.
    eps : float, default 1e-8
    weight_decay : float or callable, default 0
    decoupled_weight_decay : bool, default True
        Else coupled: added to the gradient.
    use_bias_correction : bool, default False
        Multiply d by ``sqrt(1 - beta2**t) / (1 - beta1**t)``.
    safeguard_warmup : bool, default False
        Leave `lr` out of s, so that a warm-up does not make the estimate grow.
    d0 : float, default 1e-6
        Where d starts.
    d_coef : float, default 1.0
        :math:`c`.
    growth_rate : float of at least 1, default inf
        The most by which d grows in a step.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    The rule and the order of its parts are those of the authors' code, with a d for each group, where theirs has one
    for all. A step in which every gradient so far was zero moves nothing. ``p0`` is a copy of the parameters as the
    first step is made. Sums are over all parameters of a group that have a gradient, in float64 and in an order that
    depends on the data alone; with a `SparseGrad` over the rows that it lists. There is no exact sparse mode, since d
    hangs on all rows. PyTorch and Keras have no Prodigy. State: ``exp_avg``, ``exp_avg_sq``, ``s``, ``p0``; each
    group remembers ``d``, ``d_max``, ``numerator`` and ``steps``.
    """

    own_decay = ("decoupled",)
    options = {
        "betas": checks.pair(checks.fraction),
        "beta3": checks.optional(checks.fraction),
        "eps": checks.non_negative,
        "use_bias_correction": checks.flag,
        "safeguard_warmup": checks.flag,
        "d0": checks.number(0.0, closed_low=False),
        "d_coef": checks.number(0.0, closed_low=False),
        "growth_rate": checks.infinite_or(checks.number(1.0)),
    }
    rules = (
        Rule("prodigy", ("exp_avg", "exp_avg_sq", "s", "p0"), prodigy, measure=Measure("prodigy", measure), moved=13),
    )
    presets = {"paper": {}}
    copies = frozenset({"p0"})
    memory = {"d": 0.0, "d_max": 0.0, "numerator": 0.0, "steps": 0}
    for_samples = False

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        **common: Unpack[CommonButDecay],
    ) -> None:
        options = dict(
            lr=lr,
            betas=betas,
            beta3=beta3,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            use_bias_correction=use_bias_correction,
            safeguard_warmup=safeguard_warmup,
            d0=d0,
            d_coef=d_coef,
            growth_rate=growth_rate,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2 = o["betas"]
        beta3 = math.sqrt(beta2) if o["beta3"] is None else o["beta3"]
        decay = o["weight_decay"] if o["decoupled_weight_decay"] else 0.0
        return beta1, 1.0 - beta1, beta2, 1.0 - beta2, beta3, o["lr"], max(o["eps"], o["tiny"]), decay

    @staticmethod
    def rate(h: Array, o: Mapping[str, Any], memory: Mapping[str, Any]) -> tuple[float, float]:
        """d, and d times the learning rate of this step."""
        d = memory["d"] or o["d0"]
        correction = 1.0
        if o["use_bias_correction"]:
            beta1, beta2 = o["betas"]
            t = np.array([memory["steps"] + 1])
            correction = float((np.sqrt(1.0 - powers(beta2, t)) / (1.0 - powers(beta1, t)))[0])
        return d, d * float(h[0, 5]) * correction

    @classmethod
    def recall(cls, h: Array, o: Mapping[str, Any], memory: Mapping[str, Any]) -> Array:
        keep1, take1, keep2, take2, keep3 = h[0, :5]
        d, step = cls.rate(h, o, memory)
        weight = d / o["d0"] * (d if o["safeguard_warmup"] else step)
        return np.array([keep1, d * take1, keep2, d * d * take2, keep3, weight])

    @classmethod
    def derive(
        cls, sums: Array, h: Array, shapes: Sequence[tuple[int, ...]], o: Mapping[str, Any], memory: dict[str, Any]
    ) -> Array:
        d, step = cls.rate(h, o, memory)
        numerator = float(h[0, 4]) * memory["numerator"] + d / o["d0"] * step * left_to_right(sums[:, 0])
        size = left_to_right(sums[:, 1])
        if size == 0:  # nothing but zeros so far
            return np.array([1.0, 0.0, 1.0])
        rest, eps = 1.0 - float(h[0, 7]) * step, float(h[0, 6])
        if not math.isfinite(numerator + size):  # infinities and NaN go on to the parameters, not to the estimate
            return np.array([rest, step, max(d * eps, o["tiny"])])
        estimate = o["d_coef"] * numerator / size
        grown = max(d, estimate) if d == o["d0"] else d
        most = max(memory["d_max"] or o["d0"], estimate)
        grown = min(most, grown * o["growth_rate"])
        memory.update(d=grown, d_max=most, numerator=numerator, steps=memory["steps"] + 1)
        return np.array([rest, step, max(grown * eps, o["tiny"])])
