/* ttm eval --compare against its definition: both models' logits by plain loops, every sum in two
 * passes. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/rng.h"
#include "engine/gpt2/tokenizer.h"
#include "engine/gpt2/tokenizer_write.h"
#include "tests/support/harness.h"
#include "tests/support/make_model.h"
#include "tests/support/naive_gpt2.h"
#include "tests/support/tool_call.h"

enum { VOCAB = 300, POSITIONS = 150, MAX_TOKENS = 1000 };

static const char *model_dir(int positions, int vocab, uint64_t seed)
{
    struct err err = {0};
    const char *dir = temp_dir();
    make_model(dir, &(struct make_model){.vocab = vocab,
                                         .positions = positions,
                                         .seed = seed,
                                         .channels = positions == POSITIONS ? 32 : 16});
    ck_assert_int_eq(tokenizer_write_bytes(dir, vocab, &err), 0);
    return dir;
}

static const char *text_file(void)
{
    struct buf b = {0};
    for (uint64_t i = 0; b.len < 420; i++)
        buf_putc(&b, "etaoin shr,."[(int)(rng_uniform(4, 0, i) * 12)]);
    const char *path = path_join(temp_dir(), "text");
    write_file(path, b.data, b.len);
    buf_release(&b);
    return path;
}

/* What is known of each scored token. */
struct facts {
    double a[MAX_TOKENS], b[MAX_TOKENS], kl[MAX_TOKENS];
    int n, agree;
};

static double log_sum(const float *x)
{
    double sum = 0;
    for (int v = 0; v < VOCAB; v++)
        sum += exp((double)x[v]);
    return log(sum);
}

static int best(const float *x)
{
    int b = 0;
    for (int v = 1; v < VOCAB; v++)
        if (x[v] > x[b]) b = v;
    return b;
}

static void score(struct naive_gpt2 *const m[2], const int32_t *tokens, int n, int scored,
                  struct facts *f)
{
    float *logits[2];
    for (int k = 0; k < 2; k++) {
        logits[k] = malloc((size_t)n * VOCAB * sizeof **logits);
        naive_logits(m[k], tokens, n - 1, logits[k], NULL, NULL);
    }
    for (int i = n - scored; i < n; i++) {
        const float *x = logits[0] + (i - 1) * VOCAB, *y = logits[1] + (i - 1) * VOCAB;
        double lx = log_sum(x), ly = log_sum(y);
        f->a[f->n] = lx - (double)x[tokens[i]];
        f->b[f->n] = ly - (double)y[tokens[i]];
        f->kl[f->n] = 0;
        for (int v = 0; v < VOCAB; v++)
            f->kl[f->n] += exp((double)x[v] - lx) * ((double)x[v] - lx - (double)y[v] + ly);
        f->agree += best(x) == best(y);
        f->n++;
    }
    free(logits[0]);
    free(logits[1]);
}

static void strided(struct naive_gpt2 *const m[2], const struct tokens *t, int window, int stride,
                    struct facts *f)
{
    int n = (int)t->n, prev = 0;
    for (int begin = 0; begin < n; begin += stride) {
        int end = begin + window < n ? begin + window : n;
        int scored = end - prev;
        if (scored > end - begin - 1) scored = end - begin - 1;
        if (scored > 0) score(m, t->ids + begin, end - begin, scored, f);
        prev = end;
        if (end == n) break;
    }
}

static double mean(const double *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i];
    return sum / n;
}

static double mean_stderr(const double *x, int n)
{
    double m = mean(x, n), sq = 0;
    for (int i = 0; i < n; i++)
        sq += (x[i] - m) * (x[i] - m);
    return sqrt(sq / (n - 1) / n);
}

static json_t *compare_json(const char *a, const char *b, const char *file, const char *window,
                            const char *stride, const char *threads)
{
    return RUN_JSON(cmd_eval, "--compare", a, b, "--text", file, "--json", "--window", window,
                    "--stride", stride, "--threads", threads);
}

