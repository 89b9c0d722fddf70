/* What evaluation harnesses send and read: the seven rules of scoring over HTTP, /v1/loglikelihood and
 * /v1/perplexity, checked against /v1/completions' own prompt scores. */
#include "tests/server/fixture.h"

#define N_CTX 64

static json_t *score(const char *prompt, const char *more)
{
    return http_json(srv.port, "/v1/completions", 200,
                     "{\"prompt\":%s,\"echo\":true,\"temperature\":0,\"logprobs\":1%s}", prompt,
                     more);
}

static size_t size_at(const json_t *v, const char *path)
{
    return json_array_size(json_at(v, path));
}

static void check_arrays(const json_t *v, size_t n)
{
    ck_assert_uint_eq(size_at(v, "choices.0.logprobs.tokens"), n);
    ck_assert_uint_eq(size_at(v, "choices.0.logprobs.token_logprobs"), n);
    ck_assert_uint_eq(size_at(v, "choices.0.logprobs.top_logprobs"), n);
    ck_assert_uint_eq(size_at(v, "choices.0.logprobs.text_offset"), n);
}

/* 1 and 2: prompt + 1 entries, the first of them null. */
START_TEST(arrays_have_prompt_plus_one)
{
    char *ids = ids_json(20, 1);
    json_t *v = score(ids, ",\"max_tokens\":1,\"seed\":1234");
    check_arrays(v, 21);
    ck_assert(json_is_null(json_at(v, "choices.0.logprobs.token_logprobs.0")));
    ck_assert(json_is_null(json_at(v, "choices.0.logprobs.top_logprobs.0")));
    for (size_t i = 1; i < 21; i++) {
        const json_t *lp = json_array_get(json_at(v, "choices.0.logprobs.token_logprobs"), i);
        ck_assert(json_is_real(lp) && json_real_value(lp) <= 0 && json_real_value(lp) >= -9999);
    }
    json_decref(v);
    free(ids);
}
END_TEST

START_TEST(arrays_also_when_text_ends)
{
    char *ids = ids_json(9, 2), more[96];
    snprintf(more, sizeof more, ",\"max_tokens\":1,\"logit_bias\":{\"%d\":100}", DAEMON_EOS);
    json_t *v = score(ids, more);
    check_arrays(v, 10);
    ck_assert_str_eq(json_str(v, "choices.0.finish_reason"), "stop");
    ck_assert_str_eq(json_str(v, "choices.0.logprobs.tokens.9"), "<|endoftext|>");
    ck_assert(json_num(v, "usage.completion_tokens") == 1);
    json_decref(v);
    free(ids);
}
END_TEST

/* 3: no token is added. */
START_TEST(nothing_is_added_to_prompts)
{
    json_t *t = http_json(srv.port, "/tokenize", 200, "{\"prompt\":\"Hello there\"}");
    size_t n = (size_t)json_num(t, "count");
    json_t *v = score("\"Hello there\"", ",\"max_tokens\":1,\"return_token_ids\":true");
    check_arrays(v, n + 1);
    ck_assert(json_equal((json_t *)(uintptr_t)json_at(t, "tokens"),
                         (json_t *)(uintptr_t)json_at(v, "choices.0.prompt_token_ids")));
    ck_assert(json_num(v, "usage.prompt_tokens") == (double)n);
    char *ids = json_dumps(json_at(t, "tokens"), 0);
    json_t *w = score(ids, ",\"max_tokens\":1,\"return_token_ids\":true");
    ck_assert(json_equal((json_t *)(uintptr_t)json_at(v, "choices"),
                         (json_t *)(uintptr_t)json_at(w, "choices")));
    json_decref(t), json_decref(v), json_decref(w);
    free(ids);
}
END_TEST

/* 4: n_ctx - 1 tokens and one to generate fit; one more does not. */
START_TEST(the_context_is_used_in_full)
{
    char *fits = ids_json(N_CTX - 1, 3), *over = ids_json(N_CTX, 3);
    json_t *v = score(fits, ",\"max_tokens\":1");
    check_arrays(v, N_CTX);
    json_decref(v);
    v = http_json(srv.port, "/v1/completions", 400, "{\"prompt\":%s,\"max_tokens\":1}", over);
    ck_assert_str_eq(json_str(v, "error.code"), "context_length_exceeded");
    ck_assert(json_num(v, "error.n_prompt_tokens") == N_CTX && json_num(v, "error.n_ctx") == N_CTX);
    ck_assert(json_num(v, "error.max_tokens") == 1);
    json_decref(v);
    free(fits), free(over);
}
END_TEST

