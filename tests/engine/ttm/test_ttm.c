/* The matrix, its rounding and the algebra under both: to_dense against the definition, the paper's
 * initialisation, lossless caps, error bounds that hold and are reported exactly. */
#include "engine/ttm/round.h"

#include <string.h>

#include "engine/ttm/linalg.h"
#include "tests/engine/ttm/ttm_testing.h"

START_TEST(factorisations)
{
    struct draw d = {.seed = 3};
    for (int round = 0; round < 60; round++) {
        size_t m = (size_t)draw_int(&d, 1, 30), n = (size_t)draw_int(&d, 1, 30);
        size_t p = m < n ? m : n;
        double *a, *q, *r, *s, *b, *gram;
        la_alloc(&a, m * n, "", NULL), la_alloc(&b, m * n, "", NULL);
        la_alloc(&q, m * p, "", NULL), la_alloc(&r, p * n, "", NULL);
        la_alloc(&s, p, "", NULL), la_alloc(&gram, p * p, "", NULL);
        float *x = draw_floats(&d, m * n);
        for (int kind = 0; kind < 3; kind++) {
            for (size_t i = 0; i < m * n; i++)
                a[i] = (double)x[i];
            if (kind == 0) ck_assert_int_eq(la_qr(m, n, a, q, r, NULL), 0);
            if (kind == 1) ck_assert_int_eq(la_lq(m, n, a, q, r, NULL), 0);
            if (kind == 2) ck_assert_int_eq(la_svd(m, n, a, q, s, r, NULL), 0);
            for (size_t i = 0; i < p * p; i++)
                gram[i] = 0;
            if (kind == 1)
                la_gemm(false, true, p, p, n, 1, r, r, 0, gram);
            else
                la_gemm(true, false, p, p, m, 1, q, q, 0, gram);
            for (size_t i = 0; i < p * p; i++)
                assert_close(gram[i], i / p == i % p ? 1.0 : 0.0, 1e-13, 0);
            if (kind == 2)
                for (size_t i = 0; i < p * n; i++)
                    r[i] *= s[i / n];
            for (size_t i = 1; kind == 2 && i < p; i++)
                ck_assert(s[i] <= s[i - 1]);
            la_gemm(false, false, m, n, p, 1, q, r, 0, b);
            for (size_t i = 0; i < m * n; i++)
                assert_close(b[i], x[i], 1e-12, 0);
        }
        free(a), free(b), free(q), free(r), free(s), free(gram), free(x);
    }
    double bad[1] = {NAN}, u[1], s[1], v[1];
    struct err e = {0};
    ck_assert_int_eq(la_svd(1, 1, bad, u, s, v, &e), ERR_INVALID);
    ck_assert_int_eq(la_qr(0, 1, bad, u, v, NULL), ERR_INVALID);
}
END_TEST

START_TEST(dense_is_the_definition)
{
    struct draw d = {.seed = 11};
    for (int round = 0; round < 120; round++) {
        struct ttm_shape s = draw_shape(&d, 60, 7);
        struct ttm w;
        draw_ttm(&d, &w, &s);
        float *dense = dense_of(&w);
        for (size_t i = 0; i < (size_t)s.in; i++)
            for (size_t j = 0; j < (size_t)s.out; j++)
                assert_close(dense[i * (size_t)s.out + j], ttm_entry(&w, i, j), 1e-6, 1e-6);
        size_t t = (size_t)draw_int(&d, 1, 4);
        float *x = draw_floats(&d, t * (size_t)s.in), *y = draw_floats(&d, t * (size_t)s.out);
        ck_assert_int_eq(ttm_apply_naive(&w, x, t, y, NULL), 0);
        for (size_t i = 0; i < t * (size_t)s.out; i++) {
            double sum = 0;
            for (size_t k = 0; k < (size_t)s.in; k++)
                sum += (double)x[i / (size_t)s.out * (size_t)s.in + k] *
                       ttm_entry(&w, k, i % (size_t)s.out);
            assert_close(y[i], sum, 1e-5, 1e-5);
        }
        free(dense), free(x), free(y);
        ttm_release(&w);
    }
}
END_TEST

/* A hand-made case, so that to_dense and the definition cannot be wrong together: two cores. */
START_TEST(a_matrix_by_hand)
{
    float g0[] = {1, 2, 3, 4}; /* (1, 2, 1, 2): rows of i0 */
    float g1[] = {5, 6, 7, 8}; /* (2, 1, 2, 1) */
    struct ttm_shape s = {.d = 2, .m = {2, 1}, .n = {1, 2}, .r = {1, 2, 1}, .in = 2, .out = 2};
    float *cores[] = {g0, g1};
    struct ttm w;
    ck_assert_int_eq(ttm_borrow(&w, &s, cores, "x", NULL), 0);
    float *dense = dense_of(&w),
          want[] = {1 * 5 + 2 * 7, 1 * 6 + 2 * 8, 3 * 5 + 4 * 7, 3 * 6 + 4 * 8};
    ck_assert_mem_eq(dense, want, sizeof want);
    free(dense);
    ttm_release(&w);
    s.m[0] = 0;
    struct err e = {0};
    ck_assert_int_eq(ttm_borrow(&w, &s, cores, "h.0.attn.c_attn", &e), ERR_INVALID);
    ck_assert_str_eq(e.msg, "h.0.attn.c_attn: core 0 has m = 0, expected >= 1");
}
END_TEST

