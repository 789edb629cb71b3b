# Samples of CSR: training of linear models, one sample after the other; or by threads that share the records without locks
# (Hogwild, Niu et al. 2011). Then the features that come first are taken for the hot ones: the cores would fight for their
# cache lines, so each thread trains a copy of its own, and merges it now and then with the records, under a lock. Nobody else
# touches those meanwhile. All other records are shared element by element, through relaxed atomics.

cdef extern from *:
    """
    #ifdef _OPENMP
    typedef omp_lock_t fo_lock;
    #else
    typedef int fo_lock;
    #define omp_init_lock(lock) ((void)(lock))
    #define omp_destroy_lock(lock) ((void)(lock))
    #define omp_set_lock(lock) ((void)(lock))
    #define omp_unset_lock(lock) ((void)(lock))
    #define omp_test_lock(lock) ((void)(lock), 1)
    #endif
    """
    ctypedef struct fo_lock:
        pass
    void omp_init_lock(fo_lock *lock) nogil
    void omp_destroy_lock(fo_lock *lock) nogil
    void omp_set_lock(fo_lock *lock) nogil
    void omp_unset_lock(fo_lock *lock) nogil
    int omp_test_lock(fo_lock *lock) nogil

cdef enum:
    APART = 128             # bytes between what threads write: two cache lines, for they are fetched in pairs
    MOST_TIERS = 8
    PARTS = 8               # of the features, which are numbered side by side

cdef enum Merge:             # how a thread's copy of a number becomes one with the others
    SUM                     # all moves are added
    MEAN                    # for averages, which sums of moves would drive beyond what they average
    MAX

cdef struct Tier:           # features of one hotness
    Py_ssize_t begin, end
    Py_ssize_t every        # samples of a thread from merge to merge, a power of two
    fo_lock *lock

cdef struct Samples:
    span_t span
    learn_t learn               # score and gradient
    places_t places             # of records, for one thread of several
    int shift                   # 2 to its power are the bytes from record to record
    double parameter            # of the loss
    char *records               # n_features records: the weight, then its states
    char *bias                  # the intercept's record, or NULL
    Py_ssize_t stride           # elements from record to record
    int n_states
    const int64_t *indptr
    const int32_t *indices
    Py_ssize_t n_entries
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
    double end                  # the scale of a single thread afterwards
    # of several threads:
    Py_ssize_t hot              # features before this one are hot
    int n_tiers
    Tier tiers[MOST_TIERS]
    int laws[PAD]               # of the elements of a record, again and again
    bint all_sums
    char *copies                # `copy` bytes for each thread: its hot records and bias, and these as of its last merge
    Py_ssize_t copy


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


# Records into blocks and back, see fo_records.h. Called with constants where that saves multiplications.

cdef inline void gather(real *p, real *s, Py_ssize_t room, const real *records, const int32_t *ids, Py_ssize_t n,
                        Py_ssize_t stride, int n_states, real scale, const bint beyond) noexcept nogil:
    if real is float:
        fo_gather_f(p, s, room, records, ids, n, stride, n_states, scale, beyond)
    else:
        fo_gather_d(p, s, room, records, ids, n, stride, n_states, scale, beyond)


cdef inline void scatter(const real *p, const real *s, Py_ssize_t room, real *records, const int32_t *ids, Py_ssize_t n,
                         Py_ssize_t stride, int n_states, real scale) noexcept nogil:
    if real is float:
        fo_scatter_f(p, s, room, records, ids, n, stride, n_states, scale)
    else:
        fo_scatter_d(p, s, room, records, ids, n, stride, n_states, scale)


cdef inline void fetch_records(const real *records, const int32_t *ids, Py_ssize_t n, Py_ssize_t stride,
                               const bint beyond) noexcept nogil:
    if real is float:
        fo_fetch_f(records, ids, n, stride, beyond)
    else:
        fo_fetch_d(records, ids, n, stride, beyond)


