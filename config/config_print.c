/* The table in the forms that people read: JSON that can be loaded again, the text of --help, and the
 * README's table. Numbers are printed with as few digits as give the same double back. */
#include "config/config_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_json_string(struct buf *out, const char *s)
{
    json_t *v = json_string(s);
    char *text = v ? json_dumps(v, JSON_ENCODE_ANY) : NULL;
    if (!text) BUG("a configuration text that is not UTF-8");
    buf_puts(out, text);
    free(text);
    json_decref(v);
}

static void put_number(struct buf *out, double v)
{
    char text[40];
    if (v == (double)(int64_t)v) { /* keys' ranges are far below 2^63 */
        buf_printf(out, "%lld", (long long)v);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    buf_puts(out, text);
}

static void put_value(const struct config *c, const struct config_key *k, struct buf *out)
{
    const void *field = config_field(c, k);
    switch (k->type) {
    case CONFIG_STRING:
        put_json_string(out, *(char *const *)field);
        return;
    case CONFIG_INT:
        buf_printf(out, "%lld", (long long)*(const int64_t *)field);
        return;
    case CONFIG_NUMBER:
        put_number(out, *(const double *)field);
        return;
    case CONFIG_BOOL:
        buf_puts(out, *(const bool *)field ? "true" : "false");
        return;
    }
}

void config_print(const struct config *c, struct buf *out)
{
    for (size_t i = 0; i < config_n_keys; i++) {
        buf_printf(out, "%s    \"%s\": ", i ? ",\n" : "{\n", config_keys[i].name);
        put_value(c, &config_keys[i], out);
    }
    buf_puts(out, "\n}\n");
}

/* Words of s, broken into lines of at most `width`, each after the first indented. */
static void put_wrapped(struct buf *out, const char *s, size_t indent, size_t width)
{
    size_t column = 0;
    while (*s) {
        size_t n = strcspn(s, " ");
        if (column && column + 1 + n > width) {
            buf_printf(out, "\n%*s", (int)indent, "");
            column = 0;
        }
        if (column) buf_putc(out, ' ');
        column += n + (column != 0);
        buf_append(out, s, n);
        s += n + (s[n] == ' ');
    }
    buf_putc(out, '\n');
}

#define HELP_INDENT 34
#define HELP_WIDTH 64

const char *config_key_placeholder(const struct config_key *k)
{
    if (!strcmp(k->name, "model")) return "DIR";
    if (k->type == CONFIG_STRING) return k->choices ? k->choices : "TEXT";
    return !strcmp(k->unit, "s") ? "SECONDS" : !strcmp(k->unit, "bytes") ? "BYTES" : "N";
}

/* A flag and what it is for, one beside the other where there is room. */
static void put_entry(const struct buf *left, const char *help, struct buf *out)
{
    if (left->len + 2 <= HELP_INDENT)
        buf_printf(out, "%-*s", HELP_INDENT, left->data);
    else
        buf_printf(out, "%s\n%*s", left->data, HELP_INDENT, "");
    put_wrapped(out, help, HELP_INDENT, HELP_WIDTH);
}

static void put_flag_help(const struct config_flag *f, struct buf *out)
{
    struct buf left = {0};
    buf_puts(&left, "  ");
    if (f->letter) buf_printf(&left, "-%c, ", f->letter);
    buf_puts(&left, f->name);
    if (f->value) buf_printf(&left, " %s", f->value);
    put_entry(&left, f->help, out);
    buf_release(&left);
}

static void put_key_help(const struct config_key *k, struct buf *out)
{
    struct buf left = {0}, text = {0};
    buf_puts(&left, "  ");
    config_key_flag(k, &left);
    if (k->type != CONFIG_BOOL) buf_printf(&left, " %s", config_key_placeholder(k));
    buf_printf(&text, "%s", k->help);
    if (*k->initial) buf_printf(&text, " [%s]", k->initial);
    put_entry(&left, text.data, out);
    buf_release(&left);
    buf_release(&text);
}

void config_help(struct buf *out)
{
    buf_puts(out,
             "Usage: ttmd --model DIR [--flag value | --flag=value]...\n"
             "Serve a GPT-2 model over HTTP.\n\n");
    for (size_t i = 0; i < config_n_flags; i++)
        put_flag_help(&config_flags[i], out);
    buf_putc(out, '\n');
    for (size_t i = 0; i < config_n_keys; i++)
        put_key_help(&config_keys[i], out);
    buf_puts(
        out,
        "\nFlag --max-batch is also key max_batch of the file and variable TTMD_MAX_BATCH.\n"
        "Flags win over variables, these over the file (--config or TTMD_CONFIG), that over\n"
        "the defaults in brackets. Bytes take the suffixes KiB, MiB and GiB; a switch such as\n"
        "--strict is undone by --no-strict or --strict=false.\n");
}

static void put_allowed(const struct config_key *k, struct buf *out)
{
    switch (k->type) {
    case CONFIG_STRING:
        for (const char *s = k->choices ? k->choices : "text"; *s; s++) {
            if (*s == '|')
                buf_puts(out, ", ");
            else
                buf_putc(out, *s);
        }
        return;
    case CONFIG_INT:
    case CONFIG_NUMBER:
        put_number(out, k->min);
        buf_puts(out, " to ");
        if (k->type == CONFIG_INT)
            buf_printf(out, "%.0f", k->max);
        else
            put_number(out, k->max);
        if (*k->unit) buf_printf(out, " %s", k->unit);
        return;
    case CONFIG_BOOL:
        buf_puts(out, "true, false");
        return;
    }
}

void config_markdown(struct buf *out)
{
    buf_puts(out, "| key | default | values | meaning |\n|---|---|---|---|\n");
    for (const struct config_key *k = config_keys; k < config_keys + config_n_keys; k++) {
        buf_printf(out, "| `%s` | %s%s%s | ", k->name, *k->initial ? "`" : "", k->initial,
                   *k->initial ? "`" : "");
        put_allowed(k, out);
        buf_printf(out, " | %s |\n", k->help);
    }
}
