/* ttm train as a process that is stopped, killed and starved: exit statuses, and that the run goes on as
 * if nothing had happened. When a process is killed is left to chance; what is left must be right
 * whenever it was. */

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/models/train/train_testing.h"

static struct train_files files;

static void setup(void)
{
    files = train_files();
}

/* The rate of a step does not depend on the number of steps to come (--min-lr 1). */
#define RUN_ARGS                                                                              \
    TRAIN_TINY, "--data", files.data, "--valid", files.valid, "--tokenizer", files.tokenizer, \
        "--min-lr", "1", "--ttm-rank", "4", "--dropout", "0.1", "--eval-every", "7",          \
        "--save-every", "5"
#define FOR_EVER "--steps", "1000000000"
static const char *ttm(void)
{
    return build_path("ttm");
}
#define ARGS(...) ((const char *const[]){ttm(), "train", RUN_ARGS, __VA_ARGS__, NULL})

static void run_to(const char *dir, long steps, bool resume)
{
    char n[24];
    struct tool_result r;
    snprintf(n, sizeof n, "%ld", steps);
    tool_call(cmd_train, ARGS("-o", dir, "--steps", n, resume ? "--resume" : "--force") + 2, &r);
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    tool_result_release(&r);
}

/* Lines of a file so far; 0 when there is none. */
static int lines(const char *path)
{
    FILE *f = fopen(path, "r");
    int n = 0;
    if (!f) return 0;
    for (int c; (c = getc(f)) != EOF;)
        n += c == '\n';
    fclose(f);
    return n;
}

static long last_step(const char *dir)
{
    char *log = train_log(dir), *at = NULL;
    for (char *p = log; (p = strstr(p, "\"loss\"")) != NULL; p++)
        at = p;
    ck_assert_ptr_nonnull(at);
    while (strncmp(at, "{\"step\": ", 9) != 0)
        at--;
    long step = strtol(at + 9, NULL, 10);
    free(log);
    return step;
}

/* Start a run, and send it a signal when its log has so many lines. */
static void run_until(const char *dir, const char *save_every, int sig, int at_line,
                      struct tool_result *r)
{
    struct tool_running p;
    const char *log = path_join(dir, "log.jsonl");
    tool_start(ARGS("-o", dir, FOR_EVER, "--save-every", save_every), &p);
    while (lines(log) < at_line)
        usleep(500);
    kill(p.pid, sig);
    tool_finish(&p, r);
}

static void is_uninterrupted(const char *dir, long steps)
{
    const char *straight = path_join(temp_dir(), "straight");
    run_to(straight, steps, false);
    char *want = train_log(straight), *got = train_log(dir);
    ck_assert_str_eq(got, want);
    free(want);
    free(got);
    ck_assert(same_file(dir, straight, "model.safetensors"));
}

START_TEST(sigterm_saves_and_exits_0)
{
    static const int signals[] = {SIGTERM, SIGINT};
    for (int i = 0; i < 2; i++) {
        struct tool_result r;
        const char *dir = path_join(temp_dir(), "m");
        run_until(dir, "5", signals[i], 3 + 8 * i, &r); /* before and after the first validation */
        ck_assert_int_eq(r.rc, 0);
        ck_assert_ptr_nonnull(strstr(r.log, "stopped by a signal at step"));
        tool_result_release(&r);
        free(RUN(cmd_inspect, dir));
        long stopped = last_step(dir), end = stopped + 3;
        run_to(dir, end, true);
        is_uninterrupted(dir, end);
    }
}
END_TEST

START_TEST(a_killed_run_goes_on)
{
    for (int i = 0; i < 2; i++) {
        struct tool_result r;
        const char *dir = path_join(temp_dir(), "m");
        int at = 8 + (int)(rng_entropy() % 20); /* the first checkpoint is behind line 5 */
        run_until(dir, "5", SIGKILL, at, &r);
        ck_assert_int_eq(r.rc, 128 + SIGKILL);
        tool_result_release(&r);
        long end = last_step(dir) + 3;
        run_to(dir, end, true);
        is_uninterrupted(dir, end);
    }
}
END_TEST

/* Killed before its first checkpoint, and after its first model: step 0 is a state, too. */
START_TEST(a_run_without_a_checkpoint_goes_on)
{
    struct tool_result r;
    const char *dir = path_join(temp_dir(), "m");
    run_until(dir, "1000000", SIGKILL, 10, &r);
    ck_assert_int_eq(r.rc, 128 + SIGKILL);
    tool_result_release(&r);
    ck_assert_int_eq(access(path_join(dir, "model.safetensors"), F_OK), 0);
    REFUSED(cmd_train, "has a run; --resume goes on", RUN_ARGS, "-o", dir, "--steps", "9");
    run_to(dir, 9, true);
    is_uninterrupted(dir, 9);
}
END_TEST

START_TEST(two_trainers_do_not_share_a_directory)
{
    struct tool_running p;
    struct tool_result r;
    const char *dir = path_join(temp_dir(), "m"), *log = path_join(dir, "log.jsonl");
    char says[64];
    tool_start(ARGS("-o", dir, FOR_EVER), &p);
    while (lines(log) < 6)
        usleep(500);
    snprintf(says, sizeof says, "m is in use: process %ld trains there", (long)p.pid);
    REFUSED(cmd_train, says, RUN_ARGS, "-o", dir, "--steps", "9", "--resume");
    REFUSED(cmd_train, says, RUN_ARGS, "-o", dir, "--steps", "9", "--force");
    kill(p.pid, SIGKILL); /* the lock dies with it */
    tool_finish(&p, &r);
    tool_result_release(&r);
    long end = last_step(dir) + 3;
    run_to(dir, end, true);
    is_uninterrupted(dir, end);
}
END_TEST

