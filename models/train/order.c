/* Which sequence comes when. A resumed run has to meet the same sequences, and several processes their
 * own shares of one batch, so the order is not drawn from a stream of random numbers but is a
 * function of seed, epoch and place. */
#include "models/train/order.h"

#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"

#define STREAM_ORDER 0x6f72646572ull /* + epoch << 48 */

uint64_t order_below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t n)
{
    return (uint64_t)(rng_uniform(seed, stream, counter) * (double)n);
}

static void shuffle(struct order *o, uint64_t epoch)
{
    for (size_t i = 0; i < o->n; i++)
        o->list[i] = (uint32_t)i;
    for (size_t i = o->n - 1; i > 0; i--) {
        size_t k = order_below(o->seed, STREAM_ORDER + (epoch << 48), i, i + 1);
        uint32_t swap = o->list[i];
        o->list[i] = o->list[k];
        o->list[k] = swap;
    }
    o->epoch = epoch;
}

int order_open(struct order *o, size_t n, uint64_t seed, struct err *err)
{
    *o = (struct order){.seed = seed, .n = n};
    if (n > UINT32_MAX)
        return err_set(err, ERR_INVALID, "%zu sequences in an epoch, %u are the most", n,
                       UINT32_MAX);
    o->list = mem_alloc(n * sizeof *o->list);
    shuffle(o, 0);
    return 0;
}

void order_close(struct order *o)
{
    free(o->list);
    *o = (struct order){0};
}

size_t order_at(struct order *o, uint64_t i)
{
    if (i / o->n != o->epoch) shuffle(o, i / o->n);
    return o->list[i % o->n];
}
