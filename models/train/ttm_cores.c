/* The per-core route: x meets one group (F), then the other (S), a chunk of tokens at a time:
 *
 *   x (t, iS, iF)  F (iF, jF r)  ->  u (t iS, jF r)  swap  ->  v (t jF, iS r)  S (iS r, jS)  ->  (t jF, jS)
 *
 * Left first means F = left: x, whose order is (t, iL, iR), is turned first; right first, the result is.
 * u is made again on the way back instead of being kept. The gradients are the same products turned
 * round; those of F and S are summed over the chunks in order. */
#include <string.h>

#include "engine/base/mem.h"
#include "engine/kernels/gemm.h"
#include "models/train/ttm_parts.h"

#define CHUNK_FLOATS ((size_t)1 << 20) /* of u */
#define CHUNK_MIN 64                   /* tokens */

struct contraction {
    const struct ttm_call_grad *c;
    struct ttm_group left, right;
    bool left_first;
    size_t in, out, r;
    size_t mf, nf, ms, ns;
    size_t chunk; /* tokens */
    float *chain_l, *chain_r, *back;
    float *f, *s, *df, *ds; /* (iF, jF, r), (iS, r, jS) and gradients */
    float *dgroup;
    float *xs, *u, *v, *ys, *turn;
};

static void lay_out(struct contraction *k, const struct ttm_grad_plan *p, float *scratch,
                    size_t *floats)
{
    const struct ttm_shape *s = &p->shape;
    ttm_group_init(&k->left, s, 0, p->split);
    ttm_group_init(&k->right, s, p->split, s->d);
    const struct ttm_group *l = &k->left, *r = &k->right;
    k->left_first = p->left_first;
    k->in = (size_t)s->in;
    k->out = (size_t)s->out;
    k->r = l->rb;
    k->mf = p->left_first ? l->m : r->m;
    k->nf = p->left_first ? l->n : r->n;
    k->ms = p->left_first ? r->m : l->m;
    k->ns = p->left_first ? r->n : l->n;
    size_t u = k->ms * k->nf * k->r, x = l->m * r->m, y = l->n * r->n;
    k->chunk = CHUNK_FLOATS / u;
    if (k->chunk < CHUNK_MIN) k->chunk = CHUNK_MIN;
    if (k->chunk > p->tokens) k->chunk = p->tokens;
    size_t back = l->backward_floats > r->backward_floats ? l->backward_floats : r->backward_floats;
    size_t group = l->floats > r->floats ? l->floats : r->floats;
    const struct {
        float **at;
        size_t n;
    } parts[] = {{&k->chain_l, l->chain_floats},
                 {&k->chain_r, r->chain_floats},
                 {&k->back, back},
                 {&k->f, k->mf * k->nf * k->r},
                 {&k->s, k->ms * k->r * k->ns},
                 {&k->df, k->mf * k->nf * k->r},
                 {&k->ds, k->ms * k->r * k->ns},
                 {&k->dgroup, group},
                 {&k->xs, k->chunk * x},
                 {&k->u, k->chunk * u},
                 {&k->v, k->chunk * u},
                 {&k->ys, k->chunk * y},
                 {&k->turn, k->chunk * (x > y ? x : y)}};
    *floats = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (scratch) *parts[i].at = scratch + *floats;
        *floats += mem_lines(parts[i].n);
    }
}

size_t ttm_cores_scratch(const struct ttm_grad_plan *p)
{
    struct contraction k = {0};
    size_t floats;
    lay_out(&k, p, NULL, &floats);
    return floats;
}

/* The groups' products in the order of axes that the contractions want. L is (iL, jL, r), R (r, iR, jR). */
static void prepare(struct contraction *k)
{
    const struct ttm_call_grad *c = k->c;
    const struct ttm_group *l = &k->left, *r = &k->right;
    const float *lp = ttm_group_merge(l, c->compute, c->cores, k->chain_l);
    const float *rp = ttm_group_merge(r, c->compute, c->cores, k->chain_r);
    if (k->left_first) {
        memcpy(k->f, lp, l->floats * sizeof *lp);
        ttm_swap_middle(c->compute, k->s, rp, 1, k->r, r->m, r->n); /* (r, iR, jR) -> (iR, r, jR) */
    } else {
        ttm_swap_middle(c->compute, k->f, rp, 1, k->r, r->m * r->n, 1); /* -> (iR, jR, r) */
        ttm_swap_middle(c->compute, k->s, lp, l->m, l->n, k->r, 1);     /* -> (iL, r, jL) */
    }
}

/* Rows of `from` columns copied to rows of `to`, filled up with zeros. */
static void copy_rows(float *dst, size_t to, const float *src, size_t from, size_t t)
{
    size_t n = from < to ? from : to;
    for (size_t i = 0; i < t; i++) {
        memcpy(dst + i * to, src + i * from, n * sizeof *dst);
        memset(dst + i * to + n, 0, (to - n) * sizeof *dst);
    }
}

/* x as (t, iS, iF), padded. */
static const float *first_input(const struct contraction *k, const float *x, size_t t)
{
    size_t all = k->mf * k->ms;
    float *padded = k->left_first && k->mf > 1 && k->ms > 1 ? k->turn : k->xs;
    if (all != k->in) {
        copy_rows(padded, all, x, k->in, t);
        x = padded;
    }
    if (!k->left_first || k->mf == 1 || k->ms == 1) return x;
    ttm_swap_middle(k->c->compute, k->xs, x, t, k->mf, k->ms, 1);
    return k->xs;
}

