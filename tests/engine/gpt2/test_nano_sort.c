/* An independently trained model, published with every intermediate of one pass: minGPT's gpt-nano,
 * which sorts three kinds of letters. Its JSON holds PyTorch Linear weights, (out, in), so that the
 * conversion to GPT-2's (in, out) is tested too. The oracle is compared at every intermediate of the
 * file, the engine at every one that it materialises. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/safetensors.h"
#include "tests/support/gpt2_run.h"
#include "tests/support/harness.h"
#include "tests/support/naive_gpt2.h"

enum { B = 3, T = 11, H = 3, C = 48, V = 3 };

static json_t *load(const char *name)
{
    json_error_t e;
    size_t len;
    char rel[128];
    snprintf(rel, sizeof rel, "data/gpt-nano-sort/%s", name);
    char *text = read_file(shared_path(rel), &len);
    json_t *o = json_loadb(text, len, 0, &e);
    ck_assert_msg(o != NULL, "%s", e.text);
    free(text);
    return o;
}

static int digit(char c)
{
    static const char table[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = strchr(table, c);
    if (!p)
        ck_abort_msg("'%c' is not base64", c); /* a passing ck_assert writes to a pipe: too slow */
    return (int)(p - table);
}

struct array {
    float *x; /* owned */
    size_t n, shape[4];
    int n_dims;
};

static struct array array_of(const json_t *v)
{
    struct array a = {.n = 1};
    const json_t *shape = json_object_get(v, "shape");
    a.n_dims = (int)json_array_size(shape);
    ck_assert_int_le(a.n_dims, 4);
    for (int i = 0; i < a.n_dims; i++)
        a.n *= a.shape[i] = (size_t)json_integer_value(json_array_get(shape, (size_t)i));
    const char *s = json_string_value(json_object_get(v, "data"));
    size_t len = strcspn(s, "="), bytes = 0;
    unsigned char *out = mem_alloc(len);
    uint32_t bits = 0;
    for (size_t i = 0; i < len; i++) {
        bits = bits << 6 | (uint32_t)digit(s[i]);
        if (i % 4) out[bytes++] = (unsigned char)(bits >> (6 - 2 * (i % 4)) & 0xff);
    }
    ck_assert_uint_eq(bytes, a.n * sizeof(float));
    a.x = mem_alloc(bytes);
    memcpy(a.x, out, bytes);
    free(out);
    return a;
}

/* ---- conversion ---- */

static bool is_linear(const char *name)
{
    return strstr(name, ".h.") && strstr(name, ".c_") && strstr(name, ".weight");
}

static void transpose(struct array *a)
{
    float *y = mem_alloc(a->n * sizeof *y);
    for (size_t i = 0; i < a->shape[0]; i++)
        for (size_t j = 0; j < a->shape[1]; j++)
            y[j * a->shape[0] + i] = a->x[i * a->shape[1] + j];
    size_t rows = a->shape[0];
    a->shape[0] = a->shape[1];
    a->shape[1] = rows;
    free(a->x);
    a->x = y;
}

static void convert(const char *dir)
{
    static const char config[] =
        "{\"model_type\": \"gpt2\", \"n_layer\": 3, \"n_head\": 3, \"n_embd\": 48, "
        "\"vocab_size\": 3, \"n_positions\": 11, \"tie_word_embeddings\": false}";
    struct err err = {0};
    struct st_writer *w = NULL;
    json_t *model = load("gpt-nano-sort-model.json"), *v;
    struct array arrays[64];
    int n = 0;
    const char *name;
    ck_assert_int_eq(st_writer_open(&w, path_join(dir, "model.safetensors"), &err), 0);
    json_object_foreach(model, name, v)
    {
        if (strcmp(name, "config") == 0) continue;
        ck_assert_int_lt(n, 64);
        struct array *a = &arrays[n++];
        *a = array_of(v);
        if (is_linear(name)) transpose(a);
        st_writer_declare(w, name, DTYPE_F32, a->shape, a->n_dims);
    }
    ck_assert_int_eq(st_writer_begin(w, &err), 0);
    for (int i = 0; i < n; i++) {
        ck_assert_int_eq(st_writer_data(w, arrays[i].x, arrays[i].n, &err), 0);
        free(arrays[i].x);
    }
    ck_assert_int_eq(st_writer_finish(w, &err), 0);
    write_file(path_join(dir, "config.json"), config, sizeof config - 1);
    json_decref(model);
}

