/* TTM layers at load: one plan for all of them, then each is rounded, merged and packed.
 *
 * Rounding to the exact ranks costs nothing but time here and is lossless, so that it is always done:
 * the ranks that checkpoints of the paper's kind store on the right are larger than what they span.
 * What is kept resident is F32 whatever floating-point type the file has, unless another is asked for:
 * merged cores are products, and rounding them again makes a score depend on the plan that this machine
 * happens to prefer. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/weights.h"
#include "engine/ttm/rates_file.h"
#include "engine/ttm/round.h"

#define DECODE_ROWS 8
#define PREFILL_ROWS 256
#define DECODE_SHARE 16 /* decode steps to every prefill step: 64 tokens each, 8 at a time */

struct ttm_making {
    struct gpt2 *m;
    const struct weight_fills *fills;
    const struct gpt2_options *o;
    struct ttm_rates rates;
    struct ttm_workload *work; /* (n) */
    struct ttm_shape *shapes;  /* (n) after rounding */
    const char **names;        /* (n) */
    struct ttm_plan (*plans)[TTM_ROLES];
    struct ttm *rounded; /* (n) */
    struct err *errs;    /* (n) of their loading */
    struct ttm_room room;
    _Atomic uint64_t done; /* bytes, as weights_report() counts them */
};

/* Half of a layer's work is done; told by the pool's owner alone, who opens the model. */
static void advance(struct ttm_making *t, size_t i, bool tell)
{
    t->done += (uint64_t)weight_ttm_bytes(&t->fills->ttm[i]) / 2;
    if (tell) weights_report(t->fills, t->o, weight_fills_bytes(t->fills) + (double)t->done);
}

static void set_workload(struct ttm_making *t)
{
    size_t n = t->fills->n_ttm, cores = 0;
    bool automatic = !t->o->ttm_methods && !t->o->memory_budget_bytes;
    t->m->ttm_rows[TTM_DECODE] = t->o->decode_rows ? t->o->decode_rows : DECODE_ROWS;
    t->m->ttm_rows[TTM_PREFILL] = t->o->prefill_rows ? t->o->prefill_rows : PREFILL_ROWS;
    for (size_t i = 0; i < n; i++) {
        const struct ttm_shape *stored = &t->fills->ttm[i].tensors.shape;
        t->shapes[i] = *stored;
        ttm_shape_cap_exact(&t->shapes[i]);
        t->names[i] = t->fills->ttm[i].name;
        t->work[i] = (struct ttm_workload){.dtype = t->fills->ttm_dtype,
                                           .share = {DECODE_SHARE, 1},
                                           .layers = (int)n,
                                           .other_bytes = t->m->weight_bytes,
                                           .methods = t->o->ttm_methods,
                                           .below_dense = automatic};
        for (int r = 0; r < TTM_ROLES; r++)
            t->work[i].rows[r] = (size_t)t->m->ttm_rows[r];
        cores += ttm_shape_params(stored);
        t->m->n_params_rounded += ttm_shape_params(&t->shapes[i]);
        t->m->n_params_dense += ttm_shape_dense(stored);
    }
    t->m->n_params_rounded += t->m->n_params - cores;
    t->m->n_params_dense += t->m->n_params - cores;
}

static int get_rates(struct ttm_making *t, const struct compute *c, struct err *err)
{
    const struct cpu any = {0};
    struct buf machine = {0}, path = {0};
    const char *file = t->o->rates_file;
    if (t->o->rates) {
        t->rates = *t->o->rates;
        return 0;
    }
    enum dtype held = t->fills->ttm_dtype;
    ttm_rates_machine(&machine, t->o->cpu ? t->o->cpu : &any, c, held);
    if (file && strcmp(file, "auto") == 0) file = ttm_rates_path(&path, c, held) ? path.data : NULL;
    int rc = ttm_rates_get(&t->rates, held, c, file, machine.data, NULL, err);
    buf_release(&machine);
    buf_release(&path);
    return rc;
}

/* In the numbers that the operator knows: of the whole model. */
static int refuse_budget(const struct ttm_making *t, size_t least, struct err *err)
{
    size_t rest = t->m->weight_bytes;
    return err_set_param(err, ERR_INVALID, "memory_budget_bytes",
                         "memory_budget_bytes is %zu, but the weights take at least %zu: %zu TTM "
                         "layers %zu, the rest %zu",
                         t->o->memory_budget_bytes, rest + least, t->fills->n_ttm, least, rest);
}

