/* ttm train --task and ttm eval of what it makes: a task that can be learnt is learnt, the figures are
 * those of the definition (plain loops in double over the last token's hidden state), and rows of the
 * head are told apart by the names in config.json. */
#include <math.h>
#include <unistd.h>

#include "models/train/items.h"
#include "tests/models/train/naive_train.h"
#include "tests/models/train/train_testing.h"

static const char *tokenizer;

static void setup(void)
{
    tokenizer = train_files().tokenizer;
}

/* A task whose answer is a sign somewhere in the text. */
enum { MOST = 200 };
struct task_file {
    const char *path;
    char text[MOST][64];
    int label[MOST], n;
};

static struct task_file task_file(const char *task, uint64_t seed, int n)
{
    static const char letters[] = "abcdef ";
    bool pair = !strcmp(task, "rte");
    struct task_file f = {.path = path_join(temp_dir(), "task.tsv"), .n = n};
    struct buf b = {0};
    buf_puts(&b, pair ? "index\tsentence1\tsentence2\tlabel\n" : "sentence\tlabel\n");
    for (int i = 0; i < n; i++) {
        char word[16];
        uint32_t r[4];
        rng_bits(seed, 0, (uint64_t)i, r);
        size_t len = 3 + r[0] % 8;
        for (size_t k = 0; k < len; k++)
            word[k] = letters[(r[1] >> 3 * k) % 7];
        word[r[2] % len] = (f.label[i] = r[3] & 1) ? '+' : '-';
        word[len] = 0;
        if (pair)
            buf_printf(&b, "%d\tabc\t%s\t%sentailment\n", i, word, f.label[i] ? "" : "not_");
        else
            buf_printf(&b, "%s\t%d\n", word, f.label[i]);
        snprintf(f.text[i], sizeof f.text[i], "%s%s", pair ? "abc\n" : "", word);
    }
    write_file(f.path, b.data, b.len);
    buf_release(&b);
    return f;
}

#define TINY                                                                                  \
    "--layers", "1", "--channels", "16", "--heads", "2", "--positions", "32", "--batch", "8", \
        "--threads", "2", "--warmup", "0", "--tokenizer", tokenizer
#define NEW_DIR(name) path_join(temp_dir(), (name))

static const char *learn(const char *task, const struct task_file *train,
                         const struct task_file *valid)
{
    const char *dir = NEW_DIR("m");
    free(RUN(cmd_train, TINY, "--task", task, "--data", train->path, "--valid", valid->path, "-o",
             dir, "--steps", "120", "--lr", "1e-2", "--eval-every", "40", "--ttm-rank", "4"));
    return dir;
}

/* Counts [truth][answer] of a classifier whose row `first` is label 0. */
static void answers(const char *dir, const struct task_file *f, int first, double cell[2][2])
{
    struct net net;
    float *w;
    struct tokenizer *tok;
    ck_assert_int_eq(net_open(&net, &w, dir, 2, NULL), 0);
    ck_assert_int_eq(tokenizer_open(&tok, dir, NULL), 0);
    double *wide = mem_alloc(net.floats * sizeof *wide);
    for (size_t i = 0; i < net.floats; i++)
        wide[i] = (double)w[i];
    for (int i = 0; i < f->n; i++) {
        struct tokens t = {0};
        double out[32 * 2];
        tokenizer_encode(tok, f->text[i], strlen(f->text[i]), false, &t);
        naive_log_softmax(&net, wide, t.ids, t.n, 1, out);
        const double *last = out + 2 * (t.n - 1);
        cell[f->label[i]][first ^ (last[1] > last[0])]++;
        tokens_release(&t);
    }
    free(wide);
    mem_unmap(w, net.floats * sizeof *w);
    net_release(&net);
    tokenizer_close(tok);
}

static json_t *eval_json(const char *dir, const char *task, const struct task_file *f)
{
    json_t *j = RUN_JSON(cmd_eval, dir, "--task", task, "--data", f->path, "--json", "--max-batch",
                         "7", "--threads", "2");
    ck_assert_str_eq(json_string_value(json_object_get(j, "head")), "fine-tuned");
    ck_assert_int_eq((int)tool_number(j, "items"), f->n);
    return j;
}

/* Edits config.json: every `from` becomes `to`, of the same length. */
static void rename_labels(const char *dir, const char *from, const char *to)
{
    const char *path = path_join(dir, "config.json");
    size_t n;
    char *text = read_file(path, &n);
    int found = 0;
    for (char *p = text; (p = strstr(p, from)) != NULL; found++)
        memcpy(p, to, strlen(to));
    ck_assert_int_gt(found, 0);
    write_file(path, text, n);
    free(text);
}

static double accuracy(const char *dir, const char *task, const struct task_file *f)
{
    json_t *j = eval_json(dir, task, f);
    double a = tool_number(j, "accuracy");
    json_decref(j);
    return a;
}

