#ifndef TTMD_GPT2_BYTE_LEVEL_H
#define TTMD_GPT2_BYTE_LEVEL_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"

/* GPT-2's byte alphabet: vocabulary files spell every byte as a printable character, "Ġ" for the
 * space. Bytes that print in Latin-1 stand for themselves, the other 68 are U+0100, U+0101, ... */

/* byte_level_char -- the character that spells byte b. */
uint32_t byte_level_char(uint8_t b);

/* byte_level_order -- the byte whose token has id i (0..255) in GPT-2's own vocabulary: first the
 * bytes that stand for themselves, then the others, each ascending. */
uint8_t byte_level_order(int i);

/* byte_level_encode -- append the spelling of bytes[0..len), well-formed UTF-8. */
void byte_level_encode(const char *bytes, size_t len, struct buf *out);

/* byte_level_decode -- the bytes that spelling[0..len) stands for, appended to out. Returns their
 * number, or SIZE_MAX with out unchanged if a character is not of the alphabet. */
size_t byte_level_decode(const char *spelling, size_t len, struct buf *out);

#endif
