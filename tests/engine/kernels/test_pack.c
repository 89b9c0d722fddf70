/* Packing: every element where the layout says, padding zero, sources at odd addresses, hostile
 * shapes. */
#include "engine/kernels/pack.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/kernels/int8.h"
#include "tests/support/harness.h"

/* Element (k, n) of the source has the value k * 1000 + n in its bits. */
static char *source(size_t k, size_t n, size_t es, int transposed)
{
    char *s = mem_alloc(k * n * es + 1);
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < n; j++) {
            uint32_t v = (uint32_t)(i * 1000 + j);
            memcpy(s + 1 + (transposed ? j * k + i : i * n + j) * es, &v, es);
        }
    return s;
}

static void check_layout(const struct packed *w, size_t es)
{
    for (size_t p = 0; p < packed_panels(w->n); p++)
        for (size_t i = 0; i < w->k; i++)
            for (size_t j = 0; j < PACK_N; j++) {
                size_t col = p * PACK_N + j;
                uint32_t got = 0, want = col < w->n ? (uint32_t)(i * 1000 + col) : 0;
                memcpy(&got, (char *)w->data + ((p * w->k + i) * PACK_N + j) * es, es);
                if (es == 2) want &= 0xffff;
                ck_assert_uint_eq(got, want);
            }
}

START_TEST(elements_land_in_their_panel)
{
    static const size_t shapes[][2] = {{1, 1}, {3, 31}, {48, 32}, {127, 33}, {70, 100}};
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (size_t s = 0; s < 5; s++)
        for (size_t t = 0; t < 3; t++)
            for (int transposed = 0; transposed < 2; transposed++) {
                struct packed w;
                struct err e = {0};
                size_t k = shapes[s][0], n = shapes[s][1], es = dtype_size(types[t]);
                ck_assert_int_eq(packed_init(&w, types[t], k, n, "w", &e), 0);
                ck_assert_uint_eq(w.bytes, packed_panels(n) * PACK_N * k * es);
                ck_assert_uint_eq((uintptr_t)w.data % 64, 0);
                char *src = source(k, n, es, transposed);
                const struct pack_source from = {
                    .data = src + 1, .dtype = types[t], .transposed = transposed};
                for (size_t p = packed_panels(n); p-- > 0;)
                    packed_fill(&w, &from, p, p + 1);
                check_layout(&w, es);
                free(src);
                packed_release(&w);
                ck_assert_ptr_null(w.data);
            }
}
END_TEST

START_TEST(column_comes_back)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    enum { K = 50, N = 70 };
    float src[K * N], col[K];
    char raw[K * N * 4];
    for (int i = 0; i < K * N; i++)
        src[i] = (float)(i % 251); /* exact in every type */
    for (size_t t = 0; t < 3; t++) {
        struct packed w;
        struct err e = {0};
        ck_assert_int_eq(packed_init(&w, types[t], K, N, "w", &e), 0);
        dtype_from_f32(raw, types[t], src, K * N);
        const struct pack_source from = {.data = raw, .dtype = types[t], .transposed = true};
        ck_assert(packed_fill(&w, &from, 0, packed_panels(N)));
        for (size_t j = 0; j < N; j++) {
            packed_get_column(&w, j, col);
            ck_assert_mem_eq(col, src + j * K, sizeof col);
        }
        packed_release(&w);
    }
}
END_TEST

/* What 8 bits keep of a matrix: each number to half a step, the layout, what the kernels start from. */
START_TEST(columns_are_quantised)
{
    enum { K = 50, N = 70 };
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    float src[K * N], col[K];
    char raw[K * N * 4 + 1];
    struct packed w, part;
    struct err e = {0};
    rng_normal_fill(src, K * N, 0.3, 5, (uint64_t)_i);
    dtype_from_f32(raw + 1, types[_i], src, K * N);
    dtype_to_f32(src, raw + 1, types[_i], K * N);
    for (size_t i = 0; i < K; i++)
        src[33 * K + i] = 0; /* a column of zeros */
    dtype_from_f32(raw + 1, types[_i], src, K * N);
    const struct pack_source from = {.data = raw + 1, .dtype = types[_i], .transposed = true};
    ck_assert_int_eq(packed_init(&w, DTYPE_I8, K, N, "w", &e), 0);
    for (size_t p = packed_panels(N); p-- > 0;)
        ck_assert(packed_fill(&w, &from, p, p + 1));
    for (size_t j = 0; j < N; j++) {
        const float *x = src + j * K;
        float most = 0;
        int32_t sum = 0;
        for (size_t i = 0; i < K; i++)
            most = fmaxf(most, fabsf(x[i]));
        ck_assert(w.scale[j] == most / 127);
        packed_get_column(&w, j, col);
        for (size_t i = 0; i < K; i++) {
            ck_assert(fabsf(col[i] - x[i]) <= 0.5001F * w.scale[j]);
            const int8_t *q = w.data;
            q += ((j / PACK_N * 13 + i / 4) * PACK_N + j % PACK_N) * 4 + i % 4;
            ck_assert(col[i] == w.scale[j] * *q);
            sum += *q;
        }
        ck_assert_int_eq(w.shift[j], -128 * sum);
    }
    part = packed_columns(&w, 1, 38);
    packed_get_column(&part, 37, col);
    ck_assert(col[3] == w.scale[69] * ((int8_t *)w.data)[(2 * 13 * PACK_N + 5) * 4 + 3]);
    packed_release(&w);
}
END_TEST

