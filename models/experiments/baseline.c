/* ttm baseline: bits per byte of an n-gram model of bytes, the least that a language model of the same text
 * has to do better than. Bits per byte, since models with other tokenizers, or none, can be compared in
 * nothing else; `ttm eval` prints them, too. */
#include "models/experiments/ngram.h"
#include "models/input.h"
#include "models/options.h"
#include "models/tool.h"

struct baseline_args {
    const char *data, *text;
    int64_t order;
    bool json;
};
#define FIELD(f) offsetof(struct baseline_args, f)
static const struct option table[] = {
    {"data", 0, OPTION_STRING, FIELD(data), "FILE", 0, 0, NULL, "text to count (required)"},
    {"text", 0, OPTION_STRING, FIELD(text), "FILE", 0, 0, NULL, "text to predict (required)"},
    {"order", 0, OPTION_INT, FIELD(order), "N", 1, NGRAM_ORDER_MAX, NULL,
     "bytes of an n-gram (default 5)"},
    {"json", 0, OPTION_BOOL, FIELD(json), NULL, 0, 0, NULL, "one JSON object"},
};
static const struct options options = {
    .command = "baseline",
    .arguments = "",
    .n_arguments = 0,
    .about =
        "How many bits a byte of one text costs under the byte n-grams of another, smoothed after\n"
        "Witten and Bell: a baseline for the bits_per_byte of `ttm eval`.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

static int predict(const struct tool *t, const struct baseline_args *a, const struct buf *data,
                   const struct buf *text, struct err *err)
{
    struct ngram *m = ngram_new((int)a->order, data->data, data->len, t->stop);
    double bits = m ? ngram_bits(m, text->data, text->len, t->stop) : 0;
    ngram_free(m);
    if (!m || tool_stopped(t)) return tool_interrupted(err);
    fprintf(t->out,
            a->json ? "{\"order\": %d, \"data_bytes\": %zu, \"bytes\": %zu, "
                      "\"bits_per_byte\": %.6f}\n"
                    : "order %d, %zu bytes counted\n%zu bytes predicted\nbits per byte %.4f\n",
            (int)a->order, data->len, text->len, bits / (double)text->len);
    return 0;
}

int cmd_baseline(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct baseline_args a = {.order = 5};
    struct buf data = {0}, text = {0};
    int rc = options_parse(&options, &a, NULL, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    if (!a.data || !a.text)
        return err_set_param(err, ERR_MISSING, a.data ? "text" : "data", "--%s is missing",
                             a.data ? "text" : "data");
    rc = input_read(a.data, &data, err);
    if (!rc) rc = input_read(a.text, &text, err);
    if (!rc && !text.len) rc = err_set(err, ERR_INVALID, "%s is empty", a.text);
    if (!rc) rc = predict(t, &a, &data, &text, err);
    buf_release(&data);
    buf_release(&text);
    return rc;
}
