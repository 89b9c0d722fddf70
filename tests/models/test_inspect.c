/* ttm inspect: totals, tied heads and masks, names as data, and directories that are no models. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/gpt2/safetensors.h"
#include "models/checkpoint.h"
#include "tests/support/harness.h"
#include "tests/support/tool_call.h"

static json_t *inspect(const char *dir)
{
    struct tool_result r;
    json_error_t e;
    TOOL(&r, cmd_inspect, dir, "--json");
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    json_t *j = json_loads(r.out, JSON_REJECT_DUPLICATES, &e);
    ck_assert_msg(j != NULL, "%s", e.text);
    tool_result_release(&r);
    return j;
}

static json_int_t integer(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    ck_assert_msg(json_is_integer(v), "%s", key);
    return json_integer_value(v);
}

/* A model of the given sizes and extra tensors, all zeros: sparse in time, not in space. */
struct extra {
    const char *name;
    size_t shape[4];
    int n_dims;
};
static void write_model(const char *dir, const struct gpt2_config *cfg, const struct extra *extra,
                        size_t n_extra)
{
    struct st_writer *w = NULL;
    struct err err = {0};
    struct checkpoint_tensor t;
    static const float zeros[4096];
    size_t left = 0;
    struct buf b = {0};
    checkpoint_config_json(cfg, DTYPE_F16, &b);
    write_file(path_join(dir, "config.json"), b.data, b.len);
    buf_release(&b);
    ck_assert_int_eq(st_writer_open(&w, path_join(dir, "model.safetensors"), &err), 0);
    for (size_t i = 0; i < checkpoint_count(cfg, false); i++) {
        checkpoint_tensor_at(cfg, false, i, &t);
        st_writer_declare(w, t.name, DTYPE_F16, t.shape, t.n_dims);
        left += t.elements;
    }
    for (size_t i = 0; i < n_extra; i++) {
        size_t elements = 1;
        for (int k = 0; k < extra[i].n_dims; k++)
            elements *= extra[i].shape[k];
        st_writer_declare(w, extra[i].name, DTYPE_F16, extra[i].shape, extra[i].n_dims);
        left += elements;
    }
    ck_assert_int_eq(st_writer_begin(w, &err), 0);
    for (size_t i = 0; i < checkpoint_count(cfg, false) + n_extra; i++) {
        size_t n = 1;
        if (i < checkpoint_count(cfg, false)) {
            checkpoint_tensor_at(cfg, false, i, &t);
            n = t.elements;
        } else {
            const struct extra *x = &extra[i - checkpoint_count(cfg, false)];
            for (int k = 0; k < x->n_dims; k++)
                n *= x->shape[k];
        }
        for (size_t at = 0; at < n; at += 4096)
            ck_assert_int_eq(st_writer_data(w, zeros, n - at < 4096 ? n - at : 4096, &err), 0);
    }
    ck_assert_msg(st_writer_finish(w, &err) == 0, "%s", err.msg);
    ck_assert_uint_gt(left, 0);
}

static const struct gpt2_config small = {.n_layer = 2,
                                         .n_embd = 8,
                                         .n_head = 2,
                                         .n_positions = 16,
                                         .vocab_size = 31,
                                         .n_inner = 32,
                                         .layer_norm_epsilon = 1e-5f,
                                         .activation = ACT_GELU_NEW,
                                         .scale_attn_weights = true,
                                         .tie_word_embeddings = true,
                                         .bos_token_id = 30,
                                         .eos_token_id = 30};

START_TEST(masks_and_tied_heads_do_not_count)
{
    static const struct extra extra[] = {{"transformer.h.0.attn.bias", {1, 1, 16, 16}, 4},
                                         {"transformer.h.1.attn.masked_bias", {0}, 0},
                                         {"lm_head.weight", {31, 8}, 2}};
    const char *dir = temp_dir();
    write_model(dir, &small, extra, 3);
    json_t *j = inspect(dir);
    ck_assert_int_eq(integer(j, "total_params"), (json_int_t)checkpoint_params(&small, false));
    ck_assert(json_is_true(json_object_get(j, "tied")));
    ck_assert(json_is_null(json_object_get(j, "tokenizer")));
    ck_assert_uint_eq(json_array_size(json_object_get(j, "tensors")), 28 + 3);
    size_t at, bytes = 0, counted = 0;
    json_t *t;
    json_array_foreach(json_object_get(j, "tensors"), at, t)
    {
        bytes += (size_t)integer(t, "bytes");
        if (json_is_true(json_object_get(t, "counted"))) counted += (size_t)integer(t, "elements");
    }
    ck_assert_int_eq(integer(j, "total_bytes"), (json_int_t)bytes);
    ck_assert_int_eq(integer(j, "total_params"), (json_int_t)counted);
    json_decref(j);
    struct tool_result r;
    TOOL(&r, cmd_inspect, dir);
    ck_assert_int_eq(r.rc, 0);
    ck_assert_ptr_nonnull(strstr(r.out, "mask, not counted"));
    ck_assert_ptr_nonnull(strstr(r.out, "same as wte"));
    ck_assert_ptr_nonnull(strstr(r.out, "tokenizer  none"));
    ck_assert_ptr_nonnull(strstr(r.out, "\nlayer 1: "));
    tool_result_release(&r);
}
END_TEST

