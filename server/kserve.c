/* KServe's Open Inference Protocol: health, the model's metadata, and its generate extension. A generate
 * request is a completion in other words: its parameters are those of /v1/completions, checked by the
 * same table and computed by the same jobs; only what goes over the wire is written here. Fields whose
 * answer has no place in this protocol are refused, not ignored. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/version.h"
#include "server/completion.h"
#include "server/jsonw.h"

#define MODEL_VERSION "1" /* a daemon serves one version of one model */

static int unknown_model(const struct request *r, struct api_error *e)
{
    return model_named("model", r->rest, r->srv->model_id, e);
}

/* ---- facts ---- */

static void put_state(struct reply *reply, const char *key, bool yes)
{
    reply->ready = true;
    reply->status = yes ? 200 : 503;
    if (!yes) reply->retry_after_s = 2;
    buf_printf(&reply->body, "\"%s\":%s}", key, yes ? "true" : "false");
}

void kserve_live(struct request *r, const char *rest, struct reply *reply)
{
    (void)r, (void)rest;
    buf_putc(&reply->body, '{');
    put_state(reply, "live", true);
}

void kserve_ready(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    buf_putc(&reply->body, '{');
    put_state(reply, "ready", server_ready(r->srv));
}

void kserve_server(struct request *r, const char *rest, struct reply *reply)
{
    (void)r, (void)rest;
    reply->ready = true;
    reply->status = 200;
    buf_puts(&reply->body,
             "{\"name\":\"ttmd\",\"version\":\"" TTMD_VERSION "\",\"extensions\":[\"generate\"]}");
}

void kserve_model_ready(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    struct api_error e = {0};
    if (unknown_model(r, &e)) {
        reply_error(r, reply, &e);
        return;
    }
    buf_puts(&reply->body, "{\"name\":");
    json_put_cstring(&reply->body, r->srv->model_id);
    buf_putc(&reply->body, ',');
    put_state(reply, "ready", server_ready(r->srv));
}

void kserve_model(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    struct api_error e = {0};
    if (unknown_model(r, &e)) {
        reply_error(r, reply, &e);
        return;
    }
    reply->ready = true;
    reply->status = 200;
    buf_puts(&reply->body, "{\"name\":");
    json_put_cstring(&reply->body, r->srv->model_id);
    buf_puts(&reply->body,
             ",\"versions\":[\"" MODEL_VERSION
             "\"],\"platform\":\"ttmd\",\"inputs\":[{\"name\":"
             "\"text_input\",\"datatype\":\"BYTES\",\"shape\":[1]}],\"outputs\":[{\"name\":"
             "\"text_output\",\"datatype\":\"BYTES\",\"shape\":[1]}]}");
}

/* ---- generate ---- */

/* The body's fields, before they become those of a completion. */
struct generate {
    const json_t *text, *parameters;
};

static int keep_text(const struct param *p, const json_t *v, void *out, const struct param_env *env,
                     struct api_error *e)
{
    (void)env;
    if (!json_is_string(v))
        return api_fail(e, API_INVALID_TYPE, p->name, "'%s' is %s: expected a string", p->name,
                        param_kind(v));
    if (json_string_length(v) == 0)
        return api_fail(e, API_INVALID_VALUE, p->name, "'%s' is empty", p->name);
    ((struct generate *)out)->text = v;
    return 0;
}

static int keep_parameters(const struct param *p, const json_t *v, void *out,
                           const struct param_env *env, struct api_error *e)
{
    (void)env;
    static const char *const elsewhere[] = {
        "prompt",           "model",          "n", "echo", "suffix", "logprobs", "stream_options",
        "return_token_ids", "return_progress"};
    if (!json_is_object(v))
        return api_fail(e, API_INVALID_TYPE, p->name, "'%s' is %s: expected an object", p->name,
                        param_kind(v));
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++) {
        const json_t *item = json_object_get(v, elsewhere[i]);
        if (item && !json_is_null(item))
            return api_fail(e, API_UNSUPPORTED, elsewhere[i],
                            "'parameters.%s' is not supported here: use /v1/completions",
                            elsewhere[i]);
    }
    ((struct generate *)out)->parameters = v;
    return 0;
}

