/* Two tables, for the last three tokens and for the last two, say where such a run was last followed
 * by something. An entry is overwritten by whatever hashes there next: the newest occurrence is
 * the best guess, and a lost one is only a missed chance. Tokens are compared, so that a collision
 * yields no nonsense. Suffix automata find longer matches, at many times the memory and for
 * little: three tokens in a row already say where we are.
 *
 * Invariant: a table's entry p > 0 means that the run's continuation stands at tokens[p - 1], and
 * p - 1 < n. */
#include "engine/run/draft.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

enum { LONG = 3, SHORT = 2, GRAMS = LONG - SHORT + 1 };

struct draft {
    size_t n, mask;
    int32_t *tokens;         /* (n + what may come) */
    uint32_t *tables[GRAMS]; /* (mask + 1) each */
};

static size_t slot(const struct draft *d, const int32_t *run, int len)
{
    uint64_t h = 0;
    for (int i = 0; i < len; i++)
        h = (h ^ (uint32_t)run[i]) * 0x9e3779b97f4a7c15ull;
    return (size_t)(h >> 32) & d->mask;
}

void draft_add(struct draft *d, int32_t id)
{
    for (int g = 0; g < GRAMS; g++) { /* what ended just before now has a continuation */
        size_t len = (size_t)(LONG - g);
        if (d->n >= len)
            d->tables[g][slot(d, d->tokens + d->n - len, (int)len)] = (uint32_t)d->n + 1;
    }
    d->tokens[d->n++] = id;
}

struct draft *draft_new(const int32_t *tokens, size_t n, size_t max_new)
{
    struct draft *d = mem_calloc(1, sizeof *d);
    size_t slots = 16;
    while (slots < 2 * (n + max_new))
        slots *= 2;
    d->mask = slots - 1;
    d->tokens = mem_calloc(n + max_new + 1, sizeof *d->tokens);
    for (int g = 0; g < GRAMS; g++)
        d->tables[g] = mem_calloc(slots, sizeof **d->tables);
    for (size_t i = 0; i < n; i++)
        draft_add(d, tokens[i]);
    return d;
}

void draft_free(struct draft *d)
{
    if (!d) return;
    for (int g = 0; g < GRAMS; g++)
        free(d->tables[g]);
    free(d->tokens);
    free(d);
}

int draft_propose(const struct draft *d, int32_t *out, int most)
{
    for (int g = 0; g < GRAMS; g++) {
        size_t len = (size_t)(LONG - g);
        if (d->n < len) continue;
        const int32_t *run = d->tokens + d->n - len;
        size_t at = d->tables[g][slot(d, run, (int)len)];
        if (at <= len || memcmp(d->tokens + at - 1 - len, run, len * sizeof *run) != 0) continue;
        for (size_t k = 0, from = at - 1; k < (size_t)most; k++)
            out[k] = from + k < d->n ? d->tokens[from + k] : out[from + k - d->n];
        return most;
    }
    return 0;
}
