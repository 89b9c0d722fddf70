/* Decompositions: TT-SVD is exact where it may be, keeps its bounds and reports its error; budgets are
 * spread as brute force would; refinement never makes it worse and finds known optima. */
#include "engine/ttm/decompose.h"

#include <stdio.h>
#include <string.h>

#include "engine/ttm/linalg.h"
#include "engine/ttm/round.h"
#include "tests/engine/ttm/ttm_testing.h"

static double *dense64(const struct ttm64 *w)
{
    double *dense = mem_calloc(ttm_shape_dense(&w->shape), sizeof *dense);
    ck_assert_int_eq(ttm64_to_dense(w, dense, NULL), 0);
    return dense;
}

static double error_of(const struct ttm64 *w, const float *dense)
{
    size_t n = ttm_shape_dense(&w->shape);
    double *a = dense64(w), *b = mem_calloc(n, sizeof *b);
    for (size_t i = 0; i < n; i++)
        b[i] = (double)dense[i];
    double e = distance64(a, b, n);
    free(a), free(b);
    return e;
}

START_TEST(full_rank_is_exact)
{
    struct draw d = {.seed = 101};
    for (int round = 0; round < 100; round++) {
        struct ttm_shape s = draw_shape(&d, 60, 5), cap;
        float *dense = draw_floats(&d, ttm_shape_dense(&s));
        struct ttm64 w;
        double error;
        ck_assert_int_eq(ttm_decompose(&w, dense, &s, NULL, 0, &error, "x", NULL), 0);
        ck_assert(error < 1e-13);
        ck_assert(error_of(&w, dense) < 1e-12);
        cap = w.shape;
        ttm_shape_cap_exact(&cap);
        ck_assert_mem_eq(&cap, &w.shape, sizeof cap); /* not a rank too many */
        ttm64_release(&w);
        free(dense);
    }
}
END_TEST

START_TEST(bounds_hold)
{
    struct draw d = {.seed = 102};
    for (int round = 0; round < 100; round++) {
        struct ttm_shape s = draw_shape(&d, 60, 5);
        float *dense = draw_floats(&d, ttm_shape_dense(&s));
        struct ttm64 w;
        int caps[TTM_MAX_CORES + 1] = {0};
        for (int k = 1; round % 2 && k < s.d; k++)
            caps[k] = draw_int(&d, 1, 12);
        double bound = 0.1 * draw_int(&d, 0, 9), error;
        ck_assert_int_eq(ttm_decompose(&w, dense, &s, caps, bound, &error, "x", NULL), 0);
        bool padded = ttm_shape_rows(&s) * ttm_shape_cols(&s) > ttm_shape_dense(&s);
        if (padded)
            ck_assert(error_of(&w, dense) <= error + 1e-9);
        else
            assert_close(error_of(&w, dense), error, 1e-7, 1e-9);
        if (round % 2 == 0) ck_assert(error <= bound + 1e-12);
        for (int k = 1; round % 2 && k < s.d; k++)
            ck_assert_int_le(w.shape.r[k], caps[k]);
        struct ttm_spectrum q;
        ck_assert_int_eq(ttm_spectrum_init(&q, dense, &s, "x", NULL), 0);
        ck_assert(error <= ttm_spectrum_error(&q, &w.shape) + 1e-9);
        if (s.d == 2) assert_close(error, ttm_spectrum_error(&q, &w.shape), 1e-9, 1e-9);
        ttm_spectrum_release(&q);
        ttm64_release(&w);
        free(dense);
    }
}
END_TEST

