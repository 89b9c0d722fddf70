/* Choosing a plan. The machine is described by a handful of rates; a matrix product takes as long as
 * the slower of its arithmetic and its weight traffic, a reordering as long as its bytes take in
 * cache. Simple on purpose: what decides between methods are factors of two and more.
 *
 * Contractions: for each of the 2^(d-1) groupings, dynamic programming over (set of groups applied,
 * the last one), since a step's cost and the layout it leaves depend on nothing else. That is exact
 * and at most some ten thousand step evaluations for eight cores, so that no heuristic is needed. */
#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/kernels/int8.h"
#include "engine/kernels/pack.h"
#include "engine/ttm/plan_chain.h"

const struct ttm_rates ttm_rates_ideal = {
    .flops_few = 1, .flops_many = 1, .dram = INFINITY, .cache = INFINITY, .lanes = 1};

bool plan_cached(size_t bytes, const struct ttm_workload *w, const struct ttm_rates *m)
{
    if (w->other_bytes > m->cache_bytes) return false;
    return bytes <= (m->cache_bytes - w->other_bytes) / (size_t)w->layers;
}

static double product_seconds(double rows, size_t k, size_t n, size_t element, double bandwidth,
                              const struct ttm_rates *m)
{
    double columns = (double)mem_round_up(n, m->lanes), share = 1;
    if (rows < TTM_MANY_ROWS) share = (rows - 1) / (TTM_MANY_ROWS - 1);
    double flops = m->flops_few + (m->flops_many - m->flops_few) * share;
    double arithmetic = 2 * rows * (double)k * columns / flops;
    double traffic = (double)k * columns * (double)element / bandwidth;
    return fmax(arithmetic, traffic) + m->overhead_s;
}

double plan_step_seconds(const struct ttm_step *st, size_t rows, size_t element, bool cached,
                         bool moves, const struct ttm_rates *m)
{
    double all = (double)rows * (double)st->rows;
    double moved = st->in.identity || !moves ? 0 : 8 * all * (double)st->k / m->cache;
    double activations = 4 * all * (double)(st->k + st->n) / m->cache;
    if (element == 1) activations += 4 * all * (double)st->k / m->cache; /* quantised */
    return moved + activations +
           product_seconds(all, st->k, st->n, element, cached ? m->cache : m->dram, m);
}

double plan_out_seconds(const struct ttm_permutation *out, size_t floats, size_t rows,
                        const struct ttm_rates *m)
{
    return out->identity ? 0 : 8 * (double)rows * (double)floats / m->cache;
}

static double contract_seconds(const struct ttm_plan *p, const struct ttm_shape *s, size_t rows,
                               const struct ttm_workload *w, const struct ttm_rates *m)
{
    struct ttm_steps st;
    ttm_plan_steps(&st, p, s);
    bool cached = plan_cached(ttm_plan_bytes(p, w->dtype), w, m);
    double t = st.n > 2 ? plan_out_seconds(&st.out, ttm_shape_cols(s), rows, m) : 0;
    for (int i = 0; i < st.n; i++)
        t += plan_step_seconds(&st.step[i], rows, dtype_size(w->dtype), cached, st.n > 2 || i == 0,
                               m);
    return t;
}

double ttm_plan_seconds(const struct ttm_plan *p, const struct ttm_shape *s, size_t rows,
                        const struct ttm_workload *w, const struct ttm_rates *m)
{
    size_t in = (size_t)s->in, out = (size_t)s->out;
    if (p->method == TTM_CONTRACT) return contract_seconds(p, s, rows, w, m);
    bool cached = plan_cached(ttm_plan_bytes(p, w->dtype), w, m);
    if (p->method == TTM_RESIDENT)
        return product_seconds((double)rows, in, out, dtype_size(w->dtype),
                               cached ? m->cache : m->dram, m);
    struct ttm_rates f32 = *m;
    if (m->flops_f32 > 0) f32.flops_many = m->flops_f32;
    if (f32.flops_few > f32.flops_many) f32.flops_few = f32.flops_many;
    double made = 2 * (double)p->mults_per_call / f32.flops_many;
    double weights = (double)ttm_plan_bytes(p, w->dtype) / (cached ? m->cache : m->dram);
    double w_bytes = 4 * (double)in * (double)out; /* to a tile, to a block, and into the product */
    return fmax(made, weights) + 3 * w_bytes / m->cache +
           product_seconds((double)rows, in, out, 4, m->cache, &f32);
}

