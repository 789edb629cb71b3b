# The drivers: they decide which elements meet a span, and know nothing of its rule. Compiled once, for the baseline;
# the spans are called through the addresses that the chosen build hands out. OpenMP lives here alone.

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cython.parallel cimport parallel, threadid
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

cdef extern from "Python.h":
    # Cython's own Py_buffer counts references on `obj`; here it is a plain field, NULL when nothing is held.
    ctypedef struct View "Py_buffer":
        void *buf
        PyObject *obj
        Py_ssize_t len
        Py_ssize_t itemsize
        int ndim
        char *format
        Py_ssize_t *shape
        Py_ssize_t *strides
    const int PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE
    int PyObject_GetBuffer(object o, View *view, int flags) except -1
    int try_buffer "PyObject_GetBuffer"(object o, View *view, int flags) noexcept
    void PyErr_Clear()
    void PyBuffer_Release(View *view)

cdef extern from "fo_cpu.h" nogil:
    int fo_cpu_level()

cdef extern from "fo_fpenv.h" nogil:
    ctypedef struct fo_fpenv:
        pass
    fo_fpenv fo_fp_enter()
    void fo_fp_leave(fo_fpenv saved)

cdef extern from "fo_fork.h" nogil:
    int fo_is_fork_child
    int fo_watch_fork()

