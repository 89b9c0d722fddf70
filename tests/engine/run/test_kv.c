/* The block pool: reservation is all or nothing, references keep a block out of the free list. */
#include "engine/run/kv.h"

#include <string.h>

#include "engine/kernels/kernels.h"
#include "tests/support/harness.h"

START_TEST(blocks_for_positions)
{
    ck_assert_int_eq(kv_blocks_for(0), 0);
    ck_assert_int_eq(kv_blocks_for(1), 1);
    ck_assert_int_eq(kv_blocks_for(KV_BLOCK), 1);
    ck_assert_int_eq(kv_blocks_for(KV_BLOCK + 1), 2);
    ck_assert_int_eq(kv_blocks_for(1023), 64);
    ck_assert_int_eq(kv_blocks_for(INT32_MAX), INT32_MAX / KV_BLOCK + 1);
}
END_TEST

START_TEST(refuses_an_empty_pool)
{
    struct kv_pool p = {0};
    struct err err = {0};
    ck_assert_int_eq(kv_pool_init(&p, 0, &err), ERR_INVALID);
    ck_assert_int_eq(kv_pool_init(&p, -3, NULL), ERR_INVALID);
}
END_TEST

START_TEST(take_is_all_or_nothing)
{
    struct kv_pool p;
    int32_t b[8];
    ck_assert_int_eq(kv_pool_init(&p, 7, NULL), 0);
    ck_assert_int_eq(kv_pool_take(&p, b, 8), ERR_FULL);
    ck_assert_int_eq(p.n_free, 7);
    ck_assert_int_eq(kv_pool_take(&p, b, 7), 0);
    bool seen[7] = {false};
    for (int i = 0; i < 7; i++) {
        ck_assert_int_ge(b[i], 0);
        ck_assert_int_lt(b[i], 7);
        ck_assert(!seen[b[i]]);
        seen[b[i]] = true;
    }
    int32_t more;
    ck_assert_int_eq(kv_pool_take(&p, &more, 1), ERR_FULL);
    ck_assert_int_eq(kv_pool_take(&p, &more, 0), 0);
    kv_pool_unref(&p, b[3]);
    ck_assert_int_eq(kv_pool_take(&p, &more, 1), 0);
    ck_assert_int_eq(more, b[3]);
    kv_pool_release(&p);
}
END_TEST

START_TEST(shared_blocks_return_with_the_last_reference)
{
    struct kv_pool p;
    int32_t b[2], again;
    ck_assert_int_eq(kv_pool_init(&p, 2, NULL), 0);
    ck_assert_int_eq(kv_pool_take(&p, b, 2), 0);
    kv_pool_ref(&p, b[0]);
    kv_pool_unref(&p, b[0]);
    ck_assert_int_eq(p.n_free, 0);
    kv_pool_unref(&p, b[0]);
    ck_assert_int_eq(p.n_free, 1);
    ck_assert_int_eq(kv_pool_take(&p, &again, 1), 0);
    ck_assert_int_eq(again, b[0]);
    kv_pool_release(&p);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("kv");
    TCase *t = tcase_create("kv");
    tcase_add_test(t, blocks_for_positions);
    tcase_add_test(t, refuses_an_empty_pool);
    tcase_add_test(t, take_is_all_or_nothing);
    tcase_add_test(t, shared_blocks_return_with_the_last_reference);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
