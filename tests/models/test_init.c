/* ttm init: what the numbers are distributed as, that a seed decides them alone, that the directory
 * appears whole or not at all, and that nothing that is no model is ever replaced. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/dtype.h"
#include "engine/gpt2/gpt2_config.h"
#include "engine/gpt2/model.h"
#include "engine/gpt2/safetensors.h"
#include "engine/gpt2/tokenizer.h"
#include "engine/gpt2/ttm_tensors.h"
#include "models/checkpoint.h"
#include "models/init_tensors.h"
#include "models/init_weights.h"
#include "tests/support/harness.h"
#include "tests/support/tool_call.h"

/* Runs init; the words are those after `-o DIR`. */
#define INIT(dir, ...) init((dir), (const char *const[]){"-o", (dir), __VA_ARGS__, NULL})
static void init(const char *dir, const char *const *words)
{
    struct tool_result r;
    tool_call(cmd_init, words, &r);
    ck_assert_msg(r.rc == 0, "%s: %s", dir, r.err.msg);
    ck_assert_str_eq(r.out, "");
    tool_result_release(&r);
}

static struct st_set *open_set(const char *dir)
{
    struct err err = {0};
    struct st_set *s = NULL;
    ck_assert_msg(st_open(&s, dir, &err) == 0, "%s", err.msg);
    return s;
}

static float *values(const struct st_set *s, const char *name, size_t *n)
{
    const struct st_tensor *t = st_find(s, name);
    ck_assert_msg(t != NULL, "%s is missing", name);
    float *v = malloc(t->elements * sizeof *v);
    dtype_to_f32(v, t->data, t->dtype, t->elements);
    *n = t->elements;
    return v;
}

static void moments(const struct st_set *s, const char *name, double *mean, double *std)
{
    size_t n;
    float *v = values(s, name, &n);
    double sum = 0, sq = 0;
    for (size_t i = 0; i < n; i++) {
        ck_assert(isfinite(v[i]));
        sum += (double)v[i];
        sq += (double)v[i] * (double)v[i];
    }
    *mean = sum / (double)n;
    *std = sqrt(sq / (double)n - *mean * *mean);
    free(v);
}

START_TEST(weights_are_distributed_as_said)
{
    const char *dir = path_join(temp_dir(), "m");
    INIT(dir, "--preset", "tiny", "--seed", "3");
    struct st_set *s = open_set(dir);
    double mean, std;
    moments(s, "transformer.wte.weight", &mean, &std); /* 32768 values: 3 sigma is 1.2 % */
    assert_close(mean, 0, 4e-4, 0);
    assert_close(std, 0.02, 0, 0.02);
    moments(s, "transformer.h.1.mlp.c_proj.weight", &mean, &std);
    assert_close(std, 0.02, 0, 0.03);
    moments(s, "transformer.h.0.ln_1.weight", &mean, &std);
    ck_assert(mean == 1 && std == 0);
    moments(s, "transformer.h.0.attn.c_attn.bias", &mean, &std);
    ck_assert(mean == 0 && std == 0);
    st_close(s);
    dir = path_join(temp_dir(), "r");
    INIT(dir, "--preset", "tiny", "--seed", "3", "--random-biases");
    s = open_set(dir);
    moments(s, "transformer.h.0.mlp.c_fc.bias", &mean, &std); /* 256 values */
    assert_close(std, 0.02, 0, 0.2);
    moments(s, "transformer.h.0.ln_1.weight", &mean, &std);
    assert_close(mean, 1, 0.02, 0);
    ck_assert(std > 0.01);
    st_close(s);
}
END_TEST

static bool same_file(const char *a, const char *b, const char *name)
{
    size_t na, nb;
    char *x = read_file(path_join(a, name), &na), *y = read_file(path_join(b, name), &nb);
    bool same = na == nb && memcmp(x, y, na) == 0;
    free(x);
    free(y);
    return same;
}

/* Large enough for several pieces of several tensors. */
#define WIDE "--channels", "256", "--vocab", "1000", "--layers", "1"