static int plan(struct ttm_making *t, const struct compute *c, struct err *err)
{
    size_t n = t->fills->n_ttm, budget = t->o->memory_budget_bytes, rest = t->m->weight_bytes;
    if (budget && budget <= rest)
        return err_set_param(err, ERR_INVALID, "memory_budget_bytes",
                             "memory_budget_bytes is %zu, but the weights that are not TTM take "
                             "%zu already",
                             budget, rest);
    int rc = get_rates(t, c, err);
    if (rc) return rc;
    struct err why = {0};
    size_t least = 0;
    rc = ttm_plan_model(t->plans, t->shapes, (int)n, t->work, budget ? budget - rest : 0, &least,
                        &t->rates, t->names, &why);
    if (rc && least) return refuse_budget(t, least, err);
    return rc ? err_set(err, rc, "%s", why.msg) : 0;
}

/* Each layer's values, rounded: single-threaded work, layer by layer over the pool. */
static void load_layers(void *arg, size_t begin, size_t end, int worker)
{
    struct ttm_making *t = arg;
    for (size_t i = begin; i < end; i++) {
        const struct weight_ttm *f = &t->fills->ttm[i];
        struct ttm stored = {0};
        int rc = ttm_tensors_load(&stored, &f->tensors, f->name, &t->errs[i]);
        for (int k = 0; k < f->tensors.shape.d; k++)
            st_drop(f->tensors.core[k]);
        bool exact = memcmp(&f->tensors.shape, &t->shapes[i], sizeof t->shapes[i]) == 0;
        if (!rc && exact) {
            t->rounded[i] = stored;
        } else if (!rc) {
            ttm_round_exact(&t->rounded[i], &stored, f->name, &t->errs[i]);
            ttm_release(&stored);
        }
        advance(t, i, worker == 0);
    }
}

static int make_layer(struct ttm_making *t, size_t i, const struct compute *c, struct err *err)
{
    const struct weight_ttm *f = &t->fills->ttm[i];
    int rc = t->errs[i].code;
    if (rc) *err = t->errs[i];
    if (!rc)
        rc = ttm_linear_new_in(&f->linear->ttm, &t->rounded[i], t->plans[i], t->fills->ttm_dtype, c,
                               &t->room, f->name, err);
    ttm_release(&t->rounded[i]);
    if (rc) return rc;
    struct gpt2_ttm *out = &t->m->ttm[i];
    *out = (struct gpt2_ttm){.linear = f->linear, .stored = f->tensors.shape};
    memcpy(out->name, f->name, sizeof out->name);
    for (int r = 0; r < TTM_ROLES; r++)
        out->seconds[r] = ttm_plan_seconds(&t->plans[i][r], &t->shapes[i], t->work[i].rows[r],
                                           &t->work[i], &t->rates);
    t->m->weight_bytes += ttm_linear_bytes(f->linear->ttm);
    advance(t, i, true);
    return 0;
}

int weights_make_ttm(struct gpt2 *m, const struct weight_fills *fills, const struct compute *c,
                     const struct gpt2_options *o, struct err *err)
{
    size_t n = fills->n_ttm;
    struct ttm_making t = {.m = m, .fills = fills, .o = o};
    m->n_params_rounded = m->n_params_dense = 0;
    t.work = mem_calloc(n + 1, sizeof *t.work);
    t.shapes = mem_calloc(n + 1, sizeof *t.shapes);
    t.names = mem_calloc(n + 1, sizeof *t.names);
    t.plans = mem_calloc(n + 1, sizeof *t.plans);
    m->ttm = mem_calloc(n + 1, sizeof *m->ttm);
    set_workload(&t);
    t.rounded = mem_calloc(n + 1, sizeof *t.rounded);
    t.errs = mem_calloc(n + 1, sizeof *t.errs);
    int rc = n ? plan(&t, c, err) : 0;
    if (!rc) pool_for(c->pool, n, 1, load_layers, &t);
    for (size_t i = 0; !rc && i < n; i++)
        rc = make_layer(&t, i, c, err);
    if (!rc) m->n_ttm = (int)n;
    m->ttm_dtype = fills->ttm_dtype;
    for (size_t i = 0; i < n; i++)
        ttm_release(&t.rounded[i]);
    ttm_room_release(&t.room);
    free(t.rounded);
    free(t.errs);
    free(t.work);
    free(t.shapes);
    free(t.names);
    free(t.plans);
    return rc;
}
