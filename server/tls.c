/* TLS by libmicrohttpd and GnuTLS. Handed to libmicrohttpd as memory, a certificate would be fixed for the
 * daemon's life; but certificates are replaced every few weeks and a daemon is not restarted for that. So
 * each handshake asks us (retrieve function 3), and gets a parsed copy of its own, which GnuTLS frees: what
 * is in force is PEM text under a lock, and replacing it cannot pull a key from under a handshake.
 *
 * That function has no argument of ours; the session has a pointer, which tls_on_connection() sets.
 *
 * Authorities for clients' certificates belong to credentials, and these to the sessions that began with them,
 * whose end is not told: each file of authorities that has been in force stays to the end. A daemon sees few. */
#include "server/tls.h"

#include <errno.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"

enum { PEM_MAX_BYTES = (1 << 20) - 1, CHAIN_MAX = 16, OPTIONS = 3 };
static const char priorities[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE";

/* What clients' certificates are compared with. */
struct trust {
    struct trust *older;
    struct buf pem;
    gnutls_certificate_credentials_t cred;
};

struct tls {
    const struct config *cfg; /* borrowed */
    pthread_mutex_t lock;
    struct buf certificate, key; /* PEM; under lock */
    struct trust *trust; /* in force, and those before; NULL = clients need none; under lock */
    struct MHD_OptionItem option[OPTIONS];
};

static int read_pem(struct buf *out, const char *what, const char *path, struct err *err)
{
    int why = file_read(path, PEM_MAX_BYTES, out);
    if (why && why != EFBIG)
        return err_set(err, ERR_IO, "%s: %s cannot be read: %s", what, path, file_why(why));
    if (why || !out->len)
        return err_set(err, ERR_INVALID, "%s: %s has %s: PEM text was expected", what, path,
                       why ? "more than a megabyte" : "nothing in it");
    return 0;
}

static gnutls_datum_t datum(const struct buf *b)
{
    return (gnutls_datum_t){.data = (unsigned char *)b->data, .size = (unsigned)b->len};
}

/* Does the pair belong together, and is it what GnuTLS can use? */
static int check_pair(const struct tls *t, const struct buf *certificate, const struct buf *key,
                      struct err *err)
{
    gnutls_certificate_credentials_t cred;
    gnutls_datum_t c = datum(certificate), k = datum(key);
    if (gnutls_certificate_allocate_credentials(&cred) < 0)
        return err_set(err, ERR_NOMEM, "no memory for certificates");
    int got = gnutls_certificate_set_x509_key_mem(cred, &c, &k, GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(cred);
    if (got >= 0) return 0;
    return err_set(
        err, ERR_INVALID,
        "tls_certificate_file %s and tls_key_file %s: %s: a PEM certificate chain and its "
        "PEM key without a password were expected",
        t->cfg->tls_certificate_file, t->cfg->tls_key_file, gnutls_strerror(got));
}

/* GnuTLS's question in a handshake. What it gets is its own (GNUTLS_CERT_RETR_DEINIT_ALL). */
static int retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info,
                    gnutls_pcert_st **certs, unsigned *n_certs, gnutls_ocsp_data_st **ocsp,
                    unsigned *n_ocsp, gnutls_privkey_t *privkey, unsigned *flags)
{
    struct tls *t = gnutls_session_get_ptr(session);
    (void)info;
    *certs = NULL;
    *n_certs = *n_ocsp = 0;
    *ocsp = NULL;
    *privkey = NULL;
    *flags = GNUTLS_CERT_RETR_DEINIT_ALL;
    if (!t) return -1;
    gnutls_pcert_st *list = gnutls_calloc(CHAIN_MAX, sizeof *list);
    unsigned n = CHAIN_MAX;
    gnutls_privkey_t key = NULL;
    pthread_mutex_lock(&t->lock);
    gnutls_datum_t c = datum(&t->certificate), k = datum(&t->key);
    int rc = list ? gnutls_pcert_list_import_x509_raw(list, &n, &c, GNUTLS_X509_FMT_PEM, 0) : -1;
    bool imported = rc >= 0;
    if (rc >= 0) rc = gnutls_privkey_init(&key);
    if (rc >= 0) rc = gnutls_privkey_import_x509_raw(key, &k, GNUTLS_X509_FMT_PEM, NULL, 0);
    pthread_mutex_unlock(&t->lock);
    if (rc >= 0) {
        *certs = list;
        *n_certs = n;
        *privkey = key;
        return 0;
    }
    for (unsigned i = 0; imported && i < n; i++)
        gnutls_pcert_deinit(&list[i]);
    gnutls_free(list);
    if (key) gnutls_privkey_deinit(key);
    return -1;
}

static void trust_free(struct trust *x)
{
    while (x) {
        struct trust *older = x->older;
        if (x->cred) gnutls_certificate_free_credentials(x->cred);
        buf_release(&x->pem);
        free(x);
        x = older;
    }
}

static int make_cred(struct trust *x, const char *path, struct err *err)
{
    gnutls_datum_t ca = datum(&x->pem);
    if (gnutls_certificate_allocate_credentials(&x->cred) < 0)
        return err_set(err, ERR_NOMEM, "no memory for certificates");
    gnutls_certificate_set_retrieve_function3(x->cred, retrieve);
    int n = gnutls_certificate_set_x509_trust_mem(x->cred, &ca, GNUTLS_X509_FMT_PEM);
    if (n > 0) return 0;
    return err_set(err, ERR_INVALID,
                   "tls_client_ca_file %s: %s: PEM certificates of authorities were expected", path,
                   n < 0 ? gnutls_strerror(n) : "no certificate");
}

/* *out = NULL: none is configured, or the one in force is still what the file holds. */
static int read_trust(const struct tls *t, struct trust **out, struct err *err)
{
    const char *path = t->cfg->tls_client_ca_file;
    const struct trust *now = t->trust; /* only this thread changes it */
    *out = NULL;
    if (!*path) return 0;
    struct trust *x = mem_calloc(1, sizeof *x);
    int rc = read_pem(&x->pem, "tls_client_ca_file", path, err);
    bool same = !rc && now && now->pem.len == x->pem.len &&
                memcmp(now->pem.data, x->pem.data, x->pem.len) == 0;
    if (!rc && !same) rc = make_cred(x, path, err);
    if (rc || same)
        trust_free(x);
    else
        *out = x;
    return rc;
}

int tls_reload(struct tls *t, struct err *err)
{
    struct buf certificate = {0}, key = {0};
    struct trust *trust = NULL;
    int rc = read_pem(&certificate, "tls_certificate_file", t->cfg->tls_certificate_file, err);
    if (!rc) rc = read_pem(&key, "tls_key_file", t->cfg->tls_key_file, err);
    if (!rc) rc = check_pair(t, &certificate, &key, err);
    if (!rc) rc = read_trust(t, &trust, err);
    if (!rc) {
        struct buf old[2];
        pthread_mutex_lock(&t->lock);
        old[0] = t->certificate;
        old[1] = t->key;
        t->certificate = certificate;
        t->key = key;
        if (trust) {
            trust->older = t->trust;
            t->trust = trust;
        }
        pthread_mutex_unlock(&t->lock);
        certificate = old[0];
        key = old[1];
    }
    if (key.data) gnutls_memset(key.data, 0, key.cap);
    buf_release(&certificate);
    buf_release(&key);
    return rc;
}

void tls_on_connection(struct tls *t, struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(conn, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    gnutls_session_t session = i ? (gnutls_session_t)i->tls_session : NULL;
    if (!session) return;
    gnutls_session_set_ptr(session, t);
    pthread_mutex_lock(&t->lock);
    const struct trust *trust = t->trust;
    pthread_mutex_unlock(&t->lock);
    if (!trust) return;
    /* libmicrohttpd would only ask; here the handshake fails without a certificate that is good. (So it does
     * with the credentials that it has set, which trust nobody, should there be no memory for ours.) */
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, trust->cred);
    gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
    gnutls_session_set_verify_cert(session, NULL, 0);
}

static void set_options(struct tls *t)
{
    int n = 0;
    t->option[n++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *)retrieve};
    t->option[n++] =
        (struct MHD_OptionItem){MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(size_t)priorities};
    t->option[n] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
}

