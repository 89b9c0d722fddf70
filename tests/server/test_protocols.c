/* What surrounds the answers: headers (ids, timing, preferences), the files in the binary, and the routes
 * of KServe's protocol, which must say what /v1/completions says. */
#include "tests/server/fixture.h"

static int get_with(struct httpc *c, const char *path, const char *headers)
{
    httpc_open(c, srv.port);
    httpc_send(c, "GET", path, headers, NULL, 0);
    return httpc_read(c, 10000);
}

static int post_with(struct httpc *c, const char *path, const char *headers, const char *body)
{
    httpc_open(c, srv.port);
    httpc_send(c, "POST", path, headers, body, strlen(body));
    return httpc_read(c, 30000);
}

/* ---- headers ---- */

START_TEST(answers_say_where_time_went)
{
    struct httpc c;
    ck_assert_int_eq(post_with(&c, "/v1/completions", "", "{\"prompt\":\"a\",\"max_tokens\":2}"),
                     200);
    double queue, prefill, decode, total;
    ck_assert_int_eq(sscanf(httpc_header(&c, "Server-Timing"),
                            "queue;dur=%lf, prefill;dur=%lf, decode;dur=%lf, total;dur=%lf", &queue,
                            &prefill, &decode, &total),
                     4);
    ck_assert(queue >= 0 && prefill >= 0 && decode >= 0);
    ck_assert(total + 0.2 >= queue + prefill + decode); /* each is rounded */
    httpc_close(&c);
    ck_assert_int_eq(post_with(&c, "/v1/perplexity", "", "{\"input\":\"some text\"}"), 200);
    ck_assert_ptr_nonnull(strstr(httpc_header(&c, "Server-Timing"), "prefill;dur="));
    httpc_close(&c);
    ck_assert_int_eq(get_with(&c, "/nowhere", ""), 404);
    ck_assert_int_eq(strncmp(httpc_header(&c, "Server-Timing"), "total;dur=", 10), 0);
    ck_assert_str_eq(httpc_header(&c, "X-Content-Type-Options"), "nosniff");
    httpc_close(&c);
}
END_TEST

START_TEST(strictness_can_be_preferred)
{
    static const struct {
        const char *headers;
        int status;
    } cases[] = {{"", 200},
                 {"Prefer: handling=lenient\r\n", 200},
                 {"Prefer: handling=strictly\r\n", 200},
                 {"Prefer: handling=strict\r\n", 400},
                 {"Prefer: wait=10, Handling=Strict;x=1\r\n", 400}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct httpc c;
        int got = post_with(&c, "/v1/completions", cases[i].headers,
                            "{\"prompt\":\"a\",\"max_tokens\":1,\"max_tokenz\":2}");
        ck_assert_msg(got == cases[i].status, "%s: %d", cases[i].headers, got);
        const char *applied = httpc_header(&c, "Preference-Applied");
        ck_assert((applied != NULL) == (got == 400));
        if (got == 400) ck_assert_ptr_nonnull(strstr(c.body.data, "unknown field 'max_tokenz'"));
        httpc_close(&c);
    }
    struct httpc c;
    const char *pair = "{\"requests\":[{\"context\":\"a\",\"continuation\":\"b\",\"x\":1}]}";
    ck_assert_int_eq(post_with(&c, "/v1/loglikelihood", "", pair), 200);
    httpc_close(&c);
    ck_assert_int_eq(post_with(&c, "/v1/loglikelihood", "Prefer: handling=strict\r\n", pair), 400);
    ck_assert_ptr_nonnull(strstr(c.body.data, "requests[0]"));
    httpc_close(&c);
}
END_TEST

/* ---- files in the binary ---- */

START_TEST(the_page_is_locked_down)
{
    struct httpc c;
    ck_assert_int_eq(get_with(&c, "/", ""), 200);
    ck_assert_str_eq(httpc_header(&c, "Content-Type"), "text/html; charset=utf-8");
    const char *policy = httpc_header(&c, "Content-Security-Policy");
    ck_assert_int_eq(strncmp(policy, "default-src 'none'; script-src 'sha256-", 39), 0);
    ck_assert_ptr_nonnull(strstr(policy, "connect-src 'self'"));
    ck_assert_ptr_nonnull(strstr(policy, "frame-ancestors 'none'"));
    ck_assert_ptr_null(strstr(policy, "unsafe"));
    ck_assert_str_eq(httpc_header(&c, "X-Frame-Options"), "DENY");
    ck_assert_ptr_nonnull(strstr(c.body.data, "<title>ttmd</title>"));
    ck_assert_ptr_null(strstr(c.body.data, "src=\"http"));
    ck_assert_ptr_null(strstr(c.body.data, " style=\""));
    ck_assert_ptr_null(strstr(c.body.data, " onclick="));
    httpc_close(&c);
}
END_TEST

