/* Start, run, stop.
 *
 * The port opens first and the model is loaded on a thread of its own, so that probes are answered while
 * it loads. Signals arrive as counts in a descriptor that the main thread reads. (Not signalfd: that
 * needs the signals blocked in every thread, and OpenBLAS starts some before main() runs.)
 *
 * Stopping: not ready; drain_delay_s for load balancers to notice; no new connections, new requests on open
 * ones are refused; drain_timeout_s for what is in flight; the rest is cancelled; suspended connections
 * are all resumed, because MHD aborts when it is stopped while one is. A second signal skips the waits. */
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
#include "server/metrics.h"
#include "server/watcher.h"
#include "server/worker.h"

struct run {
    struct server s;
    char *model_id;
    int signal_fd; /* borrowed: an eventfd that counts signals */
    int loaded_fd; /* an eventfd, written by the loader at its end */
    int signals;   /* received */
    pthread_t loader;
    bool loader_started, loader_done; /* main thread */
    int load_rc;                      /* the loader's; read after joining it */
    bool load_failed;                 /* main thread */
};

static void on_progress(void *arg, double fraction)
{
    struct server *s = arg;
    int permille = (int)(fraction * 1000);
    atomic_store(&s->load_permille, permille < 0 ? 0 : permille > 1000 ? 1000 : permille);
}

static enum engine_ttm ttm_execution(const char *name)
{
    static const char *const names[] = {[ENGINE_TTM_CONTRACT] = "contract",
                                        [ENGINE_TTM_REBUILD] = "rebuild",
                                        [ENGINE_TTM_RESIDENT] = "resident"};
    for (int i = 1; i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(name, names[i]) == 0) return (enum engine_ttm)i;
    return ENGINE_TTM_AUTO;
}

static void engine_setup(struct server *s, struct engine_options *o)
{
    const struct config *c = s->cfg;
    int64_t jobs = (int64_t)s->max_places * 2 * c->max_batch;
    engine_options_default(o);
    o->dir = c->model;
    o->threads = (int)c->threads;
    o->max_batch = (int)c->max_batch;
    o->max_jobs = jobs > 65536 ? 65536 : (int)jobs;
    o->prefill_chunk_tokens = (int)c->prefill_chunk_tokens;
    o->kv_dtype = strcmp(c->kv_dtype, "f16") == 0 ? ENGINE_KV_F16 : ENGINE_KV_F32;
    o->kv_cache_bytes = (size_t)c->kv_cache_bytes;
    o->kernels = strcmp(c->kernels, "auto") == 0 ? NULL : c->kernels;
    o->ttm_execution = ttm_execution(c->ttm_execution);
    o->memory_budget_bytes = (size_t)c->memory_budget_bytes;
    o->rates_file = *c->calibration_file ? c->calibration_file : NULL;
    o->log = s->log;
    o->progress = on_progress;
    o->progress_arg = s;
}

/* The engine has logged what it loaded; here is what the API makes of it. */
static void log_ready(struct server *s, struct engine *e)
{
    const struct engine_info *i = engine_info(e);
    log_at(s->log, LOG_INFO, "ready", LOG_S("model", s->model_id), LOG_I("n_ctx", i->n_ctx),
           LOG_S("kv_dtype", i->kv_dtype), LOG_S("blas_core", i->blas_core),
           LOG_S("system_fingerprint", s->fingerprint));
}

static void *loader_main(void *arg)
{
    struct run *run = arg;
    struct server *s = &run->s;
    struct engine_options o;
    struct engine *e = NULL;
    struct err err = {0};
    engine_setup(s, &o);
    run->load_rc = engine_open(&e, &o, &err);
    if (run->load_rc) {
        log_at(s->log, LOG_ERROR, "the model cannot be loaded", LOG_S("error", err.msg));
    } else {
        metrics_set_plans(s->metrics, engine_info(e));
        engine_set_on_step(e, metrics_step, s->metrics);
        snprintf(s->fingerprint, sizeof s->fingerprint, "fp_%016llx",
                 (unsigned long long)engine_info(e)->fingerprint);
        atomic_store(&s->load_permille, 1000);
        atomic_store_explicit(&s->engine, e, memory_order_release);
        log_ready(s, e); /* said when it is true: whoever reads it may send requests */
    }
    uint64_t one = 1;
    if (write(run->loaded_fd, &one, sizeof one) < 0)
        log_at(s->log, LOG_ERROR, "eventfd", LOG_S("error", strerror(errno)));
    return NULL;
}

