# Exact sparse mode: what the steps that passed a row by would have done to it, as one jump.
#
# With a zero gradient every step is linear in what a row holds, up to the term with epsilon, which is a sum of powers.
# So a step is a few numbers, its *gap*, and two gaps that follow each other make one:
#
#     [keep, back, decays..., rates..., drifts..., keep - 1]
#     parameter <- keep * parameter + drift * momentum,  momentum <- rate * momentum + back * parameter
#     state <- decay * state
#
# Rules with epsilon have several rates and drifts, the terms of a series; the others have one or none. With several, or none,
# nothing drives the momentum, and the place of `back` is another's: with several, what the momentum, then the first state,
# moves the parameter (downwards) outside the series; with none, what is added to the last state.
#
# What is lost is kept beside what is left: over many steps it is the more exact of the two, until nearly all is gone.
# Remembered are, for every past step s, the gap from s to the end of its stretch of STRETCH steps, for every stretch the gap
# from its end to the end of the last whole one, and in the stretch that is under way the gap from s to now. The gap from any
# step to now is made of at most three of them, however long ago, whatever the learning rate or another option did in between.

cdef enum:
    STRETCH = 256
    MOST_PAST = 1 << 17     # steps remembered; then every row is brought up to date, and memory begins anew
    MOST_GAP = 32           # numbers of a gap, at most

ctypedef void (*derive_t)(const double *gap, int n_series, const void *first, void *scalars) noexcept nogil

cdef struct Law:            # of catch-up, for one rule and dtype
    catch_t row, each       # with scalars for a whole row, and for each element
    stiff_t stiff           # must a row be replayed? NULL: never
    derive_t derive         # scalars of a gap; NULL: the gap itself
    int n_scalars, n_decays, n_series

cdef struct Past:
    Py_ssize_t now          # steps remembered; a row's last step is counted from the same origin
    Py_ssize_t room
    Py_ssize_t reach        # after so many steps the momentum of any row is below the dtype's precision
    int size, n_decays, n_series
    bint coupled            # the parameter drives the momentum
    double *gaps            # room x size
    double *ends            # stretches x size
    char *h                 # scalars of the steps, for those rows that have to be replayed
    Py_ssize_t h_bytes
    char *last              # the step after which each row stands: int32, `pitch` bytes apart; NULL: now, for all
    Py_ssize_t pitch
    bint own                # `last` is ours
    uint64_t tick           # of the run under way


cdef void forget(Past *q) noexcept:
    # All rows are up to date.
    PyMem_Free(q.gaps)
    PyMem_Free(q.ends)
    PyMem_Free(q.h)
    q.gaps, q.ends, q.h = NULL, NULL, NULL
    q.now, q.room, q.reach = 0, 0, 0


cdef void *grown(void *old, Py_ssize_t n) except NULL:
    cdef void *new = PyMem_Realloc(old, n)
    if new == NULL:
        raise MemoryError
    return new


