#ifndef TTMD_GPT2_TOKENIZER_SPEC_H
#define TTMD_GPT2_TOKENIZER_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/gpt2/added.h"
#include "engine/gpt2/bpe.h"
#include "engine/gpt2/id_map.h"
#include "engine/gpt2/tokenizer.h"

/* Inside the tokenizer: what the files say (struct tokenizer_spec), and what is made of it. */

#define TOKENIZER_MAX_FILE ((size_t)256 << 20) /* bytes */
#define TOKENIZER_MAX_ID (1 << 24)             /* ids are less */
#define TOKENIZER_MAX_HOLES (1 << 20)          /* ids without a token */
#define TOKENIZER_MAX_ADDED ((size_t)16 << 20) /* bytes of all added tokens */
#define TOKENIZER_EOS "<|endoftext|>"

struct tokenizer_entry {
    struct span text; /* as spelled in the file: byte alphabet, or literal if added */
    int32_t id;       /* 0 .. TOKENIZER_MAX_ID - 1 */
    bool added, special;
};

struct tokenizer_merge {
    struct span left, right;
};

/* All texts are borrowed from the parsed files until tokenizer_build() returns. */
struct tokenizer_spec {
    const char *name;                /* the file that the vocabulary is in, for messages */
    const char *merges_name;         /* the file that the merges are in */
    struct tokenizer_entry *entries; /* owned; the vocabulary first, then added tokens */
    size_t n_entries, cap_entries;
    struct tokenizer_merge *merges; /* owned; by rank */
    size_t n_merges, cap_merges;
    struct span unk; /* .p NULL: none */
    bool prefix_space, ignore_merges, byte_fallback, fuse_unk;
};
void tokenizer_spec_entry(struct tokenizer_spec *s, struct tokenizer_entry e);
void tokenizer_spec_merge(struct tokenizer_spec *s, struct tokenizer_merge m);
void tokenizer_spec_release(struct tokenizer_spec *s);

/* tokenizer_spec_split -- "a b" into its two parts; false unless there is exactly one space with
 * something on both sides. */
bool tokenizer_spec_split(const char *line, size_t len, struct tokenizer_merge *out);

/* tokenizer_spec_vocab -- the entries of a parsed {"token": id} object, borrowed like all texts.
 *   key  where it is in the file, for messages: "model.vocab" */
struct json_t;
int tokenizer_spec_vocab(struct tokenizer_spec *s, const struct json_t *vocab, const char *file,
                         const char *key, bool added, struct err *err);

/* tokenizer_build -- check the spec and make the tokenizer. */
int tokenizer_build(struct tokenizer **out, const struct tokenizer_spec *s, struct err *err);

enum {
    TOKEN_PRESENT = 1, /* the id has a token */
    TOKEN_ADDED = 2,
    TOKEN_SPECIAL = 4,
    TOKEN_LITERAL = 8, /* not spelled in the byte alphabet: merges and pieces never mean it */
    TOKEN_DIRECT = 16, /* as a piece, its bytes encode to this one id: the merges need not be run */
};

struct tokenizer {
    struct bpe bpe;
    struct span *spans; /* owned, [vocab]: the bytes of each id, within `bytes` */
    uint8_t *flags;     /* owned, [vocab]: TOKEN_* */
    char *bytes;        /* owned */
    struct text_map by_bytes;
    struct added all, plain; /* all added tokens; those that are not special */
    int32_t vocab, eos;
    size_t max_token_bytes, max_direct_bytes;
    bool prefix_space; /* a text that does not begin with a space gets one */
};

#endif
