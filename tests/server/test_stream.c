/* Streams: the form of events, agreement with whole answers, stop strings, pings, interleaved choices, and
 * what clients of the other servers complain about. */
#include "tests/server/fixture.h"

/* A stream read to its end. */
struct streamed {
    struct buf text[4]; /* by choice */
    char finish[4][16];
    json_t *logprobs[4]; /* tokens, token_logprobs, top_logprobs, text_offset appended */
    json_t *usage;       /* of the closing chunk */
    int chunks, pings, progress;
    int usage_not_null; /* chunks before the closing one without "usage": null */
    bool done, error;
};

static void append_logprobs(json_t **to, const json_t *lp)
{
    static const char *const keys[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    if (!json_is_object(lp)) return;
    if (!*to) *to = json_object();
    for (size_t i = 0; i < 4; i++) {
        if (!json_object_get(*to, keys[i])) json_object_set_new(*to, keys[i], json_array());
        json_array_extend(json_object_get(*to, keys[i]), json_object_get(lp, keys[i]));
    }
}

static void take_chunk(struct streamed *s, const json_t *v)
{
    ck_assert_str_eq(json_str(v, "object"), "text_completion");
    const json_t *choices = json_at(v, "choices"), *usage = json_at(v, "usage");
    const json_t *progress = json_at(v, "prompt_progress");
    if (json_array_size(choices) == 0 && !progress) {
        ck_assert_ptr_null(s->usage);
        s->usage = json_incref((json_t *)(uintptr_t)usage);
        return;
    }
    ck_assert_msg(s->usage == NULL, "a chunk behind the usage");
    s->usage_not_null += !usage || !json_is_null(usage);
    if (progress) {
        s->progress++;
        return;
    }
    size_t i = (size_t)json_num(v, "choices.0.index");
    ck_assert_uint_lt(i, 4);
    ck_assert_msg(!*s->finish[i], "a chunk after the end of choice %zu", i);
    buf_puts(&s->text[i], json_str(v, "choices.0.text"));
    append_logprobs(&s->logprobs[i], json_at(v, "choices.0.logprobs"));
    snprintf(s->finish[i], sizeof s->finish[i], "%s", json_str(v, "choices.0.finish_reason"));
    s->chunks++;
}

static void read_stream(struct streamed *s, struct httpc *c)
{
    char *ev;
    *s = (struct streamed){0};
    while ((ev = httpc_event(c, 60000))) {
        ck_assert_msg(!s->done, "an event after [DONE]: %.100s", ev);
        if (strcmp(ev, ": ping") == 0) {
            s->pings++;
        } else if (strcmp(ev, "data: [DONE]") == 0) {
            s->done = true;
        } else {
            ck_assert_msg(strncmp(ev, "data: {", 7) == 0 && !strchr(ev, '\n'), "odd event: %.200s",
                          ev);
            json_t *v = json_loads(ev + 6, JSON_ALLOW_NUL, NULL);
            ck_assert_msg(v != NULL, "not JSON: %.200s", ev);
            if (json_object_get(v, "error"))
                s->error = true;
            else
                take_chunk(s, v);
            json_decref(v);
        }
        free(ev);
    }
    ck_assert(s->done);
}

static void stream(struct streamed *s, const char *fields)
{
    struct httpc c;
    struct buf b = {0};
    buf_printf(&b, "{\"stream\":true,%s}", fields);
    httpc_open(&c, srv.port);
    httpc_send(&c, "POST", "/v1/completions", "", b.data, b.len);
    int status = httpc_head(&c, 30000);
    ck_assert_msg(status == 200, "%.200s: status %d", fields, status);
    ck_assert_str_eq(httpc_header(&c, "Content-Type"), "text/event-stream; charset=utf-8");
    ck_assert_str_eq(httpc_header(&c, "Cache-Control"), "no-cache");
    ck_assert_str_eq(httpc_header(&c, "X-Accel-Buffering"), "no");
    ck_assert_ptr_nonnull(httpc_header(&c, "X-Request-Id"));
    read_stream(s, &c);
    httpc_close(&c);
    buf_release(&b);
}

static void streamed_release(struct streamed *s)
{
    for (int i = 0; i < 4; i++) {
        buf_release(&s->text[i]);
        json_decref(s->logprobs[i]);
    }
    json_decref(s->usage);
}

/* The same request, whole and streamed: same text, same logprobs, same usage. */
static const char *const both[] = {
    "\"prompt\":\"one\",\"max_tokens\":40,\"seed\":1",
    "\"prompt\":\"one\",\"max_tokens\":40,\"seed\":2,\"logprobs\":3",
    "\"prompt\":[7,8,9],\"max_tokens\":40,\"seed\":3,\"echo\":true",
    "\"prompt\":[7,8,9],\"max_tokens\":30,\"seed\":4,\"echo\":true,\"logprobs\":2",
    "\"prompt\":\"x\",\"max_tokens\":50,\"seed\":5,\"n\":4,\"logprobs\":0",
    "\"prompt\":[\"x\",\"yy\"],\"max_tokens\":20,\"seed\":6,\"n\":2,\"temperature\":1.5",
    "\"prompt\":\"x\",\"max_tokens\":60,\"seed\":7,\"stop\":[\"a\",\"e\",\"qu\"],\"logprobs\":1",
    ("\"prompt\":\"x\",\"max_tokens\":60,\"seed\":8,\"stop\":[\"th\",\"in\",\"zz\"],\"n\":3,"
     "\"include_stop_str_in_output\":true"),
    "\"prompt\":\"x\",\"max_tokens\":0,\"echo\":true,\"logprobs\":1",
    "\"prompt\":\"x\",\"max_tokens\":0",
    "\"prompt\":\"x\",\"max_tokens\":9,\"logit_bias\":{\"511\":100}",
};

static json_t *without_nul(const char *fields)
{
    struct httpc c;
    struct buf b = {0};
    buf_printf(&b, "{%s}", fields);
    ck_assert_int_eq(http_post(&c, srv.port, "/v1/completions", b.data), 200);
    json_t *v = json_loadb(c.body.data, c.body.len, JSON_ALLOW_NUL, NULL);
    httpc_close(&c);
    buf_release(&b);
    return v;
}

START_TEST(streams_say_what_answers_say)
{
    struct buf fields = {0};
    const char *f = both[_i];
    struct streamed s;
    json_t *v = without_nul(f);
    buf_printf(&fields, "%s,\"stream_options\":{\"include_usage\":true}", f);
    stream(&s, fields.data);
    size_t n = json_array_size(json_at(v, "choices"));
    for (size_t i = 0; i < n; i++) {
        const json_t *choice = json_array_get(json_at(v, "choices"), i);
        ck_assert_str_eq(s.text[i].data ? s.text[i].data : "", json_str(choice, "text"));
        ck_assert_str_eq(s.finish[i], json_str(choice, "finish_reason"));
        const json_t *lp = json_at(choice, "logprobs");
        if (json_is_object(lp))
            ck_assert(json_equal(s.logprobs[i], (json_t *)(uintptr_t)lp));
        else
            ck_assert_ptr_null(s.logprobs[i]);
    }
    ck_assert(json_equal(s.usage, (json_t *)(uintptr_t)json_at(v, "usage")));
    ck_assert(s.usage_not_null == 0 && !s.error);
    json_decref(v);
    streamed_release(&s);
    buf_release(&fields);
}
END_TEST

START_TEST(stop_strings_never_appear)
{
    static const char *const stops[] = {"a", "th", "in", "er", "on", "ou"};
    for (int seed = 0; seed < 20; seed++)
        for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
            char f[160];
            struct streamed s;
            snprintf(f, sizeof f, "\"prompt\":\"q\",\"max_tokens\":60,\"seed\":%d,\"stop\":\"%s\"",
                     seed, stops[i]);
            stream(&s, f);
            ck_assert(!s.text[0].data || !strstr(s.text[0].data, stops[i]));
            streamed_release(&s);
        }
}
END_TEST

