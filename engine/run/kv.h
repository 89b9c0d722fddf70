#ifndef TTMD_RUN_KV_H
#define TTMD_RUN_KV_H

#include <stdint.h>

#include "engine/base/err.h"

/* Who owns which KV block: a free list with reference counts. A sequence reserves all the blocks it
 * can ever need when it is admitted, so that nothing is evicted half-way. Engine thread only. */
struct kv_pool {
    int n_blocks, n_free;
    int32_t *free_list; /* (n_blocks) owned; a stack: the last freed is reused first, it is warm */
    uint16_t *refs;     /* (n_blocks) owned */
};

int kv_pool_init(struct kv_pool *p, int n_blocks, struct err *err); /* ERR_INVALID if < 1 */
void kv_pool_release(struct kv_pool *p);

/* kv_pool_take -- blocks[0..n) = n free blocks with one reference each; ERR_FULL (and nothing taken)
 * when fewer are free. */
int kv_pool_take(struct kv_pool *p, int32_t *blocks, int n);
void kv_pool_ref(struct kv_pool *p, int32_t block);
void kv_pool_unref(struct kv_pool *p, int32_t block); /* back to the free list at zero */

/* kv_blocks_for -- blocks that cover `positions` positions. */
int kv_blocks_for(int positions);

#endif