size_t ttm_plan_bytes(const struct ttm_plan *p, enum dtype t)
{
    if (p->method == TTM_REBUILD) return p->packed_floats * sizeof(float);
    return p->packed_floats * dtype_size(t) +
           (t == DTYPE_I8 ? p->packed_columns * (sizeof(float) + sizeof(int32_t)) : 0);
}

size_t ttm_dense_bytes(const struct ttm_shape *s, enum dtype t)
{
    size_t columns = packed_panels((size_t)s->out) * PACK_N;
    struct ttm_plan p = {.method = TTM_RESIDENT, .packed_floats = columns * (size_t)s->in};
    p.packed_columns = columns;
    return ttm_plan_bytes(&p, t);
}

size_t ttm_plan_pair_bytes(const struct ttm_plan plan[TTM_ROLES], enum dtype t)
{
    size_t a = ttm_plan_bytes(&plan[0], t), b = ttm_plan_bytes(&plan[1], t);
    return ttm_plan_same(&plan[0], &plan[1]) ? a : a + b;
}

/* The fastest order of a grouping. best[applied][last] = seconds up to there; from[..] = the last
 * group before. */
struct search {
    double best[1 << TTM_MAX_CORES][TTM_MAX_CORES];
    signed char from[1 << TTM_MAX_CORES][TTM_MAX_CORES];
};

/* Sums of 8-bit products are of 32 bits: a matrix of more inputs cannot be packed (pack.h). */
static bool packable(size_t k, size_t element)
{
    return element != 1 || k <= INT8_MAX_K;
}

static void extend(struct search *q, const struct plan_chain *c, unsigned applied, int last,
                   double so_far, size_t rows, size_t element, bool cached,
                   const struct ttm_rates *m)
{
    for (int g = 0; g < c->g; g++) {
        if (applied >> g & 1) continue;
        struct ttm_step st;
        plan_step(&st, c, applied, last, g);
        if (!packable(st.k, element)) continue;
        double t =
            so_far + plan_step_seconds(&st, rows, element, cached, c->g > 2 || applied == 0, m);
        unsigned next = applied | 1u << g;
        if (t < q->best[next][g]) {
            q->best[next][g] = t;
            q->from[next][g] = (signed char)last;
        }
    }
}

/* False when no order can be packed. */
static bool best_order(struct ttm_plan *p, const struct ttm_shape *s, size_t rows,
                       const struct ttm_workload *w, const struct ttm_rates *m, struct search *q)
{
    struct plan_chain c;
    plan_chain(&c, s, p->first, p->groups);
    size_t element = dtype_size(w->dtype);
    bool cached = plan_cached(plan_chain_floats(&c) * element, w, m);
    unsigned all = (1u << c.g) - 1;
    for (unsigned a = 0; a <= all; a++)
        for (int g = 0; g < c.g; g++)
            q->best[a][g] = INFINITY;
    extend(q, &c, 0, -1, 0, rows, element, cached, m);
    for (unsigned a = 1; a < all; a++)
        for (int g = 0; g < c.g; g++)
            if (q->best[a][g] < INFINITY)
                extend(q, &c, a, g, q->best[a][g], rows, element, cached, m);
    int last = 0;
    double least = INFINITY;
    for (int g = 0; g < c.g; g++) {
        struct ttm_permutation out;
        plan_out(&out, &c, g);
        double t = q->best[all][g];
        if (c.g > 2) t += plan_out_seconds(&out, ttm_shape_cols(s), rows, m);
        if (t < least) {
            least = t;
            last = g;
        }
    }
    if (least == INFINITY) return false;
    for (int i = c.g - 1; i >= 0; i--) {
        p->order[i] = last;
        int before = q->from[all][last];
        all &= ~(1u << last);
        last = before;
    }
    return true;
}

/* What is gathered, for whom; `possible` counts plans whatever they keep. */
struct gathering {
    struct plan_candidates *c;
    const struct ttm_shape *s;
    const struct ttm_workload *w;
    const struct ttm_rates *m;
    size_t rows;
    int possible;
};

