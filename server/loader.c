/* Opening and closing models on a thread of its own. There is one load at a time and it cannot be
 * interrupted; closing waits behind it.
 *
 * A model that is to take over is tried first: a few tokens of it must be generated with finite
 * log-probabilities, so that a directory whose tensors have the right shapes and the wrong numbers never
 * answers a request. */
#include "server/loader.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "server/jsonw.h"
#include "server/metrics.h"
#include "server/request.h"
#include "server/served.h"

enum { TRIAL_TOKENS = 4, TRIAL_MS = 60000 };

struct loader {
    struct server *srv; /* borrowed */
    int first_fd;       /* borrowed */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under lock: */
    bool wanted, busy, loaded, stop;
    bool again; /* the files changed while they may have been read: read them once more */
    char *dir;  /* owned: of the current model, at first of the one to be */
    char *next; /* owned: to be loaded; NULL = dir again */
    struct request *waiter; /* of the load that is wanted or under way; a reference */
    int first_rc;
};

/* ---- options ---- */

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

static void engine_setup(struct server *s, const char *dir, struct engine_options *o)
{
    const struct config *c = s->cfg;
    int64_t jobs = (int64_t)s->max_places * 2 * c->max_batch;
    engine_options_default(o);
    o->dir = dir;
    o->threads = (int)c->threads;
    o->max_batch = (int)c->max_batch;
    o->max_jobs = jobs > 65536 ? 65536 : (int)jobs;
    o->prefill_chunk_tokens = (int)c->prefill_chunk_tokens;
    o->kv_dtype = c->kv_dtype;
    o->kv_cache_bytes = (size_t)c->kv_cache_bytes;
    o->prefix_cache_bytes = (size_t)c->prefix_cache_bytes;
    o->speculative_tokens = (int)c->speculative_tokens;
    o->kernels = strcmp(c->kernels, "auto") == 0 ? NULL : c->kernels;
    o->dtype = c->dtype;
    o->ttm_execution = ttm_execution(c->ttm_execution);
    o->memory_budget_bytes = (size_t)c->memory_budget_bytes;
    o->rates_file = *c->calibration_file ? c->calibration_file : NULL;
    o->log = s->log;
}

/* ---- the trial ---- */

static int judge(const struct job *j, const struct job_view *v, const char *dir, struct err *err)
{
    if (!v->done)
        return err_set(err, ERR_IO, "%s: %d tokens took more than %d s in a trial", dir,
                       TRIAL_TOKENS, TRIAL_MS / 1000);
    for (size_t i = 0; i < v->n_tokens; i++)
        if (!isfinite(job_tokens(j)[i].logprob))
            return err_set(err, ERR_INVALID,
                           "%s: in a trial the model gave a log-probability that is no number: are "
                           "its weights?",
                           dir);
    return 0;
}

static int try_model(struct engine *e, const char *dir, struct err *err)
{
    struct job_spec spec;
    struct job *j;
    struct job_view v;
    int32_t prompt[] = {0};
    job_spec_default(&spec);
    spec.tokens = prompt;
    spec.n_tokens = 1;
    spec.max_tokens = engine_info(e)->n_ctx > TRIAL_TOKENS ? TRIAL_TOKENS : 0;
    spec.ignore_eos = true;
    spec.top_logprobs = 1;
    sampling_default(&spec.sampling);
    spec.sampling.temperature = 0;
    int rc = engine_submit(e, &spec, &j, err);
    if (rc) return rc;
    uint64_t end = clock_ns() + (uint64_t)TRIAL_MS * CLOCK_NS_PER_MS;
    for (job_view(j, &v); !v.done && clock_ns() < end; job_view(j, &v))
        usleep(2000); /* this thread has nothing else to do */
    rc = judge(j, &v, dir, err);
    job_cancel(j);
    job_unref(j);
    return rc;
}

/* ---- loading ---- */

static void log_loaded(struct server *s, const struct served *m, bool first)
{
    const struct engine_info *i = engine_info(m->engine);
    log_at(s->log, LOG_INFO, first ? "ready" : "model replaced", LOG_S("model", s->model_id),
           LOG_I("n_ctx", i->n_ctx), LOG_S("kv_dtype", i->kv_dtype),
           LOG_S("blas_core", i->blas_core), LOG_S("system_fingerprint", m->fingerprint));
}

static int load(struct loader *l, const char *dir, bool first, struct err *err)
{
    struct server *s = l->srv;
    struct engine_options o;
    struct engine *e = NULL;
    engine_setup(s, dir, &o);
    if (first) {
        o.progress = on_progress;
        o.progress_arg = s;
    }
    int rc = engine_open(&e, &o, err);
    if (!rc && !first) rc = try_model(e, dir, err);
    if (rc) {
        engine_close(e);
        log_at(s->log, LOG_ERROR,
               first ? "the model cannot be loaded" : "the model stays as it was",
               LOG_S("error", err->msg));
        return rc;
    }
    metrics_set_plans(s->metrics, engine_info(e));
    engine_set_on_step(e, metrics_step, s->metrics);
    atomic_store(&s->load_permille, 1000);
    served_publish(s, e);
    struct served *m = served_take(s);
    log_loaded(s, m, first); /* said when it is true: whoever reads it may send requests */
    served_unref(m);
    return 0;
}

