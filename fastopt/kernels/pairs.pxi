# Pairs of rows of two tables, u of the one and k of the other: training of embeddings. The pairs are those of a list, or are
# drawn from a text: each word with its neighbours, and with words that are not (negative sampling, Mikolov et al. 2013). What
# is drawn is a function of the seed, the pass and the place in the text (Philox), so that it does not depend on threads.
#
# A record of a table is the row, padded with zeros, then its states. Three ways: one thread, pair after pair; lock-free threads
# (Hogwild), which work on copies of the records that they meet, fetched and stored by relaxed atomics; and batches.

cdef extern from "fo_philox.h" nogil:
    void fo_philox(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t k, uint32_t l, uint32_t *out)

ctypedef double (*meet_t)(Py_ssize_t n, int k, const void *u, void **v, double *wide, const double *y, double w,
                          void *d) noexcept nogil
ctypedef void (*gradients_t)(Py_ssize_t n, int k, const void *u, void **v, const void *d, void *gu, void *g) noexcept nogil
ctypedef void (*add_t)(Py_ssize_t n, void *g, const void *x, double by) noexcept nogil

cdef enum:
    PIECE = 128                 # places whose pairs are drawn at a time, outside of batches
    LIGHT = 16                  # numbers of a row that are as much work as an entry of a sample

cdef struct Text:
    const int32_t *words        # numbers of words; negative: the end of a sentence. NULL: a list of pairs
    Py_ssize_t n
    const uint32_t *keep        # a word is kept if what is drawn is at most this
    const uint32_t *threshold   # negatives, by the alias method (Walker 1977): a slot is its own word below this,
    const int32_t *other        # and else that of another
    uint32_t n_words, window, key, other_key, epoch
    const int32_t *rows         # of a list: rows of u and v, targets and weights, in an order
    const int32_t *columns
    const double *y
    const double *weights
    const int32_t *order

cdef struct Drawn:              # examples of one thread
    char *memory
    Py_ssize_t n, most
    int32_t *u
    int32_t *v                  # k each, the first the word that stands there; negative: none
    int32_t *at                 # place in the text or list, from the first that was asked for
    double *y                   # of a list, else NULL
    double *w
    int32_t *word               # of the words that are kept: number, place, reach of the window
    int32_t *place
    int32_t *reach

cdef struct Pairs:
    Text text
    span_t span
    meet_t meet
    gradients_t gradients
    add_t add
    char *tables[2]
    int fixed[2]                # a column that stays 1; negative: none
    Py_ssize_t rows[2]
    Py_ssize_t width, stride    # elements of a padded row, and of a record
    int n_states, k, itemsize
    const double *y             # of the drawn: 1, then -1
    const char *h
    Py_ssize_t h_stride
    Py_ssize_t begin, end
    bint prefetch
    Drawn *drawn
    char *scratch
    Py_ssize_t own              # bytes of scratch of a thread
    double *losses              # of the threads, APART bytes apart
    int64_t *counts
    # of batches:
    char *slopes                # k for each example, those of a thread `slopes_own` bytes after its neighbour's
    Py_ssize_t slopes_own
    int64_t *slot               # of a row: its gradient's, counted from `base`; below it: not met in this batch
    int64_t base
    char **sums                 # of each thread: gradients
    Py_ssize_t *rooms
    int32_t **touched           # of each thread: its rows, those of the second table after the first's
    Py_ssize_t *n_touched       # negative: there was no memory
    Py_ssize_t size             # places of a batch, but for the last
    int shares
    fo_barrier *barrier


cdef inline bint is_kept(const Text *m, Py_ssize_t at, uint32_t *drawn) noexcept nogil:
    fo_philox(<uint32_t>at, <uint32_t>(<uint64_t>at >> 32), m.epoch, 0, m.key, m.other_key, drawn)
    return drawn[0] <= m.keep[m.words[at]]


