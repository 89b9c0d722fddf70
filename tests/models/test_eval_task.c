/* ttm eval --task against its definition: contexts written out here as the documentation has them,
 * logits of plain loops, log-softmax and counts in double. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/gpt2/tokenizer.h"
#include "models/eval_data.h"
#include "models/eval_metrics.h"
#include "tests/support/harness.h"
#include "tests/support/make_model.h"
#include "tests/support/naive_gpt2.h"
#include "tests/support/tool_call.h"

enum { VOCAB = 300, LONG = 160, SHORT = 24 };

static const char *text_file(const char *data, size_t len)
{
    const char *path = path_join(temp_dir(), "data");
    write_file(path, data, len);
    return path;
}

/* A model whose tokenizer knows a few words; the seed is one with which each task has answers of either
 * kind. */
static const char *model_dir(int positions)
{
    static const char text[] =
        "the cat saw the dog and the dog saw the cat and then no one saw the cat or the dog; yes, "
        "no, "
        "yes, no; True False True False; positive negative positive negative";
    const char *dir = path_join(temp_dir(), "m");
    struct tool_result r;
    TOOL(&r, cmd_tokenizer, "train", "--data", text_file(text, sizeof text - 1), "--vocab", "300",
         "-o", dir);
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    tool_result_release(&r);
    make_model(dir, &(struct make_model){.vocab = VOCAB, .positions = positions, .seed = 7});
    return dir;
}

/* ---- the definition ---- */

struct oracle {
    struct naive_gpt2 *m;
    struct tokenizer *t;
    size_t n_ctx, truncated; /* pairs that lost their beginning */
};

static void oracle_open(struct oracle *o, const char *dir, int positions)
{
    struct err err = {0};
    *o = (struct oracle){.m = naive_open(dir), .n_ctx = (size_t)positions};
    ck_assert_msg(tokenizer_open(&o->t, dir, &err) == 0, "%s", err.msg);
}

static void oracle_close(struct oracle *o)
{
    naive_free(o->m);
    tokenizer_close(o->t);
}

static double logprob(const float *row, int32_t id, bool *best)
{
    double sum = 0;
    *best = true;
    for (int v = 0; v < VOCAB; v++) {
        sum += exp((double)row[v] - (double)row[id]);
        if (row[v] > row[id]) *best = false;
    }
    return -log(sum);
}

static double likelihood(struct oracle *o, const char *context, const char *target, bool *greedy)
{
    struct tokens head = {0}, all = {0};
    char *whole = malloc(strlen(context) + strlen(target) + 1);
    size_t n = strlen(context);
    memcpy(whole, context, n);
    memcpy(whole + n, target, strlen(target) + 1);
    tokenizer_encode(o->t, context, n, true, &head);
    tokenizer_encode(o->t, whole, strlen(whole), true, &all);
    size_t cut = all.n > o->n_ctx + 1 ? all.n - o->n_ctx - 1 : 0;
    float *logits = malloc(all.n * VOCAB * sizeof *logits);
    naive_logits(o->m, all.ids + cut, (int)(all.n - cut - 1), logits, NULL, NULL);
    double sum = 0;
    *greedy = true;
    for (size_t i = head.n; i < all.n; i++) {
        bool best;
        sum += logprob(logits + (i - cut - 1) * VOCAB, all.ids[i], &best);
        *greedy = *greedy && best;
    }
    o->truncated += cut > 0;
    free(logits);
    free(whole);
    tokens_release(&head);
    tokens_release(&all);
    return sum;
}

static json_t *eval_json(const char *dir, const char *task, const char *file, const char *limit)
{
    json_t *j = RUN_JSON(cmd_eval, dir, "--task", task, "--data", file, "--json", "--threads", "2",
                         "--limit", limit);
    ck_assert_str_eq(json_string_value(json_object_get(j, "task")), task);
    return j;
}

/* ---- lambada ---- */

static const struct {
    const char *context, *word;
} passages[] = {
    {"the cat saw the", " the"},
    {"then the dog and the dog", " dog"},
    {"no one saw", " cat"},
    {"\"yes,\" the cat and", " and"},
    {"the dog saw the cat and the cat saw the dog and then no one saw the cat; True or False, yes "
     "or no, "
     "positive or negative",
     " yes"},
    {"a d\xc3\xa9j\xc3\xa0 vu", " vu"},
};
enum { N_PASSAGES = sizeof passages / sizeof *passages, N_ITEMS = N_PASSAGES + 1, ESCAPED = 3 };

/* A passage whose last word greedy generation gives: two words after which the most probable token
 * is a word. */
