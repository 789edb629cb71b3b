# Batch normalization (Ioffe and Szegedy 2015) of the columns of a matrix.
#
# The centre of a column, whose mean is a double, is taken as two numbers of the dtype, hi + lo: a column far from 0 is centred
# as well as its elements allow, without a double for each element. Tiles have STACKED rows, which the order of the sums is made
# of, and SUMMED columns, on which no sum depends: they stay in the cache from the first look to the second.

from libc.string cimport memcpy, memset

cdef enum:
    STRIP = 256         # room for narrow rows, many of which are taken as one


cdef inline void bn_add(Py_ssize_t n, rwd out, ro x, Py_ssize_t columns) noexcept nogil:
    # Four rows, one after the other: the sums are fetched and stored once for all four.
    cdef Py_ssize_t i, at1 = columns, at2 = 2 * columns, at3 = 3 * columns
    for i in range(n):
        out[i] = (((out[i] + <double>x[i]) + <double>x[i + at1]) + <double>x[i + at2]) + <double>x[i + at3]


cdef inline void bn_add_one(Py_ssize_t n, rwd out, ro x) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = out[i] + <double>x[i]


cdef inline void bn_spread(Py_ssize_t n, rwd out, rod mean, ro x, Py_ssize_t columns) noexcept nogil:
    cdef double e, e1, e2, e3
    cdef Py_ssize_t i, at1 = columns, at2 = 2 * columns, at3 = 3 * columns
    for i in range(n):
        e = <double>x[i] - mean[i]
        e1 = <double>x[i + at1] - mean[i]
        e2 = <double>x[i + at2] - mean[i]
        e3 = <double>x[i + at3] - mean[i]
        out[i] = (((out[i] + e * e) + e1 * e1) + e2 * e2) + e3 * e3


cdef inline void bn_spread_one(Py_ssize_t n, rwd out, rod mean, ro x) noexcept nogil:
    cdef double e
    cdef Py_ssize_t i
    for i in range(n):
        e = <double>x[i] - mean[i]
        out[i] = out[i] + e * e


