# Samples of CSR: training of linear models, one sample after the other.

cdef struct Samples:
    span_t span
    learn_t learn               # score and gradient
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
    const int32_t *order        # NULL: as they stand
    const char *h               # scalars of the first sample's step, span's own
    Py_ssize_t h_stride         # bytes to those of the next; 0: the same for all
    double scale, shrink        # a weight is its record's times the scale, which each step shrinks
    bint prefetch
    Py_ssize_t n
    int itemsize
    char *scratch               # `own` bytes for each thread, blocks of `room` elements
    Py_ssize_t room, own
    double *ends                # the scale that each thread ends with


cdef inline real get(const real *at) noexcept nogil:
    if real is float:
        return fo_getf(at)
    else:
        return fo_getd(at)


cdef inline void put(real *at, real x) noexcept nogil:
    if real is float:
        fo_putf(at, x)
    else:
        fo_putd(at, x)


cdef inline void gather(real *p, real *s, Py_ssize_t room, const real *records, const int32_t *ids, Py_ssize_t n,
                        Py_ssize_t stride, int n_states, real scale) noexcept nogil:
    # Records into blocks: the weight, scaled, and its states. Called with constants where that saves multiplications.
    cdef Py_ssize_t j
    cdef int q
    cdef const real *at
    for j in range(n):
        at = records + ids[j] * stride
        p[j] = scale * get(at)
        for q in range(n_states):
            s[q * room + j] = get(at + 1 + q)


cdef inline void scatter(const real *p, const real *s, Py_ssize_t room, real *records, const int32_t *ids, Py_ssize_t n,
                         Py_ssize_t stride, int n_states, real scale) noexcept nogil:
    cdef Py_ssize_t j
    cdef int q
    cdef real *at
    for j in range(n):
        at = records + ids[j] * stride
        put(at, scale * p[j])
        for q in range(n_states):
            put(at + 1 + q, s[q * room + j])


cdef inline void fetch_records(const real *records, const int32_t *ids, Py_ssize_t n, Py_ssize_t stride) noexcept nogil:
    cdef Py_ssize_t j
    if stride == 1:
        for j in range(n):
            FO_PREFETCH(records + ids[j])
    elif stride == 2:
        for j in range(n):
            FO_PREFETCH(records + 2 * <Py_ssize_t>ids[j])
    else:
        for j in range(n):
            FO_PREFETCH(records + ids[j] * stride)


cdef double train(const Samples *m, real *scratch, Py_ssize_t room, Py_ssize_t begin, Py_ssize_t end, int k,
                  int threads) noexcept nogil:
    # Samples begin..end, one after the other: gather the records of a sample's features into blocks, score, derivative of
    # the loss, span, scatter. Blocks are padded with zeros to whole vectors. Returns the scale it ends with.
    cdef real *p = scratch
    cdef real *x = scratch + room
    cdef real *g = scratch + 2 * room
    cdef real *s = scratch + 3 * room
    cdef real *records = <real *>m.records
    cdef real *bias = <real *>m.bias
    cdef const real *data = <const real *>m.data
    cdef const real *y = <const real *>m.y
    cdef const real *weights = <const real *>m.weights
    cdef const int32_t *ids
    cdef Py_ssize_t i, r, n, total, padded, j, at, ahead
    cdef int q
    cdef double scale = m.scale, shrink = m.shrink
    cdef real up, down
    cdef Py_ssize_t step
    # With several threads the scale stands still during a call, which the caller keeps short enough for that.
    if threads > 1:
        shrink = 1.0
    for i in range(begin, end):
        r = m.order[i] if m.order != NULL else i
        at = m.indptr[r]
        n = m.indptr[r + 1] - at
        ids = m.indices + at
        if m.order != NULL:                 # rows lie scattered: fetch where they begin, then what they hold
            if i + 24 < end:
                FO_PREFETCH_READ(m.indptr + m.order[i + 24])
                FO_PREFETCH_READ(y + m.order[i + 24])
            if i + 8 < end:
                ahead = m.indptr[m.order[i + 8]]
                j = m.indptr[m.order[i + 8] + 1]
                while ahead < j:
                    FO_PREFETCH_READ(m.indices + ahead)
                    FO_PREFETCH_READ(data + ahead)
                    ahead += 64 // sizeof(real)
                FO_PREFETCH_READ(m.indices + j)
                FO_PREFETCH_READ(data + j)
        up = <real>scale
        down = <real>(1.0 / scale)
        if m.n_states == 0:
            gather(p, s, room, records, ids, n, 1, 0, up)
        elif m.n_states == 1:
            gather(p, s, room, records, ids, n, 2, 1, up)
        elif m.n_states == 2:
            gather(p, s, room, records, ids, n, 4, 2, up)
        else:
            gather(p, s, room, records, ids, n, m.stride, m.n_states, up)
        memcpy(x, data + at, n * sizeof(real))
        total = n
        if bias != NULL:
            p[n], x[n] = get(bias), 1
            for q in range(m.n_states):
                s[q * room + n] = get(bias + 1 + q)
            total = n + 1
        padded = (total + PAD - 1) // PAD * PAD
        memset(p + total, 0, PAD * sizeof(real))      # of fixed length: no loop, no branch
        memset(x + total, 0, PAD * sizeof(real))
        for q in range(m.n_states):
            memset(s + q * room + total, 0, PAD * sizeof(real))
        if m.prefetch and i + 2 < end:      # and while the blocks settle in the cache
            at = m.order[i + 2] if m.order != NULL else i + 2
            fetch_records(records, m.indices + m.indptr[at], m.indptr[at + 1] - m.indptr[at], m.stride)
        m.learn(padded, g, p, x, y[r], m.parameter, weights[r] if weights != NULL else 1.0)
        step = i - begin
        m.span(padded, p, g, s, s + room, s + 2 * room, s + 3 * room, m.h + (step * threads + k) * m.h_stride)
        if m.n_states == 0:
            scatter(p, s, room, records, ids, n, 1, 0, down)
        elif m.n_states == 1:
            scatter(p, s, room, records, ids, n, 2, 1, down)
        elif m.n_states == 2:
            scatter(p, s, room, records, ids, n, 4, 2, down)
        else:
            scatter(p, s, room, records, ids, n, m.stride, m.n_states, down)
        if bias != NULL:
            put(bias, p[n])
            for q in range(m.n_states):
                put(bias + 1 + q, s[q * room + n])
        scale = scale * shrink
    return scale


