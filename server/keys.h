#ifndef TTMD_SERVER_KEYS_H
#define TTMD_SERVER_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "server/meter.h"

/* API keys. The file has a line for each:
 *
 *     # label  sha256=<64 hex digits>  scopes=completions,scoring,admin
 *     #        [requests_per_minute=N] [tokens_per_minute=N]
 *     alice  sha256=9f86d0..  scopes=completions,scoring  requests_per_minute=60
 *
 * The key itself is 256 random bits and stands nowhere; a digest of it cannot be guessed back, so no
 * slow password hash is needed. Labels are what logs show. */
enum key_scope { SCOPE_COMPLETIONS = 1, SCOPE_SCORING = 2, SCOPE_ADMIN = 4 };

enum { KEY_LABEL_MAX = 32, KEYS_MAX = 10000 };

/* What a key's holder may do; a copy, so that it stays valid when the file is read again. */
struct key_grant {
    char label[KEY_LABEL_MAX + 1];
    unsigned scopes; /* of enum key_scope */
    struct meter_limits limits;
    struct meter *meter; /* a reference, for meter_unref(); NULL without a key */
};

struct keys;

/* keys_parse -- the keys of a file's text.
 *
 *   old   the keys until now, whose meters go on under the same digest; NULL = none; borrowed
 *   name  of the file, for messages
 *
 * Errors  ERR_INVALID naming file, line, field, what was found and expected; *out untouched.
 */
int keys_parse(struct keys **out, const struct keys *old, const char *text, size_t len,
               const char *name, struct err *err);
int keys_load(struct keys **out, const struct keys *old, const char *path, struct err *err);
void keys_free(struct keys *k); /* k may be NULL */
size_t keys_count(const struct keys *k);

/* keys_find -- the grant of a key as the client sent it. Takes the same time for every wrong key. */
bool keys_find(const struct keys *k, const char *key, struct key_grant *out);

/* keys_new -- a new key, and the file's line that lets it in; both appended to.
 * Errors  ERR_INVALID for a label of other characters than letters, digits, '.', '_', '-', or '-' first. */
int keys_new(const char *label, struct buf *key, struct buf *line, struct err *err);

const char *key_scope_name(enum key_scope scope);

#endif
