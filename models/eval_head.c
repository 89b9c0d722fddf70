/* A classifier is computed by the trainer's forward pass, not by the engine: the engine serves language
 * models, and its steps end in the LM head. */
#include "models/eval_head.h"

#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "models/progress.h"
#include "models/train/classify.h"

static const struct st_tensor *score_of(const struct st_set *st)
{
    return st_find(st, "score.weight");
}

bool eval_head_is(const char *dir)
{
    struct st_set *st = NULL;
    if (st_open(&st, dir, NULL) != 0) return false;
    bool is = score_of(st) != NULL;
    st_close(st);
    return is;
}

static int check_size(const char *dir, const struct eval_task *e, struct err *err)
{
    struct st_set *st = NULL;
    int rc = st_open(&st, dir, err);
    if (!rc && !net_has_score(st, ITEMS_CLASSES))
        rc = err_set(err, ERR_INVALID, "%s: score.weight has %zu rows, %s has %d labels",
                     score_of(st)->file, score_of(st)->shape[0], e->task, ITEMS_CLASSES);
    st_close(st);
    return rc;
}

/* What the trainer's forward pass does not have. */
static int check_flags(const char *dir, const struct session_flags *f, struct err *err)
{
    const char *given = f->dtype ? "dtype" : f->kv_dtype ? "kv-dtype" : NULL;
    if (!given) return 0;
    return err_set_param(
        err, ERR_INVALID, given,
        "--%s: %s is a classifier, which is computed in f32 and without a KV cache", given, dir);
}

struct head {
    struct compute c;
    struct net net;
    float *w;
    struct tokenizer *tok;
    struct items items;
    struct backprop *b;
};

static int open_head(struct head *h, const struct tool *t, const char *dir,
                     const struct eval_task *e, struct err *err)
{
    int first = 0, rc = check_flags(dir, &e->session, err);
    if (rc) return rc;
    h->c.k = kernels_choose(&t->cpu, e->session.kernels);
    if (!h->c.k)
        return err_set_param(err, ERR_INVALID, "kernels",
                             "--kernels: \"%.40s\" is unknown or cannot run here",
                             e->session.kernels);
    rc = pool_new(&h->c.pool, cpu_threads(&t->cpu, (int)e->session.threads), err);
    if (!rc) rc = check_size(dir, e, err);
    if (!rc) rc = items_first(dir, eval_classes_of(e->task), &first, err);
    if (!rc) rc = net_open(&h->net, &h->w, dir, ITEMS_CLASSES, err);
    if (!rc) rc = tokenizer_open(&h->tok, dir, err);
    if (!rc) rc = net_fits_tokenizer(&h->net, tokenizer_vocab(h->tok), dir, err);
    if (!rc)
        rc = items_open(&h->items, e->task, e->data, first, h->tok, (size_t)h->net.cfg.n_positions,
                        e->limit, err);
    struct backprop_options o = {.sequences = (size_t)e->session.max_batch,
                                 .length = h->items.longest};
    return rc ? rc : backprop_new(&h->b, &h->net, &o, &h->c, err);
}

static void close_head(struct head *h)
{
    backprop_free(h->b);
    items_close(&h->items);
    tokenizer_close(h->tok);
    if (h->w) mem_unmap(h->w, h->net.floats * sizeof *h->w);
    net_release(&h->net);
    pool_free(h->c.pool);
}

static int run(struct head *h, const struct tool *t, const struct eval_task *e,
               struct classify *out, struct err *err)
{
    struct progress bar;
    size_t batch = (size_t)e->session.max_batch, n = h->items.n;
    int32_t *tokens = mem_alloc(batch * h->items.longest * sizeof *tokens);
    int32_t *targets = mem_alloc(batch * h->items.longest * sizeof *targets);
    int rc = 0;
    progress_start(&bar, t->log, e->task);
    for (size_t i = 0; !rc && i < n; i += batch) {
        size_t end = i + batch < n ? i + batch : n;
        classify_some(h->b, &h->net, h->w, &h->items, i, end, tokens, targets, out);
        progress_set(&bar, (double)end / (double)n, NULL);
        if (tool_stopped(t)) rc = tool_interrupted(err);
    }
    progress_end(&bar);
    free(tokens);
    free(targets);
    return rc;
}

int eval_head(const struct tool *t, const char *dir, const struct eval_task *e, struct err *err)
{
    struct head h = {0};
    struct classify c = {0};
    int rc = open_head(&h, t, dir, e, err);
    uint64_t start = clock_ns();
    if (!rc) rc = run(&h, t, e, &c, err);
    double seconds = (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
    if (!rc) eval_task_print(e, &c.counts, "fine-tuned", h.items.cut, seconds, t->out);
    close_head(&h);
    return rc;
}