/* ---- no room ---- */

/* The size of a file as a number of the blocks that the shell's ulimit counts in, less a few. */
static int blocks_below(const char *dir, const char *name)
{
    size_t n;
    free(read_file(path_join(dir, name), &n));
    ck_assert_uint_gt(n, 8192);
    return (int)(n / 512) - 4;
}

static void keep(const char *dir, const char *as)
{
    char command[2500];
    snprintf(command, sizeof command, "cp -r %s %s", dir, as);
    ck_assert_int_eq(system(command), 0);
}

/* A run of 9 steps, validated after 7 as any run, that finds no room for `starved` at its end. */
static void starve(const char *starved)
{
    const char *top = temp_dir(), *dir = path_join(top, "m"), *was = path_join(top, "was");
    char limit[64];
    struct tool_result r;
    run_to(dir, 7, false);
    keep(dir, was);
    snprintf(limit, sizeof limit, "ulimit -f %d; exec \"$@\"", blocks_below(dir, starved));
    const char *const words[] = {"/bin/sh", "-c", limit,      "sh", ttm(), "train", RUN_ARGS,
                                 "--steps", "9",  "--resume", "-o", dir,   NULL};
    tool_process(words, NULL, &r);
    ck_assert_int_eq(r.rc, 2);
    ck_assert_msg(strstr(r.log, "ttm train: cannot write ") && strstr(r.log, starved) &&
                      strstr(r.log, "File too large"),
                  "%s", r.log);
    tool_result_release(&r);
    ck_assert(same_file(dir, was, "train.state"));
    free(RUN(cmd_inspect, dir));
    ck_assert_int_eq(tool_entries(dir), tool_entries(was)); /* no half of a file */
    run_to(dir, 9, true);
    is_uninterrupted(dir, 9);
}

START_TEST(no_room_for_the_state)
{
    starve("train.state");
}
END_TEST

START_TEST(no_room_for_the_model)
{
    starve("model.safetensors");
}
END_TEST

/* A file system of its own that is filled to the last byte, in a mount namespace of its own, so that it
 * is gone with the process whatever happens. */
static const char *const full_disk =
    "dir=$1; shift; mount -t tmpfs -o size=4m none \"$dir\" || exit 77\n"
    "\"$@\" --steps 7 -o \"$dir/m\" >&2 || exit 78\n"
    "cp \"$dir/m/train.state\" \"$dir.state\" || exit 79\n"
    "dd if=/dev/zero of=\"$dir/fill\" bs=4096 2>/dev/null\n"
    "\"$@\" --steps 9 --resume -o \"$dir/m\"; [ $? = 2 ] || exit 80\n"
    "cmp \"$dir/m/train.state\" \"$dir.state\" || exit 81\n"
    "[ -z \"$(ls \"$dir\"/m/*.partial 2>/dev/null)\" ] || exit 82\n"
    "rm \"$dir/fill\"\n"
    "\"$@\" --steps 9 --resume -o \"$dir/m\" >&2 || exit 83\n"
    "cp -r \"$dir/m\" \"$dir.m\"\n";

static bool can_mount(void)
{
    return system("unshare -m sh -c 'mount -t tmpfs -o size=64k none /mnt' 2>/dev/null") == 0;
}

START_TEST(a_full_disk)
{
    const char *top = temp_dir(), *dir = path_join(top, "disk");
    struct tool_result r;
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    const char *const words[] = {
        "/usr/bin/unshare", "-m", "/bin/sh", "-c", full_disk, "sh", dir, ttm(), "train",
        RUN_ARGS,           NULL};
    tool_process(words, NULL, &r);
    ck_assert_msg(r.rc == 0, "%d: %s", r.rc, r.log);
    ck_assert_msg(strstr(r.log, "No space left on device") != NULL, "%s", r.log);
    tool_result_release(&r);
    is_uninterrupted(path_join(top, "disk.m"), 9);
}
END_TEST

/* ---- exit statuses ---- */

START_TEST(errors_exit_2_with_one_line)
{
    const char *dir = path_join(temp_dir(), "m");
    const struct {
        const char *const *args;
        const char *says;
    } bad[] = {
        {ARGS("-o", dir), "how long?"},
        {ARGS("-o", dir, "--steps", "x"), "--steps"},
        {ARGS("-o", dir, "--steps", "1", "--data", "/nonexistent/t"), "/nonexistent/t"},
        {ARGS("-o", "/nonexistent/dir/m", "--steps", "1"), "/nonexistent/dir/m"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tool_result r;
        tool_process(bad[i].args, NULL, &r);
        ck_assert_int_eq(r.rc, 2);
        ck_assert_msg(strncmp(r.log, "ttm train: ", 11) == 0 && strstr(r.log, bad[i].says), "%s",
                      r.log);
        ck_assert_ptr_eq(strchr(r.log, '\n'), r.log + strlen(r.log) - 1);
        ck_assert_str_eq(r.out, "");
        tool_result_release(&r);
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("train_process");
    TCase *t = tcase_create("train_process");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, sigterm_saves_and_exits_0);
    tcase_add_test(t, a_killed_run_goes_on);
    tcase_add_test(t, a_run_without_a_checkpoint_goes_on);
    tcase_add_test(t, two_trainers_do_not_share_a_directory);
    tcase_add_test(t, no_room_for_the_state);
    tcase_add_test(t, no_room_for_the_model);
    if (can_mount())
        tcase_add_test(t, a_full_disk);
    else
        skip("a_full_disk", "a tmpfs cannot be mounted here");
    tcase_add_test(t, errors_exit_2_with_one_line);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
