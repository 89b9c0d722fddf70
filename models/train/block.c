/* One transformer block there and back. Forward:
 *
 *   ln_1 = norm(x); qkv = ln_1 A + a; att = attention(qkv); mid = x + drop(att P + p)
 *   ln_2 = norm(mid); pre = ln_2 F + f; act = gelu(pre); y = mid + drop(act Q + q)
 *
 * Backward, dx holding dy at first: the gradients of both branches are added into dx, so that the
 * residual connections cost nothing. */
#include "models/train/parts.h"

struct join {
    const struct pass *p;
    float *y;
    const float *bias, *residual;
    int layer;
    enum site site;
    size_t n;
};

static void add_bias_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct join *j = arg;
    (void)worker;
    for (size_t r = begin * ROW_BLOCK; r < rows_end(j->p, end - 1); r++)
        j->p->b->g->add(j->y + r * j->n, j->bias, j->n);
}

/* y = residual + drop(y + bias) */
static void join_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct join *j = arg;
    const struct backprop *b = j->p->b;
    (void)worker;
    for (size_t r = begin * ROW_BLOCK; r < rows_end(j->p, end - 1); r++) {
        float *y = j->y + r * j->n;
        const float *residual = j->residual + r * j->n;
        if (j->p->dropout <= 0) {
            b->g->add_two(y, j->bias, residual, j->n);
            continue;
        }
        b->g->add(y, j->bias, j->n);
        dropout_apply(j->p, j->layer, j->site, r * j->n, y, j->n);
        b->g->add(y, residual, j->n);
    }
}

struct act_job {
    const struct pass *p;
    float *pre, *act; /* backward: act is the gradient */
    const float *bias;
    size_t n;
};

static void act_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct act_job *j = arg;
    const struct backprop *b = j->p->b;
    (void)worker;
    for (size_t r = begin * ROW_BLOCK; r < rows_end(j->p, end - 1); r++)
        b->g->bias_act(j->act + r * j->n, j->pre + r * j->n, j->bias, j->n, b->net->cfg.activation);
}

static void act_back_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct act_job *j = arg;
    const struct backprop *b = j->p->b;
    (void)worker;
    size_t from = begin * ROW_BLOCK, to = rows_end(j->p, end - 1);
    b->g->act_backward(j->act + from * j->n, j->pre + from * j->n, (to - from) * j->n,
                       b->net->cfg.activation);
}

void block_forward(const struct pass *p, int layer, float *y)
{
    const struct backprop *b = p->b;
    const struct net_layer *l = &b->net->layers[layer];
    const struct net_linear *lin = l->linear;
    struct layer_acts *a = &b->layers[layer];
    norm_forward(p, a->ln_1, a->x, l->ln_1_weight, l->ln_1_bias);
    linear_forward(p, layer, NET_ATTN, a->ln_1, a->qkv);
    struct join j = {.p = p, .layer = layer, .y = a->qkv, .n = 3 * b->c};
    j.bias = p->w + lin[NET_ATTN].bias;
    rows_for(p, add_bias_rows, &j);
    attention_forward(p, layer);
    linear_forward(p, layer, NET_ATTN_PROJ, a->att, a->mid);
    j = (struct join){.p = p, .layer = layer, .site = SITE_ATTN_RESID, .n = b->c};
    j.y = a->mid;
    j.bias = p->w + lin[NET_ATTN_PROJ].bias;
    j.residual = a->x;
    rows_for(p, join_rows, &j);
    norm_forward(p, a->ln_2, a->mid, l->ln_2_weight, l->ln_2_bias);
    linear_forward(p, layer, NET_FC, a->ln_2, a->pre);
    struct act_job act = {.p = p, .pre = a->pre, .act = a->act, .n = b->inner};
    act.bias = p->w + lin[NET_FC].bias;
    rows_for(p, act_rows, &act);
    if (!y) return;
    linear_forward(p, layer, NET_MLP_PROJ, a->act, y);
    j.site = SITE_MLP_RESID;
    j.y = y;
    j.bias = p->w + lin[NET_MLP_PROJ].bias;
    j.residual = a->mid;
    rows_for(p, join_rows, &j);
}

static void mask_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct join *j = arg;
    const struct backprop *b = j->p->b;
    (void)worker;
    size_t from = begin * ROW_BLOCK * j->n, to = rows_end(j->p, end - 1) * j->n;
    for (size_t i = from; i < to; i++)
        j->y[i] = b->dx[i];
    dropout_apply(j->p, j->layer, j->site, from, j->y + from, to - from);
}

/* The gradient of what was added to the residual stream: dx, behind the mask if there is one. */
static const float *branch(const struct pass *p, int layer, enum site site)
{
    struct join j = {.p = p, .y = p->b->masked, .layer = layer, .site = site, .n = p->b->c};
    if (p->dropout <= 0) return p->b->dx;
    rows_for(p, mask_rows, &j);
    return p->b->masked;
}

void block_backward(const struct pass *p, int layer)
{
    const struct backprop *b = p->b;
    const struct net_layer *l = &b->net->layers[layer];
    const struct net_linear *lin = l->linear;
    const struct layer_acts *a = &b->layers[layer];
    const float *d = branch(p, layer, SITE_MLP_RESID);
    bias_backward(p, lin[NET_MLP_PROJ].bias, d, b->c);
    linear_backward(p, layer, NET_MLP_PROJ, a->act, d, b->wide);
    struct act_job act = {.p = p, .pre = a->pre, .act = b->wide, .n = b->inner};
    rows_for(p, act_back_rows, &act);
    bias_backward(p, lin[NET_FC].bias, b->wide, b->inner);
    linear_backward(p, layer, NET_FC, a->ln_2, b->wide, b->narrow);
    norm_backward(p, b->dx, b->narrow, a->mid, l->ln_2_weight, l->ln_2_bias);

    d = branch(p, layer, SITE_ATTN_RESID);
    bias_backward(p, lin[NET_ATTN_PROJ].bias, d, b->c);
    linear_backward(p, layer, NET_ATTN_PROJ, a->att, d, b->narrow);
    attention_backward(p, layer, b->narrow, b->wide);
    bias_backward(p, lin[NET_ATTN].bias, b->wide, 3 * b->c);
    linear_backward(p, layer, NET_ATTN, a->ln_1, b->wide, b->narrow);
    norm_backward(p, b->dx, b->narrow, a->x, l->ln_1_weight, l->ln_1_bias);
}
