/* One item is one sequence, padded behind its end: with causal attention its tokens do not see the
 * padding, so that no mask is needed and the result is exact. Padding is token 0, whatever that is. */
#include "models/train/items.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "engine/gpt2/dir_file.h"

enum { CONFIG_MAX_BYTES = 1 << 20 };

/* What config.json says of row 0 and row 1. */
static int first_of(const json_t *config, const char *dir, const struct eval_classes *classes,
                    int *first, struct err *err)
{
    const json_t *names = json_object_get(config, "id2label");
    const char *a = json_string_value(json_object_get(names, "0"));
    const char *b = json_string_value(json_object_get(names, "1"));
    *first = classes->first;
    if (!a || !b || (!strcasecmp(a, "LABEL_0") && !strcasecmp(b, "LABEL_1"))) return 0;
    for (int row0 = 0; row0 < 2; row0++) {
        *first = row0;
        if (!strcasecmp(a, classes->names[row0]) && !strcasecmp(b, classes->names[!row0])) return 0;
    }
    return err_set(err, ERR_INVALID,
                   "%s/config.json: \"id2label\" has %.40s and %.40s, expected %s and %s", dir, a,
                   b, classes->names[0], classes->names[1]);
}

int items_first(const char *dir, const struct eval_classes *classes, int *first, struct err *err)
{
    struct buf text = {0};
    json_error_t je;
    int rc = dir_file_text(&text, dir, "config.json", CONFIG_MAX_BYTES, err);
    if (rc == 0) {
        json_t *config = json_loadb(text.data ? text.data : "", text.len, 0, &je);
        if (config)
            rc = first_of(config, dir, classes, first, err);
        else
            rc = err_set(err, ERR_INVALID, "%s/config.json: not valid JSON: line %d: %s", dir,
                         je.line, je.text);
        json_decref(config);
    }
    buf_release(&text);
    return rc;
}

static int encode(struct items *it, const struct eval_items *from, const struct tokenizer *tok,
                  size_t most, const char *path, struct err *err)
{
    struct tokens all = {0}, one = {0};
    it->n = from->n;
    it->start = mem_alloc((it->n + 1) * sizeof *it->start);
    it->row = mem_alloc(it->n * sizeof *it->row);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < it->n; i++) {
        const char *text = from->list[i].context;
        one.n = 0;
        tokenizer_encode(tok, text, strlen(text), false, &one);
        if (one.n == 0) rc = err_set(err, ERR_INVALID, "%s: item %zu has no text", path, i + 1);
        size_t begin = one.n > most ? one.n - most : 0;
        it->cut += begin > 0;
        it->start[i] = all.n;
        it->row[i] = from->list[i].label != it->first;
        for (size_t k = begin; k < one.n; k++)
            tokens_push(&all, one.ids[k]);
        if (one.n - begin > it->longest) it->longest = one.n - begin;
    }
    it->start[it->n] = all.n;
    it->ids = all.ids; /* taken */
    tokens_release(&one);
    return rc;
}

int items_open(struct items *it, const char *task, const char *path, int first,
               const struct tokenizer *tok, size_t most, size_t limit, struct err *err)
{
    struct eval_items from;
    *it = (struct items){.first = first};
    int rc = eval_items_read(&from, task, path, EVAL_SENTENCES, limit, err);
    if (rc == 0) rc = encode(it, &from, tok, most, path, err);
    eval_items_release(&from);
    return rc;
}

void items_close(struct items *it)
{
    free(it->ids);
    free(it->start);
    free(it->row);
    *it = (struct items){0};
}

void items_put(const struct items *it, size_t i, size_t length, int32_t *tokens, int32_t *targets)
{
    size_t n = items_length(it, i);
    BUG_ON(n > length);
    for (size_t k = 0; k < length; k++) {
        tokens[k] = k < n ? it->ids[it->start[i] + k] : 0;
        targets[k] = -1;
    }
    targets[n - 1] = it->row[i];
}
