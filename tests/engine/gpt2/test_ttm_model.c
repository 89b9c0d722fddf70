/* Models with TTM layers: every way to apply them against the oracle in both roles, the same bytes in
 * any company, names as the paper's authors write them, budgets, exact rounding, everything that a file may
 * get wrong, and what is told while it loads. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/ttm_info.h"
#include "tests/support/gpt2_run.h"
#include "tests/support/harness.h"
#include "tests/support/make_model.h"
#include "tests/support/naive_gpt2.h"
#include "tests/support/raw_st.h"

enum { N = 40, V = 101 };

/* A machine on which the planner has something to choose. */
static const struct ttm_rates rates = {.flops_few = 2e10,
                                       .flops_many = 2e11,
                                       .dram = 2e10,
                                       .cache = 1e11,
                                       .overhead_s = 2e-6,
                                       .cache_bytes = 1u << 20,
                                       .lanes = PACK_N};

/* Ranks of 6 are more than the right ends can span: the loader rounds them. */
static const struct make_model all_ttm = {
    .seed = 41,
    .vocab = V,
    .ttm = {"(4,4)(4,4)(2,6)", "(2,4)(16,8)", "(4,8)(8,8)(1,2)", "(8,8)(8,4)(2,1)"},
    .ttm_rank = 6};

static const char *made(const struct make_model *o)
{
    const char *dir = temp_dir();
    make_model(dir, o);
    return dir;
}

static double worst(const float *a, const float *b, size_t n)
{
    double w = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        w = d <= w ? w : d; /* a NaN stays */
    }
    return w;
}

/* Half of the sequence as a prompt in pieces, half of it token by token as it is generated. */
static void both_roles(struct gpt2_run *r, int seq, const int32_t *ids, float *logits)
{
    r->n_decode = 0;
    for (int at = 0; at < N / 2; at += 7) {
        struct gpt2_piece p = {.seq = seq, .pos0 = at, .n = N / 2 - at < 7 ? N / 2 - at : 7};
        p.tokens = ids + at;
        gpt2_run_step(r, &p, 1, logits + at * V);
    }
    r->n_decode = 1;
    for (int at = N / 2; at < N; at++) {
        struct gpt2_piece p = {.seq = seq, .pos0 = at, .n = 1, .tokens = ids + at};
        gpt2_run_step(r, &p, 1, logits + at * V);
    }
}

static const struct {
    unsigned methods;
    enum dtype dtype;
    const char *kernels;
} ways[] = {
    {0, DTYPE_F32, NULL},
    {1u << TTM_CONTRACT, DTYPE_F32, NULL},
    {1u << TTM_REBUILD, DTYPE_F32, NULL},
    {1u << TTM_RESIDENT, DTYPE_F32, NULL},
    {1u << TTM_CONTRACT, DTYPE_BF16, NULL},
    {1u << TTM_REBUILD, DTYPE_F16, "scalar"},
    {1u << TTM_CONTRACT, DTYPE_F32, "scalar"},
};

START_TEST(every_way_agrees_with_the_oracle)
{
    struct make_model o = all_ttm;
    o.dtype = ways[_i].dtype;
    const char *dir = made(&o);
    struct naive_gpt2 *oracle = naive_open(dir);
    struct gpt2_options g = {.ttm_methods = ways[_i].methods, .rates = &rates};
    struct gpt2_run r;
    int32_t ids[N];
    static float want[N * V], got[N * V];
    random_tokens(ids, N, V, 5);
    naive_logits(oracle, ids, N, want, NULL, NULL);
    gpt2_run_open_with(&r, dir, &g, 2, ways[_i].kernels, DTYPE_F32, 1, N);
    ck_assert_int_eq(r.m->n_ttm, 8);
    both_roles(&r, 0, ids, got);
    double d = worst(got, want, N * V);
    ck_assert_msg(d < 1e-4, "worst difference %g", d);
    for (int i = 0; ways[_i].methods && i < r.m->n_ttm; i++)
        for (int role = 0; role < TTM_ROLES; role++)
            ck_assert_int_eq(ttm_linear_plan(r.m->ttm[i].linear->ttm, (enum ttm_role)role)->method,
                             ways[_i].methods >> 1);
    gpt2_run_close(&r);
    naive_free(oracle);
}
END_TEST

/* A generated token among others, and among prompts, has the bits that it has alone: by every method, in every
 * type that groups are held in. */
