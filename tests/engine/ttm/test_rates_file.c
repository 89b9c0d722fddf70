/* The rates of a machine in a file: kept, refused when foreign or damaged, never in the way. */
#include "engine/ttm/rates_file.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/paths.h"
#include "tests/support/harness.h"

static const struct ttm_rates some = {.flops_few = 4.25e10,
                                      .flops_many = 2.0 / 3 * 1e11,
                                      .flops_f32 = 2.0 / 7 * 1e11,
                                      .dram = 2.5e10,
                                      .cache = 9.1e10,
                                      .overhead_s = 2.2e-6,
                                      .cache_bytes = 16u << 20,
                                      .lanes = PACK_N};
#define HERE "AMD EPYC, avx512, 2 threads"

START_TEST(round_trip)
{
    struct buf b = {0};
    struct ttm_rates r;
    ttm_rates_format(&some, HERE, &b);
    ck_assert_int_eq(ttm_rates_parse(&r, b.data, b.len, HERE, NULL), 0);
    ck_assert(r.flops_few == some.flops_few && r.flops_many == some.flops_many &&
              r.flops_f32 == some.flops_f32);
    ck_assert(r.dram == some.dram && r.cache == some.cache && r.overhead_s == some.overhead_s);
    ck_assert_uint_eq(r.cache_bytes, some.cache_bytes);
    ck_assert_uint_eq(r.lanes, some.lanes);
    buf_release(&b);
}
END_TEST

/* Every prefix, and every byte replaced: refused, or numbers that a plan can be made with. */
START_TEST(damage)
{
    static const char odd[] = {'-', '0', 'x', '\n', 0, 'z', '9'};
    struct buf b = {0};
    struct ttm_rates r;
    struct err e = {0};
    ttm_rates_format(&some, HERE, &b);
    ck_assert_int_eq(ttm_rates_parse(&r, b.data, b.len, "another machine", &e), ERR_INVALID);
    ck_assert_str_eq(e.msg, "not the rates of \"another machine\"");
    for (size_t n = 0; n < b.len; n++)
        ck_assert_int_eq(ttm_rates_parse(&r, b.data, n, HERE, NULL), ERR_INVALID);
    for (size_t i = 0; i < b.len; i++)
        for (size_t c = 0; c < sizeof odd; c++) {
            char was = b.data[i];
            b.data[i] = odd[c];
            if (ttm_rates_parse(&r, b.data, b.len, HERE, NULL) == 0)
                ck_assert(r.flops_few > 0 && r.flops_many > 0 && r.dram > 0 && r.cache > 0 &&
                          r.overhead_s > 0);
            b.data[i] = was;
        }
    buf_release(&b);
}
END_TEST

START_TEST(kept_between_starts)
{
    struct compute c = {.k = kernels_scalar()};
    struct ttm_rates first, second;
    bool found = true;
    char *path = mem_strdup(path_join(temp_dir(), "a/b/rates"));
    ck_assert_int_eq(ttm_rates_get(&first, DTYPE_I8, &c, path, HERE, &found, NULL), 0);
    ck_assert(!found);
    ck_assert_int_eq(ttm_rates_get(&second, DTYPE_I8, &c, path, HERE, &found, NULL), 0);
    ck_assert(found && first.flops_few == second.flops_few);
    ck_assert_int_eq(ttm_rates_get(&second, DTYPE_I8, &c, path, "other", &found, NULL), 0);
    ck_assert(!found); /* and now it is the other's */
    ck_assert_int_eq(ttm_rates_get(&second, DTYPE_I8, &c, path, "other", &found, NULL), 0);
    ck_assert(found);
    free(path);
}
END_TEST

START_TEST(no_place_is_no_error)
{
    struct compute c = {.k = kernels_scalar()};
    struct ttm_rates r;
    bool found = true;
    ck_assert_int_eq(ttm_rates_get(&r, DTYPE_F32, &c, "/proc/nowhere/rates", HERE, &found, NULL),
                     0);
    ck_assert(!found && r.flops_few > 0);
    ck_assert_int_eq(ttm_rates_get(&r, DTYPE_F32, &c, NULL, HERE, &found, NULL), 0);
    ck_assert(!found && r.flops_few > 0);
    const char *fifo = path_join(temp_dir(), "fifo");
    ck_assert_int_eq(mkfifo(fifo, 0600), 0);
    ck_assert_int_eq(ttm_rates_get(&r, DTYPE_F32, &c, fifo, HERE, &found, NULL),
                     0); /* does not block */
    ck_assert(!found);
}
END_TEST

START_TEST(paths)
{
    struct buf b = {0};
    ck_assert_int_eq(setenv("XDG_CACHE_HOME", "/x/y", 1), 0);
    ck_assert(paths_cache(&b, "rates"));
    ck_assert_str_eq(b.data, "/x/y/ttmd/rates");
    buf_clear(&b);
    ck_assert_int_eq(setenv("XDG_CACHE_HOME", "relative", 1), 0); /* to be ignored, says XDG */
    ck_assert_int_eq(setenv("HOME", "/home/me", 1), 0);
    ck_assert(paths_cache(&b, "rates"));
    ck_assert_str_eq(b.data, "/home/me/.cache/ttmd/rates");
    ck_assert_int_eq(unsetenv("HOME"), 0);
    ck_assert(!paths_cache(&b, "rates"));
    buf_release(&b);
}
END_TEST

/* Rates of 8-bit weights belong to the instructions that multiply them as well. */
START_TEST(whose_they_are)
{
    struct cpu cpu = {.model = "A\nCPU"};
    struct compute c = {.k = kernels_scalar()};
    struct buf b = {0};
    ttm_rates_machine(&b, &cpu, &c, DTYPE_BF16);
    ck_assert_str_eq(b.data, "A CPU, scalar, 1 threads, BF16");
    buf_clear(&b);
    ttm_rates_machine(&b, &cpu, &c, DTYPE_I8);
    ck_assert_str_eq(b.data, "A CPU, scalar+scalar, 1 threads, I8");
    buf_clear(&b);
    ck_assert_int_eq(setenv("XDG_CACHE_HOME", "/x", 1), 0);
    ck_assert(ttm_rates_path(&b, &c, DTYPE_I8));
    ck_assert_str_eq(b.data, "/x/ttmd/rates-scalar+scalar-1-I8");
    buf_release(&b);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ttm/rates file");
    TCase *c = tcase_create("rates file");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, round_trip);
    tcase_add_test(c, damage);
    tcase_add_test(c, kept_between_starts);
    tcase_add_test(c, no_place_is_no_error);
    tcase_add_test(c, paths);
    tcase_add_test(c, whose_they_are);
    suite_add_tcase(s, c);
    return s;
}
TEST_MAIN(suite)
