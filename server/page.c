/* GET / and GET /openapi.json: files from the binary, with an ETag, so that a browser asks again and is
 * told "the same" in a few bytes. The page is one file with its script and style inside; the policy
 * allows exactly these two, by their SHA-256, requests to this origin, and nothing else: whatever a model
 * writes into the page can run nothing and reach nobody. The hashes are taken from the embedded bytes at
 * start, because a hash that is written down somewhere is forgotten at the next change. */
#include "server/page.h"

#include <microhttpd.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/buf.h"
#include "server/digest.h"
#include "server/assets.h"
#include "server/request.h"

static void base64(const unsigned char *p, size_t n, struct buf *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)p[i] << 16;
        if (i + 1 < n) v |= (unsigned)p[i + 1] << 8;
        if (i + 2 < n) v |= p[i + 2];
        buf_putc(out, digits[v >> 18 & 63]);
        buf_putc(out, digits[v >> 12 & 63]);
        buf_putc(out, i + 1 < n ? digits[v >> 6 & 63] : '=');
        buf_putc(out, i + 2 < n ? digits[v & 63] : '=');
    }
}

/* " 'sha256-...'" of what stands between <tag> and </tag>, for each time it occurs. */
static void put_sources(const char *html, const char *tag, struct buf *out)
{
    char open[16], close[16];
    snprintf(open, sizeof open, "<%s>", tag);
    snprintf(close, sizeof close, "</%s>", tag);
    for (const char *at = strstr(html, open); at; at = strstr(at, open)) {
        unsigned char digest[SHA256_BYTES];
        at += strlen(open);
        const char *end = strstr(at, close);
        BUG_ON(!end);
        sha256(at, (size_t)(end - at), digest);
        buf_puts(out, " 'sha256-");
        base64(digest, sizeof digest, out);
        buf_putc(out, '\'');
    }
}

static void make_etag(struct asset a, char out[24])
{
    unsigned char digest[SHA256_BYTES];
    unsigned long long v = 0;
    sha256(a.data, a.len, digest);
    for (int i = 0; i < 8; i++)
        v = v << 8 | digest[i];
    snprintf(out, 24, "\"%016llx\"", v);
}

void page_init(struct page *p)
{
    struct buf policy = {0};
    buf_puts(&policy, "default-src 'none'; script-src");
    put_sources(asset_page().data, "script", &policy);
    buf_puts(&policy, "; style-src");
    put_sources(asset_page().data, "style", &policy);
    buf_puts(&policy,
             "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
             "frame-ancestors 'none'");
    BUG_ON(policy.len >= sizeof p->policy);
    snprintf(p->policy, sizeof p->policy, "%s", policy.data);
    buf_release(&policy);
    make_etag(asset_page(), p->page_etag);
    make_etag(asset_openapi(), p->openapi_etag);
    const struct header page[] = {
        {"ETag", p->page_etag},
        {"Cache-Control", "no-cache"},
        {"Content-Security-Policy", p->policy},
        {"X-Frame-Options", "DENY"},
        {"Referrer-Policy", "no-referrer"},
        {"Cross-Origin-Resource-Policy", "same-origin"},
        {"Permissions-Policy", "camera=(), microphone=(), geolocation=()"}};
    const struct header openapi[] = {{"ETag", p->openapi_etag}, {"Cache-Control", "no-cache"}};
    memcpy(p->page_headers, page, sizeof page);
    memcpy(p->openapi_headers, openapi, sizeof openapi);
    p->n_page_headers = sizeof page / sizeof *page;
    p->n_openapi_headers = sizeof openapi / sizeof *openapi;
}

static void put_asset(struct request *r, struct reply *reply, struct asset a, const char *type,
                      const char *etag)
{
    const char *known = MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, "If-None-Match");
    reply->ready = true;
    reply->content_type = type;
    reply->status = known && strstr(known, etag) ? 304 : 200;
    if (reply->status == 200) buf_append(&reply->body, a.data, a.len);
}

void page_root(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    const struct page *p = &r->srv->page;
    if (!r->srv->cfg->ui) {
        struct api_error e = {0};
        api_fail(&e, API_NOT_FOUND, NULL, "no such path: / (the page is switched off)");
        reply_error(r, reply, &e);
        return;
    }
    put_asset(r, reply, asset_page(), "text/html; charset=utf-8", p->page_etag);
    reply->headers = p->page_headers;
    reply->n_headers = p->n_page_headers;
}

void page_openapi(struct request *r, const char *rest, struct reply *reply)
{
    (void)rest;
    const struct page *p = &r->srv->page;
    put_asset(r, reply, asset_openapi(), "application/json", p->openapi_etag);
    reply->headers = p->openapi_headers;
    reply->n_headers = p->n_openapi_headers;
}
