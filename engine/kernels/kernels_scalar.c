/* The reference: plain loops over one element at a time, with the C library's mathematics.
 *
 * The vector tables are tested against this one. Sums over k use fmaf() in the order of k, so that
 * a matrix product without activation is equal to the vector tables' bit for bit; the functions
 * (exp, gelu) are the C library's, in double, and agree within rounding. It is also what runs on a
 * CPU without vector units, slowly. */
#include <math.h>
#include <string.h>

#include "engine/kernels/kernels_isa.h"

static float element(const void *p, size_t i, enum dtype t)
{
    uint16_t h;

    if (t == DTYPE_F32) return ((const float *)p)[i];
    if (t == DTYPE_I8) return ((const int8_t *)p)[i];
    h = ((const uint16_t *)p)[i];
    return t == DTYPE_F16 ? dtype_f16_to_f32(h) : dtype_bf16_to_f32(h);
}

static float act_one(float x, enum act act)
{
    const double sqrt_2_over_pi = 0.79788456080286535588;
    double d = x;

    switch (act) {
    case ACT_NONE:
        break;
    case ACT_GELU_NEW:
        if (isinf(x)) return x > 0 ? x : 0;
        return (float)(0.5 * d * (1 + tanh(sqrt_2_over_pi * (d + 0.044715 * d * d * d))));
    case ACT_GELU_ERF:
        if (isinf(x)) return x > 0 ? x : 0;
        return (float)(0.5 * d * erfc(-d * M_SQRT1_2));
    case ACT_RELU:
        return x < 0 ? 0 : x;
    }
    return x;
}

static void panel(const float *x, size_t ldx, size_t rows, const void *w, size_t k, float *y,
                  size_t ldy, size_t cols, const struct epilogue *e, enum dtype t)
{
    for (size_t r = 0; r < rows; r++) {
        float sum[PACK_N] = {0};
        for (size_t j = 0; e->start && j < cols; j++)
            sum[j] = e->start[r * e->lds + j];
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < cols; j++)
                sum[j] = fmaf(x[r * ldx + i], element(w, i * PACK_N + j, t), sum[j]);
        for (size_t j = 0; j < cols; j++) {
            float s = act_one(e->bias ? sum[j] + e->bias[j] : sum[j], e->act);
            y[r * ldy + j] = e->residual ? s + e->residual[r * e->ldr + j] : s;
        }
    }
}

static void panel_f32(const float *x, size_t ldx, size_t rows, const void *w, size_t k, float *y,
                      size_t ldy, size_t cols, const struct epilogue *e)
{
    panel(x, ldx, rows, w, k, y, ldy, cols, e, DTYPE_F32);
}

static void panel_f16(const float *x, size_t ldx, size_t rows, const void *w, size_t k, float *y,
                      size_t ldy, size_t cols, const struct epilogue *e)
{
    panel(x, ldx, rows, w, k, y, ldy, cols, e, DTYPE_F16);
}

static void panel_bf16(const float *x, size_t ldx, size_t rows, const void *w, size_t k, float *y,
                       size_t ldy, size_t cols, const struct epilogue *e)
{
    panel(x, ldx, rows, w, k, y, ldy, cols, e, DTYPE_BF16);
}

static void panel_int8(const struct int8_kernels *int8, const struct int8_rows *x, size_t rows,
                       const struct int8_panel *p, float *y, size_t ldy, size_t cols,
                       const struct epilogue *e)
{
    for (size_t r = 0; r < rows; r++) {
        const struct int8_rows one = {.q = x->q + r * x->ld};
        int32_t sum[PACK_N];
        int8->sums(&one, 1, p, sum);
        for (size_t j = 0; j < cols; j++) {
            float start = e->start ? e->start[r * e->lds + j] : 0;
            float s = fmaf((float)sum[j] * x->scale[r], p->scale[j], start);
            s = act_one(e->bias ? s + e->bias[j] : s, e->act);
            y[r * ldy + j] = e->residual ? s + e->residual[r * e->ldr + j] : s;
        }
    }
}

