/* Layer by layer, every product reads rows that other threads have written just before: with 8-bit weights
 * the products are so fast that waiting for those lines, and the barriers between, become what a prompt
 * costs. A block of rows goes through all that needs no other rows in one go instead,
 *
 *     front:  quantise(ln_1 x) -> W_attn -> q; k, v -> store
 *     ------  the store has all keys and values of the layer
 *     back:   attention -> quantise -> W_proj, + x -> quantise(ln_2 x) -> W_fc, act -> quantise -> W_proj, + x
 *             front of the next layer
 *
 * so that its rows stay in one core's L2 cache while the weights pass by, from L3 where the threads are about
 * at the same place, and there is one barrier in a layer. Blocks are equal but for one row, as many as the
 * threads share evenly: no thread waits for another's longer one. Where sequences decode, attention of their rows,
 * the first of the step, is another task for all threads, ahead of `back`. */
#include "engine/gpt2/blocks.h"

#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/attention.h"
#include "engine/gpt2/norm.h"

/* Rows of a block: (n_inner) floats of each, and as many bytes, are to fit in 1-2 MiB of L2. */
#define MOST_ROWS 64
/* For each thread; with fewer the weights are the traffic, which threads then had better share. */
#define LEAST_ROWS 32

struct work {
    const struct step *s;
    int layer;
    bool next;
};

/* What one thread works with. */
struct desk {
    float *row;  /* (C) a row after its norm */
    float *wide; /* (MOST_ROWS, ..): 3C numbers, C of stride ld_c, n_inner of stride ld_inner */
    float *q;    /* rows as 8-bit numbers */
    size_t ld_c, ld_inner;
};

/* One block on it. */
struct block {
    const struct step *s;
    struct desk desk;
    size_t begin, n; /* rows */
    float *x;        /* (n, C) */
    int worker;
};

bool blocks_front_suits(const struct gpt2_layer *l)
{
    return linear_is_int8(&l->c_attn);
}

bool blocks_back_suits(const struct gpt2_layer *l)
{
    return linear_is_int8(&l->attn_proj) && linear_is_int8(&l->c_fc) &&
           linear_is_int8(&l->mlp_proj);
}

size_t blocks_count(const struct gpt2 *m, size_t t, int threads)
{
    size_t each = (size_t)threads, round = each * MOST_ROWS;

    if (t < each * LEAST_ROWS) return 0;
    for (int i = 0; i < m->cfg.n_layer; i++)
        if (blocks_front_suits(&m->layers[i]) || blocks_back_suits(&m->layers[i]))
            return (t + round - 1) / round * each;
    return 0;
}

size_t blocks_begin(const struct step *s, size_t i)
{
    return i * s->t / s->blocks;
}

/* ---- scratch ---- */

static size_t q_floats(const struct gpt2 *m)
{
    return quantised_floats(MOST_ROWS, mem_most((size_t)m->cfg.n_embd, (size_t)m->cfg.n_inner));
}

static size_t wide_cols(const struct gpt2 *m)
{
    size_t c = (size_t)m->cfg.n_embd;
    return mem_most(mem_most(3 * c, matmul_stride(c)), matmul_stride((size_t)m->cfg.n_inner));
}

static size_t desk_floats(const struct gpt2 *m)
{
    return mem_lines((size_t)m->cfg.n_embd) + mem_lines(MOST_ROWS * wide_cols(m)) + q_floats(m);
}

size_t blocks_floats(const struct gpt2 *m, size_t max_rows, int threads)
{
    return blocks_count(m, max_rows, threads) ? (size_t)threads * desk_floats(m) : 0;
}

/* Later rows of a prompt attend to more keys: the first, the last, the second, the last but one and so on make parts
 * of about equal work for the threads, the same in each layer. */
static size_t folded(size_t i, size_t n)
{
    return i % 2 ? n - 1 - i / 2 : i / 2;
}

static struct block block_of(const struct step *s, size_t item, int worker)
{
    size_t i = folded(item, s->blocks);
    const struct gpt2 *m = s->m;
    size_t c = (size_t)m->cfg.n_embd;
    struct block b = {.s = s, .begin = blocks_begin(s, i), .worker = worker};

