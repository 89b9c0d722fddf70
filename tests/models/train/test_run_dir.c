/* Whose a run's directory is, and what may be begun in it. */
#include "models/train/run_dir.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "models/train/state.h"
#include "tests/support/harness.h"

static const struct gpt2_config config = {.n_layer = 1,
                                          .n_head = 1,
                                          .n_embd = 4,
                                          .n_positions = 4,
                                          .vocab_size = 5,
                                          .n_inner = 4,
                                          .layer_norm_epsilon = 1e-5F};

static void claim(struct run_dir *d, const char *path)
{
    struct err err = {0};
    bool resume = false;
    ck_assert_msg(run_dir_claim(d, path, &resume, false, &err) == 0, "%s", err.msg);
}

static void refused(const char *path, bool resume, bool force, int code, const char *says)
{
    struct run_dir d;
    struct err err = {0};
    ck_assert_int_eq(run_dir_claim(&d, path, &resume, force, &err), code);
    ck_assert_msg(strstr(err.msg, says) && strstr(err.msg, path), "%s", err.msg);
    ck_assert_int_eq(d.lock, -1);
}

START_TEST(the_second_is_refused_by_name)
{
    const char *path = path_join(temp_dir(), "run");
    struct run_dir d;
    char says[64];
    claim(&d, path);
    snprintf(says, sizeof says, "is in use: process %ld trains there", (long)getpid());
    refused(path, false, false, ERR_INVALID, says);
    refused(path, true, false, ERR_INVALID, says);
    refused(path, false, true, ERR_INVALID, says); /* --force is no reason */
    run_dir_release(&d);
    claim(&d, path);
    run_dir_release(&d);
    run_dir_release(&d);
}
END_TEST

START_TEST(a_lock_dies_with_its_process)
{
    const char *path = path_join(temp_dir(), "run");
    struct run_dir d;
    int status;
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        bool resume = false;
        if (run_dir_claim(&d, path, &resume, false, NULL) == 0) kill(getpid(), SIGKILL);
        _exit(1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ck_assert(run_dir_has(path, "train.lock"));
    claim(&d, path);
    run_dir_release(&d);
}
END_TEST

static void put_state(const char *path, uint64_t step)
{
    struct net net;
    ck_assert_int_eq(net_init(&net, &config, false, NULL, NULL), 0);
    float *w = mem_calloc(net.floats, sizeof *w);
    struct train_state s = {.step = step};
    ck_assert_int_eq(state_save(path_join(path, "train.state"), &net, &s, w, w, w, NULL), 0);
    free(w);
    net_release(&net);
}

/* Claims, and says whether it is to be resumed. */
static bool resumed(const char *path, bool resume, bool force)
{
    struct run_dir d;
    struct err err = {0};
    ck_assert_msg(run_dir_claim(&d, path, &resume, force, &err) == 0, "%s", err.msg);
    run_dir_release(&d);
    return resume;
}

START_TEST(a_run_without_a_step_is_no_obstacle)
{
    const char *path = path_join(temp_dir(), "run");
    refused(path, true, false, ERR_MISSING, "there is no run in");
    ck_assert(!resumed(path, false, false));
    ck_assert(!resumed(path, false, false)); /* killed while it read its text */
    ck_assert(!resumed(path, true, false));
    put_state(path, 0);
    ck_assert(!resumed(path, false, false));
    ck_assert(resumed(path, true, false));
    put_state(path, 3);
    ck_assert(resumed(path, true, false));
    refused(path, false, false, ERR_INVALID, "has a run; --resume goes on");
    ck_assert(!resumed(path, false, true));
}
END_TEST

START_TEST(a_model_is_not_written_over)
{
    const char *path = temp_dir(), *empty = temp_dir();
    write_file(path_join(path, "model.safetensors"), "x", 1);
    refused(path, false, false, ERR_INVALID, "has a model; --resume goes on");
    refused(path, true, false, ERR_MISSING, "there is no train.state in");
    ck_assert(!run_dir_has(path, "train.lock")); /* nothing is written for a refusal */
    put_state(path, 0); /* a run that made it before its first checkpoint */
    refused(path, false, false, ERR_INVALID, "has a run; --resume goes on");
    ck_assert(resumed(path, true, false));
    ck_assert(!resumed(path, false, true));
    refused(empty, true, false, ERR_MISSING, "there is no train.state in");
    const char *file = path_join(empty, "file");
    write_file(file, "x", 1);
    refused(file, false, false, ERR_INVALID, "is not a directory");
    refused("/nonexistent/a/b", false, false, ERR_IO, "cannot make directory");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("run_dir");
    TCase *t = tcase_create("run_dir");
    tcase_add_test(t, the_second_is_refused_by_name);
    tcase_add_test(t, a_lock_dies_with_its_process);
    tcase_add_test(t, a_run_without_a_step_is_no_obstacle);
    tcase_add_test(t, a_model_is_not_written_over);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
