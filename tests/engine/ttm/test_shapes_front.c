/* Shapes and their numbers: multiplications against every grouping and order, the rank of W against the
 * singular values of random ones, fronts against all shapes compared with all others. */
#include "engine/ttm/shapes_front.h"

#include <string.h>

#include "engine/ttm/linalg.h"
#include "tests/engine/ttm/ttm_testing.h"

/* The fewest multiplications of all orders of one grouping, orders by recursion. */
static void all_orders(struct ttm_plan *p, const struct ttm_shape *s, int at, uint64_t *best)
{
    if (at == p->groups) {
        struct ttm_plan q = *p;
        ck_assert_int_eq(ttm_plan_finish(&q, s, "x", NULL), 0);
        if (q.mults_per_row < *best) *best = q.mults_per_row;
        return;
    }
    for (int i = at; i < p->groups; i++) {
        int swap = p->order[at];
        p->order[at] = p->order[i];
        p->order[i] = swap;
        all_orders(p, s, at + 1, best);
        p->order[i] = p->order[at];
        p->order[at] = swap;
    }
}

static uint64_t naive_mults(const struct ttm_shape *s)
{
    uint64_t best = UINT64_MAX;
    if (s->d == 1) return ttm_shape_dense(s);
    for (unsigned cuts = 1; cuts < 1u << (s->d - 1); cuts++) {
        struct ttm_plan p = {.method = TTM_CONTRACT, .groups = 1};
        for (int k = 1; k < s->d; k++)
            if (cuts >> (k - 1) & 1) p.first[p.groups++] = k;
        p.first[p.groups] = s->d;
        for (int g = 0; g < p.groups; g++)
            p.order[g] = g;
        all_orders(&p, s, 0, &best);
    }
    return best;
}

START_TEST(multiplications_are_the_fewest)
{
    struct draw d = {.seed = 301};
    for (int round = 0; round < 200; round++) {
        struct ttm_shape s = draw_shape(&d, 200, 9);
        struct shapes_point p;
        struct ttm_plan plan;
        if (s.d > 5) continue;
        shapes_point_of(&p, &s, &plan);
        ck_assert_uint_eq(p.mults, naive_mults(&s));
        ck_assert_uint_eq(p.mults, plan.mults_per_row);
        ck_assert_uint_eq(p.params, ttm_shape_params(&s));
    }
}
END_TEST

static int numeric_rank(const float *dense, size_t m, size_t n)
{
    size_t p = m < n ? m : n;
    double *a = mem_calloc(m * n, sizeof *a), *u = mem_calloc(m * p, sizeof *u);
    double *v = mem_calloc(p * n, sizeof *v), *s = mem_calloc(p, sizeof *s);
    int rank = 0;
    for (size_t i = 0; i < m * n; i++)
        a[i] = (double)dense[i];
    ck_assert_int_eq(la_svd(m, n, a, u, s, v, NULL), 0);
    for (size_t i = 0; i < p; i++)
        rank += s[i] > 1e-5 * s[0];
    free(a), free(u), free(v), free(s);
    return rank;
}

START_TEST(the_rank_of_w_is_bounded_and_reached)
{
    struct draw d = {.seed = 302};
    int reached = 0, rounds = 0;
    for (int round = 0; round < 150; round++) {
        struct ttm_shape s = draw_shape(&d, 40, 4);
        struct shapes_point p;
        struct ttm w;
        shapes_point_of(&p, &s, NULL);
        draw_ttm(&d, &w, &s);
        float *dense = dense_of(&w);
        int rank = numeric_rank(dense, (size_t)s.in, (size_t)s.out);
        ck_assert_int_le(rank, p.matrix_rank);
        bool padded = ttm_shape_rows(&s) > (size_t)s.in || ttm_shape_cols(&s) > (size_t)s.out;
        if (s.d <= 2 && !padded) {
            rounds++;
            reached += rank == p.matrix_rank;
        }
        free(dense);
        ttm_release(&w);
    }
    ck_assert_int_gt(rounds, 20);
    ck_assert_int_eq(reached, rounds);
}
END_TEST

