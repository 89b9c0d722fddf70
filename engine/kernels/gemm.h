#ifndef TTMD_KERNELS_GEMM_H
#define TTMD_KERNELS_GEMM_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/kernels/matmul.h"

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
 * Cost    2*m*n*k operations. Nothing is allocated: the packed operands of a piece lie on the stack,
 *         GEMM_STACK_BYTES of it.
 * Thread  the pool's owner.
 */
void gemm(const struct compute *c, const struct gemm *g);
#define GEMM_STACK_BYTES (800 << 10)

/* gemm_product -- C = op(A) op(B) + beta C of matrices without gaps between their rows. As gemm(). */
void gemm_product(const struct compute *c, bool ta, bool tb, size_t m, size_t n, size_t k,
                  const float *a, const float *b, float beta, float *out);

/* gemm_one -- all of it on the calling thread; inside pool tasks. */
void gemm_one(const struct kernels *k, const struct gemm *g);

#endif
