/* ttm eval against its definition: windows as Hugging Face's and the harness's loops make them, logits
 * of plain loops, log-softmax and sums in double. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/tokenizer.h"
#include "engine/gpt2/tokenizer_write.h"
#include "tests/support/harness.h"
#include "tests/support/make_model.h"
#include "tests/support/naive_gpt2.h"
#include "tests/support/tool_call.h"

enum { VOCAB = 300, POSITIONS = 24 };
static const char text[] =
    "The quick brown fox jumps over the lazy dog; \xc3\xa9t\xc3\xa9 and na\xc3\xafve "
    "readers\nread it 1234 times, and then once more.";

static const char *model_dir(void)
{
    const char *dir = temp_dir();
    struct err err = {0};
    make_model(dir, &(struct make_model){.vocab = VOCAB, .positions = POSITIONS, .seed = 7});
    ck_assert_msg(tokenizer_write_bytes(dir, VOCAB, &err) == 0, "%s", err.msg);
    return dir;
}

static const char *text_file(const char *bytes, size_t len)
{
    const char *path = path_join(temp_dir(), "text.txt");
    write_file(path, bytes, len);
    return path;
}

struct sums {
    size_t n;
    double nll;
};

/* Adds what the last `scored` tokens of a sequence cost, each given all before it. The last token is
 * not fed: it may be one more than the model has positions. */
static void score(const struct naive_gpt2 *m, const int32_t *tokens, int n, int scored,
                  struct sums *s)
{
    float *logits = malloc((size_t)n * VOCAB * sizeof *logits);
    naive_logits(m, tokens, n - 1, logits, NULL, NULL);
    for (int i = n - scored; i < n; i++) {
        const float *row = logits + (size_t)(i - 1) * VOCAB;
        double sum = 0, max = (double)row[0];
        for (int v = 1; v < VOCAB; v++)
            max = fmax(max, (double)row[v]);
        for (int v = 0; v < VOCAB; v++)
            sum += exp((double)row[v] - max);
        s->nll += log(sum) + max - (double)row[tokens[i]];
        s->n++;
    }
    free(logits);
}

/* The loop of Hugging Face's "Perplexity of fixed-length models". */
static void strided(const struct naive_gpt2 *m, const struct tokens *t, int window, int stride,
                    struct sums *s)
{
    int n = (int)t->n, prev = 0;
    for (int begin = 0; begin < n; begin += stride) {
        int end = begin + window < n ? begin + window : n;
        int scored = end - prev;
        if (scored > end - begin - 1) scored = end - begin - 1; /* labels are shifted by one */
        if (scored > 0) score(m, t->ids + begin, end - begin, scored, s);
        prev = end;
        if (end == n) break;
    }
}

/* The harness's rolling windows, context_len 1: inputs of at most `window` tokens. */
static void rolling(const struct naive_gpt2 *m, const struct tokens *t, int window, struct sums *s)
{
    int32_t all[512] = {VOCAB - 1};
    int n = (int)t->n, done = n < window ? n : window;
    memcpy(all + 1, t->ids, t->n * sizeof *all);
    score(m, all, done + 1, done, s);
    while (done < n) {
        int scored = n - done < window ? n - done : window;
        int end = done + scored; /* predicts tokens [done, end) from the `window` before the last */
        score(m, t->ids + (end - window - 1), window + 1, scored, s);
        done = end;
    }
}

static const struct {
    const char *prefix;
    int window, stride, max_tokens;
} cases[] = {
    {"none", POSITIONS, POSITIONS, 0},
    {"none", POSITIONS, 5, 0},
    {"none", 7, 3, 0},
    {"none", 2, 1, 20},
    {"none", 10, 10, 21}, /* a last window of one token scores nothing */
    {"bos", POSITIONS, POSITIONS, 0},
    {"bos", 9, 9, 0},
    {"bos", 9, 9, 5},
    {"bos", 9, 9, 9},
};

static json_t *eval_json(const char *dir, const char *file, int i, const char *batch)
{
    char window[16], stride[16], most[16];
    snprintf(window, sizeof window, "%d", cases[i].window);
    snprintf(stride, sizeof stride, "%d", cases[i].stride);
    snprintf(most, sizeof most, "%d", cases[i].max_tokens ? cases[i].max_tokens : 1000);
    return RUN_JSON(cmd_eval, dir, "--text", file, "--window", window, "--stride", stride,
                    "--prefix", cases[i].prefix, "--max-tokens", most, "--json", "--threads", "2",
                    "--max-batch", batch);
}

