/* Errors on the wire. Two tables hold the whole contract: API code -> status, type, code, headers; engine
 * error -> API code. Nothing else in the server chooses a status for a failure. */
#include "server/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "server/jsonw.h"

static const struct {
    int status;
    const char *type, *code;
    int retry_after_s;
    bool no_retry;
} api_table[API_CODES] = {
    [API_OK] = {200, "", "", 0, false},
    [API_INVALID_JSON] = {400, "invalid_request_error", "invalid_json", 0, false},
    [API_INVALID_TYPE] = {400, "invalid_request_error", "invalid_type", 0, false},
    [API_INVALID_VALUE] = {400, "invalid_request_error", "invalid_value", 0, false},
    [API_MISSING_PARAMETER] = {400, "invalid_request_error", "missing_parameter", 0, false},
    [API_UNKNOWN_PARAMETER] = {400, "invalid_request_error", "unknown_parameter", 0, false},
    [API_CONTEXT_LENGTH] = {400, "invalid_request_error", "context_length_exceeded", 0, false},
    [API_UNSUPPORTED] = {400, "invalid_request_error", "unsupported_parameter", 0, false},
    [API_INVALID_KEY] = {401, "authentication_error", "invalid_api_key", 0, false},
    [API_SCOPE] = {403, "permission_error", "insufficient_scope", 0, false},
    [API_RATE_LIMIT] = {429, "rate_limit_error", "rate_limit_exceeded", 1, false},
    [API_MODEL_NOT_FOUND] = {404, "not_found_error", "model_not_found", 0, false},
    [API_NOT_FOUND] = {404, "not_found_error", "not_found", 0, false},
    [API_METHOD_NOT_ALLOWED] = {405, "invalid_request_error", "method_not_allowed", 0, false},
    [API_REQUEST_TIMEOUT] = {408, "timeout_error", "request_timeout", 0, false},
    [API_TOO_LARGE] = {413, "invalid_request_error", "request_too_large", 0, false},
    [API_OVERLOADED] = {429, "overloaded_error", "server_overloaded", 1, false},
    [API_LOADING] = {503, "unavailable_error", "model_loading", 2, false},
    [API_SHUTTING_DOWN] = {503, "unavailable_error", "shutting_down", 5, false},
    [API_QUEUE_TIMEOUT] = {503, "unavailable_error", "queue_timeout", 2, false},
    [API_DEADLINE] = {504, "timeout_error", "deadline_exceeded", 0, true},
    [API_RELOAD_BUSY] = {409, "conflict_error", "reload_in_progress", 0, true},
    [API_RELOAD_FAILED] = {422, "invalid_request_error", "reload_failed", 0, true},
    [API_INTERNAL] = {500, "server_error", "internal_error", 0, false},
};

static const struct {
    int err;
    enum api_code api;
} err_table[] = {
    {ERR_INVALID, API_INVALID_VALUE},     {ERR_TYPE, API_INVALID_TYPE},
    {ERR_MISSING, API_MISSING_PARAMETER}, {ERR_UNSUPPORTED, API_UNSUPPORTED},
    {ERR_TOO_LONG, API_CONTEXT_LENGTH},   {ERR_FULL, API_OVERLOADED},
    {ERR_SHUTDOWN, API_SHUTTING_DOWN},
};

/* A name that was cut in the middle of a character loses the rest of it. */
static void drop_halves(char *s)
{
    size_t len = strlen(s), to = 0;
    for (size_t at = 0; at < len;) {
        uint32_t cp;
        size_t n = utf8_next(s + at, len - at, &cp);
        if (!n) break;
        if (cp != UINT32_MAX) {
            memmove(s + to, s + at, n);
            to += n;
        }
        at += n;
    }
    s[to] = 0;
}

int api_fail(struct api_error *e, enum api_code code, const char *param, const char *fmt, ...)
{
    if (e->code != API_OK) return -1;
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    drop_halves(e->param);
    drop_halves(e->message);
    return -1;
}

int api_from_err(struct api_error *e, const struct err *err)
{
    enum api_code code = API_INTERNAL;
    for (size_t i = 0; i < sizeof err_table / sizeof *err_table; i++)
        if (err_table[i].err == err->code) code = err_table[i].api;
    return api_fail(e, code, err->param, "%s", err->msg);
}

int api_status(enum api_code code)
{
    return api_table[code].status;
}

int api_retry_after_s(enum api_code code)
{
    return api_table[code].retry_after_s;
}

bool api_no_retry(enum api_code code)
{
    return api_table[code].no_retry;
}

static void put_facts(const struct api_error *e, struct buf *out)
{
    json_put_cstring(out, e->message);
    buf_printf(out, ",\"type\":\"%s\",\"param\":", api_table[e->code].type);
    json_put_cstring(out, e->param[0] ? e->param : NULL);
    buf_printf(out, ",\"code\":\"%s\"", api_table[e->code].code);
    if (e->code == API_CONTEXT_LENGTH && e->n_ctx)
        buf_printf(out, ",\"n_prompt_tokens\":%zu,\"n_ctx\":%zu,\"max_tokens\":%zu",
                   e->n_prompt_tokens, e->n_ctx, e->max_tokens);
}

void api_error_json(const struct api_error *e, struct buf *out)
{
    buf_puts(out, "{\"error\":{\"message\":");
    put_facts(e, out);
    buf_puts(out, "}}");
}

void api_error_flat_json(const struct api_error *e, struct buf *out)
{
    buf_puts(out, "{\"error\":");
    put_facts(e, out);
    buf_putc(out, '}');
}
