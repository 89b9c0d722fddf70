#ifndef TTMD_SERVER_SERVER_H
#define TTMD_SERVER_SERVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "engine/base/cpu.h"
#include "engine/base/log.h"
#include "engine/run/engine.h"

struct MHD_Daemon;
struct metrics;
struct watcher;
struct worker;

/* The daemon. Threads: main (signals, drain), loader (until the model is there), one HTTP thread,
 * worker, watcher, and the engine's. What they share is atomic or has a lock of its own. */
struct server {
    const struct config *cfg;
    struct log *log;
    struct cpu cpu;
    const char *model_id;
    struct metrics *metrics;
    struct worker *worker;
    struct watcher *watcher;
    struct MHD_Daemon *http;

    _Atomic(struct engine *) engine; /* NULL while the model loads */
    atomic_int load_permille;        /* progress of loading */
    atomic_bool draining;            /* not ready any more */
    atomic_bool refusing;            /* new work is answered 503 shutting_down */
    atomic_bool stopping;            /* nothing may be suspended any more */

    int max_places;    /* requests in flight: max_queue waiting + max_batch computing */
    atomic_int places; /* taken now */
    atomic_int live;   /* request objects of POST routes */
    atomic_int connections;
    uint64_t next_serial; /* HTTP thread only */
    uint64_t created_unix_s, start_ns;
    char fingerprint[32]; /* "fp_0123456789abcdef"; set before `engine` */
};

/* server_run -- serve until a signal; returns the process's exit status.
 *
 *   signal_fd  non-blocking eventfd to which each SIGTERM or SIGINT adds 1; SIGPIPE is ignored. Borrowed
 */
int server_run(const struct config *cfg, struct log *log, const struct cpu *cpu, int signal_fd);

/* http_start -- open the port and start the HTTP thread; logs "listening". */
int http_start(struct server *s, struct err *err);
/* http_refuse_new -- no further connections; those open go on. Returns the fd to close after
 * http_stop(), -1 if none. */
int http_refuse_new(struct server *s);
/* http_stop -- end the HTTP thread; no connection may be suspended. */
void http_stop(struct server *s);

static inline struct engine *server_engine(struct server *s)
{
    return atomic_load_explicit(&s->engine, memory_order_acquire);
}

/* server_ready -- the model is loaded and no drain has begun. */
static inline bool server_ready(struct server *s)
{
    return server_engine(s) && !atomic_load(&s->draining);
}

#endif
