# What a step has to know of its gradients, or of parameter and states, as a whole before it can be made: norms, and the
# sums of those rules that have any. Blocks of BLOCK elements are counted from the start of the array, or of the touched rows
# in ascending order; each gives two sums in double, which are added left to right.

cdef enum:
    OWN = 0                 # by the rule's own measure
    GIVEN = 1               # the norms of the gradients as they were given, clipped by value
    WHOLE = 2               # the norms of the parameters that are one unit

cdef struct Survey:
    Work *work
    Worker *workers
    Py_ssize_t count, blocks
    int kind
    measure_t norm[2]                   # NULL: the rule's own
    double *sums                        # MEASURES to a block


cdef inline Py_ssize_t blocks_of(const Work *w, int kind) noexcept nogil:
    cdef bint asked = w.measure != NULL if kind == OWN else kind == GIVEN or w.unit_kind == ONE_UNIT
    return (rows_of_work(w) * w.width + BLOCK - 1) // BLOCK if w.size and asked else 0


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


cdef void measure_block(const Work *w, Worker *mine, Py_ssize_t at, int kind, measure_t norm,
                        double *sums) noexcept nogil:
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
        pack(w, mine, at, n, NULL if kind == GIVEN else p, g, s, False)
        for k in range(4):
            state_of[k] = s + k * BLOCK * 8
    if norm != NULL:
        norm(n, pb, gb if kind == GIVEN else pb, NULL, NULL, NULL, NULL, w.factors, sums)
        return
    gb = on_its_way(w, at, n, pb, gb, scratch)
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
        n = blocks_of(w, q.kind)
        for b in range(begin - first if begin > first else 0, n if n < end - first else end - first):
            measure_block(w, &q.workers[k], b * BLOCK, q.kind, q.norm[w.itemsize == 8], q.sums + (first + b) * MEASURES)
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
        for b in range(first, first + blocks_of(&q.work[i], q.kind)):
            for j in range(MEASURES):
                totals[i * MEASURES + j] = totals[i * MEASURES + j] + q.sums[b * MEASURES + j]
        first += blocks_of(&q.work[i], q.kind)


# ---------------------------------------------------------------------------------------------------------- units

cdef struct Units:                      # adaptive clipping: a factor for each unit of a parameter
    const Work *work
    Worker *workers
    Py_ssize_t count
    measure_t given[2]                  # of the gradient, clipped by value
    measure_t norm[2]
    columns_t columns[2]
    double clipping, eps


cdef inline double unit_factor(const Units *q, double squares, double weights) noexcept nogil:
    # For the sums of the squares of gradient and parameter. What is NaN is not above the bound.
    cdef double norm = sqrt(squares), least = sqrt(weights), most
    least = q.eps if least < q.eps else least
    most = q.clipping * least
    return most / (norm if norm > 1e-6 else 1e-6) if norm > most else 1.0


cdef inline void put_factor(const Work *w, Py_ssize_t unit, double factor) noexcept nogil:
    if w.itemsize == 4:
        (<float *>w.unit_factors)[unit] = <float>factor
    else:
        (<double *>w.unit_factors)[unit] = factor


cdef double squares_of(const Work *w, measure_t norm, Py_ssize_t n, const char *x) noexcept nogil:
    cdef double sums[MEASURES]
    cdef double total = 0
    cdef Py_ssize_t at = 0
    while at < n:
        norm(n - at if n - at < BLOCK else BLOCK, NULL, x + at * w.itemsize, NULL, NULL, NULL, NULL, w.factors, sums)
        total = total + sums[0]
        at += BLOCK
    return total


cdef void units_by_rows(const Units *q, const Work *w, Worker *mine, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef int d = w.itemsize == 8
    cdef bint apart = w.rows != NULL or w.pitch != w.width * w.itemsize     # then a unit is a row
    cdef Py_ssize_t r, bytes = w.unit_size * w.itemsize
    cdef const char *g
    cdef const char *p
    for r in range(begin, end):
        g = gradient(w, r, mine.sum) if apart else w.g + r * bytes
        p = w.p + (row_of(w, r) * w.pitch if apart else r * bytes)
        put_factor(w, r, unit_factor(q, squares_of(w, q.given[d], w.unit_size, g), squares_of(w, q.norm[d], w.unit_size, p)))


cdef void units_by_columns(const Units *q, const Work *w, Worker *mine, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # Columns from `begin` to `end`: their sums are taken from top to bottom.
    cdef int d = w.itemsize == 8
    cdef bint apart = w.rows != NULL or w.pitch != w.width * w.itemsize
    cdef Py_ssize_t es = w.itemsize, r, c, at, m, rows = rows_of_work(w) if apart else 1
    cdef Py_ssize_t size = w.width if apart else w.unit_count * w.unit_size
    cdef const char *g
    cdef const char *p
    cdef double of_g[BLOCK]
    cdef double of_p[BLOCK]
    cdef double endless = INFINITY          # of the parameter's type
    cdef const double *limit = &endless
    if not d:
        (<float *>&endless)[0] = <float>INFINITY
    if w.clamp != NULL:
        limit = <const double *>w.factors
    at = begin
    while at < end:
        m = end - at if end - at < BLOCK else BLOCK
        memset(of_g, 0, m * sizeof(double))
        memset(of_p, 0, m * sizeof(double))
        for r in range(rows):
            g = gradient(w, r, mine.sum) if apart else w.g
            p = w.p + row_of(w, r) * w.pitch if apart else w.p
            c = at
            while c < size:
                q.columns[d](m, of_g, g + c * es, limit)
                q.columns[d](m, of_p, p + c * es, &endless)
                c += w.unit_count
        for c in range(m):
            put_factor(w, at + c, unit_factor(q, of_g[c], of_p[c]))
        at += m


cdef void units_share(void *what, int k, int threads) noexcept nogil:
    cdef const Units *q = <const Units *>what
    cdef const Work *w
    cdef Py_ssize_t i, units
    cdef fo_fpenv saved = fo_fp_enter()
    for i in range(q.count):
        w = &q.work[i]
        units = rows_of_work(w) if w.rows != NULL and w.units == BY_ROWS else w.unit_count
        if w.units == BY_ROWS:
            units_by_rows(q, w, &q.workers[k], part(units, k, threads), part(units, k + 1, threads))
        elif w.units == BY_COLUMNS:
            units_by_columns(q, w, &q.workers[k], part(units, k, threads), part(units, k + 1, threads))
    fo_fp_leave(saved)
