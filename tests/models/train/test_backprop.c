/* Gradients against central differences of a naive model in double: every parameter of small models,
 * dense and TTM, both routes, with and without recomputation, all activations; dropout by its own
 * masks; classifiers; distillation; that the shares of a batch add up and that threads change no bit. */
#include "models/train/backprop.h"

#include "engine/base/pool.h"
#include "tests/models/train/naive_train.h"
#include "tests/support/harness.h"

enum { B = 2, T = 6 };

struct model {
    struct net net;
    float *w, *grad;
    double *wide;
    int32_t tokens[B * T], targets[B * T];
    struct compute c;
};

static const struct gpt2_config small = {.n_layer = 2,
                                         .n_head = 2,
                                         .n_embd = 8,
                                         .n_positions = 8,
                                         .vocab_size = 11,
                                         .n_inner = 12,
                                         .layer_norm_epsilon = 1e-5F,
                                         .activation = ACT_GELU_NEW,
                                         .scale_attn_weights = true};

static void parse(struct ttm_shape *s, const char *text, int rank, int in, int out)
{
    ck_assert_int_eq(ttm_shape_parse(s, text, "test", NULL), 0);
    for (int k = 1; k < s->d; k++)
        s->r[k] = rank;
    s->in = in;
    s->out = out;
}

/* Shapes of several kinds: two and three cores, low rank, one core, padded. */
static void ttm_shapes(net_shapes shapes[2])
{
    memset(shapes, 0, 2 * sizeof *shapes);
    parse(&shapes[0][NET_FC], "(2,6)(4,2)", 3, 8, 12);
    parse(&shapes[0][NET_MLP_PROJ], "(3,2)(2,2)(2,2)", 2, 12, 8);
    parse(&shapes[0][NET_ATTN], "(1,24)(8,1)", 3, 8, 24);
    parse(&shapes[1][NET_FC], "(3,5)(3,3)", 4, 8, 12);
    parse(&shapes[1][NET_MLP_PROJ], "(12,8)", 1, 12, 8);
    parse(&shapes[1][NET_ATTN_PROJ], "(3,2)(1,3)(3,2)", 2, 8, 8);
}

/* Random weights, tokens and targets for a net that is laid out. */
static void fill_model(struct model *m, uint64_t seed)
{
    const struct gpt2_config *cfg = &m->net.cfg;
    struct cpu cpu;
    m->w = mem_calloc(m->net.floats, sizeof *m->w);
    m->grad = mem_calloc(m->net.floats, sizeof *m->grad);
    m->wide = mem_calloc(m->net.floats, sizeof *m->wide);
    for (size_t i = 0; i < m->net.n_tensors; i++) {
        const struct net_tensor *t = &m->net.tensors[i];
        rng_normal_fill(m->w + t->offset, t->elements, t->core >= 0 ? 0.5 : 0.3, seed, i);
        for (size_t k = 0; t->kind == CHECKPOINT_NORM_WEIGHT && k < t->elements; k++)
            m->w[t->offset + k] += 1;
    }
    for (size_t i = 0; i < m->net.floats; i++)
        m->wide[i] = (double)m->w[i];
    for (int i = 0; i < B * T; i++) {
        m->tokens[i] = (int32_t)(rng_uniform(seed, 99, (uint64_t)i) * cfg->vocab_size);
        m->targets[i] = (int32_t)(rng_uniform(seed, 98, (uint64_t)i) * (double)m->net.outputs);
    }
    m->targets[3] = -1;
    cpu_detect(&cpu);
    m->c.k = kernels_choose(&cpu, NULL);
    ck_assert_int_eq(pool_new(&m->c.pool, 2, NULL), 0);
}

static void open_model(struct model *m, const struct gpt2_config *cfg, bool ttm, bool untied,
                       uint64_t seed)
{
    net_shapes shapes[2];
    ttm_shapes(shapes);
    *m = (struct model){0};
    ck_assert_int_eq(net_init(&m->net, cfg, untied, ttm ? shapes : NULL, NULL), 0);
    fill_model(m, seed);
}

static void close_model(struct model *m)
{
    pool_free(m->c.pool);
    net_release(&m->net);
    free(m->w);
    free(m->grad);
    free(m->wide);
}

static struct backprop_batch batch_of(const struct model *m)
{
    return (struct backprop_batch){
        .tokens = m->tokens, .targets = m->targets, .sequences = B, .length = T};
}