    b.n = blocks_begin(s, i + 1) - b.begin;
    b.x = s->x + b.begin * c;
    b.desk.row = s->linear + (size_t)worker * desk_floats(m);
    b.desk.q = b.desk.row + mem_lines(c);
    b.desk.wide = b.desk.q + q_floats(m);
    b.desk.ld_c = matmul_stride(c);
    b.desk.ld_inner = matmul_stride((size_t)m->cfg.n_inner);
    return b;
}

/* ---- a block ---- */

/* Its rows of x after a norm, as 8-bit numbers. */
static struct int8_rows norm_rows(const struct block *b, const float *weight, const float *bias)
{
    const struct norm n = {weight, bias};
    return norm_int8_rows(b->s, n, b->begin, b->begin + b->n, b->desk.q, b->desk.row);
}

static struct int8_rows wide_rows(const struct block *b, size_t ld, size_t cols)
{
    const struct compute alone = {.k = b->s->c->k};
    return quantise_rows(&alone, b->desk.wide, ld, NULL, b->n, cols, b->desk.q);
}

static void product(const struct block *b, const struct linear *l, const struct int8_rows *rows,
                    float *y, size_t ldy, enum act act, const float *residual)
{
    const struct compute alone = {.k = b->s->c->k};
    linear_apply_int8(l, &alone, rows, b->n, y, ldy, act, residual);
}

static void front(const struct block *b, int layer)
{
    const struct step *s = b->s;
    const struct gpt2_layer *l = &s->m->layers[layer];
    size_t c = (size_t)s->m->cfg.n_embd;
    float *qkv = b->desk.wide, *q = s->wide + b->begin * s->ldq;
    struct int8_rows rows = norm_rows(b, l->ln_1_weight, l->ln_1_bias);

    product(b, &l->c_attn, &rows, qkv, 3 * c, ACT_NONE, NULL);
    for (size_t r = 0; r < b->n; r++)
        memcpy(q + r * s->ldq, qkv + r * 3 * c, c * sizeof *q);
    attention_put(s, layer, b->begin, b->begin + b->n, qkv + c, qkv + 2 * c, 3 * c);
}

static void back(const struct block *b, int layer)
{
    const struct step *s = b->s;
    const struct gpt2_layer *l = &s->m->layers[layer];
    const struct desk *d = &b->desk;
    size_t c = (size_t)s->m->cfg.n_embd, inner = (size_t)s->m->cfg.n_inner;

    attention_rows(s, layer, b->begin, b->begin + b->n, d->wide, d->ld_c, b->worker);
    struct int8_rows rows = wide_rows(b, d->ld_c, c);
    product(b, &l->attn_proj, &rows, b->x, c, ACT_NONE, b->x);
    rows = norm_rows(b, l->ln_2_weight, l->ln_2_bias);
    product(b, &l->c_fc, &rows, d->wide, d->ld_inner, s->m->cfg.activation, NULL);
    rows = wide_rows(b, d->ld_inner, inner);
    product(b, &l->mlp_proj, &rows, b->x, c, ACT_NONE, b->x);
}

static void front_task(void *arg, size_t begin, size_t end, int worker)
{
    const struct work *w = arg;

    for (size_t i = begin; i < end; i++) {
        const struct block b = block_of(w->s, i, worker);
        front(&b, w->layer);
    }
}

static void back_task(void *arg, size_t begin, size_t end, int worker)
{
    const struct work *w = arg;

    for (size_t i = begin; i < end; i++) {
        const struct block b = block_of(w->s, i, worker);
        back(&b, w->layer);
        if (w->next) front(&b, w->layer + 1);
    }
}

void blocks_front(struct step *s, int layer)
{
    struct work w = {s, layer, false};

    s->q = s->wide;
    s->ldq = (size_t)s->m->cfg.n_embd;
    s->late = false;
    pool_for(s->c->pool, s->blocks, 1, front_task, &w);
}

void blocks_back(struct step *s, int layer, bool next)
{
    struct work w = {s, layer, next};

    attention_singles(s, layer);
    pool_for(s->c->pool, s->blocks, 1, back_task, &w);
}