cdef inline void find_records(const Samples *m, real **place, real *own, const int32_t *ids, Py_ssize_t n) noexcept nogil:
    m.places(n, place, ids, m.shift, m.records, <uintptr_t>own - <uintptr_t>m.records, <int32_t>m.hot)
    fo_fetch_found(<uintptr_t *>place, n, <uintptr_t>own)


cdef inline void gather_found(real *p, real *s, Py_ssize_t room, real **place, Py_ssize_t n, int n_states,
                              real scale) noexcept nogil:
    if real is float:
        fo_gather_found_f(p, s, room, place, n, n_states, scale)
    else:
        fo_gather_found_d(p, s, room, place, n, n_states, scale)


cdef inline void scatter_found(const real *p, const real *s, Py_ssize_t room, real **place, Py_ssize_t n, int n_states,
                               real scale) noexcept nogil:
    if real is float:
        fo_scatter_found_f(p, s, room, place, n, n_states, scale)
    else:
        fo_scatter_found_d(p, s, room, place, n, n_states, scale)


cdef inline real merged(real to, real own, real seen, int law, real part) noexcept nogil:
    # What a number and a thread's copy of it become, which were `seen` when they were last the same. Averages stay between
    # the two, whatever the rounding. Selections, for the loops around it are vectorized.
    cdef real sum = to + (own - seen)
    cdef real mean = to + part * (own - to)
    cdef real most = own if own > to else to
    mean = own if to == seen else mean
    mean = to if own == seen else mean
    return sum if law == SUM else mean if law == MEAN else most


cdef inline void merge_records(const Samples *m, real *to, real *own, real *seen, Py_ssize_t n, real part) noexcept nogil:
    # n records and a thread's copy of them become the same.
    cdef real x[PAD]
    cdef Py_ssize_t i = 0, j, end = n * m.stride
    while i + PAD <= end:
        if m.all_sums:
            for j in range(PAD):
                x[j] = merged(to[i + j], own[i + j], seen[i + j], SUM, part)
        else:
            for j in range(PAD):
                x[j] = merged(to[i + j], own[i + j], seen[i + j], m.laws[j], part)
        memcpy(to + i, x, PAD * sizeof(real))
        memcpy(own + i, x, PAD * sizeof(real))
        memcpy(seen + i, x, PAD * sizeof(real))
        i += PAD
    while i < end:
        to[i] = own[i] = seen[i] = merged(to[i], own[i], seen[i], m.laws[i % PAD], part)
        i += 1


cdef int merge(const Samples *m, real *own, int due, bint wait, int threads) noexcept nogil:
    # Merge a thread's copy of the tiers in the set `due`. Returns those whose turn it was not, for another thread was there.
    cdef const Tier *tier
    cdef real *seen = own + (m.hot + 1) * m.stride
    cdef real part = <real>(1.0 / threads)
    cdef Py_ssize_t at
    cdef int t
    for t in range(m.n_tiers):
        tier = &m.tiers[t]
        if due >> t & 1:
            if wait:
                omp_set_lock(tier.lock)
            elif not omp_test_lock(tier.lock):
                continue
            at = tier.begin * m.stride
            merge_records(m, <real *>m.records + at, own + at, seen + at, tier.end - tier.begin, part)
            if t == 0 and m.bias != NULL:
                at = m.hot * m.stride
                merge_records(m, <real *>m.bias, own + at, seen + at, 1, part)
            omp_unset_lock(tier.lock)
            due &= ~(1 << t)
    return due


cdef inline void copy_hot(const Samples *m, real *own) noexcept nogil:
    # A thread's copy, when it begins.
    cdef const Tier *tier
    cdef real *seen = own + (m.hot + 1) * m.stride
    cdef Py_ssize_t at
    cdef int t
    for t in range(m.n_tiers):
        tier = &m.tiers[t]
        at = tier.begin * m.stride
        omp_set_lock(tier.lock)
        memcpy(own + at, <real *>m.records + at, (tier.end - tier.begin) * m.stride * sizeof(real))
        if t == 0 and m.bias != NULL:
            memcpy(own + m.hot * m.stride, m.bias, m.stride * sizeof(real))
        omp_unset_lock(tier.lock)
    memcpy(seen, own, (m.hot + 1) * m.stride * sizeof(real))


