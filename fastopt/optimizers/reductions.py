"""Sums in the order of the kernels, in NumPy: along a row, of blocks of 1024 elements, each in 16 lanes of float64 that are
folded 8, 4, 2, 1; down a column, of blocks of 64 rows from top to bottom; the blocks' sums added one after the other.

So the order is set by the data alone. NumPy's own sums have orders that depend on the machine and on the layout.
"""

from __future__ import annotations

import math

import numpy as np

from ..checks import Array

LANES = 16
SUMMED = 1024  # elements of a row whose sum is taken in lanes
STACKED = 64  # rows whose sum is taken from top to bottom


def blocks_of(count: int, size: int) -> int:
    """How many blocks of `size` hold `count`."""
    return -(-count // size)


def block_sums(x: Array) -> Array:
    """Sums of the blocks along the last axis, in float64: shape (..., blocks)."""
    *rest, n = x.shape
    blocks = blocks_of(n, SUMMED)
    steps = SUMMED // LANES if blocks != 1 else blocks_of(n, LANES)
    padded = np.zeros((*rest, blocks * steps * LANES))  # a zero more changes no lane
    padded[..., :n] = x
    padded = padded.reshape(*rest, blocks, steps, LANES)
    lanes = np.zeros((*rest, blocks, LANES))
    for k in range(steps):
        lanes = lanes + padded[..., k, :]
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    return lanes[..., 0]


def fold(sums: Array, axis: int = 0) -> Array:
    """The sums of blocks added one after the other."""
    if not sums.shape[axis]:
        return np.zeros(np.delete(sums.shape, axis))
    total: Array = np.add.accumulate(sums, axis=axis).take(-1, axis=axis)  # has every partial sum, and so one order
    return total


def lanes_sum(x: Array) -> Array:
    """Sums along the last axis, in float64."""
    return fold(block_sums(x), -1)


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
