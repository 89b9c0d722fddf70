/* config.json: one table of integer keys and one of switches, then the few keys with rules of their
 * own. Hugging Face ignores what it does not know, and so do we: published files carry dozens of keys
 * for training and generation. What we know but cannot honour is refused by name, because a model
 * that runs with another formula than it was trained with gives plausible nonsense.
 *
 * Sizes are only bounded here (1..2^24); whether they are true is checked against the shapes of the
 * tensors before anything is allocated by them. */
#include "engine/gpt2/gpt2_config.h"

#include <jansson.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/gpt2/dir_file.h"

#define MAX_SIZE (1 << 24)
#define MAX_FILE_BYTES (1 << 20)

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null";
}

/* A size in 1..2^24; `fallback` > 0 stands for null or absent, 0 makes the key required. */
static int get_size(const json_t *o, const char *key, int fallback, int *out, const char *name,
                    struct err *err)
{
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) {
        if (fallback <= 0)
            return err_set_param(err, ERR_MISSING, key, "%s: key \"%s\" is missing", name, key);
        *out = fallback;
        return 0;
    }
    if (!json_is_integer(v))
        return err_set_param(err, ERR_TYPE, key, "%s: \"%s\" is %s, expected an integer", name, key,
                             type_name(v));
    json_int_t i = json_integer_value(v);
    if (i < 1 || i > MAX_SIZE)
        return err_set_param(err, ERR_INVALID, key, "%s: \"%s\" is %lld, expected 1..%d", name, key,
                             (long long)i, MAX_SIZE);
    *out = (int)i;
    return 0;
}

static int get_bool(const json_t *o, const char *key, bool fallback, bool *out, const char *name,
                    struct err *err)
{
    const json_t *v = json_object_get(o, key);
    *out = fallback;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_boolean(v))
        return err_set_param(err, ERR_TYPE, key, "%s: \"%s\" is %s, expected true or false", name,
                             key, type_name(v));
    *out = json_is_true(v);
    return 0;
}

/* A special token that the vocabulary does not hold can never be sampled: same as none. */
static int get_token(const json_t *o, const char *key, int vocab, int32_t *out, const char *name,
                     struct err *err)
{
    const json_t *v = json_object_get(o, key);
    *out = -1;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_integer(v))
        return err_set_param(err, ERR_TYPE, key, "%s: \"%s\" is %s, expected an integer or null",
                             name, key, type_name(v));
    json_int_t i = json_integer_value(v);
    if (i >= 0 && i < vocab) *out = (int32_t)i;
    return 0;
}

static int get_string(const json_t *o, const char *key, const char **out, const char *name,
                      struct err *err)
{
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v)) return 0;
    if (!json_is_string(v))
        return err_set_param(err, ERR_TYPE, key, "%s: \"%s\" is %s, expected a string", name, key,
                             type_name(v));
    *out = json_string_value(v);
    return 0;
}

static int get_activation(const json_t *o, enum act *out, const char *name, struct err *err)
{
    static const struct {
        const char *name;
        enum act act;
    } known[] = {{"gelu_new", ACT_GELU_NEW},
                 {"gelu_pytorch_tanh", ACT_GELU_NEW},
                 {"gelu", ACT_GELU_ERF},
                 {"relu", ACT_RELU}};
    const char *key = "activation_function", *s = "gelu_new";
    int rc = get_string(o, key, &s, name, err);
    if (rc) return rc;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(s, known[i].name) == 0) {
            *out = known[i].act;
            return 0;
        }
    }
    return err_set_param(err, ERR_UNSUPPORTED, key,
                         "%s: \"%s\" is \"%.60s\", expected gelu_new, gelu_pytorch_tanh, gelu or "
                         "relu",
                         name, key, s);
}

static int get_epsilon(const json_t *o, float *out, const char *name, struct err *err)
{
    const char *key = "layer_norm_epsilon";
    const json_t *v = json_object_get(o, key);
    *out = 1e-5f;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_number(v))
        return err_set_param(err, ERR_TYPE, key, "%s: \"%s\" is %s, expected a number", name, key,
                             type_name(v));
    double d = json_number_value(v);
    if (!(d >= 1e-20 && d < 1))
        return err_set_param(err, ERR_INVALID, key, "%s: \"%s\" is %g, expected 1e-20..1", name,
                             key, d);
    *out = (float)d;
    return 0;
}

