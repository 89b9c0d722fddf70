/* The byte alphabet by arithmetic: the bytes that do not stand for themselves are three ranges
 * (0-32, 127-160, 173), so that a table of 256 entries would only have to be computed from them. */
#include "engine/gpt2/byte_level.h"

#include "engine/base/utf8.h"

enum {
    LOW = 33, /* bytes 0..32 are U+0100.. */
    MID = 127,
    MID_END = 161,     /* then 127..160 */
    SOFT_HYPHEN = 173, /* then 173 */
    SHIFTED = LOW + MID_END - MID + 1,
    FIRST_CHAR = 256,
};

/* The ordinal among the shifted bytes, -1 for a byte that stands for itself. */
static int shifted_index(uint8_t b)
{
    if (b < LOW) return b;
    if (b >= MID && b < MID_END) return b - MID + LOW;
    return b == SOFT_HYPHEN ? SHIFTED - 1 : -1;
}

static uint8_t shifted_byte(int index)
{
    if (index < LOW) return (uint8_t)index;
    return index == SHIFTED - 1 ? SOFT_HYPHEN : (uint8_t)(index - LOW + MID);
}

uint32_t byte_level_char(uint8_t b)
{
    int i = shifted_index(b);
    return i < 0 ? b : (uint32_t)(FIRST_CHAR + i);
}

uint8_t byte_level_order(int i)
{
    enum { ASCII = MID - LOW, LATIN = SOFT_HYPHEN - MID_END, PLAIN = 256 - SHIFTED };
    if (i < ASCII) return (uint8_t)(LOW + i);
    if (i < ASCII + LATIN) return (uint8_t)(MID_END + i - ASCII);
    if (i < PLAIN) return (uint8_t)(SOFT_HYPHEN + 1 + i - ASCII - LATIN);
    return shifted_byte(i - PLAIN);
}

void byte_level_encode(const char *bytes, size_t len, struct buf *out)
{
    for (size_t i = 0; i < len; i++) {
        char c[4];
        size_t n = utf8_encode(byte_level_char((uint8_t)bytes[i]), c);
        buf_append(out, c, n);
    }
}

size_t byte_level_decode(const char *spelling, size_t len, struct buf *out)
{
    size_t before = out->len;
    while (len) {
        uint32_t cp = 0;
        size_t n = utf8_next(spelling, len, &cp);
        int shifted = (int)cp - FIRST_CHAR;
        if (n && cp < FIRST_CHAR && shifted_index((uint8_t)cp) < 0) {
            buf_putc(out, (char)(uint8_t)cp);
        } else if (n && cp >= FIRST_CHAR && cp < FIRST_CHAR + SHIFTED) {
            buf_putc(out, (char)shifted_byte(shifted));
        } else {
            out->len = before;
            return SIZE_MAX;
        }
        spelling += n;
        len -= n;
    }
    return out->len - before;
}
