/* Windows and sums are those of POST /v1/perplexity (engine/run/perplexity.h), so that the two agree;
 * the windows go through the engine as scoring jobs, several at once, because a batch of windows costs
 * less than one after another.
 *
 * The jobs wait in a ring; they may finish in any order but are summed in the order of the text, so
 * that the answer does not depend on timing to the last bit. */
#include "models/score.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/gpt2/tokenizer.h"
#include "models/input.h"
#include "models/progress.h"

struct flight {
    struct job *job;
    size_t from, n; /* entries [from, n) of job_prompt() are scored */
};

struct run {
    const struct tool *tool;
    struct session session;
    struct tokens tokens;
    struct score *score;
    struct flight *ring; /* (slots) windows [done, sent) are in slot i % slots */
    size_t slots, sent;
    int32_t *feed; /* (window + 1) */
};

int score_plan(struct ppl_plan *out, const struct score_options *o, size_t n_tokens, int n_ctx,
               bool has_eos, const char *path, struct err *err)
{
    struct ppl_plan p = {.n_tokens = n_tokens, .prefix = o->prefix};
    p.window = o->window ? o->window : (size_t)n_ctx;
    p.stride = o->stride ? o->stride : p.window;
    if (p.window > (size_t)n_ctx)
        return err_set_param(err, ERR_INVALID, "window",
                             "--window: %zu tokens are more than the model's context of %d",
                             p.window, n_ctx);
    if (p.stride > p.window)
        return err_set_param(err, ERR_INVALID, "stride",
                             "--stride: %zu is more than the window of %zu tokens", p.stride,
                             p.window);
    if (p.prefix == PPL_PREFIX_BOS && !has_eos)
        return err_set_param(err, ERR_INVALID, "prefix",
                             "--prefix: the model has no end-of-text token");
    if (ppl_window_count(&p) == 0)
        return err_set(err, ERR_INVALID, "%s: %zu tokens are too few to score any", path, n_tokens);
    *out = p;
    return 0;
}

/* Tokens, and the bytes and words that they stand for. */
static void tokenize(struct run *e, size_t max_tokens, const struct buf *text)
{
    const struct tokenizer *t = engine_tokenizer(e->session.engine);
    tokenizer_encode(t, text->data, text->len, true, &e->tokens);
    e->score->bytes = text->len;
    e->score->words = ppl_count_words(text->data, text->len);
    if (!max_tokens || max_tokens >= e->tokens.n) return;
    struct buf kept = {0};
    e->tokens.n = max_tokens;
    tokenizer_decode(t, e->tokens.ids, e->tokens.n, true, &kept);
    e->score->bytes = kept.len;
    e->score->words = kept.len ? ppl_count_words(kept.data, kept.len) : 0;
    buf_release(&kept);
}

static int submit(struct run *e, const struct ppl_window *w, struct err *err)
{
    struct flight *f = &e->ring[e->sent % e->slots];
    size_t n = 0;
    if (w->bos) e->feed[n++] = engine_info(e->session.engine)->eos_id;
    f->from = n + (w->score - w->begin);
    memcpy(e->feed + n, e->tokens.ids + w->begin, (w->end - w->begin) * sizeof *e->feed);
    f->n = n + (w->end - w->begin);
    struct job_spec spec;
    job_spec_default(&spec);
    spec.tokens = e->feed;
    spec.n_tokens = f->n;
    spec.max_tokens = 0;
    spec.score_from = f->from;
    spec.cache_prompt = false; /* windows have no common beginnings */
    spec.notify = session_notify;
    spec.notify_arg = &e->session;
    int rc = engine_submit(e->session.engine, &spec, &f->job, err);
    if (rc == 0) e->sent++;
    return rc;
}

/* Adds the oldest window when it is done. Returns 1 if it was, 0 if not yet. */
static int collect(struct run *e, struct err *err)
{
    struct flight *f = &e->ring[e->score->windows % e->slots];
    struct job_view v;
    job_view(f->job, &v);
    if (!v.done) return 0;
    if (v.finish != FINISH_LENGTH || v.n_scored < f->n)
        return err_set(err, ERR_INTERNAL, "window %zu ended early", e->score->windows);
    const struct job_token *scored = job_prompt(f->job);
    for (size_t i = f->from; i < f->n; i++)
        ppl_add(&e->score->sums, scored[i].logprob);
    job_unref(f->job);
    e->score->windows++;
    return 1;
}

static int run_windows(struct run *e, struct err *err)
{
    struct progress bar;
    struct ppl_window w;
    size_t total = ppl_window_count(&e->score->plan);
    uint64_t start = clock_ns();
    int rc = 0;
    progress_start(&bar, e->tool->log, "evaluating");
    while (rc >= 0 && e->score->windows < total) {
        uint64_t seen = session_news(&e->session);
        rc = 0;
        while (rc == 0 && e->sent - e->score->windows < e->slots &&
               ppl_window_at(&e->score->plan, e->sent, &w))
            rc = submit(e, &w, err);
        if (rc == 0) rc = collect(e, err);
        if (rc >= 0 && tool_stopped(e->tool)) rc = tool_interrupted(err);
        if (rc == 0) session_wait(&e->session, seen);
        e->score->seconds = (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
        char note[40];
        snprintf(note, sizeof note, "%.0f tokens/s",
                 (double)e->score->sums.scored / e->score->seconds);
        progress_set(&bar, (double)e->score->windows / (double)total, note);
    }
    progress_end(&bar);
    for (size_t i = e->score->windows; i < e->sent; i++) {
        job_cancel(e->ring[i % e->slots].job);
        job_unref(e->ring[i % e->slots].job);
    }
    return rc < 0 ? rc : 0;
}

int score_text_read(struct score_text *t, const char *path, struct err *err)
{
    *t = (struct score_text){.path = path};
    int rc = input_read(path, &t->bytes, err);
    if (rc == 0 && t->bytes.len == 0) rc = err_set(err, ERR_INVALID, "%s is empty", path);
    return rc ? rc : input_check_utf8(path, &t->bytes, err);
}

int score_model(struct score *out, const struct tool *t, const char *dir,
                const struct score_text *text, const struct score_options *o, struct err *err)
{
    struct run e = {.tool = t, .score = out};
    *out = (struct score){0};
    int rc = session_open(&e.session, t, &o->session, dir, err);
    if (rc) goto out;
    tokenize(&e, o->max_tokens, &text->bytes);
    const struct engine_info *info = engine_info(e.session.engine);
    rc = score_plan(&out->plan, o, e.tokens.n, info->n_ctx, info->eos_id >= 0, text->path, err);
    if (rc) goto out;
    e.slots = 2 * (size_t)info->max_batch;
    e.ring = mem_calloc(e.slots, sizeof *e.ring);
    e.feed = mem_calloc(out->plan.window + 1, sizeof *e.feed);
    rc = run_windows(&e, err);
    if (rc == 0) ppl_stats(&out->sums, out->bytes, out->words, &out->stats);
out:
    session_close(&e.session);
    free(e.ring);
    free(e.feed);
    tokens_release(&e.tokens);
    return rc;
}
