/* GPT-2's tokenizer at work: added tokens split the text, the pre-tokenizer splits what is between
 * them, each piece is looked up whole and, failing that, merged from bytes. Most words of a natural
 * text are tokens, and one hash probe is an order of magnitude cheaper than their merges; that the
 * merges give the same was verified for each token when the tokenizer was built.
 *
 * A tokenizer is read-only here: no cache of pieces, so that any thread may encode without a lock.
 */
#include "engine/gpt2/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/pretokenizer.h"
#include "engine/gpt2/tokenizer_spec.h"

void tokens_reserve(struct tokens *t, size_t more)
{
    if (more <= t->cap - t->n) return;
    size_t cap, bytes;
    if (!mem_add(t->n, more, &cap) || !mem_mul(cap, 2 * sizeof *t->ids, &bytes))
        BUG("%zu more tokens", more);
    t->cap = 2 * cap;
    t->ids = mem_realloc(t->ids, bytes);
}

void tokens_push(struct tokens *t, int32_t id)
{
    if (t->n == t->cap) tokens_reserve(t, 16);
    t->ids[t->n++] = id;
}

void tokens_release(struct tokens *t)
{
    free(t->ids);
    *t = (struct tokens){0};
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t) return;
    pair_map_release(&t->bpe.merges);
    text_map_release(&t->by_bytes);
    added_release(&t->all);
    added_release(&t->plain);
    free(t->spans);
    free(t->flags);
    free(t->bytes);
    free(t);
}

static void encode_piece(const struct tokenizer *t, const char *piece, size_t len,
                         struct bpe_scratch *scratch, struct tokens *out)
{
    if (len <= t->max_direct_bytes) {
        int32_t id = text_map_get(&t->by_bytes, piece, len);
        if (id >= 0 && t->flags[id] & TOKEN_DIRECT) {
            tokens_push(out, id);
            return;
        }
    }
    bpe_encode(&t->bpe, piece, len, scratch, out);
}

static void encode_pieces(const struct tokenizer *t, const char *text, size_t len,
                          struct bpe_scratch *scratch, struct tokens *out)
{
    for (size_t at = 0; at < len;) {
        size_t n = pretokenize(text + at, len - at);
        encode_piece(t, text + at, n, scratch, out);
        at += n;
    }
}

/* The text between two added tokens. */
static void encode_segment(const struct tokenizer *t, const char *text, size_t len,
                           struct bpe_scratch *scratch, struct tokens *out)
{
    if (len == 0) return;
    if (!t->prefix_space || *text == ' ') {
        encode_pieces(t, text, len, scratch, out);
        return;
    }
    struct buf b = {0};
    buf_reserve(&b, len + 1);
    buf_putc(&b, ' ');
    buf_append(&b, text, len);
    encode_pieces(t, b.data, b.len, scratch, out);
    buf_release(&b);
}

void tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool special,
                      struct tokens *out)
{
    struct bpe_scratch scratch = {0};
    struct added_matches m = {0};
    added_find(special ? &t->all : &t->plain, text, len, &m);
    size_t done = 0;
    while (m.n) {
        struct added_match next = m.list[--m.n]; /* the list runs backwards */
        if (next.at < done) continue;            /* within the one before */
        encode_segment(t, text + done, next.at - done, &scratch, out);
        tokens_push(out, next.id);
        done = next.at + t->spans[next.id].len;
    }
    encode_segment(t, text + done, len - done, &scratch, out);
    free(m.list);
    bpe_scratch_release(&scratch);
}

size_t tokenizer_encode_pair(const struct tokenizer *t, const char *context, size_t context_len,
                             const char *continuation, size_t continuation_len, int32_t eos,
                             struct tokens *out)
{
    if (context_len == 0) {
        tokens_push(out, eos);
        tokenizer_encode(t, continuation, continuation_len, true, out);
        return 1;
    }
    struct buf whole = {0};
    struct tokens head = {0};
    buf_append(&whole, context, context_len);
    buf_append(&whole, continuation, continuation_len);
    tokenizer_encode(t, whole.data, whole.len, true, out);
    while (context_len > 0 && strchr(" \t\n\r\v\f", context[context_len - 1]))
        context_len--;
    tokenizer_encode(t, context, context_len, true, &head);
    size_t n = head.n;
    tokens_release(&head);
    buf_release(&whole);
    return n;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    if (id < 0 || id >= t->vocab || !(t->flags[id] & TOKEN_PRESENT)) {
        *len = 0;
        return "";
    }
    *len = t->spans[id].len;
    return t->spans[id].p;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab && t->flags[id] & TOKEN_SPECIAL;
}

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool special,
                      struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        if (!special && tokenizer_is_special(t, ids[i])) continue;
        size_t len;
        const char *p = tokenizer_bytes(t, ids[i], &len);
        if (len) buf_append(out, p, len);
    }
}

int32_t tokenizer_vocab(const struct tokenizer *t)
{
    return t->vocab;
}

size_t tokenizer_max_token_bytes(const struct tokenizer *t)
{
    return t->max_token_bytes;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *bytes, size_t len)
{
    return len ? text_map_get(&t->by_bytes, bytes, len) : -1;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}
