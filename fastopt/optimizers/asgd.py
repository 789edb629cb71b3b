"""Averaged stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .base import Catch, Common, Optimizer, Rule
from .tables import COUPLE, SHRINK, SPAN, Gap, Scalars


def asgd(p: Array, g: Array, ax: Array, h: Array) -> None:
    keep, eta, mu = h
    p[...] = keep * p - eta * g
    ax[...] = p if mu >= 1 else ax + mu * (p - ax)


def raised(x: float, a: float) -> float:
    """``x**a``, which NumPy's power makes differently on different processors; NaN beyond float64, for which the base refuses."""
    try:
        return float(x**a)
    except OverflowError:
        return math.nan


class ASGD(Optimizer):
    r"""Averaged stochastic gradient descent (Polyak and Juditsky 1992), with the rate and the average of Bottou's and PyTorch's.

    .. math::
        p \leftarrow (1 - \lambda\eta_t)\, p - \eta_t g, \quad \mathit{ax} \leftarrow \mathit{ax} + \mu_t (p - \mathit{ax}),
        \quad \eta_t = \frac{\eta}{(1 + \lambda\eta (t-1))^\alpha}, \quad \mu_t = \frac{1}{\max(1, t - 1 - t_0)}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-2
    lambd : float, default 1e-4
        Decay of the parameters; with it the rate falls, too.
    alpha : float, default 0.75
        Power by which the rate falls.
    t0 : float, default 1e6
        The average begins after so many steps; up to then it is the parameter itself.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``, and beside `lambd`.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    PyTorch forms the rate of a step at the end of the one before, so that a rate that is changed or scheduled acts a
    step later there, and keeps rate and share as states. The paper averages from the first step on. Keras has no ASGD.
    State: ``ax``, the average.
    """

    options = {"lambd": checks.non_negative, "alpha": checks.non_negative, "t0": checks.non_negative}
    rules = (Rule("asgd", ("ax",), asgd, Catch("drift0", 0, 1)),)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            lambd=lambd,
            alpha=alpha,
            t0=t0,
            weight_decay=weight_decay,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        fallen = 1.0 + o["lambd"] * o["lr"] * (t - 1)
        eta = o["lr"] / np.array([raised(x, o["alpha"]) for x in fallen.tolist()])
        return 1.0 - o["lambd"] * eta, eta, 1.0 / np.maximum(1.0, t - 1 - o["t0"])

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return None

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        return ""  # coupled decay, too, is linear

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        couple = 0.0 if o["decoupled_weight_decay"] else h[COUPLE]
        keep = r[SPAN] * r[SHRINK] if o["decoupled_weight_decay"] else r[SPAN] - h[SPAN + 1] * couple
        mu = r[SPAN + 2]
        return Gap(keep, (), [(1.0 - mu, 0.0)], mu * keep)
