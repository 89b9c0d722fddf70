/* Two models on one text. The divergence needs whole distributions, which the engine does not hand out;
 * so this goes below it, to gpt2_forward() and gpt2_logits(). A window is fed in chunks, and the
 * logits of both models are made for a few rows of a chunk at a time: memory is 2 * ROWS * V floats,
 * whatever the window.
 *
 * Differences are small beside the spread of the tokens' own surprises, but both models are surprised by the
 * same tokens: the standard error is that of the paired difference. That of the difference of the
 * perplexities P = exp(mean) follows by the delta method: the variance of P_b b - P_a a, where the
 * covariance of a and b comes from the variance of b - a, so that equal models give exactly 0.
 *
 * Rows are computed by all threads, and summed in the order of the text. */
#include "models/eval_compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/gpt2/model.h"
#include "engine/gpt2/tokenizer.h"
#include "models/eval_metrics.h"
#include "models/progress.h"

enum { CHUNK = 128, ROWS = 16, REFERENCE = 0, MODEL = 1 };

struct side {
    struct gpt2 *m;
    struct tokens tokens;
    int32_t eos; /* -1 = none */
    struct kv_store kv;
    float *hidden;  /* (CHUNK, C) */
    float *logits;  /* (ROWS, V) */
    float *scratch; /* parts of one mapping */
    void *memory;
    size_t memory_bytes;
};

struct row {
    double nll[2], kl;
    bool agree; /* on the most probable token */
};

/* Sums for a mean and its standard error. */
struct moments {
    size_t n;
    double sum, sum_sq;
};

struct compare {
    const struct tool *tool;
    struct compute compute;
    struct side side[2];
    struct ppl_plan plan;
    int32_t *blocks; /* 0, 1, 2, ...: each side has a store of its own */
    int32_t *feed;   /* (window + 1) */
    struct row rows[ROWS];
    const int32_t *targets; /* (rows of the block) what each is to predict */
    struct moments nll[2], difference, kl;
    double kl_max;
    size_t agree, windows;
    double seconds;
};

/* ---- sums ---- */

static void moments_add(struct moments *m, double x)
{
    m->n++;
    m->sum += x;
    m->sum_sq += x * x;
}

static double mean(const struct moments *m)
{
    return m->sum / (double)m->n;
}

static double perplexity(const struct moments *nll)
{
    return exp(fmin(mean(nll), 700)); /* exp(709.8) is the end of doubles */
}

static double variance(const struct moments *m)
{
    if (m->n < 2) return 0;
    return fmax(m->sum_sq - m->sum * m->sum / (double)m->n, 0) / (double)(m->n - 1);
}

static double mean_stderr(const struct moments *m)
{
    return sqrt(variance(m) / (double)m->n);
}

static double perplexity_stderr(const struct compare *c)
{
    double pa = perplexity(&c->nll[REFERENCE]), pb = perplexity(&c->nll[MODEL]);
    double va = variance(&c->nll[REFERENCE]), vb = variance(&c->nll[MODEL]);
    double cov = (va + vb - variance(&c->difference)) / 2;
    double v = pb * pb * vb + pa * pa * va - 2 * pa * pb * cov;
    return sqrt(fmax(v, 0) / (double)c->difference.n);
}

/* ---- rows ---- */

static double log_sum_exp(const float *x, size_t n, float max)
{
    double sum = exp((double)x[0] - (double)max);
    for (size_t i = 1; i < n; i++)
        sum += exp((double)x[i] - (double)max);
    return log(sum) + (double)max;
}

static void compare_row(const struct compare *c, size_t i, struct row *out)
{
    const struct kernels *k = c->compute.k;
    size_t v = (size_t)c->side[REFERENCE].m->cfg.vocab_size;
    const float *a = c->side[REFERENCE].logits + i * v, *b = c->side[MODEL].logits + i * v;
    double la = log_sum_exp(a, v, k->max(a, v)), lb = log_sum_exp(b, v, k->max(b, v));
    double kl = 0;
    for (size_t j = 0; j < v; j++) {
        double log_p = (double)a[j] - la;
        kl += exp(log_p) * (log_p - ((double)b[j] - lb));
    }
    out->nll[REFERENCE] = la - (double)a[c->targets[i]];
    out->nll[MODEL] = lb - (double)b[c->targets[i]];
    out->kl = fmax(kl, 0); /* negative by rounding only */
    if (!isfinite(kl)) out->kl = NAN;
    out->agree = k->argmax(a, v) == k->argmax(b, v);
}

