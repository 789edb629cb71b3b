# The names that every span is written in, for float64.
ctypedef double real

cdef extern from "fo_real.h" nogil:
    ctypedef double *rw "fo_rw64"
    ctypedef const double *ro "fo_ro64"
    real sqrt "fo_sqrt64"(real x)
