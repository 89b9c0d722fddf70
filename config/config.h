#ifndef TTMD_CONFIG_H
#define TTMD_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"

/* ttmd's configuration: one table of keys that the file, the environment, the flags, --help,
 * --print-config and the README share. Precedence: defaults < file < environment < flags.
 * Key max_batch is file key "max_batch", variable TTMD_MAX_BATCH, flag --max-batch. */
struct config {
    char *model;     /* directory; owned */
    char *model_id;  /* name in the API; owned; "" = the directory's last component */
    char *host;      /* owned; "" or "*" = all addresses, IPv6 and IPv4 */
    int64_t port;    /* 0 = any free one (logged) */
    int64_t threads; /* 0 = automatic */
    int64_t max_batch, max_queue;
    double queue_timeout_s, request_timeout_s, drain_timeout_s, drain_delay_s;
    double upload_timeout_s, idle_timeout_s, write_timeout_s, ping_interval_s;
    int64_t max_body_bytes;
    int64_t max_buffered_bytes; /* of all bodies; no less than max_body_bytes is in force */
    int64_t max_prompts, max_total_n, logprobs_max;
    int64_t max_connections, max_connections_per_address;
    char *api_keys_file; /* "" = no keys are asked for; owned */
    bool metrics_open;   /* without a key */
    char *cors_origins;  /* "" = none; owned */
    char *tls_certificate_file, *tls_key_file, *tls_client_ca_file; /* "" = none; owned */
    char *dtype;    /* "auto", "f32", "bf16", "int8"; owned */
    char *kv_dtype; /* "auto", "f32", "f16", "int8"; owned */
    int64_t kv_cache_bytes;
    int64_t prefix_cache_bytes; /* of kv_cache_bytes; 0 = no prefix cache */
    int64_t speculative_tokens; /* 0 = no guesses */
    int64_t prefill_chunk_tokens;
    char *kernels;                /* "auto" or kernels_choose()'s name; owned */
    char *ttm_execution;          /* "auto", "contract", "rebuild", "resident"; owned */
    int64_t memory_budget_bytes;  /* 0 = TTM layers stay compressed */
    char *calibration_file;       /* "auto" = in the user's cache; "" = none; owned */
    bool ui;                      /* the page at / */
    bool strict;                  /* refuse unknown request fields */
    bool log_prompts;             /* log the text of prompts */
    char *log_level, *log_format; /* owned */
};

enum config_type { CONFIG_STRING, CONFIG_INT, CONFIG_NUMBER, CONFIG_BOOL };

struct config_key {
    const char *name; /* file key; '_' becomes '-' in the flag, TTMD_ + upper case in env */
    enum config_type type;
    size_t offset;       /* in struct config */
    const char *unit;    /* "tokens", "s", "bytes", "" */
    const char *initial; /* default, as text */
    double min, max;     /* INT and NUMBER, inclusive */
    const char *choices; /* STRING: "f32|f16", NULL = any */
    const char *help;    /* one sentence */
};
extern const struct config_key config_keys[];
extern const size_t config_n_keys;

enum config_action {
    CONFIG_RUN,
    CONFIG_CHECK,
    CONFIG_PRINT,
    CONFIG_HEALTHCHECK,
    CONFIG_VERSION, /* from here on texts that no setting changes */
    CONFIG_HELP,
    CONFIG_MARKDOWN,
    CONFIG_MAN,
    CONFIG_BASH
};

/* config_load -- defaults, then the file of --config or TTMD_CONFIG, then env, then argv.
 *
 *   out     released by config_release(); zeroed on failure
 *   env     "NAME=value" strings, NULL-terminated (environ); unknown TTMD_… names are errors
 *   action  what the flags ask for: run, --check-config, --print-config, --healthcheck, --version,
 *           --help, --help-markdown, --help-man, --help-bash
 *
 * Errors  ERR_INVALID, ERR_TYPE, ERR_IO naming the source (file, variable or flag), key, value and
 *         what was expected; ERR_MISSING when running or checking without a model.
 */
int config_load(struct config *out, int argc, char **argv, char **env, enum config_action *action,
                struct err *err);
void config_release(struct config *c);

/* config_notify_socket -- NOTIFY_SOCKET of env: where the service manager that started us listens;
 * NULL without one. Borrowed from env. */
const char *config_notify_socket(char **env);

/* config_parse_file -- apply a JSON object of keys (duplicate or unknown keys are errors; keys that
 * begin with "_" are comments). For config_load(), tests and the fuzzer. */
int config_parse_file(struct config *c, const char *json, size_t len, const char *name,
                      struct err *err);
void config_defaults(struct config *c);

void config_print(const struct config *c,
                  struct buf *out);    /* JSON, as config_parse_file reads it */
void config_help(struct buf *out);     /* the text of --help */
void config_markdown(struct buf *out); /* the README's table */
void config_man(struct buf *out);      /* ttmd(1), in roff */
void config_bash(struct buf *out);     /* completion for bash */

#endif
