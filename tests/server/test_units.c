/* The parts of the server that need no daemon: JSON text, token names and offsets, error tables, request
 * fields, routes. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/tokenizer_write.h"
#include "server/completion.h"
#include "server/jsonw.h"
#include "server/metrics.h"
#include "server/routes.h"
#include "server/served.h"
#include "server/server.h"
#include "tests/support/harness.h"
#include "tests/support/httpc.h"

/* ---- JSON ---- */

static void check_string(const char *in, size_t n, const char *want)
{
    struct buf b = {0};
    json_put_string(&b, in, n);
    ck_assert_str_eq(b.data, want);
    json_t *v = json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    ck_assert_ptr_nonnull(v);
    json_decref(v);
    buf_release(&b);
}

START_TEST(strings)
{
    check_string("", 0, "\"\"");
    check_string("plain", 5, "\"plain\"");
    check_string("a\"b\\c/d", 7, "\"a\\\"b\\\\c/d\"");
    check_string("\n\r\t\b\x1f\x7f", 6, "\"\\n\\r\\t\\u0008\\u001f\x7f\"");
    check_string("\0x", 2, "\"\\u0000x\"");
    check_string("h\xc3\xa9\xf0\x9f\x98\x80", 7, "\"h\xc3\xa9\xf0\x9f\x98\x80\"");
    check_string(
        "a\xff"
        "b",
        3,
        "\"a\xef\xbf\xbd"
        "b\"");
    check_string("\xe2\x80", 2, "\"\xef\xbf\xbd\"");
    check_string("x\xed\xa0\x80y", 5, "\"x\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdy\"");
}
END_TEST

START_TEST(numbers)
{
    const struct {
        double v;
        const char *want;
    } cases[] = {{0, "0.0"},
                 {-0.0, "-0.0"},
                 {1, "1.0"},
                 {-9999, "-9999.0"},
                 {-0.1, "-0.1"},
                 {(double)-1.1f, "-1.10000002"},
                 {1e300, "1e+300"},
                 {123456789, "123456789.0"},
                 {1234567891, "1.23456789e+09"},
                 {NAN, "null"},
                 {INFINITY, "1.79769313e+308"},
                 {-INFINITY, "-1.79769313e+308"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b = {0};
        json_put_number(&b, cases[i].v);
        ck_assert_str_eq(b.data, cases[i].want);
        buf_release(&b);
    }
}
END_TEST

/* Nine digits tell any two floats apart. */
START_TEST(floats_survive)
{
    uint32_t x = 12345;
    for (int i = 0; i < 20000; i++) {
        x = x * 1664525u + 1013904223u;
        float f = -(float)(x >> 8) / 65536.0f / (float)(1 + (x & 255));
        struct buf b = {0};
        json_put_number(&b, (double)f);
        ck_assert((float)strtod(b.data, NULL) == f);
        buf_release(&b);
    }
}
END_TEST

/* ---- tokens as text ---- */

static struct tokenizer *byte_tokenizer(void)
{
    struct err e = {0};
    struct tokenizer *t = NULL;
    const char *dir = temp_dir();
    ck_assert_msg(tokenizer_write_bytes(dir, 600, &e) == 0, "%s", e.msg);
    ck_assert_msg(tokenizer_open(&t, dir, &e) == 0, "%s", e.msg);
    return t;
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

START_TEST(token_names_are_injective)
{
    struct tokenizer *t = byte_tokenizer();
    enum { N = 650 }; /* the last 50 are ids without a token */
    char *names[N];
    for (int32_t i = 0; i < N; i++) {
        struct buf b = {0};
        token_string(t, i, &b);
        names[i] = buf_take(&b);
    }
    ck_assert_str_eq(names[64], "a");
    ck_assert_str_eq(names[599], "<|endoftext|>");
    ck_assert_str_eq(names[601], "bytes:#601");
    int32_t half = tokenizer_find(t, "\xe2", 1), nul = tokenizer_find(t, "\0", 1);
    ck_assert_str_eq(names[half], "bytes:\\xe2");
    ck_assert_str_eq(names[nul], "bytes:\\x00");
    qsort(names, N, sizeof *names, compare);
    for (int i = 1; i < N; i++)
        ck_assert_str_ne(names[i - 1], names[i]);
    for (int i = 0; i < N; i++)
        free(names[i]);
    tokenizer_close(t);
}
END_TEST

START_TEST(a_token_that_looks_marked)
{
    static struct tokenizer_part_token tokens[258];
    static char bytes[256];
    struct err e = {0};
    struct tokenizer *t = NULL;
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)(unsigned char)i;
        tokens[i] = (struct tokenizer_part_token){.bytes = &bytes[i], .len = 1};
    }
    tokens[256] = (struct tokenizer_part_token){.bytes = "bytes:\\x61", .len = 10, .special = true};
    tokens[257] =
        (struct tokenizer_part_token){.bytes = "<|endoftext|>", .len = 13, .special = true};
    const char *dir = temp_dir();
    struct tokenizer_parts parts = {.tokens = tokens, .n_tokens = 258};
    ck_assert_msg(tokenizer_write(dir, &parts, &e) == 0, "%s", e.msg);
    ck_assert_msg(tokenizer_open(&t, dir, &e) == 0, "%s", e.msg);
    struct buf b = {0};
    token_string(t, 256, &b);
    ck_assert_str_eq(b.data, "bytes:\\x62\\x79\\x74\\x65\\x73\\x3a\\x5c\\x78\\x36\\x31");
    buf_release(&b);
    tokenizer_close(t);
}
END_TEST

