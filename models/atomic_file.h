#ifndef TTMD_MODELS_ATOMIC_FILE_H
#define TTMD_MODELS_ATOMIC_FILE_H

#include <stddef.h>

#include "engine/base/err.h"

/* A file that appears whole or not at all: written beside as PATH.partial, synchronised, renamed. What
 * was there before stays until the rename, through a full disk or the death of the process. */
struct atomic_file {
    int fd;
    char *path, *partial; /* owned */
};

/* atomic_file_open, _write, _commit -- Errors  ERR_IO naming the file. After a failure, and after
 * commit, atomic_file_abort() is harmless and frees. */
int atomic_file_open(struct atomic_file *f, const char *path, struct err *err);
int atomic_file_write(struct atomic_file *f, const void *data, size_t len, struct err *err);
int atomic_file_commit(struct atomic_file *f, struct err *err);
void atomic_file_abort(struct atomic_file *f);

/* atomic_file_put -- all of it in one call. */
int atomic_file_put(const char *path, const void *data, size_t len, struct err *err);

/* atomic_file_sync_dir -- make renames in the directory of `path` durable. Errors  ERR_IO. */
int atomic_file_sync_dir(const char *path, struct err *err);

#endif
