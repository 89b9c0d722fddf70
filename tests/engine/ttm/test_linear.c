/* Layers that compute: every plan of every odd shape against the dense oracle, with bias, activation,
 * residual and strides; multiplications counted against predicted; a row's bits alone, in a batch,
 * with one thread and with several. */
#include "engine/ttm/ttm_linear.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/clock.h"
#include "tests/engine/ttm/ttm_testing.h"

static struct compute compute_with(int threads)
{
    struct cpu cpu;
    cpu_detect(&cpu);
    struct compute c = {.k = kernels_choose(&cpu, NULL)};
    struct err e = {0};
    if (threads > 1) ck_assert_msg(!pool_new(&c.pool, threads, &e), "%s", e.msg);
    return c;
}

static struct ttm_plan draw_plan(struct draw *d, const struct ttm_shape *s)
{
    struct ttm_plan p = {.method = (enum ttm_method)draw_int(d, 0, 2)};
    if (s->d == 1)
        p.method = TTM_RESIDENT;
    else
        p.split = draw_int(d, 1, s->d - 1);
    if (p.method == TTM_CONTRACT) {
        int cut = draw_int(d, 1, (1 << (s->d - 1)) - 1);
        for (int k = 1; k < s->d; k++)
            if (cut >> (k - 1) & 1) p.first[++p.groups] = k;
        p.first[++p.groups] = s->d;
        for (int g = 0; g < p.groups; g++) {
            int at = draw_int(d, 0, g);
            p.order[g] = p.order[at];
            p.order[at] = g;
        }
    }
    struct err e = {0};
    ck_assert_msg(!ttm_plan_finish(&p, s, "test", &e), "%s", e.msg);
    return p;
}

/* A call on random rows: operands with gaps, guarded outputs, and the expected result. */
struct call {
    size_t rows, in, out, ldx, ldy;
    float *x, *y, *want, *bias, *residual;
    struct epilogue e;
};

static void call_open(struct call *c, struct draw *d, const struct ttm *w, size_t rows)
{
    *c = (struct call){.rows = rows, .in = (size_t)w->shape.in, .out = (size_t)w->shape.out};
    c->ldx = c->in + (size_t)draw_int(d, 0, 1) * 3;
    c->ldy = c->out + (size_t)draw_int(d, 0, 1) * 5;
    c->x = draw_floats(d, rows * c->ldx);
    c->y = draw_floats(d, rows * c->ldy);
    c->bias = draw_floats(d, c->out);
    c->residual = draw_floats(d, rows * c->ldy);
    c->want = mem_alloc((rows * c->out + 1) * sizeof *c->want);
    float *tight = mem_alloc((rows * c->in + 1) * sizeof *tight);
    for (size_t r = 0; r < rows; r++)
        memcpy(tight + r * c->in, c->x + r * c->ldx, c->in * sizeof *tight);
    if (draw_int(d, 0, 1)) c->e.bias = c->bias;
    if (draw_int(d, 0, 1)) c->e.act = (enum act)draw_int(d, 0, 3);
    if (draw_int(d, 0, 1)) c->e.residual = draw_int(d, 0, 1) ? c->residual : c->y;
    c->e.ldr = c->ldy;
    ck_assert_int_eq(ttm_apply_naive(w, tight, rows, c->want, NULL), 0);
    for (size_t r = 0; r < rows; r++) {
        float *row = c->want + r * c->out;
        for (size_t j = 0; j < c->out; j++)
            row[j] += c->e.bias ? c->e.bias[j] : 0;
        kernels_scalar()->activate(row, c->out, c->e.act);
        for (size_t j = 0; j < c->out; j++)
            row[j] += c->e.residual ? c->e.residual[r * c->ldy + j] : 0;
    }
    free(tight);
}

static void call_close(struct call *c)
{
    free(c->x), free(c->y), free(c->want), free(c->bias), free(c->residual);
}

static double call_error(const struct call *c)
{
    double num = 0, den = 1e-12;
    for (size_t r = 0; r < c->rows; r++)
        for (size_t j = 0; j < c->out; j++) {
            double want = (double)c->want[r * c->out + j], got = (double)c->y[r * c->ldy + j];
            num += (want - got) * (want - got);
            den += want * want;
        }
    return sqrt(num / den);
}

