/* What a request gets does not depend on who else is there: the logits of a sequence are the same
 * bytes however its prompt is cut into pieces, whoever shares its steps, in whatever order, with any
 * number of threads. */
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/blocks.h"
#include "tests/support/gpt2_run.h"
#include "tests/support/harness.h"
#include "tests/support/make_model.h"

enum { N = 61, V = 101, SEQS = 5, MANY = 8 };

struct row_set {
    float logits[N][V];
};

static const struct make_model model = {
    .seed = 31, .channels = 72, .heads = 3, .n_inner = 150, .positions = 64, .vocab = V};

static const char *model_dir(enum dtype t)
{
    const char *dir = temp_dir();
    struct make_model o = model;
    o.dtype = t;
    make_model(dir, &o);
    return dir;
}

static const struct {
    const char *kernels;
    enum dtype weights, kv;
    enum gpt2_dtype held;
} cases[] = {
    {"scalar", DTYPE_F32, DTYPE_F32, GPT2_AUTO}, {NULL, DTYPE_F32, DTYPE_F32, GPT2_AUTO},
    {NULL, DTYPE_F32, DTYPE_F16, GPT2_AUTO},     {NULL, DTYPE_F16, DTYPE_F32, GPT2_F32},
    {NULL, DTYPE_BF16, DTYPE_F16, GPT2_AUTO},    {"avx2", DTYPE_F32, DTYPE_F16, GPT2_BF16},
    {NULL, DTYPE_F32, DTYPE_F32, GPT2_INT8},     {"scalar", DTYPE_F16, DTYPE_F32, GPT2_INT8},
    {NULL, DTYPE_F32, DTYPE_I8, GPT2_INT8},      {"avx2", DTYPE_F32, DTYPE_I8, GPT2_AUTO}};
#define N_CASES ((int)(sizeof cases / sizeof *cases))

static void open_case(struct gpt2_run *r, const char *dir, int i, int threads, int seqs, int tokens)
{
    const struct gpt2_options o = {.dtype = cases[i].held};
    gpt2_run_open_with(r, dir, &o, threads, cases[i].kernels, cases[i].kv, seqs, tokens);
}

/* The reference: one thread, one sequence, one piece. */
static void alone(const char *dir, int i, uint64_t seed, struct row_set *out)
{
    struct gpt2_run r;
    int32_t ids[N];
    random_tokens(ids, N, V, seed);
    open_case(&r, dir, i, 1, 1, N);
    gpt2_run_logits(&r, 0, ids, N, N, out->logits[0]);
    gpt2_run_close(&r);
}

static bool runs_here(const char *kernels)
{
    struct cpu cpu;
    cpu_detect(&cpu);
    return kernels_choose(&cpu, kernels) != NULL;
}

START_TEST(pieces_and_threads)
{
    if (!runs_here(cases[_i].kernels)) return;
    static const int chunks[] = {1, 2, 7, 8, 9, 16, 17, 33, N};
    struct row_set *want = malloc(sizeof *want), *got = malloc(sizeof *got);
    const char *dir = model_dir(cases[_i].weights);
    int32_t ids[N];
    alone(dir, _i, 1, want);
    random_tokens(ids, N, V, 1);
    for (int threads = 1; threads <= 4; threads++) {
        struct gpt2_run r;
        open_case(&r, dir, _i, threads, 1, N);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            memset(got, 0, sizeof *got);
            gpt2_run_logits(&r, 0, ids, N, chunks[c], got->logits[0]);
            ck_assert_msg(memcmp(want, got, sizeof *want) == 0, "%d threads, pieces of %d", threads,
                          chunks[c]);
        }
        gpt2_run_close(&r);
    }
    free(want);
    free(got);
}
END_TEST

/* A schedule: in every step some sequences prefill a piece and others decode, in changing order. */
struct play {
    struct gpt2_run r;
    int32_t ids[SEQS][N];
    int at[SEQS];
    struct row_set *got; /* (SEQS) */
    uint64_t step;
};

static int decoding_from(int seq)
{
    return 10 + 9 * seq;
}

