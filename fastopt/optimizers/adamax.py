"""Adamax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .adam import adam_gap, power_below
from .base import ALL, Catch, Common, Optimizer, Rule
from .powers import powers
from .tables import SHRINK, SPAN, Gap, Scalars


def adamax(p: Array, g: Array, m: Array, u: Array, h: Array) -> None:
    keep1, take1, keep2, step, eps = h
    m[...] = keep1 * m + take1 * g
    old, new = keep2 * u, np.abs(g) + eps
    u[...] = np.where(old >= new, old, new)
    p[...] = p - step * (m / u)


def adamax_outside(p: Array, g: Array, m: Array, u: Array, h: Array) -> None:
    keep1, take1, keep2, step, eps = h
    m[...] = keep1 * m + take1 * g
    old, new = keep2 * u, np.abs(g)
    u[...] = np.where(old >= new, old, new)
    p[...] = p - step * (m / (u + eps))


class Adamax(Optimizer):
    r"""Adamax, Adam with the moment of infinite order (Kingma and Ba 2014, section 7).

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad u \leftarrow \max(\beta_2 u, |g| + \epsilon), \quad
        p \leftarrow p - \frac{\eta}{1-\beta_1^t} \cdot \frac{m}{u}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 2e-3
    betas : pair of floats in [0, 1), default (0.9, 0.999)
    eps : float, default 1e-8
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    eps_form : {"inside", "outside"}, default "inside"
        Where epsilon sits: as above (PyTorch), or beside the norm it divides by,
        :math:`u \leftarrow \max(\beta_2 u, |g|)` and :math:`m/(u+\epsilon)` (Keras).
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    PyTorch adds epsilon to the gradient's size, Keras to the norm that it divides by; the paper has none. State:
    ``exp_avg``, ``exp_inf``.
    """

    options = {
        "betas": checks.pair(checks.fraction),
        "eps": checks.non_negative,
        "eps_form": checks.one_of("inside", "outside"),
    }
    # Inside, epsilon is a floor, and what lies on it stays there: the law of a gap holds for one floor.
    pace = 3
    rules = (
        Rule("adamax", ("exp_avg", "exp_inf"), adamax, Catch("adamax", 2, ALL, ("eps",))),
        Rule("adamax_outside", ("exp_avg", "exp_inf"), adamax_outside, Catch("adamax_outside", 2, ALL)),
    )
    presets = {
        "keras": {"lr": 1e-3, "eps": 1e-7, "eps_form": "outside", "decoupled_weight_decay": True},
        "paper": {"eps": 0.0},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        eps_form: str = "inside",
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, eps_form=eps_form)
        super().__init__(params, options, **common)

    @staticmethod
    def rule(o: Mapping[str, Any]) -> str:
        return "adamax_outside" if o["eps_form"] == "outside" else "adamax"

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2 = o["betas"]
        return beta1, 1.0 - beta1, beta2, o["lr"] / (1.0 - powers(beta1, t)), max(o["eps"], o["tiny"])

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return power_below(o["betas"][0], 54)

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        beta1, beta2 = o["betas"]
        if beta1 >= beta2:
            return (
                f"betas={o['betas']} have beta1 >= beta2, with which the steps of a row without gradients grow instead of "
                "fading; use a smaller beta1, a larger beta2 or sparse='lazy'"
            )
        return super().why_not_exact(o)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        beta1, beta2, step, eps = r[SPAN], r[SPAN + 2], h[SPAN + 3], h[SPAN + 4]
        fade = o["betas"][0] / o["betas"][1]
        if o["eps_form"] == "inside":  # in units of the floor
            eps = np.ones(eps.shape)
        return adam_gap(r[SHRINK], (beta1, beta2), beta2, step, eps, fade, series)
