/* Where the threads of a parallel region wait for each other, again and again, for microseconds: they spin. Who waits longer
   than that gives its core away, for the one that it waits for may have none. OpenMP's own barrier goes to sleep or spins for
   milliseconds, as its settings say. */
#ifndef FO_BARRIER_H
#define FO_BARRIER_H

#if defined(__GNUC__) || defined(__clang__)
#define FO_CAN_WAIT 1
#if defined(__unix__) || defined(__APPLE__)
#include <sched.h>
#define FO_GIVE_WAY() ((void)sched_yield())
#else
#define FO_GIVE_WAY() ((void)0)
#endif

typedef struct {
    unsigned arrived;
    char apart[124];
    unsigned turn;
    char apart_too[124];
} fo_barrier;

static inline void fo_wait(fo_barrier *b, int threads) {
    unsigned turn;
    int spins = 0;
    if (threads == 1)
        return;
    turn = __atomic_load_n(&b->turn, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&b->arrived, 1, __ATOMIC_ACQ_REL) == (unsigned)threads) {
        __atomic_store_n(&b->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&b->turn, turn + 1, __ATOMIC_RELEASE);
        return;
    }
    while (__atomic_load_n(&b->turn, __ATOMIC_ACQUIRE) == turn) {
        if (++spins < 1000) {
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            __asm__ volatile("yield");
#endif
        } else {
            FO_GIVE_WAY();
        }
    }
}
#else
#define FO_CAN_WAIT 0
typedef struct { int unused; } fo_barrier;
static inline void fo_wait(fo_barrier *b, int threads) { (void)b; (void)threads; }
#endif

#endif
