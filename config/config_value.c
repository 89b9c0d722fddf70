/* Values: how a text becomes a field of struct config, and the checks that all sources share. Texts
 * of flags and variables are read strictly: a number with rubbish behind it is an error, never a
 * number. Byte counts take the suffixes KiB, MiB and GiB. Floats are never hexadecimal, NaN or infinite. */
#include "config/config_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"

void *config_field(const struct config *c, const struct config_key *k)
{
    return (char *)(uintptr_t)c + k->offset;
}

int config_bad_value(const struct config_key *k, int code, const char *shown, const char *source,
                     struct err *err)
{
    struct buf expected = {0};
    config_key_expects(k, &expected);
    const char *hint = strncmp(shown, "\"tcp://", 7) ? ""
                                                     : " (a Kubernetes service link? set "
                                                       "enableServiceLinks: false)";
    err_set_param(err, code, k->name, "%s: %.80s is not %s%s", source, shown, expected.data, hint);
    buf_release(&expected);
    return code;
}

static int bad_text(const struct config_key *k, const char *text, const char *source,
                    struct err *err)
{
    struct buf shown = {0};
    buf_printf(&shown, "\"%s\"", text);
    config_bad_value(k, ERR_INVALID, shown.data, source, err);
    buf_release(&shown);
    return ERR_INVALID;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t n = strlen(value);
    if (strchr(value, '|')) return false;
    for (const char *p = choices; p; p = strchr(p, '|')) {
        if (*p == '|') p++;
        if (n && !strncmp(p, value, n) && (p[n] == 0 || p[n] == '|')) return true;
    }
    return false;
}

int config_set_string(struct config *c, const struct config_key *k, const char *value,
                      const char *source, struct err *err)
{
    if (!utf8_valid(value, strlen(value)) || (k->choices && !is_choice(k->choices, value)))
        return bad_text(k, value, source, err);
    char **field = config_field(c, k);
    char *copy = mem_strdup(value);
    free(*field);
    *field = copy;
    return 0;
}

int config_set_number(struct config *c, const struct config_key *k, double value, const char *shown,
                      const char *source, struct err *err)
{
    if (!(value >= k->min && value <= k->max))
        return config_bad_value(k, ERR_INVALID, shown, source, err);
    *(double *)config_field(c, k) = value;
    return 0;
}

int config_set_int(struct config *c, const struct config_key *k, int64_t value, const char *shown,
                   const char *source, struct err *err)
{
    if (value < (int64_t)k->min || value > (int64_t)k->max)
        return config_bad_value(k, ERR_INVALID, shown, source, err);
    *(int64_t *)config_field(c, k) = value;
    return 0;
}

void config_set_bool(struct config *c, const struct config_key *k, bool value)
{
    *(bool *)config_field(c, k) = value;
}

static bool parse_bool(const char *text, bool *out)
{
    static const char *const words[2][4] = {{"false", "0", "no", "off"},
                                            {"true", "1", "yes", "on"}};
    for (int v = 0; v < 2; v++)
        for (int i = 0; i < 4; i++)
            if (!strcmp(words[v][i], text)) {
                *out = v;
                return true;
            }
    return false;
}

static bool parse_int(const char *text, bool bytes, int64_t *out)
{
    static const char *const suffixes[] = {"", "KiB", "MiB", "GiB"};
    char *end;
    if (!strchr("+-0123456789", *text) || !*text) return false;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text) return false;
    for (int i = 0; i < (bytes ? 4 : 1); i++)
        if (!strcmp(end, suffixes[i])) return !__builtin_mul_overflow(v, 1ll << 10 * i, out);
    return false;
}

static bool parse_number(const char *text, double *out)
{
    char *end;
    if (!*text || text[strspn(text, "+-.0123456789eE")]) return false;
    *out = strtod(text, &end);
    return end != text && !*end;
}

int config_set_text(struct config *c, const struct config_key *k, const char *text,
                    const char *source, struct err *err)
{
    int64_t i;
    double d;
    bool b;
    switch (k->type) {
    case CONFIG_STRING:
        return config_set_string(c, k, text, source, err);
    case CONFIG_INT:
        if (!parse_int(text, !strcmp(k->unit, "bytes"), &i)) break;
        return config_set_int(c, k, i, text, source, err);
    case CONFIG_NUMBER:
        if (!parse_number(text, &d)) break;
        return config_set_number(c, k, d, text, source, err);
    case CONFIG_BOOL:
        if (!parse_bool(text, &b)) break;
        config_set_bool(c, k, b);
        return 0;
    }
    return bad_text(k, text, source, err);
}

void config_defaults(struct config *c)
{
    memset(c, 0, sizeof *c);
    for (const struct config_key *k = config_keys; k < config_keys + config_n_keys; k++) {
        struct err e = {0};
        if (config_set_text(c, k, k->initial, "default", &e)) BUG("%s: %s", k->name, e.msg);
    }
}

void config_release(struct config *c)
{
    for (const struct config_key *k = config_keys; k < config_keys + config_n_keys; k++)
        if (k->type == CONFIG_STRING) free(*(char **)config_field(c, k));
    memset(c, 0, sizeof *c);
}
