/* Who is let in: a daemon with a file of keys, and what a client without one, with a wrong one, with another
 * scope or beyond its limits gets; web pages' origins; bodies whose end is in doubt. */
#include <signal.h>
#include <sys/stat.h>

#include "server/keys.h"
#include "tests/server/fixture.h"

enum { ALICE, SCORER, ADMIN, LIMITED, TOKENS, KEYS };
static const struct {
    const char *label, *scopes;
} given[KEYS] = {{"alice", "completions"},
                 {"scorer", "scoring"},
                 {"root", "admin"},
                 {"limited", "completions,scoring requests_per_minute=2"},
                 {"tokens", "completions tokens_per_minute=10"}};
static char key[KEYS][80];
static char file[1024];

#define PAGE "https://app.example.org"

static void write_keys(int n)
{
    static struct buf line[KEYS];
    struct buf text = {0};
    for (int i = 0; i < n; i++) {
        struct buf k = {0};
        struct err err = {0};
        if (!line[i].len) {
            ck_assert_int_eq(keys_new(given[i].label, &k, &line[i], &err), 0);
            snprintf(key[i], sizeof key[i], "%s", k.data);
            buf_release(&k);
        }
        int head = (int)(strstr(line[i].data, "scopes=") - line[i].data);
        buf_printf(&text, "%.*sscopes=%s\n", head, line[i].data, given[i].scopes);
    }
    write_file(file, text.data ? text.data : "", text.len);
    buf_release(&text);
}

static void up(void)
{
    snprintf(file, sizeof file, "%s", path_join(temp_dir(), "keys"));
    write_keys(KEYS);
    daemon_start(&srv, daemon_tiny_model(),
                 (const char *[]){"--api-keys-file", file, "--cors-origins",
                                  PAGE ", http://localhost:3000", NULL});
}

/* "Authorization: Bearer KEY" and more headers. */
static const char *bearer(const char *k, const char *more)
{
    static char headers[400];
    snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n%s", k, more);
    return headers;
}

static int ask(struct httpc *c, const char *method, const char *path, const char *headers,
               const char *body)
{
    httpc_open(c, srv.port);
    httpc_send(c, method, path, headers, body, body ? strlen(body) : 0);
    return httpc_read(c, 30000);
}

/* Status and error code of one exchange. */
static void expect(const char *method, const char *path, const char *headers, const char *body,
                   int status, const char *code)
{
    struct httpc c;
    int got = ask(&c, method, path, headers, body);
    ck_assert_msg(got == status, "%s %s: %d, expected %d: %s", method, path, got, status,
                  c.body.len ? c.body.data : "");
    if (code) {
        json_t *v = json_loads(c.body.data, 0, NULL);
        ck_assert_str_eq(json_str(v, "error.code"), code);
        json_decref(v);
        ck_assert_ptr_nonnull(httpc_header(&c, "X-Request-Id"));
    }
    if (status == 401) ck_assert_str_eq(httpc_header(&c, "WWW-Authenticate"), "Bearer");
    httpc_close(&c);
}

static const char COMPLETE[] = "{\"prompt\":[1,2,3],\"max_tokens\":2,\"ignore_eos\":true}";
static const char SCORE[] = "{\"input\":[1,2,3,4]}";

START_TEST(a_key_is_asked_for)
{
    static const char *const open[] = {"/livez", "/readyz", "/startupz", "/"};
    static const char *const shut[] = {
        "/health",       "/metrics",        "/version", "/v1/models",     "/v1/models/x",
        "/openapi.json", "/tokenizer_info", "/nowhere", "/../etc/passwd", "/v1/../livez"};
    for (size_t i = 0; i < sizeof open / sizeof *open; i++)
        expect("GET", open[i], "", NULL, 200, NULL);
    for (size_t i = 0; i < sizeof shut / sizeof *shut; i++)
        expect("GET", shut[i], "", NULL, 401, "invalid_api_key");
    expect("GET", "/v2/health/live", "", NULL, 401, NULL); /* errors of KServe's form */
    expect("GET", "/version", bearer(key[SCORER], ""), NULL, 200, NULL);
    expect("GET", "/metrics", bearer(key[SCORER], ""), NULL, 200, NULL);
    expect("GET", "/nowhere", bearer(key[SCORER], ""), NULL, 404, "not_found");
    expect("GET", "/v1/../livez", bearer(key[SCORER], ""), NULL, 404, "not_found");
    expect("POST", "/v1/completions", "", COMPLETE, 401, "invalid_api_key");
    expect("POST", "/v1/completions", bearer(key[ALICE], ""), COMPLETE, 200, NULL);
}
END_TEST

