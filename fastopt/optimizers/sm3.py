"""SM3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..passes import Pass, Runner
from ..reductions import STACKED, SUMMED, blocks_of, larger, largest, smaller
from .base import Catch, Common, Optimizer, Rule
from .rowwise_adagrad import why_decay_is_not_exact
from .tables import SHRINK, Gap, Scalars, is_zero
from .whole import States, WholePlan


def _sm3(
    p: Array, g: Array, row: Array, column: Array, row_largest: Array, column_largest: Array, *rest: Array
) -> None:
    *momentum, h = rest
    keep, rate, eps = h[:3]
    v = smaller(row[:, np.newaxis], column) + g * g
    x = g / np.sqrt(v + eps)
    for m in momentum:
        m[...] = h[3] * m + h[4] * x
        x = m
    p[...] = keep * p - rate * x
    # The tiles are the kernels' own affair: the first takes it all.
    row_largest[...] = largest(v, (1,))
    column_largest[...] = largest(v, (0,))


def _fold_largest(x: Array, out: Array) -> None:
    out[...] = larger(out, largest(x, (0,)))


STEP = Pass("sm3", _sm3)
WITH_MOMENTUM = Pass("sm3_momentum", _sm3)
FOLD_LARGEST = Pass("fold_largest", _fold_largest)


def sm3(run: Runner, p: Array, g: Array, states: States, h: Array) -> None:
    axes = max(p.ndim, 1)
    accumulators, momentum = states[:axes], states[axes:]
    shape = p.shape or (1,)
    columns = shape[-1]
    rows = math.prod(shape[:-1])
    # The bound of each row of the matrix (all axes but the last, the last).
    bound = accumulators[0] if axes == 2 else np.full(shape[:-1], np.inf, p.dtype)
    if axes > 2:
        for k, a in enumerate(accumulators[:-1]):
            bound = smaller(bound, a.reshape([-1 if k == axis else 1 for axis in range(axes - 1)]))
    across, down = blocks_of(columns, SUMMED), blocks_of(rows, STACKED)
    row_largest, column_largest = np.empty((across, rows), p.dtype), np.empty((down, columns), p.dtype)
    flat = [a.reshape(rows, columns) for a in (p, g, *momentum)]
    run(
        WITH_MOMENTUM if momentum else STEP,
        across * down,
        (rows, columns),
        (*flat[:2], bound.reshape(rows), accumulators[-1].reshape(columns), row_largest, column_largest, *flat[2:]),
        h,
    )
    # No accumulator ever falls: some element of each slice stands as high as it does. So the largest of the elements seen,
    # be they all or those of some rows, and the accumulator itself are the new one.
    run(FOLD_LARGEST, columns, (down, columns), (column_largest, accumulators[-1].reshape(columns)))
    if axes == 2:
        run(FOLD_LARGEST, rows, (across, rows), (row_largest, accumulators[0]))
    elif axes > 2:
        highest = largest(row_largest, (0,)).reshape(shape[:-1])
        for k, a in enumerate(accumulators[:-1]):
            a[...] = larger(a, largest(highest, tuple(axis for axis in range(axes - 1) if axis != k)))


class SM3(Optimizer):
    r"""SM3-II (Anil, Gupta, Koren and Singer 2019): Adagrad with an accumulator for each index of each axis.

    .. math::
        \nu_{ij} &= \min(r_i, c_j) + g_{ij}^2, \quad r_i \leftarrow \max_j \nu_{ij}, \quad c_j \leftarrow \max_i \nu_{ij} \\
        m &\leftarrow \mu m + (1-\mu) \frac{g}{\sqrt{\nu + \epsilon}}, \quad p \leftarrow p - \eta m

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 0.1
    momentum : float in [0, 1) or callable, default 0
    eps : float, default 1e-30
        Inside the root. At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    State: ``accumulator_0``, ``accumulator_1`` and so on, one for each axis with its length (the minimum is over all of
    them); with momentum ``momentum_buffer``. PyTorch and Keras have no SM3. ``sparse="exact"`` without momentum is the same
    as lazy, as a zero gradient changes nothing; with momentum there is none.
    """

    options = {
        "momentum": checks.scheduled(checks.fraction),
        "eps": checks.non_negative,
    }
    # As of a matrix; see state_shapes.
    rules = (
        Rule("sm3", ("accumulator_0", "accumulator_1"), sm3, Catch("decay0", 0, 0)),
        Rule("sm3_momentum", ("accumulator_0", "accumulator_1", "momentum_buffer"), sm3),
    )
    passes = (STEP, WITH_MOMENTUM, FOLD_LARGEST)
    plan = WholePlan
    for_samples = False

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        momentum: float = 0.0,
        eps: float = 1e-30,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, eps=eps, weight_decay=weight_decay), **common)

    @classmethod
    def state_shapes(cls, shape: tuple[int, ...], o: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {f"accumulator_{k}": (n,) for k, n in enumerate(shape)}
        found = found or {"accumulator_0": shape}
        return {**found, "momentum_buffer": shape} if not is_zero(o["momentum"]) else found

    @classmethod
    def along_rows(cls, state: str, shape: tuple[int, ...]) -> bool:
        return state in ("accumulator_0", "momentum_buffer")

    @staticmethod
    def rule(o: Mapping[str, Any]) -> str:
        return "sm3" if is_zero(o["momentum"]) else "sm3_momentum"

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        both = () if is_zero(o["momentum"]) else (o["momentum"], 1.0 - o["momentum"])
        return o["lr"], max(o["eps"], o["tiny"]), *both

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        return why_decay_is_not_exact(o)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK])
