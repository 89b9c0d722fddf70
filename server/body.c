/* From bytes to a JSON tree. jansson recurses once per level and stops at 2048 of them; nothing that we
 * accept is deeper than 3. A look at the brackets first keeps hostile nesting and NUL bytes out of the
 * parser at the cost of one pass. */
#include "server/params.h"

#include <string.h>

#define MAX_DEPTH 64

static bool too_deep(const char *s, size_t len)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > MAX_DEPTH) return true;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return false;
}

json_t *body_parse(const char *text, size_t len, struct api_error *e)
{
    if (len == 0) {
        api_fail(e, API_INVALID_JSON, NULL, "the body is empty: expected a JSON object");
        return NULL;
    }
    if (memchr(text, 0, len)) {
        api_fail(e, API_INVALID_JSON, NULL, "the body holds a NUL byte: expected JSON text");
        return NULL;
    }
    if (too_deep(text, len)) {
        api_fail(e, API_INVALID_JSON, NULL, "the body is nested deeper than %d levels", MAX_DEPTH);
        return NULL;
    }
    json_error_t je;
    json_t *tree = json_loadb(text, len, JSON_DECODE_ANY, &je);
    if (!tree) {
        api_fail(e, API_INVALID_JSON, NULL, "the body is not valid JSON: %s (line %d, column %d)",
                 je.text, je.line, je.column);
        return NULL;
    }
    if (!json_is_object(tree)) {
        api_fail(e, API_INVALID_TYPE, NULL, "the body is %s: expected an object", param_kind(tree));
        json_decref(tree);
        return NULL;
    }
    return tree;
}
