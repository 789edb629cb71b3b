# The drivers: they decide which elements meet a span, and know nothing of its rule. Compiled once, for the baseline;
# the spans are called through the addresses that the chosen build hands out. OpenMP lives here alone.

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cython.parallel cimport parallel, threadid
from libc.math cimport INFINITY, fabs, pow, sqrt
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

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
    enum:
        GATHER "FO_GATHER"              # elements gathered into one block
    void FO_PREFETCH(const void *at)
    void FO_PREFETCH_READ(const void *at)
    float fo_getf(const float *at)
    double fo_getd(const double *at)
    void fo_putf(float *at, float x)
    void fo_putd(double *at, double x)
    uint32_t fo_get32(const void *at)
    uint64_t fo_get64(const void *at)
    void fo_put64(void *at, uint64_t x)
    void fo_copy_shared(void *to, const void *source, size_t size)

cdef extern from "fo_records.h" nogil:
    enum:
        ROUND "FO_ROUND"                # entries of a row that are read at once
    void fo_fetch_found(uintptr_t *place, Py_ssize_t n, uintptr_t own)
    void fo_fetch_row(const int32_t *ids, const char *data, Py_ssize_t size, Py_ssize_t begin, Py_ssize_t end)
    void fo_gather_f(float *p, float *s, Py_ssize_t room, const float *records, const int32_t *ids, Py_ssize_t n,
                     Py_ssize_t stride, int n_states, float scale, int beyond)
    void fo_scatter_f(const float *p, const float *s, Py_ssize_t room, float *records, const int32_t *ids, Py_ssize_t n,
                      Py_ssize_t stride, int n_states, float scale)
    void fo_fetch_f(const float *records, const int32_t *ids, Py_ssize_t n, Py_ssize_t stride, int beyond)
    void fo_gather_found_f(float *p, float *s, Py_ssize_t room, float **place, Py_ssize_t n, int n_states, float scale)
    void fo_scatter_found_f(const float *p, const float *s, Py_ssize_t room, float **place, Py_ssize_t n, int n_states,
                            float scale)
    void fo_gather_d(double *p, double *s, Py_ssize_t room, const double *records, const int32_t *ids, Py_ssize_t n,
                     Py_ssize_t stride, int n_states, double scale, int beyond)
    void fo_scatter_d(const double *p, const double *s, Py_ssize_t room, double *records, const int32_t *ids, Py_ssize_t n,
                      Py_ssize_t stride, int n_states, double scale)
    void fo_fetch_d(const double *records, const int32_t *ids, Py_ssize_t n, Py_ssize_t stride, int beyond)
    void fo_gather_found_d(double *p, double *s, Py_ssize_t room, double **place, Py_ssize_t n, int n_states, double scale)
    void fo_scatter_found_d(const double *p, const double *s, Py_ssize_t room, double **place, Py_ssize_t n, int n_states,
                            double scale)

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

cdef struct Draw:           # of what the noise of a step is a function, beside the element
    uint64_t step, seed

ctypedef void (*span_t)(Py_ssize_t n, void *p, const void *g, void *s0, void *s1, void *s2, void *s3,
                        const void *h) noexcept nogil
ctypedef void (*block_t)(Py_ssize_t n, void *out, const void *by, const void *h) noexcept nogil
ctypedef void (*mean_t)(Py_ssize_t n, void *m, void *p, const void *h) noexcept nogil
ctypedef void (*measure_t)(Py_ssize_t n, void *p, const void *g, void *s0, void *s1, void *s2, void *s3, const void *h,
                           double *acc) noexcept nogil
ctypedef void (*columns_t)(Py_ssize_t n, void *sums, const void *g, const void *h) noexcept nogil
ctypedef void (*noise_t)(Py_ssize_t n, void *d, uint64_t element, uint64_t which, const Draw *at,
                         const void *h) noexcept nogil
ctypedef void (*catch_t)(Py_ssize_t n, void *p, void *s0, void *s1, void *s2, void *s3, const void *scalars) noexcept nogil
ctypedef int (*stiff_t)(Py_ssize_t n, void *p, void *s0, void *s1, void *s2, void *s3, const void *scalars) noexcept nogil
ctypedef void (*job_t)(void *what, int k, int threads) noexcept nogil
ctypedef void (*places_t)(Py_ssize_t n, void *place, const int32_t *ids, int shift, const void *records, uintptr_t to_own,
                          int32_t hot) noexcept nogil
ctypedef double (*learn_t)(Py_ssize_t n, void *g, const void *p, const void *x, double y, double a,
                           double w) noexcept nogil
ctypedef double (*score_t)(Py_ssize_t n, const void *p, const void *x) noexcept nogil
ctypedef double (*slope_t)(double z, double y, double a) noexcept nogil
ctypedef void (*online_t)(Py_ssize_t n, void **states, const int64_t *indptr, const int32_t *indices, const void *data,
                          Py_ssize_t intercept, const double *y, const double *weight, void *out, double *sums,
                          void *scratch, Py_ssize_t room, double lr, int loss) noexcept nogil

