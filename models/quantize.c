/* ttm quantize: weights as 8-bit numbers, a quarter of the file. Nothing is decided here that loading with
 * the number format int8 would not decide: the same numbers, made once. Layers that lose too much can stay
 * as they are. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "models/options.h"
#include "models/rewrite.h"

struct quantize_args {
    const char *out, *layers;
    bool force;
};

#define FIELD(f) offsetof(struct quantize_args, f)
static const struct option table[] = {
    REWRITE_OUT_OPTION(FIELD(out)),
    {"layers", 0, OPTION_STRING, FIELD(layers), "LAYERS", 0, 0, NULL,
     "mlp, all (default), or globs like h.*.mlp.c_fc, comma separated; others stay as they are"},
    REWRITE_FORCE_OPTION(FIELD(force)),
};
static const struct options options = {
    .command = "quantize",
    .arguments = "DIR",
    .n_arguments = 1,
    .about =
        "Writes the model in DIR with 8-bit weights: dense layers, token embedding and LM head as "
        "I8\n"
        "tensors, each with a scale for every output. Tensor-Train layers keep their cores; they "
        "are\n"
        "computed with in 8 bits when the model is loaded.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

/* A classifier is read by `ttm eval --task` and `ttm train` alone, and they compute in f32. */
static int check_kind(const struct layers *l, struct err *err)
{
    for (size_t i = 0; i < st_count(l->set); i++) {
        const struct st_tensor *t = st_at(l->set, i);
        if (strcmp(ttm_tensors_key(t->name), "score.weight") == 0)
            return err_set(err, ERR_UNSUPPORTED,
                           "%s: tensor %s is the head of a classifier: what evaluates one, `ttm "
                           "eval --task`, reads F32, F16 and BF16, but no 8-bit weights",
                           t->file, t->name);
    }
    return 0;
}

int cmd_quantize(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct quantize_args a = {.layers = "all"};
    struct layers l;
    struct outdir o = {0};
    const char *dir;
    int rc = options_parse(&options, &a, &dir, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    if (!a.out) return err_set_param(err, ERR_MISSING, "out", "--out is missing: where to write");
    rc = layers_open(&l, dir, err);
    if (rc) return rc;
    bool *chosen = mem_calloc(l.n + 1, sizeof *chosen);
    rc = check_kind(&l, err);
    if (!rc) rc = layers_select(&l, a.layers, chosen, err);
    if (!rc) rc = outdir_begin(&o, a.out, a.force, err);
    const struct rewrite r = {.from = &l, .dtype = -1, .int8 = chosen};
    if (!rc) rc = rewrite_model(t, &r, &o, err);
    if (!rc) rc = outdir_commit(&o, err);
    if (!rc) fprintf(t->log, "%s: 8-bit weights\n", o.path);
    outdir_abort(&o);
    free(chosen);
    layers_close(&l);
    return rc;
}
