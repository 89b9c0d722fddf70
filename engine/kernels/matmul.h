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
 *   w   (K, N) packed
 *   y   (T, N) f32, stride ldy floats; overwritten; must not alias x; may alias e->residual
 *   e   NULL = plain product
 *
 * Cost    2*T*K*N operations; weights are read once per ~hundreds of rows.
 * Thread  the pool's owner.
 */
void matmul(const struct compute *c, const float *x, size_t ldx, size_t t, const struct packed *w,
            float *y, size_t ldy, const struct epilogue *e);

#endif
