/* AdamW on a whole model against an independent implementation in double, the same gradients by
 * differences; clipping, decay, and the cores' learning rates: a step moves W as a dense step. */
#include "models/train/optim.h"

#include "models/train/backprop.h"
#include "engine/ttm/ttm.h"
#include "tests/models/train/naive_train.h"
#include "tests/support/harness.h"

enum { B = 2, T = 5 };

static struct compute compute;

static void setup(void)
{
    static struct cpu cpu;
    cpu_detect(&cpu);
    compute.k = kernels_choose(&cpu, NULL);
}

static const struct gpt2_config small = {.n_layer = 1,
                                         .n_head = 2,
                                         .n_embd = 6,
                                         .n_positions = 8,
                                         .vocab_size = 9,
                                         .n_inner = 8,
                                         .layer_norm_epsilon = 1e-5F,
                                         .activation = ACT_GELU_NEW,
                                         .scale_attn_weights = true};

struct reference {
    double *w, *g, *m, *v;
};

static void naive_gradient(const struct net *net, struct reference *r, const int32_t *tokens,
                           const int32_t *targets)
{
    const double h = 1e-5;
    for (size_t i = 0; i < net->n_tensors; i++)
        for (size_t k = 0; k < net->tensors[i].elements; k++) {
            size_t at = net->tensors[i].offset + k;
            double keep = r->w[at], f[2];
            for (int s = 0; s < 2; s++) {
                r->w[at] = keep + (s ? h : -h);
                f[s] = naive_loss(net, r->w, tokens, targets, B, T) / (B * T);
            }
            r->w[at] = keep;
            r->g[at] = (f[1] - f[0]) / (2 * h);
        }
}

static void naive_adamw(const struct net *net, struct reference *r, const struct optim_options *o,
                        double lr, int step)
{
    double norm = 0, scale = 1;
    for (size_t i = 0; i < net->floats; i++)
        norm += r->g[i] * r->g[i];
    if (sqrt(norm) > (double)o->clip) scale = (double)o->clip / sqrt(norm);
    for (size_t i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *t = &net->tensors[i];
        bool decays = strstr(t->name, ".weight") && !strstr(t->name, "ln_");
        for (size_t at = t->offset; at < t->offset + t->elements; at++) {
            double g = r->g[at] * scale, b1 = (double)o->beta1, b2 = (double)o->beta2;
            r->m[at] = b1 * r->m[at] + (1 - b1) * g;
            r->v[at] = b2 * r->v[at] + (1 - b2) * g * g;
            if (decays) r->w[at] *= 1 - lr * (double)o->decay;
            r->w[at] -= lr * (r->m[at] / (1 - pow(b1, step))) /
                        (sqrt(r->v[at] / (1 - pow(b2, step))) + (double)o->eps);
        }
    }
}

START_TEST(ten_steps_agree_with_double)
{
    struct net net;
    struct optim opt;
    struct backprop *b;
    int32_t tokens[B * T], targets[B * T];
    ck_assert_int_eq(net_init(&net, &small, false, NULL, NULL), 0);
    float *w = mem_calloc(net.floats, sizeof *w), *g = mem_calloc(net.floats, sizeof *g);
    struct reference r;
    double **arrays[] = {&r.w, &r.g, &r.m, &r.v};
    for (int i = 0; i < 4; i++)
        *arrays[i] = mem_calloc(net.floats, sizeof(double));
    ck_assert_int_eq(net_random(&net, w, 1, NULL), 0);
    for (size_t i = 0; i < net.floats; i++)
        r.w[i] = (double)(w[i] *= 10);
    for (int i = 0; i < B * T; i++) {
        tokens[i] = (i * 5 + 1) % 9;
        targets[i] = (i * 5 + 6) % 9;
    }
    /* a large eps: where the gradient is rounding alone (keys' biases) its sign must not matter */
    struct optim_options o = {
        .beta1 = 0.9F, .beta2 = 0.95F, .eps = 1e-3F, .decay = 0.1F, .clip = 0.5F};
    struct backprop_options bo = {.sequences = B, .length = T, .backward = true};
    struct backprop_batch batch = {
        .tokens = tokens, .targets = targets, .sequences = B, .length = T};
    struct backprop_loss loss;
    ck_assert_int_eq(optim_init(&opt, &net, &o, NULL), 0);
    ck_assert_int_eq(backprop_new(&b, &net, &bo, &compute, NULL), 0);
    for (int step = 1; step <= 10; step++) {
        memset(g, 0, net.floats * sizeof *g);
        backprop_step(b, w, &batch, 1.0F / (B * T), g, &loss);
        optim_step(&opt, &compute, w, g, 0.01F, (uint64_t)step);
        naive_gradient(&net, &r, tokens, targets);
        naive_adamw(&net, &r, &o, 0.01, step);
    }
    for (size_t i = 0; i < net.floats; i++)
        assert_close(w[i], r.w[i], 2e-5, 1e-4);
    backprop_free(b);
    optim_release(&opt);
    net_release(&net);
    for (int i = 0; i < 4; i++)
        free(*arrays[i]);
    free(w);
    free(g);
}
END_TEST

