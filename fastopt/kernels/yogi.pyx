# Yogi (Zaheer et al. 2018). h: beta1, 1 - beta1, 1 - beta2, step size, scale of the root, eps.

cdef void yogi(Py_ssize_t n, rw p, ro g, rw m, rw v, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], take2 = h[2], step = h[3], scale = h[4], eps = h[5], mi, vi, square, by
    cdef Py_ssize_t i
    for i in range(n):
        mi = keep1 * m[i] + take1 * g[i]
        square = g[i] * g[i]
        by = take2 * square
        vi = v[i] - by if v[i] > square else (v[i] + by if v[i] < square else v[i])
        p[i] = p[i] - step * (mi / (sqrt(vi) * scale + eps))
        m[i] = mi
        v[i] = vi


TABLE["yogi"] = <size_t><void *>yogi
