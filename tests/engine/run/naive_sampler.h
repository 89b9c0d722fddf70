#ifndef TTMD_TESTS_NAIVE_SAMPLER_H
#define TTMD_TESTS_NAIVE_SAMPLER_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/run/sampler.h"

/* The sampler as its definitions read: a full sort, everything in double. One row of at most
 * NAIVE_MAX tokens. */
#define NAIVE_MAX 4096

struct naive_row {
    int n;
    double logit[NAIVE_MAX]; /* -INFINITY: may not be drawn */
    double p[NAIVE_MAX];     /* 0: filtered out */
    double margin; /* smallest distance of a cumulative sum to its border: below ~1e-6 float
                                arithmetic may decide otherwise */
};

struct naive_item {
    double key;
    int id;
};

static inline int naive_order(const void *a, const void *b)
{
    const struct naive_item *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return x->id - y->id;
}

/* The items with p > 0, by falling key, then by id. */
static inline int naive_sorted(const struct naive_row *r, const double *key, struct naive_item *out)
{
    int n = 0;
    for (int i = 0; i < r->n; i++)
        if (r->p[i] > 0) out[n++] = (struct naive_item){key[i], i};
    qsort(out, (size_t)n, sizeof *out, naive_order);
    return n;
}

static inline void naive_normalise(struct naive_row *r)
{
    double sum = 0;
    for (int i = 0; i < r->n; i++)
        sum += r->p[i];
    for (int i = 0; i < r->n; i++)
        r->p[i] /= sum;
}

static inline void naive_near(struct naive_row *r, double cumulative, double border)
{
    if (fabs(cumulative - border) < r->margin) r->margin = fabs(cumulative - border);
}

static inline void naive_softmax(struct naive_row *r, double temperature)
{
    double max = -INFINITY;
    for (int i = 0; i < r->n; i++)
        max = fmax(max, r->logit[i]);
    for (int i = 0; i < r->n; i++)
        r->p[i] = exp((r->logit[i] - max) / temperature);
    naive_normalise(r);
    r->margin = INFINITY;
}

static inline void naive_top_k(struct naive_row *r, int k)
{
    static struct naive_item s[NAIVE_MAX];
    int n = naive_sorted(r, r->logit, s);
    for (int i = k; i < n; i++)
        r->p[s[i].id] = 0;
    naive_normalise(r);
}

static inline void naive_top_p(struct naive_row *r, double p)
{
    static struct naive_item s[NAIVE_MAX];
    int n = naive_sorted(r, r->logit, s);
    double cumulative = 0;
    for (int i = 0; i < n; i++) {
        double q = r->p[s[i].id];
        if (i > 0 && cumulative >= p) r->p[s[i].id] = 0;
        cumulative += q;
        naive_near(r, cumulative, p);
    }
    naive_normalise(r);
}

static inline void naive_typical_p(struct naive_row *r, double p)
{
    static struct naive_item s[NAIVE_MAX];
    static double key[NAIVE_MAX];
    double entropy = 0, cumulative = 0, last = 0;
    for (int i = 0; i < r->n; i++)
        if (r->p[i] > 0) entropy -= r->p[i] * log(r->p[i]);
    for (int i = 0; i < r->n; i++)
        key[i] = (double)(float)-fabs(-log(r->p[i]) - entropy); /* as float: equal is equal there */
    int n = naive_sorted(r, key, s);
    for (int i = 0; i < n; i++) {
        double q = r->p[s[i].id];
        if (i > 0 && cumulative >= p && s[i].key < last) r->p[s[i].id] = 0;
        if (cumulative < p || i == 0) last = s[i].key;
        if (i > 0 && s[i].key < s[i - 1].key && s[i - 1].key - s[i].key < 1e-6) r->margin = 0;
        cumulative += q;
        naive_near(r, cumulative, p);
    }
    naive_normalise(r);
}

static inline void naive_min_p(struct naive_row *r, double p)
{
    double max = 0;
    for (int i = 0; i < r->n; i++)
        max = fmax(max, r->p[i]);
    for (int i = 0; i < r->n; i++) {
        naive_near(r, r->p[i] / max, p);
        if (r->p[i] < p * max) r->p[i] = 0;
    }
    naive_normalise(r);
}

/* Everything of `s` but greedy; prompt and output for the penalties. */
static inline void naive_sample(struct naive_row *r, const struct sampling *s, const float *logits,
                                int vocab, const int32_t *prompt, int n_prompt,
                                const int32_t *output, int n_output, const int32_t *banned,
                                int n_banned)
{
    r->n = vocab;
    for (int i = 0; i < vocab; i++) {
        bool allowed = !s->allowed, seen = false;
        int count = 0;
        for (size_t k = 0; k < s->n_allowed; k++)
            allowed |= s->allowed[k] == i;
        double x = (double)logits[i];
        for (size_t k = 0; k < s->n_bias; k++)
            if (s->bias[k].id == i) x = (double)(float)(x + (double)s->bias[k].bias);
        for (int k = 0; k < n_prompt; k++)
            seen |= prompt[k] == i;
        for (int k = 0; k < n_output; k++)
            count += output[k] == i;
        if (seen || count) x = x < 0 ? x * s->repetition_penalty : x / s->repetition_penalty;
        if (count) x -= s->presence_penalty + count * s->frequency_penalty;
        for (int k = 0; k < n_banned; k++)
            if (banned[k] == i) allowed = false;
        r->logit[i] = allowed && !isnan(x) ? (double)(float)x : -INFINITY;
    }
    naive_softmax(r, s->temperature);
    if (s->top_k > 0) naive_top_k(r, s->top_k);
    if (s->typical_p < 1) naive_typical_p(r, s->typical_p);
    if (s->top_p < 1) naive_top_p(r, s->top_p);
    if (s->min_p > 0) naive_min_p(r, s->min_p);
}

#endif
