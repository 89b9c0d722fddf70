/* ttm round: the same Tensor-Train layers with smaller ranks. Without --error nothing is lost: ranks beyond
 * what the cores on either side span are cut, and a layer that has none is copied as it is, byte for
 * byte, because even a lossless change of basis is rounded when it is stored. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/ttm/round.h"
#include "models/options.h"
#include "models/progress.h"
#include "models/rewrite.h"

struct round_args {
    const char *out;
    double error; /* < 0: not given */
    bool force;
};

#define FIELD(f) offsetof(struct round_args, f)
static const struct option table[] = {
    REWRITE_OUT_OPTION(FIELD(out)),
    {"error", 0, OPTION_NUMBER, FIELD(error), "E", 0, 1, NULL,
     "relative Frobenius error allowed for each layer (default none)"},
    REWRITE_FORCE_OPTION(FIELD(force)),
};
static const struct options options = {
    .command = "round",
    .arguments = "DIR",
    .n_arguments = 1,
    .about =
        "Brings the ranks of Tensor-Train layers down: to what they can be without any loss, or\n"
        "with --error as far as that allows.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

struct rounded {
    const struct layer *layer;
    struct ttm_shape was;
    struct ttm cores; /* owned; empty: stays as it is */
    double error;
};

static int round_layer(struct rounded *x, double max_error, struct err *err)
{
    struct ttm w;
    struct ttm64 q = {0};
    int rc = ttm_tensors_load(&w, &x->layer->ttm, x->layer->name, err);
    if (rc) return rc;
    x->was = w.shape;
    struct ttm_shape cap = w.shape;
    ttm_shape_cap_exact(&cap);
    if (max_error < 0 && !memcmp(&cap, &w.shape, sizeof cap)) goto out;
    rc = ttm64_from(&q, &w, err);
    if (!rc)
        rc = max_error < 0 ? ttm64_round_exact(&q, err)
                           : ttm64_round(&q, max_error, NULL, &x->error, err);
    if (!rc) rc = ttm64_to(&x->cores, &q, x->layer->name, err);
out:
    ttm64_release(&q);
    ttm_release(&w);
    return rc;
}

static void report(const struct rounded *x, int n, const struct layers *l, FILE *f)
{
    size_t before = 0, after = 0, stored, dense;
    fprintf(f, "%-17s %-32s %-20s %-20s %10s %10s %9s\n", "layer", "shape", "ranks", "rounded",
            "parameters", "rounded", "error");
    for (int i = 0; i < n; i++) {
        const struct ttm_shape *now = x[i].cores.storage ? &x[i].cores.shape : &x[i].was;
        char shape[TTM_SHAPE_TEXT], was[TTM_SHAPE_TEXT], ranks[TTM_SHAPE_TEXT];
        ttm_shape_format(now, shape);
        ttm_shape_format_ranks(&x[i].was, was);
        ttm_shape_format_ranks(now, ranks);
        fprintf(f, "%-17s %-32s %-20s %-20s %10zu %10zu %9.6f\n", x[i].layer->name, shape, was,
                ranks, ttm_shape_params(&x[i].was), ttm_shape_params(now), x[i].error);
        before += ttm_shape_params(&x[i].was);
        after += ttm_shape_params(now);
    }
    layers_params(l, &stored, &dense);
    fprintf(f, "\n%d layers      %zu parameters, were %zu\n", n, after, before);
    fprintf(f, "model          %zu parameters, were %zu; dense %zu\n", stored - before + after,
            stored, dense);
}

static int round_layers(const struct tool *t, struct rounded *x, int n, double max_error,
                        struct err *err)
{
    struct progress bar;
    int rc = 0;
    progress_start(&bar, t->log, "rounding");
    for (int i = 0; !rc && i < n; i++) {
        rc = tool_stopped(t) ? tool_interrupted(err) : round_layer(&x[i], max_error, err);
        progress_set(&bar, (double)(i + 1) / n, x[i].layer->name);
    }
    progress_end(&bar);
    return rc;
}

static int round_model(const struct tool *t, const struct layers *l, const struct round_args *a,
                       struct err *err)
{
    struct rounded *x = mem_calloc(l->n, sizeof *x);
    const struct ttm **cores = mem_calloc(l->n, sizeof *cores);
    struct outdir o = {0};
    int n = 0, rc = 0;
    for (size_t i = 0; i < l->n; i++)
        if (!l->layer[i].weight) x[n++].layer = &l->layer[i];
    if (n == 0) rc = err_set(err, ERR_INVALID, "%s has no Tensor-Train layers", l->dir);
    if (!rc) rc = outdir_begin(&o, a->out, a->force, err);
    if (!rc) rc = round_layers(t, x, n, a->error, err);
    for (int i = 0; !rc && i < n; i++)
        if (x[i].cores.storage) cores[x[i].layer - l->layer] = &x[i].cores;
    struct rewrite r = {.from = l, .cores = cores, .dtype = -1};
    if (!rc) rc = rewrite_model(t, &r, &o, err);
    if (!rc) rc = outdir_commit(&o, err);
    if (!rc) report(x, n, l, t->out);
    outdir_abort(&o);
    for (int i = 0; i < n; i++)
        ttm_release(&x[i].cores);
    free(cores);
    free(x);
    return rc;
}

int cmd_round(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct round_args a = {.error = -1};
    struct layers l;
    const char *dir;
    int rc = options_parse(&options, &a, &dir, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    if (!a.out) return err_set_param(err, ERR_MISSING, "out", "--out is missing: where to write");
    rc = layers_open(&l, dir, err);
    if (rc) return rc;
    rc = round_model(t, &l, &a, err);
    layers_close(&l);
    return rc;
}
