/* The layout is made from the checkpoint's table of tensors, with the weight of a TTM layer replaced
 * by its cores: names and shapes are said in one place, and what is trained can be written by a loop
 * over the tensors. Offsets instead of pointers, because four arrays share the layout. */
#include "models/train/net.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/ttm/ttm.h"
#include "models/init_weights.h"

#define ALIGN_FLOATS 16

static const char *const linear_names[NET_LINEARS] = {"attn.c_attn", "attn.c_proj", "mlp.c_fc",
                                                      "mlp.c_proj"};

void net_linear_name(char out[48], int layer, int which)
{
    snprintf(out, 48, "h.%d.%s", layer, linear_names[which]);
}

void net_linear_sizes(const struct gpt2_config *cfg, int sizes[NET_LINEARS][2])
{
    const int c = cfg->n_embd, inner = cfg->n_inner;
    const int of[NET_LINEARS][2] = {{c, 3 * c}, {c, c}, {c, inner}, {inner, c}};
    memcpy(sizes, of, sizeof of);
}

static struct net_tensor *add(struct net *net, const char *name, enum checkpoint_kind kind)
{
    net->tensors = mem_realloc(net->tensors, (net->n_tensors + 1) * sizeof *net->tensors);
    struct net_tensor *t = &net->tensors[net->n_tensors++];
    *t = (struct net_tensor){.kind = kind, .layer = -1, .linear = -1, .core = -1};
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

static size_t place(struct net *net, struct net_tensor *t)
{
    t->elements = 1;
    for (int i = 0; i < t->n_dims; i++)
        t->elements *= t->shape[i];
    t->offset = net->floats;
    net->params += t->elements;
    net->floats = mem_round_up(net->floats + t->elements, ALIGN_FLOATS);
    return t->offset;
}

static size_t add_dense(struct net *net, const struct checkpoint_tensor *c)
{
    struct net_tensor *t = add(net, c->name, c->kind);
    t->n_dims = c->n_dims;
    t->shape[0] = c->shape[0];
    t->shape[1] = c->shape[1];
    return place(net, t);
}

static void add_cores(struct net *net, int layer, int which)
{
    struct net_linear *l = &net->layers[layer].linear[which];
    for (int k = 0; k < l->shape.d; k++) {
        struct net_tensor *t = add(net, "", CHECKPOINT_WEIGHT);
        snprintf(t->name, sizeof t->name, "transformer.h.%d.%s.ttm.cores.%d", layer,
                 linear_names[which], k);
        t->layer = layer;
        t->linear = which;
        t->core = k;
        t->n_dims = 4;
        t->shape[0] = (size_t)l->shape.r[k];
        t->shape[1] = (size_t)l->shape.m[k];
        t->shape[2] = (size_t)l->shape.n[k];
        t->shape[3] = (size_t)l->shape.r[k + 1];
        l->core[k] = place(net, t);
    }
}

/* Where a tensor of layer `l` belongs, by the end of its name; the linear layer for its weight. */
static size_t *layer_field(struct net_layer *l, const char *name, struct net_linear **weight)
{
    *weight = NULL;
    const struct {
        const char *name;
        size_t *field;
    } norms[] = {{"ln_1.weight", &l->ln_1_weight},
                 {"ln_1.bias", &l->ln_1_bias},
                 {"ln_2.weight", &l->ln_2_weight},
                 {"ln_2.bias", &l->ln_2_bias}};
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        if (!strcmp(name, norms[i].name)) return norms[i].field;
    for (int i = 0; i < NET_LINEARS; i++) {
        size_t n = strlen(linear_names[i]);
        if (strncmp(name, linear_names[i], n) != 0) continue;
        if (!strcmp(name + n, ".bias")) return &l->linear[i].bias;
        *weight = &l->linear[i];
        return &l->linear[i].weight;
    }
    BUG("tensor %s", name);
}

static void lay_out(struct net *net)
{
    for (size_t i = 0; i < checkpoint_count(&net->cfg, net->untied); i++) {
        struct checkpoint_tensor c;
        checkpoint_tensor_at(&net->cfg, net->untied, i, &c);
        int layer, end = 0;
        if (sscanf(c.name, "transformer.h.%d.%n", &layer, &end) == 1 && end) {
            struct net_linear *l;
            size_t *field = layer_field(&net->layers[layer], c.name + end, &l);
            if (l) {
                l->in = c.shape[0];
                l->out = c.shape[1];
            }
            if (l && l->ttm)
                add_cores(net, layer, (int)(l - net->layers[layer].linear));
            else
                *field = add_dense(net, &c);
            continue;
        }
        size_t at = add_dense(net, &c);
        if (strstr(c.name, "wte.")) net->wte = net->head = at;
        if (strstr(c.name, "wpe.")) net->wpe = at;
        if (strstr(c.name, "ln_f.weight")) net->ln_f_weight = at;
        if (strstr(c.name, "ln_f.bias")) net->ln_f_bias = at;
        if (strstr(c.name, "lm_head.")) net->head = at;
    }
    net->outputs = (size_t)net->cfg.vocab_size;
    if (!net->labels) return;
    net->outputs = (size_t)net->labels;
    struct net_tensor *t = add(net, "score.weight", CHECKPOINT_WEIGHT);
    t->n_dims = 2;
    t->shape[0] = net->outputs;
    t->shape[1] = (size_t)net->cfg.n_embd;
    net->head = place(net, t);
}

/* *net holds what kind of model it is to be. */
static int init(struct net *net, const net_shapes *shapes, struct err *err)
{
    const struct gpt2_config *cfg = &net->cfg;
    net->layers = mem_calloc((size_t)cfg->n_layer, sizeof *net->layers);
    int rc = 0;
    int sizes[NET_LINEARS][2];
    net_linear_sizes(cfg, sizes);
    for (int i = 0; !rc && shapes && i < cfg->n_layer; i++)
        for (int j = 0; !rc && j < NET_LINEARS; j++) {
            struct net_linear *l = &net->layers[i].linear[j];
            char name[48];
            l->ttm = shapes[i][j].d > 0;
            if (!l->ttm) continue;
            l->shape = shapes[i][j];
            net_linear_name(name, i, j);
            rc = ttm_shape_check(&l->shape, name, err);
            if (!rc && (l->shape.in != sizes[j][0] || l->shape.out != sizes[j][1]))
                rc = err_set(err, ERR_INVALID, "%s: the shape is of %d x %d, the layer %d x %d",
                             name, l->shape.in, l->shape.out, sizes[j][0], sizes[j][1]);
        }
    if (rc) {
        net_release(net);
        return rc;
    }
    lay_out(net);
    return 0;
}

int net_init(struct net *net, const struct gpt2_config *cfg, bool untied, const net_shapes *shapes,
             struct err *err)
{
    *net = (struct net){.cfg = *cfg, .untied = untied};
    return init(net, shapes, err);
}

int net_init_classifier(struct net *net, const struct gpt2_config *cfg, int labels,
                        const net_shapes *shapes, struct err *err)
{
    *net = (struct net){.cfg = *cfg, .labels = labels};
    return init(net, shapes, err);
}

void net_release(struct net *net)
{
    free(net->layers);
    free(net->tensors);
    memset(net, 0, sizeof *net);
}

size_t net_matmul_params(const struct net *net)
{
    size_t n = net->outputs * (size_t)net->cfg.n_embd;
    for (int i = 0; i < net->cfg.n_layer; i++)
        for (int j = 0; j < NET_LINEARS; j++)
            n += net->layers[i].linear[j].in * net->layers[i].linear[j].out;
    return n;
}

static bool into_residual(const char *name)
{
    return strstr(name, ".c_proj.") != NULL;
}

static int random_ttm(const struct net_linear *l, float *w, double std, uint64_t seed,
                      uint64_t stream, const char *name, struct err *err)
{
    float *cores[TTM_MAX_CORES];
    struct ttm view;
    for (int k = 0; k < l->shape.d; k++)
        cores[k] = w + l->core[k];
    int rc = ttm_borrow(&view, &l->shape, cores, name, err);
    return rc ? rc : ttm_random(&view, std, seed, stream, name, err);
}

int net_random(const struct net *net, float *w, uint64_t seed, struct err *err)
{
    double narrow = INIT_STD / sqrt(2.0 * net->cfg.n_layer);
    int rc = 0;
    memset(w, 0, net->floats * sizeof *w);
    for (size_t i = 0; !rc && i < net->n_tensors; i++) {
        const struct net_tensor *t = &net->tensors[i];
        double std = into_residual(t->name) ? narrow : INIT_STD;
        if (t->core == 0)
            rc =
                random_ttm(&net->layers[t->layer].linear[t->linear], w, std, seed, i, t->name, err);
        else if (t->core < 0 && t->kind == CHECKPOINT_WEIGHT)
            rng_normal_fill(w + t->offset, t->elements, std, seed, i * TTM_MAX_CORES);
        for (size_t k = 0; t->kind == CHECKPOINT_NORM_WEIGHT && k < t->elements; k++)
            w[t->offset + k] = 1;
    }
    return rc;
}
