/* log x for positive, normal x, from IEEE operations in a fixed order, without branches, so that loops vectorize.
   x = 2^k m with m between sqrt(1/2) and sqrt(2), log m = 2 atanh(s) with s = (m - 1) / (m + 1), by its series to s^23
   (truncation below 2^-62). Error below 1.7 ulp (measured in tests/test_elementary.py). */
#ifndef FO_LOG_H
#define FO_LOG_H

#include "fo_exp.h"

/* k and m of x; `shift`: 1023, or what x was scaled by beside. */
static inline void fo_log_split(double x, double shift, double *k, double *m) {
    double k0 = (fo_of_bits(fo_bits(x) >> 52 | 0x4330000000000000u) - 4503599627370496.0) - shift;
    double m0 = fo_of_bits((fo_bits(x) & 0x000fffffffffffffu) | 0x3ff0000000000000u);
    *k = m0 > 1.4142135623730951 ? k0 + 1.0 : k0;
    *m = m0 > 1.4142135623730951 ? 0.5 * m0 : m0;
}

/* 2 atanh(s) - 2 s */
static inline double fo_log_rest(double s) {
    double z = s * s, z2 = z * z, z4 = z2 * z2, z8 = z4 * z4;
    double c0 = 2.0 / 3.0 + (2.0 / 5.0) * z, c1 = 2.0 / 7.0 + (2.0 / 9.0) * z, c2 = 2.0 / 11.0 + (2.0 / 13.0) * z;
    double c3 = 2.0 / 15.0 + (2.0 / 17.0) * z, c4 = 2.0 / 19.0 + (2.0 / 21.0) * z;
    return s * (z * (((c0 + c1 * z2) + (c2 + c3 * z2) * z4) + (c4 + (2.0 / 23.0) * z2) * z8));
}

static inline double fo_log(double x) {
    double k, m, s;
    fo_log_split(x, 1023.0, &k, &m);
    s = (m - 1.0) / (m + 1.0);
    return k * FO_LN2_HIGH + (k * FO_LN2_LOW + (2.0 * s + fo_log_rest(s)));
}

#endif