/* All shapes of d cores by counting through all factors, each judged by the definition. */
struct naive {
    struct shapes_query q;
    struct shapes_point *point;
    size_t n;
};

static void naive_shape(struct naive *v, struct ttm_shape s)
{
    for (int k = 0; k < s.d; k++)
        if (s.m[k] == 1 && s.n[k] == 1) return;
    ttm_shape_cap_left(&s, v->q.rank);
    ttm_shape_cap_exact(&s);
    for (int k = 0; k + 1 < s.d; k++) {
        size_t mn = (size_t)s.m[k] * (size_t)s.n[k] * (size_t)s.m[k + 1] * (size_t)s.n[k + 1];
        if (mn * (size_t)s.r[k] * (size_t)s.r[k + 2] <=
            ttm_shape_core(&s, k) + ttm_shape_core(&s, k + 1))
            return;
    }
    struct shapes_point p;
    shapes_point_of(&p, &s, NULL);
    size_t limit = v->q.params ? v->q.params : ttm_shape_dense(&s);
    if (p.params > limit || p.matrix_rank < (s.in < s.out ? s.in : s.out)) return;
    v->point = mem_realloc(v->point, (v->n + 1) * sizeof *v->point);
    v->point[v->n++] = p;
}

static void naive_factors(struct naive *v, struct ttm_shape *s, int at, int m, int n)
{
    if (at == s->d) {
        if (m == 1 && n == 1) naive_shape(v, *s);
        return;
    }
    for (int a = 1; a <= m; a++)
        for (int b = 1; b <= n; b++) {
            if (m % a || n % b) continue;
            s->m[at] = a;
            s->n[at] = b;
            naive_factors(v, s, at + 1, m / a, n / b);
        }
}

static bool beats(const struct shapes_point *a, const struct shapes_point *b)
{
    return a->params <= b->params && a->mults <= b->mults &&
           (a->params < b->params || a->mults < b->mults);
}

START_TEST(fronts_are_those_of_all_shapes)
{
    static const struct shapes_query queries[] = {
        {.in = 12, .out = 16, .rank = 2},  {.in = 16, .out = 12, .rank = 3},
        {.in = 24, .out = 24, .rank = 4},  {.in = 24, .out = 24, .rank = 4, .params = 100},
        {.in = 32, .out = 8, .rank = 1},   {.in = 7, .out = 11, .rank = 2},
        {.in = 16, .out = 16, .rank = 100}};
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
        struct naive v = {.q = queries[i]};
        struct shapes_front f;
        for (int d = 2; d <= SHAPES_MAX_CORES; d++) {
            struct ttm_shape s = {.d = d, .in = v.q.in, .out = v.q.out};
            naive_factors(&v, &s, 0, v.q.in, v.q.out);
        }
        ck_assert_int_eq(shapes_front_search(&f, &v.q, NULL), 0);
        size_t front = 0;
        for (size_t a = 0; a < v.n; a++) { /* each naive point is on the front or beaten by it */
            bool there = false, beaten = false;
            for (size_t b = 0; b < f.n; b++) {
                there |=
                    f.point[b].params == v.point[a].params && f.point[b].mults == v.point[a].mults;
                beaten |= beats(&f.point[b], &v.point[a]);
            }
            ck_assert(there != beaten);
            front += there;
        }
        ck_assert_uint_ge(front, f.n);
        for (size_t b = 0; b < f.n; b++) {
            ck_assert_int_eq(ttm_shape_check(&f.point[b].shape, "x", NULL), 0);
            for (int k = 1; k < f.point[b].shape.d; k++)
                ck_assert_int_eq(f.point[b].shape.r[k], v.q.rank);
            if (b) ck_assert(f.point[b - 1].params < f.point[b].params);
            if (b) ck_assert(f.point[b - 1].mults > f.point[b].mults);
        }
        if (i == 6) ck_assert_uint_eq(f.n, 0); /* no shape has such a rank */
        if (i < 3) ck_assert_uint_gt(f.n, 0);
        shapes_front_release(&f);
        free(v.point);
    }
}
END_TEST

