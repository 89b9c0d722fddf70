/* The error contract over HTTP: each row of the table of statuses, the shape of every error, and bodies of
 * every wrong type, depth and size. The daemon must answer all of them and be well afterwards. */
#include "tests/server/fixture.h"

static void check_shape(const json_t *v)
{
    const json_t *e = json_object_get(v, "error");
    ck_assert(json_is_object(e));
    ck_assert(json_is_string(json_object_get(e, "message")));
    ck_assert(json_is_string(json_object_get(e, "type")));
    ck_assert(json_is_string(json_object_get(e, "code")));
    const json_t *p = json_object_get(e, "param");
    ck_assert(json_is_string(p) || json_is_null(p));
}

static void expect(const char *path, const char *body, size_t len, int status, const char *code,
                   const char *param)
{
    struct httpc c;
    httpc_open(&c, srv.port);
    httpc_send(&c, "POST", path, "", body, len);
    int got = httpc_read(&c, 30000);
    ck_assert_msg(got == status, "%s %.200s: status %d, expected %d", path, body, got, status);
    ck_assert_ptr_nonnull(httpc_header(&c, "X-Request-Id"));
    json_t *v = json_loadb(c.body.data, c.body.len, 0, NULL);
    ck_assert_msg(v != NULL, "%.200s: not JSON: %.200s", body, c.body.data);
    check_shape(v);
    ck_assert_msg(strcmp(json_str(v, "error.code"), code) == 0, "%.200s: code %s, expected %s",
                  body, json_str(v, "error.code"), code);
    if (param)
        ck_assert_msg(strcmp(json_str(v, "error.param"), param) == 0,
                      "%.200s: param %s, expected %s", body, json_str(v, "error.param"), param);
    json_decref(v);
    httpc_close(&c);
}

static void still_well(void)
{
    json_t *v = http_json(srv.port, "/v1/completions", 200, "{\"prompt\":\"x\",\"max_tokens\":1}");
    json_decref(v);
}

