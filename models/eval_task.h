#ifndef TTMD_MODELS_EVAL_TASK_H
#define TTMD_MODELS_EVAL_TASK_H

#include <stdbool.h>
#include <stddef.h>

#include "models/eval_metrics.h"
#include "models/session.h"

struct eval_task {
    const char *task; /* one of EVAL_TASKS */
    const char *data; /* its file */
    size_t limit;     /* items, 0 = all */
    bool json;
    struct session_flags session; /* number formats NULL = not given */
};

/* eval_task -- how well the model in `dir` does a task, printed. A classifier (score.weight) is asked for
 * its answers (eval_head.h); a language model does the task without being trained for it: the label
 * whose words are more probable after the item's text (eval_data.h); for lambada whether the last word
 * is what greedy generation gives, and its perplexity. Items longer than the context lose their
 * beginning.
 * Errors  those of eval_items_read(), session_open() and likelihood_run(), or of eval_head(). */
int eval_task(const struct tool *t, const char *dir, const struct eval_task *e, struct err *err);

/* eval_task_print -- the figures of a task with two labels.
 *   how        "zero-shot", "fine-tuned"
 *   truncated  items that lost their beginning */
void eval_task_print(const struct eval_task *e, const struct binary_counts *counts, const char *how,
                     size_t truncated, double seconds, FILE *f);

#endif
