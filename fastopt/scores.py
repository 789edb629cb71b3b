"""The NumPy twin of ``kernels/scores.pyx``: dot product, derivatives of the losses, operation by operation; and the losses."""

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


def squared_hinge(z: float, y: float, a: float) -> float:
    m = 1.0 - y * z
    return -2.0 * y * m if m > 0.0 else 0.0


def modified_huber(z: float, y: float, a: float) -> float:
    m = y * z
    return -4.0 * y if m < -1.0 else -2.0 * y * (1.0 - m) if m < 1.0 else 0.0


def squared_error(z: float, y: float, a: float) -> float:
    return z - y


def huber(z: float, y: float, a: float) -> float:
    r = z - y
    return a if r > a else -a if r < -a else r


def epsilon_insensitive(z: float, y: float, a: float) -> float:
    r = z - y
    return 1.0 if r > a else -1.0 if r < -a else 0.0


def squared_epsilon_insensitive(z: float, y: float, a: float) -> float:
    r = z - y
    return 2.0 * (r - a) if r > a else 2.0 * (r + a) if r < -a else 0.0


def quantile(z: float, y: float, a: float) -> float:
    return 1.0 - a if z > y else -a if z < y else 0.0


def poisson(z: float, y: float, a: float) -> float:
    return exp(z) - y


#: Derivatives of the losses by the score.
DERIVATIVES: dict[str, Callable[[float, float, float], float]] = {
    "log_loss": log_loss,
    "hinge": hinge,
    "squared_hinge": squared_hinge,
    "modified_huber": modified_huber,
    "squared_error": squared_error,
    "huber": huber,
    "epsilon_insensitive": epsilon_insensitive,
    "squared_epsilon_insensitive": squared_epsilon_insensitive,
    "quantile": quantile,
    "poisson": poisson,
}


#: The losses themselves, of float64 arrays of scores and targets, for reports: libm's functions will do.
VALUES: dict[str, Callable[[Array, Array, float], Array]] = {
    "log_loss": lambda z, y, a: np.logaddexp(0.0, -y * z),
    "hinge": lambda z, y, a: np.maximum(0.0, 1.0 - y * z),
    "squared_hinge": lambda z, y, a: np.maximum(0.0, 1.0 - y * z) ** 2,
    "modified_huber": lambda z, y, a: np.where(y * z < -1.0, -4.0 * y * z, np.maximum(0.0, 1.0 - y * z) ** 2),
    "squared_error": lambda z, y, a: (z - y) ** 2 / 2,
    "huber": lambda z, y, a: np.where(np.abs(z - y) <= a, (z - y) ** 2 / 2, a * (np.abs(z - y) - a / 2)),
    "epsilon_insensitive": lambda z, y, a: np.maximum(0.0, np.abs(z - y) - a),
    "squared_epsilon_insensitive": lambda z, y, a: np.maximum(0.0, np.abs(z - y) - a) ** 2,
    "quantile": lambda z, y, a: np.maximum(a * (y - z), (a - 1.0) * (y - z)),
    "poisson": lambda z, y, a: np.exp(z) - y * z,
}
