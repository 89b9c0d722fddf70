/* One memory budget for all TTM layers of a model. Each layer has a list of pairs of plans (decode,
 * prefill) in which more bytes mean less time; the layers start with their smallest pairs and then the
 * step that saves the most time per byte is taken, over all layers, until nothing more fits.
 *
 * The exact answer would be a knapsack. Greedy steps along lower convex hulls differ from it by at
 * most one step of one layer, and models have dozens of layers in two or three shapes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/kernels/pack.h"
#include "engine/ttm/plan_chain.h"

struct choice {
    struct ttm_plan pair[TTM_ROLES];
    size_t bytes;
    double seconds;
};

/* The pairs of one layer worth having: bytes ascend, seconds descend. */
struct front {
    int n;
    struct choice *list; /* owned */
    int at;              /* the one that is taken */
};

static int by_bytes(const void *a, const void *b)
{
    const struct choice *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return x->seconds < y->seconds ? -1 : x->seconds > y->seconds;
}

static void keep_front(struct front *f)
{
    int kept = 0;
    qsort(f->list, (size_t)f->n, sizeof *f->list, by_bytes);
    for (int i = 0; i < f->n; i++)
        if (kept == 0 || f->list[i].seconds < f->list[kept - 1].seconds)
            f->list[kept++] = f->list[i];
    f->n = kept;
}

/* Less than the dense matrix takes, as long as any pair does; else that. */
static void drop_dense(struct front *f, const struct ttm_shape *s, enum dtype t)
{
    size_t dense = ttm_dense_bytes(s, t), kept = 0;
    int less = 0;
    for (int i = 0; i < f->n; i++)
        less += f->list[i].bytes < dense;
    for (int i = 0; i < f->n; i++)
        if (less ? f->list[i].bytes < dense : f->list[i].bytes <= dense)
            f->list[kept++] = f->list[i];
    if (kept) f->n = (int)kept;
}

static void make_front(struct front *f, const struct ttm_shape *s, const struct ttm_workload *w,
                       const struct ttm_rates *m)
{
    struct plan_candidates *c[TTM_ROLES];
    for (int r = 0; r < TTM_ROLES; r++)
        c[r] = plan_candidates(s, (enum ttm_role)r, w, m);
    size_t most = (size_t)c[0]->n * (size_t)c[1]->n;
    *f = (struct front){.list = mem_calloc(most ? most : 1, sizeof *f->list)};
    for (int i = 0; i < c[0]->n; i++)
        for (int j = 0; j < c[1]->n; j++) {
            struct choice *q = &f->list[f->n];
            q->pair[0] = c[0]->plan[i];
            q->pair[1] = c[1]->plan[j];
            q->bytes = ttm_plan_pair_bytes(q->pair, w->dtype);
            q->seconds = w->share[0] * c[0]->seconds[i] + w->share[1] * c[1]->seconds[j];
            if (!w->budget_bytes || q->bytes <= w->budget_bytes) f->n++;
        }
    for (int r = 0; r < TTM_ROLES; r++)
        free(c[r]);
    if (w->below_dense) drop_dense(f, s, w->dtype);
    keep_front(f);
}

static bool same_problem(const struct ttm_shape *a, const struct ttm_workload *v,
                         const struct ttm_shape *b, const struct ttm_workload *w)
{
    return memcmp(a, b, sizeof *a) == 0 && memcmp(v, w, sizeof *v) == 0;
}

/* The step from where the layer is that saves the most time per byte, within `left`; 0 = none. */
static int best_step(const struct front *f, size_t left, double *rate)
{
    int to = 0;
    const struct choice *from = &f->list[f->at];
    for (int i = f->at + 1; i < f->n; i++) {
        size_t more = f->list[i].bytes - from->bytes;
        if (more > left) break;
        double r = (from->seconds - f->list[i].seconds) / (double)more;
        if (r <= *rate) continue;
        *rate = r;
        to = i;
    }
    return to;
}

static void spend(struct front *fronts, int n, size_t left)
{
    for (;;) {
        double rate = 0;
        int layer = -1, to = 0;
        for (int l = 0; l < n; l++) {
            int step = best_step(&fronts[l], left, &rate);
            if (!step) continue;
            layer = l;
            to = step;
        }
        if (layer < 0) return;
        struct front *f = &fronts[layer];
        left -= f->list[to].bytes - f->list[f->at].bytes;
        f->at = to;
    }
}

static int find_fronts(struct front *fronts, const struct ttm_shape *shapes, int n,
                       const struct ttm_workload *w, const struct ttm_rates *m,
                       const char *const *names, struct err *err)
{
    for (int l = 0; l < n; l++) {
        int twin = 0;
        while (twin < l && !same_problem(&shapes[twin], &w[twin], &shapes[l], &w[l]))
            twin++;
        if (twin == l) {
            make_front(&fronts[l], &shapes[l], &w[l], m);
        } else {
            size_t bytes = (size_t)fronts[twin].n * sizeof *fronts[l].list;
            fronts[l] = (struct front){.n = fronts[twin].n, .list = mem_alloc(bytes ? bytes : 1)};
            memcpy(fronts[l].list, fronts[twin].list, bytes);
        }
        if (fronts[l].n == 0) return plan_no_fit(&shapes[l], &w[l], names[l], err);
    }
    return 0;
}

int ttm_plan_model(struct ttm_plan (*out)[TTM_ROLES], const struct ttm_shape *shapes, int n,
                   const struct ttm_workload *w, size_t budget, size_t *least,
                   const struct ttm_rates *m, const char *const *names, struct err *err)
{
    struct front *fronts = mem_calloc(n ? (size_t)n : 1, sizeof *fronts);
    int rc = find_fronts(fronts, shapes, n, w, m, names, err);
    size_t sum = 0;
    for (int l = 0; !rc && l < n; l++)
        sum += fronts[l].list[0].bytes;
    if (!rc && budget && sum > budget) {
        *least = sum;
        rc = err_set(err, ERR_INVALID, "%d TTM layers take at least %zu bytes, %zu are allowed", n,
                     sum, budget);
    }
    if (!rc) spend(fronts, n, budget ? budget - sum : SIZE_MAX);
    for (int l = 0; !rc && l < n; l++) {
        struct front *f = &fronts[l];
        const struct choice *q = &f->list[budget ? f->at : f->n - 1];
        memcpy(out[l], q->pair, sizeof q->pair);
    }
    for (int l = 0; l < n; l++)
        free(fronts[l].list);
    free(fronts);
    return rc;
}

int ttm_plan_layer(struct ttm_plan out[TTM_ROLES], const struct ttm_shape *s,
                   const struct ttm_workload *w, const struct ttm_rates *m, const char *what,
                   struct err *err)
{
    struct ttm_plan pair[1][TTM_ROLES];
    int rc = ttm_plan_model(pair, s, 1, w, 0, NULL, m, &what, err);
    if (rc == 0) memcpy(out, pair[0], sizeof pair[0]);
    return rc;
}
