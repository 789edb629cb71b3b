/* The streaming limit: how fast this memory can read one array and read and write k others. Each element of the others
   costs one multiply-add, so that nothing but the memory is measured; the work is divided as the dense driver divides
   it. Never change it together with a kernel: it is the yardstick. */
#include <stddef.h>

#define CHUNK 4096 /* the driver's: a thread's part is a whole number of chunks */

#define EACH1 a0[i] = a0[i] * c + g[i] * d;
#define EACH2 EACH1 a1[i] = a1[i] * c + g[i] * d;
#define EACH3 EACH2 a2[i] = a2[i] * c + g[i] * d;
#define EACH4 EACH3 a3[i] = a3[i] * c + g[i] * d;
#define EACH5 EACH4 a4[i] = a4[i] * c + g[i] * d;

#define PART(real, k)                                                                                                  \
    static void real##k(ptrdiff_t n, const real *restrict g, real *restrict a0, real *restrict a1, real *restrict a2, \
                        real *restrict a3, real *restrict a4, real c, real d) {                                        \
        (void)a1, (void)a2, (void)a3, (void)a4;                                                                        \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            EACH##k                                                                                                    \
        }                                                                                                              \
    }

#define STREAM(real)                                                                                                   \
    PART(real, 1) PART(real, 2) PART(real, 3) PART(real, 4) PART(real, 5)                                              \
    void stream_##real(int threads, ptrdiff_t n, int k, const real *g, real *const *a, double c, double d) {           \
        static void (*const part[])(ptrdiff_t, const real *, real *, real *, real *, real *, real *, real, real) = {   \
            real##1, real##2, real##3, real##4, real##5};                                                              \
        const ptrdiff_t chunks = (n + CHUNK - 1) / CHUNK;                                                              \
        _Pragma("omp parallel for schedule(static) num_threads(threads) if(threads > 1)")                              \
        for (int t = 0; t < threads; t++) {                                                                            \
            const ptrdiff_t first = chunks / threads * t + chunks % threads * t / threads;                             \
            const ptrdiff_t last = chunks / threads * (t + 1) + chunks % threads * (t + 1) / threads;                  \
            const ptrdiff_t begin = first * CHUNK, end = last * CHUNK < n ? last * CHUNK : n;                          \
            real *b[5];                                                                                                \
            for (int j = 0; j < 5; j++) b[j] = j < k ? a[j] + begin : NULL;                                            \
            if (begin < end)                                                                                           \
                part[k - 1](end - begin, g + begin, b[0], b[1], b[2], b[3], b[4], (real)c, (real)d);                   \
        }                                                                                                              \
    }

STREAM(float)
STREAM(double)
