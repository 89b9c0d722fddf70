/* Functions of one row: accuracy against double, the ends of the range, NaN, ties, every length
 * around the vector widths. */
#include "tests/engine/kernels/tables.h"

static const struct kernels *all[TABLES_MAX];
static int n_all;

static void setup(void)
{
    n_all = tables(all);
}

static const size_t lengths[] = {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 65, 100, 768, 1000};
#define LENGTHS (sizeof lengths / sizeof lengths[0])

/* exp alone: exp_to of one element, through the widest path and the tail alike. */
static void exp_all(const struct kernels *k, float *y, const float *x, size_t n)
{
    k->exp_to(y, x, n, 0, 1);
}

START_TEST(exp_is_accurate_everywhere)
{
    enum { N = 1000 };
    float x[N], y[N];
    for (int i = 0; i < n_all; i++) {
        double worst = 0;
        for (double at = -87.3; at < 87.8; at += 0.9) {
            for (int j = 0; j < N; j++)
                x[j] = (float)(at + 0.9 * j / N);
            exp_all(all[i], y, x, N);
            for (int j = 0; j < N; j++) {
                double want = exp((double)x[j]), ulp = ldexp(1, ilogb(want) - 23);
                double off = fabs((double)y[j] - want) / ulp;
                if (off > worst) worst = off;
            }
        }
        ck_assert_msg(worst < 2.0, "%s: exp is %.2f ulp off", all[i]->name, worst);
    }
}
END_TEST

/* Where results would be subnormal, or soon, vectors give 0 and the C library what it gives. */
START_TEST(exp_of_the_least)
{
    enum { N = 1000 };
    float x[N], y[N];
    for (int i = 0; i < n_all; i++) {
        for (int j = 0; j < N; j++)
            x[j] = -87.31F - (float)j * 0.02F;
        exp_all(all[i], y, x, N);
        for (int j = 0; j < N; j++) {
            double want = exp((double)x[j]);
            ck_assert_msg(y[j] == 0 || fabs((double)y[j] - want) <= 1e-6 * want + 0x1p-149,
                          "%s: exp(%.9g) = %.9g", all[i]->name, (double)x[j], (double)y[j]);
            ck_assert(all[i] == kernels_scalar() || y[j] == 0);
        }
    }
}
END_TEST

START_TEST(exp_at_the_ends)
{
    float x[] = {INFINITY, -INFINITY, NAN, 0.0F, 1e30F, -1e30F, 89.0F, -104.0F, -120.0F, -0.0F};
    float y[10];
    for (int i = 0; i < n_all; i++) {
        exp_all(all[i], y, x, 10);
        ck_assert(isinf(y[0]) && y[0] > 0);
        ck_assert(y[1] == 0 && isnan(y[2]) && y[3] == 1 && isinf(y[4]) && y[5] == 0);
        ck_assert(isinf(y[6]) && y[7] <= 0x1p-149F && y[8] == 0 && y[9] == 1);
        ck_assert(isnan(all[i]->sum_exp(x, 3, 0)));
        ck_assert(all[i]->sum_exp(x + 1, 1, 5) == 0);
    }
}
END_TEST

START_TEST(activations_are_accurate)
{
    enum { N = 4000 };
    static float x[N], y[N];
    for (int i = 0; i < n_all; i++)
        for (int act = ACT_NONE; act <= ACT_RELU; act++) {
            for (int j = 0; j < N; j++)
                y[j] = x[j] = (float)(j - N / 2) * (12.0F / (N / 2)) + 1e-4F;
            all[i]->activate(y, N, (enum act)act);
            for (int j = 0; j < N; j++) {
                double v = (double)x[j], want = v;
                if (act == ACT_GELU_NEW)
                    want = 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
                if (act == ACT_GELU_ERF) want = 0.5 * v * erfc(-v / sqrt(2));
                if (act == ACT_RELU) want = v > 0 ? v : 0;
                ck_assert_msg(fabs((double)y[j] - want) <= 5e-7 + 1e-7 * fabs(want),
                              "%s act %d(%.9g) = %.9g, not %.9g", all[i]->name, act, v,
                              (double)y[j], want);
            }
        }
}
END_TEST

START_TEST(activations_at_the_ends)
{
    for (int i = 0; i < n_all; i++)
        for (int act = ACT_GELU_NEW; act <= ACT_RELU; act++) {
            float x[] = {INFINITY, -INFINITY, NAN, 1e38F, -1e38F, 0.0F, 25.0F, -25.0F, 1e-40F};
            all[i]->activate(x, 9, (enum act)act);
            ck_assert(isinf(x[0]) && x[0] > 0);
            ck_assert(x[1] == 0 && isnan(x[2]) && x[3] == 1e38F && x[4] == 0 && x[5] == 0);
            ck_assert(x[6] == 25 && x[7] == 0 && fabsf(x[8]) <= 1e-40F);
        }
}
END_TEST

