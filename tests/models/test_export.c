/* ttm export and ttm round: the same function in another form, nothing else touched, and no output
 * directory after a failure. */
#include <jansson.h>

#include "tests/models/rewrite_testing.h"
#include "tests/support/raw_st.h"

#define SHAPES                                                    \
    {                                                             \
        "(4,24)(8,4)", "(8,8)(4,4)", "(4,16)(8,8)", "(16,4)(8,9)" \
    }

/* Perplexity of a made-up text: what the model computes. */
static double nll(const char *dir)
{
    const char *text = path_join(temp_dir(), "text");
    write_file(text, "the quick brown fox jumps over the lazy dog", 43);
    char *out = RUN(cmd_eval, dir, "--text", text, "--json", "--threads", "1");
    json_t *j = json_loads(out, 0, NULL);
    double v = json_number_value(json_object_get(j, "nll_mean"));
    ck_assert(v > 0);
    json_decref(j);
    free(out);
    return v;
}

static const struct {
    const char *prefix, *cores;
    enum dtype dtype;
    bool no_bias, untied;
    int shards;
} models[] = {
    {"transformer.", NULL, DTYPE_F32, false, false, 0},
    {"", ".ttm.tt.cores.", DTYPE_F32, true, false, 0},
    {"module.transformer.", ".ttm.tt.cores.", DTYPE_F32, false, true, 0},
    {"transformer.", NULL, DTYPE_BF16, false, false, 0},
    {"transformer.", NULL, DTYPE_F32, false, false, 3},
};

static const char *ttm_model(int i)
{
    return new_model("ttm", (struct make_model){.ttm = SHAPES,
                                                .ttm_rank = 9,
                                                .prefix = models[i].prefix,
                                                .ttm_cores = models[i].cores,
                                                .dtype = models[i].dtype,
                                                .ttm_no_bias = models[i].no_bias,
                                                .untied = models[i].untied,
                                                .shards = models[i].shards});
}

START_TEST(exported_is_the_same_model)
{
    const char *from = ttm_model(_i), *out = path_join(temp_dir(), "out");
    struct layers a, b;
    free(RUN(cmd_export, from, "-o", out, "--dtype", "f32"));
    open_layers(&a, from);
    open_layers(&b, out);
    for (size_t i = 0; i < b.n; i++) {
        ck_assert_ptr_nonnull(b.layer[i].weight);
        ck_assert_str_eq(a.layer[i].prefix, b.layer[i].prefix);
        ck_assert(b.layer[i].has_bias);
        ck_assert(layer_distance(&b, &a, i) < 1e-7);
    }
    ck_assert_uint_eq(st_count(b.set), (size_t)(2 + 2 * 12 + 2 + models[_i].untied));
    if (models[_i].dtype == DTYPE_F32) same_others(&a, &b);
    ck_assert(same_file(from, out, "tokenizer.json"));
    layers_close(&a);
    layers_close(&b);
    assert_close(nll(out), nll(from), 2e-5, 0);
}
END_TEST

START_TEST(rounded_is_the_same_model)
{
    const char *from = ttm_model(_i), *out = path_join(temp_dir(), "out");
    const char *again = path_join(temp_dir(), "again");
    struct layers a, b;
    free(RUN(cmd_round, from, "-o", out));
    open_layers(&a, from);
    open_layers(&b, out);
    double tolerance = models[_i].dtype == DTYPE_F32 ? 1e-6 : 2e-2;
    for (size_t i = 0; i < b.n; i++) {
        struct ttm_shape cap = a.layer[i].ttm.shape;
        ttm_shape_cap_exact(&cap);
        ck_assert_mem_eq(&cap, &b.layer[i].ttm.shape, sizeof cap);
        ck_assert(layer_distance(&b, &a, i) < tolerance);
        char name[96];
        snprintf(name, sizeof name, "%s.ttm.cores.0", a.layer[i].prefix);
        if (cap.r[1] < 9) ck_assert_ptr_nonnull(st_find(b.set, name));
        ck_assert_int_eq(layers_dtype(&b.layer[i]), models[_i].dtype);
    }
    same_others(&a, &b);
    ck_assert(same_file(from, out, "config.json"));
    layers_close(&a);
    layers_close(&b);
    assert_close(nll(out), nll(from), tolerance, 0);
    free(RUN(cmd_round, out, "-o", again)); /* nothing is left to do: not a bit changes */
    if (models[_i].cores == NULL) ck_assert(same_file(out, again, "model.safetensors"));
}
END_TEST

