/* Errors are values: one struct err travels down a call chain and keeps the first failure, because
 * the first is the cause and what follows is its echo. Codes are negative so that sizes and counts
 * can share the return value with them. */
#include "engine/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void record(struct err *e, int code, const char *param, const char *fmt, va_list ap)
{
    if (!e || e->code) return;
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    for (char *p = e->msg; *p; p++) /* names come from hostile files: keep it one printable line */
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    record(e, code, "", fmt, ap);
    va_end(ap);
    return code;
}

int err_set_param(struct err *e, int code, const char *param, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    record(e, code, param, fmt, ap);
    va_end(ap);
    return code;
}

const char *err_code_name(int code)
{
    static const char *const names[] = {
        "ERR_NONE", "ERR_INVALID", "ERR_TYPE", "ERR_MISSING",  "ERR_UNSUPPORTED", "ERR_TOO_LONG",
        "ERR_IO",   "ERR_NOMEM",   "ERR_FULL", "ERR_SHUTDOWN", "ERR_INTERNAL"};
    int i = -code;
    return i >= 0 && i < (int)(sizeof names / sizeof *names) ? names[i] : "ERR_?";
}

void err_bug(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "BUG at %s:%d: ", file, line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}
