/* The machine's limits: finite and positive with any number of threads, and a buffer that is as large as
 * promised without taking more than its share of a small machine. */
#include "engine/kernels/machine.h"

#include <math.h>

#include "tests/support/harness.h"

START_TEST(measures)
{
    struct pool *pool = NULL;
    struct machine *m = NULL;
    struct err err = {0};
    struct cpu here, cpu = {.memory_bytes = (size_t)256 << 20, .l3_bytes = (size_t)1 << 20};
    cpu_detect(&here);
    if (_i > 0) ck_assert_int_eq(pool_new(&pool, _i, &err), 0);
    ck_assert_msg(machine_open(&m, pool, &cpu, &err) == 0, "%s", err.msg);
    ck_assert_uint_eq(machine_read_bytes(m), (size_t)64 << 20); /* a quarter of 256 MB */
    const struct kernels *all[] = {kernels_scalar(), kernels_choose(&here, NULL)};
    for (int i = 0; i < 2; i++) {
        double read = machine_read_bandwidth(m, all[i]);
        ck_assert_msg(isfinite(read) && read > 1e6, "%s: %g bytes/s", all[i]->name, read);
    }
    if (_i == 2) {
        double flops = machine_sgemm_peak(m);
        ck_assert_msg(isfinite(flops) && flops > 1e7, "%g FLOP/s", flops);
    }
    machine_close(m);
    pool_free(pool);
}
END_TEST

START_TEST(the_buffer_exceeds_the_cache)
{
    struct machine *m = NULL;
    struct err err = {0};
    struct cpu cpu = {.memory_bytes = (size_t)16 << 30, .l3_bytes = (size_t)300 << 20};
    ck_assert_msg(machine_open(&m, NULL, &cpu, &err) == 0, "%s", err.msg);
    ck_assert_uint_eq(machine_read_bytes(m), (size_t)1200 << 20);
    machine_close(m);
    machine_close(NULL);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("machine");
    TCase *t = tcase_create("machine");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, measures, 0, 4);
    tcase_add_test(t, the_buffer_exceeds_the_cache);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
