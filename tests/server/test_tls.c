/* TLS: a daemon with certificates made here, a client of GnuTLS. Versions, replacing the certificate while it
 * runs, clients' certificates, plain bytes at the TLS port, and configurations that are refused. */
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "tests/server/fixture.h"

/* A self-signed certificate for 127.0.0.1 and its key, as PEM files NAME.crt and NAME.key in dir. */
static void make_pair(const char *dir, const char *name)
{
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t crt;
    gnutls_datum_t pem;
    unsigned char serial[4] = {1, 2, 3, (unsigned char)name[0]};
    char path[1200];
    ck_assert_int_eq(gnutls_x509_privkey_init(&key), 0);
    ck_assert_int_eq(gnutls_x509_privkey_generate(
                         key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
                     0);
    ck_assert_int_eq(gnutls_x509_crt_init(&crt), 0);
    ck_assert_int_eq(gnutls_x509_crt_set_version(crt, 3), 0);
    ck_assert_int_eq(gnutls_x509_crt_set_dn(crt, "CN=test", NULL), 0);
    ck_assert_int_eq(gnutls_x509_crt_set_serial(crt, serial, sizeof serial), 0);
    gnutls_x509_crt_set_activation_time(crt, time(NULL) - 3600);
    gnutls_x509_crt_set_expiration_time(crt, time(NULL) + 3600);
    ck_assert_int_eq(gnutls_x509_crt_set_ca_status(crt, 1), 0);
    ck_assert_int_eq(gnutls_x509_crt_set_key(crt, key), 0);
    ck_assert_int_eq(gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0), 0);
    ck_assert_int_eq(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &pem), 0);
    snprintf(path, sizeof path, "%s/%s.crt", dir, name);
    write_file(path, pem.data, pem.size);
    gnutls_free(pem.data);
    ck_assert_int_eq(gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &pem), 0);
    snprintf(path, sizeof path, "%s/%s.key", dir, name);
    write_file(path, pem.data, pem.size);
    gnutls_free(pem.data);
    gnutls_x509_crt_deinit(crt);
    gnutls_x509_privkey_deinit(key);
}

static char dir[1024];

static const char *in_dir(const char *name)
{
    return path_join(dir, name);
}

static void copy(const char *from, const char *to)
{
    size_t n;
    char *text = read_file(in_dir(from), &n);
    write_file(in_dir(to), text, n);
    free(text);
}

static void install(const char *name)
{
    char file[40];
    snprintf(file, sizeof file, "%s.crt", name);
    copy(file, "now.crt");
    snprintf(file, sizeof file, "%s.key", name);
    copy(file, "now.key");
}

static void make_files(void)
{
    snprintf(dir, sizeof dir, "%s", temp_dir());
    make_pair(dir, "a");
    make_pair(dir, "b");
    make_pair(dir, "client");
    install("a");
}

static void up(void)
{
    make_files();
    daemon_spawn(&srv, daemon_tiny_model(),
                 (const char *[]){"--tls-certificate-file", in_dir("now.crt"), "--tls-key-file",
                                  in_dir("now.key"), NULL});
}

static void up_for_clients(void)
{
    make_files();
    copy("client.crt", "ca.crt");
    daemon_spawn(&srv, daemon_tiny_model(),
                 (const char *[]){"--tls-certificate-file", in_dir("now.crt"), "--tls-key-file",
                                  in_dir("now.key"), "--tls-client-ca-file", in_dir("ca.crt"),
                                  NULL});
}

struct client {
    int fd;
    gnutls_session_t session;
    gnutls_certificate_credentials_t cred;
};

/* Connects; returns what the handshake says, 0 = done. `who`: the client's certificate, or NULL. */
static int client_open(struct client *c, const char *versions, const char *who)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)srv.port)};
    char crt[1200], key[1200];
    signal(SIGPIPE, SIG_IGN); /* a server that refuses may have closed before we send */
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(connect(c->fd, (struct sockaddr *)&at, sizeof at), 0);
    ck_assert_int_eq(gnutls_certificate_allocate_credentials(&c->cred), 0);
    if (who) {
        snprintf(crt, sizeof crt, "%s/%s.crt", dir, who);
        snprintf(key, sizeof key, "%s/%s.key", dir, who);
        ck_assert_int_eq(
            gnutls_certificate_set_x509_key_file(c->cred, crt, key, GNUTLS_X509_FMT_PEM), 0);
    }
    ck_assert_int_eq(gnutls_init(&c->session, GNUTLS_CLIENT), 0);
    ck_assert_int_eq(gnutls_priority_set_direct(c->session, versions, NULL), 0);
    ck_assert_int_eq(gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE, c->cred), 0);
    gnutls_transport_set_int(c->session, c->fd);
    gnutls_handshake_set_timeout(c->session, 20000);
    int rc;
    do
        rc = gnutls_handshake(c->session);
    while (rc < 0 && !gnutls_error_is_fatal(rc));
    return rc;
}

static void client_close(struct client *c)
{
    gnutls_deinit(c->session);
    gnutls_certificate_free_credentials(c->cred);
    close(c->fd);
}

