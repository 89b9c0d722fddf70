/* From a directory to a model: which checkpoints are taken, with what facts, and which are refused, by
 * the tensor's name. Each case is a small random model whose tensors are copied through an edit. */
#include "engine/gpt2/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/gpt2/weights.h"
#include "tests/support/harness.h"
#include "tests/support/make_model.h"
#include "tests/support/raw_st.h"

static const struct make_model small = {.seed = 3,
                                        .layers = 2,
                                        .channels = 24,
                                        .heads = 3,
                                        .n_inner = 40,
                                        .vocab = 50,
                                        .positions = 30};

static int open_model(struct gpt2 **m, const char *dir, struct err *err)
{
    struct compute c = {.k = kernels_scalar()};
    *m = NULL;
    return gpt2_open(m, dir, &c, NULL, NULL, err);
}

/* An edit of one tensor: copy, change or drop it. */
typedef void edit(struct raw_st *r, const struct st_tensor *t);

static void run_edit(struct raw_st *r, const struct st_tensor *t, const void *e)
{
    (*(edit *const *)e)(r, t);
}

static const char *edited(const struct make_model *o, edit *e)
{
    const char *from = temp_dir();
    make_model(from, o);
    return raw_edited(from, run_edit, &e);
}

static void refused_dir(const char *dir, int code, const char *says)
{
    struct gpt2 *m;
    struct err err = {0};
    ck_assert_int_eq(open_model(&m, dir, &err), code);
    ck_assert_ptr_null(m);
    ck_assert_msg(strstr(err.msg, says) != NULL, "\"%s\" has no \"%s\"", err.msg, says);
}

static bool is(const struct st_tensor *t, const char *name)
{
    return strcmp(t->name, name) == 0;
}

/* ---- taken ---- */

static void keep(struct raw_st *r, const struct st_tensor *t)
{
    raw_copy(r, t->name, t);
}

START_TEST(facts)
{
    const char *dir = edited(&small, keep);
    struct gpt2 *m;
    struct err err = {0};
    ck_assert_msg(open_model(&m, dir, &err) == 0, "%s", err.msg);
    size_t layer = 24 * 72 + 72 + 24 * 24 + 24 + 2 * 24 * 40 + 40 + 24 + 4 * 24;
    ck_assert_uint_eq(m->n_params, 50 * 24 + 30 * 24 + 2 * layer + 2 * 24);
    ck_assert(m->tied && m->wte.data == NULL);
    ck_assert_uint_eq(m->head.k, 24);
    ck_assert_uint_eq(m->head.n, 50);
    ck_assert_int_eq(m->dtype, DTYPE_F32);
    assert_close(m->layers[1].attn_scale, 1 / sqrt(8), 1e-7, 0);
    gpt2_close(m);
    gpt2_close(NULL);
}
END_TEST

START_TEST(attention_scales)
{
    for (int bits = 0; bits < 4; bits++) {
        struct make_model o = small;
        struct gpt2 *m;
        o.no_scale = bits & 1;
        o.inverse_layer = bits & 2;
        const char *dir = temp_dir();
        make_model(dir, &o);
        ck_assert_int_eq(open_model(&m, dir, NULL), 0);
        for (int i = 0; i < 2; i++)
            assert_close(m->layers[i].attn_scale,
                         (o.no_scale ? 1 : 1 / sqrt(8)) / (o.inverse_layer ? i + 1 : 1), 1e-7, 0);
        gpt2_close(m);
    }
}
END_TEST

START_TEST(native_dtypes)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    struct make_model o = small;
    struct gpt2 *m;
    const char *dir = temp_dir();
    o.dtype = types[_i];
    make_model(dir, &o);
    ck_assert_int_eq(open_model(&m, dir, NULL), 0);
    ck_assert_int_eq(m->dtype, types[_i]);
    ck_assert_int_eq(m->head.dtype, types[_i]);
    ck_assert_int_eq(m->layers[1].mlp_proj.dense.dtype, types[_i]);
    size_t packed = m->head.bytes;
    for (int i = 0; i < 2; i++)
        packed += m->layers[i].c_attn.dense.bytes + m->layers[i].attn_proj.dense.bytes +
                  m->layers[i].c_fc.dense.bytes + m->layers[i].mlp_proj.dense.bytes;
    size_t vectors = 30 * 24 + 2 * 24 + 2 * (72 + 24 + 40 + 24 + 4 * 24);
    ck_assert_uint_eq(m->weight_bytes, packed + 4 * vectors);
    gpt2_close(m);
}
END_TEST