/* Lay out one step: decoding sequences first, as a step demands; rotated so that places change. */
static int plan_step(struct play *p, struct gpt2_piece *pieces)
{
    int n = 0;
    p->r.n_decode = 0;
    for (int role = 0; role < 2; role++) {
        for (int i = 0; i < SEQS; i++) {
            int s = (int)((p->step + (uint64_t)i) % SEQS);
            bool decodes = p->at[s] >= decoding_from(s);
            if (decodes != (role == 0) || p->at[s] >= N || (p->step + (uint64_t)s) % 4 == 3)
                continue;
            int len = decodes ? 1 : 3 + (int)((p->step * 5 + (uint64_t)s) % 11);
            if (!decodes && len > decoding_from(s) - p->at[s]) len = decoding_from(s) - p->at[s];
            pieces[n++] = (struct gpt2_piece){
                .seq = s, .pos0 = p->at[s], .n = len, .tokens = p->ids[s] + p->at[s]};
            p->r.n_decode += decodes;
        }
    }
    return n;
}

static void play_step(struct play *p)
{
    static float logits[SEQS * N * V];
    struct gpt2_piece pieces[SEQS];
    int n = plan_step(p, pieces), row = 0;
    p->step++;
    if (!n) return;
    gpt2_run_step(&p->r, pieces, n, logits);
    for (int i = 0; i < n; i++) {
        int s = pieces[i].seq;
        memcpy(p->got[s].logits[p->at[s]], logits + row * V,
               (size_t)pieces[i].n * V * sizeof *logits);
        p->at[s] += pieces[i].n;
        row += pieces[i].n;
    }
}

START_TEST(company)
{
    if (!runs_here(cases[_i].kernels)) return;
    struct row_set *want = malloc(sizeof *want);
    const char *dir = model_dir(cases[_i].weights);
    for (int threads = 1; threads <= 3; threads++) {
        struct play p = {.got = calloc(SEQS, sizeof *p.got), .step = (uint64_t)threads};
        for (int s = 0; s < SEQS; s++)
            random_tokens(p.ids[s], N, V, (uint64_t)s);
        open_case(&p.r, dir, _i, threads, SEQS, SEQS * N);
        for (int steps = 0; steps < 400; steps++)
            play_step(&p);
        for (int s = 0; s < SEQS; s++) {
            ck_assert_int_eq(p.at[s], N);
            alone(dir, _i, (uint64_t)s, want);
            ck_assert_msg(memcmp(want, &p.got[s], sizeof *want) == 0, "sequence %d, %d threads", s,
                          threads);
        }
        gpt2_run_close(&p.r);
        free(p.got);
    }
    free(want);
}
END_TEST

static void look_away(void *arg, int layer, const char *what, const float *data, size_t rows,
                      size_t cols)
{
    (void)what, (void)data, (void)rows, (void)cols;
    *(int *)arg += layer >= 0;
}

/* Many rows of 8-bit layers go block by block where nobody looks on, else layer by layer; where some of a
 * layer's matrices are no such ones, in part. */
static const struct {
    enum gpt2_dtype held;
    const char *c_attn, *c_fc; /* as TTM */
} in_blocks[] = {
    {GPT2_INT8, NULL, NULL},
    {GPT2_INT8, NULL, "(8,10)(9,15)"},
    {GPT2_INT8, "(8,12)(9,18)", NULL},
    {GPT2_F32, NULL, NULL},
};
#define BLOCK_CASES ((int)(sizeof in_blocks / sizeof *in_blocks))

static void compare_ways(struct gpt2_run *r, const struct gpt2_piece *p, int seqs, int rows)
{
    static float logits[2][MANY * N * V];
    int looks = 0;
    gpt2_run_step(r, p, seqs, logits[0]);
    r->tap = look_away;
    r->tap_arg = &looks;
    gpt2_run_step(r, p, seqs, logits[1]);
    r->tap = NULL;
    ck_assert_int_gt(looks, 0);
    ck_assert_msg(!memcmp(logits[0], logits[1], (size_t)rows * V * sizeof(float)), "%d rows", rows);
}

