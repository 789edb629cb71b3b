# Models side by side ("lanes"): what the driver of abreast.pxi needs beside a span. The weights of a feature in all models lie
# together, and so does each of its states: number i of model k stands at i * lanes + k of the feature's record. Models come in
# groups of GROUP, so that one vector instruction serves several.

from libc.math cimport INFINITY
from libc.stdint cimport int32_t
from libc.string cimport memset

cdef extern from "fo_exp.h" nogil:
    double exp_flat "fo_exp_flat"(double x)

cdef extern from "fo_log.h" nogil:
    double log64 "fo_log"(double x)

cdef enum:
    GROUP = 8


# Records into blocks, and back: weights are scaled by `up` and `down`, a number for each model.

cdef inline void collect(Py_ssize_t n, const Py_ssize_t lanes, const int n_states, real *p, real *s, Py_ssize_t room,
                         const real *records, const int32_t *ids, const real *up) noexcept nogil:
    cdef Py_ssize_t j, k
    cdef int q
    cdef const real *at
    for j in range(n):
        at = records + ids[j] * ((1 + n_states) * lanes)
        for k in range(0, lanes, 8):
            times8(p + j * lanes + k, at + k, up + k)
            for q in range(n_states):
                copy8(s + q * room + j * lanes + k, at + (1 + q) * lanes + k)


cdef inline void give_back(Py_ssize_t n, const Py_ssize_t lanes, const int n_states, const real *p, const real *s,
                           Py_ssize_t room, real *records, const int32_t *ids, const real *down, const real *rates,
                           const real *move) noexcept nogil:
    cdef Py_ssize_t j, k
    cdef int q
    cdef real *at
    for j in range(n):
        at = records + ids[j] * ((1 + n_states) * lanes)
        for k in range(0, lanes, 8):
            if rates != NULL:
                moved8(at + k, down + k, p + j * lanes + k, rates + k, move + j * lanes + k)
            else:
                times8(at + k, p + j * lanes + k, down + k)
            for q in range(n_states):
                copy8(at + (1 + q) * lanes + k, s + q * room + j * lanes + k)


cdef void lanes_gather(Py_ssize_t n, Py_ssize_t lanes, int n_states, real *p, real *s, Py_ssize_t room, const real *records,
                       const int32_t *ids, const real *up) noexcept nogil:
    if lanes == GROUP and n_states == 0:
        collect(n, GROUP, 0, p, s, room, records, ids, up)
    elif lanes == GROUP and n_states == 1:
        collect(n, GROUP, 1, p, s, room, records, ids, up)
    elif lanes == GROUP and n_states == 2:
        collect(n, GROUP, 2, p, s, room, records, ids, up)
    else:
        collect(n, lanes, n_states, p, s, room, records, ids, up)


cdef void lanes_scatter(Py_ssize_t n, Py_ssize_t lanes, int n_states, const real *p, const real *s, Py_ssize_t room,
                        real *records, const int32_t *ids, const real *down, const real *rates,
                        const real *move) noexcept nogil:
    # With `rates`: the weights are p + rates * move.
    if lanes == GROUP and n_states == 0:
        give_back(n, GROUP, 0, p, s, room, records, ids, down, rates, move)
    elif lanes == GROUP and n_states == 1:
        give_back(n, GROUP, 1, p, s, room, records, ids, down, rates, move)
    elif lanes == GROUP and n_states == 2:
        give_back(n, GROUP, 2, p, s, room, records, ids, down, rates, move)
    else:
        give_back(n, lanes, n_states, p, s, room, records, ids, down, rates, move)


# Scores: for each model the dot product of scores.pyx, in its order.

cdef inline void scores_of(Py_ssize_t n, const Py_ssize_t lanes, double *z, double *sums, const real *p,
                           const real *x) noexcept nogil:
    # `sums`: room for 16 groups, aligned to whole lines of the cache.
    cdef Py_ssize_t c, start, stop, j
    cdef int half
    for c in range(0, lanes, 8):
        zero8(z + c)
        for start in range(0, n, 1024):
            stop = start + 1024 if start + 1024 < n else n
            for j in range(LANES):
                zero8(sums + j * GROUP)
            for j in range(start, stop):
                products8(sums + (j & (LANES - 1)) * GROUP, p + j * lanes + c, x[j])
            half = LANES // 2
            while half > 0:
                for j in range(half):
                    add8(sums + j * GROUP, sums + (j + half) * GROUP)
                half = half // 2
            add8(z + c, sums)


cdef void lanes_scores(Py_ssize_t n, Py_ssize_t lanes, double *z, double *sums, const real *p,
                       const real *x) noexcept nogil:
    if lanes == GROUP:
        scores_of(n, GROUP, z, sums, p, x)
    else:
        scores_of(n, lanes, z, sums, p, x)


