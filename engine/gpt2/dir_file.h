#ifndef TTMD_GPT2_DIR_FILE_H
#define TTMD_GPT2_DIR_FILE_H

#include <stddef.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"

/* dir_file_open -- open DIR/NAME for reading; it must be a regular file (a FIFO in a hostile
 * directory must not block the start). *fd is close-on-exec, *size its length in bytes.
 * Errors  ERR_MISSING when absent, ERR_IO otherwise; nothing stays open. */
int dir_file_open(const char *dir, const char *name, int *fd, size_t *size, struct err *err);

/* dir_file_text -- append all of DIR/NAME to *out; refused (ERR_INVALID) above max bytes. */
int dir_file_text(struct buf *out, const char *dir, const char *name, size_t max, struct err *err);

#endif
