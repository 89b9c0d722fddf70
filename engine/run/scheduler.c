/* The engine thread: a queue, a set of running sequences, and a loop.
 *
 *     any thread ── submit ──> inbox ──> queue ──> running ── scheduler_step() ──> finished
 *                     (mutex, condvar)   FIFO      <= max_batch, KV blocks for prompt and output
 *
 * A job is admitted when there is a place in the batch and all the blocks that it can ever need are
 * free; so nothing that runs is ever evicted, and a job's result cannot depend on who came later. The
 * head of the queue waits for its blocks and nobody overtakes it: letting small jobs pass would use
 * memory better, but a large one could wait for ever.
 *
 * Cancellation and deadlines are looked at between steps, for waiting and for running jobs. The
 * thread sleeps only when there is no job at all (one that waits is admitted as soon as nothing runs,
 * for no job is larger than the pool), so neither needs to wake it: an idle engine costs nothing.
 *
 * Invariant: every job counted in n_jobs is in exactly one of inbox, queue, running, with one reference. */
#include "engine/run/scheduler.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "engine/run/scheduler_seq.h"

#define FIRST_LUCK 0.5 /* of guesses, before any was compared */

/* ---- submitting: any thread ---- */

/* A place among max_jobs comes first: a full engine refuses without copying anything. */
static int reserve(struct scheduler *s, struct err *err)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (atomic_load(&s->stop))
        rc = err_set(err, ERR_SHUTDOWN, "the engine is shutting down");
    else if (s->n_jobs >= s->opt.max_jobs)
        rc = err_set(err, ERR_FULL, "%d requests are waiting or running, the most allowed",
                     s->n_jobs);
    else
        s->n_jobs++;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static void give_back(struct scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    s->n_jobs--;
    if (atomic_load(&s->stop)) pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static int make_job(struct scheduler *s, const struct job_spec *spec, struct job **out,
                    struct err *err)
{
    struct job_limits limits = {.n_ctx = s->model.n_positions,
                                .vocab = s->model.vocab,
                                .eos = s->model.eos,
                                .max_token_bytes = s->model.max_token_bytes,
                                .cache = s->opt.prefix_blocks > 0,
                                .speculative_tokens = s->opt.speculative_tokens};
    struct job *j;
    int rc = job_new(&j, spec, &limits, err);
    if (rc) return rc;
    int blocks = kv_blocks_for(job_positions(j));
    if (blocks > s->kv.n_blocks) {
        job_unref(j);
        return err_set_param(err, ERR_INVALID, "max_tokens",
                             "the request needs %d KV blocks, the cache has %d", blocks,
                             s->kv.n_blocks);
    }
    *out = j;
    return 0;
}

int scheduler_submit(struct scheduler *s, const struct job_spec *spec, struct job **out,
                     struct err *err)
{
    struct job *j = NULL;
    int rc = reserve(s, err);
    if (rc) return rc;
    rc = make_job(s, spec, &j, err);
    if (rc) {
        give_back(s);
        return rc;
    }
    job_ref(j); /* the scheduler's; the other one is the caller's */
    *out = j;
    atomic_fetch_add_explicit(&s->stats.waiting, 1, memory_order_relaxed);
    pthread_mutex_lock(&s->lock);
    *s->inbox_end = j;
    s->inbox_end = &j->next;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

/* ---- the engine thread ---- */

/* The job ends: it leaves the count before its last notify(), so that who hears it may submit. */
static void finish(struct scheduler *s, struct job *j, enum finish how)
{
    give_back(s);
    job_finish(j, how);
    job_unref(j);
}

/* How cancellation or a deadline ends a job now; FINISH_NONE if neither does. */
static enum finish interrupted(const struct scheduler *s, const struct job *j, bool queued,
                               uint64_t now)
{
    if (atomic_load_explicit(&s->stop, memory_order_acquire) ||
        atomic_load_explicit(&j->cancel, memory_order_acquire))
        return FINISH_CANCELLED;
    if (queued && j->queue_deadline_ns && now >= j->queue_deadline_ns) return FINISH_QUEUE_TIMEOUT;
    if (j->deadline_ns && now >= j->deadline_ns) return FINISH_TIMEOUT;
    return FINISH_NONE;
}

/* Move new jobs to the queue; sleep when there is nothing at all to do. Returns false to stop, when
 * every job has been finished. */
static bool take_inbox(struct scheduler *s)
{
    bool ended;
    pthread_mutex_lock(&s->lock);
    while (!(ended = atomic_load(&s->stop) && s->n_jobs == 0) && !s->inbox && !s->queue &&
           s->n_running == 0 && !atomic_load(&s->drop))
        pthread_cond_wait(&s->wake, &s->lock);
    if (s->inbox) {
        *s->queue_end = s->inbox;
        s->queue_end = s->inbox_end;
        s->inbox = NULL;
        s->inbox_end = &s->inbox;
    }
    pthread_mutex_unlock(&s->lock);
    return !ended;
}

static void sweep_queue(struct scheduler *s, uint64_t now)
{
    struct job **p = &s->queue;
    while (*p) {
        struct job *j = *p;
        enum finish how = interrupted(s, j, true, now);
        if (how == FINISH_NONE) {
            p = &j->next;
            continue;
        }
        *p = j->next;
        if (!*p) s->queue_end = p;
        atomic_fetch_sub_explicit(&s->stats.waiting, 1, memory_order_relaxed);
        finish(s, j, how);
    }
}

/* Take finished sequences out of the batch, then tell; the order of the others stays. */
static void retire(struct scheduler *s)
{
    int n = 0;
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        if (q->how == FINISH_NONE) {
            s->running[n++] = q;
            continue;
        }
        seq_release(s, q);
        s->idle[s->opt.max_batch - s->n_running + (i - n)] = q;
    }
    int ended = s->n_running - n, first = s->opt.max_batch - s->n_running;
    s->n_running = n;
    atomic_store_explicit(&s->stats.running, n, memory_order_relaxed);
    atomic_store_explicit(&s->stats.kv_used, s->kv.n_blocks - prefix_available(&s->prefix),
                          memory_order_relaxed);
    atomic_store_explicit(&s->stats.idle_blocks, s->prefix.n_idle, memory_order_relaxed);
    for (int i = 0; i < ended; i++) {
        struct seq *q = s->idle[first + i];
        finish(s, q->job, q->how);
        q->job = NULL;
    }
}

static void sweep_running(struct scheduler *s, uint64_t now)
{
    for (int i = 0; i < s->n_running; i++)
        s->running[i]->how = interrupted(s, s->running[i]->job, false, now);
    retire(s);
}

static void start(struct scheduler *s, struct seq *q, uint64_t now)
{
    struct job *j = q->job;
    s->running[s->n_running++] = q;
    atomic_store_explicit(&j->admitted_ns, now, memory_order_relaxed);
    atomic_store_explicit(&j->phase, JOB_PREFILL, memory_order_relaxed);
    atomic_store_explicit(&j->prompt_done, (size_t)q->pos, memory_order_relaxed);
    if (q->n_feed > 0) return;
    /* One token that nothing comes before or after: there is nothing to compute. */
    atomic_store_explicit(&j->prompt_done, 1, memory_order_relaxed);
    atomic_store_explicit(&j->n_scored, j->prompt ? 1 : 0, memory_order_release);
    q->how = FINISH_LENGTH;
}

static void admit(struct scheduler *s, uint64_t now)
{
    while (s->queue && s->n_running < s->opt.max_batch) {
        struct job *j = s->queue;
        struct seq *q = s->idle[s->opt.max_batch - s->n_running - 1];
        *q = (struct seq){.job = j, .blocks = q->blocks, .luck = FIRST_LUCK};
        if (!seq_reserve(s, q)) break;
        s->queue = j->next;
        if (!s->queue) s->queue_end = &s->queue;
        j->next = NULL;
        atomic_fetch_sub_explicit(&s->stats.waiting, 1, memory_order_relaxed);
        start(s, q, now);
    }
    retire(s);
}

static void *engine_thread(void *arg)
{
    struct scheduler *s = arg;
    while (take_inbox(s)) {
        uint64_t now = clock_ns();
        sweep_queue(s, now);
        sweep_running(s, now);
        scheduler_forget(s);
        admit(s, now);
        if (s->n_running == 0) continue;
        scheduler_step(s);
        retire(s);
    }
    return NULL;
}

/* ---- opening and closing ---- */

static int check_options(const struct scheduler_options *o, struct err *err)
{
    const struct {
        const char *name;
        int x, least, most;
    } all[] = {{"max_batch", o->max_batch, 1, 4096},
               {"max_jobs", o->max_jobs, 1, INT32_MAX},
               {"speculative_tokens", o->speculative_tokens, 0, SCHEDULER_MAX_DRAFT},
               {"prefill_chunk_tokens", o->prefill_chunk_tokens, 1, 1 << 20}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].x < all[i].least || all[i].x > all[i].most)
            return err_set_param(err, ERR_INVALID, all[i].name, "%s is %d, expected %d to %d",
                                 all[i].name, all[i].x, all[i].least, all[i].most);
    return 0;
}