START_TEST(random_start)
{
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_paper(&s, 768, 768, 32, "x", NULL), 0);
    struct ttm w, again;
    ck_assert_int_eq(ttm_init(&w, &s, "x", NULL), 0);
    ck_assert_int_eq(ttm_init(&again, &s, "x", NULL), 0);
    ck_assert_int_eq(ttm_random(&w, 0.02, 5, 9, "x", NULL), 0);
    ck_assert_int_eq(ttm_random(&again, 0.02, 5, 9, "x", NULL), 0);
    ck_assert_mem_eq(w.storage, again.storage, ttm_shape_params(&s) * sizeof(float));
    float *dense = dense_of(&w);
    double sum = 0;
    for (size_t i = 0; i < ttm_shape_dense(&s); i++)
        sum += (double)dense[i] * (double)dense[i];
    assert_close(sqrt(sum / (double)ttm_shape_dense(&s)), 0.02, 0.004, 0);
    for (int k = 0; k + 1 < s.d; k++) { /* orthonormal columns */
        size_t n = (size_t)s.r[k + 1], m = ttm_shape_core(&s, k) / n;
        for (size_t a = 0; a < n; a++)
            for (size_t b = 0; b <= a; b++) {
                double dot = 0;
                for (size_t i = 0; i < m; i++)
                    dot += (double)w.core[k][i * n + a] * (double)w.core[k][i * n + b];
                assert_close(dot, a == b ? 1.0 : 0.0, 1e-5, 0);
            }
    }
    free(dense);
    ttm_release(&w);
    ttm_release(&again);
    s.r[1] = s.m[0] * s.n[0] + 1;
    ck_assert_int_eq(ttm_init(&w, &s, "x", NULL), 0);
    ck_assert_int_eq(ttm_random(&w, 0.02, 5, 9, "h.1.mlp.c_proj", NULL), ERR_INVALID);
    ttm_release(&w);
}
END_TEST

START_TEST(exact_rounding_is_lossless)
{
    struct draw d = {.seed = 21};
    for (int round = 0; round < 150; round++) {
        struct ttm_shape s = draw_shape(&d, 80, 40), cap = s;
        struct ttm w, rounded;
        draw_ttm(&d, &w, &s);
        struct ttm64 q;
        ck_assert_int_eq(ttm64_from(&q, &w, NULL), 0);
        size_t size = ttm_shape_dense(&s);
        double *before = mem_calloc(size, sizeof *before), *after = mem_calloc(size, sizeof *after);
        ck_assert_int_eq(ttm64_to_dense(&q, before, NULL), 0);
        ck_assert_int_eq(ttm64_round_exact(&q, NULL), 0);
        ck_assert_int_eq(ttm64_to_dense(&q, after, NULL), 0);
        ck_assert(distance64(after, before, size) < 1e-12);
        ttm_shape_cap_exact(&cap);
        ck_assert_mem_eq(&q.shape, &cap, sizeof cap);
        ck_assert_int_eq(ttm_round_exact(&rounded, &w, "x", NULL), 0);
        float *a = dense_of(&w), *b = dense_of(&rounded);
        ck_assert(distance(b, a, size) < 2e-6);
        free(a), free(b), free(before), free(after);
        ttm_release(&w), ttm_release(&rounded), ttm64_release(&q);
    }
}
END_TEST

START_TEST(paper_models_round_to_the_exact_cap)
{
    static const int ranks[] = {32, 64};
    for (size_t i = 0; i < 2; i++) {
        struct ttm_shape s;
        ck_assert_int_eq(ttm_shape_paper(&s, 768, 3072, ranks[i], "x", NULL), 0);
        struct ttm w, small;
        ck_assert_int_eq(ttm_init(&w, &s, "x", NULL), 0);
        ck_assert_int_eq(ttm_random(&w, 0.02, 1, 1, "x", NULL), 0);
        ck_assert_int_eq(ttm_round_exact(&small, &w, "x", NULL), 0);
        ck_assert_uint_eq(ttm_shape_params(&small.shape), i ? 303140 : 86052);
        for (size_t e = 0; e < 300; e++) {
            size_t row = e * 977 % 768, col = e * 1409 % 3072;
            assert_close(ttm_entry(&small, row, col), ttm_entry(&w, row, col), 1e-7, 1e-5);
        }
        ttm_release(&w), ttm_release(&small);
    }
}
END_TEST

