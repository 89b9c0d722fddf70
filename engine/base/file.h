#ifndef TTMD_BASE_FILE_H
#define TTMD_BASE_FILE_H

#include "engine/base/buf.h"

enum { FILE_NOT_REGULAR = -1 };

/* file_read -- append the whole of a regular file that a person named to *out. It never waits for another
 * process. It is read in pieces, so that a file that changes meanwhile does no harm.
 *
 *   most  bytes that it may have
 *
 * Returns 0, FILE_NOT_REGULAR, or an errno: EFBIG for a longer file; *out may hold a part then.
 */
int file_read(const char *path, size_t most, struct buf *out);

/* file_why -- what file_read() returned, in words. */
const char *file_why(int why);

#endif
