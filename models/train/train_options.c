/* The flags of `ttm train` as a table, and the few rules between them. */
#include "models/train/train_options.h"

#include <string.h>

#include "models/eval_data.h"

#define FIELD(f) offsetof(struct train_args, f)
#define FLAG_INT(name, f, min, max, help)                        \
    {                                                            \
        name, 0, OPTION_INT, FIELD(f), "N", min, max, NULL, help \
    }
#define FLAG_NUMBER(name, f, min, max, help)                        \
    {                                                               \
        name, 0, OPTION_NUMBER, FIELD(f), "X", min, max, NULL, help \
    }
#define FLAG_TEXT(name, f, value, help)                           \
    {                                                             \
        name, 0, OPTION_STRING, FIELD(f), value, 0, 0, NULL, help \
    }
#define FLAG_CHOICE(name, f, choices, help)                           \
    {                                                                 \
        name, 0, OPTION_STRING, FIELD(f), "NAME", 0, 0, choices, help \
    }
#define FLAG_BOOL(name, f, help)                               \
    {                                                          \
        name, 0, OPTION_BOOL, FIELD(f), NULL, 0, 0, NULL, help \
    }
#define MANY 1e15

static const struct option table[] = {
    FLAG_TEXT("data", data, "FILE", "plain text to train on; of a task, its train.tsv (required)"),
    FLAG_TEXT("valid", valid, "FILE", "the same to validate with; of a task, its dev.tsv"),
    FLAG_CHOICE("task", task, EVAL_LABEL_TASKS, "train a classifier for this task of GLUE"),
    {"out", 'o', OPTION_STRING, FIELD(out), "DIR", 0, 0, NULL, "where the model goes (required)"},
    FLAG_TEXT("from", from, "DIR", "go on from this model, dense or TTM, with new moments"),
    FLAG_TEXT("config", config, "DIR", "sizes from this directory's config.json"),
    FLAG_CHOICE("preset", sizes.preset, SIZES_PRESETS, "sizes to begin with (default tiny)"),
    FLAG_INT("layers", sizes.layers, 1, SIZES_MAX_LAYERS, "transformer blocks"),
    FLAG_INT("channels", sizes.channels, 1, SIZES_MAX, "width, n_embd"),
    FLAG_INT("heads", sizes.heads, 1, SIZES_MAX, "attention heads; divides the channels"),
    FLAG_INT("positions", sizes.positions, 1, SIZES_MAX, "context length"),
    FLAG_INT("vocab", sizes.vocab, 1, SIZES_MAX, "token ids (default: the tokenizer's)"),
    FLAG_INT("inner", sizes.inner, 1, SIZES_MAX, "width of the MLP (default 4 x channels)"),
    FLAG_CHOICE("activation", activation, "gelu_new|gelu|relu", "of the MLP (default gelu_new)"),
    FLAG_TEXT("tokenizer", tokenizer, "DIR", "tokenizer (default: that of --from)"),
    FLAG_INT("ttm-rank", ttm_rank, 1, 1 << 20, "TTM layers of this rank, in the paper's shape"),
    FLAG_TEXT("ttm-shape", ttm_shape, "S", "shape of c_fc, \"(4,512)(192,6)\"; c_proj mirrors it"),
    FLAG_CHOICE("ttm-layers", ttm_layers, "mlp|all", "which layers are TTM (default mlp)"),
    FLAG_CHOICE("ttm-route", ttm_route, "auto|dense|cores",
                "gradients by dW, by contractions, or the cheaper way (default auto)"),
    FLAG_INT("steps", steps, 1, MANY, "optimiser steps in all"),
    FLAG_NUMBER("epochs", epochs, 0, 1e6, "passes over the text in all"),
    FLAG_NUMBER("minutes", minutes, 0, 1e6, "time in steps in all; the schedule follows the clock"),
    FLAG_INT("batch", batch, 1, 65536, "sequences computed together (default 8)"),
    FLAG_INT("block", block, 1, SIZES_MAX,
             "tokens of a sequence (default: positions, at most 256; of a task its longest)"),
    FLAG_INT("accumulate", accumulate, 1, 65536, "batches of one optimiser step (default 1)"),
    FLAG_NUMBER("lr", lr, 0, 10, "learning rate after warm-up (default 6e-4)"),
    FLAG_NUMBER("min-lr", min_lr, 0, 1, "at the end of the cosine, as a share (default 0.1)"),
    FLAG_INT("warmup", warmup, 0, MANY, "steps of linear warm-up (default 100)"),
    FLAG_NUMBER("beta1", beta1, 0, 0.999999, "of AdamW (default 0.9)"),
    FLAG_NUMBER("beta2", beta2, 0, 0.999999, "of AdamW (default 0.95)"),
    FLAG_NUMBER("eps", eps, 1e-30, 1, "of AdamW (default 1e-8)"),
    FLAG_NUMBER("decay", decay, 0, 10, "of weights, not of norms and biases (default 0.1)"),
    FLAG_NUMBER("clip", clip, 0, 1e9, "largest norm of the gradient, 0 = any (default 1)"),
    FLAG_NUMBER("dropout", dropout, 0, 0.99, "of embeddings, attention, residuals (default 0)"),
    FLAG_BOOL("plain-rates", plain_rates, "cores learn at the plain learning rate"),
    FLAG_TEXT("teacher", teacher, "DIR", "learn from this model's distribution, too"),
    FLAG_NUMBER("temperature", temperature, 0.01, 100, "of teacher and student (default 2)"),
    FLAG_NUMBER("teacher-weight", teacher_weight, 0, 1, "share of the teacher (default 0.5)"),
    FLAG_INT("eval-every", eval_every, 1, MANY, "steps between validations (default 250)"),
    FLAG_INT("save-every", save_every, 1, MANY, "steps between checkpoints (default 250)"),
    FLAG_INT("valid-tokens", valid_tokens, 1, MANY, "of a validation (default 65536)"),
    FLAG_CHOICE("dtype", dtype, "f32|f16|bf16", "element type of the model written (default f32)"),
    FLAG_INT("seed", seed, 0, 9.2e18, "of weights, order and dropout (default 0)"),
    FLAG_INT("threads", threads, 0, 1024, "compute threads; 0 = all that may be used"),
    FLAG_TEXT("kernels", kernels, "NAME", "instruction set: scalar, avx2, avx512, neon"),
    FLAG_BOOL("recompute", recompute, "keep less, compute blocks twice: for long blocks"),
    FLAG_BOOL("resume", resume, "go on where the run in --out stopped"),
    FLAG_BOOL("force", force, "start over in --out, whatever run is there"),
};

