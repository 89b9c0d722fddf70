/* The sources in their order: defaults, file, environment, flags. The flags are walked twice: first
 * for what they ask for (help, check, which file), then, after file and environment, for their values, so that
 * the order of precedence does not depend on the order of arguments. Nothing unknown is ignored:
 * a misspelt limit that silently stays at its default is found in production. */
#include "config/config_internal.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"

#define FILE_MAX_BYTES ((size_t)1 << 20)

/* "…; did you mean max_batch?" in the spelling of the source. */
static int unknown(const char *what, const char *name, size_t len,
                   void (*spell)(const struct config_key *, struct buf *), struct err *err)
{
    struct buf hint = {0};
    const struct config_key *near = config_key_nearest(name, len);
    buf_puts(&hint, near ? "; did you mean " : "");
    if (near) spell(near, &hint);
    err_set(err, ERR_INVALID, "unknown %s%s%s", what, hint.data, near ? "?" : "");
    buf_release(&hint);
    return ERR_INVALID;
}

/* ---- file ---- */

static void spell_key(const struct config_key *k, struct buf *out)
{
    buf_puts(out, k->name);
}

static int set_json(struct config *c, const struct config_key *k, const json_t *v,
                    const char *source, struct err *err)
{
    char *shown = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!shown) BUG("out of memory");
    int rc = 0;
    if (k->type == CONFIG_STRING && json_is_string(v))
        rc = config_set_string(c, k, json_string_value(v), source, err);
    else if (k->type == CONFIG_INT && json_is_integer(v))
        rc = config_set_int(c, k, json_integer_value(v), shown, source, err);
    else if (k->type == CONFIG_NUMBER && json_is_number(v))
        rc = config_set_number(c, k, json_number_value(v), shown, source, err);
    else if (k->type == CONFIG_BOOL && json_is_boolean(v))
        config_set_bool(c, k, json_is_true(v));
    else
        rc = config_bad_value(k, ERR_TYPE, shown, source, err);
    free(shown);
    return rc;
}

static int set_member(struct config *c, const char *key, const json_t *v, const char *name,
                      struct err *err)
{
    if (key[0] == '_') return 0;
    struct buf source = {0};
    const struct config_key *k = config_key_find(key, strlen(key), false);
    int rc;
    if (k) {
        buf_printf(&source, "%s: key %s", name, k->name);
        rc = set_json(c, k, v, source.data, err);
    } else {
        buf_printf(&source, "key \"%.64s\" in %s", key, name);
        rc = unknown(source.data, key, strlen(key), spell_key, err);
    }
    buf_release(&source);
    return rc;
}

int config_parse_file(struct config *c, const char *json, size_t len, const char *name,
                      struct err *err)
{
    json_error_t where;
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &where);
    if (!root)
        return err_set(err, ERR_INVALID, "%s:%d:%d: %s", name, where.line, where.column,
                       where.text);
    int rc = 0;
    const char *key;
    json_t *v;
    if (!json_is_object(root))
        rc = err_set(err, ERR_TYPE, "%s: expected a JSON object of keys, found an array", name);
    json_object_foreach(root, key, v)
    {
        rc = set_member(c, key, v, name, err);
        if (rc) break;
    }
    json_decref(root);
    return rc;
}

static int read_config_file(struct config *c, const char *path, struct err *err)
{
    struct buf text = {0};
    int why = file_read(path, FILE_MAX_BYTES, &text), rc;
    if (why == EFBIG)
        rc = err_set(err, ERR_INVALID, "configuration file %s: longer than %zu bytes", path,
                     FILE_MAX_BYTES);
    else if (why)
        rc = err_set(err, ERR_IO, "configuration file %s: %s", path, file_why(why));
    else
        rc = config_parse_file(c, text.data ? text.data : "", text.len, path, err);
    buf_release(&text);
    return rc;
}

/* ---- environment ---- */

#define PREFIX "TTMD_"
#define PREFIX_LEN (sizeof PREFIX - 1)

