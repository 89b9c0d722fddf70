/* Keys, limits, origins: all questions about who asks, decided at the headers on the HTTP thread, before a
 * place is taken or a byte of a body is read.
 *
 * With keys, what is not open asks for one: also paths that do not exist, so that nobody without a key
 * learns which do. Open are the probes of orchestrators, which have no keys and tell nothing, the page, which
 * is public text and asks its reader for a key, and /metrics when the configuration says so.
 *
 * Origins (CORS) protect browsers' users, not us. Preflights carry no key by design and are answered from the
 * list alone. An origin that is not on the list gets answers without headers that would let its page read
 * them; the request is served, as from any program. */
#include "server/access.h"

#include <math.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/config.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/metrics.h"
#include "server/request.h"

enum { ASKED_HEADERS_MAX = 1000 }; /* bytes of a preflight's list of names */

struct access {
    const struct config *cfg; /* borrowed */
    pthread_mutex_t lock;
    struct keys *keys; /* under lock; NULL: no keys are asked for */
    char *origins;     /* owned: the configured list, cut at its commas */
    char **origin;     /* (n_origins) owned; into origins */
    size_t n_origins;
    bool any_origin;
};

/* ---- the configuration ---- */

static bool is_origin(const char *s)
{
    const char *scheme = strstr(s, "://");
    bool known = scheme && (!strncmp(s, "http:", 5) || !strncmp(s, "https:", 6));
    return known && scheme[3] && !strpbrk(scheme + 3, "/?#@ \t*");
}

static int take_origins(struct access *a, struct err *err)
{
    char *save = NULL;
    a->origins = mem_strdup(a->cfg->cors_origins);
    for (char *s = strtok_r(a->origins, ", ", &save); s; s = strtok_r(NULL, ", ", &save)) {
        if (!strcmp(s, "*")) {
            a->any_origin = true;
            continue;
        }
        if (!is_origin(s))
            return err_set(err, ERR_INVALID,
                           "cors_origins: \"%.80s\" is no origin: scheme://host[:port] or * was "
                           "expected",
                           s);
        a->origin = mem_realloc(a->origin, (a->n_origins + 1) * sizeof *a->origin);
        a->origin[a->n_origins++] = s;
    }
    return 0;
}

int access_new(struct access **out, const struct config *c, struct err *err)
{
    struct access *a = mem_calloc(1, sizeof *a);
    a->cfg = c;
    pthread_mutex_init(&a->lock, NULL);
    int rc = take_origins(a, err);
    if (!rc) rc = access_reload(a, err);
    if (!rc)
        *out = a;
    else
        access_free(a);
    return rc;
}

