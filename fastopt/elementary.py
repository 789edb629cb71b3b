"""exp, log and powers from IEEE operations, and random numbers that are a pure function of a counter, as in ``csrc/fo_exp.h``,
``fo_log.h``, ``fo_pow.h`` and ``fo_philox.h``, where the methods are described: the same bits on every machine."""

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


def log_split(x: Array, shift: Any) -> tuple[Array, Array]:
    """k and m, ``x = 2**k * m``, with m between the roots of 1/2 and 2; `shift`: 1023, or what x was scaled by beside."""
    bits = x.view(np.uint64)
    k = ((bits >> np.uint64(52) | np.uint64(0x4330000000000000)).view(np.float64) - 4503599627370496.0) - shift
    m = (bits & np.uint64(0x000FFFFFFFFFFFFF) | np.uint64(0x3FF0000000000000)).view(np.float64)
    large = m > 1.4142135623730951
    return np.where(large, k + 1.0, k), np.where(large, 0.5 * m, m)


def log_rest(s: Array) -> Array:
    """``2 atanh(s) - 2 s``"""
    z = s * s
    z2 = z * z
    z4 = z2 * z2
    z8 = z4 * z4
    c = [2.0 / n + (2.0 / (n + 2)) * z for n in (3, 7, 11, 15, 19)]
    rest: Array = s * (z * (((c[0] + c[1] * z2) + (c[2] + c[3] * z2) * z4) + (c[4] + (2.0 / 23.0) * z2) * z8))
    return rest


def log(x: Array) -> Array:
    """log of positive, normal float64 numbers."""
    k, m = log_split(x, 1023.0)
    s = (m - 1.0) / (m + 1.0)
    found: Array = k * LN2_HIGH + (k * LN2_LOW + (2.0 * s + log_rest(s)))
    return found


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
    k, m = log_split(y, shift)
    f, d = m - 1.0, m + 1.0
    inverse = 1.0 / d
    s = f * inverse
    rest = log_rest(s)
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


# --------------------------------------------------------------------------------------------------------- random numbers

MASK = np.uint64(0xFFFFFFFF)


def philox(words: Any, key: tuple[int, int]) -> list[Array]:
    """Philox4x32-10 (Salmon et al. 2011) of counters of four words under a key of two; words of 32 bits in uint64 arrays."""
    a, b, c, d = (np.asarray(w, np.uint64) for w in words)
    k, m = key
    for _ in range(10):
        p, q = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, c = (q >> np.uint64(32)) ^ b ^ np.uint64(k), (p >> np.uint64(32)) ^ d ^ np.uint64(m)
        b, d = q & MASK, p & MASK
        k, m = (k + 0x9E3779B9) & 0xFFFFFFFF, (m + 0xBB67AE85) & 0xFFFFFFFF
    return [a, b, c, d]


def circle(x: Array) -> tuple[Array, Array]:
    """sin and cos of `x` quarter turns, ``|x| <= 1/2``."""
    t = 1.5707963267948966 * x
    z = t * t
    z2 = z * z
    z4 = z2 * z2
    a, b = -1.0 / 6.0 + (1.0 / 120.0) * z, -1.0 / 5040.0 + (1.0 / 362880.0) * z
    c, d = -1.0 / 39916800.0 + (1.0 / 6227020800.0) * z, -1.0 / 1307674368000.0 + (1.0 / 355687428096000.0) * z
    e, f = 1.0 / 24.0 - (1.0 / 720.0) * z, 1.0 / 40320.0 - (1.0 / 3628800.0) * z
    g = 1.0 / 479001600.0 - (1.0 / 87178291200.0) * z
    sine = t + t * (z * ((a + b * z2) + (c + d * z2) * z4))
    cosine = 1.0 + (-0.5 * z + z2 * ((e + f * z2) + (g + (1.0 / 20922789888000.0) * z2) * z4))
    return sine, cosine


def whole(words: Array) -> Array:
    """Words of 32 bits as float64."""
    return (words | np.uint64(0x4330000000000000)).view(np.float64) - 4503599627370496.0


def normals(first: Array, second: Array) -> tuple[Array, Array]:
    """Two independent normal variates of two words each (Box and Muller 1958)."""
    r = np.sqrt(-2.0 * log((whole(first) + 0.5) * (1.0 / 4294967296.0)))
    r = np.where(second & np.uint64(0x80000000), -r, r)
    s, c = circle((whole(second & np.uint64(0x3FFFFFFF)) + 0.5) * (1.0 / 1073741824.0) - 0.5)
    swapped = (second & np.uint64(0x40000000)) != 0
    return r * np.where(swapped, s, c), r * np.where(swapped, c, s)


def normals_of(elements: Array, which: int, step: int, seed: int) -> Array:
    """The normal variates of the `elements` (integers from 0) of parameter `which` in a step, in float64.

    64 elements take 16 counters, whose four variates stand 16 apart.
    """
    e = elements.astype(np.uint64)
    lane, counter = e // np.uint64(16) % np.uint64(4), e // np.uint64(64) * np.uint64(16) + e % np.uint64(16)
    words = philox(
        (counter & MASK, counter >> np.uint64(32) | np.uint64(which << 8), step & 0xFFFFFFFF, step >> 32),
        (seed & 0xFFFFFFFF, seed >> 32),
    )
    later = lane >= 2
    one, other = normals(np.where(later, words[2], words[0]), np.where(later, words[3], words[1]))
    return np.where(lane % np.uint64(2) == 1, other, one)
