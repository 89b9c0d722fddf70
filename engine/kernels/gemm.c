/* Products for training, by single-threaded OpenBLAS inside the pool's pieces: measured on the shapes
 * of a training step it reaches what it reaches on large squares, and a packed kernel of our own
 * would first have to pack both operands. Two owners of threads would fight for the cores, so
 * OpenBLAS gets none.
 *
 * The longer side of C is cut into pieces of about PIECE_MULTS multiplications: enough of them that a
 * thread that was interrupted takes fewer, large enough that packing the operand that all pieces
 * share does not count. The cut is never along k: sums keep their order. */
#include "engine/kernels/gemm.h"

#include <cblas.h>
#include <limits.h>

#include "engine/base/err.h"

#define PIECE_MULTS ((size_t)1 << 28)
#define PIECE_STEP 48 /* rows or columns of C, a multiple of BLAS kernels' tiles */

struct job {
    const struct gemm *g;
    bool along_n;
    size_t piece; /* rows or columns */
};

void gemm_own_threads(void)
{
    if (openblas_get_num_threads() != 1) openblas_set_num_threads(1);
}

void gemm_one(const struct gemm *g)
{
    if (!g->m || !g->n) return;
    BUG_ON(g->m > INT_MAX || g->n > INT_MAX || g->k > INT_MAX);
    BUG_ON(g->lda > INT_MAX || g->ldb > INT_MAX || g->ldc > INT_MAX);
    cblas_sgemm(CblasRowMajor, g->ta ? CblasTrans : CblasNoTrans, g->tb ? CblasTrans : CblasNoTrans,
                (int)g->m, (int)g->n, (int)g->k, g->alpha, g->a, (int)g->lda, g->b, (int)g->ldb,
                g->beta, g->c, (int)g->ldc);
}

static void run_piece(void *arg, size_t begin, size_t end, int worker)
{
    const struct job *j = arg;
    struct gemm g = *j->g;
    (void)worker;
    (void)end; /* pieces come one at a time */
    size_t at = begin * j->piece, all = j->along_n ? g.n : g.m;
    size_t n = all - at < j->piece ? all - at : j->piece;
    if (j->along_n) {
        g.n = n;
        g.b += g.tb ? at * g.ldb : at;
        g.c += at;
    } else {
        g.m = n;
        g.a += g.ta ? at : at * g.lda;
        g.c += at * g.ldc;
    }
    gemm_one(&g);
}

void gemm(struct pool *pool, const struct gemm *g)
{
    struct job j = {.g = g, .along_n = g->n > g->m};
    gemm_own_threads();
    size_t side = j.along_n ? g->n : g->m, across = j.along_n ? g->m : g->n;
    size_t mults = across * g->k;
    if (!side || !across) return;
    j.piece = PIECE_MULTS / (mults ? mults : 1) / PIECE_STEP * PIECE_STEP;
    if (j.piece < PIECE_STEP) j.piece = PIECE_STEP;
    pool_for(pool, (side + j.piece - 1) / j.piece, 1, run_piece, &j);
}
