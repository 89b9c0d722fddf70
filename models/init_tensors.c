/* The dense table of checkpoint.h, with the layers that are to be TTM replaced. A dense tensor keeps
 * the random stream that it has in the dense model: two models of one seed differ in nothing but the
 * layers that differ in kind. */
#include "models/init_tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static bool is_mlp(const char *name, const char *what)
{
    return strstr(name, ".mlp.") && ends_with(name, what);
}

/* A linear layer's weight that becomes a TTM. */
static bool becomes_ttm(const struct init_weights *w, const char *name)
{
    if (!w->ttm_rank) return false;
    return is_mlp(name, ".weight") ||
           (w->ttm_all && strstr(name, ".attn.") && ends_with(name, ".weight"));
}

static void put_dense(struct init_tensor *out, const struct checkpoint_tensor *t, size_t stream)
{
    *out = (struct init_tensor){.kind = t->kind,
                                .n_dims = t->n_dims,
                                .shape = {t->shape[0], t->shape[1]},
                                .elements = t->elements,
                                .stream = stream,
                                .core = -1};
    snprintf(out->name, sizeof out->name, "%s", t->name);
}

static int put_cores(struct init_tensor *out, size_t *n, const struct init_weights *w,
                     const struct checkpoint_tensor *t, size_t stream, struct err *err)
{
    struct ttm_shape s;
    char layer[64];
    snprintf(layer, sizeof layer, "%.*s", (int)(strlen(t->name) - strlen(".weight")), t->name);
    int rc = ttm_shape_paper(&s, (int)t->shape[0], (int)t->shape[1], w->ttm_rank, layer, err);
    for (int k = 0; !rc && k < s.d; k++) {
        struct init_tensor *q = &out[(*n)++];
        *q = (struct init_tensor){
            .kind = t->kind,
            .n_dims = 4,
            .shape = {(size_t)s.r[k], (size_t)s.m[k], (size_t)s.n[k], (size_t)s.r[k + 1]},
            .elements = ttm_shape_core(&s, k),
            .stream = stream,
            .core = k,
            .ttm = s};
        snprintf(q->name, sizeof q->name, "%s.ttm.cores.%d", layer, k);
    }
    return rc;
}

int init_tensors(struct init_tensor **out, size_t *n, const struct init_weights *w, struct err *err)
{
    size_t dense = checkpoint_count(w->cfg, w->untied), count = 0;
    struct init_tensor *list = mem_calloc(dense * TTM_MAX_CORES, sizeof *list);
    int rc = 0;
    for (size_t i = 0; !rc && i < dense; i++) {
        struct checkpoint_tensor t;
        checkpoint_tensor_at(w->cfg, w->untied, i, &t);
        if (w->no_mlp_bias && is_mlp(t.name, ".bias")) continue;
        if (becomes_ttm(w, t.name))
            rc = put_cores(list, &count, w, &t, i, err);
        else
            put_dense(&list[count++], &t, i);
    }
    if (rc) {
        free(list);
        return rc;
    }
    *out = list;
    *n = count;
    return 0;
}
