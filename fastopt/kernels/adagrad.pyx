# Adagrad (Duchi, Hazan and Singer 2011). h: rate of this step, eps.

cdef void adagrad(Py_ssize_t n, rw p, ro g, rw a, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real rate = h[0], eps = h[1], ai
    cdef Py_ssize_t i
    for i in range(n):
        ai = a[i] + g[i] * g[i]
        p[i] = p[i] - rate * (g[i] / (sqrt(ai) + eps))
        a[i] = ai


TABLE["adagrad"] = <size_t><void *>adagrad
