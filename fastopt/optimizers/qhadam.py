"""QHAdam."""

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


def qhadam(p: Array, g: Array, m: Array, v: Array, h: Array) -> None:
    keep1, take1, keep2, take2, nu1, rest1, nu2, rest2, lr, eps = h
    square = g * g
    m[...] = keep1 * m + take1 * g
    v[...] = keep2 * v + take2 * square
    both = np.where(rest2 > 0, nu2 * v + rest2 * square, v)
    p[...] = p - lr * ((nu1 * m + rest1 * g) / (np.sqrt(both) + eps))


class QHAdam(Optimizer):
    r"""QHAdam, quasi-hyperbolic Adam (Ma and Yarats 2018).

    .. math::
        \beta_i' &= 1 - \frac{1-\beta_i}{1-\beta_i^t}, \quad
        m \leftarrow \beta_1' m + (1-\beta_1') g, \quad v \leftarrow \beta_2' v + (1-\beta_2') g^2 \\
        p &\leftarrow p - \eta \frac{\nu_1 m + (1-\nu_1) g}{\sqrt{\nu_2 v + (1-\nu_2) g^2} + \epsilon}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
    betas : pair of floats in [0, 1), default (0.9, 0.999)
    nus : pair of floats in [0, 1], default (1.0, 1.0)
        With both 1 it is `Adam`.
    eps : float, default 1e-8
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    PyTorch and Keras have no QHAdam. The defaults are those of the authors' code; the preset "paper" has what the paper
    recommends. State: ``exp_avg``, ``exp_avg_sq``, averages of all steps as in that code: what Adam has after bias
    correction.
    """

    options = {
        "betas": checks.pair(checks.fraction),
        "nus": checks.pair(checks.number(0.0, 1.0)),
        "eps": checks.non_negative,
    }
    pace = 8
    rules = (Rule("qhadam", ("exp_avg", "exp_avg_sq"), qhadam, Catch("adam", 2, ALL)),)
    presets = {"paper": {"betas": (0.995, 0.999), "nus": (0.7, 1.0)}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        nus: tuple[float, float] = (1.0, 1.0),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, betas=betas, nus=nus, eps=eps, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        def shares(beta: float) -> tuple[Array, Array]:
            """What is kept and what is taken, so that the moment is the average of all steps."""
            weight = 1.0 - powers(beta, t)
            return beta * (1.0 - powers(beta, t - 1)) / weight, (1.0 - beta) / weight

        nu1, nu2 = o["nus"]
        moments = *shares(o["betas"][0]), *shares(o["betas"][1])
        return *moments, nu1, 1.0 - nu1, nu2, 1.0 - nu2, o["lr"], max(o["eps"], o["tiny"])

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return 1 + max(power_below(beta, 54) for beta in o["betas"])

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        if o["nus"][1] == 0:
            return (
                "with nus[1]=0 a row without gradients is divided by epsilon alone; use a larger one or sparse='lazy'"
            )
        return outlive(o) or super().why_not_exact(o)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        keep1, keep2, nu1, nu2, lr, eps = r[SPAN], r[SPAN + 2], h[SPAN + 4], h[SPAN + 6], h[SPAN + 8], h[SPAN + 9]
        norm = np.sqrt(nu2)
        root = np.where(keep2 > 0, np.sqrt(keep2), 1.0)  # the first step keeps nothing of either moment
        return adam_gap(r[SHRINK], (keep1, keep2), root, lr * nu1 / norm, eps / norm, fade_of(o), series)
