/* A rank can fall for two reasons. It may exceed what the chain on one of its sides can span: then
 * a QR sweep finds a basis and nothing is lost. Or its small singular values may be dropped: then
 * the chain must be orthogonal on both sides of the bond, so that the singular values of a core are
 * those of W's unfolding and what is dropped is the error of W itself.
 *
 * Hence the order of a truncation: orthogonalise from the right (losslessly), then walk from the
 * left with an SVD at each bond. Errors of later bonds are orthogonal to those of earlier ones, so
 * that the reached error is exactly the root of the sum of what was dropped. */
#include "engine/ttm/round.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/ttm/linalg.h"

/* Fold a carry matrix t (p, r) into core k from the left: (p, m n r'). */
static int absorb_left(struct ttm64 *w, int k, const double *t, int p, struct err *err)
{
    const struct ttm_shape *s = &w->shape;
    size_t r = (size_t)s->r[k], cols = ttm_shape_core(s, k) / r;
    double *next;
    int rc = la_alloc(&next, (size_t)p * cols, "TTM core", err);
    if (rc) return rc;
    la_gemm(false, false, (size_t)p, cols, r, 1, t, w->core[k], 0, next);
    ttm64_set_core(w, k, next, p, s->r[k + 1]);
    return 0;
}

/* Fold t (r', p) into core k from the right: (r m n, p). */
static int absorb_right(struct ttm64 *w, int k, const double *t, int p, struct err *err)
{
    const struct ttm_shape *s = &w->shape;
    size_t r = (size_t)s->r[k + 1], rows = ttm_shape_core(s, k) / r;
    double *next;
    int rc = la_alloc(&next, rows * (size_t)p, "TTM core", err);
    if (rc) return rc;
    la_gemm(false, false, rows, (size_t)p, r, 1, w->core[k], t, 0, next);
    ttm64_set_core(w, k, next, s->r[k], p);
    return 0;
}

int ttm64_push_right(struct ttm64 *w, int k, struct err *err)
{
    const struct ttm_shape *s = &w->shape;
    size_t n = (size_t)s->r[k + 1], m = ttm_shape_core(s, k) / n, p = m < n ? m : n;
    double *q = NULL, *t = NULL;
    int rc = la_alloc(&q, m * p, "TTM core", err);
    if (!rc) rc = la_alloc(&t, p * n, "TTM core", err);
    if (!rc) rc = la_qr(m, n, w->core[k], q, t, err);
    if (!rc) rc = absorb_left(w, k + 1, t, (int)p, err);
    if (!rc)
        ttm64_set_core(w, k, q, s->r[k], (int)p);
    else
        free(q);
    free(t);
    return rc;
}

int ttm64_push_left(struct ttm64 *w, int k, struct err *err)
{
    const struct ttm_shape *s = &w->shape;
    size_t m = (size_t)s->r[k], n = ttm_shape_core(s, k) / m, p = m < n ? m : n;
    double *q = NULL, *t = NULL;
    int rc = la_alloc(&q, p * n, "TTM core", err);
    if (!rc) rc = la_alloc(&t, m * p, "TTM core", err);
    if (!rc) rc = la_lq(m, n, w->core[k], t, q, err);
    if (!rc) rc = absorb_right(w, k - 1, t, (int)p, err);
    if (!rc)
        ttm64_set_core(w, k, q, (int)p, s->r[k + 1]);
    else
        free(q);
    free(t);
    return rc;
}

int ttm64_left_orthogonalise(struct ttm64 *w, int upto, struct err *err)
{
    int rc = 0;
    for (int k = 0; !rc && k < upto; k++)
        rc = ttm64_push_right(w, k, err);
    return rc;
}

int ttm64_right_orthogonalise(struct ttm64 *w, int downto, struct err *err)
{
    int rc = 0;
    for (int k = w->shape.d - 1; !rc && k > downto; k--)
        rc = ttm64_push_left(w, k, err);
    return rc;
}

