/* Small files of an operator: configuration, keys, certificates. Why one could not be read is returned as a
 * number and not as a message, for what the file is for is known by the caller alone. Only regular files
 * are read: opening a FIFO waits for its other end and a terminal for somebody to type, and some of these files
 * are read again while requests are served. (A model's files are mapped: see engine/gpt2/dir_file.h.) */
#include "engine/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_all(int fd, size_t most, struct buf *out)
{
    char piece[4096];
    struct stat st;
    size_t len = 0;
    if (fstat(fd, &st)) return errno;
    if (!S_ISREG(st.st_mode)) return S_ISDIR(st.st_mode) ? EISDIR : FILE_NOT_REGULAR;
    for (;;) {
        ssize_t n = read(fd, piece, sizeof piece);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        if (n == 0) return 0;
        len += (size_t)n;
        if (len > most) return EFBIG;
        buf_append(out, piece, (size_t)n);
    }
}

int file_read(const char *path, size_t most, struct buf *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return errno == ENXIO ? FILE_NOT_REGULAR : errno; /* ENXIO: a socket */
    int rc = read_all(fd, most, out);
    close(fd);
    return rc;
}

const char *file_why(int why)
{
    return why == FILE_NOT_REGULAR
               ? "it is a pipe, a socket or a device: a regular file was expected"
               : strerror(why);
}
