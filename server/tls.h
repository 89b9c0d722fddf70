#ifndef TTMD_SERVER_TLS_H
#define TTMD_SERVER_TLS_H

#include "engine/base/err.h"

struct config;
struct MHD_Connection;
struct MHD_OptionItem;

/* Certificates for libmicrohttpd: TLS 1.2 and 1.3, files that can be replaced while the daemon runs, and
 * clients' certificates where the configuration names an authority for them. */
struct tls;

/* tls_new -- read tls_certificate_file, tls_key_file and tls_client_ca_file; *out = NULL when none is given.
 * Errors  ERR_INVALID, ERR_IO, ERR_MISSING naming key, file and what is wrong: no PEM, no key of this
 *         certificate, one file without the other. */
int tls_new(struct tls **out, const struct config *c, struct err *err);
void tls_free(struct tls *t); /* t may be NULL; after the HTTP daemon has ended */

/* tls_reload -- certificate, key and authorities are read again; connections that are open keep theirs. On an
 * error those in force stay. One thread at a time. */
int tls_reload(struct tls *t, struct err *err);

/* tls_options -- what MHD_start_daemon() needs beside MHD_USE_TLS; ends with MHD_OPTION_END. Borrowed from t. */
const struct MHD_OptionItem *tls_options(struct tls *t);

/* tls_on_connection -- for each new connection, before its handshake. HTTP thread. */
void tls_on_connection(struct tls *t, struct MHD_Connection *conn);

#endif
