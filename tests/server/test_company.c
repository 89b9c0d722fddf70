/* What a request gets does not depend on who else is there: alone, among 31 others, streamed or whole, the
 * bytes of text and logprobs are the same. And the golden text of a trained model, over HTTP. */
#include <pthread.h>

#include "tests/server/fixture.h"

#define CROWD 31

/* Cut the choices out of an answer as text: id, created and timings differ by nature. */
static char *choices_of(const char *body)
{
    const char *a = strstr(body, "\"choices\":"), *b = strstr(body, ",\"usage\"");
    ck_assert(a && b && b > a);
    return strndup(a, (size_t)(b - a));
}

static char *ask(const char *body)
{
    struct httpc c;
    int status = http_post(&c, srv.port, "/v1/completions", body);
    ck_assert_msg(status == 200, "status %d: %.300s", status, c.body.data);
    char *text = choices_of(c.body.data);
    httpc_close(&c);
    return text;
}

static const char *const requests[] = {
    "{\"prompt\":\"alone or "
    "not\",\"max_tokens\":40,\"seed\":11,\"logprobs\":5,\"ignore_eos\":true}",
    "{\"prompt\":[5,6,7,8],\"max_tokens\":50,\"temperature\":0,\"logprobs\":2,\"echo\":true}",
    "{\"prompt\":\"z\",\"max_tokens\":50,\"seed\":3,\"temperature\":1.3,\"top_p\":0.9,\"top_k\":40,"
    "\"n\":3,"
    "\"repetition_penalty\":1.2,\"frequency_penalty\":0.5}",
    "{\"prompt\":[\"a\",\"bb\",\"ccc\"],\"max_tokens\":0,\"echo\":true,\"logprobs\":1}",
};
#define N_REQUESTS (sizeof requests / sizeof *requests)

struct crowd {
    pthread_t thread;
    int number;
};

/* Others come and go with lengths and settings of their own. */
static void *crowd_main(void *arg)
{
    struct crowd *w = arg;
    for (int round = 0; round < 4; round++) {
        char body[256];
        struct httpc c;
        snprintf(body, sizeof body,
                 "{\"prompt\":\"%.*s\",\"max_tokens\":%d,\"seed\":%d,\"temperature\":%d.5,"
                 "\"stream\":%s}",
                 1 + (w->number * 7 + round) % 20, "some prompt of many letters",
                 10 + (w->number * 13) % 30, w->number, w->number % 2,
                 w->number % 3 ? "false" : "true");
        http_post(&c, srv.port, "/v1/completions", body);
        httpc_close(&c);
    }
    return NULL;
}

START_TEST(same_bytes_in_any_company)
{
    char *alone[N_REQUESTS];
    struct crowd crowd[CROWD];
    for (size_t i = 0; i < N_REQUESTS; i++)
        alone[i] = ask(requests[i]);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < CROWD; i++) {
            crowd[i].number = i;
            ck_assert_int_eq(pthread_create(&crowd[i].thread, NULL, crowd_main, &crowd[i]), 0);
        }
        for (size_t i = 0; i < N_REQUESTS; i++) {
            char *now = ask(requests[i]);
            ck_assert_msg(strcmp(now, alone[i]) == 0, "request %zu: %.200s, alone %.200s", i, now,
                          alone[i]);
            free(now);
        }
        for (int i = 0; i < CROWD; i++)
            pthread_join(crowd[i].thread, NULL);
    }
    for (size_t i = 0; i < N_REQUESTS; i++)
        free(alone[i]);
}
END_TEST

/* Thirty-two prompts in one request are what they are in thirty-two requests. */
START_TEST(many_prompts_in_one_request)
{
    struct buf b = {0};
    buf_puts(&b, "{\"max_tokens\":8,\"seed\":9,\"prompt\":[");
    for (int i = 0; i < 32; i++)
        buf_printf(&b, "%s[%d,%d,%d]", i ? "," : "", i, 3 * i, 100 + i);
    buf_puts(&b, "]}");
    json_t *all = http_json(srv.port, "/v1/completions", 200, "%s", b.data);
    for (int i = 0; i < 32; i += 7) {
        json_t *one =
            http_json(srv.port, "/v1/completions", 200,
                      "{\"max_tokens\":8,\"seed\":9,\"prompt\":[%d,%d,%d]}", i, 3 * i, 100 + i);
        ck_assert_str_eq(json_str(one, "choices.0.text"),
                         json_str(json_array_get(json_at(all, "choices"), (size_t)i), "text"));
        json_decref(one);
    }
    json_decref(all);
    buf_release(&b);
}
END_TEST

