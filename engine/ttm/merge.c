/* Load-time work: multiply neighbouring cores together once, in double, and lay the product out as
 * the kernels want it. The product of cores leaves its indices as (a, i0, j0, i1, j1, .., b); any
 * layout that is needed differs from it by the strides of a, i = (i0, i1, ..), j and b, so that one
 * scatter serves contraction groups, rebuild factors and whole matrices. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/ttm/held.h"
#include "engine/ttm/linalg.h"

/* Core k in double, (r m n, r'). */
static int widen(double **out, const struct ttm *w, int k, struct err *err)
{
    size_t n = ttm_shape_core(&w->shape, k);
    int rc = la_alloc(out, n, "merged cores", err);
    for (size_t i = 0; !rc && i < n; i++)
        (*out)[i] = (double)w->core[k][i];
    return rc;
}

/* The product of cores first..last-1, (r m n m n .., r'). */
static int product(double **out, const struct ttm *w, int first, int last, struct err *err)
{
    const struct ttm_shape *s = &w->shape;
    double *cur = NULL, *core = NULL, *next = NULL;
    int rc = widen(&cur, w, first, err);
    size_t rows = (size_t)s->r[first] * (size_t)s->m[first] * (size_t)s->n[first];
    for (int k = first + 1; !rc && k < last; k++) {
        size_t r = (size_t)s->r[k], cols = ttm_shape_core(s, k) / r, total = 0;
        rc = widen(&core, w, k, err);
        if (!rc && !mem_mul(rows, cols, &total))
            rc = err_set(err, ERR_NOMEM, "merged cores of %zu x %zu numbers", rows, cols);
        if (!rc) rc = la_alloc(&next, total, "merged cores", err);
        if (!rc) {
            la_gemm(false, false, rows, cols, r, 1, cur, core, 0, next);
            free(cur);
            cur = next;
        }
        free(core);
        core = NULL;
        rows *= (size_t)s->m[k] * (size_t)s->n[k];
    }
    if (rc)
        free(cur);
    else
        *out = cur;
    return rc;
}

int merge_group(float *dst, const struct ttm *w, int first, int last, struct merge_strides to,
                struct err *err)
{
    double *src;
    int rc = product(&src, w, first, last, err);
    if (rc) return rc;
    struct ttm_shape part = {.d = last - first};
    memcpy(part.m, w->shape.m + first, (size_t)part.d * sizeof *part.m);
    memcpy(part.n, w->shape.n + first, (size_t)part.d * sizeof *part.n);
    size_t ra = (size_t)w->shape.r[first], rb = (size_t)w->shape.r[last], *row, *col;
    size_t m = ttm_shape_rows(&part), n = ttm_shape_cols(&part);
    ttm_tensor_offsets(&part, &row, &col);
    for (size_t a = 0; a < ra; a++)
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                const double *from = src + (a * m * n + row[i] + col[j]) * rb;
                float *at = dst + a * to.a + i * to.i + j * to.j;
                for (size_t b = 0; b < rb; b++)
                    at[b * to.b] = (float)from[b];
            }
    free(row);
    free(col);
    free(src);
    return 0;
}

struct packing {
    struct packed *to;
    const struct pack_source *from;
    atomic_bool bad;
};

static void pack_task(void *arg, size_t begin, size_t end, int worker)
{
    (void)worker;
    struct packing *j = arg;
    if (!packed_fill(j->to, j->from, begin, end)) j->bad = true;
}

int merge_pack(struct packed *out, const float *src, enum dtype t, size_t k, size_t n,
               const struct compute *c, const char *what, struct err *err)
{
    const struct pack_source from = {.data = src, .dtype = DTYPE_F32};
    struct packing j = {.to = out, .from = &from};
    int rc = packed_init(out, t, k, n, what, err);
    if (rc) return rc;
    pool_for(c->pool, packed_panels(n), 1, pack_task, &j);
    if (!j.bad) return 0;
    packed_release(out);
    return merge_not_finite(what, err);
}

int merge_not_finite(const char *what, struct err *err)
{
    return err_set(err, ERR_INVALID, "%s: its cores multiply to a number that is not finite", what);
}
