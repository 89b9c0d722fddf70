/* Which block comes when. A resumed run has to meet the same blocks, and several processes their own
 * shares of one sequence, so the order is not drawn from a stream of random numbers but is a function
 * of seed, epoch and place. */
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "models/train/corpus.h"

#define STREAM_ORDER 0x6f72646572ull    /* + 2 * epoch: the shuffle; */
#define STREAM_OFFSET 0x6f6666736574ull /* its offset */

static uint64_t below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t n)
{
    return (uint64_t)(rng_uniform(seed, stream, counter) * (double)n);
}

static void shuffle(struct batches *b, uint64_t epoch)
{
    for (size_t i = 0; i < b->blocks; i++)
        b->order[i] = (uint32_t)i;
    for (size_t i = b->blocks - 1; i > 0; i--) {
        size_t k = below(b->seed, STREAM_ORDER + (epoch << 48), i, i + 1);
        uint32_t swap = b->order[i];
        b->order[i] = b->order[k];
        b->order[k] = swap;
    }
    size_t slack =
        b->corpus->n - 1 - b->blocks * b->length; /* offsets that keep the blocks inside */
    b->offset = below(b->seed, STREAM_OFFSET, epoch, slack + 1);
    b->epoch = epoch;
}

int batches_open(struct batches *b, const struct corpus *c, size_t length, uint64_t seed,
                 struct err *err)
{
    *b = (struct batches){.corpus = c, .length = length, .seed = seed};
    if (c->n < length + 1)
        return err_set(err, ERR_INVALID, "the text has %zu tokens, a block of %zu needs %zu", c->n,
                       length, length + 1);
    b->blocks = (c->n - 1) / length;
    if (b->blocks > 1) b->blocks--; /* room for offsets */
    if (b->blocks > UINT32_MAX)
        return err_set(err, ERR_INVALID, "the text has %zu blocks, %u are the most", b->blocks,
                       UINT32_MAX);
    b->order = mem_alloc(b->blocks * sizeof *b->order);
    shuffle(b, 0);
    return 0;
}

void batches_close(struct batches *b)
{
    free(b->order);
    *b = (struct batches){0};
}

void batches_get(struct batches *b, uint64_t index, int32_t *tokens, int32_t *targets)
{
    uint64_t epoch = index / b->blocks;
    if (epoch != b->epoch) shuffle(b, epoch);
    size_t at = b->offset + b->order[index % b->blocks] * b->length;
    corpus_read(b->corpus, at, b->length, tokens);
    corpus_read(b->corpus, at + 1, b->length, targets);
}
