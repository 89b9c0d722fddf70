/* Blocks of a text. In each epoch the text is cut from another offset, so that a block's first tokens,
 * which have little before them, are not always the same. */
#include "models/train/corpus.h"

#define STREAM_OFFSET 0x6f6666736574ull

int batches_open(struct batches *b, const struct corpus *c, size_t length, uint64_t seed,
                 struct err *err)
{
    *b = (struct batches){.corpus = c, .length = length};
    if (c->n < length + 1)
        return err_set(err, ERR_INVALID, "the text has %zu tokens, a block of %zu needs %zu", c->n,
                       length, length + 1);
    b->blocks = (c->n - 1) / length;
    if (b->blocks > 1) b->blocks--; /* room for offsets */
    return order_open(&b->order, b->blocks, seed, err);
}

void batches_close(struct batches *b)
{
    order_close(&b->order);
    *b = (struct batches){0};
}

void batches_get(struct batches *b, uint64_t index, int32_t *tokens, int32_t *targets)
{
    size_t slack =
        b->corpus->n - 1 - b->blocks * b->length; /* offsets that keep the blocks inside */
    size_t at = order_at(&b->order, index) * b->length +
                order_below(b->order.seed, STREAM_OFFSET, index / b->blocks, slack + 1);
    corpus_read(b->corpus, at, b->length, tokens);
    corpus_read(b->corpus, at + 1, b->length, targets);
}
