"""ADOPT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .base import Catch, Common, Optimizer, Rule
from .tables import SHRINK, SPAN, Gap, Scalars


def adopt(p: Array, g: Array, v: Array, m: Array, h: Array) -> None:
    keep1, take1, keep2, take2, lr, eps, bound = h
    d = np.sqrt(v)
    n = g / np.where(d < eps, eps, d)
    n = np.where(n > bound, bound, np.where(n < -bound, -bound, n))
    m[...] = keep1 * m + take1 * n
    p[...] = p - lr * m
    v[...] = keep2 * v + take2 * (g * g)


class ADOPT(Optimizer):
    r"""ADOPT (Taniguchi et al. 2024): Adam that divides by the second moment of the steps before, and then averages.

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1) \max\left(-c_t, \min\left(c_t, \frac{g}{\max(\sqrt{v}, \epsilon)}\right)\right),
        \quad c_t = (t-1)^{1/4} \\
        p &\leftarrow p - \eta m, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
    betas : pair of floats in [0, 1), default (0.9, 0.9999)
    eps : float, default 1e-6
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    The first step sets v to the squared gradient and moves nothing; an element whose gradient is zero then takes a clipped step
    at its first other gradient, which makes it a poor choice where gradients are sparse. The bound :math:`c_t` is that of the authors' code. PyTorch
    and Keras have no ADOPT. State: ``exp_avg_sq``, ``exp_avg``.
    """

    options = {"betas": checks.pair(checks.fraction), "eps": checks.non_negative}
    for_samples = False  # a feature that is first seen late has no v to divide by
    rules = (Rule("adopt", ("exp_avg_sq", "exp_avg"), adopt, Catch("drift1", 1, 1)),)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay), **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2 = o["betas"]
        first = t == 1  # which makes v, and no step
        take1, keep2, take2 = (np.where(first, a, b) for a, b in ((0.0, 1.0 - beta1), (0.0, beta2), (1.0, 1.0 - beta2)))
        bound = np.sqrt(np.sqrt(t - 1.0))
        return beta1, take1, keep2, take2, o["lr"], max(o["eps"], o["tiny"]), bound

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return None

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        beta1, beta2, lr = r[SPAN], r[SPAN + 2], h[SPAN + 4]
        return Gap(r[SHRINK], (beta2,), [(beta1, -lr * beta1)])
