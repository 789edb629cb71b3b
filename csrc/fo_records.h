/* Records of features into blocks and back. In rounds of FO_ROUND entries, so that rows of about one length take the same
   branches; and no loop is unrolled beyond that, whose rest would be another branch that nobody can foresee. */
#ifndef FO_RECORDS_H
#define FO_RECORDS_H

#include <stddef.h>
#include <stdint.h>
#include "fo_memory.h"

#define FO_ROUND 8

#if defined(__GNUC__) || defined(__clang__)
#define FO_INLINE static inline __attribute__((always_inline))
#define FO_UNROLLED _Pragma("GCC unroll 8")
#define FO_ONE_BY_ONE _Pragma("GCC unroll 1")
#else
#define FO_INLINE static inline
#define FO_UNROLLED
#define FO_ONE_BY_ONE
#endif

/* `body` for i = 0, 1, ... n - 1; with `beyond` up to FO_ROUND - 1 more, in whole rounds. */
#define FO_ROUNDS(n, beyond, body)                                                                                            \
    do {                                                                                                                      \
        ptrdiff_t i_ = 0, whole_ = (beyond) ? (n) : (n) - FO_ROUND + 1;                                                       \
        FO_ONE_BY_ONE for (; i_ < whole_; i_ += FO_ROUND) {                                                                   \
            FO_UNROLLED for (int k_ = 0; k_ < FO_ROUND; k_++) {                                                               \
                ptrdiff_t i = i_ + k_;                                                                                        \
                body                                                                                                          \
            }                                                                                                                 \
        }                                                                                                                     \
        if (!(beyond)) {                                                                                                      \
            FO_ONE_BY_ONE for (ptrdiff_t i = i_; i < (n); i++) {                                                              \
                body                                                                                                          \
            }                                                                                                                 \
        }                                                                                                                     \
    } while (0)

/* Fetches entries `begin` to `end` of two arrays, of 4 bytes and of `size`, and the next. */
FO_INLINE void fo_fetch_row(const int32_t *ids, const char *data, ptrdiff_t size, ptrdiff_t begin, ptrdiff_t end) {
    FO_ONE_BY_ONE for (; begin < end; begin += 64 / size) {
        FO_PREFETCH_READ(ids + begin);
        FO_PREFETCH_READ(data + begin * size);
    }
    FO_PREFETCH_READ(ids + end);
    FO_PREFETCH_READ(data + end * size);
}

/* For one thread of several: where the records of features are, in whole rounds. Those before `hot` are the thread's own, so
   many bytes away from the others; without a branch, which could not be foreseen. `shift`: of the bytes of a record. Compiled
   for each build, where it is a few vector instructions. */
static inline void fo_places(ptrdiff_t n, uintptr_t *restrict place, const int32_t *restrict ids, int shift, uintptr_t records,
                             uintptr_t to_own, int32_t hot) {
    for (ptrdiff_t i = 0; i < n; i += FO_ROUND)
        for (int k = 0; k < FO_ROUND; k++)
            place[i + k] = records + ((uintptr_t)(uint32_t)ids[i + k] << shift) + (ids[i + k] < hot ? to_own : 0);
}

/* Fetches records. The places up to the end of the round become those of `own`, to be read in vain: another thread's would have
   to come from its core. */
FO_INLINE void fo_fetch_found(uintptr_t *place, ptrdiff_t n, uintptr_t own) {
    FO_UNROLLED for (int k = 0; k < FO_ROUND; k++) place[n + k] = own;
    FO_ROUNDS(n, 1, FO_PREFETCH((const void *)place[i]););
}

#define FO_RECORDS(real, t)                                                                                                   \
    /* The weight of each record, scaled, and its states. Called with constants where that saves multiplications. */          \
    FO_INLINE void fo_gather_##t(real *p, real *s, ptrdiff_t room, const real *records, const int32_t *ids, ptrdiff_t n,      \
                                   ptrdiff_t stride, int n_states, real scale, int beyond) {                                  \
        FO_ROUNDS(n, beyond, const real *at = records + ids[i] * stride; p[i] = scale * at[0];                                \
                  for (int q = 0; q < n_states; q++) s[q * room + i] = at[1 + q];);                                           \
    }                                                                                                                         \
    FO_INLINE void fo_scatter_##t(const real *p, const real *s, ptrdiff_t room, real *records, const int32_t *ids,            \
                                    ptrdiff_t n, ptrdiff_t stride, int n_states, real scale) {                                \
        FO_ROUNDS(n, 0, real *at = records + ids[i] * stride; at[0] = scale * p[i];                                           \
                  for (int q = 0; q < n_states; q++) at[1 + q] = s[q * room + i];);                                           \
    }                                                                                                                         \
    FO_INLINE void fo_fetch_##t(const real *records, const int32_t *ids, ptrdiff_t n, ptrdiff_t stride, int beyond) {         \
        FO_ROUNDS(n, beyond, FO_PREFETCH(records + ids[i] * stride););                                                        \
    }                                                                                                                         \
    FO_INLINE void fo_gather_found_##t(real *p, real *s, ptrdiff_t room, real *const *place, ptrdiff_t n, int n_states,       \
                                         real scale) {                                                                        \
        FO_ROUNDS(n, 1, const real *at = place[i]; p[i] = scale * fo_get##t(at);                                              \
                  for (int q = 0; q < n_states; q++) s[q * room + i] = fo_get##t(at + 1 + q););                               \
    }                                                                                                                         \
    FO_INLINE void fo_scatter_found_##t(const real *p, const real *s, ptrdiff_t room, real *const *place, ptrdiff_t n,        \
                                          int n_states, real scale) {                                                         \
        FO_ROUNDS(n, 0, real *at = place[i]; fo_put##t(at, scale * p[i]);                                                     \
                  for (int q = 0; q < n_states; q++) fo_put##t(at + 1 + q, s[q * room + i]););                                \
    }

FO_RECORDS(float, f)
FO_RECORDS(double, d)

#endif
