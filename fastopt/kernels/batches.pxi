# Samples of CSR in batches: training of linear models by the sums of a batch's gradients, and the scores of rows.
#
# The features of a batch are gathered once into blocks, where each has a slot, and scattered back at its end. First which
# entry has which slot is found, which needs no weights: so each thread does it for a batch of its own. Then all threads train
# on one batch after the other. Each gathers and updates the slots that it owns, and scores a share of the samples. Who owns a
# slot goes through its entries in the order of the samples: so a gradient is summed in that order, whatever the number of
# threads, and no record has two writers.

cdef extern from "fo_barrier.h" nogil:
    ctypedef struct fo_barrier:
        pass
    const int FO_CAN_WAIT
    void fo_wait(fo_barrier *at, int threads)

cdef enum:
    REACH = 1024                # powers of the decay that a level of its table has; three levels
    BITS = 10
    SHARED_WORK = 1024          # entries of a batch for each thread, at least


cdef inline int busy(int threads, Py_ssize_t work) noexcept:
    # The threads that a batch of so much work keeps busy; forced ones always.
    if serial_below and threads > work // SHARED_WORK:
        return <int>(work // SHARED_WORK) if work >= SHARED_WORK else 1
    return threads


cdef inline int owner(int64_t row, int threads) noexcept nogil:
    # Which thread owns a row of a table: the same for 16 neighbours, which may share cache lines.
    return <int>((((<uint32_t>row >> 4) * <uint32_t>2654435769) >> 16) * <uint32_t>threads >> 16)


cdef struct Batch:              # what is found of a batch before it is its turn
    int32_t *slots              # of its entries, in the order of the samples
    int32_t *touched            # the feature of a slot
    int32_t *table              # of hashes: the slot, from `base` on those of this batch
    int32_t base
    Py_ssize_t *count           # slots of each owner: those from owner << room_bits on
    Py_ssize_t *first           # of several threads: where each owner's entries begin among those sorted by owner,
    int32_t *slot               # stable; their slots,
    int32_t *sample             # samples, counted from the batch's first,
    char *x                     # and data

cdef struct Batches:
    span_t span
    score_t score
    slope_t slope               # derivative of the loss
    double parameter            # of the loss
    char *records               # n_features records: the weight, then its states
    char *bias                  # the intercept's record, or NULL
    Py_ssize_t stride           # elements from record to record
    int n_states
    const int64_t *indptr
    const int32_t *indices
    const char *data
    const char *y
    const char *weights         # of the samples, or NULL: all 1
    const int32_t *order
    const char *h               # scalars of this batch's step
    Py_ssize_t h_stride         # bytes to those of the next; 0: the same for all
    double scale, shrink        # a weight is its record's times the scale, which each step shrinks
    double by                   # derivatives are multiplied by this
    double mean                 # weight of a sample
    int64_t *last               # steps whose penalty a record's weight has had; NULL: the scale has it
    int64_t step                # made before this batch
    const double *decay         # see caught
    double l1
    Py_ssize_t size             # samples of a batch, but for the last
    Py_ssize_t begin, end       # samples of this batch
    Py_ssize_t n                # samples of this call
    int itemsize
    Py_ssize_t longest
    Py_ssize_t most             # features of a batch
    int room_bits               # an owner has 1 << room_bits slots
    int table_bits              # a table has 1 << table_bits places, at least twice as many as there are features
    char *slopes                # of the samples of the batch
    char *blocks                # of the slots: weights, gradients, states
    char *scratch               # `own` bytes for each thread: a sample's weights and data
    Py_ssize_t own
    Batch *batches              # one for each thread
    fo_barrier *barrier


cdef inline real caught(real w, int64_t k, const double *t, double l1) noexcept nogil:
    # After k steps w <- soft(w, l1) * d, of which the magnitude is max(0, d^k |w| - l1 (d + ... + d^k)). `t` has the powers
    # of d and the sums for k below REACH, for its multiples, and for the multiples of its square.
    cdef int64_t low = k & (REACH - 1), mid = k >> BITS & (REACH - 1), high = k >> 2 * BITS
    cdef double d = t[low] * (t[REACH + mid] * t[2 * REACH + high])
    cdef double s = t[3 * REACH + low] + t[low] * (t[4 * REACH + mid] + t[REACH + mid] * t[5 * REACH + high])
    cdef double m = d * fabs(<double>w) - l1 * s
    if m <= 0:
        return 0
    return <real>(-m if w < 0 else m)


cdef void find_slots(const Batches *m, real *unused, Batch *b, Py_ssize_t begin, Py_ssize_t end, int k,
                     int threads) noexcept nogil:
    cdef const real *data = <const real *>m.data
    cdef real *x = <real *>b.x
    cdef const int32_t *ids
    cdef int32_t *slots = b.slots
    cdef int32_t *touched = b.touched
    cdef int32_t *table = b.table
    cdef int32_t base, fresh, f, q, bits = m.room_bits
    cdef uint32_t h, last = (<uint32_t>1 << m.table_bits) - 1
    cdef int shift = 32 - m.table_bits
    cdef int32_t next = 0, around = (<int32_t>threads << bits) - 1, room = <int32_t>1 << bits
    cdef Py_ssize_t i, j, n, at, total = 0
    if b.base == 0 or b.base > 2147483647 - 2 * (around + 1):
        memset(table, 0, sizeof(int32_t) << m.table_bits)
        b.base = 1
    base = b.base
    b.base += around + 1
    for i in range(begin, end):
        if i + 8 < m.n:
            at = m.indptr[m.order[i + 8]]
            for j in range(4):                  # of longer rows the rest is foreseen by the hardware
                FO_PREFETCH_READ(m.indices + at + 16 * j)
                FO_PREFETCH_READ(data + at + 16 * j)
        at = m.indptr[m.order[i]]
        n = m.indptr[m.order[i] + 1] - at
        ids = m.indices + at
        # Without branches, of which half would be guessed wrong: `fresh` is a mask. The slots go to the owners in turn, for
        # the features that come first are the frequent ones.
        for j in range(n):
            f = ids[j]
            touched[next] = f
            h = (<uint32_t>f * <uint32_t>2654435769) >> shift
            q = table[h] - base
            fresh = -(q < 0)
            q = (next & fresh) | (q & ~fresh)
            while touched[q] != f:              # the place of another
                h = (h + 1) & last
                q = table[h] - base
                fresh = -(q < 0)
                q = (next & fresh) | (q & ~fresh)
            table[h] = base + q
            slots[total + j] = q
            if threads == 1:
                next = next - fresh
            else:
                q = next + room
                q = q - (around & -(q > around))
                next = next + ((q - next) & fresh)
        total += n
    for j in range(threads):
        # Owner j has had the turns from j to the one before the next.
        at = next >> bits
        b.count[j] = (next & (room - 1)) + (j < at)
    if threads == 1:
        b.count[0] = next
        return
    for j in range(threads + 1):
        b.first[j] = 0
    for j in range(total):
        b.first[(slots[j] >> bits) + 1] += 1
    for j in range(1, threads):
        b.first[j] += b.first[j - 1]
    total = 0
    for i in range(begin, end):                 # first[j] moves to where owner j's end
        at = m.indptr[m.order[i]]
        n = m.indptr[m.order[i] + 1] - at
        for j in range(n):
            q = slots[total + j]
            f = <int32_t>b.first[q >> bits]
            b.slot[f], b.sample[f], x[f] = q, <int32_t>(i - begin), data[at + j]
            b.first[q >> bits] = f + 1
        total += n
    for j in range(threads, 0, -1):
        b.first[j] = b.first[j - 1]
    b.first[0] = 0


cdef void gather_slots(const Batches *m, real *blocks, const Batch *b, int k, int threads) noexcept nogil:
    cdef Py_ssize_t room = <Py_ssize_t>threads << m.room_bits, at = <Py_ssize_t>k << m.room_bits
    cdef Py_ssize_t stop = at + b.count[k], n, ahead, j
    cdef const real *records = <const real *>m.records
    cdef const int32_t *ids
    cdef real *p
    cdef real *s
    cdef real up = <real>m.scale
    memset(blocks + room + at, 0, b.count[k] * sizeof(real))
    fetch_records(records, b.touched + at, stop - at if stop - at < 64 else 64, m.stride, False)
    while at < stop:
        n = stop - at if stop - at < 64 else 64
        ids, p, s = b.touched + at, blocks + at, blocks + 2 * room + at
        ahead = stop - at - n if stop - at - n < 64 else 64
        fetch_records(records, ids + n, ahead, m.stride, False)
        if m.n_states == 0:
            gather(p, s, room, records, ids, n, 1, 0, up, False)
        elif m.n_states == 1:
            gather(p, s, room, records, ids, n, 2, 1, up, False)
        elif m.n_states == 2:
            gather(p, s, room, records, ids, n, 4, 2, up, False)
        else:
            gather(p, s, room, records, ids, n, m.stride, m.n_states, up, False)
        if m.last != NULL:                  # the scale is 1
            for j in range(n):
                p[j] = caught(p[j], m.step - m.last[ids[j]], m.decay, m.l1)
                m.last[ids[j]] = m.step
        at += n


cdef void score_samples(const Batches *m, const real *blocks, const Batch *b, real *p, int k, int threads) noexcept nogil:
    cdef Py_ssize_t count = m.end - m.begin, i, j, r, at, n, total = 0
    cdef Py_ssize_t begin = m.begin + count * k // threads, end = m.begin + count * (k + 1) // threads
    cdef const real *bias = <const real *>m.bias
    cdef const real *data = <const real *>m.data
    cdef const real *y = <const real *>m.y
    cdef const real *weights = <const real *>m.weights
    cdef real *slopes = <real *>m.slopes
    cdef real *x = p + m.longest
    cdef const int32_t *slots = b.slots
    cdef double slope
    for i in range(m.begin, begin):
        slots += m.indptr[m.order[i] + 1] - m.indptr[m.order[i]]
    for i in range(begin, end):
        r = m.order[i]
        at = m.indptr[r]
        n = m.indptr[r + 1] - at
        for j in range(n):
            p[j] = blocks[slots[j]]
        slots += n
        memcpy(x, data + at, n * sizeof(real))
        if bias != NULL:
            p[n], x[n] = bias[0], 1
            n = n + 1
        memset(p + n, 0, PAD * sizeof(real))
        memset(x + n, 0, PAD * sizeof(real))
        slope = m.slope(m.score((n + PAD - 1) // PAD * PAD, p, x), y[r], m.parameter)
        slopes[i - m.begin] = <real>(((weights[r] if weights != NULL else 1.0) * slope) * m.by)


cdef void update_slots(const Batches *m, real *blocks, const Batch *b, int k, int threads) noexcept nogil:
    cdef Py_ssize_t room = <Py_ssize_t>threads << m.room_bits, at = <Py_ssize_t>k << m.room_bits
    cdef Py_ssize_t stop = at + b.count[k], i, j, n, q
    cdef real *g = blocks + room
    cdef real *p
    cdef real *s
    cdef real *records = <real *>m.records
    cdef real *bias = <real *>m.bias
    cdef const real *x
    cdef const real *slopes = <const real *>m.slopes
    cdef const int32_t *slots = b.slots
    cdef const int32_t *ids
    cdef real down = <real>(1.0 / m.scale), slope
    cdef real own[5]
    if threads == 1:
        for i in range(m.begin, m.end):
            x = <const real *>m.data + m.indptr[m.order[i]]
            n = m.indptr[m.order[i] + 1] - m.indptr[m.order[i]]
            slope = slopes[i - m.begin]
            for j in range(n):
                g[slots[j]] = g[slots[j]] + slope * x[j]
            slots += n
    else:
        x = <const real *>b.x
        for j in range(b.first[k], b.first[k + 1]):
            g[b.slot[j]] = g[b.slot[j]] + slopes[b.sample[j]] * x[j]
    while at < stop:
        n = stop - at if stop - at < GATHER else GATHER
        ids, p, s = b.touched + at, blocks + at, blocks + 2 * room + at
        m.span(n, p, g + at, s, s + room, s + 2 * room, s + 3 * room, m.h)
        if m.n_states == 0:
            scatter(p, s, room, records, ids, n, 1, 0, down)
        elif m.n_states == 1:
            scatter(p, s, room, records, ids, n, 2, 1, down)
        elif m.n_states == 2:
            scatter(p, s, room, records, ids, n, 4, 2, down)
        else:
            scatter(p, s, room, records, ids, n, m.stride, m.n_states, down)
        at += n
    if bias != NULL and k == 0:
        slope = slopes[0]
        for i in range(1, m.end - m.begin):
            slope = slope + slopes[i]
        for q in range(1 + m.n_states):
            own[q] = bias[q]
        m.span(1, own, &slope, own + 1, own + 2, own + 3, own + 4, m.h)
        for q in range(1 + m.n_states):
            bias[q] = own[q]


cdef double train_batches(const Batches *shared, real *blocks, int k, int threads) noexcept nogil:
    cdef Batches m = shared[0]                  # this thread's own
    cdef Batch *b
    cdef real *scratch = <real *>(m.scratch + k * m.own)
    cdef Py_ssize_t at = (m.most + threads - 1) // threads
    cdef int i
    m.room_bits = 4
    while (<Py_ssize_t>1 << m.room_bits) <= at:
        m.room_bits += 1
    while m.begin < m.n:
        at = m.begin + k * m.size
        if at < m.n:
            find_slots(&m, blocks, m.batches + k, at, at + m.size if m.n - at > m.size else m.n, k, threads)
        fo_wait(m.barrier, threads)
        for i in range(threads):
            if m.begin >= m.n:
                break
            b = m.batches + i
            m.end = m.begin + m.size if m.n - m.begin > m.size else m.n
            m.by = 1.0 / (<double>(m.end - m.begin) * m.mean)
            gather_slots(&m, blocks, b, k, threads)
            fo_wait(m.barrier, threads)
            score_samples(&m, blocks, b, scratch, k, threads)
            fo_wait(m.barrier, threads)
            update_slots(&m, blocks, b, k, threads)
            fo_wait(m.barrier, threads)
            m.scale = m.scale * m.shrink
            m.h += m.h_stride
            m.step += 1
            m.begin = m.end
    return m.scale


cdef void batches_share(void *what, int k, int threads) noexcept nogil:
    cdef Batches *m = <Batches *>what
    cdef double scale
    cdef fo_fpenv saved = fo_fp_enter()
    if m.itemsize == 4:
        scale = train_batches(m, <float *>m.blocks, k, threads)
    else:
        scale = train_batches(m, <double *>m.blocks, k, threads)
    if k == 0:
        m.scale = scale                         # all have copied it, before they waited
    fo_fp_leave(saved)


cdef inline Py_ssize_t apart(Py_ssize_t size) noexcept nogil:
    return (size + 2 * APART - 1) // APART * APART


def batches(addresses, str span, int n_states, str loss, double parameter, records, bias, Py_ssize_t stride, indptr,
            indices, data, y, weights, order, Py_ssize_t size, double mean, Py_ssize_t longest, h, bint one_row,
            double scale, double shrink, last, int64_t step, decay, double l1, int threads):
    """Train on the CSR rows of `order` in batches of `size`; returns the scale of the weights afterwards.

    As `samples`, a row of `h` for each batch. The gradient of a batch is the sum of its samples' by the number of samples and
    `mean`, the mean weight of a sample. With `last`, the steps whose penalty each feature's weight has had, the penalty is
    that of `decay` and `l1`, see ``caught``, caught up when a feature is touched; the scale must be 1. `step`: those made
    before. The bits are the same for any `threads`.
    """
    cdef Batches m
    cdef Batch *b
    cdef int itemsize = data.itemsize, k
    cdef Py_ssize_t n = len(order), most = 0, entries = 0, i, room
    cdef Py_ssize_t of_slots, of_touched, of_table, of_x, of_counts, of_blocks, of_slopes, of_batch
    cdef size_t at
    cdef char *memory
    if n == 0:
        return scale
    at = addresses[span]
    m.span = <span_t><void *>at
    at = addresses["score"]
    m.score = <score_t><void *>at
    at = addresses["slope_" + loss]
    m.slope = <slope_t><void *>at
    m.parameter, m.stride, m.n_states = parameter, stride, n_states
    m.records, m.bias = <char *>buffer(records, 1), <char *>buffer(bias, 1)
    m.indptr, m.indices, m.data = <const int64_t *>buffer(indptr), <const int32_t *>buffer(indices), <const char *>buffer(data)
    m.y, m.weights = <const char *>buffer(y), <const char *>buffer(weights)
    m.order = <const int32_t *>buffer(order)
    m.h, m.h_stride = <const char *>buffer(h) + SPAN * itemsize, 0 if one_row else h.strides[0]
    m.scale, m.shrink, m.mean, m.step, m.l1, m.itemsize = scale, shrink, mean, step, l1, itemsize
    m.last, m.decay = <int64_t *>buffer(last, 1), <const double *>buffer(decay)
    m.begin, m.n, m.size = 0, n, size if size < n else n
    for i in range(n):
        if i % size == 0:
            entries = 0
        entries += m.indptr[m.order[i] + 1] - m.indptr[m.order[i]]
        most = entries if entries > most else most
    if fo_is_fork_child or not FO_OPENMP or not FO_CAN_WAIT:
        threads = 1
    threads = busy(threads, most)
    m.most = most if most < len(records) else len(records)
    m.table_bits = 5
    while (<Py_ssize_t>1 << m.table_bits) < 2 * m.most:
        m.table_bits += 1
    room = 2 * m.most + 18 * threads            # at least the slots of `threads` owners, or of fewer
    if room > 1 << 29 or most > 2147483647:     # what counts them is int32
        raise MemoryError(f"a batch has {most} entries, which is too many; use a smaller batch_size")
    m.longest = longest + 1 + PAD
    m.own = apart(2 * m.longest * itemsize)
    of_slots, of_touched, of_counts = apart(most * 4), apart(room * 4), apart((threads + 1) * sizeof(Py_ssize_t))
    of_x = apart(most * itemsize) if threads > 1 else 0
    of_table = apart(sizeof(int32_t) << m.table_bits)
    of_batch = of_slots + of_touched + of_table + 2 * of_counts + (2 * of_slots + of_x if threads > 1 else 0)
    of_blocks, of_slopes = apart((2 + n_states) * room * itemsize), apart(m.size * itemsize)
    memory = <char *>PyMem_Malloc(APART + of_blocks + of_slopes + threads * (m.own + of_batch + sizeof(Batch))
                                  + sizeof(fo_barrier))
    if memory == NULL:
        raise MemoryError
    at = <size_t>memory
    m.blocks = <char *>((at + APART - 1) // APART * APART)
    m.slopes = m.blocks + of_blocks
    m.scratch = m.slopes + of_slopes
    at = <size_t>(m.scratch + threads * m.own)
    m.barrier = <fo_barrier *>(at + threads * of_batch)
    memset(m.barrier, 0, sizeof(fo_barrier))
    m.batches = <Batch *>(m.barrier + 1)
    for k in range(threads):
        b = m.batches + k
        b.slots, b.touched = <int32_t *>at, <int32_t *>(at + of_slots)
        at += of_slots + of_touched
        b.table, b.base = <int32_t *>at, 0
        at += of_table
        b.count, b.first = <Py_ssize_t *>at, <Py_ssize_t *>(at + of_counts)
        at += 2 * of_counts
        if threads > 1:
            b.slot, b.sample, b.x = <int32_t *>at, <int32_t *>(at + of_slots), <char *>(at + 2 * of_slots)
            at += 2 * of_slots + of_x
    with nogil:
        in_step(batches_share, &m, threads)
    PyMem_Free(memory)
    return m.scale


cdef struct Scoring:
    const int64_t *indptr
    const int32_t *indices
    const char *data
    const char *w
    Py_ssize_t n_features
    double bias
    char *out
    Py_ssize_t n
    int itemsize
    int64_t bad                 # a row that has an index out of bounds; -1: none


cdef Py_ssize_t rows_scored(const int64_t *indptr, const int32_t *indices, const real *data, const real *w,
                            uint32_t n_features, real bias, real *out, Py_ssize_t r, Py_ssize_t end) noexcept nogil:
    # Each index is read once and looked at before it is followed: another thread may change the caller's. In four lanes, of
    # which lane k takes the entries k mod 4 of whole fours and the first the rest: what is waited for is the next addition.
    cdef Py_ssize_t count, whole, j
    cdef const int32_t *ids
    cdef const real *x
    cdef uint32_t i0, i1, i2, i3
    cdef real a, b, c, d
    while r < end:
        ids, x, count = indices + indptr[r], data + indptr[r], indptr[r + 1] - indptr[r]
        a, b, c, d = 0, 0, 0, 0
        whole = count & ~<Py_ssize_t>3
        j = 0
        while j < whole:
            i0, i1, i2, i3 = fo_get32(ids + j), fo_get32(ids + j + 1), fo_get32(ids + j + 2), fo_get32(ids + j + 3)
            if i0 >= n_features or i1 >= n_features or i2 >= n_features or i3 >= n_features:
                return r
            a = a + w[i0] * x[j]
            b = b + w[i1] * x[j + 1]
            c = c + w[i2] * x[j + 2]
            d = d + w[i3] * x[j + 3]
            j = j + 4
        while j < count:
            i0 = fo_get32(ids + j)
            if i0 >= n_features:
                return r
            a = a + w[i0] * x[j]
            j = j + 1
        out[r] = ((a + b) + (c + d)) + bias
        r = r + 1
    return -1


cdef void scoring_share(void *what, int k, int threads) noexcept nogil:
    cdef Scoring *m = <Scoring *>what
    cdef Py_ssize_t begin = m.n * k // threads, end = m.n * (k + 1) // threads, bad
    cdef fo_fpenv saved = fo_fp_enter()
    if m.itemsize == 4:
        bad = rows_scored[float](m.indptr, m.indices, <const float *>m.data, <const float *>m.w, <uint32_t>m.n_features,
                                 <float>m.bias, <float *>m.out, begin, end)
    else:
        bad = rows_scored[double](m.indptr, m.indices, <const double *>m.data, <const double *>m.w,
                                  <uint32_t>m.n_features, m.bias, <double *>m.out, begin, end)
    if bad >= 0:
        fo_put64(&m.bad, bad)
    fo_fp_leave(saved)


def row_scores(indptr, indices, data, w, double bias, out, int threads=1):
    """The scores of CSR rows; returns -1, or a row that has an index out of bounds. The bits are the same for any `threads`.

    Arrays are contiguous: int64 offsets that the caller has checked, int32 indices, data, weights and `out` of one dtype.
    """
    cdef Scoring m
    m.indptr, m.indices, m.data = <const int64_t *>buffer(indptr), <const int32_t *>buffer(indices), <const char *>buffer(data)
    m.w, m.out, m.bias = <const char *>buffer(w), <char *>buffer(out, 1), bias
    m.n, m.n_features, m.itemsize, m.bad = len(out), len(w), data.itemsize, -1
    if fo_is_fork_child or not FO_OPENMP or len(indices) < serial_below:
        threads = 1
    with nogil:
        together(scoring_share, &m, threads)
    return m.bad