/* The scale of a row as numbers of 8 bits; returns what to multiply it with, 0 when it has to be all zeros. */
static float row_scale(float *scale, const float *x, size_t n)
{
    float most = 0;
    bool finite = true;

    for (size_t i = 0; i < n; i++) {
        finite &= isfinite(x[i]) != 0;
        most = fmaxf(most, fabsf(x[i]));
    }
    *scale = !finite ? NAN : most < INT8_LEAST ? 0 : most / 127;
    return finite && most >= INT8_LEAST ? 127 / most : 0;
}

static int eight_bits(float x, float by)
{
    return by > 0 ? (int)lrintf(x * by) : 0;
}

static void quantise(uint8_t *q, size_t padded, float *scale, const float *x, size_t n)
{
    float by = row_scale(scale, x, n);

    memset(q, INT8_ZERO, padded);
    for (size_t i = 0; i < n; i++)
        q[i] = (uint8_t)(INT8_ZERO + eight_bits(x[i], by));
}

static void layer_norm(float *y, const float *x, const float *w, const float *b, float eps,
                       size_t n)
{
    double mean = 0, var = 0;

    for (size_t i = 0; i < n; i++)
        mean += x[i];
    mean /= (double)n;
    for (size_t i = 0; i < n; i++)
        var += (x[i] - mean) * (x[i] - mean);
    double scale = 1 / sqrt(var / (double)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)((x[i] - mean) * scale * w[i] + b[i]);
}

static void activate(float *x, size_t n, enum act act)
{
    for (size_t i = 0; i < n; i++)
        x[i] = act_one(x[i], act);
}

static void finish_row(float *y, const float *x, size_t n, const struct epilogue *e)
{
    for (size_t i = 0; i < n; i++) {
        float s = e->bias ? x[i] + e->bias[i] : x[i];
        activate(&s, 1, e->act);
        y[i] = e->residual ? s + e->residual[i] : s;
    }
}

static void transpose(float *dst, size_t ldd, const float *src, size_t lds, size_t rows,
                      size_t cols)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            dst[c * ldd + r] = src[r * lds + c];
}

static float max(const float *x, size_t n)
{
    float m = -INFINITY;

    for (size_t i = 0; i < n; i++)
        if (x[i] > m) m = x[i];
    return m;
}

static size_t argmax(const float *x, size_t n)
{
    size_t at = 0;
    float m = -INFINITY;

    for (size_t i = 0; i < n; i++)
        if (x[i] > m) m = x[at = i];
    return at;
}

static double sum_exp(const float *x, size_t n, float shift)
{
    double s = 0;

    for (size_t i = 0; i < n; i++)
        s += expf(x[i] - shift);
    return s;
}

static double exp_to(float *y, const float *x, size_t n, float shift, float scale)
{
    double s = 0;

    for (size_t i = 0; i < n; i++)
        s += y[i] = expf((x[i] - shift) * scale);
    return s;
}

static float dot(const float *a, const float *b, size_t n)
{
    float s = 0;

    for (size_t i = 0; i < n; i++)
        s = fmaf(a[i], b[i], s);
    return s;
}

/* The tile of the block that holds position p, of which p is lane or row p % KV_BLOCK. */
static const void *tile_of(const struct attend *a, int p, size_t offset)
{
    return (const char *)a->kv + (size_t)a->blocks[p / KV_BLOCK] * a->block_bytes + offset;
}

/* What the elements of position p's row of an int8 tile are multiplied with. */
static float kv_scale(const void *tile, size_t bytes, int p)
{
    const char *end = (const char *)tile + bytes;

    return ((const float *)(const void *)end)[p % KV_BLOCK - KV_BLOCK];
}

static void score_floats(const struct attend *a, const float *q, float *s, int positions,
                         enum dtype t)
{
    for (int p = 0; p < positions; p++) {
        const void *k = tile_of(a, p, a->k_offset);
        s[p] = 0;
        for (size_t c = 0; c < (size_t)a->d; c++)
            s[p] = fmaf(q[c], element(k, c * KV_BLOCK + (size_t)p % KV_BLOCK, t), s[p]);
        s[p] *= a->scale;
    }
}

