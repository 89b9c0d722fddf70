/* Who runs when: order, reservation, bounds, cancellation, deadlines, notifications, on a model whose
 * steps the test lets go one by one. */
#include <sys/resource.h>

#include "tests/engine/run/fake_model.h"

static struct fake *fake;
static struct scheduler *sched;
static int32_t prompt[FAKE_CTX];

static void open_with(struct scheduler_options o)
{
    scheduler_close(sched);
    sched = fake_open(fake, &o);
}

static void setup(void)
{
    fake = fake_new();
    for (int i = 0; i < FAKE_CTX; i++)
        prompt[i] = 1 + i % 90;
    struct scheduler_options o = fake_options();
    sched = fake_open(fake, &o);
}

static void teardown(void)
{
    fake_allow(fake, -1);
    scheduler_close(sched);
    sched = NULL;
    fake_free(fake);
}

static struct job *submit(size_t n_tokens, int max_tokens)
{
    struct job_spec s = fake_spec(prompt, n_tokens, max_tokens);
    return fake_submit(sched, &s);
}

static struct job_view view(const struct job *j)
{
    struct job_view v;
    job_view(j, &v);
    return v;
}

static struct engine_stats stats(void)
{
    struct engine_stats s;
    scheduler_stats(sched, &s);
    return s;
}

/* Let one step finish and wait until the next has begun. */
static void step(void)
{
    long n = fake->begun;
    fake_allow(fake, 1);
    fake_reach(fake, n + 1);
}

START_TEST(first_come_first_served)
{
    struct scheduler_options o = fake_options();
    o.max_batch = 3;
    open_with(o);
    struct job *j[12];
    for (int i = 0; i < 12; i++)
        j[i] = submit(1 + (size_t)(i * 37 % 100), 1 + i * 7 % 20);
    uint64_t last = 0;
    for (int i = 0; i < 12; i++) {
        struct job_view v = fake_wait_done(j[i]);
        ck_assert_int_eq(v.finish, FINISH_LENGTH);
        ck_assert_uint_ge(v.admitted_ns, last);
        last = v.admitted_ns;
        job_unref(j[i]);
    }
    while (stats().running) /* gauges follow */
        usleep(100);
    struct engine_stats s = stats();
    ck_assert_int_eq(s.waiting, 0);
    ck_assert_int_eq(s.kv_blocks_used, 0);
}
END_TEST

/* All blocks are taken at admission; the head of the queue is not overtaken by smaller ones. */
START_TEST(blocks_are_reserved_whole)
{
    struct scheduler_options o = fake_options();
    o.kv_blocks = 10;
    open_with(o);
    fake->allowed = 0;
    struct job *big = submit(40, 57); /* 96 positions: 6 blocks */
    fake_reach(fake, 1);
    ck_assert_int_eq(stats().kv_blocks_used, 6);
    struct job *bigger = submit(60, 21); /* 80 positions: 5 blocks, 4 are free */
    struct job *small = submit(2, 2);
    for (int i = 0; i < 4; i++)
        step();
    ck_assert_int_eq(view(bigger).phase, JOB_QUEUED);
    ck_assert_int_eq(view(small).phase, JOB_QUEUED);
    ck_assert_int_eq(stats().waiting, 2);
    job_cancel(big);
    step();
    ck_assert_int_eq(view(big).finish, FINISH_CANCELLED);
    ck_assert_int_eq(view(bigger).phase, JOB_PREFILL);
    ck_assert_int_ne(view(small).phase, JOB_QUEUED);
    ck_assert_int_eq(stats().kv_blocks_used, 6);
    fake_allow(fake, -1);
    ck_assert_int_eq(fake_wait_done(bigger).finish, FINISH_LENGTH);
    struct job_spec s = fake_spec(prompt, 100, 62); /* 161 positions: 11 blocks can never be had */
    struct job *none = NULL;
    ck_assert_int_eq(scheduler_submit(sched, &s, &none, NULL), ERR_INVALID);
    s.max_tokens = 61;
    ck_assert_int_eq(scheduler_submit(sched, &s, &none, NULL), 0);
    ck_assert_int_eq(fake_wait_done(none).finish, FINISH_LENGTH);
    job_unref(none);
    job_unref(big);
    job_unref(bigger);
    job_unref(small);
}
END_TEST

