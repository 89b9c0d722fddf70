#ifndef TTMD_BASE_UTF8_H
#define TTMD_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* utf8_next -- decode the character at s[0..len), len > 0.
 *
 * Returns the bytes consumed (1..4) and *cp; for an ill-formed sequence *cp = UINT32_MAX and the
 * length of its maximal subpart (Unicode 15, 3.9, the practice of W3C and Python's "replace");
 * 0 when the bytes are a proper prefix of a well-formed character and more input may complete it.
 */
size_t utf8_next(const char *s, size_t len, uint32_t *cp);

bool utf8_valid(const char *s, size_t len);

/* utf8_encode -- write cp (a scalar value) to out[4]; returns 1..4. */
size_t utf8_encode(uint32_t cp, char out[4]);

#define UTF8_REPLACEMENT "\xef\xbf\xbd"

#endif
