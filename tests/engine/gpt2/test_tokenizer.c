/* Encoding and decoding with a small tokenizer made here: pieces, merges, added tokens, bytes that
 * are not text, and every accepted setting of the files. */
#include "engine/gpt2/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/gpt2/pretokenizer.h"
#include "tests/engine/gpt2/tokenizer_fixture.h"
#include "tests/support/harness.h"

static struct tokenizer *parse(const char *json, size_t len)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    ck_assert_msg(tokenizer_parse_json(&t, json, len, "t.json", &e) == 0, "%s", e.msg);
    return t;
}

static struct tokenizer *make(const char *pre_tokenizer, const char *model, const char *rest)
{
    struct buf json = {0};
    fixture_json(&json, pre_tokenizer, model, rest, false);
    struct tokenizer *t = parse(json.data, json.len);
    buf_release(&json);
    return t;
}

/* The tokens of a text, as text: "a|b". */
static void check_tokens(const struct tokenizer *t, const char *text, bool special,
                         const char *want)
{
    struct tokens ids = {0};
    struct buf got = {0};
    tokenizer_encode(t, text, strlen(text), special, &ids);
    for (size_t i = 0; i < ids.n; i++) {
        size_t len;
        const char *bytes = tokenizer_bytes(t, ids.ids[i], &len);
        if (i) buf_putc(&got, '|');
        buf_append(&got, bytes, len);
    }
    ck_assert_str_eq(got.len ? got.data : "", want);
    buf_release(&got);
    tokens_release(&ids);
}

START_TEST(merges_apply_in_order)
{
    struct tokenizer *t = make(FIXTURE_BYTE_LEVEL, "", "");
    check_tokens(t, "", true, "");
    check_tokens(t, "abc", true, "abc");
    check_tokens(t, "abab", true, "abab");
    check_tokens(t, "ababc", true, "abab|c"); /* "ab ab" comes before "ab c" */
    check_tokens(t, "aaa", true, "aa|a");
    check_tokens(t, "aaaaaaaaaaa", true, "aaaaaaaa|aa|a");
    check_tokens(t, "the theabc", true, "the| the|abc");
    check_tokens(t, " ab", true, " |ab"); /* "a b" before " a": the merge " a b" is never reached */
    check_tokens(t, "it's", true, "i|t|'s");
    check_tokens(t, "12345 12", true, "123|4|5| |12");
    check_tokens(t, "a     b", true, "a|    | |b");
    check_tokens(t, "caf\xc3\xa9 \xe4\xb8\x96", true, "c|a|f|\xc3\xa9| |\xe4\xb8\x96");
    check_tokens(t, "bc", true, "bc");
    tokenizer_close(t);
}
END_TEST

START_TEST(trivia)
{
    struct tokenizer *t = make(FIXTURE_BYTE_LEVEL, "", "");
    size_t len = 9;
    ck_assert_int_eq(tokenizer_vocab(t), FIXTURE_EOS + 1);
    ck_assert_int_eq(tokenizer_eos(t), FIXTURE_EOS);
    ck_assert_uint_eq(tokenizer_max_token_bytes(t), 13);
    ck_assert_int_eq(tokenizer_find(t, "abc", 3), 256 + 6);
    ck_assert_int_eq(tokenizer_find(t, "<|endoftext|>", 13), FIXTURE_EOS);
    ck_assert_int_eq(tokenizer_find(t, "abcd", 4), -1);
    ck_assert_int_eq(tokenizer_find(t, "", 0), -1);
    ck_assert_int_eq(tokenizer_find(t, "\xff", 1), 255);
    for (int i = 0; i < 3; i++) {
        const int32_t outside[] = {-1, FIXTURE_EOS + 1, INT32_MAX};
        ck_assert_str_eq(tokenizer_bytes(t, outside[i], &len), "");
        ck_assert_uint_eq(len, 0);
        ck_assert(!tokenizer_is_special(t, outside[i]));
    }
    ck_assert(tokenizer_is_special(t, FIXTURE_EOS));
    ck_assert(!tokenizer_is_special(t, 97));
    const int32_t ids[] = {97, FIXTURE_EOS, -5, 1 << 30, 98};
    struct buf out = {0};
    tokenizer_decode(t, ids, 5, false, &out);
    ck_assert_str_eq(out.data, "ab");
    tokenizer_decode(t, ids, 5, true, &out);
    ck_assert_str_eq(out.data, "aba<|endoftext|>b");
    buf_release(&out);
    tokenizer_close(t);
    tokenizer_close(NULL);
}
END_TEST

#define ADDED(id, text, special) \
    "{\"id\": " #id ", \"content\": \"" text "\", \"special\": " special "}"