/* ---- comparison ---- */

/* Which intermediate of a pass is which entry of the file. */
static const struct {
    int layer;
    const char *what, *key;
} keys[] = {
    {-1, "embed", "x"},
    {0, "ln_1", "ln1"},
    {0, "qkv", "qkv"},
    {0, "q_k", "att"},
    {0, "attention", "attSm"},
    {0, "attn", "y"},
    {0, "proj", "yProj"},
    {0, "attn_resid", "attnResid"},
    {0, "ln_2", "ln2"},
    {0, "fc", "fc"},
    {0, "act", "gelu"},
    {0, "mlp", "mlp"},
    {0, "mlp_resid", "mlpResid"},
    {0, "mlp_resid", "block0"},
    {1, "mlp_resid", "block1"},
    {2, "mlp_resid", "block2"},
    {-1, "ln_f", "ln_f"},
};

struct watch {
    const json_t *partials;
    size_t first;  /* of the three sequences: the first in this pass */
    unsigned seen; /* bit per entry of keys */
};

static void check_tap(void *arg, int layer, const char *what, const float *data, size_t rows,
                      size_t cols)
{
    struct watch *w = arg;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (keys[i].layer != layer || strcmp(keys[i].what, what) != 0) continue;
        struct array a = array_of(json_object_get(w->partials, keys[i].key));
        size_t n = rows * cols, at = w->first * (a.n / B);
        ck_assert_uint_le(at + n, a.n);
        for (size_t j = 0; j < n; j++) {
            float want = a.x[at + j];
            if (strcmp(keys[i].key, "att") == 0 && j % T > j / T % T) /* masked: not in our pass */
                ck_assert(isinf(want));
            else
                harness_close(__FILE__, __LINE__, keys[i].key, data[j], want, 1e-4, 0);
        }
        w->seen |= 1u << i;
        free(a.x);
    }
}

static void tokens_of(const json_t *partials, int32_t out[B * T])
{
    struct array idx = array_of(json_object_get(partials, "idx"));
    ck_assert_uint_eq(idx.n, B * T);
    for (int i = 0; i < B * T; i++)
        out[i] = (int32_t)idx.x[i];
    free(idx.x);
}

static void check_key(const json_t *partials, const char *key, const float *got, size_t n,
                      size_t at)
{
    struct array a = array_of(json_object_get(partials, key));
    ck_assert_uint_le(at + n, a.n);
    for (size_t i = 0; i < n; i++)
        harness_close(__FILE__, __LINE__, key, got[i], a.x[at + i], 1e-4, 0);
    free(a.x);
}

static void check_probabilities(const json_t *partials, const float *logits, size_t rows, size_t at)
{
    float p[B * T * V];
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t v = 0; v < V; v++)
            sum += exp(logits[r * V + v]);
        for (size_t v = 0; v < V; v++)
            p[r * V + v] = (float)(exp(logits[r * V + v]) / sum);
    }
    check_key(partials, "probs", p, rows * V, at);
}

START_TEST(oracle_at_every_intermediate)
{
    const char *dir = temp_dir();
    convert(dir);
    json_t *partials = load("gpt-nano-sort-t0-partials.json");
    struct naive_gpt2 *m = naive_open(dir);
    int32_t ids[B * T];
    tokens_of(partials, ids);
    for (size_t b = 0; b < B; b++) {
        struct watch w = {.partials = partials, .first = b};
        float logits[T * V];
        naive_logits(m, ids + b * T, T, logits, check_tap, &w);
        ck_assert_uint_eq(w.seen, (1u << sizeof keys / sizeof *keys) - 1);
        check_key(partials, "lm_head", logits, T * V, b * T * V);
        check_probabilities(partials, logits, T, b * T * V);
    }
    naive_free(m);
    json_decref(partials);
}
END_TEST

