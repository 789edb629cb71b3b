"""The NumPy twin of ``kernels/scores.pyx``: dot product, derivatives of the losses, operation by operation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .checks import Array
from .elementary import exp
from .reductions import total


def dot(a: Array, b: Array) -> float:
    """Dot product in float64, in the order of the kernels."""
    return total(a.astype(np.float64) * b.astype(np.float64))


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
