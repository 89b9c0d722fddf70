#ifndef TTMD_SERVER_DIGEST_H
#define TTMD_SERVER_DIGEST_H

#include <stddef.h>

enum { SHA256_BYTES = 32 };

/* sha256 -- digest of a byte string (GnuTLS's).
 *
 *   data  (len) bytes; borrowed
 *   out   overwritten
 */
void sha256(const void *data, size_t len, unsigned char out[SHA256_BYTES]);

#endif
