# Samples of CSR: training of factorization machines, in the three ways that samples.pxi and batches.pxi have for linear
# models. A feature's record has a chunk for each field: a vector, then its states; and behind them its weight and states.
# Of a sample's features come the chunks of the fields that the sample has. A block has all vectors, then all weights and the
# intercept, so that one call of the span updates them.
#
# Lock-free threads have copies of hot features, as in samples.pxi; but the records keep their order, and a table says which
# copy is a feature's. All other records are shared word by word, through relaxed atomics.

ctypedef double (*factor_score_t)(Py_ssize_t entries, Py_ssize_t fields, Py_ssize_t width, const void *v, const void *x,
                                  const int32_t *field, void *sums, void *squares) noexcept nogil
ctypedef void (*factor_spread_t)(Py_ssize_t entries, Py_ssize_t fields, Py_ssize_t width, void *g, const void *v,
                                 const void *x, const int32_t *field, const void *sums, float slope) noexcept nogil
ctypedef void (*factor_spread64_t)(Py_ssize_t entries, Py_ssize_t fields, Py_ssize_t width, void *g, const void *v,
                                   const void *x, const int32_t *field, const void *sums, double slope) noexcept nogil

cdef enum:
    LINES = 8               # of a record that are fetched ahead, at most
    AHEAD = 16              # vectors that are fetched ahead when a batch updates them

cdef struct Factors:
    span_t span
    score_t score
    slope_t slope           # derivative of the loss
    factor_score_t factor_score
    size_t factor_spread
    double parameter        # of the loss
    char *records
    char *bias              # the intercept's record, or NULL
    Py_ssize_t stride       # elements from record to record
    Py_ssize_t width        # of a vector: 4, or a multiple of 8
    Py_ssize_t chunk        # elements of a vector and its states
    Py_ssize_t n_fields, most   # of all features; of a sample at most
    const int32_t *fields   # of the features; NULL: all are of one
    int n_states, itemsize
    const int64_t *indptr
    const int32_t *indices
    const char *data
    const char *y
    const char *weights     # of the samples, or NULL: all 1
    const int32_t *order    # NULL: as they stand
    const char *h           # scalars of the first step, span's own
    Py_ssize_t h_stride     # bytes to those of the next; 0: the same for all
    double scale, shrink    # a weight is its record's times the scale, which each step shrinks
    bint prefetch
    Py_ssize_t n, longest
    char *scratch           # `own` bytes for each thread
    Py_ssize_t room, own    # elements of a block
    double end              # the scale of a single thread afterwards
    # of several threads:
    const int32_t *copy_of  # number of a feature's copy; hot: below `hot`
    const int32_t *hot_ids  # the feature of a copy
    Py_ssize_t hot
    int n_tiers
    Tier tiers[MOST_TIERS]
    int32_t *laws           # of the elements of a record
    bint all_sums
    char *copies            # `copy` bytes for each thread: its hot records and bias, and these as of its last merge
    Py_ssize_t copy
    # of batches:
    Py_ssize_t size, cap, block
    double mean             # weight of a sample
    const int64_t *starts   # entries of its batch before a sample
    char *slopes            # of the samples of a batch
    char *moves             # gradients of the vectors of its entries
    char *units             # `units_own` bytes for each thread: blocks of `block`, and sums for `cap` vectors
    Py_ssize_t units_own
    int64_t *place          # where a vector stands among those that its thread has met, counted from `base`
    int64_t base
    fo_barrier *barrier
    # of scores:
    char *out


cdef struct Room:           # a thread's
    char *p                 # blocks of `room`: parameter, gradient, four states
    char *x
    char *sums
    char *squares
    char **record           # of a sample's entries
    int32_t *local          # the fields of a sample's entries, numbered as they come
    int32_t *present        # these fields
    int32_t *where          # of all fields: the number, or -1


cdef Room rooms(const Factors *m, int k) noexcept nogil:
    cdef Room r
    cdef Py_ssize_t size = m.itemsize
    r.p = m.scratch + k * m.own
    r.x = r.p + 6 * m.room * size
    r.sums = r.x + (m.longest + 2 * PAD) * size
    r.squares = r.sums + m.most * m.most * m.width * size
    r.record = <char **>(r.squares + m.most * m.width * size)
    r.local = <int32_t *>(r.record + m.longest + 1)
    r.present = r.local + m.longest + 1
    r.where = r.present + m.most
    return r


cdef void lay_out(Factors *m, Py_ssize_t longest) noexcept:
    # The sizes of a thread's room, which starts on a cache line as does each of its blocks.
    cdef Py_ssize_t line = APART // m.itemsize
    m.longest = (longest + PAD) // PAD * PAD
    m.most = m.longest if m.longest < m.n_fields else m.n_fields
    m.room = (m.longest * m.most * m.width + m.longest + 2 * PAD + line - 1) // line * line
    m.own = (6 * m.room + m.longest + 2 * PAD + m.most * (m.most + 1) * m.width) * m.itemsize
    m.own += (m.longest + 1) * <Py_ssize_t>sizeof(void *) + (m.longest + 1 + m.most + m.n_fields) * 4
    m.own = (m.own + 2 * APART - 1) // APART * APART


