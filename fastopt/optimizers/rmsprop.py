"""RMSprop, centered and with momentum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .base import Catch, Common, Optimizer, Rule
from .tables import SHRINK, SPAN, Gap, Scalars, eps_places, is_zero


def quotient(g: Array, v: Array, a: Array | None, h: Array) -> Array:
    """The gradient over the root of its mean square, or with `a` of its variance."""
    keep, take, inner, outer, *_ = h
    v[...] = keep * v + take * (g * g)
    variance = v
    if a is not None:
        a[...] = keep * a + take * g
        variance = v - a * a
        variance = np.where(variance < 0, v.dtype.type(0), variance)
    return np.asarray(g / (np.sqrt(variance + inner) + outer))


def rmsprop(p: Array, g: Array, v: Array, h: Array) -> None:
    p[...] = p - h[4] * quotient(g, v, None, h)


def rmsprop_momentum(p: Array, g: Array, v: Array, b: Array, h: Array) -> None:
    b[...] = h[6] * b + h[5] * quotient(g, v, None, h)
    p[...] = p - h[4] * b


def rmsprop_centered(p: Array, g: Array, v: Array, a: Array, h: Array) -> None:
    p[...] = p - h[4] * quotient(g, v, a, h)


def rmsprop_centered_momentum(p: Array, g: Array, v: Array, a: Array, b: Array, h: Array) -> None:
    b[...] = h[6] * b + h[5] * quotient(g, v, a, h)
    p[...] = p - h[4] * b


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
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    momentum : float in [0, 1) or callable, default 0
    centered : bool, default False
        Divide by the root of the variance.
    eps_form : {"outside", "inside"}, default "outside"
        Where epsilon sits: beside the root (PyTorch), or inside, :math:`\sqrt{v + \epsilon}` (Keras, TensorFlow, Graves).
    lr_inside : bool, default False
        Whether the rate is inside the momentum's buffer: :math:`b \leftarrow \mu b + \eta g/(\ldots)`,
        :math:`p \leftarrow p - b` (Keras, TensorFlow).
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    PyTorch has epsilon outside and the rate outside of the buffer; centered, it can take the root of a negative number
    and give NaN. Keras has both inside, and calls alpha rho. The lecture has no epsilon; centering and momentum are
    Graves's (2013), with epsilon inside. State: ``square_avg``, with ``centered`` ``grad_avg``, with momentum
    ``momentum_buffer``.
    """

    options = {
        "alpha": checks.fraction,
        "eps": checks.non_negative,
        "momentum": checks.scheduled(checks.fraction),
        "centered": checks.flag,
        "eps_form": checks.one_of("outside", "inside"),
        "lr_inside": checks.flag,
    }
    pace = 4
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

    presets = {
        "keras": {
            "lr": 1e-3,
            "alpha": 0.9,
            "eps": 1e-7,
            "eps_form": "inside",
            "lr_inside": True,
            "decoupled_weight_decay": True,
        },
        "paper": {"lr": 1e-3, "alpha": 0.9, "eps_form": "inside"},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        eps_form: str = "outside",
        lr_inside: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            eps_form=eps_form,
            lr_inside=lr_inside,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def rule(o: Mapping[str, Any]) -> str:
        return "rmsprop" + "_centered" * o["centered"] + "_momentum" * (not is_zero(o["momentum"]))

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        outside, inside = (1.0, o["lr"]) if o["lr_inside"] and not is_zero(o["momentum"]) else (o["lr"], 1.0)
        return o["alpha"], 1.0 - o["alpha"], *eps_places(o), outside, inside, o["momentum"]

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        alpha, rate, mu = r[SPAN], h[SPAN + 4], r[SPAN + 6]
        decays = (alpha, alpha) if o["centered"] else (alpha,)
        return Gap(r[SHRINK], decays, [] if is_zero(o["momentum"]) else [(mu, -rate * mu)])
