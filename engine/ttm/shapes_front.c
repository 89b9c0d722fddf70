/* A search over all shapes. There are many: 768 x 3072 has 755,040 ways to be split into four cores,
 * times the ranks. Each costs about a microsecond because multiplications need no plan: what a step
 * costs depends only on the set of groups applied before it, so that a table over subsets finds the
 * cheapest order, and most shapes do not get so far: their parameters and rank are known at once, and
 * if even with the fewest multiplications thinkable (as many as parameters) some point of the front
 * is as good, nothing more is computed. Therefore fewer cores come first: they make a strong front.
 *
 * Invariant: the front is sorted by (params, mults) and no point dominates another. */
#include "engine/ttm/shapes_front.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

enum { GROUP_SETS = 1 << TTM_MAX_CORES, LARGEST_PRIME = 13 };

/* ---- the three numbers of a shape ---- */

/* A chain of merged groups, seen by the cost of its steps. */
struct groups {
    int n;
    uint64_t m[TTM_MAX_CORES], out[TTM_MAX_CORES], r[TTM_MAX_CORES + 1];
};

static void merge_groups(struct groups *g, const struct ttm_shape *s, unsigned cuts)
{
    g->n = 0;
    for (int k = 0; k < s->d; k++) {
        if (k == 0 || (cuts >> (k - 1) & 1)) {
            g->m[g->n] = g->out[g->n] = 1;
            g->r[g->n++] = (uint64_t)s->r[k];
        }
        g->m[g->n - 1] *= (uint64_t)s->m[k];
        g->out[g->n - 1] *= (uint64_t)s->n[k];
    }
    g->r[g->n] = 1;
}

/* Multiplications of applying group g when those in `applied` are done: the sizes of all axes that are
 * there, the summed ones and the new ones. */
static uint64_t step_mults(const struct groups *c, unsigned applied, int g)
{
    uint64_t mults = c->m[g] * c->out[g] * c->r[g] * c->r[g + 1];
    for (int j = 0; j < c->n; j++) {
        if (j == g) continue;
        mults *= applied >> j & 1 ? c->out[j] : c->m[j];
        if (j > 0 && j != g + 1 && ((applied >> j ^ applied >> (j - 1)) & 1)) mults *= c->r[j];
    }
    return mults;
}

/* The fewest multiplications over all orders; order may be NULL. */
static uint64_t best_order(const struct groups *c, int *order)
{
    uint64_t best[GROUP_SETS];
    unsigned char last[GROUP_SETS] = {0};
    unsigned all = (1u << c->n) - 1;
    best[0] = 0;
    for (unsigned set = 1; set <= all; set++) {
        best[set] = UINT64_MAX;
        for (int g = 0; g < c->n; g++) {
            if (!(set >> g & 1)) continue;
            unsigned before = set & ~(1u << g);
            uint64_t t = best[before] + step_mults(c, before, g);
            if (t >= best[set]) continue;
            best[set] = t;
            last[set] = (unsigned char)g;
        }
    }
    unsigned set = all;
    for (int i = c->n - 1; order && i >= 0; i--) {
        order[i] = last[set];
        set &= ~(1u << last[set]);
    }
    return best[all];
}

static uint64_t fewest_mults(const struct ttm_shape *s, struct ttm_plan *plan)
{
    uint64_t best = UINT64_MAX;
    if (s->d == 1) {
        if (plan) *plan = (struct ttm_plan){.method = TTM_RESIDENT};
        return (uint64_t)ttm_shape_dense(s);
    }
    for (unsigned cuts = 1; cuts < 1u << (s->d - 1); cuts++) {
        struct groups c;
        merge_groups(&c, s, cuts);
        int order[TTM_MAX_CORES];
        uint64_t t = best_order(&c, plan ? order : NULL);
        if (t >= best) continue;
        best = t;
        if (!plan) continue;
        *plan = (struct ttm_plan){.method = TTM_CONTRACT};
        for (int k = 0; k < s->d; k++)
            if (k == 0 || (cuts >> (k - 1) & 1)) plan->first[plan->groups++] = k;
        plan->first[plan->groups] = s->d;
        memcpy(plan->order, order, (size_t)plan->groups * sizeof *order);
    }
    return best;
}

/* Cut the chain at a bond: W is a sum of r Kronecker products, of a left and a right part whose ranks
 * are at most their smaller sides. */
