/* The page of /metrics: a small checker of the text format (what promtool looks at), the promised names,
 * zeros from the start, and that counters count. */
#include <ctype.h>

#include "tests/server/fixture.h"

static const char *const promised[] = {"ttmd_build_info",
                                       "ttmd_model_info",
                                       "ttmd_ready",
                                       "ttmd_draining",
                                       "ttmd_threads",
                                       "ttmd_cpu_quota_cores",
                                       "ttmd_cpu_throttled_seconds_total",
                                       "ttmd_http_requests_total",
                                       "ttmd_http_request_duration_seconds",
                                       "ttmd_http_connections",
                                       "ttmd_requests_running",
                                       "ttmd_requests_waiting",
                                       "ttmd_queue_capacity",
                                       "ttmd_buffered_body_bytes",
                                       "ttmd_buffered_body_limit_bytes",
                                       "ttmd_requests_total",
                                       "ttmd_requests_rejected_total",
                                       "ttmd_requests_cancelled_total",
                                       "ttmd_prompt_tokens_total",
                                       "ttmd_generated_tokens_total",
                                       "ttmd_scored_tokens_total",
                                       "ttmd_time_to_first_token_seconds",
                                       "ttmd_inter_token_latency_seconds",
                                       "ttmd_request_queue_seconds",
                                       "ttmd_request_prefill_seconds",
                                       "ttmd_request_decode_seconds",
                                       "ttmd_request_duration_seconds",
                                       "ttmd_request_prompt_tokens",
                                       "ttmd_request_generated_tokens",
                                       "ttmd_batch_size",
                                       "ttmd_engine_step_seconds",
                                       "ttmd_kv_cache_used_ratio",
                                       "ttmd_kv_cache_bytes",
                                       "ttmd_prefix_cache_lookup_tokens_total",
                                       "ttmd_prefix_cache_hit_tokens_total",
                                       "ttmd_prefix_cache_bytes",
                                       "ttmd_speculative_drafted_tokens_total",
                                       "ttmd_speculative_accepted_tokens_total",
                                       "ttmd_ttm_plan_steps_total",
                                       "process_cpu_seconds_total",
                                       "process_resident_memory_bytes",
                                       "process_open_fds",
                                       "process_start_time_seconds"};

static bool valid_name(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(isalnum((unsigned char)s[i]) || s[i] == '_')) return false;
    return n > 0 && !isdigit((unsigned char)s[0]);
}

static bool ends_with(const char *s, size_t n, const char *end)
{
    size_t k = strlen(end);
    return n >= k && memcmp(s + n - k, end, k) == 0;
}

/* State of one pass over the page. */
struct page {
    char family[128], type[16]; /* of the lines being read */
    char series[512];           /* of a histogram: name and labels without le */
    double last_bucket;
    int families;
};

static void check_head(struct page *p, const char *line)
{
    char name[128], word[16];
    if (strncmp(line, "# HELP ", 7) == 0) {
        ck_assert(sscanf(line + 7, "%127s", name) == 1);
        ck_assert_msg(strcmp(name, p->family) != 0, "%s twice", name);
        snprintf(p->family, sizeof p->family, "%s", name);
        p->families++;
        ck_assert_msg(strlen(line) > 8 + strlen(name), "%s has no help", name);
        return;
    }
    ck_assert(sscanf(line, "# TYPE %127s %15s", name, word) == 2);
    ck_assert_msg(strcmp(name, p->family) == 0, "TYPE of %s after HELP of %s", name, p->family);
    snprintf(p->type, sizeof p->type, "%s", word);
    bool total = ends_with(name, strlen(name), "_total");
    ck_assert_msg((strcmp(word, "counter") == 0) == total, "%s is a %s", name, word);
    *p->series = 0;
}

