#ifndef TTMD_TESTS_HTTPC_H
#define TTMD_TESTS_HTTPC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"

/* A small HTTP client on a raw socket of the loopback, for tests: can send arbitrary bytes, stop in the
 * middle, half-close, reset, and reads streams piece by piece. */
struct httpc {
    int fd;
    struct buf in; /* bytes received, not yet parsed: [pos, len) */
    size_t pos;
    /* the response being read */
    int status;
    struct buf head; /* status line and headers */
    struct buf body; /* decoded so far */
    size_t body_pos; /* events taken so far */
    long long left;  /* content length left, -1 chunked, -2 until close */
    bool ended, eof;
};

bool httpc_connect(struct httpc *c, int port); /* false: errno says why */
void httpc_open(struct httpc *c, int port);    /* the same, and a failure ends the test */
void httpc_close(struct httpc *c);
void httpc_reset(struct httpc *c);                              /* close with RST */
void httpc_half_close(struct httpc *c);                         /* FIN, reading goes on */
bool httpc_write(struct httpc *c, const void *bytes, size_t n); /* false: the peer is gone */
/* httpc_send -- a request; headers "" or "Name: value\r\n..."; body NULL: none. */
bool httpc_send(struct httpc *c, const char *method, const char *path, const char *headers,
                const char *body, size_t len);

/* httpc_head -- read status and headers; returns the status, 0 when the connection ended, -1 on timeout. */
int httpc_head(struct httpc *c, int timeout_ms);
/* httpc_read -- head and the whole body. */
int httpc_read(struct httpc *c, int timeout_ms);
/* httpc_event -- the next block of a stream up to its empty line, without it ("data: {...}" or ": ping");
 * NULL at the end or after timeout_ms. Freed by the caller. */
char *httpc_event(struct httpc *c, int timeout_ms);
/* httpc_header -- value of a header of the last response, in storage of the thread; NULL when absent. */
const char *httpc_header(const struct httpc *c, const char *name);

/* One exchange on a connection of its own. Body in *c (httpc_close() frees it). */
int http_get(struct httpc *c, int port, const char *path);
int http_post(struct httpc *c, int port, const char *path, const char *json);
/* http_json -- POST, expect the status, parse the answer (json_decref() it). */
json_t *http_json(int port, const char *path, int status, const char *json_fmt, ...)
    __attribute__((format(printf, 4, 5)));
json_t *http_get_json(int port, const char *path, int status);

/* http_metric -- value of a sample line "name{labels}" of /metrics; -1 when it is not there. */
double http_metric(int port, const char *sample);

/* Shorthands for answers: members by path "choices.0.text"; NULL when absent. */
const json_t *json_at(const json_t *v, const char *path);
const char *json_str(const json_t *v, const char *path); /* "" when absent */
double json_num(const json_t *v, const char *path);      /* NaN when absent */

#endif
