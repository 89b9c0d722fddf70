/* Three replicas behind a real HAProxy with the configuration that we ship, on loopback, under load: what
 * clients see when replicas are rolled, killed, or hang. `make replicas`; not among `make check`, because it
 * needs haproxy and most of its time is waiting for health checks.
 *
 * Every request has a known answer (temperature 0, one model), so "answered" means the right bytes, from whichever
 * replica. Clients run on threads and only note what they saw; the main thread judges. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "tests/support/daemon.h"
#include "tests/support/haproxy.h"
#include "tests/support/harness.h"
#include "tests/support/httpc.h"

#define REPLICAS HAPROXY_REPLICAS
#define CLIENTS 12
#define KINDS 7
#define LONG_KIND 6 /* in flight for seconds: outlives the health checks of a drain */
#define LONG_CLIENTS 3
#define MAX_SEEN 50000
#define LIMIT_S 120

static struct daemon fleet[REPLICAS];
static struct haproxy balancer;
static const char *drain_delay_s = "5"; /* what haproxy.cfg asks for */

/* ---- the requests ---- */

static const struct {
    const char *prompt;
    int max_tokens;
    bool stream;
    int n;
} kinds[KINDS] = {{"a", 1, false, 1},  {"b", 1, true, 1},     {"c", 20, false, 1},
                  {"dd", 20, true, 1}, {"ee", 250, false, 1}, {"ff", 250, true, 1},
                  {"g", 1500, true, 3}};
static char *expected[KINDS]; /* the text; of a stream, as events */

static char *request_json(int kind)
{
    char *json = NULL;
    ck_assert(asprintf(&json,
                       "{\"prompt\":\"%s\",\"max_tokens\":%d,\"n\":%d,\"stream\":%s,"
                       "\"temperature\":0,\"ignore_eos\":true}",
                       kinds[kind].prompt, kinds[kind].max_tokens, kinds[kind].n,
                       kinds[kind].stream ? "true" : "false") > 0);
    return json;
}

/* All values of "text" in the answer, in their order, as they are written there. */
static char *texts_of(const char *body)
{
    struct buf out = {0};
    buf_puts(&out, "");
    for (const char *p = body; p && (p = strstr(p, "\"text\":\"")) != NULL;) {
        p += 8;
        const char *end = p;
        while (*end && *end != '"')
            end += *end == '\\' && end[1] ? 2 : 1;
        buf_append(&out, p, (size_t)(end - p));
        p = end;
    }
    return buf_take(&out);
}

static void learn_answers(void)
{
    for (int i = 0; i < KINDS; i++) {
        struct httpc c;
        char *json = request_json(i);
        ck_assert_int_eq(http_post(&c, fleet[0].port, "/v1/completions", json), 200);
        expected[i] = texts_of(c.body.data);
        ck_assert_uint_gt(strlen(expected[i]), 0);
        httpc_close(&c);
        free(json);
    }
}

/* ---- the load ---- */

struct seen {
    uint64_t start_ns, end_ns;
    int status; /* 0: the connection ended, -1: silence */
    bool ok;
};

static struct load {
    pthread_t threads[CLIENTS];
    atomic_bool stop;
    atomic_int n;      /* requests begun */
    atomic_int open;   /* begun and not ended */
    struct seen *seen; /* [MAX_SEEN] */
} load;
static pthread_rwlock_t beginning = PTHREAD_RWLOCK_INITIALIZER; /* read: somebody sends one */

/* One request; true when the connection may be used again. */
static bool exchange(struct httpc *c, int kind, struct seen *s)
{
    char *json = request_json(kind);
    pthread_rwlock_rdlock(&beginning);
    atomic_fetch_add(&load.open, 1);
    s->start_ns = clock_ns();
    httpc_send(c, "POST", "/v1/completions", "", json, strlen(json));
    pthread_rwlock_unlock(&beginning);
    s->status = httpc_read(c, LIMIT_S * 1000);
    s->end_ns = clock_ns();
    atomic_fetch_sub(&load.open, 1);
    free(json);
    if (s->status == 200) {
        char *got = texts_of(c->body.data);
        bool same = kinds[kind].n == 1 ? strcmp(got, expected[kind]) == 0
                                       : strlen(got) == strlen(expected[kind]); /* interleaved */
        s->ok = same && (!kinds[kind].stream || strstr(c->body.data, "data: [DONE]"));
        free(got);
    }
    const char *connection = s->status > 0 ? httpc_header(c, "Connection") : "close";
    return s->ok && !(connection && strcasecmp(connection, "close") == 0);
}

