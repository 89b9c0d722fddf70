/* The reference of the rows for training, in plain loops and double inside a row, and the choice of
 * the table that belongs to another one. The vector tables are tested against this one. */
#include "engine/kernels/grad.h"

#include <math.h>
#include <string.h>

#include "engine/kernels/kernels_isa.h"

enum { ROWS = 4, COLS = 8 };

static void gemm_tile(size_t k, const float *a, const float *b, float alpha, bool more, float *c,
                      size_t ldc, size_t rows, size_t cols)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < cols; j++) {
            float s = 0;
            for (size_t i = 0; i < k; i++)
                s = fmaf(a[i * ROWS + r], b[i * COLS + j], s);
            c[r * ldc + j] = alpha * s + (more ? c[r * ldc + j] : 0);
        }
}

static void gemm_pack(float *dst, size_t width, const float *src, size_t ld, bool turned, size_t k,
                      size_t n)
{
    for (size_t p = 0; p < n; p += width)
        for (size_t i = 0; i < k; i++)
            for (size_t j = p; j < p + width; j++)
                *dst++ = j >= n ? 0 : turned ? src[j * ld + i] : src[i * ld + j];
}

static void add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void add_scaled(float *y, float a, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = fmaf(x[i], a, y[i]);
}

static void add_two(float *y, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = y[i] + a[i] + b[i];
}

static void scale(float *y, float a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] *= a;
}

static double sum_squares(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)x[i] * (double)x[i];
    return s;
}

static void bias_act(float *y, float *pre, const float *bias, size_t n, enum act act)
{
    for (size_t i = 0; i < n; i++)
        y[i] = pre[i] += bias[i];
    kernels_scalar()->activate(y, n, act);
}

static double slope(double x, enum act act)
{
    const double sqrt_2_over_pi = 0.79788456080286535588;
    switch (act) {
    case ACT_NONE:
        break;
    case ACT_GELU_NEW: {
        double u = tanh(sqrt_2_over_pi * (x + 0.044715 * x * x * x));
        double du = sqrt_2_over_pi * (1 + 3 * 0.044715 * x * x);
        return 0.5 * (1 + u) + 0.5 * x * (1 - u * u) * du;
    }
    case ACT_GELU_ERF:
        return 0.5 * erfc(-x * M_SQRT1_2) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
    case ACT_RELU:
        return x > 0;
    }
    return 1;
}

static void act_backward(float *d, const float *pre, size_t n, enum act act)
{
    for (size_t i = 0; i < n; i++)
        d[i] = (float)((double)d[i] * slope((double)pre[i], act));
}

static void layer_norm_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                                const float *w, float eps, size_t n)
{
    double mean = 0, var = 0, m1 = 0, m2 = 0;
    for (size_t i = 0; i < n; i++)
        mean += x[i];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean);
    double inv = 1 / sqrt(var / (double)n + eps);
    for (size_t i = 0; i < n; i++) {
        m1 += (double)dy[i] * w[i] / (double)n;
        m2 += (double)dy[i] * w[i] * (x[i] - mean) * inv / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        double norm = (x[i] - mean) * inv;
        dw[i] += (float)(dy[i] * norm);
        db[i] += dy[i];
        dx[i] += (float)(((double)dy[i] * w[i] - m1 - norm * m2) * inv);
    }
}

static void softmax_backward(float *d, const float *p, float inner, float by, size_t n)
{
    for (size_t i = 0; i < n; i++)
        d[i] = p[i] * ((d[i] - inner) * by);
}

static void adamw(float *w, const float *g, float *m, float *v, size_t n, const struct adamw *a)
{
    for (size_t i = 0; i < n; i++) {
        float d = g[i] * a->grad_scale;
        m[i] = a->beta1 * m[i] + (1 - a->beta1) * d;
        v[i] = a->beta2 * v[i] + (1 - a->beta2) * d * d;
        w[i] -= a->decay * w[i];
        w[i] -= a->lr * a->correction1 * m[i] / (sqrtf(v[i] * a->correction2) + a->eps);
    }
}

static const struct grad_kernels scalar = {
    .gemm_rows = ROWS,
    .gemm_cols = COLS,
    .gemm_tile = gemm_tile,
    .gemm_pack = gemm_pack,
    .add = add,
    .add_scaled = add_scaled,
    .add_two = add_two,
    .scale = scale,
    .sum_squares = sum_squares,
    .bias_act = bias_act,
    .act_backward = act_backward,
    .layer_norm_backward = layer_norm_backward,
    .softmax_backward = softmax_backward,
    .adamw = adamw,
};

/* Tables of one name differ in the products of 8-bit numbers alone, of which there are none here. */
const struct grad_kernels *grad_kernels(const struct kernels *k)
{
#if defined(__x86_64__)
    if (strcmp(k->name, kernels_table_avx512.name) == 0) return &grad_table_avx512;
    if (strcmp(k->name, kernels_table_avx2.name) == 0) return &grad_table_avx2;
#elif defined(__aarch64__)
    if (strcmp(k->name, kernels_table_neon.name) == 0) return &grad_table_neon;
#endif
    (void)k;
    return &scalar;
}
