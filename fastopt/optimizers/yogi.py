"""Yogi."""

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


def yogi(p: Array, g: Array, m: Array, v: Array, h: Array) -> None:
    keep1, take1, take2, step, scale, eps = h
    m[...] = keep1 * m + take1 * g
    square = g * g
    by = take2 * square
    v[...] = np.where(v > square, v - by, np.where(v < square, v + by, v))
    p[...] = p - step * (m / (np.sqrt(v) * scale + eps))


class Yogi(Optimizer):
    r"""Yogi (Zaheer et al. 2018), whose second moment moves by a share of the gradient's square whatever its own size.

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow v - (1-\beta_2) \operatorname{sign}(v - g^2) g^2 \\
        p &\leftarrow p - \frac{\eta}{1-\beta_1^t} \cdot \frac{m}{\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-2
    betas : pair of floats in [0, 1), default (0.9, 0.999)
    eps : float, default 1e-3
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    initial_accumulator_value : float, default 1e-6
        Both moments start at it.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    PyTorch and Keras have no Yogi. The paper has no bias corrections; as in optax both moments are corrected, although
    they do not start at 0. As the first moment does not, parameters move even without gradients. State: ``exp_avg``,
    ``exp_avg_sq``.
    """

    options = {
        "betas": checks.pair(checks.fraction),
        "eps": checks.non_negative,
        "initial_accumulator_value": checks.non_negative,
    }
    pace = 3
    rules = (Rule("yogi", ("exp_avg", "exp_avg_sq"), yogi, Catch("adam", 2, ALL)),)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        initial_accumulator_value: float = 1e-6,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def start(state: str, o: Mapping[str, Any]) -> float:
        return float(o["initial_accumulator_value"])

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2 = o["betas"]
        step, scale = o["lr"] / (1.0 - powers(beta1, t)), 1.0 / np.sqrt(1.0 - powers(beta2, t))
        return beta1, 1.0 - beta1, 1.0 - beta2, step, scale, max(o["eps"], o["tiny"])

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return max(power_below(beta, 54) for beta in o["betas"])

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        beta1, step, scale, eps = r[SPAN], h[SPAN + 3], h[SPAN + 4], h[SPAN + 5]
        return adam_gap(r[SHRINK], (beta1, 1.0), 1.0, step / scale, eps / scale, o["betas"][0], series)
