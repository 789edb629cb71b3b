"""Lion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from .. import checks
from ..checks import Array
from .base import Catch, Common, Optimizer, Rule
from .signsgd import sign, sign_fades
from .tables import SHRINK, SPAN, Gap, Scalars


def lion(p: Array, g: Array, m: Array, h: Array) -> None:
    lr, keep1, take1, keep2, take2 = h
    p[...] = p - lr * sign(keep1 * m + take1 * g)
    m[...] = keep2 * m + take2 * g


class Lion(Optimizer):
    r"""Evolved sign momentum (Chen et al. 2023).

    .. math::
        p \leftarrow p\,(1 - \eta\lambda) - \eta \operatorname{sign}(\beta_1 m + (1-\beta_1) g), \quad
        m \leftarrow \beta_2 m + (1-\beta_2) g

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-4
    betas : pair of floats in [0, 1), default (0.9, 0.99)
    weight_decay : float or callable, default 0
        Always decoupled.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    Keras has the paper's rule, with a rate ten times as large; PyTorch has no Lion. The sign of 0 is 0, that of NaN is
    NaN. A dense step moves rows without gradients by the full rate for ever, and ``sparse="exact"`` does what dense
    steps do; ``sparse="lazy"`` is the sensible mode for embeddings. State: ``exp_avg``.
    """

    options = {"betas": checks.pair(checks.fraction)}
    fixed = {"decoupled_weight_decay": True}
    pace = 0
    rules = (Rule("lion", ("exp_avg",), lion, Catch("sign", 1, 1)),)
    presets = {"keras": {"lr": 1e-3}, "paper": {}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay), **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2 = o["betas"]
        return o["lr"], beta1, 1.0 - beta1, beta2, 1.0 - beta2

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        return sign_fades(f"betas={o['betas']}", min(o["betas"]))

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK], (r[SPAN + 3],), [(1.0, -h[SPAN])])
