/* Nothing that is reused can be seen in an answer: a crowd through every combination of prefix cache
 * (off, cold, warm, short of blocks) and guesses gives, bit for bit, what each member gets alone
 * without them. And what is reused is what should be. */
#include "tests/engine/run/crowd.h"

static struct fake *fake;
static struct scheduler *sched;
static int32_t prompt[FAKE_CTX], said[FAKE_CTX];

static void setup(void)
{
    fake = fake_new();
    for (int i = 0; i < FAKE_CTX; i++) {
        prompt[i] = 1 + i % 90;
        said[i] = 1 + i % 7;
    }
}

static void close_sched(void)
{
    fake_allow(fake, -1);
    scheduler_close(sched);
    sched = NULL;
}

static void teardown(void)
{
    close_sched();
    fake_free(fake);
}

static struct scheduler_options options(int prefix_blocks, int speculative_tokens)
{
    struct scheduler_options o = fake_options();
    o.prefix_blocks = prefix_blocks;
    o.speculative_tokens = speculative_tokens;
    o.row_price = 0.05; /* measured ones depend on the machine's mood */
    return o;
}

static void open_with(struct scheduler_options o)
{
    close_sched();
    fake->begun = 0;
    sched = fake_open(fake, &o);
}

static struct engine_stats stats(void)
{
    struct engine_stats s;
    while (scheduler_stats(sched, &s), s.running) /* gauges follow */
        usleep(100);
    return s;
}

/* ---- the crowd ---- */

static void crowd_through(struct scheduler_options o, struct job **alone, int rounds)
{
    struct job *crowd[CROWD];
    o.max_jobs = CROWD;
    open_with(o);
    for (int round = 0; round < rounds; round++) {
        for (uint64_t c = 0; c < CROWD; c++) {
            struct job_spec spec = member(c);
            crowd[c] = fake_submit(sched, &spec);
        }
        for (uint64_t c = 0; c < CROWD; c++) {
            struct job_spec spec = member(c);
            fake_wait_done(crowd[c]);
            check_same(&spec, alone[c], crowd[c]);
            job_unref(crowd[c]);
        }
    }
}

START_TEST(a_crowd_gets_the_same_with_any_reuse)
{
    static const struct {
        int batch, chunk, blocks, threads, prefix, draft;
    } v[] = {{32, 64, 500, 2, 500, 0}, {8, 7, 60, 1, 60, 0},  {1, 512, 20, 1, 9, 0},
             {32, 64, 500, 1, 0, 4},   {4, 16, 100, 1, 0, 1}, {32, 33, 400, 2, 400, 16},
             {8, 100, 70, 1, 30, 8},   {1, 512, 16, 1, 16, 5}};
    struct job *alone[CROWD];
    uint64_t hits = 0, accepted = 0, wrong = 0;
    fake->script = said; /* an inclination to repeat, so that guesses are right and wrong */
    fake->hint = 7;
    run_alone(fake, alone);
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        struct scheduler_options o = options(v[i].prefix, v[i].draft);
        o.max_batch = v[i].batch;
        o.prefill_chunk_tokens = v[i].chunk;
        o.kv_blocks = v[i].blocks;
        ck_assert_int_eq(pool_new(&o.pool, v[i].threads, NULL), 0);
        crowd_through(o, alone, 2);
        struct engine_stats s = stats();
        ck_assert_int_eq(s.kv_blocks_used, 0);
        ck_assert_int_le(s.prefix_cached_blocks, v[i].prefix);
        ck_assert_uint_le(s.prompt_tokens_cached, s.prefix_lookup_tokens);
        ck_assert((s.drafted_tokens > 0) == (v[i].draft > 0));
        hits += s.prompt_tokens_cached;
        accepted += s.accepted_tokens;
        wrong += s.drafted_tokens - s.accepted_tokens;
        close_sched();
        pool_free(o.pool);
    }
    ck_assert_uint_gt(hits, 1000);
    ck_assert_uint_gt(accepted, 100);
    ck_assert_uint_gt(wrong, 20);
    for (uint64_t c = 0; c < CROWD; c++)
        job_unref(alone[c]);
}
END_TEST

