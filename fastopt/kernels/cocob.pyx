# COCOB-Backprop (Orabona and Tommasi 2017, algorithm 2). h: lr, alpha.
# The starting point is not stored: the parameter moves from the old bet, made anew of the old states, to the new one. With a
# zero gradient the two are the same number.

cdef inline real bet(real sum, real total, real most, real reward, real alpha) noexcept nogil:
    cdef real under = total + most, least = alpha * most
    return sum / (under if under >= least else least) * ((most + reward) / most)


cdef void cocob(Py_ssize_t n, rw p, ro g, rw sum, rw total, rw most, rw reward, const real *h) noexcept nogil:
    cdef real lr = h[0], alpha = h[1], zero = 0, old, size, si, ti, mi, ri
    cdef Py_ssize_t i
    for i in range(n):
        old = bet(sum[i], total[i], most[i], reward[i], alpha)
        size = fabs(g[i])
        mi = most[i] if most[i] >= size else size
        ti = total[i] + size
        ri = reward[i] + old * g[i]
        ri = zero if ri < zero else ri
        si = sum[i] + g[i]
        p[i] = p[i] - lr * (bet(si, ti, mi, ri, alpha) - old)
        sum[i] = si
        total[i] = ti
        most[i] = mi
        reward[i] = ri


TABLE["cocob"] = <size_t><void *>cocob