/* The whole answer to a request after which the server closes; "" when there is none. */
static char *client_ask(struct client *c, const char *request)
{
    struct buf all = {0};
    char piece[2048];
    ssize_t n;
    gnutls_record_send(c->session, request, strlen(request));
    while ((n = gnutls_record_recv(c->session, piece, sizeof piece)) > 0 || n == GNUTLS_E_AGAIN ||
           n == GNUTLS_E_INTERRUPTED)
        if (n > 0) buf_append(&all, piece, (size_t)n);
    buf_puts(&all, "");
    return buf_take(&all);
}

#define ANY "NORMAL"
#define ONLY(v) "NORMAL:-VERS-ALL:+VERS-TLS" v
#define CLOSE "Host: x\r\nConnection: close\r\n"

static void ready(void)
{
    for (int i = 0; i < 3000 && !daemon_log_has(&srv, "ready model="); i++)
        usleep(10000);
    ck_assert(daemon_log_has(&srv, "ready model="));
}

START_TEST(answers_and_streams)
{
    static const char *const versions[] = {ONLY("1.2"), ONLY("1.3"), ANY};
    static const char body[] =
        "{\"prompt\":[1,2,3],\"max_tokens\":20,\"ignore_eos\":true,\"stream\":true}";
    ready();
    for (int i = 0; i < 3; i++) {
        struct client c;
        char request[400];
        ck_assert_int_eq(client_open(&c, versions[i], NULL), 0);
        snprintf(request, sizeof request,
                 "POST /v1/completions HTTP/1.1\r\n" CLOSE "Content-Length: %zu\r\n\r\n%s",
                 strlen(body), body);
        char *answer = client_ask(&c, request);
        ck_assert_msg(strncmp(answer, "HTTP/1.1 200 ", 13) == 0, "%s", answer);
        ck_assert_ptr_nonnull(strstr(answer, "data: [DONE]"));
        free(answer);
        client_close(&c);
    }
}
END_TEST

START_TEST(old_versions_and_plain_bytes)
{
    static const char *const old[] = {ONLY("1.1"), ONLY("1.0")};
    struct client c;
    for (int i = 0; i < 2; i++) {
        ck_assert_int_lt(client_open(&c, old[i], NULL), 0);
        client_close(&c);
    }
    struct httpc plain;
    httpc_open(&plain, srv.port);
    httpc_send(&plain, "GET", "/livez", "", NULL, 0);
    ck_assert_int_ne(httpc_head(&plain, 20000), 200);
    httpc_close(&plain);
    ck_assert_int_eq(client_open(&c, ANY, NULL), 0);
    char *answer = client_ask(&c, "GET /livez HTTP/1.1\r\n" CLOSE "\r\n");
    ck_assert_int_eq(strncmp(answer, "HTTP/1.1 200 ", 13), 0);
    free(answer);
    client_close(&c);
}
END_TEST

/* The last byte of the certificate's serial number, by which these here differ. */
static int served(void)
{
    struct client c;
    unsigned n;
    unsigned char serial[8];
    size_t size = sizeof serial;
    gnutls_x509_crt_t crt;
    ck_assert_int_eq(client_open(&c, ANY, NULL), 0);
    const gnutls_datum_t *peer = gnutls_certificate_get_peers(c.session, &n);
    ck_assert_int_eq(gnutls_x509_crt_init(&crt), 0);
    ck_assert_int_eq(gnutls_x509_crt_import(crt, peer, GNUTLS_X509_FMT_DER), 0);
    ck_assert_int_eq(gnutls_x509_crt_get_serial(crt, serial, &size), 0);
    gnutls_x509_crt_deinit(crt);
    client_close(&c);
    return serial[size - 1];
}

static void hangup(int times, const char *said)
{
    kill(srv.pid, SIGHUP);
    for (int i = 0; i < 1000; i++, usleep(10000)) {
        char *log = read_file(srv.log, NULL);
        int n = 0;
        for (char *p = log; (p = strstr(p, said)) != NULL; p++)
            n++;
        free(log);
        if (n >= times) return;
    }
    ck_abort_msg("the log does not say \"%s\"", said);
}

START_TEST(certificates_are_replaced)
{
    struct client open;
    ck_assert_int_eq(served(), 'a');
    ck_assert_int_eq(client_open(&open, ANY, NULL), 0);
    install("b");
    hangup(1, "certificates read");
    ck_assert_int_eq(served(), 'b');
    char *answer = client_ask(&open, "GET /livez HTTP/1.1\r\n" CLOSE "\r\n");
    ck_assert_int_eq(strncmp(answer, "HTTP/1.1 200 ", 13), 0); /* as it was */
    free(answer);
    client_close(&open);
    copy("a.crt", "now.crt"); /* without its key */
    hangup(1, "certificates stay as they were");
    ck_assert_int_eq(served(), 'b');
    install("a");
    hangup(2, "certificates read");
    ck_assert_int_eq(served(), 'a');
}
END_TEST

