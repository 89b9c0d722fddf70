#ifndef TTMD_MODELS_TRAIN_CLASSIFY_H
#define TTMD_MODELS_TRAIN_CLASSIFY_H

#include "models/eval_metrics.h"
#include "models/train/backprop.h"
#include "models/train/items.h"

/* How a classifier does on the items of a task. */
struct classify {
    struct binary_counts counts; /* by the task's labels */
    double loss;                 /* sum of cross-entropies, nats */
    size_t n;
};

/* classify_some -- items [from, to), computed together, added to *out.
 *
 *   b       of a net with ITEMS_CLASSES labels, large enough for them
 *   tokens  (to - from, longest item) scratch, and targets
 *
 * A tie goes to row 0. */
void classify_some(struct backprop *b, const struct net *net, const float *w,
                   const struct items *it, size_t from, size_t to, int32_t *tokens,
                   int32_t *targets, struct classify *out);

#endif
