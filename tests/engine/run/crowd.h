#ifndef TTMD_TESTS_CROWD_H
#define TTMD_TESTS_CROWD_H

#include <math.h>

#include "tests/engine/run/fake_model.h"

/* A crowd of different requests to the fake model, what a plain loop over the model gives for each, and
 * comparisons bit for bit. Neighbours begin alike, so that a prefix cache has something to find. */
#define CROWD 40

/* ---- a crowd ---- */

static int32_t ids[CROWD][FAKE_CTX];
static const char *const stops[] = {" cat the", "ab\xef\xbf\xbd", "stopstop", "\n\n"};
static const size_t stop_lens[] = {8, 5, 8, 2};
static const int32_t stop_ids[] = {33, 71};
static const struct logit_bias bias[] = {{4, 2.5f}, {9, -50}};

static inline double uniform(uint64_t seed, uint64_t i)
{
    return rng_uniform(seed, 31, i);
}

static inline struct job_spec member(uint64_t c)
{
    struct job_spec s;
    job_spec_default(&s);
    s.n_tokens = 1 + (size_t)(uniform(c, 0) * uniform(c, 1) * 180);
    s.max_tokens = (int)(uniform(c, 2) * 60);
    for (size_t i = 0; i < s.n_tokens; i++) {
        uint64_t of = i < 50 ? c / 4 : c; /* four begin alike */
        ids[c][i] = (int32_t)(uniform(of, 1000 + i) * FAKE_VOCAB);
    }
    s.tokens = ids[c];
    s.score_from = c % 4 == 0 ? 0 : c % 4 == 1 ? s.n_tokens / 2 : SIZE_MAX;
    s.top_logprobs = (int)(c % 5) - 1;
    s.sampling.temperature = c % 3 ? 0.4 + uniform(c, 3) : 0;
    s.sampling.seed = c / 2; /* neighbours share seeds */
    if (c % 2) s.sampling.top_p = 0.8;
    if (c % 7 == 2) s.sampling.top_k = 20;
    if (c % 5 == 3) s.sampling.repetition_penalty = 1.4, s.sampling.frequency_penalty = 0.3;
    if (c % 6 == 1) s.sampling.bias = bias, s.sampling.n_bias = 2;
    if (c % 3 == 1) s.stop = stops, s.stop_len = stop_lens, s.n_stop = 4, s.include_stop = c & 8;
    if (c % 4 == 3) s.stop_ids = stop_ids, s.n_stop_ids = 2;
    s.ignore_eos = c % 5 == 0;
    if (c % 8 == 5) s.min_tokens = 12;
    return s;
}

/* The plain loop: hash, logits, sample, one position after the other. */
struct plain {
    struct job_token out[FAKE_CTX], prompt[FAKE_CTX];
    int n;
};

static inline void plain_run(struct fake *f, const struct job_spec *s, struct plain *p)
{
    static _Alignas(64) char scratch[1 << 16];
    float row[FAKE_VOCAB], hidden[3];
    const struct kernels *k = kernels_scalar();
    struct sampler_history *h = sampler_history_new(s->tokens, s->n_tokens, FAKE_CTX);
    int32_t banned[] = {stop_ids[0], stop_ids[1], 0}, best;
    const int32_t *ban = s->n_stop_ids ? banned : banned + 2;
    size_t n_ban = s->n_stop_ids + !s->ignore_eos;
    int64_t state = 0;
    p->n = 0;
    for (int pos = 0; p->n < s->max_tokens || pos + 1 < (int)s->n_tokens; pos++) {
        bool given = pos < (int)s->n_tokens;
        state = fake_hash(state, given ? s->tokens[pos] : p->out[p->n - 1].id, pos);
        hidden[0] = (float)(state >> 23), hidden[1] = (float)(state & 0x7fffff);
        hidden[2] = (float)pos;
        fake_row(f, hidden, row);
        if (pos + 1 < (int)s->n_tokens) {
            struct job_token *t = &p->prompt[pos + 1];
            t->logprob = logprobs_of(k, row, FAKE_VOCAB, s->tokens[pos + 1], NULL, 0, &best);
            t->greedy = best == s->tokens[pos + 1];
            continue;
        }
        struct job_token *t = &p->out[p->n];
        bool early = p->n < s->min_tokens;
        t->id = sample(k, &s->sampling, h, row, FAKE_VOCAB, ban, early ? n_ban : 0, (uint64_t)p->n,
                       scratch);
        t->logprob = logprobs_of(k, row, FAKE_VOCAB, t->id, NULL, 0, &best);
        t->greedy = best == t->id;
        sampler_history_add(h, t->id);
        p->n++;
        if (t->id == 0 && !s->ignore_eos) break;
        if (s->n_stop_ids && (t->id == stop_ids[0] || t->id == stop_ids[1])) break;
    }
    sampler_history_free(h);
}

