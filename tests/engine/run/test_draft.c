/* Guesses: what followed the latest earlier occurrence, found by a plain search. */
#include "engine/run/draft.h"

#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/harness.h"

enum { MOST = 16, TEXT = 600 };

/* Where the last `len` tokens occurred before, at the latest; 0 nowhere. */
static int continuation(const int32_t *t, int n, int len)
{
    for (int at = n - 1; at >= len; at--)
        if (!memcmp(t + at - len, t + n - len, (size_t)len * sizeof *t)) return at;
    return 0;
}

static int naive(const int32_t *t, int n, int32_t *out, int most)
{
    int32_t copy[TEXT + MOST];
    int at = continuation(t, n, 3);
    if (!at) at = continuation(t, n, 2);
    if (!at) return 0;
    memcpy(copy, t, (size_t)n * sizeof *t);
    for (int k = 0; k < most; k++)
        copy[n + k] = out[k] = copy[at + k];
    return most;
}

START_TEST(follows_the_latest_occurrence)
{
    int32_t text[TEXT], want[MOST], got[MOST];
    int found = 0, missed = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        int vocab = seed % 2 ? 12 : 3, given = (int)seed * 20;
        for (int i = 0; i < TEXT; i++) /* random, with copies of what was */
            text[i] = i > 40 && i % 50 > 20 ? text[i - 37]
                                            : (int32_t)(rng_uniform(seed, 1, (uint64_t)i) * vocab);
        struct draft *d = draft_new(text, (size_t)given, (size_t)(TEXT - given));
        for (int n = given; n < TEXT; n++) {
            int w = naive(text, n, want, MOST), g = draft_propose(d, got, MOST);
            /* A lost entry is a missed chance; what is proposed is never out of place. */
            if (g) ck_assert(w == g && (!memcmp(want, got, sizeof got) || vocab == 12));
            found += g > 0;
            missed += w > 0 && g == 0;
            draft_add(d, text[n]);
        }
        draft_free(d);
    }
    ck_assert_int_gt(found, 1000);
    ck_assert_int_lt(missed, found / 20);
}
END_TEST

START_TEST(a_copied_end_goes_on_with_itself)
{
    const int32_t text[] = {9, 1, 2, 1, 2};
    int32_t out[7];
    struct draft *d = draft_new(text, 5, 8);
    ck_assert_int_eq(draft_propose(d, out, 7), 7);
    for (int k = 0; k < 7; k++)
        ck_assert_int_eq(out[k], k % 2 ? 2 : 1);
    draft_free(d);
}
END_TEST

START_TEST(short_texts_give_nothing)
{
    const int32_t text[] = {4, 4, 4, 4};
    int32_t out[2];
    for (size_t n = 0; n < 4; n++) {
        struct draft *d = draft_new(text, n, 1);
        ck_assert_int_eq(draft_propose(d, out, 2), n < 3 ? 0 : 2);
        draft_free(d);
    }
    draft_free(NULL);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("draft");
    TCase *t = tcase_create("draft");
    tcase_add_test(t, follows_the_latest_occurrence);
    tcase_add_test(t, a_copied_end_goes_on_with_itself);
    tcase_add_test(t, short_texts_give_nothing);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
