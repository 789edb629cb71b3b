# Samples of CSR in batches: training of linear models by the sums of a batch's gradients, and the scores of rows.
#
# A batch has two phases. First each thread scores a share of the samples. Then each thread owns a share of the features
# (by a hash of their cache line), and goes through the whole batch for its own: so the gradient of a feature is summed in
# the order of the samples, whatever the number of threads, and no record has two writers.

cdef enum:
    REACH = 1024                # powers of the decay that a level of its table has; three levels
    BITS = 10

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
    double scale                # a weight is its record's times the scale
    double by                   # derivatives are multiplied by this
    int64_t *last               # steps whose penalty a record's weight has had; NULL: the scale has it
    int64_t step                # made before this batch
    const double *decay         # see caught
    double l1
    Py_ssize_t begin, end       # samples of this batch
    int itemsize
    char *slopes                # of the samples of the batch
    int64_t *place              # where a feature stands among those that its thread has met, counted from `base`
    int64_t base                # below it: not met in this batch
    Py_ssize_t n                # samples of this call
    char *scratch
    Py_ssize_t room, cap, own


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


cdef void score_samples(const Batches *m, real *scratch, int k, int threads) noexcept nogil:
    cdef Py_ssize_t count = m.end - m.begin
    cdef Py_ssize_t i, j, r, at, n, begin = m.begin + count * k // threads, end = m.begin + count * (k + 1) // threads
    cdef const real *records = <const real *>m.records
    cdef const real *bias = <const real *>m.bias
    cdef const real *data = <const real *>m.data
    cdef const real *y = <const real *>m.y
    cdef const real *weights = <const real *>m.weights
    cdef real *slopes = <real *>m.slopes
    cdef real *p = scratch
    cdef real *x = scratch + m.room
    cdef real up = <real>m.scale
    cdef const int32_t *ids
    cdef double slope
    for i in range(begin, end):
        r = m.order[i]
        if i + 8 < m.n:
            FO_PREFETCH_READ(m.indices + m.indptr[m.order[i + 8]])
            FO_PREFETCH_READ(data + m.indptr[m.order[i + 8]])
        if i + 2 < m.n:
            for j in range(m.indptr[m.order[i + 2]], m.indptr[m.order[i + 2] + 1]):
                FO_PREFETCH_READ(records + m.indices[j] * m.stride)
                if m.last != NULL:
                    FO_PREFETCH_READ(m.last + m.indices[j])
        at = m.indptr[r]
        n = m.indptr[r + 1] - at
        ids = m.indices + at
        for j in range(n):
            p[j] = up * records[ids[j] * m.stride]
        if m.last != NULL:                  # the scale is 1
            for j in range(n):
                p[j] = caught(p[j], m.step - m.last[ids[j]], m.decay, m.l1)
        memcpy(x, data + at, n * sizeof(real))
        if bias != NULL:
            p[n], x[n] = bias[0], 1
            n = n + 1
        memset(p + n, 0, PAD * sizeof(real))
        memset(x + n, 0, PAD * sizeof(real))
        slope = m.slope(m.score((n + PAD - 1) // PAD * PAD, p, x), y[r], m.parameter)
        slopes[i - m.begin] = <real>(((weights[r] if weights != NULL else 1.0) * slope) * m.by)


cdef inline int owner(int32_t f, int threads) noexcept nogil:
    # The thread of a feature, the same for 16 neighbours, whose records share cache lines.
    return <int>((((<uint32_t>f >> 4) * <uint32_t>2654435769) >> 16) * <uint32_t>threads >> 16)


cdef void update_features(const Batches *m, real *scratch, int k, int threads) noexcept nogil:
    cdef real *p = scratch
    cdef real *s = p + GATHER
    cdef real *g = s + 4 * GATHER
    cdef int32_t *touched = <int32_t *>(g + m.cap)
    cdef int32_t *mine = touched + m.cap
    cdef real *records = <real *>m.records
    cdef real *bias = <real *>m.bias
    cdef const real *data = <const real *>m.data
    cdef const real *slopes = <const real *>m.slopes
    cdef const real *x
    cdef const int32_t *ids
    cdef int64_t *place = m.place
    cdef int32_t f
    cdef Py_ssize_t i, j, c, n, at, start, q, count = 0
    cdef bint fresh
    cdef real up = <real>m.scale, down = <real>(1.0 / m.scale), slope
    for i in range(m.begin, m.end):
        at = m.indptr[m.order[i]]
        n = m.indptr[m.order[i] + 1] - at
        ids, x, slope = m.indices + at, data + at, slopes[i - m.begin]
        if i + 1 < m.n:
            for j in range(m.indptr[m.order[i + 1]], m.indptr[m.order[i + 1] + 1]):
                FO_PREFETCH(place + m.indices[j])
        c = n
        if threads > 1:
            c = 0
            for j in range(n):
                mine[c] = <int32_t>j
                c += owner(ids[j], threads) == k
        # Without branches, of which half would be guessed wrong.
        for j in range(c):
            at = mine[j] if threads > 1 else j
            f = ids[at]
            fresh = place[f] < m.base
            q = count if fresh else place[f] - m.base
            place[f], touched[q] = m.base + q, f
            g[q] = (0 if fresh else g[q]) + slope * x[at]
            count += fresh
    start = 0
    while start < count:
        n = count - start if count - start < GATHER else GATHER
        ids = touched + start
        if start + GATHER < count:
            c = count - start - GATHER
            fetch_records(records, ids + GATHER, c if c < GATHER else GATHER, m.stride)
        if m.n_states == 0:
            gather(p, s, GATHER, records, ids, n, 1, 0, up)
        elif m.n_states == 1:
            gather(p, s, GATHER, records, ids, n, 2, 1, up)
        elif m.n_states == 2:
            gather(p, s, GATHER, records, ids, n, 4, 2, up)
        else:
            gather(p, s, GATHER, records, ids, n, m.stride, m.n_states, up)
        if m.last != NULL:              # the scale is 1
            for j in range(n):
                p[j] = caught(p[j], m.step - m.last[ids[j]], m.decay, m.l1)
                m.last[ids[j]] = m.step
        m.span(n, p, g + start, s, s + GATHER, s + 2 * GATHER, s + 3 * GATHER, m.h)
        if m.n_states == 0:
            scatter(p, s, GATHER, records, ids, n, 1, 0, down)
        elif m.n_states == 1:
            scatter(p, s, GATHER, records, ids, n, 2, 1, down)
        elif m.n_states == 2:
            scatter(p, s, GATHER, records, ids, n, 4, 2, down)
        else:
            scatter(p, s, GATHER, records, ids, n, m.stride, m.n_states, down)
        start += GATHER
    if bias != NULL and k == 0:
        g[0] = slopes[0]
        for i in range(1, m.end - m.begin):
            g[0] = g[0] + slopes[i]
        p[0] = bias[0]
        for q in range(m.n_states):
            s[q * GATHER] = bias[1 + q]
        m.span(1, p, g, s, s + GATHER, s + 2 * GATHER, s + 3 * GATHER, m.h)
        bias[0] = p[0]
        for q in range(m.n_states):
            bias[1 + q] = s[q * GATHER]


cdef void score_share(void *what, int k, int threads) noexcept nogil:
    cdef const Batches *m = <const Batches *>what
    cdef fo_fpenv saved
    if threads > 1:                     # else the caller has
        saved = fo_fp_enter()
    if m.itemsize == 4:
        score_samples[float](m, <float *>(m.scratch + k * m.own), k, threads)
    else:
        score_samples[double](m, <double *>(m.scratch + k * m.own), k, threads)
    if threads > 1:
        fo_fp_leave(saved)


cdef void update_share(void *what, int k, int threads) noexcept nogil:
    cdef const Batches *m = <const Batches *>what
    cdef fo_fpenv saved
    if threads > 1:
        saved = fo_fp_enter()
    if m.itemsize == 4:
        update_features[float](m, <float *>(m.scratch + k * m.own), k, threads)
    else:
        update_features[double](m, <double *>(m.scratch + k * m.own), k, threads)
    if threads > 1:
        fo_fp_leave(saved)


def batches(addresses, str span, int n_states, str loss, double parameter, records, bias, Py_ssize_t stride, indptr,
            indices, data, y, weights, order, Py_ssize_t size, double mean, Py_ssize_t longest, h, bint one_row,
            double scale, double shrink, last, int64_t step, decay, double l1, place, int threads):
    """Train on the CSR rows of `order` in batches of `size`; returns the scale of the weights afterwards.

    As `samples`, a row of `h` for each batch. The gradient of a batch is the sum of its samples' by the number of samples and
    `mean`, the mean weight of a sample. With `last`, the steps whose penalty each feature's weight has had, the penalty is
    that of `decay` and `l1`, see ``caught``, caught up when a feature is touched; the scale must be 1. `step`: those made
    before. `place`: int64, one for each feature and one more, zeros at first and then what the last call left. The bits are
    the same for any `threads`.
    """
    cdef Batches m
    cdef int itemsize = data.itemsize
    cdef Py_ssize_t n = len(order), last_place = len(place) - 1, most = 0, entries, i
    cdef size_t at
    cdef char *memory
    cdef fo_fpenv saved
    cdef Py_ssize_t h_stride = 0 if one_row else h.strides[0]
    if n == 0:
        return scale
    if fo_is_fork_child or not FO_OPENMP:
        threads = 1
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
    m.h = <const char *>buffer(h) + SPAN * itemsize
    m.scale, m.step, m.l1, m.itemsize = scale, step, l1, itemsize
    m.last, m.decay, m.place = <int64_t *>buffer(last, 1), <const double *>buffer(decay), <int64_t *>buffer(place, 1)
    entries = 0
    for i in range(n):
        if i % size == 0:
            entries = 0
        entries += m.indptr[m.order[i] + 1] - m.indptr[m.order[i]]
        most = entries if entries > most else most
    if most > last_place:
        most = last_place
    m.base, m.n = m.place[last_place] + 1, n
    m.room = (longest + 1 + 2 * PAD - 1) // PAD * PAD
    m.cap = (most + PAD) // PAD * PAD
    m.own = (2 * m.room if 2 * m.room > 5 * GATHER + m.cap else 5 * GATHER + m.cap) * itemsize
    m.own = (m.own + (m.cap + longest + 1) * 4 + 255) // 128 * 128
    memory = <char *>PyMem_Calloc(threads * m.own + (size if size < n else n) * itemsize + 64, 1)
    if memory == NULL:
        raise MemoryError
    at = <size_t>memory
    at = (at + 63) // 64 * 64
    m.scratch, m.slopes = <char *>at, <char *>at + threads * m.own
    with nogil:
        saved = fo_fp_enter()
        m.begin = 0
        while m.begin < n:
            m.end = m.begin + size if n - m.begin > size else n
            m.by = 1.0 / (<double>(m.end - m.begin) * mean)
            together(score_share, &m, threads)
            together(update_share, &m, threads)
            m.scale = m.scale * shrink
            m.h += h_stride
            m.step += 1
            m.base += most
            m.begin = m.end
        m.place[last_place] = m.base
        fo_fp_leave(saved)
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
