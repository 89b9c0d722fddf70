/* Byte n-grams in one hash table. An n-gram is its bytes in a word, the last one lowest, with its length
 * above them, so that the n-grams of all lengths share a table and dropping a prefix is a mask:
 *
 *     key = length << 48 | byte[0] << 8(length-1) | .. | byte[length-1]
 *
 * An entry counts how often the n-gram occurs (N of it as a whole), how often something follows it and how
 * many different bytes do (N and T of it as a context). Only the longest n-grams are counted in the
 * text, one probe a byte; all shorter ones are sums over the different longest ones, of which
 * there are fewer by a factor of thirty in English. */
#include "models/experiments/ngram.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "engine/base/err.h"
#include "engine/base/mem.h"

enum { LENGTH_SHIFT = 48, FIRST_BITS = 16 };

struct entry {
    uint64_t key; /* 0 = empty */
    uint32_t n;   /* occurrences */
    uint32_t followed, types;
};
struct ngram {
    int order;
    struct entry *slot; /* (mask + 1) owned; at most half full */
    size_t mask, used;
};

static uint64_t key_of(int length, uint64_t history)
{
    return (uint64_t)length << LENGTH_SHIFT | (history & (((uint64_t)1 << (8 * length)) - 1));
}

static size_t place(const struct ngram *m, uint64_t key)
{
    size_t at = (size_t)((key * 0x9e3779b97f4a7c15u) >> 20) & m->mask;
    while (m->slot[at].key && m->slot[at].key != key)
        at = (at + 1) & m->mask;
    return at;
}

static void grow(struct ngram *m)
{
    struct ngram old = *m;
    m->mask = 2 * old.mask + 1;
    m->slot = mem_calloc(m->mask + 1, sizeof *m->slot);
    for (size_t i = 0; i <= old.mask; i++)
        if (old.slot[i].key) m->slot[place(m, old.slot[i].key)] = old.slot[i];
    free(old.slot);
}

/* The entry of a key, made when there is none; valid until the next call. */
static struct entry *take(struct ngram *m, uint64_t key)
{
    size_t at = place(m, key);
    if (m->slot[at].key) return &m->slot[at];
    if (2 * ++m->used > m->mask) {
        grow(m);
        at = place(m, key);
    }
    m->slot[at].key = key;
    return &m->slot[at];
}

/* What `n` occurrences of the n-gram add: to its context, and when it is new there to T. */
static void add(struct ngram *m, int length, uint64_t history, uint32_t n)
{
    struct entry *e = take(m, key_of(length, history));
    uint32_t is_new = e->n == 0;
    e->n += n;
    struct entry *context = take(m, key_of(length - 1, history >> 8) | 1ull << 63);
    context->followed += n;
    context->types += is_new;
}

/* To be asked at every step: it looks at the flag at few. */
static bool stopped(const volatile sig_atomic_t *stop, size_t step)
{
    return stop && step % 65536 == 0 && *stop;
}

/* All shorter n-grams, and the longest ones as what follows a context. */
static bool add_all(struct ngram *m, const struct ngram *whole, const volatile sig_atomic_t *stop)
{
    for (size_t i = 0; i <= whole->mask; i++) {
        if (stopped(stop, i)) return false;
        for (int k = 1; whole->slot[i].key && k <= m->order; k++)
            add(m, k, whole->slot[i].key, whole->slot[i].n);
    }
    return true;
}

struct ngram *ngram_new(int order, const void *text, size_t len, const volatile sig_atomic_t *stop)
{
    if (order < 1 || order > NGRAM_ORDER_MAX || len > UINT32_MAX) BUG("ngram: order or text");
    struct ngram whole = {.order = order, .mask = ((size_t)1 << FIRST_BITS) - 1};
    whole.slot = mem_calloc(whole.mask + 1, sizeof *whole.slot);
    uint64_t history = 0;
    for (size_t i = 0; i < len && !stopped(stop, i); i++) {
        history = history << 8 | ((const unsigned char *)text)[i];
        take(&whole, key_of(order, history))->n++;
    }
    struct ngram *m = mem_calloc(1, sizeof *m);
    *m = (struct ngram){.order = order, .mask = whole.mask};
    m->slot = mem_calloc(m->mask + 1, sizeof *m->slot);
    bool all = add_all(m, &whole, stop);
    free(whole.slot);
    if (all) return m;
    ngram_free(m);
    return NULL;
}

void ngram_free(struct ngram *m)
{
    if (m) free(m->slot);
    free(m);
}

/* From the shortest context up; a context that the text never had changes nothing. */
static double probability(const struct ngram *m, uint64_t history)
{
    double p = 1.0 / 256;
    for (int k = 1; k <= m->order; k++) {
        const struct entry *c = &m->slot[place(m, key_of(k - 1, history >> 8) | 1ull << 63)];
        if (!c->key) break;
        const struct entry *e = &m->slot[place(m, key_of(k, history))];
        p = ((double)e->n + c->types * p) / ((double)c->followed + c->types);
    }
    return p;
}

double ngram_bits(const struct ngram *m, const void *text, size_t len,
                  const volatile sig_atomic_t *stop)
{
    double bits = 0;
    uint64_t history = 0;
    for (size_t i = 0; i < len && !stopped(stop, i); i++) {
        history = history << 8 | ((const unsigned char *)text)[i];
        bits -= log2(probability(m, history));
    }
    return bits;
}

double ngram_probability(const struct ngram *m, const unsigned char *context, size_t len,
                         unsigned char b)
{
    uint64_t history = 0;
    for (size_t i = 0; i < len; i++)
        history = history << 8 | context[i];
    return probability(m, history << 8 | b);
}
