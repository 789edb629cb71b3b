"""RAdam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .adam import adam_gap, fade_of, outlive, power_below
from .base import ALL, Catch, Common, Optimizer, Rule
from .powers import powers
from .tables import SHRINK, SPAN, Gap, Scalars


def radam(p: Array, g: Array, m: Array, v: Array, h: Array) -> None:
    keep1, take1, keep2, take2, step, eps, rectified = h
    m[...] = keep1 * m + take1 * g
    v[...] = keep2 * v + take2 * (g * g)
    p[...] = p - step * (m / np.where(rectified > 0, np.sqrt(v) + eps, p.dtype.type(1)))


def rectification(t: Array, beta2: float) -> tuple[Array, Array]:
    """How many steps the second moment is an average of, rho, and the factor by which that is rectified if they are many."""
    power = powers(beta2, t)
    most = 2.0 / (1.0 - beta2) - 1.0
    rho = most - 2.0 * t * power / (1.0 - power)
    return rho, np.sqrt((rho - 4.0) * (rho - 2.0) * most / ((most - 4.0) * (most - 2.0) * rho))


def rectified_from(beta2: float) -> int:
    """The first step from which `rectification` never changes: the power is lost beside 1 even times the step."""
    return power_below(beta2, 64)


class RAdam(Optimizer):
    r"""RAdam, Adam with a rectified rate in the first steps (Liu et al. 2019).

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2 \\
        \rho_t &= \rho_\infty - \frac{2 t \beta_2^t}{1-\beta_2^t}, \quad \rho_\infty = \frac{2}{1-\beta_2} - 1, \quad
        r_t = \sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}} \\
        p &\leftarrow p - \frac{\eta}{1-\beta_1^t} \cdot \begin{cases}
        r_t \sqrt{1-\beta_2^t} \cdot m / (\sqrt{v} + \epsilon) & \rho_t > 5 \\ m & \text{else} \end{cases}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
    betas : pair of floats in [0, 1), default (0.9, 0.999)
    eps : float, default 1e-8
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    As in PyTorch the rate is rectified where rho is above 5, and epsilon stands beside the uncorrected root; the paper
    has 4, and no epsilon. Keras has no RAdam. State: ``exp_avg``, ``exp_avg_sq``.
    """

    options = {"betas": checks.pair(checks.fraction), "eps": checks.non_negative}
    pace = 4
    rules = (Rule("radam", ("exp_avg", "exp_avg_sq"), radam, Catch("radam", 2, ALL)),)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay), **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2 = o["betas"]
        rho, factor = rectification(t, beta2)
        rectified = rho > 5.0
        step = o["lr"] / (1.0 - powers(beta1, t))
        step = step * np.where(rectified, factor * np.sqrt(1.0 - powers(beta2, t)), 1.0)
        return beta1, 1.0 - beta1, beta2, 1.0 - beta2, step, max(o["eps"], o["tiny"]), rectified

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return max(power_below(o["betas"][0], 54), rectified_from(o["betas"][1]))

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        return outlive(o) or super().why_not_exact(o)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        beta1, beta2, step, eps, rectified = r[SPAN], r[SPAN + 2], h[SPAN + 4], h[SPAN + 5], h[SPAN + 6]
        plain = (1.0 - rectified) * step * beta1
        return adam_gap(r[SHRINK], (beta1, beta2), np.sqrt(beta2), rectified * step, eps, fade_of(o), series, plain)
