# The drivers: dense, rows, elements. Which elements meet the span, with which gradient; and before that, in exact mode,
# the catch-up of what the row has missed.

cdef struct Work:
    span_t span                         # NULL: catch up only
    bint bare                           # no block operation, no average
    block_t negate, clamp, scale, couple, shrink    # NULL where the operation is not asked for
    double factors[2]                   # of the parameter's type: the limit, the factor of the gradient with its sign
    int unit_kind                       # how the units of adaptive clipping lie; 0: there are none
    int units                           # BY_ROWS or BY_COLUMNS where they have factors in this step, else 0
    Py_ssize_t unit_count, unit_size
    char *unit_factors
    block_t rescale, multiply
    noise_t noise                       # NULL: none
    double sigma                        # of the parameter's type
    const Draw *draw
    Py_ssize_t which                    # of all parameters
    measure_t measure                   # sums that the rule needs before its span; NULL: none
    int n_means                         # averages of the parameter
    mean_t mean[MEANS]                  # NULL: not in this step
    char *m[MEANS]
    const char *mean_h[MEANS]
    char *p
    char *s[4]
    const char *h
    const char *g
    const Groups *rows                  # rows to touch; NULL: all
    const int64_t *columns              # entry e is one number, at columns[e] of its row; NULL: a whole row
    const int64_t *bags                 # entry e takes row bags[e] of g; NULL: row e
    const char *scales                  # ... times scales[e]; NULL: as it is
    Past *past                          # NULL: nothing to catch up
    const double *gap                   # that this step leaves in other rows
    Py_ssize_t reach
    const Law *law
    span_t replay_span
    block_t replay_shrink
    Py_ssize_t start                    # elements of work before this parameter's
    Py_ssize_t size                     # elements of work, now
    Py_ssize_t width                    # elements in a row
    Py_ssize_t n_rows
    Py_ssize_t pitch                    # bytes from row to row, of parameter and states
    int itemsize
    bint touched                        # it has a gradient in this step, be it empty
    int n_states
    int n_streams                       # 1 where parameter and states of a row lie side by side
    Py_ssize_t stream                   # bytes of a row in each stream

cdef struct Worker:                     # what a thread has to itself
    char *sum                           # a row of gradient
    char *zeros                         # a row of zeros
    uint64_t *stamp                     # for each number of steps ago: when its scalars were made
    char *scalars
    double alone[MOST_GAP]              # scalars of a row that was replayed
    Py_ssize_t widest, longest, memory

cdef enum:
    BY_ROWS = 1             # a unit is a run of elements; of an array in Fortran order, a column
    BY_COLUMNS = 2          # a unit is every count-th element
    ONE_UNIT = 3            # the parameter

cdef bint prefetching = True
cdef char nothing[MOST_GAP * 8]


cdef void free_worker(Worker *q) noexcept:
    PyMem_Free(q.sum)
    PyMem_Free(q.zeros)
    PyMem_Free(q.stamp)
    PyMem_Free(q.scalars)
    memset(q, 0, sizeof(Worker))


cdef int equip(Worker *q, Py_ssize_t widest, Py_ssize_t longest, Py_ssize_t memory) except -1:
    if widest > q.widest or longest > q.longest or memory > q.memory:
        widest, longest, memory = max(widest, q.widest), max(2 * longest, q.longest), max(2 * memory, q.memory)
        free_worker(q)
        q.sum = <char *>PyMem_Malloc(widest + 64)
        q.zeros = <char *>PyMem_Calloc(widest + 64, 1)
        q.stamp = <uint64_t *>PyMem_Calloc(longest + 1, sizeof(uint64_t))
        q.scalars = <char *>PyMem_Malloc(memory + 64)
        if not (q.sum and q.zeros and q.stamp and q.scalars):
            free_worker(q)
            raise MemoryError
        q.widest, q.longest, q.memory = widest, longest, memory
    return 0


def prefetch(bint on):
    """For measurements: turn the prefetch of rows, and of the records of samples, off or on again."""
    global prefetching
    prefetching = on


