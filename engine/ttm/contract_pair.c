/* Contracting two groups, without ever moving the large intermediate.
 *
 * t is tens of times larger than a row, and one of the groups has nearly all the weights. So t is made
 * block by block, each used at once while it is in the core's own cache, and the blocks are cut so
 * that the large group is read once for all rows of a chunk: by output index when it comes first, by
 * input index when it comes second. In the latter case the sums of y go on from block to block; they
 * are f32 in any case, so that the bits are those of one long sum.
 *
 * The first product writes straight into the layout that the second reads, (j, row, i, b): a panel of
 * it lies within one j when the rank is a multiple of PACK_N; other ranks pass through a small tile.
 *
 * Threads get blocks of j, or rows of their own, or when there are few rows and no blocks of j, panels
 * of both products; whatever is nearest to every thread reading weights of its own. */
#include <string.h>

#include "engine/ttm/pair.h"

static const struct epilogue no_epilogue;

/* A chunk's parts of scratch. */
struct area {
    float *row, *x, *acc, *t, *tile;
};

static struct area carve(const struct pair *q, float *scratch, size_t rows, size_t t_floats)
{
    size_t cols = q->p.nf * q->p.ns;
    struct area a;
    a.row = pair_take(&scratch, cols);
    a.x = pair_take(&scratch, rows * q->p.mf * q->p.ms);
    a.acc = pair_take(&scratch, rows * cols);
    a.t = pair_take(&scratch, t_floats);
    a.tile = scratch;
    return a;
}

/* ---- the parts of a chunk ---- */

/* Rows of x as (block of i, row, i, f), padded with zeros. */
static void gather(const struct pair *q, size_t row0, size_t rows, size_t i_block, float *to)
{
    const struct plan_pair *p = &q->p;
    size_t in = (size_t)q->s->in;
    for (size_t i0 = 0; i0 < p->ms; i0 += i_block) {
        size_t n = mem_least(i_block, p->ms - i0);
        for (size_t row = 0; row < rows; row++) {
            const float *x = q->call->x + (row0 + row) * q->call->ldx;
            for (size_t i = i0; i < i0 + n; i++, to += p->mf) {
                size_t at = p->left ? i : i * p->mf, step = p->left ? p->ms : 1;
                for (size_t f = 0; f < p->mf; f++, at += step)
                    to[f] = at < in ? x[at] : 0;
            }
        }
    }
}

static const char *panel_at(const struct packed *w, size_t panel, size_t k)
{
    return (const char *)w->data + (panel * w->k + k) * PACK_N * dtype_size(w->dtype);
}

/* One panel of the first group, from a rank that does not fill panels, through a tile. */
static void scatter_panel(const struct pair *q, const float *x, size_t row0, size_t n, size_t all,
                          size_t col, size_t cols, size_t j0, float *t, float *tile)
{
    const struct plan_pair *p = &q->p;
    q->k->panel[q->first->dtype](x + row0 * p->mf, p->mf, n, panel_at(q->first, col / PACK_N, 0),
                                 p->mf, tile, PACK_N, cols, &no_epilogue);
    for (size_t lane = 0, run; lane < cols; lane += run) {
        size_t j = (col + lane) / p->r, b = (col + lane) % p->r;
        run = mem_least(p->r - b, cols - lane);
        float *to = t + ((j - j0) * all + row0) * p->r + b;
        for (size_t row = 0; row < n; row++)
            held_copy(to + row * p->r, tile + row * PACK_N + lane, run);
    }
}

/* t[j, row, b] = x[row, f] first[f, j, b] for the columns col0..col1 of the first group and the rows
 * row0..row1 of x's `all` rows (row, i). */
static void first_product(const struct pair *q, const float *x, size_t row0, size_t row1,
                          size_t all, size_t col0, size_t col1, float *t, float *tile)
{
    const struct plan_pair *p = &q->p;
    size_t j0 = col0 / p->r;
    for (size_t col = col0; col < col1; col += PACK_N) {
        size_t cols = mem_least(PACK_N, col1 - col), n;
        pair_count(q, row1 - row0, p->mf, cols);
        for (size_t row = row0; row < row1; row += n) {
            n = mem_least(PAIR_TILE_ROWS, row1 - row);
            if (p->r % PACK_N) {
                scatter_panel(q, x, row, n, all, col, cols, j0, t, tile);
                continue;
            }
            float *to = t + ((col / p->r - j0) * all + row) * p->r + col % p->r;
            q->k->panel[q->first->dtype](x + row * p->mf, p->mf, n,
                                         panel_at(q->first, col / PACK_N, 0), p->mf, to, p->r, cols,
                                         &no_epilogue);
        }
    }
}

