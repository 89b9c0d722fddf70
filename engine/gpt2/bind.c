/* Which tensor is which weight. Checkpoints differ in prefixes (`transformer.` of the LM-head class,
 * `module.` of data-parallel training, in any order), so names are first reduced to a key; the model
 * then asks for every key it needs, and what nobody asked for is refused, because an unknown tensor
 * means that the checkpoint computes something else than we would.
 *
 * The binder is also the guard of config.json: a size is believed only when a tensor has it, before
 * anything of that size is allocated. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "engine/gpt2/weights.h"

struct entry {
    const char *key; /* inside the tensor's name */
    const struct st_tensor *tensor;
    bool used;
};

struct binder {
    struct gpt2 *m;
    const struct st_set *st;
    struct entry *entries; /* (n) by key; owned */
    size_t n;
    struct weight_fills *fills;
    enum gpt2_dtype dtype;
    size_t elements_of[DTYPE_COUNT]; /* of the matrices, as they will be held */
    struct err *err;
};

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->key, ((const struct entry *)b)->key);
}

static int index_keys(struct binder *b, const struct st_set *st)
{
    b->n = st_count(st);
    b->entries = mem_calloc(b->n ? b->n : 1, sizeof *b->entries);
    for (size_t i = 0; i < b->n; i++) {
        struct entry *e = &b->entries[i];
        e->tensor = st_at(st, i);
        e->key = ttm_tensors_key(e->tensor->name);
    }
    qsort(b->entries, b->n, sizeof *b->entries, by_key);
    for (size_t i = 1; i < b->n; i++) {
        const struct entry *e = &b->entries[i];
        if (strcmp(e[-1].key, e->key) == 0)
            return err_set(b->err, ERR_INVALID, "tensors %s and %s are the same weight %s",
                           e[-1].tensor->name, e->tensor->name, e->key);
    }
    return 0;
}

static struct entry *find(const struct binder *b, const char *key)
{
    const struct entry wanted = {.key = key};
    return bsearch(&wanted, b->entries, b->n, sizeof *b->entries, by_key);
}

static void shape_text(char *out, size_t size, const size_t *shape, int n)
{
    size_t at = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < n && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, i ? ", %zu" : "%zu", shape[i]);
    if (at < size) snprintf(out + at, size - at, "]");
}

static int check_shape(struct binder *b, const struct st_tensor *t, size_t d0, size_t d1)
{
    size_t want[2] = {d0, d1};
    int n = d1 ? 2 : 1;
    if (t->n_dims == n && memcmp(t->shape, want, (size_t)n * sizeof *want) == 0) return 0;
    char found[ST_MAX_DIMS * 24], expected[64];
    shape_text(found, sizeof found, t->shape, t->n_dims);
    shape_text(expected, sizeof expected, want, n);
    return err_set(b->err, ERR_INVALID, "%s: tensor %s has shape %s, expected %s", t->file, t->name,
                   found, expected);
}

/* What a tensor may hold. */
enum numbers { FLOATS, FLOATS_OR_I8 };

/* The tensor of `key`, checked to be one of (d0) or, with d1 > 0, (d0, d1). */
static int take(struct binder *b, const char *key, size_t d0, size_t d1, enum numbers may,
                const struct st_tensor **out)
{
    struct entry *e = find(b, key);
    if (!e) return err_set(b->err, ERR_MISSING, "tensor %s is missing from the checkpoint", key);
    const struct st_tensor *t = e->tensor;
    bool wide = t->dtype == DTYPE_F32 || t->dtype == DTYPE_F16 || t->dtype == DTYPE_BF16;
    if (!wide && !(may == FLOATS_OR_I8 && t->dtype == DTYPE_I8))
        return err_set(b->err, ERR_UNSUPPORTED, "%s: tensor %s has dtype %s, expected %s", t->file,
                       t->name, dtype_name(t->dtype),
                       may == FLOATS ? "F32, F16 or BF16" : "F32, F16, BF16 or I8");
    int rc = check_shape(b, t, d0, d1);
    if (rc) return rc;
    e->used = true;
    b->m->n_params += t->elements;
    *out = t;
    return 0;
}

