/* ttm train from end to end, called in this process: what a run directory holds, going on from models
 * and runs, learning from a teacher, and everything that is refused. */
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/models/train/train_testing.h"

static struct train_files files;

static void setup(void)
{
    files = train_files();
}

#define DATA "--data", files.data, "--tokenizer", files.tokenizer
#define VALID "--valid", files.valid
#define TRAIN(...) free(RUN(cmd_train, TRAIN_TINY, __VA_ARGS__))
#define NEW_DIR(name) path_join(temp_dir(), (name))

START_TEST(a_run_directory_is_a_model)
{
    const char *dir = NEW_DIR("m");
    static const char *const names[] = {"config.json", "model.safetensors", "train.state",
                                        "log.jsonl",   "train.tokens",      "valid.tokens"};
    TRAIN(DATA, VALID, "-o", dir, "--steps", "60", "--eval-every", "20", "--lr", "1e-2", "--decay",
          "0");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        ck_assert_msg(access(path_join(dir, names[i]), F_OK) == 0, "%s", names[i]);
    ck_assert(access(path_join(dir, "tokenizer.json"), F_OK) == 0 ||
              access(path_join(dir, "vocab.json"), F_OK) == 0);
    char *log = train_log(dir);
    assert_close(train_logged(log, "loss", 0), log10(300) / log10(exp(1)), 0.3, 0);
    ck_assert(train_logged(log, "loss", 59) < train_logged(log, "loss", 0) - 2);
    ck_assert(train_logged(log, "valid_loss", 2) < train_logged(log, "valid_loss", 0));
    ck_assert_int_eq((int)train_logged(log, "tokens", 59), 60 * 32);
    ck_assert_ptr_null(strstr(log, "distil"));
    free(log);
    char *out = RUN(cmd_inspect, dir);
    ck_assert_ptr_nonnull(strstr(out, "wte.weight"));
    free(out);
    free(RUN(cmd_eval, dir, "--text", files.valid));
}
END_TEST

/* The model kept is that of the lowest validation loss, not the last: with a rate that destroys it. */
START_TEST(the_best_is_kept)
{
    const char *good = NEW_DIR("good"), *dir = NEW_DIR("m");
    TRAIN(DATA, VALID, "-o", good, "--steps", "2", "--eval-every", "1", "--lr", "1e-3");
    TRAIN(DATA, VALID, "-o", dir, "--steps", "2", "--eval-every", "1", "--lr", "1e-3");
    ck_assert(same_file(good, dir, "model.safetensors"));
    TRAIN(DATA, VALID, "-o", dir, "--steps", "6", "--eval-every", "1", "--lr", "5", "--resume");
    char *log = train_log(dir);
    ck_assert(train_logged(log, "valid_loss", 5) > train_logged(log, "valid_loss", 1));
    for (int i = 2; i < 6; i++)
        ck_assert(train_logged(log, "valid_loss", i) > train_logged(log, "valid_loss", 1));
    free(log);
    ck_assert(same_file(good, dir, "model.safetensors"));
}
END_TEST

static void same_runs(const char *a, const char *b)
{
    char *x = train_log(a), *y = train_log(b);
    ck_assert_str_eq(x, y);
    free(x);
    free(y);
    ck_assert(same_file(a, b, "model.safetensors"));
}

START_TEST(threads_change_nothing)
{
    const char *one = NEW_DIR("1"), *three = NEW_DIR("3");
    TRAIN(DATA, VALID, "-o", one, "--steps", "6", "--dropout", "0.1", "--ttm-rank", "4",
          "--threads", "1");
    TRAIN(DATA, VALID, "-o", three, "--steps", "6", "--dropout", "0.1", "--ttm-rank", "4",
          "--threads", "3");
    same_runs(one, three);
}
END_TEST

/* The rate does not depend on how long the run is to be: --min-lr 1. */
static void resumes(const char *const *more)
{
    const char *straight = NEW_DIR("s"), *dir = NEW_DIR("r");
    const char *args[64] = {TRAIN_TINY, DATA, VALID, "--eval-every", "1", "--min-lr", "1", "-o"};
    int n = 0;
    while (args[n])
        n++;
    const int out = n++;
    for (int i = 0; more[i]; i++)
        args[n++] = more[i];
    args[n++] = "--steps";
    args[out] = straight;
    args[n] = "9";
    free(tool_ok(cmd_train, args));
    args[out] = dir;
    args[n] = "4";
    free(tool_ok(cmd_train, args));
    args[n] = "9";
    args[n + 1] = "--resume";
    free(tool_ok(cmd_train, args));
    same_runs(straight, dir);
    char *before = train_log(dir);
    free(tool_ok(cmd_train, args)); /* there is nothing left to do */
    char *after = train_log(dir);
    ck_assert_str_eq(before, after);
    free(before);
    free(after);
}
#define RESUMES(...) resumes((const char *const[]){__VA_ARGS__, NULL})