START_TEST(files_are_not_sent_twice)
{
    static const char *const paths[] = {"/", "/openapi.json"};
    for (size_t i = 0; i < 2; i++) {
        struct httpc c;
        char known[64];
        ck_assert_int_eq(get_with(&c, paths[i], ""), 200);
        ck_assert_uint_gt(c.body.len, 0);
        snprintf(known, sizeof known, "If-None-Match: %s\r\n", httpc_header(&c, "ETag"));
        httpc_close(&c);
        ck_assert_int_eq(get_with(&c, paths[i], known), 304);
        ck_assert_uint_eq(c.body.len, 0);
        ck_assert_ptr_nonnull(httpc_header(&c, "ETag"));
        httpc_close(&c);
        ck_assert_int_eq(get_with(&c, paths[i], "If-None-Match: \"other\"\r\n"), 200);
        httpc_close(&c);
    }
}
END_TEST

static void plain_up(void)
{
    static const char *const flags[] = {"--no-ui", NULL};
    daemon_start(&srv, daemon_tiny_model(), flags);
}

START_TEST(the_page_can_be_left_out)
{
    struct httpc c;
    ck_assert_int_eq(get_with(&c, "/", ""), 404);
    ck_assert_ptr_nonnull(strstr(c.body.data, "\"not_found\""));
    httpc_close(&c);
}
END_TEST

/* ---- KServe ---- */

static const char *served(void)
{
    static char id[128];
    json_t *v = http_get_json(srv.port, "/v1/models", 200);
    snprintf(id, sizeof id, "%s", json_str(v, "data.0.id"));
    json_decref(v);
    return id;
}

static const char *v2(const char *rest)
{
    static char path[256];
    snprintf(path, sizeof path, "/v2/models/%s%s", served(), rest);
    return path;
}

static const char parameters[] = "\"temperature\":0.8,\"seed\":7,\"max_tokens\":12";

START_TEST(generate_is_a_completion)
{
    json_t *want =
        http_json(srv.port, "/v1/completions", 200, "{\"prompt\":\"abc\",%s}", parameters);
    json_t *got = http_json(srv.port, v2("/generate"), 200,
                            "{\"text_input\":\"abc\",\"parameters\":{%s}}", parameters);
    ck_assert_str_eq(json_str(got, "text_output"), json_str(want, "choices.0.text"));
    ck_assert_str_eq(json_str(got, "model_name"), served());
    ck_assert_str_eq(json_str(got, "finish_reason"), json_str(want, "choices.0.finish_reason"));
    ck_assert(json_num(got, "usage.completion_tokens") ==
              json_num(want, "usage.completion_tokens"));
    json_decref(got);
    json_decref(want);
    want = http_json(srv.port, "/v1/completions", 200, "{\"prompt\":\"abc\",\"best_of\":4,%s}",
                     parameters);
    got = http_json(srv.port, v2("/generate"), 200,
                    "{\"text_input\":\"abc\",\"parameters\":{\"best_of\":4,%s}}", parameters);
    ck_assert_str_eq(json_str(got, "text_output"), json_str(want, "choices.0.text"));
    json_decref(got);
    json_decref(want);
}
END_TEST

START_TEST(generate_stream_ends_with_done)
{
    json_t *whole = http_json(srv.port, v2("/generate"), 200,
                              "{\"text_input\":\"abc\",\"parameters\":{%s}}", parameters);
    struct httpc c;
    struct buf text = {0}, body = {0};
    char *event;
    bool done = false;
    buf_printf(&body, "{\"text_input\":\"abc\",\"parameters\":{%s}}", parameters);
    httpc_open(&c, srv.port);
    httpc_send(&c, "POST", v2("/generate_stream"), "", body.data, body.len);
    ck_assert_int_eq(httpc_head(&c, 10000), 200);
    ck_assert_str_eq(httpc_header(&c, "Content-Type"), "text/event-stream; charset=utf-8");
    while ((event = httpc_event(&c, 10000)) != NULL) {
        ck_assert(!done && strncmp(event, "data: {", 7) == 0);
        json_t *v = json_loads(event + 6, JSON_ALLOW_NUL, NULL);
        const json_t *part = json_at(v, "text_output");
        buf_append(&text, json_string_value(part), json_string_length(part));
        done = json_is_true(json_at(v, "done"));
        ck_assert(json_is_boolean(json_at(v, "done")));
        json_decref(v);
        free(event);
    }
    ck_assert(done);
    const json_t *all = json_at(whole, "text_output"); /* may hold NULs */
    ck_assert_uint_eq(text.len, json_string_length(all));
    ck_assert(memcmp(text.data, json_string_value(all), text.len) == 0);
    json_decref(whole);
    httpc_close(&c);
    buf_release(&text);
    buf_release(&body);
}
END_TEST