#define COMPANY_WAYS 4
static const enum gpt2_dtype held[] = {GPT2_AUTO, GPT2_INT8, GPT2_BF16};

START_TEST(company)
{
    const char *dir = made(&all_ttm);
    struct gpt2_options g = {.dtype = held[_i / COMPANY_WAYS],
                             .ttm_methods = ways[_i % COMPANY_WAYS].methods,
                             .rates = &rates};
    static float alone[3][N * V], step[64 * V];
    int32_t ids[3][N];
    struct gpt2_run r;
    gpt2_run_open_with(&r, dir, &g, 1, NULL, DTYPE_F32, 3, 64);
    for (int s = 0; s < 3; s++) {
        random_tokens(ids[s], N, V, (uint64_t)s);
        both_roles(&r, s, ids[s], alone[s]);
    }
    gpt2_run_close(&r);
    for (int threads = 1; threads <= 3; threads++) {
        gpt2_run_open_with(&r, dir, &g, threads, NULL, DTYPE_F32, 3, 64);
        struct gpt2_piece first[2] = {{.seq = 0, .n = N / 2, .tokens = ids[0]},
                                      {.seq = 1, .n = N / 2, .tokens = ids[1]}};
        gpt2_run_step(&r, first, 2, step);
        for (int s = 0; s < 2; s++)
            ck_assert_int_eq(memcmp(step + s * N / 2 * V, alone[s], N / 2 * V * sizeof *step), 0);
        for (int at = 0; at < N / 2; at++) { /* two decode, the third brings its prompt */
            struct gpt2_piece p[3] = {
                {.seq = 1, .pos0 = N / 2 + at, .n = 1, .tokens = ids[1] + N / 2 + at},
                {.seq = 0, .pos0 = N / 2 + at, .n = 1, .tokens = ids[0] + N / 2 + at},
                {.seq = 2, .pos0 = at, .n = 1, .tokens = ids[2] + at}};
            r.n_decode = 2;
            gpt2_run_step(&r, p, 3, step);
            const float *want[] = {alone[1] + (N / 2 + at) * V, alone[0] + (N / 2 + at) * V,
                                   alone[2] + at * V};
            for (int i = 0; i < 3; i++)
                ck_assert_msg(memcmp(step + i * V, want[i], V * sizeof *step) == 0,
                              "%d threads, position %d, row %d", threads, at, i);
        }
        gpt2_run_close(&r);
    }
}
END_TEST

/* ---- what is loaded ---- */

static int open_with(struct gpt2 **m, const char *dir, const struct gpt2_options *o,
                     struct err *err)
{
    struct compute c = {.k = kernels_scalar()};
    *m = NULL;
    return gpt2_open_with(m, dir, &c, o, err);
}

START_TEST(authors_names)
{
    struct gpt2_options g = {.rates = &rates, .ttm_methods = 1u << TTM_RESIDENT};
    static const char *const prefixes[] = {"", "transformer.", "module.transformer."};
    struct gpt2 *ours, *theirs;
    struct err err = {0};
    struct make_model o = all_ttm;
    o.ttm_no_bias = true;
    ck_assert_msg(!open_with(&ours, made(&o), &g, &err), "%s", err.msg);
    o.ttm_cores = ".ttm.tt.cores.";
    o.prefix = prefixes[_i];
    ck_assert_msg(!open_with(&theirs, made(&o), &g, &err), "%s", err.msg);
    ck_assert_uint_eq(ours->n_params, theirs->n_params);
    ck_assert_ptr_null(theirs->layers[1].c_fc.bias);
    struct ttm_info a, b;
    for (int i = 0; i < 8; i++) {
        ttm_info_get(ours, i, &a);
        ttm_info_get(theirs, i, &b);
        ck_assert_mem_eq(&a, &b, sizeof a);
    }
    gpt2_close(ours);
    gpt2_close(theirs);
}
END_TEST

