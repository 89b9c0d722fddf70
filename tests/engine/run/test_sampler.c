/* Every option of the sampler against naive_sampler.h: which tokens can be drawn, exactly, and how
 * often, within bounds that a correct sampler passes for these fixed seeds. */
#include "engine/run/sampler.h"

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/engine/run/naive_sampler.h"
#include "tests/support/harness.h"

static const struct kernels *tables[2];
static void *scratch;

static void setup(void)
{
    struct cpu cpu;
    cpu_detect(&cpu);
    tables[0] = kernels_scalar();
    tables[1] = kernels_choose(&cpu, NULL);
    ck_assert_int_eq(mem_map(&scratch, sampler_scratch_bytes(60000), "test scratch", NULL), 0);
}

static void teardown(void)
{
    mem_unmap(scratch, sampler_scratch_bytes(60000));
}

/* A peaked row; step > 0 rounds the logits to multiples of it, so that many are equal. */
static void random_row(float *x, int n, uint64_t seed, float step)
{
    rng_normal_fill(x, (uint64_t)n, 3.0, seed, 1);
    for (int i = 0; step > 0 && i < n; i++)
        x[i] = step * roundf(x[i] / step);
}

static double uniform(uint64_t seed, uint64_t i)
{
    return rng_uniform(seed, 99, i);
}

/* Options at random, each filter on in half of the cases. */
static struct sampling random_options(uint64_t seed, int vocab)
{
    struct sampling s;
    sampling_default(&s);
    s.temperature = 0.3 + 1.5 * uniform(seed, 0);
    if (uniform(seed, 1) < 0.5) s.top_k = 1 + (int)(uniform(seed, 2) * vocab * 0.6);
    if (uniform(seed, 3) < 0.5) s.top_p = 0.05 + 0.95 * uniform(seed, 4);
    if (uniform(seed, 5) < 0.5) s.typical_p = 0.05 + 0.95 * uniform(seed, 6);
    if (uniform(seed, 7) < 0.5) s.min_p = 0.3 * uniform(seed, 8);
    s.seed = seed;
    return s;
}

/* Draws: nothing outside the support, every likely token of it, frequencies as the probabilities
 * (chi-square over tokens expected at least 5 times, the others together). */
static void check_draws(const struct kernels *k, const struct sampling *s,
                        const struct sampler_history *h, const float *x, int vocab,
                        const int32_t *banned, int n_banned, const struct naive_row *want,
                        int draws)
{
    static int count[NAIVE_MAX];
    memset(count, 0, sizeof count);
    for (int i = 0; i < draws; i++) {
        int32_t id = sample(k, s, h, x, vocab, banned, (size_t)n_banned, (uint64_t)i, scratch);
        ck_assert_int_ge(id, 0);
        ck_assert_int_lt(id, vocab);
        count[id]++;
    }
    double chi = 0, rest = 0, rest_count = 0;
    int cells = 0;
    for (int i = 0; i < vocab; i++) {
        double e = want->p[i] * draws;
        ck_assert_msg(e > 0 || count[i] == 0, "token %d outside the support was drawn", i);
        ck_assert_msg(e < 30 || count[i] > 0, "token %d, expected %g times, never came", i, e);
        if (e >= 5) {
            chi += (count[i] - e) * (count[i] - e) / e;
            cells++;
        } else {
            rest += e;
            rest_count += count[i];
        }
    }
    if (rest >= 5) chi += (rest_count - rest) * (rest_count - rest) / rest, cells++;
    if (cells > 1) /* mean cells - 1, variance twice that: 6 standard deviations and some */
        ck_assert_msg(chi < cells + 6 * sqrt(2.0 * cells) + 10, "chi-square %g in %d cells", chi,
                      cells);
}