START_TEST(kserve_errors_are_strings)
{
    static const struct {
        const char *body, *code, *param;
        int status;
    } cases[] = {
        {"{}", "missing_parameter", "text_input", 400},
        {"{\"text_input\":7}", "invalid_type", "text_input", 400},
        {"{\"text_input\":\"\"}", "invalid_value", "text_input", 400},
        {"{\"text_input\":\"a\",\"parameters\":[]}", "invalid_type", "parameters", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"n\":2}}", "unsupported_parameter", "n", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"top_p\":2}}", "invalid_value", "top_p", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"stream\":true}}", "unsupported_parameter",
         "stream", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"stream\":1}}", "invalid_type", "stream", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"return_token_ids\":true}}",
         "unsupported_parameter", "return_token_ids", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"return_progress\":true}}",
         "unsupported_parameter", "return_progress", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"max_tokens\":99}}", "context_length_exceeded",
         "prompt", 400},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *v = http_json(srv.port, v2("/generate"), cases[i].status, "%s", cases[i].body);
        ck_assert_str_ne(json_str(v, "error"), "");
        ck_assert_str_eq(json_str(v, "code"), cases[i].code);
        ck_assert_str_eq(json_str(v, "param"), cases[i].param);
        json_decref(v);
    }
    static const struct {
        const char *route, *stream;
        int status;
    } streams[] = {{"/generate", "false", 200},       {"/generate", "null", 200},
                   {"/generate_stream", "null", 200}, {"/generate_stream", "true", 200},
                   {"/generate", "true", 400},        {"/generate_stream", "false", 400}};
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        struct httpc c;
        char body[120];
        snprintf(body, sizeof body,
                 "{\"text_input\":\"a\",\"parameters\":{\"max_tokens\":1,\"stream\":%s}}",
                 streams[i].stream);
        ck_assert_int_eq(post_with(&c, v2(streams[i].route), "", body), streams[i].status);
        httpc_close(&c);
    }
    json_t *v = http_json(srv.port, "/v2/models/other/generate", 404, "{\"text_input\":\"a\"}");
    ck_assert_str_eq(json_str(v, "code"), "model_not_found");
    json_decref(v);
    v = http_get_json(srv.port, "/v2/models/other/ready", 404);
    ck_assert_str_ne(json_str(v, "error"), "");
    json_decref(v);
}
END_TEST

START_TEST(kserve_facts)
{
    json_t *v = http_get_json(srv.port, "/v2/health/live", 200);
    ck_assert(json_is_true(json_at(v, "live")));
    json_decref(v);
    v = http_get_json(srv.port, "/v2/health/ready", 200);
    ck_assert(json_is_true(json_at(v, "ready")));
    json_decref(v);
    v = http_get_json(srv.port, v2("/ready"), 200);
    ck_assert_str_eq(json_str(v, "name"), served());
    ck_assert(json_is_true(json_at(v, "ready")));
    json_decref(v);
    v = http_get_json(srv.port, v2(""), 200);
    ck_assert_str_eq(json_str(v, "name"), served());
    ck_assert_str_eq(json_str(v, "inputs.0.name"), "text_input");
    json_decref(v);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("protocols");
    TCase *t = server_case(s, "served");
    tcase_add_test(t, answers_say_where_time_went);
    tcase_add_test(t, strictness_can_be_preferred);
    tcase_add_test(t, the_page_is_locked_down);
    tcase_add_test(t, files_are_not_sent_twice);
    tcase_add_test(t, generate_is_a_completion);
    tcase_add_test(t, generate_stream_ends_with_done);
    tcase_add_test(t, kserve_errors_are_strings);
    tcase_add_test(t, kserve_facts);
    t = tcase_create("no page");
    tcase_add_unchecked_fixture(t, plain_up, server_down);
    suite_add_tcase(s, t);
    tcase_add_test(t, the_page_can_be_left_out);
    return s;
}

TEST_MAIN(suite)