static void compare_rows(void *arg, size_t begin, size_t end, int worker)
{
    struct compare *c = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        compare_row(c, i, &c->rows[i]);
}

static int add_rows(struct compare *c, int n, struct err *err)
{
    for (int i = 0; i < n; i++) {
        const struct row *r = &c->rows[i];
        if (!isfinite(r->nll[REFERENCE]) || !isfinite(r->nll[MODEL]) || !isfinite(r->kl))
            return err_set(err, ERR_INVALID, "the logits for token %zu are not finite",
                           c->difference.n + 1);
        moments_add(&c->nll[REFERENCE], r->nll[REFERENCE]);
        moments_add(&c->nll[MODEL], r->nll[MODEL]);
        moments_add(&c->difference, r->nll[MODEL] - r->nll[REFERENCE]);
        moments_add(&c->kl, r->kl);
        c->kl_max = fmax(c->kl_max, r->kl);
        c->agree += r->agree;
    }
    return 0;
}

/* ---- windows ---- */

static void feed_chunk(struct compare *c, struct side *s, int at, int n)
{
    struct gpt2_seq seq = {.tokens = c->feed + at, .n = n, .pos0 = at, .blocks = c->blocks};
    struct gpt2_step step = {.seqs = &seq, .n_seqs = 1};
    gpt2_forward(s->m, &c->compute, &s->kv, &step, s->hidden, s->scratch);
}

/* The rows [first, n) of the chunk that was just fed from position `at`. */
static int score_chunk(struct compare *c, int at, int first, int n, struct err *err)
{
    int rc = 0;
    for (int row = first; rc == 0 && row < n; row += ROWS) {
        int32_t numbers[ROWS];
        int rows = n - row < ROWS ? n - row : ROWS;
        for (int i = 0; i < rows; i++)
            numbers[i] = row + i;
        for (int k = 0; k < 2; k++)
            gpt2_logits(c->side[k].m, &c->compute, c->side[k].hidden, numbers, rows,
                        c->side[k].logits, c->side[k].scratch);
        c->targets = c->feed + at + row + 1;
        pool_for(c->compute.pool, (size_t)rows, 1, compare_rows, c);
        rc = add_rows(c, rows, err);
    }
    return rc;
}

static int run_window(struct compare *c, const struct ppl_window *w, struct err *err)
{
    int n = 0, rc = 0;
    if (w->bos) c->feed[n++] = c->side[REFERENCE].eos;
    int first = n + (int)(w->score - w->begin) - 1; /* the row that predicts the first scored */
    memcpy(c->feed + n, c->side[REFERENCE].tokens.ids + w->begin,
           (w->end - w->begin) * sizeof *c->feed);
    n += (int)(w->end - w->begin) - 1; /* the last token is only predicted */
    for (int at = 0; rc == 0 && at < n; at += CHUNK) {
        int part = n - at < CHUNK ? n - at : CHUNK;
        feed_chunk(c, &c->side[REFERENCE], at, part);
        feed_chunk(c, &c->side[MODEL], at, part);
        if (first < at + part) rc = score_chunk(c, at, first > at ? first - at : 0, part, err);
        if (rc == 0 && tool_stopped(c->tool)) rc = tool_interrupted(err);
    }
    return rc;
}

