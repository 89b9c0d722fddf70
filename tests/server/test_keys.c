/* API keys and their limits, without HTTP: the file's lines, what is refused and how it is named, and
 * token buckets against a clock that the test moves. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "server/digest.h"
#include "server/keys.h"
#include "tests/support/harness.h"

#define HEX "00112233445566778899aabbccddeeff00112233445566778899aabbccddee"

static struct keys *parse(const struct keys *old, const char *text)
{
    struct keys *k = NULL;
    struct err err = {0};
    ck_assert_msg(keys_parse(&k, old, text, strlen(text), "f", &err) == 0, "%s", err.msg);
    return k;
}

START_TEST(digests)
{
    static const unsigned char abc[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea};
    unsigned char out[SHA256_BYTES];
    sha256("abc", 3, out); /* FIPS 180-4's example */
    ck_assert_mem_eq(out, abc, sizeof abc);
}
END_TEST

START_TEST(new_keys_fit_their_lines)
{
    struct buf key[2] = {{0}, {0}}, line[2] = {{0}, {0}}, text = {0};
    struct err err = {0};
    static const char *const labels[] = {"alice", "b.o_b-2"};
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(keys_new(labels[i], &key[i], &line[i], &err), 0);
        ck_assert_uint_eq(key[i].len, 5 + 43);
        ck_assert_ptr_null(strstr(line[i].data, key[i].data));
        buf_puts(&text, line[i].data);
    }
    ck_assert_str_ne(key[0].data, key[1].data);
    struct keys *k = parse(NULL, text.data);
    struct key_grant g = {0};
    ck_assert_uint_eq(keys_count(k), 2);
    for (int i = 0; i < 2; i++) {
        ck_assert(keys_find(k, key[i].data, &g));
        ck_assert_str_eq(g.label, labels[i]);
        ck_assert_uint_eq(g.scopes, SCOPE_COMPLETIONS | SCOPE_SCORING);
        ck_assert(g.limits.requests_per_minute == 0 && g.limits.tokens_per_minute == 0);
        meter_unref(g.meter);
    }
    key[0].data[key[0].len - 2] ^= 1; /* a key's neighbours are no keys */
    ck_assert(!keys_find(k, key[0].data, &g));
    key[1].data[key[1].len - 1] = 0;
    ck_assert(!keys_find(k, key[1].data, &g));
    ck_assert(!keys_find(k, "", &g));
    ck_assert_int_eq(keys_new("", &key[0], &line[0], &err), ERR_INVALID);
    ck_assert_int_eq(keys_new("two words", &key[0], &line[0], &err), ERR_INVALID);
    ck_assert_int_eq(keys_new("--help", &key[0], &line[0], &err), ERR_INVALID);
    keys_free(k);
    for (int i = 0; i < 2; i++) {
        buf_release(&key[i]);
        buf_release(&line[i]);
    }
    buf_release(&text);
}
END_TEST

