/* How a job ends and what it shows, on a model that follows a script. */
#include <math.h>

#include "tests/engine/run/fake_model.h"

static struct fake *fake;
static struct scheduler *sched;
static int32_t script[FAKE_CTX];
static const int32_t prompt[] = {50, 51, 52};

/* Tokens of fake_text() by what they say. */
enum {
    EOS = 0,
    A = 13,
    B = 1,
    AB = 2,
    E2 = 3,
    EURO_END = 4,
    F09F = 5,
    FF = 6,
    THE = 7,
    CAT = 8,
    STOP = 9,
    C = 10,
    D = 11,
    NL = 12
};

static void setup(void)
{
    fake = fake_new();
    struct scheduler_options o = fake_options();
    sched = fake_open(fake, &o);
}

static void teardown(void)
{
    scheduler_close(sched);
    fake_free(fake);
}

static void say(const int32_t *tokens, int n)
{
    for (int i = 0; i < FAKE_CTX; i++)
        script[i] = C;
    memcpy(script + 2, tokens, (size_t)n * sizeof *tokens);
    fake->script = script;
}
#define SAY(...) say((const int32_t[]){__VA_ARGS__}, (int)(sizeof((int32_t[]){__VA_ARGS__}) / 4))

static struct job_spec spec(int max_tokens)
{
    struct job_spec s;
    job_spec_default(&s);
    s.tokens = prompt;
    s.n_tokens = 3;
    s.max_tokens = max_tokens;
    s.sampling.temperature = 0;
    return s;
}

static void with_stop(struct job_spec *s, const char *const *stop, size_t n)
{
    static size_t len[8];
    for (size_t i = 0; i < n; i++)
        len[i] = strlen(stop[i]);
    s->stop = stop;
    s->stop_len = len;
    s->n_stop = n;
}

static void expect(const struct job_view *v, enum finish how, const char *text, size_t shown,
                   size_t generated)
{
    ck_assert_int_eq(v->finish, how);
    ck_assert_int_eq(v->phase, JOB_DONE);
    ck_assert_msg(v->text_len == strlen(text) && !memcmp(v->text, text, v->text_len),
                  "text \"%.*s\", expected \"%s\"", (int)v->text_len, v->text, text);
    ck_assert_uint_eq(v->n_tokens, shown);
    ck_assert_uint_eq(v->completion_tokens, generated);
}

START_TEST(length)
{
    SAY(A, B, AB, CAT);
    struct job_spec s = spec(4);
    struct job *j = fake_submit(sched, &s);
    struct job_view v = fake_wait_done(j);
    expect(&v, FINISH_LENGTH, "abab cat", 4, 4);
    ck_assert_int_eq(v.stop_id, -1);
    ck_assert_int_eq(v.stop_index, -1);
    ck_assert_uint_eq(v.prompt_done, 3);
    ck_assert(v.submitted_ns <= v.admitted_ns && v.admitted_ns <= v.first_token_ns &&
              v.first_token_ns <= v.done_ns);
    ck_assert(isnan(job_tokens(j)[0].logprob)); /* not asked for */
    const uint32_t begin[] = {0, 1, 2, 4};
    for (int i = 0; i < 4; i++)
        ck_assert_uint_eq(job_tokens(j)[i].text_begin, begin[i]);
    job_unref(j);
}
END_TEST