cdef inline void bn_divide(Py_ssize_t n, rwd out, double count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = out[i] / count


cdef void batchnorm_statistics(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                               const real *h) noexcept nogil:
    # Of each block of rows: the sum of a column, and that of the squares around the block's own mean. Items: tiles. Sizes:
    # rows, columns. Arrays: x, what is found, of shape (blocks, 2, columns).
    cdef Py_ssize_t rows = sizes[0], columns = sizes[1], along = blocks_of(columns, SUMMED), item, b, s, n, r, stop, whole
    cdef const real *x
    cdef double *sums
    cdef double mean[SUMMED]
    for item in range(begin, end):
        b, s = item // along, item % along
        n = at_most(columns - s * SUMMED, SUMMED)
        stop = at_most(rows - b * STACKED, STACKED)
        whole = stop - stop % 4
        x = <const real *>arrays[0] + b * STACKED * columns + s * SUMMED
        sums = <double *>arrays[1] + 2 * b * columns + s * SUMMED
        memset(sums, 0, n * sizeof(double))
        memset(sums + columns, 0, n * sizeof(double))
        for r in range(0, whole, 4):
            bn_add(n, sums, x + r * columns, columns)
        for r in range(whole, stop):
            bn_add_one(n, sums, x + r * columns)
        memcpy(mean, sums, n * sizeof(double))
        bn_divide(n, mean, <double>stop)
        for r in range(0, whole, 4):
            bn_spread(n, sums + columns, mean, x + r * columns, columns)
        for r in range(whole, stop):
            bn_spread_one(n, sums + columns, mean, x + r * columns)


cdef inline void bn_merge_one(Py_ssize_t n, rwd out, rod mean, rod sums, rod squares, double count) noexcept nogil:
    cdef double d
    cdef Py_ssize_t i
    for i in range(n):
        d = sums[i] / count - mean[i]
        out[i] = out[i] + (squares[i] + count * (d * d))


cdef void batchnorm_merge(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                          const real *h) noexcept nogil:
    # Mean and biased variance of all rows, from those of the blocks (Chan, Golub and LeVeque 1979). Items: columns. Sizes:
    # rows (at least 1), columns. Arrays, all double: what batchnorm_statistics found, moments of shape (2, columns), the rows
    # of each block.
    cdef Py_ssize_t rows = sizes[0], columns = sizes[1], blocks = blocks_of(rows, STACKED), k, b, at, n
    cdef const double *found
    cdef const double *count = <const double *>arrays[2]
    cdef double *mean
    cdef double *var
    for k in range(blocks_of(end - begin, SUMMED)):
        at = begin + k * SUMMED
        n = at_most(end - at, SUMMED)
        found = <const double *>arrays[0] + at
        mean = <double *>arrays[1] + at
        var = mean + columns
        memcpy(mean, found, n * sizeof(double))
        for b in range(1, blocks):
            add_sums(n, mean, found + 2 * b * columns)
        bn_divide(n, mean, <double>rows)
        memset(var, 0, n * sizeof(double))
        for b in range(blocks):
            bn_merge_one(n, var, mean, found + 2 * b * columns, found + (2 * b + 1) * columns, count[b])
        bn_divide(n, var, <double>rows)


cdef inline void bn_scales(Py_ssize_t n, rw hi, rw lo, rw scale, rwd invstd, rod mean, rod var, ro weight,
                           double eps) noexcept nogil:
    cdef double inv
    cdef real high
    cdef Py_ssize_t i
    for i in range(n):
        high = <real>mean[i]
        inv = 1.0 / sqrt64(var[i] + eps)
        hi[i] = high
        lo[i] = <real>(mean[i] - <double>high)
        scale[i] = <real>(inv * <double>weight[i])
        invstd[i] = inv


cdef void batchnorm_scales(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                           const real *h) noexcept nogil:
    # What the passes over the elements read. Items: columns. Sizes: columns. Arrays: centre and scale of shape (3, columns);
    # in double: 1 / standard deviation, moments of shape (2, columns), epsilon; weight.
    cdef Py_ssize_t columns = sizes[0]
    cdef real *out = <real *>arrays[0] + begin
    cdef double *moments = <double *>arrays[2] + begin
    bn_scales(end - begin, out, out + columns, out + 2 * columns, <double *>arrays[1] + begin, moments, moments + columns,
              <real *>arrays[4] + begin, (<double *>arrays[3])[0])


cdef inline void bn_track(Py_ssize_t n, rw mean, rw var, rod new_mean, rod new_var, const double *how) noexcept nogil:
    cdef double keep = how[0], take = how[1], unbiased = how[2]
    cdef Py_ssize_t i
    for i in range(n):
        mean[i] = <real>(keep * <double>mean[i] + take * new_mean[i])
        var[i] = <real>(keep * <double>var[i] + take * (unbiased * new_var[i]))


cdef void batchnorm_track(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                          const real *h) noexcept nogil:
    # Running statistics. Items: columns. Sizes: columns. Arrays: running mean and variance of shape (2, columns); in double:
    # moments of that shape, three numbers: what remains of the old ones, what is taken of the new, n / (n - 1).
    cdef Py_ssize_t columns = sizes[0]
    cdef real *running = <real *>arrays[0] + begin
    cdef double *moments = <double *>arrays[1] + begin
    bn_track(end - begin, running, running + columns, moments, moments + columns, <double *>arrays[2])


cdef inline void bn_apply(Py_ssize_t n, rw y, ro x, ro hi, ro lo, ro scale, ro bias) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = ((x[i] - hi[i]) - lo[i]) * scale[i] + bias[i]


cdef inline Py_ssize_t bn_repeat(real *out, const real *rows, Py_ssize_t count, Py_ssize_t columns) noexcept nogil:
    # Narrow rows, `count` of them, each so often in a row as a strip has room for; how much of the strip that fills. Then many
    # rows of a matrix are one loop.
    cdef Py_ssize_t full = STRIP // columns * columns, k, done
    for k in range(count):
        memcpy(out + k * STRIP, rows + k * columns, columns * sizeof(real))
        done = columns
        while done < full:
            memcpy(out + k * STRIP + done, out + k * STRIP, at_most(done, full - done) * sizeof(real))
            done = 2 * done
    return full


cdef void batchnorm_apply(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                          const real *h) noexcept nogil:
    # Items: tiles. Sizes: rows, columns. Arrays: y, x, centre and scale, bias.
    cdef Py_ssize_t rows = sizes[0], columns = sizes[1], along = blocks_of(columns, SUMMED), item, b, s, n, r, at, stop
    cdef real *centre
    cdef real wide[4 * STRIP]
    if 2 * columns <= STRIP:
        n = bn_repeat(wide, <real *>arrays[2], 3, columns)
        bn_repeat(wide + 3 * STRIP, <real *>arrays[3], 1, columns)
        at, stop = begin * STACKED * columns, at_most(end * STACKED, rows) * columns
        while at < stop:
            bn_apply(at_most(stop - at, n), <real *>arrays[0] + at, <real *>arrays[1] + at, wide, wide + STRIP,
                     wide + 2 * STRIP, wide + 3 * STRIP)
            at = at + n
        return
    for item in range(begin, end):
        b, s = item // along, item % along
        n = at_most(columns - s * SUMMED, SUMMED)
        centre = <real *>arrays[2] + s * SUMMED
        for r in range(b * STACKED, at_most((b + 1) * STACKED, rows)):
            at = r * columns + s * SUMMED
            bn_apply(n, <real *>arrays[0] + at, <real *>arrays[1] + at, centre, centre + columns, centre + 2 * columns,
                     <real *>arrays[3] + s * SUMMED)


# Backward.

cdef inline void bn_gather(Py_ssize_t n, rwd sums, rwd products, ro g, ro x, ro hi, ro lo, Py_ssize_t columns) noexcept nogil:
    cdef double d, d1, d2, d3, e, e1, e2, e3
    cdef Py_ssize_t i, at1 = columns, at2 = 2 * columns, at3 = 3 * columns
    for i in range(n):
        d, d1, d2, d3 = <double>g[i], <double>g[i + at1], <double>g[i + at2], <double>g[i + at3]
        e = <double>((x[i] - hi[i]) - lo[i])
        e1 = <double>((x[i + at1] - hi[i]) - lo[i])
        e2 = <double>((x[i + at2] - hi[i]) - lo[i])
        e3 = <double>((x[i + at3] - hi[i]) - lo[i])
        sums[i] = (((sums[i] + d) + d1) + d2) + d3
        products[i] = (((products[i] + d * e) + d1 * e1) + d2 * e2) + d3 * e3


cdef inline void bn_gather_one(Py_ssize_t n, rwd sums, rwd products, ro g, ro x, ro hi, ro lo) noexcept nogil:
    cdef double d
    cdef Py_ssize_t i
    for i in range(n):
        d = <double>g[i]
        sums[i] = sums[i] + d
        products[i] = products[i] + d * <double>((x[i] - hi[i]) - lo[i])


cdef void batchnorm_gather(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                           const real *h) noexcept nogil:
    # Of each block of rows: the sum of dy, and that of dy times the centred x. Items: tiles. Sizes: rows, columns. Arrays:
    # dy, x, centre and scale, sums of shape (blocks, 2, columns).
    cdef Py_ssize_t rows = sizes[0], columns = sizes[1], along = blocks_of(columns, SUMMED), item, b, s, n, r, at, stop, whole
    cdef const real *g
    cdef const real *x
    cdef real *centre
    cdef double *sums
    for item in range(begin, end):
        b, s = item // along, item % along
        n = at_most(columns - s * SUMMED, SUMMED)
        stop = at_most(rows - b * STACKED, STACKED)
        whole = stop - stop % 4
        at = b * STACKED * columns + s * SUMMED
        g = <const real *>arrays[0] + at
        x = <const real *>arrays[1] + at
        centre = <real *>arrays[2] + s * SUMMED
        sums = <double *>arrays[3] + 2 * b * columns + s * SUMMED
        memset(sums, 0, n * sizeof(double))
        memset(sums + columns, 0, n * sizeof(double))
        for r in range(0, whole, 4):
            bn_gather(n, sums, sums + columns, g + r * columns, x + r * columns, centre, centre + columns, columns)
        for r in range(whole, stop):
            bn_gather_one(n, sums, sums + columns, g + r * columns, x + r * columns, centre, centre + columns)


cdef inline void bn_slopes(Py_ssize_t n, rw level, rw slope, rw weight, rw bias, rod sums, rod products, rod invstd,
                           double count) noexcept nogil:
    cdef double xhat
    cdef Py_ssize_t i
    for i in range(n):
        xhat = products[i] * invstd[i]
        weight[i] = <real>xhat
        bias[i] = <real>sums[i]
        level[i] = <real>(sums[i] / count)
        slope[i] = <real>(xhat * invstd[i] / count)


cdef void batchnorm_slopes(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                           const real *h) noexcept nogil:
    # The gradients of weight and bias, and what the passage over the elements takes off dy: a level, and a slope along the
    # centred x. Items: columns. Sizes: columns. Arrays: level and slope of shape (2, columns), the gradients of that
    # shape; in double: sums of that shape, 1 / standard deviation, rows.
    cdef Py_ssize_t columns = sizes[0]
    cdef real *out = <real *>arrays[0] + begin
    cdef real *grads = <real *>arrays[1] + begin
    cdef double *sums = <double *>arrays[2] + begin
    bn_slopes(end - begin, out, out + columns, grads, grads + columns, sums, sums + columns, <double *>arrays[3] + begin,
              (<double *>arrays[4])[0])


cdef inline void bn_backward(Py_ssize_t n, rw dx, ro g, ro x, ro hi, ro lo, ro scale, ro level, ro slope) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        dx[i] = ((g[i] - level[i]) - ((x[i] - hi[i]) - lo[i]) * slope[i]) * scale[i]


cdef void batchnorm_backward(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                             const real *h) noexcept nogil:
    # Items: tiles. Sizes: rows, columns. Arrays: dx, dy, x, centre and scale, level and slope.
    cdef Py_ssize_t rows = sizes[0], columns = sizes[1], along = blocks_of(columns, SUMMED), item, b, s, n, r, at, stop
    cdef real *centre
    cdef real *level
    cdef real wide[5 * STRIP]
    if 2 * columns <= STRIP:
        n = bn_repeat(wide, <real *>arrays[3], 3, columns)
        bn_repeat(wide + 3 * STRIP, <real *>arrays[4], 2, columns)
        at, stop = begin * STACKED * columns, at_most(end * STACKED, rows) * columns
        while at < stop:
            bn_backward(at_most(stop - at, n), <real *>arrays[0] + at, <real *>arrays[1] + at,
                        <real *>arrays[2] + at, wide, wide + STRIP, wide + 2 * STRIP, wide + 3 * STRIP, wide + 4 * STRIP)
            at = at + n
        return
    for item in range(begin, end):
        b, s = item // along, item % along
        n = at_most(columns - s * SUMMED, SUMMED)
        centre = <real *>arrays[3] + s * SUMMED
        level = <real *>arrays[4] + s * SUMMED
        for r in range(b * STACKED, at_most((b + 1) * STACKED, rows)):
            at = r * columns + s * SUMMED
            bn_backward(n, <real *>arrays[0] + at, <real *>arrays[1] + at, <real *>arrays[2] + at, centre, centre + columns,
                        centre + 2 * columns, level, level + columns)


cdef inline void bn_scale(Py_ssize_t n, rw dx, ro g, ro scale) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        dx[i] = g[i] * scale[i]


cdef void batchnorm_backward_running(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                                     const real *h) noexcept nogil:
    # With statistics that do not depend on x. Items: tiles. Sizes: rows, columns. Arrays: dx, dy, centre and scale.
    cdef Py_ssize_t rows = sizes[0], columns = sizes[1], along = blocks_of(columns, SUMMED), item, b, s, r, at
    for item in range(begin, end):
        b, s = item // along, item % along
        for r in range(b * STACKED, at_most((b + 1) * STACKED, rows)):
            at = r * columns + s * SUMMED
            bn_scale(at_most(columns - s * SUMMED, SUMMED), <real *>arrays[0] + at, <real *>arrays[1] + at,
                     <real *>arrays[2] + 2 * columns + s * SUMMED)


TABLE["batchnorm_statistics"] = <size_t><void *>batchnorm_statistics
TABLE["batchnorm_merge"] = <size_t><void *>batchnorm_merge
TABLE["batchnorm_scales"] = <size_t><void *>batchnorm_scales
TABLE["batchnorm_track"] = <size_t><void *>batchnorm_track
TABLE["batchnorm_apply"] = <size_t><void *>batchnorm_apply
TABLE["batchnorm_gather"] = <size_t><void *>batchnorm_gather
TABLE["batchnorm_slopes"] = <size_t><void *>batchnorm_slopes
TABLE["batchnorm_backward"] = <size_t><void *>batchnorm_backward
TABLE["batchnorm_backward_running"] = <size_t><void *>batchnorm_backward_running
