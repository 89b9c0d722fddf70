/* The engine against the oracle on random models: every size odd that may be odd, every dtype,
 * activation and attention option, shards and prefixes, both KV element types, all kernels. */
#include <math.h>
#include <stdlib.h>

#include "tests/support/gpt2_run.h"
#include "tests/support/harness.h"
#include "tests/support/make_model.h"
#include "tests/support/naive_gpt2.h"

/* Logits of n random tokens, in pieces of `chunk`, within tol of the oracle's. */
static void compare(const char *dir, const char *kernels, enum dtype kv, int n, int chunk,
                    double tol)
{
    struct gpt2_run r;
    struct naive_gpt2 *oracle = naive_open(dir);
    size_t v = (size_t)naive_config(oracle)->vocab_size;
    int32_t *tokens = malloc((size_t)n * sizeof *tokens);
    float *got = malloc((size_t)n * v * sizeof *got), *want = malloc((size_t)n * v * sizeof *want);
    random_tokens(tokens, n, (int)v, 5);
    naive_logits(oracle, tokens, n, want, NULL, NULL);
    gpt2_run_open(&r, dir, 2, kernels, kv, 1, n);
    gpt2_run_logits(&r, 0, tokens, n, chunk, got);
    double worst = 0;
    for (size_t i = 0; i < (size_t)n * v; i++) {
        double d = fabs((double)got[i] - want[i]);
        worst = d <= worst ? worst : d; /* a NaN stays */
    }
    ck_assert_msg(worst <= tol, "%s, chunks of %d: worst difference %g, tolerance %g", r.c.k->name,
                  chunk, worst, tol);
    gpt2_run_close(&r);
    naive_free(oracle);
    free(tokens);
    free(got);
    free(want);
}

static const struct make_model models[] = {
    {.seed = 1},
    {.seed = 2, .channels = 60, .heads = 3, .n_inner = 100, .vocab = 33, .activation = "gelu"},
    {.seed = 3, .channels = 48, .heads = 3, .n_inner = 1, .dtype = DTYPE_F16, .untied = true},
    {.seed = 4, .channels = 8, .heads = 1, .layers = 5, .dtype = DTYPE_BF16, .activation = "relu"},
    {.seed = 5, .channels = 20, .heads = 1, .positions = 37, .vocab = 1, .inverse_layer = true},
    {.seed = 6, .channels = 34, .heads = 2, .no_scale = true, .std = 0.1, .vocab = 65},
    {.seed = 7, .channels = 7, .heads = 7, .layers = 3, .no_scale = true, .inverse_layer = true},
    {.seed = 8, .channels = 160, .heads = 2, .layers = 1, .prefix = "", .shards = 3},
    {.seed = 9, .channels = 32, .prefix = "module.", .shards = 1, .n_inner = 131},
    {.seed = 10, .prefix = "module.transformer.", .activation = "gelu_pytorch_tanh"},
    {.seed = 11, .prefix = "transformer.module.", .untied = true, .dtype = DTYPE_BF16},
    {.seed = 12, .channels = 1, .heads = 1, .layers = 1, .positions = 40, .std = 0.5},
    {.seed = 13, .ttm = {NULL, NULL, "(4,8)(8,16)", "(16,8)(8,4)"}, .ttm_rank = 12},
    {.seed = 14, .ttm = {"(2,6)(4,4)(4,4)", "(32,32)", "(3,5)(11,26)", "(5,3)(26,11)"}},
    {.seed = 15, .dtype = DTYPE_BF16, .ttm = {NULL, NULL, "(2,2)(2,4)(2,1)(4,16)"}, .ttm_rank = 2},
    {.seed = 16, .dtype = DTYPE_F16, .ttm = {[3] = "(128,1)(1,32)"}, .ttm_no_bias = true},
};
#define N_MODELS ((int)(sizeof models / sizeof *models))

START_TEST(agrees_with_the_oracle)
{
    static const char *const kernels[] = {"scalar", NULL, "avx2"};
    struct cpu cpu;
    cpu_detect(&cpu);
    const char *dir = temp_dir();
    make_model(dir, &models[_i]);
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++) {
        if (!kernels_choose(&cpu, kernels[k])) continue;
        compare(dir, kernels[k], DTYPE_F32, 37, 37, 1e-4);
        compare(dir, kernels[k], DTYPE_F32, 37, 5, 1e-4);
        compare(dir, kernels[k], DTYPE_F32, 19, 1, 1e-4);
    }
}
END_TEST

START_TEST(smaller_caches)
{
    const char *dir = temp_dir();
    make_model(dir, &models[_i]);
    compare(dir, NULL, DTYPE_I8, 37, 37, 1e-1);
    compare(dir, NULL, DTYPE_I8, 37, 4, 1e-1);
    compare(dir, "scalar", DTYPE_I8, 18, 1, 1e-1);
    compare(dir, NULL, DTYPE_F16, 37, 37, 3e-2);
    compare(dir, NULL, DTYPE_F16, 37, 4, 3e-2);
    compare(dir, "scalar", DTYPE_F16, 18, 1, 3e-2);
}
END_TEST

START_TEST(long_context)
{
    const char *dir = temp_dir();
    make_model(dir, &(struct make_model){.positions = 300, .channels = 48, .heads = 3, .seed = 20});
    compare(dir, NULL, DTYPE_F32, 300, 300, 1e-4);
    compare(dir, NULL, DTYPE_F32, 300, 7, 1e-4);
}
END_TEST

/* Its sums of 8-bit values would not fit. */
START_TEST(a_store_of_int8_has_a_limit)
{
    struct gpt2_config cfg = {
        .n_layer = 1, .n_head = 1, .n_embd = 8, .n_positions = INT8_MAX_POSITIONS};
    struct kv_store kv;
    struct err err = {0}, other = {0};
    ck_assert_int_eq(kv_store_init(&kv, &cfg, DTYPE_I8, 1, &err), 0);
    kv_store_release(&kv);
    cfg.n_positions++;
    ck_assert_int_eq(kv_store_init(&kv, &cfg, DTYPE_F16, 1, &err), 0);
    kv_store_release(&kv);
    ck_assert_int_eq(kv_store_init(&kv, &cfg, DTYPE_I8, 1, &err), ERR_UNSUPPORTED);
    ck_assert_str_eq(err.msg, "KV cache of I8 for 131073 positions, expected at most 131072");
    ck_assert_int_eq(kv_store_init(&kv, &cfg, DTYPE_BF16, 1, &other), ERR_UNSUPPORTED);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("forward");
    TCase *t = tcase_create("forward");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, a_store_of_int8_has_a_limit);
    tcase_add_loop_test(t, agrees_with_the_oracle, 0, N_MODELS);
    tcase_add_loop_test(t, smaller_caches, 0, 3);
    tcase_add_test(t, long_context);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
