/* The experiments' scripts, at a size that takes a second: every run is made, the tables hold the figures
 * of the files they are said to come from, and the same command given again repeats nothing. */
#include <stdlib.h>
#include <sys/stat.h>

#include "models/experiments/ngram.h"
#include "models/input.h"
#include "tests/models/train/train_testing.h"
#include "tests/support/make_model.h"

enum { MODELS = 7 };

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)) != NULL; at++)
        n++;
    return n;
}

static void paper_table(const char *dir, struct tool_result *r)
{
    struct train_files files = train_files();
    const char *args[] = {"/usr/bin/env",
                          "VOCAB=260",
                          "LAYERS=1",
                          "CHANNELS=48",
                          "HEADS=2",
                          "BLOCK=16",
                          "BATCH=2",
                          "models/experiments/paper_table",
                          "-t",
                          build_path("ttm"),
                          "-d",
                          files.data,
                          "-v",
                          files.valid,
                          "-o",
                          dir,
                          "-s",
                          "2",
                          "-p",
                          "1",
                          NULL};
    tool_process(args, NULL, r);
    ck_assert_msg(r->rc == 0, "%d: %s", r->rc, r->log);
}

/* Of a row through the two layers, of dense: plans follow from rates, which differ from run to run. */
static double planned_mults(const char *inspect)
{
    json_t *j = json_load_file(inspect, 0, NULL), *layer;
    size_t i;
    double sum = 0;
    ck_assert_ptr_nonnull(j);
    json_array_foreach(json_object_get(j, "ttm_layers"), i, layer)
    {
        json_t *one = json_object_get(json_object_get(layer, "plans"), "decode_1");
        sum += json_number_value(json_object_get(one, "multiplications"));
    }
    ck_assert_uint_eq(json_array_size(json_object_get(j, "ttm_layers")), 2);
    json_decref(j);
    return sum / (2 * 48 * 192);
}

START_TEST(paper_table_is_made)
{
    const char *dir = temp_dir();
    struct tool_result r;
    paper_table(dir, &r);
    ck_assert_int_eq(count(r.log, "steps --tokenizer"), MODELS);
    ck_assert_int_eq(count(r.log, "steps --from"), 2);
    ck_assert_int_eq(count(r.out, "\n| "), MODELS + 5); /* not the first heading */
    /* wte 260 x 48, wpe 16 x 48, the block, the last norm */
    int block = 12 * 48 * 48 + 13 * 48, rest = 276 * 48 + 96;
    char row[160];
    snprintf(row, sizeof row, "| dense |  | %d | 1.00 | 1.00 | ", block + rest);
    ck_assert_ptr_nonnull(strstr(r.out, row));
    /* 96 of 48 x 192 for each of 10 ranks; 240 in, 192 x 10 out */
    double mults = planned_mults(path_join(dir, "low-rank/inspect.json"));
    ck_assert_double_ge(mults, 0.26); /* 2 x 2400 of 2 x 9216 */
    snprintf(row, sizeof row, "| low-rank | (1,192)(48,1) R 10 | %d | 0.67 | %.2f | ",
             block + rest - 2 * 48 * 192 + 2 * 2400, mults);
    ck_assert_ptr_nonnull(strstr(r.out, row));
    snprintf(row, sizeof row, "| cheap | (4,32)(12,6) R 12 | %d |",
             block + rest - 2 * 48 * 192 + 4800);
    ck_assert_ptr_nonnull(strstr(r.out, row));
    char *svg = read_file(path_join(dir, "table.svg"), NULL),
         *eval = read_file(path_join(dir, "ttm-16/eval.json"), NULL);
    ck_assert_int_eq(count(svg, "<polyline"), 4);
    char *at = strstr(eval, " \"perplexity\": ");
    ck_assert_ptr_nonnull(at);
    snprintf(row, sizeof row, "| %.2f | ", strtod(at + 15, NULL));
    ck_assert_ptr_nonnull(strstr(strstr(r.out, "| ttm-16 |"), row));
    free(svg);
    free(eval);
    struct tool_result again;
    paper_table(dir, &again);
    ck_assert_str_eq(again.out, r.out);
    ck_assert_str_eq(again.log, "");
    tool_result_release(&again);
    tool_result_release(&r);
}
END_TEST

START_TEST(paper_table_wants_data)
{
    struct tool_result r;
    const char *const args[] = {"models/experiments/paper_table", "-o", "/nonexistent", NULL};
    tool_process(args, NULL, &r);
    ck_assert_int_eq(r.rc, 2);
    ck_assert_ptr_nonnull(strstr(r.out, "-d train.txt -v valid.txt -o DIR"));
    tool_result_release(&r);
}
END_TEST

/* A model of random weights has a card, too, and is said to be no good. */
START_TEST(model_card_says_what_is_wrong)
{
    const char *dir = temp_dir();
    char build[1024], bits[80];
    struct err err = {0};
    struct train_files files = train_files();
    struct tool_result r;
    make_model(dir, &(struct make_model){.vocab = 300, .positions = 32, .seed = 5});
    ck_assert_msg(tokenizer_write_bytes(dir, 300, &err) == 0, "%s", err.msg);
    snprintf(build, sizeof build, "%s", build_path(""));
    const char *args[] = {"models/experiments/model_card",
                          dir,
                          "-d",
                          files.data,
                          "-v",
                          files.valid,
                          "-e",
                          files.valid,
                          "-b",
                          build,
                          "-n",
                          "4",
                          NULL};
    tool_process(args, NULL, &r);
    ck_assert_msg(r.rc == 1, "%d: %s", r.rc, r.log);
    ck_assert_str_eq(r.log, "model_card: no better than byte 5-grams\n");
    struct buf text = {0}, valid = {0};
    ck_assert_int_eq(input_read(files.data, &text, &err), 0);
    ck_assert_int_eq(input_read(files.valid, &valid, &err), 0);
    struct ngram *m = ngram_new(5, text.data, text.len, NULL);
    double x = ngram_bits(m, valid.data, valid.len, NULL) / (double)valid.len;
    snprintf(bits, sizeof bits, "| bits per byte of byte 5-grams | %.3f | %.3f |", x, x);
    ck_assert_msg(strstr(r.out, bits) != NULL, "%s", r.out);
    ck_assert_ptr_nonnull(strstr(r.out, "\n4 samples"));
    ck_assert_int_eq(count(r.out, "> Once upon a time"), 3);
    ngram_free(m);
    buf_release(&text);
    buf_release(&valid);
    tool_result_release(&r);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("experiments");
    TCase *t = tcase_create("experiments");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, paper_table_is_made);
    tcase_add_test(t, paper_table_wants_data);
    tcase_add_test(t, model_card_says_what_is_wrong);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
