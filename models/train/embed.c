/* Token and position embeddings. Backward, several tokens of a batch may be the same, so the work is
 * cut along the channels: each thread adds its channels of all rows, in the order of the rows. */
#include <string.h>

#include "models/train/parts.h"

#define CHANNEL_BLOCK 64

static void embed_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct pass *p = arg;
    const struct backprop *b = p->b;
    const float *wte = p->w + b->net->wte, *wpe = p->w + b->net->wpe;
    float *x = b->layers[0].x;
    (void)worker;
    for (size_t r = begin * ROW_BLOCK; r < rows_end(p, end - 1); r++) {
        float *row = x + r * b->c;
        memcpy(row, wte + (size_t)p->batch->tokens[r] * b->c, b->c * sizeof *row);
        b->g->add(row, wpe + r % p->batch->length * b->c, b->c);
        dropout_apply(p, 0, SITE_EMBED, r * b->c, row, b->c);
    }
}

void embed_forward(const struct pass *p)
{
    rows_for(p, embed_rows, (void *)(uintptr_t)p);
}

static void unmask_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct pass *p = arg;
    (void)worker;
    size_t from = begin * ROW_BLOCK * p->b->c, to = rows_end(p, end - 1) * p->b->c;
    dropout_apply(p, 0, SITE_EMBED, from, p->b->dx + from, to - from);
}

static void add_channels(void *arg, size_t begin, size_t end, int worker)
{
    const struct pass *p = arg;
    const struct backprop *b = p->b;
    float *wte = p->grad + b->net->wte, *wpe = p->grad + b->net->wpe;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        size_t at = i * CHANNEL_BLOCK, n = b->c - at < CHANNEL_BLOCK ? b->c - at : CHANNEL_BLOCK;
        for (size_t r = 0; r < p->rows; r++) {
            const float *d = b->dx + r * b->c + at;
            b->g->add(wte + (size_t)p->batch->tokens[r] * b->c + at, d, n);
            b->g->add(wpe + r % p->batch->length * b->c + at, d, n);
        }
    }
}

void embed_backward(const struct pass *p)
{
    void *arg = (void *)(uintptr_t)p;
    if (p->dropout > 0) rows_for(p, unmask_rows, arg);
    pool_for(p->b->pool, (p->b->c + CHANNEL_BLOCK - 1) / CHANNEL_BLOCK, 1, add_channels, arg);
}
