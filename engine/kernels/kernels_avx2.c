/* AVX2 with FMA and F16C: the primitives that the shared templates are written in.
 *
 * 16 registers of 8 floats: a tile of 3 rows spans the whole panel (12 sums), one of 4 to 6 rows
 * half of it (12 sums again), in two passes. */
#include <immintrin.h>
#include <math.h>

#include "engine/kernels/kernels_isa.h"

#define VL 8
#define TILE_ROWS 6 /* rows of a tile of 16 columns */
#define WIDE_ROWS 3 /* up to here a tile spans the whole panel */
#define ROW_STEP 3
#define SCORE_SUMS 8 /* registers of sums in attention */
#define VALUE_SUMS 8
#define ATTEND_ROWS 4 /* queries at once */

#define GEMM_ROWS 6 /* of a tile of a general product */
#define GEMM_VECS 2
#define INLINE static inline __attribute__((always_inline))

typedef __m256 vf;
typedef struct {
    __m256d lo, hi;
} vd;

/* All ones in the lanes below n <= VL. */
INLINE __m256i lanes_below(size_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}
INLINE vf vf_set1(float x)
{
    return _mm256_set1_ps(x);
}
INLINE vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
INLINE vf vf_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE vf vf_load_bf16(const uint16_t *p)
{
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
/* The first n < VL lanes; the others are 0. */
INLINE vf vf_load_n(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, lanes_below(n));
}
INLINE void vf_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}
INLINE void vf_store_n(float *p, vf a, size_t n)
{
    _mm256_maskstore_ps(p, lanes_below(n), a);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
/* a * b + c and c - a * b, rounded once. */
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
/* a > b ? a : b and a < b ? a : b: b when either is NaN. */
INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
INLINE vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a);
}
INLINE vf vf_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}
INLINE vf vf_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a * 2^n for an integral n in -250..250 and a near 1: two factors, of which only the second can
 * round. */
INLINE vf vf_scale2(vf a, vf n)
{
    const __m256i bias = _mm256_set1_epi32(127);
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half);
    vf first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vf second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, first), second);
}
/* 0 where x < least, else a. */
INLINE vf vf_unless_less(vf a, vf x, vf least)
{
    return _mm256_and_ps(a, _mm256_cmp_ps(x, least, _CMP_NLT_UQ));
}
/* Lanes n.. of a replaced by those of b. */
INLINE vf vf_keep_n(vf a, vf b, size_t n)
{
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(lanes_below(n)));
}
/* Bit i: a[i] == b[i]. */
INLINE unsigned vf_equal(vf a, vf b)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}
/* VL whole numbers as floats, rounded to nearest. */
INLINE vf vf_load_i32(const int32_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
/* VL numbers rounded to nearest even. */
INLINE void vf_store_f16(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
/* Lanes in -128..127, rounded to nearest, plus INT8_ZERO. */
INLINE void vf_store_int8(uint8_t *q, vf a)
{
    __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(INT8_ZERO));
    __m128i half =
        _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((__m128i *)(void *)q, _mm_packus_epi16(half, half));
}
/* Lanes in 0..INT8_WEIGHT, rounded to nearest, as two digits. */
INLINE void vf_store_digits(uint8_t *high, uint8_t *low, vf a)
{
    __m256i w = _mm256_cvtps_epi32(a), least = _mm256_set1_epi32(INT8_DIGIT - 1);
    __m256i both = _mm256_packs_epi32(_mm256_srli_epi32(w, 7), _mm256_and_si256(w, least));
    both = _mm256_packus_epi16(both, both); /* in each half four high ones, then four low ones */
    __m128i bytes =
        _mm_unpacklo_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    _mm_storel_epi64((__m128i *)(void *)high, bytes);
    _mm_storel_epi64((__m128i *)(void *)low, _mm_unpackhi_epi64(bytes, bytes));
}
INLINE float vf_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float vf_top(vf a)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
INLINE vd vd_zero(void)
{
    return (vd){_mm256_setzero_pd(), _mm256_setzero_pd()};
}
INLINE vd vd_add(vd s, vf a)
{
    s.lo = _mm256_add_pd(s.lo, _mm256_cvtps_pd(_mm256_castps256_ps128(a)));
    s.hi = _mm256_add_pd(s.hi, _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
    return s;
}
INLINE double vd_sum(vd s)
{
    __m256d t = _mm256_add_pd(s.lo, s.hi);
    __m128d u = _mm_add_pd(_mm256_castpd256_pd128(t), _mm256_extractf128_pd(t, 1));
    return _mm_cvtsd_f64(_mm_add_sd(u, _mm_unpackhi_pd(u, u)));
}

#define TABLE kernels_table_avx2
#define TABLE_INT8 int8_avx2
#define TABLE_DOT kernels_table_avx2_vnni
#define TABLE_DOT_INT8 int8_avxvnni
#define TABLE_NAME "avx2"
#define GRAD_TABLE grad_table_avx2
#include "engine/kernels/math.inc"

/* r[i][j] becomes r[j][i]: pairs, quadruples, then the two halves. */
INLINE void vf_transpose(vf r[VL])
{
    __m256d t[VL];
    vf q[VL];
    UNROLL for (int i = 0; i < VL; i += 2)
    {
        t[i] = _mm256_castps_pd(_mm256_unpacklo_ps(r[i], r[i + 1]));
        t[i + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(r[i], r[i + 1]));
    }
    UNROLL for (int i = 0; i < VL; i += 4)
    {
        q[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(t[i], t[i + 2]));
        q[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(t[i], t[i + 2]));
        q[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(t[i + 1], t[i + 3]));
        q[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(t[i + 1], t[i + 3]));
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        r[i] = _mm256_permute2f128_ps(q[i], q[4 + i], 0x20);
        r[4 + i] = _mm256_permute2f128_ps(q[i], q[4 + i], 0x31);
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