int ttm64_round_exact(struct ttm64 *w, struct err *err)
{
    const struct ttm_shape *s = &w->shape;
    int rc = 0;
    for (int k = 0; !rc && k + 1 < s->d; k++)
        if (ttm_shape_core(s, k) / (size_t)s->r[k + 1] < (size_t)s->r[k + 1])
            rc = ttm64_push_right(w, k, err);
    for (int k = s->d - 1; !rc && k > 0; k--)
        if (ttm_shape_core(s, k) / (size_t)s->r[k] < (size_t)s->r[k])
            rc = ttm64_push_left(w, k, err);
    return rc;
}

int ttm_keep(const double *s, int n, double budget, int max, double *dropped)
{
    int keep = n;
    double sum = 0;
    while (keep > 1 && (keep > max || sum + s[keep - 1] * s[keep - 1] <= budget)) {
        keep--;
        sum += s[keep] * s[keep];
    }
    *dropped = sum;
    return keep;
}

/* Truncate bond k+1: core k = u s vt, of which `keep` columns stay; s vt goes to the right. */
static int truncate_bond(struct ttm64 *w, int k, double budget, int max, double *dropped,
                         struct err *err)
{
    const struct ttm_shape *shape = &w->shape;
    size_t n = (size_t)shape->r[k + 1], m = ttm_shape_core(shape, k) / n, p = m < n ? m : n;
    double *u = NULL, *s = NULL, *vt = NULL, *q = NULL;
    int rc = la_alloc(&u, m * p, "TTM core", err);
    if (!rc) rc = la_alloc(&s, p, "TTM core", err);
    if (!rc) rc = la_alloc(&vt, p * n, "TTM core", err);
    if (!rc) rc = la_svd(m, n, w->core[k], u, s, vt, err);
    if (rc) goto out;
    size_t keep = (size_t)ttm_keep(s, (int)p, budget, max, dropped);
    rc = la_alloc(&q, m * keep, "TTM core", err);
    if (rc) goto out;
    for (size_t i = 0; i < m; i++)
        memcpy(q + i * keep, u + i * p, keep * sizeof *q);
    for (size_t i = 0; i < keep; i++)
        for (size_t j = 0; j < n; j++)
            vt[i * n + j] *= s[i];
    rc = absorb_left(w, k + 1, vt, (int)keep, err);
    if (rc) goto out;
    ttm64_set_core(w, k, q, shape->r[k], (int)keep);
    q = NULL;
out:
    free(u);
    free(s);
    free(vt);
    free(q);
    return rc;
}

int ttm64_round(struct ttm64 *w, double max_error, const int *max_rank, double *error,
                struct err *err)
{
    int d = w->shape.d, rc = ttm64_right_orthogonalise(w, 0, err);
    if (rc) return rc;
    double norm = la_norm(ttm_shape_core(&w->shape, 0), w->core[0]), lost = 0;
    double floor_ = 1e-14 * norm; /* below it, a singular value is rounding noise */
    double allowed = fmax(max_error * norm, floor_);
    allowed *= allowed;
    for (int k = 0; k + 1 < d; k++) {
        double dropped = 0, share = fmax(allowed - lost, 0) / (d - 1 - k);
        int max = max_rank && max_rank[k + 1] > 0 ? max_rank[k + 1] : TTM_MAX_RANK;
        rc = truncate_bond(w, k, share, max, &dropped, err);
        if (rc) return rc;
        lost += dropped;
    }
    if (error) *error = norm > 0 ? sqrt(lost) / norm : 0;
    return 0;
}

int ttm_round_exact(struct ttm *out, const struct ttm *w, const char *what, struct err *err)
{
    struct ttm64 d;
    int rc = ttm64_from(&d, w, err);
    if (!rc) rc = ttm64_round_exact(&d, err);
    if (!rc) rc = ttm64_to(out, &d, what, err);
    ttm64_release(&d);
    return rc;
}
