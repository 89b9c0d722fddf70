#ifndef TTMD_MODELS_SESSION_H
#define TTMD_MODELS_SESSION_H

#include <pthread.h>
#include <stdint.h>

#include "engine/run/engine.h"
#include "models/options.h"
#include "models/tool.h"

/* A command's hold on an engine: the flags that configure it, and a way to wait for its jobs. */
struct session_flags {
    int64_t threads, max_batch;
    const char *kv_dtype, *kernels, *dtype;
};
#define SESSION_FLAGS_DEFAULT                                                             \
    {                                                                                     \
        .threads = 0, .max_batch = 8, .kv_dtype = "f32", .kernels = NULL, .dtype = "auto" \
    }

/* The rows of an option table for a struct session_flags at `base` bytes in the command's struct. */
#define SESSION_FIELD(base, f) ((base) + offsetof(struct session_flags, f))
#define SESSION_OPTIONS(base)                                                                     \
    {"threads",                                                                                   \
     0,                                                                                           \
     OPTION_INT,                                                                                  \
     SESSION_FIELD(base, threads),                                                                \
     "N",                                                                                         \
     0,                                                                                           \
     1024,                                                                                        \
     NULL,                                                                                        \
     "compute threads; 0 = all that may be used"},                                                \
        DTYPE_OPTION(SESSION_FIELD(base, dtype)),                                                 \
        {"max-batch", 0,   OPTION_INT, SESSION_FIELD(base, max_batch),           "N",             \
         1,           256, NULL,       "sequences computed together (default 8)"},                \
        {"kv-dtype",                                                                              \
         0,                                                                                       \
         OPTION_STRING,                                                                           \
         SESSION_FIELD(base, kv_dtype),                                                           \
         "T",                                                                                     \
         0,                                                                                       \
         0,                                                                                       \
         "auto|f32|f16|int8",                                                                     \
         "element type of the KV cache (default f32: exact; the daemon's is auto)"},              \
    {                                                                                             \
        "kernels", 0, OPTION_STRING, SESSION_FIELD(base, kernels), "NAME", 0, 0, NULL,            \
            "instruction set: scalar, avx2, avx512, neon; avx512+avx512vnni: 8 bits without AMX " \
            "(default: the fastest)"                                                              \
    }

/* session_flags_fill -- the defaults of number formats that are NULL: a command begins with that when it has
 * to know whether they were given. */
void session_flags_fill(struct session_flags *f);

struct session {
    const struct tool *tool; /* borrowed */
    struct engine *engine;   /* owned */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t news; /* notifications so far; under lock */
};

/* session_open -- load the model, with a progress bar. Errors: those of engine_open(). */
int session_open(struct session *s, const struct tool *t, const struct session_flags *f,
                 const char *dir, struct err *err);
void session_close(struct session *s); /* cancels what is left; also after a failed open */

/* session_notify -- for job_spec.notify; the argument is the session. */
void session_notify(void *session);

/* session_news -- the count to hand to session_wait(); read it before looking at the jobs. */
uint64_t session_news(struct session *s);

/* session_wait -- sleep until a job has published something since `seen`, a tenth of a second has
 * passed, or a signal came. */
void session_wait(struct session *s, uint64_t seen);

#endif