cdef void draw_text(const Text *m, int k, Drawn *x, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # The pairs of the words at begin..end, each with its neighbours, which may stand beside: rows of u are the neighbours'.
    # Windows reach over words left out.
    cdef uint32_t drawn[4]
    cdef Py_ssize_t p = begin - 1, first = m.window, last = m.window, c, o, low, high
    cdef uint32_t block, blocks = (k + 2) // 4
    cdef uint64_t scaled
    cdef int32_t *v
    cdef int32_t word, slot
    cdef int q, rank
    drawn[1] = 0
    while p >= 0 and m.words[p] >= 0 and first > 0:
        if is_kept(m, p, drawn):
            first -= 1
            x.word[first] = m.words[p]
        p -= 1
    for p in range(begin, end):
        if m.words[p] < 0 or is_kept(m, p, drawn):
            x.word[last], x.place[last] = m.words[p], <int32_t>(p - begin)
            x.reach[last] = 1 + <int32_t>(<uint64_t>drawn[1] * m.window >> 32)
            last += 1
    high = last
    p = end
    while p < m.n and m.words[p] >= 0 and high < last + <Py_ssize_t>m.window:
        if is_kept(m, p, drawn):
            x.word[high] = m.words[p]
            high += 1
        p += 1
    x.n = 0
    for c in range(m.window, last):
        if x.word[c] < 0:
            continue
        p = begin + x.place[c]
        low = c
        while low > first and c - low < x.reach[c] and x.word[low - 1] >= 0:
            low -= 1
        o = low - 1
        while o + 1 < high and o + 1 - c <= x.reach[c] and x.word[o + 1] >= 0:
            o += 1
            if o == c:
                continue
            word = x.word[c]
            v = x.v + x.n * k
            x.u[x.n], x.at[x.n], v[0] = x.word[o], x.place[c], word
            x.n += 1
            rank = 1
            for block in range(blocks):
                fo_philox(<uint32_t>p, <uint32_t>(<uint64_t>p >> 32), m.epoch,
                          1 + <uint32_t>(o - c + m.window) * blocks + block, m.key, m.other_key, drawn)
                for q in range(4 if k - 1 - 4 * <int>block > 4 else k - 1 - 4 * <int>block):
                    scaled = <uint64_t>drawn[q] * m.n_words
                    slot = <int32_t>(scaled >> 32)
                    slot = slot if <uint32_t>scaled <= m.threshold[slot] else m.other[slot]
                    if slot != word:
                        v[rank] = slot
                        rank += 1
            while rank < k:
                v[rank] = -1
                rank += 1


cdef void draw(const Pairs *m, Drawn *x, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t e, at
    if m.text.words != NULL:
        draw_text(&m.text, m.k, x, begin, end)
        return
    x.n = end - begin
    for e in range(x.n):
        if begin + e + 32 < m.text.n:
            at = m.text.order[begin + e + 32]
            FO_PREFETCH_READ(m.text.rows + at)
            FO_PREFETCH_READ(m.text.columns + at)
            FO_PREFETCH_READ(m.text.y + at)
            FO_PREFETCH_READ(m.text.weights + at)
        at = m.text.order[begin + e]
        x.u[e], x.v[e], x.at[e] = m.text.rows[at], m.text.columns[at], <int32_t>e
        x.y[e], x.w[e] = m.text.y[at], m.text.weights[at]


cdef inline void fetch_bytes(const char *row, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t at = 0
    while at < size:
        FO_PREFETCH(row + at)
        at += 64


cdef inline void fetch_example(const Pairs *m, const Drawn *x, Py_ssize_t e) noexcept nogil:
    cdef Py_ssize_t size = m.stride * m.itemsize
    cdef int q
    fetch_bytes(m.tables[0] + x.u[e] * size, size)
    for q in range(m.k):
        if x.v[e * m.k + q] >= 0:
            fetch_bytes(m.tables[1] + x.v[e * m.k + q] * size, size)


cdef inline void update_row(const Pairs *m, real *row, real *g, int table, const char *h) noexcept nogil:
    # The column that stays 1 has no gradient; some rules move it nevertheless.
    if m.fixed[table] >= 0:
        g[m.fixed[table]] = 0
    m.span(m.width, row, g, row + m.width, row + 2 * m.width, row + 3 * m.width, row + 4 * m.width, h)
    if m.fixed[table] >= 0:
        row[m.fixed[table]] = 1


cdef inline double meet_pairs(const Pairs *m, const Drawn *x, Py_ssize_t e, const void *u, void **v, int k, double *wide,
                              void *d) noexcept nogil:
    if x.y != NULL:
        return m.meet(m.width, k, u, v, wide, x.y + e, x.w[e], d)
    return m.meet(m.width, k, u, v, wide, m.y, 1.0, d)


cdef inline void learn_pairs(const Pairs *m, real *scratch, Drawn *x, int k, int threads, const bint wild) noexcept nogil:
    # The share of one thread. `wild`: among several.
    cdef Py_ssize_t count = m.end - m.begin, first = m.begin + count * k // threads
    cdef Py_ssize_t last = m.begin + count * (k + 1) // threads, width = m.width, begin = first, end, e, step
    cdef Py_ssize_t size = m.stride * sizeof(real)
    cdef double *wide = <double *>scratch
    cdef real *gu = scratch + 2 * width
    cdef real *g = gu + width
    cdef real *own = g + m.k * width            # copies of the records
    cdef real *d = own + (m.k + 1) * m.stride
    cdef void **v = <void **>(d + (m.k + PAD) // PAD * PAD)
    cdef void **home = v + m.k
    cdef real *u
    cdef real *from_u
    cdef const int32_t *ids
    cdef const char *h
    cdef double loss = 0
    cdef int64_t pairs = 0
    cdef int q, r, n
    while begin < last:
        end = begin + PIECE if last - begin > PIECE else last
        draw(m, x, begin, end)
        for e in range(x.n):
            if m.prefetch and e + 1 < x.n:
                fetch_example(m, x, e + 1)
            ids = x.v + e * m.k
            u = from_u = <real *>m.tables[0] + x.u[e] * m.stride
            n = 0
            while n < m.k and ids[n] >= 0:
                v[n] = <real *>m.tables[1] + ids[n] * m.stride
                n += 1
            if wild:
                u = own
                fo_copy_shared(u, from_u, size)
                for q in range(n):
                    home[q] = v[q]
                    v[q] = own + (q + 1) * m.stride
                    r = 0
                    while ids[r] != ids[q]:
                        r += 1
                    if r < q:               # the same word twice: one copy
                        v[q] = v[r]
                    else:
                        fo_copy_shared(v[q], home[q], size)
            loss += meet_pairs(m, x, e, u, v, n, wide, d)
            m.gradients(width, n, u, v, d, gu, g)
            step = begin - first + x.at[e]
            h = m.h + (step * threads + k) * m.h_stride
            for q in range(n):
                update_row(m, <real *>v[q], g + q * width, 1, h)
            update_row(m, u, gu, 0, h)
            if wild:
                for q in range(n):
                    fo_copy_shared(home[q], v[q], size)
                fo_copy_shared(from_u, u, size)
        pairs += x.n
        begin = end
    m.losses[k * APART // sizeof(double)] += loss
    m.counts[k * APART // sizeof(double)] += pairs


cdef void learn_share(void *what, int k, int threads) noexcept nogil:
    cdef const Pairs *m = <const Pairs *>what
    cdef char *scratch = m.scratch + k * m.own
    cdef fo_fpenv saved = fo_fp_enter()
    if m.itemsize == 4 and threads == 1:
        learn_pairs[float](m, <float *>scratch, m.drawn + k, k, threads, False)
    elif m.itemsize == 4:
        learn_pairs[float](m, <float *>scratch, m.drawn + k, k, threads, True)
    elif threads == 1:
        learn_pairs[double](m, <double *>scratch, m.drawn + k, k, threads, False)
    else:
        learn_pairs[double](m, <double *>scratch, m.drawn + k, k, threads, True)
    fo_fp_leave(saved)


# Batches, in three phases: each thread draws a share of the examples and takes their slopes; then each owns some of the rows
# and sums their gradients over all examples in order, whatever the number of threads; then it updates them.

cdef void slope_share(void *what, int k, int threads) noexcept nogil:
    cdef const Pairs *m = <const Pairs *>what
    cdef Drawn *x = m.drawn + k
    cdef Py_ssize_t count = m.end - m.begin, begin = m.begin + count * k // threads, e
    cdef Py_ssize_t size = m.stride * m.itemsize
    cdef char *slopes = m.slopes + k * m.slopes_own
    cdef double *wide = <double *>(m.scratch + k * m.own)
    cdef void **v = <void **>(wide + m.width)
    cdef const int32_t *ids
    cdef double loss = 0
    cdef int n
    cdef fo_fpenv saved = fo_fp_enter()
    draw(m, x, begin, m.begin + count * (k + 1) // threads)
    for e in range(x.n):
        if m.prefetch and e + 1 < x.n:
            fetch_example(m, x, e + 1)
        ids = x.v + e * m.k
        n = 0
        while n < m.k and ids[n] >= 0:
            v[n] = m.tables[1] + ids[n] * size
            n += 1
        loss += meet_pairs(m, x, e, m.tables[0] + x.u[e] * size, v, n, wide, slopes + e * m.k * m.itemsize)
    m.losses[k * APART // sizeof(double)] += loss
    m.counts[k * APART // sizeof(double)] += x.n
    fo_fp_leave(saved)


cdef inline char *sum_of(Pairs *m, int k, int64_t key, Py_ssize_t size) noexcept nogil:
    # Where the gradient of a row of thread k is summed; NULL: no memory.
    cdef Py_ssize_t count = m.n_touched[k], room
    cdef char *sums
    cdef int32_t *touched
    cdef int64_t slot = m.slot[key] - m.base
    if slot < 0:
        if count == m.rooms[k]:
            room = 2 * count if count else 64
            sums = <char *>realloc(m.sums[k], room * size)
            if sums == NULL:
                return NULL
            m.sums[k] = sums
            touched = <int32_t *>realloc(m.touched[k], room * sizeof(int32_t))
            if touched == NULL:
                return NULL
            m.touched[k] = touched
            m.rooms[k] = room
        slot = count
        m.slot[key] = m.base + slot
        m.touched[k][slot] = <int32_t>key
        memset(m.sums[k] + slot * size, 0, size)
        m.n_touched[k] = count + 1
    return m.sums[k] + slot * size


cdef inline double slope_at(const Pairs *m, const char *slopes, Py_ssize_t at) noexcept nogil:
    return (<const float *>slopes)[at] if m.itemsize == 4 else (<const double *>slopes)[at]


cdef void sum_share(void *what, int k, int threads) noexcept nogil:
    cdef Pairs *m = <Pairs *>what
    cdef const Drawn *x
    cdef Py_ssize_t size = m.stride * m.itemsize, row = m.width * m.itemsize, e
    cdef const char *slopes
    cdef const char *u
    cdef const int32_t *ids
    cdef char *to
    cdef int t, q
    cdef fo_fpenv saved = fo_fp_enter()
    m.n_touched[k] = 0
    for t in range(threads):
        x = m.drawn + t
        slopes = m.slopes + t * m.slopes_own
        for e in range(x.n):
            ids = x.v + e * m.k
            u = m.tables[0] + x.u[e] * size
            q = 0
            to = NULL
            while q < m.k and ids[q] >= 0:
                if q == 0 and owner(x.u[e], threads) == k:
                    to = sum_of(m, k, x.u[e], row)
                    if to == NULL:
                        m.n_touched[k] = -1
                        fo_fp_leave(saved)
                        return
                if to != NULL:
                    m.add(m.width, to, m.tables[1] + ids[q] * size, slope_at(m, slopes, e * m.k + q))
                q += 1
            q = 0
            while q < m.k and ids[q] >= 0:
                if owner(m.rows[0] + ids[q], threads) == k:
                    to = sum_of(m, k, m.rows[0] + ids[q], row)
                    if to == NULL:
                        m.n_touched[k] = -1
                        fo_fp_leave(saved)
                        return
                    m.add(m.width, to, u, slope_at(m, slopes, e * m.k + q))
                q += 1
    fo_fp_leave(saved)


cdef void apply_share(void *what, int k, int threads) noexcept nogil:
    cdef const Pairs *m = <const Pairs *>what
    cdef Py_ssize_t size = m.stride * m.itemsize, s
    cdef int64_t row
    cdef int table
    cdef char *at
    cdef char *g
    cdef fo_fpenv saved = fo_fp_enter()
    for s in range(m.n_touched[k]):
        row = m.touched[k][s]
        table = row >= m.rows[0]
        row -= m.rows[0] if table else 0
        at = m.tables[table] + row * size
        g = m.sums[k] + s * m.width * m.itemsize
        if m.itemsize == 4:
            update_row(m, <float *>at, <float *>g, table, m.h)
        else:
            update_row(m, <double *>at, <double *>g, table, m.h)
    fo_fp_leave(saved)


cdef void pair_batches(void *what, int k, int threads) noexcept nogil:
    # All batches; called by each thread of one region. The shares are fixed, the threads may be fewer.
    cdef Pairs *m = <Pairs *>what
    cdef Pairs now = m[0]                   # begin, end, base and scalars of this batch
    cdef Py_ssize_t last = m.end
    cdef int s
    while now.begin < last:
        now.end = now.begin + m.size if last - now.begin > m.size else last
        s = k
        while s < m.shares:
            slope_share(&now, s, m.shares)
            s += threads
        fo_wait(m.barrier, threads)
        s = k
        while s < m.shares:
            sum_share(&now, s, m.shares)
            s += threads
        fo_wait(m.barrier, threads)
        for s in range(m.shares):
            if m.n_touched[s] < 0:
                return
        s = k
        while s < m.shares:
            apply_share(&now, s, m.shares)
            s += threads
        fo_wait(m.barrier, threads)
        now.h += m.h_stride
        now.base += m.rows[0] + m.rows[1]
        now.begin = now.end


cdef void read_text(Text *m, source, int k) except *:
    cdef uint64_t seed
    memset(m, 0, sizeof(Text))
    if k > 0 and len(source) == 7:
        words, keep, threshold, other, m.window, m.epoch, seed = source
        m.words, m.n, m.n_words = <const int32_t *>buffer(words), len(words), len(keep)
        m.keep, m.threshold = <const uint32_t *>buffer(keep), <const uint32_t *>buffer(threshold)
        m.other = <const int32_t *>buffer(other)
        m.key, m.other_key = <uint32_t>seed, <uint32_t>(seed >> 32)
    else:
        rows, columns, y, weights, order = source
        m.rows, m.columns = <const int32_t *>buffer(rows), <const int32_t *>buffer(columns)
        m.y, m.weights = <const double *>buffer(y), <const double *>buffer(weights)
        m.order, m.n = <const int32_t *>buffer(order), len(order)


cdef int make_room(Drawn *x, const Text *text, int k, Py_ssize_t places) except -1:
    # For the examples of so many places, in one piece of memory.
    cdef Py_ssize_t most = places * 2 * text.window if text.words != NULL else places
    cdef Py_ssize_t words = places + 2 * text.window + 1
    cdef char *at = <char *>PyMem_Malloc(2 * most * sizeof(double) + (most * (k + 2) + 3 * words) * sizeof(int32_t) + APART)
    if at == NULL:
        raise MemoryError
    x.memory, x.n, x.most = at, 0, most
    x.y = <double *>at if text.words == NULL else NULL
    x.w = <double *>at + most
    x.u = <int32_t *>(x.w + most)
    x.at = x.u + most
    x.v = x.at + most
    x.word = x.v + most * k
    x.place = x.word + words
    x.reach = x.place + words
    return 0


def drawn_pairs(source, int k, Py_ssize_t begin, Py_ssize_t end, u, v, at):
    """Draw the pairs of the places `begin` to `end` of a text as `pairs` does, into arrays (int32) that are large enough.

    Returns how many there are.
    """
    cdef Pairs m
    cdef Drawn x
    read_text(&m.text, source, k)
    m.k = k
    make_room(&x, &m.text, k, end - begin)
    draw(&m, &x, begin, end)
    memcpy(buffer(u, 1), x.u, x.n * 4)
    memcpy(buffer(v, 1), x.v, x.n * k * 4)
    memcpy(buffer(at, 1), x.at, x.n * 4)
    PyMem_Free(x.memory)
    return x.n


def pairs(addresses, str span, int n_states, str loss, u, v, Py_ssize_t width, fixed, source, int k, Py_ssize_t begin,
          Py_ssize_t end, Py_ssize_t size, h, bint one_row, int threads):
    """Train two tables on the pairs of the places `begin` to `end` of a text or a list; returns the sum of the losses and the
    number of examples.

    Rule-blind as `samples`. `u` and `v` are records: rows of `width` elements, a multiple of 16, then their states. `fixed`: in
    each table the column that stays 1, or -1. `source` of a text: words (int32, negative between sentences), and for each of
    them what is kept, the alias table's thresholds (uint32) and others, the window, the pass and the seed; of each example the
    first of `k` rows of `v` is the word there, with target 1, the others are drawn, with -1; that of `u` is its neighbour.
    Of a list: rows of u and v (int32), targets, weights (double), order. The caller has checked all of it.

    `size` 0: pair after pair, a row of `h` for each place; several threads are lock-free. Else in batches of so many places,
    with a row of `h` for each; the gradient of a row is the sum over the batch, and the bits are the same for any `threads`.
    """
    cdef Pairs m
    cdef fo_barrier barrier
    cdef int itemsize = u.itemsize, t
    cdef size_t at
    cdef Py_ssize_t places
    cdef char *memory = NULL
    cdef double *y = NULL
    cdef double total = 0
    cdef int64_t count = 0
    if fo_is_fork_child or not FO_OPENMP or (size and not FO_CAN_WAIT):
        threads = 1
    if end <= begin:
        return 0.0, 0
    memset(&m, 0, sizeof(Pairs))
    read_text(&m.text, source, k)
    if threads > end - begin:
        threads = <int>(end - begin)
    size = size if size < end - begin else end - begin
    if size:
        threads = busy(threads, size * (m.text.window + 1) * k * width // LIGHT)
    at = addresses[span]
    m.span = <span_t><void *>at
    at = addresses["pairs_" + loss]
    m.meet = <meet_t><void *>at
    at = addresses["pairs_gradients"]
    m.gradients = <gradients_t><void *>at
    at = addresses["pairs_add"]
    m.add = <add_t><void *>at
    m.tables[0], m.tables[1] = <char *>buffer(u, 1), <char *>buffer(v, 1)
    m.rows[0], m.rows[1] = len(u), len(v)
    m.fixed[0], m.fixed[1] = fixed
    m.width, m.stride, m.n_states, m.k, m.itemsize = width, u.shape[1], n_states, k, itemsize
    m.h, m.h_stride = <const char *>buffer(h) + SPAN * itemsize, 0 if one_row else h.strides[0]
    m.begin, m.end, m.shares, m.barrier = begin, end, threads, &barrier
    memset(&barrier, 0, sizeof(barrier))
    m.prefetch = prefetching and u.nbytes + v.nbytes > 1 << 19
    m.size = size
    places = (size + threads - 1) // threads + 1 if size else PIECE
    # wide; gradients; copies; slopes; pointers
    m.own = ((2 + 1 + k + (k + 1) * (1 + n_states)) * width + k + 2 * PAD) * itemsize + width * 8 + 2 * k * sizeof(void *)
    m.own = (m.own + 2 * APART - 1) // APART * APART
    m.slopes_own = 0
    try:
        m.drawn = <Drawn *>PyMem_Calloc(threads, sizeof(Drawn))
        y = <double *>PyMem_Malloc(k * sizeof(double))
        m.sums = <char **>PyMem_Calloc(threads, sizeof(char *))
        m.touched = <int32_t **>PyMem_Calloc(threads, sizeof(int32_t *))
        m.rooms = <Py_ssize_t *>PyMem_Calloc(2 * threads, sizeof(Py_ssize_t))
        if m.drawn == NULL or y == NULL or m.sums == NULL or m.touched == NULL or m.rooms == NULL:
            raise MemoryError
        m.n_touched = m.rooms + threads
        for t in range(k):
            y[t] = 1 if t == 0 else -1
        m.y = y
        for t in range(threads):
            make_room(m.drawn + t, &m.text, k, places)
        if size:
            m.slopes_own = (m.drawn[0].most * k * itemsize + 2 * APART - 1) // APART * APART
            m.slot = <int64_t *>PyMem_Calloc(m.rows[0] + m.rows[1], sizeof(int64_t))
            if m.slot == NULL:
                raise MemoryError
            m.base = 1
        memory = <char *>PyMem_Calloc(APART + threads * (m.own + m.slopes_own + 2 * APART), 1)
        if memory == NULL:
            raise MemoryError
        at = <size_t>memory
        m.scratch = <char *>((at + APART - 1) // APART * APART)
        m.slopes = m.scratch + threads * m.own
        m.losses = <double *>(m.slopes + threads * m.slopes_own)
        m.counts = <int64_t *>m.losses + APART // sizeof(double) * threads
        with nogil:
            if size == 0:
                together(learn_share, &m, threads)
            elif threads == 1:
                pair_batches(&m, 0, 1)
            else:
                with parallel(num_threads=threads):
                    pair_batches(&m, threadid(), fo_team_size())
        for t in range(threads):
            if m.n_touched[t] < 0:
                raise MemoryError
            total += m.losses[t * APART // sizeof(double)]
            count += m.counts[t * APART // sizeof(double)]
        return total, count
    finally:
        for t in range(threads):
            if m.drawn != NULL:
                PyMem_Free(m.drawn[t].memory)
            if m.sums != NULL:
                free(m.sums[t])
            if m.touched != NULL:
                free(m.touched[t])
        PyMem_Free(m.drawn)
        PyMem_Free(y)
        PyMem_Free(m.sums)
        PyMem_Free(m.touched)
        PyMem_Free(m.rooms)
        PyMem_Free(m.slot)
        PyMem_Free(memory)
