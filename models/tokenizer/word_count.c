/* Counting the words of a text on all threads. The text is cut into pieces of about a megabyte, each
 * thread counts into a table of its own, and the tables are added up: a table that threads share would be
 * locked sixteen million times, and natural text has few different words (a fiftieth of all), so that
 * adding up costs nothing.
 *
 * A cut must not change the words. It is made before a space or newline that follows a printing ASCII
 * character: no piece of the splitting pattern has white space after anything else, and what the
 * pattern finds from there on does not depend on what stands before. A text without such a place is
 * one piece.
 *
 * Words are not copied: the text stays in memory as long as the table. */
#include "models/tokenizer/word_count.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/pretokenizer.h"

#define EOS "<|endoftext|>"
#define CHUNK_BYTES ((size_t)1 << 20)

/* ---- one table ---- */

void word_table_release(struct word_table *t)
{
    free(t->words);
    free(t->slots);
    *t = (struct word_table){0};
}

/* FNV-1a: words are short. */
static uint32_t hash_of(const char *bytes, size_t len)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)bytes[i]) * 16777619u;
    return h ^ h >> 15;
}

static void grow(struct word_table *t)
{
    t->cap = t->cap ? 2 * t->cap : 1024;
    t->words = mem_realloc(t->words, t->cap * sizeof *t->words);
    free(t->slots);
    t->slots = mem_calloc(2 * t->cap, sizeof *t->slots);
    t->mask = 2 * t->cap - 1;
    for (size_t i = 0; i < t->n; i++) {
        size_t at = t->words[i].hash & t->mask;
        while (t->slots[at])
            at = (at + 1) & t->mask;
        t->slots[at] = (uint32_t)i + 1;
    }
}

static void add(struct word_table *t, const char *bytes, uint32_t len, uint32_t hash,
                uint64_t count)
{
    if (t->n == t->cap) grow(t);
    size_t at = hash & t->mask;
    t->total += count;
    for (; t->slots[at]; at = (at + 1) & t->mask) {
        struct word *w = &t->words[t->slots[at] - 1];
        if (w->hash != hash || w->len != len || memcmp(w->bytes, bytes, len) != 0) continue;
        w->count += count;
        return;
    }
    t->words[t->n] = (struct word){.bytes = bytes, .len = len, .hash = hash, .count = count};
    t->slots[at] = (uint32_t)++t->n;
}

static void count_chunk(struct word_table *t, const char *text, size_t len)
{
    for (size_t at = 0; at < len;) {
        size_t n = pretokenize(text + at, len - at);
        add(t, text + at, (uint32_t)n, hash_of(text + at, n), 1);
        at += n;
    }
}

/* ---- cutting ---- */

struct chunks {
    struct chunk {
        const char *text;
        size_t len;
    } * list;
    size_t n, cap;
};

static void chunk_push(struct chunks *c, const char *text, size_t len)
{
    if (len == 0) return;
    if (c->n == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 64;
        c->list = mem_realloc(c->list, c->cap * sizeof *c->list);
    }
    c->list[c->n++] = (struct chunk){text, len};
}

/* The first place from `at` on where a cut changes nothing; len if there is none. */
static size_t next_cut(const char *text, size_t len, size_t at)
{
    for (; at < len; at++)
        if ((text[at] == ' ' || text[at] == '\n') && text[at - 1] > ' ' && text[at - 1] < 0x7f)
            break;
    return at;
}

static void cut_document(struct chunks *c, const char *text, size_t len)
{
    while (len > CHUNK_BYTES) {
        size_t n = next_cut(text, len, CHUNK_BYTES);
        chunk_push(c, text, n);
        text += n;
        len -= n;
    }
    chunk_push(c, text, len);
}

static void cut_text(struct chunks *c, const char *text, size_t len)
{
    const char *end = text + len, *begin = text, *eos;
    while ((eos = memmem(begin, (size_t)(end - begin), EOS, sizeof EOS - 1)) != NULL) {
        cut_document(c, begin, (size_t)(eos - begin));
        begin = eos + sizeof EOS - 1;
        bool own_line = (eos == text || eos[-1] == '\n') && begin < end && *begin == '\n';
        begin += own_line;
    }
    cut_document(c, begin, (size_t)(end - begin));
}

/* ---- all of it ---- */

struct work {
    const struct chunk *chunks;
    struct word_table *tables; /* one a thread */
    const volatile sig_atomic_t *stop;
};

static void count_chunks(void *arg, size_t begin, size_t end, int worker)
{
    const struct work *w = arg;
    for (size_t i = begin; i < end && !(w->stop && *w->stop); i++)
        count_chunk(&w->tables[worker], w->chunks[i].text, w->chunks[i].len);
}

void word_count(struct word_table *out, const char *text, size_t len, struct pool *pool,
                const volatile sig_atomic_t *stop)
{
    struct chunks c = {0};
    int threads = pool_threads(pool);
    struct word_table *tables = mem_calloc((size_t)threads, sizeof *tables);
    BUG_ON(len > (size_t)1 << 31); /* so that words are fewer than 2^32 */
    if (len) cut_text(&c, text, len);
    struct work w = {.chunks = c.list, .tables = tables, .stop = stop};
    pool_for(pool, c.n, 1, count_chunks, &w);
    *out = tables[0];
    for (int i = 1; i < threads; i++) {
        for (size_t k = 0; k < tables[i].n; k++) {
            const struct word *o = &tables[i].words[k];
            add(out, o->bytes, o->len, o->hash, o->count);
        }
        word_table_release(&tables[i]);
    }
    free(tables);
    free(c.list);
}
