#ifndef TTMD_MODELS_BENCH_TTM_REPORT_H
#define TTMD_MODELS_BENCH_TTM_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "engine/ttm/plan.h"

/* The figures of `ttm bench --ttm`. */
enum { BENCH_TTM_ROWS = 8, BENCH_TTM_WAYS = 48, BENCH_TTM_KINDS = 16, BENCH_TTM_LAYERS = 12 };
enum bench_ttm_way_kind { BENCH_TTM_DENSE, BENCH_TTM_CHAIN, BENCH_TTM_PLAN };

struct bench_ttm_way {
    enum bench_ttm_way_kind kind; /* dense weights; stored cores left to right; a candidate */
    struct ttm_plan plan;
    size_t bytes;
    double predicted[BENCH_TTM_ROWS], measured[BENCH_TTM_ROWS]; /* seconds of a call */
};

struct bench_ttm_kind {
    char name[48]; /* of its first layer */
    struct ttm_shape stored, rounded;
    size_t dense_bytes; /* of a dense layer in the report's dtype: what the planner compares with */
    int layers[BENCH_TTM_LAYERS], n_layers; /* numbers in the model, as many as are measured */
    struct bench_ttm_way ways[BENCH_TTM_WAYS];
    int n_ways;
};

struct bench_ttm_report {
    const char *dir, *kernels; /* borrowed */
    int threads, rounds;
    enum dtype dtype; /* of the weights */
    struct ttm_rates rates;
    const size_t *rows; /* (BENCH_TTM_ROWS) */
    struct bench_ttm_kind kinds[BENCH_TTM_KINDS];
    int n_kinds;
};

/* bench_ttm_chosen -- the candidate that the planner prefers at rows[r], among those smaller than dense
 * or among all; bench_ttm_best -- the one measured fastest. Indices of kind->ways. */
int bench_ttm_chosen(const struct bench_ttm_kind *kind, int r, bool compressed);
int bench_ttm_best(const struct bench_ttm_kind *kind, int r, bool compressed);

void bench_ttm_print(const struct bench_ttm_report *r, bool json, FILE *f);

#endif
