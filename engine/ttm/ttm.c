/* The matrix itself: storage, the definition, the paper's random start, and two slow but plain ways
 * to use it, which every fast way is compared with.
 *
 * The full product comes as a tensor whose k-th index is (i_k, j_k), the order in which a chain of
 * matrix products leaves it; the matrix W is the same numbers in another order. Since the place of
 * (i, j) is a sum of one term per core, it splits into row[i] + col[j]: two small tables do the
 * permutation in either direction. */
#include "engine/ttm/ttm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/ttm/linalg.h"
#include "engine/ttm/round.h"

int ttm_borrow(struct ttm *w, const struct ttm_shape *s, float *const *cores, const char *what,
               struct err *err)
{
    memset(w, 0, sizeof *w);
    int rc = ttm_shape_check(s, what, err);
    if (rc) return rc;
    w->shape = *s;
    for (int k = 0; k < s->d; k++)
        w->core[k] = cores[k];
    return 0;
}

int ttm_init(struct ttm *w, const struct ttm_shape *s, const char *what, struct err *err)
{
    memset(w, 0, sizeof *w);
    int rc = ttm_shape_check(s, what, err);
    if (rc) return rc;
    size_t params = ttm_shape_params(s);
    float *p = calloc(params, sizeof *p);
    if (!p)
        return err_set(err, ERR_NOMEM, "%s: no memory for %zu parameters of 4 bytes", what, params);
    w->shape = *s;
    w->storage = p;
    for (int k = 0; k < s->d; k++) {
        w->core[k] = p;
        p += ttm_shape_core(s, k);
    }
    return 0;
}

void ttm_release(struct ttm *w)
{
    free(w->storage);
    memset(w, 0, sizeof *w);
}

int ttm_random(struct ttm *w, double std, uint64_t seed, uint64_t stream, const char *what,
               struct err *err)
{
    const struct ttm_shape *s = &w->shape;
    for (int k = 1; k < s->d; k++)
        if ((size_t)s->r[k] > (size_t)s->r[k - 1] * (size_t)s->m[k - 1] * (size_t)s->n[k - 1])
            return err_set(err, ERR_INVALID, "%s: rank r[%d] = %d exceeds what core %d can span",
                           what, k, s->r[k], k - 1);
    for (int k = 0; k < s->d; k++) {
        double scale = (k + 1 == s->d ? std : 1.0) / sqrt(s->r[k]);
        rng_normal_fill(w->core[k], ttm_shape_core(s, k), scale, seed,
                        stream * TTM_MAX_CORES + (uint64_t)k);
    }
    struct ttm64 q;
    int rc = ttm64_from(&q, w, err);
    if (!rc) rc = ttm64_left_orthogonalise(&q, s->d - 1, err);
    for (int k = 0; !rc && k < s->d; k++)
        for (size_t i = 0; i < ttm_shape_core(s, k); i++)
            w->core[k][i] = (float)q.core[k][i];
    ttm64_release(&q);
    return rc;
}

double ttm_entry(const struct ttm *w, size_t i, size_t j)
{
    const struct ttm_shape *s = &w->shape;
    double *v = mem_alloc(sizeof *v), *next;
    v[0] = 1;
    size_t rows = ttm_shape_rows(s), cols = ttm_shape_cols(s);
    for (int k = 0; k < s->d; k++) {
        size_t m = (size_t)s->m[k], n = (size_t)s->n[k], ra = (size_t)s->r[k];
        size_t rb = (size_t)s->r[k + 1];
        rows /= m;
        cols /= n;
        size_t ik = i / rows % m, jk = j / cols % n;
        next = mem_calloc(rb, sizeof *next);
        for (size_t a = 0; a < ra; a++)
            for (size_t b = 0; b < rb; b++)
                next[b] += v[a] * (double)w->core[k][((a * m + ik) * n + jk) * rb + b];
        free(v);
        v = next;
    }
    double e = v[0];
    free(v);
    return e;
}

int ttm_to_dense(const struct ttm *w, float *dense, struct err *err)
{
    struct ttm64 d;
    double *tensor = NULL;
    int rc = ttm64_from(&d, w, err);
    if (!rc) rc = ttm64_tensor(&tensor, &d, err);
    ttm64_release(&d);
    if (rc) return rc;
    size_t *row, *col, in = (size_t)w->shape.in, out = (size_t)w->shape.out;
    ttm_tensor_offsets(&w->shape, &row, &col);
    for (size_t i = 0; i < in; i++)
        for (size_t j = 0; j < out; j++)
            dense[i * out + j] = (float)tensor[row[i] + col[j]];
    free(row);
    free(col);
    free(tensor);
    return 0;
}

