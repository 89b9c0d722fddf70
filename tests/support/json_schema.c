/* A checker of values against schemas, by recursion over both. Messages carry the path in the value, so that
 * a field that nobody described is found at once. */
#include "tests/support/json_schema.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct at {
    const struct at *up;
    const char *key; /* NULL: index */
    size_t index;
};

static void put_path(const struct at *at, char *out, size_t size)
{
    if (!at) return;
    put_path(at->up, out, size);
    size_t n = strlen(out);
    if (at->key)
        snprintf(out + n, size - n, ".%s", at->key);
    else
        snprintf(out + n, size - n, "[%zu]", at->index);
}

__attribute__((format(printf, 3, 4))) static bool fail(struct json_schema *s, const struct at *at,
                                                       const char *fmt, ...)
{
    char what[300], path[200] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    put_path(at, path, sizeof path);
    snprintf(s->message, sizeof s->message, "value%s: %s", path, what);
    return false;
}

const json_t *json_schema_deref(const json_t *root, const json_t *schema)
{
    const char *ref;
    while ((ref = json_string_value(json_object_get(schema, "$ref"))) != NULL) {
        const json_t *v = strncmp(ref, "#/", 2) == 0 ? root : NULL;
        for (const char *p = ref + 2; v && *p;) {
            char key[128];
            size_t n = strcspn(p, "/");
            snprintf(key, sizeof key, "%.*s", (int)n, p);
            v = json_object_get(v, key);
            p += n + (p[n] == '/');
        }
        schema = v;
    }
    return schema;
}

static bool known_keywords(struct json_schema *s, const json_t *schema, const struct at *at)
{
    static const char *const known[] = {"$ref",
                                        "type",
                                        "enum",
                                        "const",
                                        "required",
                                        "properties",
                                        "items",
                                        "allOf",
                                        "oneOf",
                                        "anyOf",
                                        "minimum",
                                        "maximum",
                                        "minItems",
                                        "maxItems",
                                        "default",
                                        "title",
                                        "format",
                                        "description",
                                        "deprecated",
                                        "exclusiveMinimum",
                                        "additionalProperties"};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)schema, key, v)
    {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known && !found; i++)
            found = strcmp(known[i], key) == 0;
        if (!found) return fail(s, at, "the schema has the unknown keyword '%s'", key);
    }
    return true;
}

static bool is_type(const json_t *v, const char *name)
{
    static const struct {
        const char *name;
        unsigned types; /* bits of json_type */
    } table[] = {{"object", 1u << JSON_OBJECT},
                 {"array", 1u << JSON_ARRAY},
                 {"string", 1u << JSON_STRING},
                 {"integer", 1u << JSON_INTEGER},
                 {"number", 1u << JSON_INTEGER | 1u << JSON_REAL},
                 {"boolean", 1u << JSON_TRUE | 1u << JSON_FALSE},
                 {"null", 1u << JSON_NULL}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0) return table[i].types >> json_typeof(v) & 1;
    return false;
}

static bool type_holds(const json_t *type, const json_t *v)
{
    if (!type) return true;
    if (json_is_string(type)) return is_type(v, json_string_value(type));
    for (size_t i = 0; i < json_array_size(type); i++)
        if (is_type(v, json_string_value(json_array_get(type, i)))) return true;
    return false;
}

static bool among(const json_t *list, const json_t *v)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), v)) return true;
    return false;
}

static bool bounds_hold(struct json_schema *s, const json_t *schema, const json_t *v,
                        const struct at *at)
{
    const json_t *min = json_object_get(schema, "minimum"),
                 *max = json_object_get(schema, "maximum"),
                 *above = json_object_get(schema, "exclusiveMinimum");
    double d = json_number_value(v);
    if (json_is_number(v) &&
        ((min && d < json_number_value(min)) || (max && d > json_number_value(max)) ||
         (above && d <= json_number_value(above))))
        return fail(s, at, "%.9g is out of range", d);
    min = json_object_get(schema, "minItems");
    max = json_object_get(schema, "maxItems");
    double n = (double)json_array_size(v);
    if (json_is_array(v) &&
        ((min && n < json_number_value(min)) || (max && n > json_number_value(max))))
        return fail(s, at, "%.0f items", n);
    return true;
}