static double rms(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)x[i] * (double)x[i];
    return sqrt(s / (double)n);
}

static void parse(struct ttm_shape *s, const char *text, int rank)
{
    int in = 1, out = 1;
    ck_assert_int_eq(ttm_shape_parse(s, text, "test", NULL), 0);
    for (int k = 0; k < s->d; k++) {
        in *= s->m[k];
        out *= s->n[k];
        if (k) s->r[k] = rank;
    }
    s->in = in;
    s->out = out;
    ttm_shape_cap_exact(s);
}

/* dG_k = -rate_k * lr * sign(gradient of core k): what a first step of Adam does. */
static void move(struct ttm *moved, const struct ttm *w, const float *dw, const float *rates,
                 double lr)
{
    const struct ttm_shape *s = &w->shape;
    struct ttm_grad_plan p;
    ttm_grad_plan(&p, s, (size_t)s->in, TTM_ROUTE_DENSE, 1);
    size_t in = (size_t)s->in, out = (size_t)s->out;
    float *x = mem_calloc(in * in, sizeof *x), *dx = mem_calloc(in * in, sizeof *dx);
    float *scratch = aligned_alloc(64, (p.scratch_floats * sizeof *scratch + 63) / 64 * 64);
    float *d[TTM_MAX_CORES];
    const float *cores[TTM_MAX_CORES];
    for (size_t i = 0; i < in; i++)
        x[i * in + i] = 1; /* x^T dy = dw */
    for (int k = 0; k < s->d; k++) {
        cores[k] = w->core[k];
        d[k] = mem_calloc(ttm_shape_core(s, k), sizeof(float));
    }
    ttm_grad_backward(&p, &compute, cores, x, dw, in, dx, d, scratch);
    for (int k = 0; k < s->d; k++) {
        for (size_t i = 0; i < ttm_shape_core(s, k); i++)
            moved->core[k][i] =
                w->core[k][i] - (float)(lr * (double)rates[k]) * (d[k][i] > 0 ? 1.0F : -1.0F);
        free(d[k]);
    }
    (void)out;
    free(x);
    free(dx);
    free(scratch);
}

START_TEST(a_step_moves_w_as_a_dense_step_does)
{
    static const struct {
        const char *shape;
        int rank;
    } cases[] = {{"(4,32)(24,6)", 16},  {"(4,4)(4,4)(6,12)", 8},
                 {"(1,192)(96,1)", 12}, {"(8,8)(12,12)(1,2)", 40},
                 {"(96,192)", 1},       {"(2,2)(2,2)(2,3)(2,2)(6,8)", 6}};
    const double lr = 1e-4;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ttm_shape s;
        struct ttm w, moved;
        float rates[TTM_MAX_CORES];
        parse(&s, cases[i].shape, cases[i].rank);
        size_t in = (size_t)s.in, out = (size_t)s.out, n = in * out;
        ck_assert_int_eq(ttm_init(&w, &s, "w", NULL), 0);
        ck_assert_int_eq(ttm_init(&moved, &s, "w", NULL), 0);
        ck_assert_int_eq(ttm_random(&w, 0.02, 1, i, "w", NULL), 0);
        float *scratch = mem_alloc(optim_core_floats(&s) * sizeof *scratch);
        const float *cores[TTM_MAX_CORES];
        for (int k = 0; k < s.d; k++)
            cores[k] = w.core[k];
        optim_core_rates(&compute, &s, cores, rates, scratch);
        float *dw = mem_alloc(n * sizeof *dw), *a = mem_alloc(n * sizeof *a);
        float *b = mem_alloc(n * sizeof *b);
        rng_normal_fill(dw, n, 1, 2, i);
        move(&moved, &w, dw, rates, lr);
        ck_assert_int_eq(ttm_to_dense(&w, a, NULL), 0);
        ck_assert_int_eq(ttm_to_dense(&moved, b, NULL), 0);
        double along = 0;
        for (size_t k = 0; k < n; k++) {
            b[k] -= a[k];
            along += (double)b[k] * (double)dw[k];
        }
        ck_assert_msg(rms(b, n) > 0.7 * lr && rms(b, n) < 1.4 * lr,
                      "%s rank %d: W moves by %.3g, a dense step by %.3g", cases[i].shape,
                      cases[i].rank, rms(b, n), lr);
        ck_assert(along < 0);
        free(scratch);
        free(dw);
        free(a);
        free(b);
        ttm_release(&w);
        ttm_release(&moved);
    }
}
END_TEST