START_TEST(agrees_with_the_definition)
{
    const char *dir = model_dir(), *file = text_file(text, sizeof text - 1);
    struct err err = {0};
    struct tokenizer *tokenizer = NULL;
    struct tokens t = {0};
    struct sums s = {0};
    struct buf kept = {0};
    ck_assert_int_eq(tokenizer_open(&tokenizer, dir, &err), 0);
    tokenizer_encode(tokenizer, text, sizeof text - 1, true, &t);
    ck_assert_uint_lt(t.n, 500);
    if (cases[_i].max_tokens) t.n = (size_t)cases[_i].max_tokens;
    tokenizer_decode(tokenizer, t.ids, t.n, true, &kept);
    struct naive_gpt2 *m = naive_open(dir);
    if (!strcmp(cases[_i].prefix, "bos"))
        rolling(m, &t, cases[_i].window, &s);
    else
        strided(m, &t, cases[_i].window, cases[_i].stride, &s);

    json_t *j = eval_json(dir, file, _i, "8");
    double mean = s.nll / (double)s.n, bytes = (double)kept.len;
    ck_assert_uint_eq((size_t)tool_number(j, "tokens"), t.n);
    ck_assert_uint_eq((size_t)tool_number(j, "scored_tokens"), s.n);
    assert_close(tool_number(j, "nll_sum"), s.nll, 0, 1e-5);
    assert_close(tool_number(j, "nll_mean"), mean, 0, 1e-5);
    assert_close(tool_number(j, "perplexity"), exp(mean), 0, 1e-4);
    assert_close(tool_number(j, "bits_per_byte"), s.nll / bytes / log(2), 0, 1e-5);
    assert_close(tool_number(j, "byte_perplexity"), exp(s.nll / bytes), 0, 1e-4);
    ck_assert(tool_number(j, "word_perplexity") > tool_number(j, "byte_perplexity"));
    ck_assert(tool_number(j, "stderr") > 0 && tool_number(j, "stderr") < mean);
    ck_assert_uint_eq((size_t)tool_number(j, "bytes"), kept.len);

    json_t *alone = eval_json(dir, file, _i, "1"); /* the batch changes nothing, to the last bit */
    ck_assert(tool_number(alone, "nll_sum") == tool_number(j, "nll_sum"));
    json_decref(alone);
    json_decref(j);
    naive_free(m);
    buf_release(&kept);
    tokens_release(&t);
    tokenizer_close(tokenizer);
}
END_TEST

START_TEST(refuses_by_name)
{
    const char *dir = model_dir(), *file = text_file(text, sizeof text - 1);
    REFUSED(cmd_eval, "--text is missing", dir);
    REFUSED(cmd_eval, "cannot open", dir, "--text", "/nonexistent/x");
    REFUSED(cmd_eval, "is empty", dir, "--text", text_file("", 0));
    REFUSED(cmd_eval, "is not UTF-8: byte 3 is 0xff", dir, "--text", text_file("abc\xff", 4));
    REFUSED(cmd_eval, "is not UTF-8: byte 1 is 0xc3", dir, "--text", text_file("a\xc3", 2));
    REFUSED(cmd_eval, "too few to score", dir, "--text", text_file("a", 1));
    REFUSED(cmd_eval, "--window: 25 tokens are more than the model's context of 24", dir, "--text",
            file, "--window", "25");
    REFUSED(cmd_eval, "--stride: 9 is more than the window of 8", dir, "--text", file, "--window",
            "8", "--stride", "9");
    REFUSED(cmd_eval, "--prefix: \"eos\" is not one of none|bos", dir, "--text", file, "--prefix",
            "eos");
    const char *empty = temp_dir();
    REFUSED(cmd_eval, empty, empty, "--text", file);
}
END_TEST

START_TEST(prints_a_table)
{
    struct tool_result r;
    TOOL(&r, cmd_eval, model_dir(), "--text", text_file(text, sizeof text - 1), "--prefix=bos");
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    static const char *const rows[] = {"tokens  ",        "nll mean",      "standard error",
                                       "perplexity",      "bits per byte", "word perplexity",
                                       "byte perplexity", "tokens/s"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        ck_assert_ptr_nonnull(strstr(r.out, rows[i]));
    ck_assert_str_eq(r.log, ""); /* no terminal, no progress bar */
    tool_result_release(&r);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("eval");
    TCase *t = tcase_create("eval");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, agrees_with_the_definition, 0, (int)(sizeof cases / sizeof *cases));
    tcase_add_test(t, refuses_by_name);
    tcase_add_test(t, prints_a_table);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
