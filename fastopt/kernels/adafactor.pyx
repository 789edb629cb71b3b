# Adafactor (Shazeer and Stern 2018). A parameter of more than two dimensions is a number of matrices.

from libc.string cimport memset

cdef inline void add_squares(Py_ssize_t n, rwd out, ro x) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = out[i] + <double>x[i] * <double>x[i]


cdef void adafactor_squares(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                            const real *h) noexcept nogil:
    # Sums of the squares along the rows and down the columns. Items: tiles of STACKED rows and SUMMED columns of all
    # matrices. Sizes: matrices, rows, columns. Arrays: g, sums of shape (tiles along a row, all rows) and (tiles down a
    # column, all columns).
    cdef Py_ssize_t count = sizes[0], rows = sizes[1], columns = sizes[2]
    cdef Py_ssize_t along = blocks_of(columns, SUMMED), down = blocks_of(rows, STACKED), item, k, b, s, n, r
    cdef real *g = <real *>arrays[0]
    cdef double *row_sums = <double *>arrays[1]
    cdef double *column_sums = <double *>arrays[2]
    cdef double *out
    cdef real *x
    for item in range(begin, end):
        k, b, s = item // (along * down), item // along % down, item % along
        n = at_most(columns - s * SUMMED, SUMMED)
        out = column_sums + (b * count + k) * columns + s * SUMMED
        memset(out, 0, n * sizeof(double))
        for r in range(k * rows + b * STACKED, k * rows + at_most((b + 1) * STACKED, rows)):
            x = g + r * columns + s * SUMMED
            row_sums[s * count * rows + r] = lanes_squares(n, x)
            add_squares(n, out, x)


cdef inline void divide_factored(Py_ssize_t n, rw u, ro g, ro column, real row, real least) noexcept nogil:
    cdef real v
    cdef Py_ssize_t i
    for i in range(n):
        v = row * column[i]
        v = least if v < least else v
        u[i] = g[i] / sqrt(v)


cdef inline void descend_factored(Py_ssize_t n, rw p, ro g, ro column, real row, real keep, real step,
                                  real least) noexcept nogil:
    cdef real v
    cdef Py_ssize_t i
    for i in range(n):
        v = row * column[i]
        v = least if v < least else v
        p[i] = keep * p[i] - step * (g[i] / sqrt(v))


cdef void adafactor_norm(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                         const real *h) noexcept nogil:
    # Sums of the squares of the update. Items: the blocks of all rows. Sizes: matrices, rows, columns. Arrays: g, the
    # rows' factors, the columns', sums of shape (blocks of a row, all rows). h: the least estimate.
    cdef Py_ssize_t count = sizes[0], rows = sizes[1], columns = sizes[2], blocks = blocks_of(columns, SUMMED)
    cdef Py_ssize_t item, r, b, n
    cdef real *g = <real *>arrays[0]
    cdef real *row = <real *>arrays[1]
    cdef real *column = <real *>arrays[2]
    cdef double *sums = <double *>arrays[3]
    cdef real u[SUMMED]
    for item in range(begin, end):
        r, b = item // blocks, item % blocks
        n = at_most(columns - b * SUMMED, SUMMED)
        divide_factored(n, u, g + r * columns + b * SUMMED, column + r // rows * columns + b * SUMMED, row[r], h[0])
        sums[b * count * rows + r] = lanes_squares(n, u)


cdef void adafactor(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    # The step. Items: the blocks of all rows. Sizes: rows, columns of a matrix. Arrays: p, g, the rows' factors, the
    # columns'. h: what decay leaves, the step, the least estimate.
    cdef Py_ssize_t rows = sizes[0], columns = sizes[1], blocks = blocks_of(columns, SUMMED), item, r, b, at
    cdef real *p = <real *>arrays[0]
    cdef real *g = <real *>arrays[1]
    cdef real *row = <real *>arrays[2]
    cdef real *column = <real *>arrays[3]
    for item in range(begin, end):
        r, b = item // blocks, item % blocks
        at = r * columns + b * SUMMED
        descend_factored(at_most(columns - b * SUMMED, SUMMED), p + at, g + at, column + r // rows * columns + b * SUMMED,
                         row[r], h[0], h[1], h[2])


cdef inline void moment_each(Py_ssize_t n, rw u, ro g, rw v, real keep, real take, real added, real least) noexcept nogil:
    cdef real vi
    cdef Py_ssize_t i
    for i in range(n):
        vi = keep * v[i] + take * (g[i] * g[i] + added)
        v[i] = vi
        vi = least if vi < least else vi
        u[i] = g[i] / sqrt(vi)


cdef inline void descend_vector(Py_ssize_t n, rw p, ro g, ro v, real keep, real step, real least) noexcept nogil:
    cdef real vi
    cdef Py_ssize_t i
    for i in range(n):
        vi = least if v[i] < least else v[i]
        p[i] = keep * p[i] - step * (g[i] / sqrt(vi))


cdef void adafactor_moment(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                           const real *h) noexcept nogil:
    # Of a vector, whose second moment is kept whole: the moment, and the sums of the squares of the update. Items: blocks.
    # Sizes: elements. Arrays: g, moment, sums. h: beta, 1 - beta, what is added to the squares, the least estimate.
    cdef Py_ssize_t item, at, n
    cdef real *g = <real *>arrays[0]
    cdef real *v = <real *>arrays[1]
    cdef double *sums = <double *>arrays[2]
    cdef real u[SUMMED]
    for item in range(begin, end):
        at = item * SUMMED
        n = at_most(sizes[0] - at, SUMMED)
        moment_each(n, u, g + at, v + at, h[0], h[1], h[2], h[3])
        sums[item] = lanes_squares(n, u)


cdef void adafactor_vector(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                           const real *h) noexcept nogil:
    # The step of a vector. Items: elements. Arrays: p, g, moment. h as of a matrix.
    descend_vector(end - begin, <real *>arrays[0] + begin, <real *>arrays[1] + begin, <real *>arrays[2] + begin, h[0], h[1],
                   h[2])


TABLE["adafactor_squares"] = <size_t><void *>adafactor_squares
TABLE["adafactor_norm"] = <size_t><void *>adafactor_norm
TABLE["adafactor"] = <size_t><void *>adafactor
TABLE["adafactor_moment"] = <size_t><void *>adafactor_moment
TABLE["adafactor_vector"] = <size_t><void *>adafactor_vector