/* Values at each bond are those of the unfolding, computed here by an SVD of it. */
START_TEST(spectra_are_those_of_the_unfoldings)
{
    struct draw d = {.seed = 103};
    for (int round = 0; round < 40; round++) {
        struct ttm_shape s = draw_shape(&d, 40, 5);
        float *dense = draw_floats(&d, ttm_shape_dense(&s));
        struct ttm_spectrum q;
        ck_assert_int_eq(ttm_spectrum_init(&q, dense, &s, "x", NULL), 0);
        size_t *row, *col, size = ttm_shape_rows(&s) * ttm_shape_cols(&s), m = 1;
        ttm_tensor_offsets(&s, &row, &col);
        for (int k = 1; k < s.d; k++) {
            m *= (size_t)s.m[k - 1] * (size_t)s.n[k - 1];
            size_t n = size / m, p = m < n ? m : n;
            double *t = mem_calloc(size, sizeof *t), *u = mem_calloc(m * p, sizeof *u);
            double *v = mem_calloc(p * n, sizeof *v), *sv = mem_calloc(p, sizeof *sv);
            for (size_t i = 0; i < (size_t)s.in; i++)
                for (size_t j = 0; j < (size_t)s.out; j++)
                    t[row[i] + col[j]] = (double)dense[i * (size_t)s.out + j];
            ck_assert_int_eq(la_svd(m, n, t, u, sv, v, NULL), 0);
            ck_assert_int_le(q.shape.r[k], (int)p);
            for (int i = 0; i < q.shape.r[k]; i++)
                assert_close(q.s[k][i], sv[i], 1e-10, 1e-10);
            free(t), free(u), free(v), free(sv);
        }
        free(row), free(col), free(dense);
        ttm_spectrum_release(&q);
    }
}
END_TEST

START_TEST(bad_weights)
{
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_parse(&s, "(2,2)(2,2)", "x", NULL), 0);
    float dense[16] = {0};
    struct ttm64 w;
    double error = -1;
    ck_assert_int_eq(ttm_decompose(&w, dense, &s, NULL, 0, &error, "x", NULL), 0);
    ck_assert_int_eq(w.shape.r[1], 1); /* a zero matrix */
    assert_close(error, 0, 0, 0);
    ttm64_release(&w);
    dense[5] = INFINITY;
    struct err e = {0}, f = {0};
    ck_assert_int_eq(ttm_decompose(&w, dense, &s, NULL, 0, NULL, "h.1.mlp.c_fc.weight", &e),
                     ERR_INVALID);
    ck_assert_str_eq(e.msg, "h.1.mlp.c_fc.weight: the weight has a NaN or an infinity");
    struct ttm_spectrum q;
    ck_assert_int_eq(ttm_spectrum_init(&q, dense, &s, "x", NULL), ERR_INVALID);
    s.in = 5;
    ck_assert_int_eq(ttm_decompose(&w, dense, &s, NULL, 0, NULL, "h.1.mlp.c_fc.weight", &f),
                     ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(f.msg, "h.1.mlp.c_fc.weight"));
}
END_TEST

#define LAYERS 3

static double total_error(const struct ttm_spectrum *q, const struct ttm_shape *s)
{
    double sum = 0;
    for (int l = 0; l < LAYERS; l++) {
        double e = ttm_spectrum_error(&q[l], &s[l]);
        sum += e * e;
    }
    return sum;
}

/* The least total error over all ranks that fit; odometer over every bond of every layer. */
static double least_error(const struct ttm_spectrum *q, size_t params)
{
    struct ttm_shape s[LAYERS];
    double least = INFINITY;
    for (int l = 0; l < LAYERS; l++) {
        s[l] = q[l].shape;
        for (int k = 1; k < s[l].d; k++)
            s[l].r[k] = 1;
    }
    for (;;) {
        size_t used = 0;
        bool valid = true;
        for (int l = 0; l < LAYERS; l++) {
            struct ttm_shape cap = s[l];
            ttm_shape_cap_exact(&cap);
            valid &= !memcmp(&cap, &s[l], sizeof cap);
            used += ttm_shape_params(&s[l]);
        }
        if (valid && used <= params) least = fmin(least, total_error(q, s));
        int l = 0, k = 1;
        while (l < LAYERS && ++s[l].r[k] > q[l].shape.r[k]) {
            s[l].r[k] = 1;
            if (++k == s[l].d) k = 1, l++;
        }
        if (l == LAYERS) return least;
    }
}

