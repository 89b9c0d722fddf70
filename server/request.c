/* The life of a request. It is touched by four threads (HTTP, worker, watcher, engine), so everything that
 * changes is under its lock, and it is counted: whoever may still call back holds a reference.
 *
 * A connection that waits is suspended in MHD. It is resumed exactly when `suspended` is set, under the
 * lock that sets it: resuming a connection that is not suspended is undefined in MHD, and a wake-up
 * between "nothing to do" and "suspend" would otherwise be lost. After the first answer (whole or
 * stream) has been decided, later ones are dropped: the first wins, as with errors. */
#include "server/request.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "server/accesslog.h"
#include "server/metrics.h"
#include "server/served.h"

struct request *request_new(struct server *s, struct MHD_Connection *conn, const char *method,
                            const char *path)
{
    struct request *r = mem_calloc(1, sizeof *r);
    const char *rest;
    size_t rest_len;
    r->srv = s;
    r->conn = conn;
    r->route_index = route_find(path, &rest, &rest_len);
    r->route = r->route_index < 0 ? NULL : &routes[r->route_index];
    snprintf(r->rest, sizeof r->rest, "%.*s", (int)(rest_len < 256 ? rest_len : 256), rest);
    snprintf(r->method, sizeof r->method, "%s", method);
    r->start_ns = r->last_out_ns = clock_ns();
    r->serial = ++s->next_serial;
    r->fd = -1;
    r->model = served_take(s);
    atomic_init(&r->refs, 1);
    pthread_mutex_init(&r->lock, NULL);
    if (r->route && r->route->post) atomic_fetch_add(&s->live, 1);
    return r;
}

void request_ref(struct request *r)
{
    atomic_fetch_add(&r->refs, 1);
}

void request_unref(struct request *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1) return;
    struct server *s = r->srv;
    access_log(r);
    request_release_place_locked(r);
    meter_unref(r->grant.meter);
    for (size_t i = 0; i < r->n_room; i++)
        job_unref(r->slots[i].job);
    free(r->slots);
    if (r->task) r->route->release(r->task);
    request_drop_body_locked(r);
    buf_release(&r->reply.body);
    buf_release(&r->out);
    served_unref(r->model); /* after its jobs */
    pthread_mutex_destroy(&r->lock);
    bool post = r->route && r->route->post;
    free(r);
    if (post) atomic_fetch_sub(&s->live, 1); /* last: the server may go away after it */
}

bool request_take_place(struct request *r)
{
    struct server *s = r->srv;
    if (atomic_fetch_add(&s->places, 1) >= s->max_places) {
        atomic_fetch_sub(&s->places, 1);
        return false;
    }
    r->has_place = true;
    return true;
}

void request_release_place_locked(struct request *r)
{
    if (!r->has_place) return;
    r->has_place = false;
    atomic_fetch_sub(&r->srv->places, 1);
}

enum { BODY_FREE_BYTES = 16384 };

static size_t counted(size_t bytes)
{
    return bytes > BODY_FREE_BYTES ? bytes - BODY_FREE_BYTES : 0;
}

/* Only the HTTP thread adds, so what fits when it looks fits when it adds. */
bool request_fits(const struct server *s, unsigned long long bytes)
{
    size_t used = atomic_load(&s->body_bytes);
    return used <= s->max_bodies_bytes && counted((size_t)bytes) <= s->max_bodies_bytes - used;
}

bool request_take_body_locked(struct request *r, const char *bytes, size_t n)
{
    struct server *s = r->srv;
    size_t more = counted(r->body.len + n) - r->body_bytes;
    if (more > s->max_bodies_bytes - atomic_load(&s->body_bytes)) return false;
    atomic_fetch_add(&s->body_bytes, more);
    r->body_bytes += more;
    buf_append(&r->body, bytes, n);
    return true;
}

void request_drop_body_locked(struct request *r)
{
    buf_release(&r->body);
    atomic_fetch_sub(&r->srv->body_bytes, r->body_bytes);
    r->body_bytes = 0;
}

void request_wake_locked(struct request *r)
{
    if (!r->suspended) return;
    r->suspended = false;
    MHD_resume_connection(r->conn);
}

static void put_error(const struct request *r, const struct api_error *e, struct buf *out)
{
    if (r->route && r->route->kserve)
        api_error_flat_json(e, out);
    else
        api_error_json(e, out);
}

void reply_error(const struct request *r, struct reply *reply, const struct api_error *e)
{
    reply->ready = true;
    reply->status = api_status(e->code);
    reply->retry_after_s = api_retry_after_s(e->code);
    reply->no_retry = api_no_retry(e->code);
    reply->content_type = NULL;
    buf_clear(&reply->body);
    put_error(r, e, &reply->body);
}

