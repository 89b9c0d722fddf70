/* Windows against the two recipes as their authors write them, and sums against their formulas. */
#include "engine/run/perplexity.h"

#include <math.h>
#include <string.h>

#include "tests/support/harness.h"

#define MOST 64

/* Hugging Face, "Perplexity of fixed-length models": windows of max_length at every stride; the labels
 * of tokens that an earlier window scored are -100, and the shift leaves a window's first unscored. */
static size_t hugging_face(size_t seq_len, size_t max_length, size_t stride, struct ppl_window *out)
{
    size_t n = 0, prev_end = 0;
    for (size_t begin = 0; begin < seq_len; begin += stride) {
        size_t end = begin + max_length < seq_len ? begin + max_length : seq_len;
        size_t target_len = end - prev_end, score = end - target_len;
        if (score == begin) score++;
        if (score < end) out[n++] = (struct ppl_window){false, begin, end, score};
        prev_end = end;
        if (end == seq_len) break;
    }
    return n;
}

/* lm-evaluation-harness, get_rolling_token_windows(context_len=1) and make_disjoint_window(): the
 * input is prefix or tokens[from, ...), the prediction the last tokens. */
static size_t harness(size_t n_tokens, size_t max_seq_len, struct ppl_window *out)
{
    size_t n = 0;
    if (n_tokens == 0) return 0;
    size_t first = max_seq_len < n_tokens ? max_seq_len : n_tokens;
    out[n++] = (struct ppl_window){true, 0, first, 0};
    for (size_t predicted = first; predicted < n_tokens;) {
        size_t len = n_tokens - predicted < max_seq_len ? n_tokens - predicted : max_seq_len;
        size_t end = predicted + len;
        size_t input_from = end - max_seq_len - 1, input_len = max_seq_len; /* before cutting */
        size_t context_len = input_len - (len - 1); /* make_disjoint_window keeps so many */
        ck_assert_uint_eq(input_from + context_len, predicted);
        out[n++] = (struct ppl_window){false, input_from, end, predicted};
        predicted += len;
    }
    return n;
}

static void compare(const struct ppl_plan *p, const struct ppl_window *want, size_t n)
{
    struct ppl_window w;
    ck_assert_uint_eq(ppl_window_count(p), n);
    for (size_t i = 0; i < n; i++) {
        ck_assert(ppl_window_at(p, i, &w));
        ck_assert_msg(w.bos == want[i].bos && w.begin == want[i].begin && w.end == want[i].end &&
                          w.score == want[i].score,
                      "n %zu window %zu stride %zu #%zu: %d [%zu, %zu) from %zu", p->n_tokens,
                      p->window, p->stride, i, w.bos, w.begin, w.end, w.score);
        ck_assert(w.score < w.end && w.score >= w.begin + !w.bos);
    }
    for (size_t i = n; i < n + 3; i++)
        ck_assert(!ppl_window_at(p, i, &w));
    ck_assert(!ppl_window_at(p, SIZE_MAX / 2, &w));
}

START_TEST(strided_windows)
{
    struct ppl_window want[MOST];
    for (size_t n = 0; n < 40; n++)
        for (size_t window = 2; window < 14; window++)
            for (size_t stride = 1; stride <= window; stride++) {
                struct ppl_plan p = {n, window, stride, PPL_PREFIX_NONE};
                compare(&p, want, hugging_face(n, window, stride, want));
            }
}
END_TEST

START_TEST(rolling_windows)
{
    struct ppl_window want[MOST];
    for (size_t n = 0; n < 40; n++)
        for (size_t window = 1; window < 14; window++) {
            struct ppl_plan p = {n, window, window, PPL_PREFIX_BOS};
            compare(&p, want, harness(n, window, want));
        }
}
END_TEST

/* No window feeds more than `window` positions: all of its sequence but the last token. */
START_TEST(windows_fit)
{
    for (size_t n = 1; n < 60; n++)
        for (size_t window = 2; window < 9; window++)
            for (int prefix = 0; prefix < 2; prefix++) {
                struct ppl_plan p = {n, window, window, prefix ? PPL_PREFIX_BOS : PPL_PREFIX_NONE};
                struct ppl_window w;
                for (size_t i = 0; ppl_window_at(&p, i, &w); i++)
                    ck_assert_uint_le(w.bos + (w.end - w.begin) - 1, window);
            }
}
END_TEST