/* Variables of that prefix that are not keys. */
static bool is_reserved(const char *name, size_t len)
{
    static const char *const names[] = {"TTMD_CONFIG", "TTMD_BLAS_REEXEC", "TTMD_BUILD"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == len && !strncmp(names[i], name, len)) return true;
    return !strncmp(name, "TTMD_TEST_", 10);
}

/* Does s[0..len) have a byte of lo..hi? */
static bool has_any(const char *s, size_t len, char lo, char hi)
{
    for (size_t i = 0; i < len; i++)
        if (s[i] >= lo && s[i] <= hi) return true;
    return false;
}

static int set_variable(struct config *c, const char *entry, struct err *err)
{
    size_t len = strcspn(entry, "=");
    if (strncmp(entry, PREFIX, PREFIX_LEN) || !entry[len] || is_reserved(entry, len)) return 0;
    const char *name = entry + PREFIX_LEN;
    size_t name_len = len - PREFIX_LEN;
    bool plain = !memchr(name, '-', name_len) && !has_any(name, name_len, 'a', 'z');
    const struct config_key *k = plain ? config_key_find(name, name_len, true) : NULL;
    struct buf what = {0};
    buf_printf(&what, "variable %.*s", len > 80 ? 80 : (int)len, entry);
    if (!strncmp(name, "SERVICE_", 8) || !strncmp(name, "PORT_", 5))
        buf_puts(&what, " (a Kubernetes service link? set enableServiceLinks: false)");
    int rc = k ? config_set_text(c, k, entry + len + 1, what.data, err)
               : unknown(what.data, name, name_len, config_key_variable, err);
    buf_release(&what);
    return rc;
}

static int set_variables(struct config *c, char **env, struct err *err)
{
    for (; env && *env; env++) {
        int rc = set_variable(c, *env, err);
        if (rc) return rc;
    }
    return 0;
}

static const char *variable(char **env, const char *name)
{
    size_t len = strlen(name);
    for (; env && *env; env++)
        if (!strncmp(*env, name, len) && (*env)[len] == '=') return *env + len + 1;
    return NULL;
}

const char *config_notify_socket(char **env)
{
    return variable(env, "NOTIFY_SOCKET");
}

/* ---- flags ---- */

struct flag {
    const char *arg;              /* as written, with the dashes */
    size_t arg_len;               /* without "=value" */
    const struct config_key *key; /* NULL: an action or --config */
    enum config_action action;    /* CONFIG_RUN: none */
    const char *value;            /* NULL: none */
};

static enum config_action action_named(const char *name, size_t len)
{
    for (const struct config_flag *f = config_flags; f < config_flags + config_n_flags; f++)
        if ((strlen(f->name) == len && !strncmp(f->name, name, len)) ||
            (f->letter && len == 2 && name[0] == '-' && name[1] == f->letter))
            return f->action;
    return CONFIG_RUN;
}

static int needs_value(const struct flag *f, struct err *err)
{
    struct buf expected = {0};
    if (f->key)
        config_key_expects(f->key, &expected);
    else
        buf_puts(&expected, "a file");
    err_set_param(err, ERR_INVALID, f->key ? f->key->name : "config", "flag %.*s needs a value: %s",
                  (int)f->arg_len, f->arg, expected.data);
    buf_release(&expected);
    return ERR_INVALID;
}

/* Which key a flag names; "--no-strict" is "--strict" with the value false. */
static int find_flag_key(struct flag *f, struct err *err)
{
    const char *name = f->arg + 2;
    size_t len = f->arg_len - 2;
    bool plain = !memchr(name, '_', len) && !has_any(name, len, 'A', 'Z');
    f->key = plain ? config_key_find(name, len, true) : NULL;
    if (f->key) return 0;
    if (len > 3 && !strncmp(name, "no-", 3) && !f->value) {
        f->key = config_key_find(name + 3, len - 3, true);
        f->value = "false";
        if (f->key && f->key->type == CONFIG_BOOL) return 0;
    }
    struct buf what = {0};
    buf_printf(&what, "flag %.*s", f->arg_len > 80 ? 80 : (int)f->arg_len, f->arg);
    int rc = unknown(what.data, name, len, config_key_flag, err);
    buf_release(&what);
    return rc;
}