static void answer(struct request *r, struct server *s, int rc, const struct err *err)
{
    if (!r) return;
    if (rc) {
        struct api_error e = {0};
        api_fail(&e, API_RELOAD_FAILED, "model", "the model stays as it was: %s", err->msg);
        request_fail(r, &e);
    } else {
        struct buf b = {0};
        struct served *m = served_take(s);
        buf_puts(&b, "{\"object\":\"reload\",\"model\":");
        json_put_cstring(&b, s->model_id);
        buf_printf(&b, ",\"system_fingerprint\":\"%s\",\"load_seconds\":", m->fingerprint);
        json_put_number(&b, engine_info(m->engine)->load_seconds);
        buf_puts(&b, "}\n");
        served_unref(m);
        request_answer(r, &b);
        buf_release(&b);
    }
    request_unref(r);
}

/* Lock held; let go of while it works. */
static void do_load(struct loader *l)
{
    struct err err = {0};
    bool first = !l->loaded;
    char *dir = l->next ? l->next : mem_strdup(l->dir);
    if (!l->next) l->again = false; /* what is read from here on is new enough */
    struct request *r = l->waiter;
    l->next = NULL;
    l->wanted = false;
    l->busy = true;
    l->waiter = NULL;
    pthread_mutex_unlock(&l->lock);
    int rc = load(l, dir, first, &err);
    pthread_mutex_lock(&l->lock);
    l->busy = false; /* before the answer: who has read it may ask for the next */
    if (rc == 0) {
        l->loaded = true;
        free(l->dir);
        l->dir = dir;
    } else {
        free(dir);
    }
    pthread_mutex_unlock(&l->lock);
    answer(r, l->srv, rc, &err);
    pthread_mutex_lock(&l->lock);
    if (!first) return;
    l->first_rc = rc;
    uint64_t one = 1;
    if (write(l->first_fd, &one, sizeof one) < 0)
        log_at(l->srv->log, LOG_ERROR, "eventfd", LOG_S("error", strerror(errno)));
}

static void *loader_main(void *arg)
{
    struct loader *l = arg;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        struct served *m = served_retired(l->srv);
        if (m) {
            pthread_mutex_unlock(&l->lock);
            served_close(m);
            pthread_mutex_lock(&l->lock);
        } else if (l->wanted || (l->again && l->loaded && !l->stop)) {
            do_load(l);
        } else if (l->stop && !served_live(l->srv)) {
            break;
        } else {
            pthread_cond_wait(&l->wake, &l->lock);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

int loader_start(struct loader **out, struct server *s, int first_fd, struct err *err)
{
    struct loader *l = mem_calloc(1, sizeof *l);
    l->srv = s;
    l->first_fd = first_fd;
    l->dir = mem_strdup(s->cfg->model);
    l->wanted = true;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->wake, NULL);
    *out = l; /* before the thread: models find their loader through the server */
    int rc = thread_start(&l->thread, loader_main, l, "loader");
    if (!rc) return 0;
    *out = NULL;
    free(l->dir);
    free(l);
    return err_set(err, ERR_IO, "cannot start the loader thread: %s", strerror(rc));
}

int loader_first(const struct loader *l)
{
    return l->first_rc;
}

bool loader_read_again(struct loader *l)
{
    pthread_mutex_lock(&l->lock);
    bool now = l->loaded && !l->wanted && !l->busy;
    l->again = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    return now;
}

bool loader_reload(struct loader *l, const char *dir, struct request *r)
{
    pthread_mutex_lock(&l->lock);
    bool can = l->loaded && !l->wanted && !l->busy && !l->stop;
    if (can) {
        l->next = dir && *dir ? mem_strdup(dir) : NULL;
        request_ref(r);
        l->waiter = r;
        l->wanted = true;
        pthread_cond_signal(&l->wake);
    }
    pthread_mutex_unlock(&l->lock);
    return can;
}

void loader_wake(struct loader *l)
{
    pthread_mutex_lock(&l->lock);
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
}

bool loader_busy(struct loader *l)
{
    pthread_mutex_lock(&l->lock);
    bool busy = l->wanted || l->busy || (l->again && l->loaded);
    pthread_mutex_unlock(&l->lock);
    return busy;
}

void loader_stop(struct loader *l)
{
    if (!l) return;
    served_withdraw(l->srv);
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->wake);
    free(l->dir);
    free(l->next);
    free(l);
}
