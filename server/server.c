/* Start, run, stop.
 *
 * The port opens first and the model is loaded on a thread of its own, so that probes are answered while
 * it loads. Signals arrive as counts in a descriptor that the main thread reads. (Not signalfd: that
 * needs the signals blocked in every thread, and OpenBLAS starts some before main() runs.)
 *
 * Stopping: not ready; drain_delay_s for load balancers to notice; new requests are answered 503; drain_timeout_s
 * for what is in flight; the rest is cancelled; the port closes; suspended connections are all
 * resumed, because MHD aborts when it is stopped while one is. A second signal skips the waits. The port
 * stays open while requests are in flight: a balancer whose checks are refused takes the replica
 * for dead and breaks off what it still answers, and clients in the backlog would be reset. */
#include "server/server.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/version.h"
#include "server/access.h"
#include "server/loader.h"
#include "server/metrics.h"
#include "server/notify.h"
#include "server/served.h"
#include "server/tls.h"
#include "server/watcher.h"
#include "server/worker.h"

struct run {
    struct server s;
    char *model_id;
    int stop_fd;                   /* borrowed: an eventfd that counts signals to stop */
    int reload_fd;                 /* borrowed: the same for SIGHUP */
    int loaded_fd;                 /* an eventfd, written when the first load has ended */
    int signals;                   /* received */
    bool loader_done, load_failed; /* of the first model; main thread */
    bool misconfigured; /* something that the configuration names is not what it should be */
};

static void notify(struct server *s, const char *state)
{
    if (notify_send(s->notify_socket, state))
        log_at(s->log, LOG_WARN, "the service manager cannot be told", LOG_S("state", state),
               LOG_S("socket", s->notify_socket), LOG_S("error", strerror(errno)));
}

/* SIGHUP: files that operators change while we run. What is wrong with one leaves the old in force. */
static void reload(struct server *s)
{
    struct err err = {0};
    if (access_reload(s->access, &err))
        log_at(s->log, LOG_ERROR, "API keys stay as they were", LOG_S("error", err.msg));
    else if (*s->cfg->api_keys_file)
        log_at(s->log, LOG_INFO, "API keys read", LOG_I("keys", access_keys(s->access)));
    err = (struct err){0};
    if (s->tls && tls_reload(s->tls, &err))
        log_at(s->log, LOG_ERROR, "certificates stay as they were", LOG_S("error", err.msg));
    else if (s->tls)
        log_at(s->log, LOG_INFO, "certificates read", LOG_S("file", s->cfg->tls_certificate_file));
    if (!loader_read_again(s->loader))
        log_at(s->log, LOG_INFO, "a model is being loaded already: it is read again after that");
}

/* Wait for a signal, the end of loading, or `ms` milliseconds (-1: for ever). */
static void wait_event(struct run *run, int ms)
{
    struct pollfd p[3] = {{.fd = run->stop_fd, .events = POLLIN},
                          {.fd = run->reload_fd, .events = POLLIN},
                          {.fd = run->loaded_fd, .events = POLLIN}};
    uint64_t count;
    if (poll(p, run->loader_done ? 2 : 3, ms) <= 0) return;
    if ((p[0].revents & POLLIN) && read(run->stop_fd, &count, sizeof count) == sizeof count) {
        run->signals += (int)count;
        log_at(run->s.log, LOG_INFO, "signal received", LOG_I("count", run->signals));
    }
    if ((p[1].revents & POLLIN) && read(run->reload_fd, &count, sizeof count) == sizeof count)
        reload(&run->s);
    if (!run->loader_done && (p[2].revents & POLLIN) &&
        read(run->loaded_fd, &count, sizeof count) == sizeof count) {
        run->loader_done = true;
        run->load_failed = loader_first(run->s.loader) != 0;
        if (!run->load_failed && run->signals == 0) notify(&run->s, "READY=1\nSTATUS=serving");
    }
}

enum { ROUND_MS = 10, ARRIVAL_ROUNDS = 10, LAST_ROUNDS = 100 };

/* Wait until no request is in flight, a second signal, or the time is over. */
static void wait_idle(struct run *run, double seconds)
{
    uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9);
    while (run->signals < 2 && atomic_load(&run->s.live) > 0 && clock_ns() < end)
        wait_event(run, ROUND_MS);
}

static void wait_delay(struct run *run, double seconds)
{
    uint64_t now = clock_ns(), end = now + (uint64_t)(seconds * 1e9);
    for (; run->signals < 2 && now < end; now = clock_ns()) /* one reading: end - now is positive */
        wait_event(run, (int)((end - now) / CLOCK_NS_PER_MS) + 1);
}

static void drain(struct run *run)
{
    struct server *s = &run->s;
    const struct config *c = s->cfg;
    atomic_store(&s->draining, true);
    notify(s, "STOPPING=1\nSTATUS=draining");
    log_at(s->log, LOG_INFO, "draining", LOG_I("in_flight", atomic_load(&s->live)),
           LOG_N("delay_s", c->drain_delay_s), LOG_N("timeout_s", c->drain_timeout_s));
    if (!run->load_failed) wait_delay(run, c->drain_delay_s);
    atomic_store(&s->refusing, true);
    wait_idle(run, c->drain_timeout_s);
    int left = atomic_load(&s->live);
    if (left) log_at(s->log, LOG_WARN, "cancelling what is left", LOG_I("in_flight", left));
    int listen_fd = http_refuse_new(s);
    watcher_cancel_all(s->watcher);
    /* Time for the last answers to be written; what cannot be sent by then is lost. And for requests to arrive
     * on connections that were accepted just before: a balancer may send those refused elsewhere, not those
     * that got no answer. */
    for (int i = 0; i < LAST_ROUNDS && (i < ARRIVAL_ROUNDS || atomic_load(&s->live) > 0); i++)
        wait_event(run, ROUND_MS);
    atomic_store(&s->stopping, true);
    watcher_wake_all(s->watcher);
    http_stop(s);
    if (listen_fd >= 0) close(listen_fd);
}