/* ---- comparing ---- */

static inline bool same(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static inline void check_plain(struct fake *f, const struct job_spec *s, const struct job *j)
{
    static struct plain p;
    struct job_view v;
    job_view(j, &v);
    plain_run(f, s, &p);
    if (v.stop_index < 0) /* a stop string ends the job sooner than the plain loop */
        ck_assert_uint_eq(v.completion_tokens, (size_t)p.n);
    ck_assert_uint_le(v.completion_tokens, (size_t)p.n);
    for (size_t i = 0; i < v.n_tokens; i++) {
        ck_assert_int_eq(job_tokens(j)[i].id, p.out[i].id);
        if (s->top_logprobs < 0) continue;
        ck_assert(same(job_tokens(j)[i].logprob, p.out[i].logprob));
        ck_assert(job_tokens(j)[i].greedy == p.out[i].greedy);
    }
    if (s->score_from == SIZE_MAX) return;
    ck_assert_uint_eq(v.n_scored, s->n_tokens);
    for (size_t i = 0; i < s->n_tokens; i++) {
        const struct job_token *t = &job_prompt(j)[i];
        ck_assert_int_eq(t->id, s->tokens[i]);
        if (i < s->score_from || i == 0)
            ck_assert(isnan(t->logprob));
        else
            ck_assert(same(t->logprob, p.prompt[i].logprob) && t->greedy == p.prompt[i].greedy);
        if (i < s->score_from || i == 0 || s->top_logprobs < 1) continue;
        ck_assert(!t->greedy || job_prompt_top(j, i)[0].id == t->id);
        ck_assert(!t->greedy || same(job_prompt_top(j, i)[0].logprob, t->logprob));
    }
}

static inline void check_same(const struct job_spec *s, const struct job *a, const struct job *b)
{
    struct job_view va, vb;
    job_view(a, &va);
    job_view(b, &vb);
    ck_assert_int_eq(va.finish, vb.finish);
    ck_assert(va.stop_id == vb.stop_id && va.stop_index == vb.stop_index);
    ck_assert(va.n_tokens == vb.n_tokens && va.completion_tokens == vb.completion_tokens);
    ck_assert(va.text_len == vb.text_len && !memcmp(va.text, vb.text, va.text_len));
    ck_assert(memcmp(&va.sum_logprob, &vb.sum_logprob, sizeof(double)) == 0);
    size_t top = s->top_logprobs > 0 ? (size_t)s->top_logprobs : 0;
    for (size_t i = 0; i < va.n_tokens; i++) {
        const struct job_token *x = &job_tokens(a)[i], *y = &job_tokens(b)[i];
        ck_assert(x->id == y->id && same(x->logprob, y->logprob) && x->greedy == y->greedy);
        ck_assert(x->text_begin == y->text_begin && x->char_begin == y->char_begin);
        if (top)
            ck_assert(!memcmp(job_token_top(a, i), job_token_top(b, i),
                              top * sizeof(struct token_logprob)));
    }
    for (size_t i = 1; s->score_from != SIZE_MAX && i < s->n_tokens; i++)
        if (top && i >= s->score_from)
            ck_assert(!memcmp(job_prompt_top(a, i), job_prompt_top(b, i),
                              top * sizeof(struct token_logprob)));
}

/* Each by itself, without a prefix cache and without guesses. */
static inline void run_alone(struct fake *f, struct job **jobs)
{
    struct scheduler_options o = fake_options();
    o.max_batch = 1;
    o.prefill_chunk_tokens = 1 << 10;
    struct scheduler *s = fake_open(f, &o);
    for (uint64_t c = 0; c < CROWD; c++) {
        struct job_spec spec = member(c);
        jobs[c] = fake_submit(s, &spec);
        fake_wait_done(jobs[c]);
    }
    scheduler_close(s);
}

#endif
