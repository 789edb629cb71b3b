"""In which order an epoch takes the samples: pure functions of a seed and the number of the epoch."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from .. import checks
from ..checks import Array
from ..errors import DTypeError, HyperParameterError, IndexRangeError, NonFiniteError, ShapeError

MOST_SEED = 2**64 - 1
MOST_SIZE = 2**62  # of a batch


class Order(Protocol):
    """What `train` takes as `order`: an object with this method, and a repr that says all that it depends on."""

    def indices(self, n: int, epoch: int) -> Array:
        """Which of `n` samples epoch `epoch` (from 0) takes, one after the other: integers, shape (m,)."""


def raw(seed: int, epoch: int, purpose: int, n: int) -> Array:
    """`n` random numbers of 64 bits. Those of a bit generator never change between versions of NumPy, as permutations may."""
    return np.random.Philox(np.random.SeedSequence([seed, epoch, purpose])).random_raw(n)


def uniform(seed: int, epoch: int, purpose: int, n: int) -> Array:
    """`n` random numbers in [0, 1), float64."""
    return (raw(seed, epoch, purpose, n) >> np.uint64(11)) * 2.0**-53


def shuffled(seed: int, epoch: int, n: int) -> Array:
    """A random permutation: samples sorted by random numbers of 64 bits."""
    return np.argsort(raw(seed, epoch, 0, n), kind="stable")


def portion(share: float, n: int) -> int:
    """So many of `n`, at least 1: rounded up, but not for a share that is itself rounded up, as 0.1 + 0.2 is."""
    return max(1, math.ceil(share * n * (1.0 - 1e-12)))


@dataclass(frozen=True)
class Sequential:
    """Every epoch takes the samples as they come."""

    def indices(self, n: int, epoch: int) -> Array:
        """Which samples epoch `epoch` takes: all, from the first to the last."""
        return np.arange(n)


@dataclass(frozen=True)
class Shuffled:
    """Every epoch takes all samples in a random order of its own.

    Parameters
    ----------
    seed : int, default 0

    Notes
    -----
    The order is a function of seed and epoch alone, the same on every machine and with every version of NumPy. PyTorch's
    ``DataLoader`` draws it from a generator whose state depends on what was drawn before.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        checks.integer(0, MOST_SEED)("seed", self.seed)

    def indices(self, n: int, epoch: int) -> Array:
        """Which samples epoch `epoch` takes: all, permuted."""
        return shuffled(self.seed, epoch, n)


@dataclass(frozen=True)
class Pace:
    """The share of the samples, from the easiest on, that an epoch may use.

    Parameters
    ----------
    kind : {"linear", "root", "step"}, default "linear"
        With s for `start` and x = epoch / `epochs`, and all samples from x = 1 on: ``s + (1 - s) x``;
        ``sqrt(s^2 + (1 - s^2) x)``, which gives new samples the same time each (Platanios et al. 2019); or `start` until x = 1, the
        two stages of Bengio et al. (2009).
    start : float in (0, 1], default 0.2
        The share of the first epoch.
    epochs : int, default 10
        The first epoch, from 0, that uses all samples.
    """

    kind: str = "linear"
    start: float = 0.2
    epochs: int = 10

    def __post_init__(self) -> None:
        checks.one_of("linear", "root", "step")("kind", self.kind)
        checks.number(0.0, 1.0, closed_low=False)("start", self.start)
        checks.integer(0)("epochs", self.epochs)

    def __call__(self, epoch: int) -> float:
        if epoch >= self.epochs:
            return 1.0
        x, s = epoch / self.epochs, self.start
        if self.kind == "linear":
            return s + (1.0 - s) * x
        return math.sqrt(s * s + (1.0 - s * s) * x) if self.kind == "root" else s


