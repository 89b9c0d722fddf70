/* The dense-gradient route. W = L R, L (ML, NL, r) and R (r, MR, NR), has its axes in the order (ML, NL,
 * MR, NR), the matrix in (ML, MR, NL, NR): tiles of L's rows are multiplied by R into a small buffer
 * and copied to their places, so that no second W exists. Back, a tile of dW is gathered into the
 * same buffer. dL is a sum over R's columns, so tiles of L's rows give disjoint parts of it; dR is a
 * sum over L's rows and is made from tiles of R's columns. One buffer of W's size serves W, for dx,
 * and then dW. */
#include <string.h>

#include "engine/base/mem.h"
#include "engine/kernels/gemm.h"
#include "models/train/ttm_parts.h"

#define TILE_FLOATS ((size_t)1 << 16)

struct dense {
    const struct ttm_call_grad *c;
    struct ttm_group left, right;
    size_t in, out, r;
    size_t tile_l, tiles_l; /* rows jl of L in a tile, tiles for each il */
    size_t tile_r, tiles_r; /* columns ir of R in a tile */
    size_t tile_floats;
    const float *lp, *rp; /* the groups' products */
    float *w, *dl, *dr;
    float *chain_l, *chain_r, *back, *tiles;
};

static void lay_out(struct dense *d, const struct ttm_grad_plan *p, int threads, float *scratch,
                    size_t *floats)
{
    const struct ttm_shape *s = &p->shape;
    ttm_group_init(&d->left, s, 0, p->split);
    ttm_group_init(&d->right, s, p->split, s->d);
    const struct ttm_group *l = &d->left, *r = &d->right;
    d->in = (size_t)s->in;
    d->out = (size_t)s->out;
    d->r = l->rb;
    d->tile_l = TILE_FLOATS / (r->m * r->n) + 1;
    if (d->tile_l > l->n) d->tile_l = l->n;
    d->tiles_l = (l->n + d->tile_l - 1) / d->tile_l;
    d->tile_r = TILE_FLOATS / (l->m * l->n * r->n) + 1;
    if (d->tile_r > r->m) d->tile_r = r->m;
    d->tiles_r = (r->m + d->tile_r - 1) / d->tile_r;
    size_t a = d->tile_l * r->m * r->n, b = l->m * l->n * d->tile_r * r->n;
    d->tile_floats = mem_lines(a > b ? a : b);
    size_t back = l->backward_floats > r->backward_floats ? l->backward_floats : r->backward_floats;
    const struct {
        float **at;
        size_t n;
    } parts[] = {{&d->w, d->in * d->out},
                 {&d->dl, l->floats},
                 {&d->dr, r->floats},
                 {&d->chain_l, l->chain_floats},
                 {&d->chain_r, r->chain_floats},
                 {&d->back, back},
                 {&d->tiles, d->tile_floats * (size_t)threads}};
    *floats = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (scratch) *parts[i].at = scratch + *floats;
        *floats += mem_lines(parts[i].n);
    }
}

size_t ttm_dense_scratch(const struct ttm_grad_plan *p, int threads)
{
    struct dense d = {0};
    size_t floats;
    lay_out(&d, p, threads, NULL, &floats);
    return floats;
}

/* Rows jl0.. of il: how many of them, and where they begin in L. */
struct tile {
    size_t il, j0, rows;
};

static struct tile tile_at(const struct dense *d, size_t item)
{
    struct tile t = {.il = item / d->tiles_l, .j0 = item % d->tiles_l * d->tile_l};
    t.rows = d->left.n - t.j0 < d->tile_l ? d->left.n - t.j0 : d->tile_l;
    return t;
}

/* Copy between the matrix's row i, columns from jl * NR on, and the tile: n columns, cut at `out`. */
static size_t cut(const struct dense *d, size_t col)
{
    size_t n = d->right.n;
    return col >= d->out ? 0 : d->out - col < n ? d->out - col : n;
}

static void build_tiles(void *arg, size_t begin, size_t end, int worker)
{
    const struct dense *d = arg;
    const struct ttm_group *r = &d->right;
    float *tile = d->tiles + (size_t)worker * d->tile_floats;
    for (size_t item = begin; item < end; item++) {
        struct tile t = tile_at(d, item);
        gemm_one(d->c->compute->k, &(struct gemm){.m = t.rows,
                                                  .n = r->m * r->n,
                                                  .k = d->r,
                                                  .alpha = 1,
                                                  .a = d->lp + (t.il * d->left.n + t.j0) * d->r,
                                                  .lda = d->r,
                                                  .b = d->rp,
                                                  .ldb = r->m * r->n,
                                                  .c = tile,
                                                  .ldc = r->m * r->n});
        for (size_t ir = 0; ir < r->m && t.il * r->m + ir < d->in; ir++)
            for (size_t j = 0; j < t.rows; j++) {
                size_t col = (t.j0 + j) * r->n, n = cut(d, col);
                memcpy(d->w + (t.il * r->m + ir) * d->out + col, tile + (j * r->m + ir) * r->n,
                       n * sizeof *tile);
            }
    }
}

