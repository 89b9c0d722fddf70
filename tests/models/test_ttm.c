/* The program from outside: exit statuses, one line of error, help of every command, what an
 * interrupt leaves behind. */
#include <string.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "tests/support/harness.h"
#include "tests/support/tool_call.h"

#define TTM(r, ...) \
    tool_process((const char *const[]){build_path("ttm"), __VA_ARGS__, NULL}, NULL, (r))

static void one_line(const struct tool_result *r, const char *says)
{
    ck_assert_int_eq(r->rc, 2);
    ck_assert_str_eq(r->out, "");
    ck_assert_msg(strstr(r->log, says) != NULL, "\"%s\" does not say \"%s\"", r->log, says);
    ck_assert_int_eq(strncmp(r->log, "ttm", 3), 0);
    ck_assert_str_eq(strchr(r->log, '\n') ? strchr(r->log, '\n') : "nothing", "\n");
}

static const char *const commands[] = {"init",     "generate", "eval",   "inspect", "tokenizer",
                                       "compress", "round",    "export", "shapes",  "bench"};

START_TEST(every_command_has_help)
{
    struct tool_result r;
    char usage[64];
    TTM(&r, commands[_i], "--help");
    ck_assert_int_eq(r.rc, 0);
    ck_assert_str_eq(r.log, "");
    snprintf(usage, sizeof usage, "usage: ttm %s ", commands[_i]);
    ck_assert_int_eq(strncmp(r.out, usage, strlen(usage)), 0);
    tool_result_release(&r);
    TTM(&r, commands[_i], "--no-such-flag");
    one_line(&r, "unknown flag --no-such-flag");
    tool_result_release(&r);
    TTM(&r, "--help");
    ck_assert_int_eq(r.rc, 0);
    ck_assert_ptr_nonnull(strstr(r.out, commands[_i]));
    tool_result_release(&r);
}
END_TEST

/* The manual has every command and every flag that its --help has, and nothing in it is taken for a macro. */
START_TEST(the_manual_is_whole)
{
    struct tool_result man, help;
    char flag[80];
    TTM(&man, "help", "--man");
    ck_assert_int_eq(man.rc, 0);
    ck_assert_int_eq(strncmp(man.out, ".TH TTM 1 ", 10), 0);
    for (const char *at = man.out; (at = strstr(at, "\n.")) != NULL; at++)
        ck_assert_msg(strchr("TSPRn", at[2]) || !strncmp(at + 1, ".fi", 3), "%.40s", at + 1);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        TTM(&help, commands[i], "--help");
        for (const char *at = help.out; (at = strstr(at, "\n  --")) != NULL; at++) {
            struct buf want = {0};
            size_t n = strcspn(at + 3, " ,\n");
            snprintf(flag, sizeof flag, "%.*s", (int)n, at + 3);
            for (const char *p = flag; *p; p++)
                buf_puts(&want, *p == '-' ? "\\-" : (char[]){*p, 0});
            ck_assert_msg(!strcmp(flag, "--help") || strstr(man.out, want.data) != NULL, "%s of %s",
                          flag, commands[i]);
            buf_release(&want);
        }
        tool_result_release(&help);
    }
    tool_result_release(&man);
}
END_TEST

/* What bash offers behind some words. */
static void completes(const char *words, int at, const char *want)
{
    struct tool_result r;
    char line[1024];
    snprintf(line, sizeof line,
             "source <(%s help --bash) && COMP_WORDS=(%s) COMP_CWORD=%d && _ttm && "
             "echo \" ${COMPREPLY[*]} \"",
             build_path("ttm"), words, at);
    tool_process((const char *const[]){"/bin/bash", "-c", line, NULL}, NULL, &r);
    ck_assert_msg(r.rc == 0 && strstr(r.out, want), "%s: %s%s", words, r.out, r.log);
    tool_result_release(&r);
}

START_TEST(bash_completes)
{
    completes("ttm co", 1, " compress ");
    completes("ttm generate --top", 2, " --top-k --top-p ");
    completes("ttm generate --kv-dtype f", 3, " f32 f16 ");
    completes("ttm bench --layer-", 2, " --layer-rank ");
    completes("ttm inspect mod", 2, "  ");
}
END_TEST

START_TEST(errors_are_one_line_and_status_2)
{
    struct tool_result r;
    TTM(&r, "compres");
    one_line(&r, "unknown command \"compres\"");
    tool_result_release(&r);
    tool_process((const char *const[]){build_path("ttm"), NULL}, NULL, &r);
    one_line(&r, "no command");
    tool_result_release(&r);
    TTM(&r, "inspect", "/nonexistent/model");
    one_line(&r, "/nonexistent/model");
    tool_result_release(&r);
    TTM(&r, "eval", "/nonexistent/model", "--text", "/dev/null");
    one_line(&r, "/dev/null is empty");
    tool_result_release(&r);
    TTM(&r, "bench", "/nonexistent/model");
    one_line(&r, "/nonexistent/model");
    tool_result_release(&r);
    TTM(&r, "--version");
    ck_assert_int_eq(r.rc, 0);
    ck_assert_int_eq(strncmp(r.out, "ttm 0.", 6), 0);
    tool_result_release(&r);
}
END_TEST

START_TEST(a_full_disk_is_an_error)
{
    struct tool_result r;
    const char *model = path_join(temp_dir(), "m");
    TTM(&r, "init", "-o", model);
    ck_assert_int_eq(r.rc, 0);
    tool_result_release(&r);
    char line[2048];
    char inspect[1100];
    snprintf(inspect, sizeof inspect, "inspect %s", model);
    const char *const words[] = {inspect, "--version", "--help"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        snprintf(line, sizeof line, "exec %s %s >/dev/full", build_path("ttm"), words[i]);
        tool_process((const char *const[]){"/bin/sh", "-c", line, NULL}, NULL, &r);
        one_line(&r, "cannot write to standard output");
        tool_result_release(&r);
    }
}
END_TEST

START_TEST(an_interrupt_leaves_nothing)
{
    struct tool_result r;
    const char *top = temp_dir();
    char out[1024];
    snprintf(out, sizeof out, "%s/large", top); /* a gigabyte: time enough */
    tool_process((const char *const[]){build_path("ttm"), "init", "--preset", "gpt2-medium", "-o",
                                       out, NULL},
                 top, &r);
    ck_assert_msg(r.rc == 130, "status %d: %s", r.rc, r.log);
    ck_assert_str_eq(r.out, "");
    ck_assert_ptr_nonnull(strstr(r.log, "interrupted"));
    tool_result_release(&r);
    ck_assert_int_eq(tool_entries(top), 0);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ttm");
    TCase *t = tcase_create("ttm");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, every_command_has_help, 0, (int)(sizeof commands / sizeof *commands));
    tcase_add_test(t, the_manual_is_whole);
    if (access("/bin/bash", X_OK) == 0)
        tcase_add_test(t, bash_completes);
    else
        skip("completion", "no /bin/bash");
    tcase_add_test(t, errors_are_one_line_and_status_2);
    tcase_add_test(t, a_full_disk_is_an_error);
    tcase_add_test(t, an_interrupt_leaves_nothing);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
