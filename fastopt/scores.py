"""The NumPy twin of ``kernels/scores.pyx``: exp, dot product, derivatives of the losses, operation by operation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .checks import Array

LANES = 16
BLOCK = 1024


def exp(x: float) -> float:
    """exp from IEEE operations, as in ``csrc/fo_exp.h``."""
    if x != x:
        return x
    if x > 709.782712893384:
        return float("inf")
    if x < -745.2:
        return 0.0
    magic = 6755399441055744.0
    k = (x * 1.4426950408889634 + magic) - magic
    r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10
    r2 = r * r
    r4 = r2 * r2
    r8 = r4 * r4
    a = 0.5 + (1.0 / 6.0) * r
    b = 1.0 / 24.0 + (1.0 / 120.0) * r
    c = 1.0 / 720.0 + (1.0 / 5040.0) * r
    d = 1.0 / 40320.0 + (1.0 / 362880.0) * r
    e = 1.0 / 3628800.0 + (1.0 / 39916800.0) * r
    f = 1.0 / 479001600.0 + (1.0 / 6227020800.0) * r
    y = ((a + b * r2) + (c + d * r2) * r4) + (e + f * r2) * r8
    y = y * r2 + r
    y = y + 1.0
    i = int(k)
    half = int(i / 2)  # towards zero, as in C
    return y * 2.0**half * 2.0 ** (i - half)


def dot(a: Array, b: Array) -> float:
    """Dot product in float64 over 16 lanes, in blocks of 1024."""
    products = np.zeros(-(-len(a) // LANES) * LANES)
    products[: len(a)] = a.astype(np.float64) * b.astype(np.float64)
    total = 0.0
    for start in range(0, len(products), BLOCK):
        lanes = np.zeros(LANES)
        for row in products[start : start + BLOCK].reshape(-1, LANES):
            lanes = lanes + row
        for width in (8, 4):
            lanes = lanes[:width] + lanes[width : 2 * width]
        total = total + float((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]))
    return total


def log_loss(z: float, y: float, a: float) -> float:
    return -y / (1.0 + exp(y * z))


def hinge(z: float, y: float, a: float) -> float:
    return -y if y * z < 1.0 else 0.0


def squared_error(z: float, y: float, a: float) -> float:
    return z - y


def huber(z: float, y: float, a: float) -> float:
    r = z - y
    return a if r > a else -a if r < -a else r


#: Derivatives of the losses by the score.
DERIVATIVES: dict[str, Callable[[float, float, float], float]] = {
    "log_loss": log_loss,
    "hinge": hinge,
    "squared_error": squared_error,
    "huber": huber,
}