START_TEST(goes_on_bit_for_bit)
{
    RESUMES("--dropout", "0.1", "--accumulate", "2");
    RESUMES("--ttm-rank", "4", "--seed", "5", "--recompute");
}
END_TEST

static void same_tensors(const char *a, const char *b)
{
    struct layers x, y;
    open_layers(&x, a);
    open_layers(&y, b);
    ck_assert_uint_eq(x.n, y.n);
    for (size_t i = 0; i < x.n; i++)
        ck_assert(layer_distance(&x, &y, i) < 1e-7);
    layers_close(&x);
    layers_close(&y);
}

/* A rate of zero leaves the weights as they were read: what goes in comes out. */
START_TEST(goes_on_from_a_model)
{
    static const struct make_model models[] = {
        {.layers = 1, .channels = 16, .heads = 2, .positions = 32},
        {.layers = 1, .channels = 16, .heads = 2, .positions = 32, .untied = true, .prefix = ""},
        {.layers = 1,
         .channels = 16,
         .heads = 2,
         .positions = 32,
         .dtype = DTYPE_BF16,
         .prefix = "module.transformer.",
         .ttm = {NULL, "(4,4)(4,4)", "(4,8)(5,9)", "(8,4)(8,4)"}, /* c_fc is padded */
         .ttm_cores = ".ttm.tt.cores."},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *from = new_model("from", models[i]), *dir = NEW_DIR("m");
        free(RUN(cmd_train, "--data", files.data, "--from", from, "-o", dir, "--steps", "2", "--lr",
                 "0", "--batch", "2", "--block", "16"));
        same_tensors(from, dir);
        free(RUN(cmd_train, "--data", files.data, "--from", dir, "-o", NEW_DIR("again"), "--steps",
                 "2", "--batch", "2", "--block", "16"));
    }
}
END_TEST

START_TEST(learns_from_a_teacher)
{
    const char *teacher = new_model(
        "t", (struct make_model){.layers = 1, .channels = 16, .heads = 2, .positions = 32});
    const char *same = NEW_DIR("same"), *dir = NEW_DIR("m");
    free(RUN(cmd_train, "--data", files.data, "--from", teacher, "--teacher", teacher, "-o", same,
             "--steps", "2", "--lr", "0", "--batch", "2", "--block", "16"));
    char *log = train_log(same);
    assert_close(train_logged(log, "distil", 1), 0, 1e-6, 0); /* it says what its teacher says */
    free(log);
    TRAIN(DATA, "-o", dir, "--teacher", teacher, "--teacher-weight", "1", "--steps", "60", "--lr",
          "1e-2");
    log = train_log(dir);
    ck_assert(train_logged(log, "distil", 59) < 0.8 * train_logged(log, "distil", 0));
    free(log);
}
END_TEST

#define BAD(says, ...) REFUSED(cmd_train, says, TRAIN_TINY, __VA_ARGS__)

