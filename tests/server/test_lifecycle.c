/* Start, health, drain, stop: what orchestrators see. Each test starts daemons of its own. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "engine/base/clock.h"
#include "engine/gpt2/tokenizer_write.h"
#include "tests/server/fixture.h"
#include "tests/support/make_model.h"

static const char *const slow_flags[] = {DAEMON_SLOW, "--max-batch", "2", NULL};

static void send_body(struct httpc *c, const struct daemon *d, const char *body)
{
    httpc_open(c, d->port);
    ck_assert(httpc_send(c, "POST", "/v1/completions", "", body, strlen(body)));
}

static void wait_running(const struct daemon *d, int n)
{
    for (int i = 0; i < 4000 && http_metric(d->port, "ttmd_requests_running") < n; i++)
        usleep(2000);
    ck_assert(http_metric(d->port, "ttmd_requests_running") == n);
}

/* A status, or 0 when the daemon takes no connections any more. */
static int try_status(int port, const char *path)
{
    struct httpc c;
    int status = http_get(&c, port, path);
    httpc_close(&c);
    return status;
}

START_TEST(health_of_a_ready_daemon)
{
    struct daemon d;
    daemon_start(&d, daemon_tiny_model(), NULL);
    ck_assert_int_eq(try_status(d.port, "/livez"), 200);
    ck_assert_int_eq(try_status(d.port, "/readyz"), 200);
    ck_assert_int_eq(try_status(d.port, "/startupz"), 200);
    ck_assert_int_eq(try_status(d.port, "/version"), 200);
    json_t *v = http_get_json(d.port, "/health", 200);
    ck_assert_str_eq(json_str(v, "status"), "ready");
    ck_assert(json_num(v, "progress") == 1 && json_num(v, "queue.capacity") > 0);
    json_decref(v);
    v = http_get_json(d.port, "/v1/models", 200);
    ck_assert_str_eq(json_str(v, "object"), "list");
    char path[300];
    snprintf(path, sizeof path, "/v1/models/%s", json_str(v, "data.0.id"));
    json_decref(v);
    ck_assert_int_eq(try_status(d.port, path), 200);
    ck_assert(http_metric(d.port, "ttmd_ready") == 1);
    daemon_stop(&d);
    ck_assert(daemon_log_has(&d, "draining") && daemon_log_has(&d, "stopped"));
}
END_TEST

START_TEST(a_model_that_cannot_be_loaded)
{
    struct daemon d;
    const char *dir = temp_dir();
    write_file(path_join(dir, "config.json"), "{", 1);
    daemon_spawn(&d, dir, NULL);
    ck_assert_int_eq(daemon_wait(&d, 20000), 1);
    ck_assert(daemon_log_has(&d, "the model cannot be loaded") && daemon_log_has(&d, dir));
}
END_TEST

/* A model large enough that some request comes while it is being loaded. */
static const char *large_model(void)
{
    static char dir[256];
    struct err err = {0};
    if (!*dir) {
        snprintf(dir, sizeof dir, "%s", temp_dir());
        make_model(dir, &(struct make_model){.vocab = DAEMON_VOCAB, .channels = 512, .layers = 5});
        if (tokenizer_write_bytes(dir, DAEMON_VOCAB, &err)) ck_abort_msg("%s", err.msg);
    }
    return dir;
}

/* What a daemon says right after it listens; false when it was ready already. */
static bool see_loading(const struct daemon *d)
{
    struct httpc c;
    const char *body = "{}";
    httpc_open(&c, d->port);
    httpc_send(&c, "GET", "/startupz", "", NULL, 0);
    bool loading = httpc_read(&c, 5000) == 503;
    if (loading) {
        json_t *v = json_loadb(c.body.data, c.body.len, 0, NULL);
        ck_assert_str_eq(json_str(v, "status"), "loading");
        ck_assert(json_num(v, "progress") >= 0 && json_num(v, "progress") <= 1);
        json_decref(v);
        httpc_send(&c, "GET", "/livez", "", NULL, 0);
        ck_assert_int_eq(httpc_read(&c, 5000), 200);
        httpc_close(&c);
        if (http_post(&c, d->port, "/v1/completions", body) == 503) {
            ck_assert_ptr_nonnull(strstr(c.body.data, "model_loading"));
            ck_assert_ptr_nonnull(httpc_header(&c, "Retry-After"));
        }
    }
    httpc_close(&c);
    return loading;
}

