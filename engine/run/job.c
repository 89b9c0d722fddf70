/* A job is a set of append-only arrays, sized for the most it can produce when it is submitted, with
 * counters that say how much of them is valid. The engine thread writes entries, then moves the
 * counter; a consumer reads the counter, then the entries, whenever it likes. A ring buffer would be
 * smaller but makes the engine wait for slow clients or lose their events.
 *
 * When a token is shown: tokens appear in order, and only once all of their text has been released by
 * the gate (it is no part of a possible stop string, nor of an incomplete character), or when the
 * job ends. A stop string cuts the text: tokens that it keeps from being shown and whose text begins at the
 * cut or after it are counted in completion_tokens but never shown. Tokens without text (end-of-text) have the
 * place in the text where they came; one that came before the stop string began has been shown. All this depends
 * on the tokens alone, not on who looks when nor on how many of them a step brings: each is published by itself.
 *
 * Invariant: `done` is set once, after everything else; the notify() in which it is set is the only
 * one that sees it set, and the last. */
#include "engine/run/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/run/prefix.h"

void job_spec_default(struct job_spec *s)
{
    *s = (struct job_spec){
        .max_tokens = 16, .score_from = SIZE_MAX, .top_logprobs = -1, .cache_prompt = true};
    sampling_default(&s->sampling);
}

/* ---- checks ---- */

static int check_ids(const char *field, const int32_t *ids, size_t n, int vocab, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return err_set_param(err, ERR_INVALID, field,
                                 "%s[%zu] is token id %d, expected 0 to %d", field, i, (int)ids[i],
                                 vocab - 1);
    return 0;
}

static int check_number(const char *field, double x, double lo, double hi, struct err *err)
{
    if (x >= lo && x <= hi) return 0;
    return err_set_param(err, ERR_INVALID, field, "%s is %g, expected %g to %g", field, x, lo, hi);
}

static int check_sampling(const struct sampling *s, int vocab, struct err *err)
{
    const struct {
        const char *field;
        double x, lo, hi;
    } numbers[] = {
        {"temperature", s->temperature, 0, 1e6},
        {"top_k", s->top_k, 0, INT32_MAX},
        {"top_p", s->top_p, 0, 1},
        {"typical_p", s->typical_p, 0, 1},
        {"min_p", s->min_p, 0, 1},
        {"repetition_penalty", s->repetition_penalty, 1e-3, 1e3},
        {"presence_penalty", s->presence_penalty, -1e6, 1e6},
        {"frequency_penalty", s->frequency_penalty, -1e6, 1e6},
    };
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof numbers / sizeof *numbers; i++)
        rc = check_number(numbers[i].field, numbers[i].x, numbers[i].lo, numbers[i].hi, err);
    for (size_t i = 0; !rc && i < s->n_bias; i++) {
        rc = check_ids("logit_bias", &s->bias[i].id, 1, vocab, err);
        if (!rc) rc = check_number("logit_bias", (double)s->bias[i].bias, -1e6, 1e6, err);
    }
    if (!rc && s->allowed && s->n_allowed == 0)
        rc = err_set_param(err, ERR_INVALID, "allowed_token_ids",
                           "allowed_token_ids is empty, expected at least one id");
    if (!rc && s->allowed)
        rc = check_ids("allowed_token_ids", s->allowed, s->n_allowed, vocab, err);
    return rc;
}

static int check_length(const struct job_spec *s, int n_ctx, struct err *err)
{
    if (s->n_tokens == 0)
        return err_set_param(err, ERR_INVALID, "prompt",
                             "the prompt has no tokens, expected at least 1");
    if (s->max_tokens < 0)
        return err_set_param(err, ERR_INVALID, "max_tokens", "max_tokens is %d, expected 0 or more",
                             s->max_tokens);
    /* Only predicted, the last token needs no position: a prompt to be scored may be one longer. */
    size_t most = (size_t)n_ctx + (s->max_tokens == 0);
    if (s->n_tokens > most || (size_t)s->max_tokens > most - s->n_tokens)
        return err_set_param(err, ERR_TOO_LONG, "prompt",
                             "%zu prompt tokens and max_tokens %d exceed the context of %d tokens",
                             s->n_tokens, s->max_tokens, n_ctx);
    return 0;
}

