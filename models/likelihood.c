/* Pairs go through the engine as scoring jobs, a ring of them in flight. They are collected in the order
 * of sending: which of them are computed together changes nothing, so waiting for the oldest loses
 * little and keeps the bookkeeping to two numbers.
 *
 * A pair longer than the context loses its beginning, as in lm-evaluation-harness: the last token is
 * only predicted, so that one token more than the context fits. */
#include "models/likelihood.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/tokenizer.h"
#include "models/progress.h"

struct flight {
    struct job *job;
    size_t from, n; /* entries [from, n) of job_prompt() are the continuation's */
};

struct run {
    struct session *session;
    struct likelihood *pairs;
    struct flight *ring; /* (slots) pairs [done, sent) are in slot i % slots */
    size_t n, slots, sent, done;
};

static int submit(struct run *r, struct err *err)
{
    struct likelihood *p = &r->pairs[r->sent];
    struct flight *f = &r->ring[r->sent % r->slots];
    const struct engine_info *info = engine_info(r->session->engine);
    size_t most = (size_t)info->n_ctx + 1;
    struct tokens ids = {0};
    struct job_spec spec;
    int rc = ERR_INVALID;
    size_t context =
        tokenizer_encode_pair(engine_tokenizer(r->session->engine), p->context, strlen(p->context),
                              p->continuation, strlen(p->continuation), info->eos_id, &ids);
    if (context == 0 || context >= ids.n || ids.n - context >= most || ids.ids[0] < 0) {
        err_set(err, rc,
                "pair %zu has %zu tokens of context and %zu in all: expected at least one of each, "
                "and a continuation of at most %d",
                r->sent + 1, context, ids.n, info->n_ctx);
        goto out;
    }
    size_t cut = ids.n > most ? ids.n - most : 0;
    p->n_tokens = ids.n - context;
    p->truncated = cut > 0;
    f->from = context - cut;
    f->n = ids.n - cut;
    job_spec_default(&spec);
    spec.tokens = ids.ids + cut;
    spec.n_tokens = f->n;
    spec.max_tokens = 0;
    spec.score_from = f->from;
    spec.notify = session_notify;
    spec.notify_arg = r->session;
    rc = engine_submit(r->session->engine, &spec, &f->job, err);
    if (rc == 0) r->sent++;
out:
    tokens_release(&ids);
    return rc;
}

/* Takes the oldest pair's result when it is there. Returns 1 if it was, 0 if not yet. */
static int collect(struct run *r, struct err *err)
{
    const struct flight *f = &r->ring[r->done % r->slots];
    struct likelihood *p = &r->pairs[r->done];
    struct job_view v;
    job_view(f->job, &v);
    if (!v.done) return 0;
    if (v.finish != FINISH_LENGTH || v.n_scored < f->n)
        return err_set(err, ERR_INTERNAL, "pair %zu ended early", r->done + 1);
    const struct job_token *scored = job_prompt(f->job);
    p->logprob = 0;
    p->greedy = true;
    for (size_t i = f->from; i < f->n; i++) {
        p->logprob += (double)scored[i].logprob;
        p->greedy = p->greedy && scored[i].greedy;
    }
    job_unref(f->job);
    r->done++;
    return 1;
}

int likelihood_run(struct session *s, struct likelihood *pairs, size_t n, const char *what,
                   struct err *err)
{
    struct progress bar;
    struct run r = {.session = s, .pairs = pairs, .n = n};
    r.slots = 2 * (size_t)engine_info(s->engine)->max_batch;
    r.ring = mem_calloc(r.slots, sizeof *r.ring);
    int rc = 0;
    progress_start(&bar, s->tool->log, what);
    while (rc >= 0 && r.done < n) {
        uint64_t seen = session_news(s);
        rc = 0;
        while (rc == 0 && r.sent < n && r.sent - r.done < r.slots)
            rc = submit(&r, err);
        if (rc == 0) rc = collect(&r, err);
        if (rc >= 0 && tool_stopped(s->tool)) rc = tool_interrupted(err);
        if (rc == 0) session_wait(s, seen);
        progress_set(&bar, (double)r.done / (double)n, NULL);
    }
    progress_end(&bar);
    for (size_t i = r.done; i < r.sent; i++) {
        job_cancel(r.ring[i % r.slots].job);
        job_unref(r.ring[i % r.slots].job);
    }
    free(r.ring);
    return rc < 0 ? rc : 0;
}