cdef extern from "fo_memory.h" nogil:
    void FO_PREFETCH(const void *at)
    void FO_PREFETCH_READ(const void *at)
    float fo_getf(const float *at)
    double fo_getd(const double *at)
    void fo_putf(float *at, float x)
    void fo_putd(double *at, double x)

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define FO_OPENMP _OPENMP
    #define fo_team_size omp_get_num_threads
    #else
    #define FO_OPENMP 0
    #define fo_team_size() 1
    #endif
    """
    const int FO_OPENMP
    int fo_team_size() nogil

ctypedef void (*span_t)(Py_ssize_t n, void *p, const void *g, void *s0, void *s1, void *s2, void *s3,
                        const void *h) noexcept nogil
ctypedef void (*block_t)(Py_ssize_t n, void *out, const void *by, const void *h) noexcept nogil
ctypedef double (*learn_t)(Py_ssize_t n, void *g, const void *p, const void *x, double y, double a) noexcept nogil

cdef enum:
    BLOCK = 1024            # elements that the block operations keep in the first-level cache
    GATHER = 256            # elements gathered into one block
    LANES = 16              # the scores pad to this
    COUPLE = 0              # places of the block operations' scalars in h; the span's own begin at SPAN
    SHRINK = 1
    SPAN = 2
    HOLD_GIL = 16384        # below this many elements, letting go of the GIL costs more than it gives
    WINDOW = 1024           # rows of a table of scalars, at most

OPENMP = FO_OPENMP
fo_watch_fork()

cdef int n_threads = 1
# Elements below which work stays on one thread. By bench/region.py two threads win from 32 768 on while steps follow each
# other, but after a pause, when the second has to be woken, from millions on only: up to here one thread takes 40 us.
cdef Py_ssize_t serial_below = 262144
cdef Py_ssize_t forced_chunk = 0
cdef int last_team_size = 0


def cpu_level():
    """The x86-64 level that this CPU and operating system run: 1, 3 (AVX2) or 4 (AVX-512)."""
    return fo_cpu_level()


def set_threads(int n):
    global n_threads
    n_threads = n


def force(int threads=0, Py_ssize_t chunk=0):
    """For tests: run `threads` threads on work of any size and split it into chunks of `chunk` elements."""
    global serial_below, forced_chunk, n_threads
    serial_below = 0 if threads else 262144
    forced_chunk = chunk
    if threads:
        n_threads = threads


def last_team():
    """Threads of the last step that was large enough to think of more than one."""
    return last_team_size


def is_fork_child():
    return bool(fo_is_fork_child)


# ---------------------------------------------------------------------------------------------------- one parameter

cdef struct Work:
    span_t span
    block_t negate, couple, shrink      # NULL where the operation is not asked for
    char *p
    const char *g
    char *s[4]
    const char *h
    const int64_t *ids                  # rows to touch; NULL: all elements
    Py_ssize_t start                    # elements of work before this parameter's
    Py_ssize_t size                     # elements of work, now
    Py_ssize_t width                    # elements in a row
    int itemsize
    int n_states


cdef void update(const Work *w, Py_ssize_t n, char *p, const char *g, char *s0, char *s1, char *s2,
                 char *s3) noexcept nogil:
    # Block operations and span over n contiguous elements. The caller's gradient is never written.
    cdef char scratch[BLOCK * 8]
    cdef Py_ssize_t es = w.itemsize, at = 0, m
    cdef const char *h = w.h
    cdef const char *gb
    if w.negate == NULL and w.couple == NULL and w.shrink == NULL:
        w.span(n, p, g, s0, s1, s2, s3, h + SPAN * es)
        return
    while at < n:
        m = n - at if n - at < BLOCK else BLOCK
        gb = g + at * es
        if w.negate != NULL:
            w.negate(m, scratch, gb, h)
            gb = scratch
        if w.couple != NULL:
            if gb != scratch:
                memcpy(scratch, gb, m * es)
                gb = scratch
            w.couple(m, scratch, p + at * es, h + COUPLE * es)
        if w.shrink != NULL:
            w.shrink(m, p + at * es, NULL, h + SHRINK * es)
        w.span(m, p + at * es, gb, s0 + at * es, s1 + at * es, s2 + at * es, s3 + at * es, h + SPAN * es)
        at += m


cdef inline char *state(const Work *w, int k, Py_ssize_t offset) noexcept nogil:
    # Spans that do not use a state get the address of one that exists: never a pointer out of nowhere.
    return w.s[k] + offset if k < w.n_states else w.p + offset


cdef void dense(const Work *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t at = begin * w.itemsize
    update(w, end - begin, w.p + at, w.g + at, state(w, 0, at), state(w, 1, at), state(w, 2, at), state(w, 3, at))


cdef void prefetch_row(const Work *w, Py_ssize_t at, Py_ssize_t nbytes) noexcept nogil:
    cdef Py_ssize_t line
    cdef int k
    for line in range(0, nbytes, 64):
        FO_PREFETCH(w.p + at + line)
        for k in range(w.n_states):
            FO_PREFETCH(w.s[k] + at + line)


cdef void rows(const Work *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # Whole rows, each of them contiguous: one call of the span a row.
    cdef Py_ssize_t row = w.width * w.itemsize, at, r
    cdef Py_ssize_t ahead = 4096 // (row * (1 + w.n_states)) + 1
    ahead = 32 if ahead > 32 else ahead
    for r in range(begin, end):
        if r + ahead < end:
            prefetch_row(w, w.ids[r + ahead] * row, row)
        at = w.ids[r] * row
        update(w, w.width, w.p + at, w.g + r * row, state(w, 0, at), state(w, 1, at), state(w, 2, at), state(w, 3, at))


cdef void move_rows(char *block, char *base, const int64_t *ids, Py_ssize_t n, Py_ssize_t row, bint out) noexcept nogil:
    cdef Py_ssize_t j
    if row == 4:
        if out:
            for j in range(n):
                (<uint32_t *>base)[ids[j]] = (<uint32_t *>block)[j]
        else:
            for j in range(n):
                (<uint32_t *>block)[j] = (<uint32_t *>base)[ids[j]]
    elif row == 8:
        if out:
            for j in range(n):
                (<uint64_t *>base)[ids[j]] = (<uint64_t *>block)[j]
        else:
            for j in range(n):
                (<uint64_t *>block)[j] = (<uint64_t *>base)[ids[j]]
    else:
        for j in range(n):
            if out:
                memcpy(base + ids[j] * row, block + j * row, row)
            else:
                memcpy(block + j * row, base + ids[j] * row, row)


cdef void elements(const Work *w, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # Single elements, and rows too narrow for a span of their own: gathered into a block, updated, scattered back.
    cdef char block[5][GATHER * 8]
    cdef Py_ssize_t row = w.width * w.itemsize, step = GATHER // w.width, r = begin, m, j, next_end
    cdef int k
    while r < end:
        m = end - r if end - r < step else step
        next_end = r + 2 * m if r + 2 * m < end else end
        for j in range(r + m, next_end):
            prefetch_row(w, w.ids[j] * row, row)
        move_rows(block[0], w.p, w.ids + r, m, row, False)
        for k in range(w.n_states):
            move_rows(block[1 + k], w.s[k], w.ids + r, m, row, False)
        update(w, m * w.width, block[0], w.g + r * row, block[1], block[2], block[3], block[4])
        move_rows(block[0], w.p, w.ids + r, m, row, True)
        for k in range(w.n_states):
            move_rows(block[1 + k], w.s[k], w.ids + r, m, row, True)
        r += m


# ------------------------------------------------------------------------------------------------- all parameters

cdef void walk(const Work *w, Py_ssize_t count, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    # Elements begin..end of the whole sequence. A row belongs to the range that holds its first element.
    cdef Py_ssize_t low = 0, high = count, mid, a, b
    while low < high:
        mid = (low + high) // 2
        if w[mid].start + w[mid].size <= begin:
            low = mid + 1
        else:
            high = mid
    while low < count and w[low].start < end:
        a = begin - w[low].start if begin > w[low].start else 0
        b = end - w[low].start if end - w[low].start < w[low].size else w[low].size
        if b > a:
            if w[low].ids == NULL:
                dense(&w[low], a, b)
            else:
                a = (a + w[low].width - 1) // w[low].width
                b = (b + w[low].width - 1) // w[low].width
                if w[low].width <= 16:
                    elements(&w[low], a, b)
                else:
                    rows(&w[low], a, b)
        low += 1


cdef void share(const Work *w, Py_ssize_t count, Py_ssize_t total, Py_ssize_t chunk, bint split, int k,
                int threads) noexcept nogil:
    # Thread k's part: a contiguous run of chunks, the same at every step.
    cdef Py_ssize_t chunks = (total + chunk - 1) // chunk, first, last, c
    cdef fo_fpenv saved = fo_fp_enter()
    first = chunks // threads * k + chunks % threads * k // threads
    last = chunks // threads * (k + 1) + chunks % threads * (k + 1) // threads
    if split:
        for c in range(first, last):
            walk(w, count, c * chunk, (c + 1) * chunk if (c + 1) * chunk < total else total)
    elif first < last:
        walk(w, count, first * chunk, last * chunk if last * chunk < total else total)
    fo_fp_leave(saved)


cdef void run(const Work *w, Py_ssize_t count, Py_ssize_t total, int threads) noexcept nogil:
    cdef Py_ssize_t chunk = forced_chunk if forced_chunk else 4096
    cdef bint split = forced_chunk != 0
    cdef int k = 0
    if threads == 1:
        share(w, count, total, chunk, split, 0, 1)
    else:
        # Not prange, which waits at a barrier before it begins. OpenMP may give fewer threads than asked for.
        with parallel(num_threads=threads):
            k = threadid()
            while k < threads:
                share(w, count, total, chunk, split, k, threads)
                k = k + fo_team_size()


cdef int team(Py_ssize_t total, int wanted) noexcept:
    global last_team_size
    if total < serial_below:
        return 1
    last_team_size = wanted if wanted and not forced_chunk else n_threads
    if fo_is_fork_child or not FO_OPENMP:
        last_team_size = 1
    return last_team_size


# ------------------------------------------------------------------------------------------------------- the plan

cdef struct Param:
    int group
    int clock
    int ndim
    Py_ssize_t *shape                   # shape, then strides
    Py_ssize_t n                        # elements
    int64_t counter                     # steps made
    int64_t born                        # counter when the state was made
    const char *own                     # gradient that the optimizer owns, or NULL
    uintptr_t gap_low, gap_high         # free memory in which the last gradient lay


cdef struct Clock:
    int group
    int itemsize
    int64_t lag, born                   # steps of the optimizer that the parameter has missed
    int64_t first, last                 # global steps that the table covers
    Py_ssize_t stride                   # bytes between its rows; 0: one row for ever
    const char *rows


cdef struct Group:
    span_t span[2]                      # float32, float64
    bint negate, couple, shrink
    int n_states


cdef class Plan:
    """The compiled step of one optimizer.

    `host` is the optimizer. Whatever is out of the ordinary is asked of it: it explains what is wrong with an argument
    by raising, converts what can be converted, and makes tables of scalars. All of that happens before the first write.
    """
    cdef object host, names, ndarray
    cdef list params
    cdef Work *work
    cdef Param *param
    cdef Group *group
    cdef Clock *clock
    cdef View *views
    cdef uintptr_t *low
    cdef uintptr_t *high
    cdef Py_ssize_t count, n_taken
    cdef int n_clocks, most_clocks, window, n_threads
    cdef readonly bint busy
    cdef readonly int64_t steps
    cdef bint mapping, single
    cdef list tables
    cdef list dtypes
    cdef list held                      # what a step uses must live until its end
    cdef block_t ops[2][3]

    def __cinit__(self, host, ndarray, params, names, bint single, Py_ssize_t n_groups, int n_threads, int64_t steps):
        self.host, self.ndarray, self.params, self.names = host, ndarray, list(params), names
        self.single, self.mapping, self.n_threads, self.steps = single, names is not None, n_threads, steps
        self.count = len(self.params)
        self.work = <Work *>PyMem_Calloc(self.count, sizeof(Work))
        self.param = <Param *>PyMem_Calloc(self.count, sizeof(Param))
        self.group = <Group *>PyMem_Calloc(n_groups, sizeof(Group))
        self.views = <View *>PyMem_Calloc(2 * self.count, sizeof(View))
        # A parameter needs one table at a time; the rest are those of times gone by.
        self.most_clocks = 2 * self.count + 16
        self.clock = <Clock *>PyMem_Calloc(self.most_clocks, sizeof(Clock))
        self.low = <uintptr_t *>PyMem_Calloc(5 * self.count + 2, sizeof(uintptr_t))
        self.high = <uintptr_t *>PyMem_Calloc(5 * self.count + 2, sizeof(uintptr_t))
        if not (self.work and self.param and self.group and self.views and self.low and self.high and self.clock):
            raise MemoryError
        self.tables, self.held, self.window = [], [], 1
        self.dtypes = [a.dtype for a in self.params]

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.param:
            for i in range(self.count):
                PyMem_Free(self.param[i].shape)
        PyMem_Free(self.work)
        PyMem_Free(self.param)
        PyMem_Free(self.group)
        PyMem_Free(self.clock)
        PyMem_Free(self.views)
        PyMem_Free(self.low)
        PyMem_Free(self.high)

    # ------------------------------------------------------------------ set-up, by the host

    def set_group(self, int q, str span, int n_states, bint negate, bint couple, bint shrink, table):
        """What the options of group q decide; `table` has the addresses of the chosen build, by dtype."""
        cdef Group *r = &self.group[q]
        cdef size_t at
        cdef int d
        for d in range(2):
            addresses = table["float64" if d else "float32"]
            at = addresses[span]
            r.span[d] = <span_t><void *>at
            at = addresses["block_negate"]
            self.ops[d][0] = <block_t><void *>at
            at = addresses["block_couple"]
            self.ops[d][1] = <block_t><void *>at
            at = addresses["block_shrink"]
            self.ops[d][2] = <block_t><void *>at
        r.n_states, r.negate, r.couple, r.shrink = n_states, negate, couple, shrink

    def set_param(self, Py_ssize_t i, int group, size_t address, int itemsize, shape, strides, states,
                  int64_t counter, int64_t born):
        """Layout and state of parameter i; `states` are addresses."""
        cdef Param *q = &self.param[i]
        cdef Work *w = &self.work[i]
        cdef int k
        cdef size_t at
        if q.shape == NULL:
            q.ndim = len(shape)
            q.shape = <Py_ssize_t *>PyMem_Calloc(2 * q.ndim + 1, sizeof(Py_ssize_t))
            if q.shape == NULL:
                raise MemoryError
        q.n = 1
        for k in range(q.ndim):
            q.shape[k], q.shape[q.ndim + k] = shape[k], strides[k]
            q.n *= q.shape[k]
        q.group, q.counter, q.born, q.clock = group, counter, born, -1
        w.p, w.itemsize = <char *>address, itemsize
        w.width = q.n // q.shape[0] if q.ndim and q.shape[0] else 1
        for k in range(4):
            at = states[k] if k < len(states) else 0
            w.s[k] = <char *>at

    def set_taken(self, ranges):
        """Memory that gradients must not lie in: sorted pairs (first byte, byte after the last)."""
        cdef Py_ssize_t k = 0
        self.low[0] = self.high[0] = 0
        for a, b in ranges:
            k += 1
            self.low[k], self.high[k] = a, b
        self.low[k + 1] = self.high[k + 1] = <uintptr_t>-1
        self.n_taken = k + 2
        for k in range(self.count):
            self.param[k].gap_low = self.param[k].gap_high = 0

    def set_own(self, addresses):
        cdef Py_ssize_t i
        cdef size_t address
        for i in range(self.count):
            address = addresses[i]
            self.param[i].own = <const char *>address

    def forget_scalars(self):
        """Hyper-parameters changed: the tables made so far are wrong."""
        cdef Py_ssize_t i
        self.n_clocks, self.window = 0, 1
        self.tables = []
        for i in range(self.count):
            self.param[i].clock = -1

    def counters(self):
        cdef Py_ssize_t i
        return [self.param[i].counter for i in range(self.count)]

    def borns(self):
        cdef Py_ssize_t i
        return [self.param[i].born for i in range(self.count)]

    def hold(self, bint on):
        """Keep steps out while the host reads or changes what they work on."""
        if on and self.busy:
            self.host._explain_busy()
        self.busy = on

    # ------------------------------------------------------------------ scalars

    cdef int find_clock(self, Py_ssize_t i, int64_t now) except -1:
        # The table of scalars for parameter i at global step `now`.
        cdef Param *q = &self.param[i]
        cdef Clock *c
        cdef int k, itemsize = self.work[i].itemsize
        cdef int64_t lag = now - q.counter - 1
        cdef View view
        for k in range(self.n_clocks):
            c = &self.clock[k]
            if c.group == q.group and c.itemsize == itemsize and c.lag == lag and c.born == q.born:
                if c.first <= now <= c.last:
                    q.clock = k
                    return 0
                if c.last < now:
                    self.window = min(2 * self.window, WINDOW)
                break
        else:
            k = self.n_clocks
            if k == self.most_clocks:       # counters that drift apart: start again with what is needed now
                self.held.extend(self.tables)           # this step may be using them
                self.forget_scalars()
                k = 0
        table, for_ever = self.host._scalar_table(q.group, itemsize, now, self.window, lag, q.born)
        PyObject_GetBuffer(table, &view, PyBUF_STRIDES)
        c = &self.clock[k]
        c.group, c.itemsize, c.lag, c.born = q.group, itemsize, lag, q.born
        c.rows, c.first = <const char *>view.buf, now
        c.last = INT64_MAX if for_ever else now + view.shape[0] - 1
        c.stride = 0 if for_ever else view.strides[0]
        PyBuffer_Release(&view)
        if k == self.n_clocks:
            self.tables.append(table)
            self.n_clocks += 1
        else:
            self.held.append(self.tables[k])
            self.tables[k] = table
        q.clock = k
        return 0

    # ------------------------------------------------------------------ checks

    cdef bint in_free_memory(self, Param *q, uintptr_t a, uintptr_t b) noexcept:
        # Does [a, b) keep clear of every parameter and state? The gap found last time is tried first.
        cdef Py_ssize_t low = 0, high = self.n_taken - 1, mid
        if q.gap_low <= a and b <= q.gap_high:
            return True
        while high - low > 1:               # the last range that begins at or before a
            mid = (low + high) // 2
            if self.low[mid] <= a:
                low = mid
            else:
                high = mid
        q.gap_low, q.gap_high = self.high[low], self.low[high]
        return q.gap_low <= a and b <= q.gap_high

    cdef bint same_layout(self, Param *q, View *v, int itemsize) noexcept:
        cdef int k
        if v.ndim != q.ndim or v.itemsize != itemsize:
            return False
        if v.format != NULL and (v.format[0] != (c"f" if itemsize == 4 else c"d") or v.format[1] != 0):
            return False
        for k in range(v.ndim):
            if v.shape[k] != q.shape[k]:
                return False
        if q.n > 0:
            for k in range(v.ndim):
                if v.strides[k] != q.shape[q.ndim + k] and v.shape[k] > 1:
                    return False
        return True

    cdef bint get_buffer(self, object a, Py_ssize_t i, View *v, int flags) except -1:
        # NumPy composes the format anew at each request. It can be spared where the dtype is the object it was.
        if a.dtype is not self.dtypes[i]:
            flags |= PyBUF_FORMAT
        if try_buffer(a, v, flags) < 0:     # the host will find out why
            PyErr_Clear()
            v.obj = NULL
            return False
        return True

    cdef int take_param(self, Py_ssize_t i) except -1:
        cdef View *v = &self.views[2 * i]
        cdef Param *q = &self.param[i]
        if not (self.get_buffer(self.params[i], i, v, PyBUF_STRIDES | PyBUF_WRITABLE)
                and (v.buf == self.work[i].p or q.n == 0) and self.same_layout(q, v, self.work[i].itemsize)):
            self.host._explain_parameter(i)
        return 0

    cdef int take_grad(self, Py_ssize_t i, object g) except -1:
        # Sets the gradient of the work on parameter i, or asks the host to convert it or to say what is wrong with it.
        cdef View *v = &self.views[2 * i + 1]
        cdef Param *q = &self.param[i]
        cdef Work *w = &self.work[i]
        cdef View ids_view
        w.size, w.ids = q.n, NULL
        if type(g) is self.ndarray and self.get_buffer(g, i, v, PyBUF_STRIDES):
            if (self.same_layout(q, v, w.itemsize) and <uintptr_t>v.buf % w.itemsize == 0
                    and (q.n == 0 or self.in_free_memory(q, <uintptr_t>v.buf, <uintptr_t>v.buf + q.n * w.itemsize))):
                w.g = <const char *>v.buf
                return 0
            PyBuffer_Release(v)
        ids, values = self.host._convert_gradient(i, g)     # raises, or gives what can be used as it stands
        PyObject_GetBuffer(values, v, PyBUF_FORMAT | PyBUF_STRIDES)
        w.g = <const char *>v.buf
        if ids is not None:
            self.held.append(ids)
            w.size = v.len // w.itemsize
            PyObject_GetBuffer(ids, &ids_view, PyBUF_FORMAT)
            w.ids = <const int64_t *>ids_view.buf
            PyBuffer_Release(&ids_view)             # `held` keeps the array until the step is over
        return 0

    cdef int prepare(self, Py_ssize_t i, int64_t now) except -1:
        cdef Param *q = &self.param[i]
        cdef Work *w = &self.work[i]
        cdef Group *r = &self.group[q.group]
        cdef int d = w.itemsize == 8
        cdef Clock *c
        if q.clock < 0 or self.clock[q.clock].lag != now - q.counter - 1 or self.clock[q.clock].last < now:
            self.find_clock(i, now)
        c = &self.clock[q.clock]
        w.h = c.rows + (now - c.first) * c.stride
        w.span, w.n_states = r.span[d], r.n_states
        w.negate = self.ops[d][0] if r.negate else NULL
        w.couple = self.ops[d][1] if r.couple else NULL
        w.shrink = self.ops[d][2] if r.shrink else NULL
        return 0

    # ------------------------------------------------------------------ the step

    def step(self, grads, bint own=False):
        """One step. Everything is checked before anything is written."""
        cdef Py_ssize_t i, total = 0
        cdef int threads
        cdef int64_t now
        cdef tuple items = None
        cdef fo_fpenv saved
        if self.busy:
            self.host._explain_busy()
        self.busy = True
        saved = fo_fp_enter()               # for the scalars too, which the host derives
        try:
            now = self.steps + 1
            if not own:
                if self.single:
                    items = (grads,)
                else:
                    items = self.flat(grads)
            for i in range(self.count):
                self.work[i].start, self.work[i].size = total, 0
                if own:
                    self.work[i].g, self.work[i].size = self.param[i].own, self.param[i].n
                    self.work[i].ids = NULL
                else:
                    g = items[i]
                    if g is None:
                        continue
                    self.take_grad(i, g)
                self.take_param(i)
                self.prepare(i, now)
                total += self.work[i].size
            threads = team(total, self.n_threads)
            if total < HOLD_GIL and threads == 1:
                run(self.work, self.count, total, 1)
            elif total:
                with nogil:
                    run(self.work, self.count, total, threads)
            for i in range(self.count):
                if own or items[i] is not None:
                    self.param[i].counter += 1
            self.steps = now
        finally:
            for i in range(2 * self.count):
                if self.views[i].obj != NULL:
                    PyBuffer_Release(&self.views[i])
            if self.held:
                self.held = []
            self.busy = False
            fo_fp_leave(saved)

    cdef tuple flat(self, grads):
        if not self.mapping:
            if (type(grads) is list or type(grads) is tuple) and len(grads) == self.count:
                return tuple(grads)
        elif type(grads) is dict and len(<dict>grads) == self.count:
            found = []
            for name in self.names:
                if name not in <dict>grads:
                    break
                found.append((<dict>grads)[name])
            else:
                return tuple(found)
        return self.host._explain_structure(grads)


# --------------------------------------------------------------------------------------------------- samples of CSR

ctypedef fused real:
    float
    double

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
    const int32_t *order        # NULL: as they stand
    const char *h               # scalars of the first sample's step, span's own
    Py_ssize_t h_stride         # bytes to those of the next; 0: the same for all
    double scale, shrink        # a weight is its record's times the scale, which each step shrinks
    bint prefetch


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
        padded = (total + LANES - 1) // LANES * LANES
        memset(p + total, 0, LANES * sizeof(real))      # of fixed length: no loop, no branch
        memset(x + total, 0, LANES * sizeof(real))
        for q in range(m.n_states):
            memset(s + q * room + total, 0, LANES * sizeof(real))
        if m.prefetch and i + 2 < end:      # and while the blocks settle in the cache
            at = m.order[i + 2] if m.order != NULL else i + 2
            fetch_records(records, m.indices + m.indptr[at], m.indptr[at + 1] - m.indptr[at], m.stride)
        m.learn(padded, g, p, x, y[r], m.parameter)
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


cdef void train_share(const Samples *m, char *scratch, Py_ssize_t room, Py_ssize_t n, int itemsize, int k,
                      int threads, double *scale) noexcept nogil:
    cdef fo_fpenv saved = fo_fp_enter()
    cdef Py_ssize_t begin = n * k // threads, end = n * (k + 1) // threads
    if itemsize == 4:
        scale[0] = train[float](m, <float *>scratch, room, begin, end, k, threads)
    else:
        scale[0] = train[double](m, <double *>scratch, room, begin, end, k, threads)
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
            indices, data, y, order, Py_ssize_t n, Py_ssize_t longest, h, bint one_row, double scale, double shrink,
            int threads):
    """Train on `n` CSR rows in `order`; returns the scale of the weights afterwards.

    Rule-blind: `addresses` is the table of the chosen build, `span` and `loss` are names in it. Arrays are contiguous,
    of one dtype, and have been checked by the caller: indices in range and unique in their row, rows of at most
    `longest` entries. `h`: a row of scalars for each sample, or one for all. With more than one thread the records are
    shared without locks (Hogwild), and the scale shrinks at the end.
    """
    cdef Samples m
    cdef int k = 0, itemsize = data.itemsize
    cdef size_t at
    cdef Py_ssize_t room = (longest + 1 + 2 * LANES - 1) // LANES * LANES
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
    m.y, m.order = <const char *>buffer(y), <const int32_t *>buffer(order)
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
    with nogil:
        if threads == 1:
            train_share(&m, <char *>at, room, n, itemsize, 0, 1, ends)
        else:
            with parallel(num_threads=threads):
                k = threadid()
                while k < threads:
                    train_share(&m, <char *>at + k * own, room, n, itemsize, k, threads, ends + k)
                    k = k + fo_team_size()
    if threads == 1:
        scale = ends[0]
    else:
        for _i in range(n):
            scale = scale * shrink
    PyMem_Free(ends)
    PyMem_Free(scratch)
    return scale


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
