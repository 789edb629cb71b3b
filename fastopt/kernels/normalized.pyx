# Online learning of linear weights by normalized, adaptive, importance-aware updates. It needs the samples, not only a
# gradient, and so is no span: one call goes over the rows of a CSR matrix, one after the other.

from libc.math cimport frexp
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset


cdef inline double ahead_squared_error(double z, double y, double c) noexcept nogil:
    # How far the prediction z goes in time c by dz/dc = -(z - y).
    cdef double k = c * (1.0 - 0.5 * c) if c < 1e-5 else 1.0 - fo_exp(-c)
    return (y - z) * k


cdef inline double ahead_log_loss(double z, double y, double c) noexcept nogil:
    # By dm/dc = 1 / (1 + exp(m)) for the margin m = y z; that is, m + exp(m) grows by c.
    cdef double m = y * z, e = fo_exp(m), first, x, r, q, f
    cdef int power = 0, _k
    c = c if c < 1e300 else 1e300
    first = c / (1.0 + e)
    if first < 1e-5:
        return y * (first * (1.0 - 0.5 * (first * (e / (1.0 + e)))))
    x = (c + m) + e
    if x < -1.0:
        r = x
    elif x < 3.0:
        r = 0.5 * (x - 1.0)
    else:       # near the logarithm
        f = frexp(x, &power)
        r = 0.6931471805599453 * (power + (2.0 * f - 2.0))
    for _k in range(3):      # Halley; the error is 0.4 at first, a twelfth of its cube after each
        q = fo_exp(r)
        f = (r + q) - x
        r = r - 2.0 * f / (2.0 * (1.0 + q) - f * (q / (1.0 + q)))
    return y * (r - m)


cdef inline void rates(Py_ssize_t n, rw w, rw a, rw s, rw v, rw q, ro x, real g2) noexcept nogil:
    # The scales s and sums a of squared gradients take x in, the weights follow the scales; v is x beside its scale, and
    # q the direction of the update. Where there is no rate yet, q is 0.
    cdef Py_ssize_t i
    cdef real size, scale, total, bar
    for i in range(n):
        size = x[i] if x[i] > 0 else -x[i]
        scale = size if size > s[i] else s[i]
        w[i] = w[i] * (s[i] / scale) if s[i] > 0 else w[i]
        total = a[i] + g2 * (x[i] * x[i])
        bar = sqrt(total) * scale
        v[i] = x[i] / scale if scale > 0 else 0
        q[i] = x[i] / bar if bar > <real>TINY else 0
        a[i] = total
        s[i] = scale


cdef inline void advance(Py_ssize_t n, rw w, ro q, real by) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        w[i] = w[i] + by * q[i]


cdef void normalized(Py_ssize_t n_rows, real **states, const int64_t *indptr, const int32_t *indices, const real *data,
                     Py_ssize_t intercept, const double *y, const double *weight, real *out, double *sums, real *scratch,
                     Py_ssize_t room, double lr, int loss) noexcept nogil:
    # `intercept`: the place of its weight, or -1. y == NULL: predictions only. sums: t, N, and the range of predictions.
    cdef real *weights = states[0]
    cdef real *adaptive = states[1]
    cdef real *scales = states[2]
    cdef real *w = scratch
    cdef real *x = scratch + room
    cdef real *a = scratch + 2 * room
    cdef real *s = scratch + 3 * room
    cdef real *v = scratch + 4 * room
    cdef real *q = scratch + 5 * room
    cdef const int32_t *ids
    cdef Py_ssize_t r, j, own, n, at, padded
    cdef double z, g, h, m, along, c
    cdef real g2
    for r in range(n_rows):
        at = indptr[r]
        own = n = indptr[r + 1] - at
        ids = indices + at
        for j in range(own):
            w[j], x[j] = weights[ids[j]], data[at + j]
        if intercept >= 0:
            w[own], x[own] = weights[intercept], 1
            n = own + 1
        padded = (n + 15) // 16 * 16
        memset(w + n, 0, (padded - n) * sizeof(real))
        memset(x + n, 0, (padded - n) * sizeof(real))
        if y != NULL and loss == 0:
            sums[2] = y[r] if y[r] < sums[2] else sums[2]
            sums[3] = y[r] if y[r] > sums[3] else sums[3]
        z = dot(padded, w, x)
        z = sums[2] if z < sums[2] else (sums[3] if z > sums[3] else z)
        out[r] = <real>z
        if y == NULL:
            continue
        h = weight[r]
        g = log_loss(z, y[r], 0) if loss else squared_error(z, y[r], 0)
        g2 = <real>((h * g) * g)
        if not g2 > 0:
            continue
        for j in range(own):
            a[j], s[j] = adaptive[ids[j]], scales[ids[j]]
        if intercept >= 0:
            a[own], s[own] = adaptive[intercept], scales[intercept]
        memset(a + n, 0, (padded - n) * sizeof(real))
        memset(s + n, 0, (padded - n) * sizeof(real))
        rates(padded, w, a, s, v, q, x, g2)
        sums[0] = sums[0] + h
        sums[1] = sums[1] + h * dot(padded, v, v)
        along = dot(padded, x, q)
        if along > 0 and sums[1] > 0:
            m = sqrt64(sums[0] / sums[1])
            c = (lr * h) * (m * along)
            advance(padded, w, q, <real>((ahead_log_loss(z, y[r], c) if loss else ahead_squared_error(z, y[r], c)) / along))
        for j in range(own):
            weights[ids[j]], adaptive[ids[j]], scales[ids[j]] = w[j], a[j], s[j]
        if intercept >= 0:
            weights[intercept], adaptive[intercept], scales[intercept] = w[own], a[own], s[own]


TABLE["normalized"] = <size_t><void *>normalized