START_TEST(the_queue_is_bounded)
{
    struct scheduler_options o = fake_options();
    o.max_batch = 1;
    o.max_jobs = 3;
    open_with(o);
    fake->allowed = 0;
    struct job *j[3], *more = NULL;
    for (int i = 0; i < 3; i++)
        j[i] = submit(5, 200);
    fake_reach(fake, 1);
    struct job_spec s = fake_spec(prompt, 5, 5);
    ck_assert_int_eq(scheduler_submit(sched, &s, &more, NULL), ERR_FULL);
    s.n_tokens = 0; /* a bad request gives its place back */
    ck_assert_int_eq(scheduler_submit(sched, &s, &more, NULL), ERR_FULL);
    job_cancel(j[2]); /* waiting: it goes at the next step, while the batch is full */
    step();
    ck_assert_int_eq(view(j[2]).finish, FINISH_CANCELLED);
    ck_assert(view(j[2]).admitted_ns == 0);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(scheduler_submit(sched, &s, &more, NULL), ERR_INVALID);
    s.n_tokens = 5;
    ck_assert_int_eq(scheduler_submit(sched, &s, &more, NULL), 0);
    ck_assert_int_eq(stats().waiting, 2);
    job_unref(more);
    for (int i = 0; i < 3; i++)
        job_unref(j[i]);
}
END_TEST

START_TEST(cancel_in_every_phase)
{
    fake->allowed = 0;
    struct job *prefill = submit(200, 10), *decode = submit(3, 50);
    fake_reach(fake, 1);
    step();
    step();
    ck_assert_int_eq(view(prefill).phase, JOB_PREFILL);
    ck_assert_int_eq(view(decode).phase, JOB_DECODE);
    job_cancel(prefill);
    job_cancel(prefill); /* idempotent */
    step();
    struct job_view v = view(prefill);
    ck_assert(v.done && v.finish == FINISH_CANCELLED);
    ck_assert(v.prompt_done > 0 && v.prompt_done < 200 && v.completion_tokens == 0);
    job_cancel(decode);
    fake_allow(fake, -1);
    v = fake_wait_done(decode);
    ck_assert_int_eq(v.finish, FINISH_CANCELLED);
    ck_assert_uint_gt(v.n_tokens, 0); /* what was made stays readable */
    ck_assert_uint_eq(v.n_tokens, v.completion_tokens);
    job_cancel(decode); /* too late: nothing happens */
    ck_assert_int_eq(fake_wait_done(decode).finish, FINISH_CANCELLED);
    job_unref(prefill);
    job_unref(decode);
}
END_TEST

START_TEST(deadlines)
{
    struct scheduler_options o = fake_options();
    o.max_batch = 1;
    open_with(o);
    fake->allowed = 0;
    struct job_spec s = fake_spec(prompt, 5, 100);
    uint64_t end = clock_ns() + CLOCK_NS_PER_S; /* far enough to be admitted before */
    s.deadline_ns = end;
    struct job *running = fake_submit(sched, &s);
    s = fake_spec(prompt, 5, 5);
    s.queue_deadline_ns = clock_ns() + 20 * CLOCK_NS_PER_MS;
    struct job *waiting = fake_submit(sched, &s);
    s.queue_deadline_ns = 0;
    s.deadline_ns = clock_ns() + 20 * CLOCK_NS_PER_MS;
    struct job *late = fake_submit(sched, &s);
    fake_reach(fake, 1);
    while (clock_ns() < end)
        usleep(10000);
    fake_allow(fake, -1);
    ck_assert_int_eq(fake_wait_done(waiting).finish, FINISH_QUEUE_TIMEOUT);
    ck_assert_int_eq(fake_wait_done(late).finish, FINISH_TIMEOUT);
    ck_assert_int_eq(fake_wait_done(running).finish, FINISH_TIMEOUT);
    ck_assert(view(waiting).admitted_ns == 0);
    s.queue_deadline_ns = s.deadline_ns = clock_ns() + 3600 * CLOCK_NS_PER_S;
    struct job *in_time = fake_submit(sched, &s);
    ck_assert_int_eq(fake_wait_done(in_time).finish, FINISH_LENGTH);
    job_unref(running);
    job_unref(waiting);
    job_unref(late);
    job_unref(in_time);
}
END_TEST