START_TEST(loading_is_visible)
{
    int seen = 0;
    for (int i = 0; i < 10 && !seen; i++) {
        struct daemon d;
        daemon_spawn(&d, large_model(), (const char *const[]){"--threads", "1", NULL});
        seen += see_loading(&d);
        daemon_stop(&d); /* also in the middle of loading: status 0 */
    }
    ck_assert_msg(seen, "the port never answered before the model was loaded");
}
END_TEST

START_TEST(drain_finishes_what_runs)
{
    struct daemon d;
    struct httpc whole, stream, late;
    daemon_start(&d, daemon_slow_model(), slow_flags);
    send_body(&whole, &d, "{\"prompt\":\"a\",\"max_tokens\":300,\"ignore_eos\":true}");
    send_body(&stream, &d,
              "{\"prompt\":\"b\",\"max_tokens\":300,\"ignore_eos\":true,\"stream\":true}");
    httpc_open(&late, d.port);
    httpc_send(&late, "GET", "/livez", "", NULL, 0);
    ck_assert_int_eq(httpc_read(&late, 5000), 200);
    wait_running(&d, 2);
    kill(d.pid, SIGTERM);
    for (int i = 0; i < 1000 && !daemon_log_has(&d, "draining"); i++)
        usleep(2000);
    httpc_send(&late, "POST", "/v1/completions", "", "{}",
               2); /* on a connection kept from before */
    int status = httpc_read(&late, 5000);
    ck_assert_msg(status == 503, "status %d while draining", status);
    ck_assert_ptr_nonnull(strstr(late.body.data, "shutting_down"));
    ck_assert_int_eq(try_status(d.port, "/livez"), 200); /* new connections are answered, too */
    ck_assert_int_eq(try_status(d.port, "/readyz"), 503);
    ck_assert_int_eq(httpc_read(&whole, 60000), 200);
    ck_assert_int_eq(httpc_read(&stream, 60000), 200);
    ck_assert_ptr_nonnull(strstr(stream.body.data, "data: [DONE]"));
    ck_assert_ptr_null(strstr(stream.body.data, "\"error\""));
    ck_assert_int_eq(daemon_wait(&d, 20000), 0);
    httpc_close(&whole), httpc_close(&stream), httpc_close(&late);
}
END_TEST

START_TEST(drain_timeout_cancels_the_rest)
{
    struct daemon d;
    struct httpc whole, stream;
    static const char *const flags[] = {DAEMON_SLOW, "--drain-timeout-s", "0.2", NULL};
    daemon_start(&d, daemon_slow_model(), flags);
    send_body(&whole, &d, "{\"prompt\":\"a\",\"max_tokens\":2000,\"ignore_eos\":true}");
    send_body(&stream, &d,
              "{\"prompt\":\"b\",\"max_tokens\":2000,\"ignore_eos\":true,\"stream\":true}");
    wait_running(&d, 2);
    kill(d.pid, SIGTERM);
    ck_assert_int_eq(httpc_read(&whole, 20000), 503);
    ck_assert_ptr_nonnull(strstr(whole.body.data, "shutting_down"));
    ck_assert_int_eq(httpc_read(&stream, 20000), 200);
    const char *tail = strstr(stream.body.data, "data: {\"error\":");
    ck_assert(tail && strstr(tail, "shutting_down") && strstr(tail, "data: [DONE]"));
    ck_assert_int_eq(daemon_wait(&d, 20000), 0);
    httpc_close(&whole), httpc_close(&stream);
}
END_TEST