/* Who is let in: with the certificate of `one` alone. */
static void only(const char *one)
{
    static const char *const who[] = {NULL, "a", "b", "client"};
    for (int i = 0; i < 4; i++) {
        struct client c;
        int rc = client_open(&c, ANY, who[i]);
        char *answer = rc == 0 ? client_ask(&c, "GET /livez HTTP/1.1\r\n" CLOSE "\r\n") : NULL;
        bool in =
            answer && strncmp(answer, "HTTP/1.1 200 ", 13) == 0; /* TLS 1.3 refuses afterwards */
        ck_assert_msg(in == (who[i] && !strcmp(who[i], one)), "%s: %d %s", who[i] ? who[i] : "none",
                      rc, answer ? answer : "");
        free(answer);
        client_close(&c);
    }
}

START_TEST(clients_have_certificates)
{
    only("client");
}
END_TEST

/* Authorities are read again with the certificate; who is connected stays so. */
START_TEST(authorities_are_replaced)
{
    struct client open;
    ck_assert_int_eq(client_open(&open, ONLY("1.2"), "client"), 0);
    copy("b.crt", "ca.crt");
    hangup(1, "certificates read");
    only("b");
    write_file(in_dir("ca.crt"), "none", 4);
    hangup(1, "PEM certificates of authorities were expected");
    only("b");
    copy("client.crt", "ca.crt");
    hangup(2, "certificates read");
    only("client");
    char *answer = client_ask(&open, "GET /livez HTTP/1.1\r\n" CLOSE "\r\n");
    ck_assert_int_eq(strncmp(answer, "HTTP/1.1 200 ", 13), 0);
    free(answer);
    client_close(&open);
}
END_TEST

static void refused(const char *certificate, const char *key, const char *why)
{
    pid_t pid = fork();
    char log[1200];
    snprintf(log, sizeof log, "%s", in_dir("refused.log"));
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        const char *ttmd = build_path("ttmd");
        if (!freopen(log, "w", stderr)) _exit(99);
        execl(ttmd, ttmd, "--model", "x", "--port", "0", "--tls-certificate-file", certificate,
              "--tls-key-file", key, (char *)NULL);
        _exit(99);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 2);
    char *text = read_file(log, NULL);
    ck_assert_msg(strstr(text, why) != NULL, "%s: %s", why, text);
    free(text);
}

/* `ttmd --healthcheck` with this pair; its exit status. */
static int healthcheck(const char *pair, bool shows_it)
{
    char command[4000], ca[1300] = "";
    if (shows_it) snprintf(ca, sizeof ca, "--tls-client-ca-file %s/client.crt", dir);
    snprintf(command, sizeof command,
             "%s --healthcheck --port %d --tls-certificate-file %s/%s.crt --tls-key-file %s/%s.key "
             "%s >/dev/null 2>&1",
             build_path("ttmd"), srv.port, dir, pair, dir, pair, ca);
    return WEXITSTATUS(system(command));
}

START_TEST(healthcheck_speaks_tls)
{
    ready();
    ck_assert_int_eq(healthcheck("now", false), 0);
    ck_assert_int_eq(healthcheck("no-such-file", false), 0); /* the daemon's files are not needed */
}
END_TEST

START_TEST(healthcheck_shows_a_certificate)
{
    ready();
    ck_assert_int_eq(healthcheck("client", true), 0);
    ck_assert_int_eq(healthcheck("client", false), 1);
    ck_assert_int_eq(healthcheck("b", true), 1);
    ck_assert_int_eq(healthcheck("no-such-file", true), 1);
}
END_TEST

START_TEST(bad_files_are_named)
{
    char crt[1200], key[1200], other[1200];
    make_files();
    snprintf(crt, sizeof crt, "%s", in_dir("a.crt"));
    snprintf(key, sizeof key, "%s", in_dir("a.key"));
    snprintf(other, sizeof other, "%s", in_dir("b.key"));
    refused(crt, "", "tls_key_file is missing");
    refused("", key, "tls_certificate_file is missing");
    refused(crt, "/nonexistent/key", "tls_key_file: /nonexistent/key cannot be read");
    refused(crt, crt, "were expected");
    refused(key, key, "were expected");
    refused(crt, other, "do not match");
    write_file(in_dir("empty"), "", 0);
    refused(in_dir("empty"), key, "has nothing in it: PEM text was expected");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("TLS");
    TCase *t = tcase_create("server"), *c = tcase_create("clients"), *f = tcase_create("files");
    tcase_add_unchecked_fixture(t, up, server_down);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, answers_and_streams);
    tcase_add_test(t, old_versions_and_plain_bytes);
    tcase_add_test(t, certificates_are_replaced);
    tcase_add_test(t, healthcheck_speaks_tls);
    suite_add_tcase(s, t);
    tcase_add_unchecked_fixture(c, up_for_clients, server_down);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, clients_have_certificates);
    tcase_add_test(c, authorities_are_replaced);
    tcase_add_test(c, healthcheck_shows_a_certificate);
    suite_add_tcase(s, c);
    tcase_add_test(f, bad_files_are_named);
    suite_add_tcase(s, f);
    return s;
}
TEST_MAIN(suite)
