/* AVX-512 (F, BW, DQ, VL): the primitives that the shared templates are written in.
 *
 * 32 registers of 16 floats: a tile of 12 rows x 32 columns keeps 24 sums, two weights and the
 * broadcast input in registers. Masks make the tails exact: a lane beyond the end is neither read
 * nor written. */
#include <immintrin.h>
#include <math.h>

#include "engine/kernels/kernels_isa.h"

#define VL 16
#define TILE_ROWS 12 /* rows of a tile of 32 columns */
#define WIDE_ROWS 12 /* up to here a tile spans the whole panel */
#define ROW_STEP 4
#define SCORE_SUMS 16 /* registers of sums in attention */
#define VALUE_SUMS 16
#define ATTEND_ROWS 8 /* queries at once */

#define GEMM_ROWS 12 /* of a tile of a general product */
#define GEMM_VECS 2
#define INLINE static inline __attribute__((always_inline))

typedef __m512 vf;
typedef struct {
    __m512d lo, hi;
} vd;

INLINE __mmask16 lanes_below(size_t n)
{
    return (__mmask16)((1U << n) - 1);
}
INLINE vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}
INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
INLINE vf vf_load_bf16(const uint16_t *p)
{
    __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
/* The first n < VL lanes; the others are 0. */
INLINE vf vf_load_n(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(lanes_below(n), p);
}
INLINE void vf_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}
INLINE void vf_store_n(float *p, vf a, size_t n)
{
    _mm512_mask_storeu_ps(p, lanes_below(n), a);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
/* a * b + c and c - a * b, rounded once. */
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
/* a > b ? a : b and a < b ? a : b: b when either is NaN. */
INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
INLINE vf vf_abs(vf a)
{
    return _mm512_abs_ps(a);
}
INLINE vf vf_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
INLINE vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for an integral n in -300..300, rounded once. */
INLINE vf vf_scale2(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
}
/* 0 where x < least, else a. */
INLINE vf vf_unless_less(vf a, vf x, vf least)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ), a);
}
/* Lanes n.. of a replaced by those of b. */
INLINE vf vf_keep_n(vf a, vf b, size_t n)
{
    return _mm512_mask_blend_ps(lanes_below(n), b, a);
}
/* Bit i: a[i] == b[i]. */
INLINE unsigned vf_equal(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
/* VL whole numbers as floats, rounded to nearest. */
INLINE vf vf_load_i32(const int32_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}
/* VL numbers rounded to nearest even. */
INLINE void vf_store_f16(uint16_t *p, vf a)
{
    __m256i h = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)(void *)p, h);
}
/* Lanes in -128..127, rounded to nearest, plus INT8_ZERO. */
INLINE void vf_store_int8(uint8_t *q, vf a)
{
    __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(INT8_ZERO));
    _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtepi32_epi8(whole));
}
/* Lanes in 0..INT8_WEIGHT, rounded to nearest, as two digits. */
INLINE void vf_store_digits(uint8_t *high, uint8_t *low, vf a)
{
    __m512i w = _mm512_cvtps_epi32(a), least = _mm512_set1_epi32(INT8_DIGIT - 1);
    _mm_storeu_si128((__m128i *)(void *)high, _mm512_cvtepi32_epi8(_mm512_srli_epi32(w, 7)));
    _mm_storeu_si128((__m128i *)(void *)low, _mm512_cvtepi32_epi8(_mm512_and_epi32(w, least)));
}
INLINE float vf_sum(vf a)
{
    return _mm512_reduce_add_ps(a);
}
INLINE float vf_top(vf a)
{
    return _mm512_reduce_max_ps(a);
}
INLINE vd vd_zero(void)
{
    return (vd){_mm512_setzero_pd(), _mm512_setzero_pd()};
}
INLINE vd vd_add(vd s, vf a)
{
    __m256 hi = _mm512_extractf32x8_ps(a, 1);
    s.lo = _mm512_add_pd(s.lo, _mm512_cvtps_pd(_mm512_castps512_ps256(a)));
    s.hi = _mm512_add_pd(s.hi, _mm512_cvtps_pd(hi));
    return s;
}
INLINE double vd_sum(vd s)
{
    return _mm512_reduce_add_pd(_mm512_add_pd(s.lo, s.hi));
}

#define TABLE kernels_table_avx512
#define TABLE_INT8 int8_avx2
#define TABLE_DOT kernels_table_avx512_vnni
#define TABLE_DOT_INT8 int8_avx512vnni
#define TABLE_TILES kernels_table_avx512_amx
#define TABLE_TILES_INT8 int8_amx
#define TABLE_NAME "avx512"
#define GRAD_TABLE grad_table_avx512
#include "engine/kernels/math.inc"

/* r[i][j] becomes r[j][i]: pairs, quadruples, then whole 128-bit lanes. */
INLINE void vf_transpose(vf r[VL])
{
    __m512d t[VL], q[VL];
    UNROLL for (int i = 0; i < VL; i += 2)
    {
        t[i] = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1]));
        t[i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1]));
    }
    UNROLL for (int i = 0; i < VL; i += 4)
    {
        q[i] = _mm512_unpacklo_pd(t[i], t[i + 2]);
        q[i + 1] = _mm512_unpackhi_pd(t[i], t[i + 2]);
        q[i + 2] = _mm512_unpacklo_pd(t[i + 1], t[i + 3]);
        q[i + 3] = _mm512_unpackhi_pd(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        vf a = _mm512_castpd_ps(_mm512_shuffle_f64x2(q[i], q[4 + i], 0x88));
        vf b = _mm512_castpd_ps(_mm512_shuffle_f64x2(q[i], q[4 + i], 0xdd));
        vf c = _mm512_castpd_ps(_mm512_shuffle_f64x2(q[8 + i], q[12 + i], 0x88));
        vf d = _mm512_castpd_ps(_mm512_shuffle_f64x2(q[8 + i], q[12 + i], 0xdd));
        r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#include "engine/kernels/panel.inc"
#include "engine/kernels/panel_int8.inc"
#include "engine/kernels/rows.inc"
#include "engine/kernels/kv.inc"
#include "engine/kernels/attend.inc"
#include "engine/kernels/attend_int8.inc"
#include "engine/kernels/gemm.inc"
#include "engine/kernels/grad.inc"
#include "engine/kernels/table.inc"
