#ifndef TTMD_GPT2_TOKENIZER_H
#define TTMD_GPT2_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"

/* GPT-2's byte-level BPE. Immutable after opening; all calls are safe from any thread. */
struct tokenizer;

/* A growable array of token ids. Zero-initialise; tokens_release() frees. */
struct tokens {
    int32_t *ids; /* owned */
    size_t n, cap;
};
void tokens_push(struct tokens *t, int32_t id);
void tokens_reserve(struct tokens *t, size_t more); /* room for `more` ids */
void tokens_release(struct tokens *t);

/* tokenizer_open -- from DIR/tokenizer.json if it is there, else vocab.json + merges.txt (also under
 * OpenAI's names encoder.json + vocab.bpe), with added_tokens.json when present.
 *
 * Refused by name: another model type than BPE, normalizers, another pre-tokenizer than ByteLevel,
 * duplicate or negative ids, holes of more than 2^20 ids, merges whose parts or product are no tokens,
 * files beyond 256 MB, ids from 2^24 on.
 * Errors  ERR_IO, ERR_MISSING, ERR_INVALID, ERR_TYPE, ERR_UNSUPPORTED; *out untouched.
 */
int tokenizer_open(struct tokenizer **out, const char *dir, struct err *err);
void tokenizer_close(struct tokenizer *t); /* t may be NULL */

/* tokenizer_parse_json, tokenizer_parse_bpe -- the same from memory: for tests and fuzzers. */
int tokenizer_parse_json(struct tokenizer **out, const char *json, size_t len, const char *name,
                         struct err *err);
int tokenizer_parse_bpe(struct tokenizer **out, const char *vocab_json, size_t vocab_len,
                        const char *merges, size_t merges_len, struct err *err);

/* tokenizer_encode -- append the ids of text to *out.
 *
 *   text     bytes; ill-formed UTF-8 is encoded byte for byte
 *   special  true: the literal text of special tokens ("<|endoftext|>") becomes their id, the
 *            longest one at the leftmost place; other added tokens are found always
 *
 * Bytes without a token (never in GPT-2's own files) become the file's unk_token or nothing.
 *
 * Cost  O(len log len) on any input.
 */
void tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool special,
                      struct tokens *out);

/* tokenizer_encode_pair -- append the ids of a context and its continuation, as lm-evaluation-harness
 * splits them: encoded as one text and cut at the number of tokens of the context alone, after its
 * trailing white space has moved to the continuation, where BPE wants it. An empty context is `eos`.
 * Returns how many of the ids are the context's: 0 if it is nothing but white space; the continuation
 * may have none.
 */
size_t tokenizer_encode_pair(const struct tokenizer *t, const char *context, size_t context_len,
                             const char *continuation, size_t continuation_len, int32_t eos,
                             struct tokens *out);

/* tokenizer_bytes -- the bytes a token stands for (static until close, not NUL-terminated);
 * *len 0 and "" for an id without a token. Special tokens give their literal text. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);

/* tokenizer_decode -- append the bytes of all ids; special tokens only when `special`. The bytes may
 * be ill-formed UTF-8. */
void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool special,
                      struct buf *out);

int32_t tokenizer_vocab(const struct tokenizer *t); /* largest id + 1 */
size_t tokenizer_max_token_bytes(const struct tokenizer *t);
int32_t tokenizer_find(const struct tokenizer *t, const char *bytes, size_t len); /* id or -1 */
int32_t tokenizer_eos(const struct tokenizer *t); /* id of "<|endoftext|>", -1 if absent */

#endif
