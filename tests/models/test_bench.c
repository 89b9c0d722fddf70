/* ttm bench on a tiny model: every figure is there, positive, and the ratios are those of the figures
 * they are said to be made of. How fast it is, is no matter for a test. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/bench.h"
#include "models/checkpoint.h"
#include "tests/support/harness.h"
#include "tests/support/tool_call.h"

static double number(const json_t *j, const char *object, const char *key)
{
    const json_t *v = json_object_get(object ? json_object_get(j, object) : j, key);
    ck_assert_msg(json_is_number(v), "%s", key);
    ck_assert_msg(isfinite(json_number_value(v)) && json_number_value(v) > 0, "%s", key);
    return json_number_value(v);
}

START_TEST(measures_all_points)
{
    struct tool_result r;
    json_error_t e;
    const char *dir = path_join(temp_dir(), "m");
    TOOL(&r, cmd_init, "-o", dir, "--positions", "200");
    ck_assert_int_eq(r.rc, 0);
    tool_result_release(&r);
    TOOL(&r, cmd_bench, dir, "--json", "--rounds", "1", "--threads", "2");
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    json_t *j = json_loads(r.out, JSON_REJECT_DUPLICATES, &e);
    ck_assert_msg(j != NULL, "%s: %s", e.text, r.out);
    double one = 0, last = 0, prefill = 0, cold = 0;
    size_t i;
    json_t *p;
    const json_t *rates = json_object_get(j, "rates");
    ck_assert_uint_eq(json_array_size(rates),
                      9); /* 128 and 200 tokens; 1, 2, 4, ... 32 sequences, 1 with cold caches */
    json_array_foreach(rates, i, p)
    {
        double rate = number(p, NULL, "tokens_per_s"), size = number(p, NULL, "size");
        const char *kind = json_string_value(json_object_get(p, "kind"));
        bool decode = !strcmp(kind, "decode");
        if (!strcmp(kind, "decode_cold")) cold = rate;
        if (decode && size < 1.5) one = rate;
        if (decode && size > 31) last = rate;
        if (!strcmp(kind, "prefill") && size > 199) prefill = rate;
    }
    struct gpt2_config tiny = {.n_layer = 2,
                               .n_embd = 64,
                               .n_head = 4,
                               .n_positions = 200,
                               .vocab_size = 512,
                               .n_inner = 256};
    double params = (double)checkpoint_params(&tiny, false), kv = 2 * 2 * 64 * 128 * 2; /* halves */
    assert_close(number(j, NULL, "params"), params, 0, 0);
    assert_close(number(j, NULL, "decode_step_bytes"), 4 * (params - 200 * 64) + kv, 0, 1e-6);
    assert_close(number(j, NULL, "token_flops"), 2.0 * 2 * 12 * 64 * 64, 0, 0);
    assert_close(number(j, "ratios", "decode_32_over_1"), last / one, 1e-3, 1e-3);
    assert_close(number(j, "ratios", "decode_1_of_memory_read"),
                 one * number(j, NULL, "decode_step_bytes") /
                     number(j, "limits", "memory_read_bytes_per_s"),
                 1e-3, 1e-3);
    assert_close(number(j, "ratios", "decode_cold_of_memory_read"),
                 cold * number(j, NULL, "decode_step_bytes") /
                     number(j, "limits", "memory_read_bytes_per_s"),
                 1e-3, 1e-3);
    assert_close(number(j, "ratios", "prefill_of_sgemm_openblas"),
                 prefill * number(j, NULL, "token_flops") /
                     number(j, "limits", "sgemm_openblas_flops"),
                 1e-3, 1e-3);
    ck_assert(number(j, NULL, "read_buffer_bytes") > 1e6);
    json_decref(j);
    tool_result_release(&r);
}
END_TEST

/* A new model with TTM layers, in the test's directory. */
static const char *ttm_model(void)
{
    struct tool_result r;
    const char *dir = path_join(temp_dir(), "m");
    TOOL(&r, cmd_init, "-o", dir, "--ttm-rank", "16");
    ck_assert_int_eq(r.rc, 0);
    tool_result_release(&r);
    return dir;
}

