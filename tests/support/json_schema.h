#ifndef TTMD_TESTS_JSON_SCHEMA_H
#define TTMD_TESTS_JSON_SCHEMA_H

#include <jansson.h>
#include <stdbool.h>

/* The part of JSON Schema (2020-12) that our description of the API uses: $ref within the document, type (also
 * several), enum, const, required, properties, additionalProperties, items, allOf, oneOf, anyOf, bounds of
 * numbers and of array lengths. Stricter in one point: a member that no schema describes is an error
 * unless additionalProperties allows it. An unknown keyword is an error, too: it would check nothing. */
struct json_schema {
    const json_t *root; /* for $ref; borrowed */
    char message[600];  /* the first failure: where and what */
};

/* json_schema_holds -- does the value fit the schema? false with s->message set. */
bool json_schema_holds(struct json_schema *s, const json_t *schema, const json_t *value);

/* json_schema_deref -- follow $ref; NULL when it leads nowhere. */
const json_t *json_schema_deref(const json_t *root, const json_t *schema);

#endif
