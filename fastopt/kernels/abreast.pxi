# Samples of CSR for models side by side: one fetch of a feature serves them all, and so does each vector instruction. They may
# have targets of their own (one against the rest), be the classes of one model, or have learning rates of their own.

ctypedef void (*lanes_gather_t)(Py_ssize_t n, Py_ssize_t lanes, int n_states, void *p, void *s, Py_ssize_t room,
                                const void *records, const int32_t *ids, const void *up) noexcept nogil
ctypedef void (*lanes_scatter_t)(Py_ssize_t n, Py_ssize_t lanes, int n_states, const void *p, const void *s, Py_ssize_t room,
                                 void *records, const int32_t *ids, const void *down, const void *rates,
                                 const void *move) noexcept nogil
ctypedef void (*lanes_scores_t)(Py_ssize_t n, Py_ssize_t lanes, double *z, double *sums, const void *p,
                                const void *x) noexcept nogil
ctypedef void (*lanes_gradients_t)(Py_ssize_t n, Py_ssize_t lanes, void *g, const void *slopes, const void *x) noexcept nogil
ctypedef void (*lanes_learn_t)(Py_ssize_t n, double *z, const double *y, double a, double w, void *slopes,
                               double *sums) noexcept nogil

cdef struct Abreast:
    span_t span
    lanes_gather_t gather
    lanes_scatter_t scatter
    lanes_scores_t scores
    lanes_gradients_t gradients
    lanes_learn_t learn
    double parameter            # of the loss
    Py_ssize_t lanes
    int n_states
    char *records               # of features: the weights of all models, then each state of all models
    char *bias                  # the intercepts' record, or NULL
    const int64_t *indptr
    const int32_t *indices
    const char *data
    const char *y               # targets that all models share, or those of each, or
    Py_ssize_t columns          # of the targets; the models beyond them have 0
    bint apart                  # each model has its own column
    const int32_t *classes      # the model whose target is 1, where the others' are -1
    const char *weights         # of the samples, or NULL: all 1
    const int32_t *order        # NULL: as they stand
    const char *h               # scalars of the first sample's step, span's own
    Py_ssize_t h_stride         # bytes to those of the next; 0: the same for all
    Py_ssize_t h_apart          # bytes from a model's scalars to the next model's; 0: the same for all
    const char *rates           # what each model's move is multiplied by, or NULL
    Py_ssize_t rates_stride
    double *scale               # of each model's weights, which each step shrinks
    const double *shrink
    double *sums                # of each model's losses
    Py_ssize_t n, look          # samples, and the first whose loss is summed
    int itemsize
    bint prefetch
    char *scratch
    Py_ssize_t room             # elements of a block, one of a sample in all models
    Py_ssize_t longest          # elements of a block of one model


cdef inline void fetch_wide(const char *records, const int32_t *ids, Py_ssize_t n, Py_ssize_t width) noexcept nogil:
    # The first lines of each record; the hardware sees the others coming.
    cdef Py_ssize_t j, line, end = width if width < 256 else 256
    if end <= 64:
        for j in range(n):
            FO_PREFETCH(records + ids[j] * width)
    elif end <= 128:
        for j in range(n):
            FO_PREFETCH(records + ids[j] * width)
            FO_PREFETCH(records + ids[j] * width + 64)
    else:
        for j in range(n):
            for line in range(0, end, 64):
                FO_PREFETCH(records + ids[j] * width + line)


cdef inline void rescale(const Abreast *m, real *up, real *down) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(m.lanes):
        up[k] = <real>m.scale[k]
        down[k] = <real>(1.0 / m.scale[k])


cdef inline void each_apart(const Abreast *m, Py_ssize_t n, real *p, const real *g, real *s, real *own,
                            const char *h) noexcept nogil:
    # The span on one model after the other, each with scalars of its own.
    cdef Py_ssize_t lanes = m.lanes, far = m.longest, k, j, padded = (n + PAD - 1) // PAD * PAD
    cdef real *own_s = own + 2 * far
    cdef int q
    for k in range(lanes):
        for j in range(n):
            own[j] = p[j * lanes + k]
            own[far + j] = g[j * lanes + k]
        memset(own + n, 0, (padded - n) * sizeof(real))
        memset(own + far + n, 0, (padded - n) * sizeof(real))
        for q in range(m.n_states):
            for j in range(n):
                own_s[q * far + j] = s[q * m.room + j * lanes + k]
            memset(own_s + q * far + n, 0, (padded - n) * sizeof(real))
        m.span(padded, own, own + far, own_s, own_s + far, own_s + 2 * far, own_s + 3 * far, h + k * m.h_apart)
        for j in range(n):
            p[j * lanes + k] = own[j]
        for q in range(m.n_states):
            for j in range(n):
                s[q * m.room + j * lanes + k] = own_s[q * far + j]


