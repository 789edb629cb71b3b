# Rows of two tables that meet: a row u and k rows v, each with a target. Scores are dot products in double, in the order of
# lanes.pxi. n is a multiple of LANES: rows are padded with zeros.

cdef extern from "fo_exp.h" nogil:
    double fo_exp_near(double x)

cdef extern from "fo_log.h" nogil:
    double fo_log(double x)

cdef enum:
    TOGETHER = 8        # scores whose losses are taken at once


cdef inline double wide_dot(Py_ssize_t n, const double *a, const real *b) noexcept nogil:
    # The bits of `dot`. What one row meets several of is widened once.
    cdef double lane[LANES]
    cdef double total = 0
    cdef Py_ssize_t start, stop, i, j
    for start in range(0, n, 1024):
        stop = start + 1024 if start + 1024 < n else n
        for j in range(LANES):
            lane[j] = 0
        for i in range(start, stop, 16):
            for j in range(LANES):
                lane[j] = lane[j] + a[i + j] * <double>b[i + j]
        total = total + fold(lane)
    return total


cdef inline void widen(Py_ssize_t n, rwd wide, ro u) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        wide[i] = <double>u[i]


# The derivatives d of the loss by the k scores, times the weight `w`; returns the loss.

cdef double pairs_log_loss(Py_ssize_t n, int k, const real *u, real **v, double *wide, const double *y, double w,
                           real *d) noexcept nogil:
    # The loss of a score is log(1 + exp(-m)) = log(1 + exp(m)) - m: one logarithm of a product will do for all.
    cdef double m[TOGETHER]
    cdef double e[TOGETHER]
    cdef double sign[TOGETHER]
    cdef double sum = 0, product = 1
    cdef int first, count, q, far
    widen(n, wide, u)
    for first in range(0, k, 8):
        count = k - first if k - first < TOGETHER else TOGETHER
        for q in range(TOGETHER):
            m[q], sign[q] = 0, 0
        for q in range(count):
            sign[q] = y[first + q]
            m[q] = sign[q] * wide_dot(n, wide, v[first + q])
        far = 0
        for q in range(TOGETHER):
            far = far | (not -700 < m[q] < 700)
        if far:
            for q in range(TOGETHER):
                e[q] = fo_exp(m[q])
        else:
            for q in range(TOGETHER):
                e[q] = fo_exp_near(m[q])
        for q in range(TOGETHER):
            sign[q] = w * (-sign[q] / (1.0 + e[q]))
        for q in range(count):
            d[first + q] = <real>sign[q]
            if not e[q] > 1e15:             # else it is below 1e-15
                product = product * (1.0 + e[q])
                sum = sum - m[q]
                if product > 1e280:
                    sum = sum + fo_log(product)
                    product = 1
    return w * (sum + fo_log(product))


cdef double pairs_squared_error(Py_ssize_t n, int k, const real *u, real **v, double *wide, const double *y, double w,
                                real *d) noexcept nogil:
    cdef double sum = 0, r
    cdef int q
    widen(n, wide, u)
    for q in range(k):
        r = wide_dot(n, wide, v[q]) - y[q]
        d[q] = <real>(w * r)
        sum = sum + r * r
    return w * (0.5 * sum)


cdef void pairs_gradients(Py_ssize_t n, int k, const real *u, real **v, const real *d, real *gu, real *g) noexcept nogil:
    # The gradient of u, summed from the first v to the last, and those of the v, one after the other.
    cdef real sum[LANES]
    cdef real by
    cdef const real *row
    cdef real *to
    cdef Py_ssize_t i, j
    cdef int q
    for i in range(0, n, 16):
        for j in range(LANES):
            sum[j] = 0
        for q in range(k):
            by, row = d[q], v[q]
            for j in range(LANES):
                sum[j] = sum[j] + by * row[i + j]
        for j in range(LANES):
            gu[i + j] = sum[j]
    for q in range(k):
        spread(n, g + q * n, u, d[q])


cdef void pairs_add(Py_ssize_t n, rw g, ro x, double by) noexcept nogil:
    cdef real d = <real>by
    cdef Py_ssize_t i
    for i in range(n):
        g[i] = g[i] + d * x[i]


TABLE["pairs_log_loss"] = <size_t><void *>pairs_log_loss
TABLE["pairs_squared_error"] = <size_t><void *>pairs_squared_error
TABLE["pairs_gradients"] = <size_t><void *>pairs_gradients
TABLE["pairs_add"] = <size_t><void *>pairs_add