/* The rates by their definition, from the interfaces written out. */
START_TEST(rates_are_those_of_the_interfaces)
{
    struct ttm_shape s;
    struct ttm w;
    parse(&s, "(2,3)(2,2)(3,2)", 4);
    ck_assert_int_eq(ttm_init(&w, &s, "w", NULL), 0);
    const float *cores[TTM_MAX_CORES];
    for (int k = 0; k < s.d; k++) {
        rng_normal_fill(w.core[k], ttm_shape_core(&s, k), 1.0 + k, 3, (uint64_t)k);
        cores[k] = w.core[k];
    }
    float rates[3], *scratch = mem_alloc(optim_core_floats(&s) * sizeof *scratch);
    optim_core_rates(&compute, &s, cores, rates, scratch);
    size_t r1 = (size_t)s.r[1], r2 = (size_t)s.r[2];
    double l2 = 0, right = rms(w.core[2], ttm_shape_core(&s, 2));
    right = right * right * (double)r2; /* mean |R_col|^2 of bond 2 */
    for (size_t p = 0; p < 6; p++)
        for (size_t q = 0; q < 4; q++)
            for (size_t b = 0; b < r2; b++) {
                double e = 0;
                for (size_t a = 0; a < r1; a++)
                    e += (double)w.core[0][p * r1 + a] * (double)w.core[1][(a * 4 + q) * r2 + b];
                l2 += e * e / 24;
            }
    double l1 = rms(w.core[0], ttm_shape_core(&s, 0));
    l1 = l1 * l1 * (double)r1;
    assert_close(rates[1], 1 / sqrt(3 * l1 * right), 0, 1e-4);
    assert_close(rates[2], 1 / sqrt(3 * l2), 0, 1e-4);
    free(scratch);
    ttm_release(&w);
}
END_TEST

START_TEST(a_gradient_that_is_not_finite_changes_nothing)
{
    struct net net;
    struct optim opt;
    struct optim_options o = {.beta1 = 0.9F, .beta2 = 0.95F, .eps = 1e-8F};
    ck_assert_int_eq(net_init(&net, &small, true, NULL, NULL), 0);
    ck_assert_int_eq(optim_init(&opt, &net, &o, NULL), 0);
    float *w = mem_calloc(net.floats, sizeof *w), *g = mem_calloc(net.floats, sizeof *g);
    g[5] = INFINITY;
    ck_assert(!isfinite(optim_step(&opt, &compute, w, g, 0.1F, 1)));
    g[5] = NAN;
    ck_assert(!isfinite(optim_step(&opt, &compute, w, g, 0.1F, 1)));
    for (size_t i = 0; i < net.floats; i++)
        ck_assert(w[i] == 0 && opt.m[i] == 0 && opt.v[i] == 0);
    free(w);
    free(g);
    optim_release(&opt);
    net_release(&net);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("optim");
    TCase *t = tcase_create("optim");
    tcase_add_unchecked_fixture(t, setup, NULL);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, ten_steps_agree_with_double);
    tcase_add_test(t, a_step_moves_w_as_a_dense_step_does);
    tcase_add_test(t, rates_are_those_of_the_interfaces);
    tcase_add_test(t, a_gradient_that_is_not_finite_changes_nothing);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
