# SignSGD and Signum (Bernstein et al. 2018). h: lr, momentum, 1 - momentum.

cdef void signsgd(Py_ssize_t n, rw p, ro g, rw s0, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real lr = h[0]
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = p[i] - lr * sign(g[i])


cdef void signum(Py_ssize_t n, rw p, ro g, rw b, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real lr = h[0], keep = h[1], take = h[2], bi
    cdef Py_ssize_t i
    for i in range(n):
        bi = keep * b[i] + take * g[i]
        p[i] = p[i] - lr * sign(bi)
        b[i] = bi


TABLE["signsgd"] = <size_t><void *>signsgd
TABLE["signum"] = <size_t><void *>signum
