/* Written tokenizers: the three files agree, hold exactly what was asked for, and are spelled in
 * GPT-2's byte alphabet (checked against its published definition). */
#include "engine/gpt2/tokenizer_write.h"

#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/utf8.h"
#include "engine/gpt2/byte_level.h"
#include "engine/gpt2/tokenizer.h"
#include "tests/support/harness.h"

static struct tokenizer *open_dir(const char *dir)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    ck_assert_msg(tokenizer_open(&t, dir, &e) == 0, "%s", e.msg);
    return t;
}

static struct tokenizer *open_pair(const char *dir)
{
    size_t v_len, m_len;
    char *v = read_file(path_join(dir, "vocab.json"), &v_len);
    char *m = read_file(path_join(dir, "merges.txt"), &m_len);
    struct tokenizer *t = NULL;
    struct err e = {0};
    ck_assert_msg(tokenizer_parse_bpe(&t, v, v_len, m, m_len, &e) == 0, "%s", e.msg);
    free(v);
    free(m);
    return t;
}

/* encoder.py's bytes_to_unicode(): the printable bytes, then 256 + n for the others in order. */
START_TEST(byte_alphabet)
{
    int order[256], n = 0;
    uint32_t chars[256];
    for (int b = 0; b < 256; b++)
        if ((b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF)) {
            chars[n] = (uint32_t)b;
            order[n++] = b;
        }
    int printable = n;
    for (int b = 0; b < 256; b++) {
        bool found = false;
        for (int i = 0; i < printable; i++)
            found |= order[i] == b;
        if (found) continue;
        chars[n] = 256 + (uint32_t)(n - printable);
        order[n++] = b;
    }
    ck_assert_int_eq(n, 256);
    for (int i = 0; i < 256; i++) {
        ck_assert_int_eq(byte_level_order(i), order[i]);
        ck_assert_uint_eq(byte_level_char((uint8_t)order[i]), chars[i]);
        struct buf s = {0}, back = {0};
        char byte = (char)(uint8_t)order[i], utf8[4];
        byte_level_encode(&byte, 1, &s);
        size_t len = utf8_encode(chars[i], utf8);
        ck_assert_uint_eq(s.len, len);
        ck_assert_mem_eq(s.data, utf8, len);
        ck_assert_uint_eq(byte_level_decode(s.data, s.len, &back), 1);
        ck_assert_mem_eq(back.data, &byte, 1);
        buf_release(&s);
        buf_release(&back);
    }
}
END_TEST

START_TEST(spellings_outside_the_alphabet)
{
    static const char *const bad[] = {" ",        "a b",          "\n",   "\x7f", "\xc2\xad",
                                      "\xc5\x84", "\xe4\xb8\x96", "\xc4", "\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct buf out = {0};
        buf_puts(&out, "kept");
        ck_assert_uint_eq(byte_level_decode(bad[i], strlen(bad[i]), &out), SIZE_MAX);
        ck_assert_uint_eq(out.len, 4);
        buf_release(&out);
    }
}
END_TEST

static void check_synthetic(int32_t vocab)
{
    const char *dir = temp_dir();
    struct err e = {0};
    ck_assert_msg(tokenizer_write_bytes(dir, vocab, &e) == 0, "%s", e.msg);
    struct tokenizer *json = open_dir(dir), *pair = open_pair(dir);
    ck_assert_int_eq(tokenizer_vocab(json), vocab);
    ck_assert_int_eq(tokenizer_vocab(pair), vocab);
    ck_assert_int_eq(tokenizer_eos(json), vocab - 1);
    ck_assert_int_eq(tokenizer_eos(pair), vocab - 1);
    for (int32_t id = 0; id < vocab; id++) {
        size_t a, b;
        const char *pa = tokenizer_bytes(json, id, &a), *pb = tokenizer_bytes(pair, id, &b);
        ck_assert_uint_eq(a, b);
        ck_assert_int_eq((int)a, id < 256 ? 1 : id == vocab - 1 ? 13 : 2);
        ck_assert_int_eq(memcmp(pa, pb, a), 0);
        ck_assert_int_eq(tokenizer_find(json, pa, a), id);
        ck_assert_int_eq(tokenizer_is_special(json, id), id == vocab - 1);
        ck_assert_int_eq(tokenizer_is_special(pair, id), id == vocab - 1);
        if (id < 256) ck_assert_int_eq((unsigned char)*pa, byte_level_order(id));
        if (id >= 256 && id < 256 + 2704 && id < vocab - 1)
            ck_assert(isalpha(pa[0]) && isalpha(pa[1]));
    }
    struct tokens ta = {0}, tb = {0};
    const char text[] = "The rain in Spain, 1234 times: caf\xc3\xa9<|endoftext|>!";
    tokenizer_encode(json, text, sizeof text - 1, true, &ta);
    tokenizer_encode(pair, text, sizeof text - 1, true, &tb);
    ck_assert_uint_eq(ta.n, tb.n);
    ck_assert_mem_eq(ta.ids, tb.ids, ta.n * sizeof *ta.ids);
    tokens_release(&ta);
    tokens_release(&tb);
    tokenizer_close(json);
    tokenizer_close(pair);
}

START_TEST(synthetic)
{
    static const int32_t sizes[] = {257, 258, 300, 1000, 4096, 50257};
    check_synthetic(sizes[_i]);
}
END_TEST

START_TEST(all_pairs)
{
    check_synthetic(256 + 65536 + 1);
}
END_TEST

