/* Rates of the kernels beside the machine's limits, in one run: what counts is the ratio.
 *
 *   memory    reading 1 GB with all threads         decode   GPT-2 small's weights, 1..32 rows
 *   BLAS      SGEMM 2048^3 of the loaded OpenBLAS   prefill  its four layers, 512 rows
 *                                                   attend   1024 positions, 12 heads
 *
 * `make tests` builds it, nothing runs it:
 *
 *   OPENBLAS_CORETYPE=SKYLAKEX build/release/bench/bench_kernels [threads [table [F32|F16|BF16]]] */
#include <cblas.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/cpu.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/kernels/machine.h"
#include "engine/kernels/matmul.h"

#define LAYERS 12
#define MATRICES (LAYERS * 4 + 1)
#define REPEATS 5

static const size_t layer_shapes[4][2] = {{768, 2304}, {768, 768}, {768, 3072}, {3072, 768}};

struct bench {
    struct compute c;
    int threads;
    struct packed w[MATRICES];
    size_t weights, bytes;
    float *x, *y, *bias;
    struct machine *machine;
};

typedef void work(void *arg);

/* One thread is measured by its own processor time, which other load disturbs less. */
static double seconds(const struct bench *b)
{
    struct timespec t;
    clock_gettime(b->threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The best of a few: the others shared the machine. */
static double best(const struct bench *b, work *f, void *arg)
{
    double least = 1e30;
    for (int i = 0; i < REPEATS; i++) {
        double t0 = seconds(b);
        f(arg);
        double t = seconds(b) - t0;
        if (t < least) least = t;
    }
    return least;
}

static void *large(size_t bytes)
{
    struct err e = {0};
    void *p;
    if (mem_map(&p, bytes, "benchmark", &e)) BUG("%s", e.msg);
    return p;
}

/* best(), and the memory's rate at the same time. */
static double best_beside(work *f, void *arg, struct bench *b, double *memory)
{
    double least = 1e30;
    *memory = 0;
    for (int i = 0; i < REPEATS; i++) {
        double read = machine_read_bandwidth(b->machine, b->c.k), t0 = seconds(b);
        f(arg);
        double t = seconds(b) - t0;
        if (t < least) least = t;
        if (read > *memory) *memory = read;
    }
    return least;
}

struct gemm {
    float *a, *b, *c;
};

static void gemm_once(void *arg)
{
    struct gemm *g = arg;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 2048, 2048, 2048, 1, g->a, 2048, g->b,
                2048, 0, g->c, 2048);
}

static double gemm_rate(const struct bench *b)
{
    size_t bytes = 2048 * 2048 * 4;
    struct gemm g = {large(bytes), large(bytes), large(bytes)};
    rng_normal_fill(g.a, 2048 * 2048, 1, 1, 1);
    rng_normal_fill(g.b, 2048 * 2048, 1, 1, 2);
    double rate = 2.0 * 2048 * 2048 * 2048 / best(b, gemm_once, &g);
    mem_unmap(g.a, bytes);
    mem_unmap(g.b, bytes);
    mem_unmap(g.c, bytes);
    return rate;
}

static void make_weights(struct bench *b, enum dtype t)
{
    for (int i = 0; i < MATRICES; i++) {
        const size_t *s = layer_shapes[i % 4];
        size_t k = i < LAYERS * 4 ? s[0] : 768, n = i < LAYERS * 4 ? s[1] : 50257;
        if (packed_init(&b->w[i], t, k, n, "w", NULL)) BUG("no memory");
        for (size_t j = 0; j < b->w[i].bytes / dtype_size(t); j++) {
            float v = (float)((double)(j * 2654435761U % 1000) * 1e-4 - 0.05);
            dtype_from_f32((char *)b->w[i].data + j * dtype_size(t), t, &v, 1);
        }
        b->weights += k * n;
        b->bytes += b->w[i].bytes;
    }
}

struct pass {
    struct bench *b;
    size_t rows;
    int first, count, step;
};

static void pass_once(void *arg)
{
    struct pass *p = arg;
    for (int i = p->first, n = 0; n < p->count; n++, i += p->step) {
        const struct packed *w = &p->b->w[i];
        struct epilogue e = {.bias = p->b->bias, .act = w->n == 3072 ? ACT_GELU_NEW : ACT_NONE};
        matmul(&p->b->c, p->b->x, w->k, p->rows, w, p->b->y, w->n, &e);
    }
}

static void decode(struct bench *b, double blas)
{
    static const size_t rows[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};
    double one = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pass p = {b, rows[i], 0, MATRICES, 1};
        double memory, t = best_beside(pass_once, &p, b, &memory), speed = (double)rows[i] / t;
        if (i == 0) one = speed;
        printf(
            "decode %2zu rows: %7.1f tokens/s (%5.2f x 1 row), %5.1f GB/s = %3.0f %% of %.1f, "
            "%5.1f GFLOP/s = %3.0f %% of BLAS\n",
            rows[i], speed, speed / one, (double)b->bytes / t * 1e-9,
            100 * (double)b->bytes / t / memory, memory * 1e-9, 2e-9 * (double)b->weights * speed,
            200 * (double)b->weights * speed / blas);
    }
}

