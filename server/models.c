/* GET /v1/models and the model's own page: the one that is served. */
#include <string.h>

#include "server/jsonw.h"
#include "server/params.h"
#include "server/request.h"
#include "server/served.h"

/* What TTM layers save, whole model against whole model. */
static void put_compression(const struct engine_info *i, struct buf *b)
{
    buf_printf(b,
               ",\"n_params_rounded\":%zu,\"n_params_dense\":%zu,\"compression\":%.6g,"
               "\"n_ttm_layers\":%d",
               i->n_params_rounded, i->n_params_dense,
               (double)i->n_params_dense / (double)i->n_params_rounded, i->n_ttm);
}

static void put_layers(const struct engine_info *i, struct buf *b)
{
    buf_puts(b, ",\"ttm_layers\":[");
    for (int k = 0; k < i->n_ttm; k++) {
        const struct ttm_info *t = &i->ttm[k];
        buf_printf(b,
                   "%s{\"name\":\"%s\",\"in\":%d,\"out\":%d,\"shape\":\"%s\",\"ranks\":[%s],"
                   "\"stored_ranks\":[%s],\"params\":%zu,\"stored_params\":%zu,"
                   "\"dense_params\":%zu,\"bytes\":%zu,\"plan\":{",
                   k ? "," : "", t->name, t->in, t->out, t->shape, t->ranks, t->stored_ranks,
                   t->params, t->stored_params, t->dense_params, t->bytes);
        for (int r = 0; r < 2; r++)
            buf_printf(b,
                       "%s\"%s\":{\"method\":\"%s\",\"rows\":%d,\"mults_of_dense\":%.6g,"
                       "\"predicted_us\":%.6g}",
                       r ? "," : "", r ? "prefill" : "decode", t->plan[r], t->plan_rows[r],
                       t->mults[r], t->seconds[r] * 1e6);
        buf_puts(b, "}}");
    }
    buf_putc(b, ']');
}

static void put_model(const struct request *r, struct buf *b, bool layers)
{
    const struct server *s = r->srv;
    const struct engine_info *i = engine_info(r->model->engine);
    buf_puts(b, "{\"id\":");
    json_put_cstring(b, s->model_id);
    buf_printf(b, ",\"object\":\"model\",\"created\":%llu,\"owned_by\":\"ttmd\",\"root\":",
               (unsigned long long)s->created_unix_s);
    json_put_cstring(b, s->model_id);
    buf_printf(b,
               ",\"parent\":null,\"max_model_len\":%d,\"meta\":{\"n_params\":%zu,\"n_layer\":%d,"
               "\"n_head\":%d,\"n_embd\":%d,\"n_inner\":%d,\"n_ctx\":%d,\"vocab_size\":%d,"
               "\"dtype\":\"%s\",\"kv_dtype\":\"%s\",\"weight_bytes\":%zu,\"kv_bytes\":%zu,"
               "\"max_batch\":%d,\"threads\":%d,\"kernels\":\"%s\",\"load_seconds\":%.6g,"
               "\"fingerprint\":\"%s\"",
               i->n_ctx, i->n_params, i->n_layer, i->n_head, i->n_embd, i->n_inner, i->n_ctx,
               i->vocab_size, i->dtype, i->kv_dtype, i->weight_bytes, i->kv_bytes, i->max_batch,
               i->threads, i->kernels, i->load_seconds, r->model->fingerprint);
    put_compression(i, b);
    if (layers) put_layers(i, b);
    buf_puts(b, "}}");
}

void models_list(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    reply->ready = true;
    reply->status = 200;
    buf_puts(&reply->body, "{\"object\":\"list\",\"data\":[");
    put_model(r, &reply->body, false);
    buf_puts(&reply->body, "]}");
}

void models_one(struct request *r, const char *rest, struct reply *reply)
{
    struct api_error e = {0};
    if (model_named("model", rest, r->srv->model_id, &e)) {
        reply_error(r, reply, &e);
        return;
    }
    reply->ready = true;
    reply->status = 200;
    put_model(r, &reply->body, true);
}
