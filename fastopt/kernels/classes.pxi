# Models of classes, one against the rest, whose features each keep a list of the classes that they have a weight for. Only for
# losses whose derivative is exactly 0 beyond a margin, and rules for which a zero gradient is no move: then a weight that never
# had a gradient is 0, its states are at their start, and none of them takes memory. The bits are those of abreast.pxi.
#
# A list lies in one of several chunks of memory: the classes (uint16), their weights, then each of their states. Its room is 4
# or a power of two above; beyond half of the classes it becomes a record of all classes, weights and then each state, without
# the classes. It moves when it is full, and what it leaves goes to the next list of that room.

ctypedef void (*lanes_fold_t)(Py_ssize_t n, double *z, const double *sums) noexcept nogil
ctypedef void (*lanes_sum4_t)(Py_ssize_t n, void *out, const void *sums, Py_ssize_t far, const void *bias) noexcept nogil
ctypedef void (*lanes_add32_t)(Py_ssize_t n, double *sums, const float *p, float up, double x) noexcept nogil
ctypedef void (*lanes_add64_t)(Py_ssize_t n, double *sums, const double *p, double up, double x) noexcept nogil
ctypedef void (*lanes_turn32_t)(Py_ssize_t n, float *p, float up, float down, float nothing) noexcept nogil
ctypedef void (*lanes_turn64_t)(Py_ssize_t n, double *p, double up, double down, double nothing) noexcept nogil
ctypedef void (*lanes_axpy32_t)(Py_ssize_t n, float *out, const float *p, float up, float x) noexcept nogil
ctypedef void (*lanes_axpy64_t)(Py_ssize_t n, double *out, const double *p, double up, double x) noexcept nogil

cdef enum:
    LEAST_ROOM = 4
    UNIT = 8                    # bytes: places of lists count these; none is 0
    TILE = 4096                 # elements of a block, or one feature in all classes
    NEXT = 0                    # in the book: the first unit that no list has had,
    FREE = 1                    # the first of the lists that were left, by their room, each of which knows the next,
    RECORD = 20                 # (of records of all classes),
    NEEDED = 21                 # units that could not be had
    BOOK = 22

cdef struct Head:               # of a feature's list
    uint32_t place
    uint16_t count, room        # room for all classes: a record of these

cdef struct Lists:
    Head *heads
    Py_ssize_t n_features
    char **chunks               # each of 1 << shift units
    Py_ssize_t n_chunks
    int shift
    int64_t *book
    const char *start           # the start of each state
    Py_ssize_t lanes            # classes, padded to whole groups
    Py_ssize_t n_models         # classes
    int n_states, itemsize

cdef struct Classes:
    Lists lists
    span_t span
    lanes_learn_t learn
    void *add
    void *turn
    lanes_fold_t fold
    double parameter
    char *bias                  # the intercepts: weights, then each state; or NULL
    const int64_t *indptr
    const int32_t *indices
    const char *data
    const int32_t *classes      # the model whose target is 1, where the others' are -1; `lanes`: none
    const char *weights
    const int32_t *order
    const char *h
    Py_ssize_t h_stride
    double scale, shrink
    bint turns                  # the scale is not 1, or was not: weights without a gradient are rounded as the dense ones are
    Py_ssize_t n, tile
    char *scratch


cdef inline char *unit(const Lists *m, uint32_t place) noexcept nogil:
    return m.chunks[place >> m.shift] + <size_t>(place & ((1 << m.shift) - 1)) * UNIT


cdef inline Py_ssize_t units_of(const Lists *m, Py_ssize_t room) noexcept nogil:
    cdef Py_ssize_t each = (1 + m.n_states) * m.itemsize + (0 if room == m.lanes else 2)
    return (room * each + UNIT - 1) // UNIT


