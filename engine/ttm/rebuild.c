/* Rebuilding W from two factors, straight into the layout that the kernels read.
 *
 *     W[(iL, iR), (jL, jR)] = sum_r L[iL, jL, r] R[r, iR, jR]
 *
 * W is made in blocks of columns, whole panels that stay in a core's cache: for some iL and the jL that
 * the block touches, a small matrix product gives a tile (iL, jL, iR, jR), which is dealt out to the
 * panels. To apply a layer, each thread makes a block and multiplies all rows of x by it at once; W as
 * a whole never exists, no thread waits for another, and W costs neither memory nor its traffic. A
 * resident W is made by the same code, each block packed in its type as soon as it is there: in F32 both
 * have the same bits, since sums run over r only and do not depend on how the work is cut. Parts beyond
 * `in` and `out` are not computed; the columns that fill up the last panel are zero. */
#include <stdatomic.h>
#include <string.h>

#include "engine/ttm/held.h"

struct rebuild {
    const struct ttm_held *h;
    const struct ttm_plan *plan;
    size_t in, out;
    const struct compute *c;
    float *scratch;
    uint64_t *mults;
    struct packed *whole;        /* making a resident W: (in, out) */
    atomic_bool *bad;            /* the same: not finite */
    const struct ttm_call *call; /* applying: rows of x, in `parts` parts */
    size_t parts;
};

/* Lanes of a panel that lie side by side in a tile's row. */
struct run {
    size_t lane, n, from;
};

/* The runs of the columns from `col` up to `end`, for a tile whose first left index is j0. */
static int find_runs(const struct plan_tiles *t, size_t j0, size_t col, size_t end,
                     struct run runs[PACK_N])
{
    int n = 0;
    for (size_t c = col; c < end && c < col + PACK_N; n++) {
        size_t j = c / t->n_right, right = c % t->n_right, len = t->n_right - right;
        if (len > end - c) len = end - c;
        if (len > col + PACK_N - c) len = col + PACK_N - c;
        runs[n] = (struct run){c - col, len, (j - j0) * t->width + right};
        c += len;
    }
    return n;
}

/* A tile of left inputs i0..i0+n-1 and left outputs from j0 on to the block's panels. */
static void deal_out(const struct rebuild *r, const float *tile, size_t i0, size_t n, size_t j0,
                     size_t nj, size_t col0, size_t col1, float *block)
{
    const struct plan_tiles *t = &r->h->tiles;
    struct run runs[PACK_N];
    for (size_t col = col0; col < col1; col += PACK_N, block += r->in * PACK_N) {
        int n_runs = find_runs(t, j0, col, col1, runs);
        for (size_t i = i0; i < i0 + n; i++) {
            size_t row0 = i * t->m_right;
            size_t rows = r->in - row0 < t->m_right ? r->in - row0 : t->m_right;
            const float *src = tile + (i - i0) * nj * t->width;
            float *to = block + row0 * PACK_N;
            for (size_t row = 0; row < rows; row++, to += PACK_N, src += t->n_right)
                for (int k = 0; k < n_runs; k++)
                    held_copy(to + runs[k].lane, src + runs[k].from, runs[k].n);
        }
    }
}

/* Columns col0..col1-1 of W, whole panels of (in, PACK_N) one after the other. */
static void make_block(const struct rebuild *r, size_t col0, size_t col1, float *block,
                       float *scratch)
{
    const struct plan_tiles *t = &r->h->tiles;
    struct compute alone = {.pool = NULL, .k = r->c->k};
    size_t j0 = col0 / t->n_right, nj = (col1 - 1) / t->n_right + 1 - j0;
    float *left = scratch, *tile = scratch + t->tile_rows * t->rank;
    size_t step = t->tile_rows / nj;
    if (col1 % PACK_N) {
        float *last = block + (col1 - col0) / PACK_N * r->in * PACK_N;
        memset(last, 0, r->in * PACK_N * sizeof *last);
    }
    for (size_t i0 = 0, n; i0 < t->left; i0 += n) {
        n = t->left - i0 < step ? t->left - i0 : step;
        for (size_t i = 0; i < n; i++)
            memcpy(left + i * nj * t->rank, r->h->left + ((i0 + i) * t->n_left + j0) * t->rank,
                   nj * t->rank * sizeof *left);
        matmul(&alone, left, t->rank, n * nj, &r->h->right, tile, t->width, NULL);
        deal_out(r, tile, i0, n, j0, nj, col0, col1, block);
        if (r->mults) __atomic_fetch_add(r->mults, n * nj * t->rank * t->width, __ATOMIC_RELAXED);
    }
}

