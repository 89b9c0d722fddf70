/* Random weights for a whole checkpoint. Box-Muller on one thread takes longer than the disk, so the
 * numbers are made in pieces of PIECE floats by the pool, a batch of pieces at a time. Each piece has
 * a random stream of its own, (tensor, piece): whichever thread makes it, the numbers are the same. */
#include "models/init_weights.h"

#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/gpt2/safetensors.h"
#include "models/checkpoint.h"
#include "models/progress.h"

enum { PIECE = 1 << 16, BATCH = 64 }; /* 16 MB of floats at a time */

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

static int write_tensor(const struct tool *tool, const struct init_weights *w,
                        struct st_writer *out, size_t index, const struct checkpoint_tensor *t,
                        float *batch, struct err *err)
{
    bool random = t->kind == CHECKPOINT_WEIGHT || w->random_biases;
    struct fill f = {.dst = batch,
                     .mean = t->kind == CHECKPOINT_NORM_WEIGHT ? 1 : 0,
                     .std = random ? (float)INIT_STD : 0,
                     .seed = w->seed,
                     .tensor = index};
    int rc = 0;
    for (size_t at = 0; !rc && at < t->elements; at += f.n) {
        if (tool_stopped(tool)) return tool_interrupted(err);
        size_t left = t->elements - at;
        f.n = left < (size_t)PIECE * BATCH ? left : (size_t)PIECE * BATCH;
        f.first_piece = at / PIECE;
        pool_for(w->pool, (f.n + PIECE - 1) / PIECE, 1, fill_pieces, &f);
        rc = st_writer_data(out, batch, f.n, err);
    }
    return rc;
}

static int write_tensors(const struct tool *t, const struct init_weights *w, struct st_writer *out,
                         float *batch, struct err *err)
{
    size_t n = checkpoint_count(w->cfg, w->untied), written = 0;
    double total = (double)checkpoint_params(w->cfg, w->untied);
    struct progress bar;
    progress_start(&bar, t->log, "writing weights");
    int rc = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        struct checkpoint_tensor tensor;
        checkpoint_tensor_at(w->cfg, w->untied, i, &tensor);
        rc = write_tensor(t, w, out, i, &tensor, batch, err);
        written += tensor.elements;
        progress_set(&bar, (double)written / total, NULL);
    }
    progress_end(&bar);
    return rc;
}

int init_weights_write(const struct tool *t, const struct init_weights *w, const char *path,
                       struct err *err)
{
    struct st_writer *out = NULL;
    void *batch = NULL;
    const size_t batch_bytes = (size_t)PIECE * BATCH * sizeof(float);
    int rc = mem_map(&batch, batch_bytes, "a batch of random weights", err);
    if (rc) goto out;
    rc = st_writer_open(&out, path, err);
    if (rc) goto out;
    for (size_t i = 0; i < checkpoint_count(w->cfg, w->untied); i++) {
        struct checkpoint_tensor tensor;
        checkpoint_tensor_at(w->cfg, w->untied, i, &tensor);
        st_writer_declare(out, tensor.name, w->dtype, tensor.shape, tensor.n_dims);
    }
    rc = st_writer_begin(out, err);
    if (rc == 0) rc = write_tensors(t, w, out, batch, err);
    if (rc == 0) {
        rc = st_writer_finish(out, err);
        out = NULL;
    }
out:
    st_writer_abort(out);
    mem_unmap(batch, batch_bytes);
    return rc;
}
