/* Raw log-probabilities of one row: what evaluation harnesses compare digit for digit. One
 * expression, in double, rounded to float at the end, gives every number, so that a token found in
 * the list of the best has exactly the digits of the token itself. The best are found by insertion
 * into a short list while the row is read once: nearly every block of logits fails the first comparison. */
#include <math.h>

#include "engine/run/sampler.h"

#define LOGPROB_MIN (-9999.0f)
#define BLOCK 64 /* logits */

/* log(sum exp) without the NaNs of the row; the kernels' sum does not promise to leave them out. */
static double slow_sum_exp(const float *x, size_t n, float shift)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        if (!isnan(x[i])) sum += x[i] == shift ? 1 : exp((double)x[i] - (double)shift);
    return sum;
}

static float logprob(float logit, double log_sum, float max)
{
    if (logit == INFINITY)
        return (float)-log_sum; /* then max is infinite too, and log_sum counts them */
    float lp = (float)((double)logit - log_sum - (double)max);
    return lp >= LOGPROB_MIN ? lp : LOGPROB_MIN; /* also for NaN */
}

/* The n largest, in place of their log-probabilities, NaN as -infinity; returns how many there are. */
static int find_top(const struct kernels *k, const float *logits, size_t v,
                    struct token_logprob *top, int n)
{
    int have = 0;
    float least = -INFINITY; /* the last of a full list */

    for (size_t b = 0, end; b < v; b = end) {
        end = v - b < BLOCK ? v : b + BLOCK;
        if (have == n && !(k->max(logits + b, end - b) > least)) continue;
        for (size_t i = b; i < end; i++) {
            float x = logits[i];
            if (have == n && !(x > least)) continue;
            x = isnan(x) ? -INFINITY : x;
            int at = have < n ? have++ : n - 1;
            for (; at > 0 && top[at - 1].logprob < x; at--)
                top[at] = top[at - 1];
            top[at] = (struct token_logprob){.id = (int32_t)i, .logprob = x};
            if (have == n) least = top[n - 1].logprob;
        }
    }
    return have;
}

float logprobs_of(const struct kernels *k, const float *logits, int32_t vocab, int32_t id,
                  struct token_logprob *top, int n, int32_t *argmax)
{
    size_t v = (size_t)vocab;
    float max = k->max(logits, v);
    double sum = k->sum_exp(logits, v, max);
    if (!isfinite(sum)) sum = slow_sum_exp(logits, v, max);
    double log_sum = log(sum);
    if (argmax) *argmax = (int32_t)k->argmax(logits, v);

    int have = n > 0 ? find_top(k, logits, v, top, n) : 0;
    for (int i = 0; i < have; i++)
        top[i].logprob = logprob(top[i].logprob, log_sum, max);
    return logprob(logits[id], log_sum, max);
}