START_TEST(wrong_keys_are_wrong)
{
    char k[120];
    expect("POST", "/v1/completions", "Authorization: Bearer \r\n", COMPLETE, 401,
           "invalid_api_key");
    expect("POST", "/v1/completions", "Authorization: Basic YTpi\r\n", COMPLETE, 401,
           "invalid_api_key");
    snprintf(k, sizeof k, "%.20s", key[ALICE]);
    expect("POST", "/v1/completions", bearer(k, ""), COMPLETE, 401, "invalid_api_key");
    snprintf(k, sizeof k, "%sx", key[ALICE]);
    expect("POST", "/v1/completions", bearer(k, ""), COMPLETE, 401, "invalid_api_key");
    snprintf(k, sizeof k, "authorization:  bearer   %s\r\n", key[ALICE]);
    expect("POST", "/v1/completions", k, COMPLETE, 200, NULL);
    ck_assert(!daemon_log_has(&srv, key[ALICE]));
    ck_assert(daemon_log_has(&srv, "key=alice"));
}
END_TEST

START_TEST(scopes_separate)
{
    expect("POST", "/v1/completions", bearer(key[SCORER], ""), COMPLETE, 403, "insufficient_scope");
    expect("POST", "/v1/perplexity", bearer(key[ALICE], ""), SCORE, 403, "insufficient_scope");
    expect("POST", "/v1/perplexity", bearer(key[SCORER], ""), SCORE, 200, NULL);
    expect("POST", "/v1/completions", bearer(key[ADMIN], ""), COMPLETE, 403, "insufficient_scope");
    expect("POST", "/tokenize", bearer(key[ADMIN], ""), "{\"prompt\":\"a\"}", 200, NULL);
}
END_TEST

static void wait_log(const char *text)
{
    for (int i = 0; i < 1000 && !daemon_log_has(&srv, text); i++)
        usleep(10000);
    ck_assert_msg(daemon_log_has(&srv, text), "%s", text);
}

START_TEST(limits_are_kept_and_said)
{
    struct httpc c;
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(ask(&c, "POST", "/v1/completions", bearer(key[LIMITED], ""), COMPLETE),
                         200);
        ck_assert_str_eq(httpc_header(&c, "x-ratelimit-limit-requests"), "2");
        ck_assert_str_eq(httpc_header(&c, "x-ratelimit-remaining-requests"), i ? "0" : "1");
        ck_assert_ptr_null(httpc_header(&c, "x-ratelimit-limit-tokens"));
        httpc_close(&c);
    }
    ck_assert_int_eq(ask(&c, "POST", "/v1/completions", bearer(key[LIMITED], ""), COMPLETE), 429);
    ck_assert_ptr_nonnull(strstr(c.body.data, "rate_limit_exceeded"));
    long wait = strtol(httpc_header(&c, "Retry-After"), NULL, 10);
    ck_assert(wait >= 1 && wait <= 30);
    httpc_close(&c);
    expect("GET", "/v1/models", bearer(key[LIMITED], ""), NULL, 200, NULL); /* only POSTs count */
    /* A request's tokens count when it has ended: one may overdraw, the next one waits. */
    ck_assert_int_eq(ask(&c, "POST", "/v1/completions", bearer(key[TOKENS], ""),
                         "{\"prompt\":[1,2,3],\"max_tokens\":50,\"ignore_eos\":true}"),
                     200);
    ck_assert_str_eq(httpc_header(&c, "x-ratelimit-limit-tokens"), "10");
    ck_assert_str_eq(httpc_header(&c, "x-ratelimit-remaining-tokens"), "10");
    httpc_close(&c);
    wait_log("key=tokens");
    expect("POST", "/v1/completions", bearer(key[TOKENS], ""), COMPLETE, 429,
           "rate_limit_exceeded");
    expect("POST", "/v1/completions", bearer(key[ALICE], ""), COMPLETE, 200, NULL);
    ck_assert_int_eq(ask(&c, "GET", "/metrics", bearer(key[ADMIN], ""), NULL), 200);
    ck_assert_ptr_nonnull(
        strstr(c.body.data, "ttmd_requests_rejected_total{reason=\"rate_limit\"} 2"));
    httpc_close(&c);
}
END_TEST

