# What the passes over whole matrices have in common: sums in the order of lanes.pxi, and their own passes.
#
# A pass is pass(begin, end, sizes, arrays, h): its work is a number of items that do not depend on each other, of which
# it does those from `begin` to `end`; what the items, the sizes and the arrays are, each pass says. Sums of blocks are
# added by `fold_sums`. The maximum needs no order; one NaN makes it NaN.

from libc.stdint cimport int64_t
from libc.string cimport memcpy

cdef inline Py_ssize_t blocks_of(Py_ssize_t count, Py_ssize_t size) noexcept nogil:
    return (count + size - 1) // size


cdef inline Py_ssize_t at_most(Py_ssize_t count, Py_ssize_t most) noexcept nogil:
    return count if count < most else most


cdef inline real larger(real a, real b) noexcept nogil:
    return b if (b > a) | (b != b) else a


cdef inline void raise_to(Py_ssize_t n, rw out, ro x) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = larger(out[i], x[i])


cdef inline real largest_of(Py_ssize_t count, real *x) noexcept nogil:
    # Of at least one number, none of them negative; overwrites them. By halves, which the compiler vectorizes.
    cdef Py_ssize_t half, j
    cdef real found
    while count > 4:
        half = (count + 1) // 2
        raise_to(count - half, x, x + half)
        count = half
    found = x[0]
    for j in range(1, count):
        found = larger(found, x[j])
    return found


cdef void sum_blocks(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    # Items: the blocks of all rows. Sizes: rows, width. Arrays: x, sums of shape (blocks of a row, rows).
    cdef Py_ssize_t rows = sizes[0], width = sizes[1], blocks = blocks_of(width, SUMMED), item, r, b
    cdef const real *x = <const real *>arrays[0]
    cdef double *sums = <double *>arrays[1]
    for item in range(begin, end):
        r, b = item // blocks, item % blocks
        sums[b * rows + r] = lanes_sum(at_most(width - b * SUMMED, SUMMED), x + r * width + b * SUMMED)


cdef void square_blocks(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                        const real *h) noexcept nogil:
    # As sum_blocks, of the squares.
    cdef Py_ssize_t rows = sizes[0], width = sizes[1], blocks = blocks_of(width, SUMMED), item, r, b
    cdef const real *x = <const real *>arrays[0]
    cdef double *sums = <double *>arrays[1]
    for item in range(begin, end):
        r, b = item // blocks, item % blocks
        sums[b * rows + r] = lanes_squares(at_most(width - b * SUMMED, SUMMED), x + r * width + b * SUMMED)


cdef inline void add_sums(Py_ssize_t n, rwd out, rod x) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = out[i] + x[i]


cdef void fold_sums(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    # Items: columns. Sizes: blocks (at least 1), columns. Arrays: sums of shape (blocks, columns), their total, both double.
    cdef Py_ssize_t blocks = sizes[0], columns = sizes[1], k, b, at, m
    cdef double *sums = <double *>arrays[0]
    cdef double *out = <double *>arrays[1]
    for k in range(blocks_of(end - begin, SUMMED)):         # what is added to stays in the first-level cache
        at = begin + k * SUMMED
        m = at_most(end - at, SUMMED)
        memcpy(out + at, sums + at, m * sizeof(double))
        for b in range(1, blocks):
            add_sums(m, out + at, sums + b * columns + at)


cdef void fold_largest(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                       const real *h) noexcept nogil:
    # Items: columns. Sizes: blocks, columns. Arrays: x of shape (blocks, columns), and what is raised to the largest.
    cdef Py_ssize_t blocks = sizes[0], columns = sizes[1], k, b, at, m
    cdef real *x = <real *>arrays[0]
    cdef real *out = <real *>arrays[1]
    for k in range(blocks_of(end - begin, SUMMED)):
        at = begin + k * SUMMED
        m = at_most(end - at, SUMMED)
        for b in range(blocks):
            raise_to(m, out + at, x + b * columns + at)


# The block operations on a gradient, and the averages of a parameter. Items: elements, but for noise.

cdef void negated(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    block_negate(end - begin, <real *>arrays[0] + begin, <real *>arrays[1] + begin, h)


cdef void scaled(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    block_scale(end - begin, <real *>arrays[0] + begin, <real *>arrays[1] + begin, h)


cdef void coupled(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    block_couple(end - begin, <real *>arrays[0] + begin, <real *>arrays[1] + begin, h)


cdef void clamped(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    block_clamp(end - begin, <real *>arrays[0] + begin, <real *>arrays[1] + begin, h)


cdef void noised(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    # Items: runs of elements. Sizes: elements, of a run. Arrays: g, (parameter, step, seed), the number of each run in the
    # parameter.
    cdef const uint64_t *key = <const uint64_t *>arrays[1]
    cdef const int64_t *places = <const int64_t *>arrays[2]
    cdef Py_ssize_t width = sizes[1], r
    cdef Draw at
    at.step, at.seed = key[1], key[2]
    for r in range(begin, end):
        block_noise(at_most(sizes[0] - r * width, width), <real *>arrays[0] + r * width, places[r] * width, key[0], &at, h)


cdef void averaged(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    mean_average(end - begin, <real *>arrays[0] + begin, <real *>arrays[1] + begin, h)


cdef void looked_ahead(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    mean_lookahead(end - begin, <real *>arrays[0] + begin, <real *>arrays[1] + begin, h)


# Who makes room for the sums has to know these.
TABLE["SUMMED"] = SUMMED
TABLE["STACKED"] = STACKED
TABLE["sum_blocks"] = <size_t><void *>sum_blocks
TABLE["square_blocks"] = <size_t><void *>square_blocks
TABLE["fold_sums"] = <size_t><void *>fold_sums
TABLE["fold_largest"] = <size_t><void *>fold_largest
TABLE["negated"] = <size_t><void *>negated
TABLE["clamped"] = <size_t><void *>clamped
TABLE["noised"] = <size_t><void *>noised
TABLE["scaled"] = <size_t><void *>scaled
TABLE["averaged"] = <size_t><void *>averaged
TABLE["looked_ahead"] = <size_t><void *>looked_ahead
TABLE["coupled"] = <size_t><void *>coupled
