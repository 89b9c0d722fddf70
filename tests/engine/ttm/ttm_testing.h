#ifndef TTMD_TESTS_TTM_TESTING_H
#define TTMD_TESTS_TTM_TESTING_H

/* What the TTM tests share: random shapes of every awkward kind, random matrices, distances. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/ttm/ttm.h"
#include "tests/support/harness.h"

struct draw {
    uint64_t seed, next;
};

static inline int draw_int(struct draw *d, int lo, int hi)
{
    return lo + (int)(rng_uniform(d->seed, 77, d->next++) * (hi - lo + 1));
}

/* 1..8 cores, factors of 1 among them, one in three padded; rows and columns stay below `limit`. */
static inline struct ttm_shape draw_shape(struct draw *d, int limit, int max_rank)
{
    struct ttm_shape s = {.d = draw_int(d, 1, 8), .r = {1}};
    int rows = 1, cols = 1;
    for (int k = 0; k < s.d; k++) {
        s.m[k] = draw_int(d, 0, 3) ? draw_int(d, 1, 9) : 1;
        s.n[k] = draw_int(d, 0, 3) ? draw_int(d, 1, 9) : 1;
        if (rows * s.m[k] > limit) s.m[k] = 1;
        if (cols * s.n[k] > limit) s.n[k] = 1;
        rows *= s.m[k];
        cols *= s.n[k];
        s.r[k + 1] = k + 1 < s.d ? draw_int(d, 1, max_rank) : 1;
    }
    s.in = rows;
    s.out = cols;
    if (!draw_int(d, 0, 2)) {
        s.in = draw_int(d, 1, rows);
        s.out = draw_int(d, 1, cols);
    }
    return s;
}

static inline void draw_ttm(struct draw *d, struct ttm *w, const struct ttm_shape *s)
{
    struct err e = {0};
    ck_assert_msg(!ttm_init(w, s, "test", &e), "%s", e.msg);
    for (int k = 0; k < s->d; k++)
        rng_normal_fill(w->core[k], ttm_shape_core(s, k), 1 / sqrt(s->r[k]), d->seed, d->next++);
}

static inline float *draw_floats(struct draw *d, size_t n)
{
    float *p = mem_alloc((n + 1) * sizeof *p);
    rng_normal_fill(p, n, 1, d->seed, d->next++);
    return p;
}

/* ||a - b|| / ||b||, or ||a|| when b is zero. */
static inline double distance(const float *a, const float *b, size_t n)
{
    double num = 0, den = 0;
    for (size_t i = 0; i < n; i++) {
        num += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        den += (double)b[i] * (double)b[i];
    }
    return den > 0 ? sqrt(num / den) : sqrt(num);
}

static inline double distance64(const double *a, const double *b, size_t n)
{
    double num = 0, den = 0;
    for (size_t i = 0; i < n; i++) {
        num += (a[i] - b[i]) * (a[i] - b[i]);
        den += b[i] * b[i];
    }
    return den > 0 ? sqrt(num / den) : sqrt(num);
}

static inline float *dense_of(const struct ttm *w)
{
    float *dense = mem_alloc(ttm_shape_dense(&w->shape) * sizeof *dense);
    ck_assert_int_eq(ttm_to_dense(w, dense, NULL), 0);
    return dense;
}

#endif
