/* Mean squares of the interfaces of a TTM. The left interface of bond k is the matrix L (rows (i, j) of
 * the cores before, r[k]); mean|L_row|^2 = trace(L^T L) / rows, and the Gram matrix L^T L passes from
 * bond to bond by two small products. For the last bond the trace is enough, which is an inner
 * product: two cores need no matrix at all. */
#include <math.h>
#include <string.h>

#include "engine/kernels/gemm.h"
#include "engine/kernels/grad.h"
#include "models/train/optim.h"

#define RATE_MAX 1e4F /* for a core whose neighbours are all zero */

static size_t largest_bond(const struct ttm_shape *s)
{
    size_t most = 1;
    for (int k = 0; k <= s->d; k++)
        if ((size_t)s->r[k] > most) most = (size_t)s->r[k];
    return most;
}

size_t optim_core_floats(const struct ttm_shape *s)
{
    size_t most = 0, r = largest_bond(s);
    for (int k = 0; k < s->d; k++)
        if (ttm_shape_core(s, k) > most) most = ttm_shape_core(s, k);
    return 2 * r * r + most;
}

/* sum over i of a[i] b[i], long vectors */
static double inner(const struct compute *c, const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t at = 0; at < n; at += 4096)
        sum += (double)c->k->dot(a + at, b + at, n - at < 4096 ? n - at : 4096);
    return sum;
}

/* One core of the walk: gram (r, r) -> the trace on its other side, and the matrix if `next`. */
static double pass(const struct compute *c, const struct ttm_shape *s, int k, bool from_left,
                   const float *core, const float *gram, float *mixed, float *next)
{
    size_t ra = (size_t)s->r[k], rb = (size_t)s->r[k + 1], mid = ttm_shape_core(s, k) / (ra * rb);
    size_t r = from_left ? ra : rb;
    if (r == 1) { /* the end of the chain: the Gram matrix is a number */
        for (size_t i = 0; i < ra * mid * rb; i++)
            mixed[i] = gram[0] * core[i];
    } else if (from_left) {
        gemm_product(c, false, false, ra, mid * rb, ra, gram, core, 0, mixed);
    } else {
        gemm_product(c, false, false, ra * mid, rb, rb, core, gram, 0, mixed);
    }
    if (next && from_left) gemm_product(c, true, false, rb, rb, ra * mid, core, mixed, 0, next);
    if (next && !from_left) gemm_product(c, false, true, ra, ra, mid * rb, core, mixed, 0, next);
    return inner(c, core, mixed, ra * mid * rb);
}

void optim_core_rates(const struct compute *c, const struct ttm_shape *s, const float *const *cores,
                      float *rates, float *scratch)
{
    size_t r = largest_bond(s);
    float *gram[2] = {scratch, scratch + r * r}, *mixed = scratch + 2 * r * r;
    double left[TTM_MAX_CORES + 1] = {1}, right[TTM_MAX_CORES + 1];
    right[s->d] = 1;
    gram[0][0] = 1;
    for (int k = 0; k + 1 < s->d; k++) {
        double trace =
            pass(c, s, k, true, cores[k], gram[k & 1], mixed, k + 2 < s->d ? gram[~k & 1] : NULL);
        left[k + 1] = trace;
    }
    gram[0][0] = 1;
    for (int k = s->d - 1, i = 0; k > 0; k--, i++) {
        double trace =
            pass(c, s, k, false, cores[k], gram[i & 1], mixed, k > 1 ? gram[~i & 1] : NULL);
        right[k] = trace;
    }
    double rows = 1, cols = 1;
    for (int k = 1; k < s->d; k++)
        cols *= (double)s->m[k] * (double)s->n[k];
    for (int k = 0; k < s->d; k++) {
        double square = left[k] / rows * right[k + 1] / cols * s->d;
        float rate = square > 0 ? (float)(1 / sqrt(square)) : RATE_MAX;
        rates[k] = rate < RATE_MAX ? rate : RATE_MAX;
        rows *= (double)s->m[k] * (double)s->n[k];
        if (k + 1 < s->d) cols /= (double)s->m[k + 1] * (double)s->n[k + 1];
    }
}
