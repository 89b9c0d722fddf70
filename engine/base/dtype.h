#ifndef TTMD_BASE_DTYPE_H
#define TTMD_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Element types of tensors on disk and of packed weights. The names are those of safetensors. */
enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_F64,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_BOOL,
    DTYPE_I16,
    DTYPE_U16,
    DTYPE_I32,
    DTYPE_U32,
    DTYPE_I64,
    DTYPE_U64,
    DTYPE_COUNT
};

size_t dtype_size(enum dtype t);      /* bytes per element */
const char *dtype_name(enum dtype t); /* "F32", static storage */
int dtype_parse(const char *name);    /* enum dtype, or -1 if unknown; exact, upper case */

/* Scalar conversions, round to nearest even; NaN stays NaN, overflow becomes infinity. */
float dtype_f16_to_f32(uint16_t h);
uint16_t dtype_f32_to_f16(float f);

static inline float dtype_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
uint16_t dtype_f32_to_bf16(float f);

/* dtype_to_f32 -- dst[0..n) = src[0..n) widened; t is F32, F16, BF16 or F64, else BUG. src need not
 * be aligned (safetensors guarantees nothing). */
void dtype_to_f32(float *dst, const void *src, enum dtype t, size_t n);

/* dtype_from_f32 -- the reverse, for F32, F16 and BF16. dst need not be aligned. */
void dtype_from_f32(void *dst, enum dtype t, const float *src, size_t n);

#endif