cdef void train_abreast(const Abreast *m, real *p) noexcept nogil:
    cdef Py_ssize_t room = m.room, lanes = m.lanes, width = (1 + m.n_states) * lanes * sizeof(real)
    cdef real *g = p + room
    cdef real *s = p + 2 * room
    cdef real *move = p + 6 * room
    cdef real *x = p + 7 * room
    cdef real *own = x + m.longest
    cdef real *up = own + 6 * m.longest
    cdef real *down = up + lanes
    cdef real *slopes = down + lanes
    cdef double *z = <double *>(slopes + 2 * lanes)
    cdef double *own_sums = z + lanes
    cdef double *spare = own_sums + PAD * 8
    cdef double *y = spare + lanes              # and one for samples that are of no model
    cdef real *bias = <real *>m.bias
    cdef const real *data = <const real *>m.data
    cdef const real *weights = <const real *>m.weights
    cdef const real *rates = NULL
    cdef const char *h
    cdef const int32_t *ids
    cdef Py_ssize_t i, r, n, total, all, padded, j, at, ahead, k
    cdef int q
    cdef bint shrinks = False
    for k in range(lanes):
        shrinks = shrinks or m.shrink[k] != 1
        y[k] = -1 if m.classes != NULL else 0
    rescale(m, up, down)
    for i in range(m.n):
        r = m.order[i] if m.order != NULL else i
        at = m.indptr[r]
        n = m.indptr[r + 1] - at
        ids = m.indices + at
        if m.order != NULL:                 # rows lie scattered: fetch where they begin, then what they hold
            if i + 24 < m.n:
                FO_PREFETCH_READ(m.indptr + m.order[i + 24])
                if m.classes != NULL:
                    FO_PREFETCH_READ(m.classes + m.order[i + 24])
                else:
                    FO_PREFETCH_READ(<const real *>m.y + m.order[i + 24] * m.columns)
            if i + 8 < m.n:
                ahead = m.indptr[m.order[i + 8]]
                j = m.indptr[m.order[i + 8] + 1]
                while ahead < j:
                    FO_PREFETCH_READ(m.indices + ahead)
                    FO_PREFETCH_READ(data + ahead)
                    ahead += 64 // sizeof(real)
                FO_PREFETCH_READ(m.indices + j)
                FO_PREFETCH_READ(data + j)
        if shrinks:
            rescale(m, up, down)
        m.gather(n, lanes, m.n_states, p, s, room, m.records, ids, up)
        memcpy(x, data + at, n * sizeof(real))
        total = n
        if bias != NULL:
            x[n] = 1
            memcpy(p + n * lanes, bias, lanes * sizeof(real))
            for q in range(m.n_states):
                memcpy(s + q * room + n * lanes, bias + (1 + q) * lanes, lanes * sizeof(real))
            total = n + 1
        if m.prefetch and i + 2 < m.n:
            at = m.order[i + 2] if m.order != NULL else i + 2
            fetch_wide(m.records, m.indices + m.indptr[at], m.indptr[at + 1] - m.indptr[at], width)
        m.scores(total, lanes, z, own_sums, p, x)
        if m.classes != NULL:
            y[m.classes[r]] = 1
        elif m.apart:
            for k in range(m.columns):
                y[k] = (<const real *>m.y)[r * m.columns + k]
        else:
            for k in range(lanes):
                y[k] = (<const real *>m.y)[r]
        m.learn(lanes, z, y, m.parameter, weights[r] if weights != NULL else 1.0, slopes, m.sums if i >= m.look else spare)
        if m.classes != NULL:
            y[m.classes[r]] = -1
        m.gradients(total, lanes, g, slopes, x)
        all = total * lanes
        padded = (all + PAD - 1) // PAD * PAD
        memset(g + all, 0, PAD * sizeof(real))
        for q in range(m.n_states):
            memset(s + q * room + all, 0, PAD * sizeof(real))
        h = m.h + i * m.h_stride
        if m.h_apart:
            each_apart(m, total, p, g, s, own, h)
        elif m.rates != NULL:
            rates = <const real *>(m.rates + i * m.rates_stride)
            memset(move, 0, padded * sizeof(real))
            m.span(padded, move, g, s, s + room, s + 2 * room, s + 3 * room, h)
        else:
            memset(p + all, 0, PAD * sizeof(real))
            m.span(padded, p, g, s, s + room, s + 2 * room, s + 3 * room, h)
        m.scatter(n, lanes, m.n_states, p, s, room, m.records, ids, down, rates, move)
        if bias != NULL:
            for k in range(lanes):
                bias[k] = p[n * lanes + k] + rates[k] * move[n * lanes + k] if rates != NULL else p[n * lanes + k]
            for q in range(m.n_states):
                memcpy(bias + (1 + q) * lanes, s + q * room + n * lanes, lanes * sizeof(real))
        if shrinks:
            for k in range(lanes):
                m.scale[k] = m.scale[k] * m.shrink[k]


