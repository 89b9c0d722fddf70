/* Writing a tokenizer in the three files that other programs look for. Written by hand and not with
 * a JSON library, because the order of the tokens (by id) and one token per line of merges.txt are
 * what people compare, and because the only strings to escape are spellings in the byte alphabet.
 *
 * The parts are checked by reading the text back with the tokenizer's own parser before anything
 * reaches the disk: what this writes, it can open.
 */
#include "engine/gpt2/tokenizer_write.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/gpt2/byte_level.h"
#include "engine/gpt2/tokenizer.h"

#define EOS "<|endoftext|>"

/* ---- the three texts ---- */

static void put_spelling(struct buf *out, const struct tokenizer_part_token *t)
{
    if (t->special)
        buf_append(out, t->bytes, t->len);
    else
        byte_level_encode(t->bytes, t->len, out);
}

/* A token as a JSON string. */
static void put_json_string(struct buf *out, const struct tokenizer_part_token *t)
{
    struct buf s = {0};
    put_spelling(&s, t);
    buf_putc(out, '"');
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.data[i];
        if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", c);
        else if (c < 0x20)
            buf_printf(out, "\\u%04x", c);
        else
            buf_putc(out, (char)c);
    }
    buf_putc(out, '"');
    buf_release(&s);
}

static void put_vocab(struct buf *out, const struct tokenizer_parts *p)
{
    buf_putc(out, '{');
    for (int32_t id = 0; id < p->n_tokens; id++) {
        if (id) buf_puts(out, ", ");
        put_json_string(out, &p->tokens[id]);
        buf_printf(out, ": %d", (int)id);
    }
    buf_putc(out, '}');
}

static void put_merges_txt(struct buf *out, const struct tokenizer_parts *p)
{
    buf_puts(out, "#version: 0.2\n");
    for (size_t i = 0; i < p->n_merges; i++) {
        put_spelling(out, &p->tokens[p->merges[i].left]);
        buf_putc(out, ' ');
        put_spelling(out, &p->tokens[p->merges[i].right]);
        buf_putc(out, '\n');
    }
}

/* As strings, "a b": the form that every version of Hugging Face's library reads. */
static void put_merges_json(struct buf *out, const struct tokenizer_parts *p)
{
    struct buf pair = {0};
    buf_putc(out, '[');
    for (size_t i = 0; i < p->n_merges; i++) {
        buf_clear(&pair);
        put_spelling(&pair, &p->tokens[p->merges[i].left]);
        buf_putc(&pair, ' ');
        put_spelling(&pair, &p->tokens[p->merges[i].right]);
        if (i) buf_puts(out, ", ");
        struct tokenizer_part_token t = {pair.data, pair.len, true};
        put_json_string(out, &t);
    }
    buf_putc(out, ']');
    buf_release(&pair);
}

static void put_added(struct buf *out, const struct tokenizer_parts *p)
{
    const char *sep = "";
    buf_putc(out, '[');
    for (int32_t id = 0; id < p->n_tokens; id++) {
        if (!p->tokens[id].special) continue;
        buf_printf(out, "%s{\"id\": %d, \"content\": ", sep, (int)id);
        put_json_string(out, &p->tokens[id]);
        buf_puts(out,
                 ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                 "\"normalized\": false, \"special\": true}");
        sep = ", ";
    }
    buf_putc(out, ']');
}

static void put_byte_level(struct buf *out, const char *key, bool prefix_space)
{
    buf_printf(out,
               "\"%s\": {\"type\": \"ByteLevel\", \"add_prefix_space\": %s, "
               "\"trim_offsets\": true, \"use_regex\": true}, ",
               key, prefix_space ? "true" : "false");
}

