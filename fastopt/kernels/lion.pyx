# Lion (Chen et al. 2023). h: lr, beta1, 1 - beta1, beta2, 1 - beta2.

cdef void lion(Py_ssize_t n, rw p, ro g, rw m, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real lr = h[0], keep1 = h[1], take1 = h[2], keep2 = h[3], take2 = h[4]
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = p[i] - lr * sign(keep1 * m[i] + take1 * g[i])
        m[i] = keep2 * m[i] + take2 * g[i]


TABLE["lion"] = <size_t><void *>lion