static int run(struct compare *c, struct err *err)
{
    struct progress bar;
    struct ppl_window w;
    size_t total = ppl_window_count(&c->plan);
    uint64_t start = clock_ns();
    int rc = 0;
    progress_start(&bar, c->tool->log, "comparing");
    while (rc == 0 && ppl_window_at(&c->plan, c->windows, &w)) {
        rc = run_window(c, &w, err);
        c->windows++;
        progress_set(&bar, (double)c->windows / (double)total, NULL);
    }
    progress_end(&bar);
    c->seconds = (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
    return rc;
}

/* ---- preparation ---- */

static void on_progress(void *arg, double fraction)
{
    progress_set(arg, fraction, NULL);
}

static int map_side(struct side *s, int threads, struct err *err)
{
    size_t c = (size_t)s->m->cfg.n_embd, align = 16;
    size_t hidden = mem_round_up(CHUNK * c, align);
    size_t logits = mem_round_up(ROWS * (size_t)s->m->cfg.vocab_size, align);
    size_t scratch = gpt2_scratch_floats(s->m, CHUNK, threads);
    if (scratch < gpt2_logits_floats(s->m, ROWS)) scratch = gpt2_logits_floats(s->m, ROWS);
    s->memory_bytes = (hidden + logits + scratch) * sizeof(float);
    int rc = mem_map(&s->memory, s->memory_bytes, "rows and logits", err);
    if (rc) return rc;
    s->hidden = s->memory;
    s->logits = s->hidden + hidden;
    s->scratch = s->logits + logits;
    return 0;
}

static int open_side(struct compare *c, struct side *s, const char *dir,
                     const struct score_text *text, const struct score_options *o, struct err *err)
{
    struct progress bar;
    struct tokenizer *t = NULL;
    int rc = tokenizer_open(&t, dir, err);
    if (rc) return rc;
    tokenizer_encode(t, text->bytes.data, text->bytes.len, true, &s->tokens);
    if (o->max_tokens && s->tokens.n > o->max_tokens) s->tokens.n = o->max_tokens;
    progress_start(&bar, c->tool->log, "loading");
    struct gpt2_options how = {.dtype = s == &c->side[MODEL]
                                            ? (enum gpt2_dtype)gpt2_dtype_parse(o->session.dtype)
                                            : GPT2_AUTO,
                               .prefill_rows = CHUNK,
                               .rates_file = "auto",
                               .cpu = &c->tool->cpu,
                               .progress = on_progress,
                               .progress_arg = &bar};
    rc = gpt2_open_with(&s->m, dir, &c->compute, &how, err);
    progress_end(&bar);
    if (rc == 0 && tokenizer_vocab(t) > s->m->cfg.vocab_size)
        rc =
            err_set(err, ERR_INVALID, "%s: the tokenizer has ids up to %d, the model only up to %d",
                    dir, (int)tokenizer_vocab(t) - 1, s->m->cfg.vocab_size - 1);
    if (rc == 0) {
        int32_t eos = s->m->cfg.eos_token_id;
        s->eos = eos >= 0 && eos < s->m->cfg.vocab_size ? eos : tokenizer_eos(t);
        rc = map_side(s, pool_threads(c->compute.pool), err);
    }
    tokenizer_close(t);
    return rc;
}

static int check_sides(const struct compare *c, const char *reference, const char *dir,
                       struct err *err)
{
    const struct side *a = &c->side[REFERENCE], *b = &c->side[MODEL];
    if (a->m->cfg.vocab_size != b->m->cfg.vocab_size)
        return err_set(err, ERR_INVALID,
                       "%s has a vocabulary of %d tokens and %s of %d: expected the same",
                       reference, a->m->cfg.vocab_size, dir, b->m->cfg.vocab_size);
    if (a->tokens.n != b->tokens.n || a->eos != b->eos ||
        (a->tokens.n &&
         memcmp(a->tokens.ids, b->tokens.ids, a->tokens.n * sizeof *a->tokens.ids) != 0))
        return err_set(err, ERR_INVALID, "%s and %s make different tokens of the text", reference,
                       dir);
    return 0;
}

static int prepare(struct compare *c, const char *reference, const char *dir,
                   const struct score_text *text, const struct score_options *o, struct err *err)
{
    struct side *a = &c->side[REFERENCE], *b = &c->side[MODEL];
    c->compute.k = kernels_choose(&c->tool->cpu, o->session.kernels);
    if (!c->compute.k)
        return err_set_param(err, ERR_INVALID, "kernels",
                             "--kernels: \"%.40s\" is unknown or cannot run on this CPU",
                             o->session.kernels);
    int rc = pool_new(&c->compute.pool, cpu_threads(&c->tool->cpu, (int)o->session.threads), err);
    if (rc == 0) rc = open_side(c, a, reference, text, o, err);
    if (rc == 0) rc = open_side(c, b, dir, text, o, err);
    if (rc == 0) rc = check_sides(c, reference, dir, err);
    if (rc) return rc;
    int n_ctx = a->m->cfg.n_positions;
    if (b->m->cfg.n_positions < n_ctx) n_ctx = b->m->cfg.n_positions;
    rc = score_plan(&c->plan, o, a->tokens.n, n_ctx, a->eos >= 0, text->path, err);
    if (rc) return rc;
    int n_blocks = (int)(c->plan.window / KV_BLOCK) + 1;
    c->feed = mem_calloc(c->plan.window + 1, sizeof *c->feed);
    c->blocks = mem_calloc((size_t)n_blocks, sizeof *c->blocks);
    for (int i = 0; i < n_blocks; i++)
        c->blocks[i] = i;
    int kv = kv_dtype_parse(o->session.kv_dtype, b->m->dtype); /* the flag is checked */
    rc = kv_store_init(&a->kv, &a->m->cfg, DTYPE_F32, n_blocks, err);
    return rc ? rc : kv_store_init(&b->kv, &b->m->cfg, (enum dtype)kv, n_blocks, err);
}

static void release(struct compare *c)
{
    for (int i = 0; i < 2; i++) {
        struct side *s = &c->side[i];
        gpt2_close(s->m);
        kv_store_release(&s->kv);
        mem_unmap(s->memory, s->memory_bytes);
        tokens_release(&s->tokens);
    }
    pool_free(c->compute.pool);
    free(c->blocks);
    free(c->feed);
}

/* ---- results ---- */

static void print_text(const struct compare *c, FILE *f)
{
    double pa = perplexity(&c->nll[REFERENCE]), pb = perplexity(&c->nll[MODEL]);
    double agree = (double)c->agree / (double)c->kl.n;
    fprintf(f, "tokens           %zu, %zu scored in %zu windows of %zu, stride %zu\n",
            c->plan.n_tokens, c->kl.n, c->windows, c->plan.window, c->plan.stride);
    fprintf(f, "perplexity       %.4f, reference %.4f\n", pb, pa);
    fprintf(f, "difference       %+.4f +- %.4f (paired standard error), %+.3f %%\n", pb - pa,
            perplexity_stderr(c), 100 * (pb / pa - 1));
    fprintf(f, "nll difference   %+.6f +- %.6f\n", mean(&c->difference),
            mean_stderr(&c->difference));
    fprintf(f, "KL divergence    %.6f +- %.6f, at most %.4f (nats, from the reference)\n",
            mean(&c->kl), mean_stderr(&c->kl), c->kl_max);
    fprintf(f, "top-1 agreement  %.4f +- %.4f\n", agree, proportion_stderr(c->agree, c->kl.n));
    fprintf(f, "speed            %.1f tokens/s, %.1f s\n", (double)c->kl.n / c->seconds,
            c->seconds);
}

static void print_json(const struct compare *c, FILE *f)
{
    double pa = perplexity(&c->nll[REFERENCE]), pb = perplexity(&c->nll[MODEL]);
    fprintf(f, "{\"tokens\": %zu, \"scored_tokens\": %zu, \"windows\": %zu, \"window\": %zu, ",
            c->plan.n_tokens, c->kl.n, c->windows, c->plan.window);
    fprintf(f, "\"stride\": %zu, \"prefix\": \"%s\", ", c->plan.stride,
            c->plan.prefix == PPL_PREFIX_BOS ? "bos" : "none");
    fprintf(f, "\"perplexity_reference\": %.17g, \"perplexity\": %.17g, ", pa, pb);
    fprintf(f, "\"perplexity_difference\": %.17g, \"perplexity_difference_stderr\": %.17g, ",
            pb - pa, perplexity_stderr(c));
    fprintf(f, "\"nll_difference\": %.17g, \"nll_difference_stderr\": %.17g, ",
            mean(&c->difference), mean_stderr(&c->difference));
    fprintf(f, "\"kl_mean\": %.17g, \"kl_stderr\": %.17g, \"kl_max\": %.17g, ", mean(&c->kl),
            mean_stderr(&c->kl), c->kl_max);
    fprintf(f, "\"top1_agreement\": %.17g, \"top1_agreement_stderr\": %.17g, \"seconds\": %.6f}\n",
            (double)c->agree / (double)c->kl.n, proportion_stderr(c->agree, c->kl.n), c->seconds);
}

int eval_compare(const struct tool *t, const char *reference, const char *dir,
                 const struct score_text *text, const struct score_options *o, bool json,
                 struct err *err)
{
    struct compare c = {.tool = t};
    int rc = prepare(&c, reference, dir, text, o, err);
    if (rc == 0) rc = run(&c, err);
    if (rc == 0) (json ? print_json : print_text)(&c, t->out);
    release(&c);
    return rc;
}
