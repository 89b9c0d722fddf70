/* AVX2 has no dot product of bytes that is exact for all of them: vpmaddubsw adds pairs of unsigned times
 * signed in 16 bits and saturates. With the magnitude of the weight as the unsigned factor, at most 128,
 * and the input with the weight's sign, at most 127, a pair is at most 2 * 128 * 127 = 32512 and nothing
 * saturates. */
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
    (void)shift; /* the inputs are made signed before they are multiplied */
    return _mm256_setzero_si256();
}
INLINE vi vi_load(const int8_t *w)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)w);
}
INLINE vi vi_digits(const uint8_t *q)
{
    int32_t four;
    __builtin_memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}
INLINE vi vi_quad(const uint8_t *q)
{
    return _mm256_xor_si256(vi_digits(q), _mm256_set1_epi8((char)INT8_ZERO));
}
INLINE vi vi_dot(vi sum, vi quad, vi w)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(quad, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
/* Digits are at most 127 as they are. */
INLINE vi vi_dot_digits(vi sum, vi quad, vi w)
{
    return _mm256_add_epi32(sum,
                            _mm256_madd_epi16(_mm256_maddubs_epi16(quad, w), _mm256_set1_epi16(1)));
}
INLINE void vi_store(int32_t *out, vi sum)
{
    _mm256_storeu_si256((__m256i *)(void *)out, sum);
}

#define INT8_TABLE int8_avx2
#define INT8_NAME "avx2"
#include "engine/kernels/int8.inc"
