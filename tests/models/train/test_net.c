/* The layout of parameters, its way to a checkpoint and back, and that the engine computes from that
 * checkpoint what the trainer computed: dense and TTM. */
#include "models/train/net.h"

#include <sys/stat.h>

#include "models/train/backprop.h"
#include "tests/models/train/naive_train.h"
#include "tests/support/gpt2_run.h"
#include "tests/support/harness.h"

static const struct gpt2_config small = {.n_layer = 2,
                                         .n_head = 4,
                                         .n_embd = 32,
                                         .n_positions = 24,
                                         .vocab_size = 50,
                                         .n_inner = 128,
                                         .layer_norm_epsilon = 1e-5F,
                                         .activation = ACT_GELU_NEW,
                                         .scale_attn_weights = true,
                                         .tie_word_embeddings = true,
                                         .bos_token_id = -1,
                                         .eos_token_id = -1};

static struct compute compute;

static void setup(void)
{
    static struct cpu cpu;
    cpu_detect(&cpu);
    compute.k = kernels_choose(&cpu, NULL);
}

static void make_net(struct net *net, float **w, bool ttm, bool untied)
{
    net_shapes shapes[2];
    struct gpt2_config cfg = small;
    memset(shapes, 0, sizeof shapes);
    for (int j = 0; ttm && j < NET_LINEARS; j++) {
        const int sizes[NET_LINEARS][2] = {{32, 96}, {32, 32}, {32, 128}, {128, 32}};
        ck_assert_int_eq(ttm_shape_paper(&shapes[1][j], sizes[j][0], sizes[j][1], 6, "t", NULL), 0);
        ttm_shape_cap_exact(&shapes[1][j]);
    }
    cfg.tie_word_embeddings = !untied;
    ck_assert_int_eq(net_init(net, &cfg, untied, shapes, NULL), 0);
    *w = mem_calloc(net->floats, sizeof **w);
    ck_assert_int_eq(net_random(net, *w, 7, NULL), 0);
    for (size_t i = 0; i < net->n_tensors; i++) { /* no term vanishes */
        const struct net_tensor *t = &net->tensors[i];
        for (size_t k = 0; t->kind != CHECKPOINT_WEIGHT && k < t->elements; k++)
            (*w)[t->offset + k] += 0.1F * (float)((k * 7 + i) % 11) - 0.5F;
        for (size_t k = 0; t->kind == CHECKPOINT_WEIGHT && t->core < 0 && k < t->elements; k++)
            (*w)[t->offset + k] *= 6;
    }
}

static const char *save(const struct net *net, const float *w, const char *name)
{
    struct buf b = {0};
    struct err err = {0};
    const char *dir = path_join(temp_dir(), name);
    mkdir(dir, 0700);
    checkpoint_config_json(&net->cfg, DTYPE_F32, &b);
    write_file(path_join(dir, "config.json"), b.data, b.len);
    buf_release(&b);
    ck_assert_msg(net_save(net, w, DTYPE_F32, path_join(dir, "model.safetensors"), &err) == 0, "%s",
                  err.msg);
    return dir;
}

static void engine_agrees(bool ttm, bool untied)
{
    enum { T = 20 };
    struct net net;
    float *w;
    struct backprop *b;
    struct gpt2_run run;
    int32_t tokens[T];
    make_net(&net, &w, ttm, untied);
    const char *dir = save(&net, w, "engine");
    for (int i = 0; i < T; i++)
        tokens[i] = (i * 13 + 5) % 50;
    struct backprop_options o = {.sequences = 1, .length = T};
    struct backprop_batch batch = {.tokens = tokens, .sequences = 1, .length = T};
    ck_assert_int_eq(backprop_new(&b, &net, &o, &compute, NULL), 0);
    const float *hidden = backprop_hidden(b, w, &batch);
    float *logits = mem_alloc(T * 50 * sizeof *logits);
    gpt2_run_open(&run, dir, 1, NULL, DTYPE_F32, 1, T);
    gpt2_run_logits(&run, 0, tokens, T, T, logits);
    for (int r = 0; r < T; r++)
        for (int j = 0; j < 50; j++) {
            double s = 0;
            for (int i = 0; i < 32; i++)
                s += (double)hidden[r * 32 + i] * (double)w[net.head + (size_t)(j * 32 + i)];
            assert_close(logits[r * 50 + j], s, 2e-4, 1e-4);
        }
    gpt2_run_close(&run);
    backprop_free(b);
    net_release(&net);
    free(logits);
    free(w);
}

