#ifndef TTMD_BASE_FAULT_H
#define TTMD_BASE_FAULT_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/err.h"

/* A read-only mapping of a file that others may truncate: reading beyond the new end raises SIGBUS, which ends
 * a process. Watched, such a read sees zeros, and the range says that it is broken. */
struct fault_range;

enum { FAULT_RANGES = 256 };

/* fault_watch -- from now on no read of [p, p + bytes) ends the process.
 *
 *   p  as mmap() gave it: the start of a page; stays the caller's
 *
 * Errors  ERR_FULL: FAULT_RANGES are watched already; ERR_IO.
 * Thread  any.
 */
int fault_watch(struct fault_range **out, const void *p, size_t bytes, struct err *err);

/* fault_broken -- whether a read failed since: what was read from the range may be zeros. Any thread; what the
 * asking thread knows to have been read is counted. */
bool fault_broken(const struct fault_range *r);

/* fault_release -- before the range is unmapped, when nobody reads it any longer. r may be NULL. */
void fault_release(struct fault_range *r);

#endif
