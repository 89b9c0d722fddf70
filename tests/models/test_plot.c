/* ttm plot: what the log says is in the picture, at the right pixels; logs cut short are drawn, others
 * refused. And the numbers and axes that all plots share. */
#include <math.h>

#include "models/svg.h"
#include "tests/models/rewrite_testing.h"

static const char *run_dir(const char *log)
{
    const char *dir = temp_dir();
    write_file(path_join(dir, "log.jsonl"), log, strlen(log));
    return dir;
}

#define STEP(s, loss, tokens) \
    "{\"step\": " s ", \"loss\": " loss ", \"lr\": 1, \"tokens\": " tokens "}\n"
#define VALID(s, loss) "{\"step\": " s ", \"valid_loss\": " loss "}\n"

static char *plot(const char *log, const char *title)
{
    const char *dir = run_dir(log), *file = path_join(dir, "loss.svg");
    free(RUN(cmd_plot, dir, "-o", file, "--title", title));
    char *svg = read_file(file, NULL);
    ck_assert_int_eq(strncmp(svg, "<svg ", 5), 0);
    ck_assert_str_eq(svg + strlen(svg) - 7, "</svg>\n");
    ck_assert_ptr_null(strstr(svg, "nan"));
    ck_assert_ptr_null(strstr(svg, "inf"));
    ck_assert_int_eq(tool_entries(dir), 2);
    return svg;
}

/* The point of a mark "<circle cx= cy=", and the k-th point of a list after `mark`. */
static void point_of(const char *svg, const char *mark, int k, double out[2])
{
    const char *at = strstr(svg, mark);
    ck_assert_msg(at != NULL, "%s", mark);
    at = strstr(at, "points=\"");
    ck_assert_ptr_nonnull(at);
    at += 8;
    for (; k > 0; k--)
        at = strchr(at, ' ') + 1;
    char *end;
    out[0] = strtod(at, &end);
    ck_assert_int_eq(*end, ',');
    out[1] = strtod(end + 1, NULL);
}

START_TEST(curves_are_the_log)
{
    char *svg =
        plot(STEP("1", "9", "10000") STEP("2", "4", "500000") STEP("3", "3", "900000")
                 VALID("3", "3.5") STEP("4", "2", "1000000") VALID("4", "2.5") STEP("5", "7", "10"),
             "a <b> & c");
    ck_assert_ptr_nonnull(strstr(svg, ">a &lt;b&gt; &amp; c<"));
    ck_assert_ptr_nonnull(strstr(svg, ">best 2.5000<"));
    ck_assert_ptr_nonnull(strstr(svg, ">perplexity 12.18<"));
    ck_assert_ptr_nonnull(strstr(svg, ">at 1M tokens<"));
    free(svg);
    svg = plot(STEP("1", "9", "10000") STEP("2", "4", "500000") STEP("3", "3", "900000")
                   VALID("3", "3.5") STEP("4", "2", "1000000") VALID("4", "2.5"),
               "t");
    double first[2], half[2], last[2], valid[2];
    point_of(svg, "<polyline", 0, first);
    point_of(svg, "<polyline", 1, half);
    point_of(svg, "<polyline", 3, last);
    point_of(svg, "stroke-width=\"2\" points", 0, valid);
    assert_close(half[0], (SVG_LEFT + SVG_WIDTH - SVG_RIGHT) / 2.0, 0.1, 0);
    assert_close(last[0], SVG_WIDTH - SVG_RIGHT, 0.1, 0);
    ck_assert(first[1] < SVG_TOP); /* the first fiftieth of the tokens is cut off, */
    ck_assert_ptr_nonnull(strstr(svg, "<g clip-path=\"url(#frame)\">"));
    ck_assert(half[1] > SVG_TOP && last[1] < SVG_HEIGHT - SVG_BOTTOM); /* the others are inside */
    assert_close(valid[1], half[1] + (last[1] - half[1]) / 4, 0.2, 0); /* 3.5 of 4 to 2 */
    ck_assert_ptr_nonnull(strstr(svg, ">400k<"));
    ck_assert_ptr_nonnull(strstr(svg, ">tokens<"));
    ck_assert_ptr_nonnull(strstr(svg, ">loss, nats per token<"));
    free(svg);
}
END_TEST

