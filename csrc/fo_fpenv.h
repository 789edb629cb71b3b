/* The floating-point state of a thread: set to IEEE default (round to nearest, subnormals kept, nothing trapped) on
   entry to a kernel, put back exactly, sticky flags included, on exit. Callers may have changed rounding or flush
   modes, and other libraries do so behind their backs. */
#ifndef FO_FPENV_H
#define FO_FPENV_H

#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
typedef unsigned int fo_fpenv;
static inline fo_fpenv fo_fp_enter(void) {
    unsigned int saved = _mm_getcsr();
    if (saved != 0x1f80u) _mm_setcsr(0x1f80u);
    return saved;
}
static inline void fo_fp_leave(fo_fpenv saved) { _mm_setcsr(saved); }
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
typedef struct { unsigned long long control, status; } fo_fpenv;
static inline fo_fpenv fo_fp_enter(void) {
    fo_fpenv saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved.control));
    __asm__ volatile("mrs %0, fpsr" : "=r"(saved.status));
    if (saved.control) __asm__ volatile("msr fpcr, %0" ::"r"(0ULL));
    return saved;
}
static inline void fo_fp_leave(fo_fpenv saved) {
    __asm__ volatile("msr fpcr, %0" ::"r"(saved.control));
    __asm__ volatile("msr fpsr, %0" ::"r"(saved.status));
}
#else
#include <fenv.h>
typedef fenv_t fo_fpenv;
static inline fo_fpenv fo_fp_enter(void) {
    fenv_t saved;
    fegetenv(&saved);
    fesetenv(FE_DFL_ENV);
    return saved;
}
static inline void fo_fp_leave(fo_fpenv saved) { fesetenv(&saved); }
#endif

#endif
