#ifndef TTMD_MODELS_TOKENIZER_WORD_COUNT_H
#define TTMD_MODELS_TOKENIZER_WORD_COUNT_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/pool.h"

/* The different words of a text and how often each occurs. A word is a piece of GPT-2's splitting
 * pattern (engine/gpt2/pretokenizer.h): no token reaches beyond one, so that words and their numbers
 * are all that a tokenizer is trained on. */
struct word {
    const char *bytes; /* borrowed: the first occurrence that was met, in the text */
    uint32_t len;      /* bytes, > 0 */
    uint32_t hash;
    uint64_t count;
};

struct word_table {
    struct word *words; /* (n) owned; in no particular order */
    size_t n, cap;
    uint32_t *slots; /* (mask + 1) owned; index into words + 1, 0 = empty; at most half full */
    size_t mask;
    uint64_t total; /* sum of the counts */
};
void word_table_release(struct word_table *t);

/* word_count -- count the words of text[0..len), len <= 2^31.
 *
 *   out   zero-initialised; its words point into text
 *   pool  NULL = one thread
 *   stop  may be NULL; when it becomes non-zero the rest is left out
 *
 * "<|endoftext|>" separates documents and is part of none; where it stands on a line of its own, the end of
 * that line goes with it. The counts do not depend on the number of threads, the order of words does.
 * Cost    O(len). Source  pretokenize().
 */
void word_count(struct word_table *out, const char *text, size_t len, struct pool *pool,
                const volatile sig_atomic_t *stop);

#endif
