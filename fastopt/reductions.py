"""Sums in the order of the kernels (kernels/lanes.pxi), which depends on the data alone, and what else they reduce rows and
matrices by. NumPy's own sums have orders that depend on the machine and on the layout."""

from __future__ import annotations

import math

import numpy as np

from .checks import Array

LANES = 16
SUMMED = 1024  # elements of a row whose sum is taken in lanes
STACKED = 64  # rows whose sum is taken from top to bottom


def total(terms: Array) -> float:
    """The sum of float64 `terms`, in the order of their memory: blocks, 16 lanes in a block, blocks from left to right."""
    return left_to_right(block_sums(terms.ravel(order="K")))


def lanes(blocks: Array) -> Array:
    """The sums of each lane of each block, a row each."""
    sums = np.zeros((len(blocks), LANES))
    for part in blocks.reshape(len(blocks), blocks.shape[1] // LANES, LANES).swapaxes(0, 1):
        sums = sums + part
    return sums


def left_to_right(sums: Array) -> float:
    """The sum, one after the other."""
    return float(folded_blocks(sums))


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


def blocks_of(count: int, size: int) -> int:
    """How many blocks of `size` hold `count`."""
    return -(-count // size)


def block_sums(x: Array) -> Array:
    """Sums of the blocks along the last axis, in float64: shape (..., blocks)."""
    *rest, n = x.shape
    blocks = blocks_of(n, SUMMED)
    width = SUMMED if blocks != 1 else blocks_of(n, LANES) * LANES
    padded = x
    if n != blocks * width or x.dtype != np.float64:
        padded = np.zeros((*rest, blocks * width))  # a zero more changes no lane
        padded[..., :n] = x
    return fold(lanes(padded.reshape(math.prod(rest) * blocks, width))).reshape(*rest, blocks)


def folded_blocks(sums: Array, axis: int = 0) -> Array:
    """The sums of blocks added one after the other."""
    if not sums.shape[axis]:
        return np.zeros(np.delete(sums.shape, axis))
    total: Array = np.add.accumulate(sums, axis=axis).take(-1, axis=axis)  # has every partial sum, and so one order
    return total


def row_totals(x: Array) -> Array:
    """Sums along the last axis, in float64."""
    return folded_blocks(block_sums(x), -1)


def stacked_sums(x: Array) -> Array:
    """Sums of blocks of rows down the last axis but one, in float64: shape (..., blocks, columns)."""
    *rest, rows, columns = x.shape
    blocks = blocks_of(rows, STACKED)
    padded = np.zeros((*rest, blocks * STACKED, columns))
    padded[..., :rows, :] = x
    padded = padded.reshape(*rest, blocks, STACKED, columns)
    total = np.zeros((*rest, blocks, columns))
    for k in range(STACKED):
        total = total + padded[..., k, :]
    return total


def larger(a: Array, b: Array) -> Array:
    """The larger of numbers that are not negative; NaN where one is NaN."""
    return np.where((b > a) | (b != b), b, a)


def smaller(a: Array, b: Array) -> Array:
    """The smaller of numbers that are not negative; NaN where one is NaN."""
    return np.where((a < b) | (a != a), a, b)


def largest(x: Array, axes: tuple[int, ...]) -> Array:
    """The largest of numbers that are not negative, and at least 0, along `axes`; NaN where one is NaN."""
    x = np.moveaxis(x, axes, range(len(axes)))
    x = x.reshape(math.prod(x.shape[: len(axes)]), *x.shape[len(axes) :])
    if not len(x):
        return np.zeros(x.shape[1:], x.dtype)
    while len(x) > 1:
        half = blocks_of(len(x), 2)
        x = np.concatenate([larger(x[: len(x) - half], x[half:]), x[len(x) - half : half]])
    return x[0]


def within(step: Array, tiny: float) -> Array:
    """Steps of at most the largest number of the dtype that `tiny` belongs to: a finite step times a tiny gradient is finite."""
    dtype = np.float32 if tiny > np.finfo(np.float64).tiny else np.float64
    limited: Array = np.minimum(step, float(np.finfo(dtype).max))
    return limited
