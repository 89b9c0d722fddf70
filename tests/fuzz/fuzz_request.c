/* Any bytes as the body of a completion request: parsed, validated and tokenised like on the worker. What is
 * accepted keeps the promises that jobs rely on; what is refused gets an error that is JSON itself. */
#include <stdlib.h>
#include <string.h>

#include "server/completion.h"
#include "server/jsonw.h"
#include "tests/engine/gpt2/tokenizer_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { VOCAB = 400, N_CTX = 96 };

static struct tokenizer *make(void)
{
    struct buf json = {0};
    struct tokenizer *t = NULL;
    struct err e = {0};
    fixture_json(&json, FIXTURE_BYTE_LEVEL, "", "", false);
    if (tokenizer_parse_json(&t, json.data, json.len, "fixture", &e)) abort();
    buf_release(&json);
    return t;
}

static void check_ids(const struct tokens *t)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->ids[i] < 0 || t->ids[i] >= VOCAB) abort();
}

static void check_accepted(const struct completion *c)
{
    if (c->prompts.n == 0 || c->n < 1 || c->n > 128 || c->logprobs > 20) abort();
    if (c->prompts.n * completion_per_prompt(c) > 64) abort();
    for (size_t i = 0; i < c->prompts.n; i++) {
        const struct tokens *t = &c->prompts.list[i];
        struct token_text text;
        if (t->n == 0 || t->n + (size_t)c->max_tokens > N_CTX) abort();
        check_ids(t);
        token_text_make(&text, c->tokenizer, t->ids, t->n);
        for (size_t k = 1; k < t->n; k++)
            if (text.char_begin[k] < text.char_begin[k - 1] || text.char_begin[k] > text.chars)
                abort();
        token_text_release(&text);
    }
    check_ids(&c->stop_ids);
    check_ids(&c->allowed);
    for (size_t i = 0; i < c->n_stop; i++)
        if (c->stop_len[i] == 0) abort();
    if (!(c->temperature >= 0 && c->temperature <= 2)) abort();
}

static void check_refused(const struct api_error *e)
{
    struct buf b = {0};
    if (e->code == API_OK || !e->message[0]) abort();
    api_error_json(e, &b);
    json_t *v = json_loadb(b.data, b.len, 0, NULL);
    if (!v) abort();
    json_decref(v);
    buf_release(&b);
}

static void check_string(const uint8_t *data, size_t size)
{
    struct buf b = {0};
    json_put_string(&b, (const char *)data, size);
    json_t *v = json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!json_is_string(v)) abort();
    json_decref(v);
    buf_release(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t;
    if (!t) t = make();
    struct param_env env = {.tokenizer = t,
                            .model_id = "m",
                            .n_ctx = N_CTX,
                            .vocab = VOCAB,
                            .eos = 0,
                            .max_prompts = 16,
                            .max_total_n = 64,
                            .logprobs_max = 20,
                            .strict = size % 2 == 0};
    struct api_error e = {0};
    struct completion c;
    check_string(data, size);
    json_t *body = body_parse((const char *)data, size, &e);
    if (!body || completion_parse(&c, body, &env, &e)) {
        check_refused(&e);
    } else {
        check_accepted(&c);
        completion_release(&c);
    }
    json_decref(body);
    return 0;
}
