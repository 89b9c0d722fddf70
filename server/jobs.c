/* The jobs of a request: fed to the engine a few at a time, watched through notifications, and continued
 * on the worker. A request may need hundreds (choices, prompts, windows), the engine computes max_batch at
 * once: twice that many outstanding keep it busy, and results of the others need no memory yet.
 *
 * Submission happens under the request's lock, so that a notification, which takes the same lock, never sees
 * a slot whose job pointer is not stored yet. Each submitted job holds a reference until its last
 * notification. */
#include "server/request.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/metrics.h"
#include "server/params.h"
#include "server/worker.h"
#include "server/served.h"

static size_t most_outstanding(const struct request *r)
{
    return 2 * (size_t)r->srv->cfg->max_batch;
}

static void init(struct request *r, size_t n, size_t room)
{
    pthread_mutex_lock(&r->lock);
    r->slots = mem_calloc(room, sizeof *r->slots);
    r->n_slots = n;
    r->n_room = room;
    for (size_t i = 0; i < room; i++)
        r->slots[i].r = r;
    pthread_mutex_unlock(&r->lock);
}

void jobs_init(struct request *r, size_t n)
{
    init(r, n, n);
}

/* Twice what may be outstanding: those that end before the next in turn wait for it in their slots. */
void jobs_init_in_turn(struct request *r, size_t n)
{
    size_t room = 2 * most_outstanding(r);
    init(r, n, n < room ? n : room);
}

struct slot *jobs_slot(const struct request *r, size_t i)
{
    return &r->slots[i % r->n_room];
}

#define MOST_PARTS ((uint64_t)1 << 24) /* far more than there are prompts in a body */

uint64_t jobs_family(const struct request *r, size_t part)
{
    return r->serial * MOST_PARTS + part;
}

static void observe_tokens(struct request *r, struct slot *sl, const struct job_view *v)
{
    struct metrics *m = r->srv->metrics;
    if (v->n_tokens <= sl->seen_tokens) return;
    uint64_t now = clock_ns();
    if (sl->seen_tokens == 0)
        metrics_observe(m, HIST_TTFT, (double)(now - r->start_ns) / 1e9);
    else
        metrics_observe(m, HIST_INTER_TOKEN,
                        (double)(now - sl->last_token_ns) / 1e9 /
                            (double)(v->n_tokens - sl->seen_tokens));
    sl->seen_tokens = v->n_tokens;
    sl->last_token_ns = now;
}

static double seconds_between(uint64_t from, uint64_t to)
{
    return from && to > from ? (double)(to - from) / 1e9 : 0;
}

static void observe_end(struct request *r, size_t n_prompt, const struct job_view *v)
{
    struct metrics *m = r->srv->metrics;
    uint64_t decode = v->first_token_ns ? v->first_token_ns : v->done_ns;
    if (v->admitted_ns) {
        metrics_observe(m, HIST_QUEUE, seconds_between(v->submitted_ns, v->admitted_ns));
        metrics_observe(m, HIST_PREFILL, seconds_between(v->admitted_ns, decode));
        metrics_observe(m, HIST_DECODE, seconds_between(decode, v->done_ns));
    }
    metrics_observe(m, HIST_PROMPT_TOKENS, (double)n_prompt);
    metrics_observe(m, HIST_GENERATED_TOKENS, (double)v->completion_tokens);
}

static void count_end(struct request *r, const struct job_view *v)
{
    if (r->bad_finish != FINISH_NONE || r->cancel != CANCEL_NONE) return;
    if (v->finish == FINISH_QUEUE_TIMEOUT)
        metrics_cancel(r->srv->metrics, PHASE_QUEUED, CAUSE_QUEUE_TIMEOUT);
    else if (v->finish == FINISH_TIMEOUT)
        metrics_cancel(r->srv->metrics,
                       v->first_token_ns ? PHASE_DECODE
                       : v->admitted_ns  ? PHASE_PREFILL
                                         : PHASE_QUEUED,
                       CAUSE_DEADLINE);
}

/* Engine thread. */
static void on_job(void *arg)
{
    struct slot *sl = arg;
    struct request *r = sl->r;
    struct job_view v;
    pthread_mutex_lock(&r->lock);
    job_view(sl->job, &v);
    observe_tokens(r, sl, &v);
    bool done = v.done && !sl->done;
    if (done) {
        sl->done = true;
        r->outstanding--;
        r->n_done++;
        observe_end(r, v.prompt_done, &v);
        count_end(r, &v);
        bool bad = v.finish != FINISH_STOP && v.finish != FINISH_LENGTH;
        if (bad && r->bad_finish == FINISH_NONE && r->cancel == CANCEL_NONE)
            r->bad_finish = v.finish;
        bool over = r->n_done == r->n_slots || (r->outstanding == 0 && r->cancel != CANCEL_NONE);
        if (over) request_release_place_locked(r);
        bool worker = !r->stream || !r->route->pull || r->next_slot < r->n_slots || bad;
        if (worker && r->cancel == CANCEL_NONE) worker_push(r->srv->worker, r);
    }
    r->news = true;
    if (r->stream_ready && r->route->pull) request_wake_locked(r);
    pthread_mutex_unlock(&r->lock);
    if (done) request_unref(r);
}

