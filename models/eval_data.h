#ifndef TTMD_MODELS_EVAL_DATA_H
#define TTMD_MODELS_EVAL_DATA_H

#include <stddef.h>

#include "engine/base/err.h"

/* The data of evaluation tasks, put into words. Texts and labels are lm-evaluation-harness's; {} is a
 * column of the file as it stands, \n a newline:
 *
 *   lambada  {text but its last word}                          -> " " {last word}
 *   sst2     {sentence}\nQuestion: Is this sentence positive or negative?\nAnswer:
 *                                                              -> " negative" | " positive"
 *   rte      {sentence1}\nQuestion: {sentence2} True or False?\nAnswer:
 *                                      (not_entailment)        -> " False" | " True" (entailment)
 *   mrpc     Sentence 1: {#1 String}\nSentence 2: {#2 String}\nQuestion: Do both sentences mean the same
 *            thing?\nAnswer:                                   -> " no" | " yes"
 *   cola     {sentence}\nQuestion: Does this sentence make sense?\nAnswer:
 *                                                              -> " no" | " yes"
 *
 * Files are those of the tasks: JSON lines {"text": ...} for lambada, GLUE's TSV (dev.tsv) else. */
struct eval_item {
    char *context; /* owned, not empty */
    char *target;  /* owned; lambada: what follows; else NULL */
    int label;     /* which of the two labels is right; lambada: 0 */
};

struct eval_items {
    struct eval_item *list; /* (n) owned */
    size_t n, cap;
    const char *const *labels; /* (2) continuations; static; NULL for lambada */
};
#define EVAL_TASKS "lambada|sst2|rte|mrpc|cola"

/* eval_items_read -- the items of a file ("-" = standard input); at least one.
 *
 *   task   one of EVAL_TASKS
 *   limit  only so many, from the beginning; 0 = all
 *
 * Errors  ERR_IO; ERR_INVALID with file and line, what stands there and what was expected. *out is to
 *         be released also then. */
int eval_items_read(struct eval_items *out, const char *task, const char *path, size_t limit,
                    struct err *err);
void eval_items_release(struct eval_items *items);

#endif
