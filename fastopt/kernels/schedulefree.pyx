# Schedule-Free SGD and AdamW (Defazio et al. 2024). The parameter is y, where gradients are taken; the average x, which is not
# held, is the point from which y lies 1 - beta of the way to z.

# h: share of z in the average; what of the update y takes, and what z.
cdef void schedulefree_sgd(Py_ssize_t n, rw p, ro g, rw z, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real share = h[0], step = h[1], rate = h[2]
    cdef Py_ssize_t i
    for i in range(n):
        p[i] = (p[i] + share * (z[i] - p[i])) - step * g[i]
        z[i] = z[i] - rate * g[i]


# h: the same, beta2, 1 - beta2, scale of the root, eps, coupled weight decay.
cdef void schedulefree_adamw(Py_ssize_t n, rw p, ro g, rw v, rw z, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real share = h[0], step = h[1], rate = h[2]
    cdef real keep = h[3], take = h[4], scale = h[5], eps = h[6], couple = h[7], vi, d
    cdef Py_ssize_t i
    for i in range(n):
        vi = keep * v[i] + take * (g[i] * g[i])
        d = g[i] / (sqrt(vi) * scale + eps) + couple * p[i]
        p[i] = (p[i] + share * (z[i] - p[i])) - step * d
        z[i] = z[i] - rate * d
        v[i] = vi


TABLE["schedulefree_sgd"] = <size_t><void *>schedulefree_sgd
TABLE["schedulefree_adamw"] = <size_t><void *>schedulefree_adamw
