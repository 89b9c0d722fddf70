#ifndef TTMD_TESTS_HAPROXY_H
#define TTMD_TESTS_HAPROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* A real HAProxy on loopback with the configuration that we ship, for tests. It dies with the test program. The
 * replicas are "replica1" to "replica3" in it, all of them together "BACKEND". */
enum { HAPROXY_REPLICAS = 3 };
struct haproxy {
    pid_t pid;
    int port, admin_port;
    char log[256]; /* file of its output */
};

/* haproxy_found -- whether there is one: that of HAPROXY in the environment, or Debian's. */
bool haproxy_found(void);
/* haproxy_start -- start it before replicas at these ports; waits for its own ports, not for the replicas. */
void haproxy_start(struct haproxy *h, const int replica_ports[HAPROXY_REPLICAS]);
void haproxy_stop(struct haproxy *h);

/* haproxy_text, haproxy_number -- a column of its statistics, for a server: "status", "scur". */
void haproxy_text(const struct haproxy *h, const char *server, const char *column, char *out,
                  size_t size);
long haproxy_number(const struct haproxy *h, const char *server, const char *column);

/* haproxy_free_port -- a port of the loopback that was free a moment ago, for replicas too. */
int haproxy_free_port(void);

#endif
