"""Scores of CSR rows by many linear models at once, for their classes: the weights of a feature lie side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..checks import Array
from ..csr import Rows, longest_row
from .classes import ClassTrainer
from .lanes import GROUP, Lane
from .samples import zeros

#: Bytes that weights laid side by side may take, and scores of rows whose class is looked for.
MOST_WEIGHTS, MOST_SCORES = 1 << 28, 1 << 22
#: Bytes of a feature that a pass over the rows reads: with more, those of two rows do not stay in the first-level cache.
PASS = 512
#: Of so many models at once the weights are copied, those of each into its column.
COPIED = 16


class Block(NamedTuple):
    """Consecutive models whose weights lie side by side."""

    first: int
    n_models: int
    lanes: int  #: columns of `weights` that belong to models, idle ones among them
    weights: Array  #: shape (n_features, at least `lanes`)
    up: Array | None  #: what the weights are multiplied by, shape (lanes,)
    bias: Array  #: shape (lanes,)

    def scores(self, rows: Rows, longest: int, out: Array, first: int, n_threads: int) -> bool:
        """Write the scores into `out`, from column `first` on; returns whether all indices are in range."""
        table, size = kernels.table[self.weights.dtype.name], PASS // self.weights.itemsize
        for begin in range(0, self.lanes, size):
            lanes = slice(begin, min(begin + size, self.lanes))
            bad = kernels.drivers.predictions(
                table,
                *rows[:3],
                self.weights[:, lanes],
                lanes.stop - begin,
                None if self.up is None else self.up[lanes],
                self.bias[lanes],
                out,
                first + begin,
                min(lanes.stop, self.n_models) - begin,
                longest,
                n_threads,
            )
            if bad >= 0:
                return False
        return True


class ClassBlock(NamedTuple):
    """Consecutive models whose weights are in lists."""

    first: int
    n_models: int
    group: ClassTrainer

    def scores(self, rows: Rows, longest: int, out: Array, first: int, n_threads: int) -> bool:
        """As `Block.scores`."""
        return self.group.scores(rows, out, first, n_threads)


def trained_together(models: Sequence[Any]) -> list[Block | ClassBlock] | None:
    """The models as they were trained, if that was side by side."""
    blocks: list[Block | ClassBlock] = []
    while (first := sum(block.n_models for block in blocks)) < len(models):
        lane = models[first].trainer
        if not isinstance(lane, Lane) or lane.group.place is not None:
            return None
        group, mine = lane.group, models[first : first + lane.group.n_models]
        if len(mine) < group.n_models:
            return None
        for k, model in enumerate(mine):
            own = model.trainer
            if not isinstance(own, Lane) or own.group is not group or own.k != k or model.kept() is not None:
                return None
        dtype = group.dtype
        up = None if (group.scale[: group.n_models] == 1).all() else group.scale.astype(dtype)
        bias = np.zeros(group.lanes, dtype) if group.bias is None else group.bias[0]
        if isinstance(group, ClassTrainer):
            blocks.append(ClassBlock(first, group.n_models, group))
            continue
        blocks.append(
            Block(first, group.n_models, group.lanes, group.records.reshape(len(group.records), -1), up, bias)
        )
    return blocks


def used_features(indices: Array, n_features: int) -> tuple[Array, Array] | None:
    """The features that are among the indices, and of each index the place there; None: an index is out of range."""
    own = indices.copy()  # another thread may change the caller's
    if len(own) and (own.min() < 0 or own.max() >= n_features):
        return None
    if len(own) < n_features // 8:  # nothing as long as all features together
        features, places = np.unique(own, return_inverse=True)
        return features, places.astype(np.int32)
    place = np.zeros(n_features, np.int32)
    place[own] = 1
    features = place.nonzero()[0]
    place[features] = np.arange(len(features), dtype=np.int32)
    return features, place[own]


def side_by_side(models: Sequence[Any], features: Array, dtype: Any) -> Iterator[Block]:
    """The weights of these features, copied; a block is gone when the next one is asked for."""
    lanes = -(-len(models) // GROUP) * GROUP
    lanes = max(GROUP, min(lanes, MOST_WEIGHTS // max(len(features) * dtype.itemsize, 1) // GROUP * GROUP))
    weights, bias = zeros((len(features), lanes), dtype), np.zeros(lanes, dtype)
    for first in range(0, len(models), lanes):
        block = models[first : first + lanes]
        for begin in range(0, len(block), COPIED):
            several = block[begin : begin + COPIED]
            weights[:, begin : begin + len(several)] = np.stack([weights_of(m, features) for m in several]).T
        bias[: len(block)] = [m.intercept()[0] for m in block]
        yield Block(first, len(block), lanes, weights, None, bias)


def weights_of(model: Any, features: Array) -> Array:
    kept = model.kept()
    found: Array = model.trainer.weights_of(features) if kept is None else kept[0][features]
    return found


def blocks_of(models: Sequence[Any], rows: Rows) -> tuple[Rows, Iterator[Block | ClassBlock]] | None:
    """Blocks of all models, and the rows with the indices that belong to them."""
    together = trained_together(models)
    if together is not None:
        return rows, iter(together)
    trainer = models[0].trainer
    found = used_features(rows.indices[: rows.indptr[-1]], len(trainer.records))
    if found is None:
        return None
    features, places = found
    if len(features) * GROUP * trainer.dtype.itemsize > MOST_WEIGHTS:
        return None
    return rows._replace(indices=places), side_by_side(models, features, trainer.dtype)


def scores(models: Sequence[Any], rows: Rows, n_threads: int) -> Array | None:
    """Shape (n_samples, n_models), with the bits of each model's own scores; None where this is not the way."""
    if (found := blocks_of(models, rows)) is None:
        return None
    rows, blocks = found
    longest, out = longest_row(rows.indptr), np.empty((len(rows.indptr) - 1, len(models)), models[0].trainer.dtype)
    for block in blocks:
        if not block.scores(rows, longest, out, block.first, n_threads):
            return None
    return out


def likeliest(models: Sequence[Any], rows: Rows, n_threads: int) -> tuple[Array, Array] | None:
    """As `scores`, but of each row only which model has the greatest, the first of several, and this score."""
    if (found := blocks_of(models, rows)) is None:
        return None
    rows, blocks = found
    longest, dtype, n = longest_row(rows.indptr), models[0].trainer.dtype, len(rows.indptr) - 1
    best, which = np.full(n, -np.inf, dtype), np.zeros(n, np.intp)
    for block in blocks:
        size = max(1, MOST_SCORES // (block.n_models * dtype.itemsize))
        room = np.empty((min(size, n), block.n_models), dtype)
        for begin in range(0, n, size):
            piece = slice(begin, min(begin + size, n))
            z = room[: piece.stop - begin]
            part = rows._replace(indptr=rows.indptr[begin : piece.stop + 1])
            if not block.scores(part, longest, z, 0, n_threads):
                return None
            k = z.argmax(axis=1)
            most = z[np.arange(len(z)), k]
            better = (most > best[piece]) | (np.isnan(most) & ~np.isnan(best[piece]))  # as argmax: the first NaN wins
            which[piece][better] = k[better] + block.first
            best[piece][better] = most[better]
    return which, best
