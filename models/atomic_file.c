/* Single files that are replaced while others may read them or the process may die: checkpoints,
 * caches, plots. (A directory that appears as a whole is outdir's business.) The rename is the only
 * moment at which anything changes, and it comes after the data are on the disk. */
#include "models/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/mem.h"

static int fail(const struct atomic_file *f, struct err *err)
{
    return err_set(err, ERR_IO, "cannot write %s: %s", f->path, strerror(errno));
}

int atomic_file_open(struct atomic_file *f, const char *path, struct err *err)
{
    struct buf b = {0};
    buf_printf(&b, "%s.partial", path);
    *f = (struct atomic_file){.path = mem_strdup(path), .partial = buf_take(&b)};
    f->fd = open(f->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd >= 0) return 0;
    int rc = fail(f, err);
    free(f->partial);
    f->partial = NULL; /* nothing of ours to unlink */
    return rc;
}

int atomic_file_write(struct atomic_file *f, const void *data, size_t len, struct err *err)
{
    const char *p = data;
    while (len) {
        ssize_t n = write(f->fd, p, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(f, err);
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int atomic_file_sync_dir(const char *path, struct err *err)
{
    char *dir = mem_strdup(path), *slash = strrchr(dir, '/');
    if (slash && slash != dir) *slash = 0;
    const char *name = !slash ? "." : slash == dir ? "/" : dir;
    int fd = open(name, O_RDONLY | O_CLOEXEC), rc = 0;
    if (fd < 0 || fsync(fd) != 0)
        rc = err_set(err, ERR_IO, "cannot synchronise %s: %s", name, strerror(errno));
    if (fd >= 0) close(fd);
    free(dir);
    return rc;
}

int atomic_file_commit(struct atomic_file *f, struct err *err)
{
    int fd = f->fd;
    if (fsync(fd) != 0) return fail(f, err);
    f->fd = -1;
    if (close(fd) != 0) return fail(f, err);
    if (rename(f->partial, f->path) != 0) return fail(f, err);
    free(f->partial);
    f->partial = NULL;
    return atomic_file_sync_dir(f->path, err);
}

void atomic_file_abort(struct atomic_file *f)
{
    if (f->partial) {
        if (f->fd >= 0) close(f->fd);
        unlink(f->partial);
    }
    free(f->partial);
    free(f->path);
    *f = (struct atomic_file){.fd = -1};
}

int atomic_file_put(const char *path, const void *data, size_t len, struct err *err)
{
    struct atomic_file f;
    int rc = atomic_file_open(&f, path, err);
    if (!rc) rc = atomic_file_write(&f, data, len, err);
    if (!rc) rc = atomic_file_commit(&f, err);
    atomic_file_abort(&f);
    return rc;
}
