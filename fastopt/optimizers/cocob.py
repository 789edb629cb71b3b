"""COCOB, which needs no learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .base import Catch, Common, Optimizer, Rule
from .tables import SHRINK, Gap, Scalars


def bet(sum: Array, total: Array, most: Array, reward: Array, alpha: Any) -> Array:
    under, least = total + most, alpha * most
    return np.asarray(sum / np.where(under >= least, under, least) * ((most + reward) / most))


def cocob(p: Array, g: Array, sum: Array, total: Array, most: Array, reward: Array, h: Array) -> None:
    lr, alpha = h
    old, size = bet(sum, total, most, reward, alpha), np.abs(g)
    most[...] = np.where(most >= size, most, size)
    total[...] = total + size
    r = reward + old * g
    reward[...] = np.where(r < 0, h.dtype.type(0), r)
    sum[...] = sum + g
    p[...] = p - lr * (bet(sum, total, most, reward, alpha) - old)


class COCOB(Optimizer):
    r"""Continuous coin betting, algorithm COCOB-Backprop (Orabona and Tommasi 2017), which needs no learning rate.

    .. math::
        L \leftarrow \max(L, |g|), \quad G \leftarrow G + |g|, \quad R \leftarrow \max(R - u g,\, 0), \quad
        \theta \leftarrow \theta + g, \quad
        u' = -\frac{\theta}{L \max(G + L, \alpha L)} (L + R), \quad p \leftarrow p + \eta (u' - u)

    where u, the bet, is made of the states before the step, and u' of those after it.

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1.0
        Scale of the bets; 1 is the paper's algorithm.
    alpha : float, default 100
        Holds the first bets down.
    eps : float, default 1e-8
        What L starts from, so that 0/0 cannot arise; at least the smallest normal number of float32 is used.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    The paper's parameter is its start plus the bet; here it moves by the bet's change, which does not need the start,
    and lets parameters that are set in between stay where they were put. The paper starts L at 0. PyTorch and Keras
    have no COCOB. State: ``sum_grad`` (theta, the paper's with the other sign), ``sum_abs_grad`` (G), ``max_abs_grad``
    (L), ``reward`` (R).
    """

    options = {"alpha": checks.non_negative, "eps": checks.non_negative}
    rules = (
        Rule(
            "cocob",
            ("sum_grad", "sum_abs_grad", "max_abs_grad", "reward"),
            cocob,
            Catch("decay0", 0, 0),
            merge=("sum", "sum", "sum", "max", "mean"),
        ),
    )

    def __init__(
        self, params: Any, lr: float = 1.0, alpha: float = 100.0, eps: float = 1e-8, **common: Unpack[Common]
    ) -> None:
        super().__init__(params, dict(lr=lr, alpha=alpha, eps=eps), **common)

    @staticmethod
    def start(state: str, o: Mapping[str, Any]) -> float:
        return float(max(o["eps"], np.finfo(np.float32).tiny)) if state == "max_abs_grad" else 0.0

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return o["lr"], o["alpha"]

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK])
