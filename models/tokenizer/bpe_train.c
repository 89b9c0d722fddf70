/* Learning the merges of a byte-pair encoding. Counting all pairs anew for every merge is quadratic;
 * here every pair knows its count and its places, and a merge looks only at the places of its pair:
 *
 *     symbols   |a b c|b c a b|...      words laid out one after the other, linked within a word
 *     pairs     (a,b) count, places     place = the left symbol; count = sum of its words' counts
 *     heap      count, pair             the most frequent, then lowest ids, on top
 *
 * A merge at a place takes away up to three pairs and adds up to two. Counts are kept exact; places
 * that have gone and heap entries of former counts are not searched for but recognised when their
 * turn comes: a place by the symbols that stand there, an entry by its count. An entry whose pair became
 * rarer goes back with the new count; one whose pair became more frequent was pushed again.
 *
 * Places are worked on from left to right, as "aaa" is to become "aa a". A pair comes into being only in
 * the merge that made the later of its tokens, so lists are ascending by themselves, but for the rare
 * tokens that two merges produce: those are sorted.
 *
 * Nothing here depends on the order of the words. */
#include "models/tokenizer/bpe_train.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/byte_level.h"

enum { N_BYTES = 256 };
#define NIL UINT32_MAX

struct symbol {
    int32_t id;          /* -1: merged into the one before */
    uint32_t prev, next; /* NIL at the ends of the word */
    uint32_t word;
};

struct pair {
    int32_t left, right;
    uint64_t count;
    uint32_t *places; /* (n_places) owned; some may be gone */
    size_t n_places, cap_places;
    size_t gained_in; /* the merge in which it was last noted in `gained` */
};

struct entry {
    uint64_t count;
    uint32_t pair;
};

struct trainer {
    const struct word *words;
    struct symbol *symbols; /* (n_symbols) */
    size_t n_symbols;
    struct pair *pairs; /* (n_pairs) */
    size_t n_pairs, cap_pairs;
    struct pair_map index; /* (left, right) -> number of the pair, in `rank` */
    struct entry *heap;    /* (n_heap) */
    size_t n_heap, cap_heap;
    uint32_t *gained; /* (n_gained) pairs that became more frequent in this merge */
    size_t n_gained, cap_gained;
    struct text_map by_bytes; /* token's bytes -> id */
    struct bpe_vocab *vocab;
    size_t cap_merges;
};

void bpe_vocab_release(struct bpe_vocab *v)
{
    for (int32_t i = 0; i < v->n_tokens; i++)
        free((void *)(uintptr_t)v->tokens[i].p);
    free(v->tokens);
    free(v->merges);
    *v = (struct bpe_vocab){0};
}

/* Room for one more element of `size` bytes in an array of n. */
static void *room(void *array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap) return array;
    *cap = *cap ? 2 * *cap : 4;
    return mem_realloc(array, *cap * size);
}

/* ---- the heap: four children a node ---- */

static bool before(const struct trainer *t, struct entry a, struct entry b)
{
    if (a.count != b.count) return a.count > b.count;
    const struct pair *p = &t->pairs[a.pair], *q = &t->pairs[b.pair];
    return p->left != q->left ? p->left < q->left : p->right < q->right;
}

static void heap_push(struct trainer *t, struct entry e)
{
    t->heap = room(t->heap, t->n_heap, &t->cap_heap, sizeof *t->heap);
    size_t at = t->n_heap++;
    for (; at && before(t, e, t->heap[(at - 1) / 4]); at = (at - 1) / 4)
        t->heap[at] = t->heap[(at - 1) / 4];
    t->heap[at] = e;
}

static struct entry heap_pop(struct trainer *t)
{
    struct entry *h = t->heap, top = h[0], last = h[--t->n_heap];
    size_t n = t->n_heap, at = 0;
    for (;;) {
        size_t first = 4 * at + 1, best = first;
        if (first >= n) break;
        for (size_t i = first + 1; i < n && i < first + 4; i++)
            if (before(t, h[i], h[best])) best = i;
        if (!before(t, h[best], last)) break;
        h[at] = h[best];
        at = best;
    }
    h[at] = last;
    return top;
}

