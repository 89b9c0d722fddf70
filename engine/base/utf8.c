/* UTF-8 by table 3-7 of the Unicode standard: the lead byte fixes how many bytes follow and the
 * range of the second one (which excludes overlong forms, surrogates and what lies above U+10FFFF);
 * all others are 80..BF. Reading stops at the first byte out of range, so that what was consumed of
 * an ill-formed sequence is its maximal subpart, and a truncated but so far correct sequence is
 * told apart from a wrong one: token streams are cut anywhere. */
#include "engine/base/utf8.h"

/* Length of the sequence that lead byte b opens, 0 if none, and the range of its second byte. */
static size_t lead(unsigned char b, unsigned char *lo, unsigned char *hi)
{
    *lo = 0x80, *hi = 0xbf;
    if (b < 0x80) return 1;
    if (b < 0xc2) return 0; /* continuation bytes; C0 and C1 would be overlong */
    if (b < 0xe0) return 2;
    if (b < 0xf0) {
        if (b == 0xe0) *lo = 0xa0; /* overlong */
        if (b == 0xed) *hi = 0x9f; /* surrogates */
        return 3;
    }
    if (b == 0xf0) *lo = 0x90; /* overlong */
    if (b == 0xf4) *hi = 0x8f; /* above U+10FFFF */
    return b < 0xf5 ? 4 : 0;
}

size_t utf8_next(const char *s, size_t len, uint32_t *cp)
{
    static const unsigned char payload[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    const unsigned char *u = (const unsigned char *)s;
    unsigned char lo, hi;
    size_t need = lead(u[0], &lo, &hi);
    *cp = UINT32_MAX;
    if (!need) return 1;
    uint32_t c = u[0] & payload[need];
    for (size_t i = 1; i < need; i++) {
        if (i == len) return 0;
        if (u[i] < lo || u[i] > hi) return i;
        lo = 0x80, hi = 0xbf;
        c = c << 6 | (u[i] & 0x3f);
    }
    *cp = c;
    return need;
}

bool utf8_valid(const char *s, size_t len)
{
    while (len) {
        uint32_t cp;
        size_t n = utf8_next(s, len, &cp);
        if (!n || cp == UINT32_MAX) return false;
        s += n;
        len -= n;
    }
    return true;
}

size_t utf8_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (cp & 0x3f));
        cp >>= 6;
    }
    out[0] = (char)((0xf00u >> n) | cp); /* C0, E0, F0 */
    return n;
}
