/* Commands are ordinary clients of the engine: they submit jobs and sleep on one condition until any
 * of them has news. A counter, not a flag, so that news between looking and sleeping are not lost.
 * The wait is cut short ten times a second to look at the stop flag: a signal handler cannot signal
 * a condition. */
#include "models/session.h"

#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "models/progress.h"

enum { WAIT_MS = 100 };

static void on_progress(void *arg, double fraction)
{
    progress_set(arg, fraction, NULL);
}

void session_flags_fill(struct session_flags *f)
{
    const struct session_flags d = SESSION_FLAGS_DEFAULT;
    if (!f->dtype) f->dtype = d.dtype;
    if (!f->kv_dtype) f->kv_dtype = d.kv_dtype;
}

int session_open(struct session *s, const struct tool *t, const struct session_flags *f,
                 const char *dir, struct err *err)
{
    *s = (struct session){.tool = t};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&s->lock, NULL);

    struct progress bar;
    progress_start(&bar, t->log, "loading");
    struct engine_options o;
    engine_options_default(&o);
    o.dir = dir;
    o.threads = (int)f->threads;
    o.max_batch = (int)f->max_batch;
    o.max_jobs = 4 * o.max_batch > 256 ? 4 * o.max_batch : 256;
    o.kv_dtype = f->kv_dtype;
    o.prefix_cache_bytes = SIZE_MAX; /* tasks ask for many continuations of one context */
    o.kernels = f->kernels;
    o.dtype = f->dtype;
    o.rates_file = "auto";
    o.progress = on_progress;
    o.progress_arg = &bar;
    int rc = engine_open(&s->engine, &o, err);
    progress_end(&bar);
    return rc;
}

void session_close(struct session *s)
{
    engine_close(s->engine);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    *s = (struct session){0};
}

void session_notify(void *session)
{
    struct session *s = session;
    pthread_mutex_lock(&s->lock);
    s->news++;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

uint64_t session_news(struct session *s)
{
    pthread_mutex_lock(&s->lock);
    uint64_t n = s->news;
    pthread_mutex_unlock(&s->lock);
    return n;
}

void session_wait(struct session *s, uint64_t seen)
{
    if (tool_stopped(s->tool)) return;
    uint64_t until_ns = clock_ns() + WAIT_MS * CLOCK_NS_PER_MS;
    struct timespec until = {.tv_sec = (time_t)(until_ns / CLOCK_NS_PER_S),
                             .tv_nsec = (long)(until_ns % CLOCK_NS_PER_S)};
    pthread_mutex_lock(&s->lock);
    while (s->news == seen && !tool_stopped(s->tool))
        if (pthread_cond_timedwait(&s->changed, &s->lock, &until) != 0) break;
    pthread_mutex_unlock(&s->lock);
}