/* acc[row, s] (+)= t[row, (i, b)] second[(i, b), s] for n values of i from i0, panel by panel. */
static void second_product(const struct pair *q, const float *t, size_t rows, size_t i0, size_t n,
                           size_t panel, float *acc)
{
    const struct plan_pair *p = &q->p;
    size_t col = panel * PACK_N, k = n * p->r, cols = mem_least(PACK_N, p->ns - col);
    struct epilogue e = {.start = i0 ? acc + col : NULL, .lds = p->ns};
    pair_count(q, rows, k, cols);
    q->k->panel[q->second->dtype](t, k, rows, panel_at(q->second, panel, i0 * p->r), k, acc + col,
                                  p->ns, cols, &e);
}

/* Sums (j, row, s) become a whole row: (j, s) in the order of the groups. */
static void spread(const struct pair *q, const float *acc, size_t rows, float *row)
{
    const struct plan_pair *p = &q->p;
    if (!p->left) {
        q->k->transpose(row, p->nf, acc, rows * p->ns, p->nf, p->ns);
        return;
    }
    for (size_t j = 0; j < p->nf; j++)
        memcpy(row + j * p->ns, acc + j * rows * p->ns, p->ns * sizeof *row);
}

void pair_finish(const struct pair *q, const float *acc, size_t rows, size_t row0, size_t begin,
                 size_t end, float *row)
{
    for (size_t r = begin; r < end; r++) {
        spread(q, acc + r * q->p.ns, rows, row);
        contract_finish_row(q->call, q->s, q->k, row, row0 + r);
    }
}

/* ---- blocks ---- */

static size_t i_block(const struct plan_pair *p, size_t rows)
{
    if (p->by_output) return p->ms;
    size_t n = p->block / (rows * p->nf * p->r);
    return n < 1 ? 1 : mem_least(n, p->ms);
}

/* Both products for n values of j from j0; acc: sums of all j. */
static void block_of_j(const struct pair *q, const struct area *a, float *acc, size_t rows,
                       size_t j0, size_t n)
{
    const struct plan_pair *p = &q->p;
    size_t ib = i_block(p, rows);
    acc += j0 * rows * p->ns;
    for (size_t i0 = 0; i0 < p->ms; i0 += ib) {
        size_t ni = mem_least(ib, p->ms - i0), all = rows * ni;
        first_product(q, a->x + i0 * rows * p->mf, 0, all, all, j0 * p->r, (j0 + n) * p->r, a->t,
                      a->tile);
        for (size_t panel = 0; panel < packed_panels(p->ns); panel++)
            second_product(q, a->t, n * rows, i0, ni, panel, acc);
    }
}

/* ---- threads with rows of their own ---- */

static void run_chunks(void *arg, size_t begin, size_t end, int worker)
{
    const struct pair *q = arg;
    for (size_t c = begin; c < end; c++) {
        size_t row0 = c * q->rows, rows = mem_least(q->rows, q->call->rows - row0);
        size_t jb = pair_j_block(&q->p, rows);
        struct area a = carve(q, pair_worker_scratch(q, worker), rows, q->p.block);
        gather(q, row0, rows, i_block(&q->p, rows), a.x);
        for (size_t j0 = 0; j0 < q->p.nf; j0 += jb)
            block_of_j(q, &a, a.acc, rows, j0, mem_least(jb, q->p.nf - j0));
        pair_finish(q, a.acc, rows, row0, 0, rows, a.row);
    }
}

/* ---- threads with blocks of j of the same rows ---- */

struct shared {
    const struct pair *q;
    struct area a; /* x and acc are everybody's */
    size_t row0, rows, block;
};

static void run_blocks(void *arg, size_t begin, size_t end, int worker)
{
    const struct shared *h = arg;
    const struct pair *q = h->q;
    struct area a = carve(q, pair_worker_scratch(q, worker), h->rows, q->p.block);
    a.x = h->a.x;
    for (size_t b = begin; b < end; b++) {
        size_t j0 = b * h->block;
        block_of_j(q, &a, h->a.acc, h->rows, j0, mem_least(h->block, q->p.nf - j0));
    }
}