static void run(struct model *m, struct backprop_options o, struct backprop_loss *loss)
{
    struct backprop *b;
    struct backprop_batch batch = batch_of(m);
    struct err err = {0};
    o.sequences = B;
    o.length = T;
    o.backward = true;
    ck_assert_msg(backprop_new(&b, &m->net, &o, &m->c, &err) == 0, "%s", err.msg);
    memset(m->grad, 0, m->net.floats * sizeof *m->grad);
    backprop_step(b, m->w, &batch, 0.5F, m->grad, loss);
    backprop_free(b);
}

/* Differences of 0.5 * naive_loss; tensor by tensor the largest error against the largest entry. */
static void differences(struct model *m, float *want)
{
    const double h = 1e-5;
    for (size_t i = 0; i < m->net.n_tensors; i++)
        for (size_t k = 0; k < m->net.tensors[i].elements; k++) {
            double *at = &m->wide[m->net.tensors[i].offset + k], f[2], keep = *at;
            for (int s = 0; s < 2; s++) {
                *at = keep + (s ? h : -h);
                f[s] = naive_loss(&m->net, m->wide, m->tokens, m->targets, B, T);
            }
            *at = keep;
            want[m->net.tensors[i].offset + k] = (float)(0.5 * (f[1] - f[0]) / (2 * h));
        }
}

static void assert_gradients(const struct net *net, const float *got, const float *want, double tol,
                             const char *what)
{
    for (size_t i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *t = &net->tensors[i];
        double off = 0, norm = 0;
        for (size_t k = 0; k < t->elements; k++) {
            double d = (double)(got[t->offset + k] - want[t->offset + k]);
            off += d * d;
            norm += (double)want[t->offset + k] * (double)want[t->offset + k];
        }
        /* the bias of the keys has no effect on a softmax: its gradient is rounding alone */
        ck_assert_msg(sqrt(off) <= tol * sqrt(norm) + 1e-7, "%s: %s is %.3g off, norm %.3g", what,
                      t->name, sqrt(off), sqrt(norm));
    }
}

START_TEST(gradients_are_those_of_differences)
{
    static const enum act acts[] = {ACT_GELU_NEW, ACT_GELU_ERF, ACT_RELU};
    for (int i = 0; i < 3; i++) {
        struct model m;
        struct backprop_loss loss;
        struct gpt2_config cfg = small;
        cfg.activation = acts[i];
        cfg.scale_attn_by_inverse_layer_idx = i == 1;
        open_model(&m, &cfg, false, i == 2, 1);
        float *want = mem_calloc(m.net.floats, sizeof *want);
        differences(&m, want);
        for (int recompute = 0; recompute < 2; recompute++) {
            run(&m, (struct backprop_options){.recompute = recompute}, &loss);
            assert_close(loss.sum, naive_loss(&m.net, m.wide, m.tokens, m.targets, B, T), 0, 1e-5);
            ck_assert_uint_eq(loss.tokens, B * T - 1);
            assert_gradients(&m.net, m.grad, want, 1e-4, recompute ? "recomputed" : "kept");
        }
        free(want);
        close_model(&m);
    }
}
END_TEST

START_TEST(ttm_gradients_are_those_of_differences)
{
    struct model m;
    struct backprop_loss loss;
    open_model(&m, &small, true, false, 2);
    float *want = mem_calloc(m.net.floats, sizeof *want);
    float *dense = mem_calloc(m.net.floats, sizeof *dense);
    differences(&m, want);
    for (int recompute = 0; recompute < 2; recompute++) {
        struct backprop_options o = {.recompute = recompute, .route = TTM_ROUTE_DENSE};
        run(&m, o, &loss);
        assert_close(loss.sum, naive_loss(&m.net, m.wide, m.tokens, m.targets, B, T), 0, 1e-5);
        assert_gradients(&m.net, m.grad, want, 1e-4, "dense route");
        memcpy(dense, m.grad, m.net.floats * sizeof *dense);
        o.route = TTM_ROUTE_CORES;
        run(&m, o, &loss);
        assert_gradients(&m.net, m.grad, want, 1e-4, "per-core route");
        assert_gradients(&m.net, m.grad, dense, 1e-5, "both routes");
    }
    free(want);
    free(dense);
    close_model(&m);
}
END_TEST

