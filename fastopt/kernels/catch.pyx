# Catch-up of exact sparse mode, for the rules that are linear where the gradient is zero. The scalars are those of the gap:
# keep, back, decays..., rate, drift, less; the parameter becomes keep p + (less p + drift b). Each law has two entries from
# one body: scalars for a whole row, and for each element (the k-th of element i at k * GATHER + i).

TABLE["SERIES"] = SERIES

cdef inline void linear(Py_ssize_t n, rw p, rw a, rw c, rw b, const int decays, const bint drifts, ro h,
                        const Py_ssize_t far, const Py_ssize_t each) noexcept nogil:
    # a and c decay; b is a momentum, which moves the parameter and may be driven by it.
    cdef Py_ssize_t i, less = 2 + decays + 2 * drifts
    cdef real move, bi
    for i in range(n):
        move = h[less * far + each * i] * p[i]
        if drifts:
            bi = b[i]
            b[i] = h[(2 + decays) * far + each * i] * bi + h[far + each * i] * p[i]
            move = move + h[(3 + decays) * far + each * i] * bi
        p[i] = h[each * i] * p[i] + move
        if decays > 0:
            a[i] = h[2 * far + each * i] * a[i]
        if decays > 1:
            c[i] = h[3 * far + each * i] * c[i]


cdef void catch_decay0_row(Py_ssize_t n, rw p, rw s0, rw s1, rw s2, rw s3, ro h) noexcept nogil:
    linear(n, p, s0, s1, s2, 0, False, h, 1, 0)


cdef void catch_decay0_each(Py_ssize_t n, rw p, rw s0, rw s1, rw s2, rw s3, ro h) noexcept nogil:
    linear(n, p, s0, s1, s2, 0, False, h, GATHER, 1)


cdef void catch_decay1_row(Py_ssize_t n, rw p, rw s0, rw s1, rw s2, rw s3, ro h) noexcept nogil:
    linear(n, p, s0, s1, s2, 1, False, h, 1, 0)


cdef void catch_decay1_each(Py_ssize_t n, rw p, rw s0, rw s1, rw s2, rw s3, ro h) noexcept nogil:
    linear(n, p, s0, s1, s2, 1, False, h, GATHER, 1)


cdef void catch_decay2_row(Py_ssize_t n, rw p, rw s0, rw s1, rw s2, rw s3, ro h) noexcept nogil:
    linear(n, p, s0, s1, s2, 2, False, h, 1, 0)


cdef void catch_decay2_each(Py_ssize_t n, rw p, rw s0, rw s1, rw s2, rw s3, ro h) noexcept nogil:
    linear(n, p, s0, s1, s2, 2, False, h, GATHER, 1)


cdef void catch_drift0_row(Py_ssize_t n, rw p, rw b, rw s1, rw s2, rw s3, ro h) noexcept nogil:
    linear(n, p, s1, s2, b, 0, True, h, 1, 0)


cdef void catch_drift0_each(Py_ssize_t n, rw p, rw b, rw s1, rw s2, rw s3, ro h) noexcept nogil:
    linear(n, p, s1, s2, b, 0, True, h, GATHER, 1)


cdef void catch_drift1_row(Py_ssize_t n, rw p, rw s0, rw b, rw s2, rw s3, ro h) noexcept nogil:
    linear(n, p, s0, s2, b, 1, True, h, 1, 0)


cdef void catch_drift1_each(Py_ssize_t n, rw p, rw s0, rw b, rw s2, rw s3, ro h) noexcept nogil:
    linear(n, p, s0, s2, b, 1, True, h, GATHER, 1)


cdef void catch_drift2_row(Py_ssize_t n, rw p, rw s0, rw s1, rw b, rw s3, ro h) noexcept nogil:
    linear(n, p, s0, s1, b, 2, True, h, 1, 0)


cdef void catch_drift2_each(Py_ssize_t n, rw p, rw s0, rw s1, rw b, rw s3, ro h) noexcept nogil:
    linear(n, p, s0, s1, b, 2, True, h, GATHER, 1)


# Lion and Signum: the parameter moves by the sign of the momentum, however small that has become. What decays in steps never
# comes to 0, as the smallest numbers round to themselves; so it must not do so in a jump.

cdef inline void by_sign(Py_ssize_t n, rw p, rw m, ro h, const Py_ssize_t far, const Py_ssize_t each) noexcept nogil:
    cdef Py_ssize_t i
    cdef real direction, left
    for i in range(n):
        direction = sign(m[i])
        left = h[2 * far + each * i] * m[i]
        p[i] = h[each * i] * p[i] + (h[5 * far + each * i] * p[i] + h[4 * far + each * i] * direction)
        m[i] = LEAST * direction if left == 0 else left


cdef void catch_sign_row(Py_ssize_t n, rw p, rw m, rw s1, rw s2, rw s3, ro h) noexcept nogil:
    by_sign(n, p, m, h, 1, 0)


cdef void catch_sign_each(Py_ssize_t n, rw p, rw m, rw s1, rw s2, rw s3, ro h) noexcept nogil:
    by_sign(n, p, m, h, GATHER, 1)


TABLE["catch_sign_row"] = <size_t><void *>catch_sign_row
TABLE["catch_sign_each"] = <size_t><void *>catch_sign_each
TABLE["catch_decay0_row"] = <size_t><void *>catch_decay0_row
TABLE["catch_decay0_each"] = <size_t><void *>catch_decay0_each
TABLE["catch_decay1_row"] = <size_t><void *>catch_decay1_row
TABLE["catch_decay1_each"] = <size_t><void *>catch_decay1_each
TABLE["catch_decay2_row"] = <size_t><void *>catch_decay2_row
TABLE["catch_decay2_each"] = <size_t><void *>catch_decay2_each
TABLE["catch_drift0_row"] = <size_t><void *>catch_drift0_row
TABLE["catch_drift0_each"] = <size_t><void *>catch_drift0_each
TABLE["catch_drift1_row"] = <size_t><void *>catch_drift1_row
TABLE["catch_drift1_each"] = <size_t><void *>catch_drift1_each
TABLE["catch_drift2_row"] = <size_t><void *>catch_drift2_row
TABLE["catch_drift2_each"] = <size_t><void *>catch_drift2_each