START_TEST(seeds_make_texts)
{
    char *a = ask("{\"prompt\":\"s\",\"seed\":1,\"max_tokens\":30}");
    char *b = ask("{\"prompt\":\"s\",\"seed\":1,\"max_tokens\":30}");
    char *c = ask("{\"prompt\":\"s\",\"seed\":2,\"max_tokens\":30}");
    char *d = ask("{\"prompt\":\"s\",\"max_tokens\":30}");
    char *e = ask("{\"prompt\":\"s\",\"max_tokens\":30}");
    ck_assert_str_eq(a, b);
    ck_assert_str_ne(a, c);
    ck_assert_str_ne(d, e);
    free(a), free(b), free(c), free(d), free(e);
}
END_TEST

/* ---- a trained model ---- */

static void tarot_up(void)
{
    daemon_start(&srv, shared_path("models/tarot"), NULL);
}

START_TEST(golden_text)
{
    char *text = read_file(shared_path("models/tarot/golden.json"), NULL);
    json_t *golden = json_loads(text, 0, NULL), *ids = json_object_get(golden, "ids_greedy_64");
    size_t n = json_array_size(ids), n_prompt = (size_t)json_num(golden, "prompt_len");
    json_t *prompt = json_array();
    for (size_t i = 0; i < n_prompt; i++)
        json_array_append(prompt, json_array_get(ids, i));
    char *p = json_dumps(prompt, 0);
    json_t *v =
        http_json(srv.port, "/v1/completions", 200,
                  "{\"prompt\":%s,\"max_tokens\":%zu,\"temperature\":0,\"return_token_ids\":true}",
                  p, n - n_prompt);
    for (size_t i = n_prompt; i < n; i++)
        ck_assert_int_eq(
            json_integer_value(json_array_get(json_at(v, "choices.0.token_ids"), i - n_prompt)),
            json_integer_value(json_array_get(ids, i)));
    json_t *w = http_json(srv.port, "/v1/completions", 200,
                          "{\"prompt\":\"%s\",\"max_tokens\":%zu,\"temperature\":0,\"echo\":true}",
                          json_str(golden, "prompt"), n - n_prompt);
    ck_assert_str_eq(json_str(w, "choices.0.text"), json_str(golden, "text"));
    json_decref(golden), json_decref(prompt), json_decref(v), json_decref(w);
    free(p), free(text);
}
END_TEST

static void ttm_up(void)
{
    daemon_start(&srv, daemon_ttm_model(), NULL);
}

static void int8_up(void)
{
    static const char *const flags[] = {"--dtype", "int8", NULL};
    daemon_start(&srv, daemon_tiny_model(), flags);
}

static Suite *suite(void)
{
    Suite *s = suite_create("company over HTTP");
    TCase *t = server_case(s, "company");
    tcase_add_test(t, same_bytes_in_any_company);
    tcase_add_test(t, many_prompts_in_one_request);
    tcase_add_test(t, seeds_make_texts);
    t = tcase_create("company with TTM layers");
    tcase_add_unchecked_fixture(t, ttm_up, server_down);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, same_bytes_in_any_company);
    tcase_add_test(t, many_prompts_in_one_request);
    suite_add_tcase(s, t);
    t = tcase_create("company with 8-bit weights");
    tcase_add_unchecked_fixture(t, int8_up, server_down);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, same_bytes_in_any_company);
    suite_add_tcase(s, t);
    if (!shared_path("models/tarot/golden.json")) {
        skip("golden text over HTTP", "no trained model");
        return s;
    }
    t = tcase_create("golden");
    tcase_add_unchecked_fixture(t, tarot_up, server_down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, golden_text);
    return s;
}

TEST_MAIN(suite)
