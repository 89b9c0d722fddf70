#ifndef TTMD_TESTS_NAIVE_TRAIN_H
#define TTMD_TESTS_NAIVE_TRAIN_H

/* The loss of a GPT-2 as its definition reads, all in double: plain loops over the parameters in the
 * layout of struct net, a TTM weight entry by entry from its cores. The oracle of the gradients, by
 * differences; it shares with the trainer only the layout. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/train/net.h"

static inline double naive_entry(const struct net_linear *l, const double *w, size_t i, size_t j)
{
    double v[64] = {1}, next[64];
    size_t rows = ttm_shape_rows(&l->shape), cols = ttm_shape_cols(&l->shape);
    if (!l->ttm) return w[l->weight + i * l->out + j];
    for (int k = 0; k < l->shape.d; k++) {
        size_t m = (size_t)l->shape.m[k], n = (size_t)l->shape.n[k];
        size_t ra = (size_t)l->shape.r[k], rb = (size_t)l->shape.r[k + 1];
        rows /= m;
        cols /= n;
        memset(next, 0, sizeof next);
        for (size_t a = 0; a < ra; a++)
            for (size_t b = 0; b < rb; b++)
                next[b] +=
                    v[a] * w[l->core[k] + ((a * m + i / rows % m) * n + j / cols % n) * rb + b];
        memcpy(v, next, sizeof v);
    }
    return v[0];
}

static inline void naive_linear(const struct net_linear *l, const double *w, const double *x,
                                size_t t, double *y)
{
    for (size_t j = 0; j < l->out; j++)
        for (size_t r = 0; r < t; r++)
            y[r * l->out + j] = w[l->bias + j];
    for (size_t i = 0; i < l->in; i++)
        for (size_t j = 0; j < l->out; j++) {
            double e = naive_entry(l, w, i, j);
            for (size_t r = 0; r < t; r++)
                y[r * l->out + j] += x[r * l->in + i] * e;
        }
}

static inline void naive_norm(const double *w, const double *b, const double *x, size_t t, size_t c,
                              double eps, double *y)
{
    for (size_t r = 0; r < t; r++, x += c, y += c) {
        double mean = 0, var = 0;
        for (size_t i = 0; i < c; i++)
            mean += x[i] / (double)c;
        for (size_t i = 0; i < c; i++)
            var += (x[i] - mean) * (x[i] - mean) / (double)c;
        for (size_t i = 0; i < c; i++)
            y[i] = (x[i] - mean) / sqrt(var + eps) * w[i] + b[i];
    }
}

static inline double naive_act(double x, enum act act)
{
    if (act == ACT_GELU_NEW)
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    if (act == ACT_GELU_ERF) return 0.5 * x * erfc(-x / sqrt(2));
    return act == ACT_RELU && x < 0 ? 0 : x;
}

static inline void naive_attention(const struct net *net, int layer, const double *qkv, size_t t,
                                   double *out)
{
    size_t c = (size_t)net->cfg.n_embd, heads = (size_t)net->cfg.n_head, d = c / heads;
    double *p = mem_alloc(t * sizeof *p), scale = 1;
    if (net->cfg.scale_attn_weights) scale /= sqrt((double)d);
    if (net->cfg.scale_attn_by_inverse_layer_idx) scale /= layer + 1;
    for (size_t h = 0; h < heads; h++)
        for (size_t q = 0; q < t; q++) {
            double sum = 0;
            for (size_t k = 0; k <= q; k++) {
                p[k] = 0;
                for (size_t i = 0; i < d; i++)
                    p[k] += qkv[q * 3 * c + h * d + i] * qkv[k * 3 * c + c + h * d + i];
                sum += p[k] = exp(p[k] * scale);
            }
            for (size_t i = 0; i < d; i++) {
                double s = 0;
                for (size_t k = 0; k <= q; k++)
                    s += p[k] / sum * qkv[k * 3 * c + 2 * c + h * d + i];
                out[q * c + h * d + i] = s;
            }
        }
    free(p);
}

static inline void naive_block(const struct net *net, int layer, const double *w, double *x,
                               size_t t)
{
    const struct net_layer *l = &net->layers[layer];
    size_t c = (size_t)net->cfg.n_embd, inner = (size_t)net->cfg.n_inner;
    double eps = (double)net->cfg.layer_norm_epsilon;
    double *n = mem_alloc(t * c * sizeof *n), *qkv = mem_alloc(t * 3 * c * sizeof *qkv);
    double *y = mem_alloc(t * c * sizeof *y), *in = mem_alloc(t * inner * sizeof *in);
    naive_norm(w + l->ln_1_weight, w + l->ln_1_bias, x, t, c, eps, n);
    naive_linear(&l->linear[NET_ATTN], w, n, t, qkv);
    naive_attention(net, layer, qkv, t, n);
    naive_linear(&l->linear[NET_ATTN_PROJ], w, n, t, y);
    for (size_t i = 0; i < t * c; i++)
        x[i] += y[i];
    naive_norm(w + l->ln_2_weight, w + l->ln_2_bias, x, t, c, eps, n);
    naive_linear(&l->linear[NET_FC], w, n, t, in);
    for (size_t i = 0; i < t * inner; i++)
        in[i] = naive_act(in[i], net->cfg.activation);
    naive_linear(&l->linear[NET_MLP_PROJ], w, in, t, y);
    for (size_t i = 0; i < t * c; i++)
        x[i] += y[i];
    free(n);
    free(qkv);
    free(y);
    free(in);
}

/* naive_log_softmax -- logits (T, V) of one sequence divided by `hot`, after log-softmax. */
static inline void naive_log_softmax(const struct net *net, const double *w, const int32_t *tokens,
                                     size_t t, double hot, double *out)
{
    size_t c = (size_t)net->cfg.n_embd, v = net->outputs;
    double *x = mem_alloc(t * c * sizeof *x), *h = mem_alloc(t * c * sizeof *h);
    for (size_t r = 0; r < t; r++)
        for (size_t i = 0; i < c; i++)
            x[r * c + i] = w[net->wte + (size_t)tokens[r] * c + i] + w[net->wpe + r * c + i];
    for (int i = 0; i < net->cfg.n_layer; i++)
        naive_block(net, i, w, x, t);
    naive_norm(w + net->ln_f_weight, w + net->ln_f_bias, x, t, c,
               (double)net->cfg.layer_norm_epsilon, h);
    for (size_t r = 0; r < t; r++) {
        double sum = 0;
        for (size_t j = 0; j < v; j++) {
            double s = 0;
            for (size_t i = 0; i < c; i++)
                s += h[r * c + i] * w[net->head + j * c + i];
            out[r * v + j] = s / hot;
            sum += exp(s / hot);
        }
        for (size_t j = 0; j < v; j++)
            out[r * v + j] -= log(sum);
    }
    free(x);
    free(h);
}

/* naive_loss -- the sum of cross-entropies of a batch (B, T); targets < 0 do not count. */
static inline double naive_loss(const struct net *net, const double *w, const int32_t *tokens,
                                const int32_t *targets, size_t sequences, size_t t)
{
    size_t v = net->outputs;
    double *p = mem_alloc(t * v * sizeof *p), sum = 0;
    for (size_t s = 0; s < sequences; s++) {
        naive_log_softmax(net, w, tokens + s * t, t, 1, p);
        for (size_t r = 0; r < t; r++)
            if (targets[s * t + r] >= 0) sum -= p[r * v + (size_t)targets[s * t + r]];
    }
    free(p);
    return sum;
}

#endif
