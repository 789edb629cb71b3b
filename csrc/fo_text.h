/* svmlight, libffm and Vowpal Wabbit text as rows of CSR. The text is any piece of memory; only its whole lines are parsed, those
   that end with a newline within it, so that every loop below has a byte to stop at and nothing after the text is read. Nothing is
   allocated: where the outputs have no room for a line, the caller makes some and calls again. A line counts as a whole or not
   at all. */
#ifndef FO_TEXT_H
#define FO_TEXT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "fo_murmur.h"
#include "fo_number.h"

enum { FO_SVMLIGHT, FO_LIBFFM, FO_VW };

/* Why the parser came back: no whole line is left, no room for a row or for its entries, a bad line. */
enum { FO_DONE, FO_ROWS_FULL, FO_ENTRIES_FULL, FO_BAD };

/* What a bad line should have had where it is bad. */
enum { FO_LABEL, FO_INDEX, FO_FIELD, FO_COLON, FO_VALUE, FO_RISING, FO_QUERY, FO_NAME, FO_BAR, FO_SCALE, FO_WEIGHT, FO_BASE };

/* What the fast way leaves: the n bytes at `token` as a number; 0 if they are none. */
typedef int (*fo_slow_t)(const unsigned char *token, size_t n, double *x);

typedef struct {
    /* What to read. */
    int form, is_double, signs, constant;   /* is_double: of data; signs and constant: VW */
    int64_t least, most;                    /* indices allowed */
    uint32_t slots;                         /* of VW */
    fo_slow_t slow;
    /* Outputs. `weights` is of VW, `queries` of svmlight, `fields` of libffm; the others may be NULL. */
    double *labels, *weights;
    int64_t *queries, *indptr;              /* indptr[0] is the caller's */
    int32_t *indices, *fields;
    void *data;
    int64_t row_room, entry_room;
    /* How far it is; all 0 at the start. `seen` and `unseen`: rows with and without a query. */
    int64_t rows, entries, lines, seen, unseen, lowest, highest;
    /* Where it came back: the bytes of the text that are done, whole lines; of a bad line the bytes in question, and FO_... */
    int64_t at, from, to;
    int expected;
} fo_text;

/* Bytes that end something. */
#define FO_BLANK 1
#define FO_NEWLINE 2
#define FO_HASH 4
#define FO_COLON_SIGN 8
#define FO_BAR_SIGN 16

static const unsigned char fo_ends[256] = {
    ['\t'] = FO_BLANK, ['\v'] = FO_BLANK, ['\f'] = FO_BLANK, ['\r'] = FO_BLANK, [' '] = FO_BLANK,
    ['\n'] = FO_NEWLINE, ['#'] = FO_HASH, [':'] = FO_COLON_SIGN, ['|'] = FO_BAR_SIGN,
};

#define FO_WORD (FO_BLANK | FO_NEWLINE | FO_HASH)           /* ends a word of svmlight and libffm, where '#' begins a comment */
#define FO_VW_WORD (FO_BLANK | FO_NEWLINE | FO_BAR_SIGN)    /* ends one of VW, where '#' is a letter */

static inline const unsigned char *fo_skip(const unsigned char *p) {
    while (fo_ends[*p] & FO_BLANK) p++;
    return p;
}

static inline const unsigned char *fo_until(const unsigned char *p, int kinds) {
    while (!(fo_ends[*p] & kinds)) p++;
    return p;
}

/* The line is bad from p to the end of the word. */
static inline int fo_bad(fo_text *t, const unsigned char *text, const unsigned char *p, int expected) {
    t->from = p - text;
    t->to = fo_until(p, FO_BLANK | FO_NEWLINE) - text;
    t->expected = expected;
    return FO_BAD;
}

/* A number that one of `kinds` ends; NULL if there is none. */
static inline const unsigned char *fo_value(
    fo_slow_t slow, const unsigned char *p, const unsigned char *end, int kinds, double *x
) {
    const unsigned char *next = fo_number(p, end, x);
    if (next != p && fo_ends[*next] & kinds) return next;
    next = fo_until(p, kinds);
    return next != p && slow(p, (size_t)(next - p), x) ? next : NULL;
}

/* An integer from `least` to `most`, which is below 2^31; NULL if there is none. */
static inline const unsigned char *fo_index(
    const unsigned char *p, const unsigned char *end, int64_t least, int64_t most, int64_t *index
) {
    const unsigned char *begin = p, *digit = p;
    uint64_t n = 0;
    p = fo_digits(p, end, &n);
    if (p - begin > 18) {       /* too many for `n`, unless there are zeros in front */
        for (n = 0; digit < p; digit++) if ((n = 10 * n + (*digit - '0')) > (uint64_t)most) return NULL;
    }
    *index = (int64_t)n;
    return p == begin || n < (uint64_t)least || n > (uint64_t)most ? NULL : p;
}

