/* Second moments of layer inputs against sums over the taps of plain forward steps, whatever the number of
 * threads and wherever the windows fall. */
#include "models/moments.h"

#include "engine/gpt2/tokenizer.h"
#include "tests/models/rewrite_testing.h"
#include "tests/support/gpt2_run.h"

enum { POSITIONS = 24, LAYER_COUNT = 8 };
static const char words[] =
    "The quick brown fox jumps over the lazy dog, and then it jumps once more.";
static const char *const taps[LAYERS_PER_BLOCK] = {"ln_1", "attn", "ln_2", "act"};

static void naive_tap(void *arg, int block, const char *what, const float *data, size_t rows,
                      size_t cols)
{
    double **s = arg;
    for (int k = 0; block >= 0 && k < LAYERS_PER_BLOCK; k++) {
        if (strcmp(taps[k], what) != 0) continue;
        double *sum = s[block * LAYERS_PER_BLOCK + k];
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < cols; i++)
                for (size_t j = 0; j < cols; j++)
                    sum[i * cols + j] += (double)data[r * cols + i] * (double)data[r * cols + j];
    }
}

static void naive(const char *dir, const struct layers *l, const struct tokens *t, double **s)
{
    struct gpt2_run run;
    float *logits = malloc(POSITIONS * 300 * sizeof *logits);
    gpt2_run_open(&run, dir, 1, NULL, DTYPE_F32, 1, POSITIONS);
    for (size_t i = 0; i < l->n; i++)
        s[i] = calloc((size_t)l->layer[i].in * (size_t)l->layer[i].in, sizeof *s[i]);
    run.tap = naive_tap;
    run.tap_arg = s;
    for (size_t at = 0; at < t->n; at += POSITIONS) {
        struct gpt2_piece p = {.n = t->n - at < POSITIONS ? (int)(t->n - at) : POSITIONS,
                               .tokens = t->ids + at};
        gpt2_run_step(&run, &p, 1, logits);
    }
    gpt2_run_close(&run);
    free(logits);
}

static struct tool tool_for_tests(void)
{
    static volatile sig_atomic_t never;
    struct tool t = {.out = stdout, .log = stderr, .stop = &never};
    cpu_detect(&t.cpu);
    return t;
}

START_TEST(agree_with_plain_sums)
{
    const char *dir = new_model("m", (struct make_model){.positions = POSITIONS, .channels = 64});
    struct tool t = tool_for_tests();
    struct score_text text = {.path = "words"};
    struct layers l;
    struct tokenizer *tokenizer;
    struct tokens tokens = {0};
    struct moments m;
    double *s[LAYER_COUNT];
    struct err err = {0};
    buf_puts(&text.bytes, words);
    open_layers(&l, dir);
    ck_assert_int_eq(tokenizer_open(&tokenizer, dir, &err), 0);
    tokenizer_encode(tokenizer, words, sizeof words - 1, true, &tokens);
    tokenizer_close(tokenizer);
    size_t most = _i == 2 ? 5 : 0;
    if (most) tokens.n = most;
    ck_assert(_i == 2 || tokens.n > 2 * POSITIONS);
    bool chosen[LAYER_COUNT] = {true, true, true, true, false, true, true, true};
    ck_assert_msg(moments_collect(&m, &t, &l, chosen, &text, most, _i == 1 ? 3 : 1, &err) == 0,
                  "%s", err.msg);
    ck_assert_uint_eq(m.tokens, tokens.n);
    ck_assert_ptr_null(m.s[4]);
    naive(dir, &l, &tokens, s);
    for (size_t i = 0; i < l.n; i++) {
        size_t n = (size_t)l.layer[i].in;
        for (size_t k = 0; chosen[i] && k < n * n; k++)
            assert_close(m.s[i][k], s[i][k], 1e-4, 1e-4);
        free(s[i]);
    }
    moments_release(&m);
    tokens_release(&tokens);
    buf_release(&text.bytes);
    layers_close(&l);
}
END_TEST

START_TEST(a_text_without_tokens)
{
    struct tool t = tool_for_tests();
    struct score_text text = {.path = "void.txt"};
    struct layers l;
    struct moments m;
    bool chosen[LAYER_COUNT] = {true};
    struct err err = {0};
    open_layers(&l, new_model("m", (struct make_model){0}));
    ck_assert_int_eq(moments_collect(&m, &t, &l, chosen, &text, 0, 1, &err), ERR_INVALID);
    ck_assert_str_eq(err.msg, "void.txt: the text has no tokens");
    ck_assert_ptr_null(m.s);
    layers_close(&l);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("moments");
    TCase *t = tcase_create("moments");
    tcase_add_loop_test(t, agree_with_plain_sums, 0, 3);
    tcase_add_test(t, a_text_without_tokens);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
