"""Linear models of many classes, one against the rest, that keep the weights alone which have ever had a gradient.

With log loss each sample moves the weights of all classes. Hinge losses are 0 beyond a margin: most classes learn nothing from
most samples, and a feature needs no weight for a class that it never moved.
"""

from __future__ import annotations

import functools
import itertools
import threading
from typing import Any

import numpy as np

from .. import kernels
from ..checks import Array, all_finite
from ..errors import UnsupportedError
from ..optimizers import tables
from ..optimizers.base import Optimizer
from . import reference
from .lanes import GROUP, Lane, LaneTrainer, memory
from .samples import SMALLEST_SCALE, zeros

#: Losses whose derivative is exactly 0 beyond a margin.
LOSSES = ("hinge", "squared_hinge", "modified_huber")
#: Lists train faster from so many classes on (`bench/classes.py`), ...
LEAST_CLASSES = 64
#: ... where the records of all classes take so many bytes: beyond the caches. With fewer they save memory alone.
LEAST_BYTES = 1 << 26
MOST_CLASSES = (1 << 16) - GROUP  # classes are uint16 in lists
UNIT = 8  # bytes; of these, places in memory are 32-bit numbers
CHUNK = 1 << 19  # units that are allocated at a time, at most
BOOK, NEEDED = 22, 21  # see kernels/classes.pxi


def stands_still(optimizer: type[Optimizer], options: dict[str, Any], dtype: np.dtype[Any]) -> bool:
    """Whether a gradient of zero moves nothing, whatever the weight and its states are: found by trying.

    Except that a weight of -0 becomes ``-0 - gradient``, which kernels rely on.
    """
    rule = optimizer.rule_of(options)
    if optimizer.carry is not Optimizer.carry:
        return False
    starts = [optimizer.start(name, options) for name in rule.states]
    values = [(0.0, 1.5, -0.7, -0.0), *((start, start + 0.3, start + 2.0) for start in starts), (0.0, -0.0)]
    p, *states, g = np.array(list(itertools.product(*values)), dtype).T.copy()
    want = [np.where((p == 0) & np.signbit(p) & np.signbit(g), dtype.type(0), p), *(s.copy() for s in states)]
    for row in tables.scalar_table(optimizer, {**options, "lr": 0.1}, np.array([1, 2, 1000]), dtype, 0)[0]:
        now = [p.copy(), *(s.copy() for s in states)]
        rule.reference(now[0], g, *now[1:], row[tables.SPAN :])
        if any(a.tobytes() != b.tobytes() for a, b in zip(now, want, strict=True)):
            return False
    return True


