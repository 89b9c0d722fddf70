/* ttm generate as a conversation with a model that only continues texts: a line begins a text, an empty line goes
 * on with it. Plain lines of stdio: the terminal edits them, and a pipe works as well, which a library for
 * line editing would make harder, not easier. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "models/generate.h"

/* A SIGINT is forgotten; whether the loop may go on. */
static bool go_on(const struct tool *t)
{
    return !tool_stopped(t) || (t->resume && t->resume());
}

enum reading { LINE, AGAIN, END, FAILED };

/* Wait for a line of the terminal; false after a signal. Signals are let in by the wait alone: one that came
 * just before it would interrupt nothing. */
static bool prompt(const struct tool *t)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    sigset_t stopping, before;
    bool there = false;
    sigemptyset(&stopping);
    sigaddset(&stopping, SIGINT);
    sigaddset(&stopping, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &stopping, &before);
    fputs("> ", t->log);
    fflush(t->log);
    while (!there && !tool_stopped(t))
        there = ppoll(&p, 1, NULL, &before) >= 0 || errno != EINTR;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return there;
}

static enum reading read_line(const struct tool *t, char **line, size_t *cap, size_t *len)
{
    if (isatty(STDIN_FILENO) && !prompt(t)) {
        fputc('\n', t->log);
        return AGAIN;
    }
    errno = 0;
    ssize_t n = getline(line, cap, stdin);
    if (n >= 0) {
        *len = (size_t)n;
        while (*len && strchr("\r\n", (*line)[*len - 1]))
            --*len;
        return LINE;
    }
    if (errno == EINTR) {
        clearerr(stdin);
        fputc('\n', t->log);
        return AGAIN;
    }
    return ferror(stdin) ? FAILED : END;
}

int generate_loop(const struct tool *t, struct session *s, const struct generate_args *a,
                  struct err *err)
{
    struct buf text = {0};
    char *line = NULL;
    size_t cap = 0, len = 0;
    int rc = 0;
    if (isatty(STDIN_FILENO))
        fputs("A line is a prompt, an empty one goes on; Ctrl-C stops, Ctrl-D leaves.\n", t->log);
    while (rc == 0) {
        enum reading got = read_line(t, &line, &cap, &len);
        if (!go_on(t)) rc = tool_interrupted(err);
        if (got == FAILED) rc = err_set(err, ERR_IO, "cannot read standard input");
        if (rc || got == END) break;
        if (got == AGAIN) continue;
        struct err why = {0};
        struct buf said = {0};
        if (len) buf_clear(&text);
        if (len) buf_append(&text, line, len);
        int made = generate_once(t, s, a, &text, &said, &why);
        if (said.len) buf_append(&text, said.data, said.len);
        buf_release(&said);
        if (made == ERR_SHUTDOWN && !go_on(t))
            rc = tool_interrupted(err);
        else if (made && made != ERR_SHUTDOWN)
            fprintf(t->log, "%s\n", why.msg);
    }
    if (isatty(STDIN_FILENO)) fputc('\n', t->log);
    free(line);
    buf_release(&text);
    return rc;
}