/* ---- pairs ---- */

static void index_grow(struct trainer *t)
{
    t->cap_pairs = t->cap_pairs ? 2 * t->cap_pairs : 4096;
    t->pairs = mem_realloc(t->pairs, t->cap_pairs * sizeof *t->pairs);
    pair_map_release(&t->index);
    pair_map_init(&t->index, t->cap_pairs);
    for (size_t i = 0; i < t->n_pairs; i++)
        pair_map_put(&t->index, (uint32_t)t->pairs[i].left, (uint32_t)t->pairs[i].right,
                     (struct pair_value){.rank = (uint32_t)i});
}

static struct pair *pair_at(struct trainer *t, int32_t left, int32_t right)
{
    uint32_t i = pair_map_get(&t->index, (uint32_t)left, (uint32_t)right).rank;
    if (i != PAIR_NONE) return &t->pairs[i];
    if (t->n_pairs == t->cap_pairs) index_grow(t);
    pair_map_put(&t->index, (uint32_t)left, (uint32_t)right,
                 (struct pair_value){.rank = (uint32_t)t->n_pairs});
    t->pairs[t->n_pairs] = (struct pair){.left = left, .right = right, .gained_in = SIZE_MAX};
    return &t->pairs[t->n_pairs++];
}

/* The pair whose left symbol is `at` now exists. */
static void pair_gain(struct trainer *t, uint32_t at)
{
    const struct symbol *s = &t->symbols[at];
    struct pair *p = pair_at(t, s->id, t->symbols[s->next].id);
    p->count += t->words[s->word].count;
    p->places = room(p->places, p->n_places, &p->cap_places, sizeof *p->places);
    p->places[p->n_places++] = at;
    if (p->gained_in == t->vocab->n_merges) return;
    p->gained_in = t->vocab->n_merges;
    t->gained = room(t->gained, t->n_gained, &t->cap_gained, sizeof *t->gained);
    t->gained[t->n_gained++] = (uint32_t)(p - t->pairs);
}

/* The pair whose left symbol is `at` is about to go. */
static void pair_lose(struct trainer *t, uint32_t at)
{
    const struct symbol *s = &t->symbols[at];
    pair_at(t, s->id, t->symbols[s->next].id)->count -= t->words[s->word].count;
}

static void queue_gained(struct trainer *t)
{
    for (size_t i = 0; i < t->n_gained; i++) {
        uint64_t count = t->pairs[t->gained[i]].count;
        if (count) heap_push(t, (struct entry){count, t->gained[i]});
    }
    t->n_gained = 0;
}

/* ---- merging ---- */

static void merge_at(struct trainer *t, uint32_t at, int32_t product)
{
    struct symbol *s = &t->symbols[at];
    uint32_t right = s->next, next = t->symbols[right].next;
    pair_lose(t, at);
    if (s->prev != NIL) pair_lose(t, s->prev);
    if (next != NIL) pair_lose(t, right);
    s->id = product;
    s->next = next;
    t->symbols[right].id = -1;
    if (next != NIL) t->symbols[next].prev = at;
    if (s->prev != NIL) pair_gain(t, s->prev);
    if (next != NIL) pair_gain(t, at);
}

