/* Request fields by table: name, type, range, where the value goes. The tables are in the files of the
 * endpoints; here is what they share. A message always names the field, the value found and what was
 * expected, for the person who reads it in a client's traceback. */
#include "server/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

const char *param_kind(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "?";
}

const char *param_text(const char *name, const json_t *v, const char *expected, struct api_error *e)
{
    if (!json_is_string(v))
        api_fail(e, API_INVALID_TYPE, name, "'%s' is %s: expected %s", name, param_kind(v),
                 expected);
    else if (strlen(json_string_value(v)) != json_string_length(v))
        api_fail(e, API_INVALID_VALUE, name, "'%s' holds the character NUL: expected %s", name,
                 expected);
    else
        return json_string_value(v);
    return NULL;
}

int param_int(const char *name, const json_t *v, int64_t min, int64_t max, int64_t *out,
              struct api_error *e)
{
    int64_t i;
    if (json_is_integer(v)) {
        i = json_integer_value(v);
    } else if (json_is_real(v)) {
        double d = json_real_value(v);
        if (d != floor(d) || fabs(d) >= 9223372036854775808.0)
            return api_fail(e, API_INVALID_TYPE, name, "'%s' is %.9g: expected an integer", name,
                            d);
        i = (int64_t)d;
    } else {
        return api_fail(e, API_INVALID_TYPE, name, "'%s' is %s: expected an integer", name,
                        param_kind(v));
    }
    if (i < min || i > max)
        return api_fail(e, API_INVALID_VALUE, name,
                        "'%s' is %lld: expected an integer from %lld to %lld", name, (long long)i,
                        (long long)min, (long long)max);
    *out = i;
    return 0;
}

static int64_t int_bound(double d)
{
    if (d >= 9223372036854775807.0) return INT64_MAX;
    if (d <= -9223372036854775808.0) return INT64_MIN;
    return (int64_t)d;
}

static int parse_number(const struct param *p, const json_t *v, double *out, struct api_error *e)
{
    if (!json_is_number(v))
        return api_fail(e, API_INVALID_TYPE, p->name, "'%s' is %s: expected a number", p->name,
                        param_kind(v));
    double d = json_number_value(v);
    if (!(d >= p->min && d <= p->max) || (p->above_min && d <= p->min))
        return api_fail(e, API_INVALID_VALUE, p->name,
                        "'%s' is %.9g: expected a number %s %.9g %s %.9g", p->name, d,
                        p->above_min ? "above" : "from", p->min, p->above_min ? "and up to" : "to",
                        p->max);
    *out = d;
    return 0;
}

static int parse_one(const struct param *p, const json_t *v, char *base,
                     const struct param_env *env, struct api_error *e)
{
    void *at = base + p->offset;
    const char *text;
    switch (p->type) {
    case PARAM_BOOL:
        if (!json_is_boolean(v))
            return api_fail(e, API_INVALID_TYPE, p->name, "'%s' is %s: expected true or false",
                            p->name, param_kind(v));
        *(bool *)at = json_is_true(v);
        return 0;
    case PARAM_INT:
        return param_int(p->name, v, int_bound(p->min), int_bound(p->max), at, e);
    case PARAM_NUMBER:
        return parse_number(p, v, at, e);
    case PARAM_STRING:
        text = param_text(p->name, v, "a string", e);
        if (!text) return -1;
        free(*(char **)at);
        *(char **)at = mem_strdup(text);
        return 0;
    case PARAM_CUSTOM:
        return p->parse(p, v, base, env, e);
    }
    return 0;
}

int params_parse(const json_t *body, const struct param *table, size_t n, void *out,
                 const struct param_env *env, struct api_error *e)
{
    size_t known = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_object_get(body, table[i].name);
        if (!v) continue;
        known++;
        if (json_is_null(v)) continue;
        if (parse_one(&table[i], v, out, env, e)) return -1;
    }
    if (!env->strict || known == json_object_size(body)) return 0;
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)body, key, v)
    {
        bool found = false;
        for (size_t i = 0; i < n && !found; i++)
            found = strcmp(table[i].name, key) == 0;
        if (!found) return api_fail(e, API_UNKNOWN_PARAMETER, key, "unknown field '%.100s'", key);
    }
    return 0;
}

