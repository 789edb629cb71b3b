/* exp from IEEE operations in a fixed order, so that every machine, build and the NumPy reference give the same bits.
   x = k ln 2 + r with |r| <= 0.3466; exp(r) by its Taylor polynomial of degree 13 (truncation below 2^-57); the scale
   2^k in two factors, so that results in the subnormal range are rounded once. Error below 1 ulp (measured in
   tests/test_models.py). */
#ifndef FO_EXP_H
#define FO_EXP_H

#include <stdint.h>
#include <string.h>

static inline double fo_power_of_two(int64_t k) {
    uint64_t bits = (uint64_t)(k + 1023) << 52;
    double x;
    memcpy(&x, &bits, 8);
    return x;
}

static inline double fo_exp(double x) {
    if (x != x) return x;
    if (x > 709.782712893384) return 1e308 * 1e308; /* overflows to infinity */
    if (x < -745.2) return 0.0;
    const double magic = 6755399441055744.0;         /* 1.5 * 2^52: adding it rounds to an integer */
    double k = (x * 1.4426950408889634 + magic) - magic;
    double r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10; /* ln 2, the first part with 32 bits */
    /* Estrin's scheme: pairs, then pairs of pairs, so that the multiplications need not wait for each other. */
    double r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
    double a = 0.5 + (1.0 / 6.0) * r, b = 1.0 / 24.0 + (1.0 / 120.0) * r;
    double c = 1.0 / 720.0 + (1.0 / 5040.0) * r, d = 1.0 / 40320.0 + (1.0 / 362880.0) * r;
    double e = 1.0 / 3628800.0 + (1.0 / 39916800.0) * r, f = 1.0 / 479001600.0 + (1.0 / 6227020800.0) * r;
    double y = ((a + b * r2) + (c + d * r2) * r4) + (e + f * r2) * r8;
    y = y * r2 + r;
    y = y + 1.0;
    int64_t i = (int64_t)k, half = i / 2;
    return y * fo_power_of_two(half) * fo_power_of_two(i - half);
}

#endif
