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
    float *y, *scratch;
};

/* Seconds of one product of `rows` rows; the best of what fits in the budget, at least two. */
static double seconds(const struct measured *q, const struct packed *w, size_t rows)
{
    uint64_t best = UINT64_MAX, begun = clock_ns(), now = begun;
    for (int i = 0; i < 2 || (i < 100 && now - begun < BUDGET_NS); i++) {
        uint64_t t0 = clock_ns();
        matmul_any(q->c, q->x, w->k, rows, w, q->y, w->n, NULL, q->scratch);
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
        struct packed part = packed_columns(large, 0, n);
        double rate = (double)part.bytes / seconds(q, &part, 1);
        if (rate * rate < cache * dram) break; /* the geometric mean: rates differ by factors */
        bytes = part.bytes;
    }
    return bytes;
}

struct matrices {
    struct packed tiny, small, large, wide;
};

/* `wide` is SMALL in F32, for types that compute in another way. */
static int make_matrices(struct matrices *m, enum dtype t, struct err *err)
{
    size_t large_n = LARGE_N * sizeof(float) / dtype_size(t); /* of the same bytes in every type */
    int rc = packed_init(&m->tiny, t, PACK_N, TINY_N, "measuring products", err);
    if (!rc) rc = packed_init(&m->small, t, SMALL_K, SMALL_N, "measuring products", err);
    if (!rc) rc = packed_init(&m->wide, DTYPE_F32, SMALL_K, SMALL_N, "measuring products", err);
    if (!rc) rc = packed_init(&m->large, t, LARGE_K, large_n, "measuring memory", err);
    if (rc) return rc;
    fill(m->small.data, m->small.bytes);
    fill(m->wide.data, m->wide.bytes);
    fill(m->large.data, m->large.bytes);
    return 0;
}

static void measure(struct ttm_rates *out, const struct measured *q, const struct matrices *m)
{
    double one = seconds(q, &m->small, 1), overhead = seconds(q, &m->tiny, 1);
    double ops = 2.0 * SMALL_K * SMALL_N;
    *out = (struct ttm_rates){.flops_few = ops / one,
                              .flops_many = ops * MANY / seconds(q, &m->small, MANY),
                              .cache = (double)m->small.bytes / one,
                              .dram = (double)m->large.bytes / seconds(q, &m->large, 1),
                              .overhead_s = overhead,
                              .lanes = PACK_N};
    if (out->flops_many < out->flops_few) out->flops_many = out->flops_few;
    if (out->cache < out->dram) out->cache = out->dram;
    out->flops_f32 = out->flops_many;
    if (m->small.dtype == DTYPE_I8) out->flops_f32 = ops * MANY / seconds(q, &m->wide, MANY);
    out->cache_bytes = cache_size(q, &m->large, out->cache, out->dram);
}

int ttm_rates_measure(struct ttm_rates *out, enum dtype t, const struct compute *c, struct err *err)
{
    struct matrices m = {0};
    size_t in = MANY * SMALL_K + LARGE_K, y = MANY * SMALL_N + 4 * LARGE_N;
    size_t scratch = quantised_floats(MANY, LARGE_K);
    void *memory = NULL;
    size_t bytes = (in + y + scratch) * sizeof(float);
    int rc = mem_map(&memory, bytes, "measuring products", err);
    if (!rc) rc = make_matrices(&m, t, err);
    if (!rc) {
        float *x = memory;
        fill(x, in * sizeof *x);
        measure(out, &(struct measured){c, x, x + in, x + in + y}, &m);
    }
    struct packed *all[] = {&m.tiny, &m.small, &m.large, &m.wide};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->data) packed_release(all[i]);
    mem_unmap(memory, bytes);
    return rc;
}
