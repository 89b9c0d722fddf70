/* The HTTP thread's side of a request. MHD calls handler_access() once for the headers, then for each
 * piece of the body, then once more; and again whenever the suspended connection is resumed. Nothing here
 * parses a body, waits, or computes: the thread also serves the health probes.
 *
 * What can be refused is refused at the headers: unknown path, wrong method, no model yet, no place, too
 * large. A refusal that leaves a body unread makes MHD close the connection; see watcher_linger(). */
#include "server/handler.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "server/access.h"
#include "server/framing.h"
#include "server/headers.h"
#include "server/metrics.h"
#include "server/request.h"
#include "server/stream.h"
#include "server/watcher.h"
#include "server/worker.h"
#include "server/served.h"

static void add_header(void *resp, const char *name, const char *value)
{
    MHD_add_response_header(resp, name, value);
}

static enum MHD_Result queue(struct request *r, struct MHD_Response *resp, int status,
                             const struct reply *reply)
{
    char number[16];
    if (!resp) return MHD_NO;
    headers_put(r, strcmp(r->method, "OPTIONS") == 0, add_header, resp);
    if (reply) {
        if (reply->allow) MHD_add_response_header(resp, "Allow", reply->allow);
        for (size_t i = 0; i < reply->n_headers; i++)
            MHD_add_response_header(resp, reply->headers[i].name, reply->headers[i].value);
        if (reply->no_retry) MHD_add_response_header(resp, "x-should-retry", "false");
        if (reply->retry_after_s) {
            snprintf(number, sizeof number, "%d", reply->retry_after_s);
            MHD_add_response_header(resp, "Retry-After", number);
        }
    }
    /* From the signal on: the delay is for clients and balancers to take kept connections elsewhere. */
    if ((reply && reply->close) || atomic_load(&r->srv->draining))
        MHD_add_response_header(resp, "Connection", "close");
    r->status = status;
    enum MHD_Result rc = MHD_queue_response(r->conn, (unsigned)status, resp);
    MHD_destroy_response(resp);
    double stall = r->srv->cfg->write_timeout_s;
    if (stall > 0)
        MHD_set_connection_option(r->conn, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)ceil(stall));
    return rc;
}

/* Where the time of a whole answer went, for a browser's tools. A stream says it in its last event: its
 * headers leave before there is anything to tell. */
static void add_timing(const struct request *r, struct MHD_Response *resp)
{
    char text[160];
    double total_ms = (double)(clock_ns() - r->start_ns) / CLOCK_NS_PER_MS;
    if (r->n_slots && r->reply.status == 200)
        snprintf(text, sizeof text,
                 "queue;dur=%.1f, prefill;dur=%.1f, decode;dur=%.1f, total;dur=%.1f", r->queue_ms,
                 r->prefill_ms, r->decode_ms, total_ms);
    else
        snprintf(text, sizeof text, "total;dur=%.1f", total_ms);
    MHD_add_response_header(resp, "Server-Timing", text);
}

static enum MHD_Result queue_reply(struct request *r)
{
    struct reply *reply = &r->reply;
    const char *type = reply->content_type ? reply->content_type : "application/json";
    size_t len = reply->body.len;
    struct MHD_Response *resp =
        MHD_create_response_from_buffer(len, buf_take(&reply->body), MHD_RESPMEM_MUST_FREE);
    if (resp && len) MHD_add_response_header(resp, "Content-Type", type);
    if (resp) add_timing(r, resp);
    return queue(r, resp, reply->status, reply);
}

static bool sane_id(const char *s)
{
    size_t n = strlen(s);
    return n > 0 && n <= 64 &&
           strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-") == n;
}

static void choose_id(struct request *r)
{
    const char *given = MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, "X-Request-Id");
    if (given && sane_id(given))
        snprintf(r->id, sizeof r->id, "%s", given);
    else
        snprintf(r->id, sizeof r->id, "req-%016llx", (unsigned long long)rng_entropy());
}

/* RFC 7240: "Prefer: handling=strict" asks of this one request what the key `strict` asks of all. */
static bool prefers_strict(struct MHD_Connection *conn)
{
    const char *prefer = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Prefer");
    static const char want[] = "handling=strict";
    for (const char *at = prefer; at && *at; at += strcspn(at, ","), at += *at == ',') {
        at += strspn(at, " \t");
        size_t n = sizeof want - 1;
        if (strncasecmp(at, want, n) == 0 && (!at[n] || strchr(" \t,;", at[n]))) return true;
    }
    return false;
}

static void refuse(struct request *r, enum api_code code, const char *message)
{
    struct api_error e = {0};
    api_fail(&e, code, NULL, "%s", message);
    reply_error(r, &r->reply, &e);
}

