#ifndef TTMD_BASE_ERR_H
#define TTMD_BASE_ERR_H

/* Error codes: 0 is success, every failure is negative. One table in server/ maps them to HTTP
 * statuses, one in models/ to exit codes. */
enum err_code {
    ERR_NONE = 0,
    ERR_INVALID = -1,     /* a value is malformed or out of range: file, field or flag */
    ERR_TYPE = -2,        /* a value has the wrong type */
    ERR_MISSING = -3,     /* a required file, tensor, field or flag is absent */
    ERR_UNSUPPORTED = -4, /* well-formed, but asks for something that is not implemented */
    ERR_TOO_LONG = -5,    /* a prompt or text exceeds the context */
    ERR_IO = -6,          /* the operating system refused: open, read, map, socket */
    ERR_NOMEM = -7,       /* a large allocation failed; the message has the bytes asked for */
    ERR_FULL = -8,        /* a bounded queue or table is full */
    ERR_SHUTDOWN = -9,    /* draining or stopped */
    ERR_INTERNAL = -10,   /* an invariant that could be survived was broken */
};

/* struct err -- the one error object of a call chain: the first error wins, later ones are dropped.
 * Zero-initialise it: struct err e = {0}. */
struct err {
    int code;       /* enum err_code */
    char param[64]; /* offending field or flag, "" if none; set by err_set_param() */
    char msg[512];  /* one line for people, no trailing newline */
};

/* err_set -- record a failure and return its code, so that callers write `return err_set(...)`.
 *
 *   e     may be NULL: the code is still returned
 *   code  negative enum err_code
 *   fmt   names the file, tensor, field or flag, the value found and what was expected
 *
 * Thread  none of its own: e belongs to one thread.
 */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* err_set_param -- err_set() for a named request field or flag; `param` is copied (cut to fit). */
int err_set_param(struct err *e, int code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* err_code_name -- "ERR_INVALID" etc., static storage; "ERR_?" for an unknown code. */
const char *err_code_name(int code);

/* BUG -- a broken invariant: print file, line and message to stderr, then abort(). Kept in release
 * builds. Never reachable from a file, a request or a signal. */
_Noreturn void err_bug(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#define BUG(...) err_bug(__FILE__, __LINE__, __VA_ARGS__)
#define BUG_ON(cond)                                         \
    do {                                                     \
        if (__builtin_expect(!!(cond), 0)) BUG("%s", #cond); \
    } while (0)

#endif
