/* x^a for x >= 0 and a > 0, from IEEE operations in a fixed order, without branches, so that loops vectorize.
   log x by the series of fo_log.h, then exp. For float64 the logarithm, its product with a, and the argument of exp are sums of two
   float64, which leaves an error below 1 ulp; for float32 float64 serves, and the error is that of the last rounding. Both are
   measured in tests/test_elementary.py, for a up to 4. */
#ifndef FO_POW_H
#define FO_POW_H

#include <math.h>

#include "fo_log.h"

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
    double k, m;
    fo_log_split(y, shift, &k, &m);
    double f = m - 1.0, d = m + 1.0, inverse = 1.0 / d, s = f * inverse, rest = fo_log_rest(s);
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