/* What the README says of GPT-2 small's layer. */
START_TEST(gpt2_small)
{
    struct shapes_query q = {.in = 768, .out = 3072, .rank = 64};
    struct shapes_front f;
    ck_assert_int_eq(shapes_front_search(&f, &q, NULL), 0);
    const struct shapes_point *p = shapes_front_pick(&f);
    ck_assert_uint_eq(p->params, 81920);
    ck_assert_uint_eq(p->mults, 589824);
    ck_assert_int_eq(p->matrix_rank, 768);
    shapes_front_release(&f);
    ck_assert_ptr_null(shapes_front_pick(&f));
    struct ttm_shape paper;
    struct shapes_point of;
    ck_assert_int_eq(ttm_shape_paper(&paper, 768, 3072, 64, "x", NULL), 0);
    ttm_shape_cap_exact(&paper);
    shapes_point_of(&of, &paper, NULL);
    ck_assert_uint_eq(of.params, 303140);
}
END_TEST

START_TEST(a_share_is_filled)
{
    struct shapes_query q = {.in = 128, .out = 512};
    struct shapes_point p, more;
    struct shapes_front f;
    struct err e = {0};
    q.params = 128 * 512 / 4;
    ck_assert_int_eq(shapes_front_fit(&p, &q, NULL), 0);
    ck_assert(p.params <= q.params && p.mults <= 128 * 512 && p.matrix_rank == 128);
    q.rank = p.shape.r[1] + 1;
    ck_assert_int_eq(shapes_front_search(&f, &q, NULL), 0);
    const struct shapes_point *pick = shapes_front_pick(&f);
    ck_assert(!pick || pick->mults > 128 * 512);
    shapes_front_release(&f);
    q.params = 641; /* 128 + 512 and one: hardly any shape */
    ck_assert_int_eq(shapes_front_fit(&more, &q, NULL), 0);
    ck_assert(more.params <= 641);
    q.in = q.out = 7; /* prime: padded to 8 */
    q.params = 14;
    ck_assert_int_eq(shapes_front_fit(&more, &q, NULL), 0);
    ck_assert(more.params <= 14);
    q.in = q.out = 4;
    q.params = 3;
    ck_assert_int_eq(shapes_front_fit(&more, &q, &e), ERR_INVALID);
    ck_assert_str_eq(e.msg, "3 parameters are too few for a (4,4) layer, which takes 8 at least");
}
END_TEST

START_TEST(odd_sizes_are_padded_and_bad_ones_refused)
{
    struct shapes_query q = {.in = 17 * 4, .out = 72, .rank = 2};
    struct shapes_front f;
    struct err e = {0};
    ck_assert_int_eq(shapes_front_search(&f, &q, NULL), 0);
    ck_assert_uint_gt(f.n, 0);
    ck_assert_uint_eq(ttm_shape_rows(&f.point[0].shape), 72);
    ck_assert_int_eq(f.point[0].shape.in, 68);
    shapes_front_release(&f);
    q.rank = 0;
    ck_assert_int_eq(shapes_front_search(&f, &q, &e), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(e.msg, "(68,72) at rank 0"));
    q = (struct shapes_query){.in = 0, .out = 5, .rank = 1};
    ck_assert_int_eq(shapes_front_search(&f, &q, NULL), ERR_INVALID);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("shapes_front");
    TCase *t = tcase_create("shapes_front");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, multiplications_are_the_fewest);
    tcase_add_test(t, the_rank_of_w_is_bounded_and_reached);
    tcase_add_test(t, fronts_are_those_of_all_shapes);
    tcase_add_test(t, gpt2_small);
    tcase_add_test(t, a_share_is_filled);
    tcase_add_test(t, odd_sizes_are_padded_and_bad_ones_refused);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
