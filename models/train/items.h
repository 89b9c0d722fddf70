#ifndef TTMD_MODELS_TRAIN_ITEMS_H
#define TTMD_MODELS_TRAIN_ITEMS_H

#include "engine/gpt2/tokenizer.h"
#include "models/eval_data.h"

/* The items of a task as token ids, for a classifier: the sentences alone (EVAL_SENTENCES), and the row
 * of the head that is to win. */
enum { ITEMS_CLASSES = 2 };
struct items {
    int32_t *ids;           /* owned */
    size_t *start;          /* (n + 1) owned: item i is ids[start[i] .. start[i + 1]) */
    int *row;               /* (n) owned */
    size_t n, longest, cut; /* cut: items that lost their beginning */
    int first;              /* the label that row 0 stands for */
};

/* items_first -- the label that row 0 of the head of the classifier in `dir` stands for, by the names
 * (id2label) of its config.json; where it names none, as the task's published classifiers have it.
 * Errors  those of reading config.json; ERR_INVALID when it is a classifier of something else. */
int items_first(const char *dir, const struct eval_classes *classes, int *first, struct err *err);

/* items_open -- read and tokenise.
 *
 *   task   one of EVAL_LABEL_TASKS;  path  its file
 *   first  the label that row 0 stands for
 *   most   tokens of an item: a longer one loses its beginning
 *   limit  items, 0 = all
 *
 * Errors  those of eval_items_read(); ERR_INVALID for an item without a token. *it is
 *         to be released also then. */
int items_open(struct items *it, const char *task, const char *path, int first,
               const struct tokenizer *tok, size_t most, size_t limit, struct err *err);
void items_close(struct items *it);

/* items_put -- item i as a sequence of `length` tokens, padded behind its end; its row is the target of
 * its last token, the others have none.
 *   tokens, targets  (length) */
void items_put(const struct items *it, size_t i, size_t length, int32_t *tokens, int32_t *targets);

static inline size_t items_length(const struct items *it, size_t i)
{
    return it->start[i + 1] - it->start[i];
}

#endif