void request_answer(struct request *r, struct buf *body)
{
    jobs_account(r);
    pthread_mutex_lock(&r->lock);
    if (r->reply.ready) {
        buf_release(body);
    } else {
        buf_release(&r->reply.body);
        r->reply.body = *body;
        *body = (struct buf){0};
        r->reply.status = 200;
        r->reply.ready = true;
        request_release_place_locked(r);
    }
    request_wake_locked(r);
    pthread_mutex_unlock(&r->lock);
}

static void cancel_jobs(struct request *r)
{
    for (size_t i = r->n_dropped; i < r->next_slot; i++)
        if (!jobs_slot(r, i)->done) job_cancel(jobs_slot(r, i)->job);
    if (r->outstanding == 0) request_release_place_locked(r);
}

void request_fail_locked(struct request *r, const struct api_error *e)
{
    if (r->cancel == CANCEL_NONE) {
        r->cancel = CANCEL_FAILED;
        cancel_jobs(r);
    }
    if (r->stream_ready && !r->out_end) {
        buf_puts(&r->out, "data: ");
        put_error(r, e, &r->out);
        buf_puts(&r->out, r->route->kserve ? "\n\n" : "\n\ndata: [DONE]\n\n");
        r->out_end = true;
    } else if (!r->stream_ready && !r->reply.ready) {
        reply_error(r, &r->reply, e);
    }
    request_wake_locked(r);
}

void request_fail(struct request *r, const struct api_error *e)
{
    pthread_mutex_lock(&r->lock);
    request_fail_locked(r, e);
    pthread_mutex_unlock(&r->lock);
}

void request_stream_begin(struct request *r)
{
    pthread_mutex_lock(&r->lock);
    if (!r->reply.ready) r->stream_ready = r->news = true;
    r->last_out_ns = clock_ns();
    request_wake_locked(r);
    pthread_mutex_unlock(&r->lock);
}

void request_stream_put(struct request *r, const struct buf *b, bool end)
{
    pthread_mutex_lock(&r->lock);
    if (!r->out_end) {
        if (b->len) buf_append(&r->out, b->data, b->len);
        r->out_end = end;
    }
    request_wake_locked(r);
    pthread_mutex_unlock(&r->lock);
}

/* How far the request has come: the farthest of its jobs. */
static enum metric_phase phase_of(const struct request *r)
{
    if (r->state == REQ_UPLOAD) return PHASE_UPLOAD;
    enum metric_phase phase = PHASE_QUEUED;
    if (r->n_dropped) return PHASE_PREFILL; /* some are read, more are on the way */
    for (size_t i = 0; i < r->next_slot; i++) {
        struct job_view v;
        job_view(jobs_slot(r, i)->job, &v);
        if (v.phase == JOB_DECODE || v.phase == JOB_DONE) return PHASE_DECODE;
        if (v.phase == JOB_PREFILL) phase = PHASE_PREFILL;
    }
    return phase;
}

void request_cancel_locked(struct request *r, enum cancel_cause cause)
{
    bool ended = r->stream_ready ? r->out_end : r->reply.ready;
    if (r->cancel != CANCEL_NONE || ended || r->state == REQ_DEAD) return;
    metrics_cancel(r->srv->metrics, phase_of(r),
                   cause == CANCEL_SHUTDOWN ? CAUSE_SHUTDOWN : CAUSE_DISCONNECT);
    r->cancel = cause;
    cancel_jobs(r);
    if (cause == CANCEL_SHUTDOWN) {
        struct api_error e = {0};
        api_fail(&e, API_SHUTTING_DOWN, NULL, "the server is shutting down");
        request_fail_locked(r, &e);
    }
    request_wake_locked(r);
}

void request_cancel(struct request *r, enum cancel_cause cause)
{
    pthread_mutex_lock(&r->lock);
    request_cancel_locked(r, cause);
    pthread_mutex_unlock(&r->lock);
}

void request_finish_error(const struct request *r, struct api_error *e)
{
    double waited = (double)(clock_ns() - r->start_ns) / 1e9;
    switch (r->bad_finish) {
    case FINISH_QUEUE_TIMEOUT:
        api_fail(e, API_QUEUE_TIMEOUT, NULL, "no place was free within %.3g s: try again later",
                 waited);
        break;
    case FINISH_TIMEOUT:
        api_fail(e, API_DEADLINE, NULL, "the request was not finished after %.3g s", waited);
        break;
    default:
        api_fail(e, API_SHUTTING_DOWN, NULL, "the server is shutting down");
    }
}
