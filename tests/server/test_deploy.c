/* What the places where ttmd runs see of it: the container's health check and the service manager. */
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "server/notify.h"
#include "tests/server/fixture.h"

/* `ttmd --healthcheck` with the flags; its exit status, and its line in out. */
static int healthcheck(const char *flags, char *out, size_t size)
{
    char command[600];
    snprintf(command, sizeof command, "%s --healthcheck %s 2>&1", build_path("ttmd"), flags);
    FILE *f = popen(command, "r");
    ck_assert_ptr_nonnull(f);
    size_t n = fread(out, 1, size - 1, f);
    out[n] = 0;
    ck_assert_msg(n > 0 && strchr(out, '\n') == out + n - 1, "not one line: %s", out);
    return WEXITSTATUS(pclose(f));
}

static void expect(int status, const char *text, const char *format, int port)
{
    char flags[200], line[300];
    snprintf(flags, sizeof flags, format, port);
    int got = healthcheck(flags, line, sizeof line);
    ck_assert_msg(got == status && strncmp(line, text, strlen(text)) == 0, "%s: status %d, %s",
                  flags, got, line);
}

/* A port on which nobody listens: one that was free a moment ago; held, when `held` is wanted. */
static int some_port(int *held)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert(bind(fd, (struct sockaddr *)&a, size) == 0);
    ck_assert(getsockname(fd, (struct sockaddr *)&a, &size) == 0);
    if (held)
        *held = fd;
    else
        close(fd);
    return ntohs(a.sin_port);
}

START_TEST(healthcheck_of_a_ready_daemon)
{
    expect(0, "ready\n", "--port %d", srv.port);
    expect(0, "ready\n", "--port=%d --model /nonexistent", srv.port);
    expect(0, "ready\n", "--port %d --host localhost", srv.port);
    expect(0, "ready\n", "--port %d --host '*'", srv.port);
    expect(0, "ready\n", "--port %d --host 0.0.0.0", srv.port);
}
END_TEST

START_TEST(healthcheck_of_none)
{
    int held;
    expect(1, "not ready: port", "--port %d", some_port(NULL));
    expect(1, "not ready: port 0", "--port %d", 0);
    expect(1, "not ready: host", "--port %d --host no.such.host.invalid", 1);
    expect(1, "ttmd: flag --port", "--port %d", 65536);
    int port =
        some_port(&held); /* a daemon that hangs: the kernel takes the connection, nobody answers */
    ck_assert(listen(held, 5) == 0);
    expect(1, "not ready: no answer", "--port %d", port);
    close(held);
}
END_TEST

START_TEST(healthcheck_while_draining)
{
    struct daemon d;
    daemon_start(&d, daemon_tiny_model(), (const char *const[]){"--drain-delay-s", "60", NULL});
    kill(d.pid, SIGTERM);
    for (int i = 0; i < 2000 && http_metric(d.port, "ttmd_draining") != 1; i++)
        usleep(2000);
    expect(1, "not ready: 503 draining\n", "--port %d", d.port);
    kill(d.pid, SIGTERM);
    ck_assert_int_eq(daemon_wait(&d, 20000), 0);
}
END_TEST

/* A datagram socket as systemd has one; the daemon learns of it by its environment. */
static int manager_open(const char *name, bool abstract)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    struct timeval limit = {.tv_sec = 30};
    ck_assert_uint_lt(n, sizeof a.sun_path);
    memcpy(a.sun_path, name, n);
    if (abstract) a.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ck_assert(bind(fd, (struct sockaddr *)&a,
                   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) == 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static void expect_state(int fd, const char *state)
{
    char text[200];
    ssize_t n = recv(fd, text, sizeof text - 1, 0);
    ck_assert_msg(n > 0, "nothing was said: expected %s", state);
    text[n] = 0;
    ck_assert_msg(strncmp(text, state, strlen(state)) == 0, "%s: expected %s", text, state);
}

START_TEST(service_manager_is_told)
{
    struct daemon d;
    const char *path = path_join(temp_dir(), "notify");
    int fd = manager_open(path, false);
    setenv("NOTIFY_SOCKET", path, 1);
    daemon_spawn(&d, daemon_tiny_model(), NULL);
    expect_state(fd, "READY=1\n");
    json_decref(http_json(d.port, "/v1/completions", 200, "{\"max_tokens\":1}")); /* it was true */
    daemon_stop(&d);
    expect_state(fd, "STOPPING=1\n");
    close(fd);
    daemon_start(&d, daemon_tiny_model(), NULL); /* a manager that is gone is no reason to end */
    for (int i = 0; i < 2000 && !daemon_log_has(&d, "the service manager cannot be told"); i++)
        usleep(2000);
    ck_assert(daemon_log_has(&d, "the service manager cannot be told"));
    daemon_stop(&d);
    unsetenv("NOTIFY_SOCKET");
}
END_TEST

START_TEST(notify_names)
{
    char name[40], long_name[200];
    snprintf(name, sizeof name, "@ttmd-test-%d", (int)getpid());
    int fd = manager_open(name, true);
    ck_assert_int_eq(notify_send(name, "READY=1"), 0);
    expect_state(fd, "READY=1");
    close(fd);
    ck_assert_int_eq(notify_send(NULL, "READY=1"), 0);
    ck_assert_int_eq(notify_send("", "READY=1"), 0);
    ck_assert_int_eq(notify_send("relative", "READY=1"), -1);
    memset(long_name, 'a', sizeof long_name);
    long_name[0] = '/', long_name[sizeof long_name - 1] = 0;
    ck_assert_int_eq(notify_send(long_name, "READY=1"), -1);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("deploy");
    TCase *t = server_case(s, "healthcheck");
    tcase_add_test(t, healthcheck_of_a_ready_daemon);
    t = tcase_create("states");
    daemon_tiny_model(); /* made once, before tests fork */
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, healthcheck_of_none);
    tcase_add_test(t, healthcheck_while_draining);
    tcase_add_test(t, service_manager_is_told);
    tcase_add_test(t, notify_names);
    return s;
}

TEST_MAIN(suite)
