/* Layers of a model directory: found under every name that checkpoints use, counted, chosen by patterns,
 * and refused with a message that says which tensor is wrong. */
#include "models/layers.h"

#include "tests/models/rewrite_testing.h"
#include "tests/support/raw_st.h"

static const char *const cores[4] = {"(4,24)(8,4)", NULL, "(4,16)(8,8)", "(16,4)(8,9)"};

static const struct {
    const char *prefix, *cores;
} names[] = {{"transformer.", ".ttm.cores."},
             {"", ".ttm.cores."},
             {"module.transformer.", ".ttm.tt.cores."},
             {"", ".ttm.tt.cores."}};

START_TEST(found_under_every_name)
{
    struct make_model m = {.prefix = names[_i].prefix, .ttm_cores = names[_i].cores};
    memcpy(m.ttm, cores, sizeof m.ttm);
    struct layers l;
    open_layers(&l, new_model("m", m));
    ck_assert_uint_eq(l.n, 8);
    ck_assert_str_eq(l.layer[6].name, "h.1.mlp.c_fc");
    ck_assert_int_eq(l.layer[6].in, 32);
    ck_assert_int_eq(l.layer[6].out, 128);
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%sh.1.mlp.c_fc", names[_i].prefix);
    ck_assert_str_eq(l.layer[6].prefix, prefix);
    ck_assert(!l.layer[6].weight && l.layer[6].ttm.shape.d == 2 && l.layer[6].has_bias);
    ck_assert(l.layer[5].weight && l.layer[5].ttm.shape.d == 0);
    size_t stored, dense, of = 0;
    layers_params(&l, &stored, &dense);
    size_t attn = 3 * (4 * 24 + 8 * 4), fc = 3 * (4 * 16 + 8 * 8), proj = 3 * (16 * 4 + 8 * 9);
    ck_assert_uint_eq(dense - stored, 2 * (32 * 96 + 2 * 32 * 128 - attn - fc - proj));
    ck_assert_uint_eq(layers_stored(&l.layer[7]), proj);
    for (size_t i = 0; i < st_count(l.set); i++)
        of += l.of[i] != NULL;
    ck_assert_uint_eq(of, 2 * (3 * 2 + 1));
    ck_assert_ptr_eq(l.of[l.layer[4].first], &l.layer[4]);
    layers_close(&l);
}
END_TEST

static int selected(const struct layers *l, const char *patterns)
{
    bool chosen[8];
    int mask = 0;
    struct err err = {0};
    ck_assert_msg(layers_select(l, patterns, chosen, &err) == 0, "%s", err.msg);
    for (int i = 0; i < 8; i++)
        mask |= (int)chosen[i] << i;
    return mask;
}

START_TEST(patterns_choose)
{
    struct layers l;
    struct err err = {0};
    bool chosen[8];
    open_layers(&l, new_model("m", (struct make_model){0}));
    ck_assert_int_eq(selected(&l, "all"), 0xff);
    ck_assert_int_eq(selected(&l, "mlp"), 0xcc);
    ck_assert_int_eq(selected(&l, "h.*.mlp.c_fc"), 0x44);
    ck_assert_int_eq(selected(&l, "h.1.*,h.0.attn.c_attn"), 0xf1);
    ck_assert_int_eq(selected(&l, "*.c_proj,mlp"), 0xee);
    ck_assert_int_eq(layers_select(&l, "mlp,h.2.*", chosen, &err), ERR_INVALID);
    ck_assert_str_eq(err.msg,
                     "--layers: \"h.2.*\" matches none of the layers h.0.attn.c_attn .. "
                     "h.1.mlp.c_proj");
    ck_assert_int_eq(layers_select(&l, "", chosen, NULL), ERR_INVALID);
    layers_close(&l);
}
END_TEST

/* A head stored although it is tied, and a mask, are no parameters. */
START_TEST(what_is_not_counted)
{
    const char *dir = new_model("m", (struct make_model){0});
    struct layers l;
    open_layers(&l, dir);
    struct raw_st r = {0};
    static const unsigned char mask[4] = {1, 0, 1, 1};
    size_t before, after, dense;
    layers_params(&l, &before, &dense);
    ck_assert_uint_eq(before, dense);
    for (size_t i = 0; i < st_count(l.set); i++)
        raw_copy(&r, st_at(l.set, i)->name, st_at(l.set, i));
    raw_tensor(&r, "transformer.h.0.attn.bias", "U8", "[1,1,2,2]", mask, sizeof mask);
    raw_copy(&r, "lm_head.weight", st_find(l.set, "transformer.wte.weight"));
    layers_close(&l);
    raw_write(&r, path_join(dir, "model.safetensors"));
    open_layers(&l, dir);
    layers_params(&l, &after, &dense);
    ck_assert_uint_eq(after, before);
    layers_close(&l);
}
END_TEST

