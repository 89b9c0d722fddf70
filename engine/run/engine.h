#ifndef TTMD_RUN_ENGINE_H
#define TTMD_RUN_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/log.h"
#include "engine/gpt2/ttm_info.h"
#include "engine/run/perplexity.h"
#include "engine/run/sampler.h"

/* The facade that server/ and models/ see: a loaded model, its tokenizer, and a scheduler on a thread
 * of its own. Work goes in as jobs, results come out as append-only arrays that the consumer reads
 * at its own pace; neither side ever waits for the other.
 *
 *     engine_submit(spec) ──> queue ──> admit ── prefill ── decode ──> done
 *                                          └── results published, notify() ──> consumer: job_view()
 */
struct engine;
struct job;

/* How TTM layers are applied: AUTO takes for each role the fastest way within memory. */
enum engine_ttm { ENGINE_TTM_AUTO, ENGINE_TTM_CONTRACT, ENGINE_TTM_REBUILD, ENGINE_TTM_RESIDENT };

struct engine_options {
    const char *dir;          /* model directory */
    int threads;              /* 0 = what this process may use */
    int max_batch;            /* sequences computed together, >= 1 */
    int max_jobs;             /* jobs waiting or running; more are ERR_FULL */
    int prefill_chunk_tokens; /* most prompt tokens in one step, >= 1 */
    const char *kv_dtype;  /* of keys and values: NULL or "auto" = int8 with int8 weights, else f16;
                                 "f32", "f16", "int8" */
    size_t kv_cache_bytes; /* 0 = enough for max_batch full contexts, but <= a quarter of memory */
    const char *kernels;   /* NULL = the fastest; "scalar", "avx2", ... */
    const char *dtype;     /* of weights: NULL or "auto" = as stored; "f32", "bf16", "int8" */
    enum engine_ttm ttm_execution;
    size_t prefix_cache_bytes; /* of the KV cache, what computed prompts may keep for later ones;
                                  0 = none */
    int speculative_tokens;    /* most tokens guessed ahead per sequence and step; 0 = none */
    double row_price; /* of a guess, in tokens; 0 = as measured, which is a matter of time */
    size_t
        memory_budget_bytes; /* for all weights; 0 = TTM layers keep less than dense ones would */
    const char *rates_file;  /* where the machine's measured rates are kept, for planning TTM
                                   layers: NULL = nowhere, "auto" = the user's cache */
    struct log *log;         /* borrowed; may be NULL */
    void (*progress)(void *arg, double fraction); /* may be NULL; calling thread */
    void *progress_arg;
};
void engine_options_default(struct engine_options *o);

/* engine_check_kernels -- whether engine_open() would take options of these kernels; NULL: the fastest.
 * Errors  ERR_INVALID, as there. */
struct cpu;
int engine_check_kernels(const struct cpu *cpu, const char *name, struct err *err);

/* engine_open -- load everything and start the engine thread. Blocks until ready.
 * Errors  those of gpt2_open() and tokenizer_open(); a tokenizer with ids beyond the model's
 *         vocabulary is refused (fewer is fine); ERR_NOMEM for KV or scratch with the bytes. */
int engine_open(struct engine **out, const struct engine_options *o, struct err *err);

/* engine_close -- cancel what is left (finish CANCELLED), stop the thread, free. e may be NULL. */
void engine_close(struct engine *e);

/* ---- facts ---- */
struct engine_info {
    int n_layer, n_head, n_embd, n_ctx, n_inner, vocab_size;
    int32_t eos_id, bos_id; /* -1 = none */
    size_t n_params, weight_bytes, kv_bytes, file_bytes;
    size_t n_params_rounded;    /* after exact rounding of TTM ranks: what the model really has */
    size_t n_params_dense;      /* of the same model with dense layers */
    int n_ttm;                  /* layers that are TTM */
    const struct ttm_info *ttm; /* (n_ttm) */
    int kv_blocks, kv_block_tokens;
    size_t kv_block_bytes, prefix_cache_bytes; /* the latter: the limit, as it is kept */
    int speculative_tokens;
    int threads, max_batch;
    const char *dtype;    /* of the weights, as they are held: "F32", "BF16", "I8" */
    const char *kv_dtype; /* "F32", "F16", "I8" */
    const char *kernels;  /* "avx512" */
    const char *blas_core;
    double load_seconds;
    uint64_t fingerprint; /* of config, weights' headers and plans: for system_fingerprint */
};
const struct engine_info *engine_info(const struct engine *e);

/* ---- tokenizer; any thread ---- */
struct tokenizer;
const struct tokenizer *engine_tokenizer(const struct engine *e);

/* ---- jobs ---- */
enum finish {
    FINISH_NONE,          /* not done */
    FINISH_STOP,          /* end-of-text, stop id or stop string */
    FINISH_LENGTH,        /* max_tokens generated (also max_tokens = 0) */
    FINISH_CANCELLED,     /* job_cancel() or engine_close() */
    FINISH_QUEUE_TIMEOUT, /* queue_deadline passed before it was admitted */
    FINISH_TIMEOUT,       /* deadline passed while computing */
};
enum job_phase { JOB_QUEUED, JOB_PREFILL, JOB_DECODE, JOB_DONE };

/* job_notify -- something new was published (or the job is done). Called on the engine thread; must not
 * block or take long. Within it job_view() shows `done` in exactly one call, the last; `arg` must live
 * until then, also when a consumer has seen `done` earlier by itself. The job's reference may be
 * dropped in it, and new jobs submitted. */
typedef void job_notify(void *arg);

