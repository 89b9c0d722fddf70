/* The file of API keys. Text with a line for each key, so that a key is added by appending what
 * --new-api-key prints and taken back by deleting a line, and a diff shows what happened.
 *
 * A key that comes in is digested and compared with every digest of the file, each in constant time: how
 * long it takes says neither how much of a key was right nor whose. A key's meter is found again by the
 * digest when the file is read again, so that reading it forgives nobody what they used. */
#include "server/keys.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "server/digest.h"

enum { KEY_RANDOM_BYTES = 32, LINE_MAX_BYTES = 1024, FILE_MAX_BYTES = (16 << 20) - 1 };
static const char prefix[] = "ttmd-";

struct key {
    unsigned char digest[SHA256_BYTES];
    struct key_grant grant; /* its meter's reference is the table's */
};
/* Hash tables with open addressing, by digest and by label; never more than a third full. For reading the
 * file only: keys_find() must not depend on a digest. */
enum by { BY_DIGEST, BY_LABEL, BYS };
enum { SLOTS = 1 << 15 };
struct keys {
    struct key *key; /* (n) owned */
    size_t n;
    uint16_t slot[BYS][SLOTS]; /* index + 1 of a key; 0 = free */
};
_Static_assert(SLOTS >= 3 * KEYS_MAX && KEYS_MAX < UINT16_MAX, "keys fit their tables");

static const struct {
    enum key_scope scope;
    const char *name;
} scopes[] = {
    {SCOPE_COMPLETIONS, "completions"}, {SCOPE_SCORING, "scoring"}, {SCOPE_ADMIN, "admin"}};

const char *key_scope_name(enum key_scope scope)
{
    for (size_t i = 0; i < sizeof scopes / sizeof *scopes; i++)
        if (scopes[i].scope == scope) return scopes[i].name;
    BUG("no such scope");
}

void keys_free(struct keys *k)
{
    for (size_t i = 0; k && i < k->n; i++)
        meter_unref(k->key[i].grant.meter);
    if (k) free(k->key);
    free(k);
}

size_t keys_count(const struct keys *k)
{
    return k->n;
}

/* ---- fields of a line ---- */