/* ---- guesses ---- */

static struct job_spec repeating(uint64_t seed)
{
    static const char *const stop[] = {"stop cat"};
    static const size_t len[] = {8};
    struct job_spec s;
    job_spec_default(&s);
    s.tokens = prompt;
    s.n_tokens = 5 + seed % 20;
    s.max_tokens = 60;
    s.top_logprobs = seed % 4 == 0 ? 2 : -1;
    s.min_tokens = seed % 3 == 0 ? 30 : 0;
    s.ignore_eos = seed % 2;
    s.sampling.seed = seed;
    s.sampling.temperature = seed % 5 == 0 ? 0 : 0.7;
    s.sampling.stream = seed % 7;
    if (seed % 3 == 1) s.sampling.repetition_penalty = 1.1, s.sampling.presence_penalty = 0.2;
    if (seed % 4 == 1) s.stop = stop, s.stop_len = len, s.n_stop = 1;
    return s;
}

/* Many seeds, one after the other: each with guesses and without. */
START_TEST(guesses_change_no_token_of_any_seed)
{
    enum { SEEDS = 60 };
    struct job *without[SEEDS], *with;
    size_t accepted = 0;
    fake->script = said;
    fake->hint = 8;
    open_with(options(0, 0));
    for (uint64_t i = 0; i < SEEDS; i++) {
        struct job_spec s = repeating(i);
        without[i] = fake_submit(sched, &s);
        fake_wait_done(without[i]);
    }
    open_with(options(0, 6));
    for (uint64_t i = 0; i < SEEDS; i++) {
        struct job_spec s = repeating(i);
        with = fake_submit(sched, &s);
        struct job_view v = fake_wait_done(with);
        check_same(&s, without[i], with);
        ck_assert_uint_le(v.accepted_tokens, v.drafted_tokens);
        accepted += v.accepted_tokens;
        job_unref(with);
        job_unref(without[i]);
    }
    ck_assert_uint_gt(accepted, SEEDS);
    ck_assert_uint_eq(stats().accepted_tokens, accepted);
}
END_TEST

/* An answer that ends at the stop string in the middle of guesses, in one step with what comes before: the same tokens
 * are shown, one without text among them, and guesses behind the end are not counted as accepted. */
START_TEST(a_stop_string_among_guesses)
{
    static const int32_t text[] = {2,  1,  0,  9, 30,
                                   31, 32, 33, 2}; /* "b", end-of-text, "stop" and more */
    static const char *const stop[] = {"stop"};
    static const size_t len[] = {4};
    enum { N = sizeof text / sizeof *text };
    struct job *of[2];

    for (int i = 0; i < 7; i++)
        said[N - 1 + i] = text[1 + i];
    fake->script = said;
    for (int guesses = 0; guesses < 2; guesses++) {
        struct job_spec s = fake_spec(text, N, 20);
        s.sampling.temperature = 0;
        s.ignore_eos = true;
        s.stop = stop, s.stop_len = len, s.n_stop = 1;
        open_with(options(0, guesses ? 6 : 0));
        of[guesses] = fake_submit(sched, &s);
        struct job_view v = fake_wait_done(of[guesses]);
        ck_assert_uint_eq(v.n_tokens, 2);
        ck_assert_uint_eq(v.completion_tokens, 3);
        ck_assert_uint_eq(v.accepted_tokens, guesses ? 2 : 0);
        ck_assert_uint_eq(stats().accepted_tokens, v.accepted_tokens);
        if (guesses) check_same(&s, of[0], of[1]);
    }
    job_unref(of[0]);
    job_unref(of[1]);
}
END_TEST

