# SGD with momentum (Polyak 1964) and Nesterov's (1983).
# h: lr, momentum, 1 - dampening (1 on the first step of the buffer); with the rate inside: 1, momentum, lr (1 - dampening).

cdef void sgd(Py_ssize_t n, rw p, ro g, rw s0, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real lr = h[0]
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = p[i] - lr * g[i]


cdef void sgd_momentum(Py_ssize_t n, rw p, ro g, rw b, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real rate = h[0], keep = h[1], take = h[2], bi
    cdef Py_ssize_t i
    for i in range(n):
        bi = keep * b[i] + take * g[i]
        p[i] = p[i] - rate * bi
        b[i] = bi


cdef void sgd_nesterov(Py_ssize_t n, rw p, ro g, rw b, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real rate = h[0], keep = h[1], take = h[2], bi
    cdef Py_ssize_t i
    for i in range(n):
        bi = keep * b[i] + take * g[i]
        p[i] = p[i] - rate * (take * g[i] + keep * bi)
        b[i] = bi


TABLE["sgd"] = <size_t><void *>sgd
TABLE["sgd_momentum"] = <size_t><void *>sgd_momentum
TABLE["sgd_nesterov"] = <size_t><void *>sgd_nesterov
