/* AVX2 has no dot product of bytes that is exact for all of them: vpmaddubsw adds pairs of unsigned times
 * signed in 16 bits and saturates. With the magnitude of the weight as the unsigned factor, at most 128,
 * and the input with the weight's sign, at most 127, a pair is at most 2 * 128 * 127 = 32512 and nothing
 * saturates. That takes two multiplications and two other instructions for four values of k.
 *
 * Many rows take one multiplication and three additions, which more of a processor's units can do, by
 * Winograd's inner product (A new algorithm for inner product, IEEE Trans. Computers 1968):
 *
 *     (x0 + w1) (x1 + w0)  =  x0 w0 + x1 w1  +  x0 x1  +  w0 w1
 *
 * The last two are sums of a row alone and of a column alone. Even and odd values of k lie in vectors of
 * their own, in 16 bits: made once for each panel and, of rows, once for each tile of them. Sums are taken
 * modulo 2^32, in which the result fits. */
#include <immintrin.h>
#include <stdalign.h>
#include <string.h>

#include "engine/kernels/int8.h"

#define INLINE static inline __attribute__((always_inline))
#define VI_COLS 8
#define TILE_ROWS 3
#define WIDE_ROWS 3
#define OPAQUE(a) __asm__ volatile("" : "+x"(a))
#define IN_ORDER OPAQUE

typedef __m256i vi;

INLINE vi vi_start(const int32_t *shift)
{
    (void)shift; /* the inputs are made signed before they are multiplied */
    return _mm256_setzero_si256();
}
INLINE vi vi_start_at(const int32_t *sums)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)sums);
}
INLINE vi vi_load(const int8_t *w)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)w);
}
/* Four bytes into every lane. */
INLINE vi vi_spread(const void *bytes)
{
    int32_t four;
    memcpy(&four, bytes, sizeof four);
    return _mm256_set1_epi32(four);
}
INLINE vi vi_digits(const uint8_t *q)
{
    return vi_spread(q);
}
INLINE vi vi_quad(const uint8_t *q)
{
    return _mm256_xor_si256(vi_digits(q), _mm256_set1_epi8((char)INT8_ZERO));
}
/* Products of 16 bits, each lane's two added to its sum. */
INLINE vi vi_add_products(vi sum, vi a, vi b)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
INLINE vi vi_dot(vi sum, vi quad, vi w)
{
    vi pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(quad, w));
    return vi_add_products(sum, pairs, _mm256_set1_epi16(1));
}
/* Digits are at most 127 as they are. */
INLINE vi vi_dot_digits(vi sum, vi quad, vi w)
{
    return vi_add_products(sum, _mm256_maddubs_epi16(quad, w), _mm256_set1_epi16(1));
}
INLINE void vi_store(int32_t *out, vi sum)
{
    _mm256_storeu_si256((__m256i *)(void *)out, sum);
}

/* The instructions of a product of many rows: two of the additions, the multiplication, the sum. */
INLINE vi vi_spin(vi sum, vi quad, vi w)
{
    return vi_add_products(sum, _mm256_add_epi16(quad, w), _mm256_sub_epi16(quad, w));
}
#define VI_SPIN vi_spin

#define INT8_TABLE int8_avx2
#define INT8_NAME "avx2"
#define MANY_ROWS 6 /* from here on sums_of_many() is the faster one */
static void sums_of_many(const struct int8_rows *x, size_t rows, const struct int8_panel *p,
                         int32_t *out);
#include "engine/kernels/int8.inc"

/* Quads of k whose weights stay in L1, widened, while all rows pass over them. One that ends within a turn of the
 * loop goes on with zeros. */
#define STRETCH 64
#define MANY 4   /* rows of a tile */
#define HALVES 2 /* of a panel, one of which a tile takes */
#define HALF_VECS (PANEL_VECS / HALVES)
#define LANES 16

/* A stretch of k: weights of the panel and a tile of rows in 16 bits, even and odd values of k apart. */
struct wide {
    alignas(32) int16_t w[HALVES][STRETCH][HALF_VECS][2][LANES];
    alignas(32) int16_t x[MANY][2][2 * STRETCH];
    int32_t start[PACK_N]; /* less the columns' own products */
    int32_t own[MANY];     /* the rows' own products */
};

INLINE vi load16(const int16_t *p)
{
    return _mm256_load_si256((const __m256i *)(const void *)p);
}
INLINE void store16(int16_t *p, vi a)
{
    _mm256_store_si256((__m256i *)(void *)p, a);
}

static void widen_weights(struct wide *s, const int8_t *w, size_t quads, const int32_t *start)
{
    vi own[PANEL_VECS];

    UNROLL for (int v = 0; v < PANEL_VECS; v++) own[v] = _mm256_setzero_si256();
    for (size_t i = 0; i < quads; i++, w += QUAD_BYTES) {
        UNROLL for (int v = 0; v < PANEL_VECS; v++)
        {
            vi a = vi_load(w + v * VI_COLS * INT8_QUAD), odd = _mm256_srai_epi16(a, 8);
            vi even = _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8);
            store16(s->w[v / HALF_VECS][i][v % HALF_VECS][0], even);
            store16(s->w[v / HALF_VECS][i][v % HALF_VECS][1], odd);
            own[v] = vi_add_products(own[v], even, odd);
        }
    }
    for (size_t i = quads; i % UNROLLED > 0; i++)
        for (size_t half = 0; half < HALVES; half++)
            memset(s->w[half][i], 0, sizeof s->w[half][i]);
    UNROLL for (int v = 0; v < PANEL_VECS; v++)
    {
        vi from = start ? vi_start_at(start + v * VI_COLS) : _mm256_setzero_si256();
        vi_store(s->start + v * VI_COLS, _mm256_sub_epi32(from, own[v]));
    }
}