/* The value of a function does not depend on where an element stands. */
START_TEST(places_do_not_matter)
{
    float *x = floats(100, 5), y[100], one, e[100];
    for (int i = 0; i < n_all; i++)
        for (size_t n = 1; n < 100; n += 3)
            for (int act = ACT_GELU_NEW; act <= ACT_RELU; act++) {
                memcpy(y, x, n * sizeof *x);
                all[i]->activate(y, n, (enum act)act);
                exp_all(all[i], e, x, n);
                for (size_t j = 0; j < n; j++) {
                    one = x[j];
                    all[i]->activate(&one, 1, (enum act)act);
                    assert_same(y + j, &one, 1, all[i]->name);
                    exp_all(all[i], &one, x + j, 1);
                    assert_same(e + j, &one, 1, all[i]->name);
                }
            }
    free(x);
}
END_TEST

/* The same bits as one step after the other, in place or not. */
START_TEST(finish_is_what_products_end_with)
{
    for (int t = 0; t < n_all; t++)
        for (size_t n = 1; n < 70; n++)
            for (int with = 0; with < 4; with++) {
                float *x = floats(n, 1), *bias = floats(n, 2), *residual = floats(n, 3);
                float *want = mem_alloc(n * sizeof *want);
                const struct epilogue e = {.bias = with & 1 ? bias : NULL,
                                           .act = (enum act)_i,
                                           .residual = with & 2 ? residual : NULL};
                for (size_t i = 0; i < n; i++)
                    want[i] = e.bias ? x[i] + bias[i] : x[i];
                all[t]->activate(want, n, e.act);
                for (size_t i = 0; i < n && e.residual; i++)
                    want[i] += residual[i];
                all[t]->finish_row(with == 3 ? residual : x, x, n, &e);
                assert_same(with == 3 ? residual : x, want, n, all[t]->name);
                free(x);
                free(bias);
                free(residual);
                free(want);
            }
}
END_TEST

/* All sizes around a square; what lies between the rows of dst stays. */
START_TEST(transpose_turns_all_sizes)
{
    enum { MOST = 35, LDS = MOST + 2, LDD = MOST + 1 };
    float *src = floats(MOST * LDS, 4), *dst = mem_alloc(MOST * LDD * sizeof *dst);

    for (int t = 0; t < n_all; t++)
        for (size_t rows = 1; rows <= MOST; rows += 1 + rows / 5)
            for (size_t cols = 1; cols <= MOST; cols += 1 + cols / 5) {
                for (size_t i = 0; i < MOST * LDD; i++)
                    dst[i] = 77;
                all[t]->transpose(dst, LDD, src, LDS, rows, cols);
                for (size_t i = 0; i < MOST * LDD; i++) {
                    size_t c = i / LDD, r = i % LDD;
                    float want = c < cols && r < rows ? src[r * LDS + c] : 77;
                    ck_assert_msg(dst[i] == want, "%s: %zu x %zu", all[t]->name, rows, cols);
                }
            }
    free(src);
    free(dst);
}
END_TEST

START_TEST(layer_norm_agrees)
{
    for (size_t l = 0; l < LENGTHS; l++) {
        size_t n = lengths[l];
        float *x = floats(n, 1), *w = floats(n, 2), *b = floats(n, 3);
        for (size_t i = 0; i < n; i++)
            x[i] = x[i] * 3 + 10;
        double mean = 0, var = 0;
        for (size_t i = 0; i < n; i++)
            mean += (double)x[i] / (double)n;
        for (size_t i = 0; i < n; i++)
            var += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
        for (int i = 0; i < n_all; i++) {
            float *y = floats(n, 4), *in_place = floats(n, 1);
            memcpy(in_place, x, n * sizeof *x);
            all[i]->layer_norm(y, x, w, b, 1e-5F, n);
            all[i]->layer_norm(in_place, in_place, w, b, 1e-5F, n);
            assert_same(in_place, y, n, all[i]->name);
            for (size_t j = 0; j < n; j++) {
                double want =
                    ((double)x[j] - mean) / sqrt(var + 1e-5) * (double)w[j] + (double)b[j];
                assert_close(y[j], want, 1e-4, 1e-5);
            }
            free(y);
            free(in_place);
        }
        free(x);
        free(w);
        free(b);
    }
}
END_TEST

START_TEST(sums_agree)
{
    for (size_t l = 0; l < LENGTHS; l++) {
        size_t n = lengths[l];
        float *x = floats(n, 1), *b = floats(n, 2), *y = floats(n, 3);
        double dot = 0, size = 0, sum = 0, scaled = 0;
        for (size_t i = 0; i < n; i++) {
            dot += (double)x[i] * (double)b[i];
            size += fabs((double)x[i] * (double)b[i]);
            sum += exp((double)x[i] - 1);
            scaled += exp(((double)x[i] - 1) * 0.5);
        }
        for (int i = 0; i < n_all; i++) {
            assert_close(all[i]->dot(x, b, n), dot, 1e-6 * size, 0);
            assert_close(all[i]->sum_exp(x, n, 1), sum, 0, 3e-7);
            assert_close(all[i]->exp_to(y, x, n, 1, 0.5F), scaled, 0, 3e-7);
            for (size_t j = 0; j < n; j++)
                assert_close(y[j], exp(((double)x[j] - 1) * 0.5), 0, 3e-7);
            ck_assert(all[i]->dot(x, b, 0) == 0);
        }
        free(x);
        free(b);
        free(y);
    }
}
END_TEST

