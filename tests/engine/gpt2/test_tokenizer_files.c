/* Malformed and foreign files: each gives its error, with the file, the key, what was found and what
 * was expected, and nothing is leaked or left behind. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/gpt2/tokenizer.h"
#include "tests/engine/gpt2/tokenizer_fixture.h"
#include "tests/support/harness.h"

#define UNTOUCHED ((struct tokenizer *)1)

static void check_error(int rc, const struct tokenizer *t, const struct err *e, int code,
                        const char *want)
{
    ck_assert_msg(rc == code && e->code == code, "%s \"%s\", expected %s %s", err_code_name(rc),
                  e->msg, err_code_name(code), want);
    ck_assert_msg(strstr(e->msg, want), "\"%s\", expected \"%s\"", e->msg, want);
    ck_assert_ptr_eq(t, UNTOUCHED);
}

#define PRE "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}"
#define MODEL                                                                                      \
    "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a " \
    "b\"]}"
#define VOCAB(v) "{" PRE ", \"model\": {\"vocab\": " v ", \"merges\": []}}"
#define MERGES(m) \
    "{" PRE ", \"model\": {\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": " m "}}"
#define IN_MODEL(s) "{" PRE ", \"model\": {" s ", \"vocab\": {\"a\": 0}, \"merges\": []}}"
#define ADDED(s) "{" PRE ", " MODEL ", \"added_tokens\": " s "}"
#define STAGE(s) "{" s ", " MODEL "}"
#define BESIDE(s) "{" PRE ", " s ", " MODEL "}"

static const struct {
    const char *json;
    int code;
    const char *want;
} bad_json[] = {
    {"", ERR_INVALID, "t.json: line 1"},
    {"[]", ERR_TYPE, "t.json: the file is an array, expected an object"},
    {"{" PRE ", " MODEL "} x", ERR_INVALID, "t.json: line 1"},
    {"{\"\xff\": 1}", ERR_INVALID, "unable to decode byte 0xff"},
    {"{\"\\ud800\": 1}", ERR_INVALID, "t.json: line 1"},
    {"{}", ERR_UNSUPPORTED, "pre_tokenizer is null, expected type \"ByteLevel\""},
    {STAGE("\"pre_tokenizer\": []"), ERR_TYPE,
     "pre_tokenizer is an array, expected an object or null"},
    {STAGE("\"pre_tokenizer\": {}"), ERR_MISSING,
     "pre_tokenizer is missing, expected an object with a type"},
    {STAGE("\"pre_tokenizer\": {\"type\": 3}"), ERR_TYPE, "pre_tokenizer is an integer"},
    {STAGE("\"pre_tokenizer\": {\"type\": \"Metaspace\"}"), ERR_UNSUPPORTED,
     "pre_tokenizer.type is \"Metaspace\", expected \"ByteLevel\""},
    {STAGE("\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"use_regex\": false}"), ERR_UNSUPPORTED,
     "pre_tokenizer.use_regex is false, expected true"},
    {STAGE("\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": 1}"), ERR_TYPE,
     "pre_tokenizer.add_prefix_space is an integer, expected true or false"},
    {STAGE("\"pre_tokenizer\": {\"type\": \"Sequence\"}"), ERR_MISSING, "pretokenizers is missing"},
    {STAGE("\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": []}"), ERR_UNSUPPORTED,
     "pre_tokenizer is null"},
    {STAGE("\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [7]}"), ERR_TYPE,
     "pretokenizers is an integer"},
    {STAGE("\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
           "\"Digits\"}, {\"type\": "
           "\"ByteLevel\"}]}"),
     ERR_UNSUPPORTED, "pre_tokenizer is a Sequence of 2, expected one ByteLevel"},
    {BESIDE("\"normalizer\": {\"type\": \"NFC\"}"), ERR_UNSUPPORTED,
     "normalizer.type is \"NFC\", expected no normalizer"},
    {BESIDE("\"normalizer\": {}"), ERR_UNSUPPORTED, "normalizer.type is \"\""},
    {BESIDE("\"decoder\": {\"type\": \"WordPiece\"}"), ERR_UNSUPPORTED,
     "decoder.type is \"WordPiece\""},
    {BESIDE("\"post_processor\": {\"type\": \"BertProcessing\"}"), ERR_UNSUPPORTED,
     "post_processor.type is \"BertProcessing\""},
    {BESIDE("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
            "[{\"SpecialToken\": {}}, "
            "{\"Sequence\": {}}]}"),
     ERR_UNSUPPORTED, "post_processor.type is \"TemplateProcessing\""},
    {"{" PRE "}", ERR_MISSING, "model is missing, expected an object"},
    {"{" PRE ", \"model\": null}", ERR_TYPE, "model is null, expected an object"},
    {IN_MODEL("\"type\": \"WordPiece\""), ERR_UNSUPPORTED,
     "model.type is \"WordPiece\", expected \"BPE\""},
    {IN_MODEL("\"type\": 1"), ERR_TYPE, "model.type is an integer, expected \"BPE\""},
    {IN_MODEL("\"dropout\": 0.1"), ERR_UNSUPPORTED, "model.dropout is 0.1, expected null"},
    {IN_MODEL("\"dropout\": \"x\""), ERR_TYPE, "model.dropout is a string"},
    {IN_MODEL("\"unk_token\": 1"), ERR_TYPE, "model.unk_token is an integer"},
    {IN_MODEL("\"unk_token\": \"<unk>\""), ERR_INVALID, "model.unk_token \"<unk>\" is not a token"},
    {IN_MODEL("\"unk_token\": \"a\", \"fuse_unk\": true"), ERR_UNSUPPORTED,
     "model.fuse_unk is true"},
    {IN_MODEL("\"byte_fallback\": true"), ERR_UNSUPPORTED, "model.byte_fallback is true"},
    {IN_MODEL("\"ignore_merges\": 0"), ERR_TYPE, "model.ignore_merges is an integer"},
    {IN_MODEL("\"continuing_subword_prefix\": \"##\""), ERR_UNSUPPORTED,
     "model.continuing_subword_prefix is \"##\", expected null"},
    {IN_MODEL("\"end_of_word_suffix\": \"</w>\""), ERR_UNSUPPORTED,
     "model.end_of_word_suffix is \"</w>\""},
    {IN_MODEL("\"end_of_word_suffix\": []"), ERR_TYPE, "end_of_word_suffix is an array"},
    {VOCAB("[]"), ERR_TYPE, "model.vocab is an array, expected an object of ids by token"},
    {VOCAB("{}"), ERR_INVALID, "the vocabulary is empty"},
    {VOCAB("{\"a\": \"0\"}"), ERR_TYPE, "model.vocab[\"a\"] is a string, expected an id"},
    {VOCAB("{\"a\": 1.0}"), ERR_TYPE, "model.vocab[\"a\"] is a real"},
    {VOCAB("{\"a\": -1}"), ERR_INVALID,
     "model.vocab[\"a\"] is -1, expected an id from 0 to 16777215"},
    {VOCAB("{\"a\": 16777216}"), ERR_INVALID, "model.vocab[\"a\"] is 16777216"},
    {VOCAB("{\"a\": 9223372036854775807}"), ERR_INVALID,
     "model.vocab[\"a\"] is 9223372036854775807"},
    {VOCAB("{\"a\": 99999999999999999999}"), ERR_INVALID, "t.json: line 1"},
    {VOCAB("{\"a\": 2000000}"), ERR_INVALID,
     "the largest id is 2000000, but there are only 1 tokens"},
    {VOCAB("{\"a\": 0, \"b\": 0}"), ERR_INVALID, "id 0 belongs to two tokens"},
    {VOCAB("{\"a\": 0, \"a\": 1}"), ERR_INVALID, "duplicate object key"},
    {VOCAB("{\"a\\u0000b\": 0}"), ERR_INVALID, "t.json: line 1"},
    {"{" PRE ", \"model\": {\"vocab\": {\"a\": 0}}}", ERR_MISSING,
     "model.merges is missing, expected an array"},
    {MERGES("\"a b\""), ERR_TYPE, "model.merges is a string"},
    {MERGES("[1]"), ERR_TYPE, "model.merges[0] is an integer"},
    {MERGES("[\"a b\", \"ab\"]"), ERR_INVALID, "model.merges[1] is \"ab\""},
    {MERGES("[\"a  b\"]"), ERR_INVALID,
     "model.merges[0] is \"a  b\", expected two tokens and one space"},
    {MERGES("[\" a\"]"), ERR_INVALID, "model.merges[0]"},
    {MERGES("[\"a \"]"), ERR_INVALID, "model.merges[0]"},
    {MERGES("[\"\"]"), ERR_INVALID, "model.merges[0]"},
    {MERGES("[[\"a\"]]"), ERR_INVALID, "model.merges[0] is not a pair"},
    {MERGES("[[\"a\", \"b\", \"c\"]]"), ERR_INVALID, "model.merges[0] is not a pair"},
    {MERGES("[[\"a\", \"\"]]"), ERR_INVALID, "model.merges[0] is not a pair"},
    {MERGES("[[1, \"a\"]]"), ERR_INVALID, "model.merges[0] is not a pair"},
    {MERGES("[\"a b\", \"x a\"]"), ERR_INVALID, "merge 2: its left part \"x\" is not a token"},
    {MERGES("[\"a x\"]"), ERR_INVALID, "merge 1: its right part \"x\" is not a token"},
    {MERGES("[\"b a\"]"), ERR_INVALID, "merge 1: its product \"ba\" is not a token of t.json"},
    {ADDED("{}"), ERR_TYPE, "added_tokens is an object, expected an array"},
    {ADDED("[7]"), ERR_TYPE, "added_tokens[0] is an integer, expected an object"},
    {ADDED("[{\"id\": 3}]"), ERR_MISSING, "added_tokens[0].content is missing"},
    {ADDED("[{\"content\": \"x\"}]"), ERR_MISSING, "added_tokens[0].id is missing"},
    {ADDED("[{\"id\": -3, \"content\": \"x\"}]"), ERR_INVALID, "added_tokens[0].id is -3"},
    {ADDED("[{\"id\": 3, \"content\": \"x\", \"special\": \"yes\"}]"), ERR_TYPE,
     "added_tokens[0].special is a string"},
    {ADDED("[{\"id\": 3, \"content\": \"x\", \"lstrip\": true}]"), ERR_UNSUPPORTED,
     "added_tokens[0].lstrip is true, expected false"},
    {ADDED("[{\"id\": 3, \"content\": \"x\", \"single_word\": true}]"), ERR_UNSUPPORTED,
     "added_tokens[0].single_word is true"},
    {ADDED("[{\"id\": 1, \"content\": \"x\"}]"), ERR_INVALID,
     "id 1 belongs to two tokens, \"b\" and \"x\""},
    {ADDED("[{\"id\": 3, \"content\": \"b\"}]"), ERR_INVALID, "token \"b\" has two ids, 1 and 3"},
};

START_TEST(refused_json)
{
    struct tokenizer *t = UNTOUCHED;
    struct err e = {0};
    const char *json = bad_json[_i].json;
    char *copy =
        malloc(strlen(json) + 1); /* exactly as long: reading on is seen by the sanitizer */
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, json, strlen(json));
    int rc = tokenizer_parse_json(&t, copy, strlen(json), "t.json", &e);
    free(copy);
    check_error(rc, t, &e, bad_json[_i].code, bad_json[_i].want);
}
END_TEST

