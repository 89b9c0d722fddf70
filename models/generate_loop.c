/* ttm generate as a conversation with a model that only continues texts: a line begins a text, an empty line goes
 * on with it. Plain lines of stdio: the terminal edits them, and a pipe works as well, which a library for
 * line editing would make harder, not easier. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "models/generate.h"

/* A SIGINT is forgotten; whether the loop may go on. */
static bool go_on(const struct tool *t)
{
    return !tool_stopped(t) || (t->resume && t->resume());
}

enum { LOOK_MS = 50 };
enum reading { LINE, AGAIN, END, FAILED };

/* Wait for a line of the terminal; false after a signal. A signal may come just before the wait, or to
 * another thread, where it would interrupt nothing: so the flag is looked at now and then. */
static bool prompt(const struct tool *t)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    fputs("> ", t->log);
    fflush(t->log);
    while (!tool_stopped(t))
        if (poll(&p, 1, LOOK_MS) > 0) return true;
    return false;
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
