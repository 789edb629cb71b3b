# LARS (You, Gitman and Ginsburg 2017). The measure sums p^2 and g^2. h of the span: rate times ratio, momentum, decay.

cdef void measure_lars(Py_ssize_t n, rw p, ro g, rw s0, rw s1, rw s2, rw s3, const real *h, double *acc) noexcept nogil:
    acc[0], acc[1] = lanes_squares(n, p), lanes_squares(n, g)


cdef void lars(Py_ssize_t n, rw p, ro g, rw s0, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real rate = h[0], decay = h[2]
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = p[i] - rate * (g[i] + decay * p[i])


cdef void lars_momentum(Py_ssize_t n, rw p, ro g, rw b, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real rate = h[0], keep = h[1], decay = h[2], bi
    cdef Py_ssize_t i
    for i in range(n):
        bi = keep * b[i] + rate * (g[i] + decay * p[i])
        p[i] = p[i] - bi
        b[i] = bi


cdef void lars_nesterov(Py_ssize_t n, rw p, ro g, rw b, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real rate = h[0], keep = h[1], decay = h[2], bi, step
    cdef Py_ssize_t i
    for i in range(n):
        step = rate * (g[i] + decay * p[i])
        bi = keep * b[i] + step
        p[i] = p[i] - (keep * bi + step)
        b[i] = bi


TABLE["measure_lars"] = <size_t><void *>measure_lars
TABLE["lars"] = <size_t><void *>lars
TABLE["lars_momentum"] = <size_t><void *>lars_momentum
TABLE["lars_nesterov"] = <size_t><void *>lars_nesterov
