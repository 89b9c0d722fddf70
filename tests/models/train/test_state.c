/* What a run leaves behind to go on with: the state comes back bit for bit or is refused by name, and the
 * log goes on where the state is. */
#include "models/train/state.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "models/train/runlog.h"
#include "tests/support/harness.h"
#include "tests/support/tool_call.h"

static const struct gpt2_config config = {.n_layer = 1,
                                          .n_head = 4,
                                          .n_embd = 16,
                                          .n_positions = 8,
                                          .vocab_size = 20,
                                          .n_inner = 64,
                                          .layer_norm_epsilon = 1e-5F,
                                          .activation = ACT_GELU_NEW,
                                          .scale_attn_weights = true,
                                          .tie_word_embeddings = true};
static const struct train_state written = {.step = 7,
                                           .tokens = 1234567890123,
                                           .seconds = 0.1,
                                           .best = 3.25,
                                           .best_step = 5,
                                           .seed = 9,
                                           .batch = 2,
                                           .block = 8,
                                           .accumulate = 3,
                                           .corpus_tokens = 1000};

static struct net net;
static float *arrays[3]; /* w, m, v */

static void setup(void)
{
    ck_assert_int_eq(net_init(&net, &config, false, NULL, NULL), 0);
    for (int a = 0; a < 3; a++) {
        arrays[a] = mem_calloc(net.floats, sizeof **arrays);
        for (size_t i = 0; i < net.floats; i++)
            arrays[a][i] = (float)(i + 1) / (float)(a + 3);
    }
}

static void teardown(void)
{
    for (int a = 0; a < 3; a++)
        free(arrays[a]);
    net_release(&net);
}

static void save(const char *path, const struct train_state *s)
{
    struct err err = {0};
    ck_assert_msg(state_save(path, &net, s, arrays[0], arrays[1], arrays[2], &err) == 0, "%s",
                  err.msg);
}

/* Into arrays of another content; compares them when it succeeds. */
static int load(const char *path, const struct net *n, struct train_state *s, struct err *err)
{
    float *got[3];
    for (int a = 0; a < 3; a++)
        got[a] = mem_calloc(n->floats, sizeof **got);
    int rc = state_load(path, n, s, got[0], got[1], got[2], err);
    for (int a = 0; a < 3; a++) {
        if (!rc) ck_assert_mem_eq(got[a], arrays[a], n->floats * sizeof **got);
        free(got[a]);
    }
    return rc;
}

/* What a run knows before it loads. */
static struct train_state expected(void)
{
    struct train_state s = written;
    s.step = s.tokens = s.best_step = 0;
    s.seconds = s.best = 0;
    return s;
}

START_TEST(comes_back_bit_for_bit)
{
    const char *dir = temp_dir(), *path = path_join(dir, "s");
    struct train_state s = expected(), first = written;
    struct err err = {0};
    save(path, &written);
    ck_assert_msg(load(path, &net, &s, &err) == 0, "%s", err.msg);
    ck_assert(s.step == 7 && s.tokens == 1234567890123 && s.best_step == 5);
    ck_assert(memcmp(&s.seconds, &written.seconds, sizeof s.seconds) == 0);
    ck_assert(memcmp(&s.best, &written.best, sizeof s.best) == 0);
    first.best = INFINITY;
    save(path, &first);
    ck_assert_int_eq(load(path, &net, &s, NULL), 0);
    ck_assert(isinf(s.best));
    ck_assert_int_eq(tool_entries(dir), 1);
}
END_TEST

/* Before the first step there is nothing to keep but that there is a run. */
START_TEST(step_0_holds_no_arrays)
{
    const char *path = path_join(temp_dir(), "s"), *other = path_join(temp_dir(), "o");
    struct train_state s = expected();
    size_t n;
    float untouched = arrays[1][5];
    ck_assert(!state_begun(path));
    save(path, &s);
    ck_assert(!state_begun(path));
    free(read_file(path, &n));
    ck_assert_uint_lt(n, 512);
    ck_assert_int_eq(state_load(path, &net, &s, arrays[0], arrays[1], arrays[2], NULL), 0);
    ck_assert(s.step == 0 && arrays[1][5] == untouched);
    s.seed = 77;
    ck_assert_int_eq(state_load(path, &net, &s, NULL, NULL, NULL, NULL), ERR_INVALID);
    save(path, &written);
    ck_assert(state_begun(path));
    write_file(other, "what?", 5); /* not ours: nothing that may be written over */
    ck_assert(state_begun(other));
}
END_TEST

