/* ttm compress: fully connected layers of a model become Tensor-Train matrices. Everything that can be
 * refused is refused before the long work begins, the output directory's name included; the result
 * appears whole at the end. Perplexities are those of `ttm eval`, the second one of the directory that
 * was written: if computing it fails, the compressed model is there nevertheless. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "models/compress.h"
#include "models/moments.h"
#include "models/outdir.h"
#include "models/rewrite.h"
#include "models/score.h"

struct compress_args {
    const char *out, *layers, *calibrate, *dtype, *eval;
    struct option_list shapes;
    int64_t rank, calibrate_tokens, threads; /* 0 = not given */
    double error, params;                    /* < 0: not given */
    bool force;
};

#define FIELD(f) offsetof(struct compress_args, f)
static const struct option table[] = {
    REWRITE_OUT_OPTION(FIELD(out)),
    {"layers", 0, OPTION_STRING, FIELD(layers), "mlp|all|PATTERN", 0, 0, NULL,
     "which; globs on names like \"h.*.mlp.c_fc,h.0.attn.*\" (required)"},
    {"rank", 0, OPTION_INT, FIELD(rank), "R", 1, TTM_MAX_RANK, NULL,
     "of every bond, as far as it has so many"},
    {"error", 0, OPTION_NUMBER, FIELD(error), "E", 0, 1, NULL,
     "of each layer, |W - W'| / |W| in Frobenius' norm; 0 = exact"},
    {"params", 0, OPTION_NUMBER, FIELD(params), "FRACTION", 0, 1, NULL,
     "of the whole dense model's parameters, embeddings included"},
    {"shape", 0, OPTION_LIST, FIELD(shapes), "auto|paper|SHAPE", 0, 0, NULL,
     "see above; may be given several times (default auto)"},
    {"calibrate", 0, OPTION_STRING, FIELD(calibrate), "FILE", 0, 0, NULL,
     "a text: make the layers' outputs on it right, not the weights"},
    {"calibrate-tokens", 0, OPTION_INT, FIELD(calibrate_tokens), "N", 1, 1ll << 40, NULL,
     "only so many tokens of it (default 65536)"},
    REWRITE_DTYPE_OPTION(FIELD(dtype)),
    {"eval", 0, OPTION_STRING, FIELD(eval), "FILE", 0, 0, NULL,
     "perplexity of this text before and after"},
    {"threads", 0, OPTION_INT, FIELD(threads), "N", 0, 1024, NULL, "0 = all that may be used"},
    REWRITE_FORCE_OPTION(FIELD(force)),
};
static const struct options options = {
    .command = "compress",
    .arguments = "DIR",
    .n_arguments = 1,
    .about =
        "Turns fully connected layers of the model in DIR into Tensor-Train matrices, by --rank,\n"
        "by --error, or by --params for the model as a whole, which goes where it removes most\n"
        "error. Layers that are Tensor-Train matrices already stay as they are.\n\n"
        "--shape \"(4,512)(192,6)\" has inputs 4*192 and outputs 512*6, one pair per core; a "
        "layer\n"
        "takes the first shape that fits, also with inputs and outputs exchanged (c_proj). paper:\n"
        "the factorisation of the TTM paper for this rank. auto: with --rank the smallest shape\n"
        "that needs no more multiplications than dense and lets W have full rank (see ttm\n"
        "shapes); with --error or --params the better, for each layer, of such a shape (of the\n"
        "highest rank that its share of the parameters allows) and plain low rank.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

static int check_flags(const struct compress_args *a, struct compress *c, struct err *err)
{
    int goals = (a->rank > 0) + (a->error >= 0) + (a->params >= 0);
    if (!a->out) return err_set_param(err, ERR_MISSING, "out", "--out is missing: where to write");
    if (!a->layers)
        return err_set_param(err, ERR_MISSING, "layers",
                             "--layers is missing: mlp, all, or patterns like h.*.mlp.c_fc");
    if (goals != 1)
        return err_set_param(err, goals ? ERR_INVALID : ERR_MISSING, "rank",
                             "one of --rank, --error and --params is needed, %d are given", goals);
    c->goal = a->rank > 0 ? COMPRESS_RANK : a->error >= 0 ? COMPRESS_ERROR : COMPRESS_PARAMS;
    c->rank = (int)a->rank;
    c->max_error = a->error;
    c->threads = (int)a->threads;
    c->dtype = rewrite_dtype(a->dtype);
    return 0;
}

/* The layers chosen, without those that are TTM already. */
static int choose(struct compress *c, const char *patterns, bool *chosen, struct err *err)
{
    const struct layers *l = c->from;
    int rc = layers_select(l, patterns, chosen, err), skipped = 0;
    c->list = mem_calloc(l->n, sizeof *c->list);
    for (size_t i = 0; !rc && i < l->n; i++) {
        if (!chosen[i]) continue;
        chosen[i] = l->layer[i].weight != NULL;
        if (chosen[i])
            c->list[c->n++].layer = &l->layer[i];
        else
            skipped++;
    }
    if (skipped)
        fprintf(c->tool->log, "%d of the layers chosen are Tensor-Train matrices and stay so\n",
                skipped);
    if (!rc && c->n == 0)
        rc = err_set_param(err, ERR_INVALID, "layers",
                           "--layers: \"%.80s\": all of these layers are Tensor-Train matrices "
                           "already; ttm round makes them smaller",
                           patterns);
    return rc;
}

/* What the budget for the whole model leaves to the layers chosen. */
static int set_budget(struct compress *c, double fraction, struct err *err)
{
    size_t stored, dense;
    if (c->goal != COMPRESS_PARAMS) return 0;
    layers_params(c->from, &stored, &dense);
    for (int i = 0; i < c->n; i++)
        stored -= layers_stored(c->list[i].layer);
    size_t total = (size_t)(fraction * (double)dense);
    if (total <= stored)
        return err_set_param(err, ERR_INVALID, "params",
                             "--params: %g of the model's %zu parameters are %zu, but what is not "
                             "compressed has %zu already (%.4f)",
                             fraction, dense, total, stored, (double)stored / (double)dense);
    c->budget = total - stored;
    return 0;
}

static int write_model(const struct compress *c, const struct outdir *o, struct err *err)
{
    const struct ttm **cores = mem_calloc(c->from->n, sizeof *cores);
    for (int i = 0; i < c->n; i++)
        cores[c->list[i].layer - c->from->layer] = &c->list[i].cores;
    struct rewrite r = {.from = c->from, .cores = cores, .dtype = c->dtype};
    int rc = rewrite_model(c->tool, &r, o, err);
    free(cores);
    return rc;
}

static int score(struct score *out, const struct compress *c, const char *dir,
                 const struct score_text *text, struct err *err)
{
    struct score_options o = {.session = SESSION_FLAGS_DEFAULT};
    o.session.threads = c->threads;
    return score_model(out, c->tool, dir, text, &o, err);
}

/* The texts that flags name; empty without. */
struct texts {
    struct score_text calibrate, eval;
};

static int read_texts(struct texts *x, const struct compress_args *a, struct err *err)
{
    int rc = a->calibrate ? score_text_read(&x->calibrate, a->calibrate, err) : 0;
    if (!rc && a->eval) rc = score_text_read(&x->eval, a->eval, err);
    return rc;
}

static int work(struct compress *c, const struct compress_args *a, const bool *chosen,
                const struct texts *x, struct outdir *o, struct err *err)
{
    struct moments m = {0};
    struct score before = {0}, after = {0};
    int rc = 0;
    if (a->eval) rc = score(&before, c, c->from->dir, &x->eval, err);
    if (!rc && a->calibrate)
        rc = moments_collect(&m, c->tool, c->from, chosen, &x->calibrate,
                             (size_t)a->calibrate_tokens, c->threads, err);
    for (int i = 0; !rc && m.s && i < c->n; i++)
        c->list[i].moments = m.s[c->list[i].layer - c->from->layer];
    if (!rc) rc = compress_decompose(c, err);
    if (!rc) rc = write_model(c, o, err);
    if (!rc) rc = outdir_commit(o, err);
    if (!rc) compress_report(c, c->tool->out);
    moments_release(&m);
    if (rc || !a->eval) return rc;
    fflush(c->tool->out);
    rc = score(&after, c, o->path, &x->eval, err);
    if (!rc)
        fprintf(c->tool->out, "perplexity     %.4f before, %.4f after (%zu tokens of %s)\n",
                before.stats.perplexity, after.stats.perplexity, after.sums.scored, a->eval);
    return rc;
}

static int compress(struct compress *c, const struct compress_args *a, struct err *err)
{
    bool *chosen = mem_calloc(c->from->n, sizeof *chosen);
    struct texts x = {0};
    struct outdir o = {0};
    int rc = choose(c, a->layers, chosen, err);
    if (!rc) rc = set_budget(c, a->params, err);
    if (!rc) rc = read_texts(&x, a, err);
    if (!rc) rc = compress_shapes(c, &a->shapes, err);
    if (!rc) rc = outdir_begin(&o, a->out, a->force, err);
    if (!rc) rc = work(c, a, chosen, &x, &o, err);
    outdir_abort(&o);
    for (int i = 0; i < c->n; i++) {
        ttm_release(&c->list[i].cores);
        ttm_spectrum_release(&c->list[i].spectrum);
    }
    free(c->list);
    buf_release(&x.calibrate.bytes);
    buf_release(&x.eval.bytes);
    free(chosen);
    return rc;
}

int cmd_compress(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct compress_args a = {.error = -1, .params = -1, .calibrate_tokens = 65536};
    struct compress c = {.tool = t};
    struct layers l;
    const char *dir;
    int rc = options_parse(&options, &a, &dir, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    rc = check_flags(&a, &c, err);
    if (!rc) rc = layers_open(&l, dir, err);
    if (rc) return rc;
    c.from = &l;
    rc = compress(&c, &a, err);
    layers_close(&l);
    return rc;
}
