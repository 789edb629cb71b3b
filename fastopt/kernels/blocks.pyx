# Block operations: what happens to a block of gradient or parameter on its way to the span, and to the parameter after it,
# while it lies in the first-level cache; and the sums over blocks that are taken before a step.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "fo_philox.h" nogil:
    void fo_four_normals(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t k, uint32_t l, double *out)


cdef void block_negate(Py_ssize_t n, rw d, ro g, const real *h) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        d[i] = -g[i]


cdef void block_couple(Py_ssize_t n, rw d, ro p, const real *h) noexcept nogil:
    # Coupled weight decay: the gradient of h/2 |p|^2 joins the gradient.
    cdef real decay = h[0]
    cdef Py_ssize_t i
    for i in range(n):
        d[i] = d[i] + decay * p[i]


cdef void block_shrink(Py_ssize_t n, rw p, ro unused, const real *h) noexcept nogil:
    # Decoupled weight decay: h is 1 - lr * weight_decay.
    cdef real keep = h[0]
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = p[i] * keep


cdef void block_scale(Py_ssize_t n, rw d, ro g, const real *h) noexcept nogil:
    # Clipping: the same factor for all.
    cdef real factor = h[0]
    cdef Py_ssize_t i
    for i in range(n):
        d[i] = factor * g[i]


cdef inline real within(real x, real limit) noexcept nogil:
    # NaN stays.
    x = limit if x > limit else x
    return -limit if x < -limit else x


cdef void block_clamp(Py_ssize_t n, rw d, ro g, const real *h) noexcept nogil:
    # Each element within the limit h[0]; then h[1] times that.
    cdef real limit = h[0], factor = h[1]
    cdef Py_ssize_t i
    for i in range(n):
        d[i] = factor * within(g[i], limit)


cdef void block_multiply(Py_ssize_t n, rw d, ro unused, const real *h) noexcept nogil:
    # Each element by a factor of its own.
    cdef ro by = h
    cdef Py_ssize_t i
    for i in range(n):
        d[i] = d[i] * by[i]


# Noise. A normal variate is that of an element of a parameter in a step under a seed (fo_philox.h). The counter's words: what
# of the element's number is above 32 bits shares one with the parameter, two are the step. 64 elements, a tile, take 16
# counters: the four variates of a counter stand 16 apart, so that loops over counters write to memory in order.

cdef enum:
    AT_ONCE = 256           # counters

cdef struct Draw:
    uint64_t step, seed


cdef inline void four_normals(Py_ssize_t n, uint64_t first, uint64_t which, const Draw *at, rw z0, rw z1, rw z2,
                              rw z3) noexcept nogil:
    # Of n counters from `first` on, which share their high word.
    cdef uint32_t a = <uint32_t>first, b = <uint32_t>(first >> 32 | which << 8), c = <uint32_t>at.step
    cdef uint32_t d = <uint32_t>(at.step >> 32), k = <uint32_t>at.seed, m = <uint32_t>(at.seed >> 32)
    cdef double z[4]
    cdef Py_ssize_t i
    for i in range(n):
        fo_four_normals(a + <uint32_t>i, b, c, d, k, m, z)
        z0[i] = <real>z[0]
        z1[i] = <real>z[1]
        z2[i] = <real>z[2]
        z3[i] = <real>z[3]


cdef inline void add_scaled(Py_ssize_t n, rw d, ro z, real sigma) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        d[i] = d[i] + sigma * z[i]


