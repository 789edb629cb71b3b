"""AdaBelief."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import checks
from ..checks import Array
from .adam import fade_of, outlive, power_below
from .base import Catch, Optimizer, Rule
from .powers import powers
from .radam import rectification, rectified_from
from .tables import SHRINK, SPAN, Gap, Scalars


def adabelief(p: Array, g: Array, m: Array, s: Array, h: Array) -> None:
    keep1, take1, keep2, take2, step, scale, eps, rectified = h
    m[...] = keep1 * m + take1 * g
    off = g - m
    s[...] = keep2 * s + take2 * (off * off) + eps
    p[...] = p - step * (m / np.where(rectified > 0, np.sqrt(s) * scale + eps, p.dtype.type(1)))


class AdaBelief(Optimizer):
    r"""AdaBelief (Zhuang et al. 2020), which divides by how far gradients are from their average.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad s \leftarrow \beta_2 s + (1-\beta_2) (g-m)^2 + \epsilon, \quad
        p \leftarrow p - \frac{\eta}{1-\beta_1^t} \cdot \frac{m}{\sqrt{s}/\sqrt{1-\beta_2^t} + \epsilon}

    With ``rectify`` the rate is that of `RAdam`, with its two cases; there :math:`\rho_t \ge 5` is enough.

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
    betas : pair of floats in [0, 1), default (0.9, 0.999)
    eps : float, default 1e-16
        Added to the variance in every step, and to its root. At least the smallest normal number of the dtype is used, so
        that 0/0 cannot arise.
    weight_decay : float or callable, default 0
    rectify : bool, default True
    decoupled_weight_decay : bool, default True
        Otherwise the decay is added to the gradient.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    This is the authors' code (adabelief-pytorch 0.2) with its defaults; the paper does not rectify. PyTorch and Keras
    have no AdaBelief. In exact sparse mode the steps that a row has missed are made one by one until its momentum has
    faded: there is no shorter way, because the momentum feeds the variance. State: ``exp_avg``, ``exp_avg_var``.
    """

    options = {"betas": checks.pair(checks.fraction), "eps": checks.non_negative, "rectify": checks.flag}
    presets = {"paper": {"rectify": False}}
    pace = 4
    rules = (Rule("adabelief", ("exp_avg", "exp_avg_var"), adabelief, Catch("adabelief", 2, 0)),)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        *,
        rectify: bool = True,
        decoupled_weight_decay: bool = True,
        **common: Any,
    ) -> None:
        options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, rectify=rectify)
        super().__init__(params, options, decoupled_weight_decay=decoupled_weight_decay, **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2 = o["betas"]
        rho, factor = rectification(t, beta2)
        step, root = o["lr"] / (1.0 - powers(beta1, t)), np.sqrt(1.0 - powers(beta2, t))
        scale, rectified = 1.0 / root, rho >= 5.0
        if o["rectify"]:
            step, scale = step * np.where(rectified, factor * root, 1.0), np.ones(t.shape)
        else:
            rectified = np.ones(t.shape, bool)
        return beta1, 1.0 - beta1, beta2, 1.0 - beta2, step, scale, max(o["eps"], o["tiny"]), rectified

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return max(power_below(o["betas"][0], 54), rectified_from(o["betas"][1]))

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        return outlive(o) or super().why_not_exact(o)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK], (r[SPAN], r[SPAN + 2]), back=r[SPAN + 6], fade=fade_of(o))