static void guessable(struct oracle *o, char context[64], char word[64])
{
    size_t n, m, w;
    for (int32_t i = 256; i < VOCAB - 1; i++) {
        for (int32_t j = 256; j < VOCAB - 1; j++) {
            const char *p = tokenizer_bytes(o->t, i, &n), *q = tokenizer_bytes(o->t, j, &m);
            if (*p != ' ' || *q != ' ') continue;
            float logits[2 * VOCAB];
            naive_logits(o->m, (const int32_t[]){i, j}, 2, logits, NULL, NULL);
            int32_t best = 0;
            for (int32_t v = 1; v < VOCAB; v++)
                if (logits[VOCAB + v] > logits[VOCAB + best]) best = v;
            const char *r = tokenizer_bytes(o->t, best, &w);
            if (w < 2 || *r != ' ') continue;
            snprintf(context, 64, "%.*s%.*s", (int)n, p, (int)m, q);
            snprintf(word, 64, "%.*s", (int)w, r);
            return;
        }
    }
    ck_abort_msg("no word is probable after any two");
}

START_TEST(lambada)
{
    int positions = _i ? SHORT : LONG;
    const char *dir = model_dir(positions);
    struct oracle o;
    struct buf file = {0};
    size_t right = 0;
    double sum = 0, sq = 0;
    oracle_open(&o, dir, positions);
    char context[64], word[64];
    guessable(&o, context, word);
    for (int i = 0; i < N_ITEMS; i++) {
        const char *c = i < N_PASSAGES ? passages[i].context : context;
        const char *w = i < N_PASSAGES ? passages[i].word : word;
        bool greedy;
        buf_printf(&file, "{\"text\": \"%s%s\"}\n", i == ESCAPED ? "\\\"yes,\\\" the cat and" : c,
                   w);
        double nll = -likelihood(&o, c, w, &greedy);
        sum += nll;
        sq += nll * nll;
        right += greedy;
    }
    ck_assert(right > 0 && right < N_ITEMS); /* otherwise it shows nothing */
    ck_assert_int_eq(o.truncated > 0, positions == SHORT);
    double n = N_ITEMS, mean = sum / n, p = (double)right / n;
    json_t *j = eval_json(dir, "lambada", text_file(file.data, file.len), "100");
    ck_assert_uint_eq((size_t)tool_number(j, "items"), N_ITEMS);
    ck_assert_uint_eq((size_t)tool_number(j, "truncated"), o.truncated);
    assert_close(tool_number(j, "accuracy"), p, 0, 1e-12);
    assert_close(tool_number(j, "accuracy_stderr"), sqrt(p * (1 - p) / (n - 1)), 0, 1e-12);
    assert_close(tool_number(j, "nll_mean"), mean, 0, 1e-5);
    assert_close(tool_number(j, "perplexity"), exp(mean), 0, 1e-4);
    assert_close(tool_number(j, "nll_stderr"), sqrt((sq - n * mean * mean) / (n - 1) / n), 0, 1e-4);
    json_decref(j);
    buf_release(&file);
    oracle_close(&o);
}
END_TEST

/* ---- GLUE ---- */

static const char *const sentences[] = {
    "the cat saw the dog",  "no one saw",     "yes, yes, yes",
    "the dog and the cat ", "True",           "then no dog saw the cat",
    "False or True",        "a negative cat", "positive",
    "\"quoted\" dog",
};
enum { N_SENTENCES = sizeof sentences / sizeof *sentences };

static const struct {
    const char *task, *header, *row, *context; /* %1$s a sentence, %2$s the next, %3$s the label */
    const char *truth[2], *labels[2];
} glue[] = {
    {"sst2",
     "sentence\tlabel\n",
     "%1$s\t%3$s\n",
     "%1$s\nQuestion: Is this sentence positive or negative?\nAnswer:",
     {"0", "1"},
     {" negative", " positive"}},
    {"rte",
     "index\tsentence1\tsentence2\tlabel\n",
     "7\t%1$s\t%2$s\t%3$s\n",
     "%1$s\nQuestion: %2$s True or False?\nAnswer:",
     {"not_entailment", "entailment"},
     {" False", " True"}},
    {"mrpc",
     "\xef\xbb\xbfQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n",
     "%3$s\t1\t2\t%1$s\t%2$s\r\n",
     "Sentence 1: %1$s\nSentence 2: %2$s\nQuestion: Do both sentences mean the same thing?\n"
     "Answer:",
     {"0", "1"},
     {" no", " yes"}},
    {"cola",
     "",
     "gj04\t%3$s\t*\t%1$s\n",
     "%1$s\nQuestion: Does this sentence make sense?\nAnswer:",
     {"0", "1"},
     {" no", " yes"}},
};
enum { N_GLUE = sizeof glue / sizeof *glue };

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static void put(struct buf *out, const char *format, int i, const char *label)
{
    char line[512];
    (void)snprintf(line, sizeof line, format, sentences[i], sentences[(i + 1) % N_SENTENCES],
                   label);
    buf_puts(out, line);
}
#pragma GCC diagnostic pop

