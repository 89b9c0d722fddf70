#ifndef TTMD_KERNELS_GEMM_H
#define TTMD_KERNELS_GEMM_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/pool.h"

/* Large f32 products of row-major matrices, for training: both operands change from call to call, so
 * that nothing is worth packing beforehand (matmul.h is the product with weights that stay).
 *
 * A product is C = alpha op(A) op(B) + beta C with op(A) (m, k), op(B) (k, n), C (m, n); with ta A is
 * stored as its transpose (k, m), with tb B as (n, k). The leading dimensions are floats from row to
 * row of what is stored. C must not overlap A or B; with beta = 0 it is overwritten, whatever it
 * held. All borrowed. */
struct gemm {
    bool ta, tb;
    size_t m, n, k;
    float alpha, beta;
    const float *a, *b;
    float *c;
    size_t lda, ldb, ldc;
};

/* gemm -- split over the pool in pieces that depend on the shape alone: the same bits with any number
 * of threads.
 *
 * Cost    2*m*n*k operations.
 * Thread  the pool's owner. The process computes with OpenBLAS in one thread per caller from the first
 *         call on.
 */
void gemm(struct pool *pool, const struct gemm *g);

/* gemm_one -- all of it on the calling thread; inside pool tasks. */
void gemm_one(const struct gemm *g);

/* gemm_own_threads -- tell OpenBLAS once that the pool owns the threads; before any gemm_one(). */
void gemm_own_threads(void);

#endif
