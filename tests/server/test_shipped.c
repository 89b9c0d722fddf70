/* The model that is shipped in models/: `make serve` serves it, so it has to be small, and to write. */
#include <dirent.h>
#include <sys/stat.h>

#include "tests/server/fixture.h"

#define DIR_NAME "models/tales"
#define MOST_MB 16.0
#define MOST_RESIDENT_MIB 100.0

static void shipped_up(void)
{
    daemon_start(&srv, DIR_NAME, NULL);
}

START_TEST(it_is_small)
{
    DIR *d = opendir(DIR_NAME);
    double bytes = 0;
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        struct stat st;
        ck_assert_int_eq(stat(path_join(DIR_NAME, e->d_name), &st), 0);
        if (S_ISREG(st.st_mode)) bytes += (double)st.st_size;
    }
    closedir(d);
    ck_assert_double_gt(bytes, 1e6);
    ck_assert_double_le(bytes, MOST_MB * 1e6);
    if (!harness_sanitized())
        ck_assert_double_le(daemon_peak_bytes(&srv), MOST_RESIDENT_MIB * 1048576);
}
END_TEST

START_TEST(it_writes_words)
{
    json_t *v = http_json(srv.port, "/v1/completions", 200,
                          "{\"prompt\":\"Once upon a time\",\"max_tokens\":64,\"temperature\":0}");
    const char *text = json_str(v, "choices.0.text");
    ck_assert_uint_gt(strlen(text), 100);
    ck_assert_msg(strstr(text, " the ") != NULL, "no English: %s", text);
    json_decref(v);
}
END_TEST

/* Words in their order are likelier than the same words sorted. */
START_TEST(it_knows_order)
{
    static const char *const texts[] = {
        "The old king had three sons, and when he was dying he called them to him and said:",
        "The and called dying had he he him his king old said: sons, them three to was when"};
    double perplexity[2];
    for (int i = 0; i < 2; i++) {
        json_t *v = http_json(srv.port, "/v1/perplexity", 200, "{\"input\":\"%s\"}", texts[i]);
        perplexity[i] = json_num(v, "results.0.perplexity");
        json_decref(v);
    }
    printf("perplexity %.1f in order, %.1f sorted\n", perplexity[0], perplexity[1]);
    ck_assert_double_lt(perplexity[0], 100);
    ck_assert_double_gt(perplexity[1], 5 * perplexity[0]);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("the shipped model");
    TCase *t = tcase_create("shipped");
    tcase_add_unchecked_fixture(t, shipped_up, server_down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, it_is_small);
    tcase_add_test(t, it_writes_words);
    tcase_add_test(t, it_knows_order);
    return s;
}

TEST_MAIN(suite)
