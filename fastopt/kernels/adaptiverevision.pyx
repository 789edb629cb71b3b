# AdaptiveRevision (McMahan and Streeter 2014). h: lr. `seen` is the sum of gradients that the worker knew of when it made its
# gradient; what has come since is `late`.

cdef void adaptiverevision(Py_ssize_t n, rw p, ro g, rw sum, rw z, rw most, rw seen, const real *h) noexcept nogil:
    cdef real lr = h[0], late, before, rate, zi, mi, si
    cdef Py_ssize_t i
    for i in range(n):
        late = sum[i] - seen[i]
        zi = z[i] + g[i] * (g[i] + (late + late))
        mi = most[i] if most[i] >= zi else zi
        before = lr / sqrt(most[i])
        rate = lr / sqrt(mi)
        p[i] = p[i] - rate * g[i] + (before - rate) * late
        si = sum[i] + g[i]
        z[i] = zi
        most[i] = mi
        sum[i] = si
        seen[i] = si


TABLE["adaptiverevision"] = <size_t><void *>adaptiverevision
