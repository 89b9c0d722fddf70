/* Causal attention, forward and backward, one (sequence, head) at a time per thread. A block of
 * queries meets all keys up to its last query in one product; what lies above the diagonal inside the
 * block is set to zero. The probabilities are not kept: a shift per query is, from which the backward
 * pass makes them again out of the scores. That is one more product against B*H*T*T floats a layer.
 *
 * With p = softmax(scale * q k^T), o = p v, and d the gradient of o:
 *   dv = p^T d,  dp = d v^T,  ds = p (dp - sum p dp) scale,  dq = ds k,  dk = ds^T q
 * and sum_j p_j dp_j = d . o, with or without dropout on p. */
#include <math.h>
#include <string.h>

#include "models/train/parts.h"

struct attention {
    const struct pass *p;
    int layer;
    const struct layer_acts *a;
    const float *d_att;
    float *d_qkv;
    float scale;
};

size_t attention_scratch_floats(const struct net *net, size_t length)
{
    (void)net;
    return 2 * QUERY_BLOCK * length;
}

static float attention_scale(const struct net *net, int layer)
{
    float s = 1;
    if (net->cfg.scale_attn_weights) s /= sqrtf((float)(net->cfg.n_embd / net->cfg.n_head));
    if (net->cfg.scale_attn_by_inverse_layer_idx) s /= (float)(layer + 1);
    return s;
}

/* One block of queries of one sequence and head. */
struct tile {
    const struct attention *at;
    size_t seq, head, q0, nq, keys; /* keys = q0 + nq */
    size_t row0;                    /* of the sequence */
    const float *q, *k, *v;         /* (nq, D), (keys, D), stride 3C */
    float *s;                       /* (nq, keys) scratch */
    float *shift;                   /* (nq) */
};

static struct tile tile_at(const struct attention *at, size_t item, size_t q0, float *scratch)
{
    const struct backprop *b = at->p->b;
    size_t length = at->p->batch->length, ld = 3 * b->c;
    struct tile t = {.at = at, .seq = item / b->heads, .head = item % b->heads, .q0 = q0};
    t.nq = length - q0 < QUERY_BLOCK ? length - q0 : QUERY_BLOCK;
    t.keys = q0 + t.nq;
    t.row0 = t.seq * length;
    const float *base = at->a->qkv + t.row0 * ld + t.head * b->d;
    t.q = base + q0 * ld;
    t.k = base + b->c;
    t.v = base + 2 * b->c;
    t.s = scratch;
    t.shift = at->a->shift + item * length + q0;
    return t;
}

static void drop(const struct tile *t, float *s)
{
    const struct pass *p = t->at->p;
    uint64_t length = p->batch->length;
    for (size_t i = 0; p->dropout > 0 && i < t->nq; i++)
        dropout_apply(p, t->at->layer, SITE_ATTENTION,
                      ((t->seq * p->b->heads + t->head) * length + t->q0 + i) * length,
                      s + i * t->keys, t->q0 + i + 1);
}

/* s = q k^T, unscaled; also d v^T. */
static void scores(const struct tile *t, const float *q, size_t ldq, const float *k, float *s)
{
    const struct backprop *b = t->at->p->b;
    gemm_one(b->k, &(struct gemm){.tb = true,
                                  .m = t->nq,
                                  .n = t->keys,
                                  .k = b->d,
                                  .alpha = 1,
                                  .a = q,
                                  .lda = ldq,
                                  .b = k,
                                  .ldb = 3 * b->c,
                                  .c = s,
                                  .ldc = t->keys});
}

static void forward_tile(const struct tile *t)
{
    const struct backprop *b = t->at->p->b;
    float scale = t->at->scale;
    scores(t, t->q, 3 * b->c, t->k, t->s);
    for (size_t i = 0; i < t->nq; i++) {
        float *s = t->s + i * t->keys;
        size_t n = t->q0 + i + 1;
        float top = b->k->max(s, n);
        double sum = b->k->exp_to(s, s, n, top, scale);
        t->shift[i] = top + (float)(log(sum) / (double)scale);
        b->g->scale(s, (float)(1 / sum), n);
        memset(s + n, 0, (t->keys - n) * sizeof *s);
    }
    drop(t, t->s);
    gemm_one(b->k, &(struct gemm){.m = t->nq,
                                  .n = b->d,
                                  .k = t->keys,
                                  .alpha = 1,
                                  .a = t->s,
                                  .lda = t->keys,
                                  .b = t->v,
                                  .ldb = 3 * b->c,
                                  .c = t->at->a->att + (t->row0 + t->q0) * b->c + t->head * b->d,
                                  .ldc = b->c});
}

