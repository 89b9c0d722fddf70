#ifndef TTMD_RUN_PREFIX_H
#define TTMD_RUN_PREFIX_H

#include <stddef.h>

#include "engine/kernels/kernels.h"
#include "engine/run/kv.h"

/* The prefix cache: which KV blocks hold the keys and values of which text, so that a prompt that
 * begins as an earlier one did need not be computed again. A block is known by its tokens and by the
 * block before it; a text is found by walking from its beginning.
 *
 * The cache lives inside the KV pool: a block that nobody uses stays, with its contents, until its
 * space is needed or more than max_idle of them wait. All blocks are taken and given back here. Engine
 * thread only; nothing allocates after prefix_init(). */
struct prefix_entry {
    uint64_t hash;            /* of all tokens up to the end of the block, and of the salt */
    uint64_t id;              /* of this text, never used again; 0: not in the cache */
    uint64_t parent;          /* id of the text before the block; 0: none */
    int32_t tokens[KV_BLOCK]; /* compared on every hit */
    int32_t next;             /* in its bucket; -1 ends */
    int32_t older, newer;     /* idle ones, in the order of their last use; -1 ends */
};

struct prefix_cache {
    struct kv_pool *pool;         /* borrowed */
    struct prefix_entry *entries; /* (n_blocks) owned, by block number */
    int32_t *buckets;             /* (mask + 1) owned; first block, -1: none */
    size_t mask;
    uint64_t last_id;
    int n_cached, n_idle; /* blocks in the cache; of them, used by no sequence */
    int max_idle;         /* 0: nothing stays that nobody uses */
    int32_t oldest, newest;
};

void prefix_init(struct prefix_cache *c, struct kv_pool *pool, int max_idle);
void prefix_release(struct prefix_cache *c);

/* prefix_salt, prefix_hash -- the hash of an empty text under a salt, and of one block more. Only
 * equal salts find each other's blocks; what is found is right in any case, for tokens are compared. */
uint64_t prefix_salt(const char *salt);  /* NULL is the same as "" */
uint64_t prefix_family(uint64_t family); /* the same for those who share among themselves only */
uint64_t prefix_hash(uint64_t before, const int32_t tokens[KV_BLOCK]);

/* prefix_available -- blocks that prefix_take() can give. */
int prefix_available(const struct prefix_cache *c);

/* prefix_take -- as kv_pool_take(); forgets the longest unused texts when free blocks do not do. */
int prefix_take(struct prefix_cache *c, int32_t *blocks, int n);

/* prefix_find -- the block that holds `tokens` after the text `parent`, with a reference for the
 * caller; -1: none. `hash` is prefix_hash() of the text including these tokens. */
int32_t prefix_find(struct prefix_cache *c, uint64_t parent, uint64_t hash, const int32_t *tokens);

/* prefix_put -- `block` now holds `tokens` after `parent`. Returns the block to go on with: this one,
 * or the one that was there before; then the reference moves there. */
int32_t prefix_put(struct prefix_cache *c, uint64_t parent, uint64_t hash, const int32_t *tokens,
                   int32_t block);

/* prefix_id -- of the text that ends with a cached block. */
uint64_t prefix_id(const struct prefix_cache *c, int32_t block);

/* prefix_unref -- drop a reference; a cached block stays. Of a sequence's blocks the last comes first,
 * so that the ends of texts are forgotten before their beginnings. prefix_discard -- the same, but a cached block
 * is forgotten with its last user. */
void prefix_unref(struct prefix_cache *c, int32_t block);
void prefix_discard(struct prefix_cache *c, int32_t block);

/* prefix_drop -- forget everything; blocks in use stay with their users. */
void prefix_drop(struct prefix_cache *c);

#endif
