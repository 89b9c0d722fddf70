/* The description of the API is a promise, and this is who holds the daemon to it: every route is described
 * and nothing else is, every example of a request is sent, every answer and error is compared with its
 * schema, in which a field that is not described is an offence. */
#include <signal.h>

#include "server/error.h"
#include "server/routes.h"
#include "tests/server/fixture.h"
#include "tests/support/json_schema.h"

static json_t *doc; /* of the test's own process */
static char served[128];

static void load(void)
{
    json_t *v = http_get_json(srv.port, "/v1/models", 200);
    snprintf(served, sizeof served, "%s", json_str(v, "data.0.id"));
    json_decref(v);
    doc = http_get_json(srv.port, "/openapi.json", 200);
}

static void up(void)
{
    daemon_start(&srv, daemon_ttm_model(), NULL);
    load();
}

static void down(void)
{
    json_decref(doc);
    server_down();
}

/* "/v1/models/{model}" as the routes write it, "/v1/models/ *", or as it is requested. */
static const char *fill(const char *path, const char *with)
{
    static char out[256];
    const char *brace = strchr(path, '{');
    if (brace)
        snprintf(out, sizeof out, "%.*s%s%s", (int)(brace - path), path, with,
                 strchr(brace, '}') + 1);
    else
        snprintf(out, sizeof out, "%s", path);
    return out;
}

static const json_t *operation(const char *path, const char *method)
{
    return json_object_get(json_object_get(json_object_get(doc, "paths"), path), method);
}

/* The schema of an answer; NULL when it is not described. */
static const json_t *answer_schema(const json_t *op, int status, const char *type)
{
    char code[16];
    snprintf(code, sizeof code, "%d", status);
    const json_t *r =
        json_schema_deref(doc, json_object_get(json_object_get(op, "responses"), code));
    return json_object_get(json_object_get(json_object_get(r, "content"), type), "schema");
}

static void check_value(const char *what, const json_t *schema, const json_t *v)
{
    struct json_schema s = {.root = doc};
    if (json_schema_holds(&s, schema, v)) return;
    char *text = json_dumps(v, JSON_ENCODE_ANY);
    ck_abort_msg("%.200s: %s\n%.800s", what, s.message, text);
}

/* ---- the answers ---- */

static void check_events(const char *what, const struct httpc *c, const json_t *schema)
{
    size_t n = 0;
    for (const char *at = c->body.data; at && *at; n++) {
        const char *end = strstr(at, "\n\n");
        ck_assert_msg(end != NULL, "%s: an event without an end", what);
        if (strncmp(at, "data: {", 7) == 0) {
            json_error_t e;
            json_t *v = json_loadb(at + 6, (size_t)(end - at) - 6, JSON_ALLOW_NUL, &e);
            ck_assert_msg(v != NULL, "%s: %s", what, e.text);
            check_value(what, schema, v);
            json_decref(v);
        }
        at = end + 2;
    }
    ck_assert_uint_gt(n, 0);
}

/* Compare an answer with its description, its headers too. */
static void check_answer(const char *path, const char *method, const struct httpc *c)
{
    char what[300];
    snprintf(what, sizeof what, "%s %s: %d", method, path, c->status);
    const json_t *op = operation(path, method);
    const char *type = httpc_header(c, "Content-Type");
    ck_assert_msg(op && type, "%s", what);
    char plain[64];
    bool events = strncmp(type, "text/event-stream", 17) == 0;
    snprintf(plain, sizeof plain, "%s", events ? "text/event-stream" : type);
    const json_t *schema = answer_schema(op, c->status, plain);
    ck_assert_msg(schema != NULL, "%s, %s: not described", what, plain);
    ck_assert_ptr_nonnull(httpc_header(c, "X-Request-Id"));
    ck_assert((httpc_header(c, "Retry-After") != NULL) == (c->status == 429 || c->status == 503));
    if (events) {
        check_events(what, c, schema);
    } else if (strcmp(plain, "application/json") == 0) {
        json_error_t e;
        json_t *v = json_loadb(c->body.data, c->body.len, JSON_ALLOW_NUL, &e);
        ck_assert_msg(v != NULL, "%s: %s", what, e.text);
        check_value(what, schema, v);
        json_decref(v);
    }
}