cdef void lanes_gradients(Py_ssize_t n, Py_ssize_t lanes, real *g, const real *slopes, const real *x) noexcept nogil:
    cdef Py_ssize_t j, k
    if lanes == GROUP:
        for j in range(n):
            scaled8(g + j * GROUP, slopes, x[j])
    else:
        for j in range(n):
            for k in range(0, lanes, 8):
                scaled8(g + j * lanes + k, slopes + k, x[j])


# Losses: their derivatives are those of scores.pyx, and their values are added to `sums`, times the sample's weight. What is
# not a number stays so.

cdef inline double above(double x) noexcept nogil:
    return 0.0 if x <= 0.0 else x


cdef inline double log_loss_value(double z, double y, double a, double e) noexcept nogil:
    cdef double m = y * z
    cdef double v = log64(1.0 + e) - m
    cdef double far = 0.0 if m > 0.0 else m
    return v if e < INFINITY else far


cdef inline double hinge_value(double z, double y, double a) noexcept nogil:
    return above(1.0 - y * z)


cdef inline double squared_hinge_value(double z, double y, double a) noexcept nogil:
    cdef double m = above(1.0 - y * z)
    return m * m


cdef inline double modified_huber_value(double z, double y, double a) noexcept nogil:
    cdef double m = above(1.0 - y * z)
    return -4.0 * (y * z) if y * z < -1.0 else m * m


cdef inline double squared_error_value(double z, double y, double a) noexcept nogil:
    cdef double r = z - y
    return 0.5 * (r * r)


cdef inline double huber_value(double z, double y, double a) noexcept nogil:
    cdef double r = z - y
    r = -r if r < 0.0 else r
    return 0.5 * (r * r) if r <= a else a * (r - 0.5 * a)


cdef inline double epsilon_insensitive_value(double z, double y, double a) noexcept nogil:
    cdef double r = z - y
    r = -r if r < 0.0 else r
    return above(r - a)


cdef inline double squared_epsilon_insensitive_value(double z, double y, double a) noexcept nogil:
    cdef double r = epsilon_insensitive_value(z, y, a)
    return r * r


cdef inline double quantile_value(double z, double y, double a) noexcept nogil:
    cdef double r = z - y
    return (1.0 - a) * r if r > 0.0 else -a * r


