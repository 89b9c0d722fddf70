/* The error object: first error wins, hostile bytes in names never break the one-line form. */
#include "engine/base/err.h"

#include <signal.h>
#include <string.h>

#include "tests/support/harness.h"

START_TEST(first_error_wins)
{
    struct err e = {0};
    ck_assert_int_eq(err_set(&e, ERR_INVALID, "first %d", 1), ERR_INVALID);
    ck_assert_int_eq(err_set_param(&e, ERR_IO, "port", "second"), ERR_IO);
    ck_assert_int_eq(e.code, ERR_INVALID);
    ck_assert_str_eq(e.msg, "first 1");
    ck_assert_str_eq(e.param, "");
    ck_assert_int_eq(err_set(NULL, ERR_FULL, "nobody listens"), ERR_FULL);
}
END_TEST

START_TEST(message_is_one_printable_line)
{
    struct err e = {0};
    err_set_param(&e, ERR_INVALID, "max_tokens", "tensor \"a\nb\x1b[31m\"");
    ck_assert_str_eq(e.msg, "tensor \"a?b?[31m\"");
    ck_assert_str_eq(e.param, "max_tokens");
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    struct err f = {0};
    err_set(&f, ERR_INVALID, "%s", big);
    ck_assert_uint_eq(strlen(f.msg), sizeof f.msg - 1);
}
END_TEST

START_TEST(code_names)
{
    ck_assert_str_eq(err_code_name(ERR_NONE), "ERR_NONE");
    ck_assert_str_eq(err_code_name(ERR_INTERNAL), "ERR_INTERNAL");
    ck_assert_str_eq(err_code_name(-99), "ERR_?");
    ck_assert_str_eq(err_code_name(3), "ERR_?");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("err");
    TCase *t = tcase_create("err");
    tcase_add_test(t, first_error_wins);
    tcase_add_test(t, message_is_one_printable_line);
    tcase_add_test(t, code_names);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
