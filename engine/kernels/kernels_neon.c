/* NEON (AArch64): the primitives that the shared templates are written in.
 *
 * 32 registers of 4 floats: a tile of 3 rows spans the whole panel (24 sums), one of 4 to 6 rows
 * half of it (24 sums again), in two passes. There are no masks: tails go through a small buffer,
 * so that nothing beyond the end is touched. */
#include <arm_neon.h>
#include <math.h>

#include "engine/kernels/kernels_isa.h"

#define VL 4
#define TILE_ROWS 6 /* rows of a tile of 16 columns */
#define WIDE_ROWS 3 /* up to here a tile spans the whole panel */
#define ROW_STEP 3
#define SCORE_SUMS 16 /* registers of sums in attention */
#define VALUE_SUMS 16
#define ATTEND_ROWS 4 /* queries at once */

#define GEMM_ROWS 6 /* of a tile of a general product */
#define GEMM_VECS 4
#define INLINE static inline __attribute__((always_inline))

typedef float32x4_t vf;
typedef struct {
    float64x2_t lo, hi;
} vd;

/* All ones in the lanes below n <= VL. */
INLINE uint32x4_t lanes_below(size_t n)
{
    static const uint32_t lane[VL] = {0, 1, 2, 3};
    return vcltq_u32(vld1q_u32(lane), vdupq_n_u32((uint32_t)n));
}
INLINE vf vf_set1(float x)
{
    return vdupq_n_f32(x);
}
INLINE vf vf_load(const float *p)
{
    return vld1q_f32(p);
}
INLINE vf vf_load_f16(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
INLINE vf vf_load_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
/* The first n < VL lanes; the others are 0. */
INLINE vf vf_load_n(const float *p, size_t n)
{
    float lanes[VL] = {0};
    for (size_t i = 0; i < n; i++)
        lanes[i] = p[i];
    return vld1q_f32(lanes);
}
INLINE void vf_store(float *p, vf a)
{
    vst1q_f32(p, a);
}
INLINE void vf_store_n(float *p, vf a, size_t n)
{
    float lanes[VL];
    vst1q_f32(lanes, a);
    for (size_t i = 0; i < n; i++)
        p[i] = lanes[i];
}
INLINE vf vf_add(vf a, vf b)
{
    return vaddq_f32(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return vsubq_f32(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return vmulq_f32(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return vdivq_f32(a, b);
}
/* a * b + c and c - a * b, rounded once. */
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return vfmaq_f32(c, a, b);
}
INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return vfmsq_f32(c, a, b);
}
/* a > b ? a : b and a < b ? a : b: b when either is NaN. */
INLINE vf vf_max(vf a, vf b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}
INLINE vf vf_abs(vf a)
{
    return vabsq_f32(a);
}
INLINE vf vf_sqrt(vf a)
{
    return vsqrtq_f32(a);
}
INLINE vf vf_round(vf a)
{
    return vrndnq_f32(a);
}
/* a * 2^n for an integral n in -250..250 and a near 1: two factors, of which only the second can
 * round. */
INLINE vf vf_scale2(vf a, vf n)
{
    const int32x4_t bias = vdupq_n_s32(127);
    int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    int32x4_t rest = vsubq_s32(whole, half);
    vf first = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    vf second = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23));
    return vmulq_f32(vmulq_f32(a, first), second);
}
/* 0 where x < least, else a. */
INLINE vf vf_unless_less(vf a, vf x, vf least)
{
    uint32x4_t bits = vreinterpretq_u32_f32(a);
    return vreinterpretq_f32_u32(vbicq_u32(bits, vcltq_f32(x, least)));
}
/* Lanes n.. of a replaced by those of b. */
INLINE vf vf_keep_n(vf a, vf b, size_t n)
{
    return vbslq_f32(lanes_below(n), a, b);
}
/* Bit i: a[i] == b[i]. */
INLINE unsigned vf_equal(vf a, vf b)
{
    static const uint32_t bit[VL] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vceqq_f32(a, b), vld1q_u32(bit)));
}
/* VL whole numbers as floats, rounded to nearest. */
INLINE vf vf_load_i32(const int32_t *p)
{
    return vcvtq_f32_s32(vld1q_s32(p));
}
/* VL numbers rounded to nearest even. */
INLINE void vf_store_f16(uint16_t *p, vf a)
{
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}
/* Lanes in -128..127, rounded to nearest, plus INT8_ZERO. */
INLINE void vf_store_int8(uint8_t *q, vf a)
{
    int32x4_t whole = vaddq_s32(vcvtnq_s32_f32(a), vdupq_n_s32(INT8_ZERO));
    int16x4_t half = vmovn_s32(whole);
    uint8x8_t bytes = vqmovun_s16(vcombine_s16(half, half));
    vst1_lane_u32((uint32_t *)(void *)q, vreinterpret_u32_u8(bytes), 0);
}
/* Lanes in 0..INT8_WEIGHT, rounded to nearest, as two digits. */
INLINE void vf_store_digits(uint8_t *high, uint8_t *low, vf a)
{
    uint32x4_t w = vcvtnq_u32_f32(a), least = vdupq_n_u32(INT8_DIGIT - 1);
    uint16x4_t upper = vmovn_u32(vshrq_n_u32(w, 7)), lower = vmovn_u32(vandq_u32(w, least));
    uint32x2_t bytes = vreinterpret_u32_u8(vmovn_u16(vcombine_u16(upper, lower)));
    vst1_lane_u32((uint32_t *)(void *)high, bytes, 0);
    vst1_lane_u32((uint32_t *)(void *)low, bytes, 1);
}
INLINE float vf_sum(vf a)
{
    return vaddvq_f32(a);
}
INLINE float vf_top(vf a)
{
    return vmaxvq_f32(a);
}
INLINE vd vd_zero(void)
{
    return (vd){vdupq_n_f64(0), vdupq_n_f64(0)};
}
INLINE vd vd_add(vd s, vf a)
{
    s.lo = vaddq_f64(s.lo, vcvt_f64_f32(vget_low_f32(a)));
    s.hi = vaddq_f64(s.hi, vcvt_high_f64_f32(a));
    return s;
}
INLINE double vd_sum(vd s)
{
    return vaddvq_f64(vaddq_f64(s.lo, s.hi));
}

#define TABLE kernels_table_neon
#define TABLE_INT8 int8_neon
#define TABLE_DOT kernels_table_neon_dot
#define TABLE_DOT_INT8 int8_neondot
#define TABLE_NAME "neon"
#define GRAD_TABLE grad_table_neon
#include "engine/kernels/math.inc"

/* r[i][j] becomes r[j][i]: pairs, then halves. */
INLINE void vf_transpose(vf r[VL])
{
    float32x4x2_t a = vtrnq_f32(r[0], r[1]), b = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    r[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    r[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    r[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
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
