/* One line per request, written when its last reference goes: by then the answer was sent or the client
 * is gone, and every job has ended, so that the numbers are final. No text of prompts or answers. */
#include "server/accesslog.h"

#include "engine/base/clock.h"
#include "server/access.h"
#include "server/metrics.h"
#include "server/request.h"

static enum metric_outcome outcome_of(const struct request *r)
{
    int status = r->status ? r->status : r->reply.status;
    if (r->cancel == CANCEL_GONE || r->cancel == CANCEL_SHUTDOWN) return OUTCOME_CANCELLED;
    if (r->bad_finish == FINISH_TIMEOUT || r->bad_finish == FINISH_QUEUE_TIMEOUT || status == 408)
        return OUTCOME_TIMEOUT;
    if (status == 429 || status == 503) return OUTCOME_REJECTED;
    if (status >= 500) return OUTCOME_FAILED;
    if (status >= 400) return OUTCOME_INVALID;
    if (status == 0) return OUTCOME_CANCELLED;
    return OUTCOME_OK;
}

void access_log(struct request *r)
{
    struct server *s = r->srv;
    double seconds = (double)(clock_ns() - r->start_ns) / 1e9;
    metrics_http(s->metrics, r->route_index, r->method, r->status ? r->status : 499, seconds);
    if (r->route && r->route->post) metrics_outcome(s->metrics, r->route_index, outcome_of(r));
    enum log_level level = r->route && r->route->probe ? LOG_DEBUG : LOG_INFO;
    const char *route = r->route ? r->route->label : "other";
    const char *cancelled = r->cancel == CANCEL_GONE       ? "client_disconnected"
                            : r->cancel == CANCEL_SHUTDOWN ? "shutdown"
                                                           : NULL;
    const char *key = r->grant.label[0] ? r->grant.label : NULL;
    if (!r->n_slots) {
        log_at(s->log, level, "request", LOG_S("request_id", r->id), LOG_S("method", r->method),
               LOG_S("route", route), LOG_S("key", key), LOG_I("status", r->status),
               LOG_S("cancelled", cancelled), LOG_N("total_ms", seconds * 1e3));
        return;
    }
    jobs_account(r);
    access_used(r, (double)(r->prompt_tokens + r->completion_tokens));
    metrics_observe(s->metrics, HIST_REQUEST, seconds);
    log_at(s->log, level, "request", LOG_S("request_id", r->id), LOG_S("method", r->method),
           LOG_S("route", route), LOG_S("key", key), LOG_I("status", r->status),
           LOG_S("cancelled", cancelled), LOG_S("user", r->user[0] ? r->user : NULL),
           LOG_I("prompt_tokens", r->prompt_tokens),
           LOG_I("completion_tokens", r->completion_tokens), LOG_N("queue_ms", r->queue_ms),
           LOG_N("prefill_ms", r->prefill_ms), LOG_N("decode_ms", r->decode_ms),
           LOG_N("total_ms", seconds * 1e3));
}
