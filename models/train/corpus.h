#ifndef TTMD_MODELS_TRAIN_CORPUS_H
#define TTMD_MODELS_TRAIN_CORPUS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/pool.h"
#include "engine/gpt2/tokenizer.h"
#include "models/tool.h"
#include "models/train/order.h"

/* A text as token ids, tokenised once: the ids are in a cache file, memory-mapped. Documents are
 * separated by lines that hold "<|endoftext|>" and nothing else; each is tokenised by itself and
 * ends with that token's id, if the tokenizer has one. */
struct corpus {
    void *map; /* owned: the whole cache file */
    size_t map_bytes;
    const void *ids; /* uint16 or uint32, in the mapping */
    int width;       /* bytes of an id: 2 or 4 */
    size_t n;        /* tokens */
    size_t bytes;    /* of the text that they stand for */
};

/* corpus_open -- from the cache when it was made from this very text (size and time) with this very
 * tokenizer, else tokenise and write it.
 *
 *   text   path of a plain text;  cache  path of the cache file, replaced atomically
 *
 * Errors  ERR_IO; ERR_INVALID for an empty text; ERR_SHUTDOWN after a signal. *c zeroed then. */
int corpus_open(struct corpus *c, const struct tool *t, const char *text, const char *cache,
                const struct tokenizer *tok, struct pool *pool, struct err *err);
void corpus_close(struct corpus *c);

/* corpus_read -- ids [at, at + n). */
void corpus_read(const struct corpus *c, size_t at, size_t n, int32_t *out);

/* Shuffled training blocks: block i of the endless sequence is a function of (seed, i) alone. In each
 * epoch the corpus is cut from another offset, and its blocks come in another order. */
struct batches {
    const struct corpus *corpus; /* borrowed */
    size_t length;               /* tokens of a block */
    size_t blocks;               /* of an epoch */
    struct order order;
};

/* batches_open -- Errors  ERR_INVALID when the corpus has no block. */
int batches_open(struct batches *b, const struct corpus *c, size_t length, uint64_t seed,
                 struct err *err);
void batches_close(struct batches *b);

/* batches_get -- tokens (length) and what follows each (length). */
void batches_get(struct batches *b, uint64_t index, int32_t *tokens, int32_t *targets);

#endif