START_TEST(synthetic_limits)
{
    static const int32_t bad[] = {-1, 0, 256, 256 + 65536 + 2, INT32_MAX};
    const char *dir = temp_dir();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        ck_assert_int_eq(tokenizer_write_bytes(dir, bad[i], &e), ERR_INVALID);
        ck_assert_ptr_nonnull(strstr(e.msg, "expected 257"));
    }
    struct err e = {0};
    ck_assert_int_eq(tokenizer_write_bytes(path_join(dir, "absent"), 257, &e), ERR_IO);
    ck_assert_ptr_nonnull(strstr(e.msg, "absent/tokenizer.json"));
}
END_TEST

/* Quotes, backslashes and controls are escaped; every part is found again by another JSON library. */
START_TEST(parts)
{
    const struct tokenizer_part_token tokens[] = {
        {"\"", 1, false}, {"\\", 1, false},  {"\"\\", 2, false},       {"\n", 1, false},
        {" ", 1, false},  {"\n ", 2, false}, {"<a \"b\"\n>", 8, true}, {"<|endoftext|>", 13, true}};
    const struct tokenizer_part_merge merges[] = {{3, 4}, {0, 1}};
    struct tokenizer_parts p = {tokens, 8, merges, 2};
    const char *dir = temp_dir();
    struct err e = {0};
    ck_assert_msg(tokenizer_write(dir, &p, &e) == 0, "%s", e.msg);
    struct tokenizer *t = open_dir(dir);
    for (int32_t id = 0; id < 8; id++) {
        size_t len;
        const char *bytes = tokenizer_bytes(t, id, &len);
        ck_assert_uint_eq(len, tokens[id].len);
        ck_assert_mem_eq(bytes, tokens[id].bytes, len);
        ck_assert_int_eq(tokenizer_is_special(t, id), tokens[id].special);
    }
    json_t *vocab = json_load_file(path_join(dir, "vocab.json"), 0, NULL);
    ck_assert_int_eq(json_integer_value(json_object_get(vocab, "\xc4\x8a\xc4\xa0")), 5);
    json_decref(vocab);
    char *text = read_file(path_join(dir, "merges.txt"), NULL);
    ck_assert_str_eq(text, "#version: 0.2\n\xc4\x8a \xc4\xa0\n\" \\\n");
    free(text);
    tokenizer_close(t);
}
END_TEST

START_TEST(bad_parts_leave_no_file)
{
    const struct tokenizer_part_token twice[] = {{"a", 1, false}, {"b", 1, false}, {"a", 1, false}};
    const struct tokenizer_part_token good[] = {
        {"a", 1, false}, {"b", 1, false}, {"\xff", 1, true}};
    const struct tokenizer_part_merge no_id = {0, 3}, no_product = {0, 1};
    const struct tokenizer_parts bad[] = {
        {twice, 3, NULL, 0}, {good, 3, NULL, 0}, {good, 2, &no_id, 1}, {good, 2, &no_product, 1}};
    const char *dir = temp_dir();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        ck_assert_int_eq(tokenizer_write(dir, &bad[i], &e), ERR_INVALID);
        ck_assert_uint_gt(strlen(e.msg), 0);
        ck_assert_int_ne(access(path_join(dir, "tokenizer.json"), F_OK), 0);
        ck_assert_int_ne(access(path_join(dir, "vocab.json"), F_OK), 0);
    }
}
END_TEST

static void check_file(const char *dir, const char *name, const char *want)
{
    if (!want) {
        ck_assert_msg(access(path_join(dir, name), F_OK) != 0, "%s was copied", name);
        return;
    }
    char *got = read_file(path_join(dir, name), NULL);
    ck_assert_str_eq(got, want);
    free(got);
}

START_TEST(copies)
{
    const char *from = temp_dir(), *to = temp_dir();
    struct err e = {0};
    ck_assert_int_eq(tokenizer_copy_files(from, to, &e), 0);
    write_file(path_join(from, "encoder.json"), "E", 1);
    write_file(path_join(from, "vocab.bpe"), "B", 1);
    write_file(path_join(from, "tokenizer_config.json"), "C", 1);
    write_file(path_join(from, "model.safetensors"), "M", 1);
    write_file(path_join(to, "merges.txt"), "older", 5);
    ck_assert_int_eq(tokenizer_copy_files(from, to, &e), 0);
    check_file(to, "vocab.json", "E");
    check_file(to, "merges.txt", "B");
    check_file(to, "tokenizer_config.json", "C");
    check_file(to, "encoder.json", NULL);
    check_file(to, "model.safetensors", NULL);
    check_file(to, "tokenizer.json", NULL);
    write_file(path_join(from, "vocab.json"), "V", 1);
    write_file(path_join(from, "tokenizer.json"), "T", 1);
    write_file(path_join(from, "added_tokens.json"), "A", 1);
    write_file(path_join(from, "special_tokens_map.json"), "S", 1);
    ck_assert_int_eq(tokenizer_copy_files(from, to, &e), 0);
    check_file(to, "vocab.json", "V");
    check_file(to, "tokenizer.json", "T");
    check_file(to, "added_tokens.json", "A");
    check_file(to, "special_tokens_map.json", "S");
    ck_assert_int_eq(tokenizer_copy_files(from, from, &e), 0);
    check_file(from, "vocab.json", "V");
    ck_assert_int_eq(tokenizer_copy_files(from, path_join(to, "absent"), &e), ERR_IO);
    ck_assert_ptr_nonnull(strstr(e.msg, "absent/tokenizer.json"));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tokenizer_write");
    TCase *t = tcase_create("tokenizer_write");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, byte_alphabet);
    tcase_add_test(t, spellings_outside_the_alphabet);
    tcase_add_loop_test(t, synthetic, 0, 6);
    tcase_add_test(t, all_pairs);
    tcase_add_test(t, synthetic_limits);
    tcase_add_test(t, parts);
    tcase_add_test(t, bad_parts_leave_no_file);
    tcase_add_test(t, copies);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