cdef inline Py_ssize_t first_key(const Work *w, Py_ssize_t r) noexcept nogil:
    # Of the r-th row of work, its first key.
    return w.rows.begin[r] if w.rows.repeated else r


cdef inline Py_ssize_t row_of(const Work *w, Py_ssize_t r) noexcept nogil:
    return r if w.rows == NULL else <Py_ssize_t>(w.rows.keys[first_key(w, r)] >> w.rows.shift)


cdef void scale_units(const Work *w, Py_ssize_t at, Py_ssize_t n, char *g) noexcept nogil:
    # n elements of gradient, the first of which is number `at` of those that are touched: each unit by its factor.
    cdef Py_ssize_t es = w.itemsize, size = w.unit_size if w.units == BY_ROWS else w.unit_count, r = at // size
    cdef Py_ssize_t c = at - r * size, done = 0, m
    while done < n:
        m = size - c if size - c < n - done else n - done
        if w.units == BY_ROWS:
            w.rescale(m, g + done * es, NULL, w.unit_factors + r * es)
        else:
            w.multiply(m, g + done * es, NULL, w.unit_factors + c * es)
        done += m
        r, c = r + 1, 0


cdef void add_noise(const Work *w, Py_ssize_t at, Py_ssize_t n, char *g) noexcept nogil:
    # To n elements, the first of which is number `at` of those that are touched.
    cdef Py_ssize_t r, c, m, done = 0
    if w.rows == NULL:
        w.noise(n, g, at, w.which, w.draw, &w.sigma)
        return
    r = at // w.width
    c = at - r * w.width
    while done < n:
        m = w.width - c if w.width - c < n - done else n - done
        w.noise(m, g + done * w.itemsize, row_of(w, r) * w.width + c, w.which, w.draw, &w.sigma)
        done += m
        r, c = r + 1, 0


cdef inline const char *on_its_way(const Work *w, Py_ssize_t at, Py_ssize_t n, const char *p, const char *g,
                                   char *scratch) noexcept nogil:
    # A block of gradient after the operations on it, in `scratch` if there are any. The caller's gradient is never written.
    # `at`: the number of its first element, if those that are touched stood one after the other.
    cdef const char *factor = <const char *>w.factors + w.itemsize
    if w.clamp != NULL:                     # the factor has the sign
        w.clamp(n, scratch, g, w.factors)
        g = scratch
    elif w.scale != NULL:
        w.scale(n, scratch, g, factor)
        g = scratch
    elif w.negate != NULL:
        w.negate(n, scratch, g, NULL)
        g = scratch
    if w.couple != NULL or w.units or w.noise != NULL:
        if g != scratch:
            memcpy(scratch, g, n * w.itemsize)
            g = scratch
        if w.units:
            scale_units(w, at, n, scratch)
        if w.noise != NULL:
            add_noise(w, at, n, scratch)
        if w.couple != NULL:
            w.couple(n, scratch, p, w.h + COUPLE * w.itemsize)
    return g


cdef void update(const Work *w, Py_ssize_t first, Py_ssize_t n, char *p, const char *g, char *s0, char *s1, char *s2, char *s3,
                 char *m0, char *m1) noexcept nogil:
    # Block operations and span over n contiguous elements; `first`: as in on_its_way.
    cdef char scratch[BLOCK * 8]
    cdef Py_ssize_t es = w.itemsize, at = 0, m
    cdef const char *h = w.h
    cdef const char *gb
    if w.bare:
        w.span(n, p, g, s0, s1, s2, s3, h + SPAN * es)
        return
    while at < n:
        m = n - at if n - at < BLOCK else BLOCK
        gb = on_its_way(w, first + at, m, p + at * es, g + at * es, scratch)
        if w.shrink != NULL:
            w.shrink(m, p + at * es, NULL, h + SHRINK * es)
        w.span(m, p + at * es, gb, s0 + at * es, s1 + at * es, s2 + at * es, s3 + at * es, h + SPAN * es)
        if w.n_means and w.mean[0] != NULL:
            w.mean[0](m, m0 + at * es, p + at * es, w.mean_h[0])
        if w.n_means > 1 and w.mean[1] != NULL:
            w.mean[1](m, m1 + at * es, p + at * es, w.mean_h[1])
        at += m