/* The mask that old checkpoints carry, in any type and shape, also of layers that do not exist. */
static void add_buffers(struct raw_st *r, const struct st_tensor *t)
{
    raw_copy(r, t->name, t);
    if (!is(t, "transformer.h.1.ln_1.bias")) return;
    raw_tensor(r, "transformer.h.1.attn.bias", "U8", "[1,1,2,2]", "abcd", 4);
    raw_tensor(r, "transformer.h.0.attn.bias", "BOOL", "[3]", "abc", 3);
    raw_tensor(r, "h.0.attn.masked_bias", "F64", "[]", "abcdefgh", 8);
    raw_tensor(r, "transformer.h.11.attn.masked_bias", "F32", "[]", "abcd", 4);
}

/* Prefixes in every combination, tensor by tensor. */
static void mix_prefixes(struct raw_st *r, const struct st_tensor *t)
{
    static const char *const prefixes[] = {"",
                                           "transformer.",
                                           "module.",
                                           "module.transformer.",
                                           "transformer.module.",
                                           "module.module."};
    static unsigned next;
    char name[200];
    snprintf(name, sizeof name, "%s%s", prefixes[next++ % 6], t->name + strlen("transformer."));
    raw_copy(r, name, t);
}

static bool same_head(const struct gpt2 *a, const struct gpt2 *b)
{
    return a->head.bytes == b->head.bytes && memcmp(a->head.data, b->head.data, a->head.bytes) == 0;
}

START_TEST(buffers_and_prefixes)
{
    static edit *const edits[] = {keep, add_buffers, mix_prefixes};
    struct gpt2 *a, *b;
    struct err err = {0};
    ck_assert_int_eq(open_model(&a, edited(&small, keep), &err), 0);
    ck_assert_msg(open_model(&b, edited(&small, edits[_i]), &err) == 0, "%s", err.msg);
    ck_assert_uint_eq(a->n_params, b->n_params);
    ck_assert(same_head(a, b));
    ck_assert_int_eq(memcmp(a->layers[1].c_fc.dense.data, b->layers[1].c_fc.dense.data,
                            a->layers[1].c_fc.dense.bytes),
                     0);
    gpt2_close(a);
    gpt2_close(b);
}
END_TEST

/* ---- the LM head ---- */

static void head_as_wte(struct raw_st *r, const struct st_tensor *t)
{
    raw_copy(r, t->name, t);
    if (is(t, "transformer.wte.weight")) raw_copy(r, "lm_head.weight", t);
}

static void head_is_wte(struct raw_st *r, const struct st_tensor *t)
{
    if (!is(t, "lm_head.weight")) raw_copy(r, t->name, t);
    if (is(t, "transformer.wte.weight")) raw_copy(r, "lm_head.weight", t);
}

static void no_head(struct raw_st *r, const struct st_tensor *t)
{
    if (!is(t, "lm_head.weight")) raw_copy(r, t->name, t);
}

static void other_head(struct raw_st *r, const struct st_tensor *t)
{
    raw_copy(r, t->name, t);
    if (!is(t, "transformer.wte.weight")) return;
    float other[50 * 24] = {1};
    raw_tensor(r, "lm_head.weight", "F32", "[50,24]", other, sizeof other);
}

static void bad_head(struct raw_st *r, const struct st_tensor *t)
{
    raw_copy(r, t->name, t);
    if (is(t, "transformer.wte.weight")) raw_tensor(r, "lm_head.weight", "F32", "[1]", "abcd", 4);
}