static struct ttm_linear *linear(const struct ttm *w, struct ttm_plan a, struct ttm_plan b,
                                 enum dtype t, const struct compute *c)
{
    struct ttm_linear *l;
    struct err e = {0};
    struct ttm_plan plan[TTM_ROLES] = {a, b};
    ck_assert_msg(!ttm_linear_new(&l, w, plan, t, c, "h.0.mlp.c_fc", &e), "%s", e.msg);
    return l;
}

static float *scratch_for(size_t floats)
{
    float *p = aligned_alloc(64, mem_round_up((floats + 1) * sizeof *p, 64));
    ck_assert_ptr_nonnull(p);
    memset(p, 0xff, floats * sizeof *p); /* NaN: whoever reads before writing shows */
    return p;
}

/* The same with room behind, which a sanitizer would not let anybody write to. */
#define GUARD 65536
static float *guarded_scratch(size_t floats)
{
    float *p = scratch_for(floats + GUARD);
    for (size_t i = 0; i < GUARD; i++)
        p[floats + i] = (float)i;
    return p;
}

static void check_guard(const float *scratch, size_t floats)
{
    for (size_t i = 0; i < GUARD; i++)
        ck_assert_msg(scratch[floats + i] == (float)i, "float %zu behind %zu was written", i,
                      floats);
}

/* A random layer of this shape by this plan is the dense matrix, and costs what was predicted. */
static void apply_shape(struct draw *d, const struct compute *c, const struct ttm_shape *s,
                        struct ttm_plan *plan, size_t rows, enum dtype t)
{
    struct ttm w;
    draw_ttm(d, &w, s);
    ck_assert_int_eq(ttm_plan_finish(plan, s, "x", NULL), 0);
    const struct ttm_plan p = *plan;
    struct ttm_linear *l = linear(&w, p, p, t, c);
    struct call k;
    call_open(&k, d, &w, rows);
    size_t floats = ttm_linear_scratch_floats(l, rows, 0);
    float *scratch = guarded_scratch(floats);
    uint64_t mults = 0;
    float before = k.y[rows * k.ldy - 1];
    struct ttm_call tc = {.rows = rows,
                          .x = k.x,
                          .ldx = k.ldx,
                          .y = k.y,
                          .ldy = k.ldy,
                          .e = &k.e,
                          .scratch = scratch,
                          .mults = &mults};
    ttm_linear_apply_role(l, TTM_DECODE, c, &tc);
    char text[TTM_PLAN_TEXT], shape[TTM_SHAPE_TEXT];
    ttm_plan_format(&p, text);
    ttm_shape_format(s, shape);
    double limit = t == DTYPE_F32 || p.method == TTM_REBUILD ? 1e-5 : t == DTYPE_F16 ? 1e-2 : 8e-2;
    ck_assert_msg(call_error(&k) < limit, "%s %s %s rows %zu: %g", shape, text, dtype_name(t), rows,
                  call_error(&k));
    ck_assert_msg(mults == ttm_plan_mults(&p, rows), "%s %s: %llu, predicted %llu", shape, text,
                  (unsigned long long)mults, (unsigned long long)ttm_plan_mults(&p, rows));
    if (k.ldy > k.out) ck_assert(before == k.y[rows * k.ldy - 1]); /* the gap is not ours */
    ck_assert_uint_eq(ttm_linear_bytes(l) > 0, 1);
    check_guard(scratch, floats);
    free(scratch);
    call_close(&k);
    ttm_linear_free(l);
    ttm_release(&w);
}

static void one_layer(struct draw *d, const struct compute *c, size_t rows)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F32,  DTYPE_F32,
                                       DTYPE_I8,  DTYPE_BF16, DTYPE_F16};
    struct ttm_shape s = draw_shape(d, 300, 9);
    struct ttm_plan p = draw_plan(d, &s);
    apply_shape(d, c, &s, &p, rows, types[draw_int(d, 0, 5)]);
}