static void check_sample(struct page *p, const char *line)
{
    size_t n = strcspn(line, "{ "), family = strlen(p->family);
    char *end;
    const char *value = strrchr(line, ' ');
    ck_assert_msg(valid_name(line, n) && strncmp(line, p->family, family) == 0, "%.100s within %s",
                  line, p->family);
    ck_assert_ptr_nonnull(value);
    double v = strtod(value + 1, &end);
    ck_assert_msg(*end == 0 && end != value + 1, "no number: %.200s", line);
    ck_assert(isfinite(v) && v >= 0);
    if (strcmp(p->type, "histogram") != 0) {
        ck_assert_uint_eq(n, family);
        return;
    }
    const char *le = strstr(line, "le=\"");
    if (!ends_with(line, n, "_bucket")) {
        if (ends_with(line, n, "_count")) ck_assert(v == p->last_bucket);
        return;
    }
    ck_assert_ptr_nonnull(le);
    size_t k = (size_t)(le - line);
    if (strncmp(p->series, line, k) != 0 || p->series[k]) p->last_bucket = 0;
    snprintf(p->series, sizeof p->series, "%.*s", (int)k, line);
    ck_assert_msg(v >= p->last_bucket, "buckets decrease: %.200s", line);
    p->last_bucket = v;
}

