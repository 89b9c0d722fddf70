/* ttm eval: perplexity of a text. Windows and sums are those of POST /v1/perplexity (engine/run/
 * perplexity.h), so that the two agree; the windows go through the engine as scoring jobs, several at
 * once, because a batch of windows costs less than one after another.
 *
 * The jobs wait in a ring; they may finish in any order but are summed in the order of the text, so
 * that the answer does not depend on timing to the last bit. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/gpt2/tokenizer.h"
#include "engine/run/perplexity.h"
#include "models/input.h"
#include "models/options.h"
#include "models/progress.h"
#include "models/session.h"

struct eval_args {
    const char *text, *prefix;
    int64_t window, stride, max_tokens; /* 0 = default */
    bool json;
    struct session_flags session;
};

#define FIELD(f) offsetof(struct eval_args, f)
static const struct option table[] = {
    {"text", 0, OPTION_STRING, FIELD(text), "FILE", 0, 0, NULL,
     "the text, UTF-8; - = standard input (required)"},
    {"window", 0, OPTION_INT, FIELD(window), "N", 2, 1 << 24, NULL,
     "tokens that the model sees at once (default its context)"},
    {"stride", 0, OPTION_INT, FIELD(stride), "N", 1, 1 << 24, NULL,
     "tokens between windows, prefix none (default the window: disjoint)"},
    {"prefix", 0, OPTION_STRING, FIELD(prefix), "P", 0, 0, "none|bos",
     "bos: end-of-text goes first and every token is scored (default none)"},
    {"max-tokens", 0, OPTION_INT, FIELD(max_tokens), "N", 1, 1ll << 40, NULL,
     "only so many tokens from the beginning"},
    {"json", 0, OPTION_BOOL, FIELD(json), NULL, 0, 0, NULL, "one JSON object"},
    SESSION_OPTIONS(FIELD(session)),
};
static const struct options options = {
    .command = "eval",
    .arguments = "DIR",
    .n_arguments = 1,
    .about =
        "Perplexity of a text under the model in DIR, over windows, as POST /v1/perplexity\n"
        "computes it.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

struct flight {
    struct job *job;
    size_t from, n; /* entries [from, n) of job_prompt() are scored */
};

struct eval {
    const struct tool *tool;
    struct session session;
    struct tokens tokens;
    struct ppl_plan plan;
    struct ppl_sums sums;
    size_t windows, bytes, words; /* done so far; of the evaluated text */
    double seconds;
    struct flight *ring; /* (slots) windows [done, sent) are in slot i % slots */
    size_t slots, sent;
    int32_t *feed; /* (window) */
};

static int set_plan(struct eval *e, const struct eval_args *a, struct err *err)
{
    const struct engine_info *info = engine_info(e->session.engine);
    e->plan.prefix = !strcmp(a->prefix, "bos") ? PPL_PREFIX_BOS : PPL_PREFIX_NONE;
    e->plan.window = a->window ? (size_t)a->window : (size_t)info->n_ctx;
    e->plan.stride = a->stride ? (size_t)a->stride : e->plan.window;
    e->plan.n_tokens = e->tokens.n;
    if (e->plan.window > (size_t)info->n_ctx)
        return err_set_param(err, ERR_INVALID, "window",
                             "--window: %zu tokens are more than the model's context of %d",
                             e->plan.window, info->n_ctx);
    if (e->plan.stride > e->plan.window)
        return err_set_param(err, ERR_INVALID, "stride",
                             "--stride: %zu is more than the window of %zu tokens", e->plan.stride,
                             e->plan.window);
    if (e->plan.prefix == PPL_PREFIX_BOS && info->eos_id < 0)
        return err_set_param(err, ERR_INVALID, "prefix",
                             "--prefix: the model has no end-of-text token");
    if (ppl_window_count(&e->plan) == 0)
        return err_set(err, ERR_INVALID, "%s: %zu tokens are too few to score any", a->text,
                       e->tokens.n);
    return 0;
}

/* Tokens, and the bytes and words that they stand for. */
static void tokenize(struct eval *e, const struct eval_args *a, const struct buf *text)
{
    const struct tokenizer *t = engine_tokenizer(e->session.engine);
    tokenizer_encode(t, text->data, text->len, true, &e->tokens);
    e->bytes = text->len;
    e->words = ppl_count_words(text->data, text->len);
    if (!a->max_tokens || (size_t)a->max_tokens >= e->tokens.n) return;
    struct buf kept = {0};
    e->tokens.n = (size_t)a->max_tokens;
    tokenizer_decode(t, e->tokens.ids, e->tokens.n, true, &kept);
    e->bytes = kept.len;
    e->words = kept.len ? ppl_count_words(kept.data, kept.len) : 0;
    buf_release(&kept);
}

static int submit(struct eval *e, const struct ppl_window *w, struct err *err)
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
    spec.notify = session_notify;
    spec.notify_arg = &e->session;
    int rc = engine_submit(e->session.engine, &spec, &f->job, err);
    if (rc == 0) e->sent++;
    return rc;
}

/* Adds the oldest window when it is done. Returns 1 if it was, 0 if not yet. */
static int collect(struct eval *e, struct err *err)
{
    struct flight *f = &e->ring[e->windows % e->slots];
    struct job_view v;
    job_view(f->job, &v);
    if (!v.done) return 0;
    if (v.finish != FINISH_LENGTH || v.n_scored < f->n)
        return err_set(err, ERR_INTERNAL, "window %zu ended early", e->windows);
    const struct job_token *scored = job_prompt(f->job);
    for (size_t i = f->from; i < f->n; i++)
        ppl_add(&e->sums, scored[i].logprob);
    job_unref(f->job);
    e->windows++;
    return 1;
}

