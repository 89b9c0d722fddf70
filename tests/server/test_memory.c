/* Memory: what is resident is the weights, the KV pool and little more, and scoring does not change that. Other
 * servers take logits of prompt x vocabulary for it; here that would be 134 MB for a single prompt. */
#include <stdio.h>

#include "engine/gpt2/tokenizer_write.h"
#include "tests/server/fixture.h"
#include "tests/support/make_model.h"

#define VOCAB 32768
#define N_CTX 1024
#define MIB 1048576.0

static void wide_up(void)
{
    static const char *const flags[] = {"--max-batch", "2", NULL};
    static char dir[256];
    struct err err = {0};
    snprintf(dir, sizeof dir, "%s", temp_dir());
    make_model(dir, &(struct make_model){.vocab = VOCAB, .positions = N_CTX, .channels = 16});
    if (tokenizer_write_bytes(dir, VOCAB, &err)) ck_abort_msg("%s", err.msg);
    daemon_start(&srv, dir, flags);
}

static void check_peak(const char *when)
{
    double most = http_metric(srv.port, "ttmd_model_weight_bytes") +
                  http_metric(srv.port, "ttmd_kv_cache_bytes") + 60 * MIB;
    printf("%s: %.0f of %.0f MiB\n", when, daemon_peak_bytes(&srv) / MIB, most / MIB);
    ck_assert_msg(daemon_peak_bytes(&srv) <= most, "%s: %.0f bytes, expected at most %.0f", when,
                  daemon_peak_bytes(&srv), most);
}

START_TEST(scoring_does_not_take_prompt_times_vocabulary)
{
    char *ids = ids_json(N_CTX - 1, 1);
    ck_assert_double_gt(4.0 * N_CTX * VOCAB, 2 * 60 * MIB);
    check_peak("loaded");
    for (int i = 0; i < 4; i++) {
        json_t *v = http_json(srv.port, "/v1/completions", 200,
                              "{\"prompt\":[%s,%s],\"max_tokens\":1,\"echo\":true,\"logprobs\":5}",
                              ids, ids);
        ck_assert_uint_eq(json_array_size(json_at(v, "choices.1.logprobs.tokens")), N_CTX);
        json_decref(v);
    }
    check_peak("echo with logprobs");
    json_decref(http_json(srv.port, "/v1/perplexity", 200, "{\"input\":[%s,%s],\"per_token\":true}",
                          ids, ids));
    json_decref(http_json(srv.port, "/v1/loglikelihood", 200,
                          "{\"requests\":[{\"context\":[1],\"continuation\":%s}]}", ids));
    check_peak("perplexity and loglikelihood");
    free(ids);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("memory");
    if (harness_sanitized()) {
        skip("memory", "sanitizers keep what was freed");
        return s;
    }
    TCase *t = tcase_create("memory");
    tcase_add_unchecked_fixture(t, wide_up, server_down);
    tcase_set_timeout(t, 120);
    suite_add_tcase(s, t);
    tcase_add_test(t, scoring_does_not_take_prompt_times_vocabulary);
    return s;
}

TEST_MAIN(suite)