/* A classifier: one label at the end of each sequence, whatever stands behind it. */
START_TEST(classifier_gradients_are_those_of_differences)
{
    enum { LABELS = 3, END = 3 };
    struct model m = {0};
    struct backprop_loss loss, padded;
    net_shapes shapes[2];
    ttm_shapes(shapes);
    ck_assert_int_eq(net_init_classifier(&m.net, &small, LABELS, shapes, NULL), 0);
    fill_model(&m, 8);
    for (int i = 0; i < B * T; i++)
        if (i != END && i != 2 * T - 1) m.targets[i] = -1; /* a short one and a long one */
    m.targets[END] = 2;
    float *want = mem_calloc(m.net.floats, sizeof *want);
    differences(&m, want);
    run(&m, (struct backprop_options){.route = TTM_ROUTE_AUTO}, &loss);
    ck_assert_uint_eq(loss.tokens, B);
    assert_close(loss.sum, naive_loss(&m.net, m.wide, m.tokens, m.targets, B, T), 0, 1e-5);
    assert_gradients(&m.net, m.grad, want, 1e-4, "classifier");
    ck_assert(want[m.net.head] != 0 && want[m.net.wte] != 0);
    m.tokens[END + 1] = (m.tokens[END + 1] + 1) % small.vocab_size;
    run(&m, (struct backprop_options){.recompute = true}, &padded);
    ck_assert(padded.sum == loss.sum); /* to the last bit */
    free(want);
    close_model(&m);
}
END_TEST

/* The sequences of a batch one by one, with the masks of their places in it: the gradients add up. */
START_TEST(shares_of_a_batch_add_up)
{
    struct model m;
    struct backprop *b;
    struct backprop_loss loss;
    open_model(&m, &small, true, false, 3);
    struct backprop_options o = {.sequences = B, .length = T, .backward = true, .dropout = 0.2F};
    struct backprop_batch batch = batch_of(&m), one = batch;
    float *sum = mem_calloc(m.net.floats, sizeof *sum);
    ck_assert_int_eq(backprop_new(&b, &m.net, &o, &m.c, NULL), 0);
    backprop_step(b, m.w, &batch, 1, m.grad, &loss);
    double whole = loss.sum, parts = 0;
    one.sequences = 1;
    for (one.first = 0; one.first < B; one.first++) {
        one.tokens = m.tokens + one.first * T;
        one.targets = m.targets + one.first * T;
        backprop_step(b, m.w, &one, 1, sum, &loss);
        parts += loss.sum;
    }
    assert_close(parts, whole, 0, 1e-6);
    assert_gradients(&m.net, sum, m.grad, 1e-5, "shares");
    free(sum);
    backprop_free(b);
    close_model(&m);
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    struct model m;
    struct backprop_loss a, b;
    open_model(&m, &small, true, false, 3);
    struct backprop_options o = {.dropout = 0.1F, .seed = 5};
    run(&m, o, &a);
    float *first = mem_alloc(m.net.floats * sizeof *first);
    memcpy(first, m.grad, m.net.floats * sizeof *first);
    struct pool *two = m.c.pool;
    m.c.pool = NULL;
    run(&m, o, &b);
    m.c.pool = two;
    ck_assert(a.sum == b.sum && memcmp(first, m.grad, m.net.floats * sizeof *first) == 0);
    o.recompute = true;
    run(&m, o, &b);
    ck_assert(a.sum == b.sum && memcmp(first, m.grad, m.net.floats * sizeof *first) == 0);
    o.seed = 6;
    run(&m, o, &b);
    ck_assert(a.sum != b.sum);
    free(first);
    close_model(&m);
}
END_TEST

/* With the masks fixed by the draw, the loss is a smooth function of the weights: its own differences,
 * in f32, along a direction. */
START_TEST(dropout_gradient_follows_the_masked_loss)
{
    struct model m;
    struct backprop *b;
    struct backprop_batch batch;
    struct backprop_loss loss[2];
    open_model(&m, &small, true, false, 4);
    batch = batch_of(&m);
    batch.draw = 7;
    struct backprop_options o = {.sequences = B, .length = T, .backward = true, .dropout = 0.3F};
    ck_assert_int_eq(backprop_new(&b, &m.net, &o, &m.c, NULL), 0);
    backprop_step(b, m.w, &batch, 1, m.grad, &loss[0]);
    double norm = 0, h = 2e-3;
    for (size_t i = 0; i < m.net.floats; i++)
        norm += (double)m.grad[i] * (double)m.grad[i];
    norm = sqrt(norm);
    float *w = mem_alloc(m.net.floats * sizeof *w), *g = mem_alloc(m.net.floats * sizeof *g);
    for (int s = 0; s < 2; s++) {
        for (size_t i = 0; i < m.net.floats; i++)
            w[i] = m.w[i] + (float)((s ? h : -h) * (double)m.grad[i] / norm);
        backprop_step(b, w, &batch, 1, g, &loss[s]);
    }
    assert_close((loss[1].sum - loss[0].sum) / (2 * h), norm, 0, 2e-3);
    backprop_loss(b, m.w, &batch, &loss[0]); /* no dropout outside of steps */
    assert_close(loss[0].sum, naive_loss(&m.net, m.wide, m.tokens, m.targets, B, T), 0, 1e-5);
    free(w);
    free(g);
    backprop_free(b);
    close_model(&m);
}
END_TEST

