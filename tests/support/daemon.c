/* Starting and stopping the daemon under test. Its log goes to a file, from which the port is read: a
 * pipe would have to be drained by somebody. */
#include "tests/support/daemon.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <fcntl.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/gpt2/tokenizer_write.h"
#include "tests/support/harness.h"
#include "tests/support/httpc.h"
#include "tests/support/make_model.h"

static void sleep_ms(int ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* The end of the log, or what a sanitizer found, short enough for a message of libcheck; on stdout the
 * whole of it. */
static const char *log_tail(const struct daemon *d)
{
    static char tail[1500];
    size_t n;
    char *text = read_file(d->log, &n);
    printf("log of ttmd:\n%s\n", text);
    const char *found = strstr(text, "Sanitizer: ");
    if (!found) found = n >= sizeof tail ? text + (n + 1 - sizeof tail) : text;
    snprintf(tail, sizeof tail, "%s", found);
    free(text);
    return tail;
}

static void child(const char *model, const char *const *flags, const char *log)
{
    const char *argv[40] = {build_path("ttmd"), "--model", model, "--port", "0",
                            "--log-level",      "debug"};
    size_t n = 7;
    for (; flags && *flags && n < 39; flags++)
        argv[n++] = *flags;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, 2) < 0) _exit(126);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static int logged_port(const char *log)
{
    if (access(log, R_OK)) return 0;
    char *text = read_file(log, NULL);
    const char *line = strstr(text, "listening"), *p = line ? strstr(line, "port=") : NULL;
    int port = p && strchr(p, '\n') ? (int)strtol(p + 5, NULL, 10) : 0;
    free(text);
    return port;
}

void daemon_spawn(struct daemon *d, const char *model, const char *const *flags)
{
    *d = (struct daemon){0};
    snprintf(d->log, sizeof d->log, "%s/ttmd.log", temp_dir());
    d->pid = fork();
    ck_assert_int_ge(d->pid, 0);
    if (d->pid == 0) child(model, flags, d->log);
    for (int i = 0; i < 6000 && !d->port && d->pid; i++) {
        bool ended = waitpid(d->pid, &d->status, WNOHANG) == d->pid;
        d->port = logged_port(d->log);
        if (ended) d->pid = 0;
        if (ended && !d->port)
            ck_abort_msg("ttmd ended with status %d:\n%s", d->status, log_tail(d));
        if (!d->port) sleep_ms(1);
    }
    ck_assert_msg(d->port != 0, "ttmd did not listen within 30 s");
}

void daemon_start(struct daemon *d, const char *model, const char *const *flags)
{
    daemon_spawn(d, model, flags);
    for (int i = 0; i < 6000; i++) {
        struct httpc c;
        int status = http_get(&c, d->port, "/readyz");
        httpc_close(&c);
        if (status == 200) return;
        sleep_ms(5);
    }
    ck_abort_msg("ttmd was not ready within 30 s:\n%s", log_tail(d));
}

int daemon_wait(struct daemon *d, int timeout_ms)
{
    uint64_t end = clock_ns() + (uint64_t)timeout_ms * 1000000u;
    int status = d->status;
    while (d->pid) {
        pid_t got = waitpid(d->pid, &status, WNOHANG);
        if (got == d->pid) break;
        ck_assert_msg(got == 0, "waitpid: %s", strerror(errno));
        if (clock_ns() > end) {
            kill(d->pid, SIGKILL);
            waitpid(d->pid, &status, 0);
            ck_abort_msg("ttmd did not end within %d ms:\n%s", timeout_ms, log_tail(d));
        }
        sleep_ms(2);
    }
    d->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void daemon_stop(struct daemon *d)
{
    if (d->pid <= 0) return;
    kill(d->pid, SIGTERM);
    int status = daemon_wait(d, 60000);
    ck_assert_msg(status == 0, "ttmd ended with status %d:\n%s", status, log_tail(d));
}

int daemon_log_has(const struct daemon *d, const char *text)
{
    char *log = read_file(d->log, NULL);
    int found = strstr(log, text) != NULL;
    free(log);
    return found;
}

double daemon_peak_bytes(const struct daemon *d)
{
    char path[64], line[256];
    double kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)d->pid);
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    while (kib == 0 && fgets(line, sizeof line, f))
        if (strncmp(line, "VmHWM:", 6) == 0) kib = strtod(line + 6, NULL);
    fclose(f);
    ck_assert_double_gt(kib, 0);
    return kib * 1024;
}

static void fill_model(const char *dir, const struct make_model *m)
{
    struct err err = {0};
    make_model(dir, m);
    if (tokenizer_write_bytes(dir, m->vocab, &err)) ck_abort_msg("%s", err.msg);
}

const char *daemon_tiny_model(void)
{
    static char dir[256];
    if (!*dir) {
        snprintf(dir, sizeof dir, "%s", temp_dir());
        fill_model(dir, &(struct make_model){.vocab = DAEMON_VOCAB, .positions = 64});
    }
    return dir;
}

const char *daemon_ttm_model(void)
{
    static char dir[256];
    if (!*dir) {
        snprintf(dir, sizeof dir, "%s", temp_dir());
        fill_model(dir, &(struct make_model){.vocab = DAEMON_VOCAB,
                                             .positions = 64,
                                             .ttm = {"(4,4)(4,4)(2,6)", "(2,4)(16,8)",
                                                     "(4,8)(8,8)(1,2)", "(8,8)(8,4)(2,1)"},
                                             .ttm_rank = 6});
    }
    return dir;
}

const char *daemon_slow_model(void)
{
    static char dir[256];
    if (!*dir) {
        snprintf(dir, sizeof dir, "%s", temp_dir());
        struct make_model m = {
            .vocab = DAEMON_VOCAB, .positions = 2048, .channels = 256, .layers = 3};
        if (harness_sanitized()) m.channels = 96;
        fill_model(dir, &m);
    }
    return dir;
}
