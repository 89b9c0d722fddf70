/* Starting HAProxy, and reading its statistics: comma-separated lines, one for each server, over HTTP. What it
 * knows of requests is what no replica can tell of itself once it is dead. */
#include "tests/support/haproxy.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/harness.h"
#include "tests/support/httpc.h"

#define DEBIANS "/usr/sbin/haproxy" /* which is not in every user's PATH */

bool haproxy_found(void)
{
    const char *named = getenv("HAPROXY");
    if (named) return access(named, X_OK) == 0;
    return access(DEBIANS, X_OK) == 0 || system("command -v haproxy >/dev/null 2>&1") == 0;
}

int haproxy_free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert(bind(fd, (struct sockaddr *)&a, size) == 0);
    ck_assert(getsockname(fd, (struct sockaddr *)&a, &size) == 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void set(const char *name, int port)
{
    char address[40];
    snprintf(address, sizeof address, "127.0.0.1:%d", port);
    setenv(name, address, 1);
}

static void child(const struct haproxy *h, const int replica_ports[HAPROXY_REPLICAS])
{
    static const char *const names[HAPROXY_REPLICAS] = {"REPLICA_1", "REPLICA_2", "REPLICA_3"};
    const char *program = getenv("HAPROXY");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    set("BALANCER_LISTEN", h->port);
    set("BALANCER_ADMIN", h->admin_port);
    for (int i = 0; i < HAPROXY_REPLICAS; i++)
        set(names[i], replica_ports[i]);
    int fd = open(h->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0) _exit(126);
    execlp(program ? program : "haproxy", "haproxy", "-db", "-f", "docker/haproxy.cfg",
           (char *)NULL);
    if (!program) execl(DEBIANS, "haproxy", "-db", "-f", "docker/haproxy.cfg", (char *)NULL);
    _exit(127);
}

void haproxy_start(struct haproxy *h, const int replica_ports[HAPROXY_REPLICAS])
{
    *h = (struct haproxy){.port = haproxy_free_port(), .admin_port = haproxy_free_port()};
    snprintf(h->log, sizeof h->log, "%s/haproxy.log", temp_dir());
    h->pid = fork();
    ck_assert_int_ge(h->pid, 0);
    if (h->pid == 0) child(h, replica_ports);
    struct httpc c;
    for (int i = 0; !httpc_connect(&c, h->admin_port); i++) {
        httpc_close(&c);
        ck_assert_msg(i < 1000, "HAProxy does not listen: see its configuration");
        usleep(20000);
    }
    httpc_close(&c);
}

void haproxy_stop(struct haproxy *h)
{
    kill(h->pid, SIGTERM);
    waitpid(h->pid, NULL, 0);
}

void haproxy_text(const struct haproxy *h, const char *server, const char *column, char *out,
                  size_t size)
{
    struct httpc c;
    ck_assert_int_eq(http_get(&c, h->admin_port, "/;csv"), 200);
    char key[64], *line = NULL, *field = c.body.data;
    int at = 0;
    for (char *p = field + 2; strncmp(p, column, strlen(column)) || p[strlen(column)] != ','; at++)
        ck_assert_msg((p = strchr(p, ',') + 1) != (char *)1, "no column %s", column);
    snprintf(key, sizeof key, "\nttmd,%s,", server);
    ck_assert_ptr_nonnull(line = strstr(c.body.data, key));
    for (field = line + 1; at > 0; at--)
        field = strchr(field, ',') + 1;
    snprintf(out, size, "%.*s", (int)strcspn(field, ","), field);
    httpc_close(&c);
}

long haproxy_number(const struct haproxy *h, const char *server, const char *column)
{
    char text[40];
    haproxy_text(h, server, column, text, sizeof text);
    return strtol(text, NULL, 10);
}
