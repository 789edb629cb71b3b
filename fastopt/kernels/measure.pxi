# What a step has to know of its gradients, or of parameter and states, as a whole before it can be made: norms, and the
# sums of those rules that have any. Blocks of BLOCK elements are counted from the start of the array, or of the touched rows
# in ascending order; each gives two sums in double, which are added left to right.

cdef struct Survey:
    Work *work
    Worker *workers
    Py_ssize_t count, blocks
    bint plain                          # of the gradients as they were given; else by the rule's own measure
    measure_t norm[2]
    double *sums                        # MEASURES to a block


cdef inline Py_ssize_t blocks_of(const Work *w, bint plain) noexcept nogil:
    return (rows_of_work(w) * w.width + BLOCK - 1) // BLOCK if w.size and (plain or w.measure != NULL) else 0


cdef void pack(const Work *w, Worker *mine, Py_ssize_t at, Py_ssize_t n, char *p, char *g, char *s,
               bint back) noexcept nogil:
    # Elements at..at+n of the touched rows, as if those stood one after the other, into blocks; or the states back.
    cdef Py_ssize_t es = w.itemsize, r = at // w.width, c = at - r * w.width, m, k, done = 0, offset
    while done < n:
        m = w.width - c if w.width - c < n - done else n - done
        offset = row_of(w, r) * w.pitch + c * es
        if back:
            for k in range(w.n_states):
                memcpy(w.s[k] + offset, s + k * BLOCK * 8 + done * es, m * es)
        else:
            memcpy(g + done * es, gradient(w, r, mine.sum) + c * es, m * es)
            if p != NULL:
                memcpy(p + done * es, w.p + offset, m * es)
                for k in range(w.n_states):
                    memcpy(s + k * BLOCK * 8 + done * es, w.s[k] + offset, m * es)
        done += m
        r, c = r + 1, 0


cdef void measure_block(const Work *w, Worker *mine, Py_ssize_t at, measure_t norm, double *sums) noexcept nogil:
    # norm: NULL for the rule's own measure, which may write the states.
    cdef char p[BLOCK * 8]
    cdef char g[BLOCK * 8]
    cdef char s[4 * BLOCK * 8]
    cdef char scratch[BLOCK * 8]
    cdef Py_ssize_t n = rows_of_work(w) * w.width - at, es = w.itemsize, k
    cdef const char *gb = g
    cdef char *pb = p
    cdef char *state_of[4]
    cdef bint apart = w.rows != NULL or w.pitch != w.width * es
    n = BLOCK if n > BLOCK else n
    if not apart:
        gb, pb = w.g + at * es, w.p + at * es
        for k in range(4):
            state_of[k] = state(w, <int>k, at * es)
    else:
        pack(w, mine, at, n, NULL if norm != NULL else p, g, s, False)
        for k in range(4):
            state_of[k] = s + k * BLOCK * 8
    if norm != NULL:
        norm(n, pb, gb, NULL, NULL, NULL, NULL, NULL, sums)
        return
    gb = on_its_way(w, n, pb, gb, scratch)
    w.measure(n, pb, gb, state_of[0], state_of[1], state_of[2], state_of[3], w.h + SPAN * es, sums)
    if apart:
        pack(w, mine, at, n, NULL, NULL, s, True)


cdef void survey_share(void *what, int k, int threads) noexcept nogil:
    cdef Survey *q = <Survey *>what
    cdef Py_ssize_t begin = part(q.blocks, k, threads), end = part(q.blocks, k + 1, threads), first = 0, i, b, n
    cdef const Work *w
    cdef fo_fpenv saved = fo_fp_enter()
    for i in range(q.count):
        w = &q.work[i]
        n = blocks_of(w, q.plain)
        for b in range(begin - first if begin > first else 0, n if n < end - first else end - first):
            measure_block(w, &q.workers[k], b * BLOCK, q.norm[w.itemsize == 8] if q.plain else NULL,
                          q.sums + (first + b) * MEASURES)
        first += n
        if first >= end:
            break
    fo_fp_leave(saved)


cdef void survey(Survey *q, double *totals, int threads) noexcept nogil:
    # MEASURES totals for each parameter.
    cdef Py_ssize_t i, b, first = 0
    cdef int j
    together(survey_share, q, threads)
    for i in range(q.count):
        for j in range(MEASURES):
            totals[i * MEASURES + j] = 0
        for b in range(first, first + blocks_of(&q.work[i], q.plain)):
            for j in range(MEASURES):
                totals[i * MEASURES + j] = totals[i * MEASURES + j] + q.sums[b * MEASURES + j]
        first += blocks_of(&q.work[i], q.plain)
