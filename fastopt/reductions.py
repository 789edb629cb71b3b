"""Sums in the order of the kernels (kernels/lanes.pxi), which depends on the data alone."""

from __future__ import annotations

import numpy as np

from .checks import Array

BLOCK, LANES = 1024, 16


def total(terms: Array) -> float:
    """The sum of float64 `terms`, in the order of their memory: blocks, 16 lanes in a block, blocks from left to right."""
    flat = terms.ravel(order="K")
    whole = len(flat) // BLOCK * BLOCK
    sums = fold(lanes(flat[:whole].reshape(-1, BLOCK)))
    if whole == len(flat):
        return left_to_right(sums)
    rest = np.zeros(-(-(len(flat) - whole) // LANES) * LANES)  # zeros add nothing to a lane
    rest[: len(flat) - whole] = flat[whole:]
    return left_to_right(np.append(sums, fold(lanes(rest[None]))))


def lanes(blocks: Array) -> Array:
    """The sums of each lane of each block, a row each."""
    sums = np.zeros((len(blocks), LANES))
    for part in blocks.reshape(len(blocks), blocks.shape[1] // LANES, LANES).swapaxes(0, 1):
        sums = sums + part
    return sums


def left_to_right(sums: Array) -> float:
    """The sum, one after the other."""
    return float(np.add.accumulate(sums)[-1]) if sums.size else 0.0


def fold(lanes: Array) -> Array:
    """The lanes of the last axis, 16 of them, folded 8, 4, 2, 1."""
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half:]
    folded: Array = lanes[..., 0]
    return folded


def trust_ratio(of: Array, to: Array) -> Array:
    """``of / to``; 1 where either is 0."""
    ratio: Array = np.where((of > 0) & (to > 0), of / np.where(to > 0, to, 1.0), 1.0)
    return ratio


def within(step: Array, tiny: float) -> Array:
    """Steps of at most the largest number of the dtype that `tiny` belongs to: a finite step times a tiny gradient is finite."""
    dtype = np.float32 if tiny > np.finfo(np.float64).tiny else np.float64
    limited: Array = np.minimum(step, float(np.finfo(dtype).max))
    return limited