START_TEST(truncation_keeps_its_bound)
{
    struct draw d = {.seed = 31};
    static const double bounds[] = {0, 1e-3, 0.1, 0.5, 1};
    for (int round = 0; round < 150; round++) {
        struct ttm_shape s = draw_shape(&d, 60, 12);
        s.in = (int)ttm_shape_rows(&s); /* the bound is on the whole matrix, padding included */
        s.out = (int)ttm_shape_cols(&s);
        struct ttm w;
        draw_ttm(&d, &w, &s);
        size_t size = ttm_shape_dense(&s);
        double *before = mem_calloc(size, sizeof *before), *after = mem_calloc(size, sizeof *after);
        struct ttm64 q;
        ck_assert_int_eq(ttm64_from(&q, &w, NULL), 0);
        ck_assert_int_eq(ttm64_to_dense(&q, before, NULL), 0);
        int caps[TTM_MAX_CORES + 1] = {0};
        bool by_rank = round % 2;
        for (int k = 1; by_rank && k < s.d; k++)
            caps[k] = draw_int(&d, 1, 8);
        double bound = bounds[round % 5], error = -1;
        ck_assert_int_eq(ttm64_round(&q, bound, by_rank ? caps : NULL, &error, NULL), 0);
        ck_assert_int_eq(ttm64_to_dense(&q, after, NULL), 0);
        assert_close(distance64(after, before, size), error, 1e-12, 1e-9);
        if (!by_rank) ck_assert(error <= bound + 1e-13);
        for (int k = 1; by_rank && k < s.d; k++)
            ck_assert_int_le(q.shape.r[k], caps[k]);
        free(before), free(after);
        ttm_release(&w), ttm64_release(&q);
    }
}
END_TEST

START_TEST(hidden_rank_is_found)
{
    struct ttm_shape s = {.d = 3, .m = {6, 5, 7}, .n = {4, 6, 5}, .r = {1, 3, 2, 1}};
    s.in = (int)ttm_shape_rows(&s);
    s.out = (int)ttm_shape_cols(&s);
    struct draw d = {.seed = 41};
    struct ttm w, twice;
    draw_ttm(&d, &w, &s);
    struct ttm_shape big = s;
    big.r[1] = 6, big.r[2] = 4; /* w + w, block-diagonally: the same matrix twice over */
    ck_assert_int_eq(ttm_init(&twice, &big, "x", NULL), 0);
    for (int k = 0; k < 3; k++)
        for (size_t i = 0; i < ttm_shape_core(&s, k); i++) {
            size_t rb = (size_t)s.r[k + 1], b = i % rb, mid = i / rb % (size_t)(s.m[k] * s.n[k]);
            size_t a = i / rb / (size_t)(s.m[k] * s.n[k]), step = (size_t)(s.m[k] * s.n[k]);
            for (size_t h = 0; h < 2; h++) {
                size_t ra = k ? a + h * (size_t)s.r[k] : a, rr = k < 2 ? b + h * rb : b;
                twice.core[k][(ra * step + mid) * (size_t)big.r[k + 1] + rr] = w.core[k][i];
            }
        }
    struct ttm64 q;
    double error;
    ck_assert_int_eq(ttm64_from(&q, &twice, NULL), 0);
    ck_assert_int_eq(ttm64_round(&q, 1e-6, NULL, &error, NULL), 0);
    ck_assert_int_eq(q.shape.r[1], 3);
    ck_assert_int_eq(q.shape.r[2], 2);
    assert_close(ttm_entry(&twice, 100, 77), 2 * ttm_entry(&w, 100, 77), 1e-6, 1e-6);
    ttm64_release(&q);
    memset(twice.storage, 0, ttm_shape_params(&big) * sizeof(float));
    ck_assert_int_eq(ttm64_from(&q, &twice, NULL), 0);
    ck_assert_int_eq(ttm64_round(&q, 1e-6, NULL, &error, NULL), 0);
    ck_assert_int_eq(q.shape.r[1] + q.shape.r[2], 2);
    assert_close(error, 0, 0, 0);
    ttm64_release(&q);
    ttm_release(&w), ttm_release(&twice);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ttm/ttm");
    TCase *c = tcase_create("ttm");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, factorisations);
    tcase_add_test(c, dense_is_the_definition);
    tcase_add_test(c, a_matrix_by_hand);
    tcase_add_test(c, random_start);
    tcase_add_test(c, exact_rounding_is_lossless);
    tcase_add_test(c, paper_models_round_to_the_exact_cap);
    tcase_add_test(c, truncation_keeps_its_bound);
    tcase_add_test(c, hidden_rank_is_found);
    suite_add_tcase(s, c);
    return s;
}
TEST_MAIN(suite)