START_TEST(offsets_count_characters)
{
    struct tokenizer *t = byte_tokenizer();
    const char *bytes = "a\xc3\xa9z\xf0\x9f\x98\x80!\xff\xe2\x80";
    int32_t ids[16];
    size_t n = strlen(bytes);
    for (size_t i = 0; i < n; i++)
        ids[i] = tokenizer_find(t, bytes + i, 1);
    struct token_text tt;
    token_text_make(&tt, t, ids, n);
    /* a, é in two, z, an emoji in four, !, a lone byte, two thirds of a character */
    const uint32_t want[] = {0, 1, 1, 2, 3, 3, 3, 3, 4, 5, 6, 6};
    for (size_t i = 0; i < n; i++)
        ck_assert_uint_eq(tt.char_begin[i], want[i]);
    ck_assert_uint_eq(tt.chars, 7);
    ck_assert_str_eq(tt.text.data, "a\xc3\xa9z\xf0\x9f\x98\x80!\xef\xbf\xbd\xef\xbf\xbd");
    token_text_release(&tt);
    token_text_make(&tt, t, ids, 0);
    ck_assert_uint_eq(tt.chars, 0);
    token_text_release(&tt);
    tokenizer_close(t);
}
END_TEST

/* ---- errors ---- */

START_TEST(error_rows)
{
    static const struct {
        enum api_code code;
        int status;
        const char *type, *name;
        bool retry_after, no_retry;
    } rows[] = {
        {API_INVALID_JSON, 400, "invalid_request_error", "invalid_json", false, false},
        {API_INVALID_TYPE, 400, "invalid_request_error", "invalid_type", false, false},
        {API_INVALID_VALUE, 400, "invalid_request_error", "invalid_value", false, false},
        {API_MISSING_PARAMETER, 400, "invalid_request_error", "missing_parameter", false, false},
        {API_CONTEXT_LENGTH, 400, "invalid_request_error", "context_length_exceeded", false, false},
        {API_UNSUPPORTED, 400, "invalid_request_error", "unsupported_parameter", false, false},
        {API_MODEL_NOT_FOUND, 404, "not_found_error", "model_not_found", false, false},
        {API_NOT_FOUND, 404, "not_found_error", "not_found", false, false},
        {API_METHOD_NOT_ALLOWED, 405, "invalid_request_error", "method_not_allowed", false, false},
        {API_REQUEST_TIMEOUT, 408, "timeout_error", "request_timeout", false, false},
        {API_TOO_LARGE, 413, "invalid_request_error", "request_too_large", false, false},
        {API_OVERLOADED, 429, "overloaded_error", "server_overloaded", true, false},
        {API_LOADING, 503, "unavailable_error", "model_loading", true, false},
        {API_SHUTTING_DOWN, 503, "unavailable_error", "shutting_down", true, false},
        {API_QUEUE_TIMEOUT, 503, "unavailable_error", "queue_timeout", true, false},
        {API_DEADLINE, 504, "timeout_error", "deadline_exceeded", false, true},
        {API_INTERNAL, 500, "server_error", "internal_error", false, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct api_error e = {0};
        struct buf b = {0};
        ck_assert_int_eq(api_fail(&e, rows[i].code, "field", "quote \" and \xff"), -1);
        api_error_json(&e, &b);
        json_t *v = json_loadb(b.data, b.len, 0, NULL);
        ck_assert_int_eq(api_status(e.code), rows[i].status);
        ck_assert_str_eq(json_str(v, "error.type"), rows[i].type);
        ck_assert_str_eq(json_str(v, "error.code"), rows[i].name);
        ck_assert_str_eq(json_str(v, "error.param"), "field");
        ck_assert((api_retry_after_s(e.code) > 0) == rows[i].retry_after);
        ck_assert(api_no_retry(e.code) == rows[i].no_retry);
        json_decref(v);
        buf_release(&b);
    }
}
END_TEST

/* No status that is answered is counted as "other". */
START_TEST(every_status_has_a_series)
{
    static const int others[] = {204, 304, 499};
    struct config cfg;
    struct buf b = {0};
    struct server s = {.metrics = metrics_new(), .models = served_set_new(), .model_id = "m"};
    config_defaults(&cfg);
    s.cfg = &cfg;
    for (int c = 0; c < API_CODES; c++)
        metrics_http(s.metrics, -1, "POST", api_status((enum api_code)c), 0);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        metrics_http(s.metrics, -1, "GET", others[i], 0);
    metrics_write(&s, NULL, &b);
    for (int c = 0; c < API_CODES; c++) {
        char series[80];
        snprintf(series, sizeof series, "route=\"other\",method=\"POST\",code=\"%d\"} ",
                 api_status((enum api_code)c));
        ck_assert_msg(strstr(b.data, series) != NULL, "%s", series);
    }
    ck_assert_ptr_null(strstr(b.data, "code=\"other\""));
    buf_release(&b);
    metrics_free(s.metrics);
    served_set_free(s.models);
    config_release(&cfg);
}
END_TEST

START_TEST(first_error_wins_and_engine_errors_map)
{
    struct api_error e = {0};
    api_fail(&e, API_TOO_LARGE, NULL, "first");
    api_fail(&e, API_INTERNAL, NULL, "second");
    ck_assert_int_eq(e.code, API_TOO_LARGE);
    ck_assert_str_eq(e.message, "first");
    static const struct {
        int err;
        enum api_code api;
    } map[] = {{ERR_INVALID, API_INVALID_VALUE},
               {ERR_TYPE, API_INVALID_TYPE},
               {ERR_MISSING, API_MISSING_PARAMETER},
               {ERR_UNSUPPORTED, API_UNSUPPORTED},
               {ERR_TOO_LONG, API_CONTEXT_LENGTH},
               {ERR_FULL, API_OVERLOADED},
               {ERR_SHUTDOWN, API_SHUTTING_DOWN},
               {ERR_IO, API_INTERNAL},
               {ERR_NOMEM, API_INTERNAL}};
    for (size_t i = 0; i < sizeof map / sizeof *map; i++) {
        struct err err = {0};
        struct api_error a = {0};
        err_set(&err, map[i].err, "m");
        api_from_err(&a, &err);
        ck_assert_int_eq(a.code, map[i].api);
    }
}
END_TEST

/* ---- fields ---- */

static struct completion parsed(const struct tokenizer *t, const char *text)
{
    struct param_env env = {.tokenizer = t,
                            .model_id = "m",
                            .n_ctx = 64,
                            .vocab = 600,
                            .eos = 599,
                            .max_prompts = 8,
                            .max_total_n = 32,
                            .logprobs_max = 20};
    struct api_error e = {0};
    struct completion c;
    json_t *body = body_parse(text, strlen(text), &e);
    ck_assert_msg(body && completion_parse(&c, body, &env, &e) == 0, "%s: %s", text, e.message);
    json_decref(body);
    return c;
}

START_TEST(defaults_and_values)
{
    struct tokenizer *t = byte_tokenizer();
    struct completion c = parsed(t, "{}");
    ck_assert(c.max_tokens == 16 && c.n == 1 && c.logprobs == -1 && !c.stream && !c.has_seed);
    ck_assert(c.temperature == 1 && c.top_p == 1 && c.typical_p == 1 && c.repetition_penalty == 1);
    ck_assert(c.prompts.n == 1 && c.prompts.list[0].n == 1 && c.prompts.list[0].ids[0] == 599);
    completion_release(&c);
    c = parsed(
        t,
        "{\"max_tokens\":3.0,\"seed\":-1,\"stop\":[\"x\",\"yz\"],\"logit_bias\":{\"7\":-2.5},"
        "\"prompt\":[[1],[2,3]],\"top_k\":5,\"echo\":true,\"user\":\"me\"}");
    ck_assert(c.max_tokens == 3 && c.has_seed && c.seed == -1 && c.n_stop == 2 &&
              c.stop_len[1] == 2);
    ck_assert(c.n_bias == 1 && c.bias[0].id == 7 && c.bias[0].bias == -2.5f);
    ck_assert(c.prompts.n == 2 && c.prompts.list[1].ids[1] == 3 && c.top_k == 5 && c.echo);
    ck_assert_str_eq(c.user, "me");
    completion_release(&c);
    c = parsed(t, "{\"prompt\":\"ab<|endoftext|>\",\"max_tokens\":0}");
    ck_assert(c.prompts.list[0].ids[c.prompts.list[0].n - 1] == 599);
    completion_release(&c);
    c = parsed(t, "{\"prompt\":[1,2,3,4],\"truncate_prompt_tokens\":2}");
    ck_assert(c.truncated && c.prompts.list[0].n == 2 && c.prompts.list[0].ids[0] == 3);
    completion_release(&c);
    tokenizer_close(t);
}
END_TEST

/* 2^18 arrays and objects are parsed, one more is not; brackets in texts are text. */
START_TEST(brackets_are_counted)
{
    struct buf b = {0};
    buf_puts(&b, "{\"\\\"[{\":1,\"a\":["); /* two */
    for (int i = 2; i < 1 << 18; i++)
        buf_puts(&b, i == 2 ? "{}" : ",[]");
    for (int more = 0; more < 2; more++) {
        struct api_error e = {0};
        if (more) buf_puts(&b, ",{}");
        size_t len = b.len;
        buf_puts(&b, "]}");
        json_t *v = body_parse(b.data, b.len, &e);
        ck_assert_int_eq(v != NULL, !more);
        ck_assert_str_eq(e.message, more ? "the body has more than 262144 arrays and objects" : "");
        json_decref(v);
        b.len = len;
    }
    buf_release(&b);
}
END_TEST

START_TEST(route_table)
{
    const char *rest;
    size_t len;
    ck_assert_str_eq(routes[route_find("/v1/completions", &rest, &len)].label, "completions");
    ck_assert_str_eq(routes[route_find("/v1/models", &rest, &len)].label, "models");
    ck_assert_str_eq(routes[route_find("/v1/models/a/b", &rest, &len)].label, "model");
    ck_assert_str_eq(rest, "a/b");
    ck_assert_uint_eq(len, 3);
    ck_assert_str_eq(routes[route_find("/v2/models/a/b/generate", &rest, &len)].label, "generate");
    ck_assert(len == 3 && strncmp(rest, "a/b", 3) == 0);
    ck_assert_str_eq(routes[route_find("/v2/models/ready", &rest, &len)].label, "kserve_model");
    ck_assert_str_eq(routes[route_find("/v2/models/generate/ready", &rest, &len)].label,
                     "kserve_model_ready");
    ck_assert_int_eq(route_find("/v2/models/", &rest, &len), -1);
    ck_assert_str_eq(routes[route_find("/", &rest, &len)].label, "page");
    ck_assert_int_eq(route_find("/page.html", &rest, &len), -1);
    ck_assert_int_eq(route_find("/v1/models/", &rest, &len), -1);
    ck_assert_int_eq(route_find("", &rest, &len), -1);
    ck_assert_int_eq(route_find("/v1/completions/", &rest, &len), -1);
    for (int i = 0; i < n_routes; i++)
        ck_assert(routes[i].post ? routes[i].start != NULL : routes[i].get != NULL);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("server units");
    TCase *t = tcase_create("units");
    suite_add_tcase(s, t);
    tcase_add_test(t, strings);
    tcase_add_test(t, numbers);
    tcase_add_test(t, floats_survive);
    tcase_add_test(t, token_names_are_injective);
    tcase_add_test(t, a_token_that_looks_marked);
    tcase_add_test(t, offsets_count_characters);
    tcase_add_test(t, error_rows);
    tcase_add_test(t, every_status_has_a_series);
    tcase_add_test(t, first_error_wins_and_engine_errors_map);
    tcase_add_test(t, defaults_and_values);
    tcase_add_test(t, brackets_are_counted);
    tcase_add_test(t, route_table);
    return s;
}

TEST_MAIN(suite)
