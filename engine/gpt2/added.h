#ifndef TTMD_GPT2_ADDED_H
#define TTMD_GPT2_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/gpt2/id_map.h"

/* Finding added tokens ("<|endoftext|>") in a text: of all that begin at the leftmost place the
 * longest, then on after its end. */
struct added {
    struct pair_map next; /* (state, byte) -> state */
    int32_t *longest;     /* owned; per state, see added.c */
    uint32_t *fail;       /* owned; per state */
    bool ends[256];       /* bytes that some added token ends with */
    size_t n;             /* number of tokens; 0: never a match, nothing allocated */
};

struct added_match {
    size_t at;
    int32_t id;
};
struct added_matches {
    struct added_match *list; /* owned, free() */
    size_t n, cap;
};

/* added_init -- ids[0..n) are the tokens, spans[id] their text; empty ones never match. Their total
 * length is < 2^31. Nothing is kept of ids and spans. */
void added_init(struct added *a, const int32_t *ids, size_t n, const struct span *spans);
void added_release(struct added *a);

/* added_find -- all places in text where a token begins, with the longest that does, from the last
 * place to the first, appended to *out. Cost  O(len), whatever the tokens. */
void added_find(const struct added *a, const char *text, size_t len, struct added_matches *out);

#endif
