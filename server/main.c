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
#include "server/server.h"

static int signal_fd = -1; /* a handler has no other argument */

static void on_signal(int number)
{
    (void)number;
    int saved = errno;
    uint64_t one = 1;
    if (write(signal_fd, &one, sizeof one) < 0) errno = saved; /* 2^64 signals: nothing is lost */
    errno = saved;
}

static int catch_signals(void)
{
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    signal_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return signal_fd < 0 || sigaction(SIGTERM, &act, NULL) || sigaction(SIGINT, &act, NULL) ||
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

static int act(const struct config *cfg, const struct cpu *cpu, enum config_action action)
{
    struct buf text = {0};
    switch (action) {
    case CONFIG_VERSION:
        buf_printf(&text, "ttmd %s%s%s\n", TTMD_VERSION, *TTMD_GIT ? " " : "", TTMD_GIT);
        return print_and_end(&text);
    case CONFIG_HELP:
        config_help(&text);
        return print_and_end(&text);
    case CONFIG_MARKDOWN:
        config_markdown(&text);
        return print_and_end(&text);
    case CONFIG_PRINT:
        config_print(cfg, &text);
        return print_and_end(&text);
    case CONFIG_CHECK:
        buf_puts(&text, "the configuration is valid\n");
        return print_and_end(&text);
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
        status = server_run(cfg, &log, cpu, signal_fd);
    log_release(&log);
    return status;
}

int main(int argc, char **argv)
{
    struct cpu cpu;
    struct config cfg;
    struct err err = {0};
    enum config_action action = CONFIG_RUN;
    cpu_detect(&cpu);
    cpu_blas_fix(&cpu, argv);
    if (config_load(&cfg, argc, argv, environ, &action, &err)) {
        fprintf(stderr, "ttmd: %s\n", err.msg);
        return 2;
    }
    int status = act(&cfg, &cpu, action);
    config_release(&cfg);
    return status;
}