/* Every third label is wrong, so that all cells of the table can be filled. */
START_TEST(label_words)
{
    const char *dir = model_dir(LONG);
    struct oracle o;
    struct buf file = {0}, context = {0};
    double cell[2][2] = {{0}}, n = N_SENTENCES;
    oracle_open(&o, dir, LONG);
    buf_puts(&file, glue[_i].header);
    for (int i = 0; i < N_SENTENCES; i++) {
        bool greedy;
        buf_clear(&context);
        put(&context, glue[_i].context, i, "");
        double no = likelihood(&o, context.data, glue[_i].labels[0], &greedy);
        double yes = likelihood(&o, context.data, glue[_i].labels[1], &greedy);
        int says = yes > no, truth = i % 3 == 0 ? !says : says;
        put(&file, glue[_i].row, i, glue[_i].truth[truth]);
        cell[truth][says]++;
    }
    double tn = cell[0][0], fp = cell[0][1], fn = cell[1][0], tp = cell[1][1];
    double product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn);
    ck_assert_msg(tp + fp > 0 && tn + fn > 0, "the model always says the same");
    json_t *j = eval_json(dir, glue[_i].task, text_file(file.data, file.len), "1000");
    ck_assert_uint_eq((size_t)tool_number(j, "items"), N_SENTENCES);
    ck_assert_uint_eq((size_t)tool_number(j, "truncated"), 0);
    assert_close(tool_number(j, "accuracy"), (tp + tn) / n, 0, 1e-12);
    assert_close(tool_number(j, "f1"), tp > 0 ? 2 * tp / (2 * tp + fp + fn) : 0, 1e-12, 1e-12);
    assert_close(tool_number(j, "mcc"), product > 0 ? (tp * tn - fp * fn) / sqrt(product) : 0,
                 1e-12, 1e-12);
    assert_close(tool_number(j, "majority"), fmax(tp + fn, tn + fp) / n, 0, 1e-12);
    json_decref(j);
    j = eval_json(dir, glue[_i].task, text_file(file.data, file.len), "4");
    ck_assert_uint_eq((size_t)tool_number(j, "items"), 4);
    json_decref(j);
    buf_release(&file);
    buf_release(&context);
    oracle_close(&o);
}
END_TEST

START_TEST(metrics)
{
    struct binary_counts c = {.counts = {{3, 1}, {2, 4}}};
    struct binary_metrics m;
    binary_metrics(&c, &m);
    ck_assert_uint_eq(m.n, 10);
    assert_close(m.accuracy, 0.7, 0, 1e-15);
    assert_close(m.f1, 8.0 / 11, 0, 1e-15);
    assert_close(m.mcc, 10 / sqrt(600), 0, 1e-15);
    assert_close(m.majority, 0.6, 0, 1e-15);
    c = (struct binary_counts){0}; /* undefined is 0 */
    binary_metrics(&c, &m);
    ck_assert(m.n == 0 && m.accuracy == 0 && m.f1 == 0 && m.mcc == 0);
    binary_add(&c, 0, 0);
    binary_metrics(&c, &m);
    ck_assert(m.accuracy == 1 && m.accuracy_stderr == 0 && m.f1 == 0 && m.mcc == 0);
}
END_TEST

/* ---- the published files ---- */

static const struct {
    const char *task, *file;
    size_t n, positive;
} published[] = {
    {"lambada", "data/lambada/lambada_test.jsonl", 5153, 0},
    {"sst2", "data/glue/SST-2/dev.tsv", 872, 444},
    {"rte", "data/glue/RTE/dev.tsv", 277, 146},
    {"mrpc", "data/glue/MRPC/dev.tsv", 408, 279},
    {"cola", "data/glue/CoLA/dev.tsv", 1043, 721},
};
enum { N_PUBLISHED = sizeof published / sizeof *published };

