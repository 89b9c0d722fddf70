/* A TTM layer forward and backward in every way that it can be computed, against the dense matrix: each
 * route, split and order, cores whose ranks nobody has rounded, and padding. And what the planner takes
 * may not need more memory than the layer's own rows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/ttm/ttm.h"
#include "models/train/ttm_parts.h"
#include "tests/support/harness.h"

enum { T = 70 }; /* more than a chunk's least */

static struct compute compute;

static void setup(void)
{
    static struct cpu cpu;
    cpu_detect(&cpu);
    compute.k = kernels_choose(&cpu, NULL);
    ck_assert_int_eq(pool_new(&compute.pool, 2, NULL), 0);
}

static void teardown(void)
{
    pool_free(compute.pool);
}

static float *random_floats(size_t n, uint64_t stream)
{
    float *p = mem_alloc(n * sizeof *p);
    rng_normal_fill(p, n, 1, 7, stream);
    return p;
}

/* A layer, its rows, and what is right: y, dx, and the cores' gradients one after the other. */
struct layer {
    struct ttm w;
    size_t in, out, params;
    float *x, *dy;
    double *y, *dx, *dcores;
};

static double dot(const float *a, size_t step_a, const float *b, size_t step_b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)a[i * step_a] * (double)b[i * step_b];
    return s;
}

/* W is linear in each core: the gradient of an entry is <dW, W with that core a unit>. */
static void core_gradients(struct layer *l, const float *dw, float *w)
{
    double *to = l->dcores;
    for (int k = 0; k < l->w.shape.d; k++) {
        size_t n = ttm_shape_core(&l->w.shape, k);
        float *core = l->w.core[k], *was = mem_alloc(n * sizeof *was);
        memcpy(was, core, n * sizeof *was);
        memset(core, 0, n * sizeof *core);
        for (size_t i = 0; i < n; i++) {
            core[i] = 1;
            ck_assert_int_eq(ttm_to_dense(&l->w, w, NULL), 0);
            *to++ = dot(dw, 1, w, 1, l->in * l->out);
            core[i] = 0;
        }
        memcpy(core, was, n * sizeof *core);
        free(was);
    }
}

static void make(struct layer *l, const struct ttm_shape *s)
{
    *l = (struct layer){.in = (size_t)s->in, .out = (size_t)s->out, .params = ttm_shape_params(s)};
    ck_assert_int_eq(ttm_init(&l->w, s, "t", NULL), 0);
    for (int k = 0; k < s->d; k++)
        rng_normal_fill(l->w.core[k], ttm_shape_core(s, k), 0.5, 7, (uint64_t)k);
    l->x = random_floats(T * l->in, 20);
    l->dy = random_floats(T * l->out, 21);
    l->y = mem_alloc(T * l->out * sizeof *l->y);
    l->dx = mem_alloc(T * l->in * sizeof *l->dx);
    l->dcores = mem_alloc(l->params * sizeof *l->dcores);
    float *w = mem_alloc(l->in * l->out * sizeof *w), *dw = mem_alloc(l->in * l->out * sizeof *dw);
    ck_assert_int_eq(ttm_to_dense(&l->w, w, NULL), 0);
    for (size_t t = 0; t < T; t++) {
        for (size_t j = 0; j < l->out; j++)
            l->y[t * l->out + j] = dot(l->x + t * l->in, 1, w + j, l->out, l->in);
        for (size_t i = 0; i < l->in; i++)
            l->dx[t * l->in + i] = dot(l->dy + t * l->out, 1, w + i * l->out, 1, l->out);
    }
    for (size_t i = 0; i < l->in; i++)
        for (size_t j = 0; j < l->out; j++)
            dw[i * l->out + j] = (float)dot(l->x + i, l->in, l->dy + j, l->out, T);
    core_gradients(l, dw, w);
    free(w);
    free(dw);
}

static void release(struct layer *l)
{
    ttm_release(&l->w);
    free(l->x);
    free(l->dy);
    free(l->y);
    free(l->dx);
    free(l->dcores);
}

static void near(const float *got, const double *want, size_t n, const char *what,
                 const struct ttm_grad_plan *p)
{
    double off = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += want[i] * want[i];
    }
    ck_assert_msg(norm > 0 && sqrt(off) <= 1e-5 * sqrt(norm),
                  "%s, route %d, split %d, left first %d: %.3g off", what, (int)p->route, p->split,
                  (int)p->left_first, sqrt(off / norm));
}