static void expect_at(const char *path, const char *method, const char *body, int status,
                      const char *code)
{
    struct httpc c;
    httpc_open(&c, srv.port);
    httpc_send(&c, strcmp(method, "post") == 0 ? "POST" : "GET", fill(path, served), "", body,
               body ? strlen(body) : 0);
    int got = httpc_read(&c, 30000);
    ck_assert_msg(got == status, "%s %s %.300s: %d %.300s", method, path, body ? body : "", got,
                  c.body.data ? c.body.data : "");
    check_answer(path, method, &c);
    if (code) ck_assert_msg(strstr(c.body.data, code) != NULL, "%s: no %s", c.body.data, code);
    httpc_close(&c);
}

/* Every operation: with each of its examples, or plainly. */
START_TEST(answers_are_as_described)
{
    const char *path, *method, *name;
    json_t *item, *op, *example;
    json_object_foreach(json_object_get(doc, "paths"), path, item)
    {
        json_object_foreach(item, method, op)
        {
            const json_t *content = json_at(op, "requestBody.content");
            json_t *examples =
                json_object_get(json_object_get(content, "application/json"), "examples");
            if (strcmp(method, "get") == 0) expect_at(path, method, NULL, 200, NULL);
            ck_assert((strcmp(method, "post") == 0) == (json_object_size(examples) > 0));
            json_object_foreach(examples, name, example)
            {
                char *body = json_dumps(json_object_get(example, "value"), JSON_COMPACT);
                /* this server asks for no keys */
                expect_at(path, method, body, strncmp(path, "/admin/", 7) ? 200 : 403, NULL);
                free(body);
            }
        }
    }
}
END_TEST

static const struct {
    const char *path, *method, *body;
    int status;
    const char *code;
} wrong[] = {
    {"/v1/completions", "post", "{", 400, "invalid_json"},
    {"/v1/completions", "post", "{\"temperature\":\"x\"}", 400, "invalid_type"},
    {"/v1/completions", "post", "{\"temperature\":3}", 400, "invalid_value"},
    {"/v1/completions", "post", "{\"suffix\":\"x\"}", 400, "unsupported_parameter"},
    {"/v1/completions", "post", "{\"max_tokens\":99}", 400, "context_length_exceeded"},
    {"/v1/completions", "post", "{\"model\":\"x\"}", 404, "model_not_found"},
    {"/v1/completions", "post", "{\"timeout_s\":1e-6}", 504, "deadline_exceeded"},
    {"/v1/perplexity", "post", "{}", 400, "missing_parameter"},
    {"/v1/perplexity", "post", "{\"input\":\"a\",\"window\":1}", 400, "invalid_value"},
    {"/v1/loglikelihood", "post", "{\"requests\":[1]}", 400, "invalid_type"},
    {"/tokenize", "post", "{}", 400, "missing_parameter"},
    {"/detokenize", "post", "{\"tokens\":[-1]}", 400, "invalid_value"},
    {"/v2/models/{model}/generate", "post", "{}", 400, "missing_parameter"},
    {"/v2/models/{model}/generate", "post",
     "{\"text_input\":\"a\",\"parameters\":{\"max_tokens\":99}}", 400, "context_length_exceeded"},
    {"/v2/models/{model}/generate", "post",
     "{\"text_input\":\"a\",\"parameters\":{\"timeout_s\":1e-6}}", 504, "deadline_exceeded"},
    {"/v2/models/{model}/generate_stream", "post", "{\"text_input\":1}", 400, "invalid_type"},
};

START_TEST(errors_are_as_described)
{
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_at(wrong[i].path, wrong[i].method, wrong[i].body, wrong[i].status, wrong[i].code);
    static const char *const others[] = {"/v1/models/{model}", "/v2/models/{model}",
                                         "/v2/models/{model}/ready"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct httpc c;
        ck_assert_int_eq(http_get(&c, srv.port, fill(others[i], "other")), 404);
        check_answer(others[i], "get", &c);
        httpc_close(&c);
    }
}
END_TEST