class Curriculum:
    """Samples in an order that goes by their difficulty (Bengio, Louradour, Collobert and Weston 2009).

    Parameters
    ----------
    difficulty : array_like, shape (n,)
        A finite number for each sample; smaller is easier.
    strategy : {"paced", "sorted", "mixed", "combined"}, default "paced"
        "paced" (Bengio et al. 2009): epoch e takes the easiest ``pace(e)`` of the samples, once each, in random order.

        "sorted": every epoch takes all samples from the easiest to the hardest, equal ones in random order.

        "mixed" and "combined" (Zaremba and Sutskever 2014) draw n samples with replacement. "mixed" draws a level of difficulty
        at random, and then one of its samples. "combined" does that with probability `mix`, and else draws from the level that
        the curriculum has reached: of L levels, that of number ``ceil(pace(e) L)``.
    pace : callable, optional
        The share of the samples, in (0, 1], for an epoch from 0 on; default ``Pace()``.
    levels : int, default 10
        Where there are more difficulties than this, samples are sorted into so many levels of equal size (within one sample); else every
        difficulty is a level.
    mix : float in [0, 1], default 0.5
        See "combined". Zaremba and Sutskever do not say which they used.
    seed : int, default 0

    Notes
    -----
    All draws are functions of seed and epoch alone. Samples of equal difficulty have the order of their indices where a line is
    drawn among them. PyTorch and Keras have no curricula.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.strategies import Curriculum, Pace
    >>> order = Curriculum([3.0, 1.0, 2.0, 0.0], pace=Pace("linear", start=0.5, epochs=2))
    >>> [sorted(order.indices(4, epoch).tolist()) for epoch in range(3)]
    [[1, 3], [1, 2, 3], [0, 1, 2, 3]]
    """

    STRATEGIES: ClassVar[tuple[str, ...]] = ("paced", "sorted", "mixed", "combined")

    def __init__(
        self,
        difficulty: Any,
        strategy: str = "paced",
        pace: Callable[[int], float] | None = None,
        *,
        levels: int = 10,
        mix: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.strategy = checks.one_of(*self.STRATEGIES)("strategy", strategy)
        if pace is not None and not callable(pace):
            raise HyperParameterError(f"pace must be a callable of the epoch, such as Pace('root'), got {pace!r:.60}")
        self.pace: Callable[[int], float] = Pace() if pace is None else pace
        self.levels = checks.integer(1)("levels", levels)
        self.mix = checks.number(0.0, 1.0)("mix", mix)
        self.seed = checks.integer(0, MOST_SEED)("seed", seed)
        try:
            found = np.array(difficulty, np.float64)
        except (TypeError, ValueError) as error:
            raise DTypeError(f"difficulty must be numbers, one for each sample, got {difficulty!r:.60}") from error
        if found.ndim != 1 or not len(found):
            raise ShapeError(f"difficulty must have shape (n,) with n of at least 1, got {found.shape}")
        if not np.isfinite(found).all():
            raise NonFiniteError(
                "difficulty has an infinity or a NaN; give such samples a large number, or leave them out"
            )
        self.difficulty = found
        self._easiest = np.argsort(found, kind="stable")
        # Where each level begins among the samples from the easiest on, and where the last one ends.
        begins = np.flatnonzero(np.diff(found[self._easiest], prepend=-np.inf))
        if len(begins) > self.levels:
            begins = np.arange(self.levels) * len(found) // self.levels
        self._bounds = np.append(begins, len(found))

    def __repr__(self) -> str:
        about = f"<{len(self.difficulty)} numbers, crc32 {zlib.crc32(self.difficulty.tobytes()):08x}>"
        options = f"pace={self.pace!r}, levels={self.levels}, mix={self.mix}, seed={self.seed}"
        return f"Curriculum({about}, {self.strategy!r}, {options})"

    def indices(self, n: int, epoch: int) -> Array:
        """Which samples epoch `epoch` takes, as `strategy` says."""
        if n != len(self.difficulty):
            raise ShapeError(f"difficulty has {len(self.difficulty)} numbers, but there are {n} samples")
        if self.strategy == "sorted":
            order = shuffled(self.seed, epoch, n)
            return order[np.argsort(self.difficulty[order], kind="stable")]
        if self.strategy == "mixed":
            return self._drawn(n, epoch, self._any_level(n, epoch))
        share = checks.number(0.0, 1.0, closed_low=False)(f"pace of epoch {epoch}", self.pace(epoch))
        if self.strategy == "paced":
            some = self._easiest[: portion(share, n)]
            return some[shuffled(self.seed, epoch, len(some))]
        levels = len(self._bounds) - 1
        reached = portion(share, levels) - 1
        mixed = uniform(self.seed, epoch, 3, n) < self.mix
        return self._drawn(n, epoch, np.where(mixed, self._any_level(n, epoch), reached))

    def _any_level(self, n: int, epoch: int) -> Array:
        return (uniform(self.seed, epoch, 1, n) * (len(self._bounds) - 1)).astype(np.int64)

    def _drawn(self, n: int, epoch: int, level: Array) -> Array:
        """A random sample of each of these levels."""
        low, high = self._bounds[level], self._bounds[level + 1]
        return self._easiest[low + (uniform(self.seed, epoch, 2, n) * (high - low)).astype(np.int64)]


class Batches:
    """Batches of indices: the order of an epoch, cut.

    Parameters
    ----------
    n : int
        Samples.
    batch_size : int or callable, optional
        Samples of a batch; None takes all at once. A callable is a schedule: ``batch_size(step)``, such as a
        `fastopt.schedules.BatchSizeSchedule`, is asked at each batch, and rounded to an integer, which must be at least 1.
    order : "shuffled", "sequential" or an order, default "shuffled"
        `Shuffled`, `Sequential`, `Curriculum`, or an object with their method ``indices(n, epoch)``.
    seed : int, default 0
        Of "shuffled"; other orders have a seed of their own.
    drop_last : bool, default False
        Whether the last batch of an epoch is left out if it is smaller than the others.

    Examples
    --------
    >>> from fastopt.strategies import Batches
    >>> [b.tolist() for b in Batches(5, 2, "sequential").epoch(0)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self, n: int, batch_size: Any = None, order: Any = "shuffled", *, seed: int = 0, drop_last: bool = False
    ) -> None:
        self.n = checks.integer(1)("n", n)
        self.batch_size = (
            batch_size if callable(batch_size) else checks.optional(checks.integer(1))("batch_size", batch_size)
        )
        self.drop_last = checks.flag("drop_last", drop_last)
        self.order: Order
        if isinstance(order, str):
            word = checks.one_of("shuffled", "sequential")("order", order)
            self.order = Shuffled(seed) if word == "shuffled" else Sequential()
        elif callable(getattr(order, "indices", None)) and not isinstance(order, type):
            self.order = order
        else:
            raise HyperParameterError(
                "order must be 'shuffled', 'sequential', or an object with a method indices(n, epoch), such as "
                f"fastopt.strategies.Curriculum(difficulty), got {order!r:.60}"
            )

    def indices(self, epoch: int) -> Array:
        """The samples of an epoch (from 0), one after the other; shape (m,), m of at least 1."""
        found = np.asarray(self.order.indices(self.n, epoch))
        if found.ndim != 1 or not len(found) or found.dtype.kind not in "iu":
            raise ShapeError(
                f"{self.order!r:.60} must give integers of shape (m,), m of at least 1, for epoch {epoch}; got shape "
                f"{found.shape} and {found.dtype}"
            )
        if found.min() < 0 or found.max() >= self.n:
            raise IndexRangeError(
                f"{self.order!r:.60} gave the samples {found.min()} to {found.max()} for epoch {epoch}, but there are "
                f"{self.n}, from 0 on"
            )
        return found

    def size(self, step: int) -> int:
        """Samples of the batch for optimizer step `step`, from 0."""
        if not callable(self.batch_size):
            return self.batch_size or self.n
        # Rounded: schedules in general have values that are no integers.
        return round(checks.number(1.0, MOST_SIZE)(f"batch_size for step {step}", self.batch_size(step)))

    def cut(self, indices: Array, at: int, step: int) -> Array | None:
        """The batch for optimizer step `step` that begins at place `at` of an epoch; None at the end of the epoch."""
        size = min(self.size(step), len(indices))
        left = len(indices) - at
        return None if not left or (left < size and self.drop_last) else indices[at : at + size]

    def epoch(self, epoch: int, step: int = 0) -> Iterator[Array]:
        """The batches of an epoch (from 0), of which the first is for optimizer step `step`, and each for one of its own."""
        indices, at = self.indices(epoch), 0
        while (batch := self.cut(indices, at, step)) is not None:
            yield batch
            at, step = at + len(batch), step + 1
