#ifndef TTMD_RUN_SAMPLER_FILTER_H
#define TTMD_RUN_SAMPLER_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/kernels.h"

/* The tokens that may still be drawn, in the order of their ids, as parallel arrays in a thread's
 * scratch. Filters only ever remove from it. */
#define SELECT_BUCKETS 2048
struct candidates {
    const struct kernels *k;
    size_t n;
    bool whole; /* nothing was removed yet: candidate i is token i, `ids` is not filled in */
    int32_t *ids;
    float *logits; /* after bias, penalties and bans; never NaN */
    float *
        probs; /* exp((logit - max) / temperature), not normalised; from the first step that needs it */
    float *score; /* free for a filter's use, and the draw's */
    double *hist; /* (SELECT_BUCKETS) free for a filter's use */
};

/* filter_* -- keep the k largest logits, k >= 1 (uses logits only); the most typical, 0 < p < 1, of probs that are
 * exp((logit - max) * by); the largest, 0 <= p < 1; those of at least p of the largest, 0 < p <= 1. */
void filter_top_k(struct candidates *c, size_t k);
void filter_typical_p(struct candidates *c, double p, float max, double by);
void filter_top_p(struct candidates *c, double p);
void filter_min_p(struct candidates *c, double p);

/* candidates_sum -- of probs, always in the same order: what candidates_draw() divides by. */
double candidates_sum(const struct candidates *c);

/* quantile_block, quantile -- the first of n sums, or probabilities, with which what is added up exceeds `target`,
 * which rounding may leave just above them all: then the last that is not 0. A block's `below` is the sum before it;
 * it is what the probabilities within begin with. */
size_t quantile_block(const double *sums, size_t n, double target, double *below);
size_t quantile(const float *probs, size_t n, double below, double target);

/* candidates_draw -- the id at quantile u in [0, 1) of the distribution; never one of probability 0
 * unless all are. */
int32_t candidates_draw(const struct candidates *c, double u);

#endif