static bool refuse_framing(struct request *r, const char *version, const char *path)
{
    const char *fault = framing_fault(r->conn, version, path);
    if (!fault) return false;
    refuse(r, API_INVALID_VALUE, fault);
    r->reply.close = true;
    return true;
}

/* A browser's preflight carries no key. */
static bool refuse_access(struct request *r)
{
    if (r->route && strcmp(r->method, "OPTIONS") == 0) return false;
    return access_refuses(r->srv->access, r);
}

static bool refuse_unknown(struct request *r, const char *path)
{
    char message[256];
    snprintf(message, sizeof message, "no such path: %.200s", path);
    refuse(r, API_NOT_FOUND, message);
    return true;
}

/* Path and method; true when the reply is made. */
static bool refuse_path(struct request *r, const char *path)
{
    char message[256];
    if (!r->route) return refuse_unknown(r, path);
    bool options = strcmp(r->method, "OPTIONS") == 0;
    bool fits = r->route->post ? strcmp(r->method, "POST") == 0
                               : strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0;
    if (fits) return false;
    /* A model that is not served has no methods: /v2/models/m/infer is none of ours. */
    bool other = *r->rest && strcmp(r->rest, r->srv->model_id) != 0;
    if (options) {
        r->reply.ready = true;
        r->reply.status = 204;
    } else if (other) {
        return refuse_unknown(r, path);
    } else {
        snprintf(message, sizeof message, "%s is not allowed on %.200s", r->method, path);
        refuse(r, API_METHOD_NOT_ALLOWED, message);
    }
    r->reply.allow = r->route->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
    return true;
}

static bool refuse_state(struct request *r)
{
    struct server *s = r->srv;
    if (!r->route->needs_model) return false;
    if (atomic_load(&s->refusing)) {
        metrics_reject(s->metrics, REJECT_SHUTTING_DOWN);
        refuse(r, API_SHUTTING_DOWN, "the server is shutting down");
        return true;
    }
    if (!r->model) {
        metrics_reject(s->metrics, REJECT_LOADING);
        refuse(r, API_LOADING, "the model is still being loaded");
        return true;
    }
    return false;
}

static unsigned long long announced(const struct request *r)
{
    const char *length = MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, "Content-Length");
    return length ? strtoull(length, NULL, 10) : 0;
}

/* Of any request: what is no POST's is read and thrown away, but not without end. */
static bool refuse_length(struct request *r)
{
    struct server *s = r->srv;
    char message[160];
    unsigned long long bytes = announced(r);
    if (bytes <= (unsigned long long)s->cfg->max_body_bytes) return false;
    metrics_reject(s->metrics, REJECT_TOO_LARGE);
    snprintf(message, sizeof message, "the body has %llu bytes: at most %lld are accepted", bytes,
             (long long)s->cfg->max_body_bytes);
    refuse(r, API_TOO_LARGE, message);
    r->reply.close = true;
    return true;
}

static void refuse_bodies(struct request *r)
{
    char message[160];
    metrics_reject(r->srv->metrics, REJECT_BODIES_FULL);
    snprintf(message, sizeof message,
             "the bodies of all requests in flight have %zu bytes, at most %zu are accepted: try "
             "again later",
             atomic_load(&r->srv->body_bytes), r->srv->max_bodies_bytes);
    refuse(r, API_OVERLOADED, message);
}

static bool refuse_place(struct request *r)
{
    struct server *s = r->srv;
    char message[160];
    if (!request_fits(s, announced(r))) {
        refuse_bodies(r);
        return true;
    }
    if (request_take_place(r)) return false;
    metrics_reject(s->metrics, REJECT_QUEUE_FULL);
    snprintf(message, sizeof message, "all %d places are taken: try again later", s->max_places);
    refuse(r, API_OVERLOADED, message);
    return true;
}

static struct connection *connection_of(struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return i ? i->socket_context : NULL;
}

static bool has_body(struct MHD_Connection *conn)
{
    const char *length = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Content-Length");
    return MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Transfer-Encoding") ||
           (length && strcmp(length, "0") != 0);
}

static enum MHD_Result on_headers(struct server *s, struct MHD_Connection *conn, const char *url,
                                  const char *method, const char *version, void **con_cls)
{
    const char *path = framing_path(url);
    struct request *r = request_new(s, conn, method, path);
    struct connection *c = connection_of(conn);
    if (c) watcher_busy(s->watcher, c);
    const union MHD_ConnectionInfo *ci =
        MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    *con_cls = r;
    r->fd = ci ? ci->connect_fd : -1;
    choose_id(r);
    r->strict = prefers_strict(conn);
    bool body = has_body(conn);
    access_origin(s->access, r);
    bool refused = refuse_framing(r, version, path) || refuse_access(r) || refuse_path(r, path) ||
                   refuse_state(r) || refuse_length(r) || (r->route->post && refuse_place(r));
    if (refused && body) {
        if (r->fd >= 0) watcher_linger(s->watcher, r->fd);
        r->state = REQ_REPLIED;
        return queue_reply(r);
    }
    if (!refused && (r->route->post || body)) watcher_add(s->watcher, r);
    return MHD_YES; /* without a body, answering at the last call keeps the connection usable */
}