static void add(struct gathering *t, const struct ttm_plan *choice)
{
    struct plan_candidates *c = t->c;
    struct ttm_plan *p = &c->plan[c->n];
    *p = *choice;
    BUG_ON(ttm_plan_finish(p, t->s, "plan", NULL) != 0);
    t->possible++;
    if (t->w->budget_bytes && ttm_plan_bytes(p, t->w->dtype) > t->w->budget_bytes) return;
    c->seconds[c->n++] = ttm_plan_seconds(p, t->s, t->rows, t->w, t->m);
}

/* Multiplications of merging cores first..last-1 from the left. */
static double merge_mults(const struct ttm_shape *s, int first, int last)
{
    double sum = 0, rows = (double)s->r[first] * s->m[first] * s->n[first];
    for (int k = first + 1; k < last; k++) {
        sum += rows * (double)ttm_shape_core(s, k);
        rows *= (double)s->m[k] * s->n[k];
    }
    return sum;
}

/* The split that a resident W is made with: where the smallest rank is, a factor may be as large as W, and
 * merging it, in double, takes longer than all the rest. */
static int cheapest_split(const struct ttm_shape *s)
{
    int best = 0;
    double least = INFINITY;
    for (int k = 1; k < s->d; k++) {
        double merges = merge_mults(s, 0, k) + merge_mults(s, k, s->d);
        double cost = 2 * merges + (double)ttm_shape_dense(s) * s->r[k];
        if (cost >= least) continue;
        least = cost;
        best = k;
    }
    return best;
}

static void add_dense(struct gathering *t, unsigned methods)
{
    const struct ttm_shape *s = t->s;
    if (methods >> TTM_RESIDENT & 1 && packable((size_t)s->in, dtype_size(t->w->dtype)))
        add(t, &(struct ttm_plan){.method = TTM_RESIDENT, .split = cheapest_split(s)});
    for (int k = 1; methods >> TTM_REBUILD & 1 && k < s->d; k++)
        add(t, &(struct ttm_plan){.method = TTM_REBUILD, .split = k});
}

static void add_contractions(struct gathering *t)
{
    const struct ttm_shape *s = t->s;
    struct search *search = mem_calloc(1, sizeof *search);
    for (unsigned cut = 1; cut < 1u << (s->d - 1); cut++) {
        struct ttm_plan p = {.method = TTM_CONTRACT, .groups = 1};
        for (int k = 1; k < s->d; k++)
            if (cut >> (k - 1) & 1) p.first[p.groups++] = k;
        p.first[p.groups] = s->d;
        if (best_order(&p, s, t->rows, t->w, t->m, search)) add(t, &p);
    }
    free(search);
}

struct plan_candidates *plan_candidates(const struct ttm_shape *s, enum ttm_role role,
                                        const struct ttm_workload *w, const struct ttm_rates *m)
{
    const unsigned all = (1u << TTM_METHODS) - 1, methods = w->methods ? w->methods : all;
    struct gathering t = {.s = s, .w = w, .m = m, .rows = w->rows[role]};
    t.c = mem_calloc(1, sizeof *t.c);
    add_dense(&t, methods);
    if (methods >> TTM_CONTRACT & 1) add_contractions(&t);
    if (!t.possible) add_dense(&t, all); /* the methods named cannot apply this layer at all */
    return t.c;
}

int plan_no_fit(const struct ttm_shape *s, const struct ttm_workload *w, const char *what,
                struct err *err)
{
    char text[TTM_SHAPE_TEXT];
    ttm_shape_format(s, text);
    if (!w->budget_bytes)
        return err_set(err, ERR_INVALID, "%s: no plan for %s: 8-bit weights have at most %d inputs",
                       what, text, INT8_MAX_K);
    return err_set(err, ERR_INVALID,
                   "%s: no plan for %s fits in %zu bytes; its cores alone need %zu", what, text,
                   w->budget_bytes, ttm_shape_params(s) * dtype_size(w->dtype));
}

int ttm_plan_role(struct ttm_plan *out, const struct ttm_shape *s, enum ttm_role role,
                  const struct ttm_workload *w, const struct ttm_rates *m, const char *what,
                  struct err *err)
{
    struct plan_candidates *c = plan_candidates(s, role, w, m);
    int best = -1;
    for (int i = 0; i < c->n; i++)
        if (best < 0 || c->seconds[i] < c->seconds[best]) best = i;
    if (best >= 0) *out = c->plan[best];
    free(c);
    return best >= 0 ? 0 : plan_no_fit(s, w, what, err);
}
