/* Reading the files of evaluation tasks. GLUE's TSV has no quoting: a line is split at tabs, and what
 * differs between tasks is a table of columns, labels and a template. The first line is checked
 * against the header, so that a file of another task is not read as nonsense. */
#include "models/eval_data.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "models/input.h"

enum { MAX_COLUMNS = 8 };

static const struct glue {
    const char *name;
    const char *header; /* first line; NULL = the file has none */
    int n_columns, label_column;
    int columns[2];        /* the sentences; -1 = none */
    const char *truth[2];  /* what stands in the label column */
    const char *labels[2]; /* the continuations that stand for them */
    const char *before, *between, *after;
    struct eval_classes classes; /* names and order of the GLUE data sets on Hugging Face's hub */
} tasks[] = {
    {.name = "sst2",
     .header = "sentence\tlabel",
     .n_columns = 2,
     .label_column = 1,
     .columns = {0, -1},
     .truth = {"0", "1"},
     .labels = {" negative", " positive"},
     .before = "",
     .after = "\nQuestion: Is this sentence positive or negative?\nAnswer:",
     .classes = {{"negative", "positive"}, 0}},
    {.name = "rte",
     .header = "index\tsentence1\tsentence2\tlabel",
     .n_columns = 4,
     .label_column = 3,
     .columns = {1, 2},
     .truth = {"not_entailment", "entailment"},
     .labels = {" False", " True"},
     .before = "",
     .between = "\nQuestion: ",
     .after = " True or False?\nAnswer:",
     .classes = {{"not_entailment", "entailment"}, 1}},
    {.name = "mrpc",
     .header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
     .n_columns = 5,
     .label_column = 0,
     .columns = {3, 4},
     .truth = {"0", "1"},
     .labels = {" no", " yes"},
     .before = "Sentence 1: ",
     .between = "\nSentence 2: ",
     .after = "\nQuestion: Do both sentences mean the same thing?\nAnswer:",
     .classes = {{"not_equivalent", "equivalent"}, 0}},
    {.name = "cola",
     .n_columns = 4,
     .label_column = 1,
     .columns = {3, -1},
     .truth = {"0", "1"},
     .labels = {" no", " yes"},
     .before = "",
     .after = "\nQuestion: Does this sentence make sense?\nAnswer:",
     .classes = {{"unacceptable", "acceptable"}, 0}},
};

void eval_items_release(struct eval_items *items)
{
    for (size_t i = 0; i < items->n; i++) {
        free(items->list[i].context);
        free(items->list[i].target);
    }
    free(items->list);
    *items = (struct eval_items){0};
}

static void push(struct eval_items *items, struct eval_item item)
{
    if (items->n == items->cap) {
        items->cap = items->cap ? 2 * items->cap : 256;
        items->list = mem_realloc(items->list, items->cap * sizeof *items->list);
    }
    items->list[items->n++] = item;
}

struct place {
    const char *path;
    size_t line;
    enum eval_form form;
};

/* ---- lambada ---- */

static int read_lambada(struct eval_items *out, const char *line, const struct place *at,
                        struct err *err)
{
    json_error_t je;
    json_t *root = json_loads(line, JSON_REJECT_DUPLICATES, &je);
    const char *text = json_string_value(json_object_get(root, "text"));
    const char *space = text ? strrchr(text, ' ') : NULL;
    int rc = 0;
    if (!root)
        rc = err_set(err, ERR_INVALID, "%s: line %zu is not JSON: %s", at->path, at->line, je.text);
    else if (!text)
        rc = err_set(err, ERR_INVALID, "%s: line %zu has no string \"text\"", at->path, at->line);
    else if (!space || space == text || !space[1])
        rc = err_set(err, ERR_INVALID, "%s: line %zu: the text has no last word after a space",
                     at->path, at->line);
    if (rc == 0) {
        struct buf context = {0};
        buf_append(&context, text, (size_t)(space - text));
        push(out, (struct eval_item){.context = buf_take(&context), .target = mem_strdup(space)});
    }
    json_decref(root);
    return rc;
}