/* Random tokens of this model are mostly single bytes: half characters everywhere. What arrives is
 * well-formed in every chunk (json_loads refuses anything else), see read_stream(). */
START_TEST(characters_are_never_split)
{
    for (int seed = 0; seed < 30; seed++) {
        char f[120];
        struct streamed s;
        snprintf(f, sizeof f, "\"prompt\":\"q\",\"max_tokens\":60,\"temperature\":2,\"seed\":%d",
                 seed);
        stream(&s, f);
        streamed_release(&s);
    }
}
END_TEST

START_TEST(progress_is_reported_on_request)
{
    struct streamed s;
    stream(&s,
           "\"prompt\":\"some words\",\"max_tokens\":4,\"return_progress\":true,"
           "\"stream_options\":{\"include_usage\":true}");
    ck_assert_int_ge(s.progress, 1);
    ck_assert(s.usage && s.usage_not_null == 0);
    streamed_release(&s);
}
END_TEST

START_TEST(best_of_ranks_by_mean_logprob)
{
    json_t *all = without_nul(
        "\"prompt\":\"x\",\"max_tokens\":5,\"seed\":3,\"n\":4,\"logprobs\":0,\"ignore_eos\":true");
    json_t *best = without_nul(
        "\"prompt\":\"x\",\"max_tokens\":5,\"seed\":3,\"n\":2,\"best_of\":4,\"ignore_eos\":true");
    double top = -1e9;
    size_t at = 0;
    for (size_t i = 0; i < 4; i++) {
        double sum = 0;
        const json_t *lp =
            json_at(json_array_get(json_at(all, "choices"), i), "logprobs.token_logprobs");
        for (size_t k = 0; k < json_array_size(lp); k++)
            sum += json_real_value(json_array_get(lp, k));
        if (sum > top) {
            top = sum;
            at = i;
        }
    }
    ck_assert_str_eq(json_str(best, "choices.0.text"),
                     json_str(json_array_get(json_at(all, "choices"), at), "text"));
    ck_assert(json_num(best, "usage.completion_tokens") == 20);
    ck_assert_uint_eq(json_array_size(json_at(best, "choices")), 2);
    json_decref(all), json_decref(best);
}
END_TEST