START_TEST(closing_cancels_all)
{
    fake->allowed = 0;
    struct job *j[20];
    for (int i = 0; i < 20; i++)
        j[i] = submit(30, 30);
    fake_reach(fake, 1);
    fake_allow(fake, 3);
    fake_reach(fake, 4);
    fake_allow(fake, -1);
    scheduler_close(sched);
    sched = NULL;
    for (int i = 0; i < 20; i++) { /* jobs outlive the engine */
        job_cancel(j[i]);
        struct job_view v = view(j[i]);
        ck_assert(v.done);
        ck_assert(v.finish == FINISH_CANCELLED || v.finish == FINISH_LENGTH);
        job_unref(j[i]);
    }
}
END_TEST

struct ear {
    struct job *job; /* set before the job can run */
    int calls, done_calls, after_done;
    size_t tokens, text, scored;
};

static void hear(void *arg)
{
    struct ear *e = arg;
    struct job_view v = view(e->job);
    e->calls++;
    if (e->done_calls) e->after_done++;
    if (v.done) e->done_calls++;
    ck_assert(v.n_tokens >= e->tokens && v.text_len >= e->text && v.n_scored >= e->scored);
    e->tokens = v.n_tokens;
    e->text = v.text_len;
    e->scored = v.n_scored;
    if (v.done) job_unref(e->job);
}

START_TEST(the_last_notification_is_the_only_one_with_done)
{
    struct ear ears[6] = {0};
    struct job *hold[6];
    fake->allowed = 0;
    struct job *first = submit(3, 2); /* keeps the thread in a step while the ears get their jobs */
    fake_reach(fake, 1);
    for (int i = 0; i < 6; i++) {
        struct job_spec s = fake_spec(prompt, 60, i * 5);
        s.score_from = i % 2 ? 0 : SIZE_MAX;
        s.notify = hear;
        s.notify_arg = &ears[i];
        ears[i].job = hold[i] = fake_submit(sched, &s);
        job_ref(hold[i]);
    }
    job_cancel(hold[5]);
    fake_allow(fake, -1);
    for (int i = 0; i < 6; i++)
        fake_wait_done(hold[i]);
    fake_wait_done(first);
    scheduler_close(sched);
    sched = NULL;
    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq(ears[i].done_calls, 1);
        ck_assert_int_eq(ears[i].after_done, 0);
        ck_assert_int_ge(ears[i].calls, i == 5 ? 1 : 2 + i);
        job_unref(hold[i]);
    }
    job_unref(first);
}
END_TEST

struct steps {
    struct engine_step_info log[4096];
    int n;
};

static void on_step(void *arg, const struct engine_step_info *i)
{
    struct steps *s = arg;
    if (s->n < 4096) s->log[s->n++] = *i;
}

/* Whether two prompts have advanced side by side beside a decoding sequence. */
static bool share_a_step(struct steps *log)
{
    log->n = 0;
    fake->begun = fake->allowed = 0;
    open_with(fake_options());
    scheduler_set_on_step(sched, on_step, log);
    struct job *d = submit(3, 60);
    fake_reach(fake, 1);
    step();
    struct job *a = submit(200, 3), *b = submit(180, 3);
    step(); /* both are admitted after this one */
    for (int i = 0; i < 4; i++)
        step();
    size_t pa = view(a).prompt_done, pb = view(b).prompt_done;
    fake_allow(fake, -1);
    fake_wait_done(a);
    fake_wait_done(b);
    fake_wait_done(d);
    scheduler_close(sched);
    sched = NULL;
    job_unref(a);
    job_unref(b);
    job_unref(d);
    return pa == pb && pa >= 3 * 16;
}

