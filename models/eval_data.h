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
 * A classifier, which has learnt the task, is given the sentences alone, as they stand, the second one on a
 * line of its own.
 *
 * Files are those of the tasks: JSON lines {"text": ...} for lambada, GLUE's TSV else. */
struct eval_item {
    char *context; /* owned, not empty */
    char *target;  /* owned; lambada: what follows; else NULL */
    int label;     /* which of the two labels is right; lambada: 0 */
};

/* The two classes of a GLUE task, as its published classifiers have them. */
struct eval_classes {
    const char *names[2]; /* of labels 0 and 1: "negative", "positive" */
    int first;            /* the label that row 0 of a classifier's head stands for */
};

/* eval_classes_of -- of a task; NULL when it has none. Static. */
const struct eval_classes *eval_classes_of(const char *task);

struct eval_items {
    struct eval_item *list; /* (n) owned */
    size_t n, cap;
    const char *const *labels; /* (2) continuations; static; NULL for lambada */
};
#define EVAL_LABEL_TASKS "sst2|rte|mrpc|cola"
#define EVAL_TASKS "lambada|" EVAL_LABEL_TASKS
enum eval_form { EVAL_PROMPT, EVAL_SENTENCES };

/* eval_items_read -- the items of a file ("-" = standard input); at least one.
 *
 *   task   one of EVAL_TASKS
 *   form   of the contexts: a question to be answered, or the sentences alone
 *   limit  only so many, from the beginning; 0 = all
 *
 * Errors  ERR_IO; ERR_INVALID with file and line, what stands there and what was expected. *out is to
 *         be released also then. */
int eval_items_read(struct eval_items *out, const char *task, const char *path, enum eval_form form,
                    size_t limit, struct err *err);
void eval_items_release(struct eval_items *items);

#endif