START_TEST(facts_and_rounding)
{
    struct gpt2_options g = {.rates = &rates};
    struct gpt2 *m;
    struct err err = {0};
    ck_assert_msg(!open_with(&m, made(&all_ttm), &g, &err), "%s", err.msg);
    struct ttm_info t;
    ttm_info_get(m, 2, &t);
    ck_assert_str_eq(t.name, "h.0.mlp.c_fc");
    ck_assert_str_eq(t.shape, "(4,8)(8,8)(1,2)");
    ck_assert_str_eq(t.stored_ranks, "1,6,6,1");
    ck_assert_str_eq(t.ranks, "1,6,2,1"); /* the last core spans 2 */
    ck_assert_uint_eq(t.stored_params, 4 * 8 * 6 + 6 * 64 * 6 + 6 * 2);
    ck_assert_uint_eq(t.params, 4 * 8 * 6 + 6 * 64 * 2 + 2 * 2);
    ck_assert_uint_eq(t.dense_params, 32 * 128);
    ck_assert_int_eq(t.plan_rows[0], 8);
    ck_assert_int_eq(t.plan_rows[1], 256);
    ck_assert(t.seconds[0] > 0 && t.seconds[1] > t.seconds[0]);
    size_t stored = 0, rounded = 0, dense = 0;
    for (int i = 0; i < m->n_ttm; i++) {
        ttm_info_get(m, i, &t);
        stored += t.stored_params, rounded += t.params, dense += t.dense_params;
        ck_assert_uint_lt(t.bytes, 32 * 128 * 4); /* compressed layers stay so by default */
    }
    ck_assert_uint_eq(m->n_params - stored, m->n_params_rounded - rounded);
    ck_assert_uint_eq(m->n_params - stored, m->n_params_dense - dense);
    gpt2_close(m);
}
END_TEST

START_TEST(budget)
{
    const char *dir = made(&all_ttm);
    struct gpt2_options g = {.rates = &rates};
    struct gpt2 *m;
    struct err err = {0};
    ck_assert_int_eq(open_with(&m, dir, &g, &err), 0);
    size_t compressed = m->weight_bytes;
    gpt2_close(m);
    g.memory_budget_bytes = 1u << 30; /* all there is room for */
    ck_assert_int_eq(open_with(&m, dir, &g, &err), 0);
    size_t fastest = m->weight_bytes;
    gpt2_close(m);
    ck_assert_uint_gt(fastest, compressed);
    g.memory_budget_bytes = (compressed + fastest) / 2;
    ck_assert_int_eq(open_with(&m, dir, &g, &err), 0);
    ck_assert_uint_le(m->weight_bytes, g.memory_budget_bytes);
    gpt2_close(m);
    g.memory_budget_bytes = compressed / 2;
    ck_assert_int_eq(open_with(&m, dir, &g, &err), ERR_INVALID);
    ck_assert_str_eq(err.param, "memory_budget_bytes");
    char says[128];
    size_t least, layers, rest;
    snprintf(says, sizeof says, "memory_budget_bytes is %zu, but", g.memory_budget_bytes);
    ck_assert_msg(strstr(err.msg, says) == err.msg, "%s", err.msg);
    ck_assert_int_eq(sscanf(strstr(err.msg, "at least"),
                            "at least %zu: 8 TTM layers %zu, the rest %zu", &least, &layers, &rest),
                     3);
    ck_assert(least == layers + rest && least > g.memory_budget_bytes);
    g.memory_budget_bytes = least; /* which is enough */
    ck_assert_int_eq(open_with(&m, dir, &g, NULL), 0);
    ck_assert_uint_eq(m->weight_bytes, least);
    gpt2_close(m);
    struct err e = {0};
    g.memory_budget_bytes = 100;
    ck_assert_int_eq(open_with(&m, dir, &g, &e), ERR_INVALID);
    ck_assert_str_eq(e.param, "memory_budget_bytes");
    ck_assert_ptr_null(m);
}
END_TEST

/* ---- what is refused ---- */

