#ifndef TTMD_MODELS_SCORE_H
#define TTMD_MODELS_SCORE_H

#include "engine/base/buf.h"
#include "engine/run/perplexity.h"
#include "models/session.h"

/* The perplexity of a text under a model, computed by an engine in this process. */
struct score_text {
    const char *path; /* for messages; borrowed */
    struct buf bytes; /* owned */
};

/* score_text_read -- the text of a file ("-" = standard input), not empty and UTF-8; to be released
 * with buf_release(&t->bytes), also on failure. Errors  ERR_IO, ERR_TOO_LONG, ERR_INVALID. */
int score_text_read(struct score_text *t, const char *path, struct err *err);

struct score_options {
    enum ppl_prefix prefix;
    size_t window, stride, max_tokens; /* 0 = the context, the window, all */
    struct session_flags session;
};

/* score_plan -- the windows that the options ask for.
 *
 *   n_ctx  of the model;  has_eos  whether it has an end-of-text token
 *   path   of the text, for messages
 *
 * Errors  ERR_INVALID naming the flag --window, --stride or --prefix, or a text too short.
 */
int score_plan(struct ppl_plan *out, const struct score_options *o, size_t n_tokens, int n_ctx,
               bool has_eos, const char *path, struct err *err);

struct score {
    struct ppl_plan plan;
    struct ppl_sums sums;
    struct ppl_stats stats;
    size_t windows, bytes, words; /* of the text that was scored */
    double seconds;
};

/* score_model -- load the model in `dir` and score the text, with progress bars.
 * Errors  those of engine_open(); ERR_INVALID naming the flag --window, --stride or --prefix, or a text
 *         too short; ERR_SHUTDOWN after a signal. */
int score_model(struct score *out, const struct tool *t, const char *dir,
                const struct score_text *text, const struct score_options *o, struct err *err);

#endif
