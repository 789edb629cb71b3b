/* exp from IEEE operations in a fixed order, so that every machine, build and the NumPy reference give the same bits.
   x = k ln 2 + r with |r| <= 0.3466; exp(r) by its Taylor polynomial of degree 13 (truncation below 2^-57); the scale
   2^k in two factors, so that results in the subnormal range are rounded once. Error below 1 ulp (measured in
   tests/test_models.py). */
#ifndef FO_EXP_H
#define FO_EXP_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define FO_MAGIC 6755399441055744.0      /* 1.5 * 2^52: adding it rounds to an integer, which stands in the low bits */
#define FO_LN2_HIGH 0.6931471803691238   /* ln 2, the first part with 32 bits */
#define FO_LN2_LOW 1.9082149292705877e-10
#define FO_PER_LN2 1.4426950408889634

static inline uint64_t fo_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    return bits;
}

static inline double fo_of_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, 8);
    return x;
}

static inline double fo_round(double x) { return (x + FO_MAGIC) - FO_MAGIC; }

/* y * 2^k, k a whole number of at most 2000 in magnitude. */
static inline double fo_scale(double y, double k) {
    double half = fo_round(k * 0.5);
    y = y * fo_of_bits(fo_bits(half + (FO_MAGIC + 1023.0)) << 52);
    return y * fo_of_bits(fo_bits((k - half) + (FO_MAGIC + 1023.0)) << 52);
}

/* exp(r) - 1 - r, by Estrin's scheme: pairs, then pairs of pairs, so that the multiplications need not wait for each other. */
static inline double fo_exp_rest(double r) {
    double r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
    double a = 0.5 + (1.0 / 6.0) * r, b = 1.0 / 24.0 + (1.0 / 120.0) * r;
    double c = 1.0 / 720.0 + (1.0 / 5040.0) * r, d = 1.0 / 40320.0 + (1.0 / 362880.0) * r;
    double e = 1.0 / 3628800.0 + (1.0 / 39916800.0) * r, f = 1.0 / 479001600.0 + (1.0 / 6227020800.0) * r;
    return (((a + b * r2) + (c + d * r2) * r4) + (e + f * r2) * r8) * r2;
}

/* exp(x) for |x| < 700, without branches, so that loops vectorize. */
static inline double fo_exp_near(double x) {
    double k = fo_round(x * FO_PER_LN2);
    double r = (x - k * FO_LN2_HIGH) - k * FO_LN2_LOW;
    return fo_scale(fo_exp_rest(r) + r + 1.0, k);
}

static inline double fo_exp(double x) {
    if (x != x) return x;
    if (x > 709.782712893384) return 1e308 * 1e308; /* overflows to infinity */
    if (x < -745.2) return 0.0;
    return fo_exp_near(x);
}

/* The same bits without branches, so that loops vectorize. */
static inline double fo_exp_flat(double x) {
    double in = x > 709.782712893384 ? 0.0 : x;
    double y = fo_exp_near(in < -745.2 ? 0.0 : in);
    y = x > 709.782712893384 ? 1e308 * 1e308 : y;
    y = x < -745.2 ? 0.0 : y;
    return x != x ? x : y;
}

#endif