static int answer_to_the_last(void)
{
    struct daemon d;
    struct httpc c;
    daemon_start(&d, daemon_tiny_model(), NULL);
    httpc_open(&c, d.port);
    const char *first = "POST /v1/completions HTTP/1.1\r\n";
    const char *rest = "Host: x\r\nContent-Length: 0\r\n\r\n";
    ck_assert(httpc_write(&c, first, strlen(first)));
    usleep(20000);
    kill(d.pid, SIGTERM);
    for (int i = 0; i < 1000 && !daemon_log_has(&d, "draining"); i++)
        usleep(2000);
    httpc_write(&c, rest, strlen(rest));
    int status = httpc_head(&c, 5000);
    ck_assert_int_eq(daemon_wait(&d, 20000), 0);
    httpc_close(&c);
    return status;
}

/* Who was accepted just before and has yet to ask gets an answer, though there is no delay and nothing else in
 * flight: a balancer may try another replica after a 503, not after silence. The test may be late itself. */
START_TEST(the_last_to_come_are_answered)
{
    int status = 0;
    for (int i = 0; i < 5 && status != 503; i++)
        status = answer_to_the_last();
    ck_assert_int_eq(status, 503);
}
END_TEST

START_TEST(a_second_signal_skips_the_waiting)
{
    struct daemon d;
    struct httpc c;
    static const char *const flags[] = {
        DAEMON_SLOW, "--drain-timeout-s", "60", "--drain-delay-s", "60", NULL};
    daemon_start(&d, daemon_slow_model(), flags);
    send_body(&c, &d, "{\"prompt\":\"a\",\"max_tokens\":2000,\"ignore_eos\":true}");
    wait_running(&d, 1);
    kill(d.pid, SIGTERM);
    for (int i = 0; i < 1000 && try_status(d.port, "/readyz") != 503;
         i++) /* the delay: not ready ... */
        usleep(2000);
    ck_assert_int_eq(try_status(d.port, "/livez"), 200); /* ... but alive, and serving */
    struct httpc kept;
    ck_assert_int_eq(http_get(&kept, d.port, "/v1/models"), 200);
    ck_assert_str_eq(httpc_header(&kept, "Connection"), "close"); /* do not keep it */
    httpc_close(&kept);
    uint64_t start = clock_ns();
    kill(d.pid, SIGINT);
    ck_assert_int_eq(daemon_wait(&d, 20000), 0);
    ck_assert(clock_ns() - start < 20ull * 1000000000);
    httpc_close(&c);
}
END_TEST