/* Read the flag at argv[i]; returns the index behind it and its value, or a negative error. */
static int next_flag(int argc, char **argv, int i, struct flag *f, struct err *err)
{
    const char *arg = argv[i], *equals = strchr(arg, '=');
    *f = (struct flag){.arg = arg, .arg_len = equals ? (size_t)(equals - arg) : strlen(arg)};
    f->value = equals ? equals + 1 : NULL;
    f->action = action_named(arg, f->arg_len);
    if (f->action != CONFIG_RUN) {
        if (!f->value) return i + 1;
        return err_set(err, ERR_INVALID, "flag %.*s takes no value", (int)f->arg_len, arg);
    }
    if (strncmp(arg, "--", 2) || f->arg_len < 3)
        return err_set(err, ERR_INVALID, "unexpected argument \"%.80s\"; flags are --name value",
                       arg);
    bool is_config = f->arg_len == 8 && !strncmp(arg, "--config", 8);
    int rc = is_config ? 0 : find_flag_key(f, err);
    if (rc) return rc;
    if (!f->value && f->key && f->key->type == CONFIG_BOOL) f->value = "true";
    if (f->value) return i + 1;
    if (i + 1 >= argc || !strncmp(argv[i + 1], "--", 2)) return needs_value(f, err);
    f->value = argv[i + 1];
    return i + 2;
}

/* First walk: are all flags known, what do they ask for, which file. Later flags win, help first. */
static int scan_flags(int argc, char **argv, const char **file, enum config_action *action,
                      struct err *err)
{
    struct flag f;
    for (int i = 1; i < argc;) {
        i = next_flag(argc, argv, i, &f, err);
        if (i < 0) return i;
        if (f.action != CONFIG_RUN && *action != CONFIG_HELP)
            *action = f.action;
        else if (f.action == CONFIG_RUN && !f.key)
            *file = f.value;
    }
    return 0;
}

static int set_flags(struct config *c, int argc, char **argv, struct err *err)
{
    struct flag f;
    int rc = 0;
    for (int i = 1; i < argc && !rc;) {
        i = next_flag(argc, argv, i, &f, err);
        if (i < 0) return i;
        if (!f.key) continue;
        struct buf source = {0};
        buf_printf(&source, "flag %.*s", (int)f.arg_len, f.arg);
        rc = config_set_text(c, f.key, f.value, source.data, err);
        buf_release(&source);
    }
    return rc;
}

static int load_sources(struct config *c, int argc, char **argv, char **env, const char *file,
                        struct err *err)
{
    int rc = 0;
    if (!file) file = variable(env, "TTMD_CONFIG");
    if (file && *file) rc = read_config_file(c, file, err);
    if (!rc) rc = set_variables(c, env, err);
    if (!rc) rc = set_flags(c, argc, argv, err);
    return rc;
}

int config_load(struct config *out, int argc, char **argv, char **env, enum config_action *action,
                struct err *err)
{
    enum config_action wanted = CONFIG_RUN;
    const char *file = NULL;
    memset(out, 0, sizeof *out);
    int rc = scan_flags(argc, argv, &file, &wanted, err);
    if (rc) return rc;
    config_defaults(out);
    *action = wanted;
    if (wanted >= CONFIG_VERSION) return 0; /* a text, whatever the rest says */
    rc = load_sources(out, argc, argv, env, file, err);
    if (!rc && (wanted == CONFIG_RUN || wanted == CONFIG_CHECK) && !*out->model)
        rc = err_set_param(err, ERR_MISSING, "model",
                           "no model: give its directory with --model, TTMD_MODEL or key model");
    if (rc) config_release(out);
    return rc;
}
