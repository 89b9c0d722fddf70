/* gemm against sums in double: transposes, leading dimensions, alpha and beta, sizes around the
 * pieces, and the same bits whatever the number of threads. */
#include "engine/kernels/gemm.h"
#include "engine/base/pool.h"
#include "tests/engine/kernels/tables.h"

static double at(const float *p, bool t, size_t ld, size_t i, size_t j)
{
    return (double)(t ? p[j * ld + i] : p[i * ld + j]);
}

static void check(const struct compute *by, bool ta, bool tb, size_t m, size_t n, size_t k,
                  float beta)
{
    struct gemm g = {.ta = ta, .tb = tb, .m = m, .n = n, .k = k, .alpha = 0.5F, .beta = beta};
    g.lda = (ta ? m : k) + 3;
    g.ldb = (tb ? k : n) + 1;
    g.ldc = n + 2;
    float *a = floats((ta ? k : m) * g.lda, 1), *b = floats((tb ? n : k) * g.ldb, 2);
    float *c = floats(m * g.ldc, 3), *before = floats(m * g.ldc, 3);
    g.a = a;
    g.b = b;
    g.c = c;
    gemm(by, &g);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < g.ldc; j++) {
            double old = (double)before[i * g.ldc + j], want = old;
            if (j < n) {
                double s = 0;
                for (size_t l = 0; l < k; l++)
                    s += at(a, ta, g.lda, i, l) * at(b, tb, g.ldb, l, j);
                want = 0.5 * s + (double)beta * old;
            }
            assert_close(c[i * g.ldc + j], want, 1e-4, 1e-5);
        }
    free(a);
    free(b);
    free(c);
    free(before);
}

START_TEST(products_agree_with_their_definition)
{
    const struct kernels *all[TABLES_MAX];
    struct pool *pool;
    int n = tables(all);
    ck_assert_int_eq(pool_new(&pool, 2, NULL), 0);
    for (int i = 0; i < n; i++)
        for (int t = 0; t < 4; t++) {
            struct compute c = {.pool = pool, .k = all[i]};
            check(&c, t & 1, t & 2, 1, 1, 1, 0);
            check(&c, t & 1, t & 2, 5, 70, 33, 1);
            check(&c, t & 1, t & 2, 130, 7, 64, 0);
            check(&c, t & 1, t & 2, 24, 64, 300, 0.25F);
            c.pool = NULL;
            check(&c, t & 1, t & 2, 49, 97, 12, 1);
            check(&c, t & 1, t & 2, 13, 530, 17, 0);
        }
    pool_free(pool);
}
END_TEST

START_TEST(zero_sizes_and_beta_zero)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    for (int i = 0; i < n; i++) {
        struct compute by = {.k = all[i]};
        float a[4] = {1, 2, 3, 4}, c[4] = {NAN, NAN, NAN, NAN};
        struct gemm g = {.m = 2, .n = 2, .k = 2, .alpha = 1, .a = a, .b = a, .c = c};
        g.lda = g.ldb = g.ldc = 2;
        gemm(&by, &g);
        ck_assert(c[0] == 7 && c[1] == 10 && c[2] == 15 && c[3] == 22);
        g.k = 0;
        g.beta = 1;
        gemm_one(by.k, &g);
        ck_assert(c[0] == 7);
        g.beta = 0;
        gemm_one(by.k, &g);
        ck_assert(c[0] == 0 && c[3] == 0);
        g.m = 0;
        g.c = NULL;
        gemm(&by, &g);
        g.m = 2;
        g.n = 0;
        gemm(&by, &g);
    }
}
END_TEST

/* gemm_product() is gemm() with the leading dimensions that follow from the shape. */
START_TEST(matrices_without_gaps)
{
    enum { M = 7, N = 19, K = 33 };
    float *a = floats(M * K, 1), *b = floats(K * N, 2);
    const struct kernels *all[TABLES_MAX];
    struct compute by = {.k = all[tables(all) - 1]};
    for (int t = 0; t < 4; t++) {
        float c1[M * N] = {1}, c2[M * N] = {1};
        struct gemm g = {.ta = t & 1, .tb = t & 2, .m = M, .n = N, .k = K, .alpha = 1, .beta = 2};
        g.a = a;
        g.b = b;
        g.c = c1;
        g.lda = g.ta ? M : K;
        g.ldb = g.tb ? K : N;
        g.ldc = N;
        gemm(&by, &g);
        gemm_product(&by, g.ta, g.tb, M, N, K, a, b, 2, c2);
        assert_same(c1, c2, M * N, "gemm_product");
    }
    free(a);
    free(b);
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    enum { M = 500, N = 900, K = 1200 }; /* several pieces */
    float *a = floats(M * K, 1), *b = floats(K * N, 2), *c1 = floats(M * N, 3),
          *c2 = floats(M * N, 3);
    const struct kernels *all[TABLES_MAX];
    struct compute by = {.k = all[tables(all) - 1]};
    struct gemm g = {.m = M, .n = N, .k = K, .alpha = 1, .a = a, .b = b, .c = c1};
    g.lda = K;
    g.ldb = g.ldc = N;
    gemm(&by, &g);
    ck_assert_int_eq(pool_new(&by.pool, 3, NULL), 0);
    g.c = c2;
    gemm(&by, &g);
    assert_same(c1, c2, M * N, "3 threads");
    pool_free(by.pool);
    free(a);
    free(b);
    free(c1);
    free(c2);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("gemm");
    TCase *t = tcase_create("gemm");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, products_agree_with_their_definition);
    tcase_add_test(t, zero_sizes_and_beta_zero);
    tcase_add_test(t, matrices_without_gaps);
    tcase_add_test(t, threads_do_not_change_a_bit);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