cdef inline char *state(const Work *w, int k, Py_ssize_t offset) noexcept nogil:
    # Spans that do not use a state get the address of one that exists: never a pointer out of nowhere.
    return w.s[k] + offset if k < w.n_states else w.p + offset


cdef inline char *average(const Work *w, int k, Py_ssize_t offset) noexcept nogil:
    return w.m[k] + offset if k < w.n_means else w.p + offset


cdef inline void update_at(const Work *w, Py_ssize_t first, Py_ssize_t n, Py_ssize_t at, const char *g) noexcept nogil:
    # n elements of the parameter that begin `at` bytes after its first.
    update(w, first, n, w.p + at, g, state(w, 0, at), state(w, 1, at), state(w, 2, at), state(w, 3, at), average(w, 0, at),
           average(w, 1, at))


cdef void dense(const Work *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t at = begin * w.itemsize
    update_at(w, begin, end - begin, at, w.g + at)


# ---------------------------------------------------------------------------------------------------- rows of work

cdef inline Py_ssize_t rows_of_work(const Work *w) noexcept nogil:
    return w.n_rows if w.rows == NULL else w.rows.count


cdef inline Py_ssize_t place_of(const Work *w, Py_ssize_t e) noexcept nogil:
    # Where key e stood among the entries of the gradient.
    return <Py_ssize_t>(w.rows.keys[e] & ((<uint64_t>1 << w.rows.shift) - 1))


cdef inline void fetch(const char *at, Py_ssize_t n) noexcept nogil:
    # All cache lines of n bytes.
    cdef const char *end = at + n - 1
    while at < end:
        FO_PREFETCH(at)
        at += 64
    FO_PREFETCH(end)


cdef struct Route:                      # what says where the rows are; local to a loop, so that it stays in registers
    const uint64_t *keys                # NULL: all rows in order
    const int64_t *begin                # NULL: one key a row
    int shift
    uint64_t mask
    const char *g                       # NULL: not to be fetched
    Py_ssize_t g_bytes
    char *stream[5 + MEANS]
    char *last
    int n_streams
    Py_ssize_t pitch, bytes


cdef inline void find_route(const Work *w, Route *q) noexcept nogil:
    cdef int k
    memset(q, 0, sizeof(Route))
    if w.rows == NULL:                      # the hardware sees rows in order coming
        return
    q.keys, q.shift, q.mask = w.rows.keys, w.rows.shift, (<uint64_t>1 << w.rows.shift) - 1
    if w.rows.repeated:
        q.begin = w.rows.begin
    if not prefetching:
        return
    q.pitch, q.bytes, q.g_bytes = w.pitch, w.stream, w.width * w.itemsize
    if w.bags == NULL and w.columns == NULL and w.span != NULL and w.rows.n * q.g_bytes > 1 << 18:
        q.g = w.g
    q.n_streams, q.stream[0] = w.n_streams, w.p
    for k in range(w.n_streams - 1):
        q.stream[1 + k] = w.s[k]
    if w.stream == w.width * w.itemsize:    # else they are part of the record
        for k in range(w.n_means):
            q.stream[q.n_streams] = w.m[k]
            q.n_streams += 1
    if w.past != NULL and w.past.own:
        q.last = w.past.last


cdef inline Py_ssize_t fetch_row(const Route *q, Py_ssize_t r) noexcept nogil:
    # The r-th row of work: which row of the parameter it is. What belongs to it begins to travel.
    cdef Py_ssize_t row, e, end
    cdef int k
    cdef const char *at
    if q.keys == NULL:
        return r
    e = q.begin[r] if q.begin != NULL else r
    row = <Py_ssize_t>(q.keys[e] >> q.shift)
    if q.g != NULL:
        end = q.begin[r + 1] if q.begin != NULL else r + 1
        end = e + 4 if end > e + 4 else end
        while e < end:
            at = q.g + <Py_ssize_t>(q.keys[e] & q.mask) * q.g_bytes
            fetch(at, q.g_bytes)
            e += 1
    for k in range(q.n_streams):
        fetch(q.stream[k] + row * q.pitch, q.bytes)
    if q.last != NULL:
        FO_PREFETCH(q.last + sizeof(int32_t) * row)
    return row


ctypedef fused real:
    float
    double


cdef inline void add_entries(const Work *w, Py_ssize_t first, Py_ssize_t end, real *out) noexcept nogil:
    # The gradient of a row: its entries in input order, summed from the first on.
    cdef Py_ssize_t e, j, n = w.width, place
    cdef const real *g = <const real *>w.g
    cdef const real *x
    cdef const real *scales = <const real *>w.scales
    cdef real scale
    if w.columns != NULL:
        memset(out, 0, n * sizeof(real))
        for e in range(first, end):
            place = place_of(w, e)
            out[w.columns[place]] += g[place]
        return
    for e in range(first, end):
        place = place_of(w, e)
        x = g + (w.bags[place] if w.bags != NULL else place) * n
        if scales != NULL:
            scale = scales[place]
            if e == first:
                for j in range(n):
                    out[j] = scale * x[j]
            else:
                for j in range(n):
                    out[j] = out[j] + scale * x[j]
        elif e == first:
            memcpy(out, x, n * sizeof(real))
        else:
            for j in range(n):
                out[j] = out[j] + x[j]


cdef inline const char *gradient(const Work *w, Py_ssize_t r, char *out) noexcept nogil:
    # The gradient of the r-th row of work: where it lies, or in `out`, where it had to be put together.
    cdef Py_ssize_t first, end
    if w.rows == NULL:
        return w.g + r * w.width * w.itemsize
    first = first_key(w, r)
    end = w.rows.begin[r + 1] if w.rows.repeated else r + 1
    if end == first + 1 and w.columns == NULL and w.bags == NULL:
        return w.g + place_of(w, first) * w.width * w.itemsize
    if w.itemsize == 4:
        add_entries(w, first, end, <float *>out)
    else:
        add_entries(w, first, end, <double *>out)
    return out


# -------------------------------------------------------------------------------------------------------- catch-up

cdef void make_scalars(const Work *w, const double *gap, Py_ssize_t s, char *scalars) noexcept nogil:
    cdef const char *first = nothing        # scalars of the first step missed, if there is one
    cdef int j
    if s < w.past.now:
        first = w.past.h + s * w.past.h_bytes + SPAN * w.itemsize
    if w.law.derive != NULL:
        w.law.derive(gap, w.past.n_series, first, scalars)
    elif w.itemsize == 4:
        for j in range(w.law.n_scalars):
            (<float *>scalars)[j] = <float>gap[j]
    else:
        memcpy(scalars, gap, w.law.n_scalars * sizeof(double))


cdef const char *scalars_since(const Work *w, Worker *mine, Py_ssize_t s) noexcept nogil:
    # The scalars that bring a row from step s to now; each thread makes them once for all rows of the same s.
    cdef Py_ssize_t ago = w.past.now - s
    cdef char *at = mine.scalars + ago * w.law.n_scalars * w.itemsize
    cdef double gap[MOST_GAP]
    if mine.stamp[ago] != w.past.tick:
        mine.stamp[ago] = w.past.tick
        gap_since(w.past, s, gap)
        make_scalars(w, gap, s, at)
    return at


cdef Py_ssize_t replay(const Work *w, Worker *mine, Py_ssize_t s, char *p, char *s0, char *s1, char *s2,
                       char *s3) noexcept nogil:
    # The steps after s one by one, until what is left of the momentum is too small to matter. The step reached.
    cdef Work v = w[0]
    cdef Py_ssize_t end = s + w.past.reach
    cdef bint whole
    end = w.past.now if end > w.past.now else end
    v.span, v.negate, v.clamp, v.scale, v.couple, v.n_means = w.replay_span, NULL, NULL, NULL, NULL, 0
    while s < end:
        v.h = w.past.h + s * w.past.h_bytes
        whole = (<const float *>v.h)[SHRINK] == 1 if w.itemsize == 4 else (<const double *>v.h)[SHRINK] == 1
        v.shrink, v.bare = NULL if whole else w.replay_shrink, whole
        update(&v, 0, w.width, p, mine.zeros, s0, s1, s2, s3, p, p)
        s += 1
    return s


cdef const char *catch_scalars(const Work *w, Worker *mine, Py_ssize_t s, char *p, char *s0, char *s1, char *s2,
                               char *s3) noexcept nogil:
    # As scalars_since. A row whose series would not be exact is replayed first; then the rest of the gap moves it no more.
    cdef const char *scalars = scalars_since(w, mine, s)
    cdef double gap[MOST_GAP]
    cdef int j
    if w.law.stiff != NULL and w.law.stiff(w.width, p, s0, s1, s2, s3, scalars):
        s = replay(w, mine, s, p, s0, s1, s2, s3)
        gap_since(w.past, s, gap)
        for j in range(w.past.n_series):
            gap[1] = gap[2 + w.past.n_decays + w.past.n_series + j] = 0
        make_scalars(w, gap, s, <char *>mine.alone)
        scalars = <char *>mine.alone
    return scalars


# ------------------------------------------------------------------------------------------------------- wide rows

cdef void rows(const Work *w, Worker *mine, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # Whole rows, each of them contiguous: one call of the span a row.
    cdef Py_ssize_t at, r, row, ahead, known = rows_of_work(w)
    cdef const char *scalars
    cdef int32_t *last
    cdef Route route
    find_route(w, &route)
    # By bytes, not by rows: enough to hide the memory's latency, not so much that it falls out of the cache again.
    ahead = 4096 // (w.stream * (w.n_streams + w.n_means)) + 1
    ahead = 32 if ahead > 32 else ahead
    for r in range(begin, begin + ahead if begin + ahead < end else end):
        fetch_row(&route, r)
    for r in range(begin, end):
        if r + ahead < known:
            fetch_row(&route, r + ahead)
        row = row_of(w, r)
        at = row * w.pitch
        if w.past != NULL:
            last = last_of(w.past, row)
            if last[0] != w.past.now:
                scalars = catch_scalars(w, mine, last[0], w.p + at, state(w, 0, at), state(w, 1, at), state(w, 2, at),
                                        state(w, 3, at))
                w.law.row(w.width, w.p + at, state(w, 0, at), state(w, 1, at), state(w, 2, at), state(w, 3, at), scalars)
            last[0] = <int32_t>w.past.now + (w.span != NULL)
        if w.span != NULL:
            update_at(w, r * w.width, w.width, at, gradient(w, r, mine.sum))


# ----------------------------------------------------------------------------------------------------- narrow rows

cdef inline void move(char *block, char *base, const Py_ssize_t *row, Py_ssize_t n, Py_ssize_t pitch, Py_ssize_t size,
                      bint out) noexcept nogil:
    # Rows into a block or back. Called with constant sizes, so that a row is a register or two.
    cdef Py_ssize_t j
    for j in range(n):
        if out:
            memcpy(base + row[j] * pitch, block + j * size, size)
        else:
            memcpy(block + j * size, base + row[j] * pitch, size)


cdef void move_rows(char *block, char *base, const Py_ssize_t *row, Py_ssize_t n, Py_ssize_t pitch, Py_ssize_t size,
                    bint out) noexcept nogil:
    if size == 4:
        if out:
            move(block, base, row, n, pitch, 4, True)
        else:
            move(block, base, row, n, pitch, 4, False)
    elif size == 8:
        if out:
            move(block, base, row, n, pitch, 8, True)
        else:
            move(block, base, row, n, pitch, 8, False)
    elif size == 16:
        if out:
            move(block, base, row, n, pitch, 16, True)
        else:
            move(block, base, row, n, pitch, 16, False)
    elif size == 32:
        if out:
            move(block, base, row, n, pitch, 32, True)
        else:
            move(block, base, row, n, pitch, 32, False)
    elif size == 64:
        if out:
            move(block, base, row, n, pitch, 64, True)
        else:
            move(block, base, row, n, pitch, 64, False)
    elif out:
        move(block, base, row, n, pitch, size, True)
    else:
        move(block, base, row, n, pitch, size, False)


cdef inline void spread(const real *scalars, int n_scalars, Py_ssize_t j, Py_ssize_t width, real *each) noexcept nogil:
    # The scalars of the j-th row of a block, for each of its elements. Called with constant widths: whole registers.
    cdef Py_ssize_t c
    cdef int k
    cdef real x
    for k in range(n_scalars):
        x = scalars[k]
        for c in range(width):
            each[k * GATHER + j * width + c] = x


cdef inline void spread_row(const real *scalars, int n_scalars, Py_ssize_t j, Py_ssize_t width, real *each) noexcept nogil:
    if width == 1:
        spread(scalars, n_scalars, j, 1, each)
    elif width == 4:
        spread(scalars, n_scalars, j, 4, each)
    elif width == 8:
        spread(scalars, n_scalars, j, 8, each)
    elif width == 16:
        spread(scalars, n_scalars, j, 16, each)
    else:
        spread(scalars, n_scalars, j, width, each)


cdef void catch_block(const Work *w, Worker *mine, const int32_t *since, Py_ssize_t n,
                      char block[5 + MEANS][GATHER * 8]) noexcept nogil:
    # Bring the first n rows of a block from their steps `since` to now.
    cdef char each[MOST_GAP * GATHER * 8]
    cdef const char *scalars
    cdef Py_ssize_t j, at
    for j in range(n):
        at = j * w.width * w.itemsize
        scalars = catch_scalars(w, mine, since[j], block[0] + at, block[1] + at, block[2] + at, block[3] + at,
                                block[4] + at)
        if w.itemsize == 4:
            spread_row(<const float *>scalars, w.law.n_scalars, j, w.width, <float *>each)
        else:
            spread_row(<const double *>scalars, w.law.n_scalars, j, w.width, <double *>each)
    w.law.each(n * w.width, block[0], block[1], block[2], block[3], block[4], each)


cdef Py_ssize_t stale_first(const Work *w, const Py_ssize_t *ids, Py_ssize_t n, Py_ssize_t *row, Py_ssize_t *order,
                            int32_t *since) noexcept nogil:
    # Order a block's rows: those that have missed steps, then the others. How many they are.
    cdef Py_ssize_t j, front = 0, back = n, now = w.past.now
    cdef int32_t *last
    for j in range(n):
        last = last_of(w.past, ids[j])
        if last[0] != now:
            since[front] = last[0]
            row[front], order[front] = ids[j], j
            front += 1
        else:
            back -= 1
            row[back], order[back] = ids[j], j
        last[0] = <int32_t>now + (w.span != NULL)
    return front


cdef inline void gather_rows(const Route *q, const real *g, Py_ssize_t r, const Py_ssize_t *order, Py_ssize_t n,
                             Py_ssize_t width, real *out) noexcept nogil:
    # Rows of gradient, summed where they are repeated. Called with constant widths, so that a row stays in registers.
    cdef Py_ssize_t j, c, at, e, end
    cdef const real *x
    for j in range(n):
        at = r + (j if order == NULL else order[j])
        e = q.begin[at] if q.begin != NULL else at
        end = q.begin[at + 1] if q.begin != NULL else at + 1
        memcpy(out + j * width, g + <Py_ssize_t>(q.keys[e] & q.mask) * width, width * sizeof(real))
        for e in range(e + 1, end):
            x = g + <Py_ssize_t>(q.keys[e] & q.mask) * width
            for c in range(width):
                out[j * width + c] = out[j * width + c] + x[c]


cdef inline void gather_numbers(const Route *q, const real *g, Py_ssize_t r, const Py_ssize_t *order, Py_ssize_t n,
                                real *out) noexcept nogil:
    # As gather_rows for single elements, without branches: whether a row is repeated cannot be predicted.
    cdef real sums[GATHER]
    cdef real x, sum = 0
    cdef Py_ssize_t e, j, at = -1
    cdef bint fresh
    cdef uint64_t before
    if q.begin == NULL:
        for j in range(n):
            out[j] = g[q.keys[r + (j if order == NULL else order[j])] & q.mask]
        return
    before = ~(q.keys[q.begin[r]] >> q.shift)           # another row
    for e in range(q.begin[r], q.begin[r + n]):
        x = g[q.keys[e] & q.mask]
        fresh = q.keys[e] >> q.shift != before
        before = q.keys[e] >> q.shift
        sum = x if fresh else sum + x
        at += fresh
        sums[at] = sum
    for j in range(n):
        out[j] = sums[j if order == NULL else order[j]]


cdef inline void gather_plain(const Route *q, const real *g, Py_ssize_t r, const Py_ssize_t *order, Py_ssize_t n,
                              Py_ssize_t width, real *out) noexcept nogil:
    if width == 1:
        gather_numbers(q, g, r, order, n, out)
    elif width == 4:
        gather_rows(q, g, r, order, n, 4, out)
    elif width == 8:
        gather_rows(q, g, r, order, n, 8, out)
    elif width == 16:
        gather_rows(q, g, r, order, n, 16, out)
    else:
        gather_rows(q, g, r, order, n, width, out)


cdef void gather_gradient(const Work *w, const Route *q, Py_ssize_t r, const Py_ssize_t *order, Py_ssize_t n,
                          char *g) noexcept nogil:
    # The gradients of n rows of work from the r-th on, side by side; `order`: NULL, as they stand.
    cdef Py_ssize_t j, size = w.width * w.itemsize
    cdef const char *at
    if q.keys != NULL and w.columns == NULL and w.bags == NULL:
        if w.itemsize == 4:
            gather_plain(q, <const float *>w.g, r, order, n, w.width, <float *>g)
        else:
            gather_plain(q, <const double *>w.g, r, order, n, w.width, <double *>g)
        return
    for j in range(n):
        at = gradient(w, r + (j if order == NULL else order[j]), g + j * size)
        if at != g + j * size:
            memcpy(g + j * size, at, size)


cdef void elements(const Work *w, Worker *mine, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # Single elements, and rows too narrow for a span of their own: gathered into a block, updated, scattered back.
    cdef char block[5 + MEANS][GATHER * 8]
    cdef char g[GATHER * 8]
    cdef Py_ssize_t ids[2][GATHER]
    cdef Py_ssize_t ordered[GATHER]
    cdef Py_ssize_t order[GATHER]
    cdef int32_t since[GATHER]
    cdef Py_ssize_t size = w.width * w.itemsize, step = GATHER // w.width, r = begin, m, j, next_m
    cdef Py_ssize_t *row
    cdef int k, turn = 0
    cdef Py_ssize_t stale = 0
    cdef const char *gb
    cdef Route route
    find_route(w, &route)
    m = end - r if end - r < step else step
    for j in range(m):
        ids[0][j] = fetch_row(&route, r + j)
    while r < end:
        # The next block's rows travel while this one is worked on.
        next_m = end - r - m if end - r - m < step else step
        for j in range(next_m):
            ids[1 - turn][j] = fetch_row(&route, r + m + j)
        row = ids[turn]
        if w.past != NULL:
            stale = stale_first(w, ids[turn], m, ordered, order, since)
            row = ordered
            if w.span == NULL:
                m = stale                   # catch-up alone: the others need not be looked at
        move_rows(block[0], w.p, row, m, w.pitch, size, False)
        for k in range(w.n_states):
            move_rows(block[1 + k], w.s[k], row, m, w.pitch, size, False)
        for k in range(w.n_means):
            move_rows(block[5 + k], w.m[k], row, m, w.pitch, size, False)
        if stale:
            catch_block(w, mine, since, stale, block)
        if w.span != NULL:
            if w.rows == NULL and w.past == NULL:
                gb = w.g + r * size
            else:
                gather_gradient(w, &route, r, order if w.past != NULL else NULL, m, g)
                gb = g
            update(w, r * w.width, m * w.width, block[0], gb, block[1], block[2], block[3], block[4], block[5],
                   block[6])
        move_rows(block[0], w.p, row, m, w.pitch, size, True)
        for k in range(w.n_states):
            move_rows(block[1 + k], w.s[k], row, m, w.pitch, size, True)
        for k in range(w.n_means):
            move_rows(block[5 + k], w.m[k], row, m, w.pitch, size, True)
        r += step
        m, turn = next_m, 1 - turn


# ------------------------------------------------------------------------------------------------- all parameters

cdef Py_ssize_t row_at(const Work *w, Py_ssize_t at) noexcept nogil:
    # The first row of work that begins at element `at` of the work or later.
    cdef Py_ssize_t low = 0, high, mid
    at = (at + w.width - 1) // w.width
    if w.rows == NULL or not w.rows.repeated:
        return at
    high = w.rows.count
    while low < high:
        mid = (low + high) // 2
        if w.rows.begin[mid] < at:
            low = mid + 1
        else:
            high = mid
    return low


cdef void walk(const Work *w, Worker *mine, Py_ssize_t count, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # Elements begin..end of the whole sequence. A row belongs to the range that holds its first element.
    cdef Py_ssize_t low = 0, high = count, mid, a, b
    while low < high:
        mid = (low + high) // 2
        if w[mid].start + w[mid].size <= begin:
            low = mid + 1
        else:
            high = mid
    while low < count and w[low].start < end:
        a = begin - w[low].start if begin > w[low].start else 0
        b = end - w[low].start if end - w[low].start < w[low].size else w[low].size
        if b > a:
            if w[low].rows == NULL and w[low].past == NULL and w[low].pitch == w[low].width * w[low].itemsize:
                dense(&w[low], a, b)
            elif w[low].width <= NARROW:
                elements(&w[low], mine, row_at(&w[low], a), row_at(&w[low], b))
            else:
                rows(&w[low], mine, row_at(&w[low], a), row_at(&w[low], b))
        low += 1


cdef struct Run:
    const Work *work
    Worker *workers
    Py_ssize_t count, total, chunk


cdef void run_share(void *what, int k, int threads) noexcept nogil:
    # Thread k's part: a contiguous run of chunks, the same at every step.
    cdef const Run *r = <const Run *>what
    cdef Py_ssize_t chunks = (r.total + r.chunk - 1) // r.chunk, first = part(chunks, k, threads)
    cdef Py_ssize_t last = part(chunks, k + 1, threads), c
    cdef fo_fpenv saved = fo_fp_enter()
    if forced_chunk:
        for c in range(first, last):
            walk(r.work, &r.workers[k], r.count, c * r.chunk, (c + 1) * r.chunk if (c + 1) * r.chunk < r.total else r.total)
    elif first < last:
        walk(r.work, &r.workers[k], r.count, first * r.chunk, last * r.chunk if last * r.chunk < r.total else r.total)
    fo_fp_leave(saved)


cdef void run(const Work *w, Worker *workers, Py_ssize_t count, Py_ssize_t total, int threads) noexcept nogil:
    cdef Run r
    r.work, r.workers, r.count, r.total = w, workers, count, total
    r.chunk = forced_chunk if forced_chunk else 4096
    together(run_share, &r, threads)


# ------------------------------------------------------------------------------------------------------- reading

cdef struct Reading:
    const Work *work
    char *out


cdef void read_rows_share(void *what, int k, int threads) noexcept nogil:
    # Rows of the parameter into an array; the keys stand in any order.
    cdef const Reading *r = <const Reading *>what
    cdef const Work *w = r.work
    cdef Py_ssize_t size = w.width * w.itemsize, e, n = w.rows.n, ahead = 2048 // (size + 1) + 2
    cdef const char *at
    ahead = 32 if ahead > 32 else ahead
    for e in range(part(n, k, threads), part(n, k + 1, threads)):
        if prefetching and e + ahead < n:
            at = w.p + <Py_ssize_t>(w.rows.keys[e + ahead] >> w.rows.shift) * w.pitch
            fetch(at, size)
        at = w.p + <Py_ssize_t>(w.rows.keys[e] >> w.rows.shift) * w.pitch
        if size == 4:
            memcpy(r.out + place_of(w, e) * 4, at, 4)
        else:
            memcpy(r.out + place_of(w, e) * size, at, size)
