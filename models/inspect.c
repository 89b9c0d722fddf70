/* ttm inspect: what a model directory holds, from its headers alone. Nothing is loaded: the files are
 * mapped and only their JSON is read, so that a model larger than memory can be looked at. The one
 * exception is a head stored beside the token embedding: whether the two are the same weights, and
 * thus count once, is not in any header, so their bytes are compared. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/gpt2_config.h"
#include "engine/gpt2/safetensors.h"
#include "engine/gpt2/tokenizer.h"
#include "models/checkpoint.h"
#include "models/inspect_ttm.h"
#include "models/options.h"
#include "models/tool.h"

struct inspect_args {
    bool json;
};

static const struct option table[] = {
    {"json", 0, OPTION_BOOL, offsetof(struct inspect_args, json), NULL, 0, 0, NULL,
     "one JSON object instead of tables"},
};
static const struct options options = {
    .command = "inspect",
    .arguments = "DIR",
    .n_arguments = 1,
    .about =
        "Shows configuration, tensors, parameters and tokenizer of a model directory; of\n"
        "Tensor-Train layers also ranks and how this machine would apply them. Reads headers only.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

struct model {
    const char *dir;
    struct gpt2_config cfg;
    struct st_set *set;
    struct tokenizer *tokenizer; /* NULL: tokenizer_err says why */
    struct err tokenizer_err;
    const struct st_tensor *wte, *head; /* head NULL when absent */
    bool tied;
    size_t params, bytes;
    struct inspect_ttm ttm;
    struct err ttm_err; /* why a TTM layer is not among them */
};

/* The layer that a tensor belongs to, -1 = none; *rest is the name within it. */
static int layer_of(const char *name, const char **rest)
{
    const char *plain = ttm_tensors_key(name);
    char *end;
    *rest = plain;
    if (strncmp(plain, "h.", 2) != 0 || plain[2] < '0' || plain[2] > '9') return -1;
    long layer = strtol(plain + 2, &end, 10);
    if (*end != '.' || layer > 1 << 24) return -1;
    *rest = end + 1;
    return (int)layer;
}

/* Causal masks that old checkpoints carry along: no parameters. */
static bool is_buffer(const struct st_tensor *t)
{
    const char *rest;
    return layer_of(t->name, &rest) >= 0 &&
           (!strcmp(rest, "attn.bias") || !strcmp(rest, "attn.masked_bias"));
}

/* What goes with a matrix of 8-bit numbers. */
static bool is_scale(const struct st_tensor *t)
{
    size_t n = strlen(t->name), tail = strlen(".weight_scale");
    return n > tail && !strcmp(t->name + n - tail, ".weight_scale");
}

static bool same_weights(const struct st_tensor *a, const struct st_tensor *b)
{
    return a && b && a->dtype == b->dtype && a->n_dims == 2 && b->n_dims == 2 &&
           a->shape[0] == b->shape[0] && a->shape[1] == b->shape[1] &&
           memcmp(a->data, b->data, a->bytes) == 0;
}

static void count(struct model *m)
{
    for (size_t i = 0; i < st_count(m->set); i++) {
        const struct st_tensor *t = st_at(m->set, i);
        const char *name = ttm_tensors_key(t->name);
        if (!strcmp(name, "wte.weight")) m->wte = t;
        if (!strcmp(name, "lm_head.weight")) m->head = t;
        m->bytes += t->bytes;
        if (!is_buffer(t) && !is_scale(t)) m->params += t->elements;
    }
    m->tied = !m->head || same_weights(m->wte, m->head);
    if (m->head && m->tied) m->params -= m->head->elements;
}

static void shape_text(const struct st_tensor *t, struct buf *b)
{
    buf_clear(b);
    buf_putc(b, '(');
    for (int i = 0; i < t->n_dims; i++)
        buf_printf(b, "%s%zu", i ? ", " : "", t->shape[i]);
    buf_putc(b, ')');
}

static const char *remark(const struct model *m, const struct st_tensor *t)
{
    if (is_buffer(t)) return "mask, not counted";
    if (is_scale(t)) return "scales, not counted";
    if (t == m->head && m->tied) return "same as wte, not counted";
    return "";
}

