/* GPT-2's splitting: a table of known cases, then random texts against the pattern's alternatives
 * tried one after the other, as a backtracking regular expression engine would. */
#include "engine/gpt2/pretokenizer.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/rng.h"
#include "engine/base/utf8.h"
#include "tests/support/harness.h"

/* Text, and its pieces with '|' between them. */
static const struct {
    const char *text, *pieces;
} cases[] = {
    {"Hello world", "Hello| world"},
    {"a", "a"},
    {" ", " "},
    {"  ", "  "},
    {"a  ", "a|  "},
    {"   a", "  | a"},
    {"\na", "\n|a"},
    {"\n\na", "\n|\n|a"},
    {" \n a", " \n| a"},
    {"\t\ta", "\t|\t|a"},
    {"it's we're I've I'm you'll he'd don't", "it|'s| we|'re| I|'ve| I|'m| you|'ll| he|'d| don|'t"},
    {"IT'S 'RE", "IT|'|S| '|RE"},
    {" 's", " '|s"},
    {"!'s", "!'|s"},
    {"''s", "''|s"},
    {"'sa", "'s|a"},
    {"'lx 'r", "'|lx| '|r"},
    {"'", "'"},
    {"abc123 45x", "abc|123| 45|x"},
    {"a.b, c!?", "a|.|b|,| c|!?"},
    {"\x1c\x1f x", "\x1c\x1f| x"}, /* not white space, as \s of Python's str has it */
    {"\xc2\x85x", "\xc2\x85|x"},   /* U+0085 is */
    {"\xc2\xa0\xe3\x80\x80x", "\xc2\xa0|\xe3\x80\x80|x"},
    {"\xe2\x80\x8bx", "\xe2\x80\x8b|x"}, /* U+200B is not */
    {"\xe2\x80\x80\xe2\x80\x8ax", "\xe2\x80\x80|\xe2\x80\x8a|x"},
    {"\xe1\xa0\x8ex", "\xe1\xa0\x8e|x"}, /* U+180E is not any more */
    {"\xd0\x9c\xd0\xb8\xd1\x80 \xe4\xb8\x96", "\xd0\x9c\xd0\xb8\xd1\x80| \xe4\xb8\x96"},
    {"x\xc2\xb2\xe2\x85\xa7 \xd9\xa3", "x|\xc2\xb2\xe2\x85\xa7| \xd9\xa3"}, /* No, Nl, Nd */
    {"e\xcc\x81x", "e|\xcc\x81|x"}, /* a mark is no letter */
    {" \xf0\x9f\xa6\x99!", " \xf0\x9f\xa6\x99!"},
    {"a\xff\xfe"
     "b",
     "a|\xff\xfe|b"},                    /* ill-formed bytes are the fourth kind */
    {"a\xe2\x80", "a|\xe2\x80"},         /* cut off */
    {"\xed\xa0\x80x", "\xed\xa0\x80|x"}, /* a surrogate */
    {" \xc3", " \xc3"},
};

START_TEST(known_pieces)
{
    const char *text = cases[_i].text, *want = cases[_i].pieces;
    size_t len = strlen(text);
    char got[256];
    size_t n = 0;
    for (size_t at = 0; at < len;) {
        size_t piece = pretokenize(text + at, len - at);
        ck_assert_uint_gt(piece, 0);
        ck_assert_uint_le(piece, len - at);
        if (at) got[n++] = '|';
        memcpy(got + n, text + at, piece);
        n += piece;
        at += piece;
    }
    got[n] = 0;
    ck_assert_str_eq(got, want);
}
END_TEST

START_TEST(a_nul_is_a_character)
{
    ck_assert_uint_eq(pretokenize("\0\0a", 3), 2);
    ck_assert_uint_eq(pretokenize(" \0 ", 3), 2);
}
END_TEST

/* ---- the oracle ---- */

struct chars {
    size_t n, at[64]; /* where each character begins; at[n] is the end */
    char kind[64];    /* s, L, N or '.' */
};

static char kind_of(uint32_t cp)
{
    static const uint32_t white[] = {9,      10,     11,     12,     13,     0x20,   0x85,
                                     0xA0,   0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004,
                                     0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200A, 0x2028,
                                     0x2029, 0x202F, 0x205F, 0x3000};
    for (size_t i = 0; i < sizeof white / sizeof *white; i++)
        if (white[i] == cp) return 's';
    const char *c = cp > 0x10FFFF ? "Cn" : utf8proc_category_string((utf8proc_int32_t)cp);
    return *c == 'L' || *c == 'N' ? *c : '.';
}