/* One mapping for all that a step needs: hidden rows, logits of a block, a sampler per thread. */
static int make_scratch(struct scheduler *s, struct err *err)
{
    size_t rows = (size_t)scheduler_rows(s->opt.max_batch, s->opt.prefill_chunk_tokens,
                                         s->opt.speculative_tokens);
    size_t threads = (size_t)pool_threads(s->opt.pool), hidden, logits, sampler;
    s->sampler_bytes = mem_round_up(sampler_scratch_bytes(s->model.vocab), 64);
    if (!mem_mul(rows, (size_t)s->model.n_embd * sizeof(float), &hidden) ||
        !mem_mul((size_t)s->model.vocab, SCHEDULER_LOGIT_ROWS * sizeof(float), &logits) ||
        !mem_mul(threads, s->sampler_bytes, &sampler))
        return err_set(err, ERR_NOMEM, "scratch for %zu rows is too large", rows);
    hidden = mem_round_up(hidden, 64);
    logits = mem_round_up(logits, 64);
    s->scratch_bytes = hidden + logits + sampler;
    int rc = mem_map(&s->scratch, s->scratch_bytes, "scratch of the scheduler", err);
    if (rc) return rc;
    char *p = s->scratch;
    s->hidden = (float *)(void *)p;
    s->logits = (float *)(void *)(p + hidden);
    s->sampler = p + hidden + logits;
    return 0;
}

