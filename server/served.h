#ifndef TTMD_SERVER_SERVED_H
#define TTMD_SERVER_SERVED_H

#include <stdatomic.h>
#include <stdbool.h>

#include "engine/run/engine.h"

struct server;

/* A model that is loaded. A request keeps the one that was current when it came, so that a new one can take
 * over between two requests and the old one ends with its last. Counted references. */
struct served {
    struct engine *engine; /* owned */
    char fingerprint[32];  /* "fp_0123456789abcdef" */
    struct server *srv;    /* borrowed */
    atomic_int refs;
    struct served *next; /* of all that live, or of those to be closed */
};

/* All models of a server that live. */
struct served_set;
struct served_set *served_set_new(void);
void served_set_free(struct served_set *s); /* none may live any more; s may be NULL */

/* served_publish -- `engine` is the current model from now on; takes it. The one before loses the set's
 * reference. Loader thread. */
void served_publish(struct server *srv, struct engine *engine);
/* served_withdraw -- there is no current model any more. */
void served_withdraw(struct server *srv);

/* served_take -- a reference to the current model; NULL while there is none. Any thread. */
struct served *served_take(struct server *srv);
void served_unref(struct served *m); /* m may be NULL; the last one hands it to the loader */

/* served_live -- does one have references? */
bool served_live(struct server *srv);

/* served_retired -- one whose last reference is gone, to be closed by the caller; NULL if there is none. Its
 * counts are in the totals from now on. */
struct served *served_retired(struct server *srv);
/* served_close -- not on a thread that the engine calls. */
void served_close(struct served *m);

/* served_stats -- gauges of all models that live, counters of all that ever did. Any thread. */
void served_stats(struct server *srv, struct engine_stats *out);

#endif