/* What `ttm bench --ttm --json` says of it; the caller's. */
static json_t *bench_ttm(const char *dir, const char *dtype)
{
    struct tool_result r;
    TOOL(&r, cmd_bench, dir, "--ttm", "--json", "--rounds", "1", "--dtype", dtype);
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    json_t *j = json_loads(r.out, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(j);
    tool_result_release(&r);
    return j;
}

/* Every candidate, the dense layer and the chain of stored cores at every number of rows. */
START_TEST(ways_of_ttm_layers)
{
    struct tool_result r;
    const char *dir = ttm_model();
    json_t *j = bench_ttm(dir, "auto"), *kind, *way;
    size_t i, k, n;
    json_array_foreach(json_object_get(j, "kinds"), i, kind)
    {
        const json_t *ways = json_object_get(kind, "ways");
        ck_assert_uint_ge(json_array_size(ways), 5);
        ck_assert_str_eq(json_string_value(json_object_get(json_array_get(ways, 0), "way")),
                         "dense layer");
        ck_assert_str_eq(json_string_value(json_object_get(json_array_get(ways, 1), "way")),
                         "stored cores, left to right");
        json_array_foreach(ways, k, way) for (n = 0; n < 8; n++)
        {
            ck_assert(json_number_value(json_array_get(json_object_get(way, "measured_us"), n)) >
                      0);
            ck_assert(json_number_value(json_array_get(json_object_get(way, "predicted_us"), n)) >
                      0);
        }
        const json_t *any = json_object_get(kind, "any_memory");
        ck_assert_uint_eq(json_array_size(any), 8);
        for (n = 0; n < 8; n++)
            ck_assert(number(json_array_get(any, n), NULL, "ratio") >= 1);
    }
    ck_assert_uint_eq(i, 2);
    json_decref(j);
    TOOL(&r, cmd_bench, dir, "--ttm", "--rounds", "1");
    ck_assert_int_eq(r.rc, 0);
    ck_assert_ptr_nonnull(strstr(r.out, "chosen, any memory"));
    tool_result_release(&r);
    const char *dense = path_join(temp_dir(), "d");
    TOOL(&r, cmd_init, "-o", dense);
    tool_result_release(&r);
    TOOL(&r, cmd_bench, dense, "--ttm");
    ck_assert_int_eq(r.rc, ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(r.err.msg, "has no TTM layer that can be used"));
    tool_result_release(&r);
}
END_TEST

/* What is smaller than dense in f32 may not be in the number format that is held. */
START_TEST(smaller_than_dense_in_its_format)
{
    json_t *j = bench_ttm(ttm_model(), "int8"), *kind, *at;
    size_t i, k, refused = 0;
    json_array_foreach(json_object_get(j, "kinds"), i, kind)
    {
        const json_t *ways = json_object_get(kind, "ways");
        double dense = number(json_array_get(ways, 0), NULL, "bytes");
        for (k = 2; k < json_array_size(ways); k++)
            refused += number(json_array_get(ways, k), NULL, "bytes") >= dense;
        json_array_foreach(json_object_get(kind, "compressed"), k, at)
        {
            static const char *const which[] = {"chosen", "best"};
            for (int n = 0; n < 2; n++) {
                json_int_t way = json_integer_value(json_object_get(at, which[n]));
                const json_t *w = json_array_get(ways, (size_t)way);
                ck_assert(number(w, NULL, "bytes") < dense);
            }
        }
    }
    ck_assert_uint_gt(refused, 0); /* there is something to leave out */
    json_decref(j);
}
END_TEST

#define TRAIN_TINY                                                                                \
    "--train", "--rounds", "1", "--threads", "2", "--layers", "1", "--channels", "32", "--heads", \
        "2", "--block", "16", "--vocab", "100", "--batch", "2", "--ttm-rank", "4", "--tokens",    \
        "256"

START_TEST(steps_of_training)
{
    struct tool_result r;
    TOOL(&r, cmd_bench, TRAIN_TINY, "--json");
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    json_t *j = json_loads(r.out, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_msg(j != NULL, "%s", r.out);
    assert_close(number(j, "layer", "rows_bytes"), 2.0 * 256 * (768 + 2304) * 4, 0, 0);
    ck_assert(number(j, "layer", "scratch_bytes") < 16 << 20);
    ck_assert(number(j, "layer", "peak_bytes") > number(j, "layer", "rows_bytes") / 2);
    assert_close(number(j, "layer", "peak_over_rows"),
                 number(j, "layer", "peak_bytes") / number(j, "layer", "rows_bytes"), 1e-3, 0);
    double n = 100 * 32 + 12 * 32 * 32, rate = number(j, "dense", "tokens_per_s");
    assert_close(number(j, NULL, "token_flops"), 6 * n, 0, 0);
    assert_close(number(j, "dense", "params"), n + 16 * 32 + 13 * 32 + 2 * 32, 0, 0);
    assert_close(number(j, "dense", "mlp_params"), 8 * 32 * 32, 0, 0);
    ck_assert(number(j, "ttm", "mlp_params") < 8 * 32 * 32);
    assert_close(number(j, "ratios", "dense_of_sgemm"),
                 rate * 6 * n / number(j, NULL, "sgemm_openblas_flops"), 1e-4, 1e-3);
    assert_close(number(j, "ratios", "ttm_over_dense"), number(j, "ttm", "tokens_per_s") / rate,
                 1e-3, 1e-3);
    json_decref(j);
    tool_result_release(&r);
    TOOL(&r, cmd_bench, TRAIN_TINY);
    ck_assert_int_eq(r.rc, 0);
    ck_assert_ptr_nonnull(strstr(r.out, "peak of resident memory"));
    ck_assert_ptr_nonnull(strstr(r.out, "ranks 1,4,"));
    tool_result_release(&r);
    static const struct {
        const char *flag, *value, *says;
    } bad[] = {{"--layer", "(8,8", "--layer"},
               {"--ttm-shape", "(2,2)", "c_fc"},
               {"--heads", "3", "--heads"},
               {"--kernels", "mmx", "--kernels: \"mmx\""}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        TOOL(&r, cmd_bench, TRAIN_TINY, bad[i].flag, bad[i].value);
        ck_assert_int_eq(r.rc, ERR_INVALID);
        ck_assert_msg(strstr(r.err.msg, bad[i].says) != NULL, "%s", r.err.msg);
        tool_result_release(&r);
    }
}
END_TEST

START_TEST(medians)
{
    struct bench_result r = {.rounds = 4};
    struct bench_point a = {.rate = {8, 1, 4, 2, 999}}, b = {.rate = {4, 1, 1, 4}};
    assert_close(bench_median(&r, &a, NULL), 3, 0, 0);
    assert_close(bench_median(&r, &a, &b), 1.5, 0, 0); /* of 2, 1, 4, 0.5 */
    r.rounds = 3;
    assert_close(bench_median(&r, &a, NULL), 4, 0, 0);
}
END_TEST

START_TEST(refuses_by_name)
{
    struct tool_result r;
    const char *dir = temp_dir();
    TOOL(&r, cmd_bench, dir);
    ck_assert_int_lt(r.rc, 0);
    ck_assert_ptr_nonnull(strstr(r.err.msg, dir));
    tool_result_release(&r);
    TOOL(&r, cmd_bench, dir, "--kernels", "mmx");
    ck_assert_int_eq(r.rc, ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(r.err.msg, "--kernels: \"mmx\""));
    tool_result_release(&r);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("bench");
    TCase *t = tcase_create("bench");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, medians);
    tcase_add_test(t, refuses_by_name);
    tcase_add_test(t, measures_all_points);
    tcase_add_test(t, ways_of_ttm_layers);
    tcase_add_test(t, smaller_than_dense_in_its_format);
    tcase_add_test(t, steps_of_training);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
