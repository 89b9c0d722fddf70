/* What is reused cannot be seen in an answer: a daemon with prefix cache and guesses says, byte for byte,
 * what one without either says: cold and warm, whole and streamed. And usage, timings and metrics tell. */
#include "tests/server/fixture.h"

static struct daemon bare; /* neither cache nor guesses */

static void both_up(void)
{
    static const char *const guess[] = {"--speculative-tokens", "6", NULL};
    static const char *const none[] = {"--prefix-cache-bytes", "0", NULL};
    daemon_start(&srv, daemon_tiny_model(), guess);
    daemon_start(&bare, daemon_tiny_model(), none);
}

static void both_down(void)
{
    daemon_stop(&srv);
    daemon_stop(&bare);
}

/* The value of a JSON text at p, without its quotes. */
static size_t text_len(const char *p)
{
    size_t n = 0;
    while (p[n] != '"')
        n += p[n] == '\\' ? 2 : 1;
    return n;
}

/* The choices of a whole answer, or the text of a streamed one: where its pieces end is a matter of time. */
static char *ask(int port, const char *body, bool stream)
{
    struct httpc c;
    struct buf b = {0}, out = {0};
    buf_printf(&b, "%s,\"stream\":%s}", body, stream ? "true" : "false");
    ck_assert_int_eq(http_post(&c, port, "/v1/completions", b.data), 200);
    const char *p = c.body.data;
    if (!stream) {
        p = strstr(p, "\"choices\":");
        buf_append(&out, p, (size_t)(strstr(p, ",\"usage\"") - p));
    }
    while (stream && (p = strstr(p, "\"text\":\"")) != NULL) {
        p += strlen("\"text\":\"");
        buf_append(&out, p, text_len(p));
    }
    httpc_close(&c);
    buf_release(&b);
    return buf_take(&out);
}

static const char *const requests[] = {
    "{\"prompt\":%s,\"max_tokens\":20,\"seed\":1,\"logprobs\":3",
    "{\"prompt\":%s,\"max_tokens\":24,\"temperature\":0,\"n\":3,\"echo\":true",
    "{\"prompt\":%s,\"max_tokens\":24,\"temperature\":0.2,\"seed\":4,\"echo\":true,\"logprobs\":2",
    ("{\"prompt\":%s,\"max_tokens\":24,\"temperature\":0.3,\"seed\":5,\"n\":4,\"stop\":[\"ab\","
     "\"qz\"]"),
    "{\"prompt\":%s,\"max_tokens\":24,\"seed\":6,\"repetition_penalty\":1.3,\"min_tokens\":9",
    "{\"prompt\":%s,\"max_tokens\":24,\"top_k\":3,\"seed\":7,\"return_token_ids\":true",
};

START_TEST(same_bytes_cold_warm_and_without)
{
    char *prompt = ids_json(36, 3);
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++)
        for (int stream = 0; stream < 2; stream++) {
            if (stream && strstr(requests[i], "\"n\":")) continue; /* choices interleave freely */
            struct buf b = {0}, off = {0};
            size_t at = (size_t)(strstr(requests[i], "%s") - requests[i]);
            buf_append(&b, requests[i], at);
            buf_puts(&b, prompt);
            buf_puts(&b, requests[i] + at + 2);
            buf_printf(&off, "%s,\"cache_prompt\":false", b.data);
            char *want = ask(bare.port, b.data, stream), *cold = ask(srv.port, b.data, stream),
                 *warm = ask(srv.port, b.data, stream), *bypass = ask(srv.port, off.data, stream);
            ck_assert_uint_gt(strlen(want), 20);
            ck_assert_msg(strcmp(cold, want) == 0, "%.900s\n%.900s", cold, want);
            ck_assert_msg(strcmp(warm, want) == 0, "%.900s\n%.900s", warm, want);
            ck_assert_msg(strcmp(bypass, want) == 0, "%.900s\n%.900s", bypass, want);
            free(want), free(cold), free(warm), free(bypass);
            buf_release(&b), buf_release(&off);
        }
    free(prompt);
    ck_assert(http_metric(srv.port, "ttmd_prefix_cache_hit_tokens_total") > 200);
    double accepted = http_metric(srv.port, "ttmd_speculative_accepted_tokens_total");
    ck_assert(accepted > 0);
    ck_assert(accepted <= http_metric(srv.port, "ttmd_speculative_drafted_tokens_total"));
    ck_assert(http_metric(bare.port, "ttmd_prefix_cache_bytes") ==
              0); /* copies share, nothing stays */
    ck_assert(http_metric(bare.port, "ttmd_speculative_drafted_tokens_total") == 0);
}
END_TEST

