/* Files of a model directory. A model directory is somebody else's: every open checks that it got a
 * plain file before it reads or maps, and every message carries the whole path. */
#include "engine/gpt2/dir_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int dir_file_open(const char *dir, const char *name, int *fd, size_t *size, struct err *err)
{
    struct buf path = {0};
    buf_printf(&path, "%s/%s", dir, name);
    int rc = 0;
    struct stat st;
    int f = open(path.data, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f < 0)
        rc = err_set(err, errno == ENOENT ? ERR_MISSING : ERR_IO, "cannot open %s: %s", path.data,
                     strerror(errno));
    else if (fstat(f, &st) != 0)
        rc = err_set(err, ERR_IO, "cannot stat %s: %s", path.data, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = err_set(err, ERR_IO, "%s is not a regular file", path.data);
    buf_release(&path);
    if (rc) {
        if (f >= 0) close(f);
        return rc;
    }
    *fd = f;
    *size = (size_t)st.st_size;
    return 0;
}

int dir_file_text(struct buf *out, const char *dir, const char *name, size_t max, struct err *err)
{
    int fd;
    size_t size;
    int rc = dir_file_open(dir, name, &fd, &size, err);
    if (rc) return rc;
    size_t done = 0;
    if (size > max) {
        rc = err_set(err, ERR_INVALID, "%s/%s has %zu bytes, expected at most %zu", dir, name, size,
                     max);
        goto out;
    }
    buf_reserve(out, size);
    while (done < size) {
        char piece[16384];
        size_t want = size - done < sizeof piece ? size - done : sizeof piece;
        ssize_t n = read(fd, piece, want);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            rc = err_set(err, ERR_IO, "cannot read %s/%s: %s", dir, name,
                         n < 0 ? strerror(errno) : "it became shorter");
            goto out;
        }
        buf_append(out, piece, (size_t)n);
        done += (size_t)n;
    }
out:
    close(fd);
    return rc;
}