cdef void lanes_log_loss(Py_ssize_t n, rod z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    cdef Py_ssize_t k
    cdef double e
    for k in range(n):
        e = exp_flat(y[k] * z[k])
        slopes[k] = <real>(w * (-y[k] / (1.0 + e)))
        sums[k] = sums[k] + w * log_loss_value(z[k], y[k], a, e)


cdef void lanes_poisson(Py_ssize_t n, rod z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    cdef Py_ssize_t k
    cdef double e
    for k in range(n):
        e = exp_flat(z[k])
        slopes[k] = <real>(w * (e - y[k]))
        sums[k] = sums[k] + w * (e - y[k] * z[k])


cdef void lanes_hinge(Py_ssize_t n, rod z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        slopes[k] = <real>(w * hinge(z[k], y[k], a))
        sums[k] = sums[k] + w * hinge_value(z[k], y[k], a)


cdef void lanes_squared_hinge(Py_ssize_t n, rod z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        slopes[k] = <real>(w * squared_hinge(z[k], y[k], a))
        sums[k] = sums[k] + w * squared_hinge_value(z[k], y[k], a)


cdef void lanes_modified_huber(Py_ssize_t n, rod z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        slopes[k] = <real>(w * modified_huber(z[k], y[k], a))
        sums[k] = sums[k] + w * modified_huber_value(z[k], y[k], a)


cdef void lanes_squared_error(Py_ssize_t n, rod z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        slopes[k] = <real>(w * squared_error(z[k], y[k], a))
        sums[k] = sums[k] + w * squared_error_value(z[k], y[k], a)


cdef void lanes_huber(Py_ssize_t n, rod z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        slopes[k] = <real>(w * huber(z[k], y[k], a))
        sums[k] = sums[k] + w * huber_value(z[k], y[k], a)


cdef void lanes_epsilon_insensitive(Py_ssize_t n, rod z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        slopes[k] = <real>(w * epsilon_insensitive(z[k], y[k], a))
        sums[k] = sums[k] + w * epsilon_insensitive_value(z[k], y[k], a)


cdef void lanes_squared_epsilon_insensitive(Py_ssize_t n, rod z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        slopes[k] = <real>(w * squared_epsilon_insensitive(z[k], y[k], a))
        sums[k] = sums[k] + w * squared_epsilon_insensitive_value(z[k], y[k], a)


cdef void lanes_quantile(Py_ssize_t n, rod z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        slopes[k] = <real>(w * quantile(z[k], y[k], a))
        sums[k] = sums[k] + w * quantile_value(z[k], y[k], a)


# One model of `a` classes, each a lane: the probability of each, less 1 for the class that it was. Sums as in lanes.pxi. The
# loss is that of the model, in the first of the sums.

cdef void lanes_multinomial(Py_ssize_t n, rwd z, rod y, double a, double w, rw slopes, rwd sums) noexcept nogil:
    # The scores are overwritten.
    cdef Py_ssize_t classes = <Py_ssize_t>a, k, j, start, stop
    cdef double lane[LANES]
    cdef double most = z[0], total = 0, mine = 0
    for k in range(classes):
        most = z[k] if z[k] > most else most
    for k in range(classes):
        mine = z[k] - most if y[k] > 0.0 else mine
    for k in range(classes):
        z[k] = exp_flat(z[k] - most)
    for k in range(classes, n):
        z[k] = 0                            # adds nothing to a sum
    for start in range(0, n, 1024):
        stop = start + 1024 if start + 1024 < n else n
        memset(lane, 0, sizeof(lane))
        for j in range(start, stop):
            lane[j & (LANES - 1)] = lane[j & (LANES - 1)] + z[j]
        total = total + fold(lane)
    for k in range(n):
        slopes[k] = <real>(w * (z[k] / total - (1.0 if y[k] > 0.0 else 0.0)))
    sums[0] = sums[0] + w * (log64(total) - mine if total < INFINITY else total)


# For lists of classes (classes.pxi): the sums of a score are 16 rows, one for each lane, of a number for each class. Features
# that have met many classes have records of all, to which these apply; the last two are of predictions.

cdef void lanes_add(Py_ssize_t n, double *sums, const real *p, real up, double x) noexcept nogil:
    # A row of the sums gets x * (up * p); n is a multiple of GROUP.
    cdef real scaled[GROUP]
    cdef Py_ssize_t k
    if up == 1:
        for k in range(0, n, 8):
            products8(sums + k, p + k, x)
    else:
        for k in range(0, n, 8):
            scaled8(scaled, p + k, up)
            products8(sums + k, scaled, x)


cdef void lanes_fold(Py_ssize_t n, rwd z, rod sums) noexcept nogil:
    # To z add 16 rows of n sums, folded 8, 4, 2, 1.
    cdef rod s = sums
    cdef rod t = sums + 8 * n
    cdef Py_ssize_t k
    for k in range(n):
        z[k] = z[k] + ((((s[k] + t[k]) + (s[4 * n + k] + t[4 * n + k]))
                        + ((s[2 * n + k] + t[2 * n + k]) + (s[6 * n + k] + t[6 * n + k])))
                       + (((s[n + k] + t[n + k]) + (s[5 * n + k] + t[5 * n + k]))
                          + ((s[3 * n + k] + t[3 * n + k]) + (s[7 * n + k] + t[7 * n + k]))))


cdef void lanes_turn(Py_ssize_t n, rw p, real up, real down, real nothing) noexcept nogil:
    # What a step makes of weights whose gradients are `nothing`, a zero of either sign.
    cdef Py_ssize_t k
    for k in range(n):
        p[k] = down * (up * p[k] - nothing)


cdef void lanes_axpy(Py_ssize_t n, rw out, ro p, real up, real x) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        out[k] = out[k] + (p[k] * up) * x


cdef void lanes_sum4(Py_ssize_t n, rw out, ro sums, Py_ssize_t far, ro bias) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        out[k] = ((sums[k] + sums[far + k]) + (sums[2 * far + k] + sums[3 * far + k])) + bias[k]


TABLE["lanes_add"] = <size_t><void *>lanes_add
TABLE["lanes_fold"] = <size_t><void *>lanes_fold
TABLE["lanes_turn"] = <size_t><void *>lanes_turn
TABLE["lanes_axpy"] = <size_t><void *>lanes_axpy
TABLE["lanes_sum4"] = <size_t><void *>lanes_sum4
TABLE["lanes_gather"] = <size_t><void *>lanes_gather
TABLE["lanes_scatter"] = <size_t><void *>lanes_scatter
TABLE["lanes_scores"] = <size_t><void *>lanes_scores
TABLE["lanes_gradients"] = <size_t><void *>lanes_gradients
TABLE["lanes_log_loss"] = <size_t><void *>lanes_log_loss
TABLE["lanes_poisson"] = <size_t><void *>lanes_poisson
TABLE["lanes_hinge"] = <size_t><void *>lanes_hinge
TABLE["lanes_squared_hinge"] = <size_t><void *>lanes_squared_hinge
TABLE["lanes_modified_huber"] = <size_t><void *>lanes_modified_huber
TABLE["lanes_squared_error"] = <size_t><void *>lanes_squared_error
TABLE["lanes_huber"] = <size_t><void *>lanes_huber
TABLE["lanes_epsilon_insensitive"] = <size_t><void *>lanes_epsilon_insensitive
TABLE["lanes_squared_epsilon_insensitive"] = <size_t><void *>lanes_squared_epsilon_insensitive
TABLE["lanes_quantile"] = <size_t><void *>lanes_quantile
TABLE["lanes_multinomial"] = <size_t><void *>lanes_multinomial