const struct MHD_OptionItem *tls_options(struct tls *t)
{
    return t->option;
}

int tls_new(struct tls **out, const struct config *c, struct err *err)
{
    bool certificate = *c->tls_certificate_file, key = *c->tls_key_file,
         ca = *c->tls_client_ca_file;
    *out = NULL;
    if (!certificate && !key && !ca) return 0;
    if (!certificate || !key)
        return err_set(err, ERR_MISSING, "%s is missing: TLS needs a certificate and its key",
                       certificate ? "tls_key_file" : "tls_certificate_file");
    if (MHD_is_feature_supported(MHD_FEATURE_HTTPS_CERT_CALLBACK2) != MHD_YES)
        return err_set(err, ERR_UNSUPPORTED, "this libmicrohttpd was built without TLS");
    struct tls *t = mem_calloc(1, sizeof *t);
    t->cfg = c;
    pthread_mutex_init(&t->lock, NULL);
    int rc = tls_reload(t, err);
    set_options(t);
    if (!rc)
        *out = t;
    else
        tls_free(t);
    return rc;
}

void tls_free(struct tls *t)
{
    if (!t) return;
    if (t->key.data) gnutls_memset(t->key.data, 0, t->key.cap);
    buf_release(&t->certificate);
    buf_release(&t->key);
    trust_free(t->trust);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