/* The scales of an I8 matrix, one for each of its n outputs; *out NULL for another type. */
static int take_scale(struct binder *b, const struct st_tensor *t, size_t n,
                      const struct st_tensor **out)
{
    char key[192];
    *out = NULL;
    if (t->dtype != DTYPE_I8) return 0;
    snprintf(key, sizeof key, "%s_scale", ttm_tensors_key(t->name));
    struct entry *e = find(b, key);
    if (!e)
        return err_set(b->err, ERR_MISSING, "%s: tensor %s is I8, but %s is missing", t->file,
                       t->name, key);
    const struct st_tensor *s = e->tensor;
    if (s->dtype != DTYPE_F32)
        return err_set(b->err, ERR_UNSUPPORTED, "%s: tensor %s has dtype %s, expected F32", s->file,
                       s->name, dtype_name(s->dtype));
    int rc = check_shape(b, s, n, 0);
    for (size_t i = 0; !rc && i < n; i++) {
        float x;
        memcpy(&x, (const char *)s->data + i * sizeof x, sizeof x);
        if (!isfinite(x) || x < 0)
            rc = err_set(b->err, ERR_INVALID,
                         "%s: tensor %s has %g at [%zu], expected a finite number of 0 or more",
                         s->file, s->name, (double)x, i);
    }
    e->used = true;
    *out = s;
    return rc;
}

static void push(struct binder *b, struct weight_fill f)
{
    struct weight_fills *l = b->fills;
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 256;
        l->list = mem_realloc(l->list, l->cap * sizeof *l->list);
    }
    l->list[l->n++] = f;
}

static int bind_vector(struct binder *b, const char *prefix, const char *name, size_t n,
                       float **out)
{
    char key[128];
    const struct st_tensor *t;
    snprintf(key, sizeof key, "%s%s", prefix, name);
    int rc = take(b, key, n, 0, FLOATS, &t);
    if (rc) return rc;
    *out = mem_alloc(n * sizeof **out);
    b->m->weight_bytes += n * sizeof **out;
    push(b, (struct weight_fill){.tensor = t, .vector = *out});
    return 0;
}

/* What a matrix of type t is held as. */
static enum dtype held_as(enum gpt2_dtype wanted, enum dtype t)
{
    static const enum dtype of[] = {
        [GPT2_F32] = DTYPE_F32, [GPT2_BF16] = DTYPE_BF16, [GPT2_INT8] = DTYPE_I8};
    return wanted == GPT2_AUTO ? t : of[wanted];
}

static int pack_tensor(struct binder *b, const struct st_tensor *t, struct packed *out,
                       int transposed)
{
    size_t k = t->shape[transposed ? 1 : 0], n = t->shape[transposed ? 0 : 1];
    const struct st_tensor *scale;
    enum dtype held = held_as(b->dtype, t->dtype);
    int rc = take_scale(b, t, n, &scale);
    if (!rc) rc = packed_init(out, held, k, n, t->name, b->err);
    if (rc) return rc;
    b->m->weight_bytes += out->bytes;
    b->elements_of[held] += t->elements;
    push(b, (struct weight_fill){
                .tensor = t, .scale = scale, .packed = out, .transposed = transposed});
    return 0;
}

static void push_ttm(struct binder *b, struct linear *l, const char *name,
                     const struct ttm_tensors *t)
{
    struct weight_fills *f = b->fills;
    if (f->n_ttm == f->cap_ttm) {
        f->cap_ttm = f->cap_ttm ? 2 * f->cap_ttm : 64;
        f->ttm = mem_realloc(f->ttm, f->cap_ttm * sizeof *f->ttm);
    }
    struct weight_ttm *w = &f->ttm[f->n_ttm++];
    *w = (struct weight_ttm){.linear = l, .tensors = *t};
    snprintf(w->name, sizeof w->name, "%s", name);
    for (int k = 0; k < t->shape.d; k++) {
        find(b, ttm_tensors_key(t->core[k]->name))->used = true;
        b->m->n_params += t->core[k]->elements;
    }
}

