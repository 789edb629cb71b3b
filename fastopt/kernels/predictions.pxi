# Scores of CSR rows by models whose weights of a feature lie side by side. The bits are those of row_scores, model by model.

ctypedef void (*lanes_predict_t)(Py_ssize_t n, Py_ssize_t lanes, const int32_t *ids, const void *x, const void *w,
                                 Py_ssize_t stride, const void *up, const void *bias, void *out) noexcept nogil

cdef enum:
    FETCHED = 512               # bytes of a feature's weights that are asked for at once; the hardware sees the others coming

cdef struct Predictions:
    lanes_predict_t predict
    const int64_t *indptr
    const int32_t *indices
    const char *data
    const char *w               # of the first feature; `width` bytes from feature to feature
    Py_ssize_t width
    Py_ssize_t n_features, lanes
    const char *up              # what the weights of each model are multiplied by, or NULL
    const char *bias            # of each model
    char *out                   # of the first row; `far` bytes from row to row
    Py_ssize_t far, used        # bytes, and those of a row that are written
    Py_ssize_t n, longest
    int itemsize
    char *scratch
    Py_ssize_t own              # bytes of scratch of each thread
    int64_t bad                 # a row that has an index out of bounds; -1: none


cdef inline bint take_row(const Predictions *m, Py_ssize_t r, int32_t *ids) noexcept nogil:
    # Copy the indices of a row, for another thread may change the caller's, look at each, and ask for its weights.
    cdef const int32_t *given = m.indices + m.indptr[r]
    cdef Py_ssize_t n = m.indptr[r + 1] - m.indptr[r], end = m.lanes * m.itemsize, j, line
    cdef const char *at
    end = end if end < FETCHED else FETCHED
    for j in range(n):
        ids[j] = <int32_t>fo_get32(given + j)
        if <uint32_t>ids[j] >= <uint32_t>m.n_features:
            return False
        at = m.w + ids[j] * m.width
        for line in range(0, end, 64):
            FO_PREFETCH_READ(at + line)
    return True


cdef void predictions_share(void *what, int k, int threads) noexcept nogil:
    cdef Predictions *m = <Predictions *>what
    cdef Py_ssize_t begin = m.n * k // threads, end = m.n * (k + 1) // threads, r
    cdef char *z = m.scratch + k * m.own
    cdef int32_t *ids = <int32_t *>(z + m.lanes * m.itemsize)
    cdef int32_t *next = ids + m.longest
    cdef int32_t *spare
    cdef fo_fpenv saved = fo_fp_enter()
    if begin < end and not take_row(m, begin, next):
        fo_put64(&m.bad, begin)
        end = begin
    for r in range(begin, end):
        spare = ids
        ids = next
        next = spare
        if r + 1 < end and not take_row(m, r + 1, next):
            fo_put64(&m.bad, r + 1)
            break
        m.predict(m.indptr[r + 1] - m.indptr[r], m.lanes, ids, m.data + m.indptr[r] * m.itemsize, m.w, m.width // m.itemsize,
                  m.up, m.bias, z)
        memcpy(m.out + r * m.far, z, m.used)
    fo_fp_leave(saved)


def predictions(addresses, indptr, indices, data, weights, Py_ssize_t lanes, up, bias, out, Py_ssize_t first,
                Py_ssize_t n_models, Py_ssize_t longest, int threads=1):
    """Scores of CSR rows by `n_models` models; returns -1, or a row that has an index out of bounds.

    Row i of `weights` begins with the weights of feature i in all models, padded to `lanes`, a multiple of 8. `up`, what the
    weights of a model are multiplied by, or None, and `bias` have as many elements. Row r of `out` receives the scores of row
    r from column `first` on. Arrays are contiguous, but for the rows of `weights`: int64 offsets that the caller has checked,
    of rows with at most `longest` entries, int32 indices; all other have one dtype. The bits are the same for any `threads`.
    """
    cdef Predictions m
    cdef int itemsize = data.itemsize
    cdef size_t at = addresses["lanes_predict"]
    cdef char *memory
    m.predict = <lanes_predict_t><void *>at
    m.indptr, m.indices, m.data = <const int64_t *>buffer(indptr), <const int32_t *>buffer(indices), <const char *>buffer(data)
    m.w, m.width, m.n_features, m.lanes = <const char *>buffer(weights), weights.strides[0], len(weights), lanes
    m.up, m.bias = <const char *>buffer(up), <const char *>buffer(bias)
    m.far, m.used = out.shape[1] * itemsize, n_models * itemsize
    m.out = <char *>buffer(out, 1) + first * itemsize
    m.n, m.longest, m.itemsize, m.bad = len(out), longest, itemsize, -1
    if fo_is_fork_child or not FO_OPENMP or m.n and (m.indptr[m.n] - m.indptr[0]) * lanes < serial_below:
        threads = 1
    if threads > m.n:
        threads = <int>m.n if m.n else 1
    m.own = (lanes * itemsize + 2 * longest * 4 + 2 * APART - 1) // APART * APART
    memory = <char *>PyMem_Malloc(APART + threads * m.own)
    if memory == NULL:
        raise MemoryError
    at = <size_t>memory
    m.scratch = <char *>((at + APART - 1) // APART * APART)
    with nogil:
        together(predictions_share, &m, threads)
    PyMem_Free(memory)
    return m.bad
