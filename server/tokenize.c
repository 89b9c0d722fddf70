/* POST /tokenize and /detokenize, GET /tokenizer_info: the forms that evaluation harnesses use to count
 * and cut prompts. No token is ever added, whatever add_special_tokens says: GPT-2 has none to add. */
#include <stdlib.h>

#include "server/env.h"
#include "server/jsonw.h"
#include "server/text.h"
#include "server/served.h"

struct tokenize {
    struct prompts prompts;
    bool add_special_tokens, return_token_strs;
    struct tokens ids;
    bool has_ids;
};

static int parse_text(const struct param *p, const json_t *v, void *out,
                      const struct param_env *env, struct api_error *e)
{
    struct tokenize *t = out;
    if (!json_is_string(v))
        return api_fail(e, API_INVALID_TYPE, p->name, "'%s' is %s: expected a string", p->name,
                        param_kind(v));
    return param_prompts(p->name, v, env, true, &t->prompts, e);
}

static int parse_tokens(const struct param *p, const json_t *v, void *out,
                        const struct param_env *env, struct api_error *e)
{
    struct tokenize *t = out;
    t->has_ids = true;
    return param_ids(p->name, v, env, &t->ids, e);
}

#define AT(field) offsetof(struct tokenize, field)
static const struct param tokenize_table[] = {
    {.name = "model", .type = PARAM_CUSTOM, .parse = param_model},
    {.name = "prompt", .type = PARAM_CUSTOM, .parse = parse_text},
    {.name = "content", .type = PARAM_CUSTOM, .parse = parse_text},
    {.name = "add_special_tokens", .type = PARAM_BOOL, .offset = AT(add_special_tokens)},
    {.name = "return_token_strs", .type = PARAM_BOOL, .offset = AT(return_token_strs)},
};
static const struct param detokenize_table[] = {
    {.name = "model", .type = PARAM_CUSTOM, .parse = param_model},
    {.name = "tokens", .type = PARAM_CUSTOM, .parse = parse_tokens},
};
#undef AT

static void put_tokens(const struct tokens *ids, struct buf *b)
{
    buf_putc(b, '[');
    for (size_t i = 0; i < ids->n; i++)
        buf_printf(b, i ? ",%d" : "%d", ids->ids[i]);
    buf_putc(b, ']');
}

static void put_names(const struct tokenizer *t, const struct tokens *ids, struct buf *b)
{
    struct buf name = {0};
    buf_puts(b, ",\"token_strs\":[");
    for (size_t i = 0; i < ids->n; i++) {
        buf_clear(&name);
        token_string(t, ids->ids[i], &name);
        if (i) buf_putc(b, ',');
        json_put_string(b, name.data ? name.data : "", name.len);
    }
    buf_putc(b, ']');
    buf_release(&name);
}

int tokenize_start(struct request *r, const json_t *body, struct api_error *e)
{
    struct param_env env = env_of(r);
    struct tokenize t = {0};
    int rc = params_parse(body, tokenize_table, sizeof tokenize_table / sizeof *tokenize_table, &t,
                          &env, e);
    if (rc == 0 && !t.prompts.list)
        rc = api_fail(e, API_MISSING_PARAMETER, "prompt", "'prompt' is missing: expected a string");
    if (rc == 0) {
        const struct tokens *ids = &t.prompts.list[0];
        struct buf b = {0};
        buf_puts(&b, "{\"tokens\":");
        put_tokens(ids, &b);
        buf_printf(&b, ",\"count\":%zu,\"max_model_len\":%zu", ids->n, env.n_ctx);
        if (t.return_token_strs) put_names(env.tokenizer, ids, &b);
        buf_putc(&b, '}');
        request_answer(r, &b);
    }
    prompts_release(&t.prompts);
    return rc;
}

int detokenize_start(struct request *r, const json_t *body, struct api_error *e)
{
    struct param_env env = env_of(r);
    struct tokenize t = {0};
    int rc = params_parse(body, detokenize_table,
                          sizeof detokenize_table / sizeof *detokenize_table, &t, &env, e);
    if (rc == 0 && !t.has_ids)
        rc = api_fail(e, API_MISSING_PARAMETER, "tokens",
                      "'tokens' is missing: expected an array of token ids");
    if (rc == 0) {
        struct buf bytes = {0}, b = {0};
        tokenizer_decode(env.tokenizer, t.ids.ids, t.ids.n, true, &bytes);
        buf_puts(&b, "{\"prompt\":");
        json_put_string(&b, bytes.data ? bytes.data : "", bytes.len);
        buf_putc(&b, '}');
        buf_release(&bytes);
        request_answer(r, &b);
    }
    tokens_release(&t.ids);
    return rc;
}

static void put_special(struct buf *b, const struct tokenizer *t, const char *key, int32_t id)
{
    size_t len = 0;
    const char *bytes = id < 0 ? NULL : tokenizer_bytes(t, id, &len);
    buf_printf(b, ",\"%s_token\":", key);
    if (bytes && len)
        json_put_string(b, bytes, len);
    else
        buf_puts(b, "null");
    buf_printf(b, id < 0 ? ",\"%s_token_id\":null" : ",\"%s_token_id\":%d", key, id);
}

void tokenizer_info(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    struct engine *e = r->model->engine;
    const struct engine_info *i = engine_info(e);
    const struct tokenizer *t = engine_tokenizer(e);
    reply->ready = true;
    reply->status = 200;
    buf_printf(&reply->body,
               "{\"tokenizer_class\":\"GPT2Tokenizer\",\"vocab_size\":%d,\"model_max_length\":%d,"
               "\"add_bos_token\":false,\"chat_template\":null",
               tokenizer_vocab(t), i->n_ctx);
    put_special(&reply->body, t, "eos", i->eos_id);
    put_special(&reply->body, t, "bos", i->bos_id);
    put_special(&reply->body, t, "unk", -1);
    put_special(&reply->body, t, "pad", -1);
    buf_putc(&reply->body, '}');
}
