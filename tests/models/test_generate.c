/* ttm generate: the published greedy text, seeds, stop strings, choices, prompts from files. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/tokenizer_write.h"
#include "tests/support/harness.h"
#include "tests/support/make_model.h"
#include "tests/support/tool_call.h"

enum { VOCAB = 300, POSITIONS = 64 };

static const char *model_dir(void)
{
    const char *dir = temp_dir();
    struct err err = {0};
    make_model(dir, &(struct make_model){.vocab = VOCAB, .positions = POSITIONS, .seed = 5});
    ck_assert_msg(tokenizer_write_bytes(dir, VOCAB, &err) == 0, "%s", err.msg);
    return dir;
}

/* What the command prints; freed by the caller. `tokens`: generated, as the figures say; may be NULL. */
static char *run(const char *const *words, int *tokens)
{
    struct tool_result r;
    tool_call(cmd_generate, words, &r);
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    const char *said = strstr(r.log, "generated ");
    ck_assert_msg(said != NULL, "%s", r.log);
    ck_assert_ptr_nonnull(strchr(r.log, '\n'));
    ck_assert_str_eq(strchr(r.log, '\n'), "\n"); /* one line of figures */
    if (tokens) *tokens = (int)strtol(said + strlen("generated "), NULL, 10);
    char *out = strdup(r.out);
    tool_result_release(&r);
    return out;
}
#define GENERATE(...) run((const char *const[]){__VA_ARGS__, NULL}, NULL)
#define GENERATE_COUNT(tokens, ...) run((const char *const[]){__VA_ARGS__, NULL}, (tokens))

START_TEST(the_seed_decides)
{
    const char *dir = model_dir();
    char *a =
        GENERATE(dir, "-p", "once", "--seed", "11", "--ids", "--ignore-eos", "--max-tokens", "40");
    char *b = GENERATE(dir, "-p", "once", "--seed", "11", "--ids", "--ignore-eos", "--max-tokens",
                       "40", "--threads", "1", "--max-batch", "1");
    char *c =
        GENERATE(dir, "-p", "once", "--seed", "12", "--ids", "--ignore-eos", "--max-tokens", "40");
    ck_assert_str_eq(a, b);
    ck_assert_str_ne(a, c);
    int ids = 1;
    for (const char *p = a; *p; p++)
        ids += *p == ' ';
    ck_assert_int_eq(ids, 40);
    free(a);
    free(b);
    free(c);
}
END_TEST

START_TEST(without_a_seed_texts_differ)
{
    const char *dir = model_dir();
    char *a = GENERATE(dir, "-p", "x", "--ids", "--ignore-eos");
    char *b = GENERATE(dir, "-p", "x", "--ids", "--ignore-eos");
    ck_assert_str_ne(a, b);
    free(a);
    free(b);
}
END_TEST

START_TEST(choices_are_those_of_their_streams)
{
    const char *dir = model_dir();
    int tokens;
    char *one =
        GENERATE(dir, "-p", "once", "--seed", "3", "--ids", "--ignore-eos", "--max-tokens", "9");
    char *all = GENERATE_COUNT(&tokens, dir, "-p", "once", "--seed", "3", "--ids", "--ignore-eos",
                               "--max-tokens", "9", "--n", "5");
    ck_assert_int_eq(tokens, 45);
    ck_assert_int_eq(strncmp(all, "=== 0\n", 6), 0);
    ck_assert_int_eq(strncmp(all + 6, one, strlen(one)), 0); /* the first is what it is alone */
    const char *second = strstr(all, "=== 1\n");
    ck_assert_ptr_nonnull(second);
    ck_assert_int_ne(strncmp(second + 6, one, strlen(one)), 0);
    ck_assert_ptr_nonnull(strstr(all, "=== 4\n"));
    ck_assert_ptr_null(strstr(all, "=== 5\n"));
    free(one);
    free(all);
}
END_TEST

