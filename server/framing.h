#ifndef TTMD_SERVER_FRAMING_H
#define TTMD_SERVER_FRAMING_H

#include <stddef.h>

struct MHD_Connection;

/* framing_unescape -- MHD's callback: %xx of a target become bytes, in place; returns how many are left. "%00" stays
 * as it is, for a C string cannot hold what it means; framing_fault() finds it. */
size_t framing_unescape(void *cls, struct MHD_Connection *conn, char *s);

/* framing_path -- where the path begins in a target, which may be a whole URL (RFC 9112, 3.2.2). */
const char *framing_path(const char *target);

/* framing_fault -- what is wrong with how a request was put, whatever it asks for; NULL when nothing is. */
const char *framing_fault(struct MHD_Connection *conn, const char *version, const char *path);

#endif