START_TEST(the_engine_computes_the_same)
{
    engine_agrees(_i & 1, _i & 2);
}
END_TEST

START_TEST(a_checkpoint_comes_back)
{
    struct net net, again;
    float *w;
    struct st_set *st;
    struct err err = {0};
    make_net(&net, &w, true, true);
    const char *dir = save(&net, w, "back");
    net_shapes shapes[2];
    ck_assert_int_eq(st_open(&st, dir, &err), 0);
    ck_assert_int_eq(net_shapes_of(st, &small, shapes, &err), 0);
    ck_assert(net_has_head(st));
    ck_assert_int_eq(shapes[0][NET_FC].d, 0);
    ck_assert_int_eq(net_init(&again, &net.cfg, true, shapes, &err), 0);
    ck_assert_uint_eq(again.floats, net.floats);
    ck_assert_uint_eq(again.params, net.params);
    float *v = mem_calloc(net.floats, sizeof *v);
    ck_assert_msg(net_load(&again, st, v, &err) == 0, "%s", err.msg);
    ck_assert(memcmp(v, w, net.floats * sizeof *w) == 0);
    st_close(st);
    net_release(&again);
    struct net dense;
    ck_assert_int_eq(net_init(&dense, &small, false, NULL, &err), 0);
    float *u = mem_calloc(dense.floats, sizeof *u);
    ck_assert_int_eq(st_open(&st, dir, &err), 0);
    ck_assert_int_eq(net_load(&dense, st, u, &err), ERR_MISSING);
    ck_assert_ptr_nonnull(strstr(err.msg, "h.1.attn.c_attn.weight"));
    st_close(st);
    net_release(&dense);
    net_release(&net);
    free(u);
    free(v);
    free(w);
}
END_TEST

START_TEST(parameters_are_counted)
{
    struct net net;
    struct gpt2_config gpt2 = small;
    gpt2.n_layer = 12;
    gpt2.n_head = 12;
    gpt2.n_embd = 768;
    gpt2.n_inner = 3072;
    gpt2.n_positions = 1024;
    gpt2.vocab_size = 50257;
    ck_assert_int_eq(net_init(&net, &gpt2, false, NULL, NULL), 0);
    ck_assert_uint_eq(net.params, 124439808);
    ck_assert_uint_eq(net_matmul_params(&net), 12 * 12 * 768 * 768 + 50257 * 768);
    net_release(&net);
}
END_TEST

START_TEST(shapes_of_another_size_are_refused)
{
    struct net net;
    struct err err = {0};
    net_shapes shapes[2];
    memset(shapes, 0, sizeof shapes);
    ck_assert_int_eq(ttm_shape_paper(&shapes[1][NET_FC], 32, 64, 4, "t", NULL), 0);
    ck_assert_int_eq(net_init(&net, &small, false, shapes, &err), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(err.msg, "h.1.mlp.c_fc"));
}
END_TEST

START_TEST(more_layers_than_tensors_are_refused)
{
    struct net net, other = {0};
    float *w, *none = NULL;
    struct buf b = {0};
    struct err err = {0};
    make_net(&net, &w, false, false);
    const char *dir = save(&net, w, "many");
    struct gpt2_config many = small;
    many.n_layer = 1 << 24;
    checkpoint_config_json(&many, DTYPE_F32, &b);
    write_file(path_join(dir, "config.json"), b.data, b.len);
    buf_release(&b);
    ck_assert_int_eq(net_open(&other, &none, dir, 0, &err), ERR_MISSING);
    ck_assert_msg(strstr(err.msg, "28 tensors are too few for the 16777216 layers") != NULL, "%s",
                  err.msg);
    net_release(&other);
    net_release(&net);
    free(w);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("net");
    TCase *t = tcase_create("net");
    tcase_add_unchecked_fixture(t, setup, NULL);
    tcase_add_loop_test(t, the_engine_computes_the_same, 0, 4);
    tcase_add_test(t, a_checkpoint_comes_back);
    tcase_add_test(t, more_layers_than_tensors_are_refused);
    tcase_add_test(t, parameters_are_counted);
    tcase_add_test(t, shapes_of_another_size_are_refused);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
