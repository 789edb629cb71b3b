# Muon (Jordan et al. 2024): what lies before and after the orthogonalization, which is matrix products.

cdef inline void muon_buffer(Py_ssize_t n, rw u, ro g, rw b, real keep, real take) noexcept nogil:
    cdef real bi
    cdef Py_ssize_t i
    for i in range(n):
        bi = keep * b[i] + take * g[i]
        b[i] = bi
        u[i] = bi


cdef inline void muon_ahead(Py_ssize_t n, rw u, ro g, rw b, real keep, real take) noexcept nogil:
    cdef real bi
    cdef Py_ssize_t i
    for i in range(n):
        bi = keep * b[i] + take * g[i]
        b[i] = bi
        u[i] = take * g[i] + keep * bi


cdef inline void muon_blocks(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h,
                             const bint nesterov) noexcept nogil:
    # Items: blocks. Sizes: elements. Arrays: u, g, momentum, sums of the squares of u. h: momentum, 1 - momentum.
    cdef Py_ssize_t item, at, n
    cdef real *u = <real *>arrays[0]
    cdef real *g = <real *>arrays[1]
    cdef real *b = <real *>arrays[2]
    cdef double *sums = <double *>arrays[3]
    for item in range(begin, end):
        at = item * SUMMED
        n = at_most(sizes[0] - at, SUMMED)
        if nesterov:
            muon_ahead(n, u + at, g + at, b + at, h[0], h[1])
        else:
            muon_buffer(n, u + at, g + at, b + at, h[0], h[1])
        sums[item] = lanes_squares(n, u + at)


cdef void muon_momentum(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                        const real *h) noexcept nogil:
    muon_blocks(begin, end, sizes, arrays, h, False)


cdef void muon_nesterov(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                        const real *h) noexcept nogil:
    muon_blocks(begin, end, sizes, arrays, h, True)


cdef inline void muon_descend(Py_ssize_t n, rw p, ro x, real keep, real step) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = keep * p[i] - step * x[i]


cdef void muon(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays, const real *h) noexcept nogil:
    # The step. Items: elements. Arrays: p, the orthogonal direction. h: what decay leaves, the step.
    muon_descend(end - begin, <real *>arrays[0] + begin, <real *>arrays[1] + begin, h[0], h[1])


TABLE["muon_momentum"] = <size_t><void *>muon_momentum
TABLE["muon_nesterov"] = <size_t><void *>muon_nesterov
TABLE["muon"] = <size_t><void *>muon
