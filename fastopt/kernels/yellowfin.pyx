# YellowFin (Zhang and Mitliagkas 2017). The measure brings the mean gradient up to date and sums g^2 and its square; the step
# is that of momentum. h of the measure: beta, 1 - beta. Of the span: rate, momentum, what decay leaves of the parameter.

cdef void measure_yellowfin(Py_ssize_t n, rw p, ro g, rw b, rw a, rw s2, rw s3, const real *h, double *acc) noexcept nogil:
    cdef real keep = h[0], take = h[1]
    cdef Py_ssize_t j
    for j in range(n):
        a[j] = keep * a[j] + take * g[j]
    acc[0], acc[1] = lanes_squares(n, g), lanes_squares(n, a)


cdef void yellowfin(Py_ssize_t n, rw p, ro g, rw b, rw a, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real rate = h[0], keep = h[1], rest = h[2], bi
    cdef Py_ssize_t i
    for i in range(n):
        bi = keep * b[i] + g[i]
        p[i] = rest * p[i] - rate * bi
        b[i] = bi


TABLE["measure_yellowfin"] = <size_t><void *>measure_yellowfin
TABLE["yellowfin"] = <size_t><void *>yellowfin
