"""SignSGD and Signum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .base import Catch, Common, Optimizer, Rule
from .tables import SHRINK, SPAN, Gap, Scalars


def sign(x: Array) -> Array:
    """-1 or 1; zero and NaN stay as they are."""
    one = x.dtype.type(1)
    return np.where(x > 0, one, np.where(x < 0, -one, x))


def signsgd(p: Array, g: Array, h: Array) -> None:
    p[...] = p - h[0] * sign(g)


def signum(p: Array, g: Array, b: Array, h: Array) -> None:
    lr, keep, take = h
    b[...] = keep * b + take * g
    p[...] = p - lr * sign(b)


class SignSGD(Optimizer):
    r"""Sign descent (Bernstein et al. 2018).

    .. math::
        p \leftarrow p - \eta \operatorname{sign}(g)

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
    weight_decay : float or callable, default 0
        Coupled (added to the gradient, before the sign), unless ``decoupled_weight_decay``.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    The sign of 0 is 0, that of NaN is NaN. Gradients must be of batches: those of single samples say nothing of sizes
    here. PyTorch and Keras have no SignSGD; the paper's vote among workers is not part of it. There is no state.
    """

    pace = 0
    rules = (Rule("signsgd", (), signsgd, Catch("decay0", 0, 0)),)
    presets = {"paper": {}}

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0, **common: Unpack[Common]) -> None:
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay), **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return (o["lr"],)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK])


class Signum(Optimizer):
    r"""Sign descent with momentum (Bernstein et al. 2018).

    .. math::
        b \leftarrow \mu b + (1-\mu) g, \quad p \leftarrow p - \eta \operatorname{sign}(b)

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
    momentum : float in [0, 1) or callable, default 0.9
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    The sign of 0 is 0, that of NaN is NaN. A dense step moves rows without gradients by the full rate for ever, and
    ``sparse="exact"`` does what dense steps do; ``sparse="lazy"`` is the sensible mode for embeddings. PyTorch and
    Keras have no Signum; the paper's vote among workers is not part of it. State: ``momentum_buffer``.
    """

    options = {"momentum": checks.scheduled(checks.fraction)}
    pace = 0
    rules = (Rule("signum", ("momentum_buffer",), signum, Catch("sign", 1, 1)),)
    presets = {"paper": {}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay), **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return o["lr"], o["momentum"], 1.0 - o["momentum"]

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        if callable(o["momentum"]):
            return (
                "a momentum that follows a schedule may let a row's momentum underflow; use a number or sparse='lazy'"
            )
        return sign_fades(f"momentum={o['momentum']}", o["momentum"]) or super().why_not_exact(o)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK], (r[SPAN + 1],), [(1.0, -h[SPAN])])


def sign_fades(what: str, least: float) -> str:
    """Why a momentum that decays by `least` has no exact sparse mode; empty where it has one."""
    if least > 0.5:
        return ""
    return (
        f"{what} lets the momentum of a row without gradients underflow to 0, so that it stops at some step; use more than "
        "0.5, with which it never does, or sparse='lazy'"
    )
