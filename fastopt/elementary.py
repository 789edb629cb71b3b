"""exp and powers from IEEE operations, as in ``csrc/fo_exp.h`` and ``csrc/fo_pow.h``, where the method is described: the same bits
on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import Array

MAGIC = 6755399441055744.0
LN2_HIGH, LN2_LOW, PER_LN2 = 0.6931471803691238, 1.9082149292705877e-10, 1.4426950408889634


def nearest(x: Any) -> Any:
    """The nearest whole number."""
    return (x + MAGIC) - MAGIC


def exp_rest(r: Any) -> Any:
    """``exp(r) - 1 - r`` for small r."""
    r2 = r * r
    r4 = r2 * r2
    r8 = r4 * r4
    a = 0.5 + (1.0 / 6.0) * r
    b = 1.0 / 24.0 + (1.0 / 120.0) * r
    c = 1.0 / 720.0 + (1.0 / 5040.0) * r
    d = 1.0 / 40320.0 + (1.0 / 362880.0) * r
    e = 1.0 / 3628800.0 + (1.0 / 39916800.0) * r
    f = 1.0 / 479001600.0 + (1.0 / 6227020800.0) * r
    return (((a + b * r2) + (c + d * r2) * r4) + (e + f * r2) * r8) * r2


def exp(x: float) -> float:
    """exp of a number."""
    if x != x:
        return x
    if x > 709.782712893384:
        return float("inf")
    if x < -745.2:
        return 0.0
    k = nearest(x * PER_LN2)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    half = nearest(k * 0.5)
    return (exp_rest(r) + r + 1.0) * 2.0**half * 2.0 ** (k - half)


def lost(a: Any, b: Any, product: Any) -> Any:
    """``a * b - product``, where the product is rounded (Dekker 1971)."""
    a1 = 134217729.0 * a
    a1 = a1 - (a1 - a)
    a2 = a - a1
    b1 = 134217729.0 * b
    b1 = b1 - (b1 - b)
    b2 = b - b1
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def power(x: Array, a: float) -> Array:
    """``x**a`` for x >= 0 and a > 0, in the dtype of `x`."""
    dtype, fine, a = x.dtype, x.dtype == np.float64, float(a)
    x = x.astype(np.float64)
    y, shift = x, np.full(x.shape, 1023.0)
    if fine:
        small = x < 2.2250738585072014e-308
        y, shift = np.where(small, x * 18014398509481984.0, x), np.where(small, 1077.0, 1023.0)
    bits = y.view(np.uint64)
    k = ((bits >> np.uint64(52) | np.uint64(0x4330000000000000)).view(np.float64) - 4503599627370496.0) - shift
    m = (bits & np.uint64(0x000FFFFFFFFFFFFF) | np.uint64(0x3FF0000000000000)).view(np.float64)
    large = m > 1.4142135623730951
    k, m = np.where(large, k + 1.0, k), np.where(large, 0.5 * m, m)

    f, d = m - 1.0, m + 1.0
    inverse = 1.0 / d
    s = f * inverse
    z = s * s
    z2 = z * z
    z4 = z2 * z2
    z8 = z4 * z4
    c = [2.0 / n + (2.0 / (n + 2)) * z for n in (3, 7, 11, 15, 19)]
    rest = s * (z * (((c[0] + c[1] * z2) + (c[2] + c[3] * z2) * z4) + (c[4] + (2.0 / 23.0) * z2) * z8))
    if fine:
        error = (((f - s * d) - lost(s, d, s * d)) - s * (m - (d - 1.0))) * inverse
        main = k * LN2_HIGH
        total = main + 2.0 * s
        low = (2.0 * s - (total - main)) + (k * LN2_LOW + (2.0 * error + rest))
        high = total + low
        low = low - (high - total)
        low = lost(a, high, a * high) + a * low
        high = a * high
    else:
        high = a * (k * LN2_HIGH + (k * LN2_LOW + (2.0 * s + rest)))
        low = np.zeros(x.shape)
    high = np.where(high < 710.0, high, 710.0)
    high = np.where(high > -746.0, high, -746.0)
    n = nearest(high * PER_LN2)
    f = high - n * LN2_HIGH
    low = low - n * LN2_LOW
    r = f + low
    more = low - (r - f) if fine else 0.0
    half = nearest(n * 0.5)
    y = (1.0 + (r + (exp_rest(r) + more))) * np.ldexp(1.0, half.astype(int)) * np.ldexp(1.0, (n - half).astype(int))
    edge = np.where(x < 0.0, np.nan, x)
    y = np.where(x > 0.0, y, edge)
    return np.where(x < np.inf, y, edge).astype(dtype)
