#ifndef TTMD_GPT2_PRETOKENIZER_H
#define TTMD_GPT2_PRETOKENIZER_H

#include <stddef.h>

/* pretokenize -- the length in bytes of the first piece that GPT-2's splitting pattern
 *
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * finds at text[0..len), len > 0; never 0. Bytes that are not UTF-8 count as characters of the
 * fourth kind. Call it again at text + result: all pieces together are linear in the text.
 * Source  Radford et al. 2019, encoder.py; Unicode classes from utf8proc.
 */
size_t pretokenize(const char *text, size_t len);

#endif
