/* Contracting two groups of 8-bit numbers.
 *
 *     t[row, i, j, b] = sum_f x[row, (f, i)] first[f, j, b]
 *     y[row, (j, s)]  = sum_{i, b} t[row, i, j, b] second[i, b, s]
 *
 * Both products take quantised rows: the first one x's (row, i), of mf numbers, the second one t's (j,
 * row), of ms * r. A row of t needs one scale, so that it is whole before it is quantised: t is made in
 * blocks of j, each through both products while it is in the core's own cache. (contract_pair.c cuts i as
 * well, where that saves reading the second group again; at a quarter of the bytes that is not needed.)
 *
 * Threads get rows of their own, or with few rows blocks of j. A row's scales are functions of that row,
 * whatever the blocks are. */
#include "engine/ttm/pair.h"

static const struct epilogue no_epilogue;

/* Quantised rows that are being made. */
struct bytes {
    uint8_t *q;
    size_t ld;
    float *scale;
};

/* A chunk's parts of scratch. */
struct area {
    struct bytes x, tq;
    float *row, *line, *t, *acc, *tile;
};

static struct bytes take_rows(float **at, size_t rows, size_t k)
{
    struct bytes b = {.ld = int8_stride(k)};
    b.q = pair_take(at, rows * b.ld / sizeof(float));
    b.scale = pair_take(at, rows);
    return b;
}

/* The areas of one thread, from scratch on; where they end. */
static float *carve(struct area *a, const struct plan_pair *p, float *scratch)
{
    size_t t_rows = pair_int8_rows(p);
    a->x = take_rows(&scratch, p->rows * p->ms, p->mf);
    a->tq = take_rows(&scratch, t_rows, p->ms * p->r);
    a->row = pair_take(&scratch, p->nf * p->ns);
    a->line = pair_take(&scratch, p->mf);
    a->t = pair_take(&scratch, p->block);
    a->acc = pair_take(&scratch, p->rows * p->nf * p->ns);
    a->tile = pair_take(&scratch, PAIR_TILE_ROWS * PACK_N);
    return scratch;
}

size_t contract_int8_worker_floats(const struct ttm_plan *plan, const struct ttm_shape *s)
{
    static float nowhere[1];
    struct plan_pair p;
    struct area a;
    plan_pair_int8(&p, plan, s);
    return (size_t)(carve(&a, &p, nowhere) - nowhere);
}

static void quantise(const struct pair *q, const struct bytes *to, size_t row, const float *x,
                     size_t n)
{
    q->k->quantise(to->q + row * to->ld, int8_quads(n) * INT8_QUAD, to->scale + row, x, n);
}

static void multiply(const struct pair *q, const struct bytes *x, size_t row, size_t rows,
                     const struct packed *w, size_t panel, size_t cols, float *y, size_t ldy)
{
    const struct int8_rows in = {x->q + row * x->ld, x->ld, x->scale + row};
    const struct int8_panel p = {.w = (const int8_t *)w->data +
                                      panel * packed_panel_bytes(DTYPE_I8, w->k),
                                 .quads = int8_quads(w->k),
                                 .scale = w->scale + panel * PACK_N,
                                 .shift = w->shift + panel * PACK_N};
    pair_count(q, rows, w->k, cols);
    q->k->panel_int8(q->k->int8, &in, rows, &p, y, ldy, cols, &no_epilogue);
}

/* Rows [begin, end) of a chunk of x, from row0 on, as quantised rows (row, i) of mf numbers; what is beyond the
 * layer's width is zero. */
static void gather(const struct pair *q, size_t row0, size_t begin, size_t end,
                   const struct area *a)
{
    const struct plan_pair *p = &q->p;
    size_t in = (size_t)q->s->in, step = p->left ? p->ms : 1;
    for (size_t row = begin; row < end; row++) {
        const float *x = q->call->x + (row0 + row) * q->call->ldx;
        for (size_t i = 0; i < p->ms; i++) {
            size_t at = p->left ? i : i * p->mf;
            for (size_t f = 0; f < p->mf; f++, at += step)
                a->line[f] = at < in ? x[at] : 0;
            quantise(q, &a->x, row * p->ms + i, a->line, p->mf);
        }
    }
}

/* One panel of the first group, from a rank that does not fill panels, through a tile. */
static void scatter(const struct pair *q, size_t row0, size_t n, size_t all, size_t col,
                    size_t cols, size_t j0, const struct area *a)
{
    const struct plan_pair *p = &q->p;
    multiply(q, &a->x, row0, n, q->first, col / PACK_N, cols, a->tile, PACK_N);
    for (size_t lane = 0, run; lane < cols; lane += run) {
        size_t j = (col + lane) / p->r, b = (col + lane) % p->r;
        run = mem_least(p->r - b, cols - lane);
        float *to = a->t + ((j - j0) * all + row0) * p->r + b;
        for (size_t row = 0; row < n; row++)
            held_copy(to + row * p->r, a->tile + row * PACK_N + lane, run);
    }
}

