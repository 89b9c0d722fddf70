#ifndef TTMD_GPT2_LINEAR_H
#define TTMD_GPT2_LINEAR_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/kernels/matmul.h"
#include "engine/ttm/ttm_linear.h"

/* A fully connected layer y = act(x W + b) + residual. How W is held is the layer's own business:
 * packed dense, or a planned TTM behind the same call. */
enum linear_kind { LINEAR_DENSE, LINEAR_TTM };

struct linear {
    enum linear_kind kind;
    size_t in, out;         /* C_in, C_out */
    float *bias;            /* (out) f32, owned; NULL = none */
    struct packed dense;    /* kind DENSE */
    struct ttm_linear *ttm; /* kind TTM, owned */
};

/* The rows of one call: the first n_decode have the role TTM_DECODE, the rest TTM_PREFILL. A plan may
 * depend on the role, never on the neighbours. */
struct linear_rows {
    size_t n_decode, n_prefill;
};

/* linear_apply
 *
 *   x        (T, in) f32, stride ldx, T = n_decode + n_prefill; borrowed, not modified
 *   y        (T, out) f32, stride ldy; overwritten; must not alias x or scratch
 *   residual (T, out) with stride ldy, or NULL; may be y
 *   scratch  >= linear_scratch_floats() for this T, 64-byte aligned; borrowed
 */
void linear_apply(const struct linear *l, const struct compute *c, struct linear_rows rows,
                  const float *x, size_t ldx, float *y, size_t ldy, enum act act,
                  const float *residual, float *scratch);

/* linear_is_int8 -- whether it takes quantised rows: linear_apply_int8(), T = t of them, else as above. */
bool linear_is_int8(const struct linear *l);
void linear_apply_int8(const struct linear *l, const struct compute *c,
                       const struct int8_rows *rows, size_t t, float *y, size_t ldy, enum act act,
                       const float *residual);
size_t linear_scratch_floats(const struct linear *l, struct linear_rows max_rows);
void linear_release(struct linear *l);

#endif
