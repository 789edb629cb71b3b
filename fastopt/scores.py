"""The NumPy twin of ``kernels/scores.pyx``: dot product, derivatives of the losses, operation by operation; and the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .checks import Array
from .elementary import exp, log
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


def above(x: float) -> float:
    return 0.0 if x <= 0.0 else x


def log_loss_value(z: float, y: float, a: float) -> float:
    m, e = y * z, exp(y * z)
    if e < float("inf"):
        return float(log(np.array([1.0 + e]))[0]) - m
    return 0.0 if m > 0.0 else m


def huber_value(z: float, y: float, a: float) -> float:
    r = abs(z - y)
    return 0.5 * (r * r) if r <= a else a * (r - 0.5 * a)


#: The losses as the kernels of models side by side sum them, of numbers, operation by operation.
SUMMED: dict[str, Callable[[float, float, float], float]] = {
    "log_loss": log_loss_value,
    "hinge": lambda z, y, a: above(1.0 - y * z),
    "squared_hinge": lambda z, y, a: above(1.0 - y * z) * above(1.0 - y * z),
    "modified_huber": lambda z, y, a: -4.0 * (y * z) if y * z < -1.0 else above(1.0 - y * z) * above(1.0 - y * z),
    "squared_error": lambda z, y, a: 0.5 * ((z - y) * (z - y)),
    "huber": huber_value,
    "epsilon_insensitive": lambda z, y, a: above(abs(z - y) - a),
    "squared_epsilon_insensitive": lambda z, y, a: above(abs(z - y) - a) * above(abs(z - y) - a),
    "quantile": lambda z, y, a: (1.0 - a) * (z - y) if z - y > 0.0 else -a * (z - y),
    "poisson": lambda z, y, a: exp(z) - y * z,
}


def multinomial(z: Sequence[float], k: int) -> tuple[list[float], float]:
    """Derivatives of the log loss of a softmax by the scores z, and the loss, where class k was right."""
    most = z[0]
    for score in z[1:]:
        most = score if score > most else most
    e = np.array([exp(score - most) for score in z])
    whole = total(e)
    found = log(np.array([whole]))[0] - (z[k] - most) if whole < float("inf") else whole
    return [e[j] / whole - (1.0 if j == k else 0.0) for j in range(len(z))], found