cdef inline Py_ssize_t room_for(const Lists *m, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t room = LEAST_ROOM
    while room < count:
        room *= 2
    return room if 2 * room <= m.lanes else m.lanes


cdef inline int left_of(const Lists *m, Py_ssize_t room) noexcept nogil:
    # Where the book has the lists of this room that were left.
    cdef int k = FREE
    if room == m.lanes:
        return RECORD
    while room > LEAST_ROOM:
        room //= 2
        k += 1
    return k


cdef inline bint has_units(const Lists *m, Py_ssize_t needed) noexcept nogil:
    # Whether lists of so many units together can be had, wherever they meet the end of a chunk.
    cdef Py_ssize_t size = <Py_ssize_t>1 << m.shift, at = m.book[NEXT], chunk = at >> m.shift
    cdef Py_ssize_t rest = ((chunk + 1) << m.shift) - at if chunk < m.n_chunks else 0
    cdef Py_ssize_t most = units_of(m, m.lanes), whole = m.n_chunks - chunk - 1
    if needed <= rest:
        return True
    rest = rest - most if rest > most else 0
    return needed <= rest + (whole * (size - most) if whole > 0 else 0)


cdef inline uint32_t take_list(const Lists *m, Py_ssize_t room) noexcept nogil:
    cdef int k = left_of(m, room)
    cdef Py_ssize_t units, size = <Py_ssize_t>1 << m.shift, at = m.book[k]
    if at:
        m.book[k] = (<uint32_t *>unit(m, <uint32_t>at))[0]
        return <uint32_t>at
    units, at = units_of(m, room), m.book[NEXT]
    if (at & (size - 1)) + units > size:
        at = (at | (size - 1)) + 1
    m.book[NEXT] = at + units
    return <uint32_t>at


cdef inline real *weights_in(const Lists *m, const Head *head, const real *kind) noexcept nogil:
    # `kind` says the dtype.
    return <real *>(unit(m, head.place) + (0 if head.room == m.lanes else 2 * head.room))


cdef void widen(const Lists *m, Head *head, Py_ssize_t count, const real *start) noexcept nogil:
    # Room for `count` classes; a record of all is at its start where there was none.
    cdef Head old = head[0]
    cdef Py_ssize_t room = room_for(m, count), k
    cdef const uint16_t *was
    cdef uint16_t *ids
    cdef real *p
    cdef const real *before
    cdef int q
    cdef uint32_t place = take_list(m, room)
    head.place, head.room = place, <uint16_t>room
    p = weights_in(m, head, start)
    if room == m.lanes:
        memset(p, 0, room * sizeof(real))
        for q in range(m.n_states):
            for k in range(room):
                p[(1 + q) * room + k] = start[q]
        head.count = <uint16_t>room
    if not old.room:
        return
    was = <const uint16_t *>unit(m, old.place)
    before = <const real *>(<const char *>was + 2 * old.room)
    if room == m.lanes:
        for q in range(1 + m.n_states):
            for k in range(old.count):
                p[q * room + was[k]] = before[q * old.room + k]
    else:
        ids = <uint16_t *>unit(m, place)
        memcpy(ids, was, old.count * sizeof(uint16_t))
        for q in range(1 + m.n_states):
            memcpy(p + q * room, before + q * old.room, old.count * sizeof(real))
    k = left_of(m, old.room)
    (<uint32_t *>was)[0] = <uint32_t>m.book[k]
    m.book[k] = old.place


cdef inline Py_ssize_t growth(const Lists *m, const Head *head, Py_ssize_t more) noexcept nogil:
    # Units that a list takes at most for so many more classes.
    if head.room == m.lanes or head.count + more <= head.room:
        return 0
    return units_of(m, room_for(m, head.count + more))


cdef inline void fetch_list(const Lists *m, const Head *head) noexcept nogil:
    cdef Py_ssize_t line, end = units_of(m, head.room) * UNIT
    cdef const char *at
    if head.room:
        at = unit(m, head.place)
        end = end if end < 256 else 256
        for line in range(0, end, 64):
            FO_PREFETCH(at + line)


cdef inline void add_row(const Classes *m, double *sums, const real *p, real up, double x) noexcept nogil:
    if real is float:
        (<lanes_add32_t>m.add)(m.lists.lanes, sums, p, up, x)
    else:
        (<lanes_add64_t>m.add)(m.lists.lanes, sums, p, up, x)


cdef inline void turn(const Classes *m, const Head *head, real up, real down, real nothing) noexcept nogil:
    # What a step leaves of the weights of classes without a gradient.
    cdef real *p
    if head.room:
        p = weights_in(&m.lists, head, &up)
        if real is float:
            (<lanes_turn32_t>m.turn)(head.count, p, up, down, nothing)
        else:
            (<lanes_turn64_t>m.turn)(head.count, p, up, down, nothing)


cdef inline void score_classes(const Classes *m, double *z, double *sums, const int32_t *ids, const real *x, Py_ssize_t n,
                               real up) noexcept nogil:
    # The scores of all classes in the order of `dot`; what lists lack would add a zero. `sums`: zeros, and left so.
    cdef Py_ssize_t lanes = m.lists.lanes, total = n + (m.bias != NULL), start, stop, j, e
    cdef const Head *head
    cdef const uint16_t *ours
    cdef const real *p
    cdef double *lane
    cdef double v
    memset(z, 0, lanes * sizeof(double))
    for start in range(0, total, 1024):
        stop = start + 1024 if start + 1024 < total else total
        for j in range(start, stop):
            lane = sums + (j & (PAD - 1)) * lanes
            if j == n:
                add_row(m, lane, <real *>m.bias, <real>1, 1)
                continue
            head = m.lists.heads + ids[j]
            if not head.room:
                continue
            p = weights_in(&m.lists, head, x)
            v = x[j]
            if head.room == lanes:
                add_row(m, lane, p, up, v)
            else:
                ours = <const uint16_t *>unit(&m.lists, head.place)
                for e in range(head.count):
                    lane[ours[e]] = lane[ours[e]] + v * <double>(up * p[e])
        m.fold(lanes, z, sums)
        memset(sums, 0, (stop - start if stop - start < PAD else PAD) * lanes * sizeof(double))


cdef Py_ssize_t train_classes(Classes *m, real *block) noexcept nogil:
    # Returns the samples learned: fewer than n where the lists need more memory than there is.
    cdef const Lists *lists = &m.lists
    cdef Py_ssize_t lanes = lists.lanes, room = m.tile + PAD, n_states = lists.n_states
    cdef real *p = block
    cdef real *g = p + room
    cdef real *s = g + room
    cdef real *slopes = s + 4 * room
    cdef real *own = slopes + lanes             # those that are not 0
    cdef real *bias = <real *>m.bias
    cdef double *z = <double *>(own + lanes)
    cdef double *y = z + lanes
    cdef double *spare = y + lanes + 1
    cdef double *sums = spare + lanes
    cdef real **place = <real **>(sums + PAD * lanes)
    cdef Py_ssize_t *far = <Py_ssize_t *>(place + m.tile)
    cdef uint16_t **at = <uint16_t **>(far + m.tile)
    cdef uint16_t *active = <uint16_t *>(at + m.tile)
    cdef uint16_t *which = active + lanes       # of the active ones, by class; `count`: none
    cdef uint16_t *slots = which + lanes
    cdef uint16_t *slot
    cdef uint16_t *ours
    cdef Head *head
    cdef const real *data = <const real *>m.data
    cdef const real *weights = <const real *>m.weights
    cdef const real *start = <const real *>lists.start
    cdef const real *x
    cdef real *w
    cdef const int32_t *ids
    cdef Py_ssize_t i, r, n, total, count, needed, features, begin, end, j, k, e, missing, all, padded, ahead
    cdef int q
    cdef real up = <real>m.scale, down = <real>(1.0 / m.scale), nothing, none = 0
    for k in range(lanes + 1):
        y[k] = -1
    for i in range(m.n):
        r = m.order[i]
        n = m.indptr[r + 1] - m.indptr[r]
        ids, x = m.indices + m.indptr[r], data + m.indptr[r]
        if i + 16 < m.n:                        # fetch where rows begin, what they hold, heads, lists
            FO_PREFETCH_READ(m.indptr + m.order[i + 16])
            FO_PREFETCH_READ(m.classes + m.order[i + 16])
        if i + 8 < m.n:
            ahead = m.indptr[m.order[i + 8]]
            j = m.indptr[m.order[i + 8] + 1]
            while ahead < j:
                FO_PREFETCH_READ(m.indices + ahead)
                FO_PREFETCH_READ(data + ahead)
                ahead += 64 // sizeof(real)
        if i + 4 < m.n:
            for j in range(m.indptr[m.order[i + 4]], m.indptr[m.order[i + 4] + 1]):
                FO_PREFETCH(lists.heads + m.indices[j])
        if i + 1 < m.n:
            for j in range(m.indptr[m.order[i + 1]], m.indptr[m.order[i + 1] + 1]):
                fetch_list(lists, lists.heads + m.indices[j])
        if m.turns:
            up, down = <real>m.scale, <real>(1.0 / m.scale)
        score_classes(m, z, sums, ids, x, n, up)
        y[m.classes[r]] = 1
        m.learn(lanes, z, y, m.parameter, weights[r] if weights != NULL else 1.0, slopes, spare)
        y[m.classes[r]] = -1
        count = 0
        for k in range(lists.n_models):         # a slope of -0 moves what is -0
            active[count] = <uint16_t>k
            own[count] = slopes[k]
            count += memcmp(&slopes[k], &none, sizeof(real)) != 0
        if count:
            needed = 0
            for j in range(n):
                needed += growth(lists, lists.heads + ids[j], count)
            if not has_units(lists, needed):
                lists.book[NEEDED] = needed
                return i
        for k in range(lanes):
            which[k] = <uint16_t>count
        for k in range(count):
            which[active[k]] = <uint16_t>k
        total = n + (bias != NULL) if count else 0
        features = m.tile // count if count else 1
        end = 0
        while end < total:
            begin = end
            end = begin + features if begin + features < total else total
            for j in range(begin, end):
                k = j - begin
                if j == n:
                    place[k], far[k], at[k] = bias, lanes, active
                    for e in range(count):
                        p[k * count + e] = bias[active[e]]
                    w = bias
                else:
                    head = lists.heads + ids[j]
                    if head.room != lanes:
                        slot = slots + k * (count + 1)
                        memset(slot, 255, count * sizeof(uint16_t))
                        if head.room:
                            ours = <uint16_t *>unit(lists, head.place)
                            for e in range(head.count):
                                slot[which[ours[e]]] = <uint16_t>e
                        missing = 0
                        for e in range(count):
                            missing += slot[e] == 65535
                        if missing:
                            if head.count + missing > head.room:
                                widen(lists, head, head.count + missing, start)
                            if head.room != lanes:
                                ours = <uint16_t *>unit(lists, head.place)
                                w = weights_in(lists, head, x)
                                for e in range(count):
                                    if slot[e] == 65535:
                                        slot[e] = head.count
                                        ours[head.count] = active[e]
                                        w[head.count] = 0
                                        for q in range(n_states):
                                            w[(1 + q) * head.room + head.count] = start[q]
                                        head.count += 1
                    at[k] = slot if head.room != lanes else active
                    w = weights_in(lists, head, x)
                    place[k], far[k] = w, head.room
                    slot = at[k]
                    for e in range(count):
                        p[k * count + e] = up * w[slot[e]]
                slot = at[k]
                for q in range(n_states):
                    w = w + far[k]
                    for e in range(count):
                        s[q * room + k * count + e] = w[slot[e]]
                for e in range(count):
                    g[k * count + e] = own[e] * (x[j] if j < n else <real>1)
            if m.turns:
                for j in range(begin, end if end < n else n):
                    turn(m, lists.heads + ids[j], up, down, none * x[j])
            all = (end - begin) * count
            padded = (all + PAD - 1) // PAD * PAD
            memset(p + all, 0, (padded - all) * sizeof(real))
            memset(g + all, 0, (padded - all) * sizeof(real))
            for q in range(n_states):
                memset(s + q * room + all, 0, (padded - all) * sizeof(real))
            m.span(padded, p, g, s, s + room, s + 2 * room, s + 3 * room, m.h + i * m.h_stride)
            for k in range(end - begin):
                w, slot = place[k], at[k]
                nothing = down if begin + k < n else <real>1
                for e in range(count):
                    w[slot[e]] = nothing * p[k * count + e]
                for q in range(n_states):
                    w = w + far[k]
                    for e in range(count):
                        w[slot[e]] = s[q * room + k * count + e]
        if m.turns:
            if not count:
                for j in range(n):
                    turn(m, lists.heads + ids[j], up, down, none * x[j])
            m.scale = m.scale * m.shrink
    return m.n


cdef Lists lists_of(tuple parts, int writable) except *:
    # `chunks` of what is returned has to be freed.
    cdef Lists m
    cdef Py_ssize_t k
    heads, chunks, book, start, lanes, n_models, n_states = parts
    m.heads, m.n_features, m.book = <Head *>buffer(heads, writable), len(heads), <int64_t *>buffer(book, writable)
    m.start, m.itemsize = <const char *>buffer(start), start.itemsize
    m.lanes, m.n_models, m.n_states = lanes, n_models, n_states
    m.n_chunks, m.shift = len(chunks), 0
    m.chunks = <char **>PyMem_Malloc((m.n_chunks + 1) * sizeof(char *))
    if m.chunks == NULL:
        raise MemoryError
    try:
        for k in range(m.n_chunks):
            m.chunks[k] = <char *>buffer(chunks[k], writable)
    except BaseException:
        PyMem_Free(m.chunks)
        raise
    if m.n_chunks:
        while (<Py_ssize_t>1 << m.shift) < len(chunks[0]):
            m.shift += 1
    return m


def classes(addresses, str span, str loss, double parameter, lists, bias, indptr, indices, data, codes, weights, order,
            Py_ssize_t n, h, bint one_row, double scale, double shrink, bint turns):
    """Train models, one against the rest, on `n` CSR rows; returns how many were learned, and the scale then.

    As `abreast`, with targets 1 for the model codes[r] and -1 for the others, but: `lists` is (heads, chunks, book, start,
    lanes, n_models, n_states). Heads (uint64) and book (int64) are as in classes.pxi, chunks arrays of a power of two
    uint64 each, start what the states begin with. Where fewer rows than `n` are learned, lists need book[21] units more
    of 8 bytes. `turns`: the scale is not 1, or was not.
    """
    cdef Classes m
    cdef int itemsize = data.itemsize
    cdef size_t at
    cdef char *memory
    cdef fo_fpenv saved
    cdef Py_ssize_t done = 0, lanes
    if n == 0:
        return 0, scale
    at = addresses[span]
    m.span = <span_t><void *>at
    at = addresses["lanes_" + loss]
    m.learn = <lanes_learn_t><void *>at
    at = addresses["lanes_add"]
    m.add = <void *>at
    at = addresses["lanes_turn"]
    m.turn = <void *>at
    at = addresses["lanes_fold"]
    m.fold = <lanes_fold_t><void *>at
    m.parameter, m.bias = parameter, <char *>buffer(bias, 1)
    m.indptr, m.indices, m.data = <const int64_t *>buffer(indptr), <const int32_t *>buffer(indices), <const char *>buffer(data)
    m.classes, m.order = <const int32_t *>buffer(codes), <const int32_t *>buffer(order)
    m.weights = <const char *>buffer(weights)
    m.h = <const char *>buffer(h) + SPAN * itemsize
    m.h_stride = 0 if one_row else h.strides[0]
    m.scale, m.shrink, m.turns, m.n = scale, shrink, turns, n
    m.lists = lists_of(lists, 1)
    lanes = m.lists.lanes
    m.tile = TILE if TILE > lanes else lanes
    memory = <char *>PyMem_Calloc((6 * (m.tile + PAD) + 2 * lanes) * m.lists.itemsize + ((PAD + 3) * lanes + 1) * 8
                                  + 3 * m.tile * 8 + (2 * lanes + 2 * m.tile) * 2 + 64, 1)
    if memory == NULL:
        PyMem_Free(m.lists.chunks)
        raise MemoryError
    at = (<size_t>memory + 63) // 64 * 64
    with nogil:
        saved = fo_fp_enter()
        if m.lists.itemsize == 4:
            done = train_classes[float](&m, <float *>at)
        else:
            done = train_classes[double](&m, <double *>at)
        fo_fp_leave(saved)
    PyMem_Free(memory)
    PyMem_Free(m.lists.chunks)
    return done, m.scale


# What is in the lists.

cdef struct Entries:
    Lists lists
    int32_t *features           # NULL: count only
    int32_t *classes
    char *numbers


cdef inline bint at_start(const Lists *m, const real *p, const real *start, Py_ssize_t k) noexcept nogil:
    # Whether a record of all classes has nothing of class k.
    cdef real zero = 0
    cdef int q
    if memcmp(p + k, &zero, sizeof(real)):
        return False
    for q in range(m.n_states):
        if memcmp(p + (1 + q) * m.lanes + k, start + q, sizeof(real)):
            return False
    return True


cdef Py_ssize_t entries_in(const Entries *m, const real *start) noexcept nogil:
    cdef const Lists *lists = &m.lists
    cdef const Head *head
    cdef const uint16_t *ours
    cdef real *p
    cdef real *numbers = <real *>m.numbers
    cdef Py_ssize_t f, e, end, found = 0
    cdef bint whole
    cdef int q
    for f in range(lists.n_features):
        head = lists.heads + f
        if not head.room:
            continue
        whole = head.room == lists.lanes
        ours, p = <const uint16_t *>unit(lists, head.place), weights_in(lists, head, start)
        end = lists.n_models if whole else head.count
        for e in range(end):
            if whole and at_start(lists, p, start, e):
                continue
            if m.features != NULL:
                m.features[found], m.classes[found] = <int32_t>f, <int32_t>(e if whole else ours[e])
                for q in range(1 + lists.n_states):
                    numbers[found * (1 + lists.n_states) + q] = p[q * head.room + e]
            found += 1
    return found


def list_entries(lists, features=None, classes=None, numbers=None):
    """Write features and classes (int32) of all entries, in the order of the features, and their numbers, a row each; return
    how many there are. Without arrays: only that."""
    cdef Entries m
    cdef Py_ssize_t found
    m.features, m.classes = <int32_t *>buffer(features, 1), <int32_t *>buffer(classes, 1)
    m.numbers = <char *>buffer(numbers, 1)
    m.lists = lists_of(lists, 0)
    with nogil:
        if m.lists.itemsize == 4:
            found = entries_in[float](&m, <const float *>m.lists.start)
        else:
            found = entries_in[double](&m, <const double *>m.lists.start)
    PyMem_Free(m.lists.chunks)
    return found


cdef Py_ssize_t store_in(const Entries *m, Py_ssize_t n, const real *start) noexcept nogil:
    cdef const Lists *lists = &m.lists
    cdef const real *numbers = <const real *>m.numbers
    cdef Head *head
    cdef real *p
    cdef Py_ssize_t i, e
    cdef int q
    for i in range(n):
        head = lists.heads + m.features[i]
        if not has_units(lists, growth(lists, head, 1)):
            lists.book[NEEDED] = growth(lists, head, 1)
            return i
        if head.room != lists.lanes and head.count == head.room:
            widen(lists, head, head.count + 1, start)
        p = weights_in(lists, head, start)
        e = m.classes[i]
        if head.room != lists.lanes:
            e = head.count
            (<uint16_t *>unit(lists, head.place))[e] = <uint16_t>m.classes[i]
            head.count += 1
        for q in range(1 + lists.n_states):
            p[q * head.room + e] = numbers[i * (1 + lists.n_states) + q]
    return n


def store_entries(lists, features, classes, numbers):
    """Put entries that `list_entries` wrote into lists that do not have them; returns how many found room, see `classes`."""
    cdef Entries m
    cdef Py_ssize_t n = len(features), done
    m.features, m.classes, m.numbers = <int32_t *>buffer(features), <int32_t *>buffer(classes), <char *>buffer(numbers)
    m.lists = lists_of(lists, 1)
    with nogil:
        if m.lists.itemsize == 4:
            done = store_in[float](&m, n, <const float *>m.lists.start)
        else:
            done = store_in[double](&m, n, <const double *>m.lists.start)
    PyMem_Free(m.lists.chunks)
    return done


cdef bint scale_in(const Lists *m, const int32_t *ids, Py_ssize_t n, bint writes, real by) noexcept nogil:
    # Whether all weights are finite, of these features; times a number, if they are to be written.
    cdef const Head *head
    cdef real *p
    cdef Py_ssize_t j, e
    cdef bint good = True
    for j in range(n):
        head = m.heads + (ids[j] if ids != NULL else j)
        if head.room:
            p = weights_in(m, head, &by)
            for e in range(head.count):
                good = good and p[e] - p[e] == 0
            if writes:
                for e in range(head.count):
                    p[e] = p[e] * by
    return good


def scale_lists(lists, ids=None, by=None):
    """Multiply the weights of all features, or of `ids` (int32), by a number; None: by none. Returns whether all were finite
    before."""
    cdef bint writes = by is not None, good
    cdef const int32_t *these = <const int32_t *>buffer(ids)
    cdef Lists m = lists_of(lists, writes)
    cdef Py_ssize_t n = m.n_features if ids is None else len(ids)
    cdef double factor = 0 if by is None else by
    with nogil:
        if m.itemsize == 4:
            good = scale_in[float](&m, these, n, writes, <float>factor)
        else:
            good = scale_in[double](&m, these, n, writes, factor)
    PyMem_Free(m.chunks)
    return good


# Scores of rows, in the order of `row_scores`.

cdef struct ClassScoring:
    Lists lists
    void *axpy
    lanes_sum4_t sum4
    const int64_t *indptr
    const int32_t *indices
    const char *data
    const char *bias
    char *out
    char *scratch               # of each thread
    Py_ssize_t n, columns, own
    double scale
    uint64_t bad                # a row with an index out of bounds; n: none


cdef Py_ssize_t rows_of_classes(const ClassScoring *m, real *sums, const real *bias, Py_ssize_t begin,
                                Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t lanes = m.lists.lanes, r, j, e, n, whole
    cdef const int32_t *ids
    cdef const real *x
    cdef const real *p
    cdef real *lane
    cdef real *out = <real *>m.out
    cdef const Head *head
    cdef const uint16_t *ours
    cdef uint32_t f
    cdef real up = <real>m.scale, v
    for r in range(begin, stop):
        ids, x, n = m.indices + m.indptr[r], <const real *>m.data + m.indptr[r], m.indptr[r + 1] - m.indptr[r]
        if r + 1 < stop:
            for j in range(m.indptr[r + 1], m.indptr[r + 2]):
                f = fo_get32(m.indices + j)
                if f < m.lists.n_features:
                    fetch_list(&m.lists, m.lists.heads + f)
        memset(sums, 0, 4 * lanes * sizeof(real))
        whole = n & ~<Py_ssize_t>3
        for j in range(n):
            f = fo_get32(ids + j)
            if f >= m.lists.n_features:
                return r
            head = m.lists.heads + f
            if not head.room:
                continue
            lane = sums + (j & 3 if j < whole else 0) * lanes
            p, v = weights_in(&m.lists, head, x), x[j]
            if head.room == lanes:
                if real is float:
                    (<lanes_axpy32_t>m.axpy)(lanes, lane, p, up, v)
                else:
                    (<lanes_axpy64_t>m.axpy)(lanes, lane, p, up, v)
            else:
                ours = <const uint16_t *>unit(&m.lists, head.place)
                for e in range(head.count):
                    lane[ours[e]] = lane[ours[e]] + (p[e] * up) * v
        m.sum4(m.lists.n_models, out + r * m.columns, sums, lanes, bias)
    return -1


cdef void class_scoring_share(void *what, int k, int threads) noexcept nogil:
    cdef ClassScoring *m = <ClassScoring *>what
    cdef Py_ssize_t begin = m.n * k // threads, end = m.n * (k + 1) // threads, bad
    cdef fo_fpenv saved = fo_fp_enter()
    if m.lists.itemsize == 4:
        bad = rows_of_classes[float](m, <float *>(m.scratch + k * m.own), <const float *>m.bias, begin, end)
    else:
        bad = rows_of_classes[double](m, <double *>(m.scratch + k * m.own), <const double *>m.bias, begin, end)
    if bad >= 0:
        fo_put64(&m.bad, bad)
    fo_fp_leave(saved)


def class_scores(addresses, lists, indptr, indices, data, double scale, bias, out, Py_ssize_t column, int threads=1):
    """The scores of CSR rows for the models of these lists, into columns from `column` on of `out`, C-contiguous.

    As `row_scores` for each of the models: the bits, the arrays, and what is returned. `bias`: that of each model.
    """
    cdef ClassScoring m
    cdef int itemsize = out.itemsize
    cdef size_t at
    cdef char *memory
    m.indptr, m.indices, m.data = <const int64_t *>buffer(indptr), <const int32_t *>buffer(indices), <const char *>buffer(data)
    m.bias, m.out = <const char *>buffer(bias), <char *>buffer(out, 1) + column * itemsize
    m.n, m.columns = out.shape
    m.scale, m.bad = scale, m.n
    at = addresses["lanes_axpy"]
    m.axpy = <void *>at
    at = addresses["lanes_sum4"]
    m.sum4 = <lanes_sum4_t><void *>at
    if fo_is_fork_child or not FO_OPENMP or len(indices) < serial_below // 8:
        threads = 1
    m.lists = lists_of(lists, 0)
    m.own = (4 * m.lists.lanes * m.lists.itemsize + APART - 1) // APART * APART + APART
    memory = <char *>PyMem_Malloc(threads * m.own + 64)
    if memory == NULL:
        PyMem_Free(m.lists.chunks)
        raise MemoryError
    m.scratch = memory + (64 - <size_t>memory % 64)
    with nogil:
        together(class_scoring_share, &m, threads)
    PyMem_Free(memory)
    PyMem_Free(m.lists.chunks)
    return -1 if m.bad == <uint64_t>m.n else m.bad
