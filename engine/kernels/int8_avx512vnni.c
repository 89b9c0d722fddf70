/* AVX-512 VNNI: 64 multiplications in one instruction, 16 sums of four. A tile of 12 rows keeps 24 sums,
 * two vectors of weights and the broadcast quad in registers, the whole panel in one pass. */
#include <immintrin.h>

#include "engine/kernels/int8.h"

#define INLINE static inline __attribute__((always_inline))
#define VI_COLS 16
#define TILE_ROWS 12
#define WIDE_ROWS 12
#define OPAQUE(a) __asm__ volatile("" : "+v"(a))

typedef __m512i vi;

INLINE vi vi_start(const int32_t *shift)
{
    return _mm512_loadu_si512(shift);
}
INLINE vi vi_load(const int8_t *w)
{
    return _mm512_loadu_si512(w);
}
INLINE vi vi_quad(const uint8_t *q)
{
    int32_t four;
    __builtin_memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}
#define vi_digits vi_quad
#define vi_dot_digits vi_dot
INLINE vi vi_dot(vi sum, vi quad, vi w)
{
    return _mm512_dpbusd_epi32(sum, quad, w);
}
INLINE void vi_store(int32_t *out, vi sum)
{
    _mm512_storeu_si512(out, sum);
}

#define INT8_TABLE int8_avx512vnni
#define INT8_NAME "avx512vnni"
#include "engine/kernels/int8.inc"
