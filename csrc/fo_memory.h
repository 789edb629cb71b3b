/* Prefetch with intent to write, and relaxed loads and stores for elements that several threads touch at once.
   The relaxed ones compile to plain moves; they only forbid the compiler to tear or invent accesses. */
#ifndef FO_MEMORY_H
#define FO_MEMORY_H

#include <stdint.h>
#include <string.h>

/* Elements that a driver gathers into one block, and the distance between the scalars of a block's catch-up. */
#define FO_GATHER 256

#if defined(__GNUC__) || defined(__clang__)
/* The empty statement is an effect: GCC takes a function that does nothing but prefetch for one that does nothing. */
#define FO_PREFETCH(address) (__extension__({ __builtin_prefetch((address), 1, 3); __asm__ volatile(""); }))
#define FO_PREFETCH_READ(address) (__extension__({ __builtin_prefetch((address), 0, 3); __asm__ volatile(""); }))
static inline uint32_t fo_get32(const void *at) { return __atomic_load_n((const uint32_t *)at, __ATOMIC_RELAXED); }
static inline uint64_t fo_get64(const void *at) { return __atomic_load_n((const uint64_t *)at, __ATOMIC_RELAXED); }
static inline void fo_put32(void *at, uint32_t x) { __atomic_store_n((uint32_t *)at, x, __ATOMIC_RELAXED); }
static inline void fo_put64(void *at, uint64_t x) { __atomic_store_n((uint64_t *)at, x, __ATOMIC_RELAXED); }
#else
#define FO_PREFETCH(address) ((void)(address))
#define FO_PREFETCH_READ(address) ((void)(address))
static inline uint32_t fo_get32(const void *at) { return *(const volatile uint32_t *)at; }
static inline uint64_t fo_get64(const void *at) { return *(const volatile uint64_t *)at; }
static inline void fo_put32(void *at, uint32_t x) { *(volatile uint32_t *)at = x; }
static inline void fo_put64(void *at, uint64_t x) { *(volatile uint64_t *)at = x; }
#endif

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
/* One move, which is atomic where it is aligned. From an atomic integer GCC makes two, by way of an integer register. */
#ifdef __AVX__
#define FO_MOVE "vmov"
#else
#define FO_MOVE "mov"
#endif
static inline float fo_getf(const float *at) { float x; __asm__ volatile(FO_MOVE "ss %1, %0" : "=x"(x) : "m"(*at)); return x; }
static inline double fo_getd(const double *at) { double x; __asm__ volatile(FO_MOVE "sd %1, %0" : "=x"(x) : "m"(*at)); return x; }
static inline void fo_putf(float *at, float x) { __asm__ volatile(FO_MOVE "ss %1, %0" : "=m"(*at) : "x"(x)); }
static inline void fo_putd(double *at, double x) { __asm__ volatile(FO_MOVE "sd %1, %0" : "=m"(*at) : "x"(x)); }
#else
static inline float fo_getf(const float *at) { uint32_t u = fo_get32(at); float x; memcpy(&x, &u, 4); return x; }
static inline double fo_getd(const double *at) { uint64_t u = fo_get64(at); double x; memcpy(&x, &u, 8); return x; }
static inline void fo_putf(float *at, float x) { uint32_t u; memcpy(&u, &x, 4); fo_put32(at, u); }
static inline void fo_putd(double *at, double x) { uint64_t u; memcpy(&u, &x, 8); fo_put64(at, u); }
#endif

/* Copies `size` bytes, a multiple of 8, to or from memory that several threads touch at once; both ends are aligned to 8. */
static inline void fo_copy_shared(void *to, const void *from, size_t size) {
    for (size_t i = 0; i < size; i += 8) fo_put64((char *)to + i, fo_get64((const char *)from + i));
}

#endif
