/* libmicrohttpd's daemon: one thread with epoll. An empty host listens on all addresses, IPv6 and IPv4 in
 * one socket; where the kernel has no IPv6, on IPv4. The connection limit is far above the number of
 * places, so that an overload is answered by us (429) and not by silence. Its own timer is used only while an answer is
 * written: it ends all connections that have waited long enough in one go, during which it does nothing else;
 * the watcher ends them a few at a time. */
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "server/framing.h"
#include "server/handler.h"
#include "server/server.h"
#include "server/tls.h"
#include "server/watcher.h"

static void mhd_log(void *arg, const char *fmt, va_list ap)
{
    struct log *log = arg;
    char line[512];
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\r\n")] = 0;
    log_at(log, LOG_DEBUG, "libmicrohttpd", LOG_S("text", line));
}

static void on_connection(void *arg, struct MHD_Connection *conn, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct server *s = arg;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *i =
            MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (s->tls) tls_on_connection(s->tls, conn);
        *context = i ? watcher_opened(s->watcher, i->connect_fd) : NULL;
    } else if (*context) {
        watcher_closed(s->watcher, *context);
        *context = NULL;
    }
}

static void raise_fd_limit(const struct server *s)
{
    struct rlimit rl;
    rlim_t want = (rlim_t)s->cfg->max_connections + 512;
    if (getrlimit(RLIMIT_NOFILE, &rl) || rl.rlim_cur >= want) return;
    rl.rlim_cur = rl.rlim_max == RLIM_INFINITY || rl.rlim_max >= want ? want : rl.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &rl) || rl.rlim_cur < want)
        log_at(s->log, LOG_WARN, "open files are limited below max_connections",
               LOG_I("limit", rl.rlim_cur), LOG_I("wanted", want));
}

static struct MHD_Daemon *start(struct server *s, unsigned flags, const struct sockaddr *addr)
{
    const struct config *c = s->cfg;
    static const struct MHD_OptionItem plain[] = {{MHD_OPTION_END, 0, NULL}};
    if (s->tls) flags |= MHD_USE_TLS;
    flags |= MHD_USE_AUTO_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    return MHD_start_daemon(
        flags, (uint16_t)c->port, NULL, NULL, handler_access, s, MHD_OPTION_EXTERNAL_LOGGER,
        mhd_log, s->log, MHD_OPTION_NOTIFY_COMPLETED, handler_completed, s,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)c->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
        0u, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)65536, MHD_OPTION_LISTEN_BACKLOG_SIZE,
        1024u, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_ARRAY,
        s->tls ? tls_options(s->tls) : plain, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        (unsigned)c->max_connections_per_address, MHD_OPTION_UNESCAPE_CALLBACK, framing_unescape,
        NULL, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, addr ? MHD_OPTION_SOCK_ADDR : MHD_OPTION_END,
        addr, MHD_OPTION_END);
}

/* Whether a name that cannot be looked up is wrong, or only those who would know it are not there. */
static bool may_pass(int gai)
{
    return gai == EAI_AGAIN || gai == EAI_MEMORY || gai == EAI_SYSTEM;
}

/* The addresses of the configured host, for freeaddrinfo(); NULL: all that there are. */
static int find(const struct config *c, struct addrinfo **list, struct err *err)
{
    char port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    *list = NULL;
    if (!c->host || !*c->host || strcmp(c->host, "*") == 0) return 0;
    snprintf(port, sizeof port, "%u", (unsigned)c->port);
    int rc = getaddrinfo(c->host, port, &hints, list);
    if (!rc) return 0;
    return err_set_param(err, may_pass(rc) ? ERR_IO : ERR_INVALID, "host", "host \"%s\": %s",
                         c->host, gai_strerror(rc));
}

int http_check(const struct config *c, struct err *err)
{
    struct addrinfo *list;
    int rc = find(c, &list, err);
    if (list) freeaddrinfo(list);
    return rc;
}

int http_start(struct server *s, struct err *err)
{
    struct addrinfo *list;
    int rc = find(s->cfg, &list, err);
    if (rc) return rc;
    bool any = !list;
    const char *host = any ? "*" : s->cfg->host;
    raise_fd_limit(s);
    if (any) s->http = start(s, MHD_USE_DUAL_STACK, NULL);
    if (any && !s->http) s->http = start(s, 0, NULL);
    for (struct addrinfo *a = list; a && !s->http; a = a->ai_next)
        s->http = start(s, a->ai_family == AF_INET6 ? MHD_USE_IPv6 : 0, a->ai_addr);
    if (list) freeaddrinfo(list);
    if (!s->http)
        return err_set(err, ERR_IO, "cannot listen on host \"%s\", port %lld: is the port in use?",
                       host, (long long)s->cfg->port);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->http, MHD_DAEMON_INFO_BIND_PORT);
    log_at(s->log, LOG_INFO, "listening", LOG_S("host", host),
           LOG_I("port", info ? info->port : s->cfg->port),
           LOG_S("scheme", s->tls ? "https" : "http"));
    return 0;
}

int http_refuse_new(struct server *s)
{
    int fd = MHD_quiesce_daemon(s->http);
    if (fd >= 0) shutdown(fd, SHUT_RD);
    return fd;
}

void http_stop(struct server *s)
{
    if (s->http) MHD_stop_daemon(s->http);
    s->http = NULL;
}
