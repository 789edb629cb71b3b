"""A table that owns parameter and state of each row side by side."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from .. import checks
from ..checks import Array
from ..errors import DTypeError, UnsupportedError
from .base import Optimizer, by_name

HUGE_PAGE = 1 << 21
LAST = 4  # bytes of the step after which a row stands, in exact mode


def reserve(size: int) -> tuple[mmap.mmap, int]:
    """Memory of zeros from the system, with the wish for huge pages, and where in it `size` bytes begin on such a page."""
    # Private: memory shared between processes, Python's default, does not get huge pages.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, size + HUGE_PAGE, **private)
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= HUGE_PAGE:
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory, -checks.address(np.frombuffer(memory, np.uint8)) % HUGE_PAGE


class Storage:
    """Memory of records: of each row the parameter, its states, and in exact mode its last step."""

    def __init__(self, rows: int, width: int, dtype: np.dtype[Any], names: Sequence[str], exact: bool) -> None:
        self.names, self.fresh = names, True  # fresh: all zeros
        field = width * dtype.itemsize
        self.used = field * (1 + len(names)) + LAST * exact
        self.pitch = pitch_of(self.used)
        size = rows * self.pitch
        try:
            self.memory, start = reserve(size)
        except (OverflowError, ValueError, OSError) as e:
            raise MemoryError(f"no {size} bytes for a table of {rows} rows, each {self.pitch} bytes wide") from e

        def view(at: int, dtype: Any, shape: tuple[int, ...]) -> Array:
            strides = (self.pitch, dtype.itemsize)[: len(shape)]
            return np.ndarray(shape, dtype, self.memory, start + at, strides)

        try:
            self.param = view(0, dtype, (rows, width))
        except ValueError as e:  # no rows, but too wide for an array
            raise MemoryError(f"rows of {width} elements are more than an array can have") from e
        self.states = {name: view(field * (1 + k), dtype, (rows, width)) for k, name in enumerate(names)}
        self.last = view(self.used - LAST, np.dtype(np.int32), (rows,)) if exact else None


def pitch_of(used: int) -> int:
    """Bytes from record to record: no record of at most a cache line straddles two, no larger one more than it must."""
    return max(8, 1 << (used - 1).bit_length()) if used <= 64 else -(-used // 32) * 32


class Table:
    """A table of rows that owns parameter and optimizer state, those of a row side by side in memory.

    A sparse step then touches one place a row instead of one in each array: one page, one stream to prefetch. The memory
    comes from the system with the wish for huge pages, and rows that are never touched take none.

    Parameters
    ----------
    rows : int
    width : int
        Elements of a row, at least 1.
    optimizer : class or str
        An `Optimizer` class, such as `Adam`, or its name in lower case.
    dtype : dtype, default "float32"
        float32 or float64.
    **options
        Options of the optimizer, such as ``lr`` or ``sparse="exact"``.

    Attributes
    ----------
    optimizer : Optimizer
        The optimizer of the table, whose one parameter is `param`.

    Raises
    ------
    FastoptError
        If an argument does not fit.
    MemoryError
        If there is no memory of that size.

    Notes
    -----
    All rows start as zeros; write what they shall start with into `param`. Results have the bits of an optimizer with
    separate arrays. Options that need another number of states, such as momentum where there was none, cannot be changed
    afterwards. A copy (`copy.deepcopy`, `pickle`) is a table again; PyTorch has nothing of this kind.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> table = fastopt.Table(1_000_000, 8, fastopt.Adagrad, lr=0.1)
    >>> table.step(fastopt.SparseGrad(np.array([3, 7]), np.ones((2, 8), np.float32)))
    >>> table.read(np.array([3, 4]))[:, 0]
    array([-0.1,  0. ], dtype=float32)
    """

    def __init__(self, rows: int, width: int, optimizer: Any, *, dtype: Any = "float32", **options: Any) -> None:
        implied: dict[str, Any] = {}
        if "params" in options:
            raise UnsupportedError("a Table takes no params: it makes its own; write into its .param")
        if isinstance(optimizer, type) and issubclass(optimizer, Optimizer) and optimizer is not Optimizer:
            cls = optimizer
        elif isinstance(optimizer, str):
            cls, implied = by_name(optimizer)
        else:
            raise DTypeError(f"optimizer must be an Optimizer class or its name, got {optimizer!r:.80}")
        if cls.plan is not None:
            raise UnsupportedError(
                f"{cls.__name__} looks at whole rows or matrices, and its states have other shapes than the records of a "
                f"Table have room for; make an array, and {cls.__name__} for it"
            )
        n_rows, n = checks.integer(0)("rows", rows), checks.integer(1)("width", width)
        self._dtype = checks.float_dtype("dtype", dtype)
        # Made once for a small array, which checks the options and tells which states they need.
        options = cls.complete({**implied, **options})
        trial = cls(np.zeros((1, 1), self._dtype), **options)
        names = list(trial._states_of((1, 1), trial.param_groups[0]))
        self._storage = Storage(n_rows, n, self._dtype, names, trial.sparse == "exact")
        self.optimizer = cls.__new__(cls)
        self.optimizer._storage = self._storage
        cls.__init__(self.optimizer, self._storage.param, **options)

    @property
    def param(self) -> Array:
        """The rows, as a strided view of shape (rows, width); stale rows in exact mode, see `catch_up`."""
        return self._storage.param

    @property
    def state(self) -> Mapping[str, Array]:
        """The states by name, as strided views of shape (rows, width)."""
        return MappingProxyType(self._storage.states)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return self.param.shape[0], self.param.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of address space that the records take."""
        return len(self) * self._storage.pitch

    def __len__(self) -> int:
        return len(self.param)

    def __repr__(self) -> str:
        rows, width = self.shape
        return f"Table({rows}, {width}, {type(self.optimizer).__name__}, dtype={self._dtype.name!r})"

    def step(self, grad: Any) -> None:
        """One step with a `SparseGrad`, a SciPy matrix or a dense gradient; see `Optimizer.step`."""
        self.optimizer.step(grad)

    def read(self, rows: Array) -> Array:
        """Current rows, as a new array; see `Optimizer.read`."""
        return self.optimizer.read(0, rows)

    def catch_up(self, rows: Array | None = None) -> None:
        """Exact mode: bring rows up to date; see `Optimizer.catch_up`."""
        self.optimizer.catch_up(0, rows)

    def flush(self) -> None:
        """Exact mode: bring all rows up to date; see `Optimizer.flush`."""
        self.optimizer.flush()

    def resize(self, rows: int) -> None:
        """Give the table another number of rows. Those that stay keep parameter and state; new ones are zeros.

        Views taken before (`param`, `state`, `optimizer.grads`) belong to the old memory afterwards, and new ones must be
        taken. Exact mode brings all rows up to date first.

        Parameters
        ----------
        rows : int

        Raises
        ------
        HyperParameterError, MemoryError
            The table is as it was then.
        """
        n, old, opt = checks.integer(0)("rows", rows), self._storage, self.optimizer
        with opt._still():
            opt._flush()
            opt._copy_late()
            new = Storage(n, self.shape[1], self._dtype, old.names, old.last is not None)
            kept = min(n, len(self))
            new.param[:kept] = old.param[:kept]
            for name, a in new.states.items():
                a[:kept] = old.states[name][:kept]
                a[kept:] = opt._start(name, 0, new.param[kept:])
            opt._storage, opt._params, opt._state, opt._own = new, [new.param], [dict(new.states)], []
            dict.__setitem__(opt.param_groups[0], "params", (new.param,))
            opt._build(*opt._clocks())
        self._storage = new

    def __getstate__(self) -> dict[str, Any]:
        opt = self.optimizer
        with opt._quiet():
            state_dict = opt._state_dict()  # first: it brings all rows up to date
            param = self.param.copy()
        return {
            "class": type(opt),
            "group": opt.param_groups[0].options(),
            "states": list(self._storage.names),
            "arguments": opt._arguments(),
            "state_dict": state_dict,
            "param": param,
            "skipped": opt.skipped,
        }

    def __setstate__(self, s: dict[str, Any]) -> None:
        cls, param, exact = s["class"], s["param"], s["arguments"]["sparse"] == "exact"
        rows, width = param.shape
        self._dtype = param.dtype
        self._storage = Storage(rows, width, self._dtype, s["states"], exact)
        self.param[...] = param
        self.optimizer = cls.__new__(cls)
        self.optimizer._storage = self._storage
        Optimizer.__init__(self.optimizer, [{"params": self.param, **s["group"]}], **s["arguments"])
        self.optimizer._single = True
        self.optimizer.skipped = s["skipped"]
        self.optimizer.load_state_dict(s["state_dict"])
