/* NEON without dot products: 8-bit products widen to 16 bits, where a pair of them, at most
 * 2 * 128 * 127 = 32512, fits, and pairs of pairs are added into 32. */
#include "engine/kernels/int8_neon.inc"

INLINE vi vi_dot(vi sum, vi quad, vi w)
{
    int8x16_t a = vreinterpretq_s8_s32(quad), b = vreinterpretq_s8_s32(w);
    int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

#define INT8_TABLE int8_neon
#define INT8_NAME "neon"
#include "engine/kernels/int8.inc"
