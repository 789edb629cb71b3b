# The names that every span is written in, for float32.
ctypedef float real

cdef extern from "fo_real.h" nogil:
    ctypedef float *rw "fo_rw32"
    ctypedef const float *ro "fo_ro32"
    real sqrt "fo_sqrt32"(real x)