static const struct {
    const char *vocab, *merges;
    int code;
    const char *want;
} bad_pairs[] = {
    {"", "", ERR_INVALID, "vocab.json: line 1"},
    {"[1]", "", ERR_TYPE, "vocab.json: the file is an array"},
    {"{\"a\": {}}", "", ERR_TYPE, "vocab.json: the file[\"a\"] is an object, expected an id"},
    {"{\"a\": 0, \"b\": 0}", "", ERR_INVALID, "vocab.json: id 0 belongs to two tokens"},
    {"{\"a\": 0}", "#version: 0.2\na\n", ERR_INVALID,
     "merges.txt: line 2 is \"a\", expected two tokens"},
    {"{\"a\": 0}", "\na a\n", ERR_INVALID, "merges.txt: line 1 is \"\""},
    {"{\"a\": 0}", "a a a\n", ERR_INVALID, "merges.txt: line 1 is \"a a a\""},
    {"{\"a\": 0}", "#version: 0.2\na b", ERR_INVALID, "merges.txt: merge 1: its right part \"b\""},
    {"{\"a\": 0}", "a a", ERR_INVALID,
     "merges.txt: merge 1: its product \"aa\" is not a token of vocab.json"},
};

START_TEST(refused_pairs)
{
    struct tokenizer *t = UNTOUCHED;
    struct err e = {0};
    const char *v = bad_pairs[_i].vocab, *m = bad_pairs[_i].merges;
    int rc = tokenizer_parse_bpe(&t, v, strlen(v), m, strlen(m), &e);
    check_error(rc, t, &e, bad_pairs[_i].code, bad_pairs[_i].want);
}
END_TEST

