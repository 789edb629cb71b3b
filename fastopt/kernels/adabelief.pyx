# AdaBelief (Zhuang et al. 2020). h: beta1, 1 - beta1, beta2, 1 - beta2, step size, scale of the root, eps, and whether the
# root is divided by: with rectification the momentum moves the parameter by itself in the first steps.

cdef void adabelief(Py_ssize_t n, rw p, ro g, rw m, rw s, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], step = h[4], scale = h[5], eps = h[6], rectified = h[7]
    cdef real mi, si, off, below, one = 1
    cdef Py_ssize_t i
    for i in range(n):
        mi = keep1 * m[i] + take1 * g[i]
        off = g[i] - mi
        si = keep2 * s[i] + take2 * (off * off) + eps
        below = sqrt(si) * scale + eps
        below = below if rectified > 0 else one
        p[i] = p[i] - step * (mi / below)
        m[i] = mi
        s[i] = si


# Catch-up. The momentum feeds the variance, in each element by another share, so that the moves have no sum in common: a row
# that has momentum is replayed until that has faded. Afterwards, and without momentum, s <- b2 s + eps.
# Scalars are those of the gap: keep, what is added to s, b1, b2, less.

cdef int catch_adabelief_stiff(Py_ssize_t n, rw p, rw m, rw s, rw s2, rw s3, ro h) noexcept nogil:
    cdef Py_ssize_t j = 0
    while j < n:
        if m[j] != 0:
            return True
        j += 1
    return False


cdef inline void catch_faded(Py_ssize_t n, rw p, rw m, rw s, ro h, const Py_ssize_t far,
                             const Py_ssize_t each) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = h[each * i] * p[i] + h[4 * far + each * i] * p[i]
        m[i] = h[2 * far + each * i] * m[i]
        s[i] = h[3 * far + each * i] * s[i] + h[far + each * i]


cdef void catch_adabelief_row(Py_ssize_t n, rw p, rw m, rw s, rw s2, rw s3, ro h) noexcept nogil:
    catch_faded(n, p, m, s, h, 1, 0)


cdef void catch_adabelief_each(Py_ssize_t n, rw p, rw m, rw s, rw s2, rw s3, ro h) noexcept nogil:
    catch_faded(n, p, m, s, h, GATHER, 1)


TABLE["catch_adabelief_stiff"] = <size_t><void *>catch_adabelief_stiff
TABLE["catch_adabelief_row"] = <size_t><void *>catch_adabelief_row
TABLE["catch_adabelief_each"] = <size_t><void *>catch_adabelief_each
TABLE["adabelief"] = <size_t><void *>adabelief
