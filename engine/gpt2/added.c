/* Aho and Corasick's automaton, run backwards. Read from the end, over reversed tokens, the state
 * after text[i] knows the longest token that begins at i, which is just what "leftmost, then
 * longest" asks for; read forwards, the automaton reports ends, and a match would have to wait for
 * longer ones with the same beginning. Trying every token at every place would be quadratic for
 * tokens and texts of one repeated letter.
 *
 * States are nodes of the trie of reversed tokens, 0 the root. longest[s] is the longest token whose
 * reversal ends the path of s, -1 if none; fail[s] the state of the longest proper suffix.
 */
#include "engine/gpt2/added.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/err.h"
#include "engine/base/mem.h"

struct trie {
    uint32_t *parent, *depth;
    unsigned char *byte;
    uint32_t n;
};

static uint32_t next_of(const struct added *a, uint32_t state, unsigned char byte)
{
    return (uint32_t)pair_map_get(&a->next, state, byte).id; /* UINT32_MAX if there is none */
}

/* Where the automaton goes from `state` on `byte`. */
static uint32_t step(const struct added *a, uint32_t state, unsigned char byte)
{
    for (;;) {
        uint32_t next = next_of(a, state, byte);
        if (next != UINT32_MAX) return next;
        if (state == 0) return 0;
        state = a->fail[state];
    }
}

static void insert(struct added *a, struct trie *t, const struct span *s, int32_t id)
{
    if (s->len == 0) return;
    uint32_t at = 0;
    for (size_t i = s->len; i-- > 0;) {
        unsigned char byte = (unsigned char)s->p[i];
        uint32_t next = next_of(a, at, byte);
        if (next == UINT32_MAX) {
            next = t->n++;
            pair_map_put(&a->next, at, byte, (struct pair_value){0, (int32_t)next});
            t->parent[next] = at;
            t->depth[next] = t->depth[at] + 1;
            t->byte[next] = byte;
        }
        at = next;
    }
    a->longest[at] = id;
    a->ends[(unsigned char)s->p[s->len - 1]] = true;
}

/* States by depth: a state's fail link is shallower than itself. Counting sort. */
static uint32_t *by_depth(const struct trie *t)
{
    uint32_t *count = mem_calloc(t->n + 1, sizeof *count);
    uint32_t *order = mem_alloc(t->n * sizeof *order);
    for (uint32_t s = 0; s < t->n; s++)
        count[t->depth[s] + 1]++;
    for (uint32_t d = 0; d < t->n; d++)
        count[d + 1] += count[d];
    for (uint32_t s = 0; s < t->n; s++)
        order[count[t->depth[s]]++] = s;
    free(count);
    return order;
}

static void link_states(struct added *a, const struct trie *t)
{
    uint32_t *order = by_depth(t);
    for (uint32_t i = 1; i < t->n; i++) {
        uint32_t s = order[i], parent = t->parent[s];
        a->fail[s] = parent == 0 ? 0 : step(a, a->fail[parent], t->byte[s]);
        if (a->longest[s] < 0) a->longest[s] = a->longest[a->fail[s]];
    }
    free(order);
}

void added_init(struct added *a, const int32_t *ids, size_t n, const struct span *spans)
{
    *a = (struct added){.n = n};
    if (n == 0) return;
    size_t states = 1;
    for (size_t i = 0; i < n; i++)
        states += spans[ids[i]].len;
    BUG_ON(states > INT32_MAX);
    struct trie t = {.parent = mem_calloc(states, sizeof *t.parent),
                     .depth = mem_calloc(states, sizeof *t.depth),
                     .byte = mem_calloc(states, 1),
                     .n = 1};
    pair_map_init(&a->next, states);
    a->longest = mem_alloc(states * sizeof *a->longest);
    a->fail = mem_calloc(states, sizeof *a->fail);
    memset(a->longest, 0xff, states * sizeof *a->longest);
    for (size_t i = 0; i < n; i++)
        insert(a, &t, &spans[ids[i]], ids[i]);
    link_states(a, &t);
    free(t.parent);
    free(t.depth);
    free(t.byte);
}

void added_release(struct added *a)
{
    pair_map_release(&a->next);
    free(a->longest);
    free(a->fail);
    *a = (struct added){0};
}

static void push(struct added_matches *m, size_t at, int32_t id)
{
    if (m->n == m->cap) {
        m->cap = m->cap ? 2 * m->cap : 16;
        m->list = mem_realloc(m->list, m->cap * sizeof *m->list);
    }
    m->list[m->n++] = (struct added_match){.at = at, .id = id};
}

void added_find(const struct added *a, const char *text, size_t len, struct added_matches *out)
{
    if (a->n == 0) return;
    uint32_t state = 0;
    for (size_t i = len; i-- > 0;) {
        unsigned char byte = (unsigned char)text[i];
        if (state == 0 && !a->ends[byte]) continue;
        state = step(a, state, byte);
        if (a->longest[state] >= 0) push(out, i, a->longest[state]);
    }
}