/* A text that repeats takes fewer steps than tokens; one that does not is left alone. */
START_TEST(guesses_follow_the_luck_of_the_text)
{
    struct job_spec s = repeating(1);
    s.max_tokens = 200;
    s.n_tokens = 20;
    s.sampling = (struct sampling){.temperature = 0, .top_p = 1, .typical_p = 1};
    s.sampling.repetition_penalty = 1;
    s.n_stop = 0;
    fake->script = said;
    open_with(options(0, 8));
    struct job *j = fake_submit(sched, &s);
    ck_assert_uint_eq(fake_wait_done(j).completion_tokens, 200);
    ck_assert_uint_lt(stats().steps, 60);
    job_unref(j);

    /* Three pairs in turn, each followed by something new every time: always a guess, always wrong. */
    for (int i = 0; i < FAKE_CTX; i++)
        said[i] = i % 3 < 2 ? 1 + i % 3 : 10 + i / 3;
    open_with(options(0, 8));
    j = fake_submit(sched, &s);
    struct job_view v = fake_wait_done(j);
    ck_assert_uint_eq(v.completion_tokens, 200);
    ck_assert_uint_lt(v.drafted_tokens - v.accepted_tokens, 100);
    job_unref(j);
}
END_TEST

/* ---- prefixes ---- */

/* While nothing runs: the next step will stop at its beginning. Returns the steps so far. */
static long hold(void)
{
    stats();
    pthread_mutex_lock(&fake->lock);
    long begun = fake->allowed = fake->begun;
    pthread_mutex_unlock(&fake->lock);
    return begun;
}

static size_t cached_of(struct job_spec s)
{
    struct job *j = fake_submit(sched, &s);
    struct job_view v = fake_wait_done(j);
    job_unref(j);
    ck_assert_int_eq(v.finish, FINISH_LENGTH);
    return v.cached_tokens;
}

START_TEST(whole_blocks_before_the_last_token)
{
    open_with(options(100, 0));
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 100, 1)), 0);
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 100, 1)), 96);
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 96, 1)), 80); /* its last token is computed */
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 97, 1)), 96);
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 97, 0)), 80); /* only 96 are fed */
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 15, 3)), 0);
    prompt[40] = 96;
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 100, 1)), 32); /* until the first difference */
    struct engine_stats s = stats();
    ck_assert_uint_eq(s.prompt_tokens_cached, 96 + 80 + 96 + 80 + 32);
    ck_assert_uint_eq(s.prefix_lookup_tokens, 3 * 100 + 96 + 97 + 96 + 15);
    ck_assert_uint_eq(s.prompt_tokens_computed + s.prompt_tokens_cached, s.prefix_lookup_tokens);
    ck_assert_int_eq(s.prefix_cached_blocks, 6 + 4);
}
END_TEST

START_TEST(scored_tokens_are_computed)
{
    open_with(options(100, 0));
    struct job_spec s = fake_spec(prompt, 100, 0);
    s.score_from = 0;
    s.top_logprobs = 0;
    ck_assert_uint_eq(cached_of(s), 0);
    ck_assert_uint_eq(cached_of(s), 0);
    s.score_from = 50; /* predicted by row 49 */
    ck_assert_uint_eq(cached_of(s), 48);
    s.score_from = 49;
    ck_assert_uint_eq(cached_of(s), 48);
    s.score_from = 48;
    ck_assert_uint_eq(cached_of(s), 32);
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 100, 1)), 96); /* what was scored helps others */
}
END_TEST

START_TEST(salts_and_refusals)
{
    open_with(options(100, 0));
    struct job_spec s = fake_spec(prompt, 64, 1);
    s.cache_prompt = false;
    ck_assert_uint_eq(cached_of(s), 0);
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 64, 1)), 0); /* nothing was kept of it */
    ck_assert_uint_eq(cached_of(s), 0);
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 64, 1)), 48);
    struct job_spec a = fake_spec(prompt, 64, 1), b = a;
    a.cache_salt = "a";
    b.cache_salt = "b";
    ck_assert_uint_eq(cached_of(a), 0);
    ck_assert_uint_eq(cached_of(b), 0);
    ck_assert_uint_eq(cached_of(a), 48);
    ck_assert_uint_eq(cached_of(b), 48);
    open_with(options(0, 0));
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 64, 1)), 0);
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 64, 1)), 0);
    ck_assert_uint_eq(stats().prefix_lookup_tokens, 0);
}
END_TEST

