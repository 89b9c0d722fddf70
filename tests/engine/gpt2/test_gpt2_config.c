/* config.json: what is honoured, what is ignored, and what is refused with the key's name. */
#include "engine/gpt2/gpt2_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/harness.h"

static const char *const base =
    "{\"model_type\": \"gpt2\", \"n_layer\": 3, \"n_head\": 5, \"n_embd\": 40, "
    "\"n_positions\": 77, \"vocab_size\": 1000";

/* Parse `base` with `more` appended to the object. */
static int parse(struct gpt2_config *c, const char *more, struct err *err)
{
    char text[2048];
    snprintf(text, sizeof text, "%s%s%s}", base, *more ? ", " : "", more);
    return gpt2_config_parse(c, text, strlen(text), "DIR/config.json", err);
}

START_TEST(defaults)
{
    struct gpt2_config c;
    struct err err = {0};
    ck_assert_msg(parse(&c, "", &err) == 0, "%s", err.msg);
    ck_assert_int_eq(c.n_layer, 3);
    ck_assert_int_eq(c.n_head, 5);
    ck_assert_int_eq(c.n_embd, 40);
    ck_assert_int_eq(c.n_positions, 77);
    ck_assert_int_eq(c.vocab_size, 1000);
    ck_assert_int_eq(c.n_inner, 160);
    assert_close(c.layer_norm_epsilon, 1e-5, 1e-12, 0);
    ck_assert_int_eq(c.activation, ACT_GELU_NEW);
    ck_assert(c.scale_attn_weights && !c.scale_attn_by_inverse_layer_idx && c.tie_word_embeddings);
    ck_assert_int_eq(c.bos_token_id, -1);
    ck_assert_int_eq(c.eos_token_id, -1);
}
END_TEST

START_TEST(all_keys)
{
    struct gpt2_config c;
    struct err err = {0};
    int rc = parse(&c,
                   "\"n_inner\": 100, \"layer_norm_epsilon\": 0.25, \"activation_function\": "
                   "\"relu\", \"scale_attn_weights\": false, \"scale_attn_by_inverse_layer_idx\": "
                   "true, \"tie_word_embeddings\": false, \"bos_token_id\": 7, \"eos_token_id\": "
                   "999, \"reorder_and_upcast_attn\": true, \"whatever\": [1, {\"a\": null}]",
                   &err);
    ck_assert_msg(rc == 0, "%s", err.msg);
    ck_assert_int_eq(c.n_inner, 100);
    ck_assert(c.layer_norm_epsilon == 0.25f);
    ck_assert_int_eq(c.activation, ACT_RELU);
    ck_assert(!c.scale_attn_weights && c.scale_attn_by_inverse_layer_idx && !c.tie_word_embeddings);
    ck_assert_int_eq(c.bos_token_id, 7);
    ck_assert_int_eq(c.eos_token_id, 999);
}
END_TEST

START_TEST(activations)
{
    static const struct {
        const char *name;
        enum act act;
    } t[] = {{"gelu_new", ACT_GELU_NEW},
             {"gelu_pytorch_tanh", ACT_GELU_NEW},
             {"gelu", ACT_GELU_ERF},
             {"relu", ACT_RELU}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct gpt2_config c;
        char more[100];
        snprintf(more, sizeof more, "\"activation_function\": \"%s\"", t[i].name);
        ck_assert_int_eq(parse(&c, more, NULL), 0);
        ck_assert_int_eq(c.activation, t[i].act);
    }
}
END_TEST

START_TEST(tokens_outside_the_vocabulary_are_none)
{
    static const char *const values[] = {"null", "-1", "1000", "50256", "9223372036854775807"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct gpt2_config c;
        char more[100];
        snprintf(more, sizeof more, "\"eos_token_id\": %s", values[i]);
        ck_assert_int_eq(parse(&c, more, NULL), 0);
        ck_assert_int_eq(c.eos_token_id, -1);
    }
}
END_TEST