/* 100 million small terms would stop growing in f32 at 2^24 times their size: here the terms are
 * few enough to test and spread enough to show. */
START_TEST(sum_of_exponentials_keeps_small_terms)
{
    enum { N = 60000 };
    float *x = mem_alloc(N * sizeof *x);
    for (int i = 0; i < N; i++)
        x[i] = i < 64 ? 0 : -16.0F;
    double want = 64 + (N - 64) * exp(-16.0);
    for (int i = 0; i < n_all; i++)
        assert_close(all[i]->sum_exp(x, N, 0), want, 0, 1e-9);
    free(x);
}
END_TEST

START_TEST(maximum_and_its_place)
{
    for (size_t l = 0; l < LENGTHS; l++) {
        size_t n = lengths[l];
        float *x = floats(n, 1);
        for (size_t at = 0; at < n; at += 1 + n / 40) {
            float keep = x[at];
            x[at] = 50;
            for (int i = 0; i < n_all; i++) {
                ck_assert(all[i]->max(x, n) == 50);
                ck_assert_uint_eq(all[i]->argmax(x, n), at);
            }
            for (size_t twin = at + 1; twin < n; twin += 1 + n / 9) {
                float kept = x[twin];
                x[twin] = 50;
                for (int i = 0; i < n_all; i++)
                    ck_assert_uint_eq(all[i]->argmax(x, n), at);
                x[twin] = kept;
            }
            x[at] = keep;
        }
        free(x);
    }
}
END_TEST

START_TEST(nan_is_the_least)
{
    for (size_t l = 0; l < LENGTHS; l++) {
        size_t n = lengths[l];
        float *x = mem_alloc(n * sizeof *x);
        for (int fill = 0; fill < 2; fill++) {
            for (size_t j = 0; j < n; j++)
                x[j] = fill ? NAN : -INFINITY;
            for (int i = 0; i < n_all; i++) {
                ck_assert(all[i]->max(x, n) == -INFINITY);
                ck_assert_uint_eq(all[i]->argmax(x, n), 0);
            }
            for (size_t at = 0; at < n; at++) {
                float kept = x[at];
                x[at] = -1e30F;
                for (int i = 0; i < n_all; i++) {
                    ck_assert(all[i]->max(x, n) == -1e30F);
                    ck_assert_uint_eq(all[i]->argmax(x, n), at);
                }
                x[at] = kept;
            }
        }
        free(x);
    }
}
END_TEST

START_TEST(tables_are_chosen_by_name_and_by_features)
{
    struct cpu none = {0}, c;
    cpu_detect(&c);
    ck_assert_str_eq(kernels_scalar()->name, "scalar");
    ck_assert_ptr_eq(kernels_choose(&none, NULL), kernels_scalar());
    ck_assert_ptr_null(kernels_choose(&none, "avx2"));
    ck_assert_ptr_null(kernels_choose(&none, "avx512"));
    ck_assert_ptr_null(kernels_choose(&none, "neon"));
    ck_assert_ptr_null(kernels_choose(&c, "sse"));
    ck_assert_ptr_eq(kernels_choose(&c, "scalar"), kernels_scalar());
    ck_assert_ptr_eq(kernels_choose(&c, "scalar+scalar"), kernels_scalar());
    ck_assert_ptr_null(kernels_choose(&c, "scalar+avx2"));
    ck_assert_ptr_null(kernels_choose(&c, "scalar+"));
    ck_assert_ptr_null(kernels_choose(&c, "scalars"));
    ck_assert_ptr_eq(kernels_choose(&c, NULL), all[n_all - 1]);
    for (int i = 0; i < n_all; i++)
        ck_assert_str_eq(kernels_choose(&c, all[i]->name)->name, all[i]->name);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("rows");
    TCase *t = tcase_create("rows");
    tcase_add_unchecked_fixture(t, setup, NULL);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, exp_is_accurate_everywhere);
    tcase_add_test(t, exp_of_the_least);
    tcase_add_test(t, exp_at_the_ends);
    tcase_add_test(t, activations_are_accurate);
    tcase_add_test(t, activations_at_the_ends);
    tcase_add_test(t, places_do_not_matter);
    tcase_add_loop_test(t, finish_is_what_products_end_with, 0, ACT_RELU + 1);
    tcase_add_test(t, transpose_turns_all_sizes);
    tcase_add_test(t, layer_norm_agrees);
    tcase_add_test(t, sums_agree);
    tcase_add_test(t, sum_of_exponentials_keeps_small_terms);
    tcase_add_test(t, maximum_and_its_place);
    tcase_add_test(t, nan_is_the_least);
    tcase_add_test(t, tables_are_chosen_by_name_and_by_features);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
