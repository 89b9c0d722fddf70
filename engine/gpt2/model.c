/* A model's life: open binds and fills, close frees. What a model computes is in forward.c, what its
 * file looks like in bind.c. After opening nothing refers to the file any more, so that it may be
 * replaced while the model serves. */
#include "engine/gpt2/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/weights.h"

int gpt2_dtype_parse(const char *name)
{
    static const char *const names[] = {
        [GPT2_AUTO] = "auto", [GPT2_F32] = "f32", [GPT2_BF16] = "bf16", [GPT2_INT8] = "int8"};
    for (int i = 0; name && i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(names[i], name) == 0) return i;
    return name ? -1 : GPT2_AUTO;
}

static float attn_scale(const struct gpt2_config *c, int layer)
{
    double s = 1;
    if (c->scale_attn_weights) s /= sqrt((double)c->n_embd / c->n_head);
    if (c->scale_attn_by_inverse_layer_idx) s /= layer + 1;
    return (float)s;
}

static void layer_release(struct gpt2_layer *l)
{
    free(l->ln_1_weight);
    free(l->ln_1_bias);
    free(l->ln_2_weight);
    free(l->ln_2_bias);
    linear_release(&l->c_attn);
    linear_release(&l->attn_proj);
    linear_release(&l->c_fc);
    linear_release(&l->mlp_proj);
}

int gpt2_open_with(struct gpt2 **out, const char *dir, const struct compute *c,
                   const struct gpt2_options *o, struct err *err)
{
    const struct gpt2_options defaults = {0};
    if (!o) o = &defaults;
    struct gpt2 *m = mem_calloc(1, sizeof *m);
    struct st_set *st = NULL;
    struct weight_fills fills = {0};
    int rc = gpt2_config_load(&m->cfg, dir, err);
    if (!rc) rc = st_open(&st, dir, err);
    if (!rc) rc = weights_bind(m, st, o, &fills, err);
    if (!rc) rc = weights_fill(&fills, c, o, err);
    if (!rc) rc = weights_make_ttm(m, &fills, c, o, err);
    for (int i = 0; !rc && i < m->cfg.n_layer; i++)
        m->layers[i].attn_scale = attn_scale(&m->cfg, i);
    weight_fills_release(&fills);
    rc = st_verify(st, rc, err);
    st_close(st);
    if (rc)
        gpt2_close(m);
    else
        *out = m;
    return rc;
}

int gpt2_open(struct gpt2 **out, const char *dir, const struct compute *c, gpt2_progress *progress,
              void *arg, struct err *err)
{
    const struct gpt2_options o = {.progress = progress, .progress_arg = arg};
    return gpt2_open_with(out, dir, c, &o, err);
}

void gpt2_close(struct gpt2 *m)
{
    if (!m) return;
    for (int i = 0; m->layers && i < m->cfg.n_layer; i++)
        layer_release(&m->layers[i]);
    free(m->layers);
    free(m->ttm);
    mem_unmap(m->wpe, (size_t)m->cfg.n_positions * (size_t)m->cfg.n_embd * sizeof *m->wpe);
    free(m->ln_f_weight);
    free(m->ln_f_bias);
    packed_release(&m->head);
    packed_release(&m->wte);
    free(m);
}
