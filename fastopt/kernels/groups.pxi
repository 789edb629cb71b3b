# Sparse gradients: which rows they touch, and where the entries of each row lie.
#
# Every entry becomes a key, (row << shift) | place, whose row was checked when it was read: nothing reads the caller's
# indices again. The keys of one row are then brought side by side, in input order. Since the place is part of the key,
# any sort of the keys is stable.

cdef enum:
    FEW = 64                # keys that insertion sorts fastest
    SLOT_ROWS = 1 << 16     # rows for which a slot each (256 KiB) stays in the cache
    SLOT_KEYS = 1 << 15     # keys from which on all threads sort
    DIGIT = 11              # bits that a pass of the radix sort takes
    AS_THEY_STAND = 0       # what is asked of the keys: nothing; those of a row side by side; and rows in ascending order
    BY_ROW = 1
    ASCENDING = 2
    KEY_COST = 16           # what a key costs, counted in elements of a dense step
    PATIENCE = 64           # uses that need little of it after which memory is given back

cdef struct Groups:
    uint64_t *keys
    uint64_t *spare
    int64_t *begin          # of each row touched, its first key, and one more; valid where rows are repeated
    uint32_t *slot          # of each row of a small table: 0, between uses
    uint32_t *place
    int64_t *tally          # counts of the radix sort, threads x 2^DIGIT
    Py_ssize_t room, slots, tallies, idle
    Py_ssize_t n            # keys
    Py_ssize_t count        # rows touched
    Py_ssize_t n_rows
    int shift
    bint repeated
    # of the work under way
    const char *ids
    int id_size
    int64_t *found          # of each thread
    int digit_shift
    uint64_t digit_mask


cdef void free_groups(Groups *q) noexcept:
    PyMem_Free(q.keys)
    PyMem_Free(q.spare)
    PyMem_Free(q.begin)
    PyMem_Free(q.slot)
    PyMem_Free(q.place)
    PyMem_Free(q.tally)
    PyMem_Free(q.found)
    memset(q, 0, sizeof(Groups))


cdef int bits_of(uint64_t most) noexcept nogil:
    # Bits that hold 0..most.
    cdef int bits = 0
    while most >> bits and bits < 63:
        bits += 1
    return bits


cdef int room_for_keys(Groups *q, Py_ssize_t n, Py_ssize_t n_rows, int threads) except -1:
    # Memory is kept from step to step, with room for more; when it has long been far too much, it is given back.
    q.idle = q.idle + 1 if n < q.room // 64 - 65536 else 0
    if q.keys == NULL or n > q.room or q.idle > PATIENCE:
        free_groups(q)
        q.room = n + n // 4 + 16
        q.keys = <uint64_t *>PyMem_Malloc(q.room * sizeof(uint64_t))
        q.spare = <uint64_t *>PyMem_Malloc(q.room * sizeof(uint64_t))
        q.begin = <int64_t *>PyMem_Malloc((q.room + 1) * sizeof(int64_t))
        q.place = <uint32_t *>PyMem_Malloc(q.room * sizeof(uint32_t))
    if q.tallies < threads:
        PyMem_Free(q.tally)
        PyMem_Free(q.found)
        q.tallies = threads
        q.tally = <int64_t *>PyMem_Malloc((<Py_ssize_t>threads << DIGIT) * sizeof(int64_t))
        q.found = <int64_t *>PyMem_Malloc(threads * 8 * sizeof(int64_t))
    if n_rows <= SLOT_ROWS and q.slots < n_rows:
        PyMem_Free(q.slot)
        q.slot = <uint32_t *>PyMem_Calloc(n_rows, sizeof(uint32_t))
        q.slots = n_rows
    if not (q.keys and q.spare and q.begin and q.place and q.tally and q.found
            and (q.slot or n_rows > SLOT_ROWS or not n_rows)):
        free_groups(q)
        raise MemoryError
    q.n, q.n_rows = n, n_rows
    q.shift = bits_of(n)
    return 0


cdef inline Py_ssize_t part(Py_ssize_t n, int k, int threads) noexcept nogil:
    # Where thread k's share of n begins.
    return n // threads * k + n % threads * k // threads