static double budget_ratio(struct draw *d, const char *const text[LAYERS])
{
    struct ttm_spectrum q[LAYERS];
    struct ttm_shape s[LAYERS], got[LAYERS];
    size_t least = 0, most = 0, used;
    for (int l = 0; l < LAYERS; l++) {
        ck_assert_int_eq(ttm_shape_parse(&s[l], text[l], "x", NULL), 0);
        float *dense = draw_floats(d, ttm_shape_dense(&s[l]));
        for (size_t i = 0; i < ttm_shape_dense(&s[l]); i++)
            dense[i] *= (float)(1 + i % 7);
        ck_assert_int_eq(ttm_spectrum_init(&q[l], dense, &s[l], "x", NULL), 0);
        free(dense);
        least += ttm_shape_params(&s[l]);
        most += ttm_shape_params(&q[l].shape);
    }
    size_t params = least + (size_t)draw_int(d, 0, (int)(most - least));
    ck_assert_int_eq(ttm_budget(got, q, NULL, LAYERS, params, &used, NULL), 0);
    ck_assert_uint_le(used, params);
    size_t sum = 0;
    for (int l = 0; l < LAYERS; l++) {
        struct ttm_shape cap = got[l];
        ttm_shape_cap_exact(&cap);
        ck_assert_mem_eq(&cap, &got[l], sizeof cap);
        sum += ttm_shape_params(&got[l]);
    }
    ck_assert_uint_eq(sum, used);
    double ours = total_error(q, got), best = least_error(q, params);
    ck_assert(ours >= best - 1e-12);
    struct err e = {0};
    ck_assert_int_eq(ttm_budget(got, q, NULL, LAYERS, least - 1, NULL, &e), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(e.msg, "parameters are too few"));
    for (int l = 0; l < LAYERS; l++)
        ttm_spectrum_release(&q[l]);
    return best > 1e-20 ? ours / best : ours > 1e-18 ? INFINITY : 1;
}

START_TEST(equal_two_core_budgets_are_optimal)
{
    static const char *const text[LAYERS] = {"(3,2)(2,4)", "(2,3)(4,2)", "(1,6)(8,1)"};
    struct draw d = {.seed = 104};
    for (int round = 0; round < 60; round++)
        assert_close(budget_ratio(&d, text), 1, 0, 1e-9);
}
END_TEST

START_TEST(other_budgets_are_near)
{
    static const char *const text[LAYERS] = {"(2,2)(1,1)(2,2)", "(2,3)(2,2)(1,2)", "(2,2)(3,2)"};
    struct draw d = {.seed = 105};
    double sum = 0, worst = 1;
    int rounds = 60, counted = 0;
    for (int round = 0; round < rounds; round++) {
        double ratio = budget_ratio(&d, text);
        if (isinf(ratio)) continue; /* brute force reached zero error with the last parameter */
        sum += ratio;
        counted++;
        if (ratio > worst) worst = ratio;
    }
    printf("budget: greedy / optimal squared error %.3f on average, %.3f at worst\n", sum / counted,
           worst);
    ck_assert(counted > rounds * 3 / 4 && sum / counted < 1.3);
}
END_TEST

START_TEST(weights_steer_the_budget)
{
    struct draw d = {.seed = 106};
    struct ttm_spectrum q[2];
    struct ttm_shape s, got[2];
    ck_assert_int_eq(ttm_shape_parse(&s, "(4,4)(4,4)", "x", NULL), 0);
    float *dense = draw_floats(&d, 256);
    for (int l = 0; l < 2; l++)
        ck_assert_int_eq(ttm_spectrum_init(&q[l], dense, &s, "x", NULL), 0);
    const double weight[2] = {1, 100};
    ck_assert_int_eq(ttm_budget(got, q, weight, 2, 32 * 12, NULL, NULL), 0);
    ck_assert_int_gt(got[1].r[1], got[0].r[1]);
    ck_assert_int_eq(got[0].r[1] + got[1].r[1], 12);
    free(dense);
    ttm_spectrum_release(&q[0]), ttm_spectrum_release(&q[1]);
}
END_TEST