static int matrix_rank(const struct ttm_shape *s)
{
    size_t rank = (size_t)(s->in < s->out ? s->in : s->out), ml = 1, nl = 1;
    for (int k = 0; k + 1 < s->d; k++) {
        ml *= (size_t)s->m[k];
        nl *= (size_t)s->n[k];
        size_t mr = ttm_shape_rows(s) / ml, nr = ttm_shape_cols(s) / nl;
        size_t side = (ml < nl ? ml : nl) * (mr < nr ? mr : nr); /* at most 2^31 */
        if (side * (size_t)s->r[k + 1] < rank) rank = side * (size_t)s->r[k + 1];
    }
    return (int)rank;
}

void shapes_point_of(struct shapes_point *out, const struct ttm_shape *s, struct ttm_plan *plan)
{
    *out = (struct shapes_point){.shape = *s,
                                 .params = ttm_shape_params(s),
                                 .mults = fewest_mults(s, plan),
                                 .matrix_rank = matrix_rank(s)};
    if (!plan) return;
    BUG_ON(ttm_plan_finish(plan, s, "shape", NULL) != 0);
    BUG_ON(plan->mults_per_row != out->mults);
}

/* ---- the front ---- */

static bool dominates(const struct shapes_point *a, const struct shapes_point *b)
{
    return a->params <= b->params && a->mults <= b->mults;
}

static bool beaten(const struct shapes_front *f, const struct shapes_point *p)
{
    for (size_t i = 0; i < f->n && f->point[i].params <= p->params; i++)
        if (dominates(&f->point[i], p)) return true;
    return false;
}

static bool before(const struct shapes_point *a, const struct shapes_point *b)
{
    return a->params != b->params ? a->params < b->params : a->mults < b->mults;
}

static void insert(struct shapes_front *f, const struct shapes_point *p)
{
    size_t kept = 0;
    for (size_t i = 0; i < f->n; i++)
        if (!dominates(p, &f->point[i])) f->point[kept++] = f->point[i];
    f->n = kept;
    if (f->n == f->cap) {
        f->cap = f->cap ? 2 * f->cap : 64;
        f->point = mem_realloc(f->point, f->cap * sizeof *f->point);
    }
    size_t at = f->n++;
    for (; at > 0 && before(p, &f->point[at - 1]); at--)
        f->point[at] = f->point[at - 1];
    f->point[at] = *p;
}

void shapes_front_release(struct shapes_front *f)
{
    free(f->point);
    *f = (struct shapes_front){0};
}

const struct shapes_point *shapes_front_pick(const struct shapes_front *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->point[i].mults <= ttm_shape_dense(&f->point[i].shape)) return &f->point[i];
    return f->n ? &f->point[f->n - 1] : NULL;
}

/* ---- the search ---- */

struct search {
    struct shapes_front *front;
    const struct shapes_query *q;
    size_t limit; /* parameters */
    int least;    /* rank of W */
};

/* Two neighbours that take no fewer parameters than their product are no two cores. */
static bool pointless(const struct ttm_shape *s)
{
    for (int k = 0; k + 1 < s->d; k++) {
        size_t joined = (size_t)s->r[k] * (size_t)s->r[k + 2] * (size_t)s->m[k] * (size_t)s->n[k] *
                        (size_t)s->m[k + 1] * (size_t)s->n[k + 1];
        if (joined <= ttm_shape_core(s, k) + ttm_shape_core(s, k + 1)) return true;
    }
    return false;
}

static void try_shape(struct search *q, struct ttm_shape *s)
{
    ttm_shape_cap_left(s, q->q->rank);
    ttm_shape_cap_exact(s);
    struct shapes_point p = {.shape = *s, .params = ttm_shape_params(s)};
    q->front->searched++;
    if (p.params > q->limit || pointless(s)) return;
    p.matrix_rank = matrix_rank(s);
    p.mults = p.params;
    if (p.matrix_rank < q->least || beaten(q->front, &p)) return;
    p.mults = fewest_mults(s, NULL);
    if (!beaten(q->front, &p)) insert(q->front, &p);
}

/* All ordered factorisations of a number into d factors: lists (n, d) of ints. */
struct factor_lists {
    int (*list)[SHAPES_MAX_CORES];
    size_t n, cap;
};

static void factor_into(struct factor_lists *f, int d, int at, int rest, int *now)
{
    if (at == d - 1) {
        now[at] = rest;
        if (f->n == f->cap) {
            f->cap = f->cap ? 2 * f->cap : 256;
            f->list = mem_realloc(f->list, f->cap * sizeof *f->list);
        }
        memcpy(f->list[f->n++], now, (size_t)d * sizeof *now);
        return;
    }
    for (int v = 1; v <= rest; v++)
        if (rest % v == 0) {
            now[at] = v;
            factor_into(f, d, at + 1, rest / v, now);
        }
}