START_TEST(a_task_is_learnt)
{
    const char *task = _i ? "rte" : "sst2";
    struct task_file train = task_file(task, 1, MOST), valid = task_file(task, 2, 60);
    const char *dir = learn(task, &train, &valid);
    double c[2][2] = {{0}};
    answers(dir, &valid, _i, c); /* RTE's row 0 is entailment, label 1, as published */
    double n = valid.n, tp = c[1][1], tn = c[0][0], fp = c[0][1], fn = c[1][0];
    ck_assert_double_gt(tp + tn, 0.9 * n);
    json_t *j = eval_json(dir, task, &valid);
    assert_close(tool_number(j, "accuracy"), (tp + tn) / n, 0, 1e-12);
    assert_close(tool_number(j, "f1"), 2 * tp / (2 * tp + fp + fn), 0, 1e-12);
    assert_close(tool_number(j, "mcc"),
                 (tp * tn - fp * fn) / sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)), 0,
                 1e-12);
    json_decref(j);
    char *log = train_log(dir), *best = log;
    double least = INFINITY, right = 0;
    for (int k = 0; k < 3; k++)
        if (train_logged(best, "valid_loss", k) < least) {
            least = train_logged(best, "valid_loss", k);
            right = train_logged(best, "accuracy", k);
        }
    assert_close(right, (tp + tn) / n, 0, 1e-8); /* the best checkpoint is the one kept */
    free(log);
}
END_TEST

START_TEST(rows_are_told_by_their_names)
{
    struct task_file f = task_file("sst2", 1, 60);
    const char *dir = learn("sst2", &f, &f);
    double was = accuracy(dir, "sst2", &f);
    ck_assert_double_gt(was, 0.5);
    rename_labels(dir, "\"negative\"", "\"LABEL_0\" ");
    rename_labels(dir, "\"positive\"", "\"LABEL_1\" ");
    assert_close(accuracy(dir, "sst2", &f), was, 0, 1e-12); /* the published order */
    rename_labels(dir, "\"LABEL_0\" ", "\"Positive\"");
    rename_labels(dir, "\"LABEL_1\" ", "\"NEGATIVE\"");
    assert_close(accuracy(dir, "sst2", &f), 1 - was, 0, 1e-12);
    rename_labels(dir, "\"NEGATIVE\"", "\"sarcastc\"");
    REFUSED(cmd_eval, "\"id2label\" has Positive and sarcastc, expected negative and positive", dir,
            "--task", "sst2", "--data", f.path);
}
END_TEST

START_TEST(goes_on_bit_for_bit)
{
    struct task_file f = task_file("sst2", 1, 60);
    const char *straight = NEW_DIR("s"), *dir = NEW_DIR("r");
#define STEPS(n, ...)                                                                              \
    free(RUN(cmd_train, TINY, "--task", "sst2", "--data", f.path, "--valid", f.path, "--steps", n, \
             "--dropout", "0.1", "--min-lr", "1", "--accumulate", "2", "--eval-every", "2",        \
             __VA_ARGS__))
    STEPS("9", "-o", straight);
    STEPS("4", "-o", dir);
    STEPS("9", "-o", dir, "--resume", "--threads", "1");
    char *x = train_log(straight), *y = train_log(dir);
    ck_assert_str_eq(x, y);
    free(x);
    free(y);
    ck_assert(same_file(straight, dir, "model.safetensors"));
}
END_TEST

static struct st_set *tensors(const char *dir)
{
    struct st_set *st = NULL;
    ck_assert_int_eq(st_open(&st, dir, NULL), 0);
    return st;
}

static bool same_tensor(const char *a, const char *b, const char *name)
{
    struct st_set *x = tensors(a), *y = tensors(b);
    const struct st_tensor *s = st_find(x, name), *t = st_find(y, name);
    bool same = s && t && s->bytes == t->bytes && memcmp(s->data, t->data, s->bytes) == 0;
    st_close(x);
    st_close(y);
    return same;
}

#define FROM(from, task, file, ...)                                                           \
    free(RUN(cmd_train, "--from", from, "--task", task, "--data", file, "--steps", "1", "-o", \
             __VA_ARGS__))

/* At a rate of zero what goes in comes out. */
START_TEST(heads_come_and_go)
{
    struct task_file f = task_file("sst2", 1, 20), g = task_file("rte", 1, 20);
    const char *lm = new_model(
        "lm", (struct make_model){
                  .layers = 1, .channels = 16, .heads = 2, .positions = 32, .untied = true});
    const char *dir = NEW_DIR("c"), *again = NEW_DIR("again"), *other = NEW_DIR("other");
    FROM(lm, "sst2", f.path, dir, "--lr", "1e-3");
    ck_assert(!same_tensor(lm, dir, "transformer.wpe.weight"));
    FROM(dir, "sst2", f.path, again, "--lr", "0"); /* its own task: the head is kept */
    ck_assert(same_file(dir, again, "model.safetensors"));
    FROM(dir, "rte", g.path, other, "--lr", "0"); /* another: the body is */
    ck_assert(same_tensor(dir, other, "transformer.h.0.mlp.c_fc.weight"));
    struct st_set *st = tensors(other);
    const struct st_tensor *score = st_find(st, "score.weight");
    ck_assert(score && score->n_dims == 2 && score->shape[0] == 2 && score->shape[1] == 16);
    ck_assert_ptr_null(st_find(st, "lm_head.weight"));
    const float *w = (const void *)score->data;
    for (int i = 0; i < 32; i++)
        ck_assert(w[i] == 0);
    st_close(st);
    const char *back = NEW_DIR("back");
    free(RUN(cmd_train, "--from", dir, "--data", train_text(1, 60), "--steps", "1", "--batch", "2",
             "--block", "16", "-o", back));
    st = tensors(back);
    ck_assert_ptr_null(st_find(st, "score.weight")); /* a language model again */
    st_close(st);
}
END_TEST

