#ifndef TTMD_RUN_JOB_H
#define TTMD_RUN_JOB_H

#include <stdatomic.h>

#include "engine/run/draft.h"
#include "engine/run/engine.h"
#include "engine/run/gate.h"

/* A job as the scheduler sees it. What consumers see is engine.h's job_view(). */
struct job {
    atomic_uint refs;
    atomic_bool cancel;
    struct job *next; /* in the inbox or the queue */

    /* The request: constant after job_new(). Arrays are owned. */
    int32_t *tokens;
    size_t n_tokens;
    int max_tokens, min_tokens, top_logprobs;
    bool ignore_eos;
    size_t score_from;
    struct sampling sampling;
    struct logit_bias *bias;
    int32_t *allowed;
    int32_t *banned; /* (n_banned) end-of-text and stop ids, while min_tokens is not reached */
    size_t n_banned;
    const int32_t *stop_ids; /* (n_stop_ids) inside `banned` */
    size_t n_stop_ids;
    int32_t eos; /* -1 when it is an ordinary token */
    char *stop_bytes;
    const char **stop; /* (n_stop) into stop_bytes */
    size_t *stop_len;
    bool cache;    /* its blocks are looked for and kept ... */
    bool fleeting; /* ... as long as one of its family runs */
    uint64_t salt; /* prefix_salt() or prefix_family() */
    uint64_t
        *chain; /* (n_chain) hashes of the prompt up to the end of each full block; NULL without */
    size_t n_chain;
    uint64_t queue_deadline_ns, deadline_ns;
    job_notify *notify;
    void *notify_arg;

    /* Written by the engine thread only, below the published counts never again. */
    struct gate gate;
    struct job_token *prompt;         /* (n_tokens) NULL unless something is scored */
    struct token_logprob *prompt_top; /* (n_tokens, top) NULL without */
    struct job_token *out;            /* (max_tokens) */
    struct token_logprob *out_top;    /* (max_tokens, top) NULL without */
    struct job_end {                  /* engine thread only: where each token's text ends */
        uint32_t text_end;
    } * ends;                        /* (max_tokens) */
    struct sampler_history *history; /* NULL when no penalty asks for it */
    struct draft *draft;             /* NULL when nothing is guessed */
    size_t n_out;                    /* generated so far */
    double sum_logprob;

    /* Published: stored with release by the engine thread, read with acquire by anyone. `shown` holds
     * two counts in one word, so that a snapshot never has a token without its text. */
    atomic_uint_least64_t shown; /* text bytes << 32 | tokens */
    atomic_size_t n_scored, prompt_done, cached_tokens;
    atomic_int phase;
    atomic_uint_least64_t submitted_ns, admitted_ns, first_token_ns, done_ns;
    enum finish finish; /* these are written before `done`, once */
    int32_t stop_id;
    size_t drafted_tokens, accepted_tokens;
    atomic_bool done;
};

/* What a job must know of the model. */
struct job_limits {
    int n_ctx, vocab;
    int32_t eos;            /* -1 = none */
    size_t max_token_bytes; /* of any token's text */
    bool cache;             /* there is a prefix cache */
    int speculative_tokens; /* 0: no job gets a draft */
};
#define JOB_MAX_TOP_LOGPROBS 1024

/* job_new -- check a spec and copy it, with all storage that its results can need; one reference.
 * Errors  ERR_INVALID, ERR_TOO_LONG (also when the results do not fit 32-bit offsets), with the field
 *         in err->param. */
int job_new(struct job **out, const struct job_spec *s, const struct job_limits *l,
            struct err *err);

/* job_positions -- KV positions it can come to use: its last token is never fed. */
int job_positions(const struct job *j);

/* job_time -- one of the job's times, for whoever looks. */
static inline uint64_t job_time(const atomic_uint_least64_t *t)
{
    return atomic_load_explicit(t, memory_order_relaxed);
}

/* job_feed -- prompt tokens to be computed: all, or all but the last when nothing is generated. */
int job_feed(const struct job *j);

/* job_accept -- the next generated token, whose entry out[n_out] (id, logprob, greedy) is filled in and
 * which is in the history.
 * `text` are its bytes, none for special tokens. Returns how it ends the job, FINISH_NONE if it
 * does not. */
enum finish job_accept(struct job *j, const char *text, size_t len);

/* job_publish -- show what was released since the last call; true when that is anything. */
bool job_publish(struct job *j);

/* job_finish -- release what is held back, publish all, set done, notify for the last time. Drops no
 * reference. */
void job_finish(struct job *j, enum finish how);

#endif
