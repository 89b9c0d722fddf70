/* A matrix product over the pool.
 *
 * Every output is one sum over k in one register, so splitting can only be over columns (panels)
 * and rows, and no split changes a bit. Few rows: the weights are the traffic, so the pieces are
 * runs of whole panels, which each thread streams once. Many rows: the items are (panel, row block)
 * pairs, panel-major, so that a panel stays in a core's L2 cache while the row blocks pass over it
 * and a machine with more cores than panels still has work for all.
 *
 * Weights come from memory ahead of their use. Where one piece ends, the panel behind it is another
 * thread's: pieces are handed out in order to threads that are about equally fast, so that a thread's
 * own next one is probably as many pieces further on as there are threads. */
#include "engine/kernels/matmul.h"

/* Rows of one item, a multiple of the 12 and of the 6 rows that the panel kernels hold. */
#define BLOCK_ROWS 96
#define TILE_ROWS 12
/* Pieces per thread: enough that an interrupted thread does not hold the others up. */
#define PIECES 4

struct job {
    const struct kernels *k;
    const struct packed *w;
    const float *x;
    float *y;
    size_t ldx, ldy, rows, block, blocks, items;
    size_t skip; /* items from the end of a piece to this thread's next one, most likely */
    struct epilogue e;
};

static const char *panel_of(const struct job *j, size_t item)
{
    return (const char *)j->w->data + item / j->blocks * PACK_N * j->w->k * dtype_size(j->w->dtype);
}

static void run_item(const struct job *j, size_t item, size_t next)
{
    size_t p = item / j->blocks, row = item % j->blocks * j->block, col = p * PACK_N;
    size_t rows = j->rows - row < j->block ? j->rows - row : j->block;
    size_t cols = j->w->n - col < PACK_N ? j->w->n - col : PACK_N;
    struct epilogue e = j->e;

    if (next < j->items) e.next = panel_of(j, next);
    if (e.bias) e.bias += col;
    if (e.residual) e.residual += row * e.ldr + col;
    if (e.start) e.start += row * e.lds + col;
    j->k->panel[j->w->dtype](j->x + row * j->ldx, j->ldx, rows, panel_of(j, item), j->w->k,
                             j->y + row * j->ldy + col, j->ldy, cols, &e);
}

static void run_items(void *arg, size_t begin, size_t end, int worker)
{
    const struct job *j = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++)
        run_item(j, i, i + 1 < end ? i + 1 : end + j->skip);
}

void matmul(const struct compute *c, const float *x, size_t ldx, size_t t, const struct packed *w,
            float *y, size_t ldy, const struct epilogue *e)
{
    struct job j = {.k = c->k, .w = w, .x = x, .y = y, .ldx = ldx, .ldy = ldy, .rows = t};
    size_t threads = (size_t)pool_threads(c->pool), items, grain;

    if (t == 0) return;
    if (e) j.e = *e;
    j.blocks = (t + BLOCK_ROWS - 1) / BLOCK_ROWS;
    j.block = ((t + j.blocks - 1) / j.blocks + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    j.blocks = (t + j.block - 1) / j.block;
    items = packed_panels(w->n) * j.blocks;
    grain = items / (threads * PIECES);
    if (!grain) grain = 1;
    j.items = items;
    j.skip = (threads - 1) * grain;
    pool_for(c->pool, items, grain, run_items, &j);
}
