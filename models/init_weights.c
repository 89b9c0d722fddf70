/* Random weights for a whole checkpoint. Box-Muller on one thread takes longer than the disk, so the
 * numbers are made in pieces of PIECE floats by the pool, a batch of pieces at a time. Each piece has
 * a random stream of its own, (tensor, piece): whichever thread makes it, the numbers are the same. */
#include "models/init_weights.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/gpt2/safetensors.h"
#include "engine/ttm/ttm.h"
#include "models/init_tensors.h"
#include "models/progress.h"

enum { PIECE = 1 << 16, BATCH = 64 }; /* 16 MB of floats at a time */

/* Beyond every (tensor, piece). */
#define TTM_STREAMS ((uint64_t)1 << 60)

struct fill {
    float *dst;
    size_t n;           /* floats of this batch */
    size_t first_piece; /* of the tensor */
    float mean, std;
    uint64_t seed, tensor;
};

static void fill_pieces(void *arg, size_t begin, size_t end, int worker)
{
    const struct fill *f = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        size_t at = i * PIECE;
        size_t n = f->n - at < PIECE ? f->n - at : PIECE;
        if (f->std > 0) {
            rng_normal_fill(f->dst + at, n, (double)f->std, f->seed,
                            f->tensor << 32 | (f->first_piece + i));
        } else {
            memset(f->dst + at, 0, n * sizeof *f->dst);
        }
        for (size_t k = 0; f->mean != 0 && k < n; k++)
            f->dst[at + k] += f->mean;
    }
}

/* Where a batch of numbers lies, and the TTM layer whose cores are being written. */
struct writing {
    const struct tool *tool;
    const struct init_weights *w;
    struct st_writer *out;
    float *batch; /* (PIECE * BATCH) */
    struct ttm ttm;
};

static int write_core(struct writing *q, const struct init_tensor *t, struct err *err)
{
    int rc = 0;
    if (t->core == 0) { /* the layer's cores come one after the other */
        ttm_release(&q->ttm);
        rc = ttm_init(&q->ttm, &t->ttm, t->name, err);
        if (!rc)
            rc = ttm_random(&q->ttm, INIT_STD, q->w->seed, TTM_STREAMS + t->stream, t->name, err);
    }
    return rc ? rc : st_writer_data(q->out, q->ttm.core[t->core], t->elements, err);
}

static int write_dense(struct writing *q, const struct init_tensor *t, struct err *err)
{
    bool random = t->kind == CHECKPOINT_WEIGHT || q->w->random_biases;
    struct fill f = {.dst = q->batch,
                     .mean = t->kind == CHECKPOINT_NORM_WEIGHT ? 1 : 0,
                     .std = random ? (float)INIT_STD : 0,
                     .seed = q->w->seed,
                     .tensor = t->stream};
    int rc = 0;
    for (size_t at = 0; !rc && at < t->elements; at += f.n) {
        if (tool_stopped(q->tool)) return tool_interrupted(err);
        size_t left = t->elements - at;
        f.n = left < (size_t)PIECE * BATCH ? left : (size_t)PIECE * BATCH;
        f.first_piece = at / PIECE;
        pool_for(q->w->pool, (f.n + PIECE - 1) / PIECE, 1, fill_pieces, &f);
        rc = st_writer_data(q->out, q->batch, f.n, err);
    }
    return rc;
}

static size_t count_params(const struct init_tensor *list, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += list[i].elements;
    return sum;
}

static int write_tensors(struct writing *q, const struct init_tensor *list, size_t n,
                         struct err *err)
{
    size_t written = 0;
    double total = (double)count_params(list, n);
    struct progress bar;
    progress_start(&bar, q->tool->log, "writing weights");
    int rc = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        if (tool_stopped(q->tool))
            rc = tool_interrupted(err);
        else
            rc = list[i].core < 0 ? write_dense(q, &list[i], err) : write_core(q, &list[i], err);
        written += list[i].elements;
        progress_set(&bar, (double)written / total, NULL);
    }
    progress_end(&bar);
    ttm_release(&q->ttm);
    return rc;
}

int init_weights_params(const struct init_weights *w, size_t *params, struct err *err)
{
    struct init_tensor *list;
    size_t n;
    int rc = init_tensors(&list, &n, w, err);
    if (rc) return rc;
    *params = count_params(list, n);
    free(list);
    return 0;
}

int init_weights_write(const struct tool *t, const struct init_weights *w, const char *path,
                       struct err *err)
{
    struct writing q = {.tool = t, .w = w};
    struct init_tensor *list = NULL;
    void *batch = NULL;
    size_t n = 0;
    const size_t batch_bytes = (size_t)PIECE * BATCH * sizeof(float);
    int rc = init_tensors(&list, &n, w, err);
    if (rc == 0) rc = mem_map(&batch, batch_bytes, "a batch of random weights", err);
    if (rc) goto out;
    q.batch = batch;
    rc = st_writer_open(&q.out, path, err);
    if (rc) goto out;
    for (size_t i = 0; i < n; i++)
        st_writer_declare(q.out, list[i].name, w->dtype, list[i].shape, list[i].n_dims);
    rc = st_writer_begin(q.out, err);
    if (rc == 0) rc = write_tensors(&q, list, n, err);
    if (rc == 0) {
        rc = st_writer_finish(q.out, err);
        q.out = NULL;
    }
out:
    st_writer_abort(q.out);
    mem_unmap(batch, batch_bytes);
    free(list);
    return rc;
}
