#ifndef TTMD_SERVER_WORKER_H
#define TTMD_SERVER_WORKER_H

#include "engine/base/err.h"

struct request;
struct worker;

/* The thread that does what must not hold up the HTTP thread: parsing, tokenising, formatting. */
int worker_start(struct worker **out, struct err *err);
void worker_stop(struct worker *w); /* ends the thread; what is queued is dropped */

/* worker_push -- have jobs_work() called for r. Takes a reference. A request stands in the queue at
 * most once, so that the number of places bounds the queue. Thread: any. */
void worker_push(struct worker *w, struct request *r);

#endif
