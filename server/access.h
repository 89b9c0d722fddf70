#ifndef TTMD_SERVER_ACCESS_H
#define TTMD_SERVER_ACCESS_H

#include <stdbool.h>

#include "engine/base/err.h"
#include "server/error.h"
#include "server/headers.h"
#include "server/keys.h"

struct config;
struct MHD_Connection;
struct request;

/* Who may ask for what, how often, and from which web pages. */
struct access;

/* access_new -- as the configuration says: keys from api_keys_file, origins from cors_origins.
 * Errors  those of keys_load(); ERR_INVALID for an origin that is none. */
int access_new(struct access **out, const struct config *c, struct err *err);
void access_free(struct access *a); /* a may be NULL */

/* access_reload -- read the file of keys again. On an error the keys stay as they are. Always the
 * same thread; requests are served meanwhile. */
int access_reload(struct access *a, struct err *err);
size_t access_keys(struct access *a); /* how many there are; 0 without a file */

/* access_refuses -- at the headers of a request: is it not let in? Then r->reply is made: 401 without a key
 * that is known, 403 without the route's scope, 429 beyond the key's limits. What is let in has r->grant and
 * r->meter. HTTP thread. */
bool access_refuses(struct access *a, struct request *r);

/* access_used -- the tokens of a request are known. Any thread. */
void access_used(struct request *r, double tokens);

/* access_origin -- remember whether the request comes from a web page that may read the answer, and from
 * which. HTTP thread. */
void access_origin(struct access *a, struct request *r);

/* access_headers -- what of keys, limits and origins an answer's headers say. `preflight`: the answer to a
 * browser's question what it may send. */
void access_headers(const struct request *r, bool preflight, header_put *put, void *to);

#endif
