/* ttm bench --ttm: is the planner right? All ways to apply a layer are made for all layers of its kind
 * and called in turn, so that weights come from where they come from in a model: before few rows are
 * timed, a buffer larger than the cache is read, as the rest of a step would do. Every round times
 * every way once; the best of the rounds counts, since what disturbs only ever makes it slower. */
#include "models/bench_ttm.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/ttm/plan_chain.h"
#include "engine/ttm/rates_file.h"
#include "engine/ttm/round.h"
#include "models/bench_ttm_report.h"
#include "models/inspect_ttm.h"
#include "models/progress.h"

enum { COLD_ROWS = 32 };
#define SWEEP_BYTES ((size_t)96 << 20) /* read before few rows: beyond what a cache may hold */
#define CALLS_S 0.02                   /* a sample takes about so long */

static const size_t all_rows[BENCH_TTM_ROWS] = {1, 2, 4, 8, 16, 32, 128, 512};

/* One way to apply a kind of layer: made for each of its layers. */
struct way {
    struct bench_ttm_way *report; /* borrowed */
    struct ttm_linear **ttm;      /* (n_layers) owned, or */
    struct packed *dense;         /* (n_layers) owned */
};

struct bench {
    const struct tool *tool;
    struct compute compute;
    struct ttm_rates rates;
    struct gpt2_config cfg;
    struct st_set *set;
    struct inspect_ttm layers;
    size_t other_bytes;
    enum dtype dtype;
    int rounds;
    float *x, *y, *scratch, *sweep;
    size_t scratch_floats, width;
    struct bench_ttm_report report;
};

/* ---- making the ways ---- */

static int load_core(struct bench *b, int layer, struct ttm *out, bool rounded, struct err *err)
{
    const struct inspect_ttm_layer *l = &b->layers.layers[layer];
    struct ttm_tensors t;
    struct ttm w = {0};
    int rc =
        ttm_tensors_find(&t, b->set, l->name, (size_t)l->stored.in, (size_t)l->stored.out, err);
    if (rc < 0) return rc;
    rc = ttm_tensors_load(&w, &t, l->name, err);
    if (rc || !rounded) {
        *out = w;
        return rc;
    }
    rc = ttm_round_exact(out, &w, l->name, err);
    ttm_release(&w);
    return rc;
}

static int make_dense(struct packed *out, const struct ttm_shape *s, enum dtype t, struct err *err)
{
    size_t in = (size_t)s->in, n = (size_t)s->out;
    void *rows = NULL;
    int rc = mem_map(&rows, in * n * sizeof(float), "a dense layer", err);
    if (rc) return rc;
    rng_normal_fill(rows, in * n, 0.02, 1, 1);
    rc = packed_init(out, t, in, n, "a dense layer", err);
    const struct pack_source src = {.data = rows, .dtype = DTYPE_F32};
    if (rc == 0) packed_fill(out, &src, 0, packed_panels(n));
    mem_unmap(rows, in * n * sizeof(float));
    return rc;
}

static int make_way(struct bench *b, struct way *q, const struct bench_ttm_kind *kind,
                    struct err *err)
{
    bool dense = q->report->kind == BENCH_TTM_DENSE;
    if (dense)
        q->dense = mem_calloc((size_t)kind->n_layers, sizeof *q->dense);
    else
        q->ttm = mem_calloc((size_t)kind->n_layers, sizeof *q->ttm);
    int rc = 0;
    for (int i = 0; !rc && i < kind->n_layers; i++) {
        struct ttm w = {0};
        if (tool_stopped(b->tool)) return tool_interrupted(err);
        rc = load_core(b, kind->layers[i], &w, q->report->kind != BENCH_TTM_CHAIN, err);
        const struct ttm_plan plan[TTM_ROLES] = {q->report->plan, q->report->plan};
        if (!rc && dense)
            rc = make_dense(&q->dense[i], &w.shape, b->dtype, err);
        else if (!rc)
            rc = ttm_linear_new(&q->ttm[i], &w, plan, b->dtype, &b->compute, "a TTM layer", err);
        ttm_release(&w);
    }
    if (rc) return rc;
    size_t floats = dense ? matmul_scratch_floats(&q->dense[0], 512)
                          : ttm_linear_scratch_floats(q->ttm[0], 512, 512);
    if (floats > b->scratch_floats) {
        mem_unmap(b->scratch, b->scratch_floats * sizeof *b->scratch);
        b->scratch = NULL;
        b->scratch_floats = floats;
        void *p;
        rc = mem_map(&p, floats * sizeof(float), "scratch", err);
        if (rc) b->scratch_floats = 0;
        if (rc == 0) b->scratch = p;
    }
    return rc;
}

