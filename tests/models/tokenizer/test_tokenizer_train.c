/* ttm tokenizer train from end to end: the files are read by the engine's own tokenizer in either form,
 * say the same, give back what they encode, and are the same for any number of threads. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/rng.h"
#include "engine/gpt2/byte_level.h"
#include "engine/gpt2/tokenizer.h"
#include "tests/support/harness.h"
#include "tests/support/tool_call.h"

static const char text[] =
    "The cat sat on the mat. The cat, that cat, sat there; then the cat ate.\n"
    "<|endoftext|>\n"
    "That dog's hat \xe2\x80\x94 a h\xc3\xa9ros' hat \xe2\x80\x94 is that dog's, and that is "
    "that.\n";

static const char *text_file(const char *name, const char *data, size_t len)
{
    const char *path = path_join(temp_dir(), name);
    write_file(path, data, len);
    return path;
}

static void train(const char *file, const char *vocab, const char *dir, const char *threads)
{
    struct tool_result r;
    TOOL(&r, cmd_tokenizer, "train", "--data", file, "--vocab", vocab, "-o", dir, "--threads",
         threads);
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    ck_assert_str_eq(r.out, "");
    ck_assert_ptr_nonnull(strstr(r.log, "bytes per token"));
    tool_result_release(&r);
}

static struct tokenizer *open_dir(const char *dir)
{
    struct err err = {0};
    struct tokenizer *t = NULL;
    ck_assert_msg(tokenizer_open(&t, dir, &err) == 0, "%s", err.msg);
    return t;
}

static void copy(const char *from, const char *to, const char *name)
{
    size_t len;
    char *data = read_file(path_join(from, name), &len);
    write_file(path_join(to, name), data, len);
    free(data);
}

START_TEST(both_forms_say_the_same)
{
    const char *top = temp_dir(), *dir = path_join(top, "t"), *pair = temp_dir();
    train(text_file("x", text, sizeof text - 1), "290", dir, "2");
    ck_assert_int_eq(tool_entries(dir), 3);
    copy(dir, pair, "vocab.json");
    copy(dir, pair, "merges.txt");
    struct tokenizer *a = open_dir(dir), *b = open_dir(pair);
    ck_assert_int_eq(tokenizer_vocab(a), 290);
    ck_assert_int_eq(tokenizer_vocab(b), 290);
    ck_assert_int_eq(tokenizer_eos(a), 289);
    ck_assert_int_eq(tokenizer_eos(b), 289);
    ck_assert(tokenizer_is_special(a, 289) && !tokenizer_is_special(a, 288));
    for (int32_t id = 0; id < 290; id++) {
        size_t n, m;
        const char *p = tokenizer_bytes(a, id, &n), *q = tokenizer_bytes(b, id, &m);
        ck_assert_uint_eq(n, m);
        ck_assert_mem_eq(p, q, n);
        if (id < 256) ck_assert(n == 1 && (uint8_t)*p == byte_level_order(id));
    }
    struct tokens x = {0}, y = {0};
    tokenizer_encode(a, text, sizeof text - 1, true, &x);
    tokenizer_encode(b, text, sizeof text - 1, true, &y);
    ck_assert_uint_eq(x.n, y.n);
    ck_assert_mem_eq(x.ids, y.ids, x.n * sizeof *x.ids);
    ck_assert_uint_lt(x.n, sizeof text / 2); /* it has learnt something */
    tokens_release(&x);
    tokens_release(&y);
    tokenizer_close(a);
    tokenizer_close(b);
}
END_TEST

START_TEST(decoding_gives_the_text)
{
    const char *dir = path_join(temp_dir(), "t");
    char noise[4096];
    train(text_file("x", text, sizeof text - 1), "290", dir, "1");
    struct tokenizer *t = open_dir(dir);
    for (uint64_t i = 0; i < sizeof noise; i++) { /* any bytes, UTF-8 or not */
        uint32_t b[4];
        rng_bits(5, 0, i, b);
        noise[i] = (char)(b[0] & 255);
    }
    const struct {
        const char *p;
        size_t len;
    } samples[] = {{text, sizeof text - 1}, {noise, sizeof noise}, {"", 0}};
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        struct tokens ids = {0};
        struct buf back = {0};
        tokenizer_encode(t, samples[i].p, samples[i].len, true, &ids);
        tokenizer_decode(t, ids.ids, ids.n, true, &back);
        ck_assert_uint_eq(back.len, samples[i].len);
        if (back.len) ck_assert_mem_eq(back.data, samples[i].p, back.len);
        tokens_release(&ids);
        buf_release(&back);
    }
    tokenizer_close(t);
}
END_TEST

/* Large enough for several pieces. */
static const char *large_file(void)
{
    struct buf b = {0};
    for (uint64_t i = 0; b.len < (harness_sanitized() ? 1200000 : 3000000); i++) {
        uint32_t r[4];
        rng_bits(6, 0, i, r);
        for (uint32_t k = 0; k <= r[0] % 9; k++)
            buf_putc(&b, (char)('a' + (r[1] >> (3 * k)) % 7));
        buf_putc(&b, r[2] % 12 ? ' ' : '\n');
    }
    const char *path = text_file("large", b.data, b.len);
    buf_release(&b);
    return path;
}