cdef void forget_fields(const Factors *m, int threads) noexcept nogil:
    cdef Room r
    cdef Py_ssize_t f
    cdef int k
    for k in range(threads):
        r = rooms(m, k)
        r.present[0] = 0
        for f in range(m.n_fields):
            r.where[f] = -1


cdef inline Py_ssize_t localize(const Factors *m, const int32_t *ids, Py_ssize_t n, Room *r) noexcept nogil:
    # Numbers the fields of a sample, and returns how many it has.
    cdef Py_ssize_t j, count = 0
    cdef int32_t f
    if m.fields == NULL:
        return 1
    for j in range(n):
        f = m.fields[ids[j]]
        if r.where[f] < 0:
            r.where[f] = <int32_t>count
            r.present[count] = f
            count += 1
        r.local[j] = r.where[f]
    for j in range(count):
        r.where[r.present[j]] = -1
    return count


cdef inline void move_vector(real *to, const real *of, Py_ssize_t width, const bint wild) noexcept nogil:
    # A vector. Constant sizes become plain moves.
    cdef Py_ssize_t c = 0
    if wild:
        while c < width * <Py_ssize_t>sizeof(real):
            fo_put64(<char *>to + c, fo_get64(<const char *>of + c))
            c += 8
    elif width == 8:
        memcpy(to, of, 8 * sizeof(real))
    elif width == 4:
        memcpy(to, of, 4 * sizeof(real))
    else:
        while c < width:
            memcpy(to + c, of + c, 8 * sizeof(real))
            c += 8


cdef inline void scaled(real *p, Py_ssize_t n, real by) noexcept nogil:
    cdef Py_ssize_t j
    if by != 1:
        for j in range(n):
            p[j] = by * p[j]


cdef inline void find_records_of(const Factors *m, Room *r, const int32_t *ids, Py_ssize_t n, char *own,
                                 const bint wild) noexcept nogil:
    # Where the records of a sample are. The hot ones are the thread's own. No branch, which could not be foreseen.
    cdef Py_ssize_t j, bytes = m.stride * m.itemsize
    cdef uintptr_t shared, mine, which
    for j in range(n):
        shared = <uintptr_t>m.records + ids[j] * bytes
        if wild:
            mine = <uintptr_t>own + m.copy_of[ids[j]] * bytes
            which = <uintptr_t>0 - <uintptr_t>(m.copy_of[ids[j]] < m.hot)
            shared = (shared & ~which) | (mine & which)
        r.record[j] = <char *>shared


cdef inline void gather_vectors(const Factors *m, real *p, real *s, Py_ssize_t room, Py_ssize_t n, const Room *r,
                                Py_ssize_t fields, Py_ssize_t width, int n_states, const bint wild) noexcept nogil:
    cdef Py_ssize_t j, b, at = 0
    cdef const real *record
    cdef const real *chunk
    cdef int q
    for j in range(n):
        record = <real *>r.record[j]
        for b in range(fields):
            chunk = record + (r.present[b] * m.chunk if fields > 1 or m.fields != NULL else 0)
            move_vector(p + at, chunk, width, wild)
            for q in range(n_states):
                move_vector(s + q * room + at, chunk + (1 + q) * width, width, wild)
            at += width


cdef inline void scatter_vectors(const Factors *m, const real *p, const real *s, Py_ssize_t room, Py_ssize_t n,
                                 const Room *r, Py_ssize_t fields, Py_ssize_t width, int n_states,
                                 const bint wild) noexcept nogil:
    cdef Py_ssize_t j, b, at = 0
    cdef real *record
    cdef real *chunk
    cdef int q
    for j in range(n):
        record = <real *>r.record[j]
        for b in range(fields):
            chunk = record + (r.present[b] * m.chunk if fields > 1 or m.fields != NULL else 0)
            move_vector(chunk, p + at, width, wild)
            for q in range(n_states):
                move_vector(chunk + (1 + q) * width, s + q * room + at, width, wild)
            at += width


cdef inline void gather_sample(const Factors *m, real *p, real *s, Py_ssize_t n, const Room *r,
                               Py_ssize_t fields, int n_states, real scale, const bint wild) noexcept nogil:
    # The vectors and weights of a sample's features.
    cdef Py_ssize_t j, room = m.room, vectors = n * fields * m.width
    cdef const real *at
    cdef int q
    if fields == 1 and m.width == 8 and n_states == 1:
        gather_vectors(m, p, s, room, n, r, 1, 8, 1, wild)
    elif fields == 1 and m.width == 8 and n_states == 0:
        gather_vectors(m, p, s, room, n, r, 1, 8, 0, wild)
    elif m.width == 8:
        gather_vectors(m, p, s, room, n, r, fields, 8, n_states, wild)
    elif m.width == 4:
        gather_vectors(m, p, s, room, n, r, fields, 4, n_states, wild)
    else:
        gather_vectors(m, p, s, room, n, r, fields, m.width, n_states, wild)
    for j in range(n):
        at = <real *>r.record[j] + m.n_fields * m.chunk
        p[vectors + j] = get(at)
        for q in range(n_states):
            s[q * room + vectors + j] = get(at + 1 + q)
    scaled(p, vectors + n, scale)


