/* Files that are replaced whole: what was there stays until the new one is complete, whatever goes wrong
 * in between, and nothing is left beside it by a writer that lives. */
#include "models/atomic_file.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/harness.h"
#include "tests/support/tool_call.h"

static void holds(const char *path, const char *text)
{
    size_t n;
    char *s = read_file(path, &n);
    ck_assert_uint_eq(n, strlen(text));
    ck_assert_mem_eq(s, text, n);
    free(s);
}

static void put(const char *path, const char *text)
{
    struct err err = {0};
    ck_assert_msg(atomic_file_put(path, text, strlen(text), &err) == 0, "%s", err.msg);
}

START_TEST(replaces_at_commit_only)
{
    const char *dir = temp_dir(), *path = path_join(dir, "f");
    struct atomic_file f;
    put(path, "old");
    ck_assert_int_eq(atomic_file_open(&f, path, NULL), 0);
    ck_assert_int_eq(atomic_file_write(&f, "new", 3, NULL), 0);
    ck_assert_int_eq(atomic_file_write(&f, "er", 2, NULL), 0);
    holds(path, "old");
    ck_assert_int_eq(atomic_file_commit(&f, NULL), 0);
    holds(path, "newer");
    atomic_file_abort(&f);
    holds(path, "newer");
    put(path, "");
    holds(path, "");
    ck_assert_int_eq(tool_entries(dir), 1);
}
END_TEST

START_TEST(abort_leaves_the_old)
{
    const char *dir = temp_dir(), *path = path_join(dir, "f");
    struct atomic_file f;
    put(path, "old");
    ck_assert_int_eq(atomic_file_open(&f, path, NULL), 0);
    ck_assert_int_eq(atomic_file_write(&f, "new", 3, NULL), 0);
    ck_assert_int_eq(tool_entries(dir), 2);
    atomic_file_abort(&f);
    holds(path, "old");
    ck_assert_int_eq(tool_entries(dir), 1);
}
END_TEST

/* In a process of its own: 0 when `body` returned 0. */
static int in_child(int (*body)(const char *), const char *path)
{
    int status;
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) _exit(body(path));
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int die_halfway(const char *path)
{
    struct atomic_file f;
    if (atomic_file_open(&f, path, NULL) || atomic_file_write(&f, "half of a long one", 18, NULL))
        return 1;
    raise(SIGKILL);
    return 1;
}

START_TEST(a_dead_writer_harms_nothing)
{
    const char *dir = temp_dir(), *path = path_join(dir, "f");
    put(path, "old");
    ck_assert_int_eq(in_child(die_halfway, path), 128 + SIGKILL);
    holds(path, "old");
    ck_assert_int_eq(tool_entries(dir), 2); /* its half is there, */
    put(path, "new");                       /* and in nobody's way */
    holds(path, "new");
    ck_assert_int_eq(tool_entries(dir), 1);
}
END_TEST

static int exceed_limit(const char *path)
{
    static char large[8192];
    struct err err = {0};
    const struct rlimit r = {.rlim_cur = 4096, .rlim_max = 4096};
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &r) != 0) return 2;
    if (atomic_file_put(path, large, sizeof large, &err) != ERR_IO) return 3;
    return strstr(err.msg, path) && strstr(err.msg, "File too large") ? 0 : 4;
}

START_TEST(no_room_leaves_the_old)
{
    const char *dir = temp_dir(), *path = path_join(dir, "f");
    put(path, "old");
    ck_assert_int_eq(in_child(exceed_limit, path), 0);
    holds(path, "old");
    ck_assert_int_eq(tool_entries(dir), 1);
}
END_TEST

START_TEST(errors_name_the_file)
{
    const char *dir = temp_dir(), *sub = path_join(dir, "sub");
    struct err err = {0};
    ck_assert_int_eq(atomic_file_put("/nonexistent/f", "x", 1, &err), ERR_IO);
    ck_assert_ptr_nonnull(strstr(err.msg, "cannot write /nonexistent/f: No such file"));
    err = (struct err){0};
    ck_assert_int_eq(mkdir(sub, 0700), 0);
    ck_assert_int_eq(atomic_file_put(sub, "x", 1, &err), ERR_IO);
    ck_assert_ptr_nonnull(strstr(err.msg, sub));
    ck_assert_int_eq(tool_entries(dir), 1);
    err = (struct err){0};
    ck_assert_int_eq(atomic_file_sync_dir("/nonexistent/f", &err), ERR_IO);
    ck_assert_ptr_nonnull(strstr(err.msg, "cannot synchronise /nonexistent"));
}
END_TEST

START_TEST(names_without_a_directory)
{
    const char *dir = temp_dir();
    char here[1024];
    ck_assert_ptr_nonnull(getcwd(here, sizeof here));
    ck_assert_int_eq(chdir(dir), 0);
    put("plain", "x");
    holds("plain", "x");
    ck_assert_int_eq(chdir(here), 0);
    ck_assert_int_eq(atomic_file_sync_dir("/f", NULL), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("atomic_file");
    TCase *t = tcase_create("atomic_file");
    tcase_add_test(t, replaces_at_commit_only);
    tcase_add_test(t, abort_leaves_the_old);
    tcase_add_test(t, a_dead_writer_harms_nothing);
    tcase_add_test(t, no_room_leaves_the_old);
    tcase_add_test(t, errors_name_the_file);
    tcase_add_test(t, names_without_a_directory);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
