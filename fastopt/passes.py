"""Passes of the kernels over whole matrices: each exists compiled and in NumPy. Who runs a sequence of them is written once, and
does not know which of the two it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import kernels
from .checks import Array


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
