/* Reading small files: whole, up to the limit and no further, and what cannot be read; pipes never
 * block. */
#include "engine/base/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/harness.h"

enum { SIZE = 10000 };

START_TEST(reads_up_to_the_limit)
{
    static char text[SIZE];
    const char *path = path_join(temp_dir(), "f");
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, SIZE};
    for (size_t i = 0; i < SIZE; i++)
        text[i] = (char)(i * 7 + i / 256);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct buf b = {0};
        size_t n = sizes[i];
        write_file(path, text, n);
        buf_puts(&b, "before");
        ck_assert_int_eq(file_read(path, n, &b), 0);
        ck_assert_uint_eq(b.len, 6 + n);
        ck_assert_mem_eq(b.data, "before", 6);
        ck_assert_mem_eq(b.data + 6, text, n);
        if (n) ck_assert_int_eq(file_read(path, n - 1, &b), EFBIG);
        buf_release(&b);
    }
}
END_TEST

/* A pipe that nobody writes would be waited for without end, /dev/zero read to the limit. */
START_TEST(only_regular_files)
{
    const char *dir = temp_dir(), *pipe = path_join(dir, "pipe"), *link = path_join(dir, "link");
    struct buf b = {0};
    ck_assert_int_eq(mkfifo(pipe, 0600), 0);
    ck_assert_int_eq(file_read(pipe, 100, &b), FILE_NOT_REGULAR);
    ck_assert_int_eq(file_read("/dev/zero", 100, &b), FILE_NOT_REGULAR);
    ck_assert_ptr_nonnull(strstr(file_why(FILE_NOT_REGULAR), "a regular file was expected"));
    ck_assert_str_eq(file_why(ENOENT), strerror(ENOENT));
    ck_assert_uint_eq(b.len, 0);
    write_file(path_join(dir, "f"), "text", 4);
    ck_assert_int_eq(symlink("f", link), 0);
    ck_assert_int_eq(file_read(link, 100, &b), 0); /* what a link names counts */
    ck_assert_str_eq(b.data, "text");
    buf_release(&b);
}
END_TEST

START_TEST(says_why_not)
{
    struct buf b = {0};
    ck_assert_int_eq(file_read("/nonexistent/file", 10, &b), ENOENT);
    ck_assert_int_eq(file_read(temp_dir(), 10, &b), EISDIR);
    ck_assert_uint_eq(b.len, 0);
    buf_release(&b);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("file");
    TCase *t = tcase_create("file");
    tcase_add_test(t, reads_up_to_the_limit);
    tcase_add_test(t, only_regular_files);
    tcase_add_test(t, says_why_not);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
