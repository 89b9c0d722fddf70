/* The flag parser: every form of a flag, every way to get one wrong, and --help. */
#include "models/options.h"

#include <stdlib.h>
#include <string.h>

#include "tests/support/harness.h"

struct values {
    bool json;
    int64_t count;
    double ratio;
    const char *text, *mode;
    struct option_list stop;
};
#define FIELD(f) offsetof(struct values, f)
static const struct option table[] = {
    {"json", 'j', OPTION_BOOL, FIELD(json), NULL, 0, 0, NULL, "as JSON"},
    {"count", 0, OPTION_INT, FIELD(count), "N", 0, 9.2e18, NULL, "how many"},
    {"ratio", 0, OPTION_NUMBER, FIELD(ratio), "X", -2, 2, NULL, "how much"},
    {"text", 't', OPTION_STRING, FIELD(text), "TEXT", 0, 0, NULL, "what"},
    {"mode", 0, OPTION_STRING, FIELD(mode), "M", 0, 0, "slow|fast", "which"},
    {"stop", 0, OPTION_LIST, FIELD(stop), "S", 0, 0, NULL, "where"},
};
static const struct options options = {"try",           "DIR", 1,
                                       "Tries things.", table, sizeof table / sizeof *table};

static int parse(struct values *v, const char **dir, struct err *err, char **help,
                 const char *const *words)
{
    char *argv[40];
    int argc = 0;
    size_t len;
    for (; words[argc]; argc++)
        memcpy(&argv[argc], &words[argc], sizeof *argv);
    FILE *f = open_memstream(help, &len);
    *v = (struct values){0};
    *err = (struct err){0};
    int rc = options_parse(&options, v, dir, argc, argv, f, err);
    fclose(f);
    return rc;
}
#define PARSE(...) parse(&v, &dir, &err, &help, (const char *const[]){__VA_ARGS__, NULL})

START_TEST(takes_every_form)
{
    struct values v;
    struct err err;
    const char *dir;
    char *help;
    ck_assert_int_eq(PARSE("--count", "7", "model", "--ratio=-0.5", "-t", "a=b", "--json",
                           "--mode=fast", "--stop", "x", "--stop=-"),
                     OPTIONS_RUN);
    ck_assert_str_eq(dir, "model");
    ck_assert_int_eq(v.count, 7);
    assert_close(v.ratio, -0.5, 0, 0);
    ck_assert_str_eq(v.text, "a=b");
    ck_assert_str_eq(v.mode, "fast");
    ck_assert(v.json);
    ck_assert_uint_eq(v.stop.n, 2);
    ck_assert_str_eq(v.stop.items[1], "-");
    free(help);
    ck_assert_int_eq(PARSE("--ratio", "-2", "--text=", "--", "--json"), OPTIONS_RUN);
    ck_assert_str_eq(dir, "--json");
    ck_assert_str_eq(v.text, "");
    assert_close(v.ratio, -2, 0, 0);
    ck_assert(!v.json);
    free(help);
    ck_assert_int_eq(PARSE("-", "--count=1", "--count=2"), OPTIONS_RUN); /* the last one counts */
    ck_assert_str_eq(dir, "-");
    ck_assert_int_eq(v.count, 2);
    free(help);
}
END_TEST

static const struct {
    const char *words[4];
    const char *says; /* must be in the message */
} wrong[] = {
    {{"m", "--colour", "red"}, "unknown flag --colour"},
    {{"m", "--colour=red"}, "unknown flag --colour;"},
    {{"m", "-x"}, "unknown flag -x"},
    {{"m", "--coun", "1"}, "unknown flag --coun"},
    {{"m", "--countess", "1"}, "unknown flag --countess"},
    {{"m", "--count"}, "--count needs a value"},
    {{"m", "--count", "many"}, "--count: \"many\" is not a whole number"},
    {{"m", "--count="}, "--count: \"\" is not a whole number"},
    {{"m", "--count", "1.5"}, "--count: \"1.5\""},
    {{"m", "--count", "-1"}, "--count: -1 is outside"},
    {{"m", "--count", "99999999999999999999"}, "--count: 99999999999999999999 is outside"},
    {{"m", "--ratio", "2.01"}, "--ratio: 2.01 is outside -2..2"},
    {{"m", "--ratio", "nan"}, "--ratio: \"nan\" is not a number"},
    {{"m", "--ratio", "inf"}, "--ratio"},
    {{"m", "--ratio", "1x"}, "--ratio: \"1x\""},
    {{"m", "--json=yes"}, "--json takes no value"},
    {{"m", "--mode", "fas"}, "not one of slow|fast"},
    {{"m", "--mode", ""}, "not one of slow|fast"},
    {{"m", "--stop", ""}, "--stop"},
    {{"m", "n"}, "unexpected argument \"n\""},
    {{"--json"}, "missing; usage: ttm try DIR"},
};

START_TEST(refuses_by_name)
{
    struct values v;
    struct err err;
    const char *dir;
    char *help;
    ck_assert_int_lt(parse(&v, &dir, &err, &help, wrong[_i].words), 0);
    ck_assert_msg(strstr(err.msg, wrong[_i].says), "\"%s\" does not say \"%s\"", err.msg,
                  wrong[_i].says);
    ck_assert_ptr_null(strchr(err.msg, '\n'));
    ck_assert_str_eq(help, "");
    free(help);
}
END_TEST

START_TEST(a_list_is_bounded)
{
    struct values v;
    struct err err;
    const char *dir, *words[2 * OPTION_LIST_MAX + 4] = {"m"};
    char *help;
    for (int i = 0; i < OPTION_LIST_MAX; i++)
        words[1 + i] = "--stop=x";
    ck_assert_int_eq(parse(&v, &dir, &err, &help, words), OPTIONS_RUN);
    free(help);
    words[1 + OPTION_LIST_MAX] = "--stop=x";
    ck_assert_int_eq(parse(&v, &dir, &err, &help, words), ERR_INVALID);
    free(help);
}
END_TEST

START_TEST(help_lists_every_flag)
{
    struct values v;
    struct err err;
    const char *dir;
    char *help;
    ck_assert_int_eq(PARSE("--count", "1", "--help", "--nonsense"), OPTIONS_HELP);
    ck_assert_ptr_nonnull(strstr(help, "usage: ttm try DIR [flags]"));
    for (size_t i = 0; i < options.n; i++) {
        ck_assert_ptr_nonnull(strstr(help, table[i].name));
        ck_assert_ptr_nonnull(strstr(help, table[i].help));
    }
    ck_assert_ptr_nonnull(strstr(help, "slow|fast"));
    ck_assert_ptr_nonnull(strstr(help, "-t"));
    free(help);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("options");
    TCase *t = tcase_create("options");
    tcase_add_test(t, takes_every_form);
    tcase_add_loop_test(t, refuses_by_name, 0, (int)(sizeof wrong / sizeof *wrong));
    tcase_add_test(t, a_list_is_bounded);
    tcase_add_test(t, help_lists_every_flag);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
