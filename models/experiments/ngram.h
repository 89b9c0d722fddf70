#ifndef TTMD_MODELS_EXPERIMENTS_NGRAM_H
#define TTMD_MODELS_EXPERIMENTS_NGRAM_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

/* An n-gram model of bytes, interpolated after Witten and Bell: what a language model must beat.
 *
 *   P_k(b | c) = (N(c b) + T(c) P_{k-1}(b | c')) / (N(c) + T(c)),   P_0 = 1/256
 *
 * where c are the k-1 bytes before b, c' the same without the first, N counts occurrences in the text and T
 * the different bytes that follow c there. What precedes a text are NUL bytes.
 *
 * Source  Witten and Bell 1991; Chen and Goodman 1998, section 2.6.
 */
enum { NGRAM_ORDER_MAX = 6 };
struct ngram;

/* ngram_new -- count the text. order 1..NGRAM_ORDER_MAX; ngram_free() frees. NULL when *stop became 1 before the
 * end; stop may be NULL.
 * Cost  O(len), and memory for about twice as many 24-byte entries as there are different n-grams. */
struct ngram *ngram_new(int order, const void *text, size_t len, const volatile sig_atomic_t *stop);
void ngram_free(struct ngram *m); /* m may be NULL */

/* ngram_bits -- -log2 P of the whole text, in bits; of its beginning when *stop became 1 before the end. */
double ngram_bits(const struct ngram *m, const void *text, size_t len,
                  const volatile sig_atomic_t *stop);

/* ngram_probability -- P(b | the order - 1 last bytes of context); shorter contexts are preceded by NULs. */
double ngram_probability(const struct ngram *m, const unsigned char *context, size_t len,
                         unsigned char b);

#endif
