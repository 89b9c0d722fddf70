/* The row-wise parts of training: norms, biases, dropout. Rows are dealt out in blocks of a fixed
 * size. Where rows are summed (gradients of biases and norms) each block has a sum of its own and the
 * blocks are added in order, so that threads change no bit. */
#include <string.h>

#include "engine/base/rng.h"
#include "models/train/parts.h"

void rows_for(const struct pass *p, pool_task *task, void *arg)
{
    pool_for(p->b->pool, rows_blocks(p), 1, task, arg);
}

void dropout_apply(const struct pass *p, int layer, enum site site, uint64_t first, float *x,
                   size_t n)
{
    if (p->dropout <= 0) return;
    uint64_t stream =
        (p->batch->draw * (uint64_t)p->b->net->cfg.n_layer + (uint64_t)layer) * SITES +
        (uint64_t)site;
    uint64_t length = p->batch->length;
    first += p->batch->first * length * (site == SITE_ATTENTION ? p->b->heads * length : p->b->c);
    float keep = 1.0F / (1.0F - p->dropout);
    uint32_t limit = (uint32_t)((double)p->dropout * 4294967296.0), word[4] = {0};
    uint64_t have = UINT64_MAX;
    for (size_t i = 0; i < n; i++) {
        uint64_t at = first + i;
        if (at / 4 != have) rng_bits(p->b->o.seed, stream, have = at / 4, word);
        x[i] = word[at % 4] < limit ? 0 : x[i] * keep;
    }
}

struct norm_job {
    const struct pass *p;
    float *y; /* forward: result; backward: dx */
    const float *x, *dy;
    const float *weight, *bias;
};

static void norm_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct norm_job *j = arg;
    const struct backprop *b = j->p->b;
    (void)worker;
    for (size_t r = begin * ROW_BLOCK; r < rows_end(j->p, end - 1); r++)
        b->k->layer_norm(j->y + r * b->c, j->x + r * b->c, j->weight, j->bias,
                         b->net->cfg.layer_norm_epsilon, b->c);
}

void norm_forward(const struct pass *p, float *y, const float *x, size_t weight, size_t bias)
{
    struct norm_job j = {.p = p, .y = y, .x = x, .weight = p->w + weight, .bias = p->w + bias};
    rows_for(p, norm_rows, &j);
}

static void norm_back_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct norm_job *j = arg;
    const struct backprop *b = j->p->b;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        float *sums = b->partial + i * 2 * b->c;
        memset(sums, 0, 2 * b->c * sizeof *sums);
        for (size_t r = i * ROW_BLOCK; r < rows_end(j->p, i); r++)
            b->g->layer_norm_backward(j->y + r * b->c, sums, sums + b->c, j->dy + r * b->c,
                                      j->x + r * b->c, j->weight, b->net->cfg.layer_norm_epsilon,
                                      b->c);
    }
}

void norm_backward(const struct pass *p, float *dx, const float *dy, const float *x, size_t weight,
                   size_t bias)
{
    struct norm_job j = {.p = p, .y = dx, .x = x, .dy = dy, .weight = p->w + weight};
    rows_for(p, norm_back_rows, &j);
    partial_sum(p, p->grad + weight, 2 * p->b->c, 0, p->b->c);
    partial_sum(p, p->grad + bias, 2 * p->b->c, p->b->c, p->b->c);
}

struct bias_job {
    const struct pass *p;
    const float *dy;
    size_t n;
};

static void bias_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct bias_job *j = arg;
    const struct backprop *b = j->p->b;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        float *sums = b->partial + i * j->n;
        memset(sums, 0, j->n * sizeof *sums);
        for (size_t r = i * ROW_BLOCK; r < rows_end(j->p, i); r++)
            b->g->add(sums, j->dy + r * j->n, j->n);
    }
}

void bias_backward(const struct pass *p, size_t bias, const float *dy, size_t n)
{
    struct bias_job j = {.p = p, .dy = dy, .n = n};
    rows_for(p, bias_rows, &j);
    partial_sum(p, p->grad + bias, n, 0, n);
}

void partial_sum(const struct pass *p, float *out, size_t stride, size_t at, size_t n)
{
    for (size_t i = 0; i < rows_blocks(p); i++)
        p->b->g->add(out, p->b->partial + i * stride + at, n);
}