static void release_way(struct way *q, int n)
{
    for (int i = 0; i < n; i++) {
        if (q->ttm) ttm_linear_free(q->ttm[i]);
        if (q->dense && q->dense[i].data) packed_release(&q->dense[i]);
    }
    free(q->ttm);
    free(q->dense);
}

/* ---- timing ---- */

static void call(struct bench *b, const struct way *q, const struct bench_ttm_kind *kind, int layer,
                 size_t rows)
{
    size_t in = (size_t)kind->stored.in, out = (size_t)kind->stored.out;
    if (q->dense)
        matmul_any(&b->compute, b->x, in, rows, &q->dense[layer], b->y, out, NULL, b->scratch);
    else
        ttm_linear_apply(q->ttm[layer], &b->compute, rows, 0, b->x, in, b->y, out, NULL,
                         b->scratch);
}

static void sweep_task(void *arg, size_t begin, size_t end, int worker)
{
    (void)worker;
    struct bench *b = arg;
    volatile float sink = 0;
    for (size_t i = begin; i < end; i++)
        sink += b->compute.k->dot(b->sweep + i * 4096, b->sweep + i * 4096, 4096);
    (void)sink;
}

/* Seconds of a call, over as many layers as give a measurable time. */
static double sample(struct bench *b, const struct way *q, const struct bench_ttm_kind *kind,
                     size_t rows, double predicted)
{
    double most = CALLS_S / predicted;
    int calls = most < 1 ? 1 : most > kind->n_layers ? kind->n_layers : (int)most;
    if (rows <= COLD_ROWS)
        pool_for(b->compute.pool, SWEEP_BYTES / (4096 * sizeof(float)), 64, sweep_task, b);
    uint64_t start = clock_ns();
    for (int i = 0; i < calls; i++)
        call(b, q, kind, i, rows);
    return (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S / calls;
}

static int measure(struct bench *b, struct bench_ttm_kind *kind, struct way *ways,
                   struct progress *bar, double *done, double total, struct err *err)
{
    for (int r = 0; r < BENCH_TTM_ROWS; r++) {
        for (int round = -1; round < b->rounds; round++) /* round -1 warms up */
            for (int i = 0; i < kind->n_ways; i++) {
                double *best = &kind->ways[i].measured[r];
                double v = sample(b, &ways[i], kind, all_rows[r], kind->ways[i].predicted[r]);
                if (round <= 0 || v < *best) *best = v;
                if (tool_stopped(b->tool)) return tool_interrupted(err);
            }
        *done += 1;
        progress_set(bar, *done / total, NULL);
    }
    return 0;
}

/* ---- what there is to measure ---- */

static void add_way(struct bench *b, struct bench_ttm_kind *kind, enum bench_ttm_way_kind what,
                    const struct ttm_plan *plan, const struct ttm_workload *w)
{
    const struct ttm_shape *s = what == BENCH_TTM_CHAIN ? &kind->stored : &kind->rounded;
    struct bench_ttm_way *q = &kind->ways[kind->n_ways++];
    *q = (struct bench_ttm_way){.kind = what, .plan = *plan};
    BUG_ON(ttm_plan_finish(&q->plan, s, "plan", NULL) != 0);
    q->bytes = ttm_plan_bytes(&q->plan, w->dtype);
    for (int r = 0; r < BENCH_TTM_ROWS; r++)
        q->predicted[r] = ttm_plan_seconds(&q->plan, s, all_rows[r], w, &b->rates);
}

/* Each grouping in the order that is best for its number of rows, and every rebuild; once each. */
static void add_candidates(struct bench *b, struct bench_ttm_kind *kind, struct ttm_workload *w)
{
    for (int r = 0; r < BENCH_TTM_ROWS; r++) {
        w->rows[TTM_DECODE] = all_rows[r];
        struct plan_candidates *c = plan_candidates(&kind->rounded, TTM_DECODE, w, &b->rates);
        for (int i = 0; i < c->n && kind->n_ways < BENCH_TTM_WAYS; i++) {
            int k = 0;
            while (k < kind->n_ways && (kind->ways[k].kind != BENCH_TTM_PLAN ||
                                        !ttm_plan_same(&kind->ways[k].plan, &c->plan[i])))
                k++;
            if (k == kind->n_ways) add_way(b, kind, BENCH_TTM_PLAN, &c->plan[i], w);
        }
        free(c);
    }
}

static void list_ways(struct bench *b, struct bench_ttm_kind *kind)
{
    struct ttm_workload w = {
        .rows = {1, 1}, .dtype = b->dtype, .layers = b->layers.n, .other_bytes = b->other_bytes};
    struct ttm_plan chain = {.method = TTM_CONTRACT, .groups = kind->stored.d};
    for (int k = 0; k <= kind->stored.d; k++)
        chain.first[k] = k;
    for (int k = 0; k < kind->stored.d; k++)
        chain.order[k] = k;
    int split = kind->rounded.d > 1;
    add_way(b, kind, BENCH_TTM_DENSE, &(struct ttm_plan){.method = TTM_RESIDENT, .split = split},
            &w);
    if (kind->stored.d > 1) add_way(b, kind, BENCH_TTM_CHAIN, &chain, &w);
    add_candidates(b, kind, &w);
}

static int add_kinds(struct bench *b, struct err *err)
{
    for (int i = 0; i < b->layers.n; i++) {
        const struct inspect_ttm_layer *l = &b->layers.layers[i];
        struct bench_ttm_kind *k = b->report.kinds;
        while (k < b->report.kinds + b->report.n_kinds &&
               memcmp(&k->stored, &l->stored, sizeof k->stored) != 0)
            k++;
        if (k == b->report.kinds + BENCH_TTM_KINDS)
            return err_set(err, ERR_UNSUPPORTED, "more than %d kinds of TTM layers",
                           BENCH_TTM_KINDS);
        if (k == b->report.kinds + b->report.n_kinds) {
            b->report.n_kinds++;
            k->stored = l->stored;
            k->rounded = l->rounded;
            k->dense_bytes = ttm_dense_bytes(&l->stored, b->dtype);
            memcpy(k->name, l->name, sizeof k->name);
        }
        size_t wide = (size_t)(l->stored.in > l->stored.out ? l->stored.in : l->stored.out);
        if (wide > b->width) b->width = wide;
        if (k->n_layers < BENCH_TTM_LAYERS) k->layers[k->n_layers++] = i;
    }
    return 0;
}

static int get_rates(struct bench *b, struct err *err)
{
    struct buf machine = {0};
    ttm_rates_machine(&machine, &b->tool->cpu, &b->compute, b->dtype);
    int rc = ttm_rates_get(&b->rates, b->dtype, &b->compute, NULL, machine.data, NULL, err);
    buf_release(&machine);
    return rc;
}

static int prepare(struct bench *b, const struct bench_ttm_args *a, struct err *err)
{
    struct err ignored = {0};
    void *p = NULL;
    size_t total = 0;
    b->rounds = a->rounds ? a->rounds : 5;
    b->dtype = a->dtype;
    b->compute.k = kernels_choose(&b->tool->cpu, a->kernels);
    if (!b->compute.k)
        return err_set_param(err, ERR_INVALID, "kernels",
                             "--kernels: \"%.40s\" is unknown or cannot run on this CPU",
                             a->kernels);
    int rc = pool_new(&b->compute.pool, cpu_threads(&b->tool->cpu, a->threads), err);
    if (!rc) rc = gpt2_config_load(&b->cfg, a->dir, err);
    if (!rc) rc = st_open(&b->set, a->dir, err);
    for (size_t i = 0; !rc && i < st_count(b->set); i++)
        total += st_at(b->set, i)->elements;
    if (!rc)
        rc = inspect_ttm_open(&b->layers, b->tool, a->dir, &b->cfg, b->set, b->dtype, 0, &ignored,
                              err);
    if (!rc && !b->layers.n)
        rc = err_set(err, ERR_INVALID, "%s has no TTM layer that can be used%s%s", a->dir,
                     ignored.code ? ": " : "", ignored.msg);
    b->other_bytes = (total - b->layers.stored_params) * dtype_size(b->dtype);
    if (!rc) rc = get_rates(b, err);
    if (!rc) rc = add_kinds(b, err);
    if (!rc) rc = mem_map(&p, (SWEEP_BYTES + 2 * 512 * b->width * sizeof(float)), "rows", err);
    if (rc) return rc;
    b->sweep = p;
    memset(b->sweep, 1, SWEEP_BYTES);
    b->x = b->sweep + SWEEP_BYTES / sizeof(float);
    b->y = b->x + 512 * b->width;
    rng_normal_fill(b->x, 512 * b->width, 1, 1, 2);
    return 0;
}

static int run(struct bench *b, struct err *err)
{
    struct progress bar;
    double done = 0, total = (double)b->report.n_kinds * BENCH_TTM_ROWS;
    int rc = 0;
    progress_start(&bar, b->tool->log, "measuring");
    for (int k = 0; !rc && k < b->report.n_kinds; k++) {
        struct bench_ttm_kind *kind = &b->report.kinds[k];
        struct way ways[BENCH_TTM_WAYS] = {0};
        list_ways(b, kind);
        for (int i = 0; !rc && i < kind->n_ways; i++) {
            ways[i].report = &kind->ways[i];
            rc = make_way(b, &ways[i], kind, err);
        }
        if (!rc) rc = measure(b, kind, ways, &bar, &done, total, err);
        for (int i = 0; i < kind->n_ways; i++)
            release_way(&ways[i], kind->n_layers);
    }
    progress_end(&bar);
    return rc;
}

int bench_ttm(const struct tool *t, const struct bench_ttm_args *a, struct err *err)
{
    struct bench *b = mem_calloc(1, sizeof *b);
    b->tool = t;
    int rc = prepare(b, a, err);
    if (!rc) rc = run(b, err);
    rc = st_verify(b->set, rc, err);
    if (!rc) {
        b->report.dir = a->dir;
        b->report.dtype = b->dtype;
        b->report.kernels = b->compute.k->name;
        b->report.threads = pool_threads(b->compute.pool);
        b->report.rounds = b->rounds;
        b->report.rates = b->rates;
        b->report.rows = all_rows;
        bench_ttm_print(&b->report, a->json, t->out);
    }
    if (b->sweep) mem_unmap(b->sweep, SWEEP_BYTES + 2 * 512 * b->width * sizeof(float));
    mem_unmap(b->scratch, b->scratch_floats * sizeof *b->scratch);
    inspect_ttm_release(&b->layers);
    st_close(b->set);
    pool_free(b->compute.pool);
    free(b);
    return rc;
}