/* An edit of one tensor of layer 0's c_fc, whose cores are (1,4,8,6) (6,8,8,6) (6,1,2,1). */
static const struct wrong {
    const char *core, *name, *dtype, *shape; /* NULL = as it is; name "" = left out */
    float value;                             /* put at element 3 when not 0 */
    int code;
    const char *says;
} wrongs[] = {
    {"0", "", NULL, NULL, 0, ERR_MISSING, "core 0 of h.0.mlp.c_fc is missing"},
    {"1", "", NULL, NULL, 0, ERR_MISSING, "core 1 of h.0.mlp.c_fc is missing"},
    {"2", "", NULL, NULL, 0, ERR_INVALID, "cores.1 ends with rank 6, expected 1"},
    {"1", "transformer.h.0.mlp.c_fc.ttm.cores.9", NULL, NULL, 0, ERR_INVALID,
     "cores.9: a TTM has cores 0 to 7"},
    {"1", "h.0.mlp.c_fc.ttm.tt.cores.0", NULL, NULL, 0, ERR_INVALID, "are the same core"},
    {"1", "transformer.h.0.mlp.c_fc.ttm.cores.01", NULL, NULL, 0, ERR_MISSING, "core 1 of"},
    {"1", NULL, NULL, "[6, 8, 8, 3, 2]", 0, ERR_INVALID, "has 5 dimensions, expected 4"},
    {"1", NULL, NULL, "[6, 64, 6]", 0, ERR_INVALID, "has 3 dimensions, expected 4"},
    {"1", NULL, NULL, "[3, 8, 16, 6]", 0, ERR_INVALID,
     "begins with rank 3, expected 6, with which transformer.h.0.mlp.c_fc.ttm.cores.0 ends"},
    {"0", NULL, NULL, "[2, 4, 4, 6]", 0, ERR_INVALID, "begins with rank 2, expected 1"},
    {"2", NULL, NULL, "[6, 1, 1, 2]", 0, ERR_INVALID, "ends with rank 2, expected 1"},
    {"2", NULL, NULL, "[6, 2, 1, 1]", 0, ERR_INVALID,
     "output factors multiply to 64 for a dimension of 128"},
    {"1", NULL, NULL, "[6, 64, 1, 6]", 0, ERR_INVALID,
     "input factors multiply to at least 256 for a dimension of 32, expected 32 to 127"},
    {"1", NULL, "I32", NULL, 0, ERR_UNSUPPORTED, "has dtype I32, expected F32, F16 or BF16"},
    {"1", NULL, NULL, NULL, NAN, ERR_INVALID, "cores.1 has a NaN at [0, 0, 0, 3]"},
    {"0", NULL, NULL, NULL, INFINITY, ERR_INVALID, "cores.0 has an infinity at [0, 0, 0, 3]"},
};

static void copy_wrong(struct raw_st *r, const struct st_tensor *t, const void *arg)
{
    const struct wrong *w = arg;
    char name[96], shape[96];
    snprintf(name, sizeof name, "transformer.h.0.mlp.c_fc.ttm.cores.%s", w->core);
    if (strcmp(t->name, name) != 0) {
        raw_copy(r, t->name, t);
        return;
    }
    if (w->name && !*w->name) return;
    float *data = malloc(t->bytes);
    memcpy(data, t->data, t->bytes);
    if (w->value != 0) data[3] = w->value;
    snprintf(shape, sizeof shape, "[%zu, %zu, %zu, %zu]", t->shape[0], t->shape[1], t->shape[2],
             t->shape[3]);
    raw_tensor(r, w->name ? w->name : name, w->dtype ? w->dtype : "F32",
               w->shape ? w->shape : shape, data, t->bytes);
    free(data);
}

START_TEST(refused)
{
    struct gpt2_options g = {.rates = &rates};
    struct gpt2 *m;
    struct err err = {0};
    ck_assert_int_eq(open_with(&m, raw_edited(made(&all_ttm), copy_wrong, &wrongs[_i]), &g, &err),
                     wrongs[_i].code);
    ck_assert_ptr_null(m);
    ck_assert_msg(strstr(err.msg, wrongs[_i].says) != NULL, "\"%s\" has no \"%s\"", err.msg,
                  wrongs[_i].says);
}
END_TEST

static void dense_too(struct raw_st *r, const struct st_tensor *t, const void *arg)
{
    (void)arg;
    static float zeros[32 * 128];
    raw_copy(r, t->name, t);
    if (strcmp(t->name, "transformer.h.1.mlp.c_fc.ttm.cores.0") == 0)
        raw_tensor(r, "h.1.mlp.c_fc.weight", "F32", "[32, 128]", zeros, sizeof zeros);
}

START_TEST(both_kinds_of_weight)
{
    struct gpt2_options g = {.rates = &rates};
    struct gpt2 *m;
    struct err err = {0};
    const char *to = raw_edited(made(&all_ttm), dense_too, NULL);
    ck_assert_int_eq(open_with(&m, to, &g, &err), ERR_INVALID);
    ck_assert_msg(strstr(err.msg, "are both weights of h.1.mlp.c_fc") != NULL, "%s", err.msg);
}
END_TEST

