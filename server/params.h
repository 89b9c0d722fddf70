#ifndef TTMD_SERVER_PARAMS_H
#define TTMD_SERVER_PARAMS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/gpt2/tokenizer.h"
#include "server/error.h"

/* What request bodies are checked against: facts of the model and limits of the configuration. */
struct param_env {
    const struct tokenizer *tokenizer;
    const char *model_id;
    size_t n_ctx;
    int32_t vocab;
    int32_t eos; /* -1 none */
    int64_t max_prompts, max_total_n, logprobs_max;
    bool strict; /* refuse unknown fields */
};

enum param_type { PARAM_BOOL, PARAM_INT, PARAM_NUMBER, PARAM_STRING, PARAM_CUSTOM };

/* One field of a request body. `offset` is that of a bool, int64_t, double or char * (owned copy). */
struct param {
    const char *name;
    enum param_type type;
    double min, max; /* INT and NUMBER, inclusive */
    bool above_min;  /* NUMBER: min itself is out of range */
    size_t offset;
    int (*parse)(const struct param *p, const json_t *v, void *out, const struct param_env *env,
                 struct api_error *e); /* CUSTOM */
};

/* params_parse -- check body against the table and store what is present; null counts as absent.
 * Integers may be written 1.0. Returns 0 or -1 with `e` set. */
int params_parse(const json_t *body, const struct param *table, size_t n, void *out,
                 const struct param_env *env, struct api_error *e);

/* param_int -- v as an integer (1.0 counts) in [min, max]. */
int param_int(const char *name, const json_t *v, int64_t min, int64_t max, int64_t *out,
              struct api_error *e);
const char *param_kind(const json_t *v); /* "a string", for messages */
/* param_text -- v as a C string, which holds no NUL: a name, not a text for the model, which may. NULL with `e` set
 * for anything else; `expected` is what for people, "a string". */
const char *param_text(const char *name, const json_t *v, const char *expected,
                       struct api_error *e);

/* param_ids -- a non-empty array of token ids, appended to *out. `name` may be "prompt[3]". */
int param_ids(const char *name, const json_t *v, const struct param_env *env, struct tokens *out,
              struct api_error *e);

/* Prompts of all four forms: string, [string], [int], [[int]]. Each is tokenised as it is, without any
 * token added; the literal text of special tokens becomes their id. */
struct prompts {
    struct tokens *list; /* (n) owned */
    size_t n;
};
int param_prompts(const char *name, const json_t *v, const struct param_env *env, bool allow_empty,
                  struct prompts *out, struct api_error *e);
void prompts_release(struct prompts *p);

int param_model(const struct param *p, const json_t *v, void *out, const struct param_env *env,
                struct api_error *e); /* 404 for another model; stores nothing */

/* model_named -- 0 when `asked` is the model that is served, else -1 with the 404. */
int model_named(const char *param, const char *asked, const char *served, struct api_error *e);

/* body_parse -- JSON text to a tree: refuses NUL bytes and nesting beyond 64 levels before the parser sees
 * them. Strings may hold NUL, written "\u0000": their length is json_string_length(). The result is an object;
 * NULL with `e` set otherwise. */
json_t *body_parse(const char *text, size_t len, struct api_error *e);

#endif