/* S = X^T X for random X (t, in); below full rank when t < in. */
static double *moments(struct draw *d, size_t t, size_t in, double **x_out)
{
    float *x = draw_floats(d, t * in);
    double *wide = mem_calloc(t * in, sizeof *wide), *s = mem_calloc(in * in, sizeof *s);
    for (size_t i = 0; i < t * in; i++)
        wide[i] = (double)x[i] * (double)(1 + i % in % 5);
    la_gemm(true, false, in, in, t, 1, wide, wide, 0, s);
    free(x);
    if (x_out)
        *x_out = wide;
    else
        free(wide);
    return s;
}

/* || X (W - W') || / || X W || from first principles. */
static double output_error(const struct ttm64 *w, const float *dense, const double *x, size_t t)
{
    size_t in = (size_t)w->shape.in, out = (size_t)w->shape.out;
    double *approx = dense64(w), num = 0, den = 0;
    for (size_t r = 0; r < t; r++)
        for (size_t j = 0; j < out; j++) {
            double want = 0, got = 0;
            for (size_t i = 0; i < in; i++) {
                want += x[r * in + i] * (double)dense[i * out + j];
                got += x[r * in + i] * approx[i * out + j];
            }
            num += (want - got) * (want - got);
            den += want * want;
        }
    free(approx);
    return den > 0 ? sqrt(num / den) : 0;
}

START_TEST(refinement_never_hurts)
{
    struct draw d = {.seed = 107};
    for (int round = 0; round < 60; round++) {
        struct ttm_shape s = draw_shape(&d, 40, 5);
        size_t in = (size_t)s.in, t = (size_t)draw_int(&d, 1, 60);
        float *dense = draw_floats(&d, ttm_shape_dense(&s));
        double *x = NULL, *sm = moments(&d, t, in, &x);
        int caps[TTM_MAX_CORES + 1] = {0};
        for (int k = 1; k < s.d; k++)
            caps[k] = draw_int(&d, 1, 6);
        struct ttm64 w;
        ck_assert_int_eq(ttm_decompose(&w, dense, &s, caps, 0, NULL, "x", NULL), 0);
        double start = output_error(&w, dense, x, t), last = start, before, after;
        struct ttm_refine_options o = {.sweeps = 1, .steps = draw_int(&d, 1, 8)};
        for (int sweep = 0; sweep < 4; sweep++) {
            ck_assert_int_eq(ttm_refine(&w, dense, sm, &o, &before, &after, NULL), 0);
            assert_close(before, last, 1e-6, 1e-9);
            ck_assert(after <= before);
            last = output_error(&w, dense, x, t);
            assert_close(after, last, 1e-6, 1e-9);
            ck_assert(last <= start + 1e-9);
        }
        free(dense), free(x), free(sm);
        ttm64_release(&w);
    }
}
END_TEST

