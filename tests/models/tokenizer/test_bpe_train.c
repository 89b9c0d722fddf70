/* bpe_train() against its definition: all words written out, all pairs counted anew for every merge. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/gpt2/byte_level.h"
#include "engine/gpt2/pretokenizer.h"
#include "models/tokenizer/bpe_train.h"
#include "tests/support/harness.h"

enum { N_BYTES = 256, MAX_IDS = 640, MAX_TEXT = 8192 };

struct naive {
    int ids[MAX_TEXT], n; /* the text's tokens; -1 after each word */
    char token[MAX_IDS][MAX_TEXT];
    size_t len[MAX_IDS];
    int n_tokens;
    int merges[2 * MAX_IDS][2], n_merges;
};

static void naive_start(struct naive *v, const char *text, size_t len)
{
    int id_of[N_BYTES];
    v->n = v->n_merges = 0;
    v->n_tokens = N_BYTES;
    for (int i = 0; i < N_BYTES; i++) {
        v->token[i][0] = (char)byte_level_order(i);
        v->len[i] = 1;
        id_of[byte_level_order(i)] = i;
    }
    for (size_t at = 0; at < len;) {
        size_t piece = pretokenize(text + at, len - at);
        for (size_t i = 0; i < piece; i++)
            v->ids[v->n++] = id_of[(unsigned char)text[at + i]];
        v->ids[v->n++] = -1;
        at += piece;
    }
}

static bool most_frequent(const struct naive *v, int *left, int *right)
{
    static int counts[MAX_IDS][MAX_IDS];
    int best = 0;
    memset(counts, 0, sizeof counts);
    for (int i = 0; i + 1 < v->n; i++)
        if (v->ids[i] >= 0 && v->ids[i + 1] >= 0) counts[v->ids[i]][v->ids[i + 1]]++;
    for (int a = 0; a < v->n_tokens; a++)
        for (int b = 0; b < v->n_tokens; b++)
            if (counts[a][b] > best) {
                best = counts[a][b];
                *left = a;
                *right = b;
            }
    return best > 0;
}

static void naive_merge(struct naive *v, int left, int right)
{
    int id = 0, n = 0;
    char *product = v->token[v->n_tokens];
    size_t len = v->len[left] + v->len[right];
    memcpy(product, v->token[left], v->len[left]);
    memcpy(product + v->len[left], v->token[right], v->len[right]);
    v->len[v->n_tokens] = len;
    while (v->len[id] != len || memcmp(v->token[id], product, len) != 0)
        id++; /* itself, or the same bytes made before */
    v->n_tokens += id == v->n_tokens;
    v->merges[v->n_merges][0] = left;
    v->merges[v->n_merges++][1] = right;
    for (int i = 0; i < v->n; i++) {
        bool here = i + 1 < v->n && v->ids[i] == left && v->ids[i + 1] == right;
        v->ids[n++] = here ? id : v->ids[i];
        i += here;
    }
    v->n = n;
}

static void same_as_naive(const char *text, size_t len, int n_tokens)
{
    struct naive *v = malloc(sizeof *v);
    struct word_table words = {0};
    struct bpe_vocab got = {0};
    int left, right;
    uint64_t encoded = 0;
    ck_assert_uint_lt(len, MAX_TEXT / 2);
    naive_start(v, text, len);
    while (v->n_tokens < n_tokens && most_frequent(v, &left, &right))
        naive_merge(v, left, right);
    for (int i = 0; i < v->n; i++)
        encoded += v->ids[i] >= 0;

    word_count(&words, text, len, NULL, NULL);
    bpe_train(&got, words.words, words.n, n_tokens, NULL, NULL);
    ck_assert_int_eq(got.n_tokens, v->n_tokens);
    ck_assert_uint_eq(got.n_merges, (size_t)v->n_merges);
    for (size_t i = 0; i < got.n_merges; i++) {
        ck_assert_msg(got.merges[i].left == v->merges[i][0] &&
                          got.merges[i].right == v->merges[i][1],
                      "merge %zu is %d %d, expected %d %d", i, got.merges[i].left,
                      got.merges[i].right, v->merges[i][0], v->merges[i][1]);
    }
    for (int i = 0; i < got.n_tokens; i++) {
        ck_assert_uint_eq(got.tokens[i].len, v->len[i]);
        ck_assert_mem_eq(got.tokens[i].p, v->token[i], v->len[i]);
    }
    ck_assert_uint_eq(got.encoded_tokens, encoded);
    bpe_vocab_release(&got);
    word_table_release(&words);
    free(v);
}

static const struct {
    const char *text;
    int n_tokens;
} cases[] = {
    {"", 300},
    {"a", 300},
    {"a b c", 300},
    {"aaa", 300}, /* overlapping: aa a, then aaa */
    {"aaaa aaaaa aa aaaaaaa aaa", 300},
    {"abab baba ababab", 300},
    {"ab cd ef gh", 258}, /* all equally frequent: the lowest ids go first */
    {"zy xw ba zy xw ba\n\n  \n", 300},
    {"low low low low low lower lower newest newest newest widest widest", 270},
    {"low lower newest", 256}, /* no merge at all */
    {"d\xc3\xa9j\xc3\xa0 vu, d\xc3\xa9j\xc3\xa0 vu; \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e "
     "\xe6\x97\xa5"
     "\xe6\x9c\xac \xf0\x9f\x98\x80\xf0\x9f\x98\x80",
     300},
    {"It's what we'll do in 1984, isn't it? 1984! 1984??", 300},
};

START_TEST(texts)
{
    same_as_naive(cases[_i].text, strlen(cases[_i].text), cases[_i].n_tokens);
}
END_TEST

/* Few letters and long words: overlaps, ties, and tokens that two merges produce. */
START_TEST(random_texts)
{
    char text[2000];
    size_t n = 0;
    uint32_t bits[4];
    int letters = 1 + _i % 4;
    while (n < sizeof text - 1) {
        rng_bits(11, (uint64_t)_i, n, bits);
        text[n++] = (char)(bits[0] % 16 == 0 ? ' ' : 'a' + bits[1] % (uint32_t)letters);
    }
    same_as_naive(text, n, 256 + 20 * (1 + _i % 10));
}
END_TEST

static bool stop_at_260(void *arg, int32_t n_tokens)
{
    *(int *)arg += 1;
    return n_tokens < 260;
}

START_TEST(can_be_stopped)
{
    struct word_table words = {0};
    struct bpe_vocab v = {0};
    int calls = 0;
    const char *text = "one of these days the other one will go";
    word_count(&words, text, strlen(text), NULL, NULL);
    bpe_train(&v, words.words, words.n, 300, stop_at_260, &calls);
    ck_assert_int_eq(v.n_tokens, 260);
    ck_assert_int_eq(calls, 4);
    bpe_vocab_release(&v);
    word_table_release(&words);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("bpe_train");
    TCase *t = tcase_create("bpe_train");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, texts, 0, (int)(sizeof cases / sizeof *cases));
    tcase_add_loop_test(t, random_texts, 0, 24);
    tcase_add_test(t, can_be_stopped);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