cdef inline const int32_t *ids_of(const Samples *m, Py_ssize_t r, int32_t *spare) noexcept nogil:
    # The indices of a row, of which whole rounds may be read: those of the last rows are copied.
    cdef Py_ssize_t at = m.indptr[r], n = m.indptr[r + 1] - at
    if at + n + ROUND <= m.n_entries:
        return m.indices + at
    memcpy(spare, m.indices + at, n * sizeof(int32_t))
    memset(spare + n, 0, ROUND * sizeof(int32_t))
    return spare


cdef inline void fetch_row_of(const Samples *m, const real *records, Py_ssize_t r, int32_t *spare) noexcept nogil:
    # The records of a row's features.
    cdef const int32_t *ids = ids_of(m, r, spare)
    cdef Py_ssize_t n = m.indptr[r + 1] - m.indptr[r]
    if m.stride == 1:
        fetch_records(records, ids, n, 1, True)
    elif m.stride == 2:
        fetch_records(records, ids, n, 2, True)
    else:
        fetch_records(records, ids, n, m.stride, True)


cdef inline double train(const Samples *m, real *scratch, real *own, Py_ssize_t begin, Py_ssize_t end, int k, int threads,
                         const bint wild) noexcept nogil:
    # Samples begin..end, one after the other: gather the records of a sample's features into blocks, score, derivative of
    # the loss, span, scatter. Blocks are padded with zeros to whole vectors. Returns the scale it ends with. `wild`: among
    # several threads, with hot records of its own.
    cdef Py_ssize_t room = m.room
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
    cdef int q, t, due = 0
    cdef double scale = m.scale, shrink = m.shrink
    cdef real up, down
    cdef Py_ssize_t step, clock = 0
    # Where the records of the sample and of the two after it are.
    cdef real **place = <real **>(scratch + 7 * room)
    cdef real **next = place + room
    cdef real **last = next + room
    cdef real **spare
    cdef int32_t *row = <int32_t *>(last + room)        # for the last rows
    if wild:
        # Step i of thread k is taken for step i * threads + k of all. So each knows the scale of that step, and what a
        # thread alone has trained is right at the end, however the threads ran.
        scale = scale * pow(shrink, k)
        shrink = pow(shrink, threads)
        clock = m.tiers[0].every * k // threads             # not all at once
        if bias != NULL:
            bias = own + m.hot * m.stride
        for i in range(begin, begin + 2 if begin + 2 < end else end):
            r = m.order[i]
            find_records(m, next if i > begin else place, own, ids_of(m, r, row), m.indptr[r + 1] - m.indptr[r])
    for i in range(begin, end):
        r = m.order[i] if m.order != NULL else i
        at = m.indptr[r]
        n = m.indptr[r + 1] - at
        ids = m.indices + at if wild else ids_of(m, r, row)
        if m.order != NULL:                 # rows lie scattered: fetch where they begin, then what they hold
            if i + 24 < end:
                FO_PREFETCH_READ(m.indptr + m.order[i + 24])
                FO_PREFETCH_READ(y + m.order[i + 24])
            if i + 8 < end:
                ahead = m.order[i + 8]
                fo_fetch_row(m.indices, m.data, sizeof(real), m.indptr[ahead], m.indptr[ahead + 1])
        up = <real>scale
        down = <real>(1.0 / scale)
        if wild:
            if m.n_states == 0:
                gather_found(p, s, room, place, n, 0, up)
            elif m.n_states == 1:
                gather_found(p, s, room, place, n, 1, up)
            elif m.n_states == 2:
                gather_found(p, s, room, place, n, 2, up)
            else:
                gather_found(p, s, room, place, n, m.n_states, up)
        elif m.n_states == 0:
            gather(p, s, room, records, ids, n, 1, 0, up, True)
        elif m.n_states == 1:
            gather(p, s, room, records, ids, n, 2, 1, up, True)
        elif m.n_states == 2:
            gather(p, s, room, records, ids, n, 4, 2, up, True)
        else:
            gather(p, s, room, records, ids, n, m.stride, m.n_states, up, True)
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
        if wild and i + 2 < end:                            # while the blocks settle in the cache
            at = m.order[i + 2]
            find_records(m, last, own, ids_of(m, at, row), m.indptr[at + 1] - m.indptr[at])
        elif m.n_states == 0 and m.prefetch and i + 2 < end:
            fetch_row_of(m, records, m.order[i + 2] if m.order != NULL else i + 2, row + room)
        m.learn(padded, g, p, x, y[r], m.parameter, weights[r] if weights != NULL else 1.0)
        step = i - begin
        m.span(padded, p, g, s, s + room, s + 2 * room, s + 3 * room, m.h + (step * threads + k) * m.h_stride)
        if not wild and m.n_states > 0 and m.prefetch and i + 2 < end:      # roots and quotients are waited for longer
            fetch_row_of(m, records, m.order[i + 2] if m.order != NULL else i + 2, row + room)
        if wild:
            if m.n_states == 0:
                scatter_found(p, s, room, place, n, 0, down)
            elif m.n_states == 1:
                scatter_found(p, s, room, place, n, 1, down)
            elif m.n_states == 2:
                scatter_found(p, s, room, place, n, 2, down)
            else:
                scatter_found(p, s, room, place, n, m.n_states, down)
            spare = place
            place = next
            next = last
            last = spare
        elif m.n_states == 0:
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
        if wild:
            clock += 1
            for t in range(m.n_tiers):
                if clock & (m.tiers[t].every - 1):
                    break                   # each tier waits a multiple of the one before
                due |= 1 << t
            if due:
                due = merge(m, own, due, False, threads)
    return scale


