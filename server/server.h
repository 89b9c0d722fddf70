#ifndef TTMD_SERVER_SERVER_H
#define TTMD_SERVER_SERVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "engine/base/cpu.h"
#include "engine/base/log.h"
#include "engine/run/engine.h"
#include "server/page.h"

struct MHD_Daemon;
struct access;
struct loader;
struct metrics;
struct served_set;
struct tls;
struct watcher;
struct worker;

/* The daemon. Threads: main (signals, drain), loader (until the model is there), one HTTP thread,
 * worker, watcher, and the engine's. What they share is atomic or has a lock of its own. */
struct server {
    const struct config *cfg;
    struct log *log;
    struct cpu cpu;
    const char *model_id;
    const char *notify_socket; /* of the service manager; NULL: none */
    struct metrics *metrics;
    struct access *access;
    struct tls *tls; /* NULL: plain HTTP */
    struct worker *worker;
    struct watcher *watcher;
    struct MHD_Daemon *http;

    struct loader *loader;
    struct served_set *models; /* served_take() gives the current one */
    atomic_int load_permille;  /* progress of loading the first model */
    atomic_bool loaded;        /* there is a model to serve */
    atomic_bool draining;      /* not ready any more */
    atomic_bool refusing;      /* new work is answered 503 shutting_down */
    atomic_bool stopping;      /* nothing may be suspended any more */

    size_t
        max_bodies_bytes; /* bodies of requests in flight together; see request_take_body_locked() */
    atomic_size_t body_bytes;
    int max_places;    /* requests in flight: max_queue waiting + max_batch computing */
    atomic_int places; /* taken now */
    atomic_int live;   /* request objects of POST routes */
    atomic_int connections;
    uint64_t next_serial; /* HTTP thread only */
    uint64_t created_unix_s, start_ns;
    struct page page;
};

/* server_check -- what server_run() would refuse of what the configuration names: files of keys and certificates,
 * origins, kernels that this processor lacks, a host that nobody knows. The model is not looked at, nor whether the
 * port is free. Errors: those of access_new(), tls_new() and http_check(); ERR_INVALID for kernels. */
int server_check(const struct config *cfg, const struct cpu *cpu, struct err *err);

/* server_run -- serve until a signal; returns the process's exit status.
 *
 *   stop_fd        non-blocking eventfd to which each SIGTERM or SIGINT adds 1; SIGPIPE is ignored. Borrowed
 *   reload_fd      the same for SIGHUP
 *   notify_socket  where the service manager listens (notify.h); NULL: there is none. Borrowed
 */
int server_run(const struct config *cfg, struct log *log, const struct cpu *cpu, int stop_fd,
               int reload_fd, const char *notify_socket);

/* http_check -- look the configured host up, as http_start() does. Errors: ERR_INVALID for one that does not exist;
 * ERR_IO when that cannot be told now. */
int http_check(const struct config *c, struct err *err);
/* http_start -- open the port and start the HTTP thread; logs "listening". Errors: those of http_check();
 * ERR_IO for a port that cannot be opened. */
int http_start(struct server *s, struct err *err);
/* http_refuse_new -- no further connections; those open go on. Returns the fd to close after
 * http_stop(), -1 if none. */
int http_refuse_new(struct server *s);
/* http_stop -- end the HTTP thread; no connection may be suspended. */
void http_stop(struct server *s);

/* server_ready -- the model is loaded and no drain has begun. */
static inline bool server_ready(struct server *s)
{
    return atomic_load(&s->loaded) && !atomic_load(&s->draining);
}

#endif
