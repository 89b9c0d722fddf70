/* Checkpoints in and out of the flat array. The engine's own loader packs weights for inference and
 * refuses what it cannot serve; here the same tensors are wanted row by row in f32. A file is searched
 * under the few spellings that names have in the wild. */
#include <stdio.h>
#include <string.h>

#include "models/train/net.h"

static const char *const prefixes[] = {"transformer.", "", "module.transformer.", "module."};
#define PREFIXES (sizeof prefixes / sizeof *prefixes)

static const struct st_tensor *find(const struct st_set *st, const char *name)
{
    const size_t n = strlen(prefixes[0]);
    const char *bare = strncmp(name, prefixes[0], n) == 0 ? name + n : name;
    char spelt[160];
    for (size_t i = 0; i < PREFIXES; i++) {
        snprintf(spelt, sizeof spelt, "%s%s", prefixes[i], bare);
        const struct st_tensor *t = st_find(st, spelt);
        const char *cores = t ? NULL : strstr(spelt, ".ttm.cores.");
        if (cores) {
            char tt[176];
            snprintf(tt, sizeof tt, "%.*s.ttm.tt.cores.%s", (int)(cores - spelt), spelt,
                     cores + strlen(".ttm.cores."));
            t = st_find(st, tt);
        }
        if (t) return t;
    }
    return NULL;
}

static int core_of(const struct st_tensor *t, struct ttm_shape *s, struct err *err)
{
    int k = s->d;
    if (t->n_dims != 4 || k == TTM_MAX_CORES)
        return err_set(err, ERR_INVALID, "%s: tensor %s has %d dimensions, a core has 4", t->file,
                       t->name, t->n_dims);
    for (int i = 0; i < 4; i++)
        if (t->shape[i] < 1 || t->shape[i] > TTM_MAX_RANK)
            return err_set(err, ERR_INVALID, "%s: tensor %s has a dimension of %zu", t->file,
                           t->name, t->shape[i]);
    if (k && (size_t)s->r[k] != t->shape[0])
        return err_set(err, ERR_INVALID, "%s: tensor %s has rank %zu, the core before it %d",
                       t->file, t->name, t->shape[0], s->r[k]);
    s->r[k] = (int)t->shape[0];
    s->m[k] = (int)t->shape[1];
    s->n[k] = (int)t->shape[2];
    s->r[k + 1] = (int)t->shape[3];
    s->d++;
    return 0;
}

int net_shapes_of(const struct st_set *st, const struct gpt2_config *cfg, net_shapes *shapes,
                  struct err *err)
{
    const int sizes[NET_LINEARS][2] = {{cfg->n_embd, 3 * cfg->n_embd},
                                       {cfg->n_embd, cfg->n_embd},
                                       {cfg->n_embd, cfg->n_inner},
                                       {cfg->n_inner, cfg->n_embd}};
    memset(shapes, 0, (size_t)cfg->n_layer * sizeof *shapes);
    int rc = 0;
    for (int i = 0; i < cfg->n_layer; i++)
        for (int j = 0; j < NET_LINEARS; j++) {
            struct ttm_shape *s = &shapes[i][j];
            char linear[48], name[96];
            const struct st_tensor *t;
            net_linear_name(linear, i, j);
            for (int k = 0; !rc; k++) {
                snprintf(name, sizeof name, "transformer.%s.ttm.cores.%d", linear, k);
                t = find(st, name);
                if (!t) break;
                rc = core_of(t, s, err);
            }
            if (rc) return rc;
            s->in = sizes[j][0];
            s->out = sizes[j][1];
            if (s->d && (rc = ttm_shape_check(s, linear, err))) return rc;
        }
    return 0;
}

bool net_has_head(const struct st_set *st)
{
    const struct st_tensor *head = find(st, "lm_head.weight"), *wte = find(st, "wte.weight");
    return head && !(wte && head->bytes == wte->bytes && head->dtype == wte->dtype &&
                     memcmp(head->data, wte->data, wte->bytes) == 0);
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

int net_load(const struct net *net, const struct st_set *st, float *w, struct err *err)
{
    memset(w, 0, net->floats * sizeof *w);
    for (size_t i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *t = &net->tensors[i];
        const struct st_tensor *s = find(st, t->name);
        if (!s && of_ttm(net, t)) continue;
        if (!s) return err_set(err, ERR_MISSING, "tensor %s is missing", t->name);
        bool same = s->n_dims == t->n_dims;
        for (int k = 0; same && k < t->n_dims; k++)
            same = s->shape[k] == t->shape[k];
        if (!same)
            return err_set(err, ERR_INVALID,
                           "%s: tensor %s has %zu elements in %d dimensions, %zu "
                           "in %d were expected",
                           s->file, s->name, s->elements, s->n_dims, t->elements, t->n_dims);
        if (s->dtype != DTYPE_F32 && s->dtype != DTYPE_F16 && s->dtype != DTYPE_BF16)
            return err_set(err, ERR_INVALID,
                           "%s: tensor %s is of type %s, expected F32, F16 or BF16", s->file,
                           s->name, dtype_name(s->dtype));
        dtype_to_f32(w + t->offset, s->data, s->dtype, t->elements);
    }
    return 0;
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
