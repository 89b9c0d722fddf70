/* ttm overlap: does a model repeat what it was trained on? Samples of it come as token ids (`ttm generate
 * --ids`), a line each, and are compared with the text by tokens, since a passage that is remembered is
 * remembered as tokens. Text and samples are cut by the same tokenizer, so equal words are equal ids. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/tokenizer.h"
#include "models/experiments/passages.h"
#include "models/input.h"
#include "models/options.h"
#include "models/tool.h"

struct overlap_args {
    const char *data, *ids;
    int64_t limit;
    bool json;
};
#define FIELD(f) offsetof(struct overlap_args, f)
static const struct option table[] = {
    {"data", 0, OPTION_STRING, FIELD(data), "FILE", 0, 0, NULL, "the text (required)"},
    {"ids", 0, OPTION_STRING, FIELD(ids), "FILE", 0, 0, NULL,
     "samples, a line of token ids each; - = standard input (required)"},
    {"limit", 0, OPTION_INT, FIELD(limit), "N", 0, 1 << 24, NULL,
     "a longer passage is an error (default 0: any)"},
    {"json", 0, OPTION_BOOL, FIELD(json), NULL, 0, 0, NULL, "one JSON object"},
};
static const struct options options = {
    .command = "overlap",
    .arguments = "DIR",
    .n_arguments = 1,
    .about =
        "The longest passages that samples of the model in DIR share with a text, in tokens of\n"
        "its tokenizer:\n\n"
        "  ttm generate DIR --n 100 --ids --seed 1 | ttm overlap DIR --data train.txt --ids -",
    .table = table,
    .n = sizeof table / sizeof *table,
};

struct samples {
    struct tokens tokens;
    size_t *start; /* (n + 1) owned */
    size_t n;
};

/* A line's ids. "=== 3", what generate prints before a choice, is none. */
static int take_line(struct samples *s, const char *line, const char *path, size_t number,
                     struct err *err)
{
    if (!strncmp(line, "===", 3)) return 0;
    size_t before = s->tokens.n;
    for (const char *at = line; *(at += strspn(at, " \r"));) {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || errno || id < 0 || id > INT32_MAX || (*end && !strchr(" \r", *end)))
            return err_set(err, ERR_INVALID,
                           "%s: line %zu: \"%.24s\" where a token id was expected", path, number,
                           at);
        tokens_push(&s->tokens, (int32_t)id);
        at = end;
    }
    if (s->tokens.n == before) return 0;
    s->start = mem_realloc(s->start, (s->n + 2) * sizeof *s->start);
    s->start[s->n++] = before;
    s->start[s->n] = s->tokens.n;
    return 0;
}

static int read_samples(struct samples *s, const char *path, struct err *err)
{
    struct buf text = {0};
    int rc = input_read(path, &text, err);
    buf_putc(&text, '\n');
    size_t number = 1;
    for (char *line = text.data, *end; !rc && line < text.data + text.len;
         line = end + 1, number++) {
        end = memchr(line, '\n', (size_t)(text.data + text.len - line));
        *end = 0;
        rc = take_line(s, line, path, number, err);
    }
    buf_release(&text);
    if (!rc && !s->n) rc = err_set(err, ERR_INVALID, "%s has no samples", path);
    if (!rc && s->tokens.n >= UINT32_MAX)
        rc = err_set(err, ERR_TOO_LONG, "%s has %zu tokens, at most %u can be compared", path,
                     s->tokens.n, UINT32_MAX - 1);
    return rc;
}

static int by_length(const void *a, const void *b)
{
    size_t x = ((const struct passage *)a)->length, y = ((const struct passage *)b)->length;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void report(const struct tool *t, const struct tokenizer *tok, const struct tokens *text,
                   struct passage *found, size_t n, bool json)
{
    qsort(found, n, sizeof *found, by_length);
    fprintf(
        t->out,
        json ? "{\"samples\": %zu, \"longest\": %zu, \"median\": %zu, \"seed\": %d}\n"
             : "%zu samples\nlongest passage %zu tokens, median of the samples %zu (0: below %d)\n",
        n, found[0].length, found[n / 2].length, PASSAGE_SEED);
    if (json || !found[0].length) return;
    struct buf words = {0};
    tokenizer_decode(tok, text->ids + found[0].text_at, found[0].length, true, &words);
    fputs("the longest: ", t->out);
    fwrite(words.data, 1, words.len, t->out);
    fputc('\n', t->out);
    buf_release(&words);
}

static int compare(const struct tool *t, const struct tokenizer *tok, const struct overlap_args *a,
                   const struct samples *s, struct err *err)
{
    struct buf data = {0};
    struct tokens text = {0};
    int rc = input_read(a->data, &data, err);
    if (!rc && data.len) {
        struct passage *found = mem_calloc(s->n, sizeof *found);
        tokenizer_encode(tok, data.data, data.len, true, &text);
        passages_find(text.ids, text.n, s->tokens.ids, s->start, s->n, t->stop, found);
        if (tool_stopped(t))
            rc = tool_interrupted(err);
        else
            report(t, tok, &text, found, s->n, a->json);
        if (!rc && a->limit && found[0].length > (size_t)a->limit)
            rc = err_set(err, ERR_INVALID, "a passage of %zu tokens is in %s, --limit is %lld",
                         found[0].length, a->data, (long long)a->limit);
        free(found);
    } else if (!rc) {
        rc = err_set(err, ERR_INVALID, "%s is empty", a->data);
    }
    tokens_release(&text);
    buf_release(&data);
    return rc;
}

int cmd_overlap(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct overlap_args a = {0};
    struct samples s = {0};
    struct tokenizer *tok = NULL;
    const char *dir;
    int rc = options_parse(&options, &a, &dir, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    if (!a.data || !a.ids)
        return err_set_param(err, ERR_MISSING, a.data ? "ids" : "data", "--%s is missing",
                             a.data ? "ids" : "data");
    rc = tokenizer_open(&tok, dir, err);
    if (!rc) rc = read_samples(&s, a.ids, err);
    if (!rc) rc = compare(t, tok, &a, &s, err);
    tokenizer_close(tok);
    tokens_release(&s.tokens);
    free(s.start);
    return rc;
}
