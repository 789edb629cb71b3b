"""Stochastic gradient descent, with momentum and Nesterov's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..errors import HyperParameterError
from .base import Catch, Common, Optimizer, Rule
from .tables import COUPLE, SHRINK, SPAN, Gap, Scalars, is_zero


def sgd(p: Array, g: Array, h: Array) -> None:
    p[...] = p - h[0] * g


def sgd_momentum(p: Array, g: Array, b: Array, h: Array) -> None:
    rate, keep, take = h
    b[...] = keep * b + take * g
    p[...] = p - rate * b


def sgd_nesterov(p: Array, g: Array, b: Array, h: Array) -> None:
    rate, keep, take = h
    b[...] = keep * b + take * g
    p[...] = p - rate * (take * g + keep * b)


class SGD(Optimizer):
    r"""Stochastic gradient descent (Robbins and Monro 1951), with heavy-ball momentum (Polyak 1964) or Nesterov's (1983).

    .. math::
        b \leftarrow \mu b + (1-\tau) g, \quad p \leftarrow p - \eta b
        \quad\text{(Nesterov: } p \leftarrow p - \eta (g + \mu b)\text{)}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
    momentum : float in [0, 1) or callable, default 0
        Without momentum there is no state.
    dampening : float in [0, 1], default 0
        As in PyTorch it does not act on the buffer's first step.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    nesterov : bool, default False
        Needs momentum and no dampening. The form of Sutskever et al. (2013), where p is the point looked ahead to.
    lr_inside : bool, default False
        Whether the rate is inside the buffer: :math:`b \leftarrow \mu b + \eta (1-\tau) g`, :math:`p \leftarrow p - b`
        (Nesterov: :math:`p \leftarrow p - (\mu b + \eta g)`), as in Keras and the survey literature.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    PyTorch has the rate outside of the buffer, as the default here. Keras has it inside, with the opposite sign, and
    ignores Nesterov without momentum, which is an error here. Where the rate stands makes no difference while it is
    constant, but for the buffer, which is then ``lr`` times the other. The textbook form of Nesterov's method takes the
    gradient ahead of p; here p is what is ahead, so that gradients are taken at p. State: ``momentum_buffer``, from the
    first step with a gradient on.
    """

    options = {
        "momentum": checks.scheduled(checks.fraction),
        "dampening": checks.number(0.0, 1.0),
        "nesterov": checks.flag,
        "lr_inside": checks.flag,
    }
    pace = 0
    rules = (
        Rule("sgd", (), sgd, Catch("decay0", 0, 0)),
        Rule("sgd_momentum", ("momentum_buffer",), sgd_momentum, Catch("drift0", 0, 1)),
        Rule("sgd_nesterov", ("momentum_buffer",), sgd_nesterov, Catch("drift0", 0, 1)),
    )
    born_late = frozenset({"momentum_buffer"})

    presets = {
        "keras": {"lr": 1e-2, "lr_inside": True, "decoupled_weight_decay": True},
        "paper": {"lr": 1e-2, "lr_inside": True},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        lr_inside: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            lr_inside=lr_inside,
        )
        super().__init__(params, options, **common)

    @classmethod
    def check_together(cls, o: Mapping[str, Any]) -> None:
        if o.get("nesterov") and (is_zero(o["momentum"]) or o["dampening"] != 0):
            raise HyperParameterError(
                f"nesterov=True needs momentum above 0 and dampening 0, got momentum={o['momentum']}, "
                f"dampening={o['dampening']}"
            )

    @staticmethod
    def rule(o: Mapping[str, Any]) -> str:
        if is_zero(o["momentum"]):
            return "sgd"
        return "sgd_nesterov" if o["nesterov"] else "sgd_momentum"

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        if is_zero(o["momentum"]):
            return (o["lr"],)
        outside, inside = (1.0, o["lr"]) if o["lr_inside"] else (o["lr"], 1.0)
        return outside, o["momentum"], inside * np.where(t == born + 1, 1.0, 1.0 - o["dampening"])

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return 1 if is_zero(o["momentum"]) or o["dampening"] == 0 else born + 2

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        return ""  # coupled decay, too, is linear

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        rate, decoupled = h[SPAN], o["decoupled_weight_decay"]
        couple, keep = h[COUPLE] * (not decoupled), r[SHRINK] if decoupled else np.ones(len(rate))
        if is_zero(o["momentum"]):
            return Gap(keep - rate * couple, loss=1.0 - keep + rate * couple)
        mu, take = r[SPAN + 1], h[SPAN + 2]
        # With g = couple p:  b <- mu b + take g,  p <- p - rate b, or p - rate (take g + mu b).
        back = take * couple
        own, ahead = (back + mu * back, mu * mu) if o["nesterov"] else (back, mu)
        return Gap(keep - rate * own, (), [(mu, -rate * ahead)], back, 1.0 - keep + rate * own)