START_TEST(refuses_flags_by_name)
{
    const char *top = temp_dir(), *dir = path_join(top, "m");
    const char *model = new_model("d", (struct make_model){.layers = 1, .channels = 16});
    REFUSED(cmd_train, "--data is missing", "-o", dir, "--steps", "1");
    BAD("--out is missing", DATA, "--steps", "1");
    BAD("one of --steps, --epochs, --minutes", DATA, "-o", dir);
    BAD("--steps and --epochs exclude", DATA, "-o", dir, "--steps", "1", "--epochs", "1");
    BAD("--tokenizer is missing", "--data", files.data, "-o", dir, "--steps", "1");
    const char *const brought[][2] = {
        {"preset", "gpt2"}, {"layers", "1"},   {"channels", "16"},    {"heads", "2"},
        {"positions", "8"}, {"vocab", "300"},  {"inner", "64"},       {"activation", "relu"},
        {"ttm-rank", "4"},  {"config", model}, {"ttm-layers", "mlp"},
    };
    for (size_t i = 0; i < sizeof brought / sizeof *brought; i++) {
        char flag[32], says[2][96];
        snprintf(flag, sizeof flag, "--%s", brought[i][0]);
        snprintf(says[0], sizeof says[0], "--from brings the model's shapes: no %s", flag);
        snprintf(says[1], sizeof says[1], "--config brings the model's sizes: no %s", flag);
        REFUSED(cmd_train, says[0], "--data", files.data, "--from", model, flag, brought[i][1],
                "-o", dir, "--steps", "1");
        if (i > 7) continue;
        REFUSED(cmd_train, says[1], DATA, "--config", model, flag, brought[i][1], "-o", dir,
                "--steps", "1");
    }
    BAD("--ttm-shape needs --ttm-rank", DATA, "-o", dir, "--steps", "1", "--ttm-shape",
        "(4,8)(4,8)");
    BAD("--resume and --force exclude", DATA, "-o", dir, "--steps", "1", "--resume", "--force");
    BAD("--ttm-shape", DATA, "-o", dir, "--steps", "1", "--ttm-rank", "4", "--ttm-shape", "(4,8");
    BAD("--lr: ", DATA, "-o", dir, "--steps", "1", "--lr", "-1");
    BAD("--dropout: ", DATA, "-o", dir, "--steps", "1", "--dropout", "1");
    BAD("--kernels: \"mmx\"", DATA, "-o", dir, "--steps", "1", "--kernels", "mmx");
    BAD("--block: 33 tokens exceed the model's 32 positions", DATA, "-o", dir, "--steps", "1",
        "--block", "33");
    BAD("the tokenizer in", DATA, "-o", dir, "--steps", "1", "--vocab", "200");
    BAD("--ttm-layers needs --ttm-rank", DATA, "-o", dir, "--steps", "1", "--ttm-layers", "all");
    REFUSED(cmd_train, "/nonexistent", DATA, "-o", dir, "--steps", "1", "--config", "/nonexistent");
    static const char many[] =
        "{\"model_type\": \"gpt2\", \"n_layer\": 4097, \"n_embd\": 16, \"n_head\": 2, "
        "\"n_positions\": 32, \"vocab_size\": 300}";
    const char *deep = temp_dir();
    write_file(path_join(deep, "config.json"), many, sizeof many - 1);
    REFUSED(cmd_train, "/config.json has 4097 layers, expected 1..4096", DATA, "-o", dir, "--steps",
            "1", "--config", deep);
    REFUSED(cmd_train, "/nonexistent", "--data", files.data, "--from", "/nonexistent", "-o", dir,
            "--steps", "1");
    BAD("/nonexistent", DATA, "-o", dir, "--steps", "1", "--teacher", "/nonexistent");
    const char *other =
        new_model("v", (struct make_model){.layers = 1, .channels = 16, .vocab = 400});
    BAD("has a vocabulary of 400, the model one of 300", DATA, "-o", dir, "--steps", "1",
        "--teacher", other);
    BAD("there is no run in", DATA, "-o", dir, "--steps", "1", "--resume");
    ck_assert_int_eq(tool_entries(top), 0); /* nothing was written for any of them */
}
END_TEST