START_TEST(pairs_are_cut_after_the_context)
{
    struct tokenizer *t = make(FIXTURE_BYTE_LEVEL, "", "");
    static const struct {
        const char *context, *continuation;
        size_t in_context, in_all;
    } cases[] = {
        {"the", " the", 1, 2},   {"the ", "the", 1, 2}, /* the space belongs to what follows it */
        {"the \n", "the", 1, 4}, {"", "abc", 1, 2},     /* end-of-text stands for no context */
        {"  ", "abc", 0, 3},     {"abc", "", 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokens ids = {0};
        size_t n =
            tokenizer_encode_pair(t, cases[i].context, strlen(cases[i].context),
                                  cases[i].continuation, strlen(cases[i].continuation), 7, &ids);
        ck_assert_uint_eq(n, cases[i].in_context);
        ck_assert_msg(ids.n == cases[i].in_all, "case %zu has %zu tokens", i, ids.n);
        if (!*cases[i].context) ck_assert_int_eq(ids.ids[0], 7);
        tokens_release(&ids);
    }
    tokenizer_close(t);
}
END_TEST

START_TEST(added_tokens)
{
    struct tokenizer *t =
        make(FIXTURE_BYTE_LEVEL, "",
             ", \"added_tokens\": [" ADDED(280, "<|endoftext|>", "true") ", " ADDED(
                 281, "<|end|>", "true") ", " ADDED(282, "<|end|><|end|>", "true") ", " ADDED(283, "zz", "false") ", "
                 ADDED(284, "\xc3\xa9\\u0001 q", "false") ", " ADDED(97, "a", "true") ", " ADDED(285, "", "true") "]");
    ck_assert_int_eq(FIXTURE_EOS, 280);
    ck_assert_int_eq(tokenizer_vocab(t), 286);
    check_tokens(t, "<|endoftext|>", true, "<|endoftext|>");
    check_tokens(t, "b<|endoftext|><|endoftext|>b", true, "b|<|endoftext|>|<|endoftext|>|b");
    check_tokens(t, "<|end|><|end|><|end|>", true, "<|end|><|end|>|<|end|>");
    check_tokens(t, "<|end|<|end|>", true, "<|||e|n|d|||<|end|>");
    check_tokens(t, "<|end|>", false, "<|||e|n|d|||>");
    check_tokens(t, "bzzzb", false, "b|zz|z|b"); /* not special: found always */
    check_tokens(t, "zzzz", true, "zz|zz");
    check_tokens(t, ".\xc3\xa9\x01 q.", false, ".|\xc3\xa9\x01 q|.");
    check_tokens(t, "aab", true, "a|a|b"); /* special and in the vocabulary: no merge across it */
    check_tokens(t, "aab", false, "a|ab");
    ck_assert(tokenizer_is_special(t, 97));
    ck_assert(!tokenizer_is_special(t, 283));
    tokenizer_close(t);
}
END_TEST

START_TEST(prefix_space)
{
    struct tokenizer *t = make("{\"type\": \"ByteLevel\", \"add_prefix_space\": true}", "", "");
    check_tokens(t, "the", true, " the");
    check_tokens(t, " the", true, " the");
    check_tokens(t, "\nthe", true, " |\n|the"); /* white space that is no space gets one too */
    check_tokens(t, "", true, "");
    check_tokens(t, "the<|endoftext|>the the<|endoftext|>", true,
                 " the|<|endoftext|>| the| the|<|endoftext|>");
    tokenizer_close(t);
    t = make("{\"type\": \"ByteLevel\"}", "", ""); /* true is the format's default */
    check_tokens(t, "the", true, " the");
    tokenizer_close(t);
}
END_TEST

/* Settings that change nothing are accepted. */
START_TEST(accepted_settings)
{
    static const char *const models[] = {
        ", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null",
        ", \"dropout\": 0.0, \"unk_token\": \"<|endoftext|>\", \"continuing_subword_prefix\": \"\"",
        ", \"unk_token\": \"no such token\", \"end_of_word_suffix\": \"\", \"fuse_unk\": true",
        ", \"byte_fallback\": true, \"fuse_unk\": null",
    };
    static const char *const rests[] = {
        ", \"normalizer\": null, \"decoder\": {\"type\": \"ByteLevel\"}, \"post_processor\": null",
        ", \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": []}, \"decoder\": null",
        ", \"post_processor\": {\"type\": \"ByteLevel\", \"trim_offsets\": false}, \"truncation\": "
        "{}",
        ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": "
        "{\"id\": \"A\", "
        "\"type_id\": 0}}]}, \"added_tokens\": null",
    };
    static const char *const pre[] = {
        FIXTURE_BYTE_LEVEL,
        "{\"type\": \"Sequence\", \"pretokenizers\": [" FIXTURE_BYTE_LEVEL "]}",
        "{\"add_prefix_space\": false, \"use_regex\": true, \"type\": \"ByteLevel\"}",
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": null}",
    };
    for (int i = 0; i < 4; i++) {
        struct tokenizer *t = make(pre[i], models[i], rests[i]);
        check_tokens(t, "the abc", true, "the| |abc");
        tokenizer_close(t);
    }
}
END_TEST