START_TEST(filters_match_their_definitions)
{
    static struct naive_row want;
    static float x[512];
    int cases = harness_sanitized() ? 30 : 200, checked = 0;
    for (int c = 0; c < cases; c++) {
        int vocab = 1 + (int)(uniform((uint64_t)c, 20) * 300);
        random_row(x, vocab, (uint64_t)c, c % 3 == 0 ? 0.5f : 0);
        struct sampling s = random_options((uint64_t)c, vocab);
        naive_sample(&want, &s, x, vocab, NULL, 0, NULL, 0, NULL, 0);
        if (want.margin < 1e-5) continue;
        checked++;
        check_draws(tables[c % 2], &s, NULL, x, vocab, NULL, 0, &want, 4000);
    }
    ck_assert_int_gt(checked, cases / 2);
}
END_TEST

/* Which tokens survive, in rows large enough for the block-wise shortcuts: each survivor is found by
 * its own draw when all have equal weight, so the temperature is made huge. */
START_TEST(supports_in_large_rows)
{
    static struct naive_row want;
    static float x[NAIVE_MAX];
    static bool seen[NAIVE_MAX];
    for (int c = 0; c < 24; c++) {
        int vocab = NAIVE_MAX - 13 * c, n_want = 0, n_seen = 0;
        random_row(x, vocab, 1000 + (uint64_t)c, c % 2 ? 0.25f : 0);
        struct sampling s;
        sampling_default(&s);
        s.temperature = 1e5;
        s.top_k = 1 + c * c / 2;
        s.seed = (uint64_t)c;
        naive_sample(&want, &s, x, vocab, NULL, 0, NULL, 0, NULL, 0);
        memset(seen, 0, sizeof seen);
        for (int i = 0; i < vocab; i++)
            n_want += want.p[i] > 0;
        for (int i = 0; i < 30 * n_want + 10; i++) {
            int32_t id = sample(tables[c % 2], &s, NULL, x, vocab, NULL, 0, (uint64_t)i, scratch);
            ck_assert_msg(want.p[id] > 0, "%d is not among the best %d", id, s.top_k);
            n_seen += !seen[id];
            seen[id] = true;
        }
        ck_assert_int_eq(n_seen, n_want);
    }
}
END_TEST

/* The first token at which the sum of probabilities exceeds u; -1 where float arithmetic may decide otherwise. */
static int naive_quantile(const struct naive_row *r, double u)
{
    double below = 0;
    for (int i = 0; i < r->n; i++) {
        below += r->p[i];
        if (fabs(below - u) < 1e-6) return -1;
        if (below > u) return i;
    }
    return -1;
}

/* Without filters each draw is the quantile of its random number, in rows of several blocks: with and without
 * penalties, with blocks of nothing and numbers that are none. */
START_TEST(a_draw_without_filters_is_the_quantile)
{
    static struct naive_row want;
    static float x[NAIVE_MAX];
    static const struct logit_bias bias[] = {{5, 4.0F}, {3000, 6.0F}};
    int checked = 0;
    for (int c = 0; c < 24; c++) {
        int vocab = NAIVE_MAX - 131 * c;
        struct sampling s;
        random_row(x, vocab, 2000 + (uint64_t)c, 0);
        sampling_default(&s);
        s.temperature = c % 4 ? 0.5 + 0.1 * c : 0.01;
        s.seed = (uint64_t)c;
        if (c % 3 == 1) s.bias = bias, s.n_bias = vocab > 3000 ? 2 : 1;
        for (int i = 900; c % 2 && i < 2200 && i < vocab; i++)
            x[i] = -INFINITY;
        if (c % 8 == 7) x[17] = x[vocab - 1] = NAN;
        naive_sample(&want, &s, x, vocab, NULL, 0, NULL, 0, NULL, 0);
        for (uint64_t i = 0; i < 300; i++) {
            int expected = naive_quantile(&want, rng_uniform(s.seed, s.stream, i));
            int32_t id = sample(tables[c % 2], &s, NULL, x, vocab, NULL, 0, i, scratch);
            if (expected < 0) continue;
            ck_assert_int_eq(id, expected);
            checked++;
        }
    }
    ck_assert_int_gt(checked, 24 * 250);
}
END_TEST