/* Odd clients keep their connections, even ones open one for each request. */
static void *client(void *arg)
{
    int number = (int)(intptr_t)arg;
    struct httpc c = {.fd = -1};
    for (int i = number; !atomic_load(&load.stop); i++) {
        int at = atomic_fetch_add(&load.n, 1);
        if (at >= MAX_SEEN) break;
        if (c.fd < 0) httpc_open(&c, balancer.port);
        int kind = number < LONG_CLIENTS ? LONG_KIND : i % LONG_KIND;
        if (!exchange(&c, kind, &load.seen[at]) || number % 2 == 0) httpc_close(&c);
        usleep(20000);
    }
    httpc_close(&c);
    return NULL;
}

static void load_start(void)
{
    free(load.seen);
    load = (struct load){.seen = calloc(MAX_SEEN, sizeof *load.seen)};
    ck_assert_ptr_nonnull(load.seen);
    for (int i = 0; i < CLIENTS; i++)
        ck_assert_int_eq(pthread_create(&load.threads[i], NULL, client, (void *)(intptr_t)i), 0);
}

static int load_end(void)
{
    atomic_store(&load.stop, true);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(load.threads[i], NULL);
    int n = atomic_load(&load.n);
    ck_assert_int_lt(n, MAX_SEEN);
    return n;
}

/* ---- HAProxy ---- */

static const char *const names[REPLICAS] = {"replica1", "replica2", "replica3"};

static bool has_status(int replica, const char *status)
{
    char text[40];
    haproxy_text(&balancer, names[replica], "status", text, sizeof text);
    return strncmp(text, status, strlen(status)) == 0;
}

static void wait_status(int replica, const char *status)
{
    uint64_t end = clock_ns() + LIMIT_S * CLOCK_NS_PER_S;
    while (!has_status(replica, status)) {
        ck_assert_msg(clock_ns() < end, "replica %d is not %s", replica + 1, status);
        usleep(50000);
    }
}

/* Requests sent again: to the same replica, and to another one. */
static long retries(void)
{
    return haproxy_number(&balancer, "BACKEND", "wretr") +
           haproxy_number(&balancer, "BACKEND", "wredis");
}

/* ---- up and down ---- */

static void replica_start(int i)
{
    char number[16];
    snprintf(number, sizeof number, "%d", fleet[i].port);
    daemon_start(&fleet[i], daemon_slow_model(),
                 (const char *const[]){"--threads", "1", "--drain-delay-s", drain_delay_s, "--port",
                                       number, "--calibration-file", "", NULL});
}

static void setup(void)
{
    int ports[REPLICAS];
    for (int i = 0; i < REPLICAS; i++) {
        fleet[i].port = ports[i] = haproxy_free_port();
        replica_start(i);
    }
    learn_answers();
    haproxy_start(&balancer, ports);
    for (int i = 0; i < REPLICAS; i++)
        wait_status(i, "UP");
}

static void teardown(void)
{
    haproxy_stop(&balancer);
    for (int i = 0; i < REPLICAS; i++)
        daemon_stop(&fleet[i]);
}

/* Counts, with a line for people; `failed` are the requests without the right answer. */
static int report(const char *scenario, int n, long retried)
{
    int ok = 0;
    for (int i = 0; i < n; i++)
        ok += load.seen[i].ok;
    double longest_s = 0;
    for (int i = 0; i < n; i++)
        longest_s = fmax(longest_s, (double)(load.seen[i].end_ns - load.seen[i].start_ns) / 1e9);
    printf("%-34s %6d requests, %6d answered, %4ld retried, %4d failed; the longest took %.1f s\n",
           scenario, n, ok, retried, n - ok, longest_s);
    for (int i = 0; i < n; i++)
        if (!load.seen[i].ok && n - ok < 40)
            printf("    failed: status %d after %.2f s\n", load.seen[i].status,
                   (double)(load.seen[i].end_ns - load.seen[i].start_ns) / 1e9);
    fflush(stdout);
    return n - ok;
}

/* Every request that failed was under way at some time of [from, to]. */
static void failed_within(int n, uint64_t from, uint64_t to)
{
    for (int i = 0; i < n; i++) {
        const struct seen *s = &load.seen[i];
        ck_assert_msg(s->ok || (s->start_ns <= to && s->end_ns >= from),
                      "request %d failed with status %d, outside of the time of the fault", i,
                      s->status);
    }
}

/* load_hold -- no request begins until load_go(), and what has begun has reached a replica: from here on what a
 * replica holds only grows less. Returns how many `replica` holds. */
