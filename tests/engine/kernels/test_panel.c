/* One panel: against sums in double, against the scalar table bit for bit, and a row alone against
 * the same row in company. */
#include "tests/engine/kernels/tables.h"

struct panel_case {
    size_t k, rows, cols;
    enum dtype t;
    struct epilogue e;
    float *x, *w, *bias, *residual; /* w rounded to its type, (k, PACK_N) */
    void *panel;
    size_t ldx, ldy;
};

static void make_case(struct panel_case *c, size_t k, size_t rows, size_t cols, enum dtype t)
{
    *c = (struct panel_case){.k = k, .rows = rows, .cols = cols, .t = t};
    c->ldx = k + 3;
    c->ldy = cols + 5;
    c->x = floats(rows * c->ldx - 3, 1);
    c->w = floats(k * PACK_N, 2);
    c->panel = as_dtype(c->w, k * PACK_N, t);
    c->bias = floats(cols, 3);
    c->residual = floats(rows * c->ldy - 5, 4);
}

static void free_case(struct panel_case *c)
{
    free(c->x);
    free(c->w);
    free(c->panel);
    free(c->bias);
    free(c->residual);
}

static float *run_case(const struct panel_case *c, const struct kernels *k)
{
    float *y = floats(c->rows * c->ldy - 5, 9);
    k->panel[c->t](c->x, c->ldx, c->rows, c->panel, c->k, y, c->ldy, c->cols, &c->e);
    return y;
}

static double act_double(double x, enum act act)
{
    switch (act) {
    case ACT_NONE:
        break;
    case ACT_GELU_NEW:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ACT_RELU:
        return x > 0 ? x : 0;
    }
    return x;
}

static void check_values(const struct panel_case *c, const float *y, const char *name)
{
    for (size_t r = 0; r < c->rows; r++)
        for (size_t j = 0; j < c->cols; j++) {
            double s = 0, size = 1;
            for (size_t i = 0; i < c->k; i++) {
                double p = (double)c->x[r * c->ldx + i] * (double)c->w[i * PACK_N + j];
                s += p;
                size += fabs(p);
            }
            if (c->e.bias) s += (double)c->bias[j];
            s = act_double(s, c->e.act);
            if (c->e.residual) s += (double)c->residual[r * c->ldy + j];
            double got = (double)y[r * c->ldy + j];
            ck_assert_msg(fabs(got - s) <= 1e-6 * size, "%s k=%zu row %zu col %zu: %.9g, not %.9g",
                          name, c->k, r, j, got, s);
        }
}

/* The gaps between the rows of y still hold what was there. */
static void check_gaps(const struct panel_case *c, const float *y)
{
    float *before = floats(c->rows * c->ldy - 5, 9);
    for (size_t r = 0; r + 1 < c->rows; r++)
        for (size_t j = c->cols; j < c->ldy; j++)
            ck_assert_mem_eq(y + r * c->ldy + j, before + r * c->ldy + j, sizeof *y);
    free(before);
}

static void compare_tables(struct panel_case *c)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    float *want = run_case(c, kernels_scalar());

    check_values(c, want, "scalar");
    for (int i = 1; i < n; i++) {
        float *y = run_case(c, all[i]);
        check_values(c, y, all[i]->name);
        check_gaps(c, y);
        if (c->e.act == ACT_NONE || c->e.act == ACT_RELU)
            assert_same(y, want, c->rows * c->ldy - 5, all[i]->name);
        free(y);
    }
    free(want);
}

static const size_t ks[] = {1, 3, 48, 127, 768};
static const size_t cols[] = {1, 8, 17, 31, 32};
static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

START_TEST(panels_agree)
{
    struct panel_case c;
    for (size_t rows = 1; rows <= 40; rows += rows < 14 ? 1 : 13)
        for (size_t n = 0; n < 5; n++) {
            make_case(&c, ks[_i], rows, cols[n], types[(rows + n) % 3]);
            compare_tables(&c);
            free_case(&c);
        }
}
END_TEST

START_TEST(epilogues_agree)
{
    struct panel_case c;
    for (unsigned m = 0; m < 16; m++)
        for (size_t n = 0; n < 5; n++) {
            make_case(&c, 48, 7, cols[n], types[_i]);
            c.e = (struct epilogue){.act = (enum act)(m / 4), .ldr = c.ldy};
            if (m & 1) c.e.bias = c.bias;
            if (m & 2) c.e.residual = c.residual;
            compare_tables(&c);
            free_case(&c);
        }
}
END_TEST

