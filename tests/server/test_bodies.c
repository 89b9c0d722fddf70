/* What bodies cost in memory: those of requests that nobody reads nothing, the others together no more than
 * was allowed. Clients send all but a body's last byte and wait, so that what the daemon keeps of it is kept
 * for as long as the test looks. A sanitizer keeps what was freed: bounds are held only without one. */
#include <sys/socket.h>

#include "tests/server/fixture.h"

#define MIB 1048576.0
enum { PIECE = 65536 };

static double peak_before;

static void up(void)
{
    server_up();
    peak_before = daemon_peak_bytes(&srv);
}

static void check_peak(double most_mib)
{
    double grown = (daemon_peak_bytes(&srv) - peak_before) / MIB;
    printf("%.1f MiB more, at most %.0f\n", grown, most_mib);
    if (!harness_sanitized())
        ck_assert_msg(grown < most_mib, "%.1f MiB more, expected less than %.0f", grown, most_mib);
}

static void send_filling(struct httpc *c, int n)
{
    static char piece[PIECE];
    memset(piece, 'a', sizeof piece);
    for (; n > 0; n -= PIECE)
        ck_assert(httpc_write(c, piece, n < PIECE ? (size_t)n : PIECE));
}

/* Requests that anybody may send: every byte is read, none is kept, and they are answered. */
START_TEST(bodies_that_nobody_reads)
{
    enum { N = 40, BYTES = 4 << 20 };
    static const char *const paths[] = {"/livez", "/readyz", "/startupz", "/"};
    static struct httpc c[N];
    for (int i = 0; i < N; i++) {
        struct buf b = {0};
        httpc_open(&c[i], srv.port);
        buf_printf(&b, "GET %s HTTP/1.1\r\nHost: x\r\n", paths[i % 4]);
        if (i % 8 < 4)
            buf_printf(&b, "Content-Length: %d\r\n\r\n", BYTES);
        else
            buf_printf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n", BYTES);
        ck_assert(httpc_write(&c[i], b.data, b.len));
        send_filling(&c[i], BYTES - 1);
        buf_release(&b);
    }
    for (int i = 0; i < N; i++) {
        const char *end = i % 8 < 4 ? "x" : "x\r\n0\r\n\r\n";
        ck_assert(httpc_write(&c[i], end, strlen(end)));
        int status = httpc_read(&c[i], 30000);
        ck_assert_msg(status == 200, "%s with a body: %d", paths[i % 4], status);
        httpc_close(&c[i]);
    }
    check_peak(40);
}
END_TEST

START_TEST(lengths_beyond_the_limit)
{
    static const char *const lines[] = {"GET /livez", "GET /", "POST /v1/completions"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct httpc c;
        struct buf b = {0};
        buf_printf(&b, "%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n", lines[i]);
        httpc_open(&c, srv.port);
        ck_assert(httpc_write(&c, b.data, b.len));
        int status = httpc_read(&c, 10000); /* no byte of the body was sent */
        ck_assert_msg(status == 413, "%s: %d", lines[i], status);
        ck_assert_str_eq(httpc_header(&c, "Connection"), "close");
        httpc_close(&c);
        buf_release(&b);
    }
}
END_TEST

/* A window for every two ids of two million: slots for as many as are computed, not for all. Each request
 * is begun when scores of it come; what its ids take is held by all of them to the end. */
START_TEST(windows_without_end)
{
    enum { N = 4 };
    static struct httpc c[N];
    int ids = harness_sanitized() ? 100000 : 2000000;
    char windows[40];
    snprintf(windows, sizeof windows, "\"windows\":%d,", ids - 1);
    struct buf b = {0};
    buf_puts(&b, "{\"window\":2,\"stride\":1,\"stream\":true,\"input\":[1");
    for (int i = 1; i < ids; i++)
        buf_puts(&b, ",1");
    buf_puts(&b, "]}");
    for (int i = 0; i < N; i++) {
        httpc_open(&c[i], srv.port);
        ck_assert(httpc_send(&c[i], "POST", "/v1/perplexity", "", b.data, b.len));
        ck_assert_int_eq(httpc_head(&c[i], 30000), 200);
        char *event = httpc_event(&c[i], 30000);
        ck_assert_ptr_nonnull(event);
        ck_assert_ptr_nonnull(strstr(event, windows));
        free(event);
    }
    for (int i = 0; i < N; i++)
        httpc_close(&c[i]);
    buf_release(&b);
    check_peak(180);
}
END_TEST