/* 8-bit numbers of a file stay what they are, whichever way they lie; widened they are exact. */
START_TEST(stored_numbers_stay)
{
    enum { K = 37, N = 35, QUADS = 10 };
    int8_t src[K * N];
    char scales[N * 4 + 1];
    float scale[N], a[K], b[K];
    for (int i = 0; i < K * N; i++)
        src[i] = (int8_t)(i * 91 % 256 - 128);
    for (int j = 0; j < N; j++)
        scale[j] = (float)(j % 7) * 0.25F;
    memcpy(scales + 1, scale, sizeof scale);
    bool turned = _i == 1;
    struct pack_source from = {src, DTYPE_I8, turned, scales + 1};
    struct packed w, wide;
    struct err e = {0};
    ck_assert_int_eq(packed_init(&w, DTYPE_I8, K, N, "w", &e), 0);
    ck_assert_int_eq(packed_init(&wide, DTYPE_F32, K, N, "w", &e), 0);
    ck_assert(packed_fill(&w, &from, 0, 2));
    ck_assert(packed_fill(&wide, &from, 0, 2));
    for (size_t j = 0; j < N; j++) {
        packed_get_column(&w, j, a);
        packed_get_column(&wide, j, b);
        ck_assert_mem_eq(a, b, sizeof a);
        int32_t sum = 0;
        for (size_t i = 0; i < K; i++) {
            int8_t want = src[turned ? j * K + i : i * N + j];
            ck_assert(a[i] == scale[j] * want);
            sum += want;
        }
        ck_assert_int_eq(w.shift[j], -INT8_ZERO * sum);
    }
    const int8_t *q = w.data;
    for (size_t p = 0; p < 2; p++) /* beyond K and N: nothing */
        for (size_t k = 0; k < QUADS * INT8_QUAD; k++)
            for (size_t c = 0; c < PACK_N; c++)
                if (k >= K || p * PACK_N + c >= N)
                    ck_assert_int_eq(
                        q[((p * QUADS + k / INT8_QUAD) * PACK_N + c) * INT8_QUAD + k % INT8_QUAD],
                        0);
    packed_release(&w);
    packed_release(&wide);
}
END_TEST

START_TEST(numbers_that_are_none_are_found)
{
    static const enum dtype to[] = {DTYPE_F32, DTYPE_BF16, DTYPE_I8};
    float src[40 * 33] = {0};
    struct packed w;
    struct err e = {0};
    for (int bad = 0; bad < 3; bad++) {
        src[39 * 33 + 32] = bad == 0 ? 1 : bad == 1 ? NAN : -INFINITY;
        ck_assert_int_eq(packed_init(&w, to[_i], 40, 33, "w", &e), 0);
        const struct pack_source from = {.data = src, .dtype = DTYPE_F32};
        ck_assert(packed_fill(&w, &from, 0, 2) == (bad == 0));
        packed_release(&w);
    }
}
END_TEST

START_TEST(impossible_shapes_are_refused)
{
    struct packed w = {.k = 77};
    struct err e = {0};
    ck_assert_int_eq(packed_init(&w, DTYPE_F32, 0, 5, "h.0.w", &e), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(e.msg, "h.0.w"));
    ck_assert_int_eq(packed_init(&w, DTYPE_F32, 5, 0, "w", NULL), ERR_INVALID);
    ck_assert_int_eq(packed_init(&w, DTYPE_F32, SIZE_MAX / 8, 5, "w", NULL), ERR_INVALID);
    ck_assert_int_eq(packed_init(&w, DTYPE_F32, 5, SIZE_MAX, "w", NULL), ERR_INVALID);
    ck_assert_int_eq(packed_init(&w, DTYPE_F64, 5, 5, "w", NULL), ERR_UNSUPPORTED);
    ck_assert_int_eq(packed_init(&w, DTYPE_I8, INT8_MAX_K + 1, 5, "w", NULL), ERR_INVALID);
    ck_assert_uint_eq(w.k, 77);
}
END_TEST

START_TEST(too_large_is_out_of_memory)
{
    struct packed w = {0};
    struct err e = {0};
    ck_assert_int_eq(packed_init(&w, DTYPE_F32, (size_t)1 << 40, 1 << 10, "wte", &e), ERR_NOMEM);
    ck_assert_ptr_nonnull(strstr(e.msg, "wte"));
    ck_assert_ptr_null(w.data);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("pack");
    TCase *t = tcase_create("pack");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, elements_land_in_their_panel);
    tcase_add_test(t, column_comes_back);
    tcase_add_loop_test(t, columns_are_quantised, 0, 3);
    tcase_add_loop_test(t, stored_numbers_stay, 0, 2);
    tcase_add_loop_test(t, numbers_that_are_none_are_found, 0, 3);
    tcase_add_test(t, impossible_shapes_are_refused);
    tcase_add_test(t, too_large_is_out_of_memory);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
