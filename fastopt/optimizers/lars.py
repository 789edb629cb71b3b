"""LARS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..errors import HyperParameterError
from ..reductions import trust_ratio, within
from .base import Common, Measure, Optimizer, Rule
from .tables import Scalars, is_zero


def measure(p: Array, g: Array, *states_and_h: Array) -> Sequence[Array]:
    wide, g = p.astype(float), g.astype(float)
    return wide * wide, g * g


def lars(p: Array, g: Array, h: Array) -> None:
    rate, _, decay = h
    p[...] = p - rate * (g + decay * p)


def lars_momentum(p: Array, g: Array, b: Array, h: Array) -> None:
    rate, keep, decay = h
    b[...] = keep * b + rate * (g + decay * p)
    p[...] = p - b


def lars_nesterov(p: Array, g: Array, b: Array, h: Array) -> None:
    rate, keep, decay = h
    step = rate * (g + decay * p)
    b[...] = keep * b + step
    p[...] = p - (keep * b + step)


class LARS(Optimizer):
    r"""LARS (You, Gitman and Ginsburg 2017): momentum whose rate is scaled for each array to the norm of its parameters.

    .. math::
        b \leftarrow \mu b + \eta\,\tau \frac{\|p\|}{\|g\| + \lambda \|p\| + \epsilon} (g + \lambda p), \quad
        p \leftarrow p - b

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1.0
    momentum : float in [0, 1) or callable, default 0.9
        Without momentum there is no state.
    weight_decay : float or callable, default 0
        :math:`\lambda` above.
    trust_coefficient : float, default 1e-3
        :math:`\tau` above.
    eps : float, default 0
    nesterov : bool, default False
        ``p -= momentum * b + (what joined b)``; needs momentum.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    The rate is inside the buffer, as in the paper. For arrays of one dimension (biases, scales), and where the quotient
    would be 0 or 0/0, the factor of `lr` is 1. PyTorch and Keras have no LARS; optax takes the norm of
    ``g + weight_decay * p`` in the denominator. Norms are summed in float64 in an order that depends on the data alone.
    With a `SparseGrad`, the norms are those of the rows that it lists; there is no exact sparse mode, since a norm hangs on
    all rows. State: ``momentum_buffer``.
    """

    options = {
        "momentum": checks.scheduled(checks.fraction),
        "trust_coefficient": checks.non_negative,
        "eps": checks.non_negative,
        "nesterov": checks.flag,
    }
    rules = (
        Rule("lars", (), lars, measure=Measure("lars", measure), moved=5),
        Rule("lars_momentum", ("momentum_buffer",), lars_momentum, measure=Measure("lars", measure), moved=7),
        Rule("lars_nesterov", ("momentum_buffer",), lars_nesterov, measure=Measure("lars", measure), moved=7),
    )
    presets = {"paper": {}}
    own_decay = ("coupled", "decoupled")
    for_samples = False

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 0.0,
        nesterov: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            eps=eps,
            nesterov=nesterov,
        )
        super().__init__(params, options, **common)

    @classmethod
    def check_together(cls, o: Mapping[str, Any]) -> None:
        if o.get("nesterov") and is_zero(o["momentum"]):
            raise HyperParameterError(f"nesterov=True needs momentum above 0, got momentum={o['momentum']}")

    @staticmethod
    def rule(o: Mapping[str, Any]) -> str:
        if is_zero(o["momentum"]):
            return "lars"
        return "lars_nesterov" if o["nesterov"] else "lars_momentum"

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return o["lr"], o["momentum"], o["weight_decay"]

    @staticmethod
    def derive(
        sums: Array, h: Array, shapes: Sequence[tuple[int, ...]], o: Mapping[str, Any], memory: dict[str, Any]
    ) -> Array:
        lr, momentum, decay = h.T
        p, g = np.sqrt(sums[:, 0]), np.sqrt(sums[:, 1])
        ratio = trust_ratio(o["trust_coefficient"] * p, g + decay * p + o["eps"])
        ratio[[len(shape) < 2 for shape in shapes]] = 1.0
        return np.column_stack([within(lr * ratio, o["tiny"]), momentum, decay])
