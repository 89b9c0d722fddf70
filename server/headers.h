#ifndef TTMD_SERVER_HEADERS_H
#define TTMD_SERVER_HEADERS_H

#include <stdbool.h>

struct request;

/* Takes one header of an answer; both strings are the caller's. */
typedef void header_put(void *to, const char *name, const char *value);

/* headers_put -- what every answer's headers say, whatever it is: the request's id, what keys, limits and origins
 * make of it. `preflight`: it answers a browser's question what it may send (then HTTP thread only). */
void headers_put(const struct request *r, bool preflight, header_put *put, void *to);

#endif
