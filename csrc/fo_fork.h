/* GNU OpenMP does not survive fork: a child whose parent had run a parallel region hangs at its first one. So the
   child is told, and runs serially. */
#ifndef FO_FORK_H
#define FO_FORK_H

static volatile int fo_is_fork_child = 0;

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
static void fo_after_fork_in_child(void) { fo_is_fork_child = 1; }
static int fo_watch_fork(void) { return pthread_atfork(0, 0, fo_after_fork_in_child); }
#else
static int fo_watch_fork(void) { return 0; }
#endif

#endif