START_TEST(context_may_be_called_n_ctx)
{
    struct gpt2_config c;
    const char *text = "{\"n_layer\":1,\"n_head\":1,\"n_embd\":8,\"n_ctx\":9,\"vocab_size\":5}";
    ck_assert_int_eq(gpt2_config_parse(&c, text, strlen(text), "x", NULL), 0);
    ck_assert_int_eq(c.n_positions, 9);
}
END_TEST

/* A whole text that is refused: the message starts with the file and has `says`. */
static void refused(const char *text, size_t len, int code, const char *says)
{
    struct gpt2_config c, before;
    memset(&c, 0x5a, sizeof c);
    before = c;
    struct err err = {0};
    ck_assert_int_eq(gpt2_config_parse(&c, text, len, "DIR/config.json", &err), code);
    ck_assert_int_eq(err.code, code);
    ck_assert_msg(strncmp(err.msg, "DIR/config.json: ", 17) == 0, "%s", err.msg);
    ck_assert_msg(strstr(err.msg, says) != NULL, "%s: no \"%s\"", err.msg, says);
    ck_assert_int_eq(memcmp(&c, &before, sizeof c), 0);
}

START_TEST(refused_values)
{
    static const struct {
        const char *more;
        int code;
        const char *says;
    } t[] = {
        {"\"n_inner\": 0", ERR_INVALID, "\"n_inner\" is 0, expected 1..16777216"},
        {"\"n_inner\": 16777217", ERR_INVALID, "\"n_inner\" is 16777217"},
        {"\"n_inner\": -5", ERR_INVALID, "\"n_inner\" is -5"},
        {"\"n_inner\": 1.5", ERR_TYPE, "\"n_inner\" is a real number, expected an integer"},
        {"\"n_inner\": \"4\"", ERR_TYPE, "\"n_inner\" is a string"},
        {"\"n_inner\": []", ERR_TYPE, "\"n_inner\" is an array"},
        {"\"n_inner\": {}", ERR_TYPE, "\"n_inner\" is an object"},
        {"\"layer_norm_epsilon\": 0", ERR_INVALID, "\"layer_norm_epsilon\" is 0"},
        {"\"layer_norm_epsilon\": -1e-5", ERR_INVALID, "\"layer_norm_epsilon\" is -1e-05"},
        {"\"layer_norm_epsilon\": 1", ERR_INVALID, "\"layer_norm_epsilon\" is 1"},
        {"\"layer_norm_epsilon\": true", ERR_TYPE, "\"layer_norm_epsilon\" is a boolean"},
        {"\"activation_function\": \"swish\"", ERR_UNSUPPORTED, "\"swish\", expected gelu_new"},
        {"\"activation_function\": 3", ERR_TYPE, "\"activation_function\" is an integer"},
        {"\"scale_attn_weights\": 1", ERR_TYPE, "\"scale_attn_weights\" is an integer"},
        {"\"tie_word_embeddings\": \"no\"", ERR_TYPE, "\"tie_word_embeddings\" is a string"},
        {"\"add_cross_attention\": true", ERR_UNSUPPORTED, "\"add_cross_attention\" is true"},
        {"\"eos_token_id\": [1]", ERR_TYPE, "\"eos_token_id\" is an array"},
        {"\"vocab_size\": 5", ERR_INVALID, "duplicate"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char text[2048];
        snprintf(text, sizeof text, "%s, %s}", base, t[i].more);
        refused(text, strlen(text), t[i].code, t[i].says);
    }
}
END_TEST

START_TEST(required_keys)
{
    static const char *const keys[] = {"n_layer", "n_head", "n_embd", "n_positions", "vocab_size"};
    for (size_t k = 0; k < 5; k++) {
        for (int mode = 0; mode < 3; mode++) {
            char text[512] = "{\"x\": 0";
            size_t at = strlen(text);
            for (size_t i = 0; i < 5; i++) {
                const char *value = i != k ? "8" : mode == 1 ? "null" : "0";
                if (i != k || mode)
                    at += (size_t)snprintf(text + at, sizeof text - at, ", \"%s\": %s", keys[i],
                                           value);
            }
            snprintf(text + at, sizeof text - at, "}");
            refused(text, strlen(text), mode == 2 ? ERR_INVALID : ERR_MISSING, keys[k]);
        }
    }
}
END_TEST

START_TEST(refused_files)
{
    static const char other[] = "{\"model_type\": \"llama\"}";
    static const char heads[] =
        "{\"n_layer\":1,\"n_head\":3,\"n_embd\":8,\"n_ctx\":9,\"vocab_size\":5}";
    refused(other, sizeof other - 1, ERR_UNSUPPORTED,
            "\"model_type\" is \"llama\", expected \"gpt2\"");
    refused(heads, sizeof heads - 1, ERR_INVALID, "\"n_embd\" is 8, expected a multiple");
    refused("", 0, ERR_INVALID, "not valid JSON");
    refused("[]", 2, ERR_TYPE, "holds an array, expected an object");
    refused("{} x", 4, ERR_INVALID, "not valid JSON");
    refused("{\"a\": \"\xff\"}", 10, ERR_INVALID, "not valid JSON");
    refused("{\"a\": 1e999}", 12, ERR_INVALID, "not valid JSON");
    refused("{\"n_layer\": 99999999999999999999}", 33, ERR_INVALID, "not valid JSON");
    char deep[8000];
    memset(deep, '[', sizeof deep);
    refused(deep, sizeof deep, ERR_INVALID, "not valid JSON");
}
END_TEST

START_TEST(truncated_anywhere)
{
    char text[2048];
    int n = snprintf(text, sizeof text, "%s}", base);
    for (int i = 0; i < n; i++) {
        struct gpt2_config c;
        char *exact = malloc((size_t)i + 1); /* the sanitizer sees a read beyond i */
        memcpy(exact, text, (size_t)i);
        ck_assert_int_eq(gpt2_config_parse(&c, exact, (size_t)i, "x", NULL), ERR_INVALID);
        free(exact);
    }
}
END_TEST

START_TEST(loading_from_a_directory)
{
    struct gpt2_config c;
    struct err missing = {0}, dir_err = {0}, big_err = {0};
    const char *dir = temp_dir();
    ck_assert_int_eq(gpt2_config_load(&c, dir, &missing), ERR_MISSING);
    ck_assert_ptr_nonnull(strstr(missing.msg, "config.json"));
    char text[2048];
    int n = snprintf(text, sizeof text, "%s}", base);
    write_file(path_join(dir, "config.json"), text, (size_t)n);
    ck_assert_int_eq(gpt2_config_load(&c, dir, NULL), 0);
    ck_assert_int_eq(c.n_embd, 40);
    size_t big = (1 << 20) + 1;
    char *spaces = malloc(big);
    memset(spaces, ' ', big);
    write_file(path_join(dir, "config.json"), spaces, big);
    free(spaces);
    ck_assert_int_eq(gpt2_config_load(&c, dir, &big_err), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(big_err.msg, "1048577 bytes"));
    const char *not_file = temp_dir();
    ck_assert_int_eq(gpt2_config_load(&c, path_join(not_file, "../.."), &dir_err), ERR_MISSING);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("gpt2_config");
    TCase *t = tcase_create("gpt2_config");
    tcase_add_test(t, defaults);
    tcase_add_test(t, all_keys);
    tcase_add_test(t, activations);
    tcase_add_test(t, tokens_outside_the_vocabulary_are_none);
    tcase_add_test(t, context_may_be_called_n_ctx);
    tcase_add_test(t, refused_values);
    tcase_add_test(t, required_keys);
    tcase_add_test(t, refused_files);
    tcase_add_test(t, truncated_anywhere);
    tcase_add_test(t, loading_from_a_directory);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