cdef void train_share(void *what, int k, int threads) noexcept nogil:
    cdef const Samples *m = <const Samples *>what
    cdef Py_ssize_t begin = m.n * k // threads, end = m.n * (k + 1) // threads
    cdef char *scratch = m.scratch + k * m.own
    cdef fo_fpenv saved = fo_fp_enter()
    if m.itemsize == 4:
        m.ends[k] = train[float](m, <float *>scratch, m.room, begin, end, k, threads)
    else:
        m.ends[k] = train[double](m, <double *>scratch, m.room, begin, end, k, threads)
    fo_fp_leave(saved)


cdef void *buffer(object a, int writable=0) except? NULL:
    # The address of a contiguous array that the caller keeps alive and has checked.
    cdef View view
    if a is None:
        return NULL
    PyObject_GetBuffer(a, &view, PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))
    PyBuffer_Release(&view)
    return view.buf


def samples(addresses, str span, int n_states, str loss, double parameter, records, bias, Py_ssize_t stride, indptr,
            indices, data, y, weights, order, Py_ssize_t n, Py_ssize_t longest, h, bint one_row, double scale, double shrink,
            int threads):
    """Train on `n` CSR rows in `order`; returns the scale of the weights afterwards.

    Rule-blind: `addresses` is the table of the chosen build, `span` and `loss` are names in it. Arrays are contiguous,
    of one dtype, and have been checked by the caller: indices in range and unique in their row, rows of at most
    `longest` entries. `h`: a row of scalars for each sample, or one for all. With more than one thread the records are
    shared without locks (Hogwild), and the scale shrinks at the end.
    """
    cdef Samples m
    cdef int itemsize = data.itemsize
    cdef size_t at
    cdef Py_ssize_t room = (longest + 1 + 2 * PAD - 1) // PAD * PAD
    cdef Py_ssize_t own = (room * 7 * itemsize + 255) // 128 * 128     # scratch of a thread, apart from its neighbour's
    cdef Py_ssize_t _i
    cdef double *ends
    cdef char *scratch
    if n == 0:
        return scale
    if fo_is_fork_child or not FO_OPENMP:
        threads = 1
    if threads > n:
        threads = <int>n
    at = addresses[span]
    m.span = <span_t><void *>at
    at = addresses["learn_" + loss]
    m.learn = <learn_t><void *>at
    m.parameter, m.stride, m.n_states = parameter, stride, n_states
    m.records, m.bias = <char *>buffer(records, 1), <char *>buffer(bias, 1)
    m.indptr, m.indices, m.data = <const int64_t *>buffer(indptr), <const int32_t *>buffer(indices), <const char *>buffer(data)
    m.y, m.weights = <const char *>buffer(y), <const char *>buffer(weights)
    m.order = <const int32_t *>buffer(order)
    m.h, m.h_stride = <const char *>buffer(h) + SPAN * itemsize, 0 if one_row else h.strides[0]
    m.scale, m.shrink = scale, shrink
    m.prefetch = records.nbytes > 1 << 19
    ends = <double *>PyMem_Calloc(threads, sizeof(double))
    scratch = <char *>PyMem_Calloc(threads * own + 64, 1)
    if ends == NULL or scratch == NULL:
        PyMem_Free(ends)
        PyMem_Free(scratch)
        raise MemoryError
    at = <size_t>scratch
    at = (at + 63) // 64 * 64
    m.n, m.itemsize, m.room, m.own, m.scratch, m.ends = n, itemsize, room, own, <char *>at, ends
    with nogil:
        together(train_share, &m, threads)
    if threads == 1:
        scale = ends[0]
    else:
        for _i in range(n):
            scale = scale * shrink
    PyMem_Free(ends)
    PyMem_Free(scratch)
    return scale


