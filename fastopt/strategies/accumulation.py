"""One step for the gradients of several batches."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import checks
from .. import sparse as sparse_gradients
from ..checkpoint import plain
from ..checks import Array
from ..errors import UnsupportedError
from ..optimizers.base import Optimizer
from ..optimizers.table import Table
from ..sparse import Entries, SparseGrad


class Accumulator:
    """Add up the gradients of several batches, then make one step of the optimizer with them.

    Parameters
    ----------
    optimizer : Optimizer or Table
    steps : int
        Batches for a step, at least 1.
    mean : bool, default True
        Whether the step takes the mean of the gradients, weighted by `weight`; else their weighted sum.

    Notes
    -----
    Sums are formed in the order of the calls, in the dtype of the gradients: weights enter relative to that of the first
    batch, so that equal ones cost no rounding, and the mean is divided once. Keras (``gradient_accumulation_steps``) divides
    once, too; optax keeps a running mean. With one batch, the gradients are handed on as they are. Entries of sparse gradients
    are strung together, in the order of the calls. A parameter that has None in one batch counts there as zeros, unless it has
    None in all.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.zeros(2)
    >>> accumulator = fastopt.strategies.Accumulator(fastopt.SGD(w, lr=1.0), steps=2)
    >>> accumulator.add(np.array([1.0, 0.0])), accumulator.add(np.array([3.0, 0.0]))
    (False, True)
    >>> w
    array([-2.,  0.])
    """

    def __init__(self, optimizer: Optimizer | Table, steps: int, mean: bool = True) -> None:
        self.optimizer = plain(optimizer)
        self.steps = checks.integer(1)("steps", steps)
        self.mean = checks.flag("mean", mean)
        self._buffers: dict[int, Array] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the gradients that wait for their step."""
        #: batches that wait for their step
        self.count = 0
        self._first = self._weight = 0.0
        self._dense: set[int] = set()  # parameters whose sum is in its buffer
        self._entries: dict[int, list[Entries]] = {}

    def add(self, grads: Any, weight: float = 1.0) -> bool:
        """Add the gradients of a batch; say whether that made a step.

        Parameters
        ----------
        grads : array, list or dict
            As `Optimizer.step` takes them. They are copied where they have to wait.
        weight : float, default 1.0
            Above 0: the number of samples, where the gradient is that of a mean over the batch.

        Raises
        ------
        FastoptError
            As `Optimizer.step`. Gradients that do not fit are not added, and those that waited still wait; if it is the step
            that fails, all of them are forgotten.
        """
        weight = checks.number(0.0, closed_low=False)("weight", weight)
        if self.steps == 1 and self.mean:
            self.optimizer.step(grads)
            return True
        found = self._converted(grads)
        self._first = self._first or weight
        factor = weight / self._first
        for i, g in found.items():
            if isinstance(g, Entries):
                self._entries.setdefault(i, []).append(_expanded(g, factor))
            elif i in self._dense:
                self._buffers[i] += g if factor == 1.0 else g * g.dtype.type(factor)
            else:
                self._buffers.setdefault(i, np.empty_like(g))[...] = g if factor == 1.0 else g * g.dtype.type(factor)
                self._dense.add(i)
        self._weight += factor
        self.count += 1
        return self.count == self.steps and self.flush()

    def flush(self) -> bool:
        """Make the step with what is there; say whether there was anything."""
        if not self.count:
            return False
        try:
            self.optimizer.step(self._sums())
        finally:
            self.reset()
        return True

    def _converted(self, grads: Any) -> dict[int, Array | Entries]:
        """The gradients by the places of their parameters, checked."""
        opt = self.optimizer
        given = (grads,) if opt._single else opt._explain_structure(grads)
        found = {i: opt._convert_gradient(i, g) for i, g in enumerate(given) if g is not None}
        for i, g in found.items():
            what = f"gradient of {opt._labels[i]}"
            if isinstance(g, Entries):
                sparse_gradients.check_rows(f"{what}.indices", g.rows, opt._params[i])
                if g.duplicates != "sum":
                    sparse_gradients.check_repeats(f"{what}.indices", g.rows, g.duplicates)
            before = self._entries.get(i)
            by_elements = None if before is None else before[0].columns is not None
            if (isinstance(g, Entries) and i in self._dense) or by_elements not in (None, _by_elements(g)):
                raise UnsupportedError(
                    f"{what} is of another kind than in the batches before (dense, SparseGrad, scipy.sparse); give it the same "
                    "kind in all"
                )
        return found

    def _sums(self) -> Any:
        """What was added up, as `Optimizer.step` takes it."""
        opt, made = self.optimizer, []
        scale = 1.0 / self._weight if self.mean else self._first
        for i, p in enumerate(opt._params):
            g: Any = None
            if i in self._dense:
                g = self._buffers[i]
                if scale != 1.0:
                    g *= g.dtype.type(scale)
            elif i in self._entries:
                parts = self._entries[i]
                rows, values = (np.concatenate([getattr(e, k) for e in parts]) for k in ("rows", "values"))
                values *= values.dtype.type(scale)
                g = _elements(rows, values, parts, p) if parts[0].columns is not None else SparseGrad(rows, values)
            made.append(g)
        return made[0] if opt._single else made if opt._names is None else dict(zip(opt._names, made, strict=True))


def _by_elements(g: Array | Entries) -> bool | None:
    return g.columns is not None if isinstance(g, Entries) else None


def _expanded(g: Entries, factor: float) -> Entries:
    """Entries with a row of values each, multiplied by `factor`; nothing of the caller's is kept."""
    values = g.values if g.bags is None else g.values[g.bags]
    if g.scales is not None:
        values = values * g.scales.reshape(-1, *(1,) * (values.ndim - 1))
    values = values.copy() if factor == 1.0 else values * values.dtype.type(factor)
    return Entries(g.rows.astype(np.int64), values, None if g.columns is None else g.columns.copy())


def _elements(rows: Array, values: Array, parts: list[Entries], p: Array) -> Any:
    """A matrix of SciPy's again, from which these entries were."""
    from scipy.sparse import coo_array

    columns = np.concatenate([e.columns for e in parts if e.columns is not None])
    return coo_array((values, (rows, *np.unravel_index(columns, p.shape[1:]))), shape=p.shape)
