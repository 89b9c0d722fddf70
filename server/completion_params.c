/* The fields of a completion request: one table, and the checks that involve several fields. */
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "server/completion.h"

#define MAX_STOP 64
#define MAX_STOP_BYTES 4096

static int parse_prompt(const struct param *p, const json_t *v, void *out,
                        const struct param_env *env, struct api_error *e)
{
    struct completion *c = out;
    return param_prompts(p->name, v, env, false, &c->prompts, e);
}

static int add_stop(struct completion *c, const char *name, const json_t *v, struct api_error *e)
{
    if (!json_is_string(v))
        return api_fail(e, API_INVALID_TYPE, "stop", "'%s' is %s: expected a string", name,
                        param_kind(v));
    size_t len = json_string_length(v);
    if (len == 0 || len > MAX_STOP_BYTES)
        return api_fail(e, API_INVALID_VALUE, "stop", "'%s' has %zu bytes: expected 1 to %d", name,
                        len, MAX_STOP_BYTES);
    c->stop[c->n_stop] = mem_alloc(len + 1);
    memcpy(c->stop[c->n_stop], json_string_value(v), len + 1);
    c->stop_len[c->n_stop++] = len;
    return 0;
}

static int parse_stop(const struct param *p, const json_t *v, void *out,
                      const struct param_env *env, struct api_error *e)
{
    (void)env;
    struct completion *c = out;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > MAX_STOP)
        return api_fail(e, API_INVALID_VALUE, p->name,
                        "'stop' holds %zu strings: expected at most %d", n, MAX_STOP);
    if (!json_is_array(v) && !json_is_string(v))
        return api_fail(e, API_INVALID_TYPE, p->name,
                        "'stop' is %s: expected a string or an array of strings", param_kind(v));
    c->stop = mem_calloc(n + 1, sizeof *c->stop);
    c->stop_len = mem_calloc(n + 1, sizeof *c->stop_len);
    if (json_is_string(v)) return add_stop(c, "stop", v, e);
    for (size_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "stop[%zu]", i);
        if (add_stop(c, name, json_array_get(v, i), e)) return -1;
    }
    return 0;
}

/* "123" as an id of the vocabulary; -1 for anything else, also for "0123". */
static int32_t id_of_key(const char *key, int32_t vocab)
{
    int64_t id = 0;
    size_t n = strlen(key);
    if (n == 0 || n > 10 || (n > 1 && key[0] == '0')) return -1;
    for (size_t i = 0; i < n; i++) {
        if (key[i] < '0' || key[i] > '9') return -1;
        id = id * 10 + (key[i] - '0');
    }
    return id < vocab ? (int32_t)id : -1;
}

static int parse_bias(const struct param *p, const json_t *v, void *out,
                      const struct param_env *env, struct api_error *e)
{
    struct completion *c = out;
    const char *key;
    json_t *value;
    if (!json_is_object(v))
        return api_fail(e, API_INVALID_TYPE, p->name,
                        "'logit_bias' is %s: expected an object from token ids to numbers",
                        param_kind(v));
    c->bias = mem_calloc(json_object_size(v) + 1, sizeof *c->bias);
    json_object_foreach((json_t *)(uintptr_t)v, key, value)
    {
        int32_t id = id_of_key(key, env->vocab);
        if (id < 0)
            return api_fail(e, API_INVALID_VALUE, p->name,
                            "'logit_bias' has the key '%.40s': expected a token id from 0 to %d",
                            key, env->vocab - 1);
        if (!json_is_number(value))
            return api_fail(e, API_INVALID_TYPE, p->name,
                            "'logit_bias.%d' is %s: expected a number", id, param_kind(value));
        double d = json_number_value(value);
        if (!(d >= -100 && d <= 100))
            return api_fail(e, API_INVALID_VALUE, p->name,
                            "'logit_bias.%d' is %.9g: expected a number from -100 to 100", id, d);
        c->bias[c->n_bias++] = (struct logit_bias){.id = id, .bias = (float)d};
    }
    return 0;
}