static void gather_left(const struct dense *d, const struct tile *t, float *tile)
{
    const struct ttm_group *r = &d->right;
    for (size_t ir = 0; ir < r->m; ir++)
        for (size_t j = 0; j < t->rows; j++) {
            size_t row = t->il * r->m + ir, col = (t->j0 + j) * r->n;
            size_t n = row < d->in ? cut(d, col) : 0;
            float *to = tile + (j * r->m + ir) * r->n;
            memcpy(to, d->w + row * d->out + col, n * sizeof *to);
            memset(to + n, 0, (r->n - n) * sizeof *to);
        }
}

static void left_tiles(void *arg, size_t begin, size_t end, int worker)
{
    const struct dense *d = arg;
    const struct ttm_group *r = &d->right;
    float *tile = d->tiles + (size_t)worker * d->tile_floats;
    for (size_t item = begin; item < end; item++) {
        struct tile t = tile_at(d, item);
        gather_left(d, &t, tile);
        gemm_one(d->c->compute->k, &(struct gemm){.tb = true,
                                                  .m = t.rows,
                                                  .n = d->r,
                                                  .k = r->m * r->n,
                                                  .alpha = 1,
                                                  .a = tile,
                                                  .lda = r->m * r->n,
                                                  .b = d->rp,
                                                  .ldb = r->m * r->n,
                                                  .c = d->dl + (t.il * d->left.n + t.j0) * d->r,
                                                  .ldc = d->r});
    }
}

/* dR[:, ir0.., :] = L^T (columns ir0.. of dW as (ML NL, rows of ir, NR)) */
static void right_tiles(void *arg, size_t begin, size_t end, int worker)
{
    const struct dense *d = arg;
    const struct ttm_group *l = &d->left, *r = &d->right;
    float *tile = d->tiles + (size_t)worker * d->tile_floats;
    for (size_t item = begin; item < end; item++) {
        size_t i0 = item * d->tile_r, rows = r->m - i0 < d->tile_r ? r->m - i0 : d->tile_r;
        for (size_t il = 0; il < l->m; il++)
            for (size_t i = 0; i < rows; i++)
                for (size_t jl = 0; jl < l->n; jl++) {
                    size_t row = il * r->m + i0 + i, n = row < d->in ? cut(d, jl * r->n) : 0;
                    float *to = tile + ((il * l->n + jl) * rows + i) * r->n;
                    memcpy(to, d->w + row * d->out + jl * r->n, n * sizeof *to);
                    memset(to + n, 0, (r->n - n) * sizeof *to);
                }
        gemm_one(d->c->compute->k, &(struct gemm){.ta = true,
                                                  .m = d->r,
                                                  .n = rows * r->n,
                                                  .k = l->m * l->n,
                                                  .alpha = 1,
                                                  .a = d->lp,
                                                  .lda = d->r,
                                                  .b = tile,
                                                  .ldb = rows * r->n,
                                                  .c = d->dr + i0 * r->n,
                                                  .ldc = r->m * r->n});
    }
}

static void rebuild(struct dense *d, const struct ttm_call_grad *c)
{
    size_t floats;
    d->c = c;
    lay_out(d, c->p, pool_threads(c->compute->pool), c->scratch, &floats);
    d->lp = ttm_group_merge(&d->left, c->compute, c->cores, d->chain_l);
    d->rp = ttm_group_merge(&d->right, c->compute, c->cores, d->chain_r);
    pool_for(c->compute->pool, d->left.m * d->tiles_l, 1, build_tiles, d);
}

void ttm_dense_forward(const struct ttm_call_grad *c)
{
    struct dense d;
    rebuild(&d, c);
    gemm_product(c->compute, false, false, c->t, d.out, d.in, c->x, d.w, 0, c->y);
}

void ttm_dense_backward(const struct ttm_call_grad *c)
{
    struct dense d;
    rebuild(&d, c);
    gemm_product(c->compute, false, true, c->t, d.in, d.out, c->dy, d.w, 0, c->dx);
    gemm_product(c->compute, true, false, d.in, d.out, c->t, c->x, c->dy, 0, d.w);
    pool_for(c->compute->pool, d.left.m * d.tiles_l, 1, left_tiles, &d);
    pool_for(c->compute->pool, d.tiles_r, 1, right_tiles, &d);
    ttm_group_backward(&d.left, c->compute, c->cores, d.chain_l, d.dl, c->dcores, d.back);
    ttm_group_backward(&d.right, c->compute, c->cores, d.chain_r, d.dr, c->dcores, d.back);
}