static void make_seqs(struct scheduler *s)
{
    size_t n = (size_t)s->opt.max_batch;
    size_t most = (size_t)kv_blocks_for(s->model.n_positions);
    s->seqs = mem_calloc(n, sizeof *s->seqs);
    s->running = mem_calloc(n, sizeof *s->running);
    s->idle = mem_calloc(n, sizeof *s->idle);
    s->step.seqs = mem_calloc(n, sizeof *s->step.seqs);
    s->step.of = mem_calloc(n, sizeof *s->step.of);
    for (size_t i = 0; i < n; i++) {
        s->seqs[i].blocks = mem_calloc(most, sizeof(int32_t));
        s->idle[i] = &s->seqs[i];
    }
}

static void release(struct scheduler *s)
{
    for (int i = 0; s->seqs && i < s->opt.max_batch; i++)
        free(s->seqs[i].blocks);
    free(s->seqs);
    free(s->running);
    free(s->idle);
    free(s->step.seqs);
    free(s->step.of);
    prefix_release(&s->prefix);
    kv_pool_release(&s->kv);
    mem_unmap(s->scratch, s->scratch_bytes);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    free(s);
}

int scheduler_open(struct scheduler **out, const struct scheduler_model *m,
                   const struct scheduler_options *o, struct err *err)
{
    int rc = check_options(o, err);
    if (rc) return rc;
    struct scheduler *s = mem_calloc(1, sizeof *s);
    s->model = *m;
    s->opt = *o;
    s->inbox_end = &s->inbox;
    s->queue_end = &s->queue;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    rc = kv_pool_init(&s->kv, o->kv_blocks, err);
    if (!rc) rc = make_scratch(s, err);
    if (!rc) {
        prefix_init(&s->prefix, &s->kv, o->prefix_blocks);
        make_seqs(s);
    }
    if (!rc && thread_start(&s->thread, engine_thread, s, "engine"))
        rc = err_set(err, ERR_IO, "cannot start the engine thread");
    if (rc)
        release(s);
    else
        *out = s;
    return rc;
}

void scheduler_close(struct scheduler *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->stop, true);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    release(s);
}

void scheduler_stats(const struct scheduler *s, struct engine_stats *out)
{
    const struct scheduler_stats *t = &s->stats;
    *out = (struct engine_stats){
        .running = atomic_load(&t->running),
        .waiting = atomic_load(&t->waiting),
        .jobs_max = s->opt.max_jobs,
        .kv_blocks = s->kv.n_blocks,
        .kv_blocks_used = atomic_load(&t->kv_used),
        .prompt_tokens_computed = atomic_load(&t->computed),
        .prompt_tokens_cached = atomic_load(&t->cached),
        .generated_tokens = atomic_load(&t->generated),
        .scored_tokens = atomic_load(&t->scored),
        .steps = atomic_load(&t->steps),
        .prefix_lookup_tokens = atomic_load(&t->lookup),
        .prefix_cached_blocks = atomic_load(&t->idle_blocks),
        .drafted_tokens = atomic_load(&t->drafted),
        .accepted_tokens = atomic_load(&t->accepted),
    };
}

void scheduler_drop_prefixes(struct scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->drop, true);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void scheduler_set_on_step(struct scheduler *s, engine_on_step *fn, void *arg)
{
    s->opt.on_step = fn;
    s->opt.on_step_arg = arg;
}
