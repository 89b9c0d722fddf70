/* Packing weights into panels.
 *
 * A model file stores W row-major, (K, N) or (N, K). The kernels want, for a few columns, all of k
 * in one stream: that is a panel. Packing happens once, at start, so it is plain C in blocks that stay
 * in the cache; no vector code. Sources come straight from a mapped file and may lie at any address,
 * so elements move by memcpy. What keeps its type is copied; the rest passes through a tile of floats,
 * twice when columns are quantised, since a column's scale needs all of it.
 *
 * One NaN or infinity among the weights silently turns every answer into nonsense. A panel that was just
 * packed is still in the cache, so that it is looked through there at almost no cost.
 *
 * Invariant: the padding columns of the last panel are zero from packed_init() and never written. */
#include "engine/kernels/pack.h"

#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/kernels/int8.h"

/* Rows of k that are taken together: 32 source rows x 32 elements stay in the L1 cache. */
#define TILE_K 32
#define LARGEST_INT8 127
/* Added to a number below 2^22 it leaves the number, rounded to nearest even, in the last bits. */
#define ROUNDING 0x1.8p23F
#define ROUNDING_BITS 0x4b400000

static bool packable(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16 || t == DTYPE_I8;
}

size_t packed_panel_bytes(enum dtype t, size_t k)
{
    if (t == DTYPE_I8) return int8_quads(k) * INT8_QUAD * PACK_N;
    return k * PACK_N * dtype_size(t);
}

static void set_columns(struct packed *w)
{
    if (w->dtype != DTYPE_I8) return;
    size_t panels = packed_panels(w->n);
    w->scale = (float *)(void *)((char *)w->data + panels * packed_panel_bytes(DTYPE_I8, w->k));
    w->shift = (int32_t *)(void *)(w->scale + panels * PACK_N);
}

int packed_init(struct packed *w, enum dtype t, size_t k, size_t n, const char *what,
                struct err *err)
{
    size_t padded, count, bytes, rows = k;
    void *data = NULL;

    if (!packable(t))
        return err_set(err, ERR_UNSUPPORTED,
                       "%s: weights of type %s, expected F32, F16, BF16 or I8", what,
                       dtype_name(t));
    if (k == 0 || n == 0)
        return err_set(err, ERR_INVALID, "%s: shape (%zu, %zu) has a zero", what, k, n);
    if (t == DTYPE_I8 && k > INT8_MAX_K)
        return err_set(err, ERR_INVALID, "%s: %zu inputs, 8-bit weights have at most %d", what, k,
                       INT8_MAX_K);
    if (t == DTYPE_I8) rows = int8_quads(k) * INT8_QUAD + sizeof(float) + sizeof(int32_t);
    if (!mem_add(n, PACK_N - 1, &padded) || !mem_mul(padded / PACK_N * PACK_N, rows, &count) ||
        !mem_mul(count, dtype_size(t), &bytes))
        return err_set(err, ERR_INVALID, "%s: shape (%zu, %zu) is too large", what, k, n);
    int rc = mem_map(&data, bytes, what, err);
    if (rc) return rc;
    *w = (struct packed){.dtype = t, .k = k, .n = n, .bytes = bytes, .data = data};
    set_columns(w);
    return 0;
}

void packed_release(struct packed *w)
{
    mem_unmap(w->data, w->bytes);
    *w = (struct packed){0};
}

struct packed packed_columns(const struct packed *w, size_t panel, size_t n)
{
    struct packed part = *w;
    part.n = n;
    part.data = (char *)w->data + panel * packed_panel_bytes(w->dtype, w->k);
    part.bytes = packed_panels(n) * packed_panel_bytes(w->dtype, w->k);
    if (w->scale) part.scale += panel * PACK_N;
    if (w->shift) part.shift += panel * PACK_N;
    return part;
}

