/* Philox against the known answers of its authors' distribution (Random123, kat_vectors), and the
 * distributions made of it. */
#include "engine/base/rng.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "tests/support/harness.h"

START_TEST(known_answers)
{
    static const struct {
        uint64_t seed, stream, counter;
        uint32_t out[4];
    } kat[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x0370734413198a2e,
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        uint32_t out[4];
        rng_bits(kat[i].seed, kat[i].stream, kat[i].counter, out);
        for (int k = 0; k < 4; k++)
            ck_assert_uint_eq(out[k], kat[i].out[k]);
    }
}
END_TEST

START_TEST(uniform_is_uniform)
{
    enum { N = 200000, BINS = 64 };
    int bins[BINS] = {0};
    double sum = 0, squares = 0, lag = 0, last = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = rng_uniform(42, 7, i);
        ck_assert(u >= 0 && u < 1);
        bins[(int)(u * BINS)]++;
        sum += u;
        squares += u * u;
        lag += (u - 0.5) * (last - 0.5);
        last = u;
    }
    assert_close(sum / N, 0.5, 0.004, 0); /* 6 standard deviations */
    assert_close(squares / N, 1.0 / 3, 0.004, 0);
    assert_close(lag / N, 0, 0.0012, 0);
    double chi2 = 0, expected = (double)N / BINS;
    for (int i = 0; i < BINS; i++)
        chi2 += (bins[i] - expected) * (bins[i] - expected) / expected;
    ck_assert_double_lt(chi2, 130); /* 63 degrees of freedom: p < 1e-5 */
    ck_assert_double_gt(chi2, 25);
}
END_TEST

START_TEST(draws_differ_in_each_argument)
{
    double u = rng_uniform(1, 2, 3);
    ck_assert(rng_uniform(1, 2, 3) == u);
    ck_assert(rng_uniform(2, 2, 3) != u && rng_uniform(1, 3, 3) != u && rng_uniform(1, 2, 4) != u);
    ck_assert(rng_uniform(1 | 1ull << 40, 2, 3) != u && rng_uniform(1, 2 | 1ull << 40, 3) != u &&
              rng_uniform(1, 2, 3 | 1ull << 40) != u);
}
END_TEST

START_TEST(normal_moments_and_odd_lengths)
{
    enum { N = 100001 };
    float *x = mem_alloc(N * sizeof *x), y[3];
    rng_normal_fill(x, N, 0.02, 5, 0);
    double sum = 0, squares = 0, fourth = 0;
    for (int i = 0; i < N; i++) {
        double z = (double)x[i] / 0.02;
        ck_assert(isfinite(z));
        sum += z;
        squares += z * z;
        fourth += z * z * z * z;
    }
    assert_close(sum / N, 0, 0.02, 0);
    assert_close(squares / N, 1, 0.03, 0);
    assert_close(fourth / N, 3, 0.2, 0);
    y[2] = 99;
    rng_normal_fill(y, 1, 0.02, 5, 0);
    ck_assert(y[0] == x[0]);
    rng_normal_fill(y, 2, 0.02, 5, 0);
    ck_assert(y[0] == x[0] && y[1] == x[1] && y[2] == 99);
    free(x);
}
END_TEST

START_TEST(entropy_differs)
{
    ck_assert_uint_ne(rng_entropy(), rng_entropy());
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("rng");
    TCase *t = tcase_create("rng");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, known_answers);
    tcase_add_test(t, uniform_is_uniform);
    tcase_add_test(t, draws_differ_in_each_argument);
    tcase_add_test(t, normal_moments_and_odd_lengths);
    tcase_add_test(t, entropy_differs);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
