/* From bytes to a JSON tree. jansson recurses once per level and stops at 2048 of them; nothing that we
 * accept is deeper than 3. An empty object is three bytes and takes 240 of a tree, ten times what a number
 * takes for its two. A look at the brackets first keeps hostile nesting, crowds of objects and NUL bytes
 * out of the parser at the cost of one pass. */
#include "server/params.h"

#include <string.h>

#define MAX_DEPTH 64
/* Arrays and objects: more than max_prompts can be set to, thrice. */
#define MAX_BRACKETS (1 << 18)

static int check_brackets(const char *s, size_t len, struct api_error *e)
{
    int depth = 0, n = 0;
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
            if (++depth > MAX_DEPTH)
                return api_fail(e, API_INVALID_JSON, NULL,
                                "the body is nested deeper than %d levels", MAX_DEPTH);
            if (++n > MAX_BRACKETS)
                return api_fail(e, API_INVALID_JSON, NULL,
                                "the body has more than %d arrays and objects", MAX_BRACKETS);
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return 0;
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
    if (check_brackets(text, len, e)) return NULL;
    json_error_t je;
    json_t *tree = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    if (!tree) {
        api_fail(e, API_INVALID_JSON, NULL,
                 "the body cannot be read as JSON: %s (line %d, column %d)", je.text, je.line,
                 je.column);
        return NULL;
    }
    if (!json_is_object(tree)) {
        api_fail(e, API_INVALID_TYPE, NULL, "the body is %s: expected an object", param_kind(tree));
        json_decref(tree);
        return NULL;
    }
    return tree;
}
