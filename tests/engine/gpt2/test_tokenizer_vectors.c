/* GPT-2's real files against published text -> ids vectors, and a trained model's two spellings of
 * one tokenizer against each other. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/tokenizer.h"
#include "tests/support/harness.h"

#define SEPARATOR "\n__ggml_vocab_test__\n"

static struct tokenizer *open_shared(const char *relative)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    ck_assert_msg(tokenizer_open(&t, shared_path(relative), &e) == 0, "%s", e.msg);
    return t;
}

/* The integers in s[0..len), whatever is between them. */
static struct tokens parse_ids(const char *s, size_t len)
{
    struct tokens ids = {0};
    for (size_t i = 0; i < len;) {
        int32_t v = 0;
        if (!isdigit((unsigned char)s[i])) {
            i++;
            continue;
        }
        for (; i < len && isdigit((unsigned char)s[i]); i++)
            v = 10 * v + (s[i] - '0');
        tokens_push(&ids, v);
    }
    return ids;
}

static void check_case(const struct tokenizer *t, const char *text, size_t len, const char *ids,
                       size_t ids_len, int number)
{
    struct tokens want = parse_ids(ids, ids_len), got = {0};
    tokenizer_encode(t, text, len, true, &got);
    ck_assert_msg(got.n == want.n, "case %d: %zu tokens, expected %zu", number, got.n, want.n);
    for (size_t i = 0; i < got.n; i++)
        ck_assert_msg(got.ids[i] == want.ids[i], "case %d: token %zu is %d, expected %d", number, i,
                      got.ids[i], want.ids[i]);
    struct buf back = {0};
    tokenizer_decode(t, got.ids, got.n, true, &back);
    ck_assert_msg(back.len == len && (len == 0 || memcmp(back.data, text, len) == 0),
                  "case %d: decoding gives another text", number);
    buf_release(&back);
    tokens_release(&want);
    tokens_release(&got);
}

START_TEST(ggml_pairs)
{
    struct tokenizer *t = open_shared("data/gpt2-tokenizer");
    ck_assert_int_eq(tokenizer_vocab(t), 50257);
    ck_assert_int_eq(tokenizer_eos(t), 50256);
    const char *base = "data/gpt2-tokenizer/test_vectors/ggml-vocab-gpt-2.gguf";
    char path[256];
    size_t len;
    snprintf(path, sizeof path, "%s.inp", base);
    char *inp = read_file(shared_path(path), &len);
    snprintf(path, sizeof path, "%s.out", base);
    char *out = read_file(shared_path(path), NULL);
    int n = 0;
    char *text = inp, *line = out;
    for (;;) {
        char *sep = strstr(text, SEPARATOR), *eol = strchr(line, '\n');
        if (!sep) break;
        ck_assert_ptr_nonnull(eol);
        check_case(t, text, (size_t)(sep - text), line, (size_t)(eol - line), ++n);
        text = sep + strlen(SEPARATOR);
        line = eol + 1;
    }
    size_t rest = (size_t)(inp + len - text);
    check_case(t, text, rest, line, strlen(line), ++n);
    ck_assert_int_eq(n, 47);
    free(inp);
    free(out);
    tokenizer_close(t);
}
END_TEST

START_TEST(test_plans)
{
    struct tokenizer *t = open_shared("data/gpt2-tokenizer");
    char *plans = read_file(
        shared_path("data/gpt2-tokenizer/test_vectors/gpt-tokenizer_TestPlans.txt"), NULL);
    const char *head = "EncodingName: r50k_base\nSample: ", *mid = "\nEncoded: [";
    int n = 0;
    for (char *p = strstr(plans, head); p; p = strstr(p, head)) {
        char *text = p + strlen(head), *ids = strstr(text, mid);
        ck_assert_ptr_nonnull(ids);
        size_t len = (size_t)(ids - text);
        ids += strlen(mid);
        char *end = strchr(ids, ']');
        ck_assert_ptr_nonnull(end);
        check_case(t, text, len, ids, (size_t)(end - ids), ++n);
        p = end;
    }
    ck_assert_int_eq(n, 64);
    free(plans);
    tokenizer_close(t);
}
END_TEST

