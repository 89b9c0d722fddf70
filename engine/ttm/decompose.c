/* TT-SVD: the matrix as a tensor with one index (i_k, j_k) per core, peeled from the left. At each bond
 * the rest is a matrix whose left singular vectors become the core and whose singular values times
 * right vectors go on. Because every core but the last has orthonormal columns, the singular values
 * met on the way are those of W's own unfoldings as long as nothing was cut before; that is where a
 * spectrum comes from, and why the reached error is the root of the sum of what was cut. */
#include "engine/ttm/decompose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/ttm/linalg.h"
#include "engine/ttm/round.h"

/* W as a zero-padded tensor. */
static int to_tensor(double **out, const float *dense, const struct ttm_shape *s, const char *what,
                     struct err *err)
{
    double *t = NULL;
    int rc = la_alloc(&t, ttm_shape_rows(s) * ttm_shape_cols(s), what, err);
    if (rc) return rc;
    size_t *row, *col, in = (size_t)s->in, width = (size_t)s->out;
    ttm_tensor_offsets(s, &row, &col);
    for (size_t i = 0; i < in; i++)
        for (size_t j = 0; j < width; j++)
            t[row[i] + col[j]] = (double)dense[i * width + j];
    free(row);
    free(col);
    *out = t;
    return 0;
}

/* What the sweep over the bonds carries along. */
struct peel {
    struct ttm64 *out;
    double *rest; /* (r m n, remaining), owned */
    size_t size;  /* numbers in it */
    double allowed, lost;
    const int *max_rank;
    struct ttm_spectrum *spectrum; /* or NULL */
};

/* The factors of one bond's matrix: u (m,p), s (p), vt (p,n). */
struct factors {
    double *u, *s, *vt;
};

static int factorise(struct factors *f, size_t m, size_t n, double *a, struct err *err)
{
    size_t p = m < n ? m : n;
    *f = (struct factors){0};
    int rc = la_alloc(&f->u, m * p, "TT-SVD", err);
    if (!rc) rc = la_alloc(&f->s, p, "TT-SVD", err);
    if (!rc) rc = la_alloc(&f->vt, p * n, "TT-SVD", err);
    return rc ? rc : la_svd(m, n, a, f->u, f->s, f->vt, err);
}

static void release_factors(struct factors *f)
{
    free(f->u);
    free(f->s);
    free(f->vt);
}

/* Peel core k off; k + 1 < d. */
static int peel_core(struct peel *q, int k, struct err *err)
{
    const struct ttm_shape *s = &q->out->shape;
    size_t m = (size_t)s->r[k] * (size_t)s->m[k] * (size_t)s->n[k], n = q->size / m;
    size_t p = m < n ? m : n;
    struct factors f;
    double *core = NULL, dropped = 0;
    int rc = factorise(&f, m, n, q->rest, err);
    if (rc) goto out;
    double share = fmax(q->allowed - q->lost, 0) / (s->d - 1 - k);
    int max = q->max_rank && q->max_rank[k + 1] > 0 ? q->max_rank[k + 1] : TTM_MAX_RANK;
    size_t keep = p;
    if (!q->spectrum) keep = (size_t)ttm_keep(f.s, (int)p, share, max, &dropped);
    q->lost += dropped;
    rc = la_alloc(&core, m * keep, "TT-SVD", err);
    if (rc) goto out;
    for (size_t i = 0; i < m; i++)
        memcpy(core + i * keep, f.u + i * p, keep * sizeof *core);
    for (size_t i = 0; i < keep; i++)
        for (size_t j = 0; j < n; j++)
            f.vt[i * n + j] *= f.s[i];
    ttm64_set_core(q->out, k, core, s->r[k], (int)keep);
    free(q->rest);
    q->rest = f.vt;
    q->size = keep * n;
    f.vt = NULL;
    if (q->spectrum) {
        q->spectrum->s[k + 1] = f.s;
        q->spectrum->shape.r[k + 1] = (int)p;
        f.s = NULL;
    }
out:
    release_factors(&f);
    return rc;
}

static int tt_svd(struct ttm64 *out, const float *dense, const struct ttm_shape *shape,
                  const int *max_rank, double max_error, double *error,
                  struct ttm_spectrum *spectrum, const char *what, struct err *err)
{
    struct ttm_shape s = *shape;
    memset(out, 0, sizeof *out);
    for (int k = 0; k <= TTM_MAX_CORES; k++)
        s.r[k] = 1;
    int rc = ttm_shape_check(&s, what, err);
    if (rc) return rc;
    out->shape = s;
    struct peel q = {.out = out,
                     .max_rank = max_rank,
                     .spectrum = spectrum,
                     .size = ttm_shape_rows(&s) * ttm_shape_cols(&s)};
    rc = to_tensor(&q.rest, dense, &s, what, err);
    if (rc) return rc;
    double norm = la_norm(q.size, q.rest);
    if (!isfinite(norm))
        rc = err_set(err, ERR_INVALID, "%s: the weight has a NaN or an infinity", what);
    if (spectrum) spectrum->norm = norm;
    double bound = fmax(max_error, 1e-14) * norm; /* below it lies rounding noise */
    q.allowed = bound * bound;
    for (int k = 0; !rc && k + 1 < s.d; k++)
        rc = peel_core(&q, k, err);
    if (rc) {
        free(q.rest);
        ttm64_release(out);
        return rc;
    }
    ttm64_set_core(out, s.d - 1, q.rest, out->shape.r[s.d - 1], 1);
    if (error) *error = norm > 0 ? sqrt(q.lost) / norm : 0;
    return 0;
}

int ttm_decompose(struct ttm64 *out, const float *dense, const struct ttm_shape *shape,
                  const int *max_rank, double max_error, double *error, const char *what,
                  struct err *err)
{
    return tt_svd(out, dense, shape, max_rank, max_error, error, NULL, what, err);
}

int ttm_spectrum_init(struct ttm_spectrum *out, const float *dense, const struct ttm_shape *shape,
                      const char *what, struct err *err)
{
    struct ttm64 cores;
    memset(out, 0, sizeof *out);
    out->shape = *shape;
    out->shape.r[0] = 1;
    int rc = tt_svd(&cores, dense, shape, NULL, 0, NULL, out, what, err);
    if (rc) {
        ttm_spectrum_release(out);
        return rc;
    }
    out->shape.r[shape->d] = 1;
    ttm64_release(&cores);
    return 0;
}

void ttm_spectrum_release(struct ttm_spectrum *s)
{
    for (int k = 0; k <= TTM_MAX_CORES; k++)
        free(s->s[k]);
    memset(s, 0, sizeof *s);
}

double ttm_spectrum_error(const struct ttm_spectrum *s, const struct ttm_shape *shape)
{
    double sum = 0;
    for (int k = 1; k < s->shape.d; k++)
        for (int i = s->shape.r[k] - 1; i >= shape->r[k]; i--)
            sum += s->s[k][i] * s->s[k][i];
    return s->norm > 0 ? sqrt(sum) / s->norm : 0;
}