/* A signed integer of 64 bits that is the rest of a word; NULL if there is none. */
static inline const unsigned char *fo_long(const unsigned char *p, int64_t *x) {
    int negative = *p == '-';
    const unsigned char *begin = p += negative | (*p == '+');
    uint64_t n = 0, most = (uint64_t)INT64_MAX + (uint64_t)negative;
    for (; fo_is_digit(*p); p++) {
        uint64_t digit = (uint64_t)(*p - '0');
        if (n > (most - digit) / 10) return NULL;
        n = 10 * n + digit;
    }
    *x = (int64_t)(negative ? 0 - n : n);
    return p != begin && fo_ends[*p] & FO_WORD ? p : NULL;
}

static inline void fo_store(const fo_text *t, int64_t k, int64_t index, double x) {
    t->indices[k] = (int32_t)index;
    if (t->is_double) ((double *)t->data)[k] = x;
    else ((float *)t->data)[k] = (float)x;
}

/* One line of svmlight or libffm, from its first byte that is no blank; `at` and `entries` come back as what they are after it. */
static inline int fo_indexed_line(
    fo_text *t, int form, const unsigned char *text, const unsigned char **at, const unsigned char *end, int64_t *entries
) {
    const fo_slow_t slow = t->slow;
    const int64_t least = t->least, most = t->most, room = t->entry_room;
    const unsigned char *p = *at, *word = p;
    int64_t k = *entries, index, field, last = -1, query = 0, lowest = t->lowest, highest = t->highest;
    int has_query = 0;
    double x;
    if (t->rows == t->row_room) return FO_ROWS_FULL;
    if (!(p = fo_value(slow, p, end, FO_WORD, &x))) return fo_bad(t, text, word, FO_LABEL);
    t->labels[t->rows] = x;
    word = p = fo_skip(p);
    if (form == FO_SVMLIGHT && p[0] == 'q' && p[1] == 'i' && p[2] == 'd' && p[3] == ':') {
        has_query = 1;
        if (!(p = fo_long(p + 4, &query))) return fo_bad(t, text, word, FO_QUERY);
        p = fo_skip(p);
    }
    while (!(fo_ends[*p] & (FO_NEWLINE | FO_HASH))) {
        if (k == room) return FO_ENTRIES_FULL;
        word = p;
        if (form == FO_LIBFFM) {
            if (!(p = fo_index(p, end, 0, INT32_MAX, &field))) return fo_bad(t, text, word, FO_FIELD);
            if (*p != ':') return fo_bad(t, text, word, FO_COLON);
            t->fields[k] = (int32_t)field;
            word = ++p;
        }
        if (!(p = fo_index(p, end, least, most, &index))) return fo_bad(t, text, word, FO_INDEX);
        if (*p != ':') return fo_bad(t, text, word, FO_COLON);
        if (form == FO_SVMLIGHT && index <= last) return fo_bad(t, text, word, FO_RISING);
        word = ++p;
        if (!(p = fo_value(slow, p, end, FO_WORD, &x))) return fo_bad(t, text, word, FO_VALUE);
        fo_store(t, k++, index, x);
        last = index;
        lowest = index < lowest ? index : lowest;
        highest = index > highest ? index : highest;
        p = fo_skip(p);
    }
    if (t->queries) t->queries[t->rows] = query;
    t->seen += has_query, t->unseen += !has_query;
    t->lowest = lowest, t->highest = highest;
    *at = p, *entries = k;
    return FO_DONE;
}

static inline void fo_store_hashed(const fo_text *t, int64_t k, uint32_t slots, uint32_t hash, double x) {
    uint32_t size = hash >> 31 ? 0u - hash : hash;  /* the absolute value of the signed hash; 2^31 of -2^31 */
    fo_store(t, k, slots & (slots - 1) ? size % slots : size & (slots - 1), t->signs && hash >> 31 ? -x : x);
}

/* The hash of n bytes behind those of `space`. */
static inline uint32_t fo_hash(const fo_murmur *space, const unsigned char *p, size_t n) {
    fo_murmur m = *space;
    fo_murmur_more(&m, p, n);
    return fo_murmur_end(&m);
}

/* The byte after a name of VW, and its hash behind that of its space. */
static inline const unsigned char *fo_name(
    const unsigned char *p, const unsigned char *end, const fo_murmur *space, uint32_t *hash
) {
    const unsigned char *next;
    if (end - p >= 8) {
        const uint64_t ones = 0x0101010101010101u;
        uint64_t x = fo_eight(p), colon = x ^ ones * ':', bar = x ^ ones * '|';
        /* The high bit of bytes up to the blank, of colons and of bars; above the first of them it may be set in error. */
        uint64_t ends = (((x - ones * '!') & ~x) | ((colon - ones) & ~colon) | ((bar - ones) & ~bar)) & ones * 0x80;
        if (ends) {
            next = p + fo_bytes_before(ends);
            if (fo_ends[*next] & (FO_VW_WORD | FO_COLON_SIGN)) {    /* and no other control character */
                *hash = fo_hash(space, p, (size_t)(next - p));
                return next;
            }
        }
    }
    next = fo_until(p, FO_VW_WORD | FO_COLON_SIGN);
    *hash = fo_hash(space, p, (size_t)(next - p));
    return next;
}

