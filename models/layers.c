/* Finding the fully connected layers. The loader binds a model to compute with it; a tool that rewrites
 * a model wants less (nothing packed, unknown tensors carried along) and more (the names as they are in
 * the file). So this is one pass over the tensors: a name without its prefixes either is a layer's
 * weight, one of its cores or its bias, or is none of this file's business.
 *
 * Invariant after layers_open(): each layer has a weight of the right shape and no core, or whole, matching
 * cores and no weight. */
#include "models/layers.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

static const char *const kinds[LAYERS_PER_BLOCK] = {"attn.c_attn", "attn.c_proj", "mlp.c_fc",
                                                    "mlp.c_proj"};

/* The number that *s begins with, at most 2^20, or -1; *s behind it. */
static int number(const char **s)
{
    int v = 0;
    const char *p = *s;
    if (*p == '0' && p[1] >= '0' && p[1] <= '9') return -1;
    for (; *p >= '0' && *p <= '9'; p++) {
        v = 10 * v + (*p - '0');
        if (v > 1 << 20) return -1;
    }
    if (p == *s) return -1;
    *s = p;
    return v;
}

/* The layer whose tensor this is; *rest is what follows its name and a dot, *length that of its name in
 * the file. NULL: none. */
static struct layer *find_layer(struct layers *l, const char *name, const char **rest,
                                size_t *length)
{
    const char *p = ttm_tensors_key(name);
    if (strncmp(p, "h.", 2) != 0) return NULL;
    p += 2;
    int block = number(&p);
    if (block < 0 || block >= l->cfg.n_layer || *p++ != '.') return NULL;
    for (int k = 0; k < LAYERS_PER_BLOCK; k++) {
        size_t n = strlen(kinds[k]);
        if (strncmp(p, kinds[k], n) != 0 || p[n] != '.') continue;
        *rest = p + n + 1;
        *length = (size_t)(p + n - name);
        return &l->layer[(size_t)block * LAYERS_PER_BLOCK + (size_t)k];
    }
    return NULL;
}

static int same_weight(const struct st_tensor *a, const struct st_tensor *b, struct err *err)
{
    return err_set(err, ERR_INVALID, "tensors %s and %s are the same weight", a->name, b->name);
}

static bool is_core(const struct layer *x, const struct st_tensor *t)
{
    for (int k = 0; k < x->ttm.shape.d; k++)
        if (x->ttm.core[k] == t) return true;
    return false;
}

static int place(struct layers *l, size_t i, struct err *err)
{
    const struct st_tensor *t = st_at(l->set, i);
    const char *rest;
    size_t length;
    struct layer *x = find_layer(l, t->name, &rest, &length);
    if (!x) return 0;
    if (!strcmp(rest, "bias")) x->has_bias = true;
    if (!strcmp(rest, "weight")) {
        if (x->weight) return same_weight(x->weight, t, err);
        x->weight = t;
    } else if (!is_core(x, t)) {
        return 0;
    }
    l->of[i] = x;
    if (x->prefix) return 0;
    x->first = i;
    x->prefix = mem_alloc(length + 1);
    memcpy(x->prefix, t->name, length);
    x->prefix[length] = 0;
    return 0;
}

static int check_float(const struct st_tensor *t, struct err *err)
{
    if (t->dtype == DTYPE_F32 || t->dtype == DTYPE_F16 || t->dtype == DTYPE_BF16) return 0;
    return err_set(err, ERR_UNSUPPORTED, "%s: tensor %s has dtype %s, expected F32, F16 or BF16",
                   t->file, t->name, dtype_name(t->dtype));
}

static int check_weight(const struct layer *x, struct err *err)
{
    const struct st_tensor *t = x->weight;
    int rc = check_float(t, err);
    if (rc) return rc;
    if (t->n_dims == 2 && t->shape[0] == (size_t)x->in && t->shape[1] == (size_t)x->out) return 0;
    char found[ST_MAX_DIMS * 24] = "";
    for (int i = 0, at = 0; i < t->n_dims; i++)
        at += snprintf(found + at, sizeof found - (size_t)at, i ? ", %zu" : "%zu", t->shape[i]);
    return err_set(err, ERR_INVALID, "%s: tensor %s has shape [%s], expected [%d, %d]", t->file,
                   t->name, found, x->in, x->out);
}

static int check_layer(const struct layer *x, struct err *err)
{
    if (x->weight && x->ttm.shape.d) return same_weight(x->weight, x->ttm.core[0], err);
    if (x->weight) return check_weight(x, err);
    if (x->ttm.shape.d) return 0;
    return err_set(err, ERR_MISSING, "tensor %s.weight is missing from the checkpoint", x->name);
}

void layers_kinds(const struct gpt2_config *cfg, struct layer_kind out[LAYERS_PER_BLOCK])
{
    int c = cfg->n_embd, inner = cfg->n_inner;
    const int sizes[LAYERS_PER_BLOCK][2] = {{c, 3 * c}, {c, c}, {c, inner}, {inner, c}};
    for (int k = 0; k < LAYERS_PER_BLOCK; k++)
        out[k] = (struct layer_kind){kinds[k], sizes[k][0], sizes[k][1]};
}

static void name_layers(struct layers *l)
{
    struct layer_kind kind[LAYERS_PER_BLOCK];
    layers_kinds(&l->cfg, kind);
    for (size_t i = 0; i < l->n; i++) {
        struct layer *x = &l->layer[i];
        x->block = (int)(i / LAYERS_PER_BLOCK);
        x->kind = (int)(i % LAYERS_PER_BLOCK);
        x->in = kind[x->kind].in;
        x->out = kind[x->kind].out;
        snprintf(x->name, sizeof x->name, "h.%d.%s", x->block, kinds[x->kind]);
    }
}