START_TEST(blocks_and_layers)
{
    struct make_model o = model;
    const char *dir = temp_dir();
    struct gpt2_piece p[MANY];
    int32_t ids[MANY][N];
    int counted = 0;
    o.ttm[0] = in_blocks[_i].c_attn;
    o.ttm[2] = in_blocks[_i].c_fc;
    make_model(dir, &o);
    for (int s = 0; s < MANY; s++)
        random_tokens(ids[s], N, V, (uint64_t)s);
    for (int run = 0; run < 15; run++) {
        /* sequences of few rows, first of all; so many that blocks begin within one */
        static const int few[][MANY] = {{0}, {5, 1}, {7, 7, 7, 7, 7, 7, 7}};
        int threads = 1 + run / 3;
        struct gpt2_run r;
        const struct gpt2_options how = {.dtype = in_blocks[_i].held};
        gpt2_run_open_with(&r, dir, &how, threads, NULL, DTYPE_I8, MANY, MANY * N);
        for (int seqs = 1, rows = 0; seqs <= MANY; seqs++) {
            for (int s = 0; s < seqs; s++) /* with keys that are not in the store yet */
                p[s] = (struct gpt2_piece){.seq = s,
                                           .n = few[run % 3][s] ? few[run % 3][s] : N - s,
                                           .tokens = ids[(s + seqs) % MANY]};
            rows += p[seqs - 1].n;
            compare_ways(&r, p, seqs, rows);
            counted += blocks_count(r.m, (size_t)rows, threads) > 0;
        }
        gpt2_run_close(&r);
    }
    ck_assert_int_eq(counted > 20, in_blocks[_i].held == GPT2_INT8);
}
END_TEST

START_TEST(order_of_sequences)
{
    static float logits[2][SEQS * 20 * V];
    const char *dir = model_dir(DTYPE_F32);
    struct gpt2_run r;
    struct gpt2_piece p[SEQS], q[SEQS];
    int32_t ids[SEQS][20];
    gpt2_run_open(&r, dir, 2, NULL, DTYPE_F32, SEQS, SEQS * 20);
    for (int s = 0; s < SEQS; s++) {
        random_tokens(ids[s], 20, V, (uint64_t)s);
        p[s] = (struct gpt2_piece){.seq = s, .n = 20, .tokens = ids[s]};
        q[SEQS - 1 - s] = p[s];
    }
    gpt2_run_step(&r, p, SEQS, logits[0]);
    gpt2_run_step(&r, q, SEQS, logits[1]);
    for (int s = 0; s < SEQS; s++)
        ck_assert_int_eq(memcmp(logits[0] + s * 20 * V, logits[1] + (SEQS - 1 - s) * 20 * V,
                                20 * V * sizeof(float)),
                         0);
    gpt2_run_close(&r);
}
END_TEST

START_TEST(logits_of_chosen_rows)
{
    const char *dir = model_dir(DTYPE_F32);
    static const int32_t rows[] = {60, 0, 7, 7, 33};
    struct row_set *all = malloc(sizeof *all);
    float some[5][V];
    struct gpt2_run r;
    int32_t ids[N];
    random_tokens(ids, N, V, 1);
    const struct gpt2_options o = {.dtype = _i ? GPT2_INT8 : GPT2_AUTO};
    gpt2_run_open_with(&r, dir, &o, 2, NULL, DTYPE_F32, 1, N);
    gpt2_run_logits(&r, 0, ids, N, N, all->logits[0]);
    gpt2_logits(r.m, &r.c, r.hidden, rows, 5, some[0], r.logits_scratch);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(memcmp(some[i], all->logits[rows[i]], sizeof some[i]), 0);
    gpt2_logits(r.m, &r.c, r.hidden, NULL, 0, NULL, r.logits_scratch);
    gpt2_run_close(&r);
    free(all);
}
END_TEST

START_TEST(empty_step)
{
    const char *dir = model_dir(DTYPE_F32);
    struct gpt2_run r;
    gpt2_run_open(&r, dir, 2, NULL, DTYPE_F32, 1, 1);
    gpt2_run_step(&r, NULL, 0, NULL);
    gpt2_run_close(&r);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("invariance");
    TCase *t = tcase_create("invariance");
    tcase_set_timeout(t, 240);
    tcase_add_loop_test(t, pieces_and_threads, 0, N_CASES);
    tcase_add_loop_test(t, company, 0, N_CASES);
    tcase_add_loop_test(t, blocks_and_layers, 0, BLOCK_CASES);
    tcase_add_test(t, order_of_sequences);
    tcase_add_loop_test(t, logits_of_chosen_rows, 0, 2);
    tcase_add_test(t, empty_step);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
