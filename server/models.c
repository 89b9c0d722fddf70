/* GET /v1/models and the model's own page: the one that is served. */
#include <string.h>

#include "server/jsonw.h"
#include "server/request.h"

static void put_model(struct server *s, struct buf *b)
{
    const struct engine_info *i = engine_info(server_engine(s));
    buf_puts(b, "{\"id\":");
    json_put_cstring(b, s->model_id);
    buf_printf(b, ",\"object\":\"model\",\"created\":%llu,\"owned_by\":\"ttmd\",\"root\":",
               (unsigned long long)s->created_unix_s);
    json_put_cstring(b, s->model_id);
    buf_printf(b,
               ",\"parent\":null,\"max_model_len\":%d,\"meta\":{\"n_params\":%zu,\"n_layer\":%d,"
               "\"n_head\":%d,\"n_embd\":%d,\"n_ctx\":%d,\"vocab_size\":%d,\"dtype\":\"%s\","
               "\"kv_dtype\":\"%s\",\"weight_bytes\":%zu,\"fingerprint\":\"%s\"}}",
               i->n_ctx, i->n_params, i->n_layer, i->n_head, i->n_embd, i->n_ctx, i->vocab_size,
               i->dtype, i->kv_dtype, i->weight_bytes, s->fingerprint);
}

void models_list(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    reply->ready = true;
    reply->status = 200;
    buf_puts(&reply->body, "{\"object\":\"list\",\"data\":[");
    put_model(r->srv, &reply->body);
    buf_puts(&reply->body, "]}");
}

void models_one(struct request *r, const char *rest, struct reply *reply)
{
    if (strcmp(rest, r->srv->model_id) != 0) {
        struct api_error e = {0};
        api_fail(&e, API_MODEL_NOT_FOUND, "model",
                 "the model '%.200s' does not exist: this server has '%.200s'", rest,
                 r->srv->model_id);
        reply_error(reply, &e);
        return;
    }
    reply->ready = true;
    reply->status = 200;
    put_model(r->srv, &reply->body);
}