START_TEST(tied_heads)
{
    struct make_model untied = small;
    struct gpt2 *plain, *m;
    untied.untied = true;
    ck_assert_int_eq(open_model(&plain, edited(&small, keep), NULL), 0);
    const struct {
        const struct make_model *o;
        edit *e;
    } tied[] = {{&small, head_as_wte}, {&untied, head_is_wte}, {&small, other_head}};
    for (size_t i = 0; i < 3; i++) {
        ck_assert_int_eq(open_model(&m, edited(tied[i].o, tied[i].e), NULL), 0);
        ck_assert(m->tied && !m->wte.data);
        ck_assert_uint_eq(m->n_params, plain->n_params);
        ck_assert(same_head(m, plain));
        gpt2_close(m);
    }
    ck_assert_int_eq(open_model(&m, edited(&untied, keep), NULL), 0);
    ck_assert(!m->tied && m->wte.data);
    ck_assert_uint_eq(m->n_params, plain->n_params + 50 * 24);
    ck_assert(!same_head(m, plain));
    gpt2_close(m);
    gpt2_close(plain);
    refused_dir(edited(&untied, no_head), ERR_MISSING, "tensor lm_head.weight is missing");
    refused_dir(edited(&small, bad_head), ERR_INVALID,
                "tensor lm_head.weight has shape [1], expected [50, 24]");
}
END_TEST

/* ---- refused ---- */

static size_t victim; /* number of the tensor that drop_one() leaves out */
static size_t seen;
static char victim_name[200];

static void drop_one(struct raw_st *r, const struct st_tensor *t)
{
    if (seen++ == victim)
        snprintf(victim_name, sizeof victim_name, "%s", t->name + strlen("transformer."));
    else
        raw_copy(r, t->name, t);
}

static void flatten_one(struct raw_st *r, const struct st_tensor *t)
{
    char shape[64];
    snprintf(shape, sizeof shape, "[1,%zu,1]", t->elements);
    if (seen++ != victim) {
        raw_copy(r, t->name, t);
        return;
    }
    snprintf(victim_name, sizeof victim_name, "tensor %s has shape [1, %zu, 1], expected [",
             t->name, t->elements);
    raw_tensor(r, t->name, "F32", shape, t->data, t->bytes);
}

static void double_one(struct raw_st *r, const struct st_tensor *t)
{
    char shape[64] = "[", bytes[20000] = {0};
    if (seen++ != victim) {
        raw_copy(r, t->name, t);
        return;
    }
    for (int i = 0; i < t->n_dims; i++)
        snprintf(shape + strlen(shape), sizeof shape - strlen(shape), i ? ",%zu" : "%zu",
                 t->shape[i]);
    snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "]");
    snprintf(victim_name, sizeof victim_name, "tensor %s has dtype F64, expected F32, F16%s",
             t->name, t->n_dims == 2 && !strstr(t->name, "wpe") ? ", BF16 or I8" : " or BF16");
    raw_tensor(r, t->name, "F64", shape, bytes, 2 * t->bytes);
}

static void poison_one(struct raw_st *r, const struct st_tensor *t)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    if (seen++ != victim) {
        raw_copy(r, t->name, t);
        return;
    }
    size_t at = (victim * 31) % t->elements;
    float *x = malloc(t->bytes);
    memcpy(x, t->data, t->bytes);
    x[at] = bad[victim % 3];
    struct st_tensor copy = *t;
    copy.data = x;
    raw_copy(r, t->name, &copy);
    int n = snprintf(victim_name, sizeof victim_name, "tensor %s has %s at [", t->name,
                     victim % 3 ? "an infinity" : "a NaN");
    if (t->n_dims == 2)
        n += snprintf(victim_name + n, sizeof victim_name - (size_t)n, "%zu, ", at / t->shape[1]);
    snprintf(victim_name + n, sizeof victim_name - (size_t)n, "%zu]",
             t->n_dims == 2 ? at % t->shape[1] : at);
    free(x);
}

START_TEST(each_tensor_in_turn)
{
    static const struct {
        edit *e;
        int code;
    } t[] = {{drop_one, ERR_MISSING},
             {flatten_one, ERR_INVALID},
             {double_one, ERR_UNSUPPORTED},
             {poison_one, ERR_INVALID}};
    struct make_model o = small;
    o.layers = 1;
    victim = (size_t)_i; /* 2 embeddings, 12 tensors of a layer, 2 of ln_f */
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        seen = 0;
        const char *dir = edited(&o, t[i].e);
        ck_assert_uint_eq(seen, 16);
        refused_dir(dir, t[i].code, victim_name);
    }
}
END_TEST

