#ifndef TTMD_MODELS_BENCH_H
#define TTMD_MODELS_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "engine/gpt2/model.h"

/* What `ttm bench` measures, and what it is measured against. */
enum bench_kind {
    BENCH_BLAS,
    BENCH_OWN,
    BENCH_INT8,
    BENCH_READ,
    BENCH_PREFILL,
    BENCH_COLD, /* a decode step of one sequence of which nothing is in a cache */
    BENCH_DECODE
};
enum { BENCH_MAX_POINTS = 16, BENCH_MAX_ROUNDS = 15 };

struct bench_point {
    enum bench_kind kind;
    int size;                      /* tokens of a prefill, sequences of a decode step */
    double rate[BENCH_MAX_ROUNDS]; /* one a round: FLOP/s, bytes/s or tokens/s */
};

struct bench_result {
    const char *dir, *kernels, *int8, *blas_core; /* borrowed */
    const struct gpt2 *model;                     /* borrowed */
    enum dtype kv_dtype;
    int threads, rounds, context; /* context: positions that a decode step attends to */
    size_t read_bytes;            /* of the buffer that the bandwidth is measured with */
    struct bench_point points[BENCH_MAX_POINTS];
    int n_points;
};

/* bench_median -- of the rounds that were run; `over` NULL, or the point to divide by, round by round:
 * what disturbed a round disturbed both. */
double bench_median(const struct bench_result *r, const struct bench_point *p,
                    const struct bench_point *over);

/* bench_step_bytes -- bytes that a decode step of `batch` sequences has to read: all weights but the
 * embedding tables' unused rows, once, and every sequence's keys and values. */
double bench_step_bytes(const struct bench_result *r, int batch);

/* bench_token_flops -- 2 * in * out of the four linear maps of every layer. Attention's own products,
 * embeddings and the LM head are not counted. */
double bench_token_flops(const struct gpt2 *m);

void bench_print(const struct bench_result *r, bool json, FILE *f);

#endif