static bool holds(struct json_schema *s, const json_t *schema, const json_t *v, const struct at *at,
                  bool part);

/* The schema of a member: from properties, from those of allOf, or additionalProperties. */
static const json_t *member_schema(const struct json_schema *s, const json_t *schema,
                                   const char *key)
{
    schema = json_schema_deref(s->root, schema);
    const json_t *p = json_object_get(json_object_get(schema, "properties"), key);
    const json_t *all = json_object_get(schema, "allOf");
    for (size_t i = 0; !p && i < json_array_size(all); i++)
        p = member_schema(s, json_array_get(all, i), key);
    return p ? p : json_object_get(schema, "additionalProperties");
}

static bool object_holds(struct json_schema *s, const json_t *schema, const json_t *v,
                         const struct at *at, bool part)
{
    const json_t *required = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *key = json_string_value(json_array_get(required, i));
        if (!json_object_get(v, key)) return fail(s, at, "'%s' is missing", key);
    }
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)(uintptr_t)v, key, item)
    {
        struct at here = {.up = at, .key = key};
        const json_t *p = member_schema(s, schema, key);
        if (json_is_true(p) || (!p && part)) continue;
        if (!p || json_is_false(p)) return fail(s, &here, "not described");
        if (!holds(s, p, item, &here, false)) return false;
    }
    return true;
}

static bool array_holds(struct json_schema *s, const json_t *schema, const json_t *v,
                        const struct at *at)
{
    const json_t *items = json_object_get(schema, "items");
    for (size_t i = 0; items && i < json_array_size(v); i++) {
        struct at here = {.up = at, .index = i};
        if (!holds(s, items, json_array_get(v, i), &here, false)) return false;
    }
    return true;
}

static bool choices_hold(struct json_schema *s, const json_t *schema, const json_t *v,
                         const struct at *at)
{
    const json_t *all = json_object_get(schema, "allOf"), *one = json_object_get(schema, "oneOf"),
                 *any = json_object_get(schema, "anyOf");
    for (size_t i = 0; i < json_array_size(all); i++)
        if (!holds(s, json_array_get(all, i), v, at, true)) return false;
    const json_t *list = one ? one : any;
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        n += holds(s, json_array_get(list, i), v, at, false);
    if (list && n == 0) /* the last one's complaint says most */
        return s->message[0] ? false : fail(s, at, "fits no alternative");
    if (one && n > 1) return fail(s, at, "fits %zu alternatives: expected one", n);
    return true;
}

static bool holds(struct json_schema *s, const json_t *schema, const json_t *v, const struct at *at,
                  bool part)
{
    schema = json_schema_deref(s->root, schema);
    if (!json_is_object(schema)) return fail(s, at, "no schema");
    if (!known_keywords(s, schema, at)) return false;
    const json_t *list = json_object_get(schema, "enum"), *only = json_object_get(schema, "const");
    if (!type_holds(json_object_get(schema, "type"), v)) return fail(s, at, "of another type");
    if (list && !among(list, v)) return fail(s, at, "not in the enum");
    if (only && !json_equal(only, v)) return fail(s, at, "not the constant");
    if (!bounds_hold(s, schema, v, at) || !choices_hold(s, schema, v, at)) return false;
    bool shaped = json_object_get(schema, "properties") ||
                  json_object_get(schema, "additionalProperties") ||
                  !(json_object_get(schema, "oneOf") || json_object_get(schema, "anyOf"));
    if (json_is_object(v) && shaped && !object_holds(s, schema, v, at, part)) return false;
    return !json_is_array(v) || array_holds(s, schema, v, at);
}

bool json_schema_holds(struct json_schema *s, const json_t *schema, const json_t *value)
{
    s->message[0] = 0;
    return holds(s, schema, value, NULL, false);
}
