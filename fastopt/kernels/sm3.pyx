# SM3-II (Anil, Gupta, Koren and Singer 2019) on a matrix.
# Items: tiles of STACKED rows and SUMMED columns. Sizes: rows, columns. Arrays: p, g, the rows' accumulators, the columns',
# the largest moment of each row in each tile, of shape (tiles along a row, rows), of each column, of shape (tiles down a
# column, columns); momentum. h: what decay leaves, lr, eps; momentum, 1 - momentum.

from libc.string cimport memset

cdef inline real smaller(real a, real b) noexcept nogil:
    return a if (a < b) | (a != a) else b


cdef inline void sm3_row(Py_ssize_t n, rw p, ro g, ro column, rw largest, rw moment, real row, const real *h) noexcept nogil:
    cdef real keep = h[0], lr = h[1], eps = h[2], v
    cdef Py_ssize_t i
    for i in range(n):
        v = smaller(row, column[i]) + g[i] * g[i]
        p[i] = keep * p[i] - lr * (g[i] / sqrt(v + eps))
        largest[i] = larger(largest[i], v)
        moment[i] = v


cdef inline void sm3_momentum_row(Py_ssize_t n, rw p, ro g, ro column, rw largest, rw moment, rw m, real row,
                                  const real *h) noexcept nogil:
    cdef real keep = h[0], lr = h[1], eps = h[2], keep1 = h[3], take1 = h[4], v, mi
    cdef Py_ssize_t i
    for i in range(n):
        v = smaller(row, column[i]) + g[i] * g[i]
        mi = keep1 * m[i] + take1 * (g[i] / sqrt(v + eps))
        p[i] = keep * p[i] - lr * mi
        m[i] = mi
        largest[i] = larger(largest[i], v)
        moment[i] = v


cdef inline void sm3_tiles(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h,
                           const bint momentum) noexcept nogil:
    cdef Py_ssize_t rows = sizes[0], columns = sizes[1], along = blocks_of(columns, SUMMED), item, b, s, n, r, at
    cdef real *p = <real *>arrays[0]
    cdef real *g = <real *>arrays[1]
    cdef real *row = <real *>arrays[2]
    cdef real *column = <real *>arrays[3]
    cdef real *row_largest = <real *>arrays[4]
    cdef real *column_largest = <real *>arrays[5]
    cdef real *m = <real *>arrays[6]
    cdef real moment[SUMMED]
    for item in range(begin, end):
        b, s = item // along, item % along
        n = at_most(columns - s * SUMMED, SUMMED)
        memset(column_largest + b * columns + s * SUMMED, 0, n * sizeof(real))
        for r in range(b * STACKED, at_most((b + 1) * STACKED, rows)):
            at = r * columns + s * SUMMED
            if momentum:
                sm3_momentum_row(n, p + at, g + at, column + s * SUMMED, column_largest + b * columns + s * SUMMED, moment,
                                 m + at, row[r], h)
            else:
                sm3_row(n, p + at, g + at, column + s * SUMMED, column_largest + b * columns + s * SUMMED, moment, row[r], h)
            row_largest[s * rows + r] = largest_of(n, moment)


cdef void sm3(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    sm3_tiles(begin, end, sizes, arrays, h, False)


cdef void sm3_momentum(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    sm3_tiles(begin, end, sizes, arrays, h, True)


TABLE["sm3"] = <size_t><void *>sm3
TABLE["sm3_momentum"] = <size_t><void *>sm3_momentum
