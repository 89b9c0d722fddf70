/* Server-sent events. MHD asks for bytes on its own thread; when there are none the connection is
 * suspended, checked and done under the request's lock, and whoever has something new (engine, worker,
 * watcher, shutdown) resumes it. Completions are pulled: their text lies in the jobs' append-only arrays,
 * so a slow reader costs no buffer and never holds up the engine. Other endpoints append to r->out. */
#include "server/stream.h"

#include <microhttpd.h>
#include <string.h>

#include "engine/base/clock.h"
#include "server/request.h"

/* Let the endpoint write what its jobs have published since. Without the lock: the engine thread takes it
 * to tell of more, and must not wait while a thousand scores are printed. The endpoint's cursors are
 * this thread's own. */
static void pull(struct request *r)
{
    struct buf fresh = {0};
    size_t n_jobs = r->next_slot;
    bool end = false;
    r->news = false;
    pthread_mutex_unlock(&r->lock);
    r->route->pull(r, n_jobs, &fresh, &end);
    pthread_mutex_lock(&r->lock);
    if (!r->out_end) { /* else it has failed meanwhile: the error is the end */
        if (fresh.len) buf_append(&r->out, fresh.data, fresh.len);
        r->out_end = end;
    }
    buf_release(&fresh);
}

/* Make r->out hold something if there is anything to say. */
static void refill(struct request *r)
{
    buf_clear(&r->out);
    r->out_pos = 0;
    while (r->route->pull && r->news && !r->out.len && !r->out_end && r->cancel == CANCEL_NONE &&
           r->bad_finish == FINISH_NONE)
        pull(r);
    if (r->want_ping && !r->out.len && !r->out_end) buf_puts(&r->out, ": ping\n\n");
    r->want_ping = false;
}

static ssize_t stream_read(void *arg, uint64_t pos, char *to, size_t max)
{
    (void)pos;
    struct request *r = arg;
    ssize_t got = 0;
    pthread_mutex_lock(&r->lock);
    if (r->out_pos == r->out.len && !r->out_end) refill(r);
    size_t left = r->out.len - r->out_pos;
    if (r->cancel == CANCEL_GONE) {
        got = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (left) {
        size_t n = left < max ? left : max;
        memcpy(to, r->out.data + r->out_pos, n);
        r->out_pos += n;
        r->last_out_ns = clock_ns();
        got = (ssize_t)n;
    } else if (r->out_end) {
        got = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (atomic_load(&r->srv->stopping)) {
        got = MHD_CONTENT_READER_END_WITH_ERROR;
    } else {
        r->suspended = true;
        MHD_suspend_connection(r->conn);
    }
    pthread_mutex_unlock(&r->lock);
    return got;
}

static void stream_free(void *arg)
{
    request_unref(arg);
}

struct MHD_Response *stream_response(struct request *r)
{
    struct MHD_Response *resp =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, stream_read, r, stream_free);
    if (!resp) return NULL;
    request_ref(r);
    MHD_add_response_header(resp, "Content-Type", "text/event-stream; charset=utf-8");
    MHD_add_response_header(resp, "Cache-Control", "no-cache");
    MHD_add_response_header(resp, "X-Accel-Buffering", "no");
    return resp;
}
