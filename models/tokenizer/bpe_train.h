#ifndef TTMD_MODELS_TOKENIZER_BPE_TRAIN_H
#define TTMD_MODELS_TOKENIZER_BPE_TRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/gpt2/id_map.h"
#include "engine/gpt2/tokenizer_write.h"
#include "models/tokenizer/word_count.h"

/* What training gives: the 256 bytes in GPT-2's order, then the products of the merges. */
struct bpe_vocab {
    struct span *tokens; /* (n_tokens) owned, as is what each points to */
    int32_t n_tokens;
    struct tokenizer_part_merge *merges; /* (n_merges) owned, by rank */
    size_t n_merges;         /* >= n_tokens - 256: two merges may have the same product */
    uint64_t encoded_tokens; /* of the words that it was trained on, with their counts */
};
void bpe_vocab_release(struct bpe_vocab *v);

/* Told the number of tokens after each merge; training ends early when it returns false. */
typedef bool bpe_train_progress(void *arg, int32_t n_tokens);

/* bpe_train -- learn a byte-pair encoding: the most frequent pair of neighbouring tokens becomes a
 * token, of equally frequent ones the pair of lowest ids (left, then right), until the vocabulary has n_tokens
 * or no pair is left. The same merges, in the same order, as Hugging Face's BpeTrainer.
 *
 *   out       zero-initialised
 *   words     (n_words) together at most 2^31 bytes, with counts that add up to less than 2^63
 *   n_tokens  >= 256
 *   progress  may be NULL
 *
 * out->n_tokens is less than n_tokens when the words do not give more.
 * Cost    O(s log s) for s bytes of words, whatever the number of merges; O(s) memory.
 * Source  Sennrich et al. 2016, algorithm 1.
 */
void bpe_train(struct bpe_vocab *out, const struct word *words, size_t n_words, int32_t n_tokens,
               bpe_train_progress *progress, void *arg);

#endif
