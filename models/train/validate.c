/* Validation, shared among the processes: each takes its part of the sequences, in batches of its usual
 * size, and the sums are added. */
#include "engine/base/mem.h"
#include "models/train/classify.h"
#include "models/train/trainer.h"

static struct trainer_valid items(struct trainer *r, size_t from, size_t n)
{
    struct classify c = {0};
    struct binary_metrics m;
    for (size_t i = from; i < from + n; i += r->share)
        classify_some(r->backprop, &r->net, r->w, &r->source.valid_items, i,
                      mem_least(i + r->share, from + n), r->tokens, r->targets, &c);
    double sums[5] = {c.loss};
    for (int k = 0; k < 4; k++)
        sums[1 + k] = (double)c.counts.counts[k / 2][k % 2];
    parallel_sum(&r->parallel, sums, 5);
    for (int k = 0; k < 4; k++)
        c.counts.counts[k / 2][k % 2] = (size_t)sums[1 + k];
    binary_metrics(&c.counts, &m);
    return (struct trainer_valid){.loss = sums[0] / (double)m.n, .accuracy = m.accuracy};
}

static struct trainer_valid text(struct trainer *r, size_t from, size_t n)
{
    double sums[2] = {0}; /* loss, tokens */
    for (size_t i = 0; i < n; i += r->share) {
        struct backprop_loss l;
        struct backprop_batch b;
        struct source_batch want = {.from = from + i, .n = mem_least(r->share, n - i)};
        source_valid(&r->source, &want, r->tokens, r->targets, &b);
        backprop_loss(r->backprop, r->w, &b, &l);
        sums[0] += l.sum;
        sums[1] += (double)l.tokens;
    }
    parallel_sum(&r->parallel, sums, 2);
    return (struct trainer_valid){.loss = sums[0] / sums[1], .accuracy = -1};
}

struct trainer_valid trainer_validate(struct trainer *r)
{
    size_t from, n;
    parallel_share(&r->parallel, r->source.valid, &from, &n);
    return r->source.task ? items(r, from, n) : text(r, from, n);
}
