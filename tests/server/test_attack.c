/* Clients that mean harm, with keys on: headers without end, bytes that drip, connections that do nothing,
 * bodies made to be expensive. Throughout, /livez is asked on fresh connections; a thread of the test that
 * answers every connection with one byte is asked beside it, so that what a busy machine does to both is
 * not held against the daemon. And its memory stays bounded. A sanitizer multiplies the daemon's time and
 * memory, not the reference's: bounds on them are held only without one. */
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "engine/base/clock.h"
#include "server/keys.h"
#include "tests/server/fixture.h"

#define IDLE 2000
#define LATE_MS 50
#define LEAST_PROBES 50
/* What attackers may cost together; 2 M numbers of JSON take 90 MiB. */
#define MOST_BYTES (128 * 1048576.0)

static char authorization[128];
static double peak_before;

static void up(void)
{
    struct buf k = {0}, line = {0};
    struct err err = {0};
    const char *file = path_join(temp_dir(), "keys");
    ck_assert_int_eq(keys_new("client", &k, &line, &err), 0);
    snprintf(authorization, sizeof authorization, "Authorization: Bearer %s\r\n", k.data);
    write_file(file, line.data, line.len);
    buf_release(&k);
    buf_release(&line);
    daemon_start(&srv, daemon_tiny_model(),
                 (const char *[]){"--api-keys-file", file, "--upload-timeout-s", "2",
                                  "--idle-timeout-s", "4", "--metrics-open", NULL});
    peak_before = daemon_peak_bytes(&srv);
}

/* ---- probes ---- */

struct probes {
    pthread_t reference, prober;
    int listener, port;
    atomic_bool over;
    atomic_int n;
    int late, worst_ms;
    uint64_t began_ns, late_ns, reference_late_ns; /* beyond LATE_MS, summed */
};
static struct probes probes;

static void *reference_main(void *arg)
{
    struct probes *p = arg;
    int fd;
    while ((fd = accept(p->listener, NULL, NULL)) >= 0) {
        if (send(fd, "x", 1, MSG_NOSIGNAL) < 0) break;
        close(fd);
    }
    return NULL;
}

static uint64_t beyond(uint64_t ns)
{
    return ns > LATE_MS * CLOCK_NS_PER_MS ? ns - LATE_MS * CLOCK_NS_PER_MS : 0;
}

static void *prober_main(void *arg)
{
    struct probes *p = arg;
    while (!atomic_load(&p->over)) {
        struct httpc c;
        char byte;
        uint64_t start = clock_ns();
        httpc_open(&c, p->port);
        ck_assert_int_eq(recv(c.fd, &byte, 1, 0), 1);
        httpc_close(&c);
        p->reference_late_ns += beyond(clock_ns() - start);
        start = clock_ns();
        ck_assert_int_eq(http_get(&c, srv.port, "/livez"), 200);
        httpc_close(&c);
        uint64_t took = clock_ns() - start;
        int ms = (int)(took / CLOCK_NS_PER_MS);
        p->late_ns += beyond(took);
        p->late += beyond(took) > 0;
        p->worst_ms = ms > p->worst_ms ? ms : p->worst_ms;
        atomic_fetch_add(&p->n, 1);
        usleep(2000);
    }
    return NULL;
}

static void probes_begin(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof a;
    probes = (struct probes){.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
                             .began_ns = clock_ns()};
    ck_assert_int_eq(bind(probes.listener, (struct sockaddr *)&a, n), 0);
    ck_assert_int_eq(listen(probes.listener, 64), 0);
    ck_assert_int_eq(getsockname(probes.listener, (struct sockaddr *)&a, &n), 0);
    probes.port = ntohs(a.sin_port);
    ck_assert_int_eq(pthread_create(&probes.reference, NULL, reference_main, &probes), 0);
    ck_assert_int_eq(pthread_create(&probes.prober, NULL, prober_main, &probes), 0);
}

/* The daemon was late no longer than the reference, but for a tenth of the attack; a client with a key is served;
 * memory is within bounds. */
