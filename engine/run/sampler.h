#ifndef TTMD_RUN_SAMPLER_H
#define TTMD_RUN_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/kernels.h"

struct logit_bias {
    int32_t id;
    float bias;
};

/* How to choose the next token. Filters apply in this order, as in Hugging Face and llama.cpp's
 * usual chain: allowed ids, bias, penalties, min_tokens/ignore_eos bans, temperature, top_k,
 * typical_p, top_p, min_p, draw. Each filter sees the distribution that the one before it left,
 * normalised again. sampling_default() gives the neutral values.
 *
 *   top_k      exactly the k largest logits; of equal ones at the border the lowest ids
 *   typical_p  (Meister et al. 2022) the tokens whose surprise is nearest to the entropy, until their
 *              probabilities reach typical_p; equal ones at the border all stay
 *   top_p      the largest probabilities until they reach top_p; lowest ids first among equals
 *   min_p      those with at least min_p times the largest probability
 */
struct sampling {
    double temperature; /* 0 (below 1e-5) = greedy: the largest logit, the lowest id among equals */
    int32_t top_k;      /* 0 = off */
    double top_p, typical_p; /* 1 = off; in (0, 1] (top_p 0 behaves as the single best token) */
    double min_p;            /* 0 = off */
    double
        repetition_penalty; /* 1 = off; divides positive, multiplies negative logits; prompt + output */
    double presence_penalty, frequency_penalty; /* 0 = off; counts of output tokens only */
    uint64_t seed, stream;         /* draw number i is a pure function of (seed, stream, i) */
    const struct logit_bias *bias; /* (n_bias) */
    size_t n_bias;
    const int32_t *allowed; /* (n_allowed) the only ids that may be drawn; NULL = all */
    size_t n_allowed;
};
void sampling_default(struct sampling *s);

struct token_logprob {
    int32_t id;
    float logprob; /* raw log-softmax of the logits, untouched by sampling; finite, >= -9999 */
};

/* What happened so far in the sequence, for penalties. Token counts as a sorted or hashed set is the
 * sampler's business: */
struct sampler_history; /* owned by the sequence; sized at creation, allocates nothing later */
struct sampler_history *sampler_history_new(const int32_t *prompt, size_t n_prompt, size_t max_new);
bool sampling_needs_history(const struct sampling *s); /* false: sample() takes h NULL */
void sampler_history_free(struct sampler_history *h);
void sampler_history_add(struct sampler_history *h, int32_t id); /* a generated token */

/* sample -- choose a token from one row of logits.
 *
 *   logits   (V) f32; borrowed, not modified
 *   banned   (n_banned) ids that may not be drawn now (end-of-text under min_tokens, ...)
 *   step     number of the draw in this sequence
 *   scratch  >= sampler_scratch_bytes(V), 64-byte aligned; borrowed; one per thread
 *
 * Returns an id in [0, V). If every token is banned the ban is lifted: the largest logit wins (still
 * one of `allowed`). A logit that is NaN counts as -infinity; +infinity wins.
 * Thread  any; pure but for scratch.
 */
int32_t sample(const struct kernels *k, const struct sampling *s, const struct sampler_history *h,
               const float *logits, int32_t vocab, const int32_t *banned, size_t n_banned,
               uint64_t step, void *scratch);
size_t sampler_scratch_bytes(int32_t vocab);

/* logprobs_of -- raw log-probability of `id` and the `n` best, best first (ties: lowest id first).
 *
 *   top      (n) overwritten, n <= V; may be NULL when n is 0
 *   argmax   id of the largest logit, lowest among equals; may be NULL
 *
 * Every number is computed by the same expression, so equal tokens have equal digits everywhere:
 * (float)((double)logit - log(sum exp(logit - max)) - max), clamped at -9999.
 */
float logprobs_of(const struct kernels *k, const float *logits, int32_t vocab, int32_t id,
                  struct token_logprob *top, int n, int32_t *argmax);

#endif
