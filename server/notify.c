/* Readiness for systemd (Type=notify): one datagram a state, as sd_notify(3) documents its protocol. Not by
 * libsystemd: that is a library in the image for what are twenty lines. */
#include "server/notify.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int notify_send(const char *path, const char *state)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (!path || !*path) return 0;
    size_t n = strlen(path), len = strlen(state);
    if (n >= sizeof a.sun_path || (*path != '/' && *path != '@')) {
        errno = EINVAL;
        return -1;
    }
    memcpy(a.sun_path, path, n);
    if (*path == '@') a.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    ssize_t sent = sendto(fd, state, len, MSG_NOSIGNAL, (struct sockaddr *)&a, size);
    int error = errno;
    close(fd);
    errno = error;
    return sent == (ssize_t)len ? 0 : -1;
}
