/* Ten times more than fits: every request is answered, the surplus with 429 and Retry-After before its body
 * is looked at, and health probes stay fast throughout. And one address has no more connections than it may. */
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "engine/base/clock.h"
#include "tests/server/fixture.h"

#define BATCH 4
#define PLACES 12 /* --max-queue 8, --max-batch 4 */
#define CLIENTS (10 * PLACES)

static void small_up(void)
{
    static const char *const flags[] = {DAEMON_SLOW, "--max-batch", "4", "--max-queue", "8", NULL};
    daemon_start(&srv, daemon_slow_model(), flags);
}

static atomic_int n_served; /* 200s of the storm so far */

struct client {
    pthread_t thread;
    int status, retry_after;
    bool well_formed;
};

static void *client_main(void *arg)
{
    struct client *w = arg;
    struct httpc c;
    w->status = http_post(&c, srv.port, "/v1/completions",
                          "{\"prompt\":\"hello\",\"max_tokens\":40,\"ignore_eos\":true}");
    if (w->status == 200) atomic_fetch_add(&n_served, 1);
    const char *after = httpc_header(&c, "Retry-After");
    w->retry_after = after ? (int)strtol(after, NULL, 10) : 0;
    json_t *v = c.body.data ? json_loadb(c.body.data, c.body.len, JSON_ALLOW_NUL, NULL) : NULL;
    w->well_formed = w->status == 200
                         ? json_at(v, "choices.0.text") != NULL
                         : strcmp(json_str(v, "error.code"), "server_overloaded") == 0 &&
                               strcmp(json_str(v, "error.type"), "overloaded_error") == 0;
    json_decref(v);
    httpc_close(&c);
    return NULL;
}

/* The slowest probe, in milliseconds and in completions that ended meanwhile: a probe that waits for the queue
 * sees many of them, one that waits for a busy machine does not. */
struct worst {
    int n, ms, served;
};

/* Probes while the storm lasts. */
static void probe(atomic_bool *over, struct worst *worst)
{
    while (!atomic_load(over)) {
        struct httpc c;
        uint64_t start = clock_ns();
        int before = atomic_load(&n_served);
        ck_assert_int_eq(http_get(&c, srv.port, "/livez"), 200);
        int ms = (int)((clock_ns() - start) / 1000000), served = atomic_load(&n_served) - before;
        if (ms > worst->ms) worst->ms = ms;
        if (served > worst->served) worst->served = served;
        worst->n++;
        httpc_close(&c);
        usleep(2000);
    }
}

struct storm {
    struct client clients[CLIENTS];
    atomic_bool over;
};

static void *storm_main(void *arg)
{
    struct storm *s = arg;
    for (int i = 0; i < CLIENTS; i++)
        pthread_create(&s->clients[i].thread, NULL, client_main, &s->clients[i]);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(s->clients[i].thread, NULL);
    atomic_store(&s->over, true);
    return NULL;
}

START_TEST(everyone_is_answered)
{
    static struct storm s;
    struct worst worst = {0};
    pthread_t t;
    int ok = 0, refused = 0;
    memset(&s, 0, sizeof s);
    atomic_store(&n_served, 0);
    ck_assert_int_eq(pthread_create(&t, NULL, storm_main, &s), 0);
    probe(&s.over, &worst);
    pthread_join(t, NULL);
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert_msg(s.clients[i].status == 200 || s.clients[i].status == 429, "status %d",
                      s.clients[i].status);
        ck_assert(s.clients[i].well_formed);
        if (s.clients[i].status == 429) ck_assert_int_ge(s.clients[i].retry_after, 1);
        *(s.clients[i].status == 200 ? &ok : &refused) += 1;
    }
    ck_assert_int_ge(ok, PLACES);
    ck_assert_int_ge(refused, 1);
    printf("%d probes, the slowest took %d ms\n", worst.n, worst.ms);
    ck_assert_msg(worst.served <= 2 * BATCH, "%d requests were served while a probe waited",
                  worst.served);
    ck_assert(http_metric(srv.port, "ttmd_requests_rejected_total{reason=\"queue_full\"}") ==
              refused);
    ck_assert(http_metric(srv.port, "ttmd_requests_in_flight") == 0);
}
END_TEST

/* Exactly max_queue + max_batch requests hold a place; the place is reserved by the headers alone. */
START_TEST(places_are_counted_exactly)
{
    struct httpc held[PLACES], c;
    const char *head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n";
    for (int i = 0; i < PLACES; i++) {
        httpc_open(&held[i], srv.port);
        httpc_write(&held[i], head, strlen(head));
    }
    for (int i = 0; i < 500 && http_metric(srv.port, "ttmd_requests_in_flight") < PLACES; i++)
        usleep(2000);
    httpc_open(&c, srv.port);
    httpc_write(&c, head, strlen(head)); /* no body: the refusal does not wait for it */
    ck_assert_int_eq(httpc_read(&c, 5000), 429);
    httpc_close(&c);
    ck_assert(http_metric(srv.port, "ttmd_queue_capacity") == PLACES);
    for (int i = 0; i < PLACES; i++) {
        httpc_write(&held[i], "{\"max_tokens\":1}", 16);
        ck_assert_int_eq(httpc_read(&held[i], 20000), 200);
        httpc_close(&held[i]);
    }
}
END_TEST