static void refused(const char *path, const struct net *n, struct train_state s, int code,
                    const char *says)
{
    struct err err = {0};
    ck_assert_int_eq(load(path, n, &s, &err), code);
    ck_assert_msg(strstr(err.msg, says) != NULL, "\"%s\" does not say \"%s\"", err.msg, says);
    ck_assert_msg(strstr(err.msg, path) != NULL, "%s", err.msg);
}

START_TEST(refuses_another_run)
{
    const char *path = path_join(temp_dir(), "s");
    struct train_state s;
    save(path, &written);
#define DIFFERS(field, says)                                   \
    do {                                                       \
        s = expected();                                        \
        s.field = 77;                                          \
        refused(path, &net, s, ERR_INVALID, says " it is 77"); \
    } while (0)
    DIFFERS(seed, "--seed was 9, now");
    DIFFERS(batch, "--batch was 2, now");
    DIFFERS(block, "--block was 8, now");
    DIFFERS(accumulate, "--accumulate was 3, now");
    DIFFERS(corpus_tokens, "number of tokens was 1000, now");
#undef DIFFERS
}
END_TEST

START_TEST(refuses_another_model)
{
    const char *path = path_join(temp_dir(), "s");
    struct gpt2_config heads = config, activation = config, wider = config, vocab = config;
    heads.n_head = 2;
    activation.activation = ACT_RELU;
    wider.n_inner = 80;
    vocab.vocab_size = 21;
    const struct gpt2_config *const others[] = {&heads, &activation, &wider, &vocab};
    save(path, &written);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct net other;
        ck_assert_int_eq(net_init(&other, others[i], false, NULL, NULL), 0);
        refused(path, &other, expected(), ERR_INVALID, "the state of another model");
        net_release(&other);
    }
}
END_TEST

START_TEST(refuses_what_is_no_state)
{
    const char *path = path_join(temp_dir(), "s");
    size_t len;
    save(path, &written);
    char *good = read_file(path, &len);
    for (size_t cut = 0; cut < len; cut += 1 + cut / 3) {
        write_file(path, good, cut);
        refused(path, &net, expected(), ERR_INVALID, "is cut short");
    }
    write_file(path, good, len - 1);
    refused(path, &net, expected(), ERR_INVALID, "is cut short");
    good[0] ^= 1;
    write_file(path, good, len);
    refused(path, &net, expected(), ERR_INVALID, "is no state of a training run");
    free(good);
    refused("/nonexistent/s", &net, expected(), ERR_MISSING, "cannot open");
    refused("/", &net, expected(), ERR_IO, "cannot read");
}
END_TEST

START_TEST(a_failure_leaves_the_old_one)
{
    const char *dir = temp_dir(), *path = path_join(dir, "s");
    struct train_state s = expected(), later = written;
    struct err err = {0};
    save(path, &written);
    ck_assert_int_eq(
        state_save("/nonexistent/s", &net, &later, arrays[0], arrays[1], arrays[2], &err), ERR_IO);
    ck_assert_ptr_nonnull(strstr(err.msg, "/nonexistent/s"));
    write_file(path_join(dir, "s.partial"), "half of a state", 15); /* of a process that died */
    ck_assert_int_eq(load(path, &net, &s, NULL), 0);
    later.step = 8;
    save(path, &later);
    s = expected();
    ck_assert_int_eq(load(path, &net, &s, NULL), 0);
    ck_assert_uint_eq(s.step, 8);
    ck_assert_int_eq(tool_entries(dir), 1);
}
END_TEST

/* ---- log ---- */

static void open_log(struct runlog *l, const char *path, uint64_t keep)
{
    struct err err = {0};
    ck_assert_msg(runlog_open(l, path, keep, &err) == 0, "%s", err.msg);
}

static void add_step(struct runlog *l, uint64_t step)
{
    const struct runlog_step s = {.step = step,
                                  .tokens = 100 * step,
                                  .loss = 1.0F / (float)(step + 2),
                                  .distil = step % 2 ? 0.5 : -1,
                                  .lr = 1e-3,
                                  .grad_norm = 2.0 / 3,
                                  .tokens_per_s = 12345.6};
    ck_assert_int_eq(runlog_step(l, &s, NULL), 0);
}

static double number(const json_t *j, const char *key)
{
    ck_assert_msg(json_is_number(json_object_get(j, key)), "%s", key);
    return json_number_value(json_object_get(j, key));
}

