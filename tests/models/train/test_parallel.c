/* Several processes of one run: the shares of a batch, and, where this is a build with MPI=1 and there is
 * an mpirun, that two processes log what one does, stop together, and fail with one message. */
#include "models/train/parallel.h"

#include <signal.h>
#include <unistd.h>

#include "tests/models/train/train_testing.h"

#define MPIRUN "/usr/bin/mpirun"
static struct train_files files;

static void setup(void)
{
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    files = train_files();
}

START_TEST(shares_cover_everything)
{
    for (int size = 1; size < 6; size++)
        for (size_t n = 0; n < 12; n++) {
            size_t next = 0, from, count;
            for (int rank = 0; rank < size; rank++) {
                parallel_share(&(struct parallel){.rank = rank, .size = size}, n, &from, &count);
                ck_assert_uint_eq(from, next);
                ck_assert_uint_ge(count, n / (size_t)size);
                ck_assert_uint_le(count, (n + (size_t)size - 1) / (size_t)size);
                next = from + count;
            }
            ck_assert_uint_eq(next, n);
        }
}
END_TEST

START_TEST(alone_nothing_changes)
{
    struct parallel p;
    struct err err = {0};
    double x[2] = {1, 2};
    float y[2] = {3, 4};
    ck_assert_int_eq(parallel_begin(&p, &err), 0);
    ck_assert(p.rank == 0 && p.size == 1 && parallel_writes(&p));
    parallel_sum(&p, x, 2);
    parallel_sum_floats(&p, y, 2);
    parallel_copy(&p, y, sizeof y);
    ck_assert(x[0] == 1 && x[1] == 2 && y[0] == 3 && y[1] == 4);
    ck_assert_int_eq(parallel_agree(&p, 0, &err), 0);
    ck_assert_int_eq(err.code, 0);
    err_set(&err, ERR_IO, "a disk");
    ck_assert_int_eq(parallel_agree(&p, ERR_IO, &err), ERR_IO);
    ck_assert_str_eq(err.msg, "a disk");
}
END_TEST

/* The rate does not depend on the number of steps to come; a batch of 3 is not shared evenly. */
#define RUN_ARGS                                                                                  \
    "--layers", "1", "--channels", "16", "--heads", "2", "--positions", "32", "--block", "16",    \
        "--threads", "1", "--warmup", "0", "--valid-tokens", "80", "--batch", "3", "--tokenizer", \
        files.tokenizer, "--min-lr", "1", "--ttm-rank", "4", "--dropout", "0.1", "--eval-every",  \
        "4", "--lr", "1e-3"
#define TEXT "--data", files.data, "--valid", files.valid
/* Each process runs `script` with the command as its arguments. */
#define TWO(script) \
    MPIRUN, "--oversubscribe", "--bind-to", "none", "-np", "2", "/bin/sh", "-c", script, "sh"
#define JOB(script, ...) \
    ((const char *const[]){TWO(script), build_path("ttm"), "train", RUN_ARGS, __VA_ARGS__, NULL})
#define PLAIN "exec \"$@\""

static void same_curves(const char *a, const char *b, int steps, int validations)
{
    char *x = train_log(a), *y = train_log(b);
    for (int k = 0; k < steps; k++) {
        assert_close(train_logged(x, "loss", k), train_logged(y, "loss", k), 0, 1e-5);
        assert_close(train_logged(x, "grad_norm", k), train_logged(y, "grad_norm", k), 0, 1e-3);
    }
    for (int k = 0; k < validations; k++)
        assert_close(train_logged(x, "valid_loss", k), train_logged(y, "valid_loss", k), 0, 1e-5);
    free(x);
    free(y);
}

/* A process of its own, too: MPI leaves variables in the environment that mpirun would stumble over. */
static void alone(const char *dir, const char *steps, const char *more)
{
    struct tool_result r;
    tool_process((const char *const[]){build_path("ttm"), "train", RUN_ARGS, TEXT, "-o", dir,
                                       "--steps", steps, more, NULL},
                 NULL, &r);
    ck_assert_msg(r.rc == 0, "%s", r.log);
    tool_result_release(&r);
}

START_TEST(two_log_what_one_does)
{
    const char *one = path_join(temp_dir(), "one"), *two = path_join(temp_dir(), "two");
    struct tool_result r;
    alone(one, "12", NULL);
    tool_process(JOB(PLAIN, TEXT, "-o", two, "--steps", "8"), NULL, &r);
    ck_assert_msg(r.rc == 0, "%s", r.log);
    ck_assert_ptr_nonnull(strstr(r.log, "2 processes; from step 0 of 8"));
    ck_assert_ptr_null(strstr(strstr(r.log, "step 1/8") + 1, "step 1/8")); /* one speaks */
    tool_result_release(&r);
    tool_process(JOB(PLAIN, TEXT, "-o", two, "--steps", "12", "--resume"), NULL, &r);
    ck_assert_msg(r.rc == 0, "%s", r.log);
    tool_result_release(&r);
    same_curves(one, two, 12, 3);
}
END_TEST