static const struct {
    const char *body, *code, *param;
} bad[] = {
    {"", "invalid_json", NULL},
    {"{", "invalid_json", NULL},
    {"nonsense", "invalid_json", NULL},
    {"{\"prompt\":\"\\ud800\"}", "invalid_json", NULL},
    {"{\"prompt\":\"\xff\"}", "invalid_json", NULL},
    {"{\"prompt\":\"a\",\"a\\u0000b\":1}", "invalid_json", NULL},
    {"{\"model\":\"x\\u0000\"}", "invalid_value", "model"},
    {"{\"user\":\"x\\u0000\"}", "invalid_value", "user"},
    {"{\"cache_salt\":\"\\u0000\"}", "invalid_value", "cache_salt"},
    {"{\"seed\":99999999999999999999}", "invalid_json", NULL},
    {"{\"temperature\":1e999}", "invalid_json", NULL},
    {"[]", "invalid_type", NULL},
    {"3", "invalid_type", NULL},
    {"null", "invalid_type", NULL},
    {"{\"prompt\":{}}", "invalid_type", "prompt"},
    {"{\"prompt\":7}", "invalid_type", "prompt"},
    {"{\"prompt\":true}", "invalid_type", "prompt"},
    {"{\"prompt\":[]}", "invalid_value", "prompt"},
    {"{\"prompt\":[[]]}", "invalid_value", "prompt"},
    {"{\"prompt\":\"\"}", "invalid_value", "prompt"},
    {"{\"prompt\":[\"a\",[1]]}", "invalid_type", NULL},
    {"{\"prompt\":[1,\"a\"]}", "invalid_type", "prompt"},
    {"{\"prompt\":[1.5]}", "invalid_type", "prompt"},
    {"{\"prompt\":[-1]}", "invalid_value", "prompt"},
    {"{\"prompt\":[512]}", "invalid_value", "prompt"},
    {"{\"prompt\":[[[1]]]}", "invalid_type", "prompt"},
    {"{\"model\":7}", "invalid_type", "model"},
    {"{\"max_tokens\":\"3\"}", "invalid_type", "max_tokens"},
    {"{\"max_tokens\":1.5}", "invalid_type", "max_tokens"},
    {"{\"max_tokens\":true}", "invalid_type", "max_tokens"},
    {"{\"max_tokens\":-1}", "invalid_value", "max_tokens"},
    {"{\"n\":0}", "invalid_value", "n"},
    {"{\"n\":129}", "invalid_value", "n"},
    {"{\"n\":[]}", "invalid_type", "n"},
    {"{\"best_of\":0}", "invalid_value", "best_of"},
    {"{\"n\":3,\"best_of\":2}", "invalid_value", "best_of"},
    {"{\"n\":1,\"best_of\":2,\"stream\":true}", "invalid_value", "best_of"},
    {"{\"temperature\":-0.1}", "invalid_value", "temperature"},
    {"{\"temperature\":2.1}", "invalid_value", "temperature"},
    {"{\"temperature\":\"1\"}", "invalid_type", "temperature"},
    {"{\"top_p\":1.01}", "invalid_value", "top_p"},
    {"{\"top_p\":-0.01}", "invalid_value", "top_p"},
    {"{\"top_k\":-2}", "invalid_value", "top_k"},
    {"{\"top_k\":{}}", "invalid_type", "top_k"},
    {"{\"min_p\":2}", "invalid_value", "min_p"},
    {"{\"typical_p\":0}", "invalid_value", "typical_p"},
    {"{\"repetition_penalty\":0}", "invalid_value", "repetition_penalty"},
    {"{\"presence_penalty\":2.5}", "invalid_value", "presence_penalty"},
    {"{\"frequency_penalty\":-2.5}", "invalid_value", "frequency_penalty"},
    {"{\"min_tokens\":17}", "invalid_value", "min_tokens"},
    {"{\"stop\":5}", "invalid_type", "stop"},
    {"{\"stop\":\"\"}", "invalid_value", "stop"},
    {"{\"stop\":[\"a\",5]}", "invalid_type", "stop"},
    {"{\"stream\":1}", "invalid_type", "stream"},
    {"{\"stream_options\":true}", "invalid_type", "stream_options"},
    {"{\"stream_options\":{\"include_usage\":1}}", "invalid_type", "include_usage"},
    {"{\"echo\":\"yes\"}", "invalid_type", "echo"},
    {"{\"logprobs\":21}", "invalid_value", "logprobs"},
    {"{\"logprobs\":-1}", "invalid_value", "logprobs"},
    {"{\"logprobs\":true}", "invalid_type", "logprobs"},
    {"{\"logit_bias\":[]}", "invalid_type", "logit_bias"},
    {"{\"logit_bias\":{\"x\":1}}", "invalid_value", "logit_bias"},
    {"{\"logit_bias\":{\"-1\":1}}", "invalid_value", "logit_bias"},
    {"{\"logit_bias\":{\"512\":1}}", "invalid_value", "logit_bias"},
    {"{\"logit_bias\":{\"99999999999999\":1}}", "invalid_value", "logit_bias"},
    {"{\"logit_bias\":{\"1\":101}}", "invalid_value", "logit_bias"},
    {"{\"logit_bias\":{\"1\":\"a\"}}", "invalid_type", "logit_bias"},
    {"{\"seed\":\"a\"}", "invalid_type", "seed"},
    {"{\"suffix\":\"end\"}", "unsupported_parameter", "suffix"},
    {"{\"user\":5}", "invalid_type", "user"},
    {"{\"stop_token_ids\":5}", "invalid_type", "stop_token_ids"},
    {"{\"stop_token_ids\":[600]}", "invalid_value", "stop_token_ids"},
    {"{\"allowed_token_ids\":[]}", "invalid_value", "allowed_token_ids"},
    {"{\"truncate_prompt_tokens\":0}", "invalid_value", "truncate_prompt_tokens"},
    {"{\"timeout_s\":0}", "invalid_value", "timeout_s"},
    {"{\"cache_salt\":1}", "invalid_type", "cache_salt"},
    {"{\"max_tokens\":64}", "context_length_exceeded", "prompt"},
};