START_TEST(lines_are_json)
{
    const char *path = path_join(temp_dir(), "log");
    struct runlog l;
    open_log(&l, path, 0);
    add_step(&l, 1);
    add_step(&l, 2);
    ck_assert_int_eq(runlog_valid(&l, 2, 0.1F, -1, NULL), 0);
    ck_assert_int_eq(runlog_valid(&l, 2, 0.1F, 0.75, NULL), 0);
    ck_assert_int_eq(runlog_sync(&l, NULL), 0);
    char *text = read_file(path, NULL), *line = text; /* while it is open: every line is out */
    for (int i = 0; i < 4; i++) {
        char *end = strchr(line, '\n');
        ck_assert_ptr_nonnull(end);
        json_t *j = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, NULL);
        ck_assert_msg(j != NULL, "%s", line);
        ck_assert_int_eq((int)number(j, "step"), i < 2 ? i + 1 : 2);
        if (i < 2) {
            ck_assert((float)number(j, "loss") == 1.0F / (float)(i + 3)); /* every bit */
            assert_close(number(j, "lr"), 1e-3, 0, 1e-6);
            assert_close(number(j, "grad_norm"), 2.0 / 3, 0, 1e-8);
            ck_assert_int_eq((int)number(j, "tokens"), 100 * (i + 1));
            ck_assert_int_eq((int)number(j, "tokens_per_s"), 12346);
            ck_assert_int_eq(json_object_get(j, "distil") != NULL, i == 0);
        } else {
            ck_assert((float)number(j, "valid_loss") == 0.1F);
            ck_assert_int_eq(json_object_get(j, "accuracy") != NULL, i == 3);
        }
        json_decref(j);
        line = end + 1;
    }
    ck_assert_str_eq(line, "");
    free(text);
    runlog_close(&l);
}
END_TEST

static void log_is(const char *path, const char *want)
{
    char *text = read_file(path, NULL);
    ck_assert_str_eq(text, want);
    free(text);
}

START_TEST(goes_on_after_the_state)
{
    const char *path = path_join(temp_dir(), "log");
    static const char two[] =
        "{\"step\": 1, \"loss\": 3}\n{\"step\": 2, \"loss\": 2}\n"
        "{\"step\": 2, \"valid_loss\": 2.5}\n";
    static const struct {
        const char *tail;
    } tails[] = {{""},
                 {"{\"step\": 3, \"loss\": 1}\n{\"step\": 3, \"valid_loss\": 1}\n"},
                 {"{\"step\": 3, \"lo"},
                 {"{\"step\": 2"},
                 {"noise\n{\"step\": 2, \"loss\": 9}\n"}};
    struct runlog l;
    struct buf b = {0};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        b.len = 0;
        buf_printf(&b, "%s%s", two, tails[i].tail);
        write_file(path, b.data, b.len);
        open_log(&l, path, 2);
        ck_assert_int_eq(runlog_valid(&l, 4, 1.5, -1, NULL), 0);
        runlog_close(&l);
        b.len = 0;
        buf_printf(&b, "%s{\"step\": 4, \"valid_loss\": 1.5}\n", two);
        log_is(path, b.data);
    }
    buf_release(&b);
    open_log(&l, path, 1);
    runlog_close(&l);
    log_is(path, "{\"step\": 1, \"loss\": 3}\n");
    open_log(&l, path, 0); /* a new run */
    runlog_close(&l);
    log_is(path, "");
    open_log(&l, path_join(temp_dir(), "none"), 5); /* somebody removed it */
    runlog_close(&l);
}
END_TEST

START_TEST(log_errors_name_the_file)
{
    struct runlog l;
    struct err err = {0};
    ck_assert_int_eq(runlog_open(&l, "/nonexistent/log", 0, &err), ERR_IO);
    ck_assert_ptr_nonnull(strstr(err.msg, "/nonexistent/log"));
    runlog_close(&l);
    l = (struct runlog){.f = fopen("/dev/full", "w"), .path = strdup("/dev/full")};
    err = (struct err){0};
    ck_assert_ptr_nonnull(l.f);
    ck_assert_int_eq(runlog_valid(&l, 1, 1, 0.5, &err), ERR_IO);
    ck_assert_ptr_nonnull(strstr(err.msg, "cannot write /dev/full: No space"));
    runlog_close(&l);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("state");
    TCase *t = tcase_create("state");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, comes_back_bit_for_bit);
    tcase_add_test(t, step_0_holds_no_arrays);
    tcase_add_test(t, refuses_another_run);
    tcase_add_test(t, refuses_another_model);
    tcase_add_test(t, refuses_what_is_no_state);
    tcase_add_test(t, a_failure_leaves_the_old_one);
    tcase_add_test(t, lines_are_json);
    tcase_add_test(t, goes_on_after_the_state);
    tcase_add_test(t, log_errors_name_the_file);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
