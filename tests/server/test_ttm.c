/* TTM models over HTTP: what the daemon says of them, counts, logs, and how configuration chooses. */
#include "tests/server/fixture.h"

static void ttm_up(void)
{
    daemon_start(&srv, daemon_ttm_model(), NULL);
}

START_TEST(the_model_page)
{
    json_t *list = http_get_json(srv.port, "/v1/models", 200);
    char path[300];
    snprintf(path, sizeof path, "/v1/models/%s", json_str(list, "data.0.id"));
    ck_assert_ptr_null(json_at(list, "data.0.meta.ttm_layers")); /* the list stays short */
    assert_close(json_num(list, "data.0.meta.n_ttm_layers"), 8, 0, 0);
    json_t *m = http_get_json(srv.port, path, 200);
    double stored = json_num(m, "meta.n_params"), rounded = json_num(m, "meta.n_params_rounded");
    double dense = json_num(m, "meta.n_params_dense");
    ck_assert(rounded < stored && stored < dense);
    assert_close(json_num(m, "meta.compression"), dense / rounded, 0, 1e-5);
    ck_assert_uint_eq(json_array_size(json_at(m, "meta.ttm_layers")), 8);
    const json_t *l = json_at(m, "meta.ttm_layers.2");
    ck_assert_str_eq(json_str(l, "name"), "h.0.mlp.c_fc");
    ck_assert_str_eq(json_str(l, "shape"), "(4,8)(8,8)(1,2)");
    assert_close(json_num(l, "ranks.2"), 2, 0, 0);
    assert_close(json_num(l, "stored_ranks.2"), 6, 0, 0);
    for (int r = 0; r < 2; r++) {
        const json_t *p = json_at(l, r ? "plan.prefill" : "plan.decode");
        ck_assert_str_ne(json_str(p, "method"), "");
        ck_assert_str_ne(json_str(p, "method"), "resident");
        ck_assert(json_num(p, "rows") >= 1 && json_num(p, "predicted_us") > 0);
    }
    json_decref(m);
    json_decref(list);
}
END_TEST

static double plan_steps(const char *plan)
{
    char sample[200];
    snprintf(sample, sizeof sample, "ttmd_ttm_plan_steps_total{plan=\"%s\"}", plan);
    return http_metric(srv.port, sample);
}

START_TEST(steps_are_counted_by_plan)
{
    json_t *list = http_get_json(srv.port, "/v1/models", 200);
    char path[300], decode[120], prefill[120];
    snprintf(path, sizeof path, "/v1/models/%s", json_str(list, "data.0.id"));
    json_decref(list);
    json_t *m = http_get_json(srv.port, path, 200);
    snprintf(decode, sizeof decode, "%s", json_str(m, "meta.ttm_layers.2.plan.decode.method"));
    snprintf(prefill, sizeof prefill, "%s", json_str(m, "meta.ttm_layers.2.plan.prefill.method"));
    json_decref(m);
    double d0 = plan_steps(decode), p0 = plan_steps(prefill);
    ck_assert(d0 >= 0 && p0 >= 0);
    json_decref(http_json(srv.port, "/v1/completions", 200,
                          "{\"prompt\": [1,2,3], \"max_tokens\": 9, \"ignore_eos\": true}"));
    double d1 = plan_steps(decode) - d0, p1 = plan_steps(prefill) - p0;
    if (strcmp(decode, prefill) == 0) {
        assert_close(d1, 9, 0, 0);
    } else { /* other layers may use the one's plan in the other role */
        ck_assert(d1 >= 8 && d1 <= 9 && p1 >= 1 && p1 <= 9);
    }
}
END_TEST

/* The same completion by every method: the same text, and a fingerprint that says how. */
START_TEST(methods_by_configuration)
{
    static const char *const methods[] = {"auto", "contract", "rebuild", "resident"};
    char text[400] = "", fingerprints[4][40];
    for (int i = 0; i < 4; i++) {
        struct daemon d;
        daemon_start(&d, daemon_ttm_model(),
                     (const char *const[]){"--ttm-execution", methods[i], NULL});
        json_t *a = http_json(d.port, "/v1/completions", 200,
                              "{\"prompt\": [5,6,7,8], \"max_tokens\": 12, \"temperature\": 0}");
        if (i == 0) snprintf(text, sizeof text, "%s", json_str(a, "choices.0.text"));
        ck_assert_str_eq(json_str(a, "choices.0.text"), text);
        snprintf(fingerprints[i], sizeof fingerprints[i], "%s", json_str(a, "system_fingerprint"));
        if (i) {
            char logged[60];
            snprintf(logged, sizeof logged, i == 1 ? "decode=\"%s " : "decode=%s", methods[i]);
            ck_assert_msg(daemon_log_has(&d, logged), "no %s in the log", logged);
        }
        for (int k = 1; k < i; k++)
            ck_assert_str_ne(fingerprints[i], fingerprints[k]);
        json_decref(a);
        daemon_stop(&d);
    }
}
END_TEST

START_TEST(a_budget_that_is_too_small)
{
    struct daemon d;
    daemon_spawn(&d, daemon_ttm_model(),
                 (const char *const[]){"--memory-budget-bytes", "1000", NULL});
    ck_assert_int_eq(daemon_wait(&d, 30000), 1);
    ck_assert(daemon_log_has(&d, "memory_budget_bytes is 1000, but the weights that are not TTM"));
}
END_TEST

START_TEST(rates_are_kept)
{
    char file[300];
    snprintf(file, sizeof file, "%s/rates", temp_dir());
    struct daemon d;
    daemon_start(&d, daemon_ttm_model(), (const char *const[]){"--calibration-file", file, NULL});
    daemon_stop(&d);
    char *first = read_file(file, NULL);
    ck_assert_ptr_nonnull(strstr(first, "ttmd rates 3\nmachine "));
    daemon_start(&d, daemon_ttm_model(), (const char *const[]){"--calibration-file", file, NULL});
    daemon_stop(&d);
    char *second = read_file(file, NULL);
    ck_assert_str_eq(first, second);
    free(first), free(second);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("TTM over HTTP");
    TCase *t = tcase_create("ttm");
    tcase_add_unchecked_fixture(t, ttm_up, server_down);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_model_page);
    tcase_add_test(t, steps_are_counted_by_plan);
    suite_add_tcase(s, t);
    TCase *own = tcase_create("daemons of their own");
    tcase_set_timeout(own, 120);
    tcase_add_test(own, methods_by_configuration);
    tcase_add_test(own, a_budget_that_is_too_small);
    tcase_add_test(own, rates_are_kept);
    suite_add_tcase(s, own);
    return s;
}
TEST_MAIN(suite)
