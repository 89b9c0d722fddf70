#ifndef TTMD_TTM_TTM_LINEAR_H
#define TTMD_TTM_TTM_LINEAR_H

#include "engine/kernels/matmul.h"
#include "engine/ttm/plan.h"
#include "engine/ttm/ttm.h"

/* A TTM layer ready to compute: per role a plan and what the plan keeps resident (merged groups,
 * packed; or W itself). The cores are not needed once it is made. */
struct ttm_linear;

/* ttm_linear_new -- merge, pack and lay out a layer for its two plans; plans that are the same share
 * what they keep.
 *
 *   w      cores; borrowed during the call
 *   plan   finished by ttm_plan_role(), ttm_plan_layer() or ttm_plan_finish() for w->shape
 *   dtype  of resident weights: F32, F16, BF16 or I8; a rebuild keeps its factors in F32
 *   c      computes and packs now; calls of ttm_linear_apply() may use at most its threads
 *
 * Errors  ERR_NOMEM naming `what` and the bytes; ERR_INVALID for a plan of another shape, a dtype that is
 *         not among the four, or cores that multiply to what is not finite. *out untouched.
 * Thread  the pool's owner.
 */
int ttm_linear_new(struct ttm_linear **out, const struct ttm *w,
                   const struct ttm_plan plan[TTM_ROLES], enum dtype dtype, const struct compute *c,
                   const char *what, struct err *err);
void ttm_linear_free(struct ttm_linear *l); /* may be NULL */

/* Memory that making a layer takes for a while, for the next one to use again: pages which the system has to
 * clear first cost as much as what is computed into them. {0} = none yet. */
struct ttm_room {
    struct ttm_room_part {
        void *at; /* owned, by mem_map */
        size_t bytes;
    } rows, left, scratch;
};

/* ttm_linear_new_in -- the same with memory that is kept for layers to come.
 * ttm_room_release -- when there are none. */
int ttm_linear_new_in(struct ttm_linear **out, const struct ttm *w,
                      const struct ttm_plan plan[TTM_ROLES], enum dtype dtype,
                      const struct compute *c, struct ttm_room *room, const char *what,
                      struct err *err);
void ttm_room_release(struct ttm_room *r);

const struct ttm_shape *ttm_linear_shape(const struct ttm_linear *l);
const struct ttm_plan *ttm_linear_plan(const struct ttm_linear *l, enum ttm_role role);
size_t ttm_linear_bytes(const struct ttm_linear *l); /* resident, as allocated */

/* ttm_linear_apply -- y = act(x W + bias) + residual; the first n_decode rows by the decode plan, the
 * n_prefill after them by the prefill plan.
 *
 *   x        (n_decode + n_prefill, in) f32, stride ldx; borrowed, not modified
 *   y        (.., out) f32, stride ldy; overwritten; must not alias x or scratch
 *   e        NULL = plain product; e->residual may be y
 *   scratch  >= ttm_linear_scratch_floats() for these numbers of rows, 64-byte aligned; borrowed
 *
 * Rows of products with I8 weights are quantised one by one, also those between the groups of a contraction.
 * A row's result is a function of that row, the weights and the role's plan alone, bit for bit;
 * a rebuild with F32 gives the bits of a resident F32 W that was made with the same split.
 *
 * Cost    ttm_plan_mults() of each plan, exactly; nothing is allocated.
 * Thread  the pool's owner.
 */
void ttm_linear_apply(const struct ttm_linear *l, const struct compute *c, size_t n_decode,
                      size_t n_prefill, const float *x, size_t ldx, float *y, size_t ldy,
                      const struct epilogue *e, float *scratch);
size_t ttm_linear_scratch_floats(const struct ttm_linear *l, size_t max_decode, size_t max_prefill);

/* One role's rows: the operands of ttm_linear_apply(), and a counter. */
struct ttm_call {
    size_t rows;
    const float *x;
    size_t ldx;
    float *y;
    size_t ldy;
    const struct epilogue *e;
    float *scratch;
    uint64_t *mults; /* NULL, or multiplications done are added to it, for tests and `ttm plan` */
};

/* ttm_linear_apply_role -- apply one role's plan; the counted form of ttm_linear_apply(). */
void ttm_linear_apply_role(const struct ttm_linear *l, enum ttm_role role, const struct compute *c,
                           const struct ttm_call *call);

/* ttm_rates_measure -- this machine's rates for the planner, for weights of type t (F32, F16, BF16 or I8), with
 * the kernels and threads of `c`, in under 200 ms. Errors  ERR_NOMEM (64 MiB are needed for the memory's rate).
 * Thread  the pool's owner. */
int ttm_rates_measure(struct ttm_rates *out, enum dtype t, const struct compute *c,
                      struct err *err);

#endif