static int run(struct eval *e, struct err *err)
{
    struct progress bar;
    struct ppl_window w;
    size_t total = ppl_window_count(&e->plan);
    uint64_t start = clock_ns();
    int rc = 0;
    progress_start(&bar, e->tool->log, "evaluating");
    while (rc >= 0 && e->windows < total) {
        uint64_t seen = session_news(&e->session);
        rc = 0;
        while (rc == 0 && e->sent - e->windows < e->slots && ppl_window_at(&e->plan, e->sent, &w))
            rc = submit(e, &w, err);
        if (rc == 0) rc = collect(e, err);
        if (rc >= 0 && tool_stopped(e->tool)) rc = tool_interrupted(err);
        if (rc == 0) session_wait(&e->session, seen);
        e->seconds = (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
        char note[40];
        snprintf(note, sizeof note, "%.0f tokens/s", (double)e->sums.scored / e->seconds);
        progress_set(&bar, (double)e->windows / (double)total, note);
    }
    progress_end(&bar);
    for (size_t i = e->windows; i < e->sent; i++) {
        job_cancel(e->ring[i % e->slots].job);
        job_unref(e->ring[i % e->slots].job);
    }
    return rc < 0 ? rc : 0;
}

static void print_text(const struct eval *e, const struct ppl_stats *s, FILE *f)
{
    fprintf(f, "tokens           %zu, %zu scored in %zu windows of %zu, stride %zu\n", e->tokens.n,
            e->sums.scored, e->windows, e->plan.window, e->plan.stride);
    fprintf(f, "nll mean         %.6f +- %.6f (standard error)\n", s->nll_mean, s->stderr_mean);
    fprintf(f, "perplexity       %.4f\n", s->perplexity);
    fprintf(f, "bits per byte    %.6f\n", s->bits_per_byte);
    fprintf(f, "word perplexity  %.4f (%zu words)\n", s->word_perplexity, e->words);
    fprintf(f, "byte perplexity  %.6f (%zu bytes)\n", s->byte_perplexity, e->bytes);
    fprintf(f, "speed            %.1f tokens/s, %.1f s\n", (double)e->sums.scored / e->seconds,
            e->seconds);
}

static void print_json(const struct eval *e, const struct ppl_stats *s, FILE *f)
{
    fprintf(f,
            "{\"tokens\": %zu, \"scored_tokens\": %zu, \"nll_sum\": %.17g, \"nll_mean\": %.17g, ",
            e->tokens.n, e->sums.scored, e->sums.nll, s->nll_mean);
    fprintf(f, "\"perplexity\": %.17g, \"bits_per_byte\": %.17g, \"word_perplexity\": %.17g, ",
            s->perplexity, s->bits_per_byte, s->word_perplexity);
    fprintf(f, "\"byte_perplexity\": %.17g, \"stderr\": %.17g, \"windows\": %zu, ",
            s->byte_perplexity, s->stderr_mean, e->windows);
    fprintf(
        f, "\"window\": %zu, \"stride\": %zu, \"prefix\": \"%s\", \"bytes\": %zu, \"words\": %zu, ",
        e->plan.window, e->plan.stride, e->plan.prefix == PPL_PREFIX_BOS ? "bos" : "none", e->bytes,
        e->words);
    fprintf(f, "\"seconds\": %.6f, \"tokens_per_s\": %.3f}\n", e->seconds,
            (double)e->sums.scored / e->seconds);
}

static int evaluate(struct eval *e, const struct eval_args *a, const struct buf *text,
                    struct err *err)
{
    tokenize(e, a, text);
    int rc = set_plan(e, a, err);
    if (rc) return rc;
    e->slots = 2 * (size_t)engine_info(e->session.engine)->max_batch;
    e->ring = mem_calloc(e->slots, sizeof *e->ring);
    e->feed = mem_calloc(e->plan.window + 1, sizeof *e->feed);
    rc = run(e, err);
    if (rc == 0) {
        struct ppl_stats s;
        ppl_stats(&e->sums, e->bytes, e->words, &s);
        (a->json ? print_json : print_text)(e, &s, e->tool->out);
    }
    return rc;
}

int cmd_eval(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct eval_args a = {.prefix = "none", .session = SESSION_FLAGS_DEFAULT};
    struct eval e = {.tool = t};
    struct buf text = {0};
    const char *dir;
    int rc = options_parse(&options, &a, &dir, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    if (!a.text)
        return err_set_param(err, ERR_MISSING, "text", "--text is missing: the file to score");
    rc = input_read(a.text, &text, err);
    if (rc == 0 && text.len == 0) rc = err_set(err, ERR_INVALID, "%s is empty", a.text);
    if (rc == 0) rc = input_check_utf8(a.text, &text, err);
    if (rc == 0) {
        rc = session_open(&e.session, t, &a.session, dir, err);
        if (rc == 0) rc = evaluate(&e, &a, &text, err);
        session_close(&e.session);
    }
    free(e.ring);
    free(e.feed);
    tokens_release(&e.tokens);
    buf_release(&text);
    return rc;
}
