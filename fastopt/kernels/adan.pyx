# Adan (Xie et al. 2022), as in the authors' code.
# h: beta1, 1 - beta1, beta2, 1 - beta2, beta3, 1 - beta3, step size of m, of d, scale of the root, eps, whether there was
# no gradient before, what the decay leaves before the step, what the parameter is divided by after it.

cdef void adan(Py_ssize_t n, rw p, ro g, rw m, rw d, rw v, rw prev, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], keep3 = h[4], take3 = h[5]
    cdef real step = h[6], step2 = h[7], scale = h[8], eps = h[9], first = h[10], before = h[11], after = h[12]
    cdef real change, ahead, mi, di, vi
    cdef Py_ssize_t i
    for i in range(n):
        change = g[i] - (g[i] if first > 0 else prev[i])
        ahead = g[i] + keep2 * change
        mi = keep1 * m[i] + take1 * g[i]
        di = keep2 * d[i] + take2 * change
        vi = keep3 * v[i] + take3 * (ahead * ahead)
        p[i] = (before * p[i] - (step * mi + step2 * di) / (sqrt(vi) * scale + eps)) / after
        m[i] = mi
        d[i] = di
        v[i] = vi
        prev[i] = g[i]


# Catch-up. The first step without a gradient still feels the last one: `prev` enters d and v. Rows that move are replayed
# until their moves have faded; then m, d and v decay. Scalars: keep, back, the decays, less.

cdef int catch_adan_stiff(Py_ssize_t n, rw p, rw m, rw d, rw v, rw prev, ro h) noexcept nogil:
    cdef Py_ssize_t j = 0
    while j < n:
        if m[j] != 0 or d[j] != 0 or prev[j] != 0:
            return True
        j += 1
    return False


cdef inline void fall(Py_ssize_t n, rw p, rw m, rw d, rw v, rw prev, ro h, const Py_ssize_t far,
                      const Py_ssize_t each) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = h[each * i] * p[i] + h[5 * far + each * i] * p[i]
        m[i] = h[2 * far + each * i] * m[i]
        d[i] = h[3 * far + each * i] * d[i]
        v[i] = h[4 * far + each * i] * v[i]


cdef void catch_adan_row(Py_ssize_t n, rw p, rw m, rw d, rw v, rw prev, ro h) noexcept nogil:
    fall(n, p, m, d, v, prev, h, 1, 0)


cdef void catch_adan_each(Py_ssize_t n, rw p, rw m, rw d, rw v, rw prev, ro h) noexcept nogil:
    fall(n, p, m, d, v, prev, h, GATHER, 1)


TABLE["catch_adan_stiff"] = <size_t><void *>catch_adan_stiff
TABLE["catch_adan_row"] = <size_t><void *>catch_adan_row
TABLE["catch_adan_each"] = <size_t><void *>catch_adan_each
TABLE["adan"] = <size_t><void *>adan
