/* ttm quantize: the file holds what loading in 8 bits makes of the model, to the last bit of an answer;
 * what does not become 8 bits is not touched; a damaged file is refused by name. */
#include <jansson.h>

#include "tests/models/rewrite_testing.h"
#include "tests/support/raw_st.h"

static double nll(const char *dir, const char *dtype)
{
    const char *text = path_join(temp_dir(), "text");
    write_file(text, "the quick brown fox jumps over the lazy dog", 43);
    char *out = RUN(cmd_eval, dir, "--text", text, "--json", "--threads", "2", "--dtype", dtype);
    json_t *j = json_loads(out, 0, NULL);
    double v = json_number_value(json_object_get(j, "nll_mean"));
    ck_assert(v > 0);
    json_decref(j);
    free(out);
    return v;
}

static const struct make_model models[] = {
    {.prefix = "transformer."},
    {.prefix = "", .untied = true, .dtype = DTYPE_BF16},
    {.dtype = DTYPE_F16, .channels = 36, .shards = 3},
    {.ttm = {NULL, NULL, "(4,16)(8,8)", "(16,4)(8,9)"}, .ttm_rank = 3},
};

START_TEST(the_file_is_what_loading_makes)
{
    const char *from = new_model("from", models[_i]), *out = path_join(temp_dir(), "out");
    free(RUN(cmd_quantize, from, "-o", out));
    double wide = nll(from, "f32"), stored = nll(out, "auto");
    ck_assert(stored == nll(from, "int8"));
    ck_assert(stored == nll(out, "int8"));
    assert_close(stored, wide, 0.03, 0);
    assert_close(nll(out, "f32"), wide, 0.03, 0); /* widened again */
    assert_close(nll(from, "bf16"), wide, 0.03, 0);
    ck_assert(same_file(from, out, "config.json") && same_file(from, out, "tokenizer.json"));
    REFUSED(cmd_quantize, "has dtype I8", out, "-o", path_join(temp_dir(), "again"));
}
END_TEST

static const struct st_tensor *tensor(const struct st_set *s, const char *name)
{
    const struct st_tensor *t = st_find(s, name);
    ck_assert_msg(t != NULL, "%s is missing", name);
    return t;
}

START_TEST(only_what_is_chosen)
{
    const char *from = new_model("from", models[0]), *out = path_join(temp_dir(), "out");
    struct st_set *a, *b;
    free(RUN(cmd_quantize, from, "-o", out, "--layers", "h.1.mlp.c_fc"));
    ck_assert_int_eq(st_open(&a, from, NULL), 0);
    ck_assert_int_eq(st_open(&b, out, NULL), 0);
    ck_assert_uint_eq(st_count(b), st_count(a) + 2);
    const struct st_tensor *w = tensor(b, "transformer.h.1.mlp.c_fc.weight");
    const struct st_tensor *s = tensor(b, "transformer.h.1.mlp.c_fc.weight_scale");
    ck_assert(w->dtype == DTYPE_I8 && w->shape[0] == 32 && w->shape[1] == 128);
    ck_assert(s->dtype == DTYPE_F32 && s->n_dims == 1 && s->shape[0] == 128);
    ck_assert(tensor(b, "transformer.wte.weight")->dtype == DTYPE_I8);
    ck_assert_uint_eq(tensor(b, "transformer.wte.weight_scale")->shape[0], 300);
    for (size_t i = 0; i < st_count(a); i++) {
        const struct st_tensor *t = st_at(a, i), *u = tensor(b, t->name);
        if (u->dtype == DTYPE_I8) continue;
        ck_assert(t->dtype == u->dtype && t->bytes == u->bytes);
        ck_assert_mem_eq(t->data, u->data, t->bytes);
    }
    st_close(a);
    st_close(b);
    ck_assert(nll(out, "auto") != nll(out, "int8"));
    char *text = RUN(cmd_inspect, out);
    ck_assert_ptr_nonnull(strstr(text, "scales, not counted"));
    free(text);
    text = RUN(cmd_inspect, out, "--json");
    char *before = RUN(cmd_inspect, from, "--json");
    json_t *x = json_loads(text, 0, NULL), *y = json_loads(before, 0, NULL);
    ck_assert_int_eq(json_integer_value(json_object_get(x, "total_params")),
                     json_integer_value(json_object_get(y, "total_params")));
    json_decref(x);
    json_decref(y);
    free(text);
    free(before);
}
END_TEST

START_TEST(flags_are_checked)
{
    const char *from = new_model("from", models[0]), *out = path_join(temp_dir(), "out");
    REFUSED(cmd_quantize, "--out is missing", from);
    REFUSED(cmd_quantize, "matches none of the layers", from, "-o", out, "--layers", "h.9.*");
    ck_assert_int_ne(access(out, F_OK), 0);
}
END_TEST

