#ifndef TTMD_GPT2_ID_MAP_H
#define TTMD_GPT2_ID_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The tokenizer's two hash tables: open addressing, sized once, at most half full, read-only after
 * loading. The number of entries is given before the first one: a file says how many it has. */

/* struct pair_map -- (a, b) -> (rank, id): merges, and transitions of an automaton. */
struct pair_value {
    uint32_t rank;
    int32_t id;
};
struct pair_slot {
    uint64_t key; /* a << 32 | b; PAIR_EMPTY for none */
    struct pair_value value;
};
struct pair_map {
    struct pair_slot *slots; /* owned */
    size_t mask;
    int shift; /* 64 - log2 of the number of slots */
};
#define PAIR_EMPTY UINT64_MAX
#define PAIR_NONE UINT32_MAX /* the rank of a pair that is not in the map */

void pair_map_init(struct pair_map *m, size_t capacity);
void pair_map_release(struct pair_map *m);

/* pair_map_put -- the last value for a key wins; the pair (UINT32_MAX, UINT32_MAX) is reserved. */
void pair_map_put(struct pair_map *m, uint32_t a, uint32_t b, struct pair_value value);

static inline size_t pair_map_home(const struct pair_map *m, uint64_t key)
{
    return (size_t)(((key ^ (key >> 29)) * 0x9E3779B97F4A7C15u) >> m->shift);
}

static inline struct pair_value pair_map_get(const struct pair_map *m, uint32_t a, uint32_t b)
{
    uint64_t key = (uint64_t)a << 32 | b;
    for (size_t i = pair_map_home(m, key);; i = (i + 1) & m->mask) {
        if (m->slots[i].key == key) return m->slots[i].value;
        if (m->slots[i].key == PAIR_EMPTY) return (struct pair_value){PAIR_NONE, -1};
    }
}

/* struct text_map -- bytes -> id. Keys are not copied: they stay where `spans` says, by id. */
struct span {
    const char *p;
    size_t len;
};
struct text_slot {
    uint32_t hash;
    int32_t id; /* -1 for an empty slot */
};
struct text_map {
    struct text_slot *slots; /* owned */
    size_t mask;
    const struct span *spans; /* borrowed until release; spans[id] is the key of id */
};

void text_map_init(struct text_map *m, size_t capacity, const struct span *spans);
void text_map_release(struct text_map *m);

/* text_map_put -- enter spans[id] unless its bytes are there already; returns the id that they have
 * now: `id`, or the earlier one. */
int32_t text_map_put(struct text_map *m, int32_t id);
int32_t text_map_get(const struct text_map *m, const char *p, size_t len); /* id or -1 */

#endif
