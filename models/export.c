/* ttm export: back to a dense model, for programs that know nothing of Tensor-Train matrices. */
#include "models/options.h"
#include "models/rewrite.h"

struct export_args {
    const char *out, *dtype;
    bool force;
};

#define FIELD(f) offsetof(struct export_args, f)
static const struct option table[] = {
    REWRITE_OUT_OPTION(FIELD(out)),
    REWRITE_DTYPE_OPTION(FIELD(dtype)),
    REWRITE_FORCE_OPTION(FIELD(force)),
};
static const struct options options = {
    .command = "export",
    .arguments = "DIR",
    .n_arguments = 1,
    .about =
        "Writes the model in DIR as a dense one: Tensor-Train matrices are multiplied out, biases\n"
        "that are missing become zeros. The result is what Hugging Face's GPT-2 loads.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

int cmd_export(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct export_args a = {0};
    struct layers l;
    struct outdir o = {0};
    const char *dir;
    int rc = options_parse(&options, &a, &dir, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    if (!a.out) return err_set_param(err, ERR_MISSING, "out", "--out is missing: where to write");
    rc = layers_open(&l, dir, err);
    if (rc) return rc;
    rc = outdir_begin(&o, a.out, a.force, err);
    struct rewrite r = {.from = &l, .dense = true, .dtype = rewrite_dtype(a.dtype)};
    if (!rc) rc = rewrite_model(t, &r, &o, err);
    if (!rc) rc = outdir_commit(&o, err);
    size_t stored, dense;
    layers_params(&l, &stored, &dense);
    if (!rc) fprintf(t->log, "%s: %zu parameters, from %zu\n", o.path, dense, stored);
    outdir_abort(&o);
    layers_close(&l);
    return rc;
}