static long load_hold(int replica)
{
    uint64_t end = clock_ns() + LIMIT_S * CLOCK_NS_PER_S;
    pthread_rwlock_wrlock(&beginning);
    while (haproxy_number(&balancer, "BACKEND", "scur") != atomic_load(&load.open)) {
        ck_assert_msg(clock_ns() < end, "HAProxy has not what clients have sent");
        usleep(2000);
    }
    return haproxy_number(&balancer, names[replica], "scur");
}

static void load_go(void)
{
    pthread_rwlock_unlock(&beginning);
}

/* What went wrong did so at this replica: no more failed than it held, and HAProxy saw no error of another one. */
static void failed_only_at(int replica, int failed, long held)
{
    static const char *const errors[] = {"econ", "eresp", "srv_abrt"};
    printf("%-34s %6ld requests held by it\n", "", held);
    fflush(stdout);
    ck_assert_int_gt(held, 0); /* or nothing was tried */
    ck_assert_int_le(failed, held);
    for (int i = 0; i < REPLICAS; i++)
        for (size_t k = 0; k < sizeof errors / sizeof *errors && i != replica; k++)
            ck_assert_msg(haproxy_number(&balancer, names[i], errors[k]) == 0,
                          "errors of %s, which is well: %s", names[i], errors[k]);
}

static void roll_all(const char *scenario)
{
    long before = retries();
    load_start();
    for (int i = 0; i < REPLICAS; i++) {
        kill(fleet[i].pid, SIGTERM);
        ck_assert_int_eq(daemon_wait(&fleet[i], LIMIT_S * 1000), 0);
        replica_start(i);
        wait_status(i, "UP");
    }
    int n = load_end();
    ck_assert_int_eq(report(scenario, n, retries() - before), 0);
}

START_TEST(rolling_all_loses_nothing)
{
    roll_all("all rolled (SIGTERM)");
}
END_TEST

/* What HAProxy has not seen yet is refused by the replica and sent to another one. */
START_TEST(rolling_without_a_delay_loses_nothing)
{
    roll_all("all rolled, drain_delay_s 0");
}
END_TEST

static void setup_no_delay(void)
{
    drain_delay_s = "0";
    setup();
}

START_TEST(a_killed_one_takes_only_its_own)
{
    long before = retries();
    load_start();
    usleep(1500000);
    long held = load_hold(1);
    uint64_t at = clock_ns();
    kill(fleet[1].pid, SIGKILL);
    ck_assert_int_eq(daemon_wait(&fleet[1], 10000), -SIGKILL);
    load_go(); /* its port is closed, and HAProxy thinks that it is up */
    wait_status(1, "DOWN");
    usleep(1000000);
    replica_start(1);
    wait_status(1, "UP");
    int n = load_end();
    int failed = report("one killed (SIGKILL)", n, retries() - before);
    failed_within(n, at, at);
    failed_only_at(1, failed, held);
}
END_TEST

START_TEST(one_that_hangs_is_taken_out)
{
    long before = retries();
    load_start();
    usleep(1000000);
    long held = load_hold(2), sent = haproxy_number(&balancer, names[2], "stot");
    uint64_t from = clock_ns();
    kill(fleet[2].pid, SIGSTOP);
    load_go();
    wait_status(2, "DOWN");
    uint64_t to = clock_ns();
    held += haproxy_number(&balancer, names[2], "stot") - sent; /* the kernel takes them for it */
    int at = atomic_load(&load.n);
    usleep(2000000);
    ck_assert_int_gt(atomic_load(&load.n), at + CLIENTS); /* all clients go on, with the others */
    kill(fleet[2].pid, SIGCONT);
    wait_status(2, "UP");
    usleep(500000);
    int n = load_end();
    int failed = report("one that hangs (SIGSTOP)", n, retries() - before);
    printf("%-34s %6.1f s until it was out\n", "", (double)(to - from) / 1e9);
    failed_within(n, from, to);
    failed_only_at(2, failed, held);
}
END_TEST

/* Every answer of ttmd has an X-Request-Id: without it a path came no further than HAProxy. */
static void expect_denied(const char *method, const char *path)
{
    struct httpc c;
    httpc_open(&c, balancer.port);
    httpc_send(&c, method, path, "", *method == 'P' ? "{}" : NULL, 2);
    int status = httpc_read(&c, 10000);
    ck_assert_msg(status == 404 && !httpc_header(&c, "X-Request-Id"), "%s %s: status %d of %s",
                  method, path, status, httpc_header(&c, "X-Request-Id") ? "a replica" : "HAProxy");
    httpc_close(&c);
}