struct job_spec {
    const int32_t *tokens; /* (n_tokens) prompt, >= 1; copied */
    size_t n_tokens;
    int max_tokens;    /* >= 0; n_tokens + max_tokens <= n_ctx. When it is 0 the last token is only
                          scored, never computed, so that n_tokens may be n_ctx + 1 */
    int min_tokens;    /* end-of-text and stop ids are banned before so many tokens */
    bool ignore_eos;   /* end-of-text is an ordinary token */
    size_t score_from; /* prompt tokens at positions >= this get log-probabilities; SIZE_MAX =
                                 none; 0 = all (position 0 never has one: its entry is NaN) */
    int top_logprobs;  /* -1: no logprobs of generated tokens; 0: theirs; n: and the n best */
    struct sampling sampling; /* arrays copied */
    const int32_t *stop_ids;  /* (n_stop_ids); copied */
    size_t n_stop_ids;
    const char *const *stop; /* (n_stop) non-empty UTF-8; copied */
    const size_t *stop_len;
    size_t n_stop;
    bool include_stop;
    bool cache_prompt;      /* may use and fill the prefix cache; the result is the same */
    const char *cache_salt; /* only jobs of the same salt share; NULL = ""; read at submission */
    /* Where the prefix cache may not be used, jobs of one family, not 0, share what their prompts have in
     * common as long as one of them runs. */
    uint64_t family;
    uint64_t queue_deadline_ns, deadline_ns; /* clock_ns() times; 0 = none */
    job_notify *notify;                      /* may be NULL */
    void *notify_arg;
};
void job_spec_default(struct job_spec *s);

/* engine_submit -- queue a job.
 *
 *   out   *out holds one reference; job_unref() it. Dropping it does not cancel.
 *
 * Errors  ERR_FULL (max_jobs), ERR_SHUTDOWN, ERR_TOO_LONG (n_tokens + max_tokens > n_ctx), ERR_INVALID (ids out of
 *         range, no tokens, more KV blocks than exist); *out untouched, notify never called.
 * Thread  any.
 */
int engine_submit(struct engine *e, const struct job_spec *s, struct job **out, struct err *err);

/* job_cancel -- ask for an early end; the job becomes FINISH_CANCELLED at the next step boundary,
 * in whatever phase. Idempotent. Thread: any. */
void job_cancel(struct job *j);
void job_ref(struct job *j);
void job_unref(struct job *j); /* j may be NULL */

/* One token of the results. Arrays are append-only: entries below the published count never change. */
struct job_token {
    int32_t id;
    float logprob;       /* raw; NaN when not asked for or at position 0 */
    bool greedy;         /* id is the argmax of its row (valid where logprob is) */
    uint32_t text_begin; /* generated tokens: byte offset in the job's text where this token's text
                            begins; tokens with none (end-of-text) have the end of the text */
    uint32_t char_begin; /* the same in Unicode characters */
};

struct job_view {
    enum job_phase phase;
    enum finish finish; /* FINISH_NONE until done */
    size_t n_scored;    /* prompt entries published: job_prompt()[0..n_scored) */
    size_t n_tokens;    /* generated tokens published; while streaming only those whose text was
                                 released; tokens swallowed by a stop string never appear */
    const char *text;   /* generated text, well-formed UTF-8, [0, text_len) released */
    size_t text_len;    /* bytes, at a character boundary */
    bool done;
    /* valid when done: */
    size_t
        completion_tokens; /* all generated tokens, also the swallowed ones and the end-of-text */
    size_t drafted_tokens, accepted_tokens; /* guessed ahead, and found right */
    int32_t stop_id;                        /* the id that stopped it, -1 */
    int stop_index;                         /* the stop string, -1 */
    double
        sum_logprob; /* over completion tokens, if logprobs were asked for (best_of ranks by it) */
    /* any time: */
    size_t prompt_done;   /* prompt tokens processed */
    size_t cached_tokens; /* of them, those whose KV was reused */
    uint64_t submitted_ns, admitted_ns, first_token_ns, done_ns; /* clock_ns(); 0 = not yet */
};

/* job_view -- a consistent snapshot. Pointers live as long as the reference. Thread: any. */
void job_view(const struct job *j, struct job_view *v);
const struct job_token *job_prompt(const struct job *j); /* (n_tokens of the spec) */
const struct job_token *job_tokens(const struct job *j); /* generated */
const struct token_logprob *job_prompt_top(const struct job *j,
                                           size_t i); /* (max(top_logprobs,0)) best first */
const struct token_logprob *job_token_top(const struct job *j, size_t i);

/* ---- metrics ---- */
struct engine_stats { /* gauges now, counters since start */
    int running, waiting, jobs_max;
    int kv_blocks, kv_blocks_used;
    uint64_t prompt_tokens_computed, prompt_tokens_cached, generated_tokens, scored_tokens;
    uint64_t steps;
    uint64_t prefix_lookup_tokens; /* prompt tokens that were looked for in the prefix cache */
    uint64_t drafted_tokens, accepted_tokens;
    int prefix_cached_blocks; /* now: KV blocks that only the prefix cache holds */
};
void engine_stats(const struct engine *e, struct engine_stats *s); /* any thread */

/* Called on the engine thread after each step; must be quick. Set before the first job. */
struct engine_step_info {
    int decode_rows, prefill_rows; /* guesses are decode rows */
    double seconds;
};
typedef void engine_on_step(void *arg, const struct engine_step_info *i);
void engine_set_on_step(struct engine *e, engine_on_step *fn, void *arg);

/* engine_drop_prefixes -- forget every cached prompt, before the next job is admitted. Thread: any. */
void engine_drop_prefixes(struct engine *e);

#endif