static int parse_ids(const struct param *p, const json_t *v, void *out, const struct param_env *env,
                     struct api_error *e)
{
    struct tokens *t = (struct tokens *)(void *)((char *)out + p->offset);
    if (param_ids(p->name, v, env, t, e)) return -1;
    if (t->n == 0 && p->offset == offsetof(struct completion, allowed))
        return api_fail(e, API_INVALID_VALUE, p->name, "'%s' is empty: no token could be drawn",
                        p->name);
    return 0;
}

static int parse_logprobs(const struct param *p, const json_t *v, void *out,
                          const struct param_env *env, struct api_error *e)
{
    struct completion *c = out;
    return param_int(p->name, v, 0, env->logprobs_max, &c->logprobs, e);
}

static int parse_suffix(const struct param *p, const json_t *v, void *out,
                        const struct param_env *env, struct api_error *e)
{
    (void)out, (void)env;
    if (!json_is_string(v))
        return api_fail(e, API_INVALID_TYPE, p->name, "'suffix' is %s: expected a string",
                        param_kind(v));
    if (json_string_length(v) == 0) return 0;
    return api_fail(e, API_UNSUPPORTED, p->name,
                    "'suffix' is not supported: GPT-2 continues a text, it does not fill gaps");
}

static int parse_seed(const struct param *p, const json_t *v, void *out,
                      const struct param_env *env, struct api_error *e)
{
    (void)env;
    struct completion *c = out;
    c->has_seed = true;
    return param_int(p->name, v, INT64_MIN, INT64_MAX, &c->seed, e);
}

static int parse_stream_options(const struct param *p, const json_t *v, void *out,
                                const struct param_env *env, struct api_error *e)
{
    struct completion *c = out;
    static const struct param inner[] = {
        {.name = "include_usage",
         .type = PARAM_BOOL,
         .offset = offsetof(struct completion, include_usage)},
    };
    if (!json_is_object(v))
        return api_fail(e, API_INVALID_TYPE, p->name, "'stream_options' is %s: expected an object",
                        param_kind(v));
    return params_parse(v, inner, 1, c, env, e);
}

#define AT(field) .offset = offsetof(struct completion, field)
#define INT(key, field, lo, hi)                                         \
    {                                                                   \
        .name = key, .type = PARAM_INT, .min = lo, .max = hi, AT(field) \
    }
#define NUM(key, field, lo, hi)                                            \
    {                                                                      \
        .name = key, .type = PARAM_NUMBER, .min = lo, .max = hi, AT(field) \
    }
#define ABOVE(key, field, lo, hi)                                                             \
    {                                                                                         \
        .name = key, .type = PARAM_NUMBER, .min = lo, .max = hi, .above_min = true, AT(field) \
    }
#define BOOL(key, field)                           \
    {                                              \
        .name = key, .type = PARAM_BOOL, AT(field) \
    }
#define STR(key, field)                              \
    {                                                \
        .name = key, .type = PARAM_STRING, AT(field) \
    }
#define OWN(key, fn)                                   \
    {                                                  \
        .name = key, .type = PARAM_CUSTOM, .parse = fn \
    }
static const struct param table[] = {
    OWN("model", param_model),
    OWN("prompt", parse_prompt),
    INT("max_tokens", max_tokens, 0, 1 << 24),
    INT("min_tokens", min_tokens, 0, 1 << 24),
    INT("n", n, 1, 128),
    INT("best_of", best_of, 1, 128),
    NUM("temperature", temperature, 0, 2),
    NUM("top_p", top_p, 0, 1),
    INT("top_k", top_k, -1, 1 << 24),
    NUM("min_p", min_p, 0, 1),
    ABOVE("typical_p", typical_p, 0, 1),
    NUM("repetition_penalty", repetition_penalty, 0.001, 100),
    NUM("presence_penalty", presence_penalty, -2, 2),
    NUM("frequency_penalty", frequency_penalty, -2, 2),
    OWN("stop", parse_stop),
    {.name = "stop_token_ids", .type = PARAM_CUSTOM, .parse = parse_ids, AT(stop_ids)},
    {.name = "allowed_token_ids", .type = PARAM_CUSTOM, .parse = parse_ids, AT(allowed)},
    BOOL("include_stop_str_in_output", include_stop),
    BOOL("ignore_eos", ignore_eos),
    BOOL("stream", stream),
    OWN("stream_options", parse_stream_options),
    BOOL("echo", echo),
    OWN("logprobs", parse_logprobs),
    OWN("logit_bias", parse_bias),
    OWN("seed", parse_seed),
    OWN("suffix", parse_suffix),
    STR("user", user),
    INT("truncate_prompt_tokens", truncate, 1, 1 << 24),
    BOOL("return_token_ids", return_token_ids),
    BOOL("return_progress", return_progress),
    BOOL("cache_prompt", cache_prompt),
    STR("cache_salt", cache_salt),
    ABOVE("timeout_s", timeout_s, 0, 86400),
};

