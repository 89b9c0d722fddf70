#ifndef TTMD_MODELS_GENERATE_H
#define TTMD_MODELS_GENERATE_H

#include "models/session.h"

/* What ttm generate is asked for. */
struct generate_args {
    const char *prompt, *prompt_file;
    int64_t max_tokens, min_tokens, n, seed; /* max_tokens and seed: -1 = not given */
    bool ignore_eos, ids, echo, interactive;
    struct option_list stop;
    int64_t top_k;
    double temperature, top_p, min_p, typical_p;
    double repetition, presence, frequency;
    struct session_flags session;
};

/* generate_once -- continue a text and print it, with a line of figures to the log.
 *
 *   text  empty: from end-of-text; borrowed
 *   said  the first choice's text is appended, also of one that was stopped; NULL: not wanted
 *
 * Errors  ERR_TOO_LONG, ERR_INVALID; ERR_SHUTDOWN when a signal came.
 */
int generate_once(const struct tool *t, struct session *s, const struct generate_args *a,
                  const struct buf *text, struct buf *said, struct err *err);

/* generate_loop -- prompts from standard input, a line each, until its end. SIGINT ends the text that is
 * being written, or begins a new prompt. Errors: ERR_SHUTDOWN at SIGTERM, ERR_IO. */
int generate_loop(const struct tool *t, struct session *s, const struct generate_args *a,
                  struct err *err);

#endif