cdef inline void scatter_sample(const Factors *m, real *p, const real *s, Py_ssize_t n, const Room *r,
                                Py_ssize_t fields, int n_states, real scale, const bint wild) noexcept nogil:
    cdef Py_ssize_t j, room = m.room, vectors = n * fields * m.width
    cdef real *at
    cdef int q
    scaled(p, vectors + n, scale)
    if fields == 1 and m.width == 8 and n_states == 1:
        scatter_vectors(m, p, s, room, n, r, 1, 8, 1, wild)
    elif fields == 1 and m.width == 8 and n_states == 0:
        scatter_vectors(m, p, s, room, n, r, 1, 8, 0, wild)
    elif m.width == 8:
        scatter_vectors(m, p, s, room, n, r, fields, 8, n_states, wild)
    elif m.width == 4:
        scatter_vectors(m, p, s, room, n, r, fields, 4, n_states, wild)
    else:
        scatter_vectors(m, p, s, room, n, r, fields, m.width, n_states, wild)
    for j in range(n):
        at = <real *>r.record[j] + m.n_fields * m.chunk
        put(at, p[vectors + j])
        for q in range(n_states):
            put(at + 1 + q, s[q * room + vectors + j])


cdef inline double score_sample(const Factors *m, real *p, real *x, Py_ssize_t n, Py_ssize_t total, const Room *r,
                                Py_ssize_t fields) noexcept nogil:
    # p has been padded with zeros, and its weights end with the intercept.
    cdef double linear = m.score((total + PAD - 1) // PAD * PAD, p + n * fields * m.width, x)
    return linear + m.factor_score(n, fields, m.width, p, x, r.local, r.sums, r.squares)


cdef inline void spread_sample(const Factors *m, real *g, const real *p, const real *x, Py_ssize_t n, const Room *r,
                               Py_ssize_t fields, real slope) noexcept nogil:
    if real is float:
        (<factor_spread_t><void *>m.factor_spread)(n, fields, m.width, g, p, x, r.local, r.sums, slope)
    else:
        (<factor_spread64_t><void *>m.factor_spread)(n, fields, m.width, g, p, x, r.local, r.sums, slope)


cdef inline void fetch_sample(const Factors *m, const int32_t *ids, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j, lines = (m.stride * m.itemsize + 63) // 64, b
    cdef const char *at
    lines = lines if lines < LINES else LINES
    for j in range(n):
        at = m.records + ids[j] * m.stride * m.itemsize
        for b in range(lines):
            FO_PREFETCH(at + 64 * b)


cdef inline void fetch_rows(const Factors *m, Py_ssize_t i, const real *y) noexcept nogil:
    # Rows lie scattered: fetch where they begin, then what they hold, then the records.
    cdef Py_ssize_t at, end
    if i + 24 < m.n:
        FO_PREFETCH_READ(m.indptr + m.order[i + 24])
        FO_PREFETCH_READ(y + m.order[i + 24])
    if i + 8 < m.n:
        at, end = m.indptr[m.order[i + 8]], m.indptr[m.order[i + 8] + 1]
        while at < end:
            FO_PREFETCH_READ(m.indices + at)
            FO_PREFETCH_READ(<const real *>m.data + at)
            at += 64 // sizeof(real)
        FO_PREFETCH_READ(m.indices + end)
        FO_PREFETCH_READ(<const real *>m.data + end)


cdef inline void merge_record(real *to, real *own, real *seen, const int32_t *laws, Py_ssize_t n, real part,
                              bint all_sums) noexcept nogil:
    # A record and a thread's copy of it become the same: four numbers at a time, which are read before they are written.
    cdef real x[4]
    cdef Py_ssize_t i = 0
    cdef int j
    while i + 4 <= n:
        if all_sums:
            for j in range(4):
                x[j] = merged(to[i + j], own[i + j], seen[i + j], SUM, part)
        else:
            for j in range(4):
                x[j] = merged(to[i + j], own[i + j], seen[i + j], laws[i + j], part)
        memcpy(to + i, x, 4 * sizeof(real))
        memcpy(own + i, x, 4 * sizeof(real))
        memcpy(seen + i, x, 4 * sizeof(real))
        i += 4
    while i < n:
        to[i] = own[i] = seen[i] = merged(to[i], own[i], seen[i], laws[i], part)
        i += 1


cdef int merge_copies(const Factors *m, real *own, int due, bint wait, int threads) noexcept nogil:
    # As `merge` of samples.pxi.
    cdef real *seen = own + (m.hot + 1) * m.stride
    cdef real part = <real>(1.0 / threads)
    cdef const Tier *tier
    cdef Py_ssize_t i, at
    cdef int t
    for t in range(m.n_tiers):
        tier = &m.tiers[t]
        if due >> t & 1:
            if wait:
                omp_set_lock(tier.lock)
            elif not omp_test_lock(tier.lock):
                continue
            for i in range(tier.begin, tier.end):
                at = i * m.stride
                merge_record(<real *>m.records + m.hot_ids[i] * m.stride, own + at, seen + at, m.laws, m.stride, part,
                             m.all_sums)
            if t == 0 and m.bias != NULL:
                at = m.hot * m.stride
                merge_record(<real *>m.bias, own + at, seen + at, m.laws + m.n_fields * m.chunk, 1 + m.n_states, part,
                             m.all_sums)
            omp_unset_lock(tier.lock)
            due &= ~(1 << t)
    return due


cdef double train_factors(const Factors *m, Room r, real *p, Py_ssize_t begin, Py_ssize_t end, int k, int threads, int n_states,
                          real *own, const bint wild) noexcept nogil:
    # Samples begin..end, one after the other. Returns the scale it ends with. `wild`: among several threads, with
    # hot records of its own. `p`: the first block of the room.
    cdef Py_ssize_t room = m.room
    cdef real *g = p + room
    cdef real *s = g + room
    cdef real *x = <real *>r.x
    cdef real *bias = <real *>m.bias
    cdef const real *data = <const real *>m.data
    cdef const real *y = <const real *>m.y
    cdef const real *weights = <const real *>m.weights
    cdef const int32_t *ids
    cdef Py_ssize_t i, j, row, at, n, total, padded, fields, vectors
    cdef int q, t, due = 0
    cdef Py_ssize_t clock = 0
    cdef double scale = m.scale, shrink = m.shrink, slope
    cdef real up, down, by
    if wild:                                # see samples.pxi
        scale = scale * pow(shrink, k)
        shrink = pow(shrink, threads)
        clock = m.tiers[0].every * k // threads
        if bias != NULL:
            bias = own + m.hot * m.stride
    for i in range(begin, end):
        row = m.order[i] if m.order != NULL else i
        at = m.indptr[row]
        n = m.indptr[row + 1] - at
        ids = m.indices + at
        if m.order != NULL:
            fetch_rows(m, i, y)
        up, down = <real>scale, <real>(1.0 / scale)
        fields = localize(m, ids, n, &r)
        find_records_of(m, &r, ids, n, <char *>own, wild)
        vectors = n * fields * m.width
        gather_sample(m, p, s, n, &r, fields, n_states, up, wild)
        memcpy(x, data + at, n * sizeof(real))
        total = n
        if bias != NULL:
            p[vectors + n], x[n] = get(bias), 1
            for q in range(n_states):
                s[q * room + vectors + n] = get(bias + 1 + q)
            total = n + 1
        padded = (total + PAD - 1) // PAD * PAD
        memset(p + vectors + total, 0, PAD * sizeof(real))
        memset(x + total, 0, PAD * sizeof(real))
        for q in range(n_states):
            memset(s + q * room + vectors + total, 0, PAD * sizeof(real))
        if wild and i + 4 < end:
            for j in range(m.indptr[m.order[i + 4]], m.indptr[m.order[i + 4] + 1]):
                FO_PREFETCH_READ(m.copy_of + m.indices[j])
        if m.prefetch and i + 2 < end:
            at = m.order[i + 2] if m.order != NULL else i + 2
            fetch_sample(m, m.indices + m.indptr[at], m.indptr[at + 1] - m.indptr[at])
        slope = m.slope(score_sample(m, p, x, n, total, &r, fields), y[row], m.parameter)
        by = <real>((weights[row] if weights != NULL else 1.0) * slope)
        spread_sample(m, g, p, x, n, &r, fields, by)
        for j in range(padded):
            g[vectors + j] = by * x[j]
        m.span(vectors + padded, p, g, s, s + room, s + 2 * room, s + 3 * room,
               m.h + ((i - begin) * threads + k) * m.h_stride)
        if bias != NULL:
            put(bias, p[vectors + n])
            for q in range(n_states):
                put(bias + 1 + q, s[q * room + vectors + n])
        scatter_sample(m, p, s, n, &r, fields, n_states, down, wild)
        scale = scale * shrink
        if wild:
            clock += 1
            for t in range(m.n_tiers):
                if clock & (m.tiers[t].every - 1):
                    break                   # each tier waits a multiple of the one before
                due |= 1 << t
            if due:
                due = merge_copies(m, own, due, False, threads)
    return scale


cdef inline double train_states(const Factors *m, Room r, real *p, Py_ssize_t begin, Py_ssize_t end, int k, int threads,
                                real *own, const bint wild) noexcept nogil:
    if m.n_states == 0:
        return train_factors(m, r, p, begin, end, k, threads, 0, own, wild)
    if m.n_states == 1:
        return train_factors(m, r, p, begin, end, k, threads, 1, own, wild)
    return train_factors(m, r, p, begin, end, k, threads, m.n_states, own, wild)


cdef void train_copies(const Factors *m, Room r, real *p, Py_ssize_t begin, Py_ssize_t end, int k, int threads,
                       real *own) noexcept nogil:
    # One thread of several: copies the hot records, trains, and merges.
    cdef Py_ssize_t i
    cdef int t
    for t in range(m.n_tiers):
        omp_set_lock(m.tiers[t].lock)
        for i in range(m.tiers[t].begin, m.tiers[t].end):
            memcpy(own + i * m.stride, <real *>m.records + m.hot_ids[i] * m.stride, m.stride * sizeof(real))
        if t == 0 and m.bias != NULL:
            memcpy(own + m.hot * m.stride, m.bias, (1 + m.n_states) * sizeof(real))
        omp_unset_lock(m.tiers[t].lock)
    memcpy(own + (m.hot + 1) * m.stride, own, (m.hot + 1) * m.stride * sizeof(real))
    train_states(m, r, p, begin, end, k, threads, own, True)
    merge_copies(m, own, (1 << m.n_tiers) - 1, True, threads)


cdef void factors_share(void *what, int k, int threads) noexcept nogil:
    cdef Factors *m = <Factors *>what
    cdef Py_ssize_t begin = m.n * k // threads, end = m.n * (k + 1) // threads
    cdef Room r = rooms(m, k)
    cdef char *copy = m.copies + k * m.copy
    cdef fo_fpenv saved = fo_fp_enter()
    if m.copies == NULL and m.itemsize == 4:
        m.end = train_states[float](m, r, <float *>r.p, 0, m.n, 0, 1, NULL, False)
    elif m.copies == NULL:
        m.end = train_states[double](m, r, <double *>r.p, 0, m.n, 0, 1, NULL, False)
    elif m.itemsize == 4:
        train_copies[float](m, r, <float *>r.p, begin, end, k, threads, <float *>copy)
    else:
        train_copies[double](m, r, <double *>r.p, begin, end, k, threads, <double *>copy)
    fo_fp_leave(saved)


cdef void set_factors(Factors *m, addresses, str span, int n_states, str loss, double parameter, records, bias,
                      Py_ssize_t width, fields, Py_ssize_t n_fields, indptr, indices, data, double scale) except *:
    cdef size_t at
    memset(m, 0, sizeof(Factors))
    if span is not None:
        at = addresses[span]
        m.span = <span_t><void *>at
    if loss is not None:
        at = addresses["slope_" + loss]
        m.slope = <slope_t><void *>at
    at = addresses["score"]
    m.score = <score_t><void *>at
    at = addresses["factor_score"]
    m.factor_score = <factor_score_t><void *>at
    m.factor_spread = addresses["factor_spread"]
    m.parameter, m.n_states, m.itemsize = parameter, n_states, data.itemsize
    m.records, m.bias = <char *>buffer(records), <char *>buffer(bias)
    m.stride, m.width, m.chunk = records.shape[1], width, width * (1 + n_states)
    m.fields, m.n_fields = <const int32_t *>buffer(fields), n_fields
    m.indptr, m.indices, m.data = <const int64_t *>buffer(indptr), <const int32_t *>buffer(indices), <const char *>buffer(data)
    m.scale = scale
    m.prefetch = prefetching and records.nbytes > 1 << 19


def factors(addresses, str span, int n_states, str loss, double parameter, records, bias, Py_ssize_t width, fields,
            Py_ssize_t n_fields, indptr, indices, data, y, weights, order, Py_ssize_t n, Py_ssize_t longest, h, bint one_row,
            double scale, double shrink, int threads, Py_ssize_t piece, laws, tiers, copy_of):
    """Train a factorization machine on `n` CSR rows in `order`; returns the scale of the weights afterwards.

    As `samples`. `records`: for each field a vector of `width` numbers and its states, then the weight and its states.
    `fields`: int32, the field of each feature, in range; None where there is one. With more than one thread `laws` are those of
    the numbers of a weight, and `copy_of` (int32) numbers the features by hotness, for the `tiers`.
    """
    cdef Factors m
    cdef size_t at
    cdef char *memory
    cdef int t
    cdef Py_ssize_t i, hot = 0, end, every, law_of
    cdef int32_t *hot_ids
    if n == 0:
        return scale
    if fo_is_fork_child or not FO_OPENMP:
        threads = 1
    if threads > n:
        threads = <int>n
    set_factors(&m, addresses, span, n_states, loss, parameter, records, bias, width, fields, n_fields, indptr, indices, data,
                scale)
    m.y, m.weights, m.order = <const char *>buffer(y), <const char *>buffer(weights), <const int32_t *>buffer(order)
    m.h, m.h_stride = <const char *>buffer(h) + SPAN * m.itemsize, 0 if one_row else h.strides[0]
    m.shrink, m.n = shrink, n
    lay_out(&m, longest)
    if threads > 1:
        m.copy_of = <const int32_t *>buffer(copy_of)
        for end, every in tiers:
            m.tiers[m.n_tiers].begin, m.tiers[m.n_tiers].end, m.tiers[m.n_tiers].every = hot, end, every
            hot = end
            m.n_tiers += 1
        m.hot = hot
        m.copy = (2 * (hot + 1) * m.stride * m.itemsize + 2 * APART - 1) // APART * APART
    memory = <char *>PyMem_Calloc(APART + threads * (m.own + m.copy) + m.n_tiers * (sizeof(fo_lock) + APART)
                                  + (m.stride + hot) * 4, 1)
    if memory == NULL:
        raise MemoryError
    at = <size_t>memory
    m.scratch = <char *>((at + APART - 1) // APART * APART)
    if threads > 1:
        m.copies = m.scratch + threads * m.own
        for t in range(m.n_tiers):
            m.tiers[t].lock = <fo_lock *>(m.copies + threads * m.copy + t * ((sizeof(fo_lock) + APART) // APART * APART))
            omp_init_lock(m.tiers[t].lock)
        m.all_sums = all(law == "sum" for law in laws)
        m.laws = <int32_t *>(m.copies + threads * m.copy + m.n_tiers * ((sizeof(fo_lock) + APART) // APART * APART))
        for i in range(m.stride):
            law_of = i % m.chunk // width if i < n_fields * m.chunk else i - n_fields * m.chunk
            law = laws[law_of] if law_of <= n_states else "sum"
            m.laws[i] = SUM if law == "sum" else MEAN if law == "mean" else MAX
        hot_ids = m.laws + m.stride
        for i in range(len(copy_of) if hot else 0):
            if m.copy_of[i] < hot:
                hot_ids[m.copy_of[i]] = <int32_t>i
        m.hot_ids = hot_ids
    with nogil:
        forget_fields(&m, threads)
        if threads == 1:
            factors_share(&m, 0, 1)
            m.scale = m.end
        else:
            while n > 0:
                m.n = piece if 0 < piece < n else n
                together(factors_share, &m, threads if threads < m.n else <int>m.n)
                m.scale = m.scale * pow(shrink, m.n)
                m.order += m.n
                m.h += m.n * m.h_stride
                n -= m.n
    for t in range(m.n_tiers):
        omp_destroy_lock(m.tiers[t].lock)
    PyMem_Free(memory)
    return m.scale


# ------------------------------------------------------------------------------------------------------------ batches
#
# Two phases as in batches.pxi, in one parallel region: each thread scores a share of a batch's samples and writes down the
# gradients of their vectors; then it sums those of its own features in the order of the samples, and updates them.

cdef void score_batch(const Factors *m, Room r, real *p, Py_ssize_t begin, Py_ssize_t end, double part, int k,
                      int threads) noexcept nogil:
    cdef Py_ssize_t count = end - begin
    cdef Py_ssize_t i, row, at, n, total, fields, vectors
    cdef Py_ssize_t first = begin + count * k // threads, last = begin + count * (k + 1) // threads
    cdef real *x = <real *>r.x
    cdef const real *bias = <const real *>m.bias
    cdef const real *data = <const real *>m.data
    cdef const real *y = <const real *>m.y
    cdef const real *weights = <const real *>m.weights
    cdef const int32_t *ids
    cdef double slope
    cdef real by
    for i in range(first, last):
        row = m.order[i]
        at = m.indptr[row]
        n = m.indptr[row + 1] - at
        ids = m.indices + at
        fetch_rows(m, i, y)
        fields = localize(m, ids, n, &r)
        find_records_of(m, &r, ids, n, NULL, False)
        vectors = n * fields * m.width
        gather_sample(m, p, p, n, &r, fields, 0, <real>m.scale, False)
        memcpy(x, data + at, n * sizeof(real))
        total = n
        if bias != NULL:
            p[vectors + n], x[n] = bias[0], 1
            total = n + 1
        memset(p + vectors + total, 0, PAD * sizeof(real))
        memset(x + total, 0, PAD * sizeof(real))
        if m.prefetch and i + 2 < m.n:
            at = m.order[i + 2]
            fetch_sample(m, m.indices + m.indptr[at], m.indptr[at + 1] - m.indptr[at])
        slope = m.slope(score_sample(m, p, x, n, total, &r, fields), y[row], m.parameter)
        by = <real>(((weights[row] if weights != NULL else 1.0) * slope) * part)
        (<real *>m.slopes)[i - begin] = by
        spread_sample(m, <real *>m.moves + m.starts[i] * m.most * m.width, p, x, n, &r, fields, by)


cdef inline void add_vector(real *g, const real *e, Py_ssize_t width, bint fresh) noexcept nogil:
    cdef real t[8]
    cdef Py_ssize_t c = 0
    cdef int j
    if width == 4:
        for j in range(4):
            t[j] = (0 if fresh else g[j]) + e[j]
        memcpy(g, t, 4 * sizeof(real))
        return
    while c < width:
        for j in range(8):
            t[j] = (0 if fresh else g[c + j]) + e[c + j]
        memcpy(g + c, t, 8 * sizeof(real))
        c += 8


cdef void update_batch(const Factors *m, Room r, real *p, Py_ssize_t begin, Py_ssize_t end, int64_t base, const char *h,
                       int k, int threads) noexcept nogil:
    # Units are vectors; the one of a feature's own field takes its weight along. `p` is the thread's room for them.
    cdef Py_ssize_t width = m.width, room = m.block
    cdef real *g = p + room
    cdef real *s = p + 2 * room
    cdef real *sums = p + 6 * room
    cdef real *weight_sums = sums + m.cap * width
    cdef int32_t *touched = <int32_t *>(weight_sums + m.cap)
    cdef int32_t *own = touched + m.cap
    cdef real *records = <real *>m.records
    cdef real *bias = <real *>m.bias
    cdef real *at
    cdef const real *x
    cdef const real *slopes = <const real *>m.slopes
    cdef const real *e
    cdef const int32_t *ids
    cdef int64_t *place = m.place
    cdef int64_t unit
    cdef Py_ssize_t i, j, b, n, q, u, w, row, start, fields, count = 0, units = room // (width + 2), vectors
    cdef bint fresh, mine
    cdef int state
    cdef real up = <real>m.scale, down = <real>(1.0 / m.scale), slope
    for i in range(begin, end):
        row = m.order[i]
        start = m.indptr[row]
        n = m.indptr[row + 1] - start
        ids, x, slope = m.indices + start, <const real *>m.data + start, slopes[i - begin]
        fields = localize(m, ids, n, &r)
        e = <const real *>m.moves + m.starts[i] * m.most * width
        if m.prefetch and i + 1 < m.n:
            for j in range(m.indptr[m.order[i + 1]], m.indptr[m.order[i + 1] + 1]):
                FO_PREFETCH(place + m.indices[j] * m.n_fields)
        for j in range(n):
            if threads > 1 and owner(ids[j], threads) != k:
                continue
            for b in range(fields):
                unit = ids[j] * m.n_fields + (r.present[b] if m.fields != NULL else 0)
                mine = m.fields == NULL or r.local[j] == b
                fresh = place[unit] < base
                if fresh:
                    place[unit] = base + count
                    touched[count] = <int32_t>ids[j]
                    own[count] = -1 - r.present[b] if not mine else r.present[b]
                    count += 1
                q = place[unit] - base
                add_vector(sums + q * width, e + (j * fields + b) * width, width, fresh)
                if mine:
                    weight_sums[q] = (0 if fresh else weight_sums[q]) + slope * x[j]
    start = 0
    while start < count:
        n = count - start if count - start < units else units
        vectors, w = n * width, 0
        for u in range(n):
            q = start + u
            if m.prefetch and q + AHEAD < count:
                at = records + touched[q + AHEAD] * m.stride
                b = own[q + AHEAD] if own[q + AHEAD] >= 0 else -1 - own[q + AHEAD]
                FO_PREFETCH(at + b * m.chunk)
                FO_PREFETCH(at + (b + 1) * m.chunk)
                FO_PREFETCH(at + m.n_fields * m.chunk)
            b = own[q] if own[q] >= 0 else -1 - own[q]
            at = records + touched[q] * m.stride + b * m.chunk
            move_vector(p + u * width, at, width, False)
            for state in range(m.n_states):
                move_vector(s + state * room + u * width, at + (1 + state) * width, width, False)
            if own[q] >= 0:
                at = records + touched[q] * m.stride + m.n_fields * m.chunk
                p[vectors + w] = at[0]
                g[vectors + w] = weight_sums[q]
                for state in range(m.n_states):
                    s[state * room + vectors + w] = at[1 + state]
                w += 1
        memcpy(g, sums + start * width, vectors * sizeof(real))
        scaled(p, vectors + w, up)
        m.span(vectors + w, p, g, s, s + room, s + 2 * room, s + 3 * room, h)
        scaled(p, vectors + w, down)
        w = 0
        for u in range(n):
            q = start + u
            b = own[q] if own[q] >= 0 else -1 - own[q]
            at = records + touched[q] * m.stride + b * m.chunk
            move_vector(at, p + u * width, width, False)
            for state in range(m.n_states):
                move_vector(at + (1 + state) * width, s + state * room + u * width, width, False)
            if own[q] >= 0:
                at = records + touched[q] * m.stride + m.n_fields * m.chunk
                at[0] = p[vectors + w]
                for state in range(m.n_states):
                    at[1 + state] = s[state * room + vectors + w]
                w += 1
        start += n
    if bias != NULL and k == 0:
        g[0] = slopes[0]
        for i in range(1, end - begin):
            g[0] = g[0] + slopes[i]
        p[0] = bias[0]
        for state in range(m.n_states):
            s[state * room] = bias[1 + state]
        m.span(1, p, g, s, s + room, s + 2 * room, s + 3 * room, h)
        bias[0] = p[0]
        for state in range(m.n_states):
            bias[1 + state] = s[state * room]


cdef void factor_batches_share(void *what, int k, int threads) noexcept nogil:
    # All batches; called by each thread of one region, which are `threads`.
    cdef const Factors *m = <const Factors *>what
    cdef Factors now = m[0]                 # the scale changes from batch to batch
    cdef Room r = rooms(m, k)
    cdef Py_ssize_t begin = 0, end
    cdef int64_t base = m.base
    cdef const char *h = m.h
    cdef char *units = m.units + k * m.units_own
    cdef double part
    cdef fo_fpenv saved = fo_fp_enter()
    while begin < m.n:
        end = begin + m.size if m.n - begin > m.size else m.n
        part = 1.0 / (<double>(end - begin) * m.mean)
        if m.itemsize == 4:
            score_batch[float](&now, r, <float *>r.p, begin, end, part, k, threads)
        else:
            score_batch[double](&now, r, <double *>r.p, begin, end, part, k, threads)
        fo_wait(m.barrier, threads)
        if m.itemsize == 4:
            update_batch[float](&now, r, <float *>units, begin, end, base, h, k, threads)
        else:
            update_batch[double](&now, r, <double *>units, begin, end, base, h, k, threads)
        fo_wait(m.barrier, threads)
        now.scale = now.scale * m.shrink
        h += m.h_stride
        base += m.cap
        begin = end
    fo_fp_leave(saved)


def factor_batches(addresses, str span, int n_states, str loss, double parameter, records, bias, Py_ssize_t width, fields,
                   Py_ssize_t n_fields, indptr, indices, data, y, weights, order, Py_ssize_t size, double mean,
                   Py_ssize_t longest, h, bint one_row, double scale, double shrink, place, int threads):
    """Train a factorization machine on the CSR rows of `order` in batches of `size`; returns the scale afterwards.

    As `factors`, a row of `h` for each batch. The gradient of a batch is the sum of its samples' by the number of samples and
    `mean`, the mean weight of a sample. `place`: int64, one for each feature and field and one more, zeros at first and then
    what the last call left. The bits are the same for any `threads`.
    """
    cdef Factors m
    cdef fo_barrier barrier
    cdef size_t at
    cdef char *memory
    cdef int64_t *starts
    cdef Py_ssize_t n = len(order), last = len(place) - 1, entries = 0, most = 0, i, bytes
    if n == 0:
        return scale
    if fo_is_fork_child or not FO_OPENMP or not FO_CAN_WAIT:
        threads = 1
    set_factors(&m, addresses, span, n_states, loss, parameter, records, bias, width, fields, n_fields, indptr, indices, data,
                scale)
    m.y, m.weights, m.order = <const char *>buffer(y), <const char *>buffer(weights), <const int32_t *>buffer(order)
    m.h, m.h_stride = <const char *>buffer(h) + SPAN * m.itemsize, 0 if one_row else h.strides[0]
    m.shrink, m.n, m.size, m.mean = shrink, n, size, mean
    m.place = <int64_t *>buffer(place, 1)
    m.base = m.place[last] + 1
    lay_out(&m, longest)
    starts = <int64_t *>PyMem_Malloc(n * 8)
    if starts == NULL:
        raise MemoryError
    for i in range(n):
        if i % size == 0:
            entries = 0
        starts[i] = entries
        entries += m.indptr[m.order[i] + 1] - m.indptr[m.order[i]]
        most = entries if entries > most else most
    m.starts = starts
    threads = busy(threads, most * m.most * width)
    memset(&barrier, 0, sizeof(barrier))
    m.barrier = &barrier
    m.cap = (most * m.most + PAD) // PAD * PAD
    m.block = (GATHER // width + 1) * (width + 2) // PAD * PAD + PAD
    m.units_own = ((6 * m.block + m.cap * (width + 1)) * m.itemsize + 8 * m.cap + 2 * APART - 1) // APART * APART
    bytes = ((size if size < n else n) * m.itemsize + APART - 1) // APART * APART
    memory = <char *>PyMem_Calloc(APART + threads * (m.own + m.units_own) + bytes + m.cap * width * m.itemsize, 1)
    if memory == NULL:
        PyMem_Free(starts)
        raise MemoryError
    at = <size_t>memory
    m.scratch = <char *>((at + APART - 1) // APART * APART)
    m.units = m.scratch + threads * m.own
    m.slopes = m.units + threads * m.units_own
    m.moves = m.slopes + bytes
    with nogil:
        forget_fields(&m, threads)
        if threads == 1:
            factor_batches_share(&m, 0, 1)
        else:
            with parallel(num_threads=threads):     # as many as OpenMP gives: the bits are the same
                factor_batches_share(&m, threadid(), fo_team_size())
        while n > 0:
            m.base += m.cap
            m.scale = m.scale * shrink
            n -= size
        m.place[last] = m.base
    PyMem_Free(memory)
    PyMem_Free(starts)
    return m.scale


# ------------------------------------------------------------------------------------------------------------- scores

cdef void score_rows(const Factors *m, Room r, real *p, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t i, at, n, total, fields, vectors
    cdef real *x = <real *>r.x
    cdef const real *bias = <const real *>m.bias
    for i in range(begin, end):
        at = m.indptr[i]
        n = m.indptr[i + 1] - at
        if m.prefetch and i + 2 < end:
            fetch_sample(m, m.indices + m.indptr[i + 2], m.indptr[i + 3] - m.indptr[i + 2])
        fields = localize(m, m.indices + at, n, &r)
        find_records_of(m, &r, m.indices + at, n, NULL, False)
        vectors = n * fields * m.width
        gather_sample(m, p, p, n, &r, fields, 0, <real>m.scale, False)
        memcpy(x, <const real *>m.data + at, n * sizeof(real))
        total = n
        if bias != NULL:
            p[vectors + n], x[n] = bias[0], 1
            total = n + 1
        memset(p + vectors + total, 0, PAD * sizeof(real))
        memset(x + total, 0, PAD * sizeof(real))
        (<real *>m.out)[i] = <real>score_sample(m, p, x, n, total, &r, fields)


cdef void factor_scores_share(void *what, int k, int threads) noexcept nogil:
    cdef const Factors *m = <const Factors *>what
    cdef Py_ssize_t begin = m.n * k // threads, end = m.n * (k + 1) // threads
    cdef Room r = rooms(m, k)
    cdef fo_fpenv saved = fo_fp_enter()
    if m.itemsize == 4:
        score_rows[float](m, r, <float *>r.p, begin, end)
    else:
        score_rows[double](m, r, <double *>r.p, begin, end)
    fo_fp_leave(saved)


def factor_scores(addresses, int n_states, records, bias, Py_ssize_t width, fields, Py_ssize_t n_fields, indptr, indices, data,
                  out, Py_ssize_t longest, double scale, int threads):
    """The scores of CSR rows by a factorization machine, see `factors`; `out` receives them."""
    cdef Factors m
    cdef size_t at
    cdef char *memory
    if len(out) == 0:
        return
    if fo_is_fork_child or not FO_OPENMP or len(indices) * width < HOLD_GIL:
        threads = 1
    set_factors(&m, addresses, None, n_states, None, 0, records, bias, width, fields, n_fields, indptr, indices, data, scale)
    m.n, m.out = len(out), <char *>buffer(out, 1)
    lay_out(&m, longest)
    memory = <char *>PyMem_Calloc(APART + threads * m.own, 1)
    if memory == NULL:
        raise MemoryError
    at = <size_t>memory
    m.scratch = <char *>((at + APART - 1) // APART * APART)
    with nogil:
        forget_fields(&m, threads)
        together(factor_scores_share, &m, threads)
    PyMem_Free(memory)