START_TEST(any_plan_is_the_dense_matrix)
{
    struct compute c = compute_with(_i ? 3 : 1);
    struct draw d = {.seed = 50 + (uint64_t)_i};
    int rounds = harness_sanitized() ? 60 : 300;
    for (int round = 0; round < rounds; round++)
        one_layer(&d, &c, (size_t)(round % 7 ? draw_int(&d, 1, 9) : draw_int(&d, 10, 150)));
    pool_free(c.pool);
}
END_TEST

/* Ranks that fill panels, that do not, and rows that fill chunks: the ways in which two groups are
 * contracted and W is rebuilt. */
START_TEST(larger_ranks)
{
    static const char *const shapes[] = {"(8,8)(8,8)(4,3)", "(4,16)(32,2)", "(2,3)(40,33)",
                                         "(33,40)(3,2)", "(1,64)(48,1)"};
    static const int ranks[] = {16, 32, 48, 64, 20};
    static const size_t rows[] = {1, 3, 7, 9, 40, 97};
    struct compute c = compute_with(_i + 1);
    struct draw d = {.seed = 55};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 0; k < sizeof ranks / sizeof *ranks; k++) {
            struct ttm_shape s;
            if (harness_sanitized() && k != i) continue;
            ck_assert_int_eq(ttm_shape_parse(&s, shapes[i], "x", NULL), 0);
            for (int b = 1; b < s.d; b++)
                s.r[b] = ranks[k];
            if (i == 2) s.in -= 3, s.out -= 5; /* padded */
            for (int m = 0; m < 6; m++) {
                struct ttm_plan p = {.method = m < 4 ? TTM_CONTRACT : TTM_REBUILD,
                                     .groups = 2,
                                     .split = m == 4 ? 1 : s.d - 1,
                                     .first = {0, m & 1 ? 1 : s.d - 1, s.d},
                                     .order = {m & 2 ? 1 : 0, m & 2 ? 0 : 1}};
                apply_shape(&d, &c, &s, &p, rows[(i + k + (size_t)m) % 6],
                            m < 4 && (i + k) % 2 ? DTYPE_I8 : DTYPE_F32);
            }
        }
    pool_free(c.pool);
}
END_TEST

/* A machine with more threads than a chunk has rows, and rows between the two: threads share blocks of the same rows,
 * which are then several chunks. Who takes part is chance: some calls. */
START_TEST(more_threads_than_a_chunk_has_rows)
{
    enum { THREADS = 64, ROWS = 60 };
    int calls = harness_sanitized() ? 2 : 30;
    struct compute many = compute_with(THREADS), one = compute_with(1);
    struct draw d = {.seed = 57};
    struct ttm_shape s;
    struct ttm_plan p = {.method = TTM_CONTRACT, .groups = 2, .first = {0, 1, 2}, .order = {1, 0}};
    ck_assert_int_eq(ttm_shape_parse(&s, "(4,512)(192,6)", "x", NULL), 0);
    s.r[1] = 16;
    ck_assert_int_eq(ttm_plan_finish(&p, &s, "x", NULL), 0);
    struct ttm w;
    draw_ttm(&d, &w, &s);
    struct ttm_linear *l = linear(&w, p, p, DTYPE_F32, &many);
    size_t in = (size_t)s.in, out = (size_t)s.out, floats = ttm_linear_scratch_floats(l, ROWS, 0);
    float *x = draw_floats(&d, ROWS * in), *y = draw_floats(&d, ROWS * out);
    float *want = draw_floats(&d, ROWS * out), *scratch = guarded_scratch(floats);
    for (size_t r = 0; r < ROWS; r++)
        ttm_linear_apply(l, &one, 1, 0, x + r * in, in, want + r * out, out, NULL, scratch);
    for (int i = 0; i < calls; i++) {
        memset(y, 0, ROWS * out * sizeof *y);
        ttm_linear_apply(l, &many, ROWS, 0, x, in, y, out, NULL, scratch);
        ck_assert_mem_eq(y, want, ROWS * out * sizeof *y);
        check_guard(scratch, floats);
    }
    free(x), free(y), free(want), free(scratch);
    ttm_linear_free(l);
    ttm_release(&w);
    pool_free(many.pool);
}
END_TEST