START_TEST(threads_change_nothing)
{
    const char *top = temp_dir(), *file = large_file();
    const char *one = path_join(top, "1"), *three = path_join(top, "3");
    static const char *const files[] = {"tokenizer.json", "vocab.json", "merges.txt"};
    train(file, "700", one, "1");
    train(file, "700", three, "3");
    for (int i = 0; i < 3; i++) {
        size_t n, m;
        char *a = read_file(path_join(one, files[i]), &n);
        char *b = read_file(path_join(three, files[i]), &m);
        ck_assert_uint_eq(n, m);
        ck_assert(memcmp(a, b, n) == 0);
        free(a);
        free(b);
    }
}
END_TEST

START_TEST(the_smallest_has_bytes_and_end_of_text)
{
    const char *dir = path_join(temp_dir(), "t");
    train(text_file("x", text, sizeof text - 1), "257", dir, "1");
    struct tokenizer *t = open_dir(dir);
    struct tokens ids = {0};
    tokenizer_encode(t, "cat<|endoftext|>", 16, true, &ids);
    ck_assert_uint_eq(ids.n, 4);
    ck_assert_int_eq(ids.ids[3], 256);
    tokens_release(&ids);
    tokenizer_close(t);
}
END_TEST

/* What Hugging Face's own trainer writes, as it wrote the fixture's files: the same keys. */
START_TEST(the_fields_are_hugging_faces)
{
    const char *dir = path_join(temp_dir(), "t");
    train(text_file("x", text, sizeof text - 1), "270", dir, "1");
    json_t *ours = json_load_file(path_join(dir, "tokenizer.json"), 0, NULL);
    json_t *theirs = json_load_file(shared_path("models/tarot/tokenizer.json"), 0, NULL);
    ck_assert(ours && theirs);
    static const char *const parts[] = {NULL, "pre_tokenizer", "post_processor", "decoder",
                                        "model"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        json_t *o = parts[i] ? json_object_get(ours, parts[i]) : ours;
        json_t *h = parts[i] ? json_object_get(theirs, parts[i]) : theirs;
        for (void *at = json_object_iter(h); at; at = json_object_iter_next(h, at))
            ck_assert_msg(json_object_get(o, json_object_iter_key(at)) != NULL, "%s",
                          json_object_iter_key(at));
    }
    static const char *const same[] = {"pre_tokenizer", "post_processor", "decoder", "normalizer"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        ck_assert(json_equal(json_object_get(ours, same[i]), json_object_get(theirs, same[i])));
    json_decref(ours);
    json_decref(theirs);
}
END_TEST

START_TEST(refuses_by_name)
{
    const char *top = temp_dir(), *dir = path_join(top, "t");
    const char *file = text_file("x", text, sizeof text - 1);
    REFUSED(cmd_tokenizer, "an argument is missing", "--vocab", "300");
    REFUSED(cmd_tokenizer, "\"merge\" is not a command", "merge");
    REFUSED(cmd_tokenizer, "--data is missing", "train", "--vocab", "300", "-o", dir);
    REFUSED(cmd_tokenizer, "--vocab is missing", "train", "--data", file, "-o", dir);
    REFUSED(cmd_tokenizer, "--out is missing", "train", "--data", file, "--vocab", "300");
    REFUSED(cmd_tokenizer, "--vocab: 256 is outside 257..", "train", "--data", file, "--vocab",
            "256", "-o", dir);
    REFUSED(cmd_tokenizer, "words, which give at most 298 tokens, not 5000", "train", "--data",
            file, "--vocab", "5000", "-o", dir);
    REFUSED(cmd_tokenizer, "cannot open", "train", "--data", "/nonexistent/x", "--vocab", "300",
            "-o", dir);
    REFUSED(cmd_tokenizer, "is empty", "train", "--data", text_file("e", "", 0), "--vocab", "300",
            "-o", dir);
    REFUSED(cmd_tokenizer, "is not UTF-8: byte 1 is 0xff", "train", "--data",
            text_file("b", "a\xff", 2), "--vocab", "300", "-o", dir);
    ck_assert_int_eq(tool_entries(top), 0); /* nothing is left behind */
}
END_TEST

START_TEST(replaces_only_tokenizers)
{
    const char *dir = path_join(temp_dir(), "t"), *file = text_file("x", text, sizeof text - 1);
    struct tool_result r;
    train(file, "280", dir, "1");
    REFUSED(cmd_tokenizer, "--force replaces a tokenizer there", "train", "--data", file, "--vocab",
            "290", "-o", dir);
    TOOL(&r, cmd_tokenizer, "train", "--data", file, "--vocab", "290", "-o", dir, "--force");
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    tool_result_release(&r);
    struct tokenizer *t = open_dir(dir);
    ck_assert_int_eq(tokenizer_vocab(t), 290);
    tokenizer_close(t);
    write_file(path_join(dir, "model.safetensors"), "x", 1);
    REFUSED(cmd_tokenizer, "is not replaced: it has a file model.safetensors", "train", "--data",
            file, "--vocab", "290", "-o", dir, "--force");
    ck_assert_int_eq(tool_entries(dir), 4);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tokenizer_train");
    TCase *t = tcase_create("tokenizer_train");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, both_forms_say_the_same);
    tcase_add_test(t, decoding_gives_the_text);
    tcase_add_test(t, threads_change_nothing);
    tcase_add_test(t, the_smallest_has_bytes_and_end_of_text);
    if (shared_path("models/tarot/tokenizer.json"))
        tcase_add_test(t, the_fields_are_hugging_faces);
    else
        skip("the_fields_are_hugging_faces", "no tarot model in ../shared");
    tcase_add_test(t, refuses_by_name);
    tcase_add_test(t, replaces_only_tokenizers);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
