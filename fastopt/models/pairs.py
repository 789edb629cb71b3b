"""Two tables of rows under training by pairs, row and states side by side, and the calls of the driver."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import kernels
from ..checks import Array
from ..errors import NonFiniteError, UnsupportedError
from ..optimizers import tables
from ..optimizers.base import Optimizer
from . import pair_reference
from .pair_reference import Source
from .samples import zeros

#: Elements to which rows are padded, and sums have lanes.
LANES = 16
#: Rows of scalars made at a time; lock-free threads wait for each other in between.
WINDOW = 1 << 16


class PairTrainer:
    """Tables u and v of rows, whose dot products are scores, and the optimizer's states of both.

    Parameters
    ----------
    u, v : array, shapes (n, width) and (m, width)
        The rows at first, float32 or float64; copied.
    optimizer, options
        As `Optimizer.fill_options` makes them.
    loss : str
    targets : int
        Rows of v that a row of u meets at a time.
    fixed : pair of int
        In each table, the column that stays 1; negative: none.
    backend : str
        "native" or "numpy".
    """

    def __init__(
        self,
        u: Array,
        v: Array,
        optimizer: type[Optimizer],
        options: dict[str, Any],
        loss: str,
        targets: int,
        fixed: tuple[int, int],
        backend: str,
    ) -> None:
        self.dtype, self.optimizer, self.options = u.dtype, optimizer, options
        self.rule = optimizer.rule_of(options)
        self.loss, self.targets, self.fixed, self.backend = loss, targets, fixed, backend
        self.dim = u.shape[1]
        self.width = -(-self.dim // LANES) * LANES
        starts = [optimizer.start(s, options) for s in self.rule.states]
        check_stays(optimizer, options, starts)
        self.tables = []
        for rows in (u, v):
            records = zeros((len(rows), self.width * (1 + len(starts))), self.dtype)
            records[:, : self.dim] = rows
            for q, start in enumerate(starts):
                if start:
                    records[:, (1 + q) * self.width : (2 + q) * self.width] = start
            self.tables.append(records)
        self.steps = 0

    def rows(self, table: int) -> Array:
        """The rows of u (0) or v (1), a view."""
        return self.tables[table][:, : self.dim]

    def train(self, source: Source, begin: int, end: int, size: int = 0, n_threads: int = 1) -> tuple[float, int]:
        """Train on the pairs of the places `begin` to `end`, a step for each, or for each `size` of them; returns the sum of
        the losses, and how many pairs there were."""
        total, count = 0.0, 0
        settled = tables.settled(self.optimizer, self.options, 0)
        while begin < end:
            left = math.ceil((end - begin) / size) if size else end - begin
            one_row = settled is not None and self.steps + 1 >= settled
            steps = min(left, WINDOW if settled is None or one_row else min(WINDOW, settled - self.steps - 1))
            stop = min(end, begin + steps * max(size, 1))
            wild = n_threads if not size else 0
            t = np.arange(self.steps + 1, self.steps + 2 + (0 if one_row else steps + wild))
            h = tables.scalar_table(self.optimizer, self.options, t, self.dtype, 0)[0]
            needed = 1 if one_row else steps + max(wild - 1, 0)
            if len(h) < needed:  # a schedule that fails at a later step: let it say so before this one
                tables.scalar_table(self.optimizer, self.options, t[len(h) :], self.dtype, 0)
            common = (source, self.targets, begin, stop, size, h, one_row)
            shape = (self.loss, *self.tables, self.width, self.fixed)
            if self.backend == "native":
                table = kernels.table[self.dtype.name]
                found = kernels.drivers.pairs(table, self.rule.span, len(self.rule.states), *shape, *common, n_threads)
            else:
                found = pair_reference.pairs(self.rule.reference, len(self.rule.states), *shape, *common)
            if not math.isfinite(found[0]):
                raise NonFiniteError("training diverged: the loss is not finite; use a smaller lr")
            total, count = total + found[0], count + found[1]
            self.steps += steps
            begin = stop
        return total, count


def check_stays(optimizer: type[Optimizer], options: dict[str, Any], starts: list[float]) -> None:
    """Raise if a rule derives parameters from its states alone: it would forget where the rows began."""
    p, g = np.full(1, 0.5), np.zeros(1)
    states = [np.full(1, start) for start in starts]
    h = tables.scalar_table(optimizer, options, np.arange(1, 3), p.dtype, 0)[0][0, tables.SPAN :]
    with np.errstate(all="ignore"):
        optimizer.rule_of(options).reference(p, g, *states, h)
    if p[0] != 0.5:
        raise UnsupportedError(
            f"{optimizer.__name__} moves rows without a gradient away from where they began, which embeddings cannot "
            "bear; choose another optimizer, such as 'sgd', 'adagrad' or 'adam'"
        )
