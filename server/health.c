/* Three questions that orchestrators mix up at their users' cost, kept apart: does the process answer
 * (livez: always), should traffic come here (readyz: model loaded, no drain), has it started (startupz:
 * with the progress of loading). None touches the queue or the engine's lock. */
#include "engine/base/clock.h"
#include "engine/base/version.h"
#include "server/jsonw.h"
#include "server/metrics.h"
#include "server/request.h"
#include "server/served.h"

static void text(struct reply *reply, int status, const char *s)
{
    reply->ready = true;
    reply->status = status;
    reply->content_type = "text/plain; charset=utf-8";
    buf_puts(&reply->body, s);
    if (status == 503) reply->retry_after_s = 2;
}

static const char *state_of(struct server *s)
{
    if (atomic_load(&s->draining)) return "draining";
    return atomic_load(&s->loaded) ? "ready" : "loading";
}

void health_livez(struct request *r, const char *rest, struct reply *reply)
{
    (void)r, (void)rest;
    text(reply, 200, "ok\n");
}

void health_readyz(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    text(reply, server_ready(r->srv) ? 200 : 503, state_of(r->srv));
    buf_putc(&reply->body, '\n');
}

static void json_state(struct request *r, struct reply *reply, int status)
{
    struct server *s = r->srv;
    struct engine_stats st = {0};
    served_stats(s, &st);
    reply->ready = true;
    reply->status = status;
    if (status == 503) reply->retry_after_s = 2;
    buf_printf(&reply->body, "{\"status\":\"%s\",\"progress\":", state_of(s));
    json_put_number(&reply->body, atomic_load(&s->load_permille) / 1000.0);
    buf_printf(&reply->body,
               ",\"queue\":{\"in_flight\":%d,\"capacity\":%d,\"running\":%d,\"waiting\":%d}}",
               atomic_load(&s->places), s->max_places, st.running, st.waiting);
}

void health_startupz(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    json_state(r, reply, r->model ? 200 : 503);
}

void health_health(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    json_state(r, reply, server_ready(r->srv) ? 200 : 503);
}

void health_metrics(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    reply->ready = true;
    reply->status = 200;
    reply->content_type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_write(r->srv, r->model, &reply->body);
}

void health_version(struct request *r, const char *rest, struct reply *reply)
{
    (void)r, (void)rest;
    reply->ready = true;
    reply->status = 200;
    buf_printf(&reply->body, "{\"name\":\"ttmd\",\"version\":\"%s\",\"git\":", TTMD_VERSION);
    json_put_cstring(&reply->body, TTMD_GIT);
    buf_puts(&reply->body, "}");
}
