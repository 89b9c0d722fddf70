#ifndef TTMD_MODELS_EVAL_HEAD_H
#define TTMD_MODELS_EVAL_HEAD_H

#include "models/eval_task.h"

/* eval_head_is -- whether the checkpoint in `dir` is a classifier's: it has score.weight. */
bool eval_head_is(const char *dir);

/* eval_head -- how well the classifier in `dir` (GPT2ForSequenceClassification, of `ttm train --task` or
 * published) does the task that it was trained for, printed. Which row of its head is which label is
 * said by id2label of its config.json.
 * Errors  those of net_open() and items_open(); ERR_INVALID for a head of another size or other labels;
 *         ERR_SHUTDOWN after a signal. */
int eval_head(const struct tool *t, const char *dir, const struct eval_task *e, struct err *err);

#endif
