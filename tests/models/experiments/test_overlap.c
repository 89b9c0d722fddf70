/* The longest shared passages against a comparison of everything with everything, and the command. */
#include "engine/base/rng.h"
#include "engine/gpt2/tokenizer_write.h"
#include "models/experiments/passages.h"
#include "tests/models/rewrite_testing.h"

enum { TEXT = 600, SAMPLES = 8, LENGTH = 90 };

static size_t naive(const int32_t *text, size_t n_text, const int32_t *sample, size_t n)
{
    size_t best = 0;
    for (size_t i = 0; i < n_text; i++)
        for (size_t p = 0; p < n; p++) {
            size_t k = 0;
            while (i + k < n_text && p + k < n && text[i + k] == sample[p + k])
                k++;
            if (k > best) best = k;
        }
    return best < PASSAGE_SEED ? 0 : best;
}

/* Few different ids, so that passages are many and overlap; some samples are copies out of the text. */
START_TEST(finds_the_longest)
{
    for (uint64_t seed = 0; seed < 40; seed++) {
        int32_t text[TEXT], sample[SAMPLES * LENGTH];
        size_t start[SAMPLES + 1];
        struct passage found[SAMPLES];
        uint32_t r[4], ids = seed % 2 ? 2 : 50;
        for (size_t i = 0; i < TEXT; i++) {
            rng_bits(seed, 0, i, r);
            text[i] = (int32_t)(r[0] % ids);
        }
        for (size_t i = 0; i <= SAMPLES; i++)
            start[i] = i * LENGTH - (i > 2 ? 85 : 0); /* the third is shorter than a seed */
        for (size_t i = 0; i < start[SAMPLES]; i++) {
            rng_bits(seed, 1, i, r);
            sample[i] = (int32_t)(r[0] % ids);
        }
        memcpy(sample + start[1] + 7, text + TEXT - 30,
               30 * sizeof *text); /* up to the text's end */
        memcpy(sample + start[4], text, 20 * sizeof *text);
        memcpy(sample + start[6] - 12, text + 100,
               40 * sizeof *text); /* over two samples' border */
        passages_find(text, TEXT, sample, start, SAMPLES, NULL, found);
        for (int i = 0; i < SAMPLES; i++) {
            const int32_t *s = sample + start[i];
            ck_assert_uint_eq(found[i].length, naive(text, TEXT, s, start[i + 1] - start[i]));
            ck_assert_mem_eq(s + found[i].sample_at, text + found[i].text_at,
                             found[i].length * sizeof *s);
        }
        ck_assert_uint_eq(found[2].length, 0);
        ck_assert_uint_ge(found[1].length, 30);
    }
}
END_TEST

static const char *ids_of(const char *dir, const char *name, const char *ids)
{
    const char *path = path_join(dir, name);
    write_file(path, ids, strlen(ids));
    return path;
}

START_TEST(command)
{
    const char *dir = temp_dir(), *data = path_join(dir, "data");
    static const char text[] = "0123456789abcdefghij";
    ck_assert_int_eq(tokenizer_write_bytes(dir, 300, NULL), 0);
    write_file(data, text, sizeof text - 1);
    /* ids of printable bytes: '!' is 0; "23456789ab" and then another byte */
    const char *ids =
        ids_of(dir, "ids", "=== 0\n17 18 19 20 21 22 23 24 64 65 0\n=== 1\n5 6 7\r\n");
    char *out = RUN(cmd_overlap, dir, "--data", data, "--ids", ids);
    ck_assert_ptr_nonnull(
        strstr(out, "2 samples\nlongest passage 10 tokens, median of the samples 0"));
    ck_assert_ptr_nonnull(strstr(out, "the longest: 23456789ab\n"));
    free(out);
    free(RUN(cmd_overlap, dir, "--data", data, "--ids", ids, "--limit", "10"));
    gives_up(cmd_overlap, (const char *const[]){dir, "--data", data, "--ids", ids, NULL});
    struct tool_result r; /* what was found is said, too */
    TOOL(&r, cmd_overlap, dir, "--data", data, "--ids", ids, "--limit", "9");
    ck_assert_int_eq(r.rc, ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(r.err.msg, "a passage of 10 tokens is in"));
    ck_assert_ptr_nonnull(strstr(r.out, "the longest: 23456789ab"));
    tool_result_release(&r);
    REFUSED(cmd_overlap, "--data is missing", dir, "--ids", ids);
    REFUSED(cmd_overlap, "--ids is missing", dir, "--data", data);
    REFUSED(cmd_overlap, "has no samples", dir, "--data", data, "--ids",
            ids_of(dir, "a", "=== 0\n"));
    REFUSED(cmd_overlap, "line 2: \"x\" where a token id", dir, "--data", data, "--ids",
            ids_of(dir, "b", "1 2\nx\n"));
    REFUSED(cmd_overlap, "\"-1\" where a token id", dir, "--data", data, "--ids",
            ids_of(dir, "c", "1 -1\n"));
    REFUSED(cmd_overlap, "where a token id", dir, "--data", data, "--ids",
            ids_of(dir, "d", "99999999999999999999\n"));
    REFUSED(cmd_overlap, "is empty", dir, "--data", ids_of(dir, "e", ""), "--ids", ids);
}
END_TEST

/* The line that --help shows, as it stands there. */
START_TEST(the_example_works)
{
    const char *top = temp_dir();
    struct tool_result r;
    char *ttm = realpath(build_path("ttm"), NULL);
    char *help = RUN(cmd_overlap, "--help"), *line = strstr(help, "\n  ttm generate DIR");
    char shell[4096];
    ck_assert(line && ttm);
    free(RUN(cmd_init, "--layers", "1", "--channels", "16", "-o", path_join(top, "DIR")));
    write_file(path_join(top, "train.txt"), "a text", 6);
    snprintf(shell, sizeof shell, "cd %s && PATH=%.*s:$PATH && %.*s", top,
             (int)(strrchr(ttm, '/') - ttm), ttm, (int)strcspn(line + 1, "\n"), line + 1);
    tool_process((const char *const[]){"/bin/sh", "-c", shell, NULL}, NULL, &r);
    ck_assert_msg(r.rc == 0 && strstr(r.out, " samples\n"), "%s\n%s%s", shell, r.out, r.log);
    tool_result_release(&r);
    free(help);
    free(ttm);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("overlap");
    TCase *t = tcase_create("overlap");
    tcase_add_test(t, finds_the_longest);
    tcase_add_test(t, command);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_example_works);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
