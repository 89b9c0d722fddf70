/* Windows are computed from their number alone, so that a server can run several at once and a tool
 * one after the other, and both score the same tokens.
 *
 * PPL_PREFIX_NONE, window 6, stride 4 (. fed as context, # scored):
 *     tokens   0 1 2 3 4 5 6 7 8 9 10
 *     window 0 . # # # # #
 *     window 1         . . # # # #
 *     window 2                 . . #
 *
 * PPL_PREFIX_BOS, window 4 (b is end-of-text; the last token of each row is predicted, never fed):
 *     window 0 b # # # #
 *     window 1         . # # # #
 *     window 2             . . . # #   filled up with context to 4 fed positions
 *
 * Sums are doubles added in the order of tokens: the result does not depend on who computed them. */
#include "engine/run/perplexity.h"

#include <math.h>

#include "engine/base/err.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"

static bool strided_window(const struct ppl_plan *p, size_t i, struct ppl_window *w)
{
    size_t n = p->n_tokens, done = 0; /* tokens below `done` belong to earlier windows */
    if (i > 0) {
        if (i > n / p->stride) return false; /* also keeps the products below from overflowing */
        size_t before = (i - 1) * p->stride;
        done = before + mem_least(p->window, n - before);
        if (done == n) return false;
    }
    size_t begin = i * p->stride;
    if (begin >= n) return false;
    size_t score = done > begin ? done : begin + 1;
    size_t end = begin + mem_least(p->window, n - begin);
    if (score >= end) return false; /* one last token without context cannot be scored */
    *w = (struct ppl_window){.begin = begin, .end = end, .score = score};
    return true;
}

static bool rolling_window(const struct ppl_plan *p, size_t i, struct ppl_window *w)
{
    size_t n = p->n_tokens;
    if (n == 0 || i > (n - 1) / p->window) return false;
    size_t score = i * p->window;
    size_t end = score + mem_least(p->window, n - score);
    size_t begin = i == 0 ? 0 : end - p->window - 1;
    *w = (struct ppl_window){.bos = i == 0, .begin = begin, .end = end, .score = score};
    return true;
}

bool ppl_window_at(const struct ppl_plan *p, size_t i, struct ppl_window *w)
{
    BUG_ON(p->window < 1 || p->stride < 1 || p->stride > p->window);
    return p->prefix == PPL_PREFIX_BOS ? rolling_window(p, i, w) : strided_window(p, i, w);
}

size_t ppl_window_count(const struct ppl_plan *p)
{
    size_t step = p->prefix == PPL_PREFIX_BOS ? p->window : p->stride;
    size_t lo = 0, hi = p->n_tokens / step + 2; /* windows are 0..count-1 without a gap */
    struct ppl_window w;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (ppl_window_at(p, mid, &w))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

void ppl_add(struct ppl_sums *s, float logprob)
{
    double nll = -(double)logprob;
    s->scored++;
    s->nll += nll;
    s->nll_sq += nll * nll;
}

void ppl_merge(struct ppl_sums *s, const struct ppl_sums *more)
{
    s->scored += more->scored;
    s->nll += more->nll;
    s->nll_sq += more->nll_sq;
}

static double capped_exp(double x)
{
    return exp(fmin(x, 700.0)); /* exp(709.8) is the end of doubles */
}

void ppl_stats(const struct ppl_sums *s, size_t bytes, size_t words, struct ppl_stats *out)
{
    *out = (struct ppl_stats){0};
    if (s->scored == 0) return;
    double n = (double)s->scored;
    out->nll_mean = s->nll / n;
    out->perplexity = capped_exp(out->nll_mean);
    if (s->scored > 1) {
        double var = (s->nll_sq - n * out->nll_mean * out->nll_mean) / (n - 1);
        out->stderr_mean = sqrt(fmax(var, 0.0) / n);
    }
    if (bytes > 0) {
        out->bits_per_byte = s->nll / log(2.0) / (double)bytes;
        out->byte_perplexity = capped_exp(s->nll / (double)bytes);
    }
    if (words > 0) out->word_perplexity = capped_exp(s->nll / (double)words);
}

/* What \s matches in a Python 3 str. */
static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

size_t ppl_count_words(const char *text, size_t len)
{
    size_t words = len > 0;
    bool in_space = false;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t n = utf8_next(text + i, len - i, &cp);
        bool space = n > 0 && is_space(cp);
        words += space && !in_space;
        in_space = space;
        i += n ? n : len - i;
    }
    return words;
}
