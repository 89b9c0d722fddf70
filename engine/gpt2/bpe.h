#ifndef TTMD_GPT2_BPE_H
#define TTMD_GPT2_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/gpt2/id_map.h"
#include "engine/gpt2/tokenizer.h"

/* The merging of byte-pair encoding: of all neighbouring pairs of a piece, the one of lowest rank,
 * and of equal ones the leftmost, becomes one token, until no pair has a rank. */
struct bpe {
    struct pair_map merges; /* (left id, right id) -> (rank, merged id) */
    int32_t byte_id[256];   /* the token of each byte; -1: such bytes are left out */
};

/* struct bpe_scratch -- storage of long pieces, kept from one to the next. Zero-initialise. */
struct bpe_scratch {
    void *symbols;  /* owned */
    uint64_t *heap; /* owned */
    size_t n_symbols, n_heap;
};
void bpe_scratch_release(struct bpe_scratch *s);

/* bpe_encode -- append the tokens of one piece.
 *
 * Cost    O(n log n); pieces beyond 2^30 bytes are encoded 2^30 bytes at a time.
 * Thread  any; scratch belongs to the caller.
 */
void bpe_encode(const struct bpe *b, const char *bytes, size_t n, struct bpe_scratch *scratch,
                struct tokens *out);

/* bpe_merge_short, bpe_merge_long -- the two ways that bpe_encode chooses from by length, the same
 * result: ids[0..n) are merged in place, the new count is returned. bpe_merge_short takes
 * n <= BPE_SHORT; bpe_merge_long takes 1 <= n <= 2^30. */
enum { BPE_SHORT = 64 };
size_t bpe_merge_short(const struct bpe *b, int32_t *ids, size_t n);
size_t bpe_merge_long(const struct bpe *b, int32_t *ids, size_t n, struct bpe_scratch *scratch);

#endif
