/* Texts given as files. They are read in pieces, not mapped: standard input and pipes work too, and a
 * file that shrinks while it is read is harmless. */
#include "models/input.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"

#define INPUT_MAX_BYTES ((size_t)1 << 31)

int input_read(const char *path, struct buf *out, struct err *err)
{
    bool standard = !strcmp(path, "-");
    FILE *f = standard ? stdin : fopen(path, "rb");
    if (!f) return err_set(err, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    int rc = 0;
    while (!rc && !feof(f)) {
        char piece[4096];
        size_t n = fread(piece, 1, sizeof piece, f);
        if (ferror(f))
            rc = err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
        else if (out->len + n > INPUT_MAX_BYTES)
            rc = err_set(err, ERR_TOO_LONG, "%s has more than %zu bytes", path, INPUT_MAX_BYTES);
        else
            buf_append(out, piece, n);
    }
    if (!standard) fclose(f);
    return rc;
}

int input_check_utf8(const char *path, const struct buf *text, struct err *err)
{
    for (size_t at = 0; at < text->len;) {
        uint32_t cp;
        size_t n = utf8_next(text->data + at, text->len - at, &cp);
        if (n == 0 || cp == UINT32_MAX)
            return err_set(err, ERR_INVALID, "%s is not UTF-8: byte %zu is 0x%02x", path, at,
                           (unsigned)(unsigned char)text->data[at]);
        at += n;
    }
    return 0;
}