static void refuse_midway(struct request *r, bool too_large)
{
    if (too_large) {
        metrics_reject(r->srv->metrics, REJECT_TOO_LARGE);
        refuse(r, API_TOO_LARGE, "the body is larger than accepted");
        r->reply.close = true;
    } else {
        refuse_bodies(r);
    }
    request_drop_body_locked(r);
    request_release_place_locked(r);
}

/* Kept are the bytes of who holds a place, and so of few; others' are read and thrown away: a probe may come
 * from anybody, with any body. A refusal in mid-upload is said at its end: MHD takes no answer before. */
static void on_body(struct request *r, const char *bytes, size_t n)
{
    pthread_mutex_lock(&r->lock);
    size_t most = (size_t)r->srv->cfg->max_body_bytes;
    if (r->has_place && !r->reply.ready) {
        bool too_large = n > most - r->body.len;
        /* Room for all at once: a buffer that grows leaves holes. Pages without bytes are not resident. */
        if (!r->body.len && !too_large) buf_reserve(&r->body, announced(r));
        if (too_large || !request_take_body_locked(r, bytes, n)) refuse_midway(r, too_large);
    }
    pthread_mutex_unlock(&r->lock);
}

/* What to do when MHD asks. Decided under the request's lock, done without it: MHD locks a response
 * around stream_read(), which takes the request's lock. */
enum action { DROP, WAIT, REPLY, STREAM };

/* The body is complete: answer, or hand over to the worker and sleep. Lock held. */
static enum action on_complete(struct request *r)
{
    if (r->reply.ready) return REPLY;
    if (r->route->get) {
        r->route->get(r, r->rest, &r->reply);
        return REPLY;
    }
    r->state = REQ_WORK;
    worker_push(r->srv->worker, r);
    return WAIT;
}

static enum action on_resumed(const struct request *r)
{
    if (r->cancel == CANCEL_GONE) return DROP;
    if (r->stream_ready) return STREAM;
    if (r->reply.ready) return REPLY;
    return atomic_load(&r->srv->stopping) ? DROP : WAIT;
}

static enum action decide(struct request *r)
{
    enum action act = DROP;
    if (r->state == REQ_UPLOAD && r->cancel != CANCEL_GONE)
        act = on_complete(r);
    else if (r->state == REQ_WORK)
        act = on_resumed(r);
    if (act == REPLY) r->state = REQ_REPLIED;
    if (act == STREAM) r->state = REQ_STREAM;
    if (act == WAIT) { /* under the lock that whoever resumes it takes */
        r->suspended = true;
        MHD_suspend_connection(r->conn);
    }
    return act;
}

enum MHD_Result handler_access(void *cls, struct MHD_Connection *conn, const char *url,
                               const char *method, const char *version, const char *upload,
                               size_t *upload_size, void **con_cls)
{
    struct request *r = *con_cls;
    if (!r) return on_headers(cls, conn, url, method, version, con_cls);
    if (*upload_size) {
        on_body(r, upload, *upload_size);
        *upload_size = 0;
        return MHD_YES;
    }
    pthread_mutex_lock(&r->lock);
    enum action act = decide(r);
    pthread_mutex_unlock(&r->lock);
    if (act == REPLY) return queue_reply(r);
    if (act == STREAM) return queue(r, stream_response(r), 200, NULL);
    return act == WAIT ? MHD_YES : MHD_NO;
}

void handler_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
                       enum MHD_RequestTerminationCode toe)
{
    struct server *s = cls;
    struct request *r = *con_cls;
    if (!r) return;
    *con_cls = NULL;
    watcher_remove(s->watcher, r);
    pthread_mutex_lock(&r->lock);
    bool ended = r->state == REQ_REPLIED || (r->state == REQ_STREAM && r->out_end);
    if (!ended && r->route && r->route->post) request_cancel_locked(r, CANCEL_GONE);
    pthread_mutex_unlock(&r->lock);
    if (toe == MHD_REQUEST_TERMINATED_COMPLETED_OK) {
        struct connection *c = connection_of(conn);
        if (c) watcher_idle(s->watcher, c);
        MHD_set_connection_option(conn, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
    }
    request_unref(r);
}