START_TEST(files_are_lines)
{
    struct keys *k = parse(NULL, "# keys\n\n  \t\r\n a\tsha256=" HEX
                                 "00 scopes=admin\r\n"
                                 "b scopes=scoring,admin requests_per_minute=60 "
                                 "tokens_per_minute=1000 sha256=" HEX "01");
    ck_assert_uint_eq(keys_count(k), 2);
    keys_free(k);
    k = parse(NULL, "");
    ck_assert_uint_eq(keys_count(k), 0);
    keys_free(k);
    char many[2000] = "# ";
    memset(many + 2, 'x', sizeof many - 3);
    const struct {
        const char *text, *why;
    } cases[] = {
        {"\na\n", "f: line 2 (a): sha256= is missing"},
        {"a sha256=" HEX "00\n", "line 1 (a): scopes= is missing"},
        {"a b sha256=" HEX "00 scopes=admin\n", "line 1 (a): name=value was expected"},
        {"a sha256=" HEX "0 scopes=admin\n", "64 digits"},
        {"a sha256=" HEX "0G scopes=admin\n", "64 digits"},
        {"a sha256=" HEX "00 scopes=root\n", "a list of completions, scoring and admin"},
        {"a sha256=" HEX "00 scopes=\n", "a list of completions, scoring and admin"},
        {"a sha256=" HEX "00 scopes=admin tokens_per_minute=0\n", "an integer from 1"},
        {"a sha256=" HEX "00 scopes=admin tokens_per_minute=1x\n", "an integer from 1"},
        {"a sha256=" HEX "00 scopes=admin requests_per_minute=-5\n", "an integer from 1"},
        {"a sha256=" HEX "00 scopes=admin color=red\n", "sha256=, scopes=,"},
        {"a/b sha256=" HEX "00 scopes=admin\n", "line 1: a label of 1 to 32"},
        {"a sha256=" HEX "00 scopes=admin\na sha256=" HEX "01 scopes=admin\n",
         "line 2 (a): this label or key is there before, as a"},
        {"a sha256=" HEX "00 scopes=admin\nb sha256=" HEX "00 scopes=admin\n",
         "line 2 (b): this label or key is there before, as a"},
        {many, "no text of at most"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = {0};
        struct keys *none = NULL;
        ck_assert_int_eq(keys_parse(&none, NULL, cases[i].text, strlen(cases[i].text), "f", &err),
                         ERR_INVALID);
        ck_assert_msg(strstr(err.msg, cases[i].why) != NULL, "%s: %s", cases[i].why, err.msg);
        ck_assert_ptr_null(none);
        ck_assert_ptr_null(strstr(err.msg, HEX));
    }
    struct err err = {0};
    struct keys *none = NULL;
    ck_assert_int_eq(keys_parse(&none, NULL, "a\0b", 3, "f", &err), ERR_INVALID);
    ck_assert_int_eq(keys_load(&none, NULL, "/nonexistent/keys", &err), ERR_IO);
}
END_TEST

static const uint64_t S = CLOCK_NS_PER_S;

START_TEST(buckets_fill_with_time)
{
    struct meter *m = meter_new();
    struct meter_limits l = {.requests_per_minute = 6};
    struct meter_state s;
    uint64_t now = 1000 * S;
    for (int i = 5; i >= 0; i--) {
        ck_assert(meter_take(m, &l, now, &s));
        ck_assert_int_eq(s.requests.limit, 6);
        ck_assert_int_eq(s.requests.remaining, i);
        ck_assert(!s.tokens.limited);
    }
    ck_assert(!meter_take(m, &l, now + 4 * S, &s)); /* one every ten seconds */
    assert_close(s.retry_s, 6, 1e-6, 0);
    ck_assert_int_eq(s.requests.remaining, 0);
    assert_close(s.requests.reset_s, 56, 1e-6, 0);
    ck_assert(meter_take(m, &l, now + 10 * S, &s));
    ck_assert(!meter_take(m, &l, now + 10 * S, &s));
    ck_assert(!meter_take(m, &l, now + 5 * S, &s)); /* a clock that goes back adds nothing */
    now += 3600 * S;
    for (int i = 0; i < 6; i++)
        ck_assert(meter_take(m, &l, now, &s));
    ck_assert(!meter_take(m, &l, now, &s)); /* no more than a minute's worth is kept */
    meter_unref(m);
}
END_TEST

START_TEST(tokens_may_be_overdrawn_once)
{
    struct meter *m = meter_new();
    struct meter_limits l = {.tokens_per_minute = 600};
    struct meter_state s;
    uint64_t now = 5 * S;
    ck_assert(meter_take(m, &l, now, &s));
    ck_assert_int_eq(s.tokens.remaining, 600);
    meter_use(m, &l, now, 900);
    ck_assert(!meter_take(m, &l, now, &s));
    ck_assert_int_eq(s.tokens.remaining, 0);
    assert_close(s.retry_s, 30.1, 1e-6, 0);
    ck_assert(!meter_take(m, &l, now + 30 * S, &s));
    ck_assert(meter_take(m, &l, now + 31 * S, &s));
    ck_assert_int_eq(s.tokens.remaining, 10);
    meter_use(m, &(struct meter_limits){0}, now + 31 * S, 1e9); /* without a limit nothing counts */
    ck_assert(meter_take(m, &l, now + 31 * S, &s));
    meter_unref(m);
}
END_TEST

START_TEST(meters_outlive_their_file)
{
    static const char second[] = "c sha256=" HEX
                                 "01 scopes=admin requests_per_minute=2\n"
                                 "b sha256=" HEX "00 scopes=scoring requests_per_minute=3\n";
    struct buf key = {0}, line = {0}, text = {0};
    struct err err = {0};
    struct key_grant g = {0}, h = {0};
    struct meter_state s;
    ck_assert_int_eq(keys_new("a", &key, &line, &err), 0);
    buf_printf(&text, "%.*s requests_per_minute=2\n", (int)line.len - 1, line.data);
    struct keys *old = parse(NULL, text.data);
    ck_assert(keys_find(old, key.data, &g));
    ck_assert(meter_take(g.meter, &g.limits, S, &s));
    buf_clear(&text);
    buf_printf(&text, "%s%.*s requests_per_minute=3\n", second, (int)line.len - 1, line.data);
    struct keys *new = parse(old, text.data);
    keys_free(old);
    ck_assert(keys_find(new, key.data, &h));
    ck_assert_ptr_eq(h.meter, g.meter);
    ck_assert(meter_take(h.meter, &h.limits, S, &s)); /* one of two was used, so one of three */
    ck_assert_int_eq(s.requests.remaining, 1);
    keys_free(new);
    meter_unref(g.meter); /* what a request holds stays */
    ck_assert(meter_take(h.meter, &h.limits, S, &s));
    meter_unref(h.meter);
    buf_release(&key);
    buf_release(&line);
    buf_release(&text);
}
END_TEST

/* n keys, whose digests differ in their last digits. */
static char *many(int n)
{
    struct buf b = {0};
    for (int i = 0; i < n; i++)
        buf_printf(&b, "k%d sha256=%.56s%08x scopes=admin\n", i, HEX, (unsigned)i);
    return buf_take(&b);
}

/* CPU time to read a file of n keys, and to read it again. */
static uint64_t reading_ns(int n)
{
    char *text = many(n);
    uint64_t least = UINT64_MAX;
    for (int round = 0; round < 3; round++) {
        uint64_t start = harness_cpu_ns();
        struct keys *old = parse(NULL, text), *k = parse(old, text);
        uint64_t took = harness_cpu_ns() - start;
        least = took < least ? took : least;
        ck_assert_uint_eq(keys_count(k), (size_t)n);
        keys_free(old);
        keys_free(k);
    }
    free(text);
    return least;
}

/* Comparing each line with all before it would take a hundred times as long for ten times the keys. */
START_TEST(many_keys_take_time_by_their_number)
{
    double ratio = (double)reading_ns(KEYS_MAX) / (double)reading_ns(KEYS_MAX / 10);
    printf("ten times the keys: %.1f times as long\n", ratio);
    ck_assert_double_lt(ratio, 50);
    char *text = many(KEYS_MAX + 1);
    struct err err = {0};
    struct keys *none = NULL;
    ck_assert_int_eq(keys_parse(&none, NULL, text, strlen(text), "f", &err), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(err.msg, "line 10001: more than 10000 keys"));
    free(text);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("keys");
    TCase *t = tcase_create("keys");
    tcase_add_test(t, digests);
    tcase_add_test(t, new_keys_fit_their_lines);
    tcase_add_test(t, files_are_lines);
    tcase_add_test(t, buckets_fill_with_time);
    tcase_add_test(t, tokens_may_be_overdrawn_once);
    tcase_add_test(t, meters_outlive_their_file);
    tcase_add_test(t, many_keys_take_time_by_their_number);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
