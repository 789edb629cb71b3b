# QHAdam (Ma and Yarats 2018). h: what is kept and taken of the first moment, of the second, nu1, 1 - nu1, nu2, 1 - nu2, lr,
# eps. A square that overflows must not meet 1 - nu2 = 0.

cdef void qhadam(Py_ssize_t n, rw p, ro g, rw m, rw v, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], nu1 = h[4], rest1 = h[5], nu2 = h[6], rest2 = h[7]
    cdef real lr = h[8], eps = h[9], mi, vi, square, both
    cdef Py_ssize_t i
    for i in range(n):
        square = g[i] * g[i]
        mi = keep1 * m[i] + take1 * g[i]
        vi = keep2 * v[i] + take2 * square
        both = nu2 * vi + rest2 * square
        both = both if rest2 > 0 else vi
        p[i] = p[i] - lr * ((nu1 * mi + rest1 * g[i]) / (sqrt(both) + eps))
        m[i] = mi
        v[i] = vi


TABLE["qhadam"] = <size_t><void *>qhadam
