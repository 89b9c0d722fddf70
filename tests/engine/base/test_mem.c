/* Memory and buffers: overflow checks, alignment, failure messages, growth. */
#include "engine/base/buf.h"
#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/harness.h"

START_TEST(arithmetic_refuses_overflow)
{
    size_t v = 7;
    ck_assert(mem_mul(3, 5, &v));
    ck_assert_uint_eq(v, 15);
    ck_assert(!mem_mul(SIZE_MAX / 2, 3, &v));
    ck_assert(!mem_add(SIZE_MAX, 1, &v));
    ck_assert_uint_eq(v, 15);
    ck_assert_uint_eq(mem_round_up(0, 64), 0);
    ck_assert_uint_eq(mem_round_up(1, 64), 64);
    ck_assert_uint_eq(mem_round_up(64, 64), 64);
}
END_TEST

START_TEST(small_blocks)
{
    char *p = mem_alloc(0), *q = mem_calloc(0, 8), *s = mem_strdup("abc");
    ck_assert(p && q);
    s = mem_realloc(s, 100);
    ck_assert_str_eq(s, "abc");
    int *z = mem_calloc(100, sizeof *z);
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(z[i], 0);
    free(p), free(q), free(s), free(z);
}
END_TEST

START_TEST(maps_are_zeroed_and_writable_to_the_last_byte)
{
    const size_t sizes[] = {0,       1, 4095, 4096, 4097, (2u << 20) - 1, 2u << 20, (2u << 20) + 1,
                            9u << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *v = NULL;
        struct err e = {0};
        ck_assert_int_eq(mem_map(&v, sizes[i], "test", &e), 0);
        ck_assert_uint_eq((uintptr_t)v % 4096, 0);
        if (sizes[i] >= 2u << 20) ck_assert_uint_eq((uintptr_t)v % (2u << 20), 0);
        char *p = v;
        for (size_t k = 0; k < sizes[i]; k += 1000)
            ck_assert_int_eq(p[k], 0);
        if (sizes[i]) p[0] = p[sizes[i] - 1] = 1;
        mem_unmap(v, sizes[i]);
    }
    mem_unmap(NULL, 100);
}
END_TEST

START_TEST(impossible_maps_are_errors_with_name_and_size)
{
    const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX - (4u << 20), (size_t)1 << 60};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *v = &v;
        struct err e = {0};
        char bytes[32];
        snprintf(bytes, sizeof bytes, "%zu bytes", sizes[i]);
        ck_assert_int_eq(mem_map(&v, sizes[i], "KV cache", &e), ERR_NOMEM);
        ck_assert_ptr_eq(v, &v);
        ck_assert_ptr_nonnull(strstr(e.msg, "KV cache"));
        ck_assert_ptr_nonnull(strstr(e.msg, bytes));
    }
}
END_TEST

START_TEST(buffer_grows_and_stays_terminated)
{
    struct buf b = {0};
    char oracle[5000] = "";
    size_t len = 0;
    for (int i = 0; i < 300; i++) {
        buf_printf(&b, "%d,", i * 7919);
        len += (size_t)snprintf(oracle + len, sizeof oracle - len, "%d,", i * 7919);
        ck_assert_uint_eq(b.len, len);
        ck_assert_str_eq(b.data, oracle);
        ck_assert_uint_lt(b.len, b.cap);
    }
    buf_clear(&b);
    ck_assert_uint_eq(b.len, 0);
    ck_assert_str_eq(b.data, "");
    buf_append(&b, "a\0b", 3);
    buf_putc(&b, 'c');
    ck_assert_mem_eq(b.data, "a\0bc", 5);
    buf_release(&b);
    ck_assert_ptr_null(b.data);
    buf_release(&b);
}
END_TEST

START_TEST(buffer_exact_fits)
{
    for (size_t n = 0; n < 200; n++) { /* around every capacity */
        struct buf b = {0};
        for (size_t i = 0; i < n; i++)
            buf_putc(&b, 'x');
        buf_printf(&b, "%*s", (int)n, "");
        ck_assert_uint_eq(b.len, 2 * n);
        char *s = buf_take(&b);
        ck_assert_uint_eq(strlen(s), 2 * n);
        ck_assert_ptr_null(b.data);
        free(s);
    }
}
END_TEST

START_TEST(empty_buffer_gives_an_empty_text)
{
    struct buf b = {0};
    buf_append(&b, NULL, 0);
    ck_assert_str_eq(b.data, "");
    buf_release(&b);
    char *s = buf_take(&b);
    ck_assert_str_eq(s, "");
    free(s);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("mem");
    TCase *t = tcase_create("mem");
    tcase_add_test(t, arithmetic_refuses_overflow);
    tcase_add_test(t, small_blocks);
    tcase_add_test(t, maps_are_zeroed_and_writable_to_the_last_byte);
    tcase_add_test(t, impossible_maps_are_errors_with_name_and_size);
    tcase_add_test(t, buffer_grows_and_stays_terminated);
    tcase_add_test(t, buffer_exact_fits);
    tcase_add_test(t, empty_buffer_gives_an_empty_text);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