START_TEST(short_runs)
{
    char *svg = plot(STEP("1", "5", "2048"), "one");
    ck_assert_ptr_null(strstr(svg, "validation"));
    free(svg);
    svg = plot(STEP("1", "5", "2048") VALID("1", "5") "{\"step\": 2, \"lo", "cut short");
    ck_assert_ptr_nonnull(strstr(svg, ">best 5.0000<"));
    free(svg);
    free(plot(VALID("0", "5") STEP("1", "0", "0"), "nothing at all"));
}
END_TEST

START_TEST(long_runs_stay_small)
{
    struct buf b = {0};
    for (int i = 1; i <= 20000; i++)
        buf_printf(&b, STEP("%d", "%.6f", "%d"), i, 2 + 5.0 / i + 0.1 * (i % 7), i * 2048);
    buf_putc(&b, 0);
    char *svg = plot(b.data, "long");
    ck_assert_uint_lt(strlen(svg), 20000);
    free(svg);
    buf_release(&b);
}
END_TEST

START_TEST(refuses_by_name)
{
    const char *dir = run_dir(STEP("1", "5", "2048"));
    REFUSED(cmd_plot, "--out is missing", dir);
    REFUSED(cmd_plot, "an argument is missing", "-o", "x");
    REFUSED(cmd_plot, "/nonexistent/log.jsonl", "/nonexistent", "-o", "x");
    REFUSED(cmd_plot, "cannot write /nonexistent/a.svg", dir, "-o", "/nonexistent/a.svg");
    REFUSED(cmd_plot, "has no step yet", run_dir(""), "-o", "x");
    static const char *const bad[] = {"no json\n",
                                      "[1]\n",
                                      "{\"step\": 2}\n",
                                      "{\"loss\": \"3\", \"tokens\": 5}\n",
                                      "{\"loss\": -1, \"tokens\": 5}\n",
                                      "{\"loss\": 1}\n",
                                      "\n",
                                      "{\"valid_loss\": null}\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct buf b = {0};
        buf_printf(&b, "%s%s%c", STEP("1", "5", "2048"), bad[i], 0);
        REFUSED(cmd_plot, "log.jsonl: line 2 is none of a training log", run_dir(b.data), "-o",
                "x");
        buf_release(&b);
    }
}
END_TEST

