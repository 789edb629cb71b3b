"""Adan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .adam import power_below
from .base import Catch, Common, Optimizer, Rule
from .powers import powers
from .tables import SPAN, Gap, Scalars


def adan(p: Array, g: Array, m: Array, d: Array, v: Array, prev: Array, h: Array) -> None:
    keep1, take1, keep2, take2, keep3, take3, step, step2, scale, eps, first, before, after = h
    change = g - (g if first > 0 else prev)
    ahead = g + keep2 * change
    m[...] = keep1 * m + take1 * g
    d[...] = keep2 * d + take2 * change
    v[...] = keep3 * v + take3 * (ahead * ahead)
    p[...] = (before * p - (step * m + step2 * d) / (np.sqrt(v) * scale + eps)) / after
    prev[...] = g


class Adan(Optimizer):
    r"""Adaptive Nesterov momentum (Xie et al. 2022).

    .. math::
        c &= g - g_{\mathrm{prev}}, \quad m \leftarrow \beta_1 m + (1-\beta_1) g, \quad
        d \leftarrow \beta_2 d + (1-\beta_2) c, \quad v \leftarrow \beta_3 v + (1-\beta_3) (g + \beta_2 c)^2 \\
        p &\leftarrow \frac{1}{1 + \eta\lambda} \left( p - \eta\, \frac{m/(1-\beta_1^t) + \beta_2\, d/(1-\beta_2^t)}
        {\sqrt{v}/\sqrt{1-\beta_3^t} + \epsilon} \right)

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
    betas : triple of floats in [0, 1), default (0.98, 0.92, 0.99)
        What is kept of a moment at a step, as in the authors' code; the paper's betas are 1 less these.
    eps : float, default 1e-8
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        Decoupled, by the proximal form above.
    no_prox : bool, default False
        Decay as in AdamW: ``p *= 1 - lr * weight_decay`` before the update, and no division.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    As in the authors' code, the factor of d is beta2 (optax has 1 - beta2), and at a parameter's first step c is 0. A
    row of a lazy sparse gradient that is touched later for the first time has 0 for its previous gradient. PyTorch and
    Keras have no Adan. State: ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``, ``previous_grad``.
    """

    options = {
        "betas": checks.several(checks.fraction, 3, "three numbers"),
        "eps": checks.non_negative,
        "no_prox": checks.flag,
    }
    own_decay = ("coupled", "decoupled")
    rules = (Rule("adan", ("exp_avg", "exp_avg_diff", "exp_avg_sq", "previous_grad"), adan, Catch("adan", 3, 0)),)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        no_prox: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, no_prox=no_prox), **common
        )

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2, beta3 = o["betas"]
        lr, decay = o["lr"], o["lr"] * o["weight_decay"]
        return (
            *(beta1, 1.0 - beta1, beta2, 1.0 - beta2, beta3, 1.0 - beta3),
            lr / (1.0 - powers(beta1, t)),
            lr * beta2 / (1.0 - powers(beta2, t)),
            1.0 / np.sqrt(1.0 - powers(beta3, t)),
            max(o["eps"], o["tiny"]),
            t == 1,
            1.0 - decay if o["no_prox"] else 1.0,
            1.0 if o["no_prox"] else 1.0 + decay,
        )

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return max(2, *(power_below(beta, 54) for beta in o["betas"]))

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        if max(o["betas"][:2]) >= math.sqrt(o["betas"][2]):
            return (
                f"betas={o['betas']} have one of the first two at least as large as the root of the third, with which the "
                "steps of a row without gradients do not fade; use a larger third, or sparse='lazy'"
            )
        return ""

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        beta1, beta2, beta3 = r[SPAN], r[SPAN + 2], r[SPAN + 4]
        fade = max(o["betas"][:2]) / math.sqrt(o["betas"][2])
        return Gap(r[SPAN + 11] / r[SPAN + 12], (beta1, beta2, beta3), fade=fade)
