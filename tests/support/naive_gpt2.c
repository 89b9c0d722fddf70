/* The oracle. Radford et al. 2019 in the order of the textbook, written to be checked by reading:
 * nothing is fused, packed, cached or batched. Intermediates are stored as f32 as PyTorch does, sums
 * run in double. */
#include "tests/support/naive_gpt2.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/safetensors.h"
#include "engine/gpt2/ttm_tensors.h"
#include "tests/support/harness.h"

struct naive_linear {
    float *w, *b; /* (in, out), (out) */
    int in, out;
};

struct naive_layer {
    float *ln_1_w, *ln_1_b, *ln_2_w, *ln_2_b;
    struct naive_linear c_attn, attn_proj, c_fc, mlp_proj;
};

struct naive_gpt2 {
    struct gpt2_config cfg;
    float *wte, *wpe, *ln_f_w, *ln_f_b, *head; /* head (V, C) may be wte */
    struct naive_layer *layers;
};

/* ---- loading ---- */

static float *get(const struct st_set *st, const char *name)
{
    static const char *const prefixes[] = {"", "transformer.", "module.", "module.transformer.",
                                           "transformer.module."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        char full[160];
        snprintf(full, sizeof full, "%s%s", prefixes[i], name);
        const struct st_tensor *t = st_find(st, full);
        if (!t) continue;
        float *x = mem_alloc(t->elements * sizeof *x);
        dtype_to_f32(x, t->data, t->dtype, t->elements);
        return x;
    }
    return NULL;
}

static float *layer_get(const struct st_set *st, int layer, const char *name)
{
    char full[96];
    snprintf(full, sizeof full, "h.%d.%s", layer, name);
    return get(st, full);
}

/* W of a TTM layer, entry by entry as it is defined. */
static float *get_cores(const struct st_set *st, int layer, const char *name, int in, int out)
{
    struct ttm_tensors t;
    struct ttm w;
    struct err err = {0};
    char full[96];
    snprintf(full, sizeof full, "h.%d.%s", layer, name);
    if (ttm_tensors_find(&t, st, full, (size_t)in, (size_t)out, &err) != 1 ||
        ttm_tensors_load(&w, &t, full, &err))
        ck_abort_msg("%s: %s", full, err.msg);
    float *dense = mem_alloc((size_t)in * (size_t)out * sizeof *dense);
    for (size_t i = 0; i < (size_t)in; i++)
        for (size_t j = 0; j < (size_t)out; j++)
            dense[i * (size_t)out + j] = (float)ttm_entry(&w, i, j);
    ttm_release(&w);
    return dense;
}

static void get_linear(struct naive_linear *l, const struct st_set *st, int layer, const char *name,
                       int in, int out)
{
    char full[64];
    l->in = in;
    l->out = out;
    snprintf(full, sizeof full, "%s.weight", name);
    l->w = layer_get(st, layer, full);
    if (!l->w) l->w = get_cores(st, layer, name, in, out);
    snprintf(full, sizeof full, "%s.bias", name);
    l->b = layer_get(st, layer, full);
    if (!l->b) l->b = mem_calloc((size_t)out, sizeof *l->b);
}

static void get_layer(struct naive_layer *l, const struct st_set *st, int i, int c, int inner)
{
    l->ln_1_w = layer_get(st, i, "ln_1.weight");
    l->ln_1_b = layer_get(st, i, "ln_1.bias");
    l->ln_2_w = layer_get(st, i, "ln_2.weight");
    l->ln_2_b = layer_get(st, i, "ln_2.bias");
    get_linear(&l->c_attn, st, i, "attn.c_attn", c, 3 * c);
    get_linear(&l->attn_proj, st, i, "attn.c_proj", c, c);
    get_linear(&l->c_fc, st, i, "mlp.c_fc", c, inner);
    get_linear(&l->mlp_proj, st, i, "mlp.c_proj", inner, c);
}

