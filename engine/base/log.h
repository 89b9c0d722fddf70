#ifndef TTMD_BASE_LOG_H
#define TTMD_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include <pthread.h>

/* Events for operators: one line each, as text for people or JSON for machines, always the same
 * fields. A NULL struct log is a silent one, so that libraries and tests need not care. */
enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };
enum log_format { LOG_TEXT, LOG_JSON };

struct log {
    int fd; /* borrowed; 2 = stderr */
    enum log_level level;
    enum log_format format;
    pthread_mutex_t lock; /* lines never interleave */
    uint64_t lost;        /* lines dropped since the last that could be written */
    bool torn;            /* the last line was cut off */
};

void log_init(struct log *l, int fd, enum log_level level, enum log_format format);
void log_release(struct log *l);

/* One field of an event. Keys are literals; strings are borrowed during the call and escaped. */
struct log_field {
    const char *key;
    enum { LOG_F_STR, LOG_F_INT, LOG_F_NUM } kind;
    const char *str;
    int64_t i;
    double num;
};
#define LOG_S(k, v)                               \
    {                                             \
        .key = (k), .kind = LOG_F_STR, .str = (v) \
    }
#define LOG_I(k, v)                                      \
    {                                                    \
        .key = (k), .kind = LOG_F_INT, .i = (int64_t)(v) \
    }
#define LOG_N(k, v)                                       \
    {                                                     \
        .key = (k), .kind = LOG_F_NUM, .num = (double)(v) \
    }

/* log_event -- write one event in one write(2).
 *   text:  2026-01-31T12:00:00.123Z INFO  request done request_id=cmpl-1 status=200 ms=12.5
 *   json:  {"time":"...","level":"info","msg":"request done","request_id":"cmpl-1",...}
 * A string field that is NULL is left out. Never waits for the reader: a line that does not fit is
 * dropped and counted. Thread: any. */
void log_event(struct log *l, enum log_level level, const char *msg, const struct log_field *fields,
               int n_fields);

/* log_at(l, LOG_INFO, "model loaded", LOG_S("dir", dir), LOG_I("bytes", n)); at least one field. */
#define log_at(l, level, msg, ...)                                          \
    log_event((l), (level), (msg), (const struct log_field[]){__VA_ARGS__}, \
              (int)(sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field)))

int log_level_parse(const char *s);  /* "debug".."error", "off"; -1 if unknown */
int log_format_parse(const char *s); /* "text", "json"; -1 if unknown */

#endif