/* The wrong method, everywhere. */
START_TEST(wrong_methods_are_as_described)
{
    const char *path;
    json_t *item;
    json_object_foreach(json_object_get(doc, "paths"), path, item)
    {
        const char *method = json_object_get(item, "post") ? "post" : "get";
        struct httpc c;
        httpc_open(&c, srv.port);
        httpc_send(&c, "DELETE", fill(path, served), "", NULL, 0);
        ck_assert_int_eq(httpc_read(&c, 10000), 405);
        ck_assert_ptr_nonnull(httpc_header(&c, "Allow"));
        check_answer(path, method, &c);
        httpc_close(&c);
    }
}
END_TEST

/* ---- the checker ---- */

START_TEST(the_checker_catches)
{
    static const struct {
        const char *schema, *value, *message; /* NULL: fits */
    } cases[] = {
        {"{'$ref':'#/components/schemas/Text'}", "{'prompt':'a'}", NULL},
        {"{'$ref':'#/components/schemas/Text'}", "{'prompt':'a','more':1}", ".more: not described"},
        {"{'$ref':'#/components/schemas/Text'}", "{}", "'prompt' is missing"},
        {"{'$ref':'#/components/schemas/Text'}", "{'prompt':1}", ".prompt: of another type"},
        {"{'$ref':'#/components/schemas/Nothing'}", "1", "no schema"},
        {"{'type':'integer'}", "1.5", "of another type"},
        {"{'type':['number','null']}", "null", NULL},
        {"{'type':'array','items':{'type':'integer'}}", "[1,'a']", "[1]: of another type"},
        {"{'enum':['a','b']}", "'c'", "not in the enum"},
        {"{'const':'a'}", "'b'", "not the constant"},
        {"{'minimum':0,'maximum':2}", "3", "out of range"},
        {"{'exclusiveMinimum':0}", "0", "out of range"},
        {"{'minItems':1}", "[]", "0 items"},
        {"{'oneOf':[{'type':'integer'},{'type':'number'}]}", "1", "fits 2 alternatives"},
        {"{'anyOf':[{'type':'integer'},{'type':'number'}]}", "1", NULL},
        {"{'anyOf':[{'type':'integer'},{'type':'string'}]}", "true", "of another type"},
        {"{'additionalProperties':{'type':'number'}}", "{'x':1.5}", NULL},
        {"{'additionalProperties':{'type':'number'}}", "{'x':'y'}", ".x: of another type"},
        {"{'allOf':[{'properties':{'a':{'type':'null'}}}],'properties':{'b':{}}}",
         "{'a':null,'b':1}", NULL},
        {"{'allOf':[{'properties':{'a':{'type':'null'}}}]}", "{'a':1}", ".a: of another type"},
        {"{'pattern':'x'}", "'x'", "unknown keyword 'pattern'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[2][200];
        const char *from[2] = {cases[i].schema, cases[i].value};
        for (int k = 0; k < 2; k++) {
            snprintf(text[k], sizeof text[k], "%s", from[k]);
            for (char *p = text[k]; *p; p++)
                if (*p == '\'') *p = '"';
        }
        json_t *schema = json_loads(text[0], 0, NULL);
        json_t *value = json_loads(text[1], JSON_DECODE_ANY, NULL);
        struct json_schema s = {.root = doc};
        bool fits = json_schema_holds(&s, schema, value);
        ck_assert_msg(fits == !cases[i].message, "%s: %s", text[0], s.message);
        if (!fits) ck_assert_msg(strstr(s.message, cases[i].message) != NULL, "%s", s.message);
        json_decref(schema);
        json_decref(value);
    }
}
END_TEST

/* ---- the document ---- */

START_TEST(every_route_is_described_and_nothing_else)
{
    const json_t *paths = json_object_get(doc, "paths");
    ck_assert_str_eq(json_str(doc, "openapi"), "3.1.0");
    ck_assert_uint_eq(json_object_size(paths), (size_t)n_routes);
    const char *path;
    json_t *item;
    json_object_foreach((json_t *)(uintptr_t)paths, path, item)
    {
        int i = 0;
        while (i < n_routes && strcmp(routes[i].path, fill(path, "*")) != 0)
            i++;
        ck_assert_msg(i < n_routes, "%s is no route", path);
        ck_assert_uint_eq(json_object_size(item), 1);
        ck_assert_ptr_nonnull(json_object_get(item, routes[i].post ? "post" : "get"));
    }
}
END_TEST

/* Every schema has a description where a reader needs one, every $ref leads somewhere. */
static void check_described(const char *name, const json_t *schema)
{
    const char *key;
    json_t *v;
    if (json_object_get(schema, "$ref"))
        ck_assert_msg(json_schema_deref(doc, schema) != NULL, "%s: a $ref to nowhere", name);
    json_object_foreach(json_object_get(schema, "properties"), key, v)
    {
        const json_t *there = json_schema_deref(doc, v);
        ck_assert_msg(json_is_string(json_object_get(there, "description")),
                      "%s.%s: no description", name, key);
        check_described(name, v);
    }
    static const char *const lists[] = {"allOf", "oneOf", "anyOf"};
    for (size_t k = 0; k < 3; k++)
        for (size_t i = 0; i < json_array_size(json_object_get(schema, lists[k])); i++)
            check_described(name, json_array_get(json_object_get(schema, lists[k]), i));
    if (json_object_get(schema, "items")) check_described(name, json_object_get(schema, "items"));
}

static void check_content(const char *what, const json_t *content)
{
    const char *type, *name;
    json_t *c, *e;
    json_object_foreach((json_t *)(uintptr_t)content, type, c)
    {
        const json_t *schema = json_object_get(c, "schema"), *one = json_object_get(c, "example");
        check_described(what, schema);
        if (one) check_value(what, schema, one);
        json_object_foreach(json_object_get(c, "examples"), name, e)
            check_value(what, schema, json_object_get(e, "value"));
    }
}

START_TEST(the_document_is_whole)
{
    const char *name, *path, *method, *status;
    json_t *v, *item, *op;
    json_object_foreach((json_t *)(uintptr_t)json_at(doc, "components.schemas"), name, v)
        check_described(name, v);
    json_object_foreach(json_object_get(doc, "paths"), path, item)
    {
        json_object_foreach(item, method, op)
        {
            ck_assert(*json_str(op, "operationId") && *json_str(op, "summary"));
            check_content(path, json_at(op, "requestBody.content"));
            json_object_foreach(json_object_get(op, "responses"), status, v)
            {
                const json_t *r = json_schema_deref(doc, v);
                ck_assert_msg(*json_str(r, "description"), "%s %s", path, status);
                check_content(path, json_object_get(r, "content"));
            }
        }
    }
}
END_TEST

/* Every code that the server knows fits the schemas, and its status is described somewhere. */
START_TEST(every_error_code_is_described)
{
    for (enum api_code code = API_OK + 1; code < API_CODES; code++) {
        struct api_error e = {0};
        struct buf text[2] = {{0}, {0}};
        char path[64];
        api_fail(&e, code, "field", "message");
        e.n_ctx = 64;
        api_error_json(&e, &text[0]);
        api_error_flat_json(&e, &text[1]);
        for (int k = 0; k < 2; k++) {
            json_t *v = json_loads(text[k].data, 0, NULL);
            check_value(
                "error",
                json_at(doc, k ? "components.schemas.KServeError" : "components.schemas.Error"), v);
            snprintf(path, sizeof path, "components.responses.%sError%s%d", k ? "KServe" : "", "",
                     api_status(code));
            ck_assert_msg(json_at(doc, path) != NULL, "%s", path);
            json_decref(v);
            buf_release(&text[k]);
        }
    }
}
END_TEST

/* Fields that are described are accepted in strict mode. */
START_TEST(described_fields_are_accepted)
{
    const char *path, *method, *key;
    json_t *v, *item, *op;
    json_object_foreach(json_object_get(doc, "paths"), path, item)
    {
        json_object_foreach(item, method, op)
        {
            const json_t *schema = json_schema_deref(
                doc, json_object_get(
                         json_object_get(json_at(op, "requestBody.content"), "application/json"),
                         "schema"));
            if (!schema) continue;
            struct buf body = {0};
            buf_puts(&body, "{");
            json_object_foreach(json_object_get(schema, "properties"), key, v)
                buf_printf(&body, "%s\"%s\":null", body.len > 1 ? "," : "", key);
            json_object_foreach(
                (json_t *)(uintptr_t)json_at(doc, "components.schemas.Sampling.properties"), key,
                v) if (json_object_get(schema, "allOf")) buf_printf(&body, ",\"%s\":null", key);
            buf_puts(&body, "}");
            struct httpc c;
            httpc_open(&c, srv.port);
            httpc_send(&c, "POST", fill(path, served), "Prefer: handling=strict\r\n", body.data,
                       body.len);
            httpc_read(&c, 10000);
            ck_assert_msg(!strstr(c.body.data, "unknown_parameter"), "%s: %s", path, c.body.data);
            httpc_close(&c);
            buf_release(&body);
        }
    }
}
END_TEST

/* ---- a daemon with one place and little patience ---- */

static void small_up(void)
{
    static const char *const flags[] = {"--max-queue",        "0",   "--max-batch",      "1",
                                        "--upload-timeout-s", "0.4", "--max-body-bytes", "2000",
                                        "--drain-delay-s",    "0.3", "--strict",         NULL};
    daemon_start(&srv, daemon_tiny_model(), flags);
    load();
}

START_TEST(refusals_are_as_described)
{
    struct httpc held;
    const char *head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{";
    expect_at("/v1/completions", "post", "{\"promt\":\"a\"}", 400, "unknown_parameter");
    struct httpc c;
    httpc_open(&c, srv.port);
    httpc_send(&c, "POST", "/v1/completions", "Content-Length: 3000\r\n", NULL, 0);
    ck_assert_int_eq(httpc_read(&c, 10000), 413);
    check_answer("/v1/completions", "post", &c);
    httpc_close(&c);
    httpc_open(&held, srv.port);
    httpc_write(&held, head, strlen(head));
    for (int i = 0; i < 500; i++) { /* until the place is taken */
        json_t *v = http_get_json(srv.port, "/health", 200);
        bool taken = json_num(v, "queue.in_flight") > 0;
        json_decref(v);
        if (taken) break;
        usleep(1000);
    }
    expect_at("/v1/completions", "post", "{}", 429, "server_overloaded");
    expect_at("/v2/models/{model}/generate", "post", "{}", 429, "server_overloaded");
    ck_assert_int_eq(httpc_read(&held, 10000), 408);
    check_answer("/v1/completions", "post", &held);
    httpc_close(&held);
}
END_TEST

START_TEST(a_drain_is_as_described)
{
    static const char *const paths[] = {"/readyz", "/health", "/v2/health/ready",
                                        "/v2/models/{model}/ready"};
    kill(srv.pid, SIGTERM);
    for (int i = 0; i < 1000 && http_metric(srv.port, "ttmd_draining") < 1; i++)
        usleep(1000);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        expect_at(paths[i], "get", NULL, 503, NULL);
    ck_assert_int_eq(daemon_wait(&srv, 30000), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("openapi");
    TCase *t = tcase_create("document");
    tcase_add_unchecked_fixture(t, up, down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, the_checker_catches);
    tcase_add_test(t, every_route_is_described_and_nothing_else);
    tcase_add_test(t, the_document_is_whole);
    tcase_add_test(t, every_error_code_is_described);
    tcase_add_test(t, described_fields_are_accepted);
    tcase_add_test(t, answers_are_as_described);
    tcase_add_test(t, errors_are_as_described);
    tcase_add_test(t, wrong_methods_are_as_described);
    t = tcase_create("small");
    tcase_add_checked_fixture(t, small_up, down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, refusals_are_as_described);
    tcase_add_test(t, a_drain_is_as_described);
    return s;
}

TEST_MAIN(suite)
