/* Filters without sorting the vocabulary. Each one asks: going down from the best score, at which
 * score has a given weight (a count for top_k, probability for the others) been collected? Radix
 * selection answers in three passes: weights are added up by the leading 11 bits of the score, then
 * within the bucket where the target is crossed by the next 11, then by the last 10. That is linear
 * for every input, unlike quickselect, and it gives the exact border, so that ties can be resolved
 * by id; a sort of 50257 floats would cost more than a decode step's share of the batch.
 *
 * Before that, what certainly falls out is dropped block by block using the vectorised max: a block
 * whose largest element is below a safe bound is not looked at again.
 *
 * Invariant: candidates stay in the order of their ids and every sum runs in that order, so that
 * the outcome is a function of the logits alone. */
#include "engine/run/sampler_filter.h"

#include <math.h>
#include <string.h>

#include "engine/base/err.h"

#define BLOCK 64
#define NEAR 0.001f /* of the best probability */

/* A number that is ordered as the floats are (no NaN; both zeros are equal). */
static inline uint32_t order_key(float f)
{
    uint32_t u;
    f += 0.0f; /* -0 becomes +0 */
    memcpy(&u, &f, sizeof u);
    return u ^ (u >> 31 ? UINT32_MAX : 0x80000000u);
}

static int32_t id_of(const struct candidates *c, size_t i)
{
    return c->whole ? (int32_t)i : c->ids[i];
}

static void keep(struct candidates *c, size_t to, size_t from)
{
    c->ids[to] = id_of(c, from);
    c->logits[to] = c->logits[from];
    c->probs[to] = c->probs[from];
    c->score[to] = c->score[from];
}

static void kept(struct candidates *c, size_t n)
{
    c->n = n;
    c->whole = false;
}

/* Keep the candidates with x[i] >= bound; x is one of c's arrays. */
static void keep_at_least(struct candidates *c, const float *x, float bound)
{
    size_t n = 0;
    for (size_t b = 0; b < c->n; b += BLOCK) {
        size_t end = b + BLOCK < c->n ? b + BLOCK : c->n;
        if (c->k->max(x + b, end - b) < bound) continue;
        for (size_t i = b; i < end; i++)
            if (x[i] >= bound) keep(c, n++, i);
    }
    kept(c, n);
}

/* Where selection stops: all with key > `key` are in; `above` is their weight. */
struct border {
    uint32_t key;
    double above;
};

/* Narrow the border by one digit of the key: among the scores whose key agrees with b->key in the
 * bits of `mask`. Returns 0 when even all of them do not reach the target. */
static int select_digit(const float *score, const float *weight, size_t n, double target,
                        uint32_t mask, int shift, int bits, double *hist, struct border *b)
{
    uint32_t digits = 1u << bits;
    memset(hist, 0, digits * sizeof *hist);
    for (size_t i = 0; i < n; i++) {
        uint32_t key = order_key(score[i]);
        if ((key & mask) == b->key)
            hist[(key >> shift) & (digits - 1)] += weight ? (double)weight[i] : 1.0;
    }
    uint32_t last =
        0; /* lowest digit that holds weight: sums of parts may miss their total by an ulp */
    double above = b->above, above_last = above;
    for (uint32_t d = digits; d-- > 0;) {
        if (hist[d] > 0) last = d, above_last = above;
        if (above + hist[d] >= target && hist[d] > 0) break;
        above += hist[d];
    }
    int reached = above_last + hist[last] >= target;
    b->key |= last << shift;
    b->above = above_last;
    return reached;
}

/* The border at which the weight of the best scores reaches `target`; 0 when all together do not. */
static int select_border(const float *score, const float *weight, size_t n, double target,
                         double *hist, struct border *b)
{
    *b = (struct border){0};
    if (!select_digit(score, weight, n, target, 0, 21, 11, hist, b)) return 0;
    select_digit(score, weight, n, target, 0xffe00000u, 10, 11, hist, b);
    select_digit(score, weight, n, target, 0xfffffc00u, 0, 10, hist, b);
    return 1;
}

/* Keep what lies above the border, and of those on it, in order of ids, as many as the target needs. */
static void keep_above(struct candidates *c, const float *score, const float *weight, double target,
                       struct border b)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++) {
        uint32_t key = order_key(score[i]);
        if (key < b.key) continue;
        if (key == b.key) {
            if (b.above >= target && n > 0) continue;
            b.above += weight ? (double)weight[i] : 1.0;
        }
        keep(c, n++, i);
    }
    kept(c, n);
}

