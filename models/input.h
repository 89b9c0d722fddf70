#ifndef TTMD_MODELS_INPUT_H
#define TTMD_MODELS_INPUT_H

#include "engine/base/buf.h"
#include "engine/base/err.h"

/* input_read -- append the whole of file `path` ("-" = standard input) to *out; at most 2^31 bytes.
 * Errors  ERR_IO, ERR_TOO_LONG. */
int input_read(const char *path, struct buf *out, struct err *err);

/* input_check_utf8 -- ERR_INVALID naming `path` and the first byte that is not UTF-8. */
int input_check_utf8(const char *path, const struct buf *text, struct err *err);

#endif
