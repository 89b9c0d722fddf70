/* What an error says to the person who reads it: the field, the value found, the real bound, the path asked for. */
#include "tests/server/fixture.h"

static const struct {
    const char *method, *path, *body;
    int status;
    const char *says, *param; /* param: "" is null */
} rows[] = {
    {"POST", "/v1/completions", "{\"logprobs\":-1}", 400,
     "'logprobs' is -1: expected an integer from 0 to 20", "logprobs"},
    {"POST", "/v1/completions", "{\"logprobs\":21}", 400,
     "'logprobs' is 21: expected an integer from 0 to 20", "logprobs"},
    {"POST", "/v1/perplexity", "{\"input\":\"a\",\"window\":1}", 400,
     "'window' is 1: expected an integer from 2 to 64", "window"},
    {"POST", "/v1/perplexity", "{\"input\":\"a\",\"window\":65}", 400,
     "'window' is 65: expected an integer from 2 to 64", "window"},
    {"POST", "/v1/perplexity", "{\"input\":\"a\",\"stride\":0}", 400,
     "'stride' is 0: expected an integer from 1 to 64", "stride"},
    {"POST", "/v1/loglikelihood",
     "{\"requests\":[{\"context\":\"a\",\"continuation\":\"b\"},"
     "{\"context\":[1,-2],\"continuation\":[1]}]}",
     400, "'requests[1].context[1]' is -2: expected", "requests[1].context"},
    {"POST", "/v1/loglikelihood", "{\"requests\":[{\"context\":[1],\"continuation\":[2,true]}]}",
     400, "'requests[0].continuation[1]' is a boolean: expected", "requests[0].continuation"},
    {"POST", "/v1/completions", "{\"user\":\"a\\u0000\"}", 400,
     "'user' holds the character NUL: expected a string", "user"},
    {"POST", "/v1/completions", "{\"a\\u0000\":1}", 400,
     "the body cannot be read as JSON: NUL byte in object key not supported", ""},
    {"POST", "/v1/completions", "{\"timeout_s\":0.000001}", 504,
     "the request was not finished after ", ""},
    {"DELETE", "/v1/models/NAME", NULL, 405, "DELETE is not allowed on /v1/models/NAME", ""},
    {"DELETE", "/v1/models/other", NULL, 404, "no such path: /v1/models/other", ""},
    {"POST", "/v1/models/NAME", "{}", 405, "POST is not allowed on /v1/models/NAME", ""},
    {"PUT", "/v2/models/NAME/generate", "{}", 405, "PUT is not allowed on /v2/models/NAME/generate",
     ""},
    {"POST", "/v2/models/NAME/infer", "{}", 404, "no such path: /v2/models/NAME/infer", ""},
};

/* NAME becomes that of the model. */
static char *named(const char *text)
{
    struct buf b = {0};
    const char *at, *slash = strrchr(daemon_tiny_model(), '/');
    for (; (at = strstr(text, "NAME")) != NULL; text = at + 4)
        buf_printf(&b, "%.*s%s", (int)(at - text), text, slash + 1);
    buf_puts(&b, text);
    return buf_take(&b);
}

static json_t *ask(const char *method, const char *path, const char *body, int status)
{
    struct httpc c;
    httpc_open(&c, srv.port);
    httpc_send(&c, method, path, "Prefer: handling=strict\r\n", body, body ? strlen(body) : 0);
    int got = httpc_read(&c, 10000);
    ck_assert_msg(got == status, "%s %s %s: %d %s", method, path, body ? body : "", got,
                  c.body.data);
    json_t *v = json_loads(c.body.data, 0, NULL);
    ck_assert_ptr_nonnull(v);
    httpc_close(&c);
    return v;
}

START_TEST(says)
{
    char *path = named(rows[_i].path), *want = named(rows[_i].says);
    json_t *v = ask(rows[_i].method, path, rows[_i].body, rows[_i].status);
    bool flat = !strncmp(path, "/v2", 3);
    const char *message = json_str(v, flat ? "error" : "error.message");
    ck_assert_msg(strstr(message, want) != NULL, "\"%s\" has no \"%s\"", message, want);
    ck_assert_ptr_null(strstr(message, " 0.0 s"));
    ck_assert_str_eq(json_str(v, flat ? "param" : "error.param"), rows[_i].param);
    json_decref(v);
    free(path);
    free(want);
}
END_TEST

/* Names are cut at their hundredth byte, a field's at its 63rd, but not within a character. */
START_TEST(names_are_cut_between_characters)
{
    for (int before = 0; before < 3; before++) {
        struct buf b = {0};
        buf_printf(&b, "{\"%.*s", before, "xx");
        for (int i = 0; i < 80; i++)
            buf_puts(&b, "\xe2\x82\xac");
        buf_puts(&b, "\":1}");
        json_t *v = ask("POST", "/v1/completions", b.data, 400);
        const char *message = json_str(v, "error.message"), *param = json_str(v, "error.param");
        ck_assert_ptr_null(strstr(message, "\xef\xbf\xbd"));
        ck_assert_ptr_null(strstr(param, "\xef\xbf\xbd"));
        ck_assert_ptr_nonnull(strstr(message, "\xe2\x82\xac'"));
        ck_assert_uint_gt(strlen(param), 60);
        json_decref(v);
        buf_release(&b);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("messages");
    TCase *t = server_case(s, "messages");
    tcase_add_loop_test(t, says, 0, sizeof rows / sizeof *rows);
    tcase_add_test(t, names_are_cut_between_characters);
    return s;
}
TEST_MAIN(suite)