static int check_stops(const struct job_spec *s, struct err *err)
{
    for (size_t i = 0; i < s->n_stop; i++) {
        if (s->stop_len[i] == 0)
            return err_set_param(err, ERR_INVALID, "stop", "stop string %zu is empty", i);
        if (s->stop_len[i] > UINT32_MAX || !utf8_valid(s->stop[i], s->stop_len[i]))
            return err_set_param(err, ERR_INVALID, "stop", "stop string %zu is not valid UTF-8", i);
    }
    return 0;
}

static int check_spec(const struct job_spec *s, const struct job_limits *l, struct err *err)
{
    int rc = check_length(s, l->n_ctx, err);
    if (!rc) rc = check_ids("prompt", s->tokens, s->n_tokens, l->vocab, err);
    if (!rc) rc = check_ids("stop_token_ids", s->stop_ids, s->n_stop_ids, l->vocab, err);
    if (!rc) rc = check_sampling(&s->sampling, l->vocab, err);
    if (!rc) rc = check_stops(s, err);
    int most = l->vocab < JOB_MAX_TOP_LOGPROBS ? l->vocab : JOB_MAX_TOP_LOGPROBS;
    if (!rc && (s->top_logprobs < -1 || s->top_logprobs > most))
        rc = err_set_param(err, ERR_INVALID, "logprobs", "logprobs is %d, expected 0 to %d",
                           s->top_logprobs, most);
    if (!rc && l->max_token_bytes > UINT32_MAX / 4 / ((size_t)s->max_tokens + 1))
        rc =
            err_set_param(err, ERR_TOO_LONG, "max_tokens",
                          "max_tokens %d times %zu bytes of the longest token exceed 1 GiB of text",
                          s->max_tokens, l->max_token_bytes);
    return rc;
}

/* ---- life ---- */

static void *copy(const void *p, size_t n, size_t size)
{
    size_t bytes;
    BUG_ON(!mem_mul(n, size, &bytes));
    if (n == 0) return NULL;
    return memcpy(mem_alloc(bytes), p, bytes);
}

static void copy_stops(struct job *j, const struct job_spec *s)
{
    size_t total = 0;
    for (size_t i = 0; i < s->n_stop; i++)
        BUG_ON(!mem_add(total, s->stop_len[i], &total));
    j->stop_bytes = mem_alloc(total + 1);
    j->stop = mem_calloc(s->n_stop + 1, sizeof *j->stop);
    j->stop_len = copy(s->stop_len, s->n_stop, sizeof *s->stop_len);
    char *p = j->stop_bytes;
    for (size_t i = 0; i < s->n_stop; i++) {
        memcpy(p, s->stop[i], s->stop_len[i]);
        j->stop[i] = p;
        p += s->stop_len[i];
    }
}

static void copy_lists(struct job *j, const struct job_spec *s)
{
    j->tokens = copy(s->tokens, s->n_tokens, sizeof *s->tokens);
    j->sampling = s->sampling;
    j->sampling.bias = j->bias = copy(s->sampling.bias, s->sampling.n_bias, sizeof *j->bias);
    j->allowed = s->sampling.allowed
                     ? copy(s->sampling.allowed, s->sampling.n_allowed, sizeof *j->allowed)
                     : NULL;
    j->sampling.allowed = j->allowed;
    j->banned = mem_calloc(s->n_stop_ids + 1, sizeof *j->banned);
    for (size_t i = 0; i < s->n_stop_ids; i++)
        j->banned[i] = s->stop_ids[i];
    j->stop_ids = j->banned;
    j->n_stop_ids = j->n_banned = s->n_stop_ids;
    if (j->eos >= 0) j->banned[j->n_banned++] = j->eos;
    copy_stops(j, s);
}

/* Hashes of the blocks that the prompt fills. */
static void make_chain(struct job *j)
{
    uint64_t h = j->salt;
    j->n_chain = (size_t)job_feed(j) / KV_BLOCK;
    j->chain = mem_calloc(j->n_chain + 1, sizeof *j->chain);
    for (size_t b = 0; b < j->n_chain; b++)
        j->chain[b] = h = prefix_hash(h, j->tokens + b * KV_BLOCK);
}

