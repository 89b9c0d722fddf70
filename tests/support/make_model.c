/* Random models for tests. Weights come from the counter-based generator, one stream per tensor, so
 * that a model is a function of its options: the same in every run, whatever the order of writing.
 * Biases and LayerNorm weights are random too: a zero bias hides a bias that is never added. */
#include "tests/support/make_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/gpt2/safetensors.h"
#include "engine/ttm/shape.h"
#include "tests/support/harness.h"

struct plan {
    char name[96];
    size_t shape[4];
    int n_dims;
    double mean, std;
};

struct plans {
    struct make_model o;
    struct plan *list; /* (n) owned */
    size_t n;
};

static size_t elements(const struct plan *t)
{
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

static void add(struct plans *p, const char *prefix, const char *name, int d0, int d1, double mean)
{
    p->list = mem_realloc(p->list, (p->n + 1) * sizeof *p->list);
    struct plan *t = &p->list[p->n++];
    *t = (struct plan){.shape = {(size_t)d0, (size_t)d1}, .n_dims = d1 ? 2 : 1, .mean = mean};
    t->std = p->o.std;
    snprintf(t->name, sizeof t->name, "%s%s", prefix, name);
}

/* Cores whose product has entries of about the model's standard deviation. */
static void add_cores(struct plans *p, const char *layer, const char *text)
{
    struct ttm_shape s;
    struct err err = {0};
    if (ttm_shape_parse(&s, text, layer, &err)) ck_abort_msg("%s", err.msg);
    for (int k = 1; k < s.d; k++)
        s.r[k] = p->o.ttm_rank;
    for (int k = 0; k < s.d; k++) {
        char name[32];
        snprintf(name, sizeof name, "%s%d", p->o.ttm_cores, k);
        add(p, layer, name, s.r[k], s.m[k], 0);
        struct plan *t = &p->list[p->n - 1];
        t->n_dims = 4;
        t->shape[2] = (size_t)s.n[k];
        t->shape[3] = (size_t)s.r[k + 1];
        t->std = (k + 1 < s.d ? 1 : p->o.std) / sqrt(s.r[k]);
    }
}

static void add_linear(struct plans *p, const char *layer, int which, const char *name, int in,
                       int out)
{
    char full[96], weight[32], bias[32];
    const char *text = p->o.ttm[which];
    snprintf(full, sizeof full, "%s%s", layer, name);
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    if (text)
        add_cores(p, full, text);
    else
        add(p, layer, weight, in, out, 0);
    if (!text || !p->o.ttm_no_bias) add(p, layer, bias, out, 0, 0);
}

static void add_layer(struct plans *p, int i)
{
    char h[64];
    int c = p->o.channels, inner = p->o.n_inner ? p->o.n_inner : 4 * c;
    snprintf(h, sizeof h, "%sh.%d.", p->o.prefix, i);
    add(p, h, "ln_1.weight", c, 0, 1);
    add(p, h, "ln_1.bias", c, 0, 0);
    add_linear(p, h, 0, "attn.c_attn", c, 3 * c);
    add_linear(p, h, 1, "attn.c_proj", c, c);
    add(p, h, "ln_2.weight", c, 0, 1);
    add(p, h, "ln_2.bias", c, 0, 0);
    add_linear(p, h, 2, "mlp.c_fc", c, inner);
    add_linear(p, h, 3, "mlp.c_proj", inner, c);
}

static void make_plans(struct plans *p)
{
    const struct make_model *o = &p->o;
    add(p, o->prefix, "wte.weight", o->vocab, o->channels, 0);
    add(p, o->prefix, "wpe.weight", o->positions, o->channels, 0);
    for (int i = 0; i < o->layers; i++)
        add_layer(p, i);
    add(p, o->prefix, "ln_f.weight", o->channels, 0, 1);
    add(p, o->prefix, "ln_f.bias", o->channels, 0, 0);
    if (o->untied) add(p, "", "lm_head.weight", o->vocab, o->channels, 0);
}

static void check(int rc, const struct err *err)
{
    if (rc) ck_abort_msg("%s", err->msg);
}

static void write_tensors(const struct plans *p, const char *path, size_t begin, size_t end)
{
    struct err err = {0};
    struct st_writer *w = NULL;
    check(st_writer_open(&w, path, &err), &err);
    for (size_t i = begin; i < end; i++)
        st_writer_declare(w, p->list[i].name, p->o.dtype, p->list[i].shape, p->list[i].n_dims);
    check(st_writer_begin(w, &err), &err);
    for (size_t i = begin; i < end; i++) {
        const struct plan *t = &p->list[i];
        size_t n = elements(t);
        float *x = mem_alloc(n * sizeof *x);
        rng_normal_fill(x, n, t->std, p->o.seed, i);
        for (size_t j = 0; j < n; j++)
            x[j] += (float)t->mean;
        check(st_writer_data(w, x, n, &err), &err);
        free(x);
    }
    check(st_writer_finish(w, &err), &err);
}

static void write_shards(const struct plans *p, const char *dir)
{
    struct buf index = {0};
    size_t shards = (size_t)p->o.shards;
    buf_puts(&index, "{\"metadata\": {}, \"weight_map\": {");
    for (size_t s = 0; s < shards; s++) {
        size_t begin = p->n * s / shards, end = p->n * (s + 1) / shards;
        char file[64];
        snprintf(file, sizeof file, "model-%05zu-of-%05zu.safetensors", s + 1, shards);
        write_tensors(p, path_join(dir, file), begin, end);
        for (size_t i = begin; i < end; i++)
            buf_printf(&index, "%s\n\"%s\": \"%s\"", i ? "," : "", p->list[i].name, file);
    }
    buf_puts(&index, "}}");
    write_file(path_join(dir, "model.safetensors.index.json"), index.data, index.len);
    buf_release(&index);
}

static void write_config(const struct make_model *o, const char *dir)
{
    struct buf b = {0};
    buf_puts(&b, "{\"model_type\": \"gpt2\", \"architectures\": [\"GPT2LMHeadModel\"],\n");
    buf_printf(&b, "\"n_layer\": %d, \"n_embd\": %d, \"n_head\": %d, ", o->layers, o->channels,
               o->heads);
    buf_printf(&b, "\"n_positions\": %d, \"n_ctx\": %d, \"vocab_size\": %d,\n", o->positions,
               o->positions, o->vocab);
    if (o->n_inner)
        buf_printf(&b, "\"n_inner\": %d,", o->n_inner);
    else
        buf_puts(&b, "\"n_inner\": null,");
    buf_printf(&b, " \"activation_function\": \"%s\", \"layer_norm_epsilon\": 1e-05,\n",
               o->activation);
    buf_printf(&b, "\"scale_attn_weights\": %s, \"scale_attn_by_inverse_layer_idx\": %s,\n",
               o->no_scale ? "false" : "true", o->inverse_layer ? "true" : "false");
    buf_printf(&b, "\"tie_word_embeddings\": %s,\n", o->untied ? "false" : "true");
    buf_printf(&b, "\"bos_token_id\": %d, \"eos_token_id\": %d}\n", o->vocab - 1, o->vocab - 1);
    write_file(path_join(dir, "config.json"), b.data, b.len);
    buf_release(&b);
}

void make_model(const char *dir, const struct make_model *options)
{
    struct plans p = {.o = *options};
    struct make_model *o = &p.o;
    if (!o->layers) o->layers = 2;
    if (!o->channels) o->channels = 32;
    if (!o->heads) o->heads = 4;
    if (!o->positions) o->positions = 64;
    if (!o->vocab) o->vocab = 101;
    if (!o->activation) o->activation = "gelu_new";
    if (!o->prefix) o->prefix = "transformer.";
    if (o->std == 0) o->std = 0.2;
    if (!o->ttm_rank) o->ttm_rank = 3;
    if (!o->ttm_cores) o->ttm_cores = ".ttm.cores.";
    make_plans(&p);
    write_config(o, dir);
    if (o->shards)
        write_shards(&p, dir);
    else
        write_tensors(&p, path_join(dir, "model.safetensors"), 0, p.n);
    free(p.list);
}
