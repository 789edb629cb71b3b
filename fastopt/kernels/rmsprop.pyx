# RMSprop (Tieleman and Hinton 2012), centered and with momentum (Graves 2013).
# h: alpha, 1 - alpha, eps inside the root, eps beside it, the rate outside the buffer, the rate inside it, momentum. One eps
# is 0, and with momentum one rate is 1. The centered variance v - a^2 can round below zero; it is held at zero there.

cdef inline void move(Py_ssize_t n, rw p, ro g, rw v, rw a, rw b, const bint centered, const bint momentum,
                      const real *h) noexcept nogil:
    cdef real keep = h[0], take = h[1], inner = h[2], outer = h[3], outside = h[4], inside = h[5], mu = h[6], zero = 0
    cdef real vi, ai, var, d
    cdef Py_ssize_t i
    for i in range(n):
        vi = keep * v[i] + take * (g[i] * g[i])
        var = vi
        if centered:
            ai = keep * a[i] + take * g[i]
            var = vi - ai * ai
            var = zero if var < zero else var
            a[i] = ai
        d = g[i] / (sqrt(var + inner) + outer)
        if momentum:
            d = mu * b[i] + inside * d
            b[i] = d
        p[i] = p[i] - outside * d
        v[i] = vi


cdef void rmsprop(Py_ssize_t n, rw p, ro g, rw v, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    move(n, p, g, v, s1, s2, False, False, h)


cdef void rmsprop_momentum(Py_ssize_t n, rw p, ro g, rw v, rw b, rw s2, rw s3, const real *h) noexcept nogil:
    move(n, p, g, v, s2, b, False, True, h)


cdef void rmsprop_centered(Py_ssize_t n, rw p, ro g, rw v, rw a, rw s2, rw s3, const real *h) noexcept nogil:
    move(n, p, g, v, a, s2, True, False, h)


cdef void rmsprop_centered_momentum(Py_ssize_t n, rw p, ro g, rw v, rw a, rw b, rw s3, const real *h) noexcept nogil:
    move(n, p, g, v, a, b, True, True, h)


TABLE["rmsprop"] = <size_t><void *>rmsprop
TABLE["rmsprop_momentum"] = <size_t><void *>rmsprop_momentum
TABLE["rmsprop_centered"] = <size_t><void *>rmsprop_centered
TABLE["rmsprop_centered_momentum"] = <size_t><void *>rmsprop_centered_momentum
