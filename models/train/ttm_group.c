/* Products of neighbouring cores and their gradients. The chain is walked from the left: the product so
 * far (ra, M, N, r) times a core (r, m, n, r') is one matrix product, after which the middle axes
 * change places to keep M and N together. The way back is the same chain in reverse. Groups are
 * halves of a layer: small beside W and beside the activations. */
#include <string.h>

#include "engine/kernels/gemm.h"
#include "models/train/ttm_parts.h"

static size_t core_cols(const struct ttm_shape *s, int k)
{
    return (size_t)s->m[k] * (size_t)s->n[k] * (size_t)s->r[k + 1];
}

void ttm_group_init(struct ttm_group *g, const struct ttm_shape *s, int first, int last)
{
    *g = (struct ttm_group){.s = s, .first = first, .last = last, .m = 1, .n = 1};
    g->ra = (size_t)s->r[first];
    g->rb = (size_t)s->r[last];
    size_t largest = 0;
    for (int k = first; k < last; k++) {
        g->m *= (size_t)s->m[k];
        g->n *= (size_t)s->n[k];
        size_t product = g->ra * g->m * g->n * (size_t)s->r[k + 1];
        if (product > largest) largest = product;
        if (k > first) g->products += product;
    }
    g->floats = g->ra * g->m * g->n * g->rb;
    g->backward_floats = 3 * largest;
    if (first == last) g->products = 1;
    g->chain_floats = g->products + largest; /* one before its axes change places */
}

struct swap {
    float *dst;
    const float *src;
    size_t b, c, d;
};

static void swap_items(void *arg, size_t begin, size_t end, int worker)
{
    const struct swap *s = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const float *src = s->src + i * s->b * s->c * s->d;
        float *dst = s->dst + i * s->b * s->c * s->d;
        for (size_t c = 0; c < s->c; c++)
            for (size_t b = 0; b < s->b; b++)
                for (size_t k = 0; k < s->d; k++)
                    dst[(c * s->b + b) * s->d + k] = src[(b * s->c + c) * s->d + k];
    }
}

void ttm_swap_middle(const struct compute *compute, float *dst, const float *src, size_t a,
                     size_t b, size_t c, size_t d)
{
    struct swap s = {.dst = dst, .src = src, .b = b, .c = c, .d = d};
    size_t each = b * c * d, grain = ((size_t)1 << 16) / (each ? each : 1) + 1;
    pool_for(compute->pool, a, grain, swap_items, &s);
}

/* Walk of the chain: the product of cores first..k-1, and where it lies. */
struct walk {
    size_t m, n, r;
    size_t offset;   /* in the chain's scratch, */
    const float *at; /* unless it is a core */
};

static struct walk walk_to(const struct ttm_group *g, int k, const float *const *cores,
                           const float *chain)
{
    struct walk w = {.m = 1, .n = 1, .r = g->ra};
    for (int i = g->first; i < k; i++) {
        if (i > g->first + 1) w.offset += g->ra * w.m * w.n * w.r;
        w.m *= (size_t)g->s->m[i];
        w.n *= (size_t)g->s->n[i];
        w.r = (size_t)g->s->r[i + 1];
    }
    w.at = k == g->first + 1 ? cores[g->first] : chain + w.offset;
    return w;
}

const float *ttm_group_merge(const struct ttm_group *g, const struct compute *compute,
                             const float *const *cores, float *chain)
{
    float *mixed = chain + g->products;
    if (g->first == g->last) {
        BUG_ON(g->ra != 1);
        chain[0] = 1;
        return chain;
    }
    for (int k = g->first + 1; k < g->last; k++) {
        struct walk from = walk_to(g, k, cores, chain), to = walk_to(g, k + 1, cores, chain);
        size_t m = (size_t)g->s->m[k], n = (size_t)g->s->n[k];
        gemm_product(compute, false, false, g->ra * from.m * from.n, core_cols(g->s, k), from.r,
                     from.at, cores[k], 0, mixed);
        ttm_swap_middle(compute, chain + to.offset, mixed, g->ra * from.m, from.n, m, n * to.r);
    }
    return walk_to(g, g->last, cores, chain).at;
}

void ttm_group_backward(const struct ttm_group *g, const struct compute *compute,
                        const float *const *cores, const float *chain, const float *d,
                        float *const *dcores, float *scratch)
{
    size_t largest = g->backward_floats / 3;
    float *mixed = scratch, *next[2] = {scratch + largest, scratch + 2 * largest};
    if (g->first == g->last) return;
    for (int k = g->last - 1; k > g->first; k--) {
        struct walk from = walk_to(g, k, cores, chain), to = walk_to(g, k + 1, cores, chain);
        size_t m = (size_t)g->s->m[k], n = (size_t)g->s->n[k];
        size_t rows = g->ra * from.m * from.n, cols = core_cols(g->s, k);
        ttm_swap_middle(compute, mixed, d, g->ra * from.m, m, from.n, n * to.r);
        gemm_product(compute, true, false, from.r, cols, rows, from.at, mixed, 1, dcores[k]);
        gemm_product(compute, false, true, rows, from.r, cols, mixed, cores[k], 0, next[k & 1]);
        d = next[k & 1];
    }
    size_t size = g->ra * core_cols(g->s, g->first);
    for (size_t i = 0; i < size; i++)
        dcores[g->first][i] += d[i];
}
