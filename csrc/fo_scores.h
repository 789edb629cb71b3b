/* Scores of a sample by models whose weights of a feature lie side by side, a vector or two of them at once. Each is the same
   IEEE operation element by element, whatever the instruction set. */
#ifndef FO_SCORES_H
#define FO_SCORES_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#ifdef __AVX__
#define FO_VECTOR 32
#else
#define FO_VECTOR 16
#endif
typedef float fo_vector32 __attribute__((vector_size(FO_VECTOR), aligned(4), may_alias));
typedef double fo_vector64 __attribute__((vector_size(FO_VECTOR), aligned(8), may_alias));
#define FO_ALWAYS_INLINE static inline __attribute__((always_inline))
#else
typedef float fo_vector32;
typedef double fo_vector64;
#define FO_ALWAYS_INLINE static inline
#endif

#define FO_LOAD(v, from, i) (((const v *)(from))[i])
#define FO_SCALED(v, from, i) (scaled ? (v)(FO_LOAD(v, up, i) * FO_LOAD(v, from, i)) : (v)FO_LOAD(v, from, i))
#define FO_ENTRY(v, sum, j)                                                                                           \
    at = w + (ptrdiff_t)ids[j] * stride;                                                                              \
    sum##0 += FO_SCALED(v, at, 0) * x[j];                                                                             \
    if (two) sum##1 += FO_SCALED(v, at, 1) * x[j];

/* `n` entries; `w`: the first weight, `stride` from feature to feature; `up` multiplies the weights where they are `scaled`. A sum
   is taken in four parts: part k has the entries k mod 4 of whole fours, and the first the rest. `two` and `scaled` are constants. */
#define FO_SCORES(real, v, bits)                                                                                      \
    FO_ALWAYS_INLINE void fo_scores_##bits(const int two, const int scaled, ptrdiff_t n, const int32_t *ids,          \
                                           const real *x, const real *w, ptrdiff_t stride, const real *up,            \
                                           const real *bias, real *out) {                                             \
        v a0 = {0}, b0 = {0}, c0 = {0}, d0 = {0}, a1 = {0}, b1 = {0}, c1 = {0}, d1 = {0};                             \
        const real *at;                                                                                               \
        ptrdiff_t j = 0;                                                                                              \
        for (; j + 4 <= n; j += 4) {                                                                                  \
            FO_ENTRY(v, a, j) FO_ENTRY(v, b, j + 1) FO_ENTRY(v, c, j + 2) FO_ENTRY(v, d, j + 3)                       \
        }                                                                                                             \
        for (; j < n; j++) { FO_ENTRY(v, a, j) }                                                                      \
        ((v *)out)[0] = ((a0 + b0) + (c0 + d0)) + FO_LOAD(v, bias, 0);                                                \
        if (two) ((v *)out)[1] = ((a1 + b1) + (c1 + d1)) + FO_LOAD(v, bias, 1);                                       \
    }                                                                                                                 \
    enum { fo_wide_##bits = sizeof(v) / sizeof(real) };

FO_SCORES(float, fo_vector32, 32)
FO_SCORES(double, fo_vector64, 64)

#endif