static const struct options options = {
    .command = "train",
    .arguments = "",
    .about =
        "Trains a GPT-2, dense or with TTM layers, on plain text in which lines that hold\n"
        "\"<|endoftext|>\" separate documents; with --task, a classifier of sentences. --out "
        "becomes a model directory: the best\n"
        "checkpoint so far, with log.jsonl (see ttm plot) and train.state for --resume.\n"
        "SIGINT and SIGTERM save and end the run.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

/* A flag that says what --from or --config brings would be read and forgotten. */
static int check_sizes(const struct train_args *a, struct err *err)
{
    const struct sizes *s = &a->sizes;
    const struct {
        const char *name;
        bool given, in_config; /* --config brings it, too */
    } flags[] = {{"config", a->config != NULL, false},
                 {"preset", s->preset != NULL, true},
                 {"layers", s->layers != 0, true},
                 {"channels", s->channels != 0, true},
                 {"heads", s->heads != 0, true},
                 {"positions", s->positions != 0, true},
                 {"vocab", s->vocab != 0, true},
                 {"inner", s->inner != 0, true},
                 {"activation", a->activation != NULL, true},
                 {"ttm-rank", a->ttm_rank != 0, false},
                 {"ttm-shape", a->ttm_shape != NULL, false},
                 {"ttm-layers", a->ttm_layers != NULL, false}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (!flags[i].given) continue;
        if (a->from)
            return err_set_param(err, ERR_INVALID, flags[i].name,
                                 "--from brings the model's shapes: no --%s", flags[i].name);
        if (a->config && flags[i].in_config)
            return err_set_param(err, ERR_INVALID, flags[i].name,
                                 "--config brings the model's sizes: no --%s", flags[i].name);
    }
    if ((a->ttm_shape || a->ttm_layers) && !a->ttm_rank)
        return err_set_param(err, ERR_MISSING, "ttm-rank", "--ttm-%s needs --ttm-rank",
                             a->ttm_shape ? "shape" : "layers");
    return 0;
}

static int check(const struct train_args *a, struct err *err)
{
    if (!a->data) return err_set_param(err, ERR_MISSING, "data", "--data is missing: a text file");
    if (!a->out)
        return err_set_param(err, ERR_MISSING, "out", "--out is missing: where the model goes");
    if (!a->steps && a->epochs <= 0 && a->minutes <= 0)
        return err_set_param(err, ERR_MISSING, "steps",
                             "how long? one of --steps, --epochs, --minutes is needed");
    if (a->steps && a->epochs > 0)
        return err_set_param(err, ERR_INVALID, "epochs", "--steps and --epochs exclude each other");
    if (!a->from && !a->tokenizer)
        return err_set_param(err, ERR_MISSING, "tokenizer",
                             "--tokenizer is missing: a directory with a tokenizer");
    if (a->task && a->teacher)
        return err_set_param(err, ERR_INVALID, "teacher", "--task goes without --teacher");
    if (a->resume && a->force)
        return err_set_param(err, ERR_INVALID, "force", "--resume and --force exclude each other");
    return check_sizes(a, err);
}

int train_options_parse(struct train_args *a, int argc, char **argv, FILE *help, struct err *err)
{
    *a = (struct train_args){.ttm_route = "auto",
                             .batch = 8,
                             .accumulate = 1,
                             .lr = 6e-4,
                             .min_lr = 0.1,
                             .warmup = 100,
                             .beta1 = 0.9,
                             .beta2 = 0.95,
                             .eps = 1e-8,
                             .decay = 0.1,
                             .clip = 1,
                             .temperature = 2,
                             .teacher_weight = 0.5,
                             .eval_every = 250,
                             .save_every = 250,
                             .valid_tokens = 65536,
                             .dtype = "f32"};
    int rc = options_parse(&options, a, NULL, argc, argv, help, err);
    if (!rc) rc = check(a, err);
    if (!a->sizes.preset) a->sizes.preset = "tiny";
    if (!a->activation) a->activation = "gelu_new";
    if (!a->ttm_layers) a->ttm_layers = "mlp";
    return rc;
}