START_TEST(end_of_text_is_a_token_without_text)
{
    SAY(A, B, EOS, C);
    struct job_spec s = spec(9);
    s.top_logprobs = 1;
    struct job *j = fake_submit(sched, &s);
    struct job_view v = fake_wait_done(j);
    expect(&v, FINISH_STOP, "ab", 3, 3);
    ck_assert_int_eq(v.stop_id, EOS);
    ck_assert_int_eq(job_tokens(j)[2].id, EOS);
    ck_assert_uint_eq(job_tokens(j)[2].text_begin, 2);
    double sum = 0;
    for (int i = 0; i < 3; i++) {
        sum += (double)job_tokens(j)[i].logprob;
        ck_assert(job_tokens(j)[i].greedy);
        ck_assert_int_eq(job_token_top(j, (size_t)i)->id, job_tokens(j)[i].id);
        ck_assert(job_token_top(j, (size_t)i)->logprob == job_tokens(j)[i].logprob);
    }
    ck_assert(v.sum_logprob == sum && sum < 0);
    job_unref(j);
    s.ignore_eos = true;
    j = fake_submit(sched, &s);
    v = fake_wait_done(j);
    expect(&v, FINISH_LENGTH, "abcccccc", 9, 9); /* an ordinary token, though without text */
    job_unref(j);
}
END_TEST

START_TEST(stop_ids)
{
    SAY(A, THE, CAT, A);
    const int32_t ids[] = {B, CAT};
    struct job_spec s = spec(9);
    s.stop_ids = ids;
    s.n_stop_ids = 2;
    struct job *j = fake_submit(sched, &s);
    struct job_view v = fake_wait_done(j);
    expect(&v, FINISH_STOP, "a the", 3, 3);
    ck_assert_int_eq(v.stop_id, CAT);
    job_unref(j);
}
END_TEST

START_TEST(stop_strings_cut_the_text_and_swallow_tokens)
{
    SAY(A, B, THE, CAT, STOP, D);
    const char *stop[] = {"zzz", "b the c"};
    struct job_spec s = spec(9);
    with_stop(&s, stop, 2);
    struct job *j = fake_submit(sched, &s);
    struct job_view v = fake_wait_done(j);
    expect(&v, FINISH_STOP, "a", 1, 4); /* the stop string begins with the second token */
    ck_assert_int_eq(v.stop_index, 1);
    ck_assert_int_eq(v.stop_id, -1);
    job_unref(j);
    s.include_stop = true;
    j = fake_submit(sched, &s);
    v = fake_wait_done(j);
    expect(&v, FINISH_STOP, "ab the c", 4, 4);
    job_unref(j);
    const char *inside[] = {"he c"}; /* " the" begins before the cut: it is shown */
    with_stop(&s, inside, 1);
    s.include_stop = false;
    j = fake_submit(sched, &s);
    v = fake_wait_done(j);
    expect(&v, FINISH_STOP, "ab t", 3, 4);
    job_unref(j);
}
END_TEST

START_TEST(a_stop_string_at_the_length_limit_is_a_stop)
{
    SAY(A, THE, STOP);
    const char *stop[] = {"stop"}, *replacement[] = {"\xef\xbf\xbd"};
    struct job_spec s = spec(3);
    with_stop(&s, stop, 1);
    struct job *j = fake_submit(sched, &s);
    struct job_view v = fake_wait_done(j);
    expect(&v, FINISH_STOP, "a the", 2, 3);
    job_unref(j);
    SAY(A, THE, E2); /* what is left incomplete becomes U+FFFD, which is a stop string here */
    with_stop(&s, replacement, 1);
    j = fake_submit(sched, &s);
    v = fake_wait_done(j);
    expect(&v, FINISH_STOP, "a the", 2, 3);
    job_unref(j);
}
END_TEST

START_TEST(min_tokens_bans_ends)
{
    SAY(A, EOS, STOP, CAT, B, THE, EOS);
    const int32_t ids[] = {CAT};
    const char *stop[] = {"stop", "the"};
    struct job_spec s = spec(12);
    with_stop(&s, stop, 2);
    s.stop_ids = ids;
    s.n_stop_ids = 1;
    s.min_tokens = 5;
    struct job *j = fake_submit(sched, &s);
    struct job_view v = fake_wait_done(j);
    ck_assert_int_eq(v.finish, FINISH_STOP);
    ck_assert_int_eq(v.stop_index, 1); /* " the" is token 6: the first that may end it */
    ck_assert_uint_eq(v.completion_tokens, 6);
    ck_assert_int_ne(job_tokens(j)[1].id, EOS);
    ck_assert_int_eq(job_tokens(j)[2].id, STOP); /* its text is no stop string yet */
    ck_assert_int_ne(job_tokens(j)[3].id, CAT);
    job_unref(j);
}
END_TEST