START_TEST(by_hand)
{
    struct ppl_window w;
    struct ppl_plan p = {11, 6, 4, PPL_PREFIX_NONE};
    ck_assert(ppl_window_at(&p, 1, &w));
    ck_assert(!w.bos && w.begin == 4 && w.end == 10 && w.score == 6);
    ck_assert(ppl_window_at(&p, 2, &w));
    ck_assert(w.begin == 8 && w.end == 11 && w.score == 10);
    struct ppl_plan b = {9, 4, 4, PPL_PREFIX_BOS};
    ck_assert(ppl_window_at(&b, 0, &w));
    ck_assert(w.bos && w.begin == 0 && w.end == 4 && w.score == 0);
    ck_assert(ppl_window_at(&b, 1, &w));
    ck_assert(!w.bos && w.begin == 3 && w.end == 8 && w.score == 4);
    ck_assert(ppl_window_at(&b, 2, &w)); /* one token left, the rest of the window is context */
    ck_assert(!w.bos && w.begin == 4 && w.end == 9 && w.score == 8);
    ck_assert(!ppl_window_at(&b, 3, &w));
}
END_TEST

START_TEST(sums_and_stats)
{
    const float lp[] = {-1.5f, -0.25f, -4.0f, -2.0f, -0.125f};
    struct ppl_sums all = {0}, a = {0}, b = {0};
    double mean = 0, var = 0;
    for (int i = 0; i < 5; i++) {
        ppl_add(&all, lp[i]);
        ppl_add(i < 2 ? &a : &b, lp[i]);
        mean -= (double)lp[i] / 5;
    }
    for (int i = 0; i < 5; i++)
        var += pow(-(double)lp[i] - mean, 2) / 4;
    ppl_merge(&a, &b);
    ck_assert(a.scored == all.scored && a.nll == all.nll && a.nll_sq == all.nll_sq);
    struct ppl_stats s;
    ppl_stats(&all, 20, 4, &s);
    assert_close(s.nll_mean, mean, 0, 1e-12);
    assert_close(s.perplexity, exp(mean), 0, 1e-12);
    assert_close(s.bits_per_byte, mean * 5 / log(2) / 20, 0, 1e-12);
    assert_close(s.byte_perplexity, exp(mean * 5 / 20), 0, 1e-12);
    assert_close(s.word_perplexity, exp(mean * 5 / 4), 0, 1e-12);
    assert_close(s.stderr_mean, sqrt(var / 5), 0, 1e-12);
}
END_TEST

START_TEST(stats_are_finite)
{
    struct ppl_stats s;
    struct ppl_sums sums = {0};
    ppl_stats(&sums, 0, 0, &s);
    ck_assert(s.nll_mean == 0 && s.perplexity == 0 && s.bits_per_byte == 0 && s.stderr_mean == 0);
    ppl_add(&sums, -9999.0f);
    ppl_stats(&sums, 0, 0, &s);
    ck_assert(isfinite(s.perplexity) && s.perplexity > 1e300);
    ck_assert(s.word_perplexity == 0 && s.byte_perplexity == 0 && s.stderr_mean == 0);
    ppl_add(&sums, -9999.0f);
    ppl_stats(&sums, 1, 1, &s);
    ck_assert(isfinite(s.word_perplexity) && isfinite(s.byte_perplexity) && s.stderr_mean == 0);
}
END_TEST

/* len(re.split(r"\s+", text)) in Python 3. */
START_TEST(words)
{
    static const struct {
        const char *text;
        size_t words;
    } v[] = {{"", 0},
             {"one", 1},
             {"one two", 2},
             {"one \n\t two", 2},
             {" one two", 3},
             {"one two\n", 3},
             {" ", 2},
             {"a\xc2\xa0"
              "b\xe3\x80\x80"
              "c\xe2\x80\x8b"
              "d",
              3}, /* no-break and ideographic space split, zero width space does not */
             {"a\x1f"
              "b\x1b"
              "c",
              2},
             {"bad \xff bytes \xe2\x80", 4}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        ck_assert_uint_eq(ppl_count_words(v[i].text, strlen(v[i].text)), v[i].words);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("perplexity");
    TCase *t = tcase_create("perplexity");
    tcase_add_test(t, strided_windows);
    tcase_add_test(t, rolling_windows);
    tcase_add_test(t, windows_fit);
    tcase_add_test(t, by_hand);
    tcase_add_test(t, sums_and_stats);
    tcase_add_test(t, stats_are_finite);
    tcase_add_test(t, words);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