static double cached(const char *extra)
{
    char *prompt = ids_json(50, 8);
    json_t *v = http_json(srv.port, "/v1/completions", 200,
                          "{\"prompt\":%s,\"max_tokens\":2,\"seed\":1%s}", prompt, extra);
    double n = json_num(v, "usage.prompt_tokens_details.cached_tokens");
    ck_assert(json_num(v, "timings.drafted_tokens") >= json_num(v, "timings.accepted_tokens"));
    json_decref(v);
    free(prompt);
    return n;
}

START_TEST(usage_and_metrics_tell)
{
    static const char total[] = "ttmd_prompt_tokens_total{source=\"cached\"}";
    double before = http_metric(srv.port, total);
    double looked = http_metric(srv.port, "ttmd_prefix_cache_lookup_tokens_total");
    ck_assert(cached(",\"cache_prompt\":false") == 0);
    ck_assert(cached("") == 0);
    ck_assert(cached("") == 48);
    ck_assert(cached(",\"cache_prompt\":null") == 48);
    ck_assert(cached(",\"cache_salt\":\"tenant\"") == 0);
    ck_assert(cached(",\"cache_salt\":\"tenant\"") == 48);
    ck_assert(cached(",\"cache_salt\":\"other\"") == 0);
    ck_assert(cached(",\"echo\":true,\"logprobs\":1") == 0); /* every row's logits are wanted */
    ck_assert(http_metric(srv.port, total) == before + 3 * 48);
    ck_assert(http_metric(srv.port, "ttmd_prefix_cache_lookup_tokens_total") == looked + 7 * 50);
    ck_assert(http_metric(srv.port, "ttmd_prefix_cache_bytes") > 0);
    ck_assert(http_metric(srv.port, "ttmd_prefix_cache_bytes") <=
              http_metric(srv.port, "ttmd_prefix_cache_limit_bytes"));
    ck_assert(http_metric(bare.port, "ttmd_prefix_cache_limit_bytes") == 0);
}
END_TEST

/* Continuations of one context: computed once, scored the same. */
START_TEST(contexts_are_shared)
{
    char *context = ids_json(40, 9);
    const char *one = "{\"requests\":[{\"context\":%s,\"continuation\":[7,9]}]%s}";
    json_t *want = http_json(bare.port, "/v1/loglikelihood", 200, one, context, "");
    double before = http_metric(srv.port, "ttmd_prefix_cache_hit_tokens_total");
    for (int i = 0; i < 3; i++) {
        json_t *v = http_json(srv.port, "/v1/loglikelihood", 200, one, context,
                              i == 2 ? ",\"cache_prompt\":false" : "");
        ck_assert(json_equal(json_at(v, "results"), json_at(want, "results")));
        json_decref(v);
    }
    ck_assert(http_metric(srv.port, "ttmd_prefix_cache_hit_tokens_total") == before + 32);
    json_decref(want);
    free(context);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("reuse");
    TCase *t = tcase_create("reuse");
    tcase_add_unchecked_fixture(t, both_up, both_down);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, same_bytes_cold_warm_and_without);
    tcase_add_test(t, usage_and_metrics_tell);
    tcase_add_test(t, contexts_are_shared);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
