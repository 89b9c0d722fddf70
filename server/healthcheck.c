/* `ttmd --healthcheck`: what a container runs to know how its daemon is, without curl in the image. It
 * reads the same configuration as the daemon, so that there is no second place for port and host.
 *
 * It asks /readyz and not /livez. A container runtime uses the answer to start what depends on the service
 * and to route to it, and both want a daemon that serves; loading is covered by the check's start
 * period. Readiness does not depend on load, so a busy daemon is never taken for a sick one; and one
 * that is draining is about to end anyway. Orchestrators that know both questions ask them over
 * HTTP and do not need this.
 *
 * A request on a raw socket, with one deadline for all of it: a library would be the largest in the
 * image. With TLS the session goes over GnuTLS, as the daemon's; the certificate is not verified,
 * because the question stays on this machine and names no host. Where clients need a certificate,
 * the daemon's own is shown: it must be of an authority in tls_client_ca_file. */
#include "server/healthcheck.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"

#define ANSWER_MAX 4096

/* Wait for the events on fd; false when the time is over. */
static bool wait_for(int fd, short events, uint64_t deadline)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        uint64_t now = clock_ns();
        if (now >= deadline) return false;
        int rc = poll(&p, 1, (int)((deadline - now) / CLOCK_NS_PER_MS) + 1);
        if (rc > 0) return true;
        if (rc < 0 && errno != EINTR) return false;
    }
}

/* A connected socket, or -1 with errno. */
static int connect_to(const struct addrinfo *a, uint64_t deadline)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    int error = connect(fd, a->ai_addr, a->ai_addrlen) ? errno : 0;
    socklen_t size = sizeof error;
    if (error == EINPROGRESS &&
        (!wait_for(fd, POLLOUT, deadline) || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size)))
        error = ETIMEDOUT;
    if (!error) return fd;
    close(fd);
    errno = error;
    return -1;
}

static int connect_any(const struct config *cfg, uint64_t deadline, struct buf *out)
{
    char port[16];
    bool any = !*cfg->host || strcmp(cfg->host, "*") == 0;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    snprintf(port, sizeof port, "%u", (unsigned)cfg->port);
    int rc = getaddrinfo(any ? NULL : cfg->host, port, &hints, &list), fd = -1; /* NULL: loopback */
    if (rc) {
        buf_printf(out, "not ready: host \"%s\": %s\n", cfg->host, gai_strerror(rc));
        return -1;
    }
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = connect_to(a, deadline);
    if (fd < 0) buf_printf(out, "not ready: port %s: %s\n", port, strerror(errno));
    freeaddrinfo(list);
    return fd;
}

/* The connection to the daemon. */
struct peer {
    int fd;
    uint64_t deadline;
    gnutls_certificate_credentials_t cred; /* NULL: plain HTTP */
    gnutls_session_t session;
};

static bool try_again(ssize_t rc)
{
    return rc == GNUTLS_E_AGAIN || rc == GNUTLS_E_INTERRUPTED;
}

/* Wait for what the session waits for. */
static bool wait_session(const struct peer *p)
{
    bool writes = gnutls_record_get_direction(p->session);
    return wait_for(p->fd, writes ? POLLOUT : POLLIN, p->deadline);
}

/* 0, or -1 with why in out. */
static int tls_begin(struct peer *p, const struct config *cfg, struct buf *out)
{
    int rc = gnutls_certificate_allocate_credentials(&p->cred);
    if (rc >= 0 && *cfg->tls_client_ca_file)
        rc = gnutls_certificate_set_x509_key_file(p->cred, cfg->tls_certificate_file,
                                                  cfg->tls_key_file, GNUTLS_X509_FMT_PEM);
    if (rc >= 0) rc = gnutls_init(&p->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
    if (rc >= 0) rc = gnutls_set_default_priority(p->session);
    if (rc >= 0) rc = gnutls_credentials_set(p->session, GNUTLS_CRD_CERTIFICATE, p->cred);
    if (rc >= 0) {
        gnutls_transport_set_int(p->session, p->fd);
        do
            rc = gnutls_handshake(p->session);
        while (rc < 0 && !gnutls_error_is_fatal(rc) && (!try_again(rc) || wait_session(p)));
    }
    if (rc >= 0) return 0;
    buf_printf(out, "not ready: TLS: %s\n", gnutls_strerror(rc));
    return -1;
}

static void peer_close(struct peer *p)
{
    if (p->session) gnutls_deinit(p->session);
    if (p->cred) gnutls_certificate_free_credentials(p->cred);
    close(p->fd);
}

static bool peer_send(struct peer *p, const char *bytes, size_t n)
{
    if (!p->session) return send(p->fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n;
    ssize_t rc;
    do
        rc = gnutls_record_send(p->session, bytes, n);
    while (try_again(rc) && wait_session(p));
    return rc == (ssize_t)n;
}

/* Some bytes; 0 at the end, -1 on an error or when the time is over. */
static ssize_t peer_recv(struct peer *p, char *bytes, size_t n)
{
    ssize_t rc;
    if (p->session) {
        do
            rc = gnutls_record_recv(p->session, bytes, n);
        while (try_again(rc) && wait_session(p));
        /* The end of the connection without a farewell: the length of the answer does not matter here. */
        return rc == GNUTLS_E_PREMATURE_TERMINATION ? 0 : rc < 0 ? -1 : rc;
    }
    do
        rc = wait_for(p->fd, POLLIN, p->deadline) ? recv(p->fd, bytes, n, 0) : 0;
    while (rc < 0 && (errno == EINTR || errno == EAGAIN));
    return rc;
}

/* The answer, up to the end of the connection; false when none came in time. */
static bool ask(struct peer *p, char text[ANSWER_MAX])
{
    static const char request[] =
        "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    size_t len = 0;
    ssize_t n = -1;
    if (!peer_send(p, request, sizeof request - 1)) return false;
    while (len < ANSWER_MAX - 1 && (n = peer_recv(p, text + len, ANSWER_MAX - 1 - len)) > 0)
        len += (size_t)n;
    text[len] = 0;
    return n >= 0 && len > 0;
}

/* What the answer says, as a line; the exit status. */
static int judge(const char *text, struct buf *out)
{
    int status = 0;
    const char *body = strstr(text, "\r\n\r\n");
    if (!body || sscanf(text, "HTTP/1.%*1[01] %3d", &status) != 1) return -1;
    body += 4;
    int shown = (int)strcspn(body, "\r\n");
    if (status == 200)
        buf_puts(out, "ready\n");
    else
        buf_printf(out, "not ready: %d %.*s\n", status, shown > 80 ? 80 : shown, body);
    return status == 200 ? 0 : 1;
}

int healthcheck_run(const struct config *cfg, struct buf *out)
{
    char text[ANSWER_MAX];
    struct peer p = {.deadline = clock_ns() + HEALTHCHECK_TIMEOUT_S * CLOCK_NS_PER_S};
    if (cfg->port == 0) {
        buf_puts(out, "not ready: port 0 takes any free port, so it cannot be asked\n");
        return 1;
    }
    p.fd = connect_any(cfg, p.deadline, out);
    if (p.fd < 0) return 1;
    int status = *cfg->tls_certificate_file && tls_begin(&p, cfg, out) ? 1 : -1;
    if (status < 0 && ask(&p, text)) status = judge(text, out);
    peer_close(&p);
    if (status >= 0) return status;
    buf_printf(out, "not ready: no answer within %d s\n", HEALTHCHECK_TIMEOUT_S);
    return 1;
}
