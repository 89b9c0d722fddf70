/* Commands take their streams as arguments, so most tests call them directly; exit statuses, signals
 * and the dispatch can only be seen from outside, so a few start the program. Its streams go to
 * files: no pipe can fill up and block it. */
#include "tests/support/tool_call.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/harness.h"

enum { MAX_ARGS = 64 };

void tool_call(tool_command *command, const char *const *args, struct tool_result *r)
{
    static volatile sig_atomic_t never;
    char *argv[MAX_ARGS];
    int argc = 0;
    size_t out_len, log_len;
    *r = (struct tool_result){0};
    for (; args[argc]; argc++) {
        ck_assert_int_lt(argc, MAX_ARGS - 1);
        argv[argc] = strdup(args[argc]);
    }
    argv[argc] = NULL;
    struct tool t = {.out = open_memstream(&r->out, &out_len),
                     .log = open_memstream(&r->log, &log_len),
                     .stop = &never};
    cpu_detect(&t.cpu);
    r->rc = command(&t, argc, argv, &r->err);
    fclose(t.out);
    fclose(t.log);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
}

char *tool_ok(tool_command *command, const char *const *args)
{
    struct tool_result r;
    tool_call(command, args, &r);
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    free(r.log);
    return r.out;
}

json_t *tool_json(tool_command *command, const char *const *args)
{
    json_error_t e;
    char *out = tool_ok(command, args);
    json_t *j = json_loads(out, JSON_REJECT_DUPLICATES, &e);
    ck_assert_msg(j != NULL, "%s: %s", e.text, out);
    free(out);
    return j;
}

void tool_refused(tool_command *command, const char *says, const char *const *args)
{
    struct tool_result r;
    tool_call(command, args, &r);
    ck_assert_msg(r.rc < 0, "\"%s\" was expected", says);
    ck_assert_msg(strstr(r.err.msg, says) != NULL, "\"%s\" does not say \"%s\"", r.err.msg, says);
    ck_assert_str_eq(r.out, "");
    tool_result_release(&r);
}

double tool_number(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    ck_assert_msg(json_is_number(v), "%s", key);
    return json_number_value(v);
}

static void child(const char *const *args, const char *out, const char *log)
{
    int null = open("/dev/null", O_RDONLY);
    int o = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int l = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (null < 0 || o < 0 || l < 0 || dup2(null, 0) < 0 || dup2(o, 1) < 0 || dup2(l, 2) < 0)
        _exit(126);
    char *argv[MAX_ARGS];
    int argc = 0;
    for (; args[argc] && argc < MAX_ARGS - 1; argc++)
        argv[argc] = strdup(args[argc]);
    argv[argc] = NULL;
    execv(argv[0], argv);
    _exit(127);
}

int tool_entries(const char *dir)
{
    DIR *d = opendir(dir);
    int n = -2; /* "." and ".." */
    ck_assert_ptr_nonnull(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

void tool_start(const char *const *args, struct tool_running *p)
{
    const char *dir = temp_dir();
    snprintf(p->out, sizeof p->out, "%s/out", dir);
    snprintf(p->log, sizeof p->log, "%s/log", dir);
    pid_t parent = getpid();
    p->pid = fork();
    ck_assert_int_ge(p->pid, 0);
    if (p->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) child(args, p->out, p->log);
        _exit(126);
    }
}

void tool_finish(const struct tool_running *p, struct tool_result *r)
{
    int status;
    *r = (struct tool_result){0};
    ck_assert_int_eq(waitpid(p->pid, &status, 0), p->pid);
    r->rc = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    r->out = read_file(p->out, NULL);
    r->log = read_file(p->log, NULL);
}

void tool_process(const char *const *args, const char *interrupt, struct tool_result *r)
{
    struct tool_running p;
    tool_start(args, &p);
    if (interrupt) {
        for (int i = 0; i < 20000 && tool_entries(interrupt) == 0; i++)
            usleep(1000);
        kill(p.pid, SIGINT);
    }
    tool_finish(&p, r);
}

void tool_result_release(struct tool_result *r)
{
    free(r->out);
    free(r->log);
    *r = (struct tool_result){0};
}
