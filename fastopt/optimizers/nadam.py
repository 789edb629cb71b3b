"""NAdam."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .adam import adam_gap, fade_of, outlive, power_below
from .base import ALL, Catch, Common, Optimizer, Rule
from .powers import powers
from .tables import SHRINK, SPAN, Gap, Scalars


def nadam(p: Array, g: Array, m: Array, v: Array, h: Array) -> None:
    keep1, take1, keep2, take2, now, ahead, scale, eps = h
    m[...] = keep1 * m + take1 * g
    v[...] = keep2 * v + take2 * (g * g)
    p[...] = p - (now * g + ahead * m) / (np.sqrt(v) * scale + eps)


@functools.lru_cache(64)
def warm_up(q: float) -> Array:
    """Products of the first 1 to 4096 of ``1 - q**j / 2``.

    Later ones need not be told from the last: either the factors are 1 by then, or the product is below 2**-60 (their
    logarithms to base 2 sum to less than -0.72 q (1 - q**4096) / (1 - q)).
    """
    return np.multiply.accumulate(1.0 - 0.5 * powers(q, np.arange(1, 4097)))


class NAdam(Optimizer):
    r"""NAdam, Adam with Nesterov's momentum (Dozat 2016).

    .. math::
        \mu_t &= \beta_1 (1 - \tfrac12 0.96^{t \psi}), \quad M_t = \textstyle\prod_{j \le t} \mu_j \\
        m &\leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2 \\
        p &\leftarrow p - \eta \left(\frac{1-\mu_t}{1-M_t} g + \frac{\mu_{t+1}}{1-M_{t+1}} m\right) \Big/
        \left(\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon\right)

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 2e-3
    betas : pair of floats in [0, 1), default (0.9, 0.999)
    eps : float, default 1e-8
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    momentum_decay : float, default 4e-3
        :math:`\psi`, how fast the momentum rises to beta1.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    PyTorch keeps the product of the momenta in single precision; here it is a function of the step, in double. Keras
    has 1 for `momentum_decay`; the paper's schedule is the default. State: ``exp_avg``, ``exp_avg_sq``.
    """

    options = {
        "betas": checks.pair(checks.fraction),
        "eps": checks.non_negative,
        "momentum_decay": checks.non_negative,
    }
    rules = (Rule("nadam", ("exp_avg", "exp_avg_sq"), nadam, Catch("adam", 2, ALL)),)
    presets = {"keras": {"lr": 1e-3, "eps": 1e-7, "momentum_decay": 1.0, "decoupled_weight_decay": True}}

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay)
        super().__init__(params, options, **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2 = o["betas"]
        q = 0.96 ** o["momentum_decay"]

        def momentum(t: Array) -> tuple[Array, Array]:
            """The momentum of the steps, and the product of all up to them."""
            warm = warm_up(q)
            product = powers(beta1, t) * warm[np.minimum(t, len(warm)) - 1]
            return beta1 * (1.0 - 0.5 * powers(q, t)), product

        (mu, product), (mu_next, product_next) = momentum(t), momentum(t + 1)
        now, ahead = o["lr"] * (1.0 - mu) / (1.0 - product), o["lr"] * mu_next / (1.0 - product_next)
        scale = 1.0 / np.sqrt(1.0 - powers(beta2, t))
        return beta1, 1.0 - beta1, beta2, 1.0 - beta2, now, ahead, scale, max(o["eps"], o["tiny"])

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        q = 0.96 ** o["momentum_decay"]
        return max(power_below(beta, 54) for beta in (*o["betas"], q if q < 1 else 0.0))

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        return outlive(o) or super().why_not_exact(o)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        beta1, beta2, step, scale, eps = r[SPAN], r[SPAN + 2], h[SPAN + 5], h[SPAN + 6], h[SPAN + 7]
        return adam_gap(r[SHRINK], (beta1, beta2), np.sqrt(beta2), step / scale, eps / scale, fade_of(o), series)
