# What the models need beside spans: the score of a sample and the derivative of its loss.

cdef extern from "fo_exp.h" nogil:
    double fo_exp(double x)


cdef inline double dot(Py_ssize_t n, const real *a, const real *b) noexcept nogil:
    # n is a multiple of LANES (callers pad with zeros, which adds nothing to a lane). The order is that of lanes.pxi.
    cdef double lane[LANES]
    cdef double total = 0
    cdef Py_ssize_t start, stop, i, j
    for start in range(0, n, 1024):
        stop = start + 1024 if start + 1024 < n else n
        for j in range(LANES):
            lane[j] = 0
        for i in range(start, stop, 16):
            for j in range(LANES):
                lane[j] = lane[j] + <double>a[i + j] * <double>b[i + j]
        total = total + fold(lane)
    return total


# Derivative of the loss by the score z. Classes are -1 and +1; `a` is the loss's parameter, where it has one.

cdef inline double log_loss(double z, double y, double a) noexcept nogil:
    return -y / (1.0 + fo_exp(y * z))


cdef inline double hinge(double z, double y, double a) noexcept nogil:
    return -y if y * z < 1.0 else 0.0


cdef inline double squared_error(double z, double y, double a) noexcept nogil:
    return z - y


cdef inline double huber(double z, double y, double a) noexcept nogil:
    cdef double r = z - y
    return a if r > a else (-a if r < -a else r)


# One sample of a linear model: its score, which is returned, and the gradient of its weights. One function a loss, so
# that all of it is one call.

cdef inline void spread(Py_ssize_t n, rw g, ro x, real by) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        g[i] = by * x[i]


cdef double learn_log_loss(Py_ssize_t n, rw g, ro p, ro x, double y, double a) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>log_loss(z, y, a))
    return z


cdef double learn_hinge(Py_ssize_t n, rw g, ro p, ro x, double y, double a) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>hinge(z, y, a))
    return z


cdef double learn_squared_error(Py_ssize_t n, rw g, ro p, ro x, double y, double a) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>squared_error(z, y, a))
    return z


cdef double learn_huber(Py_ssize_t n, rw g, ro p, ro x, double y, double a) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>huber(z, y, a))
    return z


TABLE["learn_log_loss"] = <size_t><void *>learn_log_loss
TABLE["learn_hinge"] = <size_t><void *>learn_hinge
TABLE["learn_squared_error"] = <size_t><void *>learn_squared_error
TABLE["learn_huber"] = <size_t><void *>learn_huber