/* u and v of a chunk; which of the two names the result depends on whether anything moves. */
static float *contract_first(const struct contraction *k, const float *x, size_t t)
{
    gemm_product(k->c->compute, false, false, t * k->ms, k->nf * k->r, k->mf, x, k->f, 0, k->u);
    if (k->ms == 1 || k->nf == 1) return k->u;
    ttm_swap_middle(k->c->compute, k->v, k->u, t, k->ms, k->nf, k->r);
    return k->v;
}

static void begin(struct contraction *k, const struct ttm_call_grad *c)
{
    size_t floats;
    k->c = c;
    lay_out(k, c->p, c->scratch, &floats);
    prepare(k);
}

void ttm_cores_forward(const struct ttm_call_grad *c)
{
    struct contraction k;
    begin(&k, c);
    size_t all = k.nf * k.ns;
    bool turned = !k.left_first && k.nf > 1 && k.ns > 1, cut = all != k.out;
    for (size_t at = 0; at < c->t; at += k.chunk) {
        size_t t = c->t - at < k.chunk ? c->t - at : k.chunk;
        const float *v = contract_first(&k, first_input(&k, c->x + at * k.in, t), t);
        float *y = c->y + at * k.out, *whole = cut ? k.turn : y;
        float *product_to = turned ? k.ys : whole;
        gemm_product(k.c->compute, false, false, t * k.nf, k.ns, k.ms * k.r, v, k.s, 0, product_to);
        if (turned) ttm_swap_middle(c->compute, whole, k.ys, t, k.nf, k.ns, 1);
        if (cut) copy_rows(y, k.out, whole, all, t);
    }
}

/* dy as (t, jF, jS), padded. */
static const float *second_output(const struct contraction *k, const float *dy, size_t t)
{
    size_t all = k->nf * k->ns;
    bool turned = !k->left_first && k->nf > 1 && k->ns > 1;
    if (all != k->out) {
        float *padded = turned ? k->turn : k->ys;
        copy_rows(padded, all, dy, k->out, t);
        dy = padded;
    }
    if (!turned) return dy;
    ttm_swap_middle(k->c->compute, k->ys, dy, t, k->ns, k->nf, 1);
    return k->ys;
}

static void backward_chunk(const struct contraction *k, size_t at, size_t t)
{
    const struct ttm_call_grad *c = k->c;
    float beta = at ? 1 : 0;
    bool moved = k->ms > 1 && k->nf > 1;
    const float *dy = second_output(k, c->dy + at * k->out, t); /* before turn is needed for x */
    const float *x = first_input(k, c->x + at * k->in, t);
    float *v = contract_first(k, x, t), *du = v == k->u ? k->v : k->u;
    gemm_product(k->c->compute, true, false, k->ms * k->r, k->ns, t * k->nf, v, dy, beta, k->ds);
    gemm_product(k->c->compute, false, true, t * k->nf, k->ms * k->r, k->ns, dy, k->s, 0, du);
    if (moved) {
        ttm_swap_middle(c->compute, v, du, t, k->nf, k->ms, k->r); /* v is done with */
        du = v;
    }
    gemm_product(k->c->compute, true, false, k->mf, k->nf * k->r, t * k->ms, x, du, beta, k->df);
    size_t all = k->mf * k->ms;
    bool turned = k->left_first && k->mf > 1 && k->ms > 1;
    float *dx = c->dx + at * k->in, *whole = all != k->in ? k->turn : dx;
    float *to = turned ? k->xs : whole; /* x is done with */
    gemm_product(k->c->compute, false, true, t * k->ms, k->mf, k->nf * k->r, du, k->f, 0, to);
    if (turned) ttm_swap_middle(c->compute, whole, k->xs, t, k->ms, k->mf, 1);
    if (all != k->in) copy_rows(dx, k->in, whole, all, t);
}

void ttm_cores_backward(const struct ttm_call_grad *c)
{
    struct contraction k;
    begin(&k, c);
    const struct ttm_group *l = &k.left, *r = &k.right;
    for (size_t at = 0; at < c->t; at += k.chunk)
        backward_chunk(&k, at, c->t - at < k.chunk ? c->t - at : k.chunk);
    if (k.left_first) {
        ttm_group_backward(l, c->compute, c->cores, k.chain_l, k.df, c->dcores, k.back);
        ttm_swap_middle(c->compute, k.dgroup, k.ds, 1, r->m, k.r, r->n);
        ttm_group_backward(r, c->compute, c->cores, k.chain_r, k.dgroup, c->dcores, k.back);
    } else {
        ttm_swap_middle(c->compute, k.dgroup, k.df, 1, r->m * r->n, k.r, 1);
        ttm_group_backward(r, c->compute, c->cores, k.chain_r, k.dgroup, c->dcores, k.back);
        ttm_swap_middle(c->compute, k.dgroup, k.ds, l->m, k.r, l->n, 1);
        ttm_group_backward(l, c->compute, c->cores, k.chain_l, k.dgroup, c->dcores, k.back);
    }
}