static void check_plan(const struct layer *l, struct ttm_grad_plan p)
{
    const float *const *cores = (const float *const *)l->w.core;
    float *dcores[TTM_MAX_CORES], *grad = mem_calloc(l->params, sizeof *grad), *at = grad;
    p.tokens = T;
    p.scratch_floats =
        p.route == TTM_ROUTE_DENSE ? ttm_dense_scratch(&p, 2) : ttm_cores_scratch(&p);
    void *scratch = NULL;
    ck_assert_int_eq(mem_map(&scratch, p.scratch_floats * sizeof(float), "scratch", NULL), 0);
    float *y = mem_alloc(T * l->out * sizeof *y), *dx = mem_alloc(T * l->in * sizeof *dx);
    for (int k = 0; k < p.shape.d; k++) {
        dcores[k] = at;
        at += ttm_shape_core(&p.shape, k);
    }
    ttm_grad_forward(&p, &compute, cores, l->x, T, y, scratch);
    memset(scratch, 0xff, p.scratch_floats * sizeof(float)); /* NaN: nothing is kept there */
    ttm_grad_backward(&p, &compute, cores, l->x, l->dy, T, dx, dcores, scratch);
    near(y, l->y, T * l->out, "y", &p);
    near(dx, l->dx, T * l->in, "dx", &p);
    near(grad, l->dcores, l->params, "dcores", &p);
    mem_unmap(scratch, p.scratch_floats * sizeof(float));
    free(grad);
    free(y);
    free(dx);
}

static const struct {
    const char *text;
    int rank, in, out; /* in, out 0: the products */
    bool exact;
} shapes[] = {
    {"(2,3)(3,2)(2,2)", 3, 0, 0, true}, {"(2,2)(2,2)(2,3)(1,2)", 5, 0, 0, false}, /* rank 5 > 2 */
    {"(1,9)(8,1)", 4, 0, 0, true},      {"(3,4)(4,3)", 6, 10, 11, true},          /* padding */
    {"(6,5)", 1, 0, 0, true},           {"(2,1)(1,2)(3,4)", 4, 0, 0, false},
};

START_TEST(every_way_is_right)
{
    struct ttm_shape s;
    struct layer l;
    int i = _i;
    ck_assert_int_eq(ttm_shape_parse(&s, shapes[i].text, "t", NULL), 0);
    if (shapes[i].in) s.in = shapes[i].in;
    if (shapes[i].out) s.out = shapes[i].out;
    ttm_shape_cap_left(&s, shapes[i].rank);
    if (shapes[i].exact) ttm_shape_cap_exact(&s);
    make(&l, &s);
    for (int split = 0; split <= s.d; split++) {
        check_plan(&l,
                   (struct ttm_grad_plan){.shape = s, .route = TTM_ROUTE_DENSE, .split = split});
        for (int left = 0; left < 2 && split > 0 && split < s.d; left++)
            check_plan(
                &l, (struct ttm_grad_plan){
                        .shape = s, .route = TTM_ROUTE_CORES, .split = split, .left_first = left});
    }
    for (int route = TTM_ROUTE_AUTO; route <= TTM_ROUTE_CORES; route++) {
        struct ttm_grad_plan p;
        ttm_grad_plan(&p, &s, T, (enum ttm_route)route, 2);
        check_plan(&l, p);
    }
    release(&l);
}
END_TEST

/* The paper's layer keeps 192 MiB of rows at 16,384 tokens; what is needed beside x, y and their gradients
 * is a quarter of them at most, also with ranks as published checkpoints store them. */
START_TEST(scratch_is_less_than_rows)
{
    static const struct {
        const char *text;
        int rank;
    } layers[] = {{"(8,8)(8,8)(12,12)(1,3)", 16},
                  {"(8,8)(8,8)(12,8)(1,6)", 64},
                  {"(4,4)(4,4)(4,4)(4,4)(3,12)", 16},
                  {"(16,16)(16,16)(3,12)", 80}};
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        for (int exact = 0; exact < 2; exact++) {
            struct ttm_shape s;
            struct ttm_grad_plan p;
            ck_assert_int_eq(ttm_shape_parse(&s, layers[i].text, "t", NULL), 0);
            ttm_shape_cap_left(&s, layers[i].rank);
            if (exact) ttm_shape_cap_exact(&s);
            ttm_grad_plan(&p, &s, 16384, TTM_ROUTE_AUTO, 2);
            double rows = 2.0 * 16384 * (double)(s.in + s.out);
            ck_assert_msg((double)p.scratch_floats < 0.2 * rows, "%s: %.3f of the rows",
                          layers[i].text, (double)p.scratch_floats / rows);
        }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ttm_grad");
    TCase *t = tcase_create("ttm_grad");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, every_way_is_right, 0, (int)(sizeof shapes / sizeof *shapes));
    tcase_add_test(t, scratch_is_less_than_rows);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