START_TEST(one_replica_is_not_asked_through_the_balancer)
{
    static const char *const probes[] = {"/metrics",     "/livez",       "/startupz",
                                         "/%6civez",     "/%6Civez",     "/metric%73",
                                         "//livez",      "/%2flivez",    "/livez?a=b",
                                         "/livez%00",    "/livez%00/v1", "http://localhost/livez",
                                         "/%73tartup%7a"};
    static const char *const reloads[] = {"/admin/reload", "/%61dmin/reload", "/admin%2freload",
                                          "//admin//reload", "/admin/reload%00"};
    struct httpc c;
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)
        expect_denied("GET", probes[i]);
    for (size_t i = 0; i < sizeof reloads / sizeof *reloads; i++)
        expect_denied("POST", reloads[i]);
    ck_assert_int_eq(http_get(&c, balancer.port, "/readyz"), 200); /* any will do */
    httpc_close(&c);
    ck_assert_int_eq(http_get(&c, balancer.port, "/v1/models"), 200);
    httpc_close(&c);
}
END_TEST

static void setup_sticky(void)
{
    setenv("BALANCER_STICKY", "1", 1);
    setup();
}

/* n completions through HAProxy; got[i] = how many of them replica i answered. */
static void spread(const char *prompt_format, int n, double got[REPLICAS])
{
    static const char ok[] = "ttmd_requests_total{endpoint=\"completions\",outcome=\"ok\"}";
    double before = 0, total = 0;
    for (int i = 0; i < REPLICAS; i++)
        before += got[i] = http_metric(fleet[i].port, ok);
    for (int i = 0; i < n; i++) {
        char prompt[200];
        snprintf(prompt, sizeof prompt, prompt_format, i);
        json_decref(http_json(balancer.port, "/v1/completions", 200,
                              "{\"prompt\":%s,\"max_tokens\":1}", prompt));
    }
    for (int k = 0; k < 2000 && total < before + n; k++) { /* counted after the answer */
        total = 0;
        for (int i = 0; i < REPLICAS; i++)
            total += http_metric(fleet[i].port, ok);
        usleep(2000);
    }
    for (int i = 0; i < REPLICAS; i++)
        got[i] = http_metric(fleet[i].port, ok) - got[i];
}

static int replicas_used(const double got[REPLICAS])
{
    int used = 0;
    for (int i = 0; i < REPLICAS; i++)
        used += got[i] > 0;
    return used;
}

START_TEST(prompts_that_begin_alike_stay_together)
{
    double got[REPLICAS];
    spread("\"once upon a time\"", 12, got);
    double most = fmax(got[0], fmax(got[1], got[2]));
    ck_assert_msg(most >= 9, "%g, %g and %g of 12", got[0], got[1],
                  got[2]); /* some may be passed on */
    printf("%-34s 12 of one prompt: %g, %g and %g at the replicas\n", "sticky (BALANCER_STICKY=1)",
           got[0], got[1], got[2]);
    spread("\"%d bottles of milk\"", 40, got);
    printf("%-34s 40 prompts: %g, %g and %g at the replicas\n", "sticky (BALANCER_STICKY=1)",
           got[0], got[1], got[2]);
    ck_assert_int_eq(replicas_used(got), REPLICAS);
    spread("[1,2,%d]", 9, got); /* no text to go by */
    ck_assert_int_ge(replicas_used(got), 1);
}
END_TEST

START_TEST(there_is_an_haproxy)
{
    ck_assert_msg(haproxy_found(), "no HAProxy: install the package haproxy");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("replicas");
    TCase *t = tcase_create("what it needs");
    suite_add_tcase(s, t);
    tcase_add_test(t, there_is_an_haproxy); /* asked for by name: nothing to show is a failure */
    if (!haproxy_found()) return s;
    t = tcase_create("replicas");
    daemon_slow_model(); /* made once, before tests fork */
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 400);
    suite_add_tcase(s, t);
    tcase_add_test(t, rolling_all_loses_nothing);
    tcase_add_test(t, a_killed_one_takes_only_its_own);
    tcase_add_test(t, one_that_hangs_is_taken_out);
    tcase_add_test(t, one_replica_is_not_asked_through_the_balancer);
    t = tcase_create("no delay");
    tcase_add_checked_fixture(t, setup_no_delay, teardown);
    tcase_set_timeout(t, 400);
    suite_add_tcase(s, t);
    tcase_add_test(t, rolling_without_a_delay_loses_nothing);
    t = tcase_create("sticky");
    tcase_add_checked_fixture(t, setup_sticky, teardown);
    tcase_set_timeout(t, 400);
    suite_add_tcase(s, t);
    tcase_add_test(t, prompts_that_begin_alike_stay_together);
    return s;
}

TEST_MAIN(suite)
