/* Two filters in a row: bytes -> characters -> text that is safe to show.
 *
 *     "...abc" | "ST"  | E2 82 |        a stop string "STOP" may be under way, a euro sign as well
 *        ^released  ^len    ^tail (not yet text)
 *
 * Characters: at most three bytes wait in `tail`; they are always a proper prefix of a well-formed
 * character, so they end as exactly one character or one U+FFFD.
 * Stop strings: each has a Knuth-Morris-Pratt automaton that is fed every byte of the text once.
 * Its state is the longest proper prefix that the text ends with, which is what must be held back;
 * searching the text again after each token would be quadratic and would not tell how much to hold.
 *
 * Invariant: no byte of a stop string found later lies below `released`, because every byte of it
 * was part of a held-back prefix since it came. */
#include "engine/run/gate.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/err.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"

struct gate_match {
    size_t state;   /* bytes of the stop string that the text ends with */
    uint32_t *fail; /* (stop_len) owned; fail[i]: longest proper border of its first i + 1 bytes */
};

static uint32_t *failure_table(const char *s, size_t len)
{
    uint32_t *f = mem_calloc(len, sizeof *f);
    for (size_t i = 1, k = 0; i < len; i++) {
        while (k > 0 && s[i] != s[k])
            k = f[k - 1];
        if (s[i] == s[k]) k++;
        f[i] = (uint32_t)k;
    }
    return f;
}

void gate_init(struct gate *g, size_t cap_bytes, const char *const *stop, const size_t *stop_len,
               size_t n_stop, bool include_stop)
{
    size_t cap;
    BUG_ON(!mem_mul(cap_bytes, 3, &cap) || !mem_add(cap, 4, &cap));
    *g = (struct gate){.cap = cap,
                       .stop = stop,
                       .stop_len = stop_len,
                       .n_stop = n_stop,
                       .include_stop = include_stop,
                       .watch = true,
                       .stop_index = -1};
    g->text = mem_alloc(cap);
    g->match = n_stop ? mem_calloc(n_stop, sizeof *g->match) : NULL;
    for (size_t i = 0; i < n_stop; i++) {
        BUG_ON(stop_len[i] == 0 || stop_len[i] > UINT32_MAX);
        g->match[i].fail = failure_table(stop[i], stop_len[i]);
    }
}

void gate_release(struct gate *g)
{
    for (size_t i = 0; i < g->n_stop; i++)
        free(g->match[i].fail);
    free(g->match);
    free(g->text);
    *g = (struct gate){.stop_index = -1};
}

static void found(struct gate *g, size_t i)
{
    size_t len = g->stop_len[i];
    if (!g->include_stop) {
        for (size_t b = g->len - len; b < g->len; b++) /* count the characters that go */
            g->chars -= ((unsigned char)g->text[b] & 0xc0) != 0x80;
        g->len -= len;
    }
    g->stopped = true;
    g->stop_index = (int)i;
    g->released = g->len;
    g->tail_len = 0;
}

/* Feed the automata one byte, already in the text; true when a stop string ends here. */
static bool advance(struct gate *g, char c)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < g->n_stop; i++) {
        const char *s = g->stop[i];
        struct gate_match *m = &g->match[i];
        while (m->state > 0 && s[m->state] != c)
            m->state = m->fail[m->state - 1];
        if (s[m->state] == c) m->state++;
        if (m->state < g->stop_len[i]) continue;
        if (best == SIZE_MAX || g->stop_len[i] > g->stop_len[best]) best = i;
    }
    if (best != SIZE_MAX) found(g, best);
    return best != SIZE_MAX;
}

/* Append one whole character; true when it completes a stop string. */
static bool emit(struct gate *g, const char *s, size_t n)
{
    BUG_ON(n > g->cap - g->len);
    g->chars++;
    for (size_t i = 0; i < n; i++) {
        g->text[g->len++] = s[i];
        if (g->watch && advance(g, s[i])) return true;
    }
    return false;
}

static bool emit_replacement(struct gate *g)
{
    return emit(g, UTF8_REPLACEMENT, sizeof UTF8_REPLACEMENT - 1);
}

/* Complete the waiting character from bytes[0..len), or replace it when they do not continue it.
 * Returns the bytes used. */
static size_t join_tail(struct gate *g, const char *bytes, size_t len, bool *stop)
{
    for (size_t used = 0; used < len; used++) {
        uint32_t cp;
        g->tail[g->tail_len] = bytes[used];
        size_t n = utf8_next(g->tail, g->tail_len + 1, &cp);
        if (n == 0) {
            g->tail_len++;
            continue;
        }
        g->tail_len = 0;
        if (cp == UINT32_MAX) {
            *stop = emit_replacement(g);
            if (used == 0) g->begin = g->len, g->begin_chars = g->chars;
            return used;
        }
        *stop = emit(g, g->tail, n);
        return used + 1;
    }
    return len;
}

/* Let go of all but the longest tail that may become a stop string. */
static void release(struct gate *g)
{
    size_t held = 0;
    for (size_t i = 0; i < g->n_stop; i++) {
        struct gate_match *m = &g->match[i];
        if (!g->watch) m->state = 0;
        if (m->state > held) held = m->state;
    }
    g->released = g->len - held;
}

bool gate_push(struct gate *g, const char *bytes, size_t len)
{
    BUG_ON(g->stopped);
    bool stop = false;
    g->begin = g->len;
    g->begin_chars = g->chars;
    size_t i = g->tail_len ? join_tail(g, bytes, len, &stop) : 0;
    while (!stop && i < len) {
        uint32_t cp;
        size_t n = utf8_next(bytes + i, len - i, &cp);
        if (n == 0) {
            memcpy(g->tail, bytes + i, len - i);
            g->tail_len = len - i;
            break;
        }
        stop = cp == UINT32_MAX ? emit_replacement(g) : emit(g, bytes + i, n);
        i += n;
    }
    if (!stop) release(g);
    return stop;
}

void gate_finish(struct gate *g)
{
    if (g->stopped) return;
    if (g->tail_len) {
        g->tail_len = 0;
        if (emit_replacement(g)) return;
    }
    g->released = g->len;
}