struct naive_gpt2 *naive_open(const char *dir)
{
    struct err err = {0};
    struct st_set *st = NULL;
    struct naive_gpt2 *m = mem_calloc(1, sizeof *m);
    if (gpt2_config_load(&m->cfg, dir, &err) || st_open(&st, dir, &err))
        ck_abort_msg("%s", err.msg);
    m->wte = get(st, "wte.weight");
    m->wpe = get(st, "wpe.weight");
    m->ln_f_w = get(st, "ln_f.weight");
    m->ln_f_b = get(st, "ln_f.bias");
    m->head = m->cfg.tie_word_embeddings ? m->wte : get(st, "lm_head.weight");
    m->layers = mem_calloc((size_t)m->cfg.n_layer, sizeof *m->layers);
    for (int i = 0; i < m->cfg.n_layer; i++)
        get_layer(&m->layers[i], st, i, m->cfg.n_embd, m->cfg.n_inner);
    st_close(st);
    return m;
}

static void free_linear(struct naive_linear *l)
{
    free(l->w);
    free(l->b);
}

void naive_free(struct naive_gpt2 *m)
{
    for (int i = 0; i < m->cfg.n_layer; i++) {
        struct naive_layer *l = &m->layers[i];
        free(l->ln_1_w);
        free(l->ln_1_b);
        free(l->ln_2_w);
        free(l->ln_2_b);
        free_linear(&l->c_attn);
        free_linear(&l->attn_proj);
        free_linear(&l->c_fc);
        free_linear(&l->mlp_proj);
    }
    free(m->layers);
    if (m->head != m->wte) free(m->head);
    free(m->wte);
    free(m->wpe);
    free(m->ln_f_w);
    free(m->ln_f_b);
    free(m);
}

const struct gpt2_config *naive_config(const struct naive_gpt2 *m)
{
    return &m->cfg;
}

/* ---- computing ---- */

static float *rows_new(int rows, int cols)
{
    return mem_calloc((size_t)rows * (size_t)cols, sizeof(float));
}

static float *layer_norm(const float *x, int rows, int c, const float *w, const float *b,
                         double eps)
{
    float *y = rows_new(rows, c);
    for (int r = 0; r < rows; r++) {
        double mean = 0, var = 0;
        for (int i = 0; i < c; i++)
            mean += x[r * c + i];
        mean /= c;
        for (int i = 0; i < c; i++)
            var += (x[r * c + i] - mean) * (x[r * c + i] - mean);
        var /= c;
        for (int i = 0; i < c; i++)
            y[r * c + i] = (float)((x[r * c + i] - mean) / sqrt(var + eps) * w[i] + b[i]);
    }
    return y;
}

static float *linear(const struct naive_linear *l, const float *x, int rows)
{
    float *y = rows_new(rows, l->out);
    for (int r = 0; r < rows; r++) {
        for (int j = 0; j < l->out; j++) {
            double s = l->b[j];
            for (int i = 0; i < l->in; i++)
                s += (double)x[r * l->in + i] * l->w[i * l->out + j];
            y[r * l->out + j] = (float)s;
        }
    }
    return y;
}

