#ifndef TTMD_SERVER_ERROR_H
#define TTMD_SERVER_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"

/* What a client is told when something fails. One table gives each code its status and type. */
enum api_code {
    API_OK,
    API_INVALID_JSON,
    API_INVALID_TYPE,
    API_INVALID_VALUE,
    API_MISSING_PARAMETER,
    API_UNKNOWN_PARAMETER,
    API_CONTEXT_LENGTH,
    API_UNSUPPORTED,
    API_INVALID_KEY,
    API_SCOPE,
    API_RATE_LIMIT,
    API_MODEL_NOT_FOUND,
    API_NOT_FOUND,
    API_METHOD_NOT_ALLOWED,
    API_REQUEST_TIMEOUT,
    API_TOO_LARGE,
    API_OVERLOADED,
    API_LOADING,
    API_SHUTTING_DOWN,
    API_QUEUE_TIMEOUT,
    API_DEADLINE,
    API_RELOAD_BUSY,
    API_RELOAD_FAILED,
    API_INTERNAL,
    API_CODES
};

/* struct api_error -- the one error object of a request: the first error wins. Zero-initialise. */
struct api_error {
    enum api_code code;
    char param[64]; /* offending field, "" none */
    char message[600];
    size_t n_prompt_tokens, n_ctx, max_tokens; /* API_CONTEXT_LENGTH */
};

/* api_fail -- record a failure; returns -1. param may be NULL. */
int api_fail(struct api_error *e, enum api_code code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* api_from_err -- the same from an engine error; returns -1. */
int api_from_err(struct api_error *e, const struct err *err);

int api_status(enum api_code code);
int api_retry_after_s(enum api_code code); /* 0 = no Retry-After */
bool api_no_retry(enum api_code code);     /* "x-should-retry: false" */

/* api_error_json -- {"error":{"message","type","param","code",...}} */
void api_error_json(const struct api_error *e, struct buf *out);
/* api_error_flat_json -- {"error":"message","type","param","code",...}: what KServe's clients read. */
void api_error_flat_json(const struct api_error *e, struct buf *out);

#endif
