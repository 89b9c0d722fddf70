/* ttm init: a model directory with random weights, exactly as Hugging Face lays one out. For tests
 * and measurements, which need the shapes of GPT-2 and not its knowledge, and as the start of
 * training. The sizes of the published models are presets; every one of them can be overridden. */
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/tokenizer.h"
#include "engine/gpt2/tokenizer_write.h"
#include "engine/ttm/shape.h"
#include "models/checkpoint.h"
#include "models/init_weights.h"
#include "models/options.h"
#include "models/outdir.h"
#include "models/sizes.h"
#include "models/tool.h"

struct init_args {
    struct sizes sizes;
    const char *dtype, *activation, *tokenizer, *out;
    int64_t seed, threads;
    int64_t ttm_rank; /* 0 = dense */
    const char *ttm_layers;
    bool untied, random_biases, no_mlp_bias, force;
};

#define FIELD(f) offsetof(struct init_args, f)
static const struct option table[] = {
    {"preset", 0, OPTION_STRING, FIELD(sizes.preset), "NAME", 0, 0, SIZES_PRESETS,
     "sizes to begin with (default tiny)"},
    {"layers", 0, OPTION_INT, FIELD(sizes.layers), "N", 1, SIZES_MAX_LAYERS, NULL,
     "transformer blocks"},
    {"channels", 0, OPTION_INT, FIELD(sizes.channels), "N", 1, SIZES_MAX, NULL, "width, n_embd"},
    {"heads", 0, OPTION_INT, FIELD(sizes.heads), "N", 1, SIZES_MAX, NULL,
     "attention heads; divides the channels"},
    {"positions", 0, OPTION_INT, FIELD(sizes.positions), "N", 1, SIZES_MAX, NULL, "context length"},
    {"vocab", 0, OPTION_INT, FIELD(sizes.vocab), "N", 1, SIZES_MAX, NULL, "token ids"},
    {"inner", 0, OPTION_INT, FIELD(sizes.inner), "N", 1, SIZES_MAX, NULL,
     "width of the MLP (default 4 x channels)"},
    {"dtype", 0, OPTION_STRING, FIELD(dtype), "T", 0, 0, "f32|f16|bf16",
     "element type of the file (default f32)"},
    {"activation", 0, OPTION_STRING, FIELD(activation), "A", 0, 0, "gelu_new|gelu|relu",
     "of the MLP (default gelu_new)"},
    {"untied", 0, OPTION_BOOL, FIELD(untied), NULL, 0, 0, NULL,
     "give the LM head weights of its own"},
    {"random-biases", 0, OPTION_BOOL, FIELD(random_biases), NULL, 0, 0, NULL,
     "biases and norms random too: no term of the model vanishes"},
    {"ttm-rank", 0, OPTION_INT, FIELD(ttm_rank), "R", 1, TTM_MAX_RANK, NULL,
     "Tensor-Train layers of this rank, in the shapes of arXiv 2306.02697"},
    {"ttm-layers", 0, OPTION_STRING, FIELD(ttm_layers), "WHICH", 0, 0, "mlp|all",
     "with --ttm-rank: the MLPs' layers (default), or attention's too"},
    {"no-mlp-bias", 0, OPTION_BOOL, FIELD(no_mlp_bias), NULL, 0, 0, NULL,
     "with --ttm-rank: MLPs without biases, as the paper's models of ranks 16 to 64"},
    {"seed", 0, OPTION_INT, FIELD(seed), "N", 0, 9.2e18, NULL, "of the weights (default 0)"},
    {"tokenizer", 0, OPTION_STRING, FIELD(tokenizer), "DIR", 0, 0, NULL,
     "copy the tokenizer of this directory (default: one made up from bytes)"},
    {"threads", 0, OPTION_INT, FIELD(threads), "N", 0, 1024, NULL, "0 = all that may be used"},
    {"force", 0, OPTION_BOOL, FIELD(force), NULL, 0, 0, NULL, "replace a model that is there"},
    {"out", 'o', OPTION_STRING, FIELD(out), "DIR", 0, 0, NULL, "where to write it (required)"},
};
static const struct options options = {
    .command = "init",
    .arguments = "",
    .about =
        "Makes a GPT-2 model directory with random weights: config.json, model.safetensors and\n"
        "a tokenizer. Weights are normal with standard deviation 0.02, norms 1, biases 0.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

static int resolve(const struct init_args *a, struct gpt2_config *cfg, struct err *err)
{
    int rc = sizes_resolve(&a->sizes, cfg, err);
    cfg->activation = (enum act)checkpoint_activation_parse(a->activation);
    cfg->tie_word_embeddings = !a->untied;
    return rc;
}

/* The tokenizer goes first: config.json names its end-of-text token. */
static int put_tokenizer(const struct init_args *a, struct gpt2_config *cfg, const char *dir,
                         struct err *err)
{
    struct tokenizer *t = NULL;
    int rc = a->tokenizer ? 0 : tokenizer_write_bytes(dir, cfg->vocab_size, err);
    if (rc == 0) rc = tokenizer_open(&t, a->tokenizer ? a->tokenizer : dir, err);
    if (rc) return rc;
    if (tokenizer_vocab(t) > cfg->vocab_size)
        rc = err_set_param(err, ERR_INVALID, "vocab",
                           "--vocab: the tokenizer has ids up to %d, the model only up to %d",
                           (int)tokenizer_vocab(t) - 1, cfg->vocab_size - 1);
    cfg->bos_token_id = cfg->eos_token_id = tokenizer_eos(t);
    tokenizer_close(t);
    if (rc == 0 && a->tokenizer) rc = tokenizer_copy_files(a->tokenizer, dir, err);
    return rc;
}

static int put_config(const struct gpt2_config *cfg, enum dtype dtype, const struct outdir *o,
                      struct err *err)
{
    struct buf b = {0};
    checkpoint_config_json(cfg, dtype, &b);
    int rc = outdir_write(o, "config.json", b.data, b.len, err);
    buf_release(&b);
    return rc;
}

static struct init_weights weights(const struct init_args *a, const struct gpt2_config *cfg,
                                   enum dtype dtype)
{
    return (struct init_weights){.cfg = cfg,
                                 .untied = a->untied,
                                 .random_biases = a->random_biases,
                                 .ttm_rank = (int)a->ttm_rank,
                                 .ttm_all = a->ttm_layers && !strcmp(a->ttm_layers, "all"),
                                 .no_mlp_bias = a->no_mlp_bias,
                                 .dtype = dtype,
                                 .seed = (uint64_t)a->seed};
}

static int put_weights(const struct tool *t, const struct init_args *a, struct init_weights *w,
                       const char *dir, struct err *err)
{
    char *path = NULL;
    int rc = pool_new(&w->pool, cpu_threads(&t->cpu, (int)a->threads), err);
    if (rc) return rc;
    path = outdir_join(dir, "model.safetensors");
    rc = init_weights_write(t, w, path, err);
    free(path);
    pool_free(w->pool);
    return rc;
}

int cmd_init(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct init_args a = {.sizes = {.preset = "tiny"}, .dtype = "f32", .activation = "gelu_new"};
    int rc = options_parse(&options, &a, NULL, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    if (!a.out) return err_set_param(err, ERR_MISSING, "out", "--out is missing: where to write");
    enum dtype dtype = !strcmp(a.dtype, "f16")    ? DTYPE_F16
                       : !strcmp(a.dtype, "bf16") ? DTYPE_BF16
                                                  : DTYPE_F32;
    if (a.ttm_layers && !a.ttm_rank)
        return err_set_param(err, ERR_MISSING, "ttm-rank", "--ttm-layers needs --ttm-rank");
    if (a.no_mlp_bias && !a.ttm_rank)
        return err_set_param(err, ERR_INVALID, "no-mlp-bias",
                             "--no-mlp-bias goes with --ttm-rank: dense layers have biases");
    struct gpt2_config cfg;
    struct init_weights w;
    size_t params;
    rc = resolve(&a, &cfg, err);
    if (rc) return rc;
    w = weights(&a, &cfg, dtype);
    rc = init_weights_params(&w, &params, err);
    if (rc) return rc;
    struct outdir o;
    rc = outdir_begin(&o, a.out, a.force, err);
    if (rc) return rc;
    rc = put_tokenizer(&a, &cfg, o.tmp, err);
    if (rc == 0) rc = put_config(&cfg, dtype, &o, err);
    if (rc == 0) rc = put_weights(t, &a, &w, o.tmp, err);
    if (rc == 0) rc = outdir_commit(&o, err);
    if (rc == 0)
        fprintf(t->log, "%s: %zu parameters, %s, seed %lld\n", o.path, params, dtype_name(dtype),
                (long long)a.seed);
    outdir_abort(&o);
    return rc;
}