START_TEST(the_seed_decides)
{
    const char *d = temp_dir();
    const char *a = path_join(d, "a"), *b = path_join(d, "b"), *c = path_join(d, "c");
    INIT(a, WIDE, "--seed", "5", "--threads", "1");
    INIT(b, WIDE, "--seed", "5", "--threads", "3");
    INIT(c, WIDE, "--seed", "6");
    static const char *const files[] = {"model.safetensors", "config.json", "tokenizer.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        ck_assert(same_file(a, b, files[i]));
    ck_assert(!same_file(a, c, "model.safetensors"));
    struct st_set *s = open_set(a); /* no two pieces, and no two tensors, share their numbers */
    size_t n, m;
    float *v = values(s, "transformer.wte.weight", &n);
    float *w = values(s, "transformer.wpe.weight", &m);
    ck_assert_uint_gt(n, 2 << 16);
    ck_assert_int_ne(memcmp(v, v + (1 << 16), 64 * sizeof *v), 0);
    ck_assert_int_ne(memcmp(v, w, 64 * sizeof *v), 0);
    free(v);
    free(w);
    st_close(s);
}
END_TEST

static const struct {
    const char *words[16];
    struct gpt2_config want;
    bool untied;
    enum dtype dtype;
} shapes[] = {
    {{"--preset", "tiny"},
     {.n_layer = 2,
      .n_embd = 64,
      .n_head = 4,
      .n_positions = 128,
      .vocab_size = 512,
      .n_inner = 256,
      .activation = ACT_GELU_NEW},
     false,
     DTYPE_F32},
    {{"--layers=1", "--channels=36", "--heads=3", "--positions=17", "--vocab=301", "--inner=50",
      "--dtype=f16", "--activation=relu", "--untied", "--random-biases"},
     {.n_layer = 1,
      .n_embd = 36,
      .n_head = 3,
      .n_positions = 17,
      .vocab_size = 301,
      .n_inner = 50,
      .activation = ACT_RELU},
     true,
     DTYPE_F16},
    {{"--preset=distilgpt2", "--layers=2", "--channels=24", "--vocab=257", "--dtype=bf16"},
     {.n_layer = 2,
      .n_embd = 24,
      .n_head = 12,
      .n_positions = 1024,
      .vocab_size = 257,
      .n_inner = 96,
      .activation = ACT_GELU_NEW},
     false,
     DTYPE_BF16},
};

START_TEST(the_loader_takes_it)
{
    const char *dir = path_join(temp_dir(), "m");
    const char *words[20] = {"-o", dir};
    memcpy(words + 2, shapes[_i].words, sizeof shapes[_i].words);
    init(dir, words);
    const struct gpt2_config *want = &shapes[_i].want;
    struct compute c = {.k = kernels_scalar()};
    struct err err = {0};
    struct gpt2 *m = NULL;
    ck_assert_msg(gpt2_open(&m, dir, &c, NULL, NULL, &err) == 0, "%s", err.msg);
    ck_assert_int_eq(m->cfg.n_layer, want->n_layer);
    ck_assert_int_eq(m->cfg.n_embd, want->n_embd);
    ck_assert_int_eq(m->cfg.n_head, want->n_head);
    ck_assert_int_eq(m->cfg.n_positions, want->n_positions);
    ck_assert_int_eq(m->cfg.vocab_size, want->vocab_size);
    ck_assert_int_eq(m->cfg.n_inner, want->n_inner);
    ck_assert_int_eq(m->cfg.activation, want->activation);
    ck_assert_int_eq(m->tied, !shapes[_i].untied);
    ck_assert_int_eq(m->dtype, shapes[_i].dtype);
    ck_assert_uint_eq(m->n_params, checkpoint_params(want, shapes[_i].untied));
    struct tokenizer *t = NULL;
    ck_assert_msg(tokenizer_open(&t, dir, &err) == 0, "%s", err.msg);
    ck_assert_int_eq(tokenizer_vocab(t), want->vocab_size);
    ck_assert_int_eq(m->cfg.eos_token_id, tokenizer_eos(t));
    tokenizer_close(t);
    gpt2_close(m);
}
END_TEST

START_TEST(replaces_only_models)
{
    const char *top = temp_dir();
    const char *m = path_join(top, "m"), *home = path_join(top, "home");
    ck_assert_int_eq(mkdir(m, 0700), 0); /* an empty directory is no obstacle */
    INIT(m, "--seed", "1");
    REFUSED(cmd_init, "not empty; --force", "-o", m, "--seed", "2");
    char *before = read_file(path_join(m, "model.safetensors"), NULL);
    INIT(m, "--seed", "2", "--force");
    char *after = read_file(path_join(m, "model.safetensors"), NULL);
    ck_assert_int_ne(memcmp(before + 4000, after + 4000, 10000), 0);
    free(before);
    free(after);
    ck_assert_int_eq(mkdir(home, 0700), 0);
    write_file(path_join(home, "letter.txt"), "dear", 4);
    REFUSED(cmd_init, "has no config.json", "-o", home, "--force");
    ck_assert_int_eq(mkdir(path_join(m, "sub"), 0700), 0);
    REFUSED(cmd_init, "contains directories", "-o", m, "--force");
    REFUSED(cmd_init, "not a directory", "-o", path_join(home, "letter.txt"), "--force");
    ck_assert_int_eq(access(path_join(home, "letter.txt"), R_OK), 0);
    ck_assert_int_eq(tool_entries(top), 2);
}
END_TEST

START_TEST(refuses_by_name)
{
    const char *top = temp_dir();
    const char *m = path_join(top, "m");
    REFUSED(cmd_init, "--out is missing", "--seed", "1");
    REFUSED(cmd_init, "name of the output directory", "-o", "");
    REFUSED(cmd_init, "--heads: 5 heads do not divide 64 channels", "-o", m, "--heads", "5");
    REFUSED(cmd_init, "--preset: \"huge\" is not one of gpt2|", "-o", m, "--preset", "huge");
    REFUSED(cmd_init, "--layers", "-o", m, "--layers", "0");
    REFUSED(cmd_init, "--channels: 8388608 channels make", "-o", m, "--channels", "8388608");
    REFUSED(cmd_init, "no/such", "-o", m, "--tokenizer", path_join(top, "no/such"));
    REFUSED(cmd_init, "cannot make directory", "-o", path_join(top, "no/such"));
    REFUSED(cmd_init, "256", "-o", m, "--vocab", "256"); /* bytes and end-of-text are 257 */
    INIT(path_join(top, "large"), "--vocab", "400");
    REFUSED(cmd_init, "--vocab: the tokenizer has ids up to 399, the model only up to 299", "-o", m,
            "--vocab", "300", "--tokenizer", path_join(top, "large"));
    ck_assert_int_eq(tool_entries(top), 1);
}
END_TEST

START_TEST(takes_over_a_tokenizer)
{
    const char *dir = path_join(temp_dir(), "m");
    INIT(dir, "--vocab", "50257", "--channels", "4", "--tokenizer",
         shared_path("data/gpt2-tokenizer"));
    struct err err = {0};
    struct tokenizer *t = NULL;
    struct tokens ids = {0};
    ck_assert_msg(tokenizer_open(&t, dir, &err) == 0, "%s", err.msg);
    tokenizer_encode(t, "hello world", 11, true, &ids);
    ck_assert_uint_eq(ids.n, 2);
    ck_assert_int_eq(ids.ids[0], 31373);
    ck_assert_int_eq(ids.ids[1], 995);
    struct gpt2_config cfg;
    ck_assert_int_eq(gpt2_config_load(&cfg, dir, &err), 0);
    ck_assert_int_eq(cfg.eos_token_id, 50256);
    tokens_release(&ids);
    tokenizer_close(t);
}
END_TEST

/* The totals that the paper's authors report, stored, and what exact rounding leaves of them. */
START_TEST(paper_totals)
{
    static const struct {
        const char *preset;
        int rank, vocab;
        bool no_bias;
        size_t params, rounded;
    } known[] = {{"gpt2", 16, 0, true, 68085504, 68085504},
                 {"gpt2", 32, 0, true, 71756544, 69835872},
                 {"gpt2", 64, 0, true, 83606784, 75045984},
                 {"gpt2", 80, 0, false, 107698944, 86034048},
                 {"gpt2-medium", 72, 0, false, 218303488, 211201024}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        bool medium = !strcmp(known[i].preset, "gpt2-medium");
        struct gpt2_config cfg = {.n_layer = medium ? 24 : 12,
                                  .n_embd = medium ? 1024 : 768,
                                  .n_head = 12,
                                  .n_inner = medium ? 4096 : 3072,
                                  .n_positions = 1024,
                                  .vocab_size = 50257};
        struct init_weights w = {
            .cfg = &cfg, .ttm_rank = known[i].rank, .no_mlp_bias = known[i].no_bias};
        size_t params = 0;
        ck_assert_int_eq(init_weights_params(&w, &params, NULL), 0);
        ck_assert_uint_eq(params, known[i].params);
        struct init_tensor *list;
        size_t n;
        ck_assert_int_eq(init_tensors(&list, &n, &w, NULL), 0);
        for (size_t k = 0; k < n; k++) {
            struct ttm_shape s = list[k].ttm;
            if (list[k].core < 0) continue;
            ttm_shape_cap_exact(&s);
            params = params - list[k].elements + ttm_shape_core(&s, list[k].core);
        }
        free(list);
        ck_assert_uint_eq(params, known[i].rounded);
    }
}
END_TEST

/* Entries of W have the standard deviation of a dense layer; everything else is the dense model's. */
START_TEST(ttm_layers)
{
    const char *dense = path_join(temp_dir(), "d"), *ttm = path_join(temp_dir(), "t");
    INIT(dense, "--seed", "7", "--channels", "96");
    INIT(ttm, "--seed", "7", "--channels", "96", "--ttm-rank", "16", "--ttm-layers", "all",
         "--no-mlp-bias");
    struct st_set *a = open_set(dense), *b = open_set(ttm);
    size_t n, m;
    float *x = values(a, "transformer.wte.weight", &n),
          *y = values(b, "transformer.wte.weight", &m);
    ck_assert_uint_eq(n, m);
    ck_assert_mem_eq(x, y, n * sizeof *x);
    free(x), free(y);
    ck_assert_ptr_null(st_find(b, "transformer.h.0.mlp.c_fc.bias"));
    ck_assert_ptr_nonnull(st_find(b, "transformer.h.0.attn.c_attn.bias"));
    static const char *const layers[] = {"h.0.mlp.c_fc", "h.1.mlp.c_proj", "h.0.attn.c_attn",
                                         "h.1.attn.c_proj"};
    static const size_t dims[][2] = {{96, 384}, {384, 96}, {96, 288}, {96, 96}};
    for (size_t i = 0; i < 4; i++) {
        struct ttm_tensors t;
        struct ttm w;
        ck_assert_int_eq(ttm_tensors_find(&t, b, layers[i], dims[i][0], dims[i][1], NULL), 1);
        ck_assert_int_eq(ttm_tensors_load(&w, &t, layers[i], NULL), 0);
        float *W = malloc(dims[i][0] * dims[i][1] * sizeof *W);
        double sq = 0;
        ck_assert_int_eq(ttm_to_dense(&w, W, NULL), 0);
        for (size_t k = 0; k < dims[i][0] * dims[i][1]; k++)
            sq += (double)W[k] * (double)W[k];
        assert_close(sqrt(sq / (double)(dims[i][0] * dims[i][1])), 0.02, 0,
                     0.25); /* few independent numbers */
        free(W);
        ttm_release(&w);
    }
    st_close(a);
    st_close(b);
}
END_TEST

START_TEST(flags_of_ttm_need_a_rank)
{
    struct tool_result r;
    const char *dir = path_join(temp_dir(), "x");
    tool_call(cmd_init, (const char *const[]){"-o", dir, "--no-mlp-bias", NULL}, &r);
    ck_assert_int_eq(r.rc, ERR_INVALID);
    ck_assert_str_eq(r.err.msg, "--no-mlp-bias goes with --ttm-rank: dense layers have biases");
    tool_result_release(&r);
    tool_call(cmd_init, (const char *const[]){"-o", dir, "--ttm-layers", "all", NULL}, &r);
    ck_assert_int_eq(r.rc, ERR_MISSING);
    ck_assert_str_eq(r.err.msg, "--ttm-layers needs --ttm-rank");
    ck_assert_int_ne(access(dir, F_OK), 0);
    tool_result_release(&r);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("init");
    TCase *t = tcase_create("init");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, weights_are_distributed_as_said);
    tcase_add_test(t, the_seed_decides);
    tcase_add_loop_test(t, the_loader_takes_it, 0, (int)(sizeof shapes / sizeof *shapes));
    tcase_add_test(t, replaces_only_models);
    tcase_add_test(t, refuses_by_name);
    tcase_add_test(t, paper_totals);
    tcase_add_test(t, ttm_layers);
    tcase_add_test(t, flags_of_ttm_need_a_rank);
    if (shared_path("data/gpt2-tokenizer/encoder.json"))
        tcase_add_test(t, takes_over_a_tokenizer);
    else
        skip("takes_over_a_tokenizer", "no GPT-2 tokenizer in ../shared");
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
