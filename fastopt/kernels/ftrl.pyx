# FTRL-Proximal (McMahan et al. 2013), as in TensorFlow and Keras, with the accumulator's root.
# h: 1 / lr, what the denominator has beside the root, l1, twice the shrinkage. `z - held` is what is beyond l1; where there is
# nothing, it is 0, and so is the parameter.

cdef inline real solve(real z, real root, real inverse, real ridge, real l1) noexcept nogil:
    cdef real held = -l1 if z < -l1 else l1 if z > l1 else z
    return (held - z) / (root * inverse + ridge)


cdef void ftrl(Py_ssize_t n, rw p, ro g, rw a, rw z, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real inverse = h[0], ridge = h[1], l1 = h[2], shrink = h[3], ai, root, zi
    cdef Py_ssize_t i
    for i in range(n):
        ai = a[i] + g[i] * g[i]
        root = sqrt(ai)
        zi = z[i] + ((g[i] + shrink * p[i]) - (root - sqrt(a[i])) * inverse * p[i])
        p[i] = solve(zi, root, inverse, ridge, l1)
        a[i] = ai
        z[i] = zi


# Catch-up: without a gradient the parameter is made anew of its states, with the scalars of the last step. Those are the gap's
# drifts, after keep, back and three rates.

cdef inline void anew(Py_ssize_t n, rw p, rw a, rw z, ro h, const Py_ssize_t far, const Py_ssize_t each) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = solve(z[i], sqrt(a[i]), h[5 * far + each * i], h[6 * far + each * i], h[7 * far + each * i])


cdef void catch_ftrl_row(Py_ssize_t n, rw p, rw a, rw z, rw s2, rw s3, ro h) noexcept nogil:
    anew(n, p, a, z, h, 1, 0)


cdef void catch_ftrl_each(Py_ssize_t n, rw p, rw a, rw z, rw s2, rw s3, ro h) noexcept nogil:
    anew(n, p, a, z, h, GATHER, 1)


TABLE["catch_ftrl_row"] = <size_t><void *>catch_ftrl_row
TABLE["catch_ftrl_each"] = <size_t><void *>catch_ftrl_each
TABLE["ftrl"] = <size_t><void *>ftrl