ctypedef fused index:
    int32_t
    int64_t


cdef void read_ids(Groups *q, const index *ids, Py_ssize_t begin, Py_ssize_t end, int64_t *found) noexcept nogil:
    # Keys of the entries; found: the first index out of range or -1, whether the rows rise, whether they never fall.
    cdef Py_ssize_t j, before = -1
    cdef int64_t row
    cdef bint rising = True, level = True
    cdef uint64_t n_rows = q.n_rows
    cdef uint64_t *keys = q.keys
    cdef int shift = q.shift
    found[0] = -1
    for j in range(begin, end):
        row = ids[j]
        if <uint64_t>row >= n_rows:             # negative ones, too
            found[0] = j
            return
        keys[j] = (<uint64_t>row << shift) | <uint64_t>j
        rising &= row > before
        level &= row >= before
        before = row
    found[1], found[2] = rising, level


cdef void read_share(void *what, int k, int threads) noexcept nogil:
    cdef Groups *q = <Groups *>what
    cdef Py_ssize_t begin = part(q.n, k, threads), end = part(q.n, k + 1, threads)
    if q.id_size == 4:
        read_ids(q, <const int32_t *>q.ids, begin, end, q.found + 8 * k)
    else:
        read_ids(q, <const int64_t *>q.ids, begin, end, q.found + 8 * k)


cdef void tally_share(void *what, int k, int threads) noexcept nogil:
    cdef Groups *q = <Groups *>what
    cdef int64_t *tally = q.tally + (<Py_ssize_t>k << DIGIT)
    cdef const uint64_t *keys = q.keys
    cdef uint64_t mask = q.digit_mask
    cdef int shift = q.digit_shift
    cdef Py_ssize_t j
    memset(tally, 0, (mask + 1) * sizeof(int64_t))
    for j in range(part(q.n, k, threads), part(q.n, k + 1, threads)):
        tally[(keys[j] >> shift) & mask] += 1


cdef void spread_share(void *what, int k, int threads) noexcept nogil:
    cdef Groups *q = <Groups *>what
    cdef int64_t *tally = q.tally + (<Py_ssize_t>k << DIGIT)
    cdef int64_t *at
    cdef const uint64_t *keys = q.keys
    cdef uint64_t *spare = q.spare
    cdef uint64_t mask = q.digit_mask, key
    cdef int shift = q.digit_shift
    cdef Py_ssize_t j
    for j in range(part(q.n, k, threads), part(q.n, k + 1, threads)):
        key = keys[j]
        at = tally + ((key >> shift) & mask)
        spare[at[0]] = key
        at[0] += 1


cdef void radix_sort(Groups *q, int threads) noexcept nogil:
    # By rows alone, least digit first; the order of the places stays.
    cdef int bits = bits_of(q.n_rows - 1), most = DIGIT if q.n > 1024 else 8, done = 0, passes, size, k
    cdef Py_ssize_t d, at, n
    cdef int64_t *tally
    cdef bint constant
    passes = (bits + most - 1) // most
    while done < bits:
        size = (bits - done + passes - 1) // passes
        passes -= 1
        q.digit_shift, q.digit_mask = q.shift + done, (<uint64_t>1 << size) - 1
        done += size
        together(tally_share, q, threads)
        at, constant = 0, False
        for d in range(<Py_ssize_t>q.digit_mask + 1):
            n = at
            for k in range(threads):
                tally = q.tally + (<Py_ssize_t>k << DIGIT) + d
                tally[0], at = at, at + tally[0]
            constant |= at - n == q.n
        if not constant:
            together(spread_share, q, threads)
            q.keys, q.spare = q.spare, q.keys


cdef void count_share(void *what, int k, int threads) noexcept nogil:
    # How many rows begin in the share.
    cdef Groups *q = <Groups *>what
    cdef const uint64_t *keys = q.keys
    cdef Py_ssize_t j, first = part(q.n, k, threads), end = part(q.n, k + 1, threads), count = first == 0 < end
    cdef int shift = q.shift
    for j in range(first if first else 1, end):
        count += keys[j] >> shift != keys[j - 1] >> shift
    q.found[8 * k + 3] = count


