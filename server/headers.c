/* The headers that all answers have in common. An answer goes to libmicrohttpd or, in the middle of an upload,
 * to the socket itself: where they are put is the caller's. */
#include "server/headers.h"

#include "server/access.h"
#include "server/request.h"

void headers_put(const struct request *r, bool preflight, header_put *put, void *to)
{
    put(to, "X-Request-Id", r->id);
    put(to, "X-Content-Type-Options", "nosniff");
    access_headers(r, preflight, put, to);
    if (r->strict) put(to, "Preference-Applied", "handling=strict");
}
