#ifndef TTMD_BASE_POOL_H
#define TTMD_BASE_POOL_H

#include <stddef.h>

#include "engine/base/err.h"

/* struct pool -- fork-join compute threads. One owner thread calls pool_for(); it works too, so that
 * `threads` counts it. Workers spin for microseconds after a job, then sleep on a futex: an idle
 * pool uses no CPU, and an oversubscribed machine does not stop at a spinning barrier. */
struct pool;

/* pool_task -- process items [begin, end). `worker` is 0..threads-1, for per-thread scratch. */
typedef void pool_task(void *arg, size_t begin, size_t end, int worker);

/* pool_new -- start threads-1 workers (threads >= 1; 1 starts none).
 * Errors  ERR_IO when a thread cannot be started; none is left behind. */
int pool_new(struct pool **out, int threads, struct err *err);
void pool_free(struct pool *p);         /* joins; p may be NULL */
int pool_threads(const struct pool *p); /* p may be NULL: 1 */

/* pool_for -- run task over items [0, n) in pieces of at most `grain` items (>= 1), fewer than 2^32 of them;
 * returns when all are done. With p NULL, one thread or one piece, runs in place.
 * A worker takes successive pieces from the same part of [0, n) in every job, then what others have left:
 * work on the same data is best given the same indices. Which worker gets which piece is not determined:
 * results must not depend on it.
 *
 * Thread  the owner only, never from inside a task.
 */
void pool_for(struct pool *p, size_t n, size_t grain, pool_task *task, void *arg);

/* pool_part_end -- where worker's part of the items of such a job ends, a multiple of grain or n: it takes
 * [begin, end) of a piece, then the piece behind, until there. */
size_t pool_part_end(const struct pool *p, size_t n, size_t grain, int worker);

#endif
