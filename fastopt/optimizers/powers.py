"""Powers of decay factors that are the same on every machine."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..checks import Array
from ..elementary import lost


def powers(beta: float, t: Array) -> Array:
    """``beta**t`` for integers t >= 0, to about half an ulp, from IEEE operations alone.

    NumPy's power differs between processors in the last bit. Here t = 256 q + r, both factors by repeated squaring, every
    number the sum of two float64; so that the result depends on t alone, and a window of steps costs one multiplication.
    """
    q, r = t >> 8, t & 255
    first = int(q.min())
    leaps = np.array([_leap(float(beta), k) for k in range(first, int(q.max()) + 1)])[q - first]
    high, low = _low_powers(float(beta))
    return _times(leaps[:, 0], leaps[:, 1], high[r], low[r])[0]


def _times(a: Any, a_low: Any, b: Any, b_low: Any) -> tuple[Any, Any]:
    """Product of two sums of two float64."""
    p = a * b
    low = lost(a, b, p) + (a * b_low + a_low * b)
    total = p + low
    return total, low - (total - p)


@functools.lru_cache(4096)
def _leap(beta: float, q: int) -> tuple[float, float]:
    """``(beta**256)**q``."""
    base, result = (beta, 0.0), (1.0, 0.0)
    for _ in range(8):
        base = _times(*base, *base)
    while q:
        if q & 1:
            result = _times(*result, *base)
        base = _times(*base, *base)
        q >>= 1
    return result


@functools.lru_cache(64)
def _low_powers(beta: float) -> tuple[Array, Array]:
    """``beta**0`` to ``beta**255``."""
    made = [(1.0, 0.0)]
    for _ in range(255):
        made.append(_times(*made[-1], beta, 0.0))
    table = np.array(made)
    return table[:, 0].copy(), table[:, 1].copy()
