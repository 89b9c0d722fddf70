/* Element types and the portable conversions to and from f32. Halves are converted with integers,
 * so that every machine gives the same bits with or without F16C; fast kernels may use the hardware
 * and are tested against these. All sources are read through memcpy: tensors in a safetensors file
 * start at any byte. */
#include "engine/base/dtype.h"

#include <stdbool.h>

#include "engine/base/err.h"

static const struct {
    const char *name;
    size_t size;
} types[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 4},   [DTYPE_F16] = {"F16", 2}, [DTYPE_BF16] = {"BF16", 2},
    [DTYPE_F64] = {"F64", 8},   [DTYPE_I8] = {"I8", 1},   [DTYPE_U8] = {"U8", 1},
    [DTYPE_BOOL] = {"BOOL", 1}, [DTYPE_I16] = {"I16", 2}, [DTYPE_U16] = {"U16", 2},
    [DTYPE_I32] = {"I32", 4},   [DTYPE_U32] = {"U32", 4}, [DTYPE_I64] = {"I64", 8},
    [DTYPE_U64] = {"U64", 8},
};

size_t dtype_size(enum dtype t)
{
    BUG_ON((unsigned)t >= DTYPE_COUNT);
    return types[t].size;
}

const char *dtype_name(enum dtype t)
{
    BUG_ON((unsigned)t >= DTYPE_COUNT);
    return types[t].name;
}

int dtype_parse(const char *name)
{
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (!strcmp(types[t].name, name)) return t;
    return -1;
}

static uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* f16: 1 sign, 5 exponent (bias 15), 10 mantissa; f32: 1, 8 (bias 127), 23. */
float dtype_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 0x3ff;
    if (exp == 31) return bits_float(sign | 0x7f800000 | man << 13);
    if (exp) return bits_float(sign | (exp + 112) << 23 | man << 13);
    float f = (float)man * 0x1p-24f; /* subnormal or zero: exact in f32 */
    return bits_float(sign | float_bits(f));
}

/* u >> shift, rounded to nearest, ties to even; 1 <= shift <= 31. */
static uint32_t shift_round(uint32_t u, unsigned shift)
{
    uint32_t half = 1u << (shift - 1), rest = u & (2 * half - 1), q = u >> shift;
    return q + (rest > half || (rest == half && (q & 1)));
}

uint16_t dtype_f32_to_f16(float f)
{
    uint32_t u = float_bits(f), sign = u >> 16 & 0x8000, abs = u & 0x7fffffff;
    if (abs > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (abs >> 13 & 0x3ff)); /* NaN, quiet */
    if (abs >= 0x47800000) return (uint16_t)(sign | 0x7c00);                      /* >= 65536 */
    if (abs >= 0x38800000) /* normal: rounding may carry into the exponent, up to infinity */
        return (uint16_t)(sign | shift_round(abs - (112u << 23), 13));
    if (abs < 0x33000000) return (uint16_t)sign; /* below half the least subnormal */
    unsigned exp = abs >> 23;                    /* 102..112 */
    return (uint16_t)(sign | shift_round((abs & 0x7fffff) | 0x800000, 126 - exp));
}

uint16_t dtype_f32_to_bf16(float f)
{
    uint32_t u = float_bits(f), sign = u >> 16 & 0x8000, abs = u & 0x7fffffff;
    if (abs > 0x7f800000) return (uint16_t)(sign | 0x7fc0 | (abs >> 16 & 0x7f));
    return (uint16_t)(sign | shift_round(abs, 16));
}

static void from_half(float *dst, const char *src, size_t n, bool bf16)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, sizeof h);
        dst[i] = bf16 ? dtype_bf16_to_f32(h) : dtype_f16_to_f32(h);
    }
}

void dtype_to_f32(float *dst, const void *src, enum dtype t, size_t n)
{
    if (!n) return;
    switch (t) {
    case DTYPE_F32:
        memcpy(dst, src, n * sizeof *dst);
        return;
    case DTYPE_F16:
    case DTYPE_BF16:
        from_half(dst, src, n, t == DTYPE_BF16);
        return;
    case DTYPE_F64:
        for (size_t i = 0; i < n; i++) {
            double d;
            memcpy(&d, (const char *)src + sizeof d * i, sizeof d);
            dst[i] = (float)d;
        }
        return;
    default:
        BUG("no conversion from %s to F32", dtype_name(t));
    }
}

void dtype_from_f32(void *dst, enum dtype t, const float *src, size_t n)
{
    if (!n) return;
    switch (t) {
    case DTYPE_F32:
        memcpy(dst, src, n * sizeof *src);
        return;
    case DTYPE_F16:
    case DTYPE_BF16:
        for (size_t i = 0; i < n; i++) {
            uint16_t h = t == DTYPE_BF16 ? dtype_f32_to_bf16(src[i]) : dtype_f32_to_f16(src[i]);
            memcpy((char *)dst + 2 * i, &h, sizeof h);
        }
        return;
    default:
        BUG("no conversion from F32 to %s", dtype_name(t));
    }
}