/* 5: the tokenizer routes. */
START_TEST(tokenizer_routes)
{
    json_t *v = http_json(srv.port, "/tokenize", 200,
                          "{\"prompt\":\"a<|endoftext|>b\",\"add_special_tokens\":false}");
    ck_assert(json_num(v, "count") == 3 && json_num(v, "max_model_len") == N_CTX);
    ck_assert(json_num(v, "tokens.1") == DAEMON_EOS);
    char *ids = json_dumps(json_at(v, "tokens"), 0);
    json_t *w = http_json(srv.port, "/detokenize", 200, "{\"tokens\":%s}", ids);
    ck_assert_str_eq(json_str(w, "prompt"), "a<|endoftext|>b");
    json_t *i = http_get_json(srv.port, "/tokenizer_info", 200);
    ck_assert_str_eq(json_str(i, "eos_token"), "<|endoftext|>");
    ck_assert_str_eq(json_str(i, "bos_token"), "<|endoftext|>");
    json_decref(v), json_decref(w), json_decref(i);
    free(ids);
}
END_TEST

/* 6: scoring without generating; without a model name; strings with logprobs 10. */
START_TEST(scores_without_generating)
{
    char *ids = ids_json(12, 4);
    json_t *v = score(ids, ",\"max_tokens\":0");
    check_arrays(v, 12);
    ck_assert_str_eq(json_str(v, "choices.0.finish_reason"), "length");
    ck_assert(json_num(v, "usage.completion_tokens") == 0);
    json_t *w = http_json(
        srv.port, "/v1/completions", 200,
        "{\"prompt\":\"some words here\",\"logprobs\":10,\"max_tokens\":3,\"temperature\":0}");
    for (size_t i = 0; i < 3; i++) {
        const json_t *top = json_array_get(json_at(w, "choices.0.logprobs.top_logprobs"), i);
        ck_assert_uint_eq(json_object_size(top), 10);
    }
    json_decref(v), json_decref(w);
    free(ids);
}
END_TEST

/* The token itself is always among the best, with the same digits. */
START_TEST(top_holds_the_token_itself)
{
    for (int n = 0; n <= 20; n += 5) {
        char *ids = ids_json(30, (unsigned)n);
        json_t *v = http_json(
            srv.port, "/v1/completions", 200,
            "{\"prompt\":%s,\"echo\":true,\"max_tokens\":8,\"logprobs\":%d,\"seed\":5}", ids, n);
        for (size_t i = 1; i < 38; i++) {
            const char *token =
                json_string_value(json_array_get(json_at(v, "choices.0.logprobs.tokens"), i));
            const json_t *lp = json_array_get(json_at(v, "choices.0.logprobs.token_logprobs"), i);
            const json_t *top = json_array_get(json_at(v, "choices.0.logprobs.top_logprobs"), i);
            const json_t *same = json_object_get(top, token);
            ck_assert_msg(same && json_equal((json_t *)(uintptr_t)same, (json_t *)(uintptr_t)lp),
                          "entry %zu, token %s", i, token);
            size_t k = json_object_size(top);
            ck_assert(k == (size_t)n || k == (size_t)n + 1);
        }
        json_decref(v);
        free(ids);
    }
}
END_TEST

/* Sampling parameters do not touch logprobs. */
START_TEST(logprobs_are_raw)
{
    char *ids = ids_json(10, 6);
    json_t *a = score(ids, ",\"max_tokens\":0");
    json_t *b = http_json(
        srv.port, "/v1/completions", 200,
        "{\"prompt\":%s,\"echo\":true,\"max_tokens\":0,\"logprobs\":1,\"temperature\":1.7,"
        "\"top_p\":0.3,\"top_k\":3,\"repetition_penalty\":1.9,\"presence_penalty\":2,"
        "\"logit_bias\":{\"5\":-100}}",
        ids);
    ck_assert(json_equal((json_t *)(uintptr_t)json_at(a, "choices"),
                         (json_t *)(uintptr_t)json_at(b, "choices")));
    json_decref(a), json_decref(b);
    free(ids);
}
END_TEST

/* Prompt scores of a sequence: exp-free reference for the routes below. */
static double prompt_sum(const char *ids, size_t from, size_t n)
{
    double sum = 0;
    json_t *v = score(ids, ",\"max_tokens\":0");
    for (size_t i = from; i < n; i++)
        sum += json_real_value(json_array_get(json_at(v, "choices.0.logprobs.token_logprobs"), i));
    json_decref(v);
    return sum;
}