START_TEST(a_signal_to_one_stops_both)
{
    const char *top = temp_dir(), *dir = path_join(top, "m"), *one = path_join(top, "one");
    const char *pid = path_join(top, "pid");
    char script[1200];
    struct tool_running p;
    struct tool_result r;
    snprintf(script, sizeof script, "[ $OMPI_COMM_WORLD_RANK = 0 ] || echo $$ > %s; exec \"$@\"",
             pid);
    tool_start(JOB(script, TEXT, "-o", dir, "--steps", "1000000000"), &p);
    const char *model = path_join(dir, "model.safetensors");
    while (access(model, F_OK) != 0)
        usleep(1000);
    char *number = read_file(pid, NULL);
    kill((pid_t)strtol(number, NULL, 10), SIGTERM);
    free(number);
    tool_finish(&p, &r);
    ck_assert_msg(r.rc == 0, "%s", r.log);
    ck_assert_ptr_nonnull(strstr(r.log, "stopped by a signal at step"));
    tool_result_release(&r);
    char *log = train_log(dir), steps[24];
    int n = 0;
    for (const char *at = log; (at = strstr(at, "\"loss\"")) != NULL; at++)
        n++;
    free(log);
    snprintf(steps, sizeof steps, "%d", n + 2);
    alone(dir, steps, "--resume");
    alone(one, steps, NULL);
    same_curves(one, dir, n + 2 < 40 ? n + 2 : 40, 1); /* rounding grows with the steps */
}
END_TEST

/* Either way one message, and all have ended. */
START_TEST(an_error_of_one_ends_all)
{
    static const char *const script =
        "[ $OMPI_COMM_WORLD_RANK = 0 ] || set -- \"$@\" --kernels mmx; exec \"$@\"";
    const char *dir = path_join(temp_dir(), "m");
    struct tool_result r;
    tool_process(JOB(script, TEXT, "-o", dir, "--steps", "8"), NULL, &r);
    ck_assert_int_eq(r.rc, 2);
    const char *says = strstr(r.log, "ttm train: process 1: --kernels: \"mmx\" is unknown");
    ck_assert_msg(says && !strstr(says + 1, "ttm train:"), "%s", r.log);
    ck_assert_int_ne(access(dir, F_OK), 0);
    tool_result_release(&r);
    tool_process(JOB(PLAIN, "--data", "/nonexistent/t", "-o", dir, "--steps", "8"), NULL, &r);
    ck_assert_int_eq(r.rc, 2);
    says = strstr(r.log, "ttm train: cannot open /nonexistent/t");
    ck_assert_msg(says && !strstr(says + 1, "ttm train:"), "%s", r.log);
    tool_result_release(&r);
    tool_process(JOB(PLAIN, TEXT, "-o", dir, "--steps", "8", "--batch", "1"), NULL, &r);
    ck_assert_msg(strstr(r.log, "--batch: 1 sequences are too few for 2 processes"), "%s", r.log);
    tool_result_release(&r);
}
END_TEST

START_TEST(a_full_disk_ends_all)
{
    static const char *const script =
        "ulimit -f 1; exec \"$@\""; /* 512 bytes: no checkpoint fits, the log soon does not */
    const char *dir = path_join(temp_dir(), "m");
    struct tool_result r;
    tool_process(JOB(script, TEXT, "-o", dir, "--steps", "1000000"), NULL, &r);
    ck_assert_int_eq(r.rc, 2);
    ck_assert_msg(strstr(r.log, "File too large") != NULL, "%s", r.log);
    tool_result_release(&r);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("parallel");
    TCase *t = tcase_create("parallel");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, shares_cover_everything);
    tcase_add_test(t, alone_nothing_changes);
    if (!parallel_mpi()) {
        skip("two processes", "built without MPI (make MPI=1)");
    } else if (access(MPIRUN, X_OK) != 0) {
        skip("two processes", MPIRUN " is not there");
    } else {
        tcase_add_test(t, two_log_what_one_does);
        tcase_add_test(t, a_signal_to_one_stops_both);
        tcase_add_test(t, an_error_of_one_ends_all);
        tcase_add_test(t, a_full_disk_ends_all);
    }
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
