"""Adagrad with one accumulator a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..passes import Pass, Runner
from ..reductions import row_totals
from .base import Catch, Common, Optimizer, Rule
from .tables import SHRINK, Gap, Scalars
from .whole import States, WholePlan


def _rowwise_adagrad(p: Array, g: Array, a: Array, h: Array) -> None:
    keep, rate, eps = h
    wide = g.astype(np.float64)
    a[...] = a + (row_totals(wide * wide) / g.shape[1]).astype(g.dtype)
    p[...] = keep * p - rate * (g / (np.sqrt(a) + eps)[:, np.newaxis])


STEP = Pass("rowwise_adagrad", _rowwise_adagrad)


def rowwise_adagrad(run: Runner, p: Array, g: Array, states: States, h: Array) -> None:
    rows = len(p) if p.ndim else 1
    p, g = p.reshape(rows, -1), g.reshape(rows, -1)
    run(STEP, rows, (p.shape[1],), (p, g, states[0].reshape(rows)), h)


class RowwiseAdagrad(Optimizer):
    r"""Adagrad with one accumulator a row, of the mean square of its gradient: for tables of embeddings (FBGEMM's "exact row-wise
    Adagrad", Mudigere et al. 2021).

    .. math::
        a_i \leftarrow a_i + \frac{1}{n} \sum_{j=1}^n g_{ij}^2, \quad
        p_{ij} \leftarrow p_{ij} - \eta \frac{g_{ij}}{\sqrt{a_i} + \epsilon}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-2
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    initial_accumulator_value : float, default 0
    eps : float, default 1e-8
        Beside the root. At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    A row is all that lies under one index of the first axis; of a 1-D parameter, each element is one, which is Adagrad.
    State: ``sum``, shape ``param.shape[:1]``. PyTorch and Keras have none. ``sparse="exact"`` is the same as lazy, as rows without
    gradients do not move.
    """

    options = {
        "initial_accumulator_value": checks.non_negative,
        "eps": checks.non_negative,
    }
    rules = (Rule("rowwise_adagrad", ("sum",), rowwise_adagrad, Catch("decay0", 0, 0)),)
    passes = (STEP,)
    plan = WholePlan
    for_samples = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-8,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, weight_decay=weight_decay, initial_accumulator_value=initial_accumulator_value, eps=eps)
        super().__init__(params, options, **common)

    @classmethod
    def state_shapes(cls, shape: tuple[int, ...], o: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        return {"sum": shape[:1]}

    @staticmethod
    def start(state: str, o: Mapping[str, Any]) -> float:
        return float(o["initial_accumulator_value"])

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return o["lr"], max(o["eps"], o["tiny"])

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        return why_decay_is_not_exact(o)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK])


def why_decay_is_not_exact(o: Mapping[str, Any]) -> str:
    """Why rules for which a row without gradient stands still have no exact mode with decay, by which it moves."""
    if o["weight_decay"] == 0:
        return ""
    return "rows without gradients would have to decay, which is not caught up; use weight_decay=0 or sparse='lazy'"