START_TEST(long_items_lose_their_beginning)
{
    const char *path = path_join(temp_dir(), "t.tsv"), *dir = NEW_DIR("m");
    struct tokenizer *tok;
    struct items it;
    int32_t tokens[8], targets[8];
    static const char text[] = "sentence\tlabel\nabcdefgh\t1\nxyz\t0\n";
    write_file(path, text, sizeof text - 1);
    ck_assert_int_eq(tokenizer_open(&tok, tokenizer, NULL), 0);
    ck_assert_int_eq(items_open(&it, "sst2", path, 0, tok, 5, 0, NULL), 0);
    ck_assert(it.n == 2 && it.longest == 5 && it.cut == 1);
    items_put(&it, 0, 5, tokens, targets);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(targets[i], i < 4 ? -1 : 1);
    struct tokens want = {0};
    tokenizer_encode(tok, "defgh", 5, false, &want);
    ck_assert_mem_eq(tokens, want.ids, sizeof *tokens * 5);
    items_put(&it, 1, 8, tokens, targets); /* the label at the last token, nothing behind it */
    for (int i = 0; i < 8; i++)
        ck_assert_int_eq(targets[i], i == 2 ? 0 : -1);
    tokens_release(&want);
    items_close(&it);
    tokenizer_close(tok);
    struct tool_result r;
    TOOL(&r, cmd_train, TINY, "--task", "sst2", "--data", path, "-o", dir, "--steps", "2",
         "--block", "5");
    ck_assert_int_eq(r.rc, 0);
    ck_assert_msg(strstr(r.log, "8 tokens of text in 2 items, 1 of them cut") != NULL, "%s", r.log);
    tool_result_release(&r);
}
END_TEST

#define BAD(says, ...) REFUSED(cmd_train, says, TINY, __VA_ARGS__, "--steps", "1")

START_TEST(refuses_by_name)
{
    struct task_file f = task_file("sst2", 1, 20);
    const char *top = temp_dir(), *dir = path_join(top, "m"), *empty = NEW_DIR("e.tsv");
    const char *text = train_text(1, 60);
    BAD("--task: \"lambada\" is not one of sst2|", "--task", "lambada", "--data", f.path, "-o",
        dir);
    BAD("--task goes without --teacher", "--task", "sst2", "--data", f.path, "-o", dir, "--teacher",
        "x");
    BAD("expected the header of rte", "--task", "rte", "--data", f.path, "-o", dir);
    BAD("expected the header of sst2", "--task", "sst2", "--data", f.path, "--valid", text, "-o",
        dir);
    BAD("--block: 33 tokens exceed", "--task", "sst2", "--data", f.path, "-o", dir, "--block",
        "33");
    write_file(empty, "sentence\tlabel\nabc\t1\n\t0\n", 24);
    BAD("item 2 has no text", "--task", "sst2", "--data", empty, "-o", dir);
    ck_assert_int_eq(tool_entries(top), 0);
    free(RUN(cmd_train, TINY, "--task", "sst2", "--data", f.path, "-o", dir, "--steps", "1"));
    REFUSED(cmd_eval, "score.weight is the head of a classifier", dir, "--text", text);
    REFUSED(cmd_generate, "`ttm eval --task` evaluates it", dir, "-p", "x");
    REFUSED(cmd_eval, "--kernels: \"mmx\"", dir, "--task", "sst2", "--data", f.path, "--kernels",
            "mmx");
    REFUSED(cmd_eval, "--dtype: ", dir, "--task", "sst2", "--data", f.path, "--dtype", "auto");
    REFUSED(cmd_eval, "m is a classifier, which is computed in f32", dir, "--task", "sst2",
            "--data", f.path, "--kv-dtype", "f16");
    REFUSED(cmd_eval, "expected not_entailment and entailment", dir, "--task", "rte", "--data",
            f.path);
    REFUSED(cmd_quantize, "score.weight is the head of a classifier", dir, "-o",
            path_join(top, "q"));
    ck_assert_int_eq(tool_entries(top), 1);
    free(RUN(cmd_inspect, dir));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("train_task");
    TCase *t = tcase_create("train_task");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_loop_test(t, a_task_is_learnt, 0, 2);
    tcase_add_test(t, rows_are_told_by_their_names);
    tcase_add_test(t, goes_on_bit_for_bit);
    tcase_add_test(t, heads_come_and_go);
    tcase_add_test(t, long_items_lose_their_beginning);
    tcase_add_test(t, refuses_by_name);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
