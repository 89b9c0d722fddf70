/* GPT-2's tensors as a table, so that names, shapes and counts are said once. Order: embeddings,
 * the layers, the final norm, and the head when it is not the token embedding itself. Weights of
 * linear layers are (in, out), as GPT-2's Conv1D stores them; the head is (V, C) like wte. */
#include "models/checkpoint.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/err.h"

/* Dimensions by name, so that a row of the table reads like the model's definition. */
enum dim { NONE, C, C3, INNER, V, P };

struct row {
    const char *name;
    enum checkpoint_kind kind;
    enum dim dims[2];
};

static const struct row before[] = {
    {"wte.weight", CHECKPOINT_WEIGHT, {V, C}},
    {"wpe.weight", CHECKPOINT_WEIGHT, {P, C}},
};
static const struct row layer[] = {
    {"ln_1.weight", CHECKPOINT_NORM_WEIGHT, {C, NONE}},
    {"ln_1.bias", CHECKPOINT_BIAS, {C, NONE}},
    {"attn.c_attn.weight", CHECKPOINT_WEIGHT, {C, C3}},
    {"attn.c_attn.bias", CHECKPOINT_BIAS, {C3, NONE}},
    {"attn.c_proj.weight", CHECKPOINT_WEIGHT, {C, C}},
    {"attn.c_proj.bias", CHECKPOINT_BIAS, {C, NONE}},
    {"ln_2.weight", CHECKPOINT_NORM_WEIGHT, {C, NONE}},
    {"ln_2.bias", CHECKPOINT_BIAS, {C, NONE}},
    {"mlp.c_fc.weight", CHECKPOINT_WEIGHT, {C, INNER}},
    {"mlp.c_fc.bias", CHECKPOINT_BIAS, {INNER, NONE}},
    {"mlp.c_proj.weight", CHECKPOINT_WEIGHT, {INNER, C}},
    {"mlp.c_proj.bias", CHECKPOINT_BIAS, {C, NONE}},
};
static const struct row after[] = {
    {"ln_f.weight", CHECKPOINT_NORM_WEIGHT, {C, NONE}},
    {"ln_f.bias", CHECKPOINT_BIAS, {C, NONE}},
};
static const struct row head = {"lm_head.weight", CHECKPOINT_WEIGHT, {V, C}};

#define ROWS(a) (sizeof(a) / sizeof *(a))

static size_t dim_size(const struct gpt2_config *cfg, enum dim d)
{
    switch (d) {
    case NONE:
        return 1;
    case C:
        return (size_t)cfg->n_embd;
    case C3:
        return 3 * (size_t)cfg->n_embd;
    case INNER:
        return (size_t)cfg->n_inner;
    case V:
        return (size_t)cfg->vocab_size;
    case P:
        return (size_t)cfg->n_positions;
    }
    BUG("dimension %d", (int)d);
}

size_t checkpoint_count(const struct gpt2_config *cfg, bool untied)
{
    return ROWS(before) + (size_t)cfg->n_layer * ROWS(layer) + ROWS(after) + (untied ? 1 : 0);
}

void checkpoint_tensor_at(const struct gpt2_config *cfg, bool untied, size_t i,
                          struct checkpoint_tensor *out)
{
    BUG_ON(i >= checkpoint_count(cfg, untied));
    size_t in_layers = (size_t)cfg->n_layer * ROWS(layer);
    const struct row *r;
    char prefix[40] = "transformer.";
    if (i < ROWS(before)) {
        r = &before[i];
    } else if (i - ROWS(before) < in_layers) {
        size_t k = i - ROWS(before);
        snprintf(prefix, sizeof prefix, "transformer.h.%zu.", k / ROWS(layer));
        r = &layer[k % ROWS(layer)];
    } else if (i - ROWS(before) - in_layers < ROWS(after)) {
        r = &after[i - ROWS(before) - in_layers];
    } else {
        prefix[0] = 0;
        r = &head;
    }
    *out = (struct checkpoint_tensor){.kind = r->kind, .n_dims = r->dims[1] == NONE ? 1 : 2};
    snprintf(out->name, sizeof out->name, "%s%s", prefix, r->name);
    out->shape[0] = dim_size(cfg, r->dims[0]);
    out->shape[1] = dim_size(cfg, r->dims[1]);
    out->elements = out->shape[0] * out->shape[1]; /* sizes are at most 2^24 each */
}

size_t checkpoint_params(const struct gpt2_config *cfg, bool untied)
{
    size_t sum = 0;
    struct checkpoint_tensor t;
    for (size_t i = 0; i < checkpoint_count(cfg, untied); i++) {
        checkpoint_tensor_at(cfg, untied, i, &t);
        sum += t.elements;
    }
    return sum;
}

