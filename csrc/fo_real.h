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

#endif