int layers_promised(const struct gpt2_config *cfg, const struct st_set *set, const char *dir,
                    struct err *err)
{
    size_t blocks = (size_t)cfg->n_layer, tensors = st_count(set);
    if (blocks <= tensors / LAYERS_PER_BLOCK) return 0;
    return err_set(err, ERR_MISSING,
                   "%s: %zu tensors are too few for the %zu layers that config.json promises", dir,
                   tensors, blocks);
}

int layers_open(struct layers *l, const char *dir, struct err *err)
{
    *l = (struct layers){.dir = dir};
    int rc = gpt2_config_load(&l->cfg, dir, err);
    if (!rc) rc = st_open(&l->set, dir, err);
    if (rc) goto out;
    rc = layers_promised(&l->cfg, l->set, dir, err);
    if (rc) goto out;
    size_t tensors = st_count(l->set);
    l->n = (size_t)l->cfg.n_layer * LAYERS_PER_BLOCK;
    l->layer = mem_calloc(l->n, sizeof *l->layer);
    l->of = mem_calloc(tensors, sizeof *l->of);
    name_layers(l);
    for (size_t i = 0; rc >= 0 && i < l->n; i++) {
        struct layer *x = &l->layer[i];
        rc = ttm_tensors_find(&x->ttm, l->set, x->name, (size_t)x->in, (size_t)x->out, err);
    }
    if (rc > 0) rc = 0;
    for (size_t i = 0; !rc && i < tensors; i++)
        rc = place(l, i, err);
    for (size_t i = 0; !rc && i < l->n; i++)
        rc = check_layer(&l->layer[i], err);
out:
    if (rc) layers_close(l);
    return rc;
}

void layers_close(struct layers *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->layer[i].prefix);
    free(l->layer);
    free(l->of);
    st_close(l->set);
    *l = (struct layers){0};
}

/* ---- what a layer holds ---- */

int layers_dense(float **out, const struct layer *l, struct err *err)
{
    size_t n = (size_t)l->in * (size_t)l->out;
    float *p = malloc(n * sizeof *p);
    if (!p)
        return err_set(err, ERR_NOMEM, "%s: no memory for %zu weights of 4 bytes", l->prefix, n);
    int rc = 0;
    if (l->weight) {
        dtype_to_f32(p, l->weight->data, l->weight->dtype, n);
    } else {
        struct ttm w;
        rc = ttm_tensors_load(&w, &l->ttm, l->name, err);
        if (!rc) {
            rc = ttm_to_dense(&w, p, err);
            ttm_release(&w);
        }
    }
    if (rc)
        free(p);
    else
        *out = p;
    return rc;
}

enum dtype layers_dtype(const struct layer *l)
{
    return (l->weight ? l->weight : l->ttm.core[0])->dtype;
}

size_t layers_stored(const struct layer *l)
{
    return l->weight ? l->weight->elements : ttm_shape_params(&l->ttm.shape);
}

static bool is_mask(const char *name)
{
    const char *p = ttm_tensors_key(name);
    if (strncmp(p, "h.", 2) != 0) return false;
    p += 2;
    return number(&p) >= 0 && (!strcmp(p, ".attn.bias") || !strcmp(p, ".attn.masked_bias"));
}

void layers_params(const struct layers *l, size_t *stored, size_t *dense)
{
    size_t others = 0;
    *stored = 0;
    *dense = 0;
    for (size_t i = 0; i < st_count(l->set); i++) {
        const struct st_tensor *t = st_at(l->set, i);
        bool tied_head =
            l->cfg.tie_word_embeddings && !strcmp(ttm_tensors_key(t->name), "lm_head.weight");
        if (!l->of[i] && !is_mask(t->name) && !tied_head) others += t->elements;
    }
    for (size_t i = 0; i < l->n; i++) {
        *stored += layers_stored(&l->layer[i]);
        *dense += (size_t)l->layer[i].in * (size_t)l->layer[i].out;
    }
    *stored += others;
    *dense += others;
}

/* ---- choosing layers ---- */

static int select_one(const struct layers *l, const char *pattern, bool *chosen, struct err *err)
{
    const char *glob = pattern;
    bool any = false;
    if (!strcmp(pattern, "all")) glob = "*";
    if (!strcmp(pattern, "mlp")) glob = "h.*.mlp.*";
    for (size_t i = 0; i < l->n; i++) {
        if (fnmatch(glob, l->layer[i].name, 0) != 0) continue;
        chosen[i] = any = true;
    }
    if (any) return 0;
    return err_set_param(err, ERR_INVALID, "layers",
                         "--layers: \"%.100s\" matches none of the layers h.0.%s .. h.%d.%s",
                         pattern, kinds[0], l->cfg.n_layer - 1, kinds[LAYERS_PER_BLOCK - 1]);
}

int layers_select(const struct layers *l, const char *patterns, bool *chosen, struct err *err)
{
    char *copy = mem_strdup(patterns), *at = copy;
    int rc = 0;
    memset(chosen, 0, l->n * sizeof *chosen);
    while (!rc && at) {
        char *comma = strchr(at, ',');
        if (comma) *comma = 0;
        rc = select_one(l, at, chosen, err);
        at = comma ? comma + 1 : NULL;
    }
    free(copy);
    return rc;
}
