# Block operations: what happens to a block of gradient or parameter on its way to the span, and to the parameter after it,
# while it lies in the first-level cache; and the sums over blocks that are taken before a step.

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


cdef void measure_norm(Py_ssize_t n, rw p, ro g, rw s0, rw s1, rw s2, rw s3, const real *h, double *acc) noexcept nogil:
    # Sum of squares; and of what is 0 for finite numbers and NaN for others.
    cdef double lane[2][LANES]
    cdef double x
    cdef Py_ssize_t i = 0, j
    for j in range(LANES):
        lane[0][j] = lane[1][j] = 0
    while i + LANES <= n:
        for j in range(LANES):
            x = g[i + j]
            lane[0][j] = lane[0][j] + x * x
            lane[1][j] = lane[1][j] + (x - x)
        i += LANES
    for j in range(n - i):
        x = g[i + j]
        lane[0][j] = lane[0][j] + x * x
        lane[1][j] = lane[1][j] + (x - x)
    acc[0], acc[1] = fold(lane[0]), fold(lane[1])


TABLE["block_scale"] = <size_t><void *>block_scale
TABLE["mean_average"] = <size_t><void *>mean_average
TABLE["mean_lookahead"] = <size_t><void *>mean_lookahead
TABLE["measure_norm"] = <size_t><void *>measure_norm
TABLE["block_negate"] = <size_t><void *>block_negate
TABLE["block_couple"] = <size_t><void *>block_couple
TABLE["block_shrink"] = <size_t><void *>block_shrink