/* ---- text ---- */

static void print_config(const struct model *m, FILE *f)
{
    const struct gpt2_config *c = &m->cfg;
    fprintf(f, "model      %s\n", m->dir);
    fprintf(f, "layers     %d   heads %d   channels %d   inner %d\n", c->n_layer, c->n_head,
            c->n_embd, c->n_inner);
    fprintf(f, "positions  %d   vocabulary %d   activation %s   norm epsilon %g\n", c->n_positions,
            c->vocab_size, checkpoint_activation_name(c->activation),
            (double)c->layer_norm_epsilon);
    fprintf(f, "LM head    %s\n", m->tied ? "tied to the token embedding" : "weights of its own");
    if (m->tokenizer)
        fprintf(f, "tokenizer  %d ids, longest token %zu bytes, end-of-text %d\n",
                (int)tokenizer_vocab(m->tokenizer), tokenizer_max_token_bytes(m->tokenizer),
                (int)tokenizer_eos(m->tokenizer));
    else
        fprintf(f, "tokenizer  none: %s\n", m->tokenizer_err.msg);
}

static void print_tensor(const struct model *m, const struct st_tensor *t, const char *name,
                         struct buf *shape, FILE *f)
{
    char safe[200]; /* names come from the file: nothing in them may talk to the terminal */
    snprintf(safe, sizeof safe, "%s", name);
    for (char *c = safe; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    shape_text(t, shape);
    const char *note = remark(m, t);
    fprintf(f, "  %-28s %-18s %-5s %12zu%s%s\n", safe, shape->data, dtype_name(t->dtype), t->bytes,
            *note ? "   " : "", note);
}

struct place {
    const struct st_tensor *t;
    const char *rest;
    int layer;
    size_t order;
};

static int by_layer(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static void print_tensors(const struct model *m, FILE *f)
{
    size_t n = st_count(m->set);
    struct place *p = calloc(n ? n : 1, sizeof *p);
    struct buf shape = {0};
    if (!p) BUG("out of memory for %zu names", n);
    for (size_t i = 0; i < n; i++) {
        p[i].t = st_at(m->set, i);
        p[i].layer = layer_of(p[i].t->name, &p[i].rest);
        p[i].order = i;
    }
    qsort(p, n, sizeof *p, by_layer);
    for (size_t i = 0; i < n;) {
        size_t end = i, params = 0, bytes = 0;
        for (; end < n && p[end].layer == p[i].layer; end++) {
            params += *remark(m, p[end].t) ? 0 : p[end].t->elements;
            bytes += p[end].t->bytes;
        }
        if (p[i].layer < 0)
            fprintf(f, "\noutside the layers: ");
        else
            fprintf(f, "\nlayer %d: ", p[i].layer);
        fprintf(f, "%zu parameters, %zu bytes\n", params, bytes);
        for (; i < end; i++)
            print_tensor(m, p[i].t, p[i].rest, &shape, f);
    }
    buf_release(&shape);
    free(p);
}

/* Parameters once ranks are rounded exactly, and with dense layers in place of TTM layers. */
static size_t rounded_params(const struct model *m)
{
    return m->params - m->ttm.stored_params + m->ttm.rounded_params;
}

static size_t dense_params(const struct model *m)
{
    return m->params - m->ttm.stored_params + m->ttm.dense_params;
}

static void print_text(const struct model *m, FILE *f)
{
    print_config(m, f);
    print_tensors(m, f);
    inspect_ttm_print(&m->ttm, f);
    if (m->ttm_err.code) fprintf(f, "\na TTM layer cannot be used: %s\n", m->ttm_err.msg);
    if (m->ttm.n)
        fprintf(f, "\n%zu parameters after rounding, %.3f of the dense model's %zu\n",
                rounded_params(m), (double)rounded_params(m) / (double)dense_params(m),
                dense_params(m));
    fprintf(f, "\n%zu tensors, %zu parameters, %zu bytes (files: %zu)\n", st_count(m->set),
            m->params, m->bytes, st_file_bytes(m->set));
}

/* ---- JSON ---- */

static json_t *config_json(const struct model *m)
{
    const struct gpt2_config *c = &m->cfg;
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:f, s:b, s:b, s:i, s:i}", "n_layer",
                     c->n_layer, "n_head", c->n_head, "n_embd", c->n_embd, "n_inner", c->n_inner,
                     "n_positions", c->n_positions, "vocab_size", c->vocab_size,
                     "activation_function", checkpoint_activation_name(c->activation),
                     "layer_norm_epsilon", (double)c->layer_norm_epsilon, "scale_attn_weights",
                     c->scale_attn_weights, "scale_attn_by_inverse_layer_idx",
                     c->scale_attn_by_inverse_layer_idx, "bos_token_id", (int)c->bos_token_id,
                     "eos_token_id", (int)c->eos_token_id);
}

