/* Random numbers that are a pure function of a counter and a key: Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011), and normal
   variates by Box and Muller's method from IEEE operations in a fixed order, without branches, so that loops vectorize. Sine
   and cosine are their Taylor polynomials up to an eighth of a turn (truncation below 2^-60), error below 1.5 ulp (measured in
   tests/test_elementary.py). */
#ifndef FO_PHILOX_H
#define FO_PHILOX_H

#include <math.h>

#include "fo_log.h"

#define FO_PHILOX_ROUND                                                 \
    p = (uint64_t)0xD2511F53u * a, q = (uint64_t)0xCD9E8D57u * c;       \
    a = (uint32_t)(q >> 32) ^ b ^ k, c = (uint32_t)(p >> 32) ^ d ^ l;   \
    b = (uint32_t)q, d = (uint32_t)p, k += 0x9E3779B9u, l += 0xBB67AE85u;

/* The four words of the counter (a, b, c, d) under the key (k, l). */
static inline void fo_philox(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t k, uint32_t l, uint32_t *out) {
    uint64_t p, q;
    FO_PHILOX_ROUND FO_PHILOX_ROUND FO_PHILOX_ROUND FO_PHILOX_ROUND FO_PHILOX_ROUND
    FO_PHILOX_ROUND FO_PHILOX_ROUND FO_PHILOX_ROUND FO_PHILOX_ROUND FO_PHILOX_ROUND
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

/* sin and cos of x quarter turns, |x| <= 1/2. */
static inline void fo_circle(double x, double *sine, double *cosine) {
    double t = 1.5707963267948966 * x, z = t * t, z2 = z * z, z4 = z2 * z2;
    double a = -1.0 / 6.0 + (1.0 / 120.0) * z, b = -1.0 / 5040.0 + (1.0 / 362880.0) * z;
    double c = -1.0 / 39916800.0 + (1.0 / 6227020800.0) * z, d = -1.0 / 1307674368000.0 + (1.0 / 355687428096000.0) * z;
    double e = 1.0 / 24.0 - (1.0 / 720.0) * z, f = 1.0 / 40320.0 - (1.0 / 3628800.0) * z;
    double g = 1.0 / 479001600.0 - (1.0 / 87178291200.0) * z;
    *sine = t + t * (z * ((a + b * z2) + (c + d * z2) * z4));
    *cosine = 1.0 + (-0.5 * z + z2 * ((e + f * z2) + (g + (1.0 / 20922789888000.0) * z2) * z4));
}

/* Two independent normal variates of two words: the first gives the distance, the second the direction. */
static inline void fo_normals(uint32_t first, uint32_t second, double *one, double *other) {
    double u = ((fo_of_bits(0x4330000000000000u | first) - 4503599627370496.0) + 0.5) * (1.0 / 4294967296.0);
    double x = fo_of_bits(0x4330000000000000u | (second & 0x3fffffffu)) - 4503599627370496.0, s, c, r;
    fo_circle((x + 0.5) * (1.0 / 1073741824.0) - 0.5, &s, &c);
    r = sqrt(-2.0 * fo_log(u));
    r = second & 0x80000000u ? -r : r;
    *one = r * (second & 0x40000000u ? s : c);
    *other = r * (second & 0x40000000u ? c : s);
}

/* Four normal variates of a counter. */
static inline void fo_four_normals(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t k, uint32_t l, double *out) {
    uint32_t words[4];
    fo_philox(a, b, c, d, k, l, words);
    fo_normals(words[0], words[1], out, out + 1);
    fo_normals(words[2], words[3], out + 2, out + 3);
}

#endif