static void make_results(struct job *j, const struct job_spec *s, size_t max_token_bytes)
{
    size_t max = (size_t)j->max_tokens, top = j->top_logprobs > 0 ? (size_t)j->top_logprobs : 0;
    j->out = mem_calloc(max + 1, sizeof *j->out);
    j->ends = mem_calloc(max + 1, sizeof *j->ends);
    if (top) j->out_top = mem_calloc(max * top + 1, sizeof *j->out_top);
    if (j->score_from != SIZE_MAX) {
        j->prompt = mem_calloc(j->n_tokens, sizeof *j->prompt);
        for (size_t i = 0; i < j->n_tokens; i++)
            j->prompt[i] = (struct job_token){.id = j->tokens[i], .logprob = NAN};
        if (top) j->prompt_top = mem_calloc(j->n_tokens * top, sizeof *j->prompt_top);
    }
    gate_init(&j->gate, max * max_token_bytes, j->stop, j->stop_len, s->n_stop, s->include_stop);
    if (max > 0 && sampling_needs_history(&j->sampling))
        j->history = sampler_history_new(j->tokens, j->n_tokens, max);
}

int job_new(struct job **out, const struct job_spec *s, const struct job_limits *l, struct err *err)
{
    int rc = check_spec(s, l, err);
    if (rc) return rc;
    struct job *j = mem_calloc(1, sizeof *j);
    atomic_init(&j->refs, 1);
    j->n_tokens = s->n_tokens;
    j->max_tokens = s->max_tokens;
    j->min_tokens = s->min_tokens;
    j->top_logprobs = s->top_logprobs;
    j->ignore_eos = s->ignore_eos;
    j->eos = s->ignore_eos ? -1 : l->eos;
    j->score_from = s->score_from;
    j->queue_deadline_ns = s->queue_deadline_ns;
    j->deadline_ns = s->deadline_ns;
    j->notify = s->notify;
    j->notify_arg = s->notify_arg;
    j->stop_id = -1;
    copy_lists(j, s);
    make_results(j, s, l->max_token_bytes);
    j->cache = l->cache && s->cache_prompt;
    j->salt = prefix_salt(s->cache_salt);
    if (!j->cache && s->family) {
        j->cache = j->fleeting = true;
        j->salt = prefix_family(s->family);
    }
    if (j->cache) make_chain(j);
    if (l->speculative_tokens > 0 && j->max_tokens > 1)
        j->draft = draft_new(j->tokens, j->n_tokens, (size_t)j->max_tokens);
    atomic_store(&j->submitted_ns, clock_ns());
    *out = j;
    return 0;
}

void job_ref(struct job *j)
{
    atomic_fetch_add_explicit(&j->refs, 1, memory_order_relaxed);
}

void job_unref(struct job *j)
{
    if (!j || atomic_fetch_sub_explicit(&j->refs, 1, memory_order_acq_rel) != 1) return;
    gate_release(&j->gate);
    sampler_history_free(j->history);
    draft_free(j->draft);
    free(j->chain);
    free(j->tokens);
    free(j->bias);
    free(j->allowed);
    free(j->banned);
    free(j->stop_bytes);
    free(j->stop);
    free(j->stop_len);
    free(j->prompt);
    free(j->prompt_top);
    free(j->out);
    free(j->out_top);
    free(j->ends);
    free(j);
}

void job_cancel(struct job *j)
{
    atomic_store_explicit(&j->cancel, true, memory_order_release);
}

int job_positions(const struct job *j)
{
    return (int)j->n_tokens + j->max_tokens - 1;
}

int job_feed(const struct job *j)
{
    return (int)j->n_tokens - (j->max_tokens == 0);
}

/* ---- results ---- */

static bool is_stop_id(const struct job *j, int32_t id)
{
    for (size_t i = 0; i < j->n_stop_ids; i++)
        if (j->stop_ids[i] == id) return true;
    return id == j->eos;
}

