#ifndef TTMD_MODELS_TOOL_H
#define TTMD_MODELS_TOOL_H

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>

#include "engine/base/cpu.h"
#include "engine/base/err.h"

/* What every subcommand of ttm is handed: where to write and when to give up. */
struct tool {
    FILE *out;                         /* results; borrowed */
    FILE *log;                         /* progress and remarks (stderr); borrowed */
    const volatile sig_atomic_t *stop; /* becomes 1 at SIGINT or SIGTERM; borrowed */
    bool (*resume)(
        void); /* forget a SIGINT and catch the next; false for other signals. NULL: never */
    struct cpu cpu;
};

static inline bool tool_stopped(const struct tool *t)
{
    return *t->stop != 0;
}

/* tool_interrupted -- what a command returns when it gave up because of a signal. */
int tool_interrupted(struct err *err);

/* A subcommand: argv[0..argc) are the words after its name. Returns 0 or a negative ERR_*, whose
 * message is printed by main, or TOOL_SAID: it failed, and another process of its job says why.
 * Whatever it was writing is finished, or was never there. */
enum { TOOL_SAID = 1 };
typedef int tool_command(const struct tool *t, int argc, char **argv, struct err *err);

tool_command cmd_init, cmd_generate, cmd_eval, cmd_inspect, cmd_bench, cmd_tokenizer;
tool_command cmd_compress, cmd_round, cmd_quantize, cmd_export, cmd_shapes, cmd_train, cmd_plot;
tool_command cmd_baseline, cmd_overlap;

#endif
