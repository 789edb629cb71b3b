# FTRL-Proximal (McMahan et al. 2013), as in TensorFlow and Keras, with the accumulator's root or another power.
# h: 1 / lr, what the denominator has beside the power, l1, twice the shrinkage, the power. `z - held` is what is beyond l1;
# where there is nothing, it is 0, and so is the parameter.

cdef inline real raised(real a, const bint root, real exponent) noexcept nogil:
    return sqrt(a) if root else pow(a, exponent)


cdef inline real solve(real z, real power, real inverse, real ridge, real l1) noexcept nogil:
    cdef real held = -l1 if z < -l1 else l1 if z > l1 else z
    return (held - z) / (power * inverse + ridge)


cdef inline void follow_leader(Py_ssize_t n, rw p, ro g, rw a, rw z, const bint root, const real *h) noexcept nogil:
    cdef real inverse = h[0], ridge = h[1], l1 = h[2], shrink = h[3], exponent = h[4], ai, power, zi
    cdef Py_ssize_t i
    for i in range(n):
        ai = a[i] + g[i] * g[i]
        power = raised(ai, root, exponent)
        zi = z[i] + ((g[i] + shrink * p[i]) - (power - raised(a[i], root, exponent)) * inverse * p[i])
        p[i] = solve(zi, power, inverse, ridge, l1)
        a[i] = ai
        z[i] = zi


cdef void ftrl(Py_ssize_t n, rw p, ro g, rw a, rw z, rw s2, rw s3, const real *h) noexcept nogil:
    follow_leader(n, p, g, a, z, True, h)


cdef void ftrl_power(Py_ssize_t n, rw p, ro g, rw a, rw z, rw s2, rw s3, const real *h) noexcept nogil:
    follow_leader(n, p, g, a, z, False, h)


# Catch-up: without a gradient the parameter is made anew of its states, with the scalars of the last step. Those are the gap's
# drifts, after keep, back and as many rates.

cdef inline void anew(Py_ssize_t n, rw p, rw a, rw z, const bint root, const int at, ro h, const Py_ssize_t far,
                      const Py_ssize_t each) noexcept nogil:
    cdef Py_ssize_t i
    cdef real exponent
    for i in range(n):
        exponent = 0 if root else h[(at + 3) * far + each * i]
        p[i] = solve(z[i], raised(a[i], root, exponent), h[at * far + each * i], h[(at + 1) * far + each * i],
                     h[(at + 2) * far + each * i])


cdef void catch_ftrl_row(Py_ssize_t n, rw p, rw a, rw z, rw s2, rw s3, ro h) noexcept nogil:
    anew(n, p, a, z, True, 2 + 3, h, 1, 0)


cdef void catch_ftrl_each(Py_ssize_t n, rw p, rw a, rw z, rw s2, rw s3, ro h) noexcept nogil:
    anew(n, p, a, z, True, 2 + 3, h, GATHER, 1)


cdef void catch_ftrl_power_row(Py_ssize_t n, rw p, rw a, rw z, rw s2, rw s3, ro h) noexcept nogil:
    anew(n, p, a, z, False, 2 + 4, h, 1, 0)


cdef void catch_ftrl_power_each(Py_ssize_t n, rw p, rw a, rw z, rw s2, rw s3, ro h) noexcept nogil:
    anew(n, p, a, z, False, 2 + 4, h, GATHER, 1)


TABLE["catch_ftrl_row"] = <size_t><void *>catch_ftrl_row
TABLE["catch_ftrl_each"] = <size_t><void *>catch_ftrl_each
TABLE["catch_ftrl_power_row"] = <size_t><void *>catch_ftrl_power_row
TABLE["catch_ftrl_power_each"] = <size_t><void *>catch_ftrl_power_each
TABLE["ftrl"] = <size_t><void *>ftrl
TABLE["ftrl_power"] = <size_t><void *>ftrl_power
