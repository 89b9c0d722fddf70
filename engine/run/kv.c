/* The block pool: a stack of free block numbers and a reference count per block.
 *
 * A sequence takes every block it can ever need when it is admitted. Taking blocks one by one as it
 * grows would admit more sequences, but then some must be evicted half-way and computed again, and
 * how long a request takes would depend on who came later. References are counted so that several
 * sequences may share the blocks of a common prefix.
 *
 * Invariant: n_free entries of free_list are distinct and exactly the blocks with refs == 0. */
#include "engine/run/kv.h"

#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/kernels/kernels.h"

int kv_pool_init(struct kv_pool *p, int n_blocks, struct err *err)
{
    if (n_blocks < 1)
        return err_set(err, ERR_INVALID, "KV cache of %d blocks, expected at least 1", n_blocks);
    p->n_blocks = p->n_free = n_blocks;
    p->free_list = mem_calloc((size_t)n_blocks, sizeof *p->free_list);
    p->refs = mem_calloc((size_t)n_blocks, sizeof *p->refs);
    for (int i = 0; i < n_blocks;
         i++) /* low numbers on top of the stack: memory is mapped lazily */
        p->free_list[i] = n_blocks - 1 - i;
    return 0;
}

void kv_pool_release(struct kv_pool *p)
{
    free(p->free_list);
    free(p->refs);
    *p = (struct kv_pool){0};
}

int kv_pool_take(struct kv_pool *p, int32_t *blocks, int n)
{
    if (n > p->n_free) return ERR_FULL;
    for (int i = 0; i < n; i++) {
        blocks[i] = p->free_list[--p->n_free];
        p->refs[blocks[i]] = 1;
    }
    return 0;
}

void kv_pool_ref(struct kv_pool *p, int32_t block)
{
    BUG_ON(block < 0 || block >= p->n_blocks || !p->refs[block] || p->refs[block] == UINT16_MAX);
    p->refs[block]++;
}

void kv_pool_unref(struct kv_pool *p, int32_t block)
{
    BUG_ON(block < 0 || block >= p->n_blocks || !p->refs[block]);
    if (--p->refs[block] == 0) p->free_list[p->n_free++] = block;
}

int kv_blocks_for(int positions)
{
    return positions / KV_BLOCK + (positions % KV_BLOCK != 0);
}
