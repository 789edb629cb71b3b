# Row-wise Adagrad: one accumulator a row, of the mean square of its gradient.
# Items: rows. Sizes: width. Arrays: p, g, accumulators. h: what decay leaves, lr, eps.

cdef inline void descend_row(Py_ssize_t n, rw p, ro g, real keep, real lr, real under) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = keep * p[i] - lr * (g[i] / under)


cdef inline void descend_each(Py_ssize_t n, rw p, ro g, rw a, real keep, real lr, real eps) noexcept nogil:
    # Rows of one element each.
    cdef Py_ssize_t i
    for i in range(n):
        a[i] = a[i] + g[i] * g[i]
        p[i] = keep * p[i] - lr * (g[i] / (sqrt(a[i]) + eps))


cdef void rowwise_adagrad(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                          const real *h) noexcept nogil:
    cdef Py_ssize_t width = sizes[0], r, b
    cdef real *p = <real *>arrays[0]
    cdef real *g = <real *>arrays[1]
    cdef real *a = <real *>arrays[2]
    cdef real keep = h[0], lr = h[1], eps = h[2]
    cdef double total
    if width == 1:
        descend_each(end - begin, p + begin, g + begin, a + begin, keep, lr, eps)
        return
    for r in range(begin, end):
        total = 0
        for b in range(blocks_of(width, SUMMED)):
            total = total + lanes_squares(at_most(width - b * SUMMED, SUMMED), g + r * width + b * SUMMED)
        a[r] = a[r] + <real>(total / <double>width)
        descend_row(width, p + r * width, g + r * width, keep, lr, sqrt(a[r]) + eps)


TABLE["rowwise_adagrad"] = <size_t><void *>rowwise_adagrad