static const char *const activations[] = {
    [ACT_GELU_NEW] = "gelu_new", [ACT_GELU_ERF] = "gelu", [ACT_RELU] = "relu"};

const char *checkpoint_activation_name(enum act a)
{
    return (size_t)a < ROWS(activations) && activations[a] ? activations[a] : "none";
}

int checkpoint_activation_parse(const char *name)
{
    for (size_t i = 0; i < ROWS(activations); i++)
        if (activations[i] && strcmp(activations[i], name) == 0) return (int)i;
    return -1;
}

static void put_id(struct buf *out, const char *key, int32_t id)
{
    if (id >= 0)
        buf_printf(out, "  \"%s\": %d,\n", key, (int)id);
    else
        buf_printf(out, "  \"%s\": null,\n", key);
}

static void put_bool(struct buf *out, const char *key, bool v)
{
    buf_printf(out, "  \"%s\": %s,\n", key, v ? "true" : "false");
}

/* The keys that tell one class of Hugging Face's from the other; a language model has no labels. */
static void put_labels(const char *const *labels, int n, struct buf *out)
{
    if (!n) return;
    buf_puts(out, "  \"id2label\": {");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s\n    \"%d\": \"%s\"", i ? "," : "", i, labels[i]);
    buf_puts(out, "\n  },\n  \"label2id\": {");
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s\n    \"%s\": %d", i ? "," : "", labels[i], i);
    buf_printf(out, "\n  },\n  \"num_labels\": %d,\n", n);
    buf_puts(out, "  \"problem_type\": \"single_label_classification\",\n");
}

static void put_config(const struct gpt2_config *cfg, enum dtype t, const char *const *labels,
                       int n, struct buf *out)
{
    buf_printf(out, "{\n  \"activation_function\": \"%s\",\n",
               checkpoint_activation_name(cfg->activation));
    buf_printf(out, "  \"architectures\": [\n    \"%s\"\n  ],\n  \"attn_pdrop\": 0.1,\n",
               n ? "GPT2ForSequenceClassification" : "GPT2LMHeadModel");
    put_id(out, "bos_token_id", cfg->bos_token_id);
    buf_puts(out, "  \"embd_pdrop\": 0.1,\n");
    put_labels(labels, n, out);
    if (n) put_id(out, "pad_token_id", cfg->eos_token_id); /* behind which nothing is read */
    put_id(out, "eos_token_id", cfg->eos_token_id);
    buf_printf(out, "  \"initializer_range\": 0.02,\n  \"layer_norm_epsilon\": %.7g,\n",
               (double)cfg->layer_norm_epsilon);
    buf_printf(out, "  \"model_type\": \"gpt2\",\n  \"n_embd\": %d,\n  \"n_head\": %d,\n",
               cfg->n_embd, cfg->n_head);
    if (cfg->n_inner == 4 * cfg->n_embd)
        buf_puts(out, "  \"n_inner\": null,\n");
    else
        buf_printf(out, "  \"n_inner\": %d,\n", cfg->n_inner);
    buf_printf(out, "  \"n_layer\": %d,\n  \"n_positions\": %d,\n", cfg->n_layer, cfg->n_positions);
    buf_puts(out, "  \"reorder_and_upcast_attn\": false,\n  \"resid_pdrop\": 0.1,\n");
    put_bool(out, "scale_attn_by_inverse_layer_idx", cfg->scale_attn_by_inverse_layer_idx);
    put_bool(out, "scale_attn_weights", cfg->scale_attn_weights);
    buf_puts(out,
             "  \"summary_activation\": null,\n  \"summary_first_dropout\": 0.1,\n"
             "  \"summary_proj_to_labels\": true,\n  \"summary_type\": \"cls_index\",\n"
             "  \"summary_use_proj\": true,\n");
    if (!cfg->tie_word_embeddings) put_bool(out, "tie_word_embeddings", false);
    buf_printf(out, "  \"torch_dtype\": \"%s\",\n",
               t == DTYPE_F16    ? "float16"
               : t == DTYPE_BF16 ? "bfloat16"
                                 : "float32");
    buf_printf(out,
               "  \"transformers_version\": \"4.40.0\",\n  \"use_cache\": true,\n"
               "  \"vocab_size\": %d\n}\n",
               cfg->vocab_size);
}

void checkpoint_config_json(const struct gpt2_config *cfg, enum dtype t, struct buf *out)
{
    put_config(cfg, t, NULL, 0, out);
}

void checkpoint_classifier_json(const struct gpt2_config *cfg, enum dtype t,
                                const char *const *labels, int n, struct buf *out)
{
    put_config(cfg, t, labels, n, out);
}
