/* LayerNorm of the rows of a step, as floats or at once as the 8-bit numbers that a product of such takes: the
 * floats of a row then never leave L1. */
#include "engine/gpt2/norm.h"

struct work {
    const struct step *s;
    struct norm n;
    float *y; /* of floats */
    size_t ldy;
    uint8_t *q; /* of 8-bit numbers, with `ld` bytes a row */
    size_t ld;
    float *scale;
};

static void norm_row(const struct work *w, size_t r, float *y)
{
    const struct step *s = w->s;
    size_t c = (size_t)s->m->cfg.n_embd;
    s->c->k->layer_norm(y, s->x + r * c, w->n.weight, w->n.bias, s->m->cfg.layer_norm_epsilon, c);
}

static void float_task(void *arg, size_t begin, size_t end, int worker)
{
    (void)worker;
    const struct work *w = arg;
    for (size_t r = begin; r < end; r++)
        norm_row(w, r, w->y + r * w->ldy);
}

static void int8_row(const struct work *w, size_t r, size_t to, float *row)
{
    size_t c = (size_t)w->s->m->cfg.n_embd;
    norm_row(w, r, row);
    w->s->c->k->quantise(w->q + to * w->ld, int8_quads(c) * INT8_QUAD, w->scale + to, row, c);
}

/* Where a row has its place in s->a, there is room for its floats. */
static void int8_task(void *arg, size_t begin, size_t end, int worker)
{
    (void)worker;
    const struct work *w = arg;
    for (size_t r = begin; r < end; r++)
        int8_row(w, r, r, w->s->a + r * w->s->ld_a);
}

static struct work to_int8(const struct step *s, struct norm n, size_t rows, float *scratch)
{
    size_t c = (size_t)s->m->cfg.n_embd;
    return (struct work){.s = s,
                         .n = n,
                         .q = (uint8_t *)scratch,
                         .ld = int8_stride(c),
                         .scale = quantised_scales(scratch, rows, c)};
}

static struct int8_rows as_rows(const struct work *w)
{
    return (struct int8_rows){.q = w->q, .ld = w->ld, .scale = w->scale};
}

static void run(const struct step *s, struct work *w, pool_task *task)
{
    pool_for(s->c->pool, s->t, step_grain(8 * (size_t)s->m->cfg.n_embd), task, w);
}

void norm_all(const struct step *s, struct norm n, float *y, size_t ldy)
{
    struct work w = {.s = s, .n = n, .y = y, .ldy = ldy};
    run(s, &w, float_task);
}

struct int8_rows norm_int8_all(const struct step *s, struct norm n, float *scratch)
{
    struct work w = to_int8(s, n, s->t, scratch);
    run(s, &w, int8_task);
    return as_rows(&w);
}

struct int8_rows norm_int8_rows(const struct step *s, struct norm n, size_t begin, size_t end,
                                float *scratch, float *row)
{
    const struct work w = to_int8(s, n, end - begin, scratch);
    for (size_t r = begin; r < end; r++)
        int8_row(&w, r, r - begin, row);
    return as_rows(&w);
}
