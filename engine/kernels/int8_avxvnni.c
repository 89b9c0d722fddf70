/* AVX-VNNI, the 256-bit form: 16 registers, so that more than three rows take the panel in two passes. */
#include <immintrin.h>

#include "engine/kernels/int8.h"

#define INLINE static inline __attribute__((always_inline))
#define VI_COLS 8
#define TILE_ROWS 6
#define WIDE_ROWS 3
#define OPAQUE(a) __asm__ volatile("" : "+x"(a))

typedef __m256i vi;

INLINE vi vi_start(const int32_t *shift)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)shift);
}
INLINE vi vi_load(const int8_t *w)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)w);
}
INLINE vi vi_quad(const uint8_t *q)
{
    int32_t four;
    __builtin_memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}
#define vi_digits vi_quad
#define vi_dot_digits vi_dot
INLINE vi vi_dot(vi sum, vi quad, vi w)
{
    return _mm256_dpbusd_avx_epi32(sum, quad, w);
}
INLINE void vi_store(int32_t *out, vi sum)
{
    _mm256_storeu_si256((__m256i *)(void *)out, sum);
}

#define INT8_TABLE int8_avxvnni
#define INT8_NAME "avxvnni"
#include "engine/kernels/int8.inc"