cdef enum:
    BLOCK = 1024            # elements that the block operations keep in the first-level cache
    NARROW = 16             # rows of at most so many elements are gathered into blocks
    ROW_COST = 64           # what touching a row costs beside its elements, counted in elements of a dense step
    PAD = 16                # the scores pad to this: the lanes of a sum
    MEANS = 2               # averages of a parameter, at most
    MEASURES = 2            # sums over a block
    COUPLE = 0              # places of the block operations' scalars in h; the span's own begin at SPAN
    SHRINK = 1
    SPAN = 2
    HOLD_GIL = 16384        # below this many elements, letting go of the GIL costs more than it gives
    WINDOW = 1024           # rows of a table of scalars, at most

OPENMP = FO_OPENMP
fo_watch_fork()

cdef char empty[8]                      # where arrays without elements lie
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


cdef void together(job_t job, void *what, int threads) noexcept nogil:
    # job(what, k, threads) for each k below `threads`, by as many threads as OpenMP gives.
    cdef int k = 0
    if threads == 1:
        job(what, 0, 1)
    else:
        # Not prange, which waits at a barrier before it begins.
        with parallel(num_threads=threads):
            k = threadid()
            while k < threads:
                job(what, k, threads)
                k = k + fo_team_size()


cdef void in_step(job_t job, void *what, int threads) noexcept nogil:
    # job(what, k, n) for each k below n, at the same time, so that they may wait for each other; n: `threads`, or fewer.
    if threads == 1:
        job(what, 0, 1)
    else:
        with parallel(num_threads=threads):
            job(what, threadid(), fo_team_size())


cdef int team(Py_ssize_t total, int wanted) noexcept:
    global last_team_size
    if total < serial_below:
        return 1
    last_team_size = wanted if wanted and not forced_chunk else n_threads
    if fo_is_fork_child or not FO_OPENMP:
        last_team_size = 1
    return last_team_size


include "groups.pxi"
include "past.pxi"
include "walk.pxi"
include "measure.pxi"
include "samples.pxi"
include "abreast.pxi"
include "classes.pxi"
include "batches.pxi"
include "factors.pxi"
include "pairs.pxi"
include "predictions.pxi"

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
    Py_ssize_t h_bytes                  # of a row
    const char *gaps                    # the gap that each step leaves in untouched rows; NULL: not asked for
    Py_ssize_t gap_stride
    Py_ssize_t reach


