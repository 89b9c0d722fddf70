/* Rebuilding W from two factors, straight into the layout that the kernels read.
 *
 *     W[(iL, iR), (jL, jR)] = sum_r L[iL, jL, r] R[r, iR, jR]
 *
 * For one iL and a block of jL this is a small matrix product whose result, a tile (jL, iR, jR), stays
 * in cache and is then dealt out to the panels: row (iL, iR), columns jL*nR + jR. Tiles are independent
 * and their sums run over r only, so that W's bits depend neither on the number of threads nor on
 * how the work is cut. Parts beyond `in` and `out` are not computed; the columns that fill up the last
 * panel are zero. */
#include <string.h>

#include "engine/ttm/held.h"

struct rebuild {
    float *data;
    const struct ttm_held *h;
    const struct ttm_plan *plan;
    size_t in, out;
    const struct kernels *k;
    float *scratch;
    uint64_t *mults;
};

/* Where the columns lo..hi-1 of a panel lie in a tile, relative to its row; true when side by side. */
static bool find_lanes(const struct plan_tiles *t, size_t j0, size_t col, size_t lo, size_t hi,
                       size_t from[PACK_N])
{
    bool together = true;
    for (size_t lane = lo; lane < hi; lane++) {
        size_t c = col + lane - j0 * t->n_right;
        from[lane] = c / t->n_right * t->width + c % t->n_right;
        if (lane > lo) together &= from[lane] == from[lane - 1] + 1;
    }
    return together;
}

/* Panel by panel, rows inside: reads and writes both move on by neighbouring addresses. */
static void deal_out(const struct rebuild *r, const float *tile, size_t il, size_t j0, size_t block)
{
    const struct plan_tiles *t = &r->h->tiles;
    size_t row0 = il * t->m_right, rows = r->in - row0 < t->m_right ? r->in - row0 : t->m_right;
    size_t begin = j0 * t->n_right, end = (j0 + block) * t->n_right, from[PACK_N];
    if (end > r->out) end = r->out;
    for (size_t col = begin / PACK_N * PACK_N; col < end; col += PACK_N) {
        size_t lo = col < begin ? begin - col : 0, hi = end - col < PACK_N ? end - col : PACK_N;
        bool together = find_lanes(t, j0, col, lo, hi, from);
        float *at = r->data + (col / PACK_N * r->in + row0) * PACK_N;
        const float *src = tile;
        for (size_t row = 0; row < rows; row++, at += PACK_N, src += t->n_right) {
            if (together)
                memcpy(at + lo, src + from[lo], (hi - lo) * sizeof *at);
            else
                for (size_t lane = lo; lane < hi; lane++)
                    at[lane] = src[from[lane]];
        }
    }
}

static void make_tiles(void *arg, size_t begin, size_t end, int worker)
{
    const struct rebuild *r = arg;
    const struct plan_tiles *t = &r->h->tiles;
    size_t blocks = (t->right + t->block - 1) / t->block;
    float *tile = r->scratch + (size_t)worker * r->plan->worker_floats;
    struct compute alone = {.pool = NULL, .k = r->k};
    for (size_t item = begin; item < end; item++) {
        size_t il = item / blocks, j0 = item % blocks * t->block;
        size_t block = t->right - j0 < t->block ? t->right - j0 : t->block;
        const float *left = r->h->left + (il * t->n_left + j0) * t->rank;
        matmul(&alone, left, t->rank, block, &r->h->right, tile, t->width, NULL);
        deal_out(r, tile, il, j0, block);
        if (r->mults) __atomic_fetch_add(r->mults, block * t->rank * t->width, __ATOMIC_RELAXED);
    }
}

void rebuild_make(float *data, const struct ttm_held *h, const struct ttm_plan *p,
                  const struct ttm_shape *s, const struct compute *c, float *scratch,
                  uint64_t *mults)
{
    struct rebuild r = {.data = data,
                        .h = h,
                        .plan = p,
                        .in = (size_t)s->in,
                        .out = (size_t)s->out,
                        .k = c->k,
                        .scratch = scratch,
                        .mults = mults};
    if (r.out % PACK_N) {
        float *last = data + r.out / PACK_N * r.in * PACK_N;
        memset(last, 0, r.in * PACK_N * sizeof *last);
    }
    size_t blocks = (h->tiles.right + h->tiles.block - 1) / h->tiles.block;
    pool_for(c->pool, h->tiles.left * blocks, 1, make_tiles, &r);
}