/* Shown while it runs: a token when all its text is out, never half a character. */
START_TEST(what_is_shown_on_the_way)
{
    SAY(A, E2, EURO_END, STOP, FF, STOP, B);
    const char *stop[] = {"stopst!", "p\xef\xbf\xbdstopx"};
    struct job_spec s = spec(7);
    with_stop(&s, stop, 2);
    static const struct {
        size_t tokens, bytes;
    } want[] = {{1, 1}, {1, 1}, {3, 4}, {3, 4}, {3, 7}, {3, 7}, {7, 16}};
    fake->allowed = 0;
    struct job *j = fake_submit(sched, &s);
    struct job_view v;
    for (long i = 0; i < 6; i++) {
        fake_reach(fake, i + 1);
        fake_allow(fake, 1);
        fake_reach(fake, i + 2);
        job_view(j, &v);
        ck_assert_msg(v.n_tokens == want[i].tokens && v.text_len == want[i].bytes,
                      "after token %ld: %zu tokens, %zu bytes", i + 1, v.n_tokens, v.text_len);
        ck_assert(!v.done && v.finish == FINISH_NONE && v.phase == JOB_DECODE);
    }
    fake_allow(fake, -1);
    v = fake_wait_done(j);
    expect(&v, FINISH_LENGTH, "a\xe2\x82\xacstop\xef\xbf\xbdstopb", 7, 7);
    const uint32_t chars[] = {0, 1, 1, 2, 6, 7, 11};
    for (int i = 0; i < 7; i++)
        ck_assert_uint_eq(job_tokens(j)[i].char_begin, chars[i]);
    job_unref(j);
}
END_TEST

START_TEST(nothing_to_generate)
{
    struct job_spec s = spec(0);
    struct job *j = fake_submit(sched, &s);
    struct job_view v = fake_wait_done(j);
    expect(&v, FINISH_LENGTH, "", 0, 0);
    ck_assert_uint_eq(v.prompt_done, 3);
    ck_assert_uint_eq(v.n_scored, 0);
    ck_assert(v.first_token_ns == 0);
    job_unref(j);
    s.n_tokens = 1;
    s.score_from = 0;
    j = fake_submit(sched, &s);
    v = fake_wait_done(j);
    expect(&v, FINISH_LENGTH, "", 0, 0);
    ck_assert_uint_eq(v.n_scored, 1);
    ck_assert(isnan(job_prompt(j)[0].logprob));
    job_unref(j);
}
END_TEST

static int submit_error(const struct job_spec *s, const char *param)
{
    struct job *j = NULL;
    struct err err = {0};
    int rc = scheduler_submit(sched, s, &j, &err);
    ck_assert_ptr_null(j);
    ck_assert_str_eq(err.param, param);
    ck_assert_int_eq(rc, err.code);
    return rc;
}