void access_free(struct access *a)
{
    if (!a) return;
    keys_free(a->keys);
    free(a->origins);
    free(a->origin);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

/* Only the caller's thread changes a->keys, so it may read them without the lock. It is held for the exchange
 * alone: every request takes it. */
int access_reload(struct access *a, struct err *err)
{
    struct keys *new = NULL, *old = a->keys;
    if (!*a->cfg->api_keys_file) return 0;
    int rc = keys_load(&new, old, a->cfg->api_keys_file, err);
    if (rc) return rc;
    pthread_mutex_lock(&a->lock);
    a->keys = new;
    pthread_mutex_unlock(&a->lock);
    keys_free(old);
    return 0;
}

size_t access_keys(struct access *a)
{
    pthread_mutex_lock(&a->lock);
    size_t n = a->keys ? keys_count(a->keys) : 0;
    pthread_mutex_unlock(&a->lock);
    return n;
}

/* ---- keys and limits ---- */

/* The key of "Authorization: Bearer KEY"; "" when there is none. */
static const char *bearer(struct MHD_Connection *conn)
{
    const char *s = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Authorization");
    static const char scheme[] = "Bearer";
    if (!s || strncasecmp(s, scheme, sizeof scheme - 1) != 0) return "";
    s += sizeof scheme - 1;
    return *s == ' ' ? s + strspn(s, " ") : "";
}

static bool is_open(const struct access *a, const struct request *r)
{
    if (!r->route) return false;
    return r->route->open || (a->cfg->metrics_open && !strcmp(r->route->label, "metrics"));
}

static bool refuse(struct request *r, enum api_code code, const char *message)
{
    struct api_error e = {0};
    api_fail(&e, code, NULL, "%s", message);
    reply_error(r, &r->reply, &e);
    return true;
}

static bool refuse_rate(struct request *r)
{
    const struct meter_state *m = &r->meter;
    bool tokens = m->tokens.limited && m->tokens.remaining < 1;
    char message[200];
    metrics_reject(r->srv->metrics, REJECT_RATE_LIMIT);
    snprintf(message, sizeof message,
             "the key %s may use %lld %s per minute: try again in %.0f seconds", r->grant.label,
             (long long)(tokens ? m->tokens.limit : m->requests.limit),
             tokens ? "tokens" : "requests", ceil(m->retry_s));
    refuse(r, API_RATE_LIMIT, message);
    r->reply.retry_after_s = (int)fmin(ceil(m->retry_s), 3600);
    return true;
}

bool access_refuses(struct access *a, struct request *r)
{
    char message[160];
    pthread_mutex_lock(&a->lock);
    bool asked = a->keys != NULL;
    const char *key = asked ? bearer(r->conn) : "";
    bool known = asked && *key && keys_find(a->keys, key, &r->grant);
    pthread_mutex_unlock(&a->lock);
    if (!asked || is_open(a, r)) return false;
    if (!known)
        return refuse(r, API_INVALID_KEY,
                      *key ? "this API key is not known"
                           : "an API key is needed: \"Authorization: Bearer KEY\"");
    if (!r->route) return false;
    if (r->route->scope && !(r->grant.scopes & (unsigned)r->route->scope)) {
        snprintf(message, sizeof message, "the key %s has no scope %s", r->grant.label,
                 key_scope_name(r->route->scope));
        return refuse(r, API_SCOPE, message);
    }
    if (!r->route->post) return false;
    return !meter_take(r->grant.meter, &r->grant.limits, clock_ns(), &r->meter) && refuse_rate(r);
}

void access_used(struct request *r, double tokens)
{
    if (r->grant.meter && tokens > 0)
        meter_use(r->grant.meter, &r->grant.limits, clock_ns(), tokens);
}

/* ---- origins ---- */

void access_origin(struct access *a, struct request *r)
{
    const char *origin = MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, "Origin");
    r->vary_origin = a->n_origins > 0;
    if (!origin) return;
    if (a->any_origin) r->origin = "*";
    for (size_t i = 0; i < a->n_origins; i++)
        if (!strcmp(origin, a->origin[i])) r->origin = a->origin[i];
}

/* ---- headers ---- */

static void put_limit(const char *what, const struct meter_view *v, header_put *put, void *to)
{
    char name[48], value[32];
    if (!v->limited) return;
    snprintf(name, sizeof name, "x-ratelimit-limit-%s", what);
    snprintf(value, sizeof value, "%lld", (long long)v->limit);
    put(to, name, value);
    snprintf(name, sizeof name, "x-ratelimit-remaining-%s", what);
    snprintf(value, sizeof value, "%lld", (long long)v->remaining);
    put(to, name, value);
    snprintf(name, sizeof name, "x-ratelimit-reset-%s", what);
    snprintf(value, sizeof value, "%.3fs", v->reset_s);
    put(to, name, value);
}

/* What a preflight asks to send is allowed by being said again: clients' own headers (X-Stainless-Os) are many,
 * and none of them means anything here. Only a list of names is said again. */
static const char *allowed_headers(struct MHD_Connection *conn)
{
    static const char usual[] = "Authorization, Content-Type, X-Request-Id, Prefer";
    static const char names[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        "!#$%&'*+-.^_`|~"
        ", \t";
    const char *asked =
        MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Access-Control-Request-Headers");
    size_t n = asked ? strlen(asked) : 0;
    return n > 0 && n <= ASKED_HEADERS_MAX && strspn(asked, names) == n ? asked : usual;
}

void access_headers(const struct request *r, bool preflight, header_put *put, void *to)
{
    put_limit("requests", &r->meter.requests, put, to);
    put_limit("tokens", &r->meter.tokens, put, to);
    if (r->reply.status == 401) put(to, "WWW-Authenticate", "Bearer");
    if (r->vary_origin)
        put(to, "Vary", preflight ? "Origin, Access-Control-Request-Headers" : "Origin");
    else if (preflight && r->origin)
        put(to, "Vary", "Access-Control-Request-Headers");
    if (!r->origin) return;
    put(to, "Access-Control-Allow-Origin", r->origin);
    if (!preflight) {
        put(to, "Access-Control-Expose-Headers",
            "X-Request-Id, Retry-After, Server-Timing, "
            "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
            "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
            "x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens");
        return;
    }
    put(to, "Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
    put(to, "Access-Control-Allow-Headers", allowed_headers(r->conn));
    put(to, "Access-Control-Max-Age", "600");
}
