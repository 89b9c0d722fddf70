/* One flag parser for all subcommands. getopt_long would want a second table for values, ranges and
 * help, keeps static state, and prints messages of its own; here one table says it all and every
 * error is one line that names the flag, the value and what was expected. */
#include "models/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "models/options_man.h"

static int refuse(const struct option *op, const char *value, const char *expected, struct err *err)
{
    return err_set_param(err, ERR_INVALID, op->name, "--%s: \"%.80s\" is not %s", op->name, value,
                         expected);
}

static int refuse_range(const struct option *op, const char *value, struct err *err)
{
    return err_set_param(err, ERR_INVALID, op->name, "--%s: %.80s is outside %.15g..%.15g",
                         op->name, value, op->min, op->max);
}

static int store_int(const struct option *op, int64_t *field, const char *value, struct err *err)
{
    char *end;
    errno = 0;
    long long v = strtoll(value, &end, 10);
    if (end == value || *end) return refuse(op, value, "a whole number", err);
    if (errno || (double)v < op->min || (double)v > op->max) return refuse_range(op, value, err);
    *field = v;
    return 0;
}

static int store_number(const struct option *op, double *field, const char *value, struct err *err)
{
    char *end;
    double v = strtod(value, &end);
    if (end == value || *end || !isfinite(v)) return refuse(op, value, "a number", err);
    if (v < op->min || v > op->max) return refuse_range(op, value, err);
    *field = v;
    return 0;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t n = strlen(value);
    for (const char *c = choices; n > 0;) {
        size_t len = strcspn(c, "|");
        if (len == n && memcmp(c, value, n) == 0) return true;
        if (!c[len]) break;
        c += len + 1;
    }
    return false;
}

static int store_string(const struct option *op, const char **field, const char *value,
                        struct err *err)
{
    if (op->choices && !is_choice(op->choices, value))
        return err_set_param(err, ERR_INVALID, op->name, "--%s: \"%.80s\" is not one of %s",
                             op->name, value, op->choices);
    *field = value;
    return 0;
}

static int store_list(const struct option *op, struct option_list *field, const char *value,
                      struct err *err)
{
    if (!*value) return refuse(op, value, "a text of at least one byte", err);
    if (field->n == OPTION_LIST_MAX)
        return err_set_param(err, ERR_INVALID, op->name, "--%s is given more than %d times",
                             op->name, OPTION_LIST_MAX);
    field->items[field->n++] = value;
    return 0;
}

static int store(const struct option *op, void *out, const char *value, struct err *err)
{
    void *field = (char *)out + op->offset;
    switch (op->type) {
    case OPTION_INT:
        return store_int(op, field, value, err);
    case OPTION_NUMBER:
        return store_number(op, field, value, err);
    case OPTION_STRING:
        return store_string(op, field, value, err);
    case OPTION_LIST:
        return store_list(op, field, value, err);
    case OPTION_BOOL:
        break;
    }
    *(bool *)field = true;
    return 0;
}

/* The option that a word names, and where the value after '=' begins (NULL without one). */
static const struct option *find(const struct options *o, const char *word, const char **value)
{
    *value = NULL;
    for (size_t i = 0; i < o->n; i++) {
        const struct option *op = &o->table[i];
        if (op->letter && word[1] == op->letter && !word[2]) return op;
        size_t len = strlen(op->name);
        if (strncmp(word, "--", 2) != 0 || strncmp(word + 2, op->name, len) != 0) continue;
        if (word[2 + len] == '=') *value = word + 3 + len;
        if (!word[2 + len] || *value) return op;
    }
    return NULL;
}

static int parse_flag(const struct options *o, void *out, int argc, char **argv, int *at,
                      struct err *err)
{
    const char *word = argv[*at];
    const char *value;
    const struct option *op = find(o, word, &value);
    if (!op)
        return err_set(err, ERR_INVALID, "unknown flag %.*s; see ttm %s --help",
                       (int)(strcspn(word, "=") < 64 ? strcspn(word, "=") : 64), word, o->command);
    if (op->type == OPTION_BOOL) {
        if (value)
            return err_set_param(err, ERR_INVALID, op->name, "--%s takes no value", op->name);
        return store(op, out, "", err);
    }
    if (!value && *at + 1 == argc)
        return err_set_param(err, ERR_INVALID, op->name, "--%s needs a value: %s", op->name,
                             op->value);
    return store(op, out, value ? value : argv[++*at], err);
}

int options_parse(const struct options *o, void *out, const char **args, int argc, char **argv,
                  FILE *help, struct err *err)
{
    int n = 0;
    bool flags = true;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (flags && (!strcmp(word, "--help") || !strcmp(word, "-h"))) {
            options_help(o, help);
            return OPTIONS_HELP;
        }
        if (argc <= 2 && !strcmp(word, OPTIONS_MAN_WORD)) {
            options_man(o, help);
            return OPTIONS_HELP;
        }
        if (argc <= 2 && !strcmp(word, OPTIONS_BASH_WORD)) {
            options_bash(o, help);
            return OPTIONS_HELP;
        }
        if (flags && !strcmp(word, "--")) {
            flags = false;
            continue;
        }
        if (flags && word[0] == '-' && word[1]) {
            int rc = parse_flag(o, out, argc, argv, &i, err);
            if (rc) return rc;
            continue;
        }
        if (n == o->n_arguments)
            return err_set(err, ERR_INVALID,
                           "unexpected argument \"%.80s\"; usage: ttm %s %s [flags]", word,
                           o->command, o->arguments);
        args[n++] = word;
    }
    if (n < o->n_arguments)
        return err_set(err, ERR_MISSING, "an argument is missing; usage: ttm %s %s [flags]",
                       o->command, o->arguments);
    return OPTIONS_RUN;
}

void options_help(const struct options *o, FILE *f)
{
    fprintf(f, "usage: ttm %s%s%s [flags]\n\n%s\n\nflags:\n", o->command, *o->arguments ? " " : "",
            o->arguments, o->about);
    for (size_t i = 0; i < o->n; i++) {
        const struct option *op = &o->table[i];
        char left[80];
        const char *value = op->choices ? op->choices : op->value ? op->value : "";
        int n = snprintf(left, sizeof left, "--%s%s%s", op->name, *value ? " " : "", value);
        if (op->letter && n > 0 && (size_t)n < sizeof left)
            snprintf(left + n, sizeof left - (size_t)n, ", -%c", op->letter);
        fprintf(f, strlen(left) > 30 ? "  %s\n  %-30s  %s\n" : "  %-30s%.0s  %s\n", left, "",
                op->help);
    }
    fprintf(f, "  %-30s  %s\n", "--help, -h", "this text");
}
