/* POST /v1/loglikelihood: log P(continuation | context), as lm-evaluation-harness defines it. Strings are
 * tokenised as one text and cut at the number of context tokens, after moving the context's trailing
 * spaces to the continuation, where BPE wants them. An empty context is an end-of-text token. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "server/env.h"
#include "server/jsonw.h"
#include "server/served.h"

struct pair {
    struct tokens ids; /* context, then continuation */
    size_t context;    /* tokens of it */
};

struct loglikelihood {
    struct pair *pairs;
    size_t n;
    double timeout_s;
    bool cache_prompt;
    char *cache_salt;
};

static int ids_pair(const char *name, const json_t *context, const json_t *continuation,
                    const struct param_env *env, struct pair *p, struct api_error *e)
{
    char at[64];
    snprintf(at, sizeof at, "%s.context", name);
    if (param_ids(at, context, env, &p->ids, e)) return -1;
    if (p->ids.n == 0) tokens_push(&p->ids, env->eos);
    p->context = p->ids.n;
    snprintf(at, sizeof at, "%s.continuation", name);
    return param_ids(at, continuation, env, &p->ids, e);
}

static int parse_pair(const json_t *v, size_t i, const struct param_env *env, struct pair *p,
                      struct api_error *e)
{
    char name[48];
    snprintf(name, sizeof name, "requests[%zu]", i);
    if (!json_is_object(v))
        return api_fail(e, API_INVALID_TYPE, name,
                        "'%s' is %s: expected {\"context\": ..., \"continuation\": ...}", name,
                        param_kind(v));
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)v, key, value)
    {
        if (env->strict && strcmp(key, "context") != 0 && strcmp(key, "continuation") != 0)
            return api_fail(e, API_UNKNOWN_PARAMETER, name, "'%s' has the unknown field '%.100s'",
                            name, key);
    }
    const json_t *context = json_object_get(v, "context");
    const json_t *continuation = json_object_get(v, "continuation");
    if (!context || !continuation)
        return api_fail(e, API_MISSING_PARAMETER, name, "'%s' has no '%s'", name,
                        context ? "continuation" : "context");
    if (env->eos < 0)
        return api_fail(e, API_UNSUPPORTED, name, "the model has no end-of-text token");
    if (json_is_string(context) && json_is_string(continuation))
        p->context = tokenizer_encode_pair(
            env->tokenizer, json_string_value(context), json_string_length(context),
            json_string_value(continuation), json_string_length(continuation), env->eos, &p->ids);
    else if (!json_is_array(context) || !json_is_array(continuation))
        return api_fail(e, API_INVALID_TYPE, name,
                        "'%s' has %s as context and %s as continuation: expected two strings or "
                        "two arrays of token ids",
                        name, param_kind(context), param_kind(continuation));
    else if (ids_pair(name, context, continuation, env, p, e))
        return -1;
    if (p->context == 0 || p->context >= p->ids.n)
        return api_fail(
            e, API_INVALID_VALUE, name,
            "'%s' has %zu tokens of context and %zu in all: expected at least one of each", name,
            p->context, p->ids.n);
    for (size_t k = 0; k < p->ids.n; k++)
        if (p->ids.ids[k] >= env->vocab)
            return api_fail(e, API_INVALID_VALUE, name, "'%s' holds token %d: the model has %d",
                            name, p->ids.ids[k], env->vocab);
    return env_fits(env, name, p->ids.n, 0, e);
}

static int parse_requests(const struct param *p, const json_t *v, void *out,
                          const struct param_env *env, struct api_error *e)
{
    struct loglikelihood *l = out;
    if (!json_is_array(v))
        return api_fail(e, API_INVALID_TYPE, p->name, "'requests' is %s: expected an array",
                        param_kind(v));
    size_t n = json_array_size(v);
    if (n == 0 || n > (size_t)env->max_prompts)
        return api_fail(e, API_INVALID_VALUE, p->name,
                        "'requests' holds %zu items: expected 1 to %lld", n,
                        (long long)env->max_prompts);
    l->pairs = mem_calloc(n, sizeof *l->pairs);
    for (; l->n < n; l->n++)
        if (parse_pair(json_array_get(v, l->n), l->n, env, &l->pairs[l->n], e)) {
            l->n++; /* for release */
            return -1;
        }
    return 0;
}

