/* Checkpoints in and out of the flat array. The engine's own loader packs weights for inference and
 * refuses what it cannot serve; here the same tensors are wanted row by row in f32. What a file's tensors
 * are called, and what makes a layer a TTM, is ttm_tensors' to say. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/ttm_tensors.h"
#include "models/layers.h"
#include "models/train/net.h"

/* By name, with whatever prefixes either carries. */
static const struct st_tensor *find(const struct st_set *st, const char *name)
{
    const char *key = ttm_tensors_key(name);
    for (size_t i = 0; i < st_count(st); i++)
        if (!strcmp(ttm_tensors_key(st_at(st, i)->name), key)) return st_at(st, i);
    return NULL;
}

int net_shapes_of(const struct st_set *st, const struct gpt2_config *cfg, net_shapes *shapes,
                  struct err *err)
{
    int sizes[NET_LINEARS][2];
    net_linear_sizes(cfg, sizes);
    memset(shapes, 0, (size_t)cfg->n_layer * sizeof *shapes);
    for (int i = 0; i < cfg->n_layer; i++)
        for (int j = 0; j < NET_LINEARS; j++) {
            struct ttm_tensors t;
            char linear[48];
            net_linear_name(linear, i, j);
            int rc =
                ttm_tensors_find(&t, st, linear, (size_t)sizes[j][0], (size_t)sizes[j][1], err);
            if (rc < 0) return rc;
            if (rc) shapes[i][j] = t.shape;
        }
    return 0;
}

bool net_has_head(const struct st_set *st)
{
    const struct st_tensor *head = find(st, "lm_head.weight"), *wte = find(st, "wte.weight");
    return head && !(wte && head->bytes == wte->bytes && head->dtype == wte->dtype &&
                     memcmp(head->data, wte->data, wte->bytes) == 0);
}

bool net_has_score(const struct st_set *st, int labels)
{
    const struct st_tensor *score = find(st, "score.weight");
    return score && score->n_dims == 2 && score->shape[0] == (size_t)labels;
}

static bool of_ttm(const struct net *net, const struct net_tensor *t)
{
    char name[48], bias[80];
    for (int i = 0; t->kind == CHECKPOINT_BIAS && i < net->cfg.n_layer; i++)
        for (int j = 0; j < NET_LINEARS; j++) {
            net_linear_name(name, i, j);
            snprintf(bias, sizeof bias, "transformer.%s.bias", name);
            if (net->layers[i].linear[j].ttm && !strcmp(bias, t->name)) return true;
        }
    return false;
}

/* One tensor into its place; its shape is compared with the layout's, not only its size. */
static int load_tensor(const struct net_tensor *t, const struct st_tensor *s, float *w,
                       struct err *err)
{
    bool same = s->n_dims == t->n_dims;
    for (int k = 0; same && k < t->n_dims; k++)
        same = s->shape[k] == t->shape[k];
    if (!same)
        return err_set(err, ERR_INVALID,
                       "%s: tensor %s has %zu elements in %d dimensions, %zu in %d were expected",
                       s->file, s->name, s->elements, s->n_dims, t->elements, t->n_dims);
    if (s->dtype != DTYPE_F32 && s->dtype != DTYPE_F16 && s->dtype != DTYPE_BF16)
        return err_set(err, ERR_INVALID, "%s: tensor %s is of type %s, expected F32, F16 or BF16",
                       s->file, s->name, dtype_name(s->dtype));
    dtype_to_f32(w + t->offset, s->data, s->dtype, t->elements);
    return 0;
}

int net_load(const struct net *net, const struct st_set *st, float *w, struct err *err)
{
    struct ttm_tensors cores = {0};
    memset(w, 0, net->floats * sizeof *w);
    for (size_t i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *t = &net->tensors[i];
        int rc = 0;
        if (t->core == 0) { /* the others of its layer follow */
            const struct net_linear *l = &net->layers[t->layer].linear[t->linear];
            char layer[48];
            net_linear_name(layer, t->layer, t->linear);
            rc = ttm_tensors_find(&cores, st, layer, l->in, l->out, err);
            if (rc < 0) return rc;
            if (!rc) cores.shape.d = 0;
        }
        const struct st_tensor *s = NULL;
        if (t->core < 0)
            s = find(st, t->name);
        else if (t->core < cores.shape.d)
            s = cores.core[t->core];
        bool score = net->labels && t->offset == net->head;
        if ((!s && of_ttm(net, t)) || (score && !net_has_score(st, net->labels))) continue;
        if (!s) return err_set(err, ERR_MISSING, "tensor %s is missing", t->name);
        rc = load_tensor(t, s, w, err);
        if (rc) return rc;
    }
    return 0;
}

int net_open(struct net *net, float **w, const char *dir, int labels, struct err *err)
{
    struct gpt2_config cfg;
    struct st_set *st = NULL;
    net_shapes *shapes = NULL;
    void *p = NULL;
    int rc = gpt2_config_load(&cfg, dir, err);
    if (!rc) rc = st_open(&st, dir, err);
    if (!rc) rc = layers_promised(&cfg, st, dir, err);
    if (rc) goto out;
    shapes = mem_alloc((size_t)cfg.n_layer * sizeof *shapes);
    rc = net_shapes_of(st, &cfg, shapes, err);
    if (!rc) cfg.tie_word_embeddings = labels || !net_has_head(st);
    if (!rc)
        rc = labels ? net_init_classifier(net, &cfg, labels, shapes, err)
                    : net_init(net, &cfg, net_has_head(st), shapes, err);
    if (!rc) rc = mem_map(&p, net->floats * sizeof **w, "parameters", err);
    *w = p;
    if (!rc) rc = net_load(net, st, *w, err);
    rc = st_verify(st, rc, err);
out:
    free(shapes);
    st_close(st);
    return rc;
}

int net_fits_tokenizer(const struct net *net, int32_t vocab, const char *dir, struct err *err)
{
    if (vocab <= net->cfg.vocab_size) return 0;
    return err_set_param(err, ERR_INVALID, "vocab",
                         "the tokenizer in %s has ids up to %d, the model only up to %d", dir,
                         (int)vocab - 1, net->cfg.vocab_size - 1);
}

int net_save(const struct net *net, const float *w, enum dtype type, const char *path,
             struct err *err)
{
    struct st_writer *out = NULL;
    int rc = st_writer_open(&out, path, err);
    if (rc) return rc;
    for (size_t i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *t = &net->tensors[i];
        st_writer_declare(out, t->name, type, t->shape, t->n_dims);
    }
    rc = st_writer_begin(out, err);
    for (size_t i = 0; !rc && i < net->n_tensors; i++)
        rc = st_writer_data(out, w + net->tensors[i].offset, net->tensors[i].elements, err);
    if (rc) {
        st_writer_abort(out);
        return rc;
    }
    return st_writer_finish(out, err);
}
