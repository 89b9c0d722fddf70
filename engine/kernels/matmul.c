/* A matrix product over the pool.
 *
 * Every output is one sum over k in one register, so splitting can only be over columns (panels)
 * and rows, and no split changes a bit. Few rows: the weights are the traffic, so the pieces are
 * runs of whole panels, which each thread streams once. Many rows: the items are (panel, row block)
 * pairs, panel-major, so that a panel stays in a core's L2 cache while the row blocks pass over it
 * and a machine with more cores than panels still has work for all.
 *
 * Weights come from memory ahead of their use: a thread's next piece is nearly always the one behind, until
 * the end of its part. */
#include "engine/kernels/matmul.h"

/* Rows of one item, a multiple of the 12 and of the 6 rows that the panel kernels hold. */
#define BLOCK_ROWS 96
#define TILE_ROWS 12
/* Pieces per thread: enough that an interrupted thread does not hold the others up. */
#define PIECES 16
#define QUANTISE_FLOATS 32768 /* fewer are not worth waking another thread */

struct job {
    const struct kernels *k;
    const struct packed *w;
    const float *x;        /* of floats */
    struct int8_rows int8; /* of 8-bit numbers */
    float *y;
    size_t ldx, ldy, rows, block, blocks, items, grain;
    const struct pool *pool;
    struct epilogue e;
};

static const char *panel_of(const struct job *j, size_t item)
{
    return (const char *)j->w->data + item / j->blocks * packed_panel_bytes(j->w->dtype, j->w->k);
}

static void run_item(const struct job *j, size_t item, bool next)
{
    size_t p = item / j->blocks, row = item % j->blocks * j->block, col = p * PACK_N;
    size_t rows = j->rows - row < j->block ? j->rows - row : j->block;
    size_t cols = j->w->n - col < PACK_N ? j->w->n - col : PACK_N;
    struct epilogue e = j->e;

    if (next) e.next = panel_of(j, item + 1);
    if (e.bias) e.bias += col;
    if (e.residual) e.residual += row * e.ldr + col;
    if (e.start) e.start += row * e.lds + col;
    if (j->w->dtype == DTYPE_I8) {
        const struct int8_rows x = {j->int8.q + row * j->int8.ld, j->int8.ld, j->int8.scale + row};
        const struct int8_panel panel = {.w = (const int8_t *)panel_of(j, item),
                                         .quads = int8_quads(j->w->k),
                                         .scale = j->w->scale + col,
                                         .shift = j->w->shift + col,
                                         .next = e.next};
        j->k->panel_int8(j->k->int8, &x, rows, &panel, j->y + row * j->ldy + col, j->ldy, cols, &e);
        return;
    }
    j->k->panel[j->w->dtype](j->x + row * j->ldx, j->ldx, rows, panel_of(j, item), j->w->k,
                             j->y + row * j->ldy + col, j->ldy, cols, &e);
}

static void run_items(void *arg, size_t begin, size_t end, int worker)
{
    const struct job *j = arg;
    size_t last = pool_part_end(j->pool, j->items, j->grain, worker) - 1;
    for (size_t i = begin; i < end; i++)
        run_item(j, i, i != last && i + 1 < j->items);
}

static void run_job(struct job *j, const struct compute *c, const struct epilogue *e)
{
    size_t threads = (size_t)pool_threads(c->pool), t = j->rows;

    if (t == 0) return;
    if (e) j->e = *e;
    j->k = c->k;
    j->blocks = (t + BLOCK_ROWS - 1) / BLOCK_ROWS;
    j->block = ((t + j->blocks - 1) / j->blocks + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    j->blocks = (t + j->block - 1) / j->block;
    j->items = packed_panels(j->w->n) * j->blocks;
    j->pool = c->pool;
    j->grain = j->items / (threads * PIECES);
    if (!j->grain) j->grain = 1;
    pool_for(c->pool, j->items, j->grain, run_items, j);
}

void matmul(const struct compute *c, const float *x, size_t ldx, size_t t, const struct packed *w,
            float *y, size_t ldy, const struct epilogue *e)
{
    struct job j = {.w = w, .x = x, .y = y, .ldx = ldx, .ldy = ldy, .rows = t};
    BUG_ON(w->dtype == DTYPE_I8);
    run_job(&j, c, e);
}

void matmul_int8(const struct compute *c, const struct int8_rows *x, size_t t,
                 const struct packed *w, float *y, size_t ldy, const struct epilogue *e)
{
    struct job j = {.w = w, .int8 = *x, .y = y, .ldy = ldy, .rows = t};
    BUG_ON(w->dtype != DTYPE_I8);
    run_job(&j, c, e);
}

void matmul_any(const struct compute *c, const float *x, size_t ldx, size_t t,
                const struct packed *w, float *y, size_t ldy, const struct epilogue *e,
                float *scratch)
{
    if (w->dtype != DTYPE_I8) {
        matmul(c, x, ldx, t, w, y, ldy, e);
        return;
    }
    struct int8_rows rows = quantise_rows(c, x, ldx, NULL, t, w->k, scratch);
    matmul_int8(c, &rows, t, w, y, ldy, e);
}

/* ---- quantising ---- */

struct quantising {
    const struct kernels *k;
    const float *x;
    size_t ldx, n, ld;
    const int32_t *rows;
    uint8_t *q;
    float *scale;
};

static void quantise_task(void *arg, size_t begin, size_t end, int worker)
{
    const struct quantising *j = arg;
    (void)worker;
    for (size_t r = begin; r < end; r++) {
        size_t from = j->rows ? (size_t)j->rows[r] : r;
        j->k->quantise(j->q + r * j->ld, int8_quads(j->n) * INT8_QUAD, j->scale + r,
                       j->x + from * j->ldx, j->n);
    }
}

struct int8_rows quantise_rows(const struct compute *c, const float *x, size_t ldx,
                               const int32_t *rows, size_t t, size_t k, float *scratch)
{
    struct quantising j = {.k = c->k, .x = x, .ldx = ldx, .n = k, .ld = int8_stride(k)};
    j.rows = rows;
    j.q = (uint8_t *)scratch;
    j.scale = quantised_scales(scratch, t, k);
    size_t grain = QUANTISE_FLOATS / k;
    pool_for(c->pool, t, grain ? grain : 1, quantise_task, &j);
    return (struct int8_rows){.q = j.q, .ld = j.ld, .scale = j.scale};
}
