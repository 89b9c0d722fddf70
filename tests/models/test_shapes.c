/* ttm shapes: the table, the JSON and the plot say the same, and what they say is what the search finds. */
#include <jansson.h>

#include "engine/ttm/shapes_front.h"
#include "tests/models/rewrite_testing.h"

#define JSON(...) RUN_JSON(cmd_shapes, __VA_ARGS__, "--json")

static json_int_t integer(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    ck_assert_msg(json_is_integer(v), "%s", key);
    return json_integer_value(v);
}

START_TEST(json_is_the_front)
{
    json_t *j = JSON("128", "512"), *x, *p;
    size_t i, k;
    ck_assert_int_eq(integer(j, "in"), 128);
    ck_assert_int_eq(integer(j, "max_params"), 128 * 512);
    json_t *ranks = json_object_get(j, "ranks");
    ck_assert_uint_ge(json_array_size(ranks), 4);
    json_array_foreach(ranks, i, x)
    {
        struct shapes_query q = {.in = 128, .out = 512, .rank = (int)integer(x, "rank")};
        struct shapes_front f;
        ck_assert_int_eq(q.rank, 4 << i);
        ck_assert_int_eq(shapes_front_search(&f, &q, NULL), 0);
        json_t *front = json_object_get(x, "front");
        ck_assert_uint_eq(json_array_size(front), f.n);
        json_array_foreach(front, k, p)
        {
            ck_assert_int_eq(integer(p, "params"), (json_int_t)f.point[k].params);
            ck_assert_int_eq(integer(p, "mults"), (json_int_t)f.point[k].mults);
            ck_assert_int_eq(integer(p, "matrix_rank"), 128);
            ck_assert_int_eq(json_is_true(json_object_get(p, "auto")),
                             shapes_front_pick(&f) == &f.point[k]);
            ck_assert_uint_eq(json_array_size(json_object_get(p, "cores")),
                              (size_t)f.point[k].shape.d);
        }
        shapes_front_release(&f);
    }
    json_t *low = json_object_get(json_array_get(ranks, 0), "low_rank");
    ck_assert_int_eq(integer(low, "params"), 4 * (128 + 512));
    ck_assert_int_eq(integer(low, "mults"), 4 * (128 + 512));
    json_decref(j);
}
END_TEST

START_TEST(limits_hold)
{
    json_t *j = JSON("128", "512", "--rank", "10", "--params", "0.05"), *x, *p;
    size_t i, k;
    ck_assert_uint_eq(json_array_size(json_object_get(j, "ranks")), 1);
    json_array_foreach(json_object_get(j, "ranks"), i, x)
    {
        ck_assert_int_eq(integer(x, "rank"), 10);
        ck_assert(json_is_null(json_object_get(x, "low_rank"))); /* 6400 of 3276 */
        json_array_foreach(json_object_get(x, "front"), k, p)
            ck_assert_int_le(integer(p, "params"), 3276);
        ck_assert_uint_gt(json_array_size(json_object_get(x, "front")), 0);
    }
    json_decref(j);
    char *text = RUN(cmd_shapes, "128", "512", "--rank", "10", "--params", "1e-6");
    ck_assert_ptr_nonnull(strstr(text, "no shape of 2 to 4 cores has 1 parameters or fewer"));
    free(text);
}
END_TEST

static int count(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)); text++)
        n++;
    return n;
}

START_TEST(table_and_plot)
{
    const char *file = path_join(temp_dir(), "plot.svg");
    char *text = RUN(cmd_shapes, "768", "3072", "--svg", file);
    ck_assert_ptr_nonnull(strstr(text, "768 x 3072: dense has 2359296 parameters"));
    ck_assert_ptr_nonnull(strstr(text, "(1,256)(2,2)(3,2)(128,3)"));
    ck_assert_ptr_nonnull(strstr(text, "303140   0.1285")); /* the paper's, rounded */
    int rows = count(text, " contract [");
    char *svg = read_file(file, NULL);
    ck_assert_int_eq(strncmp(svg, "<svg ", 5), 0);
    ck_assert_str_eq(svg + strlen(svg) - 7, "</svg>\n");
    ck_assert_ptr_nonnull(strstr(svg, ">parameters / dense<"));
    ck_assert_ptr_nonnull(strstr(svg, ">multiplications per token / dense<"));
    ck_assert_ptr_nonnull(strstr(svg, ">rank 64<"));
    ck_assert_ptr_null(strstr(svg, "nan"));
    ck_assert_ptr_null(strstr(svg, "inf"));
    /* a mark for every row of the table: titled circles, squares and crosses, less the legend's two */
    int marks = count(svg, "<title>") + count(svg, "width=\"8\"") + count(svg, "<path") - 2;
    ck_assert_int_eq(marks, rows);
    free(svg);
    free(text);
}
END_TEST

/* No room for all of it: what was there is there, and nothing else. */
/* Of the layers that are taken, some have a side beyond the largest rank: 2599051 is 7 * 13^5, with few
 * factorisations. */
START_TEST(ranks_end_at_their_limit)
{
    json_t *j = JSON("2599051", "2599051", "--params", "1e-9");
    ck_assert_int_eq(integer(j, "in"), 2599051);
    json_decref(j);
    REFUSED(cmd_shapes, "--rank: 1048577 is outside 1..1048576", "768", "3072", "--rank",
            "1048577");
}
END_TEST

START_TEST(a_signal_ends_it)
{
    gives_up(cmd_shapes, (const char *const[]){"768", "3072", NULL});
}
END_TEST

START_TEST(a_plot_is_whole_or_not_there)
{
    const char *top = temp_dir(), *file = path_join(top, "plot.svg");
    char line[2048];
    struct tool_result r;
    write_file(file, "another", 7);
    snprintf(line, sizeof line, "ulimit -f 4; exec %s shapes 768 3072 --svg %s", build_path("ttm"),
             file);
    tool_process((const char *const[]){"/bin/sh", "-c", line, NULL}, NULL, &r);
    ck_assert_int_eq(r.rc, 2);
    ck_assert_msg(strstr(r.log, "ttm shapes: --svg: cannot write ") != NULL, "%s", r.log);
    tool_result_release(&r);
    char *text = read_file(file, NULL);
    ck_assert_str_eq(text, "another");
    free(text);
    ck_assert_int_eq(tool_entries(top), 1);
}
END_TEST

START_TEST(bad_arguments)
{
    REFUSED(cmd_shapes, "an argument is missing", "768");
    REFUSED(cmd_shapes, "C_IN: \"x\" is not a size", "x", "768");
    REFUSED(cmd_shapes, "C_OUT: \"0\" is not a size", "768", "0");
    REFUSED(cmd_shapes, "C_OUT: \"99999999999999999999\" is not a size", "768",
            "99999999999999999999");
    REFUSED(cmd_shapes, "--params: 2 is outside", "768", "768", "--params", "2");
    REFUSED(cmd_shapes, "--svg: cannot write", "64", "64", "--svg", "/nonexistent/a.svg");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("shapes");
    TCase *t = tcase_create("shapes");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, json_is_the_front);
    tcase_add_test(t, limits_hold);
    tcase_add_test(t, table_and_plot);
    tcase_add_test(t, ranks_end_at_their_limit);
    tcase_add_test(t, a_signal_ends_it);
    tcase_add_test(t, a_plot_is_whole_or_not_there);
    tcase_add_test(t, bad_arguments);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