/* Where a layer's weight comes from is decided here and nowhere else. */
static int bind_source(struct binder *b, const char *prefix, struct linear *l)
{
    char key[128];
    struct ttm_tensors cores;
    const struct st_tensor *t;
    int rc = ttm_tensors_find(&cores, b->st, prefix, l->in, l->out, b->err);
    if (rc < 0) return rc;
    snprintf(key, sizeof key, "%s.weight", prefix);
    if (rc > 0) {
        const struct entry *dense = find(b, key);
        if (dense)
            return err_set(b->err, ERR_INVALID, "%s: tensors %s and %s are both weights of %s",
                           dense->tensor->file, dense->tensor->name, cores.core[0]->name, prefix);
        l->kind = LINEAR_TTM;
        push_ttm(b, l, prefix, &cores);
        return 0;
    }
    rc = take(b, key, l->in, l->out, FLOATS_OR_I8, &t);
    if (rc) return rc;
    l->kind = LINEAR_DENSE;
    return pack_tensor(b, t, &l->dense, 0);
}

/* The paper's models have TTM layers without biases. */
static int bind_linear(struct binder *b, const char *layer, const char *name, size_t in, size_t out,
                       struct linear *l)
{
    char prefix[48], bias[64];
    snprintf(prefix, sizeof prefix, "%s%s", layer, name);
    snprintf(bias, sizeof bias, "%s.bias", prefix);
    l->in = in;
    l->out = out;
    int rc = bind_source(b, prefix, l);
    if (rc || (l->kind == LINEAR_TTM && !find(b, bias))) return rc;
    return bind_vector(b, prefix, ".bias", out, &l->bias);
}

static int bind_layer(struct binder *b, int i, struct gpt2_layer *l)
{
    size_t c = (size_t)b->m->cfg.n_embd, inner = (size_t)b->m->cfg.n_inner;
    char h[32];
    snprintf(h, sizeof h, "h.%d.", i);
    int rc = bind_vector(b, h, "ln_1.weight", c, &l->ln_1_weight);
    if (!rc) rc = bind_vector(b, h, "ln_1.bias", c, &l->ln_1_bias);
    if (!rc) rc = bind_linear(b, h, "attn.c_attn", c, 3 * c, &l->c_attn);
    if (!rc) rc = bind_linear(b, h, "attn.c_proj", c, c, &l->attn_proj);
    if (!rc) rc = bind_vector(b, h, "ln_2.weight", c, &l->ln_2_weight);
    if (!rc) rc = bind_vector(b, h, "ln_2.bias", c, &l->ln_2_bias);
    if (!rc) rc = bind_linear(b, h, "mlp.c_fc", c, inner, &l->c_fc);
    if (!rc) rc = bind_linear(b, h, "mlp.c_proj", inner, c, &l->mlp_proj);
    return rc;
}

/* The layers that config.json promises, before an array of that length exists. */
static int bind_layers(struct binder *b)
{
    struct gpt2 *m = b->m;
    for (int i = 0; i < m->cfg.n_layer; i++) {
        char key[64];
        snprintf(key, sizeof key, "h.%d.ln_1.weight", i);
        if (!find(b, key))
            return err_set(b->err, ERR_MISSING,
                           "tensor %s is missing from the checkpoint: config.json promises %d "
                           "layers",
                           key, m->cfg.n_layer);
    }
    m->layers = mem_calloc((size_t)m->cfg.n_layer, sizeof *m->layers);
    for (int i = 0; i < m->cfg.n_layer; i++) {
        int rc = bind_layer(b, i, &m->layers[i]);
        if (rc) return rc;
    }
    return 0;
}

/* Are two matrices of one shape the same weights? The scales of I8 ones may differ alone. */
static bool same_matrix(const struct binder *b, const struct st_tensor *x,
                        const struct st_tensor *y)
{
    if (x->dtype != y->dtype || memcmp(x->data, y->data, x->bytes) != 0) return false;
    if (x->dtype != DTYPE_I8) return true;
    const struct entry *p = find(b, "wte.weight_scale"), *q = find(b, "lm_head.weight_scale");
    return p && q && p->tensor->bytes == q->tensor->bytes &&
           memcmp(p->tensor->data, q->tensor->data, p->tensor->bytes) == 0;
}