/* One job; 1 = submitted, 0 = not now, -1 = failed. */
static int feed_one(struct request *r, struct api_error *e)
{
    if (r->cancel != CANCEL_NONE || r->next_slot == r->n_slots ||
        r->outstanding >= most_outstanding(r) || r->next_slot - r->n_dropped == r->n_room)
        return 0;
    struct slot *sl = jobs_slot(r, r->next_slot);
    struct job_spec spec;
    job_spec_default(&spec);
    r->route->spec(r, r->next_slot, &spec);
    /* Only the first may time out in the queue: the others wait for their own siblings. */
    spec.queue_deadline_ns = r->next_slot == 0 ? r->queue_deadline_ns : 0;
    spec.deadline_ns = r->deadline_ns;
    spec.notify = on_job;
    spec.notify_arg = sl;
    struct err err = {0};
    request_ref(r);
    int rc = engine_submit(r->model->engine, &spec, &sl->job, &err);
    if (rc == 0) {
        r->next_slot++;
        r->outstanding++;
        r->prompt_tokens += spec.n_tokens;
        return 1;
    }
    atomic_fetch_sub(&r->refs, 1);                  /* never the last: the caller holds one */
    if (rc == ERR_FULL && r->outstanding) return 0; /* a sibling's end brings us back */
    return api_from_err(e, &err);
}

int jobs_feed(struct request *r, struct api_error *e)
{
    int rc = 1;
    while (rc == 1) {
        pthread_mutex_lock(&r->lock);
        rc = feed_one(r, e);
        pthread_mutex_unlock(&r->lock);
    }
    return rc;
}

static void log_prompt(struct request *r, const json_t *body)
{
    if (!r->srv->cfg->log_prompts || !body) return;
    char *text = json_dumps(json_object_get(body, "prompt"), JSON_COMPACT | JSON_ENCODE_ANY);
    log_at(r->srv->log, LOG_INFO, "prompt", LOG_S("request_id", r->id), LOG_S("prompt", text));
    free(text);
}

static int parse_and_start(struct request *r, struct api_error *e)
{
    struct buf text = {0};
    pthread_mutex_lock(&r->lock);
    text = r->body;
    r->body = (struct buf){0};
    pthread_mutex_unlock(&r->lock);
    json_t *body = body_parse(text.data ? text.data : "", text.len, e);
    log_prompt(r, body);
    buf_release(&text);
    int rc = body ? r->route->start(r, body, e) : -1;
    json_decref(body);
    if (rc == 0 && r->n_slots) rc = jobs_feed(r, e);
    if (rc == 0 && r->stream) request_stream_begin(r);
    return rc;
}

void jobs_work(struct request *r)
{
    struct api_error e = {0};
    pthread_mutex_lock(&r->lock);
    bool first = !r->started, cancelled = r->cancel != CANCEL_NONE,
         bad = r->bad_finish != FINISH_NONE;
    /* Answered: the last jobs' wake-ups may bring it here once more, when it is the HTTP thread's. */
    bool over = cancelled || r->reply.ready;
    r->started = true;
    if (cancelled && first) request_release_place_locked(r);
    pthread_mutex_unlock(&r->lock);
    if (over) return;
    if (first) {
        if (parse_and_start(r, &e)) request_fail(r, &e);
        return;
    }
    if (bad) {
        request_finish_error(r, &e);
        request_fail(r, &e);
        return;
    }
    int rc = jobs_feed(r, &e);
    if (rc == 0) {
        r->route->progress(r);
        rc = jobs_feed(r, &e); /* into slots that it has emptied: nothing else may bring us back */
    }
    if (rc) request_fail(r, &e);
}

/* Times of a request are those of its jobs together: first submission to first admission, and so on.
 * Jobs that an endpoint has dropped were accounted for then. */
static void account_one(struct request *r, const struct job *job)
{
    struct times *t = &r->times;
    struct job_view v;
    job_view(job, &v);
    r->completion_tokens += v.done ? v.completion_tokens : v.n_tokens;
    r->drafted_tokens += v.drafted_tokens;
    r->accepted_tokens += v.accepted_tokens;
    if (v.submitted_ns && (!t->submitted || v.submitted_ns < t->submitted))
        t->submitted = v.submitted_ns;
    if (v.admitted_ns && (!t->admitted || v.admitted_ns < t->admitted)) t->admitted = v.admitted_ns;
    if (v.first_token_ns && (!t->first || v.first_token_ns < t->first)) t->first = v.first_token_ns;
    if (v.done_ns > t->last) t->last = v.done_ns;
    uint64_t first = t->first ? t->first : t->last;
    r->queue_ms = seconds_between(t->submitted, t->admitted) * 1e3;
    r->prefill_ms = seconds_between(t->admitted, first) * 1e3;
    r->decode_ms = seconds_between(first, t->last) * 1e3;
}

void jobs_drop(struct request *r)
{
    pthread_mutex_lock(&r->lock);
    struct slot *sl = jobs_slot(r, r->n_dropped++);
    struct job *job = sl->job;
    BUG_ON(!sl->done);
    *sl = (struct slot){.r = r}; /* its last notification has been: it was `done` that set it */
    account_one(r, job);
    pthread_mutex_unlock(&r->lock);
    job_unref(job);
}

void jobs_account(struct request *r)
{
    r->completion_tokens = r->drafted_tokens = r->accepted_tokens = 0;
    for (size_t i = r->n_dropped; i < r->next_slot; i++)
        account_one(r, jobs_slot(r, i)->job);
}