/* t (j, row, i, b) for n values of j from j0. */
static void first_product(const struct pair *q, size_t rows, size_t j0, size_t n,
                          const struct area *a)
{
    const struct plan_pair *p = &q->p;
    size_t all = rows * p->ms, end = (j0 + n) * p->r, part;
    for (size_t col = j0 * p->r; col < end; col += PACK_N) {
        size_t cols = mem_least(PACK_N, end - col);
        for (size_t row = 0; row < all; row += part) {
            part = mem_least(PAIR_TILE_ROWS, all - row);
            if (p->r % PACK_N) {
                scatter(q, row, part, all, col, cols, j0, a);
                continue;
            }
            float *to = a->t + ((col / p->r - j0) * all + row) * p->r + col % p->r;
            multiply(q, &a->x, row, part, q->first, col / PACK_N, cols, to, p->r);
        }
    }
}

/* Both products for n values of j from j0; acc: sums (j, row, s) of all j. */
static void block_of_j(const struct pair *q, const struct area *a, float *acc, size_t rows,
                       size_t j0, size_t n)
{
    const struct plan_pair *p = &q->p;
    size_t k = p->ms * p->r, t_rows = n * rows;
    first_product(q, rows, j0, n, a);
    for (size_t row = 0; row < t_rows; row++)
        quantise(q, &a->tq, row, a->t + row * k, k);
    for (size_t panel = 0; panel < packed_panels(p->ns); panel++) {
        size_t col = panel * PACK_N;
        multiply(q, &a->tq, 0, t_rows, q->second, panel, mem_least(PACK_N, p->ns - col),
                 acc + j0 * rows * p->ns + col, p->ns);
    }
}

/* ---- threads with rows of their own ---- */

static void run_chunks(void *arg, size_t begin, size_t end, int worker)
{
    const struct pair *q = arg;
    struct area a;
    carve(&a, &q->p, pair_worker_scratch(q, worker));
    for (size_t c = begin; c < end; c++) {
        size_t row0 = c * q->rows, rows = mem_least(q->rows, q->call->rows - row0);
        size_t jb = pair_j_block(&q->p, rows);
        gather(q, row0, 0, rows, &a);
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

static void gather_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct shared *h = arg;
    struct area a;
    carve(&a, &h->q->p, pair_worker_scratch(h->q, worker));
    a.x = h->a.x;
    gather(h->q, h->row0, begin, end, &a);
}

static void run_blocks(void *arg, size_t begin, size_t end, int worker)
{
    const struct shared *h = arg;
    const struct pair *q = h->q;
    struct area a;
    carve(&a, &q->p, pair_worker_scratch(q, worker));
    a.x = h->a.x;
    for (size_t b = begin; b < end; b++) {
        size_t j0 = b * h->block;
        block_of_j(q, &a, h->a.acc, h->rows, j0, mem_least(h->block, q->p.nf - j0));
    }
}

static void finish_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct shared *h = arg;
    struct area a;
    carve(&a, &h->q->p, pair_worker_scratch(h->q, worker));
    pair_finish(h->q, h->a.acc, h->rows, h->row0, begin, end, a.row);
}

static void by_blocks(const struct pair *q, const struct compute *c)
{
    size_t threads = (size_t)pool_threads(c->pool);
    for (size_t row0 = 0; row0 < q->call->rows; row0 += q->p.rows) {
        struct shared h = {
            .q = q, .row0 = row0, .rows = mem_least(q->p.rows, q->call->rows - row0)};
        carve(&h.a, &q->p, q->call->scratch);
        h.block = pair_j_share(&q->p, h.rows, threads);
        pool_for(c->pool, h.rows, pair_row_grain(q->p.mf * q->p.ms), gather_rows, &h);
        pool_for(c->pool, (q->p.nf + h.block - 1) / h.block, 1, run_blocks, &h);
        pool_for(c->pool, h.rows, pair_row_grain(q->p.nf * q->p.ns), finish_rows, &h);
    }
}

void contract_int8_apply(const struct ttm_held *h, const struct ttm_plan *plan,
                         const struct ttm_shape *s, const struct compute *c,
                         const struct ttm_call *call)
{
    struct pair q = {.first = &h->group[0], .second = &h->group[1], .s = s, .k = c->k};
    size_t threads = (size_t)pool_threads(c->pool);
    q.call = call;
    q.worker_floats = contract_int8_worker_floats(plan, s);
    plan_pair_int8(&q.p, plan, s);
    if (threads > 1 && call->rows < threads * q.p.rows) {
        by_blocks(&q, c);
        return;
    }
    q.rows = pair_share(&q, threads);
    pool_for(c->pool, (call->rows + q.rows - 1) / q.rows, 1, run_chunks, &q);
}
