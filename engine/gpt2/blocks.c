/* Layer by layer, every product reads rows that other threads have written just before: with 8-bit weights
 * the products are so fast that waiting for those lines, and the barriers between, become what a prompt
 * costs. A block of rows goes through all that is row by row in one go instead,
 *
 *     quantise(ln_1 x) -> W_attn -> q k v
 *     quantise(a) -> W_proj, + x -> quantise(ln_2 x) -> W_fc, act -> quantise -> W_proj, + x
 *
 * so that its rows stay in one core's L2 cache while the weights pass by, from L3 where the threads are about
 * at the same place. Blocks are as equal as possible and as many as the threads share evenly. */
#include "engine/gpt2/blocks.h"

#include "engine/base/mem.h"

/* Rows of a block: (n_inner) floats of each, and as many bytes, are to fit in 1-2 MiB of L2. */
#define MOST_ROWS 64
/* For each thread; with fewer the weights are the traffic, which threads then had better share. */
#define LEAST_ROWS 32

struct work {
    const struct blocks *b;
    const struct gpt2_layer *l;
    size_t rows; /* of a block */
};

/* What one thread works with. */
struct desk {
    float *row;   /* (C) a row after its norm */
    float *inner; /* (MOST_ROWS, n_inner), stride ld_inner */
    float *q;     /* rows as 8-bit numbers */
    size_t ld_inner;
};

static bool is_int8(const struct linear *l)
{
    return l->kind == LINEAR_DENSE && l->dense.dtype == DTYPE_I8;
}

static bool possible(const struct gpt2_layer *l)
{
    return is_int8(&l->c_attn) && is_int8(&l->attn_proj) && is_int8(&l->c_fc) &&
           is_int8(&l->mlp_proj);
}

bool blocks_suit(const struct gpt2_layer *l, size_t t, int threads)
{
    return possible(l) && t >= (size_t)threads * LEAST_ROWS;
}

/* ---- scratch ---- */

static size_t q_floats(const struct gpt2 *m)
{
    size_t c = (size_t)m->cfg.n_embd, inner = (size_t)m->cfg.n_inner;
    return quantised_floats(MOST_ROWS, inner > c ? inner : c);
}

static size_t desk_floats(const struct gpt2 *m)
{
    return mem_lines((size_t)m->cfg.n_embd) + MOST_ROWS * matmul_stride((size_t)m->cfg.n_inner) +
           q_floats(m);
}

static struct desk desk_of(const struct blocks *b, int worker)
{
    float *at = b->scratch + (size_t)worker * desk_floats(b->m);
    struct desk d = {.row = at, .ld_inner = matmul_stride((size_t)b->m->cfg.n_inner)};
    d.q = at + mem_lines((size_t)b->m->cfg.n_embd);
    d.inner = d.q + q_floats(b->m);
    return d;
}

size_t blocks_floats(const struct gpt2 *m, size_t max_rows, int threads)
{
    for (int i = 0; i < m->cfg.n_layer; i++)
        if (blocks_suit(&m->layers[i], max_rows, threads)) return (size_t)threads * desk_floats(m);
    return 0;
}

/* ---- a block ---- */

/* Rows of x after a norm, as 8-bit numbers. */
static struct int8_rows norm_rows(const struct blocks *b, const struct desk *d, const float *x,
                                  size_t n, const float *weight, const float *bias)
{
    size_t c = (size_t)b->m->cfg.n_embd, ld = int8_stride(c);
    uint8_t *q = (uint8_t *)d->q;
    float *scale = quantised_scales(d->q, n, c);
    for (size_t r = 0; r < n; r++) {
        b->c->k->layer_norm(d->row, x + r * c, weight, bias, b->m->cfg.layer_norm_epsilon, c);
        b->c->k->quantise(q + r * ld, int8_quads(c) * INT8_QUAD, scale + r, d->row, c);
    }
    return (struct int8_rows){.q = q, .ld = ld, .scale = scale};
}

static struct int8_rows plain_rows(const struct blocks *b, const struct desk *d, const float *x,
                                   size_t ldx, size_t n, size_t cols)
{
    const struct compute alone = {.k = b->c->k};
    return quantise_rows(&alone, x, ldx, NULL, n, cols, d->q);
}

static void product(const struct blocks *b, const struct linear *l, const struct int8_rows *rows,
                    size_t n, float *y, size_t ldy, enum act act, const float *residual)
{
    const struct compute alone = {.k = b->c->k};
    const struct epilogue e = {.bias = l->bias, .act = act, .residual = residual, .ldr = ldy};
    matmul_int8(&alone, rows, n, &l->dense, y, ldy, &e);
}

static size_t rows_of(const struct work *w, size_t block)
{
    size_t left = w->b->t - block * w->rows;
    return left < w->rows ? left : w->rows;
}

static void qkv_task(void *arg, size_t begin, size_t end, int worker)
{
    const struct work *w = arg;
    const struct blocks *b = w->b;
    const struct gpt2_layer *l = w->l;
    struct desk d = desk_of(b, worker);
    size_t c = (size_t)b->m->cfg.n_embd;
    for (size_t i = begin; i < end; i++) {
        size_t row = i * w->rows, n = rows_of(w, i);
        struct int8_rows q = norm_rows(b, &d, b->x + row * c, n, l->ln_1_weight, l->ln_1_bias);
        product(b, &l->c_attn, &q, n, b->qkv + row * 3 * c, 3 * c, ACT_NONE, NULL);
    }
}

static void mlp_task(void *arg, size_t begin, size_t end, int worker)
{
    const struct work *w = arg;
    const struct blocks *b = w->b;
    const struct gpt2_layer *l = w->l;
    struct desk d = desk_of(b, worker);
    size_t c = (size_t)b->m->cfg.n_embd, inner = (size_t)b->m->cfg.n_inner;
    for (size_t i = begin; i < end; i++) {
        size_t row = i * w->rows, n = rows_of(w, i);
        float *x = b->x + row * c;
        struct int8_rows q = plain_rows(b, &d, b->a + row * b->ld_a, b->ld_a, n, c);
        product(b, &l->attn_proj, &q, n, x, c, ACT_NONE, x);
        q = norm_rows(b, &d, x, n, l->ln_2_weight, l->ln_2_bias);
        product(b, &l->c_fc, &q, n, d.inner, d.ld_inner, b->m->cfg.activation, NULL);
        q = plain_rows(b, &d, d.inner, d.ld_inner, n, inner);
        product(b, &l->mlp_proj, &q, n, x, c, ACT_NONE, x);
    }
}

static void run(const struct blocks *b, const struct gpt2_layer *l, pool_task *task)
{
    size_t threads = (size_t)pool_threads(b->c->pool), round = threads * MOST_ROWS;
    size_t n = (b->t + round - 1) / round * threads;
    struct work w = {b, l, (b->t + n - 1) / n};
    pool_for(b->c->pool, (b->t + w.rows - 1) / w.rows, 1, task, &w);
}

void blocks_qkv(const struct blocks *b, const struct gpt2_layer *l)
{
    run(b, l, qkv_task);
}

void blocks_mlp(const struct blocks *b, const struct gpt2_layer *l)
{
    run(b, l, mlp_task);
}
