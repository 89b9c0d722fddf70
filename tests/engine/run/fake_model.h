#ifndef TTMD_TESTS_FAKE_MODEL_H
#define TTMD_TESTS_FAKE_MODEL_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/run/scheduler.h"
#include "tests/support/harness.h"

/* A model for the scheduler's tests: the "hidden state" of a position is a hash of all tokens up to
 * it, kept in KV blocks as real keys and values are, so that a wrong block, a lost token or a stale
 * position changes everything after it. Its logits are random numbers drawn from the hash. With a
 * script, it says what the script says, by position. Steps can be held until a test lets them go. */
#define FAKE_VOCAB 97
#define FAKE_CTX 256
#define FAKE_BLOCKS 4096

struct fake {
    int64_t kv[FAKE_BLOCKS][KV_BLOCK]; /* hash of 46 bits */
    const int32_t *script;             /* (FAKE_CTX) token that follows position p, or NULL */
    float hint;    /* with a script: added to that token's logit; 0: it is certain */
    bool one_role; /* what the scheduler is told; least_rows too */
    int least_rows;
    unsigned step_us, row_us; /* cost of a step, and of each of its rows */
    pthread_mutex_t lock;
    pthread_cond_t moved;
    long allowed, begun; /* steps that may begin (-1: all), and have begun */
    int max_rows;        /* most rows seen in a step */
};

static inline int64_t fake_hash(int64_t h, int64_t token, int64_t pos)
{
    uint32_t w[4];
    rng_bits((uint64_t)h, (uint64_t)token, (uint64_t)pos, w);
    return (int64_t)(w[0] & 0x7fffff) << 23 | (w[1] & 0x7fffff);
}

static inline void fake_wait(struct fake *f)
{
    pthread_mutex_lock(&f->lock);
    f->begun++;
    pthread_cond_broadcast(&f->moved);
    while (f->allowed >= 0 && f->begun > f->allowed)
        pthread_cond_wait(&f->moved, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

/* fake_allow -- let n more steps finish; the next one stops at its beginning. n < 0: never stop. */
static inline void fake_allow(struct fake *f, long n)
{
    pthread_mutex_lock(&f->lock);
    f->allowed = n < 0 ? -1 : f->allowed + n;
    pthread_cond_broadcast(&f->moved);
    pthread_mutex_unlock(&f->lock);
}

/* fake_reach -- wait until step number n (from 1) has begun. */
static inline void fake_reach(struct fake *f, long n)
{
    pthread_mutex_lock(&f->lock);
    while (f->begun < n)
        pthread_cond_wait(&f->moved, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

static inline int64_t *fake_slot(struct fake *f, const struct gpt2_seq *q, int pos)
{
    return &f->kv[q->blocks[pos / KV_BLOCK]][pos % KV_BLOCK];
}

static inline void fake_forward(void *ctx, const struct gpt2_step *step, float *hidden)
{
    struct fake *f = ctx;
    fake_wait(f);
    int row = 0;
    for (int i = 0; i < step->n_seqs; i++) {
        const struct gpt2_seq *q = &step->seqs[i];
        BUG_ON(q->n < 1 || step->n_decode > step->n_seqs);
        for (int t = 0; t < q->n; t++, row++) {
            int pos = q->pos0 + t;
            int64_t before = pos ? *fake_slot(f, q, pos - 1) : 0;
            int64_t h = fake_hash(before, q->tokens[t], pos);
            *fake_slot(f, q, pos) = h;
            hidden[3 * row] = (float)(h >> 23);
            hidden[3 * row + 1] = (float)(h & 0x7fffff);
            hidden[3 * row + 2] = (float)pos;
        }
    }
    if (row > f->max_rows) f->max_rows = row;
    if (f->step_us || f->row_us) usleep(f->step_us + f->row_us * (unsigned)row);
}

static inline void fake_row(const struct fake *f, const float *hidden, float *logits)
{
    int64_t h = (int64_t)hidden[0] << 23 | (int64_t)hidden[1];
    rng_normal_fill(logits, FAKE_VOCAB, 2.0, (uint64_t)h, 5);
    if (!f->script) return;
    float *said = &logits[f->script[(int)hidden[2]]];
    *said = f->hint > 0 ? *said + f->hint : 30;
}

static inline void fake_logits(void *ctx, const float *hidden, const int32_t *rows, int n,
                               float *out)
{
    BUG_ON(n < 1 || n > SCHEDULER_LOGIT_ROWS);
    for (int i = 0; i < n; i++)
        fake_row(ctx, hidden + 3 * rows[i], out + (size_t)i * FAKE_VOCAB);
}

/* Token 0 is end-of-text; others are letters, a few of them pieces of characters. */
static inline const char *fake_text(void *ctx, int32_t id, size_t *len)
{
    static const char *const text[] = {"",         "a",        "b",    "ab",   "\xe2",
                                       "\x82\xac", "\xf0\x9f", "\xff", " the", " cat",
                                       "stop",     "c",        "d",    "\n"};
    (void)ctx;
    const char *s = text[id == 0 ? 0 : 1 + id % 13];
    *len = strlen(s);
    return s;
}

static inline struct fake *fake_new(void)
{
    struct fake *f = mem_calloc(1, sizeof *f);
    f->allowed = -1;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->moved, NULL);
    return f;
}

static inline void fake_free(struct fake *f)
{
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->moved);
    free(f);
}

static inline struct scheduler_options fake_options(void)
{
    return (struct scheduler_options){.max_batch = 8,
                                      .max_jobs = 64,
                                      .prefill_chunk_tokens = 32,
                                      .kv_blocks = 8 * FAKE_CTX / KV_BLOCK,
                                      .kernels = kernels_scalar()};
}

static inline struct scheduler *fake_open(struct fake *f, const struct scheduler_options *o)
{
    struct scheduler_model m = {.ctx = f,
                                .forward = fake_forward,
                                .logits = fake_logits,
                                .token_text = fake_text,
                                .n_embd = 3,
                                .n_positions = FAKE_CTX,
                                .vocab = FAKE_VOCAB,
                                .eos = 0,
                                .one_role = f->one_role,
                                .least_rows = f->least_rows,
                                .max_token_bytes = 4};
    struct scheduler *s = NULL;
    struct err err = {0};
    ck_assert_msg(scheduler_open(&s, &m, o, &err) == 0, "%s", err.msg);
    return s;
}

/* fake_submit -- submit, which must succeed. */
static inline struct job *fake_submit(struct scheduler *s, const struct job_spec *spec)
{
    struct job *j = NULL;
    struct err err = {0};
    ck_assert_msg(scheduler_submit(s, spec, &j, &err) == 0, "%s", err.msg);
    return j;
}

/* fake_wait_done -- the final view of a job. */
static inline struct job_view fake_wait_done(const struct job *j)
{
    struct job_view v;
    for (job_view(j, &v); !v.done; job_view(j, &v))
        usleep(200);
    return v;
}

/* fake_spec -- a job of n_tokens of `prompt` (borrowed) that goes on to its limit. */
static inline struct job_spec fake_spec(const int32_t *prompt, size_t n_tokens, int max_tokens)
{
    struct job_spec s;
    job_spec_default(&s);
    s.tokens = prompt;
    s.n_tokens = n_tokens;
    s.max_tokens = max_tokens;
    s.ignore_eos = true;
    return s;
}

#endif