/* ---- GLUE ---- */

/* Cuts the line at its tabs; returns how many columns it has, of which the first MAX_COLUMNS are set. */
static int cut(char *line, const char *columns[MAX_COLUMNS])
{
    int n = 0;
    for (char *p = line; p;) {
        char *tab = strchr(p, '\t');
        if (tab) *tab++ = 0;
        if (n < MAX_COLUMNS) columns[n] = p;
        n++;
        p = tab;
    }
    return n;
}

static char *words(const struct glue *g, const char *const *columns, enum eval_form form)
{
    bool asks = form == EVAL_PROMPT;
    struct buf b = {0};
    if (asks) buf_puts(&b, g->before);
    buf_puts(&b, columns[g->columns[0]]);
    if (g->columns[1] >= 0) {
        buf_puts(&b, asks ? g->between : "\n");
        buf_puts(&b, columns[g->columns[1]]);
    }
    if (asks) buf_puts(&b, g->after);
    return buf_take(&b);
}

static int read_glue(struct eval_items *out, const struct glue *g, char *line,
                     const struct place *at, struct err *err)
{
    const char *columns[MAX_COLUMNS];
    int n = cut(line, columns);
    if (n != g->n_columns)
        return err_set(err, ERR_INVALID, "%s: line %zu has %d columns, expected the %d of %s",
                       at->path, at->line, n, g->n_columns, g->name);
    const char *truth = columns[g->label_column];
    int label = !strcmp(truth, g->truth[1]);
    if (!label && strcmp(truth, g->truth[0]) != 0)
        return err_set(err, ERR_INVALID,
                       "%s: line %zu: the label in column %d is \"%.40s\", expected %s or %s",
                       at->path, at->line, g->label_column + 1, truth, g->truth[0], g->truth[1]);
    push(out, (struct eval_item){.context = words(g, columns, at->form), .label = label});
    return 0;
}

/* ---- files ---- */

static int read_line(struct eval_items *out, const struct glue *g, char *line,
                     const struct place *at, struct err *err)
{
    static const char bom[] = "\xef\xbb\xbf";
    if (at->line == 1 && !strncmp(line, bom, sizeof bom - 1)) line += sizeof bom - 1;
    if (!*line) return 0;
    if (!g) return read_lambada(out, line, at, err);
    if (at->line > 1 || !g->header) return read_glue(out, g, line, at, err);
    if (strcmp(line, g->header) != 0)
        return err_set(err, ERR_INVALID, "%s: line 1 is \"%.60s\", expected the header of %s",
                       at->path, line, g->name);
    return 0;
}

static const struct glue *glue_of(const char *task)
{
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++)
        if (!strcmp(tasks[i].name, task)) return &tasks[i];
    return NULL;
}

const struct eval_classes *eval_classes_of(const char *task)
{
    const struct glue *g = glue_of(task);
    return g ? &g->classes : NULL;
}

int eval_items_read(struct eval_items *out, const char *task, const char *path, enum eval_form form,
                    size_t limit, struct err *err)
{
    const struct glue *g = glue_of(task);
    struct buf text = {0};
    struct place at = {.path = path, .form = form};
    *out = (struct eval_items){.labels = g ? g->labels : NULL};
    int rc = input_read(path, &text, err);
    if (rc == 0) rc = input_check_utf8(path, &text, err);
    if (rc == 0 && text.len && memchr(text.data, 0, text.len))
        rc = err_set(err, ERR_INVALID, "%s has a NUL byte: it is no text", path);
    for (char *p = text.data; rc == 0 && p && *p && (!limit || out->n < limit);) {
        size_t len = strcspn(p, "\n");
        char *next = p[len] ? p + len + 1 : NULL;
        p[len] = 0;
        if (len && p[len - 1] == '\r') p[len - 1] = 0;
        at.line++;
        rc = read_line(out, g, p, &at, err);
        p = next;
    }
    if (rc == 0 && out->n == 0) rc = err_set(err, ERR_INVALID, "%s has no items", path);
    buf_release(&text);
    return rc;
}
