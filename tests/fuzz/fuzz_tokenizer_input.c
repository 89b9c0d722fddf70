/* Any text through a small tokenizer: it comes back byte for byte, and its tokens are those of the
 * textbook's loop over the merges, by the short way and by the long one. */
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/pretokenizer.h"
#include "engine/gpt2/tokenizer.h"
#include "engine/gpt2/tokenizer_spec.h"
#include "tests/engine/gpt2/tokenizer_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *make(void)
{
    struct buf json = {0};
    struct tokenizer *t = NULL;
    struct err e = {0};
    fixture_json(&json, FIXTURE_BYTE_LEVEL, "", "", false);
    if (tokenizer_parse_json(&t, json.data, json.len, "fixture", &e)) abort();
    buf_release(&json);
    return t;
}

/* As long as any merge applies, apply the first of the list at its first place. */
static size_t textbook(const struct tokenizer *t, int32_t *ids, size_t n)
{
    for (int m = 0; m < FIXTURE_MERGES;) {
        const char *const *pair = fixture_merges[m];
        int32_t left = tokenizer_find(t, pair[0], strlen(pair[0]));
        int32_t right = tokenizer_find(t, pair[1], strlen(pair[1]));
        size_t i = 0;
        while (i + 1 < n && !(ids[i] == left && ids[i + 1] == right))
            i++;
        if (i + 1 >= n) {
            m++;
            continue;
        }
        ids[i] = 256 + m;
        memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
        n--;
        m = 0;
    }
    return n;
}

/* The tokens of one piece in both ways, compared. Appends them to *out. */
static void encode_piece(const struct tokenizer *t, const char *piece, size_t n, struct tokens *out)
{
    struct bpe_scratch scratch = {0};
    int32_t *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
    if (!a || !b) abort();
    for (size_t i = 0; i < n; i++)
        a[i] = b[i] = (unsigned char)piece[i];
    size_t na = textbook(t, a, n), nb = bpe_merge_long(&t->bpe, b, n, &scratch);
    if (na != nb || memcmp(a, b, na * sizeof *a) != 0) abort();
    for (size_t i = 0; i < na; i++)
        tokens_push(out, a[i]);
    free(a);
    free(b);
    bpe_scratch_release(&scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t;
    if (!t) t = make();
    if (size > 2048) return 0;
    const char *text = (const char *)data;
    struct tokens want = {0}, got = {0};
    struct buf back = {0};
    for (size_t at = 0; at < size;) {
        size_t n = pretokenize(text + at, size - at);
        if (n == 0 || n > size - at) abort();
        encode_piece(t, text + at, n, &want);
        at += n;
    }
    tokenizer_encode(t, text, size, false, &got);
    if (got.n != want.n || (got.n && memcmp(got.ids, want.ids, got.n * sizeof *got.ids) != 0))
        abort();
    for (int special = 0; special < 2; special++) {
        got.n = 0;
        buf_clear(&back);
        tokenizer_encode(t, text, size, special, &got);
        tokenizer_decode(t, got.ids, got.n, true, &back);
        if (back.len != size || (size && memcmp(back.data, text, size) != 0)) abort();
    }
    buf_release(&back);
    tokens_release(&want);
    tokens_release(&got);
    return 0;
}