/* Apply to `rows` rows in one call, and to each row alone by one thread: the same bytes. */
START_TEST(rows_do_not_see_each_other)
{
    struct compute many = compute_with(3), one = compute_with(1);
    struct draw d = {.seed = 60};
    int rounds = harness_sanitized() ? 30 : 150;
    for (int round = 0; round < rounds; round++) {
        struct ttm_shape s = draw_shape(&d, 300, 9);
        struct ttm w;
        draw_ttm(&d, &w, &s);
        size_t decode = (size_t)draw_int(&d, 0, 40), prefill = (size_t)draw_int(&d, 0, 90);
        size_t in = (size_t)s.in, out = (size_t)s.out, rows = decode + prefill;
        struct ttm_linear *l = linear(&w, draw_plan(&d, &s), draw_plan(&d, &s),
                                      round % 2 ? DTYPE_I8 : DTYPE_F32, &many);
        float *x = draw_floats(&d, rows * in), *y = draw_floats(&d, rows * out);
        float *res = draw_floats(&d, rows * out), *row = draw_floats(&d, out);
        float *bias = draw_floats(&d, out);
        float *scratch = scratch_for(ttm_linear_scratch_floats(l, rows, rows));
        struct epilogue e = {.bias = bias, .act = ACT_GELU_NEW, .residual = res, .ldr = out};
        ttm_linear_apply(l, &many, decode, prefill, x, in, y, out, &e, scratch);
        for (size_t r = 0; r < rows; r++) {
            e.residual = res + r * out;
            ttm_linear_apply(l, &one, r < decode, r >= decode, x + r * in, in, row, out, &e,
                             scratch);
            ck_assert_mem_eq(row, y + r * out, out * sizeof *row);
        }
        free(x), free(y), free(res), free(row), free(bias), free(scratch);
        ttm_linear_free(l);
        ttm_release(&w);
    }
    pool_free(many.pool);
}
END_TEST

START_TEST(rebuilt_is_resident_bit_for_bit)
{
    struct compute c = compute_with(2);
    struct draw d = {.seed = 70};
    for (int round = 0; round < 60; round++) {
        struct ttm_shape s = draw_shape(&d, 300, 9);
        if (s.d == 1) continue;
        struct ttm w;
        draw_ttm(&d, &w, &s);
        int split = draw_int(&d, 1, s.d - 1);
        struct ttm_plan a = {.method = TTM_REBUILD, .split = split};
        struct ttm_plan b = {.method = TTM_RESIDENT, .split = split};
        ck_assert_int_eq(ttm_plan_finish(&a, &s, "x", NULL), 0);
        ck_assert_int_eq(ttm_plan_finish(&b, &s, "x", NULL), 0);
        struct ttm_linear *l = linear(&w, a, b, DTYPE_F32, &c);
        size_t rows = (size_t)draw_int(&d, 1, 20), in = (size_t)s.in, out = (size_t)s.out;
        float *x = draw_floats(&d, rows * in), *y = draw_floats(&d, 2 * rows * out);
        float *scratch = scratch_for(ttm_linear_scratch_floats(l, rows, rows));
        ttm_linear_apply(l, &c, rows, 0, x, in, y, out, NULL, scratch);
        ttm_linear_apply(l, &c, 0, rows, x, in, y + rows * out, out, NULL, scratch);
        ck_assert_mem_eq(y, y + rows * out, rows * out * sizeof *y);
        free(x), free(y), free(scratch);
        ttm_linear_free(l);
        ttm_release(&w);
    }
    pool_free(c.pool);
}
END_TEST

