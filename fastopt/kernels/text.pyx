# Text as rows of CSR, and hashes of bytes: what fo_text.h does, on arrays, without the interpreter's lock. Compiled once,
# for the baseline.

from libc.stdint cimport int32_t, int64_t, uint32_t

cdef extern from "fo_murmur.h" nogil:
    ctypedef struct fo_murmur:
        pass
    fo_murmur fo_murmur_begin(uint32_t seed)
    void fo_murmur_more(fo_murmur *m, const unsigned char *at, size_t n)
    uint32_t fo_murmur_end(const fo_murmur *m)

cdef extern from "fo_text.h" nogil:
    ctypedef int (*fo_slow_t)(const unsigned char *token, size_t n, double *x) noexcept nogil
    ctypedef struct fo_text:
        int form, is_double, signs, constant
        int64_t least, most
        uint32_t slots
        fo_slow_t slow
        double *labels
        double *weights
        int64_t *queries
        int64_t *indptr
        int32_t *indices
        int32_t *fields
        void *data
        int64_t row_room, entry_room
        int64_t rows, entries, lines, seen, unseen, lowest, highest
        int64_t at, begin "from", end "to"
        int expected
    int fo_parse(fo_text *t, const unsigned char *text, size_t n)
    enum:
        FO_LIBFFM, FO_VW


cdef int slow(const unsigned char *token, size_t n, double *x) noexcept with gil:
    """What `float` makes of it."""
    try:
        x[0] = float((<const char *>token)[:n])
    except (ValueError, MemoryError):
        return 0
    return 1


cdef class Parser:
    """A parser of one form of text, and how far it is. models/lines.py has the same in Python."""

    cdef fo_text t

    def __init__(self, int form, int64_t least, int64_t most, uint32_t slots, bint signs, bint constant):
        self.t.form, self.t.least, self.t.most = form, least, most
        self.t.slots, self.t.signs, self.t.constant = slots, signs, constant
        self.t.slow = slow
        self.restart()

    def restart(self):
        """Begin a new piece: no rows, no entries. Lines are counted on."""
        self.t.rows = self.t.entries = self.t.seen = self.t.unseen = self.t.highest = 0
        self.t.lowest = self.t.most

    @property
    def rows(self):
        return self.t.rows

    @property
    def entries(self):
        return self.t.entries

    @property
    def lines(self):
        return self.t.lines

    @property
    def queries(self):
        """Rows with a query, and rows without."""
        return self.t.seen, self.t.unseen

    @property
    def lowest(self):
        return self.t.lowest

    @property
    def highest(self):
        return self.t.highest

    @property
    def at(self):
        return self.t.at

    @property
    def wrong(self):
        """Of a bad line: the first byte in question, the byte after the last, and what should stand there."""
        return self.t.begin, self.t.end, self.t.expected

    def parse(
        self,
        const unsigned char[::1] text,
        Py_ssize_t start,
        Py_ssize_t stop,
        double[::1] labels,
        int64_t[::1] indptr,
        int32_t[::1] indices,
        data,
        double[::1] weights=None,
        int64_t[::1] queries=None,
        int32_t[::1] fields=None,
    ):
        """Parse the whole lines of ``text[start:stop]``: 0, or 1 where a row has no room, 2 an entry, 3 for a bad line."""
        cdef fo_text *t = &self.t
        cdef float[::1] singles = None
        cdef double[::1] doubles = None
        cdef int status = 0
        t.is_double = data.dtype.itemsize == 8
        t.row_room, t.entry_room = labels.shape[0], indices.shape[0]
        if t.is_double:
            doubles = data
            t.data = &doubles[0] if doubles.shape[0] else NULL
        else:
            singles = data
            t.data = &singles[0] if singles.shape[0] else NULL
        if not (
            0 <= start <= stop <= text.shape[0]
            and t.rows <= t.row_room == indptr.shape[0] - 1
            and t.entries <= t.entry_room == (doubles.shape[0] if t.is_double else singles.shape[0])
            and (t.form != FO_LIBFFM or fields is not None)
            and (weights is None or weights.shape[0] == t.row_room)
            and (queries is None or queries.shape[0] == t.row_room)
            and (fields is None or fields.shape[0] == t.entry_room)
        ):
            raise ValueError("the arrays do not fit each other")
        t.at = 0
        if start == stop:
            return 0
        t.labels = &labels[0] if t.row_room else NULL
        t.weights = &weights[0] if weights is not None and t.row_room else NULL
        t.queries = &queries[0] if queries is not None and t.row_room else NULL
        t.indptr = &indptr[0]
        t.indices = &indices[0] if t.entry_room else NULL
        t.fields = &fields[0] if fields is not None and t.entry_room else NULL
        with nogil:
            status = fo_parse(t, &text[start], <size_t>(stop - start))
        return status


def murmur(const unsigned char[::1] key, uint32_t seed=0):
    """MurmurHash3_x86_32 of some bytes."""
    cdef fo_murmur m = fo_murmur_begin(seed)
    if key.shape[0]:
        fo_murmur_more(&m, &key[0], <size_t>key.shape[0])
    return fo_murmur_end(&m)
