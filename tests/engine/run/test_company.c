/* What a request gets does not depend on who else is there: a crowd of different jobs through many
 * schedules gives, bit for bit, what a plain loop over the model gives for each alone. And once it
 * runs, nothing allocates. */
#include "tests/engine/run/count_alloc.h"
#include "tests/engine/run/crowd.h"

/* ---- the tests ---- */

START_TEST(alone_is_the_plain_loop)
{
    struct fake *f = fake_new();
    struct job *alone[CROWD];
    int finishes[3] = {0};
    run_alone(f, alone);
    for (uint64_t c = 0; c < CROWD; c++) {
        struct job_spec spec = member(c);
        struct job_view v;
        job_view(alone[c], &v);
        finishes[v.finish == FINISH_LENGTH ? 0 : v.stop_index < 0 ? 1 : 2]++;
        check_plain(f, &spec, alone[c]);
        job_unref(alone[c]);
    }
    for (int i = 0; i < 3; i++) /* the crowd is as mixed as it should be */
        ck_assert_int_gt(finishes[i], 1);
    fake_free(f);
}
END_TEST

START_TEST(every_schedule_gives_the_same)
{
    static const struct {
        int batch, chunk, blocks, threads;
    } v[] = {{1, 1, 16, 1},   {2, 3, 40, 1},    {4, 7, 64, 2},      {8, 16, 50, 1},
             {32, 1, 400, 2}, {32, 33, 400, 3}, {64, 512, 1024, 2}, {40, 100, 200, 1}};
    struct fake *f = fake_new();
    struct job *alone[CROWD], *crowd[CROWD];
    run_alone(f, alone);
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        struct scheduler_options o = fake_options();
        o.max_batch = v[i].batch;
        o.prefill_chunk_tokens = v[i].chunk;
        o.kv_blocks = v[i].blocks;
        ck_assert_int_eq(pool_new(&o.pool, v[i].threads, NULL), 0);
        struct scheduler *s = fake_open(f, &o);
        for (uint64_t c = 0; c < CROWD; c++) {
            struct job_spec spec = member((c * 7 + i) % CROWD);
            crowd[(c * 7 + i) % CROWD] = fake_submit(s, &spec);
            if (c % 5 == 4) usleep(300);
        }
        for (uint64_t c = 0; c < CROWD; c++) {
            struct job_spec spec = member(c);
            fake_wait_done(crowd[c]);
            check_same(&spec, alone[c], crowd[c]);
            job_unref(crowd[c]);
        }
        scheduler_close(s);
        pool_free(o.pool);
    }
    for (uint64_t c = 0; c < CROWD; c++)
        job_unref(alone[c]);
    fake_free(f);
}
END_TEST

static atomic_long at_first_step, at_last_step;

static void count_at_step(void *arg, const struct engine_step_info *i)
{
    (void)arg, (void)i;
    if (atomic_load(&at_first_step) < 0) atomic_store(&at_first_step, allocations());
    atomic_store(&at_last_step, allocations());
}

START_TEST(steps_do_not_allocate)
{
    struct fake *f = fake_new();
    struct scheduler_options o = fake_options();
    o.speculative_tokens = 4;
    o.prefix_blocks = 20;
    struct scheduler *s = fake_open(f, &o);
    struct job *crowd[CROWD];
    atomic_store(&at_first_step, -1);
    scheduler_set_on_step(s, count_at_step, NULL);
    f->allowed = 0;
    for (uint64_t c = 0; c < CROWD; c++) {
        struct job_spec spec = member(c);
        crowd[c] = fake_submit(s, &spec);
    }
    long before = allocations();
    fake_allow(f, -1);
    for (int c = 0; c < CROWD; c++)
        fake_wait_done(crowd[c]);
    scheduler_close(s);
    if (COUNT_ALLOC) ck_assert_int_gt(before, CROWD); /* the count works */
    ck_assert_int_eq(atomic_load(&at_first_step), before);
    ck_assert_int_eq(atomic_load(&at_last_step), before);
    for (int c = 0; c < CROWD; c++)
        job_unref(crowd[c]);
    fake_free(f);
}
END_TEST

/* Submitting, reading, cancelling and dropping from several threads at once: for ThreadSanitizer. */
static void *client(void *arg)
{
    struct scheduler *s = arg;
    for (uint64_t c = 0; c < CROWD; c++) {
        struct job_spec spec;
        job_spec_default(&spec);
        spec.tokens = ids[c];
        spec.n_tokens = 1 + c;
        spec.max_tokens = 10;
        spec.score_from = 0;
        struct job *j;
        if (scheduler_submit(s, &spec, &j, NULL)) continue;
        struct job_view v;
        double sum = 0;
        do {
            job_view(j, &v);
            for (size_t i = 0; i < v.n_tokens; i++)
                sum += (double)job_tokens(j)[i].id;
            for (size_t i = 1; i < v.n_scored; i++)
                sum += (double)job_prompt(j)[i].logprob;
            for (size_t i = 0; i < v.text_len; i++)
                sum += v.text[i];
            if (c % 7 == 3 && v.n_scored > 3) job_cancel(j);
        } while (!v.done && c % 11 != 5);
        ck_assert(isfinite(sum));
        job_unref(j);
    }
    return NULL;
}

START_TEST(many_threads)
{
    struct fake *f = fake_new();
    struct scheduler_options o = fake_options();
    ck_assert_int_eq(pool_new(&o.pool, 2, NULL), 0);
    struct scheduler *s = fake_open(f, &o);
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, client, s), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    scheduler_close(s);
    pool_free(o.pool);
    fake_free(f);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("company");
    TCase *t = tcase_create("company");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, alone_is_the_plain_loop);
    tcase_add_test(t, every_schedule_gives_the_same);
    tcase_add_test(t, steps_do_not_allocate);
    tcase_add_test(t, many_threads);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
