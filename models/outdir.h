#ifndef TTMD_MODELS_OUTDIR_H
#define TTMD_MODELS_OUTDIR_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/err.h"

/* A directory that appears whole or not at all: files are written to PATH.tmp-xxxx beside it, and
 * the name changes at the end. */
struct outdir {
    char *path; /* owned: where it will be, without trailing slashes */
    char *tmp;  /* owned: where it is written; NULL before begin and after the end */
    bool replace;
};

/* outdir_begin -- make the temporary directory.
 *
 *   force  an existing model directory may be replaced at commit; without it only an empty one
 *
 * Errors  ERR_INVALID when PATH exists and may not be replaced (also with force when it is not a
 *         model directory: no config.json, or directories in it); ERR_IO. Nothing is left behind.
 */
int outdir_begin(struct outdir *o, const char *path, bool force, struct err *err);

/* outdir_begin_only -- the same for a directory that is no model: with force one is replaced that holds
 * nothing but files of these names (NULL-terminated list). */
int outdir_begin_only(struct outdir *o, const char *path, const char *const *names, bool force,
                      struct err *err);

/* outdir_write -- a whole file NAME in it, synchronised to disk. Errors: ERR_IO. */
int outdir_write(const struct outdir *o, const char *name, const void *data, size_t len,
                 struct err *err);

/* outdir_commit -- synchronise everything and give the directory its name. After a failure
 * outdir_abort() is still to be called. Errors: ERR_IO. */
int outdir_commit(struct outdir *o, struct err *err);

/* outdir_abort -- remove what was written, unless it was committed; frees *o. Always call it. */
void outdir_abort(struct outdir *o);

/* outdir_join -- "DIR/NAME", owned by the caller. */
char *outdir_join(const char *dir, const char *name);

#endif