START_TEST(penalties_bias_allowed_and_bans)
{
    static struct naive_row want;
    float x[60];
    const int32_t prompt[] = {3, 3, 17, 40, 59, 0}, output[] = {5, 3, 5, 5, 22, 59};
    const struct logit_bias bias[] = {{1, 4.0f}, {17, -3.5f}, {22, -100.0f}, {50, 2.0f}};
    const int32_t allowed[] = {0, 1, 2, 3, 5, 8, 17, 22, 33, 40, 50, 59, 3}, banned[] = {33, 1};
    for (uint64_t c = 0; c < 32; c++) {
        random_row(x, 60, 50 + c, 0);
        struct sampling s = random_options(c, 60);
        s.seed = c;
        if (c & 1) s.repetition_penalty = c & 2 ? 1.8 : 0.7;
        if (c & 2) s.presence_penalty = 0.9;
        if (c & 4) s.frequency_penalty = -0.4;
        if (c & 8) s.bias = bias, s.n_bias = 4;
        if (c & 16) s.allowed = allowed, s.n_allowed = 13;
        int n_banned = c % 3 ? 2 : 0;
        struct sampler_history *h = sampler_history_new(prompt, 6, 6);
        for (int i = 0; i < 6; i++)
            sampler_history_add(h, output[i]);
        naive_sample(&want, &s, x, 60, prompt, 6, output, 6, banned, n_banned);
        if (want.margin > 1e-5)
            check_draws(tables[c % 2], &s, h, x, 60, banned, n_banned, &want, 3000);
        sampler_history_free(h);
    }
}
END_TEST

/* A history of many tokens counts as a plain array does (hash collisions, growth to the last slot). */
START_TEST(history_counts)
{
    static struct naive_row want;
    static float x[NAIVE_MAX];
    static int32_t ids[900];
    random_row(x, 2000, 4, 0);
    for (int i = 0; i < 900; i++)
        ids[i] = (int32_t)(uniform(8, (uint64_t)i) * 400) * 5;
    struct sampling s;
    sampling_default(&s);
    s.temperature = 1;
    s.repetition_penalty = 1.3;
    s.frequency_penalty = 0.25;
    s.top_k = 1;
    for (int n_prompt = 0; n_prompt <= 900; n_prompt += 90) {
        struct sampler_history *h =
            sampler_history_new(ids, (size_t)n_prompt, 900u - (size_t)n_prompt);
        for (int i = n_prompt; i < 900; i++)
            sampler_history_add(h, ids[i]);
        naive_sample(&want, &s, x, 2000, ids, n_prompt, ids + n_prompt, 900 - n_prompt, NULL, 0);
        int32_t id = sample(tables[1], &s, h, x, 2000, NULL, 0, 0, scratch);
        ck_assert(want.p[id] == 1);
        sampler_history_free(h);
    }
}
END_TEST

START_TEST(greedy_takes_the_lowest_of_equals)
{
    float x[1000] = {0};
    struct sampling s;
    sampling_default(&s);
    x[17] = x[18] = x[900] = 2.5f;
    for (int k = 0; k < 2; k++)
        for (int mode = 0; mode < 3; mode++) {
            s.temperature = mode == 0 ? 0 : mode == 1 ? 1e-6 : 1;
            s.top_k = mode == 2;
            const int32_t ban = 17;
            ck_assert_int_eq(sample(tables[k], &s, NULL, x, 1000, NULL, 0, 0, scratch), 17);
            ck_assert_int_eq(sample(tables[k], &s, NULL, x, 1000, &ban, 1, 0, scratch), 18);
        }
    s.top_p = 0;
    s.temperature = 1;
    s.top_k = 0;
    ck_assert_int_eq(sample(tables[1], &s, NULL, x, 1000, NULL, 0, 3, scratch), 17);
}
END_TEST

