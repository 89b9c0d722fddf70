#ifndef TTMD_MODELS_OPTIONS_H
#define TTMD_MODELS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/err.h"

/* Flags of a subcommand: a table that the parser and --help share. Values go to the fields of the
 * command's own struct; the defaults are what the fields hold before. */
enum option_type {
    OPTION_BOOL,   /* bool; --name alone */
    OPTION_INT,    /* int64_t */
    OPTION_NUMBER, /* double, finite */
    OPTION_STRING, /* const char *, borrowed from argv */
    OPTION_LIST,   /* struct option_list; may be given several times */
};

enum { OPTION_LIST_MAX = 16 };
struct option_list {
    const char *items[OPTION_LIST_MAX]; /* borrowed from argv */
    size_t n;
};

struct option {
    const char *name; /* without the dashes */
    char letter;      /* of the short form, 0 = none */
    enum option_type type;
    size_t offset;       /* of the field */
    const char *value;   /* what --help shows for the value: "N", "DIR"; NULL for BOOL */
    double min, max;     /* INT and NUMBER, inclusive */
    const char *choices; /* STRING: "none|bos"; NULL = any */
    const char *help;    /* one line, with the default */
};

struct options {
    const char *command;   /* "generate" */
    const char *arguments; /* of the usage line: "DIR", or "" */
    int n_arguments;       /* so many, exactly */
    const char *about;     /* one or more lines for --help */
    const struct option *table;
    size_t n;
};

enum options_result { OPTIONS_RUN = 0, OPTIONS_HELP = 1 };

/* options_parse -- read a subcommand's words.
 *
 *   out   the command's struct; strings in it point into argv
 *   args  (n_arguments) the words that are no flags
 *
 * Takes --name value, --name=value, -x value, and -- before arguments that begin with a dash.
 * Returns OPTIONS_RUN, or OPTIONS_HELP after --help was written to `help`.
 * Errors  ERR_INVALID naming flag, value and what was expected; *out may be half filled.
 */
int options_parse(const struct options *o, void *out, const char **args, int argc, char **argv,
                  FILE *help, struct err *err);

void options_help(const struct options *o, FILE *f);

/* The flag of commands that load a model: names of gpt2_dtype_parse(). */
#define DTYPE_OPTION(offset)                                                  \
    {                                                                         \
        "dtype", 0, OPTION_STRING, (offset), "T", 0, 0, "auto|f32|bf16|int8", \
            "number format of the weights (default auto: as they are stored)" \
    }

#endif