START_TEST(engine_at_every_intermediate)
{
    static const char *const kernels[] = {"scalar", NULL};
    const char *dir = temp_dir();
    convert(dir);
    json_t *partials = load("gpt-nano-sort-t0-partials.json");
    struct gpt2_run r;
    struct watch w = {.partials = partials};
    float logits[B * T * V];
    int32_t ids[B * T];
    tokens_of(partials, ids);
    gpt2_run_open(&r, dir, 2, kernels[_i], DTYPE_F32, B, B * T);
    ck_assert(!r.m->tied);
    r.tap = check_tap;
    r.tap_arg = &w;
    struct gpt2_piece p[B];
    for (int b = 0; b < B; b++)
        p[b] = (struct gpt2_piece){.seq = b, .n = T, .tokens = ids + b * T};
    gpt2_run_step(&r, p, B, logits);
    unsigned unseen = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i].what, "q_k") == 0 || strcmp(keys[i].what, "attention") == 0 ||
            strcmp(keys[i].what, "proj") == 0 || strcmp(keys[i].what, "fc") == 0 ||
            strcmp(keys[i].what, "mlp") == 0)
            unseen |= 1u << i;
    ck_assert_uint_eq(w.seen | unseen, (1u << sizeof keys / sizeof *keys) - 1);
    ck_assert_uint_eq(w.seen & unseen, 0);
    check_key(partials, "lm_head", logits, B * T * V, 0);
    check_probabilities(partials, logits, B * T, 0);
    gpt2_run_close(&r);
    json_decref(partials);
}
END_TEST

/* What the file stores besides, split or separately: q, k, v by head, token and position embeddings. */
static void check_heads(void *arg, int layer, const char *what, const float *data, size_t rows,
                        size_t cols)
{
    if (layer != 0 || strcmp(what, "qkv") != 0) return;
    const size_t d = C / H;
    float part[B * H * T * (C / H)];
    ck_assert_uint_eq(rows, B * T);
    for (size_t which = 0; which < 3; which++) {
        for (size_t b = 0; b < B; b++)
            for (size_t h = 0; h < H; h++)
                for (size_t t = 0; t < T; t++)
                    memcpy(part + ((b * H + h) * T + t) * d,
                           data + (b * T + t) * cols + which * C + h * d, d * sizeof *part);
        check_key(arg, which == 0 ? "q" : which == 1 ? "k" : "v", part, B * H * T * d, 0);
    }
}

START_TEST(engine_by_head_and_embedding)
{
    const char *dir = temp_dir();
    convert(dir);
    json_t *partials = load("gpt-nano-sort-t0-partials.json");
    struct gpt2_run r;
    float logits[B * T * V], column[C];
    int32_t ids[B * T];
    tokens_of(partials, ids);
    gpt2_run_open(&r, dir, 1, NULL, DTYPE_F32, B, B * T);
    r.tap = check_heads;
    r.tap_arg = partials;
    struct gpt2_piece p[B];
    for (int b = 0; b < B; b++)
        p[b] = (struct gpt2_piece){.seq = b, .n = T, .tokens = ids + b * T};
    gpt2_run_step(&r, p, B, logits);
    for (size_t i = 0; i < B * T; i++) {
        packed_get_column(&r.m->wte, (size_t)ids[i], column);
        check_key(partials, "tok_emb", column, C, i * C);
    }
    check_key(partials, "pos_emb", r.m->wpe, T * C, 0);
    gpt2_run_close(&r);
    json_decref(partials);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("nano_sort");
    TCase *t = tcase_create("nano_sort");
    if (!shared_path("data/gpt-nano-sort/gpt-nano-sort-model.json")) {
        skip("nano_sort", "../shared/data/gpt-nano-sort is not there");
    } else {
        tcase_add_test(t, oracle_at_every_intermediate);
        tcase_add_loop_test(t, engine_at_every_intermediate, 0, 2);
        tcase_add_test(t, engine_by_head_and_embedding);
    }
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