static char *page_text(void)
{
    struct httpc c;
    ck_assert_int_eq(http_get(&c, srv.port, "/metrics"), 200);
    ck_assert_str_eq(httpc_header(&c, "Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
    char *text = buf_take(&c.body);
    httpc_close(&c);
    return text;
}

START_TEST(the_format_is_kept)
{
    struct page p = {0};
    json_decref(http_json(srv.port, "/v1/completions", 200, "{\"max_tokens\":5}"));
    json_decref(http_json(srv.port, "/v1/completions", 400, "{\"max_tokens\":-5}"));
    char *text = page_text();
    ck_assert(text[strlen(text) - 1] == '\n');
    for (char *line = text, *next; *line; line = next) {
        next = strchr(line, '\n');
        *next++ = 0;
        if (*line == '#')
            check_head(&p, line);
        else
            check_sample(&p, line);
    }
    ck_assert_int_ge(p.families, (int)(sizeof promised / sizeof *promised));
    free(text);
}
END_TEST

START_TEST(promised_names_are_there)
{
    char *text = page_text(), line[200];
    for (size_t i = 0; i < sizeof promised / sizeof *promised; i++) {
        snprintf(line, sizeof line, "# TYPE %s ", promised[i]);
        ck_assert_msg(strstr(text, line) != NULL, "%s is missing", promised[i]);
    }
    free(text);
}
END_TEST

/* Series that have counted nothing are there, as 0. */
START_TEST(zero_from_the_start)
{
    static const char *const zeros[] = {
        "ttmd_requests_total{endpoint=\"loglikelihood\",outcome=\"ok\"}",
        "ttmd_requests_rejected_total{reason=\"queue_full\"}",
        "ttmd_requests_cancelled_total{phase=\"prefill\",cause=\"disconnect\"}",
        "ttmd_http_requests_total{route=\"perplexity\",method=\"POST\",code=\"200\"}",
        "ttmd_prompt_tokens_total{source=\"cached\"}"};
    for (size_t i = 0; i < sizeof zeros / sizeof *zeros; i++)
        ck_assert_msg(http_metric(srv.port, zeros[i]) == 0, "%s", zeros[i]);
}
END_TEST

START_TEST(counters_count)
{
    static const char *const names[] = {
        "ttmd_requests_total{endpoint=\"completions\",outcome=\"ok\"}",
        "ttmd_requests_total{endpoint=\"completions\",outcome=\"invalid\"}",
        "ttmd_generated_tokens_total",
        "ttmd_prompt_tokens_total{source=\"computed\"}",
        "ttmd_scored_tokens_total",
        "ttmd_time_to_first_token_seconds_count",
        "ttmd_inter_token_latency_seconds_count",
        "ttmd_request_generated_tokens_sum"};
    static const double more[] = {1, 1, 7, 3, 2, 1, 1, 7};
    double before[8];
    for (size_t i = 0; i < 8; i++)
        before[i] = http_metric(srv.port, names[i]);
    json_decref(http_json(srv.port, "/v1/completions", 200,
                          "{\"prompt\":[1,2,3],\"max_tokens\":7,\"ignore_eos\":true,\"echo\":true,"
                          "\"logprobs\":1,\"allowed_token_ids\":[64]}"));
    json_decref(http_json(srv.port, "/v1/completions", 400, "{\"n\":0}"));
    for (int k = 0; k < 2; k++) /* counted when the connection is done with the request */
        for (int i = 0; i < 2000 && http_metric(srv.port, names[k]) == before[k]; i++)
            usleep(2000);
    for (size_t i = 0; i < 8; i++) {
        double now = http_metric(srv.port, names[i]);
        ck_assert_msg(i == 6 ? now > before[i] : now == before[i] + more[i], "%s: %g, was %g",
                      names[i], now, before[i]);
    }
}
END_TEST

/* Is there a line "# TYPE name " on the page? */
static bool on_page(const char *page, const char *name)
{
    char line[200];
    snprintf(line, sizeof line, "# TYPE %s ", name);
    return strstr(page, line) != NULL;
}

/* The README's table of metrics: a row for every name on the page. */
START_TEST(readme_has_every_metric)
{
    char *page = page_text(), *readme = read_file("README.md", NULL), name[128], row[160];
    for (const char *p = page; (p = strstr(p, "# TYPE ")) != NULL; p++) {
        ck_assert(sscanf(p, "# TYPE %127s", name) == 1);
        snprintf(row, sizeof row, "`%s`", name);
        const char *found = strstr(readme, row);
        if (!found) snprintf(row, sizeof row, "`%s{", name), found = strstr(readme, row);
        ck_assert_msg(found != NULL, "README.md says nothing of %s", name);
    }
    free(page);
    free(readme);
}
END_TEST

/* Every metric that a file of ours asks for exists, histograms by their parts. */
static void check_uses(const char *page, const char *path)
{
    static const char *const parts[] = {"", "_bucket", "_sum", "_count"};
    char *text = read_file(path, NULL);
    int found = 0;
    for (const char *p = text; (p = strstr(p, "ttmd_")) != NULL; found++) {
        size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789_");
        char name[128];
        bool known = false;
        for (size_t i = 0; i < sizeof parts / sizeof *parts && !known; i++) {
            size_t cut = strlen(parts[i]);
            if (!ends_with(p, n, parts[i])) continue;
            snprintf(name, sizeof name, "%.*s", (int)(n - cut), p);
            known = on_page(page, name);
        }
        ck_assert_msg(known, "%s: there is no metric %.*s", path, (int)n, p);
        p += n;
    }
    ck_assert_int_gt(found, 0);
    free(text);
}

START_TEST(what_others_ask_for_exists)
{
    char *page = page_text();
    check_uses(page, "docker/grafana/dashboards/ttmd.json");
    check_uses(page, "docker/prometheus/alerts.yml");
    check_uses(page, "docker/k8s/base/hpa.yaml");
    free(page);
    json_t *v = json_load_file("docker/grafana/dashboards/ttmd.json", JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(v);
    ck_assert_str_eq(json_str(v, "uid"), "ttmd");
    ck_assert_uint_gt(json_array_size(json_at(v, "panels")), 0);
    json_decref(v);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("metrics");
    TCase *t = server_case(s, "metrics");
    tcase_add_test(t, zero_from_the_start);
    tcase_add_test(t, the_format_is_kept);
    tcase_add_test(t, promised_names_are_there);
    tcase_add_test(t, readme_has_every_metric);
    tcase_add_test(t, what_others_ask_for_exists);
    t = server_case(s, "counters"); /* a daemon without earlier requests */
    tcase_add_test(t, counters_count);
    return s;
}

TEST_MAIN(suite)
