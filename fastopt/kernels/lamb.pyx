# LAMB (You et al. 2019). The measure brings the moments up to date and sums p^2 and u^2; the span takes the step by them.
# h of the measure: beta1, 1 - beta1, beta2, 1 - beta2, then as the span's: scale of m, scale of the root, eps, decay, and
# for the span alone the step.

cdef inline real lamb_update(real p, real m, real v, real scale1, real scale2, real eps, real decay) noexcept nogil:
    return (m * scale1) / (sqrt(v) * scale2 + eps) + decay * p


cdef void measure_lamb(Py_ssize_t n, rw p, ro g, rw m, rw v, rw s2, rw s3, const real *h, double *acc) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], scale1 = h[4], scale2 = h[5], eps = h[6], decay = h[7]
    cdef real u[SUMMED]
    cdef Py_ssize_t j
    for j in range(n):
        m[j] = keep1 * m[j] + take1 * g[j]
        v[j] = keep2 * v[j] + take2 * (g[j] * g[j])
        u[j] = lamb_update(p[j], m[j], v[j], scale1, scale2, eps, decay)
    acc[0], acc[1] = lanes_squares(n, p), lanes_squares(n, u)


cdef void lamb(Py_ssize_t n, rw p, ro g, rw m, rw v, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real scale1 = h[0], scale2 = h[1], eps = h[2], decay = h[3], step = h[4]
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = p[i] - step * lamb_update(p[i], m[i], v[i], scale1, scale2, eps, decay)


TABLE["measure_lamb"] = <size_t><void *>measure_lamb
TABLE["lamb"] = <size_t><void *>lamb