/* Keys that would change the formula in ways that are not implemented. */
static int check_refused(const json_t *o, const char *name, struct err *err)
{
    const char *type = "gpt2";
    int rc = get_string(o, "model_type", &type, name, err);
    if (rc) return rc;
    if (strcmp(type, "gpt2") != 0)
        return err_set_param(err, ERR_UNSUPPORTED, "model_type",
                             "%s: \"model_type\" is \"%.60s\", expected \"gpt2\"", name, type);
    bool cross;
    rc = get_bool(o, "add_cross_attention", false, &cross, name, err);
    if (rc) return rc;
    if (cross)
        return err_set_param(err, ERR_UNSUPPORTED, "add_cross_attention",
                             "%s: \"add_cross_attention\" is true, expected false", name);
    return 0;
}

static int get_sizes(const json_t *o, struct gpt2_config *c, const char *name, struct err *err)
{
    const json_t *pos = json_object_get(o, "n_positions");
    const char *positions = pos && !json_is_null(pos) ? "n_positions" : "n_ctx";
    if (!json_object_get(o, positions)) positions = "n_positions";
    int rc = 0;
    if (!rc) rc = get_size(o, "n_layer", 0, &c->n_layer, name, err);
    if (!rc) rc = get_size(o, "n_head", 0, &c->n_head, name, err);
    if (!rc) rc = get_size(o, "n_embd", 0, &c->n_embd, name, err);
    if (!rc) rc = get_size(o, positions, 0, &c->n_positions, name, err);
    if (!rc) rc = get_size(o, "vocab_size", 0, &c->vocab_size, name, err);
    if (!rc) rc = get_size(o, "n_inner", 4 * c->n_embd, &c->n_inner, name, err);
    if (rc) return rc;
    if (c->n_embd % c->n_head != 0)
        return err_set_param(err, ERR_INVALID, "n_embd",
                             "%s: \"n_embd\" is %d, expected a multiple of \"n_head\" %d", name,
                             c->n_embd, c->n_head);
    return 0;
}

static int parse_object(struct gpt2_config *c, const json_t *o, const char *name, struct err *err)
{
    int rc = check_refused(o, name, err);
    if (!rc) rc = get_sizes(o, c, name, err);
    if (!rc) rc = get_epsilon(o, &c->layer_norm_epsilon, name, err);
    if (!rc) rc = get_activation(o, &c->activation, name, err);
    if (!rc) rc = get_bool(o, "scale_attn_weights", true, &c->scale_attn_weights, name, err);
    if (!rc)
        rc = get_bool(o, "scale_attn_by_inverse_layer_idx", false,
                      &c->scale_attn_by_inverse_layer_idx, name, err);
    if (!rc) rc = get_bool(o, "tie_word_embeddings", true, &c->tie_word_embeddings, name, err);
    if (!rc) rc = get_token(o, "bos_token_id", c->vocab_size, &c->bos_token_id, name, err);
    if (!rc) rc = get_token(o, "eos_token_id", c->vocab_size, &c->eos_token_id, name, err);
    return rc;
}

int gpt2_config_parse(struct gpt2_config *out, const char *json, size_t len, const char *name,
                      struct err *err)
{
    json_error_t je;
    json_t *o = json_loadb(json, len, JSON_REJECT_DUPLICATES, &je);
    if (!o)
        return err_set(err, ERR_INVALID, "%s: not valid JSON: line %d: %s", name, je.line, je.text);
    struct gpt2_config c = {0};
    int rc;
    if (!json_is_object(o))
        rc = err_set(err, ERR_TYPE, "%s: holds %s, expected an object", name, type_name(o));
    else
        rc = parse_object(&c, o, name, err);
    json_decref(o);
    if (!rc) *out = c;
    return rc;
}

int gpt2_config_load(struct gpt2_config *out, const char *dir, struct err *err)
{
    struct buf text = {0}, path = {0};
    buf_printf(&path, "%s/config.json", dir);
    int rc = dir_file_text(&text, dir, "config.json", MAX_FILE_BYTES, err);
    if (!rc) rc = gpt2_config_parse(out, text.data ? text.data : "", text.len, path.data, err);
    buf_release(&text);
    buf_release(&path);
    return rc;
}
