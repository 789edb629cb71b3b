"""The step of the optimizers that look at whole rows, columns or matrices: a sequence of passes, each of which exists
compiled and in NumPy. A rule is written once, and does not know which of the two it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..checks import Array
from .plan import NumpyPlan
from .reductions import SUMMED, block_sums, blocks_of, fold
from .tables import COUPLE, SHRINK


@dataclass(frozen=True)
class Pass:
    """A pass of the kernels, and the same in NumPy: ``reference(*arrays)``, or ``reference(*arrays, h)``, writes into its
    arrays with the operations of the kernel, every element's and every sum's in the order of the kernel."""

    name: str
    reference: Callable[..., None]


class Runner:
    """Runs passes: compiled, where there is a table of addresses, else in NumPy."""

    def __init__(self, table: Mapping[str, Any] | None, n_threads: int) -> None:
        # By type code: the name of a dtype is composed anew at each request.
        self.table = None if table is None else {np.dtype(name).char: at for name, at in table.items()}
        self.n_threads = n_threads

    def __call__(
        self, one: Pass, items: int, sizes: tuple[int, ...], arrays: tuple[Array, ...], h: Array | None = None
    ) -> None:
        """Run pass `one` over its `items`; the first array, which has the pass's dtype, is what it streams."""
        first = arrays[0]
        if self.table is None:
            one.reference(*arrays, *([] if h is None else [h]))
        elif items:
            address = self.table[first.dtype.char][one.name]
            kernels.drivers.sweep(address, items, first.size, sizes, arrays, h, self.n_threads)


# ----------------------------------------------------------------------------------------------- passes that rules share


def _sum_blocks(x: Array, sums: Array) -> None:
    sums[...] = block_sums(x).T


def _square_blocks(x: Array, sums: Array) -> None:
    wide = x.astype(np.float64)
    sums[...] = block_sums(wide * wide).T


def _fold_sums(sums: Array, total: Array) -> None:
    total[...] = fold(sums)


def _negated(out: Array, g: Array, h: Array) -> None:
    out[...] = -g


def _coupled(out: Array, p: Array, h: Array) -> None:
    out[...] = out + h[0] * p


SUM_BLOCKS = Pass("sum_blocks", _sum_blocks)
SQUARE_BLOCKS = Pass("square_blocks", _square_blocks)
FOLD_SUMS = Pass("fold_sums", _fold_sums)
NEGATED = Pass("negated", _negated)
COUPLED = Pass("coupled", _coupled)
#: what the kernels have for every rule
SHARED = (SUM_BLOCKS, SQUARE_BLOCKS, FOLD_SUMS, NEGATED, COUPLED)


def folded(run: Runner, sums: Array) -> Array:
    """The sums of blocks, shape (blocks, n), added up: shape (n,)."""
    if len(sums) == 1:
        return sums[0]
    total = np.zeros(sums.shape[1])
    if len(sums):
        run(FOLD_SUMS, len(total), sums.shape, (sums, total))
    return total


def row_sums(run: Runner, x: Array, one: Pass = SUM_BLOCKS) -> Array:
    """The sum of each row of the matrix `x`, or with SQUARE_BLOCKS of its squares, in float64."""
    rows, width = x.shape
    sums = np.empty((blocks_of(width, SUMMED), rows))
    run(one, sums.size, (rows, width), (x, sums))
    return folded(run, sums)


def sum_of_squares(run: Runner, x: Array) -> float:
    """The sum of the squares of all elements, in float64."""
    return float(row_sums(run, x.reshape(1, -1), SQUARE_BLOCKS)[0])


# ---------------------------------------------------------------------------------------------------------------- the plan


class WholePlan(NumpyPlan):
    """The plan of optimizers whose rules are sequences of passes.

    The reference of a rule is ``step(run, p, g, states, h)``: it updates the arrays in place, all of them in C order, `g` not
    written. The first of the scalars `h` is what decoupled decay leaves of a parameter, then come those of the rule. With a
    sparse gradient it gets the rows that are touched, in ascending order, as a parameter of their own; states that do not
    lie along the rows it gets whole. Parameters in Fortran order are copied: the bits do not depend on the layout.
    """

    def __init__(self, host: Any, *arguments: Any) -> None:
        super().__init__(host, *arguments)
        self._n_threads = arguments[5]
        self._runner = Runner(None, 0)

    def set_group(
        self, q: int, span: str, n_states: int, negate: bool, couple: bool, shrink: bool, table: Any, law: Any
    ) -> None:
        super().set_group(q, span, n_states, negate, couple, shrink, table, law)
        if self.host.backend == "native":
            self._runner = Runner(table, self._n_threads)

    def step(self, grads: Any, own: bool) -> None:
        if self._runner.table is None:
            super().step(grads, own)
        else:
            kernels.drivers.in_default_state(lambda: NumpyPlan.step(self, grads, own))

    def _update(self, i: int, rows: Array | None, g: Array, h: Array) -> None:
        group = self._groups[self._group_of[i]]
        p, named = self.params[i], self.host._state[i]
        if not g.size:
            return
        arrays = [p, *named.values()]
        if rows is None:
            work = [np.asarray(a, order="C") for a in arrays]
        else:
            order = np.argsort(rows)
            rows, g = rows[order], g[order]
            along = [True, *(self.host.along_rows(name, p.shape) for name in named)]
            work = [a[rows] if by_row else a for a, by_row in zip(arrays, along, strict=True)]
        mine, parts = work[0], work[1:]
        g = self._gradient(group, np.asarray(g, order="C"), mine, h)
        own = h[SHRINK:].copy()
        if not group["shrink"]:
            own[0] = 1
        group["reference"](self._runner, mine, g, parts, own)
        for whole, new in zip(arrays, work, strict=True):
            if new is not whole:
                whole[... if rows is None else rows] = new

    def _gradient(self, group: Mapping[str, Any], g: Array, p: Array, h: Array) -> Array:
        """The gradient after the block operations on it, in memory of its own if there are any."""
        if group["negate"]:
            out = np.empty_like(g)
            self._runner(NEGATED, g.size, (), (out, g), h)
            g = out
        if group["couple"]:
            out = g if group["negate"] else g.copy()
            self._runner(COUPLED, g.size, (), (out, p), h[COUPLE:])
            g = out
        return g


States = Sequence[Array]
