# Adamax (Kingma and Ba 2014, section 7): the moment of infinite order, with epsilon inside (PyTorch) or outside (Keras).
# h: beta1, 1 - beta1, beta2, step size, eps.

cdef void adamax(Py_ssize_t n, rw p, ro g, rw m, rw u, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], step = h[3], eps = h[4], mi, ui, new
    cdef Py_ssize_t i
    for i in range(n):
        mi = keep1 * m[i] + take1 * g[i]
        ui = keep2 * u[i]
        new = fabs(g[i]) + eps
        ui = ui if ui >= new else new
        p[i] = p[i] - step * (mi / ui)
        m[i] = mi
        u[i] = ui


cdef void adamax_outside(Py_ssize_t n, rw p, ro g, rw m, rw u, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], step = h[3], eps = h[4], mi, ui, new
    cdef Py_ssize_t i
    for i in range(n):
        mi = keep1 * m[i] + take1 * g[i]
        ui = keep2 * u[i]
        new = fabs(g[i])
        ui = ui if ui >= new else new
        p[i] = p[i] - step * (mi / (ui + eps))
        m[i] = mi
        u[i] = ui


# Catch-up. Outside, the law is Adam's with u for the root. Inside, epsilon is a floor of u: where b2^i u is above it, the row
# moves by m/u sum_i c_i (b1 / b2)^i. The gap's F_j are the sums of c_i (b1 / b2)^i b2^(-i j). Where u b2^i is below the floor
# the terms are smaller than that; all such terms together are less than F_j / F_0 (floor / u)^j of the sum, for every j. Rows
# with that above the tolerance are replayed. Scalars: keep, b1, b2, F_0, floor, bar, less.

cdef void catch_adamax_scalars(const double *gap, int n_series, const real *first, real *h) noexcept nogil:
    cdef const double *f = gap + 4 + n_series
    cdef double floor = first[4] if first[4] > TINY else TINY, total = 0, bar = 0
    cdef int k = SERIES - 1             # a power of 2
    if f[0] > 0:
        total, bar = f[0], f[k] / f[0] / TOLERANCE
        while k > 1:
            bar, k = sqrt64(bar), k // 2
        bar = floor * bar
    if not (bar < BAR_MOST and total < BAR_MOST):
        total, bar = 0, BAR_MOST
    h[0], h[1], h[2], h[3], h[4], h[5] = <real>gap[0], <real>gap[2], <real>gap[3], <real>total, <real>floor, <real>bar
    h[6] = <real>gap[4 + 2 * n_series]


cdef int catch_adamax_stiff(Py_ssize_t n, rw p, rw m, rw u, rw s2, rw s3, ro h) noexcept nogil:
    cdef Py_ssize_t j = 0
    while j < n:
        if u[j] < h[5] and m[j] != 0:
            return True
        j += 1
    return False


cdef inline void catch_floored(Py_ssize_t n, rw p, rw m, rw u, ro h, const Py_ssize_t far,
                               const Py_ssize_t each) noexcept nogil:
    cdef Py_ssize_t i
    cdef real ui, floor
    for i in range(n):
        floor = h[4 * far + each * i]
        ui = u[i] if u[i] >= floor else floor
        p[i] = h[each * i] * p[i] + (h[6 * far + each * i] * p[i] - m[i] / ui * h[3 * far + each * i])
        m[i] = h[far + each * i] * m[i]
        ui = h[2 * far + each * i] * ui
        u[i] = ui if ui >= floor else floor


cdef void catch_adamax_row(Py_ssize_t n, rw p, rw m, rw u, rw s2, rw s3, ro h) noexcept nogil:
    catch_floored(n, p, m, u, h, 1, 0)


cdef void catch_adamax_each(Py_ssize_t n, rw p, rw m, rw u, rw s2, rw s3, ro h) noexcept nogil:
    catch_floored(n, p, m, u, h, GATHER, 1)


cdef int catch_adamax_outside_stiff(Py_ssize_t n, rw p, rw m, rw u, rw s2, rw s3, ro h) noexcept nogil:
    return stiff(n, m, u, u, NORMS, h)


cdef void catch_adamax_outside_row(Py_ssize_t n, rw p, rw m, rw u, rw s2, rw s3, ro h) noexcept nogil:
    catch_up(n, p, m, u, s2, NORMS, h, 1, 0)


cdef void catch_adamax_outside_each(Py_ssize_t n, rw p, rw m, rw u, rw s2, rw s3, ro h) noexcept nogil:
    catch_up(n, p, m, u, s2, NORMS, h, GATHER, 1)


TABLE["catch_adamax_count"] = 7
TABLE["catch_adamax_scalars"] = <size_t><void *>catch_adamax_scalars
TABLE["catch_adamax_stiff"] = <size_t><void *>catch_adamax_stiff
TABLE["catch_adamax_row"] = <size_t><void *>catch_adamax_row
TABLE["catch_adamax_each"] = <size_t><void *>catch_adamax_each
TABLE["catch_adamax_outside_count"] = TABLE["catch_adam_count"]
TABLE["catch_adamax_outside_scalars"] = TABLE["catch_adam_scalars"]
TABLE["catch_adamax_outside_stiff"] = <size_t><void *>catch_adamax_outside_stiff
TABLE["catch_adamax_outside_row"] = <size_t><void *>catch_adamax_outside_row
TABLE["catch_adamax_outside_each"] = <size_t><void *>catch_adamax_outside_each
TABLE["adamax"] = <size_t><void *>adamax
TABLE["adamax_outside"] = <size_t><void *>adamax_outside