static int by_place(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void sort_places(uint32_t *places, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (places[i] < places[i - 1]) {
            qsort(places, n, sizeof *places, by_place);
            return;
        }
}

static void merge_everywhere(struct trainer *t, uint32_t number, int32_t product)
{
    struct pair p = t->pairs[number]; /* `pairs` moves when pairs are added */
    t->pairs[number].places = NULL;
    t->pairs[number].n_places = t->pairs[number].cap_places = 0;
    sort_places(p.places, p.n_places);
    for (size_t i = 0; i < p.n_places; i++) {
        const struct symbol *s = &t->symbols[p.places[i]];
        if (s->id == p.left && s->next != NIL && t->symbols[s->next].id == p.right)
            merge_at(t, p.places[i], product);
    }
    BUG_ON(t->pairs[number].count != 0);
    free(p.places);
}

/* The token of two tokens' bytes: a new one, unless another merge has made it. */
static int32_t token_join(struct trainer *t, int32_t left, int32_t right)
{
    struct bpe_vocab *v = t->vocab;
    struct span l = v->tokens[left], r = v->tokens[right];
    char *bytes = mem_alloc(l.len + r.len);
    memcpy(bytes, l.p, l.len);
    memcpy(bytes + l.len, r.p, r.len);
    v->tokens[v->n_tokens] = (struct span){bytes, l.len + r.len};
    int32_t id = text_map_put(&t->by_bytes, v->n_tokens);
    if (id == v->n_tokens)
        v->n_tokens++;
    else
        free(bytes);
    return id;
}

/* Merges the most frequent pair; false when there is none. */
static bool merge_best(struct trainer *t)
{
    while (t->n_heap) {
        struct entry e = heap_pop(t);
        struct pair p = t->pairs[e.pair];
        if (p.count == 0) continue;
        if (p.count != e.count) {
            heap_push(t, (struct entry){p.count, e.pair});
            continue;
        }
        struct bpe_vocab *v = t->vocab;
        int32_t product = token_join(t, p.left, p.right);
        v->merges = room(v->merges, v->n_merges, &t->cap_merges, sizeof *v->merges);
        v->merges[v->n_merges++] = (struct tokenizer_part_merge){p.left, p.right};
        merge_everywhere(t, e.pair, product);
        queue_gained(t);
        return true;
    }
    return false;
}

/* ---- start and end ---- */

static void put_bytes(struct trainer *t, int32_t id_of[N_BYTES])
{
    for (int32_t i = 0; i < N_BYTES; i++) {
        uint8_t b = byte_level_order(i);
        char *p = mem_alloc(1);
        *p = (char)b;
        id_of[b] = i;
        t->vocab->tokens[i] = (struct span){p, 1};
        text_map_put(&t->by_bytes, i);
    }
    t->vocab->n_tokens = N_BYTES;
}

static void lay_out(struct trainer *t, size_t n_words, const int32_t id_of[N_BYTES])
{
    size_t total = 0, at = 0;
    for (size_t w = 0; w < n_words; w++)
        total += t->words[w].len;
    BUG_ON(total > (size_t)1 << 31 || n_words >= NIL);
    t->n_symbols = total;
    t->symbols = mem_alloc(total * sizeof *t->symbols);
    for (size_t w = 0; w < n_words; w++) {
        const struct word *word = &t->words[w];
        for (uint32_t i = 0; i < word->len; i++, at++)
            t->symbols[at] = (struct symbol){.id = id_of[(unsigned char)word->bytes[i]],
                                             .prev = i ? (uint32_t)at - 1 : NIL,
                                             .next = i + 1 < word->len ? (uint32_t)at + 1 : NIL,
                                             .word = (uint32_t)w};
    }
    for (at = 0; at < total; at++)
        if (t->symbols[at].next != NIL) pair_gain(t, (uint32_t)at);
    queue_gained(t);
}

static void release(struct trainer *t)
{
    for (size_t i = 0; i < t->n_pairs; i++)
        free(t->pairs[i].places);
    free(t->pairs);
    free(t->symbols);
    free(t->heap);
    free(t->gained);
    pair_map_release(&t->index);
    text_map_release(&t->by_bytes);
}

void bpe_train(struct bpe_vocab *out, const struct word *words, size_t n_words, int32_t n_tokens,
               bpe_train_progress *progress, void *arg)
{
    BUG_ON(n_tokens < N_BYTES);
    int32_t id_of[N_BYTES];
    struct trainer t = {.words = words, .vocab = out};
    out->tokens = mem_calloc((size_t)n_tokens, sizeof *out->tokens);
    text_map_init(&t.by_bytes, (size_t)n_tokens, out->tokens);
    index_grow(&t);
    put_bytes(&t, id_of);
    lay_out(&t, n_words, id_of);
    while (out->n_tokens < n_tokens && merge_best(&t))
        if (progress && !progress(arg, out->n_tokens)) break;
    for (size_t i = 0; i < t.n_symbols; i++)
        if (t.symbols[i].id >= 0) out->encoded_tokens += words[t.symbols[i].word].count;
    release(&t);
}