/* What was generated is the beginning of the next prompt: where decode rows have the bits of prompts. */
START_TEST(answers_are_kept_where_roles_agree)
{
    for (int agree = 0; agree < 2; agree++) {
        struct scheduler_options o = options(100, 0);
        close_sched();
        fake->one_role = agree;
        sched = fake_open(fake, &o);
        struct job_spec s = fake_spec(prompt, 20, 60);
        struct job *j = fake_submit(sched, &s);
        fake_wait_done(j);
        int32_t longer[80];
        memcpy(longer, prompt, 20 * sizeof *longer);
        for (int i = 0; i < 60; i++)
            longer[20 + i] = job_tokens(j)[i].id;
        struct job_spec next = fake_spec(prompt, 80, 1);
        next.tokens = longer;
        ck_assert_uint_eq(cached_of(next), agree ? 64 : 16);
        job_unref(j);
    }
}
END_TEST

/* n copies of a prompt that arrive together compute it once, whoever of them leaves early. */
START_TEST(copies_share_one_computation)
{
    for (int leaves = 0; leaves < 2; leaves++) {
        struct job *copies[8];
        open_with(options(100, 0));
        fake->allowed = 0;
        struct job_spec s = fake_spec(prompt, 100, 10);
        for (int i = 0; i < 8; i++) {
            s.sampling.stream = (uint64_t)i;
            copies[i] = fake_submit(sched, &s);
        }
        fake_reach(fake, 1);
        if (leaves) {
            fake_allow(fake, 2);
            fake_reach(fake, 3);
            job_cancel(copies[0]);
        }
        fake_allow(fake, -1);
        for (int i = leaves; i < 8; i++) {
            struct job_view v = fake_wait_done(copies[i]);
            ck_assert_int_eq(v.finish, FINISH_LENGTH);
            ck_assert(leaves || v.cached_tokens == (i ? 96 : 0));
        }
        struct engine_stats st = stats();
        if (!leaves) ck_assert_uint_eq(st.prompt_tokens_computed, 100 + 7 * 4);
        ck_assert_uint_le(st.prompt_tokens_computed, 100 + 7 * 4 + 32);
        ck_assert_int_eq(st.kv_blocks_used, 0);
        s.cache_prompt = false; /* what one gets alone */
        for (int i = 0; i < 8; i++) {
            s.sampling.stream = (uint64_t)i;
            struct job *alone = fake_submit(sched, &s);
            fake_wait_done(alone);
            if (i >= leaves) check_same(&s, alone, copies[i]);
            job_unref(alone);
            job_unref(copies[i]);
        }
    }
}
END_TEST

/* Without a prefix cache, or without leave to use it: the copies of one family share, nobody else, and nothing
 * stays. */