static size_t block_end(const struct rebuild *r, size_t col0)
{
    size_t end = col0 + r->h->tiles.cols;
    return end < r->out ? end : r->out;
}

/* Panels are row-major matrices of PACK_N columns. */
static void make_task(void *arg, size_t begin, size_t end, int worker)
{
    const struct rebuild *r = arg;
    float *block = r->scratch + (size_t)worker * r->plan->worker_floats;
    float *scratch = block + r->h->tiles.cols * r->in;
    for (size_t b = begin; b < end; b++) {
        size_t col0 = b * r->h->tiles.cols, col1 = block_end(r, col0);
        make_block(r, col0, col1, block, scratch);
        for (size_t col = col0; col < col1; col += PACK_N) {
            const struct pack_source from = {.data = block + (col - col0) * r->in,
                                             .dtype = DTYPE_F32};
            struct packed panel = packed_columns(r->whole, col / PACK_N, PACK_N);
            if (!packed_fill(&panel, &from, 0, 1)) *r->bad = true;
        }
    }
}

/* Rows of x times a block that was just made. */
static void multiply(const struct rebuild *r, const float *block, size_t col0, size_t col1,
                     size_t row0, size_t rows)
{
    const struct ttm_call *call = r->call;
    const struct compute alone = {.pool = NULL, .k = r->c->k};
    struct packed w = {
        .dtype = DTYPE_F32, .k = r->in, .n = col1 - col0, .data = (void *)(uintptr_t)block};
    struct epilogue e = call->e ? *call->e : (struct epilogue){0};
    if (e.bias) e.bias += col0;
    if (e.residual) e.residual += row0 * e.ldr + col0;
    matmul(&alone, call->x + row0 * call->ldx, call->ldx, rows, &w,
           call->y + row0 * call->ldy + col0, call->ldy, &e);
    if (r->call->mults)
        __atomic_fetch_add(call->mults, (uint64_t)rows * r->in * (col1 - col0), __ATOMIC_RELAXED);
}

static void apply_task(void *arg, size_t begin, size_t end, int worker)
{
    struct rebuild r = *(struct rebuild *)arg;
    float *block = r.scratch + (size_t)worker * r.plan->worker_floats;
    float *scratch = block + r.h->tiles.cols * r.in;
    for (size_t item = begin; item < end; item++) {
        size_t part = item % r.parts, rows = (r.call->rows + r.parts - 1) / r.parts;
        size_t row0 = part * rows, col0 = item / r.parts * r.h->tiles.cols;
        if (row0 >= r.call->rows) continue;
        if (rows > r.call->rows - row0) rows = r.call->rows - row0;
        r.mults = part == 0 ? r.call->mults : NULL; /* W is made once for the count */
        make_block(&r, col0, block_end(&r, col0), block, scratch);
        multiply(&r, block, col0, block_end(&r, col0), row0, rows);
    }
}

static size_t blocks(const struct rebuild *r)
{
    return (r->out + r->h->tiles.cols - 1) / r->h->tiles.cols;
}

bool rebuild_pack(struct packed *out, const struct ttm_held *h, const struct ttm_plan *p,
                  const struct compute *c, float *scratch)
{
    atomic_bool bad = false;
    struct rebuild r = {.h = h,
                        .plan = p,
                        .in = out->k,
                        .out = out->n,
                        .c = c,
                        .scratch = scratch,
                        .whole = out,
                        .bad = &bad};
    pool_for(c->pool, blocks(&r), 1, make_task, &r);
    return !bad;
}

void rebuild_apply(const struct ttm_held *h, const struct ttm_plan *p, const struct ttm_shape *s,
                   const struct compute *c, const struct ttm_call *call)
{
    struct rebuild r = {.h = h,
                        .plan = p,
                        .in = (size_t)s->in,
                        .out = (size_t)s->out,
                        .c = c,
                        .scratch = call->scratch,
                        .call = call};
    /* More threads than blocks: several make the same block for different rows. */
    size_t threads = (size_t)pool_threads(c->pool), most = (call->rows + 11) / 12;
    r.parts = threads / blocks(&r);
    if (r.parts > most) r.parts = most;
    if (r.parts < 1) r.parts = 1;
    pool_for(c->pool, blocks(&r) * r.parts, 1, apply_task, &r);
}
