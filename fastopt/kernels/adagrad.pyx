# Adagrad (Duchi, Hazan and Singer 2011).
# h: rate of this step, eps inside the root, eps beside it. One eps is 0.

cdef void adagrad(Py_ssize_t n, rw p, ro g, rw a, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real rate = h[0], inner = h[1], outer = h[2], ai
    cdef Py_ssize_t i
    for i in range(n):
        ai = a[i] + g[i] * g[i]
        p[i] = p[i] - rate * (g[i] / (sqrt(ai + inner) + outer))
        a[i] = ai


TABLE["adagrad"] = <size_t><void *>adagrad