/* Each copies a good model and spoils one tensor of h.0.mlp.c_fc, whose cores are (1,4,16,3) (3,8,8,1). */
static const struct {
    const char *tensor; /* left out, and put back as: */
    const char *name, *dtype, *shape;
    size_t bytes;
    const char *says;
} spoilt[] = {
    {"ttm.cores.1", NULL, NULL, NULL, 0, "ttm.cores.0 ends with rank 3, expected 1"},
    {"ttm.cores.0", NULL, NULL, NULL, 0, "core 0 of h.0.mlp.c_fc is missing"},
    {"ttm.cores.1", "ttm.cores.1", "F32", "[2,8,8,1]", 512, "begins with rank 2, expected 3"},
    {"ttm.cores.1", "ttm.cores.1", "F32", "[3,8,8,2]", 1536, "ends with rank 2, expected 1"},
    {"ttm.cores.1", "ttm.cores.1", "F32", "[3,0,8,1]", 0, "has 0 in dimension 1"},
    {"ttm.cores.1", "ttm.cores.1", "F32", "[24,8]", 768, "has 2 dimensions, expected 4"},
    {"ttm.cores.1", "ttm.cores.1", "I32", "[3,8,8,1]", 768, "has dtype I32"},
    {"ttm.cores.1", "ttm.cores.2", "F32", "[3,8,8,1]", 768, "core 1 of h.0.mlp.c_fc is missing"},
    {"bias", "weight", "F32", "[32,128]", 16384, "are the same weight"},
};

START_TEST(malformed_layers_are_refused)
{
    struct make_model m = {.ttm = {NULL, NULL, "(4,16)(8,8)", NULL}};
    const char *dir = new_model("m", m), *layer = "transformer.h.0.mlp.c_fc.";
    struct layers l;
    struct raw_st r = {0};
    char name[64];
    void *zeros = calloc(1, 20000);
    open_layers(&l, dir);
    snprintf(name, sizeof name, "%s%s", layer, spoilt[_i].tensor);
    ck_assert_ptr_nonnull(st_find(l.set, name));
    for (size_t i = 0; i < st_count(l.set); i++)
        if (strcmp(st_at(l.set, i)->name, name) != 0)
            raw_copy(&r, st_at(l.set, i)->name, st_at(l.set, i));
    layers_close(&l);
    snprintf(name, sizeof name, "%s%s", layer, spoilt[_i].name ? spoilt[_i].name : "");
    if (spoilt[_i].name)
        raw_tensor(&r, name, spoilt[_i].dtype, spoilt[_i].shape, zeros, spoilt[_i].bytes);
    raw_write(&r, path_join(dir, "model.safetensors"));
    const char *top = temp_dir(), *out = path_join(top, "out");
    REFUSED(cmd_export, spoilt[_i].says, dir, "-o", out);
    REFUSED(cmd_round, spoilt[_i].says, dir, "-o", out);
    REFUSED(cmd_compress, spoilt[_i].says, dir, "-o", out, "--layers", "mlp", "--rank", "2");
    ck_assert_int_eq(tool_entries(top), 0);
    free(zeros);
}
END_TEST

START_TEST(a_weight_of_another_size_is_refused)
{
    const char *dir = new_model("m", (struct make_model){0});
    struct layers l;
    struct raw_st r = {0};
    open_layers(&l, dir);
    for (size_t i = 0; i < st_count(l.set); i++) {
        const struct st_tensor *t = st_at(l.set, i);
        if (!strcmp(t->name, "transformer.h.1.mlp.c_fc.weight"))
            raw_tensor(&r, t->name, "F32", "[128,32]", t->data, t->bytes);
        else
            raw_copy(&r, t->name, t);
    }
    layers_close(&l);
    raw_write(&r, path_join(dir, "model.safetensors"));
    struct err err = {0};
    ck_assert_int_eq(layers_open(&l, dir, &err), ERR_INVALID);
    ck_assert_str_eq(err.msg,
                     "model.safetensors: tensor transformer.h.1.mlp.c_fc.weight has shape "
                     "[128, 32], expected [32, 128]");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("layers");
    TCase *t = tcase_create("layers");
    tcase_add_loop_test(t, found_under_every_name, 0, (int)(sizeof names / sizeof *names));
    tcase_add_test(t, patterns_choose);
    tcase_add_test(t, what_is_not_counted);
    tcase_add_loop_test(t, malformed_layers_are_refused, 0, (int)(sizeof spoilt / sizeof *spoilt));
    tcase_add_test(t, a_weight_of_another_size_is_refused);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
