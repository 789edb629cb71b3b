# What the models need beside spans: the score of a sample and the derivative of its loss.

cdef extern from "fo_exp.h" nogil:
    double fo_exp(double x)


cdef double dot(Py_ssize_t n, const real *a, const real *b) noexcept nogil:
    # n is a multiple of 16 (callers pad with zeros, which adds nothing to a lane). The order of the sum is fixed by the
    # data alone: blocks of 1024, 16 lanes in double, lanes folded 8, 4, 2, 1, blocks added left to right.
    cdef double lane[16]
    cdef double total = 0
    cdef Py_ssize_t start, stop, i, j
    for start in range(0, n, 1024):
        stop = start + 1024 if start + 1024 < n else n
        for j in range(16):
            lane[j] = 0
        for i in range(start, stop, 16):
            for j in range(16):
                lane[j] = lane[j] + <double>a[i + j] * <double>b[i + j]
        for j in range(8):
            lane[j] = lane[j] + lane[j + 8]
        for j in range(4):
            lane[j] = lane[j] + lane[j + 4]
        total = total + ((lane[0] + lane[2]) + (lane[1] + lane[3]))
    return total


# Derivative of the loss by the score z. Classes are -1 and +1; `a` is the loss's parameter, where it has one.

cdef double log_loss(double z, double y, double a) noexcept nogil:
    return -y / (1.0 + fo_exp(y * z))


cdef double hinge(double z, double y, double a) noexcept nogil:
    return -y if y * z < 1.0 else 0.0


cdef double squared_error(double z, double y, double a) noexcept nogil:
    return z - y


cdef double huber(double z, double y, double a) noexcept nogil:
    cdef double r = z - y
    return a if r > a else (-a if r < -a else r)


TABLE["dot"] = <size_t><void *>dot
TABLE["log_loss"] = <size_t><void *>log_loss
TABLE["hinge"] = <size_t><void *>hinge
TABLE["squared_error"] = <size_t><void *>squared_error
TABLE["huber"] = <size_t><void *>huber
