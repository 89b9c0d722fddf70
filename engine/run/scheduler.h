#ifndef TTMD_RUN_SCHEDULER_H
#define TTMD_RUN_SCHEDULER_H

#include "engine/base/pool.h"
#include "engine/gpt2/model.h"
#include "engine/run/job.h"
#include "engine/run/kv.h"

/* The scheduler: which sequences take part in which step, from submit to the last notify(). It
 * knows the model only through these calls, which all come from the engine thread. */
struct scheduler_model {
    void *ctx;
    /* As gpt2_forward() and gpt2_logits(). */
    void (*forward)(void *ctx, const struct gpt2_step *step, float *hidden);
    void (*logits)(void *ctx, const float *hidden, const int32_t *rows, int n, float *logits);
    /* The text of a token, as long as the model lives; *len 0 for special tokens. */
    const char *(*token_text)(void *ctx, int32_t id, size_t *len);
    int n_embd, n_positions, vocab;
    int32_t eos; /* -1 = none */
    size_t max_token_bytes;
    int least_rows; /* prompt rows that a step's fixed costs for prompts are worth; 0 = none */
    bool one_role;  /* prompt and decode rows of the same text give the same bits */
};

struct scheduler_options {
    int max_batch, max_jobs, prefill_chunk_tokens; /* each >= 1 */
    int kv_blocks;                                 /* >= 1 */
    int prefix_blocks;      /* unused blocks that the prefix cache may keep; 0 = no cache */
    int speculative_tokens; /* 0 to SCHEDULER_MAX_DRAFT */
    double row_price;       /* of a guess, in tokens; 0 = as measured, which is a matter of time */
    struct pool *pool;      /* borrowed; used by the engine thread */
    const struct kernels *kernels;
    engine_on_step *on_step; /* may be NULL */
    void *on_step_arg;
};

struct scheduler;

/* Rows of logits computed at once: the memory for logits, whatever the length of a prompt. */
#define SCHEDULER_LOGIT_ROWS 32

/* Guesses: most of one sequence, and of all sequences in a step. */
#define SCHEDULER_MAX_DRAFT 16
#define SCHEDULER_DRAFT_ROWS 32

/* scheduler_rows -- most rows of a step. */
static inline int scheduler_rows(int max_batch, int prefill_chunk_tokens, int speculative_tokens)
{
    return max_batch + prefill_chunk_tokens + (speculative_tokens > 0 ? SCHEDULER_DRAFT_ROWS : 0);
}

/* scheduler_open -- allocate all that steps will need and start the engine thread. The options are
 * copied.
 * Errors  ERR_INVALID, ERR_NOMEM, ERR_IO (thread); nothing is left behind. */
int scheduler_open(struct scheduler **out, const struct scheduler_model *m,
                   const struct scheduler_options *o, struct err *err);

/* scheduler_close -- finish all jobs as CANCELLED, join the thread, free. NULL is fine. */
void scheduler_close(struct scheduler *s);

int scheduler_submit(struct scheduler *s, const struct job_spec *spec, struct job **out,
                     struct err *err);
void scheduler_stats(const struct scheduler *s, struct engine_stats *out);
void scheduler_drop_prefixes(struct scheduler *s); /* as engine_drop_prefixes() */
void scheduler_set_on_step(struct scheduler *s, engine_on_step *fn, void *arg);

#endif
