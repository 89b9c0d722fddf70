/* A client that goes away stops its computation: in the queue, in prefill, in decode, streamed or whole, by
 * closing, half-closing or resetting. The daemon computes one sequence at a time on a model that needs
 * seconds for a long text; what it still computes is read from its metrics. */
#include <sys/ioctl.h>

#include "engine/base/clock.h"
#include "tests/server/fixture.h"

enum way { CLOSE, HALF_CLOSE, RESET };
enum phase { IN_QUEUE, IN_PREFILL, IN_DECODE };
static const char *const phase_names[] = {"queued", "prefill", "decode"};

static void slow_up(void)
{
    static const char *const flags[] = {DAEMON_SLOW, "--max-batch", "1", "--max-queue", "20", NULL};
    daemon_start(&srv, daemon_slow_model(), flags);
}

/* How long a cancellation may take on a machine that does other things as well. That it came by itself, and not
 * with the end of the work, is seen from what was not computed. */
#define PATIENCE_MS 20000

/* What the long requests would compute: seconds of work. */
#define DECODE_TOKENS 2000
#define PROMPT_TOKENS 1900

/* Wait until a gauge has the value; returns the milliseconds, -1 after ms. */
static int wait_metric(const char *name, double value, int ms)
{
    uint64_t start = clock_ns();
    for (;;) {
        double now = http_metric(srv.port, name);
        int waited = (int)((clock_ns() - start) / 1000000);
        if (now == value) return waited;
        if (waited > ms) return -1;
        usleep(2000);
    }
}

static void send_long(struct httpc *c, enum phase phase, bool stream)
{
    struct buf b = {0};
    char *ids = ids_json(phase == IN_DECODE ? 3 : PROMPT_TOKENS, 1);
    buf_printf(&b, "{\"prompt\":%s,\"max_tokens\":%d,\"ignore_eos\":true,\"stream\":%s}", ids,
               phase == IN_DECODE ? DECODE_TOKENS : 100, stream ? "true" : "false");
    httpc_open(c, srv.port);
    ck_assert(httpc_send(c, "POST", "/v1/completions", "", b.data, b.len));
    buf_release(&b);
    free(ids);
}

static void go_away(struct httpc *c, enum way way)
{
    if (way == CLOSE) httpc_close(c);
    if (way == RESET) httpc_reset(c);
    if (way == HALF_CLOSE) httpc_half_close(c);
}

static void wait_running(void)
{
    ck_assert_int_ge(wait_metric("ttmd_requests_running", 1, 20000), 0);
}

static double computed(enum phase phase)
{
    return http_metric(srv.port, phase == IN_DECODE
                                     ? "ttmd_generated_tokens_total"
                                     : "ttmd_prompt_tokens_total{source=\"computed\"}");
}

static double cancelled(enum phase phase)
{
    char name[96];
    snprintf(name, sizeof name, "ttmd_requests_cancelled_total{phase=\"%s\",cause=\"disconnect\"}",
             phase_names[phase]);
    return http_metric(srv.port, name);
}

static void leave_while_computing(enum phase phase, enum way way, bool stream)
{
    struct httpc c;
    double before = cancelled(phase), start = computed(phase);
    double whole = phase == IN_DECODE ? DECODE_TOKENS : PROMPT_TOKENS;
    send_long(&c, phase, stream);
    ck_assert_int_ge(wait_metric("ttmd_requests_running", 1, 20000), 0);
    for (int i = 0; i < 10000 && computed(phase) < start + 3; i++)
        usleep(2000);
    go_away(&c, way);
    int ms = wait_metric("ttmd_requests_running", 0, PATIENCE_MS);
    ck_assert_msg(ms >= 0, "%s, way %d, stream %d: still computed", phase_names[phase], way,
                  stream);
    double done = computed(phase) - start;
    printf("%s, way %d, stream %d: gone after %d ms, %.0f tokens of %.0f\n", phase_names[phase],
           way, stream, ms, done, whole);
    ck_assert_msg(done < whole / 4, "%s, way %d, stream %d: computed on", phase_names[phase], way,
                  stream);
    ck_assert_msg(cancelled(phase) == before + 1, "%s, way %d, stream %d: not counted (%g, was %g)",
                  phase_names[phase], way, stream, cancelled(phase), before);
    ck_assert_int_ge(wait_metric("ttmd_requests_in_flight", 0, PATIENCE_MS), 0);
    httpc_close(&c);
}

START_TEST(leaving_in_prefill)
{
    leave_while_computing(IN_PREFILL, (enum way)(_i / 2), _i % 2);
}
END_TEST

START_TEST(leaving_in_decode)
{
    leave_while_computing(IN_DECODE, (enum way)(_i / 2), _i % 2);
}
END_TEST

