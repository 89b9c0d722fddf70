#ifndef TTMD_SERVER_TEXT_H
#define TTMD_SERVER_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/gpt2/tokenizer.h"

/* token_string -- append the name of a token in logprobs, raw (not JSON-quoted). Injective over ids:
 *   whole UTF-8 text               that text
 *   anything else                  "bytes:\xe2\x80", every byte as \xHH; also text with a NUL, which many
 *                                  JSON parsers refuse in a key, and text that begins with "bytes:"
 *   text that another id owns      "bytes:\x61#300", the id after '#'
 *   an id without a token          "bytes:#50300"
 */
void token_string(const struct tokenizer *t, int32_t id, struct buf *out);

/* text_lossy -- append bytes as well-formed UTF-8: ill-formed parts become U+FFFD. */
void text_lossy(const char *bytes, size_t len, struct buf *out);

/* The text of a token sequence and where each token's text begins in it, in Unicode characters. A token
 * that ends within a character has the offset of that character, and so has the one completing it. */
struct token_text {
    struct buf text;      /* well-formed UTF-8; owned */
    uint32_t *char_begin; /* (n) owned */
    uint32_t chars;       /* characters in text */
};
void token_text_make(struct token_text *tt, const struct tokenizer *t, const int32_t *ids,
                     size_t n);
void token_text_release(struct token_text *tt);

#endif