START_TEST(rounding_reports_what_it_does)
{
    struct make_model m = {.ttm = {NULL, NULL, "(4,16)(8,8)", NULL}, .ttm_rank = 90};
    const char *from = new_model("ttm", m), *out = path_join(temp_dir(), "out");
    char *text = RUN(cmd_round, from, "-o", out);
    ck_assert_ptr_nonnull(strstr(text, "1,90,1"));
    ck_assert_ptr_nonnull(strstr(text, "1,64,1"));
    ck_assert_ptr_nonnull(strstr(text, "2 layers      16384 parameters, were 23040"));
    free(text);
    text = RUN(cmd_round, from, "-o", out, "--error", "0.3", "--force");
    struct layers a, b;
    open_layers(&a, from);
    open_layers(&b, out);
    for (size_t i = 2; i < 8; i += 4) {
        double lost = layer_distance(&b, &a, i);
        ck_assert(lost <= 0.3 && lost > 0.2);
        char error[32];
        snprintf(error, sizeof error, "%9.6f\n", lost);
        ck_assert_msg(strstr(text, error) != NULL, "%s is not in\n%s", error, text);
        ck_assert_int_lt(b.layer[i].ttm.shape.r[1], 64);
    }
    layers_close(&a);
    layers_close(&b);
    free(text);
}
END_TEST

/* Tensors that are nobody's business, of types that the tools do not compute with. */
START_TEST(masks_are_carried_along)
{
    const char *dir = ttm_model(0), *out = path_join(temp_dir(), "out");
    static const unsigned char mask[9] = {1, 0, 0, 1, 1, 0, 1, 1, 1};
    static const double old[1] = {-1e4};
    struct raw_st r = {0};
    struct layers a, b;
    open_layers(&a, dir);
    raw_tensor(&r, "transformer.h.0.attn.bias", "BOOL", "[1,1,3,3]", mask, sizeof mask);
    for (size_t i = 0; i < st_count(a.set); i++)
        raw_copy(&r, st_at(a.set, i)->name, st_at(a.set, i));
    raw_tensor(&r, "transformer.h.0.attn.masked_bias", "F64", "[]", old, sizeof old);
    layers_close(&a);
    raw_write(&r, path_join(dir, "model.safetensors"));
    free(RUN(cmd_round, dir, "-o", out));
    open_layers(&a, dir);
    open_layers(&b, out);
    same_others(&a, &b);
    same_others(&b, &a);
    layers_close(&b);
    layers_close(&a);
    free(RUN(cmd_export, dir, "-o", out, "--dtype", "f16", "--force"));
    open_layers(&b, out);
    ck_assert_int_eq(st_find(b.set, "transformer.h.0.attn.bias")->dtype, DTYPE_BOOL);
    ck_assert_int_eq(st_find(b.set, "transformer.h.0.attn.masked_bias")->dtype, DTYPE_F16);
    ck_assert_int_eq(st_find(b.set, "transformer.wte.weight")->dtype, DTYPE_F16);
    layers_close(&b);
    char *config = read_file(path_join(out, "config.json"), NULL);
    ck_assert_ptr_nonnull(strstr(config, "\"float16\""));
    free(config);
}
END_TEST

