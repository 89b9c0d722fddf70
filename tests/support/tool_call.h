#ifndef TTMD_TESTS_TOOL_CALL_H
#define TTMD_TESTS_TOOL_CALL_H

#include <jansson.h>
#include <sys/types.h>

#include "models/tool.h"

/* Running ttm's subcommands in the test's own process (so that sanitizers see them), and programs of
 * the build as processes of their own. */
struct tool_result {
    int rc; /* what the command returned; of a process its exit status, 128 + n for signal n */
    struct err err;  /* in-process only */
    char *out, *log; /* what was written to the two streams; owned, NUL-terminated */
};

/* tool_call -- args is NULL-terminated, without the program's and the subcommand's name. */
void tool_call(tool_command *command, const char *const *args, struct tool_result *r);
#define TOOL(r, command, ...) tool_call((command), (const char *const[]){__VA_ARGS__, NULL}, (r))

/* RUN -- a command that is to succeed; what it printed is the caller's to free().
 * RUN_JSON -- the same, what it printed parsed; json_decref() it.
 * REFUSED -- one that is to fail with a message that has `says`, and to print nothing. */
#define RUN(command, ...) tool_ok((command), (const char *const[]){__VA_ARGS__, NULL})
#define RUN_JSON(command, ...) tool_json((command), (const char *const[]){__VA_ARGS__, NULL})
#define REFUSED(command, says, ...) \
    tool_refused((command), (says), (const char *const[]){__VA_ARGS__, NULL})
char *tool_ok(tool_command *command, const char *const *args);
json_t *tool_json(tool_command *command, const char *const *args);
void tool_refused(tool_command *command, const char *says, const char *const *args);

/* tool_number -- a number of an object; the test fails when it is none. */
double tool_number(const json_t *j, const char *key);

/* tool_process -- run the program args[0]; with `interrupt` it gets a SIGINT as soon as it has made
 * something in that directory, empty until then. */
void tool_process(const char *const *args, const char *interrupt, struct tool_result *r);

/* tool_start, tool_finish -- the same in two halves: between them the test may look at what the program
 * does and send it signals. It dies with the test. */
struct tool_running {
    pid_t pid;
    char out[1024], log[1024]; /* files of its streams */
};
void tool_start(const char *const *args, struct tool_running *p);
void tool_finish(const struct tool_running *p, struct tool_result *r);

/* tool_entries -- how many entries a directory has. */
int tool_entries(const char *dir);

void tool_result_release(struct tool_result *r);

#endif