START_TEST(copies_share_without_a_cache)
{
    for (int off = 0; off < 2; off++)
        for (int leaves = 0; leaves < 2; leaves++) {
            struct job *copies[5], *other;
            open_with(options(off ? 0 : 100, 0));
            fake->allowed = 0;
            struct job_spec s = fake_spec(prompt, 100, 10);
            s.cache_prompt = off;
            s.family = 7;
            for (int i = 0; i < 5; i++) {
                s.sampling.stream = (uint64_t)i;
                copies[i] = fake_submit(sched, &s);
            }
            s.family = 8;
            other = fake_submit(sched, &s);
            fake_reach(fake, 1);
            if (leaves) job_cancel(copies[0]);
            fake_allow(fake, -1);
            for (int i = leaves; i < 5; i++)
                ck_assert_int_eq(fake_wait_done(copies[i]).finish, FINISH_LENGTH);
            ck_assert_uint_eq(fake_wait_done(other).cached_tokens, 0);
            struct engine_stats st = stats();
            if (!leaves) ck_assert_uint_eq(st.prompt_tokens_computed, 100 + 4 * 4 + 100);
            ck_assert_uint_le(st.prompt_tokens_computed, 100 + 4 * 4 + 32 + 100);
            ck_assert_int_eq(st.kv_blocks_used, 0);
            ck_assert_int_eq(st.prefix_cached_blocks, 0);
            s.family = 0;
            for (int i = 0; i < 5; i++) {
                s.sampling.stream = (uint64_t)i;
                struct job *alone = fake_submit(sched, &s);
                ck_assert_uint_eq(fake_wait_done(alone).cached_tokens, 0);
                if (i >= leaves) check_same(&s, alone, copies[i]);
                job_unref(alone);
                job_unref(copies[i]);
            }
            s.family = 7; /* of those nothing is left */
            struct job *late = fake_submit(sched, &s);
            ck_assert_uint_eq(fake_wait_done(late).cached_tokens, 0);
            job_unref(late);
            job_unref(other);
        }
}
END_TEST

START_TEST(shared_blocks_are_counted_once)
{
    open_with(options(100, 0));
    cached_of(fake_spec(prompt, 96, 1));
    long begun = hold();
    struct job *j[3];
    struct job_spec s = fake_spec(prompt, 97, 16); /* 112 positions: 7 blocks, 6 of them known */
    for (int i = 0; i < 3; i++)
        j[i] = fake_submit(sched, &s);
    fake_reach(fake, begun + 1);
    fake_allow(fake, 1); /* by the second step all three are there */
    fake_reach(fake, begun + 2);
    struct engine_stats st;
    scheduler_stats(sched, &st);
    ck_assert_int_eq(st.kv_blocks_used, 6 + 3);
    ck_assert_int_eq(st.prefix_cached_blocks, 0);
    fake_allow(fake, -1);
    for (int i = 0; i < 3; i++) {
        fake_wait_done(j[i]);
        job_unref(j[i]);
    }
    ck_assert_int_eq(stats().prefix_cached_blocks, 6);
}
END_TEST

START_TEST(dropping_forgets_and_disturbs_nobody)
{
    open_with(options(100, 0));
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 100, 1)), 0);
    long begun = hold();
    struct job_spec s = fake_spec(prompt, 100, 30);
    struct job *j = fake_submit(sched, &s);
    fake_reach(fake, begun + 1);
    scheduler_drop_prefixes(sched);
    fake_allow(fake, -1);
    ck_assert_uint_eq(fake_wait_done(j).cached_tokens, 96);
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 100, 1)), 0);
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 100, 1)), 96);
    scheduler_drop_prefixes(sched); /* also while nothing runs */
    while (stats().prefix_cached_blocks > 0)
        usleep(100);
    ck_assert_uint_eq(cached_of(fake_spec(prompt, 100, 1)), 0);
    job_unref(j);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("reuse");
    TCase *t = tcase_create("reuse");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_crowd_gets_the_same_with_any_reuse);
    tcase_add_test(t, guesses_change_no_token_of_any_seed);
    tcase_add_test(t, a_stop_string_among_guesses);
    tcase_add_test(t, guesses_follow_the_luck_of_the_text);
    tcase_add_test(t, whole_blocks_before_the_last_token);
    tcase_add_test(t, scored_tokens_are_computed);
    tcase_add_test(t, salts_and_refusals);
    tcase_add_test(t, answers_are_kept_where_roles_agree);
    tcase_add_test(t, copies_share_one_computation);
    tcase_add_test(t, copies_share_without_a_cache);
    tcase_add_test(t, shared_blocks_are_counted_once);
    tcase_add_test(t, dropping_forgets_and_disturbs_nobody);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