def abreast(addresses, str span, int n_states, str loss, double parameter, Py_ssize_t lanes, records, bias, indptr, indices,
            data, y, classes, weights, order, Py_ssize_t n, Py_ssize_t longest, h, bint one_row, rates, scale, shrink,
            sums, Py_ssize_t look):
    """Train `lanes` models, a multiple of 8, on the same `n` CSR rows in `order`.

    Rule-blind, as `samples`, and of the same arguments, but: a record holds the weights of all models, then each state of all
    models. Targets are `y`, of shape (rows,), or (rows, models) where each model has its own; or 1 for the model classes[r]
    (int32) and -1 for the others. `scale` and `shrink`: float64, one for each model; `scale` is overwritten. The losses of
    samples from `look` on are added to `sums`, float64.

    `h` is a row of scalars for each sample, or one for all; or such rows for each model, of shape (models, rows, scalars). With
    `rates`, of shape (rows, models), the span computes moves from 0, and each is multiplied by its model's rate.
    """
    cdef Abreast m
    cdef int itemsize = data.itemsize
    cdef bint own_scalars = h.ndim == 3
    cdef size_t at
    cdef char *memory
    cdef fo_fpenv saved
    if n == 0:
        return
    at = addresses[span]
    m.span = <span_t><void *>at
    at = addresses["lanes_gather"]
    m.gather = <lanes_gather_t><void *>at
    at = addresses["lanes_scatter"]
    m.scatter = <lanes_scatter_t><void *>at
    at = addresses["lanes_scores"]
    m.scores = <lanes_scores_t><void *>at
    at = addresses["lanes_gradients"]
    m.gradients = <lanes_gradients_t><void *>at
    at = addresses["lanes_" + loss]
    m.learn = <lanes_learn_t><void *>at
    m.parameter, m.lanes, m.n_states = parameter, lanes, n_states
    m.records, m.bias = <char *>buffer(records, 1), <char *>buffer(bias, 1)
    m.indptr, m.indices, m.data = <const int64_t *>buffer(indptr), <const int32_t *>buffer(indices), <const char *>buffer(data)
    m.y, m.classes = <const char *>buffer(y), <const int32_t *>buffer(classes)
    m.apart = y is not None and y.ndim == 2
    m.columns = y.shape[1] if m.apart else 1
    m.weights, m.order = <const char *>buffer(weights), <const int32_t *>buffer(order)
    m.h = <const char *>buffer(h) + SPAN * itemsize
    m.h_apart = h.strides[0] if own_scalars else 0
    m.h_stride = 0 if one_row else h.strides[1 if own_scalars else 0]
    m.rates = <const char *>buffer(rates)
    m.rates_stride = 0 if rates is None or one_row else rates.strides[0]
    m.scale, m.shrink, m.sums = <double *>buffer(scale, 1), <double *>buffer(shrink), <double *>buffer(sums, 1)
    m.n, m.look, m.itemsize = n, look, itemsize
    m.prefetch = prefetching and records.nbytes > 1 << 19
    m.longest = (longest + 1 + 2 * PAD - 1) // PAD * PAD
    m.room = m.longest * lanes
    memory = <char *>PyMem_Calloc((7 * m.room + 7 * m.longest + 4 * lanes) * itemsize + (3 * lanes + PAD * 8 + 1) * 8 + 64, 1)
    if memory == NULL:
        raise MemoryError
    at = <size_t>memory
    at = (at + 63) // 64 * 64
    with nogil:
        saved = fo_fp_enter()
        if itemsize == 4:
            train_abreast[float](&m, <float *>at)
        else:
            train_abreast[double](&m, <double *>at)
        fo_fp_leave(saved)
    PyMem_Free(memory)
