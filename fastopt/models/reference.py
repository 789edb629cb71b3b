"""What the models' kernels compute, in Python and NumPy: the same operations in the same order, for verification.

Slow by design; also the backend of installations without compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..checks import Array
from ..optimizers.elementary import exp

LANES = 16
BLOCK = 1024


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


def samples(
    reference: Callable[..., None],
    n_states: int,
    loss: str,
    parameter: float,
    records: Array,
    bias: Array | None,
    indptr: Array,
    indices: Array,
    data: Array,
    y: Array,
    order: Sequence[int] | Array | None,
    n: int,
    h: Array,
    one_row: bool,
    scale: float,
    shrink: float,
) -> float:
    """Train on `n` CSR rows one after the other; returns the scale of the weights afterwards.

    See ``kernels.drivers.samples``, whose sequential mode this is.
    """
    derivative = DERIVATIVES[loss]
    real = data.dtype.type
    with np.errstate(all="ignore"):
        for i in range(n):
            r = i if order is None else int(order[i])
            part = slice(int(indptr[r]), int(indptr[r + 1]))
            ids, x = indices[part], data[part]
            up, down = real(scale), real(float(np.float64(1.0) / np.float64(scale)))
            p = up * records[ids, 0]
            states: list[Any] = [records[ids, 1 + q] for q in range(n_states)]
            if bias is not None:
                p, x = np.append(p, bias[0]), np.append(x, real(1))
                states = [np.append(s, bias[1 + q]) for q, s in enumerate(states)]
            z = dot(p, x)
            g = real(derivative(z, float(y[r]), parameter)) * x
            reference(p, g, *states, h[0 if one_row else i][2:])
            m = len(ids)
            records[ids, 0] = down * p[:m]
            for q, s in enumerate(states):
                records[ids, 1 + q] = s[:m]
            if bias is not None:
                bias[0] = p[m]
                for q, s in enumerate(states):
                    bias[1 + q] = s[m]
            scale = scale * shrink
    return scale


def repeated_indices(indptr: Array, indices: Array, n_rows: int, n_features: int, seen: Array) -> int:
    """As ``kernels.drivers.repeated_indices``."""
    used = indices[: indptr[-1]]
    rows = np.repeat(np.arange(n_rows), np.diff(indptr))
    return len(used) - len(np.unique(rows * n_features + used))


def sum_repeated(indptr: Array, indices: Array, data: Array, n_rows: int, place: Array) -> None:
    """As ``kernels.drivers.sum_repeated``."""
    to, end = 0, int(indptr[0])
    for r in range(n_rows):
        begin, end, first = end, int(indptr[r + 1]), to
        indptr[r] = to
        for j in range(begin, end):
            at = place[indices[j]]
            if at >= first:
                data[at] += data[j]
            else:
                place[indices[j]] = to
                indices[to], data[to] = indices[j], data[j]
                to += 1
    indptr[n_rows] = to