static void same_figures(const json_t *j, const struct facts *f)
{
    double diff[MAX_TOKENS], z[MAX_TOKENS], kl_max = 0;
    double pa = exp(mean(f->a, f->n)), pb = exp(mean(f->b, f->n));
    double p = (double)f->agree / f->n;
    for (int i = 0; i < f->n; i++) {
        diff[i] = f->b[i] - f->a[i];
        z[i] = pb * f->b[i] - pa * f->a[i];
        kl_max = fmax(kl_max, f->kl[i]);
    }
    ck_assert_int_eq((int)tool_number(j, "scored_tokens"), f->n);
    assert_close(tool_number(j, "perplexity_reference"), pa, 0, 1e-4);
    assert_close(tool_number(j, "perplexity"), pb, 0, 1e-4);
    assert_close(tool_number(j, "perplexity_difference"), pb - pa, 1e-4 * pa, 0);
    assert_close(tool_number(j, "perplexity_difference_stderr"), mean_stderr(z, f->n), 0, 1e-3);
    assert_close(tool_number(j, "nll_difference"), mean(diff, f->n), 1e-5, 0);
    assert_close(tool_number(j, "nll_difference_stderr"), mean_stderr(diff, f->n), 0, 1e-4);
    assert_close(tool_number(j, "kl_mean"), mean(f->kl, f->n), 0, 1e-4);
    assert_close(tool_number(j, "kl_stderr"), mean_stderr(f->kl, f->n), 0, 1e-3);
    assert_close(tool_number(j, "kl_max"), kl_max, 0, 1e-4);
    assert_close(tool_number(j, "top1_agreement"), p, 0, 1e-12);
    assert_close(tool_number(j, "top1_agreement_stderr"), sqrt(p * (1 - p) / (f->n - 1)), 1e-12,
                 1e-9);
}

static const struct {
    int window, stride;
} cases[] = {{POSITIONS, POSITIONS}, {POSITIONS, 40}, {17, 17}, {2, 1}};

START_TEST(agrees_with_the_definition)
{
    const char *dirs[2] = {model_dir(POSITIONS, VOCAB, 1), model_dir(POSITIONS, VOCAB, 2)};
    const char *file = text_file();
    char window[16], stride[16];
    struct err err = {0};
    struct tokenizer *t = NULL;
    struct tokens tokens = {0};
    struct facts *f = calloc(1, sizeof *f);
    size_t len;
    char *text = read_file(file, &len);
    ck_assert_int_eq(tokenizer_open(&t, dirs[0], &err), 0);
    tokenizer_encode(t, text, len, true, &tokens);
    struct naive_gpt2 *m[2] = {naive_open(dirs[0]), naive_open(dirs[1])};
    strided(m, &tokens, cases[_i].window, cases[_i].stride, f);
    snprintf(window, sizeof window, "%d", cases[_i].window);
    snprintf(stride, sizeof stride, "%d", cases[_i].stride);
    json_t *j = compare_json(dirs[0], dirs[1], file, window, stride, "2");
    same_figures(j, f);
    json_t *alone = compare_json(dirs[0], dirs[1], file, window, stride, "1");
    ck_assert(tool_number(j, "kl_mean") == tool_number(alone, "kl_mean")); /* to the last bit */
    ck_assert(tool_number(j, "perplexity") == tool_number(alone, "perplexity"));
    json_decref(alone);
    json_decref(j);
    naive_free(m[0]);
    naive_free(m[1]);
    tokens_release(&tokens);
    tokenizer_close(t);
    free(text);
    free(f);
}
END_TEST

START_TEST(a_model_is_like_itself)
{
    const char *dir = model_dir(POSITIONS, VOCAB, 1), *file = text_file();
    json_t *j = compare_json(dir, dir, file, "50", "50", "2");
    ck_assert(tool_number(j, "perplexity_difference") == 0);
    ck_assert(tool_number(j, "nll_difference_stderr") == 0);
    ck_assert(tool_number(j, "perplexity_difference_stderr") == 0);
    ck_assert(tool_number(j, "kl_mean") == 0 && tool_number(j, "kl_max") == 0);
    ck_assert(tool_number(j, "top1_agreement") == 1);
    json_decref(j);
}
END_TEST

