/* The one digest that is needed, by the library that TLS needs anyway. A failure would be one of the library's
 * installation (SHA-256 is always there), so callers are spared an error path that nothing can test. */
#include "server/digest.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "engine/base/err.h"

void sha256(const void *data, size_t len, unsigned char out[SHA256_BYTES])
{
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, data, len, out) < 0) BUG("SHA-256 is not there");
}
