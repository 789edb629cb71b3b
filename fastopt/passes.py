"""Passes of the kernels over whole matrices: each exists compiled and in NumPy. Who runs a sequence of them is written once, and
does not know which of the two it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import kernels
from .checks import Array
from .reductions import SUMMED, block_sums, blocks_of, folded_blocks


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
            with np.errstate(all="ignore"):  # the kernels warn of nothing, either
                one.reference(*arrays, *([] if h is None else [h]))
        elif items:
            address = self.table[first.dtype.char][one.name]
            kernels.drivers.sweep(address, items, first.size, sizes, arrays, h, self.n_threads)


# ------------------------------------------------------------------------------------------------------------------ sums


def _sum_blocks(x: Array, sums: Array) -> None:
    sums[...] = block_sums(x).T


def _square_blocks(x: Array, sums: Array) -> None:
    wide = x.astype(np.float64)
    sums[...] = block_sums(wide * wide).T


def _fold_sums(sums: Array, total: Array) -> None:
    total[...] = folded_blocks(sums)


SUM_BLOCKS = Pass("sum_blocks", _sum_blocks)
SQUARE_BLOCKS = Pass("square_blocks", _square_blocks)
FOLD_SUMS = Pass("fold_sums", _fold_sums)
SUMS = (SUM_BLOCKS, SQUARE_BLOCKS, FOLD_SUMS)


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
