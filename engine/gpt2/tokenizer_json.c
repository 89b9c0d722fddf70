/* tokenizer.json of Hugging Face's tokenizers. The format describes many kinds of tokenizers; this
 * reader accepts what means GPT-2's byte-level BPE and refuses, by name, every setting that would
 * give other ids than the ones computed here. Settings that concern training or batching only
 * (truncation, padding, trim_offsets) are not looked at.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/tokenizer_spec.h"

struct reader {
    const char *name;
    struct tokenizer_spec *spec;
    struct err *err;
};

static const char *type_name(const json_t *v)
{
    static const char *const names[] = {"an object", "an array", "a string", "an integer",
                                        "a real",    "true",     "false",    "null"};
    return v ? names[json_typeof(v)] : "missing";
}

static int wrong_type(struct reader *r, const char *key, const json_t *found, const char *expected)
{
    return err_set(r->err, found ? ERR_TYPE : ERR_MISSING, "%s: %s is %s, expected %s", r->name,
                   key, type_name(found), expected);
}

static bool is_null(const json_t *v)
{
    return !v || json_is_null(v);
}

static struct span string_span(const json_t *v)
{
    return (struct span){json_string_value(v), json_string_length(v)};
}

/* An optional boolean. */
static int read_bool(struct reader *r, const json_t *obj, const char *key, const char *path,
                     bool missing, bool *out)
{
    const json_t *v = json_object_get(obj, key);
    *out = is_null(v) ? missing : json_is_true(v);
    return is_null(v) || json_is_boolean(v) ? 0 : wrong_type(r, path, v, "true or false");
}

/* ---- the stages around the model ---- */

/* A stage of the pipeline: null, an object with a type, or a Sequence of such under list_key. A
 * Sequence of one is that one; *out is NULL for null and for an empty Sequence. */
static int read_stage(struct reader *r, const json_t *root, const char *key, const char *list_key,
                      const json_t **out)
{
    const json_t *v = json_object_get(root, key);
    *out = NULL;
    if (is_null(v)) return 0;
    if (!json_is_object(v)) return wrong_type(r, key, v, "an object or null");
    const char *type = json_string_value(json_object_get(v, "type"));
    if (type && strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(v, list_key);
        if (!json_is_array(list)) return wrong_type(r, list_key, list, "an array");
        if (json_array_size(list) > 1)
            return err_set(r->err, ERR_UNSUPPORTED,
                           "%s: %s is a Sequence of %zu, expected one ByteLevel", r->name, key,
                           json_array_size(list));
        v = json_array_get(list, 0);
        if (!v) return 0;
        if (!json_is_object(v)) return wrong_type(r, list_key, v, "an array of objects");
    }
    *out = v;
    return 0;
}

static int expect_byte_level(struct reader *r, const char *key, const json_t *stage)
{
    const json_t *type = json_object_get(stage, "type");
    if (!json_is_string(type)) return wrong_type(r, key, type, "an object with a type");
    if (strcmp(json_string_value(type), "ByteLevel") == 0) return 0;
    return err_set(r->err, ERR_UNSUPPORTED, "%s: %s.type is \"%.48s\", expected \"ByteLevel\"",
                   r->name, key, json_string_value(type));
}

static int read_pre_tokenizer(struct reader *r, const json_t *root)
{
    const json_t *stage;
    int rc = read_stage(r, root, "pre_tokenizer", "pretokenizers", &stage);
    if (rc) return rc;
    if (!stage)
        return err_set(r->err, ERR_UNSUPPORTED,
                       "%s: pre_tokenizer is null, expected type \"ByteLevel\"", r->name);
    bool use_regex = true;
    rc = expect_byte_level(r, "pre_tokenizer", stage);
    if (rc == 0)
        rc = read_bool(r, stage, "add_prefix_space", "pre_tokenizer.add_prefix_space", true,
                       &r->spec->prefix_space);
    if (rc == 0) rc = read_bool(r, stage, "use_regex", "pre_tokenizer.use_regex", true, &use_regex);
    if (rc == 0 && !use_regex)
        rc = err_set(r->err, ERR_UNSUPPORTED, "%s: pre_tokenizer.use_regex is false, expected true",
                     r->name);
    return rc;
}

/* A TemplateProcessing that puts nothing around the text is as good as none. */
static bool template_is_plain(const json_t *stage)
{
    const json_t *single = json_object_get(stage, "single");
    return json_is_array(single) && json_array_size(single) == 1 &&
           json_object_get(json_array_get(single, 0), "Sequence");
}

