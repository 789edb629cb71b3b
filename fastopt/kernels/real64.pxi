# The names that every span is written in, for float64.
from libc.stdint cimport int32_t

ctypedef double real

cdef extern from "fo_real.h" nogil:
    ctypedef double *rw "fo_rw64"
    ctypedef const double *ro "fo_ro64"
    ctypedef double *rwd "fo_rw64"
    ctypedef const double *rod "fo_ro64"
    real sqrt "fo_sqrt64"(real x)
    real fabs "fo_abs64"(real x)
    double sqrt64 "fo_sqrt64"(double x)
    real sign "fo_sign64"(real x)
    const real LEAST "FO_LEAST64"
    const double TINY "FO_TINY64", TOLERANCE "FO_TOLERANCE64", BAR_MOST "FO_BAR_MOST64"

cdef extern from "fo_memory.h" nogil:
    enum:
        GATHER "FO_GATHER"

cdef extern from "fo_pow.h" nogil:
    real pow "fo_pow64"(real x, real a)

cdef extern from "fo_lanes.h" nogil:
    void zero8 "fo_zero8"(double *to)
    void add8 "fo_add8"(double *to, const double *a)
    void copy8 "fo_copy8_64"(real *to, const real *a)
    void times8 "fo_times8_64"(real *to, const real *a, const real *b)
    void scaled8 "fo_scaled8_64"(real *to, const real *a, real by)
    void moved8 "fo_moved8_64"(real *to, const real *down, const real *p, const real *rate, const real *d)
    void products8 "fo_products8_64"(double *to, const real *p, double x)

cdef extern from "fo_scores.h" nogil:
    enum:
        WIDE "fo_wide_64"
    void scores_of_models "fo_scores_64"(const bint two, const bint scaled, Py_ssize_t n, const int32_t *ids, const real *x,
                                         const real *w, Py_ssize_t stride, const real *up, const real *bias, real *out)

cdef enum:
    SERIES = 9      # terms that exact catch-up keeps of a series; the last one tells the error of the others

include "lanes.pxi"
