/* The element types of the spans. `restrict` is what lets the compiler vectorize a loop over six arrays without
   run-time overlap tests; Cython can only say it through a typedef. */
#ifndef FO_REAL_H
#define FO_REAL_H

#include <math.h>

#if defined(_MSC_VER)
#define FO_RESTRICT __restrict
#else
#define FO_RESTRICT __restrict__
#endif

typedef float *FO_RESTRICT fo_rw32;
typedef const float *FO_RESTRICT fo_ro32;
typedef double *FO_RESTRICT fo_rw64;
typedef const double *FO_RESTRICT fo_ro64;

/* sqrtf, not sqrt: a double root of a float would convert twice and halve the vector width. */
static inline float fo_sqrt32(float x) { return sqrtf(x); }
static inline double fo_sqrt64(double x) { return sqrt(x); }
static inline float fo_abs32(float x) { return fabsf(x); }
static inline double fo_abs64(double x) { return fabs(x); }

/* -1 or 1; zero and NaN stay as they are. */
static inline float fo_sign32(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x; }
static inline double fo_sign64(double x) { return x > 0 ? 1.0 : x < 0 ? -1.0 : x; }

/* Smallest normal number, smallest number above 0; the relative error allowed where a series is cut; a root that no state exceeds. */
#define FO_TINY32 1.1754943508222875e-38
#define FO_TINY64 2.2250738585072014e-308
#define FO_LEAST32 0x1p-149f
#define FO_LEAST64 0x1p-1074
#define FO_TOLERANCE32 0x1p-26
#define FO_TOLERANCE64 0x1p-44
#define FO_BAR_MOST32 1e19
#define FO_BAR_MOST64 1e150

#endif
