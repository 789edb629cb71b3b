"""Adadelta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .base import Catch, Common, Optimizer, Rule
from .tables import SHRINK, SPAN, Gap, Scalars


def adadelta(p: Array, g: Array, v: Array, u: Array, h: Array) -> None:
    lr, keep, take, eps = h
    v[...] = keep * v + take * (g * g)
    d = np.sqrt(u + eps) / np.sqrt(v + eps) * g
    p[...] = p - lr * d
    u[...] = keep * u + take * (d * d)


class Adadelta(Optimizer):
    r"""Adadelta (Zeiler 2012).

    .. math::
        v \leftarrow \rho v + (1-\rho) g^2, \quad d = \frac{\sqrt{u+\epsilon}}{\sqrt{v+\epsilon}}\, g, \quad
        p \leftarrow p - \eta d, \quad u \leftarrow \rho u + (1-\rho) d^2

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1.0
        The paper has no rate, which is 1.0; Keras's default is 0.001.
    rho : float in [0, 1), default 0.9
    eps : float, default 1e-6
        At least the smallest normal number of the dtype is used.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    The rule is that of PyTorch, of Keras and of the paper; the last two have other constants, and the paper no rate.
    State: ``square_avg``, ``acc_delta``.
    """

    options = {"rho": checks.fraction, "eps": checks.non_negative}
    pace = 0
    rules = (Rule("adadelta", ("square_avg", "acc_delta"), adadelta, Catch("decay2", 2, 0)),)

    presets = {
        "keras": {"lr": 1e-3, "rho": 0.95, "eps": 1e-7, "decoupled_weight_decay": True},
        "paper": {"rho": 0.95},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            rho=rho,
            eps=eps,
            weight_decay=weight_decay,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return o["lr"], o["rho"], 1.0 - o["rho"], max(o["eps"], o["tiny"])

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        rho = r[SPAN + 1]
        return Gap(r[SHRINK], (rho, rho))
