/* Second moments of layer inputs. The inputs themselves would be gigabytes; all that a least-squares fit
 * of the layer needs of them is X^T X, which has a fixed size and just adds up. They are taken from
 * the model's own forward pass through its tap, so that what is measured is what the engine computes.
 *
 * X^T X in double costs about as much as the model itself, so that it is split over the pool by columns
 * of X: the tap is called by the pool's owner between two steps of the forward pass. */
#include "models/moments.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/model.h"
#include "engine/gpt2/tokenizer.h"
#include "engine/ttm/linalg.h"
#include "models/progress.h"

enum { COLUMNS = 128 }; /* of X^T X's rows that a worker computes in one go */

/* What reaches each kind of layer, as the tap calls it. */
static const char *const inputs[LAYERS_PER_BLOCK] = {"ln_1", "attn", "ln_2", "act"};

struct run {
    const struct layers *layers;
    struct moments *out;
    struct compute compute;
    struct gpt2 *model;
    struct kv_store kv;
    struct tokens tokens;
    int32_t *blocks; /* (blocks of a window) */
    int window;
    float *hidden, *scratch; /* (window, C) and the engine's */
    void *memory;            /* of both */
    size_t memory_bytes;
    double *x;      /* (window, widest layer) */
    double *pieces; /* (threads, window, COLUMNS) */
};

struct product {
    const struct run *run;
    double *s;
    size_t rows, cols;
};

static void add_columns(void *arg, size_t begin, size_t end, int worker)
{
    const struct product *p = arg;
    double *piece = p->run->pieces + (size_t)worker * (size_t)p->run->window * COLUMNS;
    for (size_t i = begin; i < end; i++) {
        size_t at = i * COLUMNS, n = p->cols - at < COLUMNS ? p->cols - at : COLUMNS;
        for (size_t r = 0; r < p->rows; r++)
            memcpy(piece + r * n, p->run->x + r * p->cols + at, n * sizeof *piece);
        la_gemm(true, false, n, p->cols, p->rows, 1, piece, p->run->x, 1, p->s + at * p->cols);
    }
}

static void tap(void *arg, int block, const char *what, const float *data, size_t rows, size_t cols)
{
    struct run *r = arg;
    for (int k = 0; block >= 0 && k < LAYERS_PER_BLOCK; k++) {
        double *s = r->out->s[(size_t)block * LAYERS_PER_BLOCK + (size_t)k];
        if (!s || strcmp(what, inputs[k]) != 0) continue;
        struct product p = {.run = r, .s = s, .rows = rows, .cols = cols};
        for (size_t i = 0; i < rows * cols; i++)
            r->x[i] = (double)data[i];
        pool_for(r->compute.pool, (cols + COLUMNS - 1) / COLUMNS, 1, add_columns, &p);
    }
}

static int read_tokens(struct run *r, const struct score_text *text, size_t max_tokens,
                       struct err *err)
{
    struct tokenizer *t = NULL;
    int rc = tokenizer_open(&t, r->layers->dir, err);
    if (rc) return rc;
    tokenizer_encode(t, text->bytes.data, text->bytes.len, true, &r->tokens);
    tokenizer_close(t);
    if (max_tokens && r->tokens.n > max_tokens) r->tokens.n = max_tokens;
    if (r->tokens.n == 0)
        return err_set(err, ERR_INVALID, "%s: the text has no tokens", text->path);
    for (size_t i = 0; i < r->tokens.n; i++)
        if (r->tokens.ids[i] >= r->layers->cfg.vocab_size)
            return err_set(err, ERR_INVALID,
                           "%s: the tokenizer gives id %d, the model has ids up to %d",
                           r->layers->dir, (int)r->tokens.ids[i], r->layers->cfg.vocab_size - 1);
    return 0;
}