static double activation(double x, enum act act)
{
    if (act == ACT_RELU) return x > 0 ? x : 0;
    if (act == ACT_GELU_ERF) return 0.5 * x * (1 + erf(x / sqrt(2)));
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

/* Scaled q.k of all pairs, the future included: (H*T, T). */
static float *scores(const struct gpt2_config *g, int layer, const float *qkv, int t)
{
    int c = g->n_embd, d = c / g->n_head;
    float *s = rows_new(g->n_head * t, t);
    for (int h = 0; h < g->n_head; h++) {
        for (int i = 0; i < t; i++) {
            for (int j = 0; j < t; j++) {
                double sum = 0;
                for (int k = 0; k < d; k++)
                    sum += (double)qkv[i * 3 * c + h * d + k] * qkv[j * 3 * c + c + h * d + k];
                if (g->scale_attn_weights) sum /= sqrt(d);
                if (g->scale_attn_by_inverse_layer_idx) sum /= layer + 1;
                s[(h * t + i) * t + j] = (float)sum;
            }
        }
    }
    return s;
}

/* Row i of each head: softmax over 0..i, zero beyond. */
static float *softmax(const float *s, int heads, int t)
{
    float *p = rows_new(heads * t, t);
    for (int r = 0; r < heads * t; r++) {
        int n = r % t + 1;
        double max = -INFINITY, sum = 0;
        for (int j = 0; j < n; j++)
            max = fmax(max, s[r * t + j]);
        for (int j = 0; j < n; j++)
            sum += exp(s[r * t + j] - max);
        for (int j = 0; j < n; j++)
            p[r * t + j] = (float)(exp(s[r * t + j] - max) / sum);
    }
    return p;
}

static float *mix(const struct gpt2_config *g, const float *p, const float *qkv, int t)
{
    int c = g->n_embd, d = c / g->n_head;
    float *y = rows_new(t, c);
    for (int i = 0; i < t; i++) {
        for (int k = 0; k < c; k++) {
            double sum = 0;
            for (int j = 0; j <= i; j++)
                sum += (double)p[(k / d * t + i) * t + j] * qkv[j * 3 * c + 2 * c + k];
            y[i * c + k] = (float)sum;
        }
    }
    return y;
}

struct run {
    const struct naive_gpt2 *m;
    int t;
    naive_tap *tap;
    void *arg;
};

/* Report an intermediate; `done` is freed when not NULL: the array that is no longer needed. */
static void tell(const struct run *r, int layer, const char *what, const float *x, int rows,
                 int cols, float *done)
{
    if (r->tap) r->tap(r->arg, layer, what, x, (size_t)rows, (size_t)cols);
    free(done);
}

static void add_to(float *x, const float *y, int n)
{
    for (int i = 0; i < n; i++)
        x[i] += y[i];
}

static void attention_half(const struct run *r, int i, float *x)
{
    const struct gpt2_config *g = &r->m->cfg;
    const struct naive_layer *l = &r->m->layers[i];
    int t = r->t, c = g->n_embd, h = g->n_head;
    float *a = layer_norm(x, t, c, l->ln_1_w, l->ln_1_b, g->layer_norm_epsilon);
    tell(r, i, "ln_1", a, t, c, NULL);
    float *qkv = linear(&l->c_attn, a, t);
    tell(r, i, "qkv", qkv, t, 3 * c, a);
    float *s = scores(g, i, qkv, t);
    tell(r, i, "q_k", s, h * t, t, NULL);
    float *p = softmax(s, h, t);
    tell(r, i, "attention", p, h * t, t, s);
    float *y = mix(g, p, qkv, t);
    tell(r, i, "attn", y, t, c, p);
    float *z = linear(&l->attn_proj, y, t);
    tell(r, i, "proj", z, t, c, y);
    add_to(x, z, t * c);
    tell(r, i, "attn_resid", x, t, c, z);
    free(qkv);
}

static void mlp_half(const struct run *r, int i, float *x)
{
    const struct gpt2_config *g = &r->m->cfg;
    const struct naive_layer *l = &r->m->layers[i];
    int t = r->t, c = g->n_embd, inner = g->n_inner;
    float *a = layer_norm(x, t, c, l->ln_2_w, l->ln_2_b, g->layer_norm_epsilon);
    tell(r, i, "ln_2", a, t, c, NULL);
    float *h = linear(&l->c_fc, a, t);
    tell(r, i, "fc", h, t, inner, a);
    for (int j = 0; j < t * inner; j++)
        h[j] = (float)activation(h[j], g->activation);
    tell(r, i, "act", h, t, inner, NULL);
    float *z = linear(&l->mlp_proj, h, t);
    tell(r, i, "mlp", z, t, c, h);
    add_to(x, z, t * c);
    tell(r, i, "mlp_resid", x, t, c, z);
}

void naive_logits(const struct naive_gpt2 *m, const int32_t *tokens, int n, float *logits,
                  naive_tap *tap, void *arg)
{
    const struct gpt2_config *g = &m->cfg;
    struct run r = {.m = m, .t = n, .tap = tap, .arg = arg};
    int c = g->n_embd;
    float *x = rows_new(n, c);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < c; k++)
            x[i * c + k] = m->wte[tokens[i] * c + k] + m->wpe[i * c + k];
    tell(&r, -1, "embed", x, n, c, NULL);
    for (int i = 0; i < g->n_layer; i++) {
        attention_half(&r, i, x);
        mlp_half(&r, i, x);
    }
    float *y = layer_norm(x, n, c, m->ln_f_w, m->ln_f_b, g->layer_norm_epsilon);
    tell(&r, -1, "ln_f", y, n, c, x);
    for (int i = 0; i < n; i++) {
        for (int v = 0; v < g->vocab_size; v++) {
            double s = 0;
            for (int k = 0; k < c; k++)
                s += (double)y[i * c + k] * m->head[v * c + k];
            logits[i * g->vocab_size + v] = (float)s;
        }
    }
    free(y);
}