static void set_defaults(struct completion *c)
{
    *c = (struct completion){.max_tokens = 16,
                             .n = 1,
                             .best_of = 0,
                             .logprobs = -1,
                             .truncate = 0,
                             .temperature = 1,
                             .top_p = 1,
                             .typical_p = 1,
                             .repetition_penalty = 1,
                             .cache_prompt = true};
}

/* No prompt: a new text begins, as after an end-of-text. */
static int default_prompt(struct completion *c, const struct param_env *env, struct api_error *e)
{
    if (c->prompts.list) return 0;
    if (env->eos < 0)
        return api_fail(
            e, API_MISSING_PARAMETER, "prompt",
            "'prompt' is missing, and this model has no end-of-text token to start from");
    c->prompts.list = mem_calloc(1, sizeof *c->prompts.list);
    c->prompts.n = 1;
    tokens_push(&c->prompts.list[0], env->eos);
    return 0;
}

static int check_counts(const struct completion *c, const struct param_env *env,
                        struct api_error *e)
{
    if (c->best_of && c->best_of < c->n)
        return api_fail(e, API_INVALID_VALUE, "best_of",
                        "'best_of' is %lld: expected at least n, %lld", (long long)c->best_of,
                        (long long)c->n);
    if (c->best_of > c->n && c->stream)
        return api_fail(e, API_INVALID_VALUE, "best_of",
                        "'best_of' is %lld with stream: only n choices can be streamed",
                        (long long)c->best_of);
    int64_t total = (int64_t)(completion_per_prompt(c) * c->prompts.n);
    if (total > env->max_total_n)
        return api_fail(e, API_INVALID_VALUE, c->n > 1 || !c->best_of ? "n" : "best_of",
                        "the request asks for %lld completions in total: at most %lld are accepted",
                        (long long)total, (long long)env->max_total_n);
    if (c->min_tokens > c->max_tokens)
        return api_fail(e, API_INVALID_VALUE, "min_tokens",
                        "'min_tokens' is %lld: expected at most max_tokens, %lld",
                        (long long)c->min_tokens, (long long)c->max_tokens);
    return 0;
}

static int check_lengths(struct completion *c, const struct param_env *env, struct api_error *e)
{
    for (size_t i = 0; i < c->prompts.n; i++) {
        struct tokens *t = &c->prompts.list[i];
        size_t keep = (size_t)c->truncate;
        if (keep && t->n > keep) {
            memmove(t->ids, t->ids + (t->n - keep), keep * sizeof *t->ids);
            t->n = keep;
            c->truncated = true;
        }
        if (env_fits(env, "prompt", t->n, c->max_tokens, e)) return -1;
    }
    return 0;
}

int completion_parse(struct completion *c, const json_t *body, const struct param_env *env,
                     struct api_error *e)
{
    set_defaults(c);
    int rc = params_parse(body, table, sizeof table / sizeof *table, c, env, e);
    if (rc == 0) rc = default_prompt(c, env, e);
    if (rc == 0) rc = check_counts(c, env, e);
    if (rc == 0) rc = check_lengths(c, env, e);
    if (rc) completion_release(c);
    c->tokenizer = env->tokenizer;
    return rc;
}

void completion_release(struct completion *c)
{
    for (size_t i = 0; c->echoes && i < c->prompts.n; i++)
        token_text_release(&c->echoes[i]);
    free(c->echoes);
    for (size_t i = 0; i < c->n_stop; i++)
        free(c->stop[i]);
    free(c->stop);
    free(c->stop_len);
    free(c->bias);
    free(c->user);
    free(c->cache_salt);
    free(c->prefix);
    tokens_release(&c->stop_ids);
    tokens_release(&c->allowed);
    prompts_release(&c->prompts);
    *c = (struct completion){0};
}
