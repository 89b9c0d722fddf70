/* From what the files say to tables: one place for all checks, whichever files the texts come from.
 *
 * Two spellings must be kept apart. Files spell tokens in the byte alphabet, and merges name tokens
 * by that spelling: `raw` maps it to ids while building. What remains are bytes. A token that is not
 * of the alphabet (an added one, or a stray one in the vocabulary) stands for its literal text.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/byte_level.h"
#include "engine/gpt2/tokenizer_spec.h"

/* A text in a message: the first bytes of it. */
#define SHOWN(s) (int)((s).len < 48 ? (s).len : 48), (s).p

struct builder {
    const struct tokenizer_spec *spec;
    struct tokenizer *t;
    struct span *raw; /* [vocab] spelling of each id */
    struct text_map by_raw;
};

static bool span_is(struct span s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

static int size_vocab(struct builder *b, struct err *err)
{
    const struct tokenizer_spec *s = b->spec;
    if (s->n_entries == 0) return err_set(err, ERR_INVALID, "%s: the vocabulary is empty", s->name);
    int32_t max = 0;
    size_t added_bytes = 0;
    for (size_t i = 0; i < s->n_entries; i++) {
        if (s->entries[i].id > max) max = s->entries[i].id;
        if (s->entries[i].added) added_bytes += s->entries[i].text.len;
    }
    size_t vocab = (size_t)max + 1;
    if (vocab > s->n_entries + TOKENIZER_MAX_HOLES)
        return err_set(
            err, ERR_INVALID,
            "%s: the largest id is %d, but there are only %zu tokens: at most %d ids may be "
            "without a token",
            s->name, (int)max, s->n_entries, TOKENIZER_MAX_HOLES);
    if (added_bytes > TOKENIZER_MAX_ADDED)
        return err_set(err, ERR_INVALID, "%s: added tokens of %zu bytes, expected at most %zu",
                       s->name, added_bytes, TOKENIZER_MAX_ADDED);
    b->t->vocab = (int32_t)vocab;
    return 0;
}

/* Give an id its spelling and flags. An added token may repeat one of the vocabulary. */
static int place(struct builder *b, const struct tokenizer_entry *e, struct err *err)
{
    struct tokenizer *t = b->t;
    int32_t known = text_map_get(&b->by_raw, e->text.p, e->text.len);
    if (known >= 0 && known != e->id)
        return err_set(err, ERR_INVALID, "%s: token \"%.*s\" has two ids, %d and %d", b->spec->name,
                       SHOWN(e->text), (int)known, (int)e->id);
    if (known < 0 && t->flags[e->id])
        return err_set(err, ERR_INVALID, "%s: id %d belongs to two tokens, \"%.*s\" and \"%.*s\"",
                       b->spec->name, (int)e->id, SHOWN(b->raw[e->id]), SHOWN(e->text));
    if (known < 0) {
        b->raw[e->id] = e->text;
        text_map_put(&b->by_raw, e->id);
    }
    bool special = e->special || span_is(e->text, TOKENIZER_EOS);
    t->flags[e->id] |= TOKEN_PRESENT;
    if (e->added || special) t->flags[e->id] |= TOKEN_ADDED;
    if (special) t->flags[e->id] |= TOKEN_SPECIAL;
    return 0;
}

static int place_all(struct builder *b, struct err *err)
{
    struct tokenizer *t = b->t;
    size_t vocab = (size_t)t->vocab;
    t->flags = mem_calloc(vocab, 1);
    t->spans = mem_calloc(vocab, sizeof *t->spans);
    b->raw = mem_calloc(vocab, sizeof *b->raw);
    text_map_init(&b->by_raw, b->spec->n_entries, b->raw);
    for (size_t i = 0; i < b->spec->n_entries; i++) {
        int rc = place(b, &b->spec->entries[i], err);
        if (rc) return rc;
    }
    t->eos = text_map_get(&b->by_raw, TOKENIZER_EOS, strlen(TOKENIZER_EOS));
    return 0;
}

static int merge_part(struct builder *b, size_t rank, const char *what, struct span s, int32_t *id,
                      struct err *err)
{
    *id = text_map_get(&b->by_raw, s.p, s.len);
    if (*id >= 0) return 0;
    return err_set(err, ERR_INVALID, "%s: merge %zu: its %s \"%.*s\" is not a token of %s",
                   b->spec->merges_name, rank + 1, what, SHOWN(s), b->spec->name);
}

static int add_merges(struct builder *b, struct err *err)
{
    const struct tokenizer_spec *s = b->spec;
    struct buf product = {0};
    int rc = 0;
    pair_map_init(&b->t->bpe.merges, s->n_merges);
    for (size_t i = 0; i < s->n_merges && rc == 0; i++) {
        const struct tokenizer_merge *m = &s->merges[i];
        int32_t left, right, id;
        buf_clear(&product);
        buf_append(&product, m->left.p, m->left.len);
        buf_append(&product, m->right.p, m->right.len);
        struct span p = {product.data, product.len};
        rc = merge_part(b, i, "left part", m->left, &left, err);
        if (rc == 0) rc = merge_part(b, i, "right part", m->right, &right, err);
        if (rc == 0) rc = merge_part(b, i, "product", p, &id, err);
        if (rc == 0)
            pair_map_put(&b->t->bpe.merges, (uint32_t)left, (uint32_t)right,
                         (struct pair_value){.rank = (uint32_t)i, .id = id});
    }
    buf_release(&product);
    return rc;
}

static int add_bytes(struct builder *b, struct err *err)
{
    const struct tokenizer_spec *s = b->spec;
    int missing = -1;
    struct buf spelling = {0};
    for (int i = 0; i < 256; i++) {
        char byte = (char)(unsigned char)i;
        buf_clear(&spelling);
        byte_level_encode(&byte, 1, &spelling);
        b->t->bpe.byte_id[i] = text_map_get(&b->by_raw, spelling.data, spelling.len);
        if (b->t->bpe.byte_id[i] < 0) missing = i;
    }
    buf_release(&spelling);
    if (missing < 0) return 0;
    if (s->byte_fallback || (s->unk.p && s->fuse_unk))
        return err_set(err, ERR_UNSUPPORTED,
                       "%s: model.%s is true, and byte 0x%02x has no token: expected "
                       "a token for every byte",
                       s->name, s->byte_fallback ? "byte_fallback" : "fuse_unk", (unsigned)missing);
    if (!s->unk.p) return 0;
    int32_t unk = text_map_get(&b->by_raw, s->unk.p, s->unk.len);
    if (unk < 0)
        return err_set(err, ERR_INVALID, "%s: model.unk_token \"%.*s\" is not a token", s->name,
                       SHOWN(s->unk));
    for (int i = 0; i < 256; i++)
        if (b->t->bpe.byte_id[i] < 0) b->t->bpe.byte_id[i] = unk;
    return 0;
}

/* The bytes of every id, and the map from bytes to ids. Where two tokens have the same bytes, the
 * one that is spelled in the byte alphabet is found. */
static void spell_out(struct builder *b)
{
    struct tokenizer *t = b->t;
    struct buf bytes = {0};
    size_t vocab = (size_t)t->vocab;
    for (size_t id = 0; id < vocab; id++) {
        const struct span *raw = &b->raw[id];
        size_t len = SIZE_MAX;
        if (!(t->flags[id] & TOKEN_ADDED)) len = byte_level_decode(raw->p, raw->len, &bytes);
        if (len == SIZE_MAX) {
            t->flags[id] |= TOKEN_LITERAL;
            len = raw->len;
            buf_append(&bytes, raw->p, len);
        }
        t->spans[id].len = len;
        if (len > t->max_token_bytes) t->max_token_bytes = len;
    }
    t->bytes = buf_take(&bytes);
    const char *p = t->bytes;
    for (size_t id = 0; id < vocab; p += t->spans[id++].len)
        t->spans[id].p = p;
    text_map_init(&t->by_bytes, vocab, t->spans);
    for (int literal = 0; literal < 2; literal++)
        for (size_t id = 0; id < vocab; id++)
            if (t->spans[id].len && !(t->flags[id] & TOKEN_LITERAL) == !literal)
                text_map_put(&t->by_bytes, (int32_t)id);
}

/* Which tokens may be taken for a piece of the same bytes without running the merges. */
static void mark_direct(struct builder *b)
{
    struct tokenizer *t = b->t;
    struct bpe_scratch scratch = {0};
    struct tokens ids = {0};
    for (int32_t id = 0; id < t->vocab; id++) {
        struct span s = t->spans[id];
        if (s.len == 0 || t->flags[id] & TOKEN_LITERAL) continue;
        ids.n = 0;
        if (!b->spec->ignore_merges) bpe_encode(&t->bpe, s.p, s.len, &scratch, &ids);
        if (!b->spec->ignore_merges && (ids.n != 1 || ids.ids[0] != id)) continue;
        t->flags[id] |= TOKEN_DIRECT;
        if (s.len > t->max_direct_bytes) t->max_direct_bytes = s.len;
    }
    tokens_release(&ids);
    bpe_scratch_release(&scratch);
}

static void add_added(struct builder *b)
{
    struct tokenizer *t = b->t;
    struct tokens all = {0}, plain = {0};
    for (int32_t id = 0; id < t->vocab; id++) {
        if (t->spans[id].len == 0 || !(t->flags[id] & TOKEN_ADDED)) continue;
        tokens_push(&all, id);
        if (!(t->flags[id] & TOKEN_SPECIAL)) tokens_push(&plain, id);
    }
    added_init(&t->all, all.ids, all.n, t->spans);
    added_init(&t->plain, plain.ids, plain.n, t->spans);
    tokens_release(&all);
    tokens_release(&plain);
}

int tokenizer_build(struct tokenizer **out, const struct tokenizer_spec *s, struct err *err)
{
    struct builder b = {.spec = s, .t = mem_calloc(1, sizeof *b.t)};
    b.t->prefix_space = s->prefix_space;
    int rc = size_vocab(&b, err);
    if (rc == 0) rc = place_all(&b, err);
    if (rc == 0) rc = add_merges(&b, err);
    if (rc == 0) rc = add_bytes(&b, err);
    if (rc) goto out;
    spell_out(&b);
    mark_direct(&b);
    add_added(&b);
    *out = b.t;
    b.t = NULL;
out:
    text_map_release(&b.by_raw);
    free(b.raw);
    tokenizer_close(b.t);
    return rc;
}