cdef void block_noise(Py_ssize_t n, real *d, uint64_t element, uint64_t which, const Draw *at, const real *h) noexcept nogil:
    # Normal noise of standard deviation h[0] on n elements from number `element` of parameter `which` on.
    cdef real z[4 * AT_ONCE]
    cdef uint64_t tile, end = element + n, first, start, stop
    cdef Py_ssize_t tiles, lane, s, skipped, count
    while element < end:
        tile = element // 64
        tiles = <Py_ssize_t>((end - 1) // 64 - tile + 1)
        # Up to counters that are a multiple of AT_ONCE, so that none within is one of 2^32.
        tiles = min(tiles, AT_ONCE // 16 - <Py_ssize_t>(tile % (AT_ONCE // 16)))
        skipped, count = 0, 16 * tiles
        if tiles == 1 and element // 16 == (end - 1) // 16:         # a few of one lane
            skipped, count = <Py_ssize_t>(element % 16), <Py_ssize_t>(end - element)
        four_normals(count, tile * 16 + skipped, which, at, z, z + AT_ONCE, z + 2 * AT_ONCE, z + 3 * AT_ONCE)
        for s in range(tiles):
            for lane in range(4):
                first = (tile + s) * 64 + lane * 16
                start = first if first > element else element
                stop = first + 16 if first + 16 < end else end
                if start < stop:
                    add_scaled(stop - start, d, z + lane * AT_ONCE + 16 * s + <Py_ssize_t>(start - first) - skipped, h[0])
                    d += stop - start
        element = (tile + tiles) * 64


cdef void mean_average(Py_ssize_t n, rw m, rw p, const real *h) noexcept nogil:
    # A moving average of the parameter, exponential or arithmetic.
    cdef real keep = h[0], take = h[1]
    cdef Py_ssize_t i
    for i in range(n):
        m[i] = keep * m[i] + take * p[i]


cdef void mean_lookahead(Py_ssize_t n, rw m, rw p, const real *h) noexcept nogil:
    # The slow weights go a part of the way to the fast ones, which begin anew from there.
    cdef real alpha = h[0], mi
    cdef Py_ssize_t i
    for i in range(n):
        mi = m[i] + alpha * (p[i] - m[i])
        m[i] = mi
        p[i] = mi


cdef inline double oddness(Py_ssize_t n, ro g, double squares) noexcept nogil:
    # 0 if all of g is finite, else NaN. Mostly the sum of its squares tells; it may be infinite where no element is.
    cdef double found = squares - squares
    cdef Py_ssize_t j = 0
    if found != found:
        while j < n and g[j] - g[j] == 0:
            j += 1
        found = 0 if j == n else found
    return found


cdef void measure_norm(Py_ssize_t n, rw p, ro g, rw s0, rw s1, rw s2, rw s3, const real *h, double *acc) noexcept nogil:
    # Sum of squares; and what is 0 for finite numbers and NaN for others.
    acc[0] = lanes_squares(n, g)
    acc[1] = oddness(n, g, acc[0])


cdef void measure_clamped(Py_ssize_t n, rw p, ro g, rw s0, rw s1, rw s2, rw s3, const real *h, double *acc) noexcept nogil:
    # As measure_norm, of one block of gradient clipped to the limit h[0]; whether it is finite is asked of what was given.
    cdef real clipped[SUMMED]
    cdef real[2] only
    only[0], only[1] = h[0], 1
    block_clamp(n, clipped, g, only)
    acc[0] = lanes_squares(n, clipped)
    acc[1] = oddness(n, g, lanes_squares(n, g))


cdef void column_squares(Py_ssize_t n, rwd sums, ro g, const real *h) noexcept nogil:
    # One row more of the sums of squares down columns, of elements within the limit h[0].
    cdef real limit = h[0], x
    cdef Py_ssize_t i
    for i in range(n):
        x = within(g[i], limit)
        sums[i] = sums[i] + <double>x * <double>x


TABLE["block_scale"] = <size_t><void *>block_scale
TABLE["mean_average"] = <size_t><void *>mean_average
TABLE["mean_lookahead"] = <size_t><void *>mean_lookahead
TABLE["measure_norm"] = <size_t><void *>measure_norm
TABLE["block_negate"] = <size_t><void *>block_negate
TABLE["block_couple"] = <size_t><void *>block_couple
TABLE["block_shrink"] = <size_t><void *>block_shrink
TABLE["block_clamp"] = <size_t><void *>block_clamp
TABLE["block_multiply"] = <size_t><void *>block_multiply
TABLE["block_noise"] = <size_t><void *>block_noise
TABLE["measure_clamped"] = <size_t><void *>measure_clamped
TABLE["column_squares"] = <size_t><void *>column_squares
