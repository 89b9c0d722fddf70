/* A trie of token blocks in a hash table.
 *
 *     prompt   [t0 .. t15][t16 .. t31][t32 .. ]        hash 0 = H(salt, t0..t15), parent 0
 *     entry      id 7  <--- parent 7, id 9             hash 1 = H(hash 0, t16..t31), parent 7
 *
 * Hashes lead to a candidate; what decides is that its tokens are equal and that its parent is the very
 * text that was matched before. Ids of texts are never used twice, so by induction a hit is that
 * prefix and no other: a collision of hashes costs a comparison, never a wrong answer. A table by hash
 * of the whole prefix alone would have to trust the hash or keep every prefix's tokens in every block.
 *
 * The cache holds one reference to each of its blocks, a sequence one more; the idle list has the
 * blocks that only the cache holds, least recently used first. Whoever uses a text uses what comes
 * before it too and gives it back later: so a beginning is never older than what continues it,
 * and eviction from the old end orphans nothing.
 *
 * Invariants: idle blocks have one reference and are in the list, cached blocks in use have more and
 * are not; n_idle <= max_idle after every call. */
#include "engine/run/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

#define NONE (-1)

void prefix_init(struct prefix_cache *c, struct kv_pool *pool, int max_idle)
{
    size_t n = (size_t)pool->n_blocks, buckets = 16;
    *c = (struct prefix_cache){.pool = pool, .max_idle = max_idle, .oldest = NONE, .newest = NONE};
    while (buckets < n)
        buckets *= 2;
    c->mask = buckets - 1;
    c->entries = mem_calloc(n, sizeof *c->entries);
    c->buckets = mem_alloc(buckets * sizeof *c->buckets);
    memset(c->buckets, 0xff, buckets * sizeof *c->buckets); /* NONE */
}

void prefix_release(struct prefix_cache *c)
{
    free(c->entries);
    free(c->buckets);
    *c = (struct prefix_cache){0};
}

/* ---- hashes ---- */

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 32;
}

uint64_t prefix_salt(const char *salt)
{
    uint64_t h = 0x243f6a8885a308d3ull;
    for (const char *p = salt ? salt : ""; *p; p++)
        h = mix(h, (unsigned char)*p);
    return h;
}

uint64_t prefix_family(uint64_t family)
{
    return mix(0x13198a2e03707344ull, family);
}

uint64_t prefix_hash(uint64_t before, const int32_t tokens[KV_BLOCK])
{
    for (int i = 0; i < KV_BLOCK; i++)
        before = mix(before, (uint32_t)tokens[i]);
    return before;
}

/* ---- the idle list ---- */

static void link_newest(struct prefix_cache *c, int32_t block)
{
    struct prefix_entry *e = &c->entries[block];
    e->older = c->newest;
    e->newer = NONE;
    if (c->newest == NONE)
        c->oldest = block;
    else
        c->entries[c->newest].newer = block;
    c->newest = block;
    c->n_idle++;
}

static void unlink_idle(struct prefix_cache *c, int32_t block)
{
    struct prefix_entry *e = &c->entries[block];
    if (e->older == NONE)
        c->oldest = e->newer;
    else
        c->entries[e->older].newer = e->newer;
    if (e->newer == NONE)
        c->newest = e->older;
    else
        c->entries[e->newer].older = e->older;
    c->n_idle--;
}

static bool idle(const struct prefix_cache *c, int32_t block)
{
    return c->entries[block].id != 0 && c->pool->refs[block] == 1;
}

/* ---- the table ---- */

static void forget(struct prefix_cache *c, int32_t block)
{
    struct prefix_entry *e = &c->entries[block];
    int32_t *at = &c->buckets[e->hash & c->mask];
    if (idle(c, block)) unlink_idle(c, block);
    while (*at != block)
        at = &c->entries[*at].next;
    *at = e->next;
    e->id = 0;
    c->n_cached--;
    kv_pool_unref(c->pool, block);
}

static int32_t look_up(const struct prefix_cache *c, uint64_t parent, uint64_t hash,
                       const int32_t *tokens)
{
    for (int32_t b = c->buckets[hash & c->mask]; b != NONE; b = c->entries[b].next) {
        const struct prefix_entry *e = &c->entries[b];
        if (e->hash == hash && e->parent == parent && !memcmp(e->tokens, tokens, sizeof e->tokens))
            return b;
    }
    return NONE;
}

static void use(struct prefix_cache *c, int32_t block)
{
    if (idle(c, block)) unlink_idle(c, block);
    kv_pool_ref(c->pool, block);
}

int32_t prefix_find(struct prefix_cache *c, uint64_t parent, uint64_t hash, const int32_t *tokens)
{
    int32_t b = look_up(c, parent, hash, tokens);
    if (b != NONE) use(c, b);
    return b;
}

int32_t prefix_put(struct prefix_cache *c, uint64_t parent, uint64_t hash, const int32_t *tokens,
                   int32_t block)
{
    BUG_ON(c->entries[block].id != 0);
    int32_t there = look_up(c, parent, hash, tokens);
    if (there != NONE) {
        use(c, there);
        kv_pool_unref(c->pool, block);
        return there;
    }
    struct prefix_entry *e = &c->entries[block];
    int32_t *bucket = &c->buckets[hash & c->mask];
    *e = (struct prefix_entry){.hash = hash, .id = ++c->last_id, .parent = parent, .next = *bucket};
    memcpy(e->tokens, tokens, sizeof e->tokens);
    *bucket = block;
    c->n_cached++;
    kv_pool_ref(c->pool, block);
    return block;
}

uint64_t prefix_id(const struct prefix_cache *c, int32_t block)
{
    return c->entries[block].id;
}

/* ---- blocks ---- */

int prefix_available(const struct prefix_cache *c)
{
    return c->pool->n_free + c->n_idle;
}

int prefix_take(struct prefix_cache *c, int32_t *blocks, int n)
{
    if (n > prefix_available(c)) return ERR_FULL;
    while (c->pool->n_free < n)
        forget(c, c->oldest);
    return kv_pool_take(c->pool, blocks, n);
}

void prefix_unref(struct prefix_cache *c, int32_t block)
{
    kv_pool_unref(c->pool, block);
    if (!idle(c, block)) return;
    link_newest(c, block);
    if (c->n_idle > c->max_idle) forget(c, c->oldest);
}

void prefix_discard(struct prefix_cache *c, int32_t block)
{
    kv_pool_unref(c->pool, block);
    if (!idle(c, block)) return;
    link_newest(c, block);
    forget(c, block);
}

void prefix_drop(struct prefix_cache *c)
{
    for (int32_t b = 0; c->n_cached > 0; b++)
        if (c->entries[b].id != 0) forget(c, b);
}