void filter_top_k(struct candidates *c, size_t k)
{
    if (k >= c->n) return;
    struct border b;
    size_t blocks = (c->n + BLOCK - 1) / BLOCK;
    if (blocks >= 2 * k) { /* at least k candidates reach the k-th largest maximum of the blocks */
        for (size_t i = 0; i < blocks; i++)
            c->score[i] =
                c->k->max(c->logits + i * BLOCK, (i + 1) * BLOCK < c->n ? BLOCK : c->n - i * BLOCK);
        select_border(c->score, NULL, blocks, (double)k, c->hist, &b);
        float bound = INFINITY;
        for (size_t i = 0; i < blocks; i++)
            if (order_key(c->score[i]) == b.key) bound = c->score[i];
        keep_at_least(c, c->logits, bound);
    }
    select_border(c->logits, NULL, c->n, (double)k, c->hist, &b);
    keep_above(c, c->logits, NULL, (double)k, b);
}

/* What the candidates of at least `bound` weigh. */
static double weight_from(const struct candidates *c, float bound)
{
    double sum = 0;
    for (size_t b = 0; b < c->n; b += BLOCK) {
        size_t end = b + BLOCK < c->n ? b + BLOCK : c->n;
        if (c->k->max(c->probs + b, end - b) < bound) continue;
        for (size_t i = b; i < end; i++)
            sum += c->probs[i] >= bound ? (double)c->probs[i] : 0;
    }
    return sum;
}

void filter_top_p(struct candidates *c, double p)
{
    double total = candidates_sum(c), target = p * total;
    /* What lies below this bound weighs less than 1 - p in all: never among the best p. */
    float bound = (float)((1.0 - p) * 0.999 * total / (double)c->n);
    /* Mostly a few tokens have nearly all the weight: when those near the best reach the target, the border
     * is among them. */
    float near = NEAR * c->k->max(c->probs, c->n);
    keep_at_least(c, c->probs,
                  near > bound && weight_from(c, near) >= target * 1.001 ? near : bound);
    struct border b;
    if (select_border(c->logits, c->probs, c->n, target, c->hist, &b))
        keep_above(c, c->logits, c->probs, target, b);
}

void filter_min_p(struct candidates *c, double p)
{
    double bound = fmin(p, 1) * (double)c->k->max(c->probs, c->n);
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++)
        if ((double)c->probs[i] >= bound) keep(c, n++, i);
    kept(c, n);
}

void filter_typical_p(struct candidates *c, double p, float max, double by)
{
    double total = candidates_sum(c), log_total = log(total), entropy = 0;
    for (size_t i = 0; i < c->n; i++) /* log(prob / total) without a logarithm of each */
        if (c->probs[i] > 0)
            entropy -= (double)c->probs[i] / total *
                       (((double)c->logits[i] - (double)max) * by - log_total);
    for (size_t i = 0; i < c->n; i++) {
        double log_q = ((double)c->logits[i] - (double)max) * by - log_total;
        c->score[i] = c->probs[i] > 0 ? (float)-fabs(log_q + entropy) : -INFINITY;
    }
    struct border b;
    if (!select_border(c->score, c->probs, c->n, p * total, c->hist, &b)) return;
    b.above = -INFINITY; /* equal ones all stay */
    keep_above(c, c->score, c->probs, p * total, b);
}

static double block_sum(const float *p, size_t n)
{
    double s[4] = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t j = 0; j < 4; j++)
            s[j] += (double)p[i + j];
    for (; i < n; i++)
        s[0] += (double)p[i];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

static size_t block_len(const struct candidates *c, size_t begin)
{
    return c->n - begin < BLOCK ? c->n - begin : BLOCK;
}

double candidates_sum(const struct candidates *c)
{
    double sum = 0;
    for (size_t b = 0; b < c->n; b += BLOCK)
        sum += block_sum(c->probs + b, block_len(c, b));
    return sum;
}

size_t quantile_block(const double *sums, size_t n, double target, double *below)
{
    size_t last = 0;
    double sum = 0;
    *below = 0;
    for (size_t b = 0; b < n; b++) {
        if (sums[b] > 0) last = b, *below = sum;
        if (sum + sums[b] > target) break;
        sum += sums[b];
    }
    return last;
}

size_t quantile(const float *probs, size_t n, double below, double target)
{
    size_t choice = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(probs[i] > 0)) continue;
        choice = i;
        below += (double)probs[i];
        if (below > target) break;
    }
    return choice;
}

int32_t candidates_draw(const struct candidates *c, double u)
{
    BUG_ON(c->n == 0);
    double *sums = (double *)(void *)c->score; /* of the blocks: a row has room for 8 and n / 2 */
    double total = 0, below;
    for (size_t b = 0; b < c->n; b += BLOCK)
        total += sums[b / BLOCK] = block_sum(c->probs + b, block_len(c, b));
    double target = u * total;
    size_t begin = quantile_block(sums, (c->n + BLOCK - 1) / BLOCK, target, &below) * BLOCK;
    return id_of(c, begin + quantile(c->probs + begin, block_len(c, begin), below, target));
}
