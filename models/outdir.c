/* Model directories hold several files that belong together; a reader must never meet half of them.
 * So they are written under another name in the same parent (a rename stays within one file system),
 * synchronised, and renamed. An existing model is exchanged with the new one in one system call and
 * removed afterwards: at no moment is there no model. --force is kept from being a way to delete a
 * home directory: only what looks like a flat model directory is ever replaced. */
#include "models/outdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

char *outdir_join(const char *dir, const char *name)
{
    struct buf b = {0};
    buf_printf(&b, "%s/%s", dir, name);
    return buf_take(&b);
}

static bool dots(const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..");
}

static bool listed(const char *name, const char *const *names)
{
    for (; *names; names++)
        if (!strcmp(name, *names)) return true;
    return false;
}

struct census {
    bool has_config, has_dirs;
    char *other; /* owned; an entry that is not in the list, if there is one */
};

/* How many entries a directory has (-1: it is none), and what they are. */
static int census(const char *path, const char *const *names, struct census *c)
{
    DIR *d = opendir(path);
    if (!d) return -1;
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (dots(e->d_name)) continue;
        struct stat st;
        n++;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
            c->has_dirs = true;
        if (!strcmp(e->d_name, "config.json")) c->has_config = true;
        if (names && !c->other && !listed(e->d_name, names)) c->other = mem_strdup(e->d_name);
    }
    closedir(d);
    return n;
}

/* Whether a directory of n entries may be replaced: what it must not hold, or lacks. */
static int check_contents(const struct outdir *o, const struct census *c, bool model, bool force,
                          struct err *err)
{
    if (!force)
        return err_set(err, ERR_INVALID, "%s exists and is not empty; --force replaces a %s there",
                       o->path, model ? "model" : "tokenizer");
    if (c->has_dirs)
        return err_set(err, ERR_INVALID, "%s is not replaced: it contains directories", o->path);
    if (model && !c->has_config)
        return err_set(err, ERR_INVALID, "%s is not replaced: it has no config.json", o->path);
    if (c->other)
        return err_set(err, ERR_INVALID, "%s is not replaced: it has a file %.80s", o->path,
                       c->other);
    return 0;
}

static int check_target(struct outdir *o, const char *const *names, bool force, struct err *err)
{
    struct stat st;
    struct census c = {0};
    if (lstat(o->path, &st) != 0) {
        if (errno == ENOENT) return 0;
        return err_set(err, ERR_IO, "cannot look at %s: %s", o->path, strerror(errno));
    }
    int rc = 0, n = S_ISDIR(st.st_mode) ? census(o->path, names, &c) : -1;
    if (n < 0)
        rc =
            err_set(err, ERR_INVALID, "%s exists and is not a directory that can be read", o->path);
    else if (n > 0)
        rc = check_contents(o, &c, !names, force, err);
    o->replace = rc == 0 && n > 0;
    free(c.other);
    return rc;
}

int outdir_begin_only(struct outdir *o, const char *path, const char *const *names, bool force,
                      struct err *err)
{
    *o = (struct outdir){.path = mem_strdup(path)};
    size_t len = strlen(o->path);
    while (len > 1 && o->path[len - 1] == '/')
        o->path[--len] = 0;
    int rc = len ? check_target(o, names, force, err)
                 : err_set(err, ERR_INVALID, "the name of the output directory is empty");
    if (rc) goto out;
    struct buf b = {0};
    buf_printf(&b, "%s.tmp-%08llx", o->path, (unsigned long long)(rng_entropy() & 0xffffffffu));
    o->tmp = buf_take(&b);
    if (mkdir(o->tmp, 0777) != 0) {
        rc = err_set(err, ERR_IO, "cannot make directory %s: %s", o->tmp, strerror(errno));
        free(o->tmp);
        o->tmp = NULL;
    }
out:
    if (rc) outdir_abort(o);
    return rc;
}

int outdir_begin(struct outdir *o, const char *path, bool force, struct err *err)
{
    return outdir_begin_only(o, path, NULL, force, err);
}

int outdir_write(const struct outdir *o, const char *name, const void *data, size_t len,
                 struct err *err)
{
    char *path = outdir_join(o->tmp, name);
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(data, 1, len, f) == len && fflush(f) == 0 && fsync(fileno(f)) == 0;
    int rc = ok ? 0 : err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    if (f && fclose(f) != 0 && !rc)
        rc = err_set(err, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    free(path);
    return rc;
}

static int sync_path(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd >= 0 && fsync(fd) == 0
                 ? 0
                 : err_set(err, ERR_IO, "cannot synchronise %s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return rc;
}

/* Calls fn for each file of a flat directory; stops at the first failure. */
static int each_file(const char *dir, int (*fn)(const char *path, struct err *err), struct err *err)
{
    DIR *d = opendir(dir);
    if (!d) return err_set(err, ERR_IO, "cannot list %s: %s", dir, strerror(errno));
    int rc = 0;
    for (struct dirent *e; !rc && (e = readdir(d));) {
        if (dots(e->d_name)) continue;
        char *path = outdir_join(dir, e->d_name);
        rc = fn(path, err);
        free(path);
    }
    closedir(d);
    return rc;
}

static int unlink_path(const char *path, struct err *err)
{
    (void)err;
    unlink(path);
    return 0;
}

static void remove_flat(const char *dir)
{
    each_file(dir, unlink_path, NULL);
    rmdir(dir);
}

static int sync_parent(const char *path, struct err *err)
{
    char *parent = mem_strdup(path);
    char *slash = strrchr(parent, '/');
    if (slash && slash != parent) *slash = 0;
    int rc = sync_path(!slash ? "." : slash == parent ? "/" : parent, err);
    free(parent);
    return rc;
}

int outdir_commit(struct outdir *o, struct err *err)
{
    int rc = each_file(o->tmp, sync_path, err);
    if (rc == 0) rc = sync_path(o->tmp, err);
    if (rc) return rc;
    unsigned flags = o->replace ? RENAME_EXCHANGE : 0;
    bool done = renameat2(AT_FDCWD, o->tmp, AT_FDCWD, o->path, flags) == 0;
    if (done && o->replace) remove_flat(o->tmp);
    if (!done && o->replace && (errno == EINVAL || errno == ENOSYS)) {
        remove_flat(o->path); /* a file system that cannot exchange: the best that it can do */
        done = rename(o->tmp, o->path) == 0;
    }
    if (!done)
        return err_set(err, ERR_IO, "cannot rename %s to %s: %s", o->tmp, o->path, strerror(errno));
    free(o->tmp);
    o->tmp = NULL;
    return sync_parent(o->path, err);
}

void outdir_abort(struct outdir *o)
{
    if (o->tmp) remove_flat(o->tmp);
    free(o->tmp);
    free(o->path);
    *o = (struct outdir){0};
}
