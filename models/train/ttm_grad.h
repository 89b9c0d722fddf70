#ifndef TTMD_MODELS_TRAIN_TTM_GRAD_H
#define TTMD_MODELS_TRAIN_TTM_GRAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/matmul.h"
#include "engine/ttm/shape.h"

/* A TTM layer forward and backward, keeping nothing but its input and its cores. The cores are two
 * groups, left and right of a split; each group's product is small. Two routes:
 *
 *   dense gradient  W is rebuilt from the two groups; y = x W, dx = dy W^T, dW = x^T dy once, and the
 *                   groups' gradients from dW
 *   per core        x is contracted with one group and then with the other, the gradients come from
 *                   the same contractions: neither W nor dW is ever formed
 *
 * From a group's gradient to its cores' is a short chain of small products in both. */
enum ttm_route { TTM_ROUTE_AUTO, TTM_ROUTE_DENSE, TTM_ROUTE_CORES };

struct ttm_grad_plan {
    struct ttm_shape shape;
    enum ttm_route route; /* DENSE or CORES */
    int split;            /* left: cores 0..split-1, right: the others; 0..d */
    bool left_first;      /* CORES: which group x meets first */
    double cost;          /* of forward and backward, in multiplications */
    size_t tokens;        /* of the largest call */
    size_t scratch_floats;
};

/* ttm_grad_plan -- the cheapest way for a checked shape and a number of tokens.
 *
 *   route    AUTO, or the route that is to be taken
 *   threads  of the pool that will compute
 */
void ttm_grad_plan(struct ttm_grad_plan *out, const struct ttm_shape *s, size_t tokens,
                   enum ttm_route route, int threads);

/* ttm_grad_forward -- y = x W.
 *
 *   cores    (d) pointers to cores; borrowed
 *   x        (t, in), y (t, out) f32 row-major; y is overwritten
 *   scratch  >= p->scratch_floats, 64-byte aligned; borrowed
 *
 * Thread  the pool's owner. Nothing is allocated. */
void ttm_grad_forward(const struct ttm_grad_plan *p, const struct compute *compute,
                      const float *const *cores, const float *x, size_t t, float *y,
                      float *scratch);

/* ttm_grad_backward -- dx = dy W^T (overwritten), dcores[k] += the cores' gradients. */
void ttm_grad_backward(const struct ttm_grad_plan *p, const struct compute *compute,
                       const float *const *cores, const float *x, const float *dy, size_t t,
                       float *dx, float *const *dcores, float *scratch);

#endif
