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

#include "engine/base/rng.h"
#include "server/metrics.h"
#include "server/request.h"
#include "server/stream.h"
#include "server/watcher.h"
#include "server/worker.h"

/* The one place where headers common to all answers are added. */
static enum MHD_Result queue(struct request *r, struct MHD_Response *resp, int status,
                             const struct reply *reply)
{
    char number[16];
    if (!resp) return MHD_NO;
    MHD_add_response_header(resp, "X-Request-Id", r->id);
    if (reply) {
        if (reply->allow) MHD_add_response_header(resp, "Allow", reply->allow);
        if (reply->no_retry) MHD_add_response_header(resp, "x-should-retry", "false");
        if (reply->retry_after_s) {
            snprintf(number, sizeof number, "%d", reply->retry_after_s);
            MHD_add_response_header(resp, "Retry-After", number);
        }
    }
    if ((reply && reply->close) || atomic_load(&r->srv->refusing))
        MHD_add_response_header(resp, "Connection", "close");
    r->status = status;
    enum MHD_Result rc = MHD_queue_response(r->conn, (unsigned)status, resp);
    MHD_destroy_response(resp);
    double stall = r->srv->cfg->write_timeout_s;
    if (stall > 0)
        MHD_set_connection_option(r->conn, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)ceil(stall));
    return rc;
}

static enum MHD_Result queue_reply(struct request *r)
{
    struct reply *reply = &r->reply;
    const char *type = reply->content_type ? reply->content_type : "application/json";
    size_t len = reply->body.len;
    struct MHD_Response *resp =
        MHD_create_response_from_buffer(len, buf_take(&reply->body), MHD_RESPMEM_MUST_FREE);
    if (resp && len) MHD_add_response_header(resp, "Content-Type", type);
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

static void refuse(struct request *r, enum api_code code, const char *message)
{
    struct api_error e = {0};
    api_fail(&e, code, NULL, "%s", message);
    reply_error(&r->reply, &e);
}

/* Path and method; true when the reply is made. */
static bool refuse_path(struct request *r, const char *path)
{
    char message[256];
    if (!r->route) {
        snprintf(message, sizeof message, "no such path: %.200s", path);
        refuse(r, API_NOT_FOUND, message);
        return true;
    }
    bool options = strcmp(r->method, "OPTIONS") == 0;
    bool fits = r->route->post ? strcmp(r->method, "POST") == 0
                               : strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0;
    if (fits) return false;
    if (options) {
        r->reply.ready = true;
        r->reply.status = 204;
    } else {
        snprintf(message, sizeof message, "%s is not allowed on %.200s", r->method, r->route->path);
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
    if (!server_engine(s)) {
        metrics_reject(s->metrics, REJECT_LOADING);
        refuse(r, API_LOADING, "the model is still being loaded");
        return true;
    }
    return false;
}

static bool refuse_post(struct request *r)
{
    struct server *s = r->srv;
    char message[160];
    const char *length = MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, "Content-Length");
    unsigned long long bytes = length ? strtoull(length, NULL, 10) : 0;
    if (bytes > (unsigned long long)s->cfg->max_body_bytes) {
        metrics_reject(s->metrics, REJECT_TOO_LARGE);
        snprintf(message, sizeof message, "the body has %llu bytes: at most %lld are accepted",
                 bytes, (long long)s->cfg->max_body_bytes);
        refuse(r, API_TOO_LARGE, message);
        r->reply.close = true;
        return true;
    }
    if (request_take_place(r)) return false;
    metrics_reject(s->metrics, REJECT_QUEUE_FULL);
    snprintf(message, sizeof message, "all %d places are taken: try again later", s->max_places);
    refuse(r, API_OVERLOADED, message);
    return true;
}

static bool has_body(struct MHD_Connection *conn)
{
    const char *length = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Content-Length");
    return MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Transfer-Encoding") ||
           (length && strcmp(length, "0") != 0);
}

static enum MHD_Result on_headers(struct server *s, struct MHD_Connection *conn, const char *path,
                                  const char *method, void **con_cls)
{
    struct request *r = request_new(s, conn, method, path);
    const union MHD_ConnectionInfo *ci =
        MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    *con_cls = r;
    r->fd = ci ? ci->connect_fd : -1;
    choose_id(r);
    bool body = has_body(conn);
    bool refused = refuse_path(r, path) || refuse_state(r) || (r->route->post && refuse_post(r));
    if (refused && body) {
        if (r->fd >= 0) watcher_linger(s->watcher, r->fd);
        r->state = REQ_REPLIED;
        return queue_reply(r);
    }
    if (!refused && (r->route->post || body)) watcher_add(s->watcher, r);
    return MHD_YES; /* without a body, answering at the last call keeps the connection usable */
}

static void on_body(struct request *r, const char *bytes, size_t n)
{
    pthread_mutex_lock(&r->lock);
    size_t most = (size_t)r->srv->cfg->max_body_bytes;
    if (!r->discard && n > most - r->body.len) {
        r->discard = true;
        buf_release(&r->body);
    }
    if (!r->discard && !r->reply.ready) buf_append(&r->body, bytes, n);
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
    if (r->discard) {
        metrics_reject(r->srv->metrics, REJECT_TOO_LARGE);
        refuse(r, API_TOO_LARGE, "the body is larger than accepted");
        r->reply.close = true;
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
    (void)version;
    struct request *r = *con_cls;
    if (!r) return on_headers(cls, conn, url, method, con_cls);
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
    double idle = s->cfg->idle_timeout_s;
    if (toe == MHD_REQUEST_TERMINATED_COMPLETED_OK)
        MHD_set_connection_option(conn, MHD_CONNECTION_OPTION_TIMEOUT,
                                  (unsigned)ceil(idle > 0 ? idle : 0));
    request_unref(r);
}
