/* ttm eval: perplexity of a text; with --compare the difference of two models on it (eval_compare.c), with
 * --task a task without training for it (eval_task.c). */
#include <string.h>

#include "models/eval_compare.h"
#include "models/eval_data.h"
#include "models/eval_task.h"
#include "models/options.h"
#include "models/score.h"

struct eval_args {
    const char *text, *prefix, *compare, *task, *data;
    int64_t window, stride, max_tokens, limit; /* 0, and NULL above = not given */
    bool json;
    struct session_flags session;
};

#define FIELD(f) offsetof(struct eval_args, f)
static const struct option table[] = {
    {"text", 0, OPTION_STRING, FIELD(text), "FILE", 0, 0, NULL,
     "the text, UTF-8; - = standard input (required without --task)"},
    {"window", 0, OPTION_INT, FIELD(window), "N", 2, 1 << 24, NULL,
     "tokens that the model sees at once (default its context)"},
    {"stride", 0, OPTION_INT, FIELD(stride), "N", 1, 1 << 24, NULL,
     "tokens between windows, prefix none (default the window: disjoint)"},
    {"prefix", 0, OPTION_STRING, FIELD(prefix), "P", 0, 0, "none|bos",
     "bos: end-of-text goes first and every token is scored (default none)"},
    {"max-tokens", 0, OPTION_INT, FIELD(max_tokens), "N", 1, 1ll << 40, NULL,
     "only so many tokens from the beginning"},
    {"compare", 0, OPTION_STRING, FIELD(compare), "REF", 0, 0, NULL,
     "compare with the model in REF: perplexity, KL divergence, top-1 agreement"},
    {"task", 0, OPTION_STRING, FIELD(task), "T", 0, 0, EVAL_TASKS,
     "a task, zero-shot: accuracy, perplexity of the last word, F1, MCC"},
    {"data", 0, OPTION_STRING, FIELD(data), "FILE", 0, 0, NULL,
     "of the task: LAMBADA's JSON lines, GLUE's TSV (required with --task)"},
    {"limit", 0, OPTION_INT, FIELD(limit), "N", 1, 1 << 30, NULL,
     "only so many items of the task's file"},
    {"json", 0, OPTION_BOOL, FIELD(json), NULL, 0, 0, NULL, "one JSON object"},
    SESSION_OPTIONS(FIELD(session)),
};
static const struct options options = {
    .command = "eval",
    .arguments = "DIR",
    .n_arguments = 1,
    .about =
        "Perplexity of a text under the model in DIR, over windows, as POST /v1/perplexity\n"
        "computes it. `--compare REF DIR` compares two models on a text, `--task T` asks for the\n"
        "answers of a task by the log-likelihoods of its label words.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

static void print_text(const struct score *e, FILE *f)
{
    const struct ppl_stats *s = &e->stats;
    fprintf(f, "tokens           %zu, %zu scored in %zu windows of %zu, stride %zu\n",
            e->plan.n_tokens, e->sums.scored, e->windows, e->plan.window, e->plan.stride);
    fprintf(f, "nll mean         %.6f +- %.6f (standard error)\n", s->nll_mean, s->stderr_mean);
    fprintf(f, "perplexity       %.4f\n", s->perplexity);
    fprintf(f, "bits per byte    %.6f\n", s->bits_per_byte);
    fprintf(f, "word perplexity  %.4f (%zu words)\n", s->word_perplexity, e->words);
    fprintf(f, "byte perplexity  %.6f (%zu bytes)\n", s->byte_perplexity, e->bytes);
    fprintf(f, "speed            %.1f tokens/s, %.1f s\n", (double)e->sums.scored / e->seconds,
            e->seconds);
}

static void print_json(const struct score *e, FILE *f)
{
    const struct ppl_stats *s = &e->stats;
    fprintf(f,
            "{\"tokens\": %zu, \"scored_tokens\": %zu, \"nll_sum\": %.17g, \"nll_mean\": %.17g, ",
            e->plan.n_tokens, e->sums.scored, e->sums.nll, s->nll_mean);
    fprintf(f, "\"perplexity\": %.17g, \"bits_per_byte\": %.17g, \"word_perplexity\": %.17g, ",
            s->perplexity, s->bits_per_byte, s->word_perplexity);
    fprintf(f, "\"byte_perplexity\": %.17g, \"stderr\": %.17g, \"windows\": %zu, ",
            s->byte_perplexity, s->stderr_mean, e->windows);
    fprintf(
        f, "\"window\": %zu, \"stride\": %zu, \"prefix\": \"%s\", \"bytes\": %zu, \"words\": %zu, ",
        e->plan.window, e->plan.stride, e->plan.prefix == PPL_PREFIX_BOS ? "bos" : "none", e->bytes,
        e->words);
    fprintf(f, "\"seconds\": %.6f, \"tokens_per_s\": %.3f}\n", e->seconds,
            (double)e->sums.scored / e->seconds);
}

/* Flags that say how a text is scored would be read and forgotten. */
static int check_task(const struct eval_args *a, struct err *err)
{
    const struct {
        const char *name;
        bool given;
    } of_text[] = {{"text", a->text != NULL},     {"compare", a->compare != NULL},
                   {"window", a->window != 0},    {"stride", a->stride != 0},
                   {"prefix", a->prefix != NULL}, {"max-tokens", a->max_tokens != 0}};
    for (size_t i = 0; i < sizeof of_text / sizeof *of_text; i++)
        if (of_text[i].given)
            return err_set_param(err, ERR_INVALID, of_text[i].name, "--task goes without --%s",
                                 of_text[i].name);
    return 0;
}

static int check_args(const struct eval_args *a, struct err *err)
{
    int rc = a->task ? check_task(a, err) : 0;
    if (rc) return rc;
    if (a->task && !a->data)
        return err_set_param(err, ERR_MISSING, "data", "--data is missing: the file of the task");
    if (!a->task && (a->data || a->limit))
        return err_set_param(err, ERR_INVALID, "data", "--%s goes with --task",
                             a->data ? "data" : "limit");
    if (!a->task && !a->text)
        return err_set_param(err, ERR_MISSING, "text", "--text is missing: the file to score");
    return 0;
}

static int eval_text(const struct tool *t, const char *dir, const struct eval_args *a,
                     struct err *err)
{
    struct score_text text;
    struct score score;
    struct score_options o = {.prefix = a->prefix && !strcmp(a->prefix, "bos") ? PPL_PREFIX_BOS
                                                                               : PPL_PREFIX_NONE,
                              .window = (size_t)a->window,
                              .stride = (size_t)a->stride,
                              .max_tokens = (size_t)a->max_tokens,
                              .session = a->session};
    session_flags_fill(&o.session);
    int rc = score_text_read(&text, a->text, err);
    if (rc == 0 && a->compare) {
        rc = eval_compare(t, a->compare, dir, &text, &o, a->json, err);
    } else if (rc == 0) {
        rc = score_model(&score, t, dir, &text, &o, err);
        if (rc == 0) (a->json ? print_json : print_text)(&score, t->out);
    }
    buf_release(&text.bytes);
    return rc;
}

int cmd_eval(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct eval_args a = {.session = SESSION_FLAGS_DEFAULT};
    const char *dir;
    a.session.dtype = a.session.kv_dtype = NULL; /* to see whether they are given */
    int rc = options_parse(&options, &a, &dir, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    rc = check_args(&a, err);
    if (rc) return rc;
    if (!a.task) return eval_text(t, dir, &a, err);
    struct eval_task task = {.task = a.task,
                             .data = a.data,
                             .limit = (size_t)a.limit,
                             .json = a.json,
                             .session = a.session};
    return eval_task(t, dir, &task, err);
}
