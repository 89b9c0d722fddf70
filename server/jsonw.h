#ifndef TTMD_SERVER_JSONW_H
#define TTMD_SERVER_JSONW_H

#include <stddef.h>

#include "engine/base/buf.h"

/* json_put_string -- append `s` as a JSON string, quotes included. Bytes that are not UTF-8 become
 * U+FFFD, so that what we send always parses. */
void json_put_string(struct buf *b, const char *s, size_t len);
void json_put_cstring(struct buf *b, const char *s); /* NULL: null */

/* json_put_number -- append v with nine significant digits, always with a point or an exponent.
 * Every number of ours goes through here: equal floats have equal digits wherever they appear.
 * NaN is null; infinities are the largest finite double. */
void json_put_number(struct buf *b, double v);

#endif