/* Prompts advance side by side and never exceed the chunk; decoding goes on in between. On a busy machine
 * rows look dear and pieces shrink to one prompt's: then again. */
START_TEST(prompts_share_a_step)
{
    static struct steps log;
    bool shared = false;
    for (int i = 0; i < 20 && !shared; i++) {
        int prompt_rows = 0;
        shared = share_a_step(&log);
        for (int k = 0; k < log.n; k++) {
            ck_assert_int_le(log.log[k].prefill_rows, 32);
            prompt_rows += log.log[k].prefill_rows;
            if (k >= 2 && k < 10)
                ck_assert(log.log[k].decode_rows == 1 && log.log[k].prefill_rows > 0);
        }
        ck_assert_int_eq(prompt_rows, 383);
    }
    ck_assert(shared);
}
END_TEST

/* The steps of a prompt that nobody else is beside, by a scheduler of its own. */
static void read_alone(struct scheduler_options o, size_t tokens, struct steps *log)
{
    log->n = 0;
    open_with(o);
    scheduler_set_on_step(sched, on_step, log);
    struct job *j = submit(tokens, 1);
    fake_wait_done(j);
    scheduler_close(sched);
    sched = NULL;
    job_unref(j);
}

/* Where rows are dear, steps take fewer of them than the configured chunk: alone not fewer than twice what the
 * model's fixed costs are worth, and last rows that are worth less come along. */
START_TEST(pieces_shrink_to_the_cost_of_a_row)
{
    static struct steps log;
    struct scheduler_options o = fake_options();
    o.prefill_chunk_tokens = 240;
    fake->row_us = 4000;
    for (int least = 0; least <= 48; least += 48) {
        fake->least_rows = least;
        read_alone(o, 250, &log);
        ck_assert_int_eq(log.log[0].prefill_rows, least ? 96 : 64);
        ck_assert_int_eq(log.log[1].prefill_rows, least ? 96 : 16);
        ck_assert_int_eq(log.log[2].prefill_rows, least ? 58 : 16);
        read_alone(o, 140, &log);
        ck_assert_int_eq(log.log[0].prefill_rows, least ? 140 : 64);
    }
}
END_TEST

/* Fixed costs worth 32 rows: a step of 64 says what 96 take. If it were all put down to its rows, the next one
 * would take 48, and look dearer still. The fake may oversleep: some tries. */
START_TEST(fixed_costs_are_not_the_rows)
{
    static struct steps log;
    struct scheduler_options o = fake_options();
    bool seen = false;
    o.prefill_chunk_tokens = 240;
    fake->step_us = 25000;
    fake->row_us = 700;
    fake->least_rows = 32;
    for (int i = 0; i < 10 && !seen; i++) {
        read_alone(o, 200, &log);
        ck_assert_int_eq(log.log[0].prefill_rows, 64);
        seen = log.log[1].prefill_rows == 96;
    }
    ck_assert(seen);
}
END_TEST

/* A step costs a pass over the weights, whatever it computes. Where prompts keep arriving and no step is without
 * them, that must not be taken for the price of their rows: pieces that were small once would stay so. */
START_TEST(pieces_do_not_pay_for_the_step)
{
    static struct steps log;
    enum { SHORT = 24, LONG = 8 };
    struct job *jobs[SHORT + LONG];
    struct scheduler_options o = fake_options();
    log.n = 0;
    o.max_batch = SHORT + LONG;
    o.kv_blocks = o.max_batch * FAKE_CTX / KV_BLOCK;
    o.prefill_chunk_tokens = 240;
    open_with(o);
    scheduler_set_on_step(sched, on_step, &log);
    fake->allowed = 0;
    fake->row_us = 2500; /* dear rows: small pieces */
    for (int i = 0; i < SHORT + LONG; i++)
        jobs[i] = i < SHORT ? submit(16, 200) : submit(240, 1);
    fake_reach(fake, 1);
    for (int i = 0; i < 100 && view(jobs[SHORT - 1]).n_tokens == 0; i++)
        step();
    ck_assert_uint_gt(view(jobs[SHORT - 1]).n_tokens, 0);
    int begin = log.n, largest = 0;
    fake->row_us = 0; /* it holds at the beginning of a step: it will see these */
    fake->step_us = 40000;
    fake_allow(fake, -1);
    for (int i = SHORT; i < SHORT + LONG; i++)
        fake_wait_done(jobs[i]);
    for (int i = 0; i < SHORT + LONG; i++) {
        job_cancel(jobs[i]);
        fake_wait_done(jobs[i]);
        job_unref(jobs[i]);
    }
    scheduler_close(sched);
    sched = NULL;
    for (int i = begin; i < log.n; i++)
        if (log.log[i].decode_rows == SHORT && log.log[i].prefill_rows > largest)
            largest = log.log[i].prefill_rows;
    ck_assert_int_ge(largest, 48);
}
END_TEST

