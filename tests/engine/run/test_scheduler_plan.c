/* What a step takes of prompts: shares, sizes of pieces, and what rows cost, on a model whose steps cost what the test
 * says. The machine may be busy: what depends on its time is tried several times. */
#include "engine/run/scheduler_seq.h"
#include "tests/engine/run/fake_scheduler.h"

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

/* Rows that a step takes of long prompts beside sequences that decode, where steps have taken step_s, a row of a
 * prompt 0.5 ms, and all came so long ago. */
static int rows_planned(int n_decode, int n_prompts, double step_s, double ago_s)
{
    enum { MOST = 40 };
    static struct job jobs[MOST];
    static struct seq seqs[MOST];
    struct seq *running[MOST], *of[MOST];
    struct gpt2_seq rows[MOST];
    struct scheduler s = {.opt = {.prefill_chunk_tokens = 4096},
                          .running = running,
                          .n_running = n_decode + n_prompts,
                          .step = {.seqs = rows, .of = of},
                          .step_s = step_s,
                          .prefill_s_per_row = 0.0005};
    for (int i = 0; i < s.n_running; i++) {
        memset(&jobs[i], 0, sizeof jobs[i]);
        jobs[i].tokens = prompt;
        jobs[i].n_tokens = FAKE_CTX;
        jobs[i].max_tokens = 1;
        atomic_store(&jobs[i].admitted_ns, clock_ns() - (uint64_t)(ago_s * CLOCK_NS_PER_S));
        seqs[i] = (struct seq){.job = &jobs[i], .n_feed = FAKE_CTX, .decoding = i < n_decode};
        running[i] = &seqs[i];
    }
    scheduler_plan(&s);
    ck_assert_int_eq(s.step.n_decode, n_decode);
    return s.step.n_prefill_rows;
}

/* Prompts add 0.85 of what steps took, in whole 16 rows. More prompts than sequences that decode, which have waited for
 * a while, as many times more, up to four times; never more than 80 ms. */
START_TEST(a_crowd_of_prompts_gets_more)
{
    ck_assert_int_eq(rows_planned(3, 3, 0.020, 2), 32);
    ck_assert_int_eq(rows_planned(3, 6, 0.020, 2), 64);
    ck_assert_int_eq(rows_planned(3, 6, 0.020, 0), 32);
    ck_assert_int_eq(rows_planned(3, 12, 0.020, 2), 128);
    ck_assert_int_eq(rows_planned(3, 30, 0.020, 2), 128);
    ck_assert_int_eq(rows_planned(3, 30, 0.050, 2), 160);
    ck_assert_int_eq(rows_planned(12, 3, 0.020, 2), 32);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("scheduler_plan");
    TCase *t = tcase_create("scheduler_plan");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, prompts_share_a_step);
    tcase_add_test(t, pieces_shrink_to_the_cost_of_a_row);
    tcase_add_test(t, fixed_costs_are_not_the_rows);
    tcase_add_test(t, pieces_do_not_pay_for_the_step);
    tcase_add_test(t, a_crowd_of_prompts_gets_more);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
