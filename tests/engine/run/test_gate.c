/* The gate against an oracle that decodes all bytes at once and searches the whole text: whatever the
 * split into tokens, the text is the same, nothing is shown that may have to be taken back, and
 * nothing is held that needs not be. */
#include "engine/run/gate.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/rng.h"
#include "engine/base/utf8.h"
#include "tests/support/harness.h"

#define R UTF8_REPLACEMENT

/* Random numbers for one test case. */
struct dice {
    uint64_t seed, n;
};
static uint32_t roll(struct dice *d, uint32_t below)
{
    return (uint32_t)(rng_uniform(d->seed, 7, d->n++) * below);
}

/* bytes.decode("utf-8", "replace"); an incomplete end is left out unless `end`. */
static void decode(const char *s, size_t len, bool end, struct buf *out)
{
    buf_clear(out);
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t n = utf8_next(s + i, len - i, &cp);
        if (n == 0 && !end) return;
        if (n == 0 || cp == UINT32_MAX)
            buf_puts(out, R);
        else
            buf_append(out, s + i, n);
        i += n ? n : len - i;
    }
}

static size_t count_chars(const char *s, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)s[i] & 0xc0) != 0x80;
    return n;
}

/* The stop string whose end comes first (the longest of these); its index or -1, *at its beginning. */
static int naive_stop(const struct buf *text, const char *const *stop, const size_t *len, size_t n,
                      size_t *at)
{
    for (size_t end = 1; end <= text->len; end++) {
        int best = -1;
        for (size_t i = 0; i < n; i++)
            if (len[i] <= end && !memcmp(text->data + end - len[i], stop[i], len[i]) &&
                (best < 0 || len[i] > len[best]))
                best = (int)i;
        if (best < 0) continue;
        *at = end - len[best];
        return best;
    }
    return -1;
}

/* The longest end of text that is a proper prefix of some stop string. */
static size_t naive_hold(const char *text, size_t len, const char *const *stop, const size_t *slen,
                         size_t n)
{
    size_t hold = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 1; k < slen[i] && k <= len; k++)
            if (!memcmp(text + len - k, stop[i], k) && k > hold) hold = k;
    return hold;
}

static const char *const pieces[] = {"a",    "b",    "ab",   "\xc3\xa9",         "\xe2\x82\xac",
                                     "\xe2", "\x82", "\xf0", "\xf0\x9f\x98\x80", "\x80",
                                     "\xff", "\xc0", "\xed", "\xf0\x90",         "a",
                                     "b",    R,      "\xf4", "\xe2\x82",         "\xf0\x9f\x98"};
#define N_PIECES (sizeof pieces / sizeof *pieces)

static void random_bytes(struct dice *d, struct buf *b, uint32_t n, uint32_t kinds)
{
    for (uint32_t i = 0; i < n; i++)
        buf_puts(b, pieces[roll(d, kinds)]);
}

struct stops {
    struct buf text[3];
    const char *s[3];
    size_t len[3], n;
};

/* Well-formed stop strings over the same few characters, so that they are found and nearly found. */
static void random_stops(struct dice *d, struct stops *st)
{
    struct buf raw = {0};
    st->n = roll(d, 4);
    for (size_t i = 0; i < st->n; i++) {
        buf_clear(&raw);
        random_bytes(d, &raw, 1 + roll(d, 4), roll(d, 2) ? 3 : 5);
        decode(raw.data, raw.len, true, &st->text[i]);
        st->s[i] = st->text[i].data;
        st->len[i] = st->text[i].len;
    }
    buf_release(&raw);
}

static void check_open(const struct gate *g, const char *bytes, size_t len, const struct stops *st)
{
    struct buf text = {0};
    decode(bytes, len, false, &text);
    ck_assert_uint_eq(g->len, text.len);
    if (text.len) ck_assert(!memcmp(g->text, text.data, text.len));
    ck_assert_uint_eq(g->released, g->len - naive_hold(g->text, g->len, st->s, st->len, st->n));
    ck_assert(g->released == g->len || ((unsigned char)g->text[g->released] & 0xc0) != 0x80);
    ck_assert_uint_eq(g->chars, count_chars(g->text, g->len));
    buf_release(&text);
}