static void forward_items(void *arg, size_t begin, size_t end, int worker)
{
    const struct attention *at = arg;
    const struct backprop *b = at->p->b;
    for (size_t item = begin; item < end; item++)
        for (size_t q0 = 0; q0 < at->p->batch->length; q0 += QUERY_BLOCK) {
            struct tile t =
                tile_at(at, item, q0, b->attention + (size_t)worker * b->attention_floats);
            forward_tile(&t);
        }
}

void attention_forward(const struct pass *p, int layer)
{
    struct attention at = {.p = p, .layer = layer, .a = &p->b->layers[layer]};
    at.scale = attention_scale(p->b->net, layer);
    pool_for(p->b->pool, p->batch->sequences * p->b->heads, 1, forward_items, &at);
}

/* p = exp((s - shift) scale) again, to t->s; and ds, to ds which holds d v^T. */
static void tile_gradient(const struct tile *t, const float *d_att, float *ds)
{
    const struct backprop *b = t->at->p->b;
    drop(t, ds);
    for (size_t i = 0; i < t->nq; i++) {
        float *s = t->s + i * t->keys;
        size_t n = t->q0 + i + 1, row = (t->row0 + t->q0 + i) * b->c + t->head * b->d;
        float inner = b->k->dot(d_att + row, t->at->a->att + row, b->d);
        b->k->exp_to(s, s, n, t->shift[i], t->at->scale);
        memset(s + n, 0, (t->keys - n) * sizeof *s);
        b->g->softmax_backward(ds + i * t->keys, s, inner, t->at->scale, n);
        memset(ds + i * t->keys + n, 0, (t->keys - n) * sizeof *s);
    }
    drop(t, t->s);
}

static void backward_tile(const struct tile *t)
{
    const struct attention *at = t->at;
    const struct backprop *b = at->p->b;
    size_t ld = 3 * b->c, length = at->p->batch->length;
    float *ds = t->s + QUERY_BLOCK * length;
    const float *d = at->d_att + (t->row0 + t->q0) * b->c + t->head * b->d;
    float *dq = at->d_qkv + (t->row0 + t->q0) * ld + t->head * b->d;
    float *dk = at->d_qkv + t->row0 * ld + t->head * b->d + b->c;
    scores(t, t->q, ld, t->k, t->s);
    scores(t, d, b->c, t->v, ds);
    tile_gradient(t, at->d_att, ds);
    /* the last block of queries comes first and sees every key: it overwrites, the others add */
    struct gemm g = {.ta = true, .m = t->keys, .n = b->d, .k = t->nq, .alpha = 1};
    g.beta = t->keys == length ? 0 : 1;
    g.lda = t->keys;
    g.ldc = ld;
    g.a = t->s;
    g.b = d;
    g.ldb = b->c;
    g.c = dk + b->c;
    gemm_one(b->k, &g);
    g.a = ds;
    g.b = t->q;
    g.ldb = ld;
    g.c = dk;
    gemm_one(b->k, &g);
    gemm_one(b->k, &(struct gemm){.m = t->nq,
                                  .n = b->d,
                                  .k = t->keys,
                                  .alpha = 1,
                                  .a = ds,
                                  .lda = t->keys,
                                  .b = t->k,
                                  .ldb = ld,
                                  .c = dq,
                                  .ldc = ld});
}

static void backward_items(void *arg, size_t begin, size_t end, int worker)
{
    const struct attention *at = arg;
    const struct backprop *b = at->p->b;
    size_t blocks = (at->p->batch->length + QUERY_BLOCK - 1) / QUERY_BLOCK;
    for (size_t item = begin; item < end; item++)
        for (size_t i = blocks; i-- > 0;) {
            struct tile t = tile_at(at, item, i * QUERY_BLOCK,
                                    b->attention + (size_t)worker * b->attention_floats);
            backward_tile(&t);
        }
}

void attention_backward(const struct pass *p, int layer, const float *d_att, float *d_qkv)
{
    struct attention at = {.p = p,
                           .layer = layer,
                           .a = &p->b->layers[layer],
                           .d_att = d_att,
                           .d_qkv = d_qkv,
                           .scale = attention_scale(p->b->net, layer)};
    pool_for(p->b->pool, p->batch->sequences * p->b->heads, 1, backward_items, &at);
}
