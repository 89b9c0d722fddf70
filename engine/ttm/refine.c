/* Alternating least squares with the inputs' second moments. TT-SVD minimises || W - W' ||, but what
 * matters is || X (W - W') ||: directions that inputs never take are free. W' is linear in each core,
 * so that with the others fixed the best core solves a linear system, whose matrix for a wide core is
 * far too large to form (a (128, 192, 6, 1) core: 24,576 unknowns per output index). It is never
 * formed: conjugate gradients need only its product with a core, which is two small matrix products,
 * one with S, and two back.
 *
 * The chain is kept orthogonal on both sides of the core at work, so that the system is as well
 * conditioned as S; a ridge on S keeps directions without data where they are. Every step of
 * conjugate gradients lowers the error with the ridge; a core that should raise the error without it
 * is put back, so that the error reported never grows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/ttm/decompose.h"
#include "engine/ttm/linalg.h"
#include "engine/ttm/round.h"

struct refine {
    struct ttm64 *w;
    size_t in, out, tensor_size;
    const double *s;   /* (in, in) or NULL; borrowed */
    double ridge;      /* absolute */
    size_t *row, *col; /* place of (i, j) in the tensor; owned */
    double *diff;      /* W - W' (in, out), owned, as all below */
    double *weighted;  /* S times something (in, out) */
    double *dense;     /* W' of a search direction (in, out) */
    double *tensor;
    double *left, *right; /* chains beside the core: (pl, r), (r', pr) */
    size_t pl, pr;
    double *mid; /* (pl m n, r') */
};

/* weighted = S d; with the ridge or without. */
static void weigh(struct refine *q, const double *d, double ridge)
{
    size_t n = q->in * q->out;
    if (q->s) {
        la_gemm(false, false, q->in, q->out, q->in, 1, q->s, d, 0, q->weighted);
        for (size_t i = 0; ridge > 0 && i < n; i++)
            q->weighted[i] += ridge * d[i];
    } else {
        memcpy(q->weighted, d, n * sizeof *d);
    }
}

/* || X d ||^2, without the ridge. */
static double energy(struct refine *q, const double *d)
{
    weigh(q, d, 0);
    return fmax(la_dot(q->in * q->out, d, q->weighted), 0);
}

/* dense = the matrix of the chain with `core` in place of core k. */
static void expand(struct refine *q, int k, const double *core)
{
    const struct ttm_shape *s = &q->w->shape;
    size_t r = (size_t)s->r[k], rr = (size_t)s->r[k + 1], mn = (size_t)s->m[k] * (size_t)s->n[k];
    la_gemm(false, false, q->pl, mn * rr, r, 1, q->left, core, 0, q->mid);
    la_gemm(false, false, q->pl * mn, q->pr, rr, 1, q->mid, q->right, 0, q->tensor);
    for (size_t i = 0; i < q->in; i++)
        for (size_t j = 0; j < q->out; j++)
            q->dense[i * q->out + j] = q->tensor[q->row[i] + q->col[j]];
}

/* core = the adjoint of expand() at `weighted`. */
static void project(struct refine *q, int k, double *core)
{
    const struct ttm_shape *s = &q->w->shape;
    size_t r = (size_t)s->r[k], rr = (size_t)s->r[k + 1], mn = (size_t)s->m[k] * (size_t)s->n[k];
    memset(q->tensor, 0, q->tensor_size * sizeof *q->tensor);
    for (size_t i = 0; i < q->in; i++)
        for (size_t j = 0; j < q->out; j++)
            q->tensor[q->row[i] + q->col[j]] = q->weighted[i * q->out + j];
    la_gemm(false, true, q->pl * mn, rr, q->pr, 1, q->tensor, q->right, 0, q->mid);
    la_gemm(true, false, r, mn * rr, q->pl, 1, q->left, q->mid, 0, core);
}

/* The product of cores first..last-1 as (r m n .., r'); the number 1 when there are none. */
static int chain(double **out, const struct ttm64 *w, int first, int last, struct err *err)
{
    struct ttm64 part = {.shape = {.d = last - first}};
    if (first == last) {
        int rc = la_alloc(out, 1, "refinement", err);
        if (!rc) (*out)[0] = 1;
        return rc;
    }
    for (int k = first; k < last; k++) {
        part.core[k - first] = w->core[k];
        part.shape.m[k - first] = w->shape.m[k];
        part.shape.n[k - first] = w->shape.n[k];
        part.shape.r[k - first] = w->shape.r[k];
    }
    part.shape.r[part.shape.d] = w->shape.r[last];
    return ttm64_tensor(out, &part, err);
}

static int frame(struct refine *q, int k, struct err *err)
{
    const struct ttm_shape *s = &q->w->shape;
    free(q->left);
    free(q->right);
    free(q->mid);
    q->left = q->right = q->mid = NULL;
    size_t mn = (size_t)s->m[k] * (size_t)s->n[k];
    q->pl = q->pr = 1;
    for (int i = 0; i < s->d; i++)
        if (i != k) *(i < k ? &q->pl : &q->pr) *= (size_t)s->m[i] * (size_t)s->n[i];
    int rc = chain(&q->left, q->w, 0, k, err);
    if (!rc) rc = chain(&q->right, q->w, k + 1, s->d, err);
    return rc ? rc : la_alloc(&q->mid, q->pl * mn * (size_t)s->r[k + 1], "refinement", err);
}

