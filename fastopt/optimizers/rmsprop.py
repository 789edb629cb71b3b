"""RMSprop, centered and with momentum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .base import Catch, Common, Optimizer, Rule
from .tables import SHRINK, SPAN, Gap, Scalars


def rmsprop(p: Array, g: Array, v: Array, h: Array) -> None:
    lr, keep, take, eps, _ = h
    v[...] = keep * v + take * (g * g)
    p[...] = p - lr * (g / (np.sqrt(v) + eps))


def rmsprop_momentum(p: Array, g: Array, v: Array, b: Array, h: Array) -> None:
    lr, keep, take, eps, mu = h
    v[...] = keep * v + take * (g * g)
    b[...] = mu * b + g / (np.sqrt(v) + eps)
    p[...] = p - lr * b


def centered_variance(g: Array, v: Array, a: Array, keep: Any, take: Any) -> Array:
    v[...] = keep * v + take * (g * g)
    a[...] = keep * a + take * g
    variance = v - a * a
    return np.asarray(np.where(variance < 0, v.dtype.type(0), variance))


def rmsprop_centered(p: Array, g: Array, v: Array, a: Array, h: Array) -> None:
    lr, keep, take, eps, _ = h
    variance = centered_variance(g, v, a, keep, take)
    p[...] = p - lr * (g / (np.sqrt(variance) + eps))


def rmsprop_centered_momentum(p: Array, g: Array, v: Array, a: Array, b: Array, h: Array) -> None:
    lr, keep, take, eps, mu = h
    variance = centered_variance(g, v, a, keep, take)
    b[...] = mu * b + g / (np.sqrt(variance) + eps)
    p[...] = p - lr * b


class RMSprop(Optimizer):
    r"""RMSprop (Tieleman and Hinton 2012), centered and with momentum (Graves 2013) as options.

    .. math::
        v \leftarrow \alpha v + (1-\alpha) g^2, \quad p \leftarrow p - \eta \frac{g}{\sqrt{v} + \epsilon}

    Centered: :math:`a \leftarrow \alpha a + (1-\alpha) g`, and :math:`v - a^2` (held at 0 from below) stands under the
    root. Momentum: :math:`b \leftarrow \mu b + g/(\ldots)`, :math:`p \leftarrow p - \eta b`.

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-2
    alpha : float in [0, 1), default 0.99
    eps : float, default 1e-8
        Beside the root, as in PyTorch; Keras and TensorFlow have it inside. At least the smallest normal number of the
        dtype is used, so that 0/0 cannot arise.
    weight_decay : float, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    momentum : float in [0, 1), default 0
    centered : bool, default False
        PyTorch can take the root of a negative number here and give NaN.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    State: ``square_avg``, with ``centered`` ``grad_avg``, with momentum ``momentum_buffer``.
    """

    options = {
        "alpha": checks.fraction,
        "eps": checks.non_negative,
        "momentum": checks.fraction,
        "centered": checks.flag,
    }
    rules = (
        Rule("rmsprop", ("square_avg",), rmsprop, Catch("decay1", 1, 0)),
        Rule("rmsprop_momentum", ("square_avg", "momentum_buffer"), rmsprop_momentum, Catch("drift1", 1, 1)),
        Rule("rmsprop_centered", ("square_avg", "grad_avg"), rmsprop_centered, Catch("decay2", 2, 0)),
        Rule(
            "rmsprop_centered_momentum",
            ("square_avg", "grad_avg", "momentum_buffer"),
            rmsprop_centered_momentum,
            Catch("drift2", 2, 1),
        ),
    )

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def rule(o: Mapping[str, Any]) -> str:
        return "rmsprop" + "_centered" * o["centered"] + "_momentum" * (o["momentum"] != 0)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return o["lr"], o["alpha"], 1.0 - o["alpha"], max(o["eps"], o["tiny"]), o["momentum"]

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        lr, alpha, mu = h[SPAN], r[SPAN + 1], r[SPAN + 4]
        decays = (alpha, alpha) if o["centered"] else (alpha,)
        return Gap(r[SHRINK], decays, [(mu, -lr * mu)] if o["momentum"] != 0 else ())