static void finish_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct shared *h = arg;
    struct area a = carve(h->q, pair_worker_scratch(h->q, worker), h->rows, h->q->p.block);
    pair_finish(h->q, h->a.acc, h->rows, h->row0, begin, end, a.row);
}

static void by_blocks(const struct pair *q, const struct compute *c)
{
    size_t threads = (size_t)pool_threads(c->pool);
    for (size_t row0 = 0; row0 < q->call->rows; row0 += q->rows) {
        struct shared h = {.q = q, .row0 = row0, .rows = mem_least(q->rows, q->call->rows - row0)};
        h.a = carve(q, q->call->scratch, h.rows, q->p.block);
        h.block = pair_j_share(&q->p, h.rows, threads);
        gather(q, row0, h.rows, q->p.ms, h.a.x);
        pool_for(c->pool, (q->p.nf + h.block - 1) / h.block, 1, run_blocks, &h);
        pool_for(c->pool, h.rows, pair_row_grain(q->p.nf * q->p.ns), finish_rows, &h);
    }
}

/* ---- threads with panels of the same few rows ---- */

static void run_first(void *arg, size_t begin, size_t end, int worker)
{
    const struct shared *h = arg;
    const struct pair *q = h->q;
    size_t all = h->rows * q->p.ms, cols = q->p.nf * q->p.r;
    float tile[PAIR_TILE_ROWS * PACK_N];
    (void)worker;
    for (size_t b = begin; b < end; b++) { /* t is whole: a panel may begin within a j */
        size_t col = b * PACK_N, j0 = col / q->p.r;
        first_product(q, h->a.x, 0, all, all, col, mem_least(col + PACK_N, cols),
                      h->a.t + j0 * all * q->p.r, tile);
    }
}

static void run_second(void *arg, size_t begin, size_t end, int worker)
{
    const struct shared *h = arg;
    const struct pair *q = h->q;
    size_t rows = q->p.nf * h->rows, blocks = (rows + h->block - 1) / h->block;
    size_t k = q->p.ms * q->p.r;
    (void)worker;
    for (size_t b = begin; b < end; b++) {
        size_t row = b % blocks * h->block;
        second_product(q, h->a.t + row * k, mem_least(h->block, rows - row), 0, q->p.ms, b / blocks,
                       h->a.acc + row * q->p.ns);
    }
}

static void by_panels(const struct pair *q, const struct compute *c)
{
    const struct plan_pair *p = &q->p;
    struct shared h = {.q = q, .rows = q->call->rows};
    size_t threads = (size_t)pool_threads(c->pool), panels = packed_panels(p->ns);
    size_t rows = p->nf * h.rows, cut = (threads + panels - 1) / panels;
    h.a = carve(q, q->call->scratch, h.rows, h.rows * p->ms * p->nf * p->r);
    h.block = (rows + cut - 1) / cut;
    gather(q, 0, h.rows, p->ms, h.a.x);
    pool_for(c->pool, packed_panels(p->nf * p->r), 1, run_first, &h);
    pool_for(c->pool, panels * ((rows + h.block - 1) / h.block), 1, run_second, &h);
    pair_finish(q, h.a.acc, h.rows, 0, 0, h.rows, h.a.row);
}

void contract_pair_apply(const struct ttm_held *h, const struct ttm_plan *plan,
                         const struct ttm_shape *s, const struct compute *c,
                         const struct ttm_call *call)
{
    struct pair q = {.worker_floats = plan->worker_floats, .s = s, .k = c->k, .call = call};
    size_t threads = (size_t)pool_threads(c->pool);
    plan_pair(&q.p, plan, s);
    q.first = &h->group[0];
    q.second = &h->group[1];
    bool few = q.p.few_rows > 1 ? call->rows <= threads * q.p.few_rows : call->rows < threads;
    if (threads > 1 && few && !q.p.by_output) {
        q.rows = mem_least(call->rows, q.p.rows); /* what a worker's scratch holds */
        if (q.p.few_rows > 1 || i_block(&q.p, q.rows) < q.p.ms)
            by_panels(&q, c);
        else
            by_blocks(&q, c);
        return;
    }
    if (threads > 1 && q.p.by_output && call->rows < threads * q.p.rows) {
        q.rows = q.p.rows;
        by_blocks(&q, c);
        return;
    }
    q.rows = pair_share(&q, threads);
    pool_for(c->pool, (call->rows + q.rows - 1) / q.rows, 1, run_chunks, &q);
}
