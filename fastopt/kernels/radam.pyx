# RAdam (Liu et al. 2019). h: beta1, 1 - beta1, beta2, 1 - beta2, step size, eps, and whether the step is rectified: where
# it is not, the momentum moves the parameter by itself.

cdef void radam(Py_ssize_t n, rw p, ro g, rw m, rw v, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], step = h[4], eps = h[5], rectified = h[6]
    cdef real mi, vi, below, one = 1
    cdef Py_ssize_t i
    for i in range(n):
        mi = keep1 * m[i] + take1 * g[i]
        vi = keep2 * v[i] + take2 * (g[i] * g[i])
        below = sqrt(vi) + eps
        below = below if rectified > 0 else one
        p[i] = p[i] - step * (mi / below)
        m[i] = mi
        v[i] = vi


# Catch-up: Adam's, and the drift of the steps that are not rectified.

cdef void catch_radam_scalars(const double *gap, int n_series, const real *first, real *h) noexcept nogil:
    catch_adam_scalars(gap, n_series, first, h)
    h[SCALARS] = <real>gap[1]


cdef int catch_radam_stiff(Py_ssize_t n, rw p, rw m, rw v, rw s2, rw s3, ro h) noexcept nogil:
    return stiff(n, m, v, v, PLAIN, h)


cdef void catch_radam_row(Py_ssize_t n, rw p, rw m, rw v, rw s2, rw s3, ro h) noexcept nogil:
    catch_up(n, p, m, v, s2, PLAIN, h, 1, 0)


cdef void catch_radam_each(Py_ssize_t n, rw p, rw m, rw v, rw s2, rw s3, ro h) noexcept nogil:
    catch_up(n, p, m, v, s2, PLAIN, h, GATHER, 1)


TABLE["catch_radam_count"] = SCALARS + 1
TABLE["catch_radam_scalars"] = <size_t><void *>catch_radam_scalars
TABLE["catch_radam_stiff"] = <size_t><void *>catch_radam_stiff
TABLE["catch_radam_row"] = <size_t><void *>catch_radam_row
TABLE["catch_radam_each"] = <size_t><void *>catch_radam_each
TABLE["radam"] = <size_t><void *>radam
