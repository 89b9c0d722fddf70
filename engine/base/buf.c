/* A growable byte string: the one way in which text is put together (JSON, log lines, messages), so
 * that nobody sizes a char array by guess. Capacity doubles, hence appending n bytes costs O(n) in
 * total. Invariant: data is NULL and cap 0, or len < cap and data[len] is NUL. */
#include "engine/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/err.h"
#include "engine/base/mem.h"

#define FIRST_CAP 64

void buf_release(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    if (b->data) b->data[0] = 0;
}

void buf_reserve(struct buf *b, size_t more)
{
    size_t need;
    if (!mem_add(b->len, more, &need) || !mem_add(need, 1, &need)) BUG("buffer of 2^64 bytes");
    if (need <= b->cap) return;
    size_t cap = b->cap ? b->cap : FIRST_CAP;
    while (cap < need)
        if (!mem_mul(cap, 2, &cap)) cap = need;
    b->data = mem_realloc(b->data, cap);
    b->data[b->len] = 0;
    b->cap = cap;
}

void buf_append(struct buf *b, const void *bytes, size_t len)
{
    buf_reserve(b, len);
    if (len) memcpy(b->data + b->len, bytes, len);
    b->len += len;
    b->data[b->len] = 0;
}

void buf_puts(struct buf *b, const char *s)
{
    buf_append(b, s, strlen(s));
}

void buf_putc(struct buf *b, char c)
{
    buf_append(b, &c, 1);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    buf_reserve(b, 0);
    size_t room = b->cap - b->len;
    int n = vsnprintf(b->data + b->len, room, fmt, ap);
    if (n < 0) BUG("bad format \"%s\"", fmt);
    if ((size_t)n >= room) {
        buf_reserve(b, (size_t)n);
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
    }
    b->len += (size_t)n;
    va_end(again);
    va_end(ap);
}

char *buf_take(struct buf *b)
{
    buf_reserve(b, 0);
    char *p = b->data;
    *b = (struct buf){0};
    return p;
}
