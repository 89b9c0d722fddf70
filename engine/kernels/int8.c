/* The reference of the 8-bit sums: plain loops. What the vector versions are compared with, number for
 * number, and what runs where there are none. */
#include "engine/kernels/int8.h"

#include <string.h>

#include "engine/kernels/pack.h"

static void sums(const struct int8_rows *x, size_t rows, const struct int8_panel *p, int32_t *out)
{
    for (size_t r = 0; r < rows; r++, out += PACK_N) {
        const uint8_t *q = x->q + r * x->ld;
        const int8_t *w = p->w;
        memset(out, 0, PACK_N * sizeof *out);
        for (size_t i = 0; i < p->quads; i++, q += INT8_QUAD)
            for (size_t j = 0; j < PACK_N; j++, w += INT8_QUAD)
                for (size_t k = 0; k < INT8_QUAD; k++)
                    out[j] += ((int32_t)q[k] - INT8_ZERO) * w[k];
    }
}

static void keys(const uint8_t *q, size_t ld, size_t rows, const struct int8_keys *k, int32_t *out,
                 size_t ldo)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < k->n * KV_BLOCK; j++) {
            const int8_t *key = (const int8_t *)k->tile[j / KV_BLOCK] + j % KV_BLOCK * INT8_QUAD;
            int32_t sum = 0;
            for (size_t i = 0; i < k->quads * INT8_QUAD; i++)
                sum += ((int32_t)q[r * ld + i] - INT8_ZERO) *
                       key[i / INT8_QUAD * INT8_QUAD * KV_BLOCK + i % INT8_QUAD];
            out[r * ldo + j] = sum;
        }
}

static void values(const struct int8_values *v, const uint8_t *digits, size_t ld, size_t rows,
                   int32_t *out)
{
    memset(out, 0, 2 * rows * v->channels * sizeof *out);
    for (size_t r = 0; r < rows; r++)
        for (size_t p = 0; p < v->n * KV_BLOCK; p++) {
            size_t j = p / KV_BLOCK, at = p % KV_BLOCK;
            const int8_t *tile = (const int8_t *)v->base + (size_t)v->blocks[j] * v->block_bytes +
                                 at / INT8_QUAD * INT8_QUAD * v->channels + at % INT8_QUAD;
            const uint8_t *high = digits + r * ld + 2 * j * KV_BLOCK + at, *low = high + KV_BLOCK;
            int32_t *sum = out + 2 * r * v->channels;
            for (size_t c = 0; c < v->channels; c++) {
                sum[c] += *high * tile[c * INT8_QUAD];
                sum[v->channels + c] += *low * tile[c * INT8_QUAD];
            }
        }
}

static int32_t spin(size_t n)
{
    uint32_t sum[8] = {0};
    for (size_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < 8; j++)
            sum[j] += (((uint32_t)i + j) & 0xff) * (j + 3);
    return (int32_t)(sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7]);
}

const struct int8_kernels int8_scalar = {.name = "scalar",
                                         .sums = sums,
                                         .keys = keys,
                                         .values = values,
                                         .turn_ops = 2 * 8,
                                         .spin = spin};
