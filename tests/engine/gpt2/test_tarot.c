/* A published model against PyTorch's own numbers: logits of the first positions and a greedy
 * continuation, decoded token by token through the KV cache. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/gpt2_run.h"
#include "tests/support/harness.h"

static json_t *golden(void)
{
    json_error_t e;
    size_t len;
    char *text = read_file(shared_path("models/tarot/golden.json"), &len);
    json_t *o = json_loadb(text, len, 0, &e);
    ck_assert_msg(o != NULL, "%s", e.text);
    free(text);
    return o;
}

static int golden_ids(const json_t *g, int32_t *ids, int max)
{
    const json_t *a = json_object_get(g, "ids_greedy_64");
    int n = (int)json_array_size(a);
    ck_assert_int_le(n, max);
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(a, (size_t)i));
    return n;
}

static void open_tarot(struct gpt2_run *r, const char *kernels)
{
    gpt2_run_open(r, shared_path("models/tarot"), 2, kernels, DTYPE_F32, 1, 64);
}

START_TEST(facts)
{
    struct gpt2_run r;
    open_tarot(&r, NULL);
    const struct gpt2 *m = r.m;
    ck_assert_int_eq(m->cfg.n_layer, 4);
    ck_assert_int_eq(m->cfg.n_positions, 64);
    ck_assert_int_eq(m->cfg.bos_token_id, 0);
    ck_assert(m->tied);
    ck_assert_int_eq(m->dtype, DTYPE_F32);
    size_t layer = 128 * 384 + 384 + 128 * 128 + 128 + 2 * 128 * 512 + 512 + 128 + 4 * 128;
    ck_assert_uint_eq(m->n_params, 4 * layer + 1000 * 128 + 64 * 128 + 2 * 128);
    ck_assert_uint_ge(m->weight_bytes, 4 * m->n_params); /* the last panels are padded */
    ck_assert_uint_le(m->weight_bytes, 4 * m->n_params + 128 * PACK_N * 4);
    gpt2_run_close(&r);
}
END_TEST

START_TEST(logits_of_the_first_positions)
{
    static const char *const kernels[] = {"scalar", NULL};
    struct gpt2_run r;
    json_t *g = golden();
    int32_t ids[64];
    float *logits = malloc(8 * 1000 * sizeof *logits);
    golden_ids(g, ids, 64);
    const json_t *want = json_object_get(g, "logits_first8pos");
    ck_assert_uint_eq(json_array_size(want), 8);
    open_tarot(&r, kernels[_i]);
    gpt2_run_logits(&r, 0, ids, 8, 8, logits);
    for (size_t p = 0; p < 8; p++) {
        const json_t *row = json_array_get(want, p);
        ck_assert_uint_eq(json_array_size(row), 1000);
        for (size_t v = 0; v < 1000; v++)
            assert_close(logits[p * 1000 + v], json_number_value(json_array_get(row, v)), 1e-4, 0);
    }
    gpt2_run_close(&r);
    json_decref(g);
    free(logits);
}
END_TEST

START_TEST(greedy_continuation)
{
    static const char *const kernels[] = {"scalar", NULL};
    struct gpt2_run r;
    json_t *g = golden();
    int32_t ids[64];
    float *logits = malloc(64 * 1000 * sizeof *logits);
    int n = golden_ids(g, ids, 64);
    int at = (int)json_integer_value(json_object_get(g, "prompt_len"));
    open_tarot(&r, kernels[_i]);
    gpt2_run_logits(&r, 0, ids, at, at, logits);
    const float *last = logits + (at - 1) * 1000;
    for (; at < n; at++) {
        int32_t next = (int32_t)r.c.k->argmax(last, 1000);
        ck_assert_msg(next == ids[at], "position %d: %d, expected %d", at, next, ids[at]);
        r.n_decode = 1;
        gpt2_run_step(&r, &(struct gpt2_piece){.pos0 = at, .n = 1, .tokens = &next}, 1, logits);
        last = logits;
    }
    gpt2_run_close(&r);
    json_decref(g);
    free(logits);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tarot");
    TCase *t = tcase_create("tarot");
    if (!shared_path("models/tarot/golden.json")) {
        skip("tarot", "../shared/models/tarot is not there");
    } else {
        tcase_add_test(t, facts);
        tcase_add_loop_test(t, logits_of_the_first_positions, 0, 2);
        tcase_add_loop_test(t, greedy_continuation, 0, 2);
    }
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