cdef struct Group:
    span_t span[2]                      # float32, float64
    Law law[2]
    measure_t measure[2]
    bint negate, couple, shrink
    bint exact                          # rows that are not touched are caught up later
    bint moves                          # and there is something to catch up
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
    cdef Groups *groups
    cdef Past *past
    cdef Worker *workers
    cdef int n_workers
    cdef uint64_t tick
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
    cdef block_t ops[2][6]              # negate, couple, shrink, scale, clamp, multiply
    cdef measure_t norm[2][2]           # of what is given, and of what is clipped by value
    cdef columns_t columns[2]
    cdef noise_t noise[2]
    cdef Draw draw
    cdef mean_t mean[2][MEANS]
    cdef int n_groups, n_means
    cdef bint looks, measures           # at the norm of the gradients; for rules with sums
    cdef bint clamps, units, noisy      # clipping by value, of units; noise
    cdef double limit                   # of an element
    cdef double max_norm                # of a parameter; 0: none
    cdef double clipping, eps           # of units
    cdef double *unit_factors
    cdef Py_ssize_t unit_room
    cdef double *sums                   # of blocks, then of parameters
    cdef Py_ssize_t room

    def __cinit__(self, host, ndarray, params, names, bint single, Py_ssize_t n_groups, int n_threads, int64_t steps):
        self.host, self.ndarray, self.params, self.names = host, ndarray, list(params), names
        self.single, self.mapping, self.n_threads, self.steps = single, names is not None, n_threads, steps
        self.count, self.n_groups = len(self.params), <int>n_groups
        self.work = <Work *>PyMem_Calloc(self.count, sizeof(Work))
        self.param = <Param *>PyMem_Calloc(self.count, sizeof(Param))
        self.group = <Group *>PyMem_Calloc(n_groups, sizeof(Group))
        self.views = <View *>PyMem_Calloc(2 * self.count, sizeof(View))
        self.groups = <Groups *>PyMem_Calloc(self.count, sizeof(Groups))
        self.past = <Past *>PyMem_Calloc(self.count, sizeof(Past))
        # A parameter needs one table at a time; the rest are those of times gone by.
        self.most_clocks = 2 * self.count + 16
        self.clock = <Clock *>PyMem_Calloc(self.most_clocks, sizeof(Clock))
        self.low = <uintptr_t *>PyMem_Calloc((5 + MEANS) * self.count + 2, sizeof(uintptr_t))
        self.high = <uintptr_t *>PyMem_Calloc((5 + MEANS) * self.count + 2, sizeof(uintptr_t))
        if not (self.work and self.param and self.group and self.views and self.groups and self.past and self.low
                and self.high and self.clock):
            raise MemoryError
        self.tables, self.held, self.window = [], [], 1
        self.dtypes = [a.dtype for a in self.params]

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.param:
            for i in range(self.count):
                PyMem_Free(self.param[i].shape)
        if self.groups:
            for i in range(self.count):
                free_groups(&self.groups[i])
        if self.past:
            for i in range(self.count):
                forget(&self.past[i])
                if self.past[i].own:
                    PyMem_Free(self.past[i].last)
        for i in range(self.n_workers):
            free_worker(&self.workers[i])
        PyMem_Free(self.workers)
        PyMem_Free(self.sums)
        PyMem_Free(self.unit_factors)
        PyMem_Free(self.groups)
        PyMem_Free(self.past)
        PyMem_Free(self.work)
        PyMem_Free(self.param)
        PyMem_Free(self.group)
        PyMem_Free(self.clock)
        PyMem_Free(self.views)
        PyMem_Free(self.low)
        PyMem_Free(self.high)

    # ------------------------------------------------------------------ set-up, by the host

    def set_transforms(self, table, bint look, means, limit=None, max_norm=None, units=None, seed=None):
        """Whether the host wants to see the norm of all gradients before a step; the kernels of the averages; clipping by
        value and by the norm of each parameter; the two numbers of adaptive clipping; the seed of the noise."""
        cdef size_t at
        cdef int d, k
        self.looks, self.n_means = look, <int>len(means)
        self.clamps, self.units, self.noisy = limit is not None, units is not None, seed is not None
        self.limit, self.max_norm, self.draw.seed = limit or 0, max_norm or 0, seed or 0
        self.clipping, self.eps = units or (0, 0)
        for d in range(2):
            addresses = table["float64" if d else "float32"]
            for k in range(6):
                at = addresses[("block_negate", "block_couple", "block_shrink", "block_scale", "block_clamp",
                                "block_multiply")[k]]
                self.ops[d][k] = <block_t><void *>at
            at = addresses["measure_norm"]
            self.norm[0][d] = <measure_t><void *>at
            at = addresses["measure_clamped" if self.clamps else "measure_norm"]
            self.norm[1][d] = <measure_t><void *>at
            at = addresses["column_squares"]
            self.columns[d] = <columns_t><void *>at
            at = addresses["block_noise"]
            self.noise[d] = <noise_t><void *>at
            for k in range(self.n_means):
                at = addresses[f"mean_{means[k]}"]
                self.mean[d][k] = <mean_t><void *>at

    def set_units(self, Py_ssize_t i, int kind, Py_ssize_t count):
        """How the units of parameter i lie: 1, each a run of elements; 2, each every count-th element; 3, it is one."""
        cdef Work *w = &self.work[i]
        w.unit_kind, w.unit_count = kind, count
        w.unit_size = self.param[i].n // count if count else 0

    def set_group(self, int q, str span, int n_states, bint negate, bint couple, bint shrink, table, law, measure=None):
        """What the options of group q decide; `table` has the addresses of the chosen build, by dtype.

        `law`: None, or for exact sparse mode (name of the catch-up, number of decays, number of series terms or -1 for
        all that the build has, whether an untouched row changes at all). `measure`: the name of the sums that the rule
        needs, if any.
        """
        cdef Group *r = &self.group[q]
        cdef Law *w
        cdef size_t at
        cdef int d
        for d in range(2):
            addresses = table["float64" if d else "float32"]
            at = addresses[span]
            r.span[d] = <span_t><void *>at
            at = 0 if measure is None else addresses[f"measure_{measure}"]
            r.measure[d] = <measure_t><void *>at
            if law is not None:
                name, decays, series, _ = law
                w = &r.law[d]
                at = addresses[f"catch_{name}_row"]
                w.row = <catch_t><void *>at
                at = addresses[f"catch_{name}_each"]
                w.each = <catch_t><void *>at
                at = addresses.get(f"catch_{name}_stiff", 0)
                w.stiff = <stiff_t><void *>at
                at = addresses.get(f"catch_{name}_scalars", 0)
                w.derive = <derive_t><void *>at
                w.n_decays, w.n_series = decays, addresses["SERIES"] if series < 0 else series
                w.n_scalars = addresses.get(f"catch_{name}_count", 3 + w.n_decays + 2 * w.n_series)
        r.exact = law is not None
        r.moves = law is not None and law[3]
        r.n_states, r.negate, r.couple, r.shrink = n_states, negate, couple, shrink
        self.measures = False
        for d in range(self.n_groups):
            self.measures |= self.group[d].measure[0] != NULL

    def set_param(self, Py_ssize_t i, int group, size_t address, int itemsize, shape, strides, states,
                  int64_t counter, int64_t born, Py_ssize_t record=0, size_t last=0, means=()):
        """Layout and state of parameter i; `states` and `means` are addresses.

        `record`: 0, or where the rows of parameter and states lie side by side, the bytes that they take; `last`: the
        address of the first row's last step, if that lies there, too.
        """
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
        w.n_rows = q.shape[0] if q.ndim else 1
        w.width = q.n // w.n_rows if w.n_rows else 1
        w.pitch = w.stream = w.width * itemsize
        w.n_streams = 1 + <int>len(states)
        for k in range(4):
            at = states[k] if k < len(states) else 0
            w.s[k] = <char *>at
        for k in range(MEANS):
            at = means[k] if k < len(means) else 0
            w.m[k] = <char *>at
        if record:
            w.pitch, w.stream, w.n_streams = strides[0], record, 1
        if last:
            self.past[i].last, self.past[i].pitch, self.past[i].own = <char *>last, w.pitch, False

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
        table, for_ever, gaps, reach = self.host._scalar_table(q.group, itemsize, now, self.window, lag, q.born)
        PyObject_GetBuffer(table, &view, PyBUF_STRIDES)
        c = &self.clock[k]
        c.group, c.itemsize, c.lag, c.born = q.group, itemsize, lag, q.born
        c.rows, c.first = <const char *>view.buf, now
        c.last = INT64_MAX if for_ever else now + view.shape[0] - 1
        c.stride = 0 if for_ever else view.strides[0]
        c.h_bytes = view.shape[1] * itemsize
        PyBuffer_Release(&view)
        c.gaps, c.gap_stride, c.reach = NULL, 0, reach
        if gaps is not None:
            PyObject_GetBuffer(gaps, &view, PyBUF_STRIDES)
            c.gaps, c.gap_stride = <const char *>view.buf, 0 if for_ever else view.strides[0]
            PyBuffer_Release(&view)
            table = (table, gaps)
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
        cdef Py_ssize_t expected
        w.size, w.rows, w.columns, w.bags, w.scales = q.n, NULL, NULL, NULL, NULL
        if type(g) is self.ndarray and w.pitch == w.width * w.itemsize and self.get_buffer(g, i, v, PyBUF_STRIDES):
            if (self.same_layout(q, v, w.itemsize) and <uintptr_t>v.buf % w.itemsize == 0
                    and (q.n == 0 or self.in_free_memory(q, <uintptr_t>v.buf, <uintptr_t>v.buf + q.n * w.itemsize))):
                w.g = <const char *>v.buf
                return 0
            PyBuffer_Release(v)
        ids = None
        converted = self.host._convert_gradient(i, g)       # raises, or gives what can be used as it stands
        if isinstance(converted, tuple):
            ids, values, columns, bags, scales, duplicates = converted
            self.take_rows(i, ids, ASCENDING if self.looks or self.measures else BY_ROW, False)
            if duplicates != "sum" and self.groups[i].repeated:
                self.host._explain_rows(i, ids, duplicates, False)
            w.size = self.groups[i].n * w.width
            if columns is not None:
                w.columns = <const int64_t *>self.address_of(columns)
            if bags is not None:
                w.bags = <const int64_t *>self.address_of(bags)
            if scales is not None:
                w.scales = <const char *>self.address_of(scales)
        else:
            values = converted
        PyObject_GetBuffer(values, v, PyBUF_FORMAT | PyBUF_STRIDES)
        w.g = <const char *>v.buf
        # As many values as indices, whatever happened to the caller's arrays since they were looked at.
        if w.rows == NULL:
            expected = q.n
        else:
            expected = w.rows.n * (1 if w.columns != NULL else w.width)
        if w.bags == NULL and v.len != expected * w.itemsize:
            self.take_param(i)              # or is it the parameter that changed?
            self.host._explain_rows(i, ids, "sum", False)
        return 0

    cdef void *address_of(self, object a) except NULL:
        # Of an array of our own, which `held` keeps until the step is over.
        cdef View view
        self.held.append(a)
        PyObject_GetBuffer(a, &view, PyBUF_STRIDES)
        PyBuffer_Release(&view)
        return view.buf if view.buf != NULL else &empty

    cdef int take_rows(self, Py_ssize_t i, object ids, int sort, bint reading) except -1:
        # Reads and checks row indices, once: groups of keys for the work on parameter i.
        cdef Work *w = &self.work[i]
        cdef Groups *q = &self.groups[i]
        cdef View v
        cdef Py_ssize_t bad
        cdef int threads
        PyObject_GetBuffer(ids, &v, PyBUF_STRIDES)
        try:
            if v.ndim != 1 or v.itemsize != 4 and v.itemsize != 8:
                self.host._explain_rows(i, ids, "sum", reading)
            threads = team(v.shape[0] * KEY_COST, self.n_threads)
            if bits_of(w.n_rows) + bits_of(v.shape[0]) > 64:
                self.host._explain_size(i, v.shape[0])
            room_for_keys(q, v.shape[0], w.n_rows, threads)
            if q.n < HOLD_GIL:
                bad = group_keys(q, <const char *>v.buf, <int>v.itemsize, sort, threads)
            else:
                with nogil:
                    bad = group_keys(q, <const char *>v.buf, <int>v.itemsize, sort, threads)
        finally:
            PyBuffer_Release(&v)
        if bad >= 0:
            self.host._explain_rows(i, ids, "sum", reading)
        w.rows = q
        return 0

    # ------------------------------------------------------------------ what is to be done

    cdef int prepare(self, Py_ssize_t i, int64_t now) except -1:
        cdef Param *q = &self.param[i]
        cdef Work *w = &self.work[i]
        cdef Group *r = &self.group[q.group]
        cdef Past *past = &self.past[i]
        cdef Law *law
        cdef int d = w.itemsize == 8
        cdef Clock *c
        if q.clock < 0 or self.clock[q.clock].lag != now - q.counter - 1 or self.clock[q.clock].last < now:
            self.find_clock(i, now)
        c = &self.clock[q.clock]
        w.h = c.rows + (now - c.first) * c.stride
        w.span, w.n_states, w.past = r.span[d], r.n_states, NULL
        w.negate = self.ops[d][0] if r.negate else NULL
        w.couple = self.ops[d][1] if r.couple else NULL
        w.shrink = self.ops[d][2] if r.shrink else NULL
        w.scale, w.measure, w.n_means = NULL, r.measure[d], self.n_means
        w.clamp, w.units, w.noise = NULL, 0, NULL
        if self.clamps:
            w.clamp = self.ops[d][4]
            self.put_factors(w, self.limit, -1 if r.negate else 1)
        if self.noisy:
            w.noise, w.draw, w.which = self.noise[d], &self.draw, i
        if r.exact and q.n and (past.now or (r.moves and w.rows != NULL)):
            law = &r.law[d]
            if past.last == NULL:
                past.last = <char *>PyMem_Calloc(w.n_rows, sizeof(int32_t))
                if past.last == NULL:
                    raise MemoryError
                past.own, past.pitch = True, sizeof(int32_t)
            room_for_step(past, law, c.h_bytes if law.stiff else 0)
            w.reach = max(past.reach, c.reach)
            w.gap = <const double *>(c.gaps + (now - c.first) * c.gap_stride)
            self.catch_up_work(i)
        return 0

    cdef void catch_up_work(self, Py_ssize_t i) noexcept:
        # Have the work on parameter i catch up what its rows have missed.
        cdef Work *w = &self.work[i]
        cdef Group *r = &self.group[self.param[i].group]
        cdef int d = w.itemsize == 8
        w.past, w.law = &self.past[i], &r.law[d]
        w.replay_span, w.replay_shrink = r.span[d], self.ops[d][2]
        self.tick += 1
        w.past.tick = self.tick

    cdef int hire(self, int threads) except -1:
        # Memory that each thread needs for itself in the work that is prepared.
        cdef Py_ssize_t i, widest = 0, longest = 0, memory = 0
        cdef Worker *grown
        cdef Work *w
        cdef int k
        for i in range(self.count):
            w = &self.work[i]
            if w.size and (w.rows != NULL or w.past != NULL):
                widest = max(widest, w.width * w.itemsize)
                if w.past != NULL:
                    longest = max(longest, w.past.now + 1)
                    memory = max(memory, (w.past.now + 1) * w.law.n_scalars * w.itemsize)
        if threads > self.n_workers:
            grown = <Worker *>PyMem_Realloc(self.workers, threads * sizeof(Worker))
            if grown == NULL:
                raise MemoryError
            memset(grown + self.n_workers, 0, (threads - self.n_workers) * sizeof(Worker))
            self.workers, self.n_workers = grown, threads
        for k in range(threads):
            equip(&self.workers[k], widest, longest, memory)
        return 0

    # ------------------------------------------------------------------ the step

    def step(self, grads, bint own=False):
        """One step. Everything is checked before anything is written."""
        cdef Py_ssize_t i, total = 0, effort = 0
        cdef int threads
        cdef bint full = False
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
                self.work[i].start, self.work[i].size, self.work[i].touched = total, 0, False
                if own:
                    self.work[i].g, self.work[i].size = self.param[i].own, self.param[i].n
                    self.work[i].rows = NULL
                else:
                    g = items[i]
                    if g is None:
                        continue
                    self.take_grad(i, g)
                self.take_param(i)
                self.work[i].touched = True
                self.prepare(i, now)
                total += self.work[i].size
                effort += self.effort(i)
            threads = team(effort, self.n_threads)
            if self.looks or self.measures:
                self.hire(threads)
            if self.looks and not self.look(threads):
                return                      # without this step
            if self.units:
                self.take_units(threads)
            if self.noisy:
                self.take_noise(now)
            if self.n_means:
                self.take_means(now)
            if self.measures:
                self.derive(now, threads)
            self.go(total, effort, threads)
            for i in range(self.count):
                if own or items[i] is not None:
                    self.param[i].counter += 1
                    full |= self.remember_step(i)
            self.steps = now
            if full:
                self.make_room()
        finally:
            self.let_go()
            self.busy = False
            fo_fp_leave(saved)

    cdef double *survey(self, int kind, int threads) except NULL:
        # MEASURES sums for each parameter.
        cdef Survey q
        cdef Py_ssize_t i
        cdef int d
        q.work, q.workers, q.count, q.blocks, q.kind = self.work, self.workers, self.count, 0, kind
        for d in range(2):
            q.norm[d] = NULL if kind == OWN else self.norm[kind == GIVEN][d]
        for i in range(self.count):
            q.blocks += blocks_of(&self.work[i], kind)
        if (q.blocks + self.count) * MEASURES > self.room or self.sums == NULL:
            PyMem_Free(self.sums)
            self.room = (q.blocks + self.count) * MEASURES
            self.sums = <double *>PyMem_Malloc(self.room * sizeof(double) + 8)
            if self.sums == NULL:
                self.room = 0
                raise MemoryError
        q.sums = self.sums + self.count * MEASURES
        if q.blocks * BLOCK < HOLD_GIL and threads == 1:
            survey(&q, self.sums, 1)
        else:
            with nogil:
                survey(&q, self.sums, threads)
        return self.sums

    cdef void put_factors(self, Work *w, double limit, double factor) noexcept:
        if w.itemsize == 4:
            (<float *>w.factors)[0], (<float *>w.factors)[1] = <float>limit, <float>factor
        else:
            w.factors[0], w.factors[1] = limit, factor

    cdef void scale_by(self, Py_ssize_t i, double factor) noexcept:
        # The gradient of parameter i in this step.
        cdef Work *w = &self.work[i]
        if factor != 1:
            self.put_factors(w, self.limit, -factor if self.group[self.param[i].group].negate else factor)
            w.scale = self.ops[w.itemsize == 8][3]

    cdef bint look(self, int threads) except -1:
        # Show the host the norm of the gradients. False: there is to be no step; else they are scaled as it says.
        cdef double *totals = self.survey(GIVEN, threads)
        cdef double squares = 0, factor
        cdef Py_ssize_t i, bad = -1
        for i in range(self.count):
            if self.work[i].size:
                squares = squares + totals[i * MEASURES]
                if totals[i * MEASURES + 1] != 0 and bad < 0:       # or NaN
                    bad = i
        found = self.host._look(squares, bad)
        if found is None:
            return False
        factor = found
        for i in range(self.count):
            if self.work[i].size:
                if self.max_norm:
                    factor = self.max_norm / (sqrt(totals[i * MEASURES]) + 1e-6)
                    factor = 1 if factor > 1 else factor            # NaN stays
                self.scale_by(i, factor)
        return True

    cdef int take_units(self, int threads) except -1:
        # The factors of adaptive clipping; `sums` are those of the gradients.
        cdef Units q
        cdef Work *w
        cdef Py_ssize_t i, room = 0, effort = 0
        cdef int d
        cdef double *totals
        cdef double *given
        q.work, q.workers, q.count, q.clipping, q.eps = self.work, self.workers, self.count, self.clipping, self.eps
        for d in range(2):
            q.given[d], q.norm[d], q.columns[d] = self.norm[1][d], self.norm[0][d], self.columns[d]
        for i in range(self.count):
            w = &self.work[i]
            w.units = w.unit_kind if w.size and w.unit_kind != ONE_UNIT else 0
            room += 1 if w.unit_kind == ONE_UNIT else w.unit_count
        if room > self.unit_room:
            PyMem_Free(self.unit_factors)
            self.unit_factors = <double *>PyMem_Malloc(room * sizeof(double))
            self.unit_room = room if self.unit_factors else 0
            if self.unit_factors == NULL:
                raise MemoryError
        room = 0
        for i in range(self.count):
            w = &self.work[i]
            w.unit_factors = <char *>(self.unit_factors + room)
            if w.unit_kind == ONE_UNIT:     # what was found of its gradient, before the sums are taken anew
                (<double *>w.unit_factors)[0] = self.sums[i * MEASURES]
            d = w.itemsize == 8
            w.rescale, w.multiply = self.ops[d][2], self.ops[d][5]
            room += 1 if w.unit_kind == ONE_UNIT else w.unit_count
            effort += w.size if w.units else 0
        totals = self.survey(WHOLE, threads)
        for i in range(self.count):
            w = &self.work[i]
            if w.size and w.unit_kind == ONE_UNIT:
                given = <double *>w.unit_factors
                self.scale_by(i, unit_factor(&q, given[0], totals[i * MEASURES]))
        if effort < HOLD_GIL and threads == 1:
            together(units_share, &q, 1)
        else:
            with nogil:
                together(units_share, &q, threads)
        return 0

    cdef int take_noise(self, int64_t now) except -1:
        # How much of it there is in this step, and what it is a function of.
        cdef double sigma = self.host._sigma(now)
        cdef Py_ssize_t i
        self.draw.step = now - 1
        for i in range(self.count):
            if self.work[i].itemsize == 4:
                (<float *>&self.work[i].sigma)[0] = <float>sigma
            else:
                self.work[i].sigma = sigma
        return 0

    cdef int take_means(self, int64_t now) except -1:
        # The scalars of the averages, those that have a turn in this step.
        cdef Py_ssize_t i
        cdef int k
        cdef Work *w
        single, double, turns = self.host._mean_scalars(now)
        cdef char *of_float = <char *>self.address_of(single)
        cdef char *of_double = <char *>self.address_of(double)
        for k in range(self.n_means):
            for i in range(self.count):
                w = &self.work[i]
                w.mean[k] = self.mean[w.itemsize == 8][k] if turns[k] else NULL
                w.mean_h[k] = (of_double if w.itemsize == 8 else of_float) + 2 * k * w.itemsize
        return 0

    cdef int derive(self, int64_t now, int threads) except -1:
        # Scalars that hang on sums over parameter, gradient and states: the host makes them of what was measured.
        cdef double *totals
        cdef Py_ssize_t i
        cdef int q, j
        groups = []
        for q in range(self.n_groups):
            if self.group[q].measure[0] != NULL:
                where = [i for i in range(self.count) if self.param[i].group == q and self.work[i].touched]
                if where:
                    groups.append((q, where))
        for q, where in groups:
            self.take_rows_of_scalars(where, self.host._recall(q, where, now))
        totals = self.survey(OWN, threads)
        for q, where in groups:
            sums = [[totals[i * MEASURES + j] for j in range(MEASURES)] for i in where]
            self.take_rows_of_scalars(where, self.host._derive(q, where, sums))
        return 0

    cdef int take_rows_of_scalars(self, list where, list rows) except -1:
        cdef Py_ssize_t i
        for i, row in zip(where, rows):
            self.work[i].h = <const char *>self.address_of(row)
        return 0

    cdef Py_ssize_t effort(self, Py_ssize_t i) noexcept:
        # What the work on parameter i costs, counted in elements of a dense step.
        cdef Work *w = &self.work[i]
        return w.size + (w.rows.count * ROW_COST if w.rows != NULL else 0)

    cdef int go(self, Py_ssize_t total, Py_ssize_t effort, int threads) except -1:
        cdef Py_ssize_t i
        cdef Work *w
        if total:
            self.hire(threads)
            for i in range(self.count):
                w = &self.work[i]
                w.bare = (w.clamp == NULL and w.scale == NULL and w.negate == NULL and w.units == 0 and w.noise == NULL
                          and w.couple == NULL and w.shrink == NULL and w.n_means == 0)
            if effort < HOLD_GIL and threads == 1:
                run(self.work, self.workers, self.count, total, 1)
            else:
                with nogil:
                    run(self.work, self.workers, self.count, total, threads)
        return 0

    cdef void let_go(self) noexcept:
        cdef Py_ssize_t i
        for i in range(2 * self.count):
            if self.views[i].obj != NULL:
                PyBuffer_Release(&self.views[i])
        if self.held:
            self.held = []

    cdef bint remember_step(self, Py_ssize_t i) noexcept:
        # After the step: rows that it did not touch are one further behind. Is the memory full?
        cdef Work *w = &self.work[i]
        if w.past == NULL:
            return False
        if w.rows == NULL:                  # all rows were touched
            up_to_date(w.past, w.n_rows)
            return False
        remember(w.past, w.gap, w.h)
        w.past.reach = w.reach
        return w.past.now >= MOST_PAST

    cdef int make_room(self) except -1:
        # The step is made: should there be no memory for this now, there may be after the next.
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.past[i].now >= MOST_PAST and self.views[2 * i].obj != NULL:     # its memory was looked at in this step
                try:
                    self.catch_up_all(i)
                except MemoryError:
                    pass
        return 0

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

    # ------------------------------------------------------------------ exact mode: rows brought up to date

    cdef void alone(self, Py_ssize_t i, Py_ssize_t size) noexcept:
        # Let catching up `size` elements of parameter i be all the work there is.
        cdef Py_ssize_t k
        for k in range(self.count):
            self.work[k].start = 0 if k <= i else size
            self.work[k].size = size if k == i else 0
            self.work[k].past = NULL
        self.work[i].span, self.work[i].n_states = NULL, self.group[self.param[i].group].n_states
        self.work[i].n_means = 0
        self.catch_up_work(i)

    cdef int catch_up_all(self, Py_ssize_t i) except -1:
        cdef Work *w = &self.work[i]
        if self.past[i].now:
            w.rows = NULL
            self.alone(i, self.param[i].n)
            self.go(w.size, w.size, team(w.size, self.n_threads))
            up_to_date(w.past, w.n_rows)
        return 0

    def catch_up(self, Py_ssize_t i, rows=None):
        """Exact mode: bring rows of parameter i up to date, all of them where none are given."""
        cdef fo_fpenv saved = fo_fp_enter()
        try:
            self.take_param(i)
            if rows is None:
                self.catch_up_all(i)
            else:
                self.take_rows(i, rows, BY_ROW, True)
                self.catch_up_rows(i)
        finally:
            self.let_go()
            fo_fp_leave(saved)

    def read(self, Py_ssize_t i, rows, out):
        """Rows of parameter i into the contiguous array `out`; in exact mode they are brought up to date first."""
        cdef Work *w = &self.work[i]
        cdef Reading r
        cdef View v
        cdef int threads
        cdef fo_fpenv saved = fo_fp_enter()
        try:
            self.take_param(i)
            self.take_rows(i, rows, BY_ROW if self.past[i].now else AS_THEY_STAND, True)
            self.catch_up_rows(i)
            PyObject_GetBuffer(out, &v, PyBUF_STRIDES | PyBUF_WRITABLE)
            r.work, r.out = w, <char *>v.buf
            if v.len == w.rows.n * w.width * w.itemsize and v.len:
                threads = team(self.effort_of_reading(i), self.n_threads)
                with nogil:
                    together(read_rows_share, &r, threads)
            PyBuffer_Release(&v)
        finally:
            self.let_go()
            fo_fp_leave(saved)

    cdef int catch_up_rows(self, Py_ssize_t i) except -1:
        # Those that were taken.
        cdef Work *w = &self.work[i]
        cdef Py_ssize_t effort
        if self.past[i].now:
            self.alone(i, w.rows.n * w.width)
            effort = self.effort(i)
            self.go(w.size, effort, team(effort, self.n_threads))
        return 0

    cdef Py_ssize_t effort_of_reading(self, Py_ssize_t i) noexcept:
        return self.groups[i].n * (self.work[i].width + ROW_COST // 4)

# ---------------------------------------------------------------------------------- passes over whole rows and matrices

ctypedef void (*pass_t)(Py_ssize_t begin, Py_ssize_t end, const Py_ssize_t *sizes, void **arrays,
                        const void *h) noexcept nogil

cdef struct Pass:
    pass_t work
    Py_ssize_t items
    Py_ssize_t sizes[4]
    void *arrays[8]
    const void *h


cdef void pass_share(void *what, int k, int threads) noexcept nogil:
    cdef Pass *q = <Pass *>what
    cdef Py_ssize_t at = q.items * k // threads, end = q.items * (k + 1) // threads, stop
    cdef fo_fpenv saved = fo_fp_enter()
    while at < end:
        stop = min(at + forced_chunk, end) if forced_chunk else end
        q.work(at, stop, q.sizes, q.arrays, q.h)
        at = stop
    fo_fp_leave(saved)


def sweep(size_t address, Py_ssize_t items, Py_ssize_t effort, tuple sizes, tuple arrays, h, int n_threads):
    """Run a pass of the kernels over `items` items, which together cost as much as `effort` elements of a dense step.

    What the items, `sizes` (at most 4), `arrays` (at most 8, contiguous) and `h` are, the pass says; the caller has made sure
    that they fit.
    """
    cdef Pass q
    cdef View view
    cdef int k, threads
    q.work, q.items, q.h = <pass_t><void *>address, items, NULL
    if len(sizes) > 4 or len(arrays) > 8:
        raise ValueError("a pass has at most 4 sizes and 8 arrays")
    for k in range(<int>len(sizes)):
        q.sizes[k] = sizes[k]
    for k in range(<int>len(arrays) + (h is not None)):
        PyObject_GetBuffer(arrays[k] if k < len(arrays) else h, &view, PyBUF_STRIDES)
        if k < len(arrays):
            q.arrays[k] = view.buf
        else:
            q.h = view.buf
        PyBuffer_Release(&view)             # the caller holds the arrays
    threads = team(effort, n_threads)
    if effort < HOLD_GIL and threads == 1:
        together(pass_share, &q, 1)
    else:
        with nogil:
            together(pass_share, &q, threads)


def in_default_state(call):
    """The result of `call()`, made with the floating-point state that the kernels have."""
    cdef fo_fpenv saved = fo_fp_enter()
    try:
        return call()
    finally:
        fo_fp_leave(saved)
