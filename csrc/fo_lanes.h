/* Eight numbers of models side by side, as one vector: the compiler does not find loops of eight rounds worth it. Each is the
   same IEEE operation element by element, whatever the instruction set. */
#ifndef FO_LANES_H
#define FO_LANES_H

#ifndef __has_builtin
#define __has_builtin(x) 0
#endif

/* The sum of 16 lanes, folded 8, 4, 2, 1. */
#if __has_builtin(__builtin_shufflevector)
static inline double fo_fold(const double *lane) {
    typedef double v8 __attribute__((vector_size(64), aligned(8), may_alias));
    typedef double v4 __attribute__((vector_size(32)));
    typedef double v2 __attribute__((vector_size(16)));
    v8 a = *(const v8 *)lane + *(const v8 *)(lane + 8);
    v4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
    v2 c = __builtin_shufflevector(b, b, 0, 1) + __builtin_shufflevector(b, b, 2, 3);
    return c[0] + c[1];
}
#else
static inline double fo_fold(const double *lane) {
    double a[8];
    for (int j = 0; j < 8; j++) a[j] = lane[j] + lane[j + 8];
    for (int j = 0; j < 4; j++) a[j] = a[j] + a[j + 4];
    return (a[0] + a[2]) + (a[1] + a[3]);
}
#endif

#if defined(__GNUC__) || defined(__clang__)
typedef float fo_v32 __attribute__((vector_size(32), aligned(4), may_alias));
typedef double fo_v64 __attribute__((vector_size(64), aligned(8), may_alias));
#define FO_OF(v, a) (*(v *)(a))
#define FO_CONST(v, a) (*(const v *)(a))
#define FO_WIDE(v, a) __builtin_convertvector(FO_CONST(v, a), fo_v64)

static inline void fo_zero8(double *to) { FO_OF(fo_v64, to) = (fo_v64){0}; }
static inline void fo_add8(double *to, const double *a) { FO_OF(fo_v64, to) += FO_CONST(fo_v64, a); }

#define FO_LANES(real, v, bits)                                                                                       \
    static inline void fo_copy8_##bits(real *to, const real *a) { FO_OF(v, to) = FO_CONST(v, a); }                    \
    static inline void fo_times8_##bits(real *to, const real *a, const real *b) {                                     \
        FO_OF(v, to) = FO_CONST(v, a) * FO_CONST(v, b);                                                               \
    }                                                                                                                 \
    static inline void fo_scaled8_##bits(real *to, const real *a, real by) { FO_OF(v, to) = by * FO_CONST(v, a); }    \
    static inline void fo_moved8_##bits(real *to, const real *down, const real *p, const real *rate, const real *d) { \
        FO_OF(v, to) = FO_CONST(v, down) * (FO_CONST(v, p) + FO_CONST(v, rate) * FO_CONST(v, d));                     \
    }                                                                                                                 \
    static inline void fo_products8_##bits(double *to, const real *p, double x) {                                     \
        FO_OF(fo_v64, to) += x * FO_WIDE(v, p);                                                                       \
    }

#else
typedef float fo_v32;
typedef double fo_v64;

static inline void fo_zero8(double *to) { for (int l = 0; l < 8; l++) to[l] = 0; }
static inline void fo_add8(double *to, const double *a) { for (int l = 0; l < 8; l++) to[l] = to[l] + a[l]; }

#define FO_LANES(real, v, bits)                                                                                       \
    static inline void fo_copy8_##bits(real *to, const real *a) { for (int l = 0; l < 8; l++) to[l] = a[l]; }         \
    static inline void fo_times8_##bits(real *to, const real *a, const real *b) {                                     \
        for (int l = 0; l < 8; l++) to[l] = a[l] * b[l];                                                              \
    }                                                                                                                 \
    static inline void fo_scaled8_##bits(real *to, const real *a, real by) {                                          \
        for (int l = 0; l < 8; l++) to[l] = by * a[l];                                                                \
    }                                                                                                                 \
    static inline void fo_moved8_##bits(real *to, const real *down, const real *p, const real *rate, const real *d) { \
        for (int l = 0; l < 8; l++) to[l] = down[l] * (p[l] + rate[l] * d[l]);                                        \
    }                                                                                                                 \
    static inline void fo_products8_##bits(double *to, const real *p, double x) {                                     \
        for (int l = 0; l < 8; l++) to[l] = to[l] + x * (double)p[l];                                                 \
    }
#endif

FO_LANES(float, fo_v32, 32)
FO_LANES(double, fo_v64, 64)

#endif
