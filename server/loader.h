#ifndef TTMD_SERVER_LOADER_H
#define TTMD_SERVER_LOADER_H

#include <stdbool.h>

#include "engine/base/err.h"

struct request;
struct server;

/* The thread that opens and closes models, which takes seconds: the first one at start, others that replace
 * it, and old ones when their last request has ended. */
struct loader;

/* loader_start -- begins to load the configured model.
 *
 *   first_fd  an eventfd that gets 1 when that has ended; borrowed
 */
int loader_start(struct loader **out, struct server *s, int first_fd, struct err *err);

/* loader_first -- 0, or why the first model could not be loaded (it was logged); after first_fd. */
int loader_first(const struct loader *l);

/* loader_reload -- load the model in `dir` beside the one that serves, try it, and let it take over; one that
 * cannot be loaded or tried leaves the old one serving.
 *
 *   dir  NULL or "": the directory of the last load; copied
 *   r    is answered when it is done
 *
 * Returns false when there is no model yet or a load is under way; r is not answered then. Any thread.
 */
bool loader_reload(struct loader *l, const char *dir, struct request *r);

/* loader_read_again -- the model's files have changed: load the directory of the last load again, after the
 * load that is under way, if one is; the log says how it went. Calls that come before it begins are one.
 * Returns whether it begins at once. Any thread. */
bool loader_read_again(struct loader *l);

/* loader_wake -- there may be models to close. Any thread. */
void loader_wake(struct loader *l);

/* loader_stop -- close all models and end the thread. What requests are left were cancelled: their jobs end,
 * and with the last reference their model. No load may be under way.
 * loader_busy -- is one? */
bool loader_busy(struct loader *l);
void loader_stop(struct loader *l);

#endif