START_TEST(ignored_merges)
{
    struct tokenizer *t = make(FIXTURE_BYTE_LEVEL, ", \"ignore_merges\": true", "");
    check_tokens(t, " ab", true, " ab"); /* a token, though its merges cannot be reached */
    check_tokens(t, " abb", true, " |ab|b");
    tokenizer_close(t);
}
END_TEST

START_TEST(both_forms_of_files)
{
    struct buf json = {0}, pairs = {0}, vocab = {0}, merges = {0};
    fixture_json(&json, FIXTURE_BYTE_LEVEL, "", "", false);
    fixture_json(&pairs, FIXTURE_BYTE_LEVEL, "", "", true);
    fixture_vocab(&vocab);
    fixture_merges_txt(&merges);
    struct tokenizer *t[3] = {parse(json.data, json.len), parse(pairs.data, pairs.len), NULL};
    struct err e = {0};
    ck_assert_int_eq(tokenizer_parse_bpe(&t[2], vocab.data, vocab.len, merges.data, merges.len, &e),
                     0);
    for (int i = 0; i < 3; i++) {
        check_tokens(t[i], "the abc ababab", true, "the| |abc| |abab|ab");
        ck_assert_int_eq(tokenizer_eos(t[i]), FIXTURE_EOS);
        tokenizer_close(t[i]);
    }
    buf_release(&json);
    buf_release(&pairs);
    buf_release(&vocab);
    buf_release(&merges);
}
END_TEST

/* A vocabulary without all bytes: such bytes are left out, or become the unknown token. */
START_TEST(missing_bytes)
{
    const char *format =
        "{\"pre_tokenizer\": " FIXTURE_BYTE_LEVEL
        ", \"model\": {\"unk_token\": %s, \"vocab\": "
        "{\"a\": 5, \"b\": 1, \"ab\": 9, \"?\": 3, \"x y\": 4}, \"merges\": [\"a b\"]}}";
    static const char *const unk[] = {"null", "\"?\"", "\"\""}, *const want[] = {"ab|ab",
                                                                                 "?|ab|a|?|b|?",
                                                                                 "ab|ab"};
    for (int i = 0; i < 3; i++) {
        struct buf json = {0};
        buf_printf(&json, format, unk[i]);
        struct tokenizer *t = parse(json.data, json.len);
        check_tokens(t, "zabaxb.", true, want[i]);
        check_tokens(t, "x y", true,
                     i == 1 ? "?|?|?" : ""); /* a stray spelling is never found in text */
        ck_assert_int_eq(tokenizer_vocab(t), 10);
        ck_assert_int_eq(tokenizer_eos(t), -1);
        ck_assert_int_eq(tokenizer_find(t, "x y", 3), 4);
        size_t len;
        ck_assert_str_eq(tokenizer_bytes(t, 0, &len), ""); /* a hole */
        ck_assert_uint_eq(len, 0);
        tokenizer_close(t);
        buf_release(&json);
    }
}
END_TEST

/* Whatever the bytes, decoding gives them back, and the piece-wise result is that of all merges. */
START_TEST(random_bytes_come_back)
{
    struct tokenizer *t = make(FIXTURE_BYTE_LEVEL, "", "");
    static const char letters[] = "aabbc   the\n'.s12\xc3\xa9\xe4\xb8\x96\xff\x80<|>";
    for (uint64_t round = 0; round < (harness_sanitized() ? 300 : 3000); round++) {
        char text[400];
        uint32_t r[4];
        rng_bits(5, round, 0, r);
        size_t len = r[0] % sizeof text;
        for (size_t i = 0; i < len; i++) {
            rng_bits(5, round, i + 1, r);
            text[i] = round % 3 ? letters[r[0] % (sizeof letters - 1)] : (char)(unsigned char)r[0];
        }
        struct tokens whole = {0}, parts = {0};
        tokenizer_encode(t, text, len, round % 2, &whole);
        for (size_t at = 0; at < len; at += pretokenize(text + at, len - at))
            tokenizer_encode(t, text + at, pretokenize(text + at, len - at), false, &parts);
        ck_assert_uint_eq(whole.n, parts.n);
        if (parts.n) ck_assert_mem_eq(whole.ids, parts.ids, parts.n * sizeof *parts.ids);
        struct buf back = {0};
        tokenizer_decode(t, whole.ids, whole.n, true, &back);
        ck_assert_uint_eq(back.len, len);
        if (len) ck_assert_mem_eq(back.data, text, len);
        buf_release(&back);
        tokens_release(&whole);
        tokens_release(&parts);
    }
    tokenizer_close(t);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tokenizer");
    TCase *t = tcase_create("tokenizer");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, merges_apply_in_order);
    tcase_add_test(t, trivia);
    tcase_add_test(t, pairs_are_cut_after_the_context);
    tcase_add_test(t, added_tokens);
    tcase_add_test(t, prefix_space);
    tcase_add_test(t, accepted_settings);
    tcase_add_test(t, ignored_merges);
    tcase_add_test(t, both_forms_of_files);
    tcase_add_test(t, missing_bytes);
    tcase_add_test(t, random_bytes_come_back);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