/* Token embedding, LM head, positions. A checkpoint may hold lm_head.weight although it is tied, in 8 bits with
 * its scales; with tie_word_embeddings true Hugging Face overwrites it by wte, whatever it says. */
static int bind_ends(struct binder *b)
{
    struct gpt2 *m = b->m;
    size_t v = (size_t)m->cfg.vocab_size, c = (size_t)m->cfg.n_embd;
    size_t p = (size_t)m->cfg.n_positions;
    const struct st_tensor *wte, *head = NULL, *unused, *wpe;
    int rc = take(b, "wte.weight", v, c, FLOATS_OR_I8, &wte);
    if (!rc && find(b, "lm_head.weight")) rc = take(b, "lm_head.weight", v, c, FLOATS_OR_I8, &head);
    if (!rc && !head && !m->cfg.tie_word_embeddings)
        rc = err_set(b->err, ERR_MISSING,
                     "tensor lm_head.weight is missing from the checkpoint: config.json has "
                     "\"tie_word_embeddings\" false");
    if (rc) return rc;
    m->tied = !head || m->cfg.tie_word_embeddings || same_matrix(b, head, wte);
    if (m->tied && head) m->n_params -= head->elements;
    if (m->tied && head) rc = take_scale(b, head, v, &unused);
    if (!rc) rc = pack_tensor(b, m->tied ? wte : head, &m->head, 1);
    if (!rc && !m->tied) rc = pack_tensor(b, wte, &m->wte, 1);
    b->fills->ttm_dtype = held_as(b->dtype, wte->dtype == DTYPE_I8 ? DTYPE_I8 : DTYPE_F32);
    if (!rc) rc = take(b, "wpe.weight", p, c, FLOATS, &wpe);
    if (rc) return rc;
    size_t bytes = wpe->elements * sizeof(float);
    void *map;
    rc = mem_map(&map, bytes, wpe->name, b->err);
    if (rc) return rc;
    m->wpe = map;
    m->weight_bytes += bytes;
    push(b, (struct weight_fill){.tensor = wpe, .vector = m->wpe});
    rc = bind_vector(b, "", "ln_f.weight", c, &m->ln_f_weight);
    if (!rc) rc = bind_vector(b, "", "ln_f.bias", c, &m->ln_f_bias);
    return rc;
}

/* h.{i}.attn.bias and h.{i}.attn.masked_bias: the causal mask, saved as if it were a weight. */
static bool is_buffer(const char *key)
{
    if (strncmp(key, "h.", 2) != 0) return false;
    size_t digits = strspn(key + 2, "0123456789");
    key += 2 + digits;
    return digits && (strcmp(key, ".attn.bias") == 0 || strcmp(key, ".attn.masked_bias") == 0);
}

static int check_unused(const struct binder *b)
{
    const struct gpt2_config *c = &b->m->cfg;
    for (size_t i = 0; i < b->n; i++) {
        const struct entry *e = &b->entries[i];
        if (!e->used && strcmp(e->key, "score.weight") == 0)
            return err_set(b->err, ERR_UNSUPPORTED,
                           "%s: tensor %s is the head of a classifier, which has learnt labels and "
                           "not to go on with texts; `ttm eval --task` evaluates it",
                           e->tensor->file, e->tensor->name);
        if (!e->used && !is_buffer(e->key))
            return err_set(b->err, ERR_INVALID, "%s: tensor %s is not part of a GPT-2 of %d layers",
                           e->tensor->file, e->tensor->name, c->n_layer);
    }
    return 0;
}

int weights_bind(struct gpt2 *m, const struct st_set *st, const struct gpt2_options *o,
                 struct weight_fills *fills, struct err *err)
{
    struct binder b = {.m = m, .st = st, .fills = fills, .dtype = o->dtype, .err = err};
    int rc = index_keys(&b, st);
    if (!rc) rc = bind_ends(&b);
    if (!rc) rc = bind_layers(&b);
    if (!rc) rc = check_unused(&b);
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (b.elements_of[t] > b.elements_of[m->dtype]) m->dtype = (enum dtype)t;
    free(b.entries);
    return rc;
}