def online(addresses, str rule, p, s0, s1, indptr, indices, data, bint intercept, y, weight, out, sums, Py_ssize_t longest,
           double lr, int loss):
    """Learn from CSR rows, one after the other, or with y=None predict for them; `out` receives the predictions.

    Rule-blind as `samples`: `rule` is a name in `addresses`, `sums` are the numbers that it keeps beside its states.
    The caller has checked everything; p, s0 and s1 have one element more than there are features if there is an
    intercept.
    """
    cdef size_t at = addresses[rule]
    cdef online_t learn = <online_t><void *>at
    cdef int itemsize = p.itemsize
    cdef Py_ssize_t n = len(out), last = len(p) - 1 if intercept else -1
    cdef Py_ssize_t room = (longest + 2 * PAD) // PAD * PAD
    cdef void *states[3]
    cdef const int64_t *start = <const int64_t *>buffer(indptr)
    cdef const int32_t *ids = <const int32_t *>buffer(indices)
    cdef void *x = buffer(data)
    cdef const double *label = <const double *>buffer(y)
    cdef const double *h = <const double *>buffer(weight)
    cdef void *to = buffer(out, 1)
    cdef double *kept = <double *>buffer(sums, 1)
    cdef char *scratch
    cdef fo_fpenv saved
    states[0], states[1], states[2] = buffer(p, 1), buffer(s0, 1), buffer(s1, 1)
    scratch = <char *>PyMem_Malloc(6 * room * itemsize + 64)
    if scratch == NULL:
        raise MemoryError
    at = <size_t>scratch
    at = (at + 63) // 64 * 64
    with nogil:
        saved = fo_fp_enter()
        learn(n, states, start, ids, x, last, label, h, to, kept, <char *>at, room, lr, loss)
        fo_fp_leave(saved)
    PyMem_Free(scratch)


def repeated_indices(indptr, indices, Py_ssize_t n_rows, Py_ssize_t n_features, seen):
    """How many entries of CSR rows repeat an index of their row; indices have been checked.

    `seen`: int32 zeros, one for each feature, overwritten; it is used only for rows that are not sorted.
    """
    cdef const int64_t *start = <const int64_t *>buffer(indptr)
    cdef const int32_t *ids = <const int32_t *>buffer(indices)
    cdef int32_t *last = <int32_t *>buffer(seen, 1)
    cdef Py_ssize_t r, j, repeated = 0
    cdef bint rising
    with nogil:
        for r in range(n_rows):
            rising = True
            for j in range(start[r] + 1, start[r + 1]):
                rising = rising & (ids[j] > ids[j - 1])
            if not rising:
                for j in range(start[r], start[r + 1]):
                    repeated += last[ids[j]] == r + 1
                    last[ids[j]] = <int32_t>(r + 1)
    return repeated


def sum_repeated(indptr, indices, data, Py_ssize_t n_rows, place):
    """Sum the entries that repeat an index of their row into the first of them, in order; all arrays are overwritten.

    `place`: int64 of -1, one for each feature.
    """
    cdef int64_t *start = <int64_t *>buffer(indptr, 1)
    cdef int32_t *ids = <int32_t *>buffer(indices, 1)
    cdef int64_t *at = <int64_t *>buffer(place, 1)
    cdef char *values = <char *>buffer(data, 1)
    cdef int itemsize = data.itemsize
    cdef Py_ssize_t r, j, end, first, to = 0
    with nogil:
        end = start[0]
        for r in range(n_rows):
            j, end, first = end, start[r + 1], to
            start[r] = to
            while j < end:
                if at[ids[j]] >= first:
                    if itemsize == 4:
                        (<float *>values)[at[ids[j]]] += (<float *>values)[j]
                    else:
                        (<double *>values)[at[ids[j]]] += (<double *>values)[j]
                else:
                    at[ids[j]] = to
                    ids[to] = ids[j]
                    if itemsize == 4:
                        (<float *>values)[to] = (<float *>values)[j]
                    else:
                        (<double *>values)[to] = (<double *>values)[j]
                    to += 1
                j += 1
        start[n_rows] = to