/* ---- loading ---- */

struct reports {
    int n;
    double last;
};

static void note(void *arg, double fraction)
{
    struct reports *r = arg;
    ck_assert(fraction > r->last && fraction <= 1);
    r->last = fraction;
    r->n++;
}

static void poison_last(struct raw_st *r, const struct st_tensor *t, const void *arg)
{
    (void)arg;
    static float x[8 * 8 * 6];
    struct st_tensor copy = *t;
    if (strcmp(t->name, "transformer.h.1.mlp.c_proj.ttm.cores.0") == 0) {
        ck_assert_uint_eq(t->bytes, sizeof x);
        memcpy(x, t->data, sizeof x);
        x[5] = NAN;
        copy.data = x;
    }
    raw_copy(r, t->name, &copy);
}

/* Done is not said before the last TTM layer is made, and on the way to it each is counted. */
START_TEST(progress_counts_ttm_layers)
{
    struct compute c = {.k = kernels_scalar()};
    struct reports r = {0}, bad = {0};
    struct gpt2_options g = {.rates = &rates, .progress = note, .progress_arg = &r};
    struct gpt2 *m;
    struct err err = {0};
    int copies = 4 + 2 * (4 + 4); /* embeddings and ln_f; of each layer norms and biases */
    ck_assert_int_eq(gpt2_open_with(&m, made(&all_ttm), &c, &g, &err), 0);
    ck_assert_int_eq(r.n, copies + 2 * m->n_ttm);
    ck_assert(r.last == 1);
    gpt2_close(m);
    g.progress_arg = &bad;
    ck_assert_int_eq(
        gpt2_open_with(&m, raw_edited(made(&all_ttm), poison_last, NULL), &c, &g, &err),
        ERR_INVALID);
    ck_assert_int_eq(bad.n, r.n - 1);
    ck_assert(bad.last < 1);
    for (int threads = 2; threads <= 3; threads++) {
        r = (struct reports){0};
        g.progress_arg = &r;
        ck_assert_int_eq(pool_new(&c.pool, threads, NULL), 0);
        ck_assert_int_eq(gpt2_open_with(&m, made(&all_ttm), &c, &g, NULL), 0);
        ck_assert(r.last == 1);
        gpt2_close(m);
        pool_free(c.pool);
    }
}
END_TEST

static double rate(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    ck_assert_ptr_nonnull(at);
    return strtod(at + strlen(name), NULL);
}

/* What is measured is what groups are held in. Products of 8-bit numbers take another time than the F32 ones of
 * a rebuild, which are measured beside them then; other types take theirs as one. */
START_TEST(rates_are_those_of_the_type)
{
    static const char *const names[] = {"F32", "I8", "BF16"};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        char machine[64], *path = strdup(path_join(temp_dir(), "rates"));
        struct gpt2_options g = {.dtype = held[i], .rates_file = path};
        struct gpt2 *m;
        struct err err = {0};
        ck_assert_msg(!open_with(&m, made(&all_ttm), &g, &err), "%s", err.msg);
        ck_assert_str_eq(dtype_name(m->ttm_dtype), names[i]);
        gpt2_close(m);
        char *text = read_file(path, NULL);
        snprintf(machine, sizeof machine, " 1 threads, %s\n", names[i]);
        ck_assert_msg(strstr(text, machine) != NULL, "%s", text);
        bool apart = rate(text, "flops_many ") != rate(text, "flops_f32 ");
        ck_assert_msg(apart == (held[i] == GPT2_INT8), "%s", text);
        free(text);
        free(path);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("TTM models");
    TCase *t = tcase_create("TTM models");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, every_way_agrees_with_the_oracle, 0, sizeof ways / sizeof *ways);
    tcase_add_loop_test(t, company, 0, COMPANY_WAYS * (int)(sizeof held / sizeof *held));
    tcase_add_loop_test(t, authors_names, 0, 3);
    tcase_add_test(t, facts_and_rounding);
    tcase_add_test(t, budget);
    tcase_add_loop_test(t, refused, 0, sizeof wrongs / sizeof *wrongs);
    tcase_add_test(t, both_kinds_of_weight);
    tcase_add_test(t, progress_counts_ttm_layers);
    tcase_add_test(t, rates_are_those_of_the_type);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
