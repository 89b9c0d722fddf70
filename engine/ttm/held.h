#ifndef TTMD_TTM_HELD_H
#define TTMD_TTM_HELD_H

/* Inside engine/ttm only: what a plan keeps resident, and the executors of the three methods. */

#include <string.h>

#include "engine/kernels/matmul.h"
#include "engine/ttm/plan_chain.h"
#include "engine/ttm/ttm_linear.h"

struct ttm_held {
    struct ttm_steps steps;             /* CONTRACT */
    struct packed group[TTM_MAX_CORES]; /* CONTRACT: weights in the order of the steps, owned */
    struct plan_tiles tiles;            /* REBUILD, RESIDENT with d > 1 */
    float *left;                        /* REBUILD: (left m, left n, rank), owned by mem_map */
    size_t left_bytes;
    struct packed right; /* REBUILD: (rank, right m * right n) F32, owned */
    struct packed dense; /* RESIDENT: (in, out), owned */
};

/* How a merged group is laid out: the stride of each of its four indices in the target. */
struct merge_strides {
    size_t a, i, j, b; /* left rank, input index, output index, right rank */
};

/* held_copy -- n floats, few and often: pieces of constant size, since a call for each would cost more
 * than the copy. */
static inline void held_copy(float *to, const float *from, size_t n)
{
    for (; n >= 16; n -= 16, to += 16, from += 16)
        memcpy(to, from, 16 * sizeof *to);
    for (; n >= 4; n -= 4, to += 4, from += 4)
        memcpy(to, from, 4 * sizeof *to);
    for (size_t i = 0; i < n; i++)
        to[i] = from[i];
}

/* merge_group -- the product of cores first..last-1 in double, rounded to f32 once, to `dst`.
 * Errors  ERR_NOMEM. */
int merge_group(float *dst, const struct ttm *w, int first, int last, struct merge_strides to,
                struct err *err);

/* merge_pack -- a row-major (k, n) f32 matrix as an owned packed one of type t, its panels over the pool.
 * Errors  ERR_NOMEM; ERR_INVALID when a number is not finite, or t cannot hold it. */
int merge_pack(struct packed *out, const float *src, enum dtype t, size_t k, size_t n,
               const struct compute *c, const char *what, struct err *err);
int merge_not_finite(const char *what, struct err *err); /* sets that error */

/* rebuild_pack -- W into `out`, which is initialised for (in, out), block by block over the pool, each
 * rounded to out's type while it is in a core's cache; scratch: plan->worker_floats per thread. False when
 * a number is not finite, or out's type cannot hold it.
 * rebuild_apply -- the layer, block by block of W, none of which is kept. */
bool rebuild_pack(struct packed *out, const struct ttm_held *h, const struct ttm_plan *p,
                  const struct compute *c, float *scratch);
void rebuild_apply(const struct ttm_held *h, const struct ttm_plan *p, const struct ttm_shape *s,
                   const struct compute *c, const struct ttm_call *call);

/* contract_finish_row -- a whole row of the result, in scratch, to row `index` of y: bias,
 * activation, residual, cut to the layer's width. */
void contract_finish_row(const struct ttm_call *call, const struct ttm_shape *s,
                         const struct kernels *k, const float *row, size_t index);

void contract_pair_apply(const struct ttm_held *h, const struct ttm_plan *p,
                         const struct ttm_shape *s, const struct compute *c,
                         const struct ttm_call *call);
void contract_int8_apply(const struct ttm_held *h, const struct ttm_plan *p,
                         const struct ttm_shape *s, const struct compute *c,
                         const struct ttm_call *call);

/* contract_scratch_floats -- of a CONTRACT plan with groups of type t, for a pool of `threads`. */
size_t contract_scratch_floats(const struct ttm_plan *p, const struct ttm_shape *s, enum dtype t,
                               int threads);
size_t contract_int8_worker_floats(const struct ttm_plan *p, const struct ttm_shape *s);
void contract_apply(const struct ttm_held *h, const struct ttm_plan *p, const struct ttm_shape *s,
                    const struct compute *c, const struct ttm_call *call);

#endif