/* Inputs stay unsigned: what that adds is in the panel's shift. */
static void widen_row(struct wide *s, size_t r, const uint8_t *q, size_t quads)
{
    int32_t sums[VI_COLS], all = 0;
    int16_t *even = s->x[r][0], *odd = s->x[r][1];
    vi own = _mm256_setzero_si256();
    size_t i = 0;

    for (; i + VI_COLS <= quads; i += VI_COLS) {
        vi a = vi_load((const int8_t *)q + i * INT8_QUAD), second = _mm256_srli_epi16(a, 8);
        vi first = _mm256_and_si256(a, _mm256_set1_epi16(0xff));
        store16(even + 2 * i, first);
        store16(odd + 2 * i, second);
        own = vi_add_products(own, first, second);
    }
    vi_store(sums, own);
    for (int j = 0; j < VI_COLS; j++)
        all += sums[j];
    for (i *= 2; i < 2 * quads; i++) {
        even[i] = q[2 * i];
        odd[i] = q[2 * i + 1];
        all += even[i] * odd[i];
    }
    for (; i % (2 * UNROLLED) > 0; i++)
        even[i] = odd[i] = 0;
    s->own[r] = all;
}

INLINE void many_quad(int R, vi sum[MANY][HALF_VECS], const struct wide *s, size_t half, size_t i)
{
    vi even[HALF_VECS], odd[HALF_VECS];

    UNROLL for (int v = 0; v < HALF_VECS; v++)
    {
        even[v] = load16(s->w[half][i][v][0]);
        odd[v] = load16(s->w[half][i][v][1]);
    }
    UNROLL for (int r = 0; r < R; r++)
    {
        vi x0 = vi_spread(s->x[r][0] + 2 * i), x1 = vi_spread(s->x[r][1] + 2 * i);
        UNROLL for (int v = 0; v < HALF_VECS; v++)
        {
            sum[r][v] = vi_add_products(sum[r][v], _mm256_add_epi16(x0, odd[v]),
                                        _mm256_add_epi16(x1, even[v]));
            IN_ORDER(sum[r][v]);
        }
    }
}

/* R rows times half of the panel's stretch; its sums are added to those of the stretch before it. */
INLINE void many_tile(int R, const struct wide *s, size_t half, size_t quads, bool first,
                      struct ahead *ahead, int32_t *out)
{
    const size_t c = half * HALF_VECS * VI_COLS, step = ahead->step;
    uintptr_t next = ahead->at;
    vi sum[MANY][HALF_VECS];

    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < HALF_VECS; v++)
    {
        vi start = vi_start_at(s->start + c + v * VI_COLS);
        start = _mm256_sub_epi32(start, _mm256_set1_epi32(s->own[r]));
        if (!first)
            start = _mm256_add_epi32(start, vi_start_at(out + r * PACK_N + c + v * VI_COLS));
        sum[r][v] = start;
    }
    for (size_t i = 0; i < quads; i += UNROLLED) {
        for (size_t u = 0; u < UNROLLED; u += 2, next += 2 * step)
            __builtin_prefetch((const void *)next, 0, 2);
        UNROLL for (size_t u = 0; u < UNROLLED; u++) many_quad(R, sum, s, half, i + u);
    }
    ahead->at = next;
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int v = 0; v < HALF_VECS; v++)
        vi_store(out + r * PACK_N + c + v * VI_COLS, sum[r][v]);
}

static void many_tile_of_rows(size_t rows, const struct wide *s, size_t quads, bool first,
                              struct ahead *ahead, int32_t *out)
{
#define ROWS(R)                                              \
    case R:                                                  \
        for (size_t half = 0; half < HALVES; half++)         \
            many_tile(R, s, half, quads, first, ahead, out); \
        break
    switch (rows) {
        ROWS(1);
        ROWS(2);
        ROWS(3);
        ROWS(4);
    default:
        __builtin_unreachable();
    }
#undef ROWS
}

static void sums_of_many(const struct int8_rows *x, size_t rows, const struct int8_panel *p,
                         int32_t *out)
{
    struct wide s;
    size_t tiles = (rows + MANY - 1) / MANY;
    struct ahead ahead = {.at = behind(p), .step = QUAD_BYTES / HALVES / tiles};

    for (size_t k = 0, n; k < p->quads; k += n) {
        n = p->quads - k < STRETCH ? p->quads - k : STRETCH;
        widen_weights(&s, p->w + k * QUAD_BYTES, n, k ? NULL : p->shift);
        for (size_t r = 0, left = tiles, m; r < rows; r += m, left--) {
            m = (rows - r + left - 1) / left;
            for (size_t i = 0; i < m; i++)
                widen_row(&s, i, x->q + (r + i) * x->ld + k * INT8_QUAD, n);
            many_tile_of_rows(m, &s, n, k == 0, &ahead, out + r * PACK_N);
        }
    }
}