static void prefill(struct bench *b, double blas)
{
    for (int s = 0; s < 4; s++) {
        struct pass p = {b, 512, s, 6, 4};
        double flops = 2.0 * 6 * 512 * (double)(layer_shapes[s][0] * layer_shapes[s][1]);
        double rate = flops / best(b, pass_once, &p);
        printf("prefill 512 x (%4zu, %4zu): %6.1f GFLOP/s = %3.0f %% of BLAS\n", layer_shapes[s][0],
               layer_shapes[s][1], rate * 1e-9, 100 * rate / blas);
    }
}

struct heads {
    struct bench *b;
    struct attend a;
    enum dtype t;
    size_t head_bytes;
    int tokens, passes;
};

static void attend_heads(void *arg, size_t begin, size_t end, int worker)
{
    struct heads *h = arg;
    size_t floats = attend_scratch_floats(64, 1024);
    for (size_t i = begin; i < end; i++) {
        struct attend a = h->a;
        a.k_offset += i % 12 * h->head_bytes;
        a.v_offset = a.k_offset + h->head_bytes / 2;
        a.kv = (const char *)a.kv + i / 12 * (h->head_bytes * 12 * 64);
        a.scratch = h->b->y + (size_t)worker * floats;
        a.out = h->b->y + 1000000 + i * 512;
        for (int t = 0; t < h->tokens; t += a.nq, a.pos0 += a.nq)
            h->b->c.k->attend[h->t](&a);
    }
}

static void attend_once(void *arg)
{
    struct heads *h = arg;
    pool_for(h->b->c.pool, (size_t)h->passes * 12, 1, attend_heads, h);
}

/* 12 layers of 12 heads with 1024 positions, blocks of one layer 64 apart as a table scatters them;
 * then a prompt of 512, 8 queries at a time. */
static void attention(struct bench *b)
{
    double memory;
    int32_t blocks[64];
    for (int i = 0; i < 64; i++)
        blocks[i] = i * 37 % 64;
    for (int t = 0; t < 2; t++) {
        size_t es = t ? 2 : 4, tile = 64 * 16 * es, bytes = tile * 2 * 12 * 64 * 12;
        char *kv = large(bytes);
        memset(kv, 0x11, bytes);
        struct heads h = {.b = b, .t = (enum dtype)t, .head_bytes = tile * 2, .passes = 12};
        h.a = (struct attend){.q = b->x, .ldq = 64, .ldo = 64, .nq = 1, .pos0 = 1023, .d = 64};
        h.a.scale = 0.125F;
        h.a.kv = kv;
        h.a.blocks = blocks;
        h.a.block_bytes = tile * 2 * 12;
        h.tokens = 1;
        double s = best_beside(attend_once, &h, b, &memory);
        printf("attend %s 1 query, 1024 positions: %.2f ms, %5.1f GB/s = %3.0f %% of memory\n",
               t ? "F16" : "F32", s * 1e3, (double)bytes / s * 1e-9,
               100 * (double)bytes / s / memory);
        h.a.nq = 8;
        h.a.pos0 = 0;
        h.tokens = 512;
        s = best(b, attend_once, &h);
        printf("attend %s prompt of 512: %.1f ms, %.1f GFLOP/s\n", t ? "F16" : "F32", s * 1e3,
               12.0 * 12 * 4 * 64 * 512 * 256 / s * 1e-9);
        mem_unmap(kv, bytes);
    }
}

int main(int argc, char **argv)
{
    struct cpu cpu;
    struct bench b = {.threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 2};
    int type = argc > 3 ? dtype_parse(argv[3]) : DTYPE_F32;

    cpu_detect(&cpu);
    b.c.k = kernels_choose(&cpu, argc > 2 ? argv[2] : NULL);
    if (!b.c.k || type < 0 || type > DTYPE_BF16 || pool_new(&b.c.pool, b.threads, NULL)) return 2;
    openblas_set_num_threads(b.threads);
    b.x = large((size_t)4 << 22);
    b.y = large((size_t)4 << 22);
    b.bias = large((size_t)4 << 16);
    rng_normal_fill(b.x, 1 << 22, 1, 1, 3);
    double blas = gemm_rate(&b); /* by all threads: machine_open() leaves OpenBLAS one */
    if (machine_open(&b.machine, b.c.pool, &cpu, NULL)) return 2;
    make_weights(&b, (enum dtype)type);
    printf("%s, %d threads, %s; SGEMM 2048 (%s) %.1f GFLOP/s\n", b.c.k->name, b.threads,
           dtype_name((enum dtype)type), cpu_blas_core(), blas * 1e-9);
    decode(&b, blas);
    prefill(&b, blas);
    attention(&b);
    for (int i = 0; i < MATRICES; i++)
        packed_release(&b.w[i]);
    machine_close(b.machine);
    pool_free(b.c.pool);
    return 0;
}