/* The layer of GPT-2 small in the shape that we recommend, by the plans that a planner gives. */
START_TEST(a_real_layer)
{
    struct compute c = compute_with(2);
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_parse(&s, "(4,512)(192,6)", "x", NULL), 0);
    s.r[1] = 128;
    struct ttm w;
    ck_assert_int_eq(ttm_init(&w, &s, "x", NULL), 0);
    ck_assert_int_eq(ttm_random(&w, 0.02, 1, 1, "x", NULL), 0);
    struct ttm_rates m;
    struct err e = {0};
    uint64_t t0 = clock_ns();
    ck_assert_msg(!ttm_rates_measure(&m, DTYPE_F32, &c, &e), "%s", e.msg);
    printf(
        "rates: %.1f / %.1f GFLOP/s, %.1f / %.1f GB/s (cache %zu), %.1f us a product; in %.0f ms\n",
        m.flops_few * 1e-9, m.flops_many * 1e-9, m.dram * 1e-9, m.cache * 1e-9, m.cache_bytes,
        m.overhead_s * 1e6, (double)(clock_ns() - t0) * 1e-6);
    ck_assert(m.cache_bytes >= 1u << 20 && m.cache_bytes <= 64u << 20);
    ck_assert(m.flops_few > 0 && m.flops_many >= m.flops_few && m.cache >= m.dram && m.dram > 0);
    struct ttm_workload work = {.rows = {1, 256},
                                .share = {64, 1},
                                .dtype = DTYPE_F32,
                                .layers = 24,
                                .budget_bytes = 6u << 20};
    struct ttm_plan plan[TTM_ROLES];
    ck_assert_int_eq(ttm_plan_layer(plan, &s, &work, &m, "x", NULL), 0);
    struct ttm_linear *l = linear(&w, plan[0], plan[1], DTYPE_F32, &c);
    ck_assert_uint_eq(ttm_linear_bytes(l), ttm_plan_pair_bytes(plan, DTYPE_F32));
    struct draw d = {.seed = 80};
    struct call k;
    call_open(&k, &d, &w, 3);
    float *scratch = scratch_for(ttm_linear_scratch_floats(l, 1, 2));
    ttm_linear_apply(l, &c, 1, 2, k.x, k.ldx, k.y, k.ldy, &k.e, scratch);
    ck_assert(call_error(&k) < 1e-5);
    call_close(&k);
    free(scratch);
    ttm_linear_free(l);
    ttm_release(&w);
    pool_free(c.pool);
}
END_TEST

START_TEST(refusals)
{
    struct compute c = compute_with(1);
    struct draw d = {.seed = 90};
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_parse(&s, "(2,3)(3,2)(2,2)", "x", NULL), 0);
    struct ttm w;
    draw_ttm(&d, &w, &s);
    struct ttm_linear *l = NULL;
    struct ttm_plan ok = {.method = TTM_REBUILD, .split = 1};
    struct ttm_plan plan[TTM_ROLES] = {ok, {.method = TTM_REBUILD, .split = 5}};
    struct err e = {0}, f = {0};
    ck_assert_int_eq(ttm_linear_new(&l, &w, plan, DTYPE_F32, &c, "h.2.mlp.c_fc", &e), ERR_INVALID);
    ck_assert_str_eq(e.msg, "h.2.mlp.c_fc: cannot split 3 cores at 5");
    plan[1] = ok;
    ck_assert_int_eq(ttm_linear_new(&l, &w, plan, DTYPE_F64, &c, "h.2.mlp.c_fc", &f), ERR_INVALID);
    ck_assert_str_eq(f.msg, "h.2.mlp.c_fc: weights of type F64, expected F32, F16, BF16 or I8");
    ck_assert_ptr_null(l);
    ttm_linear_free(NULL);
    ttm_release(&w);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ttm/linear");
    TCase *c = tcase_create("linear");
    tcase_set_timeout(c, 240);
    tcase_add_loop_test(c, any_plan_is_the_dense_matrix, 0, 2);
    tcase_add_loop_test(c, larger_ranks, 0, 3);
    tcase_add_test(c, rows_do_not_see_each_other);
    tcase_add_test(c, rebuilt_is_resident_bit_for_bit);
    tcase_add_test(c, a_real_layer);
    tcase_add_test(c, refusals);
    suite_add_tcase(s, c);
    c = tcase_create("threads");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, more_threads_than_a_chunk_has_rows);
    suite_add_tcase(s, c);
    return s;
}
TEST_MAIN(suite)
