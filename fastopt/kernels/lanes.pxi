# Sums whose order is fixed by the data alone: blocks of SUMMED elements, in a block 16 lanes in double, of which lane j takes
# the elements j mod 16, lanes folded 8, 4, 2, 1, blocks added left to right. Down columns: blocks of STACKED rows from top to
# bottom, blocks added the same way.

cdef enum:
    LANES = 16
    SUMMED = 1024
    STACKED = 64


cdef inline double fold(double *lane) noexcept nogil:
    cdef int j
    for j in range(8):
        lane[j] = lane[j] + lane[j + 8]
    for j in range(4):
        lane[j] = lane[j] + lane[j + 4]
    return (lane[0] + lane[2]) + (lane[1] + lane[3])


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
