/* What this CPU *and* this operating system can run, as the x86-64 levels that the builds are compiled for.
   A level counts only if every feature of it is present: some machines have AVX-512 in part, and a hypervisor may
   mask what the chip has. */
#ifndef FO_CPU_H
#define FO_CPU_H

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>

static unsigned long long fo_xgetbv(void) {
    unsigned lo, hi;
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((unsigned long long)hi << 32) | lo;
}

/* 1: baseline, 3: x86-64-v3 (AVX2), 4: x86-64-v4 (AVX-512). */
static int fo_cpu_level(void) {
    unsigned a, b, c, d, c1, b7 = 0, ext = 0;
    if (!__get_cpuid(1, &a, &b, &c1, &d)) return 1;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) b7 = b;
    if (__get_cpuid(0x80000001u, &a, &b, &c, &d)) ext = c;

    const unsigned v3_leaf1 = (1u << 0) | (1u << 9) | (1u << 12) | (1u << 13) | (1u << 19) | (1u << 20) | (1u << 22) |
                              (1u << 23) | (1u << 27) | (1u << 28) | (1u << 29); /* SSE3 SSSE3 FMA CX16 SSE4.1 SSE4.2
                                                                    MOVBE POPCNT OSXSAVE AVX F16C */
    const unsigned v3_leaf7 = (1u << 3) | (1u << 5) | (1u << 8);                 /* BMI1 AVX2 BMI2 */
    const unsigned v3_ext = (1u << 0) | (1u << 5);                               /* LAHF LZCNT */
    const unsigned v4_leaf7 = (1u << 16) | (1u << 17) | (1u << 28) | (1u << 30) | (1u << 31); /* F DQ CD BW VL */

    if ((c1 & v3_leaf1) != v3_leaf1 || (b7 & v3_leaf7) != v3_leaf7 || (ext & v3_ext) != v3_ext) return 1;
    unsigned long long os = fo_xgetbv();
    if ((os & 0x6) != 0x6) return 1;                                             /* XMM and YMM state saved */
    if ((b7 & v4_leaf7) != v4_leaf7 || (os & 0xe0) != 0xe0) return 3;            /* mask and ZMM state saved */
    return 4;
}
#else
static int fo_cpu_level(void) { return 1; }
#endif

#endif
