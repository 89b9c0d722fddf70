/* One row of logits -> one token. Where bias, penalties or bans change it, the row is copied into the thread's
 * scratch before; greedy then takes the largest, and with a filter on (sampler_filter.c) the row goes through
 * several passes to one draw. Without any, a draw is one pass: blocks that stay in L1 give each its largest
 * logit and the sum of exponentials relative to it, of which the row's are made at the end. Source: Milakov and
 * Gimelshein, Online normalizer calculation for softmax (arXiv 1805.02867). The block in which the quantile lies
 * is then computed once more.
 *
 * Randomness is counter-based: draw number `step` of a sequence is a pure function of (seed, stream,
 * step). A generator with state would have to be carried and restored with the sequence, and its
 * numbers would depend on how often somebody asked.
 *
 * Invariant: logits in scratch are never NaN, and a token at -infinity is never drawn. */
#include "engine/run/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/err.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/run/sampler_filter.h"

#define GREEDY_BELOW 1e-5 /* smaller temperatures overflow (logit / temperature) in f32 */
#define DRAW_BLOCK 1024   /* logits; they and their exponentials stay in L1 */

void sampling_default(struct sampling *s)
{
    *s = (struct sampling){.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
}

/* ---- history: distinct ids with counts, in an open-addressed table of indices ---- */

struct seen {
    int32_t id;
    uint32_t generated; /* how often; 0 = only in the prompt */
};
struct sampler_history {
    size_t n, mask;
    struct seen *seen; /* (n) */
    uint32_t *slots;   /* (mask + 1) index into seen plus 1, 0 = free */
};

static struct seen *history_find(struct sampler_history *h, int32_t id)
{
    size_t i = ((uint32_t)id * 2654435769u) & h->mask;
    for (; h->slots[i]; i = (i + 1) & h->mask)
        if (h->seen[h->slots[i] - 1].id == id) return &h->seen[h->slots[i] - 1];
    h->seen[h->n] = (struct seen){.id = id};
    h->slots[i] = (uint32_t)++h->n;
    return &h->seen[h->n - 1];
}

struct sampler_history *sampler_history_new(const int32_t *prompt, size_t n_prompt, size_t max_new)
{
    struct sampler_history *h = mem_calloc(1, sizeof *h);
    size_t most = n_prompt + max_new, slots = 16;
    while (slots < 2 * most)
        slots *= 2;
    h->mask = slots - 1;
    h->seen = mem_calloc(most + 1, sizeof *h->seen);
    h->slots = mem_calloc(slots, sizeof *h->slots);
    for (size_t i = 0; i < n_prompt; i++)
        history_find(h, prompt[i]);
    return h;
}

void sampler_history_free(struct sampler_history *h)
{
    if (!h) return;
    free(h->seen);
    free(h->slots);
    free(h);
}

void sampler_history_add(struct sampler_history *h, int32_t id)
{
    history_find(h, id)->generated++;
}

bool sampling_needs_history(const struct sampling *s)
{
    return s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
}

/* ---- the row ---- */

static void apply_penalties(const struct sampling *s, const struct sampler_history *h, float *x)
{
    for (size_t i = 0; i < h->n; i++) {
        const struct seen *t = &h->seen[i];
        double v = (double)x[t->id];
        v = v < 0 ? v * s->repetition_penalty : v / s->repetition_penalty;
        if (t->generated) v -= s->presence_penalty + (double)t->generated * s->frequency_penalty;
        x[t->id] = (float)v;
    }
}

static void copy_row(const struct sampling *s, const float *logits, size_t vocab, float *x)
{
    if (!s->allowed) {
        for (size_t i = 0; i < vocab; i++)
            x[i] = isnan(logits[i]) ? -INFINITY : logits[i];
        return;
    }
    for (size_t i = 0; i < vocab; i++)
        x[i] = -INFINITY;
    for (size_t i = 0; i < s->n_allowed; i++) {
        float v = logits[s->allowed[i]];
        x[s->allowed[i]] = isnan(v) ? -INFINITY : v;
    }
}

static bool plain_row(const struct sampling *s, const struct sampler_history *h, size_t n_banned)
{
    return !s->allowed && s->n_bias == 0 && n_banned == 0 && !(h && sampling_needs_history(s));
}

/* Everything is at -infinity: the best of the untouched row, within `allowed`. */
static int32_t last_resort(const struct kernels *k, const struct sampling *s, const float *logits,
                           size_t vocab, float *x)
{
    copy_row(s, logits, vocab, x);
    size_t best = k->argmax(x, vocab);
    if (x[best] > -INFINITY || !s->allowed || s->n_allowed == 0) return (int32_t)best;
    int32_t lowest = s->allowed[0];
    for (size_t i = 1; i < s->n_allowed; i++)
        if (s->allowed[i] < lowest) lowest = s->allowed[i];
    return lowest;
}

static int32_t draw(const struct sampling *s, struct candidates *c, float max, double u)
{
    if (s->top_k > 0) filter_top_k(c, (size_t)s->top_k);
    c->k->exp_to(c->probs, c->logits, c->n, max, (float)(1 / s->temperature));
    for (size_t i = 0; i < c->n; i++) /* a fast exp() may not reach 0 */
        c->probs[i] = c->logits[i] == -INFINITY ? 0 : c->probs[i];
    if (s->typical_p < 1) filter_typical_p(c, s->typical_p, max, 1 / s->temperature);
    if (s->top_p < 1) filter_top_p(c, s->top_p);
    if (s->min_p > 0) filter_min_p(c, s->min_p);
    return candidates_draw(c, u);
}

static bool no_filters(const struct sampling *s)
{
    return s->top_k <= 0 && s->typical_p >= 1 && s->top_p >= 1 && s->min_p <= 0;
}

/* Of the row's block that begins there. */
static size_t block_len(const struct candidates *c, size_t begin)
{
    return c->n - begin < DRAW_BLOCK ? c->n - begin : DRAW_BLOCK;
}

/* A draw from the whole row x: the token at quantile u. False, and nothing drawn, where something in the row is not
 * finite but -infinity, or all of it is that. */
static bool draw_online(const struct candidates *c, const float *x, double temperature, double u,
                        int32_t *id)
{
    float *exps = c->probs, *max = (float *)(void *)c->ids, by = (float)(1 / temperature);
    double *sum = (double *)(void *)c->score, total = 0, below;
    size_t blocks = (c->n + DRAW_BLOCK - 1) / DRAW_BLOCK;

    for (size_t b = 0; b < blocks; b++) {
        size_t begin = b * DRAW_BLOCK, n = block_len(c, begin);
        max[b] = c->k->max(x + begin, n);
        sum[b] = max[b] == -INFINITY ? 0 : c->k->exp_to(exps, x + begin, n, max[b], by);
    }
    float most = c->k->max(max, blocks);
    if (most == -INFINITY) return false;
    for (size_t b = 0; b < blocks; b++) {
        if (sum[b] > 0) sum[b] *= exp(((double)max[b] - (double)most) / temperature);
        total += sum[b];
    }
    if (!isfinite(total)) return false;
    double target = u * total;
    size_t choice = quantile_block(sum, blocks, target, &below);
    size_t begin = choice * DRAW_BLOCK, n = block_len(c, begin);
    double scale = c->k->exp_to(exps, x + begin, n, max[choice], by) / sum[choice];
    *id = (int32_t)(begin + quantile(exps, n, 0, (target - below) * scale));
    return true;
}

static size_t row_floats(size_t vocab)
{
    return mem_round_up(vocab, 16);
}

size_t sampler_scratch_bytes(int32_t vocab)
{
    return 4 * row_floats((size_t)vocab) * sizeof(float) + SELECT_BUCKETS * sizeof(double);
}

static struct candidates carve(const struct kernels *k, size_t vocab, void *scratch)
{
    float *f = scratch;
    size_t row = row_floats(vocab);
    return (struct candidates){.k = k,
                               .n = vocab,
                               .whole = true,
                               .logits = f,
                               .probs = f + row,
                               .score = f + 2 * row,
                               .ids = (int32_t *)(void *)(f + 3 * row),
                               .hist = (double *)(void *)(f + 4 * row)};
}

int32_t sample(const struct kernels *k, const struct sampling *s, const struct sampler_history *h,
               const float *logits, int32_t vocab, const int32_t *banned, size_t n_banned,
               uint64_t step, void *scratch)
{
    size_t v = (size_t)vocab;
    bool greedy = !(s->temperature >= GREEDY_BELOW) || s->top_k == 1;
    bool plain = plain_row(s, h, n_banned), online = !greedy && no_filters(s);
    struct candidates c = carve(k, v, scratch);
    int32_t id;
    if (greedy && plain) {
        size_t best = k->argmax(logits, v);
        if (isfinite(logits[best])) return (int32_t)best;
    }
    double u = greedy ? 0 : rng_uniform(s->seed, s->stream, step);
    if (online && plain && draw_online(&c, logits, s->temperature, u, &id)) return id;
    copy_row(s, logits, v, c.logits);
    for (size_t i = 0; i < s->n_bias; i++)
        c.logits[s->bias[i].id] += s->bias[i].bias;
    if (h && sampling_needs_history(s)) apply_penalties(s, h, c.logits);
    for (size_t i = 0; i < n_banned; i++)
        c.logits[banned[i]] = -INFINITY;
    if (online && !plain && draw_online(&c, c.logits, s->temperature, u, &id)) return id;
    size_t best = k->argmax(c.logits, v);
    float max = c.logits[best];
    if (max == -INFINITY) return last_resort(k, s, logits, v, c.logits);
    if (greedy || max == INFINITY) return (int32_t)best;
    return draw(s, &c, max, u);
}
