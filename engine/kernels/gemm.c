/* Products for training. OpenBLAS would do it, but how well depends on the kernels it picks: those for
 * AVX2, which it falls back to on processors newer than itself, reach half of what AVX-512 does. So
 * the usual blocking is written here on our own tiles. A block of B (KC, NC) is packed into panels of
 * the tile's width, a block of A (MC, KC) into panels of its height; then a panel of B stays in L1
 * while the panels of A pass over it from L2.
 *
 *        jc: NC columns of C and B        B block  | panel | panel | panel |   KC rows
 *         pc: KC of the sum               A block  | panel of rows |           MC rows
 *          ic: MC rows of C and A                  ...
 *
 * For the pool C is cut into pieces of about PIECE_MULTS multiplications: enough of them that a thread
 * that was interrupted takes fewer, large enough that packing does not count. The cut is never along
 * k: sums keep their order. Blocks live on
 * the stack: each thread has its own, and nobody has to hand them around. */
#include "engine/kernels/gemm.h"

#include <math.h>
#include <stdalign.h>

#include "engine/base/err.h"
#include "engine/base/mem.h"
#include "engine/kernels/grad.h"

#define PIECE_MULTS 2.7e8
#define PIECE_STEP 96 /* sides of pieces, a multiple of all tiles */
#define KC 320
#define MC 96
#define NC 480

struct job {
    const struct kernels *k;
    const struct gemm *g;
    size_t rows, cols; /* of a piece of C */
    size_t across;     /* pieces side by side */
};

/* One block of C: the packed block of A against the packed block of B. */
static void block(const struct grad_kernels *t, const struct gemm *g, const float *a,
                  const float *b, size_t ic, size_t mc, size_t jc, size_t nc, size_t kc, bool add)
{
    for (size_t j = 0; j < nc; j += t->gemm_cols)
        for (size_t i = 0; i < mc; i += t->gemm_rows)
            t->gemm_tile(kc, a + i * kc, b + j * kc, g->alpha, add,
                         g->c + (ic + i) * g->ldc + jc + j, g->ldc, mem_least(mc - i, t->gemm_rows),
                         mem_least(nc - j, t->gemm_cols));
}

static void pack_a(const struct grad_kernels *t, const struct gemm *g, float *to, size_t ic,
                   size_t mc, size_t pc, size_t kc)
{
    const float *from = g->ta ? g->a + pc * g->lda + ic : g->a + ic * g->lda + pc;
    t->gemm_pack(to, t->gemm_rows, from, g->lda, !g->ta, kc, mc);
}

static void pack_b(const struct grad_kernels *t, const struct gemm *g, float *to, size_t jc,
                   size_t nc, size_t pc, size_t kc)
{
    const float *from = g->tb ? g->b + jc * g->ldb + pc : g->b + pc * g->ldb + jc;
    t->gemm_pack(to, t->gemm_cols, from, g->ldb, g->tb, kc, nc);
}

/* What is to be added to: beta C. */
static void scale_c(const struct grad_kernels *t, const struct gemm *g)
{
    for (size_t i = 0; i < g->m && g->beta != 1; i++)
        for (size_t j = 0; j < g->n && g->beta == 0; j++)
            g->c[i * g->ldc + j] = 0;
    for (size_t i = 0; i < g->m && g->beta != 1 && g->beta != 0; i++)
        t->scale(g->c + i * g->ldc, g->beta, g->n);
}

void gemm_one(const struct kernels *k, const struct gemm *g)
{
    const struct grad_kernels *t = grad_kernels(k);
    alignas(64) float a[MC * KC];
    alignas(64) float b[(NC + GEMM_MAX_COLS) * KC];
    _Static_assert(sizeof a + sizeof b <= GEMM_STACK_BYTES, "stack of a product");
    bool overwrite = g->beta == 0 && g->k > 0;
    if (!overwrite) scale_c(t, g);
    if (!g->k) return;
    size_t passes = (g->k + KC - 1) / KC, deep = (g->k + passes - 1) / passes;
    for (size_t jc = 0; jc < g->n; jc += NC) {
        size_t nc = mem_least(g->n - jc, NC);
        for (size_t pc = 0; pc < g->k; pc += deep) {
            size_t kc = mem_least(g->k - pc, deep);
            pack_b(t, g, b, jc, nc, pc, kc);
            for (size_t ic = 0; ic < g->m; ic += MC) {
                size_t mc = mem_least(g->m - ic, MC);
                pack_a(t, g, a, ic, mc, pc, kc);
                block(t, g, a, b, ic, mc, jc, nc, kc, pc > 0 || !overwrite);
            }
        }
    }
}

static void run_piece(void *arg, size_t begin, size_t end, int worker)
{
    const struct job *j = arg;
    struct gemm g = *j->g;
    (void)worker;
    (void)end; /* pieces come one at a time */
    size_t i = begin / j->across * j->rows, k = begin % j->across * j->cols;
    g.m = mem_least(g.m - i, j->rows);
    g.n = mem_least(g.n - k, j->cols);
    g.a += g.ta ? i : i * g.lda;
    g.b += g.tb ? k * g.ldb : k;
    g.c += i * g.ldc + k;
    gemm_one(j->k, &g);
}

static size_t share(size_t n, size_t parts)
{
    return ((n + parts - 1) / parts + PIECE_STEP - 1) / PIECE_STEP * PIECE_STEP;
}

/* Each piece packs its rows of A and its columns of B: the nearer to a square, the less of that. */
static void cut(struct job *j)
{
    const struct gemm *g = j->g;
    double mults = (double)g->m * (double)g->n * (double)g->k, least = INFINITY;
    size_t pieces = (size_t)(mults / PIECE_MULTS) + 1;
    j->rows = g->m;
    j->cols = g->n;
    for (size_t down = 1; down <= pieces; down++) {
        size_t rows = share(g->m, down), cols = share(g->n, (pieces + down - 1) / down);
        double cost = 1 / (double)mem_least(rows, g->m) + 1 / (double)mem_least(cols, g->n);
        if (cost >= least) continue;
        least = cost;
        j->rows = rows;
        j->cols = cols;
    }
    j->across = (g->n + j->cols - 1) / j->cols;
}

void gemm(const struct compute *c, const struct gemm *g)
{
    struct job j = {.k = c->k, .g = g};
    if (!g->m || !g->n) return;
    cut(&j);
    pool_for(c->pool, j.across * ((g->m + j.rows - 1) / j.rows), 1, run_piece, &j);
}

void gemm_product(const struct compute *c, bool ta, bool tb, size_t m, size_t n, size_t k,
                  const float *a, const float *b, float beta, float *out)
{
    gemm(c, &(struct gemm){.ta = ta,
                           .tb = tb,
                           .m = m,
                           .n = n,
                           .k = k,
                           .alpha = 1,
                           .beta = beta,
                           .a = a,
                           .lda = ta ? m : k,
                           .b = b,
                           .ldb = tb ? k : n,
                           .c = out,
                           .ldc = n});
}