static void poison_half(struct raw_st *r, const struct st_tensor *t)
{
    if (!is(t, "transformer.h.0.mlp.c_proj.weight")) {
        raw_copy(r, t->name, t);
        return;
    }
    uint16_t x[40 * 24];
    memcpy(x, t->data, sizeof x);
    x[39 * 24 + 23] = t->dtype == DTYPE_F16 ? 0xfc00 : 0x7f81;
    struct st_tensor copy = *t;
    copy.data = x;
    raw_copy(r, t->name, &copy);
}

START_TEST(poison_in_half_precision)
{
    struct make_model o = small;
    o.dtype = DTYPE_F16;
    refused_dir(edited(&o, poison_half), ERR_INVALID, "c_proj.weight has an infinity at [39, 23]");
    o.dtype = DTYPE_BF16;
    refused_dir(edited(&o, poison_half), ERR_INVALID, "c_proj.weight has a NaN at [39, 23]");
}
END_TEST

/* 8-bit numbers that are served as they are, but not in F32: by a scale that is finite. */
static void large_scale(struct raw_st *r, const struct st_tensor *t)
{
    static const int8_t x[24 * 40] = {[7] = 100};
    const float scale[40] = {[7] = 3e38F};
    if (!is(t, "transformer.h.0.mlp.c_fc.weight")) {
        raw_copy(r, t->name, t);
        return;
    }
    raw_tensor(r, t->name, "I8", "[24, 40]", x, sizeof x);
    raw_tensor(r, "transformer.h.0.mlp.c_fc.weight_scale", "F32", "[40]", scale, sizeof scale);
}

START_TEST(scales_too_large_for_the_type)
{
#define SAYS(most) "c_fc.weight_scale has 3e+38 at [7], expected at most " most
    static const char *const says[] = {NULL, SAYS("2.65846e+36 for weights held as F32"),
                                       SAYS("2.64807e+36 for weights held as BF16"), NULL};
    const char *dir = edited(&small, large_scale);
    const struct compute c = {.k = kernels_scalar()};
    for (enum gpt2_dtype t = GPT2_AUTO; t <= GPT2_INT8; t++) {
        struct gpt2 *m = NULL;
        struct err err = {0};
        ck_assert_int_eq(gpt2_open_with(&m, dir, &c, &(struct gpt2_options){.dtype = t}, &err),
                         says[t] ? ERR_INVALID : 0);
        ck_assert_msg(!says[t] || strstr(err.msg, says[t]) != NULL, "%s", err.msg);
        gpt2_close(m);
    }
}
END_TEST

static const struct {
    const char *name, *says;
    int code;
} extra[] = {
    {"transformer.h.2.ln_1.weight", "tensor transformer.h.2.ln_1.weight is not part", ERR_INVALID},
    {"score.weight", "tensor score.weight is the head of a classifier", ERR_UNSUPPORTED},
    {"score.bias", "tensor score.bias is not part of a GPT-2 of 2 layers", ERR_INVALID},
    {"transformer.h.0.attn.bias2", "attn.bias2 is not part", ERR_INVALID},
    {"transformer.h..attn.bias", "h..attn.bias is not part", ERR_INVALID},
    {"transformer.", "tensor transformer. is not part", ERR_INVALID},
    {"h.0.ln_1.weight", "are the same weight h.0.ln_1.weight", ERR_INVALID},
    {"transformer.h.0.crossattention.c_attn.weight", "crossattention", ERR_INVALID},
    {"transformer.h.0.mlp.c_fc.ttm.cores.0", "cores.0 has 1 dimensions, expected 4", ERR_INVALID},
    {"module.h.1.mlp.c_proj.ttm.tt.cores.3", "core 0 of h.1.mlp.c_proj is missing", ERR_MISSING},
    {"h.1.mlp.c_proj.ttm.corez.0", "h.1.mlp.c_proj.ttm.corez.0 is not part", ERR_INVALID},
};

