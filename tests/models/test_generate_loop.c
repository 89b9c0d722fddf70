/* ttm generate as a loop of prompts: lines from a pipe, and a terminal (a pseudo-terminal) with its Ctrl-C and
 * Ctrl-D. */
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "tests/support/daemon.h"
#include "tests/support/harness.h"
#include "tests/support/tool_call.h"

/* Run a shell line that feeds the program. */
static void shell(struct tool_result *r, const char *model, const char *input, const char *flags)
{
    char line[4096];
    snprintf(line, sizeof line, "printf '%s' | exec %s generate %s %s", input, build_path("ttm"),
             model, flags);
    tool_process((const char *const[]){"/bin/sh", "-c", line, NULL}, NULL, r);
}

START_TEST(lines_are_prompts)
{
    struct tool_result loop, one;
    const char *model = daemon_tiny_model();
    const char *flags = "--seed 7 --max-tokens 9 --ids --ignore-eos -i";
    shell(&loop, model, "abc\\nxyz\\n", flags);
    ck_assert_msg(loop.rc == 0, "%s", loop.log);
    tool_process((const char *const[]){build_path("ttm"), "generate", model, "-p", "abc", "--seed",
                                       "7", "--max-tokens", "9", "--ids", "--ignore-eos", NULL},
                 NULL, &one);
    size_t n = strlen(one.out);
    ck_assert_int_eq(strncmp(loop.out, one.out, n), 0);
    ck_assert_str_ne(loop.out + n, one.out);
    ck_assert_ptr_nonnull(strchr(loop.out + n, '\n'));
    ck_assert_ptr_nonnull(strstr(loop.log, "seed 7"));
    tool_result_release(&loop);
    tool_result_release(&one);
}
END_TEST

/* An empty line goes on with the text, whose beginning is left out when it outgrows the context (64). */
START_TEST(empty_lines_go_on)
{
    struct tool_result r;
    shell(&r, daemon_tiny_model(), "abc\\n\\n\\n\\n\\n\\n", "--max-tokens 20 --ignore-eos -i");
    ck_assert_msg(r.rc == 0, "%s", r.log);
    int n = 0, last = 0;
    for (const char *at = r.log; (at = strstr(at, "prompt ")) != NULL; at++, n++)
        last = (int)strtol(at + 7, NULL, 10);
    ck_assert_int_eq(n, 6);
    ck_assert_int_eq(last, 64 - 20);
    tool_result_release(&r);
}
END_TEST

START_TEST(a_prompt_is_a_contradiction)
{
    struct tool_result r;
    shell(&r, daemon_tiny_model(), "abc", "-i -p x");
    ck_assert_int_eq(r.rc, 2);
    ck_assert_ptr_nonnull(strstr(r.log, "--interactive"));
    tool_result_release(&r);
}
END_TEST

/* ---- a terminal ---- */

struct terminal {
    int fd;
    pid_t pid;
    struct buf seen;
};

static void terminal_open(struct terminal *t, const char *model)
{
    *t = (struct terminal){0};
    const char *ttm = build_path("ttm");
    t->pid = forkpty(&t->fd, NULL, NULL, NULL);
    ck_assert_int_ge(t->pid, 0);
    if (t->pid == 0) {
        execl(ttm, ttm, "generate", model, "--ignore-eos", "--kernels", "scalar", "--threads", "1",
              "--max-tokens", "2000", (char *)NULL);
        _exit(127);
    }
}

/* Read until `text` has come `times` times in all. */
static void terminal_wait(struct terminal *t, const char *text, int times)
{
    for (int rounds = 0; rounds < 3000; rounds++) {
        int n = 0;
        for (const char *at = t->seen.data; at && (at = strstr(at, text)) != NULL; at++)
            n++;
        if (n >= times) return;
        char piece[1024];
        struct pollfd p = {.fd = t->fd, .events = POLLIN};
        if (poll(&p, 1, 10) <= 0) continue;
        ssize_t got = read(t->fd, piece, sizeof piece);
        if (got <= 0) break;
        for (ssize_t i = 0; i < got; i++) /* texts of a random model hold anything */
            buf_putc(&t->seen, piece[i] ? piece[i] : '?');
    }
    ck_abort_msg("\"%s\" did not come: %.400s", text, t->seen.data ? t->seen.data : "");
}

static void terminal_type(struct terminal *t, const char *text)
{
    ck_assert_int_eq(write(t->fd, text, strlen(text)), (ssize_t)strlen(text));
}

START_TEST(a_terminal_stops_and_leaves)
{
    struct terminal t;
    terminal_open(&t, daemon_slow_model());
    terminal_wait(&t, "Ctrl-D leaves", 1);
    terminal_wait(&t, "> ", 1);
    terminal_type(&t, "\x03"); /* at a prompt: a new one */
    terminal_wait(&t, "> ", 2);
    size_t before = t.seen.len;
    terminal_type(&t, "abc\n");
    for (int i = 0; i < 500 && t.seen.len < before + 16; i++) { /* the echo and some text */
        char piece[64];
        struct pollfd p = {.fd = t.fd, .events = POLLIN};
        if (poll(&p, 1, 20) <= 0) continue;
        ssize_t got = read(t.fd, piece, sizeof piece);
        for (ssize_t k = 0; k < got; k++)
            buf_putc(&t.seen, piece[k] ? piece[k] : '?');
    }
    buf_clear(&t.seen);
    terminal_type(&t, "\x03"); /* in a text: it ends */
    terminal_wait(&t, "\n> ", 1);
    ck_assert_ptr_null(strstr(t.seen.data, "finish length"));
    terminal_type(&t, "\x04");
    int status = 0;
    for (int i = 0; i < 1000 && waitpid(t.pid, &status, WNOHANG) == 0; i++) {
        char piece[256];
        struct pollfd p = {.fd = t.fd, .events = POLLIN};
        if (poll(&p, 1, 10) > 0 && read(t.fd, piece, sizeof piece) <= 0) usleep(1000);
    }
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    close(t.fd);
    buf_release(&t.seen);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ttm generate -i");
    TCase *t = tcase_create("loop");
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, lines_are_prompts);
    tcase_add_test(t, empty_lines_go_on);
    tcase_add_test(t, a_prompt_is_a_contradiction);
    tcase_add_test(t, a_terminal_stops_and_leaves);
    return s;
}
TEST_MAIN(suite)
