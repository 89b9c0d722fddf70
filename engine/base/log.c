/* Events as lines. A line is put together in a buffer and leaves in one write(2) under a lock, so
 * that lines of different threads, and of processes that share the descriptor, do not interleave.
 * What strings contain comes from clients: both formats escape control characters and replace
 * ill-formed UTF-8, so that a hostile string can neither forge a line nor reach a terminal.
 * stdio is not used: its buffer would belong to all of the process and could be lost at a crash.
 *
 * Logging never waits: when the reader of a pipe or socket stands still (a log collector that hangs), lines
 * are dropped and counted, and the count is logged once there is room again. Otherwise every thread would
 * soon sleep in write(2), health probes and shutdown included. (Not O_NONBLOCK: the flag belongs to the open
 * file, which the shell and other processes share.) */
#include "engine/base/log.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/utf8.h"

static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};
static const char *const level_columns[] = {"DEBUG", "INFO ", "WARN ", "ERROR"};
static const char *const format_names[] = {"text", "json"};

static int find_name(const char *const *names, int n, const char *s)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], s)) return i;
    return -1;
}

int log_level_parse(const char *s)
{
    return find_name(level_names, 5, s);
}

int log_format_parse(const char *s)
{
    return find_name(format_names, 2, s);
}

void log_init(struct log *l, int fd, enum log_level level, enum log_format format)
{
    *l = (struct log){.fd = fd, .level = level, .format = format};
    pthread_mutex_init(&l->lock, NULL);
}

void log_release(struct log *l)
{
    pthread_mutex_destroy(&l->lock);
}

static void put_time(struct buf *b)
{
    uint64_t ms = clock_unix_ms();
    time_t s = (time_t)(ms / 1000);
    struct tm t;
    gmtime_r(&s, &t);
    char text[40];
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &t);
    buf_printf(b, "%s.%03dZ", text, (int)(ms % 1000));
}

static bool is_control(uint32_t cp)
{
    return cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || cp == 0x2028 || cp == 0x2029;
}

/* The inside of a JSON string. */
static void put_escaped(struct buf *b, const char *s)
{
    size_t len = strlen(s);
    while (len) {
        uint32_t cp;
        size_t n = utf8_next(s, len, &cp);
        if (!n) n = len; /* a character cut off at the end: one maximal subpart */
        if (cp == UINT32_MAX)
            buf_puts(b, UTF8_REPLACEMENT);
        else if (cp == '"' || cp == '\\')
            buf_printf(b, "\\%c", (char)cp);
        else if (cp == '\n')
            buf_puts(b, "\\n");
        else if (cp == '\t')
            buf_puts(b, "\\t");
        else if (is_control(cp))
            buf_printf(b, "\\u%04x", (unsigned)cp);
        else
            buf_append(b, s, n);
        s += n;
        len -= n;
    }
}

static void put_quoted(struct buf *b, const char *s)
{
    buf_putc(b, '"');
    put_escaped(b, s);
    buf_putc(b, '"');
}

/* Text values are bare while that is unambiguous. */
static bool needs_quotes(const char *s)
{
    if (!*s) return true;
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f || strchr("\"\\=", *s))
            return true;
    return false;
}

static void put_value(struct buf *b, const struct log_field *f, bool json)
{
    switch (f->kind) {
    case LOG_F_INT:
        buf_printf(b, "%lld", (long long)f->i);
        return;
    case LOG_F_NUM:
        if (isfinite(f->num))
            buf_printf(b, "%.9g", f->num);
        else
            buf_puts(b, json ? "null" : isnan(f->num) ? "nan" : f->num < 0 ? "-inf" : "inf");
        return;
    case LOG_F_STR:
        if (json || needs_quotes(f->str))
            put_quoted(b, f->str);
        else
            buf_puts(b, f->str);
    }
}

static void put_event(struct buf *b, bool json, enum log_level level, const char *msg,
                      const struct log_field *fields, int n_fields)
{
    if (json) buf_puts(b, "{\"time\":\"");
    put_time(b);
    if (json) {
        buf_printf(b, "\",\"level\":\"%s\",\"msg\":", level_names[level]);
        put_quoted(b, msg);
    } else {
        buf_printf(b, " %s ", level_columns[level]);
        put_escaped(b, msg);
    }
    for (int i = 0; i < n_fields; i++) {
        if (fields[i].kind == LOG_F_STR && !fields[i].str) continue;
        buf_printf(b, json ? ",\"%s\":" : " %s=", fields[i].key);
        put_value(b, &fields[i], json);
    }
    buf_puts(b, json ? "}\n" : "\n");
}

/* A pipe or socket that poll() calls writable takes PIPE_BUF bytes without waiting. Returns the bytes that were
 * taken. */
static size_t write_ready(int fd, const char *p, size_t len)
{
    size_t done = 0;
    while (done < len) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        int rc = poll(&ready, 1, 0);
        if (rc < 0 && errno == EINTR) continue;
        if (rc <= 0) break;
        size_t piece = len - done < PIPE_BUF ? len - done : PIPE_BUF;
        ssize_t n = write(fd, p + done, piece);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break; /* nobody can be told that the log is gone */
        done += (size_t)n;
    }
    return done;
}

/* Write `line`, after what earlier losses left to say. Lock held. */
static void emit(struct log *l, const struct buf *line)
{
    size_t before = 0;
    struct buf b = {0};
    if (l->torn) buf_putc(&b, '\n');
    if (l->lost) {
        const struct log_field count = LOG_I("lines", l->lost);
        put_event(&b, l->format == LOG_JSON, LOG_WARN, "log lines were dropped", &count, 1);
    }
    before = b.len;
    buf_append(&b, line->data, line->len);
    size_t done = write_ready(l->fd, b.data, b.len);
    if (done >= before) {
        l->lost = 0;
        l->torn = false;
    }
    if (done < b.len) {
        l->lost++;
        l->torn = l->torn || (done > 0 && done != before);
    }
    buf_release(&b);
}

void log_event(struct log *l, enum log_level level, const char *msg, const struct log_field *fields,
               int n_fields)
{
    if (!l || level < l->level || level >= LOG_OFF) return;
    struct buf line = {0};
    put_event(&line, l->format == LOG_JSON, level, msg, fields, n_fields);
    pthread_mutex_lock(&l->lock);
    emit(l, &line);
    pthread_mutex_unlock(&l->lock);
    buf_release(&line);
}