static int read_stages(struct reader *r, const json_t *root)
{
    const json_t *stage;
    int rc = read_stage(r, root, "normalizer", "normalizers", &stage);
    if (rc) return rc;
    if (stage) {
        const char *type = json_string_value(json_object_get(stage, "type"));
        return err_set(r->err, ERR_UNSUPPORTED,
                       "%s: normalizer.type is \"%.48s\", expected no normalizer", r->name,
                       type ? type : "");
    }
    rc = read_pre_tokenizer(r, root);
    if (rc == 0) rc = read_stage(r, root, "decoder", "decoders", &stage);
    if (rc == 0 && stage) rc = expect_byte_level(r, "decoder", stage);
    if (rc == 0) rc = read_stage(r, root, "post_processor", "processors", &stage);
    if (rc == 0 && stage && !template_is_plain(stage))
        rc = expect_byte_level(r, "post_processor", stage);
    return rc;
}

/* ---- the model ---- */

int tokenizer_spec_vocab(struct tokenizer_spec *s, const struct json_t *vocab, const char *file,
                         const char *key, bool added, struct err *err)
{
    struct reader r = {.name = file, .spec = s, .err = err};
    if (!json_is_object(vocab)) return wrong_type(&r, key, vocab, "an object of ids by token");
    void *it = json_object_iter((json_t *)vocab);
    for (; it; it = json_object_iter_next((json_t *)vocab, it)) {
        const char *token = json_object_iter_key(it);
        const json_t *id = json_object_iter_value(it);
        if (!json_is_integer(id))
            return err_set(err, ERR_TYPE, "%s: %s[\"%.48s\"] is %s, expected an id", file, key,
                           token, type_name(id));
        json_int_t n = json_integer_value(id);
        if (n < 0 || n >= TOKENIZER_MAX_ID)
            return err_set(err, ERR_INVALID,
                           "%s: %s[\"%.48s\"] is %lld, expected an id from 0 to %d", file, key,
                           token, (long long)n, TOKENIZER_MAX_ID - 1);
        tokenizer_spec_entry(s, (struct tokenizer_entry){.text = {token, strlen(token)},
                                                         .id = (int32_t)n,
                                                         .added = added});
    }
    return 0;
}

static int read_merges(struct reader *r, const json_t *merges)
{
    if (!json_is_array(merges)) return wrong_type(r, "model.merges", merges, "an array");
    size_t i;
    const json_t *v;
    json_array_foreach(merges, i, v)
    {
        struct tokenizer_merge m = {0};
        if (json_is_array(v)) {
            m.left = string_span(json_array_get(v, 0));
            m.right = string_span(json_array_get(v, 1));
            if (json_array_size(v) != 2 || m.left.len == 0 || m.right.len == 0)
                return err_set(r->err, ERR_INVALID,
                               "%s: model.merges[%zu] is not a pair of two non-empty strings",
                               r->name, i);
        } else if (!json_is_string(v)) {
            return err_set(r->err, ERR_TYPE,
                           "%s: model.merges[%zu] is %s, expected \"a b\" or [\"a\", \"b\"]",
                           r->name, i, type_name(v));
        } else if (!tokenizer_spec_split(json_string_value(v), json_string_length(v), &m)) {
            return err_set(r->err, ERR_INVALID,
                           "%s: model.merges[%zu] is \"%.48s\", expected two tokens and one space "
                           "between them",
                           r->name, i, json_string_value(v));
        }
        tokenizer_spec_merge(r->spec, m);
    }
    return 0;
}

/* A string that must be absent, null or empty. */
static int refuse_affix(struct reader *r, const json_t *model, const char *key)
{
    const json_t *v = json_object_get(model, key);
    if (is_null(v) || (json_is_string(v) && json_string_length(v) == 0)) return 0;
    if (!json_is_string(v)) return wrong_type(r, key, v, "null");
    return err_set(r->err, ERR_UNSUPPORTED, "%s: model.%s is \"%.48s\", expected null", r->name,
                   key, json_string_value(v));
}

static int read_model_flags(struct reader *r, const json_t *model)
{
    struct tokenizer_spec *s = r->spec;
    const json_t *dropout = json_object_get(model, "dropout"),
                 *unk = json_object_get(model, "unk_token");
    if (!is_null(dropout) && !json_is_number(dropout))
        return wrong_type(r, "model.dropout", dropout, "a number or null");
    if (json_number_value(dropout) > 0)
        return err_set(r->err, ERR_UNSUPPORTED, "%s: model.dropout is %g, expected null", r->name,
                       json_number_value(dropout));
    if (!is_null(unk) && !json_is_string(unk))
        return wrong_type(r, "model.unk_token", unk, "a string or null");
    if (json_string_length(unk)) s->unk = string_span(unk);
    int rc = refuse_affix(r, model, "continuing_subword_prefix");
    if (rc == 0) rc = refuse_affix(r, model, "end_of_word_suffix");
    if (rc == 0) rc = read_bool(r, model, "fuse_unk", "model.fuse_unk", false, &s->fuse_unk);
    if (rc == 0)
        rc = read_bool(r, model, "byte_fallback", "model.byte_fallback", false, &s->byte_fallback);
    if (rc == 0)
        rc = read_bool(r, model, "ignore_merges", "model.ignore_merges", false, &s->ignore_merges);
    return rc;
}

