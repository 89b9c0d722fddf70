#ifndef TTMD_SERVER_COMPLETION_H
#define TTMD_SERVER_COMPLETION_H

#include "server/env.h"
#include "server/text.h"

/* POST /v1/completions: the request's fields (completion_params.c), its jobs (completions.c), and what is
 * written of them (completion_json.c: shared by whole answers and streams). */
struct completion {
    int64_t max_tokens, min_tokens, n, best_of, logprobs, top_k,
        truncate; /* best_of 0, logprobs -1: absent */
    double temperature, top_p, typical_p, min_p;
    double repetition_penalty, presence_penalty, frequency_penalty, timeout_s;
    bool stream, echo, ignore_eos, include_stop, include_usage;
    bool return_token_ids, return_progress, cache_prompt, has_seed, truncated;
    int64_t seed;
    char *user, *cache_salt;
    struct prompts prompts;
    char **stop; /* (n_stop) owned */
    size_t *stop_len;
    size_t n_stop;
    struct logit_bias *bias;
    size_t n_bias;
    struct tokens stop_ids, allowed;

    /* made from them */
    const struct tokenizer *tokenizer;
    struct token_text *echoes; /* (prompts.n) when echo */
    char id[32];               /* "cmpl-..." */
    char *
        prefix; /* owned: {"id":...,"object":...,"created":...,"model":...,"system_fingerprint":... */
    bool sent_usage;      /* stream: the closing events are out */
    size_t finished;      /* stream: choices whose finish_reason is out */
    size_t progress_sent; /* stream: sum of prompt tokens reported */
};

/* completion_parse -- body to *c, checked against the model's limits; on failure *c is released. */
int completion_parse(struct completion *c, const json_t *body, const struct param_env *env,
                     struct api_error *e);
void completion_release(struct completion *c);

/* completions_all_done -- whether every job of the request has ended. Worker. */
bool completions_all_done(struct request *r);
/* completions_best -- the slot of the first prompt's best choice; all jobs are done. */
size_t completions_best(struct request *r);

static inline size_t completion_per_prompt(const struct completion *c)
{
    return (size_t)(c->best_of > c->n ? c->best_of : c->n);
}

/* One choice's part of an answer: prompt entries if `echo`, generated tokens [from, to), text [text_from, text_to)
 * of the job. */
struct piece {
    size_t index; /* of the choice */
    const struct slot *slot;
    size_t prompt; /* whose prompt */
    bool first;    /* of its choice */
    bool echo, final;
    size_t from, to, text_from, text_to;
};
void completion_put_choice(const struct completion *c, const struct piece *p,
                           const struct job_view *v, struct buf *b);
/* usage over all jobs, and timings of the request */
void completion_put_usage(struct request *r, const struct completion *c, struct buf *b);
void completion_put_timings(struct request *r, struct buf *b);

/* completion_finish_name -- "stop" or "length". */
static inline const char *completion_finish_name(enum finish f)
{
    return f == FINISH_STOP ? "stop" : "length";
}

#endif