START_TEST(stopping_with_every_kind_of_connection)
{
    struct daemon d;
    struct httpc c[6];
    static const char *const flags[] = {DAEMON_SLOW, "--drain-timeout-s", "0.1", "--max-batch", "1",
                                        NULL};
    daemon_start(&d, daemon_slow_model(), flags);
    send_body(&c[0], &d, "{\"prompt\":\"a\",\"max_tokens\":2000,\"ignore_eos\":true}");
    wait_running(&d, 1);
    send_body(&c[1], &d, "{\"prompt\":\"b\",\"max_tokens\":2000,\"stream\":true}"); /* queued */
    send_body(&c[2], &d, "{\"prompt\":\"c\",\"max_tokens\":2000}");
    httpc_open(&c[3], d.port); /* silent */
    httpc_open(&c[4], d.port);
    httpc_write(&c[4], "POST /v1/compl", 14); /* in the headers */
    httpc_open(&c[5], d.port);
    const char *head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{";
    httpc_write(&c[5], head, strlen(head)); /* in the body */
    usleep(50000);
    kill(d.pid, SIGTERM);
    ck_assert_int_eq(daemon_wait(&d, 20000), 0);
    for (int i = 0; i < 6; i++)
        httpc_close(&c[i]);
}
END_TEST

static double cpu_seconds(pid_t pid)
{
    char path[64];
    unsigned long user = 0, sys = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(
        fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys),
        2);
    fclose(f);
    return (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
}

START_TEST(idle_costs_nothing)
{
    struct daemon d;
    struct httpc open[3];
    const char *half = "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n";
    daemon_start(&d, daemon_tiny_model(), NULL);
    json_decref(http_json(d.port, "/v1/completions", 200, "{\"max_tokens\":3}"));
    for (int i = 0; i < 3; i++) { /* kept connections, one in mid-upload */
        httpc_open(&open[i], d.port);
        if (i == 2) httpc_write(&open[i], half, strlen(half));
    }
    usleep(200000);
    double before = cpu_seconds(d.pid);
    usleep(1000000);
    ck_assert_msg(cpu_seconds(d.pid) - before <= 0.02, "%g s of CPU in a second of idleness",
                  cpu_seconds(d.pid) - before);
    for (int i = 0; i < 3; i++)
        httpc_close(&open[i]);
    daemon_stop(&d);
}
END_TEST

/* A log collector that hangs must not take the daemon with it: nobody reads this pipe. */
START_TEST(a_log_that_nobody_reads)
{
    int fds[2], status;
    char *port = NULL, log[4096] = "";
    size_t len = 0;
    ck_assert_int_eq(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(fds[1], 2);
        execl(build_path("ttmd"), "ttmd", "--model", daemon_tiny_model(), "--port", "0",
              "--log-level", "debug", (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    while (!strstr(log, " ready ")) { /* up to here somebody does */
        ssize_t n = read(fds[0], log + len, sizeof log - 1 - len);
        ck_assert_int_gt(n, 0);
        len += (size_t)n;
        log[len] = 0;
    }
    ck_assert_ptr_nonnull(port = strstr(log, " port="));
    int number = (int)strtol(port + 6, NULL, 10);
    for (int i = 0; i < 800; i++) /* twice what a pipe holds */
        json_decref(http_json(number, "/v1/completions", 200, "{\"max_tokens\":1}"));
    kill(pid, SIGTERM);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(fds[0]);
}
END_TEST

static int run_flag(const char *a, const char *b)
{
    char command[600];
    snprintf(command, sizeof command, "%s %s %s >/dev/null 2>&1", build_path("ttmd"), a, b);
    int status = system(command);
    return WEXITSTATUS(status);
}

START_TEST(a_port_in_use)
{
    struct daemon d;
    char model[300], port[32];
    daemon_start(&d, daemon_tiny_model(), NULL);
    snprintf(model, sizeof model, "--model %s", daemon_tiny_model());
    snprintf(port, sizeof port, "--port %d", d.port);
    ck_assert_int_eq(run_flag(model, port), 1);
    daemon_stop(&d);
}
END_TEST

START_TEST(flags_that_only_print)
{
    char model[300];
    snprintf(model, sizeof model, "--model %s", daemon_tiny_model());
    ck_assert_int_eq(run_flag("--version", ""), 0);
    ck_assert_int_eq(run_flag("--help", ""), 0);
    ck_assert_int_eq(run_flag(model, "--print-config"), 0);
    ck_assert_int_eq(run_flag(model, "--check-config"), 0);
    ck_assert_int_eq(run_flag(model, "--no-such-flag"), 2);
    ck_assert_int_eq(run_flag(model, "--port 99999"), 2);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("lifecycle");
    TCase *t = tcase_create("lifecycle");
    daemon_tiny_model(); /* made once, before tests fork */
    daemon_slow_model();
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, health_of_a_ready_daemon);
    tcase_add_test(t, a_model_that_cannot_be_loaded);
    tcase_add_test(t, loading_is_visible);
    tcase_add_test(t, drain_finishes_what_runs);
    tcase_add_test(t, drain_timeout_cancels_the_rest);
    tcase_add_test(t, the_last_to_come_are_answered);
    tcase_add_test(t, a_second_signal_skips_the_waiting);
    tcase_add_test(t, stopping_with_every_kind_of_connection);
    tcase_add_test(t, idle_costs_nothing);
    tcase_add_test(t, a_log_that_nobody_reads);
    tcase_add_test(t, a_port_in_use);
    tcase_add_test(t, flags_that_only_print);
    return s;
}

TEST_MAIN(suite)