static json_t *tensor_json(const struct model *m, const struct st_tensor *t)
{
    const char *rest;
    int layer = layer_of(t->name, &rest);
    json_t *shape = json_array();
    for (int i = 0; i < t->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
    return json_pack("{s:s, s:o, s:s, s:o, s:I, s:I, s:b, s:s}", "name", t->name, "layer",
                     layer < 0 ? json_null() : json_integer(layer), "dtype", dtype_name(t->dtype),
                     "shape", shape, "elements", (json_int_t)t->elements, "bytes",
                     (json_int_t)t->bytes, "counted", !*remark(m, t), "file", t->file);
}

static json_t *tokenizer_json(const struct model *m)
{
    if (!m->tokenizer) return json_null();
    return json_pack("{s:i, s:I, s:i}", "vocab_size", (int)tokenizer_vocab(m->tokenizer),
                     "max_token_bytes", (json_int_t)tokenizer_max_token_bytes(m->tokenizer),
                     "eos_token_id", (int)tokenizer_eos(m->tokenizer));
}

static int print_json(const struct model *m, FILE *f, struct err *err)
{
    json_t *tensors = json_array();
    for (size_t i = 0; i < st_count(m->set); i++)
        json_array_append_new(tensors, tensor_json(m, st_at(m->set, i)));
    json_t *root = json_pack("{s:s, s:o, s:b, s:o, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "model",
                             m->dir, "config", config_json(m), "tied", m->tied, "tokenizer",
                             tokenizer_json(m), "total_params", (json_int_t)m->params,
                             "rounded_params", (json_int_t)rounded_params(m), "dense_params",
                             (json_int_t)dense_params(m), "total_bytes", (json_int_t)m->bytes,
                             "file_bytes", (json_int_t)st_file_bytes(m->set), "ttm_layers",
                             inspect_ttm_json(&m->ttm), "tensors", tensors);
    if (root && m->ttm_err.code)
        json_object_set_new(root, "ttm_error", json_string(m->ttm_err.msg));
    if (!root) return err_set(err, ERR_INVALID, "%s: a name in it is not UTF-8", m->dir);
    int rc = json_dumpf(root, f, JSON_INDENT(2));
    fputc('\n', f);
    json_decref(root);
    return rc ? err_set(err, ERR_IO, "cannot write the answer") : 0;
}

int cmd_inspect(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct inspect_args a = {0};
    struct model m = {0};
    int rc = options_parse(&options, &a, &m.dir, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    rc = gpt2_config_load(&m.cfg, m.dir, err);
    if (rc == 0) rc = st_open(&m.set, m.dir, err);
    if (rc) return rc;
    tokenizer_open(&m.tokenizer, m.dir, &m.tokenizer_err);
    count(&m);
    enum dtype held = m.wte && m.wte->dtype == DTYPE_I8 ? DTYPE_I8 : DTYPE_F32; /* as at load */
    rc = inspect_ttm_open(&m.ttm, t, m.dir, &m.cfg, m.set, held, m.params * dtype_size(held),
                          &m.ttm_err, err);
    if (rc == 0 && a.json)
        rc = print_json(&m, t->out, err);
    else if (rc == 0)
        print_text(&m, t->out);
    rc = st_verify(m.set, rc, err);
    inspect_ttm_release(&m.ttm);
    tokenizer_close(m.tokenizer);
    st_close(m.set);
    return rc;
}
