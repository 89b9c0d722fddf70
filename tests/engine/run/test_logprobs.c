/* logprobs_of() against log-softmax in long double, and its promise of equal digits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/run/sampler.h"
#include "tests/support/harness.h"

#define MOST 5000

static const struct kernels *table(int i)
{
    struct cpu cpu;
    cpu_detect(&cpu);
    return i ? kernels_choose(&cpu, NULL) : kernels_scalar();
}

static double naive_logprob(const float *x, int n, int id)
{
    long double sum = 0, max = -INFINITY;
    for (int i = 0; i < n; i++)
        max = fmaxl(max, (long double)x[i]);
    for (int i = 0; i < n; i++)
        sum += expl((long double)x[i] - max);
    return (double)((long double)x[id] - max - logl(sum));
}

START_TEST(values_order_and_equal_digits)
{
    static float x[MOST];
    struct token_logprob top[20];
    for (int c = 0; c < 60; c++) {
        const struct kernels *k = table(c % 2);
        int n = c < 30 ? 20 + c : MOST - 7 * c, want = c % 21, best = -1;
        rng_normal_fill(x, (uint64_t)n, 4.0, (uint64_t)c, 2);
        for (int i = 0; c % 3 == 0 && i < n; i++)
            x[i] = roundf(x[i]); /* many equal */
        for (int id = 0; id < n; id += 1 + n / 17)
            assert_close(logprobs_of(k, x, n, id, NULL, 0, NULL), naive_logprob(x, n, id), 2e-5,
                         2e-6);
        logprobs_of(k, x, n, 0, top, want, &best);
        for (int i = 0; i < n; i++)
            ck_assert(x[best] > x[i] || (x[best] == x[i] && best <= i));
        for (int r = 0; r < want; r++) {
            float lp = logprobs_of(k, x, n, top[r].id, NULL, 0, NULL);
            ck_assert(!memcmp(&lp, &top[r].logprob, sizeof lp));
            int before = 0; /* how many must stand before this one */
            for (int i = 0; i < n; i++)
                before += x[i] > x[top[r].id] || (x[i] == x[top[r].id] && i < top[r].id);
            ck_assert_int_eq(before, r);
        }
        if (want) ck_assert_int_eq(top[0].id, best);
    }
}
END_TEST

START_TEST(always_finite)
{
    float x[4] = {NAN, 1, -INFINITY, 2};
    struct token_logprob top[4];
    int32_t best;
    for (int i = 0; i < 2; i++) {
        ck_assert(logprobs_of(table(i), x, 4, 0, top, 4, &best) == -9999.0f);
        ck_assert_int_eq(best, 3);
        ck_assert_int_eq(top[0].id, 3);
        ck_assert_int_eq(top[1].id, 1);
        assert_close(top[0].logprob, -log1p(exp(-1)), 1e-6, 0);
        ck_assert(top[2].logprob == -9999.0f && top[3].logprob == -9999.0f);
    }
    float far[2] = {-20000, 20000};
    ck_assert(logprobs_of(table(1), far, 2, 0, NULL, 0, NULL) == -9999.0f);
    ck_assert(logprobs_of(table(1), far, 2, 1, NULL, 0, NULL) == 0.0f);
    const float odd[][3] = {
        {NAN, NAN, NAN}, {INFINITY, 1, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}};
    for (size_t c = 0; c < 3; c++)
        for (int32_t id = 0; id < 3; id++) {
            float lp = logprobs_of(table(1), odd[c], 3, id, top, 3, &best);
            ck_assert(isfinite(lp) && lp >= -9999.0f && lp <= 0);
            for (int r = 0; r < 3; r++)
                ck_assert(isfinite(top[r].logprob) && top[r].id >= 0 && top[r].id < 3);
            ck_assert(best >= 0 && best < 3);
        }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("logprobs");
    TCase *t = tcase_create("logprobs");
    tcase_add_test(t, values_order_and_equal_digits);
    tcase_add_test(t, always_finite);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