/* One random text, split at random: every state between pushes, and the end, are the oracle's. */
static void run_case(uint64_t seed)
{
    struct dice d = {.seed = seed};
    struct stops st = {0};
    struct buf raw = {0}, want = {0};
    random_stops(&d, &st);
    random_bytes(&d, &raw, roll(&d, 30), roll(&d, 3) ? 5 : (uint32_t)N_PIECES);
    bool include = roll(&d, 2), stopped = false;
    struct gate g;
    gate_init(&g, raw.len, st.s, st.len, st.n, include);
    char shown[512];
    size_t n_shown = 0;
    for (size_t i = 0; i < raw.len && !stopped;) {
        size_t n = roll(&d, 6);
        if (n > raw.len - i) n = raw.len - i;
        stopped = gate_push(&g, raw.data + i, n);
        i += n;
        if (!stopped) check_open(&g, raw.data, i, &st);
        ck_assert_uint_ge(g.released, n_shown);
        ck_assert(!memcmp(g.text, shown, n_shown)); /* what was shown stays */
        memcpy(shown, g.text, n_shown = g.released);
    }
    gate_finish(&g);
    decode(raw.data, raw.len, true, &want);
    size_t at = want.len;
    int which = naive_stop(&want, st.s, st.len, st.n, &at);
    ck_assert_int_eq(g.stop_index, which);
    ck_assert(g.stopped == (which >= 0));
    if (which >= 0 && include) at += st.len[which];
    ck_assert_uint_eq(g.len, at);
    ck_assert_uint_eq(g.released, at);
    ck_assert_uint_eq(g.chars, count_chars(g.text, g.len));
    if (at) ck_assert(!memcmp(g.text, want.data, at));
    gate_release(&g);
    for (size_t i = 0; i < 3; i++)
        buf_release(&st.text[i]);
    buf_release(&raw);
    buf_release(&want);
}

START_TEST(any_split_gives_the_oracles_text)
{
    uint64_t n = harness_sanitized() ? 3000 : 30000;
    for (uint64_t seed = 0; seed < n; seed++)
        run_case(seed);
}
END_TEST

/* What Python 3 prints for bytes.decode("utf-8", "replace"). */
START_TEST(replacement_is_pythons)
{
    static const struct {
        const char *bytes, *text;
    } v[] = {{"\xff", R},
             {"\xe2\x82", R},
             {"a\xe2\x82"
              "b",
              "a" R "b"},
             {"\xf0\x9f\x98", R},
             {"\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
             {"\xc0\xaf", R R},
             {"\xed\xa0\x80", R R R},
             {"\xf4\x90\x80\x80", R R R R},
             {"\xe0\x80\x80", R R R},
             {"\x80\x80", R R},
             {"\xe2\x82\xac", "\xe2\x82\xac"}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        struct gate g;
        size_t len = strlen(v[i].bytes);
        gate_init(&g, len, NULL, NULL, 0, false);
        for (size_t k = 0; k < len; k++)
            ck_assert(!gate_push(&g, v[i].bytes + k, 1));
        gate_finish(&g);
        ck_assert_uint_eq(g.len, strlen(v[i].text));
        ck_assert(!memcmp(g.text, v[i].text, g.len));
        gate_release(&g);
    }
}
END_TEST

/* Where a token's text begins, in bytes and characters. */
START_TEST(beginnings)
{
    struct gate g;
    gate_init(&g, 64, NULL, NULL, 0, false);
    static const struct {
        const char *bytes;
        size_t begin, chars;
    } v[] = {
        {"\xc3\xa9", 0, 0},  {"a\xe2", 2, 1},  {"\x82", 3, 2}, {"\xac!", 3, 2},
        {"\xf0\x9f", 7, 4},  {"x", 10, 5},     /* after the replacement of what came before */
        {"\xf0\x9f", 11, 6}, {"\x98y", 11, 6}, /* continues, then breaks off */
        {"z", 15, 8},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        gate_push(&g, v[i].bytes, strlen(v[i].bytes));
        ck_assert_uint_eq(g.begin, v[i].begin);
        ck_assert_uint_eq(g.begin_chars, v[i].chars);
    }
    gate_release(&g);
}
END_TEST

/* Text that came while nobody watched is never part of a stop string. */
START_TEST(unwatched_text)
{
    const char *stop[] = {"STOP"};
    const size_t len[] = {4};
    struct gate g;
    gate_init(&g, 64, stop, len, 1, false);
    g.watch = false;
    ck_assert(!gate_push(&g, "STOP ST", 7));
    ck_assert_uint_eq(g.released, 7);
    g.watch = true;
    ck_assert(!gate_push(&g, "OP", 2));
    ck_assert(!gate_push(&g, " STO", 4));
    ck_assert_uint_eq(g.released, 10);
    ck_assert(gate_push(&g, "P and more", 10));
    ck_assert_uint_eq(g.len, 10);
    ck_assert(!memcmp(g.text, "STOP STOP ", 10));
    gate_release(&g);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("gate");
    TCase *t = tcase_create("gate");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, any_split_gives_the_oracles_text);
    tcase_add_test(t, replacement_is_pythons);
    tcase_add_test(t, beginnings);
    tcase_add_test(t, unwatched_text);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
