/* GPT-2's splitting pattern as a hand-written scanner.
 *
 * The pattern has no nesting and needs one character of look-ahead beyond a run, so that a regular
 * expression engine (and its backtracking on a megabyte of spaces) buys nothing. Characters fall
 * into four kinds; a piece is a contraction, or a run of one kind with an optional space before it,
 * or white space that leaves its last character to the word that follows.
 *
 * Linear over repeated calls: a call reads what it returns and at most one character more, but for
 * white space before a word, where the second call begins at the run's last character.
 */
#include "engine/gpt2/pretokenizer.h"

#include <stdbool.h>
#include <stdint.h>
#include <utf8proc.h>

#include "engine/base/utf8.h"

enum kind { SPACE, LETTER, NUMBER, OTHER };

/* The White_Space property beyond ASCII. */
static bool is_white_space(uint32_t cp)
{
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static enum kind ascii_kind(unsigned char c)
{
    unsigned char lower = (unsigned char)(c | 0x20);
    if (lower >= 'a' && lower <= 'z') return LETTER;
    if (c >= '0' && c <= '9') return NUMBER;
    if (c == ' ' || (c >= '\t' && c <= '\r')) return SPACE;
    return OTHER;
}

static enum kind unicode_kind(uint32_t cp)
{
    if (cp > 0x10FFFF) return OTHER; /* ill-formed */
    if (is_white_space(cp)) return SPACE;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    if (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) return LETTER;
    if (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO) return NUMBER;
    return OTHER;
}

/* The kind of the character at s[0..len), len > 0, and its length in bytes. */
static enum kind next_kind(const char *s, size_t len, size_t *bytes)
{
    unsigned char c = (unsigned char)*s;
    if (c < 0x80) {
        *bytes = 1;
        return ascii_kind(c);
    }
    uint32_t cp;
    *bytes = utf8_next(s, len, &cp);
    if (*bytes == 0) { /* cut off by the end of the text */
        *bytes = 1;
        return OTHER;
    }
    return unicode_kind(cp);
}

/* The end of the run of `kind` that goes on at `at`. */
static size_t run_end(const char *text, size_t len, size_t at, enum kind kind)
{
    size_t bytes;
    while (at < len && next_kind(text + at, len - at, &bytes) == kind)
        at += bytes;
    return at;
}

/* The length of 's 't 're 've 'm 'll 'd at text, which begins with an apostrophe; 0 if none. */
static size_t contraction(const char *text, size_t len)
{
    if (len < 2) return 0;
    char a = text[1], b = len > 2 ? text[2] : '\0';
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return 0;
}

/* \s+(?!\S)|\s+ : all of the run at the end of the text, else all but its last character, unless
 * that one is all there is. */
static size_t white_space(const char *text, size_t len)
{
    size_t at = 0, last = 0, bytes;
    while (at < len && next_kind(text + at, len - at, &bytes) == SPACE) {
        last = at;
        at += bytes;
    }
    return at == len || last == 0 ? at : last;
}

size_t pretokenize(const char *text, size_t len)
{
    if (*text == '\'') {
        size_t n = contraction(text, len);
        if (n) return n;
    }
    size_t bytes, start = 0;
    enum kind kind = next_kind(text, len, &bytes);
    if (*text == ' ' && len > 1) {
        kind = next_kind(text + 1, len - 1, &bytes);
        start = 1;
    }
    if (kind == SPACE) return white_space(text, len);
    return run_end(text, len, start + bytes, kind);
}
