#ifndef TTMD_KERNELS_MATMUL_H
#define TTMD_KERNELS_MATMUL_H

#include "engine/base/pool.h"
#include "engine/kernels/kernels.h"

/* What computing code is handed: who computes and with which arithmetic. Borrowed, constant. */
struct compute {
    struct pool *pool; /* NULL: the calling thread alone */
    const struct kernels *k;
};

/* matmul_stride -- floats from row to row, at least `cols`, that suit x best: an odd number of cache
 * lines. Rows a power of two apart share few sets of the L1 cache, which a tile of 12 of them exceeds:
 * products with k = 3072 or 1024 then lose up to a third. */
static inline size_t matmul_stride(size_t cols)
{
    return ((cols + 15) / 16 | 1) * 16;
}

/* matmul -- y = epilogue(x W) for a packed W, split over the pool.
 *
 *   x   (T, K) f32, stride ldx floats, best matmul_stride(K); borrowed, not modified
 *   w   (K, N) packed, not I8
 *   y   (T, N) f32, stride ldy floats; overwritten; must not alias x; may alias e->residual
 *   e   NULL = plain product
 *
 * Cost    2*T*K*N operations; weights are read once per ~hundreds of rows.
 * Thread  the pool's owner.
 */
void matmul(const struct compute *c, const float *x, size_t ldx, size_t t, const struct packed *w,
            float *y, size_t ldy, const struct epilogue *e);

/* int8_stride -- bytes from row to row of quantised rows of k numbers: an odd number of cache lines. */
static inline size_t int8_stride(size_t k)
{
    return ((k + 63) / 64 | 1) * 64;
}

/* quantise_rows -- rows as 8-bit numbers in `scratch`, of quantised_floats(t, k), 64-byte aligned.
 *
 *   x     (t, k) f32, stride ldx floats; borrowed
 *   rows  (t) which row of x each one is; NULL = 0..t-1
 *
 * Thread  the pool's owner. */
struct int8_rows quantise_rows(const struct compute *c, const float *x, size_t ldx,
                               const int32_t *rows, size_t t, size_t k, float *scratch);
static inline float *quantised_scales(float *scratch, size_t t,
                                      size_t k) /* where theirs are in it */
{
    return scratch + t * int8_stride(k) / sizeof(float);
}
static inline size_t quantised_floats(size_t t, size_t k)
{
    return (t * int8_stride(k) / sizeof(float) + t + 15) / 16 * 16;
}

/* matmul_int8 -- the same product of quantised rows with an I8 matrix. */
void matmul_int8(const struct compute *c, const struct int8_rows *x, size_t t,
                 const struct packed *w, float *y, size_t ldy, const struct epilogue *e);

/* matmul_any -- whatever w holds; rows are quantised first where it is I8.
 *   scratch  >= matmul_scratch_floats(w, t), 64-byte aligned; borrowed */
void matmul_any(const struct compute *c, const float *x, size_t ldx, size_t t,
                const struct packed *w, float *y, size_t ldy, const struct epilogue *e,
                float *scratch);
static inline size_t matmul_scratch_floats(const struct packed *w, size_t t)
{
    return w->dtype == DTYPE_I8 ? quantised_floats(t, w->k) : 0;
}

#endif