START_TEST(stops_before_the_string)
{
    const char *dir = model_dir();
    char *whole =
        GENERATE(dir, "-p", "a", "--temperature", "0", "--ignore-eos", "--max-tokens", "30");
    size_t len = strlen(whole); /* ends with the newline that generate adds */
    ck_assert_uint_gt(len, 8);
    size_t at = 3; /* a piece of it, at the beginning of a character */
    while (((unsigned char)whole[at] & 0xc0) == 0x80)
        at++;
    size_t end = at + 2;
    while (((unsigned char)whole[end] & 0xc0) == 0x80)
        end++;
    char stop[16] = {0};
    memcpy(stop, whole + at, end - at);
    char *cut = GENERATE(dir, "-p", "a", "--temperature", "0", "--ignore-eos", "--max-tokens", "30",
                         "--stop", "never there", "--stop", stop);
    size_t want = (size_t)(strstr(whole, stop) - whole);
    ck_assert_uint_eq(strlen(cut), want + 1);
    ck_assert_int_eq(memcmp(cut, whole, want), 0);
    free(whole);
    free(cut);
}
END_TEST

START_TEST(prompts)
{
    const char *dir = model_dir(), *file = path_join(temp_dir(), "p.txt");
    write_file(file, "two words", 9);
    int tokens;
    char *a = GENERATE(dir, "-p", "two words", "--temperature=0", "--max-tokens=5", "--echo",
                       "--ignore-eos");
    char *b = GENERATE(dir, "--prompt-file", file, "--temperature=0", "--max-tokens=5", "--echo",
                       "--ignore-eos");
    ck_assert_str_eq(a, b);
    ck_assert_int_eq(strncmp(a, "two words", 9), 0);
    free(a);
    free(b);
    free(GENERATE_COUNT(&tokens, dir,
                        "--ignore-eos")); /* no prompt: end-of-text; fills the context */
    ck_assert_int_eq(tokens, POSITIONS - 1);
    free(GENERATE_COUNT(&tokens, dir, "-p", "x", "--max-tokens", "0"));
    ck_assert_int_eq(tokens, 0);
}
END_TEST

START_TEST(refuses_by_name)
{
    const char *dir = model_dir(), *empty = temp_dir();
    REFUSED(cmd_generate, "context of 64 tokens", dir, "-p", "abcdef", "--max-tokens", "64");
    REFUSED(cmd_generate, "one is enough", dir, "-p", "x", "-f", "y");
    REFUSED(cmd_generate, "cannot open /nonexistent/p", dir, "--prompt-file", "/nonexistent/p");
    REFUSED(cmd_generate, "--temperature: 2.5 is outside 0..2", dir, "--temperature", "2.5");
    REFUSED(cmd_generate, "--top-p", dir, "--top-p", "-0.1");
    REFUSED(cmd_generate, "--n: 0 is outside 1..128", dir, "--n", "0");
    REFUSED(cmd_generate, "kernels", dir, "--kernels", "mmx");
    REFUSED(cmd_generate, empty, empty, "-p", "x");
    REFUSED(cmd_generate, "usage: ttm generate DIR", "-p", "x");
}
END_TEST

START_TEST(the_published_greedy_text)
{
    char dir[1024];
    json_error_t e;
    snprintf(dir, sizeof dir, "%s", shared_path("models/tarot"));
    json_t *golden = json_load_file(path_join(dir, "golden.json"), 0, &e);
    ck_assert_msg(golden != NULL, "%s", e.text);
    const json_t *ids = json_object_get(golden, "ids_greedy_64");
    size_t first = (size_t)json_integer_value(json_object_get(golden, "prompt_len"));
    struct buf want = {0};
    for (size_t i = first; i < json_array_size(ids); i++)
        buf_printf(&want, "%s%d", i == first ? "" : " ",
                   (int)json_integer_value(json_array_get(ids, i)));
    buf_putc(&want, '\n');
    char *got = GENERATE(dir, "-p", "The Fool", "--temperature", "0", "--ids", "--ignore-eos",
                         "--max-tokens", "59");
    ck_assert_str_eq(got, want.data);
    free(got);
    buf_release(&want);
    json_decref(golden);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("generate");
    TCase *t = tcase_create("generate");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_seed_decides);
    tcase_add_test(t, without_a_seed_texts_differ);
    tcase_add_test(t, choices_are_those_of_their_streams);
    tcase_add_test(t, stops_before_the_string);
    tcase_add_test(t, prompts);
    tcase_add_test(t, refuses_by_name);
    if (shared_path("models/tarot/golden.json"))
        tcase_add_test(t, the_published_greedy_text);
    else
        skip("the_published_greedy_text", "no tarot model in ../shared");
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