/* A run that was, and what must not happen to it. */
START_TEST(refusals_leave_a_run_alone)
{
    const char *dir = NEW_DIR("m"), *was = NEW_DIR("was"), *empty = NEW_DIR("empty");
    char command[2500];
    write_file(empty, "", 0);
    TRAIN(DATA, VALID, "-o", dir, "--steps", "3");
    snprintf(command, sizeof command, "cp -r %s %s", dir, was);
    ck_assert_int_eq(system(command), 0);
#define AGAIN "-o", dir, "--steps", "5"
    BAD("has a run; --resume goes on with a run, --force starts over", DATA, AGAIN);
    BAD("--seed was 0, now it is 1", DATA, VALID, AGAIN, "--resume", "--seed", "1");
    BAD("--batch was 2, now it is 3", DATA, VALID, AGAIN, "--resume", "--batch", "3");
    BAD("is the state of another model", DATA, VALID, AGAIN, "--resume", "--heads", "4");
    BAD("is the state of another model", DATA, VALID, AGAIN, "--resume", "--ttm-rank", "4");
    BAD("cannot open /nonexistent/text", AGAIN, "--tokenizer", files.tokenizer, "--resume",
        "--data", "/nonexistent/text");
    BAD(files.tokenizer, AGAIN, "--tokenizer", files.tokenizer, "--resume", "--data",
        files.tokenizer); /* a directory can be opened and not read */
    BAD("holds no text", AGAIN, "--tokenizer", files.tokenizer, "--resume", "--data", empty);
    BAD("holds no text", DATA, AGAIN, "--resume", "--valid", empty);
    static const char *const names[] = {"train.state", "model.safetensors", "config.json",
                                        "log.jsonl",   "train.tokens",      "valid.tokens"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        ck_assert_msg(same_file(dir, was, names[i]), "%s", names[i]);
    ck_assert_int_eq(tool_entries(dir), tool_entries(was));
    TRAIN(DATA, VALID, AGAIN, "--resume");
    ck_assert_int_eq(unlink(path_join(was, "train.state")), 0);
    BAD("has a model; --resume", DATA, "-o", was, "--steps", "1");
    BAD("there is no train.state in", DATA, "-o", was, "--steps", "1", "--resume");
    TRAIN(DATA, "-o", was, "--steps", "1", "--force");
    BAD("is not a directory", DATA, "-o", files.data, "--steps", "1");
}
END_TEST

START_TEST(texts_too_short)
{
    const char *dir = NEW_DIR("m"), *word = NEW_DIR("word");
    write_file(word, "a few", 5);
    BAD("a block of 16 needs 17", "--data", word, "--tokenizer", files.tokenizer, "-o", dir,
        "--steps", "1");
    BAD("a block of 16 needs one more than that", DATA, "--valid", word, "-o", dir, "--steps", "1",
        "--force");
    ck_assert_int_ne(access(path_join(dir, "train.state"), F_OK), 0);
    TRAIN(DATA, "-o", dir, "--steps", "1"); /* nothing there is in the way */
}
END_TEST

START_TEST(a_loss_that_is_none_ends_the_run)
{
    const char *dir = NEW_DIR("m");
    BAD("a lower --lr may help", DATA, "-o", dir, "--steps", "200", "--lr", "10", "--clip", "0",
        "--eps", "1e-30", "--decay", "10", "--save-every", "1", "--eval-every", "1000");
    char *log = train_log(dir);
    ck_assert(isfinite(train_logged(log, "loss", 0)));
    ck_assert_ptr_null(strstr(log, "nan"));
    free(log);
    ck_assert_int_eq(access(path_join(dir, "train.state"), F_OK), 0);
}
END_TEST

/* --force over a model of other sizes and another tokenizer: whole as long as the run has none. */
START_TEST(a_model_stays_until_there_is_another)
{
    const char *old = new_model("old", (struct make_model){.layers = 1, .vocab = 400});
    static const char *const names[] = {"model.safetensors", "config.json", "tokenizer.json"};
    char dir[1024], was[1024], command[5000]; /* path_join's own are few */
    snprintf(dir, sizeof dir, "%s", NEW_DIR("m"));
    snprintf(was, sizeof was, "%s", NEW_DIR("was"));
    snprintf(command, sizeof command, "cp -r %s %s && cp -r %s %s", old, dir, old, was);
    ck_assert_int_eq(system(command), 0);
    BAD("a lower --lr may help", DATA, "-o", dir, "--steps", "200", "--lr", "10", "--clip", "0",
        "--eps", "1e-30", "--decay", "10", "--eval-every", "1000", "--force");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        ck_assert_msg(same_file(dir, was, names[i]), "%s", names[i]);
    free(RUN(cmd_eval, dir, "--text", files.valid));
    TRAIN(DATA, "-o", dir, "--steps", "2", "--force");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        ck_assert_msg(!same_file(dir, was, names[i]), "%s", names[i]);
    free(RUN(cmd_eval, dir, "--text", files.valid));
    ck_assert_int_ne(access(path_join(dir, "model.safetensors.first"), F_OK), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("train");
    TCase *t = tcase_create("train");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, a_run_directory_is_a_model);
    tcase_add_test(t, the_best_is_kept);
    tcase_add_test(t, threads_change_nothing);
    tcase_add_test(t, goes_on_bit_for_bit);
    tcase_add_test(t, goes_on_from_a_model);
    tcase_add_test(t, learns_from_a_teacher);
    tcase_add_test(t, refuses_flags_by_name);
    tcase_add_test(t, refusals_leave_a_run_alone);
    tcase_add_test(t, a_model_stays_until_there_is_another);
    tcase_add_test(t, texts_too_short);
    tcase_add_test(t, a_loss_that_is_none_ends_the_run);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
