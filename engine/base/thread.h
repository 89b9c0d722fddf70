#ifndef TTMD_BASE_THREAD_H
#define TTMD_BASE_THREAD_H

#include <pthread.h>

/* thread_start -- a thread that no signal sent to the process interrupts: those are for the main thread, whose
 * poll() they end. Signals of what a thread itself does, SIGBUS above all (fault.h), reach it.
 *
 *   name  of at most 15 bytes, for top and gdb; borrowed during the call
 *
 * Returns 0, or the error number of pthread_create(). */
int thread_start(pthread_t *out, void *(*run)(void *), void *arg, const char *name);

#endif
