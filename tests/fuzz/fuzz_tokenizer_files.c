/* Tokenizer files of any content. The first byte chooses the form: even, a tokenizer.json; odd, a
 * vocab.json, a NUL and a merges.txt. What parses must encode and decode any text, and every id it
 * gives must be one of its own. */
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct tokenizer *t, const char *text, size_t len)
{
    struct tokens ids = {0};
    struct buf out = {0};
    tokenizer_encode(t, text, len, true, &ids);
    tokenizer_encode(t, text, len, false, &ids);
    for (size_t i = 0; i < ids.n; i++)
        if (ids.ids[i] < 0 || ids.ids[i] >= tokenizer_vocab(t)) abort();
    tokenizer_decode(t, ids.ids, ids.n, true, &out);
    if (out.len > ids.n * tokenizer_max_token_bytes(t)) abort();
    buf_release(&out);
    tokens_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    const char *text = (const char *)data + 1;
    size_t len = size - 1;
    struct tokenizer *t = NULL;
    struct err e = {0};
    int rc;
    if (data[0] % 2 == 0) {
        rc = tokenizer_parse_json(&t, text, len, "tokenizer.json", &e);
    } else {
        const char *nul = memchr(text, 0, len);
        size_t vocab = nul ? (size_t)(nul - text) : len, skip = nul ? vocab + 1 : vocab;
        rc = tokenizer_parse_bpe(&t, text, vocab, text + skip, len - skip, &e);
    }
    if (rc == 0)
        use(t, text, len);
    else if (t || e.code != rc || !*e.msg)
        abort();
    tokenizer_close(t);
    return 0;
}
