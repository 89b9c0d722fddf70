/* Who runs when: order, reservation, bounds, cancellation, deadlines, notifications, on a model whose
 * steps the test lets go one by one. */
#include <sys/resource.h>

#include "tests/engine/run/fake_scheduler.h"

static struct engine_stats stats(void)
{
    struct engine_stats s;
    scheduler_stats(sched, &s);
    return s;
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
    struct job *decode = submit(3, 50);
    fake_reach(fake, 1);
    struct job *prefill = submit(200, 10);
    step(); /* the next one has both */
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
    tcase_add_test(t, idle_costs_nothing);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