static const struct param table[] = {
    {.name = "text_input", .type = PARAM_CUSTOM, .parse = keep_text},
    {.name = "parameters", .type = PARAM_CUSTOM, .parse = keep_parameters},
};

/* The route says whether the answer is a stream; clients may say so, too, but nothing else. */
static int check_stream(const json_t *parameters, bool stream, struct api_error *e)
{
    const json_t *v = json_object_get(parameters, "stream");
    if (!v || json_is_null(v)) return 0;
    if (!json_is_boolean(v))
        return api_fail(e, API_INVALID_TYPE, "stream", "'parameters.stream' is %s: expected %s",
                        param_kind(v), stream ? "true" : "false");
    if (json_is_true(v) == stream) return 0;
    return api_fail(e, API_UNSUPPORTED, "stream",
                    "'parameters.stream' is %s: expected %s here, for the other use %s",
                    stream ? "false" : "true", stream ? "true" : "false",
                    stream ? "generate" : "generate_stream");
}

/* The completion request that means the same; NULL with `e` set. */
static json_t *translate(const json_t *body, const struct param_env *env, bool stream,
                         struct api_error *e)
{
    struct generate g = {0};
    if (params_parse(body, table, sizeof table / sizeof *table, &g, env, e)) return NULL;
    if (!g.text) {
        api_fail(e, API_MISSING_PARAMETER, "text_input",
                 "'text_input' is missing: expected a string");
        return NULL;
    }
    if (check_stream(g.parameters, stream, e)) return NULL;
    json_t *out = g.parameters ? json_copy((json_t *)(uintptr_t)g.parameters) : json_object();
    BUG_ON(json_object_set(out, "prompt", (json_t *)(uintptr_t)g.text) ||
           json_object_set_new(out, "stream", json_boolean(stream)));
    return out;
}

static int start(struct request *r, const json_t *body, bool stream, struct api_error *e)
{
    if (unknown_model(r, e)) return -1;
    struct param_env env = env_of(r);
    json_t *as = translate(body, &env, stream, e);
    if (!as) return -1;
    int rc = completions_start(r, as, e);
    json_decref(as);
    return rc;
}

int generate_start(struct request *r, const json_t *body, struct api_error *e)
{
    return start(r, body, false, e);
}

int generate_stream_start(struct request *r, const json_t *body, struct api_error *e)
{
    return start(r, body, true, e);
}

static void put_answer(struct request *r, const char *text, size_t len, struct buf *b)
{
    buf_puts(b, "{\"model_name\":");
    json_put_cstring(b, r->srv->model_id);
    buf_puts(b, ",\"model_version\":\"" MODEL_VERSION "\",\"text_output\":");
    json_put_string(b, text, len);
}

void generate_progress(struct request *r)
{
    struct completion *c = r->task;
    if (c->stream) return;
    struct buf b = {0};
    if (!completions_all_done(r)) return;
    struct job_view v;
    job_view(r->slots[completions_best(r)].job, &v);
    put_answer(r, v.text, v.text_len, &b);
    buf_printf(&b, ",\"finish_reason\":\"%s\",\"usage\":", completion_finish_name(v.finish));
    completion_put_usage(r, c, &b);
    buf_putc(&b, '}');
    request_answer(r, &b);
}

void generate_pull(struct request *r, size_t n_jobs, struct buf *b, bool *end)
{
    struct slot *sl = r->slots;
    struct job_view v;
    if (n_jobs == 0) return;
    job_view(sl->job, &v);
    if (v.text_len > sl->sent_text) {
        buf_puts(b, "data: ");
        put_answer(r, v.text + sl->sent_text, v.text_len - sl->sent_text, b);
        buf_puts(b, ",\"done\":false}\n\n");
        sl->sent_text = v.text_len;
    }
    if (!v.done || (v.finish != FINISH_STOP && v.finish != FINISH_LENGTH)) return;
    buf_puts(b, "data: ");
    put_answer(r, "", 0, b);
    buf_printf(
        b, ",\"done\":true,\"finish_reason\":\"%s\",\"usage\":", completion_finish_name(v.finish));
    completion_put_usage(r, r->task, b);
    buf_puts(b, "}\n\n");
    *end = true;
}
