/* Passages that samples share with a long text. The samples are small and the text is not: what is indexed
 * are the samples' runs of PASSAGE_SEED tokens, and the text goes by once with a rolling hash. A
 * hit is compared token by token, so hashes decide nothing, and extended to the right; one that could be
 * extended to the left was found a token earlier already. */
#include "models/experiments/passages.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

static const uint64_t BASE = 0x9e3779b97f4a7c15u; /* of the polynomial, modulo 2^64; odd */

struct seeds {
    const int32_t *samples;
    uint32_t *slot, *next; /* position + 1, 0 = none; owned */
    uint32_t *sample;      /* of a position; owned */
    size_t mask;
};

static uint64_t hash_of(const int32_t *ids)
{
    uint64_t h = 0;
    for (int i = 0; i < PASSAGE_SEED; i++)
        h = h * BASE + (uint64_t)ids[i] + 1;
    return h;
}

static size_t slot_of(const struct seeds *s, uint64_t hash)
{
    return (size_t)((hash ^ hash >> 29) * BASE >> 24) & s->mask;
}

static void seeds_make(struct seeds *s, const int32_t *samples, const size_t *start, size_t n)
{
    size_t all = start[n];
    s->samples = samples;
    s->mask = 1023;
    while (s->mask < 2 * all)
        s->mask = 2 * s->mask + 1;
    s->slot = mem_calloc(s->mask + 1, sizeof *s->slot);
    s->next = mem_calloc(all + 1, sizeof *s->next);
    s->sample = mem_calloc(all + 1, sizeof *s->sample);
    for (size_t i = 0; i < n; i++)
        for (size_t at = start[i]; at < start[i + 1]; at++) {
            s->sample[at] = (uint32_t)i;
            if (start[i + 1] - at < PASSAGE_SEED) continue;
            size_t slot = slot_of(s, hash_of(samples + at));
            s->next[at] = s->slot[slot];
            s->slot[slot] = (uint32_t)at + 1;
        }
}

static size_t common(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b)
{
    size_t n = 0;
    while (n < n_a && n < n_b && a[n] == b[n])
        n++;
    return n;
}

void passages_find(const int32_t *text, size_t n_text, const int32_t *samples, const size_t *start,
                   size_t n_samples, const volatile sig_atomic_t *stop, struct passage *out)
{
    struct seeds s;
    uint64_t hash = 0, first = 1; /* BASE^(SEED - 1), what the oldest token is multiplied with */
    memset(out, 0, n_samples * sizeof *out);
    seeds_make(&s, samples, start, n_samples);
    for (int i = 1; i < PASSAGE_SEED; i++)
        first *= BASE;
    for (size_t i = 0; i + PASSAGE_SEED <= n_text; i++) {
        if (stop && i % 65536 == 0 && *stop) break;
        if (i == 0)
            hash = hash_of(text);
        else
            hash = (hash - ((uint64_t)text[i - 1] + 1) * first) * BASE +
                   (uint64_t)text[i + PASSAGE_SEED - 1] + 1;
        for (uint32_t at = s.slot[slot_of(&s, hash)]; at; at = s.next[at - 1]) {
            size_t p = at - 1, sample = s.sample[p];
            struct passage *best = &out[sample];
            if (i > 0 && p > start[sample] && text[i - 1] == samples[p - 1]) continue;
            size_t n = common(text + i, n_text - i, samples + p, start[sample + 1] - p);
            if (n >= PASSAGE_SEED && n > best->length)
                *best = (struct passage){.length = n, .sample_at = p - start[sample], .text_at = i};
        }
    }
    free(s.slot);
    free(s.next);
    free(s.sample);
}
