#ifndef TTMD_RUN_PERPLEXITY_H
#define TTMD_RUN_PERPLEXITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Perplexity over a text longer than the context: which windows to run, which of their tokens to
 * score, and the sums. Used by POST /v1/perplexity and by `ttm eval`, so that they agree. */
enum ppl_prefix {
    PPL_PREFIX_NONE, /* Hugging Face's strided recipe: windows start at multiples of `stride` */
    PPL_PREFIX_BOS, /* lm-evaluation-harness's rolling windows for max_seq_len = window, context_len
                        = 1: end-of-text before the first token, every token scored once. `stride` is
                        not used. Each later window begins with the last token that was scored; the
                        last one is filled up with earlier tokens as context, as the harness does */
};

/* A window's sequence is the bos, if any, and tokens[begin, end); all but its last token are fed (the
 * last one is only predicted), at most `window` of them. A job with max_tokens 0 does just that: it
 * takes a prompt of n_ctx + 1 tokens. */
struct ppl_window {
    bool bos;          /* end-of-text stands before tokens[begin] */
    size_t begin, end; /* tokens[begin, end) */
    size_t score;      /* tokens[score, end) are scored; score >= begin, and > begin unless bos */
};

struct ppl_plan {
    size_t n_tokens, window, stride;
    enum ppl_prefix prefix;
};

/* ppl_window_at -- the i-th window, i = 0, 1, ...; false when there is none. window >= 2 for
 * PPL_PREFIX_NONE, whose windows hold at most `window` tokens; window >= 1 for PPL_PREFIX_BOS, whose
 * windows hold at most `window` + 1 with the bos; 1 <= stride <= window. Every window scores at least
 * one token: a text of fewer tokens than can be scored (none, or one without prefix) has no windows. */
bool ppl_window_at(const struct ppl_plan *p, size_t i, struct ppl_window *w);
size_t ppl_window_count(const struct ppl_plan *p);

/* Sums over scored tokens, in double, in the order of the tokens. */
struct ppl_sums {
    size_t scored;
    double nll, nll_sq; /* sum of -logprob and of its square, natural logarithm */
};
void ppl_add(struct ppl_sums *s, float logprob);
void ppl_merge(struct ppl_sums *s, const struct ppl_sums *more);

/* What an answer shows. bytes and words are those of the whole text. Fields that divide by zero are
 * 0. All finite: exp() is capped. */
struct ppl_stats {
    double nll_mean, perplexity, bits_per_byte, word_perplexity, byte_perplexity;
    double stderr_mean; /* standard error of nll_mean */
};
void ppl_stats(const struct ppl_sums *s, size_t bytes, size_t words, struct ppl_stats *out);

/* ppl_count_words -- as the harness counts them: the pieces of Python's re.split(r"\s+", text), so that
 * white space at either end of the text adds an (empty) piece. 0 for an empty text. */
size_t ppl_count_words(const char *text, size_t len);

#endif
