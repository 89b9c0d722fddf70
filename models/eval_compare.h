#ifndef TTMD_MODELS_EVAL_COMPARE_H
#define TTMD_MODELS_EVAL_COMPARE_H

#include <stdbool.h>

#include "models/score.h"

/* eval_compare -- how far the model in `dir` is from the reference on a text, printed: over all scored
 * tokens the difference of their perplexities with its paired standard error, the KL divergence
 * KL(reference || model) of the next-token distributions, and how often both find the same token most
 * probable.
 *
 *   text  the windows are those of score_model(), o->window by default the smaller context
 *
 * Cost    both models over the text, and V exponentials a token twice.
 * Errors  those of gpt2_open() and tokenizer_open(); ERR_INVALID when vocabularies or tokens differ, when a
 *         logit is not finite, and as score_plan(); ERR_SHUTDOWN after a signal.
 */
int eval_compare(const struct tool *t, const char *reference, const char *dir,
                 const struct score_text *text, const struct score_options *o, bool json,
                 struct err *err);

#endif
