/* The choice of the route. Multiplications are counted; floats that are only moved (packed for a
 * product, written by it, or put into another order) count as MOVE_COST of them: a machine that
 * multiplies thirty times while it moves one number would otherwise be led to the route that does
 * nothing but move. Products narrower than a tile cost a whole one. */
#include "models/train/ttm_grad.h"

#include <math.h>

#include "engine/base/mem.h"
#include "models/train/ttm_parts.h"

#define MOVE_COST 12
#define TILE 32

static double product_cost(size_t m, size_t n, size_t k)
{
    double wide = (double)mem_round_up(n, TILE);
    return (double)m * wide * (double)k +
           MOVE_COST * ((double)m * (double)k + (double)k * (double)n + (double)m * (double)n);
}

struct sides {
    size_t ml, nl, mr, nr, r;
};

static struct sides sides_of(const struct ttm_shape *s, int split)
{
    struct ttm_group l, r;
    ttm_group_init(&l, s, 0, split);
    ttm_group_init(&r, s, split, s->d);
    return (struct sides){l.m, l.n, r.m, r.n, (size_t)s->r[split]};
}

/* The products of a group's cores, made twice and taken apart twice, and moved each time. A side of many
 * cores is no cheaper for being called one: its last product may be W itself, and with ranks that nobody
 * has rounded those on the way are larger than W. */
static double group_cost(const struct ttm_shape *s, int first, int last)
{
    double cost = 0;
    size_t rows = first < last ? (size_t)s->r[first] : 1;
    for (int k = first; k < last; k++) {
        size_t columns = (size_t)s->m[k] * (size_t)s->n[k], r = (size_t)s->r[k + 1];
        if (k > first)
            cost += 4 * product_cost(rows, columns * r, (size_t)s->r[k]) +
                    4 * MOVE_COST * (double)(rows * columns * r);
        rows *= columns;
    }
    return cost;
}

static double sides_cost(const struct ttm_shape *s, int split)
{
    return group_cost(s, 0, split) + group_cost(s, split, s->d);
}

/* Forward, and dx and dW: three products; W is made twice, and taken apart twice. */
static double dense_cost(const struct ttm_shape *s, int split, size_t tokens)
{
    struct sides z = sides_of(s, split);
    double w = (double)s->in * (double)s->out;
    return product_cost(tokens, (size_t)s->out, (size_t)s->in) * 3 +
           4 * product_cost(z.ml * z.nl, z.mr * z.nr, z.r) + 4 * MOVE_COST * w +
           sides_cost(s, split);
}

/* First contraction (4 times: there, again, and two ways back) and second (3 times). */
static double cores_cost(const struct ttm_shape *s, int split, bool left_first, size_t tokens)
{
    struct sides z = sides_of(s, split);
    size_t mf = left_first ? z.ml : z.mr, nf = left_first ? z.nl : z.nr;
    size_t ms = left_first ? z.mr : z.ml, ns = left_first ? z.nr : z.nl;
    double first = product_cost(tokens * ms, nf * z.r, mf);
    double second = product_cost(tokens * nf, ns, ms * z.r);
    double moved = ms == 1 || nf == 1 ? 0 : 3.0 * (double)(ms * nf * z.r);
    if (left_first && z.ml > 1 && z.mr > 1) moved += 3.0 * (double)(z.ml * z.mr);
    if (!left_first && z.nl > 1 && z.nr > 1) moved += 2.0 * (double)(z.nl * z.nr);
    return 4 * first + 3 * second + MOVE_COST * (double)tokens * moved + sides_cost(s, split);
}

static void consider(struct ttm_grad_plan *best, const struct ttm_grad_plan *p)
{
    if (p->cost < best->cost) *best = *p;
}

void ttm_grad_plan(struct ttm_grad_plan *out, const struct ttm_shape *s, size_t tokens,
                   enum ttm_route route, int threads)
{
    struct ttm_grad_plan best = {.cost = INFINITY};
    for (int split = 0; split <= s->d; split++) {
        struct ttm_grad_plan p = {.shape = *s, .split = split, .tokens = tokens};
        p.route = TTM_ROUTE_DENSE;
        p.cost = dense_cost(s, split, tokens);
        if (route != TTM_ROUTE_CORES) consider(&best, &p);
        p.route = TTM_ROUTE_CORES;
        for (int left = 0; left < 2; left++) {
            p.left_first = left;
            p.cost = cores_cost(s, split, left, tokens);
            if (route != TTM_ROUTE_DENSE && split > 0 && split < s->d) consider(&best, &p);
        }
        if (route == TTM_ROUTE_CORES && s->d == 1) consider(&best, &p); /* nothing to contract */
    }
    best.scratch_floats = best.route == TTM_ROUTE_DENSE ? ttm_dense_scratch(&best, threads)
                                                        : ttm_cores_scratch(&best);
    *out = best;
}

void ttm_grad_forward(const struct ttm_grad_plan *p, const struct compute *compute,
                      const float *const *cores, const float *x, size_t t, float *y, float *scratch)
{
    struct ttm_call_grad c = {.p = p, .compute = compute, .cores = cores, .x = x, .t = t, .y = y};
    c.scratch = scratch;
    if (p->route == TTM_ROUTE_DENSE)
        ttm_dense_forward(&c);
    else
        ttm_cores_forward(&c);
}

void ttm_grad_backward(const struct ttm_grad_plan *p, const struct compute *compute,
                       const float *const *cores, const float *x, const float *dy, size_t t,
                       float *dx, float *const *dcores, float *scratch)
{
    struct ttm_call_grad c = {.p = p, .compute = compute, .cores = cores, .x = x, .dy = dy, .t = t};
    c.dx = dx;
    c.dcores = dcores;
    c.scratch = scratch;
    if (p->route == TTM_ROUTE_DENSE)
        ttm_dense_backward(&c);
    else
        ttm_cores_backward(&c);
}