static bool is_label(const char *s)
{
    size_t n = strlen(s);
    return n > 0 && n <= KEY_LABEL_MAX &&
           strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool take_digest(const char *hex, unsigned char out[SHA256_BYTES])
{
    if (strlen(hex) != (size_t)2 * SHA256_BYTES) return false;
    for (int i = 0; i < SHA256_BYTES; i++) {
        int high = nibble(hex[2 * i]), low = nibble(hex[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        out[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}

static bool take_scopes(char *list, unsigned *out)
{
    char *save = NULL;
    for (char *s = strtok_r(list, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
        size_t i = 0;
        while (i < sizeof scopes / sizeof *scopes && strcmp(s, scopes[i].name) != 0)
            i++;
        if (i == sizeof scopes / sizeof *scopes) return false;
        *out |= scopes[i].scope;
    }
    return *out != 0;
}

static bool take_rate(const char *text, double *out)
{
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    *out = (double)n;
    return end != text && !*end && !errno && n >= 1 && n <= 1000000000;
}

/* What a field should have been; NULL when it is right. */
static const char *take_field(struct key *k, char *field, bool *has_digest)
{
    char *value = strchr(field, '=');
    if (!value) return "name=value";
    *value++ = 0;
    if (!strcmp(field, "sha256")) {
        *has_digest = take_digest(value, k->digest);
        return *has_digest ? NULL : "64 digits 0-9a-f after sha256=";
    }
    if (!strcmp(field, "scopes"))
        return take_scopes(value, &k->grant.scopes)
                   ? NULL
                   : "a list of completions, scoring and admin after scopes=";
    if (!strcmp(field, "requests_per_minute"))
        return take_rate(value, &k->grant.limits.requests_per_minute)
                   ? NULL
                   : "an integer from 1 to 1000000000 after requests_per_minute=";
    if (!strcmp(field, "tokens_per_minute"))
        return take_rate(value, &k->grant.limits.tokens_per_minute)
                   ? NULL
                   : "an integer from 1 to 1000000000 after tokens_per_minute=";
    return "sha256=, scopes=, requests_per_minute= or tokens_per_minute=";
}

/* A message shows no digest: what stands in the wrong place may be a key. */
static int take_line(struct key *k, char *line, const char *name, size_t at, struct err *err)
{
    char *save = NULL, *label = strtok_r(line, " \t\r", &save);
    bool has_digest = false;
    if (!is_label(label))
        return err_set(err, ERR_INVALID,
                       "%s: line %zu: a label of 1 to %d letters, digits, '.', '_' and '-' was "
                       "expected first",
                       name, at, KEY_LABEL_MAX);
    snprintf(k->grant.label, sizeof k->grant.label, "%s", label);
    for (char *f; (f = strtok_r(NULL, " \t\r", &save)) != NULL;) {
        const char *expected = take_field(k, f, &has_digest);
        if (expected)
            return err_set(err, ERR_INVALID, "%s: line %zu (%s): %s was expected", name, at,
                           k->grant.label, expected);
    }
    if (!has_digest || !k->grant.scopes)
        return err_set(err, ERR_INVALID, "%s: line %zu (%s): %s is missing", name, at,
                       k->grant.label, has_digest ? "scopes=" : "sha256=");
    return 0;
}

/* ---- the table ---- */

static bool same(const struct key *a, const struct key *b, enum by by)
{
    return by == BY_LABEL ? !strcmp(a->grant.label, b->grant.label)
                          : !memcmp(a->digest, b->digest, SHA256_BYTES);
}

/* FNV-1a: labels are an operator's, and digests are spread already. */
static uint32_t hash(const struct key *k, enum by by)
{
    const unsigned char *p = by == BY_LABEL ? (const unsigned char *)k->grant.label : k->digest;
    size_t n = by == BY_LABEL ? strlen(k->grant.label) : SHA256_BYTES;
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 16777619u;
    return h ^ h >> 15;
}

/* Where a key like `want` stands, or the free place where it would. */
static size_t slot_of(const struct keys *k, const struct key *want, enum by by)
{
    size_t at = hash(want, by) % SLOTS;
    while (k->slot[by][at] && !same(&k->key[k->slot[by][at] - 1], want, by))
        at = (at + 1) % SLOTS;
    return at;
}

static const struct key *find_same(const struct keys *k, const struct key *want, enum by by)
{
    size_t i = k->slot[by][slot_of(k, want, by)];
    return i ? &k->key[i - 1] : NULL;
}

static int add(struct keys *k, struct key *new, const struct keys *old, const char *name, size_t at,
               struct err *err)
{
    const struct key *before = find_same(k, new, BY_LABEL);
    if (!before) before = find_same(k, new, BY_DIGEST);
    if (before)
        return err_set(err, ERR_INVALID,
                       "%s: line %zu (%s): this label or key is there before, as %s", name, at,
                       new->grant.label, before->grant.label);
    if (k->n == KEYS_MAX)
        return err_set(err, ERR_INVALID, "%s: line %zu: more than %d keys", name, at, KEYS_MAX);
    const struct key *until_now = old ? find_same(old, new, BY_DIGEST) : NULL;
    new->grant.meter = until_now ? until_now->grant.meter : meter_new();
    if (until_now) meter_ref(new->grant.meter);
    if ((k->n & (k->n - 1)) == 0) /* room doubles */
        k->key = mem_realloc(k->key, (k->n ? 2 * k->n : 1) * sizeof *k->key);
    k->key[k->n++] = *new;
    for (enum by by = 0; by < BYS; by++)
        k->slot[by][slot_of(k, new, by)] = (uint16_t)k->n;
    return 0;
}

int keys_parse(struct keys **out, const struct keys *old, const char *text, size_t len,
               const char *name, struct err *err)
{
    struct keys *k = mem_calloc(1, sizeof *k);
    const char *end = text + len;
    int rc = 0;
    size_t at = 1;
    for (const char *p = text; !rc && p < end; at++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((stop ? stop : end) - p);
        char line[LINE_MAX_BYTES];
        struct key key = {0};
        if (n >= sizeof line || memchr(p, 0, n)) {
            rc = err_set(err, ERR_INVALID, "%s: line %zu is no text of at most %d bytes", name, at,
                         LINE_MAX_BYTES - 1);
            break;
        }
        memcpy(line, p, n);
        line[n] = 0;
        p += n + 1;
        char first = line[strspn(line, " \t\r")];
        if (!first || first == '#') continue;
        rc = take_line(&key, line, name, at, err);
        if (!rc) rc = add(k, &key, old, name, at, err);
    }
    if (!rc)
        *out = k;
    else
        keys_free(k);
    return rc;
}

int keys_load(struct keys **out, const struct keys *old, const char *path, struct err *err)
{
    struct buf text = {0};
    int why = file_read(path, FILE_MAX_BYTES, &text), rc = 0;
    if (why == EFBIG)
        rc = err_set(err, ERR_INVALID, "the API keys' file %s has more than %d bytes", path,
                     FILE_MAX_BYTES);
    else if (why)
        rc = err_set(err, ERR_IO, "the API keys' file %s cannot be read: %s", path, file_why(why));
    if (!rc) rc = keys_parse(out, old, text.data ? text.data : "", text.len, path, err);
    buf_release(&text);
    return rc;
}

bool keys_find(const struct keys *k, const char *key, struct key_grant *out)
{
    unsigned char digest[SHA256_BYTES];
    size_t found = k->n;
    sha256(key, strlen(key), digest);
    for (size_t i = 0; i < k->n; i++)
        if (gnutls_memcmp(digest, k->key[i].digest, sizeof digest) == 0) found = i;
    if (found == k->n) return false;
    *out = k->key[found].grant;
    meter_ref(out->meter);
    return true;
}

int keys_new(const char *label, struct buf *key, struct buf *line, struct err *err)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned char random[KEY_RANDOM_BYTES], digest[SHA256_BYTES];
    if (!is_label(label) || *label == '-') /* a flag that was meant as one */
        return err_set(
            err, ERR_INVALID,
            "--new-api-key: the label \"%.40s\" is not 1 to %d letters, digits, '.', '_' "
            "and '-', not '-' first",
            label, KEY_LABEL_MAX);
    if (gnutls_rnd(GNUTLS_RND_KEY, random, sizeof random) < 0)
        return err_set(err, ERR_IO, "--new-api-key: no random numbers are to be had");
    buf_puts(key, prefix);
    for (int bit = 0; bit < 8 * KEY_RANDOM_BYTES; bit += 6) { /* base64url, without padding */
        unsigned low = bit / 8 + 1 < KEY_RANDOM_BYTES ? random[bit / 8 + 1] : 0;
        unsigned two = (unsigned)random[bit / 8] << 8 | low;
        buf_putc(key, digits[two >> (10 - bit % 8) & 63]);
    }
    sha256(key->data, key->len, digest);
    buf_printf(line, "%s sha256=", label);
    for (int i = 0; i < SHA256_BYTES; i++)
        buf_printf(line, "%02x", digest[i]);
    buf_puts(line, " scopes=completions,scoring\n");
    return 0;
}
