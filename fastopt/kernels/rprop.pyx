# Rprop (Riedmiller and Braun 1993), as in PyTorch: where the gradient's sign has changed, the parameter waits for one step.
# h: factor of a step that shrinks, of one that grows, least and most step size.

cdef void rprop(Py_ssize_t n, rw p, ro g, rw prev, rw size, rw s2, rw s3, const real *h) noexcept nogil:
    cdef real down = h[0], up = h[1], least = h[2], most = h[3], zero = 0, one = 1, turn, gi, si
    cdef Py_ssize_t i
    for i in range(n):
        turn = g[i] * prev[i]
        si = size[i] * (up if turn > 0 else down if turn < 0 else one)
        si = least if si < least else si
        si = most if si > most else si
        gi = zero if turn < 0 else g[i]
        p[i] = p[i] - sign(gi) * si
        prev[i] = gi
        size[i] = si


TABLE["rprop"] = <size_t><void *>rprop
