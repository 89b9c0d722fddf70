/* The product over the pool: equal to the panels one by one, whatever the number of threads and
 * rows; with the epilogue at the right columns. */
#include "tests/engine/kernels/tables.h"

#include "engine/kernels/matmul.h"

struct product {
    size_t k, n, rows, ldx, ldy;
    struct packed w;
    float *x, *dense, *bias, *residual;
};

static void make(struct product *p, size_t k, size_t n, size_t rows, enum dtype t)
{
    struct err e = {0};
    *p = (struct product){.k = k, .n = n, .rows = rows, .ldx = k + 1, .ldy = n + 2};
    p->x = floats(rows * p->ldx, 1);
    p->dense = floats(k * n, 2);
    void *raw = as_dtype(p->dense, k * n, t);
    ck_assert_int_eq(packed_init(&p->w, t, k, n, "w", &e), 0);
    const struct pack_source src = {.data = raw, .dtype = t};
    ck_assert(packed_fill(&p->w, &src, 0, packed_panels(n)));
    free(raw);
    p->bias = floats(n, 3);
    p->residual = floats(rows * p->ldy, 4);
}

static void release(struct product *p)
{
    packed_release(&p->w);
    free(p->x);
    free(p->dense);
    free(p->bias);
    free(p->residual);
}

static void check_exact(const struct product *p, const struct kernels *k, struct pool *pool)
{
    struct compute c = {pool, k};
    struct epilogue e = {.bias = p->bias, .act = ACT_RELU, .residual = p->residual, .ldr = p->ldy};
    float *y = floats(p->rows * p->ldy, 9);

    matmul(&c, p->x, p->ldx, p->rows, &p->w, y, p->ldy, &e);
    for (size_t r = 0; r < p->rows; r++)
        for (size_t j = 0; j < p->n; j++) {
            float s = 0;
            for (size_t i = 0; i < p->k; i++)
                s = fmaf(p->x[r * p->ldx + i], p->dense[i * p->n + j], s);
            s += p->bias[j];
            s = (s < 0 ? 0 : s) + p->residual[r * p->ldy + j];
            assert_same(y + r * p->ldy + j, &s, 1, k->name);
        }
    free(y);
}

static const size_t shapes[][3] = {{1, 1, 1},     {3, 33, 2},     {48, 100, 5},   {127, 31, 40},
                                   {70, 65, 130}, {96, 200, 200}, {2051, 129, 35}};

START_TEST(products_are_exact_for_any_threads)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    const size_t *s = shapes[_i];
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    struct product p;

    make(&p, s[0], s[1], s[2], types[_i % 3]);
    for (int threads = 0; threads <= 3; threads++) {
        struct pool *pool = NULL;
        if (threads) ck_assert_int_eq(pool_new(&pool, threads, NULL), 0);
        for (int i = 0; i < n; i++)
            check_exact(&p, all[i], pool);
        pool_free(pool);
    }
    release(&p);
}
END_TEST

START_TEST(no_rows_and_no_epilogue)
{
    struct compute c = {NULL, kernels_scalar()};
    struct product p;
    float y[40], s = 0;

    make(&p, 5, 33, 1, DTYPE_F32);
    memset(y, 0, sizeof y);
    matmul(&c, p.x, p.ldx, 0, &p.w, y, p.ldy, NULL);
    for (int i = 0; i < 40; i++)
        ck_assert(y[i] == 0);
    matmul(&c, p.x, p.ldx, 1, &p.w, y, p.ldy, NULL);
    for (size_t i = 0; i < p.k; i++)
        s = fmaf(p.x[i], p.dense[i * p.n + 32], s);
    assert_same(y + 32, &s, 1, "last column");
    ck_assert(y[33] == 0);
    release(&p);
}
END_TEST

START_TEST(a_row_is_a_function_of_itself)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    struct pool *pool = NULL;
    struct product p;
    float alone[100];

    ck_assert_int_eq(pool_new(&pool, 2, NULL), 0);
    make(&p, 768, 100, 203, DTYPE_F16);
    struct epilogue e = {.bias = p.bias, .act = ACT_GELU_ERF};
    for (int i = 1; i < n; i++) {
        struct compute two = {pool, all[i]}, one = {NULL, all[i]};
        float *y = floats(p.rows * p.ldy, 9);
        matmul(&two, p.x, p.ldx, p.rows, &p.w, y, p.ldy, &e);
        for (size_t r = 0; r < p.rows; r += 7) {
            matmul(&one, p.x + r * p.ldx, 0, 1, &p.w, alone, 0, &e);
            assert_same(y + r * p.ldy, alone, p.n, all[i]->name);
        }
        free(y);
    }
    pool_free(pool);
    release(&p);
}
END_TEST

/* Rows are quantised one by one: neither threads nor company change a bit, and every table agrees. */
START_TEST(products_of_8_bits)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    struct product p;
    struct packed w;
    struct err e = {0};
    size_t k = shapes[_i][0], cols = shapes[_i][1], rows = shapes[_i][2];
    make(&p, k, cols, rows, DTYPE_F32);
    const struct pack_source src = {.data = p.dense, .dtype = DTYPE_F32};
    ck_assert_int_eq(packed_init(&w, DTYPE_I8, k, cols, "w", &e), 0);
    ck_assert(packed_fill(&w, &src, 0, packed_panels(cols)));
    struct epilogue tail = {.bias = p.bias, .act = ACT_RELU, .residual = p.residual, .ldr = p.ldy};
    size_t bytes = mem_round_up(matmul_scratch_floats(&w, rows) * sizeof(float), 64);
    float *scratch = aligned_alloc(64, bytes), *want = floats(rows * p.ldy, 9);
    struct compute one = {NULL, all[0]};
    matmul_any(&one, p.x, p.ldx, rows, &w, want, p.ldy, &tail, scratch);
    for (int t = 0; t < n; t++) {
        struct compute c = {.k = all[t]};
        float *y = floats(rows * p.ldy, 9);
        ck_assert_int_eq(pool_new(&c.pool, 1 + t % 3, NULL), 0);
        memset(scratch, 0x7f, bytes);
        matmul_any(&c, p.x, p.ldx, rows, &w, y, p.ldy, &tail, scratch);
        assert_same(y, want, rows * p.ldy, all[t]->name);
        const int32_t last[] = {(int32_t)rows - 1};
        struct int8_rows q = quantise_rows(&c, p.x, p.ldx, last, 1, k, scratch);
        tail.residual += (rows - 1) * p.ldy;
        matmul_int8(&c, &q, 1, &w, y, p.ldy, &tail);
        tail.residual = p.residual;
        assert_same(y, want + (rows - 1) * p.ldy, cols, all[t]->name);
        pool_free(c.pool);
        free(y);
    }
    free(scratch);
    free(want);
    packed_release(&w);
    release(&p);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("matmul");
    TCase *t = tcase_create("matmul");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, products_are_exact_for_any_threads, 0, 7);
    tcase_add_test(t, no_rows_and_no_epilogue);
    tcase_add_test(t, a_row_is_a_function_of_itself);
    tcase_add_loop_test(t, products_of_8_bits, 0, 7);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