/* One line of VW. */
static inline int fo_vw_line(
    fo_text *t, const unsigned char *text, const unsigned char **at, const unsigned char *end, int64_t *entries
) {
    static const unsigned char caret = '^', constant[] = {'C', 'o', 'n', 's', 't', 'a', 'n', 't'};
    static const int kinds[] = {FO_LABEL, FO_WEIGHT, FO_BASE};
    const fo_slow_t slow = t->slow;
    const int64_t room = t->entry_room;
    const uint32_t slots = t->slots;
    uint32_t hash;
    const unsigned char *p = *at, *word;
    int64_t k = *entries;
    double numbers[3] = {NAN, 1.0, 0.0}, scale, x;  /* label, importance, initial prediction */
    int n = 0;
    fo_murmur space, name;
    if (t->rows == t->row_room) return FO_ROWS_FULL;
    for (; *p != '|'; p = fo_skip(p)) {
        word = p;
        p = fo_until(p, FO_VW_WORD);
        if (p != word && (*p == '|' || *word == '\'')) {    /* a tag touches the bar or says so, and is the last word */
            word = p = fo_skip(p);
            if (*p == '|') break;
            return fo_bad(t, text, word, FO_BAR);
        }
        if (p == word || n == 3) return fo_bad(t, text, word, FO_BAR);
        if (!fo_value(slow, word, end, FO_VW_WORD, numbers + n)) return fo_bad(t, text, word, kinds[n]);
        if (n == 1 && !(numbers[1] >= 0.0 && numbers[1] < INFINITY)) return fo_bad(t, text, word, FO_WEIGHT);
        if (n == 2 && numbers[2] != 0.0) return fo_bad(t, text, word, FO_BASE);
        n++;
    }
    while (*p == '|') {
        space = fo_murmur_begin(0);
        word = ++p;
        p = fo_until(p, FO_VW_WORD | FO_COLON_SIGN);
        if (p != word) {
            fo_murmur_more(&space, word, (size_t)(p - word));
            fo_murmur_more(&space, &caret, 1);
        }
        scale = 1.0;
        if (*p == ':') {
            word = ++p;
            if (!(p = fo_value(slow, p, end, FO_VW_WORD, &scale))) return fo_bad(t, text, word, FO_SCALE);
        }
        for (p = fo_skip(p); !(fo_ends[*p] & (FO_BAR_SIGN | FO_NEWLINE)); p = fo_skip(p)) {
            if (k == room) return FO_ENTRIES_FULL;
            word = p;
            p = fo_name(p, end, &space, &hash);
            if (p == word) return fo_bad(t, text, word, FO_NAME);
            x = 1.0;
            if (*p == ':') {
                word = ++p;
                if (!(p = fo_value(slow, p, end, FO_VW_WORD, &x))) return fo_bad(t, text, word, FO_VALUE);
            }
            x *= scale;
            if (x != 0.0) fo_store_hashed(t, k++, slots, hash, x);
        }
    }
    if (t->constant) {
        if (k == room) return FO_ENTRIES_FULL;
        name = fo_murmur_begin(0);
        fo_murmur_more(&name, constant, sizeof constant);
        fo_store_hashed(t, k++, slots, fo_murmur_end(&name), 1.0);
    }
    t->labels[t->rows] = numbers[0];
    if (t->weights) t->weights[t->rows] = numbers[1];
    *at = p, *entries = k;
    return FO_DONE;
}

static inline int fo_parse_form(fo_text *t, int form, const unsigned char *text, size_t n) {
    const unsigned char *p = text, *end = text + n;
    while (end > text && end[-1] != '\n') end--;
    for (t->at = 0; p < end; t->at = ++p - text) {
        int64_t entries = t->entries;
        int status = FO_DONE;
        p = fo_skip(p);
        if (!(fo_ends[*p] & (form == FO_VW ? FO_NEWLINE : FO_NEWLINE | FO_HASH))) {
            status = form == FO_VW ? fo_vw_line(t, text, &p, end, &entries) : fo_indexed_line(t, form, text, &p, end, &entries);
            if (status != FO_DONE) return status;
            t->entries = entries;
            t->indptr[++t->rows] = entries;
        }
        p = fo_until(p, FO_NEWLINE);    /* behind a comment */
        t->lines++;
    }
    return FO_DONE;
}

/* Parse the whole lines of a text of n bytes. */
static inline int fo_parse(fo_text *t, const unsigned char *text, size_t n) {
    if (t->form == FO_VW) return fo_parse_form(t, FO_VW, text, n);
    return t->form == FO_LIBFFM ? fo_parse_form(t, FO_LIBFFM, text, n) : fo_parse_form(t, FO_SVMLIGHT, text, n);
}

#endif
