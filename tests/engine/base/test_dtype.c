/* Conversions against their definitions: every one of the 65536 halves, and rounding to nearest even
 * at every midpoint between two of them. */
#include "engine/base/dtype.h"

#include <math.h>
#include <string.h>

#include "tests/support/harness.h"

static float bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* (-1)^s 2^(e-15) 1.m, by the book. */
static double f16_value(unsigned h)
{
    int e = h >> 10 & 31, m = h & 0x3ff;
    double v = e == 31 ? (m ? (double)NAN : (double)INFINITY)
               : e     ? ldexp(1024 + m, e - 25)
                       : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

static double bf16_value(unsigned h)
{
    int e = h >> 7 & 255, m = h & 0x7f;
    double v = e == 255 ? (m ? (double)NAN : (double)INFINITY)
               : e      ? ldexp(128 + m, e - 134)
                        : ldexp(m, -133);
    return h & 0x8000 ? -v : v;
}

START_TEST(f16_all_values)
{
    for (unsigned h = 0; h < 65536; h++) {
        float f = dtype_f16_to_f32((uint16_t)h);
        double want = f16_value(h);
        if (isnan(want)) {
            ck_assert(isnan(f));
            unsigned back = dtype_f32_to_f16(f);
            ck_assert_uint_eq(back, h | 0x200); /* quieted, sign and payload kept */
            continue;
        }
        ck_assert((double)f == want && !signbit(f) == !(h & 0x8000));
        ck_assert_uint_eq(dtype_f32_to_f16(f), h);
    }
}
END_TEST

START_TEST(bf16_all_values)
{
    for (unsigned h = 0; h < 65536; h++) {
        float f = dtype_bf16_to_f32((uint16_t)h);
        double want = bf16_value(h);
        if (isnan(want)) {
            ck_assert(isnan(f));
            ck_assert_uint_eq(dtype_f32_to_bf16(f), h | 0x40);
            continue;
        }
        ck_assert((double)f == want && !signbit(f) == !(h & 0x8000));
        ck_assert_uint_eq(dtype_f32_to_bf16(f), h);
    }
}
END_TEST

/* Between halves lo and lo + 1: the midpoint goes to the even one, its neighbours to the nearer. */
static void check_midpoint(unsigned lo, double (*value)(unsigned), uint16_t (*narrow)(float))
{
    float mid = (float)((value(lo) + value(lo + 1)) / 2);
    unsigned even = lo & 1 ? lo + 1 : lo;
    if (narrow(mid) != even || narrow(-mid) != (even | 0x8000) ||
        narrow(nextafterf(mid, 0)) != lo || narrow(nextafterf(mid, INFINITY)) != lo + 1)
        ck_abort_msg("between %04x and its successor: %a", lo, (double)mid);
}

START_TEST(f16_rounds_to_nearest_even)
{
    for (unsigned h = 0; h < 0x7bff; h++)
        check_midpoint(h, f16_value, dtype_f32_to_f16);
    ck_assert_uint_eq(dtype_f32_to_f16(65519.996f), 0x7bff);
    ck_assert_uint_eq(dtype_f32_to_f16(65520.0f), 0x7c00); /* midpoint to 2^16: even is infinity */
    ck_assert_uint_eq(dtype_f32_to_f16(-1e30f), 0xfc00);
    ck_assert_uint_eq(dtype_f32_to_f16(bits_float(0x33000000)), 0); /* half the least subnormal */
    ck_assert_uint_eq(dtype_f32_to_f16(bits_float(0x33000001)), 1);
    ck_assert_uint_eq(dtype_f32_to_f16(bits_float(0x80000001)), 0x8000);
}
END_TEST

START_TEST(bf16_rounds_to_nearest_even)
{
    for (unsigned h = 0; h < 0x7f7f; h++)
        check_midpoint(h, bf16_value, dtype_f32_to_bf16);
    ck_assert_uint_eq(dtype_f32_to_bf16(3.4028235e38f), 0x7f80);
    ck_assert_uint_eq(dtype_f32_to_bf16(bits_float(0x7f800001)),
                      0x7fc0); /* not rounded to infinity */
}
END_TEST

START_TEST(names_and_sizes)
{
    static const char *const names[] = {"F32", "F16", "BF16", "F64", "I8",  "U8", "BOOL",
                                        "I16", "U16", "I32",  "U32", "I64", "U64"};
    static const size_t sizes[] = {4, 2, 2, 8, 1, 1, 1, 2, 2, 4, 4, 8, 8};
    for (int t = 0; t < DTYPE_COUNT; t++) {
        ck_assert_str_eq(dtype_name((enum dtype)t), names[t]);
        ck_assert_uint_eq(dtype_size((enum dtype)t), sizes[t]);
        ck_assert_int_eq(dtype_parse(names[t]), t);
    }
    ck_assert_int_eq(dtype_parse("f32"), -1);
    ck_assert_int_eq(dtype_parse(""), -1);
    ck_assert_int_eq(dtype_parse("F320"), -1);
}
END_TEST

START_TEST(arrays_at_odd_addresses)
{
    const float x[5] = {0, -1.5f, 65504, 1e-6f, 3.25f};
    const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (int k = 0; k < 3; k++)
        for (size_t n = 0; n <= 5; n++) {
            char raw[32];
            memset(raw, 0x55, sizeof raw);
            dtype_from_f32(raw + 1, types[k], x, n);
            size_t end = 1 + n * dtype_size(types[k]);
            ck_assert(raw[0] == 0x55 && raw[end] == 0x55);
            float y[5];
            dtype_to_f32(y, raw + 1, types[k], n);
            for (size_t i = 0; i < n; i++) {
                float want = k == 0   ? x[i]
                             : k == 1 ? dtype_f16_to_f32(dtype_f32_to_f16(x[i]))
                                      : dtype_bf16_to_f32(dtype_f32_to_bf16(x[i]));
                ck_assert(y[i] == want);
            }
        }
    char raw[17];
    const double d[2] = {1.0 + 0x1p-24, -2.5}; /* the first is a tie: to even */
    float y[2];
    memcpy(raw + 1, d, sizeof d);
    dtype_to_f32(y, raw + 1, DTYPE_F64, 2);
    ck_assert(y[0] == 1.0f && y[1] == -2.5f);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("dtype");
    TCase *t = tcase_create("dtype");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, f16_all_values);
    tcase_add_test(t, bf16_all_values);
    tcase_add_test(t, f16_rounds_to_nearest_even);
    tcase_add_test(t, bf16_rounds_to_nearest_even);
    tcase_add_test(t, names_and_sizes);
    tcase_add_test(t, arrays_at_odd_addresses);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