START_TEST(values_that_a_file_cannot_hold)
{
    struct make_model m = {.ttm = {NULL, NULL, "(4,16)(8,8)", NULL}};
    const char *dir = new_model("m", m), *top = temp_dir(), *out = path_join(top, "out");
    struct layers l;
    struct raw_st r = {0};
    float core[192] = {[7] = NAN};
    open_layers(&l, dir);
    for (size_t i = 0; i < st_count(l.set); i++)
        if (strcmp(st_at(l.set, i)->name, "transformer.h.1.mlp.c_fc.ttm.cores.0") != 0)
            raw_copy(&r, st_at(l.set, i)->name, st_at(l.set, i));
    layers_close(&l);
    struct raw_st huge = {0};
    buf_append(&huge.header, r.header.data, r.header.len);
    buf_append(&huge.data, r.data.data, r.data.len);
    raw_tensor(&r, "transformer.h.1.mlp.c_fc.ttm.cores.0", "F32", "[1,4,16,3]", core, sizeof core);
    raw_write(&r, path_join(dir, "model.safetensors"));
    const char *nan = "transformer.h.1.mlp.c_fc.ttm.cores.0 has a NaN at [0, 0, 2, 1]";
    REFUSED(cmd_export, nan, dir, "-o", out);
    REFUSED(cmd_round, nan, dir, "-o", out, "--error", "0.1");
    core[7] = 1e9f;
    raw_tensor(&huge, "transformer.h.1.mlp.c_fc.ttm.cores.0", "F32", "[1,4,16,3]", core,
               sizeof core);
    raw_write(&huge, path_join(dir, "model.safetensors"));
    REFUSED(cmd_export, "tensor transformer.h.1.mlp.c_fc.weight has the value", dir, "-o", out,
            "--dtype", "f16");
    ck_assert_int_eq(tool_entries(top), 0);
    free(RUN(cmd_export, dir, "-o", out, "--dtype", "bf16"));
}
END_TEST

START_TEST(bad_flags)
{
    const char *dense = new_model("m", (struct make_model){0}), *out = path_join(temp_dir(), "out");
    REFUSED(cmd_export, "--out is missing", dense);
    REFUSED(cmd_round, "--out is missing", dense);
    REFUSED(cmd_round, "has no Tensor-Train layers", dense, "-o", out);
    REFUSED(cmd_round, "--error: 1.5 is outside 0..1", dense, "-o", out, "--error", "1.5");
    REFUSED(cmd_export, "--dtype: \"int8\" is not one of", dense, "-o", out, "--dtype", "int8");
    REFUSED(cmd_export, "exists and is not empty", dense, "-o", dense);
    REFUSED(cmd_export, "/nonexistent", "/nonexistent/model", "-o", out);
    free(RUN(cmd_export, dense, "-o", out)); /* dense already: a copy */
    ck_assert(same_file(dense, out, "config.json"));
}
END_TEST

/* A gigabyte: time enough to interrupt. */
START_TEST(an_interrupt_leaves_nothing)
{
    const char *from = path_join(temp_dir(), "from"), *top = temp_dir();
    const char *out = path_join(top, "out");
    struct tool_result r;
    free(RUN(cmd_init, "--layers", "2", "--channels", "1024", "--vocab", "50000", "-o", from,
             "--ttm-rank", "8"));
    tool_process((const char *const[]){build_path("ttm"), "export", from, "-o", out, NULL}, top,
                 &r);
    ck_assert_msg(r.rc == 130, "status %d: %s", r.rc, r.log);
    ck_assert_int_eq(tool_entries(top), 0);
    tool_result_release(&r);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("export");
    TCase *t = tcase_create("export");
    int n = (int)(sizeof models / sizeof *models);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, exported_is_the_same_model, 0, n);
    tcase_add_loop_test(t, rounded_is_the_same_model, 0, n);
    tcase_add_test(t, rounding_reports_what_it_does);
    tcase_add_test(t, masks_are_carried_along);
    tcase_add_test(t, values_that_a_file_cannot_hold);
    tcase_add_test(t, bad_flags);
    tcase_add_test(t, an_interrupt_leaves_nothing);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
