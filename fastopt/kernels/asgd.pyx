# Averaged SGD (Polyak and Juditsky 1992), as in PyTorch.
# h: what the decay leaves, rate of this step, weight of the parameter in the average (1: the average begins anew).

cdef void asgd(Py_ssize_t n, rw p, ro g, rw ax, rw s1, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep = h[0], eta = h[1], mu = h[2], pi
    cdef Py_ssize_t i
    for i in range(n):
        pi = keep * p[i] - eta * g[i]
        ax[i] = pi if mu >= 1 else ax[i] + mu * (pi - ax[i])
        p[i] = pi


TABLE["asgd"] = <size_t><void *>asgd