/* ---- the same type ---- */

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
    for (size_t k0 = 0; k0 < k; k0 += TILE_K) {
        size_t k1 = k - k0 < TILE_K ? k : k0 + TILE_K;
        for (size_t j = 0; j < cols; j++) {
            const char *from = src + (col + j) * k * es;
            for (size_t i = k0; i < k1; i++)
                memcpy(panel + (i * PACK_N + j) * es, from + i * es, es);
        }
    }
}

/* True if any of n numbers has an exponent of all ones. Exponent + 1 then carries into the sign bit;
 * groups of 32 with a constant bound are what compilers vectorise without being asked twice. */
static bool nonfinite_f32(const void *data, size_t groups)
{
    const uint32_t *p = data;
    uint32_t any = 0;
    for (size_t g = 0; g < groups; g++, p += PACK_N)
        for (int i = 0; i < PACK_N; i++)
            any |= (p[i] & 0x7f800000u) + 0x00800000u;
    return any >> 31;
}

static bool nonfinite_16(const void *data, size_t groups, uint16_t exponent, uint16_t one)
{
    const uint16_t *p = data;
    uint16_t any = 0;
    for (size_t g = 0; g < groups; g++, p += PACK_N)
        for (int i = 0; i < PACK_N; i++)
            any = (uint16_t)(any | (uint16_t)((p[i] & exponent) + one));
    return any >> 15;
}

static bool panel_finite(const struct packed *w, const void *panel)
{
    if (w->dtype == DTYPE_F32) return !nonfinite_f32(panel, w->k);
    if (w->dtype == DTYPE_F16) return !nonfinite_16(panel, w->k, 0x7c00, 0x0400);
    return !nonfinite_16(panel, w->k, 0x7f80, 0x0080);
}

static bool copy_panel(struct packed *w, const struct pack_source *s, size_t col, size_t cols,
                       char *panel)
{
    size_t es = dtype_size(w->dtype);
    if (!s->transposed)
        fill_straight(panel, s->data, es, w->k, w->n, col, cols);
    else if (es == 2)
        fill_transposed(panel, s->data, 2, w->k, col, cols);
    else
        fill_transposed(panel, s->data, 4, w->k, col, cols);
    return panel_finite(w, panel);
}

/* ---- another type, through tiles of floats ---- */

static float scale_at(const struct pack_source *s, size_t column)
{
    float f;
    memcpy(&f, (const char *)s->scale + column * sizeof f, sizeof f);
    return f;
}

/* n numbers of the source in a row, widened; 8-bit ones as they are. */
static void widen(float *to, const struct pack_source *s, size_t at, size_t n)
{
    if (s->dtype == DTYPE_I8) {
        const int8_t *from = (const int8_t *)s->data + at;
        for (size_t i = 0; i < n; i++)
            to[i] = from[i];
    } else {
        dtype_to_f32(to, (const char *)s->data + at * dtype_size(s->dtype), s->dtype, n);
    }
}

/* Rows k0..k0+rows-1 of a panel; columns from `cols` on are zero. */
static void get_tile(float tile[TILE_K][PACK_N], const struct packed *w,
                     const struct pack_source *s, size_t col, size_t cols, size_t k0, size_t rows)
{
    memset(tile, 0, TILE_K * sizeof *tile);
    if (!s->transposed) {
        for (size_t i = 0; i < rows; i++)
            widen(tile[i], s, (k0 + i) * w->n + col, cols);
        return;
    }
    for (size_t j = 0; j < cols; j++) {
        float run[TILE_K];
        widen(run, s, (col + j) * w->k + k0, rows);
        for (size_t i = 0; i < rows; i++)
            tile[i][j] = run[i];
    }
}

static size_t tile_rows(const struct packed *w, size_t k0)
{
    return w->k - k0 < TILE_K ? w->k - k0 : TILE_K;
}