START_TEST(numbers_are_short)
{
    static const struct {
        double v;
        const char *text;
    } cases[] = {{0, "0"},         {1e-12, "0"}, {0.25, "0.25"},  {999, "999"}, {1000, "1k"},
                 {-2500, "-2.5k"}, {4e7, "40M"}, {1.5e9, "1.5G"}, {2e12, "2T"}, {5e15, "5000T"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[24];
        svg_number(text, cases[i].v);
        ck_assert_str_eq(text, cases[i].text);
    }
}
END_TEST

/* However an axis lies, it has a few labels, inside the frame. */
START_TEST(axes_have_labels)
{
    for (double size = 1e-3; size < 1e13; size *= 1.7)
        for (int from = 0; from < 2; from++) {
            struct buf b = {0};
            struct svg_plot p = {.out = &b,
                                 .x = {.lo = from * size, .hi = (from + 1) * size, .label = "x"},
                                 .y = {.lo = 1, .hi = 10, .log = true, .label = "y"}};
            int labels = 0;
            svg_begin(&p, "t");
            svg_end(&p);
            buf_putc(&b, 0);
            char low[32];
            snprintf(low, sizeof low, "y=\"%.1f\" text-anchor=\"middle\"", p.y.from + 20);
            for (const char *s = b.data; (s = strstr(s, low)) != NULL; s++)
                labels++;
            ck_assert_msg(labels >= 3 && labels <= 11, "%g: %d", size, labels);
            assert_close(svg_at(&p.x, p.x.lo), SVG_LEFT, 1e-6, 0);
            assert_close(svg_at(&p.x, p.x.hi), SVG_WIDTH - SVG_RIGHT, 1e-6, 0);
            assert_close(svg_at(&p.y, sqrt(10)), (p.y.from + p.y.to) / 2, 1e-6, 0);
            buf_release(&b);
        }
    ck_assert_str_eq(svg_colour(0), svg_colour(8));
    ck_assert_str_ne(svg_colour(0), svg_colour(1));
}
END_TEST

static char *plot_points(const char *text, const char *flag)
{
    const char *dir = temp_dir(), *file = path_join(dir, "points.tsv"),
               *svg = path_join(dir, "points.svg");
    write_file(file, text, strlen(text));
    if (flag)
        free(RUN(cmd_plot, file, "-o", svg, flag));
    else
        free(RUN(cmd_plot, file, "-o", svg));
    return read_file(svg, NULL);
}

START_TEST(tables_are_points)
{
    double at[2], last[2];
    char *svg = plot_points(
        "what\tclients\ttokens/s & more\n"
        "dense\t0\t50\n<b>\t5\t75\there\ndense\t10\t100\n",
        NULL);
    ck_assert_ptr_nonnull(strstr(svg, ">tokens/s &amp; more<"));
    ck_assert_ptr_nonnull(strstr(svg, ">&lt;b&gt;<"));
    ck_assert_ptr_nonnull(strstr(svg, ">here<"));
    point_of(svg, "<polyline", 0, at); /* x from 0 to 10.6, y from 0 to 103 */
    point_of(svg, "<polyline", 1, last);
    double wide = SVG_WIDTH - SVG_LEFT - SVG_RIGHT, high = SVG_HEIGHT - SVG_TOP - SVG_BOTTOM;
    assert_close(at[0], SVG_LEFT, 0.1, 0);
    assert_close(last[0], SVG_LEFT + wide * 10 / 10.6, 0.1, 0);
    assert_close(at[1], SVG_HEIGHT - SVG_BOTTOM - high * 50 / 103, 0.1, 0);
    assert_close(last[1], SVG_HEIGHT - SVG_BOTTOM - high * 100 / 103, 0.1, 0);
    free(svg);
    svg = plot_points("\tx\ty\na\t1\t5\na\t10\t6\na\t100\t7", "--log-x");
    double mid[2];
    point_of(svg, "<polyline", 0, at);
    point_of(svg, "<polyline", 1, mid);
    point_of(svg, "<polyline", 2, last);
    assert_close(mid[0], (at[0] + last[0]) / 2, 0.15, 0);
    free(svg);
    free(plot_points("\tx\ty\na\t-3\t0\n", NULL)); /* one point, no span */
}
END_TEST

START_TEST(refuses_bad_tables)
{
    static const struct {
        const char *text, *why;
    } cases[] = {{"", "has no points"},
                 {"\tx\ty\n", "has no points"},
                 {"x y\na\t1\t2\n", "line 1 has no three fields"},
                 {"\tx\ty\na\t1\n", "line 2 is none of a table"},
                 {"\tx\ty\na\t1\t2\tb\tc\n", "line 2 is none of a table"},
                 {"\tx\ty\na\t1\t2\na\t1\tnan\n", "line 3 is none of a table"},
                 {"\tx\ty\na\t1\t2z\n", "line 2 is none of a table"},
                 {"\tx\ty\na\t0\t2\n", "above 0 on a logarithmic axis"},
                 {"\tx\ty\n\xff\t1\t2\n", "UTF-8"}};
    const char *dir = temp_dir(), *file = path_join(dir, "t");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(file, cases[i].text, strlen(cases[i].text));
        REFUSED(cmd_plot, cases[i].why, file, "-o", "x", "--log-x");
    }
    struct buf b = {0};
    buf_puts(&b, "\tx\ty\n");
    for (int i = 0; i < 17; i++)
        buf_printf(&b, "%d\t1\t1\n", i);
    write_file(file, b.data, b.len);
    REFUSED(cmd_plot, "begins series 17, at most 16", file, "-o", "x");
    buf_release(&b);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("plot");
    TCase *t = tcase_create("plot");
    tcase_add_test(t, curves_are_the_log);
    tcase_add_test(t, short_runs);
    tcase_add_test(t, long_runs_stay_small);
    tcase_add_test(t, refuses_by_name);
    tcase_add_test(t, numbers_are_short);
    tcase_add_test(t, axes_have_labels);
    tcase_add_test(t, tables_are_points);
    tcase_add_test(t, refuses_bad_tables);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
