# Prodigy (Mishchenko and Defazio 2023). The measure brings m, v and s up to date and sums g (p0 - p) and |s|.
# h of the measure: beta1, d (1 - beta1), beta2, d^2 (1 - beta2), beta3, weight of g in s. Of the span: keep, step, d eps.

cdef inline void prodigy_terms(Py_ssize_t n, ro p, ro g, ro s, ro start, double *toward, double *size) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        toward[j] = toward[j] + <double>g[j] * (<double>start[j] - <double>p[j])
        size[j] = size[j] + (s[j] if s[j] >= 0 else -s[j])


cdef void measure_prodigy(Py_ssize_t n, rw p, ro g, rw m, rw v, rw s, rw start, const real *h, double *acc) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], keep3 = h[4], take3 = h[5]
    cdef double toward[LANES]
    cdef double size[LANES]
    cdef Py_ssize_t i = 0, j
    for j in range(LANES):
        toward[j] = size[j] = 0
    for j in range(n):
        m[j] = keep1 * m[j] + take1 * g[j]
        v[j] = keep2 * v[j] + take2 * (g[j] * g[j])
        s[j] = keep3 * s[j] + take3 * g[j]
    while i + LANES <= n:
        prodigy_terms(LANES, p + i, g + i, s + i, start + i, toward, size)
        i += LANES
    prodigy_terms(n - i, p + i, g + i, s + i, start + i, toward, size)
    acc[0], acc[1] = fold(toward), fold(size)


cdef void prodigy(Py_ssize_t n, rw p, ro g, rw m, rw v, rw s, rw start, const real *h) noexcept nogil:
    cdef real keep = h[0], step = h[1], eps = h[2]
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = keep * p[i] - step * (m[i] / (sqrt(v[i]) + eps))


TABLE["measure_prodigy"] = <size_t><void *>measure_prodigy
TABLE["prodigy"] = <size_t><void *>prodigy
