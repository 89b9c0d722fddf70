#ifndef TTMD_CONFIG_INTERNAL_H
#define TTMD_CONFIG_INTERNAL_H

#include "config/config.h"

/* What the files of config/ share; nobody else includes it. */

/* config_key_find -- the key of that name, where '-' and '_', upper and lower case are the same as
 * `fold` says; NULL if there is none. name need not be terminated. */
const struct config_key *config_key_find(const char *name, size_t len, bool fold);

/* config_key_nearest -- the key whose name is most like `name`; NULL when none is alike. */
const struct config_key *config_key_nearest(const char *name, size_t len);

/* config_key_flag, config_key_variable -- "--max-batch", "TTMD_MAX_BATCH" appended to out. */
void config_key_flag(const struct config_key *k, struct buf *out);
void config_key_variable(const struct config_key *k, struct buf *out);

/* config_key_expects -- "an integer from 0 to 65535", "f32 or f16" appended to out. */
void config_key_expects(const struct config_key *k, struct buf *out);

/* Flags that are no keys, of which parser, help, manual page and completion know from here. */
struct config_flag {
    const char *name;          /* "--help" */
    char letter;               /* 0: none */
    const char *value;         /* NULL: takes none */
    enum config_action action; /* CONFIG_RUN: none, it is read elsewhere */
    bool hidden;               /* for the build: not in manual page and completion */
    const char *help;          /* a sentence */
};
extern const struct config_flag config_flags[];
extern const size_t config_n_flags;

/* config_key_placeholder -- what help shows for the value: "DIR", "f32|f16", "SECONDS". */
const char *config_key_placeholder(const struct config_key *k);

/* config_set_text -- give key k the value written as text.
 *
 *   source  for messages: "flag --port", "variable TTMD_PORT"
 *
 * Errors  ERR_INVALID naming source, value and what was expected; c untouched.
 */
int config_set_text(struct config *c, const struct config_key *k, const char *text,
                    const char *source, struct err *err);

/* The typed setters behind it; `shown` is the value as the user wrote it. */
int config_set_string(struct config *c, const struct config_key *k, const char *value,
                      const char *source, struct err *err);
int config_set_number(struct config *c, const struct config_key *k, double value, const char *shown,
                      const char *source, struct err *err);
int config_set_int(struct config *c, const struct config_key *k, int64_t value, const char *shown,
                   const char *source, struct err *err);
void config_set_bool(struct config *c, const struct config_key *k, bool value);

/* config_bad_value -- the error for a value that key k does not take. */
int config_bad_value(const struct config_key *k, int code, const char *shown, const char *source,
                     struct err *err);

/* config_field -- where key k's value lives in c. */
void *config_field(const struct config *c, const struct config_key *k);

#endif