static double naive_distil(const struct model *m, const struct model *teacher, double hot,
                           double weight)
{
    size_t v = (size_t)m->net.cfg.vocab_size;
    double sum = 0, *p = mem_alloc(T * v * sizeof *p), *q = mem_alloc(T * v * sizeof *q);
    for (size_t s = 0; s < B; s++) {
        naive_log_softmax(&m->net, m->wide, m->tokens + s * T, T, hot, q);
        naive_log_softmax(&teacher->net, teacher->wide, m->tokens + s * T, T, hot, p);
        for (size_t i = 0; i < T * v; i++)
            if (m->targets[s * T + i / v] >= 0) sum += exp(p[i]) * (p[i] - q[i]);
    }
    free(p);
    free(q);
    return weight * hot * hot * sum +
           (1 - weight) * naive_loss(&m->net, m->wide, m->tokens, m->targets, B, T);
}

START_TEST(distillation_learns_from_soft_targets)
{
    struct model m, other;
    struct backprop *b;
    struct gpt2_config cfg = small;
    struct backprop_loss loss;
    open_model(&m, &small, true, false, 5);
    cfg.n_embd = 12;
    cfg.n_layer = 1;
    open_model(&other, &cfg, false, false, 6);
    struct backprop_options o = {.sequences = B, .length = T, .backward = true, .teacher = true};
    struct backprop_teacher teacher = {.w = other.w, .temperature = 2, .weight = 0.7F};
    struct backprop_batch batch = batch_of(&m);
    batch.teacher = &teacher;
    ck_assert_int_eq(backprop_new(&b, &m.net, &o, &m.c, NULL), 0);
    o.backward = o.teacher = false;
    ck_assert_int_eq(backprop_new(&teacher.model, &other.net, &o, &m.c, NULL), 0);
    backprop_step(b, m.w, &batch, 1, m.grad, &loss);
    assert_close(0.3 * loss.sum + 0.7 * loss.distil, naive_distil(&m, &other, 2, 0.7), 0, 1e-5);
    for (size_t i = 0; i < m.net.n_tensors; i++) {
        const struct net_tensor *t = &m.net.tensors[i];
        double f[2], h = 1e-5, most = 0;
        for (size_t k = 0; k < t->elements; k++)
            most = fmax(most, fabs((double)m.grad[t->offset + k]));
        for (size_t k = 0; k < t->elements; k += 1 + t->elements / 7) {
            double *at = &m.wide[t->offset + k], keep = *at;
            for (int s = 0; s < 2; s++) {
                *at = keep + (s ? h : -h);
                f[s] = naive_distil(&m, &other, 2, 0.7);
            }
            *at = keep;
            assert_close(m.grad[t->offset + k], (f[1] - f[0]) / (2 * h), 1e-4 * most + 1e-6, 0);
        }
    }
    backprop_free(b);
    backprop_free(teacher.model);
    close_model(&m);
    close_model(&other);
}
END_TEST

START_TEST(too_long_sequences_are_refused)
{
    struct model m;
    struct backprop *b;
    struct err err = {0};
    open_model(&m, &small, false, false, 1);
    struct backprop_options o = {.sequences = 1, .length = 9};
    ck_assert_int_eq(backprop_new(&b, &m.net, &o, &m.c, &err), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(err.msg, "8 positions"));
    close_model(&m);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("backprop");
    TCase *t = tcase_create("backprop");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, gradients_are_those_of_differences);
    tcase_add_test(t, ttm_gradients_are_those_of_differences);
    tcase_add_test(t, classifier_gradients_are_those_of_differences);
    tcase_add_test(t, shares_of_a_batch_add_up);
    tcase_add_test(t, threads_do_not_change_a_bit);
    tcase_add_test(t, dropout_gradient_follows_the_masked_loss);
    tcase_add_test(t, distillation_learns_from_soft_targets);
    tcase_add_test(t, too_long_sequences_are_refused);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
