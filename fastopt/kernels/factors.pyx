# Factorization machines: what pairs of features add to the score of a sample, and its gradient. Each entry of the sample has
# `fields` vectors of `width` numbers side by side, one for each field among the sample's entries: the first where there are
# no fields (Rendle 2010), else that which meets the entries of the field (Juan et al. 2016). Entry i is of field[i].
#
# All of it comes from sums over entries, whose cost is linear in their number: sums[a][b] = sum of x_i v_ib over the entries i
# of field a. Then two entries of fields a and b add <sums[a][b], sums[b][a]>, and those of one field (|sums[a][a]|^2 - the
# sum of their squares) / 2. Each number of a vector is summed on its own, from the first entry to the last. Widths are 4, or
# multiples of 8; the numbers beyond the rank are zeros, and add nothing.

from libc.stdint cimport int32_t


cdef inline void sum_tile(Py_ssize_t entries, Py_ssize_t width, ro v, ro x, rw sums, rw squares, const int tile) noexcept nogil:
    # `tile` numbers of each vector, which stay in registers.
    cdef real s[8]
    cdef real q[8]
    cdef real t
    cdef Py_ssize_t i
    cdef int j
    for j in range(tile):
        s[j] = q[j] = 0
    for i in range(entries):
        for j in range(tile):
            t = x[i] * v[i * width + j]
            s[j] = s[j] + t
            q[j] = q[j] + t * t
    for j in range(tile):
        sums[j], squares[j] = s[j], q[j]


cdef inline void sum_fields(Py_ssize_t entries, Py_ssize_t fields, Py_ssize_t width, ro v, ro x, const int32_t *field,
                            rw sums, rw squares) noexcept nogil:
    cdef Py_ssize_t row = fields * width, i, j
    cdef rw to
    cdef ro of
    cdef real t
    for j in range(fields * row):
        sums[j] = 0
    for j in range(row):
        squares[j] = 0
    for i in range(entries):
        of, to = v + i * row, sums + field[i] * row
        for j in range(row):
            to[j] = to[j] + x[i] * of[j]
        of, to = of + field[i] * width, squares + field[i] * width
        for j in range(width):
            t = x[i] * of[j]
            to[j] = to[j] + t * t


cdef double factor_score(Py_ssize_t entries, Py_ssize_t fields, Py_ssize_t width, ro v, ro x, const int32_t *field, rw sums,
                         rw squares) noexcept nogil:
    cdef double own[4]
    cdef double cross[4]
    cdef double s
    cdef Py_ssize_t a, b, c = 0, row = fields * width
    cdef ro one
    cdef ro other
    cdef int j
    if fields > 1:
        sum_fields(entries, fields, width, v, x, field, sums, squares)
    elif width == 4:
        sum_tile(entries, 4, v, x, sums, squares, 4)
    elif width == 8:
        sum_tile(entries, 8, v, x, sums, squares, 8)
    else:
        while c < width:
            sum_tile(entries, width, v + c, x, sums + c, squares + c, 8)
            c = c + 8
    for j in range(4):
        own[j] = cross[j] = 0
    for a in range(fields):
        one, other, c = sums + a * row + a * width, squares + a * width, 0
        while c < width:
            for j in range(4):
                s = <double>one[c + j]
                own[j] = own[j] + (s * s - <double>other[c + j])
            c = c + 4
    for a in range(fields):
        for b in range(a + 1, fields):
            one, other, c = sums + a * row + b * width, sums + b * row + a * width, 0
            while c < width:
                for j in range(4):
                    cross[j] = cross[j] + <double>one[c + j] * <double>other[c + j]
                c = c + 4
    return 0.5 * ((own[0] + own[2]) + (own[1] + own[3])) + ((cross[0] + cross[2]) + (cross[1] + cross[3]))


cdef inline void spread_tile(Py_ssize_t entries, Py_ssize_t width, rw g, ro v, ro x, ro sums, real slope,
                             const int tile) noexcept nogil:
    cdef real s[8]
    cdef real by
    cdef Py_ssize_t i
    cdef int j
    for j in range(tile):
        s[j] = sums[j]
    for i in range(entries):
        by = slope * x[i]
        for j in range(tile):
            g[i * width + j] = by * (s[j] - x[i] * v[i * width + j])


cdef void factor_spread(Py_ssize_t entries, Py_ssize_t fields, Py_ssize_t width, rw g, ro v, ro x, const int32_t *field,
                        ro sums, real slope) noexcept nogil:
    # The gradient of the vectors, after factor_score has made the sums; `slope` is the derivative of the loss by the score.
    cdef Py_ssize_t i, j, b, c = 0, row = fields * width
    cdef rw to
    cdef ro of
    cdef ro sum
    cdef real by
    if fields == 1:
        if width == 4:
            spread_tile(entries, 4, g, v, x, sums, slope, 4)
        elif width == 8:
            spread_tile(entries, 8, g, v, x, sums, slope, 8)
        else:
            while c < width:
                spread_tile(entries, width, g + c, v + c, x, sums + c, slope, 8)
                c = c + 8
        return
    for i in range(entries):
        by = slope * x[i]
        for b in range(fields):
            to, of, sum = g + i * row + b * width, v + i * row + b * width, sums + b * row + field[i] * width
            if b == field[i]:
                for j in range(width):
                    to[j] = by * (sum[j] - x[i] * of[j])
            else:
                for j in range(width):
                    to[j] = by * sum[j]


TABLE["factor_score"] = <size_t><void *>factor_score
TABLE["factor_spread"] = <size_t><void *>factor_spread
