#ifndef TTMD_MODELS_TRAIN_PARTS_H
#define TTMD_MODELS_TRAIN_PARTS_H

/* The inside of backprop: what its files share. Shape letters: B sequences of T tokens, rows = B*T;
 * C channels, I inner width, H heads of size D, V rows of the LM head (the vocabulary) or of a
 * classifier's (its labels). */
#include "engine/kernels/gemm.h"
#include "engine/kernels/grad.h"
#include "models/train/backprop.h"

#define ROW_BLOCK 64   /* rows of one piece of row-wise work */
#define QUERY_BLOCK 64 /* queries of one piece of attention */

/* What one layer keeps. With recompute all layers share one set but for x. */
struct layer_acts {
    float *x;     /* (rows, C) the block's input */
    float *ln_1;  /* (rows, C) */
    float *qkv;   /* (rows, 3C) */
    float *shift; /* (B, H, T) of the softmax: p = exp((s - shift) * scale) */
    float *att;   /* (rows, C) heads' outputs */
    float *mid;   /* (rows, C) residual stream between attention and MLP */
    float *ln_2;  /* (rows, C) */
    float *pre;   /* (rows, I) before the activation */
    float *act;   /* (rows, I) */
};

struct backprop {
    const struct net *net;
    struct backprop_options o;
    struct compute compute;
    const struct kernels *k;      /* of compute */
    const struct grad_kernels *g; /* beside it */
    struct pool *pool;            /* of compute */
    size_t rows;                  /* B*T of the largest batch */
    size_t c, inner, heads, d, vocab;
    size_t outputs; /* V */

    void *arena; /* owned */
    size_t bytes;
    struct layer_acts *layers; /* (n_layer) owned array, pointing into the arena */
    float *x_out;              /* (rows, C) after the last block */
    float *hidden;             /* (rows, C) after the final norm */
    float *dx;                 /* (rows, C) gradient of the residual stream */
    float *narrow;             /* (rows, C) */
    float *masked;             /* (rows, C) dx behind a dropout mask; only with dropout */
    float *wide;               /* (rows, max(3C, I)) */
    float *partial;            /* (blocks, max(3C, I)) sums over blocks of rows */
    float *attention;          /* (threads, attention_floats) */
    size_t attention_floats;
    float *logits, *teacher_logits;             /* (chunk, V) */
    float *soft;                                /* (threads, V) */
    size_t chunk;                               /* rows whose logits are there at a time */
    double *row_loss, *row_distil;              /* (rows) */
    float *ttm;                                 /* scratch of TTM layers */
    struct ttm_grad_plan (*plans)[NET_LINEARS]; /* (n_layer) owned */
};

/* One pass over a batch. */
struct pass {
    struct backprop *b;
    const float *w;
    float *grad; /* NULL: forward only */
    const struct backprop_batch *batch;
    size_t rows;
    float dropout; /* 0: none in this pass */
    float scale;   /* of the gradients */
};

/* Where dropout is applied: part of the random stream. */
enum site { SITE_EMBED, SITE_ATTENTION, SITE_ATTN_RESID, SITE_MLP_RESID, SITES };

/* dropout_apply -- x[i] = kept ? x[i] / (1 - p) : 0 for n elements that are number `first`.. of their
 * site; the same call gives the same mask. No-op without dropout. */
void dropout_apply(const struct pass *p, int layer, enum site site, uint64_t first, float *x,
                   size_t n);

/* rows_for -- task over blocks of ROW_BLOCK rows. */
void rows_for(const struct pass *p, pool_task *task, void *arg);
static inline size_t rows_end(const struct pass *p, size_t block)
{
    return (block + 1) * ROW_BLOCK < p->rows ? (block + 1) * ROW_BLOCK : p->rows;
}
static inline size_t rows_blocks(const struct pass *p)
{
    return (p->rows + ROW_BLOCK - 1) / ROW_BLOCK;
}

/* Row-wise layers. norm_backward adds to dx, and to the gradients of weight and bias. */
void norm_forward(const struct pass *p, float *y, const float *x, size_t weight, size_t bias);
void norm_backward(const struct pass *p, float *dx, const float *dy, const float *x, size_t weight,
                   size_t bias);

/* bias_backward -- gradient of a bias: the sum of dy's rows. */
void bias_backward(const struct pass *p, size_t bias, const float *dy, size_t n);

/* partial_sum -- out[j] += the sum over blocks of b->partial (blocks, n), in order. */
void partial_sum(const struct pass *p, float *out, size_t stride, size_t at, size_t n);

/* Linear layers, without the bias. linear_backward overwrites dx with dy W^T and adds to W's gradient;
 * x is what the forward pass was given. */
void linear_forward(const struct pass *p, int layer, int which, const float *x, float *y);
void linear_backward(const struct pass *p, int layer, int which, const float *x, const float *dy,
                     float *dx);

/* Attention of all sequences and heads: qkv -> att, shift; and back, d_att -> d_qkv (overwritten). */
void attention_forward(const struct pass *p, int layer);
void attention_backward(const struct pass *p, int layer, const float *d_att, float *d_qkv);
size_t attention_scratch_floats(const struct net *net, size_t length);

/* block_forward -- one transformer block: acts->x to y; with y NULL it stops at what the backward pass
 * needs. block_backward: dx in place. */
void block_forward(const struct pass *p, int layer, float *y);
void block_backward(const struct pass *p, int layer);

void embed_forward(const struct pass *p);
void embed_backward(const struct pass *p);

/* head_loss -- hidden to losses, in chunks of rows; with p->grad also the gradient of hidden (to
 * b->narrow) and of the head. */
void head_loss(const struct pass *p, struct backprop_loss *out);

#endif
