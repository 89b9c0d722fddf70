#ifndef TTMD_GPT2_TOKENIZER_WRITE_H
#define TTMD_GPT2_TOKENIZER_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

/* What a byte-level tokenizer consists of. All borrowed. */
struct tokenizer_parts {
    const struct tokenizer_part_token {
        const char *bytes; /* the bytes it stands for; of a special token its literal text, UTF-8 */
        size_t len;
        bool special;
    } * tokens; /* by id */
    int32_t n_tokens;
    const struct tokenizer_part_merge {
        int32_t left, right; /* ids */
    } * merges;              /* by rank; the product of each is a token */
    size_t n_merges;
};

/* tokenizer_write -- DIR/tokenizer.json, DIR/vocab.json and DIR/merges.txt, three forms of the same
 * tokenizer, in the byte alphabet, as Hugging Face's libraries write and read them. The pair of files
 * cannot say which tokens are special: readers know "<|endoftext|>" only.
 *
 * Errors  ERR_INVALID (two tokens of the same bytes, a merge that names no token or makes none, a
 *         special token that is not UTF-8): nothing was written. ERR_IO with the path.
 */
int tokenizer_write(const char *dir, const struct tokenizer_parts *parts, struct err *err);

/* tokenizer_write_bytes -- a synthetic tokenizer of exactly `vocab` tokens, for models without a text
 * to train one on: the 256 bytes in GPT-2's order, then pairs of bytes in a fixed order, ASCII letters
 * first, and "<|endoftext|>" as the last id.
 *
 * Errors  ERR_INVALID unless 257 <= vocab <= 256 + 65536 + 1; ERR_IO.
 */
int tokenizer_write_bytes(const char *dir, int32_t vocab, struct err *err);

/* tokenizer_copy_files -- carry over what from_dir has of tokenizer.json, vocab.json, merges.txt,
 * added_tokens.json, tokenizer_config.json and special_tokens_map.json, unchanged; OpenAI's
 * encoder.json and vocab.bpe become vocab.json and merges.txt unless those are there. Files of the
 * same names in to_dir are replaced; nothing is done when both are the same directory, and it is no
 * error when there is nothing to copy.
 * Errors  ERR_IO with the path. */
int tokenizer_copy_files(const char *from_dir, const char *to_dir, struct err *err);

#endif