START_TEST(bad_lengths_and_ids_are_refused)
{
    static int32_t many[FAKE_CTX + 2];
    struct job_spec s = spec(4);
    s.n_tokens = 0;
    ck_assert_int_eq(submit_error(&s, "prompt"), ERR_INVALID);
    s = spec(-1);
    ck_assert_int_eq(submit_error(&s, "max_tokens"), ERR_INVALID);
    s = spec(FAKE_CTX - 2);
    ck_assert_int_eq(submit_error(&s, "prompt"), ERR_TOO_LONG);
    s = spec(1);
    s.tokens = many;
    s.n_tokens = FAKE_CTX;
    ck_assert_int_eq(submit_error(&s, "prompt"), ERR_TOO_LONG);
    s.max_tokens = 0;
    s.n_tokens = FAKE_CTX + 2;
    ck_assert_int_eq(submit_error(&s, "prompt"), ERR_TOO_LONG);
    s.n_tokens = FAKE_CTX + 1; /* the last one is only scored */
    s.score_from = 0;
    struct job *j = fake_submit(sched, &s);
    struct job_view v = fake_wait_done(j);
    ck_assert_uint_eq(v.n_scored, FAKE_CTX + 1);
    ck_assert(isfinite(job_prompt(j)[FAKE_CTX].logprob));
    job_unref(j);
    const int32_t bad[] = {1, FAKE_VOCAB}, negative[] = {-1};
    s = spec(2);
    s.tokens = bad;
    s.n_tokens = 2;
    ck_assert_int_eq(submit_error(&s, "prompt"), ERR_INVALID);
    s = spec(2);
    s.stop_ids = negative;
    s.n_stop_ids = 1;
    ck_assert_int_eq(submit_error(&s, "stop_token_ids"), ERR_INVALID);
}
END_TEST

START_TEST(bad_options_are_refused)
{
    const struct {
        const char *param;
        size_t offset;
        double bad;
    } v[] = {{"temperature", offsetof(struct sampling, temperature), -1},
             {"temperature", offsetof(struct sampling, temperature), NAN},
             {"top_p", offsetof(struct sampling, top_p), 1.5},
             {"typical_p", offsetof(struct sampling, typical_p), -0.1},
             {"min_p", offsetof(struct sampling, min_p), 2},
             {"repetition_penalty", offsetof(struct sampling, repetition_penalty), 0},
             {"presence_penalty", offsetof(struct sampling, presence_penalty), INFINITY},
             {"frequency_penalty", offsetof(struct sampling, frequency_penalty), NAN}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        struct job_spec s = spec(2);
        memcpy((char *)&s.sampling + v[i].offset, &v[i].bad, sizeof(double));
        ck_assert_int_eq(submit_error(&s, v[i].param), ERR_INVALID);
    }
    const char *stop[] = {"ok", ""}, *half[] = {"\xe2\x82"};
    struct job_spec s = spec(2);
    with_stop(&s, stop, 2);
    ck_assert_int_eq(submit_error(&s, "stop"), ERR_INVALID);
    with_stop(&s, half, 1);
    ck_assert_int_eq(submit_error(&s, "stop"), ERR_INVALID);
    s = spec(2);
    s.top_logprobs = FAKE_VOCAB + 1;
    ck_assert_int_eq(submit_error(&s, "logprobs"), ERR_INVALID);
    const int32_t allowed[] = {FAKE_VOCAB};
    const struct logit_bias bias = {-1, 0}, nan_bias = {3, NAN};
    s = spec(2);
    s.sampling.allowed = allowed;
    ck_assert_int_eq(submit_error(&s, "allowed_token_ids"), ERR_INVALID);
    s.sampling.n_allowed = 1;
    ck_assert_int_eq(submit_error(&s, "allowed_token_ids"), ERR_INVALID);
    s = spec(2);
    s.sampling.n_bias = 1;
    s.sampling.bias = &bias;
    ck_assert_int_eq(submit_error(&s, "logit_bias"), ERR_INVALID);
    s.sampling.bias = &nan_bias;
    ck_assert_int_eq(submit_error(&s, "logit_bias"), ERR_INVALID);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("job");
    TCase *t = tcase_create("job");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, length);
    tcase_add_test(t, end_of_text_is_a_token_without_text);
    tcase_add_test(t, stop_ids);
    tcase_add_test(t, stop_strings_cut_the_text_and_swallow_tokens);
    tcase_add_test(t, a_stop_string_at_the_length_limit_is_a_stop);
    tcase_add_test(t, min_tokens_bans_ends);
    tcase_add_test(t, what_is_shown_on_the_way);
    tcase_add_test(t, nothing_to_generate);
    tcase_add_test(t, bad_lengths_and_ids_are_refused);
    tcase_add_test(t, bad_options_are_refused);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
