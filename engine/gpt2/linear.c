/* Fully connected layers. Forward code never asks how a weight is held: it calls linear_apply(), and
 * bias, activation and residual are fused into the product's epilogue so that a finished row is
 * written once. */
#include "engine/gpt2/linear.h"

#include <stdlib.h>

void linear_apply(const struct linear *l, const struct compute *c, struct linear_rows rows,
                  const float *x, size_t ldx, float *y, size_t ldy, enum act act,
                  const float *residual, float *scratch)
{
    struct epilogue e = {.bias = l->bias, .act = act, .residual = residual, .ldr = ldy};
    if (l->kind == LINEAR_TTM)
        ttm_linear_apply(l->ttm, c, rows.n_decode, rows.n_prefill, x, ldx, y, ldy, &e, scratch);
    else
        matmul_any(c, x, ldx, rows.n_decode + rows.n_prefill, &l->dense, y, ldy, &e, scratch);
}

bool linear_is_int8(const struct linear *l)
{
    return l->kind == LINEAR_DENSE && l->dense.dtype == DTYPE_I8;
}

void linear_apply_int8(const struct linear *l, const struct compute *c,
                       const struct int8_rows *rows, size_t t, float *y, size_t ldy, enum act act,
                       const float *residual)
{
    const struct epilogue e = {.bias = l->bias, .act = act, .residual = residual, .ldr = ldy};
    matmul_int8(c, rows, t, &l->dense, y, ldy, &e);
}

size_t linear_scratch_floats(const struct linear *l, struct linear_rows max_rows)
{
    if (l->kind == LINEAR_DENSE)
        return matmul_scratch_floats(&l->dense, max_rows.n_decode + max_rows.n_prefill);
    return ttm_linear_scratch_floats(l->ttm, max_rows.n_decode, max_rows.n_prefill);
}

void linear_release(struct linear *l)
{
    packed_release(&l->dense);
    ttm_linear_free(l->ttm);
    free(l->bias);
    *l = (struct linear){0};
}
