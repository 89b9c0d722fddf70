#ifndef TTMD_MODELS_TRAIN_TTM_PARTS_H
#define TTMD_MODELS_TRAIN_TTM_PARTS_H

#include "models/train/ttm_grad.h"

/* Inside ttm_grad: groups of cores, and the two routes. */

/* The product of successive cores, (r_left, M, N, r_right) row-major with M, N the products of the
 * cores' m and n. */
struct ttm_group {
    const struct ttm_shape *s;
    int first, last;        /* cores first..last-1; none = the number 1 */
    size_t ra, m, n, rb;    /* shape of the product */
    size_t floats;          /* ra * m * n * rb */
    size_t products;        /* floats of all products on the way */
    size_t chain_floats;    /* scratch of ttm_group_merge(), kept for ttm_group_backward() */
    size_t backward_floats; /* scratch of ttm_group_backward() beside that */
};

void ttm_group_init(struct ttm_group *g, const struct ttm_shape *s, int first, int last);

/* ttm_group_merge -- the product, somewhere in `chain`; a single core is returned as it is. */
const float *ttm_group_merge(const struct ttm_group *g, const struct compute *compute,
                             const float *const *cores, float *chain);

/* ttm_group_backward -- from the product's gradient to its cores', dcores[k] += ..
 *   chain  as ttm_group_merge() left it
 *   d      (ra, m, n, rb) not modified */
void ttm_group_backward(const struct ttm_group *g, const struct compute *compute,
                        const float *const *cores, const float *chain, const float *d,
                        float *const *dcores, float *scratch);

/* ttm_swap_middle -- dst (a, c, b, d) = src (a, b, c, d). */
void ttm_swap_middle(const struct compute *compute, float *dst, const float *src, size_t a,
                     size_t b, size_t c, size_t d);

/* One call of a route. */
struct ttm_call_grad {
    const struct ttm_grad_plan *p;
    const struct compute *compute;
    const float *const *cores;
    const float *x, *dy;
    size_t t;
    float *y, *dx;
    float *const *dcores;
    float *scratch;
};

size_t ttm_dense_scratch(const struct ttm_grad_plan *p, int threads);
void ttm_dense_forward(const struct ttm_call_grad *c);
void ttm_dense_backward(const struct ttm_call_grad *c);

size_t ttm_cores_scratch(const struct ttm_grad_plan *p);
void ttm_cores_forward(const struct ttm_call_grad *c);
void ttm_cores_backward(const struct ttm_call_grad *c);

#endif