static void add_extra(struct raw_st *r, const struct st_tensor *t)
{
    raw_copy(r, t->name, t);
    if (is(t, "transformer.wte.weight"))
        raw_tensor(r, extra[victim].name, "F32", "[24]", t->data, 96);
}

START_TEST(unknown_tensors)
{
    victim = (size_t)_i;
    refused_dir(edited(&small, add_extra), extra[_i].code, extra[_i].says);
}
END_TEST

START_TEST(sizes_that_the_file_does_not_have)
{
    static const struct {
        const char *key, *says;
        int code;
    } t[] = {
        {"n_layer", "config.json promises 16777216 layers", ERR_MISSING},
        {"vocab_size", "wte.weight has shape [50, 24], expected [16777216, 24]", ERR_INVALID},
        {"n_positions", "wpe.weight has shape [30, 24], expected [16777216", ERR_INVALID},
        {"n_inner", "mlp.c_fc.weight has shape [24, 40], expected [24, 16777216]", ERR_INVALID},
        {"n_embd", "wte.weight has shape [50, 24], expected [50, 16777216]", ERR_INVALID}};
    static const char *const keys[] = {"n_layer",     "n_head",     "n_embd",
                                       "n_positions", "vocab_size", "n_inner"};
    static const int sizes[] = {2, 2, 24, 30, 50, 40};
    const char *dir = edited(&small, keep);
    struct buf b = {0};
    buf_puts(&b, "{\"model_type\": \"gpt2\"");
    for (size_t i = 0; i < 6; i++)
        buf_printf(&b, ", \"%s\": %d", keys[i], strcmp(keys[i], t[_i].key) ? sizes[i] : 1 << 24);
    buf_puts(&b, "}");
    write_file(path_join(dir, "config.json"), b.data, b.len);
    buf_release(&b);
    refused_dir(dir, t[_i].code, t[_i].says);
}
END_TEST

/* ---- progress ---- */

static void note(void *arg, double fraction)
{
    double *last = arg;
    ck_assert(fraction > *last && fraction <= 1);
    *last = fraction;
}

START_TEST(progress_rises_to_one)
{
    struct compute c = {.k = kernels_scalar()};
    struct gpt2 *m;
    double last = 0;
    ck_assert_int_eq(pool_new(&c.pool, 3, NULL), 0);
    ck_assert_int_eq(gpt2_open(&m, edited(&small, keep), &c, note, &last, NULL), 0);
    ck_assert(last == 1);
    gpt2_close(m);
    pool_free(c.pool);
}
END_TEST

static void cut(void *path, double fraction)
{
    (void)fraction;
    ck_assert_int_eq(truncate(path, 0), 0);
}

/* Weights are packed from a mapping: a file that ends under it ends the loading, and not the process. */
START_TEST(a_file_that_is_cut_while_it_loads)
{
    struct compute c = {.k = kernels_scalar()};
    struct make_model larger = small;
    struct gpt2 *m = NULL;
    struct err err = {0};
    const char *dir = temp_dir();
    char *path = strdup(path_join(dir, "model.safetensors"));
    larger.channels = 96;
    make_model(dir, &larger);
    ck_assert_int_eq(gpt2_open(&m, dir, &c, cut, path, &err), ERR_INVALID);
    ck_assert_ptr_null(m);
    ck_assert_ptr_nonnull(strstr(err.msg, "model.safetensors changed while it was read"));
    free(path);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("model");
    TCase *t = tcase_create("model");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, facts);
    tcase_add_test(t, attention_scales);
    tcase_add_loop_test(t, native_dtypes, 0, 3);
    tcase_add_loop_test(t, buffers_and_prefixes, 0, 3);
    tcase_add_test(t, tied_heads);
    tcase_add_loop_test(t, each_tensor_in_turn, 0, 16);
    tcase_add_test(t, poison_in_half_precision);
    tcase_add_test(t, scales_too_large_for_the_type);
    tcase_add_loop_test(t, unknown_tensors, 0, sizeof extra / sizeof *extra);
    tcase_add_loop_test(t, sizes_that_the_file_does_not_have, 0, 5);
    tcase_add_test(t, progress_rises_to_one);
    tcase_add_test(t, a_file_that_is_cut_while_it_loads);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