/* Rows of prompts in a step beside FEW sequences that decode, on average, where `many` come with long prompts. */
enum { FEW = 3, CROWD = 12 };
static double rows_beside_few(int many, struct steps *log)
{
    struct job *jobs[FEW + CROWD];
    struct scheduler_options o = fake_options();
    int rows = 0, n = 0;
    log->n = 0;
    fake->begun = fake->allowed = 0;
    o.max_batch = FEW + CROWD;
    o.kv_blocks = o.max_batch * FAKE_CTX / KV_BLOCK;
    o.prefill_chunk_tokens = 240;
    open_with(o);
    scheduler_set_on_step(sched, on_step, log);
    for (int i = 0; i < FEW; i++)
        jobs[i] = submit(16, 200);
    fake_reach(fake, 1);
    for (int i = 0; i < 100 && view(jobs[FEW - 1]).n_tokens == 0; i++)
        step();
    for (int i = FEW; i < FEW + many; i++)
        jobs[i] = submit(240, 1);
    fake_allow(fake, -1);
    for (int i = FEW; i < FEW + many; i++)
        fake_wait_done(jobs[i]);
    for (int i = 0; i < FEW + many; i++) {
        job_cancel(jobs[i]);
        fake_wait_done(jobs[i]);
        job_unref(jobs[i]);
    }
    scheduler_close(sched);
    sched = NULL;
    for (int i = 0; i < log->n; i++)
        if (log->log[i].decode_rows == FEW && log->log[i].prefill_rows > 0) {
            rows += log->log[i].prefill_rows;
            n++;
        }
    ck_assert_int_gt(n, 0);
    return (double)rows / n;
}

/* Where many prompts wait beside a few that decode, steps take more of them. Both are measured on a machine that
 * may be busy: some tries. */
START_TEST(a_crowd_of_prompts_gets_more)
{
    static struct steps log;
    bool seen = false;
    fake->row_us = 500;
    for (int i = 0; i < 10 && !seen; i++) {
        double few = rows_beside_few(FEW, &log), crowd = rows_beside_few(CROWD, &log);
        seen = crowd >= 1.5 * few;
    }
    ck_assert(seen);
}
END_TEST

static double cpu_seconds(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

START_TEST(idle_costs_nothing)
{
    struct job *j = submit(10, 10);
    fake_wait_done(j);
    job_unref(j);
    usleep(20000);
    double before = cpu_seconds();
    usleep(300000);
    ck_assert_double_lt(cpu_seconds() - before, 0.02);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("scheduler");
    TCase *t = tcase_create("scheduler");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, first_come_first_served);
    tcase_add_test(t, blocks_are_reserved_whole);
    tcase_add_test(t, the_queue_is_bounded);
    tcase_add_test(t, cancel_in_every_phase);
    tcase_add_test(t, deadlines);
    tcase_add_test(t, closing_cancels_all);
    tcase_add_test(t, the_last_notification_is_the_only_one_with_done);
    tcase_add_test(t, prompts_share_a_step);
    tcase_add_test(t, pieces_shrink_to_the_cost_of_a_row);
    tcase_add_test(t, fixed_costs_are_not_the_rows);
    tcase_add_test(t, pieces_do_not_pay_for_the_step);
    tcase_add_test(t, a_crowd_of_prompts_gets_more);
    tcase_add_test(t, idle_costs_nothing);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
