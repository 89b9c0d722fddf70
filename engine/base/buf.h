#ifndef TTMD_BASE_BUF_H
#define TTMD_BASE_BUF_H

#include <stddef.h>

/* struct buf -- a growable byte string. `data` is always NUL-terminated once anything was appended
 * (the NUL is not counted in len). Zero-initialise it; buf_release() returns it to that state.
 * Small out-of-memory aborts. */
struct buf {
    char *data; /* owned; NULL while empty */
    size_t len; /* bytes */
    size_t cap; /* bytes */
};

void buf_release(struct buf *b);
void buf_clear(struct buf *b);                /* len = 0, storage kept */
void buf_reserve(struct buf *b, size_t more); /* room for `more` bytes and the NUL */
void buf_append(struct buf *b, const void *bytes, size_t len);
void buf_puts(struct buf *b, const char *s);
void buf_putc(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* buf_take -- the storage leaves the buffer (caller frees with free()); never NULL. */
char *buf_take(struct buf *b);

#endif
