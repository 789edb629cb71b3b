# Adagrad (Duchi, Hazan and Singer 2011), and with other powers of the sum of squares than the root.
# h: rate of this step, eps inside the power, eps beside it, the power. One eps is 0.

cdef enum:
    FIRST_POWER, ROOT, OTHER


cdef inline void divided(Py_ssize_t n, rw p, ro g, rw a, const int which, const real *h) noexcept nogil:
    cdef real rate = h[0], inner = h[1], outer = h[2], exponent = h[3], ai, d
    cdef Py_ssize_t i
    for i in range(n):
        ai = a[i] + g[i] * g[i]
        d = ai + inner
        d = sqrt(d) if which == ROOT else pow(d, exponent) if which == OTHER else d
        p[i] = p[i] - rate * (g[i] / (d + outer))
        a[i] = ai


cdef void adagrad(Py_ssize_t n, rw p, ro g, rw a, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    divided(n, p, g, a, ROOT, h)


cdef void adagrad_first_power(Py_ssize_t n, rw p, ro g, rw a, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    divided(n, p, g, a, FIRST_POWER, h)


cdef void adagrad_power(Py_ssize_t n, rw p, ro g, rw a, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    divided(n, p, g, a, OTHER, h)


TABLE["adagrad"] = <size_t><void *>adagrad
TABLE["adagrad_first_power"] = <size_t><void *>adagrad_first_power
TABLE["adagrad_power"] = <size_t><void *>adagrad_power