static bool convert_panel(struct packed *w, const struct pack_source *s, size_t col, size_t cols,
                          char *panel)
{
    float tile[TILE_K][PACK_N], by[PACK_N];
    size_t es = dtype_size(w->dtype);
    for (size_t j = 0; j < PACK_N; j++)
        by[j] = s->dtype == DTYPE_I8 && j < cols ? scale_at(s, col + j) : 1;
    for (size_t k0 = 0; k0 < w->k; k0 += TILE_K) {
        size_t rows = tile_rows(w, k0);
        get_tile(tile, w, s, col, cols, k0, rows);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < PACK_N; j++)
                tile[i][j] *= by[j];
        dtype_from_f32(panel + k0 * PACK_N * es, w->dtype, tile[0], rows * PACK_N);
    }
    return panel_finite(w, panel);
}

/* ---- 8 bits ---- */

/* A column's scale, and what its numbers are to be multiplied with. */
static bool set_scale(float *scale, float *by, float most)
{
    *scale = most < INT8_LEAST ? 0 : most / LARGEST_INT8;
    *by = most < INT8_LEAST ? 0 : LARGEST_INT8 / most;
    return isfinite(most);
}

static void set_shift(struct packed *w, size_t col, const int32_t sum[PACK_N])
{
    for (size_t j = 0; j < PACK_N; j++)
        w->shift[col + j] = -INT8_ZERO * sum[j];
}

static bool find_scales(struct packed *w, const struct pack_source *s, size_t col, size_t cols,
                        float by[PACK_N])
{
    float tile[TILE_K][PACK_N], most[PACK_N] = {0};
    bool finite = true;
    for (size_t k0 = 0; k0 < w->k; k0 += TILE_K) {
        get_tile(tile, w, s, col, cols, k0, tile_rows(w, k0));
        finite &= !nonfinite_f32(tile, TILE_K);
        for (size_t i = 0; i < TILE_K; i++)
            for (size_t j = 0; j < PACK_N; j++)
                most[j] = fabsf(tile[i][j]) > most[j] ? fabsf(tile[i][j]) : most[j];
    }
    for (size_t j = 0; j < PACK_N; j++)
        finite &= set_scale(&w->scale[col + j], &by[j], most[j]);
    return finite;
}

static bool take_scales(struct packed *w, const struct pack_source *s, size_t col, size_t cols)
{
    bool finite = true;
    for (size_t j = 0; j < PACK_N; j++) {
        w->scale[col + j] = j < cols ? scale_at(s, col + j) : 0;
        finite &= isfinite(w->scale[col + j]) != 0;
    }
    return finite;
}