static int read_model(struct reader *r, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    if (!json_is_object(model)) return wrong_type(r, "model", model, "an object");
    const json_t *type = json_object_get(model, "type");
    if (type && !json_is_string(type)) return wrong_type(r, "model.type", type, "\"BPE\"");
    if (type && strcmp(json_string_value(type), "BPE") != 0)
        return err_set(r->err, ERR_UNSUPPORTED, "%s: model.type is \"%.48s\", expected \"BPE\"",
                       r->name, json_string_value(type));
    int rc = read_model_flags(r, model);
    if (rc == 0)
        rc = tokenizer_spec_vocab(r->spec, json_object_get(model, "vocab"), r->name, "model.vocab",
                                  false, r->err);
    if (rc == 0) rc = read_merges(r, json_object_get(model, "merges"));
    return rc;
}

/* ---- added tokens ---- */

static int read_added_token(struct reader *r, size_t i, const json_t *v)
{
    static const char *const refused[] = {"single_word", "lstrip", "rstrip"};
    char path[64];
    snprintf(path, sizeof path, "added_tokens[%zu]", i);
    if (!json_is_object(v)) return wrong_type(r, path, v, "an object");
    const json_t *id = json_object_get(v, "id"), *content = json_object_get(v, "content");
    snprintf(path, sizeof path, "added_tokens[%zu].content", i);
    if (!json_is_string(content)) return wrong_type(r, path, content, "a string");
    snprintf(path, sizeof path, "added_tokens[%zu].id", i);
    if (!json_is_integer(id)) return wrong_type(r, path, id, "an id");
    json_int_t n = json_integer_value(id);
    if (n < 0 || n >= TOKENIZER_MAX_ID)
        return err_set(r->err, ERR_INVALID, "%s: %s is %lld, expected an id from 0 to %d", r->name,
                       path, (long long)n, TOKENIZER_MAX_ID - 1);
    for (size_t k = 0; k < sizeof refused / sizeof *refused; k++) {
        bool set;
        snprintf(path, sizeof path, "added_tokens[%zu].%s", i, refused[k]);
        int rc = read_bool(r, v, refused[k], path, false, &set);
        if (rc) return rc;
        if (set)
            return err_set(r->err, ERR_UNSUPPORTED, "%s: %s is true, expected false", r->name,
                           path);
    }
    struct tokenizer_entry e = {.text = string_span(content), .id = (int32_t)n, .added = true};
    snprintf(path, sizeof path, "added_tokens[%zu].special", i);
    int rc = read_bool(r, v, "special", path, false, &e.special);
    if (rc == 0) tokenizer_spec_entry(r->spec, e);
    return rc;
}

static int read_added(struct reader *r, const json_t *root)
{
    const json_t *list = json_object_get(root, "added_tokens"), *v;
    if (is_null(list)) return 0;
    if (!json_is_array(list)) return wrong_type(r, "added_tokens", list, "an array");
    size_t i;
    int rc = 0;
    json_array_foreach(list, i, v)
    {
        rc = read_added_token(r, i, v);
        if (rc) break;
    }
    return rc;
}

int tokenizer_parse_json(struct tokenizer **out, const char *json, size_t len, const char *name,
                         struct err *err)
{
    struct tokenizer_spec s = {.name = name, .merges_name = name};
    struct reader r = {.name = name, .spec = &s, .err = err};
    json_error_t je;
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &je);
    int rc;
    if (!root)
        return err_set(err, ERR_INVALID, "%s: line %d, column %d: %s", name, je.line, je.column,
                       je.text);
    if (!json_is_object(root)) {
        rc = wrong_type(&r, "the file", root, "an object");
        goto out;
    }
    rc = read_stages(&r, root);
    if (rc == 0) rc = read_model(&r, root);
    if (rc == 0) rc = read_added(&r, root);
    if (rc == 0) rc = tokenizer_build(out, &s, err);
out:
    tokenizer_spec_release(&s);
    json_decref(root);
    return rc;
}