START_TEST(a_head_of_its_own_counts)
{
    const char *dir = path_join(temp_dir(), "m");
    struct tool_result r;
    TOOL(&r, cmd_init, "-o", dir, "--untied", "--seed", "1");
    ck_assert_int_eq(r.rc, 0);
    tool_result_release(&r);
    json_t *j = inspect(dir);
    const json_t *config = json_object_get(j, "config"),
                 *tokenizer = json_object_get(j, "tokenizer");
    struct gpt2_config tiny = {.n_layer = 2,
                               .n_embd = 64,
                               .n_head = 4,
                               .n_positions = 128,
                               .vocab_size = 512,
                               .n_inner = 256};
    ck_assert(json_is_false(json_object_get(j, "tied")));
    ck_assert_int_eq(integer(j, "total_params"), (json_int_t)checkpoint_params(&tiny, true));
    ck_assert_int_eq(integer(config, "n_layer"), 2);
    ck_assert_int_eq(integer(config, "n_positions"), 128);
    ck_assert_int_eq(integer(tokenizer, "vocab_size"), 512);
    ck_assert_int_eq(integer(tokenizer, "eos_token_id"), 511);
    json_decref(j);
}
END_TEST

/* Sizes of GPT-2 small: the file is a quarter of a gigabyte of zeros, holes on most file systems. */
START_TEST(gpt2_small)
{
    const char *dir = temp_dir();
    struct gpt2_config cfg = {.n_layer = 12,
                              .n_embd = 768,
                              .n_head = 12,
                              .n_positions = 1024,
                              .vocab_size = 50257,
                              .n_inner = 3072,
                              .layer_norm_epsilon = 1e-5f,
                              .activation = ACT_GELU_NEW,
                              .bos_token_id = 50256,
                              .eos_token_id = 50256,
                              .tie_word_embeddings = true};
    struct buf b = {0}, h = {0};
    struct checkpoint_tensor t;
    size_t at = 0;
    checkpoint_config_json(&cfg, DTYPE_F16, &b);
    write_file(path_join(dir, "config.json"), b.data, b.len);
    for (size_t i = 0; i < checkpoint_count(&cfg, false); i++) {
        checkpoint_tensor_at(&cfg, false, i, &t);
        buf_printf(&h, "%s\"%s\":{\"dtype\":\"F16\",\"shape\":[%zu", i ? "," : "{", t.name,
                   t.shape[0]);
        if (t.n_dims == 2) buf_printf(&h, ",%zu", t.shape[1]);
        buf_printf(&h, "],\"data_offsets\":[%zu,%zu]}", at, at + 2 * t.elements);
        at += 2 * t.elements;
    }
    buf_putc(&h, '}');
    FILE *f = fopen(path_join(dir, "model.safetensors"), "wb");
    uint64_t len = h.len;
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(&len, 1, 8, f) + fwrite(h.data, 1, h.len, f), 8 + h.len);
    fclose(f);
    ck_assert_int_eq(truncate(path_join(dir, "model.safetensors"), (off_t)(8 + h.len + at)), 0);
    json_t *j = inspect(dir);
    ck_assert_int_eq(integer(j, "total_params"), 124439808);
    ck_assert_int_eq(integer(j, "total_bytes"), 248879616);
    json_decref(j);
    buf_release(&b);
    buf_release(&h);
}
END_TEST

