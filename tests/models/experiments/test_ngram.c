/* The byte n-grams against counting by brute force, probabilities that sum to one, and the command. */
#include <math.h>

#include "models/experiments/ngram.h"
#include "tests/models/rewrite_testing.h"

static const char TEXT[] = "abracadabra, said the cat; abracadabra, said the \xc3\xa9t\xc3\xa9. a";
enum { LEN = sizeof TEXT - 1 };

/* The byte `back` before text[at]; NUL before the beginning. */
static int byte_at(size_t at, size_t back)
{
    return at >= back ? (unsigned char)TEXT[at - back] : 0;
}

static bool ends_with(size_t at, const unsigned char *gram, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (byte_at(at, n - 1 - i) != gram[i]) return false;
    return true;
}

/* P(gram[k-1] | gram[0..k-1)) as the header defines it. */
static double naive(const unsigned char *gram, size_t k)
{
    if (k == 0) return 1.0 / 256;
    double n = 0, followed = 0, types = 0;
    for (int b = 0; b < 256; b++) {
        unsigned char g[NGRAM_ORDER_MAX];
        double count = 0;
        memcpy(g, gram, k);
        g[k - 1] = (unsigned char)b;
        for (size_t at = 0; at < LEN; at++)
            count += ends_with(at, g, k);
        followed += count;
        types += count > 0;
        if (b == gram[k - 1]) n = count;
    }
    double p = naive(gram + 1, k - 1);
    return followed > 0 ? (n + types * p) / (followed + types) : p;
}

START_TEST(counts_as_by_hand)
{
    for (int order = 1; order <= NGRAM_ORDER_MAX; order++) {
        struct ngram *m = ngram_new(order, TEXT, LEN, NULL);
        double bits = 0;
        for (size_t at = 0; at < LEN; at += 3) {
            unsigned char gram[NGRAM_ORDER_MAX];
            for (int i = 0; i < order; i++)
                gram[i] = (unsigned char)byte_at(at, (size_t)(order - 1 - i));
            gram[order - 1] ^= (unsigned char)(at % 2); /* the byte that comes, or another */
            double p = naive(gram, (size_t)order);
            assert_close(ngram_probability(m, gram, (size_t)order - 1, gram[order - 1]), p, 0,
                         1e-12);
        }
        for (size_t at = 0; at < LEN; at++) {
            unsigned char gram[NGRAM_ORDER_MAX];
            for (int i = 0; i < order; i++)
                gram[i] = (unsigned char)byte_at(at, (size_t)(order - 1 - i));
            bits -= log2(naive(gram, (size_t)order));
        }
        assert_close(ngram_bits(m, TEXT, LEN, NULL), bits, 0, 1e-10);
        ngram_free(m);
    }
}
END_TEST

START_TEST(is_a_distribution)
{
    static const char *const contexts[] = {"", "a", "abra", "the ", "zzzz", "ca", "\xc3"};
    struct ngram *m = ngram_new(5, TEXT, LEN, NULL);
    for (size_t c = 0; c < sizeof contexts / sizeof *contexts; c++) {
        double sum = 0;
        for (int b = 0; b < 256; b++)
            sum += ngram_probability(m, (const unsigned char *)contexts[c], strlen(contexts[c]),
                                     (unsigned char)b);
        assert_close(sum, 1, 1e-12, 0);
    }
    ngram_free(m);
    m = ngram_new(3, "", 0, NULL);
    assert_close(ngram_bits(m, "xyz", 3, NULL), 24, 1e-12, 0);
    ngram_free(m);
}
END_TEST

START_TEST(command)
{
    const char *dir = temp_dir(), *data = path_join(dir, "data"), *text = path_join(dir, "text"),
               *none = path_join(dir, "none");
    write_file(data, TEXT, LEN);
    write_file(text, "abracadabra", 11);
    write_file(none, "", 0);
    struct ngram *m = ngram_new(4, TEXT, LEN, NULL);
    char want[80],
        *out = RUN(cmd_baseline, "--data", data, "--text", text, "--order", "4", "--json");
    snprintf(want, sizeof want, "\"bytes\": 11, \"bits_per_byte\": %.6f}\n",
             ngram_bits(m, "abracadabra", 11, NULL) / 11);
    ck_assert_ptr_nonnull(strstr(out, want));
    ngram_free(m);
    free(out);
    REFUSED(cmd_baseline, "--data is missing", "--text", text);
    REFUSED(cmd_baseline, "--text is missing", "--data", text);
    REFUSED(cmd_baseline, "none is empty", "--data", data, "--text", none);
    REFUSED(cmd_baseline, "--order", "--data", data, "--text", text, "--order", "7");
    REFUSED(cmd_baseline, "/nonexistent", "--data", "/nonexistent", "--text", text);
    gives_up(cmd_baseline, (const char *const[]){"--data", data, "--text", text, NULL});
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ngram");
    TCase *t = tcase_create("ngram");
    tcase_add_test(t, counts_as_by_hand);
    tcase_add_test(t, is_a_distribution);
    tcase_add_test(t, command);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
