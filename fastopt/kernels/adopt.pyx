# ADOPT (Taniguchi et al. 2024). h: beta1, 1 - beta1, beta2, 1 - beta2, lr, eps, bound of the normalized gradient.

cdef void adopt(Py_ssize_t n, rw p, ro g, rw v, rw m, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], lr = h[4], eps = h[5], bound = h[6]
    cdef real d, ni, mi
    cdef Py_ssize_t i
    for i in range(n):
        d = sqrt(v[i])
        ni = g[i] / (eps if d < eps else d)
        ni = bound if ni > bound else -bound if ni < -bound else ni
        mi = keep1 * m[i] + take1 * ni
        p[i] = p[i] - lr * mi
        v[i] = keep2 * v[i] + take2 * (g[i] * g[i])
        m[i] = mi


TABLE["adopt"] = <size_t><void *>adopt