/* A quad of k, where a column or a row ends before it with zeros. */
static void copy_quad(int8_t *to, const struct pack_source *s, const struct packed *w, size_t col,
                      size_t cols, size_t k0)
{
    const int8_t *from = s->data;
    int8_t rows[INT8_QUAD][PACK_N] = {0};
    size_t n = mem_least(w->k - k0, INT8_QUAD);

    if (s->transposed) {
        from += col * w->k + k0;
        memset(to, 0, PACK_N * INT8_QUAD);
        for (size_t j = 0; j < cols; j++, to += INT8_QUAD, from += w->k)
            if (n == INT8_QUAD) /* a constant is one load and one store */
                memcpy(to, from, INT8_QUAD);
            else
                memcpy(to, from, n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        memcpy(rows[i], from + (k0 + i) * w->n + col, cols);
    for (size_t j = 0; j < PACK_N; j++)
        for (size_t i = 0; i < INT8_QUAD; i++)
            to[j * INT8_QUAD + i] = rows[i][j];
}

/* 8-bit numbers as they are: bytes change places. */
static bool copy_panel_int8(struct packed *w, const struct pack_source *s, size_t col, size_t cols,
                            int8_t *panel)
{
    int32_t sum[PACK_N] = {0};
    for (size_t k0 = 0; k0 < w->k; k0 += INT8_QUAD, panel += PACK_N * INT8_QUAD) {
        copy_quad(panel, s, w, col, cols, k0);
        for (size_t j = 0; j < PACK_N; j++)
            for (size_t i = 0; i < INT8_QUAD; i++)
                sum[j] += panel[j * INT8_QUAD + i];
    }
    set_shift(w, col, sum);
    return take_scales(w, s, col, cols);
}

static bool quantise_panel(struct packed *w, const struct pack_source *s, size_t col, size_t cols,
                           int8_t *panel)
{
    float tile[TILE_K][PACK_N], by[PACK_N];
    int32_t sum[PACK_N] = {0};
    bool finite = find_scales(w, s, col, cols, by);
    for (size_t k0 = 0; finite && k0 < w->k; k0 += TILE_K) {
        size_t rows = tile_rows(w, k0);
        get_tile(tile, w, s, col, cols, k0, rows);
        for (size_t i = 0; i < mem_round_up(rows, INT8_QUAD); i++) {
            size_t quad = (k0 + i) / INT8_QUAD;
            int8_t *to = panel + quad * PACK_N * INT8_QUAD + (k0 + i) % INT8_QUAD;
            int32_t whole[PACK_N];
            for (size_t j = 0; j < PACK_N; j++) {
                float scaled = tile[i][j] * by[j];
                float rounded = scaled + ROUNDING;
                memcpy(&whole[j], &rounded, sizeof rounded);
                whole[j] -= ROUNDING_BITS;
                sum[j] += whole[j];
            }
            for (size_t j = 0; j < PACK_N; j++)
                to[j * INT8_QUAD] = (int8_t)whole[j];
        }
    }
    set_shift(w, col, sum);
    return finite;
}

bool packed_fill(struct packed *w, const struct pack_source *s, size_t p0, size_t p1)
{
    bool finite = true;

    BUG_ON(p1 > packed_panels(w->n));
    BUG_ON((s->dtype == DTYPE_I8) != (s->scale != NULL));
    for (size_t p = p0; p < p1; p++) {
        size_t col = p * PACK_N, cols = w->n - col < PACK_N ? w->n - col : PACK_N;
        char *panel = (char *)w->data + p * packed_panel_bytes(w->dtype, w->k);
        if (w->dtype == DTYPE_I8 && s->dtype == DTYPE_I8)
            finite &= copy_panel_int8(w, s, col, cols, (int8_t *)panel);
        else if (w->dtype == DTYPE_I8)
            finite &= quantise_panel(w, s, col, cols, (int8_t *)panel);
        else if (w->dtype == s->dtype)
            finite &= copy_panel(w, s, col, cols, panel);
        else
            finite &= convert_panel(w, s, col, cols, panel);
    }
    return finite;
}

static int8_t int8_at(const struct packed *w, size_t i, size_t j)
{
    const int8_t *panel = w->data;
    panel += j / PACK_N * packed_panel_bytes(DTYPE_I8, w->k);
    return panel[(i / INT8_QUAD * PACK_N + j % PACK_N) * INT8_QUAD + i % INT8_QUAD];
}

void packed_get_int8(const struct packed *w, int8_t *dst, bool transposed)
{
    BUG_ON(w->dtype != DTYPE_I8);
    for (size_t i = 0; i < w->k; i++)
        for (size_t j = 0; j < w->n; j++)
            dst[transposed ? j * w->k + i : i * w->n + j] = int8_at(w, i, j);
}

void packed_get_column(const struct packed *w, size_t j, float *dst)
{
    size_t es = dtype_size(w->dtype), lane = j % PACK_N;

    BUG_ON(j >= w->n);
    const char *panel = (const char *)w->data + j / PACK_N * packed_panel_bytes(w->dtype, w->k);
    for (size_t i = 0; i < w->k; i++)
        if (w->dtype == DTYPE_I8)
            dst[i] = w->scale[j] * int8_at(w, i, j);
        else
            dtype_to_f32(dst + i, panel + (i * PACK_N + lane) * es, w->dtype, 1);
}