enum finish job_accept(struct job *j, const char *text, size_t len)
{
    size_t i = j->n_out++;
    struct job_token *t = &j->out[i];
    bool stop_id = is_stop_id(j, t->id);
    if (stop_id) len = 0;
    if (j->top_logprobs >= 0) j->sum_logprob += (double)t->logprob;
    j->gate.watch = j->n_out > (size_t)(j->min_tokens > 0 ? j->min_tokens : 0);
    bool stop_string = len > 0 && gate_push(&j->gate, text, len);
    t->text_begin = (uint32_t)(len > 0 ? j->gate.begin : j->gate.len);
    t->char_begin = (uint32_t)(len > 0 ? j->gate.begin_chars : j->gate.chars);
    /* An incomplete character becomes exactly one character: any text beyond `len` has it. */
    j->ends[i].text_end = (uint32_t)(j->gate.len + (len > 0 && j->gate.tail_len > 0));
    if (stop_id) j->stop_id = t->id;
    if (stop_id || stop_string) return FINISH_STOP;
    return j->n_out == (size_t)j->max_tokens ? FINISH_LENGTH : FINISH_NONE;
}

bool job_publish(struct job *j)
{
    uint64_t old = atomic_load_explicit(&j->shown, memory_order_relaxed);
    uint64_t n = old & UINT32_MAX;
    while (n < j->n_out && j->ends[n].text_end <= j->gate.released)
        n++;
    uint64_t now = (uint64_t)j->gate.released << 32 | n;
    if (now == old) return false;
    atomic_store_explicit(&j->shown, now, memory_order_release);
    return true;
}

/* All tokens, or with a stop string those that begin before the cut. */
static void publish_rest(struct job *j)
{
    uint64_t n = atomic_load_explicit(&j->shown, memory_order_relaxed) & UINT32_MAX;
    while (n < j->n_out && (!j->gate.stopped || j->out[n].text_begin < j->gate.len))
        n++;
    atomic_store_explicit(&j->shown, (uint64_t)j->gate.released << 32 | n, memory_order_release);
}

void job_finish(struct job *j, enum finish how)
{
    gate_finish(&j->gate);
    if (j->gate.stopped && how == FINISH_LENGTH) how = FINISH_STOP; /* by the last U+FFFD */
    publish_rest(j);
    j->finish = how;
    atomic_store_explicit(&j->done_ns, clock_ns(), memory_order_relaxed);
    atomic_store_explicit(&j->phase, JOB_DONE, memory_order_relaxed);
    job_notify *notify = j->notify; /* once done is visible, the consumer may drop the job */
    void *arg = j->notify_arg;
    atomic_store_explicit(&j->done, true, memory_order_release);
    if (notify) notify(arg);
}

void job_view(const struct job *j, struct job_view *v)
{
    bool done = atomic_load_explicit(&j->done, memory_order_acquire);
    size_t n_scored = atomic_load_explicit(&j->n_scored, memory_order_acquire);
    uint64_t shown = atomic_load_explicit(&j->shown, memory_order_acquire);
    *v = (struct job_view){
        .phase = done ? JOB_DONE : (enum job_phase)atomic_load(&j->phase),
        .n_scored = n_scored,
        .n_tokens = (size_t)(shown & UINT32_MAX),
        .text = j->gate.text,
        .text_len = (size_t)(shown >> 32),
        .done = done,
        .stop_id = -1,
        .stop_index = -1,
        .prompt_done = atomic_load(&j->prompt_done),
        .cached_tokens = atomic_load(&j->cached_tokens),
        .submitted_ns = job_time(&j->submitted_ns),
        .admitted_ns = job_time(&j->admitted_ns),
        .first_token_ns = job_time(&j->first_token_ns),
        .done_ns = job_time(&j->done_ns),
    };
    if (!done) {
        if (v->phase == JOB_DONE) v->phase = JOB_DECODE; /* about to be done: not before `done` */
        return;
    }
    v->finish = j->finish;
    v->completion_tokens = j->n_out;
    v->drafted_tokens = j->drafted_tokens;
    v->accepted_tokens = j->accepted_tokens;
    v->stop_id = j->stop_id;
    v->stop_index = j->gate.stop_index;
    v->sum_logprob = j->sum_logprob;
}

const struct job_token *job_prompt(const struct job *j)
{
    return j->prompt;
}

const struct job_token *job_tokens(const struct job *j)
{
    return j->out;
}

const struct token_logprob *job_prompt_top(const struct job *j, size_t i)
{
    return j->prompt_top ? j->prompt_top + i * (size_t)j->top_logprobs : NULL;
}

const struct token_logprob *job_token_top(const struct job *j, size_t i)
{
    return j->out_top ? j->out_top + i * (size_t)j->top_logprobs : NULL;
}
