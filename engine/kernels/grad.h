#ifndef TTMD_KERNELS_GRAD_H
#define TTMD_KERNELS_GRAD_H

#include <stddef.h>

#include "engine/kernels/kernels.h"

/* Arithmetic on rows for training: what a backward pass and an optimiser need beside kernels.h. One
 * table per instruction set, a scalar reference beside it, chosen together with the other table. All
 * operands f32, borrowed, of n elements, need not be aligned; those not named as results are not
 * modified. */
struct adamw {
    float lr; /* of this tensor in this step */
    float beta1, beta2;
    float correction1; /* 1 / (1 - beta1^step) */
    float correction2; /* 1 / (1 - beta2^step) */
    float eps;
    float decay;      /* w shrinks by this factor's part, learning rate included: w -= decay * w */
    float grad_scale; /* multiplies the gradient: clipping, averaging */
};

#define GEMM_MAX_ROWS 12
#define GEMM_MAX_COLS 32

struct grad_kernels {
    /* gemm_tile -- c (rows, cols) = alpha * sum over k of a[k] b[k], + c with `add`; the inside of gemm.h.
     *   a  (k, gemm_rows), b (k, gemm_cols) packed by gemm_pack(), zeros beyond rows and cols
     * gemm_pack -- the n columns of src as panels (k, width), one after another, the last one filled up
     * with zeros; src is (k, n), or (n, k) with `turned`, stride ld. */
    size_t gemm_rows, gemm_cols; /* at most GEMM_MAX_ROWS, GEMM_MAX_COLS */
    void (*gemm_tile)(size_t k, const float *a, const float *b, float alpha, bool add, float *c,
                      size_t ldc, size_t rows, size_t cols);
    void (*gemm_pack)(float *dst, size_t width, const float *src, size_t ld, bool turned, size_t k,
                      size_t n);

    /* add -- y += x. */
    void (*add)(float *y, const float *x, size_t n);

    /* add_scaled -- y += a * x. */
    void (*add_scaled)(float *y, float a, const float *x, size_t n);

    /* add_two -- y += a + b: bias and residual onto a product. */
    void (*add_two)(float *y, const float *a, const float *b, size_t n);

    /* scale -- y *= a. */
    void (*scale)(float *y, float a, size_t n);

    /* sum_squares -- of x, in double where it adds up. */
    double (*sum_squares)(const float *x, size_t n);

    /* bias_act -- pre += bias; y = act(pre). y must not be pre. */
    void (*bias_act)(float *y, float *pre, const float *bias, size_t n, enum act act);

    /* act_backward -- d *= act'(pre). */
    void (*act_backward)(float *d, const float *pre, size_t n, enum act act);

    /* layer_norm_backward -- the gradient of y = (x - mean) / sqrt(var + eps) * w + b:
     * dx += .., dw += .., db += .. for one row. */
    void (*layer_norm_backward)(float *dx, float *dw, float *db, const float *dy, const float *x,
                                const float *w, float eps, size_t n);

    /* softmax_backward -- d = p * (d - inner) * scale: the gradient of scale * s through p =
     * softmax(scale * s), inner = sum p d. */
    void (*softmax_backward)(float *d, const float *p, float inner, float scale, size_t n);

    /* adamw -- one step of AdamW: g' = grad_scale g; m = beta1 m + (1 - beta1) g'; v = beta2 v + (1 -
     * beta2) g'^2; w -= decay w + lr * m correction1 / (sqrt(v correction2) + eps).
     * Source  Loshchilov, Hutter 2019, arXiv:1711.05101. */
    void (*adamw)(float *w, const float *g, float *m, float *v, size_t n, const struct adamw *a);
};

/* grad_kernels -- the table of the instruction set that `k` is of. */
const struct grad_kernels *grad_kernels(const struct kernels *k);

#endif
