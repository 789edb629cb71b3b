# Adam (Kingma and Ba 2014) and AMSGrad (Reddi, Kale and Kumar 2018).
# h: beta1, 1 - beta1, beta2, 1 - beta2, step size, scale of the root, eps. The two bias corrections live in the step
# size and the scale, so that an element costs one root and one division.

cdef void adam(Py_ssize_t n, rw p, ro g, rw m, rw v, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], step = h[4], scale = h[5], eps = h[6]
    cdef real mi, vi
    cdef Py_ssize_t i
    for i in range(n):
        mi = keep1 * m[i] + take1 * g[i]
        vi = keep2 * v[i] + take2 * (g[i] * g[i])
        p[i] = p[i] - step * (mi / (sqrt(vi) * scale + eps))
        m[i] = mi
        v[i] = vi


cdef void adam_amsgrad(Py_ssize_t n, rw p, ro g, rw m, rw v, rw w, rw s3, const real *h) noexcept nogil:
    cdef real keep1 = h[0], take1 = h[1], keep2 = h[2], take2 = h[3], step = h[4], scale = h[5], eps = h[6]
    cdef real mi, vi, wi
    cdef Py_ssize_t i
    for i in range(n):
        mi = keep1 * m[i] + take1 * g[i]
        vi = keep2 * v[i] + take2 * (g[i] * g[i])
        wi = w[i] if w[i] >= vi else vi
        p[i] = p[i] - step * (mi / (sqrt(wi) * scale + eps))
        m[i] = mi
        v[i] = vi
        w[i] = wi


TABLE["adam"] = <size_t><void *>adam
TABLE["adam_amsgrad"] = <size_t><void *>adam_amsgrad