START_TEST(ttm_layers)
{
    const char *dir = path_join(temp_dir(), "t");
    struct tool_result r;
    TOOL(&r, cmd_init, "-o", dir, "--ttm-rank", "16", "--no-mlp-bias");
    ck_assert_int_eq(r.rc, 0);
    tool_result_release(&r);
    json_t *j = inspect(dir), *layers = json_object_get(j, "ttm_layers"), *l;
    ck_assert_uint_eq(json_array_size(layers), 4); /* c_fc and c_proj of two layers */
    json_int_t stored = 0, rounded = 0, dense = 0;
    size_t i;
    json_array_foreach(layers, i, l)
    {
        stored += integer(l, "stored_params");
        rounded += integer(l, "params");
        dense += integer(l, "dense_params");
        const json_t *plans = json_object_get(l, "plans");
        ck_assert_uint_eq(json_object_size(plans), 5);
        const json_t *one = json_object_get(plans, "decode_1");
        ck_assert(json_number_value(json_object_get(one, "predicted_us")) > 0);
        ck_assert(integer(one, "multiplications") > 0);
        ck_assert_uint_eq(json_array_size(json_object_get(l, "ranks")),
                          json_array_size(json_object_get(l, "m")) + 1);
    }
    ck_assert_int_eq(dense, 4 * 64 * 256);
    ck_assert_int_lt(rounded, stored);
    ck_assert_int_eq(integer(j, "total_params") - stored, integer(j, "rounded_params") - rounded);
    ck_assert_int_eq(integer(j, "total_params") - stored, integer(j, "dense_params") - dense);
    json_decref(j);
    TOOL(&r, cmd_inspect, dir);
    ck_assert_int_eq(r.rc, 0);
    ck_assert_ptr_nonnull(strstr(r.out, "2 TTM layers like h.0.mlp.c_proj: 256 -> 64, cores "));
    ck_assert_ptr_nonnull(strstr(r.out, " after exact rounding"));
    ck_assert_ptr_nonnull(strstr(r.out, "prefill_1024"));
    tool_result_release(&r);
}
END_TEST

START_TEST(names_are_data)
{
    static const struct extra extra[] = {
        {"\x1b[31mred", {3}, 1},
        {"h.99999999999999999999.x", {2}, 1},
        {"h.", {1}, 1},
        {"module.transformer.h.1.mlp.c_fc.ttm.cores.0", {1, 2, 2, 3}, 4}};
    const char *dir = temp_dir();
    write_model(dir, &small, extra, 4);
    struct tool_result r;
    TOOL(&r, cmd_inspect, dir);
    ck_assert_int_eq(r.rc, 0);
    ck_assert_ptr_null(strchr(r.out, 0x1b));
    ck_assert_ptr_nonnull(strstr(r.out, "(1, 2, 2, 3)"));
    tool_result_release(&r);
    json_decref(inspect(dir));
}
END_TEST

START_TEST(refuses_by_name)
{
    const char *dir = temp_dir();
    struct tool_result r;
    TOOL(&r, cmd_inspect, path_join(dir, "nowhere"));
    ck_assert_int_lt(r.rc, 0);
    ck_assert_ptr_nonnull(strstr(r.err.msg, "nowhere"));
    ck_assert_str_eq(r.out, "");
    tool_result_release(&r);
    write_model(dir, &small, NULL, 0);
    write_file(path_join(dir, "model.safetensors"), "short", 5);
    TOOL(&r, cmd_inspect, dir);
    ck_assert_int_lt(r.rc, 0);
    ck_assert_ptr_nonnull(strstr(r.err.msg, "model.safetensors"));
    tool_result_release(&r);
}
END_TEST

/* What sizes nothing: a configuration that the tensors cannot bear out. */
START_TEST(more_layers_than_tensors)
{
    const char *dir = temp_dir();
    struct gpt2_config many = small;
    struct buf b = {0};
    struct tool_result r;
    write_model(dir, &small, NULL, 0);
    many.n_layer = 1 << 24;
    checkpoint_config_json(&many, DTYPE_F16, &b);
    write_file(path_join(dir, "config.json"), b.data, b.len);
    buf_release(&b);
    TOOL(&r, cmd_inspect, dir);
    ck_assert_int_eq(r.rc, ERR_MISSING);
    ck_assert_msg(strstr(r.err.msg, dir) && strstr(r.err.msg,
                                                   "28 tensors are too few for the "
                                                   "16777216 layers"),
                  "%s", r.err.msg);
    tool_result_release(&r);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("inspect");
    TCase *t = tcase_create("inspect");
    tcase_add_test(t, masks_and_tied_heads_do_not_count);
    tcase_add_test(t, a_head_of_its_own_counts);
    tcase_add_test(t, gpt2_small);
    tcase_add_test(t, ttm_layers);
    tcase_add_test(t, names_are_data);
    tcase_add_test(t, more_layers_than_tensors);
    tcase_add_test(t, refuses_by_name);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