/* One page of the list may read, another may not; a preflight needs no key, an error has headers, too. */
START_TEST(origins)
{
    struct httpc c;
    ck_assert_int_eq(ask(&c, "OPTIONS", "/v1/completions",
                         "Origin: " PAGE "\r\nAccess-Control-Request-Method: POST\r\n"
                         "Access-Control-Request-Headers: authorization\r\n",
                         NULL),
                     204);
    ck_assert_str_eq(httpc_header(&c, "Access-Control-Allow-Origin"), PAGE);
    ck_assert_str_eq(httpc_header(&c, "Access-Control-Allow-Headers"), "authorization");
    ck_assert_ptr_nonnull(strstr(httpc_header(&c, "Access-Control-Allow-Methods"), "POST"));
    ck_assert_str_eq(httpc_header(&c, "Vary"), "Origin, Access-Control-Request-Headers");
    httpc_close(&c);
    static const char *const foreign[] = {"https://evil.example.org", PAGE ".evil.org", "null",
                                          "http://app.example.org", "https://app.example.or"};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        char headers[100];
        snprintf(headers, sizeof headers, "Origin: %s\r\n", foreign[i]);
        ck_assert_int_eq(ask(&c, "OPTIONS", "/v1/completions", headers, NULL), 204);
        ck_assert_ptr_null(httpc_header(&c, "Access-Control-Allow-Origin"));
        ck_assert_ptr_null(httpc_header(&c, "Access-Control-Allow-Headers"));
        httpc_close(&c);
    }
    ck_assert_int_eq(ask(&c, "POST", "/v1/completions", "Origin: " PAGE "\r\n", COMPLETE), 401);
    ck_assert_str_eq(httpc_header(&c, "Access-Control-Allow-Origin"), PAGE);
    ck_assert_str_eq(httpc_header(&c, "Vary"), "Origin");
    httpc_close(&c);
    ck_assert_int_eq(ask(&c, "POST", "/v1/completions",
                         bearer(key[ALICE], "Origin: http://localhost:3000\r\n"), COMPLETE),
                     200);
    ck_assert_str_eq(httpc_header(&c, "Access-Control-Allow-Origin"), "http://localhost:3000");
    ck_assert_ptr_nonnull(
        strstr(httpc_header(&c, "Access-Control-Expose-Headers"), "x-ratelimit-reset-tokens"));
    httpc_close(&c);
    expect("OPTIONS", "/nowhere", "Origin: " PAGE "\r\n", NULL, 401, "invalid_api_key");
}
END_TEST

