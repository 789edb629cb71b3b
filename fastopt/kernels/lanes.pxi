# Sums whose order is fixed by the data alone: blocks of SUMMED elements, in a block 16 lanes in double, of which lane j takes
# the elements j mod 16, lanes folded 8, 4, 2, 1, blocks added left to right. Down columns: blocks of STACKED rows from top to
# bottom, blocks added the same way.

cdef enum:
    LANES = 16
    SUMMED = 1024
    STACKED = 64


cdef extern from "fo_lanes.h" nogil:
    double fold "fo_fold"(const double *lane)


cdef inline double lanes_sum(Py_ssize_t count, const real *x) noexcept nogil:
    # Of one block.
    cdef double lane[LANES]
    cdef Py_ssize_t i, j, whole = count - count % LANES
    for j in range(LANES):
        lane[j] = 0
    for i in range(0, whole, 16):
        for j in range(LANES):
            lane[j] = lane[j] + <double>x[i + j]
    for j in range(count - whole):
        lane[j] = lane[j] + <double>x[whole + j]
    return fold(lane)


cdef inline double lanes_squares(Py_ssize_t count, const real *x) noexcept nogil:
    cdef double lane[LANES]
    cdef Py_ssize_t i, j, whole = count - count % LANES
    for j in range(LANES):
        lane[j] = 0
    for i in range(0, whole, 16):
        for j in range(LANES):
            lane[j] = lane[j] + <double>x[i + j] * <double>x[i + j]
    for j in range(count - whole):
        lane[j] = lane[j] + <double>x[whole + j] * <double>x[whole + j]
    return fold(lane)
