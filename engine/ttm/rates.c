/* This machine's rates, from the kernels that will do the work. Short measurements, each the best of
 * several repetitions, since what disturbs a measurement only ever makes it slower.
 *
 * How much cache there is for us is measured too: in a virtual machine the system reports the
 * processor's whole last level, of which a neighbour or another group of cores has most. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/ttm/ttm_linear.h"

#define SMALL_K 512 /* 1 MiB of weights: lies in the cache from the second repetition on */
#define SMALL_N 512
#define LARGE_K 4096 /* 64 MiB: beyond it */
#define LARGE_N 4096
#define MANY 64
#define TINY_N (16 * PACK_N) /* enough panels that the pool is woken */
#define BUDGET_NS (6 * CLOCK_NS_PER_MS)
#define LEAST_CACHE ((size_t)1 << 20) /* of SMALL's size */

struct measured {
    const struct compute *c;
    const float *x;
    float *y;
};

/* Seconds of one product of `rows` rows; the best of what fits in the budget, at least two. */
static double seconds(const struct measured *q, const struct packed *w, size_t rows)
{
    uint64_t best = UINT64_MAX, begun = clock_ns(), now = begun;
    for (int i = 0; i < 2 || (i < 100 && now - begun < BUDGET_NS); i++) {
        uint64_t t0 = clock_ns();
        matmul(q->c, q->x, w->k, rows, w, q->y, w->n, NULL);
        now = clock_ns();
        if (now - t0 < best) best = now - t0;
    }
    return (double)(best ? best : 1) / (double)CLOCK_NS_PER_S;
}

/* Some small number in every element: pages never written would all be the same page of zeros. */
static void fill(void *p, size_t bytes)
{
    memset(p, 0x3c, bytes);
}

/* The largest part of `large`, a power of two, that is read nearer to cache speed than to memory's. */
static size_t cache_size(const struct measured *q, const struct packed *large, double cache,
                         double dram)
{
    size_t bytes = LEAST_CACHE;
    for (size_t n = large->n / 16; n < large->n; n *= 2) {
        struct packed part = *large;
        part.n = n;
        part.bytes = n * part.k * sizeof(float);
        double rate = (double)part.bytes / seconds(q, &part, 1);
        if (rate * rate < cache * dram) break; /* the geometric mean: rates differ by factors */
        bytes = part.bytes;
    }
    return bytes;
}

int ttm_rates_measure(struct ttm_rates *out, const struct compute *c, struct err *err)
{
    struct packed tiny = {0}, small = {0}, large = {0};
    size_t floats = MANY * SMALL_K + LARGE_K;
    float *x = mem_calloc(floats, sizeof *x), *y = mem_calloc(floats, sizeof *y);
    int rc = packed_init(&tiny, DTYPE_F32, PACK_N, TINY_N, "measuring products", err);
    if (!rc) rc = packed_init(&small, DTYPE_F32, SMALL_K, SMALL_N, "measuring products", err);
    if (!rc) rc = packed_init(&large, DTYPE_F32, LARGE_K, LARGE_N, "measuring memory", err);
    if (!rc) {
        fill(x, floats * sizeof *x);
        fill(small.data, small.bytes);
        fill(large.data, large.bytes);
        struct measured q = {.c = c, .x = x, .y = y};
        double one = seconds(&q, &small, 1), overhead = seconds(&q, &tiny, 1);
        double ops = 2.0 * SMALL_K * SMALL_N;
        *out = (struct ttm_rates){.flops_few = ops / one,
                                  .flops_many = ops * MANY / seconds(&q, &small, MANY),
                                  .cache = (double)small.bytes / one,
                                  .dram = (double)large.bytes / seconds(&q, &large, 1),
                                  .overhead_s = overhead,
                                  .lanes = PACK_N};
        if (out->flops_many < out->flops_few) out->flops_many = out->flops_few;
        if (out->cache < out->dram) out->cache = out->dram;
        out->cache_bytes = cache_size(&q, &large, out->cache, out->dram);
    }
    if (tiny.data) packed_release(&tiny);
    if (small.data) packed_release(&small);
    if (large.data) packed_release(&large);
    free(x);
    free(y);
    return rc;
}