START_TEST(stop_reasons)
{
    json_t *v = without_nul(
        "\"prompt\":\"x\",\"max_tokens\":9,\"logit_bias\":{\"7\":100},\"stop_token_ids\":[7]");
    ck_assert_str_eq(json_str(v, "choices.0.finish_reason"), "stop");
    ck_assert(json_num(v, "choices.0.stop_reason") == 7);
    json_decref(v);
    v = without_nul("\"prompt\":\"x\",\"max_tokens\":9,\"logit_bias\":{\"511\":100}");
    ck_assert_str_eq(json_str(v, "choices.0.finish_reason"), "stop");
    ck_assert(json_is_null(json_at(v, "choices.0.stop_reason")));
    json_decref(v);
    v = without_nul(
        "\"prompt\":\"x\",\"max_tokens\":9,\"allowed_token_ids\":[64,65],\"stop\":[\"never\",\"b\","
        "\"a\"]");
    ck_assert_str_eq(json_str(v, "choices.0.finish_reason"), "stop");
    ck_assert_str_eq(json_str(v, "choices.0.text"), "");
    json_decref(v);
}
END_TEST

/* ---- silence, on a slow model ---- */

static void slow_up(void)
{
    static const char *const flags[] = {DAEMON_SLOW, "--ping-interval-s", "0.1", "--max-batch", "1",
                                        NULL};
    daemon_start(&srv, daemon_slow_model(), flags);
}

START_TEST(silent_streams_get_pings)
{
    struct httpc c;
    struct buf b = {0};
    char *ids = ids_json(1800, 1), *ev;
    buf_printf(&b, "{\"stream\":true,\"max_tokens\":1,\"prompt\":%s}", ids);
    httpc_open(&c, srv.port);
    httpc_send(&c, "POST", "/v1/completions", "", b.data, b.len);
    ck_assert_int_eq(httpc_head(&c, 2000), 200); /* before anything is computed */
    ev = httpc_event(&c, 20000);
    ck_assert_ptr_nonnull(ev);
    ck_assert_str_eq(ev, ": ping");
    free(ev);
    httpc_close(&c);
    buf_release(&b);
    free(ids);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("streams over HTTP");
    TCase *t = server_case(s, "streams");
    tcase_add_loop_test(t, streams_say_what_answers_say, 0, (int)(sizeof both / sizeof *both));
    tcase_add_test(t, stop_strings_never_appear);
    tcase_add_test(t, characters_are_never_split);
    tcase_add_test(t, progress_is_reported_on_request);
    tcase_add_test(t, best_of_ranks_by_mean_logprob);
    tcase_add_test(t, stop_reasons);
    t = tcase_create("silence");
    tcase_add_unchecked_fixture(t, slow_up, server_down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, silent_streams_get_pings);
    return s;
}

TEST_MAIN(suite)