static void probes_end(const char *attack)
{
    struct httpc c;
    atomic_store(&probes.over, true);
    pthread_join(probes.prober, NULL);
    shutdown(probes.listener, SHUT_RDWR);
    pthread_join(probes.reference, NULL);
    close(probes.listener);
    double grown = daemon_peak_bytes(&srv) - peak_before;
    uint64_t took = clock_ns() - probes.began_ns;
    printf(
        "%s: %d probes, the slowest %d ms; later than %d ms: %d, by %.0f ms, reference %.0f ms, of "
        "%.0f; %.1f MiB more\n",
        attack, atomic_load(&probes.n), probes.worst_ms, LATE_MS, probes.late,
        (double)probes.late_ns / 1e6, (double)probes.reference_late_ns / 1e6, (double)took / 1e6,
        grown / 1048576);
    ck_assert_int_ge(atomic_load(&probes.n), LEAST_PROBES);
    if (!harness_sanitized()) {
        ck_assert_uint_le(probes.late_ns, probes.reference_late_ns + took / 10);
        ck_assert_double_lt(grown, MOST_BYTES);
    }
    httpc_open(&c, srv.port);
    static const char body[] = "{\"prompt\":[1,2,3],\"max_tokens\":2}";
    httpc_send(&c, "POST", "/v1/completions", authorization, body, sizeof body - 1);
    ck_assert_int_eq(httpc_read(&c, 30000), 200);
    httpc_close(&c);
}

/* ---- attacks ---- */

/* 10 MB of one header, and of many: the connection ends long before. */
START_TEST(headers_without_end)
{
    enum { PIECE = 65536, ALL = 10000000 };
    static char one[PIECE], many[PIECE];
    memset(one, 'a', sizeof one);
    for (size_t i = 0; i + 8 <= sizeof many; i += 8)
        memcpy(many + i, "a: bcd\r\n", 8);
    probes_begin();
    for (int round = 0; round < 20 || atomic_load(&probes.n) < 4 * LEAST_PROBES; round++) {
        struct httpc c;
        size_t sent = 0;
        const char *head = "GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: b\r\n";
        httpc_open(&c, srv.port);
        bool open = httpc_write(&c, head, strlen(head) - (round % 2 ? 0 : 2));
        while (open && sent < ALL) {
            open = httpc_write(&c, round % 2 ? many : one, PIECE);
            sent += PIECE;
        }
        int status = httpc_head(&c, 5000); /* 0: reset while we wrote */
        ck_assert_msg(status == 431 || status == 400 || (status == 0 && !open),
                      "status %d after %zu bytes, open: %d", status, sent, open);
        httpc_close(&c);
    }
    probes_end("headers of 10 MB");
}
END_TEST

/* Fifty clients with a key send a byte now and then, in the body or in the header: all are let go, and hold
 * no place. */
START_TEST(bytes_that_drip)
{
    enum { N = 50 };
    static struct httpc c[N];
    int left = N;
    probes_begin();
    for (int i = 0; i < N; i++) {
        struct buf b = {0};
        httpc_open(&c[i], srv.port);
        buf_printf(&b, "POST /v1/completions HTTP/1.1\r\nHost: x\r\n%s", authorization);
        buf_puts(&b, i % 2 ? "Content-Length: 100000\r\n\r\n" : "X-Slow: ");
        httpc_write(&c[i], b.data, b.len);
        buf_release(&b);
    }
    for (int round = 0; round < 300 && left; round++) {
        for (int i = 0; i < N; i++) {
            if (c[i].fd < 0) continue;
            int status = httpc_write(&c[i], " ", 1) ? httpc_head(&c[i], 0) : 0;
            if (status == -1) continue;
            ck_assert_msg(status == 408 || status == 0, "status %d", status);
            httpc_close(&c[i]);
            c[i].fd = -1;
            left--;
        }
        usleep(100000);
    }
    ck_assert_int_eq(left, 0);
    probes_end("dripping bytes");
}
END_TEST

/* Two thousand connections, each second one with half a header, each tenth after an answer; then they are
 * closed by the daemon. */
START_TEST(connections_that_do_nothing)
{
    static struct httpc c[IDLE];
    probes_begin();
    for (int i = 0; i < IDLE; i++) {
        httpc_open(&c[i], srv.port);
        if (i % 10 == 0) {
            httpc_send(&c[i], "GET", "/livez", "", NULL, 0);
            ck_assert_int_eq(httpc_read(&c[i], 30000), 200);
        }
        if (i % 2) httpc_write(&c[i], "GET /livez HTTP/1.1\r\nHost:", 26);
    }
    printf("%d connections open\n", IDLE);
    usleep(500000);
    for (int i = 0; i < IDLE; i++) {
        int status = httpc_head(&c[i], 30000);
        ck_assert_msg(status == 0 || status == 408, "connection %d: status %d", i, status);
        httpc_close(&c[i]);
    }
    probes_end("2,000 idle connections");
    ck_assert(http_metric(srv.port, "ttmd_requests_in_flight") == 0);
}
END_TEST

