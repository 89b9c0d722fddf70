/* Tokens as text. A token is a string of bytes, JSON strings are Unicode, and harnesses use token
 * strings as keys: so the name of a token must be readable where it can be, and never shared by two
 * ids. Everything that is not plain text gets the prefix "bytes:" and an unambiguous spelling. */
#include "server/text.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"

void token_string(const struct tokenizer *t, int32_t id, struct buf *out)
{
    size_t len;
    const char *bytes = tokenizer_bytes(t, id, &len);
    int32_t owner = len ? tokenizer_find(t, bytes, len) : -1;
    bool marked = len >= 6 && memcmp(bytes, "bytes:", 6) == 0;
    if (len && owner == id && !marked && !memchr(bytes, 0, len) && utf8_valid(bytes, len)) {
        buf_append(out, bytes, len);
        return;
    }
    buf_puts(out, "bytes:");
    for (size_t i = 0; i < len; i++)
        buf_printf(out, "\\x%02x", (unsigned char)bytes[i]);
    if (owner != id) buf_printf(out, "#%d", id);
}

/* Decode what is complete of raw[*pos, len) into `out`; returns the characters written. */
static uint32_t decode_complete(const char *raw, size_t len, size_t *pos, struct buf *out)
{
    uint32_t chars = 0;
    while (*pos < len) {
        uint32_t cp;
        size_t n = utf8_next(raw + *pos, len - *pos, &cp);
        if (n == 0) break;
        if (cp == UINT32_MAX)
            buf_puts(out, UTF8_REPLACEMENT);
        else
            buf_append(out, raw + *pos, n);
        *pos += n;
        chars++;
    }
    return chars;
}

void text_lossy(const char *bytes, size_t len, struct buf *out)
{
    size_t pos = 0;
    decode_complete(bytes, len, &pos, out);
    if (pos < len) buf_puts(out, UTF8_REPLACEMENT);
}

void token_text_make(struct token_text *tt, const struct tokenizer *t, const int32_t *ids, size_t n)
{
    *tt = (struct token_text){0};
    tt->char_begin = mem_calloc(n ? n : 1, sizeof *tt->char_begin);
    struct buf raw = {0};
    size_t pos = 0;
    for (size_t i = 0; i < n; i++) {
        tt->char_begin[i] = tt->chars;
        size_t len;
        const char *bytes = tokenizer_bytes(t, ids[i], &len);
        buf_append(&raw, bytes, len);
        tt->chars += decode_complete(raw.data ? raw.data : "", raw.len, &pos, &tt->text);
    }
    if (pos < raw.len) {
        buf_puts(&tt->text, UTF8_REPLACEMENT);
        tt->chars++;
    }
    buf_release(&raw);
}

void token_text_release(struct token_text *tt)
{
    buf_release(&tt->text);
    free(tt->char_begin);
    *tt = (struct token_text){0};
}
