"""LAMB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..reductions import trust_ratio, within
from .base import Common, Measure, Optimizer, Rule
from .powers import powers
from .tables import Scalars


def update(p: Array, m: Array, v: Array, h: Array) -> Array:
    scale1, scale2, eps, decay = h
    return (m * scale1) / (np.sqrt(v) * scale2 + eps) + decay * p


def measure(p: Array, g: Array, m: Array, v: Array, h: Array) -> Sequence[Array]:
    keep1, take1, keep2, take2 = h[:4]
    m[...] = keep1 * m + take1 * g
    v[...] = keep2 * v + take2 * (g * g)
    u, wide = update(p, m, v, h[4:8]).astype(float), p.astype(float)
    return wide * wide, u * u


def lamb(p: Array, g: Array, m: Array, v: Array, h: Array) -> None:
    p[...] = p - h[4] * update(p, m, v, h[:4])


class LAMB(Optimizer):
    r"""LAMB (You et al. 2019): Adam's update, scaled for each array to the norm of its parameters.

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2 \\
        u &= \frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon} + \lambda p, \quad
        p \leftarrow p - \eta \frac{\|p\|}{\|u\|} u

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
    betas : pair of floats in [0, 1), default (0.9, 0.999)
    eps : float, default 1e-6
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        :math:`\lambda` above.
    decoupled_weight_decay : bool, default False
        ``p *= 1 - lr * weight_decay`` first, outside of the ratio, as Keras does.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    The ratio is 1 where either norm is 0, as in optax and Keras; the paper's function of the norm is the identity.
    Keras decays first and outside of the ratio (``decoupled_weight_decay``). PyTorch has no LAMB. Norms are summed in
    float64 in an order that depends on the data alone. With a `SparseGrad`, the norms are those of the rows that it
    lists; there is no exact sparse mode, since a norm hangs on all rows. State: ``exp_avg``, ``exp_avg_sq``.
    """

    own_decay = ("coupled",)
    options = {"betas": checks.pair(checks.fraction), "eps": checks.non_negative}
    rules = (Rule("lamb", ("exp_avg", "exp_avg_sq"), lamb, measure=Measure("lamb", measure), moved=10),)
    presets = {"keras": {"eps": 1e-7, "decoupled_weight_decay": True}, "paper": {}}
    for_samples = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay), **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2 = o["betas"]
        scale1, scale2 = 1.0 / (1.0 - powers(beta1, t)), 1.0 / np.sqrt(1.0 - powers(beta2, t))
        decay = 0.0 if o["decoupled_weight_decay"] else o["weight_decay"]
        shrink = 1.0 - o["lr"] * o["weight_decay"] if o["decoupled_weight_decay"] else 1.0
        eps = max(o["eps"], o["tiny"])
        return beta1, 1.0 - beta1, beta2, 1.0 - beta2, scale1, scale2, eps, decay, o["lr"], shrink

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return None

    @staticmethod
    def derive(
        sums: Array, h: Array, shapes: Sequence[tuple[int, ...]], o: Mapping[str, Any], memory: dict[str, Any]
    ) -> Array:
        lr, shrink = h[:, 8], h[:, 9]  # the span meets the parameter after its decay, the measure before
        ratio = trust_ratio(np.abs(shrink) * np.sqrt(sums[:, 0]), np.sqrt(sums[:, 1]))
        return np.column_stack([h[:, 4:8], within(lr * ratio, o["tiny"])])