static const struct param table[] = {
    {.name = "model", .type = PARAM_CUSTOM, .parse = param_model},
    {.name = "requests", .type = PARAM_CUSTOM, .parse = parse_requests},
    {.name = "cache_prompt",
     .type = PARAM_BOOL,
     .offset = offsetof(struct loglikelihood, cache_prompt)},
    {.name = "cache_salt",
     .type = PARAM_STRING,
     .offset = offsetof(struct loglikelihood, cache_salt)},
    {.name = "timeout_s",
     .type = PARAM_NUMBER,
     .min = 0,
     .max = 86400,
     .above_min = true,
     .offset = offsetof(struct loglikelihood, timeout_s)},
};

void loglikelihood_release(void *task)
{
    struct loglikelihood *l = task;
    for (size_t i = 0; i < l->n; i++)
        tokens_release(&l->pairs[i].ids);
    free(l->pairs);
    free(l->cache_salt);
    free(l);
}

int loglikelihood_start(struct request *r, const json_t *body, struct api_error *e)
{
    struct param_env env = env_of(r);
    struct loglikelihood *l = mem_calloc(1, sizeof *l);
    l->cache_prompt = true;
    int rc = params_parse(body, table, sizeof table / sizeof *table, l, &env, e);
    if (rc == 0 && l->n == 0)
        rc =
            api_fail(e, API_MISSING_PARAMETER, "requests",
                     "'requests' is missing: expected an array of {\"context\", \"continuation\"}");
    if (rc) {
        loglikelihood_release(l);
        return -1;
    }
    r->task = l;
    env_deadlines(r, l->timeout_s);
    jobs_init(r, l->n);
    return 0;
}

void loglikelihood_spec(struct request *r, size_t i, struct job_spec *spec)
{
    const struct loglikelihood *l = r->task;
    const struct pair *p = &l->pairs[i];
    spec->tokens = p->ids.ids;
    spec->n_tokens = p->ids.n;
    spec->max_tokens = 0;
    spec->score_from = p->context;
    spec->cache_prompt = l->cache_prompt;
    spec->cache_salt = l->cache_salt;
    if (l->n > 1) spec->family = jobs_family(r, 0);
}

static void put_result(const struct pair *p, const struct job *job, struct buf *b)
{
    const struct job_token *t = job_prompt(job);
    double sum = 0;
    bool greedy = true;
    for (size_t k = p->context; k < p->ids.n; k++) {
        sum += (double)t[k].logprob;
        greedy = greedy && t[k].greedy;
    }
    buf_puts(b, "{\"logprob\":");
    json_put_number(b, sum);
    buf_printf(b, ",\"is_greedy\":%s,\"tokens\":[", greedy ? "true" : "false");
    for (size_t k = p->context; k < p->ids.n; k++)
        buf_printf(b, k > p->context ? ",%d" : "%d", p->ids.ids[k]);
    buf_puts(b, "],\"token_logprobs\":[");
    for (size_t k = p->context; k < p->ids.n; k++) {
        if (k > p->context) buf_putc(b, ',');
        json_put_number(b, (double)t[k].logprob);
    }
    buf_puts(b, "]}");
}

void loglikelihood_progress(struct request *r)
{
    struct loglikelihood *l = r->task;
    pthread_mutex_lock(&r->lock);
    bool all = r->n_done == r->n_slots;
    pthread_mutex_unlock(&r->lock);
    if (!all) return;
    struct buf b = {0};
    size_t tokens = 0;
    buf_puts(&b, "{\"object\":\"loglikelihood\",\"model\":");
    json_put_cstring(&b, r->srv->model_id);
    buf_printf(&b, ",\"system_fingerprint\":\"%s\",\"results\":[", r->model->fingerprint);
    for (size_t i = 0; i < l->n; i++) {
        if (i) buf_putc(&b, ',');
        put_result(&l->pairs[i], r->slots[i].job, &b);
        tokens += l->pairs[i].ids.n;
    }
    buf_printf(&b,
               "],\"usage\":{\"prompt_tokens\":%zu,\"completion_tokens\":0,\"total_tokens\":%zu}}",
               tokens, tokens);
    request_answer(r, &b);
}