int ttm_apply_naive(const struct ttm *w, const float *x, size_t t, float *y, struct err *err)
{
    size_t in = (size_t)w->shape.in, out = (size_t)w->shape.out;
    struct ttm64 d;
    double *dense = NULL;
    int rc = ttm64_from(&d, w, err);
    if (!rc) rc = la_alloc(&dense, in * out, "dense matrix", err);
    if (!rc) rc = ttm64_to_dense(&d, dense, err);
    for (size_t row = 0; !rc && row < t; row++)
        for (size_t j = 0; j < out; j++) {
            double sum = 0;
            for (size_t i = 0; i < in; i++)
                sum += (double)x[row * in + i] * dense[i * out + j];
            y[row * out + j] = (float)sum;
        }
    free(dense);
    ttm64_release(&d);
    return rc;
}

int ttm64_init(struct ttm64 *w, const struct ttm_shape *s, const char *what, struct err *err)
{
    memset(w, 0, sizeof *w);
    int rc = ttm_shape_check(s, what, err);
    if (rc) return rc;
    w->shape = *s;
    for (int k = 0; !rc && k < s->d; k++)
        rc = la_alloc(&w->core[k], ttm_shape_core(s, k), what, err);
    if (rc) ttm64_release(w);
    return rc;
}

int ttm64_from(struct ttm64 *out, const struct ttm *w, struct err *err)
{
    int rc = ttm64_init(out, &w->shape, "TTM", err);
    for (int k = 0; !rc && k < w->shape.d; k++)
        for (size_t i = 0; i < ttm_shape_core(&w->shape, k); i++)
            out->core[k][i] = (double)w->core[k][i];
    return rc;
}

int ttm64_to(struct ttm *out, const struct ttm64 *w, const char *what, struct err *err)
{
    int rc = ttm_init(out, &w->shape, what, err);
    for (int k = 0; !rc && k < w->shape.d; k++)
        for (size_t i = 0; i < ttm_shape_core(&w->shape, k); i++)
            out->core[k][i] = (float)w->core[k][i];
    return rc;
}

void ttm64_release(struct ttm64 *w)
{
    for (int k = 0; k < TTM_MAX_CORES; k++)
        free(w->core[k]);
    memset(w, 0, sizeof *w);
}

void ttm64_set_core(struct ttm64 *w, int k, double *core, int r_left, int r_right)
{
    free(w->core[k]);
    w->core[k] = core;
    w->shape.r[k] = r_left;
    w->shape.r[k + 1] = r_right;
}

int ttm64_tensor(double **out, const struct ttm64 *w, struct err *err)
{
    const struct ttm_shape *s = &w->shape;
    double *left = NULL;
    int rc = la_alloc(&left, ttm_shape_core(s, 0), "TTM product", err);
    if (rc) return rc;
    memcpy(left, w->core[0], ttm_shape_core(s, 0) * sizeof *left);
    size_t rows = ttm_shape_core(s, 0) / (size_t)s->r[1]; /* r[0] > 1 in part of a chain */
    for (int k = 1; k < s->d; k++) {
        size_t r = (size_t)s->r[k], cols = ttm_shape_core(s, k) / r;
        double *next = NULL;
        size_t total;
        rc = mem_mul(rows, cols, &total)
                 ? la_alloc(&next, total, "TTM product", err)
                 : err_set(err, ERR_NOMEM, "TTM product of %zu x %zu numbers", rows, cols);
        if (!rc) la_gemm(false, false, rows, cols, r, 1, left, w->core[k], 0, next);
        free(left);
        if (rc) return rc;
        left = next;
        rows *= (size_t)s->m[k] * (size_t)s->n[k];
    }
    *out = left;
    return 0;
}

void ttm_tensor_offsets(const struct ttm_shape *s, size_t **row, size_t **col)
{
    size_t rows = ttm_shape_rows(s), cols = ttm_shape_cols(s);
    *row = mem_calloc(rows, sizeof **row);
    *col = mem_calloc(cols, sizeof **col);
    size_t stride = 1, ri = 1, cj = 1; /* of index k in the tensor, in i and in j */
    for (int k = s->d - 1; k >= 0; k--) {
        size_t m = (size_t)s->m[k], n = (size_t)s->n[k];
        for (size_t i = 0; i < rows; i++)
            (*row)[i] += i / ri % m * n * stride;
        for (size_t j = 0; j < cols; j++)
            (*col)[j] += j / cj % n * stride;
        stride *= m * n;
        ri *= m;
        cj *= n;
    }
}

int ttm64_to_dense(const struct ttm64 *w, double *dense, struct err *err)
{
    double *tensor;
    int rc = ttm64_tensor(&tensor, w, err);
    if (rc) return rc;
    size_t *row, *col, in = (size_t)w->shape.in, out = (size_t)w->shape.out;
    ttm_tensor_offsets(&w->shape, &row, &col);
    for (size_t i = 0; i < in; i++)
        for (size_t j = 0; j < out; j++)
            dense[i * out + j] = tensor[row[i] + col[j]];
    free(row);
    free(col);
    free(tensor);
    return 0;
}
