#ifndef TTMD_MODELS_TRAIN_SOURCE_H
#define TTMD_MODELS_TRAIN_SOURCE_H

#include "models/train/backprop.h"
#include "models/train/corpus.h"
#include "models/train/items.h"
#include "models/train/parallel.h"

/* What a run learns from and validates with: a text cut into blocks, or the items of a task. Sequence i
 * of training is a function of (seed, i) alone, whoever asks for it. Zero-initialise. */
struct source {
    struct corpus text, valid_text; /* .n == 0: none */
    struct batches batches;
    struct items items, valid_items;
    struct order order; /* of the items */
    bool task;
    size_t length; /* tokens of the longest sequence */
    size_t epoch;  /* sequences */
    size_t valid;  /* sequences of a validation, 0 = none */
};

/* source_close -- also of one that is half open. */
void source_close(struct source *s);

/* source_items -- open the items of a task.
 *
 *   data, valid  its files; valid may be NULL
 *   first        the label of the head's row 0
 *   most         tokens of an item
 *
 * Errors  those of items_open(). */
int source_items(struct source *s, const char *task, const char *data, const char *valid, int first,
                 const struct tokenizer *tok, size_t most, uint64_t seed, struct err *err);

/* source_text -- open the texts; their ids are kept in OUT/train.tokens and OUT/valid.tokens.
 *
 *   length        tokens of a block
 *   valid_tokens  of a validation, about
 *
 * Errors  those of corpus_open(); ERR_INVALID for texts shorter than a block. */
struct source_text {
    const struct tool *tool;
    const char *data, *valid, *out; /* valid may be NULL */
    const struct tokenizer *tok;
    struct pool *pool;
    size_t length, valid_tokens;
    uint64_t seed;
};
int source_text(struct source *s, const struct source_text *t, struct err *err);

/* source_tokens -- how many tokens there are to learn from, for --resume to compare. */
size_t source_tokens(const struct source *s);

/* Some sequences [from, from + n) of a batch, which is sequences [first, first + total) of the order of
 * training (or of validation). */
struct source_batch {
    uint64_t first;
    size_t total, from, n;
};

/* source_train -- these as a batch, as long as the longest of the whole batch.
 *
 *   tokens, targets  (n, length) written, and referred to by *out
 *
 * Returns the number of tokens of the whole batch, without padding. */
size_t source_train(struct source *s, const struct source_batch *b, int32_t *tokens,
                    int32_t *targets, struct backprop_batch *out);

/* source_valid -- the same for validation: evenly spaced blocks, always the same; text only. */
void source_valid(const struct source *s, const struct source_batch *b, int32_t *tokens,
                  int32_t *targets, struct backprop_batch *out);

#endif