static struct chars split_chars(const char *text, size_t len)
{
    struct chars c = {0};
    for (size_t at = 0; at < len; c.n++) {
        uint32_t cp = UINT32_MAX;
        size_t n = utf8_next(text + at, len - at, &cp);
        if (n == 0) n = 1, cp = UINT32_MAX;
        c.at[c.n] = at;
        c.kind[c.n] = kind_of(cp);
        at += n;
    }
    c.at[c.n] = len;
    return c;
}

/* The end, in characters, of "kind+" from `from`; `from` when it does not match. */
static size_t greedy(const struct chars *c, size_t from, char kind)
{
    while (from < c->n && c->kind[from] == kind)
        from++;
    return from;
}

/* The length in bytes of the first piece. */
static size_t oracle(const char *text, size_t len)
{
    static const char *const shorts[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < 7; i++)
        if (len >= strlen(shorts[i]) && memcmp(text, shorts[i], strlen(shorts[i])) == 0)
            return strlen(shorts[i]);
    struct chars c = split_chars(text, len);
    for (const char *kind = "LN."; *kind; kind++) {
        size_t from = *text == ' ' ? 1 : 0, end = greedy(&c, from, *kind);
        if (end > from) return c.at[end];
        end = greedy(&c, 0, *kind); /* " ?" gives the space back */
        if (end > 0) return c.at[end];
    }
    size_t run = greedy(&c, 0, 's');
    for (size_t end = run; end > 0; end--)
        if (end == c.n || c.kind[end] == 's') return c.at[end];
    return c.at[run];
}

START_TEST(random_texts_match_the_pattern)
{
    static const char *const atoms[] = {" ",
                                        " ",
                                        "\n",
                                        "\xc2\xa0",
                                        "\xe3\x80\x80",
                                        "a",
                                        "S",
                                        "s",
                                        "t",
                                        "re",
                                        "ll",
                                        "\xc3\xa9",
                                        "7",
                                        "\xc2\xbd",
                                        "'",
                                        "'",
                                        ".",
                                        "\xe2\x82\xac",
                                        "\xff",
                                        "\xe2",
                                        "\xcc\x81",
                                        "\xf0\x9f\x98\x80",
                                        "\x80",
                                        "\t"};
    for (uint64_t round = 0; round < 20000; round++) {
        char text[64];
        size_t len = 0;
        uint32_t r[4];
        rng_bits(1, round, 0, r);
        size_t n = 1 + r[0] % 12;
        for (size_t i = 0; i < n; i++) {
            rng_bits(1, round, i + 1, r);
            const char *atom = atoms[r[0] % (sizeof atoms / sizeof *atoms)];
            memcpy(text + len, atom, strlen(atom));
            len += strlen(atom);
        }
        for (size_t at = 0; at < len;) {
            size_t got = pretokenize(text + at, len - at), want = oracle(text + at, len - at);
            ck_assert_msg(got == want, "round %d at %zu of %zu: %zu bytes, expected %zu",
                          (int)round, at, len, got, want);
            at += got;
        }
    }
}
END_TEST

static double split_time(const char *text, size_t len)
{
    double best = 1e30;
    for (int i = 0; i < 3; i++) {
        uint64_t start = harness_cpu_ns();
        for (size_t at = 0; at < len;)
            at += pretokenize(text + at, len - at);
        double t = (double)(harness_cpu_ns() - start);
        if (t < best) best = t;
    }
    return best;
}

/* Sixteen times the text takes sixteen times as long; quadratic work would take 256 times. */
START_TEST(hostile_texts_take_linear_time)
{
    static const char *const units[] = {" ",  " \n", "  a",      "\n\n\na",
                                        "' ", "''",  "\xc2\xa0", " \xe2\x80\x83x"};
    size_t len = (size_t)(harness_sanitized() ? 256 : 2048) << 10, unit = strlen(units[_i]);
    char *text = malloc(len + 16);
    ck_assert_ptr_nonnull(text);
    for (size_t at = 0; at < len; at += unit)
        memcpy(text + at, units[_i], unit);
    double small = split_time(text, len / 16), large = split_time(text, len);
    ck_assert_msg(large < 80 * small, "%.0f ns for a text, %.0f ns for one 16 times as long", small,
                  large);
    free(text);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("pretokenizer");
    TCase *t = tcase_create("pretokenizer");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, known_pieces, 0, (int)(sizeof cases / sizeof *cases));
    tcase_add_test(t, a_nul_is_a_character);
    tcase_add_test(t, random_texts_match_the_pattern);
    tcase_add_loop_test(t, hostile_texts_take_linear_time, 0, 8);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