/* Clients send headers of their own: a page may send what it asks for, if that is a list of names. */
START_TEST(preflights_name_headers)
{
    static char headers[3000], longest[1001], longer[1002];
    memset(longest, 'x', 1000);
    memset(longer, 'x', 1001);
    const struct {
        const char *asked;
        bool echoed;
    } cases[] = {
        {"authorization,content-type,x-stainless-arch,x-stainless-os", true},
        {"X-A, X-B,\tX_C", true},
        {longest, true},
        {longer, false},
        {"x-a; x-b", false},
        {"x-a\"", false},
        {"x-\xc3\xa4", false},
        {"", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct httpc c;
        snprintf(headers, sizeof headers,
                 "Origin: " PAGE
                 "\r\nAccess-Control-Request-Method: POST\r\n"
                 "Access-Control-Request-Headers: %s\r\n",
                 cases[i].asked);
        ck_assert_int_eq(ask(&c, "OPTIONS", "/v1/completions", headers, NULL), 204);
        const char *said = httpc_header(&c, "Access-Control-Allow-Headers");
        ck_assert_str_eq(said, cases[i].echoed
                                   ? cases[i].asked
                                   : "Authorization, Content-Type, X-Request-Id, Prefer");
        httpc_close(&c);
    }
}
END_TEST

/* Only OPTIONS itself is answered without a key; a message has the whole name of another. */
START_TEST(methods_that_begin_like_others)
{
    struct httpc c;
    expect("OPTIONSFOO", "/v1/completions", "", NULL, 401, "invalid_api_key");
    expect("OPTIONSFOO", "/v1/completions", bearer(key[ALICE], ""), NULL, 405,
           "method_not_allowed");
    ck_assert_int_eq(ask(&c, "PROPFINDALL", "/version", bearer(key[ALICE], ""), NULL), 405);
    ck_assert_ptr_nonnull(strstr(c.body.data, "PROPFINDALL is not allowed on /version"));
    httpc_close(&c);
    expect("OPTIONSOPTIONSOPTIONSOPTIONSOPTIONSOPTIONS", "/version", "", NULL, 401, NULL);
}
END_TEST

/* What a proxy in front might cut elsewhere is no request: the connection ends with the answer. */
START_TEST(ends_in_doubt)
{
    static const char *const pairs[] = {
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nContent-Length: 40\r\n",
        "Content-Length: 4\r\nContent-Length: 4\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct httpc c;
        char text[600];
        snprintf(text, sizeof text,
                 "POST /tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n"
                 "0\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n",
                 key[ALICE], pairs[i], key[ALICE]);
        httpc_open(&c, srv.port);
        httpc_write(&c, text, strlen(text));
        int status = httpc_read(&c, 10000);
        ck_assert_msg(status == 400 || status == 413 || status == 0, "%s: %d", pairs[i], status);
        /* and nothing comes of what follows */
        ck_assert_msg(httpc_head(&c, 10000) == 0, "%s: a second answer", pairs[i]);
        httpc_close(&c);
    }
    expect("GET", "/version", bearer(key[ALICE], ""), NULL, 200, NULL);
}
END_TEST

/* How a request is put, whatever it asks for: one answer, and JSON. */
START_TEST(put_oddly)
{
    static const struct {
        const char *line, *hosts;
        int status;
        const char *says;
    } cases[] = {
        {"GET /livez HTTP/1.1", "", 400, "there is no Host header"},
        {"GET /livez HTTP/1.0", "", 200, "ok"},
        {"GET /livez HTTP/1.1", "Host: a\r\nHost: a\r\n", 400, "several Host headers"},
        {"GET /livez HTTP/1.0", "Host: a\r\nHost: b\r\n", 400, "several Host headers"},
        {"GET http://a/livez HTTP/1.1", "Host: b\r\n", 200, "ok"},
        {"GET HTTPS://a:80/livez?x=http://y HTTP/1.1", "Host: b\r\n", 200, "ok"},
        {"GET http://a HTTP/1.1", "Host: a\r\n", 200, "<!doctype html>"},
        {"GET http:/livez HTTP/1.1", "Host: a\r\n", 401, "an API key is needed"},
        {"GET /li%76ez HTTP/1.1", "Host: a\r\n", 200, "ok"},
        {"GET /livez%00x HTTP/1.1", "Host: a\r\n", 400, "the path holds a NUL byte"},
        {"GET /livez%0 HTTP/1.1", "Host: a\r\n", 401, "an API key is needed"},
        {"GET /livez HTTP/1.1", "Host: a\r\nContent-Length : 4\r\n", 400, "holds white space"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct httpc c;
        char text[200];
        snprintf(text, sizeof text, "%s\r\n%sConnection: close\r\n\r\n", cases[i].line,
                 cases[i].hosts);
        httpc_open(&c, srv.port);
        httpc_write(&c, text, strlen(text));
        int status = httpc_read(&c, 10000);
        ck_assert_msg(status == cases[i].status, "%s %s: %d", cases[i].line, cases[i].hosts,
                      status);
        ck_assert_msg(strstr(c.body.data, cases[i].says) != NULL, "%s %s: %s", cases[i].line,
                      cases[i].hosts, c.body.data);
        ck_assert_ptr_nonnull(httpc_header(&c, "X-Request-Id"));
        ck_assert_msg(httpc_head(&c, 10000) == 0, "%s %s: a second answer", cases[i].line,
                      cases[i].hosts);
        httpc_close(&c);
    }
}
END_TEST

START_TEST(keys_are_read_again)
{
    expect("POST", "/v1/completions", bearer(key[ALICE], ""), COMPLETE, 200, NULL);
    write_file(file, "alice sha256=1234\n", 18);
    kill(srv.pid, SIGHUP);
    wait_log("API keys stay as they were");
    expect("POST", "/v1/completions", bearer(key[ALICE], ""), COMPLETE, 200, NULL);
    write_file(file, "", 0);
    kill(srv.pid, SIGHUP);
    wait_log("API keys read keys=0");
    expect("POST", "/v1/completions", bearer(key[ALICE], ""), COMPLETE, 401, "invalid_api_key");
    write_keys(KEYS);
    kill(srv.pid, SIGHUP);
    wait_log("API keys read keys=5");
    expect("POST", "/v1/completions", bearer(key[ALICE], ""), COMPLETE, 200, NULL);
}
END_TEST

/* A file that would be waited for without end: requests are served, the keys stay, and the daemon ends when
 * it is told to (server_down() sees to that). */
START_TEST(keys_that_block)
{
    ck_assert_int_eq(remove(file), 0);
    ck_assert_int_eq(mkfifo(file, 0600), 0);
    kill(srv.pid, SIGHUP);
    wait_log("a regular file was expected");
    expect("GET", "/livez", "", NULL, 200, NULL);
    expect("POST", "/v1/completions", bearer(key[ALICE], ""), COMPLETE, 200, NULL);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("access");
    TCase *t = tcase_create("keys");
    tcase_add_unchecked_fixture(t, up, server_down);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_key_is_asked_for);
    tcase_add_test(t, wrong_keys_are_wrong);
    tcase_add_test(t, scopes_separate);
    tcase_add_test(t, limits_are_kept_and_said);
    tcase_add_test(t, origins);
    tcase_add_test(t, preflights_name_headers);
    tcase_add_test(t, methods_that_begin_like_others);
    tcase_add_test(t, ends_in_doubt);
    tcase_add_test(t, put_oddly);
    tcase_add_test(t, keys_are_read_again);
    tcase_add_test(t, keys_that_block);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