START_TEST(draws_depend_on_seed_stream_and_step_alone)
{
    static float x[5000];
    random_row(x, 5000, 6, 0);
    struct sampling s;
    sampling_default(&s);
    s.top_p = 0.95;
    int32_t first[64];
    for (int round = 0; round < 3; round++)
        for (uint64_t i = 0; i < 64; i++) {
            uint64_t step = round == 1 ? 63 - i : i; /* whatever the order of asking */
            int32_t id = sample(tables[1], &s, NULL, x, 5000, NULL, 0, step, scratch);
            if (round == 0)
                first[step] = id;
            else
                ck_assert_int_eq(id, first[step]);
        }
    int other_seed = 0, other_stream = 0;
    for (uint64_t i = 0; i < 64; i++) {
        s.seed = 1;
        other_seed += sample(tables[1], &s, NULL, x, 5000, NULL, 0, i, scratch) != first[i];
        s.seed = 0;
        s.stream = 1;
        other_stream += sample(tables[1], &s, NULL, x, 5000, NULL, 0, i, scratch) != first[i];
        s.stream = 0;
    }
    ck_assert_int_gt(other_seed, 32);
    ck_assert_int_gt(other_stream, 32);
}
END_TEST

START_TEST(what_is_not_finite_is_survived)
{
    static float x[300];
    struct sampling s;
    for (uint64_t c = 0; c < 60; c++) {
        random_row(x, 300, c, 0);
        s = random_options(c, 300);
        if (c % 5 == 0) s.temperature = 0;
        for (int i = 0; i < 300; i++)
            if (uniform(c, 100 + (uint64_t)i) < 0.5) x[i] = c % 2 ? NAN : -INFINITY;
        if (c % 4 == 0) x[7] = x[200] = INFINITY;
        for (uint64_t i = 0; i < 50; i++) {
            int32_t id = sample(tables[c / 2 % 2], &s, NULL, x, 300, NULL, 0, i, scratch);
            ck_assert(!isnan(x[id]) && x[id] > -INFINITY);
            if (c % 4 == 0) ck_assert_int_eq(id, 7);
        }
    }
    sampling_default(&s);
    for (int i = 0; i < 300; i++)
        x[i] = NAN;
    int32_t id = sample(tables[1], &s, NULL, x, 300, NULL, 0, 0, scratch);
    ck_assert(id >= 0 && id < 300);
}
END_TEST

START_TEST(a_ban_of_everything_is_lifted)
{
    float x[8] = {1, 5, 2, 3, NAN, 0, 4, -1};
    int32_t all[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const int32_t allowed[] = {7, 3, 2}, only_nan[] = {4};
    struct sampling s;
    sampling_default(&s);
    ck_assert_int_eq(sample(tables[1], &s, NULL, x, 8, all, 8, 0, scratch), 1);
    s.allowed = allowed;
    s.n_allowed = 3;
    ck_assert_int_eq(sample(tables[1], &s, NULL, x, 8, all, 8, 0, scratch), 3);
    s.allowed = only_nan;
    s.n_allowed = 1;
    ck_assert_int_eq(sample(tables[1], &s, NULL, x, 8, NULL, 0, 0, scratch), 4);
    float one = 3;
    s.allowed = NULL;
    ck_assert_int_eq(sample(tables[1], &s, NULL, &one, 1, NULL, 0, 0, scratch), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("sampler");
    TCase *t = tcase_create("sampler");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, filters_match_their_definitions);
    tcase_add_test(t, supports_in_large_rows);
    tcase_add_test(t, a_draw_without_filters_is_the_quantile);
    tcase_add_test(t, penalties_bias_allowed_and_bans);
    tcase_add_test(t, history_counts);
    tcase_add_test(t, greedy_takes_the_lowest_of_equals);
    tcase_add_test(t, draws_depend_on_seed_stream_and_step_alone);
    tcase_add_test(t, what_is_not_finite_is_survived);
    tcase_add_test(t, a_ban_of_everything_is_lifted);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
