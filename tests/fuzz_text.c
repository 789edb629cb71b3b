/* Mutated texts through csrc/fo_text.h, for the sanitizers: every text, and every output, lies in memory of its exact size.
   Build and run it by hand with
       gcc -std=c11 -O1 -g -fsanitize=address,undefined -I csrc tests/fuzz_text.c -lm -o fuzz_text && ./fuzz_text 1000000 [seed] */
#include <stdio.h>
#include <stdlib.h>

#include "fo_text.h"

static const char *const SEEDS[] = {
    "1 1:0.5 3:2 # c\n-1 qid:3 2:1e-3 7:123456789.123456789 9:-inf\r\n\n+1.25 1:nan 4:12345678901234567890\n",
    "1 0:3:1 1:7:0.5 12:2:-1e5\n0 5:0:1e2 #\n-1\n0 1:1:.5",
    "1 1.0 zebra|Metric:3.28 height:1.5 l:2.0 |Says black\n-1 'tag |a x y:2 z:-0.5|b x:1e-3|a again\n0.5 2 0 't| p a^b #5\n\n| q\n",
};

static uint64_t state;

static uint32_t draw(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % below);
}

static int slow(const unsigned char *token, size_t n, double *x) {
    char *copy = malloc(n + 1), *end;
    int good;
    memcpy(copy, token, n);
    copy[n] = 0;
    *x = strtod(copy, &end);
    good = n && end == copy + n;
    free(copy);
    return good;
}

static size_t mutate(char *text, size_t n, size_t room) {
    static const char some[] = "0123456789.eE+-:| \n#'q\t\r";
    for (uint32_t times = draw(6); times--;) {
        size_t at = draw((uint32_t)n + 1), length = 1 + draw(12);
        switch (draw(4)) {
        case 0: n = draw(4) ? n : at; break;
        case 1: if (at < n) text[at] = (char)draw(256); break;
        case 2:
            if (at + length <= n) memmove(text + at, text + at + length, n - at - length), n -= length;
            break;
        default:
            if (n + length <= room) {
                memmove(text + at + length, text + at, n - at);
                for (size_t k = 0; k < length; k++) text[at + k] = some[draw(sizeof some - 1)];
                n += length;
            }
        }
    }
    return n;
}

int main(int argc, char **argv) {
    long times = argc > 1 ? atol(argv[1]) : 1000, bad = 0, rows = 0;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    for (long k = 0; k < times; k++) {
        char scratch[1024];
        fo_text t = {0};
        int form = (int)draw(3), status;
        size_t n = strlen(SEEDS[form]);
        unsigned char *text;
        memcpy(scratch, SEEDS[form], n);
        n = mutate(scratch, n, sizeof scratch);
        text = malloc(n ? n : 1);
        memcpy(text, scratch, n);
        t.form = form, t.is_double = (int)draw(2), t.signs = (int)draw(2), t.constant = (int)draw(2);
        t.least = draw(2), t.most = draw(2) ? 8 : INT32_MAX, t.slots = draw(2) ? 1u << 18 : 1000, t.slow = slow;
        t.lowest = t.most;
        t.row_room = draw(8), t.entry_room = draw(24);
        t.labels = malloc(8 * (size_t)t.row_room + 1);
        t.weights = draw(2) ? malloc(8 * (size_t)t.row_room + 1) : NULL;
        t.queries = draw(2) ? malloc(8 * (size_t)t.row_room + 1) : NULL;
        t.indptr = malloc(8 * (size_t)t.row_room + 8);
        t.indices = malloc(4 * (size_t)t.entry_room + 1);
        t.fields = malloc(4 * (size_t)t.entry_room + 1);
        t.data = malloc((t.is_double ? 8 : 4) * (size_t)t.entry_room + 1);
        t.indptr[0] = 0;
        status = fo_parse(&t, text, n);
        if (t.rows > t.row_room || t.entries > t.entry_room || t.at > (int64_t)n || t.indptr[t.rows] != t.entries) abort();
        if (status == FO_BAD && !(t.at <= t.from && t.from <= t.to && t.to < (int64_t)n)) abort();
        for (int64_t e = 0; e < t.entries; e++) {
            int64_t most = form == FO_VW ? (int64_t)t.slots - 1 : t.most;
            if (t.indices[e] < (form == FO_VW ? 0 : t.least) || t.indices[e] > most) abort();
        }
        bad += status == FO_BAD, rows += t.rows;
        free(text), free(t.labels), free(t.weights), free(t.queries), free(t.indptr), free(t.indices), free(t.fields), free(t.data);
    }
    printf("%ld texts, %ld bad, %ld rows\n", times, bad, rows);
    return 0;
}