cdef void begin_share(void *what, int k, int threads) noexcept nogil:
    # Without branches, which would be mispredicted at every other repetition: what is no beginning is written over.
    cdef Groups *q = <Groups *>what
    cdef const uint64_t *keys = q.keys
    cdef int64_t *begin = q.begin
    cdef Py_ssize_t j, first = part(q.n, k, threads), end = part(q.n, k + 1, threads), at = q.found[8 * k + 3]
    cdef Py_ssize_t last = q.found[8 * k + 4]
    cdef int shift = q.shift
    if first == 0 < end:
        begin[0], at = 0, 1
    for j in range(first if first else 1, end):
        if at == last:                      # the next place is another share's
            break
        begin[at] = j
        at += keys[j] >> shift != keys[j - 1] >> shift


cdef void find_rows(Groups *q, int threads) noexcept nogil:
    # The keys of a row lie side by side: where does each row begin?
    cdef int k
    cdef Py_ssize_t at = 0
    together(count_share, q, threads)
    for k in range(threads):
        q.found[8 * k + 3], at = at, at + q.found[8 * k + 3]
        q.found[8 * k + 4] = at
    q.count, q.repeated = at, at < q.n
    if q.repeated:
        together(begin_share, q, threads)
        q.begin[at] = q.n


cdef void insertion_sort(Groups *q) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef uint64_t key
    for i in range(1, q.n):
        key, j = q.keys[i], i
        while j > 0 and q.keys[j - 1] > key:
            q.keys[j] = q.keys[j - 1]
            j -= 1
        q.keys[j] = key


cdef void slot_sort(Groups *q) noexcept nogil:
    # Rows in the order of their first entry. Each row of the table has a slot: the number of its group, from 1.
    cdef Py_ssize_t j, at = 0, count = 0
    cdef uint64_t row
    for j in range(q.n):
        row = q.keys[j] >> q.shift
        if q.slot[row] == 0:
            count += 1
            q.slot[row] = <uint32_t>count
            q.begin[count] = 0
        q.place[j] = q.slot[row]
        q.begin[q.slot[row]] += 1
    for j in range(q.n):
        q.slot[q.keys[j] >> q.shift] = 0
    q.count, q.repeated = count, count < q.n
    if q.repeated:
        for j in range(1, count + 1):           # counts become the places of the next key
            q.begin[j], at = at, at + q.begin[j]
        for j in range(q.n):
            q.spare[q.begin[q.place[j]]] = q.keys[j]
            q.begin[q.place[j]] += 1
        q.begin[0] = 0
        q.keys, q.spare = q.spare, q.keys


cdef Py_ssize_t group_keys(Groups *q, const char *ids, int id_size, int sort, int threads) noexcept nogil:
    # Read and check the indices, and bring those of each row together. The first index out of range, or -1.
    cdef int k
    cdef Py_ssize_t joint
    cdef bint rising = True, level = True
    q.ids, q.id_size = ids, id_size
    together(read_share, q, threads)
    for k in range(threads):
        if q.found[8 * k] >= 0:
            return q.found[8 * k]
    for k in range(threads):
        joint = part(q.n, k, threads)
        rising &= q.found[8 * k + 1] != 0
        level &= q.found[8 * k + 2] != 0
        if 0 < joint < q.n:
            rising &= q.keys[joint] >> q.shift > q.keys[joint - 1] >> q.shift
            level &= q.keys[joint] >> q.shift >= q.keys[joint - 1] >> q.shift
    q.count, q.repeated = q.n, False
    if rising or sort == AS_THEY_STAND:
        return -1
    if not level:
        if q.n <= FEW:
            insertion_sort(q)
        elif sort == BY_ROW and q.n_rows <= SLOT_ROWS and q.n <= SLOT_KEYS:
            slot_sort(q)
            return -1
        else:
            radix_sort(q, threads)
    find_rows(q, threads)
    return -1