static int prepare_model(struct run *r, const struct tool *t, int threads, struct err *err)
{
    const struct gpt2_config *c = &r->layers->cfg;
    r->compute.k = kernels_choose(&t->cpu, NULL);
    int rc = pool_new(&r->compute.pool, cpu_threads(&t->cpu, threads), err);
    if (!rc) rc = gpt2_open(&r->model, r->layers->dir, &r->compute, NULL, NULL, err);
    if (rc) return rc;
    r->window = r->tokens.n < (size_t)c->n_positions ? (int)r->tokens.n : c->n_positions;
    int n = (r->window + KV_BLOCK - 1) / KV_BLOCK;
    rc = kv_store_init(&r->kv, c, DTYPE_F32, n, err);
    if (rc) return rc;
    r->blocks = mem_alloc((size_t)n * sizeof *r->blocks);
    for (int i = 0; i < n; i++)
        r->blocks[i] = i;
    size_t hidden = mem_lines((size_t)r->window * (size_t)c->n_embd);
    size_t scratch = gpt2_scratch_floats(r->model, r->window, pool_threads(r->compute.pool));
    r->memory_bytes = (hidden + scratch) * sizeof *r->hidden;
    rc = mem_map(&r->memory, r->memory_bytes, "scratch for the calibration", err);
    r->hidden = r->memory;
    r->scratch = rc ? NULL : r->hidden + hidden;
    return rc;
}

static int prepare_moments(struct run *r, const bool *chosen, struct err *err)
{
    size_t widest = 1, window = (size_t)r->window;
    int rc = 0;
    for (size_t i = 0; !rc && i < r->layers->n; i++) {
        size_t in = (size_t)r->layers->layer[i].in;
        if (!chosen[i]) continue;
        if (in > widest) widest = in;
        rc = la_alloc(&r->out->s[i], in * in, r->layers->layer[i].name, err);
    }
    if (!rc) rc = la_alloc(&r->x, window * widest, "calibration", err);
    size_t threads = (size_t)pool_threads(r->compute.pool);
    return rc ? rc : la_alloc(&r->pieces, threads * window * COLUMNS, "calibration", err);
}

static int read_text(struct run *r, const struct tool *t, struct err *err)
{
    struct progress bar;
    int rc = 0;
    progress_start(&bar, t->log, "calibrating");
    for (size_t at = 0, n; !rc && at < r->tokens.n; at += n) {
        n = r->tokens.n - at < (size_t)r->window ? r->tokens.n - at : (size_t)r->window;
        struct gpt2_seq seq = {.tokens = r->tokens.ids + at, .n = (int)n, .blocks = r->blocks};
        struct gpt2_step step = {.seqs = &seq, .n_seqs = 1, .tap = tap, .tap_arg = r};
        gpt2_forward(r->model, &r->compute, &r->kv, &step, r->hidden, r->scratch);
        progress_set(&bar, (double)(at + n) / (double)r->tokens.n, NULL);
        if (tool_stopped(t)) rc = tool_interrupted(err);
    }
    progress_end(&bar);
    r->out->tokens = r->tokens.n;
    return rc;
}

int moments_collect(struct moments *out, const struct tool *t, const struct layers *l,
                    const bool *chosen, const struct score_text *text, size_t max_tokens,
                    int threads, struct err *err)
{
    struct run r = {.layers = l, .out = out};
    *out = (struct moments){.n = l->n, .s = mem_calloc(l->n, sizeof *out->s)};
    int rc = read_tokens(&r, text, max_tokens, err);
    if (!rc) rc = prepare_model(&r, t, threads, err);
    if (!rc) rc = prepare_moments(&r, chosen, err);
    if (!rc) rc = read_text(&r, t, err);
    mem_unmap(r.memory, r.memory_bytes);
    kv_store_release(&r.kv);
    gpt2_close(r.model);
    pool_free(r.compute.pool);
    tokens_release(&r.tokens);
    free(r.blocks);
    free(r.x);
    free(r.pieces);
    if (rc) moments_release(out);
    return rc;
}

void moments_release(struct moments *m)
{
    for (size_t i = 0; i < m->n; i++)
        free(m->s[i]);
    free(m->s);
    *m = (struct moments){0};
}