START_TEST(end_of_text)
{
    struct tokenizer *t = open_shared("data/gpt2-tokenizer");
    const char text[] = "a<|endoftext|>b";
    struct tokens ids = {0};
    tokenizer_encode(t, text, sizeof text - 1, true, &ids);
    ck_assert_uint_eq(ids.n, 3);
    ck_assert_int_eq(ids.ids[1], 50256);
    ck_assert(tokenizer_is_special(t, 50256));
    ids.n = 0;
    tokenizer_encode(t, text, sizeof text - 1, false, &ids);
    const int32_t plain[] = {64, 27, 91, 437, 1659, 5239, 91, 29, 65};
    ck_assert_uint_eq(ids.n, 9);
    ck_assert_mem_eq(ids.ids, plain, sizeof plain);
    tokens_release(&ids);
    tokenizer_close(t);
}
END_TEST

static struct tokenizer *open_pair_of(const char *relative)
{
    size_t vocab_len, merges_len;
    char *vocab = read_file(path_join(shared_path(relative), "vocab.json"), &vocab_len);
    char *merges = read_file(path_join(shared_path(relative), "merges.txt"), &merges_len);
    struct tokenizer *t = NULL;
    struct err e = {0};
    ck_assert_msg(tokenizer_parse_bpe(&t, vocab, vocab_len, merges, merges_len, &e) == 0, "%s",
                  e.msg);
    free(vocab);
    free(merges);
    return t;
}

START_TEST(both_forms_agree)
{
    struct tokenizer *json = open_shared("models/tarot"), *pair = open_pair_of("models/tarot");
    ck_assert_int_eq(tokenizer_vocab(json), 1000);
    ck_assert_int_eq(tokenizer_vocab(pair), 1000);
    ck_assert_int_eq(tokenizer_eos(json), 0);
    ck_assert_int_eq(tokenizer_eos(pair), 0);
    ck_assert_uint_eq(tokenizer_max_token_bytes(json), tokenizer_max_token_bytes(pair));
    size_t len;
    char *text = read_file(
        shared_path("data/gpt2-tokenizer/test_vectors/gpt-tokenizer_TestPlans.txt"), &len);
    struct tokens a = {0}, b = {0};
    tokenizer_encode(json, text, len, true, &a);
    tokenizer_encode(pair, text, len, true, &b);
    ck_assert_uint_eq(a.n, b.n);
    ck_assert_mem_eq(a.ids, b.ids, a.n * sizeof *a.ids);
    struct buf back = {0};
    tokenizer_decode(json, a.ids, a.n, true, &back);
    ck_assert_uint_eq(back.len, len);
    ck_assert_mem_eq(back.data, text, len);
    buf_release(&back);
    tokens_release(&a);
    tokens_release(&b);
    free(text);
    tokenizer_close(json);
    tokenizer_close(pair);
}
END_TEST

START_TEST(golden_prompt)
{
    struct tokenizer *t = open_shared("models/tarot");
    char *golden = read_file(path_join(shared_path("models/tarot"), "golden.json"), NULL);
    char *ids = strstr(golden, "\"ids_greedy_64\": [");
    ck_assert_ptr_nonnull(ids);
    ids = strchr(ids, '[');
    struct tokens want = parse_ids(ids, strcspn(ids, "]")), got = {0};
    tokenizer_encode(t, "The Fool", 8, true, &got);
    ck_assert_uint_gt(got.n, 0);
    ck_assert_uint_ge(want.n, got.n);
    ck_assert_mem_eq(got.ids, want.ids, got.n * sizeof *got.ids);
    tokens_release(&want);
    tokens_release(&got);
    free(golden);
    tokenizer_close(t);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tokenizer_vectors");
    TCase *t = tcase_create("tokenizer_vectors");
    tcase_set_timeout(t, 120);
    if (shared_path("data/gpt2-tokenizer/test_vectors/ggml-vocab-gpt-2.gguf.inp")) {
        tcase_add_test(t, ggml_pairs);
        tcase_add_test(t, test_plans);
        tcase_add_test(t, end_of_text);
    } else {
        skip("published vectors", "../shared/data/gpt2-tokenizer is absent");
    }
    if (shared_path("models/tarot") && shared_path("data/gpt2-tokenizer/test_vectors")) {
        tcase_add_test(t, both_forms_agree);
        tcase_add_test(t, golden_prompt);
    } else {
        skip("tarot's tokenizer", "../shared/models/tarot is absent");
    }
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
