# Adadelta (Zeiler 2012). h: lr, rho, 1 - rho, eps.

cdef void adadelta(Py_ssize_t n, rw p, ro g, rw v, rw u, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real lr = h[0], keep = h[1], take = h[2], eps = h[3], vi, d
    cdef Py_ssize_t i
    for i in range(n):
        vi = keep * v[i] + take * (g[i] * g[i])
        d = sqrt(u[i] + eps) / sqrt(vi + eps) * g[i]
        p[i] = p[i] - lr * d
        u[i] = keep * u[i] + take * (d * d)
        v[i] = vi


TABLE["adadelta"] = <size_t><void *>adadelta
