"""A linear model under training: one record for each feature, weight and states side by side, and the calls of the driver."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..checks import Array, all_finite
from ..csr import longest_row
from ..errors import HyperParameterError, NonFiniteError, UnsupportedError
from ..optimizers import table, tables
from ..optimizers.base import Optimizer
from . import reference

#: Below this the common scale of the weights is multiplied into them, long before its reciprocal overflows a float32.
SMALLEST_SCALE = 2.0**-40
#: Rows of scalars made at a time, at most and at least.
WINDOW, AHEAD = 1 << 16, 64
#: What the common scale may shrink to before lock-free threads wait for each other.
DRIFT = 0.9
#: Lock-free threads train their own copies of the most frequent features. Those before the first number, and after that of
#: the tier above, are merged when all threads together have had so many samples as the second says. The hottest move most,
#: and must not part for long.
TIERS = ((256, 128), (1024, 512), (4096, 2048), (16384, 4096))
#: A tier pays if a thread meets its features at least so often, on average, from merge to merge.
TOUCHES = 0.25
#: Of so many indices the frequencies are estimated.
LOOK_AT = 1 << 19
#: Fewer indices than this are not worth an order of the features.
WORTH = 1 << 12


def zeros(shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
    """As NumPy's, on huge pages where that is large."""
    size = shape[0] * shape[1] * dtype.itemsize
    if size < table.HUGE_PAGE:
        return np.zeros(shape, dtype)
    try:
        memory, start = table.reserve(size)
    except (OverflowError, ValueError, OSError) as e:
        raise MemoryError(f"no {size} bytes for the weights and states of {shape[0]} features") from e
    return np.ndarray(shape, dtype, memory, start)


def new_order(visits: Array, draw: np.random.Generator) -> Array:
    """The rows `visits` (int32) in a new order."""
    order, seed = visits.copy(), int(draw.integers(2**63))
    (reference if kernels.drivers is None else kernels.drivers).shuffle(order, seed)
    return order


def at_once(n: int, scales: Iterable[tuple[float, float]], settled: int | None, steps: int) -> int:
    """How many of `n` samples a driver can take in a call that follows `steps` samples.

    Until a scale is small, of which each shrinks by its factor; until the scalars settle, which they do at step `settled`, if
    ever; and while they have not, no more than a window of them.
    """
    for scale, shrink in scales:
        if shrink < 1:
            n = min(n, math.ceil((math.log(SMALLEST_SCALE) - math.log(scale)) / math.log(shrink)))
    if settled is None or steps + 1 < settled:
        n = min(n, WINDOW)
        if settled is not None:
            n = min(n, settled - steps - 1)
    return max(n, 1)


def carry(
    optimizer: type[Optimizer], numbers: Sequence[Sequence[Array]], options: dict[str, Any], was: Any, lr: Any
) -> None:
    """Change states that hold the rate `was`, so that parameters stand still at the rate `lr`.

    `numbers`: views, of parameters and their states, and others and theirs. Where `was` is infinite the states know nothing
    of the parameters.
    """
    if optimizer.carry is not Optimizer.carry and not callable(lr) and not callable(was) and lr != was and lr * was > 0:
        for p, *states in numbers:
            optimizer.carry(p, states, {**options, "lr": was}, lr)


def shrinking(lr: Any, l2: float) -> float:
    """What a step of the l2 penalty multiplies weights by; raises where it cannot be."""
    if callable(lr) and l2 != 0:
        raise UnsupportedError(f"lr={lr!r} follows a schedule, which l2 does not; use l2=0, or a number for lr")
    shrink = 1.0 if callable(lr) else 1.0 / (1.0 + lr * l2)
    if not shrink > 0:
        raise HyperParameterError(f"lr * l2 = {lr * l2} is too large")
    return shrink