/* One tensor, h.0.mlp.c_fc's scale or weight, or wpe, made wrong. */
static void damage(struct raw_st *r, const struct st_tensor *t, const void *arg)
{
    static float scale[128];
    bool is_scale = strstr(t->name, "h.0.mlp.c_fc.weight_scale") != NULL;
    int how = *(const int *)arg;
    if (is_scale) memcpy(scale, t->data, sizeof scale);
    if (how == 0 && is_scale) return;
    if (how == 1 && is_scale) {
        raw_tensor(r, t->name, "F32", "[64]", scale, sizeof scale / 2);
    } else if (how == 2 && is_scale) {
        raw_tensor(r, t->name, "I32", "[128]", scale, sizeof scale);
    } else if ((how == 3 || how == 4) && is_scale) {
        scale[5] = how == 3 ? NAN : -1;
        raw_tensor(r, t->name, "F32", "[128]", scale, sizeof scale);
    } else if (how == 5 && strstr(t->name, "wpe.weight")) {
        raw_tensor(r, t->name, "I8", "[64, 32]", t->data, t->bytes / 4);
    } else {
        raw_copy(r, t->name, t);
    }
}

/* lm_head.weight, a copy of the embedding or another matrix, beside it. */
static void add_head(struct raw_st *r, const struct st_tensor *t, const void *arg)
{
    raw_copy(r, t->name, t);
    if (strstr(t->name, "wte.weight") == NULL) return;
    struct st_tensor head = *t;
    float *w = memcpy(malloc(t->bytes), t->data, t->bytes);
    if (*(const int *)arg) w[0] += 1;
    head.data = w;
    raw_copy(r, "lm_head.weight", &head);
    free(w);
}

/* Tied, and the head is stored nevertheless: it is not computed with, in 8 bits neither. */
START_TEST(a_head_that_is_stored_although_it_is_tied)
{
    const char *from = new_model("from", models[0]), *out = path_join(temp_dir(), "out");
    const char *more = raw_edited(from, add_head, &_i), *want = path_join(temp_dir(), "want");
    ck_assert_int_eq(tokenizer_write_bytes(more, 300, NULL), 0);
    free(RUN(cmd_quantize, more, "-o", out));
    free(RUN(cmd_quantize, from, "-o", want));
    ck_assert(nll(out, "auto") == nll(want, "auto"));
}
END_TEST

static const char *const says[] = {
    "tensor transformer.h.0.mlp.c_fc.weight is I8, but h.0.mlp.c_fc.weight_scale is missing",
    "h.0.mlp.c_fc.weight_scale has shape [64], expected [128]",
    "h.0.mlp.c_fc.weight_scale has dtype I32, expected F32",
    "h.0.mlp.c_fc.weight_scale has nan at [5], expected a finite number of 0 or more",
    "h.0.mlp.c_fc.weight_scale has -1 at [5]",
    "wpe.weight has dtype I8, expected F32, F16 or BF16",
};

START_TEST(damaged_files_are_refused)
{
    const char *from = new_model("from", models[0]), *out = path_join(temp_dir(), "out");
    free(RUN(cmd_quantize, from, "-o", out));
    const char *bad = raw_edited(out, damage, &_i);
    ck_assert_msg(tokenizer_write_bytes(bad, 300, NULL) == 0, "tokenizer");
    REFUSED(cmd_generate, says[_i], bad, "-p", "a", "--max-tokens", "1");
}
END_TEST

/* A tensor that has the name of another one's scales already. */
static void add_scale(struct raw_st *r, const struct st_tensor *t, const void *arg)
{
    (void)arg;
    raw_copy(r, t->name, t);
    if (!strstr(t->name, "wte.weight")) return;
    char name[80];
    snprintf(name, sizeof name, "%s_scale", t->name);
    raw_copy(r, name, t);
}

START_TEST(a_name_that_is_taken)
{
    const char *from = new_model("from", models[0]), *top = temp_dir();
    const char *more = raw_edited(from, add_scale, NULL);
    ck_assert_int_eq(tokenizer_write_bytes(more, 300, NULL), 0);
    REFUSED(cmd_quantize,
            "model.safetensors: tensor transformer.wte.weight_scale has the name that the scales "
            "of transformer.wte.weight would get",
            more, "-o", path_join(top, "out"));
    ck_assert_int_eq(tool_entries(top), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("quantize");
    TCase *t = tcase_create("quantize");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, the_file_is_what_loading_makes, 0, 4);
    tcase_add_test(t, only_what_is_chosen);
    tcase_add_test(t, flags_are_checked);
    tcase_add_loop_test(t, damaged_files_are_refused, 0, 6);
    tcase_add_test(t, a_name_that_is_taken);
    tcase_add_loop_test(t, a_head_that_is_stored_although_it_is_tied, 0, 2);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
