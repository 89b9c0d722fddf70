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

/* Beside a sequence that decodes, which goes on in every step, the second of two equal prompts gets rows only when the
 * first has all. */
START_TEST(prompts_are_read_one_after_the_other)
{
    static struct steps log;
    enum { TOKENS = 200 };
    scheduler_set_on_step(sched, on_step, &log);
    fake->allowed = 0;
    struct job *d = submit(3, 60);
    fake_reach(fake, 1);
    step();
    struct job *a = submit(TOKENS, 3), *b = submit(TOKENS, 3);
    step(); /* both are admitted after this one */
    for (size_t done = 0, i = 0; done < TOKENS; i++) {
        step();
        ck_assert_uint_gt(view(a).prompt_done, done);
        done = view(a).prompt_done;
        if (done < TOKENS) ck_assert_uint_eq(view(b).prompt_done, 0);
        ck_assert_int_eq(log.log[2 + i].decode_rows, 1);
    }
    fake_allow(fake, -1);
    fake_wait_done(a);
    fake_wait_done(b);
    fake_wait_done(d);
    scheduler_close(sched);
    sched = NULL;
    int rows = 0;
    for (int i = 0; i < log.n; i++) {
        ck_assert_int_le(log.log[i].prefill_rows, 32);
        rows += log.log[i].prefill_rows;
    }
    ck_assert_int_eq(rows, 3 + 2 * TOKENS);
    job_unref(a);
    job_unref(b);
    job_unref(d);
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

/* ---- plans by hand ---- */

enum { MOST = 40 };
struct by_hand {
    struct scheduler s;
    struct job jobs[MOST];
    struct seq seqs[MOST];
    struct seq *running[MOST], *of[MOST];
    struct gpt2_seq rows[MOST];
};

/* Nothing is running yet; a row of a prompt takes 0.5 ms. */
static struct by_hand *by_hand(void)
{
    static struct by_hand h;
    memset(&h, 0, sizeof h);
    h.s.opt.prefill_chunk_tokens = 4096;
    h.s.running = h.running;
    h.s.step.seqs = h.rows;
    h.s.step.of = h.of;
    h.s.prefill_s_per_row = 0.0005;
    return &h;
}

/* A prompt that came so long ago. */
static struct seq *add(struct by_hand *h, int rows, double ago_s)
{
    int i = h->s.n_running++;
    struct job *j = &h->jobs[i];
    uint64_t since = clock_ns() - (uint64_t)(ago_s * CLOCK_NS_PER_S);
    ck_assert_int_lt(i, MOST);
    j->tokens = prompt;
    j->n_tokens = (size_t)rows;
    j->max_tokens = 1;
    atomic_store(&j->admitted_ns, since);
    h->seqs[i] = (struct seq){.job = j, .n_feed = rows, .work = rows};
    return h->running[i] = &h->seqs[i];
}

/* Rows that a step takes of long prompts beside sequences that decode, where steps have taken step_s; or of texts that
 * are only scored. */
static int rows_planned_of(int n_decode, int n_prompts, double step_s, double ago_s, int max_tokens)
{
    struct by_hand *h = by_hand();
    for (int i = 0; i < n_decode + n_prompts; i++) {
        struct seq *q = add(h, FAKE_CTX, ago_s);
        q->decoding = i < n_decode;
        if (!q->decoding) q->job->max_tokens = max_tokens;
    }
    h->s.step_s = step_s;
    scheduler_plan(&h->s);
    ck_assert_int_eq(h->s.step.n_decode, n_decode);
    return h->s.step.n_prefill_rows;
}

static int rows_planned(int n_decode, int n_prompts, double step_s, double ago_s)
{
    return rows_planned_of(n_decode, n_prompts, step_s, ago_s, 1);
}

/* Rows of the planned step that are q's. */
static int rows_of(const struct by_hand *h, const struct seq *q)
{
    for (int i = 0; i < h->s.step.n_seqs; i++)
        if (h->s.step.of[i] == q) return h->s.step.seqs[i].n;
    return 0;
}

/* Prompts add 0.85 of what steps took, in whole 16 rows. Several, of which the first has waited for half a second, add
 * as many times more as it has waited so long or as they are more than those that decode, up to four times; never
 * more than 80 ms. */
START_TEST(a_crowd_of_prompts_gets_more)
{
    ck_assert_int_eq(rows_planned(3, 3, 0.020, 0), 32);
    ck_assert_int_eq(rows_planned(3, 30, 0.020, 0.4), 32);
    ck_assert_int_eq(rows_planned(3, 1, 0.020, 5), 32);
    ck_assert_int_eq(rows_planned(3, 6, 0.020, 0.6), 64);
    ck_assert_int_eq(rows_planned(3, 12, 0.020, 0.6), 128);
    ck_assert_int_eq(rows_planned(12, 3, 0.020, 0.6), 32);
    ck_assert_int_eq(rows_planned(12, 3, 0.020, 1.0), 64);
    ck_assert_int_eq(rows_planned(12, 3, 0.020, 5), 128);
    ck_assert_int_eq(rows_planned(3, 30, 0.020, 5), 128);
    ck_assert_int_eq(rows_planned(3, 30, 0.050, 5), 160);
    ck_assert_int_eq(rows_planned_of(3, 30, 0.020, 5, 0), 32);
}
END_TEST

/* Steps of 192 rows: a short prompt overtakes a long one, which gets the rest, until that has waited longer for each
 * of its rows. What was found in the cache is no work. */
START_TEST(the_longest_wait_for_its_length_goes_first)
{
    struct by_hand *h = by_hand();
    struct seq *longer = add(h, 400, 1), *shorter = add(h, 20, 0.3), *last = add(h, 20, 0);
    scheduler_plan(&h->s);
    ck_assert_int_eq(rows_of(h, shorter), 20);
    ck_assert_int_eq(rows_of(h, longer), 172);
    ck_assert_int_eq(rows_of(h, last), 0);

    h = by_hand();
    longer = add(h, 400, 3), shorter = add(h, 20, 0.3);
    scheduler_plan(&h->s);
    ck_assert_int_eq(rows_of(h, longer), 192);
    ck_assert_int_eq(rows_of(h, shorter), 0);

    h = by_hand();
    longer = add(h, 300, 1);
    struct seq *found = add(h, 400, 0.5);
    found->pos = 320;
    found->work = 80;
    scheduler_plan(&h->s);
    ck_assert_int_eq(rows_of(h, found), 80);
    ck_assert_int_eq(rows_of(h, longer), 112);
}
END_TEST

/* Of two with the same beginning the one that came first computes it, and is as urgent as the one that waits. */
START_TEST(who_is_waited_for_inherits)
{
    uint64_t chain[4] = {1, 2, 3, 4};
    int32_t nothing = -1;
    struct by_hand *h = by_hand();
    struct seq *of[2] = {add(h, 400, 1), add(h, 70, 0.9)}, *other = add(h, 100, 1);
    h->s.prefix.buckets = &nothing;
    for (int i = 0; i < 2; i++) {
        of[i]->cache = true;
        of[i]->n_reusable = 4;
        of[i]->pos = KV_BLOCK;
        of[i]->job->chain = chain;
        of[i]->job->n_chain = 4;
    }
    scheduler_plan(&h->s);
    ck_assert_int_eq(rows_of(h, of[0]), 192); /* by itself it would come last */
    ck_assert_int_eq(rows_of(h, of[1]), 0);
    ck_assert_int_eq(rows_of(h, other), 0);
    of[0]->pos = of[1]->pos = 4 * KV_BLOCK; /* nothing in common any more */
    scheduler_plan(&h->s);
    ck_assert_int_eq(rows_of(h, of[1]), 70 - 4 * KV_BLOCK);
    ck_assert_int_eq(rows_of(h, other), 100);
    ck_assert_int_eq(rows_of(h, of[0]), 192 - 100 - 6);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("scheduler_plan");
    TCase *t = tcase_create("scheduler_plan");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, prompts_are_read_one_after_the_other);
    tcase_add_test(t, pieces_shrink_to_the_cost_of_a_row);
    tcase_add_test(t, fixed_costs_are_not_the_rows);
    tcase_add_test(t, pieces_do_not_pay_for_the_step);
    tcase_add_test(t, a_crowd_of_prompts_gets_more);
    tcase_add_test(t, the_longest_wait_for_its_length_goes_first);
    tcase_add_test(t, who_is_waited_for_inherits);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