def pays(
    n_models: int, n_features: int, dtype: np.dtype[Any], optimizer: type[Optimizer], options: dict[str, Any], loss: str
) -> bool:
    """Whether lists can hold these models, and are likely faster than records of all classes, or those take half the memory."""
    size = n_features * n_models * (1 + len(optimizer.rule_of(options).states)) * dtype.itemsize
    limit = memory()
    faster = n_models >= LEAST_CLASSES and size >= LEAST_BYTES
    return (
        loss in LOSSES
        and n_models <= MOST_CLASSES
        and (faster or (limit is not None and size > limit // 2))
        and stands_still(optimizer, options, dtype)
    )


def by_one(call: Any) -> Any:
    """A method that one thread is in at a time."""

    @functools.wraps(call)
    def locked(self: Any, *args: Any) -> Any:
        with self._lock:
            return call(self, *args)

    return locked


class ClassTrainer(LaneTrainer):
    """A `LaneTrainer` of classes whose features each have a list of the classes that they have a weight for.

    Its weights are those of a `LaneTrainer`, bit for bit. Lists are 4 classes long, or powers of two; a feature that has met
    more than half of the classes has a record of all. Memory for them comes in chunks, before the sample that needs it; a
    `MemoryError` leaves the models as the sample before left them. The NumPy backend has dicts in their place.
    Lists move when they grow, so that threads that read them wait while another one trains.
    """

    def _begin(
        self, n_features: int, fit_intercept: bool, own: list[dict[str, Any]], groups: int, way_out: str
    ) -> None:
        if self.n_models > MOST_CLASSES or self.rates is not None:
            raise UnsupportedError(f"lists hold at most {MOST_CLASSES} classes, all of one learning rate")
        self.start = np.array([self.optimizer.start(name, own[0]) for name in self.rule.states], self.dtype)
        self.n_features, self.turns = n_features, False
        record = self.lanes * (1 + len(self.start)) * self.dtype.itemsize // UNIT
        self._chunk = 1 << max(min(CHUNK, n_features * record // 8), 4 * record, 1 << 11).bit_length()
        self._plan(n_features * UNIT)
        try:
            self.heads = zeros((n_features, 1), np.dtype(np.uint64)).ravel()
        except MemoryError as e:
            raise MemoryError(f"no {n_features * UNIT} bytes for the lists of {n_features} features") from e
        self.chunks: list[Array] = []
        self.book = np.zeros(BOOK, np.int64)
        self.book[0] = 1
        self._lock = threading.RLock()
        self.lists: dict[int, dict[int, Array]] = {}  # of the NumPy backend
        self._bias = np.zeros((1 + len(self.start)) * self.lanes, self.dtype) if fit_intercept else None
        if self.bias is not None:
            self.bias[1:, : self.n_models] = self.start[:, np.newaxis]
        self._found: tuple[Any, tuple[Array, ...]] | None = None
        self._good: tuple[Any, bool] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"} | {"_found": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def _plan(self, more: int) -> None:
        used, limit = sum(chunk.nbytes for chunk in getattr(self, "chunks", ())), memory()
        if limit is not None and used + more > limit:
            raise MemoryError(
                f"the lists of {self.n_models} classes for {self.n_features} features take {used / 1e9:.3g} GB so far and need "
                f"{more / 1e9:.3g} GB more, and there are {limit / 1e9:.3g} GB; hash to fewer features, use float32, or "
                "an optimizer with less state, such as 'sgd'"
            )

    def _grow(self, units: int) -> None:
        """Memory for so many units, wherever they meet the end of a chunk."""
        record = self.lanes * (1 + len(self.start)) * self.dtype.itemsize // UNIT
        count = -(-units // (self._chunk - record))
        self._plan(count * self._chunk * UNIT)
        if (len(self.chunks) + count) * self._chunk > 1 << 32:
            raise MemoryError(f"lists cannot take more than {(1 << 32) * UNIT / 1e9:.3g} GB; hash to fewer features")
        try:
            self.chunks += [zeros((1, self._chunk), np.dtype(np.uint64)).ravel() for _ in range(count)]
        except MemoryError as e:
            raise MemoryError(f"no {count * self._chunk * UNIT} bytes more for the lists of classes") from e

    def _lists(self) -> tuple[Any, ...]:
        return self.heads, self.chunks, self.book, self.start, self.lanes, self.n_models, len(self.start)

    @property
    def nbytes(self) -> int:
        """Of the lists and what finds them."""
        return self.heads.nbytes + sum(chunk.nbytes for chunk in self.chunks)

    def _numbers(self, models: slice = slice(None)) -> list[Any]:
        return []  # no state holds the rate

    def reorder(self, place: Array) -> None:
        raise UnsupportedError("lists keep the order of the features")

    @by_one
    def entries(self) -> tuple[Array, Array, Array]:
        """Features and classes (int32), and weights before scaling and states, a row each."""
        if self.backend == "native":
            count = kernels.drivers.list_entries(self._lists())
            found = (
                np.empty(count, np.int32),
                np.empty(count, np.int32),
                np.empty((count, 1 + len(self.start)), self.dtype),
            )
            kernels.drivers.list_entries(self._lists(), *found)
            return found
        rows = [(f, k, numbers) for f, mine in sorted(self.lists.items()) for k, numbers in mine.items()]
        features, classes, numbers = zip(*rows, strict=True) if rows else ((), (), ())
        return (
            np.array(features, np.int32),
            np.array(classes, np.int32),
            np.array(numbers, self.dtype).reshape(len(rows), 1 + len(self.start)),
        )

    def by_class(self) -> tuple[Array, Array, Array]:
        """Where each class begins, and features and numbers of all entries in the order of the classes."""
        when = (self.version, self.steps)
        if self._found is None or self._found[0] != when:
            features, classes, numbers = self.entries()
            order = np.argsort(classes, kind="stable")
            starts = np.searchsorted(classes[order], np.arange(self.n_models + 1))
            self._found = when, (starts, features[order], numbers[order])
        starts, features, numbers = self._found[1]
        return starts, features, numbers

    def of_class(self, k: int) -> tuple[Array, Array]:
        """The features that class k has entries of, in rising order, and their numbers."""
        starts, features, numbers = self.by_class()
        part = slice(starts[k], starts[k + 1])
        return features[part], numbers[part]

    def weights(self, k: int, features: Any = slice(None)) -> Array:
        found = np.zeros(self.n_features, self.dtype)
        ids, numbers = self.of_class(k)
        found[ids] = numbers[:, 0] * self.dtype.type(self.scale[k])
        return found if isinstance(features, slice) else found[features]

    def numbers_of(self, k: int) -> Array:
        whole = np.zeros((self.n_features, 1 + len(self.start)), self.dtype)
        whole[:, 1:] = self.start
        ids, numbers = self.of_class(k)
        whole[ids] = numbers
        return whole

    def restore(self, k: int, weights: Array, intercept: Array) -> None:
        moved = np.flatnonzero((weights != 0) | np.signbit(weights)).astype(np.int32)
        numbers = np.empty((len(moved), 1 + len(self.start)), self.dtype)
        numbers[:, 0], numbers[:, 1:] = weights[moved], self.start
        self.turns = self.turns or bool((numbers[:, 0] == 0).any())
        self._store(moved, np.full(len(moved), k, np.int32), numbers)
        if self.bias is not None:
            self.bias[0, k] = intercept[0]
        self.fresh, self.version = False, self.version + 1

    @by_one
    def _store(self, features: Array, classes: Array, numbers: Array) -> None:
        if self.backend == "native":
            done = 0
            while done < len(features):
                done += kernels.drivers.store_entries(self._lists(), features[done:], classes[done:], numbers[done:])
                if done < len(features):
                    self._grow(int(self.book[NEEDED]))
            return
        for f, k, own in zip(features.tolist(), classes.tolist(), numbers, strict=True):
            self.lists.setdefault(f, {})[k] = own.copy()

    @by_one
    def is_finite(self, k: int, indices: Array) -> bool:
        when = (self.version, self.steps)
        if self._good is None or self._good[0] != when:
            if self.backend == "native":
                good = kernels.drivers.scale_lists(self._lists(), indices if len(indices) < self.n_features else None)
            else:
                good = all_finite(self.entries()[2][:, 0])
            self._good = when, good
        return self._good[1] and bool(np.isfinite(self.intercept(k)[0]))

    @by_one
    def scores(self, rows: Any, out: Array, column: int, n_threads: int) -> bool:
        """Write the scores of CSR rows into columns of `out`; returns whether all indices are in range."""
        bias = np.zeros(self.n_models, self.dtype) if self.bias is None else self.bias[0, : self.n_models].copy()
        if self.backend != "native":
            used = rows.indices[: rows.indptr[-1]]
            if len(used) and (used.min() < 0 or used.max() >= self.n_features):
                return False
            for k in range(self.n_models):
                reference.row_scores(
                    rows.indptr, rows.indices, rows.data, self.weights(k), float(bias[k]), out[:, column + k]
                )
            return True
        bad = kernels.drivers.class_scores(
            kernels.table[self.dtype.name],
            self._lists(),
            rows.indptr,
            rows.indices,
            rows.data,
            float(self.scale[0]),
            bias,
            out,
            column,
            n_threads,
        )
        return bad < 0

    def train(
        self,
        indptr: Array,
        indices: Array,
        data: Array,
        y: Array,
        order: Array | None,
        n_threads: int = 1,
        weights: Array | None = None,
        look: int | None = None,
    ) -> None:
        """As `LaneTrainer.train`, `y` the model of each sample; losses are not summed."""
        order = np.arange(len(y), dtype=np.int32) if order is None else order
        done, self.fresh, self.version = 0, False, self.version + 1
        while done < len(order):
            done += self._learn(indptr, indices, data, y, weights, order[done:])

    @by_one
    def _learn(self, indptr: Array, indices: Array, data: Array, y: Array, weights: Array | None, order: Array) -> int:
        """Train on some of the samples in `order`; returns on how many."""
        n = self._pieces(0, len(order))
        h, one_row, _ = self._scalars(n)
        scale, shrink = float(self.scale[0]), float(self.shrink[0])
        self.turns = self.turns or scale != 1 or shrink != 1
        part = order[:n]
        rows: tuple[Any, ...] = (indptr, indices, data, y, weights, part)
        rest: tuple[Any, ...] = (n, h, one_row, scale, shrink, self.turns)
        if self.backend == "native":
            n, scale = kernels.drivers.classes(
                kernels.table[self.dtype.name],
                self.rule.span,
                self.loss,
                self.parameter,
                self._lists(),
                self._bias,
                *rows,
                *rest,
            )
        else:
            scale = reference.classes(
                self.rule.reference,
                self.loss,
                self.parameter,
                self.lists,
                np.concatenate([np.zeros(1, self.dtype), self.start]),
                self.bias,
                self.n_models,
                *rows,
                *rest,
            )
        self.scale[: self.n_models] = scale
        if scale < SMALLEST_SCALE:
            self._fold(self.dtype.type(scale))
            self.scale[:] = 1.0
        self.steps += n
        if n < len(part):
            self._grow(int(self.book[NEEDED]))
        return n

    def _fold(self, scale: np.floating[Any]) -> None:
        if self.backend == "native":
            kernels.drivers.scale_lists(self._lists(), None, float(scale))
            return
        for mine in self.lists.values():
            for numbers in mine.values():
                numbers[0] *= scale


class ClassLane(Lane):
    """One of the models of a `ClassTrainer`."""

    group: ClassTrainer

    @property
    def records(self) -> Array:
        """One of each feature, read-only where any part of the lists is."""
        heads = self.group.heads
        if all(chunk.flags.writeable for chunk in self.group.chunks):
            return heads
        heads = heads.view()
        heads.flags.writeable = False
        return heads

    def parameters(self) -> tuple[Array, ...]:
        return self.group.weights(self.k), self.intercept()