/* Line ends, a missing last one, no version line. */
START_TEST(merges_as_editors_leave_them)
{
    static const char *const files[] = {"#version: 0.2\na b\n", "a b", "a b\n\n",
                                        "#version: 0.2\r\na b\r\n"};
    const char *vocab = "{\"a\": 0, \"b\": 1, \"ab\": 2}";
    for (size_t i = 0; i < 4; i++) {
        struct tokenizer *t = NULL;
        struct err e = {0};
        struct tokens ids = {0};
        int rc = tokenizer_parse_bpe(&t, vocab, strlen(vocab), files[i], strlen(files[i]), &e);
        ck_assert_msg(rc == 0, "file %zu: %s", i, e.msg);
        tokenizer_encode(t, "ab", 2, true, &ids);
        ck_assert_uint_eq(ids.n, 1);
        ck_assert_int_eq(ids.ids[0], 2);
        tokens_release(&ids);
        tokenizer_close(t);
    }
}
END_TEST

/* Every proper prefix of a good file is refused. */
START_TEST(truncated)
{
    const char *json = ADDED("[{\"id\": 3, \"content\": \"<|endoftext|>\", \"special\": true}]");
    for (size_t len = 0; len <= strlen(json); len++) {
        struct tokenizer *t = UNTOUCHED;
        struct err e = {0};
        int rc = tokenizer_parse_json(&t, json, len, "t.json", &e);
        if (len < strlen(json)) {
            check_error(rc, t, &e, ERR_INVALID, "t.json: line 1");
        } else {
            ck_assert_int_eq(rc, 0);
            tokenizer_close(t);
        }
    }
}
END_TEST

