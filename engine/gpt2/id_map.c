/* Hash tables of the tokenizer. Open addressing with linear probing: a lookup is one or two cache
 * lines, and the tables never grow or shrink. Keys come from model files, not from requests, so
 * that nobody who sends text can choose what collides.
 *
 * Invariant: at least half of the slots are empty, so that every probe ends.
 */
#include "engine/gpt2/id_map.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/err.h"
#include "engine/base/mem.h"

/* log2 of the number of slots for `capacity` entries, half of them empty. */
static int slots_log2(size_t capacity)
{
    int bits = 4;
    BUG_ON(capacity > (size_t)1 << 31);
    while ((size_t)1 << bits < 2 * capacity)
        bits++;
    return bits;
}

void pair_map_init(struct pair_map *m, size_t capacity)
{
    int bits = slots_log2(capacity);
    size_t n = (size_t)1 << bits;
    m->slots = mem_alloc(n * sizeof *m->slots);
    m->mask = n - 1;
    m->shift = 64 - bits;
    for (size_t i = 0; i < n; i++)
        m->slots[i] = (struct pair_slot){.key = PAIR_EMPTY, .value = {PAIR_NONE, -1}};
}

void pair_map_release(struct pair_map *m)
{
    free(m->slots);
    *m = (struct pair_map){0};
}

void pair_map_put(struct pair_map *m, uint32_t a, uint32_t b, struct pair_value value)
{
    uint64_t key = (uint64_t)a << 32 | b;
    size_t i = pair_map_home(m, key);
    while (m->slots[i].key != PAIR_EMPTY && m->slots[i].key != key)
        i = (i + 1) & m->mask;
    m->slots[i] = (struct pair_slot){.key = key, .value = value};
}

static uint32_t hash_bytes(const char *p, size_t len)
{
    const uint64_t mul = 0x9E3779B97F4A7C15u;
    uint64_t h = len * mul;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        h = (h ^ w) * mul;
        h ^= h >> 32;
    }
    uint64_t tail = 0;
    for (size_t i = 0; i < len; i++)
        tail |= (uint64_t)(unsigned char)p[i] << 8 * i;
    h = (h ^ tail) * mul;
    h = (h ^ (h >> 32)) * mul;
    return (uint32_t)(h >> 32);
}

void text_map_init(struct text_map *m, size_t capacity, const struct span *spans)
{
    size_t n = (size_t)1 << slots_log2(capacity);
    m->slots = mem_alloc(n * sizeof *m->slots);
    m->mask = n - 1;
    m->spans = spans;
    for (size_t i = 0; i < n; i++)
        m->slots[i] = (struct text_slot){.hash = 0, .id = -1};
}

void text_map_release(struct text_map *m)
{
    free(m->slots);
    *m = (struct text_map){0};
}

/* The slot that holds these bytes, or the empty one where they belong. */
static size_t text_slot(const struct text_map *m, const char *p, size_t len, uint32_t hash)
{
    size_t i = hash & m->mask;
    for (; m->slots[i].id >= 0; i = (i + 1) & m->mask) {
        if (m->slots[i].hash != hash) continue;
        const struct span *s = &m->spans[m->slots[i].id];
        if (s->len == len && memcmp(s->p, p, len) == 0) break;
    }
    return i;
}

int32_t text_map_put(struct text_map *m, int32_t id)
{
    const struct span *s = &m->spans[id];
    uint32_t hash = hash_bytes(s->p, s->len);
    size_t i = text_slot(m, s->p, s->len, hash);
    if (m->slots[i].id < 0) m->slots[i] = (struct text_slot){.hash = hash, .id = id};
    return m->slots[i].id;
}

int32_t text_map_get(const struct text_map *m, const char *p, size_t len)
{
    return m->slots[text_slot(m, p, len, hash_bytes(p, len))].id;
}