/* Wait for a signal, the end of loading, or `ms` milliseconds (-1: for ever). */
static void wait_event(struct run *run, int ms)
{
    struct pollfd p[2] = {{.fd = run->signal_fd, .events = POLLIN},
                          {.fd = run->loaded_fd, .events = POLLIN}};
    uint64_t count;
    if (poll(p, run->loader_done ? 1 : 2, ms) <= 0) return;
    if ((p[0].revents & POLLIN) && read(run->signal_fd, &count, sizeof count) == sizeof count) {
        run->signals += (int)count;
        log_at(run->s.log, LOG_INFO, "signal received", LOG_I("count", run->signals));
    }
    if (!run->loader_done && (p[1].revents & POLLIN) &&
        read(run->loaded_fd, &count, sizeof count) == sizeof count) {
        pthread_join(run->loader, NULL);
        run->loader_done = true;
        run->load_failed = run->load_rc != 0;
    }
}

/* Wait until no request is in flight, a second signal, or the time is over. */
static void wait_idle(struct run *run, double seconds)
{
    uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9);
    while (run->signals < 2 && atomic_load(&run->s.live) > 0 && clock_ns() < end)
        wait_event(run, 10);
}

static void wait_delay(struct run *run, double seconds)
{
    uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9);
    while (run->signals < 2 && clock_ns() < end)
        wait_event(run, (int)((end - clock_ns()) / CLOCK_NS_PER_MS) + 1);
}

static void drain(struct run *run)
{
    struct server *s = &run->s;
    const struct config *c = s->cfg;
    atomic_store(&s->draining, true);
    log_at(s->log, LOG_INFO, "draining", LOG_I("in_flight", atomic_load(&s->live)),
           LOG_N("delay_s", c->drain_delay_s), LOG_N("timeout_s", c->drain_timeout_s));
    if (!run->load_failed) wait_delay(run, c->drain_delay_s);
    atomic_store(&s->refusing, true);
    int listen_fd = http_refuse_new(s);
    wait_idle(run, c->drain_timeout_s);
    int left = atomic_load(&s->live);
    if (left) log_at(s->log, LOG_WARN, "cancelling what is left", LOG_I("in_flight", left));
    watcher_cancel_all(s->watcher);
    /* Time for the last answers to be written; what cannot be sent by then is lost. */
    for (int i = 0; i < 100 && atomic_load(&s->live) > 0; i++)
        wait_event(run, 10);
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

static int run_open(struct run *run, const struct config *cfg, struct log *log,
                    const struct cpu *cpu, struct err *err)
{
    struct server *s = &run->s;
    s->cfg = cfg;
    s->log = log;
    s->cpu = *cpu;
    s->model_id = run->model_id = model_name(cfg);
    s->metrics = metrics_new();
    s->max_places = (int)(cfg->max_queue + cfg->max_batch);
    s->created_unix_s = clock_unix_ms() / 1000;
    s->start_ns = clock_ns();
    log_start(s);
    run->loaded_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (run->loaded_fd < 0) return err_set(err, ERR_IO, "eventfd: %s", strerror(errno));
    int rc = worker_start(&s->worker, err);
    if (rc == 0) rc = watcher_start(&s->watcher, s, err);
    if (rc == 0) rc = http_start(s, err);
    if (rc) return rc;
    rc = pthread_create(&run->loader, NULL, loader_main, run);
    if (rc) return err_set(err, ERR_IO, "cannot start the loader thread: %s", strerror(rc));
    run->loader_started = true;
    return 0;
}

static void run_close(struct run *run)
{
    struct server *s = &run->s;
    if (run->loader_started && !run->loader_done) {
        /* A load cannot be interrupted and nobody waits for it: leave with what the kernel cleans up. */
        log_at(s->log, LOG_INFO, "stopped while loading", LOG_S("model", s->model_id));
        pthread_detach(run->loader);
        _exit(0);
    }
    struct engine *e = server_engine(s);
    worker_stop(s->worker);
    engine_close(e); /* the last notifications drop the last references */
    watcher_stop(s->watcher);
    metrics_free(s->metrics);
    if (run->loaded_fd >= 0) close(run->loaded_fd);
    free(run->model_id);
}

int server_run(const struct config *cfg, struct log *log, const struct cpu *cpu, int signal_fd)
{
    struct run *run = mem_calloc(1, sizeof *run);
    struct err err = {0};
    int status = 0;
    run->signal_fd = signal_fd;
    run->loaded_fd = -1;
    if (run_open(run, cfg, log, cpu, &err)) {
        log_at(log, LOG_ERROR, "cannot start", LOG_S("error", err.msg));
        status = 1;
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