/* A sum over k in two pieces is the sum in one, bit for bit; the second may start from its output. */
START_TEST(sums_in_pieces)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    struct panel_case c;
    for (size_t m = 0; m < 5; m++) {
        make_case(&c, 127, _i ? 30 : 7, cols[m], types[m % 3]);
        c.e = (struct epilogue){.bias = c.bias, .act = ACT_RELU, .ldr = c.ldy};
        size_t first = 50, es = dtype_size(c.t);
        for (int i = 0; i < n; i++) {
            float *y = run_case(&c, all[i]), *part = floats(c.rows * c.ldy, 4);
            struct epilogue none = {0}, rest = c.e;
            all[i]->panel[c.t](c.x, c.ldx, c.rows, c.panel, first, part, c.ldy, c.cols, &none);
            rest.start = part;
            rest.lds = c.ldy;
            all[i]->panel[c.t](c.x + first, c.ldx, c.rows,
                               (const char *)c.panel + first * PACK_N * es, c.k - first, part,
                               c.ldy, c.cols, &rest);
            for (size_t r = 0; r < c.rows; r++)
                assert_same(part + r * c.ldy, y + r * c.ldy, c.cols, all[i]->name);
            free(y);
            free(part);
        }
        free_case(&c);
    }
}
END_TEST

/* Panels so long that they are taken in pieces, the last of them odd; more rows than go through a piece
 * together; the residual is the output, which holds it until the sums are complete. */
START_TEST(long_panels_agree)
{
    static const size_t rows[] = {13, 25, 99};
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    struct panel_case c;
    make_case(&c, 4099, rows[_i], _i ? 31 : 32, types[_i]);
    c.e = (struct epilogue){.bias = c.bias, .act = ACT_RELU, .residual = c.residual, .ldr = c.ldy};
    compare_tables(&c);
    for (int i = 0; i < n; i++) {
        float *y = run_case(&c, all[i]), *in_place = floats(c.rows * c.ldy - 5, 4);
        struct epilogue e = c.e;
        e.residual = in_place;
        e.next = c.panel;
        all[i]->panel[c.t](c.x, c.ldx, c.rows, c.panel, c.k, in_place, c.ldy, c.cols, &e);
        for (size_t r = 0; r < c.rows; r++)
            assert_same(in_place + r * c.ldy, y + r * c.ldy, c.cols, all[i]->name);
        free(y);
        free(in_place);
    }
    free_case(&c);
}
END_TEST

START_TEST(residual_may_be_the_output)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    struct panel_case c;

    make_case(&c, 48, 13, 31, DTYPE_F32);
    c.e = (struct epilogue){.act = ACT_GELU_NEW, .ldr = c.ldy, .residual = c.residual};
    for (int i = 0; i < n; i++) {
        float *y = run_case(&c, all[i]), *in_place = floats(c.rows * c.ldy - 5, 4);
        c.e.residual = in_place;
        all[i]->panel[c.t](c.x, c.ldx, c.rows, c.panel, c.k, in_place, c.ldy, c.cols, &c.e);
        for (size_t r = 0; r < c.rows; r++)
            assert_same(in_place + r * c.ldy, y + r * c.ldy, c.cols, all[i]->name);
        c.e.residual = c.residual;
        free(y);
        free(in_place);
    }
    free_case(&c);
}
END_TEST

START_TEST(a_row_is_a_function_of_itself)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    struct panel_case c;

    for (size_t rows = 2; rows <= 40; rows += 1 + rows / 5) {
        make_case(&c, 127, rows, cols[rows % 5], types[_i]);
        c.e = (struct epilogue){
            .bias = c.bias, .act = ACT_GELU_NEW, .residual = c.residual, .ldr = c.ldy};
        for (int i = 0; i < n; i++) {
            float *y = run_case(&c, all[i]), alone[PACK_N];
            for (size_t r = 0; r < rows; r++) {
                struct epilogue e = {
                    .bias = c.bias, .act = ACT_GELU_NEW, .residual = c.residual + r * c.ldy};
                all[i]->panel[c.t](c.x + r * c.ldx, 0, 1, c.panel, c.k, alone, 0, c.cols, &e);
                assert_same(alone, y + r * c.ldy, c.cols, all[i]->name);
            }
            free(y);
        }
        free_case(&c);
    }
}
END_TEST

START_TEST(infinite_and_nan_inputs_stay_in_their_row)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    struct panel_case c;

    make_case(&c, 48, 14, 32, DTYPE_F32);
    for (int i = 0; i < n; i++) {
        float *clean = run_case(&c, all[i]);
        float keep = c.x[5 * c.ldx + 7];
        c.x[5 * c.ldx + 7] = NAN;
        float *y = run_case(&c, all[i]);
        for (size_t r = 0; r < c.rows; r++)
            for (size_t j = 0; j < c.cols; j++)
                if (r == 5)
                    ck_assert(isnan(y[r * c.ldy + j]));
                else
                    assert_same(y + r * c.ldy + j, clean + r * c.ldy + j, 1, all[i]->name);
        c.x[5 * c.ldx + 7] = keep;
        free(clean);
        free(y);
    }
    free_case(&c);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("panel");
    TCase *t = tcase_create("panel");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, panels_agree, 0, 5);
    tcase_add_loop_test(t, epilogues_agree, 0, 3);
    tcase_add_loop_test(t, sums_in_pieces, 0, 2);
    tcase_add_loop_test(t, long_panels_agree, 0, 3);
    tcase_add_test(t, residual_may_be_the_output);
    tcase_add_loop_test(t, a_row_is_a_function_of_itself, 0, 3);
    tcase_add_test(t, infinite_and_nan_inputs_stay_in_their_row);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