cdef int room_for_step(Past *q, const Law *law, Py_ssize_t h_bytes) except -1:
    # Memory for one step more, and for its outcome.
    cdef Py_ssize_t room
    cdef int size = 3 + law.n_decays + 2 * law.n_series
    if q.size != size or q.h_bytes != h_bytes:
        if q.now:                           # the host brings rows up to date before it changes the rule
            raise SystemError("the law of catch-up changed under way")
        forget(q)
    q.size, q.n_decays, q.n_series, q.coupled, q.h_bytes = size, law.n_decays, law.n_series, law.n_series == 1, h_bytes
    if q.now + 2 > q.room:
        room = 2 * q.room if q.room else STRETCH
        q.gaps = <double *>grown(q.gaps, room * size * sizeof(double))
        q.ends = <double *>grown(q.ends, (room // STRETCH + 1) * size * sizeof(double))
        if h_bytes:
            q.h = <char *>grown(q.h, room * h_bytes)
        q.room = room
    if q.now == 0:
        stand_still(q, q.gaps)
    return 0


cdef void stand_still(const Past *q, double *gap) noexcept nogil:
    cdef int j
    for j in range(q.size):
        gap[j] = 1
    gap[1] = gap[q.size - 1] = 0
    for j in range(q.n_series):
        gap[2 + q.n_decays + q.n_series + j] = 0


cdef void follow(const Past *q, const double *a, const double *b, double *out) noexcept nogil:
    # The gap a, then the gap b; `out` may be a.
    cdef int j, r = 2 + q.n_decays, f = r + q.n_series, end = q.size - 1
    cdef double keep = a[0], back = a[1], left = a[2], rate, drift
    cdef bint gone
    out[end] = a[end] + b[end] + a[end] * b[end]
    for j in range(2, r):
        out[j] = a[j] * b[j]
    if q.coupled:
        rate, drift = a[r], a[f]
        out[0] = b[0] * keep + b[f] * back
        out[end] = out[end] + b[f] * back
        out[1] = b[r] * back + b[1] * keep
        out[r] = b[r] * rate + b[1] * drift
        out[f] = b[f] * rate + b[0] * drift
        return
    out[0] = keep * b[0]
    out[1] = b[r - 1] * back + b[1]
    if q.n_series:
        out[1] = b[0] * back + left * b[1]
        # What is left of the momentum moves the row no more: then the series' later terms, which may have grown by
        # themselves, would only hide that.
        gone = fabs(a[r] * b[f]) <= 2.0 ** -60 * fabs(b[0] * a[f])
        for j in range(q.n_series):
            drift = b[0] * a[f + j]
            out[f + j] = drift if gone else drift + a[r + j] * b[f + j]
            out[r + j] = a[r + j] * b[r + j]


cdef void remember(Past *q, const double *step, const char *h) noexcept nogil:
    # Rows that this step did not touch are one step further behind.
    cdef Py_ssize_t first = q.now // STRETCH * STRETCH, s
    for s in range(first, q.now + 1):
        follow(q, q.gaps + s * q.size, step, q.gaps + s * q.size)
    if q.h_bytes:
        memcpy(q.h + q.now * q.h_bytes, h, q.h_bytes)
    q.now += 1
    if q.now % STRETCH == 0:
        for s in range(first // STRETCH):
            follow(q, q.ends + s * q.size, q.gaps + first * q.size, q.ends + s * q.size)
        stand_still(q, q.ends + first // STRETCH * q.size)
    stand_still(q, q.gaps + q.now * q.size)


cdef void gap_since(const Past *q, Py_ssize_t s, double *gap) noexcept nogil:
    cdef Py_ssize_t at = s // STRETCH, here = q.now // STRETCH
    if at == here:
        memcpy(gap, q.gaps + s * q.size, q.size * sizeof(double))
    else:
        follow(q, q.gaps + s * q.size, q.ends + at * q.size, gap)
        follow(q, gap, q.gaps + here * STRETCH * q.size, gap)
    # The parameter becomes keep p + (less p + drift m): rounded once, where little is lost, and not at each catch-up anew.
    if gap[q.size - 1] > -0.5:
        gap[0] = 1
    else:
        if gap[q.size - 1] > 2.0 ** -20 - 1:
            gap[0] = 1 + gap[q.size - 1]
        gap[q.size - 1] = 0


cdef inline int32_t *last_of(const Past *q, Py_ssize_t row) noexcept nogil:
    return <int32_t *>(q.last + row * q.pitch)


cdef void up_to_date(Past *q, Py_ssize_t n_rows) noexcept:
    # Every row stands after the last step: what lies before can be forgotten.
    cdef Py_ssize_t r
    if q.last != NULL:
        for r in range(n_rows):
            if last_of(q, r)[0]:            # memory that was never written to stays so
                last_of(q, r)[0] = 0
    forget(q)