START_TEST(leaving_the_queue)
{
    struct httpc first, c;
    enum way way = (enum way)(_i / 2);
    double before = cancelled(IN_QUEUE);
    send_long(&first, IN_DECODE, true);
    wait_running();
    send_long(&c, IN_QUEUE, _i % 2);
    ck_assert_int_ge(wait_metric("ttmd_requests_waiting", 1, 20000), 0);
    go_away(&c, way);
    ck_assert_int_ge(wait_metric("ttmd_requests_waiting", 0, PATIENCE_MS), 0);
    ck_assert(http_metric(srv.port, "ttmd_requests_running") == 1);
    ck_assert(cancelled(IN_QUEUE) == before + 1);
    httpc_close(&c);
    httpc_close(&first);
    ck_assert_int_ge(wait_metric("ttmd_requests_in_flight", 0, 20000), 0);
}
END_TEST

START_TEST(leaving_in_mid_upload)
{
    struct httpc c;
    const char *head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";
    httpc_open(&c, srv.port);
    httpc_write(&c, head, strlen(head));
    ck_assert_int_ge(wait_metric("ttmd_requests_in_flight", 1, 5000), 0);
    go_away(&c, (enum way)_i);
    ck_assert_int_ge(wait_metric("ttmd_requests_in_flight", 0, PATIENCE_MS), 0);
    httpc_close(&c);
}
END_TEST

/* Bytes of a next request are no reason to cancel the one before. */
START_TEST(pipelining_is_no_disconnect)
{
    struct httpc c;
    httpc_open(&c, srv.port);
    const char *body = "{\"prompt\":\"a\",\"max_tokens\":30,\"ignore_eos\":true}";
    httpc_send(&c, "POST", "/v1/completions", "", body, strlen(body));
    httpc_send(&c, "POST", "/v1/completions", "", body, strlen(body));
    httpc_send(&c, "GET", "/livez", "", NULL, 0);
    ck_assert_int_eq(httpc_read(&c, 60000), 200);
    ck_assert_int_eq(httpc_read(&c, 60000), 200);
    ck_assert_int_eq(httpc_read(&c, 60000), 200);
    httpc_close(&c);
}
END_TEST

/* ---- deadlines ---- */

START_TEST(deadline_while_computing)
{
    json_t *v =
        http_json(srv.port, "/v1/completions", 504,
                  "{\"prompt\":[1,2],\"max_tokens\":2000,\"ignore_eos\":true,\"timeout_s\":0.2}");
    ck_assert_str_eq(json_str(v, "error.code"), "deadline_exceeded");
    ck_assert_str_eq(json_str(v, "error.type"), "timeout_error");
    json_decref(v);
    struct httpc c;
    const char *body =
        "{\"prompt\":[1,2],\"max_tokens\":2000,\"ignore_eos\":true,\"timeout_s\":0.2}";
    ck_assert_int_eq(http_post(&c, srv.port, "/v1/completions", body), 504);
    ck_assert_str_eq(httpc_header(&c, "x-should-retry"), "false");
    httpc_close(&c);
    const char *stream =
        "{\"prompt\":[1,2],\"max_tokens\":2000,\"ignore_eos\":true,\"timeout_s\":0.2,\"stream\":"
        "true}";
    ck_assert_int_eq(http_post(&c, srv.port, "/v1/completions", stream), 200);
    const char *tail = strstr(c.body.data, "data: {\"error\":");
    ck_assert(tail && strstr(tail, "deadline_exceeded") && strstr(tail, "\n\ndata: [DONE]\n\n"));
    httpc_close(&c);
    ck_assert_int_ge(wait_metric("ttmd_requests_in_flight", 0, 20000), 0);
}
END_TEST

static void impatient_up(void)
{
    static const char *const flags[] = {DAEMON_SLOW,         "--max-batch", "1",
                                        "--queue-timeout-s", "0.2",         NULL};
    daemon_start(&srv, daemon_slow_model(), flags);
}

START_TEST(queue_timeout)
{
    struct httpc first, c;
    send_long(&first, IN_DECODE, true);
    wait_running();
    ck_assert_int_eq(
        http_post(&c, srv.port, "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":1}"), 503);
    ck_assert_ptr_nonnull(strstr(c.body.data, "\"queue_timeout\""));
    ck_assert_ptr_nonnull(httpc_header(&c, "Retry-After"));
    httpc_close(&c);
    ck_assert(http_metric(
                  srv.port,
                  "ttmd_requests_cancelled_total{phase=\"queued\",cause=\"queue_timeout\"}") == 1);
    httpc_close(&first);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("disconnects over HTTP");
    TCase *t = tcase_create("disconnect");
    tcase_add_unchecked_fixture(t, slow_up, server_down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_loop_test(t, leaving_in_prefill, 0, 6);
    tcase_add_loop_test(t, leaving_in_decode, 0, 6);
    tcase_add_loop_test(t, leaving_the_queue, 0, 6);
    tcase_add_loop_test(t, leaving_in_mid_upload, 0, 3);
    tcase_add_test(t, pipelining_is_no_disconnect);
    tcase_add_test(t, deadline_while_computing);
    t = tcase_create("queue timeout");
    tcase_add_unchecked_fixture(t, impatient_up, server_down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, queue_timeout);
    return s;
}

TEST_MAIN(suite)