/* No core (1,1), and of a chain and its mirror image only one. */
static bool wanted(int d, const int *m, const int *n)
{
    int mirror = 0;
    for (int k = 0; k < d; k++) {
        if (m[k] == 1 && n[k] == 1) return false;
        if (!mirror) mirror = m[k] != m[d - 1 - k] ? m[k] - m[d - 1 - k] : n[k] - n[d - 1 - k];
    }
    return mirror <= 0;
}

static void try_cores(struct search *q, int d, int rows, int cols)
{
    struct factor_lists m = {0}, n = {0};
    int now[SHAPES_MAX_CORES];
    factor_into(&m, d, 0, rows, now);
    factor_into(&n, d, 0, cols, now);
    for (size_t i = 0; i < m.n; i++)
        for (size_t j = 0; j < n.n; j++) {
            if (!wanted(d, m.list[i], n.list[j])) continue;
            struct ttm_shape s = {.d = d, .in = q->q->in, .out = q->q->out};
            memcpy(s.m, m.list[i], (size_t)d * sizeof *s.m);
            memcpy(s.n, n.list[j], (size_t)d * sizeof *s.n);
            try_shape(q, &s);
        }
    free(m.list);
    free(n.list);
}

static int padded(int n)
{
    int rest = n;
    for (int p = 2; p <= LARGEST_PRIME; p++)
        while (rest % p == 0)
            rest /= p;
    return rest == 1 ? n : ttm_pad(n);
}

int shapes_front_search(struct shapes_front *out, const struct shapes_query *q, struct err *err)
{
    *out = (struct shapes_front){0};
    if (q->in < 1 || q->out < 1 || q->in > SHAPES_MAX_SIZE || q->out > SHAPES_MAX_SIZE ||
        q->rank < 1 || q->rank > TTM_MAX_RANK)
        return err_set(err, ERR_INVALID,
                       "no shapes for (%d,%d) at rank %d: sizes are 1..%d, ranks 1..%d", q->in,
                       q->out, q->rank, SHAPES_MAX_SIZE, TTM_MAX_RANK);
    struct search s = {.front = out, .q = q, .limit = (size_t)q->in * (size_t)q->out};
    if (q->params && q->params < s.limit) s.limit = q->params;
    s.least = q->in < q->out ? q->in : q->out;
    for (int d = 2; d <= SHAPES_MAX_CORES; d++)
        try_cores(&s, d, padded(q->in), padded(q->out));
    return 0;
}

void shapes_front_low_rank(struct shapes_point *out, int in, int width, int rank)
{
    struct ttm_shape s = {.d = 2, .m = {1, in}, .n = {width, 1}, .in = in, .out = width};
    ttm_shape_cap_left(&s, rank);
    ttm_shape_cap_exact(&s);
    shapes_point_of(out, &s, NULL);
}

/* Does some shape of this rank fit? *out is the pick then. */
static int fits(struct shapes_point *out, struct shapes_query q, int rank, bool *yes,
                struct err *err)
{
    struct shapes_front f;
    q.rank = rank;
    int rc = shapes_front_search(&f, &q, err);
    const struct shapes_point *p = rc ? NULL : shapes_front_pick(&f);
    *yes = p && p->mults <= ttm_shape_dense(&p->shape);
    if (*yes) *out = *p;
    shapes_front_release(&f);
    return rc;
}

int shapes_front_fit(struct shapes_point *out, const struct shapes_query *q, struct err *err)
{
    int lo = 0, hi = q->in < q->out ? q->in : q->out, rc = 0;
    struct shapes_point best;
    while (lo < hi) {
        int mid = lo + (hi - lo + 1) / 2;
        bool yes;
        rc = fits(&best, *q, mid, &yes, err);
        if (rc) return rc;
        if (yes)
            lo = mid;
        else
            hi = mid - 1;
    }
    size_t per_rank = (size_t)q->in + (size_t)q->out;
    if (lo == 0 && q->params < per_rank)
        return err_set(err, ERR_INVALID,
                       "%zu parameters are too few for a (%d,%d) layer, which takes %zu at least",
                       q->params, q->in, q->out, per_rank);
    if (lo == 0) shapes_front_low_rank(&best, q->in, q->out, (int)(q->params / per_rank));
    *out = best;
    return 0;
}