/* One request of many sequences needs one place, and is computed a few at a time. */
START_TEST(many_sequences_need_one_place)
{
    json_t *v =
        http_json(srv.port, "/v1/completions", 200,
                  "{\"prompt\":[\"a\",\"b\",\"c\",\"d\"],\"n\":16,\"max_tokens\":2,\"seed\":1}");
    ck_assert_uint_eq(json_array_size(json_at(v, "choices")), 64);
    for (size_t i = 0; i < 64; i++)
        ck_assert(json_num(json_array_get(json_at(v, "choices"), i), "index") == (double)i);
    json_decref(v);
    struct httpc c;
    const char *body = "{\"prompt\":[\"a\",\"b\"],\"n\":20,\"max_tokens\":2,\"stream\":true}";
    ck_assert_int_eq(http_post(&c, srv.port, "/v1/completions", body), 200);
    int ends = 0;
    for (const char *p = c.body.data; (p = strstr(p, "\"finish_reason\":\"")); p++)
        ends++;
    ck_assert_int_eq(ends, 40);
    ck_assert_ptr_nonnull(strstr(c.body.data, "data: [DONE]"));
    httpc_close(&c);
}
END_TEST

/* ---- a client that does not read ---- */

static void impatient_up(void)
{
    static const char *const flags[] = {"--write-timeout-s", "1", NULL};
    daemon_start(&srv, daemon_tiny_model(), flags);
}

START_TEST(a_client_that_does_not_read)
{
    struct httpc c;
    struct buf b = {0};
    const char *done = "ttmd_http_requests_total{route=\"tokenize\",method=\"POST\",code=\"200\"}";
    int small = 4096;
    buf_puts(&b, "{\"return_token_strs\":true,\"prompt\":\""); /* 3 MB whose answer has 20 */
    for (int i = 0; i < 1500000; i++)
        buf_puts(&b, "\xc2\xb7");
    buf_puts(&b, "\"}");
    httpc_open(&c, srv.port);
    setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    ck_assert(httpc_send(&c, "POST", "/tokenize", "", b.data, b.len));
    double n = 0;
    for (int i = 0; i < 3000 && n == 0; i++) {
        n = http_metric(srv.port, done); /* others are served meanwhile */
        usleep(10000);
    }
    ck_assert(n == 1);
    httpc_close(&c);
    buf_release(&b);
}
END_TEST

/* ---- connections of one address ---- */

#define OF_ONE_ADDRESS 3

static void few_up(void)
{
    daemon_start(&srv, daemon_tiny_model(),
                 (const char *[]){"--max-connections-per-address", "3", NULL});
}

/* A connection from 127.0.0.x, with one request answered on it; 0: it was closed instead. */
static int connect_from(struct httpc *c, int x)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)srv.port)};
    struct sockaddr_in from = {.sin_family = AF_INET};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + (uint32_t)x);
    *c = (struct httpc){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    ck_assert_int_eq(bind(c->fd, (struct sockaddr *)&from, sizeof from), 0);
    ck_assert_int_eq(connect(c->fd, (struct sockaddr *)&to, sizeof to), 0);
    httpc_send(c, "GET", "/livez", "", NULL, 0);
    return httpc_read(c, 10000);
}

/* The connections that are kept count, from one address and not from another, until they are closed. */
START_TEST(an_address_has_few_connections)
{
    struct httpc kept[OF_ONE_ADDRESS], c;
    for (int i = 0; i < OF_ONE_ADDRESS; i++)
        ck_assert_int_eq(connect_from(&kept[i], 2), 200);
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(connect_from(&c, 2), 0);
        httpc_close(&c);
    }
    ck_assert_int_eq(connect_from(&c, 3), 200);
    httpc_close(&c);
    httpc_send(&kept[0], "GET", "/livez", "", NULL, 0);
    ck_assert_int_eq(httpc_read(&kept[0], 10000), 200);
    httpc_close(&kept[1]);
    int got = 0;
    for (int i = 0; i < 500 && got != 200; i++) { /* the end has to be seen first */
        got = connect_from(&c, 2);
        httpc_close(&c);
        usleep(got == 200 ? 0 : 10000);
    }
    ck_assert_int_eq(got, 200);
    httpc_close(&kept[0]);
    httpc_close(&kept[2]);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("overload over HTTP");
    TCase *t = tcase_create("overload");
    tcase_add_unchecked_fixture(t, small_up, server_down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, everyone_is_answered);
    tcase_add_test(t, places_are_counted_exactly);
    tcase_add_test(t, many_sequences_need_one_place);
    t = tcase_create("write stall");
    tcase_add_unchecked_fixture(t, impatient_up, server_down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, a_client_that_does_not_read);
    t = tcase_create("addresses");
    tcase_add_unchecked_fixture(t, few_up, server_down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, an_address_has_few_connections);
    return s;
}

TEST_MAIN(suite)