START_TEST(loglikelihood_agrees_with_scores)
{
    char *ids = ids_json(40, 7);
    json_t *v = http_json(srv.port, "/v1/loglikelihood", 200,
                          "{\"requests\":[{\"context\":[5,153,301],\"continuation\":[9,8,7]},"
                          "{\"context\":\"ab cd \",\"continuation\":\"ef\"},"
                          "{\"context\":\"\",\"continuation\":\"xy\"}]}");
    double want = prompt_sum("[5,153,301,9,8,7]", 3, 6);
    ck_assert_double_eq_tol(json_num(v, "results.0.logprob"), want, 1e-6);
    ck_assert_uint_eq(size_at(v, "results.0.token_logprobs"), 3);
    json_t *whole = http_json(srv.port, "/tokenize", 200, "{\"prompt\":\"ab cd ef\"}");
    json_t *head = http_json(srv.port, "/tokenize", 200, "{\"prompt\":\"ab cd\"}");
    size_t n = (size_t)json_num(whole, "count"), k = (size_t)json_num(head, "count");
    ck_assert_uint_eq(size_at(v, "results.1.tokens"), n - k);
    char *text = json_dumps(json_at(whole, "tokens"), 0);
    ck_assert_double_eq_tol(json_num(v, "results.1.logprob"), prompt_sum(text, k, n), 1e-6);
    ck_assert(json_is_boolean(json_at(v, "results.2.is_greedy")));
    json_decref(v), json_decref(whole), json_decref(head);
    free(text), free(ids);
}
END_TEST

START_TEST(loglikelihood_knows_the_greedy_text)
{
    char *ids = ids_json(10, 8);
    json_t *g = http_json(srv.port, "/v1/completions", 200,
                          "{\"prompt\":%s,\"max_tokens\":5,\"temperature\":0,\"ignore_eos\":true,"
                          "\"return_token_ids\":true}",
                          ids);
    char *next = json_dumps(json_at(g, "choices.0.token_ids"), 0);
    json_t *v = http_json(srv.port, "/v1/loglikelihood", 200,
                          "{\"requests\":[{\"context\":%s,\"continuation\":%s},"
                          "{\"context\":%s,\"continuation\":[1,2]}]}",
                          ids, next, ids);
    ck_assert(json_is_true(json_at(v, "results.0.is_greedy")));
    json_decref(g), json_decref(v);
    free(ids), free(next);
}
END_TEST

/* Strided windows by hand: each token scored by the first window that holds it with context. */
static double strided(size_t n, size_t window, size_t stride, size_t *scored)
{
    double nll = 0;
    size_t done = 1;
    *scored = 0;
    char *all = ids_json(n, 9);
    json_t *list = json_loads(all, 0, NULL);
    for (size_t begin = 0; done < n; begin += stride) {
        size_t end = begin + window < n ? begin + window : n;
        if (end <= done) continue;
        json_t *part = json_array();
        for (size_t i = begin; i < end; i++)
            json_array_append(part, json_array_get(list, i));
        char *ids = json_dumps(part, 0);
        size_t from = done > begin + 1 ? done - begin : 1;
        nll -= prompt_sum(ids, from, end - begin);
        *scored += end - begin - from;
        done = end;
        free(ids);
        json_decref(part);
    }
    json_decref(list);
    free(all);
    return nll;
}

START_TEST(perplexity_agrees_with_scores)
{
    const size_t cases[][3] = {
        {150, 32, 16}, {150, 32, 32}, {50, 64, 64}, {64, 16, 5}, {33, 32, 31}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t scored, n = cases[i][0];
        double want = strided(n, cases[i][1], cases[i][2], &scored);
        char *ids = ids_json(n, 9);
        json_t *v = http_json(srv.port, "/v1/perplexity", 200,
                              "{\"input\":%s,\"window\":%zu,\"stride\":%zu}", ids, cases[i][1],
                              cases[i][2]);
        ck_assert_double_eq_tol(json_num(v, "results.0.nll_sum"), want, 1e-5);
        ck_assert(json_num(v, "results.0.scored_tokens") == (double)scored);
        ck_assert(json_num(v, "total.tokens") == (double)n);
        ck_assert_double_eq_tol(json_num(v, "results.0.perplexity"), exp(want / (double)scored),
                                1e-5 * exp(want / (double)scored));
        json_decref(v);
        free(ids);
    }
}
END_TEST