class SampleTrainer:
    """Weights and optimizer state of a linear model, and what trains them sample by sample.

    A weight is its record's first number times a scale that all features share: the proximal step of the l2 penalty,
    ``w / (1 + lr * l2)`` for every feature at every sample, is one multiplication of that scale. So features that a
    sample does not have cost nothing, and are exact whenever they are read.
    """

    def __init__(
        self,
        n_features: int,
        dtype: np.dtype[Any],
        optimizer: type[Optimizer],
        options: dict[str, Any],
        loss: str,
        parameter: float,
        l2: float,
        fit_intercept: bool,
        backend: str,
    ) -> None:
        self.dtype, self.loss, self.parameter, self.backend = np.dtype(dtype), loss, parameter, backend
        self.name = self.dtype.name  # NumPy takes long to find it
        self.optimizer, self.options = optimizer, options
        self.rule = optimizer.rule_of(options)
        n_states = len(self.rule.states)
        stride = 1 << n_states.bit_length() if n_states else 1  # a power of two: a record never straddles a cache line
        laws = self.rule.merge or ("sum",) + ("mean",) * n_states
        self.laws = laws + ("sum",) * (stride - len(laws))
        start = [0.0, *(optimizer.start(s, options) for s in self.rule.states)]
        self.records = zeros((n_features, stride), self.dtype)
        self.bias = np.zeros(stride, self.dtype) if fit_intercept else None
        for k, value in enumerate(start):
            if value:
                self.records[:, k] = value
                if self.bias is not None:
                    self.bias[k] = value
        self.steps = 0
        self.scale = 1.0
        self.place: Array | None = None  # which record is a feature's; None: its own
        self.hot: list[float] = []  # how often the features of each tier are in a sample, on average
        self._fresh = True  # the records are all the same
        self._weights: tuple[int, Array] | None = None  # and the number of steps after which they were these
        self.set_rate(options["lr"], l2)

    def set_rate(self, lr: Any, l2: float) -> None:
        """Train on with this learning rate, or schedule of the sample's number, and penalty."""
        shrink = shrinking(lr, l2)
        carry(self.optimizer, self._numbers(), self.options, self.options["lr"], lr)
        self.options, self.shrink = {**self.options, "lr": lr}, shrink
        self._settled = tables.settled(self.optimizer, self.options, 0)
        self._ahead: tuple[int, Array] | None = None  # the first step of a table of scalars, and the table

    def _numbers(self) -> list[Sequence[Array]]:
        """Weights and their states, and those of the intercept: views."""
        count = 1 + len(self.rule.states)
        return [list(np.atleast_2d(a).T[:count]) for a in (self.records, self.bias) if a is not None]

    def restore(self, weights: Array, intercept: Array) -> None:
        """Set the parameters of a new trainer; the optimizer's state is at its start."""
        self.records[:, 0] = weights
        if self.bias is not None:
            self.bias[0] = intercept[0]
        carry(self.optimizer, self._numbers(), self.options, math.inf, self.options["lr"])
        self._fresh, self._weights = False, None

    def weights(self) -> Array:
        """The weights, as an array that is made once after each training."""
        steps, kept = self.steps, self._weights
        if kept is None or kept[0] != steps:  # where another thread trains meanwhile, these are soon not the last
            kept = self._weights = steps, self._made_weights()
            kept[1].flags.writeable = False
        return kept[1]

    def _made_weights(self) -> Array:
        records: Array = self.records[:, 0] if self.place is None else self.records[self.place, 0]
        return records * self.dtype.type(self.scale)

    def _kept_weights(self) -> Array | None:
        kept = self._weights
        return kept[1] if kept is not None and kept[0] == self.steps else None

    def weights_of(self, features: Array) -> Array:
        """The weights of these features, which are in range, without making the others."""
        if (kept := self._kept_weights()) is not None:
            found: Array = kept[features]
            return found
        places = features if self.place is None else self.place[features]
        found = self.records[places, 0] * self.dtype.type(self.scale)
        return found

    def intercept(self) -> Array:
        """Shape (1,)."""
        return np.zeros(1, self.dtype) if self.bias is None else self.bias[:1].copy()

    def parameters(self) -> tuple[Array, ...]:
        """The weights, and the intercept, shape (1,)."""
        return self.weights(), self.intercept()

    def is_finite(self, indices: Array) -> bool:
        """Whether the weights are, of which only those of the features in `indices` have moved."""
        if kernels.drivers is not None and len(indices) < len(self.records):
            return kernels.drivers.finite(self.records, indices)
        return all_finite(self.records[:, 0])

    def renumber(self, indices: Array, n_rows: int, n_threads: int) -> None:
        """Write the records' numbers over the indices of `n_rows` rows, which `train` is then given.

        Before the first pass of several threads the features are ordered by their frequency: then hot records lie
        together, and threads can have their own.
        """
        n_features = len(self.records)
        if self.backend != "native":
            return
        if self.place is None and n_threads > 1 and len(indices) >= max(WORTH, n_features // 8):
            self._rank(indices, n_rows)
        if self.place is not None:
            kernels.drivers.renumber(indices, self.place, n_threads)

    def follow(self, other: SampleTrainer) -> None:
        """Take the order of the features of `other`, which has just renumbered the indices that both train on."""
        if self.place is None and other.place is not None:
            self.hot = other.hot
            self._reorder(other.place)

    def _rank(self, indices: Array, n_rows: int) -> None:
        place = np.empty(len(self.records), np.int32)
        ends = [min(end, len(place)) for end, _ in TIERS]
        hits, looked = kernels.drivers.by_frequency(indices, place, ends, LOOK_AT)
        self._reorder(place)
        self.hot, begin, before = [], 0, 0
        for end, hit in zip(ends, hits, strict=True):
            self.hot.append((hit - before) * len(indices) / (looked * n_rows * max(end - begin, 1)))
            begin, before = end, hit

    def _reorder(self, place: Array) -> None:
        if not self._fresh:
            records = np.empty_like(self.records)
            records[place] = self.records
            self.records = records
        self.place = place

    def _tiers(self, n: int, n_threads: int) -> list[tuple[int, int]]:
        """The tiers that pay where threads meet after `n` samples: where each ends, and how often a thread merges it."""
        tiers = []
        for (end, all_threads), frequency in zip(TIERS, self.hot, strict=False):
            # Averages cost more to merge, and Adam's weights gain nothing by it.
            all_threads = 2 * all_threads if "mean" in self.laws else all_threads
            every = 1 << max(1, all_threads // n_threads).bit_length() - 1
            if every * frequency < TOUCHES or every * n_threads > n:
                break
            tiers.append((min(end, len(self.records)), every))
        return tiers or [(0, 1 << max(1, TIERS[0][1] // n_threads).bit_length() - 1)]

    def train(
        self,
        indptr: Array,
        indices: Array,
        data: Array,
        y: Array,
        order: Array | None,
        n_threads: int = 1,
        weights: Array | None = None,
    ) -> None:
        """One pass over the rows in `order`; `weights` multiply the derivatives of their samples' losses."""
        total = len(y) if order is None else len(order)
        longest = longest_row(indptr)
        if order is None and total:
            order = np.arange(total, dtype=np.int32) if n_threads > 1 or self._pieces(0, total) < total else None
        piece = self._until_drift(total)
        done, self._weights, self._fresh = 0, None, False
        while done < total:
            n = self._pieces(done, total)
            h, one_row = self._scalars(n, n_threads)
            part = None if order is None else order[done : done + n]
            if self.backend == "native":
                self.scale = kernels.drivers.samples(
                    kernels.table[self.name],
                    self.rule.span,
                    len(self.rule.states),
                    self.loss,
                    self.parameter,
                    self.records,
                    self.bias,
                    self.records.shape[1],
                    indptr,
                    indices,
                    data,
                    y,
                    weights,
                    part,
                    n,
                    longest,
                    h,
                    one_row,
                    self.scale,
                    self.shrink,
                    n_threads,
                    self.laws,
                    self._tiers(min(piece, n), n_threads) if n_threads > 1 else (),
                    piece,
                )
            else:
                self.scale = reference.samples(
                    self.rule.reference,
                    len(self.rule.states),
                    self.loss,
                    self.parameter,
                    self.records,
                    self.bias,
                    indptr,
                    indices,
                    data,
                    y,
                    weights,
                    part,
                    n,
                    h,
                    one_row,
                    self.scale,
                    self.shrink,
                )
            self._passed(n)
            done += n
        self._check_intercept()

    def _passed(self, steps: int) -> None:
        """Count steps that the driver has made, and fold the scale into the weights where it is small."""
        self.steps += steps
        if self.scale < SMALLEST_SCALE:
            self._fold(self.dtype.type(self.scale))
            self.scale = 1.0

    def _fold(self, scale: np.floating[Any]) -> None:
        self.records[:, 0] *= scale

    def _check_intercept(self) -> None:
        if self.bias is not None and not math.isfinite(self.bias[0]):
            raise NonFiniteError(
                "training diverged: the intercept is not finite; use a smaller lr, or scale the features"
            )

    def _until_drift(self, total: int) -> int:
        """Samples until the scale has shrunk so far that lock-free threads wait for each other."""
        return max(1, int(math.log(DRIFT) / math.log(self.shrink))) if self.shrink < 1 else total

    def _pieces(self, done: int, total: int) -> int:
        """How many samples the next call of the driver takes: until the scale is small, or the scalars settle."""
        return at_once(total - done, [(self.scale, self.shrink)], self._settled, self.steps)

    def _scalars(self, n: int, n_threads: int) -> tuple[Array, bool]:
        first, settled = self.steps + 1, self._settled
        one_row = settled is not None and first >= settled
        needed = 1 if one_row else n + n_threads - 1
        if self._ahead is not None:
            start, h = self._ahead
            start = first if settled is not None and one_row and start >= settled else start
            if start <= first and first + needed <= start + len(h):
                return h[first - start :], one_row
        # A schedule is not asked before its time.
        more = 0 if one_row else n + n_threads if tables.following(self.options) else max(n + n_threads, AHEAD)
        t = np.arange(first, first + 1 + more)
        h = tables.scalar_table(self.optimizer, self.options, t, self.dtype, 0)[0]
        if len(h) < needed:  # a schedule that fails at a later sample: let it say so before this one
            tables.scalar_table(self.optimizer, self.options, t[len(h) :], self.dtype, 0)
        self._ahead = (first, h) if len(h) <= AHEAD + 1 else None
        return h, one_row
