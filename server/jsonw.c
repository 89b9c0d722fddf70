/* Writing JSON. Answers hold up to a million numbers (prompt scores), and a client may compare two of
 * them for equality, so the text is made directly, by one function per kind of value, without a tree
 * of nodes in between. Reading goes through jansson (body.c). */
#include "server/jsonw.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"

static void put_escaped(struct buf *b, unsigned char c)
{
    switch (c) {
    case '"':
        buf_append(b, "\\\"", 2);
        return;
    case '\\':
        buf_append(b, "\\\\", 2);
        return;
    case '\n':
        buf_append(b, "\\n", 2);
        return;
    case '\r':
        buf_append(b, "\\r", 2);
        return;
    case '\t':
        buf_append(b, "\\t", 2);
        return;
    default:
        buf_printf(b, "\\u%04x", c);
    }
}

void json_put_string(struct buf *b, const char *s, size_t len)
{
    buf_putc(b, '"');
    size_t run = 0; /* start of the bytes not yet copied */
    for (size_t i = 0; i < len;) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            i++;
            continue;
        }
        uint32_t cp = c;
        size_t n = c < 0x80 ? 1 : utf8_next(s + i, len - i, &cp);
        if (c >= 0x80 && n > 0 && cp != UINT32_MAX) {
            i += n;
            continue;
        }
        if (i > run) buf_append(b, s + run, i - run);
        if (c < 0x80)
            put_escaped(b, c);
        else
            buf_puts(b, UTF8_REPLACEMENT);
        i += n ? n : len - i; /* 0: the text ends within a character */
        run = i;
    }
    if (len > run) buf_append(b, s + run, len - run);
    buf_putc(b, '"');
}

void json_put_cstring(struct buf *b, const char *s)
{
    if (s)
        json_put_string(b, s, strlen(s));
    else
        buf_puts(b, "null");
}

void json_put_number(struct buf *b, double v)
{
    if (isnan(v)) {
        buf_puts(b, "null");
        return;
    }
    if (isinf(v)) v = v > 0 ? DBL_MAX : -DBL_MAX;
    char text[40];
    int n = snprintf(text, sizeof text, "%.9g", v);
    if (!strpbrk(text, ".e") && n > 0 && (size_t)n + 3 < sizeof text) {
        text[n++] = '.'; /* typed clients tell numbers from integers by it */
        text[n++] = '0';
    }
    buf_append(b, text, (size_t)n);
}