START_TEST(reads_the_published_files)
{
    struct eval_items items;
    struct err err = {0};
    size_t positive = 0;
    int rc = eval_items_read(&items, published[_i].task, shared_path(published[_i].file),
                             EVAL_PROMPT, 0, &err);
    ck_assert_msg(rc == 0, "%s", err.msg);
    for (size_t i = 0; i < items.n; i++) {
        positive += items.list[i].label == 1;
        ck_assert_uint_gt(strlen(items.list[i].context), 0);
        ck_assert((items.list[i].target != NULL) == (items.labels == NULL));
    }
    ck_assert_uint_eq(items.n, published[_i].n);
    ck_assert_uint_eq(positive, published[_i].positive);
    eval_items_release(&items);
}
END_TEST

/* ---- refusals, and the table ---- */

#define BAD(says, task, text) \
    REFUSED(cmd_eval, says, "x", "--task", task, "--data", text_file(text, sizeof text - 1))

START_TEST(refuses_by_name)
{
    const char *file = text_file("the a", 5);
    REFUSED(cmd_eval, "--task: \"glue\" is not one of lambada|sst2|", "x", "--task", "glue");
    REFUSED(cmd_eval, "--data is missing", "x", "--task", "rte");
    static const char *const of_text[][2] = {{"text", "x"},      {"compare", "x"},
                                             {"window", "8"},    {"stride", "4"},
                                             {"prefix", "none"}, {"max-tokens", "9"}};
    for (size_t i = 0; i < sizeof of_text / sizeof *of_text; i++) {
        char flag[32], says[64];
        snprintf(flag, sizeof flag, "--%s", of_text[i][0]);
        snprintf(says, sizeof says, "--task goes without %s", flag);
        REFUSED(cmd_eval, says, "x", "--task", "rte", "--data", file, flag, of_text[i][1]);
    }
    REFUSED(cmd_eval, "--data goes with --task", "x", "--data", file);
    REFUSED(cmd_eval, "--limit goes with --task", "x", "--text", file, "--limit", "3");
    REFUSED(cmd_eval, "cannot open", "x", "--task", "rte", "--data", "/nonexistent/x");
    BAD("has no items", "cola", "");
    BAD("line 1 is not JSON", "lambada", "the a\n");
    BAD("line 2 has no string \"text\"", "lambada", "{\"text\": \"a b\"}\n{\"txt\": 1}\n");
    BAD("line 1: the text has no last word", "lambada", "{\"text\": \"ab\"}\n");
    BAD("line 1: the text has no last word", "lambada", "{\"text\": \"ab \"}\n");
    BAD("line 1 is \"a?b\", expected the header of sst2", "sst2", "a\tb\n");
    BAD("line 3 has 1 columns, expected the 2 of sst2", "sst2", "sentence\tlabel\na\t1\nb\n");
    BAD("line 1 has 9 columns, expected the 4 of cola", "cola", "1\t2\t3\t4\t5\t6\t7\t8\t9\n");
    BAD("line 2: the label in column 2 is \"2\", expected 0 or 1", "sst2",
        "sentence\tlabel\na\t2\n");
    BAD("has a NUL byte", "cola", "a\t1\t\tb\0c\n");
    BAD("is not UTF-8", "cola", "a\t1\t\t\xff\n");
    const char *dir = model_dir(SHORT);
    char text[128];
    memset(text, 'q', sizeof text); /* more tokens than the context has */
    memcpy(text, "{\"text\": \"a q", 12);
    memcpy(text + 125, "\"}", 2);
    REFUSED(cmd_eval, "pair 1 has 1 tokens of context and", dir, "--task", "lambada", "--data",
            text_file(text, 127));
}
END_TEST

START_TEST(prints_tables)
{
    const char *dir = model_dir(SHORT);
    struct tool_result r;
    TOOL(&r, cmd_eval, dir, "--task", "cola", "--data", text_file("a\t1\t\tthe cat", 12));
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    ck_assert_ptr_nonnull(strstr(r.out, "cola, zero-shot, 1 items, 1 of them cut to the context"));
    ck_assert_ptr_nonnull(strstr(r.out, "MCC"));
    tool_result_release(&r);
    TOOL(&r, cmd_eval, dir, "--task=lambada", "--data", text_file("{\"text\": \"a b\"}", 15));
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    ck_assert_ptr_nonnull(strstr(r.out, "of the last word"));
    tool_result_release(&r);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("eval_task");
    TCase *t = tcase_create("eval_task");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, lambada, 0, 2);
    tcase_add_loop_test(t, label_words, 0, N_GLUE);
    tcase_add_test(t, metrics);
    for (int i = 0; i < N_PUBLISHED; i++) {
        if (shared_path(published[i].file))
            tcase_add_loop_test(t, reads_the_published_files, i, i + 1);
        else
            skip("reads_the_published_files", published[i].file);
    }
    tcase_add_test(t, refuses_by_name);
    tcase_add_test(t, prints_tables);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
