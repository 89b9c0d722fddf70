/* The list of tensors: counts of the published models, names, and a config.json that reads back. */
#include "models/checkpoint.h"

#include <jansson.h>
#include <string.h>

#include "tests/support/harness.h"

static struct gpt2_config sizes(int layers, int channels, int heads)
{
    return (struct gpt2_config){.n_layer = layers,
                                .n_embd = channels,
                                .n_head = heads,
                                .n_positions = 1024,
                                .vocab_size = 50257,
                                .n_inner = 4 * channels,
                                .layer_norm_epsilon = 1e-5f,
                                .activation = ACT_GELU_NEW,
                                .scale_attn_weights = true,
                                .tie_word_embeddings = true,
                                .bos_token_id = 50256,
                                .eos_token_id = 50256};
}

START_TEST(published_models_have_their_parameters)
{
    static const struct {
        int layers, channels, heads;
        size_t params;
    } known[] = {{12, 768, 12, 124439808},
                 {24, 1024, 16, 354823168},
                 {36, 1280, 20, 774030080},
                 {48, 1600, 25, 1557611200},
                 {6, 768, 12, 81912576}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct gpt2_config cfg = sizes(known[i].layers, known[i].channels, known[i].heads);
        ck_assert_uint_eq(checkpoint_params(&cfg, false), known[i].params);
        ck_assert_uint_eq(checkpoint_params(&cfg, true),
                          known[i].params + 50257 * (size_t)known[i].channels);
    }
}
END_TEST

START_TEST(names_and_shapes)
{
    struct gpt2_config cfg = sizes(12, 768, 12);
    struct checkpoint_tensor t;
    ck_assert_uint_eq(checkpoint_count(&cfg, false), 148);
    ck_assert_uint_eq(checkpoint_count(&cfg, true), 149);
    checkpoint_tensor_at(&cfg, false, 0, &t);
    ck_assert_str_eq(t.name, "transformer.wte.weight");
    ck_assert_uint_eq(t.shape[0], 50257);
    checkpoint_tensor_at(&cfg, false, 2 + 11 * 12 + 8, &t);
    ck_assert_str_eq(t.name, "transformer.h.11.mlp.c_fc.weight");
    ck_assert_uint_eq(t.shape[0], 768);
    ck_assert_uint_eq(t.shape[1], 3072);
    ck_assert_int_eq(t.n_dims, 2);
    checkpoint_tensor_at(&cfg, true, 147, &t);
    ck_assert_str_eq(t.name, "transformer.ln_f.bias");
    ck_assert_int_eq(t.n_dims, 1);
    ck_assert_uint_eq(t.elements, 768);
    checkpoint_tensor_at(&cfg, true, 148, &t);
    ck_assert_str_eq(t.name, "lm_head.weight");
}
END_TEST

static void round_trip(const struct gpt2_config *cfg)
{
    struct buf b = {0};
    struct err err = {0};
    struct gpt2_config back;
    checkpoint_config_json(cfg, DTYPE_BF16, &b);
    ck_assert_msg(gpt2_config_parse(&back, b.data, b.len, "config.json", &err) == 0, "%s", err.msg);
    ck_assert_int_eq(back.n_layer, cfg->n_layer);
    ck_assert_int_eq(back.n_embd, cfg->n_embd);
    ck_assert_int_eq(back.n_head, cfg->n_head);
    ck_assert_int_eq(back.n_positions, cfg->n_positions);
    ck_assert_int_eq(back.vocab_size, cfg->vocab_size);
    ck_assert_int_eq(back.n_inner, cfg->n_inner);
    ck_assert(back.layer_norm_epsilon == cfg->layer_norm_epsilon);
    ck_assert_int_eq(back.activation, cfg->activation);
    ck_assert_int_eq(back.scale_attn_weights, cfg->scale_attn_weights);
    ck_assert_int_eq(back.scale_attn_by_inverse_layer_idx, cfg->scale_attn_by_inverse_layer_idx);
    ck_assert_int_eq(back.tie_word_embeddings, cfg->tie_word_embeddings);
    ck_assert_int_eq(back.bos_token_id, cfg->bos_token_id);
    ck_assert_int_eq(back.eos_token_id, cfg->eos_token_id);
    buf_release(&b);
}

START_TEST(config_reads_back)
{
    struct gpt2_config cfg = sizes(12, 768, 12);
    round_trip(&cfg);
    cfg.n_inner = 1000;
    cfg.activation = ACT_GELU_ERF;
    cfg.scale_attn_weights = false;
    cfg.scale_attn_by_inverse_layer_idx = true;
    cfg.tie_word_embeddings = false;
    cfg.bos_token_id = cfg.eos_token_id = -1;
    cfg.layer_norm_epsilon = 3e-6f;
    round_trip(&cfg);
    cfg.activation = ACT_RELU;
    round_trip(&cfg);
}
END_TEST

/* The keys by which Hugging Face's GPT2ForSequenceClassification finds labels and padding. */
START_TEST(classifiers_name_their_labels)
{
    static const char *const labels[] = {"no", "yes", "maybe"};
    struct gpt2_config cfg = sizes(2, 64, 2), back;
    struct buf b = {0};
    cfg.eos_token_id = 50256;
    checkpoint_classifier_json(&cfg, DTYPE_F32, labels, 3, &b);
    json_t *j = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, NULL), *names, *ids;
    ck_assert_msg(j != NULL, "%s", b.data);
    names = json_object_get(j, "id2label");
    ids = json_object_get(j, "label2id");
    for (int i = 0; i < 3; i++) {
        char key[4] = {(char)('0' + i)};
        ck_assert_str_eq(json_string_value(json_object_get(names, key)), labels[i]);
        ck_assert_int_eq(json_integer_value(json_object_get(ids, labels[i])), i);
    }
    ck_assert_int_eq(json_integer_value(json_object_get(j, "num_labels")), 3);
    ck_assert_int_eq(json_integer_value(json_object_get(j, "pad_token_id")), 50256);
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(j, "architectures"), 0)),
                     "GPT2ForSequenceClassification");
    ck_assert_int_eq(gpt2_config_parse(&back, b.data, b.len, "config.json", NULL), 0);
    ck_assert_int_eq(back.n_embd, 64);
    json_decref(j);
    buf_clear(&b);
    checkpoint_config_json(&cfg, DTYPE_F32, &b);
    ck_assert_ptr_null(strstr(b.data, "id2label"));
    buf_release(&b);
}
END_TEST

START_TEST(activation_names)
{
    static const enum act all[] = {ACT_GELU_NEW, ACT_GELU_ERF, ACT_RELU};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ck_assert_int_eq(checkpoint_activation_parse(checkpoint_activation_name(all[i])), all[i]);
    ck_assert_int_eq(checkpoint_activation_parse("swish"), -1);
    ck_assert_int_eq(checkpoint_activation_parse("none"), -1);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("checkpoint");
    TCase *t = tcase_create("checkpoint");
    tcase_add_test(t, published_models_have_their_parameters);
    tcase_add_test(t, names_and_shapes);
    tcase_add_test(t, config_reads_back);
    tcase_add_test(t, classifiers_name_their_labels);
    tcase_add_test(t, activation_names);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
