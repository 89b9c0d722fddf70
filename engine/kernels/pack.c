/* Packing weights into panels.
 *
 * A model file stores W row-major, (K, N) or (N, K). The kernels want, for a few columns, all of k
 * in one stream: that is a panel. Packing happens once, at start, so it is a plain copy in blocks
 * that stay in the cache; no vector code. Sources come straight from a mapped file and may lie at
 * any address, so elements move by memcpy.
 *
 * Invariant: the padding columns of the last panel are zero from packed_init() and never written. */
#include "engine/kernels/pack.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/mem.h"

/* Rows of k that are transposed together: 32 source rows x 32 elements stay in the L1 cache. */
#define TRANSPOSE_K 32

static bool packable(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16;
}

int packed_init(struct packed *w, enum dtype t, size_t k, size_t n, const char *what,
                struct err *err)
{
    size_t padded, count, bytes;
    void *data = NULL;

    if (!packable(t))
        return err_set(err, ERR_UNSUPPORTED, "%s: weights of type %s, expected F32, F16 or BF16",
                       what, dtype_name(t));
    if (k == 0 || n == 0)
        return err_set(err, ERR_INVALID, "%s: shape (%zu, %zu) has a zero", what, k, n);
    if (!mem_add(n, PACK_N - 1, &padded) || !mem_mul(padded / PACK_N * PACK_N, k, &count) ||
        !mem_mul(count, dtype_size(t), &bytes))
        return err_set(err, ERR_INVALID, "%s: shape (%zu, %zu) is too large", what, k, n);
    int rc = mem_map(&data, bytes, what, err);
    if (rc) return rc;
    *w = (struct packed){.dtype = t, .k = k, .n = n, .bytes = bytes, .data = data};
    return 0;
}

void packed_release(struct packed *w)
{
    mem_unmap(w->data, w->bytes);
    *w = (struct packed){0};
}

static void fill_straight(char *panel, const char *src, size_t es, size_t k, size_t n, size_t col,
                          size_t cols)
{
    for (size_t i = 0; i < k; i++)
        memcpy(panel + i * PACK_N * es, src + (i * n + col) * es, cols * es);
}

/* Element sizes are constants at the call, so that memcpy becomes one load and one store. */
static inline void fill_transposed(char *panel, const char *src, size_t es, size_t k, size_t col,
                                   size_t cols)
{
    for (size_t k0 = 0; k0 < k; k0 += TRANSPOSE_K) {
        size_t k1 = k - k0 < TRANSPOSE_K ? k : k0 + TRANSPOSE_K;
        for (size_t j = 0; j < cols; j++) {
            const char *from = src + (col + j) * k * es;
            for (size_t i = k0; i < k1; i++)
                memcpy(panel + (i * PACK_N + j) * es, from + i * es, es);
        }
    }
}

void packed_fill(struct packed *w, const void *src, int transposed, size_t p0, size_t p1)
{
    size_t es = dtype_size(w->dtype);

    BUG_ON(p1 > packed_panels(w->n));
    for (size_t p = p0; p < p1; p++) {
        size_t col = p * PACK_N, cols = w->n - col < PACK_N ? w->n - col : PACK_N;
        char *panel = (char *)w->data + p * PACK_N * w->k * es;
        if (!transposed)
            fill_straight(panel, src, es, w->k, w->n, col, cols);
        else if (es == 2)
            fill_transposed(panel, src, 2, w->k, col, cols);
        else
            fill_transposed(panel, src, 4, w->k, col, cols);
    }
}

void packed_get_column(const struct packed *w, size_t j, float *dst)
{
    size_t es = dtype_size(w->dtype);

    BUG_ON(j >= w->n);
    const char *at = (const char *)w->data + (j / PACK_N * PACK_N * w->k + j % PACK_N) * es;
    for (size_t i = 0; i < w->k; i++)
        dtype_to_f32(dst + i, at + i * PACK_N * es, w->dtype, 1);
}
