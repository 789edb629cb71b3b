# RMSprop (Tieleman and Hinton 2012), centered and with momentum (Graves 2013).
# h: lr, alpha, 1 - alpha, eps, momentum. The centered variance v - a^2 can round below zero; it is held at zero there.

cdef void rmsprop(Py_ssize_t n, rw p, ro g, rw v, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real lr = h[0], keep = h[1], take = h[2], eps = h[3], vi
    cdef Py_ssize_t i
    for i in range(n):
        vi = keep * v[i] + take * (g[i] * g[i])
        p[i] = p[i] - lr * (g[i] / (sqrt(vi) + eps))
        v[i] = vi


cdef void rmsprop_momentum(Py_ssize_t n, rw p, ro g, rw v, rw b, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real lr = h[0], keep = h[1], take = h[2], eps = h[3], mu = h[4], vi, bi
    cdef Py_ssize_t i
    for i in range(n):
        vi = keep * v[i] + take * (g[i] * g[i])
        bi = mu * b[i] + g[i] / (sqrt(vi) + eps)
        p[i] = p[i] - lr * bi
        v[i] = vi
        b[i] = bi


cdef void rmsprop_centered(Py_ssize_t n, rw p, ro g, rw v, rw a, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real lr = h[0], keep = h[1], take = h[2], eps = h[3], zero = 0, vi, ai, var
    cdef Py_ssize_t i
    for i in range(n):
        vi = keep * v[i] + take * (g[i] * g[i])
        ai = keep * a[i] + take * g[i]
        var = vi - ai * ai
        var = zero if var < zero else var
        p[i] = p[i] - lr * (g[i] / (sqrt(var) + eps))
        v[i] = vi
        a[i] = ai


cdef void rmsprop_centered_momentum(Py_ssize_t n, rw p, ro g, rw v, rw a, rw b, rw s3, const real *h) noexcept nogil:
    cdef real lr = h[0], keep = h[1], take = h[2], eps = h[3], mu = h[4], zero = 0, vi, ai, bi, var
    cdef Py_ssize_t i
    for i in range(n):
        vi = keep * v[i] + take * (g[i] * g[i])
        ai = keep * a[i] + take * g[i]
        var = vi - ai * ai
        var = zero if var < zero else var
        bi = mu * b[i] + g[i] / (sqrt(var) + eps)
        p[i] = p[i] - lr * bi
        v[i] = vi
        a[i] = ai
        b[i] = bi


TABLE["rmsprop"] = <size_t><void *>rmsprop
TABLE["rmsprop_momentum"] = <size_t><void *>rmsprop_momentum
TABLE["rmsprop_centered"] = <size_t><void *>rmsprop_centered
TABLE["rmsprop_centered_momentum"] = <size_t><void *>rmsprop_centered_momentum