static void put_tokenizer_json(struct buf *out, const struct tokenizer_parts *p)
{
    buf_puts(out,
             "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": ");
    put_added(out, p);
    buf_puts(out, ", \"normalizer\": null, ");
    put_byte_level(out, "pre_tokenizer", false);
    put_byte_level(out, "post_processor", true);
    put_byte_level(out, "decoder", true);
    buf_puts(
        out,
        "\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
        "\"continuing_subword_prefix\": \"\", \"end_of_word_suffix\": \"\", "
        "\"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": ");
    put_vocab(out, p);
    buf_puts(out, ", \"merges\": ");
    put_merges_json(out, p);
    buf_puts(out, "}}\n");
}

/* ---- writing ---- */

static int write_file(const char *dir, const char *name, const struct buf *text, struct err *err)
{
    struct buf path = {0};
    buf_printf(&path, "%s/%s", dir, name);
    int rc = 0;
    FILE *f = fopen(path.data, "wbe");
    if (!f) {
        rc = err_set(err, ERR_IO, "%s: %s", path.data, strerror(errno));
        goto out;
    }
    if (fwrite(text->data, 1, text->len, f) != text->len)
        rc = err_set(err, ERR_IO, "%s: %s", path.data, strerror(errno));
    if (fclose(f) != 0 && rc == 0) rc = err_set(err, ERR_IO, "%s: %s", path.data, strerror(errno));
out:
    buf_release(&path);
    return rc;
}

static int check_parts(const struct tokenizer_parts *p, struct err *err)
{
    for (int32_t id = 0; id < p->n_tokens; id++) {
        const struct tokenizer_part_token *t = &p->tokens[id];
        if (t->special && (!utf8_valid(t->bytes, t->len) || memchr(t->bytes, 0, t->len)))
            return err_set(err, ERR_INVALID, "special token %d is not text in UTF-8", (int)id);
    }
    for (size_t i = 0; i < p->n_merges; i++) {
        int32_t l = p->merges[i].left, r = p->merges[i].right;
        if (l < 0 || r < 0 || l >= p->n_tokens || r >= p->n_tokens)
            return err_set(err, ERR_INVALID, "merge %zu joins ids %d and %d, expected ids below %d",
                           i + 1, (int)l, (int)r, (int)p->n_tokens);
    }
    return 0;
}

int tokenizer_write(const char *dir, const struct tokenizer_parts *parts, struct err *err)
{
    struct buf json = {0}, vocab = {0}, merges = {0};
    struct tokenizer *t = NULL;
    int rc = check_parts(parts, err);
    if (rc) return rc;
    put_tokenizer_json(&json, parts);
    put_vocab(&vocab, parts);
    put_merges_txt(&merges, parts);
    rc = tokenizer_parse_json(&t, json.data, json.len, "tokenizer.json", err);
    if (rc == 0) rc = write_file(dir, "tokenizer.json", &json, err);
    if (rc == 0) rc = write_file(dir, "vocab.json", &vocab, err);
    if (rc == 0) rc = write_file(dir, "merges.txt", &merges, err);
    tokenizer_close(t);
    buf_release(&json);
    buf_release(&vocab);
    buf_release(&merges);
    return rc;
}

/* ---- the synthetic tokenizer ---- */

enum { N_BYTES = 256, MAX_SYNTHETIC = N_BYTES + N_BYTES * N_BYTES + 1 };

/* All bytes, letters by their frequency in English first, then the rest in GPT-2's order. */
static void preferred_bytes(uint8_t out[N_BYTES])
{
    static const char letters[] = "etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ";
    size_t n = sizeof letters - 1;
    memcpy(out, letters, n);
    for (int i = 0; i < N_BYTES; i++)
        if (!memchr(letters, byte_level_order(i), sizeof letters - 1))
            out[n++] = byte_level_order(i);
}

/* The `count` first pairs of bytes: those among the k most preferred bytes before all others, for
 * every k. */
static void list_pairs(const uint8_t order[N_BYTES], char (*pairs)[2], size_t count)
{
    size_t n = 0;
    for (size_t k = 0; k < N_BYTES && n < count; k++) {
        for (size_t i = 0; i <= 2 * k && n < count;
             i++) { /* (0,k) (1,k) .. (k,k) (k,k-1) .. (k,0) */
            pairs[n][0] = (char)order[i <= k ? i : k];
            pairs[n][1] = (char)order[i <= k ? k : 2 * k - i];
            n++;
        }
    }
}

int tokenizer_write_bytes(const char *dir, int32_t vocab, struct err *err)
{
    if (vocab < N_BYTES + 1 || vocab > MAX_SYNTHETIC)
        return err_set(err, ERR_INVALID,
                       "a synthetic tokenizer of %d tokens: expected %d (all bytes and " EOS
                       ") to %d (all "
                       "pairs of bytes too)",
                       (int)vocab, N_BYTES + 1, MAX_SYNTHETIC);
    size_t n_merges = (size_t)vocab - N_BYTES - 1;
    uint8_t order[N_BYTES];
    char bytes[N_BYTES];
    int32_t id_of[N_BYTES];
    char(*pairs)[2] = mem_alloc((n_merges + 1) * sizeof *pairs);
    struct tokenizer_part_token *tokens = mem_calloc((size_t)vocab, sizeof *tokens);
    struct tokenizer_part_merge *merges = mem_alloc((n_merges + 1) * sizeof *merges);
    preferred_bytes(order);
    list_pairs(order, pairs, n_merges);
    for (int i = 0; i < N_BYTES; i++) {
        bytes[i] = (char)byte_level_order(i);
        id_of[byte_level_order(i)] = i;
        tokens[i] = (struct tokenizer_part_token){.bytes = &bytes[i], .len = 1};
    }
    for (size_t i = 0; i < n_merges; i++) {
        tokens[N_BYTES + i] = (struct tokenizer_part_token){.bytes = pairs[i], .len = 2};
        merges[i] =
            (struct tokenizer_part_merge){id_of[(uint8_t)pairs[i][0]], id_of[(uint8_t)pairs[i][1]]};
    }
    tokens[vocab - 1] = (struct tokenizer_part_token){EOS, sizeof EOS - 1, true};
    struct tokenizer_parts parts = {tokens, vocab, merges, n_merges};
    int rc = tokenizer_write(dir, &parts, err);
    free(pairs);
    free(tokens);
    free(merges);
    return rc;
}