static void log_start(const struct server *s)
{
    struct buf features = {0};
    cpu_features(&s->cpu, &features);
    log_at(s->log, LOG_INFO, "starting", LOG_S("version", TTMD_VERSION), LOG_S("git", TTMD_GIT),
           LOG_S("model", s->cfg->model), LOG_S("cpu", s->cpu.model),
           LOG_S("features", features.data), LOG_I("affinity", s->cpu.affinity),
           LOG_N("quota_cores", s->cpu.quota_cores),
           LOG_I("threads", cpu_threads(&s->cpu, (int)s->cfg->threads)),
           LOG_S("blas_core", cpu_blas_core()), LOG_I("max_batch", s->cfg->max_batch),
           LOG_I("max_queue", s->cfg->max_queue));
    buf_release(&features);
}

static char *model_name(const struct config *c)
{
    if (c->model_id && *c->model_id) return mem_strdup(c->model_id);
    size_t end = strlen(c->model);
    while (end > 1 && c->model[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && c->model[begin - 1] != '/')
        begin--;
    char *name = mem_alloc(end - begin + 1);
    memcpy(name, c->model + begin, end - begin);
    name[end - begin] = 0;
    return name;
}

static int open_configured(struct server *s, const struct config *cfg, const struct cpu *cpu,
                           struct err *err)
{
    /* asked before the port opens: the engine says the same only when it is loaded */
    const char *kernels = strcmp(cfg->kernels, "auto") == 0 ? NULL : cfg->kernels;
    int rc = engine_check_kernels(cpu, kernels, err);
    if (rc == 0) rc = access_new(&s->access, cfg, err);
    return rc ? rc : tls_new(&s->tls, cfg, err);
}

int server_check(const struct config *cfg, const struct cpu *cpu, struct err *err)
{
    struct server s = {0};
    int rc = open_configured(&s, cfg, cpu, err);
    if (rc == 0) rc = http_check(cfg, err);
    access_free(s.access);
    tls_free(s.tls);
    return rc;
}

static int run_open(struct run *run, const struct config *cfg, struct log *log,
                    const struct cpu *cpu, struct err *err)
{
    struct server *s = &run->s;
    s->cfg = cfg;
    s->log = log;
    s->cpu = *cpu;
    s->model_id = run->model_id = model_name(cfg);
    s->metrics = metrics_new();
    s->models = served_set_new();
    page_init(&s->page);
    s->max_places = (int)(cfg->max_queue + cfg->max_batch);
    s->max_bodies_bytes =
        (size_t)(cfg->max_buffered_bytes > cfg->max_body_bytes ? cfg->max_buffered_bytes
                                                               : cfg->max_body_bytes);
    s->created_unix_s = clock_unix_ms() / 1000;
    s->start_ns = clock_ns();
    log_start(s);
    run->loaded_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (run->loaded_fd < 0) return err_set(err, ERR_IO, "eventfd: %s", strerror(errno));
    int rc = open_configured(s, cfg, cpu, err);
    run->misconfigured = rc != 0;
    if (rc == 0) rc = worker_start(&s->worker, err);
    if (rc == 0) rc = watcher_start(&s->watcher, s, err);
    if (rc == 0 && (rc = http_start(s, err)) == ERR_INVALID) run->misconfigured = true;
    if (rc) return rc;
    return loader_start(&s->loader, s, run->loaded_fd, err);
}

static void run_close(struct run *run)
{
    struct server *s = &run->s;
    if (s->loader && loader_busy(s->loader)) {
        /* A load cannot be interrupted and nobody waits for it: leave with what the kernel cleans up. */
        log_at(s->log, LOG_INFO, "stopped while loading", LOG_S("model", s->model_id));
        _exit(0);
    }
    worker_stop(s->worker);
    loader_stop(s->loader); /* the last notifications drop the last references */
    served_set_free(s->models);
    watcher_stop(s->watcher);
    metrics_free(s->metrics);
    access_free(s->access);
    tls_free(s->tls);
    if (run->loaded_fd >= 0) close(run->loaded_fd);
    free(run->model_id);
}

int server_run(const struct config *cfg, struct log *log, const struct cpu *cpu, int stop_fd,
               int reload_fd, const char *notify_socket)
{
    struct run *run = mem_calloc(1, sizeof *run);
    struct err err = {0};
    int status = 0;
    run->stop_fd = stop_fd;
    run->reload_fd = reload_fd;
    run->s.notify_socket = notify_socket;
    run->loaded_fd = -1;
    if (run_open(run, cfg, log, cpu, &err)) {
        log_at(log, LOG_ERROR, "cannot start", LOG_S("error", err.msg));
        status = run->misconfigured ? 2 : 1;
        http_stop(&run->s);
    } else {
        while (run->signals == 0 && !run->load_failed)
            wait_event(run, -1);
        status = run->signals == 0 ? 1 : 0;
        drain(run);
    }
    run_close(run);
    if (status == 0) log_at(log, LOG_INFO, "stopped", LOG_I("status", status));
    free(run);
    return status;
}
