#ifndef TTMD_TESTS_TOKENIZER_FIXTURE_H
#define TTMD_TESTS_TOKENIZER_FIXTURE_H

#include <stdbool.h>

#include "engine/base/buf.h"
#include "engine/gpt2/byte_level.h"

/* A small tokenizer as files: the 256 bytes as ids 0..255 by value (unlike GPT-2's own order), a
 * token for each merge, "<|endoftext|>" last. Texts are bytes; the files spell them. */

static const char *const fixture_merges[][2] = {
    {"a", "b"},           {"a", "a"},       {" ", "a"},   {"aa", "aa"},     {"ab", "ab"},
    {"b", "c"},           {"ab", "c"},      {" a", "b"},  {"t", "h"},       {"th", "e"},
    {" ", "the"},         {"\xc3", "\xa9"}, {"'", "s"},   {"1", "2"},       {"12", "3"},
    {" ", " "},           {"  ", "  "},     {"\n", "\n"}, {"aaaa", "aaaa"}, {"\xe4", "\xb8"},
    {"\xe4\xb8", "\x96"}, {"abc", "abab"},  {".", "."},   {"..", ".."},
};
enum {
    FIXTURE_MERGES = (int)(sizeof fixture_merges / sizeof *fixture_merges),
    FIXTURE_EOS = 256 + FIXTURE_MERGES,
};

static inline void fixture_spell(struct buf *out, const char *a, const char *between, const char *b)
{
    size_t na = 0, nb = 0;
    while (a[na])
        na++;
    while (b[nb])
        nb++;
    byte_level_encode(a, na, out);
    buf_puts(out, between);
    byte_level_encode(b, nb, out);
}

static inline void fixture_vocab(struct buf *out)
{
    buf_putc(out, '{');
    for (int i = 0; i < 256; i++) {
        char byte = (char)(unsigned char)i;
        buf_puts(out, byte == '"' || byte == '\\' ? "\"\\" : "\"");
        byte_level_encode(&byte, 1, out);
        buf_printf(out, "\": %d, ", i);
    }
    for (int i = 0; i < FIXTURE_MERGES; i++) {
        buf_putc(out, '"');
        fixture_spell(out, fixture_merges[i][0], "", fixture_merges[i][1]);
        buf_printf(out, "\": %d, ", 256 + i);
    }
    buf_printf(out, "\"<|endoftext|>\": %d}", FIXTURE_EOS);
}

static inline void fixture_merges_txt(struct buf *out)
{
    buf_puts(out, "#version: 0.2\n");
    for (int i = 0; i < FIXTURE_MERGES; i++) {
        fixture_spell(out, fixture_merges[i][0], " ", fixture_merges[i][1]);
        buf_putc(out, '\n');
    }
}

/* `model` and `rest` are JSON put into the model and the file, each beginning with a comma. */
static inline void fixture_json(struct buf *out, const char *pre_tokenizer, const char *model,
                                const char *rest, bool pairs)
{
    buf_printf(out, "{\"pre_tokenizer\": %s, \"model\": {\"type\": \"BPE\"%s, \"vocab\": ",
               pre_tokenizer, model);
    fixture_vocab(out);
    buf_puts(out, ", \"merges\": [");
    for (int i = 0; i < FIXTURE_MERGES; i++) {
        buf_puts(out, i ? pairs ? "\"], [\"" : "\", \"" : pairs ? "[\"" : "\"");
        fixture_spell(out, fixture_merges[i][0], pairs ? "\", \"" : " ", fixture_merges[i][1]);
    }
    buf_puts(out, pairs ? "\"]" : "\"");
    buf_printf(out, "]}%s}", rest);
}

#define FIXTURE_BYTE_LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}"

#endif
