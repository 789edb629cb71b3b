/* x^a for x >= 0 and a > 0, from IEEE operations in a fixed order, without branches, so that loops vectorize.
   x = 2^k m with m between sqrt(1/2) and sqrt(2), log m = 2 atanh(s) with s = (m - 1) / (m + 1), by its series to s^23
   (truncation below 2^-62); then exp. For float64 the logarithm, its product with a, and the argument of exp are sums of two
   float64, which leaves an error below 1 ulp; for float32 float64 serves, and the error is that of the last rounding. Both are
   measured in tests/test_elementary.py, for a up to 4. */
#ifndef FO_POW_H
#define FO_POW_H

#include <math.h>

#include "fo_exp.h"

/* a * b - p, where p = a * b is rounded (Dekker 1971). */
static inline double fo_lost(double a, double b, double p) {
    double a1 = 134217729.0 * a, b1 = 134217729.0 * b;
    a1 = a1 - (a1 - a);
    b1 = b1 - (b1 - b);
    double a2 = a - a1, b2 = b - b1;
    return ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2;
}

static inline double fo_pow(double x, double a, const int fine) {
    double y = x, shift = 1023.0;
    if (fine) { /* no float32 is subnormal here */
        y = x < 2.2250738585072014e-308 ? x * 18014398509481984.0 : x;
        shift = x < 2.2250738585072014e-308 ? 1077.0 : 1023.0;
    }
    double k = (fo_of_bits(fo_bits(y) >> 52 | 0x4330000000000000u) - 4503599627370496.0) - shift;
    double m = fo_of_bits((fo_bits(y) & 0x000fffffffffffffu) | 0x3ff0000000000000u);
    k = m > 1.4142135623730951 ? k + 1.0 : k;
    m = m > 1.4142135623730951 ? 0.5 * m : m;

    double f = m - 1.0, d = m + 1.0, inverse = 1.0 / d;
    double s = f * inverse, z = s * s, z2 = z * z, z4 = z2 * z2, z8 = z4 * z4;
    double c0 = 2.0 / 3.0 + (2.0 / 5.0) * z, c1 = 2.0 / 7.0 + (2.0 / 9.0) * z, c2 = 2.0 / 11.0 + (2.0 / 13.0) * z;
    double c3 = 2.0 / 15.0 + (2.0 / 17.0) * z, c4 = 2.0 / 19.0 + (2.0 / 21.0) * z;
    double rest = s * (z * (((c0 + c1 * z2) + (c2 + c3 * z2) * z4) + (c4 + (2.0 / 23.0) * z2) * z8));
    double low, high, n, r, more = 0.0;
    if (fine) {
        double p = s * d; /* what is missing in s, and in d */
        double error = (((f - p) - fo_lost(s, d, p)) - s * (m - (d - 1.0))) * inverse;
        double main = k * FO_LN2_HIGH, sum = main + 2.0 * s;
        low = (2.0 * s - (sum - main)) + (k * FO_LN2_LOW + (2.0 * error + rest));
        high = sum + low;
        low = low - (high - sum);
        p = a * high;
        low = fo_lost(a, high, p) + a * low;
        high = p;
    } else {
        high = a * (k * FO_LN2_HIGH + (k * FO_LN2_LOW + (2.0 * s + rest)));
        low = 0.0;
    }
    high = high < 710.0 ? high : 710.0;
    high = high > -746.0 ? high : -746.0;
    n = fo_round(high * FO_PER_LN2);
    f = high - n * FO_LN2_HIGH;
    low = low - n * FO_LN2_LOW;
    r = f + low;
    if (fine) more = low - (r - f);
    y = fo_scale(1.0 + (r + (fo_exp_rest(r) + more)), n);
    m = x < 0.0 ? NAN : x; /* 0, infinity and NaN are their own powers */
    y = x > 0.0 ? y : m;
    return x < INFINITY ? y : m;
}

static inline float fo_pow32(float x, float a) { return (float)fo_pow((double)x, (double)a, 0); }
static inline double fo_pow64(double x, double a) { return fo_pow(x, a, 1); }

#endif