int param_ids(const char *name, const json_t *v, const struct param_env *env, struct tokens *out,
              struct api_error *e)
{
    if (!json_is_array(v))
        return api_fail(e, API_INVALID_TYPE, name, "'%s' is %s: expected an array of token ids",
                        name, param_kind(v));
    size_t n = json_array_size(v);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(v, i);
        char at[96];
        snprintf(at, sizeof at, "%s[%zu]", name, i);
        int64_t id;
        if (param_int(at, item, 0, env->vocab - 1, &id, e)) {
            snprintf(e->param, sizeof e->param, "%s", name);
            return -1;
        }
        tokens_push(out, (int32_t)id);
    }
    return 0;
}

static int one_prompt(const char *name, const json_t *v, const struct param_env *env,
                      bool allow_empty, struct prompts *out, struct api_error *e)
{
    struct tokens *t = &out->list[out->n++];
    if (json_is_string(v))
        tokenizer_encode(env->tokenizer, json_string_value(v), json_string_length(v), true, t);
    else if (param_ids(name, v, env, t, e))
        return -1;
    if (t->n == 0 && !allow_empty)
        return api_fail(
            e, API_INVALID_VALUE, name,
            "'%s' is empty: expected at least one token (leave the field out to start a new text)",
            name);
    for (size_t i = 0; i < t->n; i++) /* a tokenizer may know more ids than the model */
        if (t->ids[i] >= env->vocab)
            return api_fail(e, API_INVALID_VALUE, name, "'%s' holds token %d: the model has %d",
                            name, t->ids[i], env->vocab);
    return 0;
}

int param_prompts(const char *name, const json_t *v, const struct param_env *env, bool allow_empty,
                  struct prompts *out, struct api_error *e)
{
    prompts_release(out);
    const json_t *first = json_is_array(v) ? json_array_get(v, 0) : NULL;
    if (json_is_array(v) && !first)
        return api_fail(e, API_INVALID_VALUE, name, "'%s' is an empty array", name);
    if (!json_is_array(v) && !json_is_string(v))
        return api_fail(e, API_INVALID_TYPE, name,
                        "'%s' is %s: expected a string, an array of strings, of token ids, or of "
                        "arrays of token ids",
                        name, param_kind(v));
    bool many = first && (json_is_string(first) || json_is_array(first));
    size_t n = many ? json_array_size(v) : 1;
    if (n > (size_t)env->max_prompts)
        return api_fail(e, API_INVALID_VALUE, name, "'%s' holds %zu prompts: expected at most %lld",
                        name, n, (long long)env->max_prompts);
    out->list = mem_calloc(n, sizeof *out->list);
    if (!many) return one_prompt(name, v, env, allow_empty, out, e);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(v, i);
        char at[64];
        snprintf(at, sizeof at, "%s[%zu]", name, i);
        if (json_typeof(item) != json_typeof(first))
            return api_fail(e, API_INVALID_TYPE, name, "'%s' is %s, but %s[0] is %s", at,
                            param_kind(item), name, param_kind(first));
        if (one_prompt(at, item, env, allow_empty, out, e)) {
            snprintf(e->param, sizeof e->param, "%s", name);
            return -1;
        }
    }
    return 0;
}

void prompts_release(struct prompts *p)
{
    for (size_t i = 0; i < p->n; i++)
        tokens_release(&p->list[i]);
    free(p->list);
    *p = (struct prompts){0};
}

int model_named(const char *param, const char *asked, const char *served, struct api_error *e)
{
    if (strcmp(asked, served) == 0) return 0;
    return api_fail(e, API_MODEL_NOT_FOUND, param,
                    "the model '%.200s' does not exist: this server has '%.200s'", asked, served);
}

int param_model(const struct param *p, const json_t *v, void *out, const struct param_env *env,
                struct api_error *e)
{
    (void)out;
    const char *name = param_text(p->name, v, "the name of a model", e);
    return name ? model_named(p->name, name, env->model_id, e) : -1;
}