/* Plain low rank has a known optimum: the tail of the singular values of X W. */
START_TEST(refinement_finds_the_optimum)
{
    struct draw d = {.seed = 108};
    for (int round = 0; round < 20; round++) {
        size_t in = (size_t)draw_int(&d, 4, 14), out = (size_t)draw_int(&d, 4, 14), t = in + 20;
        struct ttm_shape s = {
            .d = 2, .m = {1, (int)in}, .n = {(int)out, 1}, .in = (int)in, .out = (int)out};
        float *dense = draw_floats(&d, in * out);
        double *x = NULL, *sm = moments(&d, t, in, &x);
        double *xw = mem_calloc(t * out, sizeof *xw), *u = mem_calloc(t * out, sizeof *u);
        double *v = mem_calloc(out * out, sizeof *v), *sv = mem_calloc(out, sizeof *sv);
        for (size_t r = 0; r < t; r++)
            for (size_t j = 0; j < out; j++)
                for (size_t i = 0; i < in; i++)
                    xw[r * out + j] += x[r * in + i] * (double)dense[i * out + j];
        double norm = la_norm(t * out, xw), tail = 0;
        ck_assert_int_eq(la_svd(t, out, xw, u, sv, v, NULL), 0);
        int rank = draw_int(&d, 1, 3), caps[3] = {0, rank, 0};
        for (size_t i = (size_t)rank; i < out; i++)
            tail += sv[i] * sv[i];
        struct ttm64 w;
        double before, after;
        ck_assert_int_eq(ttm_decompose(&w, dense, &s, caps, 0, NULL, "x", NULL), 0);
        struct ttm_refine_options o = {
            .sweeps = 200, .steps = 60, .ridge = 1e-12, .tolerance = 1e-9};
        ck_assert_int_eq(ttm_refine(&w, dense, sm, &o, &before, &after, NULL), 0);
        ck_assert(after >= sqrt(tail) / norm - 1e-9 && before >= after);
        assert_close(after, sqrt(tail) / norm, 1e-6, 1e-2);
        free(dense), free(x), free(sm), free(xw), free(u), free(v), free(sv);
        ttm64_release(&w);
    }
}
END_TEST

START_TEST(refinement_without_data)
{
    struct draw d = {.seed = 109};
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_parse(&s, "(3,2)(2,4)", "x", NULL), 0);
    float *dense = draw_floats(&d, 48);
    struct ttm64 w;
    double plain, before, after;
    int caps[3] = {0, 3, 0};
    ck_assert_int_eq(ttm_decompose(&w, dense, &s, caps, 0, &plain, "x", NULL), 0);
    struct ttm_refine_options o = {0};
    ck_assert_int_eq(ttm_refine(&w, dense, NULL, &o, &before, &after, NULL), 0);
    assert_close(before, plain, 1e-9, 1e-9); /* TT-SVD of two cores is already the optimum */
    assert_close(after, plain, 1e-9, 1e-9);
    double none[36] = {0}, bad[36] = {0};
    ck_assert_int_eq(ttm_refine(&w, dense, none, &o, &before, &after, NULL), 0);
    assert_close(after, 0, 0, 0); /* no input, no error; the cores stay */
    assert_close(error_of(&w, dense), plain, 1e-7, 1e-7);
    bad[7] = -1;
    struct err e = {0};
    ck_assert_int_eq(ttm_refine(&w, dense, bad, &o, NULL, NULL, &e), ERR_INVALID);
    ck_assert_str_eq(e.msg, "second moments: entry (1,1) is -1");
    bad[7] = NAN;
    ck_assert_int_eq(ttm_refine(&w, dense, bad, &o, NULL, NULL, NULL), ERR_INVALID);
    free(dense);
    ttm64_release(&w);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ttm/decompose");
    TCase *c = tcase_create("decompose");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, full_rank_is_exact);
    tcase_add_test(c, bounds_hold);
    tcase_add_test(c, spectra_are_those_of_the_unfoldings);
    tcase_add_test(c, bad_weights);
    tcase_add_test(c, equal_two_core_budgets_are_optimal);
    tcase_add_test(c, other_budgets_are_near);
    tcase_add_test(c, weights_steer_the_budget);
    tcase_add_test(c, refinement_never_hurts);
    tcase_add_test(c, refinement_finds_the_optimum);
    tcase_add_test(c, refinement_without_data);
    suite_add_tcase(s, c);
    return s;
}
TEST_MAIN(suite)