static const char *ttm_dir(void)
{
    const char *dir = path_join(temp_dir(), "ttm");
    struct tool_result r;
    TOOL(&r, cmd_init, "--ttm-rank", "4", "--positions", "40", "--vocab", "300", "-o", dir);
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    tool_result_release(&r);
    return dir;
}

/* The perplexities are those of a plain eval: in both kinds of windows, with TTM layers. */
START_TEST(agrees_with_eval)
{
    const char *a = model_dir(POSITIONS, VOCAB, 1);
    const char *b = _i == 2 ? ttm_dir() : model_dir(40, VOCAB, 2);
    const char *file = text_file(), *prefix = _i == 1 ? "bos" : "none";
    struct tool_result r;
    TOOL(&r, cmd_eval, "--compare", a, b, "--text", file, "--json", "--prefix", prefix,
         "--max-tokens", "150");
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    json_t *j = json_loads(r.out, 0, NULL);
    tool_result_release(&r);
    ck_assert_int_eq((int)tool_number(j, "window"), 40); /* the smaller context */
    ck_assert_int_eq((int)tool_number(j, "tokens"), 150);
    static const char *const keys[] = {"perplexity_reference", "perplexity"};
    for (int i = 0; i < 2; i++) {
        TOOL(&r, cmd_eval, i ? b : a, "--text", file, "--json", "--prefix", prefix, "--max-tokens",
             "150", "--window", "40");
        ck_assert_msg(r.rc == 0, "%s", r.err.msg);
        json_t *e = json_loads(r.out, 0, NULL);
        assert_close(tool_number(j, keys[i]), tool_number(e, "perplexity"), 0, 1e-6);
        ck_assert(tool_number(j, "scored_tokens") == tool_number(e, "scored_tokens"));
        json_decref(e);
        tool_result_release(&r);
    }
    json_decref(j);
}
END_TEST

START_TEST(refuses_by_name)
{
    struct err err = {0};
    const char *a = model_dir(POSITIONS, VOCAB, 1), *file = text_file();
    const char *other = model_dir(40, 301, 2), *fewer = model_dir(40, VOCAB, 2);
    ck_assert_int_eq(tokenizer_write_bytes(fewer, 260, &err), 0);
    REFUSED(cmd_eval, "an argument is missing", "--compare", a, "--text", file);
    REFUSED(cmd_eval, "--text is missing", "--compare", a, a);
    REFUSED(cmd_eval, "has a vocabulary of 300 tokens and", "--compare", a, other, "--text", file);
    REFUSED(cmd_eval, "make different tokens of the text", "--compare", a, fewer, "--text", file);
    REFUSED(cmd_eval, "/nonexistent", "--compare", a, "/nonexistent", "--text", file);
    REFUSED(cmd_eval, "--window: 151 tokens are more", "--compare", a, a, "--text", file,
            "--window", "151");
    REFUSED(cmd_eval, "too few to score", "--compare", a, a, "--text", file, "--max-tokens", "1");
    REFUSED(cmd_eval, "--kernels: \"mmx\" is unknown", "--compare", a, a, "--text", file,
            "--kernels", "mmx");
    ck_assert_int_eq(tokenizer_write_bytes(other, 302, &err), 0);
    REFUSED(cmd_eval, "ids up to 301, the model only up to 300", "--compare", other, a, "--text",
            file);
}
END_TEST

START_TEST(prints_a_table)
{
    struct tool_result r;
    const char *a = model_dir(POSITIONS, VOCAB, 1), *b = model_dir(POSITIONS, VOCAB, 2);
    TOOL(&r, cmd_eval, "--compare", a, b, "--text", text_file());
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    static const char *const rows[] = {"perplexity  ",  "paired standard error", "nll difference",
                                       "KL divergence", "top-1 agreement",       "tokens/s"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        ck_assert_ptr_nonnull(strstr(r.out, rows[i]));
    tool_result_release(&r);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("eval_compare");
    TCase *t = tcase_create("eval_compare");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, agrees_with_the_definition, 0, (int)(sizeof cases / sizeof *cases));
    tcase_add_test(t, a_model_is_like_itself);
    tcase_add_loop_test(t, agrees_with_eval, 0, 3);
    tcase_add_test(t, refuses_by_name);
    tcase_add_test(t, prints_a_table);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