/* The fixture's file with one byte replaced by others: an error or a tokenizer, never a crash. */
START_TEST(damaged)
{
    struct buf json = {0};
    fixture_json(&json, FIXTURE_BYTE_LEVEL, "", "", _i);
    size_t stride = harness_sanitized() ? 31 : 7;
    for (size_t at = 0; at < json.len; at += stride) {
        static const char with[] = "\"0{]\\ \xff,";
        char was = json.data[at];
        json.data[at] = with[at / stride % (sizeof with - 1)];
        struct tokenizer *t = NULL;
        struct err e = {0};
        int rc = tokenizer_parse_json(&t, json.data, json.len, "t.json", &e);
        ck_assert(rc ? !t && e.code == rc && *e.msg : t && !*e.msg);
        tokenizer_close(t);
        json.data[at] = was;
    }
    buf_release(&json);
}
END_TEST

/* ---- directories ---- */

static void check_dir(const char *dir, int code, const char *want)
{
    struct tokenizer *t = UNTOUCHED;
    struct err e = {0};
    int rc = tokenizer_open(&t, dir, &e);
    check_error(rc, t, &e, code, want);
}

static void put(const char *dir, const char *name, const char *text)
{
    write_file(path_join(dir, name), text, strlen(text));
}

START_TEST(directories)
{
    const char *dir = temp_dir();
    check_dir(path_join(dir, "absent"), ERR_MISSING,
              "absent: no tokenizer: expected tokenizer.json, or vocab.json");
    check_dir(dir, ERR_MISSING, "no tokenizer");
    put(dir, "encoder.json", "{\"a\": 0, \"b\": 1, \"ab\": 2}");
    check_dir(dir, ERR_MISSING, "expected merges.txt (or vocab.bpe) beside");
    put(dir, "vocab.bpe", "#version: 0.2\na b\n");
    struct tokenizer *t = NULL;
    struct err e = {0};
    ck_assert_int_eq(tokenizer_open(&t, dir, &e), 0);
    ck_assert_int_eq(tokenizer_vocab(t), 3);
    tokenizer_close(t);
    put(dir, "added_tokens.json", "{\"<pad>\": 7}");
    ck_assert_int_eq(tokenizer_open(&t, dir, &e), 0);
    ck_assert_int_eq(tokenizer_vocab(t), 8);
    ck_assert_int_eq(tokenizer_find(t, "<pad>", 5), 7);
    struct tokens ids = {0};
    tokenizer_encode(t, "ab<pad>", 7, false, &ids);
    ck_assert_uint_eq(ids.n, 2);
    ck_assert_int_eq(ids.ids[1], 7);
    tokens_release(&ids);
    tokenizer_close(t);
    put(dir, "added_tokens.json", "{\"<pad>\": 2}");
    check_dir(dir, ERR_INVALID, "id 2 belongs to two tokens, \"ab\" and \"<pad>\"");
    put(dir, "added_tokens.json", "[]");
    check_dir(dir, ERR_TYPE, "added_tokens.json: the file is an array");
    put(dir, "vocab.json", "{"); /* the Hugging Face name goes before OpenAI's, */
    check_dir(dir, ERR_INVALID, "vocab.json: line 1");
    put(dir, "tokenizer.json", "{" PRE ", " MODEL "}"); /* and tokenizer.json before all */
    ck_assert_int_eq(tokenizer_open(&t, dir, &e), 0);
    tokenizer_close(t);
}
END_TEST

