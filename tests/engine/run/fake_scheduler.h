#ifndef TTMD_TESTS_FAKE_SCHEDULER_H
#define TTMD_TESTS_FAKE_SCHEDULER_H

#include "tests/engine/run/fake_model.h"

/* One scheduler over the fake model, whose steps a test lets go one by one. */
static struct fake *fake;
static struct scheduler *sched;
static int32_t prompt[FAKE_CTX];

static inline void open_with(struct scheduler_options o)
{
    scheduler_close(sched);
    sched = fake_open(fake, &o);
}

static inline void setup(void)
{
    fake = fake_new();
    for (int i = 0; i < FAKE_CTX; i++)
        prompt[i] = 1 + i % 90;
    struct scheduler_options o = fake_options();
    sched = fake_open(fake, &o);
}

static inline void teardown(void)
{
    fake_allow(fake, -1);
    scheduler_close(sched);
    sched = NULL;
    fake_free(fake);
}

static inline struct job *submit(size_t n_tokens, int max_tokens)
{
    struct job_spec s = fake_spec(prompt, n_tokens, max_tokens);
    return fake_submit(sched, &s);
}

static inline struct job_view view(const struct job *j)
{
    struct job_view v;
    job_view(j, &v);
    return v;
}

/* Let one step finish and wait until the next has begun. */
static inline void step(void)
{
    long n = fake->begun;
    fake_allow(fake, 1);
    fake_reach(fake, n + 1);
}

#endif
