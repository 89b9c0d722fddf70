/* The head is a product of one row and two columns: what the network makes of an item is its last hidden
 * state, and the rest is done here in double. */
#include "models/train/classify.h"

#include <math.h>

static void judge(const struct net *net, const float *w, const float *hidden,
                  const struct items *it, size_t i, struct classify *out)
{
    size_t c = (size_t)net->cfg.n_embd;
    double logit[ITEMS_CLASSES] = {0};
    for (size_t r = 0; r < ITEMS_CLASSES; r++)
        for (size_t k = 0; k < c; k++)
            logit[r] += (double)hidden[k] * (double)w[net->head + r * c + k];
    int row = it->row[i], wins = logit[1] > logit[0];
    double behind = logit[!row] - logit[row]; /* -log softmax = log(1 + e^behind) */
    out->loss += behind > 0 ? behind + log1p(exp(-behind)) : log1p(exp(behind));
    out->n++;
    binary_add(&out->counts, row ^ it->first, wins ^ it->first);
}

void classify_some(struct backprop *b, const struct net *net, const float *w,
                   const struct items *it, size_t from, size_t to, int32_t *tokens,
                   int32_t *targets, struct classify *out)
{
    size_t length = 0;
    for (size_t i = from; i < to; i++)
        if (items_length(it, i) > length) length = items_length(it, i);
    for (size_t i = from; i < to; i++)
        items_put(it, i, length, tokens + (i - from) * length, targets + (i - from) * length);
    struct backprop_batch batch = {
        .tokens = tokens, .targets = targets, .sequences = to - from, .length = length};
    const float *hidden = backprop_hidden(b, w, &batch);
    for (size_t i = from; i < to; i++)
        judge(net, w,
              hidden + ((i - from) * length + items_length(it, i) - 1) * (size_t)net->cfg.n_embd,
              it, i, out);
}
