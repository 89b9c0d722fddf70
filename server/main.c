/* ttmd, the daemon: configuration and signals, then server_run(). */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "config/config.h"
#include "engine/base/cpu.h"
#include "engine/base/log.h"
#include "engine/base/version.h"
#include "server/healthcheck.h"
#include "server/keys.h"
#include "server/server.h"

static int stop_fd = -1, reload_fd = -1; /* a handler has no other argument */

static void on_signal(int number)
{
    int saved = errno;
    uint64_t one = 1;
    if (write(number == SIGHUP ? reload_fd : stop_fd, &one, sizeof one) < 0)
        errno = saved; /* 2^64 signals: nothing is lost */
    errno = saved;
}

static int catch_signals(void)
{
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    reload_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return stop_fd < 0 || reload_fd < 0 || sigaction(SIGTERM, &act, NULL) ||
                   sigaction(SIGHUP, &act, NULL) || sigaction(SIGINT, &act, NULL) ||
                   sigaction(SIGPIPE, &ignore, NULL)
               ? -1
               : 0;
}

static int print_and_end(struct buf *text)
{
    size_t n = text->len ? fwrite(text->data, 1, text->len, stdout) : 0;
    int status = n == text->len && fflush(stdout) == 0 ? 0 : 1;
    buf_release(text);
    return status;
}

static int healthcheck(const struct config *cfg)
{
    struct buf line = {0};
    int status = healthcheck_run(cfg, &line);
    return print_and_end(&line) || status ? 1 : 0;
}

static int check(const struct config *cfg, const struct cpu *cpu)
{
    struct buf line = {0};
    struct err err = {0};
    if (server_check(cfg, cpu, &err)) {
        fprintf(stderr, "ttmd: %s\n", err.msg);
        return 2;
    }
    buf_puts(&line, "the configuration is valid\n");
    return print_and_end(&line);
}

static int act(const struct config *cfg, const struct cpu *cpu, enum config_action action)
{
    static void (*const texts[])(struct buf *) = {[CONFIG_HELP] = config_help,
                                                  [CONFIG_MARKDOWN] = config_markdown,
                                                  [CONFIG_MAN] = config_man,
                                                  [CONFIG_BASH] = config_bash};
    struct buf text = {0};
    switch (action) {
    case CONFIG_VERSION:
        buf_printf(&text, "ttmd %s%s%s\n", TTMD_VERSION, *TTMD_GIT ? " " : "", TTMD_GIT);
        return print_and_end(&text);
    case CONFIG_HELP:
    case CONFIG_MARKDOWN:
    case CONFIG_MAN:
    case CONFIG_BASH:
        texts[action](&text);
        return print_and_end(&text);
    case CONFIG_PRINT:
        config_print(cfg, &text);
        return print_and_end(&text);
    case CONFIG_CHECK:
        return check(cfg, cpu);
    case CONFIG_HEALTHCHECK:
        return healthcheck(cfg);
    case CONFIG_RUN:
        break;
    }
    struct log log;
    log_init(&log, STDERR_FILENO, (enum log_level)log_level_parse(cfg->log_level),
             (enum log_format)log_format_parse(cfg->log_format));
    int status = 1;
    if (catch_signals())
        log_at(&log, LOG_ERROR, "cannot catch signals", LOG_S("error", strerror(errno)));
    else
        status = server_run(cfg, &log, cpu, stop_fd, reload_fd, config_notify_socket(environ));
    log_release(&log);
    return status;
}

/* The line goes where it can be appended to the file, the key to the terminal. */
static int new_key(const char *label)
{
    struct buf key = {0}, line = {0};
    struct err err = {0};
    int status = 2;
    if (keys_new(label, &key, &line, &err)) {
        fprintf(stderr, "ttmd: %s\n", err.msg);
    } else {
        fprintf(stderr, "the key, shown this once: %s\n", key.data);
        status = print_and_end(&line);
    }
    buf_release(&key);
    buf_release(&line);
    return status;
}

/* --new-api-key LABEL or --new-api-key=LABEL, which is not of the configuration: the index of it, 0 = none. */
static int find_new_key(int argc, char **argv)
{
    static const char flag[] = "--new-api-key";
    size_t n = sizeof flag - 1;
    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], flag, n) && (!argv[i][n] || argv[i][n] == '=')) return i;
    return 0;
}

int main(int argc, char **argv)
{
    int at = find_new_key(argc, argv);
    if (at) {
        const char *equals = strchr(argv[at], '=');
        const char *label = equals ? equals + 1 : at + 1 < argc ? argv[at + 1] : "";
        if (argc <= (equals ? 2 : 3)) return new_key(label);
        fprintf(stderr,
                "ttmd: --new-api-key LABEL prints a key and ends: expected no other flag\n");
        return 2;
    }
    struct cpu cpu;
    struct config cfg;
    struct err err = {0};
    enum config_action action = CONFIG_RUN;
    cpu_detect(&cpu);
    cpu_blas_fix(&cpu, argv);
    if (config_load(&cfg, argc, argv, environ, &action, &err)) {
        fprintf(stderr, "ttmd: %s\n", err.msg);
        return action == CONFIG_HEALTHCHECK ? 1 : 2; /* what runs the check knows 0 and 1 */
    }
    int status = act(&cfg, &cpu, action);
    config_release(&cfg);
    return status;
}