START_TEST(perplexity_forms)
{
    json_t *v = http_json(
        srv.port, "/v1/perplexity", 200,
        "{\"input\":[\"one text\",\"another, longer text\",\"x\",\"\"],\"prefix\":\"bos\","
        "\"per_token\":true}");
    ck_assert_uint_eq(size_at(v, "results"), 4);
    ck_assert_uint_eq(size_at(v, "results.1.token_logprobs"),
                      (size_t)json_num(v, "results.1.tokens"));
    ck_assert(json_num(v, "results.1.scored_tokens") == json_num(v, "results.1.tokens"));
    ck_assert(json_num(v, "results.3.scored_tokens") == 0 &&
              json_num(v, "results.3.perplexity") >= 0);
    json_decref(v);
    struct httpc c;
    char *ids = ids_json(300, 2), body[4096], *ev, *last = NULL;
    snprintf(body, sizeof body, "{\"input\":%s,\"window\":16,\"stream\":true}", ids);
    httpc_open(&c, srv.port);
    httpc_send(&c, "POST", "/v1/perplexity", "", body, strlen(body));
    ck_assert_int_eq(httpc_head(&c, 10000), 200);
    int n = 0, done = 0;
    while ((ev = httpc_event(&c, 10000))) {
        n++;
        if (strcmp(ev, "data: [DONE]") == 0) {
            done = 1;
            free(ev);
            continue;
        }
        free(last);
        last = ev;
    }
    ck_assert(done && n >= 2);
    v = json_loads(last + 6, 0, NULL);
    ck_assert_str_eq(json_str(v, "object"), "perplexity");
    ck_assert(json_num(v, "total.windows") == 19);
    json_decref(v);
    httpc_close(&c);
    free(last), free(ids);
}
END_TEST

/* More windows than have slots at once: the same scores as each pair of tokens has by itself. */
START_TEST(windows_of_any_number)
{
    enum { N = 400 };
    struct buf pairs = {0};
    char *ids = ids_json(N, 9);
    json_t *list = json_loads(ids, 0, NULL);
    for (size_t i = 0; i + 1 < N; i++)
        buf_printf(&pairs, "%s[%d,%d]", i ? "," : "",
                   (int)json_integer_value(json_array_get(list, i)),
                   (int)json_integer_value(json_array_get(list, i + 1)));
    json_t *v = http_json(srv.port, "/v1/perplexity", 200,
                          "{\"input\":%s,\"window\":2,\"stride\":1,\"per_token\":true}", ids);
    json_t *w = http_json(srv.port, "/v1/perplexity", 200, "{\"input\":[%s],\"per_token\":true}",
                          pairs.data);
    double nll = 0;
    for (size_t i = 0; i + 1 < N; i++) {
        const json_t *one = json_array_get(json_at(w, "results"), i);
        const json_t *all = json_at(v, "results.0.token_logprobs");
        nll += json_num(one, "nll_sum");
        ck_assert(json_equal((json_t *)(uintptr_t)json_at(one, "token_logprobs.1"),
                             json_array_get(all, i + 1)));
    }
    ck_assert(json_num(v, "total.windows") == N - 1 && json_num(v, "total.scored_tokens") == N - 1);
    assert_close(json_num(v, "total.nll_sum"), nll, 0, 1e-6);
    struct httpc c;
    buf_clear(&pairs);
    buf_printf(&pairs, "{\"input\":%s,\"window\":2,\"stride\":1,\"stream\":true}", ids);
    ck_assert_int_eq(http_post(&c, srv.port, "/v1/perplexity", pairs.data), 200);
    ck_assert_ptr_nonnull(strstr(c.body.data, "\"windows\":399"));
    ck_assert_ptr_nonnull(strstr(c.body.data, "data: [DONE]"));
    httpc_close(&c);
    json_decref(v), json_decref(w), json_decref(list);
    buf_release(&pairs);
    free(ids);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("scoring over HTTP");
    TCase *t = server_case(s, "scoring");
    tcase_add_test(t, arrays_have_prompt_plus_one);
    tcase_add_test(t, arrays_also_when_text_ends);
    tcase_add_test(t, nothing_is_added_to_prompts);
    tcase_add_test(t, the_context_is_used_in_full);
    tcase_add_test(t, tokenizer_routes);
    tcase_add_test(t, scores_without_generating);
    tcase_add_test(t, windows_of_any_number);
    tcase_add_test(t, top_holds_the_token_itself);
    tcase_add_test(t, logprobs_are_raw);
    tcase_add_test(t, loglikelihood_agrees_with_scores);
    tcase_add_test(t, loglikelihood_knows_the_greedy_text);
    tcase_add_test(t, perplexity_agrees_with_scores);
    tcase_add_test(t, perplexity_forms);
    return s;
}

TEST_MAIN(suite)