START_TEST(what_is_no_file)
{
    const char *dir = temp_dir();
    const char *path = path_join(dir, "tokenizer.json");
    ck_assert_int_eq(mkdir(path, 0755), 0);
    check_dir(dir, ERR_INVALID, "tokenizer.json: is not a regular file");
    ck_assert_int_eq(rmdir(path), 0);
    ck_assert_int_eq(mkfifo(path, 0644), 0);
    check_dir(dir, ERR_INVALID, "tokenizer.json: is not a regular file");
    ck_assert_int_eq(unlink(path), 0);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (256 << 20) + 1), 0); /* sparse */
    close(fd);
    check_dir(dir, ERR_INVALID, "tokenizer.json: 268435457 bytes, expected at most 268435456");
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(symlink("tokenizer.json", path), 0);
    check_dir(dir, ERR_IO, "tokenizer.json: ");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("tokenizer_files");
    TCase *t = tcase_create("tokenizer_files");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, refused_json, 0, (int)(sizeof bad_json / sizeof *bad_json));
    tcase_add_loop_test(t, refused_pairs, 0, (int)(sizeof bad_pairs / sizeof *bad_pairs));
    tcase_add_test(t, merges_as_editors_leave_them);
    tcase_add_test(t, truncated);
    tcase_add_loop_test(t, damaged, 0, 2);
    tcase_add_test(t, directories);
    tcase_add_test(t, what_is_no_file);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
