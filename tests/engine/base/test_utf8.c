/* UTF-8 against an oracle that enumerates: every scalar value encoded by the definition, and for
 * byte strings the longest prefix that some well-formed character begins with. */
#include "engine/base/utf8.h"

#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/harness.h"

/* Rows of table 3-7: ranges of the bytes of well-formed characters. */
static const struct {
    size_t len;
    unsigned char range[4][2];
} rows[] = {
    {1, {{0x00, 0x7f}}},
    {2, {{0xc2, 0xdf}, {0x80, 0xbf}}},
    {3, {{0xe0, 0xe0}, {0xa0, 0xbf}, {0x80, 0xbf}}},
    {3, {{0xe1, 0xec}, {0x80, 0xbf}, {0x80, 0xbf}}},
    {3, {{0xed, 0xed}, {0x80, 0x9f}, {0x80, 0xbf}}},
    {3, {{0xee, 0xef}, {0x80, 0xbf}, {0x80, 0xbf}}},
    {4, {{0xf0, 0xf0}, {0x90, 0xbf}, {0x80, 0xbf}, {0x80, 0xbf}}},
    {4, {{0xf1, 0xf3}, {0x80, 0xbf}, {0x80, 0xbf}, {0x80, 0xbf}}},
    {4, {{0xf4, 0xf4}, {0x80, 0x8f}, {0x80, 0xbf}, {0x80, 0xbf}}},
};

/* What utf8_next must return; *ok: a whole character. */
static size_t oracle(const unsigned char *s, size_t len, bool *ok)
{
    size_t longest = 0;
    *ok = false;
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        size_t n = 0;
        while (n < rows[r].len && n < len && s[n] >= rows[r].range[n][0] &&
               s[n] <= rows[r].range[n][1])
            n++;
        if (n == rows[r].len) {
            *ok = true;
            return n;
        }
        if (n && n == len) return 0; /* may still become one */
        if (n > longest) longest = n;
    }
    return longest ? longest : 1;
}

/* Does utf8_next agree with the oracle? A plain bool: an assertion each would cost a pipe write. */
static bool agrees(const unsigned char *s, size_t len)
{
    uint32_t cp;
    bool ok;
    char again[4];
    size_t want = oracle(s, len, &ok);
    if (utf8_next((const char *)s, len, &cp) != want || ok != (cp != UINT32_MAX)) return false;
    return !ok || (utf8_encode(cp, again) == want && !memcmp(again, s, want));
}

static void check(const unsigned char *s, size_t len)
{
    if (!agrees(s, len))
        ck_abort_msg("%zu bytes: %02x %02x %02x %02x", len, s[0], len > 1 ? s[1] : 0,
                     len > 2 ? s[2] : 0, len > 3 ? s[3] : 0);
}

/* Encoded by the definition's length, decoded to itself, and every prefix unfinished. */
static bool survives(uint32_t c)
{
    char s[4];
    uint32_t cp;
    size_t n = utf8_encode(c, s);
    if (n != (c < 0x80 ? 1u : c < 0x800 ? 2u : c < 0x10000 ? 3u : 4u)) return false;
    if (utf8_next(s, n, &cp) != n || cp != c) return false;
    for (size_t k = 1; k < n; k++)
        if (utf8_next(s, k, &cp) != 0 || cp != UINT32_MAX) return false;
    return true;
}

START_TEST(every_scalar_value)
{
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xd800 && c < 0xe000) continue;
        if (!survives(c)) ck_abort_msg("U+%04X", (unsigned)c);
    }
}
END_TEST

START_TEST(all_short_strings)
{
    for (unsigned a = 0; a < 256; a++)
        for (unsigned b = 0; b < 256; b++) {
            unsigned char s[4] = {(unsigned char)a, (unsigned char)b, 0, 0};
            static const unsigned char tails[] = {0x00, 0x41, 0x7f, 0x80, 0xbf, 0xc0, 0xff};
            check(s, 1);
            check(s, 2);
            for (size_t i = 0; i < sizeof tails; i++) {
                s[2] = tails[i];
                s[3] = tails[(i + 3) % sizeof tails];
                check(s, 3);
                check(s, 4);
            }
        }
}
END_TEST

START_TEST(random_strings)
{
    for (uint64_t i = 0; i < 200000; i++) {
        uint32_t w[4];
        rng_bits(1, 0, i, w);
        unsigned char s[4];
        for (int k = 0; k < 4; k++) /* mostly lead and continuation bytes */
            s[k] = (unsigned char)(w[0] >> 8 * k | (w[1] >> k & 1 ? 0x80 : 0));
        check(s, 1 + w[2] % 4);
    }
}
END_TEST

/* Replace as Python's errors="replace" does; "U" stands for U+FFFD. */
static void replace(const char *s, char *out)
{
    size_t len = strlen(s);
    while (len) {
        uint32_t cp;
        size_t n = utf8_next(s, len, &cp);
        if (!n) n = len;
        if (cp == UINT32_MAX)
            *out++ = 'U';
        else
            for (size_t i = 0; i < n; i++)
                *out++ = s[i];
        s += n;
        len -= n;
    }
    *out = 0;
}

START_TEST(maximal_subparts_of_the_standard)
{
    static const char *const cases[][2] = {
        {"\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64", "aUUUbUcUUd"}, /* table 3-11 */
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "UUUUUUUUA"},                  /* 3-8 */
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "UUUUUUUUA"},                  /* 3-9 */
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "UUUUUAUUB"},                  /* 3-10 */
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "UUUUA"},
        {"\xf0\x9f\x98", "U"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[64];
        replace(cases[i][0], out);
        ck_assert_str_eq(out, cases[i][1]);
    }
}
END_TEST

START_TEST(validity)
{
    ck_assert(utf8_valid("", 0));
    ck_assert(utf8_valid("a\0b", 3));
    ck_assert(utf8_valid("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80", 11));
    ck_assert(!utf8_valid("gr\xc3", 3));
    ck_assert(!utf8_valid("\xff", 1));
    ck_assert(!utf8_valid("\xed\xa0\x80", 3));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("utf8");
    TCase *t = tcase_create("utf8");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, every_scalar_value);
    tcase_add_test(t, all_short_strings);
    tcase_add_test(t, random_strings);
    tcase_add_test(t, maximal_subparts_of_the_standard);
    tcase_add_test(t, validity);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
