# Block operations: what happens to a block of gradient or parameter on its way to the span, while it lies in the
# first-level cache. Each takes one scalar.

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


TABLE["block_negate"] = <size_t><void *>block_negate
TABLE["block_couple"] = <size_t><void *>block_couple
TABLE["block_shrink"] = <size_t><void *>block_shrink
