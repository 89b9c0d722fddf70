/* A linear layer there and back: three products when it is dense, the layer's plan when it is TTM. The
 * bias is the neighbours' business, who add it where they pass over the rows anyway. */
#include "models/train/parts.h"

static void cores_of(const struct net_linear *l, const float *w, const float *cores[TTM_MAX_CORES])
{
    for (int k = 0; k < l->shape.d; k++)
        cores[k] = w + l->core[k];
}

void linear_forward(const struct pass *p, int layer, int which, const float *x, float *y)
{
    const struct backprop *b = p->b;
    const struct net_linear *l = &b->net->layers[layer].linear[which];
    if (l->ttm) {
        const float *cores[TTM_MAX_CORES];
        cores_of(l, p->w, cores);
        ttm_grad_forward(&b->plans[layer][which], &b->compute, cores, x, p->rows, y, b->ttm);
        return;
    }
    gemm(&b->compute, &(struct gemm){.m = p->rows,
                                     .n = l->out,
                                     .k = l->in,
                                     .alpha = 1,
                                     .a = x,
                                     .lda = l->in,
                                     .b = p->w + l->weight,
                                     .ldb = l->out,
                                     .c = y,
                                     .ldc = l->out});
}

void linear_backward(const struct pass *p, int layer, int which, const float *x, const float *dy,
                     float *dx)
{
    const struct backprop *b = p->b;
    const struct net_linear *l = &b->net->layers[layer].linear[which];
    if (l->ttm) {
        const float *cores[TTM_MAX_CORES];
        float *dcores[TTM_MAX_CORES];
        cores_of(l, p->w, cores);
        for (int k = 0; k < l->shape.d; k++)
            dcores[k] = p->grad + l->core[k];
        ttm_grad_backward(&b->plans[layer][which], &b->compute, cores, x, dy, p->rows, dx, dcores,
                          b->ttm);
        return;
    }
    gemm(&b->compute, &(struct gemm){.ta = true,
                                     .m = l->in,
                                     .n = l->out,
                                     .k = p->rows,
                                     .alpha = 1,
                                     .beta = 1,
                                     .a = x,
                                     .lda = l->in,
                                     .b = dy,
                                     .ldb = l->out,
                                     .c = p->grad + l->weight,
                                     .ldc = l->out});
    gemm(&b->compute, &(struct gemm){.tb = true,
                                     .m = p->rows,
                                     .n = l->in,
                                     .k = l->out,
                                     .alpha = 1,
                                     .a = dy,
                                     .lda = l->out,
                                     .b = p->w + l->weight,
                                     .ldb = l->out,
                                     .c = dx,
                                     .ldc = l->in});
}