/* Bodies of 4 MB that are deep, wide, or full of escapes. */
START_TEST(bodies_that_cost)
{
    static const struct {
        const char *head, *piece;
    } bomb[] = {{"{\"prompt\":", "["},         {"{\"prompt\":[", "1,"},
                {"{\"prompt\":[", "{},"},      {"{\"prompt\":[", "[[],{}],"},
                {"{\"prompt\":\"", "\\u0041"}, {"{\"prompt\":\"a\",\"stop\":[", "\"a\","},
                {"{", "\"prompt\":1,"}};
    probes_begin();
    for (size_t i = 0; i < 2 * sizeof bomb / sizeof *bomb; i++) {
        struct buf b = {0};
        struct httpc c;
        size_t k = i / 2;
        buf_puts(&b, bomb[k].head);
        while (b.len < 4100000)
            buf_puts(&b, bomb[k].piece);
        if (i % 2 && k == 4) buf_puts(&b, "\"}"); /* a whole one, and far too long */
        httpc_open(&c, srv.port);
        httpc_send(&c, "POST", "/v1/completions", authorization, b.data, b.len);
        int status = httpc_read(&c, 60000);
        ck_assert_msg(status == 400, "bomb %zu: status %d", i, status);
        httpc_close(&c);
        buf_release(&b);
    }
    probes_end("bodies that cost");
}
END_TEST

/* ---- more connections than are accepted ---- */

enum { CROWD = 60 };

static void crowd_up(void)
{
    daemon_start(&srv, daemon_tiny_model(), (const char *[]){"--max-connections", "40", NULL});
}

/* Half as many again as are accepted, and nobody says anything: who waited longest gives way, long before
 * idle_timeout_s, so that a probe is answered. Who has a request in flight does not, nor who came last. */
START_TEST(more_connections_than_are_accepted)
{
    static struct httpc c[CROWD];
    static const char body[] = "{\"prompt\":[1,2,3],\"max_tokens\":2,\"ignore_eos\":true}";
    struct httpc busy, probe;
    struct buf b = {0};
    httpc_open(&busy, srv.port);
    buf_printf(&b, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n{",
               sizeof body - 1);
    ck_assert(httpc_write(&busy, b.data, b.len));
    buf_release(&b);
    for (int i = 0; i < 500 && http_metric(srv.port, "ttmd_requests_in_flight") < 1; i++)
        usleep(2000);
    for (int i = 0; i < CROWD; i++) {
        httpc_open(&c[i], srv.port);
        if (i % 3 == 0) httpc_write(&c[i], "GET /livez HTTP/1.1\r\nHost:", 26);
    }
    uint64_t start = clock_ns();
    ck_assert_int_eq(http_get(&probe, srv.port, "/livez"), 200);
    httpc_close(&probe);
    uint64_t took = clock_ns() - start;
    printf("a probe behind %d connections: %.0f ms\n", CROWD, (double)took / 1e6);
    ck_assert_uint_lt(took, 10 * CLOCK_NS_PER_S);
    ck_assert_int_eq(httpc_head(&c[0], 1000), 0); /* ended */
    ck_assert_int_eq(httpc_head(&c[1], 1000), 0);
    struct httpc *last = &c[CROWD - 1];
    httpc_send(last, "GET", "/livez", "", NULL, 0);
    ck_assert_int_eq(httpc_read(last, 10000), 200);
    ck_assert(httpc_write(&busy, body + 1, sizeof body - 2));
    ck_assert_int_eq(httpc_read(&busy, 30000), 200);
    httpc_close(&busy);
    for (int i = 0; i < CROWD; i++)
        httpc_close(&c[i]);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("attacks");
    TCase *t = tcase_create("attacks");
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    tcase_add_unchecked_fixture(t, up, server_down);
    tcase_set_timeout(t, 120);
    suite_add_tcase(s, t);
    tcase_add_test(t, headers_without_end);
    tcase_add_test(t, bytes_that_drip);
    tcase_add_test(t, bodies_that_cost);
    TCase *more = tcase_create("crowd");
    tcase_add_unchecked_fixture(more, crowd_up, server_down);
    tcase_set_timeout(more, 120);
    tcase_add_test(more, more_connections_than_are_accepted);
    suite_add_tcase(s, more);
    if (files.rlim_max < IDLE + 1000) {
        skip("2,000 idle connections", "this shell may not open so many files");
        return s;
    }
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    tcase_add_test(t, connections_that_do_nothing);
    return s;
}

TEST_MAIN(suite)