/* Conjugate gradients on core k from where it is; diff follows. v: 3 vectors of the core's size. */
static void descend(struct refine *q, int k, int steps, double *v)
{
    size_t n = ttm_shape_core(&q->w->shape, k), size = q->in * q->out;
    double *grad = v, *dir = v + n, *image = v + 2 * n, *core = q->w->core[k];
    weigh(q, q->diff, q->ridge);
    project(q, k, grad);
    memcpy(dir, grad, n * sizeof *dir);
    double rho = la_dot(n, grad, grad), first = rho;
    for (int i = 0; i < steps && rho > 1e-24 * first && rho > 0; i++) {
        expand(q, k, dir);
        weigh(q, q->dense, q->ridge);
        double curvature = la_dot(size, q->dense, q->weighted);
        if (!(curvature > 0)) break;
        double alpha = rho / curvature;
        for (size_t j = 0; j < n; j++)
            core[j] += alpha * dir[j];
        for (size_t j = 0; j < size; j++)
            q->diff[j] -= alpha * q->dense[j];
        project(q, k, image);
        for (size_t j = 0; j < n; j++)
            grad[j] -= alpha * image[j];
        double next = la_dot(n, grad, grad), beta = next / rho;
        for (size_t j = 0; j < n; j++)
            dir[j] = grad[j] + beta * dir[j];
        rho = next;
    }
}

/* diff = W - W', from the cores as they are. */
static void restart(struct refine *q, int k, const float *dense)
{
    expand(q, k, q->w->core[k]);
    for (size_t i = 0; i < q->in * q->out; i++)
        q->diff[i] = (double)dense[i] - q->dense[i];
}

/* Improve core k; *now is the squared error before and after. */
static int improve(struct refine *q, int k, const float *dense, int steps, double *now,
                   struct err *err)
{
    size_t n = ttm_shape_core(&q->w->shape, k);
    double *v = NULL;
    int rc = frame(q, k, err);
    if (!rc) rc = la_alloc(&v, 4 * n, "refinement", err);
    if (rc) return rc;
    memcpy(v + 3 * n, q->w->core[k], n * sizeof *v);
    restart(q, k, dense);
    descend(q, k, steps, v);
    restart(q, k, dense); /* what the recurrences have gathered in rounding must not count */
    double then = energy(q, q->diff);
    if (then <= *now)
        *now = then;
    else
        memcpy(q->w->core[k], v + 3 * n, n * sizeof *v);
    free(v);
    return 0;
}

static int sweep(struct refine *q, bool forward, const float *dense, int steps, double *now,
                 struct err *err)
{
    int d = q->w->shape.d, rc = 0;
    for (int i = 0; !rc && i < d; i++) {
        int k = forward ? i : d - 1 - i;
        rc = improve(q, k, dense, steps, now, err);
        if (rc || i + 1 == d) break;
        rc = forward ? ttm64_push_right(q->w, k, err) : ttm64_push_left(q->w, k, err);
    }
    return rc;
}

static int check_moments(struct refine *q, double relative, struct err *err)
{
    double trace = 0;
    for (size_t i = 0; q->s && i < q->in * q->in; i++) {
        bool diagonal = i % (q->in + 1) == 0;
        if (!isfinite(q->s[i]) || (diagonal && q->s[i] < 0))
            return err_set(err, ERR_INVALID, "second moments: entry (%zu,%zu) is %g", i / q->in,
                           i % q->in, q->s[i]);
        if (diagonal) trace += q->s[i];
    }
    q->ridge = relative * trace / (double)q->in;
    return 0;
}

static int open_refine(struct refine *q, struct ttm64 *w, const double *s, double ridge,
                       struct err *err)
{
    const struct ttm_shape *shape = &w->shape;
    *q = (struct refine){.w = w, .s = s, .in = (size_t)shape->in, .out = (size_t)shape->out};
    q->tensor_size = ttm_shape_rows(shape) * ttm_shape_cols(shape);
    ttm_tensor_offsets(shape, &q->row, &q->col);
    int rc = check_moments(q, ridge, err);
    double **dense[] = {&q->diff, &q->weighted, &q->dense};
    for (int i = 0; !rc && i < 3; i++)
        rc = la_alloc(dense[i], q->in * q->out, "refinement", err);
    if (!rc) rc = la_alloc(&q->tensor, q->tensor_size, "refinement", err);
    return rc;
}

static void close_refine(struct refine *q)
{
    free(q->row);
    free(q->col);
    double *owned[] = {q->diff, q->weighted, q->dense, q->tensor, q->left, q->right, q->mid};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
}

int ttm_refine(struct ttm64 *w, const float *dense, const double *s,
               const struct ttm_refine_options *options, double *before, double *after,
               struct err *err)
{
    struct ttm_refine_options o = *options;
    if (o.sweeps <= 0) o.sweeps = 4;
    if (o.steps <= 0) o.steps = 20;
    if (o.ridge <= 0) o.ridge = 1e-6;
    if (o.tolerance <= 0) o.tolerance = 1e-4;
    struct refine q;
    double total = 0, now = 0, begun;
    int rc = open_refine(&q, w, s, o.ridge, err);
    if (!rc) rc = ttm64_round_exact(w, err);
    if (!rc) rc = frame(&q, 0, err);
    if (rc) goto out;
    for (size_t i = 0; i < q.in * q.out; i++)
        q.diff[i] = (double)dense[i];
    total = energy(&q, q.diff);
    restart(&q, 0, dense);
    begun = now = energy(&q, q.diff);
    for (int i = 0; !rc && i < o.sweeps; i++) {
        double was = now;
        rc = sweep(&q, i % 2 == 0, dense, o.steps, &now, err);
        if (sqrt(was) - sqrt(now) <= o.tolerance * sqrt(was)) break;
    }
    if (rc) goto out;
    if (before) *before = total > 0 ? sqrt(begun / total) : 0;
    if (after) *after = total > 0 ? sqrt(now / total) : 0;
out:
    close_refine(&q);
    return rc;
}
