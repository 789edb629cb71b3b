# NAdam (Dozat 2016). h: beta1, 1 - beta1, beta2, 1 - beta2, step size of the gradient, of the momentum, scale of the root,
# eps. The momentum's schedule and the bias corrections live in the step sizes and the scale.

cdef void nadam(Py_ssize_t n, rw p, ro g, rw m, rw v, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], now = h[4], ahead = h[5], scale = h[6], eps = h[7]
    cdef real mi, vi
    cdef Py_ssize_t i
    for i in range(n):
        mi = keep1 * m[i] + take1 * g[i]
        vi = keep2 * v[i] + take2 * (g[i] * g[i])
        p[i] = p[i] - (now * g[i] + ahead * mi) / (sqrt(vi) * scale + eps)
        m[i] = mi
        v[i] = vi


TABLE["nadam"] = <size_t><void *>nadam
