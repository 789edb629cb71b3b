# What the models need beside spans: the score of a sample and the derivative of its loss.

from libc.stdint cimport int32_t, uintptr_t

cdef extern from "fo_exp.h" nogil:
    double fo_exp(double x)

cdef extern from "fo_records.h" nogil:
    void fo_places(Py_ssize_t n, uintptr_t *place, const int32_t *ids, int shift, uintptr_t records, uintptr_t to_own,
                   int32_t hot)


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


cdef inline double squared_hinge(double z, double y, double a) noexcept nogil:
    cdef double m = 1.0 - y * z
    return -2.0 * y * m if m > 0.0 else 0.0


cdef inline double modified_huber(double z, double y, double a) noexcept nogil:
    cdef double m = y * z
    return -4.0 * y if m < -1.0 else (-2.0 * y * (1.0 - m) if m < 1.0 else 0.0)


cdef inline double squared_error(double z, double y, double a) noexcept nogil:
    return z - y


cdef inline double huber(double z, double y, double a) noexcept nogil:
    cdef double r = z - y
    return a if r > a else (-a if r < -a else r)


cdef inline double epsilon_insensitive(double z, double y, double a) noexcept nogil:
    cdef double r = z - y
    return 1.0 if r > a else (-1.0 if r < -a else 0.0)


cdef inline double squared_epsilon_insensitive(double z, double y, double a) noexcept nogil:
    cdef double r = z - y
    return 2.0 * (r - a) if r > a else (2.0 * (r + a) if r < -a else 0.0)


cdef inline double quantile(double z, double y, double a) noexcept nogil:
    return 1.0 - a if z > y else (-a if z < y else 0.0)


cdef inline double poisson(double z, double y, double a) noexcept nogil:
    return fo_exp(z) - y


# One sample of a linear model: its score, which is returned, and the gradient of its weights, times the sample's weight `w`.
# One function a loss, so that all of it is one call.

cdef inline void spread(Py_ssize_t n, rw g, ro x, real by) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        g[i] = by * x[i]


cdef double learn_log_loss(Py_ssize_t n, rw g, ro p, ro x, double y, double a, double w) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>(w * log_loss(z, y, a)))
    return z


cdef double learn_hinge(Py_ssize_t n, rw g, ro p, ro x, double y, double a, double w) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>(w * hinge(z, y, a)))
    return z


cdef double learn_squared_hinge(Py_ssize_t n, rw g, ro p, ro x, double y, double a, double w) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>(w * squared_hinge(z, y, a)))
    return z


cdef double learn_modified_huber(Py_ssize_t n, rw g, ro p, ro x, double y, double a, double w) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>(w * modified_huber(z, y, a)))
    return z


cdef double learn_squared_error(Py_ssize_t n, rw g, ro p, ro x, double y, double a, double w) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>(w * squared_error(z, y, a)))
    return z


cdef double learn_huber(Py_ssize_t n, rw g, ro p, ro x, double y, double a, double w) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>(w * huber(z, y, a)))
    return z


cdef double learn_epsilon_insensitive(Py_ssize_t n, rw g, ro p, ro x, double y, double a, double w) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>(w * epsilon_insensitive(z, y, a)))
    return z


cdef double learn_squared_epsilon_insensitive(Py_ssize_t n, rw g, ro p, ro x, double y, double a, double w) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>(w * squared_epsilon_insensitive(z, y, a)))
    return z


cdef double learn_quantile(Py_ssize_t n, rw g, ro p, ro x, double y, double a, double w) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>(w * quantile(z, y, a)))
    return z


cdef double learn_poisson(Py_ssize_t n, rw g, ro p, ro x, double y, double a, double w) noexcept nogil:
    cdef double z = dot(n, p, x)
    spread(n, g, x, <real>(w * poisson(z, y, a)))
    return z


# Where the records of features are, of which a thread has some for itself: see fo_records.h.

cdef void places(Py_ssize_t n, uintptr_t *place, const int32_t *ids, int shift, uintptr_t records, uintptr_t to_own,
                 int32_t hot) noexcept nogil:
    fo_places(n, place, ids, shift, records, to_own, hot)


# For drivers that gather gradients of several samples: score and derivative apart.

cdef double score(Py_ssize_t n, ro p, ro x) noexcept nogil:
    return dot(n, p, x)


TABLE["places"] = <size_t><void *>places
TABLE["score"] = <size_t><void *>score
TABLE["slope_log_loss"] = <size_t><void *>log_loss
TABLE["slope_hinge"] = <size_t><void *>hinge
TABLE["slope_squared_hinge"] = <size_t><void *>squared_hinge
TABLE["slope_modified_huber"] = <size_t><void *>modified_huber
TABLE["slope_squared_error"] = <size_t><void *>squared_error
TABLE["slope_huber"] = <size_t><void *>huber
TABLE["slope_epsilon_insensitive"] = <size_t><void *>epsilon_insensitive
TABLE["slope_squared_epsilon_insensitive"] = <size_t><void *>squared_epsilon_insensitive
TABLE["slope_quantile"] = <size_t><void *>quantile
TABLE["slope_poisson"] = <size_t><void *>poisson
TABLE["learn_log_loss"] = <size_t><void *>learn_log_loss
TABLE["learn_hinge"] = <size_t><void *>learn_hinge
TABLE["learn_squared_hinge"] = <size_t><void *>learn_squared_hinge
TABLE["learn_modified_huber"] = <size_t><void *>learn_modified_huber
TABLE["learn_squared_error"] = <size_t><void *>learn_squared_error
TABLE["learn_huber"] = <size_t><void *>learn_huber
TABLE["learn_epsilon_insensitive"] = <size_t><void *>learn_epsilon_insensitive
TABLE["learn_squared_epsilon_insensitive"] = <size_t><void *>learn_squared_epsilon_insensitive
TABLE["learn_quantile"] = <size_t><void *>learn_quantile
TABLE["learn_poisson"] = <size_t><void *>learn_poisson