START_TEST(bad_fields)
{
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect("/v1/completions", bad[i].body, strlen(bad[i].body), 400, bad[i].code, bad[i].param);
    still_well();
}
END_TEST

START_TEST(bad_bodies_of_other_routes)
{
    static const struct {
        const char *path, *body, *code, *param;
    } cases[] = {
        {"/tokenize", "{}", "missing_parameter", "prompt"},
        {"/tokenize", "{\"prompt\":[1]}", "invalid_type", "prompt"},
        {"/detokenize", "{}", "missing_parameter", "tokens"},
        {"/detokenize", "{\"tokens\":\"a\"}", "invalid_type", "tokens"},
        {"/detokenize", "{\"tokens\":[9999]}", "invalid_value", "tokens"},
        {"/v1/perplexity", "{}", "missing_parameter", "input"},
        {"/v1/perplexity", "{\"input\":\"a\",\"window\":65}", "invalid_value", "window"},
        {"/v1/perplexity", "{\"input\":\"a\",\"window\":1}", "invalid_value", "window"},
        {"/v1/perplexity", "{\"input\":\"a\",\"window\":8,\"stride\":9}", "invalid_value",
         "stride"},
        {"/v1/perplexity", "{\"input\":\"a\",\"prefix\":\"eos\"}", "invalid_value", "prefix"},
        {"/v1/perplexity", "{\"input\":\"a\",\"prefix\":1}", "invalid_type", "prefix"},
        {"/v1/perplexity", "{\"input\":\"a\",\"prefix\":\"bos\\u0000\"}", "invalid_value",
         "prefix"},
        {"/v1/loglikelihood", "{}", "missing_parameter", "requests"},
        {"/v1/loglikelihood", "{\"requests\":[]}", "invalid_value", "requests"},
        {"/v1/loglikelihood", "{\"requests\":[1]}", "invalid_type", "requests[0]"},
        {"/v1/loglikelihood", "{\"requests\":[{\"context\":\"a\"}]}", "missing_parameter",
         "requests[0]"},
        {"/v1/loglikelihood", "{\"requests\":[{\"context\":\"a\",\"continuation\":\"\"}]}",
         "invalid_value", NULL},
        {"/v1/loglikelihood", "{\"requests\":[{\"context\":\"a\",\"continuation\":[1]}]}",
         "invalid_type", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect(cases[i].path, cases[i].body, strlen(cases[i].body), 400, cases[i].code,
               cases[i].param);
    still_well();
}
END_TEST

START_TEST(good_fields)
{
    static const char *const good[] = {
        "{}",
        "{\"prompt\":null,\"max_tokens\":null,\"n\":null,\"stop\":null,\"logprobs\":null,"
        "\"stream\":null,"
        "\"seed\":null,\"suffix\":null,\"logit_bias\":null,\"user\":null,\"model\":null,\"timeout_"
        "s\":null}",
        "{\"max_tokens\":4.0,\"n\":2.0,\"top_p\":1,\"temperature\":2,\"seed\":-"
        "9223372036854775808}",
        "{\"seed\":9223372036854775807,\"top_k\":-1,\"suffix\":\"\",\"unknown_field\":[1,2,{}]}",
        "{\"stop\":[],\"logit_bias\":{},\"stop_token_ids\":[],\"cache_prompt\":false,\"cache_"
        "salt\":\"s\"}",
        "{\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\",\"j\",\"k\",\"l\",\"m\","
        "\"n\",\"o\",\"p\"]}",
        "{\"allowed_token_ids\":[7],\"min_tokens\":16,\"ignore_eos\":true,\"min_p\":0.1,\"typical_"
        "p\":0.5}",
        "{\"repetition_penalty\":1.3,\"presence_penalty\":-2,\"frequency_penalty\":2,\"top_p\":0}",
        "{\"user\":\"someone\",\"include_stop_str_in_output\":true,\"return_token_ids\":true}",
        "{\"prompt\":[[1],[2,3]],\"n\":2,\"best_of\":3,\"echo\":true}",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        json_t *v = http_json(srv.port, "/v1/completions", 200, "%s", good[i]);
        ck_assert_str_eq(json_str(v, "object"), "text_completion");
        ck_assert(json_is_string(json_at(v, "choices.0.finish_reason")));
        ck_assert(json_is_string(json_at(v, "system_fingerprint")));
        ck_assert(strncmp(json_str(v, "id"), "cmpl-", 5) == 0);
        json_decref(v);
    }
}
END_TEST

/* NUL is a character of a text like any other. */
START_TEST(texts_may_hold_nul)
{
    json_t *ids = http_json(srv.port, "/tokenize", 200, "{\"prompt\":\"a\\u0000b\"}");
    ck_assert(json_num(ids, "count") >= 3);
    char *list = json_dumps(json_at(ids, "tokens"), JSON_COMPACT);
    json_t *v = http_json(srv.port, "/detokenize", 200, "{\"tokens\":%s}", list);
    ck_assert_uint_eq(json_string_length(json_at(v, "prompt")), 3);
    ck_assert_int_eq(memcmp(json_str(v, "prompt"), "a\0b", 3), 0);
    json_decref(v);
    json_decref(ids);
    free(list);
    v = http_json(srv.port, "/v1/completions", 200,
                  "{\"prompt\":[\"a\\u0000b\",\"\\u0000\"],\"max_tokens\":2,\"stop\":[\"\\u0000\","
                  "\"x\\u0000y\"]}");
    json_decref(v);
    v = http_json(srv.port, "/v1/perplexity", 200, "{\"input\":\"a\\u0000b c\"}");
    ck_assert(json_num(v, "results.0.tokens") >= 5);
    json_decref(v);
    v = http_json(srv.port, "/v1/loglikelihood", 200,
                  "{\"requests\":[{\"context\":\"a\\u0000\",\"continuation\":\"\\u0000b\"}]}");
    ck_assert(json_num(v, "results.0.tokens.1") >= 0);
    json_decref(v);
}
END_TEST

START_TEST(truncation_is_flagged)
{
    char *ids = ids_json(100, 1);
    json_t *v = http_json(
        srv.port, "/v1/completions", 200,
        "{\"prompt\":%s,\"truncate_prompt_tokens\":10,\"max_tokens\":2,\"return_token_ids\":true}",
        ids);
    ck_assert(json_is_true(json_at(v, "prompt_truncated")));
    ck_assert(json_num(v, "usage.prompt_tokens") == 10);
    ck_assert(json_num(v, "choices.0.prompt_token_ids.9") == (99 * 37 + 16) % 500);
    json_decref(v);
    free(ids);
}
END_TEST

START_TEST(deep_long_and_nul_bodies)
{
    struct buf b = {0};
    for (int i = 0; i < 100000; i++)
        buf_putc(&b, '[');
    expect("/v1/completions", b.data, b.len, 400, "invalid_json", NULL);
    buf_clear(&b);
    for (int i = 0; i < 65; i++)
        buf_puts(&b, "{\"a\":");
    expect("/v1/completions", b.data, b.len, 400, "invalid_json", NULL);
    expect("/v1/completions", "{\"prompt\":\"a\0b\"}", 16, 400, "invalid_json", NULL);
    expect("/v1/completions", "\0\0\0\0", 4, 400, "invalid_json", NULL);
    buf_clear(&b);
    buf_puts(&b, "{\"prompt\":\""); /* a megabyte that is parsed and tokenised, then refused */
    for (int i = 0; i < 250000; i++)
        buf_puts(&b, "ab c");
    buf_puts(&b, "\"}");
    expect("/v1/completions", b.data, b.len, 400, "context_length_exceeded", "prompt");
    buf_release(&b);
    still_well();
}
END_TEST

START_TEST(unknown_paths_models_methods)
{
    struct httpc c;
    ck_assert_int_eq(http_get(&c, srv.port, "/nope"), 404);
    ck_assert_ptr_nonnull(strstr(c.body.data, "\"not_found\""));
    httpc_close(&c);
    ck_assert_int_eq(http_get(&c, srv.port, "/v1/models/other"), 404);
    ck_assert_ptr_nonnull(strstr(c.body.data, "\"model_not_found\""));
    httpc_close(&c);
    expect("/v1/completions", "{\"model\":\"gpt-9\"}", 17, 404, "model_not_found", "model");
    ck_assert_int_eq(http_get(&c, srv.port, "/v1/completions"), 405);
    ck_assert_str_eq(httpc_header(&c, "Allow"), "POST, OPTIONS");
    httpc_close(&c);
    expect("/livez", "{}", 2, 405, "method_not_allowed", NULL);
    httpc_open(&c, srv.port);
    httpc_send(&c, "OPTIONS", "/v1/completions", "", NULL, 0);
    ck_assert_int_eq(httpc_read(&c, 5000), 204);
    httpc_close(&c);
    httpc_open(&c, srv.port);
    httpc_send(&c, "HEAD", "/health", "", NULL, 0);
    ck_assert_int_eq(httpc_head(&c, 5000), 200);
    httpc_close(&c);
}
END_TEST

START_TEST(request_ids)
{
    struct httpc c;
    httpc_open(&c, srv.port);
    httpc_send(&c, "GET", "/livez", "X-Request-Id: my-id.7:x_Y\r\n", NULL, 0);
    ck_assert_int_eq(httpc_read(&c, 5000), 200);
    ck_assert_str_eq(httpc_header(&c, "X-Request-Id"), "my-id.7:x_Y");
    httpc_send(&c, "GET", "/livez", "X-Request-Id: bad id\r\n", NULL,
               0); /* the connection is kept */
    ck_assert_int_eq(httpc_read(&c, 5000), 200);
    ck_assert(strncmp(httpc_header(&c, "X-Request-Id"), "req-", 4) == 0);
    httpc_close(&c);
}
END_TEST

START_TEST(any_content_type)
{
    struct httpc c;
    httpc_open(&c, srv.port);
    const char *body = "{\"max_tokens\":1}";
    httpc_send(&c, "POST", "/v1/completions",
               "Content-Type: application/x-www-form-urlencoded\r\nAuthorization: Bearer \r\n",
               body, strlen(body));
    ck_assert_int_eq(httpc_read(&c, 10000), 200);
    httpc_close(&c);
}
END_TEST

/* ---- 413 and 408, on a daemon with small limits ---- */

static void small_up(void)
{
    static const char *const flags[] = {
        "--max-body-bytes", "2000",           "--upload-timeout-s", "0.5",
        "--strict",         "--cors-origins", "https://a.org",      NULL};
    daemon_start(&srv, daemon_tiny_model(), flags);
}

START_TEST(too_large_is_refused_at_once)
{
    struct httpc c;
    httpc_open(&c, srv.port);
    const char *head =
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n{";
    httpc_write(&c, head, strlen(head));
    ck_assert_int_eq(httpc_read(&c, 5000), 413);
    ck_assert_ptr_nonnull(strstr(c.body.data, "request_too_large"));
    ck_assert_str_eq(httpc_header(&c, "Connection"), "close");
    httpc_close(&c);
}
END_TEST

/* The client sends megabytes before it reads: it still gets the answer. */
START_TEST(too_large_reaches_a_busy_writer)
{
    struct httpc c;
    size_t n = 4 << 20;
    char *body = calloc(1, n);
    memset(body, ' ', n);
    httpc_open(&c, srv.port);
    httpc_send(&c, "POST", "/v1/completions", "", body, n);
    ck_assert_int_eq(httpc_read(&c, 5000), 413);
    httpc_close(&c);
    free(body);
}
END_TEST

START_TEST(too_large_in_chunks)
{
    struct httpc c;
    httpc_open(&c, srv.port);
    const char *head =
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    httpc_write(&c, head, strlen(head));
    char chunk[1032];
    memset(chunk, ' ', sizeof chunk);
    memcpy(chunk, "400\r\n", 5);
    memcpy(chunk + 5 + 1024, "\r\n", 2);
    for (int i = 0; i < 10; i++)
        httpc_write(&c, chunk, 5 + 1024 + 2);
    httpc_write(&c, "0\r\n\r\n", 5);
    ck_assert_int_eq(httpc_read(&c, 5000), 413);
    ck_assert_str_eq(httpc_header(&c, "Connection"), "close");
    httpc_close(&c);
}
END_TEST

START_TEST(chunked_bodies_work)
{
    struct httpc c;
    httpc_open(&c, srv.port);
    const char *all =
        "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        "9\r\n{\"prompt\"\r\n6\r\n:\"hi\"}\r\n0\r\n\r\n";
    httpc_write(&c, all, strlen(all));
    ck_assert_int_eq(httpc_read(&c, 5000), 200);
    httpc_close(&c);
}
END_TEST

/* A route that wants no body may be sent one all the same. */
START_TEST(slow_uploads_end)
{
    static const struct {
        const char *head, *counter;
    } all[] = {{"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n",
                "route=\"completions\",method=\"POST\""},
               {"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n",
                "route=\"livez\",method=\"GET\""},
               {"POST /v2/models/x/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n",
                "route=\"generate\",method=\"POST\""}};
    static const char origin[] = "Origin: https://a.org\r\n\r\n";
    struct httpc c;
    char counter[128];
    httpc_open(&c, srv.port);
    httpc_write(&c, all[_i].head, strlen(all[_i].head));
    httpc_write(&c, origin, strlen(origin));
    int status = -1;
    for (int i = 0; i < 100 && status == -1; i++) { /* a byte now and then keeps no timer alive */
        httpc_write(&c, " ", 1);
        status = httpc_head(&c, 50);
    }
    ck_assert_int_eq(status, 408);
    ck_assert_ptr_nonnull(httpc_header(&c, "X-Request-Id"));
    ck_assert_str_eq(httpc_header(&c, "Connection"), "close");
    ck_assert_str_eq(httpc_header(&c, "X-Content-Type-Options"), "nosniff");
    ck_assert_str_eq(httpc_header(&c, "Access-Control-Allow-Origin"), "https://a.org");
    ck_assert_str_eq(httpc_header(&c, "Vary"), "Origin");
    json_t *v =
        json_loadb(c.in.data + c.pos, c.in.len - c.pos, 0, NULL); /* one send(): it is all there */
    ck_assert_str_eq(json_str(v, _i == 2 ? "code" : "error.code"), "request_timeout");
    json_decref(v);
    httpc_close(&c);
    double n = 0;
    snprintf(counter, sizeof counter, "ttmd_http_requests_total{%s,code=\"408\"}", all[_i].counter);
    for (int i = 0; i < 500 && n < 1; i++) {
        n = http_metric(srv.port, counter);
        usleep(10000);
    }
    ck_assert(n >= 1);
    ck_assert(http_metric(srv.port, "ttmd_requests_in_flight") == 0);
}
END_TEST

START_TEST(strict_refuses_unknown_fields)
{
    expect("/v1/completions", "{\"prompt\":\"a\",\"max_token\":5}", 28, 400, "unknown_parameter",
           "max_token");
    expect("/v1/completions", "{\"stream_options\":{\"x\":1}}", 26, 400, "unknown_parameter", "x");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("errors over HTTP");
    TCase *t = server_case(s, "errors");
    tcase_add_test(t, bad_fields);
    tcase_add_test(t, bad_bodies_of_other_routes);
    tcase_add_test(t, good_fields);
    tcase_add_test(t, texts_may_hold_nul);
    tcase_add_test(t, truncation_is_flagged);
    tcase_add_test(t, deep_long_and_nul_bodies);
    tcase_add_test(t, unknown_paths_models_methods);
    tcase_add_test(t, request_ids);
    tcase_add_test(t, any_content_type);
    t = tcase_create("limits");
    tcase_add_unchecked_fixture(t, small_up, server_down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, too_large_is_refused_at_once);
    tcase_add_test(t, too_large_reaches_a_busy_writer);
    tcase_add_test(t, too_large_in_chunks);
    tcase_add_test(t, chunked_bodies_work);
    tcase_add_loop_test(t, slow_uploads_end, 0, 3);
    tcase_add_test(t, strict_refuses_unknown_fields);
    return s;
}

TEST_MAIN(suite)