cdef double train_alone(const Samples *m, real *scratch) noexcept nogil:
    return train(m, scratch, NULL, 0, m.n, 0, 1, False)


cdef void train_wild(const Samples *m, real *scratch, real *own, Py_ssize_t begin, Py_ssize_t end, int k,
                     int threads) noexcept nogil:
    copy_hot(m, own)
    train(m, scratch, own, begin, end, k, threads, True)
    merge(m, own, (1 << m.n_tiers) - 1, True, threads)


cdef void train_share(void *what, int k, int threads) noexcept nogil:
    cdef Samples *m = <Samples *>what
    cdef Py_ssize_t begin = m.n * k // threads, end = m.n * (k + 1) // threads
    cdef char *scratch = m.scratch + k * m.own
    cdef char *copy = m.copies + k * m.copy
    cdef fo_fpenv saved = fo_fp_enter()
    if m.itemsize == 4 and m.copies == NULL:
        m.end = train_alone[float](m, <float *>scratch)
    elif m.itemsize == 4:
        train_wild[float](m, <float *>scratch, <float *>copy, begin, end, k, threads)
    elif m.copies == NULL:
        m.end = train_alone[double](m, <double *>scratch)
    else:
        train_wild[double](m, <double *>scratch, <double *>copy, begin, end, k, threads)
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
            int threads, laws=(), tiers=(), Py_ssize_t piece=0):
    """Train on `n` CSR rows in `order`; returns the scale of the weights afterwards.

    Rule-blind: `addresses` is the table of the chosen build, `span` and `loss` are names in it. Arrays are contiguous,
    of one dtype, and have been checked by the caller: indices in range and unique in their row, rows of at most
    `longest` entries. `h`: a row of scalars for each sample, or one for all.

    With more than one thread the records are shared without locks (Hogwild), and `order` is needed. `tiers` are pairs: the
    feature where a tier of hot features ends, and the samples of a thread after which it merges its copy of them, powers of
    two and each a multiple of the one before. `laws` say how each number of a record is merged, "sum", "mean" or "max". All
    threads meet after `piece` samples.
    """
    cdef Samples m
    cdef int itemsize = data.itemsize, t
    cdef size_t at
    cdef Py_ssize_t room = (longest + 1 + 2 * PAD - 1) // PAD * PAD
    # Of a thread, apart from its neighbour's.
    cdef Py_ssize_t own = (room * (7 * itemsize + 3 * sizeof(void *) + 2 * sizeof(int32_t)) + 2 * APART - 1) // APART * APART
    cdef Py_ssize_t hot = 0, end, every
    cdef char *memory
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
    at = addresses["places"]
    m.places, m.shift = <places_t><void *>at, (stride * itemsize).bit_length() - 1      # a power of two
    m.parameter, m.stride, m.n_states = parameter, stride, n_states
    m.records, m.bias = <char *>buffer(records, 1), <char *>buffer(bias, 1)
    m.indptr, m.indices, m.data = <const int64_t *>buffer(indptr), <const int32_t *>buffer(indices), <const char *>buffer(data)
    m.n_entries = m.indptr[len(indptr) - 1]         # there may be room behind them
    m.y, m.weights = <const char *>buffer(y), <const char *>buffer(weights)
    m.order = <const int32_t *>buffer(order)
    m.h, m.h_stride = <const char *>buffer(h) + SPAN * itemsize, 0 if one_row else h.strides[0]
    m.scale, m.shrink = scale, shrink
    m.prefetch = prefetching and records.nbytes > 1 << 19
    m.itemsize, m.room, m.own, m.n, m.copies, m.copy, m.n_tiers = itemsize, room, own, n, NULL, 0, 0
    if threads > 1:
        m.all_sums = all(law == "sum" for law in laws)
        for t in range(PAD):
            m.laws[t] = SUM if laws[t % stride] == "sum" else MEAN if laws[t % stride] == "mean" else MAX
        for end, every in tiers or ((0, 64),):
            m.tiers[m.n_tiers].begin, m.tiers[m.n_tiers].end, m.tiers[m.n_tiers].every = hot, end, every
            hot = end
            m.n_tiers += 1
        m.copy = (2 * (hot + 1) * stride * itemsize + 2 * APART - 1) // APART * APART
    m.hot = hot
    memory = <char *>PyMem_Calloc(APART + threads * own + threads * m.copy + m.n_tiers * (sizeof(fo_lock) + APART), 1)
    if memory == NULL:
        raise MemoryError
    at = <size_t>memory
    m.scratch = <char *>((at + APART - 1) // APART * APART)
    if threads == 1:
        with nogil:
            train_share(&m, 0, 1)
        PyMem_Free(memory)
        return m.end
    m.copies = m.scratch + threads * own
    for t in range(m.n_tiers):
        m.tiers[t].lock = <fo_lock *>(m.copies + threads * m.copy + t * (sizeof(fo_lock) + APART) // APART * APART)
        omp_init_lock(m.tiers[t].lock)
    with nogil:
        while n > 0:
            m.n = piece if 0 < piece < n else n
            together(train_share, &m, threads if threads < m.n else <int>m.n)
            m.scale = m.scale * pow(shrink, m.n)
            m.order += m.n
            m.h += m.n * m.h_stride
            n -= m.n
    for t in range(m.n_tiers):
        omp_destroy_lock(m.tiers[t].lock)
    PyMem_Free(memory)
    return m.scale


cdef struct Renumbering:
    int32_t *indices
    const int32_t *place
    Py_ssize_t n


cdef void renumber_share(void *what, int k, int threads) noexcept nogil:
    cdef const Renumbering *m = <const Renumbering *>what
    cdef Py_ssize_t j
    for j in range(m.n * k // threads, m.n * (k + 1) // threads):
        m.indices[j] = m.place[m.indices[j]]


def renumber(indices, place, int threads):
    """Replace each of the indices (int32) by its place (int32), which is in range; nothing else is checked."""
    cdef Renumbering m
    m.indices, m.place, m.n = <int32_t *>buffer(indices, 1), <const int32_t *>buffer(place), len(indices)
    if fo_is_fork_child or not FO_OPENMP or m.n < HOLD_GIL:
        threads = 1
    with nogil:
        together(renumber_share, &m, threads)


def shuffle(order, uint64_t seed):
    """Bring `order` (int32) into a random order, that of the seed: by exchanges, with SplitMix64 (Steele et al. 2014)."""
    cdef int32_t *at = <int32_t *>buffer(order, 1)
    cdef Py_ssize_t i, j
    cdef uint64_t z
    cdef int32_t kept
    for i in range(len(order) - 1, 0, -1):
        seed += <uint64_t>0x9E3779B97F4A7C15
        z = (seed ^ (seed >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
        z = (z ^ (z >> 31)) >> 32
        j = <Py_ssize_t>(z * <uint64_t>(i + 1) >> 32)
        kept = at[i]
        at[i] = at[j]
        at[j] = kept


def by_frequency(indices, place, ends, Py_ssize_t most):
    """Number the features by how often they are among the indices (int32, in range), the most frequent first.

    About `most` of the indices are looked at, in runs spread over all of them. `place` (int32, one for each feature)
    receives the numbers; those of equal count keep their order. Returns how many of the indices looked at are of the
    features before each of `ends`, and how many there were.
    """
    cdef const int32_t *ids = <const int32_t *>buffer(indices)
    cdef int32_t *to = <int32_t *>buffer(place, 1)
    cdef Py_ssize_t n = len(indices), n_features = len(place), looked = 0, begin, end, j, run = 512, far
    cdef Py_ssize_t i, c, q, start, total, many, width, part = (n_features + PARTS - 1) // PARTS
    cdef int32_t most_often = 0
    cdef int32_t *counts = <int32_t *>PyMem_Calloc(PARTS * part + 1, sizeof(int32_t))
    cdef int32_t *first = NULL      # of each part of the features: how many have this count, then where the next one goes
    if counts == NULL:
        raise MemoryError
    far = run * (1 + (n - 1) // most) if n > most else run
    with nogil:
        begin = 0
        while begin < n:
            end = begin + run if begin + run < n else n
            for j in range(begin, end):
                counts[ids[j]] += 1
            looked += end - begin
            begin += far
        for i in range(n_features):
            most_often = counts[i] if counts[i] > most_often else most_often
    width = most_often + 1
    first = <int32_t *>PyMem_Calloc(PARTS * width, sizeof(int32_t))
    if first == NULL:
        PyMem_Free(counts)
        raise MemoryError
    with nogil:
        for i in range(part):               # the parts in turns: most counts are 0, and no sum waits for the one before
            for q in range(PARTS):
                first[q * width + counts[q * part + i]] += 1
    hits = []
    for limit in ends:                      # the most frequent come first
        start, total, c = 0, 0, most_often
        many = limit
        while c >= 0 and start < many:
            for q in range(PARTS):
                j = first[q * width + c] if first[q * width + c] < many - start else many - start
                start += j
                total += j * c
            c -= 1
        hits.append(total)
    with nogil:
        start = 0
        c = most_often
        while c >= 0:
            for q in range(PARTS):
                j = first[q * width + c]
                first[q * width + c] = <int32_t>start
                start += j
            c -= 1
        for i in range(part):
            for q in range(PARTS):
                if q * part + i < n_features:       # beyond are none, of count 0: they would come last
                    j = q * width + counts[q * part + i]
                    to[q * part + i] = first[j]
                    first[j] += 1
    PyMem_Free(counts)
    PyMem_Free(first)
    return hits, looked


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


cdef inline bint finite_elements(const real *x, const int32_t *ids, Py_ssize_t n, Py_ssize_t stride) noexcept nogil:
    # Of a number that is not finite, the difference to itself is not 0.
    cdef Py_ssize_t j
    cdef bint found = True
    if ids == NULL:
        for j in range(n):
            found = found & (x[j] - x[j] == 0)
    else:
        for j in range(n):
            found = found & (x[ids[j] * stride] - x[ids[j] * stride] == 0)
    return found


def finite(x, ids=None):
    """Whether all elements of an array are finite; with `ids` (int32, in range), the first of each of these rows."""
    cdef const int32_t *which = <const int32_t *>buffer(ids)
    cdef Py_ssize_t n = x.size if ids is None else len(ids), stride = 1 if ids is None else x.shape[1]
    cdef void *at = buffer(x)
    cdef bint of_float = x.itemsize == 4, found
    with nogil:
        if of_float:
            found = finite_elements[float](<const float *>at, which, n, stride)
        else:
            found = finite_elements[double](<const double *>at, which, n, stride)
    return found


cdef inline uint32_t out_of_range(const int32_t *ids, Py_ssize_t n, uint32_t last) noexcept nogil:
    # The highest bit is set where an index is negative or above the last, which is below 2**31. Loops that vectorize.
    cdef uint32_t bad = 0
    cdef Py_ssize_t j
    for j in range(n):
        bad |= <uint32_t>ids[j] | (last - <uint32_t>ids[j])
    return bad


cdef inline Py_ssize_t descents(const int32_t *ids, Py_ssize_t n) noexcept nogil:
    cdef int32_t count = 0
    cdef Py_ssize_t j
    for j in range(1, n):
        count += ids[j] <= ids[j - 1]
    return count


cdef struct Copying:
    const int32_t *source
    int32_t *to
    Py_ssize_t n
    uint32_t last           # the greatest that an index may be
    int64_t *found          # of each thread, APART bytes apart: whether one is out of range, and how many fall


cdef void copy_share(void *what, int k, int threads) noexcept nogil:
    cdef const Copying *m = <const Copying *>what
    cdef Py_ssize_t begin = m.n * k // threads, stop = m.n * (k + 1) // threads, first = begin, end, before
    cdef uint32_t bad = 0
    cdef int64_t falls = 0
    while begin < stop:                     # in pieces that stay in the cache
        end = begin + 16384 if stop - begin > 16384 else stop
        before = begin > first
        memcpy(m.to + begin, m.source + begin, (end - begin) * 4)
        bad |= out_of_range(m.to + begin, end - begin, m.last)
        falls += descents(m.to + begin - before, end - begin + before)
        begin = end
    m.found[k * (APART // 8)], m.found[k * (APART // 8) + 1] = bad >> 31, falls


def copy_csr(indptr, indices, starts, used, Py_ssize_t n_features, int threads):
    """Copy the offsets and indices (int32) of CSR rows, then check them; `starts`: int64, as long; `used`: int32.

    Returns 1 where the indices of each row rise, 0 where they do not, -1 where the offsets do not rise from 0 to the length
    of `used`, or an index is out of bounds.
    """
    cdef const int32_t *offsets = <const int32_t *>buffer(indptr)
    cdef int64_t *start = <int64_t *>buffer(starts, 1)
    cdef int32_t *ids = <int32_t *>buffer(used, 1)
    cdef Py_ssize_t r, n_rows = len(starts) - 1, n = len(used), falls = 0
    cdef int k
    cdef bint bad = False
    cdef Copying m
    if fo_is_fork_child or not FO_OPENMP or n < HOLD_GIL:
        threads = 1
    m.source, m.to, m.n, m.last = <const int32_t *>buffer(indices), ids, n, <uint32_t>(n_features - 1)
    m.found = <int64_t *>PyMem_Calloc(threads, APART)
    if m.found == NULL:
        raise MemoryError
    with nogil:
        for r in range(n_rows + 1):
            start[r] = offsets[r]
        if start[0] != 0 or start[n_rows] != n:
            n_rows = -1
        for r in range(n_rows):
            if start[r + 1] < start[r]:
                n_rows = -1
                break
        together(copy_share, &m, threads)
        for k in range(threads):
            bad = bad or m.found[k * (APART // 8)]
            falls += m.found[k * (APART // 8) + 1]
            r = n * k // threads            # where the shares meet
            falls += k > 0 and ids[r] <= ids[r - 1]
        for r in range(1, n_rows):          # from row to row they may fall
            if start[r] > start[r - 1] and start[r] < n:
                falls -= ids[start[r]] <= ids[start[r] - 1]
    PyMem_Free(m.found)
    if n_rows < 0 or bad:
        return -1
    return falls == 0


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
