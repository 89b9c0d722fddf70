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
    gemm_product(&b->compute, false, false, p->rows, l->out, l->in, x, p->w + l->weight, 0, y);
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
    gemm_product(&b->compute, true, false, l->in, l->out, p->rows, x, dy, 1, p->grad + l->weight);
    gemm_product(&b->compute, false, true, p->rows, l->in, l->out, dy, p->w + l->weight, 0, dx);
}