static void score_int8(const struct attend *a, const float *q, float *s, int positions)
{
    size_t d = (size_t)a->d, quads = int8_quads(d);
    uint8_t *whole = (uint8_t *)(s + (positions + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK);
    int32_t sum[KV_BLOCK] = {0};
    float scale;

    quantise(whole, quads * INT8_QUAD, &scale, q, d);
    for (int p = 0; p < positions; p++) {
        const void *k = tile_of(a, p, a->k_offset);
        const struct int8_keys keys = {.tile = &k, .n = 1, .quads = quads};
        if (p % KV_BLOCK == 0) a->int8->keys(whole, 0, 1, &keys, sum, 0);
        s[p] =
            (float)sum[p % KV_BLOCK] * (scale * a->scale) * kv_scale(k, kv_k_bytes(d, DTYPE_I8), p);
    }
}

static void attend_floats(const struct attend *a, const float *q, float *out, int positions,
                          enum dtype t)
{
    float *s = a->scratch, sum = 0;
    size_t d = (size_t)a->d, dp = kv_dp(d);

    score_floats(a, q, s, positions, t);
    float m = max(s, (size_t)positions);
    for (int p = 0; p < positions; p++)
        sum += s[p] = expf(s[p] - m);
    memset(out, 0, d * sizeof *out);
    for (int p = 0; p < positions; p++) {
        const void *v = tile_of(a, p, a->v_offset);
        for (size_t c = 0; c < d; c++)
            out[c] = fmaf(s[p], element(v, (size_t)p % KV_BLOCK * dp + c, t), out[c]);
    }
    for (size_t c = 0; c < d; c++)
        out[c] /= sum;
}

/* Weights s[0..positions) as digits behind them; returns what sums of these are to be multiplied with. */
static float to_digits(const float *s, int positions, uint8_t *digits, size_t blocks)
{
    float top = 0;
    bool finite = true;

    for (int p = 0; p < positions; p++) {
        finite &= isfinite(s[p]) != 0;
        top = fmaxf(top, s[p]);
    }
    memset(digits, 0, blocks * 2 * KV_BLOCK);
    for (int p = 0; p < positions && finite && top >= INT8_LEAST; p++) {
        long w = lrintf(s[p] * (INT8_WEIGHT / top));
        uint8_t *at = digits + p / KV_BLOCK * 2 * KV_BLOCK + p % KV_BLOCK;
        at[0] = (uint8_t)(w / INT8_DIGIT);
        at[KV_BLOCK] = (uint8_t)(w % INT8_DIGIT);
    }
    return finite ? top / INT8_WEIGHT : NAN;
}

/* As attend_int8.inc. */
static void attend_whole(const struct attend *a, const float *q, float *out, int positions)
{
    size_t d = (size_t)a->d, dp = kv_dp(d), blocks = ((size_t)positions + KV_BLOCK - 1) / KV_BLOCK;
    float *s = a->scratch, sum = 0;
    int32_t *sums = (int32_t *)(void *)(s + blocks * KV_BLOCK);
    uint8_t *digits = (uint8_t *)(sums + 2 * dp);
    const struct int8_values values = {.base = (const char *)a->kv + a->v_offset,
                                       .blocks = a->blocks,
                                       .block_bytes = a->block_bytes,
                                       .n = blocks,
                                       .channels = dp};

    score_int8(a, q, s, positions);
    float m = max(s, (size_t)positions);
    for (int p = 0; p < positions; p++) {
        float e = expf(s[p] - m);
        sum += e;
        s[p] = e * kv_scale(tile_of(a, p, a->v_offset), kv_v_bytes(dp, DTYPE_I8), p);
    }
    float back = to_digits(s, positions, digits, blocks) / sum;
    a->int8->values(&values, digits, 0, 1, sums);
    for (size_t c = 0; c < d; c++)
        out[c] = fmaf((float)sums[c], INT8_DIGIT, (float)sums[dp + c]) * back;
}

static void attend(const struct attend *a, enum dtype t)
{
    for (int i = 0; i < a->nq; i++) {
        const float *q = a->q + (size_t)i * a->ldq;
        float *out = a->out + (size_t)i * a->ldo;
        if (t == DTYPE_I8)
            attend_whole(a, q, out, a->pos0 + i + 1);
        else
            attend_floats(a, q, out, a->pos0 + i + 1, t);
    }
}

static void attend_f32(const struct attend *a)
{
    attend(a, DTYPE_F32);
}

static void attend_f16(const struct attend *a)
{
    attend(a, DTYPE_F16);
}

static void attend_int8(const struct attend *a)
{
    attend(a, DTYPE_I8);
}

void kernels_kv_put_f32(void *k_tile, void *v_tile, const struct kv_rows *in)
{
    size_t n = (size_t)in->d, dp = kv_dp(n);

    for (int r = 0; r < in->n; r++) {
        const float *k = in->k + (size_t)r * in->ld, *v = in->v + (size_t)r * in->ld;
        float *kt = (float *)k_tile + in->t + r, *vt = (float *)v_tile + (size_t)(in->t + r) * dp;
        for (size_t c = 0; c < n; c++)
            kt[c * KV_BLOCK] = k[c];
        memcpy(vt, v, n * sizeof *v);
        memset(vt + n, 0, (dp - n) * sizeof *vt);
    }
}

static void kv_put_f16(void *k_tile, void *v_tile, const struct kv_rows *in)
{
    size_t n = (size_t)in->d, dp = kv_dp(n);

    for (int r = 0; r < in->n; r++) {
        const float *k = in->k + (size_t)r * in->ld, *v = in->v + (size_t)r * in->ld;
        uint16_t *kt = (uint16_t *)k_tile + in->t + r;
        uint16_t *vt = (uint16_t *)v_tile + (size_t)(in->t + r) * dp;
        for (size_t c = 0; c < n; c++)
            kt[c * KV_BLOCK] = dtype_f32_to_f16(k[c]);
        for (size_t c = 0; c < n; c++)
            vt[c] = dtype_f32_to_f16(v[c]);
        memset(vt + n, 0, (dp - n) * sizeof *vt);
    }
}

static void put_int8(char *k_tile, char *v_tile, size_t t, size_t n, const float *k, const float *v)
{
    size_t dp = kv_dp(n), quads = int8_quads(n);
    float *k_scale = (float *)(void *)(k_tile + kv_k_bytes(n, DTYPE_I8)) - KV_BLOCK;
    float *v_scale = (float *)(void *)(v_tile + kv_v_bytes(dp, DTYPE_I8)) - KV_BLOCK;
    char *value = v_tile + t / INT8_QUAD * INT8_QUAD * dp + t % INT8_QUAD;
    int32_t sum = 0;
    float by;

    by = row_scale(k_scale + t, k, n);
    for (size_t c = 0; c < quads * INT8_QUAD; c++) {
        int whole = c < n ? eight_bits(k[c], by) : 0;
        k_tile[(c / INT8_QUAD * KV_BLOCK + t) * INT8_QUAD + c % INT8_QUAD] = (char)whole;
        sum += whole;
    }
    ((int32_t *)(void *)k_scale)[(int)t - KV_BLOCK] = -INT8_ZERO * sum;
    by = row_scale(v_scale + t, v, n);
    for (size_t c = 0; c < dp; c++)
        value[c * INT8_QUAD] = (char)(c < n ? eight_bits(v[c], by) : 0);
}

static void kv_put_int8(void *k_tile, void *v_tile, const struct kv_rows *in)
{
    for (int r = 0; r < in->n; r++)
        put_int8(k_tile, v_tile, (size_t)(in->t + r), (size_t)in->d, in->k + (size_t)r * in->ld,
                 in->v + (size_t)r * in->ld);
}

const struct kernels kernels_table_scalar = {
    .name = "scalar",
    .panel = {panel_f32, panel_f16, panel_bf16},
    .panel_int8 = panel_int8,
    .int8 = &int8_scalar,
    .quantise = quantise,
    .layer_norm = layer_norm,
    .activate = activate,
    .finish_row = finish_row,
    .transpose = transpose,
    .max = max,
    .argmax = argmax,
    .sum_exp = sum_exp,
    .exp_to = exp_to,
    .dot = dot,
    .attend = {attend_f32, attend_f16, attend_int8},
    .kv_put = {kernels_kv_put_f32, kv_put_f16, kv_put_int8},
};
