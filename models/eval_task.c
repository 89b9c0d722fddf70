/* Tasks without training; a classifier is eval_head's. Every item becomes as many pairs of context and
 * continuation as it has answers, all pairs are scored in one run, and the answers are counted. A tie
 * goes to label 0. */
#include "models/eval_task.h"

#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "models/eval_data.h"
#include "models/eval_head.h"
#include "models/likelihood.h"

struct answers {
    struct likelihood *pairs; /* (n) those of an item successive */
    size_t n, truncated;      /* truncated: items */
    double seconds;
};

static int answer(const struct tool *t, const char *dir, const struct eval_task *e,
                  const struct eval_items *items, struct answers *a, struct err *err)
{
    struct session s;
    size_t each = items->labels ? 2 : 1;
    a->n = items->n * each;
    a->pairs = mem_calloc(a->n, sizeof *a->pairs);
    for (size_t i = 0; i < a->n; i++) {
        const struct eval_item *item = &items->list[i / each];
        a->pairs[i].context = item->context;
        a->pairs[i].continuation = items->labels ? items->labels[i % each] : item->target;
    }
    struct session_flags flags = e->session;
    session_flags_fill(&flags);
    int rc = session_open(&s, t, &flags, dir, err);
    uint64_t start = clock_ns();
    if (rc == 0) rc = likelihood_run(&s, a->pairs, a->n, e->task, err);
    a->seconds = (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
    for (size_t i = 0; i < a->n; i += each)
        a->truncated += a->pairs[i].truncated || a->pairs[i + each - 1].truncated;
    session_close(&s);
    return rc;
}

static void print_words(const struct eval_task *e, const struct answers *a, FILE *f)
{
    struct ppl_sums sums = {0};
    struct ppl_stats s;
    size_t right = 0;
    for (size_t i = 0; i < a->n; i++) {
        ppl_add(&sums, (float)a->pairs[i].logprob);
        right += a->pairs[i].greedy;
    }
    ppl_stats(&sums, 0, 0, &s);
    double accuracy = (double)right / (double)a->n, error = proportion_stderr(right, a->n);
    if (e->json) {
        fprintf(
            f,
            "{\"task\": \"%s\", \"items\": %zu, \"accuracy\": %.17g, \"accuracy_stderr\": %.17g, "
            "\"perplexity\": %.17g, \"nll_mean\": %.17g, \"nll_stderr\": %.17g, "
            "\"truncated\": %zu, \"seconds\": %.6f}\n",
            e->task, a->n, accuracy, error, s.perplexity, s.nll_mean, s.stderr_mean, a->truncated,
            a->seconds);
        return;
    }
    fprintf(f, "task             %s, %zu items, %zu of them cut to the context\n", e->task, a->n,
            a->truncated);
    fprintf(f, "accuracy         %.4f +- %.4f (standard error)\n", accuracy, error);
    fprintf(f, "perplexity       %.4f of the last word; nll %.4f +- %.4f\n", s.perplexity,
            s.nll_mean, s.stderr_mean);
}

void eval_task_print(const struct eval_task *e, const struct binary_counts *counts, const char *how,
                     size_t truncated, double seconds, FILE *f)
{
    struct binary_metrics m;
    binary_metrics(counts, &m);
    if (e->json) {
        fprintf(f,
                "{\"task\": \"%s\", \"head\": \"%s\", \"items\": %zu, \"accuracy\": %.17g, "
                "\"accuracy_stderr\": %.17g, \"f1\": %.17g, \"mcc\": %.17g, \"majority\": %.17g, "
                "\"truncated\": %zu, \"seconds\": %.6f}\n",
                e->task, how, m.n, m.accuracy, m.accuracy_stderr, m.f1, m.mcc, m.majority,
                truncated, seconds);
        return;
    }
    fprintf(f, "task             %s, %s, %zu items, %zu of them cut to the context\n", e->task, how,
            m.n, truncated);
    fprintf(f, "accuracy         %.4f +- %.4f (standard error); the larger class %.4f\n",
            m.accuracy, m.accuracy_stderr, m.majority);
    fprintf(f, "F1               %.4f\n", m.f1);
    fprintf(f, "MCC              %.4f\n", m.mcc);
}

static void print_labels(const struct eval_task *e, const struct eval_items *items,
                         const struct answers *a, FILE *f)
{
    struct binary_counts counts = {0};
    for (size_t i = 0; i < items->n; i++)
        binary_add(&counts, items->list[i].label,
                   a->pairs[2 * i + 1].logprob > a->pairs[2 * i].logprob);
    eval_task_print(e, &counts, "zero-shot", a->truncated, a->seconds, f);
}

int eval_task(const struct tool *t, const char *dir, const struct eval_task *e, struct err *err)
{
    struct eval_items items;
    struct answers a = {0};
    if (eval_classes_of(e->task) && eval_head_is(dir)) return eval_head(t, dir, e, err);
    int rc = eval_items_read(&items, e->task, e->data, EVAL_PROMPT, e->limit, err);
    if (rc == 0) rc = answer(t, dir, e, &items, &a, err);
    if (rc == 0 && items.labels)
        print_labels(e, &items, &a, t->out);
    else if (rc == 0)
        print_words(e, &a, t->out);
    free(a.pairs);
    eval_items_release(&items);
    return rc;
}
