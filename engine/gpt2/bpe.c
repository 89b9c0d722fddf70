/* Byte-pair merging in two ways with one result. Words are short, and for them a scan over an array
 * of ranks is fastest; but a request may be a megabyte without a space, where scanning for every
 * merge is quadratic. Long pieces become a doubly linked list of symbols with a heap of their pairs:
 *
 *     symbols   a <-> b <-> c <-> d          heap of rank << 32 | position of the left symbol
 *               pair ranks are kept in the left symbol
 *
 * A merge changes at most two other pairs; their old heap entries are not searched for but left to
 * be recognised: an entry counts only if its rank is still that of the symbol at its position. Each
 * merge takes one entry out and puts at most two in, so that the heap never exceeds 2 n entries.
 *
 * Files whose merges are not in the order of their making (a product used before it is listed) have
 * no agreed meaning. Here, as in Hugging Face's tokenizers and tiktoken, one pair is merged at a time.
 */
#include "engine/gpt2/bpe.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

#define NIL UINT32_MAX
#define MAX_PIECE ((size_t)1 << 30)

struct symbol {
    int32_t id;
    uint32_t prev, next; /* NIL at the ends */
    struct pair_value
        pair; /* with the next symbol; rank PAIR_NONE if there is none or it is dead */
};

void bpe_scratch_release(struct bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    *s = (struct bpe_scratch){0};
}

static struct pair_value lookup(const struct bpe *b, int32_t left, int32_t right)
{
    return pair_map_get(&b->merges, (uint32_t)left, (uint32_t)right);
}

size_t bpe_merge_short(const struct bpe *b, int32_t *ids, size_t n)
{
    struct pair_value pair[BPE_SHORT];
    for (size_t i = 0; i + 1 < n; i++)
        pair[i] = lookup(b, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (pair[i].rank < pair[best].rank) best = i;
        if (pair[best].rank == PAIR_NONE) break;
        ids[best] = pair[best].id;
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        memmove(pair + best, pair + best + 1, (n - best - 1) * sizeof *pair);
        if (best > 0) pair[best - 1] = lookup(b, ids[best - 1], ids[best]);
        if (best + 1 < n) pair[best] = lookup(b, ids[best], ids[best + 1]);
    }
    return n;
}

/* ---- the heap: four children a node, the least entry at 0 ---- */

static void heap_sink(uint64_t *h, size_t n, size_t at, uint64_t entry)
{
    for (;;) {
        size_t first = 4 * at + 1, least = first;
        if (first >= n) break;
        size_t end = first + 4 < n ? first + 4 : n;
        for (size_t i = first + 1; i < end; i++)
            if (h[i] < h[least]) least = i;
        if (h[least] >= entry) break;
        h[at] = h[least];
        at = least;
    }
    h[at] = entry;
}

static void heap_build(uint64_t *h, size_t n)
{
    if (n < 2) return;
    for (size_t i = (n - 2) / 4 + 1; i-- > 0;)
        heap_sink(h, n, i, h[i]);
}

static uint64_t heap_pop(uint64_t *h, size_t *n)
{
    uint64_t top = h[0];
    --*n;
    if (*n) heap_sink(h, *n, 0, h[*n]);
    return top;
}

static void heap_push(uint64_t *h, size_t *n, uint64_t entry)
{
    size_t at = (*n)++;
    while (at && h[(at - 1) / 4] > entry) {
        h[at] = h[(at - 1) / 4];
        at = (at - 1) / 4;
    }
    h[at] = entry;
}

/* ---- long pieces ---- */

static uint64_t entry_of(uint32_t rank, uint32_t at)
{
    return (uint64_t)rank << 32 | at;
}

/* Scratch for n symbols and 2 n entries. */
static struct symbol *reserve(struct bpe_scratch *s, size_t n)
{
    if (s->n_symbols < n) {
        free(s->symbols);
        free(s->heap);
        s->symbols = mem_alloc(n * sizeof(struct symbol));
        s->heap = mem_alloc(2 * n * sizeof *s->heap);
        s->n_symbols = n;
    }
    s->n_heap = 0;
    return s->symbols;
}

static void pair_up(const struct bpe *b, struct symbol *sym, uint32_t at, struct bpe_scratch *s)
{
    uint32_t next = sym[at].next;
    sym[at].pair =
        next == NIL ? (struct pair_value){PAIR_NONE, -1} : lookup(b, sym[at].id, sym[next].id);
    if (sym[at].pair.rank != PAIR_NONE)
        heap_push(s->heap, &s->n_heap, entry_of(sym[at].pair.rank, at));
}

static void merge_at(const struct bpe *b, struct symbol *sym, uint32_t at, struct bpe_scratch *s)
{
    uint32_t gone = sym[at].next, next = sym[gone].next;
    sym[at].id = sym[at].pair.id;
    sym[at].next = next;
    if (next != NIL) sym[next].prev = at;
    sym[gone].pair.rank = PAIR_NONE;
    pair_up(b, sym, at, s);
    if (sym[at].prev != NIL) pair_up(b, sym, sym[at].prev, s);
}

size_t bpe_merge_long(const struct bpe *b, int32_t *ids, size_t n, struct bpe_scratch *s)
{
    struct symbol *sym = reserve(s, n);
    for (size_t i = 0; i < n; i++) {
        bool last = i + 1 == n;
        sym[i] = (struct symbol){.id = ids[i],
                                 .prev = i ? (uint32_t)i - 1 : NIL,
                                 .next = last ? NIL : (uint32_t)i + 1,
                                 .pair = last ? (struct pair_value){PAIR_NONE, -1}
                                              : lookup(b, ids[i], ids[i + 1])};
        if (sym[i].pair.rank != PAIR_NONE)
            s->heap[s->n_heap++] = entry_of(sym[i].pair.rank, (uint32_t)i);
    }
    heap_build(s->heap, s->n_heap);
    while (s->n_heap) {
        uint64_t top = heap_pop(s->heap, &s->n_heap);
        uint32_t at = (uint32_t)top;
        if (sym[at].pair.rank == top >> 32) merge_at(b, sym, at, s);
    }
    size_t out = 0;
    for (uint32_t at = 0; at != NIL; at = sym[at].next)
        ids[out++] = sym[at].id;
    return out;
}

void bpe_encode(const struct bpe *b, const char *bytes, size_t n, struct bpe_scratch *scratch,
                struct tokens *out)
{
    while (n) {
        size_t part = n < MAX_PIECE ? n : MAX_PIECE, count = 0;
        tokens_reserve(out, part);
        int32_t *ids = out->ids + out->n;
        for (size_t i = 0; i < part; i++) {
            int32_t id = b->byte_id[(unsigned char)bytes[i]];
            if (id >= 0) ids[count++] = id;
        }
        if (count > BPE_SHORT)
            count = bpe_merge_long(b, ids, count, scratch);
        else
            count = bpe_merge_short(b, ids, count);
        out->n += count;
        bytes += part;
        n -= part;
    }
}