/* ---- all together ---- */

enum { MOST = 4 << 20, BODY = 1 << 20, UPLOADS = 30 };

static void tight_up(void)
{
    daemon_start(
        &srv, daemon_tiny_model(),
        (const char *[]){"--max-body-bytes", "2097152", "--max-buffered-bytes", "4194304", NULL});
    peak_before = daemon_peak_bytes(&srv);
}

static void send_head(struct httpc *c, int length)
{
    struct buf b = {0};
    httpc_open(c, srv.port);
    buf_puts(&b, "POST /v1/completions HTTP/1.1\r\nHost: x\r\n");
    if (length)
        buf_printf(&b, "Content-Length: %d\r\n\r\n", length);
    else
        buf_printf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n", BODY);
    ck_assert(httpc_write(c, b.data, b.len));
    buf_release(&b);
}

static void wait_metric(const char *name, double least, double most)
{
    double v = -1;
    for (int i = 0; i < 6000 && (v < least || v > most); i++) {
        v = http_metric(srv.port, name);
        ck_assert_double_le(http_metric(srv.port, "ttmd_buffered_body_bytes"), MOST);
        usleep(5000);
    }
    ck_assert_msg(v >= least && v <= most, "%s: %g, expected %g to %g", name, v, least, most);
}

static void check_refusal(const struct httpc *c)
{
    ck_assert_int_eq(c->status, 429);
    json_t *v = json_loadb(c->body.data, c->body.len, 0, NULL);
    ck_assert_str_eq(json_str(v, "error.code"), "server_overloaded");
    ck_assert_ptr_nonnull(strstr(json_str(v, "error.message"), "at most 4194304 are accepted"));
    ck_assert_ptr_nonnull(httpc_header(c, "Retry-After"));
    json_decref(v);
}

/* Thirty clients announce a body, or begin a chunked one, while there is room; then all bytes come but
 * each one's last. Those that are too much lose theirs, and hear of it at their end. */
START_TEST(uploads_together)
{
    static struct httpc c[UPLOADS], more;
    int invalid = 0;
    for (int i = 0; i < UPLOADS; i++)
        send_head(&c[i], i % 2 ? BODY : 0);
    wait_metric("ttmd_requests_in_flight", UPLOADS, UPLOADS);
    for (int i = 0; i < UPLOADS; i++)
        send_filling(&c[i], BODY - 1);
    wait_metric("ttmd_requests_in_flight", 3, 4); /* those whose bytes are kept */
    wait_metric("ttmd_buffered_body_bytes", 3.0 * (BODY - 20000), MOST);
    send_head(&more, 2 * BODY); /* what cannot fit is refused without its body */
    httpc_read(&more, 30000);
    check_refusal(&more);
    httpc_close(&more);
    json_decref(http_json(srv.port, "/v1/completions", 200, "{\"prompt\":[1],\"max_tokens\":1}"));
    for (int i = 0; i < UPLOADS; i++)
        ck_assert(httpc_write(&c[i], "a\r\n0\r\n\r\n", i % 2 ? 1 : 8));
    for (int i = 0; i < UPLOADS; i++) {
        if (httpc_read(&c[i], 30000) == 400)
            invalid++;
        else
            check_refusal(&c[i]);
        httpc_close(&c[i]);
    }
    ck_assert(invalid == 3 || invalid == 4); /* whole, and no JSON */
    wait_metric("ttmd_buffered_body_bytes", 0, 0);
    ck_assert(http_metric(srv.port, "ttmd_requests_rejected_total{reason=\"bodies_full\"}") ==
              UPLOADS - invalid + 1);
    check_peak(16);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("bodies");
    TCase *t = tcase_create("bodies");
    tcase_add_unchecked_fixture(t, up, server_down);
    tcase_set_timeout(t, 120);
    suite_add_tcase(s, t);
    tcase_add_test(t, bodies_that_nobody_reads);
    tcase_add_test(t, lengths_beyond_the_limit);
    tcase_add_test(t, windows_without_end);
    t = tcase_create("together");
    tcase_add_unchecked_fixture(t, tight_up, server_down);
    tcase_set_timeout(t, 120);
    suite_add_tcase(s, t);
    tcase_add_test(t, uploads_together);
    return s;
}

TEST_MAIN(suite)
