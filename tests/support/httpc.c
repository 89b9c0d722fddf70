/* The tests' HTTP client. Only what the tests need, but exact about it: chunked bodies are decoded
 * incrementally, so that a test sees an event when it arrives and not when the answer ends. */
#include "tests/support/httpc.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"

bool httpc_connect(struct httpc *c, int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *c = (struct httpc){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    return c->fd >= 0 && connect(c->fd, (struct sockaddr *)&a, sizeof a) == 0;
}

void httpc_open(struct httpc *c, int port)
{
    ck_assert_msg(httpc_connect(c, port), "connect to port %d: %s", port, strerror(errno));
}

void httpc_close(struct httpc *c)
{
    if (c->fd >= 0) close(c->fd);
    buf_release(&c->in);
    buf_release(&c->head);
    buf_release(&c->body);
    *c = (struct httpc){.fd = -1};
}

void httpc_reset(struct httpc *c)
{
    struct linger l = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    httpc_close(c);
}

void httpc_half_close(struct httpc *c)
{
    shutdown(c->fd, SHUT_WR);
}

bool httpc_write(struct httpc *c, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n > 0) {
        ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

bool httpc_send(struct httpc *c, const char *method, const char *path, const char *headers,
                const char *body, size_t len)
{
    struct buf b = {0};
    buf_printf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s", method, path, headers);
    if (body) buf_printf(&b, "Content-Length: %zu\r\n", len);
    buf_puts(&b, "\r\n");
    if (body) buf_append(&b, body, len);
    bool ok = httpc_write(c, b.data, b.len);
    buf_release(&b);
    return ok;
}

/* More bytes into c->in; 1 got some, 0 the end, -1 timeout. */
static int fill(struct httpc *c, uint64_t deadline)
{
    char bytes[65536];
    if (c->eof) return 0;
    uint64_t now = clock_ns();
    if (now >= deadline) return -1;
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    int rc = poll(&p, 1, (int)((deadline - now) / 1000000) + 1);
    if (rc == 0) return -1;
    ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
    if (n <= 0) {
        c->eof = true;
        return 0;
    }
    buf_append(&c->in, bytes, (size_t)n);
    return 1;
}

static uint64_t deadline_in(int ms)
{
    return clock_ns() + (uint64_t)ms * 1000000u;
}

const char *httpc_header(const struct httpc *c, const char *name)
{
    static _Thread_local char value[1024];
    size_t n = strlen(name);
    for (const char *p = c->head.data ? strchr(c->head.data, '\n') : NULL; p && p[1];
         p = strchr(p + 1, '\n')) {
        if (strncasecmp(p + 1, name, n) != 0 || p[1 + n] != ':') continue;
        const char *v = p + 2 + n;
        v += strspn(v, " ");
        snprintf(value, sizeof value, "%.*s", (int)strcspn(v, "\r\n"), v);
        return value;
    }
    return NULL;
}

static void begin_body(struct httpc *c, bool no_body)
{
    const char *length = httpc_header(c, "Content-Length");
    long long n = length ? strtoll(length, NULL, 10) : -2;
    const char *te = httpc_header(c, "Transfer-Encoding");
    c->left = te && strcasecmp(te, "chunked") == 0 ? -1 : n;
    c->ended = no_body || c->left == 0;
}

/* One chunk out of c->in; false when it is not complete yet. */
static bool take_chunk(struct httpc *c)
{
    char *start = c->in.data + c->pos;
    size_t have = c->in.len - c->pos;
    char *eol = have ? memmem(start, have, "\r\n", 2) : NULL;
    if (!eol) return false;
    size_t size = strtoul(start, NULL, 16), head = (size_t)(eol - start) + 2;
    if (have < head + size + 2) return false;
    if (size == 0)
        c->ended = true;
    else
        buf_append(&c->body, start + head, size);
    c->pos += head + size + 2;
    return true;
}

/* Some more of the body: 1 progress, 0 ended, -1 timeout. */
static int body_more(struct httpc *c, uint64_t deadline)
{
    for (;;) {
        if (c->ended) return 0;
        size_t have = c->in.len - c->pos;
        if (c->left == -1 && have && take_chunk(c)) return 1;
        if (c->left != -1 && have) {
            size_t n = c->left >= 0 && have > (size_t)c->left ? (size_t)c->left : have;
            buf_append(&c->body, c->in.data + c->pos, n);
            c->pos += n;
            if (c->left >= 0) c->left -= (long long)n;
            if (c->left == 0) c->ended = true;
            return 1;
        }
        int rc = fill(c, deadline);
        if (rc == 0) c->ended = true;
        if (rc <= 0) return rc;
    }
}

/* What is left of the answer before, on a connection that is kept: a stream is read to its last event, not to
 * the chunk behind it that ends it. */
static int rest_of_body(struct httpc *c, uint64_t deadline)
{
    int rc = 1;
    while (rc > 0 && c->status >= 200 && !c->ended && c->left != -2)
        rc = body_more(c, deadline);
    return rc;
}

static int read_head(struct httpc *c, uint64_t deadline)
{
    int left = rest_of_body(c, deadline);
    if (left < 0) return left;
    for (;;) {
        char *start = c->in.data ? c->in.data + c->pos : NULL;
        char *end = start ? memmem(start, c->in.len - c->pos, "\r\n\r\n", 4) : NULL;
        if (end) {
            size_t n = (size_t)(end - start) + 2;
            buf_clear(&c->head);
            buf_append(&c->head, start, n);
            c->pos += n + 2;
            bool http = n > 9 && strncmp(c->head.data, "HTTP/1.1 ", 9) == 0;
            c->status = http ? (int)strtol(c->head.data + 9, NULL, 10) : 0;
            if (c->status == 100) continue;
            buf_clear(&c->body);
            c->body_pos = 0;
            begin_body(c, c->status == 204 || c->status == 304);
            return c->status;
        }
        int rc = fill(c, deadline);
        if (rc <= 0) return rc;
    }
}

int httpc_head(struct httpc *c, int timeout_ms)
{
    return read_head(c, deadline_in(timeout_ms));
}

int httpc_read(struct httpc *c, int timeout_ms)
{
    uint64_t deadline = deadline_in(timeout_ms);
    int status = read_head(c, deadline), rc = 1;
    if (status <= 0) return status;
    while (rc > 0)
        rc = body_more(c, deadline);
    return rc < 0 ? -1 : status;
}

char *httpc_event(struct httpc *c, int timeout_ms)
{
    uint64_t deadline = deadline_in(timeout_ms);
    for (;;) {
        char *start = c->body.data ? c->body.data + c->body_pos : NULL;
        char *end = start ? memmem(start, c->body.len - c->body_pos, "\n\n", 2) : NULL;
        if (end) {
            c->body_pos += (size_t)(end - start) + 2;
            return strndup(start, (size_t)(end - start));
        }
        if (body_more(c, deadline) <= 0) return NULL;
    }
}

int http_get(struct httpc *c, int port, const char *path)
{
    httpc_open(c, port);
    ck_assert(httpc_send(c, "GET", path, "", NULL, 0));
    return httpc_read(c, 30000);
}

int http_post(struct httpc *c, int port, const char *path, const char *json)
{
    httpc_open(c, port);
    httpc_send(c, "POST", path, "Content-Type: application/json\r\n", json, strlen(json));
    return httpc_read(c, 120000);
}

static json_t *take_json(struct httpc *c, const char *what, int got, int want)
{
    ck_assert_msg(got == want, "%.300s: status %d, expected %d: %.600s", what, got, want,
                  c->body.data ? c->body.data : "");
    json_error_t e;
    json_t *v = json_loadb(c->body.data, c->body.len, JSON_ALLOW_NUL, &e);
    ck_assert_msg(v != NULL, "%.300s: %s in %.300s", what, e.text, c->body.data);
    httpc_close(c);
    return v;
}

json_t *http_json(int port, const char *path, int status, const char *json_fmt, ...)
{
    char *body = NULL;
    struct httpc c;
    va_list ap;
    va_start(ap, json_fmt);
    ck_assert_int_ge(vasprintf(&body, json_fmt, ap), 0);
    va_end(ap);
    int got = http_post(&c, port, path, body);
    json_t *v = take_json(&c, body, got, status);
    free(body);
    return v;
}

json_t *http_get_json(int port, const char *path, int status)
{
    struct httpc c;
    int got = http_get(&c, port, path);
    return take_json(&c, path, got, status);
}

double http_metric(int port, const char *sample)
{
    struct httpc c;
    double v = -1;
    size_t n = strlen(sample);
    ck_assert_int_eq(http_get(&c, port, "/metrics"), 200);
    for (const char *p = c.body.data; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
        if (strncmp(p, sample, n) == 0 && p[n] == ' ') v = strtod(p + n, NULL);
    httpc_close(&c);
    return v;
}

const json_t *json_at(const json_t *v, const char *path)
{
    char key[64];
    while (v && *path) {
        size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        v = json_is_array(v) ? json_array_get(v, strtoul(key, NULL, 10)) : json_object_get(v, key);
        path += n + (path[n] == '.');
    }
    return v;
}

const char *json_str(const json_t *v, const char *path)
{
    const char *s = json_string_value(json_at(v, path));
    return s ? s : "";
}

double json_num(const json_t *v, const char *path)
{
    const json_t *n = json_at(v, path);
    return json_is_number(n) ? json_number_value(n) : NAN;
}
